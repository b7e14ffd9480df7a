/* kernels/norm.cuh - [op.norm] RMSNorm, LayerNorm and their backward passes.
 *
 * Each row of C values is brought to mean square 1 (RMSNorm) or to mean 0 and variance 1 (LayerNorm), then scaled per
 * channel. With x' = the normalised row and g = dy w, both backward passes remove from g what the normalisation takes
 * out of any change of x:
 *     RMSNorm      dx = rstd (g - x' mean(g x'))
 *     LayerNorm    dx = rstd (g - mean(g) - x' mean(g x'))
 *     both         dw = sum over rows of dy x'        db = sum over rows of dy
 * A row is read two or three times, but from memory only once: it stays in the L1 cache. */
#pragma once

/* ---- sums over the rows: partial sums of fixed groups of rows, then added up in order --------------------------- */
#ifndef __CUDACC__
/* NORM_ROWS rows at a time leave their sums in one row of part: the number of threads decides who computes a group,
 * never what is added to what. */
enum { NORM_ROWS = 32 };
/* dw[c] += sum over k of part[k * stride + c], a cache line of columns at a time */
static void norm_reduce(float *dw, const float *part, size_t blocks, size_t C, size_t stride) {
#pragma omp parallel for if (blocks > 1 && blocks * C > PAR_MIN)
    for (size_t c0 = 0; c0 < C; c0 += 16)
        for (size_t k = 0; k < blocks; k++)
            for (size_t c = c0; c < MIN(c0 + 16, C); c++) dw[c] += part[k * stride + c];
}
#else
/* The backward kernels run in at most NORM_BLOCKS blocks; block k takes rows k, k + NORM_BLOCKS, ... and leaves its
 * sums in part[k]. Threads own columns and the sums lie in shared memory, so no two threads ever add to one place. */
enum { NORM_BLOCKS = 1024 };
/* dw[c] += sum over k of part[k * stride + c]: 32 columns a block; each row of threads adds every 32nd partial sum. */
static __global__ void norm_reduce_kernel(float *dw, const float *part, size_t blocks, size_t C, size_t stride) {
    __shared__ float sums[32][33];                            /* 33: a column of it lies in 32 different banks */
    size_t c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (c < C)
        for (size_t k = threadIdx.y; k < blocks; k += 32) sum += part[k * stride + c];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(sums[threadIdx.x][threadIdx.y]);           /* now a warp holds one column */
    c = blockIdx.x * 32 + threadIdx.y;
    if (!threadIdx.x && c < C) dw[c] += sum;
}
static void norm_reduce(float *dw, const float *part, size_t blocks, size_t C, size_t stride) {
    norm_reduce_kernel<<<(unsigned)CEIL_DIV(C, 32), dim3(32, 32), 0, stream>>>(dw, part, blocks, C, stride);
    LAUNCHED();
}
/* One block a row, one pack a thread where that suffices. */
static unsigned norm_threads(size_t C, int W) { return (unsigned)MIN(CEIL_DIV(CEIL_DIV(C, W), 32) * 32, 1024); }
/* Sums in shared memory may need more than the 48 KB that a kernel gets unasked. */
template <typename Kernel> static void norm_shared(Kernel kernel, size_t bytes) {
    if (bytes > 48 << 10)
        CUDA_OK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
#endif

/* ---- RMSNorm ---------------------------------------------------------------------------------------------------- */
#ifndef __CUDACC__
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
#else
template <int W>
static __global__ void rmsnorm_kernel(act *y, float *rstd, const act *x, const float *w, size_t C, float eps) {
    x += blockIdx.x * C, y += blockIdx.x * C;
    float sum = 0;
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<act, W> x_c = load<W>(x + c);
        for (int k = 0; k < W; k++) sum += to_f(x_c.v[k]) * to_f(x_c.v[k]);
    }
    float r = 1.0f / sqrtf(block_sum(sum) / (float)C + eps);
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<act, W> x_c = load<W>(x + c);
        Pack<float, W> w_c = load<W>(w + c);
        for (int k = 0; k < W; k++) x_c.v[k] = from_f<act>(to_f(x_c.v[k]) * r * w_c.v[k]);
        store<W>(y + c, x_c);
    }
    if (rstd && !threadIdx.x) rstd[blockIdx.x] = r;
}
static void rmsnorm(act *y, float *rstd, const act *x, const float *w, size_t N, size_t C, float eps) {
    if (!N) return;
    if (C % ACT_W == 0 && aligned16(y, x, w))
        rmsnorm_kernel<ACT_W><<<(unsigned)N, norm_threads(C, ACT_W), 0, stream>>>(y, rstd, x, w, C, eps);
    else rmsnorm_kernel<1><<<(unsigned)N, norm_threads(C, 1), 0, stream>>>(y, rstd, x, w, C, eps);
    LAUNCHED();
}

