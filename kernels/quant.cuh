/* kernels/quant.cuh - [quant] products with quantised weights: int8 or int4, scales by group, inputs float or int8.
 *
 *     w[o,c] = (q[o,c] - zero[o,g]) * scale[o,g],  g = c / G        four or eight bits a weight instead of sixteen
 *     y[t,o] = sum over g of scale[o,g] * (sum over c in g of q[o,c] x[t,c]  -  zero[o,g] * sum over c in g of x[t,c])
 *
 * Decoding reads every weight once per token, so a quarter of the bytes is a quarter of the time, if the core can
 * unpack as fast as memory delivers: 9 clocks for 64 bytes. Widening 128 nibbles to floats would take 25. So the inner
 * sums are made of integers, four bytes times four bytes into a 32-bit lane at a time [quant.dot], and only one sum per
 * vector becomes a float. Inputs that are to count in full are written with two int8 digits, x = s * (256 hi + lo), s
 * one scale per vector of weights [quant.input]: sixteen bits below the largest of those inputs, an error of 1e-5 of
 * the sum of magnitudes at most. Inputs that the model wants in int8 (Dettmers et al. 2022, Xiao et al. 2022) are one
 * digit, and every sum is exact.
 *
 * Prefill and training with float inputs go through the packed product of gemm_cpu.cuh, whose packing widens the
 * weights.
 * With int8 inputs there is a product of its own here [quant.gemm]: twice the speed of bf16 where the CPU has VNNI. */
#pragma once
#ifndef __CUDACC__

/* One row's inputs (or, for INPUT_FLOAT, none) as int8: x = q * scale. q in -128 .. 127; the scale of a token is its
 * largest magnitude / 127.5, as compressed-tensors has it. A token with NaN or infinity in it gets the scale NaN. */
static bool all_finite(const float *x, size_t n, float *largest) {
    uint32_t max = 0;                                         /* NaN's bits are larger than infinity's */
#pragma omp simd reduction(max : max)
    for (size_t c = 0; c < n; c++) {
        uint32_t u = float_bits(x[c]) & 0x7fffffffu;
        max = u > max ? u : max;
    }
    *largest = bits_float(max);
    return max < 0x7f800000u;
}
static float input_to_i8(int8_t *q, const float *x, size_t n, const Mat *w) {
    float largest, scale = w->input_scale;
    if (!all_finite(x, n, &largest)) {
        memset(q, 0, n);
        return NAN;
    }
    if (w->input == INPUT_DYNAMIC) scale = largest / 127.5f;
    float divisor = scale > 0x1p-120f ? scale : INFINITY;   /* a true division: the largest lands between 127 and 128 */
#pragma omp simd
    for (size_t c = 0; c < n; c++) {
        float v = MIN(MAX(x[c] / divisor, -128.0f), 127.0f) + 12582912.0f;      /* adding 1.5 * 2^23 rounds ... */
        q[c] = (int8_t)float_bits(v);                         /* ... and the low byte is the integer */
    }
    return scale;
}
/* x (N,C) in the order of w's columns: x itself, or a copy. */
static const float *inputs_ordered(const Mat *w, const float *x, size_t N, int slot) {
    if (!w->order) return x;
    const size_t C = w->cols;
    float *y = scratch(slot, N * C * sizeof *y);
#pragma omp parallel for if (N * C > PAR_MIN)
    for (size_t t = 0; t < N; t++)
        for (size_t c = 0; c < C; c++) y[t * C + c] = x[t * C + (size_t)w->order[c]];
    return y;
}
static size_t group_size(const Mat *w) { return w->group && w->group < w->cols ? w->group : w->cols; }

static bool any_quantised(const Linear *lin, int n) {
    for (int i = 0; i < n; i++) if (mat_quantised(&lin[i].w)) return true;
    return false;
}
static void matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N);
static void matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate);
/* dx through layers one of which has its columns in another order: each writes stored columns, which are then put where
 * they belong. */
static void dx_reordered(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    const size_t C = lin[0].w.cols;
    for (int i = 0; i < n; i++) {
        Linear stored = lin[i];
        const int32_t *order = stored.w.order;
        stored.w.order = NULL;
        if (!order) { matmul_dx(dx, &stored, 1, N, accumulate || i > 0); continue; }
        float *part = scratch(SCRATCH_QUANT, N * C * sizeof *part);
        matmul_dx(part, &stored, 1, N, false);
#pragma omp parallel for if (N * C > PAR_MIN)
        for (size_t t = 0; t < N; t++)
            for (size_t c = 0; c < C; c++) {
                float *to = &dx[t * C + (size_t)order[c]];
                *to = accumulate || i > 0 ? *to + part[t * C + c] : part[t * C + c];
            }
    }
}
static bool any_reordered(const Linear *lin, int n) {
    for (int i = 0; i < n; i++) if (mat_quantised(&lin[i].w) && lin[i].w.order) return true;
    return false;
}

#if VL == 1
/* ---- plain loops: the formulas as they stand -------------------------------------------------------------------- */
static int mat_q(const Mat *w, size_t o, size_t c) {          /* q[o,c] */
    const uint8_t *row = (const uint8_t *)w->data + o * mat_row_bytes(w);
    return w->dtype == DT_I8 ? (int8_t)row[c] : (row[c / 2] >> (4 * (c & 1)) & 15) - 8;
}
/* One layer with int8 inputs: sums of integers, one per group, then their scales. */
static void matmul_i8(const Linear *l, const float *x, const float *residual, size_t N) {
    const Mat *w = &l->w;
    const size_t O = w->rows, C = w->cols, G = group_size(w), n_groups = mat_groups(w);
    const float *x_ordered = inputs_ordered(w, x, N, SCRATCH_B);
    int8_t *q = scratch(SCRATCH_C, N * C);
    float *scale = scratch(SCRATCH_QUANT, N * sizeof *scale);
    for (size_t t = 0; t < N; t++) scale[t] = input_to_i8(q + t * C, x_ordered + t * C, C, w);
#pragma omp parallel for
    for (size_t o = 0; o < O; o++)
        for (size_t t = 0; t < N; t++) {
            float y = 0;
            for (size_t g = 0; g < n_groups; g++) {
                int32_t sum = 0, zero = w->zero ? w->zero[o * n_groups + g] : 0;
                for (size_t c = g * G; c < MIN((g + 1) * G, C); c++) sum += (mat_q(w, o, c) - zero) * q[t * C + c];
                y += (float)sum * mat_scale(w, o * n_groups + g);
            }
            y *= scale[t];
            if (l->bias) y += l->bias[o];
            if (residual) y += residual[t * O + o];
            l->y[t * O + o] = y;
        }
}
#else
/* ---- vectors of bytes [quant.dot] -------------------------------------------------------------------------------- *
 * dot4: each 32-bit lane gains the four products of its bytes. x86's instruction wants unsigned times signed, so
 * weights are shifted to be positive (q + 8 as stored, q + 128) and the sum starts at -8 or -128 times the sum of the
 * inputs, which is known once per input and costs nothing. */
typedef int8_t vb __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef int64_t vb_any __attribute__((vector_size(4 * VL), aligned(1), may_alias));
enum { VB = 4 * VL };                                         /* bytes of a vector */
ALWAYS_INLINE vb vb_load(const void *p) { return (vb)*(const vb_any *)p; }
ALWAYS_INLINE vf vi_float(vi x) { return __builtin_convertvector(x, vf); }

