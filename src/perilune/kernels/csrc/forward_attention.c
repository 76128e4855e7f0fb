/* Attention of one layer, phase by phase (see forward_run.h). */
#include <string.h>

#include "attention.h"
#include "forward_expanded.h"
#include "forward_run.h"
#include "rope.h"

/* The latents of this thread's share of rows: normed, rotated, into the cache. */
static void write_latents(plk_run *r, int thread, const plk_layer *layer, char *cache) {
  const plk_network *net = r->net;
  const int latent = net->kv_rank + net->rope_dim;
  float *normed = r->plan.threads[thread].temporary;
  int64_t first, end;
  plk_share(r->step->n_rows, thread, r->n_threads, &first, &end);
  for (int64_t i = first; i < end; i++) {
    const float *kv = r->plan.kv + i * latent;
    r->ops->rms_norm(kv, layer->kv_norm, net->rank_norm_eps, net->kv_rank, normed);
    plk_rope_rotate(kv + net->kv_rank, r->plan.rotation + i * net->rope_dim, net->rope_dim / 2,
                    normed + net->kv_rank);
    const plk_row *row = &r->plan.rows[i];
    const int position = r->step->positions[i];
    char *slot = cache +
                 r->step->page_tables[(int64_t)row->sequence * r->step->pages_per_sequence +
                                      position / PLK_PAGE_TOKENS] *
                     r->page_bytes +
                 position % PLK_PAGE_TOKENS * (r->page_bytes / PLK_PAGE_TOKENS);
    if (r->step->cache_format == PLK_F32)
      r->ops->store_f32(normed, 1.0f, latent, (float *)slot);
    else
      r->ops->store_bf16(normed, 1.0f, latent, (uint16_t *)slot);
  }
}

/* Queries of a block's segments moved into the space of latents: tasks of a head and some rows. */
static void absorb_queries(plk_run *r, int thread, const plk_layer *layer, int begin,
                           const plk_segment *segments, int n_segments) {
  const plk_network *net = r->net;
  const int width = net->nope_dim + net->rope_dim, latent = net->kv_rank + net->rope_dim;
  const int64_t q_stride = (int64_t)net->n_heads * width;
  const int form = plk_run_form(r, &layer->key_up);
  const float factor = net->softmax_scale * 1.44269504f; /* log2(e): softmax in powers of 2 */
  const int element = r->pages->narrow ? 2 : 4;
  plk_plan_thread *own = &r->plan.threads[thread];
  int64_t task, last;
  plk_share((int64_t)net->n_heads * n_segments, thread, r->n_threads, &task, &last);
  for (; task < last; task++) {
    const int head = (int)(task / n_segments);
    const int first = segments[task % n_segments].row, n = segments[task % n_segments].n_rows;
    const float *q = r->plan.q + first * q_stride + (int64_t)head * width;
    const plk_matrix up =
        plk_run_of_head(&layer->key_up, layer->key_up_stride, layer->key_up_scale_stride, head);
    int64_t stride;
    const void *prepared =
        plk_run_prepared(form, q, q_stride, n, net->nope_dim, own->prepared, &stride);
    plk_linear_part(&up, form, prepared, stride, n, own->temporary, net->kv_rank, 0, 1);
    float rotated[PLK_MAX_ROPE];
    for (int i = 0; i < n; i++) {
      const int row = first + i;
      plk_rope_rotate(q + i * q_stride + net->nope_dim, r->plan.rotation + row * net->rope_dim,
                      net->rope_dim / 2, rotated);
      char *out = r->plan.queries +
                  (((int64_t)(row - begin) * net->n_heads + head) * latent) * element;
      if (r->pages->narrow) {
        r->ops->store_bf16(own->temporary + (int64_t)i * net->kv_rank, factor, net->kv_rank,
                           (uint16_t *)out);
        r->ops->store_bf16(rotated, factor, net->rope_dim, (uint16_t *)out + net->kv_rank);
      } else {
        r->ops->store_f32(own->temporary + (int64_t)i * net->kv_rank, factor, net->kv_rank,
                          (float *)out);
        r->ops->store_f32(rotated, factor, net->rope_dim, (float *)out + net->kv_rank);
      }
    }
  }
}

