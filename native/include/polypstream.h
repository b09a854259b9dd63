/* polypstream for C and C++ programs: polyps in video frames. Research software, not a medical device.
 *
 * A model handle belongs to one video, whose frames are passed in order: the part of the frame that the network is
 * shown follows the endoscope's picture. One thread at a time may use it; several handles work side by side. Functions
 * that return int return POLYPSTREAM_OK, or an error whose text `polypstream_error` gives.
 */
#ifndef POLYPSTREAM_H
#define POLYPSTREAM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define POLYPSTREAM_API __attribute__((visibility("default")))
#else
#define POLYPSTREAM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define POLYPSTREAM_OK 0
#define POLYPSTREAM_CONFIG_ERROR 1  /* an argument is out of range */
#define POLYPSTREAM_MODEL_ERROR 2   /* the model file is missing, damaged or of another kind */
#define POLYPSTREAM_BACKEND_ERROR 3 /* ONNX Runtime is missing or failed */
#define POLYPSTREAM_OTHER_ERROR 4   /* out of memory, for example */

typedef enum {
    POLYPSTREAM_NV12 = 0, /* Y; then Cb and Cr interleaved, at half the width and height */
    POLYPSTREAM_P010 = 1, /* the same in 16 bits, values in the upper 10; for segmenting only */
    POLYPSTREAM_I420 = 2, /* Y, Cb, Cr */
    POLYPSTREAM_BGR = 3   /* one plane of blue, green, red */
} polypstream_format;

typedef enum { POLYPSTREAM_BT601 = 0, POLYPSTREAM_BT709 = 1 } polypstream_matrix;

/* A frame in the caller's memory. */
typedef struct {
    polypstream_format format;
    int width, height;
    uint8_t *plane[3];
    int64_t pitch[3]; /* bytes from one row to the next */
    polypstream_matrix matrix;
    int full_range; /* 0: luma from 16 to 235; else from 0 to 255 */
} polypstream_frame;

/* The outline of one polyp, in pixels of the frame: the center of the first pixel is at (0.5, 0.5). */
typedef struct {
    const float *points; /* x, y of each vertex; the last one is joined to the first */
    size_t count;        /* vertices */
    float area;          /* square pixels */
    float score;         /* mean probability */
} polypstream_contour;

typedef struct polypstream_model polypstream_model;
typedef struct polypstream_result polypstream_result;

/* Open a model made by `polypstream export`. `onnxruntime` is the path of ONNX Runtime's shared library, as it is in
 * its Python package and its releases; NULL for the one that the system finds. `threads` is for inference, 0 for one
 * per core. */
POLYPSTREAM_API int polypstream_open(
    const char *path, const char *onnxruntime, int threads, polypstream_model **model
);
POLYPSTREAM_API void polypstream_close(polypstream_model *model);

/* The next frame belongs to another video. */
POLYPSTREAM_API void polypstream_reset(polypstream_model *model);

/* Width and height of the network's input, and the probability from which a pixel is polyp. */
POLYPSTREAM_API void polypstream_model_info(const polypstream_model *model, int *width, int *height, float *threshold);

/* Find the polyps in a frame, which stays as it is: regions from that probability up that also reach the minimum peak of
 * the model's contract somewhere. */
POLYPSTREAM_API int polypstream_segment(
    polypstream_model *model, const polypstream_frame *frame, polypstream_result **result
);
POLYPSTREAM_API void polypstream_result_free(polypstream_result *result);

/* Number of polyps, and each of them, the largest first. Points live as long as the result. */
POLYPSTREAM_API size_t polypstream_count(const polypstream_result *result);
POLYPSTREAM_API int polypstream_contour_at(
    const polypstream_result *result, size_t index, polypstream_contour *contour
);

/* Probability of the whole frame, row by row, stretched to width x height; lives as long as the result. */
POLYPSTREAM_API const float *polypstream_probability(const polypstream_result *result, int *width, int *height);

/* Outline the polyps of a result on a frame of the same size, in place; no other pixel changes. */
POLYPSTREAM_API int polypstream_draw(const polypstream_result *result, const polypstream_frame *frame);

/* What went wrong in this thread's last call that failed: one line, valid until the next one. */
POLYPSTREAM_API const char *polypstream_error(void);
POLYPSTREAM_API const char *polypstream_version(void);

#ifdef __cplusplus
}
#endif
#endif
