/* tests/test_gpu.c - every op of kernels.h on the CPU (float) and on the GPU (float and bf16 activations), on the same
 * inputs; for machines with a GPU (make test-gpu). Without one it says so and passes.
 *
 * The CPU flavour is what tests/test_ops.c and its neighbours hold to references in double, so here it is the
 * reference. Inputs are rounded to what the GPU flavour stores before either side sees them. Tolerances: float differs
 * by the order of sums and by the GPU's fast exponential; bf16 outputs are rounded to 8 bits, 2^-9 relative, and
 * intermediate results that are stored as activations were rounded as well. */
#include "../common.h"
#include "../kernels.h"
#include "test.h"

static Ops ops[2];                                            /* the CPU's, the GPU's */
static bool half_acts;                                        /* the GPU's activations are bf16 */
static const char *name;

/* ---- the same array on both sides ------------------------------------------------------------------------------- */
typedef struct { void *p[2]; size_t n; } Two;
static Two made[512];
static int n_made;
static uint64_t draws;

static Two two(size_t n, size_t size, size_t size_gpu) {
    if (n_made == 512) { printf("too many arrays\n"); exit(1); }
    made[n_made] = (Two){{ops[0].mem_alloc(n * size), ops[1].mem_alloc(n * size_gpu)}, n};
    return made[n_made++];
}
static void free_all(void) {
    while (n_made) n_made--, ops[0].mem_free(made[n_made].p[0]), ops[1].mem_free(made[n_made].p[1]);
}
static float *random_floats(size_t n, double lo, double hi) {
    float *x = xmalloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(lo + (hi - lo) * (double)(rng_mix(99, draws++) >> 11) * 0x1p-53);
    return x;
}
/* Activations with an even number of zeros around them would hide a wrong offset: they start as random numbers too. */
static Two acts(size_t n, double lo, double hi) {
    Two t = two(n, ops[0].act_size, ops[1].act_size);
    float *x = random_floats(n, lo, hi);
    ops[1].act_from_host(t.p[1], x, n);
    ops[1].act_to_host(x, t.p[1], n);                         /* as the GPU stores them */
    ops[0].act_from_host(t.p[0], x, n);
    free(x);
    return t;
}
static Two floats(size_t n, double lo, double hi) {
    Two t = two(n, 4, 4);
    float *x = random_floats(n, lo, hi);
    for (int d = 0; d < 2; d++) ops[d].upload(t.p[d], x, n * 4);
    free(x);
    return t;
}
static Two ints(const int32_t *x, size_t n) {
    Two t = two(n, 4, 4);
    for (int d = 0; d < 2; d++) ops[d].upload(t.p[d], x, n * 4);
    return t;
}
static Two random_ints(size_t n, int below) {
    int32_t *x = xmalloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (int32_t)(rng_mix(98, draws++) % (uint64_t)below);
    Two t = ints(x, n);
    free(x);
    return t;
}
/* A matrix with the same stored bytes on both sides, and its view for either. */
typedef struct { Mat m[2]; } TwoMat;
static TwoMat mats(DType dtype, size_t rows, size_t cols, double lo, double hi) {
    Two source = floats(rows * cols, lo, hi), t = two(rows * cols, dtype == DT_F32 ? 4 : 2, dtype == DT_F32 ? 4 : 2);
    TwoMat m;
    for (int d = 0; d < 2; d++) {
        m.m[d] = MAT(dtype, rows, cols, t.p[d]);
        ops[d].mat_from_f32(&m.m[d], source.p[d]);
    }
    return m;
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */
static struct { double ratio, cpu, gpu; size_t at, count; char where[128]; } worst;
__attribute__((format(printf, 5, 6)))
static void same(Two t, bool activations, double atol, double rtol, const char *fmt, ...) {
    float *x[2];
    for (int d = 0; d < 2; d++) {
        x[d] = xmalloc((t.n + 1) * sizeof(float));
        if (activations) ops[d].act_to_host(x[d], t.p[d], t.n);
        else ops[d].download(x[d], t.p[d], t.n * 4);
    }
    for (size_t i = 0; i < t.n; i++) {
        double c = (double)x[0][i], g = (double)x[1][i], ratio = fabs(g - c) / (atol + rtol * fabs(c));
        if (!isfinite(c) || !isfinite(g)) ratio = (isnan(c) && isnan(g)) || c == g ? 0 : INFINITY;
        if (worst.count++ && !(ratio > worst.ratio)) continue;
        worst.ratio = ratio, worst.cpu = c, worst.gpu = g, worst.at = i;
        va_list args;
        va_start(args, fmt);
        vsnprintf(worst.where, sizeof worst.where, fmt, args);
        va_end(args);
    }
    free(x[0]), free(x[1]);
}
static void done(const char *what) {
    CHECK(worst.count && worst.ratio <= 1,
          "%s %s: %zu values, worst %.3g of the tolerance: %s [%zu] cpu %.7g gpu %.7g", name, what,
          worst.count, worst.ratio, worst.where, worst.at, worst.cpu, worst.gpu);
    memset(&worst, 0, sizeof worst);
    free_all();
}
#define BOTH for (int d = 0; d < 2; d++)
#define TOL(f32, bf16) (half_acts ? (bf16) : (f32))
#define ACT_TOL(scale) TOL(2e-6, 4e-3) * (scale), TOL(1e-5, 6e-3)        /* atol, rtol of an activation of that size */

static const size_t sizes[] = {1, 7, 8, 9, 127, 128, 1000, 4099, 100003};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void test_memory(void) {
    size_t n = 100003;
    float *x = random_floats(n, -3, 3), *y = xmalloc(n * 4);
    void *a = ops[1].mem_alloc(n * 4), *b = ops[1].mem_alloc(n * 4);
    ops[1].download(y, a, n * 4);
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) wrong += y[i] != 0;
    CHECK(!wrong, "%s mem_alloc zeroes", name);
    ops[1].upload(a, x, n * 4), ops[1].copy(b, a, n * 4), ops[1].zero(a, n * 4), ops[1].download(y, b, n * 4);
    CHECK(!memcmp(x, y, n * 4), "%s upload, copy, download", name);
    ops[1].download(y, a, n * 4);
    wrong = 0;
    for (size_t i = 0; i < n; i++) wrong += y[i] != 0;
    CHECK(!wrong, "%s zero", name);
    for (int k = 0; k < 3; k++) {
        Mat m[2];
        float *out[2] = {xmalloc(n * 4), xmalloc(n * 4)};
        BOTH {
            m[d] = MAT(((const DType[]){DT_F32, DT_F16, DT_BF16})[k], 1, n - 1, ops[d].mem_alloc(n * 4));
            float *f = ops[d].mem_alloc(n * 4);
            ops[d].upload(f, x, n * 4);
            for (int odd = 0; odd < 2; odd++) {               /* an odd address takes the scalar path */
                Mat v = m[d];
                v.data = (char *)v.data + odd * (k ? 2 : 4);
                ops[d].mat_from_f32(&v, f + odd), ops[d].mat_to_f32(f + odd, &v);
            }
            ops[d].download(out[d], f, n * 4);
            ops[d].mem_free(f), ops[d].mem_free(m[d].data);
        }
        CHECK(!memcmp(out[0], out[1], n * 4), "%s conversions to and from type %d give the CPU's bits", name, k);
        free(out[0]), free(out[1]);
    }
    free(x), free(y), ops[1].mem_free(a), ops[1].mem_free(b);
}

