#include <cuda_runtime.h>

#include <string>

#include "device.h"
#include "draw.h"

// Every call of CUDA's runtime goes through this: what fails is named.
#define POLYPSTREAM_CUDA(call) ::polypstream::check_cuda((call), #call)

namespace polypstream {
namespace {

constexpr int frames_per_launch = 16;
constexpr int across_block = 32, down_block = 8;

}  // namespace

static void check_cuda(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // an error that is not sticky ends here
    std::string name(call);
    name = name.substr(0, name.find('('));
    throw BackendError(
        name + " failed (" + cudaGetErrorString(status) + "); check the driver with nvidia-smi, or work on the CPU"
    );
}

namespace {

cudaStream_t stream_of(StreamHandle handle) { return static_cast<cudaStream_t>(handle); }

struct DeviceAxis {
    const std::int32_t* first;
    const std::int32_t* used;
    const std::uint16_t* rounding;
    const std::int16_t* weight;
    int taps;
};

struct DevicePlan {
    Layout layout;
    DeviceAxis luma_x, luma_y, chroma_x, chroma_y;
    Conversion conversion;
    int width, height;
    bool is_rgb;
};

struct Frames {
    const std::uint8_t* plane[frames_per_launch][3];
    std::int64_t pitch[frames_per_launch][3];
};

__device__ std::uint32_t sample_at(const std::uint8_t* row, int index, int bytes) {
    return bytes == 1 ? static_cast<std::uint32_t>(row[index]) << 8
                      : reinterpret_cast<const std::uint16_t*>(row)[index] & 0xFFC0u;
}

__device__ std::int32_t value_at(
    const std::uint8_t* plane, std::int64_t pitch, const Component& component, int bytes, const DeviceAxis& columns,
    const DeviceAxis& rows, int x, int y
) {
    const std::uint8_t* top = plane + rows.first[y] * pitch;
    const int down = rows.used[y], across = columns.used[x];
    const std::int16_t* wy = rows.weight + static_cast<std::int64_t>(y) * rows.taps;
    const std::int16_t* wx = columns.weight + static_cast<std::int64_t>(x) * columns.taps;
    std::int32_t sum = 0;
    for (int s = 0; s < across; ++s) {
        const int index = (columns.first[x] + s) * component.step + component.offset;
        std::int32_t column;
        if (down == 1) {
            column = static_cast<std::int32_t>(sample_at(top, index, bytes) >> 1);
        } else {
            column = rows.rounding[y];
            for (int t = 0; t < down; ++t) column += weighted(sample_at(top + t * pitch, index, bytes), wy[t]);
        }
        sum += column * wx[s];
    }
    return value_of(sum);
}

__global__ void preprocess_kernel(
    const __grid_constant__ Frames frames, const __grid_constant__ DevicePlan plan, std::uint8_t* out
) {
    const int x = blockIdx.x * across_block + threadIdx.x, y = blockIdx.y * down_block + threadIdx.y;
    const int frame = blockIdx.z;
    if (x >= plan.width || y >= plan.height) return;
    std::int32_t value[3];
    for (int k = 0; k < 3; ++k) {
        const Component& component = plan.layout.component[k];
        value[k] = value_at(
            frames.plane[frame][component.plane], frames.pitch[frame][component.plane], component, plan.layout.bytes,
            component.is_chroma ? plan.chroma_x : plan.luma_x, component.is_chroma ? plan.chroma_y : plan.luma_y, x, y
        );
    }
    std::uint8_t* to = out + 3 * ((static_cast<std::int64_t>(frame) * plan.height + y) * plan.width + x);
    if (plan.is_rgb) {
        for (int k = 0; k < 3; ++k) to[k] = level_of(value[2 - k], value_bits);
    } else {
        rgb_of(value[0], value[1], value[2], plan.conversion, to[0], to[1], to[2]);
    }
}

struct Planes {
    PlaneView plane[4];
    int count;
};

// One thread for 2x2 pixels, so that a chroma sample belongs to one thread.
__global__ void mark_kernel(
    int width, int height, const __grid_constant__ Planes planes, const __grid_constant__ MapView map,
    const __grid_constant__ Band band
) {
    const int left = 2 * (blockIdx.x * across_block + threadIdx.x), top = 2 * (blockIdx.y * down_block + threadIdx.y);
    if (left >= width || top >= height) return;
    const float reach = band.reach();
    // The cells that a piece within reach can lie in, and one more on each side for rounding.
    const float per_x = map.width / (map.right - map.left), per_y = map.height / (map.bottom - map.top);
    const int i0 = max(0, static_cast<int>(floorf((left - reach - map.left) * per_x + 0.5f)) - 1);
    const int i1 = min(map.width, static_cast<int>(floorf((left + 2 + reach - map.left) * per_x + 0.5f)) + 1);
    const int j0 = max(0, static_cast<int>(floorf((top - reach - map.top) * per_y + 0.5f)) - 1);
    const int j1 = min(map.height, static_cast<int>(floorf((top + 2 + reach - map.top) * per_y + 0.5f)) + 1);
    float square[2][2] = {{INFINITY, INFINITY}, {INFINITY, INFINITY}};
    for (int j = j0; j <= j1; ++j) {
        for (int i = i0; i <= i1; ++i) {
            Pieces pieces;
            pieces_of(map, i, j, pieces);
            for (int k = 0; k < pieces.count; ++k) {
                for (int v = 0; v < 2; ++v) {
                    for (int u = 0; u < 2; ++u) {
                        const float found = square_distance(left + u + 0.5f, top + v + 0.5f, pieces.segment[k]);
                        square[v][u] = fminf(square[v][u], found);
                    }
                }
            }
        }
    }
    Ink ink[2][2];
    bool any = false;
    for (int v = 0; v < 2; ++v) {
        for (int u = 0; u < 2; ++u) {
            const bool near = square[v][u] < reach * reach && left + u < width && top + v < height;
            ink[v][u] = near ? ink_of(square[v][u], band) : Ink{0, 0};
            any |= ink[v][u].line + ink[v][u].casing > 0;
        }
    }
    if (!any) return;
    for (int p = 0; p < planes.count; ++p) {
        const PlaneView& plane = planes.plane[p];
        for (int y = 0; y < 2; y += plane.down) {
            for (int x = 0; x < 2; x += plane.across) {
                if (left + x >= width || top + y >= height) continue;
                const int right = min(x + plane.across, width - left), bottom = min(y + plane.down, height - top);
                float line = 0, casing = 0;
                for (int v = y; v < bottom; ++v) {
                    for (int u = x; u < right; ++u) line += ink[v][u].line, casing += ink[v][u].casing;
                }
                if (!(line + casing > 0)) continue;
                const float share = 1.0f / static_cast<float>((right - x) * (bottom - y));
                blend(plane, (top + y) / plane.down, (left + x) / plane.across, line * share, casing * share);
            }
        }
    }
}

dim3 blocks_for(int columns, int rows, int frames) {
    return dim3((columns + across_block - 1) / across_block, (rows + down_block - 1) / down_block, frames);
}

// An axis in memory of the device.
class AxisOnDevice {
  public:
    AxisOnDevice(const Axis& axis, StreamHandle stream)
        : first_(bytes(axis.first)), used_(bytes(axis.used)), rounding_(bytes(axis.rounding)),
          weight_(bytes(axis.weight)), taps_(axis.taps) {
        first_.upload(axis.first.data(), bytes(axis.first), stream);
        used_.upload(axis.used.data(), bytes(axis.used), stream);
        rounding_.upload(axis.rounding.data(), bytes(axis.rounding), stream);
        weight_.upload(axis.weight.data(), bytes(axis.weight), stream);
    }
    DeviceAxis view() const {
        return {
            static_cast<const std::int32_t*>(first_.data()), static_cast<const std::int32_t*>(used_.data()),
            static_cast<const std::uint16_t*>(rounding_.data()), static_cast<const std::int16_t*>(weight_.data()), taps_
        };
    }

