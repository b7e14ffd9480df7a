/* bench/gemm.c - the linear layers against this machine's limits, in one run.
 *
 *     bench/gemm [--quick] [--threads N] [--isa NAME]
 *
 * Measures the limits (multiply-adds on registers, sequential reads), then every shape of the models in both
 * precisions: forward, dX and dW in GFLOP/s and as a share of the limit, packing included; then decoding (one row) in
 * GB/s and as a share of the read limit. One JSON object a line on stdout, a table on stderr.
 *
 * A shared machine slows everything by turns, so the limit is measured again beside every shape, each number is the
 * best of several runs, and shares are what to judge by. */
#include "common.h"
#include "kernels.h"
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct Shape { size_t O, C; } Shape;
static const Shape shapes[] = {
    {768, 768}, {2304, 768}, {3072, 768}, {768, 3072}, {50257, 768},           /* GPT-2 124M */
    {256, 256}, {688, 256}, {256, 688}, {4096, 256}, {192, 320}, {320, 192},   /* small models */
};
static const size_t rows[] = {256, 512, 1024, 4096};

/* Random numbers on the device: on zeros a GPU draws less power and clocks higher. */
static float *random_host(size_t n) {
    float *host = xmalloc(n * sizeof *host);
    for (size_t i = 0; i < n; i++) host[i] = (float)(rng_mix(7, i) >> 40) * 0x1p-24f - 0.5f;
    return host;
}
static act *activations(size_t n) {
    float *host = random_host(n);
    act *x = op.mem_alloc(n * op.act_size);
    op.act_from_host(x, host, n);
    free(host);
    return x;
}
static float *weights(size_t n) {
    float *host = random_host(n), *w = op.mem_alloc(n * sizeof *w);
    op.upload(w, host, n * sizeof *w);
    free(host);
    return w;
}

/* Seconds of the fastest of several runs. */
typedef enum { FORWARD, DX, DW } Kind;
static double best_s(Kind kind, const Linear *lin, const act *x, act *dx, size_t N, int runs) {
    double best = 1e30;
    for (int i = 0; i < runs; i++) {
        op.sync();
        double t = now_s();
        if (kind == FORWARD) op.matmul(lin, 1, x, NULL, N);
        else if (kind == DX) op.matmul_dx(dx, lin, 1, N, false);
        else op.matmul_dw(lin, 1, x, N);
        op.sync();
        t = now_s() - t;
        if (t < best) best = t;
    }
    return best;
}

static void bench_training(bool quick) {
    static const char *kinds[] = {"forward", "dx", "dw"}, *precisions[] = {"f32", "bf16"};
    fprintf(stderr, "\n%6s %6s %6s %6s  %14s  %14s  %14s\n", "O", "C", "rows", "", "forward", "dX", "dW");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            size_t O = shapes[s].O, C = shapes[s].C, N = rows[r];
            if ((O > 50000 && N > 1024) || (quick && (N != 1024 || O > 4096))) continue;
            act *x = activations(N * C), *y = activations(N * O), *dx = activations(N * C);
            float *w = weights(O * C), *dw = op.mem_alloc(O * C * sizeof *dw);
            void *w_bf16 = op.mem_alloc(O * C * 2);
            Mat half = MAT(DT_BF16, O, C, w_bf16);
            op.mat_from_f32(&half, w);
            for (int p = 0; p < 2; p++) {
                op.set_precision(p ? PREC_BF16 : PREC_F32);
                /* float weights in f32; in bf16 the copy that the optimiser keeps */
                Linear lin = {p ? half : MAT(DT_F32, O, C, w), NULL, y, y, dw, NULL};
                double gflops[3] = {0}, limit = 0;
                int runs = 2.0 * (double)(N * O * C) > 2e10 ? 3 : 8;
                for (int round = 0; round < (quick ? 2 : 3); round++) {
                    double l = op.peak_flops(p ? PREC_BF16 : PREC_F32) * 1e-9;
                    if (l > limit) limit = l;
                    for (int k = 0; k < 3; k++) {
                        double g = 2e-9 * (double)(N * O * C) / best_s((Kind)k, &lin, x, dx, N, runs);
                        if (g > gflops[k]) gflops[k] = g;
                    }
                }
                fprintf(stderr, "%6zu %6zu %6zu %6s", O, C, N, precisions[p]);
                for (int k = 0; k < 3; k++) {
                    printf("{\"bench\":\"gemm\",\"flavour\":\"%s\",\"op\":\"%s\",\"precision\":\"%s\",\"rows\":%zu,"
                           "\"O\":%zu,\"C\":%zu,\"gflops\":%.1f,\"limit_gflops\":%.1f,\"share\":%.3f}\n", op.name,
                           kinds[k], precisions[p], N, O, C, gflops[k], limit, gflops[k] / limit);
                    fprintf(stderr, "  %7.0f (%3.0f%%)", gflops[k], gflops[k] / limit * 100);
                }
                fprintf(stderr, "\n");
                fflush(stdout);
            }
            op.mem_free(x), op.mem_free(y), op.mem_free(dx), op.mem_free(w), op.mem_free(dw), op.mem_free(w_bf16);
        }
}

