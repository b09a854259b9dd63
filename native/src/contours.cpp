#include "contours.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>

namespace polypstream {
namespace {

constexpr int margin = 8;               // padding of the map with its edge values, in its own pixels
constexpr double smoothing = 2.5;       // standard deviation of the filter along the curve, in pixels of the map
constexpr double vertex_tolerance = 0.05;  // in pixels of the frame
constexpr double pi = 3.14159265358979323846;

using Point = std::complex<double>;
using Curve = std::vector<Point>;

// The four sides of a pixel, counterclockwise on screen: right, up, left, down.
constexpr int side_x[4] = {1, 0, -1, 0}, side_y[4] = {0, -1, 0, 1};

class Regions {
  public:
    Regions(const float* map, int columns, int rows, float threshold, float min_peak)
        : columns_(columns + 2 * margin), rows_(rows + 2 * margin), threshold_(threshold),
          value_(static_cast<std::size_t>(columns_) * rows_), is_polyp_(value_.size(), 0), filled_(value_.size(), 1),
          passed_(value_.size(), 0) {
        for (int y = 0; y < rows_; ++y) {
            const float* row = map + static_cast<std::ptrdiff_t>(std::clamp(y - margin, 0, rows - 1)) * columns;
            for (int x = 0; x < columns_; ++x) value_[at(x, y)] = row[std::clamp(x - margin, 0, columns - 1)];
        }
        for (int y = 1; y + 1 < rows_; ++y) {
            for (int x = 1; x + 1 < columns_; ++x) is_polyp_[at(x, y)] = value_[at(x, y)] >= threshold;
        }
        if (min_peak > threshold) drop_weak(min_peak);
        // What the background reaches from the border is outside; holes and islands in them are filled.
        std::vector<int> open = {0};
        filled_[0] = 0;
        while (!open.empty()) {
            const int here = open.back(), x = here % columns_, y = here / columns_;
            open.pop_back();
            for (int side = 0; side < 4; ++side) {
                const int u = x + side_x[side], v = y + side_y[side];
                if (u < 0 || v < 0 || u >= columns_ || v >= rows_) continue;
                const int next = static_cast<int>(at(u, v));
                if (filled_[next] && !is_polyp_[next]) filled_[next] = 0, open.push_back(next);
            }
        }
    }

    // The next region's level line, without the margin; false when there is no further one.
    struct Region {
        Curve line;
        int left, top, right, bottom;  // of its pixels, ends included
        double score;
    };

    bool next(Region& region) {
        for (; start_ < static_cast<int>(value_.size()); ++start_) {
            const int x = start_ % columns_, y = start_ / columns_;
            if (!filled_[start_] || passed_[start_] || filled_[at(x, y - 1)]) continue;
            trace(x, y, region);
            return true;
        }
        return false;
    }

  private:
    std::size_t at(int x, int y) const { return static_cast<std::size_t>(y) * columns_ + x; }

    // Sets regions that never reach `min_peak` to 0.
    void drop_weak(float min_peak) {
        std::vector<std::uint8_t> seen(value_.size(), 0);
        std::vector<int> region;
        for (int start = 0; start < static_cast<int>(value_.size()); ++start) {
            if (!is_polyp_[start] || seen[start]) continue;
            bool is_strong = false;
            region.assign(1, start);
            seen[start] = 1;
            for (std::size_t done = 0; done < region.size(); ++done) {
                const int here = region[done], x = here % columns_, y = here / columns_;
                is_strong = is_strong || value_[here] >= min_peak;
                for (int v = y - 1; v <= y + 1; ++v) {
                    for (int u = x - 1; u <= x + 1; ++u) {
                        const int next = static_cast<int>(at(u, v));
                        if (is_polyp_[next] && !seen[next]) seen[next] = 1, region.push_back(next);
                    }
                }
            }
            if (is_strong) continue;
            for (const int here : region) is_polyp_[here] = 0, value_[here] = 0;
        }
    }

