// The two operations on a CUDA device. Every call takes the stream to work on, allocates nothing, and does not wait, so
// that it can be captured into a graph; what is allocated belongs to an object. Without a CUDA compiler these raise
// BackendError.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "mark.h"
#include "preprocess.h"

namespace polypstream {

// A cudaStream_t, without CUDA's header.
using StreamHandle = void*;

bool has_kernels();

// Devices that CUDA sees; 0 without a driver.
int device_count();

// Memory on the current device.
class DeviceBuffer {
  public:
    explicit DeviceBuffer(std::size_t bytes);
    ~DeviceBuffer();
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    void* data() const { return data_; }
    std::size_t size() const { return size_; }
    // Both wait for the copy.
    void upload(const void* from, std::size_t bytes, StreamHandle stream);
    void download(void* to, std::size_t bytes, StreamHandle stream) const;

  private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

// A stream that does not wait for the default one.
class Stream {
  public:
    Stream();
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    StreamHandle handle() const { return handle_; }
    void wait() const;

  private:
    StreamHandle handle_ = nullptr;
};

// Scales frames of one size and format, several in one launch.
class DevicePreprocessor {
  public:
    // `frame` gives format and size; its pointers are not used.
    DevicePreprocessor(
        const FrameView& frame, const Rectangle& part, int width, int height, Matrix matrix, bool full_range,
        StreamHandle stream
    );
    ~DevicePreprocessor();
    // uint8 RGB (frames, height, width, 3), contiguous, at `out`.
    void run(const std::vector<FrameView>& frames, std::uint8_t* out, StreamHandle stream) const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// Outlines where a probability map on the device reaches its threshold; planes have at most 2x2 pixels per sample.
void mark_on_device(
    int width, int height, const std::vector<PlaneView>& planes, const MapView& map, const Band& band, StreamHandle stream
);

}  // namespace polypstream
