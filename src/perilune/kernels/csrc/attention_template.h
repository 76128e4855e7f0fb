/* Attention over one page of 64 latents, float32 queries: scores, online softmax, weighted sum.
 *
 * Included after norm_template.h. Two versions of each product: the page in bf16 or in float32.
 * A page is read row-major as the cache holds it: scores run along a token's values (one vector
 * accumulator a score, summed by one tree), the weighted sum runs along the tokens in order.
 */
#define TILE_QUERIES (LANES == 16 ? 4 : LANES == 8 ? 3 : 2)
#define TILE_VECTORS 4 /* of `width` in the weighted sum; tokens in the scores */
/* From so many queries on, which are more than a tile, a bf16 page is widened once, a few tokens or
 * columns at a time, and not again for each tile. */
#define WIDEN_QUERIES (LANES == 8 ? 4 : 2 * TILE_QUERIES)
/* Two tiles of two are faster than one of three and one that waits for its own sums. */
#define TAKES_TILE(left) ((left) >= TILE_QUERIES && !(TILE_QUERIES == 3 && (left) == 4))
#define WIDEN_DIM 1024 /* the largest: the stack is used */

INLINE vf page_load(const void *page, int64_t at, int is_bf16) {
  return is_bf16 ? widen((const uint16_t *)page + at) : load((const float *)page + at);
}
INLINE vf page_load_tail(const void *page, int64_t at, int n, int is_bf16) {
  if (is_bf16) {
    uint16_t buffer[LANES] = {0};
    memcpy(buffer, (const uint16_t *)page + at, (size_t)n * sizeof *buffer);
    return widen(buffer);
  }
  float buffer[LANES] = {0};
  memcpy(buffer, (const float *)page + at, (size_t)n * sizeof *buffer);
  return load(buffer);
}

INLINE void widen_all(const uint16_t *from, int n, float *to) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, widen(from + i));
  if (i < n) {
    vf last = page_load_tail(from, i, n - i, 1);
    memcpy(to + i, &last, (size_t)(n - i) * sizeof *to);
  }
}

static void widen_row(const uint16_t *from, int64_t n, float *to) { widen_all(from, (int)n, to); }

INLINE void scores_tile(const float *query, int64_t query_stride, int n_queries, const void *page,
                        int dim, int n_tokens, float *scores, int is_bf16) {
  vf acc[TILE_QUERIES][4];
  for (int m = 0; m < n_queries; m++)
    for (int n = 0; n < 4; n++) acc[m][n] = (vf){0};
  int i = 0;
  for (; i + LANES <= dim; i += LANES) {
    vf q[TILE_QUERIES];
    for (int m = 0; m < n_queries; m++) q[m] = load(query + m * query_stride + i);
#pragma GCC unroll 4
    for (int n = 0; n < n_tokens; n++) {
      vf c = page_load(page, (int64_t)n * dim + i, is_bf16);
#pragma GCC unroll 4
      for (int m = 0; m < n_queries; m++) acc[m][n] = fma_(q[m], c, acc[m][n]);
    }
  }
  if (i < dim) {
    for (int n = 0; n < n_tokens; n++) {
      vf c = page_load_tail(page, (int64_t)n * dim + i, dim - i, is_bf16);
      for (int m = 0; m < n_queries; m++)
        acc[m][n] =
            fma_(page_load_tail(query, m * query_stride + i, dim - i, 0), c, acc[m][n]);
    }
  }
  for (int m = 0; m < n_queries; m++) {
    float four[4];
    sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3], four);
    memcpy(scores + m * PLK_PAGE_TOKENS, four, (size_t)n_tokens * sizeof *four);
  }
}

/* Four tokens, all queries. */
INLINE void scores_tiles(const float *queries, int64_t query_stride, int n_queries,
                         const void *tokens, int dim, float *scores, int is_bf16) {
  for (int m = 0; m < n_queries;) {
    const float *rows = queries + m * query_stride;
    float *out = scores + (int64_t)m * PLK_PAGE_TOKENS;
    const int left = n_queries - m;
    if (TAKES_TILE(left)) {
      scores_tile(rows, query_stride, TILE_QUERIES, tokens, dim, 4, out, is_bf16);
      m += TILE_QUERIES;
    } else if (left >= 2) {
      scores_tile(rows, query_stride, 2, tokens, dim, 4, out, is_bf16);
      m += 2;
    } else {
      scores_tile(rows, query_stride, 1, tokens, dim, 4, out, is_bf16);
      m++;
    }
  }
}

