/* tests/test_ops.c - every element-wise, norm, embedding, loss, optimiser and sampling op, in every flavour this CPU
 * runs, against references in double that are written here from the formulas and share no code with the kernels.
 * Gradients are compared with a reference gradient, which itself is compared with finite differences of the reference.
 * Results on 1, 2 and 3 threads are compared bit by bit. Buffers are exactly as long as the contract says, so that the
 * address sanitizer sees a step beyond, and lie at odd multiples of 4 bytes. */
#include "../common.h"
#include "../kernels.h"
#include "test.h"
#include <float.h>
#ifdef __has_feature
#  define SANITIZED __has_feature(address_sanitizer)
#else
#  define SANITIZED 0
#endif

/* ---- many comparisons, one line of output ----------------------------------------------------------------------- */
static struct { double ratio, got, want; size_t at, count; char where[128]; } worst;

/* |got - want| <= atol + rtol |want|, infinities and NaNs alike on both sides. */
__attribute__((format(printf, 6, 7)))
static void near(const float *got, const double *want, size_t n, double atol, double rtol, const char *fmt, ...) {
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - want[i]), ratio = off / (atol + rtol * fabs(want[i]));
        if (isnan(want[i])) ratio = isnan(got[i]) ? 0 : INFINITY;
        else if (isinf(want[i])) ratio = (double)got[i] == want[i] ? 0 : INFINITY;
        else if (!isfinite(got[i])) ratio = INFINITY;
        worst.count++;
        if (worst.count > 1 && !(ratio > worst.ratio)) continue;
        worst.ratio = ratio, worst.got = (double)got[i], worst.want = want[i], worst.at = i;
        va_list args;
        va_start(args, fmt);
        vsnprintf(worst.where, sizeof worst.where, fmt, args);
        va_end(args);
    }
}
static void done(const char *what) {
    CHECK(worst.count && worst.ratio <= 1,
          "%s %s: %zu values, worst %.3g of the tolerance: %s [%zu] got %.9g want %.9g", op.name,
          what, worst.count, worst.ratio, worst.where, worst.at, worst.got, worst.want);
    memset(&worst, 0, sizeof worst);
}

/* ---- inputs ----------------------------------------------------------------------------------------------------- */
static uint64_t draws;
static double uniform(double lo, double hi) {
    return lo + (hi - lo) * (double)(rng_mix(2024, draws++) >> 11) * 0x1p-53;
}

/* Blocks that end where the allocation ends and begin 4 bytes after a multiple of 16. */
static void *kept[256];
static int n_kept;
static void *block(size_t bytes) {
    if (n_kept == 256) { printf("too many blocks\n"); exit(1); }
    char *raw = kept[n_kept++] = xmalloc(bytes + 4);
    memset(raw, 0xA5, bytes + 4);
    return raw + 4;
}
static float *floats(size_t n, double lo, double hi) {
    float *x = block(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)uniform(lo, hi);
    return x;
}
static double *doubles(size_t n) {
    double *x = kept[n_kept++] = xcalloc(n + 1, sizeof *x);
    return x;
}
static double *widened(const float *x, size_t n) {
    double *y = doubles(n);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}
static float *copied(const float *x, size_t n) { return memcpy(block(n * sizeof *x), x, n * sizeof *x); }
static void free_blocks(void) { while (n_kept) free(kept[--n_kept]); }
#define A(x) ((act *)(void *)(x))                             /* on the CPU an activation is a float */
#define CA(x) ((const act *)(const void *)(x))

static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 127, 128, 129, 130, 70003};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* ---- number formats --------------------------------------------------------------------------------------------- */
static double half_value(uint16_t h, int exponent_bits) {     /* of f16 (5 exponent bits) or bf16 (8) */
    int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int e = (h >> fraction_bits) & ((1 << exponent_bits) - 1), f = h & ((1 << fraction_bits) - 1);
    double sign = h >> 15 ? -1 : 1;
    if (e == (1 << exponent_bits) - 1) return f ? NAN : sign * INFINITY;
    return sign * (e ? ldexp(1 + ldexp(f, -fraction_bits), e - bias) : ldexp(f, 1 - bias - fraction_bits));
}
/* The nearest representable value, ties to the even one: nearbyint in units of the last place. */
static double half_rounded(double x, int exponent_bits) {
    int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1, e;
    if (!isfinite(x) || x == 0) return x;
    frexp(x, &e);
    e = e - 1 < 1 - bias ? 1 - bias : e - 1;
    double unit = ldexp(1, e - fraction_bits), y = nearbyint(x / unit) * unit;
    return fabs(y) >= ldexp(2, bias) ? copysign(INFINITY, x) : y;
}

static void test_formats(void) {
    for (int kind = 0; kind < 2; kind++) {
        int bits = kind ? 8 : 5;
        DType dtype = kind ? DT_BF16 : DT_F16;
        const char *name = kind ? "bf16" : "f16";
        uint16_t *all = (uint16_t *)((char *)block(65536 * 2 + 2) + 2), *back = block(65536 * 2);
        float *wide = block(65536 * 4);
        double *want = doubles(65536);
        for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i, want[i] = half_value((uint16_t)i, bits);
        Mat m = MAT(dtype, 16, 4096, all);
        op.mat_to_f32(wide, &m);
        near(wide, want, 65536, 1e-300, 0, "%s widened, pattern", name);
        done("all 65536 patterns widen exactly");
        m.data = back;
        op.mat_from_f32(&m, wide);
        int wrong = 0;
        for (int i = 0; i < 65536; i++)
            wrong += isnan(want[i]) ? !isnan(half_value(back[i], bits)) : back[i] != all[i];
        CHECK(!wrong, "%s %s: all patterns come back, NaN as NaN: %d wrong", op.name, name, wrong);

        /* Rounding: random floats of every exponent, and for every pattern the middle to the next one and its
         * neighbours. */
        size_t n = 65536 * 4 + 5;
        float *x = block(n * 4);
        for (size_t i = 0; i < n; i++) {
            uint32_t u = (uint32_t)rng_mix(5, i);
            if (i < 65536 * 3) {
                double a = half_value((uint16_t)(i / 3), bits), b = half_value((uint16_t)(i / 3 + 1), bits);
                x[i] = (float)((a + b) / 2);
                if (i % 3) x[i] = nextafterf(x[i], i % 3 == 1 ? INFINITY : -INFINITY);
            } else memcpy(&x[i], &u, 4);
        }
        uint16_t *rounded = block(n * 2);
        op.mat_from_f32(&MAT(dtype, 1, n, rounded), x);
        wrong = 0;
        size_t first = 0;
        for (size_t i = n; i-- > 0;) {
            double got = half_value(rounded[i], bits), should = half_rounded((double)x[i], bits);
            if (isnan(should) ? !isnan(got) : got != should || signbit(got) != signbit(should)) wrong++, first = i;
        }
        CHECK(!wrong, "%s %s: %zu floats round to the nearest, ties to even: %d wrong, x = %.9g gives %.9g", op.name,
              name, n, wrong, (double)x[first], half_value(rounded[first], bits));
        /* Short lengths meet the tails of the vector loops. */
        wrong = 0;
        for (size_t len = 1; len <= 40; len++) {
            uint16_t *y = block(len * 2);
            float *z = block(len * 4);
            Mat s = MAT(dtype, 1, len, y);
            op.mat_from_f32(&s, x + 100 * len);
            op.mat_to_f32(z, &s);
            for (size_t i = 0; i < len; i++) {
                double should = half_rounded((double)x[100 * len + i], bits);
                wrong += isnan(should) ? !isnan(z[i]) : (double)z[i] != should;
            }
        }
        CHECK(!wrong, "%s %s: lengths 1 to 40: %d wrong", op.name, name, wrong);
        free_blocks();
    }
    float *x = floats(1000, -1, 1), *y = block(4000 + 2);
    Mat odd = MAT(DT_F32, 10, 100, (char *)y + 2);               /* as in a file's mapping: only 2-byte aligned */
    op.mat_from_f32(&odd, x);
    float *z = block(4000);
    op.mat_to_f32(z, &odd);
    CHECK(!memcmp(x, z, 4000), "%s f32 matrix at an odd address", op.name);
    free_blocks();
}

