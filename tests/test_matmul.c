/* tests/test_matmul.c - [op.matmul] every flavour this CPU runs, in both precisions, against sums in double.
 *
 * The reference is three plain loops on values that this file rounds itself (frexp and nearbyint, nothing shared with
 * the kernels). An element may be off by TOLERANCE times the sum of its products' magnitudes: what sums in float of
 * this length cost, and far less than one wrong, missing or doubled product. Buffers have the exact size, so the
 * sanitizers see every step outside; weights start 2 bytes off any alignment, as in an mmap. */
#include "common.h"
#include "kernels.h"
#include "test.h"

#define TOLERANCE 1e-6
#ifndef _OPENMP
static void omp_set_num_threads(int n) { (void)n; }
static int omp_get_max_threads(void) { return 1; }
#endif

static uint64_t seed;
static Rng rng;
static float uniform(void) { return (float)(2 * rng_uniform(&rng) - 1); }
static size_t pick(size_t n) { return (size_t)rng_below(&rng, n); }

/* ---- rounding, on its own feet ---------------------------------------------------------------------------------- */
static float rounded(float x, int bits) {      /* to so many significant bits, ties to even */
    int e;
    if (!isfinite(x) || x == 0) return x;
    double m = frexp(x, &e);
    return (float)ldexp(nearbyint(ldexp(m, bits)), e - bits);
}
static uint16_t f16_bits(float x) {            /* of a value that f16 holds exactly, and no subnormal */
    int e;
    double m = frexp(fabs(x), &e);
    return (uint16_t)((signbit(x) ? 0x8000 : 0) | (x == 0 ? 0 : ((e + 14) << 10) + (int)ldexp(m, 11) - 1024));
}
static uint16_t bf16_bits(float x) {           /* of a value that bf16 holds exactly */
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)(u >> 16);
}

/* ---- one case --------------------------------------------------------------------------------------------------- */
typedef struct Layer {
    size_t O;
    DType dtype;
    void *block;               /* what was allocated; the matrix starts 2 bytes in */
    float *w, *dy, *dw, *dbias, *bias;         /* w: the values stored */
    float *w_in, *dy_in;                       /* as the products see them */
} Layer;
typedef struct Case {
    size_t N, C;
    int n;
    Layer layer[LINEAR_MAX];
    float *x, *x_in;
} Case;

static float *random_floats(size_t n) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}
static Precision precision;
static float *inputs(const float *x, size_t n) {
    float *r = xmalloc(n * sizeof *r);
    for (size_t i = 0; i < n; i++) r[i] = precision == PREC_BF16 ? rounded(x[i], 8) : x[i];
    return r;
}
static Case case_new(size_t N, size_t C, int n, const size_t *O) {
    Case c = {.N = N, .C = C, .n = n, .x = random_floats(N * C)};
    for (int i = 0; i < n; i++) {
        Layer *l = &c.layer[i];
        *l = (Layer){.O = O[i], .dtype = (DType[]){DT_F32, DT_F16, DT_BF16}[pick(3)], .w = random_floats(O[i] * C),
                     .dy = random_floats(N * O[i]), .dw = random_floats(O[i] * C), .dbias = random_floats(O[i]),
                     .bias = random_floats(O[i])};
        size_t size = l->dtype == DT_F32 ? 4 : 2;
        l->block = xmalloc(2 + O[i] * C * size);
        for (size_t j = 0; j < O[i] * C; j++) {
            char *at = (char *)l->block + 2 + j * size;
            if (l->dtype != DT_F32) l->w[j] = rounded(l->w[j], l->dtype == DT_F16 ? 11 : 8);
            if (l->dtype == DT_F16 && fabsf(l->w[j]) < 0x1p-14f) l->w[j] = 0;
            uint16_t half = l->dtype == DT_F16 ? f16_bits(l->w[j]) : bf16_bits(l->w[j]);
            memcpy(at, l->dtype == DT_F32 ? (void *)&l->w[j] : (void *)&half, size);
        }
        l->w_in = inputs(l->w, O[i] * C), l->dy_in = inputs(l->dy, N * O[i]);
    }
    c.x_in = inputs(c.x, N * C);
    return c;
}
static void case_free(Case *c) {
    free(c->x), free(c->x_in);
    for (int i = 0; i < c->n; i++) {
        Layer *l = &c->layer[i];
        free(l->block), free(l->w), free(l->dy), free(l->dw), free(l->dbias), free(l->bias);
        free(l->w_in), free(l->dy_in);
    }
}
static Mat mat_of(const Case *c, const Layer *l) { return MAT(l->dtype, l->O, c->C, (char *)l->block + 2); }

