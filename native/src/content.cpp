#include "content.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace polypstream {
namespace {

constexpr int dark = 24, enough = 192;
constexpr double least_share = 0.1;
constexpr double tolerance = 0.02, least_side = 0.25;
constexpr int grow_after = 3, shrink_after = 50;

struct Pixel {
    int x, y;
};

// Andrew's monotone chain.
std::vector<Pixel> hull_of(std::vector<Pixel> points) {
    std::sort(points.begin(), points.end(), [](Pixel a, Pixel b) { return a.x < b.x || (a.x == b.x && a.y < b.y); });
    std::vector<Pixel> hull;
    const auto add = [&](Pixel p, std::size_t least) {
        while (hull.size() >= least + 2) {
            const Pixel a = hull[hull.size() - 2], b = hull.back();
            if ((b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x) > 0) break;
            hull.pop_back();
        }
        hull.push_back(p);
    };
    for (const Pixel& p : points) add(p, 0);
    const std::size_t lower = hull.size() - 1;
    for (auto p = points.rbegin() + 1; p < points.rend(); ++p) add(*p, lower);
    hull.pop_back();
    return hull;
}

// Pixels that a convex polygon covers, its border included.
std::vector<std::uint8_t> filled(const std::vector<Pixel>& hull, int width, int height) {
    std::vector<std::uint8_t> area(static_cast<std::size_t>(width) * height, 0);
    for (int y = 0; y < height; ++y) {
        double left = width, right = -1;
        for (std::size_t k = 0; k < hull.size(); ++k) {
            Pixel a = hull[k], b = hull[(k + 1) % hull.size()];
            if (a.y > b.y) std::swap(a, b);
            if (b.y < y || a.y > y) continue;
            const double slope = b.y > a.y ? double(b.x - a.x) / (b.y - a.y) : 0;
            const auto at = [&](double row) {
                return a.y == b.y ? double(a.x) : a.x + (std::clamp(row, double(a.y), double(b.y)) - a.y) * slope;
            };
            for (double x : {at(y - 0.5), at(y + 0.5), a.y == b.y ? double(b.x) : at(y)}) {
                left = std::min(left, x), right = std::max(right, x);
            }
        }
        const int first = std::max(0, static_cast<int>(std::lround(left)));
        const int last = std::min(width - 1, static_cast<int>(std::lround(right)));
        for (int x = first; x <= last; ++x) area[static_cast<std::size_t>(y) * width + x] = 1;
    }
    return area;
}

// The pixels of the largest connected region of flags.
std::vector<Pixel> largest(std::vector<std::uint8_t>& flags, int columns, int rows) {
    std::vector<Pixel> best, region, open;
    for (int y = 0; y < rows; ++y) {
        for (int x = 0; x < columns; ++x) {
            if (!flags[static_cast<std::size_t>(y) * columns + x]) continue;
            region.clear();
            open = {{x, y}};
            flags[static_cast<std::size_t>(y) * columns + x] = 0;
            while (!open.empty()) {
                const Pixel here = open.back();
                open.pop_back();
                region.push_back(here);
                for (int v = std::max(0, here.y - 1); v <= std::min(rows - 1, here.y + 1); ++v) {
                    for (int u = std::max(0, here.x - 1); u <= std::min(columns - 1, here.x + 1); ++u) {
                        std::uint8_t& flag = flags[static_cast<std::size_t>(v) * columns + u];
                        if (flag) flag = 0, open.push_back({u, v});
                    }
                }
            }
            if (region.size() > best.size()) best.swap(region);
        }
    }
    return best;
}

bool is_like(const Edges& a, const Edges& b) {
    return std::fabs(a.top - b.top) <= tolerance && std::fabs(a.bottom - b.bottom) <= tolerance &&
           std::fabs(a.left - b.left) <= tolerance && std::fabs(a.right - b.right) <= tolerance;
}

bool shows_more(const Edges& a, const Edges& than) {
    return std::min(a.top - than.top, a.left - than.left) < -tolerance ||
           std::max(a.bottom - than.bottom, a.right - than.right) > tolerance;
}

// Moves the ends of a stretch of [0, 1] apart where it is too short.
void stretch(double& low, double& high) {
    const double missing = std::max(0.0, least_side - (high - low));
    if (missing > 0) {
        low = std::min(std::max(0.0, low - missing / 2), 1 - least_side);
        high = std::max(high, low + least_side);
    }
}

Edges edges_of(const std::uint8_t* rgb, int width, int height) {
    const std::vector<std::uint8_t> area = content_area(rgb, width, height);
    int top = height, bottom = -1, left = width, right = -1;
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            if (!area[static_cast<std::size_t>(y) * width + x]) continue;
            top = std::min(top, y), bottom = std::max(bottom, y);
            left = std::min(left, x), right = std::max(right, x);
        }
    }
    if (bottom < 0) return {};
    Edges edges{double(top) / height, (bottom + 1.0) / height, double(left) / width, (right + 1.0) / width};
    stretch(edges.top, edges.bottom);
    stretch(edges.left, edges.right);
    return is_like(edges, {}) ? Edges{} : edges;
}

}  // namespace

std::vector<std::uint8_t> content_area(const std::uint8_t* rgb, int width, int height) {
    const int step = std::max(1, (std::max(width, height) + enough - 1) / enough);
    const int columns = (width + step - 1) / step, rows = (height + step - 1) / step;
    std::vector<std::uint8_t> bright(static_cast<std::size_t>(columns) * rows);
    for (int y = 0; y < rows; ++y) {
        for (int x = 0; x < columns; ++x) {
            const std::uint8_t* p = rgb + 3 * (static_cast<std::ptrdiff_t>(y) * step * width + x * step);
            bright[static_cast<std::size_t>(y) * columns + x] = std::max({p[0], p[1], p[2]}) > dark;
        }
    }
    const std::vector<Pixel> region = largest(bright, columns, rows);
    if (static_cast<double>(region.size()) < least_share * columns * rows) {
        return std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height, 1);
    }
    std::vector<Pixel> ends;
    for (const Pixel& p : region) {
        const int x = p.x * step, y = p.y * step, far = step - 1;  // the first and last pixel of each step
        ends.push_back({x, y});
        if (far > 0) ends.push_back({x + far, y + far});
    }
    const std::vector<Pixel> hull = hull_of(std::move(ends));
    return hull.size() < 2 ? std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height, 1)
                           : filled(hull, width, height);
}

void SteadyEdges::see(const std::uint8_t* rgb, int width, int height) {
    const Edges seen = edges_of(rgb, width, height);
    if (!is_known_) {
        used_ = seen, is_known_ = true;
        return;
    }
    if (is_like(seen, used_)) {
        has_other_ = false, lasted_ = 0;
        return;
    }
    if (!has_other_ || !is_like(seen, other_)) other_ = seen, has_other_ = true, lasted_ = 0;
    ++lasted_;
    if (lasted_ >= (shows_more(seen, used_) ? grow_after : shrink_after)) used_ = seen, has_other_ = false, lasted_ = 0;
}

}  // namespace polypstream
