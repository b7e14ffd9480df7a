/* quantize.c - stage 4: a model a quarter its size. Weights become whole numbers of 8 or 4 bits and a scale for each
 * group of them; what is lost is measured, layer by layer and in perplexity.
 *
 *     ./quantize --model DIR --out DIR2 --bits 4 --calibration text.txt --eval held-out.txt
 *     ./quantize --model DIR --out DIR2 --bits 8 --activations dynamic     int8 products: prefill at twice bf16's speed
 *     ./quantize --model DIR --out small.gguf --bits 8 --format gguf       one file for llama.cpp: Q8_0; --bits 4: Q4_0
 *     ./quantize --bits 4 --calibration corpus:200k --eval corpus-valid:50k --out small    on ./train's model, a minute
 *
 * THE LESSON. Decoding reads every weight once per token, so half the bytes is twice the speed. A group of G weights w
 * is stored as whole numbers q and one scale (and, asymmetric, one zero point): w ~ (q - zero) * scale. Three questions
 * decide how much that costs, and each has its section:
 *   which scale?     The largest weight on the last step wastes steps on outliers; a smaller scale clips them. Search.
 *   which number?    Rounding each weight to the nearest is best for the weight, not for the layer's output. A layer
 *                    sees inputs that go together; the error of one weight can be paid back by its neighbours: GPTQ,
 *                    and a descent from there.
 *   which weights?   The same function can be written with other weights that are easier to round: the stream turned by
 *                    an orthogonal matrix, or scales moved from a weight into the norm before it.
 *
 * Blocks are quantised in order, each with the inputs that the quantised ones before it make. One block is in memory as
 * floats at a time, the rest stays in the mapped file; what is done is written at once. The directory appears when it
 * is whole (compressed-tensors' layout, which transformers loads), or not at all.
 *
 * MAP
 *   [quantize.options]    every choice, one line each
 *   [quantize.grid]       scale and zero point of one group; rounding to nearest
 *   [quantize.factor]     the triangular factor of a Hessian, in panels
 *   [quantize.gptq]       rounding column by column, errors paid back
 *   [quantize.descend]    codes and scales moved once more, each to where the layer's error is least
 *   [quantize.calibrate]  what each linear layer sees: Hessians, histograms, scales of inputs
 *   [quantize.fold]       the same function with other weights: rotation, scales moved into norms
 *   [quantize.plan]       which matrices, in how many bits; a budget
 *   [quantize.file]       tensors, config.json, the card
 *   [quantize.report]     what it cost
 *   [quantize.run]        the loop over blocks
 *
 * Refused here: running quantised products (kernels/quant.cuh), reading them (model.c), training, GPUs. */
#include "common.h"
#include "dataset.h"
#include "evaluate.h"
#include "gguf.h"
#include "kernels.h"
#include "model.h"
#include "tokenizer.h"
#include "weights.h"
#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [quantize.options] */
static struct {
    const char *model, *out, *format, *symmetric, *activations, *method, *precision, *dtype, *budget;
    int64_t bits, group, tokens, seq, embedding;
    double smooth;
    bool rotate, overwrite, json, bench;
    StrList calibration, keep, eval;
} o = {.model = "out", .out = "quantised", .format = "hub",
       .symmetric = "yes", .activations = "none", .method = "rtn", .precision = "auto",
       .dtype = "auto", .bits = 4, .tokens = 65536, .seq = 512};

static Opt table[] = {
    TEXT("model", model, "the model to quantise: a directory, which stays as it is"),
    TEXT("out", out, "directory of the quantised model"),
    FLAG("overwrite", overwrite, "replace a model that is there"),
    ONE_OF("format", format, "hub: a directory in compressed-tensors' layout; gguf: --out is one file for llama.cpp, "
        "with the tokenizer in it (8 bits: Q8_0; 4 bits: Q4_0, token embedding and head in Q8_0)", "hub|gguf"),

    SECTION("What is stored"),
    INT("bits", bits, "of a weight: 8 or 4", 4, 8),
    INT("group", group, "inputs that share a scale: 128, 64, 32, any multiple of 8 that divides them all; 0: a whole "
        "row (if not given: 128 with 4 bits, 0 with 8)", 0, 1 << 20),
    ONE_OF("symmetric", symmetric, "no: each group has a zero point too, for weights that are not centred", "yes|no"),
    WORDS("keep", keep, "leave these matrices as they are: a part of their module's name, or a pattern with *"),
    TEXT("budget", budget, "bits per weight that the blocks may take, scales included, such as 4.8bpw: the matrices "
        "that lose most for their size at 4 bits get 8"),
    INT("embedding", embedding, "8: token embedding and head too, a scale a row (0: they stay as they are)", 0, 8),
    ONE_OF("dtype", dtype, "of what stays as it is; auto: as it was", "auto|f32|f16|bf16"),

    SECTION("How"),
    ONE_OF("method", method, "round to nearest, or GPTQ, which needs --calibration (if not given: gptq where there "
        "is one)", "rtn|gptq"),
    WORDS("calibration", calibration, "text of the kind that the model will see: .txt, .jsonl, a folder, "
        "corpus:BYTES, .bin"),
    INT("calibration-tokens", tokens, "at most so many of its tokens", 1, 1e9),
    INT("calibration-seq", seq, "tokens of a window", 8, 1 << 20),
    FLAG("rotate", rotate, "turn the stream by a random Hadamard matrix first, which spreads outliers (models with "
        "RMSNorm)"),
    REAL("smooth", smooth, "move this part of the inputs' range into the weights, 0 to 1 (SmoothQuant has 0.5; 0: "
        "none)", 0, 1),
    ONE_OF("activations", activations, "round inputs to int8 too: with a scale a token (dynamic), or one measured "
        "beforehand (static, needs --calibration)", "none|dynamic|static"),
    ONE_OF("precision", precision, "of products while calibrating and evaluating; auto: bf16 for more than a billion "
        "weights where the CPU multiplies it, else f32", "auto|f32|bf16"),

    SECTION("Report"),
    WORDS("eval", eval, "text to measure perplexity and KL divergence on, before and after"),
    FLAG("bench", bench, "decoding speed, before and after"),
    FLAG("json", json, "the result as one JSON object on stdout"),
    COMMON_OPTS,
};
enum { N_OPTIONS = sizeof table / sizeof *table };
static bool given(const char *name) { return option_given(table, N_OPTIONS, name); }

static const char about[] =
    "quantize - a model in 8 or 4 bits a weight, and what that costs\n\n"
    "  ./quantize --model DIR --out DIR2 --bits 8                              round to nearest: needs no data\n"
    "  ./quantize --model DIR --out DIR2 --bits 4 --calibration text.txt       GPTQ: what the inputs do counts\n"
    "  ./quantize --model DIR --out DIR2 --bits 8 --activations dynamic        int8 products\n"
    "  ./quantize --model DIR --out small.gguf --bits 4 --format gguf          for llama.cpp\n"
    "  ./quantize --model DIR --out DIR2 --bits 4 --calibration A --eval B     perplexity, before and after";

/* ================================================================================================================= *
 * [quantize.grid] One group of weights on a grid of 2^bits steps.
 *
 *     q = clamp(round(w / scale) + zero, low, high)      w ~ (q - zero) * scale      low = -2^(bits-1), high = -low - 1
 *
 * Symmetric: zero = 0, and |scale| = max|w| / 7 or / 8 (4 bits). The grid has one step more below zero than above, so a
 * negative scale is worth a try as well: it gives that step to the larger side. Asymmetric: from the smallest to the
 * largest weight (and 0, which must stay 0).
 *
 * Of these and of scales down to half of them the one is taken whose squared error, each weight's counted by the energy
 * h of its input, is least; then the best scale for the whole numbers that came out, sum h q w / sum h q^2, is
 * tried. */
typedef struct { int bits; bool symmetric; size_t group; DType scale_dtype; } Grid;
typedef struct Codes {                 /* a matrix on its grid */
    size_t rows, cols, groups;
    int8_t *q;                         /* (rows, cols) */
    float *scale;                      /* (rows, groups), as it will be stored */
    int8_t *zero;                      /* (rows, groups) */
} Codes;

static size_t groups_of(const Grid *g, size_t cols) { return g->group && g->group < cols ? cols / g->group : 1; }
static size_t group_size(const Grid *g, size_t cols) { return cols / groups_of(g, cols); }

/* The loops that see every weight, dozens of times in a search: compiled for three widths of vectors, of which the CPU
 * takes its own. */
#if defined __x86_64__ && defined __GLIBC__
#define EACH_WIDTH __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define EACH_WIDTH
#endif

/* Adding 1.5 * 2^23 leaves no bits for a fraction: the nearest whole number, ties to even, without a call. */
static inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }
/* (Clamped first: nearest() is for small numbers, and the grid's ends are whole.) */
static inline float code(float w, float inverse, float zero, float low, float high) {
    float x = w * inverse, least = low - zero, most = high - zero;
    x = x < least ? least : x;
    x = x > most ? most : x;
    return nearest(x) + zero;
}
/* The scale as the file will hold it; never 0 or infinite. */
static float stored_scale(DType dtype, float scale) {
    uint32_t bits;
    float back;
    f32_to_dtype(&scale, 1, dtype, &bits);
    tensor_to_f32(&(Tensor){.dtype = dtype, .n = 1, .data = &bits}, &back);
    float least = dtype == DT_F16 ? 0x1p-14f : 0x1p-126f, most = dtype == DT_F16 ? 65504 : 3e38f;
    if (!(fabsf(back) >= least)) back = back < 0 ? -least : least;
    return fabsf(back) <= most ? back : back < 0 ? -most : most;
}
/* (By value: through a pointer its fields might be what the sum is written to, and nothing is vectorised.) */
typedef struct { float low, high; const float *w, *h; size_t n; } Fit;
EACH_WIDTH static float fit_error(Fit f, float scale, float zero) {
    float inverse = 1 / scale, sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < f.n; i++) {
        float d = (code(f.w[i], inverse, zero, f.low, f.high) - zero) * scale - f.w[i];
        sum += f.h[i] * d * d;
    }
    return sum;
}
typedef struct { float scale, zero, error; } Step;
static void fit_try(const Fit *f, DType dtype, float scale, float zero, Step *best) {
    if (scale == 0 || !isfinite(scale)) return;
    scale = stored_scale(dtype, scale);
    float e = fit_error(*f, scale, zero);
    if (e < best->error) *best = (Step){scale, zero, e};
}
/* h (n): the weight of each one's error. thorough: the whole search; else the largest weight decides. */
static Step fit(const Grid *g, const float *w, const float *h, size_t n, bool thorough) {
    float low = -(float)(1 << (g->bits - 1)), high = -low - 1, least = 0, most = 0;
    #pragma omp simd reduction(min : least) reduction(max : most)
    for (size_t i = 0; i < n; i++) least = w[i] < least ? w[i] : least, most = w[i] > most ? w[i] : most;
    if (least == 0 && most == 0) return (Step){1, 0, 0};              /* all zero: any scale will do, but 0 */
    Fit f = {low, high, w, h, n};
    Step best = {1, 0, INFINITY};
    float widest = -least > most ? least : most, floor_part = g->bits == 4 ? 0.5f : 0.9f;
    for (float part = 1; part >= floor_part; part -= 0.025f) {
        if (g->symmetric) {
            fit_try(&f, g->scale_dtype, fabsf(widest) * part / high, 0, &best);
            fit_try(&f, g->scale_dtype, widest * part / low, 0, &best);
        } else {
            float scale = (most - least) * part / (high - low);
            float zero = nearest(low - least * part / scale);
            fit_try(&f, g->scale_dtype, scale, zero < low ? low : zero > high ? high : zero, &best);
        }
        if (!thorough) break;
    }
    for (int again = 0; again < 2 && thorough; again++) {
        float up = 0, down = 0, inverse = 1 / best.scale;
        for (size_t i = 0; i < n; i++) {
            float q = code(w[i], inverse, best.zero, low, high) - best.zero;
            up += h[i] * q * w[i], down += h[i] * q * q;
        }
        if (down > 0) fit_try(&f, g->scale_dtype, up / down, best.zero, &best);
    }
    /* errors too large for a float */
    if (!isfinite(best.error)) best.scale = stored_scale(g->scale_dtype, fabsf(widest) / high);
    return best;
}

