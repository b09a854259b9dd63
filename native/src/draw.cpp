#include "draw.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "clones.h"

namespace polypstream {
namespace {

constexpr int block = 16;  // pixels; a multiple of every `across` and `down`
constexpr float nowhere = std::numeric_limits<float>::infinity();

// Part of a segment within `reach` of rows `low` to `high`: its least and greatest x.
bool span_within(const Segment& s, float low, float high, float& left, float& right) {
    float ax = s.ax, ay = s.ay, bx = s.bx, by = s.by;
    if (ay > by) std::swap(ax, bx), std::swap(ay, by);
    if (by < low || ay > high) return false;
    const float slope = by > ay ? (bx - ax) / (by - ay) : 0.0f;
    const float x0 = ay < low ? ax + (low - ay) * slope : ax;
    const float x1 = by > high ? ax + (high - ay) * slope : bx;
    left = std::min(x0, x1);
    right = std::max(x0, x1);
    return true;
}

// Brings the square distances of pixels in rows `top` to `top + rows` up to date with one more segment: `squares` is
// the first of those rows, `pitch` values apart; `touched` has a flag for each `block` columns.
POLYPSTREAM_CLONES void add_segment(
    const Segment& s, float reach, int top, int rows, int width, float* squares, int pitch, std::uint8_t* touched
) {
    const float across = s.bx - s.ax, down = s.by - s.ay;
    const float length = across * across + down * down;
    const float inverse = 1.0f / (length > 1e-12f ? length : 1e-12f);
    const int first = std::max(top, static_cast<int>(std::floor(std::min(s.ay, s.by) - reach)));
    const int last = std::min(top + rows - 1, static_cast<int>(std::ceil(std::max(s.ay, s.by) + reach)));
    for (int row = first; row <= last; ++row) {
        const float y = static_cast<float>(row) + 0.5f;
        float left, right;
        if (!span_within(s, y - reach, y + reach, left, right)) continue;
        const int from = std::max(0, static_cast<int>(left - reach));
        const int to = std::min(width, static_cast<int>(right + reach) + 2);
        if (from >= to) continue;
        float* square = squares + static_cast<std::int64_t>(row - top) * pitch;
        const float dy = y - s.ay;
        for (int x = from; x < to; ++x) {
            // As `square_distance`, whose parts that stay the same are computed above.
            const float dx = (static_cast<float>(x) + 0.5f) - s.ax;
            float along = (dx * across + dy * down) * inverse;
            along = along < 0.0f ? 0.0f : along;
            along = along > 1.0f ? 1.0f : along;
            const float ex = dx - along * across, ey = dy - along * down;
            const float found = ex * ex + ey * ey;
            square[x] = found < square[x] ? found : square[x];
        }
        for (int b = from / block; b <= (to - 1) / block; ++b) touched[b] = 1;
    }
}

// Sixteen rows of a frame: the square distance of each pixel from the nearest segment, where that is near.
class Strip {
  public:
    Strip(int width, const Band& band) : width_(width), pitch_((width + block - 1) / block * block), band_(band) {
        squares_.assign(static_cast<std::size_t>(pitch_) * block, nowhere);
        touched_.assign(pitch_ / block, 0);
    }

    void add(const Segment& s, int top, int rows) {
        add_segment(s, band_.reach(), top, rows, width_, squares_.data(), pitch_, touched_.data());
    }

    // Blends what was added into the planes, and forgets it.
    void draw(int top, int height, const std::vector<PlaneView>& planes) {
        const float most = band_.reach() * band_.reach();
        for (int b = 0; b < pitch_ / block; ++b) {
            if (!touched_[b]) continue;
            touched_[b] = 0;
            const int left = b * block, columns = std::min(block, width_ - left), rows = std::min(block, height - top);
            bool any = false;
            for (int y = 0; y < block; ++y) {
                float* square = squares_.data() + static_cast<std::size_t>(y) * pitch_ + left;
                for (int x = 0; x < block; ++x) {
                    const bool near = square[x] < most;
                    const Ink ink = near ? ink_of(square[x], band_) : Ink{0, 0};
                    any |= ink.line + ink.casing > 0;
                    line_[y][x] = ink.line;
                    casing_[y][x] = ink.casing;
                    square[x] = nowhere;
                }
            }
            if (!any) continue;
            for (const PlaneView& plane : planes) blend_block(plane, left, top, columns, rows);
        }
    }

