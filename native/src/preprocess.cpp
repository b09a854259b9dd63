#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "clones.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace polypstream {
namespace {

constexpr int most_side = 1 << 15;
constexpr int row_block = 4;  // taps of a row are padded to a multiple of this

std::int32_t fixed(double value) {
    return static_cast<std::int32_t>(std::lround(value * (1 << coefficient_bits)));
}

// Column sums of one output row: 16-bit, level * 128.
template <typename Sample>
POLYPSTREAM_CLONES void column_sums(
    const std::uint8_t* top, std::int64_t pitch, int taps, const std::int16_t* weight, std::uint16_t rounding,
    int samples, std::uint16_t* sums
) {
    constexpr int up = sizeof(Sample) == 1 ? 8 : 0;
    constexpr unsigned mask = sizeof(Sample) == 1 ? 0xFFFF : 0xFFC0;
    int tap = 0;
    const auto row = [&](int t) { return reinterpret_cast<const Sample*>(top + t * pitch); };
    if (taps == 1) {
        const Sample* a = row(0);
        for (int x = 0; x < samples; ++x) sums[x] = static_cast<std::uint16_t>(((a[x] & mask) << up) >> 1);
        return;
    }
    for (; tap < taps; tap += 4) {
        // Weights past the last row are 0, and so is their row: the first one, read again.
        const Sample* r[4];
        std::uint16_t w[4];
        for (int k = 0; k < 4; ++k) {
            const bool counts = tap + k < taps;
            r[k] = row(counts ? tap + k : 0);
            w[k] = counts ? static_cast<std::uint16_t>(weight[tap + k]) : 0;
        }
        const Sample *a = r[0], *b = r[1], *c = r[2], *d = r[3];
        const std::uint16_t wa = w[0], wb = w[1], wc = w[2], wd = w[3];
        const auto sum4 = [&](int x) {
            const auto s = [](Sample v) { return static_cast<std::uint16_t>((v & mask) << up); };
            return static_cast<std::uint16_t>(
                weighted(s(a[x]), wa) + weighted(s(b[x]), wb) + weighted(s(c[x]), wc) + weighted(s(d[x]), wd)
            );
        };
        if (tap == 0) {
            for (int x = 0; x < samples; ++x) sums[x] = static_cast<std::uint16_t>(sum4(x) + rounding);
        } else {
            for (int x = 0; x < samples; ++x) sums[x] = static_cast<std::uint16_t>(sums[x] + sum4(x));
        }
    }
}

template <int Step>
POLYPSTREAM_CLONES void take_apart(const std::uint16_t* mixed, int offset, int count, std::int16_t* out) {
    for (int x = 0; x < count; ++x) out[x] = static_cast<std::int16_t>(mixed[x * Step + offset]);
}

#if defined(__SSE2__)
// Four sums at once: of eight products each, or of four.
template <int Taps>
__m128i four_sums(const std::int16_t* sums, const std::int32_t* at, const std::int16_t* weight) {
    const auto part = [](const std::int16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
    if constexpr (Taps == 8) {
        __m128i product[4];
        for (int k = 0; k < 4; ++k) product[k] = _mm_madd_epi16(part(sums + at[k]), part(weight + 8 * k));
        const __m128i a = _mm_add_epi32(
            _mm_unpacklo_epi32(product[0], product[1]), _mm_unpackhi_epi32(product[0], product[1])
        );
        const __m128i b = _mm_add_epi32(
            _mm_unpacklo_epi32(product[2], product[3]), _mm_unpackhi_epi32(product[2], product[3])
        );
        return _mm_add_epi32(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
    } else {
        const auto half = [](const std::int16_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); };
        const auto pair = [&](int k) {
            const __m128i both = _mm_unpacklo_epi64(half(sums + at[k]), half(sums + at[k + 1]));
            return _mm_castsi128_ps(_mm_madd_epi16(both, part(weight + 4 * k)));
        };
        const __m128 a = pair(0), b = pair(2);
        return _mm_add_epi32(
            _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0))),
            _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)))
        );
    }
}
#endif