static Codes codes_new(const Grid *g, size_t rows, size_t cols) {
    Codes c = {rows, cols, groups_of(g, cols), NULL, NULL, NULL};
    c.q = xmalloc(size_mul(rows, cols));
    c.scale = xmalloc(size_mul(rows * c.groups, sizeof *c.scale));
    c.zero = xcalloc(rows * c.groups, 1);
    return c;
}
static void codes_free(Codes *c) {
    free(c->q), free(c->scale), free(c->zero);
    *c = (Codes){0};
}
/* Scales and zero points of every group of w (rows, cols); energy (cols): sum of each input's squares. */
static void fit_all(Codes *c, const Grid *g, const float *w, const float *energy, bool thorough) {
    size_t G = group_size(g, c->cols);
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++)
        for (size_t i = 0; i < c->groups; i++) {
            Step s = fit(g, w + r * c->cols + i * G, energy + i * G, G, thorough);
            c->scale[r * c->groups + i] = s.scale;
            c->zero[r * c->groups + i] = (int8_t)s.zero;
        }
}
/* Rounding to nearest, and back. */
EACH_WIDTH static void round_group(const float *w, size_t n, float scale, float zero, int bits, int8_t *q) {
    float low = -(float)(1 << (bits - 1)), high = -low - 1, inverse = 1 / scale;
    #pragma omp simd
    for (size_t i = 0; i < n; i++) q[i] = (int8_t)code(w[i], inverse, zero, low, high);
}
static void round_all(Codes *c, const Grid *g, const float *w) {
    size_t G = group_size(g, c->cols);
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < c->rows * c->groups; i++)
        round_group(w + i * G, G, c->scale[i], c->zero[i], g->bits, c->q + i * G);
}
EACH_WIDTH static void widen_group(const int8_t *q, size_t n, float scale, int zero, float *w) {
    #pragma omp simd
    for (size_t i = 0; i < n; i++) w[i] = (float)(q[i] - zero) * scale;
}
static void dequantise(const Codes *c, const Grid *g, float *w) {
    size_t G = group_size(g, c->cols);
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < c->rows * c->groups; i++) widen_group(c->q + i * G, G, c->scale[i], c->zero[i], w + i * G);
}

/* ================================================================================================================= *
 * [quantize.factor] GPTQ needs H = X^T X, the inputs' products summed over the calibration text, as H = L L^T with L
 * lower triangular. The inputs stand in the order in which they will be rounded, from the last place to the first:
 * those with most energy go first, when there are most others left to pay for them ("act-order").
 *
 * n may be 14,000, and n^3/3 products should run at matmul's speed: L is kept in panels of P columns, each contiguous
 * from its diagonal block down, so that everything but the diagonal blocks is op.matmul on whole panels. */
enum { P = 128 };
typedef struct Factor {
    size_t n;
    uint32_t *order;                   /* (n) order[place] = input */
    float **panel;                     /* panel p: places p*P .. n-1 by its columns, (n - p*P, width) */
    float damp;                        /* L L^T = H + damp I */
} Factor;
static size_t panels(size_t n) { return (n + P - 1) / P; }
static size_t panel_width(size_t n, size_t p) { return n - p * P < P ? n - p * P : P; }

static void factor_free(Factor *f) {
    for (size_t p = 0; f->panel && p < panels(f->n); p++) op.mem_free(f->panel[p]);
    free(f->panel), free(f->order);
    *f = (Factor){0};
}
static const float *sort_energy;       /* (qsort has no argument for it) */
static int by_energy(const void *a, const void *b) {
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    float x = sort_energy[i], y = sort_energy[j];
    return x != y ? (x > y) - (x < y) : (i > j) - (i < j);
}
/* The b x b block in place, rows b apart, in double: it is small, and everything below rests on it. */
static bool block_cholesky(float *a, size_t b) {
    for (size_t j = 0; j < b; j++)
        for (size_t i = j; i < b; i++) {
            double s = (double)a[i * b + j];
            for (size_t k = 0; k < j; k++) s -= (double)a[i * b + k] * (double)a[j * b + k];
            if (i == j && !(s > 0 && isfinite(s))) return false;
            a[i * b + j] = (float)(i == j ? sqrt(s) : s / (double)a[j * b + j]);
        }
    return true;
}
static bool factor_try(Factor *f, const float *H) {
    size_t n = f->n;
    for (size_t p = 0; p < panels(n); p++) {
        size_t r0 = p * P, b = panel_width(n, p), rows = n - r0;
        float *a = f->panel[p], *minus = xmalloc(b * P * sizeof *minus);
        #pragma omp parallel for schedule(static)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < b; j++)
                a[i * b + j] = H[(size_t)f->order[r0 + i] * n + f->order[r0 + j]] + (i == j ? f->damp : 0);
        for (size_t q = 0; q < p; q++) {                            /* a -= (its rows of q) (its first b rows of q)^T */
            const float *done = f->panel[q] + (r0 - q * P) * P;
            for (size_t i = 0; i < b * P; i++) minus[i] = -done[i];
            Linear l = {.w = MAT(DT_F32, b, P, minus), .y = (act *)a};
            op.matmul(&l, 1, (const act *)(uintptr_t)done, (act *)a, rows);
        }
        free(minus);
        if (!block_cholesky(a, b)) return false;
        #pragma omp parallel for schedule(static)
        for (size_t i = b; i < rows; i++)                             /* x L^T = row, from the left */
            for (size_t j = 0; j < b; j++) {
                float s = 0;
                #pragma omp simd reduction(+ : s)
                for (size_t k = 0; k < j; k++) s += a[i * b + k] * a[j * b + k];
                a[i * b + j] = (a[i * b + j] - s) / a[j * b + j];
            }
    }
    return true;
}
/* Of H (n,n). Damping, 1% of the mean energy on the diagonal, stands for the inputs that the text did not show; where
 * that is not enough for a clean factor, more. */
static Factor factor_new(const float *H, size_t n) {
    Factor f = {.n = n, .order = xmalloc(n * sizeof(uint32_t)), .panel = xcalloc(panels(n), sizeof(float *))};
    float *energy = xmalloc(n * sizeof *energy);
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        energy[i] = H[i * n + i], mean += (double)energy[i] / (double)n, f.order[i] = (uint32_t)i;
    if (!isfinite(mean)) die("the calibration text makes inputs that are not finite: broken weights?");
    sort_energy = energy;
    qsort(f.order, n, sizeof *f.order, by_energy);
    free(energy);
    for (size_t p = 0; p < panels(n); p++)
        f.panel[p] = op.mem_alloc(size_mul(n - p * P, panel_width(n, p) * sizeof(float)));
    f.damp = mean > 0 ? (float)(0.01 * mean) : 1;
    for (int tries = 0; !factor_try(&f, H); tries++) {
        if (tries == 6) die("a Hessian has no Cholesky factor: is the calibration text one word?");
        f.damp *= 10;
    }
    return f;
}

/* ================================================================================================================= *
 * [quantize.gptq] (Frantar et al. 2023, in the form that Chee et al. 2023 call LDLQ: the same numbers, one factor
 * instead of an inverse's.) For a row w of weights and its rounded row v, with e = w - v, the layer's squared error on
 * the text is
 *
 *     e H e^T = |e L|^2 = sum over places r of ( sum over s >= r of e_s L_sr )^2
 *
 * Go through the places from the last to the first. When r's turn comes, all e_s with s > r are known, and only e_r,
 * times L_rr, is left in r's term. To make the term small, round not w_r but w_r and what the others have left it:
 *
 *     v_r = round( w_r + sum over s > r of e_s L_sr / L_rr )
 *
 * Scales are fixed before, group by group of the stored order ("static groups"), so the order leaves no trace in the
 * file.
 * Rows do not meet: a tile of them goes through a block of P places in cache, and between blocks the sum over all s is
 * one product of matrices. */
enum { TILE = 64 };
static void gptq(Codes *c, const Grid *g, const Factor *f, const float *w) {
    size_t n = f->n, O = c->rows, G = group_size(g, n);
    float low = -(float)(1 << (g->bits - 1)), high = -low - 1;
    float *e = op.mem_alloc(size_mul(n * O, sizeof *e));              /* (places, rows): w - v */
    float *debt = op.mem_alloc(P * O * sizeof *debt);                 /* (P, rows): sum over s of e_s L_sr */
    for (size_t p = panels(n); p-- > 0;) {
        size_t r0 = p * P, b = panel_width(n, p), later = n - r0 - b;
        const float *a = f->panel[p];
        op.zero(debt, P * O * sizeof *debt);
        if (later) {
            Linear l = {.w = MAT(DT_F32, b, O, NULL), .dy = (const act *)(uintptr_t)(a + b * b), .dw = debt};
            op.matmul_dw(&l, 1, (const act *)(e + (r0 + b) * O), later);
        }
        #pragma omp parallel for schedule(static)
        for (size_t o0 = 0; o0 < O; o0 += TILE) {
            size_t tile = O - o0 < TILE ? O - o0 : TILE;
            for (size_t i = b; i-- > 0;) {
                size_t in = f->order[r0 + i], group = in / G;
                float *e_i = e + (r0 + i) * O + o0, diagonal = a[i * b + i];
                for (size_t k = 0; k < tile; k++) {
                    size_t row = o0 + k, at = row * c->groups + group;
                    float weight = w[row * n + in], target = weight + debt[i * O + row] / diagonal;
                    float q = code(target, 1 / c->scale[at], c->zero[at], low, high),
                        value = (q - c->zero[at]) * c->scale[at];
                    c->q[row * n + in] = (int8_t)q;
                    e_i[k] = weight - value;
                }
                for (size_t j = 0; j < i; j++) {
                    float l = a[i * b + j], *debt_j = debt + j * O + o0;
                    #pragma omp simd
                    for (size_t k = 0; k < tile; k++) debt_j[k] += l * e_i[k];
                }
            }
        }
    }
    op.mem_free(e), op.mem_free(debt);
}

/* ================================================================================================================= *
 * [quantize.descend] GPTQ rounds each weight once, before it knows what the later ones will do. Afterwards every code and
 * every scale may move again, one at a time, to where the row's error e H e^T is least while all others stay (coordinate
 * descent, as QuantEase; Behdin et al. 2023). Both are the bottom of a parabola: with slope = e H, half the error's
 * derivative,
 *
 *     v_i = round( v_i + slope_i / H_ii )          scale += q_g slope_g^T / q_g H_gg q_g^T      (q less its zero point)
 *
 * so no step makes it worse. Inside a block of inputs the slope follows each step; for all others it follows when the
 * block is done, by one product of matrices. (The default model in groups of 64: the error 9% less, KL divergence 8%.) */
