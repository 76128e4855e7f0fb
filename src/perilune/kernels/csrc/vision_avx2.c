/* The vision tower's inner loops in vectors of 8. */
#define LANES 8
#pragma GCC diagnostic ignored "-Wunused-function"
#include "norm_template.h"
#include "vision_template.h"

const plk_vision_kernels plk_vision_kernels_avx2 = VISION_KERNELS;
