// The product alone, for tests and for measuring.

#include "cpu.h"

// out: [tokens, rows] f32 = x @ m.T; x: [tokens, columns] f32; space: room for the quantised x.
void ISA(block_matmul)(const matrix *m, const float *x, int64_t tokens, float *out, const quantized *space,
                       int64_t threads) {
    team shared = {.size = threads};
#pragma omp parallel num_threads((int)threads)
    {
        member own = {&shared, 0};
        FOR_SHARE(&own, t, 0, tokens, 4) quantize_row(x + t * m->columns, m->columns, t, space);
        meet(&own);
        multiply(&own, m, space, 0, tokens, out, 0);
    }
}

// out: [columns] f32, one row of the matrix.
void ISA(block_row)(const matrix *m, int64_t row, float *out) { unpack_row(m, row, out); }
