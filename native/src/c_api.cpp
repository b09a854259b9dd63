#include "polypstream.h"

#include <cmath>
#include <exception>
#include <string>
#include <vector>

#include "content.h"
#include "contours.h"
#include "draw.h"
#include "onnxruntime.h"
#include "preprocess.h"

using namespace polypstream;

struct polypstream_model {
    Session session;
    SteadyEdges edges;
};

struct polypstream_result {
    std::vector<Polyp> polyps;
    std::vector<float> probability;
    int map_width = 0, map_height = 0, width = 0, height = 0;
};

namespace {

// As MarkerStyle's defaults in polypstream.realtime.outlines.drawing.
constexpr double thickness = 0.0035, casing = 0.0012, least_thickness_px = 1.5;
constexpr double line_rgb[3] = {40, 255, 150}, casing_rgb[3] = {0, 12, 8};
constexpr float casing_opacity = 0.6f;

thread_local std::string last_error;

// Runs a function and turns its exceptions into codes: none may leave through a C interface.
template <typename Work>
int guarded(Work work) noexcept {
    const auto failed = [](int code, const char* text) {
        try {
            last_error = text;
        } catch (...) {
            last_error.clear();
        }
        return code;
    };
    try {
        work();
        return POLYPSTREAM_OK;
    } catch (const ConfigError& error) {
        return failed(POLYPSTREAM_CONFIG_ERROR, error.what());
    } catch (const ModelError& error) {
        return failed(POLYPSTREAM_MODEL_ERROR, error.what());
    } catch (const BackendError& error) {
        return failed(POLYPSTREAM_BACKEND_ERROR, error.what());
    } catch (const std::exception& error) {
        return failed(POLYPSTREAM_OTHER_ERROR, error.what());
    } catch (...) {
        return failed(POLYPSTREAM_OTHER_ERROR, "an unknown error");
    }
}

void require(const void* pointer, const char* what) {
    if (!pointer) throw ConfigError(std::string(what) + " is NULL; pass an address");
}

FrameView view_of(const polypstream_frame& frame) {
    FrameView view;
    if (frame.format < POLYPSTREAM_NV12 || frame.format > POLYPSTREAM_BGR) {
        throw ConfigError("the pixel format is " + std::to_string(frame.format) + "; use NV12, P010, I420 or BGR");
    }
    view.format = static_cast<PixelFormat>(frame.format);
    view.width = frame.width;
    view.height = frame.height;
    for (int k = 0; k < 3; ++k) view.plane[k] = frame.plane[k], view.pitch[k] = frame.pitch[k];
    return view;
}

std::vector<std::uint8_t> scaled(const polypstream_frame& frame, int width, int height) {
    const FrameView view = view_of(frame);
    const Matrix matrix = frame.matrix == POLYPSTREAM_BT601 ? Matrix::bt601 : Matrix::bt709;
    const Plan plan = plan_of(
        view, {0, 0, double(frame.width), double(frame.height)}, width, height, matrix, frame.full_range != 0
    );
    std::vector<std::uint8_t> rgb(3 * static_cast<std::size_t>(width) * height);
    preprocess(view, plan, rgb.data(), 3 * static_cast<std::int64_t>(width));
    return rgb;
}

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

void segment(polypstream_model& model, const polypstream_frame& frame, polypstream_result& result) {
    const Contract& contract = model.session.contract();
    const int width = contract.width, height = contract.height;
    int whole_width = width, whole_height = height, left = 0, top = 0;
    std::vector<std::uint8_t> whole;
    if (contract.crops_to_content) {
        if (!model.edges.is_known()) model.edges.see(scaled(frame, width, height).data(), width, height);
        const Edges& used = model.edges.used();
        whole_height = rounded(height / (used.bottom - used.top));
        whole_width = rounded(width / (used.right - used.left));
        top = std::min(rounded(used.top * whole_height), whole_height - height);
        left = std::min(rounded(used.left * whole_width), whole_width - width);
        whole = scaled(frame, whole_width, whole_height);
        model.edges.see(whole.data(), whole_width, whole_height);
    } else {
        whole = scaled(frame, width, height);
    }
    std::vector<std::uint8_t> shown(3 * static_cast<std::size_t>(width) * height);
    for (int y = 0; y < height; ++y) {
        const auto from = whole.begin() + 3 * (static_cast<std::ptrdiff_t>(top + y) * whole_width + left);
        std::copy(from, from + 3 * width, shown.begin() + 3 * static_cast<std::ptrdiff_t>(y) * width);
    }
    const std::vector<float> map = model.session.run(shown.data());
    result.probability.assign(static_cast<std::size_t>(whole_width) * whole_height, 0.0f);
    for (int y = 0; y < height; ++y) {
        std::copy(
            map.begin() + static_cast<std::ptrdiff_t>(y) * width, map.begin() + static_cast<std::ptrdiff_t>(y + 1) * width,
            result.probability.begin() + static_cast<std::ptrdiff_t>(top + y) * whole_width + left
        );
    }
    const std::vector<std::uint8_t> content = content_area(whole.data(), whole_width, whole_height);
    for (std::size_t k = 0; k < content.size(); ++k) {
        if (!content[k]) result.probability[k] = 0;
    }
    result.map_width = whole_width, result.map_height = whole_height;
    result.width = frame.width, result.height = frame.height;
    result.polyps = polyps_of(
        result.probability.data(), whole_width, whole_height, static_cast<float>(contract.threshold),
        static_cast<float>(contract.min_peak), frame.width, frame.height, min_area_share
    );
}

// A color on the planes of a frame: Y'CbCr by matrix and range, or as it is.
void color_of(const polypstream_frame& frame, const double rgb[3], double values[3]) {
    if (frame.format == POLYPSTREAM_BGR) {
        for (int k = 0; k < 3; ++k) values[k] = rgb[2 - k];
        return;
    }
    const double red = frame.matrix == POLYPSTREAM_BT709 ? 0.2126 : 0.299, blue = frame.matrix == POLYPSTREAM_BT709 ? 0.0722 : 0.114;
    const double luma = (red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]) / 255;
    const double cb = (rgb[2] / 255 - luma) / (2 * (1 - blue)), cr = (rgb[0] / 255 - luma) / (2 * (1 - red));
    if (frame.full_range) {
        values[0] = 255 * luma, values[1] = std::min(128 + 255 * cb, 255.0), values[2] = std::min(128 + 255 * cr, 255.0);
    } else {
        values[0] = 16 + 219 * luma, values[1] = 128 + 224 * cb, values[2] = 128 + 224 * cr;
    }
}