/* ---- comparing -------------------------------------------------------------------------------------------------- */
typedef struct Worst { double ratio; char where[200]; size_t n; } Worst;
static void compare(Worst *w, double got, double want, double magnitude, const char *what, const Case *c, size_t row,
                    size_t column) {
    double off = fabs(got - want), ratio = off / (TOLERANCE * (magnitude + 1e-3));
    if (!isfinite(got)) ratio = INFINITY;
    w->n++;
    if (ratio <= w->ratio && w->n > 1) return;
    w->ratio = ratio;
    snprintf(w->where, sizeof w->where, "%s[%zu,%zu] of N %zu C %zu, %d layers of O %zu ..: got %.9g want %.9g", what,
             row, column, c->N, c->C, c->n, c->layer[0].O, got, want);
}

static void try_matmul(Worst *w, const Case *c) {
    Linear lin[LINEAR_MAX];
    float *y[LINEAR_MAX], *residual = NULL;
    bool alias = pick(2);
    for (int i = 0; i < c->n; i++) {
        const Layer *l = &c->layer[i];
        y[i] = random_floats(c->N * l->O);
        lin[i] = (Linear){.w = mat_of(c, l), .bias = pick(2) ? l->bias : NULL, .y = (act *)y[i]};
    }
    float *r = NULL;           /* the residual as it was: y may be written over it */
    if (c->n == 1 && pick(2)) {
        size_t n = c->N * c->layer[0].O;
        residual = alias ? y[0] : random_floats(n);
        r = xmalloc(n * sizeof *r);
        memcpy(r, residual, n * sizeof *r);
    }
    op.matmul(lin, c->n, (const act *)c->x, (const act *)residual, c->N);
    for (int i = 0; i < c->n; i++)
        for (size_t t = 0; t < c->N; t++)
            for (size_t o = 0; o < c->layer[i].O; o++) {
                double sum = lin[i].bias ? (double)lin[i].bias[o] : 0, size = fabs(sum);
                if (r) sum += (double)r[t * c->layer[i].O + o], size += fabs((double)r[t * c->layer[i].O + o]);
                for (size_t k = 0; k < c->C; k++) {
                    double p = (double)c->x_in[t * c->C + k] * (double)c->layer[i].w_in[o * c->C + k];
                    sum += p, size += fabs(p);
                }
                compare(w, (double)y[i][t * c->layer[i].O + o], sum, size, "y", c, t, o);
            }
    if (residual != y[0]) free(residual);
    free(r);
    for (int i = 0; i < c->n; i++) free(y[i]);
}
static void try_dx(Worst *w, const Case *c) {
    Linear lin[LINEAR_MAX];
    float *before = random_floats(c->N * c->C), *dx = xmalloc(c->N * c->C * sizeof *dx);
    bool accumulate = pick(2);
    memcpy(dx, before, c->N * c->C * sizeof *dx);
    for (int i = 0; i < c->n; i++) lin[i] = (Linear){.w = mat_of(c, &c->layer[i]), .dy = (act *)c->layer[i].dy};
    op.matmul_dx((act *)dx, lin, c->n, c->N, accumulate);
    for (size_t t = 0; t < c->N; t++)
        for (size_t k = 0; k < c->C; k++) {
            double sum = accumulate ? (double)before[t * c->C + k] : 0, size = fabs(sum);
            for (int i = 0; i < c->n; i++)
                for (size_t o = 0; o < c->layer[i].O; o++) {
                    const Layer *l = &c->layer[i];
                    double p = (double)l->dy_in[t * l->O + o] * (double)l->w_in[o * c->C + k];
                    sum += p, size += fabs(p);
                }
            compare(w, (double)dx[t * c->C + k], sum, size, "dx", c, t, k);
        }
    free(before), free(dx);
}
static void try_dw(Worst *w, Worst *wb, const Case *c) {
    Linear lin[LINEAR_MAX];
    float *dw[LINEAR_MAX], *dbias[LINEAR_MAX];
    bool frozen[LINEAR_MAX], no_bias[LINEAR_MAX];
    for (int i = 0; i < c->n; i++) {
        const Layer *l = &c->layer[i];
        frozen[i] = !pick(4), no_bias[i] = !pick(3);
        dw[i] = xmalloc(l->O * c->C * sizeof(float)), dbias[i] = xmalloc(l->O * sizeof(float));
        memcpy(dw[i], l->dw, l->O * c->C * sizeof(float)), memcpy(dbias[i], l->dbias, l->O * sizeof(float));
        lin[i] = (Linear){.w = mat_of(c, l), .dy = (act *)l->dy, .dw = frozen[i] ? NULL : dw[i],
                          .dbias = no_bias[i] ? NULL : dbias[i]};
    }
    op.matmul_dw(lin, c->n, (const act *)c->x, c->N);
    for (int i = 0; i < c->n; i++)
        for (size_t o = 0; o < c->layer[i].O; o++) {
            const Layer *l = &c->layer[i];
            double sum = (double)l->dbias[o], size = fabs(sum);
            for (size_t t = 0; t < c->N && !no_bias[i]; t++)
                sum += (double)l->dy[t * l->O + o], size += fabs((double)l->dy[t * l->O + o]);
            compare(wb, (double)dbias[i][o], sum, size, "dbias", c, (size_t)i, o);
            for (size_t k = 0; k < c->C; k++) {
                sum = (double)l->dw[o * c->C + k], size = fabs(sum);
                for (size_t t = 0; t < c->N && !frozen[i]; t++) {
                    double p = (double)l->dy_in[t * l->O + o] * (double)c->x_in[t * c->C + k];
                    sum += p, size += fabs(p);
                }
                compare(w, (double)dw[i][o * c->C + k], sum, size, "dw", c, o, k);
            }
        }
    for (int i = 0; i < c->n; i++) free(dw[i]), free(dbias[i]);
}

