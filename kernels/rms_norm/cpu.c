// Root-mean-square normalisation, each row's squares summed in one order.

#include "../native/simd.h"

// Mirrors kernels.rms_norm.exact.CNorm.
typedef struct {
    const void *x, *weight;  // [rows, width], rows x_stride apart; [width]
    void *out;               // [rows, width]
    int64_t rows, width, x_stride;
    float eps;
} norm;

INLINE float value_at(const void *base, int64_t at, const int bf16) {
    return bf16 ? from_bf16(((const uint16_t *)base)[at]) : ((const float *)base)[at];
}

INLINE vf vector_at(const void *base, int64_t at, const int bf16) {
    return bf16 ? load_bf16((const uint16_t *)base + at) : load((const float *)base + at);
}

INLINE void normalize(const norm *n, int64_t row, const int bf16) {
    const int64_t width = n->width, whole = width / LANES * LANES, at = row * n->x_stride;
    vf squares = {0};
    float rest = 0.0f;
    for (int64_t i = 0; i < whole; i += LANES) {
        const vf v = vector_at(n->x, at + i, bf16);
        squares = fused(v, v, squares);
    }
    for (int64_t i = whole; i < width; i++) rest += value_at(n->x, at + i, bf16) * value_at(n->x, at + i, bf16);
    const float inverse = 1.0f / sqrtf((sum_lanes(squares) + rest) / (float)width + n->eps);
    for (int64_t i = 0; i < width; i++) {
        const float weight = value_at(n->weight, i, bf16);
        const float value = value_at(n->x, at + i, bf16) * inverse * weight;
        if (bf16) ((uint16_t *)n->out)[row * width + i] = to_bf16(value);
        else ((float *)n->out)[row * width + i] = value;
    }
}

INLINE void normalize_all(const norm *n, const int bf16) {
#pragma omp parallel for schedule(static) if (n->rows * n->width > 1 << 14)
    for (int64_t row = 0; row < n->rows; row++) normalize(n, row, bf16);
}

void ISA(rms_norm_f32)(const norm *n) { normalize_all(n, 0); }
void ISA(rms_norm_bf16)(const norm *n) { normalize_all(n, 1); }