template <int W>
static __global__ void rmsnorm_bwd_kernel(act *dx, float *part, const act *dy, const act *x, const float *w,
    const float *rstd,
                                   size_t N, size_t C, bool accumulate) {
    extern __shared__ float4 shared[];
    float *dw = (float *)shared;                              /* (C) this block's sums */
    if (part)
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W)
            for (int k = 0; k < W; k++) dw[c + k] = 0;
    for (size_t i = blockIdx.x; i < N; i += gridDim.x) {
        const act *x_i = x + i * C, *dy_i = dy + i * C;
        float r = rstd[i], dot = 0;
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
            Pack<act, W> x_c = load<W>(x_i + c), dy_c = load<W>(dy_i + c);
            Pack<float, W> w_c = load<W>(w + c);
            for (int k = 0; k < W; k++) {
                float d = to_f(dy_c.v[k]), xn = to_f(x_c.v[k]) * r;
                dot += d * w_c.v[k] * xn;
                if (part) dw[c + k] += d * xn;
            }
        }
        dot = block_sum(dot) / (float)C;
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
            Pack<act, W> x_c = load<W>(x_i + c), dy_c = load<W>(dy_i + c), dx_c;
            Pack<float, W> w_c = load<W>(w + c);
            if (accumulate) dx_c = load<W>(dx + i * C + c);
            for (int k = 0; k < W; k++) {
                float d = (to_f(dy_c.v[k]) * w_c.v[k] - to_f(x_c.v[k]) * r * dot) * r;
                dx_c.v[k] = from_f<act>(accumulate ? to_f(dx_c.v[k]) + d : d);
            }
            store<W>(dx + i * C + c, dx_c);
        }
    }
    if (part)
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W)
            for (int k = 0; k < W; k++) part[blockIdx.x * C + c + k] = dw[c + k];
}
static void rmsnorm_bwd(act *dx, float *dw, const act *dy, const act *x, const float *w, const float *rstd, size_t N,
                        size_t C, bool accumulate) {
    if (!N) return;
    size_t blocks = MIN(N, NORM_BLOCKS), bytes = dw ? C * sizeof(float) : 0;
    float *part = dw ? (float *)scratch(SCRATCH_NORM, blocks * bytes) : NULL;
    bool packs = C % ACT_W == 0 && aligned16(dx, dy, x, w);
    auto kernel = packs ? rmsnorm_bwd_kernel<ACT_W> : rmsnorm_bwd_kernel<1>;
    norm_shared(kernel, bytes);
    kernel<<<(unsigned)blocks, norm_threads(C, packs ? ACT_W : 1), bytes, stream>>>(dx, part, dy, x, w, rstd, N, C,
                                                                                    accumulate);
    LAUNCHED();
    if (dw) norm_reduce(dw, part, blocks, C, C);
}
#endif

/* ---- LayerNorm -------------------------------------------------------------------------------------------------- *
 * The variance is taken of x - mean, in a second pass: mean(x^2) - mean^2 cancels when the mean is large. */