/* ---- the groups of checks --------------------------------------------------------------------------------------- */
/* Sizes around every border there is: vectors of 4, 8, 16, tiles of 12, 24, 48, chunks of 192, tasks of 512 rows and
 * 1536 columns, blocks of K of 256, 384 and 768. */
static void check_values(const char *flavour) {
    static const size_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 40, 47,
                                   48, 49, 50, 63, 64, 65, 80, 95, 96, 97, 100, 112, 127, 128, 129, 130};
    static const size_t large[][3] = {{530, 9, 40}, {20, 1700, 17}, {17, 30, 1700}, {1100, 20, 33}, {33, 520, 250},
                                      {65, 200, 385}, {2, 2100, 70}, {8, 770, 300}, {40, 1540, 30}, {12, 18, 3200}};
    Worst y = {0}, dx = {0}, dw = {0}, dbias = {0};
    size_t n_sizes = sizeof sizes / sizeof *sizes, n_large = sizeof large / sizeof *large;
    for (size_t i = 0; i < 120 + n_large; i++) {
        size_t N = sizes[pick(n_sizes)], C = sizes[pick(n_sizes)], O[LINEAR_MAX];
        int n = pick(2) ? 1 : (int)pick(LINEAR_MAX) + 1;
        for (int j = 0; j < LINEAR_MAX; j++) O[j] = sizes[pick(n > 1 ? n_sizes / 2 : n_sizes)];
        if (pick(3) == 0) N = 1 + pick(9);
        if (i >= 120) N = large[i - 120][0], C = large[i - 120][1], O[0] = large[i - 120][2], n = 1;
        Case c = case_new(N, C, n, O);
        try_matmul(&y, &c);
        try_dx(&dx, &c);
        try_dw(&dw, &dbias, &c);
        case_free(&c);
    }
    const char *names[] = {"matmul", "matmul_dx", "matmul_dw", "dbias"};
    const Worst *worst[] = {&y, &dx, &dw, &dbias};
    for (int i = 0; i < 4; i++)
        CHECK(worst[i]->ratio <= 1 && worst[i]->n > 1000, "%s: %s, %zu values, worst %.2g of the tolerance: %s",
              flavour, names[i], worst[i]->n, worst[i]->ratio, worst[i]->where);
}

