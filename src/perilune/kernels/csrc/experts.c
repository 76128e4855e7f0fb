/* The routed experts of a layer: rows grouped by expert, gate and up fused with SwiGLU, then down
 * with the weighted sum.
 *
 * Two passes over the weights. In the first a unit of work is (expert, 64 intermediate values), in
 * the second 64 outputs for all experts, so that each output is summed by one thread, in ascending
 * expert number, without a buffer per (token, expert). Intermediate values are stored prepared.
 */
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "linear.h"

#define UNIT 64          /* outputs of a unit of work */
#define ROWS_AT_ONCE 48  /* rows between two reads of a unit's weights */

typedef struct {
  plk_counter gate_up, down;
  int64_t n_active;
  int32_t *active;      /* [<= n_experts] experts that have rows, ascending */
  int32_t *first_pair;  /* [n_experts + 1] */
  int32_t *pair_token;  /* [pairs], grouped by expert */
  float *pair_weight;   /* [pairs] */
  char *input;          /* [tokens] prepared rows */
  char *middle;         /* [pairs] prepared rows */
} workspace_parts;

static int64_t align64(int64_t n) { return (n + 63) / 64 * 64; }

/* Lay the parts out from `base` (may be NULL: only the size is wanted). */
static int64_t lay_out(workspace_parts *parts, char *base, const plk_experts *e, int64_t tokens,
                       int64_t top_k, int form) {
  const int64_t pairs = tokens * top_k;
  int64_t at = align64(sizeof *parts);
  parts->active = (int32_t *)(base + at);
  at += align64(e->n_experts * 4);
  parts->first_pair = (int32_t *)(base + at);
  at += align64((e->n_experts + 1) * 4);
  parts->pair_token = (int32_t *)(base + at);
  at += align64(pairs * 4);
  parts->pair_weight = (float *)(base + at);
  at += align64(pairs * 4);
  parts->input = base + at;
  if (form != PLK_X_F32) at += align64(tokens * plk_prepared_bytes(form, e->hidden));
  parts->middle = base + at;
  at += align64(pairs * plk_prepared_bytes(form, e->intermediate));
  return at;
}

int64_t plk_experts_workspace(const plk_experts *e, int64_t tokens, int64_t top_k, int form) {
  workspace_parts parts;
  return lay_out(&parts, NULL, e, tokens, top_k, form);
}

/* Counting sort of (token, k) by expert; within an expert by token, then k. */
static void group_rows(workspace_parts *parts, int64_t n_experts, int64_t tokens,
                       const int32_t *indices, const float *weights, int64_t top_k) {
  int32_t *first = parts->first_pair;
  memset(first, 0, (size_t)(n_experts + 1) * 4);
  for (int64_t i = 0; i < tokens * top_k; i++)
    if (indices[i] >= 0 && indices[i] < n_experts) first[indices[i] + 1]++;
  parts->n_active = 0;
  for (int64_t e = 0; e < n_experts; e++) {
    if (first[e + 1]) parts->active[parts->n_active++] = (int32_t)e;
    first[e + 1] += first[e];
  }
  for (int64_t i = 0; i < tokens * top_k; i++) {
    if (indices[i] < 0 || indices[i] >= n_experts) continue;
    const int32_t pair = first[indices[i]]++;
    parts->pair_token[pair] = (int32_t)(i / top_k);
    parts->pair_weight[pair] = weights[i];
  }
  for (int64_t e = n_experts; e > 0; e--) first[e] = first[e - 1]; /* undo the moves */
  first[0] = 0;
}

static plk_matrix expert_matrix(const plk_experts *e, const void *weight, const void *scale,
                                int64_t out, int64_t in) {
  return (plk_matrix){e->format, 0, out, in, weight, scale};
}

int plk_expert_present(const plk_experts *e, int64_t expert) {
  const plk_expert *one = &e->table[expert];
  if (!one->gate || !one->up || !one->down) return 0;
  return e->format < PLK_FP8 || (one->gate_scale && one->up_scale && one->down_scale);
}

static int64_t units_of(int64_t n) { return (n + UNIT - 1) / UNIT; }

