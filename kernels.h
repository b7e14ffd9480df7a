/* kernels.h - the contracts of every operation, and so the index of the course.
 *
 * LETTERS, used everywhere with this meaning:
 *     B batch rows    T tokens of a row in this call    N = B*T tokens in all    S cache slots of a row
 *     C width of the residual stream    H query heads    K key/value heads    D width of one head
 *     F feed-forward width    V vocabulary    L layers    O outputs of a linear layer    G quantisation group    R LoRA
 *     rank
 * Every contract gives shapes as stored, row-major, the last index adjacent:  y (N,O) = x (N,C) @ w (O,C)^T.
 *
 * HOW IT IS BUILT. kernels.cu holds each op twice, adjacent: a CPU loop and a CUDA kernel. It is compiled once per
 * flavour (plain C, AVX2, AVX-512, AVX-512 with BF16, NEON; CUDA with float or bf16 activations), and each flavour
 * exports one table of functions, struct Ops. ops_select() copies the best one this machine can run, or the one asked
 * for, into the global `op`; from then on a stage writes op.rmsnorm(...) and never knows where it runs. The table, its
 * fillers and the prototypes all come from the one list below, so a missing or differing op does not compile.
 *
 * WHAT STAGES MAY NOT DO. Memory from op.mem_alloc is the device's: stages pass it, never read it. `act` is opaque to
 * them: float on the CPU, float or bf16 on a GPU. Offsets into activations are taken with act_at().
 *
 * Ops return nothing and report nothing: sizes were checked at the border. They run in the order of the calls. They
 * allocate nothing but scratch that grows to the largest call and stays. Results do not depend on the number of
 * threads: work is split over outputs, and sums run over blocks of fixed size. */
#ifndef KERNELS_H
#define KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef ACT                     /* kernels.cu says what an activation is in its flavour ... */
typedef ACT act;
#else
typedef struct act act;        /* ... to everybody else it is opaque */
#endif

typedef enum { DT_F32, DT_F16, DT_BF16, DT_I8, DT_U8, DT_I32, DT_I64, DT_BOOL, DT_COUNT,
               DT_I4 = DT_COUNT } DType;   /* two values a byte: in a Mat, never in a file's header */

/* How a quantised matrix wants its inputs: as they are; rounded to int8 with one scale per token (absmax / 127); or
 * with one scale for all, measured beforehand. */
typedef enum { INPUT_FLOAT, INPUT_DYNAMIC, INPUT_STATIC } InputQuant;

/* A weight matrix as stored: out = x @ w^T. Only matmul and embed look inside. data is F32, F16 or BF16, used in place
 * (in an mmap, perhaps only 2-byte aligned); or quantised, I8 or I4: w = (q - zero) * scale, which every group of G
 * inputs of a row has one of. An I4 row is ceil(C/8) little-endian 32-bit words, element i in bits 4i .. 4i+3 of that
 * stream, stored as q + 8. G is a multiple of 8 (the last group of a row may be shorter), or 0: one group a row. */
typedef struct Mat {
    DType dtype;
    size_t rows, cols;         /* O outputs, C inputs */
    void *data;                /* (O, C) */
    size_t group;              /* from here on for I8 and I4: G */
    const void *scale;         /* (O, ceil(C/G)), never 0 or infinite, in ... */
    DType scale_dtype;         /* ... F32, F16 or BF16 */
    const int8_t *zero;        /* (O, ceil(C/G)); NULL: symmetric */
    const int32_t *order;      /* (C): stored column i multiplies input order[i] (GPTQ's g_idx, sorted); NULL: i */
    InputQuant input;
    float input_scale;         /* of INPUT_STATIC: x = q * input_scale */
} Mat;
#define MAT(t, r, c, d) ((Mat){.dtype = t, .rows = r, .cols = c, .data = d})   /* one that is not quantised */

/* One linear layer over a shared input: what its forward, its dX and its dW need. Layers that read the same x (q, k
 * and v; gate and up) go to one call as a list: x is packed once, and one barrier does for all. */
#define LINEAR_MAX 6           /* q, k, v and an adapter on each */
typedef struct Linear {
    Mat w;                     /* (O, C) */
    const float *bias;         /* (O) or NULL */
    act *y;                    /* (N, O) forward: written */
    const act *dy;             /* (N, O) backward: read */
    float *dw, *dbias;         /* (O, C), (O) backward: added to; NULL: frozen */
} Linear;

