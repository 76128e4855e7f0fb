/* The forward's inner loops in plain vectors of four: any processor (SSE2, NEON, ...). */
#define LANES 4
#include "norm_template.h"
#include "attention_template.h"

const plk_forward_kernels plk_forward_kernels_portable = {
    EXACT_BF16_PAGE, EXACT_BF16_PAGE, EXACT_F32_PAGE, rms_norm,
    add,             store_bf16,      store_f32,      blend, widen_row,
};