#if VL == 16 || VL == 8
#  define I8_WIDE 1                                           /* int8 weights meet inputs of 16 bits as such */
#  if VL == 16
#    define AVX(name) _mm512_##name
typedef __m512i avx_int;
#    define ONES16 _mm512_set1_epi16(1)
#  else
#    define AVX(name) _mm256_##name
typedef __m256i avx_int;
#    define ONES16 _mm256_set1_epi16(1)
#  endif
ALWAYS_INLINE avx_int even_bytes(vb w) { return AVX(srai_epi16)(AVX(slli_epi16)((avx_int)w, 8), 8); }
ALWAYS_INLINE avx_int odd_bytes(vb w) { return AVX(srai_epi16)((avx_int)w, 8); }
/* Each lane gains two products of 16-bit numbers. */
ALWAYS_INLINE vi dot_16(vi acc, avx_int w, avx_int x) {
#  if VL == 16 && defined __AVX512VNNI__
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
#  else
    return acc + (vi)AVX(madd_epi16)(w, x);
#  endif
}
#else
#  define I8_WIDE 0
#endif
#if VL == 16 && defined __AVX512VNNI__
#  define I8_SHIFT 128                                        /* what must be added to int8 weights before dot_i8 */
/* As assembly: around the intrinsic gcc 12 moves every accumulator through memory, at half the speed. */
ALWAYS_INLINE vi dot_u(vi acc, vb w, vb x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
}
ALWAYS_INLINE vi dot_i8(vi acc, vb w, vb x) { return dot_u(acc, w, x); }
#elif I8_WIDE
#  define I8_SHIFT 0
/* Weights 0 .. 15: pairs of products stay far below 2^15, where this instruction would saturate. */
ALWAYS_INLINE vi dot_u(vi acc, vb w, vb x) {
    return acc + (vi)AVX(madd_epi16)(AVX(maddubs_epi16)((avx_int)w, (avx_int)x), ONES16);
}
/* With 255 * 127 * 2 it would saturate: even and odd bytes are widened to 16 bits instead. */
ALWAYS_INLINE vi dot_i8(vi acc, vb w, vb x) {
    return dot_16(dot_16(acc, even_bytes(w), even_bytes(x)), odd_bytes(w), odd_bytes(x));
}
#else
#  define I8_SHIFT 0
ALWAYS_INLINE vi dot_i8(vi acc, vb w, vb x) {
#  ifdef __ARM_FEATURE_DOTPROD
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x);
#  else
    int16x8_t lo = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t hi = vmull_s8(vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
    return acc + (vi)vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi));
#  endif
}
ALWAYS_INLINE vi dot_u(vi acc, vb w, vb x) { return dot_i8(acc, w, x); }        /* 0 .. 15 are signed bytes, too */
#endif
ALWAYS_INLINE vb i8_shifted(vb w) {
#if I8_SHIFT
    return w ^ (int8_t)-128;                                  /* q + 128 as an unsigned byte */
#else
    return w;
#endif
}
ALWAYS_INLINE vb nibble_low(vb w) { return w & 15; }
ALWAYS_INLINE vb nibble_high(vb w) {
    typedef uint16_t vh __attribute__((vector_size(VB)));
    return (vb)((vh)w >> 4) & 15;
}

/* ---- inputs for few rows [quant.input] --------------------------------------------------------------------------- *
 * A step is one vector of weights: VB int8 or 2 VB int4. For each the inputs are laid out as the weights meet them: for
 * int4 the even ones, then the odd ones (low and high nibbles); first the high digits, then the low ones, where there
 * are two; then where the sums start. Of two digits for int8 x86 makes one number of 16 bits, the even ones, then the
 * odd ones, and no start: a third less to read beside weights, which fill L1 as they pass. */
typedef struct Few8 {
    const char *data;          /* (N, steps, step_bytes) */
    const float *scale;        /* (N, scale_step): of each step's integers; then 0 */
    const float *sums;         /* (N, sums_step): of a group's inputs, as written in digits, for zero points; then 0 */
    float token_scale[FEW_ROWS];
    size_t N, steps, scale_step, n_groups, sums_step;
} Few8;
ALWAYS_INLINE size_t step_inputs(int bits) { return bits == 4 ? 2 * VB : VB; }
ALWAYS_INLINE bool step_wide(int bits, int digits) { return I8_WIDE && bits == 8 && digits == 2; }
ALWAYS_INLINE size_t step_bytes(int bits, int digits) {
    return (size_t)digits * step_inputs(bits) + (step_wide(bits, digits) ? 0 : VB);
}

/* low and high: VB int8, or VB nibbles each; with one step's inputs. */
ALWAYS_INLINE vi few8_dot(vi start, vb low, vb high, const char *x, const int bits, const int digits) {
    const size_t n = step_inputs(bits);
#if I8_WIDE
    if (step_wide(bits, digits))
        return dot_16(dot_16((vi){0}, even_bytes(low), (avx_int)vb_load(x)), odd_bytes(low), (avx_int)vb_load(x + VB));
#endif
    vi sum[2] = {{0}, start};
#pragma GCC unroll 2
    for (int d = 2 - digits; d < 2; d++, x += n) {
        if (bits == 8) sum[d] = dot_i8(sum[d], low, vb_load(x));
        else sum[d] = dot_u(dot_u(sum[d], low, vb_load(x)), high, vb_load(x + VB));
    }
    return digits == 2 ? (vi)((vu)sum[0] << 8) + sum[1] : sum[1];
}
/* One step: n inputs, as integers of so many digits. (v + 128) >> 8 and v's low byte, both signed: 256 hi + lo = v. */
static void input_step(char *at, const int16_t *v, const int bits, const int digits) {
    typedef uint32_t vu_alias __attribute__((vector_size(4 * VL), aligned(2), may_alias));
    int8_t *high = (int8_t *)at, *low = high + (digits == 2 ? step_inputs(bits) : 0);
    const bool wide = step_wide(bits, digits);
    const size_t n = step_inputs(bits);
    int16_t part[2 * VB];                                     /* even, odd */
    if (bits == 4 || wide) {
        for (size_t j = 0; j < n / 2; j += VL) {
            const vu pair = *(const vu_alias *)(v + 2 * j);
            typedef uint16_t vh __attribute__((vector_size(2 * VL)));
            const vh even = __builtin_convertvector(pair, vh), odd = __builtin_convertvector(pair >> 16, vh);
            memcpy(part + j, &even, sizeof even), memcpy(part + n / 2 + j, &odd, sizeof odd);
        }
        v = part;
    }
    if (wide) {
        memcpy(at, part, n * sizeof *part);
        return;
    }
    for (size_t j = 0; j < n; j++) low[j] = (int8_t)v[j];
    if (digits == 2) for (size_t j = 0; j < n; j++) high[j] = (int8_t)((v[j] + 128) >> 8);
    const vb offset = (vb){0} + (int8_t)(bits == 4 ? 8 : I8_SHIFT);
    const vi start = -few8_dot((vi){0}, offset, offset, at, bits, digits);
    memcpy(at + (size_t)digits * n, &start, VB);
}
/* One row of x (C), then zeros up to `padded`. */
ALWAYS_INLINE void few8_row(char *to, float *scale, int16_t *v, const float *x, size_t padded, const int bits,
                            const int digits) {
    const size_t n = step_inputs(bits), bytes = step_bytes(bits, digits);
    for (size_t s = 0; s * n < padded; s++, x += n, v += n) {
        scale[s] = 1;
        if (digits == 2) {
            float largest;
            const bool finite = all_finite(x, n, &largest);
            scale[s] = finite ? largest / 32512.0f : NAN;     /* 127 * 256: the largest two digits, nearly */
            const float inverse = finite && scale[s] > 0x1p-120f ? 1.0f / scale[s] : 0.0f;
#pragma omp simd
            for (size_t c = 0; c < n; c++) {                  /* rounded as in input_to_i8 */
                float r = (finite ? x[c] : 0.0f) * inverse + 12582912.0f;
                v[c] = (int16_t)(float_bits(r) - 0x4b400000u);
            }
        }
        input_step(to + s * bytes, v, bits, digits);
    }
}
/* What few8_inputs needs for N rows of x, in bytes. */
static size_t few8_bytes(const Mat *w, size_t N) {
    const int bits = w->dtype == DT_I4 ? 4 : 8, digits = w->input == INPUT_FLOAT ? 2 : 1;
    const size_t steps = CEIL_DIV(w->cols, step_inputs(bits)), padded = steps * step_inputs(bits);
    const size_t floats = (CEIL_DIV(steps, VL) + CEIL_DIV(mat_groups(w), VL)) * VL;
    return few_rows_read(N) * (steps * step_bytes(bits, digits) + floats * 4) + padded * 7 + 64;
}
/* All rows of x, for w and every other matrix of its kind, in buffer. Each thread makes its own: it takes 1 us, and to
 * fetch them from another core's cache takes longer. */
