// One step of a Llama-like decoder over a mixed batch: from token ids to logits in one call.
//
// The whole team walks through the layers together; each phase shares its work by a counter and ends at a meeting. Rows
// are independent and every sum has one order, so a token's logits have the same bits alone, in a batch or in a chunk.

#include "../block_matmul/cpu.h"
#include "../paged_attention/panels.h"

enum { Q_PROJ, K_PROJ, V_PROJ, O_PROJ, GATE_PROJ, UP_PROJ, DOWN_PROJ, TARGETS };

// A low-rank update of one projection: out += scale * up(down(x)). down: [columns, rank], up: [rows / 16, rank, 16].
typedef struct {
    const uint16_t *down, *up;  // halves, NULL if this projection is not changed; rank a multiple of 16
    int64_t rank;
    float scale;
} update;

typedef struct {
    const float *input_norm, *post_norm;
    const float *query_norm, *key_norm;  // [width], of each head; NULL if heads are not normed
    matrix qkv, output, gate_up, down;
} layer;

// Mirrors kernels.decoder.binding.CModel.
typedef struct {
    int64_t layers, hidden, heads, kv_heads, width, ffn, vocabulary;
    float eps, scale;          // of the norms, and on queries
    const float *frequencies;  // [width / 2] radians per position
    const float *final_norm;
    const layer *layer;
    matrix embedding, head;
} model;

// What one sequence computes in this step. Mirrors kernels.decoder.binding.SLICE.
typedef struct {
    int64_t count, context;  // new tokens, and tokens in its cache once they are written
    const int32_t *ids;      // [count] the new tokens
    const int32_t *pages;    // pages of its cache, in order
    const update *updates;   // [layers, TARGETS] of its adapter, NULL for the base; equal ones are neighbours
    int64_t rows;            // logits are wanted after this many of its last tokens
} slice;

// Rows of one adapter, one after another.
typedef struct {
    int64_t first, count;
    const update *updates;
} segment;

// A step, row by row.
typedef struct {
    int64_t tokens, spans, segments, wanted;
    const int32_t **ids;        // [tokens]
    int64_t *positions, *slots;  // [tokens]
    int64_t *logit_rows;          // [wanted]
    span *span;
    segment *segment;
} batch;

// Room for one step, and the cache. Mirrors kernels.decoder.binding.CWorkspace.
typedef struct {
    float *hidden;   // [tokens, hidden]
    float *inputs;   // [tokens, hidden] normalised
    float *wide;     // [tokens, qkv] or of one portion [PORTION, 2 ffn]
    float *mixed;    // [tokens, query], what attention gives
    float *active;   // [PORTION, ffn]
    float *turns;    // [tokens, width] cosines, then sines
    float *low;      // [tokens, 3, rank]
    float *scores;   // [threads, VECTORS * longest context]
    int64_t scores_per_thread, max_rank;
    quantized quantized;
    batch batch;     // arrays for as many rows and slices as a step may have
    float *logits;   // [wanted, vocabulary]
    uint16_t *pages;  // [page_count, layers, 2, kv_heads, 16 * width]
} workspace;

// One thread on its way through a step.
typedef struct {
    member member;
    const model *model;
    const batch *batch;
    workspace *space;
    float *scores;
    int64_t from, to;  // the rows that it is at
} walk;

// Many rows go through a layer in portions, so that what lies between two products stays in the caches.
#define PORTION 128
#define SIXTEEN 16  // rows that are quantised by one thread, because they share cache lines

// Go to the next portion of the step's rows; 0 after the last. The first time ``to`` must be 0.
static int next_portion(walk *w) {
    w->from = w->to;
    w->to = w->from + PORTION < w->batch->tokens ? w->from + PORTION : w->batch->tokens;
    return w->from < w->batch->tokens;
}

static void embed(walk *w) {
    const int64_t hidden = w->model->hidden, half = w->model->width / 2;
    FOR_SHARE(&w->member, t, 0, w->batch->tokens, 4) {
        unpack_row(&w->model->embedding, *w->batch->ids[t], w->space->hidden + t * hidden);
        float *turn = w->space->turns + t * 2 * half;
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)w->batch->positions[t] * w->model->frequencies[i];
            turn[i] = cosf(angle), turn[half + i] = sinf(angle);
        }
    }
    barrier(&w->member);
}

