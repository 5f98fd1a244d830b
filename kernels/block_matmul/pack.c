// From the rows of a file to panels: GGUF's block formats as they are, floats quantised on the way.
//
// Each format gives 32 columns at a time as unsigned q with scale and minimum per 16 of them; ggml's layouts are
// described in its quantisation tables (ggml-common.h) and checked here against the gguf package.

#include "cpu.h"

// GGUF's numbers of types; FLOAT rows are f32 and quantised here.
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14,
       FLOAT = 0 };

typedef struct {
    uint8_t q[BLOCK];
    float scale[2], minimum[2];
} block;

INLINE float half_at(const uint8_t *from) {
    uint16_t half;
    memcpy(&half, from, 2);
    return half_to_float(half);
}

INLINE void set_group(block *out, int first, int last, float scale, float minimum) {
    for (int i = first; i <= last; i++) out->scale[i] = scale, out->minimum[i] = minimum;
}

// Q4_0, Q4_1, Q5_0, Q5_1: scale, maybe a minimum, maybe the fifth bits, 16 bytes of two columns each.
static void simple_block(const uint8_t *from, block *out, int has_minimum, int five, float offset) {
    const float scale = half_at(from), minimum = has_minimum ? half_at(from + 2) : -offset * scale;
    from += has_minimum ? 4 : 2;
    uint32_t fifth = 0;
    if (five) memcpy(&fifth, from, 4), from += 4;
    for (int i = 0; i < 16; i++) {
        out->q[i] = (uint8_t)((from[i] & 15) | (fifth >> i & 1) << 4);
        out->q[i + 16] = (uint8_t)((from[i] >> 4) | (fifth >> (i + 16) & 1) << 4);
    }
    set_group(out, 0, 1, scale, minimum);
}

static void q8_0_block(const uint8_t *from, block *out) {
    const float scale = half_at(from);
    for (int i = 0; i < BLOCK; i++) out->q[i] = (uint8_t)((int8_t)from[2 + i] + 128);
    set_group(out, 0, 1, scale, -128.0f * scale);
}

// The K formats have super-blocks of 256 columns; ``b`` is the block of 32 within one.

static void q2_k_block(const uint8_t *from, int b, block *out) {
    const float scale = half_at(from + 80), minimum = half_at(from + 82);
    const uint8_t *bytes = from + 16 + 32 * (b / 4);
    for (int i = 0; i < BLOCK; i++) out->q[i] = bytes[i] >> 2 * (b % 4) & 3;
    for (int g = 0; g < 2; g++) {
        const uint8_t pair = from[2 * b + g];
        set_group(out, g, g, scale * (float)(pair & 15), -minimum * (float)(pair >> 4));
    }
}

static void q3_k_block(const uint8_t *from, int b, block *out) {
    const uint8_t *bytes = from + 32 + 32 * (b / 4), *scales = from + 96;
    for (int i = 0; i < BLOCK; i++)
        out->q[i] = (uint8_t)((bytes[i] >> 2 * (b % 4) & 3) | (from[i] >> b & 1) << 2);
    for (int g = 0; g < 2; g++) {
        const int s = 2 * b + g;
        const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = scales[8 + s % 4] >> 2 * (s / 4) & 3;
        const float scale = half_at(from + 108) * (float)((low | high << 4) - 32);
        set_group(out, g, g, scale, -4.0f * scale);
    }
}

// Scale and minimum of Q4_K and Q5_K: eight pairs of six bits in twelve bytes.
INLINE void six_bits(const uint8_t *s, int b, int *scale, int *minimum) {
    *scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | s[b - 4] >> 6 << 4;
    *minimum = b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | s[b] >> 6 << 4;
}

static void q45_k_block(const uint8_t *from, int b, block *out, int five) {
    int scale, minimum;
    six_bits(from + 4, b, &scale, &minimum);
    const uint8_t *fifth = from + 16, *bytes = from + 16 + 32 * five + 32 * (b / 2);
    for (int i = 0; i < BLOCK; i++) {
        const int low = b % 2 ? bytes[i] >> 4 : bytes[i] & 15;
        out->q[i] = (uint8_t)(low | (five ? (fifth[i] >> b & 1) << 4 : 0));
    }
    set_group(out, 0, 1, half_at(from) * (float)scale, -half_at(from + 2) * (float)minimum);
}