static Few8 few8_inputs(const Mat *w, const float *x, size_t N, char *buffer) {
    const int bits = w->dtype == DT_I4 ? 4 : 8, digits = w->input == INPUT_FLOAT ? 2 : 1;
    const size_t C = w->cols, n = step_inputs(bits), steps = CEIL_DIV(C, n), bytes = step_bytes(bits, digits);
    const size_t G = group_size(w), n_groups = mat_groups(w), padded = steps * n;
    const size_t rows = few_rows_read(N);
    const size_t scale_step = CEIL_DIV(steps, VL) * VL, sums_step = CEIL_DIV(n_groups, VL) * VL;
    float *scale = (float *)(buffer + rows * steps * bytes), *sums = scale + rows * scale_step;
    float *row = sums + rows * sums_step;
    int16_t *v = (int16_t *)(row + padded);
    int8_t *q = (int8_t *)(v + padded);
    Few8 f = {.data = buffer, .scale = scale, .sums = sums, .N = N, .steps = steps, .scale_step = scale_step,
              .n_groups = n_groups, .sums_step = sums_step};
    memset(row + C, 0, (padded - C) * sizeof *row);
    memset(scale, 0, rows * scale_step * sizeof *scale);
    for (size_t t = 0; t < N; t++) {
        const float *x_t = x + t * C;
        char *to = buffer + t * steps * bytes;
        float *scale_t = scale + t * scale_step;
        if (w->order) for (size_t c = 0; c < C; c++) row[c] = x_t[w->order[c]];
        else memcpy(row, x_t, C * sizeof *row);
        f.token_scale[t] = 1;
        if (digits == 1) {
            f.token_scale[t] = input_to_i8(q, row, padded, w);
            for (size_t c = 0; c < padded; c++) v[c] = q[c];
        }
        if (bits == 4 && digits == 2) few8_row(to, scale_t, v, row, padded, 4, 2);
        else if (bits == 4) few8_row(to, scale_t, v, row, padded, 4, 1);
        else if (digits == 2) few8_row(to, scale_t, v, row, padded, 8, 2);
        else few8_row(to, scale_t, v, row, padded, 8, 1);
        for (size_t g = 0; g < sums_step && w->zero; g++) {
            float sum = 0;
            for (size_t c = g * G; c < MIN((g + 1) * G, C); c++) sum += (float)v[c] * scale_t[c / n];
            sums[t * sums_step + g] = sum;
        }
    }
    for (size_t i = N * steps; i < rows * steps && !step_wide(bits, digits); i++)
        /* read, times zero: but no sum there may overflow */
        memset(buffer + i * bytes + (size_t)digits * n, 0, VB);
    return f;
}

/* ---- few rows [quant.few] ---------------------------------------------------------------------------------------- *
 * As few_rows in gemm_cpu.cuh: rows are read from where they lie, several far apart side by side; of neighbours, half
 * as many bytes a second arrive. Scales of a row are widened first: to one a step, times those of the inputs, where a
 * step lies in one group, else to one a lane. */
#define SCALE_PAD (4 * VL)
/* Scales from element i on, widened: VL, or the n that are left and zeros. */
ALWAYS_INLINE vf scales_load(const Mat *w, size_t i, size_t n) {
    const size_t size = w->scale_dtype == DT_F32 ? 4 : 2;
    const char *at = (const char *)w->scale + i * size;
#if VL == 16
    const __mmask16 some = n < VL ? (__mmask16)((1u << n) - 1) : 0xffff;
    if (size == 4) return (vf)_mm512_maskz_loadu_ps(some, at);
    const __m256i h = _mm256_maskz_loadu_epi16(some, at);
    return w->scale_dtype == DT_F16 ? (vf)_mm512_cvtph_ps(h) : (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
#else
    if (n >= VL) return vf_widen(at, w->scale_dtype);
    char rest[VL * 4] = {0};
    memcpy(rest, at, n * size);
    return vf_widen(rest, w->scale_dtype);
#endif
}
/* n scales, and zeros up to a whole vector. */
ALWAYS_INLINE void scales_read(float *y, const Mat *w, size_t i, size_t n) {
    for (size_t k = 0; k < n; k += VL) vf_store(y + k, scales_load(w, i + k, n - k));
}
/* VL zero points from i on, or the n that are left and zeros. */
ALWAYS_INLINE vf zeros_load(const Mat *w, size_t i, size_t n) {
    typedef int8_t vz __attribute__((vector_size(VL)));
    vz z = {0};
    if (n >= VL) memcpy(&z, w->zero + i, VL);
    else memcpy(&z, w->zero + i, n);
    return __builtin_convertvector(z, vf);
}
/* Scales of a step's lanes: as they lie, or picked from fewer. */
#if VL == 16
typedef __m512i Pick;
ALWAYS_INLINE vf scales_pick(const float *s, Pick pick) { return (vf)_mm512_permutexvar_ps(pick, (__m512)vf_load(s)); }
ALWAYS_INLINE Pick pick_of(size_t per) {                      /* every scale for so many lanes */
    return _mm512_srlv_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                             _mm512_set1_epi32(__builtin_ctz((unsigned)per)));
}
#else
typedef int Pick;
ALWAYS_INLINE vf scales_pick(const float *s, Pick pick) { return (void)pick, vf_load(s); }
ALWAYS_INLINE Pick pick_of(size_t per) { return (void)per, 0; }
#endif
/* One scale a lane: per lanes share one. */
static void scales_spread(float *lane, const float *scale, size_t n_lanes, size_t per) {
    for (size_t g = 0; g * per < n_lanes; g++)
        for (size_t i = g * per; i < MIN((g + 1) * per, n_lanes); i += VL) vf_store(lane + i, (vf){0} + scale[g]);
}

enum {
    FEW8_ROWS = 4,                                            /* rows of weights that meet one load of the inputs */
    FEW8_BLOCK = 4,                                           /* at most so many at a time of each stream ... */
    FEW8_SCALES = 256,                                        /* ... or as have so many scales */
};
/* Floats that a stream's scales may take: a row's as they are; one a lane of a row, or one a step for every x of a
 * block; and a row's, one a step. */
