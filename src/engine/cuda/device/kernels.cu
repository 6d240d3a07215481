// The element-wise kernels of the fused CUDA engine: everything between the images and the answers that cuDNN and
// cuBLASLt do not do. Tensors are NHWC with a pitch: element (n, y, x, c) lies at ((n * h + y) * w + x) * pitch + c.
// Storage is float, half or bfloat16; arithmetic is always float. Each kernel takes one struct, which launch/ mirrors
// and fills. Those of two widths move 16 bytes at once, or single elements where the launch found that those would not
// be aligned. tests/cuda_kernels compiles this file for the host and runs it there.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KERNEL(name, Arguments, ...)                                        \
  extern "C" __global__ void __launch_bounds__(256)                         \
      name(const __grid_constant__ Arguments arguments) {                   \
    __VA_ARGS__(arguments);                                                 \
  }
#endif
#include <math.h>
#include <stddef.h>
#include <string.h>

namespace {

// threads of a block, as launch/ has it
constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;

__device__ __forceinline__ float widen_one(float value) { return value; }
__device__ __forceinline__ float widen_one(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen_one(__nv_bfloat16 value) { return __bfloat162float(value); }

// The bits of a value rounded to nearest even, in the low half where T is of two bytes.
template <class T> __device__ __forceinline__ unsigned narrow_one(float value);
template <> __device__ __forceinline__ unsigned narrow_one<float>(float value) { return __float_as_uint(value); }
template <> __device__ __forceinline__ unsigned narrow_one<__half>(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
template <> __device__ __forceinline__ unsigned narrow_one<__nv_bfloat16>(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// What moves BYTES in one instruction.
template <int BYTES> struct Word { using Type = uint4; };
template <> struct Word<8> { using Type = uint2; };
template <> struct Word<4> { using Type = unsigned int; };
template <> struct Word<2> { using Type = unsigned short; };

// N neighbours as float. `from` is aligned to all of them, or to 16 bytes where they are more.
template <class T, int N>
__device__ __forceinline__ void load(const T *from, float (&to)[N]) {
  using Moved = typename Word<N * sizeof(T)>::Type;
  constexpr int COUNT = N * sizeof(T) / sizeof(Moved);
  Moved words[COUNT];
  T values[N];
#pragma unroll
  for (int i = 0; i < COUNT; i++) words[i] = reinterpret_cast<const Moved *>(from)[i];
  memcpy(values, words, sizeof(values));
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = widen_one(values[i]);
}

// Writes N rounded values side by side; alignment as in `load`. Put into words by hand and written by the plain store's
// own name: an assignment of a vector the compiler takes apart again.
template <class T, int N>
__device__ __forceinline__ void store(T *to, const float (&from)[N]) {
  constexpr int IN_WORD = N == 1 ? 1 : 4 / sizeof(T), COUNT = N / IN_WORD;
  unsigned words[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    words[i] = narrow_one<T>(from[i * IN_WORD]);
    if constexpr (IN_WORD == 2) words[i] |= narrow_one<T>(from[i * IN_WORD + 1]) << 16;
  }
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      __stwb(reinterpret_cast<uint4 *>(to) + i / 4, make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]));
    }
  } else if constexpr (COUNT == 2) {
    __stwb(reinterpret_cast<uint2 *>(to), make_uint2(words[0], words[1]));
  } else {
    static_assert(N == 1, "a vector of 8 bytes at least, or one value");
    *reinterpret_cast<typename Word<sizeof(T)>::Type *>(to) = words[0];
  }
}

// One thread an item; launches have fewer than 2^31 items, so that their numbers divide as 32 bits. Products with a
// pitch are taken in 64.
__device__ __forceinline__ unsigned item_of_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ---- images in ----

struct PixelsArguments {
  const unsigned char *pixels;  // [items, 3]
  const float *table;           // [3, 256]: what a level of a channel becomes
  void *output;                 // [items, pitch]
  unsigned items;
  int pitch;  // a multiple of 4
};

// Normalises pixels through a table; channels from the third to the pitch become zero.
template <class T>
__device__ __forceinline__ void pixels(const PixelsArguments &a) {
  __shared__ float table[3 * 256];
  for (int i = threadIdx.x; i < 3 * 256; i += blockDim.x) table[i] = a.table[i];
  __syncthreads();
  // as many blocks as fill the card, each of which goes on: the table is fetched once a block
  for (size_t pixel = item_of_thread(); pixel < a.items; pixel += size_t(gridDim.x) * blockDim.x) {
    const unsigned char *from = a.pixels + pixel * 3;
    T *to = static_cast<T *>(a.output) + pixel * a.pitch;
    const float color[4] = {table[from[0]], table[256 + from[1]], table[512 + from[2]], 0.0f};
    store<T, 4>(to, color);
    const float none[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int c = 4; c < a.pitch; c += 4) store<T, 4>(to + c, none);
  }
}