enum { SWEEPS = 3, BLOCK_MOST = 256 };
EACH_WIDTH static void add_scaled(float *y, const float *x, float by, size_t n) {
    #pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] += by * x[i];
}
/* sum over the rows of x and y (rows, n) of x y^T, the same on any number of threads. */
static double dots(const float *x, const float *y, size_t rows, size_t n) {
    double sum = 0, *row = xcalloc(rows, sizeof *row);
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++)
        for (size_t i = r * n; i < (r + 1) * n; i++) row[r] += (double)(x[i] * y[i]);
    for (size_t r = 0; r < rows; r++) sum += row[r];
    free(row);
    return sum;
}
/* A block of inputs: B of them, H's B x B corner with rows n apart, the first one's place in its group of G. */
typedef struct Block { const Grid *g; const float *H; size_t n, B, G, place; float damp; } Block;
static void block_codes(const Block *b, const float *w, int8_t *q, const float *scale, const int8_t *zero, float *e,
                        float *slope) {
    float low = -(float)(1 << (b->g->bits - 1)), high = -low - 1;
    for (size_t i = 0; i < b->B; i++) {
        size_t group = (b->place + i) / b->G;
        float s = scale[group], z = zero[group], h = b->H[i * b->n + i] + b->damp;
        float best = code(w[i] - e[i] + (slope[i] + b->damp * e[i]) / h, 1 / s, z, low, high), step = (q[i] - best) * s;
        if (step == 0) continue;
        q[i] = (int8_t)best, e[i] += step;
        add_scaled(slope, b->H + i * b->n, step, b->B);
    }
}
static void block_scales(const Block *b, const int8_t *q, float *scale, const int8_t *zero, float *e, float *slope) {
    for (size_t first = 0; first < b->B; first += b->G) {
        float v[BLOCK_MOST], v_H[BLOCK_MOST] = {0}, up = 0, down = 0, *s = &scale[first / b->G];
        for (size_t i = 0; i < b->G; i++) {
            v[i] = (float)(q[first + i] - zero[first / b->G]);
            if (v[i] != 0) add_scaled(v_H, b->H + (first + i) * b->n, v[i], b->B);
        }
        for (size_t i = 0; i < b->G; i++) {
            up += v[i] * (slope[first + i] + b->damp * e[first + i]);
            down += v[i] * (v_H[first + i] + b->damp * v[i]);
        }
        float next = stored_scale(b->g->scale_dtype, *s + up / down), by = next - *s;
        if (!(down > 0) || !(by * (by * down - 2 * up) < 0)) continue;         /* rounded, it might be worse than it was */
        *s = next;
        add_scaled(e + first, v, -by, b->G);
        add_scaled(slope, v_H, -by, b->B);
    }
}
/* Of codes as GPTQ left them, for w (rows, cols) and H (cols, cols). Returns the sum over rows of e H e^T. */
static double descend(Codes *c, const Grid *g, const float *H, float damp, const float *w) {
    size_t n = c->cols, O = c->rows, G = group_size(g, n), most = G <= BLOCK_MOST ? BLOCK_MOST / G * G : BLOCK_MOST;
    float *e = op.mem_alloc(size_mul(n * O, sizeof *e)), *slope = op.mem_alloc(size_mul(n * O, sizeof *slope)),
        *moved = op.mem_alloc(most * O * sizeof *moved);              /* what e gains in a block */
    dequantise(c, g, e);
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n * O; i++) e[i] = w[i] - e[i];
    Linear all = {.w = MAT(DT_F32, n, n, (void *)(uintptr_t)H), .y = (act *)slope};
    op.matmul(&all, 1, (const act *)(uintptr_t)e, NULL, O);
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (size_t first = 0; first < n; first += most) {
            Block b = {g, H + first * n + first, n, n - first < most ? n - first : most, G, first % G, damp};
            #pragma omp parallel for schedule(static)
            for (size_t r = 0; r < O; r++) {
                size_t at = r * n + first, group = r * c->groups + first / G;
                float near[BLOCK_MOST], *gain = moved + r * b.B;
                memcpy(near, slope + at, b.B * sizeof *near);
                memcpy(gain, e + at, b.B * sizeof *gain);
                block_codes(&b, w + at, c->q + at, c->scale + group, c->zero + group, e + at, near);
                if (G <= BLOCK_MOST) block_scales(&b, c->q + at, c->scale + group, c->zero + group, e + at, near);
                for (size_t i = 0; i < b.B; i++) gain[i] = e[at + i] - gain[i];
            }
            Linear rest = {.w = MAT(DT_F32, b.B, n, (void *)(uintptr_t)(H + first * n)), .dy = (const act *)moved};
            op.matmul_dx((act *)slope, &rest, 1, O, true);
        }
    double sum = dots(e, slope, O, n);
    op.mem_free(e), op.mem_free(slope), op.mem_free(moved);
    return sum;
}
/* sum over the rows of x (rows, n) of x H x^T. */
static double quadratic(const float *x, size_t rows, const float *H, size_t n) {
    double sum = 0;
    enum { ROWS = 256 };
    float *y = op.mem_alloc(ROWS * n * sizeof *y);
    for (size_t r = 0; r < rows; r += ROWS) {
        size_t now = rows - r < ROWS ? rows - r : ROWS;
        Linear l = {.w = MAT(DT_F32, n, n, (void *)(uintptr_t)H), .y = (act *)y};
        op.matmul(&l, 1, (const act *)(uintptr_t)(x + r * n), NULL, now);
        sum += dots(x + r * n, y, now, n);
    }
    op.mem_free(y);
    return sum;
}

/* ================================================================================================================= *
 * [quantize.calibrate] What the linear layers see. Ops are called through a table: op.matmul is replaced by one that
 * looks at its input first, knows the layer by its weights, and goes on. Layers that read the same x share a tap. */
typedef enum { TAP_QKV, TAP_O, TAP_UP, TAP_DOWN, N_TAPS } TapKind;
static const Role tap_roles[N_TAPS][3] = {{R_Q, R_K, R_V}, {R_O, R_O, R_O}, {R_GATE, R_UP, R_UP},
    {R_DOWN, R_DOWN, R_DOWN}};
/* |x| is counted by its float's exponent and first five bits: 3% wide bins, and no range to be known beforehand. */
enum { BIN_SHIFT = 18, N_BINS = 1 << (31 - BIN_SHIFT) };
typedef struct Tap {
    const void *weight;                /* data of the first layer that reads it */
    size_t n;                          /* inputs */
    float *energy, *largest;           /* (n) sum of squares, largest |x| of each input */
    float *H;                          /* (n,n) sum of products; NULL: not asked for */
    uint32_t *bins;                    /* (N_BINS) or NULL */
    double squares, lost8, lost4;      /* of a sample: sum of x^2, and of the error when rounded per token */
} Tap;
static struct {
    Ops op;                            /* the ops themselves */
    Tap *tap;
    int n_taps;
    float *x;                          /* a batch of inputs on the host */
    size_t x_room;
} look;

static Tap tap_new(const Model *m, int layer, TapKind kind, bool hessian, bool bins) {
    Role first = tap_roles[kind][0];
    if (!m->at[layer + 1][first]) first = tap_roles[kind][1];         /* no gate */
    const Param *p = m->at[layer + 1][first];
    Tap t = {.weight = p->w.data, .n = p->cols};
    t.energy = xcalloc(t.n, sizeof *t.energy);
    t.largest = xcalloc(t.n, sizeof *t.largest);
    if (hessian) t.H = op.mem_alloc(size_mul(t.n * t.n, sizeof *t.H));
    if (bins) t.bins = xcalloc(N_BINS, sizeof *t.bins);
    return t;
}
static void tap_free(Tap *t) {
    free(t->energy), free(t->largest), free(t->bins);
    op.mem_free(t->H);
    *t = (Tap){0};
}
/* The error of a token's inputs, rounded with one scale: what --activations dynamic does, and what 4 bits would. */
static double token_error(const float *x, size_t n, float steps) {
    float most = 0, sum = 0;
    for (size_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    if (!(most > 0)) return 0;
    float scale = most / steps, inverse = steps / most;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) {
        float d = nearest(x[i] * inverse) * scale - x[i];
        sum += d * d;
    }
    return (double)sum;
}
static void tap_see(Tap *t, const act *x, size_t N) {
    size_t n = t->n;
    if (look.x_room < N * n) look.x = xrealloc(look.x, (look.x_room = N * n) * sizeof *look.x);
    op.act_to_host(look.x, x, N * n);
    bool sample = t->squares == 0;                                    /* the first batch is sample enough */
    #pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < n; c0 += 64)                             /* by columns: each sum has one order */
        for (size_t r = 0; r < N; r++)
            for (size_t c = c0; c < c0 + 64 && c < n; c++) {
                float v = look.x[r * n + c], size = fabsf(v);
                t->energy[c] += v * v;
                if (size > t->largest[c]) t->largest[c] = size;
            }
    for (size_t r = 0; r < N && sample; r++) {
        const float *row = look.x + r * n;
        for (size_t c = 0; c < n; c++) t->squares += (double)(row[c] * row[c]);
        t->lost8 += token_error(row, n, 127), t->lost4 += token_error(row, n, 7);
    }
    for (size_t i = 0; i < N * n && t->bins; i++) {
        uint32_t b;
        memcpy(&b, &look.x[i], 4);
        t->bins[(b & 0x7fffffff) >> BIN_SHIFT]++;
    }
    if (!t->H) return;
    look.op.set_precision(PREC_F32);                             /* sums of rounded products would be a noisy Hessian */
    Linear l = {.w = MAT(DT_F32, n, n, NULL), .dy = x, .dw = t->H};
    look.op.matmul_dw(&l, 1, x, N);
}
static Precision precision;
static void looking_matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    for (int i = 0; i < look.n_taps; i++)
        if (look.tap[i].weight == lin[0].w.data) tap_see(&look.tap[i], x, N);
    look.op.set_precision(precision);
    look.op.matmul(lin, n, x, residual, N);
    look.op.set_precision(PREC_F32);
}

/* The scale of static inputs, from their histogram: values above 127 scales are clipped, those below are off by a third
 * of half a step squared; the sum of both is least somewhere, and a few large values no longer decide. */
static float static_scale(const Tap *t) {
    double best = INFINITY, count = 0;
    float scale = 1;
    for (int b = 0; b < N_BINS; b++) count += t->bins[b];
    for (int top = N_BINS - 1; top > 0; top--) {
        uint32_t bits = (uint32_t)(top + 1) << BIN_SHIFT;
        float limit;
        memcpy(&limit, &bits, 4);
        if (!t->bins[top] && best == INFINITY) continue;              /* above the largest */
        double step = (double)limit / 127, error = count * step * step / 12;
        for (int b = top + 1; b < N_BINS; b++) {
            if (!t->bins[b]) continue;
            uint32_t middle = ((uint32_t)b << BIN_SHIFT) + (1u << (BIN_SHIFT - 1));
            float x;
            memcpy(&x, &middle, 4);
            error += t->bins[b] * ((double)x - (double)limit) * ((double)x - (double)limit);
        }
        if (error < best) best = error, scale = (float)step;
        else if (error > 4 * best) break;
    }
    return scale;
}

