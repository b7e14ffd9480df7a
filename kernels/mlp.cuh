/* kernels/mlp.cuh - [op.mlp] GELU, tanh, SwiGLU, the residual sum and dropout, with their backward passes.
 *
 * All of them work on one element at a time, and memory sets their pace: a core with AVX-512 computes 2.5 billion
 * GELUs a second, which read and write 20 GB. What counts is that the loops are vectorised; the formulas in base.cuh
 * are written for that. Each op is one line on either side. */
#pragma once

#ifndef __CUDACC__
/* One vectorised loop, shared among the threads where that pays. */
#define EACH(i, n) _Pragma("omp parallel for simd if (parallel : (n) > PAR_MIN)") for (size_t i = 0; i < (n); i++)

#else
/* All the CUDA kernels here are this one: a thread loads a pack of each input, applies f to every element, and stores a
 * pack of each output. All loads come before the stores, so an output may be one of the inputs. */
template <int IN, int OUT> struct MapArgs { const act *in[IN]; act *out[OUT]; };
template <int W, int IN, int OUT, typename F> static __global__ void map_kernel(MapArgs<IN, OUT> a, size_t n, F f) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i + W <= n) {
        Pack<act, W> in[IN], out[OUT];
        for (int k = 0; k < IN; k++) in[k] = load<W>(a.in[k] + i);
        for (int w = 0; w < W; w++) {
            float x[IN], y[OUT];
            for (int k = 0; k < IN; k++) x[k] = to_f(in[k].v[w]);
            f(y, x, i + w);
            for (int k = 0; k < OUT; k++) out[k].v[w] = from_f<act>(y[k]);
        }
        for (int k = 0; k < OUT; k++) store<W>(a.out[k] + i, out[k]);
    } else
        for (; i < n; i++) {                                  /* the last, incomplete pack */
            float x[IN], y[OUT];
            for (int k = 0; k < IN; k++) x[k] = to_f(a.in[k][i]);
            f(y, x, i);
            for (int k = 0; k < OUT; k++) a.out[k][i] = from_f<act>(y[k]);
        }
}
template <int IN, int OUT, typename F> static void map(MapArgs<IN, OUT> a, size_t n, F f) {
    if (!n) return;
    bool aligned = true;
    for (const act *p : a.in) aligned &= aligned16(p);
    for (act *p : a.out) aligned &= aligned16(p);
    if (aligned) map_kernel<ACT_W><<<(unsigned)CEIL_DIV(n, 256 * ACT_W), 256, 0, stream>>>(a, n, f);
    else map_kernel<1><<<(unsigned)CEIL_DIV(n, 256), 256, 0, stream>>>(a, n, f);
    LAUNCHED();
}
/* What is done to an element: x are the inputs in the order of the call, y the outputs, i the index. */
#define MAP_FN(name, formula)                                                                                          \
    struct name {                                                                                                      \
        __device__ void operator()(float *y, const float *x, size_t) const { formula; }                               \
    }
#endif

/* ---- activations: gelu_tanh, gelu_erf and tanh_fast in base.cuh -------------------------------------------------- */
#ifndef __CUDACC__
static void activation(act *y, const act *x, size_t n, ActivationKind kind) {
    if (kind == GELU_TANH) EACH(i, n) y[i] = gelu_tanh(x[i]);
    else if (kind == GELU_ERF) EACH(i, n) y[i] = gelu_erf(x[i]);
    else EACH(i, n) y[i] = tanh_fast(x[i]);
}
static void activation_bwd(act *dx, const act *dy, const act *x, size_t n, ActivationKind kind) {
    if (kind == GELU_TANH) EACH(i, n) dx[i] = dy[i] * gelu_tanh_grad(x[i]);
    else if (kind == GELU_ERF) EACH(i, n) dx[i] = dy[i] * gelu_erf_grad(x[i]);
    else EACH(i, n) dx[i] = dy[i] * tanh_fast_grad(x[i]);
}
#else
MAP_FN(GeluTanh, y[0] = gelu_tanh(x[0]));
MAP_FN(GeluErf, y[0] = gelu_erf(x[0]));
MAP_FN(Tanh, y[0] = tanh_fast(x[0]));
MAP_FN(GeluTanhGrad, y[0] = x[0] * gelu_tanh_grad(x[1]));
MAP_FN(GeluErfGrad, y[0] = x[0] * gelu_erf_grad(x[1]));
MAP_FN(TanhGrad, y[0] = x[0] * tanh_fast_grad(x[1]));
static void activation(act *y, const act *x, size_t n, ActivationKind kind) {
    MapArgs<1, 1> a = {{x}, {y}};
    if (kind == GELU_TANH) map(a, n, GeluTanh());
    else if (kind == GELU_ERF) map(a, n, GeluErf());
    else map(a, n, Tanh());
}
static void activation_bwd(act *dx, const act *dy, const act *x, size_t n, ActivationKind kind) {
    MapArgs<2, 1> a = {{dy, x}, {dx}};
    if (kind == GELU_TANH) map(a, n, GeluTanhGrad());
    else if (kind == GELU_ERF) map(a, n, GeluErfGrad());
    else map(a, n, TanhGrad());
}
#endif