/* Which slots a query sees. Every mask of the supported families is one range [lo, hi) per query, see attn_range. */
typedef struct Attn {
    size_t B, T, S;
    int H, K, D;               /* query head h reads key head h / (H/K) */
    float scale;               /* usually 1/sqrt(D) */
    bool causal;               /* false: bidirectional (BERT) */
    int window;                /* > 0: only the last `window` slots, the query's own included */
    const int32_t *pos;        /* (B) slots filled before this call; NULL: 0. Query t of row b is slot pos[b] + t */
    const int32_t *prefix;     /* (B) or NULL: the first prefix[b] slots are seen by every query (prefix LM) */
    const int32_t *start;      /* (B,T) or NULL: first slot seen: left padding, or the document's start when packed */
    const int32_t *len;        /* (B) or NULL: slots filled after this call, for padded rows; NULL: pos[b] + T */
    const float *k_scale, *v_scale;   /* (B,S,K) both, or NULL: k and v are int8, what they mean is q * scale */
} Attn;

/* Rotary embedding of x (B,T,heads,D): dimensions [first, first+rot) of each head turn, the others are copied. Also
 * the way into the KV cache: row b, token t goes to y + b*y_row + (slot[b]+t)*heads*D; with rot = 0 it only copies. */
typedef struct Rope {
    size_t B, T;
    int heads, D, first, rot;
    bool interleaved;          /* pairs (2i, 2i+1); else half-split (i, i + rot/2) */
    bool inverse;              /* the transposed rotation: the backward pass */
    const float *table;        /* (positions, rot/2, 2): cos, sin */
    const int32_t *position;   /* (B,T) row of the table */
    size_t y_row;              /* elements from one row of y to the next; T*heads*D when y is not a cache */
    const int32_t *slot;       /* (B) or NULL: 0 */
} Rope;

typedef struct AdamW {         /* Loshchilov and Hutter 2019, as torch.optim.AdamW */
    float lr, beta1, beta2, eps, weight_decay;
    float bias1, bias2;        /* 1 - beta1^t, 1 - beta2^t */
    float grad_scale;          /* clipping factor, multiplies the gradient */
} AdamW;

typedef struct Sampler {       /* applied in this order; 0 (top_p: 1, repetition: 1) leaves a step out */
    float repetition;          /* logits of tokens in the history: divided by it if > 0, multiplied if < 0 */
    float temperature;         /* 0: the largest logit, the first of equals */
    int top_k;                 /* keep the k largest; ties at the border are all kept */
    float top_p;               /* keep the fewest largest with probability sum >= top_p */
    float min_p;               /* keep those with probability >= min_p * the largest */
} Sampler;

typedef enum { GELU_TANH, GELU_ERF, TANH } ActivationKind;
/* Of matmul and attention inputs; sums are always f32. PREC_I8 is for peak_flops alone. */
typedef enum { PREC_F32, PREC_BF16, PREC_I8 } Precision;

typedef struct Ops {
    const char *name;          /* "avx512bf16", "cuda (bf16)" */
    size_t act_size;           /* bytes of one activation */
    bool host_memory;          /* device memory is the host's: weights are used in place from the mmap */
#define OP(ret, name, args) ret(*name) args;
#include "kernels.h"
#undef OP
} Ops;

#ifdef __cplusplus
extern "C" {
#endif
extern Ops op;
/* Chooses the flavour: device "cpu" or "cuda", isa "auto" or a CPU flavour's name. Dies when this machine or this
 * build has it not. On CUDA the precision picks the activations' type. */
void ops_select(const char *device, const char *isa, Precision precision);
int ops_gpus(void);            /* NVIDIA GPUs that this build can use here */
#ifdef __cplusplus
}
#endif

static inline act *act_at(const Ops *o, const act *base, size_t index) {
    return (act *)((char *)(uintptr_t)base + index * o->act_size);
}

#ifdef __CUDACC__
#  define HOST_DEVICE __host__ __device__
#else
#  define HOST_DEVICE
#endif
/* Is it I8 or I4? */
HOST_DEVICE static inline bool mat_quantised(const Mat *w) { return w->dtype == DT_I8 || w->dtype == DT_I4; }
HOST_DEVICE static inline size_t mat_row_bytes(const Mat *w) {
    if (w->dtype == DT_I4) return (w->cols + 7) / 8 * 4;
    return w->cols * (w->dtype == DT_F32 ? 4 : w->dtype == DT_I8 ? 1 : 2);
}
HOST_DEVICE static inline size_t mat_groups(const Mat *w) {                     /* scales of a row */
    return w->group && w->group < w->cols ? (w->cols + w->group - 1) / w->group : 1;
}
/* All bytes that a product with it reads: weights, scales, zero points. */
static inline size_t mat_bytes(const Mat *w) {
    size_t scales = mat_quantised(w) ? (w->scale_dtype == DT_F32 ? 4 : 2) + (w->zero != NULL) : 0;
    return w->rows * (mat_row_bytes(w) + mat_groups(w) * scales);
}

