/* The forward's inner loops in AVX-512 with bfloat16 products (VDPBF16PS: two products a lane).
 *
 * Over a bf16 cache, queries and probabilities are bf16 too; sums are float32. Scores run along a
 * token's values, 32 a step. The weighted sum takes two tokens per step: their rows are interleaved
 * in registers, which leaves the sums of 32 columns in two vectors of a mixed column order;
 * they are put in order when a page is done.
 */
#define LANES 16
#include "norm_template.h"
#include "attention_template.h"

typedef __m512bh vb;

INLINE vb load_bf16(const uint16_t *p) { return (vb)_mm512_loadu_si512(p); }
INLINE vb load_bf16_tail(const uint16_t *p, int n) {
  return (vb)_mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1), p);
}

#define DOT_QUERIES 3
#define DOT_TOKENS 8

INLINE void dot_tile(const uint16_t *query, int64_t query_stride, int n_queries,
                     const uint16_t *page, int dim, int n_tokens, float *scores) {
  __m512 acc[DOT_QUERIES][DOT_TOKENS];
#pragma GCC unroll 3
  for (int m = 0; m < n_queries; m++)
#pragma GCC unroll 8
    for (int n = 0; n < DOT_TOKENS; n++) acc[m][n] = _mm512_setzero_ps();
  int i = 0;
  for (; i + 32 <= dim; i += 32) {
    vb q[DOT_QUERIES];
#pragma GCC unroll 3
    for (int m = 0; m < n_queries; m++) q[m] = load_bf16(query + m * query_stride + i);
#pragma GCC unroll 8
    for (int n = 0; n < n_tokens; n++) {
      vb c = load_bf16(page + (int64_t)n * dim + i);
#pragma GCC unroll 3
      for (int m = 0; m < n_queries; m++) acc[m][n] = _mm512_dpbf16_ps(acc[m][n], q[m], c);
    }
  }
  if (i < dim) {
    for (int n = 0; n < n_tokens; n++) {
      vb c = load_bf16_tail(page + (int64_t)n * dim + i, dim - i);
      for (int m = 0; m < n_queries; m++)
        acc[m][n] = _mm512_dpbf16_ps(
            acc[m][n], load_bf16_tail(query + m * query_stride + i, dim - i), c);
    }
  }
#pragma GCC unroll 3
  for (int m = 0; m < n_queries; m++) {
    float *out = scores + m * PLK_PAGE_TOKENS;
    if (n_tokens == DOT_TOKENS) {
      sum4((vf)acc[m][0], (vf)acc[m][1], (vf)acc[m][2], (vf)acc[m][3], out);
      sum4((vf)acc[m][4], (vf)acc[m][5], (vf)acc[m][6], (vf)acc[m][7], out + 4);
    } else {
      for (int n = 0; n < n_tokens; n++) out[n] = sum((vf)acc[m][n]);
    }
  }
}

/* Queries in pieces as even as they can be: 8 are 3 + 3 + 2, not 3 + 3 + 1 + 1. */
INLINE int piece(int left, int most) {
  const int pieces = (left + most - 1) / most;
  return (left + pieces - 1) / pieces;
}

static void dot_page(const void *query, int64_t query_stride, int n_queries, const void *page,
                     int dim, int n_tokens, const char *next, float *scores) {
  int n = 0;
  for (; n + DOT_TOKENS <= n_tokens; n += DOT_TOKENS) {
    if (next) fetch(next + (int64_t)n * dim, (int64_t)DOT_TOKENS * dim); /* half of 2 bytes each */
    const uint16_t *tokens = (const uint16_t *)page + (int64_t)n * dim;
    for (int m = 0, many; m < n_queries; m += many) {
      const uint16_t *q = (const uint16_t *)query + m * query_stride;
      float *out = scores + (int64_t)m * PLK_PAGE_TOKENS + n;
      many = piece(n_queries - m, DOT_QUERIES);
      if (many == 3)
        dot_tile(q, query_stride, 3, tokens, dim, DOT_TOKENS, out);
      else if (many == 2)
        dot_tile(q, query_stride, 2, tokens, dim, DOT_TOKENS, out);
      else
        dot_tile(q, query_stride, 1, tokens, dim, DOT_TOKENS, out);
    }
  }
  for (; n < n_tokens; n++)
    for (int m = 0; m < n_queries; m++)
      dot_tile((const uint16_t *)query + m * query_stride, query_stride, 1,
               (const uint16_t *)page + (int64_t)n * dim, dim, 1,
               scores + (int64_t)m * PLK_PAGE_TOKENS + n);
}

/* Columns of the interleaved order: `low` holds 0-3, 8-11, 16-19, 24-27, `high` the others. */
INLINE void split_columns(__m512 first, __m512 second, __m512 *low, __m512 *high) {
  const __m512i l = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  *low = _mm512_permutex2var_ps(first, l, second);
  *high = _mm512_permutex2var_ps(first, _mm512_add_epi32(l, _mm512_set1_epi32(4)), second);
}
INLINE void join_columns(__m512 low, __m512 high, __m512 *first, __m512 *second) {
  const __m512i f = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  *first = _mm512_permutex2var_ps(low, f, high);
  *second = _mm512_permutex2var_ps(low, _mm512_add_epi32(f, _mm512_set1_epi32(8)), high);
}

