/* kernels/norm.cuh - [op.norm] RMSNorm, LayerNorm and their backward passes. */
#pragma once

#ifndef __CUDACC__
/* ================================================ CPU ============================================================ */
static void rmsnorm(act *y, float *rstd, const act *x, const float *w, size_t N, size_t C, float eps) {
#pragma omp parallel for if (N > 1 && N * C > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        const act *x_i = x + i * C;
        act *y_i = y + i * C;
        float sum;
        SUM_LANES(sum, c, C, x_i[c] * x_i[c]);
        float r = 1.0f / sqrtf(sum / (float)C + eps);
#pragma omp simd
        for (size_t c = 0; c < C; c++) y_i[c] = x_i[c] * r * w[c];
        if (rstd) rstd[i] = r;
    }
}

enum { NORM_ROWS = 32 };
static void norm_reduce(float *dw, const float *part, size_t blocks, size_t C, size_t stride) {
#pragma omp parallel for if (blocks > 1 && blocks * C > PAR_MIN)
    for (size_t c0 = 0; c0 < C; c0 += 64)
        for (size_t k = 0; k < blocks; k++)
            for (size_t c = c0; c < MIN(c0 + 64, C); c++) dw[c] += part[k * stride + c];
}

static void rmsnorm_bwd(act *dx, float *dw, const act *dy, const act *x, const float *w, const float *rstd, size_t N,
                        size_t C, bool accumulate) {
    size_t blocks = CEIL_DIV(N, NORM_ROWS);
    float *part = dw ? (float *)scratch(SCRATCH_NORM, blocks * C * sizeof *part) : NULL;
#pragma omp parallel for if (blocks > 1 && N * C > PAR_MIN)
    for (size_t k = 0; k < blocks; k++) {
        float *dw_k = dw ? part + k * C : NULL;
        if (dw) memset(dw_k, 0, C * sizeof *dw_k);
        for (size_t i = k * NORM_ROWS; i < MIN((k + 1) * NORM_ROWS, N); i++) {
            const act *x_i = x + i * C, *dy_i = dy + i * C;
            act *dx_i = dx + i * C;
            float r = rstd[i], dot;
            SUM_LANES(dot, c, C, dy_i[c] * w[c] * x_i[c]);
            if (dw)
#pragma omp simd
                for (size_t c = 0; c < C; c++) dw_k[c] += dy_i[c] * (x_i[c] * r);
            float back = dot * r * r * r / (float)C;
#pragma omp simd
            for (size_t c = 0; c < C; c++) {
                float d = dy_i[c] * w[c] * r - x_i[c] * back;
                dx_i[c] = accumulate ? dx_i[c] + d : d;
            }
        }
    }
    if (dw) norm_reduce(dw, part, blocks, C, C);
}

static void layernorm(act *y, float *mean, float *rstd, const act *x, const float *w, const float *b, size_t N, size_t C,
                      float eps) {
#pragma omp parallel for if (N > 1 && N * C > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        const act *x_i = x + i * C;
        act *y_i = y + i * C;
        float sum, var;
        SUM_LANES(sum, c, C, x_i[c]);
        float mu = sum / (float)C;
        SUM_LANES(var, c, C, (x_i[c] - mu) * (x_i[c] - mu));
        float r = 1.0f / sqrtf(var / (float)C + eps);
#pragma omp simd
        for (size_t c = 0; c < C; c++) y_i[c] = (x_i[c] - mu) * r * w[c] + b[c];
        if (mean) mean[i] = mu;
        if (rstd) rstd[i] = r;
    }
}

static void layernorm_bwd(act *dx, float *dw, float *db, const act *dy, const act *x, const float *w, const float *mean,
                          const float *rstd, size_t N, size_t C, bool accumulate) {
    size_t blocks = CEIL_DIV(N, NORM_ROWS);
    float *part = dw || db ? (float *)scratch(SCRATCH_NORM, 2 * blocks * C * sizeof *part) : NULL;
#pragma omp parallel for if (blocks > 1 && N * C > PAR_MIN)
    for (size_t k = 0; k < blocks; k++) {
        float *dw_k = part + 2 * k * C, *db_k = dw_k + C;
        if (part) memset(dw_k, 0, 2 * C * sizeof *dw_k);
        for (size_t i = k * NORM_ROWS; i < MIN((k + 1) * NORM_ROWS, N); i++) {
            const act *x_i = x + i * C, *dy_i = dy + i * C;
            act *dx_i = dx + i * C;
            float r = rstd[i], mu = mean[i], sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
            for (size_t c = 0; c < C; c++) {
                float g = dy_i[c] * w[c];
                sum += g;
                dot += g * ((x_i[c] - mu) * r);
            }
            if (part)
#pragma omp simd
                for (size_t c = 0; c < C; c++) {
                    dw_k[c] += dy_i[c] * ((x_i[c] - mu) * r);
                    db_k[c] += dy_i[c];
                }
            sum /= (float)C, dot /= (float)C;
#pragma omp simd
            for (size_t c = 0; c < C; c++) {
                float d = (dy_i[c] * w[c] - sum - (x_i[c] - mu) * r * dot) * r;
                dx_i[c] = accumulate ? dx_i[c] + d : d;
            }
        }
    }
    if (dw) norm_reduce(dw, part, blocks, C, 2 * C);
    if (db) norm_reduce(db, part + C, blocks, C, 2 * C);
}
#else
/* ================================================ CUDA =========================================================== */
#endif