static size_t few8_row_room(const Mat *w) {
    const size_t steps = CEIL_DIV(w->cols, step_inputs(w->dtype == DT_I4 ? 4 : 8));
    const size_t step_floats = CEIL_DIV(steps, VL) * VL;
    return CEIL_DIV(mat_groups(w), VL) * VL + VL + MAX(MAX(steps * VL, FEW_ROWS * step_floats), (size_t)FEW8_SCALES) +
           step_floats + SCALE_PAD;
}
static size_t few8_room(const Mat *w) { return FEW8_ROWS * few8_row_room(w); }
#define FEW8_ARGS const Linear *l, const float *residual, size_t o0, size_t o1, const Few8 *f, float *buffer
/* The sums of four vectors' lanes, each in the same order wherever it stands. */
ALWAYS_INLINE void sum_four(float y[FEW8_ROWS], const vf v[FEW8_ROWS]) {
#if VL == 16
    const __m512 p = (__m512)v[0], q = (__m512)v[1], r = (__m512)v[2], s = (__m512)v[3];
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(p, q), _mm512_unpackhi_ps(p, q));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(r, s), _mm512_unpackhi_ps(r, s));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    const __m512d even = _mm512_unpacklo_pd(c, d), odd = _mm512_unpackhi_pd(c, d);
    const __m512 e = _mm512_add_ps(_mm512_castpd_ps(even), _mm512_castpd_ps(odd));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(e), _mm512_extractf32x8_ps(e, 1));
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
#else
    for (int r = 0; r < FEW8_ROWS; r++) y[r] = few_sum(v[r]);