struct PlanesArguments {
  const float *planes;  // [n, channels, area]
  void *output;         // [n, area, pitch]
  unsigned items;       // n * area
  unsigned area;
  int channels;
  int pitch;  // a multiple of N
};

// Lays planes out as pixels; channels up to the pitch become zero.
template <class T, int N>
__device__ __forceinline__ void planes(const PlanesArguments &a) {
  const unsigned pixel = item_of_thread();
  if (pixel >= a.items) return;
  const size_t image = pixel / a.area;
  const float *from = a.planes + image * a.channels * a.area + pixel % a.area;
  T *to = static_cast<T *>(a.output) + size_t(pixel) * a.pitch;
  for (int c = 0; c < a.pitch; c += N) {
    float values[N];
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = c + i < a.channels ? from[size_t(c + i) * a.area] : 0.0f;
    store<T, N>(to + c, values);
  }
}

// ---- between layers ----

enum OperationKind : int { BIAS, AFFINE, ADD, SCALE, RELU };

struct Operation {
  const void *first;   // bias or scale, float [channels]; or the tensor that is added, T [pixels, pitch]
  const void *second;  // shift, float [channels]
  int kind;
  int pitch;
  float factor;
  int unused;
};

struct MapArguments {
  const void *input;
  void *output;
  unsigned items;   // output pixels * chunks
  unsigned chunks;  // output channels / N
  unsigned height;  // of the output
  unsigned width;
  unsigned in_height;
  unsigned in_width;
  int stride;
  int in_channels;  // a multiple of N; zeros beyond
  int in_pitch;
  int out_pitch;
  int count;
  int unused;
  Operation operations[6];
};

template <class T, int N>
__device__ __forceinline__ void apply(const Operation &operation, size_t pixel, int c, float (&values)[N]) {
  float first[N], second[N];
  switch (operation.kind) {
    case BIAS:
      load<float, N>(static_cast<const float *>(operation.first) + c, first);
#pragma unroll
      for (int i = 0; i < N; i++) values[i] += first[i];
      break;
    case AFFINE:
      load<float, N>(static_cast<const float *>(operation.first) + c, first);
      load<float, N>(static_cast<const float *>(operation.second) + c, second);
#pragma unroll
      for (int i = 0; i < N; i++) values[i] = fmaf(values[i], first[i], second[i]);
      break;
    case ADD:
      load<T, N>(static_cast<const T *>(operation.first) + pixel * operation.pitch + c, first);
#pragma unroll
      for (int i = 0; i < N; i++) values[i] += first[i];
      break;
    case SCALE:
#pragma unroll
      for (int i = 0; i < N; i++) values[i] *= operation.factor;
      break;
    default:  // RELU; a NaN stays one
#pragma unroll
      for (int i = 0; i < N; i++) values[i] = values[i] < 0.0f ? 0.0f : values[i];
  }
}

// Selects every stride-th pixel, widens with zero channels, applies operations in order. Each thread reads, of the input
// and of what is added, only what it later writes where those are the output itself: in place is right, and no pointer
// here may be declared free of aliases.
template <class T, int N>
__device__ __forceinline__ void map(const MapArguments &a) {
  const unsigned item = item_of_thread();
  if (item >= a.items) return;
  const unsigned pixel = item / a.chunks;
  const int c = int(item % a.chunks) * N;
  float values[N] = {};
  if (c < a.in_channels) {
    size_t source = pixel;
    if (a.stride != 1) {
      const unsigned row = pixel / a.width;
      const size_t image = row / a.height;
      source = (image * a.in_height + size_t(row % a.height) * a.stride) * a.in_width +
               size_t(pixel % a.width) * a.stride;
    }
    load<T, N>(static_cast<const T *>(a.input) + source * a.in_pitch + c, values);
  }
  for (int i = 0; i < a.count; i++) apply<T, N>(a.operations[i], pixel, c, values);
  store<T, N>(static_cast<T *>(a.output) + size_t(pixel) * a.out_pitch + c, values);
}

// Rows or columns from..to of the input under one output pixel; `counted` is what an average divides by.
struct Window {
  int from;
  int to;
  int counted;
};

struct PoolArguments {
  const void *input;
  void *output;
  const Window *rows;     // [height]
  const Window *columns;  // [width]
  unsigned pixels;        // of the output
  unsigned chunks;        // channels / N
  unsigned height;        // of the output
  unsigned width;
  unsigned in_height;
  unsigned in_width;
  int in_pitch;
  int out_pitch;
  int average;
  int unused;
};

