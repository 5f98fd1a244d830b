// Products with weights that stay in 4 or 8 bits, and activations in 8 bits per block of 32.
//
// A weight is scale * q + minimum with q unsigned; scale and minimum are shared by a group of 16 or 32 along a row. Rows
// lie in panels of 16, block by block of 32 columns, so that one pass over the bytes serves every token of a tile:
//
//   4 bits: 4 chunks of 64 bytes; byte 4 * row + j of chunk c holds column 4c + j low and column 16 + 4c + j high
//   8 bits: 8 chunks of 64 bytes; byte 4 * row + j of chunk c holds column 4c + j
//   then 16 scales per group as halves, and 16 minima per group if the format has them; else minimum = -offset * scale
#pragma once

#include "../native/simd.h"
#include "../native/team.h"

#define BLOCK 32
#define TILE (LANES == 16 ? 16 : 4)  // tokens that share one unpacking of the weights: as many as registers hold
#ifndef TOGETHER
#define AHEAD 2048  // bytes of weights that are fetched before they are needed
#define TOGETHER 4
#endif  // tokens whose dot products run beside each other, since each is a chain

// Mirrors kernels.block_matmul.matrix.CMatrix.
typedef struct {
    int64_t rows, columns;
    int64_t bits, group, offset, has_minima;
    const uint8_t *panels;
    const float *bias;  // [rows] or NULL
} matrix;

// Activations in 8 bits, values * scales, with sums of the scaled values over 32 and over 16 columns. Sixteen tokens lie
// together, block by block, so that a tile reads them one after another.
typedef struct {
    int8_t *values;  // [tokens / 16, columns / 32, 16, 32]
    float *scales;   // [tokens / 16, columns / 32, 16]
    float *sums32;   // [tokens / 16, columns / 32, 16]
    float *sums16;   // [tokens / 16, columns / 32, 2, 16]
} quantized;

INLINE int64_t panel_bytes(const matrix *m) {
    const int64_t groups = BLOCK / m->group;
    return m->columns / BLOCK * (m->bits * 64 + groups * PANEL * 2 * (1 + m->has_minima));
}

INLINE int64_t panel_count(const matrix *m) { return (m->rows + PANEL - 1) / PANEL; }

// Quantise one token's row: [columns] f32, columns a multiple of 32.
INLINE void quantize_row(const float *row, int64_t columns, int64_t token, const quantized *out) {
    const int64_t blocks = columns / BLOCK, lane = token % 16;
    for (int64_t b = 0; b < blocks; b++, row += BLOCK) {
        const int64_t at = token / 16 * blocks + b;
        int8_t *values = out->values + (at * 16 + lane) * BLOCK;
        vf largest = {0};
        for (int i = 0; i < BLOCK; i += LANES) {
            const vf v = load(row + i);
            largest = larger(largest, larger(v, -v));
        }
        const float peak = largest_lane(largest), scale = peak / 127.0f, inverse = peak > 0.0f ? 127.0f / peak : 0.0f;
        float sums[2];
        for (int half = 0; half < 2; half++) {
            vi sum = {0};
            for (int i = 16 * half; i < 16 * half + 16; i += LANES) {
                const vi levels = rounded(load(row + i) * inverse);
                store_int8(values + i, levels);
                sum += levels;
            }
            sums[half] = scale * (float)sum_integers(sum);
            out->sums16[(2 * at + half) * 16 + lane] = sums[half];
        }
        out->scales[at * 16 + lane] = scale;
        out->sums32[at * 16 + lane] = sums[0] + sums[1];
    }
}

