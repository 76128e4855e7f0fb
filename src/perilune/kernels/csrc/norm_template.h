/* Vector vocabulary and the row-wise operations, for LANES floats a vector.
 *
 * Included after LANES is defined (4, 8 or 16). GCC's and Clang's vector types carry the arithmetic;
 * only what they cannot say (fused multiply-add, maximum, horizontal sums) has an intrinsic.
 */
#include <math.h>
#include <string.h>

#include "forward_kernels.h"

#if LANES == 16
#include <immintrin.h>
#elif LANES == 8
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf widen(const uint16_t *p) { /* bf16 -> float32; compilers convert 8 values by halves */
#if LANES == 16
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif LANES == 8
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
#else
  vh h;
  memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

#if LANES == 16
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf max_(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf round_(vf a) { return (vf)_mm512_roundscale_ps((__m512)a, 8); }
/* The sums of four vectors: the same tree for each, whichever place it has. */
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b),
                            _mm512_unpackhi_ps((__m512)a, (__m512)b));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps((__m512)c, (__m512)d),
                            _mm512_unpackhi_ps((__m512)c, (__m512)d));
  __m512d abd = _mm512_castps_pd(ab), cdd = _mm512_castps_pd(cd);
  __m512 q = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(abd, cdd)),
                           _mm512_castpd_ps(_mm512_unpackhi_pd(abd, cdd)));
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(q),
                           _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(q), 1)));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}
#elif LANES == 8
INLINE vf fma_(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf max_(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf round_(vf a) { return (vf)_mm256_round_ps((__m256)a, 8); }
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
  __m256 q = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b),
                            _mm256_hadd_ps((__m256)c, (__m256)d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1)));
}
#else
INLINE vf fma_(vf a, vf b, vf c) { return a * b + c; }
INLINE vf max_(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf round_(vf a) { /* |a| < 2^22: adding and taking away 1.5 * 2^23 rounds to nearest even */
  vf magic = splat(12582912.0f);
  return (a + magic) - magic;
}
INLINE float sum1(vf a) { return (a[0] + a[1]) + (a[2] + a[3]); }
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
  out[0] = sum1(a), out[1] = sum1(b), out[2] = sum1(c), out[3] = sum1(d);
}
#endif

INLINE float sum(vf a) {
  float s[4];
  sum4(a, (vf){0}, (vf){0}, (vf){0}, s);
  return s[0];
}
INLINE float maximum(vf a) {
#if LANES == 16
  return _mm512_reduce_max_ps((__m512)a);
#else
  float m = a[0];
  for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m;
  return m;
#endif
}

/* Ask for bytes that will be needed soon. */
INLINE void fetch(const char *address, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(address + at, 0, 2);
}

/* 2^x for x <= 127; below -126 it is 2^-126, which no caller can tell from zero beside 1. The
 * polynomial is the minimax fit of 2^f on [-0.5, 0.5], relative error 2e-8 before rounding. */
INLINE vf exp2_(vf x) {
  x = max_(x, splat(-126.0f));
  vf n = round_(x), f = x - n;
  vf p = splat(1.5403530e-4f);
  p = fma_(p, f, splat(1.3333558e-3f));
  p = fma_(p, f, splat(9.6181291e-3f));
  p = fma_(p, f, splat(5.5504109e-2f));
  p = fma_(p, f, splat(2.4022651e-1f));
  p = fma_(p, f, splat(6.9314718e-1f));
  p = fma_(p, f, splat(1.0f));
  return (vf)((vi)p + (__builtin_convertvector(n, vi) << 23));
}
#define LOG2_E 1.44269504f

static void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *y) {
  vf squares[2] = {{0}, {0}};
  const int64_t pairs = n / (2 * LANES) * (2 * LANES);
  for (int64_t i = 0; i < pairs; i += 2 * LANES) {
    vf a = load(x + i), b = load(x + i + LANES);
    squares[0] = fma_(a, a, squares[0]);
    squares[1] = fma_(b, b, squares[1]);
  }
  const vf scale = splat(1.0f / sqrtf(sum(squares[0] + squares[1]) / (float)n + eps));
  for (int64_t i = 0; i < pairs; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

static void add(float *x, const float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static void store_f32(const float *x, float factor, int64_t n, float *out) {
  for (int64_t i = 0; i < n; i++) out[i] = x[i] * factor;
}

INLINE uint16_t narrow_(float x) { /* float32 -> bf16, to nearest even, NaN stays NaN */
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 16 | 0x40) : rounded);
}
static __attribute__((unused)) void store_bf16(const float *x, float factor, int64_t n,
                                               uint16_t *out) {
  for (int64_t i = 0; i < n; i++) out[i] = narrow_(x[i] * factor);
}

static void blend(float *a, float factor_a, const float *b, float factor_b, int64_t n) {
  for (int64_t i = 0; i < n; i++) a[i] = a[i] * factor_a + b[i] * factor_b;
}