// `sums` starts at sample `from`.
template <int Taps>
void row_values(const std::int16_t* sums, const Axis& axis, int from, int count, std::int32_t* out) {
    const std::int32_t* first = axis.first.data();
    const std::int16_t* weight = axis.weight.data();
    int i = 0;
#if defined(__SSE2__)
    constexpr int down = row_weight_bits + 7 - value_bits;
    for (; i + 4 <= count; i += 4) {
        const std::int32_t at[4] = {first[i] - from, first[i + 1] - from, first[i + 2] - from, first[i + 3] - from};
        const __m128i sum = _mm_add_epi32(four_sums<Taps>(sums, at, weight + i * Taps), _mm_set1_epi32(1 << (down - 1)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_srai_epi32(sum, down));  // as `value_of`
    }
#endif
    for (; i < count; ++i) {
        std::int32_t sum = 0;
        for (int t = 0; t < Taps; ++t) sum += sums[first[i] - from + t] * weight[i * Taps + t];
        out[i] = value_of(sum);
    }
}

void row_values_any(const std::int16_t* sums, const Axis& axis, int from, int count, std::int32_t* out) {
    for (int i = 0; i < count; ++i) {
        std::int32_t sum = 0;
        for (int t = 0; t < axis.taps; ++t) sum += sums[axis.first[i] - from + t] * axis.weight[i * axis.taps + t];
        out[i] = value_of(sum);
    }
}

POLYPSTREAM_CLONES void row_rgb(
    const std::int32_t* y, const std::int32_t* u, const std::int32_t* v, const Conversion& conversion, int count,
    std::uint8_t* out
) {
    const Conversion c = conversion;
    std::uint8_t r[256], g[256], b[256];
    for (int start = 0; start < count; start += 256) {
        const int some = std::min(256, count - start);
        for (int i = 0; i < some; ++i) rgb_of(y[start + i], u[start + i], v[start + i], c, r[i], g[i], b[i]);
        std::uint8_t* to = out + 3 * start;
        for (int i = 0; i < some; ++i) {
            to[3 * i] = r[i];
            to[3 * i + 1] = g[i];
            to[3 * i + 2] = b[i];
        }
    }
}

void row_of_channels(const std::int32_t* b, const std::int32_t* g, const std::int32_t* r, int count, std::uint8_t* out) {
    for (int i = 0; i < count; ++i) {
        out[3 * i] = level_of(r[i], value_bits);
        out[3 * i + 1] = level_of(g[i], value_bits);
        out[3 * i + 2] = level_of(b[i], value_bits);
    }
}

class RowScaler {
  public:
    RowScaler(const FrameView& frame, const Plan& plan) : frame_(frame), plan_(plan) {
        mixed_.resize(3 * static_cast<std::size_t>(frame.width) + 16);
        apart_.resize(static_cast<std::size_t>(frame.width) + std::max(plan.luma_x.taps, plan.chroma_x.taps) + 16);
    }

    // The values of the components that share a plane, for one output row.
    void scale(int first_component, int components, int row, std::int32_t* const* values) {
        const Component& one = plan_.layout.component[first_component];
        const Axis& rows = one.is_chroma ? plan_.chroma_y : plan_.luma_y;
        const Axis& columns = one.is_chroma ? plan_.chroma_x : plan_.luma_x;
        const std::uint8_t* plane = frame_.plane[one.plane];
        const std::int64_t pitch = frame_.pitch[one.plane];
        const std::uint8_t* top = plane + rows.first[row] * pitch;
        const std::int16_t* weight = &rows.weight[static_cast<std::size_t>(row) * rows.taps];
        // Only the columns that the part covers.
        const int from = columns.first.front();
        const int to = std::min(one.width, columns.first.back() + columns.used.back());
        const int samples = (to - from) * one.step;
        const std::int64_t shift = static_cast<std::int64_t>(from) * one.step * plan_.layout.bytes;
        if (plan_.layout.bytes == 1) {
            column_sums<std::uint8_t>(
                top + shift, pitch, rows.used[row], weight, rows.rounding[row], samples, mixed_.data()
            );
        } else {
            column_sums<std::uint16_t>(
                top + shift, pitch, rows.used[row], weight, rows.rounding[row], samples, mixed_.data()
            );
        }
        for (int k = 0; k < components; ++k) {
            const Component& each = plan_.layout.component[first_component + k];
            const std::int16_t* sums = reinterpret_cast<const std::int16_t*>(mixed_.data());
            if (each.step == 2) {
                take_apart<2>(mixed_.data(), each.offset, to - from, apart_.data());
                sums = apart_.data();
            } else if (each.step == 3) {
                take_apart<3>(mixed_.data(), each.offset, to - from, apart_.data());
                sums = apart_.data();
            }
            if (columns.taps == 4) {
                row_values<4>(sums, columns, from, plan_.width, values[k]);
            } else if (columns.taps == 8) {
                row_values<8>(sums, columns, from, plan_.width, values[k]);
            } else {
                row_values_any(sums, columns, from, plan_.width, values[k]);
            }
        }
    }

  private:
    const FrameView& frame_;
    const Plan& plan_;
    std::vector<std::uint16_t> mixed_;
    std::vector<std::int16_t> apart_;
};

// What the products that `weighted` cuts to 16 bits lack on average, summed over the taps of each output. A product is
// a multiple of 2^(zero bits of the sample + zero bits of the weight); weights of many zero bits lose little or nothing.
std::vector<std::uint16_t> rounding_of(const Axis& rows, PixelFormat format) {
    constexpr long most = 31;  // white plus this is the largest sum that 15 bits hold
    const std::int32_t sample_step = format == PixelFormat::p010 ? 1 << 6 : 1 << 8;
    std::vector<std::uint16_t> rounding(rows.first.size(), 0);
    for (std::size_t i = 0; i < rounding.size(); ++i) {
        double lost = 0;
        for (int t = 0; t < rows.used[i]; ++t) {
            const std::int32_t weight = rows.weight[i * rows.taps + t];
            const std::int32_t step = sample_step * (weight & -weight);
            if (step > 0 && step < 1 << 16) lost += 0.5 - step / 131072.0;
        }
        rounding[i] = static_cast<std::uint16_t>(std::min(std::lround(lost), most));
    }
    return rounding;
}

}  // namespace

