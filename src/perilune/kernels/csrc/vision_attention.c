/* Attention within the items of a packed batch (see vision.h). Online softmax: arXiv 2205.14135.
 *
 * Item by item and some heads at a time: first keys are turned and both keys and values are laid out
 * as panels, then blocks of queries pass over blocks of keys. The blocks of an item start with it, so
 * an item's result does not depend on its neighbours.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "thread_pool.h"
#include "vision.h"

#define KEYS 128    /* of a block: 8 panels */
#define QUERIES 96  /* of a block, at most */
#define PACKED_BYTES ((int64_t)64 << 20) /* keys and values of the heads taken together */

typedef struct {
  const plk_vision_kernels *kernels;
  const float *qkv, *cosine, *sine;
  float *out;
  const int64_t *counts;
  int64_t n_items, heads, head_dim;
  int64_t width;       /* of a head's values in panels: head_dim up to whole 16 */
  int64_t block_floats; /* of one block of keys and its values */
  float *packed;
  int64_t packed_heads; /* that fit for the largest item */
  char *scratch;
  int64_t scratch_bytes;
  plk_counter counter;
} item_job;

typedef struct {
  float maximum[QUERIES], sum[QUERIES];
  _Alignas(64) float scores[QUERIES * KEYS];
  _Alignas(64) float rest[]; /* queries [QUERIES][head_dim], sums [QUERIES][width] */
} item_scratch;

static int64_t blocks_of(int64_t count) { return (count + KEYS - 1) / KEYS; }

/* out[2i], out[2i+1] = the pair turned, times factor; out values `step` apart. */
static void turn(const float *x, const float *cosine, const float *sine, int64_t n, float factor,
                 float *out, int64_t step) {
  for (int64_t i = 0; i < n / 2; i++) {
    const float a = x[2 * i], b = x[2 * i + 1], c = cosine[i], s = sine[i];
    out[2 * i * step] = (a * c - b * s) * factor;
    out[(2 * i + 1) * step] = (b * c + a * s) * factor;
  }
}

/* One block of keys [8][head_dim][16] and their values [width/16][128][16], spare places zero. */
static void pack_block(const item_job *job, int64_t first, int64_t count, int64_t head,
                       int64_t block, float *to) {
  const int64_t dim = job->head_dim, row_floats = 3 * job->heads * dim;
  float *values = to + KEYS * dim;
  const int64_t begin = block * KEYS, left = count - begin;
  const int64_t here = left < KEYS ? left : KEYS;
  if (here < KEYS) memset(to, 0, (size_t)(KEYS * dim) * sizeof *to);
  if (here < KEYS || job->width > dim)
    memset(values, 0, (size_t)(KEYS * job->width) * sizeof *values);
  for (int64_t i = 0; i < here; i++) {
    const int64_t row = first + begin + i;
    const float *key = job->qkv + row * row_floats + (job->heads + head) * dim;
    const float *value = key + job->heads * dim;
    turn(key, job->cosine + row * (dim / 2), job->sine + row * (dim / 2), dim, 1.0f,
         to + i / 16 * 16 * dim + i % 16, 16);
    for (int64_t v = 0; v < dim; v += 16) {
      const int64_t n = dim - v < 16 ? dim - v : 16;
      memcpy(values + (v / 16 * KEYS + i) * 16, value + v, (size_t)n * sizeof *values);
    }
  }
}

static void attend_block(const item_job *job, int64_t first, int64_t count, int64_t head,
                         int64_t begin, int64_t n, const float *packed, item_scratch *s) {
  const plk_vision_kernels *k = job->kernels;
  const int64_t dim = job->head_dim, width = job->width, row_floats = 3 * job->heads * dim;
  float *queries = s->rest, *sums = s->rest + QUERIES * dim;
  const float factor = 1.44269504f / sqrtf((float)dim); /* powers of two */
  for (int64_t q = 0; q < n; q++) {
    const int64_t row = first + begin + q;
    turn(job->qkv + row * row_floats + head * dim, job->cosine + row * (dim / 2),
         job->sine + row * (dim / 2), dim, factor, queries + q * dim, 1);
    s->maximum[q] = -INFINITY, s->sum[q] = 0.0f;
  }
  memset(sums, 0, (size_t)(n * width) * sizeof *sums);
  for (int64_t block = 0; block < blocks_of(count); block++, packed += job->block_floats) {
    const int64_t left = count - block * KEYS, keys = left < KEYS ? left : KEYS;
    const int64_t panels = (keys + 15) / 16;
    for (int64_t p = 0; p < panels; p++)
      k->product(queries, dim, n, packed + p * 16 * dim, dim, s->scores + p * 16, KEYS, 0);
    for (int64_t q = 0; q < n; q++) {
      const float keep = k->softmax(s->scores + q * KEYS, (int)keys, (int)panels * 16,
                                    s->maximum + q, s->sum + q);
      if (keep != 1.0f) k->scale(sums + q * width, keep, (int)width);
    }
    for (int64_t p = 0; p < width / 16; p++)
      k->product(s->scores, KEYS, n, packed + KEYS * dim + p * KEYS * 16, keys, sums + p * 16,
                 width, 1);
  }
  for (int64_t q = 0; q < n; q++) {
    k->scale(sums + q * width, 1.0f / s->sum[q], (int)width);
    memcpy(job->out + ((first + begin + q) * job->heads + head) * dim, sums + q * width,
           (size_t)dim * sizeof *sums);
  }
}