  private:
    void blend_block(const PlaneView& plane, int left, int top, int columns, int rows) {
        if (plane.across == 1 && plane.down == 1) {
            for (int y = 0; y < rows; ++y) {
                for (int x = 0; x < columns; ++x) {
                    const float line = line_[y][x], casing = casing_[y][x];
                    if (line + casing > 0) blend(plane, top + y, left + x, line, casing);
                }
            }
            return;
        }
        for (int y = 0; y < rows; y += plane.down) {
            for (int x = 0; x < columns; x += plane.across) {
                const int right = std::min(x + plane.across, columns), bottom = std::min(y + plane.down, rows);
                float line = 0, casing = 0;
                for (int v = y; v < bottom; ++v) {
                    for (int u = x; u < right; ++u) line += line_[v][u], casing += casing_[v][u];
                }
                if (!(line + casing > 0)) continue;
                const float share = 1.0f / static_cast<float>((right - x) * (bottom - y));
                blend(plane, (top + y) / plane.down, (left + x) / plane.across, line * share, casing * share);
            }
        }
    }

    int width_, pitch_;
    Band band_;
    std::vector<float> squares_;
    std::vector<std::uint8_t> touched_;
    float line_[block][block], casing_[block][block];
};

std::string text(float value) { return std::to_string(value); }

POLYPSTREAM_CLONES void is_inside(const float* values, int count, float threshold, std::uint8_t* inside) {
    for (int i = 0; i < count; ++i) inside[i] = values[i] >= threshold;
}

POLYPSTREAM_CLONES bool all_finite(const float* values, int count) {
    std::int32_t odd = 0;
    for (int i = 0; i < count; ++i) {
        std::int32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        odd |= (bits & 0x7F800000) == 0x7F800000;
    }
    return odd == 0;
}

// Whether the corners of the cell to the right of each value differ; `upper` and `lower` have count + 1 values.
POLYPSTREAM_CLONES void is_crossed(const std::uint8_t* upper, const std::uint8_t* lower, int count, std::uint8_t* crossed) {
    for (int i = 0; i < count; ++i) {
        crossed[i] = static_cast<std::uint8_t>((upper[i] ^ upper[i + 1]) | (upper[i] ^ lower[i]) | (upper[i] ^ lower[i + 1]));
    }
}

// Part of the way from a to b within [low, high], as shares of it; false if none.
bool clip(double a, double way, double low, double high, double& enters, double& leaves) {
    if (way == 0) return a >= low && a <= high;
    double first = (low - a) / way, second = (high - a) / way;
    if (first > second) std::swap(first, second);
    enters = std::max(enters, first);
    leaves = std::min(leaves, second);
    return enters <= leaves;
}

}  // namespace

void check_drawing(int width, int height, const std::vector<PlaneView>& planes, const Band& band) {
    if (width < 1 || height < 1 || width > (1 << 15) || height > (1 << 15)) {
        throw ConfigError("the frame is " + std::to_string(width) + "x" + std::to_string(height) + "; sides must be 1 to 32768");
    }
    if (!(band.line_radius >= 0 && band.radius >= band.line_radius && band.radius <= 4096)) {
        throw ConfigError("the marker's radii are " + text(band.line_radius) + " and " + text(band.radius) + "; they must be 0 to 4096, the first not above the second");
    }
    for (float share : {band.opacity, band.casing_opacity}) {
        if (!(share >= 0 && share <= 1)) throw ConfigError("the marker's opacity is " + text(share) + "; it must be between 0 and 1");
    }
    for (const PlaneView& plane : planes) {
        const auto divides = [](int side) { return side == 1 || side == 2 || side == 4; };
        if (!divides(plane.across) || !divides(plane.down)) {
            throw ConfigError("a sample stands for " + std::to_string(plane.across) + "x" + std::to_string(plane.down) + " pixels; each must be 1, 2 or 4");
        }
        if (plane.data == nullptr || (plane.bytes != 1 && plane.bytes != 2) || plane.shift < 0 || plane.shift >= 8 * plane.bytes) {
            throw ConfigError("a plane has samples of " + std::to_string(plane.bytes) + " bytes, shifted by " + std::to_string(plane.shift) + "; use 1 or 2 bytes and a shift within them");
        }
    }
}

void check_map(const MapView& map, int width, int height) {
    if (map.data == nullptr || map.width < 1 || map.height < 1 || map.width > (1 << 15) || map.height > (1 << 15)) {
        throw ConfigError("the probability map is " + std::to_string(map.width) + "x" + std::to_string(map.height) + "; sides must be 1 to 32768");
    }
    if (!(map.left >= 0 && map.left < map.right && map.right <= width && map.top >= 0 && map.top < map.bottom && map.bottom <= height)) {
        throw ConfigError(
            "the map's place from (" + text(map.left) + ", " + text(map.top) + ") to (" + text(map.right) + ", " +
            text(map.bottom) + ") is no part of a frame of " + std::to_string(width) + "x" + std::to_string(height)
        );
    }
    if (!(map.threshold > 0 && map.threshold <= 1)) throw ConfigError("threshold is " + text(map.threshold) + "; it must be above 0 and at most 1");
}

std::vector<Segment> line_of(const MapView& map) {
    std::vector<Segment> segments;
    const auto take = [&](int i, int j) {
        Pieces pieces;
        pieces_of(map, i, j, pieces);
        segments.insert(segments.end(), pieces.segment, pieces.segment + pieces.count);
    };
    // Cell (i, j) lies to the right of and below value (i - 1, j - 1): between the values, of `width` in a row, only
    // crossed cells matter; those at the map's edges are all asked.
    std::vector<std::uint8_t> rows(2 * static_cast<std::size_t>(map.width)), crossed(static_cast<std::size_t>(map.width) + 8);
    std::uint8_t* upper = rows.data();
    std::uint8_t* lower = rows.data() + map.width;
    is_inside(map.data, map.width, map.threshold, lower);
    for (int j = 0; j <= map.height; ++j) {
        if (j == 0 || j == map.height) {
            for (int i = 0; i <= map.width; ++i) take(i, j);
            continue;
        }
        std::swap(upper, lower);
        const float* row = map.data + j * map.pitch;
        is_inside(row, map.width, map.threshold, lower);
        take(0, j);
        is_crossed(upper, lower, map.width - 1, crossed.data());
        for (int i = 0; i < map.width - 1; i += 8) {
            std::uint64_t eight;
            std::memcpy(&eight, crossed.data() + i, 8);
            if (eight == 0) continue;
            for (int k = i; k < std::min(i + 8, map.width - 1); ++k) {
                if (crossed[k]) take(k + 1, j);
            }
        }
        take(map.width, j);
    }
    return segments;
}

void draw_band(
    int width, int height, const std::vector<PlaneView>& planes, const std::vector<Segment>& segments, const Band& band
) {
    const int strips = (height + block - 1) / block;
    const float reach = band.reach();
    std::vector<std::vector<std::uint32_t>> of_strip(strips);
    for (std::size_t k = 0; k < segments.size(); ++k) {
        const Segment& s = segments[k];
        const float top = std::min(s.ay, s.by) - reach, bottom = std::max(s.ay, s.by) + reach;
        if (bottom < 0 || top > static_cast<float>(height)) continue;
        const int first = std::max(0, static_cast<int>(std::floor(top))) / block;
        const int last = std::min(strips - 1, static_cast<int>(std::ceil(bottom)) / block);
        for (int strip = first; strip <= last; ++strip) of_strip[strip].push_back(static_cast<std::uint32_t>(k));
    }
    Strip strip(width, band);
    for (int n = 0; n < strips; ++n) {
        if (of_strip[n].empty()) continue;
        const int top = n * block;
        for (std::uint32_t k : of_strip[n]) strip.add(segments[k], top, std::min(block, height - top));
        strip.draw(top, height, planes);
    }
}

void mark(int width, int height, const std::vector<PlaneView>& planes, const MapView& map, const Band& band) {
    check_drawing(width, height, planes, band);
    check_map(map, width, height);
    for (int row = 0; row < map.height; ++row) {
        if (!all_finite(map.data + row * map.pitch, map.width)) {
            throw ConfigError("the probability map has a value that is not finite in row " + std::to_string(row) + "; draw nothing for this frame");
        }
    }
    draw_band(width, height, planes, line_of(map), band);
}

void draw_curve(
    int width, int height, const std::vector<PlaneView>& planes, const float* points, std::size_t count, const Band& band
) {
    check_drawing(width, height, planes, band);
    const double reach = band.reach() + 1;
    std::vector<Segment> segments;
    segments.reserve(count);
    for (std::size_t k = 0; k < count; ++k) {
        const float* a = points + 2 * k;
        const float* b = points + 2 * ((k + 1) % count);
        if (!std::isfinite(a[0]) || !std::isfinite(a[1])) {
            throw ConfigError("a contour has coordinates that are not finite; check the polyps passed for drawing");
        }
        const double ax = a[0], ay = a[1], wx = double(b[0]) - ax, wy = double(b[1]) - ay;
        double enters = 0, leaves = 1;
        if (!clip(ax, wx, -reach, width + reach, enters, leaves) || !clip(ay, wy, -reach, height + reach, enters, leaves)) continue;
        if (!std::isfinite(wx) || !std::isfinite(wy)) continue;  // past all precision, or checked with the next point
        segments.push_back({
            static_cast<float>(ax + wx * enters), static_cast<float>(ay + wy * enters),
            static_cast<float>(ax + wx * leaves), static_cast<float>(ay + wy * leaves),
        });
    }
    draw_band(width, height, planes, segments, band);
}

}  // namespace polypstream
