/* kernels/embed.cuh - [op.embed] from token to vector, and [op.rope] rotary positions. */
#pragma once

/* ---- embedding: y[i] = table[ids[i]] ---------------------------------------------------------------------------- */
#ifndef __CUDACC__
static void embed(act *y, const int32_t *ids, const Mat *table, size_t N, bool add) {
    size_t C = table->cols;
#pragma omp parallel for if (N > 1 && N * C > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        size_t row = (size_t)ids[i] * C;
        if (!add) {
            mat_read(y + i * C, table, row, C);
            continue;
        }
        /* widened piece by piece, so that the pieces stay in L1 */
        for (size_t c0 = 0; c0 < C; c0 += 256) {
            float w[256], *y_c = y + i * C + c0;
            size_t n = MIN(256, C - c0);
            mat_read(w, table, row + c0, n);
#pragma omp simd
            for (size_t c = 0; c < n; c++) y_c[c] += w[c];
        }
    }
}
#else
template <int W, typename T>
static __global__ void embed_kernel(act *y, const int32_t *ids, const T *table, size_t C, bool add) {
    const T *w = table + (size_t)ids[blockIdx.x] * C;
    y += blockIdx.x * C;
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<T, W> w_c = load<W>(w + c);
        Pack<act, W> y_c;
        if (add) y_c = load<W>(y + c);
        for (int k = 0; k < W; k++) y_c.v[k] = from_f<act>(to_f(w_c.v[k]) + (add ? to_f(y_c.v[k]) : 0.0f));
        store<W>(y + c, y_c);
    }
}
template <typename T> static void embed_launch(act *y, const int32_t *ids, const T *table, size_t N, size_t C,
                                               bool add) {
    if (C % 8 == 0 && aligned16(y, table)) embed_kernel<8><<<(unsigned)N, 128, 0, stream>>>(y, ids, table, C, add);
    else embed_kernel<1><<<(unsigned)N, 256, 0, stream>>>(y, ids, table, C, add);
    LAUNCHED();
}
static __global__ void embed_quantised(act *y, const int32_t *ids, Mat table, bool add) {
    y += blockIdx.x * table.cols;
    for (size_t c = threadIdx.x * 8; c < table.cols; c += blockDim.x * 8) {
        float v[8];
        int n = (int)MIN(table.cols - c, (size_t)8);
        quant_read8(v, &table, (size_t)ids[blockIdx.x], c, n);
        for (int k = 0; k < n; k++) y[c + k] = from_f<act>(v[k] + (add ? to_f(y[c + k]) : 0.0f));
    }
}
static void embed(act *y, const int32_t *ids, const Mat *table, size_t N, bool add) {
    if (!N) return;
    if (mat_quantised(table)) {
        embed_quantised<<<(unsigned)N, 128, 0, stream>>>(y, ids, *table, add);
        LAUNCHED();
        return;
    }
    if (table->dtype == DT_F32) embed_launch(y, ids, (const float *)table->data, N, table->cols, add);
    else if (table->dtype == DT_F16) embed_launch(y, ids, (const __half *)table->data, N, table->cols, add);
    else embed_launch(y, ids, (const __nv_bfloat16 *)table->data, N, table->cols, add);
}
#endif

/* Backward: a token that occurs five times gets five gradients. Equal ids lie together in `order`, so whoever meets the
 * first of a run sums the whole run, always in the same order: no atomics, and the same result every time. */
#ifndef __CUDACC__
static void embed_bwd(float *dtable, const int32_t *ids, const int32_t *order, const act *dy, size_t N, size_t C) {
#pragma omp parallel for if (N > 1 && N * C > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        int32_t id = ids[order[i]];
        if (i > 0 && ids[order[i - 1]] == id) continue;
        float *dw = dtable + (size_t)id * C;
        for (size_t j = i; j < N && ids[order[j]] == id; j++) {
            const act *dy_j = dy + (size_t)order[j] * C;
#pragma omp simd
            for (size_t c = 0; c < C; c++) dw[c] += dy_j[c];
        }
    }
}
#else
template <int W>
static __global__ void embed_bwd_kernel(float *dtable, const int32_t *ids, const int32_t *order, const act *dy,
    size_t N,
                                 size_t C) {
    size_t i = blockIdx.x;
    int32_t id = ids[order[i]];
    if (i > 0 && ids[order[i - 1]] == id) return;
    size_t end = i + 1;
    while (end < N && ids[order[end]] == id) end++;
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<float, W> dw = load<W>(dtable + (size_t)id * C + c);
        for (size_t j = i; j < end; j++) {
            Pack<act, W> dy_j = load<W>(dy + (size_t)order[j] * C + c);
            for (int k = 0; k < W; k++) dw.v[k] += to_f(dy_j.v[k]);
        }
        store<W>(dtable + (size_t)id * C + c, dw);
    }
}
static void embed_bwd(float *dtable, const int32_t *ids, const int32_t *order, const act *dy, size_t N, size_t C) {
    if (!N) return;
    if (C % ACT_W == 0 && aligned16(dtable, dy))
        embed_bwd_kernel<ACT_W><<<(unsigned)N, 128, 0, stream>>>(dtable, ids, order, dy, N, C);
    else embed_bwd_kernel<1><<<(unsigned)N, 256, 0, stream>>>(dtable, ids, order, dy, N, C);
    LAUNCHED();
}
#endif

