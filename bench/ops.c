/* bench/ops.c - how fast are the operations that memory bounds, and how near to the machine's limit?
 *
 *     bench/ops [--device cpu|cuda] [--isa avx2] [--precision bf16] [--threads N] [--mb 64] [--only gelu]
 *
 * Each op runs on arrays of `mb` megabytes (from memory) and again on 16 K elements or a few rows (from cache), until
 * it has run for 60 ms; the median of five such runs counts. Bytes are those the op cannot avoid: every input element
 * read once, every output element written once. On a CPU a store to a line that is not in the cache also reads it, so
 * that an op which writes a new array can reach two thirds to three quarters of the figure that one which works in
 * place can; and since a memory bus reads and writes at once, in-place ops may pass 100 % of op.peak_read().
 *
 * One JSON object a line on stdout, a table for people on stderr. */
#include "../common.h"
#include "../kernels.h"
#include <stdlib.h>
#include <string.h>

/* Everything an op under test may need, n activations each, sized once for the largest run. */
static struct {
    size_t n, N, C, V;
    act *a, *b, *c, *d;
    float *p, *grad, *m, *v, *w, *bias, *dw, *db, *mean, *rstd, *loss, *table;
    double *sum;
    int32_t *ids, *order, *target, *token, *position;
    Mat w_bf16, embedding;
} g;

static void run_gelu(void) { op.activation(g.b, g.a, g.n, GELU_TANH); }
static void run_gelu_bwd(void) { op.activation_bwd(g.c, g.b, g.a, g.n, GELU_TANH); }
static void run_gelu_erf(void) { op.activation(g.b, g.a, g.n, GELU_ERF); }
static void run_gelu_erf_bwd(void) { op.activation_bwd(g.c, g.b, g.a, g.n, GELU_ERF); }
static void run_swiglu(void) { op.swiglu(g.c, g.a, g.b, g.n); }
static void run_swiglu_bwd(void) { op.swiglu_bwd(g.d, (act *)(void *)g.m, g.c, g.a, g.b, g.n); }
static void run_add(void) { op.add(g.b, g.a, 0.5f, g.b, g.n); }
static void run_dropout(void) { op.dropout(g.b, g.a, g.n, 0.1f, 7); }
static void run_rmsnorm(void) { op.rmsnorm(g.b, g.rstd, g.a, g.w, g.N, g.C, 1e-5f); }
static void run_rmsnorm_bwd(void) { op.rmsnorm_bwd(g.c, g.dw, g.b, g.a, g.w, g.rstd, g.N, g.C, true); }
static void run_layernorm(void) { op.layernorm(g.b, g.mean, g.rstd, g.a, g.w, g.bias, g.N, g.C, 1e-5f); }
static void run_layernorm_bwd(void) {
    op.layernorm_bwd(g.c, g.dw, g.db, g.b, g.a, g.w, g.mean, g.rstd, g.N, g.C, true);
}
static void run_rope(void) {
    Rope r = {1, g.N, (int)(g.C / 64), 64, 0, 64, false, false, g.table, g.position, g.n, NULL};
    op.rope(g.b, g.a, &r);
}
static void run_embed(void) { op.embed(g.b, g.ids, &g.embedding, g.N, false); }
static void run_embed_bwd(void) { op.embed_bwd(g.p, g.ids, g.order, g.a, g.N, g.C); }
static void run_cross_entropy(void) { op.cross_entropy(g.loss, g.a, g.target, g.n / g.V, g.V, 1e-3f); }
static void run_adamw(void) {
    AdamW h = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 1};
    op.adamw(g.p, &g.w_bf16, g.grad, g.m, g.v, g.n, &h);
}
static void run_sum_squares(void) { op.sum_squares(g.sum, g.grad, g.n); }
static void run_copy(void) { op.copy(g.b, g.a, g.n * op.act_size); }
static void run_sample(void) {
    Sampler s = {1, 0.8f, 50, 0.95f, 0};
    op.sample(g.token, g.p, g.a, g.V, NULL, 0, &s, 0.5f);
}

/* Activations read and written, and floats read and written, per element. */
static const struct { const char *name; void (*run)(void); int acts, floats; } benches[] = {
    {"copy", run_copy, 2, 0},
    {"add", run_add, 3, 0},
    {"gelu_tanh", run_gelu, 2, 0},
    {"gelu_tanh_bwd", run_gelu_bwd, 3, 0},
    {"gelu_erf", run_gelu_erf, 2, 0},
    {"gelu_erf_bwd", run_gelu_erf_bwd, 3, 0},
    {"swiglu", run_swiglu, 3, 0},
    {"swiglu_bwd", run_swiglu_bwd, 5, 0},
    {"dropout", run_dropout, 2, 0},
    {"rmsnorm", run_rmsnorm, 2, 0},
    {"rmsnorm_bwd", run_rmsnorm_bwd, 4, 0},
    {"layernorm", run_layernorm, 2, 0},
    {"layernorm_bwd", run_layernorm_bwd, 4, 0},
    {"rope", run_rope, 2, 0},
    {"embed", run_embed, 1, 1},
    {"embed_bwd", run_embed_bwd, 1, 2},
    {"cross_entropy", run_cross_entropy, 2, 0},
    {"adamw", run_adamw, 0, 8},
    {"sum_squares", run_sum_squares, 0, 1},
    {"sample", run_sample, 1, 0},
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of one call: the median of five batches, each long enough for the clock. */
static double seconds(void (*run)(void)) {
    run(), op.sync();
    double start = now_s(), t[5];
    run(), op.sync();
    int calls = (int)(0.012 / (now_s() - start + 1e-7)) + 1;
    for (int i = 0; i < 5; i++) {
        start = now_s();
        for (int k = 0; k < calls; k++) run();
        op.sync();
        t[i] = (now_s() - start) / calls;
    }
    qsort(t, 5, sizeof *t, by_value);
    return t[2];
}

static void *device_copy(const void *host, size_t bytes) {
    void *p = op.mem_alloc(bytes);
    op.upload(p, host, bytes);
    return p;
}
static float *device_floats(size_t n, float scale) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * ((float)(rng_mix(1, i) >> 40) * 0x1p-24f - 0.5f);
    float *p = device_copy(x, n * sizeof *x);
    free(x);
    return p;
}
static act *device_acts(size_t n) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = 6 * ((float)(rng_mix(2, i) >> 40) * 0x1p-24f - 0.5f);
    act *p = op.mem_alloc(n * op.act_size);
    op.act_from_host(p, x, n);
    free(x);
    return p;
}

