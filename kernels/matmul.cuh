/* kernels/matmul.cuh - [op.matmul] linear layers and [op.peak] the machine's limits.
 *
 *     forward  y  (N,O) = x (N,C) @ w (O,C)^T + bias (O)        every token's C inputs with every output's C weights
 *     dx          (N,C) = dy (N,O) @ w (O,C)                    every input gathers from the outputs it went into
 *     dw          (O,C) = dy (N,O)^T @ x (N,C)                  every weight: its output's gradient times its input,
 *     dbias       (O)   = sum over N of dy                      over all tokens
 *
 * Three loops over the same three indices (N, O, C); each op sums over a different one. A training step spends 80 to
 * 90% of its time here: 2*N*O*C floating-point operations each, 6 per weight and token in all.
 *
 * The plain loops below are the lesson and the plain flavour; gemm_cpu.cuh makes the same products 50 to 200 times
 * faster with blocking, packing and vectors; the CUDA half calls cuBLASLt. */
#ifndef __CUDACC__
static Precision input_precision;                             /* what set_precision said; attention reads it too */
static void set_precision(Precision p) { input_precision = p; }

#if VL == 1
#include "quant.cuh"
/* ---- plain loops ----------------------------------------------------------------------------------------------- */
static float input_rounded(float x) { return input_precision == PREC_BF16 ? bf16_float(float_bf16(x)) : x; }

/* n elements of a stored matrix from element i on, widened. memcpy: data may be 2-byte aligned only. */
static void mat_row(float *row, const Mat *w, size_t i, size_t n) {
    if (mat_quantised(w)) mat_read(row, w, i, n);
    for (size_t c = 0; c < n; c++) {
        if (mat_quantised(w)) {}
        else if (w->dtype == DT_F32) memcpy(&row[c], (const char *)w->data + 4 * (i + c), 4);
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
    if (any_quantised(lin, n) && n > 1) {
        for (int i = 0; i < n; i++) matmul(&lin[i], 1, x, residual, N);
        return;
    }
    if (mat_quantised(&lin->w) && lin->w.input != INPUT_FLOAT) {
        matmul_i8(lin, x, residual, N);
        return;
    }
    if (mat_quantised(&lin->w)) x_r = inputs_ordered(&lin->w, x_r, N, SCRATCH_QUANT);
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
    if (any_reordered(lin, n)) {
        dx_reordered(dx, lin, n, N, accumulate);
        return;
    }
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

static void weight_grads(const Linear *lin, int n, const act *x, size_t N) {
    const size_t C = lin[0].w.cols;
    const float *x_r = inputs_rounded(x, N * C);
    for (int i = 0; i < n; i++) {
        const size_t O = lin[i].w.rows;
        if (!lin[i].dw) continue;
#pragma omp parallel for
        for (size_t o = 0; o < O; o++)
            for (size_t t = 0; t < N; t++) {
                float dy_to = input_rounded(lin[i].dy[t * O + o]), *dw_o = lin[i].dw + o * C;
                const float *x_t = x_r + t * C;
                for (size_t c = 0; c < C; c++) dw_o[c] += dy_to * x_t[c];
            }
    }
}
#else
/* ---- the fast path --------------------------------------------------------------------------------------------- */
#include "gemm_cpu.cuh"
static Unit input_unit(void) {
    return input_precision == PREC_F32 ? UNIT_F32 : UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED;
}

static void gemm_matmul(const Linear *lin, int n, const float *x, const float *residual, size_t N) {
    if (N <= FEW_ROWS) {
        few_run(lin, n, x, residual, N, input_unit());
        return;
    }
    const size_t C = lin[0].w.cols;
    Product p[LINEAR_MAX];
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        const Mat *quantised = mat_quantised(w) ? w : NULL;
        p[i] = (Product){N, w->rows, {lin[i].y, w->rows, lin[i].bias, residual, false}, 1,
                         {{{x, DT_F32, N, C, true, NULL}, {w->data, w->dtype, w->rows, C, true, quantised}, C}}};
    }
    gemm_run(p, n, input_unit());
}
#include "quant.cuh"
static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    (any_quantised(lin, n) ? quant_matmul : gemm_matmul)(lin, n, x, residual, N);
}

