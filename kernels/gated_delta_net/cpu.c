// Gated delta net over a flat batch: convolution, then each state block through its sequence's tokens, one by one.
//
// Columns of a state do not depend on one another, so a task is one block of columns of one head of one sequence: it
// stays in the first-level cache while all of the sequence's tokens pass. Every sum has one order, the same for any batch
// and for any cut into steps.

#include <stdlib.h>

#include "../native/simd.h"

#define WIDEST (4 * LANES)  // columns of a block

typedef struct {
    int64_t sequences, saves, key_heads, value_heads, key_dim, value_dim, taps, channels, keys;
    const int64_t *starts, *slots, *stored;
    const uint8_t *fresh;
} sizes;

INLINE float sigmoid(float value) { return 1.0f / (1.0f + expf(-value)); }
INLINE float softplus(float value) { return value > 20.0f ? value : log1pf(expf(value)); }

// The input of the convolution ``back`` tokens before the sequence's new token number ``at``; NULL for nothing.
INLINE const float *input(const sizes *z, const float *mixed, const float *inputs, int64_t sequence, int64_t at) {
    if (at >= 0) return mixed + (z->starts[sequence] + at) * z->channels;
    if (z->fresh[sequence]) return NULL;
    return inputs + (z->slots[sequence] * (z->taps - 1) + z->taps - 1 + at) * z->channels;
}

// filtered[c] = silu(sum over taps of filters[tap][c] * input[tap][c]); then queries and keys to length 1.
static void filter_row(const sizes *z, const float *mixed, const float *inputs, const float *filters, int64_t sequence,
                       int64_t at, float *filtered) {
    memset(filtered, 0, sizeof(float) * (size_t)z->channels);
    for (int64_t tap = 0; tap < z->taps; tap++) {
        const float *from = input(z, mixed, inputs, sequence, at - z->taps + 1 + tap), *by = filters + tap * z->channels;
        if (from == NULL) continue;
        for (int64_t c = 0; c < z->channels; c++) filtered[c] += from[c] * by[c];
    }
    int64_t c = 0;
    for (; c + LANES <= z->channels; c += LANES) {
        const vf value = load(filtered + c);
        store(filtered + c, value / (1.0f + exponential(-value)));
    }
    for (; c < z->channels; c++) filtered[c] *= sigmoid(filtered[c]);
    const float scale = 1.0f / sqrtf((float)z->key_dim);
    for (int64_t head = 0; head < 2 * z->key_heads; head++) {
        float *vector = filtered + head * z->key_dim, square = 0.0f;
        for (int64_t d = 0; d < z->key_dim; d++) square += vector[d] * vector[d];
        const float factor = (head < z->key_heads ? scale : 1.0f) / sqrtf(square + 1e-6f);
        for (int64_t d = 0; d < z->key_dim; d++) vector[d] *= factor;
    }
}

// One token through ``width`` columns of a state: S = keep S + key (strength (value - key keep S)); out = query S.
INLINE void pass_token(float *state, int64_t key_dim, const int64_t width, const float *query, const float *key,
                       const float *value, float keep, float strength, float *out) {
    float told[WIDEST], read[WIDEST];
    for (int64_t v = 0; v < width; v++) told[v] = read[v] = 0.0f;
    for (int64_t d = 0; d < key_dim; d++)
        for (int64_t v = 0; v < width; v++) told[v] += key[d] * state[d * width + v];
    for (int64_t v = 0; v < width; v++) told[v] = (value[v] - keep * told[v]) * strength;
    for (int64_t d = 0; d < key_dim; d++)
        for (int64_t v = 0; v < width; v++) {
            const float next = keep * state[d * width + v] + key[d] * told[v];
            state[d * width + v] = next;
            read[v] += query[d] * next;
        }
    for (int64_t v = 0; v < width; v++) out[v] = read[v];
}

// ``width`` columns of a head's state from or to its place among whole rows.
INLINE void copy_block(float *to, int64_t to_width, const float *from, int64_t from_width, int64_t rows, int64_t width) {
    for (int64_t d = 0; d < rows; d++) memcpy(to + d * to_width, from + d * from_width, sizeof(float) * (size_t)width);
}