const char* name_of(PixelFormat format) {
    switch (format) {
        case PixelFormat::nv12: return "NV12";
        case PixelFormat::p010: return "P010";
        case PixelFormat::i420: return "I420";
        case PixelFormat::bgr: return "BGR";
    }
    throw ConfigError("the pixel format is unknown; use NV12, P010, I420 or BGR");
}

Conversion conversion_of(Matrix matrix, bool full_range, PixelFormat format) {
    const double red = matrix == Matrix::bt709 ? 0.2126 : 0.299, blue = matrix == Matrix::bt709 ? 0.0722 : 0.114;
    const double green = 1 - red - blue;
    const double full = format == PixelFormat::p010 ? 1020.0 / 1023 : 1.0;
    const double luma = full_range ? full : 255.0 / 219, chroma = full_range ? full : 255.0 / 224;
    return {
        (full_range ? 0 : 16) << value_bits,
        fixed(luma),
        fixed(2 * (1 - red) * chroma),
        fixed(2 * blue * (1 - blue) / green * chroma),
        fixed(2 * red * (1 - red) / green * chroma),
        fixed(2 * (1 - blue) * chroma),
    };
}

Axis axis_of(int length, double low, double high, int count, int bits, int taps_multiple) {
    const double scale = (high - low) / count;
    const bool is_mean = scale > 1;
    Axis axis;
    axis.first.resize(count);
    axis.used.resize(count);
    const auto start_of = [&](int i) { return is_mean ? low + i * scale : low + (i + 0.5) * scale - 0.5; };
    int most = 1;
    for (int i = 0; i < count; ++i) {
        const double start = start_of(i);
        const int before = static_cast<int>(std::floor(start + 1e-9));
        const int after = is_mean ? static_cast<int>(std::ceil(start + scale - 1e-9)) - 1 : before + 1;
        axis.first[i] = std::clamp(before, 0, length - 1);
        axis.used[i] = std::clamp(after, axis.first[i], length - 1) - axis.first[i] + 1;
        most = std::max(most, axis.used[i]);
    }
    axis.taps = (most + taps_multiple - 1) / taps_multiple * taps_multiple;
    axis.weight.assign(static_cast<std::size_t>(count) * axis.taps, 0);
    const int one = 1 << bits;
    std::vector<double> share(most);
    for (int i = 0; i < count; ++i) {
        const double start = start_of(i), end = start + scale;
        const int first = axis.first[i], used = axis.used[i];
        double total = 0, sum = 0;
        for (int t = 0; t < used; ++t) {
            const double at = first + t;
            share[t] = is_mean ? std::max(0.0, std::min(end, at + 1) - std::max(start, at)) : 1 - std::fabs(start - at);
            total += share[t];
        }
        // Rounded so that the weights sum to exactly 1: each one ends where the sum of shares so far is rounded.
        int placed = 0;
        for (int t = 0; t < used; ++t) {
            sum += share[t] / total;
            const int so_far = t + 1 == used ? one : static_cast<int>(std::lround(sum * one));
            // 2^15 itself does not fit; where one sample is all, the weight is not used.
            axis.weight[static_cast<std::size_t>(i) * axis.taps + t] = static_cast<std::int16_t>(std::min(so_far - placed, 32767));
            placed = so_far;
        }
    }
    return axis;
}