#endif
}
/* Scales of row o times those of the inputs: one a step. s, spread: room for one a group, one a step. */
ALWAYS_INLINE void few8_scales(float *to, const Mat *m, size_t o, const Few8 *f, size_t steps_a_group, float *s,
                               float *spread, const size_t n_x) {
    const size_t n = f->n_groups;
    const bool one = steps_a_group == 1, picked = VL == 16 && steps_a_group < VL && VL % steps_a_group == 0;
    const Pick pick = pick_of(picked ? steps_a_group : 1);
    if (!one) scales_read(s, m, o * n, n);
    if (!one && !picked) for (size_t k = 0; k < f->steps; k++) spread[k] = s[k / steps_a_group];
    for (size_t k = 0; k < f->steps; k += VL) {
        const vf scale = one ? scales_load(m, o * n + k, n - k)
                             : picked ? scales_pick(s + k / steps_a_group, pick) : vf_load(spread + k);
        for (size_t t = 0; t < n_x; t++)
            vf_store(to + t * f->scale_step + k, scale * vf_load(f->scale + t * f->scale_step + k));
    }
}
/* One step of a row with every x. s: scales of the step's lanes; else step_scale is one for all, for each x. */
ALWAYS_INLINE void few8_step(vf acc[FEW_ROWS], vb q, vf s, const float *step_scale, const Few8 *f, size_t k,
                             const int bits, const int digits, const bool lanes, const size_t n_x) {
#if VL == 16
    vu one = (vu)q;
    __asm__("" : "+v"(one));                                  /* one load: gcc would rather load twice than keep it */
    q = (vb)one;
#endif
    const bool wide = step_wide(bits, digits);
    const vb low = bits == 4 ? nibble_low(q) : wide ? q : i8_shifted(q), high = nibble_high(q);
#pragma GCC unroll 8
    for (size_t t = 0; t < n_x; t++) {
        const char *x = f->data + (t * f->steps + k) * step_bytes(bits, digits);
        const vi start = wide ? (vi){0} : (vi)vb_load(x + (size_t)digits * step_inputs(bits));
        const vf sum = vi_float(few8_dot(start, low, high, x, bits, digits));
        if (lanes) acc[t] += sum * (s * f->scale[t * f->scale_step + k]);
        else acc[t] += sum * (step_scale[t * f->scale_step + k] - (vf){0});
    }
}
/* What zero points take from row o's sum of token t. */
static __attribute__((noinline)) float few8_zeros(const Mat *m, size_t o, const Few8 *f, size_t t) {
    vf off = {0};
    for (size_t j = 0, at = o * f->n_groups; j < f->n_groups; j += VL) {
        const size_t n = f->n_groups - j;
        off += scales_load(m, at + j, n) * vf_load(f->sums + t * f->sums_step + j) * zeros_load(m, at + j, n);
    }
    return few_sum(off);
}
/* Sums of n rows from o on, of token t, become outputs. */
ALWAYS_INLINE void few8_finish(const Linear *l, const float *residual, size_t o, size_t n, const Few8 *f, size_t t,
                               const float sum[FEW8_BLOCK], const bool lanes) {
    typedef float vq __attribute__((vector_size(4 * FEW8_BLOCK)));
    const Mat *m = &l->w;
    const size_t at = t * m->rows + o, bytes = n * sizeof(float);
    vq y, other = {0};
    memcpy(&y, sum, sizeof y);
    if (!lanes && f->n_groups == 1) {                         /* one scale a row */
        const vf scale = scales_load(m, o, n);
        memcpy(&other, &scale, sizeof other);
        y *= other;
    }
    for (size_t i = 0; i < n && m->zero; i++) y[i] -= few8_zeros(m, o + i, f, t);
    y *= f->token_scale[t];
    if (n == FEW8_BLOCK) {
        if (l->bias) memcpy(&other, l->bias + o, sizeof other), y += other;
        if (residual) memcpy(&other, residual + at, sizeof other), y += other;
        memcpy(l->y + at, &y, sizeof y);
    } else {
        if (l->bias) memcpy(&other, l->bias + o, bytes), y += other;
        if (residual) memcpy(&other, residual + at, bytes), y += other;
        memcpy(l->y + at, &y, bytes);
    }
}
/* bits, digits, lanes, n_x and n_rows are constants in each copy. */
ALWAYS_INLINE void few8_rows(FEW8_ARGS, const int bits, const int digits, const bool lanes, const size_t n_x,
                             const size_t n_rows, const bool shifted) {
    const Mat *m = &l->w;
    const size_t bytes = mat_row_bytes(m), whole = bytes / VB, n = step_inputs(bits);
    const size_t G = group_size(m), n_groups = f->n_groups, room = few8_row_room(m);
    const size_t scale_bytes = n_groups * (m->scale_dtype == DT_F32 ? 4 : 2);
    const size_t per = G / (n / VL);                          /* lanes of a scale */
    const bool picked = VL == 16 && lanes && per < VL && VL % per == 0, by_step = !lanes && n_groups > 1;
    const Pick pick = pick_of(picked ? per : 1);
    const size_t scale_step = picked ? VL / per : VL, part = CEIL_DIV(o1 - o0, n_rows);
    const size_t row_scales = by_step ? n_x * f->scale_step : 0, shift = shifted ? (uintptr_t)m->data % 64 : 0;
    const size_t block = lanes ? 1 : MAX(MIN(FEW8_SCALES / (n_x * f->scale_step), (size_t)FEW8_BLOCK), (size_t)1);
    const vu lines = lines_pick(m);
    for (size_t i0 = 0; i0 < part; i0 += block) {
        const size_t n_i = MIN(block, part - i0);
        const float *step_scale[FEW8_ROWS];                   /* of a row: (n_x, f->scale_step), or (steps, VL) */
        float sums[FEW_ROWS][FEW8_ROWS][FEW8_BLOCK] = {{{0}}};
        for (size_t r = 0; r < n_rows; r++) {
            float *s = buffer + r * room, *steps = s + CEIL_DIV(n_groups, VL) * VL + VL, *spread = s + room - f->scale_step;
            step_scale[r] = picked ? s : lanes || by_step ? steps : f->scale;
            for (size_t i = 0; i < n_i; i++) {
                const size_t o = MIN(o0 + r * part + i0 + i, o1 - 1);
                for (size_t at = 0; at < scale_bytes; at += 64)       /* too slow a stream to be fetched unasked */
                    __builtin_prefetch((const char *)m->scale + (o + 16) * scale_bytes + at);
                if (by_step)
                    few8_scales(steps + i * row_scales, m, o, f, G / n, s, spread, n_x);
                if (!lanes) continue;
                scales_read(s, m, o * n_groups, n_groups);
                vf_store(s + CEIL_DIV(n_groups, VL) * VL, (vf){0});   /* of lanes past the end: no rubbish times zero */
                if (!picked) scales_spread(steps, s, f->steps * VL, per);
            }
        }
        for (size_t i = 0; i < n_i; i++) {
            const char *w[FEW8_ROWS];
            const float *scale[FEW8_ROWS];
            vu line[FEW8_ROWS];
            vf acc[FEW8_ROWS][FEW_ROWS];
#pragma GCC unroll 4
            for (size_t r = 0; r < n_rows; r++) {             /* a part that is one short reads its last row again */
                w[r] = (const char *)m->data + MIN(o0 + r * part + i0 + i, o1 - 1) * bytes;
                scale[r] = step_scale[r] + i * row_scales;
                if (shifted) line[r] = lines_load(w[r] - shift);
#pragma GCC unroll 8
                for (size_t t = 0; t < n_x; t++) acc[r][t] = (vf){0};
            }
            for (size_t k = 0; k < whole; k++) {
#pragma GCC unroll 4
                for (size_t r = 0; r < n_rows; r++) {
                    const char *at = w[r] + k * VB;
                    vu q = shifted ? lines_next(&line[r], at - shift + VB, lines) : (vu)vb_load(at);
                    /* to L2: a core has few places for lines under way to L1 */
#if VL == 16
                    /* behind its load: gcc would ask for all four rows' at once, and the last is not heard (10%) */
                    if (bits == 4 && digits == 2) __asm__("prefetcht1 %1" : "+v"(q) : "m"(at[4096]));
#else
                    if (bits == 4) __builtin_prefetch(at + 4096, 0, 2);
#endif
                    few8_step(acc[r], (vb)q, lanes ? scales_pick(scale[r] + k * scale_step, pick) : (vf){0}, scale[r],
                              f, k, bits, digits, lanes, n_x);
                }
            }
            if (whole < f->steps) {
#pragma GCC unroll 4
                for (size_t r = 0; r < n_rows; r++) {
                    char edge[VB] = {0};
                    memcpy(edge, w[r] + whole * VB, bytes - whole * VB);
                    few8_step(acc[r], vb_load(edge), lanes ? scales_pick(scale[r] + whole * scale_step, pick) : (vf){0},
                              scale[r], f, whole, bits, digits, lanes, n_x);
                }
            }
#pragma GCC unroll 8
            for (size_t t = 0; t < n_x; t++) {
                float sum[FEW8_ROWS];
                vf of_x[FEW8_ROWS] = {{0}};
#pragma GCC unroll 4
                for (size_t r = 0; r < n_rows; r++) of_x[r] = acc[r][t];
                sum_four(sum, of_x);
                for (size_t r = 0; r < n_rows; r++) sums[t][r][i] = sum[r];
            }
        }
        for (size_t r = 0; r < n_rows; r++) {
            const size_t o = o0 + r * part + i0;
            for (size_t t = 0; t < f->N && o < o1; t++)
                few8_finish(l, residual, o, MIN(n_i, o1 - o), f, t, sums[t][r], lanes);
        }
    }
}
#define FEW8_PASS l, residual, o0, o1, f, buffer
ALWAYS_INLINE void few8_n(FEW8_ARGS, const int bits, const int digits, const bool lanes) {
    const bool wide = VL != 8;
    /* From two places: what the core fetches from them by itself is as fast as memory (int8, and int4 with int8 inputs:
     * one thread 21 to 30 -> 30 to 35 GB/s). int4 with two digits has more to do and wants the inputs' loads shared. */
    const size_t alone = bits == 4 && digits == 2 && wide ? 4 : 2;
    if (f->N == 1 && lines_shifted(&l->w)) few8_rows(FEW8_PASS, bits, digits, lanes, 1, alone, true);
    else if (f->N == 1) few8_rows(FEW8_PASS, bits, digits, lanes, 1, alone, false);
    else if (f->N == 2) few8_rows(FEW8_PASS, bits, digits, lanes, 2, wide ? 4 : 2, false);
    else if (f->N <= 4) few8_rows(FEW8_PASS, bits, digits, lanes, 4, wide ? 4 : 1, false);
    else few8_rows(FEW8_PASS, bits, digits, lanes, 8, wide ? 2 : 1, false);
}
ALWAYS_INLINE void few8_digits(FEW8_ARGS, const int bits, const bool lanes) {
    if (l->w.input == INPUT_FLOAT) few8_n(FEW8_PASS, bits, 2, lanes);
    else few8_n(FEW8_PASS, bits, 1, lanes);
}
static void few8_i4(FEW8_ARGS) { few8_digits(FEW8_PASS, 4, false); }
static void few8_i4_lanes(FEW8_ARGS) { few8_digits(FEW8_PASS, 4, true); }
static void few8_i8(FEW8_ARGS) { few8_digits(FEW8_PASS, 8, false); }
static void few8_i8_lanes(FEW8_ARGS) { few8_digits(FEW8_PASS, 8, true); }

/* Neighbours of a list that want the same inputs. */
static void few8_run(const Linear *lin, int n, const float *x, const float *residual, size_t N) {
    const Mat *w = &lin->w;
    const bool four = w->dtype == DT_I4, lanes = mat_groups(w) > 1 && w->group % step_inputs(four ? 4 : 8);
    void (*const run)(FEW8_ARGS) = four ? lanes ? few8_i4_lanes : few8_i4 : lanes ? few8_i8_lanes : few8_i8;
    FewQueue queue = few_queue(lin, n, N);
    const size_t in_bytes = CEIL_DIV(few8_bytes(w, N), 64) * 64, bytes = in_bytes + CEIL_DIV(few8_room(w), 16) * 64;
    char *buffers = scratch(SCRATCH_QUANT, queue.threads * bytes);
#pragma omp parallel num_threads((int)queue.threads) if (queue.threads > 1)
    {
        const size_t me = (size_t)omp_get_thread_num();
        char *mine = buffers + me * bytes;
        const Few8 f = few8_inputs(w, x, N, mine);
        for (FewTask t; few_take(&queue, me, &t);)
            run(t.lin, residual, t.o0, t.o1, &f, (float *)(mine + in_bytes));
    }
}

/* ---- many rows, int8 inputs [quant.gemm] ------------------------------------------------------------------------- *
 * The product of gemm_cpu.cuh in units of four bytes along K: the same tile, chunks and tasks. The sum over K is cut at
 * the borders of groups (and of blocks, KC units at most): a piece is summed in integers, then scaled and added to y.
 * The inputs are packed once, for all tasks; weights are unpacked by whoever needs them. */
