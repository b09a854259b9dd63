// Marking polyps on a frame: the arithmetic that the C++ version and the CUDA kernels share.
//
// A probability map covers a rectangle of the frame; between the centers of its values it is interpolated bilinearly,
// from the outermost centers to the rectangle's edge it is constant, and beyond it is 0. The line at which it passes
// the threshold is found cell by cell: the ends of each piece lie exactly on the line, and so does a point between
// them, unless the piece is straight. A pixel is covered by its distance from the nearest piece, as `MarkerStyle` describes: a line with a casing on
// both sides, anti-aliased over one pixel. A sample that stands for several pixels takes the mean of their coverage.
#pragma once

#include <cmath>
#include <cstdint>

#include "platform.h"

namespace polypstream {

// Coordinates are continuous: the center of pixel (0, 0) is at (0.5, 0.5).
struct Segment {
    float ax, ay, bx, by;
};

// Distances in pixels and opacities of a marker.
struct Band {
    float line_radius, radius;  // of the line alone, and with its casing
    float opacity, casing_opacity;
    POLYPSTREAM_SHARED float reach() const { return radius + 0.5f; }
};

// Share of the line's and the casing's color in a pixel.
struct Ink {
    float line, casing;
};

// One color component of a frame in memory, 8 or 16 bits per sample.
struct PlaneView {
    std::uint8_t* data = nullptr;
    std::int64_t pitch = 0, step = 0;  // bytes from row to row, and from sample to sample
    int across = 1, down = 1;          // pixels that share a sample
    int bytes = 1, shift = 0;          // a sample holds its value shifted left by `shift`
    float line = 0, casing = 0;        // the colors' values on this plane
};

// A probability map in its place. For device maps the pointer is a device pointer.
struct MapView {
    const float* data = nullptr;
    std::int64_t pitch = 0;  // values from row to row
    int width = 0, height = 0;
    float left = 0, top = 0, right = 0, bottom = 0;  // in pixels of the frame
    float threshold = 0.5f;
};

POLYPSTREAM_SHARED float square_distance(float x, float y, const Segment& s) {
    const float across = s.bx - s.ax, down = s.by - s.ay;
    const float length = across * across + down * down;
    const float inverse = 1.0f / (length > 1e-12f ? length : 1e-12f);
    const float dx = x - s.ax, dy = y - s.ay;
    float along = (dx * across + dy * down) * inverse;
    along = along < 0.0f ? 0.0f : along;
    along = along > 1.0f ? 1.0f : along;
    const float ex = dx - along * across, ey = dy - along * down;
    return ex * ex + ey * ey;
}

POLYPSTREAM_SHARED Ink ink_of(float square, const Band& band) {
    const float distance = sqrtf(square);
    const float line = limited(band.line_radius + 0.5f - distance, 0.0f, 1.0f);
    const float both = limited(band.radius + 0.5f - distance, 0.0f, 1.0f);
    return {band.opacity * line, band.opacity * band.casing_opacity * (both - line)};
}

POLYPSTREAM_SHARED void blend(const PlaneView& plane, int row, int column, float line, float casing) {
    std::uint8_t* at = plane.data + row * plane.pitch + column * plane.step;
    const unsigned old = plane.bytes == 1 ? *at : *reinterpret_cast<std::uint16_t*>(at);
    const float value = static_cast<float>(old >> plane.shift) * (1.0f - line - casing) + plane.line * line +
                        plane.casing * casing;
    const unsigned drawn = static_cast<unsigned>(rintf(value)) << plane.shift;
    if (plane.bytes == 1) {
        *at = static_cast<std::uint8_t>(drawn);
    } else {
        *reinterpret_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(drawn);
    }
}

// The map's grid: column i of width + 2 is a center for 1 ≤ i ≤ width, and the edges before and after.
POLYPSTREAM_SHARED float grid_x(const MapView& map, int i) {
    if (i <= 0) return map.left;
    if (i > map.width) return map.right;
    return map.left + (static_cast<float>(i) - 0.5f) * ((map.right - map.left) / static_cast<float>(map.width));
}

POLYPSTREAM_SHARED float grid_y(const MapView& map, int j) {
    if (j <= 0) return map.top;
    if (j > map.height) return map.bottom;
    return map.top + (static_cast<float>(j) - 0.5f) * ((map.bottom - map.top) / static_cast<float>(map.height));
}

POLYPSTREAM_SHARED float grid_value(const MapView& map, int i, int j) {
    const int column = limited(i - 1, 0, map.width - 1), row = limited(j - 1, 0, map.height - 1);
    return map.data[row * map.pitch + column];
}

// A value exactly at the threshold belongs to the polyp; a NaN does not.
POLYPSTREAM_SHARED bool is_polyp(float value, float threshold) { return value >= threshold; }

// Where between a and b, which lie on two sides of the threshold, it is passed: from 0 at a to 1 at b.
POLYPSTREAM_SHARED float passage(float a, float b, float threshold) {
    return limited((threshold - a) / (b - a), 0.0f, 1.0f);
}

// The pieces of the line in one cell: at most 2 lines of 2 segments, and 2 along each edge of the map.
struct Pieces {
    Segment segment[8];
    int count = 0;
    POLYPSTREAM_SHARED void add(float ax, float ay, float bx, float by) { segment[count++] = {ax, ay, bx, by}; }
};

// Bends of less than this, in pixels, are not drawn.
constexpr float straight = 0.05f;

// Adds a line through a cell, by way of the point where the bilinear surface passes the threshold halfway.
// u, v are shares of the cell's sides; a, b, c, d the values at its upper left, upper right, lower left, lower right.
POLYPSTREAM_SHARED void add_line(
    Pieces& pieces, float x, float y, float across, float down, float a, float b, float c, float d, float level,
    float u0, float v0, float u1, float v1
) {
    float u = 0.5f * (u0 + u1), v = 0.5f * (v0 + v1);
    if (fabsf(u1 - u0) >= fabsf(v1 - v0)) {
        const float upper = a + (b - a) * u, lower = c + (d - c) * u;
        if (is_polyp(upper, level) != is_polyp(lower, level)) v = passage(upper, lower, level);
    } else {
        const float before = a + (c - a) * v, after = b + (d - b) * v;
        if (is_polyp(before, level) != is_polyp(after, level)) u = passage(before, after, level);
    }
    const float ax = x + u0 * across, ay = y + v0 * down, bx = x + u1 * across, by = y + v1 * down;
    const float mx = x + u * across, my = y + v * down;
    if (fabsf(mx - 0.5f * (ax + bx)) + fabsf(my - 0.5f * (ay + by)) < straight) {
        pieces.add(ax, ay, bx, by);
    } else {
        pieces.add(ax, ay, mx, my);
        pieces.add(mx, my, bx, by);
    }
}

// Adds the part of an edge of the map along which its value reaches the threshold.
POLYPSTREAM_SHARED void add_edge(Pieces& pieces, float ax, float ay, float bx, float by, float a, float b, float level) {
    const bool first = is_polyp(a, level), second = is_polyp(b, level);
    if (!first && !second) return;
    if (first != second) {
        const float share = passage(a, b, level);
        const float x = ax + (bx - ax) * share, y = ay + (by - ay) * share;
        if (first) {
            bx = x, by = y;
        } else {
            ax = x, ay = y;
        }
    }
    pieces.add(ax, ay, bx, by);
}

// The line in cell (i, j), 0 ≤ i ≤ width and 0 ≤ j ≤ height, between grid columns i, i + 1 and rows j, j + 1.
POLYPSTREAM_SHARED void pieces_of(const MapView& map, int i, int j, Pieces& pieces) {
    const float a = grid_value(map, i, j), b = grid_value(map, i + 1, j);
    const float c = grid_value(map, i, j + 1), d = grid_value(map, i + 1, j + 1);
    const float level = map.threshold;
    const int corners = is_polyp(a, level) | is_polyp(b, level) << 1 | is_polyp(c, level) << 2 | is_polyp(d, level) << 3;
    if (corners == 0) return;
    if (!(fabsf(a + b + c + d) < 3e38f)) return;  // a NaN or an infinity
    const float x = grid_x(map, i), y = grid_y(map, j);
    const float right = grid_x(map, i + 1), bottom = grid_y(map, j + 1);
    if (j == 0) add_edge(pieces, x, y, right, y, a, b, level);
    if (j == map.height) add_edge(pieces, x, bottom, right, bottom, c, d, level);
    if (i == 0) add_edge(pieces, x, y, x, bottom, a, c, level);
    if (i == map.width) add_edge(pieces, right, y, right, bottom, b, d, level);
    if (corners == 15) return;
    const float across = right - x, down = bottom - y;
    // Where the line passes each side of the cell, as far as it does.
    const float top = passage(a, b, level), low = passage(c, d, level);
    const float before = passage(a, c, level), after = passage(b, d, level);
    switch (corners) {
        case 1: case 14: add_line(pieces, x, y, across, down, a, b, c, d, level, 0, before, top, 0); break;
        case 2: case 13: add_line(pieces, x, y, across, down, a, b, c, d, level, top, 0, 1, after); break;
        case 4: case 11: add_line(pieces, x, y, across, down, a, b, c, d, level, 0, before, low, 1); break;
        case 8: case 7: add_line(pieces, x, y, across, down, a, b, c, d, level, low, 1, 1, after); break;
        case 3: case 12: add_line(pieces, x, y, across, down, a, b, c, d, level, 0, before, 1, after); break;
        case 5: case 10: add_line(pieces, x, y, across, down, a, b, c, d, level, top, 0, low, 1); break;
        default: {
            // Opposite corners: the value at the surface's saddle says which are connected.
            const float saddle = (a * d - b * c) / (a + d - b - c);
            const bool joined = is_polyp(saddle, level) == (corners == 9);
            if (joined) {
                add_line(pieces, x, y, across, down, a, b, c, d, level, top, 0, 1, after);
                add_line(pieces, x, y, across, down, a, b, c, d, level, 0, before, low, 1);
            } else {
                add_line(pieces, x, y, across, down, a, b, c, d, level, 0, before, top, 0);
                add_line(pieces, x, y, across, down, a, b, c, d, level, low, 1, 1, after);
            }
        }
    }
}

}  // namespace polypstream