// One vector of a panel's rows times ``tokens`` tokens of one sixteen: sums[t] over all blocks, in the order of the
// blocks. ``fresh`` says that the weights come from memory. The constants unroll it; every instance adds in the same order, so the tile's size does not show in the result.
INLINE void multiply_rows(const matrix *m, const uint8_t *block, int64_t vec, const quantized *x, int64_t first,
                          int fresh, vf *sums, const int tokens, const int bits, const int group) {
    const int64_t blocks = m->columns / BLOCK, at = first / 16 * blocks, lane = first % 16;
    const int64_t stride = bits * 64 + BLOCK / group * PANEL * 2 * (1 + m->has_minima);
    const float offset = -(float)m->offset;
    const int8_t *values = x->values + (at * 16 + lane) * BLOCK;
    const float *scales = x->scales + at * 16 + lane;
    const float *token_sums = (group == 16 ? x->sums16 + 2 * at * 16 : x->sums32 + at * 16) + lane;
    vf total[TILE];
    UNROLL for (int t = 0; t < tokens; t++) total[t] = (vf){0};
    for (int64_t b = 0; b < blocks; b++, block += stride, values += 16 * BLOCK, scales += 16) {
        // The hardware's own prefetching leaves two thirds of the memory's speed unused.
        if (fresh)
            for (int64_t i = 0; i < stride; i += 64) __builtin_prefetch(block + AHEAD + i);
        vb weights[8];
        UNROLL for (int c = 0; c < 8; c++) {
            if (bits == 8) weights[c] = load_bytes(block + 64 * c + 4 * LANES * vec);
            else weights[c] = nibbles(load_bytes(block + 64 * (c % 4) + 4 * LANES * vec), c / 4);
        }
        const uint16_t *halves = (const uint16_t *)(block + bits * 64) + LANES * vec;
        UNROLL for (int g = 0; g < BLOCK / group; g++, token_sums += 16) {
            const vf scale = load_halves(halves + PANEL * g);
            const vf minimum = m->has_minima ? load_halves(halves + PANEL * (BLOCK / group + g)) : scale * offset;
            UNROLL for (int t = 0; t < tokens; t += TOGETHER) {
                vi dot[TOGETHER] = {{0}};
                UNROLL for (int c = 0; c < group / 4; c++)
                    UNROLL for (int i = 0; i < (tokens < TOGETHER ? tokens : TOGETHER); i++)
                        dot[i] = dot4(dot[i], weights[g * group / 4 + c], values + (t + i) * BLOCK + g * group + 4 * c);
                UNROLL for (int i = 0; i < (tokens < TOGETHER ? tokens : TOGETHER); i++) {
                    total[t + i] = fused(to_floats(dot[i]) * scales[t + i], scale, total[t + i]);
                    total[t + i] = fused(minimum, broadcast(token_sums[t + i]), total[t + i]);
                }
            }
        }
    }
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = total[t];
}

// out[token, row] = or += the product of a panel with ``tokens`` tokens from ``first`` on.
INLINE void multiply_tile(const matrix *m, int64_t panel, const quantized *x, int64_t first, int fresh, float *out,
                          int add, const int tokens, const int bits, const int group) {
    const int64_t row = panel * PANEL;
    const uint8_t *bytes = m->panels + panel * panel_bytes(m);
    for (int64_t vec = 0; vec < VECS; vec++) {
        vf sums[TILE];
        multiply_rows(m, bytes, vec, x, first, fresh && vec == 0, sums, tokens, bits, group);
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

#define DEFINE_MULTIPLY(BITS, GROUP)                                                                                  \
    static void multiply_##BITS##_##GROUP(const matrix *m, int64_t panel, const quantized *x, int64_t from,           \
                                          int64_t to, float *out, int add) {                                          \
        int64_t t = from;                                                                                             \
        for (; t + TILE <= to; t += TILE) multiply_tile(m, panel, x, t, t == from, out, add, TILE, BITS, GROUP);                 \
        for (; t + 4 <= to; t += 4) multiply_tile(m, panel, x, t, t == from, out, add, 4, BITS, GROUP);                          \
        for (; t < to; t++) multiply_tile(m, panel, x, t, t == from, out, add, 1, BITS, GROUP);                                  \
    }

DEFINE_MULTIPLY(4, 32)
DEFINE_MULTIPLY(8, 32)
DEFINE_MULTIPLY(4, 16)
DEFINE_MULTIPLY(8, 16)

// out: [tokens, rows] f32 = x @ m.T + bias, or +=, for the tokens from … to-1. A phase for the whole team.
INLINE void multiply(member *t, const matrix *m, const quantized *x, int64_t from, int64_t to, float *out, int add) {
    FOR_SHARE(t, panel, 0, panel_count(m), 1) {
        if (m->bits == 4 && m->group == 32) multiply_4_32(m, panel, x, from, to, out, add);
        else if (m->bits == 8 && m->group == 32) multiply_8_32(m, panel, x, from, to, out, add);
        else if (m->bits == 4) multiply_4_16(m, panel, x, from, to, out, add);
        else multiply_8_16(m, panel, x, from, to, out, add);
    }
}

// One row of the matrix as floats, as the embedding of a token is looked up: [columns].
INLINE void unpack_row(const matrix *m, int64_t row, float *out) {
    const int64_t groups = BLOCK / m->group, stride = panel_bytes(m) / (m->columns / BLOCK), lane = row % PANEL;
    const uint8_t *block = m->panels + row / PANEL * panel_bytes(m);
    for (int64_t b = 0; b < m->columns / BLOCK; b++, block += stride) {
        const uint16_t *halves = (const uint16_t *)(block + m->bits * 64);
        for (int64_t i = 0; i < BLOCK; i++) {
            const int64_t g = i / m->group;
            const float scale = half_to_float(halves[PANEL * g + lane]);
            const float minimum = m->has_minima ? half_to_float(halves[PANEL * (groups + g) + lane])
                                                : -(float)m->offset * scale;
            const uint8_t byte = block[64 * (m->bits == 4 ? i % 16 / 4 : i / 4) + 4 * lane + i % 4];
            const int q = m->bits == 8 ? byte : i < 16 ? byte & 15 : byte >> 4;
            out[b * BLOCK + i] = scale * (float)q + minimum;
        }
    }
}