typedef struct Piece { size_t k0, k1, group; } Piece;        /* a run of inputs in one group, from a multiple of 8 on */
typedef struct Inputs8 {
    const uint32_t *panels;    /* (ceil(N/MR), units, MR): four inputs each */
    const int32_t *sums;       /* (N, n_pieces): of the inputs */
    const float *scale;        /* (N) */
    const Piece *pieces;
    size_t N, units, n_pieces;
} Inputs8;
enum { PIECE_MAX = KC * 4 };

static Inputs8 inputs8(const Mat *w, const float *x, size_t N) {
    const size_t C = w->cols, G = group_size(w), units = CEIL_DIV(C, 4), panels = CEIL_DIV(N, MR);
    const size_t parts = CEIL_DIV(G, PIECE_MAX), step = CEIL_DIV(CEIL_DIV(G, parts), 8) * 8;
    size_t most = mat_groups(w) * CEIL_DIV(G, step), threads = (size_t)omp_get_max_threads(), n = 0;
    char *buffer = scratch(SCRATCH_QUANT, most * sizeof(Piece) + N * (most + 1) * 4 + panels * units * MR * 4 +
                                          threads * (units * 4 + 64) + 64);
    uint32_t *packed = (uint32_t *)buffer;
    Piece *pieces = (Piece *)(packed + panels * units * MR);
    float *scale = (float *)(pieces + most);
    int32_t *sums = (int32_t *)(scale + N);
    int8_t *rows = (int8_t *)(sums + N * most);
    for (size_t g = 0; g * G < C; g++)
        for (size_t k = g * G; k < MIN((g + 1) * G, C); k += step)
            pieces[n++] = (Piece){k, MIN(MIN(k + step, (g + 1) * G), C), g};
    const float *x_ordered = inputs_ordered(w, x, N, SCRATCH_B);
#pragma omp parallel for if (N * C > PAR_MIN)
    for (size_t p = 0; p < panels; p++) {
        int8_t *q = rows + (size_t)omp_get_thread_num() * (units * 4 + 64);
        uint32_t *panel = packed + p * units * MR;
        for (size_t r = 0; r < MR; r++) {
            const size_t t = p * MR + r;
            memset(q, 0, units * 4);
            if (t < N) {
                scale[t] = input_to_i8(q, x_ordered + t * C, C, w);
                for (size_t i = 0; i < n; i++) {
                    int32_t sum = 0;
                    for (size_t k = pieces[i].k0; k < pieces[i].k1; k++) sum += q[k];
                    sums[t * n + i] = sum;
                }
            }
            for (size_t u = 0; u < units; u++) memcpy(&panel[u * MR + r], q + 4 * u, 4);
        }
    }
    return (Inputs8){packed, sums, scale, pieces, N, units, n};
}

/* VB int8 or VB nibbles (half the bytes) as bytes ready for dot. */
ALWAYS_INLINE vb weights_units(const char *p, const int bits) {
    if (bits == 8) return i8_shifted(vb_load(p));
#if VL == 16
    __m512i v = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
    return (vb)_mm512_and_si512(_mm512_or_si512(v, _mm512_slli_epi16(v, 4)), _mm512_set1_epi16(0x0f0f));
#elif VL == 8
    __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    return (vb)_mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16(v, 4)), _mm256_set1_epi16(0x0f0f));
#else
    uint16x8_t v = vmovl_u8(vld1_u8((const uint8_t *)p));
    return (vb)vandq_u16(vorrq_u16(v, vshlq_n_u16(v, 4)), vdupq_n_u16(0x0f0f));
#endif
}
/* Inputs [k0, k1) of VL outputs from o on, as gemm_pack_along does it. */
ALWAYS_INLINE void weights_pack(const Mat *w, size_t o, size_t k0, size_t k1, Place place, const int bits) {
    const size_t row_bytes = mat_row_bytes(w), n_lanes = MIN(w->rows - o, (size_t)VL), size = VB * (size_t)bits / 8;
    for (size_t k = k0; k < k1; k += VB) {
        const size_t at = k * (size_t)bits / 8, n_bytes = MIN(row_bytes - at, size);
        const char *rows = (const char *)w->data + o * row_bytes + at;
        size_t step = row_bytes;
        char edge[VL][VB];
        if (n_bytes < size || n_lanes < VL) {
            memset(edge, 0, sizeof edge);
            for (size_t i = 0; i < n_lanes; i++) memcpy(edge[i], rows + i * step, n_bytes);
            rows = edge[0], step = sizeof edge[0];
        }
        vu v[VL];
        for (size_t i = 0; i < VL; i++) v[i] = (vu)weights_units(rows + i * step, bits);
        gemm_transpose(v);
        const size_t unit = (k - k0) / 4;
        if (k + VB <= k1) {
            for (size_t i = 0; i < VL; i++) gemm_put(place, unit + i, v[i]);
        } else {
            vu some[VL];
            memcpy(some, v, sizeof v);
            for (size_t i = 0; i < CEIL_DIV(k1 - k, 4); i++) gemm_put(place, unit + i, some[i]);
        }
    }
}

/* y (rows, cols) of one piece: integers, then scales. first: y begins here, with what stands in out. */
typedef struct Scales8 { const float *scale, *zero; } Scales8; /* (columns of the panel): scale; zero * scale or NULL */
#define TILE8_ARGS size_t n_units, const uint32_t *a, const char *b, const Out *out, const int32_t *sums, \
                   size_t sums_step, const float *row_scale, const Scales8 *s, size_t rows, size_t cols
ALWAYS_INLINE void tile8(const int nv, const int bits, TILE8_ARGS) {
    vi acc[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {                            /* rows past the end: any sum will do */
        int32_t start = -(bits == 4 ? 8 : I8_SHIFT) * sums[MIN((size_t)r, rows - 1) * sums_step];
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) acc[r][v] = (vi){0} + start;
    }
    for (size_t u = 0; u < n_units; u++, a += MR, b += nv * VB) {
        vb b_u[NV];
        for (int v = 0; v < nv; v++) b_u[v] = vb_load(b + v * VB);
        for (int r = 0; r < MR; r++) {
            vb a_u = (vb)((vu){0} + a[r]);
            for (int v = 0; v < nv; v++)
                acc[r][v] = bits == 4 ? dot_u(acc[r][v], b_u[v], a_u) : dot_i8(acc[r][v], b_u[v], a_u);
        }
    }
    /* An edge goes the same way in memory of its own: other code might round otherwise, and what is an edge depends on
     * how many threads share the work. */
    const bool whole = rows == MR && cols == (size_t)nv * VL;
    float y_edge[MR][NV * VL], residual_edge[MR][NV * VL], bias_edge[NV * VL] = {0};
    float *c = out->c;
    const float *bias = out->bias, *residual = out->residual;
    size_t ld = out->ld;
    if (!whole) {
        memset(y_edge, 0, sizeof y_edge), memset(residual_edge, 0, sizeof residual_edge);
        for (size_t r = 0; r < rows; r++) {
            if (out->add) memcpy(y_edge[r], c + r * ld, cols * sizeof *c);
            if (residual) memcpy(residual_edge[r], residual + r * ld, cols * sizeof *c);
        }
        if (bias) memcpy(bias_edge, bias, cols * sizeof *bias), bias = bias_edge;
        c = y_edge[0], ld = NV * VL, residual = residual ? residual_edge[0] : NULL;
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
        const size_t row = MIN((size_t)r, rows - 1);
        const float x_scale = row_scale[row], x_sum = (float)sums[row * sums_step];
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            vf y = vi_float(acc[r][v]) * vf_load(s->scale + v * VL);
            if (s->zero) y -= vf_load(s->zero + v * VL) * x_sum;
            y *= x_scale;
            const size_t at = (size_t)r * ld + (size_t)v * VL;
            if (bias) y += vf_load(bias + v * VL);
            if (residual) y += vf_load(residual + at);
            if (out->add) y += vf_load(c + at);
            vf_store(c + at, y);
        }
    }
    for (size_t r = 0; r < rows && !whole; r++) memcpy(out->c + r * out->ld, y_edge[r], cols * sizeof *c);
}
#define TILE8(name, nv, bits) static void name(TILE8_ARGS) { \
    tile8(nv, bits, n_units, a, b, out, sums, sums_step, row_scale, s, rows, cols); }
