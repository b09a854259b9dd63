// Stands in for kernels.cu where there is no CUDA compiler.
#include "device.h"

namespace polypstream {

struct DevicePreprocessor::State {};

namespace {
[[noreturn]] void missing() {
    throw BackendError("polypstream was built without a CUDA compiler; install one and build it again, or work on the CPU");
}
}  // namespace

bool has_kernels() { return false; }
int device_count() { return 0; }
DeviceBuffer::DeviceBuffer(std::size_t) { missing(); }
DeviceBuffer::~DeviceBuffer() = default;
void DeviceBuffer::upload(const void*, std::size_t, StreamHandle) { missing(); }
void DeviceBuffer::download(void*, std::size_t, StreamHandle) const { missing(); }
Stream::Stream() { missing(); }
Stream::~Stream() = default;
void Stream::wait() const { missing(); }
DevicePreprocessor::DevicePreprocessor(const FrameView&, const Rectangle&, int, int, Matrix, bool, StreamHandle) { missing(); }
DevicePreprocessor::~DevicePreprocessor() = default;
void DevicePreprocessor::run(const std::vector<FrameView>&, std::uint8_t*, StreamHandle) const { missing(); }
void mark_on_device(int, int, const std::vector<PlaneView>&, const MapView&, const Band&, StreamHandle) { missing(); }

}  // namespace polypstream