/* Where the normalised result of a unit goes: [rows][heads][kv_rank]. */
static float *mixed_of(const plk_run *r, const plk_unit *u, int begin) {
  return r->plan.mixed +
         ((int64_t)(u->row - begin) * r->net->n_heads + (int64_t)u->head * u->n_rows) *
             r->net->kv_rank;
}

/* The state of one split's queries from `query` on, in `partials`. */
static plk_attention_state partial_of(const plk_run *r, const plk_unit *u, int query) {
  const int64_t n = (int64_t)u->n_rows * u->n_heads;
  float *out = r->plan.partials + u->partial, *maximum = out + n * r->net->kv_rank;
  return (plk_attention_state){maximum + query, maximum + n + query,
                               out + (int64_t)query * r->net->kv_rank};
}

static void attend(plk_run *r, int thread, const char *cache, int begin, const plk_unit *units,
                   int n_units, plk_counter *counter) {
  const plk_network *net = r->net;
  const int latent = net->kv_rank + net->rope_dim, element = r->pages->narrow ? 2 : 4;
  plk_plan_thread *own = &r->plan.threads[thread];
  int64_t i;
  while ((i = plk_counter_draw(counter, 1)) < n_units) {
    const plk_unit *u = &units[i];
    const plk_attention a = {
        .kernels = r->pages,
        .rows = r->ops,
        .queries = r->plan.queries +
                   ((int64_t)(u->row - begin) * net->n_heads + u->head) * latent * element,
        .query_stride = latent,
        .token_stride = (int64_t)net->n_heads * latent,
        .n_tokens = u->n_rows,
        .n_heads = u->n_heads,
        .first_position = r->step->positions[u->row],
        .pages = cache,
        .page_bytes = r->page_bytes,
        .page_table = r->step->page_tables +
                      (int64_t)r->plan.rows[u->row].sequence * r->step->pages_per_sequence,
        .latent = latent,
        .rank = net->kv_rank,
    };
    if (u->split < 0)
      plk_attention_all(&a, (plk_attention_state){own->maximum, own->sum, mixed_of(r, u, begin)},
                        own->attention);
    else
      plk_attention_split(&a, u->split, partial_of(r, u, 0), own->attention);
  }
}

/* The splits of each query, joined in order: this thread's share of the queries. */
static void join_splits(plk_run *r, int thread, int begin, const plk_unit *units, int n_units) {
  const int rank = r->net->kv_rank;
  for (int i = 0; i < n_units; i += units[i].n_splits) {
    const plk_unit *u = &units[i];
    int64_t query, end;
    plk_share((int64_t)u->n_rows * u->n_heads, thread, r->n_threads, &query, &end);
    for (; query < end; query++) {
      const plk_attention_state state = partial_of(r, u, (int)query);
      for (int split = 1; split < u->n_splits; split++)
        plk_attention_join(r->ops, 1, rank, state, partial_of(r, u + split, (int)query));
      plk_attention_normalise(r->ops, 1, rank, state);
      memcpy(mixed_of(r, u, begin) + query * rank, state.out, (size_t)rank * sizeof(float));
    }
  }
}

/* Mixed latents -> values of a block's segments: tasks of a head and some rows. */
static void raise_values(plk_run *r, int thread, const plk_layer *layer, int begin,
                         const plk_segment *segments, int n_segments) {
  const plk_network *net = r->net;
  const int form = plk_run_form(r, &layer->value_up);
  const int64_t bytes = plk_prepared_bytes(form, net->kv_rank);
  const int64_t o_stride = (int64_t)net->n_heads * net->value_dim;
  plk_plan_thread *own = &r->plan.threads[thread];
  int64_t task, last;
  plk_share((int64_t)net->n_heads * n_segments, thread, r->n_threads, &task, &last);
  for (; task < last; task++) {
    const int head = (int)(task / n_segments);
    const int first = segments[task % n_segments].row, n = segments[task % n_segments].n_rows;
    const plk_matrix up =
        plk_run_of_head(&layer->value_up, layer->value_up_stride, layer->value_up_scale_stride, head);
    for (int i = 0; i < n; i++) {
      const float *mixed =
          r->plan.mixed + plk_plan_mixed(&r->plan, first + i, head, begin) * net->kv_rank;
      plk_prepare_part(form, mixed, net->kv_rank, 1, net->kv_rank,
                       (char *)own->prepared + i * bytes, 0, 1);
    }
    plk_linear_part(&up, form, own->prepared, bytes, n,
                    r->plan.o + first * o_stride + (int64_t)head * net->value_dim, o_stride, 0, 1);
  }
}