static void bench_decoding(bool quick) {
    static const char *names[] = {[DT_F32] = "f32", [DT_F16] = "f16", [DT_BF16] = "bf16"};
    const size_t C = 2048, bytes = (size_t)(quick ? 128 : 256) << 20;   /* more than any cache */
    fprintf(stderr, "\n%7s %6s %14s\n", "weights", "rows", "GB/s");
    for (int d = 0; d < 3; d++)
        for (size_t N = 1; N <= 8; N *= 2) {
            DType dtype = (DType[]){DT_F32, DT_BF16, DT_F16}[d];
            size_t size = dtype == DT_F32 ? 4 : 2, O = bytes / size / C;
            if (quick && N > 1) continue;
            op.set_precision(dtype == DT_F32 ? PREC_F32 : PREC_BF16);
            act *x = activations(N * C), *y = activations(N * O);
            float *w = op.mem_alloc(bytes), *source = weights(O * C);
            Mat m = MAT(dtype, O, C, w);
            op.mat_from_f32(&m, source);
            Linear lin = {m, NULL, y, NULL, NULL, NULL};
            double best = 0, limit = 0;
            for (int round = 0; round < 4; round++) {
                double l = op.peak_read() * 1e-9, g = (double)bytes / best_s(FORWARD, &lin, x, NULL, N, 5) * 1e-9;
                if (l > limit) limit = l;
                if (g > best) best = g;
            }
            printf("{\"bench\":\"gemv\",\"flavour\":\"%s\",\"weights\":\"%s\",\"rows\":%zu,\"O\":%zu,\"C\":%zu,"
                   "\"gb_s\":%.2f,\"limit_gb_s\":%.2f,\"share\":%.3f}\n", op.name, names[dtype], N, O, C, best,
                   limit, best / limit);
            fprintf(stderr, "%7s %6zu %7.1f (%3.0f%%)\n", names[dtype], N, best, best / limit * 100);
            fflush(stdout);
            op.mem_free(x), op.mem_free(y), op.mem_free(w), op.mem_free(source);
        }
}

int main(int argc, char **argv) {
    bool quick = false;
    Opt table[] = {
        {"quick", OPT_FLAG, &quick, "fewer shapes, under a minute", 0, 0, NULL, NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, 1, "gemm: linear layers against this machine's limits", table,
                  sizeof table / sizeof *table);
#ifdef _OPENMP
    if (common.threads) omp_set_num_threads((int)common.threads);
#endif
    ops_select(common.device, common.isa, PREC_BF16);
    double f32 = op.peak_flops(PREC_F32) * 1e-9, bf16 = op.peak_flops(PREC_BF16) * 1e-9, read = op.peak_read() * 1e-9;
    printf("{\"bench\":\"limits\",\"flavour\":\"%s\",\"f32_gflops\":%.1f,\"bf16_gflops\":%.1f,\"read_gb_s\":%.2f}\n",
           op.name, f32, bf16, read);
    fprintf(stderr, "%s: %.0f GFLOP/s f32, %.0f bf16, %.1f GB/s read\n", op.name, f32, bf16, read);
    bench_training(quick);
    bench_decoding(quick);
    return 0;
}
