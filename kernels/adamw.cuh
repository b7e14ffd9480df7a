/* kernels/adamw.cuh - [op.adamw] the optimiser, and the gradient's norm. */
#pragma once

/* The step's constants, worked out once (from floats: 1 - 0.999f is 1.3e-5 short of torch's 0.001, and moves a step by
 * half of that share): what remains per value is one square root and one division. */
typedef struct { float decay, beta1, beta2, to_m, to_v, scale, step, unbias, eps; } AdamWStep;
static inline AdamWStep adamw_constants(const AdamW *h) {
    AdamWStep s;
    s.decay = 1.0f - h->lr * h->weight_decay;
    s.beta1 = h->beta1, s.to_m = 1.0f - h->beta1;
    s.beta2 = h->beta2, s.to_v = 1.0f - h->beta2;
    s.scale = h->grad_scale;
    s.step = h->lr / h->bias1;
    s.unbias = 1.0f / sqrtf(h->bias2);
    s.eps = h->eps;
    return s;
}
/*  g' = scale g    m = beta1 m + (1 - beta1) g'    v = beta2 v + (1 - beta2) g'^2
 *  p  = (1 - lr wd) p - lr (m / bias1) / (sqrt(v / bias2) + eps)                     */
HD float adamw_value(AdamWStep s, float p, float g, float *m, float *v) {
    g *= s.scale;
    *m = s.beta1 * *m + s.to_m * g;
    *v = s.beta2 * *v + s.to_v * (g * g);
    return s.decay * p - s.step * *m / (sqrtf(*v) * s.unbias + s.eps);
}

#ifndef __CUDACC__
/* ---- CPU ---- */
/* 16 bytes read and 16 written per value: memory sets the pace. So the gradient is zeroed and the bf16 copy made while
 * the block is in the L1 cache, and neither costs a pass of its own. */
enum { ADAMW_BLOCK = 1024 };
static void adamw(float *p, const Mat *copy, float *grad, float *m, float *v, size_t n, const AdamW *h) {
    AdamWStep s = adamw_constants(h);
    size_t blocks = CEIL_DIV(n, ADAMW_BLOCK);
#pragma omp parallel for if (n > PAR_MIN)
    for (size_t k = 0; k < blocks; k++) {
        size_t at = k * ADAMW_BLOCK, end = MIN(at + ADAMW_BLOCK, n);
#pragma omp simd
        for (size_t i = at; i < end; i++) {
            float m_i = m[i], v_i = v[i];
            p[i] = adamw_value(s, p[i], grad[i], &m_i, &v_i);
            m[i] = m_i, v[i] = v_i, grad[i] = 0;
        }
        if (copy && copy->data) mat_write(copy, at, p + at, end - at);
    }
}

#else
/* ---- CUDA ---- */
template <int W, typename T>
static __global__ void adamw_kernel(float *p, T *copy, float *grad, float *m, float *v, size_t n, AdamWStep s) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i + W <= n) {
        Pack<float, W> p_i = load<W>(p + i), g_i = load<W>(grad + i), m_i = load<W>(m + i), v_i = load<W>(v + i);
        Pack<T, W> copy_i;
        for (int k = 0; k < W; k++) {
            p_i.v[k] = adamw_value(s, p_i.v[k], g_i.v[k], &m_i.v[k], &v_i.v[k]);
            g_i.v[k] = 0;
            copy_i.v[k] = from_f<T>(p_i.v[k]);
        }
        store<W>(p + i, p_i), store<W>(grad + i, g_i), store<W>(m + i, m_i), store<W>(v + i, v_i);
        if (copy) store<W>(copy + i, copy_i);
    } else
        for (; i < n; i++) {
            p[i] = adamw_value(s, p[i], grad[i], m + i, v + i);
            grad[i] = 0;
            if (copy) copy[i] = from_f<T>(p[i]);
        }
}
template <typename T>
static void adamw_launch(float *p, T *copy, float *grad, float *m, float *v, size_t n, AdamWStep s) {
    if (aligned16(p, copy, grad, m, v))
        adamw_kernel<4><<<(unsigned)CEIL_DIV(n, 256 * 4), 256, 0, stream>>>(p, copy, grad, m, v, n, s);
    else adamw_kernel<1><<<(unsigned)CEIL_DIV(n, 256), 256, 0, stream>>>(p, copy, grad, m, v, n, s);
    LAUNCHED();
}
static void adamw(float *p, const Mat *copy, float *grad, float *m, float *v, size_t n, const AdamW *h) {
    AdamWStep s = adamw_constants(h);
    if (!n) return;
    if (copy && copy->dtype == DT_BF16) adamw_launch(p, (__nv_bfloat16 *)copy->data, grad, m, v, n, s);
    else if (copy && copy->dtype == DT_F16) adamw_launch(p, (__half *)copy->data, grad, m, v, n, s);
    else adamw_launch(p, copy ? (float *)copy->data : (float *)NULL, grad, m, v, n, s);
}
#endif

/* ---- the gradient's norm: sums over fixed blocks, then over the blocks in order, all in double ------------------ */
#ifndef __CUDACC__
enum { SUM_BLOCK = 1 << 16 };
static void sum_squares(double *out, const float *x, size_t n) {
    size_t blocks = CEIL_DIV(n, SUM_BLOCK);
    double *part = (double *)scratch(SCRATCH_SUM, blocks * sizeof *part), total = 0;
#pragma omp parallel for if (n > PAR_MIN)
    for (size_t k = 0; k < blocks; k++) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t i = k * SUM_BLOCK; i < MIN((k + 1) * SUM_BLOCK, n); i++) sum += (double)x[i] * (double)x[i];
        part[k] = sum;
    }
    for (size_t k = 0; k < blocks; k++) total += part[k];
    *out = total;
}
#else
/* Thread t of all takes values t, t + SUM_THREADS, ...: fixed by n alone, whatever GPU runs it. */
enum { SUM_THREADS = 1024 * 256 };
static __global__ void sum_squares_kernel(double *part, const float *x, size_t n, size_t packs) {
    double sum = 0;
    size_t t = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = t; i < packs; i += SUM_THREADS) {
        Pack<float, 4> x_i = load<4>(x + 4 * i);
        for (int k = 0; k < 4; k++) sum += (double)x_i.v[k] * (double)x_i.v[k];
    }
    for (size_t i = 4 * packs + t; i < n; i += SUM_THREADS) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}
static __global__ void sum_blocks_kernel(double *out, const double *part) {
    double sum = block_sum(part[threadIdx.x]);
    if (!threadIdx.x) *out = sum;
}
static void sum_squares(double *out, const float *x, size_t n) {
    double *part = (double *)scratch(SCRATCH_SUM, 1024 * sizeof *part);
    sum_squares_kernel<<<1024, 256, 0, stream>>>(part, x, n, aligned16(x) ? n / 4 : 0);
    sum_blocks_kernel<<<1, 1024, 0, stream>>>(out, part);
    LAUNCHED();
}
#endif
