/* Rotary position embedding on interleaved pairs, tables made once per step. */
#ifndef PERILUNE_ROPE_H
#define PERILUNE_ROPE_H

#include <stdint.h>

/* cos and sin of position * frequency, times `scale`: [2][pairs]. The angle is rounded to float32,
 * as in the published models: at 100,000 tokens that rounding is a visible part of the angle. */
void plk_rope_table(int32_t position, const float *frequencies, int pairs, float scale,
                    float *table);
/* Turn the pairs (2i, 2i + 1) of x into out. out may be x. */
void plk_rope_rotate(const float *x, const float *table, int pairs, float *out);

#endif
