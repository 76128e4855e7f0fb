/* Tiles for 64-bit ARM with the dot product extension (ARMv8.2). */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "isa.h"

typedef float32x4x4_t vf;
typedef int32x4x4_t vi, dot4, dot8;

#define V static inline __attribute__((always_inline))
#define EACH for (int k = 0; k < 4; k++)

#define KEEP(v) __asm__("" : "+w"((v).val[0]), "+w"((v).val[1]), "+w"((v).val[2]), "+w"((v).val[3]))

V vf vf_set(float f) {
  vf r;
  EACH r.val[k] = vdupq_n_f32(f);
  return r;
}
V vf vf_zero(void) { return vf_set(0); }
V vf vf_load(const float *p) {
  vf r;
  EACH r.val[k] = vld1q_f32(p + 4 * k);
  return r;
}
V void vf_store(float *p, vf v) { EACH vst1q_f32(p + 4 * k, v.val[k]); }
#define BINARY(name, intrinsic)                                \
  V vf name(vf x, vf y) {                                      \
    vf r;                                                      \
    EACH r.val[k] = intrinsic(x.val[k], y.val[k]);             \
    return r;                                                  \
  }
BINARY(vf_add, vaddq_f32)
BINARY(vf_mul, vmulq_f32)
BINARY(vf_div, vdivq_f32)
BINARY(vf_max, vmaxq_f32)
BINARY(vf_min, vminq_f32)
V vf vf_fma(vf x, vf y, vf z) {
  vf r;
  EACH r.val[k] = vfmaq_f32(z.val[k], x.val[k], y.val[k]);
  return r;
}
V vf vf_round(vf v) {
  vf r;
  EACH r.val[k] = vrndnq_f32(v.val[k]);
  return r;
}
V vf vf_exp2i(vf n) {
  vf r;
  EACH r.val[k] = vreinterpretq_f32_s32(
      vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.val[k]), vdupq_n_s32(127)), 23));
  return r;
}
V vf vf_int(vi v) {
  vf r;
  EACH r.val[k] = vcvtq_f32_s32(v.val[k]);
  return r;
}
V vf vf_bf16(const uint16_t *p) {
  vf r;
  EACH r.val[k] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * k), 16));
  return r;
}
V vi vi_load(const void *p) {
  vi r;
  EACH r.val[k] = vld1q_s32((const int32_t *)p + 4 * k);
  return r;
}
V vi vi_set(int32_t i) {
  vi r;
  EACH r.val[k] = vdupq_n_s32(i);
  return r;
}
V vi vi_and(vi x, vi y) {
  vi r;
  EACH r.val[k] = vandq_s32(x.val[k], y.val[k]);
  return r;
}
V vi vi_or(vi x, vi y) {
  vi r;
  EACH r.val[k] = vorrq_s32(x.val[k], y.val[k]);
  return r;
}
V vi vi_shift(vi v, int left) { /* negative: logical right */
  vi r;
  EACH r.val[k] =
      vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v.val[k]), vdupq_n_s32(left)));
  return r;
}
V vf vf_bits(vi v) {
  vf r;
  EACH r.val[k] = vreinterpretq_f32_s32(v.val[k]);
  return r;
}
V vi vi_low(vi v) { return vi_and(v, vi_set(0x0f0f0f0f)); }
V vi vi_high(vi v) { return vi_and(vi_shift(v, -4), vi_set(0x0f0f0f0f)); }
V vf vf_nibble(vi v, int i) {
  const vi low = vi_and(vi_shift(v, -4 * i), vi_set(15));
  vf r;
  EACH r.val[k] = vcvtq_f32_s32(vsubq_s32(low.val[k], vdupq_n_s32(8)));
  return r;
}
V void vf_nibbles(vi v, int i, vf *first, vf *second) {
  *first = vf_nibble(v, i);
  *second = vf_nibble(v, i + 4);
}
V vf vf_half(vi v, int i) {
  return vf_bits(i ? vi_and(v, vi_set((int)0xffff0000)) : vi_shift(v, 16));
}
V vf vf_e4m3(vi v, int i) {
  /* Sign to bit 31; exponent and mantissa to bits 20..26, which reads as the value times 2^-120,
   * subnormal numbers included. */
  const vi at_top = vi_shift(v, 24 - 8 * i);
  return vf_bits(vi_or(vi_and(vi_shift(at_top, -4), vi_set(0x07f00000)),
                       vi_and(at_top, vi_set((int)0x80000000))));
}

V dot4 dot4_init(void) { return vi_set(0); }
V dot4 dot4_add(dot4 d, vi w, vi x) { /* both signed; nibbles 0..15 are */
  EACH d.val[k] =
      vdotq_s32(d.val[k], vreinterpretq_s8_s32(w.val[k]), vreinterpretq_s8_s32(x.val[k]));
  return d;
}
V vi dot4_done(dot4 d, int32_t offset) {
  EACH d.val[k] = vaddq_s32(d.val[k], vdupq_n_s32(offset));
  return d;
}
V vi dot8_weight(vi w) { return w; }
V dot8 dot8_init(void) { return vi_set(0); }
V dot8 dot8_add(dot8 d, vi w, vi x) { return dot4_add(d, w, x); }
V vi dot8_done(dot8 d, int32_t sum8) {
  (void)sum8;
  return d;
}

#define KERNELS plk_kernels_neon
#define INT4_BLOCKS1 1
#define BLOCKS1 2
#define BLOCKS 1
#define INT8_ROWS 3
#define INT4_F32_ROWS 3
#define F32_ROWS 4
#define BF16_ROWS 4
#include "tiles.inc.h"