int main(int argc, char **argv) {
    int64_t mb = 64;
    const char *precision = "f32", *only = "";
    Opt options[] = {
        {"mb", OPT_INT, &mb, "megabytes of each activation array", 1, 4096, NULL, NULL, false},
        {"precision", OPT_STR, &precision, "of activations on a GPU", 0, 0, "f32|bf16", NULL, false},
        {"only", OPT_STR, &only, "only ops whose name contains this", 0, 0, NULL, NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, 1, "Speed of the operations that memory bounds.", options,
                  sizeof options / sizeof *options);
    ops_select(common.device, common.isa, strcmp(precision, "f32") ? PREC_BF16 : PREC_F32);

    g.C = 768, g.V = 50257;
    size_t n_max = (size_t)mb * 1000000 / op.act_size / g.C * g.C, N_max = n_max / g.C;
    if (n_max < 2 * g.V) n_max = 2 * g.V / g.C * g.C + g.C, N_max = n_max / g.C;
    g.a = device_acts(n_max), g.b = device_acts(n_max), g.c = device_acts(n_max), g.d = device_acts(n_max);
    g.p = device_floats(n_max, 1), g.grad = device_floats(n_max, 1);
    g.m = op.mem_alloc(n_max * 4), g.v = op.mem_alloc(n_max * 4);
    g.w = device_floats(g.C, 1), g.bias = device_floats(g.C, 1), g.dw = device_floats(g.C, 1),
        g.db = device_floats(g.C, 1);
    g.mean = op.mem_alloc(N_max * 4), g.rstd = op.mem_alloc(N_max * 4), g.loss = op.mem_alloc(N_max * 4);
    g.table = device_floats(N_max * 64, 1);
    g.sum = op.mem_alloc(8), g.token = op.mem_alloc(4);
    int32_t *ids = xmalloc(N_max * 4), *up = xmalloc(N_max * 4);
    for (size_t i = 0; i < N_max; i++) up[i] = (int32_t)i, ids[i] = (int32_t)(i / 2);     /* every id twice */
    g.ids = device_copy(ids, N_max * 4), g.order = device_copy(up, N_max * 4), g.position = g.order, g.target = g.order;
    free(ids), free(up);
    g.w_bf16 = MAT(DT_F32, 0, 0, NULL);
    g.embedding = MAT(DT_F32, N_max, g.C, g.p);

    double peak = op.peak_read();
    fprintf(stderr, "%s, read limit %.1f GB/s, %lld MB arrays\n%-16s %10s %9s %7s %12s\n", op.name, peak * 1e-9,
            (long long)mb, "op", "time us", "GB/s", "share", "cached GB/s");
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++) {
        if (!strstr(benches[i].name, only)) continue;
        double t[2], bytes[2];
        for (int small = 0; small < 2; small++) {
            bool vocab = benches[i].run == run_cross_entropy, one_row = benches[i].run == run_sample;
            g.n = !small ? n_max : vocab ? g.V : 24 * g.C;
            g.N = g.n / g.C;
            t[small] = seconds(benches[i].run);
            double n = one_row ? (double)g.V : vocab ? (double)(g.n / g.V * g.V) : (double)g.n;
            bytes[small] = n * (double)((size_t)benches[i].acts * op.act_size + (size_t)benches[i].floats * 4);
        }
        fprintf(stderr, "%-16s %10.1f %9.1f %6.0f%% %12.1f\n", benches[i].name, t[0] * 1e6, bytes[0] / t[0] * 1e-9,
                100 * bytes[0] / t[0] / peak, bytes[1] / t[1] * 1e-9);
        printf("{\"bench\":\"ops\",\"op\":\"%s\",\"device\":\"%s\",\"mb\":%lld,\"us\":%.2f,\"gb_s\":%.2f,"
               "\"share_of_read\":%.3f,\"cached_us\":%.3f,\"cached_gb_s\":%.2f}\n", benches[i].name, op.name,
               (long long)mb, t[0] * 1e6, bytes[0] / t[0] * 1e-9, bytes[0] / t[0] / peak, t[1] * 1e6,
               bytes[1] / t[1] * 1e-9);
    }
    return 0;
}