/* The slots [lo, hi) that query t of row b sees. */
HOST_DEVICE static inline void attn_range(const Attn *a, size_t b, size_t t, size_t *lo, size_t *hi) {
    size_t pos = a->pos ? (size_t)a->pos[b] : 0, slot = pos + t;
    size_t first = a->start ? (size_t)a->start[b * a->T + t] : 0;
    if (a->window > 0 && slot + 1 > first + (size_t)a->window) first = slot + 1 - (size_t)a->window;
    size_t last = a->len ? (size_t)a->len[b] : pos + a->T;
    if (a->causal && slot + 1 < last) {
        last = slot + 1;
        if (a->prefix && (size_t)a->prefix[b] > last) last = (size_t)a->prefix[b];
    }
    *lo = first;
    *hi = last;
}

#elif defined OP
/* ================================================ the ops ======================================================== */

/* ---- memory [op.mem] -------------------------------------------------------------------------------------------- */
OP(void *, mem_alloc, (size_t bytes))                             /* zeroed, 64-byte aligned; dies when there is none */
OP(void, mem_free, (void *p))
OP(void, upload, (void *dst, const void *host, size_t bytes))         /* host -> device, done on return */
OP(void, download, (void *host, const void *src, size_t bytes))       /* device -> host, waits for all ops before */
OP(void, copy, (void *dst, const void *src, size_t bytes))            /* within the device */
OP(void, zero, (void *dst, size_t bytes))
OP(void, sync, (void))                                                /* waits for all ops */
OP(void, act_to_host, (float *host, const act *x, size_t n))          /* download and widen to float */
OP(void, act_from_host, (act *y, const float *host, size_t n))
/* dst.data (F32, F16, BF16) = rounded src, both on the device */
OP(void, mat_from_f32, (const Mat *dst, const float *src))
OP(void, mat_to_f32, (float *dst, const Mat *src))       /* widen a whole matrix, inputs in order; both on the device */

/* ---- limits of this machine, measured [op.peak] ----------------------------------------------------------------- */
OP(double, peak_flops, (Precision p))                         /* FLOP/s of the matmul units, all threads; about 50 ms */
OP(double, peak_read, (void))                                /* bytes/s of sequential reads from memory; about 100 ms */

/* ---- linear layers [op.matmul] ---------------------------------------------------------------------------------- *
 * set_precision: how matmul and attention round their inputs from now on (the CPU flavours; a CUDA flavour has one). */
OP(void, set_precision, (Precision p))
/* y_i (N,O_i) = x (N,C) @ w_i (O_i,C)^T + bias_i, for i < n; with n = 1 also + residual (N,O) (may be y itself; NULL:
 * none). A small N (decoding) streams each weight once. */
OP(void, matmul, (const Linear *lin, int n, const act *x, const act *residual, size_t N))
/* dx (N,C) = sum over i of dy_i (N,O_i) @ w_i (O_i,C), added to what dx holds when accumulate. */
OP(void, matmul_dx, (act *dx, const Linear *lin, int n, size_t N, bool accumulate))
/* dw_i (O_i,C) += dy_i (N,O_i)^T @ x (N,C);  dbias_i (O_i) += sum over N of dy_i. NULL gradients are left out, as they
 * are for a quantised w_i. */
OP(void, matmul_dw, (const Linear *lin, int n, const act *x, size_t N))

/* ---- embedding [op.embed] --------------------------------------------------------------------------------------- */
/* y (N,C) = table[ids[i]], added to what y holds when add. */
OP(void, embed, (act *y, const int32_t *ids, const Mat *table, size_t N, bool add))
/* dtable (rows,C) += dy (N,C) scattered by ids. order (N): 0..N-1 sorted by (ids[i], i), so that sums have one
 * order. */
OP(void, embed_bwd, (float *dtable, const int32_t *ids, const int32_t *order, const act *dy, size_t N, size_t C))

/* ---- norms [op.norm] -------------------------------------------------------------------------------------------- */
/* y = x * rstd * w, rstd (N) = 1/sqrt(mean(x^2) + eps) over each row of C. (Zhang and Sennrich 2019.) rstd may be
 * NULL. */
OP(void, rmsnorm, (act *y, float *rstd, const act *x, const float *w, size_t N, size_t C, float eps))
/* dx = (accumulate ? dx : 0) + gradient; dw (C) += (NULL: frozen). dx may be dy itself when not accumulating. */
OP(void, rmsnorm_bwd, (act *dx, float *dw, const act *dy, const act *x, const float *w, const float *rstd, size_t N,
    size_t C, bool accumulate))
