// The kernels of one instruction set against plain loops in double precision. A program of its own, so that it runs under
// a sanitizer and under emulation: exit status 0, or 1 with what differs on stderr.

#include <stdio.h>
#include <stdlib.h>

#include "../../block_matmul/cpu.h"
#include "../../paged_attention/panels.h"

int ISA(pack)(const matrix *m, const uint8_t *const *rows, const int32_t *types);
void ISA(block_matmul)(const matrix *m, const float *x, int64_t tokens, float *out, const quantized *space, team *t);

static int failures = 0;
static uint64_t state = 1;

static float uniform(void) {  // in -1 … 1
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 11) / (1ull << 52) - 1.0);
}

// Exactly as large as asked, so that a sanitizer sees every step behind it.
static void *room(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes) || !memory) exit(2);
    memset(memory, 0, bytes);
    return memory;
}

static float *floats(int64_t count) {
    float *values = room(sizeof(float) * (size_t)count);
    for (int64_t i = 0; i < count; i++) values[i] = uniform();
    return values;
}

static void check(int holds, const char *what, double got, double wanted) {
    if (holds) return;
    if (failures++ < 10) fprintf(stderr, "%s: %.9g instead of %.9g\n", what, got, wanted);
}

static void check_halves(void) {
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const float value = half_to_float((uint16_t)bits);
        if (value == value) check(float_to_half(value) == bits, "half", float_to_half(value), bits);
    }
    uint16_t stored[PANEL];
    for (int round = 0; round < 1000; round++) {
        float values[PANEL], back[PANEL];
        for (int i = 0; i < PANEL; i++) values[i] = uniform() * 70000.0f * (round % 2 ? 1.0f : 1e-7f);
        for (int i = 0; i < PANEL; i += LANES) store_halves(stored + i, load(values + i));
        for (int i = 0; i < PANEL; i += LANES) store(back + i, load_halves(stored + i));
        for (int i = 0; i < PANEL; i++) {
            check(stored[i] == float_to_half(values[i]), "store_halves", stored[i], float_to_half(values[i]));
            check(back[i] == half_to_float(stored[i]), "load_halves", back[i], half_to_float(stored[i]));
        }
    }
}

static void check_exponential(void) {
    for (int round = 0; round < 2000; round++) {
        float in[LANES], out[LANES];
        for (int i = 0; i < LANES; i++) in[i] = uniform() * 87.0f;
        store(out, exponential(load(in)));
        for (int i = 0; i < LANES; i++)
            check(fabs(out[i] - exp(in[i])) <= 3e-7 * exp(in[i]), "exponential", out[i], exp(in[i]));
    }
    float low[LANES], out[LANES];
    for (int i = 0; i < LANES; i++) low[i] = -INFINITY;
    store(out, exponential(load(low)));
    check(out[0] == 0.0f, "exponential of -inf", out[0], 0.0);
}

