/* The vision tower's inner loops in vectors of 4. */
#define LANES 4
#pragma GCC diagnostic ignored "-Wunused-function"
#include "norm_template.h"
#include "vision_template.h"

const plk_vision_kernels plk_vision_kernels_portable = VISION_KERNELS;
