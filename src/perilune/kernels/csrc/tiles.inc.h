/* The tile kernels, written once over the primitives of an instruction set.
 *
 * A source tiles_SET.c defines the primitives below for vectors of 16 lanes (one lane an output
 * row) and includes this file. Blocks B and rows R of an inner loop are compile-time constants so
 * that all accumulators live in registers; what differs between B and R is only which elements
 * are computed together, never how one element is computed.
 *
 *   vf, vi                      16 float32, 16 32-bit words
 *   vf_zero, vf_set(f), vf_load(p), vf_store(p, v), vf_mul, vf_add, vf_div, vf_fma(a, b, c) = a*b+c
 *   vf_max, vf_min, vf_round, vf_exp2i(v): 2^v of integral v
 *   vf_bf16(p)                  16 bfloat16
 *   vf_int(vi)                  int32 -> float32
 *   vi_load(p), vi_set(i)
 *   vi_low(v), vi_high(v)       low and high nibble of every byte
 *   vf_nibbles(v, i, &a, &b)    float(nibble i of the word) - 8, and of nibble i + 4
 *   vf_half(v, i)               bfloat16 i of the word
 *   vf_e4m3(v, i)               byte i of the word as e4m3 times 2^-120
 *   dot4, dot4_init(), dot4_add(d, w, x), dot4_done(d, i)   sum of unsigned nibble * int8, plus i
 *   dot8, dot8_weight(w), ...   the same for int8 * int8; dot8_done(d, sum8) takes back what a set
 *                               added to the weights to make them unsigned
 *   KEEP(v)                     fixes v in the order of the source: left alone, compilers gather all
 *                               steps of one accumulator into one long chain of waits
 *   BLOCKS1, INT4_BLOCKS1       blocks computed together for one row: float sums need several
 *                               chains of additions, integer sums one long stream of weights
 *   BLOCKS                      blocks computed together for several rows
 *   INT8_ROWS, INT4_F32_ROWS, F32_ROWS, BF16_ROWS   most rows computed together, by kind of inner
 *                               loop
 *   HAVE_DOT_BF16, vf_dot_bf16(c, w, x)
 */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
/* Arrays of constant size (not [B][R], which C takes as of variable length) so that they become
 * registers. */
#define MOST_BLOCKS 4
#define MOST_ROWS 12
/* Bytes. A single row is as fast as memory and wants one long stream fetched well ahead; with more
 * rows each line is in flight for fewer steps. */
#define PREFETCH_AHEAD(rows) ((rows) == 1 ? 6144 : 4096)

INLINE int32_t word_at(const void *p) {
  int32_t word;
  memcpy(&word, p, 4);
  return word;
}

/* Where rows take several passes over the same blocks, only the first pass would wait for memory
 * and the others would leave it idle. So each pass fetches its share of the blocks that follow
 * into the second level cache. */
typedef struct {
  const char *at;
  int lines; /* a group; 0 = one pass only, fetch the own stream ahead instead */
} next_blocks;

INLINE next_blocks next_blocks_of(const plk_tile *t, int row, int most_rows, const char *following,
                                  int lines_per_group, int64_t groups) {
  const int passes = (t->n_rows + most_rows - 1) / most_rows;
  if (passes == 1) return (next_blocks){following, 0};
  const int lines = (lines_per_group + passes - 1) / passes;
  const int pass = row * passes / t->n_rows;
  return (next_blocks){following + pass * lines * groups * 64, lines};
}

