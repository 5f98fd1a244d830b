// Attention over pages of 16 tokens, keys turned so that the 16 tokens of a page are lanes.
//
// A page holds keys [kv_heads, width, 16] and values [kv_heads, 16, width] of every layer, as halves, so that a sequence
// takes memory in few places however many layers there are.
// A query's sums run over its own pages in order, whatever is computed beside it: decoding and prefill give equal bits.
#pragma once

#include "../native/simd.h"
#include "../native/team.h"

#define PAGE 16
#define MAX_HEAD 256
#define VECTORS 32  // queries that share one reading of a page

// Consecutive new tokens of one sequence, the last at position context-1. Rows of the batch: first … first+count-1.
typedef struct {
    int64_t first, count, context;
    const int32_t *pages;
} span;

typedef struct {
    int64_t heads, kv_heads, width;
    int64_t stride;           // halves from one page to the next
    uint16_t *keys, *values;  // of one layer, in page 0
} page_pool;

INLINE void widen(const uint16_t *from, float *to, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) store(to + i, load_halves(from + i));
}

// scores[q][0 … 16 * wide - 1] = queries[q] · keys of ``wide`` pages, for ``count`` queries. tile: [wide, width, 16].
// Meanwhile ``next`` is fetched, a page for each: they lie anywhere in memory, and fetched at once they would block it.
INLINE void score_pages(const float *const *queries, const float *tile, int64_t width, float *const *scores,
                        int64_t at, const uint16_t *const *next, const int count, const int wide) {
    for (int vec = 0; vec < VECS; vec++) {
        vf even[4][2] = {{{0}}}, odd[4][2] = {{{0}}};
        for (int64_t d = 0; d < width; d += 2) {
            vf k0[2], k1[2];
            UNROLL for (int p = 0; p < wide; p++) {
                if (vec == 0) __builtin_prefetch(next[p] + d * PAGE);
                k0[p] = load(tile + (p * width + d) * PAGE + vec * LANES);
                k1[p] = load(tile + (p * width + d + 1) * PAGE + vec * LANES);
            }
            UNROLL for (int q = 0; q < count; q++)
                UNROLL for (int p = 0; p < wide; p++) {
                    even[q][p] = fused(broadcast(queries[q][d]), k0[p], even[q][p]);
                    odd[q][p] = fused(broadcast(queries[q][d + 1]), k1[p], odd[q][p]);
                }
        }
        UNROLL for (int q = 0; q < count; q++)
            UNROLL for (int p = 0; p < wide; p++)
                store(scores[q] + at + p * PAGE + vec * LANES, even[q][p] + odd[q][p]);
    }
}

#define DEPTH 4  // vectors of the values' width that are summed at once

// out[q] += weights[q][0..15] · values of a page. tile: [16, width]; sums ``depth`` vectors from column ``d`` on, and
// fetches the same columns of ``next``.
INLINE void add_columns(float *const *weights, int64_t at, const float *tile, int64_t width, int64_t d,
                        float *const *out, const uint16_t *next, const int count, const int depth) {
    vf sums[4][DEPTH];
    UNROLL for (int q = 0; q < count; q++)
        UNROLL for (int v = 0; v < depth; v++) sums[q][v] = load(out[q] + d + v * LANES);
    for (int i = 0; i < PAGE; i++) {
        for (int v = 0; v < depth * LANES; v += 32) __builtin_prefetch(next + i * width + d + v);
        vf values[DEPTH];
        UNROLL for (int v = 0; v < depth; v++) values[v] = load(tile + i * width + d + v * LANES);
        UNROLL for (int q = 0; q < count; q++) {
            const vf weight = broadcast(weights[q][at + i]);
            UNROLL for (int v = 0; v < depth; v++) sums[q][v] = fused(weight, values[v], sums[q][v]);
        }
    }
    UNROLL for (int q = 0; q < count; q++)
        UNROLL for (int v = 0; v < depth; v++) store(out[q] + d + v * LANES, sums[q][v]);
}

INLINE void add_page(float *const *weights, int64_t at, const float *tile, int64_t width, float *const *out,
                     const uint16_t *next, const int count) {
    int64_t d = 0;
    for (; d + DEPTH * LANES <= width; d += DEPTH * LANES)
        add_columns(weights, at, tile, width, d, out, next, count, DEPTH);
    for (; d < width; d += LANES) add_columns(weights, at, tile, width, d, out, next, count, 1);
}

// CALL(n) for every four of ``total`` queries and for the rest at once, v being the first.
#define BY_FOUR(total, CALL)                           \
    {                                                  \
        int64_t v = 0;                                 \
        for (; v + 4 <= (total); v += 4) CALL(4);      \
        if ((total) - v == 3) CALL(3);                 \
        else if ((total) - v == 2) CALL(2);            \
        else if ((total) - v == 1) CALL(1);            \
    }

// Scores to exp(score - largest), 0 behind the query's own position; returns their sum.
INLINE float weigh(float *scores, int64_t length, int64_t padded) {
    for (int64_t i = length; i < padded; i++) scores[i] = -INFINITY;
    vf largest = load(scores), total = {0};
    for (int64_t i = LANES; i < padded; i += LANES) largest = larger(largest, load(scores + i));
    const float peak = largest_lane(largest);
    for (int64_t i = 0; i < padded; i += LANES) {
        const vf weight = exponential(load(scores + i) - peak);
        store(scores + i, weight);
        total += weight;
    }
    return sum_lanes(total);
}

