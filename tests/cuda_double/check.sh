#!/bin/bash
# check.sh [PROGRAM]: the whole check of a program that was built with `cargo build --features cuda,cudnn` (which is
# PROGRAM's default), on doubles that it builds first. With LONG=1 more networks. Ends with a count; fails where anything is
# wrong, and then keeps the logs.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export RESNETD=${1:-$root/target/debug/resnetd}
MODEL=resnet20-cifar10
export DOUBLES=${DOUBLES:-$root/target/cuda_double}
"$here/build.sh" "$DOUBLES" || exit 1
logs=$(mktemp -d)
passed=0 failed=0
declare -A servers=() ports=()

finish() {
  for server in "${servers[@]}"; do kill "$server" 2>/dev/null; done
  wait
}
trap finish EXIT

resnetd() { "$here/run.sh" "$RESNETD" "$@"; }

# report NAME STATUS WORDS...
report() {
  local name=$1 status=$2
  shift 2
  if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    echo "ok    $name: $*"
  else
    failed=$((failed + 1))
    echo "WRONG $name: $*"
  fi
}

# What the doubles say of a log must be nothing but that nothing is left on the card. The real cuDNN keeps objects of
# cuBLASLt for itself.
clean() { # LOG
  local wrong='FATAL|BUG|LEAK|note:|panicked' right='ends with nothing left'
  [ -z "${DOUBLE_CUDNN_REAL:-}" ] || wrong='FATAL|BUG|note:|panicked' right='cudnn descriptors 0 .* device blocks 0 '
  ! grep -hE "$wrong" "$1" | cut -c1-300 | sort | uniq -c | head -5 | grep . && grep -q "$right" "$1"
}

settings() { env | { grep '^DOUBLE_' || true; } | { grep -v '/' || true; } | sort | tr '\n' ' '; }

bench() { # ARCHITECTURE BATCH PRECISION...: the logits of the fused CUDA engine against the fused CPU engine's
  local architecture=$1 batch=$2 reference=$logs/cpu.$1.$2 precision bound log words
  shift 2
  [ -e "$reference" ] || resnetd bench --architecture "$architecture" --device cpu --engine fused --batch "$batch" \
    --seconds 0.1 --dump "$reference" >"$reference.log" 2>&1
  for precision; do
    case $precision in f32 | tf32) bound=1e-5 ;; *) bound=1e-2 ;; esac
    log=$(mktemp "$logs/bench.$architecture.XXXX")
    timeout 600 "$here/run.sh" "$RESNETD" bench --architecture "$architecture" --device cuda --engine fused \
      --precision "$precision" --batch "$batch" --seconds 0.05 --dump "$log.dump" --cuda-cache "$log.records" \
      >"$log" 2>&1 && words=$(python3 "$here/compare.py" "$log.dump" "$reference" $bound 2>&1) && clean "$log"
    report "$architecture, batch $batch, $precision" $? "$(settings)${words:-see $log}"
    words=
  done
}