static void test_elements(void) {
    for (int k = 0; k < N_SIZES; k++)
        for (int odd = 0; odd < 2; odd++) {                   /* from the second element on: not 16-byte aligned */
            size_t n = sizes[k];
            Two all[7];
            for (int i = 0; i < 7; i++) {
                all[i] = acts(n + 1, -4, 4), all[i].n = n;
                BOTH all[i].p[d] = act_at(&ops[d], all[i].p[d], (size_t)odd);
            }
            Two x = all[0], y = all[1], a = all[2], b = all[3], c = all[4], e = all[5], f = all[6];
            for (int kind = 0; kind < 3; kind++) {
                BOTH ops[d].activation(a.p[d], x.p[d], n, kind);
                same(a, true, ACT_TOL(1), "activation %d n=%zu", kind, n);
                BOTH ops[d].activation_bwd(a.p[d], y.p[d], x.p[d], n, kind);
                same(a, true, ACT_TOL(4), "activation_bwd %d n=%zu", kind, n);
            }
            BOTH ops[d].swiglu(a.p[d], x.p[d], y.p[d], n);
            same(a, true, ACT_TOL(4), "swiglu n=%zu", n);
            BOTH ops[d].swiglu_bwd(b.p[d], c.p[d], c.p[d], x.p[d], y.p[d], n);
            same(b, true, ACT_TOL(8), "dgate n=%zu", n);
            same(c, true, ACT_TOL(8), "dup in place n=%zu", n);
            BOTH ops[d].add(e.p[d], e.p[d], 0.3f, x.p[d], n);
            same(e, true, ACT_TOL(1), "add n=%zu", n);
            BOTH ops[d].dropout(f.p[d], x.p[d], n, 0.3f, 77);
            same(f, true, ACT_TOL(1), "dropout n=%zu", n);
            BOTH ops[d].activation_bwd(y.p[d], y.p[d], x.p[d], n, GELU_ERF);
            same(y, true, ACT_TOL(4), "activation_bwd in place n=%zu", n);
            free_all();
        }
    done("gelu, tanh, swiglu, add, dropout");
}

