/* kernels/matmul.cuh - [op.matmul] linear layers and [op.peak] the machine's limits.
 *
 * WORK IN PROGRESS: the plain loops only; the packed CPU path and the CUDA half follow. */
#ifndef __CUDACC__

static Precision input_precision;                             /* how matmul and attention round what they multiply */
static void set_precision(Precision p) { input_precision = p; }

/* Element i of a stored matrix, widened; rounded to bf16 when the inputs are. memcpy: data may be 2-byte aligned. */
static float mat_at(const Mat *w, size_t i) {
    uint16_t h;
    float f;
    if (w->dtype == DT_F32) memcpy(&f, (const char *)w->data + 4 * i, 4);
    else memcpy(&h, (const char *)w->data + 2 * i, 2), f = w->dtype == DT_BF16 ? bf16_float(h) : f16_float(h);
    return input_precision == PREC_BF16 ? bf16_float(float_bf16(f)) : f;
}
static float in_at(const float *x, size_t i) { return input_precision == PREC_BF16 ? bf16_float(float_bf16(x[i])) : x[i]; }

#if VL > 1
#include "gemm_cpu.cuh"
static Unit unit_now(void) { return input_precision == PREC_F32 ? UNIT_F32 : UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED; }

static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    size_t C = lin[0].w.cols;
    Product p[LINEAR_MAX];
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        p[i] = (Product){N, w->rows, {lin[i].y, w->rows, lin[i].bias, residual, false}, 1,
                         {{{x, DT_F32, N, C, true}, {w->data, w->dtype, w->rows, C, true}, C}}};
    }
    gemm_run(p, n, unit_now());
}

static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    size_t C = lin[0].w.cols;
    Product p = {N, C, {dx, C, NULL, NULL, accumulate}, n, {{{0}, {0}, 0}}};
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        p.term[i] = (Term){{lin[i].dy, DT_F32, N, w->rows, true}, {w->data, w->dtype, C, C, false}, w->rows};
    }
    gemm_run(&p, 1, unit_now());
}

static void matmul_dw(const Linear *lin, int n, const act *x, size_t N) {
    size_t C = lin[0].w.cols;
    Product p[LINEAR_MAX];
    int n_p = 0;
    for (int i = 0; i < n; i++) {
        size_t O = lin[i].w.rows;
        if (lin[i].dw) p[n_p++] = (Product){O, C, {lin[i].dw, C, NULL, NULL, true}, 1,
                                {{{lin[i].dy, DT_F32, O, O, false}, {x, DT_F32, C, C, false}, N}}};
    }
    for (int i = 0; i < n; i++) if (lin[i].dbias)
        for (size_t o = 0; o < lin[i].w.rows; o++) {
            float sum = 0;
            for (size_t t = 0; t < N; t++) sum += lin[i].dy[t * lin[i].w.rows + o];
            lin[i].dbias[o] += sum;
        }
    if (n_p) gemm_run(p, n_p, unit_now());
}
#else
static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    for (int l = 0; l < n; l++) {
        const Mat *w = &lin[l].w;
        size_t O = w->rows, C = w->cols;
#pragma omp parallel for collapse(2)
        for (size_t t = 0; t < N; t++)
            for (size_t o = 0; o < O; o++) {
                float sum = 0;
                for (size_t c = 0; c < C; c++) sum += in_at(x, t * C + c) * mat_at(w, o * C + c);
                if (lin[l].bias) sum += lin[l].bias[o];
                if (residual) sum += residual[t * O + o];
                lin[l].y[t * O + o] = sum;
            }
    }
}

static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    size_t C = lin[0].w.cols;
#pragma omp parallel for
    for (size_t t = 0; t < N; t++) {
        float *dx_t = dx + t * C;
        if (!accumulate) memset(dx_t, 0, C * sizeof *dx_t);
        for (int l = 0; l < n; l++)
            for (size_t o = 0; o < lin[l].w.rows; o++) {
                float g = in_at(lin[l].dy, t * lin[l].w.rows + o);
                for (size_t c = 0; c < C; c++) dx_t[c] += g * mat_at(&lin[l].w, o * C + c);
            }
    }
}

static void matmul_dw(const Linear *lin, int n, const act *x, size_t N) {
    for (int l = 0; l < n; l++) {
        size_t O = lin[l].w.rows, C = lin[l].w.cols;
        const float *dy = lin[l].dy;
#pragma omp parallel for
        for (size_t o = 0; o < O; o++) {
            if (lin[l].dbias) {
                float sum = 0;
                for (size_t t = 0; t < N; t++) sum += dy[t * O + o];
                lin[l].dbias[o] += sum;
            }
            if (!lin[l].dw) continue;
            for (size_t t = 0; t < N; t++) {
                float g = in_at(dy, t * O + o);
                for (size_t c = 0; c < C; c++) lin[l].dw[o * C + c] += g * in_at(x, t * C + c);
            }
        }
    }
}

#endif
static double peak_flops(Precision p) { (void)p; return 1e11; }
static double peak_read(void) { return 2e10; }

#endif
