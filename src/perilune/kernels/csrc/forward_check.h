/* What a network and a step must be before anything is computed: sizes that fit, indices in range. */
#ifndef PERILUNE_FORWARD_CHECK_H
#define PERILUNE_FORWARD_CHECK_H

#include "forward_run.h"

/* PLK_OK, or what is wrong. */
int plk_check_network(const plk_network *network, const plk_layer *layers);
int plk_check_step(const plk_network *network, const plk_layer *layers, const plk_step *step);
/* Whether an expert of a layer without a store has no weights. */
int plk_check_lacks_experts(const plk_model *model);

#endif