static void test_norms(void) {
    static const size_t shapes[][2] = {{1, 1}, {2, 3}, {5, 64}, {3, 65}, {1, 768}, {33, 768}, {2, 1000}, {5, 4096},
                                       {3, 8200}, {1500, 256}, {2100, 40}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t N = shapes[k][0], C = shapes[k][1];
        double many = sqrt((double)N), tiny = C < 8 ? 100 : 1;
        Two x = acts(N * C, -2, 3), w = floats(C, -1, 2), b = floats(C, -1, 1), y = acts(N * C, 0, 1),
            dy = acts(N * C, -1, 1);
        Two mean = floats(N, 0, 1), rstd = floats(N, 0, 1), dw = floats(C, -1, 1), db = floats(C, -1, 1),
            dx = acts(N * C, -1, 1);
        BOTH ops[d].rmsnorm(y.p[d], rstd.p[d], x.p[d], w.p[d], N, C, 1e-5f);
        same(y, true, ACT_TOL(1 * tiny), "rmsnorm %zux%zu", N, C);
        same(rstd, false, 1e-6 * tiny, 2e-6, "rms rstd %zux%zu", N, C);
        BOTH ops[d].rmsnorm_bwd(dx.p[d], dw.p[d], dy.p[d], x.p[d], w.p[d], rstd.p[d], N, C, true);
        same(dx, true, ACT_TOL(4 * tiny), "rmsnorm_bwd %zux%zu", N, C);
        same(dw, false, 1e-5 * many * tiny, 1e-5, "rms dw %zux%zu", N, C);
        BOTH ops[d].layernorm(y.p[d], mean.p[d], rstd.p[d], x.p[d], w.p[d], b.p[d], N, C, 1e-5f);
        same(y, true, ACT_TOL(2 * tiny), "layernorm %zux%zu", N, C);
        same(mean, false, 1e-6, 1e-6, "mean %zux%zu", N, C);
        same(rstd, false, 1e-6 * tiny, 2e-6 * tiny, "rstd %zux%zu", N, C);
        BOTH ops[d].layernorm_bwd(dx.p[d], dw.p[d], db.p[d], dy.p[d], x.p[d], w.p[d], mean.p[d], rstd.p[d], N, C, true);
        same(dx, true, ACT_TOL(4 * tiny), "layernorm_bwd %zux%zu", N, C);
        same(dw, false, 1e-5 * many * tiny, 1e-5, "dw %zux%zu", N, C);
        same(db, false, 1e-5 * many, 1e-5, "db %zux%zu", N, C);
        BOTH ops[d].layernorm_bwd(dy.p[d], NULL, NULL, dy.p[d], x.p[d], w.p[d], mean.p[d], rstd.p[d], N, C, false);
        same(dy, true, ACT_TOL(4 * tiny), "layernorm_bwd in place, frozen %zux%zu", N, C);
        BOTH ops[d].rmsnorm_bwd(dx.p[d], NULL, dy.p[d], x.p[d], w.p[d], rstd.p[d], N, C, false);
        same(dx, true, TOL(2e-6, 8e-3) * 8 * tiny, TOL(1e-5, 2e-2), "rmsnorm_bwd frozen %zux%zu", N, C);
        BOTH ops[d].rmsnorm(y.p[d], NULL, x.p[d], w.p[d], N, C, 1e-5f);
        BOTH ops[d].layernorm(y.p[d], NULL, NULL, x.p[d], w.p[d], b.p[d], N, C, 1e-5f);
        same(y, true, ACT_TOL(2 * tiny), "layernorm without statistics %zux%zu", N, C);
        free_all();
    }
    done("norms");
}

