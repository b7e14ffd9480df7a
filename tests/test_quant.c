/* tests/test_quant.c - [quant] products with int8 and int4 weights, every flavour this CPU runs, against sums in
 * double.
 *
 * The reference reads the stored layout by itself. With int8 inputs the inputs are made so that it is certain which
 * integer each rounds to; sums are then exact and only their scaling may round. With float inputs an element may be off
 * by TOLERANCE times its products' magnitudes, and for few rows by what 16 bits below the largest input of a row leave
 * out. Buffers have the exact size and odd addresses, as in an mmap. */
#include "common.h"
#include "kernels.h"
#include "test.h"

#define TOLERANCE 1e-6
#ifndef _OPENMP
static void omp_set_num_threads(int n) { (void)n; }
#endif
enum { FEW_ROWS = 8 };

static Rng rng = {1, 0};
static float uniform(void) { return (float)(2 * rng_uniform(&rng) - 1); }
static size_t pick(size_t n) { return (size_t)rng_below(&rng, n); }
static float *random_floats(size_t n) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}
static float rounded(float x, int bits) {      /* to so many significant bits, ties to even */
    int e;
    double m = frexp((double)x, &e);
    return (float)ldexp(nearbyint(ldexp(m, bits)), e - bits);
}
static uint16_t f16_bits(float x) {            /* of a value that f16 holds exactly, and no subnormal */
    int e;
    double m = frexp(fabs((double)x), &e);
    return (uint16_t)((signbit(x) ? 0x8000 : 0) | (((e + 14) << 10) + (int)ldexp(m, 11) - 1024));
}
static uint16_t bf16_bits(float x) {           /* of a value that bf16 holds exactly */
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)(u >> 16);
}
static Precision precision;
static float input(float x) { return precision == PREC_BF16 ? rounded(x, 8) : x; }

/* ---- one matrix -------------------------------------------------------------------------------------------------- */
typedef struct Quant {
    Mat m;
    void *block, *scale_block;
    int8_t *zero;
    int32_t *order;
    float *w, *scale;          /* w (O,C): dequantised, inputs in order; scale (O, groups) */
    int *q;                    /* (O,C): q - zero, as stored */
} Quant;

static Quant quant_new(size_t O, size_t C, int bits, size_t G, bool zeros, bool order, InputQuant in) {
    Quant v = {.m = {.dtype = bits == 4 ? DT_I4 : DT_I8, .rows = O, .cols = C, .group = G, .input = in}};
    Mat *m = &v.m;
    size_t groups = G && G < C ? (C + G - 1) / G : 1, row_bytes = bits == 4 ? (C + 7) / 8 * 4 : C,
        shift = bits == 4 ? 4 : 1;
    m->scale_dtype = (DType[]){DT_F32, DT_F16, DT_BF16}[pick(3)];
    size_t size = m->scale_dtype == DT_F32 ? 4 : 2;
    v.block = xmalloc(shift + O * row_bytes), v.scale_block = xmalloc(2 + O * groups * size);
    v.w = xmalloc(O * C * sizeof *v.w), v.q = xmalloc(O * C * sizeof *v.q),
        v.scale = xmalloc(O * groups * sizeof(float));
    m->data = (char *)v.block + shift;
    m->scale = (char *)v.scale_block + 2;
    if (zeros) m->zero = v.zero = xmalloc(O * groups);
    if (order) {
        m->order = v.order = xmalloc(C * sizeof *v.order);
        for (size_t c = 0; c < C; c++) v.order[c] = (int32_t)c;
        for (size_t c = C; c-- > 1;) {
            size_t j = pick(c + 1);
            int32_t t = v.order[c];
            v.order[c] = v.order[j], v.order[j] = t;
        }
    }
    memset(m->data, 0, O * row_bytes);
    for (size_t i = 0; i < O * groups; i++) {
        float s = 0.01f + 0.02f * fabsf(uniform());
        if (m->scale_dtype != DT_F32) s = rounded(s, m->scale_dtype == DT_F16 ? 11 : 8);
        uint16_t h = m->scale_dtype == DT_F16 ? f16_bits(s) : bf16_bits(s);
        memcpy((char *)v.scale_block + 2 + i * size, size == 4 ? (void *)&s : (void *)&h, size);
        v.scale[i] = s;
        if (zeros) v.zero[i] = (int8_t)((int)pick(bits == 4 ? 16 : 256) - (bits == 4 ? 8 : 128));
    }
    for (size_t o = 0; o < O; o++)
        for (size_t c = 0; c < C; c++) {
            int half = bits == 4 ? 8 : 128, q = (int)pick((size_t)(2 * half)) - half;
            size_t i = o * groups + (groups > 1 ? c / G : 0);
            uint8_t *row = (uint8_t *)m->data + o * row_bytes;
            if (bits == 8) row[c] = (uint8_t)q;
            else row[c / 2] |= (uint8_t)((q + 8) << (c % 2 * 4));
            v.q[o * C + c] = q - (zeros ? v.zero[i] : 0);
            v.w[o * C + (order ? (size_t)v.order[c] : c)] = (float)v.q[o * C + c] * v.scale[i];
        }
    return v;
}
static void quant_free(Quant *v) {
    free(v->block), free(v->scale_block), free(v->zero), free(v->order), free(v->w), free(v->scale), free(v->q);
}
static Quant quant_random(size_t O, size_t C, InputQuant in) {
    static const size_t groups[] = {0, 32, 64, 128, 8, 40, 96, 256, 1000};
    return quant_new(O, C, pick(2) ? 4 : 8, groups[pick(sizeof groups / sizeof *groups)], pick(2), !pick(3), in);
}