TILE8(tile8_1_i8, 1, 8)
TILE8(tile8_2_i8, 2, 8)
TILE8(tile8_3_i8, 3, 8)
TILE8(tile8_1_i4, 1, 4)
TILE8(tile8_2_i4, 2, 4)
TILE8(tile8_3_i4, 3, 4)

/* Rows [row0, row1), whole panels of them, and columns [column0, column1) of one layer. b: a chunk of weights, then
 * scales. */
static void gemm8_task(const Linear *l, const float *residual, const Inputs8 *x, size_t row0, size_t row1,
                       size_t column0, size_t column1, char *b) {
    static void (*const tiles[2][NV + 1])(TILE8_ARGS) = {{NULL, tile8_1_i8, tile8_2_i8, tile8_3_i8},
                                                         {NULL, tile8_1_i4, tile8_2_i4, tile8_3_i4}};
    const Mat *w = &l->w;
    const bool four = w->dtype == DT_I4;
    const size_t groups = CEIL_DIV(column1 - column0, VL), n_chunks = CEIL_DIV(groups, CHUNK_GROUPS), O = w->rows;
    const size_t w_groups = mat_groups(w);
    float *scales = (float *)(b + CHUNK * PIECE_MAX), *zeros = scales + CHUNK * (PIECE_MAX / 8);
    for (size_t first = 0, last; first < x->n_pieces; first = last) {
        const size_t k0 = x->pieces[first].k0;
        for (last = first + 1; last < x->n_pieces && x->pieces[last].k1 - k0 <= PIECE_MAX; last++) {}
        const size_t k1 = x->pieces[last - 1].k1, n_u = CEIL_DIV(k1 - k0, 4);
        for (size_t chunk = 0; chunk < n_chunks; chunk++) {
            const size_t g0 = groups * chunk / n_chunks, g1 = groups * (chunk + 1) / n_chunks, c0 = column0 + g0 * VL;
            Place places[CHUNK_GROUPS];
            gemm_places(places, (float *)b, g1 - g0, n_u);
            for (size_t g = 0; g < g1 - g0; g++) {
                if (four) weights_pack(w, c0 + g * VL, k0, k1, places[g], 4);
                else weights_pack(w, c0 + g * VL, k0, k1, places[g], 8);
            }
            for (size_t i = first; i < last; i++)
                for (size_t j = 0; j < (g1 - g0) * VL; j++) {
                    const size_t at = MIN(c0 + j, O - 1) * w_groups + x->pieces[i].group, to = (i - first) * CHUNK + j;
                    scales[to] = mat_scale(w, at);
                    if (w->zero) zeros[to] = scales[to] * (float)w->zero[at];
                }
            for (size_t row = row0; row < row1; row += MR)
                for (size_t g = g0, width; g < g1; g += width) {
                    width = panel_width(g1 - g);
                    const size_t column = column0 + g * VL, at = row * O + column, in_chunk = (g - g0) * VL;
                    const uint32_t *a = x->panels + (row / MR * x->units + k0 / 4) * MR;
                    const char *panel = b + in_chunk * n_u * 4;
                    for (size_t i = first; i < last; i++) {
                        const Piece *p = &x->pieces[i];
                        const Out out = {l->y + at, O, i || !l->bias ? NULL : l->bias + column,
                                         i || !residual ? NULL : residual + at, i > 0};
                        const Scales8 s = {scales + (i - first) * CHUNK + in_chunk,
                                           w->zero ? zeros + (i - first) * CHUNK + in_chunk : NULL};
                        const size_t u = (p->k0 - k0) / 4;
                        tiles[four][width](CEIL_DIV(p->k1 - p->k0, 4), a + u * MR, panel + u * width * VB, &out,
                                           x->sums + row * x->n_pieces + i, x->n_pieces, x->scale + row, &s,
                                           MIN((size_t)MR, row1 - row), MIN(width * VL, column1 - column));
                    }
                }
        }
    }
}
static void gemm8_run(const Linear *l, const float *residual, const Inputs8 *x) {
    const size_t N = x->N, O = l->w.rows, threads = threads_for((double)N * (double)O * (double)l->w.cols / 4);
    const Grid grid = gemm_grid(N, O, threads);
    const size_t blocks = CEIL_DIV(N, BLOCK), groups = CEIL_DIV(O, VL);
    const size_t bytes = CHUNK * PIECE_MAX + 2 * CHUNK * (PIECE_MAX / 8) * sizeof(float);
    char *buffers = scratch(SCRATCH_A, threads * bytes);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)threads) if (threads > 1)
    for (size_t task = 0; task < grid.down * grid.across; task++) {
        const size_t down = task % grid.down, across = task / grid.down;
        const size_t row0 = blocks * down / grid.down * BLOCK, row1 = blocks * (down + 1) / grid.down * BLOCK;
        const size_t column0 = groups * across / grid.across * VL, column1 = groups * (across + 1) / grid.across * VL;
        gemm8_task(l, residual, x, row0, MIN(row1, N), column0, MIN(column1, O),
                   buffers + (size_t)omp_get_thread_num() * bytes);
    }
}

/* A list of which some are quantised. Neighbours that want the same inputs share them. */
static bool same_inputs(const Mat *a, const Mat *b) {
    return a->dtype == b->dtype && a->order == b->order && a->input == b->input && a->input_scale == b->input_scale &&
           group_size(a) == group_size(b) && !a->zero == !b->zero;
}
static void quant_matmul(const Linear *lin, int n, const float *x, const float *residual, size_t N) {
    for (int i = 0, j; i < n; i = j) {
        const Mat *w = &lin[i].w;
        for (j = i + 1; j < n && mat_quantised(w) && same_inputs(w, &lin[j].w); j++) {}
        if (mat_quantised(w) && N <= FEW_ROWS) {
            few8_run(lin + i, j - i, x, residual, N);
        } else if (mat_quantised(w) && w->input != INPUT_FLOAT) {
            const Inputs8 f = inputs8(w, x, N);
            for (int k = i; k < j; k++) gemm8_run(&lin[k], residual, &f);
        } else {                                              /* widened while packed, if quantised */
            const float *x_ordered = mat_quantised(w) ? inputs_ordered(w, x, N, SCRATCH_QUANT) : x;
            gemm_matmul(lin + i, j - i, x_ordered, residual, N);
        }
    }
}
#endif
#else /* __CUDACC__ */
/* ---- the CUDA half ---------------------------------------------------------------------------------------------- *
 * Few rows: as few_rows in matmul.cuh, 16 bytes of weights a lane and load (32 int4, 16 int8), widened in registers.
 * Many: widened to activations' type, then cuBLASLt. Inputs that want to be int8 are rounded to it and stay in act,
 * which holds such integers exactly; for many rows they are scaled back first. */