layers() { # ARCHITECTURE BATCH PRECISION LEAST: the real cuDNN takes at least LEAST layers as fused; nothing is computed
  local log=$logs/layers.$1.$3 count
  DOUBLE_COMPUTE=0 resnetd bench --architecture "$1" --device cuda --engine fused --precision "$3" --batch "$2" \
    --seconds 0.01 --profile --cuda-cache "$log.records" >"$log" 2>&1 && clean "$log"
  local status=$?
  count=$(grep -c ' fused ' "$log")
  [ $status = 0 ] && [ "$count" -ge "$4" ]
  report "$1, batch $2, $3, planned by the real cuDNN" $? "$count fused layers"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() { # NAME ARGUMENTS...: a server; waits until it is ready
  local name=$1
  shift
  ports[$name]=$(free_port)
  # not by the function, whose process would be a shell that waits for the server
  "$here/run.sh" "$RESNETD" serve --http-addr "127.0.0.1:${ports[$name]}" --grpc-addr "127.0.0.1:$(free_port)" --drain-delay 100ms "$@" \
    >"$logs/$name" 2>&1 &
  servers[$name]=$!
  for _ in $(seq 240); do
    sleep 0.5
    curl -sf "127.0.0.1:${ports[$name]}/readyz" >/dev/null && return 0
    kill -0 "${servers[$name]}" 2>/dev/null || return 1
  done
  return 1
}

stop() { # NAME
  kill "${servers[$1]}" 2>/dev/null
  wait "${servers[$1]}"
  unset "servers[$1]"
}

compare() { # NAME SECONDS BOUND WHAT: a server under clients against the reference
  local words
  words=$(python3 "$here/client.py" "${ports[$1]}" "${ports[reference]}" "$2" "$3" 2>&1)
  report "$4" $? "$words"
}

order() { # NAME load|unload WHAT
  local status
  status=$(curl -s -o /dev/null -w '%{http_code}' -X POST \
    "127.0.0.1:${ports[$1]}/v2/repository/models/$MODEL/$2")
  [ "$status" = 200 ]
  report "$3" $? "status $status"
}

fused=(--engine fused --max-batch 8 --cuda-cache "$logs/records")

# ---- logits, with every kind of algorithm and of card ----
for batch in 1 3 5; do bench resnet20 $batch f32 tf32 f16 bf16; done
DOUBLE_FORBID=fused bench resnet20 3 f32 f16 bf16
DOUBLE_FORBID=bare DOUBLE_SEED=2 bench resnet20 3 f32 f16 bf16
DOUBLE_FORBID=product DOUBLE_SEED=3 bench resnet20 3 f32 f16
DOUBLE_DEFER=0 bench resnet20 3 f16
DOUBLE_POOLS=0 bench resnet20 3 f16
DOUBLE_POISON_MEMSET=1 DOUBLE_LOOK=1 bench resnet20 3 f16 f32
export DOUBLE_QUICK=1
for architecture in preact_resnet110 nin_cifar wrn16_4; do bench $architecture 2 f16 f32; done
if [ -n "${LONG:-}" ]; then
  for architecture in googlenet resnet18 resnext50_32x4d inception_v3 resnext29_8x64d alexnet resnetv2_50 \
    inception_resnet_v2 vgg11; do
    bench $architecture 1 f16 f32
    DOUBLE_FORBID=fused bench $architecture 1 bf16
  done
fi
unset DOUBLE_QUICK

# ---- descriptors, heuristics and plans of the real cuDNN for a card that is described ----
export DOUBLE_CUDNN_REAL=$CUDNN_LIB/lib/libcudnn_graph.so.9 DOUBLE_DEVICE=$here/h100.json
bench resnet20 3 f32 tf32 f16 bf16
layers resnet50 8 f16 40
unset DOUBLE_CUDNN_REAL DOUBLE_DEVICE

# ---- servers ----
start reference --device cpu --engine fused || { report "CPU server" 1 "see $logs/reference"; exit 1; }
for precision in f32 f16; do
  case $precision in f32) bound=1e-4 ;; *) bound=1e-2 ;; esac
  start server --device cuda "${fused[@]}" --precision $precision
  report "server, $precision: start" $? "ready"
  compare server 4 $bound "server, $precision: clients"
  for i in 1 2; do order server load "server, $precision: load $i"; done
  compare server 2 $bound "server, $precision: clients after loads"
  order server unload "server, $precision: unload"
  for _ in $(seq 20); do
    grep -q 'ends with nothing left' "$logs/server" && break
    sleep 0.5
  done
  words=$(clean "$logs/server")
  report "server, $precision: nothing left once unloaded" $? "$words"
  stop server
  words=$(clean "$logs/server")
  report "server, $precision: end" $? "$words"
done

before=$(cat "$logs"/records/* | md5sum)
start server --device cuda "${fused[@]}" --precision f16
stop server
[ "$before" = "$(cat "$logs"/records/* | md5sum)" ]
report "records reused" $? "$(cat "$logs"/records/* | wc -l) lines"

DOUBLE_STICKY=$logs/lost DOUBLE_STICKY_DEVICE=1 DOUBLE_DEVICES=2 \
  start two --device cuda:all "${fused[@]}" --precision f16
(
  sleep 3
  touch "$logs/lost"
) &
compare two 6 1e-2 "one of two cards lost: clients"
lost=$(curl -s "127.0.0.1:${ports[two]}/metrics" | grep '^resnetd_devices_lost_total.* 1$' | head -1)
stop two
! grep -hE 'FATAL|BUG|panicked' "$logs/two" && grep -q 'the device is lost' "$logs/two" && [ -n "$lost" ]
report "one of two cards lost: told" $? "$lost"

DOUBLE_MEM_MB=150 start small --device cuda --engine fused --precision f16 --cuda-cache "$logs/records"
grep -q 'the model needs' "$logs/small"
report "out of memory" $? "$(grep -o 'the model needs.*' "$logs/small" | head -1 | cut -c1-200)"

stop reference
echo "$passed checks passed, $failed failed"
if [ $failed != 0 ]; then
  echo "logs: $logs"
  exit 1
fi
rm -r "$logs"