static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    const size_t C = lin[0].w.cols;
    if (any_reordered(lin, n)) {
        dx_reordered(dx, lin, n, N, accumulate);
        return;
    }
    Product p = {N, C, {dx, C, NULL, NULL, accumulate}, n, {{{0}, {0}, 0}}};
    for (int i = 0; i < n; i++) {
        const Mat *w = &lin[i].w;
        p.term[i] = (Term){{lin[i].dy, DT_F32, N, w->rows, true, NULL},
                           {w->data, w->dtype, C, C, false, mat_quantised(w) ? w : NULL}, w->rows};
    }
    gemm_run(&p, 1, input_unit());
}

static void weight_grads(const Linear *lin, int n, const act *x, size_t N) {
    const size_t C = lin[0].w.cols;
    Product p[LINEAR_MAX];
    int n_products = 0;
    for (int i = 0; i < n; i++) {
        const size_t O = lin[i].w.rows;
        if (lin[i].dw)
            p[n_products++] = (Product){O, C, {lin[i].dw, C, NULL, NULL, true}, 1,
                                        {{{lin[i].dy, DT_F32, O, O, false, NULL}, {x, DT_F32, C, C, false, NULL}, N}}};
    }
    if (n_products) gemm_run(p, n_products, input_unit());
}
#endif

/* dbias (O) += sum over N of dy. Whole rows in order, as memory likes it; blocks of BIAS_ROWS rows make their own sums,
 * which are then added block by block: the same bits for any number of threads, and a smaller error than one long
 * sum. */
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
    for (int i = 0; i < n; i++) assert(!lin[i].dw || !mat_quantised(&lin[i].w));      /* integers have no gradient */
    weight_grads(lin, n, x, N);
    for (int i = 0; i < n; i++)
        if (lin[i].dbias) bias_grad(lin[i].dbias, lin[i].dy, N, lin[i].w.rows);
}

/* ---- limits [op.peak] ------------------------------------------------------------------------------------------ *
 * What no program on this machine can pass. Multiply-adds on registers alone, enough of them independent that each
 * clock can start as many as the core has units. The result of one feeds the next as acc*m + c: in acc + m*c the
 * product would not change, a compiler would take it out of the loop, and half the work would be measured as all of
 * it. */
typedef float peak_vec __attribute__((vector_size(4 * MAX(VL, 4))));
#define PEAK_ROWS (VL >= 16 || VL == 4 ? 8 : 4)
static void peak_loop(size_t n, bool pair) {
    volatile float in_order = 0.001f;                         /* read first, written last: between two clocks */
    peak_vec acc[PEAK_ROWS][3], m = (peak_vec){0} + 0.999f, c = (peak_vec){0} + in_order;
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
    float sum = 0;
    for (int i = 0; i < PEAK_ROWS; i++)
        for (int j = 0; j < 3; j++) sum += acc[i][j][0];
    in_order = sum;
}
/* The same for sums of four products of bytes. */
static void peak_loop_i8(size_t n) {
#if VL > 1
    volatile int in_order = 3;
    vi acc[PEAK_ROWS][3], x = (vi){0} + in_order;
    for (int i = 0; i < PEAK_ROWS; i++)
        for (int j = 0; j < 3; j++) acc[i][j] = x * (3 * i + j);
    for (size_t k = 0; k < n; k++)
        for (int i = 0; i < PEAK_ROWS; i++)
            for (int j = 0; j < 3; j++)                       /* what is one instruction must not be taken apart */
                acc[i][j] = I8_SHIFT ? dot_u(acc[i][j], (vb)x, (vb)x) : dot_u(x, (vb)acc[i][j], (vb)x);
    int sum = 0;
    for (int i = 0; i < PEAK_ROWS; i++)
        for (int j = 0; j < 3; j++) sum += acc[i][j][0];
    in_order = sum;
#else
    peak_loop(n, false);
#endif
}
/* Every thread runs short loops side by side with the others and keeps its own best time: what remains of a loop that
 * lost its core to another process for a while is left out. */
static double peak_flops(Precision p) {
    bool pair = false;
#if VL > 1
    pair = UNIT_PAIRS && p == PREC_BF16;
#endif
    const size_t n = 20000;
    double all = 0, flops = 2.0 * PEAK_ROWS * 3 * MAX(VL, 4) * (pair ? 2 : p == PREC_I8 && VL > 1 ? 4 : 1) * (double)n;
#pragma omp parallel reduction(+ : all)
    {
        double best = 0;
        for (double start = now_s(), t = start; t < start + 0.05;) {
            double t0 = t;
            if (p == PREC_I8) peak_loop_i8(n);
            else peak_loop(n, pair);
            t = now_s();
            best = MAX(best, flops / (t - t0));
        }
        all += best;
    }
    return all;
}