template <bool SCALED> __global__ static void quant_inputs(act *y, float *scales, const act *x, size_t C, Mat w) {
    x += blockIdx.x * C, y += blockIdx.x * C;
    if (w.input == INPUT_FLOAT) {
        for (size_t c = threadIdx.x; c < C; c += blockDim.x) y[c] = x[w.order ? (size_t)w.order[c] : c];
        return;
    }
    float largest = 0, bad = 0;
    for (size_t c = threadIdx.x; c < C; c += blockDim.x) {
        float v = fabsf(to_f(x[c]));
        if (!(v < INFINITY)) bad = 1;
        largest = fmaxf(largest, v);
    }
    largest = block_max(largest), bad = block_max(bad);
    float scale = bad > 0 ? NAN : w.input == INPUT_STATIC ? w.input_scale : largest / 127.5f;
    float divisor = scale > 0x1p-120f ? scale : INFINITY;
    for (size_t c = threadIdx.x; c < C; c += blockDim.x) {
        float v = to_f(x[w.order ? (size_t)w.order[c] : c]);
        float q = bad > 0 ? 0.0f : rintf(fminf(fmaxf(v / divisor, -128.0f), 127.0f));
        y[c] = from_f<act>(SCALED ? q * scale : q);
    }
    if (!threadIdx.x) scales[blockIdx.x] = scale;
}

typedef struct QuantFew {
    Mat w;
    const float *bias;
    act *y;
    const act *x, *residual;
    const float *x_scale;
    int N;
} QuantFew;
template <int BITS, int NX, int SPLIT> __global__ static void quant_few(QuantFew f) {
    constexpr int PACK = 128 / BITS, WARPS = 4;
    __shared__ float part[WARPS][NX];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % SPLIT;
    const size_t C = f.w.cols, o = blockIdx.x * (size_t)(WARPS / SPLIT) + warp / SPLIT;
    if (SPLIT == 1 && o >= f.w.rows) return;
    const size_t groups = mat_groups(&f.w);
    const char *row = (const char *)f.w.data + o * mat_row_bytes(&f.w);
    float acc[NX] = {};
#pragma unroll 2
    for (size_t k = (size_t)(share * 32 + lane) * PACK; k < C; k += SPLIT * 32 * PACK) {
        const uint4 four = *(const uint4 *)(row + k * BITS / 8);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        const size_t i = o * groups + (groups > 1 ? k / f.w.group : 0);
        const float scale = mat_scale(&f.w, i), zero = f.w.zero ? (float)f.w.zero[i] : 0.0f;
#pragma unroll
        for (int n = 0; n < NX; n++) {
            if (n >= f.N) break;
            float sum = 0;
            for (int j = 0; j < PACK; j += 8) {               /* eight inputs at a time: 16 or 32 bytes */
                if (k + j >= C) break;
                const Pack<act, 8> x = load<8>(f.x + n * C + k + j);
                for (int e = 0; e < 8; e++) {
                    const int at = j + e;
                    const int q = BITS == 4 ? (int)(words[at / 8] >> (4 * (at % 8)) & 15) - 8
                                            : (int)(int8_t)(words[at / 4] >> (8 * (at % 4)));
                    sum += ((float)q - zero) * to_f(x.v[e]);
                }
            }
            acc[n] += sum * scale;
        }
    }
    for (int n = 0; n < NX; n++) {
        acc[n] = warp_sum(acc[n]);
        if (SPLIT > 1 && !lane) part[warp][n] = acc[n];
    }
    if (SPLIT > 1) {
        __syncthreads();
        if (share) return;
        for (int n = 0; n < NX; n++)
            for (int s = 1; s < SPLIT; s++) acc[n] += part[warp + s][n];
    }
    if (lane) return;
    for (int n = 0; n < NX && n < f.N; n++) {
        size_t at = n * f.w.rows + o;
        float y = f.x_scale ? acc[n] * f.x_scale[n] : acc[n];
        if (f.bias) y += f.bias[o];
        if (f.residual) y += to_f(f.residual[at]);
        f.y[at] = from_f<act>(y);
    }
}
template <int BITS, int NX> static void quant_few_launch(const QuantFew *f) {
    if (f->w.rows >= 4096) quant_few<BITS, NX, 1><<<(unsigned)CEIL_DIV(f->w.rows, (size_t)4), 128, 0, stream>>>(*f);
    else quant_few<BITS, NX, 4><<<(unsigned)f->w.rows, 128, 0, stream>>>(*f);
    LAUNCHED();
}
template <int BITS> static void quant_few_run(const QuantFew *f) {
    if (f->N == 1) quant_few_launch<BITS, 1>(f);
    else if (f->N <= 4) quant_few_launch<BITS, 4>(f);
    else quant_few_launch<BITS, 8>(f);
}
/* 16-byte loads, and one group under each. */
static bool quant_few_can(const Mat *w, const act *x) {
    size_t pack = w->dtype == DT_I4 ? 32 : 16;
    return mat_row_bytes(w) % 16 == 0 && w->cols % 8 == 0 && aligned16(w->data, x) &&
           (mat_groups(w) == 1 || w->group % pack == 0);
}
static const act *quant_act(const Mat *w) {                   /* columns as stored */
    act *y = (act *)scratch(SCRATCH_A, w->rows * w->cols * sizeof(act));
    quant_convert(y, w, false);
    return y;
}
static void quant_matmul(const Linear *l, const act *x, const act *residual, size_t N) {
    const Mat *w = &l->w;
    const size_t O = w->rows, C = w->cols;
    const bool few = N <= FEW_ROWS && quant_few_can(w, x);
    const act *x_in = x;
    float *x_scale = NULL;
    if (w->order || w->input != INPUT_FLOAT) {
        act *made = (act *)scratch(SCRATCH_QUANT, N * C * sizeof(act) + N * sizeof(float) + 16);
        x_scale = w->input == INPUT_FLOAT ? NULL : (float *)(made + CEIL_DIV(N * C, (size_t)8) * 8);
        if (few) quant_inputs<false><<<(unsigned)N, 256, 0, stream>>>(made, x_scale, x, C, *w);
        else quant_inputs<true><<<(unsigned)N, 256, 0, stream>>>(made, x_scale, x, C, *w);
        LAUNCHED();
        x_in = made;
    }
    if (few) {
        const QuantFew f = {*w, l->bias, l->y, x_in, residual, x_scale, (int)N};
        if (w->dtype == DT_I4) quant_few_run<4>(&f);
        else quant_few_run<8>(&f);
        return;
    }
    lt_matmul(l->y, sizeof(act) == 4, quant_act(w), true, x_in, false, O, N, C, residual, residual ? 1.0f : 0.0f,
              bias_act(l->bias, O));
}
/* dx (N,C) gains, or becomes, the columns of part where they belong. */
__global__ static void dx_place(act *dx, const act *part, const int32_t *order, size_t n, size_t C, bool add) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        act *to = dx + i / C * C + order[i % C];
        *to = add ? from_f<act>(to_f(*to) + to_f(part[i])) : part[i];
    }
}
#endif /* __CUDACC__ */