void draw(const polypstream_result& result, const polypstream_frame& frame) {
    const FrameView view = view_of(frame);
    if (view.format == PixelFormat::p010) throw ConfigError("a P010 frame cannot be drawn on here; use NV12, I420 or BGR");
    if (frame.width != result.width || frame.height != result.height) {
        throw ConfigError(
            "the frame is " + std::to_string(frame.width) + "x" + std::to_string(frame.height) + ", the result is of one of " +
            std::to_string(result.width) + "x" + std::to_string(result.height) + "; pass the frame that was segmented"
        );
    }
    check(view, {0, 0, double(frame.width), double(frame.height)}, 1, 1);
    double line[3], edge[3];
    color_of(frame, line_rgb, line);
    color_of(frame, casing_rgb, edge);
    const Layout layout = layout_of(view.format, frame.width, frame.height);
    std::vector<PlaneView> planes;
    for (int k = 0; k < 3; ++k) {
        const Component& each = layout.component[k];
        PlaneView plane;
        plane.data = frame.plane[each.plane] + each.offset;
        plane.pitch = frame.pitch[each.plane];
        plane.step = each.step;
        plane.across = plane.down = each.is_chroma ? 2 : 1;
        plane.line = static_cast<float>(line[k]);
        plane.casing = static_cast<float>(edge[k]);
        planes.push_back(plane);
    }
    const double radius = std::max(thickness * frame.height, least_thickness_px) / 2;
    const Band band{
        static_cast<float>(radius), static_cast<float>(radius + casing * frame.height), 1.0f, casing_opacity
    };
    for (const Polyp& polyp : result.polyps) {
        draw_curve(frame.width, frame.height, planes, polyp.points.data(), polyp.points.size() / 2, band);
    }
}

}  // namespace

int polypstream_open(const char* path, const char* onnxruntime, int threads, polypstream_model** model) {
    return guarded([&] {
        require(path, "the model's path");
        require(model, "the place for the model");
        *model = new polypstream_model{Session(path, onnxruntime ? onnxruntime : "", threads), {}};
    });
}

void polypstream_close(polypstream_model* model) { delete model; }

void polypstream_reset(polypstream_model* model) {
    if (model) model->edges.forget();
}

void polypstream_model_info(const polypstream_model* model, int* width, int* height, float* threshold) {
    if (!model) return;
    const Contract& contract = model->session.contract();
    if (width) *width = contract.width;
    if (height) *height = contract.height;
    if (threshold) *threshold = static_cast<float>(contract.threshold);
}

int polypstream_segment(polypstream_model* model, const polypstream_frame* frame, polypstream_result** result) {
    return guarded([&] {
        require(model, "the model");
        require(frame, "the frame");
        require(result, "the place for the result");
        auto made = std::make_unique<polypstream_result>();
        segment(*model, *frame, *made);
        *result = made.release();
    });
}

void polypstream_result_free(polypstream_result* result) { delete result; }

size_t polypstream_count(const polypstream_result* result) { return result ? result->polyps.size() : 0; }

int polypstream_contour_at(const polypstream_result* result, size_t index, polypstream_contour* contour) {
    return guarded([&] {
        require(result, "the result");
        require(contour, "the place for the contour");
        if (index >= result->polyps.size()) {
            throw ConfigError("there is no polyp " + std::to_string(index) + " in a result of " + std::to_string(result->polyps.size()));
        }
        const Polyp& polyp = result->polyps[index];
        *contour = {polyp.points.data(), polyp.points.size() / 2, polyp.area, polyp.score};
    });
}

const float* polypstream_probability(const polypstream_result* result, int* width, int* height) {
    if (!result) return nullptr;
    if (width) *width = result->map_width;
    if (height) *height = result->map_height;
    return result->probability.data();
}

int polypstream_draw(const polypstream_result* result, const polypstream_frame* frame) {
    return guarded([&] {
        require(result, "the result");
        require(frame, "the frame");
        draw(*result, *frame);
    });
}

const char* polypstream_error(void) { return last_error.c_str(); }

const char* polypstream_version(void) { return POLYPSTREAM_VERSION; }
