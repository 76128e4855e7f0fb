/* What the phases of a step share: the step, its plan, and the few things that each phase does. */
#ifndef PERILUNE_FORWARD_RUN_H
#define PERILUNE_FORWARD_RUN_H

#include <time.h>

#include "forward.h"
#include "forward_kernels.h"
#include "forward_plan.h"
#include "isa.h"

struct plk_model {
  plk_network network;
  plk_layer *layers;
  plk_expert_store *stores; /* [layers]; without acquire: none */
  int lacks_experts;        /* in a layer without a store */
  float *frequencies;
  char *arena;
  int64_t arena_bytes;
  const void *cache; /* the last one */
};

/* One step; every thread has its own copy. */
typedef struct {
  plk_model *model;
  const plk_network *net;
  const plk_step *step;
  const plk_forward_kernels *ops;
  const plk_page_kernels *pages;
  const plk_kernels *kernels;
  plk_plan plan;
  float *logits;
  plk_profile *profile;
  int *status; /* shared: what ended the step, else PLK_OK */
  struct timespec mark;
  int n_threads;
  int64_t page_bytes, layer_bytes; /* of the cache */
} plk_run;

/* Activations of some rows in the forms that the matrices of a phase want. */
typedef struct {
  const float *f32;
  int64_t f32_stride; /* elements */
  const char *form[3];
  int64_t stride[3]; /* bytes */
} plk_activations;

static inline int plk_run_form(const plk_run *r, const plk_matrix *m) {
  return plk_form_for(m->format, r->net->exact);
}

/* A head's matrix, of those that lie `stride` bytes apart. */
static inline plk_matrix plk_run_of_head(const plk_matrix *m, int64_t stride, int64_t scale_stride,
                                         int head) {
  plk_matrix out = *m;
  out.weight = (const char *)m->weight + head * stride;
  if (m->scale) out.scale = (const char *)m->scale + head * scale_stride;
  return out;
}

/* Rows of float32 as a matrix of `form` wants them: themselves, or prepared into `buffer`.
 * *stride: bytes between them. */
static inline const void *plk_run_prepared(int form, const float *x, int64_t x_stride, int n,
                                           int width, void *buffer, int64_t *stride) {
  *stride = x_stride * (int64_t)sizeof *x;
  if (form == PLK_X_F32) return x;
  *stride = plk_prepared_bytes(form, width);
  plk_prepare_part(form, x, x_stride, n, width, buffer, 0, 1);
  return buffer;
}

/* Thread 0 takes the time at the end of each phase. */
void plk_run_phase_end(plk_run *r, int thread, int phase);

/* Rows of x (those of `index`, or all in order), normed where `norm` is given, in the forms of the
 * bit mask `forms`. Ends with a barrier where the rows are many; `slot` 0 or 1 names the buffer. */
plk_activations plk_run_activate(plk_run *r, int thread, int slot, const float *x, int64_t stride,
                                 const int32_t *index, int64_t n_rows, int64_t width,
                                 const float *norm, float eps, unsigned forms);
/* This thread's outputs of y = W x. */
void plk_run_linear(plk_run *r, int thread, const plk_matrix *m, const plk_activations *a,
                    int64_t n_rows, float *y, int64_t y_stride);
/* residual stream[:, outputs of this thread] += y */
void plk_run_add_own_columns(plk_run *r, int thread, const float *y, int64_t n_rows);

/* The halves of a layer. All end with a barrier. plk_run_experts: 0, or in every thread what ended
 * the step. */
void plk_run_attention(plk_run *r, int thread, int layer);
void plk_run_dense(plk_run *r, int thread, int layer);
int plk_run_experts(plk_run *r, int thread, int layer);

#endif