static void test_memory(void) {
    bool zeroed = true, aligned = true;
    for (size_t bytes = 0; bytes < 300; bytes += 7) {
        unsigned char *p = op.mem_alloc(bytes);
        for (size_t i = 0; i < bytes; i++) zeroed &= !p[i];
        aligned &= (uintptr_t)p % 64 == 0;
        memset(p, 1, bytes);
        op.mem_free(p);
    }
    op.mem_free(NULL);
    CHECK(zeroed && aligned, "%s mem_alloc gives zeroed blocks at multiples of 64", op.name);
    size_t n = (5 << 20) + 3;                                 /* copied in parallel */
    unsigned char *a = xmalloc(n), *b = xmalloc(n);
    for (size_t i = 0; i < n; i++) a[i] = (unsigned char)rng_mix(1, i);
    op.copy(b, a, n);
    CHECK(!memcmp(a, b, n), "%s copy of %zu bytes", op.name, n);
    op.zero(b, n);
    size_t left = 0;
    for (size_t i = 0; i < n; i++) left += b[i] != 0;
    CHECK(!left, "%s zero of %zu bytes leaves %zu", op.name, n, left);
    op.upload(b, a, 1001), op.download(a + 2000, b, 1001), op.sync();
    CHECK(!memcmp(a, a + 2000, 1001), "%s upload and download", op.name);
    float x[5] = {1, -2, 3, NAN, 5}, y[5], z[5];
    op.act_from_host(A(y), x, 5), op.act_to_host(z, CA(y), 5);
    CHECK(!memcmp(x, z, sizeof x), "%s activations to the host and back", op.name);
    free(a), free(b);
/* the sanitizer has its own words for the first of these */
#if !defined __SANITIZE_ADDRESS__ && !SANITIZED
    CHECK_DIES({ op.mem_alloc(SIZE_MAX / 2); }, "out of memory");
#endif
    CHECK_DIES({ op.mem_alloc(SIZE_MAX - 3); }, "out of memory");
}

/* ---- GELU, tanh and SwiGLU -------------------------------------------------------------------------------------- */
static double activation_ref(double x, ActivationKind kind) {
    return kind == TANH ? tanh(x) : kind == GELU_ERF ? 0.5 * x * erfc(-x / sqrt(2))
                            : 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double activation_grad_ref(double x, ActivationKind kind) {
    if (kind == TANH) return 1 - tanh(x) * tanh(x);
    if (kind == GELU_ERF) return 0.5 * erfc(-x / sqrt(2)) + x * exp(-x * x / 2) / sqrt(2 * M_PI);
    double u = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), t = tanh(u);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}
static double silu_ref(double x) { return x / (1 + exp(-x)); }
static double silu_grad_ref(double x) { double s = 1 / (1 + exp(-x)); return s * (1 + x * (1 - s)); }

static void test_activations(void) {
    for (int kind = 0; kind < 3; kind++) {
        const char *name = kind == GELU_ERF ? "gelu_erf" : kind == GELU_TANH ? "gelu_tanh" : "tanh";
        for (int k = 0; k < N_SIZES; k++) {
            size_t n = sizes[k];
            float *x = floats(n, -9, 9), *y = block(n * 4), *dy = floats(n, -2, 2), *dx = block(n * 4);
            if (n > 60000) for (size_t i = 0; i < n; i++) x[i] = (float)((double)i / (double)n * 60 - 30);
            double *want = doubles(n), *grad = doubles(n);
            for (size_t i = 0; i < n; i++) {
                want[i] = activation_ref((double)x[i], kind);
                grad[i] = (double)dy[i] * activation_grad_ref((double)x[i], kind);
            }
            op.activation(A(y), CA(x), n, kind);
            near(y, want, n, 4e-7, 4e-7, "%s n=%zu", name, n);
            op.activation_bwd(A(dx), CA(dy), CA(x), n, kind);
            near(dx, grad, n, 2e-6, 2e-6, "%s_bwd n=%zu", name, n);
            op.activation_bwd(A(dy), CA(dy), CA(x), n, kind);
            near(dy, grad, n, 2e-6, 2e-6, "%s_bwd in place n=%zu", name, n);
            for (size_t i = 0; i < n; i++) dx[i] = x[i], dy[i] = 1;
            op.activation_bwd(A(dx), CA(dy), CA(dx), n, kind);
            for (size_t i = 0; i < n; i++) grad[i] = activation_grad_ref((double)x[i], kind);
            near(dx, grad, n, 2e-6, 2e-6, "%s_bwd over x n=%zu", name, n);
            free_blocks();
        }
        done(name);
        double off = 0;
        for (double x = -8; x < 8; x += 0.01) {
            double fd = (activation_ref(x + 1e-5, kind) - activation_ref(x - 1e-5, kind)) / 2e-5;
            off = fmax(off, fabs(fd - activation_grad_ref(x, kind)));
        }
        CHECK(off < 1e-8, "%s's reference gradient against finite differences: off by %.2g", name, off);
        float special[4] = {NAN, INFINITY, -1e30f, 0}, out[4];
        op.activation(A(out), CA(special), 4, kind);
        bool ends = kind == TANH ? out[1] == 1 && out[2] == -1 : isinf(out[1]) && out[2] == 0;
        CHECK(isnan(out[0]) && ends && out[3] == 0, "%s %s of NaN, inf, -1e30, 0: %g %g %g %g",
              op.name, name, (double)out[0], (double)out[1], (double)out[2], (double)out[3]);
    }
    for (int k = 0; k < N_SIZES; k++) {
        size_t n = sizes[k];
        float *g = floats(n, -12, 12), *u = floats(n, -3, 3), *y = block(n * 4), *dy = floats(n, -2, 2);
        float *dg = block(n * 4), *du = block(n * 4);
        double *want = doubles(n), *wg = doubles(n), *wu = doubles(n);
        for (size_t i = 0; i < n; i++) {
            want[i] = silu_ref((double)g[i]) * (double)u[i];
            wg[i] = (double)dy[i] * (double)u[i] * silu_grad_ref((double)g[i]);
            wu[i] = (double)dy[i] * silu_ref((double)g[i]);
        }
        op.swiglu(A(y), CA(g), CA(u), n);
        near(y, want, n, 1e-6, 1e-6, "swiglu n=%zu", n);
        op.swiglu_bwd(A(dg), A(du), CA(dy), CA(g), CA(u), n);
        near(dg, wg, n, 2e-6, 2e-6, "dgate n=%zu", n);
        near(du, wu, n, 2e-6, 2e-6, "dup n=%zu", n);
        op.swiglu_bwd(A(dg), A(dy), CA(dy), CA(g), CA(u), n);
        near(dg, wg, n, 2e-6, 2e-6, "dgate in place n=%zu", n);
        near(dy, wu, n, 2e-6, 2e-6, "dup in place n=%zu", n);
        free_blocks();
    }
    done("swiglu");
    /* For x far below 0 silu(x) is x e^x: its relative error is the exponential's, which nothing else shows as
     * clearly. */
    enum { TAIL = 100000 };
    float *x = block(TAIL * 4), *ones = floats(TAIL, 1, 1), *y = block(TAIL * 4);
    double *want = doubles(TAIL);
    for (int i = 0; i < TAIL; i++) x[i] = -87.0f + 97.0f * (float)i / TAIL, want[i] = silu_ref((double)x[i]);
    op.swiglu(A(y), CA(x), CA(ones), TAIL);
    near(y, want, TAIL, 0, 4e-7, "silu");
    done("silu's relative error, and so the exponential's");
    free_blocks();
    double off = 0;
    for (double x = -8; x < 8; x += 0.01)
        off = fmax(off, fabs((silu_ref(x + 1e-5) - silu_ref(x - 1e-5)) / 2e-5 - silu_grad_ref(x)));
    CHECK(off < 1e-8, "silu's reference gradient against finite differences: off by %.2g", off);
    for (int k = 0; k < N_SIZES; k++) {
        size_t n = sizes[k];
        float *a = floats(n, -3, 3), *b = floats(n, -3, 3), *y = block(n * 4);
        double *want = doubles(n);
        for (size_t i = 0; i < n; i++) want[i] = 0.7f * (double)a[i] + (double)b[i];
        op.add(A(y), CA(a), 0.7f, CA(b), n);
        near(y, want, n, 1e-6, 0, "add n=%zu", n);
        float *a2 = copied(a, n), *b2 = copied(b, n);
        op.add(A(a2), CA(a2), 0.7f, CA(b), n), op.add(A(b2), CA(a), 0.7f, CA(b2), n);
        near(a2, want, n, 1e-6, 0, "add onto a n=%zu", n);
        near(b2, want, n, 1e-6, 0, "add onto b n=%zu", n);
        free_blocks();
    }
    done("add");
}

