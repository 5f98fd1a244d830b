// The threads of a team: started once, asleep between steps.

#include "team.h"

#include <stdlib.h>

// A helper enters a step only while it is open and is counted while it is inside, so that what the step refers to may be
// taken away once the step has returned.
static void help(team *t, int64_t step, int64_t index) {
    atomic_fetch_add(&t->inside, 1);
    if (atomic_load(&t->open) && atomic_load(&t->step) == step) {
        member own = {t, step << PHASE_BITS, index};
        t->walk(&own, t->argument);
    }
    atomic_fetch_sub(&t->inside, 1);
}

typedef struct {
    team *team;
    int64_t index;
} post;

static void *serve(void *argument) {
    const post own = *(post *)argument;
    free(argument);
    team *t = own.team;
    for (int64_t seen = 0;;) {
        pthread_mutex_lock(&t->lock);
        while (atomic_load(&t->step) == seen && !t->quit) pthread_cond_wait(&t->begun, &t->lock);
        seen = atomic_load(&t->step);
        const int quit = t->quit;
        pthread_mutex_unlock(&t->lock);
        if (quit) return NULL;
        help(t, seen, own.index);
    }
}

team *ISA(team_new)(int64_t size) {
    team *t = aligned_alloc(64, (sizeof(team) + 63) / 64 * 64);
    pthread_t *threads = calloc((size_t)size, sizeof *threads);
    if (!t || !threads) {
        free(t);
        free(threads);
        return NULL;
    }
    memset(t, 0, sizeof *t);
    t->threads = threads;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    for (t->size = 1; t->size < size; t->size++) {
        post *own = malloc(sizeof *own);
        if (own) *own = (post){t, t->size};
        if (!own || pthread_create(&threads[t->size], NULL, serve, own)) {
            free(own);
            break;
        }
    }
    return t;
}

void ISA(team_run)(team *t, void (*walk)(member *, void *), void *argument) {
    const int64_t step = (atomic_load(&t->step) + 1) % (1 << 20);
    t->walk = walk;
    t->argument = argument;
    atomic_store(&t->done, 0);
    atomic_store(&t->next, step << PHASE_BITS << TASK_BITS);
    atomic_store(&t->open, 1);
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->step, step);
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    member own = {t, step << PHASE_BITS, 0};
    walk(&own, argument);
    atomic_store(&t->open, 0);
    for (int64_t spins = 0; atomic_load(&t->inside); spins++) {
        if (spins < SPINS) PAUSE();
        else sched_yield();
    }
}

void ISA(team_free)(team *t) {
    pthread_mutex_lock(&t->lock);
    t->quit = 1;
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    for (int64_t i = 1; i < t->size; i++) pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->begun);
    pthread_mutex_destroy(&t->lock);
    free(t->threads);
    free(t);
}
