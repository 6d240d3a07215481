// CUDA C++ for the host: what kernels.cu uses of the language and its headers, in plain C++.
//
// A block's threads are coroutines. Barriers and shuffles hand over to a scheduler that lets them go on only once every
// thread of the block, or lane of the warp, has come to one; it runs threads in ascending or descending order, so that a
// result that hangs on a barrier that is missing comes out wrong in one of them. Blocks run one after another.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <memory>

#define __device__
#define __forceinline__ inline
#define __shared__ static thread_local

// A kernel is a symbol that takes the address of its arguments; NAME_size is their size.
#define KERNEL(name, Arguments, ...)                                                                     \
  extern "C" __attribute__((visibility("default"))) const size_t name##_size = sizeof(Arguments);       \
  extern "C" __attribute__((visibility("default"))) void name(const void *arguments) {                  \
    __VA_ARGS__(*static_cast<const Arguments *>(arguments));                                             \
  }

struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline void __stwb(uint2 *to, uint2 value) { *to = value; }
inline void __stwb(uint4 *to, uint4 value) { *to = value; }
struct dim3 { unsigned int x, y, z; };

// ---- half and bfloat16: bits, and conversions that round to nearest even ----

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

namespace shim {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace shim

inline unsigned __float_as_uint(float value) { return shim::bits_of(value); }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

inline float __half2float(__half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  if (exponent == 31) return shim::float_of(sign | 0x7f800000 | mantissa << 13);
  if (exponent != 0) return shim::float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = float(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  uint32_t bits = shim::bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  // halfway between the largest half and what would be the next one
  if (bits >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
  if (bits < 0x38800000) {
    // subnormal: beside 0.5 a float's last bit is worth as much as a subnormal half's
    return {uint16_t(sign | (shim::bits_of(shim::float_of(bits) + 0.5f) - 0x3f000000))};
  }
  bits += 0x0fff + (bits >> 13 & 1) - (112u << 23);
  return {uint16_t(sign | bits >> 13)};
}

inline float __bfloat162float(__nv_bfloat16 value) { return shim::float_of(uint32_t(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const uint32_t bits = shim::bits_of(value);
  if (value != value) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// ---- threads ----

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 32 * 1024;

enum State { READY, AT_SHUFFLE, AT_BARRIER, DONE };

struct Thread {
  ucontext_t context;
  State state;
  uint64_t shuffled[2];  // what it gives the lanes of its warp, in two places in turn: who goes on overwrites nothing
  unsigned shuffles;
};

struct Machine {
  Thread threads[MOST_THREADS];
  ucontext_t scheduler;
  unsigned running;
  void (*kernel)(const void *);
  const void *arguments;
  char stacks[MOST_THREADS][STACK];
};

static thread_local std::unique_ptr<Machine> machine;

static void thread_main() {
  machine->kernel(machine->arguments);
  machine->threads[machine->running].state = DONE;
  // the thread's end goes back to the scheduler
}

// Hands over until the scheduler finds that all who must have come to the same kind of place.
static __attribute__((noinline)) void wait_at(State place) {
  Thread &self = machine->threads[machine->running];
  self.state = place;
  swapcontext(&self.context, &machine->scheduler);
}

static void resume(unsigned thread) {
  machine->running = thread;
  threadIdx = {thread, 0, 0};
  swapcontext(&machine->scheduler, &machine->threads[thread].context);
}

// Runs threads first..last until each is at a barrier or done; false where a shuffle waits for a lane that does not come.
static bool run_warp(unsigned first, unsigned last, bool descending) {
  for (;;) {
    unsigned shuffling = 0;
    for (unsigned i = first; i < last; i++) {
      const unsigned thread = descending ? first + last - 1 - i : i;
      if (machine->threads[thread].state == READY) resume(thread);
      shuffling += machine->threads[thread].state == AT_SHUFFLE;
    }
    if (shuffling == 0) return true;
    if (shuffling != WARP) return false;
    for (unsigned thread = first; thread < last; thread++) machine->threads[thread].state = READY;
  }
}

static void prepare(unsigned thread) {
  Thread &one = machine->threads[thread];
  getcontext(&one.context);
  one.context.uc_stack.ss_sp = machine->stacks[thread];
  one.context.uc_stack.ss_size = STACK;
  one.context.uc_link = &machine->scheduler;
  makecontext(&one.context, thread_main, 0);
  one.state = READY;
  one.shuffles = 0;
}

static const char *run_block(unsigned threads, bool descending) {
  for (unsigned thread = 0; thread < threads; thread++) prepare(thread);
  const unsigned warps = (threads + WARP - 1) / WARP;
  for (;;) {
    for (unsigned i = 0; i < warps; i++) {
      const unsigned first = WARP * (descending ? warps - 1 - i : i);
      const unsigned last = first + WARP < threads ? first + WARP : threads;
      if (!run_warp(first, last, descending)) return "a shuffle that not all lanes of a warp come to";
    }
    unsigned done = 0;
    for (unsigned thread = 0; thread < threads; thread++) done += machine->threads[thread].state == DONE;
    if (done == threads) return nullptr;
    if (done != 0) return "a barrier that not all threads of a block come to";
    for (unsigned thread = 0; thread < threads; thread++) machine->threads[thread].state = READY;
  }
}

}  // namespace shim

inline void __syncthreads() { shim::wait_at(shim::AT_BARRIER); }

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int with) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one register or two");
  using namespace shim;
  if (mask != 0xffffffffu) __builtin_trap();  // only whole warps are known here
  Thread &self = machine->threads[machine->running];
  const Thread &other = machine->threads[machine->running ^ unsigned(with)];
  const unsigned place = self.shuffles++ % 2;
  memcpy(&self.shuffled[place], &value, sizeof(T));
  wait_at(AT_SHUFFLE);
  memcpy(&value, &other.shuffled[place], sizeof(T));
  return value;
}

// Runs a kernel; returns what its threads did wrong, or null.
extern "C" __attribute__((visibility("default"))) const char *shim_launch(void (*kernel)(const void *),
                                                                          const void *arguments, unsigned blocks,
                                                                          unsigned threads, bool descending) {
  using namespace shim;
  if (threads == 0 || threads > MOST_THREADS) return "a block of a size that is not possible";
  if (!machine) machine.reset(new Machine);
  machine->kernel = kernel;
  machine->arguments = arguments;
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned i = 0; i < blocks; i++) {
    blockIdx = {descending ? blocks - 1 - i : i, 0, 0};
    const char *wrong = run_block(threads, descending);
    if (wrong) return wrong;
  }
  return nullptr;
}
