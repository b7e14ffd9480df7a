/* bench/quant.c - quantised weights against this machine's limits, in one run.
 *
 *     bench/quant [--quick] [--threads N] [--isa NAME]
 *
 * Decoding one to eight rows: GB/s of all that is read (weights, scales, zero points) and the share of sequential
 * reads.
 * Prefill: with int8 inputs against the int8 limit, with float inputs against the bf16 limit, repacking and the inputs'
 * rounding included. Limits are measured again beside every row, each number is the best of several. One JSON object a
 * line on stdout, a table on stderr. */
#include "common.h"
#include "kernels.h"
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct Kind { const char *name; DType dtype; size_t group; InputQuant input; bool zeros; } Kind;
static const Kind kinds[] = {
    {"int4 g128", DT_I4, 128, INPUT_FLOAT, false}, {"int4 g32", DT_I4, 32, INPUT_FLOAT, false},
    {"int4 g128 asymmetric", DT_I4, 128, INPUT_FLOAT, true}, {"int8", DT_I8, 0, INPUT_FLOAT, false},
    {"int8 g128", DT_I8, 128, INPUT_FLOAT, false}, {"int8 inputs int8", DT_I8, 0, INPUT_DYNAMIC, false},
    {"int4 g128 inputs int8", DT_I4, 128, INPUT_DYNAMIC, false},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* Random weights on the device, scales in f16. */
static Mat quantised(const Kind *k, size_t O, size_t C) {
    Mat m = {.dtype = k->dtype, .rows = O, .cols = C, .group = k->group, .scale_dtype = DT_F16, .input = k->input};
    size_t bytes = O * mat_row_bytes(&m), n = O * mat_groups(&m);
    uint64_t *data = xmalloc(bytes + 8);
    uint16_t *scale = xmalloc(n * sizeof *scale);
    int8_t *zero = xmalloc(n);
    for (size_t i = 0; i <= bytes / 8; i++) data[i] = rng_mix(3, i);
    for (size_t i = 0; i < n; i++)
        scale[i] = (uint16_t)(0x1400 + rng_mix(4, i) % 1024), zero[i] = (int8_t)(rng_mix(5, i) % 16) - 8;
    m.data = op.mem_alloc(bytes);
    op.upload(m.data, data, bytes);
    void *p = op.mem_alloc(n * 2);
    op.upload(p, scale, n * 2);
    m.scale = p;
    if (k->zeros) op.upload(p = op.mem_alloc(n), zero, n), m.zero = p;
    free(data), free(scale), free(zero);
    return m;
}
static void quantised_free(Mat *m) {
    op.mem_free(m->data);
    op.mem_free((void *)(uintptr_t)m->scale);
    op.mem_free((void *)(uintptr_t)m->zero);
}
static act *activations(size_t n) {
    float *host = xmalloc(n * sizeof *host);
    for (size_t i = 0; i < n; i++) host[i] = (float)(rng_mix(7, i) >> 40) * 0x1p-24f - 0.5f;
    act *x = op.mem_alloc(n * op.act_size);
    op.act_from_host(x, host, n);
    free(host);
    return x;
}
static double best_s(const Linear *lin, const act *x, size_t N, int runs) {
    double best = 1e30;
    for (int i = 0; i < runs; i++) {
        op.sync();
        double t = now_s();
        op.matmul(lin, 1, x, NULL, N);
        op.sync();
        t = now_s() - t;
        if (t < best) best = t;
    }
    return best;
}

static void bench_decoding(bool quick) {
    const size_t C = 2048, bytes = (size_t)(quick ? 128 : 256) << 20;   /* more than any cache */
    fprintf(stderr, "\n%-22s %5s %16s\n", "weights", "rows", "GB/s");
    for (int k = 0; k < N_KINDS; k++) {
        size_t O = bytes / C * (kinds[k].dtype == DT_I4 ? 2 : 1);
        Mat m = quantised(&kinds[k], O, C);
        for (size_t N = 1; N <= (quick ? 1 : 8); N *= 2) {
            act *x = activations(N * C), *y = activations(N * O);
            Linear lin = {.w = m, .y = y};
            double best = 0, limit = 0, all = (double)mat_bytes(&m);
            for (int round = 0; round < 4; round++) {
                double l = op.peak_read() * 1e-9, g = all / best_s(&lin, x, N, 5) * 1e-9;
                if (l > limit) limit = l;
                if (g > best) best = g;
            }
            printf("{\"bench\":\"quant_decode\",\"flavour\":\"%s\",\"weights\":\"%s\",\"rows\":%zu,\"O\":%zu,\"C\":%zu,"
                   "\"gb_s\":%.2f,\"limit_gb_s\":%.2f,\"share\":%.3f}\n", op.name, kinds[k].name, N, O, C, best,
                   limit, best / limit);
            fprintf(stderr, "%-22s %5zu %9.1f (%3.0f%%)\n", kinds[k].name, N, best, best / limit * 100);
            fflush(stdout);
            op.mem_free(x), op.mem_free(y);
        }
        quantised_free(&m);
    }
}
static void bench_prefill(bool quick) {
    static const struct { size_t O, C; } shapes[] = {{768, 768}, {3072, 768}, {768, 3072}, {2048, 2048}, {5632, 2048},
        {2048, 5632}};
    static const size_t rows[] = {128, 512, 2048};
    fprintf(stderr, "\n%-22s %6s %6s %6s %16s\n", "weights", "O", "C", "rows", "GOP/s");
    for (int k = 0; k < N_KINDS; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                size_t O = shapes[s].O, C = shapes[s].C, N = rows[r];
                if (quick && (N != 512 || s % 2)) continue;
                Mat m = quantised(&kinds[k], O, C);
                act *x = activations(N * C), *y = activations(N * O);
                Linear lin = {.w = m, .y = y};
                double best = 0, limit = 0;
                for (int round = 0; round < 3; round++) {
                    double l = op.peak_flops(kinds[k].input == INPUT_FLOAT ? PREC_BF16 : PREC_I8) * 1e-9;
                    double g = 2e-9 * (double)(N * O * C) / best_s(&lin, x, N, 5);
                    if (l > limit) limit = l;
                    if (g > best) best = g;
                }
                printf("{\"bench\":\"quant_prefill\",\"flavour\":\"%s\",\"weights\":\"%s\",\"rows\":%zu,\"O\":%zu,"
                       "\"C\":%zu,\"gops\":%.1f,\"limit_gops\":%.1f,\"share\":%.3f}\n", op.name, kinds[k].name, N, O, C,
                       best, limit, best / limit);
                fprintf(stderr, "%-22s %6zu %6zu %6zu %9.0f (%3.0f%%)\n", kinds[k].name, O, C, N, best,
                    best / limit * 100);
                fflush(stdout);
                op.mem_free(x), op.mem_free(y);
                quantised_free(&m);
            }
}

int main(int argc, char **argv) {
    bool quick = false;
    Opt table[] = {
        {"quick", OPT_FLAG, &quick, "fewer shapes, under a minute", 0, 0, NULL, NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, 1, "quant: quantised weights against this machine's limits", table,
        sizeof table / sizeof *table);
#ifdef _OPENMP
    if (common.threads) omp_set_num_threads((int)common.threads);
#endif
    ops_select(common.device, common.isa, PREC_BF16);
    bench_decoding(quick);
    bench_prefill(quick);
    return 0;
}
