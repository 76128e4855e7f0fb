/* Memory and work units of a step (see forward_plan.h). */
#include "forward_plan.h"

#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "forward_expanded.h"

/* ---- Memory ---- */
typedef struct {
  char *base;
  int64_t used;
} arena;

static void *take(arena *a, int64_t n, int64_t size) {
  void *p = a->base ? a->base + a->used : NULL;
  a->used += (n * size + 127) / 128 * 128; /* pairs of cache lines: neighbours do not disturb */
  return p;
}

static plk_plan_slot take_slot(arena *a, int64_t rows, int64_t f32_width, int64_t width) {
  plk_plan_slot slot;
  slot.f32 = take(a, rows * f32_width, sizeof(float));
  slot.bf16 = take(a, rows, plk_prepared_bytes(PLK_X_BF16, width));
  slot.int8 = take(a, rows, plk_prepared_bytes(PLK_X_INT8, width));
  return slot;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int splits_of(int context) {
  return (context + PLK_ATTENTION_SPLIT - 1) / PLK_ATTENTION_SPLIT;
}

/* Few rows over long contexts: rows and heads alone would leave threads idle, or let each thread
 * read the whole context for its own heads. Returns rows * splits, 0 where contexts stay whole. */
static int64_t context_cuts(const plk_step *step, int n_threads) {
  if (step->n_rows >= 2 * n_threads || step->n_rows > PLK_BLOCK_ROWS || n_threads == 1) return 0;
  int64_t cuts = 0;
  int most = 0;
  for (int s = 0; s < step->n_sequences; s++) {
    const int rows = step->query_starts[s + 1] - step->query_starts[s];
    if (!rows) continue;
    const int splits = splits_of(step->context_lengths[s]);
    cuts += (int64_t)rows * splits;
    if (splits > most) most = splits;
  }
  return most > 1 ? cuts : 0;
}

/* Rows of a sequence in this step that attend in the expanded form: the first ones. */
static int expanded_rows(const plk_step *step, int sequence) {
  const int first = step->query_starts[sequence], end = step->query_starts[sequence + 1];
  if (!step->expanded_until || first == end) return 0;
  const int n = step->expanded_until[sequence] - step->positions[first];
  return n < 0 ? 0 : n > end - first ? end - first : n;
}

/* So that no thread is idle: a model with few heads has its rows cut more finely. */
static int expanded_unit_rows(const plk_network *net, int n_rows, int n_threads) {
  const int cuts = (2 * n_threads + net->n_heads - 1) / net->n_heads;
  int rows = (n_rows + cuts - 1) / cuts;
  rows = (rows + PLK_TASK_ROWS - 1) / PLK_TASK_ROWS * PLK_TASK_ROWS;
  return rows > PLK_EXPANDED_ROWS ? PLK_EXPANDED_ROWS : rows;
}

int64_t plk_plan_lay_out(plk_plan *plan, const plk_network *net, const plk_layer *layers,
                         const plk_step *step, int n_threads, char *base) {
  arena a = {base, 0};
  const int64_t rows = step->n_rows, hidden = net->hidden, heads = net->n_heads;
  const int64_t latent = net->kv_rank + net->rope_dim;
  const int64_t block = rows < PLK_BLOCK_ROWS ? rows : PLK_BLOCK_ROWS;
  int64_t inside = 0, experts = 0;
  for (int i = 0; i < net->n_layers; i++) {
    inside = larger(inside, layers[i].gate.out_features);
    if (layers[i].experts.n_experts)
      experts = larger(experts,
                       plk_experts_workspace(&layers[i].experts, rows, net->top_k,
                                             plk_form_for(layers[i].experts.format, net->exact)));
  }
  plan->n_heads = net->n_heads;
  plan->n_blocks = (int)((rows + PLK_BLOCK_ROWS - 1) / PLK_BLOCK_ROWS);
  plan->x = take(&a, rows * hidden, sizeof(float));
  plan->rotation = take(&a, rows * net->rope_dim, sizeof(float));
  plan->q_a = take(&a, rows * net->q_rank, sizeof(float));
  plan->q = take(&a, rows * heads * (net->nope_dim + net->rope_dim), sizeof(float));
  plan->kv = take(&a, rows * latent, sizeof(float));
  plan->o = take(&a, rows * heads * net->value_dim, sizeof(float));
  plan->queries = take(&a, block * heads * latent, sizeof(float));
  plan->mixed = take(&a, block * heads * net->kv_rank, sizeof(float));
  plan->gate = take(&a, rows * inside, sizeof(float));
  plan->up = take(&a, rows * inside, sizeof(float));
  plan->y = take(&a, rows * hidden, sizeof(float));
  plan->router_logits = take(&a, rows * net->n_experts, sizeof(float));
  plan->expert_sum = take(&a, rows * hidden, sizeof(float));
  plan->indices = take(&a, rows * net->top_k, sizeof(int32_t));
  plan->weights = take(&a, rows * net->top_k, sizeof(float));
  plan->experts = take(&a, experts, 1);
  const int64_t second = larger(larger(net->q_rank, heads * net->value_dim), inside);
  const int64_t slot_rows = larger(rows, step->n_logits);
  plan->slot[0] = take_slot(&a, slot_rows, hidden, hidden);
  plan->slot[1] = take_slot(&a, slot_rows, net->q_rank, second);
  plan->rows = take(&a, rows, sizeof *plan->rows);
  const int64_t cuts = context_cuts(step, n_threads);
  plan->cut_contexts = cuts > 0;
  plan->units = take(&a, larger(rows, cuts) * heads, sizeof *plan->units);
  plan->partials = take(&a, cuts * heads * (net->kv_rank + 2), sizeof(float));
  plan->block_units = take(&a, plan->n_blocks + 1, sizeof *plan->block_units);
  plan->counters = take(&a, (int64_t)net->n_layers * plan->n_blocks, sizeof *plan->counters);
  plan->segments = take(&a, rows, sizeof *plan->segments);
  plan->block_segments = take(&a, plan->n_blocks + 1, sizeof *plan->block_segments);
  int64_t n_expanded = 0;
  for (int s = 0; s < step->n_sequences; s++) {
    const int n = expanded_rows(step, s);
    if (!n) continue;
    const int unit = expanded_unit_rows(net, n, n_threads);
    n_expanded += (n + unit - 1) / unit * heads;
  }
  plan->n_expanded = (int)n_expanded;
  plan->expanded = take(&a, n_expanded, sizeof *plan->expanded);
  plan->expanded_counters = take(&a, net->n_layers, sizeof *plan->expanded_counters);
  plan->threads = take(&a, n_threads, sizeof *plan->threads);
  const int64_t head_width = larger(net->nope_dim, net->kv_rank);
  const int64_t prepared = larger(plk_prepared_bytes(PLK_X_BF16, head_width),
                                  plk_prepared_bytes(PLK_X_INT8, head_width));
  for (int t = 0; t < n_threads; t++) {
    plk_plan_thread thread = {
        .slot = {take_slot(&a, PLK_FEW_ROWS, hidden, hidden),
                 take_slot(&a, PLK_FEW_ROWS, net->q_rank, second)},
        .temporary = take(&a, PLK_TASK_ROWS * latent, sizeof(float)),
        .prepared = take(&a, PLK_TASK_ROWS, larger(prepared, head_width * 4)),
        .maximum = take(&a, PLK_ATTENTION_QUERIES, sizeof(float)),
        .sum = take(&a, PLK_ATTENTION_QUERIES, sizeof(float)),
        .attention = take(&a, plk_attention_workspace(net->kv_rank), 1),
        .indices = take(&a, PLK_FEW_ROWS * (int64_t)net->top_k, sizeof(int32_t)),
        .weights = take(&a, PLK_FEW_ROWS * (int64_t)net->top_k, sizeof(float)),
        .expanded = take(&a, n_expanded ? plk_expanded_workspace(net) : 0, 1),
    };
    if (base) plan->threads[t] = thread;
  }
  return (a.used + PLK_ARENA_ALIGNMENT - 1) / PLK_ARENA_ALIGNMENT * PLK_ARENA_ALIGNMENT;
}

/* ---- Units of attention ---- */
static int by_cost(const void *a, const void *b) {
  const int64_t x = ((const plk_unit *)a)->cost, y = ((const plk_unit *)b)->cost;
  return (x < y) - (x > y);
}

/* Units of n rows of one sequence, from `row`, of at most `spread` heads; returns how many. */
static int add_units(plk_plan *plan, const plk_network *net, const plk_step *step, int sequence,
                     int row, int n, int spread, int64_t *partial, plk_unit *units) {
  int heads = PLK_ATTENTION_QUERIES / n;
  if (heads > spread) heads = spread;
  for (int i = row; i < row + n; i++) plan->rows[i] = (plk_row){sequence, 0, row, n, heads};
  const int context = step->positions[row + n - 1] + 1;
  const int n_splits = plan->cut_contexts ? splits_of(context) : 1;
  int n_units = 0;
  for (int head = 0; head < net->n_heads; head += heads) {
    const int left = net->n_heads - head;
    plk_unit unit = {.row = row, .n_rows = n, .head = head, .n_splits = n_splits};
    unit.n_heads = left < heads ? left : heads;
    unit.cost = (int64_t)n * unit.n_heads * context / n_splits;
    for (int split = 0; split < n_splits; split++) {
      unit.split = plan->cut_contexts ? split : -1;
      unit.partial = *partial;
      *partial += plan->cut_contexts ? (int64_t)n * unit.n_heads * (net->kv_rank + 2) : 0;
      units[n_units++] = unit;
    }
  }
  return n_units;
}

static int by_expanded_cost(const void *a, const void *b) {
  const int64_t x = ((const plk_expanded *)a)->cost, y = ((const plk_expanded *)b)->cost;
  return (x < y) - (x > y);
}

static void make_expanded(plk_plan *plan, const plk_network *net, const plk_step *step,
                          int n_threads) {
  int made = 0;
  for (int s = 0; s < step->n_sequences; s++) {
    const int first = step->query_starts[s], n = expanded_rows(step, s);
    for (int i = 0; i < n; i++) plan->rows[first + i] = (plk_row){.sequence = s, .expanded = 1};
    const int unit = n ? expanded_unit_rows(net, n, n_threads) : 1;
    for (int at = 0; at < n; at += unit) {
      const int rows = n - at < unit ? n - at : unit;
      const int64_t cost = (int64_t)rows * (step->positions[first + at + rows - 1] + 1);
      for (int head = 0; head < net->n_heads; head++)
        plan->expanded[made++] = (plk_expanded){first + at, rows, head, cost};
    }
  }
  if (made) qsort(plan->expanded, (size_t)made, sizeof *plan->expanded, by_expanded_cost);
  memset(plan->expanded_counters, 0, (size_t)net->n_layers * sizeof *plan->expanded_counters);
}

/* The rows of [begin, end) that absorb their queries, in pieces. */
static int make_segments(plk_plan *plan, int begin, int end, int n) {
  for (int row = begin; row < end; row++) {
    if (plan->rows[row].expanded) continue;
    const int follows = row > begin && !plan->rows[row - 1].expanded;
    if (follows && plan->segments[n - 1].n_rows < PLK_TASK_ROWS)
      plan->segments[n - 1].n_rows++;
    else
      plan->segments[n++] = (plk_segment){row, 1};
  }
  return n;
}

/* ceil(n / parts), at most `most`, and at least 1. */
static int part_of(int n, int parts, int most) {
  const int part = (n + parts - 1) / parts;
  return part > most ? (most > 1 ? most : 1) : part;
}

void plk_plan_make_units(plk_plan *plan, const plk_network *net, const plk_step *step,
                         int n_threads) {
  memset(plan->counters, 0,
         (size_t)net->n_layers * (size_t)plan->n_blocks * sizeof *plan->counters);
  memset(plan->rows, 0, (size_t)step->n_rows * sizeof *plan->rows);
  make_expanded(plan, net, step, n_threads);
  int n_units = 0, sequence = 0, n_segments = 0;
  int64_t partial = 0;
  for (int block = 0; block < plan->n_blocks; block++) {
    const int begin = block * PLK_BLOCK_ROWS;
    const int end = step->n_rows - begin < PLK_BLOCK_ROWS ? step->n_rows : begin + PLK_BLOCK_ROWS;
    const int first_unit = plan->block_units[block] = n_units;
    plan->block_segments[block] = n_segments;
    n_segments = make_segments(plan, begin, end, n_segments);
    int absorbed = 0;
    for (int row = begin; row < end; row++) absorbed += !plan->rows[row].expanded;
    if (!absorbed) continue;
    /* All heads of a row lie side by side, so units are of whole rows; where rows are fewer than
     * threads, their heads are cut, or (cut_contexts) their contexts. */
    const int threads = plan->cut_contexts ? 1 : n_threads;
    const int most_rows = part_of(absorbed, threads, PLK_ATTENTION_QUERIES / net->n_heads);
    const int spread = part_of(net->n_heads, (threads + absorbed - 1) / absorbed, net->n_heads);
    for (int row = begin; row < end;) {
      while (step->query_starts[sequence + 1] <= row) sequence++;
      if (plan->rows[row].expanded) {
        row = step->query_starts[sequence] + expanded_rows(step, sequence);
        continue;
      }
      const int limit = step->query_starts[sequence + 1];
      int n = (limit < end ? limit : end) - row;
      if (n > most_rows) n = most_rows;
      n_units += add_units(plan, net, step, sequence, row, n, spread, &partial,
                           plan->units + n_units);
      row += n;
    }
    if (!plan->cut_contexts) /* splits of a unit stay together, for those who join them */
      qsort(plan->units + first_unit, (size_t)(n_units - first_unit), sizeof *plan->units,
            by_cost);
  }
  plan->block_units[plan->n_blocks] = n_units;
  plan->block_segments[plan->n_blocks] = n_segments;
}
