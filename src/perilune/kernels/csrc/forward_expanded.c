/* Attention in the expanded form: latents become keys and values again, head by head.
 *
 * A query of the absorbed form is kv_rank wide, twice; an expanded one nope + rope and value: 3.4
 * times fewer products at K2's sizes (arXiv 2405.04434, 2.1; 2412.19437, 2.1.1). Expanding a token
 * costs kv_rank * (nope + value), so it pays where some hundred rows share it: rows of a prompt.
 * Nothing expanded outlives its page: a thread holds 64 keys and values of one head at a time, as
 * two small matrices in the layout of all weights, and all rows of its unit pass over them: scores
 * are queries times one, what they mix probabilities times the other.
 *
 * Each row is computed by the same operations in the same order whatever comes with it: pages in
 * the order of positions, one running softmax.
 */
#include "forward_expanded.h"

#include <math.h>
#include <string.h>

#include "linear.h"
#include "rope.h"

#define TOKENS PLK_PAGE_TOKENS
#define TILE 64 /* queries that see a page together */

/* A thread's work space, laid out for `net`. */
typedef struct {
  int key_width, value_width; /* value_width: whole blocks of 16 */
  int format, form;           /* of the two matrices, and of what they are multiplied with */
  float *latents;             /* [TOKENS][kv_rank + rope] */
  void *prepared;             /* [TOKENS] latents, then [TILE] probabilities in their form */
  float *keys, *values;       /* [TOKENS][width] */
  uint16_t *narrow;           /* either of them in bf16 */
  void *key_matrix;           /* [TOKENS, key_width] */
  void *value_matrix;         /* [value_width, TOKENS] */
  char *queries;              /* [rows][key_width] in their form */
  float *out, *maximum, *sum; /* of each row */
  float *scores, *probabilities, *mixed; /* [TILE][TOKENS or value_width] */
} work;

static void *take(char *base, int64_t *used, int64_t bytes) {
  void *p = base ? base + *used : NULL;
  *used += (bytes + 127) / 128 * 128;
  return p;
}

/* Sets the pointers into `base` (which may be NULL); *used: the bytes that it takes. */
static work lay_out(const plk_network *net, char *base, int64_t *used) {
  work w = {.key_width = net->nope_dim + net->rope_dim,
            .value_width = (net->value_dim + PLK_BLOCK - 1) / PLK_BLOCK * PLK_BLOCK,
            .format = net->exact ? PLK_F32 : PLK_BF16};
  w.form = plk_form_for(w.format, net->exact);
  const int64_t f = sizeof(float), rows = PLK_EXPANDED_ROWS;
  const int64_t widest = w.key_width > w.value_width ? w.key_width : w.value_width;
  int64_t prepared = plk_prepared_bytes(PLK_X_BF16, net->kv_rank);
  if (plk_prepared_bytes(PLK_X_INT8, net->kv_rank) > prepared)
    prepared = plk_prepared_bytes(PLK_X_INT8, net->kv_rank);
  if (prepared < TOKENS * f) prepared = TOKENS * f; /* of a row of probabilities */
  w.latents = take(base, used, TOKENS * (net->kv_rank + net->rope_dim) * f);
  w.prepared = take(base, used, TOKENS * prepared);
  w.keys = take(base, used, TOKENS * w.key_width * f);
  w.values = take(base, used, TOKENS * w.value_width * f);
  w.narrow = take(base, used, TOKENS * widest * 2);
  w.key_matrix = take(base, used, TOKENS * w.key_width * f);
  w.value_matrix = take(base, used, TOKENS * w.value_width * f);
  w.queries = take(base, used, rows * w.key_width * f);
  w.out = take(base, used, rows * w.value_width * f);
  w.maximum = take(base, used, rows * f);
  w.sum = take(base, used, rows * f);
  w.scores = take(base, used, TILE * TOKENS * f);
  w.probabilities = take(base, used, TILE * TOKENS * f);
  w.mixed = take(base, used, TILE * w.value_width * f);
  return w;
}

int64_t plk_expanded_workspace(const plk_network *net) {
  int64_t used = 0;
  (void)lay_out(net, NULL, &used);
  return used;
}

