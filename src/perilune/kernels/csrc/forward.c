/* One step of the network (see forward.h), phase by phase inside one parallel region.
 *
 * Work is cut by output columns where weights are streamed, by heads in attention. What a few rows
 * need as input (norms, prepared activations) every thread computes for itself: that is cheaper
 * than a barrier. For many rows the threads share it.
 */
#define _GNU_SOURCE
#include "forward.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "forward_bytes.h"
#include "forward_check.h"
#include "forward_run.h"
#include "rope.h"

/* ---- What phases share ---- */
static double seconds_since(struct timespec *mark) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const double s =
      (double)(now.tv_sec - mark->tv_sec) + 1e-9 * (double)(now.tv_nsec - mark->tv_nsec);
  *mark = now;
  return s;
}
void plk_run_phase_end(plk_run *r, int thread, int phase) {
  if (r->profile && thread == 0) r->profile->seconds[phase] += seconds_since(&r->mark);
}

plk_activations plk_run_activate(plk_run *r, int thread, int slot, const float *x, int64_t stride,
                                 const int32_t *index, int64_t n_rows, int64_t width,
                                 const float *norm, float eps, unsigned forms) {
  const int few = n_rows <= PLK_FEW_ROWS;
  const plk_plan_slot *s = few ? &r->plan.threads[thread].slot[slot] : &r->plan.slot[slot];
  int64_t first = 0, end = n_rows;
  if (!few) plk_share(n_rows, thread, r->n_threads, &first, &end);
  if (norm) {
    for (int64_t i = first; i < end; i++)
      r->ops->rms_norm(x + (index ? index[i] : i) * stride, norm, eps, width, s->f32 + i * width);
    x = s->f32;
    stride = width;
  }
  plk_activations a = {.f32 = x, .f32_stride = stride};
  for (int form = 0; form < 3; form++) {
    if (!(forms >> form & 1)) continue;
    if (form == PLK_X_F32) {
      a.form[form] = (const char *)x;
      a.stride[form] = stride * (int64_t)sizeof(float);
      continue;
    }
    char *out = form == PLK_X_BF16 ? s->bf16 : s->int8;
    a.form[form] = out;
    a.stride[form] = plk_prepared_bytes(form, width);
    plk_prepare_part(form, x + first * stride, stride, end - first, width,
                     out + first * a.stride[form], 0, 1);
  }
  if (!few) plk_barrier();
  return a;
}

void plk_run_linear(plk_run *r, int thread, const plk_matrix *m, const plk_activations *a,
                    int64_t n_rows, float *y, int64_t y_stride) {
  const int form = plk_run_form(r, m);
  plk_linear_part(m, form, a->form[form], a->stride[form], n_rows, y, y_stride, thread,
                  r->n_threads);
}

void plk_run_add_own_columns(plk_run *r, int thread, const float *y, int64_t n_rows) {
  int64_t first, end;
  plk_linear_range(r->net->hidden, thread, r->n_threads, &first, &end);
  for (int64_t i = 0; i < n_rows; i++)
    r->ops->add(r->plan.x + i * r->net->hidden + first, y + i * r->net->hidden + first,
                end - first);
}

/* ---- Embedding and rotation tables ---- */
/* Values of a format that is stored in rows -> float32. */
static void widen_row(int format, const void *rows, int64_t row, int64_t n, float *x) {
  if (format == PLK_F32) {
    memcpy(x, (const float *)rows + row * n, (size_t)n * sizeof *x);
    return;
  }
  const uint16_t *narrow = (const uint16_t *)rows + row * n;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = (uint32_t)narrow[i] << 16;
    memcpy(x + i, &bits, sizeof bits);
  }
}