// to = row / rms(row) * weight
INLINE void normalize_row(const float *row, const float *weight, int64_t width, float eps, float *to) {
    vf squares = {0};
    for (int64_t i = 0; i < width; i += LANES) squares = fused(load(row + i), load(row + i), squares);
    const float inverse = 1.0f / sqrtf(sum_lanes(squares) / (float)width + eps);
    for (int64_t i = 0; i < width; i += LANES) store(to + i, load(row + i) * inverse * load(weight + i));
}

// Normalised rows, and the same quantised for the matrix that they are multiplied with.
static void normalize(walk *w, const float *weight, const matrix *for_matrix) {
    const int64_t hidden = w->model->hidden;
    FOR_SHARE(&w->member, t, w->from, w->to, SIXTEEN) {
        float *to = w->space->inputs + t * hidden;
        normalize_row(w->space->hidden + t * hidden, weight, hidden, w->model->eps, to);
        quantize_row(to, for_matrix, t, &w->space->quantized);
    }
    barrier(&w->member);
}

// The adapter's update of a projection for those of a segment's rows that the walk is at: [*from, *to); NULL for none.
INLINE const update *update_of(const walk *w, const segment *s, int64_t l, int target, int64_t *from, int64_t *to) {
    *from = s->first > w->from ? s->first : w->from;
    *to = s->first + s->count < w->to ? s->first + s->count : w->to;
    const update *u = s->updates ? s->updates + l * TARGETS + target : NULL;
    return u && u->down && *from < *to ? u : NULL;
}

// low[t, place] = down(x[t]) for the rows of every adapter that changes the target.
static void shrink(walk *w, int64_t l, int target, int place, const float *x, int64_t columns) {
    for (const segment *s = w->batch->segment; s < w->batch->segment + w->batch->segments; s++) {
        int64_t from, to;
        const update *u = update_of(w, s, l, target, &from, &to);
        if (!u) continue;
        FOR_SHARE(&w->member, t, from, to, 1) {
            const float *row = x + t * columns;
            float *low = w->space->low + (t * 3 + place) * w->space->max_rank;
            for (int64_t r = 0; r < u->rank; r += LANES) {
                vf sums[4] = {{0}};
                for (int64_t k = 0; k < columns; k += 4)
                    for (int j = 0; j < 4; j++)
                        sums[j] = fused(broadcast(row[k + j]), load_halves(u->down + (k + j) * u->rank + r), sums[j]);
                store(low + r, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * u->scale);
            }
        }
        barrier(&w->member);
    }
}

// out[t, first + row] += up(low[t, place])
static void expand(walk *w, int64_t l, int target, int place, float *out, int64_t stride, int64_t first,
                   int64_t rows) {
    for (const segment *s = w->batch->segment; s < w->batch->segment + w->batch->segments; s++) {
        int64_t from, to;
        const update *u = update_of(w, s, l, target, &from, &to);
        if (!u) continue;
        FOR_SHARE(&w->member, panel, 0, (rows + PANEL - 1) / PANEL, 4) {
            const uint16_t *up = u->up + panel * u->rank * PANEL;
            for (int64_t t = from; t < to; t++) {
                const float *low = w->space->low + (t * 3 + place) * w->space->max_rank;
                float *at = out + t * stride + first + panel * PANEL;
                for (int64_t vec = 0; vec < VECS; vec++, at += LANES) {
                    vf sums = {0};
                    for (int64_t r = 0; r < u->rank; r++)
                        sums = fused(broadcast(low[r]), load_halves(up + r * PANEL + vec * LANES), sums);
                    const int64_t left = rows - panel * PANEL - vec * LANES;
                    if (left >= LANES) store(at, load(at) + sums);
                    else for (int64_t i = 0; i < left; i++) at[i] += sums[i];
                }
            }
        }
        barrier(&w->member);
    }
}

INLINE void turn(float *head, const float *cosines, const float *sines, int64_t half, float scale) {
    for (int64_t i = 0; i < half; i++) {
        const float a = head[i], b = head[half + i];
        head[i] = (a * cosines[i] - b * sines[i]) * scale;
        head[half + i] = (b * cosines[i] + a * sines[i]) * scale;
    }
}

