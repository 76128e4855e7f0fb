/* The instruction sets, and what each source of tiles provides. */
#ifndef PERILUNE_ISA_H
#define PERILUNE_ISA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "perilune_kernels.h"

/* A group of activations all smaller than this counts as zero (127 / absmax must be finite). */
#define PLK_INT8_TINY 1e-30f

typedef enum {
  PLK_ISA_PORTABLE,
  PLK_ISA_NEON,
  PLK_ISA_AVX2,
  PLK_ISA_AVXVNNI,
  PLK_ISA_AVX512,
  PLK_ISA_AVX512BF16,
} plk_isa_id;

plk_isa_id plk_isa_current(void);

/* One piece of a matrix product: `n_blocks` consecutive blocks times `n_rows` prepared rows.
 * All blocks are full (16 outputs). out[r * out_stride + 16 * b + lane]. */
typedef struct {
  const void *weight; /* of the first block */
  const void *scale;  /* of the first block; fp8: of the whole matrix */
  int64_t in_features;
  int64_t first_output; /* fp8: output row number of the first block */
  const char *const *rows;
  float *out;
  int64_t out_stride;
  int n_blocks, n_rows;
} plk_tile;
typedef void (*plk_tile_fn)(const plk_tile *tile);

typedef struct {
  plk_tile_fn tile[5][3]; /* [plk_format][plk_form]; NULL = not in this set */
  void (*prepare_int8)(const float *x, int64_t n_groups, plk_int8_group *out);
  void (*prepare_bf16)(const float *x, int64_t n, uint16_t *out);
  /* h[i] = silu(gate[i]) * up[i] */
  void (*swiglu)(const float *gate, const float *up, float *h, int64_t n);
  /* y[i] += w * x[i] */
  void (*add_scaled)(const float *x, float w, float *y, int64_t n);
  /* Sum of all 64-bit words, read with the widest loads. */
  uint64_t (*read)(const void *address, int64_t bytes);
} plk_kernels;

extern const plk_kernels plk_kernels_portable, plk_kernels_neon, plk_kernels_avx2,
    plk_kernels_avxvnni, plk_kernels_avx512, plk_kernels_avx512bf16;

/* Those of the chosen set. */
const plk_kernels *plk_kernels_current(void);

/* A group's scale from the bits of its largest size (taken as integers, NaN is the largest of all):
 * what its values are multiplied with, 0 where all of them become zero. */
static inline float plk_int8_scale(uint32_t largest, float *scale) {
  float absmax;
  memcpy(&absmax, &largest, 4);
  if (largest >= 0x7f800000) {
    *scale = NAN;
    return 0;
  }
  if (absmax < PLK_INT8_TINY) absmax = 0;
  *scale = absmax / 127.0f;
  return absmax > 0 ? 127.0f / absmax : 0;
}

static inline int plk_words_per_group(int format) {
  /* 32 inputs in 32-bit words: f32, bf16, fp8, int8, int4 */
  static const int words[5] = {32, 16, 8, 8, 4};
  return words[format];
}

/* Bytes of one full block of 16 rows. */
static inline int64_t plk_block_bytes(int format, int64_t in_features) {
  return in_features / PLK_GROUP * plk_words_per_group(format) * 64;
}

#endif
