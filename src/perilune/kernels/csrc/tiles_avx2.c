/* Tiles for AVX2 and FMA; with PLK_AVXVNNI also the 256-bit VNNI dot product. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "isa.h"

typedef struct {
  __m256 a, b;
} vf;
typedef struct {
  __m256i a, b;
} vi;

#define V static inline __attribute__((always_inline))

#define KEEP(v) __asm__("" : "+x"((v).a), "+x"((v).b))

V vf vf_zero(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
V vf vf_set(float f) { return (vf){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
V vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
V void vf_store(float *p, vf v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
V vf vf_add(vf x, vf y) { return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
V vf vf_mul(vf x, vf y) { return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
V vf vf_div(vf x, vf y) { return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
V vf vf_fma(vf x, vf y, vf z) {
  return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
V vf vf_max(vf x, vf y) { return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
V vf vf_min(vf x, vf y) { return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
V vf vf_round(vf v) {
  return (vf){_mm256_round_ps(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
              _mm256_round_ps(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
V __m256 exp2i_half(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
V vf vf_exp2i(vf n) { return (vf){exp2i_half(n.a), exp2i_half(n.b)}; }
V vf vf_int(vi v) { return (vf){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
V __m256 bf16_half(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
V vf vf_bf16(const uint16_t *p) { return (vf){bf16_half(p), bf16_half(p + 8)}; }
V vi vi_load(const void *p) {
  return (vi){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
V vi vi_set(int32_t i) { return (vi){_mm256_set1_epi32(i), _mm256_set1_epi32(i)}; }
V vi vi_and(vi x, vi y) { return (vi){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
V vi vi_or(vi x, vi y) { return (vi){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
V vi vi_right(vi v, int n) { return (vi){_mm256_srli_epi32(v.a, n), _mm256_srli_epi32(v.b, n)}; }
V vi vi_left(vi v, int n) { return (vi){_mm256_slli_epi32(v.a, n), _mm256_slli_epi32(v.b, n)}; }
V vf vf_bits(vi v) { return (vf){_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)}; }
V vi vi_low(vi v) { return vi_and(v, vi_set(0x0f0f0f0f)); }
V vi vi_high(vi v) { return vi_and(vi_right(v, 4), vi_set(0x0f0f0f0f)); }
V __m256 nibble_half(__m256i v) { /* low nibble of each lane */
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(v, _mm256_set1_epi32(15)),
                                             _mm256_set1_epi32(8)));
}
V vf vf_nibble(vi v, int i) {
  const vi low = vi_right(v, 4 * i);
  return (vf){nibble_half(low.a), nibble_half(low.b)};
}
V void vf_nibbles(vi v, int i, vf *first, vf *second) {
  *first = vf_nibble(v, i);
  *second = vf_nibble(v, i + 4);
}
V vf vf_half(vi v, int i) {
  return vf_bits(i ? vi_and(v, vi_set((int)0xffff0000)) : vi_left(v, 16));
}
V vf vf_e4m3(vi v, int i) {
  /* Sign to bit 31; exponent and mantissa to bits 20..26, which reads as the value times 2^-120,
   * subnormal numbers included. */
  const vi at_top = vi_left(v, 24 - 8 * i);
  return vf_bits(vi_or(vi_and(vi_right(at_top, 4), vi_set(0x07f00000)),
                       vi_and(at_top, vi_set((int)0x80000000))));
}

typedef vi dot4, dot8;
V dot4 dot4_init(void) { return vi_set(0); }
V dot8 dot8_init(void) { return vi_set(0); }
#ifdef PLK_AVXVNNI
V dot4 dot4_add(dot4 d, vi w, vi x) {
  return (vi){_mm256_dpbusd_avx_epi32(d.a, w.a, x.a), _mm256_dpbusd_avx_epi32(d.b, w.b, x.b)};
}
V vi dot4_done(dot4 d, int32_t offset) {
  return (vi){_mm256_add_epi32(d.a, _mm256_set1_epi32(offset)),
              _mm256_add_epi32(d.b, _mm256_set1_epi32(offset))};
}
V vi dot8_weight(vi w) {
  const __m256i raise = _mm256_set1_epi8((char)0x80);
  return (vi){_mm256_xor_si256(w.a, raise), _mm256_xor_si256(w.b, raise)};
}
V dot8 dot8_add(dot8 d, vi w, vi x) { return dot4_add(d, w, x); }
V vi dot8_done(dot8 d, int32_t sum8) { return dot4_done(d, -16 * sum8); } /* raised by 128 */
#define KERNELS plk_kernels_avxvnni
#else
/* int4: 8 steps of at most 2 * 15 * 127 fit in the 16-bit sums of a group. */
V dot4 dot4_add(dot4 d, vi w, vi x) {
  return (vi){_mm256_add_epi16(d.a, _mm256_maddubs_epi16(w.a, x.a)),
              _mm256_add_epi16(d.b, _mm256_maddubs_epi16(w.b, x.b))};
}
V vi dot4_done(dot4 d, int32_t offset) {
  const __m256i one = _mm256_set1_epi16(1), add = _mm256_set1_epi32(offset);
  return (vi){_mm256_add_epi32(_mm256_madd_epi16(d.a, one), add),
              _mm256_add_epi32(_mm256_madd_epi16(d.b, one), add)};
}
/* int8: |w| * (x with the sign of w), since 255 * 127 * 2 would not fit in 16 bits. */
V vi dot8_weight(vi w) { return w; }
V __m256i dot8_half(__m256i d, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(d, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
V dot8 dot8_add(dot8 d, vi w, vi x) {
  return (vi){dot8_half(d.a, w.a, x.a), dot8_half(d.b, w.b, x.b)};
}
V vi dot8_done(dot8 d, int32_t sum8) {
  (void)sum8;
  return d;
}
#define KERNELS plk_kernels_avx2
#endif

#define HAVE_PREPARE_INT8
V int32_t largest8(__m256i v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
V int32_t sum8(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
static void prepare_int8(const float *x, int64_t n_groups, plk_int8_group *out) {
  const __m256i size = _mm256_set1_epi32(0x7fffffff);
  /* Packing leaves, in each half, values 0 to 3 of all four vectors, and 4 to 7: eight bytes of a
   * vector are brought together, and its even values before its odd ones. */
  const __m256i together = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2,
                                         4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  for (int64_t g = 0; g < n_groups; g++, x += PLK_GROUP, out++) {
    __m256 v[4];
    __m256i q[4], most = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), size));
    }
    const uint32_t largest = (uint32_t)largest8(most);
    const float inverse = plk_int8_scale(largest, &out->scale);
    const __m256 factor = _mm256_set1_ps(inverse);
    for (int i = 0; i < 4; i++) /* infinity times zero would be a number */
      q[i] = inverse > 0 ? _mm256_cvtps_epi32(_mm256_mul_ps(v[i], factor)) : _mm256_setzero_si256();
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
                                             _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)out->q,
                        _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, together), order));
    out->sum8 = 8 * sum8(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]),
                                          _mm256_add_epi32(q[2], q[3])));
  }
}

#define INT4_BLOCKS1 1
#define BLOCKS1 2
#define BLOCKS 1
#define INT8_ROWS 3
#define INT4_F32_ROWS 3
#define F32_ROWS 5
#define BF16_ROWS 4 /* the halves of a word take the registers of the fifth */
#include "tiles.inc.h"