static const int32_t *sort_key;
static int by_id(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return sort_key[i] != sort_key[j] ? (sort_key[i] > sort_key[j] ? 1 : -1) : (i > j) - (i < j);
}
static void test_embed(void) {
    static const size_t shapes[][3] = {{1, 1, 8}, {5, 3, 7}, {130, 11, 65}, {300, 40, 768}, {77, 500, 1000}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t N = shapes[k][0], rows = shapes[k][1], C = shapes[k][2];
        int32_t *ids = xmalloc(N * 4), *order = xmalloc(N * 4);
        for (size_t i = 0; i < N; i++) ids[i] = (int32_t)(rng_mix(3, i) % rows), order[i] = (int32_t)i;
        sort_key = ids;
        qsort(order, N, 4, by_id);
        Two id = ints(ids, N), ord = ints(order, N), y = acts(N * C, -1, 1), dy = acts(N * C, -1, 1),
            dt = floats(rows * C, -1, 1);
        for (int kind = 0; kind < 3; kind++) {
            TwoMat table = mats(((const DType[]){DT_F32, DT_F16, DT_BF16})[kind], rows, C, -2, 2);
            BOTH ops[d].embed(y.p[d], id.p[d], &table.m[d], N, true);
            same(y, true, ACT_TOL(2), "embed added, type %d %zux%zu", kind, N, C);
            BOTH ops[d].embed(y.p[d], id.p[d], &table.m[d], N, false);
            same(y, true, ACT_TOL(1), "embed, type %d %zux%zu", kind, N, C);
        }
        BOTH ops[d].embed_bwd(dt.p[d], id.p[d], ord.p[d], dy.p[d], N, C);
        same(dt, false, 2e-5, 1e-5, "embed_bwd %zux%zu", N, C);
        free(ids), free(order);
        free_all();
    }
    done("embed");
    static const struct { size_t B, T; int heads, D, first, rot; } cases[] = {
        {1, 1, 1, 2, 0, 2}, {2, 3, 2, 8, 0, 8}, {1, 5, 3, 10, 0, 6}, {2, 2, 2, 12, 4, 6}, {2, 33, 4, 64, 32, 32},
        {1, 9, 2, 128, 0, 128},
        {3, 4, 2, 6, 0, 0}, {1, 3, 2, 16, 1, 14}, {2, 130, 8, 64, 0, 32}, {1, 3, 40, 64, 0, 64}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int mode = 0; mode < 8; mode++) {
            size_t B = cases[k].B, T = cases[k].T, row = (size_t)cases[k].heads * (size_t)cases[k].D, S = T + 9,
                n_pos = T + 20;
            bool cache = mode & 4;
            Two x = acts(B * T * row, -2, 2), y = acts(B * (cache ? S : T) * row, -1, 1), slot = random_ints(B, 9);
            Two table = floats(n_pos * (size_t)cases[k].rot + 1, -1, 1), position = random_ints(B * T, (int)n_pos);
            Rope r[2];
            BOTH r[d] = (Rope){B, T, cases[k].heads, cases[k].D, cases[k].first, cases[k].rot, mode & 1, mode & 2,
                               table.p[d], position.p[d], (cache ? S : T) * row, cache ? slot.p[d] : NULL};
            BOTH ops[d].rope(y.p[d], x.p[d], &r[d]);
            same(y, true, ACT_TOL(2), "case %zu mode %d", k, mode);
            if (!cache) {
                BOTH ops[d].rope(x.p[d], x.p[d], &r[d]);
                same(x, true, ACT_TOL(2), "in place, case %zu mode %d", k, mode);
            }
            free_all();
        }
    done("rope");
}