/* All three ops on one case; results one after another in out (a new array), their number in n_out. */
static float *run_all(const Case *c, bool as_list, size_t *n_out) {
    size_t n = c->N * c->C;
    for (int i = 0; i < c->n; i++) n += c->N * c->layer[i].O + c->layer[i].O * (c->C + 1);
    float *out = xcalloc(n, sizeof *out), *at = out + c->N * c->C;
    Linear lin[LINEAR_MAX];
    for (int i = 0; i < c->n; i++) {
        const Layer *l = &c->layer[i];
        float *y = at, *dw = y + c->N * l->O, *dbias = dw + l->O * c->C;
        lin[i] = (Linear){mat_of(c, l), l->bias, (act *)y, (act *)l->dy, dw, dbias};
        at = dbias + l->O;
    }
    if (as_list) {
        op.matmul(lin, c->n, (act *)c->x, NULL, c->N);
        op.matmul_dx((act *)out, lin, c->n, c->N, false);
        op.matmul_dw(lin, c->n, (act *)c->x, c->N);
    } else for (int i = 0; i < c->n; i++) {
        op.matmul(&lin[i], 1, (act *)c->x, NULL, c->N);
        op.matmul_dx((act *)out, &lin[i], 1, c->N, i > 0);
        op.matmul_dw(&lin[i], 1, (act *)c->x, c->N);
    }
    *n_out = n;
    return out;
}
static void check_bits(const char *flavour) {
    static const size_t shapes[][5] = {{1, 520, 700, 300, 40}, {5, 1030, 400, 10, 90}, {70, 130, 200, 33, 1},
                                       {600, 90, 130, 64, 20}, {33, 800, 40, 800, 16}, {129, 31, 3100, 5, 5}};
    size_t differ = 0, differ_list = 0, n, total = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        Case c = case_new(shapes[s][0], shapes[s][1], 3, shapes[s] + 2);
        omp_set_num_threads(1);
        float *one = run_all(&c, true, &n), *apart = run_all(&c, false, &n);
        differ_list += memcmp(one, apart, n * sizeof *one) != 0;
        for (int threads = 2; threads <= 5; threads++) {
            omp_set_num_threads(threads);
            float *many = run_all(&c, true, &n);
            differ += memcmp(one, many, n * sizeof *one) != 0;
            free(many);
            total++;
        }
        free(one), free(apart), case_free(&c);
    }
    omp_set_num_threads(2);
    CHECK(!differ, "%s: 1 to 5 threads give the same bits (%zu of %zu runs differ)", flavour, differ, total);
    CHECK(!differ_list, "%s: a list gives the bits of its layers one by one (%zu differ)", flavour, differ_list);
}

/* A row of y must not depend on how many rows there are: what prefill and decoding share. */
static void check_rows(const char *flavour) {
    Case c = case_new(40, 700, 1, (size_t[]){300});
    float *all = xmalloc(40 * 300 * sizeof *all), *few = xmalloc(40 * 300 * sizeof *few);
    Linear lin = {.w = mat_of(&c, &c.layer[0]), .bias = c.layer[0].bias, .y = (act *)all};
    op.matmul(&lin, 1, (act *)c.x, NULL, 40);
    for (size_t t = 0, n = 1; t < 40; t += n, n = n % 8 + 1) {
        lin.y = (act *)(few + t * 300);
        if (n > 40 - t) n = 40 - t;
        op.matmul(&lin, 1, (act *)(c.x + t * 700), NULL, n);
    }
    char name[200];
    snprintf(name, sizeof name, "%s: rows 1 to 8 at a time are those of all 40", flavour);
    CHECK_CLOSE(name, few, all, 40 * 300, 5e-5, 0);
    for (size_t t = 0; t < 40; t++) {                  /* speculative decoding and batches rely on the very bits */
        lin.y = (act *)(all + t * 300);
        op.matmul(&lin, 1, (act *)(c.x + t * 700), NULL, 1);
    }
    CHECK(!memcmp(all, few, 40 * 300 * sizeof *all), "%s: rows 1 to 8 at a time have the bits of each alone", flavour);
    free(all), free(few), case_free(&c);
}

/* A file's weights lie where they lie: whole cache lines are put together then, to the same bits. */
static void check_places(const char *flavour) {
    const size_t C = 448, O = 37, room = 128 + O * C * 4;
    float *x = random_floats(C), *w = random_floats(O * C), y[37], want[37];
    char *block = aligned_alloc(64, (room + 63) / 64 * 64);
    int differ = 0, n = 0;
    for (int d = 0; d < 3; d++)
        for (size_t shift = 0; shift < 64; shift += 2, n++) {
            Mat m = MAT(((DType[]){DT_F32, DT_F16, DT_BF16})[d], O, C, block + shift);
            if (m.dtype == DT_F32 && shift % 4) continue;
            op.mat_from_f32(&m, w);
            Linear lin = {.w = m, .y = (act *)y};
            op.matmul(&lin, 1, (act *)x, NULL, 1);
            if (!shift) memcpy(want, y, sizeof y);
            differ += memcmp(want, y, sizeof y) != 0;
        }
    CHECK(!differ, "%s: weights anywhere in a cache line give the same bits (%d of %d differ)", flavour, differ, n);
    free(x), free(w), free(block);
}

