// The product of a panel with tiles of tokens, and the whole product alone, for tests and for measuring.

#include "cpu.h"

#define TILE (LANES == 16 ? 16 : 4)  // tokens that share one unpacking of the weights: as many as registers hold
#define AHEAD 2048  // bytes of weights that are fetched before they are needed
#define TOGETHER 4  // tokens, at least, whose dot products run beside each other, since each is a chain

// The columns 4c … 4c+3 of the rows of a vector.
INLINE vb unpacked(const uint8_t *block, int c, const int bits) {
    return bits == 8 ? load_bytes(block + 64 * c) : nibbles(load_bytes(block + 64 * (c % 4)), c / 4);
}

// Four more columns of a block; ``whole`` makes lanes of 32 bits of the sums at its end.
INLINE vi add_dots(vi sums, vb weights, const int8_t *values, const int bits) {
    return bits == 4 ? dot4_nibbles(sums, weights, values) : dot4(sums, weights, values);
}
INLINE vi whole(vi sums, const int bits) { return bits == 4 ? widened(sums) : sums; }

// One vector of a panel's rows times ``tokens`` tokens of one sixteen: sums[t] over all blocks, in the order of the
// blocks. ``fresh`` says that the weights come from memory. The constants unroll it; every instance adds in the same
// order, so the tile's size does not show in the result.
INLINE void multiply_rows(const matrix *m, const uint8_t *block, int64_t vec, const quantized *x, int64_t first,
                          int fresh, vf *sums, const int tokens, const int bits, const int group,
                          const int wide) {
    const int together = wide ? 2 * TOGETHER : TOGETHER, beside = tokens < together ? tokens : together;
    const int64_t blocks = m->columns / BLOCK, at = first / 16 * blocks, lane = first % 16;
    const int64_t stride = bits * 64 + BLOCK / group * PANEL * 2 * (1 + m->has_minima);
    const float offset = -(float)m->offset;
    const int8_t *values = x->values + (at * 16 + lane) * BLOCK, *lower = x->low + (at * 16 + lane) * BLOCK;
    const float *scales = x->scales + at * 16 + lane;
    const float *token_sums = (group == 16 ? x->sums16 + 2 * at * 16 : x->sums32 + at * 16) + lane;
    vf total[TILE];
    UNROLL for (int t = 0; t < tokens; t++) total[t] = (vf){0};
    for (int64_t b = 0; b < blocks; b++, block += stride, values += 16 * BLOCK, lower += 16 * BLOCK, scales += 16) {
        // The hardware's own prefetching leaves two thirds of the memory's speed unused.
        if (fresh)
            for (int64_t i = 0; i < stride; i += 64) __builtin_prefetch(block + AHEAD + i);
        const uint16_t *halves = (const uint16_t *)(block + bits * 64) + LANES * vec;
        UNROLL for (int g = 0; g < BLOCK / group; g++, token_sums += 16) {
            const vf scale = load_halves(halves + PANEL * g);
            const vf minimum = m->has_minima ? load_halves(halves + PANEL * (BLOCK / group + g)) : scale * offset;
            UNROLL for (int t = 0; t < tokens; t += together) {
                vi dot[2 * TOGETHER] = {{0}}, low[2 * TOGETHER] = {{0}};
                UNROLL for (int c = g * group / 4; c < (g + 1) * group / 4; c++) {
                    const vb weights = unpacked(block + 4 * LANES * vec, c, bits);
                    UNROLL for (int i = 0; i < beside; i++) {
                        dot[i] = add_dots(dot[i], weights, values + (t + i) * BLOCK + 4 * c, bits);
                        if (wide) low[i] = add_dots(low[i], weights, lower + (t + i) * BLOCK + 4 * c, bits);
                    }
                }
                UNROLL for (int i = 0; i < beside; i++) {
                    const vi high = whole(dot[i], bits);
                    const vf product = to_floats(wide ? (high << 7) + whole(low[i], bits) : high) * scales[t + i];
                    total[t + i] = fused(product, scale, total[t + i]);
                    total[t + i] = fused(minimum, broadcast(token_sums[t + i]), total[t + i]);
                }
            }
        }
    }
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = total[t];
}

