// Softmax and the logarithm of a sum of exponentials over rows, each row's sum in one order.

#include "../native/simd.h"

INLINE vf load_padded(const float *row, int64_t at, int64_t count) {
    if (count >= LANES) return load(row + at);
    float values[LANES];
    for (int i = 0; i < LANES; i++) values[i] = i < count ? row[at + i] : -INFINITY;
    return load(values);
}

// The row's largest value, and the sum of exp(value - largest): not a number if one of the values is not.
INLINE float peak_and_sum(const float *row, int64_t width, float *sum) {
    vf largest = broadcast(-INFINITY), total = {0}, odd = {0};
    for (int64_t i = 0; i < width; i += LANES) {
        const vf v = load_padded(row, i, width - i);
        largest = larger(largest, v);
        odd = pick(v == v, odd, v);  // exponential() makes a number of what is none
    }
    const float peak = largest_lane(largest);
    for (int64_t i = 0; i < width; i += LANES) total += exponential(load_padded(row, i, width - i) - peak);
    *sum = sum_lanes(total) + sum_lanes(odd);
    return peak;
}

// out: [rows] f32 = log(sum(exp(x))); x: [rows, width] f32, rows ``stride`` apart.
void ISA(log_sum_exp)(const float *x, float *out, int64_t rows, int64_t width, int64_t stride) {
#pragma omp parallel for schedule(static) if (rows > 1 && rows * width > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        float sum;
        const float peak = peak_and_sum(x + r * stride, width, &sum);
        out[r] = peak + logf(sum);
    }
}

// out: [rows, width] f32 = softmax(x).
void ISA(softmax)(const float *x, float *out, int64_t rows, int64_t width, int64_t stride) {
#pragma omp parallel for schedule(static) if (rows > 1 && rows * width > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        float sum;
        const float *row = x + r * stride, peak = peak_and_sum(row, width, &sum);
        for (int64_t i = 0; i < width; i += LANES) {
            const vf share = exponential(load_padded(row, i, width - i) - peak) / sum;
            if (width - i >= LANES) store(out + r * width + i, share);
            else for (int64_t j = 0; i + j < width; j++) out[r * width + i + j] = share[j];
        }
    }
}