INLINE void scores_page(const void *query, int64_t query_stride, int n_queries, const void *page,
                        int dim, int n_tokens, const char *next, float *scores, int is_bf16) {
  const float *q = query;
  const size_t token_bytes = (size_t)dim * (is_bf16 ? 2 : 4);
  const int wide = is_bf16 && n_queries >= WIDEN_QUERIES && dim <= WIDEN_DIM;
  for (int n = 0; n < n_tokens; n += 4) {
    const void *tokens = (const char *)page + (size_t)n * token_bytes;
    const int tail = n_tokens - n;
    if (next) fetch(next + (size_t)n / 2 * token_bytes, 2 * (int64_t)token_bytes);
    if (tail < 4) {
      for (int m = 0; m < n_queries; m++)
        for (int k = 0; k < tail; k++)
          scores_tile(q + m * query_stride, query_stride, 1,
                      (const char *)tokens + (size_t)k * token_bytes, dim, 1,
                      scores + (int64_t)m * PLK_PAGE_TOKENS + n + k, is_bf16);
    } else if (wide) {
      float widened[4 * WIDEN_DIM];
      widen_all(tokens, 4 * dim, widened);
      scores_tiles(q, query_stride, n_queries, widened, dim, scores + n, 0);
    } else {
      scores_tiles(q, query_stride, n_queries, tokens, dim, scores + n, is_bf16);
    }
  }
}
static void scores_bf16_page(const void *query, int64_t query_stride, int n_queries,
                             const void *page, int dim, int n_tokens, const char *next,
                             float *scores) {
  scores_page(query, query_stride, n_queries, page, dim, n_tokens, next, scores, 1);
}
static void scores_f32_page(const void *query, int64_t query_stride, int n_queries,
                            const void *page, int dim, int n_tokens, const char *next,
                             float *scores) {
  scores_page(query, query_stride, n_queries, page, dim, n_tokens, next, scores, 0);
}

INLINE void mix_tile(const float *probabilities, int n_queries, const void *page, int dim,
                     int n_tokens, int width, int n_vectors, const float *keep, float *out,
                     int is_bf16) {
  vf acc[TILE_QUERIES][TILE_VECTORS];
  for (int m = 0; m < n_queries; m++)
    for (int v = 0; v < n_vectors; v++)
      acc[m][v] = load(out + (int64_t)m * width + v * LANES) * splat(keep[m]);
  for (int n = 0; n < n_tokens; n++) {
    vf p[TILE_QUERIES];
#pragma GCC unroll 4
    for (int m = 0; m < n_queries; m++) p[m] = splat(probabilities[m * PLK_PAGE_TOKENS + n]);
#pragma GCC unroll 4
    for (int v = 0; v < n_vectors; v++) {
      vf c = page_load(page, (int64_t)n * dim + v * LANES, is_bf16);
#pragma GCC unroll 4
      for (int m = 0; m < n_queries; m++) acc[m][v] = fma_(p[m], c, acc[m][v]);
    }
  }
  for (int m = 0; m < n_queries; m++)
    for (int v = 0; v < n_vectors; v++)
      store(out + (int64_t)m * width + v * LANES, acc[m][v]);
}

/* The part of a page's second half that falls to `columns` of `width` columns. */
INLINE void fetch_second_half(const char *page, int dim, int is_bf16, int column, int columns,
                              int width) {
  const int64_t half = (int64_t)PLK_PAGE_TOKENS / 2 * dim * (is_bf16 ? 2 : 4);
  fetch(page + half + half * column / width, half * columns / width);
}

/* Some columns, all queries. */
INLINE void mix_tiles(const float *probabilities, int n_queries, const void *columns, int dim,
                      int n_tokens, int width, int n_vectors, const float *keep, float *out,
                      int is_bf16) {
  for (int m = 0; m < n_queries;) {
    const float *p = probabilities + (int64_t)m * PLK_PAGE_TOKENS;
    float *o = out + (int64_t)m * width;
    const int left = n_queries - m;
    if (TAKES_TILE(left)) {
      mix_tile(p, TILE_QUERIES, columns, dim, n_tokens, width, n_vectors, keep + m, o, is_bf16);
      m += TILE_QUERIES;
    } else if (left >= 2) {
      mix_tile(p, 2, columns, dim, n_tokens, width, n_vectors, keep + m, o, is_bf16);
      m += 2;
    } else {
      mix_tile(p, 1, columns, dim, n_tokens, width, n_vectors, keep + m, o, is_bf16);
      m++;
    }
  }
}

