// Runs the C++ code on random and extreme input, in memory that is exactly as large as promised: built with sanitizers,
// it ends at the first access beyond it and at undefined behavior.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "content.h"
#include "contours.h"
#include "contract.h"
#include "draw.h"
#include "polypstream.h"
#include "preprocess.h"

using namespace polypstream;

namespace {

std::mt19937 generator(7);

int any(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float any_share() { return std::uniform_real_distribution<float>(0, 1)(generator); }

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "failed: %s\n", what);
    std::exit(1);
}

template <typename Error, typename Work>
void refuses(Work work, const char* what) {
    try {
        work();
    } catch (const Error&) {
        return;
    }
    require(false, what);
}

// A frame without a byte after its last sample.
struct Owned {
    FrameView view;
    std::vector<std::uint8_t> memory[3];

    Owned(PixelFormat format, int width, int height, int padding) {
        view.format = format;
        view.width = width;
        view.height = height;
        const Layout layout = layout_of(format, width, height);
        for (int k = 0; k < 3; ++k) {
            const Component& each = layout.component[k];
            if (view.plane[each.plane]) continue;
            const std::int64_t row = static_cast<std::int64_t>(each.width) * each.step * layout.bytes;
            view.pitch[each.plane] = row + padding * layout.bytes;
            memory[each.plane].resize(view.pitch[each.plane] * (each.height - 1) + row);
            for (auto& byte : memory[each.plane]) byte = static_cast<std::uint8_t>(any(0, 255));
            view.plane[each.plane] = memory[each.plane].data();
        }
    }
};

void preprocesses() {
    for (int round = 0; round < 200; ++round) {
        const int width = any(1, 90), height = any(1, 90), out_width = any(1, 70), out_height = any(1, 70);
        const Owned frame(static_cast<PixelFormat>(round % 4), width, height, any(0, 5));
        Rectangle part{0, 0, double(width), double(height)};
        if (round % 3 == 0) {
            part.left = any_share() * width * 0.5, part.right = part.left + 0.1 + any_share() * (width - part.left - 0.1);
            part.top = any_share() * height * 0.5, part.bottom = part.top + 0.1 + any_share() * (height - part.top - 0.1);
        }
        const Plan plan = plan_of(frame.view, part, out_width, out_height, static_cast<Matrix>(round % 2), round % 5 == 0);
        for (const Axis* axis : {&plan.luma_x, &plan.luma_y}) {
            for (std::size_t i = 0; i < axis->first.size(); ++i) {
                int sum = 0;
                for (int t = 0; t < axis->taps; ++t) sum += axis->weight[i * axis->taps + t];
                require(axis->used[i] == 1 || sum == (axis == &plan.luma_x ? 1 << 14 : 1 << 15) || sum == 32767, "weights sum to 1");
            }
        }
        std::vector<std::uint8_t> out(3 * static_cast<std::size_t>(out_width) * out_height);
        preprocess(frame.view, plan, out.data(), 3 * out_width);
    }
    // The largest values that a sample can have, over many rows.
    Owned white(PixelFormat::p010, 40, 3000, 0);
    for (auto& plane : white.memory) std::fill(plane.begin(), plane.end(), 0xFF);
    std::vector<std::uint8_t> out(3 * 8 * 8);
    preprocess(white.view, plan_of(white.view, {0, 0, 40, 3000}, 8, 8, Matrix::bt709, true), out.data(), 24);
    require(out[1] > 150 && out[1] < 190 && out[2] > 250, "white luma with the largest chroma stays in range");
    const Owned frame(PixelFormat::nv12, 8, 8, 0);
    refuses<ConfigError>([&] { plan_of(frame.view, {0, 0, 9, 8}, 4, 4, Matrix::bt601, false); }, "a part beyond the frame");
    refuses<ConfigError>([&] { plan_of(frame.view, {0, 0, std::nan(""), 8}, 4, 4, Matrix::bt601, false); }, "a part that is not finite");
    refuses<ConfigError>([&] { plan_of(frame.view, {0, 0, 8, 8}, 0, 4, Matrix::bt601, false); }, "an empty result");
    FrameView narrow = frame.view;
    narrow.pitch[0] = 7;
    refuses<ConfigError>([&] { plan_of(narrow, {0, 0, 8, 8}, 4, 4, Matrix::bt601, false); }, "rows closer than their width");
}

std::vector<PlaneView> planes_of(Owned& frame) {
    const Layout layout = layout_of(frame.view.format, frame.view.width, frame.view.height);
    std::vector<PlaneView> planes;
    for (int k = 0; k < 3; ++k) {
        const Component& each = layout.component[k];
        PlaneView plane;
        plane.data = frame.memory[each.plane].data() + each.offset * layout.bytes;
        plane.pitch = frame.view.pitch[each.plane];
        plane.step = each.step * layout.bytes;
        plane.across = plane.down = each.is_chroma ? 2 : 1;
        plane.bytes = layout.bytes;
        plane.shift = layout.bytes == 2 ? 6 : 0;
        plane.line = 200, plane.casing = 20;
        planes.push_back(plane);
    }
    return planes;
}

