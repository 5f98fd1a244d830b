// Functions of single values, the same bits wherever a value stands: what is left of a row behind its last whole vector is
// worked on as a whole vector too.

#include "../native/simd.h"

enum { SIGMOID, SILU, GELU_TANH, SOFTPLUS, TANH };

// Mirrors kernels.pointwise.exact.CPointwise. With ``times``, out = f(x) * times.
typedef struct {
    const void *x, *times;
    void *out;  // [rows, columns]
    int64_t rows, columns, x_stride, times_stride, function;
} pointwise;

INLINE vf sigmoid(vf v) { return pick(v == v, 1.0f / (exponential(-v) + 1.0f), v); }

INLINE vf apply(vf v, int64_t function) {
    vf result = v;
    switch (function) {
        case SIGMOID: return sigmoid(v);
        case SILU: return v * sigmoid(v);
        // 0.5 v (1 + tanh(u)) = v sigmoid(2u), u = sqrt(2 / pi) (v + 0.044715 v³)
        case GELU_TANH: return v * sigmoid(1.5957691216f * fused(v * v * v, broadcast(0.044715f), v));
        case SOFTPLUS:
            for (int i = 0; i < LANES; i++) result[i] = v[i] > 20.0f ? v[i] : log1pf(expf(v[i]));
            return result;
        case TANH:
            for (int i = 0; i < LANES; i++) result[i] = tanhf(v[i]);
            return result;
    }
    return result;
}

INLINE vf load_some(const void *row, int64_t at, int64_t count, const int bf16) {
    if (count >= LANES) return bf16 ? load_bf16((const uint16_t *)row + at) : load((const float *)row + at);
    float values[LANES] = {0};
    for (int64_t i = 0; i < count; i++)
        values[i] = bf16 ? from_bf16(((const uint16_t *)row)[at + i]) : ((const float *)row)[at + i];
    return load(values);
}

INLINE void store_some(void *row, int64_t at, int64_t count, vf v, const int bf16) {
    if (!bf16 && count >= LANES) {
        store((float *)row + at, v);
        return;
    }
    for (int64_t i = 0; i < LANES && i < count; i++) {
        if (bf16) ((uint16_t *)row)[at + i] = to_bf16(v[i]);
        else ((float *)row)[at + i] = v[i];
    }
}

INLINE const void *row_at(const void *base, int64_t element, const int bf16) {
    return (const char *)base + element * (bf16 ? 2 : 4);
}

INLINE void map(const pointwise *p, const int bf16) {
#pragma omp parallel for schedule(static) if (p->rows * p->columns > 1 << 14)
    for (int64_t r = 0; r < p->rows; r++) {
        const void *x = row_at(p->x, r * p->x_stride, bf16), *times = row_at(p->times, r * p->times_stride, bf16);
        void *out = (void *)row_at(p->out, r * p->columns, bf16);
        for (int64_t c = 0; c < p->columns; c += LANES) {
            vf v = apply(load_some(x, c, p->columns - c, bf16), p->function);
            if (p->times) v = v * load_some(times, c, p->columns - c, bf16);
            store_some(out, c, p->columns - c, v, bf16);
        }
    }
}

void ISA(pointwise_f32)(const pointwise *p) { map(p, 0); }
void ISA(pointwise_bf16)(const pointwise *p) { map(p, 1); }
