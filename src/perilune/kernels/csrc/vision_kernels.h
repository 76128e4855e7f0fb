/* The inner loops of the vision tower that exist once per instruction set, and the table of them.
 *
 * vision_template.h is the source; each vision_ISA.c compiles it once under its flags. A panel is 16
 * columns of a matrix, input by input: panel[i * 16 + column]. An element of a product is summed in
 * the order of i, however many rows are computed together.
 */
#ifndef PERILUNE_VISION_KERNELS_H
#define PERILUNE_VISION_KERNELS_H

#include <stdint.h>

typedef enum { PLK_GELU_NONE = 0, PLK_GELU_TANH = 1, PLK_GELU_ERF = 2 } plk_gelu;

typedef struct {
  int rows; /* computed together; fewer take longer each */
  /* y[r][0..16) = (accumulate ? y : 0) + sum over i < n of x[r][i] * panel[i] */
  void (*product)(const float *x, int64_t x_stride, int64_t rows, const float *panel, int64_t n,
                  float *y, int64_t y_stride, int accumulate);
  /* Words of two bf16 inputs, 16 columns each -> panel of 2 * n_words inputs. */
  void (*unpack)(const uint32_t *words, int64_t n_words, float *panel);
  /* y[r][0..16) = gelu(y + bias) */
  void (*finish)(float *y, int64_t y_stride, int64_t rows, const float *bias, int gelu);
  /* Online softmax in powers of two of n <= width scores (width: whole vectors of 16), the others
   * become 0: updates maximum and sum, returns what was summed before must be multiplied by. */
  float (*softmax)(float *scores, int n, int width, float *maximum, float *sum);
  /* y *= factor; n a multiple of 16 */
  void (*scale)(float *y, float factor, int n);
} plk_vision_kernels;

extern const plk_vision_kernels plk_vision_kernels_portable, plk_vision_kernels_avx2,
    plk_vision_kernels_avx512;

/* The table for plk_isa(). */
const plk_vision_kernels *plk_vision_kernels_select(void);

#endif
