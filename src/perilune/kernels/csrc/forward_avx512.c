/* The forward's inner loops in AVX-512 without bfloat16 products. */
#define LANES 16
#include "norm_template.h"
#include "attention_template.h"

const plk_forward_kernels plk_forward_kernels_avx512 = {
    EXACT_BF16_PAGE, EXACT_BF16_PAGE, EXACT_F32_PAGE, rms_norm,
    add,             store_bf16,      store_f32,      blend, widen_row,
};
