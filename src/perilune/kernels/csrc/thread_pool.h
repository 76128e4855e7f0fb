/* A thread pool for kernels: the calling thread takes part, waiting spins briefly and then sleeps.
 *
 * Why our own: barriers that only spin (the default of OpenMP runtimes) lose a factor of 5 to 30 as
 * soon as another thread wants one of the cores; barriers that only sleep cost more than a small
 * layer. Threads start at the first region. After fork() the child starts its own.
 */
#ifndef PERILUNE_THREAD_POOL_H
#define PERILUNE_THREAD_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLK_POOL_API __attribute__((visibility("default")))
#define PLK_MAX_THREADS 256

typedef void (*plk_region_fn)(void *context, int thread, int n_threads);
typedef void (*plk_task_fn)(void *context, int64_t task, int thread);

/* Threads of a region, the caller's included. Default: PERILUNE_THREADS, else the physical cores
 * within this process's affinity mask, no more than the cgroup's CPU quota. */
PLK_POOL_API int plk_threads(void);
/* 0 restores the default. Takes effect at the next region. Returns what was set. */
PLK_POOL_API int plk_set_threads(int n_threads);

/* Run fn on all threads, once each; thread 0 is the caller. Returns when all have returned.
 * Concurrent callers take turns. Called inside a region it runs fn(context, 0, 1) alone. */
PLK_POOL_API void plk_parallel_region(plk_region_fn fn, void *context);
/* The same on at most `most` threads; 0: on all. One thread wakes nobody. */
PLK_POOL_API void plk_parallel_region_of(plk_region_fn fn, void *context, int most);

/* Inside a region: wait until all its threads are here. What they wrote before is visible after.
 * Every thread of the region must call it equally often. */
PLK_POOL_API void plk_barrier(void);

/* fn(context, task, thread) for task in 0..n_tasks-1. chunk > 0: threads take `chunk` tasks at a
 * time as they become free; chunk 0: each thread gets one contiguous share. */
PLK_POOL_API void plk_parallel_for(plk_task_fn fn, void *context, int64_t n_tasks, int64_t chunk);

/* The contiguous share of `thread` when n items are split evenly. */
static inline void plk_share(int64_t n, int thread, int n_threads, int64_t *first, int64_t *end) {
  *first = n * thread / n_threads;
  *end = n * (thread + 1) / n_threads;
}

/* A counter for dynamic work inside a region. One thread resets it, then a barrier, then all draw. */
typedef struct {
  _Alignas(64) atomic_llong next;
  char padding[64 - sizeof(atomic_llong)];
} plk_counter;

static inline void plk_counter_reset(plk_counter *counter) {
  atomic_store_explicit(&counter->next, 0, memory_order_relaxed);
}
static inline int64_t plk_counter_draw(plk_counter *counter, int64_t chunk) {
  return atomic_fetch_add_explicit(&counter->next, chunk, memory_order_relaxed);
}
/* Draw a contiguous range of n items: long ones first (few seams in the stream of weights), short
 * ones last (no thread is left behind). Returns 0 when nothing is left. */
static inline int plk_counter_draw_guided(plk_counter *counter, int64_t n, int n_threads,
                                          int64_t *first, int64_t *end) {
  long long at = atomic_load_explicit(&counter->next, memory_order_relaxed);
  do {
    if (at >= n) return 0;
    const int64_t size = (n - at) / (2 * n_threads);
    *first = at;
    *end = at + (size > 1 ? size : 1);
  } while (!atomic_compare_exchange_weak_explicit(&counter->next, &at, *end, memory_order_relaxed,
                                                  memory_order_relaxed));
  return 1;
}

/* ---- Topology ---- */
PLK_POOL_API int plk_physical_cores(void); /* within the affinity mask */
PLK_POOL_API double plk_cpu_quota(void);   /* CPUs that the cgroup grants; 0 = no limit */
PLK_POOL_API int plk_numa_nodes(void);     /* nodes with CPUs of the affinity mask, at least 1 */
/* Node whose CPUs run this thread of a region. With more than one node the pool keeps each thread
 * on its node, in contiguous order, so that memory which a thread first touches is near it. */
PLK_POOL_API int plk_thread_node(int thread);

#ifdef __cplusplus
}
#endif
#endif
