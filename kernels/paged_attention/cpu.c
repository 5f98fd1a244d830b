// Decode attention over pages in torch's layout: one new token per sequence, straight from the pages, no gather.
//
// Every (sequence, key-value head) is one task whose sums run in a fixed order, so a row's result does not depend on
// what else is in the batch. A page is widened to float32 once for all query heads of its group.

#include <stdlib.h>

#include "panels.h"

INLINE float from_f32(float value) { return value; }
INLINE float to_f32(float value) { return value; }

INLINE float dot(const float *a, const float *b, int64_t padded) {
    vf sum = {0};
    for (int64_t d = 0; d < padded; d += LANES) sum = fused(load(a + d), load(b + d), sum);
    return sum_lanes(sum);
}

// One query head's share of a page: part[d] += sum over the page's keys of weights[i] * tile[i][d].
INLINE void accumulate(float *part, const float *weights, const float *tile, int64_t keys, int64_t padded) {
    for (int64_t d = 0; d < padded; d += LANES) {
        vf sum = load(part + d);
        for (int64_t i = 0; i < keys; i++) sum = fused(broadcast(weights[i]), load(tile + i * padded + d), sum);
        store(part + d, sum);
    }
}

// query, out: [rows, heads, width]; keys, values: [kv_heads, page_count, page_size, width];
// table: [rows, blocks] page of each block; contexts: [rows] tokens of each sequence, at least 1.
// Rows are padded with zeros to whole vectors. Returns 0, or 1 if there was no memory for the scores.
#define DEFINE_DECODE(NAME, TYPE, FROM, TO)                                                                          \
    INLINE void NAME##_widen(const TYPE *page, float *tile, int64_t keys, int64_t width, int64_t padded) {           \
        for (int64_t i = 0; i < keys; i++)                                                                           \
            for (int64_t d = 0; d < padded; d++) tile[i * padded + d] = d < width ? FROM(page[i * width + d]) : 0.0f; \
    }                                                                                                                \
    INLINE int NAME##_task(const TYPE *query, const TYPE *keys, const TYPE *values, const int64_t *pages,            \
                           int64_t context, TYPE *out, int64_t group, int64_t page_size, float scale,                \
                           const int64_t width) {                                                                    \
        const int64_t padded = (width + LANES - 1) / LANES * LANES, length = (context + PAGE - 1) / PAGE * PAGE;     \
        float *scores = malloc(sizeof(float) * (size_t)(group * (length + 2 * padded) + page_size * padded));        \
        if (scores == NULL) return 1;                                                                                \
        float *wide = scores + group * length, *part = wide + group * padded, *tile = part + group * padded;         \
        for (int64_t g = 0; g < group; g++)                                                                          \
            for (int64_t d = 0; d < padded; d++)                                                                     \
                wide[g * padded + d] = d < width ? FROM(query[g * width + d]) * scale : 0.0f;                        \
        memset(part, 0, sizeof(float) * (size_t)(group * padded));                                                   \
        for (int64_t start = 0; start < context; start += page_size) {                                               \
            const int64_t held = context - start < page_size ? context - start : page_size;                          \
            NAME##_widen(keys + pages[start / page_size] * page_size * width, tile, held, width, padded);            \
            for (int64_t g = 0; g < group; g++)                                                                      \
                for (int64_t i = 0; i < held; i++)                                                                   \
                    scores[g * length + start + i] = dot(wide + g * padded, tile + i * padded, padded);              \
        }                                                                                                            \
        float totals[MAX_HEAD];                                                                                      \
        for (int64_t g = 0; g < group; g++) totals[g] = weigh(scores + g * length, context, length);                 \
        for (int64_t start = 0; start < context; start += page_size) {                                               \
            const int64_t held = context - start < page_size ? context - start : page_size;                          \
            NAME##_widen(values + pages[start / page_size] * page_size * width, tile, held, width, padded);          \
            for (int64_t g = 0; g < group; g++)                                                                      \
                accumulate(part + g * padded, scores + g * length + start, tile, held, padded);                      \
        }                                                                                                            \
        for (int64_t g = 0; g < group; g++)                                                                          \
            for (int64_t d = 0; d < width; d++) out[g * width + d] = TO(part[g * padded + d] / totals[g]);           \
        free(scores);                                                                                                \
        return 0;                                                                                                    \
    }                                                                                                                \
    int ISA(NAME)(const TYPE *query, const TYPE *keys, const TYPE *values, const int64_t *table,                     \
                  const int32_t *contexts, TYPE *out, int64_t rows, int64_t heads, int64_t kv_heads, int64_t width,  \
                  int64_t page_count, int64_t page_size, int64_t blocks, float scale) {                              \
        const int64_t group = heads / kv_heads;                                                                      \
        int failed = 0;                                                                                              \
        _Pragma("omp parallel for schedule(dynamic, 4) reduction(| : failed)")                                       \
        for (int64_t task = 0; task < rows * kv_heads; task++) {                                                     \
            const int64_t row = task / kv_heads, kv = task % kv_heads;                                               \
            const int64_t first = (row * heads + kv * group) * width, head = kv * page_count * page_size * width;    \
            const int64_t *pages = table + row * blocks;                                                             \
            if (width == 64)                                                                                         \
                failed |= NAME##_task(query + first, keys + head, values + head, pages, contexts[row], out + first,  \
                                      group, page_size, scale, 64);                                                  \
            else if (width == 128)                                                                                   \
                failed |= NAME##_task(query + first, keys + head, values + head, pages, contexts[row], out + first,  \
                                      group, page_size, scale, 128);                                                 \
            else                                                                                                     \
                failed |= NAME##_task(query + first, keys + head, values + head, pages, contexts[row], out + first,  \
                                      group, page_size, scale, width);                                               \
        }                                                                                                            \
        return failed;                                                                                               \
    }

DEFINE_DECODE(decode_bf16, uint16_t, from_bf16, to_bf16)
DEFINE_DECODE(decode_f32, float, from_f32, to_f32)
