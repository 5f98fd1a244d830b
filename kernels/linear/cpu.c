// out = x @ w.T + bias for float32 and bfloat16, on torch's threads.

#include "cpu.h"

#define GROUP 16    // rows of weights that a thread takes at once
#define BLOCK 128   // rows of activations, at most, that stay in the second cache while all weights pass by
#define CACHED (1 << 18)  // floats that they have, at most

// Mirrors kernels.linear.exact.CProduct.
typedef struct {
    const void *x, *w, *bias;  // [tokens, columns] rows x_stride apart, [rows, columns], [rows] or NULL; of one type
    void *out;                 // [tokens, rows], of that type or float
    float *room;               // [tokens, columns filled up to STEP]
    int64_t tokens, rows, columns, x_stride, wide_out;
} product;

// Columns as floats in the order in which they are summed, filled up with zeros to ``padded``, a multiple of STEP.
// bfloat16: of each STEP the even columns, then the odd ones, since a shift and a mask split the words like that.
INLINE void widen_step(const uint16_t *from, float *to) {
    vi words;
    memcpy(&words, from, sizeof words);
    store(to, (vf)(words << 16));
    store(to + LANES, (vf)(words & ~0xffff));
}

INLINE void widen(const void *from, float *to, int64_t columns, int64_t padded, const int bf16) {
    if (!bf16) {
        memcpy(to, from, sizeof(float) * (size_t)columns);
        memset(to + columns, 0, sizeof(float) * (size_t)(padded - columns));
        return;
    }
    const uint16_t *values = from;
    int64_t k = 0;
    for (; k + STEP <= columns; k += STEP) widen_step(values + k, to + k);
    if (k == padded) return;
    uint16_t last[STEP] = {0};
    memcpy(last, values + k, sizeof(uint16_t) * (size_t)(columns - k));
    widen_step(last, to + k);
}

INLINE const void *row_of(const void *base, int64_t element, const int bf16) {
    return (const char *)base + element * (bf16 ? 2 : 4);
}

// Four rows of weights from ``row`` on, ``count`` columns from ``from`` on, as floats; those behind the last repeat it.
INLINE void stretch(const product *p, int64_t row, int64_t from, int64_t count, float (*room)[STRETCH],
                    const float **to, const int bf16) {
    const int64_t held = p->columns - from < count ? p->columns - from : count;
    for (int i = 0; i < QUAD; i++) {
        const int64_t at = row + i < p->rows ? row + i : p->rows - 1;
        const void *source = row_of(p->w, at * p->columns + from, bf16);
        to[i] = room[i];
        if (!bf16 && held == count) to[i] = source;
        else widen(source, room[i], held, count, bf16);
    }
}

INLINE void give(const product *p, int64_t token, int64_t row, const vf *sums, const int bf16) {
    float four[QUAD];
    sum_four(sums, four);
    for (int64_t i = 0; i < QUAD && row + i < p->rows; i++) {
        const int64_t at = token * p->rows + row + i;
        float value = four[i];
        if (p->bias) value += bf16 ? from_bf16(((const uint16_t *)p->bias)[row + i]) : ((const float *)p->bias)[row + i];
        if (bf16 && !p->wide_out) ((uint16_t *)p->out)[at] = to_bf16(value);
        else ((float *)p->out)[at] = value;
    }
}

// The tokens first … last-1 times four rows of weights. Tiles of tokens are as equal as they can be.
INLINE void multiply_quad(const product *p, const float *x, int64_t stride, int64_t first, int64_t last, int64_t row,
                          const int bf16) {
    const int64_t padded = (p->columns + STEP - 1) / STEP * STEP, count = last - first;
    const int64_t tiles = (count + SIDE - 1) / SIDE, least = count / tiles, longer = count % tiles;
    float room[QUAD][STRETCH];
    vf sums[BLOCK][QUAD];
    for (int64_t from = 0; from < padded; from += STRETCH) {
        const int64_t columns = padded - from < STRETCH ? padded - from : STRETCH;
        const float *w[QUAD];
        stretch(p, row, from, columns, room, w, bf16);
        for (int64_t tile = 0, t = 0; tile < tiles; tile++) {
            const int64_t tokens = least + (tile < longer);
            dot_some(x + (first + t) * stride + from, stride, w, columns, sums + t, tokens, from == 0);
            if (from + columns == padded)
                for (int64_t i = t; i < t + tokens; i++) give(p, first + i, row, sums[i], bf16);
            t += tokens;
        }
    }
}

INLINE void multiply(const product *p, const int bf16) {
    const int64_t padded = (p->columns + STEP - 1) / STEP * STEP;
    const int direct = !bf16 && padded == p->columns;
    const float *x = direct ? p->x : p->room;
    const int64_t stride = direct ? p->x_stride : padded;
    const int64_t fitting = CACHED / padded, block = fitting > BLOCK ? BLOCK : fitting > SIDE ? fitting : SIDE;
    const int64_t blocks = (p->tokens + block - 1) / block, groups = (p->rows + GROUP - 1) / GROUP;
#pragma omp parallel
    {
        if (!direct) {
#pragma omp for schedule(static)
            for (int64_t t = 0; t < p->tokens; t++)
                widen(row_of(p->x, t * p->x_stride, bf16), p->room + t * padded, p->columns, padded, bf16);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < blocks * groups; task++) {
            const int64_t first = task / groups * block, row = task % groups * GROUP;
            const int64_t last = first + block < p->tokens ? first + block : p->tokens;
            for (int64_t r = row; r < row + GROUP && r < p->rows; r += QUAD)
                multiply_quad(p, x, stride, first, last, r, bf16);
        }
    }
}

void ISA(linear_f32)(const product *p) { multiply(p, 0); }
void ISA(linear_bf16)(const product *p) { multiply(p, 1); }