void plk_run_attention(plk_run *r, int thread, int index) {
  const plk_network *net = r->net;
  const plk_layer *layer = &r->model->layers[index];
  const int n_rows = r->step->n_rows;
  char *cache = (char *)r->step->cache + index * r->layer_bytes;

  const plk_matrix *first_query = net->q_rank ? &layer->q_a : &layer->q_b;
  const int64_t q_width = (int64_t)net->n_heads * (net->nope_dim + net->rope_dim);
  const unsigned forms =
      1u << plk_run_form(r, first_query) | 1u << plk_run_form(r, &layer->kv_a);
  plk_activations a =
      plk_run_activate(r, thread, 0, r->plan.x, net->hidden, NULL, n_rows, net->hidden,
                       layer->input_norm, net->norm_eps, forms);
  if (net->q_rank)
    plk_run_linear(r, thread, &layer->q_a, &a, n_rows, r->plan.q_a, net->q_rank);
  else
    plk_run_linear(r, thread, &layer->q_b, &a, n_rows, r->plan.q, q_width);
  plk_run_linear(r, thread, &layer->kv_a, &a, n_rows, r->plan.kv, net->kv_rank + net->rope_dim);
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_PROJECT);

  write_latents(r, thread, layer, cache);
  if (net->q_rank) {
    a = plk_run_activate(r, thread, 1, r->plan.q_a, net->q_rank, NULL, n_rows, net->q_rank,
                         layer->q_norm, net->rank_norm_eps, 1u << plk_run_form(r, &layer->q_b));
    plk_run_linear(r, thread, &layer->q_b, &a, n_rows, r->plan.q, q_width);
  }
  plk_barrier();

  plk_run_phase_end(r, thread, PLK_PHASE_QUERY);
  if (r->plan.n_expanded) {
    plk_run_expanded(r, thread, index, cache);
    plk_run_phase_end(r, thread, PLK_PHASE_ATTEND);
  }
  for (int block = 0; block < r->plan.n_blocks; block++) {
    const int begin = block * PLK_BLOCK_ROWS;
    const plk_segment *segments = r->plan.segments + r->plan.block_segments[block];
    const int n_segments = r->plan.block_segments[block + 1] - r->plan.block_segments[block];
    if (!n_segments) continue;
    absorb_queries(r, thread, layer, begin, segments, n_segments);
    plk_barrier();
    plk_run_phase_end(r, thread, PLK_PHASE_QUERY);
    const int first_unit = r->plan.block_units[block];
    attend(r, thread, cache, begin, r->plan.units + first_unit,
           r->plan.block_units[block + 1] - first_unit,
           &r->plan.counters[index * r->plan.n_blocks + block]);
    plk_barrier();
    if (r->plan.cut_contexts) {
      join_splits(r, thread, begin, r->plan.units + first_unit,
                  r->plan.block_units[block + 1] - first_unit);
      plk_barrier();
    }
    plk_run_phase_end(r, thread, PLK_PHASE_ATTEND);
    raise_values(r, thread, layer, begin, segments, n_segments);
  }
  plk_barrier();

  const int64_t o_width = (int64_t)net->n_heads * net->value_dim;
  a = plk_run_activate(r, thread, 1, r->plan.o, o_width, NULL, n_rows, o_width, NULL, 0.0f,
                       1u << plk_run_form(r, &layer->o));
  plk_run_linear(r, thread, &layer->o, &a, n_rows, r->plan.y, net->hidden);
  plk_run_add_own_columns(r, thread, r->plan.y, n_rows);
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_OUTPUT);
}
