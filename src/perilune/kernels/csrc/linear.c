/* Preparing activations, and y = W x over the tiles; the tail block in plain C. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "linear.h"

int plk_form_for(int format, int exact) {
  const plk_kernels *kernels = plk_kernels_current();
  if (format < 0 || format > PLK_INT4) return PLK_BAD_FORMAT;
  if (format == PLK_INT8) return PLK_X_INT8;
  if (exact) return PLK_X_F32;
  if (kernels->tile[format][PLK_X_INT8]) return PLK_X_INT8;
  return kernels->tile[format][PLK_X_BF16] ? PLK_X_BF16 : PLK_X_F32;
}

int64_t plk_prepared_bytes(int form, int64_t in_features) {
  switch (form) {
    case PLK_X_F32: return in_features * 4;
    case PLK_X_BF16: return in_features * 2;
    case PLK_X_INT8: return in_features / PLK_GROUP * (int64_t)sizeof(plk_int8_group);
    default: return PLK_BAD_FORMAT;
  }
}

static void prepare(int form, const float *x, int64_t n, char *out) {
  const plk_kernels *kernels = plk_kernels_current();
  if (form == PLK_X_INT8)
    kernels->prepare_int8(x, n / PLK_GROUP, (plk_int8_group *)out);
  else if (form == PLK_X_BF16)
    kernels->prepare_bf16(x, n, (uint16_t *)out);
  else
    memcpy(out, x, (size_t)n * 4);
}

void plk_prepare_part(int form, const float *x, int64_t x_stride, int64_t rows,
                      int64_t in_features, void *prepared, int thread, int n_threads) {
  const int64_t row_bytes = plk_prepared_bytes(form, in_features);
  const int64_t groups = in_features / PLK_GROUP, group_bytes = plk_prepared_bytes(form, PLK_GROUP);
  int64_t first, end;
  /* Shares of groups, not of rows, so that a single row is shared too. */
  plk_share(rows * groups, thread, n_threads, &first, &end);
  while (first < end) {
    const int64_t row = first / groups, group = first % groups;
    const int64_t here = groups - group < end - first ? groups - group : end - first;
    prepare(form, x + row * x_stride + group * PLK_GROUP, here * PLK_GROUP,
            (char *)prepared + row * row_bytes + group * group_bytes);
    first += here;
  }
}

