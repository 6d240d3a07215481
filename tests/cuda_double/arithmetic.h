// Values as f32, f16 and bf16 in memory, and the convolution that cuDNN's and cuBLASLt's doubles compute with: sums in
// f32, in the order of the taps.
#pragma once
#include <algorithm>
#include <stdint.h>
#include <string.h>
#include <vector>

namespace doubles {

enum class Type { F32, F16, BF16 };

inline size_t size_of(Type type) {
  return type == Type::F32 ? 4 : 2;
}

inline float load(Type type, uint64_t base, int64_t index) {
  if (type == Type::F32)
    return ((const float *)base)[index];
  if (type == Type::F16)
    return float(((const _Float16 *)base)[index]);
  const uint32_t bits = uint32_t(((const uint16_t *)base)[index]) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest even.
inline void store(Type type, uint64_t base, int64_t index, float value) {
  if (type == Type::F32) {
    ((float *)base)[index] = value;
    return;
  }
  if (type == Type::F16) {
    ((_Float16 *)base)[index] = _Float16(value);
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const bool nan = value != value;
  ((uint16_t *)base)[index] = uint16_t(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float relu(float value) {
  return value > 0 || value != value ? value : 0;
}

struct Convolution {
  int64_t batch, channels, height, width;
  int64_t filters, out_height, out_width;
  int64_t kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x, groups;
};

// Adds to sums[PIXELS][FILTERS] the products of some pixels with one tap of some filters; only the first `USED`
// filters.
template <int USED, int PIXELS, int FILTERS>
inline void add_tap(float (&sums)[PIXELS][FILTERS], const float *const (&pixels)[PIXELS], int64_t offset,
                    const float *weights, int64_t channels) {
  for (int64_t channel = 0; channel < channels; channel++) {
    for (int pixel = 0; pixel < PIXELS; pixel++) {
      const float value = pixels[pixel][offset + channel];
      for (int filter = 0; filter < USED; filter++)
        sums[pixel][filter] += value * weights[channel * FILTERS + filter];
    }
  }
}

// input: [n, h + 2 padding_y, w + 2 padding_x, c], already padded; weights: [filters, kernel_height, kernel_width,
// c / groups]; output: [n, out_height, out_width, filters]. Some pixels and filters at once, as a whole network is run.
inline void convolve(const Convolution &of, const std::vector<float> &input, const std::vector<float> &weights,
                     std::vector<float> &output) {
  constexpr int FILTERS = 64, PIXELS = 4, FEW = 16;
  const int64_t channels = of.channels / of.groups, filters = of.filters / of.groups;
  const int64_t height = of.height + 2 * of.padding_y, width = of.width + 2 * of.padding_x;
  const int64_t taps = of.kernel_height * of.kernel_width;
  std::vector<float> packed(size_t(taps * channels * FILTERS));

  // filters first_filter.. of a group, from `packed`, on the pixels of a row from x0 on
  auto tile = [&](int64_t group, int64_t first_filter, int64_t some, int64_t n, int64_t y, int64_t x0) {
    float sums[PIXELS][FILTERS] = {};
    const float *pixels[PIXELS];
    for (int pixel = 0; pixel < PIXELS; pixel++) {
      const int64_t x = std::min(x0 + pixel, of.out_width - 1);
      const int64_t at = (n * height + y * of.stride_y) * width + x * of.stride_x;
      pixels[pixel] = &input[size_t(at * of.channels + group * channels)];
    }
    for (int64_t tap = 0; tap < taps; tap++) {
      const int64_t offset = (tap / of.kernel_width * width + tap % of.kernel_width) * of.channels;
      const float *own = &packed[size_t(tap * channels * FILTERS)];
      if (some <= FEW)
        add_tap<FEW>(sums, pixels, offset, own, channels);
      else
        add_tap<FILTERS>(sums, pixels, offset, own, channels);
    }
    for (int pixel = 0; pixel < PIXELS && x0 + pixel < of.out_width; pixel++) {
      const int64_t at = (n * of.out_height + y) * of.out_width + x0 + pixel;
      memcpy(&output[size_t(at * of.filters + first_filter)], sums[pixel], size_t(some) * sizeof(float));
    }
  };

  for (int64_t group = 0; group < of.groups; group++) {
    for (int64_t from = 0; from < filters; from += FILTERS) {
      const int64_t some = std::min<int64_t>(filters - from, FILTERS), first_filter = group * filters + from;
      std::fill(packed.begin(), packed.end(), 0.f);
      for (int64_t filter = 0; filter < some; filter++) {
        for (int64_t i = 0; i < taps * channels; i++)
          packed[size_t(i * FILTERS + filter)] = weights[size_t((first_filter + filter) * taps * channels + i)];
      }
      for (int64_t row = 0; row < of.batch * of.out_height; row++) {
        for (int64_t x0 = 0; x0 < of.out_width; x0 += PIXELS)
          tile(group, first_filter, some, row / of.out_height, row % of.out_height, x0);
      }
    }
  }
}

} // namespace doubles
