// Vectors of LANES floats on each instruction set, by GCC's vector extensions where those suffice.
//
// A panel has 16 rows on every machine, so packed weights and pages look the same everywhere; it is worked on in VECS
// vectors. All sums are written out in a fixed order and nothing is compiled with -ffast-math: a row's result does not
// depend on which rows are computed beside it.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define LANES 16
#define ISA(name) name##_avx512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define LANES 8
#ifdef __AVXVNNI__
#define ISA(name) name##_avxvnni
#else
#define ISA(name) name##_avx2
#endif
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define LANES 4
#define ISA(name) name##_neon
#else
#define LANES 4
#define ISA(name) name##_portable
#endif

#define PANEL 16
#define VECS (PANEL / LANES)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint8_t vb __attribute__((vector_size(LANES * 4)));

INLINE vf load(const float *from) { vf v; memcpy(&v, from, sizeof v); return v; }
INLINE void store(float *to, vf v) { memcpy(to, &v, sizeof v); }
INLINE vb load_bytes(const uint8_t *from) { vb v; memcpy(&v, from, sizeof v); return v; }
INLINE vf broadcast(float value) { return value - (vf){0}; }
INLINE vf to_floats(vi v) { return __builtin_convertvector(v, vf); }
INLINE vf pick(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

// IEEE half precision, both ways, in plain integers.
INLINE float half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits = (rest << 13) + 0x38000000;  // rebias the exponent: 127 - 15
    float value;
    if (rest >= 0x7c00) bits = (rest << 13) | 0x7f800000;
    if (rest < 0x0400) {  // zero and subnormals: an integer times 2^-24
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t float_to_half(float value) {
    uint32_t bits, rounded;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;   // not a number
    if (bits >= 0x477ff000) return sign | 0x7c00;  // rounds to infinity
    if (bits < 0x38800000) {                       // subnormal: adding 0.5 aligns its bits with the integer's
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&rounded, &magnitude, sizeof rounded);
        return sign | (uint16_t)(rounded - 0x3f000000);
    }
    rounded = bits - 0x38000000 + 0x0fff + ((bits >> 13) & 1);  // to nearest, ties to even
    return sign | (uint16_t)(rounded >> 13);
}

// bfloat16, both ways.
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

INLINE vf load_bf16(const uint16_t *from) {
    vh halves;
    memcpy(&halves, from, sizeof halves);
    return (vf)(__builtin_convertvector(halves, vi) << 16);
}

INLINE float from_bf16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);  // not a number
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);               // to nearest, ties to even
}

#if LANES == 16

INLINE vf larger(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf fused(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vi rounded(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }
INLINE vf load_halves(const uint16_t *from) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }
INLINE void store_halves(uint16_t *to, vf v) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void store_int8(int8_t *to, vi v) { _mm_storeu_si128((__m128i *)to, _mm512_cvtsepi32_epi8((__m512i)v)); }
INLINE vb nibbles(vb v, int high) {
    const __m512i shifted = high ? _mm512_srli_epi16((__m512i)v, 4) : (__m512i)v;
    return (vb)_mm512_and_si512(shifted, _mm512_set1_epi8(15));
}
// sums[i] += dot of four unsigned bytes of lane i with the same four signed ones.
INLINE vi dot4(vi sums, vb weights, const int8_t *values) {
    // Written out because GCC 12 does not fold the broadcast into the instruction.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(const int32_t(*)[1])values));
    return sums;
}

#elif LANES == 8

INLINE vf larger(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf fused(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vi rounded(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }
INLINE vf load_halves(const uint16_t *from) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)); }
INLINE void store_halves(uint16_t *to, vf v) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void store_int8(int8_t *to, vi v) {
    const __m256i all = (__m256i)v;
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(words, words));
}
INLINE vb nibbles(vb v, int high) {
    const __m256i shifted = high ? _mm256_srli_epi16((__m256i)v, 4) : (__m256i)v;
    return (vb)_mm256_and_si256(shifted, _mm256_set1_epi8(15));
}
INLINE __m256i four_bytes(const int8_t *values) {
    int32_t four;
    memcpy(&four, values, 4);
    return _mm256_set1_epi32(four);
}
#ifdef __AVXVNNI__
INLINE vi dot4(vi sums, vb weights, const int8_t *values) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)weights, four_bytes(values));
}
#else
// Sums that GCC takes as they are; else it would add all products in a tree, for which there are no registers.
INLINE vi settled(vi sums) {
    __asm__("" : "+x"(sums));
    return sums;
}
INLINE vi dot4(vi sums, vb weights, const int8_t *values) {
    const __m256i signed_bytes = four_bytes(values);
    // Products of two bytes are added in 16 bits, which 255 * 127 * 2 would overflow: the lowest bit goes apart.
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16((__m256i)weights, 1), _mm256_set1_epi8(127));
    const __m256i lowest = _mm256_and_si256((__m256i)weights, _mm256_set1_epi8(1));
    const __m256i twice = _mm256_madd_epi16(_mm256_maddubs_epi16(upper, signed_bytes), _mm256_set1_epi16(2));
    const __m256i once = _mm256_madd_epi16(_mm256_maddubs_epi16(lowest, signed_bytes), _mm256_set1_epi16(1));
    return settled((vi)_mm256_add_epi32((__m256i)sums, _mm256_add_epi32(twice, once)));
}
// Eight dots with weights of four bits fit into 16 bits: 8 * 2 * 15 * 128 < 2^15.
#define NARROW_SUMS
INLINE vi dot4_nibbles(vi sums, vb weights, const int8_t *values) {
    return settled((vi)_mm256_add_epi16((__m256i)sums, _mm256_maddubs_epi16((__m256i)weights, four_bytes(values))));
}
INLINE vi widened(vi sums) { return (vi)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1)); }
#endif