static void test_dropout(void) {
    size_t n = 200003;
    float *x = floats(n, 1, 2), *y = block(n * 4), *dy = floats(n, 1, 2), *dx = block(n * 4);
    for (int k = 0; k < 4; k++) {
        float p = ((const float[]){0, 0.1f, 0.5f, 0.9f})[k];
        op.dropout(A(y), CA(x), n, p, 42), op.dropout(A(dx), CA(dy), n, p, 42);
        size_t dropped = 0, wrong = 0, pairs = 0, as_stated = 0;
        for (size_t i = 0; i < n; i++) {
            dropped += y[i] == 0;
            pairs += i && y[i] == 0 && y[i - 1] == 0;
            wrong += (y[i] == 0) != (dx[i] == 0) || (y[i] != 0 && fabsf(y[i] * (1 - p) / x[i] - 1) > 1e-6f);
            as_stated += (y[i] != 0) == ((double)(rng_mix(42, i) >> 32) * 0x1p-32 >= (double)p);
        }
        double rate = (double)dropped / (double)n, sigma = sqrt((double)p * (1 - (double)p) / (double)n);
        double p2 = (double)p * (double)p, rate2 = (double)pairs / (double)n;
        CHECK(fabs(rate - (double)p) <= 4 * sigma && fabs(rate2 - p2) <= 6 * sqrt(p2 / (double)n),
              "%s dropout %g: rate %.5f, of two in a row %.5f", op.name, (double)p, rate, rate2);
        CHECK(!wrong && as_stated == n, "%s dropout %g: the same mask on a gradient, kept values scaled: %zu wrong",
              op.name, (double)p, wrong);
    }
    op.dropout(A(dx), CA(dy), n, 0.5f, 43);
    size_t same = 0;
    op.dropout(A(y), CA(x), n, 0.5f, 42);
    for (size_t i = 0; i < n; i++) same += (y[i] == 0) == (dx[i] == 0);
    CHECK(fabs((double)same / (double)n - 0.5) < 0.006, "%s dropout: another seed, another mask (%.4f agree)", op.name,
          (double)same / (double)n);
    float *in_place = copied(x, n);
    op.dropout(A(in_place), CA(in_place), n, 0.5f, 42);
    CHECK(!memcmp(in_place, y, n * 4), "%s dropout in place", op.name);
    free_blocks();
}

/* ---- norms ------------------------------------------------------------------------------------------------------ */
/* LayerNorm when w and b are given, RMSNorm when b is NULL. */
static void norm_ref(double *y, double *mean, double *rstd, const double *x, const double *w, const double *b, size_t N,
                     size_t C, double eps) {
    for (size_t i = 0; i < N; i++) {
        double mu = 0, var = 0;
        for (size_t c = 0; c < C && b; c++) mu += x[i * C + c] / (double)C;
        for (size_t c = 0; c < C; c++) var += (x[i * C + c] - mu) * (x[i * C + c] - mu) / (double)C;
        mean[i] = mu, rstd[i] = 1 / sqrt(var + eps);
        for (size_t c = 0; c < C; c++) y[i * C + c] = (x[i * C + c] - mu) * rstd[i] * w[c] + (b ? b[c] : 0);
    }
}
static void norm_bwd_ref(double *dx, double *dw, double *db, const double *dy, const double *x, const double *w,
                         const double *mean, const double *rstd, size_t N, size_t C, bool centred) {
    for (size_t i = 0; i < N; i++) {
        double sum = 0, dot = 0;
        for (size_t c = 0; c < C; c++) {
            double xn = (x[i * C + c] - mean[i]) * rstd[i], d = dy[i * C + c];
            sum += d * w[c] / (double)C, dot += d * w[c] * xn / (double)C;
            dw[c] += d * xn, db[c] += d;
        }
        for (size_t c = 0; c < C; c++) {
            double xn = (x[i * C + c] - mean[i]) * rstd[i];
            dx[i * C + c] = rstd[i] * (dy[i * C + c] * w[c] - (centred ? sum : 0) - xn * dot);
        }
    }
}