INLINE void pass_block(const sizes *z, int64_t sequence, int64_t head, int64_t column, const int64_t width, float *block,
                       const float *filtered, const float *gates, float *memory, float *out) {
    const int64_t matrix = z->key_dim * z->value_dim, begin = z->starts[sequence], end = z->starts[sequence + 1];
    const int64_t key_head = head / (z->value_heads / z->key_heads);
    float *own = memory + (z->slots[sequence] * z->value_heads + head) * matrix + column;
    if (z->fresh[sequence]) memset(block, 0, sizeof(float) * (size_t)(z->key_dim * width));
    else copy_block(block, width, own, z->value_dim, z->key_dim, width);
    int64_t save = 0;
    while (save < z->saves && z->stored[3 * save] < sequence) save++;
    for (int64_t row = begin; row < end; row++) {
        const float *parts = filtered + row * z->channels, *gate = gates + 2 * (row * z->value_heads + head);
        pass_token(block, z->key_dim, width, parts + key_head * z->key_dim, parts + z->keys + key_head * z->key_dim,
                   parts + 2 * z->keys + head * z->value_dim + column, gate[0], gate[1],
                   out + (row * z->value_heads + head) * z->value_dim + column);
        for (; save < z->saves && z->stored[3 * save] == sequence && z->stored[3 * save + 1] == row - begin + 1; save++)
            copy_block(memory + (z->stored[3 * save + 2] * z->value_heads + head) * matrix + column, z->value_dim, block,
                       width, z->key_dim, width);
    }
    copy_block(own, z->value_dim, block, width, z->key_dim, width);
}

// The convolution's inputs to remember behind the sequence's first ``count`` new tokens, to ``slot``.
static void keep_inputs(const sizes *z, const float *mixed, const float *before, float *inputs, int64_t sequence,
                        int64_t count, int64_t slot) {
    const int64_t past = z->taps - 1;
    for (int64_t i = 0; i < past; i++) {
        const int64_t at = count - past + i;
        float *to = inputs + (slot * past + i) * z->channels;
        if (at >= 0) memcpy(to, mixed + (z->starts[sequence] + at) * z->channels, sizeof(float) * (size_t)z->channels);
        else if (z->fresh[sequence]) memset(to, 0, sizeof(float) * (size_t)z->channels);
        else memcpy(to, before + (past + at) * z->channels, sizeof(float) * (size_t)z->channels);
    }
}

// mixed: [T, channels]; decay, write: [T, value_heads]; filters: [taps, channels]; rate, bias: [value_heads];
// starts: [sequences + 1]; slots: [sequences]; fresh: [sequences]; stored: [saves, 3] sequence, tokens, slot, in order;
// inputs: [slots, taps - 1, channels]; memory: [slots, value_heads, key_dim, value_dim]; out: [T, value_heads, value_dim].
// Returns 0, or 1 if there was no memory.
int ISA(gated_delta_net)(const float *mixed, const float *decay, const float *write, const float *filters,
                         const float *rate, const float *bias, const int64_t *starts, const int64_t *slots,
                         const uint8_t *fresh, const int64_t *stored, float *inputs, float *memory, float *out,
                         int64_t sequences, int64_t saves, int64_t key_heads, int64_t value_heads, int64_t key_dim,
                         int64_t value_dim, int64_t taps) {
    const int64_t keys = key_heads * key_dim, channels = 2 * keys + value_heads * value_dim, rows = starts[sequences];
    const sizes z = {sequences, saves, key_heads, value_heads, key_dim, value_dim, taps, channels, keys,
                     starts,    slots, stored,    fresh};
    const int64_t past = taps - 1, blocks = (value_dim + WIDEST - 1) / WIDEST;
    float *filtered = malloc(sizeof(float) * (size_t)(rows * (channels + 2 * value_heads) + past * channels));
    if (filtered == NULL) return 1;
    float *gates = filtered + rows * channels, *before = gates + 2 * rows * value_heads;
    int failed = 0;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t sequence = 0;
        while (starts[sequence + 1] <= row) sequence++;
        filter_row(&z, mixed, inputs, filters, sequence, row - starts[sequence], filtered + row * channels);
        for (int64_t head = 0; head < value_heads; head++) {
            float *gate = gates + 2 * (row * value_heads + head);
            gate[0] = expf(-rate[head] * softplus(decay[row * value_heads + head] + bias[head]));
            gate[1] = sigmoid(write[row * value_heads + head]);
        }
    }
    for (int64_t sequence = 0, save = 0; sequence < sequences; sequence++) {
        const int64_t slot = slots[sequence];
        memcpy(before, inputs + slot * past * channels, sizeof(float) * (size_t)(past * channels));
        for (; save < saves && stored[3 * save] == sequence; save++)
            keep_inputs(&z, mixed, before, inputs, sequence, stored[3 * save + 1], stored[3 * save + 2]);
        keep_inputs(&z, mixed, before, inputs, sequence, starts[sequence + 1] - starts[sequence], slot);
    }
#pragma omp parallel reduction(| : failed)
    {
        float *block = malloc(sizeof(float) * (size_t)(key_dim * WIDEST));
        if (block == NULL) failed = 1;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < sequences * value_heads * blocks; task++) {
            if (block == NULL) continue;
            const int64_t column = task % blocks * WIDEST, head = task / blocks % value_heads;
            const int64_t sequence = task / blocks / value_heads;
            if (value_dim - column >= WIDEST)
                pass_block(&z, sequence, head, column, WIDEST, block, filtered, gates, memory, out);
            else
                pass_block(&z, sequence, head, column, value_dim - column, block, filtered, gates, memory, out);
        }
        free(block);
    }
    free(filtered);
    return failed;
}
