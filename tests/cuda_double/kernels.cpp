// libkernels.so: the engine's own kernels for the host, and the loop that launches those whose threads never meet.
#include "tests/cuda_kernels/shim.h"

extern "C" __attribute__((visibility("default"))) const char *
loop_launch(void (*kernel)(const void *), const void *arguments, unsigned blocks, unsigned threads, bool descending) {
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned i = 0; i < blocks; i++) {
    blockIdx = {descending ? blocks - 1 - i : i, 0, 0};
    for (unsigned thread = 0; thread < threads; thread++) {
      threadIdx = {thread, 0, 0};
      kernel(arguments);
    }
  }
  return nullptr;
}

#include "src/engine/cuda/device/kernels.cu"
