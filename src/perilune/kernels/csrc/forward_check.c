/* What a network and a step must be before anything is computed (see forward_check.h). */
#include "forward_check.h"

#include "forward_kernels.h"
#include "router.h"

static int bad_matrix(const plk_matrix *m, int64_t out_features, int64_t in_features) {
  return m->format < PLK_F32 || m->format > PLK_INT4 || m->out_features != out_features ||
         m->in_features != in_features || out_features < 1 || in_features < PLK_GROUP ||
         in_features % PLK_GROUP || !m->weight || (m->format >= PLK_FP8 && !m->scale);
}

static int bad_layer(const plk_network *net, const plk_layer *l) {
  const int64_t hidden = net->hidden;
  const int64_t query = (int64_t)net->n_heads * (net->nope_dim + net->rope_dim);
  if (!l->input_norm || !l->post_attention_norm || !l->kv_norm) return 1;
  if (net->q_rank && (!l->q_norm || bad_matrix(&l->q_a, net->q_rank, hidden))) return 1;
  if (bad_matrix(&l->q_b, query, net->q_rank ? net->q_rank : hidden) ||
      bad_matrix(&l->kv_a, net->kv_rank + net->rope_dim, hidden) ||
      bad_matrix(&l->o, hidden, (int64_t)net->n_heads * net->value_dim) ||
      bad_matrix(&l->key_up, net->kv_rank, net->nope_dim) ||
      bad_matrix(&l->value_up, net->value_dim, net->kv_rank) ||
      (l->key_out.weight && (bad_matrix(&l->key_out, net->nope_dim, net->kv_rank) ||
                             l->key_out.format != l->value_up.format)))
    return 1;
  const int64_t inside = l->gate.out_features;
  if (inside && (bad_matrix(&l->gate, inside, hidden) || bad_matrix(&l->up, inside, hidden) ||
                 bad_matrix(&l->down, hidden, inside)))
    return 1;
  const plk_experts *e = &l->experts;
  if (!e->n_experts) return !inside;
  return e->n_experts != net->n_experts || e->hidden != hidden || e->intermediate < PLK_GROUP ||
         e->intermediate % PLK_GROUP || !e->table || !l->router_bias ||
         bad_matrix(&l->router, net->n_experts, hidden);
}

int plk_check_network(const plk_network *net, const plk_layer *layers) {
  if (net->n_layers < 1 || net->hidden < 1 || net->n_heads < 1 || net->vocabulary < 1 ||
      net->rope_dim < 2 || net->rope_dim % 2 || net->rope_dim > PLK_MAX_ROPE ||
      net->kv_rank % PLK_GROUP || net->q_rank % PLK_GROUP || net->q_rank < 0)
    return PLK_BAD_SHAPE;
  if (net->n_experts < 0 || net->n_experts > PLK_ROUTER_MAX_EXPERTS) return PLK_BAD_SHAPE;
  if (net->n_experts && (net->top_k < 1 || net->top_k > net->n_experts || net->n_group < 1 ||
                         net->n_experts % net->n_group || net->topk_group < 1 ||
                         net->topk_group > net->n_group ||
                         net->top_k > net->n_experts / net->n_group * net->topk_group))
    return PLK_BAD_SHAPE;
  if (net->embed_format != PLK_BF16 && net->embed_format != PLK_F32) return PLK_BAD_FORMAT;
  if (!net->embed || !net->final_norm || !net->rope_frequencies ||
      bad_matrix(&net->head, net->vocabulary, net->hidden))
    return PLK_BAD_SHAPE;
  for (int i = 0; i < net->n_layers; i++)
    if (bad_layer(net, &layers[i])) return PLK_BAD_SHAPE;
  return PLK_OK;
}

int plk_check_lacks_experts(const plk_model *model) {
  for (int layer = 0; layer < model->network.n_layers; layer++) {
    const plk_experts *e = &model->layers[layer].experts;
    if (model->stores[layer].acquire) continue;
    for (int64_t expert = 0; expert < e->n_experts; expert++)
      if (!plk_expert_present(e, expert)) return 1;
  }
  return 0;
}

static int check_vectors(const plk_step *step) {
  if (!step->n_vectors) return PLK_OK;
  if (step->n_vectors < 0 || !step->vector_rows || !step->vectors) return PLK_BAD_SHAPE;
  if (step->vector_format != PLK_BF16 && step->vector_format != PLK_F32) return PLK_BAD_FORMAT;
  for (int i = 0; i < step->n_vectors; i++) {
    const int row = step->vector_rows[i];
    if (row < 0 || row >= step->n_rows || (i && row <= step->vector_rows[i - 1]))
      return PLK_BAD_INDEX;
  }
  return PLK_OK;
}

int plk_check_step(const plk_network *net, const plk_layer *layers, const plk_step *step) {
  if (step->cache_format != PLK_BF16 && step->cache_format != PLK_F32) return PLK_BAD_FORMAT;
  if (step->n_rows < 0 || step->n_sequences < 0 || step->n_logits < 0 ||
      step->query_starts[0] != 0 || step->query_starts[step->n_sequences] != step->n_rows)
    return PLK_BAD_SHAPE;
  for (int i = 0; i < step->n_rows; i++)
    if (step->input_ids[i] < 0 || step->input_ids[i] >= net->vocabulary) return PLK_BAD_INDEX;
  for (int i = 0; i < step->n_logits; i++)
    if (step->logits_rows[i] < 0 || step->logits_rows[i] >= step->n_rows) return PLK_BAD_INDEX;
  for (int s = 0; s < step->n_sequences; s++) {
    const int first = step->query_starts[s], end = step->query_starts[s + 1];
    if (end < first || end > step->n_rows) return PLK_BAD_SHAPE;
    if (end == first) continue;
    if (step->positions[first] < 0) return PLK_BAD_INDEX;
    if (step->expanded_until && step->expanded_until[s] > step->positions[first] &&
        !layers[0].key_out.weight)
      return PLK_BAD_SHAPE;
    for (int i = first + 1; i < end; i++)
      if (step->positions[i] != step->positions[i - 1] + 1) return PLK_BAD_SHAPE;
    if (step->context_lengths[s] != step->positions[end - 1] + 1) return PLK_BAD_SHAPE;
    const int pages = (step->context_lengths[s] + PLK_PAGE_TOKENS - 1) / PLK_PAGE_TOKENS;
    if (pages > step->pages_per_sequence) return PLK_BAD_SHAPE;
    const int32_t *table = step->page_tables + (int64_t)s * step->pages_per_sequence;
    for (int p = 0; p < pages; p++)
      if (table[p] < 0 || table[p] >= step->n_pages) return PLK_BAD_INDEX;
  }
  return check_vectors(step);
}