/* [TOKENS][words] of 32 bits -> the layout of weights: 16 tokens per block, word by word. */
static void pack_keys(const uint32_t *rows, int words, uint32_t *out) {
  for (int token = 0; token < TOKENS; token++) {
    uint32_t *lane = out + (int64_t)(token / PLK_BLOCK) * PLK_BLOCK * words + token % PLK_BLOCK;
    for (int word = 0; word < words; word++) lane[word * PLK_BLOCK] = *rows++;
  }
}

/* [TOKENS][width] -> the layout of weights with tokens as inputs: 16 columns a block. */
static void pack_values(const float *rows, int width, float *out) {
  for (int column = 0; column < width; column += PLK_BLOCK)
    for (int token = 0; token < TOKENS; token++, out += PLK_BLOCK)
      memcpy(out, rows + (int64_t)token * width + column, PLK_BLOCK * sizeof *out);
}
/* The same in bf16: a word holds a column of two tokens. */
static void pack_narrow_values(const uint16_t *rows, int width, uint16_t *out) {
  for (int column = 0; column < width; column += PLK_BLOCK)
    for (int token = 0; token < TOKENS; token += 2) {
      const uint16_t *first = rows + (int64_t)token * width + column, *second = first + width;
      for (int lane = 0; lane < PLK_BLOCK; lane++) {
        *out++ = first[lane];
        *out++ = second[lane];
      }
    }
}

/* A page's first `n` tokens as keys and values of a head; the values of the others are zero. */
static void expand(const plk_run *r, const work *w, const plk_layer *layer, int head,
                   const char *page, int n) {
  const plk_network *net = r->net;
  const int latent = net->kv_rank + net->rope_dim, kw = w->key_width, vw = w->value_width;
  const float *latents = (const float *)page;
  if (r->step->cache_format == PLK_BF16) {
    r->ops->widen((const uint16_t *)page, (int64_t)n * latent, w->latents);
    latents = w->latents;
  }
  const plk_matrix key =
      plk_run_of_head(&layer->key_out, layer->key_out_stride, layer->key_out_scale_stride, head);
  const plk_matrix value = plk_run_of_head(&layer->value_up, layer->value_up_stride,
                                           layer->value_up_scale_stride, head);
  const int form = plk_run_form(r, &key); /* the values' too: both are parts of one matrix */
  int64_t stride;
  const void *prepared =
      plk_run_prepared(form, latents, latent, n, net->kv_rank, w->prepared, &stride);
  plk_linear_part(&key, form, prepared, stride, n, w->keys, kw, 0, 1);
  for (int i = 0; i < n; i++)
    memcpy(w->keys + (int64_t)i * kw + net->nope_dim, latents + (int64_t)i * latent + net->kv_rank,
           (size_t)net->rope_dim * sizeof(float));
  plk_linear_part(&value, form, prepared, stride, n, w->values, vw, 0, 1);
  memset(w->values + (int64_t)n * vw, 0, (size_t)(TOKENS - n) * (size_t)vw * sizeof(float));
  if (w->format == PLK_F32) {
    pack_keys((const uint32_t *)w->keys, kw, w->key_matrix);
    pack_values(w->values, vw, w->value_matrix);
  } else {
    r->ops->store_bf16(w->keys, 1.0f, (int64_t)TOKENS * kw, w->narrow);
    pack_keys((const uint32_t *)w->narrow, kw / 2, w->key_matrix);
    r->ops->store_bf16(w->values, 1.0f, (int64_t)TOKENS * vw, w->narrow);
    pack_narrow_values(w->narrow, vw, w->value_matrix);
  }
}

/* The unit's queries, rotated, times log2(e) and the scale of the softmax. */
static void load_queries(const plk_run *r, const work *w, const plk_expanded *u) {
  const plk_network *net = r->net;
  const float factor = net->softmax_scale * 1.44269504f;
  for (int i = 0; i < u->n_rows; i++) {
    const int64_t row = u->row + i;
    const float *q = r->plan.q + (row * net->n_heads + u->head) * w->key_width;
    float rotated[PLK_MAX_ROPE];
    plk_rope_rotate(q + net->nope_dim, r->plan.rotation + row * net->rope_dim, net->rope_dim / 2,
                    rotated);
    if (w->form == PLK_X_BF16) {
      uint16_t *out = (uint16_t *)w->queries + (int64_t)i * w->key_width;
      r->ops->store_bf16(q, factor, net->nope_dim, out);
      r->ops->store_bf16(rotated, factor, net->rope_dim, out + net->nope_dim);
    } else {
      float *out = (float *)w->queries + (int64_t)i * w->key_width;
      r->ops->store_f32(q, factor, net->nope_dim, out);
      r->ops->store_f32(rotated, factor, net->rope_dim, out + net->nope_dim);
    }
  }
}

