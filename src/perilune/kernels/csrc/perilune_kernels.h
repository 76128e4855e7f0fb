/* The C interface of Perilune's CPU kernels: everything that Python, or another source here, calls.
 *
 * Vocabulary
 *   matrix      weights of y = W x, W [out_features, in_features], in the native layout (below)
 *   form        how activations are fed: float32 (exact), bfloat16, or int8 in groups of 32
 *   prepared    activations brought into a form, one record a row
 *   tile        16 output rows of a matrix times a few activation rows, all of in_features
 *   whole op    plk_NAME(): may be called from any thread, runs on the pool
 *   part        plk_NAME_part(..., thread, n_threads): the share of one thread; call it from all
 *               threads of one plk_parallel_region (or once with thread 0 of 1)
 *
 * Native layout: the row-major matrix seen as 32-bit words (8 int4, 4 int8 or fp8, 2 bf16, 1 f32),
 * every 16 rows transposed, so that one vector load holds the same word of 16 output rows:
 * word[block][w][lane] = row_major[16 * block + lane][w]. The last out_features % 16 rows form a
 * narrower block of the same kind. Group scales (int4, int8) are transposed alike:
 * scale[block][group][lane], bfloat16. It is a permutation of the stored bits: lossless, in place.
 *
 * Arithmetic: each output element is computed by the same operations in the same order whatever
 * the number of rows, threads or experts around it. Rows never mix.
 *
 * Pointers are plain addresses; weights want 64-byte alignment for speed, not for correctness.
 */
#ifndef PERILUNE_KERNELS_H
#define PERILUNE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "thread_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PLK_API __attribute__((visibility("default")))
#define PLK_ABI_VERSION 2
#define PLK_BLOCK 16 /* output rows of a block */
#define PLK_GROUP 32 /* inputs that share one scale, int4 and int8 */

/* ---- Errors: functions that can fail return one of these; 0 is success. ---- */
enum {
  PLK_OK = 0,
  PLK_BAD_SHAPE = -1,
  PLK_BAD_FORMAT = -2,
  PLK_BAD_INDEX = -3,
  PLK_NO_MEMORY = -4,
  PLK_NO_EXPERT = -5 /* the weights of a chosen expert are not in memory */
};

/* ---- Instruction sets: chosen once at load, by CPUID or PERILUNE_ISA. ---- */
PLK_API int plk_abi_version(void);
/* Name of the chosen set: "avx512bf16", "avx512", "avxvnni", "avx2", "neon" or "portable". */
PLK_API const char *plk_isa(void);
/* The sets that were compiled in and that this processor has, best first, comma-separated. */
PLK_API const char *plk_isa_available(void);
/* Force a set by its name; PLK_BAD_FORMAT if it is not available. PERILUNE_ISA does the same at the
 * first use. Not to be called while an operation runs. */
PLK_API int plk_isa_select(const char *name);

/* ---- Matrices ---- */
typedef enum {
  PLK_F32 = 0,
  PLK_BF16 = 1,
  PLK_FP8 = 2,  /* e4m3fn; scale: float32 [ceil(out/128), ceil(in/128)], row-major */
  PLK_INT8 = 3, /* -127..127; scale: bfloat16 [blocks][in/32][16]; see plk_quantize_int8 */
  PLK_INT4 = 4, /* nibble q + 8, q in -8..7; scale: bfloat16 [blocks][in/32][16] */
} plk_format;

typedef struct {
  int32_t format; /* plk_format */
  int32_t reserved;
  int64_t out_features;
  int64_t in_features; /* multiple of 32 */
  const void *weight;  /* native layout */
  const void *scale;   /* NULL for F32 and BF16 */
} plk_matrix;

/* Row-major <-> native layout, in place. `words_per_row`: 32-bit words of a row (in/8 for int4).
 * Uses 16 rows of temporary memory. Runs on the pool. */
PLK_API int plk_interleave(void *words, int64_t rows, int64_t words_per_row);
PLK_API int plk_deinterleave(void *words, int64_t rows, int64_t words_per_row);
/* The same for 16-bit group scales. */
PLK_API int plk_interleave_scale(void *scale, int64_t rows, int64_t groups);
PLK_API int plk_deinterleave_scale(void *scale, int64_t rows, int64_t groups);
/* Row-major bf16 -> int8 in native layout: weight int8 [out, in], scale bf16 [out, in/32]. */
PLK_API int plk_quantize_int8(const uint16_t *bf16, int64_t rows, int64_t in_features,
                              int8_t *weight, uint16_t *scale);