static void check_product(int64_t rows, int64_t columns, int64_t tokens, int64_t bits, int64_t wide) {
    float *weights = floats(rows * columns), *x = floats(tokens * columns), *bias = floats(rows);
    float *held = room(sizeof(float) * (size_t)columns), *out = room(sizeof(float) * (size_t)(tokens * rows));
    matrix m = {rows, columns, bits, 32, bits == 8 ? 128 : 0, bits == 4, wide, NULL, bias};
    m.panels = room((size_t)(panel_count(&m) * panel_bytes(&m)));
    const uint8_t **starts = room(sizeof(*starts) * (size_t)rows);
    for (int64_t r = 0; r < rows; r++) starts[r] = (const uint8_t *)(weights + r * columns);
    int32_t *types = room(sizeof(*types) * (size_t)rows);
    check(!ISA(pack)(&m, starts, types), "pack", 1, 0);
    const size_t padded = (size_t)((tokens + 15) / 16 * 16 * columns);
    quantized space = {room(padded), room(padded), room(padded / 8), room(padded / 8), room(padded / 4)};
    team *t = ISA(team_new)(2);
    ISA(block_matmul)(&m, x, tokens, out, &space, t);
    ISA(team_free)(t);
    for (int64_t r = 0; r < rows; r++) {
        unpack_row(&m, r, held);
        for (int64_t k = 0; k < tokens; k++) {
            double sum = bias[r], size = 0.0;
            for (int64_t c = 0; c < columns; c++) {
                sum += (double)held[c] * x[k * columns + c];
                size += fabs((double)held[c]);
            }
            check(fabs(out[k * rows + r] - sum) <= size / (wide ? 16383 : 127), "product", out[k * rows + r], sum);
        }
    }
    void *all[] = {weights, x, bias, held, out, (void *)m.panels, starts, types, space.values, space.low, space.scales,
                   space.sums32, space.sums16};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

typedef struct {
    const page_pool *pool;
    const span *spans;
    const float *queries;
    float *out, *scratch;
    int64_t stride, room;
} question;

static void ask(member *own, void *argument) {
    const question *q = argument;
    attend(own, q->pool, q->spans, 2, q->queries, q->stride, q->out, q->stride, q->scratch + own->index * q->room);
    barrier(own);
}

// Two sequences, one decoding and one with several new tokens, on shuffled pages.
static void check_attention(int64_t heads, int64_t kv_heads, int64_t width, int64_t count, int64_t context) {
    const int64_t contexts[2] = {context, context + 7}, counts[2] = {1, count}, tokens = 1 + count, group = heads / kv_heads;
    const int64_t per_page = 2 * kv_heads * PAGE * width, blocks = (context + 7 + PAGE - 1) / PAGE;
    uint16_t *memory = room(sizeof(uint16_t) * (size_t)(2 * blocks * per_page));
    const page_pool pool = {heads, kv_heads, width, per_page, memory, memory + per_page / 2};
    int32_t *pages = room(sizeof(int32_t) * (size_t)(2 * blocks));
    for (int64_t i = 0; i < 2 * blocks; i++) pages[i] = (int32_t)(2 * blocks - 1 - i);
    float *keys = floats(2 * (context + 7) * kv_heads * width), *values = floats(2 * (context + 7) * kv_heads * width);
    for (int64_t s = 0; s < 2; s++)
        for (int64_t p = 0; p < contexts[s]; p++) {
            const int64_t at = (s * (context + 7) + p) * kv_heads * width;
            for (int64_t i = 0; i < kv_heads * width; i++) {  // as they will be stored
                keys[at + i] = half_to_float(float_to_half(keys[at + i]));
                values[at + i] = half_to_float(float_to_half(values[at + i]));
            }
            store_token(&pool, pages[s * blocks + p / PAGE] * (int64_t)PAGE + p % PAGE, keys + at, values + at);
        }
    const span spans[2] = {{0, 1, contexts[0], pages}, {1, count, contexts[1], pages + blocks}};
    const int64_t stride = heads * width, scratch = VECTORS * blocks * PAGE;
    float *queries = floats(tokens * stride), *out = room(sizeof(float) * (size_t)(tokens * stride));
    question asked = {&pool, spans, queries, out, room(sizeof(float) * (size_t)(2 * scratch)), stride, scratch};
    team *t = ISA(team_new)(2);
    ISA(team_run)(t, ask, &asked);
    ISA(team_free)(t);
    double *weights = room(sizeof(double) * (size_t)(context + 7));
    for (int64_t s = 0, row = 0; s < 2; s++)
        for (int64_t i = 0; i < counts[s]; i++, row++)
            for (int64_t h = 0; h < heads; h++) {
                const int64_t length = contexts[s] - counts[s] + i + 1;
                const float *query = queries + row * stride + h * width;
                double total = 0.0;
                for (int64_t p = 0; p < length; p++) {
                    const float *key = keys + ((s * (context + 7) + p) * kv_heads + h / group) * width;
                    double score = 0.0;
                    for (int64_t d = 0; d < width; d++) score += (double)query[d] * key[d];
                    total += weights[p] = exp(score);
                }
                for (int64_t d = 0; d < width; d++) {
                    double sum = 0.0;
                    for (int64_t p = 0; p < length; p++)
                        sum += weights[p] / total * values[((s * (context + 7) + p) * kv_heads + h / group) * width + d];
                    check(fabs(out[row * stride + h * width + d] - sum) < 1e-5, "attention",
                          out[row * stride + h * width + d], sum);
                }
            }
    void *all[] = {memory, pages, keys, values, queries, out, asked.scratch, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

int main(void) {
    check_halves();
    check_exponential();
    for (int64_t bits = 4; bits <= 8; bits += 4)
        for (int64_t wide = 0; wide < 2; wide++) {
            check_product(1, 32, 1, bits, wide);
            check_product(37, 64, 5, bits, wide);
            check_product(70, 96, 35, bits, wide);
        }
    check_attention(1, 1, 16, 1, 1);
    check_attention(6, 2, 32, 5, 33);
    check_attention(9, 3, 64, 40, 50);
    check_attention(2, 2, 80, 3, 16);
    if (failures) fprintf(stderr, "%d differences\n", failures);
    return failures > 0;
}