/* Windows of the calibration text, as many rows to a batch as keep the cores busy, and the stream of each. */
typedef struct { size_t B, T; int n; int32_t *tokens; act **stream; Acts *acts; } Calibration;
static Calibration calibration_read(Model *m, const Tokenizer *tok) {
    const Config *c = &m->cfg;
    Stream s = stream_read(o.calibration, c, tok, true);
    const Ids none = {0}, *prefix = tok ? tokenizer_prefix(tok) : &none, *suffix = tok ? tokenizer_suffix(tok) : &none;
    size_t T = (size_t)o.seq < (size_t)c->max_pos ? (size_t)o.seq : (size_t)c->max_pos, around = prefix->n + suffix->n;
    if (T <= around)
        die("--calibration-seq %zu: a text of this model begins and ends with %zu tokens already", T, around);
    size_t inner = T - around, n_ids = s.ids.n < (size_t)o.tokens ? s.ids.n : (size_t)o.tokens, rows = n_ids / inner;
    if (!rows)
        die("%s: %zu tokens are too few to calibrate with, %zu make one window (--calibration-seq)",
            o.calibration.v[0], n_ids, inner);
    size_t widest = (size_t)(c->F > c->C ? c->F : c->C);
    if (rows * T < widest)
        warn("%zu tokens of calibration for layers with %zu inputs: what they do not show is rounded blindly",
            rows * T, widest);
    enum { BATCH_TOKENS = 4096 };
    Calibration k = {.B = BATCH_TOKENS / T < 1 ? 1 : BATCH_TOKENS / T, .T = T};
    if (k.B > rows) k.B = rows;
    k.n = (int)(rows / k.B);
    k.tokens = xmalloc(size_mul((size_t)k.n * k.B * T, sizeof *k.tokens));
    for (size_t r = 0; r < (size_t)k.n * k.B; r++) {
        int32_t *row = k.tokens + r * T;
        if (prefix->n) memcpy(row, prefix->v, prefix->n * sizeof *row);
        memcpy(row + prefix->n, s.ids.v + r * inner, inner * sizeof *row);
        if (suffix->n) memcpy(row + prefix->n + inner, suffix->v, suffix->n * sizeof *row);
    }
    k.stream = xcalloc((size_t)k.n, sizeof *k.stream);
    for (int i = 0; i < k.n; i++) k.stream[i] = op.mem_alloc(size_mul(k.B * T * (size_t)c->C, op.act_size));
    k.acts = acts_new(m, k.B, T, T, false, false);
    stream_free(&s);
    return k;
}
static void calibration_free(Calibration *k) {
    for (int i = 0; i < k->n; i++) op.mem_free(k->stream[i]);
    free(k->stream), free(k->tokens);
    acts_free(k->acts);
    if (look.x) free(look.x);
}
/* All batches through blocks [first, end). keep: their streams move on; else they stay, and only the taps have seen. */
static void calibration_run(Model *m, Calibration *k, int first, int end, bool keep) {
    size_t n = k->B * k->T * (size_t)m->cfg.C;
    act *scratch = keep ? NULL : op.mem_alloc(n * op.act_size);
    look.op = op;
    op.matmul = looking_matmul;
    for (int i = 0; i < k->n; i++) {
        Batch b = {.B = k->B, .T = k->T, .tokens = k->tokens + (size_t)i * k->B * k->T};
        if (!keep && first) op.copy(scratch, k->stream[i], n * op.act_size);
        forward_part(m, k->acts, &b, first, end, keep ? k->stream[i] : scratch);
    }
    op.matmul = look.op.matmul;
    if (scratch) op.mem_free(scratch);
}

/* ================================================================================================================= *
 * [quantize.fold] The same function with other weights.
 *
 * Rotation (QuaRot; Ashkboos et al. 2024). RMSNorm without its weights commutes with any orthogonal R, since it only
 * divides by the row's length. So the norms' weights go into the matrices behind them, the embedding and what writes
 * into the stream are multiplied by R, what reads it by R^T, and nobody notices, but each value of the stream is now a
 * mixture of all: outliers are gone. R is a random sign for each place and then, for C = 2^k m, the Hadamard matrix of
 * 2^k and the Hartley matrix of m (cos + sin of 2 pi i j / m, over sqrt m), both orthogonal and nearly flat. */
typedef struct { size_t n, pow2, odd; float *sign, *hartley; } Rotation;
static Rotation rotation_new(size_t n, uint64_t seed) {
    Rotation r = {.n = n, .pow2 = n & -n};
    r.odd = n / r.pow2;
    r.sign = xmalloc(n * sizeof *r.sign);
    r.hartley = xmalloc(size_mul(r.odd * r.odd, sizeof *r.hartley));
    for (size_t i = 0; i < n; i++) r.sign[i] = rng_mix(seed, i) >> 63 ? -1.0f : 1.0f;
    for (size_t i = 0; i < r.odd; i++)
        for (size_t j = 0; j < r.odd; j++) {
            double angle = 2 * M_PI * (double)(i * j % r.odd) / (double)r.odd;
            r.hartley[i * r.odd + j] = (float)((cos(angle) + sin(angle)) / sqrt((double)n));   /* both norms in one */
        }
    return r;
}
/* x (n) times R; y (n) is scratch. */
static void rotate(const Rotation *r, float *x, float *y) {
    for (size_t i = 0; i < r->n; i++) y[i] = x[i] * r->sign[i];
    for (size_t half = r->odd; half < r->n; half *= 2)                /* butterflies on runs of `odd` values */
        for (size_t i = 0; i < r->n; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float a = y[j], b = y[j + half];
                y[j] = a + b, y[j + half] = a - b;
            }
    for (size_t i = 0; i < r->n; i += r->odd)
        for (size_t j = 0; j < r->odd; j++) {
            float s = 0;
            for (size_t k = 0; k < r->odd; k++) s += y[i + k] * r->hartley[k * r->odd + j];
            x[i + j] = s;
        }
}
static void rotate_rows(const Rotation *r, float *w, size_t rows) {
    #pragma omp parallel
    {
        float *y = xmalloc(r->n * sizeof *y);
        #pragma omp for schedule(static)
        for (size_t i = 0; i < rows; i++) rotate(r, w + i * r->n, y);
        free(y);
    }
}
static void rotate_columns(const Rotation *r, float *w, size_t cols) {  /* w (n, cols) */
    #pragma omp parallel
    {
        float *x = xmalloc(2 * r->n * sizeof *x);
        #pragma omp for schedule(static)
        for (size_t c = 0; c < cols; c++) {
            for (size_t i = 0; i < r->n; i++) x[i] = w[i * cols + c];
            rotate(r, x, x + r->n);
            for (size_t i = 0; i < r->n; i++) w[i * cols + c] = x[i];
        }
        free(x);
    }
}
static void scale_columns(float *w, size_t rows, size_t cols, const float *by) {
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) w[r * cols + c] *= by[c];
}
static float *values(const Model *m, int layer, Role role) {          /* of a parameter, NULL without one */
    const Param *p = m->at[layer + 1][role];
    return p ? p->w.data : NULL;
}
static void layer_rotate(Model *m, int l, const Rotation *r) {
    const Config *c = &m->cfg;
    size_t C = (size_t)c->C;
    static const struct { Role norm, into[3]; } norms[] = {
        {R_NORM1_W, {R_Q, R_K, R_V}}, {R_NORM2_W, {R_GATE, R_UP, R_COUNT}}};
    for (int i = 0; i < 2; i++) {
        float *g = values(m, l, norms[i].norm);
        for (int j = 0; j < 3; j++) {
            const Param *p = norms[i].into[j] < R_COUNT ? m->at[l + 1][norms[i].into[j]] : NULL;
            if (!p) continue;
            scale_columns(p->w.data, p->rows, C, g);
            rotate_rows(r, p->w.data, p->rows);
        }
        for (size_t k = 0; k < C; k++) g[k] = 1;
    }
    const Role out[] = {R_O, R_DOWN}, bias[] = {R_O_B, R_DOWN_B};
    for (int i = 0; i < 2; i++) {
        const Param *p = m->at[l + 1][out[i]];
        rotate_columns(r, p->w.data, p->cols);
        if (values(m, l, bias[i])) rotate_rows(r, values(m, l, bias[i]), 1);
    }
}
/* Scales moved (SmoothQuant; Xiao et al. 2022): x / s and W s make the same product, and 1/s goes into the norm before.
 * With s = max|x|^a / max|w|^(1-a), inputs whose range is wide give some of it to their weights. Only where nothing
 * but these matrices reads the norm. */
static void layer_smooth(Model *m, int l, TapKind kind, const Tap *t, double part) {
    Role norm = kind == TAP_QKV ? R_NORM1_W : R_NORM2_W, bias = kind == TAP_QKV ? R_NORM1_B : R_NORM2_B;
    float *g = values(m, l, norm), *b = values(m, l, bias), *s = xmalloc(t->n * sizeof *s),
        *inverse = xmalloc(t->n * sizeof *s);
    for (size_t c = 0; c < t->n; c++) {
        float most = 0;
        for (int i = 0; i < 3; i++) {
            const Param *p = m->at[l + 1][tap_roles[kind][i]];
            const float *w = p ? p->w.data : NULL;
            for (size_t r = 0; p && r < p->rows; r++) most = fabsf(w[r * t->n + c]) > most ? fabsf(w[r * t->n + c])
                : most;
        }
        double x = (double)t->largest[c], y = (double)most;
        s[c] = x > 0 && y > 0 ? (float)fmin(fmax(pow(x, part) / pow(y, 1 - part), 1e-4), 1e4) : 1;
        inverse[c] = 1 / s[c];
    }
    for (int i = 0; i < 3; i++) {
        const Param *p = m->at[l + 1][tap_roles[kind][i]];
        if (p && (!i || p != m->at[l + 1][tap_roles[kind][i - 1]])) scale_columns(p->w.data, p->rows, t->n, s);
    }
    for (size_t c = 0; c < t->n; c++) {
        g[c] *= inverse[c];
        if (b) b[c] *= inverse[c];
    }
    free(s), free(inverse);
}

/* ================================================================================================================= *
 * [quantize.plan] Which matrices, in how many bits. Those of the blocks are quantised; token embedding and head, where
 * a rounded row is a rounded word and the sum over many inputs does not help, only when asked, and in 8 bits. */
typedef struct Module {
    const HubTensor *h;
    char *name;                        /* the tensor's, less ".weight" */
    int layer;                         /* -1: embedding or head */
    TapKind tap;
    Grid grid;
    double error;                      /* of the output, relative */
    double error4, error8, more_bits;  /* for --budget: squared and relative, by rounding to nearest; what 8 bits add */
    double lost8, lost4;               /* of the inputs, rounded per token; NaN: not measured */
    float input_scale;
} Module;
typedef struct Plan {
    Model *m;
    HubTensor *hub;
    int n_hub;
    Module *v, **of;                   /* of[i]: the module of hub[i], or NULL */
    int n;
    bool tied_head;                    /* rotated: the head is no longer the embedding, but a tensor of its own */
} Plan;