static void test_norms(void) {
    static const size_t shapes[][2] = {{1, 1}, {1, 2}, {2, 3}, {3, 7}, {5, 8}, {1, 17}, {4, 31}, {33, 64}, {7, 65},
                                       {65, 100},
                                       {2, 130}, {1, 768}, {130, 768}, {3, 4096}};
    for (int kind = 0; kind < 2; kind++) {
        bool ln = kind == 1;
        const char *name = ln ? "layernorm" : "rmsnorm";
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            size_t N = shapes[k][0], C = shapes[k][1], n = N * C;
            float *x = floats(n, -2, 3), *w = floats(C, -1, 2), *b = floats(C, -1, 1), *y = block(n * 4),
                *dy = floats(n, -1, 1);
            float *mean = block(N * 4), *rstd = block(N * 4), *y2 = block(n * 4);
            double *xd = widened(x, n), *wd = widened(w, C), *bd = widened(b, C), *dyd = widened(dy, n);
            double *yd = doubles(n), *md = doubles(N), *rd = doubles(N);
            norm_ref(yd, md, rd, xd, wd, ln ? bd : NULL, N, C, 1e-5);
            if (ln) {
                op.layernorm(A(y), mean, rstd, CA(x), w, b, N, C, 1e-5f);
                op.layernorm(A(y2), NULL, NULL, CA(x), w, b, N, C, 1e-5f);
            } else {
                op.rmsnorm(A(y), rstd, CA(x), w, N, C, 1e-5f);
                op.rmsnorm(A(y2), NULL, CA(x), w, N, C, 1e-5f);
            }
            /* a row of two or three values may lie close together: rstd magnifies their rounding */
            double loose = C < 8 ? 100 : 1;
            near(y, yd, n, 2e-6 * loose, 1e-6, "%s %zux%zu", name, N, C);
            near(rstd, rd, N, 0, 2e-6 * loose, "%s rstd %zux%zu", name, N, C);
            if (ln) near(mean, md, N, 1e-6, 1e-6, "%s mean %zux%zu", name, N, C);
            if (memcmp(y, y2, n * 4)) CHECK(false, "%s without statistics differs", name);

            double *dxd = doubles(n), *dwd = doubles(C), *dbd = doubles(C), *both = doubles(n);
            float *dw = floats(C, -1, 1), *db = floats(C, -1, 1), *dx = floats(n, -1, 1);
            for (size_t c = 0; c < C; c++) dwd[c] = (double)dw[c], dbd[c] = (double)db[c];
            for (size_t i = 0; i < N; i++) md[i] = ln ? (double)mean[i] : 0, rd[i] = (double)rstd[i];
            norm_bwd_ref(dxd, dwd, dbd, dyd, xd, wd, md, rd, N, C, ln);
            for (size_t i = 0; i < n; i++) both[i] = (double)dx[i] + dxd[i];
            double size = C < 8 ? 1e-3 : 4e-6, sums = 1e-6 * sqrt((double)N) * (C < 8 ? 1000 : 4);
            if (ln) op.layernorm_bwd(A(dx), dw, db, CA(dy), CA(x), w, mean, rstd, N, C, true);
            else op.rmsnorm_bwd(A(dx), dw, CA(dy), CA(x), w, rstd, N, C, true);
            near(dx, both, n, size, 2e-6, "%s_bwd added to dx %zux%zu", name, N, C);
            near(dw, dwd, C, sums, 2e-6, "%s_bwd dw %zux%zu", name, N, C);
            if (ln) near(db, dbd, C, sums, 2e-6, "%s_bwd db %zux%zu", name, N, C);
            if (ln) op.layernorm_bwd(A(dy), NULL, NULL, CA(dy), CA(x), w, mean, rstd, N, C, false);
            else op.rmsnorm_bwd(A(dy), NULL, CA(dy), CA(x), w, rstd, N, C, false);
            near(dy, dxd, n, size, 2e-6, "%s_bwd in place, frozen %zux%zu", name, N, C);
            if (ln) {                                         /* one of the two frozen */
                float *dw1 = floats(C, 0, 0), *db1 = floats(C, 0, 0), *dx1 = block(n * 4);
                double *zero = doubles(C), *zero2 = doubles(C);
                norm_bwd_ref(dxd, zero, zero2, dyd, xd, wd, md, rd, N, C, ln);
                dy = copied(dx, n);
                for (size_t i = 0; i < n; i++) dy[i] = (float)dyd[i];
                op.layernorm_bwd(A(dx1), dw1, NULL, CA(dy), CA(x), w, mean, rstd, N, C, false);
                near(dw1, zero, C, sums, 2e-6, "dw alone %zux%zu", N, C);
                op.layernorm_bwd(A(dx1), NULL, db1, CA(dy), CA(x), w, mean, rstd, N, C, false);
                near(db1, zero2, C, sums, 2e-6, "db alone %zux%zu", N, C);
            }
            free_blocks();
        }
        done(name);

        /* The reference gradient against finite differences of the reference, at loss = sum of y dy. */
        size_t N = 2, C = 5;
        double x[10], w[5], b[5], dy[10], y[10], m[2], r[2], dx[10], dw[5] = {0}, db[5] = {0}, off = 0;
        for (int i = 0; i < 10; i++) x[i] = uniform(-2, 2), dy[i] = uniform(-1, 1);
        for (int i = 0; i < 5; i++) w[i] = uniform(0.5, 2), b[i] = uniform(-1, 1);
        norm_ref(y, m, r, x, w, ln ? b : NULL, N, C, 1e-5);
        norm_bwd_ref(dx, dw, db, dy, x, w, m, r, N, C, ln);
        for (int k = 0; k < 20; k++) {
            double *p = k < 10 ? &x[k] : k < 15 ? &w[k - 10] : &b[k - 15], keep = *p, up = 0, down = 0;
            double want = k < 10 ? dx[k] : k < 15 ? dw[k - 10] : db[k - 15];
            if (k >= 15 && !ln) break;
            *p = keep + 1e-6, norm_ref(y, m, r, x, w, ln ? b : NULL, N, C, 1e-5);
            for (int i = 0; i < 10; i++) up += y[i] * dy[i];
            *p = keep - 1e-6, norm_ref(y, m, r, x, w, ln ? b : NULL, N, C, 1e-5);
            for (int i = 0; i < 10; i++) down += y[i] * dy[i];
            *p = keep;
            off = fmax(off, fabs((up - down) / 2e-6 - want));
        }
        CHECK(off < 1e-7, "%s's reference gradient against finite differences: off by %.2g", name, off);
    }
    /* A mean of 1000 and a deviation of 1: mean(x^2) - mean^2 would lose all digits. */
    size_t N = 3, C = 768;
    float *x = floats(N * C, 999, 1001), *w = floats(C, 1, 1), *b = floats(C, 0, 0), *y = block(N * C * 4);
    double *yd = doubles(N * C), *m = doubles(N), *r = doubles(N);
    norm_ref(yd, m, r, widened(x, N * C), widened(w, C), widened(b, C), N, C, 1e-5);
    op.layernorm(A(y), NULL, NULL, CA(x), w, b, N, C, 1e-5f);
    near(y, yd, N * C, 2e-4, 0, "mean 1000");
    done("layernorm of rows far from zero");
    x[5] = NAN, x[C + 5] = INFINITY;
    op.layernorm(A(y), NULL, NULL, CA(x), w, b, N, C, 1e-5f);
    CHECK(isnan(y[0]) && isnan(y[C]) && isfinite(y[2 * C]), "%s layernorm: NaN and infinity spoil their own row only",
          op.name);
    op.rmsnorm(A(y), NULL, CA(x), w, N, C, 1e-5f);
    CHECK(isnan(y[0]) && isnan(y[C + 5]) && isfinite(y[2 * C]),
          "%s rmsnorm: NaN and infinity spoil their own row only", op.name);
    free_blocks();
}