/* Number of NaN codes (0x7f, 0xff) among e4m3fn bytes; the kernels take such weights as 480. */
PLK_API int64_t plk_fp8_count_nan(const uint8_t *bytes, int64_t n);

/* ---- Activations ---- */
typedef enum {
  PLK_X_F32 = 0,
  PLK_X_BF16 = 1, /* rounded to nearest even, pairs in memory order */
  PLK_X_INT8 = 2, /* groups of 32: plk_int8_group each */
} plk_form;

/* Bytes 8b+{0,2,4,6} then 8b+{1,3,5,7} for b = 0..3: the order in which the nibbles of four words
 * come apart. scale = absmax / 127 (NaN if any input of the group is not finite). */
typedef struct {
  int8_t q[PLK_GROUP];
  float scale;
  int32_t sum8; /* 8 * sum(q) */
} plk_int8_group;

/* The form that this processor computes fastest for a format; float32 where `exact` (int8 weights
 * always take int8 activations). */
PLK_API int plk_form_for(int format, int exact);
PLK_API int64_t plk_prepared_bytes(int form, int64_t in_features); /* one row */
/* rows of float32 (stride in elements) -> prepared, contiguous. Thread `thread` does its share. */
PLK_API void plk_prepare_part(int form, const float *x, int64_t x_stride, int64_t rows,
                              int64_t in_features, void *prepared, int thread, int n_threads);

/* ---- Linear: y[r, o] = sum_i W[o, i] x[r, i], float32 out ---- */
/* `prepared`: rows `prepared_stride` bytes apart (for PLK_X_F32 plain float rows serve as they
 * are). Thread `thread` writes its own contiguous range of output blocks; no barrier inside. */
PLK_API void plk_linear_part(const plk_matrix *matrix, int form, const void *prepared,
                             int64_t prepared_stride, int64_t rows, float *y, int64_t y_stride,
                             int thread, int n_threads);
/* Output rows [*first, *end) that plk_linear_part writes in thread `thread`. */
PLK_API void plk_linear_range(int64_t out_features, int thread, int n_threads, int64_t *first,
                              int64_t *end);
PLK_API int plk_linear(const plk_matrix *matrix, const float *x, int64_t x_stride, int64_t rows,
                       float *y, int64_t y_stride, int exact);

/* ---- Routed experts: y[t] = sum_k weights[t,k] * down(silu(gate x) * up x), e = indices[t,k] ----
 * gate, up [intermediate, hidden], down [hidden, intermediate] of each expert in native layout;
 * hidden and intermediate multiples of 32. Every expert has its own pointers, so each may lie
 * anywhere. The sum over k runs in ascending expert number. An expert named twice by one token
 * counts twice. */
typedef struct {
  const void *gate, *up, *down;
  const void *gate_scale, *up_scale, *down_scale; /* NULL for F32 and BF16 */
} plk_expert;

typedef struct {
  int32_t format; /* plk_format of all matrices */
  int32_t reserved;
  int64_t n_experts, hidden, intermediate;
  const plk_expert *table; /* [n_experts], the caller's: read anew by every call */
} plk_experts;

/* Whether all pointers of one expert are there. */
PLK_API int plk_expert_present(const plk_experts *experts, int64_t expert);

PLK_API int64_t plk_experts_workspace(const plk_experts *experts, int64_t tokens, int64_t top_k,
                                      int form);
/* For all threads of one region. x must be complete on entry (barrier before), y is complete
 * after the caller's next barrier; two barriers inside. workspace: 64-byte aligned, of
 * plk_experts_workspace() bytes, not in use by another call. indices outside 0..E-1 are left out. */
PLK_API void plk_experts_part(const plk_experts *experts, int form, const float *x,
                              int64_t x_stride, int64_t tokens, const int32_t *indices,
                              const float *weights, int64_t top_k, float *y, int64_t y_stride,
                              void *workspace, int thread, int n_threads);
/* Whole op; checks shapes, indices (PLK_BAD_INDEX) and pointers (PLK_NO_EXPERT), takes its workspace
 * from the heap. */
PLK_API int plk_experts_forward(const plk_experts *experts, const float *x, int64_t x_stride,
                                int64_t tokens, const int32_t *indices, const float *weights,
                                int64_t top_k, float *y, int64_t y_stride, int exact);

/* ---- Memory ---- */
/* Ask for 2 MiB pages under [address, address + bytes); now, where the kernel can. Best effort. */
PLK_API void plk_advise_huge_pages(void *address, int64_t bytes);
/* Read all of the buffer once with the widest loads on all threads; returns seconds. */
PLK_API double plk_stream_read(const void *address, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
