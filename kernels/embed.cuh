/* kernels/embed.cuh - [op.embed] from token to vector, and [op.rope] rotary positions. */
#pragma once

#ifndef __CUDACC__
/* ================================================ CPU ============================================================ */
static void embed(act *y, const int32_t *ids, const Mat *table, size_t N, bool add) {
    size_t C = table->cols;
#pragma omp parallel for if (N > 1 && N * C > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        size_t row = (size_t)ids[i] * C;
        if (!add) {
            mat_read(y + i * C, table, row, C);
            continue;
        }
        for (size_t c0 = 0; c0 < C; c0 += 256) {              /* widened piece by piece, so that the pieces stay in L1 */
            float w[256], *y_c = y + i * C + c0;
            size_t n = MIN(256, C - c0);
            mat_read(w, table, row + c0, n);
#pragma omp simd
            for (size_t c = 0; c < n; c++) y_c[c] += w[c];
        }
    }
}

/* Equal ids lie together in `order`. The thread that meets the first of a run sums the whole run, in the order's order. */
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

/* (a, b) turned by the angle t is (a cos t - b sin t, b cos t + a sin t); the inverse turns by -t. One head, n pairs;
 * cs holds cos, sin of each pair. Half-split pairs (i, i + n), and pairs of neighbours (2i, 2i + 1). */
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
/* ================================================ CUDA =========================================================== */
#endif