INLINE void mix_page(const void *probabilities, int n_queries, const void *page, int dim,
                     int n_tokens, int width, const float *keep, const char *next, float *out,
                     int is_bf16) {
  for (int j = 0; j < width;) {
    const void *columns = (const char *)page + (size_t)j * (is_bf16 ? 2 : 4);
    const int wide = width - j >= TILE_VECTORS * LANES;
    if (next) fetch_second_half(next, dim, is_bf16, j, wide ? TILE_VECTORS * LANES : LANES, width);
    if (wide && is_bf16 && n_queries >= WIDEN_QUERIES) {
      float widened[PLK_PAGE_TOKENS * TILE_VECTORS * LANES];
      for (int n = 0; n < n_tokens; n++)
        widen_all((const uint16_t *)columns + (int64_t)n * dim, TILE_VECTORS * LANES,
                  widened + n * TILE_VECTORS * LANES);
      mix_tiles(probabilities, n_queries, widened, TILE_VECTORS * LANES, n_tokens, width,
                TILE_VECTORS, keep, out + j, 0);
    } else if (wide) {
      mix_tiles(probabilities, n_queries, columns, dim, n_tokens, width, TILE_VECTORS, keep,
                out + j, is_bf16);
    } else {
      mix_tiles(probabilities, n_queries, columns, dim, n_tokens, width, 1, keep, out + j, is_bf16);
    }
    j += wide ? TILE_VECTORS * LANES : LANES;
  }
}
static void mix_bf16_page(const void *probabilities, int n_queries, const void *page, int dim,
                          int n_tokens, int width, const float *keep, const char *next,
                          float *out) {
  mix_page(probabilities, n_queries, page, dim, n_tokens, width, keep, next, out, 1);
}
static void mix_f32_page(const void *probabilities, int n_queries, const void *page, int dim,
                         int n_tokens, int width, const float *keep, const char *next, float *out) {
  mix_page(probabilities, n_queries, page, dim, n_tokens, width, keep, next, out, 0);
}

/* The softmax of 64 scores, masked from n_tokens on, as vectors. */
#define PAGE_VECTORS (PLK_PAGE_TOKENS / LANES)
INLINE float softmax_vectors(const float *scores, int n_tokens, float *maximum_, float *sum_,
                             vf p[PAGE_VECTORS]) {
  vi index;
  for (int i = 0; i < LANES; i++) index[i] = i;
  vf top = splat(*maximum_);
  for (int v = 0; v < PAGE_VECTORS; v++) {
    vi valid = index + v * LANES < n_tokens;
    p[v] = choose(valid, load(scores + v * LANES), splat(-INFINITY));
    top = max_(top, p[v]);
  }
  const float new_maximum = maximum(top);
  vf total = {0};
  for (int v = 0; v < PAGE_VECTORS; v++) {
    vi valid = index + v * LANES < n_tokens;
    p[v] = (vf)(valid & (vi)exp2_(p[v] - splat(new_maximum)));
    total = total + p[v];
  }
  const float keep = *maximum_ == new_maximum ? 1.0f : exp2f(*maximum_ - new_maximum);
  *sum_ = *sum_ * keep + sum(total);
  *maximum_ = new_maximum;
  return keep;
}
static float softmax_f32(const float *scores, int n_tokens, float *maximum_, float *sum_,
                         void *probabilities) {
  vf p[PAGE_VECTORS];
  const float keep = softmax_vectors(scores, n_tokens, maximum_, sum_, p);
  for (int v = 0; v < PAGE_VECTORS; v++) store((float *)probabilities + v * LANES, p[v]);
  return keep;
}

#define EXACT_BF16_PAGE {0, scores_bf16_page, mix_bf16_page, softmax_f32}
#define EXACT_F32_PAGE {0, scores_f32_page, mix_f32_page, softmax_f32}