// The windows of one output pixel, and where its image begins.
struct PoolPlace {
  Window rows;
  Window columns;
  size_t image;  // in input pixels
};

__device__ __forceinline__ PoolPlace pool_place(const PoolArguments &a, unsigned pixel) {
  const unsigned row = pixel / a.width;
  const size_t image = row / a.height;
  return {a.rows[row % a.height], a.columns[pixel % a.width], image * a.in_height * a.in_width};
}

template <int N>
__device__ __forceinline__ void pool_start(int average, float (&total)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) total[i] = average ? 0.0f : -INFINITY;
}

// A maximum keeps a NaN, as PyTorch's does: a broken model shall not look sound.
template <int N>
__device__ __forceinline__ void pool_join(int average, float (&total)[N], const float (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float v = values[i];
    total[i] = average ? total[i] + v : (v > total[i] || v != v ? v : total[i]);
  }
}

template <class T, int N>
__device__ __forceinline__ void pool_store(const PoolArguments &a, const PoolPlace &at, unsigned pixel, int c,
                                           float (&total)[N]) {
  const float counted = float(at.rows.counted) * float(at.columns.counted);
#pragma unroll
  for (int i = 0; i < N; i++) total[i] = a.average ? total[i] / counted : total[i];
  store<T, N>(static_cast<T *>(a.output) + size_t(pixel) * a.out_pitch + c, total);
}

// Pooling for small windows: one thread walks a window of N channels.
template <class T, int N>
__device__ __forceinline__ void pool(const PoolArguments &a) {
  const unsigned item = item_of_thread();
  const unsigned pixel = item / a.chunks;
  if (pixel >= a.pixels) return;
  const int c = int(item % a.chunks) * N;
  const PoolPlace at = pool_place(a, pixel);
  float total[N], values[N];
  pool_start<N>(a.average, total);
  for (int y = at.rows.from; y < at.rows.to; y++) {
    const T *row = static_cast<const T *>(a.input) + (at.image + size_t(y) * a.in_width) * a.in_pitch + c;
#pragma unroll 4
    for (int x = at.columns.from; x < at.columns.to; x++) {
      load<T, N>(row + size_t(x) * a.in_pitch, values);
      pool_join<N>(a.average, total, values);
    }
  }
  pool_store<T, N>(a, at, pixel, c, total);
}

// Pooling for large windows: the warps of a block share the pixels of one window, its lanes are neighbouring channels.
// Pooled globally, one image would otherwise be a few hundred threads that wait for memory window pixels in a row.
template <class T, int N>
__device__ __forceinline__ void pool_block(const PoolArguments &a) {
  __shared__ float parts[WARPS][N][WARP];
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const unsigned groups = (a.chunks + WARP - 1) / WARP;
  const unsigned pixel = blockIdx.x / groups;
  const unsigned chunk = blockIdx.x % groups * WARP + lane;
  const int c = int(chunk) * N;
  const PoolPlace at = pool_place(a, pixel);
  float total[N], values[N];
  pool_start<N>(a.average, total);
  if (chunk < a.chunks) {
    const int width = at.columns.to - at.columns.from;
    const int area = (at.rows.to - at.rows.from) * width;
    const size_t first = at.image + size_t(at.rows.from) * a.in_width + at.columns.from;
#pragma unroll 4
    for (int i = warp; i < area; i += WARPS) {
      const size_t source = first + size_t(i / width) * a.in_width + i % width;
      load<T, N>(static_cast<const T *>(a.input) + source * a.in_pitch + c, values);
      pool_join<N>(a.average, total, values);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) parts[warp][i][lane] = total[i];
  __syncthreads();
  if (warp != 0 || chunk >= a.chunks) return;
  for (int other = 1; other < WARPS; other++) {
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = parts[other][i][lane];
    pool_join<N>(a.average, total, values);
  }
  pool_store<T, N>(a, at, pixel, c, total);
}

// ---- answers out ----

struct WidenArguments {
  const void *input;  // [rows, pitch]
  float *output;      // [rows, chunks * N]
  unsigned items;     // rows * chunks
  unsigned chunks;
  int pitch;
  int unused;
};

template <class T, int N>
__device__ __forceinline__ void widen(const WidenArguments &a) {
  const unsigned item = item_of_thread();
  if (item >= a.items) return;
  const size_t row = item / a.chunks, c = size_t(item % a.chunks) * N;
  float values[N];
  load<T, N>(static_cast<const T *>(a.input) + row * a.pitch + c, values);
  store<float, N>(a.output + row * a.chunks * N + c, values);
}

struct Best {
  int index;
  float logit;
};

struct Summary {
  double sum;  // over the classes, of exp(logit - max)
  float max;
  int finite;  // whether all logits are
};

struct TopKArguments {
  const float *logits;  // [rows, classes]
  Best *best;           // [rows, k]
  Summary *summaries;   // [rows]
  int classes;
  int k;  // at most `classes`
};

// Whether `a` comes before `b`: by logit, equal ones by class.
__device__ __forceinline__ bool before(const Best &a, const Best &b) {
  return a.logit > b.logit || (a.logit == b.logit && a.index < b.index);
}

// The first, in order, of the candidates of a block's threads, for all of them.
__device__ __forceinline__ Best first_of_block(Best mine, Best (&shared)[WARPS]) {
#pragma unroll
  for (int apart = WARP / 2; apart > 0; apart /= 2) {
    const Best other = {__shfl_xor_sync(0xffffffffu, mine.index, apart),
                        __shfl_xor_sync(0xffffffffu, mine.logit, apart)};
    if (before(other, mine)) mine = other;
  }
  if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = mine;
  __syncthreads();
  Best first = shared[0];
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) {
    if (before(shared[warp], first)) first = shared[warp];
  }
  // nobody may write again before all have read
  __syncthreads();
  return first;
}

