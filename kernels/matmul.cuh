/* kernels/matmul.cuh - [op.matmul] linear layers and [op.peak] the machine's limits.
 *
 *     forward  y  (N,O) = x (N,C) @ w (O,C)^T + bias (O)        every token's C inputs with every output's C weights
 *     dx          (N,C) = dy (N,O) @ w (O,C)                    every input gathers from the outputs it went into
 *     dw          (O,C) = dy (N,O)^T @ x (N,C)                  every weight: its output's gradient times its input,
 *     dbias       (O)   = sum over N of dy                      over all tokens
 *
 * Three loops over the same three indices (N, O, C); each op sums over a different one. A training step spends 80 to 90%
 * of its time here: 2*N*O*C floating-point operations each, 6 per weight and token in all.
 *
 * The plain loops below are the lesson and the plain flavour; gemm_cpu.cuh makes the same products 50 to 200 times
 * faster with blocking, packing and vectors; the CUDA half calls cuBLASLt. */
#ifndef __CUDACC__
static Precision input_precision;                             /* what set_precision said; attention reads it too */
static void set_precision(Precision p) { input_precision = p; }

#if VL == 1
/* ---- plain loops ----------------------------------------------------------------------------------------------- */
static float input_rounded(float x) { return input_precision == PREC_BF16 ? bf16_float(float_bf16(x)) : x; }

/* n elements of a stored matrix from element i on, widened. memcpy: data may be 2-byte aligned only. */
static void mat_row(float *row, const Mat *w, size_t i, size_t n) {
    for (size_t c = 0; c < n; c++) {
        if (w->dtype == DT_F32) memcpy(&row[c], (const char *)w->data + 4 * (i + c), 4);
        else {
            uint16_t h;
            memcpy(&h, (const char *)w->data + 2 * (i + c), 2);
            row[c] = w->dtype == DT_BF16 ? bf16_float(h) : f16_float(h);
        }
        row[c] = input_rounded(row[c]);
    }
}
/* x (n) as matmul multiplies it. */
static const float *inputs_rounded(const float *x, size_t n) {
    if (input_precision == PREC_F32) return x;
    float *r = scratch(SCRATCH_B, n * sizeof *r);
#pragma omp parallel for
    for (size_t i = 0; i < n; i++) r[i] = input_rounded(x[i]);
    return r;
}

static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    const size_t C = lin[0].w.cols;
    const float *x_r = inputs_rounded(x, N * C);
    float *rows = scratch(SCRATCH_A, (size_t)omp_get_max_threads() * C * sizeof *rows);
    for (int i = 0; i < n; i++) {
        const size_t O = lin[i].w.rows;
#pragma omp parallel for
        for (size_t o = 0; o < O; o++) {
            float *w_o = rows + (size_t)omp_get_thread_num() * C;
            mat_row(w_o, &lin[i].w, o * C, C);
            for (size_t t = 0; t < N; t++) {
                const float *x_t = x_r + t * C;
                float y = 0;
#pragma omp simd reduction(+ : y)
                for (size_t c = 0; c < C; c++) y += x_t[c] * w_o[c];
                if (lin[i].bias) y += lin[i].bias[o];
                if (residual) y += residual[t * O + o];
                lin[i].y[t * O + o] = y;
            }
        }
    }
}

static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    const size_t C = lin[0].w.cols;
    if (!accumulate) memset(dx, 0, N * C * sizeof *dx);
    for (int i = 0; i < n; i++) {
        const size_t O = lin[i].w.rows;
        float *w = scratch(SCRATCH_A, O * C * sizeof *w);     /* widened once: every token reads all of it */
#pragma omp parallel for
        for (size_t o = 0; o < O; o++) mat_row(w + o * C, &lin[i].w, o * C, C);
#pragma omp parallel for
        for (size_t t = 0; t < N; t++)
            for (size_t o = 0; o < O; o++) {
                float dy_to = input_rounded(lin[i].dy[t * O + o]), *dx_t = dx + t * C;
                const float *w_o = w + o * C;
                for (size_t c = 0; c < C; c++) dx_t[c] += dy_to * w_o[c];
            }
    }
}

static void weight_grad(float *dw, const float *dy, const float *x, size_t N, size_t O, size_t C) {
    const float *x_r = inputs_rounded(x, N * C);
#pragma omp parallel for
    for (size_t o = 0; o < O; o++)
        for (size_t t = 0; t < N; t++) {
            float dy_to = input_rounded(dy[t * O + o]), *dw_o = dw + o * C;
            const float *x_t = x_r + t * C;
            for (size_t c = 0; c < C; c++) dw_o[c] += dy_to * x_t[c];
        }
}
#else
/* ---- the fast path --------------------------------------------------------------------------------------------- */
#include "gemm_cpu.cuh"
static Unit input_unit(void) {
    return input_precision == PREC_F32 ? UNIT_F32 : UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED;
}

static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    if (N <= FEW_ROWS) {
        few_run(lin, n, x, residual, N, input_unit());
        return;
    }
    const size_t C = lin[0].w.cols;
    Product p[LINEAR_MAX];
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        p[i] = (Product){N, w->rows, {lin[i].y, w->rows, lin[i].bias, residual, false}, 1,
                         {{{x, DT_F32, N, C, true}, {w->data, w->dtype, w->rows, C, true}, C}}};
    }
    gemm_run(p, n, input_unit());
}

static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    const size_t C = lin[0].w.cols;
    Product p = {N, C, {dx, C, NULL, NULL, accumulate}, n, {{{0}, {0}, 0}}};
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        p.term[i] = (Term){{lin[i].dy, DT_F32, N, w->rows, true}, {w->data, w->dtype, C, C, false}, w->rows};
    }
    gemm_run(&p, 1, input_unit());
}

