/* The pool: one epoch word starts regions, one generation word serves barriers (see the header). */
#define _GNU_SOURCE
#include "thread_pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "topology.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Long enough to bridge the serial parts between the operations of one decode step, short enough
 * to give the core away when another program wants it. */
#define SPIN_NANOSECONDS 40000

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- A word that threads wait on: spin, then sleep ---- */
typedef struct {
  _Alignas(64) atomic_uint value;
  atomic_int sleepers;
#ifndef __linux__
  pthread_mutex_t mutex;
  pthread_cond_t changed;
#endif
} wait_word;

static void wait_word_init(wait_word *word) {
  atomic_init(&word->value, 0);
  atomic_init(&word->sleepers, 0);
#ifndef __linux__
  pthread_mutex_init(&word->mutex, NULL);
  pthread_cond_init(&word->changed, NULL);
#endif
}

/* Change the word and wake who sleeps on it. */
static void wait_word_advance(wait_word *word) {
  atomic_fetch_add(&word->value, 1);
  if (atomic_load(&word->sleepers) == 0) return;
#ifdef __linux__
  syscall(SYS_futex, &word->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
  pthread_mutex_lock(&word->mutex);
  pthread_cond_broadcast(&word->changed);
  pthread_mutex_unlock(&word->mutex);
#endif
}

static void wait_while(wait_word *word, unsigned value, int64_t spin_ns) {
  const int64_t start = spin_ns > 0 ? now_ns() : 0;
  while (spin_ns > 0) {
    for (int i = 0; i < 32; i++) {
      if (atomic_load_explicit(&word->value, memory_order_acquire) != value) return;
      cpu_relax();
    }
    if (now_ns() - start > spin_ns) break;
  }
  atomic_fetch_add(&word->sleepers, 1);
#ifdef __linux__
  while (atomic_load(&word->value) == value)
    syscall(SYS_futex, &word->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
  pthread_mutex_lock(&word->mutex);
  while (atomic_load(&word->value) == value) pthread_cond_wait(&word->changed, &word->mutex);
  pthread_mutex_unlock(&word->mutex);
#endif
  atomic_fetch_sub(&word->sleepers, 1);
}

/* ---- The pool ---- */
static struct {
  pthread_mutex_t turn;   /* one region at a time */
  int configured;         /* plk_set_threads, 0 = default */
  int default_threads;    /* 0 = not yet looked up */
  int started;            /* worker threads alive in this process */
  plk_region_fn fn;       /* the region that runs */
  void *context;
  int n_threads;
  int64_t spin_ns;
  unsigned first_epoch[PLK_MAX_THREADS + 1]; /* what a worker has seen when it is created */
  wait_word epoch;        /* one more = a region begins */
  wait_word generation;   /* one more = a barrier opens */
  wait_word finished;     /* one more = the last worker has left the region */
  _Alignas(64) atomic_int arrived;
  _Alignas(64) atomic_int running;
} pool = {.turn = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int region_threads; /* 0 = not inside a region */

static void before_fork(void) { pthread_mutex_lock(&pool.turn); }
static void after_fork_parent(void) { pthread_mutex_unlock(&pool.turn); }
static void pool_reset(void) {
  pool.started = 0;
  wait_word_init(&pool.epoch);
  wait_word_init(&pool.generation);
  wait_word_init(&pool.finished);
  atomic_init(&pool.arrived, 0);
  atomic_init(&pool.running, 0);
}
static void after_fork_child(void) {
  pool_reset();
  pthread_mutex_init(&pool.turn, NULL);
}

static void pool_init_once(void) {
  pool_reset();
  pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static int default_threads(void) {
  const char *text = getenv("PERILUNE_THREADS");
  if (text && *text) {
    const long n = strtol(text, NULL, 10);
    if (n >= 1 && n <= PLK_MAX_THREADS) return (int)n;
  }
  int n = plk_physical_cores();
  const double quota = plk_cpu_quota();
  if (quota > 0 && quota < n) n = quota < 1 ? 1 : (int)quota;
  return n > PLK_MAX_THREADS ? PLK_MAX_THREADS : n;
}

int plk_threads(void) {
  if (pool.configured) return pool.configured;
  if (!pool.default_threads) pool.default_threads = default_threads();
  return pool.default_threads;
}

int plk_set_threads(int n_threads) {
  pthread_mutex_lock(&pool.turn);
  pool.configured = n_threads <= 0 ? 0 : n_threads > PLK_MAX_THREADS ? PLK_MAX_THREADS : n_threads;
  pthread_mutex_unlock(&pool.turn);
  return plk_threads();
}

int plk_thread_node(int thread) {
  const int nodes = plk_numa_nodes();
  return (int)((int64_t)thread * nodes / (plk_threads() > thread ? plk_threads() : thread + 1));
}

static void *worker(void *argument) {
  const int thread = (int)(intptr_t)argument;
  unsigned seen = pool.first_epoch[thread];
  if (plk_numa_nodes() > 1) plk_bind_to_node(plk_thread_node(thread));
  for (;;) {
    wait_while(&pool.epoch, seen, SPIN_NANOSECONDS);
    seen++;
    /* A worker that this region does not need still reports, so that none lags an epoch behind. */
    if (thread < pool.n_threads) {
      region_threads = pool.n_threads;
      pool.fn(pool.context, thread, pool.n_threads);
      region_threads = 0;
    }
    if (atomic_fetch_sub(&pool.running, 1) == 1) wait_word_advance(&pool.finished);
  }
  return NULL;
}

static void start_workers(int wanted) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  while (pool.started < wanted) {
    const int thread = pool.started + 1;
    pthread_t id;
    pool.first_epoch[thread] = atomic_load(&pool.epoch.value);
    if (pthread_create(&id, &attributes, worker, (void *)(intptr_t)thread)) break;
    pool.started++;
  }
  pthread_attr_destroy(&attributes);
}

static void alone(plk_region_fn fn, void *context) {
  const int outer = region_threads;
  region_threads = 1;
  fn(context, 0, 1);
  region_threads = outer;
}

void plk_parallel_region(plk_region_fn fn, void *context) { plk_parallel_region_of(fn, context, 0); }

void plk_parallel_region_of(plk_region_fn fn, void *context, int most) {
  if (region_threads) {
    alone(fn, context);
    return;
  }
  pthread_once(&pool_once, pool_init_once);
  pthread_mutex_lock(&pool.turn);
  const int all = plk_threads(), wanted = most > 0 && most < all ? most : all;
  if (wanted == 1) {
    alone(fn, context);
    pthread_mutex_unlock(&pool.turn);
    return;
  }
  if (pool.started < wanted - 1) start_workers(wanted - 1);
  const int n_threads = wanted < pool.started + 1 ? wanted : pool.started + 1;
  pool.fn = fn;
  pool.context = context;
  pool.n_threads = n_threads;
  /* More threads than cores: whoever spins keeps a core from whoever works. */
  pool.spin_ns = n_threads > plk_physical_cores() ? 0 : SPIN_NANOSECONDS;
  const unsigned finished = atomic_load(&pool.finished.value);
  atomic_store(&pool.running, pool.started);
  if (pool.started) wait_word_advance(&pool.epoch);
  region_threads = n_threads;
  fn(context, 0, n_threads);
  region_threads = 0;
  if (pool.started) wait_while(&pool.finished, finished, pool.spin_ns);
  pthread_mutex_unlock(&pool.turn);
}

void plk_barrier(void) {
  if (region_threads <= 1) return;
  const unsigned generation = atomic_load(&pool.generation.value);
  if (atomic_fetch_add(&pool.arrived, 1) == region_threads - 1) {
    atomic_store(&pool.arrived, 0);
    wait_word_advance(&pool.generation);
  } else {
    wait_while(&pool.generation, generation, pool.spin_ns);
  }
}

/* ---- parallel_for ---- */
typedef struct {
  plk_task_fn fn;
  void *context;
  int64_t n_tasks, chunk;
  plk_counter counter;
} for_state;

static void for_region(void *argument, int thread, int n_threads) {
  for_state *state = argument;
  int64_t first, end;
  if (state->chunk <= 0) {
    plk_share(state->n_tasks, thread, n_threads, &first, &end);
    for (int64_t task = first; task < end; task++) state->fn(state->context, task, thread);
    return;
  }
  while ((first = plk_counter_draw(&state->counter, state->chunk)) < state->n_tasks) {
    end = first + state->chunk < state->n_tasks ? first + state->chunk : state->n_tasks;
    for (int64_t task = first; task < end; task++) state->fn(state->context, task, thread);
  }
}

void plk_parallel_for(plk_task_fn fn, void *context, int64_t n_tasks, int64_t chunk) {
  for_state state = {.fn = fn, .context = context, .n_tasks = n_tasks, .chunk = chunk};
  plk_counter_reset(&state.counter);
  plk_parallel_region(for_region, &state);
}