static void test_loss(void) {
    static const size_t shapes[][2] = {{1, 1}, {3, 2}, {5, 64}, {33, 65}, {4, 4099}, {9, 50257}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t N = shapes[k][0], V = shapes[k][1];
        Two l = acts(N * V, -8, 8), loss = floats(N, 0, 1);
        int32_t *t = xmalloc(N * 4);
        for (size_t i = 0; i < N; i++) t[i] = i % 3 == 2 ? -1 : (int32_t)(rng_mix(4, i) % V);
        Two target = ints(t, N);
        free(t);
        BOTH ops[d].cross_entropy(loss.p[d], l.p[d], target.p[d], N, V, 0);
        same(loss, false, 2e-5, 1e-5, "loss %zux%zu", N, V);
        same(l, true, 0, 0, "logits kept %zux%zu", N, V);
        BOTH ops[d].cross_entropy(loss.p[d], l.p[d], target.p[d], N, V, 0.5f);
        same(loss, false, 2e-5, 1e-5, "loss %zux%zu", N, V);
        same(l, true, 1e-7, TOL(5e-5, 6e-3), "gradient %zux%zu", N, V);
        free_all();
    }
    done("cross_entropy");
    Sampler s[] = {{1, 0, 0, 1, 0}, {1, 1, 0, 1, 0}, {1, 0.7f, 5, 1, 0}, {1.3f, 1, 0, 0.9f, 0},
                   {1.1f, 0.8f, 50, 0.95f, 0.01f}};
    int differ = 0, count = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t V = sizes[k];
        Two l = acts(V, -4, 4), token = random_ints(1, 9), scratch = floats(V, 0, 1), history = random_ints(20, (int)V);
        for (size_t i = 0; i < sizeof s / sizeof *s; i++)
            for (int j = 0; j < 40; j++) {
                int32_t t[2];
                BOTH {
                    ops[d].sample(token.p[d], scratch.p[d], l.p[d], V, history.p[d], 20, &s[i], ((float)j + 0.5f) / 40);
                    ops[d].download(&t[d], token.p[d], 4);
                }
                differ += t[0] != t[1], count++;
            }
        free_all();
    }
    CHECK(differ <= count / 50,
          "%s sample: %d of %d tokens differ from the CPU's (rounding at a border may move a few)", name,
          differ, count);
}