typedef struct {
  const plk_experts *experts;
  int form;
  const float *x;
  int64_t x_stride, tokens;
  const int32_t *indices;
  const float *weights;
  int64_t top_k;
  float *y;
  int64_t y_stride;
  char *workspace;
} experts_job;

/* silu(gate x) * up x of one expert's rows, for units first..end-1, stored prepared. */
static void gate_up_units(const experts_job *job, const workspace_parts *parts, int64_t expert,
                          int64_t first, int64_t end) {
  const plk_experts *e = job->experts;
  const plk_kernels *kernels = plk_kernels_current();
  const plk_expert *one = &e->table[expert];
  const plk_matrix gate = expert_matrix(e, one->gate, one->gate_scale, e->intermediate, e->hidden);
  const plk_matrix up = expert_matrix(e, one->up, one->up_scale, e->intermediate, e->hidden);
  const int64_t in_bytes = job->form == PLK_X_F32 ? job->x_stride * 4
                                                  : plk_prepared_bytes(job->form, e->hidden);
  const char *input = job->form == PLK_X_F32 ? (const char *)job->x : parts->input;
  const int64_t out_bytes = plk_prepared_bytes(job->form, e->intermediate);
  const int64_t group_bytes = plk_prepared_bytes(job->form, PLK_GROUP);
  const int32_t last_pair = parts->first_pair[expert + 1];
  _Alignas(64) float gate_out[ROWS_AT_ONCE * UNIT], up_out[ROWS_AT_ONCE * UNIT];
  const char *rows[ROWS_AT_ONCE];
  for (int64_t unit = first; unit < end; unit++) {
    const int64_t from = unit * UNIT;
    const int64_t width = e->intermediate - from < UNIT ? e->intermediate - from : UNIT;
    for (int32_t pair = parts->first_pair[expert]; pair < last_pair; pair += ROWS_AT_ONCE) {
      const int n_rows = last_pair - pair < ROWS_AT_ONCE ? last_pair - pair : ROWS_AT_ONCE;
      for (int r = 0; r < n_rows; r++) rows[r] = input + parts->pair_token[pair + r] * in_bytes;
      const int64_t block = from / PLK_BLOCK, blocks = width / PLK_BLOCK;
      plk_matrix_rows(&gate, job->form, block, blocks, rows, n_rows, gate_out, UNIT);
      plk_matrix_rows(&up, job->form, block, blocks, rows, n_rows, up_out, UNIT);
      for (int r = 0; r < n_rows; r++) {
        kernels->swiglu(gate_out + r * UNIT, up_out + r * UNIT, gate_out + r * UNIT, width);
        plk_prepare_part(job->form, gate_out + r * UNIT, UNIT, 1, width,
                         parts->middle + (pair + r) * out_bytes + from / PLK_GROUP * group_bytes,
                         0, 1);
      }
    }
  }
}

/* y of all tokens, for the outputs of units first..end-1. */
static void down_units(const experts_job *job, const workspace_parts *parts, int64_t first,
                       int64_t end) {
  const plk_experts *e = job->experts;
  const plk_kernels *kernels = plk_kernels_current();
  const int64_t in_bytes = plk_prepared_bytes(job->form, e->intermediate);
  const int64_t start = first * UNIT;
  const int64_t stop = end * UNIT < e->hidden ? end * UNIT : e->hidden;
  for (int64_t t = 0; t < job->tokens; t++)
    memset(job->y + t * job->y_stride + start, 0, (size_t)(stop - start) * 4);
  _Alignas(64) float out[ROWS_AT_ONCE * UNIT];
  const char *rows[ROWS_AT_ONCE];
  for (int64_t a = 0; a < parts->n_active; a++) {
    const int64_t expert = parts->active[a];
    const plk_expert *one = &e->table[expert];
    const plk_matrix down =
        expert_matrix(e, one->down, one->down_scale, e->hidden, e->intermediate);
    const int32_t last_pair = parts->first_pair[expert + 1];
    for (int64_t from = start; from < stop; from += UNIT) {
      const int64_t width = stop - from < UNIT ? stop - from : UNIT;
      for (int32_t pair = parts->first_pair[expert]; pair < last_pair; pair += ROWS_AT_ONCE) {
        const int n_rows = last_pair - pair < ROWS_AT_ONCE ? last_pair - pair : ROWS_AT_ONCE;
        for (int r = 0; r < n_rows; r++) rows[r] = parts->middle + (pair + r) * in_bytes;
        plk_matrix_rows(&down, job->form, from / PLK_BLOCK, width / PLK_BLOCK, rows, n_rows, out,
                        UNIT);
        for (int r = 0; r < n_rows; r++)
          kernels->add_scaled(out + r * UNIT, parts->pair_weight[pair + r],
                              job->y + parts->pair_token[pair + r] * job->y_stride + from, width);
      }
    }
  }
}

