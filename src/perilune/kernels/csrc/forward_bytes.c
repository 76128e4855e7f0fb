/* The bytes that a step had to read, each weight once (see forward_bytes.h). */
#include "forward_bytes.h"

#include "router.h"

static int64_t matrix_bytes(const plk_matrix *m) {
  const int64_t n = m->out_features * m->in_features;
  switch (m->format) {
    case PLK_F32:
      return 4 * n;
    case PLK_BF16:
      return 2 * n;
    case PLK_FP8:
      return n + (m->out_features + 127) / 128 * ((m->in_features + 127) / 128) * 4;
    case PLK_INT8:
      return n + n / PLK_GROUP * 2;
    default:
      return n / 2 + n / PLK_GROUP * 2;
  }
}

void plk_count_experts(const plk_network *net, const plk_layer *layer,
                            const int32_t *indices, int64_t n_rows, plk_profile *profile) {
  uint8_t seen[PLK_ROUTER_MAX_EXPERTS] = {0};
  int64_t touched = 0;
  for (int64_t i = 0; i < n_rows * net->top_k; i++) {
    touched += !seen[indices[i]];
    seen[indices[i]] = 1;
  }
  const plk_matrix one = {.format = layer->experts.format,
                          .out_features = layer->experts.intermediate,
                          .in_features = layer->experts.hidden};
  profile->experts_touched += touched;
  profile->expert_bytes += touched * 3 * matrix_bytes(&one);
}

void plk_count_bytes(const plk_network *net, const plk_layer *layers, const plk_step *step,
                          plk_profile *profile) {
  for (int i = 0; i < net->n_layers; i++) {
    const plk_layer *l = &layers[i];
    profile->attention_bytes +=
        matrix_bytes(&l->q_b) + matrix_bytes(&l->kv_a) + matrix_bytes(&l->o) +
        net->n_heads * (matrix_bytes(&l->key_up) + matrix_bytes(&l->value_up));
    if (net->q_rank) profile->attention_bytes += matrix_bytes(&l->q_a);
    if (l->gate.out_features)
      profile->mlp_bytes +=
          matrix_bytes(&l->gate) + matrix_bytes(&l->up) + matrix_bytes(&l->down);
    if (l->experts.n_experts) profile->router_bytes += matrix_bytes(&l->router);
  }
  if (step->n_logits) profile->head_bytes = matrix_bytes(&net->head);
  profile->embed_bytes =
      (int64_t)step->n_rows * net->hidden * (net->embed_format == PLK_F32 ? 4 : 2);
  int64_t tokens = 0;
  for (int s = 0; s < step->n_sequences; s++)
    if (step->query_starts[s + 1] > step->query_starts[s]) tokens += step->context_lengths[s];
  profile->cache_bytes = tokens * net->n_layers * (net->kv_rank + net->rope_dim) *
                         (step->cache_format == PLK_F32 ? 4 : 2);
}
