/* kernels/adamw.cuh - [op.adamw] the optimiser, and the gradient's norm. */
#pragma once

/* The step's constants, worked out once: what remains per value is one square root and one division. */
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
/* ================================================ CUDA =========================================================== */
#endif