/* ---- embedding and rope ----------------------------------------------------------------------------------------- */
static const int32_t *sort_key;
static int by_id(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return sort_key[i] != sort_key[j] ? (sort_key[i] > sort_key[j] ? 1 : -1) : (i > j) - (i < j);
}
static void test_embed(void) {
    /* N, rows, C */
    static const size_t shapes[][3] = {{1, 1, 1}, {5, 3, 7}, {9, 4, 64}, {130, 11, 65}, {3, 50, 768}, {300, 40, 300}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t N = shapes[k][0], rows = shapes[k][1], C = shapes[k][2];
        float *table = floats(rows * C, -2, 2), *y = block(N * C * 4), *start = floats(N * C, -1, 1);
        int32_t *ids = block(N * 4), *order = block(N * 4);
        for (size_t i = 0; i < N; i++) ids[i] = (int32_t)uniform(0, (double)rows), order[i] = (int32_t)i;
        for (int kind = 0; kind < 3; kind++) {
            char *data = (char *)block(rows * C * 4 + 2) + 2; /* only 2-byte aligned, as in a file's mapping */
            Mat m = MAT(((const DType[]){DT_F32, DT_F16, DT_BF16})[kind], rows, C, data);
            op.mat_from_f32(&m, table);
            double *want = doubles(N * C), *added = doubles(N * C);
            for (size_t i = 0; i < N; i++)
                for (size_t c = 0; c < C; c++) {
                    double x = (double)table[(size_t)ids[i] * C + c];
                    want[i * C + c] = kind ? half_rounded(x, kind == 1 ? 5 : 8) : x;
                    added[i * C + c] = want[i * C + c] + (double)start[i * C + c];
                }
            op.embed(A(y), ids, &m, N, false);
            near(y, want, N * C, 1e-300, 0, "type %d %zux%zu", kind, N, C);
            float *sum = copied(start, N * C);
            op.embed(A(sum), ids, &m, N, true);
            near(sum, added, N * C, 3e-7, 0, "type %d added %zux%zu", kind, N, C);
        }
        done("embed");
        float *dy = floats(N * C, -1, 1), *dt = floats(rows * C, -1, 1);
        double *want = widened(dt, rows * C);
        for (size_t i = 0; i < N; i++)
            for (size_t c = 0; c < C; c++) want[(size_t)ids[i] * C + c] += (double)dy[i * C + c];
        sort_key = ids;
        qsort(order, N, 4, by_id);
        op.embed_bwd(dt, ids, order, CA(dy), N, C);
        near(dt, want, rows * C, 1e-5, 0, "embed_bwd %zux%zu", N, C);
        done("embed_bwd");
        free_blocks();
    }
}

static void rope_ref(double *y, const float *x, const Rope *r) {
    size_t D = (size_t)r->D, H = (size_t)r->heads;
    for (size_t b = 0; b < r->B; b++)
        for (size_t t = 0; t < r->T; t++)
            for (size_t h = 0; h < H; h++) {
                const float *xh = x + ((b * r->T + t) * H + h) * D;
                double *yh = y + b * r->y_row + (((r->slot ? (size_t)r->slot[b] : 0) + t) * H + h) * D;
                for (size_t d = 0; d < D; d++) yh[d] = (double)xh[d];
                for (int j = 0; j < r->rot / 2; j++) {
                    int a = r->first + (r->interleaved ? 2 * j : j),
                        z = r->first + (r->interleaved ? 2 * j + 1 : j + r->rot / 2);
                    size_t angle = (size_t)r->position[b * r->T + t] * (size_t)(r->rot / 2) + (size_t)j;
                    const float *cs = r->table + 2 * angle;
                    double c = (double)cs[0], s = (double)cs[1] * (r->inverse ? -1 : 1);
                    yh[a] = (double)xh[a] * c - (double)xh[z] * s;
                    yh[z] = (double)xh[z] * c + (double)xh[a] * s;
                }
            }
}
static void test_rope(void) {
    static const struct { size_t B, T; int heads, D, first, rot; } cases[] = {
        {1, 1, 1, 2, 0, 2}, {2, 3, 2, 8, 0, 8}, {1, 5, 3, 10, 0, 6}, {2, 2, 2, 12, 4, 6}, {1, 7, 1, 64, 0, 64},
        {2, 33, 4, 64, 32, 32}, {1, 2, 2, 130, 0, 130}, {3, 4, 2, 6, 0, 0}, {1, 3, 2, 16, 1, 14},
        {2, 130, 8, 64, 0, 32}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int mode = 0; mode < 8; mode++) {
            size_t B = cases[k].B, T = cases[k].T, row = (size_t)cases[k].heads * (size_t)cases[k].D, n = B * T * row;
            size_t half = (size_t)cases[k].rot / 2, S = T + 9, n_pos = T + 20;
            bool cache = mode & 4;
            float *x = floats(n, -2, 2), *table = floats(n_pos * half * 2 + 1, 0, 0);
            for (size_t i = 0; i < n_pos * half; i++) {
                double angle = uniform(0, 7);
                table[2 * i] = (float)cos(angle), table[2 * i + 1] = (float)sin(angle);
            }
            int32_t *position = block(B * T * 4), *slot = block(B * 4);
            for (size_t i = 0; i < B * T; i++) position[i] = (int32_t)uniform(0, (double)n_pos);
            for (size_t b = 0; b < B; b++) slot[b] = (int32_t)uniform(0, 9);
            Rope r = {B, T, cases[k].heads, cases[k].D, cases[k].first, cases[k].rot, mode & 1, mode & 2,
                      half ? table : NULL, half ? position : NULL, cache ? S * row : T * row, cache ? slot : NULL};
            size_t ny = B * r.y_row;
            float *y = floats(ny, -1, 1);
            double *want = widened(y, ny);                    /* slots that are not written keep what they hold */
            rope_ref(want, x, &r);
            op.rope(A(y), CA(x), &r);
            near(y, want, ny, 1e-6, 0, "case %zu mode %d", k, mode);
            if (!cache) {
                float *in_place = copied(x, n), *back = copied(y, n);
                op.rope(A(in_place), CA(in_place), &r);
                near(in_place, want, n, 1e-6, 0, "in place, case %zu mode %d", k, mode);
                Rope other = r;
                other.inverse = !r.inverse;
                op.rope(A(back), CA(back), &other);
                near(back, widened(x, n), n, 2e-6, 0, "there and back, case %zu mode %d", k, mode);
            }
            free_blocks();
        }
    done("rope");
}