/* out [n][outputs] = x W, for n rows of x that lie `stride` bytes apart. */
static void multiply(const work *w, const void *matrix, int outputs, int inputs, const void *x,
                     int64_t stride, int n, float *out) {
  const plk_matrix m = {.format = w->format, .out_features = outputs, .in_features = inputs,
                        .weight = matrix};
  const char *rows[TILE];
  for (int i = 0; i < n; i++) rows[i] = (const char *)x + i * stride;
  plk_matrix_rows(&m, w->form, 0, outputs / PLK_BLOCK, rows, n, out, outputs);
}

/* `n` rows from `row` of the unit over the page at `position`. */
static void attend_page(const plk_run *r, const work *w, const plk_expanded *u, int position,
                        int row, int n) {
  const int element = w->form == PLK_X_BF16 ? 2 : 4, first = r->step->positions[u->row];
  const int64_t stride = (int64_t)w->key_width * element;
  multiply(w, w->key_matrix, TOKENS, w->key_width, w->queries + row * stride, stride, n,
           w->scores);
  float keep[TILE];
  for (int i = 0; i < n; i++) {
    const int seen = first + row + i - position + 1;
    keep[i] = r->ops->f32_page.softmax(w->scores + i * TOKENS, seen < TOKENS ? seen : TOKENS,
                                       &w->maximum[row + i], &w->sum[row + i],
                                       w->probabilities + i * TOKENS);
  }
  int64_t probabilities_stride;
  const void *probabilities = plk_run_prepared(w->form, w->probabilities, TOKENS, n, TOKENS,
                                               w->prepared, &probabilities_stride);
  multiply(w, w->value_matrix, w->value_width, TOKENS, probabilities, probabilities_stride, n,
           w->mixed);
  for (int i = 0; i < n; i++)
    r->ops->blend(w->out + (int64_t)(row + i) * w->value_width, keep[i],
                  w->mixed + (int64_t)i * w->value_width, 1.0f, w->value_width);
}

static void attend(const plk_run *r, const work *w, const plk_layer *layer, const char *cache,
                   const plk_expanded *u) {
  const plk_network *net = r->net;
  const int32_t *table = r->step->page_tables +
                         (int64_t)r->plan.rows[u->row].sequence * r->step->pages_per_sequence;
  const int first = r->step->positions[u->row], end = first + u->n_rows;
  load_queries(r, w, u);
  memset(w->keys, 0, (size_t)TOKENS * (size_t)w->key_width * sizeof(float));
  memset(w->values, 0, (size_t)TOKENS * (size_t)w->value_width * sizeof(float));
  memset(w->out, 0, (size_t)u->n_rows * (size_t)w->value_width * sizeof(float));
  for (int i = 0; i < u->n_rows; i++) w->maximum[i] = -INFINITY, w->sum[i] = 0.0f;
  for (int position = 0; position < end; position += TOKENS) {
    const int filled = end - position < TOKENS ? end - position : TOKENS;
    expand(r, w, layer, u->head, cache + table[position / TOKENS] * r->page_bytes, filled);
    for (int row = position > first ? position - first : 0; row < u->n_rows; row += TILE)
      attend_page(r, w, u, position, row, u->n_rows - row < TILE ? u->n_rows - row : TILE);
  }
  for (int i = 0; i < u->n_rows; i++)
    r->ops->store_f32(w->out + (int64_t)i * w->value_width, 1.0f / w->sum[i], net->value_dim,
                      r->plan.o + ((int64_t)(u->row + i) * net->n_heads + u->head) *
                                      net->value_dim);
}

void plk_run_expanded(plk_run *r, int thread, int index, const char *cache) {
  int64_t used = 0;
  const work w = lay_out(r->net, r->plan.threads[thread].expanded, &used);
  int64_t i;
  while ((i = plk_counter_draw(&r->plan.expanded_counters[index], 1)) < r->plan.n_expanded)
    attend(r, &w, &r->model->layers[index], cache, &r->plan.expanded[i]);
}
