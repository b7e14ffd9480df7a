/* kernels/mlp.cuh - [op.mlp] GELU, SwiGLU, the residual sum and dropout, with their backward passes. */
#pragma once

#ifndef __CUDACC__
/* ================================================ CPU ============================================================ */
static void gelu(act *y, const act *x, size_t n, GeluKind kind) {
    if (kind == GELU_TANH) {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
        for (size_t i = 0; i < n; i++) y[i] = gelu_tanh(x[i]);
    } else {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
        for (size_t i = 0; i < n; i++) y[i] = gelu_erf(x[i]);
    }
}
static void gelu_bwd(act *dx, const act *dy, const act *x, size_t n, GeluKind kind) {
    if (kind == GELU_TANH) {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
        for (size_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_tanh_grad(x[i]);
    } else {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
        for (size_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_erf_grad(x[i]);
    }
}
static void swiglu(act *y, const act *gate, const act *up, size_t n) {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
    for (size_t i = 0; i < n; i++) y[i] = silu(gate[i]) * up[i];
}
static void swiglu_bwd(act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n) {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
    for (size_t i = 0; i < n; i++) {
        float d = dy[i], g = gate[i], u = up[i];
        dgate[i] = d * u * silu_grad(g);
        dup[i] = d * silu(g);
    }
}
static void add(act *y, const act *a, float alpha, const act *b, size_t n) {
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
    for (size_t i = 0; i < n; i++) y[i] = alpha * a[i] + b[i];
}
static void dropout(act *y, const act *x, size_t n, float p, uint64_t seed) {
    float scale = 1.0f / (1.0f - p);
    uint64_t below = (uint64_t)((double)p * 0x1p32);
#pragma omp parallel for simd if (parallel : n > PAR_MIN)
    for (size_t i = 0; i < n; i++) y[i] = rng_mix(seed, i) >> 32 >= below ? x[i] * scale : 0.0f;
}
#else
/* ================================================ CUDA =========================================================== */
#endif
