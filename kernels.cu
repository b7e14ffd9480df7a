/* kernels.cu - every operation of tea: formula, CPU loop and CUDA kernel, adjacent.
 *
 * One file, two compilers, each sees its half. gcc -x c compiles the CPU half once per instruction set, nvcc compiles
 * the GPU half once per activation type; each compilation is a flavour and exports one table, ops_FLAVOUR. Read
 * kernels.h for the contracts, then the subjects in this order: */
#include "kernels/base.cuh"       /* types, number formats, scalar formulas */
#include "kernels/memory.cuh"     /* [op.mem]  memory, transfers, conversions */
#include "kernels/matmul.cuh"     /* [op.matmul] linear layers, [op.peak] the machine's limits */
#include "kernels/embed.cuh"      /* [op.embed] token -> vector, [op.rope] positions */
#include "kernels/norm.cuh"       /* [op.norm] LayerNorm, RMSNorm */
#include "kernels/attention.cuh"  /* [op.attention] */
#include "kernels/mlp.cuh"        /* [op.mlp] GELU, tanh, SwiGLU, residual, dropout */
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
#include <dlfcn.h>
#include <unistd.h>
/* The GPU half lies in a library beside the program and is loaded when it is asked for: cuBLASLt alone would cost every
 * start of every stage 0.2 s. */
static void *cuda_library(void) {
    char path[4096 + 32];
    ssize_t n = readlink("/proc/self/exe", path, 4096);
    while (n > 0 && path[n - 1] != '/') n--;
    snprintf(path + MAX(n, 0), 32, "libtea-cuda.so");
    return dlopen(path, RTLD_NOW);
}
int ops_gpus(void) {
    void *lib = cuda_library();
    int (*devices)(void) = lib ? (int (*)(void))(uintptr_t)dlsym(lib, "cuda_devices") : NULL;
    return devices ? devices() : 0;
}
static const Ops *cuda_half(Precision precision) {
    void *lib = cuda_library();
    if (!lib) die("--device cuda: %s", dlerror());
    const Ops *half = dlsym(lib, precision == PREC_BF16 ? "ops_cuda_bf16" : "ops_cuda_f32");
    if (!half) die("--device cuda: libtea-cuda.so is not the GPU half of this program: run make");
    if (ops_gpus() < 1) die("--device cuda: no NVIDIA GPU answers; run with --device cpu");
    return half;
}
#else
int ops_gpus(void) { return 0; }
#endif

void ops_select(const char *device, const char *isa, Precision precision) {
    if (!strcmp(device, "cuda")) {
#ifdef CUDA
        op = *cuda_half(precision);
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