// The first of this thread's logits that comes after `last`; a NaN counts as minus infinity.
__device__ __forceinline__ Best first_of_thread(const float *logits, int classes, const Best &last) {
  Best first = {0x7fffffff, -INFINITY};
  for (int i = threadIdx.x; i < classes; i += THREADS) {
    const float logit = logits[i];
    const Best one = {i, logit != logit ? -INFINITY : logit};
    if (before(last, one) && before(one, first)) first = one;
  }
  return first;
}

// The k largest logits of one row, and what turns logits into probabilities. One block a row; a thread looks through its
// share of the row again only when it has yielded the last winner.
__device__ __forceinline__ void select_best(const TopKArguments &a) {
  __shared__ Best candidates[WARPS];
  __shared__ double sums[WARPS];
  __shared__ int broken[WARPS];
  const float *logits = a.logits + size_t(blockIdx.x) * a.classes;
  Best mine = first_of_thread(logits, a.classes, {-1, INFINITY});
  Best winner = first_of_block(mine, candidates);
  const float max = winner.logit;

  // expf errs by two units in the last place; in double the sum of thousands errs by no more
  double sum = 0.0;
  int bad = 0;
  for (int i = threadIdx.x; i < a.classes; i += THREADS) {
    const float logit = logits[i];
    sum += double(expf(logit - max));
    bad |= !(fabsf(logit) < INFINITY);
  }
#pragma unroll
  for (int apart = WARP / 2; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    bad |= __shfl_xor_sync(0xffffffffu, bad, apart);
  }
  if (threadIdx.x % WARP == 0) {
    sums[threadIdx.x / WARP] = sum;
    broken[threadIdx.x / WARP] = bad;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < WARPS; warp++) {
      sum += sums[warp];
      bad |= broken[warp];
    }
    a.summaries[blockIdx.x] = {sum, max, !bad};
  }

  for (int i = 0; i < a.k; i++) {
    if (threadIdx.x == 0) a.best[size_t(blockIdx.x) * a.k + i] = {winner.index, logits[winner.index]};
    if (i + 1 == a.k) break;
    if (winner.index % THREADS == int(threadIdx.x)) mine = first_of_thread(logits, a.classes, winner);
    winner = first_of_block(mine, candidates);
  }
}

}  // namespace

// NAME_TYPE moves `floats` or `halves` elements at once, NAME_TYPE_scalar single ones.
#define BOTH_WIDTHS(name, Arguments, floats, halves)                        \
  KERNEL(name##_f32, Arguments, name<float, floats>)                        \
  KERNEL(name##_f32_scalar, Arguments, name<float, 1>)                      \
  KERNEL(name##_f16, Arguments, name<__half, halves>)                       \
  KERNEL(name##_f16_scalar, Arguments, name<__half, 1>)                     \
  KERNEL(name##_bf16, Arguments, name<__nv_bfloat16, halves>)               \
  KERNEL(name##_bf16_scalar, Arguments, name<__nv_bfloat16, 1>)

KERNEL(pixels_f32, PixelsArguments, pixels<float>)
KERNEL(pixels_f16, PixelsArguments, pixels<__half>)
KERNEL(pixels_bf16, PixelsArguments, pixels<__nv_bfloat16>)
BOTH_WIDTHS(planes, PlanesArguments, 4, 4)
BOTH_WIDTHS(map, MapArguments, 4, 8)
BOTH_WIDTHS(pool, PoolArguments, 4, 8)
BOTH_WIDTHS(pool_block, PoolArguments, 4, 8)
BOTH_WIDTHS(widen, WidenArguments, 4, 8)
KERNEL(top_k, TopKArguments, select_best)