static bool is_kept(const char *name, int *used) {
    bool kept = false;
    for (int i = 0; i < o.keep.n; i++) {
        const char *pattern = o.keep.v[i];
        if (strchr(pattern, '*') ? fnmatch(pattern, name, 0) : !strstr(name, pattern)) continue;
        used[i]++, kept = true;
    }
    return kept;
}
static DType float_dtype(const Tensor *t) {
    return !strcmp(o.dtype, "f32") ? DT_F32 : !strcmp(o.dtype, "f16") ? DT_F16 : !strcmp(o.dtype, "bf16") ? DT_BF16
        : t->dtype;
}
/* 16 bits are enough for a scale, which is chosen before its weights are rounded; a row's one scale costs nothing. */
static Grid grid_of(const Plan *p, const HubTensor *h, int bits) {
    DType stays = float_dtype(hub_file(p->m, h));
    if (!strcmp(o.format, "gguf"))
        return (Grid){.bits = bits, .symmetric = true, .group = GGUF_BLOCK, .scale_dtype = DT_F16};
    Grid g = {.bits = bits, .symmetric = !strcmp(o.symmetric, "yes"), .group = bits == o.bits ? (size_t)o.group : 0};
    g.scale_dtype = stays == DT_F32 && g.group ? DT_BF16 : stays;
    return g;
}
static void check_group(const Module *q) {
    size_t G = q->grid.group, C = q->h->cols;
    if (!G || G >= C) return;
    if (G % 8 == 0 && C % G == 0) return;
    Buf fit_ones = {0};
    for (size_t g = 8; g <= 128; g += 8)
        if (C % g == 0) buf_fmt(&fit_ones, "%s%zu", fit_ones.len ? ", " : "", g);
    die("--group %zu does not divide the %zu inputs of %s into groups of a multiple of 8; these do: %s", G, C, q->name,
        fit_ones.len ? fit_ones.data : "none but 0, a whole row");
}
/* All bits that h will take on this grid. */
static double bits_on(const Grid *g, const HubTensor *h) {
    double scale = 8 * (double)dtype_size(g->scale_dtype) + (g->symmetric ? 0 : g->bits),
        shape = g->bits == 4 ? 128 : 0;
    return (double)h->rows * ((double)h->cols * g->bits + (double)groups_of(g, h->cols) * scale) + shape;
}
static Plan plan_new(Model *m) {
    Plan p = {.m = m};
    p.hub = hub_tensors(m, &p.n_hub);
    p.v = xcalloc((size_t)p.n_hub, sizeof *p.v);
    p.of = xcalloc((size_t)p.n_hub, sizeof *p.of);
    p.tied_head = o.rotate && m->cfg.tied;
    int *used = xcalloc((size_t)o.keep.n + 1, sizeof *used);
    for (int i = 0; i < p.n_hub; i++) {
        const HubTensor *h = &p.hub[i];
        const Param *first = h->part[0];
        bool block = first->layer >= 0 && first->kind == KIND_MATRIX, ends = first->role == R_WTE ||
            first->role == R_HEAD;
        if (!block && !(ends && o.embedding)) continue;
        char *name = strf("%.*s", (int)(strlen(h->name) - strlen(".weight")), h->name);
        if (is_kept(name, used)) { free(name); continue; }
        Module *q = p.of[i] = &p.v[p.n++];
        *q = (Module){.h = h, .name = name, .layer = first->layer, .error = NAN, .lost8 = NAN, .lost4 = NAN,
            .input_scale = 1};
        q->grid = grid_of(&p, h, block ? (int)o.bits : 8);
        if (!block && strcmp(o.format, "gguf")) q->grid.group = 0;
        for (int t = 0; t < N_TAPS; t++)
            for (int j = 0; j < 3; j++)
                if (tap_roles[t][j] == first->role) q->tap = (TapKind)t;
        check_group(q);
    }
    for (int i = 0; i < o.keep.n; i++)
        if (!used[i]) die("--keep %s: no matrix of the model has such a name", o.keep.v[i]);
    if (!p.n) die("--keep leaves nothing to quantise");
    free(used);
    return p;
}
static void plan_free(Plan *p) {
    for (int i = 0; i < p->n; i++) free(p->v[i].name);
    hub_tensors_free(p->hub, p->n_hub);
    free(p->v), free(p->of);
}

/* The block's matrices as floats of our own; the source's stay in the mapped file. */
static void layer_load(Model *m, int l) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        if (p->layer != l || p->kind != KIND_MATRIX) continue;
        float *wide = op.mem_alloc(size_mul(p->n, sizeof *wide));
        op.mat_to_f32(wide, &p->w);
        bool finite = true;
        #pragma omp parallel for schedule(static) reduction(&& : finite)
        for (size_t j = 0; j < p->n; j++) finite = finite && isfinite(wide[j]);
        if (!finite) die("%s: a weight of layer %d's %s is not finite: nothing to quantise", o.model, l, param_name(p));
        param_drop(m, p);                                      /* GPT-2's are no part of the file: turned when loaded */
        p->w = MAT(DT_F32, p->rows, p->cols, wide);
    }
}
static void layer_drop(Model *m, int l) {
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].layer == l && m->params[i].kind == KIND_MATRIX) param_drop(m, &m->params[i]);
}
/* sum h x^2: of a row; of all rows, the same on any number of threads. */
EACH_WIDTH static double weighted_squares(const float *x, const float *h, size_t n) {
    double sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)(h[i] * x[i] * x[i]);
    return sum;
}
static double all_squares(const float *x, size_t rows, size_t cols, const float *h) {
    double sum = 0, *row = xmalloc(rows * sizeof *row);
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++) row[r] = weighted_squares(x + r * cols, h, cols);
    for (size_t r = 0; r < rows; r++) sum += row[r];
    free(row);
    return sum;
}
/* Squared error of rounding to nearest and sum of squares, both weighted by the inputs' energy. */
static double nearest_error(const float *w, size_t rows, size_t cols, const Grid *g, const float *energy, double *all) {
    double error = 0;
    size_t n_groups = groups_of(g, cols), G = cols / n_groups;
    #pragma omp parallel for schedule(static) ordered
    for (size_t r = 0; r < rows; r++) {
        double e = 0;
        for (size_t i = 0; i < n_groups; i++) e += (double)fit(g, w + r * cols + i * G, energy + i * G, G, true).error;
        #pragma omp ordered
        error += e;
    }
    *all += all_squares(w, rows, cols, energy);
    return error;
}
/* --budget: all matrices begin with 4 bits; those with most error to lose for each byte more get 8, as long as it
 * lasts. */
static double gain(const Module *q) { return (q->error4 - q->error8) / q->more_bits; }
static int by_gain(const void *a, const void *b) {
    const Module *x = *(Module *const *)a, *y = *(Module *const *)b;
    double gx = gain(x), gy = gain(y);
    return gx != gy ? (gx < gy) - (gx > gy) : strcmp(x->name, y->name);
}
static void plan_budget(Plan *p, Calibration *k) {
    char *end = NULL;
    double budget = strtod(o.budget, &end), weights = 0, spent = 0;
    if (end == o.budget || (*end && strcmp(end, "bpw")) || !(budget >= 4 && budget <= 16))
        die_usage("--budget %s: want bits per weight, such as 4.8bpw", o.budget);
    Model *m = p->m;
    Tap *taps = xcalloc((size_t)m->cfg.L * N_TAPS, sizeof *taps);
    for (int i = 0; k && i < m->cfg.L * N_TAPS; i++)
        taps[i] = tap_new(m, i / N_TAPS, (TapKind)(i % N_TAPS), false, false);
    if (k) {
        look.tap = taps, look.n_taps = m->cfg.L * N_TAPS;
        calibration_run(m, k, 0, m->cfg.L, false);
    }
    Module **order = xcalloc((size_t)p->n, sizeof *order);
    Progress bar = progress_begin("what 4 bits cost", (double)p->n);
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        Module *q = &p->v[i];
        if (q->layer < 0) continue;
        order[n++] = q;
        weights += (double)(q->h->rows * q->h->cols);
        Grid g4 = q->grid, g8 = grid_of(p, q->h, 8);
        spent += bits_on(&g4, q->h);
        q->more_bits = bits_on(&g8, q->h) - bits_on(&g4, q->h);
        double e4 = 0, e8 = 0, all4 = 0, all8 = 0;
        float *ones = xmalloc(q->h->cols * sizeof *ones), *energy = k ? taps[q->layer * N_TAPS + (int)q->tap].energy
            : ones;
        for (size_t c = 0; c < q->h->cols; c++) ones[c] = 1;
        for (int j = 0; j < q->h->n_parts; j++) {
            const Param *part = q->h->part[j];
            float *wide = op.mem_alloc(size_mul(part->n, sizeof *wide));
            op.mat_to_f32(wide, &part->w);
            e4 += nearest_error(wide, part->rows, part->cols, &g4, energy, &all4);
            e8 += nearest_error(wide, part->rows, part->cols, &g8, energy, &all8);
            op.mem_free(wide);
        }
        free(ones);
        q->error4 = all4 > 0 ? e4 / all4 : 0, q->error8 = all8 > 0 ? e8 / all8 : 0;
        progress_at(&bar, n, "%s: %.2f%%", q->name, 100 * sqrt(q->error4));
    }
    progress_end(&bar, "%d matrices", n);
    if (spent > budget * weights)
        die("--budget %s: 4 bits take %.3f already, scales included", o.budget, spent / weights);
    qsort(order, (size_t)n, sizeof *order, by_gain);
    for (int i = 0; i < n; i++) {
        if (spent + order[i]->more_bits > budget * weights) continue; /* a smaller one may still fit */
        spent += order[i]->more_bits;
        order[i]->grid = grid_of(p, order[i]->h, 8);
    }
    for (int i = 0; k && i < m->cfg.L * N_TAPS; i++) tap_free(&taps[i]);
    free(taps), free(order);
}

/* ================================================================================================================= *
 * [quantize.file] compressed-tensors (github.com/vllm-project/compressed-tensors). A module's 4-bit values lie eight to
 * a word, first in the low bits, each plus 8 (pack-quantized: weight_packed, weight_shape, zero points packed down the
 * outputs); 8-bit values are bytes in the weight's place (int-quantized). Both have weight_scale. Fused matrices
 * (c_attn, query_key_value, gate_up_proj) are one module, its rows in the Hub's order; a Conv1D is stored (outputs,
 * inputs) here. */
enum { TENSORS_EACH = 5 };
typedef struct Writer {
    TensorFile file;
    TensorOut *v;
    int n;
    double quantised_bytes;
    Gguf *gguf;                        /* instead of file, with the bits of each parameter */
    uint8_t *bits;
} Writer;
static bool to_gguf(void) { return !strcmp(o.format, "gguf"); }

