/* bench/attention.c - attention forward and backward in GFLOP/s and as a share of what the multipliers here can reach,
 * and decoding in microseconds and GB/s of cache read.
 *
 *     build/gcc/bench_attention [--device cpu|cuda] [--isa avx2] [--threads N] [--precision f32|bf16|both] [--only D64]
 *
 * Only the work that a mask leaves counts: 4 D flops for each pair (t, s <= t) forward, 2.5 times that backward,
 * which has five products where the forward has two. Other programs share the machine, so the limit is measured between
 * the runs, and the fastest call is compared with the best limit: both are what the machine does when left alone.
 *
 * One JSON object a line on stdout, a table for people on stderr. */
#include "../common.h"
#include "../kernels.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };

static act *random_acts(size_t n) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = 3.4f * ((float)(rng_mix(3, i) >> 40) * 0x1p-24f - 0.5f);   /* deviation 1 */
    act *p = (act *)op.mem_alloc(n * op.act_size);
    op.act_from_host(p, x, n);
    free(x);
    return p;
}
typedef struct { act *q, *k, *v, *out, *dout, *dq, *dk, *dv; float *lse, *delta; Attn a; } Work;
static void forward(const Work *w) { op.attention(w->out, w->lse, w->q, w->k, w->v, &w->a); }
static void backward(const Work *w) {
    op.attention_bwd(w->dq, w->dk, w->dv, w->delta, w->dout, w->out, w->lse, w->q, w->k, w->v, &w->a);
}
/* The fastest call, and its share of the best limit (units per second) measured between the calls. Short calls are
 * timed in batches of 100 us. */
static double measure(void (*run)(const Work *), const Work *w, double units, bool flops, Precision precision,
                      double *share) {
    double best = INFINITY, limit = 0, start = now_s();
    run(w), op.sync();
    int batch = (int)(1e-4 / (now_s() - start + 1e-7)) + 1;
    for (int round = 0; round < ROUNDS; round++) {
        double now = flops ? op.peak_flops(precision) : op.peak_read(), until = now_s() + 0.15;
        if (now > limit) limit = now;
        do {
            start = now_s();
            for (int i = 0; i < batch; i++) run(w);
            op.sync();
            double t = (now_s() - start) / batch;
            if (t < best) best = t;
        } while (now_s() < until);
    }
    *share = units / best / limit;
    return best;
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
        {"B4 T256 H6 D32", 4, 256, 256, 6, 6, 32},
        {"B16 T256 H8 D32", 16, 256, 256, 8, 8, 32},
        {"B8 T256 H6 D48", 8, 256, 256, 6, 6, 48},
        {"B4 T64 H12 D64", 4, 64, 64, 12, 12, 64},
        {"B4 T256 H12 D64", 4, 256, 256, 12, 12, 64},
        {"B4 T1024 H12 D64", 4, 1024, 1024, 12, 12, 64},
        {"B16 T128 H12 D64 both ways", 16, 128, 128, 12, 12, 64},
        {"B1 T2048 H32 K4 D64", 1, 2048, 2048, 32, 4, 64},
        {"B1 T2048 H16 D128", 1, 2048, 2048, 16, 16, 128},
        {"decode S1024 H12 D64", 1, 1, 1024, 12, 12, 64},
        {"decode S2048 H32 K4 D64", 1, 1, 2048, 32, 4, 64},
        {"decode S8192 H32 K8 D128", 1, 1, 8192, 32, 8, 128},
    };
    fprintf(stderr, "%-27s %-5s %-9s %10s %10s %7s\n", "case", "", "", "time us", "GFLOP/s", "share");
    for (int bf16 = 0; bf16 < 2; bf16++) {
        if (strcmp(wanted, "both") && strcmp(wanted, bf16 ? "bf16" : "f32")) continue;
        Precision precision = bf16 ? PREC_BF16 : PREC_F32;
        ops_select(common.device, common.isa, precision);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            if (!strstr(cases[i].name, only)) continue;
            size_t B = cases[i].B, T = cases[i].T, S = cases[i].S, H = (size_t)cases[i].H, D = (size_t)cases[i].D;
            size_t n_q = B * T * H * D, n_k = B * S * (size_t)cases[i].K * D;
            bool decode = T == 1, causal = !strstr(cases[i].name, "both ways");
            int32_t pos = (int32_t)(S - T), *device_pos = (int32_t *)op.mem_alloc(sizeof pos);
            op.upload(device_pos, &pos, sizeof pos);
            Attn a = {.B = B, .T = T, .S = S, .H = cases[i].H, .K = cases[i].K, .D = cases[i].D, .causal = causal,
                      .scale = (float)(1 / sqrt((double)D)), .pos = decode ? device_pos : NULL};
            Work w = {.q = random_acts(n_q), .k = random_acts(n_k), .v = random_acts(n_k), .out = random_acts(n_q),
                      .dout = random_acts(n_q), .dq = random_acts(n_q), .dk = random_acts(n_k), .dv = random_acts(n_k),
                      .lse = (float *)op.mem_alloc(B * H * T * 4), .delta = (float *)op.mem_alloc(B * H * T * 4),
                      .a = a};
            double seen = decode || !causal ? (double)S : (double)(T + 1) / 2, pairs = (double)(B * H * T) * seen;
            for (int back = 0; back < (decode ? 1 : 2); back++) {
                double flops = pairs * 4 * (double)D * (back ? 2.5 : 1), bytes = 2 * (double)(n_k * op.act_size), share;
                double t = measure(back ? backward : forward, &w, decode ? bytes : flops, !decode, precision, &share);
                const char *way = decode ? "decode" : back ? "backward" : "forward", *kind = bf16 ? "bf16" : "f32";
                fprintf(stderr, "%-27s %-5s %-9s %10.1f %10.1f %6.1f%%%s\n", cases[i].name, kind, way, t * 1e6,
                        flops / t * 1e-9, 100 * share, decode ? " of reading K and V" : "");
                printf("{\"bench\":\"attention\",\"case\":\"%s\",\"device\":\"%s\",", cases[i].name, op.name);
                printf("\"precision\":\"%s\",\"way\":\"%s\",", kind, way);
                printf("\"us\":%.2f,\"gflop_s\":%.1f,\"gb_s\":%.2f,\"share\":%.3f}\n", t * 1e6, flops / t * 1e-9,
                       bytes / t * 1e-9, share);
                fflush(stdout);
            }
            act *all[] = {w.q, w.k, w.v, w.out, w.dout, w.dq, w.dk, w.dv};
            for (size_t j = 0; j < sizeof all / sizeof *all; j++) op.mem_free(all[j]);
            op.mem_free(w.lse), op.mem_free(w.delta), op.mem_free(device_pos);
        }
    }
    return 0;
}