// out[token, row] = or += the product of a panel with ``tokens`` tokens from ``first`` on.
INLINE void multiply_tile(const matrix *m, int64_t panel, const quantized *x, int64_t first, int fresh, float *out,
                          int add, const int tokens, const int bits, const int group, const int wide) {
    const int64_t row = panel * PANEL;
    const uint8_t *bytes = m->panels + panel * panel_bytes(m);
    for (int64_t vec = 0; vec < VECS; vec++) {
        vf sums[TILE];
        multiply_rows(m, bytes, vec, x, first, fresh && vec == 0, sums, tokens, bits, group, wide);
        const int64_t at = row + vec * LANES, left = m->rows - at;
        for (int t = 0; t < tokens; t++) {
            float *to = out + (first + t) * m->rows + at;
            if (left >= LANES) {
                vf sum = sums[t];
                if (m->bias) sum += load(m->bias + at);
                store(to, add ? load(to) + sum : sum);
            } else {
                for (int64_t i = 0; i < left; i++) {
                    const float sum = sums[t][i] + (m->bias ? m->bias[at + i] : 0.0f);
                    to[i] = add ? to[i] + sum : sum;
                }
            }
        }
    }
}

#define DEFINE_MULTIPLY(BITS, GROUP, WIDE)                                                                            \
    static void multiply_##BITS##_##GROUP##_##WIDE(const matrix *m, int64_t panel, const quantized *x, int64_t from,  \
                                                   int64_t to, float *out, int add) {                                 \
        int64_t t = from;                                                                                             \
        for (; t + TILE <= to; t += TILE) multiply_tile(m, panel, x, t, t == from, out, add, TILE, BITS, GROUP, WIDE); \
        for (; t + 4 <= to; t += 4) multiply_tile(m, panel, x, t, t == from, out, add, 4, BITS, GROUP, WIDE);         \
        for (; t < to; t++) multiply_tile(m, panel, x, t, t == from, out, add, 1, BITS, GROUP, WIDE);                 \
    }

DEFINE_MULTIPLY(4, 16, 0)
DEFINE_MULTIPLY(4, 16, 1)
DEFINE_MULTIPLY(4, 32, 0)
DEFINE_MULTIPLY(4, 32, 1)
DEFINE_MULTIPLY(8, 16, 0)
DEFINE_MULTIPLY(8, 16, 1)
DEFINE_MULTIPLY(8, 32, 0)
DEFINE_MULTIPLY(8, 32, 1)

typedef void (*multiplier)(const matrix *, int64_t, const quantized *, int64_t, int64_t, float *, int);

static const multiplier MULTIPLIERS[2][2][2] = {  // by 8 bits, groups of 32, wide
    {{multiply_4_16_0, multiply_4_16_1}, {multiply_4_32_0, multiply_4_32_1}},
    {{multiply_8_16_0, multiply_8_16_1}, {multiply_8_32_0, multiply_8_32_1}},
};

void ISA(multiply_panel)(const matrix *m, int64_t panel, const quantized *x, int64_t from, int64_t to, float *out,
                         int add) {
    MULTIPLIERS[m->bits == 8][m->group == 32][m->wide](m, panel, x, from, to, out, add);
}

typedef struct {
    const matrix *matrix;
    const float *x;
    int64_t tokens;
    float *out;
    const quantized *space;
} product;

static void compute(member *own, void *argument) {
    const product *p = argument;
    FOR_SHARE(own, t, 0, p->tokens, 16) quantize_row(p->x + t * p->matrix->columns, p->matrix, t, p->space);
    barrier(own);
    multiply(own, p->matrix, p->space, 0, p->tokens, p->out, 0);
    barrier(own);
}

// out: [tokens, rows] f32 = x @ m.T; x: [tokens, columns] f32; space: room for the quantised x.
void ISA(block_matmul)(const matrix *m, const float *x, int64_t tokens, float *out, const quantized *space, team *t) {
    product asked = {m, x, tokens, out, space};
    ISA(team_run)(t, compute, &asked);
}

// out: [columns] f32, one row of the matrix.
void ISA(block_row)(const matrix *m, int64_t row, float *out) { unpack_row(m, row, out); }