/* y = (x - mean) * rstd * w + b. (Ba et al. 2016.) mean, rstd (N) may be NULL; y may be x. */
OP(void, layernorm, (act *y, float *mean, float *rstd, const act *x, const float *w, const float *b, size_t N,
    size_t C, float eps))
OP(void, layernorm_bwd, (act *dx, float *dw, float *db, const act *dy, const act *x, const float *w,
    const float *mean, const float *rstd, size_t N, size_t C, bool accumulate))

/* ---- positions [op.rope] ---------------------------------------------------------------------------------------- */
/* y = x rotated (Su et al. 2021), see struct Rope. y may be x where both have the same place (slot NULL, y_row
 * T*heads*D). */
OP(void, rope, (act *y, const act *x, const Rope *r))

/* ---- attention [op.attention] ----------------------------------------------------------------------------------- */
/* out (B,T,H,D) = softmax(scale q k^T over [lo,hi)) v;  q (B,T,H,D), k and v (B,S,K,D), activations or, with scales,
 * int8; lse (B,H,T): log of the softmax's sum, kept for the backward (NULL in decoding). No T x T matrix is stored (Dao
 * et al. 2022). A query with an empty range gives zeros and lse = -inf. */
OP(void, attention, (act *out, float *lse, const act *q, const void *k, const void *v, const Attn *a))
/* x (B,T,K,D) rounded into slots pos[b]+t of an int8 cache: y (B,S,K,D), scale (B,S,K). A head of a token has a scale
 * of its own, largest / 127.5: symmetric, to nearest. What is not finite makes that whole head NaN. */
OP(void, cache_i8, (int8_t *y, float *scale, const act *x, const Attn *a))
/* dq (B,T,H,D), dk and dv (B,S,K,D), written, not added. delta (B,H,T) is scratch. pos is NULL or all zero here. */
OP(void, attention_bwd, (act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out, const float *lse,
    const act *q, const act *k, const act *v, const Attn *a))
/* probs (H,T,S) in float on the device: row b's attention, to look at. k is no int8. */
OP(void, attention_probs, (float *probs, const act *q, const act *k, const Attn *a, size_t b))

/* ---- feed-forward [op.mlp] -------------------------------------------------------------------------------------- */
/* GELU: Hendrycks and Gimpel 2016. The backward's dx may be dy or x. */
OP(void, activation, (act *y, const act *x, size_t n, ActivationKind kind))
OP(void, activation_bwd, (act *dx, const act *dy, const act *x, size_t n, ActivationKind kind))
OP(void, swiglu, (act *y, const act *gate, const act *up, size_t n))  /* y = silu(gate) * up; Shazeer 2020 */
/* dup may be dy */
OP(void, swiglu_bwd, (act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n))
OP(void, add, (act *y, const act *a, float alpha, const act *b, size_t n))      /* y = alpha * a + b; y may be a or b */
/* y = x * keep / (1 - p), keep drawn from rng_mix(seed, i): the same call on a gradient is the backward. y may be x. */
OP(void, dropout, (act *y, const act *x, size_t n, float p, uint64_t seed))

/* ---- loss [op.loss] --------------------------------------------------------------------------------------------- */
/* loss (N) = -log softmax(logits)[target], 0 where target < 0; then logits (N,V) becomes (softmax - onehot) * scale (0
 * where target < 0), unless scale = 0: then logits stay. */
OP(void, cross_entropy, (float *loss, act *logits, const int32_t *target, size_t N, size_t V, float scale))

/* ---- optimiser [op.adamw] --------------------------------------------------------------------------------------- */
/* One step on n values in one pass; the gradient is zeroed behind it. copy (dtype F32 with data NULL: none) receives
 * the new values rounded, for matmuls in bf16. */
OP(void, adamw, (float *p, const Mat *copy, float *grad, float *m, float *v, size_t n, const AdamW *h))
OP(void, sum_squares, (double *out, const float *x, size_t n))      /* out (1, on the device) = sum of x^2, in double */

/* ---- sampling [op.sample] --------------------------------------------------------------------------------------- */
/* token (1) drawn from logits (V) with the uniform number u in [0,1); history (n_history): ids that the repetition
 * penalty meets. scratch (V) float. All on the device. Thresholds are found by bisection, so nothing is sorted. */
OP(void, sample, (int32_t *token, float *scratch, const act *logits, size_t V, const int32_t *history,
    size_t n_history, const Sampler *s, float u))
#endif