static void item_share(void *context, int thread, int n_threads) {
  item_job *job = context;
  item_scratch *scratch = (item_scratch *)(job->scratch + thread * job->scratch_bytes);
  const int64_t at_once = job->kernels->rows * (QUERIES / job->kernels->rows);
  int64_t first = 0;
  for (int64_t item = 0; item < job->n_items; first += job->counts[item++]) {
    const int64_t count = job->counts[item], blocks = blocks_of(count);
    const int64_t floats = blocks * job->block_floats; /* of a head */
    const int64_t query_blocks = (count + at_once - 1) / at_once;
    for (int64_t head = 0; head < job->heads; head += job->packed_heads) {
      const int64_t left = job->heads - head;
      const int64_t here = left < job->packed_heads ? left : job->packed_heads;
      int64_t from, to;
      plk_share(here * blocks, thread, n_threads, &from, &to);
      for (int64_t task = from; task < to; task++)
        pack_block(job, first, count, head + task / blocks, task % blocks,
                   job->packed + task * job->block_floats);
      if (thread == 0) plk_counter_reset(&job->counter);
      plk_barrier();
      int64_t task;
      while ((task = plk_counter_draw(&job->counter, 1)) < here * query_blocks) {
        const int64_t h = task / query_blocks, begin = task % query_blocks * at_once;
        const int64_t n = count - begin < at_once ? count - begin : at_once;
        attend_block(job, first, count, head + h, begin, n, job->packed + h * floats, scratch);
      }
      plk_barrier();
    }
  }
}

int plk_item_attention(const float *qkv, const int64_t *counts, int64_t n_items, int64_t heads,
                       int64_t head_dim, const float *cosine, const float *sine, float *out) {
  if (n_items < 0 || heads <= 0 || head_dim <= 0 || head_dim % 2) return PLK_BAD_SHAPE;
  item_job job = {.kernels = plk_vision_kernels_select(), .qkv = qkv, .cosine = cosine,
                  .sine = sine, .out = out, .counts = counts, .n_items = n_items, .heads = heads,
                  .head_dim = head_dim, .width = (head_dim + 15) / 16 * 16};
  int64_t largest = 0;
  for (int64_t i = 0; i < n_items; i++) {
    if (counts[i] < 0) return PLK_BAD_SHAPE;
    if (counts[i] > largest) largest = counts[i];
  }
  if (largest == 0) return PLK_OK;
  job.block_floats = KEYS * (head_dim + job.width);
  const int64_t head_bytes = blocks_of(largest) * job.block_floats * (int64_t)sizeof(float);
  job.packed_heads = PACKED_BYTES / head_bytes;
  if (job.packed_heads < 1) job.packed_heads = 1;
  if (job.packed_heads > heads) job.packed_heads = heads;
  const int threads = plk_threads();
  job.scratch_bytes =
      ((int64_t)sizeof(item_scratch) + QUERIES * (head_dim + job.width) * 4 + 63) / 64 * 64;
  const int64_t packed_bytes = (job.packed_heads * head_bytes + 63) / 64 * 64;
  char *memory = aligned_alloc(64, (size_t)(packed_bytes + threads * job.scratch_bytes));
  if (!memory) return PLK_NO_MEMORY;
  plk_advise_huge_pages(memory, packed_bytes);
  job.packed = (float *)memory;
  job.scratch = memory + packed_bytes;
  plk_parallel_region(item_share, &job);
  free(memory);
  return PLK_OK;
}