static void announce(Writer *w, char *name, DType dtype, size_t rows, size_t cols) {
    w->v[w->n++] = (TensorOut){.name = name, .dtype = dtype, .n_dims = cols ? 2 : 1, .shape = {rows, cols}};
}
static Writer writer_new(const Plan *p, const char *dir) {
    Writer w = {.v = xcalloc((size_t)p->n_hub * TENSORS_EACH + 1, sizeof *w.v)};
    for (int i = 0; i < p->n_hub; i++) {
        const HubTensor *h = &p->hub[i];
        const Module *q = p->of[i];
        DType stays = float_dtype(hub_file(p->m, h));
        if (!q && h->vector) announce(&w, xstrdup(h->name), stays, h->rows, 0);
        else if (!q && h->layout == IO) announce(&w, xstrdup(h->name), stays, h->cols, h->rows);
        else if (!q) announce(&w, xstrdup(h->name), stays, h->rows, h->cols);
        if (p->tied_head && h->part[0]->role == R_WTE)
            announce(&w, hub_name(&p->m->cfg, R_HEAD, -1), stays, h->rows, h->cols);
        if (!q) continue;
        size_t groups = groups_of(&q->grid, h->cols);
        bool packed = q->grid.bits == 4;
        int first = w.n;
        if (packed) announce(&w, strf("%s.weight_packed", q->name), DT_I32, h->rows, (h->cols + 7) / 8);
        else announce(&w, strf("%s.weight", q->name), DT_I8, h->rows, h->cols);
        announce(&w, strf("%s.weight_scale", q->name), q->grid.scale_dtype, h->rows, groups);
        if (!q->grid.symmetric)
            announce(&w, strf("%s.weight_zero_point", q->name), packed ? DT_I32 : DT_I8,
                packed ? (h->rows + 7) / 8 : h->rows, groups);
        if (packed) announce(&w, strf("%s.weight_shape", q->name), DT_I64, 2, 0);
        if (q->layer >= 0 && !strcmp(o.activations, "static"))
            announce(&w, strf("%s.input_scale", q->name), DT_F32, 1, 0);
        for (int t = first; t < w.n; t++)
            w.quantised_bytes += (double)(w.v[t].shape[0] * (w.v[t].n_dims > 1 ? w.v[t].shape[1]
                : 1) * dtype_size(w.v[t].dtype));
    }
    char *path = path_join(dir, "model.safetensors");
    w.file = tensors_begin(path, w.v, w.n, "pt");
    tensors_reserve(&w.file);
    free(path);
    return w;
}
static Writer writer_gguf(const Plan *p, const char *path) {
    Writer w = {.bits = xcalloc((size_t)p->m->n_params, 1)};
    for (int i = 0; i < p->n; i++) {
        const Module *q = &p->v[i];
        for (int j = 0; j < q->h->n_parts; j++) w.bits[q->h->part[j] - p->m->params] = (uint8_t)q->grid.bits;
    }
    w.gguf = gguf_begin(path, p->m, o.model, w.bits);
    return w;
}
static void writer_end(Writer *w) {
    tensors_end(&w->file);
    for (int i = 0; i < w->n; i++) free(w->v[i].name);
    free(w->v);
}
static void put(Writer *w, const char *module, const char *suffix, const void *data, size_t bytes) {
    char *name = strf("%s.%s", module, suffix);
    tensors_put(&w->file, name, data, bytes);
    free(name);
}
static void put_floats(Writer *w, const char *name, const float *x, size_t n, DType dtype) {
    void *rounded = xmalloc(size_mul(n, dtype_size(dtype)));
    f32_to_dtype(x, n, dtype, rounded);
    tensors_put(&w->file, name, rounded, n * dtype_size(dtype));
    free(rounded);
}
/* A tensor that stays: of a block as its parameters are now; elsewhere as the file has it. */
static void put_kept(Writer *w, const Plan *p, const HubTensor *h) {
    const Tensor *t = hub_file(p->m, h);
    DType dtype = float_dtype(t);
    for (int j = 0; w->gguf && j < h->n_parts; j++) {
        const Param *part = h->part[j];
        float *x = op.mem_alloc(size_mul(part->n, sizeof *x));
        op.mat_to_f32(x, &part->w);
        gguf_put_floats(w->gguf, part, x);
        op.mem_free(x);
    }
    if (w->gguf) return;
    if (h->part[0]->layer < 0 && dtype == t->dtype) {
        tensors_put(&w->file, h->name, t->data, t->bytes);
        tensor_forget(t);
        return;
    }
    float *whole = xmalloc(size_mul(h->rows * h->cols, sizeof *whole)), *part[PARTS_MAX];
    for (int j = 0; j < h->n_parts; j++) part[j] = h->part[j]->w.data;
    if (h->part[0]->layer < 0) tensor_to_f32(t, whole);
    else hub_stack(h, (size_t)p->m->cfg.D, part, whole);
    put_floats(w, h->name, whole, h->rows * h->cols, dtype);
    free(whole);
}
/* Two values to a byte, the first in its low bits: little-endian words of eight. */
static void pack_row(const int8_t *q, size_t n, uint8_t *out) {
    #pragma omp simd
    for (size_t i = 0; i < n / 2; i++) out[i] = (uint8_t)((q[2 * i] + 8) | (q[2 * i + 1] + 8) << 4);
    if (n % 2) out[n / 2] = (uint8_t)(q[n - 1] + 8);
}
/* A module's codes, a set for each of its parts. */
static void put_codes(Writer *w, const Plan *p, const Module *q, const Codes *part) {
    const HubTensor *h = q->h;
    for (int j = 0; w->gguf && j < h->n_parts; j++) gguf_put(w->gguf, h->part[j], part[j].q, part[j].scale);
    if (w->gguf) return;
    size_t D = (size_t)p->m->cfg.D, O = h->rows, C = h->cols, groups = part[0].groups, words = (C + 7) / 8;
    bool packed = q->grid.bits == 4;
    size_t row_bytes = packed ? words * 4 : C, zero_bytes = packed ? (O + 7) / 8 * groups * 4 : O * groups;
    uint8_t *data = xcalloc(O, row_bytes);
    float *scale = xmalloc(size_mul(O * groups, sizeof *scale));
    uint8_t *zero = xcalloc(zero_bytes, 1);
    for (int j = 0; j < h->n_parts; j++) {
        #pragma omp parallel for schedule(static)
        for (size_t r = 0; r < part[j].rows; r++) {
            size_t row = hub_row(h, j, r, D);
            if (packed) pack_row(part[j].q + r * C, C, data + row * row_bytes);
            else memcpy(data + row * C, part[j].q + r * C, C);
            memcpy(scale + row * groups, part[j].scale + r * groups, groups * sizeof *scale);
        }
        for (size_t r = 0; r < part[j].rows; r++) {                  /* packed: a word has eight outputs */
            size_t row = hub_row(h, j, r, D);
            const int8_t *from = part[j].zero + r * groups;
            if (!packed) memcpy(zero + row * groups, from, groups);
            for (size_t i = 0; i < groups && packed; i++)
                zero[(row / 8 * groups + i) * 4 + row % 8 / 2] |= (uint8_t)((from[i] + 8) << (4 * (row % 2)));
        }
    }
    put(w, q->name, packed ? "weight_packed" : "weight", data, O * row_bytes);
    char *name = strf("%s.weight_scale", q->name);
    put_floats(w, name, scale, O * groups, q->grid.scale_dtype);
    if (!q->grid.symmetric) put(w, q->name, "weight_zero_point", zero, zero_bytes);
    if (packed) put(w, q->name, "weight_shape", (int64_t[]){(int64_t)O, (int64_t)C}, 16);
    if (q->layer >= 0 && !strcmp(o.activations, "static")) put(w, q->name, "input_scale", &q->input_scale, 4);
    free(name), free(data), free(scale), free(zero);
}

static cJSON *scheme_json(const Plan *p, int bits, bool ends, bool mixed) {
    cJSON *g = cJSON_CreateObject(), *targets = cJSON_AddArrayToObject(g, "targets"),
        *w = cJSON_AddObjectToObject(g, "weights");
    const Module *any = NULL;
    for (int i = 0; i < p->n; i++) {
        const Module *q = &p->v[i];
        if (q->grid.bits != bits || (q->layer < 0) != ends) continue;
        any = q;
        if (mixed) cJSON_AddItemToArray(targets, cJSON_CreateString(q->name));
    }
    if (!any) { cJSON_Delete(g); return NULL; }
    if (!mixed) cJSON_AddItemToArray(targets, cJSON_CreateString("Linear"));
    bool grouped = any->grid.group && any->grid.group < any->h->cols;
    cJSON_AddNumberToObject(w, "num_bits", bits);
    cJSON_AddStringToObject(w, "type", "int");
    cJSON_AddBoolToObject(w, "symmetric", any->grid.symmetric);
    cJSON_AddStringToObject(w, "strategy", grouped ? "group" : "channel");
    if (grouped) cJSON_AddNumberToObject(w, "group_size", (double)any->grid.group);
    cJSON_AddBoolToObject(w, "dynamic", false);
    cJSON *x = NULL;
    if (strcmp(o.activations, "none") && !ends) {
        bool dynamic = !strcmp(o.activations, "dynamic");
        x = cJSON_AddObjectToObject(g, "input_activations");
        cJSON_AddNumberToObject(x, "num_bits", 8);
        cJSON_AddStringToObject(x, "type", "int");
        cJSON_AddBoolToObject(x, "symmetric", true);
        cJSON_AddStringToObject(x, "strategy", dynamic ? "token" : "tensor");
        cJSON_AddBoolToObject(x, "dynamic", dynamic);
    } else cJSON_AddNullToObject(g, "input_activations");
    cJSON_AddNullToObject(g, "output_activations");
    cJSON_AddStringToObject(g, "format", bits == 4 ? "pack-quantized" : "int-quantized");
    return g;
}
static void config_save(const Plan *p, const char *dir) {
    cJSON *j = cJSON_Parse(p->m->config_json), *q = cJSON_CreateObject(), *ignore = cJSON_CreateArray();
    cJSON *groups = cJSON_AddObjectToObject(q, "config_groups");
    int n[9] = {0}, n_groups = 0;
    bool ends = false;
    for (int i = 0; i < p->n; i++) n[p->v[i].grid.bits]++, ends |= p->v[i].layer < 0;
    bool mixed = (n[4] && n[8]) || ends;
    for (int bits = 4; bits <= 8; bits += 4)
        for (int e = 0; e < 2; e++) {
            cJSON *g = scheme_json(p, bits, e, mixed);
            char *name = strf("group_%d", n_groups);
            if (g) cJSON_AddItemToObject(groups, name, g), n_groups++;
            free(name);
        }
    for (int i = 0; i < p->n_hub; i++) {
        const HubTensor *h = &p->hub[i];
        if (p->of[i] || h->vector || h->part[0]->kind != KIND_MATRIX || h->part[0]->role == R_HEAD) continue;
        char *name = strf("%.*s", (int)(strlen(h->name) - strlen(".weight")), h->name);
        cJSON_AddItemToArray(ignore, cJSON_CreateString(name));
        free(name);
    }
    bool head = false;                                            /* tied, it is no tensor, but a module all the same */
    for (int i = 0; i < p->n; i++) head |= p->v[i].h->part[0]->role == R_HEAD;
    char *head_name = head ? NULL : hub_name(&p->m->cfg, R_HEAD, -1);
    if (head_name) {
        head_name[strlen(head_name) - strlen(".weight")] = 0;
        cJSON_AddItemToArray(ignore, cJSON_CreateString(head_name));
    }
    free(head_name);
    cJSON_AddStringToObject(q, "quant_method", "compressed-tensors");
    cJSON_AddStringToObject(q, "format", mixed && n[4] &&
        n[8] ? "mixed-precision" : n[4] ? "pack-quantized" : "int-quantized");
    cJSON_AddStringToObject(q, "quantization_status", "compressed");
    cJSON_AddItemToObject(q, "ignore", ignore);
    cJSON_AddNullToObject(q, "kv_cache_scheme");
    cJSON_AddItemToObject(j, "quantization_config", q);
    if (p->tied_head) {
        cJSON_DeleteItemFromObject(j, "tie_word_embeddings");
        cJSON_AddBoolToObject(j, "tie_word_embeddings", false);
    }
    if (strcmp(o.dtype, "auto")) {
        const char *key = cJSON_HasObjectItem(j, "dtype") ? "dtype" : "torch_dtype";
        cJSON_DeleteItemFromObject(j, key);
        cJSON_AddStringToObject(j, key, !strcmp(o.dtype, "f32") ? "float32" : !strcmp(o.dtype, "f16") ? "float16"
            : "bfloat16");
    }
    char *text = cJSON_Print(j), *path = path_join(dir, "config.json");
    file_write(path, text, strlen(text));
    free(path), free(text);
    if (p->m->generation_json) {
        path = path_join(dir, "generation_config.json");
        file_write(path, p->m->generation_json, strlen(p->m->generation_json));
        free(path);
    }
    cJSON_Delete(j);
}

/* ================================================================================================================= *
 * [quantize.report] */
typedef struct Quality {
    bool measured;
    Evaluation e;
    double before_s, after_s;          /* per decoded token; 0: not asked */
    double bits, bits_all, bytes;      /* per quantised weight, scales included; per weight of the model; of the file */
    double seconds;
} Quality;

