/* The bytes that a step had to read, each weight once, for plk_profile. */
#ifndef PERILUNE_FORWARD_BYTES_H
#define PERILUNE_FORWARD_BYTES_H

#include "forward.h"

/* Adds those of the experts that a layer's rows chose. */
void plk_count_experts(const plk_network *network, const plk_layer *layer, const int32_t *indices,
                       int64_t n_rows, plk_profile *profile);
/* Adds everything else. */
void plk_count_bytes(const plk_network *network, const plk_layer *layers, const plk_step *step,
                     plk_profile *profile);

#endif
