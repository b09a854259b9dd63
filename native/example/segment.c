/* Segments raw frames from a file and draws on them in place.
 *
 *     segment MODEL ONNXRUNTIME FORMAT WIDTH HEIGHT IN OUT
 *
 * FORMAT is nv12 (BT.709, limited range) or bgr; IN holds frames one after the other without padding, such as
 * `ffmpeg -i clip.mp4 -pix_fmt nv12 -f rawvideo in.raw` writes. Each polyp is a line on standard output: the number of
 * its frame, score, area, and the contour's vertices. OUT gets the frames with the outlines.
 */
#include <polypstream.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, polypstream_error());
    return EXIT_FAILURE;
}

static int print_polyps(const polypstream_result *result, int number) {
    for (size_t k = 0; k < polypstream_count(result); ++k) {
        polypstream_contour contour;
        if (polypstream_contour_at(result, k, &contour) != POLYPSTREAM_OK) return failed("contour");
        printf("%d %.6f %.3f", number, contour.score, contour.area);
        for (size_t i = 0; i < contour.count; ++i) printf(" %.3f,%.3f", contour.points[2 * i], contour.points[2 * i + 1]);
        printf("\n");
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: segment MODEL ONNXRUNTIME nv12|bgr WIDTH HEIGHT IN OUT\n");
        return EXIT_FAILURE;
    }
    const int is_bgr = strcmp(argv[3], "bgr") == 0;
    const int width = atoi(argv[4]), height = atoi(argv[5]);
    if (width < 2 || height < 2 || width % 2 || height % 2) {
        fprintf(stderr, "the frames are %dx%d; this example takes even sides\n", width, height);
        return EXIT_FAILURE;
    }
    polypstream_model *model = NULL;
    if (polypstream_open(argv[1], argv[2], 0, &model) != POLYPSTREAM_OK) return failed("open");

    const size_t luma = (size_t)width * height, size = is_bgr ? 3 * luma : luma + luma / 2;
    uint8_t *memory = malloc(size);
    FILE *in = fopen(argv[6], "rb"), *out = fopen(argv[7], "wb");
    int status = memory && in && out ? EXIT_SUCCESS : EXIT_FAILURE;
    if (status) perror("segment");

    polypstream_frame frame = {0};
    frame.format = is_bgr ? POLYPSTREAM_BGR : POLYPSTREAM_NV12;
    frame.width = width;
    frame.height = height;
    frame.matrix = POLYPSTREAM_BT709;
    frame.plane[0] = memory;
    frame.pitch[0] = is_bgr ? 3 * width : width;
    if (!is_bgr) {
        frame.plane[1] = memory + luma;
        frame.pitch[1] = width;
    }
    for (int number = 0; status == EXIT_SUCCESS && fread(memory, 1, size, in) == size; ++number) {
        polypstream_result *result = NULL;
        if (polypstream_segment(model, &frame, &result) != POLYPSTREAM_OK) {
            status = failed("segment");
        } else if (polypstream_draw(result, &frame) != POLYPSTREAM_OK) {
            status = failed("draw");
        } else {
            status = print_polyps(result, number);
        }
        polypstream_result_free(result);
        if (status == EXIT_SUCCESS && fwrite(memory, 1, size, out) != size) {
            perror("write");
            status = EXIT_FAILURE;
        }
    }
    if (in) fclose(in);
    if (out) fclose(out);
    free(memory);
    polypstream_close(model);
    return status;
}