/* ---- int4 and int8 weights, int8 activations ---- */
INLINE void tile_int4_int8(const plk_tile *t, const int block, const int row, const int B,
                           const int R) {
  const int64_t groups = t->in_features / PLK_GROUP;
  const char *weight = (const char *)t->weight + block * groups * 256;
  const uint16_t *scale = (const uint16_t *)t->scale + block * groups * 16;
  next_blocks next = next_blocks_of(t, row, INT8_ROWS, weight + B * groups * 256, B * 4, groups);
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const plk_int8_group *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const plk_int8_group *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t g = 0; g < groups; g++) {
    dot4 acc[MOST_BLOCKS][MOST_ROWS];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) acc[b][r] = dot4_init();
    for (int i = 0; i < next.lines; i++, next.at += 64) __builtin_prefetch(next.at, 0, 2);
    UNROLL for (int w = 0; w < 4; w++) {
      vi low[MOST_BLOCKS], high[MOST_BLOCKS];
      UNROLL for (int b = 0; b < B; b++) {
        const char *at = weight + (b * groups + g) * 256 + w * 64;
        const vi v = vi_load(at);
        if (next.lines == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
        low[b] = vi_low(v);
        high[b] = vi_high(v);
      }
      UNROLL for (int r = 0; r < R; r++) {
        const vi even = vi_set(word_at(x[r][g].q + 8 * w));
        const vi odd = vi_set(word_at(x[r][g].q + 8 * w + 4));
        UNROLL for (int b = 0; b < B; b++) {
          acc[b][r] = dot4_add(acc[b][r], low[b], even);
          KEEP(acc[b][r]);
        }
        UNROLL for (int b = 0; b < B; b++) {
          acc[b][r] = dot4_add(acc[b][r], high[b], odd);
          KEEP(acc[b][r]);
        }
      }
    }
    UNROLL for (int b = 0; b < B; b++) {
      const uint16_t *at = scale + (b * groups + g) * 16;
      const vf s = vf_bf16(at);
      if (R == 1) __builtin_prefetch((const char *)at + PREFETCH_AHEAD(R) / 8, 0, 3);
      UNROLL for (int r = 0; r < R; r++) {
        const vf dot = vf_int(dot4_done(acc[b][r], -x[r][g].sum8));
        sum[b][r] = vf_fma(dot, vf_mul(s, vf_set(x[r][g].scale)), sum[b][r]);
      }
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

INLINE void tile_int8_int8(const plk_tile *t, const int block, const int row, const int B,
                           const int R) {
  const int64_t groups = t->in_features / PLK_GROUP;
  const char *weight = (const char *)t->weight + block * groups * 512;
  const uint16_t *scale = (const uint16_t *)t->scale + block * groups * 16;
  next_blocks next = next_blocks_of(t, row, INT8_ROWS, weight + B * groups * 512, B * 8, groups);
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const plk_int8_group *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const plk_int8_group *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t g = 0; g < groups; g++) {
    dot8 acc[MOST_BLOCKS][MOST_ROWS];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) acc[b][r] = dot8_init();
    for (int i = 0; i < next.lines; i++, next.at += 64) __builtin_prefetch(next.at, 0, 2);
    UNROLL for (int w = 0; w < 8; w++) {
      vi v[MOST_BLOCKS];
      UNROLL for (int b = 0; b < B; b++) {
        const char *at = weight + (b * groups + g) * 512 + w * 64;
        v[b] = dot8_weight(vi_load(at));
        if (next.lines == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
      }
      UNROLL for (int r = 0; r < R; r++) {
        const vi q = vi_set(word_at(x[r][g].q + 4 * w));
        UNROLL for (int b = 0; b < B; b++) {
          acc[b][r] = dot8_add(acc[b][r], v[b], q);
          KEEP(acc[b][r]);
        }
      }
    }
    UNROLL for (int b = 0; b < B; b++) {
      const vf s = vf_bf16(scale + (b * groups + g) * 16);
      UNROLL for (int r = 0; r < R; r++) {
        const vf dot = vf_int(dot8_done(acc[b][r], x[r][g].sum8));
        sum[b][r] = vf_fma(dot, vf_mul(s, vf_set(x[r][g].scale)), sum[b][r]);
      }
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

/* ---- float32 activations ---- */
INLINE void tile_int4_f32(const plk_tile *t, const int block, const int row, const int B,
                          const int R) {
  const int64_t groups = t->in_features / PLK_GROUP;
  const char *weight = (const char *)t->weight + block * groups * 256;
  const uint16_t *scale = (const uint16_t *)t->scale + block * groups * 16;
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const float *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const float *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t g = 0; g < groups; g++) {
    /* Two sums, or the waits for one would be all the time that a single row takes. */
    vf low[MOST_BLOCKS][MOST_ROWS], high[MOST_BLOCKS][MOST_ROWS];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) {
      low[b][r] = vf_zero();
      high[b][r] = vf_zero();
    }
    for (int w = 0; w < 4; w++) {
      vi v[MOST_BLOCKS];
      UNROLL for (int b = 0; b < B; b++) {
        const char *at = weight + (b * groups + g) * 256 + w * 64;
        v[b] = vi_load(at);
        if (row == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
      }
      UNROLL for (int i = 0; i < 4; i++) {
        vf first[MOST_BLOCKS], second[MOST_BLOCKS];
        UNROLL for (int b = 0; b < B; b++) vf_nibbles(v[b], i, &first[b], &second[b]);
        UNROLL for (int r = 0; r < R; r++) {
          const vf input = vf_set(x[r][g * 32 + w * 8 + i]);
          UNROLL for (int b = 0; b < B; b++) {
            low[b][r] = vf_fma(first[b], input, low[b][r]);
            KEEP(low[b][r]);
          }
        }
        UNROLL for (int r = 0; r < R; r++) {
          const vf input = vf_set(x[r][g * 32 + w * 8 + i + 4]);
          UNROLL for (int b = 0; b < B; b++) {
            high[b][r] = vf_fma(second[b], input, high[b][r]);
            KEEP(high[b][r]);
          }
        }
      }
    }
    UNROLL for (int b = 0; b < B; b++) {
      const vf s = vf_bf16(scale + (b * groups + g) * 16);
      UNROLL for (int r = 0; r < R; r++) 
        sum[b][r] = vf_fma(vf_add(low[b][r], high[b][r]), s, sum[b][r]);
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

INLINE void tile_f32_f32(const plk_tile *t, const int block, const int row, const int B,
                         const int R) {
  const int64_t n = t->in_features;
  const char *weight = (const char *)t->weight + block * n * 64;
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const float *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const float *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t i = 0; i < n; i++) {
    vf v[MOST_BLOCKS];
    UNROLL for (int b = 0; b < B; b++) {
      const char *at = weight + (b * n + i) * 64;
      v[b] = vf_load((const float *)at);
      if (row == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
    }
    UNROLL for (int r = 0; r < R; r++) {
      const vf input = vf_set(x[r][i]);
      UNROLL for (int b = 0; b < B; b++) {
        sum[b][r] = vf_fma(v[b], input, sum[b][r]);
        KEEP(sum[b][r]);
      }
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

INLINE void tile_bf16_f32(const plk_tile *t, const int block, const int row, const int B,
                          const int R) {
  const int64_t words = t->in_features / 2;
  const char *weight = (const char *)t->weight + block * words * 64;
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const float *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const float *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t w = 0; w < words; w++) {
    vi v[MOST_BLOCKS];
    UNROLL for (int b = 0; b < B; b++) {
      const char *at = weight + (b * words + w) * 64;
      v[b] = vi_load(at);
      if (row == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
    }
    UNROLL for (int i = 0; i < 2; i++) {
      vf q[MOST_BLOCKS];
      UNROLL for (int b = 0; b < B; b++) q[b] = vf_half(v[b], i);
      UNROLL for (int r = 0; r < R; r++) {
        const vf input = vf_set(x[r][2 * w + i]);
        UNROLL for (int b = 0; b < B; b++) {
          sum[b][r] = vf_fma(q[b], input, sum[b][r]);
          KEEP(sum[b][r]);
        }
      }
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

INLINE void tile_fp8_f32(const plk_tile *t, const int block, const int row, const int B,
                         const int R) {
  const int64_t words = t->in_features / 4, columns = (t->in_features + 127) / 128;
  const char *weight = (const char *)t->weight + block * words * 64;
  const float *scale[MOST_BLOCKS];
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const float *x[MOST_ROWS];
  UNROLL for (int b = 0; b < B; b++)
    scale[b] = (const float *)t->scale + (t->first_output + (block + b) * 16) / 128 * columns;
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = (const float *)t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t c = 0; c < columns; c++) {
    vf acc[MOST_BLOCKS][MOST_ROWS];
    UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++) acc[b][r] = vf_zero();
    const int64_t end = (c + 1) * 32 < words ? (c + 1) * 32 : words;
    for (int64_t w = c * 32; w < end; w++) {
      vi v[MOST_BLOCKS];
      UNROLL for (int b = 0; b < B; b++) {
        const char *at = weight + (b * words + w) * 64;
        v[b] = vi_load(at);
        if (row == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
      }
      UNROLL for (int i = 0; i < 4; i++) {
        vf q[MOST_BLOCKS];
        UNROLL for (int b = 0; b < B; b++) q[b] = vf_e4m3(v[b], i);
        UNROLL for (int r = 0; r < R; r++) {
          const vf input = vf_set(x[r][4 * w + i]);
          UNROLL for (int b = 0; b < B; b++) {
            acc[b][r] = vf_fma(q[b], input, acc[b][r]);
            KEEP(acc[b][r]);
          }
        }
      }
    }
    UNROLL for (int b = 0; b < B; b++) {
      const vf s = vf_mul(vf_set(0x1p120f), vf_set(scale[b][c]));
      UNROLL for (int r = 0; r < R; r++) sum[b][r] = vf_fma(acc[b][r], s, sum[b][r]);
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}

#ifdef HAVE_DOT_BF16
INLINE void tile_bf16_bf16(const plk_tile *t, const int block, const int row, const int B,
                           const int R) {
  const int64_t words = t->in_features / 2;
  const char *weight = (const char *)t->weight + block * words * 64;
  vf sum[MOST_BLOCKS][MOST_ROWS];
  const char *x[MOST_ROWS];
  UNROLL for (int r = 0; r < R; r++) {
    x[r] = t->rows[row + r];
    UNROLL for (int b = 0; b < B; b++) sum[b][r] = vf_zero();
  }
  for (int64_t w = 0; w < words; w++) {
    vi v[MOST_BLOCKS];
    UNROLL for (int b = 0; b < B; b++) {
      const char *at = weight + (b * words + w) * 64;
      v[b] = vi_load(at);
      if (row == 0) __builtin_prefetch(at + PREFETCH_AHEAD(R), 0, 3);
    }
    UNROLL for (int r = 0; r < R; r++) {
      const vi pair = vi_set(word_at(x[r] + 4 * w));
      UNROLL for (int b = 0; b < B; b++) {
        sum[b][r] = vf_dot_bf16(sum[b][r], v[b], pair);
        KEEP(sum[b][r]);
      }
    }
  }
  UNROLL for (int b = 0; b < B; b++) UNROLL for (int r = 0; r < R; r++)
    vf_store(t->out + (row + r) * t->out_stride + (block + b) * 16, sum[b][r]);
}
#endif

/* ---- All blocks and rows of a tile, in pieces of BLOCKS x ROWS ---- */
#define ROW_CASE(name, B, R) \
  case R:                    \
    name(t, block, row, B, R); \
    break;
#define ROW_SWITCH(name, B, most)                                                          \
  for (int row = 0, many; row < t->n_rows; row += many) {                                  \
    const int left = t->n_rows - row, pieces = (left + (most) - 1) / (most);               \
    many = (left + pieces - 1) / pieces; /* 7 rows in pieces of 6: 4 + 3, not 6 + 1 */     \
    switch (many) { ROWS_##most(name, B) }                                                 \
  }
#define ROWS_1(name, B) ROW_CASE(name, B, 1)
#define ROWS_2(name, B) ROWS_1(name, B) ROW_CASE(name, B, 2)
#define ROWS_3(name, B) ROWS_2(name, B) ROW_CASE(name, B, 3)
#define ROWS_4(name, B) ROWS_3(name, B) ROW_CASE(name, B, 4)
#define ROWS_5(name, B) ROWS_4(name, B) ROW_CASE(name, B, 5)
#define ROWS_6(name, B) ROWS_5(name, B) ROW_CASE(name, B, 6)
#define ROWS_7(name, B) ROWS_6(name, B) ROW_CASE(name, B, 7)
#define ROWS_8(name, B) ROWS_7(name, B) ROW_CASE(name, B, 8)
#define ROWS_9(name, B) ROWS_8(name, B) ROW_CASE(name, B, 9)
#define ROWS_10(name, B) ROWS_9(name, B) ROW_CASE(name, B, 10)
#define ROWS_11(name, B) ROWS_10(name, B) ROW_CASE(name, B, 11)
#define ROWS_12(name, B) ROWS_11(name, B) ROW_CASE(name, B, 12)
#define EXPAND(macro, ...) macro(__VA_ARGS__)

#define DEFINE_TILES(name, one_row_blocks, blocks, most)                     \
  static void name##_all(const plk_tile *t) {                                \
    int block = 0;                                                           \
    if (t->n_rows == 1) {                                                    \
      const int row = 0;                                                     \
      for (; block + (one_row_blocks) <= t->n_blocks; block += (one_row_blocks)) \
        name(t, block, row, one_row_blocks, 1);                              \
      for (; block < t->n_blocks; block++) name(t, block, row, 1, 1);        \
      return;                                                                \
    }                                                                        \
    for (; block + (blocks) <= t->n_blocks; block += (blocks))               \
      EXPAND(ROW_SWITCH, name, blocks, most)                                 \
    if ((blocks) > 1)                                                        \
      for (; block < t->n_blocks; block++) EXPAND(ROW_SWITCH, name, 1, most) \
  }

DEFINE_TILES(tile_int4_int8, INT4_BLOCKS1, BLOCKS, INT8_ROWS)
DEFINE_TILES(tile_int8_int8, INT4_BLOCKS1, BLOCKS, INT8_ROWS)
DEFINE_TILES(tile_int4_f32, BLOCKS1, BLOCKS, INT4_F32_ROWS)
DEFINE_TILES(tile_f32_f32, BLOCKS1, BLOCKS, F32_ROWS)
DEFINE_TILES(tile_bf16_f32, BLOCKS1, BLOCKS, BF16_ROWS)
DEFINE_TILES(tile_fp8_f32, BLOCKS1, BLOCKS, INT4_F32_ROWS)
#ifdef HAVE_DOT_BF16
DEFINE_TILES(tile_bf16_bf16, BLOCKS1, BLOCKS, F32_ROWS)
#endif

/* ---- SwiGLU ---- */
/* e^v for v <= 88, to about 1e-7 relative: 2^n * 2^f with |f| <= 1/2, Taylor of 2^f in f ln 2. */
INLINE vf vf_exp(vf v) {
  v = vf_max(vf_min(v, vf_set(88.0f)), vf_set(-87.0f));
  const vf n = vf_round(vf_mul(v, vf_set(1.44269504f)));
  vf f = vf_fma(n, vf_set(-0.693145752f), v); /* ln 2 in two parts */
  f = vf_fma(n, vf_set(-1.42860677e-6f), f);
  vf p = vf_set(1.0f / 5040);
  p = vf_fma(p, f, vf_set(1.0f / 720));
  p = vf_fma(p, f, vf_set(1.0f / 120));
  p = vf_fma(p, f, vf_set(1.0f / 24));
  p = vf_fma(p, f, vf_set(1.0f / 6));
  p = vf_fma(p, f, vf_set(0.5f));
  p = vf_fma(p, f, vf_set(1.0f));
  p = vf_fma(p, f, vf_set(1.0f));
  return vf_mul(p, vf_exp2i(n));
}

static void swiglu(const float *gate, const float *up, float *h, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) { /* n is a multiple of 16 */
    const vf g = vf_load(gate + i);
    const vf e = vf_exp(vf_mul(g, vf_set(-1.0f)));
    vf_store(h + i, vf_mul(vf_div(g, vf_add(vf_set(1.0f), e)), vf_load(up + i)));
  }
}

static void add_scaled(const float *x, float w, float *y, int64_t n) {
  const vf weight = vf_set(w);
  for (int64_t i = 0; i < n; i += 16)
    vf_store(y + i, vf_fma(vf_load(x + i), weight, vf_load(y + i)));
}

/* ---- Activations ---- */
#ifndef HAVE_PREPARE_INT8
static void prepare_int8(const float *x, int64_t n_groups, plk_int8_group *out) {
  for (int64_t g = 0; g < n_groups; g++, x += PLK_GROUP, out++) {
    uint32_t bits[PLK_GROUP], largest = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < PLK_GROUP; i++) {
      const uint32_t size = bits[i] & 0x7fffffff; /* as integers, so that NaN is the largest */
      largest = size > largest ? size : largest;
    }
    const float inverse = plk_int8_scale(largest, &out->scale);
    int8_t q[PLK_GROUP] = {0};
    int32_t sum = 0;
    for (int i = 0; inverse > 0 && i < PLK_GROUP; i++) {
      q[i] = (int8_t)rintf(x[i] * inverse);
      sum += q[i];
    }
    for (int i = 0; i < PLK_GROUP; i++) out->q[i / 8 * 8 + (i & 1) * 4 + i % 8 / 2] = q[i];
    out->sum8 = 8 * sum;
  }
}
#endif

#ifndef HAVE_PREPARE_BF16
static void prepare_bf16(const float *x, int64_t n, uint16_t *out) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16 | 0x40) : rounded);
  }
}
#endif

static uint64_t read_all(const void *address, int64_t bytes) {
  const char *p = address;
  vi sum[8];
  UNROLL for (int i = 0; i < 8; i++) sum[i] = vi_set(0);
  for (int64_t at = 0; at + 512 <= bytes; at += 512) {
    UNROLL for (int i = 0; i < 8; i++) {
      __builtin_prefetch(p + at + i * 64 + PREFETCH_AHEAD(1), 0, 3);
      sum[i] = vi_or(sum[i], vi_load(p + at + i * 64));
    }
  }
  UNROLL for (int i = 1; i < 8; i++) sum[0] = vi_or(sum[0], sum[i]);
  uint64_t words[8], all = 0;
  memcpy(words, &sum[0], 64);
  for (int i = 0; i < 8; i++) all |= words[i];
  return all;
}

const plk_kernels KERNELS = {
    .tile =
        {
            [PLK_F32] = {[PLK_X_F32] = tile_f32_f32_all},
            [PLK_BF16] =
                {
                    [PLK_X_F32] = tile_bf16_f32_all,
#ifdef HAVE_DOT_BF16
                    [PLK_X_BF16] = tile_bf16_bf16_all,
#endif
                },
            [PLK_FP8] = {[PLK_X_F32] = tile_fp8_f32_all},
            [PLK_INT8] = {[PLK_X_INT8] = tile_int8_int8_all},
            [PLK_INT4] = {[PLK_X_F32] = tile_int4_f32_all, [PLK_X_INT8] = tile_int4_int8_all},
        },
    .prepare_int8 = prepare_int8,
    .prepare_bf16 = prepare_bf16,
    .swiglu = swiglu,
    .add_scaled = add_scaled,
    .read = read_all,
};
