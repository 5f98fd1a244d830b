// The exact kernels of one instruction set against plain loops in double precision, with data exactly as large as said. A
// program of its own, like selftest.c, which includes what it tests.

#include <stdio.h>
#include <stdlib.h>

#include "../../exact_attention/cpu.c"
#include "../../linear/cpu.c"
#include "../../pointwise/cpu.c"
#include "../../rms_norm/cpu.c"
#include "../../rope/cpu.c"
#include "../../softmax/cpu.c"

static int failures = 0;
static uint64_t state = 1;

static float uniform(void) {  // in -1 … 1
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 11) / (1ull << 52) - 1.0);
}

static void *room(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) exit(2);
    return memory;
}

// The same random numbers twice: as the kernels of a type read them, and as doubles.
typedef struct {
    void *held;
    double *truth;
} numbers;

static numbers random_numbers(int64_t count, int bf16) {
    numbers made = {room((size_t)(count * (bf16 ? 2 : 4))), room(sizeof(double) * (size_t)count)};
    for (int64_t i = 0; i < count; i++) {
        const float value = bf16 ? from_bf16(to_bf16(uniform())) : uniform();
        if (bf16) ((uint16_t *)made.held)[i] = to_bf16(value);
        else ((float *)made.held)[i] = value;
        made.truth[i] = value;
    }
    return made;
}

static void drop(numbers made) {
    free(made.held);
    free(made.truth);
}

static void check(const char *what, double got, double wanted, double bound) {
    if (fabs(got - wanted) <= bound) return;
    if (failures++ < 10) fprintf(stderr, "%s: %.9g instead of %.9g\n", what, got, wanted);
}

static double got_at(const void *out, int64_t at, int bf16) {
    return bf16 ? from_bf16(((const uint16_t *)out)[at]) : ((const float *)out)[at];
}

static void check_linear(int64_t tokens, int64_t rows, int64_t columns, int bf16) {
    const numbers x = random_numbers(tokens * columns, bf16), w = random_numbers(rows * columns, bf16);
    const numbers bias = random_numbers(rows, bf16);
    const int64_t padded = (columns + STEP - 1) / STEP * STEP;
    void *out = room((size_t)(tokens * rows * (bf16 ? 2 : 4)));
    float *space = room(sizeof(float) * (size_t)(tokens * padded));
    const product asked = {x.held, w.held, bias.held, out, space, tokens, rows, columns, columns, 0};
    if (bf16) ISA(linear_bf16)(&asked);
    else ISA(linear_f32)(&asked);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t r = 0; r < rows; r++) {
            double sum = bias.truth[r];
            for (int64_t k = 0; k < columns; k++) sum += x.truth[t * columns + k] * w.truth[r * columns + k];
            check("linear", got_at(out, t * rows + r, bf16), sum, (bf16 ? 4e-3 : 1e-6) * (fabs(sum) + sqrt((double)columns)));
        }
    drop(x), drop(w), drop(bias);
    free(out), free(space);
}

// One sequence of ``context`` tokens, the last ``count`` of them asked, on pages in reverse order.
static void check_attention(int64_t heads, int64_t kv_heads, int64_t width, int64_t count, int64_t context,
                            int64_t page_size, int64_t window, int bf16) {
    const int64_t pages = (context + page_size - 1) / page_size, spans[3] = {0, count, context};
    const numbers query = random_numbers(count * heads * width, bf16);
    const numbers keys = random_numbers(kv_heads * pages * page_size * width, bf16);
    const numbers values = random_numbers(kv_heads * pages * page_size * width, bf16);
    void *out = room((size_t)(count * heads * width * (bf16 ? 2 : 4)));
    int64_t *table = room(sizeof(int64_t) * (size_t)pages);
    double *weights = room(sizeof(double) * (size_t)context);
    float *sinks = room(sizeof(float) * (size_t)heads);
    for (int64_t p = 0; p < pages; p++) table[p] = pages - 1 - p;
    for (int64_t h = 0; h < heads; h++) sinks[h] = uniform();
    const question asked = {query.held, keys.held, values.held, out, spans, table, sinks, 1, heads, kv_heads, width,
                            pages, page_size, pages, heads * width, window, 0.5f};
    if (bf16 ? ISA(exact_attention_bf16)(&asked) : ISA(exact_attention_f32)(&asked)) check("memory", 1, 0, 0);
    for (int64_t i = 0; i < count; i++)
        for (int64_t h = 0; h < heads; h++) {
            const int64_t last = context - count + i, first = window && last >= window ? last - window + 1 : 0;
            double total = exp(sinks[h]);
#define KEY(p) (((h / (heads / kv_heads) * pages + table[(p) / page_size]) * page_size + (p) % page_size) * width)
            for (int64_t p = first; p <= last; p++) {
                double score = 0.0;
                for (int64_t d = 0; d < width; d++)
                    score += 0.5 * query.truth[(i * heads + h) * width + d] * keys.truth[KEY(p) + d];
                total += weights[p] = exp(score);
            }
            for (int64_t d = 0; d < width; d++) {
                double sum = 0.0;
                for (int64_t p = first; p <= last; p++) sum += weights[p] / total * values.truth[KEY(p) + d];
                check("attention", got_at(out, (i * heads + h) * width + d, bf16), sum, bf16 ? 5e-3 : 1e-5);
            }
        }
    drop(query), drop(keys), drop(values);
    free(out), free(table), free(weights), free(sinks);
}