static void embed_row(const plk_network *net, int64_t id, float *x) {
  const int64_t n = net->hidden;
  if (!net->embed_native) {
    widen_row(net->embed_format, net->embed, id, n, x);
    return;
  }
  const int64_t words = net->embed_format == PLK_F32 ? n : n / 2;
  const int64_t block = id / PLK_BLOCK, left = net->vocabulary - block * PLK_BLOCK;
  const int64_t lanes = left < PLK_BLOCK ? left : PLK_BLOCK;
  const uint32_t *word =
      (const uint32_t *)net->embed + block * PLK_BLOCK * words + id % PLK_BLOCK;
  for (int64_t w = 0; w < words; w++, word += lanes) {
    if (net->embed_format == PLK_F32) {
      memcpy(x + w, word, sizeof *x);
    } else {
      const uint32_t two[2] = {*word << 16, *word & 0xffff0000u};
      memcpy(x + 2 * w, two, sizeof two);
    }
  }
}

static void begin(plk_run *r, int thread) {
  const plk_step *step = r->step;
  int64_t first, end;
  int vector = 0; /* the next row that is given as one */
  plk_share(step->n_rows, thread, r->n_threads, &first, &end);
  while (vector < step->n_vectors && step->vector_rows[vector] < first) vector++;
  for (int64_t i = first; i < end; i++) {
    float *x = r->plan.x + i * r->net->hidden;
    if (vector < step->n_vectors && step->vector_rows[vector] == i)
      widen_row(step->vector_format, step->vectors, vector++, r->net->hidden, x);
    else
      embed_row(r->net, step->input_ids[i], x);
    plk_rope_table(step->positions[i], r->model->frequencies, r->net->rope_dim / 2,
                   r->net->rope_scale, r->plan.rotation + i * r->net->rope_dim);
  }
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_EMBED);
}

static void forward_region(void *context, int thread, int n_threads) {
  plk_run own = *(const plk_run *)context;
  plk_run *r = &own;
  r->n_threads = n_threads;
  const plk_network *net = r->net;
  begin(r, thread);
  for (int index = 0; index < net->n_layers; index++) {
    plk_run_attention(r, thread, index);
    if (!r->model->layers[index].experts.n_experts)
      plk_run_dense(r, thread, index);
    else if (plk_run_experts(r, thread, index))
      return;
  }
  const int64_t n = r->step->n_logits;
  if (n) {
    const plk_activations a =
        plk_run_activate(r, thread, 0, r->plan.x, net->hidden, r->step->logits_rows, n, net->hidden,
                 net->final_norm, net->norm_eps, 1u << plk_run_form(r, &net->head));
    plk_run_linear(r, thread, &net->head, &a, n, r->logits, net->vocabulary);
  }
  plk_barrier();
  plk_run_phase_end(r, thread, PLK_PHASE_HEAD);
}

/* ---- The interface ---- */
int plk_forward_abi_version(void) { return PLK_FORWARD_ABI_VERSION; }

int plk_model_create(const plk_network *network, const plk_layer *layers, plk_model **model) {
  *model = NULL;
  const int bad = plk_check_network(network, layers);
  if (bad) return bad;
  plk_model *m = calloc(1, sizeof *m);
  if (!m) return PLK_NO_MEMORY;
  const size_t pairs = (size_t)network->rope_dim / 2;
  m->network = *network;
  m->layers = malloc((size_t)network->n_layers * sizeof *layers);
  m->stores = calloc((size_t)network->n_layers, sizeof *m->stores);
  m->frequencies = malloc(pairs * sizeof(float));
  if (!m->layers || !m->stores || !m->frequencies) {
    plk_model_free(m);
    return PLK_NO_MEMORY;
  }
  memcpy(m->layers, layers, (size_t)network->n_layers * sizeof *layers);
  memcpy(m->frequencies, network->rope_frequencies, pairs * sizeof(float));
  m->lacks_experts = plk_check_lacks_experts(m);
  *model = m;
  return PLK_OK;
}

