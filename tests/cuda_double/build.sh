#!/bin/bash
# build.sh [FOLDER]: compiles the doubles into FOLDER (target/cuda_double). Needs CUDA_HOME and CUDNN_LIB for their headers,
# as the Rust build does, and the program (RESNETD, target/debug/resnetd): functions that it links to and that are not
# doubled become stubs that end the process with their name.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
source=$root/tests/cuda_double
out=${1:-$root/target/cuda_double}
program=${RESNETD:-$root/target/debug/resnetd}
: "${CUDA_HOME:?names no CUDA toolkit}" "${CUDNN_LIB:?names no folder of cuDNN}"
[ -e "$program" ] || { echo "there is no $program: cargo build --features cuda,cudnn, or set RESNETD" >&2; exit 1; }
mkdir -p "$out/objects"
objects=$out/objects

compile() { # OPTIMISATION NAME...
  local level=$1 name
  shift
  for name; do
    g++ -std=c++17 -g "$level" -march=native -Wall -Wextra -fPIC -fvisibility=hidden -fno-strict-aliasing \
      -I"$CUDA_HOME/include" -I"$CUDNN_LIB/include" -c "$source/$name.cpp" -o "$objects/$name.o"
  done
}

defined() { nm --defined-only "$@" | awk '$2 == "T" { print $3 }' | sort -u; }

wanted() { # PATTERN: what the program links to
  nm -D --undefined-only "$program" | awk '{ print $2 }' | sed 's/@.*//' | grep -E "$1" | sort -u
}

driver() { # every function of the driver: the real cuDNN looks more of them up than the program links to
  grep -ohE '\bcu[A-Z]\w+' "$CUDA_HOME/include/cuda.h" | sort -u
}

stubs() { # BODY: C functions of the names on standard input; & is the name
  echo '#include <stdio.h>'
  echo '#include <stdlib.h>'
  sed "s/.*/__attribute__((visibility(\"default\"))) int &(void) { $1 }/"
}

link() { # LIBRARY PATTERN OBJECT...: with stubs of the functions of that pattern that are wanted and not defined
  local library=$1 pattern=$2 with=()
  shift 2
  [ "$library" = libcuda.so.1 ] || with=(-L"$out" -l:libcuda.so.1)
  { wanted "$pattern" || true; [ "$library" != libcuda.so.1 ] || driver; } | sort -u | comm -23 - <([ $# = 0 ] || defined "$@") |
    stubs 'fprintf(stderr, "double: FATAL & is not doubled\\n"); abort();' >"$objects/stubs.c"
  gcc -fPIC -c "$objects/stubs.c" -o "$objects/$library.stubs.o"
  # the program wants the libraries' symbols with their versions
  echo "$library { global: *; };" >"$objects/version"
  [ "$library" = libcuda.so.1 ] || with+=(-Wl,--version-script="$objects/version")
  g++ -shared -Wl,-soname,"$library" "$@" "$objects/$library.stubs.o" -o "$out/$library" "${with[@]}" -ldl -lpthread
}

# as the host check of the kernels compiles them
g++ -std=c++17 -O2 -shared -fPIC -fvisibility=hidden -fno-strict-aliasing -ffp-contract=off -fsanitize=alignment \
  -fsanitize-undefined-trap-on-error -w -I"$root" "$source/kernels.cpp" -o "$out/libkernels.so"
compile -O1 report context memory streams modules
link libcuda.so.1 '^cu[A-Z]' "$objects"/{report,context,memory,streams,modules}.o
compile -O3 cudnn_descriptors cudnn_graph cudnn_engines cudnn_real cublaslt
link libcudnn.so.9 '^cudnn' "$objects"/cudnn_{descriptors,graph,engines,real}.o
# the real cuDNN links to the rest of cuBLASLt; it is told that nothing of it is supported
real=$(ls "$CUDA_HOME"/lib*/libcublasLt.so.1? | head -1)
nm -D --defined-only "$real" | awk '$2 == "T" { print $3 }' | sed 's/@.*//' | grep '^cublasLt' | sort -u |
  comm -23 - <(defined "$objects/cublaslt.o") | stubs 'return 15;' >"$objects/unsupported.c"
gcc -fPIC -c "$objects/unsupported.c" -o "$objects/unsupported.o"
link libcublasLt.so.13 '^cublasLt' "$objects"/{cublaslt,unsupported}.o
link libcublas.so.13 '^cublas[A-KM-Z]'
link libcurand.so.10 '^curand'