static double decode_s(Model *m) {
    enum { PROMPT = 16, STEPS = 32 };
    if (m->cfg.head != HEAD_LM || m->cfg.max_pos < PROMPT + STEPS + 1) return 0;
    Acts *a = acts_new(m, 1, PROMPT, PROMPT + STEPS + 1, false, false);
    int32_t ids[PROMPT], pos = PROMPT;
    for (int i = 0; i < PROMPT; i++) ids[i] = (int32_t)(rng_mix(1, (uint64_t)i) % (uint64_t)m->cfg.V);
    if (m->cfg.mask == MASK_PREFIX) ids[PROMPT - 2] = m->cfg.gmask_id, ids[PROMPT - 1] = m->cfg.bos;
    forward(m, a, &(Batch){.B = 1, .T = PROMPT, .tokens = ids});
    double begin = 0;
    for (int i = 0; i <= STEPS; i++, pos++) {
        if (i == 1) begin = now_s();                                  /* the first brings the weights in */
        forward(m, a, &(Batch){.B = 1, .T = 1, .tokens = ids, .pos = &pos});
        model_logits(m, a, 0, 1);
    }
    op.sync();
    double s = (now_s() - begin) / STEPS;
    acts_free(a);
    return s;
}
static void measure(Quality *k, const char *dir, const Tokenizer *tok) {
    Model *before = model_load(o.model, false), *after = model_load(dir, false);
    op.set_precision(precision);
    if (o.eval.n) {
        Stream s = stream_read(o.eval, &before->cfg, tok, true);
        size_t T = before->cfg.max_pos < 1024 ? (size_t)before->cfg.max_pos : 1024;
        k->e = evaluate(after, before, &s, T, T > 1 ? T / 2 : 1);     /* as infer --eval does */
        k->measured = k->e.n > 0;
        stream_free(&s);
    }
    if (o.bench) k->before_s = decode_s(before), k->after_s = decode_s(after);
    op.set_precision(PREC_F32);
    model_free(before), model_free(after);
}
static int by_error(const void *a, const void *b) {
    const Module *x = *(Module *const *)a, *y = *(Module *const *)b;
    return x->error != y->error ? (x->error < y->error) - (x->error > y->error) : strcmp(x->name, y->name);
}
static char *scheme_text(void) {       /* "4 bits, groups of 128, GPTQ, rotated" */
    Buf b = {0};
    if (o.budget) buf_fmt(&b, "4 and 8 bits within %s", o.budget);
    else buf_fmt(&b, "%lld bits", (long long)o.bits);
    if (o.group) buf_fmt(&b, ", groups of %lld", (long long)o.group);
    else buf_str(&b, ", a scale a row");
    if (strcmp(o.symmetric, "yes")) buf_str(&b, " with zero points");
    buf_str(&b, strcmp(o.method, "gptq") ? ", rounded to nearest" : ", GPTQ");
    if (o.rotate) buf_str(&b, ", rotated");
    if (o.smooth > 0) buf_fmt(&b, ", inputs' range moved by %g", o.smooth);
    if (strcmp(o.activations, "none")) buf_fmt(&b, ", inputs in 8 bits (%s)", o.activations);
    return b.data;
}
static const char *or_null(double x) { /* JSON has no word for NaN */
    static char text[4][32];
    static int turn;
    char *t = text[turn++ % 4];
    snprintf(t, sizeof text[0], isfinite(x) ? "%.5g" : "null", x);
    return t;
}
static void card_save(const Quality *k, const char *dir) {
    Buf b = {0};
    char *scheme = scheme_text();
    double n = (double)k->e.n;
    buf_fmt(&b, "---\nlibrary_name: transformers\nbase_model: %s\nbase_model_relation: quantized\n---\n# %s, "
                "quantised with tea\n\n", o.model, o.model);
    buf_fmt(&b, "%s. %.3f bits per quantised weight, %.3f per weight of the model, %s.\n\n", scheme, k->bits,
        k->bits_all, human_bytes(k->bytes));
    if (o.calibration.n) buf_fmt(&b, "- Calibrated with %s\n", o.calibration.v[0]);
    if (k->measured)
        buf_fmt(&b, "- Perplexity on %s: %.4f, before %.4f; KL divergence %.5f nats per token; the same likeliest "
                    "token at %.2f%%\n",
                o.eval.v[0], exp(k->e.nats / n), exp(k->e.reference_nats / n), k->e.kl / n,
                    100 * (double)k->e.agree / n);
    buf_str(&b, "- Limits: those of the model it was made from, and what rounding adds.\n");
    char *path = path_join(dir, "README.md");
    file_write(path, b.data, b.len);
    free(path), free(scheme);
    buf_free(&b);
}
/* log.jsonl (from which report.html is drawn), the table on stderr, one JSON object on stdout. */
static void report(const Plan *p, const Quality *k, const char *dir) {
    char *scheme = scheme_text();
    Buf model = {0}, json = {0};
    json_escape(&model, o.model, strlen(o.model));
    log_open(dir, -1);
    log_line("start", 0, "\"stage\":\"quantize\",\"arch\":\"%s\",\"title\":\"%s\",\"scheme\":\"%s\",\"device\":\"%s\","
             "\"precision\":\"%s\"",
             config_model_type(&p->m->cfg), model.data, scheme, op.name, precision == PREC_BF16 ? "bf16" : "f32");
    Module **order = xmalloc((size_t)p->n * sizeof *order);
    for (int i = 0; i < p->n; i++) {
        const Module *q = order[i] = &p->v[i];
        log_line("module", 0, "\"name\":\"%s\",\"layer\":%d,\"bits\":%d,\"error\":%.5g,\"input8\":%s,\"input4\":%s",
            q->name, q->layer,
                 q->grid.bits, q->error, or_null(q->lost8), or_null(q->lost4));
    }
    qsort(order, (size_t)p->n, sizeof *order, by_error);
    double n = (double)k->e.n, in8 = 0, in4 = 0, error = 0;
    int n_in = 0;
    for (int i = 0; i < p->n; i++) {
        error += p->v[i].error / p->n;
        if (isfinite(p->v[i].lost8)) in8 += p->v[i].lost8, in4 += p->v[i].lost4, n_in++;
    }
    buf_fmt(&json, "\"scheme\":\"%s\",\"bits_per_weight\":%.5g,\"bits_per_weight_of_all\":%.5g,\"bytes\":%.0f,"
            "\"mean_error\":%.5g,\"worst\":\"%s\",\"worst_error\":%.5g,\"seconds\":%.4g", scheme, k->bits, k->bits_all,
            k->bytes, error, order[0]->name, order[0]->error, k->seconds);
    if (n_in) buf_fmt(&json, ",\"input8_error\":%.5g,\"input4_error\":%.5g", in8 / n_in, in4 / n_in);
    if (k->measured)
        buf_fmt(&json, ",\"perplexity_before\":%.8g,\"perplexity\":%.8g,\"kl\":%.6g,\"top1\":%.6g,\"tokens\":%zu",
            exp(k->e.reference_nats / n),
                exp(k->e.nats / n), k->e.kl / n, (double)k->e.agree / n, k->e.n);
    if (k->after_s > 0)
        buf_fmt(&json, ",\"decode_before_tok_s\":%.5g,\"decode_tok_s\":%.5g", 1 / k->before_s, 1 / k->after_s);
    log_line("end", 0, "%s", json.data);
    log_close();
    report_write(dir);

    fprintf(stderr, "\n%s\n%-28s %.3f bits a weight, %.3f over the whole model, %s\n", scheme, "size", k->bits,
        k->bits_all, human_bytes(k->bytes));
    if (k->measured) {
        double before = exp(k->e.reference_nats / n), after = exp(k->e.nats / n);
        fprintf(stderr, "%-28s %.4f before, %.4f after: %+.2f%%\n", "perplexity", before, after,
            100 * (after / before - 1));
        fprintf(stderr, "%-28s %.5f nats a token\n%-28s %.2f%% of %s tokens\n", "KL divergence", k->e.kl / n,
            "same likeliest token",
                100 * (double)k->e.agree / n, human_count(n));
    }
    if (k->after_s > 0)
        fprintf(stderr, "%-28s %.1f tokens/s before, %.1f after: %.2f x\n", "decoding", 1 / k->before_s,
            1 / k->after_s, k->before_s / k->after_s);
    fprintf(stderr, "%-28s %.3f%% of the output on average; the worst:\n", "error of a layer", 100 * error);
    for (int i = 0; i < p->n && i < 5; i++)
        fprintf(stderr, "    %-40s %d bits %8.3f%%\n", order[i]->name, order[i]->grid.bits, 100 * order[i]->error);
    if (n_in)
        fprintf(stderr, "%-28s to 8 bits loses %.2f%%, to 4 bits %.1f%%: %s\n", "rounding inputs by token",
            100 * in8 / n_in, 100 * in4 / n_in,
                "weights have outliers in a few rows, inputs in every token");
    if (o.json) printf("{\"event\":\"quantize\",\"model\":\"%s\",%s}\n", model.data, json.data);
    free(order), free(scheme);
    buf_free(&model), buf_free(&json);
}

/* ================================================================================================================= *
 * [quantize.run] */
static double relative(double error, double all) { return all > 0 ? sqrt((error < 0 ? 0 : error) / all) : 0; }

/* One module: its parts onto their grids, and their weights replaced by what the grids make of them. */
static void module_quantise(Writer *w, const Plan *p, Module *q, const Tap *t, const Factor *f) {
    const HubTensor *h = q->h;
    size_t C = h->cols;
    float *ones = xmalloc(C * sizeof *ones);
    for (size_t c = 0; c < C; c++) ones[c] = 1;
    /* A little everywhere: an input that the text never showed must not make its weight worthless. */
    if (t) {
        double mean = 0;
        for (size_t c = 0; c < C; c++) mean += (double)t->energy[c] / (double)C;
        for (size_t c = 0; c < C && mean > 0; c++) ones[c] = (float)((double)t->energy[c] / mean + 0.01);
    }
    Codes code[PARTS_MAX];
    double error = 0, all = 0;
    for (int j = 0; j < h->n_parts; j++) {
        Param *part = h->part[j];
        float *x = part->w.data;
        code[j] = codes_new(&q->grid, part->rows, C);
        fit_all(&code[j], &q->grid, x, ones, true);
        if (f) {
            all += quadratic(x, part->rows, t->H, C);
            gptq(&code[j], &q->grid, f, x);
            error += descend(&code[j], &q->grid, t->H, f->damp, x);
            dequantise(&code[j], &q->grid, x);
            continue;
        }
        all += all_squares(x, part->rows, C, ones);
        round_all(&code[j], &q->grid, x);
        float *off = op.mem_alloc(size_mul(part->n, sizeof *off));
        dequantise(&code[j], &q->grid, off);
        #pragma omp parallel for simd schedule(static)
        for (size_t i = 0; i < part->n; i++) {
            float now = off[i];
            off[i] = x[i] - now, x[i] = now;
        }
        error += all_squares(off, part->rows, C, ones);
        op.mem_free(off);
    }
    q->error = relative(error, all);
    if (t && t->squares > 0) q->lost8 = relative(t->lost8, t->squares), q->lost4 = relative(t->lost4, t->squares);
    if (t && t->bins) q->input_scale = static_scale(t);
    put_codes(w, p, q, code);
    for (int j = 0; j < h->n_parts; j++) codes_free(&code[j]);
    free(ones);
}
static void layer_run(Writer *w, Plan *p, Calibration *k, int l, const Rotation *r) {
    Model *m = p->m;
    layer_load(m, l);
    if (r) layer_rotate(m, l, r);
    bool hessian = !strcmp(o.method, "gptq"), bins = !strcmp(o.activations, "static");
    Tap tap[N_TAPS] = {{0}};
    if (k && o.smooth > 0) {                                 /* a pass of its own: what follows sees the inputs moved */
        for (int t = 0; t < N_TAPS; t++) tap[t] = tap_new(m, l, (TapKind)t, false, false);
        look.tap = tap, look.n_taps = N_TAPS;
        calibration_run(m, k, l, l + 1, false);
        layer_smooth(m, l, TAP_QKV, &tap[TAP_QKV], o.smooth);
        layer_smooth(m, l, TAP_UP, &tap[TAP_UP], o.smooth);
        for (int t = 0; t < N_TAPS; t++) tap_free(&tap[t]);
    }
    /* One pass for all of a block's taps. A pass each, with what the block's own quantised matrices make, was measured
     * no better (the default model: KL 0.0086 against 0.0084) and costs three more. */
    if (k) {
        for (int t = 0; t < N_TAPS; t++) tap[t] = tap_new(m, l, (TapKind)t, hessian, bins);
        look.tap = tap, look.n_taps = N_TAPS;
        calibration_run(m, k, l, l + 1, false);
    }
    for (int t = 0; t < N_TAPS; t++) {
        Factor f = {0};
        for (int i = 0; i < p->n; i++) {
            Module *q = &p->v[i];
            if (q->layer != l || (int)q->tap != t) continue;
            if (hessian && !f.n) f = factor_new(tap[t].H, tap[t].n);
            module_quantise(w, p, q, k ? &tap[t] : NULL, f.n ? &f : NULL);
        }
        factor_free(&f);
        tap_free(&tap[t]);
    }
    if (k) calibration_run(m, k, l, l + 1, true);
    for (int i = 0; i < p->n_hub; i++)
        if (p->hub[i].part[0]->layer == l && !p->of[i]) put_kept(w, p, &p->hub[i]);
    layer_drop(m, l);
}
/* Embedding, head and what else is in no block. With a rotation the embedding's rows are turned, and the final norm's
 * weights go into the head, which then is no longer the embedding. */