/* Bytes per second of all threads reading a buffer that no cache holds; four streams a thread, which some CPUs need
 * (see gemm.few), and one, which others like better. From mem_alloc: huge pages, where there are any, read
 * 10% faster. The buffer is written first: memory that never was is one page of zeros, and would be read from L1. */
static double peak_read(void) {
    enum { STEP = 64, PARTS = 64 };                           /* floats of a step; parts of the buffer, dealt out */
    const size_t n = (size_t)256 << 18, part = n / PARTS;     /* 256 MB */
    float *buffer = mem_alloc(n * sizeof *buffer);
    double best = 0;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) buffer[i] = 1.0f;
    for (int run = 0; run < 8; run++) {
        double t = now_s();
        const size_t streams = run % 2 ? 1 : 4, stream_n = part / streams;
        float sum = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (size_t p = 0; p < PARTS; p++) {
            peak_vec acc[4] = {{0}};
            for (size_t i = 0; i < stream_n; i += STEP / streams)
                for (size_t s = 0; s < streams; s++)
                    for (size_t j = 0; j < STEP / streams; j += sizeof(peak_vec) / 4) {
                        peak_vec x;
                        memcpy(&x, buffer + p * part + s * stream_n + i + j, sizeof x);
                        acc[(s + j / (sizeof x / 4)) % 4] += x;
                    }
            peak_vec all = (acc[0] + acc[1]) + (acc[2] + acc[3]);
            sum += all[0];
        }
        if (sum > 0) best = MAX(best, (double)(n * sizeof *buffer) / (now_s() - t));
    }
    mem_free(buffer);
    return best;
}

#else /* __CUDACC__ */
/* ---- the CUDA half --------------------------------------------------------------------------------------------- *
 * cuBLASLt does the large products. It thinks in columns: a row-major (rows, cols) matrix is its (cols, rows) matrix,
 * so every product below is asked for transposed, y^T = w x^T, and nothing is moved. */
#include <cublasLt.h>
static void set_precision(Precision p) { (void)p; }           /* the flavour is the precision */

