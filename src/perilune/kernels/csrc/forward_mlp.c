/* The feed-forward of one layer: dense, or router, shared and routed experts. */
#include "forward_bytes.h"
#include "forward_run.h"
#include "router.h"

/* silu(gate) * up into plan.gate, the thread's own columns. */
static void gate_and_up(plk_run *r, int thread, const plk_layer *layer, const plk_activations *a) {
  const int64_t width = layer->gate.out_features, n_rows = r->step->n_rows;
  plk_run_linear(r, thread, &layer->gate, a, n_rows, r->plan.gate, width);
  plk_run_linear(r, thread, &layer->up, a, n_rows, r->plan.up, width);
  int64_t first, end;
  plk_linear_range(width, thread, r->n_threads, &first, &end);
  for (int64_t i = 0; i < n_rows; i++) {
    float *gate = r->plan.gate + i * width + first;
    r->kernels->swiglu(gate, r->plan.up + i * width + first, gate, end - first);
  }
}

static void down(plk_run *r, int thread, const plk_layer *layer) {
  const int64_t width = layer->gate.out_features, n_rows = r->step->n_rows;
  const plk_activations h = plk_run_activate(r, thread, 1, r->plan.gate, width, NULL, n_rows, width,
                                             NULL, 0.0f, 1u << plk_run_form(r, &layer->down));
  plk_run_linear(r, thread, &layer->down, &h, n_rows, r->plan.y, r->net->hidden);
}

void plk_run_dense(plk_run *r, int thread, int index) {
  const plk_network *net = r->net;
  const plk_layer *layer = &r->model->layers[index];
  const plk_activations a =
      plk_run_activate(r, thread, 0, r->plan.x, net->hidden, NULL, r->step->n_rows, net->hidden,
                       layer->post_attention_norm, net->norm_eps,
                       1u << plk_run_form(r, &layer->gate));
  gate_and_up(r, thread, layer, &a);
  plk_barrier();
  down(r, thread, layer);
  plk_run_add_own_columns(r, thread, r->plan.y, r->step->n_rows);
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_MLP);
}

/* Have the chosen experts brought into memory. Returns the same in every thread. */
static int acquire(plk_run *r, int thread, int index, const int32_t *indices) {
  const plk_expert_store *store = &r->model->stores[index];
  const plk_experts *experts = &r->model->layers[index].experts;
  if (thread == 0) {
    const int64_t n_rows = r->step->n_rows, top_k = r->net->top_k;
    int status = store->acquire(store->context, index, n_rows, top_k, indices) ? PLK_NO_EXPERT
                                                                              : PLK_OK;
    for (int64_t i = 0; i < n_rows * top_k && !status; i++)
      if (!plk_expert_present(experts, indices[i])) status = PLK_NO_EXPERT;
    *r->status = status;
  }
  plk_barrier();
  return *r->status;
}

int plk_run_experts(plk_run *r, int thread, int index) {
  const plk_network *net = r->net;
  const plk_layer *layer = &r->model->layers[index];
  const int64_t n_rows = r->step->n_rows;
  const int shared = layer->gate.out_features > 0;
  const unsigned forms = 1u << PLK_X_F32 | (shared ? 1u << plk_run_form(r, &layer->gate) : 0u);
  const plk_activations a =
      plk_run_activate(r, thread, 0, r->plan.x, net->hidden, NULL, n_rows, net->hidden,
                       layer->post_attention_norm, net->norm_eps, forms);
  /* The router is float32 in every mode: a rounded score would choose another expert. */
  plk_linear_part(&layer->router, PLK_X_F32, a.form[PLK_X_F32], a.stride[PLK_X_F32], n_rows,
                  r->plan.router_logits, net->n_experts, thread, r->n_threads);
  if (shared) gate_and_up(r, thread, layer, &a);
  plk_barrier();

  const int few = n_rows <= PLK_FEW_ROWS;
  int32_t *indices = few ? r->plan.threads[thread].indices : r->plan.indices;
  float *weights = few ? r->plan.threads[thread].weights : r->plan.weights;
  const plk_router router = {net->n_experts,  net->top_k,           net->n_group,
                             net->topk_group, net->normalise_top_k, net->routed_scaling};
  int64_t first = 0, end = n_rows;
  if (!few) plk_share(n_rows, thread, r->n_threads, &first, &end);
  for (int64_t i = first; i < end; i++)
    plk_router_choose(&router, r->plan.router_logits + i * net->n_experts, layer->router_bias,
                      indices + i * net->top_k, weights + i * net->top_k);
  if (!few) plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_ROUTE);

  const plk_expert_store *store = &r->model->stores[index];
  if (store->acquire && acquire(r, thread, index, indices)) return *r->status;
  plk_experts_part(&layer->experts, plk_form_for(layer->experts.format, net->exact), a.f32,
                   a.f32_stride, n_rows, indices, weights, net->top_k, r->plan.expert_sum,
                   net->hidden, r->plan.experts, thread, r->n_threads);
  if (r->profile && thread == 0)
    plk_count_experts(net, layer, indices, n_rows, r->profile);
  plk_run_phase_end(r, thread, PLK_PHASE_EXPERTS);

  if (shared) down(r, thread, layer);
  plk_barrier();
  if (store->release && thread == 0) store->release(store->context, index);
  plk_run_add_own_columns(r, thread, r->plan.expert_sum, n_rows);
  if (shared) plk_run_add_own_columns(r, thread, r->plan.y, n_rows);
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_SHARED);
  return PLK_OK;
}