static void test_adamw(void) {
    for (int k = 0; k < N_SIZES; k++)
        for (int kind = 0; kind < 4; kind++) {
            size_t n = sizes[k];
            Two p = floats(n, -1, 1), g = floats(n, -1, 1), m = floats(n, -0.1, 0.1), v = floats(n, 0.01, 0.1);
            TwoMat copy = mats(((const DType[]){DT_F32, DT_F32, DT_F16, DT_BF16})[kind], 1, n, 0, 1);
            Two wide = floats(n, 0, 1), sum = two(2, 4, 4);
            BOTH ops[d].sum_squares(sum.p[d], g.p[d], n);
            double sums[2];
            BOTH ops[d].download(&sums[d], sum.p[d], 8);
            if (fabs(sums[1] / sums[0] - 1) > 1e-12) CHECK(false, "%s sum_squares n=%zu: %.15g %.15g", name, n,
                                                           sums[0], sums[1]);
            AdamW h = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.3f, 0.2f, 0.7f};
            BOTH {
                if (!kind) copy.m[d].data = NULL;
                ops[d].adamw(p.p[d], &copy.m[d], g.p[d], m.p[d], v.p[d], n, &h);
                if (kind) ops[d].mat_to_f32(wide.p[d], &copy.m[d]);
            }
            same(p, false, 1e-6, 1e-6, "weights n=%zu", n), same(g, false, 0, 0, "gradients n=%zu", n);
            same(m, false, 1e-7, 1e-6, "first moment n=%zu", n), same(v, false, 1e-7, 1e-6, "second moment n=%zu", n);
            same(wide, false, 1e-6, kind == 3 ? 8e-3 : kind == 2 ? 1e-3 : 1e-6, "copy of type %d n=%zu", kind, n);
            free_all();
        }
    done("adamw");
}

static void test_matmul(void) {
    static const size_t shapes[][3] = {{1, 7, 5}, {1, 64, 768}, {1, 768, 2304}, {3, 100, 33}, {17, 65, 70},
                                       {130, 256, 96}, {64, 768, 300},
                                       {200, 40, 1000}};         /* N, C, O */
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int dtype = 0; dtype < 3; dtype++)
            for (int n = 1; n <= 4; n += n == 1 ? 2 : 1) {
                size_t N = shapes[k][0], C = shapes[k][1];
                double fwd = sqrt((double)C), back = 0;
                DType type = ((const DType[]){DT_F32, DT_F16, DT_BF16})[dtype];
                Two x = acts(N * C, -1, 1), dx = acts(N * C, -1, 1), residual = acts(N * shapes[k][2], -1, 1);
                Linear lin[2][LINEAR_MAX];
                Two y[LINEAR_MAX], dw[LINEAR_MAX], dbias[LINEAR_MAX];
                for (int i = 0; i < n; i++) {
                    size_t O = shapes[k][2] + 8 * (size_t)i;
                    TwoMat w = mats(type, O, C, -1, 1);
                    Two bias = floats(O, -1, 1), dy = acts(N * O, -1, 1);
                    y[i] = acts(N * O, -1, 1), dw[i] = floats(O * C, -1, 1), dbias[i] = floats(O, -1, 1);
                    BOTH lin[d][i] = (Linear){w.m[d], i == 1 ? NULL : bias.p[d], y[i].p[d], dy.p[d],
                                              i == 2 ? NULL : dw[i].p[d], i == 2 ? NULL : dbias[i].p[d]};
                    back += (double)O;
                }
                BOTH ops[d].matmul(lin[d], n, x.p[d], n == 1 && k % 2 ? residual.p[d] : NULL, N);
                for (int i = 0; i < n; i++)
                    same(y[i], true, TOL(1e-6, 8e-3) * fwd, TOL(1e-5, 8e-3),
                         "matmul %d of %d, N C O %zu %zu %zu type %d", i, n, N, C, shapes[k][2], dtype);
                if (n == 1) {                                 /* the residual may be y itself */
                    BOTH ops[d].matmul(lin[d], n, x.p[d], y[0].p[d], N);
                    same(y[0], true, TOL(1e-6, 2e-2) * fwd, TOL(1e-5, 2e-2), "onto y, N C O %zu %zu %zu", N, C,
                         shapes[k][2]);
                }
                BOTH ops[d].matmul_dx(dx.p[d], lin[d], n, N, k % 2);
                same(dx, true, TOL(1e-6, 8e-3) * sqrt(back), TOL(1e-5, 8e-3), "dx of %d, %zu %zu %zu type %d", n, N, C,
                     shapes[k][2], dtype);
                BOTH ops[d].matmul_dw(lin[d], n, x.p[d], N);
                for (int i = 0; i < n; i++) {
                    same(dw[i], false, TOL(2e-6, 4e-3) * sqrt((double)N) + 1e-6, TOL(1e-5, 4e-3),
                         "dw %d of %d, %zu %zu %zu", i, n, N, C, shapes[k][2]);
                    same(dbias[i], false, TOL(2e-6, 4e-3) * sqrt((double)N) + 1e-6, TOL(1e-5, 4e-3), "dbias %d of %d",
                         i, n);
                }
                free_all();
            }
    done("matmul, dx, dw");
}