#define MIX_QUERIES 5

/* 64 columns (n_halves = 2) or 32 (1) of n_queries outputs. */
INLINE void mix_dot_tile(const uint16_t *probabilities, int n_queries, const uint16_t *page,
                         int dim, int n_tokens, int width, int n_halves, const float *keep,
                         float *out) {
  __m512 acc[MIX_QUERIES][4];
#pragma GCC unroll 5
  for (int m = 0; m < n_queries; m++) {
    const __m512 k = _mm512_set1_ps(keep[m]);
#pragma GCC unroll 2
    for (int h = 0; h < n_halves; h++) {
      const float *o = out + (int64_t)m * width + 32 * h;
      split_columns(_mm512_mul_ps(_mm512_loadu_ps(o), k),
                    _mm512_mul_ps(_mm512_loadu_ps(o + 16), k), &acc[m][2 * h],
                    &acc[m][2 * h + 1]);
    }
  }
  for (int n = 0; n < n_tokens; n += 2) {
    __m512i c[4];
#pragma GCC unroll 2
    for (int h = 0; h < n_halves; h++) {
      const uint16_t *p = page + (int64_t)n * dim + 32 * h;
      const __m512i even = _mm512_loadu_si512(p);
      /* The token behind an odd last one is not there; its probability is zero, NaN * 0 is not. */
      const __m512i odd =
          n + 1 < n_tokens ? _mm512_loadu_si512(p + dim) : _mm512_setzero_si512();
      c[2 * h] = _mm512_unpacklo_epi16(even, odd);
      c[2 * h + 1] = _mm512_unpackhi_epi16(even, odd);
    }
#pragma GCC unroll 5
    for (int m = 0; m < n_queries; m++) {
      int32_t pair;
      memcpy(&pair, probabilities + m * PLK_PAGE_TOKENS + n, sizeof pair);
      const vb p = (vb)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < 2 * n_halves; v++) acc[m][v] = _mm512_dpbf16_ps(acc[m][v], p, (vb)c[v]);
    }
  }
#pragma GCC unroll 5
  for (int m = 0; m < n_queries; m++) {
#pragma GCC unroll 2
    for (int h = 0; h < n_halves; h++) {
      __m512 first, second;
      join_columns(acc[m][2 * h], acc[m][2 * h + 1], &first, &second);
      float *o = out + (int64_t)m * width + 32 * h;
      _mm512_storeu_ps(o, first);
      _mm512_storeu_ps(o + 16, second);
    }
  }
}

#define MIX_CASE(n)                                                             \
  case n:                                                                       \
    mix_dot_tile(p, n, columns, dim, n_tokens, width, 2, keep + m, o);          \
    break;

static void mix_dot_page(const void *probabilities, int n_queries, const void *page, int dim,
                         int n_tokens, int width, const float *keep, const char *next,
                         float *out) {
  for (int j = 0; j < width;) {
    const uint16_t *columns = (const uint16_t *)page + j;
    const int wide = width - j >= 64;
    if (next) fetch_second_half(next, dim, 1, j, wide ? 64 : 32, width);
    for (int m = 0, many; m < n_queries; m += many) {
      const uint16_t *p = (const uint16_t *)probabilities + (int64_t)m * PLK_PAGE_TOKENS;
      float *o = out + (int64_t)m * width + j;
      many = wide ? piece(n_queries - m, MIX_QUERIES) : 1;
      if (!wide) {
        mix_dot_tile(p, 1, columns, dim, n_tokens, width, 1, keep + m, o);
        continue;
      }
      switch (many) { MIX_CASE(1) MIX_CASE(2) MIX_CASE(3) MIX_CASE(4) MIX_CASE(5) }
    }
    j += wide ? 64 : 32;
  }
}

static float softmax_bf16(const float *scores, int n_tokens, float *maximum_, float *sum_,
                          void *probabilities) {
  vf p[PAGE_VECTORS];
  const float keep = softmax_vectors(scores, n_tokens, maximum_, sum_, p);
  for (int v = 0; v < PAGE_VECTORS; v += 2)
    _mm512_storeu_si512((uint16_t *)probabilities + v * LANES,
                        (__m512i)_mm512_cvtne2ps_pbh((__m512)p[v + 1], (__m512)p[v]));
  return keep;
}

static void convert_bf16(const float *x, float factor, int64_t n, uint16_t *out) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)-1;
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f);
    _mm256_mask_storeu_epi16(out + i, mask, (__m256i)_mm512_cvtneps_pbh(v));
  }
}

const plk_forward_kernels plk_forward_kernels_avx512bf16 = {
    {1, dot_page, mix_dot_page, softmax_bf16},
    EXACT_BF16_PAGE, EXACT_F32_PAGE, rms_norm, add, convert_bf16, store_f32, blend, widen_row,
};
