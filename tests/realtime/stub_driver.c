// A CUDA driver without a GPU, in host memory: prints what is asked of it. A graph that is launched does nothing.
// Addresses from 1 MiB on count as device 1, others as device 0.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAY(...) (printf(__VA_ARGS__), printf("\n"), fflush(stdout), 0)
#define STREAM ((void *)21)
static void *current;
static int capturing;

int okay(void) { return 0; }
static int give(void **out, void *made) { *out = made; return made == NULL ? 2 : 0; }

int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 115 ? 1 : attribute == 14 ? 512 : 0;  // memory pools, alignment of rows
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return give(context, (void *)11); }
int cuCtxSetCurrent(void *context) { current = context; return 0; }
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuStreamGetCtx(void *stream, void **context) { return give(context, (void *)11); }

int cuStreamCreateWithPriority(void **stream, unsigned flags, int p) { give(stream, STREAM); return SAY("stream, flags %u", flags); }
int cuStreamDestroy_v2(void *stream) { return SAY("destroy stream"); }
int cuStreamSynchronize(void *stream) { return stream == STREAM ? SAY("wait") : SAY("wait for another stream"); }
int cuMemAllocFromPoolAsync(void **made, size_t size, void *pool, void *stream) { SAY("allocate %zu", size); return give(made, malloc(size)); }
int cuMemFreeAsync(void *memory, void *stream) { free(memory); return SAY("free"); }
int cuMemAllocHost_v2(void **made, size_t size) { SAY("pin %zu", size); return give(made, malloc(size)); }
int cuMemFreeHost(void *memory) { free(memory); return SAY("unpin"); }
int cuMemcpyAsync(void *to, void *from, size_t size, void *stream) {
    memcpy(to, from, size);
    return stream == STREAM ? SAY("copy %zu", size) : SAY("copy on another stream");
}
int cuStreamBeginCapture_v2(void *stream, int mode) { capturing = 1; return SAY("begin capture, mode %d", mode); }
int cuStreamEndCapture(void *stream, void **graph) { capturing = 0; give(graph, (void *)31); return SAY("end capture"); }
int cuStreamIsCapturing(void *stream, int *state) { *state = capturing; return 0; }
int cuStreamGetCaptureInfo_v3(void *stream, int *state, uint64_t *id, void **graph, const void ***nodes, const void **edges, size_t *count) {
    *state = capturing;
    if (graph) *graph = (void *)31;
    return 0;
}
int cuGraphInstantiateWithParams(void **made, void *graph, void *settings) { return give(made, (void *)41); }
int cuGraphLaunch(void *graph, void *stream) { return SAY("launch"); }
int cuGraphExecDestroy(void *graph) { return SAY("destroy graph"); }

int cuPointerGetAttribute(void *data, int attribute, uint64_t address) {
    if (attribute == 9) *(int *)data = address >= (1 << 20);  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    else if (attribute == 2) *(int *)data = 2;                // ..._MEMORY_TYPE: device
    else *(uint64_t *)data = address;
    return 0;
}
int cuPointerGetAttributes(unsigned count, int *attributes, void **data, uint64_t address) {
    for (unsigned k = 0; k < count; ++k) cuPointerGetAttribute(data[k], attributes[k], address);
    return 0;
}
int cuEventCreate(void **event, unsigned flags) { return give(event, (void *)77); }
int cuEventRecord(void *event, void *stream) { return SAY("record %zu", (size_t)stream); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return SAY("wait %zu", (size_t)stream); }