// Queries and keys normed, if the layer does that, and turned.
static void rotate_and_store(walk *w, int64_t l, const page_pool *pool) {
    const model *m = w->model;
    const float *query_norm = m->layer[l].query_norm, *key_norm = m->layer[l].key_norm;
    const int64_t query = m->heads * m->width, kv = m->kv_heads * m->width, half = m->width / 2;
    FOR_SHARE(&w->member, t, w->from, w->to, 4) {
        float *row = w->space->wide + t * (query + 2 * kv);
        const float *cosines = w->space->turns + t * m->width, *sines = cosines + half;
        for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
            float *head = row + h * m->width;
            const float *norm = h < m->heads ? query_norm : key_norm;
            if (norm) normalize_row(head, norm, m->width, m->eps, head);
            turn(head, cosines, sines, half, h < m->heads ? m->scale : 1.0f);
        }
        store_token(pool, w->batch->slots[t], row + query, row + query + kv);
    }
    barrier(&w->member);
}

static void quantize(walk *w, const float *rows, const matrix *m) {
    FOR_SHARE(&w->member, t, w->from, w->to, SIXTEEN) quantize_row(rows + t * m->columns, m, t, &w->space->quantized);
    barrier(&w->member);
}

static page_pool pool_of(const walk *w, int64_t l) {
    const model *m = w->model;
    const int64_t half = m->kv_heads * PAGE * m->width;  // keys or values of one layer in one page
    uint16_t *keys = w->space->pages + l * 2 * half;
    return (page_pool){m->heads, m->kv_heads, m->width, m->layers * 2 * half, keys, keys + half};
}

// Queries, keys and values of the rows; keys and values go to their pages.
static void project(walk *w, int64_t l, const page_pool *pool) {
    const model *m = w->model;
    const int64_t query = m->heads * m->width, kv = m->kv_heads * m->width, all = query + 2 * kv;
    float *wide = w->space->wide;
    normalize(w, m->layer[l].input_norm, &m->layer[l].qkv);
    multiply(&w->member, &m->layer[l].qkv, &w->space->quantized, w->from, w->to, wide, 0);
    barrier(&w->member);
    for (int target = Q_PROJ; target <= V_PROJ; target++) shrink(w, l, target, target, w->space->inputs, m->hidden);
    expand(w, l, Q_PROJ, 0, wide, all, 0, query);
    expand(w, l, K_PROJ, 1, wide, all, query, kv);
    expand(w, l, V_PROJ, 2, wide, all, query + kv, kv);
    rotate_and_store(w, l, pool);
}

// hidden += output(mixed)
static void project_back(walk *w, int64_t l) {
    const model *m = w->model;
    const int64_t query = m->heads * m->width;
    shrink(w, l, O_PROJ, 0, w->space->mixed, query);
    quantize(w, w->space->mixed, &m->layer[l].output);
    multiply(&w->member, &m->layer[l].output, &w->space->quantized, w->from, w->to, w->space->hidden, 1);
    barrier(&w->member);
    expand(w, l, O_PROJ, 0, w->space->hidden, m->hidden, 0, m->hidden);
}

// Where row 0 of the step would be in a buffer that holds the rows of the present portion alone.
INLINE float *of_portion(const walk *w, float *buffer, int64_t width) { return buffer - w->from * width; }

// active = silu(gate) * up
static void activate(walk *w, const float *wide, float *active, const matrix *down) {
    const int64_t ffn = w->model->ffn;
    FOR_SHARE(&w->member, t, w->from, w->to, SIXTEEN) {
        const float *gate = wide + t * 2 * ffn, *up = gate + ffn;
        for (int64_t i = 0; i < ffn; i += LANES) {
            const vf g = load(gate + i);
            store(active + t * ffn + i, g / (exponential(-g) + 1.0f) * load(up + i));
        }
        quantize_row(active + t * ffn, down, t, &w->space->quantized);
    }
    barrier(&w->member);
}