Layout layout_of(PixelFormat format, int width, int height) {
    const int w = (width + 1) / 2, h = (height + 1) / 2;
    Layout layout;
    switch (format) {
        case PixelFormat::nv12:
        case PixelFormat::p010:
            layout.component[0] = {0, 1, 0, width, height, false};
            layout.component[1] = {1, 2, 0, w, h, true};
            layout.component[2] = {1, 2, 1, w, h, true};
            layout.bytes = format == PixelFormat::p010 ? 2 : 1;
            return layout;
        case PixelFormat::i420:
            layout.component[0] = {0, 1, 0, width, height, false};
            layout.component[1] = {1, 1, 0, w, h, true};
            layout.component[2] = {2, 1, 0, w, h, true};
            return layout;
        case PixelFormat::bgr:
            for (int k = 0; k < 3; ++k) layout.component[k] = {0, 3, k, width, height, false};
            return layout;
    }
    throw ConfigError("the pixel format is unknown; use NV12, P010, I420 or BGR");
}

void check(const FrameView& frame, const Rectangle& part, int width, int height) {
    const auto size = [](int w, int h) { return std::to_string(w) + "x" + std::to_string(h); };
    if (frame.width < 1 || frame.height < 1 || frame.width > most_side || frame.height > most_side) {
        throw ConfigError("the frame is " + size(frame.width, frame.height) + "; sides must be 1 to 32768");
    }
    if (width < 1 || height < 1 || width > most_side || height > most_side) {
        throw ConfigError("the result would be " + size(width, height) + "; sides must be 1 to 32768");
    }
    if (!(part.left >= 0 && part.left < part.right && part.right <= frame.width && part.top >= 0 &&
          part.top < part.bottom && part.bottom <= frame.height)) {
        throw ConfigError(
            "the crop from (" + std::to_string(part.left) + ", " + std::to_string(part.top) + ") to (" +
            std::to_string(part.right) + ", " + std::to_string(part.bottom) + ") is no part of a frame of " +
            size(frame.width, frame.height)
        );
    }
    const Layout layout = layout_of(frame.format, frame.width, frame.height);
    for (int k = 0; k < 3; ++k) {
        const Component& each = layout.component[k];
        const std::int64_t row = static_cast<std::int64_t>(each.width) * each.step * layout.bytes;
        if (frame.plane[each.plane] == nullptr || frame.pitch[each.plane] < row) {
            throw ConfigError(
                "plane " + std::to_string(each.plane) + " of the " + name_of(frame.format) + " frame has rows " +
                std::to_string(frame.pitch[each.plane]) + " bytes apart; they need " + std::to_string(row)
            );
        }
    }
}

Plan plan_of(const FrameView& frame, const Rectangle& part, int width, int height, Matrix matrix, bool full_range) {
    check(frame, part, width, height);
    Plan plan;
    plan.layout = layout_of(frame.format, frame.width, frame.height);
    plan.width = width;
    plan.height = height;
    plan.is_rgb = frame.format == PixelFormat::bgr;
    plan.conversion = conversion_of(matrix, full_range, frame.format);
    plan.luma_x = axis_of(frame.width, part.left, part.right, width, row_weight_bits, row_block);
    plan.luma_y = axis_of(frame.height, part.top, part.bottom, height, column_weight_bits, 1);
    plan.luma_y.rounding = rounding_of(plan.luma_y, frame.format);
    if (!plan.is_rgb) {
        // The last chroma sample of an odd side belongs to one pixel; like FFmpeg, all samples count alike.
        const int w = plan.layout.component[1].width, h = plan.layout.component[1].height;
        const double right = part.right == frame.width ? w : part.right / 2;
        const double bottom = part.bottom == frame.height ? h : part.bottom / 2;
        plan.chroma_x = axis_of(w, part.left / 2, right, width, row_weight_bits, row_block);
        plan.chroma_y = axis_of(h, part.top / 2, bottom, height, column_weight_bits, 1);
        plan.chroma_y.rounding = rounding_of(plan.chroma_y, frame.format);
    }
    return plan;
}

void preprocess(const FrameView& frame, const Plan& plan, std::uint8_t* out, std::int64_t out_pitch) {
    RowScaler scaler(frame, plan);
    const auto columns = static_cast<std::size_t>(plan.width);
    std::vector<std::int32_t> values(3 * columns);
    std::int32_t* all[3] = {values.data(), values.data() + columns, values.data() + 2 * columns};
    for (int row = 0; row < plan.height; ++row) {
        std::uint8_t* to = out + row * out_pitch;
        if (plan.is_rgb) {
            scaler.scale(0, 3, row, all);
            row_of_channels(all[0], all[1], all[2], plan.width, to);
            continue;
        }
        scaler.scale(0, 1, row, all);
        if (frame.format == PixelFormat::i420) {
            scaler.scale(1, 1, row, all + 1);
            scaler.scale(2, 1, row, all + 2);
        } else {
            scaler.scale(1, 2, row, all + 1);
        }
        row_rgb(all[0], all[1], all[2], plan.conversion, plan.width, to);
    }
}

}  // namespace polypstream
