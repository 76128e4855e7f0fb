/* Attention in the expanded form, for rows of prompts (see forward_expanded.c). */
#ifndef PERILUNE_FORWARD_EXPANDED_H
#define PERILUNE_FORWARD_EXPANDED_H

#include "forward_run.h"

/* Bytes that a thread needs. */
int64_t plk_expanded_workspace(const plk_network *network);
/* The layer's rows that attend in this form -> plan.o. Ends without a barrier. `cache`: of the
 * layer. */
void plk_run_expanded(plk_run *r, int thread, int layer, const char *cache);

#endif
