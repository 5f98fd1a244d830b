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

// Mirrors kernels.block_matmul.matrix.CMatrix.
typedef struct {
    int64_t rows, columns;
    int64_t bits, group, offset, has_minima;
    int64_t wide;  // whether it is multiplied with activations of 15 bits instead of 8
    const uint8_t *panels;
    const float *bias;  // [rows] or NULL
} matrix;

// Activations in 8 bits, values * scales, or in 15, (128 * values + low) * scales, with sums of the scaled values over 32
// and over 16 columns. Sixteen tokens lie together, block by block, so that a tile reads them one after another.
typedef struct {
    int8_t *values;  // [tokens / 16, columns / 32, 16, 32]
    int8_t *low;     // the same
    float *scales;   // [tokens / 16, columns / 32, 16]
    float *sums32;   // [tokens / 16, columns / 32, 16]
    float *sums16;   // [tokens / 16, columns / 32, 2, 16]
} quantized;

INLINE int64_t panel_bytes(const matrix *m) {
    const int64_t groups = BLOCK / m->group;
    return m->columns / BLOCK * (m->bits * 64 + groups * PANEL * 2 * (1 + m->has_minima));
}

INLINE int64_t panel_count(const matrix *m) { return (m->rows + PANEL - 1) / PANEL; }

// Quantise one token's row for a matrix: [columns] f32.
INLINE void quantize_row(const float *row, const matrix *m, int64_t token, const quantized *out) {
    const int64_t blocks = m->columns / BLOCK, lane = token % 16;
    const float most = m->wide ? 16383.0f : 127.0f;
    for (int64_t b = 0; b < blocks; b++, row += BLOCK) {
        const int64_t at = token / 16 * blocks + b, place = (at * 16 + lane) * BLOCK;
        vf largest = {0};
        for (int i = 0; i < BLOCK; i += LANES) {
            const vf v = load(row + i);
            largest = larger(largest, larger(v, -v));
        }
        const float peak = largest_lane(largest), scale = peak / most, inverse = peak > 0.0f ? most / peak : 0.0f;
        float sums[2];
        for (int half = 0; half < 2; half++) {
            vi sum = {0};
            for (int i = 16 * half; i < 16 * half + 16; i += LANES) {
                const vi levels = rounded(load(row + i) * inverse);
                sum += levels;
                if (m->wide) store_int8(out->low + place + i, levels & 127);
                store_int8(out->values + place + i, m->wide ? levels >> 7 : levels);
            }
            sums[half] = scale * (float)sum_integers(sum);
            out->sums16[(2 * at + half) * 16 + lane] = sums[half];
        }
        out->scales[at * 16 + lane] = scale;
        out->sums32[at * 16 + lane] = sums[0] + sums[1];
    }
}

// out[token, row] = x @ m.T + bias, or +=, for the rows of one panel and the tokens from … to-1; x: [tokens, columns].
void ISA(multiply_panel)(const matrix *m, int64_t panel, const quantized *x, int64_t from, int64_t to, float *out,
                         int add);

// out: [tokens, rows], all panels. A phase for the whole team.
INLINE void multiply(member *t, const matrix *m, const quantized *x, int64_t from, int64_t to, float *out, int add) {
    FOR_SHARE(t, panel, 0, panel_count(m), 1) ISA(multiply_panel)(m, panel, x, from, to, out, add);
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
