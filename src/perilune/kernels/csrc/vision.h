/* What the vision tower needs beside `perilune_kernels.h`: products with bias and GELU over many
 * rows, and attention of packed pictures. float32 throughout; weights float32 or bfloat16. */
#ifndef PERILUNE_VISION_H
#define PERILUNE_VISION_H

#include "perilune_kernels.h"
#include "vision_kernels.h"

/* y[r] = gelu((add ? y[r] : 0) + W x[r] + bias), y [rows, out] with rows y_stride apart. `matrix`:
 * float32, or bfloat16 with an even number of inputs; any number of outputs. `gelu`: plk_gelu. A
 * row's result does not depend on the rows around it. */
PLK_API int plk_dense(const plk_matrix *matrix, const float *bias, const float *x,
                      int64_t x_stride, int64_t rows, float *y, int64_t y_stride, int gelu,
                      int add);

/* Items of counts[i] rows, one behind the other; qkv [rows][3][heads][head_dim], cos and sin
 * [rows][head_dim / 2] -> out [rows][heads][head_dim]. Pairs of neighbouring values of queries and
 * keys are turned; each row attends to all rows of its item and to no others; scores are scaled by
 * head_dim^-0.5; softmax in float32. head_dim even. */
PLK_API int plk_item_attention(const float *qkv, const int64_t *counts, int64_t n_items,
                               int64_t heads, int64_t head_dim, const float *cosine,
                               const float *sine, float *out);

#endif
