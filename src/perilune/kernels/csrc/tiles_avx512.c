/* Tiles for AVX-512 with VNNI; with PLK_AVX512BF16 also bfloat16 dot products. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "isa.h"

typedef __m512 vf;
typedef __m512i vi, dot4, dot8;

#define V static inline __attribute__((always_inline))

#define KEEP(v) __asm__("" : "+v"(v))

V vf vf_zero(void) { return _mm512_setzero_ps(); }
V vf vf_set(float f) { return _mm512_set1_ps(f); }
V vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
V void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
V vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V vf vf_round(vf v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT); }
V vf vf_exp2i(vf n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
V vf vf_int(vi v) { return _mm512_cvtepi32_ps(v); }
V vf vf_bf16(const uint16_t *p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
V vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
V vi vi_set(int32_t i) { return _mm512_set1_epi32(i); }
V vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
V vi vi_low(vi v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
V vi vi_high(vi v) { return _mm512_and_si512(_mm512_srli_epi32(v, 4), _mm512_set1_epi8(15)); }
V void vf_nibbles(vi v, int i, vf *first, vf *second) {
  /* A 16-bit permutation looks at the low five bits of its index, so a table that comes twice is
   * mask and conversion of two nibbles at once: to bfloat16, which holds -8..7 exactly. */
  static const uint16_t NUMBERS[32] __attribute__((aligned(64))) = {
      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
      0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
      0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
  const vi low = i ? _mm512_srli_epi16(v, 4 * i) : v;
  const vi pair = _mm512_permutexvar_epi16(low, _mm512_load_si512(NUMBERS));
  *first = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
  *second = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)));
}
V vf vf_half(vi v, int i) {
  return _mm512_castsi512_ps(i ? _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000))
                               : _mm512_slli_epi32(v, 16));
}
V vf vf_e4m3(vi v, int i) {
  /* Sign to bit 31; exponent and mantissa to bits 20..26, which reads as the value times 2^-120,
   * subnormal numbers included. */
  const vi at_top = i == 3 ? v : _mm512_slli_epi32(v, 24 - 8 * i);
  const vi size = _mm512_and_si512(_mm512_srli_epi32(at_top, 4), _mm512_set1_epi32(0x07f00000));
  const vi sign = _mm512_and_si512(at_top, _mm512_set1_epi32((int)0x80000000));
  return _mm512_castsi512_ps(_mm512_or_si512(size, sign));
}
V dot4 dot4_init(void) { return _mm512_setzero_si512(); }
V dot4 dot4_add(dot4 d, vi w, vi x) { return _mm512_dpbusd_epi32(d, w, x); }
V vi dot4_done(dot4 d, int32_t offset) { return _mm512_add_epi32(d, _mm512_set1_epi32(offset)); }
V vi dot8_weight(vi w) { return _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80)); }
V dot8 dot8_init(void) { return _mm512_setzero_si512(); }
V dot8 dot8_add(dot8 d, vi w, vi x) { return _mm512_dpbusd_epi32(d, w, x); }
V vi dot8_done(dot8 d, int32_t sum8) { /* weights were raised by 128 */
  return _mm512_sub_epi32(d, _mm512_set1_epi32(16 * sum8));
}

#ifdef PLK_AVX512BF16
#define HAVE_DOT_BF16
V vf vf_dot_bf16(vf c, vi w, vi x) { return _mm512_dpbf16_ps(c, (__m512bh)w, (__m512bh)x); }
#define HAVE_PREPARE_BF16
static void prepare_bf16(const float *x, int64_t n, uint16_t *out) {
  for (int64_t i = 0; i < n; i += 16) /* n is a multiple of 32 */
    _mm256_storeu_si256((__m256i *)(out + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
}
#define KERNELS plk_kernels_avx512bf16
#else
#define KERNELS plk_kernels_avx512
#endif

#define HAVE_PREPARE_INT8
static void prepare_int8(const float *x, int64_t n_groups, plk_int8_group *out) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff);
  /* Bytes of each half: even ones of eight, then odd ones. */
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  for (int64_t g = 0; g < n_groups; g++, x += PLK_GROUP, out++) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const uint32_t largest = (uint32_t)_mm512_reduce_max_epi32(
        _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), size),
                         _mm512_and_si512(_mm512_castps_si512(b), size)));
    const float inverse = plk_int8_scale(largest, &out->scale);
    __m512i qa = _mm512_setzero_si512(), qb = qa;
    if (inverse > 0) {
      const __m512 factor = _mm512_set1_ps(inverse);
      qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor));
      qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
    }
    _mm_storeu_si128((__m128i *)out->q, _mm_shuffle_epi8(_mm512_cvtepi32_epi8(qa), order));
    _mm_storeu_si128((__m128i *)(out->q + 16), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(qb), order));
    out->sum8 = 8 * _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
  }
}

#define INT4_BLOCKS1 1
#define BLOCKS1 4
#define BLOCKS 2
#define INT8_ROWS 6
#define INT4_F32_ROWS 4
#define F32_ROWS 12
#define BF16_ROWS 12
#include "tiles.inc.h"