// ``count`` rows of one span from row ``from`` on, for the query heads of one key-value head.
// queries, out: [tokens, stride] with heads side by side, queries scaled; scores: room for VECTORS * padded context.
INLINE void attend_tile(const page_pool *pool, const span *s, int64_t kv, int64_t from, int64_t count,
                        const float *queries, int64_t stride, float *out, int64_t out_stride, float *scratch) {
    const int64_t width = pool->width, group = pool->heads / pool->kv_heads, total = count * group;
    const int64_t past = s->context - s->count + from, pages = (past + count + PAGE - 1) / PAGE;
    const uint16_t *keys = pool->keys + kv * PAGE * width, *values = pool->values + kv * PAGE * width;
    float tile[2 * PAGE * MAX_HEAD], sums[VECTORS];
    const float *query[VECTORS];
    float *score[VECTORS], *result[VECTORS];
    for (int64_t v = 0; v < total; v++) {
        const int64_t row = s->first + from + v / group, head = kv * group + v % group;
        query[v] = queries + row * stride + head * width;
        result[v] = out + row * out_stride + head * width;
        score[v] = scratch + v * pages * PAGE;
        memset(result[v], 0, sizeof(float) * (size_t)width);
    }
#define KEYS(p) (keys + s->pages[p] * pool->stride)
#define VALUES(p) (values + s->pages[p] * pool->stride)
    int64_t p = 0;
    for (; p < pages; p += 2) {
        const int wide = p + 1 < pages ? 2 : 1;
        for (int i = 0; i < wide; i++) widen(KEYS(p + i), tile + i * PAGE * width, PAGE * width);
        // Behind the last keys come the first values.
        const uint16_t *next[2] = {p + 2 < pages ? KEYS(p + 2) : VALUES(0), p + 3 < pages ? KEYS(p + 3) : VALUES(0)};
#define SCORE_TWO(n) score_pages(query + v, tile, width, score + v, p * PAGE, next, n, 2)
#define SCORE_ONE(n) score_pages(query + v, tile, width, score + v, p * PAGE, next, n, 1)
        if (wide == 2) BY_FOUR(total, SCORE_TWO)
        else BY_FOUR(total, SCORE_ONE)
    }
    for (int64_t v = 0; v < total; v++) sums[v] = weigh(score[v], past + v / group + 1, pages * PAGE);
    for (p = 0; p < pages; p++) {
        widen(VALUES(p), tile, PAGE * width);
        const uint16_t *next = VALUES(p + 1 < pages ? p + 1 : p);
#define ADD(n) add_page(score + v, p * PAGE, tile, width, result + v, next, n)
        BY_FOUR(total, ADD)
    }
    for (int64_t v = 0; v < total; v++)
        for (int64_t d = 0; d < width; d += LANES) store(result[v] + d, load(result[v] + d) / sums[v]);
}

INLINE int64_t rows_per_tile(const page_pool *pool) {
    const int64_t rows = VECTORS / (pool->heads / pool->kv_heads);
    return rows > 1 ? rows : 1;
}

// Attention of every row of the batch; scratch: VECTORS * longest context, rounded up to a page, per thread.
INLINE void attend(member *t, const page_pool *pool, const span *spans, int64_t span_count, const float *queries,
                   int64_t stride, float *out, int64_t out_stride, float *scratch) {
    const int64_t rows = rows_per_tile(pool);
    int64_t tasks = 0;
    for (int64_t s = 0; s < span_count; s++) tasks += (spans[s].count + rows - 1) / rows * pool->kv_heads;
    int64_t s = 0, before = 0;
    FOR_SHARE(t, task, 0, tasks, 1) {
        for (;; s++) {
            const int64_t own = (spans[s].count + rows - 1) / rows * pool->kv_heads;
            if (task < before + own) break;
            before += own;
        }
        const int64_t tile = (task - before) / pool->kv_heads, kv = (task - before) % pool->kv_heads;
        const int64_t from = tile * rows, left = spans[s].count - from;
        attend_tile(pool, spans + s, kv, from, left < rows ? left : rows, queries, stride, out, out_stride, scratch);
    }
}

// Store a token's rotated keys and its values, [kv_heads, width] each, at ``slot`` = page * 16 + place.
INLINE void store_token(const page_pool *pool, int64_t slot, const float *key, const float *value) {
    const int64_t width = pool->width, page = slot / PAGE, place = slot % PAGE;
    for (int64_t kv = 0; kv < pool->kv_heads; kv++) {
        const int64_t at = page * pool->stride + kv * PAGE * width;
        uint16_t halves[MAX_HEAD];
        for (int64_t d = 0; d < width; d += LANES) store_halves(halves + d, load(key + kv * width + d));
        for (int64_t d = 0; d < width; d++) pool->keys[at + d * PAGE + place] = halves[d];
        for (int64_t d = 0; d < width; d += LANES)
            store_halves(pool->values + at + place * width + d, load(value + kv * width + d));
    }
}