    // Walks along the sides of a region's outer pixels; one point for each side, where the value passes the threshold.
    void trace(int x, int y, Region& region) {
        const int first_x = x, first_y = y;
        int side = 1;
        region = {{}, x, y, x, y, 0};
        do {
            if (side == 1) passed_[at(x, y)] = 1;
            const double inside = value_[at(x, y)];
            const double drop = inside - value_[at(x + side_x[side], y + side_y[side])];
            const double share = std::clamp(drop > 0 ? (inside - threshold_) / drop : 0.5, 0.05, 1.0);
            region.line.emplace_back(x + 0.5 + side_x[side] * share - margin, y + 0.5 + side_y[side] * share - margin);
            region.left = std::min(region.left, x), region.right = std::max(region.right, x);
            region.top = std::min(region.top, y), region.bottom = std::max(region.bottom, y);
            // Counterclockwise: the region lies to the left, and corners connect.
            const int along = (side + 1) % 4;
            const int u = x + side_x[along], v = y + side_y[along];
            if (filled_[at(u + side_x[side], v + side_y[side])]) {
                x = u + side_x[side], y = v + side_y[side];
                side = (along + 2) % 4;
            } else if (filled_[at(u, v)]) {
                x = u, y = v;
            } else {
                side = along;
            }
        } while (x != first_x || y != first_y || side != 1);
        region.score = mean_from(first_x, first_y);
    }

    // Mean value of a region's pixels at or above the threshold, without the margin.
    double mean_from(int x, int y) {
        std::vector<int> open = {static_cast<int>(at(x, y))};
        if (seen_.empty()) seen_.assign(value_.size(), 0);
        seen_[open[0]] = 1;
        double sum = 0;
        int count = 0;
        while (!open.empty()) {
            const int here = open.back(), hx = here % columns_, hy = here / columns_;
            open.pop_back();
            const bool is_map = hx >= margin && hy >= margin && hx < columns_ - margin && hy < rows_ - margin;
            if (is_polyp_[here] && is_map) sum += value_[here], ++count;
            for (int v = hy - 1; v <= hy + 1; ++v) {
                for (int u = hx - 1; u <= hx + 1; ++u) {
                    const int next = static_cast<int>(at(u, v));
                    if (filled_[next] && !seen_[next]) seen_[next] = 1, open.push_back(next);
                }
            }
        }
        return count ? sum / count : 0;
    }