/* With zero points q x and zero x are summed apart and rounded apart: the magnitude of w's two parts. */
static double two_parts(const Quant *v, size_t o, size_t c) {
    size_t groups = v->m.group && v->m.group < v->m.cols ? (v->m.cols + v->m.group - 1) / v->m.group : 1;
    size_t i = o * groups + (groups > 1 ? c / v->m.group : 0);
    return (abs(v->q[o * v->m.cols + c] + v->zero[i]) + abs(v->zero[i])) * (double)v->scale[i];
}

typedef struct Worst { double ratio; char where[200]; size_t n; } Worst;
static void compare(Worst *w, double got, double want, double allowed, const char *what, const Quant *v, size_t N,
                    size_t row, size_t column) {
    double ratio = fabs(got - want) / (allowed + 1e-9);
    if (!isfinite(got)) ratio = INFINITY;
    if (w->n++ && ratio <= w->ratio) return;
    w->ratio = ratio;
    snprintf(w->where, sizeof w->where, "%s[%zu,%zu] of N %zu C %zu O %zu, int%d, group %zu%s%s: got %.9g want %.9g",
        what,
             row, column, N, v->m.cols, v->m.rows, v->m.dtype == DT_I4 ? 4 : 8, v->m.group, v->zero ? ", zeros" : "",
             v->order ? ", order" : "", got, want);
}

/* ---- the checks -------------------------------------------------------------------------------------------------- */
static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 100, 127,
                               128, 129, 130, 160, 191, 192, 200, 255, 256, 257, 299, 300};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void try_float(Worst *y_worst, Worst *dx_worst, size_t N, size_t C, size_t O) {
    Quant v = quant_random(O, C, INPUT_FLOAT);
    float *x = random_floats(N * C), *y = random_floats(N * O), *bias = random_floats(O), *dy = random_floats(N * O);
    float *residual = pick(2) ? random_floats(N * O) : NULL, *dx = random_floats(N * C), *before = xmalloc(N * C * 4);
    bool few = N <= FEW_ROWS && strcmp(op.name, "plain"), accumulate = pick(2);
    memcpy(before, dx, N * C * 4);
    Linear lin = {.w = v.m, .bias = pick(2) ? bias : NULL, .y = (act *)y, .dy = (act *)dy};
    op.matmul(&lin, 1, (act *)x, (act *)residual, N);
    op.matmul_dx((act *)dx, &lin, 1, N, accumulate);
    for (size_t t = 0; t < N; t++) {
        double largest = 0;
        for (size_t c = 0; c < C; c++) largest = fmax(largest, fabs((double)x[t * C + c]));
        for (size_t o = 0; o < O; o++) {
            double sum = (lin.bias ? (double)bias[o] : 0) + (residual ? (double)residual[t * O + o] : 0);
            double size = (lin.bias ? fabs((double)bias[o]) : 0) + (residual ? fabs((double)residual[t * O + o]) : 0),
                left_out = 0;
            for (size_t c = 0; c < C; c++) {
                float w = v.w[o * C + c], a = x[t * C + c];
                if (!few) w = input(w), a = input(a);         /* few rows count in full in both precisions */
                sum += (double)w * (double)a, size += fabs((double)w * (double)a);
                if (few) left_out += fabs((double)w) * largest / 65000;
                if (few && v.zero) size += two_parts(&v, o, c) * largest;
            }
            compare(y_worst, (double)y[t * O + o], sum, TOLERANCE * 2 * size + left_out, "y", &v, N, t, o);
        }
        for (size_t c = 0; c < C; c++) {
            double sum = accumulate ? (double)before[t * C + c] : 0, size = fabs(sum);
            for (size_t o = 0; o < O; o++) {
                double p = (double)input(v.w[o * C + c]) * (double)input(dy[t * O + o]);
                sum += p, size += fabs(p);
            }
            compare(dx_worst, (double)dx[t * C + c], sum, TOLERANCE * size, "dx", &v, N, t, c);
        }
    }
    free(x), free(y), free(bias), free(dy), free(residual), free(dx), free(before), quant_free(&v);
}

