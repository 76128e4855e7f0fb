/* Every instruction set of this build against the portable one, from C, so that it also runs where
 * Python does not: under sanitizers (buffers are of exact size) and under an emulator.
 * Prints what differs; exits with the number of failures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perilune_kernels.h"

static int failures;
static uint64_t state = 88172645463325252ull;

static uint32_t random_bits(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 16);
}
static float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static void *filled(size_t bytes, int kind) { /* kind: plk_format, or -1 for bf16 scales */
  char *p = malloc(bytes ? bytes : 1);
  for (size_t i = 0; i < bytes; i++) p[i] = (char)random_bits();
  if (kind == PLK_F32)
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
      const float f = random_float();
      memcpy(p + i, &f, 4);
    }
  if (kind == PLK_BF16 || kind == -1)
    for (size_t i = 0; i + 2 <= bytes; i += 2) {
      const float f = kind == -1 ? 0.01f + 0.01f * fabsf(random_float()) : random_float();
      memcpy(p + i, (const char *)&f + 2, 2);
    }
  if (kind == PLK_FP8)
    for (size_t i = 0; i < bytes; i++) p[i] &= (char)0xbf; /* no NaN */
  if (kind == PLK_INT8)
    for (size_t i = 0; i < bytes; i++)
      if ((int8_t)p[i] == -128) p[i] = 127;
  return p;
}

static void expect_close(const float *a, const float *b, int64_t n, float tolerance,
                         const char *what, int format, int exact) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    size += (double)b[i] * b[i];
  }
  if (!(sqrt(difference) <= tolerance * sqrt(size))) {
    printf("%s %s: format %d exact %d: error %g\n", plk_isa(), what, format, exact,
           sqrt(difference / size));
    failures++;
  }
}

static const int64_t BYTES_OF_8[5] = {32, 16, 8, 8, 4}; /* of 8 weights */

static void check_linear(int format, int64_t out, int64_t in, int64_t rows, int exact,
                         const char *isa) {
  void *weight = filled((size_t)(out * in / 8 * BYTES_OF_8[format]), format);
  void *scale = format == PLK_FP8
                    ? filled((size_t)((out + 127) / 128 * ((in + 127) / 128) * 4), PLK_F32)
                    : filled((size_t)(out * in / 32 * 2), -1);
  float *x = filled((size_t)(rows * in * 4), PLK_F32);
  float *y = malloc((size_t)(rows * out * 4)), *y1 = malloc((size_t)(out * 4));
  float *expected = malloc((size_t)(rows * out * 4));
  const plk_matrix m = {format, 0, out, in, weight, scale};
  /* The portable set has no bfloat16 products: round the inputs for both. */
  if (format == PLK_BF16)
    for (int64_t i = 0; i < rows * in; i++) {
      uint32_t bits;
      memcpy(&bits, x + i, 4);
      bits &= 0xffff0000;
      memcpy(x + i, &bits, 4);
    }
  plk_isa_select("portable");
  failures += plk_linear(&m, x, in, rows, expected, out, exact) != PLK_OK;
  plk_isa_select(isa);
  failures += plk_linear(&m, x, in, rows, y, out, exact) != PLK_OK;
  expect_close(y, expected, rows * out, 2e-6f, "linear", format, exact);
  for (int64_t r = 0; r < rows; r++) {
    plk_linear(&m, x + r * in, in, 1, y1, out, exact);
    if (memcmp(y1, y + r * out, (size_t)(out * 4))) {
      printf("%s linear: format %d exact %d: row %d differs alone\n", isa, format, exact, (int)r);
      failures++;
      break;
    }
  }
  free(weight), free(scale), free(x), free(y), free(y1), free(expected);
}

static void check_experts(int format, int64_t tokens, int exact, const char *isa) {
  enum { E = 5, D = 96, F = 160, K = 3 };
  void *weights[3], *scales[3];
  for (int i = 0; i < 3; i++) {
    weights[i] = filled((size_t)(E * D * F / 8 * BYTES_OF_8[format]), format);
    scales[i] = format == PLK_FP8 ? filled(E * 2 * 2 * 4, PLK_F32) : filled(E * D * F / 32 * 2, -1);
  }
  const int64_t bytes = D * F / 8 * BYTES_OF_8[format];
  const int64_t scale_bytes = format == PLK_FP8 ? 2 * 2 * 4 : D * F / 32 * 2;
  plk_expert table[E];
  for (int e = 0; e < E; e++)
    table[e] = (plk_expert){
        (char *)weights[0] + e * bytes,       (char *)weights[1] + e * bytes,
        (char *)weights[2] + e * bytes,       (char *)scales[0] + e * scale_bytes,
        (char *)scales[1] + e * scale_bytes,  (char *)scales[2] + e * scale_bytes,
    };
  const plk_experts experts = {format, 0, E, D, F, table};
  float *x = filled((size_t)(tokens * D * 4), PLK_F32);
  float *w = filled((size_t)(tokens * K * 4), PLK_F32);
  int32_t *indices = malloc((size_t)(tokens * K * 4));
  for (int64_t i = 0; i < tokens * K; i++) indices[i] = (int32_t)(random_bits() % E);
  float *y = malloc((size_t)(tokens * D * 4)), *expected = malloc((size_t)(tokens * D * 4));
  plk_isa_select("portable");
  failures +=
      plk_experts_forward(&experts, x, D, tokens, indices, w, K, expected, D, exact) != PLK_OK;
  plk_isa_select(isa);
  failures += plk_experts_forward(&experts, x, D, tokens, indices, w, K, y, D, exact) != PLK_OK;
  /* A rounding tie of an intermediate value may fall either way; bfloat16 sets round activations. */
  expect_close(y, expected, tokens * D, exact ? 1e-5f : 2e-2f, "experts", format, exact);
  for (int64_t t = 0; t < tokens; t++) {
    float alone[D];
    plk_experts_forward(&experts, x + t * D, D, 1, indices + t * K, w + t * K, K, alone, D, exact);
    if (memcmp(alone, y + t * D, sizeof alone)) {
      printf("%s experts: format %d exact %d: token %d differs alone\n", isa, format, exact, (int)t);
      failures++;
      break;
    }
  }
  for (int i = 0; i < 3; i++) free(weights[i]), free(scales[i]);
  free(x), free(w), free(indices), free(y), free(expected);
}

int main(void) {
  char sets[96];
  snprintf(sets, sizeof sets, "%s", plk_isa_available());
  for (char *isa = strtok(sets, ","); isa; isa = strtok(NULL, ",")) {
    for (int format = PLK_F32; format <= PLK_INT4; format++)
      for (int exact = 0; exact < 2; exact++) {
        check_linear(format, 16, 32, 1, exact, isa);
        check_linear(format, 7, 64, 9, exact, isa);
        check_linear(format, 83, 160, 14, exact, isa);
        check_linear(format, 150, 288, 5, exact, isa);
        if (format == PLK_INT8) continue;
        check_experts(format, 1, exact, isa);
        check_experts(format, 17, exact, isa);
      }
    printf("%s checked, %d failures\n", isa, failures);
  }
  int32_t words[21 * 5], copy[21 * 5];
  for (int i = 0; i < 21 * 5; i++) words[i] = copy[i] = (int32_t)random_bits();
  plk_interleave(words, 21, 5);
  plk_deinterleave(words, 21, 5);
  failures += memcmp(words, copy, sizeof words) != 0;
  return failures > 100 ? 100 : failures;
}
