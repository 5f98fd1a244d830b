// Decode attention over paged keys and values: one new token per sequence, straight from the pages, no gather.
//
// Every (sequence, key-value head) is one task whose sums run in a fixed order, so a row's result does not depend on
// what else is in the batch. A page is widened to float32 once for all query heads of its group.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WIDTH 256
#define MAX_PAGE 64
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE float from_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

ALWAYS_INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}

ALWAYS_INLINE float from_f32(float value) { return value; }
ALWAYS_INLINE float to_f32(float value) { return value; }

// Exponentials of the scores in place, relative to the largest; returns their sum.
static float exponentiate(float *scores, int64_t count) {
    float largest = scores[0], total = 0.0f;
    for (int64_t i = 1; i < count; i++) largest = scores[i] > largest ? scores[i] : largest;
    for (int64_t i = 0; i < count; i++) scores[i] = expf(scores[i] - largest);
    for (int64_t i = 0; i < count; i++) total += scores[i];
    return total;
}

ALWAYS_INLINE float dot(const float *a, const float *b, const int64_t width) {
    float sum = 0.0f;
    for (int64_t d = 0; d < width; d++) sum += a[d] * b[d];
    return sum;
}

// One query head's share of a page: part[d] += sum over the page's keys of weights[i] * tile[i][d].
ALWAYS_INLINE void accumulate(float *part, const float *weights, const float *tile, int64_t keys, const int64_t width) {
    float sums[MAX_WIDTH];
    for (int64_t d = 0; d < width; d++) sums[d] = part[d];
    for (int64_t i = 0; i < keys; i++)
        for (int64_t d = 0; d < width; d++) sums[d] += weights[i] * tile[i * width + d];
    for (int64_t d = 0; d < width; d++) part[d] = sums[d];
}

// query, out: [rows, heads, width]; keys, values: [kv_heads, page_count, page_size, width];
// table: [rows, blocks] page of each block; contexts: [rows] tokens of each sequence, at least 1.
// Returns 0, or 1 if there was no memory for the scores.
#define DEFINE_DECODE(NAME, TYPE, FROM, TO)                                                                          \
    ALWAYS_INLINE int NAME##_task(const TYPE *query, const TYPE *keys, const TYPE *values, const int64_t *pages,     \
                                  int64_t context, TYPE *out, int64_t group, int64_t page_size, float scale,         \
                                  const int64_t width) {                                                             \
        float *scores = malloc(sizeof(float) * (size_t)(group * (context + 2 * width)));                             \
        if (scores == NULL) return 1;                                                                                \
        float *wide = scores + group * context, *part = wide + group * width;                                        \
        float tile[MAX_PAGE * MAX_WIDTH];                                                                            \
        for (int64_t d = 0; d < group * width; d++) wide[d] = FROM(query[d]) * scale;                                \
        memset(part, 0, sizeof(float) * (size_t)(group * width));                                                    \
        for (int64_t start = 0; start < context; start += page_size) {                                               \
            const int64_t held = context - start < page_size ? context - start : page_size;                          \
            const TYPE *page = keys + pages[start / page_size] * page_size * width;                                  \
            for (int64_t d = 0; d < held * width; d++) tile[d] = FROM(page[d]);                                      \
            for (int64_t g = 0; g < group; g++)                                                                      \
                for (int64_t i = 0; i < held; i++)                                                                   \
                    scores[g * context + start + i] = dot(wide + g * width, tile + i * width, width);                \
        }                                                                                                            \
        float totals[MAX_WIDTH];                                                                                     \
        for (int64_t g = 0; g < group; g++) totals[g] = exponentiate(scores + g * context, context);                 \
        for (int64_t start = 0; start < context; start += page_size) {                                               \
            const int64_t held = context - start < page_size ? context - start : page_size;                          \
            const TYPE *page = values + pages[start / page_size] * page_size * width;                                \
            for (int64_t d = 0; d < held * width; d++) tile[d] = FROM(page[d]);                                      \
            for (int64_t g = 0; g < group; g++)                                                                      \
                accumulate(part + g * width, scores + g * context + start, tile, held, width);                       \
        }                                                                                                            \
        for (int64_t g = 0; g < group; g++)                                                                          \
            for (int64_t d = 0; d < width; d++) out[g * width + d] = TO(part[g * width + d] / totals[g]);            \
        free(scores);                                                                                                \
        return 0;                                                                                                    \
    }                                                                                                                \
    int NAME(const TYPE *query, const TYPE *keys, const TYPE *values, const int64_t *table, const int32_t *contexts, \
             TYPE *out, int64_t rows, int64_t heads, int64_t kv_heads, int64_t width, int64_t page_count,            \
             int64_t page_size, int64_t blocks, float scale) {                                                       \
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