/* x and the integers k that it must become: no input lies near the middle between two. */
static void try_int8(Worst *worst, size_t N, size_t C, size_t O, InputQuant in) {
    Quant v = quant_random(O, C, in);
    float *x = xmalloc(N * C * 4), *y = random_floats(N * O), *bias = random_floats(O), *scale = xmalloc(N * 4);
    int *k = xmalloc(N * C * sizeof *k);
    size_t groups = v.m.group && v.m.group < C ? (C + v.m.group - 1) / v.m.group : 1;
    v.m.input_scale = 0.0371f;
    for (size_t t = 0; t < N; t++) {
        scale[t] = in == INPUT_STATIC ? v.m.input_scale : 0.01f + fabsf(uniform());
        size_t at = pick(C);
        for (size_t c = 0; c < C; c++) {
            k[t * C + c] = (int)pick(in == INPUT_STATIC ? 256 : 255) - (in == INPUT_STATIC ? 128 : 127);
            x[t * C + c] = scale[t] * ((float)k[t * C + c] + 0.3f * uniform());
            if (in == INPUT_STATIC && !pick(9)) x[t * C + c] = (k[t * C + c] = pick(2) ? 127 : -128) * 2 * scale[t];
            if (in == INPUT_DYNAMIC && c == at) k[t * C + c] = 127, x[t * C + c] = scale[t] * 127.5f;
        }
    }
    Linear lin = {.w = v.m, .bias = pick(2) ? bias : NULL, .y = (act *)y};
    op.matmul(&lin, 1, (act *)x, NULL, N);
    for (size_t t = 0; t < N; t++)
        for (size_t o = 0; o < O; o++) {
            double want = 0, size = 0, two = 0;
            for (size_t g = 0; g < groups; g++) {
                long sum = 0, part = 0;
                for (size_t c = g * v.m.group; c < (groups > 1 && (g + 1) * v.m.group < C ? (g + 1) * v.m.group : C);
                c++) {
                    long p = (long)v.q[o * C + c] * k[t * C + (v.order ? (size_t)v.order[c] : c)];
                    sum += p, part += labs(p);
                    if (v.zero) two += two_parts(&v, o, c) * abs(k[t * C + (v.order ? (size_t)v.order[c] : c)]);
                }
                want += (double)sum * (double)v.scale[o * groups + g] * (double)scale[t];
                size += (double)part * (double)v.scale[o * groups + g] * (double)scale[t];
            }
            if (lin.bias) want += (double)bias[o], size += fabs((double)bias[o]);
            compare(worst, (double)y[t * O + o], want, TOLERANCE * (size + two * (double)scale[t]),
                in == INPUT_STATIC ? "static" : "dynamic", &v, N, t, o);
        }
    free(x), free(y), free(bias), free(scale), free(k), quant_free(&v);
}

static void check_values(const char *flavour) {
    static const size_t large[][3] = {{1, 2048, 300}, {3, 3200, 70}, {20, 3300, 50}, {70, 300, 260}, {530, 130, 70},
                                      {12, 6400, 20}, {33, 1700, 400}};
    Worst y = {0}, dx = {0}, dynamic = {0}, fixed = {0};
    size_t n_large = sizeof large / sizeof *large;
    for (size_t i = 0; i < 150 + n_large; i++) {
        size_t N = 1 + pick(20), C = sizes[pick(N_SIZES)], O = sizes[pick(N_SIZES)];
        if (i >= 150) N = large[i - 150][0], C = large[i - 150][1], O = large[i - 150][2];
        omp_set_num_threads(1 + (int)pick(3));
        try_float(&y, &dx, N, C, O);
        if (precision == PREC_F32) try_int8(&dynamic, N, C, O, INPUT_DYNAMIC), try_int8(&fixed, N, C, O, INPUT_STATIC);
    }
    const char *names[] = {"float inputs", "dx", "int8 inputs, a scale a token", "int8 inputs, one scale"};
    const Worst *worst[] = {&y, &dx, &dynamic, &fixed};
    for (int i = 0; i < (precision == PREC_F32 ? 4 : 2); i++)
        CHECK(worst[i]->ratio <= 1 && worst[i]->n > 1000, "%s: %s, %zu values, worst %.2g of the tolerance: %s",
            flavour,
              names[i], worst[i]->n, worst[i]->ratio, worst[i]->where);
}