/* NaN and infinity go where they belong and nowhere else: a padding zero times infinity would be NaN. */
static void check_nan(const char *flavour) {
    size_t wrong = 0, n_checked = 0;
    for (size_t s = 0; s < 40; s++) {
        size_t N = 1 + pick(40), C = 1 + pick(60), O = 1 + pick(60), t0 = pick(N), k0 = pick(C), o0 = pick(O);
        Case c = case_new(N, C, 1, &O);
        Layer *l = &c.layer[0];
        uint32_t quiet_only_low = 0x7f800001u;         /* a NaN whose upper half alone would be infinity */
        bool is_nan = pick(2), in_w = pick(2);
        float bad = INFINITY;
        if (is_nan) memcpy(&bad, &quiet_only_low, 4);
        if (in_w) {
            uint16_t half = l->dtype == DT_F16 ? (is_nan ? 0x7c01 : 0x7c00) : (is_nan ? 0x7f81 : 0x7f80);
            memcpy((char *)l->block + 2 + (o0 * C + k0) * (l->dtype == DT_F32 ? 4 : 2),
                   l->dtype == DT_F32 ? (void *)&bad : (void *)&half, l->dtype == DT_F32 ? 4 : 2);
        } else c.x[t0 * C + k0] = bad;
        float *y = random_floats(N * O), *dx = random_floats(N * C), *dw = random_floats(O * C);
        Linear lin = {mat_of(&c, l), NULL, (act *)y, (act *)l->dy, dw, NULL};
        op.matmul(&lin, 1, (act *)c.x, NULL, N);
        op.matmul_dx((act *)dx, &lin, 1, N, false);
        op.matmul_dw(&lin, 1, (act *)c.x, N);
#define EXPECT(value, should)                                                                                          \
    (n_checked++, wrong += (should) ? (is_nan ? !isnan(value) : isfinite(value)) : !isfinite(value))
        for (size_t t = 0; t < N; t++) for (size_t o = 0; o < O; o++) EXPECT(y[t * O + o], in_w ? o == o0 : t == t0);
        for (size_t t = 0; t < N; t++) for (size_t k = 0; k < C; k++) EXPECT(dx[t * C + k], in_w && k == k0);
        for (size_t o = 0; o < O; o++) for (size_t k = 0; k < C; k++) EXPECT(dw[o * C + k], !in_w && k == k0);
        free(y), free(dx), free(dw), case_free(&c);
    }
    CHECK(!wrong, "%s: NaN and infinity reach what they belong to and nothing else (%zu of %zu wrong)", flavour, wrong,
          n_checked);
}

/* The limits have to be limits: no CPU yet makes 0.5 TFLOP/s in one thread (a loop that the compiler had moved out of
 * the timing claimed 100), and bf16 is no slower than f32. */
static void check_peaks(void) {
    double f32 = op.peak_flops(PREC_F32), bf16 = op.peak_flops(PREC_BF16), read = op.peak_read();
    double threads = omp_get_max_threads();
    CHECK(f32 > 1e7 && f32 < 5e11 * threads && bf16 > 0.5 * f32 && bf16 < 1e12 * threads && read > 1e7 && read < 1e13,
          "%s: limits %.1f GFLOP/s f32, %.1f bf16, %.1f GB/s read", op.name, f32 * 1e-9, bf16 * 1e-9, read * 1e-9);
}

int main(int argc, char **argv) {                             /* test_matmul [FLAVOUR]: only this one */
    rng = (Rng){seed = 1, 0};
    static const char *isas[] = {"plain", "avx2", "avx512", "avx512bf16", "neon"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (int p = 0; p < 2; p++) {
            if (argc > 1 && strcmp(isas[i], argv[1])) continue;
            if (!isa_runs(isas[i])) continue;
            precision = p ? PREC_BF16 : PREC_F32;
            ops_select("cpu", isas[i], precision);
            char flavour[60];
            snprintf(flavour, sizeof flavour, "%s %s", op.name, p ? "bf16" : "f32");
            check_values(flavour);
            check_bits(flavour);
            check_rows(flavour);
            check_places(flavour);
            check_nan(flavour);
            if (p) check_peaks();
        }
    return test_end();
}