static void q6_k_block(const uint8_t *from, int b, block *out) {
    const uint8_t *low = from + 64 * (b / 4) + 32 * (b % 2), *high = from + 128 + 32 * (b / 4);
    for (int i = 0; i < BLOCK; i++) {
        const int four = b % 4 < 2 ? low[i] & 15 : low[i] >> 4;
        out->q[i] = (uint8_t)(four | (high[i] >> 2 * (b % 4) & 3) << 4);
    }
    for (int g = 0; g < 2; g++) {
        const float scale = half_at(from + 208) * (float)(int8_t)from[192 + 2 * b + g];
        set_group(out, g, g, scale, -32.0f * scale);
    }
}

// Floats to 8 bits around zero, or to 4 bits between smallest and largest. Scales as they will be stored: halves.
static void float_block(const float *from, block *out, int bits) {
    float low = from[0], high = from[0];
    for (int i = 1; i < BLOCK; i++) {
        low = from[i] < low ? from[i] : low;
        high = from[i] > high ? from[i] : high;
    }
    const float peak = high > -low ? high : -low;
    const float scale = half_to_float(float_to_half(bits == 8 ? peak / 127.0f : (high - low) / 15.0f));
    const float minimum = bits == 8 ? -128.0f * scale : half_to_float(float_to_half(low));
    const float most = bits == 8 ? 255.0f : 15.0f;
    for (int i = 0; i < BLOCK; i++) {
        const float level = scale > 0.0f ? nearbyintf((from[i] - minimum) / scale) : bits == 8 ? 128.0f : 0.0f;
        out->q[i] = (uint8_t)(level < 0.0f ? 0.0f : level > most ? most : level);
    }
    set_group(out, 0, 1, scale, minimum);
}

// Block ``b`` of a row of that type; 0 if the type is unknown.
static int unpack_block(const uint8_t *row, int64_t type, int64_t b, int bits, block *out) {
    switch (type) {
    case FLOAT: float_block((const float *)row + b * BLOCK, out, bits); return 1;
    case Q4_0: simple_block(row + b * 18, out, 0, 0, 8); return 1;
    case Q4_1: simple_block(row + b * 20, out, 1, 0, 0); return 1;
    case Q5_0: simple_block(row + b * 22, out, 0, 1, 16); return 1;
    case Q5_1: simple_block(row + b * 24, out, 1, 1, 0); return 1;
    case Q8_0: q8_0_block(row + b * 34, out); return 1;
    case Q2_K: q2_k_block(row + b / 8 * 84, (int)(b % 8), out); return 1;
    case Q3_K: q3_k_block(row + b / 8 * 110, (int)(b % 8), out); return 1;
    case Q4_K: q45_k_block(row + b / 8 * 144, (int)(b % 8), out, 0); return 1;
    case Q5_K: q45_k_block(row + b / 8 * 176, (int)(b % 8), out, 1); return 1;
    case Q6_K: q6_k_block(row + b / 8 * 210, (int)(b % 8), out); return 1;
    default: return 0;
    }
}

static void put_block(const matrix *m, const block *from, int64_t lane, uint8_t *to) {
    for (int i = 0; i < BLOCK; i++) {
        if (m->bits == 8) to[64 * (i / 4) + 4 * lane + i % 4] = from->q[i];
        else if (i < 16) to[64 * (i / 4) + 4 * lane + i % 4] = (uint8_t)(from->q[i] | from->q[i + 16] << 4);
    }
    const int64_t groups = BLOCK / m->group;
    uint16_t *halves = (uint16_t *)(to + m->bits * 64);
    for (int64_t g = 0; g < groups; g++) {
        halves[PANEL * g + lane] = float_to_half(from->scale[g]);
        if (m->has_minima) halves[PANEL * (groups + g) + lane] = float_to_half(from->minimum[g]);
    }
}

// Fill m->panels, which must be zeros. rows: [m->rows] where each row's bytes begin; types: [m->rows].
// Returns 0, or 1 for an unknown type.
int ISA(pack)(const matrix *m, const uint8_t *const *rows, const int32_t *types) {
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 4) reduction(| : failed)
    for (int64_t panel = 0; panel < panel_count(m); panel++) {
        const int64_t stride = panel_bytes(m) / (m->columns / BLOCK);
        uint8_t *to = (uint8_t *)m->panels + panel * panel_bytes(m);
        for (int64_t b = 0; b < m->columns / BLOCK; b++, to += stride)
            for (int64_t lane = 0; lane < PANEL && panel * PANEL + lane < m->rows; lane++) {
                block unpacked;
                const int64_t row = panel * PANEL + lane;
                if (!unpack_block(rows[row], types[row], b, (int)m->bits, &unpacked)) failed = 1;
                else put_block(m, &unpacked, lane, to);
            }
    }
    return failed;
}