static void check_rows(int64_t rows, int64_t width, int bf16) {
    const numbers x = random_numbers(rows * width, bf16), y = random_numbers(rows * width, bf16);
    void *out = room((size_t)(rows * width * (bf16 ? 2 : 4)));
    const double bound = bf16 ? 2e-2 : 1e-5;
    const pointwise gate = {x.held, y.held, out, rows, width, width, width, SILU};
    if (bf16) ISA(pointwise_bf16)(&gate);
    else ISA(pointwise_f32)(&gate);
    for (int64_t i = 0; i < rows * width; i++)
        check("silu", got_at(out, i, bf16), x.truth[i] / (1 + exp(-x.truth[i])) * y.truth[i], bound);
    const norm asked = {x.held, y.held, out, rows, width, width, 1e-5f};
    if (bf16) ISA(rms_norm_bf16)(&asked);
    else ISA(rms_norm_f32)(&asked);
    for (int64_t r = 0; r < rows; r++) {
        double squares = 0.0;
        for (int64_t i = 0; i < width; i++) squares += x.truth[r * width + i] * x.truth[r * width + i];
        for (int64_t i = 0; i < width; i++)
            check("norm", got_at(out, r * width + i, bf16),
                  x.truth[r * width + i] / sqrt(squares / (double)width + 1e-5) * y.truth[i], bound * 3);
    }
    drop(x), drop(y);
    free(out);
}

static void check_softmax(int64_t rows, int64_t width) {
    const numbers x = random_numbers(rows * width, 0);
    float *out = room(sizeof(float) * (size_t)(rows * width)), *sums = room(sizeof(float) * (size_t)rows);
    ISA(softmax)(x.held, out, rows, width, width);
    ISA(log_sum_exp)(x.held, sums, rows, width, width);
    for (int64_t r = 0; r < rows; r++) {
        double total = 0.0;
        for (int64_t i = 0; i < width; i++) total += exp(x.truth[r * width + i]);
        check("log_sum_exp", sums[r], log(total), 1e-5);
        for (int64_t i = 0; i < width; i++) check("softmax", out[r * width + i], exp(x.truth[r * width + i]) / total, 1e-6);
    }
    drop(x);
    free(out), free(sums);
}

static void check_angles(void) {
    const int64_t positions[3] = {0, 5, 1234};
    const float frequencies[5] = {1.0f, 0.5f, 0.1f, 0.01f, 0.001f};
    float out[2 * 3 * 5];
    ISA(rope_angles)(positions, frequencies, out, 3, 5);
    for (int r = 0; r < 3; r++)
        for (int i = 0; i < 5; i++) {
            const double angle = (double)((float)positions[r] * frequencies[i]);
            check("cosine", out[r * 5 + i], cos(angle), 1e-6);
            check("sine", out[15 + r * 5 + i], sin(angle), 1e-6);
        }
}

int main(void) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check_linear(1, 1, 1, bf16);
        check_linear(3, 5, 33, bf16);
        check_linear(20, 37, 64, bf16);
        check_linear(9, 18, 1057, bf16);
        check_attention(1, 1, 8, 1, 1, 4, 0, bf16);
        check_attention(6, 2, 20, 13, 77, 16, 0, bf16);
        check_attention(9, 3, 64, 40, 50, 50, 0, bf16);
        check_attention(4, 1, 32, 5, 90, 4, 11, bf16);
        check_rows(1, 1, bf16);
        check_rows(7, 45, bf16);
        check_rows(3, 64, bf16);
    }
    check_softmax(1, 1);
    check_softmax(5, 77);
    check_angles();
    if (failures) fprintf(stderr, "%d differences\n", failures);
    return failures > 0;
}