static void weight_grad(float *dw, const float *dy, const float *x, size_t N, size_t O, size_t C) {
    Product p = {O, C, {dw, C, NULL, NULL, true}, 1, {{{dy, DT_F32, O, O, false}, {x, DT_F32, C, C, false}, N}}};
    gemm_run(&p, 1, input_unit());
}
#endif

/* dbias (O) += sum over N of dy. Whole rows in order, as memory likes it; blocks of BIAS_ROWS rows make their own sums,
 * which are then added block by block: the same bits for any number of threads, and a smaller error than one long sum. */
#define BIAS_ROWS 64
static void bias_grad(float *dbias, const float *dy, size_t N, size_t O) {
    size_t n_blocks = CEIL_DIV(N, BIAS_ROWS);
    float *sums = scratch(SCRATCH_B, n_blocks * O * sizeof *sums);
#pragma omp parallel if (N * O > 65536)
    {
#pragma omp for
        for (size_t b = 0; b < n_blocks; b++) {
            float *sum_b = sums + b * O;
            memset(sum_b, 0, O * sizeof *sum_b);
            for (size_t t = b * BIAS_ROWS; t < MIN((b + 1) * BIAS_ROWS, N); t++)
                for (size_t o = 0; o < O; o++) sum_b[o] += dy[t * O + o];
        }
#pragma omp for
        for (size_t o = 0; o < O; o++) {
            float sum = 0;
            for (size_t b = 0; b < n_blocks; b++) sum += sums[b * O + o];
            dbias[o] += sum;
        }
    }
}

static void matmul_dw(const Linear *lin, int n, const act *x, size_t N) {
    for (int i = 0; i < n; i++) {
        const size_t O = lin[i].w.rows, C = lin[i].w.cols;
        if (lin[i].dbias) bias_grad(lin[i].dbias, lin[i].dy, N, O);
        if (lin[i].dw) weight_grad(lin[i].dw, lin[i].dy, x, N, O, C);
    }
}

/* ---- limits [op.peak] ------------------------------------------------------------------------------------------ *
 * What no program on this machine can pass. Multiply-adds on registers alone, enough of them independent that each
 * clock can start as many as the core has units. The result of one feeds the next as acc*m + c: in acc + m*c the product
 * would not change, a compiler would take it out of the loop, and half the work would be measured as all of it. */
typedef float peak_vec __attribute__((vector_size(4 * MAX(VL, 4))));
#define PEAK_ROWS (VL >= 16 || VL == 4 ? 8 : 4)
static double peak_loop(size_t n, bool pair) {
    peak_vec acc[PEAK_ROWS][3], m = (peak_vec){0} + 0.999f, c = (peak_vec){0} + 0.001f;
    for (int i = 0; i < PEAK_ROWS; i++)
        for (int j = 0; j < 3; j++) acc[i][j] = c * (float)(3 * i + j);
#if VL == 16 && UNIT_PAIRS
    if (pair) {
        __m512bh x = (__m512bh)m, y = (__m512bh)c;
        for (size_t k = 0; k < n; k++)
            for (int i = 0; i < PEAK_ROWS; i++)
                for (int j = 0; j < 3; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, y);
    } else
#endif
    for (size_t k = 0; k < n; k++)
        for (int i = 0; i < PEAK_ROWS; i++)
            for (int j = 0; j < 3; j++) acc[i][j] = acc[i][j] * m + c;
    (void)pair;
    double sum = 0;                                           /* returned, so that the loop has to happen */
    for (int i = 0; i < PEAK_ROWS; i++)
        for (int j = 0; j < 3; j++) sum += (double)acc[i][j][0];
    return sum;
}
static double peak_flops(Precision p) {
    bool pair = false;
#if VL > 1
    pair = UNIT_PAIRS && p == PREC_BF16;
#endif
    (void)p;
    double best = 0, flops_per_step = 2.0 * PEAK_ROWS * 3 * MAX(VL, 4) * (pair ? 2 : 1);
    size_t n = 20000;
    for (double start = now_s(); now_s() < start + 0.05;) {
        double t = now_s(), threads = 0;
#pragma omp parallel reduction(+ : threads)
        {
            threads += isfinite(peak_loop(n, pair)) ? 1 : 0;
        }
        t = now_s() - t;
        best = MAX(best, threads * flops_per_step * (double)n / t);
        if (t < 0.002) n *= 2;
    }
    return best;
}

/* Bytes per second of all threads reading a buffer that no cache holds. It is written first: memory that never was is one
 * page of zeros, and would be read from L1. */
static double peak_read(void) {
    const size_t n = (size_t)256 << 18, step = 64;            /* floats: 256 MB */
    float *buffer = xmalloc(n * sizeof *buffer);
    double best = 0;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) buffer[i] = 1.0f;
    for (int run = 0; run < 4; run++) {
        double t = now_s();
        float sum = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (size_t i = 0; i < n; i += step) {
            peak_vec acc[4] = {{0}};
            for (size_t j = 0; j < step; j += sizeof acc / 4)
                for (size_t v = 0; v < 4; v++) {
                    peak_vec x;
                    memcpy(&x, buffer + i + j + v * (sizeof x / 4), sizeof x);
                    acc[v] += x;
                }
            peak_vec all = (acc[0] + acc[1]) + (acc[2] + acc[3]);
            sum += all[0];
        }
        if (sum > 0) best = MAX(best, (double)(n * sizeof *buffer) / (now_s() - t));
    }
    free(buffer);
    return best;
}
#endif
