/* The vision tower's inner loops over vectors of LANES floats; included after norm_template.h. */
#include "vision_kernels.h"

#define VECTORS (16 / LANES)
/* All sums, the vectors of a panel and one value of x fit into the registers. */
#if LANES == 16
#define PRODUCT_ROWS 14
#elif LANES == 8
#define PRODUCT_ROWS 6
#else
#define PRODUCT_ROWS 3
#endif
/* Fixes a value in the order of the source: left alone, compilers gather all steps of one sum into
 * one long chain of waits. */
#if defined(__x86_64__) && LANES >= 8
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v)
#endif

INLINE void product_tile(const float *x, int64_t x_stride, const int R, const float *panel,
                         int64_t n, float *y, int64_t y_stride, int accumulate) {
  vf sum[PRODUCT_ROWS][VECTORS];
#pragma GCC unroll 14
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
      sum[r][v] = accumulate ? load(y + r * y_stride + v * LANES) : (vf){0};
  for (int64_t i = 0; i < n; i++) {
    vf w[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) w[v] = load(panel + i * 16 + v * LANES);
#pragma GCC unroll 14
    for (int r = 0; r < R; r++) {
      const vf input = splat(x[r * x_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) {
        sum[r][v] = fma_(w[v], input, sum[r][v]);
        KEEP(sum[r][v]);
      }
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) store(y + r * y_stride + v * LANES, sum[r][v]);
}

#define PRODUCT_CASE(R)                                                           \
  case R:                                                                         \
    product_tile(x, x_stride, R, panel, n, y, y_stride, accumulate);              \
    break;

static void product(const float *x, int64_t x_stride, int64_t rows, const float *panel, int64_t n,
                    float *y, int64_t y_stride, int accumulate) {
  for (; rows >= PRODUCT_ROWS; rows -= PRODUCT_ROWS) {
    product_tile(x, x_stride, PRODUCT_ROWS, panel, n, y, y_stride, accumulate);
    x += PRODUCT_ROWS * x_stride, y += PRODUCT_ROWS * y_stride;
  }
  switch (rows) {
    PRODUCT_CASE(1)
    PRODUCT_CASE(2)
#if LANES >= 8
    PRODUCT_CASE(3)
    PRODUCT_CASE(4)
    PRODUCT_CASE(5)
#endif
#if LANES == 16
    PRODUCT_CASE(6)
    PRODUCT_CASE(7)
    PRODUCT_CASE(8)
    PRODUCT_CASE(9)
    PRODUCT_CASE(10)
    PRODUCT_CASE(11)
    PRODUCT_CASE(12)
    PRODUCT_CASE(13)
#endif
  }
}

static void unpack(const uint32_t *words, int64_t n_words, float *panel) {
  for (int64_t w = 0; w < n_words; w++, words += 16, panel += 32)
    for (int v = 0; v < 16; v += LANES) {
      vu both;
      memcpy(&both, words + v, sizeof both);
      store(panel + v, (vf)(both << 16));
      store(panel + 16 + v, (vf)(both & 0xffff0000u));
    }
}

/* GELU by tanh, as x * sigmoid(2 u): 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3). */
INLINE vf gelu_tanh(vf x) {
  const vf cubic = fma_(x * x * x, splat(0.044715f), x);
  const vf t = max_(cubic * splat(2 * 0.7978845608f * LOG2_E), splat(-126.0f));
  return x / (splat(1.0f) + exp2_(-t));
}

static void finish(float *y, int64_t y_stride, int64_t rows, const float *bias, int gelu) {
  vf b[VECTORS];
  for (int v = 0; v < VECTORS; v++) b[v] = load(bias + v * LANES);
  for (int64_t r = 0; r < rows; r++, y += y_stride)
    for (int v = 0; v < VECTORS; v++) {
      vf x = load(y + v * LANES) + b[v];
      if (gelu == PLK_GELU_TANH) x = gelu_tanh(x);
      if (gelu == PLK_GELU_ERF)
        for (int i = 0; i < LANES; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
      store(y + v * LANES, x);
    }
}

static float softmax(float *scores, int n, int width, float *maximum_, float *sum_) {
  vi index;
  for (int i = 0; i < LANES; i++) index[i] = i;
  vf top = splat(*maximum_);
  int i = 0;
  for (; i + LANES <= n; i += LANES) top = max_(top, load(scores + i));
  for (; i < width; i += LANES) {
    const vf masked = choose(index + i < n, load(scores + i), splat(-INFINITY));
    store(scores + i, masked);
    top = max_(top, masked);
  }
  const float new_maximum = maximum(top);
  vf total = {0};
  const vf level = splat(new_maximum);
  for (i = 0; i + LANES <= n; i += LANES) {
    const vf p = exp2_(load(scores + i) - level);
    store(scores + i, p);
    total = total + p;
  }
  for (; i < width; i += LANES) {
    const vf p = (vf)((index + i < n) & (vi)exp2_(load(scores + i) - level));
    store(scores + i, p);
    total = total + p;
  }
  const float keep = *maximum_ == new_maximum ? 1.0f : exp2f(*maximum_ - new_maximum);
  *sum_ = *sum_ * keep + sum(total);
  *maximum_ = new_maximum;
  return keep;
}

static void scale(float *y, float factor, int n) {
  for (int i = 0; i < n; i += LANES) store(y + i, load(y + i) * splat(factor));
}

#define VISION_KERNELS {PRODUCT_ROWS, product, unpack, finish, softmax, scale}