#define LT_OK(call)                                                                                                    \
    do {                                                                                                               \
        cublasStatus_t status_ = (call);                                                                               \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                                          \
            die("cuBLASLt: %s at %s:%d (%s)", cublasLtGetStatusString(status_), __FILE__, __LINE__, #call);              \
    } while (0)
#define LT_WORKSPACE ((size_t)32 << 20)                       /* what NVIDIA recommends for Hopper */
#ifdef ACT_BF16
#  define ACT_CUDA CUDA_R_16BF
#  define ACT_DTYPE DT_BF16
#else
#  define ACT_CUDA CUDA_R_32F                                 /* with CUBLAS_COMPUTE_32F: true float, never TF32 */
#  define ACT_DTYPE DT_F32
#endif

/* d (m,n) = a op(m,k) @ b op(k,n) + beta c + bias, column-major, c and d of one type and leading dimension m. Finding
 * an algorithm costs 50 to 100 us, so each shape's is kept. All fields are in the key: it is compared byte by byte. */
typedef struct LtShape {
    uint64_t m, n, k;
    uint32_t transpose_a, transpose_b, f32_out, bias, align;  /* align: the four pointers', as powers of two */
    float beta;
} LtShape;
typedef struct LtPlan {
    bool made;
    LtShape shape;
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algo;
} LtPlan;

static uint32_t lt_align(const void *p) {                     /* log2 of its alignment, 8 (256 bytes) at most */
    uint32_t n = 0;
    for (uintptr_t u = (uintptr_t)p; n < 8 && !(u & 1); u >>= 1) n++;
    return n;
}
static cublasLtHandle_t lt_handle(void) {
    static cublasLtHandle_t handle;
    if (!handle) LT_OK(cublasLtCreate(&handle));
    return handle;
}
static LtPlan *lt_plan(const LtShape *s, const void *bias) {
    enum { PLANS = 1024 };                                    /* a new shape replaces the one in its place */
    static LtPlan plans[PLANS];
    uint64_t hash = 14695981039346656037ull;                  /* FNV-1a */
    for (size_t i = 0; i < sizeof *s; i++) hash = (hash ^ ((const unsigned char *)s)[i]) * 1099511628211ull;
    LtPlan *p = &plans[(hash >> 32) % PLANS];
    if (p->made && !memcmp(&p->shape, s, sizeof *s)) return p;

    p->made = true, p->shape = *s;
    cudaDataType_t out = s->f32_out ? CUDA_R_32F : ACT_CUDA;
    cublasOperation_t op_a = s->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = s->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT_OK(cublasLtMatmulDescInit(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT_OK(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    LT_OK(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    if (s->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        LT_OK(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        LT_OK(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    uint64_t a_rows = s->transpose_a ? s->k : s->m, a_cols = s->transpose_a ? s->m : s->k;      /* as stored */
    uint64_t b_rows = s->transpose_b ? s->n : s->k, b_cols = s->transpose_b ? s->k : s->n;
    LT_OK(cublasLtMatrixLayoutInit(&p->a, ACT_CUDA, a_rows, a_cols, (int64_t)a_rows));
    LT_OK(cublasLtMatrixLayoutInit(&p->b, ACT_CUDA, b_rows, b_cols, (int64_t)b_rows));
    LT_OK(cublasLtMatrixLayoutInit(&p->c, out, s->m, s->n, (int64_t)s->m));

    cublasLtMatmulPreference_t preference;
    LT_OK(cublasLtMatmulPreferenceCreate(&preference));
    size_t workspace = LT_WORKSPACE;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;   /* partial sums stay float and have one order */
    LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                               sizeof workspace));
    LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                               sizeof reduction));
    const cublasLtMatmulPreferenceAttributes_t pointers[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++) {
        uint32_t bytes = 1u << (s->align >> (8 * i) & 255);
        LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, pointers[i], &bytes, sizeof bytes));
    }
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(lt_handle(), &p->desc, &p->a, &p->b, &p->c, &p->c,
                                                           preference, 1, &found, &n_found);
    if (status != CUBLAS_STATUS_SUCCESS || !n_found)
        die("cuBLASLt has no algorithm for m %llu, n %llu, k %llu: %s", (unsigned long long)s->m,
            (unsigned long long)s->n, (unsigned long long)s->k, cublasLtGetStatusString(status));
    p->algo = found.algo;
    LT_OK(cublasLtMatmulPreferenceDestroy(preference));
    return p;
}
/* bias (m) in d's type, or NULL. c may be d; without beta it is not read. */
static void lt_matmul(void *d, bool f32_out, const act *a, bool transpose_a, const act *b, bool transpose_b, size_t m,
                      size_t n, size_t k, const void *c, float beta, const void *bias) {
    if (!c) c = d;
    LtShape s;
    memset(&s, 0, sizeof s);
    s.m = m, s.n = n, s.k = k;
    s.transpose_a = transpose_a, s.transpose_b = transpose_b, s.f32_out = f32_out, s.bias = bias != NULL, s.beta = beta;
    s.align = lt_align(a) | lt_align(b) << 8 | lt_align(c) << 16 | lt_align(d) << 24;
    LtPlan *p = lt_plan(&s, bias);
    if (bias) LT_OK(cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    float alpha = 1;
    LT_OK(cublasLtMatmul(lt_handle(), &p->desc, &alpha, a, &p->a, b, &p->b, &beta, c, &p->c, d, &p->c, &p->algo,
                         scratch(SCRATCH_C, LT_WORKSPACE), LT_WORKSPACE, stream));
}

/* A matrix of another type than the activations' is converted first, into scratch. */
template <typename W> __global__ static void weight_to_act(act *y, const W *w, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        y[i] = from_f<act>(to_f(w[i]));
}
static const act *weight_act(const Mat *w) {
    if (w->dtype == ACT_DTYPE) return (const act *)w->data;
    size_t n = w->rows * w->cols;
    act *y = (act *)scratch(SCRATCH_A, n * sizeof(act));
    unsigned blocks = (unsigned)MIN(CEIL_DIV(n, 256), (size_t)8192);
    if (w->dtype == DT_F32) weight_to_act<<<blocks, 256, 0, stream>>>(y, (const float *)w->data, n);
    else if (w->dtype == DT_F16) weight_to_act<<<blocks, 256, 0, stream>>>(y, (const __half *)w->data, n);
    else weight_to_act<<<blocks, 256, 0, stream>>>(y, (const __nv_bfloat16 *)w->data, n);
    LAUNCHED();
    return y;
}
/* cuBLASLt wants the bias in the output's type: bf16 rounds it, as PyTorch's autocast does. */
static const void *bias_act(const float *bias, size_t O) {
    if (!bias || sizeof(act) == sizeof(float)) return bias;
    act *b = (act *)scratch(SCRATCH_B, O * sizeof(act));
    weight_to_act<<<(unsigned)CEIL_DIV(O, (size_t)256), 256, 0, stream>>>(b, bias, O);
    LAUNCHED();
    return b;
}

/* ---- few rows: decoding ---------------------------------------------------------------------------------------- *
 * Reading the weights is all the time there is. A warp owns ROWS rows of w (or SPLIT warps do, where there are too few
 * rows to fill the GPU), reads them 16 bytes a lane and multiplies them with every x on the way; rows share the loads
 * of x. */
#define FEW_ROWS 8
#define FEW_WARPS 4
typedef struct FewLayer { const void *w; const float *bias; act *y; size_t rows, first; } FewLayer;
typedef struct FewLayers { FewLayer layer[LINEAR_MAX]; int n; size_t rows, C, N; const act *x, *residual; } FewLayers;

template <typename W> struct alignas(16) WeightPack { W v[16 / sizeof(W)]; };
template <typename W, int NX, int ROWS, int SPLIT> __global__ static void few_rows(FewLayers f) {
    constexpr int PACK = 16 / sizeof(W);
    __shared__ float part[FEW_WARPS][NX * ROWS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % SPLIT;
    const size_t row0 = (blockIdx.x * (size_t)(FEW_WARPS / SPLIT) + warp / SPLIT) * ROWS;   /* of all layers' rows */
    float acc[NX][ROWS] = {};
    const W *w[ROWS];
    FewLayer of[ROWS];
    for (int r = 0; r < ROWS; r++) {
        size_t row = MIN(row0 + r, f.rows - 1);               /* past the end: read the last row again, write nothing */
        int i = 0;
        while (i + 1 < f.n && row >= f.layer[i + 1].first) i++;
        of[r] = f.layer[i];
        w[r] = (const W *)of[r].w + (row - of[r].first) * f.C;
    }
#pragma unroll 2
    for (size_t k = (size_t)(share * 32 + lane) * PACK; k < f.C; k += SPLIT * 32 * PACK) {
        WeightPack<W> wp[ROWS];
        for (int r = 0; r < ROWS; r++) wp[r] = *(const WeightPack<W> *)(w[r] + k);
#pragma unroll
        for (int n = 0; n < NX; n++) {
            if (n >= (int)f.N) break;
            alignas(16) act x[PACK];                          /* PACK activations, in loads of 16 bytes at most */
            constexpr int BYTES = PACK * (int)sizeof(act), STEP = BYTES < 16 ? BYTES : 16;
            for (int b = 0; b < BYTES; b += STEP) {
                const char *from = (const char *)(f.x + n * f.C + k) + b;
                if (STEP == 16) *(uint4 *)((char *)x + b) = *(const uint4 *)from;
                else *(uint2 *)((char *)x + b) = *(const uint2 *)from;
            }
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < PACK; j++)                /* w rounded to act first, as in weight_act */
                    acc[n][r] += to_f(from_f<act>(to_f(wp[r].v[j]))) * to_f(x[j]);
        }
    }
    for (int n = 0; n < NX; n++)
        for (int r = 0; r < ROWS; r++) {
            acc[n][r] = warp_sum(acc[n][r]);
            if (SPLIT > 1 && !lane) part[warp][n * ROWS + r] = acc[n][r];
        }
    if (SPLIT > 1) {
        __syncthreads();
        if (share) return;
        for (int n = 0; n < NX; n++)
            for (int r = 0; r < ROWS; r++)
                for (int s = 1; s < SPLIT; s++) acc[n][r] += part[warp + s][n * ROWS + r];
    }
    if (lane) return;
    for (int r = 0; r < ROWS && row0 + r < f.rows; r++)
        for (int n = 0; n < NX && n < (int)f.N; n++) {
            size_t o = row0 + r - of[r].first, at = n * of[r].rows + o;
            float y = acc[n][r];
            if (of[r].bias) y += of[r].bias[o];
            if (f.residual) y += to_f(f.residual[at]);
            of[r].y[at] = from_f<act>(y);
        }
}
template <typename W, int NX, int ROWS> static void few_launch(const FewLayers *f) {
    size_t groups = CEIL_DIV(f->rows, (size_t)ROWS);
    unsigned blocks = (unsigned)CEIL_DIV(groups, (size_t)FEW_WARPS), threads = 32 * FEW_WARPS;
    if (groups >= 2048) few_rows<W, NX, ROWS, 1><<<blocks, threads, 0, stream>>>(*f);
    else few_rows<W, NX, ROWS, FEW_WARPS><<<(unsigned)groups, threads, 0, stream>>>(*f);
    LAUNCHED();
}
template <typename W> static void few_typed(const FewLayers *f) {
    if (f->N == 1) few_launch<W, 1, 2>(f);
    else if (f->N <= 4) few_launch<W, 4, 2>(f);
    else few_launch<W, 8, 2>(f);
}
/* False where it cannot: rows that are no multiple of 16 bytes, layers of several types. */
static bool few_run(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    FewLayers f;
    f.n = n, f.rows = 0, f.C = lin[0].w.cols, f.N = N, f.x = x, f.residual = residual;
    size_t pack = lin[0].w.dtype == DT_F32 ? 4 : 8;
    if (f.C % 8 || (uintptr_t)x % 16) return false;
    for (int i = 0; i < n; i++) {
        if (lin[i].w.dtype != lin[0].w.dtype || (uintptr_t)lin[i].w.data % 16 || f.C % pack) return false;
        f.layer[i].w = lin[i].w.data, f.layer[i].bias = lin[i].bias, f.layer[i].y = lin[i].y;
        f.layer[i].rows = lin[i].w.rows, f.layer[i].first = f.rows;
        f.rows += lin[i].w.rows;
    }
    if (lin[0].w.dtype == DT_F32) few_typed<float>(&f);
    else if (lin[0].w.dtype == DT_F16) few_typed<__half>(&f);
    else few_typed<__nv_bfloat16>(&f);
    return true;
}

#include "quant.cuh"
static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    bool quantised = false;
    for (int i = 0; i < n; i++) quantised |= mat_quantised(&lin[i].w);
    if (quantised) {
        for (int i = 0; i < n; i++) {
            if (mat_quantised(&lin[i].w)) quant_matmul(&lin[i], x, residual, N);
            else matmul(&lin[i], 1, x, residual, N);
        }
        return;
    }
    if (N <= FEW_ROWS && few_run(lin, n, x, residual, N)) return;
    for (int i = 0; i < n; i++) {
        size_t O = lin[i].w.rows, C = lin[i].w.cols;          /* y^T (O,N) = w (O,C) @ x^T (C,N) */
        lt_matmul(lin[i].y, sizeof(act) == 4, weight_act(&lin[i].w), true, x, false, O, N, C, residual,
                  residual ? 1.0f : 0.0f, bias_act(lin[i].bias, O));
    }
}
static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    for (int i = 0; i < n; i++) {
        size_t O = lin[i].w.rows, C = lin[i].w.cols;          /* dx^T (C,N) = w^T (C,O) @ dy^T (O,N) */
        const Mat *w = &lin[i].w;
        const bool quantised = mat_quantised(w), add = accumulate || i, place = quantised && w->order;
        act *to = place ? (act *)scratch(SCRATCH_QUANT, N * C * sizeof(act)) : dx;
        lt_matmul(to, sizeof(act) == 4, quantised ? quant_act(w) : weight_act(w), false, lin[i].dy, false, C, N, O, NULL,
                  add && !place ? 1.0f : 0.0f, NULL);
        if (!place) continue;
        dx_place<<<(unsigned)MIN(CEIL_DIV(N * C, 256), (size_t)8192), 256, 0,
            stream>>>(dx, to, w->order, N * C, C, add);
        LAUNCHED();
    }
}

/* dbias in two steps of fixed shape: sums of BIAS_ROWS rows, then the sums of those. */
#define BIAS_ROWS 128
__global__ static void bias_partial(float *sums, const act *dy, size_t N, size_t O) {
    size_t o = blockIdx.x * (size_t)blockDim.x + threadIdx.x, t0 = blockIdx.y * (size_t)BIAS_ROWS;
    if (o >= O) return;
    float sum = 0;
    for (size_t t = t0; t < MIN(t0 + BIAS_ROWS, N); t++) sum += to_f(dy[t * O + o]);
    sums[blockIdx.y * O + o] = sum;
}
__global__ static void bias_total(float *dbias, const float *sums, size_t n_blocks, size_t O) {
    __shared__ float part[8][33];
    size_t o = blockIdx.x * (size_t)32 + threadIdx.x;
    float sum = 0;
    if (o < O) for (size_t b = threadIdx.y; b < n_blocks; b += 8) sum += sums[b * O + o];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || o >= O) return;
    for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x];
    dbias[o] += sum;
}
static void matmul_dw(const Linear *lin, int n, const act *x, size_t N) {
    for (int i = 0; i < n; i++) {
        size_t O = lin[i].w.rows, C = lin[i].w.cols, n_blocks = CEIL_DIV(N, (size_t)BIAS_ROWS);
        if (lin[i].dbias) {
            float *sums = (float *)scratch(SCRATCH_B, n_blocks * O * sizeof(float));
            dim3 blocks((unsigned)CEIL_DIV(O, (size_t)256), (unsigned)n_blocks);
            bias_partial<<<blocks, 256, 0, stream>>>(sums, lin[i].dy, N, O);
            LAUNCHED();
            bias_total<<<(unsigned)CEIL_DIV(O, (size_t)32), dim3(32, 8), 0, stream>>>(lin[i].dbias, sums, n_blocks, O);
            LAUNCHED();
        }
        assert(!lin[i].dw || !mat_quantised(&lin[i].w));
        if (lin[i].dw)                                        /* dw^T (C,O) += x^T (C,N) @ dy (N,O) */
            lt_matmul(lin[i].dw, true, x, false, lin[i].dy, true, C, O, N, NULL, 1.0f, NULL);
    }
}

