/* Tiles in plain C, for any processor; written so that compilers vectorise the lane loops. */
#include <math.h>
#include <string.h>

#include "isa.h"

typedef struct {
  float f[16];
} vf;
typedef struct {
  int32_t i[16];
} vi;

#define V static inline __attribute__((always_inline))
#define EACH for (int k = 0; k < 16; k++)

#define KEEP(v) ((void)0)

V vf vf_set(float f) {
  vf r;
  EACH r.f[k] = f;
  return r;
}
V vf vf_zero(void) { return vf_set(0); }
V vf vf_load(const float *p) {
  vf r;
  memcpy(r.f, p, sizeof r.f);
  return r;
}
V void vf_store(float *p, vf v) { memcpy(p, v.f, sizeof v.f); }
#define BINARY(name, expression)  \
  V vf name(vf x, vf y) {         \
    vf r;                         \
    EACH r.f[k] = (expression);   \
    return r;                     \
  }
BINARY(vf_add, x.f[k] + y.f[k])
BINARY(vf_mul, x.f[k] * y.f[k])
BINARY(vf_div, x.f[k] / y.f[k])
BINARY(vf_max, x.f[k] > y.f[k] ? x.f[k] : y.f[k])
BINARY(vf_min, x.f[k] < y.f[k] ? x.f[k] : y.f[k])
V vf vf_fma(vf x, vf y, vf z) { /* two roundings: fmaf() is slow where there is no instruction */
  EACH z.f[k] += x.f[k] * y.f[k];
  return z;
}
V vf vf_round(vf v) {
  EACH v.f[k] = rintf(v.f[k]);
  return v;
}
V vi vi_load(const void *p) {
  vi r;
  memcpy(r.i, p, sizeof r.i);
  return r;
}
V vi vi_set(int32_t i) {
  vi r;
  EACH r.i[k] = i;
  return r;
}
V vi vi_or(vi x, vi y) {
  EACH x.i[k] |= y.i[k];
  return x;
}
V vf vf_bits(vi v) {
  vf r;
  memcpy(&r, &v, sizeof r);
  return r;
}
V vf vf_exp2i(vf n) {
  vi r;
  EACH r.i[k] = (int32_t)((uint32_t)((int32_t)n.f[k] + 127) << 23);
  return vf_bits(r);
}
V vf vf_int(vi v) {
  vf r;
  EACH r.f[k] = (float)v.i[k];
  return r;
}
V vf vf_bf16(const uint16_t *p) {
  vi r;
  EACH r.i[k] = (int32_t)((uint32_t)p[k] << 16);
  return vf_bits(r);
}
V vi vi_low(vi v) {
  EACH v.i[k] &= 0x0f0f0f0f;
  return v;
}
V vi vi_high(vi v) {
  EACH v.i[k] = v.i[k] >> 4 & 0x0f0f0f0f;
  return v;
}
V vf vf_nibble(vi v, int i) {
  vf r;
  EACH r.f[k] = (float)((v.i[k] >> 4 * i & 15) - 8);
  return r;
}
V void vf_nibbles(vi v, int i, vf *first, vf *second) {
  *first = vf_nibble(v, i);
  *second = vf_nibble(v, i + 4);
}
V vf vf_half(vi v, int i) {
  EACH v.i[k] = i ? v.i[k] & (int32_t)0xffff0000 : (int32_t)((uint32_t)v.i[k] << 16);
  return vf_bits(v);
}
V vf vf_e4m3(vi v, int i) {
  /* Sign to bit 31; exponent and mantissa to bits 20..26, which reads as the value times 2^-120,
   * subnormal numbers included. */
  EACH {
    const uint32_t at_top = (uint32_t)v.i[k] << (24 - 8 * i);
    v.i[k] = (int32_t)((at_top >> 4 & 0x07f00000) | (at_top & 0x80000000));
  }
  return vf_bits(v);
}

typedef vi dot4, dot8;
V dot4 dot4_init(void) { return vi_set(0); }
V dot4 dot4_add(dot4 d, vi w, vi x) { /* nibbles 0..15 are positive as signed bytes too */
  int8_t a[64], b[64];
  memcpy(a, &w, 64);
  memcpy(b, &x, 64);
  EACH d.i[k] += a[4 * k] * b[4 * k] + a[4 * k + 1] * b[4 * k + 1] + a[4 * k + 2] * b[4 * k + 2] +
                 a[4 * k + 3] * b[4 * k + 3];
  return d;
}
V vi dot4_done(dot4 d, int32_t offset) {
  EACH d.i[k] += offset;
  return d;
}
V vi dot8_weight(vi w) { return w; }
V dot8 dot8_init(void) { return vi_set(0); }
V dot8 dot8_add(dot8 d, vi w, vi x) { return dot4_add(d, w, x); }
V vi dot8_done(dot8 d, int32_t sum8) {
  (void)sum8;
  return d;
}

#define KERNELS plk_kernels_portable
#define INT4_BLOCKS1 1
#define BLOCKS1 1
#define BLOCKS 1
#define INT8_ROWS 2
#define INT4_F32_ROWS 2
#define F32_ROWS 2
#define BF16_ROWS 2
#include "tiles.inc.h"
