/* y = gelu(W x + bias) over many rows (see vision.h).
 *
 * Work is cut into tasks of some rows and some panels. In a task the inputs are taken in steps, so
 * that one panel's step stays in the first-level cache while the rows pass, and the rows' step in
 * the second level while the panels pass.
 */
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "thread_pool.h"
#include "vision.h"

#define TASK_ROWS 240
#define TASK_PANELS 18
#define STEP 384 /* inputs; times 16 columns of float32: 24 KiB */

const plk_vision_kernels *plk_vision_kernels_select(void) {
  switch (plk_isa_current()) {
#ifdef PLK_WITH_AVX512
    case PLK_ISA_AVX512:
    case PLK_ISA_AVX512BF16:
      return &plk_vision_kernels_avx512;
#endif
#ifdef PLK_WITH_AVX2
    case PLK_ISA_AVX2:
    case PLK_ISA_AVXVNNI:
      return &plk_vision_kernels_avx2;
#endif
    default:
      return &plk_vision_kernels_portable;
  }
}

typedef struct {
  const plk_vision_kernels *kernels;
  const plk_matrix *matrix;
  const float *bias, *x;
  int64_t x_stride, rows;
  float *y;
  int64_t y_stride;
  int gelu, add;
  int64_t panels, panels_a_task, groups, tasks; /* groups of panels */
  int64_t step;
  plk_counter counter;
} dense_job;

/* Inputs [first, first + n) of a panel, as floats; `memory` holds STEP * 16 of them. */
static const float *panel_step(const dense_job *job, int64_t panel, int64_t first, int64_t n,
                               float *memory) {
  const plk_matrix *m = job->matrix;
  const int64_t left = m->out_features - panel * PLK_BLOCK;
  const int64_t height = left < PLK_BLOCK ? left : PLK_BLOCK;
  if (m->format == PLK_F32) {
    const float *at = (const float *)m->weight + panel * PLK_BLOCK * m->in_features;
    if (height == PLK_BLOCK) return at + first * PLK_BLOCK;
    memset(memory, 0, (size_t)n * PLK_BLOCK * sizeof *memory);
    for (int64_t i = 0; i < n; i++)
      memcpy(memory + i * PLK_BLOCK, at + (first + i) * height, (size_t)height * sizeof *memory);
    return memory;
  }
  const int64_t words = n / 2;
  const uint32_t *at =
      (const uint32_t *)m->weight + panel * PLK_BLOCK * (m->in_features / 2) + first / 2 * height;
  if (height == PLK_BLOCK) {
    job->kernels->unpack(at, words, memory);
    return memory;
  }
  for (int64_t w = 0; w < words; w++) {
    uint32_t wide[PLK_BLOCK] = {0};
    memcpy(wide, at + w * height, (size_t)height * sizeof *wide);
    job->kernels->unpack(wide, 1, memory + w * 2 * PLK_BLOCK);
  }
  return memory;
}

static void dense_task(dense_job *job, int64_t task, float *memory, float *narrow) {
  const plk_vision_kernels *k = job->kernels;
  const int64_t row = task / job->groups * TASK_ROWS, group = task % job->groups;
  const int64_t rows = job->rows - row < TASK_ROWS ? job->rows - row : TASK_ROWS;
  const int64_t begin = group * job->panels_a_task;
  const int64_t end =
      begin + job->panels_a_task < job->panels ? begin + job->panels_a_task : job->panels;
  const int64_t inputs = job->matrix->in_features, outputs = job->matrix->out_features;
  for (int64_t first = 0; first < inputs; first += job->step) {
    const int64_t n = inputs - first < job->step ? inputs - first : job->step;
    const int last = first + n == inputs;
    const float *x = job->x + row * job->x_stride + first;
    for (int64_t panel = begin; panel < end; panel++) {
      const int64_t height = outputs - panel * PLK_BLOCK;
      float *y = job->y + row * job->y_stride + panel * PLK_BLOCK, *target = y;
      int64_t stride = job->y_stride;
      const int is_narrow = height < PLK_BLOCK;
      if (is_narrow) { /* 16 columns do not fit behind y: in a place of their own */
        target = narrow, stride = PLK_BLOCK;
        for (int64_t r = 0; r < rows; r++)
          memcpy(narrow + r * PLK_BLOCK, y + r * job->y_stride, (size_t)height * sizeof *y);
      }
      k->product(x, job->x_stride, rows, panel_step(job, panel, first, n, memory), n, target,
                 stride, first > 0 || job->add);
      if (last) {
        float bias[PLK_BLOCK] = {0};
        const int64_t columns = is_narrow ? height : PLK_BLOCK;
        memcpy(bias, job->bias + panel * PLK_BLOCK, (size_t)columns * sizeof *bias);
        k->finish(target, stride, rows, bias, job->gelu);
      }
      if (is_narrow)
        for (int64_t r = 0; r < rows; r++)
          memcpy(y + r * job->y_stride, narrow + r * PLK_BLOCK, (size_t)height * sizeof *y);
    }
  }
}

static void dense_share(void *context, int thread, int n_threads) {
  dense_job *job = context;
  _Alignas(64) float memory[STEP * PLK_BLOCK];
  _Alignas(64) float narrow[TASK_ROWS * PLK_BLOCK] = {0};
  (void)thread, (void)n_threads;
  int64_t task;
  while ((task = plk_counter_draw(&job->counter, 1)) < job->tasks)
    dense_task(job, task, memory, narrow);
}

int plk_dense(const plk_matrix *matrix, const float *bias, const float *x, int64_t x_stride,
              int64_t rows, float *y, int64_t y_stride, int gelu, int add) {
  const int narrow = matrix->format == PLK_BF16;
  if (matrix->format != PLK_F32 && !narrow) return PLK_BAD_FORMAT;
  if (matrix->in_features <= 0 || matrix->out_features < 0 || rows < 0 || gelu < PLK_GELU_NONE ||
      gelu > PLK_GELU_ERF || (narrow && matrix->in_features % 2))
    return PLK_BAD_SHAPE;
  if (rows == 0 || matrix->out_features == 0) return PLK_OK;
  dense_job job = {plk_vision_kernels_select(), matrix, bias, x, x_stride, rows, y, y_stride,
                   gelu, add, 0, 0, 0, 0, 0, {0}};
  const int64_t chunks = (rows + TASK_ROWS - 1) / TASK_ROWS;
  job.panels = (matrix->out_features + PLK_BLOCK - 1) / PLK_BLOCK;
  job.panels_a_task = TASK_PANELS;
  while (job.panels_a_task > 2 &&
         chunks * ((job.panels + job.panels_a_task - 1) / job.panels_a_task) < 4 * plk_threads())
    job.panels_a_task = (job.panels_a_task + 1) / 2;
  job.groups = (job.panels + job.panels_a_task - 1) / job.panels_a_task;
  job.tasks = chunks * job.groups;
  const int64_t steps = (matrix->in_features + STEP - 1) / STEP;
  job.step = (matrix->in_features + steps - 1) / steps;
  job.step += job.step % 2; /* whole words of two */
  plk_counter_reset(&job.counter);
  plk_parallel_region(dense_share, &job);
  return PLK_OK;
}
