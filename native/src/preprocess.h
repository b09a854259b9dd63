// From a decoded frame to the network's uint8 RGB: the arithmetic that the C++ version and the CUDA kernel share.
//
// Each plane is scaled by itself, first along columns, then along rows, with integer weights:
//
//   column sum   v = sum over rows t of (s[t] * wy[t]) >> 16, plus what that cuts off on average (level * 128, 15 bits)
//   value        q = (sum over columns t of v[t] * wx[t] + 2^15) >> 16                           (level * 32)
//
// s is the sample in 16 bits (an 8-bit one shifted left by 8, P010 as it lies in memory), wy sums to 2^15 and wx to
// 2^14. The weights are those of the mean over the area that an output pixel covers; where a plane is enlarged, those
// of linear interpolation between sample centers. Chroma samples are taken to lie in the middle of the pixels that
// share them. The result is converted by `rgb_of`. Everything is an integer, so both versions agree bit by bit.
#pragma once

#include <cstdint>
#include <vector>

#include "platform.h"

namespace polypstream {

enum class PixelFormat : int { nv12 = 0, p010 = 1, i420 = 2, bgr = 3 };
enum class Matrix : int { bt601 = 0, bt709 = 1 };

// A frame in memory. For device frames the pointers are device pointers.
struct FrameView {
    PixelFormat format = PixelFormat::nv12;
    int width = 0, height = 0;
    const std::uint8_t* plane[3] = {};
    std::int64_t pitch[3] = {};  // bytes from one row to the next
};

// Part of a frame, in its pixels; ends may lie between pixels.
struct Rectangle {
    double left = 0, top = 0, right = 0, bottom = 0;
};

constexpr int column_weight_bits = 15;  // wy
constexpr int row_weight_bits = 14;     // wx
constexpr int value_bits = 5;           // fraction of q
constexpr int coefficient_bits = 13;

// Fixed-point coefficients of a Y'CbCr matrix and range.
struct Conversion {
    std::int32_t luma_offset, luma, red_v, green_u, green_v, blue_u;
};

Conversion conversion_of(Matrix matrix, bool full_range, PixelFormat format);

// The weights of one axis: output i is the sum over t < taps of weight[i * taps + t] * input[first[i] + t]. Rows of
// weights are padded with zeros, so an index past the last sample only meets a weight of 0.
struct Axis {
    std::vector<std::int32_t> first;
    std::vector<std::int16_t> weight;
    std::vector<std::int32_t> used;  // taps that count, for each output
    std::vector<std::uint16_t> rounding;  // of rows: added to each output's column sums
    int taps = 0;
};

// Weights that scale [low, high) of `length` samples to `count` outputs, summing to 2^bits.
Axis axis_of(int length, double low, double high, int count, int bits, int taps_multiple);

// Where a component lies: its plane, the distance between its samples and the first one, in samples.
struct Component {
    int plane, step, offset, width, height;
    bool is_chroma;
};

struct Layout {
    int components = 3;
    Component component[3];
    int bytes = 1;  // per sample
};

Layout layout_of(PixelFormat format, int width, int height);
const char* name_of(PixelFormat format);

// Raises ConfigError for a frame, part or size that cannot be scaled.
void check(const FrameView& frame, const Rectangle& part, int width, int height);

// The two axes of luma (or of B, G, R) and of chroma.
struct Plan {
    Layout layout;
    Axis luma_x, luma_y, chroma_x, chroma_y;
    Conversion conversion;
    int width = 0, height = 0;
    bool is_rgb = false;
};

Plan plan_of(const FrameView& frame, const Rectangle& part, int width, int height, Matrix matrix, bool full_range);

// Scale `part` of a frame to uint8 RGB (height, width, 3), rows `out_pitch` bytes apart.
void preprocess(const FrameView& frame, const Plan& plan, std::uint8_t* out, std::int64_t out_pitch);

POLYPSTREAM_SHARED std::uint16_t weighted(std::uint32_t sample16, std::uint32_t weight) {
    return static_cast<std::uint16_t>((sample16 * weight) >> 16);
}

POLYPSTREAM_SHARED std::int32_t value_of(std::int32_t sum) {
    return (sum + (1 << (row_weight_bits + 7 - value_bits - 1))) >> (row_weight_bits + 7 - value_bits);
}

POLYPSTREAM_SHARED std::uint8_t level_of(std::int32_t value, int bits) {
    return static_cast<std::uint8_t>(limited((value + (1 << (bits - 1))) >> bits, 0, 255));
}

// R'G'B' of a pixel, from the values of Y', Cb and Cr.
POLYPSTREAM_SHARED void rgb_of(
    std::int32_t y, std::int32_t u, std::int32_t v, const Conversion& c, std::uint8_t& r, std::uint8_t& g,
    std::uint8_t& b
) {
    const std::int32_t light = (y - c.luma_offset) * c.luma;
    u -= 128 << value_bits;
    v -= 128 << value_bits;
    r = level_of(light + v * c.red_v, value_bits + coefficient_bits);
    g = level_of(light - u * c.green_u - v * c.green_v, value_bits + coefficient_bits);
    b = level_of(light + u * c.blue_u, value_bits + coefficient_bits);
}

}  // namespace polypstream