/* ---- limits [op.peak] ------------------------------------------------------------------------------------------ *
 * On random numbers: on zeros the chip draws less power, clocks higher and shows a rate that no real product
 * reaches. */
__global__ static void peak_fill(act *x, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = from_f<act>((float)(int32_t)((uint32_t)i * 2654435761u ^ (uint32_t)(i >> 7) * 40503u) * 0x1p-31f);
}
static double peak_flops(Precision p) {
    (void)p;
    const size_t side = sizeof(act) == 2 ? 8192 : 4096;
    act *a = (act *)mem_alloc(3 * side * side * sizeof(act)), *b = a + side * side, *d = b + side * side;
    peak_fill<<<4096, 256, 0, stream>>>(a, 2 * side * side);
    LAUNCHED();
    cudaEvent_t start, stop;
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&stop));
    double best = 0;
    for (int run = 0; run < 10; run++) {
        CUDA_OK(cudaEventRecord(start, stream));
        lt_matmul(d, sizeof(act) == 4, a, true, b, false, side, side, side, NULL, 0.0f, NULL);
        CUDA_OK(cudaEventRecord(stop, stream));
        CUDA_OK(cudaEventSynchronize(stop));
        float ms;
        CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
        best = MAX(best, 2.0 * (double)side * (double)side * (double)side / (ms * 1e-3));
    }
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(stop));
    mem_free(a);
    return best;
}
__global__ static void peak_reader(const uint4 *x, size_t n, uint32_t *out) {
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 a = x[i], b = x[i + step], c = x[i + 2 * step], d = x[i + 3 * step];
        sum += (a.x ^ a.y ^ a.z ^ a.w) + (b.x ^ b.y ^ b.z ^ b.w) + (c.x ^ c.y ^ c.z ^ c.w) + (d.x ^ d.y ^ d.z ^ d.w);
    }
    if (sum == 0x12345678u) *out = sum;                       /* hardly ever, but the compiler cannot know */
}
static double peak_read(void) {
    const size_t bytes = (size_t)1 << 30;
    char *x = (char *)mem_alloc(bytes + 64);
    peak_fill<<<4096, 256, 0, stream>>>((act *)x, bytes / sizeof(act));
    LAUNCHED();
    cudaEvent_t start, stop;
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&stop));
    double best = 0;
    for (int run = 0; run < 10; run++) {
        CUDA_OK(cudaEventRecord(start, stream));
        peak_reader<<<132 * 16, 256, 0, stream>>>((const uint4 *)x, bytes / 16, (uint32_t *)(x + bytes));
        CUDA_OK(cudaEventRecord(stop, stream));
        CUDA_OK(cudaEventSynchronize(stop));
        float ms;
        CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
        best = MAX(best, (double)bytes / (ms * 1e-3));
    }
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(stop));
    mem_free(x);
    return best;
}
#endif