  private:
    template <typename T>
    static std::size_t bytes(const std::vector<T>& values) {
        return values.size() * sizeof(T);
    }
    DeviceBuffer first_, used_, rounding_, weight_;
    int taps_;
};

}  // namespace

bool has_kernels() { return true; }

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return count;
}

DeviceBuffer::DeviceBuffer(std::size_t bytes) : size_(bytes) {
    if (bytes > 0) POLYPSTREAM_CUDA(cudaMalloc(&data_, bytes));
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

void DeviceBuffer::upload(const void* from, std::size_t bytes, StreamHandle stream) {
    if (bytes > size_) throw ConfigError("a buffer of " + std::to_string(size_) + " bytes cannot hold " + std::to_string(bytes));
    POLYPSTREAM_CUDA(cudaMemcpyAsync(data_, from, bytes, cudaMemcpyHostToDevice, stream_of(stream)));
    POLYPSTREAM_CUDA(cudaStreamSynchronize(stream_of(stream)));
}

void DeviceBuffer::download(void* to, std::size_t bytes, StreamHandle stream) const {
    if (bytes > size_) throw ConfigError("a buffer of " + std::to_string(size_) + " bytes does not hold " + std::to_string(bytes));
    POLYPSTREAM_CUDA(cudaMemcpyAsync(to, data_, bytes, cudaMemcpyDeviceToHost, stream_of(stream)));
    POLYPSTREAM_CUDA(cudaStreamSynchronize(stream_of(stream)));
}

Stream::Stream() {
    cudaStream_t made;
    POLYPSTREAM_CUDA(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    handle_ = made;
}

Stream::~Stream() { cudaStreamDestroy(stream_of(handle_)); }

void Stream::wait() const { POLYPSTREAM_CUDA(cudaStreamSynchronize(stream_of(handle_))); }

struct DevicePreprocessor::State {
    State(const Plan& plan, const FrameView& frame, StreamHandle stream)
        : luma_x(plan.luma_x, stream), luma_y(plan.luma_y, stream), chroma_x(plan.chroma_x, stream),
          chroma_y(plan.chroma_y, stream), frame(frame) {
        device = {plan.layout, luma_x.view(), luma_y.view(), chroma_x.view(), chroma_y.view(),
                  plan.conversion, plan.width, plan.height, plan.is_rgb};
    }
    AxisOnDevice luma_x, luma_y, chroma_x, chroma_y;
    FrameView frame;
    DevicePlan device;
};

DevicePreprocessor::DevicePreprocessor(
    const FrameView& frame, const Rectangle& part, int width, int height, Matrix matrix, bool full_range,
    StreamHandle stream
) {
    state_ = std::make_unique<State>(plan_of(frame, part, width, height, matrix, full_range), frame, stream);
}

DevicePreprocessor::~DevicePreprocessor() = default;

void DevicePreprocessor::run(const std::vector<FrameView>& frames, std::uint8_t* out, StreamHandle stream) const {
    const DevicePlan& plan = state_->device;
    for (const FrameView& each : frames) {
        if (each.width != state_->frame.width || each.height != state_->frame.height || each.format != state_->frame.format) {
            throw ConfigError("the frames of one preprocessor must have its format and size; make another one");
        }
        check(each, {0, 0, double(each.width), double(each.height)}, plan.width, plan.height);
    }
    for (std::size_t start = 0; start < frames.size(); start += frames_per_launch) {
        const int some = static_cast<int>(std::min<std::size_t>(frames_per_launch, frames.size() - start));
        Frames views{};
        for (int k = 0; k < some; ++k) {
            for (int p = 0; p < 3; ++p) {
                views.plane[k][p] = frames[start + k].plane[p];
                views.pitch[k][p] = frames[start + k].pitch[p];
            }
        }
        std::uint8_t* to = out + 3 * start * plan.width * plan.height;
        preprocess_kernel<<<blocks_for(plan.width, plan.height, some), dim3(across_block, down_block), 0, stream_of(stream)>>>(
            views, plan, to
        );
        POLYPSTREAM_CUDA(cudaGetLastError());
    }
}

void mark_on_device(
    int width, int height, const std::vector<PlaneView>& planes, const MapView& map, const Band& band, StreamHandle stream
) {
    check_drawing(width, height, planes, band);
    check_map(map, width, height);
    if (planes.empty() || planes.size() > 4) throw ConfigError("a frame has " + std::to_string(planes.size()) + " planes; draw on 1 to 4");
    Planes views{};
    for (const PlaneView& plane : planes) {
        if (plane.across > 2 || plane.down > 2) throw ConfigError("on a device a sample may stand for 2x2 pixels at most; convert the frame first");
        views.plane[views.count++] = plane;
    }
    mark_kernel<<<blocks_for((width + 1) / 2, (height + 1) / 2, 1), dim3(across_block, down_block), 0, stream_of(stream)>>>(
        width, height, views, map, band
    );
    POLYPSTREAM_CUDA(cudaGetLastError());
}

}  // namespace polypstream