static void experts_share(void *context, int thread, int n_threads) {
  const experts_job *job = context;
  const plk_experts *e = job->experts;
  workspace_parts *parts = (workspace_parts *)job->workspace;
  if (thread == 0) {
    lay_out(parts, job->workspace, e, job->tokens, job->top_k, job->form);
    plk_counter_reset(&parts->gate_up);
    plk_counter_reset(&parts->down);
    group_rows(parts, e->n_experts, job->tokens, job->indices, job->weights, job->top_k);
  }
  if (job->form != PLK_X_F32) {
    workspace_parts mine; /* thread 0 may still be writing the shared one */
    lay_out(&mine, job->workspace, e, job->tokens, job->top_k, job->form);
    plk_prepare_part(job->form, job->x, job->x_stride, job->tokens, e->hidden, mine.input, thread,
                     n_threads);
  }
  plk_barrier();
  int64_t first, end;
  const int64_t units = units_of(e->intermediate);
  while (plk_counter_draw_guided(&parts->gate_up, parts->n_active * units, n_threads, &first,
                                 &end)) {
    while (first < end) {
      const int64_t active = first / units, unit = first % units;
      const int64_t here = units - unit < end - first ? units - unit : end - first;
      gate_up_units(job, parts, parts->active[active], unit, unit + here);
      first += here;
    }
  }
  plk_barrier();
  while (plk_counter_draw_guided(&parts->down, units_of(e->hidden), n_threads, &first, &end))
    down_units(job, parts, first, end);
}

void plk_experts_part(const plk_experts *experts, int form, const float *x, int64_t x_stride,
                      int64_t tokens, const int32_t *indices, const float *weights, int64_t top_k,
                      float *y, int64_t y_stride, void *workspace, int thread, int n_threads) {
  experts_job job = {experts, form, x, x_stride, tokens, indices, weights, top_k, y, y_stride,
                     workspace};
  experts_share(&job, thread, n_threads);
}

int plk_experts_forward(const plk_experts *e, const float *x, int64_t x_stride, int64_t tokens,
                        const int32_t *indices, const float *weights, int64_t top_k, float *y,
                        int64_t y_stride, int exact) {
  const int form = plk_form_for(e->format, exact);
  if (form < 0) return PLK_BAD_FORMAT;
  if (e->hidden <= 0 || e->intermediate <= 0 || e->hidden % PLK_GROUP ||
      e->intermediate % PLK_GROUP || tokens < 0 || top_k < 0 || tokens * top_k > INT32_MAX)
    return PLK_BAD_SHAPE;
  for (int64_t i = 0; i < tokens * top_k; i++)
    if (indices[i] < 0 || indices[i] >= e->n_experts) return PLK_BAD_INDEX;
  for (int64_t i = 0; i < tokens * top_k; i++)
    if (!plk_expert_present(e, indices[i])) return PLK_NO_EXPERT;
  if (tokens == 0) return PLK_OK;
  void *workspace;
  if (posix_memalign(&workspace, 64, (size_t)plk_experts_workspace(e, tokens, top_k, form)))
    return PLK_NO_MEMORY;
  experts_job job = {e, form, x, x_stride, tokens, indices, weights, top_k, y, y_stride,
                     workspace};
  plk_parallel_region(experts_share, &job);
  free(workspace);
  return PLK_OK;
}
