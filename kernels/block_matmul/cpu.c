// The product alone, for tests and for measuring.

#include "cpu.h"

typedef struct {
    const matrix *matrix;
    const float *x;
    int64_t tokens;
    float *out;
    const quantized *space;
} product;

static void compute(member *own, void *argument) {
    const product *p = argument;
    const int64_t columns = p->matrix->columns;
    FOR_SHARE(own, t, 0, p->tokens, 16) quantize_row(p->x + t * columns, columns, t, p->space);
    meet(own);
    multiply(own, p->matrix, p->space, 0, p->tokens, p->out, 0);
    meet(own);
}

// out: [tokens, rows] f32 = x @ m.T; x: [tokens, columns] f32; space: room for the quantised x.
void ISA(block_matmul)(const matrix *m, const float *x, int64_t tokens, float *out, const quantized *space, team *t) {
    product asked = {m, x, tokens, out, space};
    ISA(team_run)(t, compute, &asked);
}

// out: [columns] f32, one row of the matrix.
void ISA(block_row)(const matrix *m, int64_t row, float *out) { unpack_row(m, row, out); }
