// Threads that walk through the phases of a step together.
//
// A phase is over when all of its tasks are done, not when all threads have come: whoever is late (its core was given to
// another process) finds the phases that the others finished already closed and hurries after them. So a busy machine
// costs the time that is really lost, not a scheduler's quantum per phase.
#pragma once

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() __asm__ volatile("" ::: "memory")
#endif

#define SPINS 2000  // then the core is offered to others: one of them may have a task unfinished

typedef struct {
    _Alignas(64) _Atomic int64_t next;  // phase << 32 | first task of it that nobody has taken
    _Alignas(64) _Atomic int64_t done;  // tasks of this phase that are finished
    int64_t size;                       // threads
} team;

// One thread's place in the walk.
typedef struct {
    team *team;
    int64_t phase;
} member;

// Take some of the phase's ``count`` tasks, a multiple of ``chunk`` unless they are the last: sets [from, to); 0 when none
// is left. Shares shrink with what is left, so that they are long runs of memory at first and end together at last.
static inline int take(const member *m, int64_t count, int64_t chunk, int64_t *from, int64_t *to) {
    int64_t seen = atomic_load_explicit(&m->team->next, memory_order_acquire);
    while (seen >> 32 == m->phase) {
        const int64_t index = seen & 0xffffffff;
        if (index >= count && count > 0) return 0;
        const int64_t share = (count - index) / (2 * m->team->size) / chunk * chunk, taken = share > chunk ? share : chunk;
        const int64_t after = count > 0 ? seen + taken : (m->phase + 1) << 32;  // a phase without tasks is over at once
        if (atomic_compare_exchange_weak_explicit(&m->team->next, &seen, after, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *from = index;
            *to = index + taken < count ? index + taken : count;
            return count > 0;
        }
    }
    return 0;
}

// Say that ``tasks`` of the phase's ``count`` are finished; who says it last opens the next phase.
static inline void finish(const member *m, int64_t tasks, int64_t count) {
    if (atomic_fetch_add_explicit(&m->team->done, tasks, memory_order_acq_rel) + tasks < count) return;
    atomic_store_explicit(&m->team->done, 0, memory_order_relaxed);
    atomic_store_explicit(&m->team->next, (m->phase + 1) << 32, memory_order_release);
}

// Wait until the phase is over, then go on to the next.
static inline void meet(member *m) {
    for (int64_t spins = 0; atomic_load_explicit(&m->team->next, memory_order_acquire) >> 32 == m->phase; spins++) {
        if (spins < SPINS) PAUSE();
        else sched_yield();
    }
    m->phase++;
}

// FOR_SHARE(m, i, first, end, chunk) { … }: i runs over this thread's share of first … end-1. Once a phase, then meet().
#define FOR_SHARE(m, i, first, end, chunk)                                                               \
    for (int64_t i##_from, i##_to, i##_all = (end) - (first); take(m, i##_all, chunk, &i##_from, &i##_to); \
         finish(m, i##_to - i##_from, i##_all))                                                          \
        for (int64_t i = (first) + i##_from; i < (first) + i##_to; i++)
