// Cosines and sines of each position's angles, value by value, so that a position's are the same in any batch.

#include "../native/simd.h"

// out: [2, rows, planes] f32: cosines, then sines; positions: [rows]; frequencies: [planes] f32.
void ISA(rope_angles)(const int64_t *positions, const float *frequencies, float *out, int64_t rows, int64_t planes) {
#pragma omp parallel for schedule(static) if (rows * planes > 1 << 12)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < planes; i++) {
            const float angle = (float)positions[r] * frequencies[i];
            out[r * planes + i] = cosf(angle);
            out[(rows + r) * planes + i] = sinf(angle);
        }
}
