/* kernels/base.cuh - what every op stands on: the flavour's types, conversions, scalar formulas (written once, used by
 * both halves), and the small helpers of each half. */
#pragma once
#include "../common.h"
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- the flavour ------------------------------------------------------------------------------------------------ *
 * The Makefile compiles kernels.cu with -DFLAVOUR=plain|avx2|avx512|avx512bf16|neon|cuda_f32|cuda_bf16 and the -m flags
 * that belong to it. FLAVOUR_IS_PLAIN selects the plain loops where a fast path stands beside them. */
#ifdef __CUDACC__
#  include <cuda_bf16.h>
#  include <cuda_fp16.h>
#  include <cuda_runtime.h>
#  ifdef ACT_BF16
#    define ACT __nv_bfloat16
#  else
#    define ACT float
#  endif
#  define HD __host__ __device__ static inline
#else
#  define ACT float
#  define HD static inline
#  ifdef _OPENMP
#    include <omp.h>
#  else
static inline int omp_get_max_threads(void) { return 1; }
static inline int omp_get_num_threads(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
#  endif
#endif
#include "../kernels.h"

/* The vector unit of this flavour. VL: floats in one register. */
#if defined __CUDACC__ || defined FLAVOUR_IS_PLAIN
#  define VL 1
#elif defined __AVX512F__
#  include <immintrin.h>
#  define VL 16
#elif defined __AVX2__
#  include <immintrin.h>
#  define VL 8
#elif defined __ARM_NEON
#  include <arm_neon.h>
#  define VL 4
#else
#  define VL 1
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CEIL_DIV(a, b) (((a) + (b) - 1) / (b))

/* ---- number formats: scalar, exact, round to nearest even ------------------------------------------------------- */
typedef uint16_t bf16;                                        /* bits; the upper half of a float */
typedef uint16_t f16;                                         /* bits of an IEEE half */
HD float bits_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
HD uint32_t float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
HD float bf16_float(bf16 h) { return bits_float((uint32_t)h << 16); }
HD bf16 float_bf16(float f) {
    uint32_t u = float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (bf16)((u >> 16) | 64);         /* NaN stays NaN */
    return (bf16)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
HD float f16_float(f16 h) {                                   /* via the exponent trick: exact, subnormals included */
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff);
    if (body >= 0x7c00) return bits_float(sign | 0x7f800000u | ((body & 0x3ff) << 13));
    return bits_float(sign | float_bits(bits_float(body << 13) * 0x1p112f));
}
HD f16 float_f16(float f) {
    uint32_t u = float_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (f16)(sign | 0x7e00);
    if (a >= 0x477ff000u) return (f16)(sign | 0x7c00);        /* rounds to 65520 or more: infinity */
    if (a < 0x38800000u) {                                    /* subnormal: let the adder round */
        float r = bits_float(a) + 0.5f;
        return (f16)(sign | (float_bits(r) - float_bits(0.5f)));
    }
    return (f16)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
}

/* ---- scalar formulas, written once ------------------------------------------------------------------------------ *
 * exp_fast: no branch and no libm call, so that loops over it vectorise; 16 instructions.
 * exp(x) = 2^n e^r with n = round(x / ln 2), so r lies in [-ln2/2, ln2/2]; e^r by a polynomial of degree 6 that
 * interpolates it (relative error 6e-9; with rounding below 1.5 ulp). 0 under -87.3, where results would be subnormal;
 * infinity from 88.73 on, as the true value; NaN stays NaN. Outside its range the arithmetic gives rubbish, which the
 * two selects replace. */
#ifdef __CUDACC__
HD float exp_fast(float x) {
#  ifdef __CUDA_ARCH__
    return __expf(x);
#  else
    return expf(x);
#  endif
}
#else
HD float exp_fast(float x) {
    float n = x * 1.44269504088896341f + 12582912.0f;         /* adding 1.5 * 2^23 rounds to an integer ... */
    uint32_t exponent = float_bits(n) << 23;                  /* ... which sits in the low bits: 2^n's exponent */
    n -= 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;      /* ln 2 in two parts keeps r exact */
    float p = 1.3932273597e-3f;
    p = p * r + 8.3679989630e-3f;
    p = p * r + 4.1666496412e-2f;
    p = p * r + 1.6666531360e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float e = bits_float(float_bits(p) + exponent);
    e = x < -87.3f ? 0.0f : e;
    return x <= 88.72283f ? e : x * INFINITY;
}
#endif
HD float reciprocal(float x) {
#ifdef __CUDA_ARCH__
    /* 2 ulp, and a tenth of the exact division's instructions */
    return __fdividef(1.0f, x);
#else
    return 1.0f / x;
#endif
}
/* absolute error < 2e-7 */
HD float tanh_fast(float x) { return 1.0f - 2.0f * reciprocal(exp_fast(2.0f * x) + 1.0f); }
HD float tanh_fast_grad(float x) { float t = tanh_fast(x); return 1.0f - t * t; }
HD float sigmoid(float x) { return reciprocal(1.0f + exp_fast(-x)); }
HD float silu(float x) { return x * sigmoid(x); }
HD float silu_grad(float x) { float s = sigmoid(x); return s * (1.0f + x * (1.0f - s)); }
/* GELU(x) = x Phi(x), Phi the normal distribution function. The tanh form is x sigmoid(2u), because
 * (1 + tanh u) / 2 = sigmoid(2u): one division, and no cancellation where tanh u nears -1. */
#define GELU_C 0.7978845608028654f                            /* sqrt(2 / pi) */
HD float gelu_tanh(float x) { return x * sigmoid(2.0f * GELU_C * (x + 0.044715f * x * x * x)); }
HD float gelu_tanh_grad(float x) {
    float s = sigmoid(2.0f * GELU_C * (x + 0.044715f * x * x * x));
    return s + x * s * (1.0f - s) * 2.0f * GELU_C * (1.0f + 3.0f * 0.044715f * x * x);
}
/* The exact form without a call to erf. With z = |x|/sqrt(2), Phi(-|x|) = erfc(z)/2, and exp(z^2) erfc(z) is smooth in
 * t = 1/(1 + 0.38 z): t times a polynomial of degree 8, interpolated at Chebyshev nodes for z in [0, 10], relative
 * error 3e-8. *density is phi(x) = exp(-x^2/2)/sqrt(2 pi), which the gradient Phi + x phi needs. */
HD float normal_cdf(float x, float *density) {
    float e = exp_fast(-0.5f * x * x), t = reciprocal(1.0f + 0.26870057685f * fabsf(x));
    float p = 5.84682648585723e-2f;
    p = p * t - 2.59958882623490e-1f;
    p = p * t + 3.59293898977841e-1f;
    p = p * t - 1.56521384035582e-1f;
    p = p * t + 2.26827781251308e-1f;
    p = p * t + 1.39915284639028e-1f;
    p = p * t + 2.03608698636497e-1f;
    p = p * t + 2.13957412705213e-1f;
    p = p * t + 2.14408941895418e-1f;
    float tail = 0.5f * p * t * e;
    *density = 0.3989422804014327f * e;
    return x < 0 ? tail : 1.0f - tail;
}
HD float gelu_erf(float x) { float density; return x * normal_cdf(x, &density); }
HD float gelu_erf_grad(float x) { float density, cdf = normal_cdf(x, &density); return cdf + x * density; }

/* ---- the CUDA half's helpers ------------------------------------------------------------------------------------ */
#ifdef __CUDACC__
#define CUDA_OK(call)                                                                                                  \
    do {                                                                                                               \
        cudaError_t err_ = (call);                                                                                     \
        if (err_ != cudaSuccess) die("CUDA: %s at %s:%d (%s)", cudaGetErrorString(err_), __FILE__, __LINE__, #call);   \
    } while (0)
#define LAUNCHED() CUDA_OK(cudaGetLastError())
static cudaStream_t stream;                                   /* one stream: ops run in the order of the calls */
__device__ static inline float to_f(float x) { return x; }
__device__ static inline float to_f(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ static inline float to_f(__half x) { return __half2float(x); }
template <typename T> __device__ static inline T from_f(float x);
template <> __device__ inline float from_f<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 from_f<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline __half from_f<__half>(float x) { return __float2half_rn(x); }
/* W values moved as one 16-byte load or store. Pointers must be 16-byte aligned. */
#define ACT_W ((int)(16 / sizeof(act)))
struct alignas(16) ActPack { act v[16 / sizeof(act)]; };
/* W values of any type that one thread loads or stores at once, in instructions of up to 16 bytes. Kernels are compiled
 * for W = ACT_W and for W = 1, which serves odd sizes and odd addresses. */
template <typename T, int W> struct alignas(sizeof(T) * W < 16 ? sizeof(T) * W : 16) Pack { T v[W]; };
template <int W, typename T> __device__ static inline Pack<T, W> load(const T *p) { return *(const Pack<T, W> *)p; }
template <int W, typename T> __device__ static inline void store(T *p, const Pack<T, W> &x) { *(Pack<T, W> *)p = x; }
template <typename... P> static inline bool aligned16(P... p) { return (((uintptr_t)p | ...) & 15) == 0; }
__device__ static inline float warp_sum(float x) {
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}
__device__ static inline float warp_max(float x) {
    for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
    return x;
}
/* Sum and maximum over a block of at most 1024 threads, a multiple of 32; every thread gets the result. */
__device__ static inline float block_sum(float x) {
    __shared__ float part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = (blockDim.x + 31) >> 5;
    x = warp_sum(x);
    __syncthreads();                                          /* part may still be read from an earlier call */
    if (!lane) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < n_warps ? part[lane] : 0.0f);
}
__device__ static inline float block_max(float x) {
    __shared__ float part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = (blockDim.x + 31) >> 5;
    x = warp_max(x);
    __syncthreads();
    if (!lane) part[warp] = x;
    __syncthreads();
    return warp_max(lane < n_warps ? part[lane] : -FLT_MAX);
}
__device__ static inline double block_sum(double x) {
    __shared__ double part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = (blockDim.x + 31) >> 5;
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    __syncthreads();
    if (!lane) part[warp] = x;
    __syncthreads();
    x = lane < n_warps ? part[lane] : 0;
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}
/* Scratch on the device that grows to the largest request and stays; slot tells users apart. */
static void *scratch(int slot, size_t bytes);
#else
/* sum = the sum of term (an expression in i) over i = 0 .. n-1, in 64 lanes that are added up pairwise at the end. An
 * addition takes 3 or 4 cycles and a core starts two in each: one running sum, even of vectors, would mostly wait. The
 * order of the additions depends on n alone, not on the width of the vectors. */
#define LANES 64
#define SUM_LANES(sum, i, n, term)                                                                                     \
    do {                                                                                                               \
        float lane_[LANES] = {0};                                                                                      \
        size_t n_ = (n), at_ = 0;                                                                                      \
        for (; at_ + LANES <= n_; at_ += LANES)                                                                        \
            _Pragma("omp simd") for (size_t j_ = 0; j_ < LANES; j_++) { size_t i = at_ + j_; lane_[j_] += (term); }    \
        _Pragma("omp simd") for (size_t j_ = 0; j_ < n_ - at_; j_++) { size_t i = at_ + j_; lane_[j_] += (term); }     \
        for (size_t half_ = LANES / 2; half_; half_ /= 2)                                                              \
            _Pragma("omp simd") for (size_t j_ = 0; j_ < half_; j_++) lane_[j_] += lane_[j_ + half_];                  \
        sum = lane_[0];                                                                                                \
    } while (0)
/* Scratch on the host: 64-byte aligned, grows to the largest request and stays; slot tells users apart. Not to be
 * called inside a parallel region: one buffer serves all threads, which take slices of it. */
static void *scratch(int slot, size_t bytes);
#endif
enum { SCRATCH_A, SCRATCH_B, SCRATCH_C, SCRATCH_NORM, SCRATCH_ATTN, SCRATCH_LOSS, SCRATCH_SUM, SCRATCH_SAMPLE,
    SCRATCH_QUANT,
      SCRATCH_SLOTS };