/* ---- SwiGLU: y = silu(gate) up, silu(x) = x sigmoid(x) ---------------------------------------------------------- */
#ifndef __CUDACC__
static void swiglu(act *y, const act *gate, const act *up, size_t n) {
    EACH(i, n) y[i] = silu(gate[i]) * up[i];
}
static void swiglu_bwd(act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n) {
    EACH(i, n) {
        float d = dy[i], g = gate[i];                         /* dup may be dy: both read first */
        dgate[i] = d * up[i] * silu_grad(g);
        dup[i] = d * silu(g);
    }
}
#else
MAP_FN(Swiglu, y[0] = silu(x[0]) * x[1]);
MAP_FN(SwigluGrad, y[0] = x[0] * x[2] * silu_grad(x[1]); y[1] = x[0] * silu(x[1]));
static void swiglu(act *y, const act *gate, const act *up, size_t n) {
    map(MapArgs<2, 1>{{gate, up}, {y}}, n, Swiglu());
}
static void swiglu_bwd(act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n) {
    map(MapArgs<3, 2>{{dy, gate, up}, {dgate, dup}}, n, SwigluGrad());
}
#endif

/* ---- the residual sum ------------------------------------------------------------------------------------------- */
#ifndef __CUDACC__
static void add(act *y, const act *a, float alpha, const act *b, size_t n) {
    EACH(i, n) y[i] = alpha * a[i] + b[i];
}
#else
struct Add {
    float alpha;
    __device__ void operator()(float *y, const float *x, size_t) const { y[0] = alpha * x[0] + x[1]; }
};
static void add(act *y, const act *a, float alpha, const act *b, size_t n) {
    map(MapArgs<2, 1>{{a, b}, {y}}, n, Add{alpha});
}
#endif

/* ---- dropout ---------------------------------------------------------------------------------------------------- *
 * Kept values grow by 1/(1-p), so that the expectation stays. The mask is never stored: a counter-based generator draws
 * it again in the backward pass. Kept where the upper 32 bits of the draw are at least p * 2^32. */
HD uint64_t dropout_below(float p) { return (uint64_t)((double)p * 0x1p32); }
#ifndef __CUDACC__
static void dropout(act *y, const act *x, size_t n, float p, uint64_t seed) {
    float scale = 1.0f / (1.0f - p);
    uint64_t below = dropout_below(p);
    EACH(i, n) y[i] = rng_mix(seed, i) >> 32 >= below ? x[i] * scale : 0.0f;
}
#else
struct Dropout {
    uint64_t seed, below;
    float scale;
    __device__ void operator()(float *y, const float *x, size_t i) const {
        y[0] = rng_mix(seed, i) >> 32 >= below ? x[0] * scale : 0.0f;
    }
};
static void dropout(act *y, const act *x, size_t n, float p, uint64_t seed) {
    map(MapArgs<1, 1>{{x}, {y}}, n, Dropout{seed, dropout_below(p), 1.0f / (1.0f - p)});
}
#endif