void draws() {
    const float far[] = {-1e38f, 40, 1e38f, 40, 1e38f, -1e38f};
    for (int round = 0; round < 120; ++round) {
        const int width = any(1, 80), height = any(1, 80), columns = any(1, 20), rows = any(1, 20);
        Owned frame(static_cast<PixelFormat>(round % 4), width, height, any(0, 3));
        const std::vector<PlaneView> planes = planes_of(frame);
        const float radius = 3 * any_share();
        const Band band{radius, radius + 2 * any_share(), 1, 0.6f};
        std::vector<float> map(static_cast<std::size_t>(columns) * rows);
        for (float& value : map) value = round % 7 == 0 ? float(any(0, 1)) : any_share();
        MapView view{map.data(), columns, columns, rows, 0, 0, float(width), float(height), 0.5f};
        if (round % 2) view.left = width * 0.25f, view.bottom = height * 0.75f;
        mark(width, height, planes, view, band);
        std::vector<float> points;
        for (int k = any(1, 9); k > 0; --k) points.push_back(400 * any_share() - 150), points.push_back(400 * any_share() - 150);
        draw_curve(width, height, planes, points.data(), points.size() / 2, band);
        draw_curve(width, height, planes, far, 3, band);
        map[map.size() / 2] = round % 2 ? std::nanf("") : std::numeric_limits<float>::infinity();
        refuses<ConfigError>([&] { mark(width, height, planes, view, band); }, "a map with a value that is not finite");
        require(line_of(view).size() < 10 * static_cast<std::size_t>(columns + 1) * (rows + 1), "few pieces in a cell");
        points[0] = std::nanf("");
        refuses<ConfigError>([&] { draw_curve(width, height, planes, points.data(), points.size() / 2, band); }, "a contour that is not finite");
    }
}

void finds() {
    for (int round = 0; round < 200; ++round) {
        const int columns = any(1, 40), rows = any(1, 40);
        std::vector<float> map(static_cast<std::size_t>(columns) * rows);
        for (float& value : map) value = round % 5 == 0 ? 1.0f : any_share();
        const float min_peak = any(0, 1) ? 0.0f : 0.75f;
        for (const Polyp& polyp : polyps_of(map.data(), columns, rows, 0.5f, min_peak, any(1, 300), any(1, 300), 0)) {
            for (float value : polyp.points) require(value >= 0 && value <= 300, "contours stay within the frame");
            require(polyp.score >= 0.5f || polyp.score == 0, "a region's mean reaches the threshold");
        }
        std::vector<std::uint8_t> rgb(3 * map.size());
        for (auto& byte : rgb) byte = static_cast<std::uint8_t>(any(0, round % 3 ? 255 : 40));
        content_area(rgb.data(), columns, rows);
        SteadyEdges edges;
        for (int frame = 0; frame < 4; ++frame) edges.see(rgb.data(), columns, rows);
        require(edges.used().bottom - edges.used().top > 0.24, "the part has a least height");
    }
}

void reads() {
    const std::string good =
        "{\"format\": 3, \"min_peak\": 0.75, \"name\": \"n\", \"version\": \"1\", \"width\": 16, \"height\": 24, \"threshold\": 0.25, \"crop\": "
        "\"content\", \"operating_points\": [{\"threshold\": 0.9, \"name\": \"a\"}]}";
    const Contract contract = contract_from(good);
    require(contract.width == 16 && contract.height == 24 && contract.threshold == 0.25 && contract.min_peak == 0.75 && contract.crops_to_content, "the contract");
    for (int round = 0; round < 2000; ++round) {
        std::string text = good.substr(0, round % 2 ? good.size() : any(0, static_cast<int>(good.size())));
        for (int k = any(0, 3); k > 0 && !text.empty(); --k) text[any(0, static_cast<int>(text.size()) - 1)] = static_cast<char>(any(32, 126));
        try {
            contract_from(text);
        } catch (const ModelError&) {
        }
    }
    polypstream_model* model = nullptr;
    require(polypstream_open("no model", "no library", 1, &model) == POLYPSTREAM_BACKEND_ERROR, "a missing ONNX Runtime");
    require(polypstream_open(nullptr, nullptr, 1, &model) == POLYPSTREAM_CONFIG_ERROR, "no path");
    require(polypstream_error()[0] != '\0', "errors have a text");
    require(polypstream_segment(nullptr, nullptr, nullptr) == POLYPSTREAM_CONFIG_ERROR, "no model");
    require(polypstream_count(nullptr) == 0, "no result");
    polypstream_close(nullptr);
    polypstream_result_free(nullptr);
}

}  // namespace

int main() {
    preprocesses();
    draws();
    finds();
    reads();
    std::puts("all checks passed");
}