static void test_attention(void) {
    static const struct { size_t B, T, S; int H, K, D; } cases[] = {{1, 1, 1, 1, 1, 8}, {2, 5, 5, 2, 1, 32},
        {1, 33, 33, 4, 2, 64}, {2, 64, 64, 3, 3, 64}, {1, 130, 130, 2, 2, 128}, {3, 17, 17, 2, 1, 40},
        {2, 200, 200, 4, 1, 64},
        {2, 1, 300, 8, 2, 128},
        {1, 7, 90, 4, 4, 64}, {2, 1, 1500, 4, 1, 64}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int mode = 0; mode < 7; mode++) {
            size_t B = cases[k].B, T = cases[k].T, S = cases[k].S, H = (size_t)cases[k].H, K = (size_t)cases[k].K,
                D = (size_t)cases[k].D;
            Two q = acts(B * T * H * D, -2, 2), kk = acts(B * S * K * D, -2, 2), v = acts(B * S * K * D, -1, 1);
            Two out = acts(B * T * H * D, -1, 1), lse = floats(B * H * T, 0, 1), dout = acts(B * T * H * D, -1, 1);
            Two dq = acts(B * T * H * D, -1, 1), dk = acts(B * S * K * D, -1, 1), dv = acts(B * S * K * D, -1, 1);
            Two delta = floats(B * H * T, 0, 1), probs = floats(H * T * S, 0, 1);
            int32_t *x = xmalloc((B * T + B) * 4);
            for (size_t b = 0; b < B; b++) x[b] = (int32_t)(S - T - (S > T ? b : 0));
            Two pos = ints(x, B);
            for (size_t b = 0; b < B; b++) x[b] = (int32_t)(S - T + (T + b) / 2);
            Two prefix = ints(x, B);
            for (size_t b = 0; b < B; b++) x[b] = (int32_t)(S - (b && S > T ? b : 0) - (S == T && b ? T / 3 : 0));
            Two len = ints(x, B);
            /* two packed documents */
            for (size_t i = 0; i < B * T; i++) x[i] = (int32_t)(i % T >= T / 2 ? T / 2 : 0);
            Two start = ints(x, B * T);
            free(x);
            Attn a[2];
            BOTH a[d] = (Attn){B, T, S, (int)H, (int)K, (int)D, (float)(1 / sqrt((double)D)), mode != 1,
                               mode == 2 ? 3 : 0,
                               S > T ? pos.p[d] : NULL, mode == 3 ? prefix.p[d] : NULL, mode == 4 ? start.p[d] : NULL,
                               mode == 5 || mode == 6 ? len.p[d] : NULL, NULL, NULL};
            if (mode == 6) BOTH a[d].causal = false;
            BOTH ops[d].attention(out.p[d], S == T ? lse.p[d] : NULL, q.p[d], kk.p[d], v.p[d], &a[d]);
            same(out, true, TOL(5e-6, 1.5e-2), TOL(1e-5, 1.5e-2), "out, case %zu mode %d", k, mode);
            /* The CPU's int8 cache on both: a number at the border of two steps may round to either. */
            size_t slots = B * S * K;
            Two kk_scale = floats(slots, 0, 1), v_scale = floats(slots, 0, 1), kk_i8 = floats(slots * D / 4 + 1, 0, 1),
                v_i8 = floats(slots * D / 4 + 1, 0, 1);
            int8_t *host = xmalloc(slots * D), *gpu = xmalloc(slots * D);
            for (int part = 0; part < 2; part++) {
                Two x = part ? v : kk, scale = part ? v_scale : kk_scale, i8 = part ? v_i8 : kk_i8;
                BOTH {
                    Attn all = {.B = B, .T = S, .S = S, .K = (int)K, .D = (int)D};
                    ops[d].cache_i8(i8.p[d], scale.p[d], x.p[d], &all);
                }
                ops[0].download(host, i8.p[0], slots * D), ops[1].download(gpu, i8.p[1], slots * D);
                int apart = 0;
                for (size_t i = 0; i < slots * D; i++) apart = abs(host[i] - gpu[i]) > apart ? abs(host[i] - gpu[i]) : apart;
                if (apart > 1) CHECK(false, "int8 cache, case %zu: numbers %d steps apart", k, apart);
                same(scale, false, 1e-6, 1e-6, "int8 scales, case %zu", k);
                ops[1].upload(i8.p[1], host, slots * D);
            }
            free(host), free(gpu);
            BOTH a[d].k_scale = kk_scale.p[d], a[d].v_scale = v_scale.p[d];
            BOTH ops[d].attention(out.p[d], NULL, q.p[d], kk_i8.p[d], v_i8.p[d], &a[d]);
            same(out, true, TOL(5e-6, 2.5e-2), TOL(1e-5, 2.5e-2), "out over int8, case %zu mode %d", k, mode);
            BOTH a[d].k_scale = a[d].v_scale = NULL;
            BOTH ops[d].attention(out.p[d], S == T ? lse.p[d] : NULL, q.p[d], kk.p[d], v.p[d], &a[d]);    /* for the backward */
            BOTH ops[d].attention_probs(probs.p[d], q.p[d], kk.p[d], &a[d], B - 1);
            same(probs, false, TOL(5e-6, 1.5e-2), TOL(2e-5, 2e-2), "probs, case %zu mode %d", k, mode);
            if (S == T) {
                same(lse, false, TOL(1e-5, 1e-2), 1e-5, "lse, case %zu mode %d", k, mode);
                BOTH ops[d].attention_bwd(dq.p[d], dk.p[d], dv.p[d], delta.p[d], dout.p[d], out.p[d], lse.p[d], q.p[d],
                                          kk.p[d], v.p[d], &a[d]);
                double many = sqrt((double)(T * H / K));
                same(dq, true, TOL(1e-5, 3e-2), TOL(1e-4, 3e-2), "dq, case %zu mode %d", k, mode);
                same(dk, true, TOL(1e-5, 1e-2) * many, TOL(1e-4, 3e-2), "dk, case %zu mode %d", k, mode);
                same(dv, true, TOL(1e-5, 1e-2) * many, TOL(1e-4, 3e-2), "dv, case %zu mode %d", k, mode);
            }
            free_all();
        }
    done("attention");
}

int main(void) {
    if (ops_gpus() < 1) {
        printf("no GPU: skipped\n");
        return 77;                                            /* what the runner takes for "skipped" */
    }
    for (int precision = 0; precision < 2; precision++) {
        half_acts = precision == PREC_BF16;
        ops_select("cpu", "auto", PREC_F32), ops[0] = op;
        ops_select("cuda", "auto", precision), ops[1] = op;
        name = op.name;
        test_memory();
        test_elements();
        test_norms();
        test_embed();
        test_loss();
        test_adamw();
        test_matmul();
        test_attention();
        printf("      %s: %.0f GB/s read, %.1f TFLOP/s\n", name, ops[1].peak_read() * 1e-9,
               ops[1].peak_flops(precision) * 1e-12);
    }
    return test_end();
}
