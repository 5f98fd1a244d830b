// Causal attention over paged keys and values where a row's bits depend on its own sequence alone, on torch's threads.
//
// Rows of one sequence that lie together share the reading of its keys. Every sum runs over a row's own keys by their
// positions, so it does not show which rows were computed beside it, how large the pages are or where they lie.

#include <stdlib.h>

#include "../linear/cpu.h"

#define VECTORS 32  // queries that share one reading of a run of keys
#define RUN 64      // keys that are widened at once
#define DEPTH 4     // vectors of the values' width that are summed at once

// Mirrors kernels.exact_attention.cpu.CQuestion.
typedef struct {
    const void *query, *keys, *values;  // [tokens, heads, width] rows query_stride apart; [kv_heads, pages, page_size, width]
    void *out;                          // [tokens, heads, width]
    const int64_t *spans;               // [span_count, 3] first row, rows, tokens in the cache once these are written
    const int64_t *pages;               // [span_count, blocks]
    const float *sinks;                 // [heads] or NULL
    int64_t span_count, heads, kv_heads, width, page_count, page_size, blocks, query_stride;
    int64_t window;  // a row sees that many keys at most, its own included; 0 for all
    float scale;
} question;

// Rows [row, row + count) of the batch: consecutive tokens of a sequence, the first at position ``past``.
typedef struct {
    int64_t row, count, past, kv;
    const int64_t *pages;
} tile;

INLINE const void *element(const void *base, int64_t at, const int bf16) {
    return (const char *)base + at * (bf16 ? 2 : 4);
}

// to: [rows, padded] = scale * from: [rows, width], as floats, filled up with zeros.
INLINE void widen_rows(const void *from, float *to, int64_t rows, int64_t width, int64_t padded, float scale,
                       const int bf16) {
    for (int64_t i = 0; i < rows; i++, to += padded) {
        const float *floats = element(from, i * width, bf16);
        const uint16_t *halves = element(from, i * width, bf16);
        int64_t d = 0;
        for (; d + LANES <= width; d += LANES) store(to + d, (bf16 ? load_bf16(halves + d) : load(floats + d)) * scale);
        for (; d < padded; d++) to[d] = d >= width ? 0.0f : (bf16 ? from_bf16(halves[d]) : floats[d]) * scale;
    }
}

INLINE int64_t first_key(const question *q, int64_t position) {
    return q->window && position >= q->window ? position - q->window + 1 : 0;
}

// scores[v][at + i] = query v · key i of a run, for ``total`` queries; rows of scores are ``length`` apart.
INLINE void score_run(const float *queries, int64_t total, const float *keys, int64_t count, int64_t padded,
                      float *scores, int64_t length) {
    for (int64_t i = 0; i < count; i += QUAD) {
        const float *four[QUAD];
        for (int64_t j = 0; j < QUAD; j++) four[j] = keys + (i + j < count ? i + j : count - 1) * padded;
        for (int64_t v = 0; v < total; v += SIDE) {
            vf sums[SIDE][QUAD];
            const int64_t several = total - v < SIDE ? total - v : SIDE;
            dot_some(queries + v * padded, padded, four, padded, sums, several, 1);
            for (int64_t t = 0; t < several; t++) {
                float found[QUAD];
                sum_four(sums[t], found);
                for (int64_t j = 0; j < QUAD && i + j < count; j++) scores[(v + t) * length + i + j] = found[j];
            }
        }
    }
}

INLINE void add_columns(const float *weights, int64_t length, const float *values, int64_t count, int64_t padded,
                        float *out, const int queries, const int depth) {
    vf sums[4][DEPTH];
    UNROLL for (int q = 0; q < queries; q++)
        UNROLL for (int v = 0; v < depth; v++) sums[q][v] = load(out + q * padded + v * LANES);
    for (int64_t i = 0; i < count; i++) {
        vf value[DEPTH];
        UNROLL for (int v = 0; v < depth; v++) value[v] = load(values + i * padded + v * LANES);
        UNROLL for (int q = 0; q < queries; q++) {
            const vf weight = broadcast(weights[q * length + i]);
            UNROLL for (int v = 0; v < depth; v++) sums[q][v] = fused(weight, value[v], sums[q][v]);
        }
    }
    UNROLL for (int q = 0; q < queries; q++)
        UNROLL for (int v = 0; v < depth; v++) store(out + q * padded + v * LANES, sums[q][v]);
}

// out[v] += weights[v] · values of a run, key by key.
INLINE void add_run(const float *weights, int64_t length, int64_t total, const float *values, int64_t count,
                    int64_t padded, float *out) {
    for (int64_t d = 0; d < padded;) {
        const int deep = d + DEPTH * LANES <= padded;
        int64_t v = 0;
        for (; v + 4 <= total; v += 4) {
            if (deep) add_columns(weights + v * length, length, values + d, count, padded, out + v * padded + d, 4, DEPTH);
            else add_columns(weights + v * length, length, values + d, count, padded, out + v * padded + d, 4, 1);
        }
        for (; v < total; v++) {
            if (deep) add_columns(weights + v * length, length, values + d, count, padded, out + v * padded + d, 1, DEPTH);
            else add_columns(weights + v * length, length, values + d, count, padded, out + v * padded + d, 1, 1);
        }
        d += deep ? DEPTH * LANES : LANES;
    }
}