/* ---- cross-entropy ---------------------------------------------------------------------------------------------- */
static double cross_entropy_ref(double *grad, const double *l, int32_t target, size_t V, double scale) {
    double max = -INFINITY, sum = 0;
    for (size_t v = 0; v < V; v++) max = fmax(max, l[v]);
    for (size_t v = 0; v < V; v++) sum += exp(l[v] - max);
    for (size_t v = 0; v < V; v++) grad[v] = target < 0 ? 0 : scale * (exp(l[v] - max) / sum - (v == (size_t)target));
    return target < 0 ? 0 : max + log(sum) - l[target];
}
static void test_cross_entropy(void) {
    static const size_t shapes[][2] = {{1, 1}, {3, 2}, {2, 7}, {5, 64}, {33, 65}, {4, 130}, {17, 4099}, {3, 50257}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int wide = 0; wide < 2; wide++) {
            size_t N = shapes[k][0], V = shapes[k][1];
            float *l = wide ? floats(N * V, -80, 80) : floats(N * V, -3, 3), *loss = block(N * 4);
            float *before = copied(l, N * V);
            int32_t *target = block(N * 4);
            double *ld = widened(l, N * V), *grad = doubles(N * V), *want = doubles(N);
            for (size_t i = 0; i < N; i++) {
                target[i] = i % 3 == 2 ? -1 - (int32_t)(i % 2) * 99 : (int32_t)uniform(0, (double)V);
                want[i] = cross_entropy_ref(grad + i * V, ld + i * V, target[i], V, 0.25);
            }
            op.cross_entropy(loss, A(l), target, N, V, 0);
            near(loss, want, N, 1e-6, 1e-6, "loss alone %zux%zu", N, V);
            if (memcmp(l, before, N * V * 4)) CHECK(false, "cross_entropy with scale 0 changed the logits");
            memset(loss, 0xA5, N * 4);
            op.cross_entropy(loss, A(l), target, N, V, 0.25f);
            near(loss, want, N, 1e-6, 1e-6, "loss %zux%zu", N, V);
            near(l, grad, N * V, 1e-7, 5e-6, "gradient %zux%zu", N, V);
            free_blocks();
        }
    done("cross_entropy");
    double l[9], g[9], unused[9], off = 0;
    for (int v = 0; v < 9; v++) l[v] = uniform(-2, 2);
    cross_entropy_ref(g, l, 4, 9, 1);
    for (int v = 0; v < 9; v++) {
        double keep = l[v];
        l[v] = keep + 1e-5;
        double up = cross_entropy_ref(unused, l, 4, 9, 1);
        l[v] = keep - 1e-5;
        off = fmax(off, fabs((up - cross_entropy_ref(unused, l, 4, 9, 1)) / 2e-5 - g[v]));
        l[v] = keep;
    }
    CHECK(off < 1e-9, "cross-entropy's reference gradient against finite differences: off by %.2g", off);
    enum { V = 100 };
    float *x = floats(4 * V, -1, 1), *loss = block(16);
    int32_t target[4] = {3, 3, 3, 3};
    x[7] = NAN;                                               /* row 0: NaN; row 1: masked tokens; row 2: huge */
    for (int v = 50; v < V; v++) x[V + v] = -INFINITY;
    for (int v = 0; v < V; v++) x[2 * V + v] = v == 3 ? 3e38f : -3e38f;
    op.cross_entropy(loss, A(x), target, 4, V, 1);
    CHECK(isnan(loss[0]) && isnan(x[0]), "%s cross_entropy: NaN is not hidden", op.name);
    CHECK(isfinite(loss[1]) && x[V + 60] == 0 && isfinite(x[V]), "%s cross_entropy: logits of -inf have probability 0",
          op.name);
    CHECK(loss[2] == 0 && x[2 * V + 3] == 0 && x[2 * V] == 0 && isfinite(loss[3]),
          "%s cross_entropy: logits of 3e38 do not overflow", op.name);
    free_blocks();
}

/* ---- optimiser -------------------------------------------------------------------------------------------------- */
static void test_adamw(void) {
    for (int k = 0; k < N_SIZES; k++)
        for (int kind = 0; kind < 4; kind++) {
            size_t n = sizes[k];
            float *p = floats(n, -1, 1), *g = block(n * 4), *m = floats(n, 0, 0), *v = floats(n, 0, 0);
            double *pd = widened(p, n), *md = doubles(n), *vd = doubles(n);
            void *data = block(n * 4);
            Mat copy = MAT(((const DType[]){DT_F32, DT_F32, DT_F16, DT_BF16})[kind], 1, n, kind ? data : NULL);
            bool zeroed = true;
            for (int t = 1; t <= 6; t++) {
                AdamW h = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, (float)(1 - pow(0.9f, t)), (float)(1 - pow(0.95f, t)),
                           t == 3 ? 0.5f : 1};
                for (size_t i = 0; i < n; i++) {
                    g[i] = (float)uniform(-1, 1);
                    double gd = (double)g[i] * (double)h.grad_scale;
                    md[i] = (double)h.beta1 * md[i] + (1 - (double)h.beta1) * gd;
                    vd[i] = (double)h.beta2 * vd[i] + (1 - (double)h.beta2) * gd * gd;
                    pd[i] *= 1 - (double)h.lr * (double)h.weight_decay;
                    double denominator = sqrt(vd[i]) / sqrt((double)h.bias2) + (double)h.eps;
                    pd[i] -= (double)h.lr / (double)h.bias1 * md[i] / denominator;
                }
                op.adamw(p, t == 1 && !kind ? NULL : &copy, g, m, v, n, &h);
                for (size_t i = 0; i < n; i++) zeroed &= g[i] == 0;
            }
            near(p, pd, n, 1e-6, 1e-6, "weights n=%zu", n);
            near(m, md, n, 1e-6, 1e-6, "first moment n=%zu", n);
            near(v, vd, n, 1e-6, 1e-6, "second moment n=%zu", n);
            if (!zeroed) CHECK(false, "adamw n=%zu leaves gradients", n);
            if (kind) {
                float *wide = block(n * 4);
                double *rounded = doubles(n);
                op.mat_to_f32(wide, &copy);
                for (size_t i = 0; i < n; i++)
                    rounded[i] = kind == 1 ? (double)p[i] : half_rounded((double)p[i], kind == 2 ? 5 : 8);
                near(wide, rounded, n, 1e-300, 0, "copy of type %d n=%zu", kind, n);
            }
            free_blocks();
        }
    done("adamw");
    for (int k = 0; k <= N_SIZES; k++) {
        size_t n = k < N_SIZES ? sizes[k] : 400007;
        float *x = floats(n, -3, 5), got = 0;
        double sum, want = 0;
        for (size_t i = 0; i < n; i++) want += (double)x[i] * (double)x[i];
        op.sum_squares(&sum, x, n);
        double share = (sum - want) / want * 1e6;             /* in millionths of a millionth's tolerance */
        got = (float)share, want = 0;
        near(&got, &want, 1, 1e-6, 0, "n=%zu", n);
        free_blocks();
    }
    done("sum_squares (1e-12 relative)");
}

