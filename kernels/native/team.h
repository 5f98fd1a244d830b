// Threads that walk through the phases of a step together.
//
// A phase is over when all of its tasks are done, not when all threads have come: whoever is late (its core was given to
// another process) finds the phases that the others finished already closed and hurries after them. So a busy machine
// costs the time that is really lost, not a scheduler's quantum per phase. Between steps the threads sleep.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#include "simd.h"

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() __asm__ volatile("" ::: "memory")
#endif

#define SPINS 2000        // about 100 µs; then the core is offered to others: one of them may have a task unfinished
#define PHASE_BITS 20     // of a stamp: step << PHASE_BITS | phase
#define TASK_BITS 22      // of ``next``

struct member;

typedef struct team {
    _Alignas(64) _Atomic int64_t next;  // stamp << TASK_BITS | first task of that phase that nobody has taken
    _Alignas(64) _Atomic int64_t done;  // tasks of this phase that are finished
    _Alignas(64) _Atomic int64_t step;  // the latest; changed under the lock
    _Atomic int64_t open, inside;       // whether helpers may enter the step, and how many are in it
    int64_t size;                       // threads, the caller's included
    void (*walk)(struct member *, void *);
    void *argument;
    pthread_mutex_t lock;
    pthread_cond_t begun;
    pthread_t *threads;
    int quit;
} team;

// One thread's place in the walk. ``index``: 0 for the caller, 1 … size-1 for helpers.
typedef struct member {
    team *team;
    int64_t stamp, index;
} member;

// A team of ``size`` threads, NULL if there is no memory. Fewer start if the system refuses some.
team *ISA(team_new)(int64_t size);

// Run ``walk`` on all threads and return when every phase is over and nobody is in it any more.
void ISA(team_run)(team *t, void (*walk)(member *, void *), void *argument);

// End the threads. Nobody may be running.
void ISA(team_free)(team *t);

// Take some of the phase's ``count`` tasks, a multiple of ``chunk`` unless they are the last: sets [from, to); 0 when none
// is left. Shares shrink with what is left, so that they are long runs of memory at first and end together at last.
static inline int take(const member *m, int64_t count, int64_t chunk, int64_t *from, int64_t *to) {
    int64_t seen = atomic_load_explicit(&m->team->next, memory_order_acquire);
    while (seen >> TASK_BITS == m->stamp) {
        const int64_t index = seen & ((1 << TASK_BITS) - 1);
        if (index >= count && count > 0) return 0;
        const int64_t share = (count - index) / (2 * m->team->size) / chunk * chunk;
        const int64_t end = index + (share > chunk ? share : chunk);
        *from = index;
        *to = end < count ? end : count;
        // A phase without tasks is over at once.
        const int64_t after = count > 0 ? m->stamp << TASK_BITS | *to : (m->stamp + 1) << TASK_BITS;
        if (atomic_compare_exchange_weak_explicit(&m->team->next, &seen, after, memory_order_acq_rel,
                                                  memory_order_acquire))
            return count > 0;
    }
    return 0;
}

// Say that ``tasks`` of the phase's ``count`` are finished; who says it last opens the next phase.
static inline void finish(const member *m, int64_t tasks, int64_t count) {
    if (atomic_fetch_add_explicit(&m->team->done, tasks, memory_order_acq_rel) + tasks < count) return;
    atomic_store_explicit(&m->team->done, 0, memory_order_relaxed);
    atomic_store_explicit(&m->team->next, (m->stamp + 1) << TASK_BITS, memory_order_release);
}

// Wait until the phase is over, then go on to the next.
static inline void barrier(member *m) {
    for (int64_t spins = 0; atomic_load_explicit(&m->team->next, memory_order_acquire) >> TASK_BITS == m->stamp; spins++) {
        if (spins < SPINS) PAUSE();
        else sched_yield();
    }
    m->stamp++;
}

// FOR_SHARE(m, i, first, end, chunk) { … }: i runs over this thread's share of first … end-1. Once a phase, then barrier().
#define FOR_SHARE(m, i, first, end, chunk)                                                               \
    for (int64_t i##_from, i##_to, i##_all = (end) - (first); take(m, i##_all, chunk, &i##_from, &i##_to); \
         finish(m, i##_to - i##_from, i##_all))                                                          \
        for (int64_t i = (first) + i##_from; i < (first) + i##_to; i++)