int plk_model_set_expert_store(plk_model *model, int32_t layer, const plk_expert_store *store) {
  if (layer < 0 || layer >= model->network.n_layers || !model->layers[layer].experts.n_experts)
    return PLK_BAD_INDEX;
  model->stores[layer] = store ? *store : (plk_expert_store){0};
  model->lacks_experts = plk_check_lacks_experts(model);
  return PLK_OK;
}

void plk_model_free(plk_model *model) {
  if (!model) return;
  free(model->layers);
  free(model->stores);
  free(model->frequencies);
  free(model->arena);
  free(model);
}

/* Large pages for the cache as it is first touched; never touches it itself. */
static void meet_cache(plk_model *model, void *cache, int64_t bytes) {
  if (model->cache == cache) return;
  model->cache = cache;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t start = ((uintptr_t)cache + page - 1) / page * page;
  const uintptr_t end = ((uintptr_t)cache + (uintptr_t)bytes) / page * page;
  if (end > start) (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
  (void)bytes;
#endif
}

int plk_model_forward(plk_model *model, const plk_step *step, float *logits,
                      plk_profile *profile) {
  const plk_network *net = &model->network;
  if (profile) memset(profile, 0, sizeof *profile);
  const int bad = plk_check_step(net, model->layers, step);
  if (bad) return bad;
  if (!step->n_rows) return PLK_OK;
  if (model->lacks_experts) return PLK_NO_EXPERT;
  int status = PLK_OK;
  const plk_forward_kernels *ops = plk_forward_kernels_select();
  const int all = plk_threads(), most = step->most_threads;
  const int element = step->cache_format == PLK_F32 ? 4 : 2;
  plk_run r = {
      .model = model,
      .net = net,
      .step = step,
      .ops = ops,
      .pages = step->cache_format == PLK_F32 ? &ops->f32_page
               : net->exact                  ? &ops->bf16_page_exact
                                             : &ops->bf16_page,
      .kernels = plk_kernels_current(),
      .logits = logits,
      .profile = profile,
      .status = &status,
      .n_threads = most > 0 && most < all ? most : all,
      .page_bytes = (int64_t)PLK_PAGE_TOKENS * (net->kv_rank + net->rope_dim) * element,
  };
  r.layer_bytes = r.page_bytes * step->n_pages;
  meet_cache(model, step->cache, r.layer_bytes * net->n_layers);
  const int64_t bytes = plk_plan_lay_out(&r.plan, net, model->layers, step, r.n_threads, NULL);
  if (bytes > model->arena_bytes) {
    free(model->arena);
    model->arena_bytes = 0;
    model->arena = aligned_alloc(PLK_ARENA_ALIGNMENT, (size_t)bytes);
    if (!model->arena) return PLK_NO_MEMORY;
    model->arena_bytes = bytes;
    plk_advise_huge_pages(model->arena, bytes);
  }
  plk_plan_lay_out(&r.plan, net, model->layers, step, r.n_threads, model->arena);
  plk_plan_make_units(&r.plan, net, step, r.n_threads);
  struct timespec start;
  clock_gettime(CLOCK_MONOTONIC, &start);
  r.mark = start;
  plk_parallel_region_of(forward_region, &r, most);
  if (profile) {
    plk_count_bytes(net, model->layers, step, profile);
    profile->total_seconds = seconds_since(&start);
  }
  return status;
}

const plk_forward_kernels *plk_forward_kernels_select(void) {
  switch (plk_isa_current()) {
#ifdef PLK_WITH_AVX512BF16
    case PLK_ISA_AVX512BF16:
      return &plk_forward_kernels_avx512bf16;
#endif
#ifdef PLK_WITH_AVX512
    case PLK_ISA_AVX512:
      return &plk_forward_kernels_avx512;
#endif
#ifdef PLK_WITH_AVX2
    case PLK_ISA_AVX2:
    case PLK_ISA_AVXVNNI:
      return &plk_forward_kernels_avx2;
#endif
    default:
      return &plk_forward_kernels_portable;
  }
}
