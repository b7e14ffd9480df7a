/* bench/attention.c - attention forward and backward in GFLOP/s and as a share of what this machine's multipliers reach,
 * and decoding in microseconds and GB/s of cache read.
 *
 *     build/gcc/bench_attention [--device cpu|cuda] [--isa avx2] [--threads N] [--precision f32|bf16|both] [--only T1024]
 *
 * Only the work that a causal mask leaves counts: 4 D flops for each pair (t, s <= t) forward, 2.5 times that backward, which
 * has five products where the forward has two. The limit is measured right before each of the runs it is compared
 * with, because other programs share the machine; the median of the shares counts, and the fastest time.
 *
 * One JSON object a line on stdout, a table for people on stderr. */
#include "../common.h"
#include "../kernels.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 7 };

static act *random_acts(size_t n) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = 3.4f * ((float)(rng_mix(3, i) >> 40) * 0x1p-24f - 0.5f);   /* deviation 1 */
    act *p = (act *)op.mem_alloc(n * op.act_size);
    op.act_from_host(p, x, n);
    free(x);
    return p;
}
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct { act *q, *k, *v, *out, *dout, *dq, *dk, *dv; float *lse, *delta; Attn a; } Work;
static void forward(const Work *w) { op.attention(w->out, w->lse, w->q, w->k, w->v, &w->a); }
static void backward(const Work *w) {
    op.attention_bwd(w->dq, w->dk, w->dv, w->delta, w->dout, w->out, w->lse, w->q, w->k, w->v, &w->a);
}
/* Seconds of one call, over as many calls as fill 20 ms. */
static double seconds(void (*run)(const Work *), const Work *w) {
    double start = now_s();
    run(w), op.sync();
    int calls = (int)(0.02 / (now_s() - start + 1e-7)) + 1;
    start = now_s();
    for (int i = 0; i < calls; i++) run(w);
    op.sync();
    return (now_s() - start) / calls;
}
/* The fastest of RUNS, and the median share of a limit (units per second) that is measured before each. */
static void measure(void (*run)(const Work *), const Work *w, double units, bool flops, Precision precision,
                    double *best, double *share) {
    double shares[RUNS];
    *best = INFINITY;
    for (int i = 0; i < RUNS; i++) {
        double limit = flops ? op.peak_flops(precision) : op.peak_read(), t = seconds(run, w);
        shares[i] = units / t / limit;
        if (t < *best) *best = t;
    }
    qsort(shares, RUNS, sizeof *shares, by_value);
    *share = shares[RUNS / 2];
}

int main(int argc, char **argv) {
    const char *wanted = "both", *only = "";
    Opt options[] = {
        {"precision", OPT_STR, &wanted, "what the products take in", 0, 0, "f32|bf16|both", NULL, false},
        {"only", OPT_STR, &only, "only cases whose name contains this", 0, 0, NULL, NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, 1, "Speed of attention.", options, sizeof options / sizeof *options);
    static const struct { const char *name; size_t B, T, S; int H, K, D; } cases[] = {
        {"B4 T256 H12 D64", 4, 256, 256, 12, 12, 64},
        {"B4 T1024 H12 D64", 4, 1024, 1024, 12, 12, 64},
        {"B16 T256 H8 D32", 16, 256, 256, 8, 8, 32},
        {"B1 T2048 H32 K4 D64", 1, 2048, 2048, 32, 4, 64},
        {"B1 T2048 H16 D128", 1, 2048, 2048, 16, 16, 128},
        {"decode S1024 H12 D64", 1, 1, 1024, 12, 12, 64},
        {"decode S2048 H32 K4 D64", 1, 1, 2048, 32, 4, 64},
        {"decode S8192 H32 K8 D128", 1, 1, 8192, 32, 8, 128},
    };
    fprintf(stderr, "%-26s %-5s %-9s %10s %10s %7s\n", "case", "", "", "time us", "GFLOP/s", "share");
    for (int bf16 = 0; bf16 < 2; bf16++) {
        if (strcmp(wanted, "both") && strcmp(wanted, bf16 ? "bf16" : "f32")) continue;
        Precision precision = bf16 ? PREC_BF16 : PREC_F32;
        ops_select(common.device, common.isa, precision);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            if (!strstr(cases[i].name, only)) continue;
            size_t B = cases[i].B, T = cases[i].T, S = cases[i].S, H = (size_t)cases[i].H, D = (size_t)cases[i].D;
            size_t n_q = B * T * H * D, n_k = B * S * (size_t)cases[i].K * D;
            bool decode = T == 1;
            int32_t pos = (int32_t)(S - T), *device_pos = (int32_t *)op.mem_alloc(sizeof pos);
            op.upload(device_pos, &pos, sizeof pos);
            Work w = {random_acts(n_q),
                      random_acts(n_k),
                      random_acts(n_k),
                      random_acts(n_q),
                      random_acts(n_q),
                      random_acts(n_q),
                      random_acts(n_k),
                      random_acts(n_k),
                      (float *)op.mem_alloc(B * H * T * 4),
                      (float *)op.mem_alloc(B * H * T * 4),
                      {.B = B,
                       .T = T,
                       .S = S,
                       .H = cases[i].H,
                       .K = cases[i].K,
                       .D = cases[i].D,
                       .scale = (float)(1 / sqrt((double)D)),
                       .causal = true,
                       .pos = decode ? device_pos : NULL}};
            double pairs = decode ? (double)(B * H * S) : (double)(B * H) * (double)T * (double)(T + 1) / 2;
            for (int back = 0; back < (decode ? 1 : 2); back++) {
                double flops = pairs * 4 * (double)D * (back ? 2.5 : 1), bytes = 2 * (double)(n_k * op.act_size), t,
                       share;
                measure(back ? backward : forward, &w, decode ? bytes : flops, !decode, precision, &t, &share);
                const char *way = decode ? "decode" : back ? "backward" : "forward", *kind = bf16 ? "bf16" : "f32";
                fprintf(stderr, "%-26s %-5s %-9s %10.1f %10.1f %6.1f%%%s\n", cases[i].name, kind, way, t * 1e6,
                        flops / t * 1e-9, 100 * share, decode ? " of reading K and V" : "");
                printf("{\"bench\":\"attention\",\"case\":\"%s\",\"device\":\"%s\",\"precision\":\"%s\",\"way\":\"%s\","
                       "\"us\":%.2f,"
                       "\"gflop_s\":%.1f,\"gb_s\":%.2f,\"share\":%.3f}\n",
                       cases[i].name, op.name, kind, way, t * 1e6, flops / t * 1e-9, bytes / t * 1e-9, share);
                fflush(stdout);
            }
            act *all[] = {w.q, w.k, w.v, w.out, w.dout, w.dq, w.dk, w.dv};
            for (size_t j = 0; j < sizeof all / sizeof *all; j++) op.mem_free(all[j]);
            op.mem_free(w.lse), op.mem_free(w.delta), op.mem_free(device_pos);
        }
    }
    return 0;
}