/* ---- The last out_features % 16 rows: one lane at a time, same order of operations ---- */
static float bf16_value(uint16_t bits) {
  const uint32_t word = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

static float e4m3_value(uint8_t byte) { /* times 2^-120 */
  const uint32_t word = (uint32_t)(byte & 0x80) << 24 | (uint32_t)(byte & 0x7f) << 20;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

static float tail_output(const plk_matrix *m, int form, const char *x, int64_t row) {
  const int64_t base = row / PLK_BLOCK * PLK_BLOCK, lane = row - base;
  const int64_t height = m->out_features - base, groups = m->in_features / PLK_GROUP;
  const int per_group = plk_words_per_group(m->format);
  const uint32_t *words =
      (const uint32_t *)m->weight + base * groups * per_group + lane; /* word w at w * height */
  const uint16_t *group_scale = (const uint16_t *)m->scale + base * groups + lane;
  const int64_t columns = (m->in_features + 127) / 128;
  float sum = 0, block_sum = 0;
  for (int64_t g = 0; g < groups; g++) {
    if (form == PLK_X_INT8) {
      const plk_int8_group *group = (const plk_int8_group *)x + g;
      int32_t dot = 0;
      for (int i = 0; i < PLK_GROUP; i++) { /* i: place in the prepared order */
        int weight;
        if (m->format == PLK_INT4) {
          const uint32_t word = words[(g * 4 + i / 8) * height];
          weight = (int)(word >> (i % 4 * 8 + i / 4 % 2 * 4) & 15) - 8;
        } else {
          const uint32_t word = words[(g * 8 + i / 4) * height];
          weight = (int8_t)(word >> i % 4 * 8);
        }
        dot += weight * group->q[i];
      }
      sum = fmaf((float)dot, bf16_value(group_scale[g * height]) * group->scale, sum);
      continue;
    }
    float group_sum = 0;
    for (int i = 0; i < PLK_GROUP; i++) {
      const int64_t at = g * PLK_GROUP + i;
      float input;
      if (form == PLK_X_BF16)
        input = bf16_value(((const uint16_t *)x)[at]);
      else
        input = ((const float *)x)[at];
      switch (m->format) {
        case PLK_F32: {
          float weight;
          memcpy(&weight, words + at * height, 4);
          sum = fmaf(weight, input, sum);
          break;
        }
        case PLK_BF16:
          sum = fmaf(bf16_value((uint16_t)(words[at / 2 * height] >> at % 2 * 16)), input, sum);
          break;
        case PLK_FP8:
          block_sum =
              fmaf(e4m3_value((uint8_t)(words[at / 4 * height] >> at % 4 * 8)), input, block_sum);
          break;
        default: {
          const int q = (int)(words[at / 8 * height] >> at % 8 * 4 & 15) - 8;
          group_sum = fmaf((float)q, input, group_sum);
        }
      }
    }
    if (m->format == PLK_INT4) sum = fmaf(group_sum, bf16_value(group_scale[g * height]), sum);
    if (m->format == PLK_FP8 && (g % 4 == 3 || g == groups - 1)) {
      const float scale = ((const float *)m->scale)[row / 128 * columns + g / 4];
      sum = fmaf(block_sum, 0x1p120f * scale, sum);
      block_sum = 0;
    }
  }
  return sum;
}

/* ---- The same by the tiles: the narrow block widened to a full one, its spare lanes zero ---- */
#define TAIL_ROWS 64
#define WIDENED_BYTES (64 * 1024) /* of the stack */
#define WIDENED_GROUPS (WIDENED_BYTES / (PLK_BLOCK * PLK_GROUP / 2)) /* of int4, the smallest */

/* Spare lanes are zero whatever the format: 0 as a scale, or as all bits of a weight. */
static void widen(const void *narrow, int64_t height, int64_t n_words, int word_bytes, void *wide) {
  memset(wide, 0, (size_t)(n_words * PLK_BLOCK * word_bytes));
  for (int64_t w = 0; w < n_words; w++)
    memcpy((char *)wide + w * PLK_BLOCK * word_bytes, (const char *)narrow + w * height * word_bytes,
           (size_t)(height * word_bytes));
}

/* Outputs [first, out_features) of all rows; 0 where the block is too large to be widened here. */
static int widened_tail(const plk_matrix *m, int form, int64_t first, const char *prepared,
                        int64_t prepared_stride, int64_t rows, float *y, int64_t y_stride) {
  const int64_t height = m->out_features - first, groups = m->in_features / PLK_GROUP;
  const int per_group = plk_words_per_group(m->format);
  if (plk_block_bytes(m->format, m->in_features) > WIDENED_BYTES) return 0;
  _Alignas(64) char weight[WIDENED_BYTES];
  _Alignas(64) uint16_t scale[WIDENED_GROUPS * PLK_BLOCK];
  widen((const uint32_t *)m->weight + first * groups * per_group, height, groups * per_group, 4,
        weight);
  const int grouped = m->format == PLK_INT4 || m->format == PLK_INT8;
  if (grouped) widen((const uint16_t *)m->scale + first * groups, height, groups, 2, scale);
  for (int64_t row = 0; row < rows; row += TAIL_ROWS) {
    const int n_rows = rows - row < TAIL_ROWS ? (int)(rows - row) : TAIL_ROWS;
    const char *pointers[TAIL_ROWS];
    float out[TAIL_ROWS * PLK_BLOCK];
    for (int r = 0; r < n_rows; r++) pointers[r] = prepared + (row + r) * prepared_stride;
    const plk_tile tile = {
        .weight = weight,
        .scale = grouped ? (const void *)scale : m->scale,
        .in_features = m->in_features,
        .first_output = first,
        .rows = pointers,
        .out = out,
        .out_stride = PLK_BLOCK,
        .n_blocks = 1,
        .n_rows = n_rows,
    };
    plk_kernels_current()->tile[m->format][form](&tile);
    for (int r = 0; r < n_rows; r++)
      memcpy(y + (row + r) * y_stride + first, out + r * PLK_BLOCK, (size_t)height * sizeof(float));
  }
  return 1;
}

/* ---- Whole matrices ---- */
void plk_matrix_rows(const plk_matrix *m, int form, int64_t first_block, int64_t n_blocks,
                     const char *const *rows, int64_t n_rows, float *out, int64_t out_stride) {
  const int64_t groups = m->in_features / PLK_GROUP;
  plk_tile tile = {
      .weight = (const char *)m->weight +
                first_block * plk_block_bytes(m->format, m->in_features),
      .scale = m->format == PLK_FP8 || !m->scale
                   ? m->scale
                   : (const char *)m->scale + first_block * groups * 2 * PLK_BLOCK,
      .in_features = m->in_features,
      .first_output = first_block * PLK_BLOCK,
      .rows = rows,
      .out = out,
      .out_stride = out_stride,
      .n_blocks = (int)n_blocks,
      .n_rows = (int)n_rows,
  };
  plk_kernels_current()->tile[m->format][form](&tile);
}

void plk_linear_range(int64_t out_features, int thread, int n_threads, int64_t *first,
                      int64_t *end) {
  plk_share((out_features + PLK_BLOCK - 1) / PLK_BLOCK, thread, n_threads, first, end);
  *first *= PLK_BLOCK;
  *end *= PLK_BLOCK;
  if (*first > out_features) *first = out_features;
  if (*end > out_features) *end = out_features;
}

/* Weights of the blocks that all rows pass before the next ones come: well within the second
 * level cache. */
#define BLOCKS_BYTES (256 * 1024)
#define ROWS_AT_ONCE 64

void plk_linear_part(const plk_matrix *m, int form, const void *prepared,
                     int64_t prepared_stride, int64_t rows, float *y, int64_t y_stride,
                     int thread, int n_threads) {
  int64_t first, end;
  plk_linear_range(m->out_features, thread, n_threads, &first, &end);
  const int64_t first_block = first / PLK_BLOCK, end_block = end / PLK_BLOCK; /* full blocks */
  int64_t step = BLOCKS_BYTES / plk_block_bytes(m->format, m->in_features) / 4 * 4;
  if (step < 4) step = 4;
  const char *pointers[ROWS_AT_ONCE];
  for (int64_t block = first_block; block < end_block; block += step) {
    const int64_t n_blocks = end_block - block < step ? end_block - block : step;
    for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
      const int64_t n_rows = rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE;
      for (int64_t r = 0; r < n_rows; r++)
        pointers[r] = (const char *)prepared + (row + r) * prepared_stride;
      plk_matrix_rows(m, form, block, n_blocks, pointers, n_rows,
                      y + row * y_stride + block * PLK_BLOCK, y_stride);
    }
  }
  const int64_t tail = end_block * PLK_BLOCK;
  if (tail >= end || widened_tail(m, form, tail, prepared, prepared_stride, rows, y, y_stride))
    return;
  for (int64_t o = tail; o < end; o++)
    for (int64_t r = 0; r < rows; r++)
      y[r * y_stride + o] =
          tail_output(m, form, (const char *)prepared + r * prepared_stride, o);
}

typedef struct {
  const plk_matrix *matrix;
  const float *x;
  int64_t x_stride, rows;
  float *y;
  int64_t y_stride;
  int form;
  char *prepared;
  int64_t prepared_stride;
} linear_job;

static void linear_share(void *context, int thread, int n_threads) {
  const linear_job *job = context;
  if (job->form != PLK_X_F32) {
    plk_prepare_part(job->form, job->x, job->x_stride, job->rows, job->matrix->in_features,
                     job->prepared, thread, n_threads);
    plk_barrier();
  }
  plk_linear_part(job->matrix, job->form, job->prepared, job->prepared_stride, job->rows, job->y,
                  job->y_stride, thread, n_threads);
}

int plk_linear(const plk_matrix *m, const float *x, int64_t x_stride, int64_t rows, float *y,
               int64_t y_stride, int exact) {
  const int form = plk_form_for(m->format, exact);
  if (form < 0) return PLK_BAD_FORMAT;
  if (m->in_features <= 0 || m->in_features % PLK_GROUP || m->out_features < 0 || rows < 0)
    return PLK_BAD_SHAPE;
  if (rows == 0 || m->out_features == 0) return PLK_OK;
  linear_job job = {m, x, x_stride, rows, y, y_stride, form, (char *)x, x_stride * 4};
  char *memory = NULL;
  if (form != PLK_X_F32) {
    job.prepared_stride = plk_prepared_bytes(form, m->in_features);
    memory = job.prepared = malloc((size_t)(job.prepared_stride * rows));
    if (!memory) return PLK_NO_MEMORY;
  }
  plk_parallel_region(linear_share, &job);
  free(memory);
  return PLK_OK;
}