// FFmpeg takes the context that is current, looks for all of these when it loads the driver, and copies by rows.
int cuCtxPushCurrent_v2(void *context) { current = context; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = current; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) { *flags = 0; *is_active = 1; return 0; }
typedef struct {
    size_t x0, y0; int kind0; char *host0, *device0; void *array0; size_t pitch0;
    size_t x1, y1; int kind1; char *host1, *device1; void *array1; size_t pitch1, width, height;
} Rows;
int cuMemcpy2DAsync_v2(const Rows *rows, void *stream) {
    int from_host = rows->kind0 == 1, to_host = rows->kind1 == 1;
    char *from = from_host ? rows->host0 : rows->device0, *to = to_host ? rows->host1 : rows->device1;
    for (size_t y = 0; y < rows->height; ++y) memcpy(to + y * rows->pitch1, from + y * rows->pitch0, rows->width);
    return SAY("%s %zux%zu", from_host ? "upload" : to_host ? "download" : "duplicate", rows->width, rows->height);
}
int cuMemAlloc_v2(void **made, size_t size) { return give(made, malloc(size)); }
int cuMemFree_v2(void *memory) { free(memory); return 0; }
int cuMemcpy2D_v2(const Rows *rows) { return cuMemcpy2DAsync_v2(rows, NULL); }
#define X(name) int name(void) __attribute__((alias("okay")));
X(cuArray3DCreate_v2) X(cuArrayCreate_v2) X(cuArrayDestroy) X(cuCtxCreate_v2) X(cuCtxDestroy_v2)
X(cuCtxSetLimit) X(cuDestroyExternalMemory) X(cuDestroyExternalSemaphore) X(cuDeviceComputeCapability)
X(cuDeviceGetByPCIBusId) X(cuDeviceGetLuid) X(cuDeviceGetName) X(cuDeviceGetPCIBusId) X(cuDeviceGetUuid)
X(cuDeviceGetUuid_v2) X(cuDevicePrimaryCtxRelease) X(cuDevicePrimaryCtxReset) X(cuDevicePrimaryCtxSetFlags)
X(cuEGLStreamConsumerDisconnect) X(cuEGLStreamProducerConnect) X(cuEGLStreamProducerDisconnect)
X(cuEGLStreamProducerPresentFrame) X(cuEGLStreamProducerReturnFrame) X(cuEventDestroy_v2) X(cuEventQuery)
X(cuEventSynchronize) X(cuExternalMemoryGetMappedBuffer) X(cuExternalMemoryGetMappedMipmappedArray)
X(cuGLGetDevices_v2) X(cuGetErrorName) X(cuGetErrorString) X(cuGraphicsGLRegisterImage)
X(cuGraphicsMapResources) X(cuGraphicsResourceGetMappedPointer_v2) X(cuGraphicsSubResourceGetMappedArray)
X(cuGraphicsUnmapResources) X(cuGraphicsUnregisterResource) X(cuImportExternalMemory)
X(cuImportExternalSemaphore) X(cuInit) X(cuLaunchKernel) X(cuLinkAddData) X(cuLinkComplete) X(cuLinkCreate)
X(cuLinkDestroy) X(cuMemAllocManaged) X(cuMemAllocPitch_v2) X(cuMemcpy)
X(cuMemcpyDtoDAsync_v2) X(cuMemcpyDtoD_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoH_v2)
X(cuMemcpyHtoDAsync_v2) X(cuMemcpyHtoD_v2) X(cuMemsetD8Async) X(cuMipmappedArrayDestroy)
X(cuMipmappedArrayGetLevel) X(cuModuleGetFunction) X(cuModuleGetGlobal) X(cuModuleLoadData)
X(cuModuleUnload) X(cuSignalExternalSemaphoresAsync) X(cuStreamAddCallback) X(cuStreamCreate)
X(cuStreamQuery) X(cuTexObjectCreate) X(cuTexObjectDestroy) X(cuWaitExternalSemaphoresAsync)

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    char newer[128];
    *function = NULL;
    for (int number = 3; number > 1 && *function == NULL; --number) {
        snprintf(newer, sizeof newer, "%s_v%d", name, number);
        *function = dlsym(RTLD_DEFAULT, newer);
    }
    if (*function == NULL) *function = dlsym(RTLD_DEFAULT, name);
    if (*function == NULL) *function = (void *)&okay;
    if (status) *status = 0;
    return 0;
}