static void ends_run(Writer *w, Plan *p, const Mat *embedding, const Rotation *r) {
    Model *m = p->m;
    for (int i = 0; i < p->n_hub; i++) {
        const HubTensor *h = &p->hub[i];
        Param *part = h->part[0];
        if (part->layer >= 0) continue;
        bool turned = r && (part->role == R_WTE || part->role == R_HEAD);
        if (!p->of[i] && !turned && !(r && part->role == R_FINAL_W)) {
            put_kept(w, p, h);
            continue;
        }
        if (part->role == R_FINAL_W) {
            float *ones = xmalloc(part->n * sizeof *ones);
            for (size_t c = 0; c < part->n; c++) ones[c] = 1;
            put_floats(w, h->name, ones, part->n, float_dtype(hub_file(m, h)));
            free(ones);
            continue;
        }
        Mat stored = part->role == R_WTE ? *embedding : part->w, kept = part->w;
        for (int head = part->role == R_HEAD; head < 2; head++) {     /* the embedding, and the head that it was */
            if (head && part->role == R_WTE && !p->tied_head) break;
            float *x = op.mem_alloc(size_mul(part->n, sizeof *x));
            op.mat_to_f32(x, &stored);
            if (head && r) scale_columns(x, part->rows, part->cols, values(m, -1, R_FINAL_W));
            if (r) rotate_rows(r, x, part->rows);
            char *name = head ? hub_name(&m->cfg, R_HEAD, -1) : xstrdup(h->name);
            if (p->of[i] && !(head && part->role == R_WTE)) {
                part->w = MAT(DT_F32, part->rows, part->cols, x);
                module_quantise(w, p, p->of[i], NULL, NULL);
                part->w = kept;
            } else put_floats(w, name, x, part->n, float_dtype(hub_file(m, h)));
            free(name);
            op.mem_free(x);
        }
    }
}

static char *half_written;             /* what must not stay when we die */
static void clean_up(void) {
    char *dir = half_written;
    half_written = NULL;
    if (dir && to_gguf()) remove(dir);
    else if (dir) dir_remove(dir);
}
static void check_source(const Config *c) {
    if (c->quantised) die("%s is quantised already: quantise the model that it was made from", o.model);
    if (o.rotate && (c->norm != NORM_RMS || c->norm_place != NORM_PRE || c->residual_from_norm))
        die("--rotate: a %s model's norms are not RMSNorm on a plain stream, which alone can be turned",
            config_model_type(c));
    if (o.smooth > 0 && (c->norm_place != NORM_PRE || c->residual_from_norm))
        die("--smooth: in a %s model the norms' outputs go elsewhere too, so no scale can be moved into them",
            config_model_type(c));
}
static void check_options(void) {
    if (o.bits != 4 && o.bits != 8) die_usage("--bits %lld: 8 or 4", (long long)o.bits);
    if (o.budget && o.bits != 4) die_usage("--budget chooses between 4 and 8 bits: it goes with --bits 4");
    if (o.embedding && o.embedding != 8) die_usage("--embedding %lld: 8, or 0 for as it is", (long long)o.embedding);
    if (!given("group")) o.group = o.bits == 4 ? 128 : 0;
    if (!given("method") && o.calibration.n) o.method = "gptq";
    if (!strcmp(o.method, "gptq") && !o.calibration.n)
        die_usage("--method gptq needs --calibration: text of the kind that the model will see");
    if (!strcmp(o.activations, "static") && !o.calibration.n)
        die_usage("--activations static needs --calibration, to measure their range");
    if (o.smooth > 0 && !o.calibration.n) die_usage("--smooth needs --calibration, to measure the inputs' range");
    if (to_gguf()) {
        static const char *const none[] = {"group", "budget", "embedding", "dtype", "rotate", "activations", "eval",
                                           "bench", "symmetric"};
        for (size_t i = 0; i < sizeof none / sizeof *none; i++)
            if (given(none[i])) die_usage("--%s does not go with --format gguf: llama.cpp has it its own way", none[i]);
        if (!given("out")) o.out = "quantised.gguf";
        o.group = GGUF_BLOCK, o.embedding = 8;
    }
    if (!strcmp(common.device, "cuda")) die("quantize works on the CPU: what it writes runs on either");
}
int main(int argc, char **argv) {
    options_parse(argc, argv, 1, about, table, N_OPTIONS);
    check_options();
    if (!is_dir(o.model))
        die("%s: no such directory: a model is a directory with config.json and model.safetensors", o.model);
    char *from = realpath(o.model, NULL), *to = realpath(o.out, NULL), *there = path_join(o.out, "config.json");
    if (from && to && !strcmp(from, to)) die("--out is the model itself: name another directory");
    if (to_gguf() && is_dir(o.out)) die("--out %s is a directory: a GGUF file is one file", o.out);
    if (file_exists(there) && !o.overwrite)
        die("%s holds a model already: replace it with --overwrite, or choose another --out", o.out);
    if (to_gguf() && file_exists(o.out) && !o.overwrite)
        die("%s is there already: replace it with --overwrite, or choose another --out", o.out);
    free(from), free(to), free(there);
    Config c = config_read(o.model);
    check_source(&c);
    ops_select(common.device, common.isa, PREC_F32);
    bool large = config_weights(&c) > (size_t)1e9 && !strcmp(op.name, "avx512bf16");
    precision = !strcmp(o.precision, "bf16") || (!strcmp(o.precision, "auto") && large) ? PREC_BF16 : PREC_F32;
    double begin_s = now_s();
    Model *m = model_load_lazily(o.model);
    bool text = o.calibration.n || o.eval.n;
    if (o.eval.n && c.head != HEAD_LM) die("--eval: a %s model does not predict next tokens", config_model_type(&c));
    Tokenizer *tok = text && tokenizer_in_dir(o.model) ? tokenizer_load(o.model) : NULL;
    if (text && !tok && !ends_with((o.calibration.n ? o.calibration : o.eval).v[0], ".bin"))
        die("%s holds no tokenizer: only token shards (.bin) can be read", o.model);

    Plan p = plan_new(m);
    Calibration calibration, *k = NULL;
    if (o.calibration.n) calibration = calibration_read(m, tok), k = &calibration;
    if (o.budget) plan_budget(&p, k);
    catch_signals();
    atexit(clean_up);
    char *tmp = half_written = to_gguf() ? strf("%s.tmp", o.out) : dir_begin(o.out);
    Writer w = to_gguf() ? writer_gguf(&p, o.out) : writer_new(&p, tmp);
    Rotation rotation, *r = NULL;
    Param *wte = m->at[0][R_WTE];
    Mat embedding = wte->w;
    if (o.rotate) {
        rotation = rotation_new((size_t)c.C, (uint64_t)common.seed), r = &rotation;
        float *x = op.mem_alloc(size_mul(wte->n, sizeof *x));
        op.mat_to_f32(x, &embedding);
        rotate_rows(r, x, wte->rows);
        wte->w = MAT(DT_F32, wte->rows, wte->cols, x);
    }
    Progress bar = progress_begin("quantise", c.L);
    for (int l = 0; l < c.L; l++) {
        layer_run(&w, &p, k, l, r);
        double worst = 0;
        for (int i = 0; i < p.n; i++)
            if (p.v[i].layer == l && p.v[i].error > worst) worst = p.v[i].error;
        progress_at(&bar, l + 1, "layer %d: error %.2f%%", l, 100 * worst);
        if (stop_requested) die("stopped: nothing was written to %s", o.out);
    }
    if (r) op.mem_free(wte->w.data), wte->w = embedding;
    ends_run(&w, &p, &embedding, r);
    double quantised = 0, weights = 0;
    for (int i = 0; i < p.n; i++) quantised += (double)(p.v[i].h->rows * p.v[i].h->cols);
    for (int i = 0; i < p.n_hub; i++) weights += (double)(p.hub[i].rows * p.hub[i].cols);
    if (to_gguf()) {
        size_t bytes = gguf_end(w.gguf);
        half_written = NULL;
        progress_end(&bar, "%d matrices in %s", p.n, human_time(now_s() - begin_s));
        if (!common.quiet)
            fprintf(stderr, "%s: %s, %.3f bits a weight\n", o.out, human_bytes((double)bytes),
                8 * (double)bytes / weights);
        if (o.json) printf("{\"event\":\"quantize\",\"format\":\"gguf\",\"bytes\":%zu}\n", bytes);
        free(w.bits), free(tmp);
        if (k) calibration_free(k);
        plan_free(&p);
        model_free(m);
        if (tok) tokenizer_free(tok);
        return 0;
    }
    Quality q = {.bits = 8 * w.quantised_bytes / quantised};
    for (int i = 0; i < w.n; i++) {
        double n = 1;
        for (int d = 0; d < w.v[i].n_dims; d++) n *= (double)w.v[i].shape[d];
        q.bytes += n * (double)dtype_size(w.v[i].dtype);
    }
    q.bits_all = 8 * q.bytes / weights;
    writer_end(&w);
    progress_end(&bar, "%d matrices in %s", p.n, human_time(now_s() - begin_s));
    q.seconds = now_s() - begin_s;
    config_save(&p, tmp);
    tokenizer_copy_files(o.model, tmp);
    if (k) calibration_free(k);
    if (o.eval.n || o.bench) measure(&q, tmp, tok);
    card_save(&q, tmp);
    report(&p, &q, tmp);
    if (stop_requested) die("stopped: nothing was written to %s", o.out);
    dir_commit(tmp, o.out);
    half_written = NULL;
    if (!common.quiet) fprintf(stderr, "model in %s, report in %s/report.html\n", o.out, o.out);
    plan_free(&p);
    model_free(m);
    if (tok) tokenizer_free(tok);
    return 0;
}