#ifndef __CUDACC__
static void layernorm(act *y, float *mean, float *rstd, const act *x, const float *w, const float *b, size_t N,
                      size_t C, float eps) {
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
        float *dw_k = part ? part + 2 * k * C : NULL, *db_k = part ? dw_k + C : NULL;
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
template <int W>
static __global__ void layernorm_kernel(act *y, float *mean, float *rstd, const act *x, const float *w, const float *b,
                                 size_t C, float eps) {
    x += blockIdx.x * C, y += blockIdx.x * C;
    float sum = 0, var = 0;
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<act, W> x_c = load<W>(x + c);
        for (int k = 0; k < W; k++) sum += to_f(x_c.v[k]);
    }
    float mu = block_sum(sum) / (float)C;
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<act, W> x_c = load<W>(x + c);
        for (int k = 0; k < W; k++) var += (to_f(x_c.v[k]) - mu) * (to_f(x_c.v[k]) - mu);
    }
    float r = 1.0f / sqrtf(block_sum(var) / (float)C + eps);
    for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
        Pack<act, W> x_c = load<W>(x + c);
        Pack<float, W> w_c = load<W>(w + c), b_c = load<W>(b + c);
        for (int k = 0; k < W; k++) x_c.v[k] = from_f<act>((to_f(x_c.v[k]) - mu) * r * w_c.v[k] + b_c.v[k]);
        store<W>(y + c, x_c);
    }
    if (mean && !threadIdx.x) mean[blockIdx.x] = mu;
    if (rstd && !threadIdx.x) rstd[blockIdx.x] = r;
}
static void layernorm(act *y, float *mean, float *rstd, const act *x, const float *w, const float *b, size_t N,
                      size_t C, float eps) {
    if (!N) return;
    if (C % ACT_W == 0 && aligned16(y, x, w, b))
        layernorm_kernel<ACT_W><<<(unsigned)N, norm_threads(C, ACT_W), 0, stream>>>(y, mean, rstd, x, w, b, C, eps);
    else layernorm_kernel<1><<<(unsigned)N, norm_threads(C, 1), 0, stream>>>(y, mean, rstd, x, w, b, C, eps);
    LAUNCHED();
}

template <int W>
static __global__ void layernorm_bwd_kernel(act *dx, float *part, const act *dy, const act *x, const float *w,
                                     const float *mean, const float *rstd, size_t N, size_t C, bool accumulate) {
    extern __shared__ float4 shared[];
    float *dw = (float *)shared, *db = dw + C;                /* (C) each: this block's sums */
    if (part)
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W)
            for (int k = 0; k < W; k++) dw[c + k] = db[c + k] = 0;
    for (size_t i = blockIdx.x; i < N; i += gridDim.x) {
        const act *x_i = x + i * C, *dy_i = dy + i * C;
        float r = rstd[i], mu = mean[i], sum = 0, dot = 0;
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
            Pack<act, W> x_c = load<W>(x_i + c), dy_c = load<W>(dy_i + c);
            Pack<float, W> w_c = load<W>(w + c);
            for (int k = 0; k < W; k++) {
                float d = to_f(dy_c.v[k]), xn = (to_f(x_c.v[k]) - mu) * r;
                sum += d * w_c.v[k];
                dot += d * w_c.v[k] * xn;
                if (part) dw[c + k] += d * xn, db[c + k] += d;
            }
        }
        sum = block_sum(sum) / (float)C;
        dot = block_sum(dot) / (float)C;
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W) {
            Pack<act, W> x_c = load<W>(x_i + c), dy_c = load<W>(dy_i + c), dx_c;
            Pack<float, W> w_c = load<W>(w + c);
            if (accumulate) dx_c = load<W>(dx + i * C + c);
            for (int k = 0; k < W; k++) {
                float d = (to_f(dy_c.v[k]) * w_c.v[k] - sum - (to_f(x_c.v[k]) - mu) * r * dot) * r;
                dx_c.v[k] = from_f<act>(accumulate ? to_f(dx_c.v[k]) + d : d);
            }
            store<W>(dx + i * C + c, dx_c);
        }
    }
    if (part)
        for (size_t c = threadIdx.x * W; c < C; c += blockDim.x * W)
            for (int k = 0; k < W; k++) {
                part[2 * blockIdx.x * C + c + k] = dw[c + k];
                part[2 * blockIdx.x * C + C + c + k] = db[c + k];
            }
}
static void layernorm_bwd(act *dx, float *dw, float *db, const act *dy, const act *x, const float *w, const float *mean,
                          const float *rstd, size_t N, size_t C, bool accumulate) {
    if (!N) return;
    size_t blocks = MIN(N, NORM_BLOCKS), bytes = dw || db ? 2 * C * sizeof(float) : 0;
    float *part = bytes ? (float *)scratch(SCRATCH_NORM, blocks * bytes) : NULL;
    bool packs = C % ACT_W == 0 && aligned16(dx, dy, x, w);
    auto kernel = packs ? layernorm_bwd_kernel<ACT_W> : layernorm_bwd_kernel<1>;
    norm_shared(kernel, bytes);
    kernel<<<(unsigned)blocks, norm_threads(C, packs ? ACT_W : 1), bytes, stream>>>(dx, part, dy, x, w, mean, rstd, N,
                                                                                    C, accumulate);
    LAUNCHED();
    if (dw) norm_reduce(dw, part, blocks, C, 2 * C);
    if (db) norm_reduce(db, part + C, blocks, C, 2 * C);
}
#endif
