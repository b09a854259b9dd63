// Markers on the planes of a frame in host memory.
#pragma once

#include <vector>

#include "mark.h"

namespace polypstream {

// Raises ConfigError for a frame, a plane or a band that cannot be drawn.
void check_drawing(int width, int height, const std::vector<PlaneView>& planes, const Band& band);

// Raises ConfigError for a map that has no place on the frame or holds a value that is not finite.
void check_map(const MapView& map, int width, int height);

// The pieces of the threshold's line of a whole map, cell row by cell row.
std::vector<Segment> line_of(const MapView& map);

// Draws the band around all segments at once, so that crossings are not darker than the line itself.
void draw_band(
    int width, int height, const std::vector<PlaneView>& planes, const std::vector<Segment>& segments, const Band& band
);

// Outlines where a probability map reaches its threshold.
void mark(int width, int height, const std::vector<PlaneView>& planes, const MapView& map, const Band& band);

// Outlines a closed curve of `count` points x, y, which may leave the frame.
void draw_curve(
    int width, int height, const std::vector<PlaneView>& planes, const float* points, std::size_t count, const Band& band
);

}  // namespace polypstream