// Scores to exp(score - largest), 0 outside of [first, last); returns their sum, the sink's share included.
INLINE float weigh(const question *q, float *scores, int64_t first, int64_t last, int64_t length, int64_t head) {
    for (int64_t i = 0; i < first; i++) scores[i] = -INFINITY;
    for (int64_t i = last; i < length; i++) scores[i] = -INFINITY;
    vf largest = load(scores), total = {0};
    for (int64_t i = LANES; i < length; i += LANES) largest = larger(largest, load(scores + i));
    float peak = largest_lane(largest);
    if (q->sinks && q->sinks[head] > peak) peak = q->sinks[head];
    for (int64_t i = 0; i < length; i += LANES) {
        const vf weight = exponential(load(scores + i) - peak);
        store(scores + i, weight);
        total += weight;
    }
    return sum_lanes(total) + (q->sinks ? expf(q->sinks[head] - peak) : 0.0f);
}

// The next run of keys: those from ``position`` on that lie together in memory. Returns how many, and where in *at.
INLINE int64_t run_of(const question *q, const tile *t, int64_t position, int64_t last, int64_t *at) {
    const int64_t offset = position % q->page_size, page = t->pages[position / q->page_size];
    int64_t count = q->page_size - offset;
    if (count > RUN) count = RUN;
    if (count > last - position) count = last - position;
    *at = ((t->kv * q->page_count + page) * q->page_size + offset) * q->width;
    return count;
}

// The tile's queries over their keys; 1 if there is no memory for it.
INLINE int attend(const question *q, const tile *t, const int bf16) {
    const int64_t group = q->heads / q->kv_heads, total = t->count * group, width = q->width;
    const int64_t padded = (width + LANES - 1) / LANES * LANES, last = t->past + t->count;
    // Scores lie from a multiple of LANES on, so that a key's lane is that of its position.
    const int64_t open = first_key(q, t->past), begin = open / LANES * LANES;
    const int64_t length = (last - begin + LANES - 1) / LANES * LANES;
    float *queries = malloc(sizeof(float) * (size_t)((2 * total + RUN) * padded + total * (length + 1)));
    if (!queries) return 1;
    float *part = queries + total * padded, *run = part + total * padded, *scores = run + RUN * padded;
    float *sums = scores + total * length;
    memset(part, 0, sizeof(float) * (size_t)(total * padded));
    for (int64_t i = 0; i < t->count; i++) {
        const int64_t at = (t->row + i) * q->query_stride + t->kv * group * width;
        widen_rows(element(q->query, at, bf16), queries + i * group * padded, group, width, padded, q->scale, bf16);
    }
    for (int64_t at, count, p = open; p < last; p += count) {
        count = run_of(q, t, p, last, &at);
        widen_rows(element(q->keys, at, bf16), run, count, width, padded, 1.0f, bf16);
        score_run(queries, total, run, count, padded, scores + p - begin, length);
    }
    for (int64_t v = 0; v < total; v++) {
        const int64_t position = t->past + v / group;
        sums[v] = weigh(q, scores + v * length, first_key(q, position) - begin, position + 1 - begin, length,
                        t->kv * group + v % group);
    }
    for (int64_t at, count, p = open; p < last; p += count) {
        count = run_of(q, t, p, last, &at);
        widen_rows(element(q->values, at, bf16), run, count, width, padded, 1.0f, bf16);
        add_run(scores + p - begin, length, total, run, count, padded, part);
    }
    for (int64_t v = 0; v < total; v++) {
        const int64_t at = ((t->row + v / group) * q->heads + t->kv * group + v % group) * width;
        for (int64_t d = 0; d < width; d++) {
            const float value = part[v * padded + d] / sums[v];
            if (bf16) ((uint16_t *)q->out)[at + d] = to_bf16(value);
            else ((float *)q->out)[at + d] = value;
        }
    }
    free(queries);
    return 0;
}

INLINE int64_t rows_per_tile(const question *q) {
    const int64_t rows = VECTORS / (q->heads / q->kv_heads);
    return rows > 1 ? rows : 1;
}

INLINE tile tile_of(const question *q, int64_t task) {
    const int64_t rows = rows_per_tile(q);
    const int64_t *span = q->spans, *pages = q->pages;
    for (;; span += 3, pages += q->blocks) {
        const int64_t own = (span[1] + rows - 1) / rows * q->kv_heads;
        if (task < own) break;
        task -= own;
    }
    const int64_t from = task / q->kv_heads * rows, left = span[1] - from;
    return (tile){span[0] + from, left < rows ? left : rows, span[2] - span[1] + from, task % q->kv_heads, pages};
}

INLINE int answer(const question *q, const int bf16) {
    const int64_t rows = rows_per_tile(q);
    int64_t tasks = 0;
    int failed = 0;
    for (int64_t s = 0; s < q->span_count; s++) tasks += (q->spans[3 * s + 1] + rows - 1) / rows * q->kv_heads;
#pragma omp parallel for schedule(dynamic, 1) reduction(| : failed)
    for (int64_t task = 0; task < tasks; task++) {
        const tile t = tile_of(q, task);
        failed |= attend(q, &t, bf16);
    }
    return failed;
}

// 0, or 1 if there was no memory for the scores.
int ISA(exact_attention_f32)(const question *q) { return answer(q, 0); }
int ISA(exact_attention_bf16)(const question *q) { return answer(q, 1); }
