/* The vision tower's inner loops in vectors of 16. */
#define LANES 16
#pragma GCC diagnostic ignored "-Wunused-function"
#include "norm_template.h"
#include "vision_template.h"

const plk_vision_kernels plk_vision_kernels_avx512 = VISION_KERNELS;
