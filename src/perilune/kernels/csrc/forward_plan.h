/* What is fixed before a step runs: the layout of its memory, the units of attention. */
#ifndef PERILUNE_FORWARD_PLAN_H
#define PERILUNE_FORWARD_PLAN_H

#include "forward.h"

#define PLK_FEW_ROWS 4     /* up to so many rows every thread prepares its own copy of */
#define PLK_TASK_ROWS 64   /* rows of one task of attention's projections, and of a unit at most */
#define PLK_BLOCK_ROWS 256 /* rows whose absorbed queries are held at once */
#define PLK_EXPANDED_ROWS 512 /* rows that pass a head's expanded page together, at most */
#define PLK_MAX_ROPE 256
#define PLK_ARENA_ALIGNMENT (2 << 20)

/* Room for activations: normed float32, and prepared. */
typedef struct {
  float *f32;
  char *bf16, *int8;
} plk_plan_slot;

typedef struct {
  plk_plan_slot slot[2]; /* PLK_FEW_ROWS rows */
  float *temporary;      /* PLK_TASK_ROWS projected rows */
  void *prepared;        /* PLK_TASK_ROWS prepared rows */
  float *maximum, *sum;
  void *attention;
  int32_t *indices;
  float *weights;
  void *expanded; /* work space of forward_expanded.c */
} plk_plan_thread;

typedef struct {
  int32_t sequence;
  int32_t expanded; /* attends in the expanded form: no unit has it, nothing absorbs its query */
  int32_t unit_row, unit_rows; /* of the unit of attention that holds this row */
  int32_t unit_heads;
} plk_row;

/* One call of attention: rows of one sequence times heads, over all of their context or, where rows
 * are few and contexts long, over one split of it. */
typedef struct {
  int32_t row, n_rows, head, n_heads;
  int32_t split;   /* -1: all */
  int32_t n_splits; /* of the sequence; the partial results of a unit's splits follow each other */
  int64_t partial; /* where in `partials` this unit's result lies, in floats */
  int64_t cost;
} plk_unit;

/* Rows of a block that absorb their queries, next to each other. */
typedef struct {
  int32_t row, n_rows; /* at most PLK_TASK_ROWS */
} plk_segment;

/* Rows of one sequence and one head in the expanded form. */
typedef struct {
  int32_t row, n_rows, head;
  int64_t cost;
} plk_expanded;

typedef struct {
  float *x;        /* [rows][hidden], the residual stream */
  float *rotation; /* [rows][2][rope / 2] */
  float *q_a, *q, *kv, *o;
  char *queries;   /* [block rows][heads][latent] */
  float *mixed;    /* [block rows * heads][kv_rank], in the order of plk_plan_mixed() */
  float *gate, *up, *y;
  float *router_logits, *expert_sum;
  int32_t *indices;
  float *weights;
  void *experts;
  plk_plan_slot slot[2];
  plk_plan_thread *threads;
  plk_row *rows;
  plk_unit *units;
  int cut_contexts; /* units are splits of contexts */
  float *partials;  /* of each: out [queries][kv_rank], maximum and sum [queries] */
  plk_counter *counters; /* [layers][blocks] */
  int32_t *block_units;  /* [blocks + 1] first unit of each block */
  plk_segment *segments;
  int32_t *block_segments; /* [blocks + 1] */
  plk_expanded *expanded;
  int n_expanded;
  plk_counter *expanded_counters; /* [layers] */
  int n_blocks;
  int n_heads;
} plk_plan;

/* Sets the pointers of `plan` into `arena`; returns the bytes it takes (arena may be NULL). */
int64_t plk_plan_lay_out(plk_plan *plan, const plk_network *network, const plk_layer *layers,
                         const plk_step *step, int n_threads, char *arena);
void plk_plan_make_units(plk_plan *plan, const plk_network *network, const plk_step *step,
                         int n_threads);
/* Which vector of `mixed` a row's head has; `begin`: first row of the block. */
static inline int64_t plk_plan_mixed(const plk_plan *plan, int row, int head, int begin) {
  const plk_row *r = &plan->rows[row];
  const int group = head / r->unit_heads * r->unit_heads, left = plan->n_heads - group;
  const int heads = left < r->unit_heads ? left : r->unit_heads;
  return (int64_t)(r->unit_row - begin) * plan->n_heads + (int64_t)group * r->unit_rows +
         (int64_t)(row - r->unit_row) * heads + (head - group);
}

#endif