/* ---- sampling --------------------------------------------------------------------------------------------------- */
static float *sample_scratch;
static int32_t draw(const float *logits, size_t V, const int32_t *history, size_t n_history, Sampler s, float u) {
    int32_t token = -7;
    op.sample(&token, sample_scratch, CA(logits), V, history, n_history, &s, u);
    return token;
}
/* Draws at many evenly spaced u and compares how often each token comes with its exact probability: u = (i + 1/2) / n
 * must give each token within one of n p times, for the draw walks the distribution. */
static void exact(const float *logits, size_t V, const int32_t *history, size_t n_history, Sampler s,
                  const double *want, const char *what) {
    enum { DRAWS = 20000 };
    double *count = doubles(V), total = 0, off = 0;
    for (size_t v = 0; v < V; v++) total += want[v];
    int outside = 0;
    for (int i = 0; i < DRAWS; i++) {
        int32_t t = draw(logits, V, history, n_history, s, ((float)i + 0.5f) / DRAWS);
        if (t < 0 || (size_t)t >= V) outside++;
        else count[t]++;
    }
    size_t at = 0;
    for (size_t v = 0; v < V; v++) {
        double o = fabs(count[v] - DRAWS * want[v] / total);
        if (want[v] == 0 && count[v] != 0) o = INFINITY;
        if (o > off) off = o, at = v;
    }
    CHECK(!outside && off <= 1.1, "%s sample, %s: token %zu drawn %.0f times of %d, expected %.1f", op.name, what, at,
          count[at], DRAWS, DRAWS * want[at] / total);
}
static void test_sample(void) {
    enum { V = 37 };
    float *l = floats(V, -3, 3);
    double p[V], kept_p[V];
    sample_scratch = block(V * 4);
    const Sampler off = {1, 1, 0, 1, 0};
    Sampler s;
#define PROBS(temperature) for (int v = 0; v < V; v++) p[v] = exp((double)l[v] / (temperature))
    PROBS(1);
    exact(l, V, NULL, 0, off, p, "no restriction");
    s = off, s.temperature = 0.5f;
    PROBS(0.5);
    exact(l, V, NULL, 0, s, p, "temperature 0.5");

    /* top-k, with three equal logits at the border: all of them stay */
    l[5] = l[9] = l[20] = 2.0f;
    for (int v = 0; v < V; v++) if (v != 5 && v != 9 && v != 20 && l[v] > 1.5f) l[v] = v == 3 || v == 30 ? 2.5f : 1.0f;
    l[3] = l[30] = 2.5f;
    PROBS(1);
    for (int k = 1; k <= 6; k++) {
        int n_kept_tokens = 0;
        for (int v = 0; v < V; v++) {
            int larger = 0;
            for (int w = 0; w < V; w++) larger += l[w] > l[v];
            kept_p[v] = larger < k ? p[v] : 0;
            n_kept_tokens += larger < k;
        }
        s = off, s.top_k = k;
        char what[64];
        snprintf(what, sizeof what, "top_k %d keeps %d", k, n_kept_tokens);
        exact(l, V, NULL, 0, s, kept_p, what);
    }
    s = off, s.top_k = V + 5;
    exact(l, V, NULL, 0, s, p, "top_k above V keeps all");

    /* top-p: the fewest largest whose sum reaches p; distinct values, so that the set is unique */
    for (int v = 0; v < V; v++) l[v] = (float)((v * 7) % V) * 0.15f;
    PROBS(1);
    for (int k = 0; k < 4; k++) {
        float top_p = ((const float[]){0.05f, 0.5f, 0.9f, 0.999f})[k];
        double total = 0;
        for (int v = 0; v < V; v++) total += p[v];
        for (int v = 0; v < V; v++) {
            double larger = 0;
            for (int w = 0; w < V; w++) larger += l[w] > l[v] ? p[w] : 0;
            kept_p[v] = larger / total < (double)top_p ? p[v] : 0;
        }
        s = off, s.top_p = top_p;
        char what[64];
        snprintf(what, sizeof what, "top_p %g", (double)top_p);
        exact(l, V, NULL, 0, s, kept_p, what);
    }
    s = off, s.top_p = 1e-6f;
    for (int v = 0; v < V; v++) kept_p[v] = (v * 7) % V == V - 1;
    exact(l, V, NULL, 0, s, kept_p, "a tiny top_p keeps the largest alone");
    s = off, s.min_p = 0.2f;
    double largest = 0;
    for (int v = 0; v < V; v++) largest = fmax(largest, p[v]);
    for (int v = 0; v < V; v++) kept_p[v] = p[v] >= 0.2 * largest ? p[v] : 0;
    exact(l, V, NULL, 0, s, kept_p, "min_p 0.2");
    s = off, s.top_k = 10, s.top_p = 0.6f;                    /* top_p of what top_k left */
    double total = 0;
    for (int v = 0; v < V; v++) {
        int larger = 0;
        for (int w = 0; w < V; w++) larger += l[w] > l[v];
        kept_p[v] = larger < 10 ? p[v] : 0, total += kept_p[v];
    }
    for (int v = 0; v < V; v++) {
        double larger = 0;
        for (int w = 0; w < V; w++) larger += l[w] > l[v] ? p[w] : 0;
        if (larger / total >= (double)0.6f) kept_p[v] = 0;
    }
    exact(l, V, NULL, 0, s, kept_p, "top_k 10, then top_p 0.6");

    /* the repetition penalty, once however often a token came */
    int32_t history[4] = {2, 7, 7, 30};
    for (int v = 0; v < V; v++) l[v] = (float)uniform(-2, 2);
    l[7] = 1.5f, l[30] = -0.5f;
    for (int v = 0; v < V; v++) {
        double x = (double)l[v];
        if (v == 2 || v == 7 || v == 30) x = x > 0 ? x / 1.3f : x * 1.3f;
        p[v] = exp(x);
    }
    s = off, s.repetition = 1.3f;
    exact(l, V, history, 4, s, p, "repetition 1.3");

    /* the largest logit */
    s = off, s.temperature = 0;
    l[11] = l[12] = 9, l[10] = nextafterf(9, 0);
    CHECK(draw(l, V, NULL, 0, s, 0.9f) == 11, "%s sample: temperature 0 takes the first of equals", op.name);
    int32_t eleven = 11;
    s.repetition = 2;
    CHECK(draw(l, V, &eleven, 1, s, 0.9f) == 12, "%s sample: the penalty counts at temperature 0 too", op.name);
    s = off, s.top_k = 1, s.temperature = 1;
    l[12] = nextafterf(9, 0);
    int wrong = 0;
    for (int i = 0; i < 100; i++) wrong += draw(l, V, NULL, 0, s, (float)i / 100) != 11;
    CHECK(!wrong, "%s sample: top_k 1 takes the largest, be it by one bit", op.name);

    /* what a broken model gives must neither hang nor be drawn */
    for (int v = 0; v < V; v++) p[v] = v == 4 ? 0 : exp((double)l[v]);
    l[4] = NAN;
    exact(l, V, NULL, 0, off, p, "NaN is never drawn");
    for (int v = 0; v < V; v++) l[v] = NAN;
    s = (Sampler){1.2f, 0.8f, 5, 0.9f, 0.1f};
    CHECK(draw(l, V, history, 4, s, 0.5f) == 0, "%s sample: nothing but NaN gives token 0", op.name);
    for (int v = 0; v < V; v++) l[v] = -INFINITY;
    CHECK(draw(l, V, history, 4, s, 0.5f) == 0, "%s sample: nothing but -inf gives token 0", op.name);
    l[8] = INFINITY;
    CHECK(draw(l, V, history, 4, s, 0.5f) == 8, "%s sample: +inf is drawn", op.name);
    for (int v = 0; v < V; v++) l[v] = v == 6 ? 0 : -INFINITY;
    CHECK(draw(l, V, NULL, 0, s, 0) == 6 && draw(l, V, NULL, 0, s, nextafterf(1, 0)) == 6, "%s sample: one token left",
          op.name);
    float one = -3;
    CHECK(draw(&one, 1, NULL, 0, s, 0.7f) == 0, "%s sample: a vocabulary of one", op.name);
    s = off, s.temperature = 1e-30f;
    for (int v = 0; v < V; v++) l[v] = (float)v;
    CHECK(draw(l, V, NULL, 0, s, 0.99f) == V - 1, "%s sample: temperature 1e-30 is the largest logit", op.name);

    /* a real vocabulary: random u, chi-square over 64 groups of tokens; 63 degrees of freedom: 120 has odds of 1 in
     * 10^5 */
    enum { BIG = 50257, TOKENS = 3000 };
    float *big = floats(BIG, -6, 6);
    sample_scratch = block(BIG * 4);
    double *group = doubles(64), *got = doubles(64), sum = 0, chi = 0;
    for (size_t v = 0; v < BIG; v++) group[v % 64] += exp((double)big[v]), sum += exp((double)big[v]);
    for (int i = 0; i < TOKENS; i++)
        got[draw(big, BIG, NULL, 0, off, (float)(rng_mix(77, (uint64_t)i) >> 40) * 0x1p-24f) % 64]++;
    for (int g = 0; g < 64; g++) {
        double e = TOKENS * group[g] / sum;
        chi += (got[g] - e) * (got[g] - e) / e;
    }
    CHECK(chi < 120 && chi > 25, "%s sample: V = 50257, chi-square %.1f of 63 degrees", op.name, chi);
    free_blocks();
}