/* The same bits from any number of threads, and from a list as from its layers one by one. */
static float *run_all(Linear *lin, int n, size_t N, const float *x, bool as_list, size_t *n_out) {
    *n_out = N * lin[0].w.cols;
    for (int i = 0; i < n; i++) *n_out += N * lin[i].w.rows;
    float *out = xcalloc(*n_out, sizeof *out), *at = out + N * lin[0].w.cols;
    for (int i = 0; i < n; i++, at += N * lin[i - 1].w.rows) lin[i].y = (act *)at;
    for (int i = 0; i < (as_list ? 1 : n); i++) op.matmul(lin + i, as_list ? n : 1, (act *)x, NULL, N);
    for (int i = 0; i < (as_list ? 1 : n); i++) op.matmul_dx((act *)out, lin + i, as_list ? n : 1, N, i > 0);
    return out;
}
static void check_bits(const char *flavour) {
    size_t differ = 0, few_differ = 0, n;
    double apart_most = 0;
    for (int s = 0; s < 16; s++) {
        size_t C = 200 + pick(900), N = s % 4 < 2 ? 1 + pick(8) : 9 + pick(60);
        Quant v[3];
        Linear lin[LINEAR_MAX];
        float *x = random_floats(N * C), *plain = random_floats(40 * C);
        for (int i = 0; i < 3; i++) {
            v[i] = quant_random(30 + pick(300), C, (InputQuant)(s % 3));
            v[i].m.input_scale = 0.01f;
            lin[i] = (Linear){.w = v[i].m, .dy = (act *)(x)};
        }
        lin[3] = lin[2];                                      /* one that is not quantised, in the middle */
        lin[2] = (Linear){.w = MAT(DT_F32, 40, C, plain)};
        float *dy = random_floats(N * 400);
        for (int i = 0; i < 4; i++) lin[i].dy = (act *)dy;
        omp_set_num_threads(1);
        float *one = run_all(lin, 4, N, x, true, &n), *apart = run_all(lin, 4, N, x, false, &n);
        for (size_t i = 0; i < n; i++) apart_most = fmax(apart_most, fabs((double)one[i] - (double)apart[i]));
        for (size_t i = 0; i < n; i++) if (!isfinite(one[i])) apart_most = INFINITY;
        for (int threads = 2; threads <= 3; threads++) {
            omp_set_num_threads(threads);
            float *many = run_all(lin, 4, N, x, true, &n);
            differ += memcmp(one, many, n * sizeof *one) != 0;
            free(many);
        }
        if (N <= FEW_ROWS) {                                  /* a guess that is checked, a prompt among others */
            float *y = random_floats(v[0].m.rows);
            const float *want = one + N * C;
            for (size_t t = 0; t < N; t++) {
                Linear lone = {.w = v[0].m, .y = (act *)y};
                op.matmul(&lone, 1, (act *)(x + t * C), NULL, 1);
                few_differ += memcmp(y, want + t * v[0].m.rows, v[0].m.rows * sizeof *y) != 0;
            }
            free(y);
        }
        free(one), free(apart), free(x), free(plain), free(dy);
        for (int i = 0; i < 3; i++) quant_free(&v[i]);
    }
    omp_set_num_threads(2);
    CHECK(!differ, "%s: 1 to 3 threads give the same bits (%zu of 32 runs differ)", flavour, differ);
    CHECK(!few_differ, "%s: a row alone and among up to seven others, the same bits (%zu differ)", flavour,
        few_differ);
    CHECK(apart_most < 1e-3, "%s: a list, one of it not quantised, gives what its layers give (%.2g)", flavour,
        apart_most);
}

/* A file's weights lie where they lie: whole cache lines are put together then, to the same bits. */
static void check_places(const char *flavour) {
    enum { O = 37, C = 384 };
    int differ = 0, n = 0;
    for (int k = 0; k < 12; k++) {
        Quant v = quant_new(O, C, k % 2 ? 4 : 8, (size_t[]){0, 32, 128}[k / 2 % 3], k % 4 > 1, false,
                            k < 6 ? INPUT_FLOAT : INPUT_DYNAMIC);
        const size_t bytes = O * (k % 2 ? C / 2 : C);
        float *x = random_floats(C), y[O], want[O];
        char *block = aligned_alloc(64, (bytes + 128 + 63) / 64 * 64), *from = v.m.data;
        for (size_t shift = 0; shift < 64; shift += 4, n++) {
            Linear lin = {.w = v.m, .y = (act *)y};
            lin.w.data = memcpy(block + shift, from, bytes);
            op.matmul(&lin, 1, (act *)x, NULL, 1);
            if (!shift) memcpy(want, y, sizeof y);
            differ += memcmp(want, y, sizeof y) != 0;
        }
        free(x), free(block), quant_free(&v);
    }
    CHECK(!differ, "%s: weights anywhere in a cache line give the same bits (%d of %d differ)", flavour, differ, n);
}

