// Products of rows with row-major weights, every sum in one order that depends on the columns alone.
//
// Lane l of a vector sums the columns l, l + LANES, … of a row; the lanes are added in one tree at the end. Four rows of
// weights meet a few rows of activations in registers. How many there are, in which tile a row lies and which thread has it
// does not show in any bit.
#pragma once

#include "../native/simd.h"

#define QUAD 4  // rows of weights that are multiplied together
#define SIDE (LANES == 16 ? 6 : LANES == 8 ? 2 : 4)  // rows of activations: as many as the registers hold sums of
#define STRETCH 1024  // columns that are worked through at a time, so that four rows of weights stay in the first cache
#define STEP (2 * LANES)  // columns are filled up with zeros to a multiple of this

// The sums of the lanes of four vectors, each in the tree of sum_lanes.
INLINE void sum_four(const vf *v, float *to) {
#if LANES == 16
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4E));
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xB1));
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, all)));
#else
    for (int i = 0; i < QUAD; i++) to[i] = sum_lanes(v[i]);
#endif
}

// sums[t][i] += x row t · w row i over ``columns``, a multiple of LANES; rows of x are ``stride`` floats apart.
INLINE void dot_rows(const float *x, int64_t stride, const float *const *w, int64_t columns, vf (*sums)[QUAD],
                     const int tokens, const int fresh) {
    vf total[SIDE][QUAD];
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int i = 0; i < QUAD; i++) total[t][i] = fresh ? (vf){0} : sums[t][i];
    for (int64_t k = 0; k < columns; k += LANES) {
        vf weights[QUAD];
        UNROLL for (int i = 0; i < QUAD; i++) weights[i] = load(w[i] + k);
        UNROLL for (int t = 0; t < tokens; t++) {
            const vf value = load(x + t * stride + k);
            UNROLL for (int i = 0; i < QUAD; i++) total[t][i] = fused(value, weights[i], total[t][i]);
        }
    }
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int i = 0; i < QUAD; i++) sums[t][i] = total[t][i];
}

// The same for 1 to SIDE tokens. ``fresh``: the sums begin here.
INLINE void dot_some(const float *x, int64_t stride, const float *const *w, int64_t columns, vf (*sums)[QUAD],
                     int64_t tokens, int fresh) {
#define CASE(n) \
    case n: fresh ? dot_rows(x, stride, w, columns, sums, n, 1) : dot_rows(x, stride, w, columns, sums, n, 0); break;
    switch (tokens) {
        CASE(1)
        CASE(2)
#if SIDE > 2
        CASE(3)
        CASE(4)
#endif
#if SIDE > 4
        CASE(5)
        CASE(6)
#endif
    }
#undef CASE
}
