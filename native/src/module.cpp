// polypstream._native: the two operations on NumPy arrays, and on device memory given by address.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "device.h"
#include "draw.h"
#include "preprocess.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace polypstream;

namespace {

using Bytes = nb::ndarray<nb::ro, nb::device::cpu>;
using Samples = nb::ndarray<nb::device::cpu>;
using Rgb = nb::ndarray<std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Map = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Curve = nb::ndarray<const float, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Part = std::tuple<double, double, double, double>;
using Size = std::tuple<int, int>;
using Style = std::tuple<float, float, float, float>;  // line radius, radius, opacity, casing opacity
using Address = std::uintptr_t;

// Raises an exception of polypstream.errors.
void translate(const std::exception_ptr& problem, void*) {
    const auto raise = [](const char* name, const char* text) {
        PyErr_SetString(nb::module_::import_("polypstream.errors").attr(name).ptr(), text);
    };
    try {
        std::rethrow_exception(problem);
    } catch (const ConfigError& error) {
        raise("ConfigError", error.what());
    } catch (const ModelError& error) {
        raise("ModelError", error.what());
    } catch (const BackendError& error) {
        raise("BackendError", error.what());
    }
}

PixelFormat format_named(const std::string& name) {
    for (PixelFormat each : {PixelFormat::nv12, PixelFormat::p010, PixelFormat::i420, PixelFormat::bgr}) {
        if (name == name_of(each)) return each;
    }
    throw ConfigError("the pixel format is " + name + "; use NV12, P010, I420 or BGR");
}

Matrix matrix_named(const std::string& name) {
    if (name == "bt601") return Matrix::bt601;
    if (name == "bt709") return Matrix::bt709;
    throw ConfigError("the matrix is " + name + "; use bt601 or bt709");
}

Rectangle rectangle(const Part& part) {
    return {std::get<0>(part), std::get<1>(part), std::get<2>(part), std::get<3>(part)};
}

Band band_of(const Style& style) {
    return {std::get<0>(style), std::get<1>(style), std::get<2>(style), std::get<3>(style)};
}

// A frame whose planes are arrays (rows, samples), or (rows, pixels, 3) for BGR; rows may be apart, samples not.
FrameView frame_of(const std::vector<Bytes>& planes, const std::string& format, Size size) {
    FrameView frame;
    frame.format = format_named(format);
    std::tie(frame.width, frame.height) = size;
    const Layout layout = layout_of(frame.format, frame.width, frame.height);
    for (int k = 0; k < 3; ++k) {
        const Component& each = layout.component[k];
        const auto number = static_cast<std::size_t>(each.plane);
        if (number >= planes.size()) throw ConfigError("the " + format + " frame has " + std::to_string(planes.size()) + " planes; it needs more");
        const Bytes& plane = planes[number];
        const bool is_right_type = plane.dtype() == (layout.bytes == 1 ? nb::dtype<std::uint8_t>() : nb::dtype<std::uint16_t>());
        const std::size_t across = plane.ndim() == 2 ? plane.shape(1) : plane.ndim() == 3 ? plane.shape(1) * plane.shape(2) : 0;
        const bool is_packed = plane.ndim() >= 2 && plane.stride(plane.ndim() - 1) == 1 &&
                               (plane.ndim() == 2 || plane.stride(1) == static_cast<std::int64_t>(plane.shape(2)));
        if (!is_right_type || !is_packed || plane.shape(0) < static_cast<std::size_t>(each.height) ||
            across < static_cast<std::size_t>(each.width) * each.step) {
            throw ConfigError(
                "plane " + std::to_string(each.plane) + " of the " + format + " frame must be uint" + std::to_string(8 * layout.bytes) +
                " of " + std::to_string(each.height) + " rows of " + std::to_string(each.width * each.step) + " samples, one beside the other"
            );
        }
        frame.plane[number] = static_cast<const std::uint8_t*>(plane.data());
        frame.pitch[number] = plane.stride(0) * layout.bytes;
    }
    return frame;
}

void preprocess_frames(
    const std::vector<std::vector<Bytes>>& frames, const std::string& format, Size size, Part part, Rgb out,
    const std::string& matrix, bool full_range
) {
    if (out.shape(3) != 3 || out.shape(0) != frames.size()) {
        throw ConfigError("the result's shape is not (frames, height, width, 3) for " + std::to_string(frames.size()) + " frames");
    }
    std::vector<FrameView> views;
    for (const auto& planes : frames) views.push_back(frame_of(planes, format, size));
    const int height = static_cast<int>(out.shape(1)), width = static_cast<int>(out.shape(2));
    const Matrix used = matrix_named(matrix);
    std::uint8_t* to = out.data();
    nb::gil_scoped_release release;
    for (const FrameView& view : views) {
        // Cheap next to the frame itself, and each frame has its own pitch to check.
        preprocess(view, plan_of(view, rectangle(part), width, height, used, full_range), to, 3 * static_cast<std::int64_t>(width));
        to += 3 * static_cast<std::int64_t>(width) * height;
    }
}

using PlaneSpec = std::tuple<Samples, int, int, int, float, float>;  // samples, across, down, shift, line, casing

std::vector<PlaneView> planes_of(const std::vector<PlaneSpec>& specs, Size size) {
    const auto [width, height] = size;
    std::vector<PlaneView> planes;
    for (const auto& [samples, across, down, shift, line, casing] : specs) {
        PlaneView plane;
        const bool is_wide = samples.dtype() == nb::dtype<std::uint16_t>();
        if (samples.ndim() != 2 || !(is_wide || samples.dtype() == nb::dtype<std::uint8_t>()) || across < 1 || down < 1 ||
            samples.shape(0) != static_cast<std::size_t>((height + down - 1) / down) ||
            samples.shape(1) != static_cast<std::size_t>((width + across - 1) / across)) {
            throw ConfigError("a plane is not uint8 or uint16 (rows, columns) of a frame of " + std::to_string(width) + "x" + std::to_string(height));
        }
        plane.bytes = is_wide ? 2 : 1;
        plane.data = static_cast<std::uint8_t*>(samples.data());
        plane.pitch = samples.stride(0) * plane.bytes;
        plane.step = samples.stride(1) * plane.bytes;
        plane.across = across;
        plane.down = down;
        plane.shift = shift;
        plane.line = line;
        plane.casing = casing;
        planes.push_back(plane);
    }
    return planes;
}

MapView map_of(const float* data, std::int64_t pitch, int width, int height, const Part& part, float threshold) {
    const auto [left, top, right, bottom] = part;
    return {data, pitch, width, height, float(left), float(top), float(right), float(bottom), threshold};
}

void mark_frame(const std::vector<PlaneSpec>& specs, Size size, Map map, Part part, float threshold, Style style) {
    if (map.shape(1) > 1 && map.stride(1) != 1) throw ConfigError("the probability map's rows must be contiguous; pass a copy");
    const auto planes = planes_of(specs, size);
    const MapView view = map_of(map.data(), map.stride(0), static_cast<int>(map.shape(1)), static_cast<int>(map.shape(0)), part, threshold);
    nb::gil_scoped_release release;
    mark(std::get<0>(size), std::get<1>(size), planes, view, band_of(style));
}

void draw_contour(const std::vector<PlaneSpec>& specs, Size size, Curve curve, Style style) {
    const auto planes = planes_of(specs, size);
    nb::gil_scoped_release release;
    draw_curve(std::get<0>(size), std::get<1>(size), planes, curve.data(), curve.shape(0), band_of(style));
}

using DevicePlane = std::tuple<Address, std::int64_t>;  // address, bytes from row to row

FrameView device_frame(const std::vector<DevicePlane>& planes, PixelFormat format, int width, int height) {
    FrameView frame;
    frame.format = format;
    frame.width = width;
    frame.height = height;
    if (planes.size() > 3) throw ConfigError("a frame has " + std::to_string(planes.size()) + " planes; 3 at most are known");
    for (std::size_t k = 0; k < planes.size(); ++k) {
        frame.plane[k] = reinterpret_cast<const std::uint8_t*>(std::get<0>(planes[k]));
        frame.pitch[k] = std::get<1>(planes[k]);
    }
    return frame;
}

// The sizes of a frame whose memory is not known yet: any pointer and pitch pass the check.
FrameView frame_size(PixelFormat format, int width, int height) {
    static const std::uint8_t some = 0;
    FrameView frame;
    frame.format = format;
    frame.width = width;
    frame.height = height;
    for (int k = 0; k < 3; ++k) frame.plane[k] = &some, frame.pitch[k] = std::int64_t(1) << 40;
    return frame;
}

struct PythonPreprocessor {
    PixelFormat format;
    int width, height;
    DevicePreprocessor device;
};

using DevicePlaneSpec = std::tuple<Address, std::int64_t, std::int64_t, int, int, int, int, float, float>;

void mark_device_frame(
    const std::vector<DevicePlaneSpec>& specs, Size size, Address map, Size map_size, Part part, float threshold,
    Style style, Address stream
) {
    std::vector<PlaneView> planes;
    for (const auto& [address, pitch, step, across, down, bytes, shift, line, casing] : specs) {
        planes.push_back({reinterpret_cast<std::uint8_t*>(address), pitch, step, across, down, bytes, shift, line, casing});
    }
    const auto [width, height] = map_size;
    const MapView view = map_of(reinterpret_cast<const float*>(map), width, width, height, part, threshold);
    nb::gil_scoped_release release;
    mark_on_device(std::get<0>(size), std::get<1>(size), planes, view, band_of(style), reinterpret_cast<StreamHandle>(stream));
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Scaling of frames for the network and drawing of markers, in C++ and, where built so, on CUDA devices.";
    nb::set_leak_warnings(false);
    nb::register_exception_translator(translate);
    m.attr("has_kernels") = has_kernels();
    m.def("device_count", &device_count);
    m.def("preprocess", &preprocess_frames, "frames"_a, "format"_a, "size"_a, "part"_a, "out"_a, "matrix"_a, "full_range"_a);
    m.def("mark", &mark_frame, "planes"_a, "size"_a, "probability"_a, "part"_a, "threshold"_a, "style"_a);
    m.def("draw", &draw_contour, "planes"_a, "size"_a, "contour"_a, "style"_a);

    nb::class_<DeviceBuffer>(m, "DeviceBuffer")
        .def(nb::init<std::size_t>(), "bytes"_a)
        .def_prop_ro("address", [](const DeviceBuffer& self) { return reinterpret_cast<Address>(self.data()); })
        .def_prop_ro("size", &DeviceBuffer::size)
        .def("upload", [](DeviceBuffer& self, nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> array, Address stream) {
            const void* from = array.data();
            const std::size_t bytes = array.nbytes();
            nb::gil_scoped_release release;
            self.upload(from, bytes, reinterpret_cast<StreamHandle>(stream));
        }, "array"_a, "stream"_a)
        .def("download", [](const DeviceBuffer& self, nb::ndarray<nb::c_contig, nb::device::cpu> array, Address stream) {
            void* to = array.data();
            const std::size_t bytes = array.nbytes();
            nb::gil_scoped_release release;
            self.download(to, bytes, reinterpret_cast<StreamHandle>(stream));
        }, "array"_a, "stream"_a);
    nb::class_<Stream>(m, "Stream")
        .def(nb::init<>())
        .def_prop_ro("handle", [](const Stream& self) { return reinterpret_cast<Address>(self.handle()); })
        .def("wait", &Stream::wait, nb::call_guard<nb::gil_scoped_release>());
    nb::class_<PythonPreprocessor>(m, "DevicePreprocessor")
        .def("__init__", [](PythonPreprocessor* self, const std::string& format, Size size, Part part, Size out_size, const std::string& matrix, bool full_range, Address stream) {
            const auto [width, height] = size;
            const auto [out_width, out_height] = out_size;
            const PixelFormat used = format_named(format);
            new (self) PythonPreprocessor{used, width, height, DevicePreprocessor(
                frame_size(used, width, height), rectangle(part), out_width, out_height, matrix_named(matrix), full_range,
                reinterpret_cast<StreamHandle>(stream)
            )};
        }, "format"_a, "size"_a, "part"_a, "out_size"_a, "matrix"_a, "full_range"_a, "stream"_a)
        .def("run", [](const PythonPreprocessor& self, const std::vector<std::vector<DevicePlane>>& frames, Address out, Address stream) {
            std::vector<FrameView> views;
            for (const auto& planes : frames) views.push_back(device_frame(planes, self.format, self.width, self.height));
            nb::gil_scoped_release release;
            self.device.run(views, reinterpret_cast<std::uint8_t*>(out), reinterpret_cast<StreamHandle>(stream));
        }, "frames"_a, "out"_a, "stream"_a);
    m.def(
        "mark_on_device", &mark_device_frame, "planes"_a, "size"_a, "probability"_a, "probability_size"_a, "part"_a,
        "threshold"_a, "style"_a, "stream"_a
    );
}