/* NaN and infinity reach their token's outputs, all of them, and no other's. */
static void check_nan(const char *flavour) {
    size_t wrong = 0, n = 0;
    for (int s = 0; s < 60; s++) {
        size_t N = 1 + pick(14), C = 1 + pick(200), O = 1 + pick(60), t0 = pick(N), c0 = pick(C);
        Quant v = quant_random(O, C, (InputQuant)(s % 3));
        v.m.input_scale = 0.01f;
        for (size_t i = 0; i < O * C; i++) if (v.q[i] == 0) v.q[i] = 1;
        float *x = random_floats(N * C), *y = random_floats(N * O);
        x[t0 * C + c0] = s % 2 ? NAN : INFINITY;
        Linear lin = {.w = v.m, .y = (act *)y};
        op.matmul(&lin, 1, (act *)x, NULL, N);
        for (size_t t = 0; t < N; t++)
            for (size_t o = 0; o < O; o++) n++, wrong += (t == t0) != !isfinite(y[t * O + o])
                && !(t == t0 && v.w[o * C + c0] == 0);
        free(x), free(y), quant_free(&v);
    }
    CHECK(!wrong, "%s: NaN and infinity reach their own token and no other (%zu of %zu wrong)", flavour, wrong, n);
}

/* Zeros and the smallest inputs: a scale of 0 divides nothing. */
static void check_zero(const char *flavour) {
    size_t wrong = 0;
    for (int s = 0; s < 12; s++) {
        size_t N = s < 6 ? 2 : 12, C = 70, O = 20;
        Quant v = quant_random(O, C, (InputQuant)(s % 3));
        v.m.input_scale = 0.5f;
        float *x = xcalloc(N * C, 4), *y = random_floats(N * O);
        for (size_t c = 0; c < C; c++) x[C + c] = 1e-40f * uniform();
        Linear lin = {.w = v.m, .y = (act *)y};
        op.matmul(&lin, 1, (act *)x, NULL, N);
        for (size_t i = 0; i < N * O; i++) wrong += !(fabsf(y[i]) < 1e-30f);
        free(x), free(y), quant_free(&v);
    }
    CHECK(!wrong, "%s: inputs of zero give zeros (%zu wrong)", flavour, wrong);
}

static void check_reading(const char *flavour) {
    size_t wrong = 0, n = 0;
    for (int s = 0; s < 40; s++) {
        size_t C = sizes[pick(N_SIZES)], O = 1 + pick(300), N = 1 + pick(9);
        Quant v = quant_random(O, C, INPUT_FLOAT);
        float *wide = random_floats(O * C), *y = random_floats(N * C);
        op.mat_to_f32(wide, &v.m);
        for (size_t i = 0; i < O * C; i++) n++, wrong += wide[i] != v.w[i];
        if (!v.order) {
            int32_t ids[10];
            float *before = xmalloc(N * C * 4);
            bool add = pick(2);
            memcpy(before, y, N * C * 4);
            for (size_t i = 0; i < N; i++) ids[i] = (int32_t)pick(O);
            op.embed((act *)y, ids, &v.m, N, add);
            for (size_t i = 0; i < N * C; i++)
                n++, wrong += y[i] != v.w[(size_t)ids[i / C] * C + i % C] + (add ? before[i] : 0);
            free(before);
        }
        free(wide), free(y), quant_free(&v);
    }
    CHECK(!wrong, "%s: widening a matrix and looking rows up are exact (%zu of %zu wrong)", flavour, wrong, n);
}

int main(void) {
    static const char *isas[] = {"plain", "avx2", "avx512", "avx512bf16", "neon"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (int p = 0; p < 2; p++) {
            if (!isa_runs(isas[i])) continue;
            precision = p ? PREC_BF16 : PREC_F32;
            ops_select("cpu", isas[i], precision);
            char flavour[60];
            snprintf(flavour, sizeof flavour, "%s %s", op.name, p ? "bf16" : "f32");
            check_values(flavour);
            if (p) continue;
            check_bits(flavour);
            check_places(flavour);
            check_nan(flavour);
            check_zero(flavour);
            check_reading(flavour);
        }
    return test_end();
}
