// From a probability map to contours, as polypstream.realtime.outlines.contours does it in Python.
#pragma once

#include <vector>

namespace polypstream {

struct Polyp {
    std::vector<float> points;  // x, y of each vertex, in pixels of the frame
    float area = 0, score = 0;
};

// Polyps of a map of `columns` x `rows` values that shows a whole frame of `width` x `height`; the largest first. Regions
// that never reach `min_peak` are left out.
std::vector<Polyp> polyps_of(
    const float* map, int columns, int rows, float threshold, float min_peak, int width, int height,
    double min_area_share
);

}  // namespace polypstream