/* ---- [op.rope] rotary positions --------------------------------------------------------------------------------- *
 * (a, b) turned by the angle t is (a cos t - b sin t, b cos t + a sin t); the inverse turns by -t. Pairs are halves
 * apart, (i, i + n), or neighbours, (2i, 2i + 1); cs holds the cosine and sine of each of the n pairs. */
#ifndef __CUDACC__
static void rotate_halves(float *y, const float *x, const float *cs, size_t n, float turn) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float c = cs[2 * i], s = cs[2 * i + 1] * turn, a = x[i], b = x[i + n];
        y[i] = a * c - b * s;
        y[i + n] = b * c + a * s;
    }
}
static void rotate_neighbours(float *y, const float *x, const float *cs, size_t n, float turn) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float c = cs[2 * i], s = cs[2 * i + 1] * turn, a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * c - b * s;
        y[2 * i + 1] = b * c + a * s;
    }
}

static void rope(act *y, const act *x, const Rope *r) {
    size_t n_tok = r->B * r->T, D = (size_t)r->D, row = (size_t)r->heads * D;
    size_t first = (size_t)r->first, pairs = (size_t)r->rot / 2, last = first + 2 * pairs;
    float turn = r->inverse ? -1.0f : 1.0f;
#pragma omp parallel for if (n_tok > 1 && n_tok * row > PAR_MIN)
    for (size_t i = 0; i < n_tok; i++) {
        size_t b = i / r->T, t = i % r->T, slot = (r->slot ? (size_t)r->slot[b] : 0) + t;
        const act *x_i = x + i * row;
        act *y_i = y + b * r->y_row + slot * row;
        if (!pairs) { memcpy(y_i, x_i, row * sizeof *y_i); continue; }
        const float *cs = r->table + (size_t)r->position[i] * 2 * pairs;
        for (size_t h = 0; h < row; h += D) {
            (r->interleaved ? rotate_neighbours : rotate_halves)(y_i + h + first, x_i + h + first, cs, pairs, turn);
            if (y_i == x_i || 2 * pairs == D) continue;
            memcpy(y_i + h, x_i + h, first * sizeof *y_i);
            memcpy(y_i + h + last, x_i + h + last, (D - last) * sizeof *y_i);
        }
    }
}
#else
/* One block a token. A thread takes W dimensions of a head: it copies them when they do not turn; turns them with those
 * half a turn further on, whose own thread has nothing to do then; or turns neighbours among them. So each pair is read
 * and written by one thread, and y may be x. */
template <int W> static __global__ void rope_kernel(act *y, const act *x, Rope r) {
    size_t i = blockIdx.x, b = i / r.T, t = i % r.T, row = (size_t)r.heads * r.D;
    int pairs = r.rot / 2, last = r.first + 2 * pairs;
    x += i * row;
    y += b * r.y_row + ((r.slot ? (size_t)r.slot[b] : 0) + t) * row;
    const float *cs = pairs ? r.table + (size_t)r.position[i] * 2 * pairs : NULL;
    for (size_t at = threadIdx.x * W; at < row; at += blockDim.x * W) {
        int d = (int)(at % r.D), pair = d - r.first;          /* of the pack's first dimension, half-split */
        bool turns = d >= r.first && d < last;
        if (!turns) {
            if (y != x) store<W>(y + at, load<W>(x + at));
        } else if (!r.interleaved) {
            if (pair >= pairs) continue;
            Pack<act, W> a = load<W>(x + at), z = load<W>(x + at + pairs);
            Pack<float, 2 * W> angle = load<2 * W>(cs + 2 * pair);
            for (int k = 0; k < W; k++) {
                float c = angle.v[2 * k], s = angle.v[2 * k + 1] * (r.inverse ? -1.0f : 1.0f);
                float a_k = to_f(a.v[k]), z_k = to_f(z.v[k]);
                a.v[k] = from_f<act>(a_k * c - z_k * s);
                z.v[k] = from_f<act>(z_k * c + a_k * s);
            }
            store<W>(y + at, a), store<W>(y + at + pairs, z);
        } else {
            constexpr int P = W < 2 ? 2 : W;                  /* two neighbours at least */
            if (P > W && pair % 2) continue;
            Pack<act, P> a;
            for (int k = 0; k < P; k++) a.v[k] = x[at + k];
            for (int k = 0; k < P; k += 2) {
                float c = cs[pair + k], s = cs[pair + k + 1] * (r.inverse ? -1.0f : 1.0f);
                float a_k = to_f(a.v[k]), z_k = to_f(a.v[k + 1]);
                a.v[k] = from_f<act>(a_k * c - z_k * s);
                a.v[k + 1] = from_f<act>(z_k * c + a_k * s);
            }
            for (int k = 0; k < P; k++) y[at + k] = a.v[k];
        }
    }
}
static void rope(act *y, const act *x, const Rope *r) {
    size_t n_tok = r->B * r->T, row = (size_t)r->heads * r->D;
    if (!n_tok) return;
    bool packs = r->D % ACT_W == 0 && r->first % ACT_W == 0 && r->rot / 2 % ACT_W == 0 && r->y_row % ACT_W == 0 &&
                 aligned16(y, x, r->table);
    size_t threads = MIN(CEIL_DIV(packs ? row / ACT_W : row, 32) * 32, 512);
    if (packs) rope_kernel<ACT_W><<<(unsigned)n_tok, (unsigned)threads, 0, stream>>>(y, x, *r);
    else rope_kernel<1><<<(unsigned)n_tok, (unsigned)threads, 0, stream>>>(y, x, *r);
    LAUNCHED();
}
#endif