#else

#ifdef __ARM_FEATURE_DOTPROD
INLINE vf larger(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE vf smaller(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE vf fused(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vi rounded(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
INLINE vi dot4(vi sums, vb weights, const int8_t *values) {
    int32_t four;
    memcpy(&four, values, 4);
    // sdot multiplies signed bytes: w = (w - 128) + 128.
    const int8x16_t bytes = vreinterpretq_s8_s32(vdupq_n_s32(four));
    const int8x16_t lowered = vreinterpretq_s8_u8(veorq_u8((uint8x16_t)weights, vdupq_n_u8(128)));
    const int32x4_t total = vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), bytes);
    return (vi)vdotq_s32(vmlaq_n_s32((int32x4_t)sums, total, 128), lowered, bytes);
}
#else
INLINE vf larger(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf smaller(vf a, vf b) { return pick(a < b, a, b); }
INLINE vf fused(vf a, vf b, vf c) { return a * b + c; }
INLINE vi rounded(vf v) { vi r; for (int i = 0; i < LANES; i++) r[i] = (int32_t)nearbyintf(v[i]); return r; }
INLINE vi dot4(vi sums, vb weights, const int8_t *values) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) sums[i] += (int32_t)weights[4 * i + j] * values[j];
    return sums;
}
#endif
INLINE vf load_halves(const uint16_t *from) {
    vf v;
    for (int i = 0; i < LANES; i++) v[i] = half_to_float(from[i]);
    return v;
}
INLINE void store_halves(uint16_t *to, vf v) { for (int i = 0; i < LANES; i++) to[i] = float_to_half(v[i]); }
INLINE void store_int8(int8_t *to, vi v) { for (int i = 0; i < LANES; i++) to[i] = (int8_t)v[i]; }
INLINE vb nibbles(vb v, int high) { return high ? v >> 4 : v & 15; }

#endif

// dot4_nibbles: dot4 for weights below 16, up to eight times from zeros on; ``widened`` makes 32-bit lanes of the sums.
#ifndef NARROW_SUMS
INLINE vi dot4_nibbles(vi sums, vb weights, const int8_t *values) { return dot4(sums, weights, values); }
INLINE vi widened(vi sums) { return sums; }
#endif

// Sum of the lanes, always in the same tree; the largest lane; the sum of integers.
INLINE float sum_lanes(vf v) {
    float lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

#if LANES == 16
INLINE float largest_lane(vf v) { return _mm512_reduce_max_ps((__m512)v); }
INLINE int32_t sum_integers(vi v) { return _mm512_reduce_add_epi32((__m512i)v); }
#else
INLINE float largest_lane(vf v) {
    float largest = v[0];
    for (int i = 1; i < LANES; i++) largest = v[i] > largest ? v[i] : largest;
    return largest;
}
INLINE int32_t sum_integers(vi v) {
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}
#endif

// e^v within 2 ulp; 0 below -87. Cephes' polynomial after taking out powers of two.
INLINE vf exponential(vf v) {
    const vf clamped = smaller(larger(v, broadcast(-87.0f)), broadcast(88.0f));
    const vi power = rounded(clamped * 1.44269504f);
    const vf whole = to_floats(power);
    const vf rest = fused(whole, broadcast(2.12194440e-4f), fused(whole, broadcast(-0.693359375f), clamped));
    vf sum = broadcast(1.9875691500e-4f);
    sum = fused(sum, rest, broadcast(1.3981999507e-3f));
    sum = fused(sum, rest, broadcast(8.3334519073e-3f));
    sum = fused(sum, rest, broadcast(4.1665795894e-2f));
    sum = fused(sum, rest, broadcast(1.6666665459e-1f));
    sum = fused(sum, rest, broadcast(5.0000001201e-1f));
    sum = fused(sum, rest * rest, rest) + 1.0f;
    const vf scaled = sum * (vf)((power + 127) << 23);
    return pick(v < -87.0f, broadcast(0.0f), scaled);
}
