/* The inner loops of the forward that exist once per instruction set, and the table of them.
 *
 * attention_template.h and norm_template.h are the sources; each forward_ISA.c compiles them once
 * under its flags. Every function treats each row by the same operations in the same order, however
 * many rows come with it: a tile only decides which registers are used.
 */
#ifndef PERILUNE_FORWARD_KERNELS_H
#define PERILUNE_FORWARD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Attention over one page. Rows of the page: tokens, `dim` values each, contiguous. Queries and
 * probabilities are bf16 where `narrow`, else float32. */
typedef struct {
  int narrow;
  /* scores[m][n] = query[m] . page[n] for m < n_queries, n < n_tokens; 64 scores a query. Fetches
   * the first half of the page `next` (NULL: none), `mix` the second: pages lie anywhere, the
   * processor does not foresee them. */
  void (*scores)(const void *query, int64_t query_stride, int n_queries, const void *page, int dim,
                 int n_tokens, const char *next, float *scores);
  /* out[m][:width] = out[m] * keep[m] + sum_n probability[m][n] * page[n][:width]. 64
   * probabilities a query, those from n_tokens on ignored or zero; out rows `width` apart. */
  void (*mix)(const void *probabilities, int n_queries, const void *page, int dim, int n_tokens,
              int width, const float *keep, const char *next, float *out);
  /* Online softmax of one query over the first n_tokens of its scores, in powers of two: updates
   * its running maximum and sum, writes 64 probabilities (zero from n_tokens on), returns the
   * factor that what was accumulated before must be multiplied by. */
  float (*softmax)(const float *scores, int n_tokens, float *maximum, float *sum,
                   void *probabilities);
} plk_page_kernels;

typedef struct {
  plk_page_kernels bf16_page;       /* fastest for a bf16 cache */
  plk_page_kernels bf16_page_exact; /* bf16 cache, float32 queries and probabilities */
  plk_page_kernels f32_page;
  /* y = x / sqrt(mean(x^2) + eps) * weight; n a multiple of 32. */
  void (*rms_norm)(const float *x, const float *weight, float eps, int64_t n, float *y);
  /* x += y */
  void (*add)(float *x, const float *y, int64_t n);
  /* bf16 or float32 <- x * factor */
  void (*store_bf16)(const float *x, float factor, int64_t n, uint16_t *out);
  void (*store_f32)(const float *x, float factor, int64_t n, float *out);
  /* a = a * factor_a + b * factor_b */
  void (*blend)(float *a, float factor_a, const float *b, float factor_b, int64_t n);
  /* float32 <- bf16 */
  void (*widen)(const uint16_t *x, int64_t n, float *out);
} plk_forward_kernels;

#define PLK_PAGE_TOKENS 64

/* Those of the sets that were compiled in. */
extern const plk_forward_kernels plk_forward_kernels_portable, plk_forward_kernels_avx2,
    plk_forward_kernels_avx512, plk_forward_kernels_avx512bf16;

/* The table for plk_isa(). */
const plk_forward_kernels *plk_forward_kernels_select(void);

#endif