/* ---- the same bits on 1, 2 and 3 threads ------------------------------------------------------------------------ */
static void test_threads(void) {
#ifdef _OPENMP
    enum { N = 333, C = 300, V = 1003 };
    const size_t n = N * C;
    float *x = floats(n, -2, 2), *dy = floats(n, -1, 1), *w = floats(C, -1, 2), *b = floats(C, -1, 1);
    float *logits = floats(N * V, -5, 5), *big = floats(200001, -1, 1), *table = floats(N * C, 0, 1);
    int32_t *ids = block(N * 4), *order = block(N * 4), *target = block(N * 4);
    for (int i = 0; i < N; i++) ids[i] = (i * 7) % 13, order[i] = i, target[i] = i % V;
    sort_key = ids;
    qsort(order, N, 4, by_id);
    float *first = NULL;
    size_t total = n * 12 + C * 6 + N * 6 + N * V + 200001 * 4 + 2;
    int threads_before = omp_get_max_threads();
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        float *out = xcalloc(total, 4), *o = out;
#define TAKE(len) ((o += (len)) - (len))
        float *mean = TAKE(N), *rstd = TAKE(N), *rstd2 = TAKE(N), *loss = TAKE(N);
        op.layernorm(A(TAKE(n)), mean, rstd, CA(x), w, b, N, C, 1e-5f);
        op.rmsnorm(A(TAKE(n)), rstd2, CA(x), w, N, C, 1e-5f);
        float *dw = TAKE(C), *db = TAKE(C), *dw2 = TAKE(C);
        op.layernorm_bwd(A(TAKE(n)), dw, db, CA(dy), CA(x), w, mean, rstd, N, C, false);
        op.rmsnorm_bwd(A(TAKE(n)), dw2, CA(dy), CA(x), w, rstd2, N, C, false);
        op.activation(A(TAKE(n)), CA(x), n, GELU_ERF);
        op.activation_bwd(A(TAKE(n)), CA(dy), CA(x), n, GELU_TANH);
        op.swiglu(A(TAKE(n)), CA(x), CA(dy), n);
        op.add(A(TAKE(n)), CA(x), 0.3f, CA(dy), n);
        op.dropout(A(TAKE(n)), CA(x), n, 0.3f, 5);
        op.embed_bwd(TAKE(n), ids, order, CA(dy), N, C);
        Mat m = MAT(DT_F32, N, C, table);
        op.embed(A(TAKE(n)), ids, &m, N, false);
        float *l = TAKE(N * V);
        memcpy(l, logits, N * V * 4);
        op.cross_entropy(loss, A(l), target, N, V, 0.1f);
        float *p = TAKE(200001), *g = TAKE(200001), *m1 = TAKE(200001), *m2 = TAKE(200001);
        memcpy(p, big, 200001 * 4), memcpy(g, big, 200001 * 4);
        AdamW h = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 1};
        op.adamw(p, NULL, g, m1, m2, 200001, &h);
        double sum;
        op.sum_squares(&sum, big, 200001);
        memcpy(TAKE(2), &sum, 8);
        if (!first) { first = out; continue; }
        size_t differ = 0, at = 0;
        for (size_t i = total; i-- > 0;) if (memcmp(first + i, out + i, 4)) differ++, at = i;
        CHECK(!differ, "%s: %d threads give the bits of one thread (%zu of %zu differ, first at %zu)", op.name,
              threads, differ, total, at);
        free(out);
    }
    omp_set_num_threads(threads_before);
    free(first);
    free_blocks();
#endif
}

int main(int argc, char **argv) {                             /* test_ops [FLAVOUR]: only this one */
    static const char *isas[] = {"plain", "avx2", "avx512", "avx512bf16", "neon"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (argc > 1 && strcmp(isas[i], argv[1])) continue;
        if (!isa_runs(isas[i])) {
            printf("      %s: not in this build or not on this CPU\n", isas[i]);
            continue;
        }
        ops_select("cpu", isas[i], PREC_F32);
        test_memory();
        test_formats();
        test_activations();
        test_dropout();
        test_norms();
        test_embed();
        test_rope();
        test_cross_entropy();
        test_adamw();
        test_sample();
        test_threads();
    }
    return test_end();
}
