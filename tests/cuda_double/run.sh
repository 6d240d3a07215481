#!/bin/bash
# run.sh PROGRAM ARGUMENTS...: a program on the doubles (DOUBLES, target/cuda_double) in place of the driver, cuDNN,
# cuBLASLt, cuBLAS and cuRAND. The CUDA runtime and nvrtc are the toolkit's own.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export LD_LIBRARY_PATH=${DOUBLES:-$root/target/cuda_double}:$CUDA_HOME/lib:$CUDA_HOME/lib64:$CUDNN_LIB/lib
exec "$@"
