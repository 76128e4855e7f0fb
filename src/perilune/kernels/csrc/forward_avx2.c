/* The forward's inner loops in AVX2 and FMA. */
#define LANES 8
#include "norm_template.h"
#include "attention_template.h"

const plk_forward_kernels plk_forward_kernels_avx2 = {
    EXACT_BF16_PAGE, EXACT_BF16_PAGE, EXACT_F32_PAGE, rms_norm,
    add,             store_bf16,      store_f32,      blend, widen_row,
};