    int columns_, rows_;
    float threshold_;
    std::vector<float> value_;
    std::vector<std::uint8_t> is_polyp_, filled_, passed_, seen_;
    int start_ = 0;
};

// The curve in `count` even steps, and its length.
Curve even_steps(const Curve& line, double finest, double& length) {
    std::vector<double> along(line.size() + 1, 0);
    for (std::size_t k = 0; k < line.size(); ++k) {
        along[k + 1] = along[k] + std::abs(line[(k + 1) % line.size()] - line[k]);
    }
    length = along.back();
    const int count = std::max(16, static_cast<int>(std::ceil(length / std::min(0.5, 2.5 * finest))));
    Curve even(count);
    std::size_t k = 0;
    for (int i = 0; i < count; ++i) {
        const double at = i * (length / count);
        while (k + 1 < line.size() && along[k + 1] <= at) ++k;
        const double step = along[k + 1] - along[k];
        const Point& a = line[k];
        even[i] = a + (line[(k + 1) % line.size()] - a) * (step > 0 ? (at - along[k]) / step : 0.0);
    }
    return even;
}

// The low-pass filter 2 g - g² of Python's `_smoothed`, as a sum over the neighbors of each point.
Curve smoothed(const Curve& line, double finest) {
    double length;
    const Curve even = even_steps(line, finest, length);
    const int count = static_cast<int>(even.size());
    const double step = length / count, sigma = std::min(smoothing, length / 20);
    const int reach = std::min(count / 2, static_cast<int>(std::ceil(10 * sigma / step)));
    std::vector<double> weight(reach + 1, 0);
    for (int f = 0; f <= count / 2; ++f) {
        const double gauss = std::exp(-0.5 * std::pow(2 * pi * sigma * f / length, 2));
        if (gauss < 1e-12) break;
        const double kept = (2 - gauss) * gauss * (f == 0 || 2 * f == count ? 1 : 2) / count;
        // cos(m a) for m = 0, 1, … by its recurrence.
        const double turn = 2 * std::cos(2 * pi * f / count);
        double now = 1, before = turn / 2;
        for (int m = 0; m <= reach; ++m) {
            weight[m] += kept * now;
            const double after = turn * now - before;
            before = now, now = after;
        }
    }
    Curve curve(count);
    for (int i = 0; i < count; ++i) {
        Point sum = weight[0] * even[i];
        for (int m = 1; m <= reach; ++m) {
            // With an even count, the opposite point is one and not two.
            const Point ahead = even[(i + m) % count], behind = even[(i - m + count) % count];
            sum += 2 * m == count ? weight[m] * ahead : weight[m] * (ahead + behind);
        }
        curve[i] = sum;
    }
    return curve;
}

double square_from_line(const Point& p, const Point& a, const Point& b) {
    const Point way = b - a, from = p - a;
    const double length = std::norm(way);
    if (length == 0) return std::norm(from);
    const double aside = from.real() * way.imag() - from.imag() * way.real();
    return aside * aside / length;
}

// Douglas and Peucker's simplification, from both ends of each stretch in turn.
Curve thinned(const Curve& curve) {
    const std::size_t count = curve.size();
    std::size_t far = 0;
    for (std::size_t k = 1; k < count; ++k) {
        if (std::norm(curve[k] - curve[0]) > std::norm(curve[far] - curve[0])) far = k;
    }
    std::vector<std::uint8_t> is_kept(count, 0);
    is_kept[0] = is_kept[far] = 1;
    std::vector<std::pair<std::size_t, std::size_t>> open = {{0, far}, {far, count}};
    while (!open.empty()) {
        const auto [from, to] = open.back();
        open.pop_back();
        double most = vertex_tolerance * vertex_tolerance;
        std::size_t worst = 0;
        for (std::size_t k = from + 1; k < to; ++k) {
            const double square = square_from_line(curve[k], curve[from], curve[to % count]);
            if (square > most) most = square, worst = k;
        }
        if (worst == 0) continue;
        is_kept[worst] = 1;
        open.push_back({from, worst});
        open.push_back({worst, to});
    }
    Curve thin;
    for (std::size_t k = 0; k < count; ++k) {
        if (is_kept[k]) thin.push_back(curve[k]);
    }
    return thin.size() > 3 ? thin : curve;
}

double area_of(const Curve& curve) {
    double twice = 0;
    for (std::size_t k = 0; k < curve.size(); ++k) {
        const Point &a = curve[k], &b = curve[(k + 1) % curve.size()];
        twice += a.real() * b.imag() - b.real() * a.imag();
    }
    return std::fabs(twice) / 2;
}

}  // namespace

std::vector<Polyp> polyps_of(
    const float* map, int columns, int rows, float threshold, float min_peak, int width, int height,
    double min_area_share
) {
    const double scale_x = double(width) / columns, scale_y = double(height) / rows;
    std::vector<Polyp> polyps;
    Regions regions(map, columns, rows, threshold, min_peak);
    Regions::Region region;
    while (regions.next(region)) {
        const double box = (region.right - region.left + 3.0) * (region.bottom - region.top + 3.0);
        if (box < min_area_share * rows * columns) continue;  // its level line encloses even less
        Curve curve = smoothed(region.line, 1 / std::max(scale_x, scale_y));
        for (Point& p : curve) {
            p = {std::clamp(p.real() * scale_x, 0.0, double(width)), std::clamp(p.imag() * scale_y, 0.0, double(height))};
        }
        curve = thinned(curve);
        const double area = area_of(curve);
        if (area < min_area_share * width * height) continue;
        Polyp polyp;
        polyp.area = static_cast<float>(area);
        polyp.score = static_cast<float>(region.score);
        for (const Point& p : curve) {
            polyp.points.push_back(static_cast<float>(p.real()));
            polyp.points.push_back(static_cast<float>(p.imag()));
        }
        polyps.push_back(std::move(polyp));
    }
    std::stable_sort(polyps.begin(), polyps.end(), [](const Polyp& a, const Polyp& b) { return a.area > b.area; });
    return polyps;
}

}  // namespace polypstream