// hidden += down(silu(gate(x)) * up(x))
static void feed_forward(walk *w, int64_t l) {
    const model *m = w->model;
    float *hidden = w->space->hidden;
    float *wide = of_portion(w, w->space->wide, 2 * m->ffn), *active = of_portion(w, w->space->active, m->ffn);
    normalize(w, m->layer[l].post_norm, &m->layer[l].gate_up);
    multiply(&w->member, &m->layer[l].gate_up, &w->space->quantized, w->from, w->to, wide, 0);
    barrier(&w->member);
    shrink(w, l, GATE_PROJ, 0, w->space->inputs, m->hidden);
    shrink(w, l, UP_PROJ, 1, w->space->inputs, m->hidden);
    expand(w, l, GATE_PROJ, 0, wide, 2 * m->ffn, 0, m->ffn);
    expand(w, l, UP_PROJ, 1, wide, 2 * m->ffn, m->ffn, m->ffn);
    activate(w, wide, active, &m->layer[l].down);
    multiply(&w->member, &m->layer[l].down, &w->space->quantized, w->from, w->to, hidden, 1);
    barrier(&w->member);
    shrink(w, l, DOWN_PROJ, 0, active, m->ffn);
    expand(w, l, DOWN_PROJ, 0, hidden, m->hidden, 0, m->hidden);
}

static void decode_layer(walk *w, int64_t l) {
    const model *m = w->model;
    const int64_t query = m->heads * m->width, all = query + 2 * m->kv_heads * m->width;
    const page_pool pool = pool_of(w, l);
    w->to = 0;
    while (next_portion(w)) project(w, l, &pool);
    attend(&w->member, &pool, w->batch->span, w->batch->spans, w->space->wide, all, w->space->mixed, query, w->scores);
    barrier(&w->member);
    w->to = 0;
    while (next_portion(w)) {
        project_back(w, l);
        feed_forward(w, l);
    }
}

static void give_logits(walk *w) {
    const model *m = w->model;
    FOR_SHARE(&w->member, i, 0, w->batch->wanted, 1) {
        float *to = w->space->inputs + i * m->hidden;
        normalize_row(w->space->hidden + w->batch->logit_rows[i] * m->hidden, m->final_norm, m->hidden, m->eps, to);
        quantize_row(to, &m->head, i, &w->space->quantized);
    }
    barrier(&w->member);
    multiply(&w->member, &m->head, &w->space->quantized, 0, w->batch->wanted, w->space->logits, 0);
    barrier(&w->member);
}

// What every thread of a step gets.
typedef struct {
    const model *model;
    workspace *space;
} task;

static void walk_through(member *own, void *argument) {
    const task *asked = argument;
    workspace *space = asked->space;
    walk w = {*own, asked->model, &space->batch, space, space->scores + own->index * space->scores_per_thread, 0, 0};
    embed(&w);
    for (int64_t l = 0; l < w.model->layers; l++) decode_layer(&w, l);
    if (w.batch->wanted) give_logits(&w);
}

// From slices to rows.
static void lay_out(const slice *slices, int64_t count, batch *b) {
    b->tokens = b->spans = b->segments = b->wanted = 0;
    for (const slice *s = slices; s < slices + count; s++) {
        b->span[b->spans++] = (span){b->tokens, s->count, s->context, s->pages};
        segment *last = b->segment + b->segments - 1;
        if (b->segments && last->updates == s->updates) last->count += s->count;
        else b->segment[b->segments++] = (segment){b->tokens, s->count, s->updates};
        for (int64_t i = 0; i < s->count; i++, b->tokens++) {
            const int64_t position = s->context - s->count + i;
            b->ids[b->tokens] = s->ids + i;
            b->positions[b->tokens] = position;
            b->slots[b->tokens] = s->pages[position / PAGE] * (int64_t)PAGE + position % PAGE;
        }
        for (int64_t t = b->tokens - s->rows; t < b->tokens; t++) b->logit_rows[b->wanted++] = t;
    }
}

// Compute ``count`` slices; the logits of the rows that want them are in space->logits, in order.
void ISA(decoder_step)(const model *m, const slice *slices, int64_t count, workspace *space, team *t) {
    lay_out(slices, count, &space->batch);
    task asked = {m, space};
    ISA(team_run)(t, walk_through, &asked);
}
