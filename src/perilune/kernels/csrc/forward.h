/* The whole network as one call: token ids and a paged latent cache -> logits.
 *
 * plk_model_create() takes addresses of weights (in the native layout of perilune_kernels.h) and
 * keeps them; plk_model_forward() runs one step of a mixed prefill and decode batch inside one
 * parallel region. Each row is computed by the same operations in the same order whatever the batch,
 * the cut of a prompt into chunks or the number of threads.
 */
#ifndef PERILUNE_FORWARD_H
#define PERILUNE_FORWARD_H

#include "perilune_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PLK_FORWARD_ABI_VERSION 3

typedef struct {
  int32_t n_layers, hidden, n_heads, q_rank /* 0: the query has no low-rank part */, kv_rank;
  int32_t nope_dim, rope_dim, value_dim;
  int32_t n_experts, top_k, n_group, topk_group, normalise_top_k;
  int32_t vocabulary;
  int32_t exact;       /* float32 activations throughout */
  int32_t embed_format; /* PLK_BF16 or PLK_F32 */
  int32_t embed_native; /* the table is in the native layout (tied to the head) */
  int32_t reserved;
  float routed_scaling, norm_eps, rank_norm_eps, softmax_scale, rope_scale;
  float reserved_float;
  const float *rope_frequencies; /* [rope_dim / 2] radians a position; copied */
  const void *embed;             /* [vocabulary, hidden] */
  const float *final_norm;       /* [hidden] */
  plk_matrix head;               /* [vocabulary, hidden] */
} plk_network;

typedef struct {
  const float *input_norm, *post_attention_norm; /* [hidden] */
  const float *q_norm, *kv_norm;                 /* [q_rank], [kv_rank] */
  plk_matrix q_a;                                /* [q_rank, hidden]; unused without q_rank */
  plk_matrix q_b;                                /* [heads * (nope + rope), q_rank or hidden] */
  plk_matrix kv_a;                               /* [kv_rank + rope, hidden] */
  plk_matrix o;                                  /* [hidden, heads * value] */
  /* kv_b, taken apart by heads: the matrices of head 0; those of head h lie h strides further. */
  plk_matrix key_up;   /* [kv_rank, nope]: the key part, transposed, moved onto the query */
  plk_matrix value_up; /* [value, kv_rank] */
  int64_t key_up_stride, key_up_scale_stride, value_up_stride, value_up_scale_stride; /* bytes */
  plk_matrix key_out; /* [nope, kv_rank]: the key part as stored; empty where nothing is expanded */
  int64_t key_out_stride, key_out_scale_stride;
  plk_matrix gate, up, down; /* the dense feed-forward, or the shared expert (may be empty) */
  plk_matrix router;         /* [n_experts, hidden] */
  const float *router_bias;  /* [n_experts] */
  plk_experts experts;       /* n_experts 0: a dense layer */
} plk_layer;

typedef struct {
  int32_t n_rows, n_sequences, pages_per_sequence, n_logits;
  const int32_t *input_ids, *positions; /* [n_rows] */
  const int32_t *query_starts;          /* [n_sequences + 1] */
  const int32_t *page_tables;           /* [n_sequences][pages_per_sequence] */
  const int32_t *context_lengths;       /* [n_sequences] */
  const int32_t *logits_rows;           /* [n_logits] */
  /* [n_sequences] Rows at positions below this attend in the expanded form (forward_expanded.c),
   * which needs the layers' key_out. NULL: none. */
  const int32_t *expanded_until;
  void *cache;                          /* [n_layers][n_pages][64][kv_rank + rope] */
  int64_t n_pages;
  int32_t cache_format; /* PLK_BF16 or PLK_F32 */
  int32_t most_threads; /* 0 = all of the pool; the result is the same */
  /* Rows whose embedding is given and not looked up; their ids are placeholders of the vocabulary. */
  int32_t n_vectors;     /* 0: none */
  int32_t vector_format; /* PLK_BF16 or PLK_F32 */
  const int32_t *vector_rows; /* [n_vectors], ascending, each once */
  const void *vectors;        /* [n_vectors][hidden] */
} plk_step;

/* Who brings experts into memory where not all of them lie there. Both functions are called by the
 * thread that called plk_model_forward(), acquire while the others wait. They may call operations of
 * this library, but not wait for another thread that does: the pool is taken by the step. */
typedef struct {
  void *context;
  /* Between the routing of a layer and its expert products: experts [tokens][top_k] are going to be
   * read. May block until they are there, and may change the layer's table. 0: they are there; any
   * other value ends the step with PLK_NO_EXPERT. */
  int (*acquire)(void *context, int32_t layer, int64_t tokens, int64_t top_k,
                 const int32_t *experts);
  /* The products of the layer are done, its experts may go. Not called after a failed acquire. */
  void (*release)(void *context, int32_t layer);
} plk_expert_store;

/* Where the time of a step went, and which bytes it had to read. */
enum {
  PLK_PHASE_EMBED,
  PLK_PHASE_PROJECT,   /* norm, q_a, kv_a */
  PLK_PHASE_QUERY,     /* q_b, rotation, cache write, key_up */
  PLK_PHASE_ATTEND,
  PLK_PHASE_OUTPUT,    /* value_up, o */
  PLK_PHASE_MLP,       /* dense layers */
  PLK_PHASE_ROUTE,     /* norm, router, shared gate and up, choice */
  PLK_PHASE_EXPERTS,
  PLK_PHASE_SHARED,    /* shared down, sum */
  PLK_PHASE_HEAD,
  PLK_PHASES
};
typedef struct {
  double seconds[PLK_PHASES];
  double total_seconds;
  int64_t attention_bytes, mlp_bytes /* dense and shared */, router_bytes, expert_bytes;
  int64_t head_bytes, embed_bytes, cache_bytes;
  int64_t experts_touched; /* summed over layers */
} plk_profile;

typedef struct plk_model plk_model;

PLK_API int plk_forward_abi_version(void);
/* *model is set on PLK_OK. The structures are copied, the weights are not. */
PLK_API int plk_model_create(const plk_network *network, const plk_layer *layers,
                             plk_model **model);
PLK_API void plk_model_free(plk_model *model);
/* From the next step on `store` is asked for the experts of this layer; NULL: all of them lie where
 * the table says. PLK_BAD_INDEX for a layer without experts. */
PLK_API int plk_model_set_expert_store(plk_model *model, int32_t layer,
                                       const plk_expert_store *store);
/* logits [n_logits][vocabulary]. profile may be NULL. One call at a time for a model. Checks the
 * step: PLK_BAD_INDEX for ids, pages or rows out of range, PLK_BAD_SHAPE for rows that do not
 * follow each other, PLK_NO_EXPERT where a layer without a store lacks an expert; then nothing was
 * written. PLK_NO_EXPERT from a store ends the step where it was: latents of its rows may have been
 * written, no logits have. */
PLK_API int plk_model_forward(plk_model *model, const plk_step *step, float *logits,
                              plk_profile *profile);

#ifdef __cplusplus
}
#endif
#endif
