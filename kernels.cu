/* kernels.cu - every operation of tea: formula, CPU loop and CUDA kernel, adjacent.
 *
 * One file, two compilers, each sees its half. gcc -x c compiles the CPU half once per instruction set, nvcc compiles the
 * GPU half once per activation type; each compilation is a flavour and exports one table, ops_FLAVOUR. Read kernels.h for
 * the contracts, then the subjects in this order:                                                                       */
#include "kernels/base.cuh"       /* types, number formats, scalar formulas */
#include "kernels/memory.cuh"     /* [op.mem]  memory, transfers, conversions */
#include "kernels/matmul.cuh"     /* [op.matmul] linear layers, [op.peak] the machine's limits */
#include "kernels/embed.cuh"      /* [op.embed] token -> vector, [op.rope] positions */
#include "kernels/norm.cuh"       /* [op.norm] LayerNorm, RMSNorm */
#include "kernels/attention.cuh"  /* [op.attention] */
#include "kernels/mlp.cuh"        /* [op.mlp] GELU, SwiGLU, residual, dropout */
#include "kernels/loss.cuh"       /* [op.loss] softmax cross-entropy, [op.sample] sampling */
#include "kernels/adamw.cuh"      /* [op.adamw] the optimiser */

/* ---- the flavour's table ---------------------------------------------------------------------------------------- */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)
#ifdef __cplusplus
extern "C"
#endif
const Ops JOIN(ops_, FLAVOUR) = {
    STRING(FLAVOUR), sizeof(act),
#ifdef __CUDACC__
    false,
#else
    true,
#endif
#define OP(ret, name, args) name,
#include "kernels.h"
#undef OP
};

/* ---- choosing a flavour at start-up; compiled once, with the plain one ------------------------------------------ */
#if !defined __CUDACC__ && defined FLAVOUR_IS_PLAIN
Ops op;
extern const Ops ops_plain;
#if defined __x86_64__
extern const Ops ops_avx2, ops_avx512, ops_avx512bf16;
#elif defined __aarch64__
extern const Ops ops_neon;
#endif
#ifdef CUDA
extern const Ops ops_cuda_f32, ops_cuda_bf16;
int cuda_devices(void);
#endif

void ops_select(const char *device, const char *isa, Precision precision) {
    if (!strcmp(device, "cuda")) {
#ifdef CUDA
        if (cuda_devices() < 1) die("--device cuda: no NVIDIA GPU answers; run with --device cpu");
        op = precision == PREC_BF16 ? ops_cuda_bf16 : ops_cuda_f32;
#else
        die("--device cuda: this build has no CUDA half; install the CUDA toolkit and run make");
#endif
    } else {
        struct { const Ops *ops; bool runs; } flavours[] = {      /* best first */
#if defined __x86_64__
            {&ops_avx512bf16, __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
                                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")},
            {&ops_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
            {&ops_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#elif defined __aarch64__
            {&ops_neon, true},
#endif
            {&ops_plain, true},
        };
        bool found = false;
        for (size_t i = 0; i < sizeof flavours / sizeof *flavours && !found; i++) {
            bool asked = !strcmp(isa, flavours[i].ops->name);
            if (asked && !flavours[i].runs) die("--isa %s: this CPU does not have it", isa);
            found = asked || (!strcmp(isa, "auto") && flavours[i].runs);
            if (found) op = *flavours[i].ops;
        }
        if (!found) die("--isa %s: not in this build", isa);
    }
    op.set_precision(precision);
}
#endif
