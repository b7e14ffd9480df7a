/* profile.c - see profile.h. Ops are called through a table, so a profiler is another table: each entry notes the time,
 * calls what was there before, and adds up. No op knows of it, and without --profile it does not exist.
 *
 * An op is bound by arithmetic or by memory: the share is that of the tighter limit, max(FLOPs / peak FLOPs, bytes /
 * peak bytes) / time (the roofline; Williams et al. 2009). Bytes are those that must move if every operand is read or
 * written once; what stays in a cache can therefore show more than 100%. Only products count FLOPs: exponentials and
 * the like are lines without a share of arithmetic, and their limit is memory. */
#include "profile.h"
#include "weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    P_MATMUL, P_MATMUL_FEW, P_MATMUL_DX, P_MATMUL_DW, P_EMBED, P_EMBED_BWD, P_RMSNORM, P_RMSNORM_BWD, P_LAYERNORM,
    P_LAYERNORM_BWD, P_ROPE, P_CACHE, P_ATTENTION, P_ATTENTION_BWD, P_ACTIVATION, P_ACTIVATION_BWD, P_SWIGLU,
        P_SWIGLU_BWD,
    P_ADD, P_DROPOUT, P_CROSS_ENTROPY, P_ADAMW, P_SUM_SQUARES, P_SAMPLE, P_TRANSFER, P_COUNT
} Line;
static const char *const names[P_COUNT] = {
    "matmul", "matmul, few rows", "matmul dX", "matmul dW", "embed", "embed backward", "rmsnorm", "rmsnorm backward",
    "layernorm", "layernorm backward", "rope", "cache in int8", "attention", "attention backward", "activation",
        "activation backward",
    "swiglu", "swiglu backward", "add", "dropout", "cross entropy", "adamw", "sum of squares", "sample",
    "upload, download, copy"};
typedef struct { double s, flops, bytes; uint64_t calls; } Tally;

static Ops timed;                                                     /* the ops themselves, behind the timing ones */
static Tally tally[P_COUNT];
static double begin_s, peak_flops, peak_read;

static double start(void) {
    if (!timed.host_memory) timed.sync();
    return now_s();
}
static void stop(Line line, double start_s, double flops, double bytes) {
    if (!timed.host_memory) timed.sync();
    Tally *t = &tally[line];
    t->s += now_s() - start_s;
    t->flops += flops;
    t->bytes += bytes;
    t->calls++;
}
static double A(double n) { return n * (double)timed.act_size; }      /* bytes of n activations */

static double outputs(const Linear *lin, int n) {
    double O = 0;
    for (int i = 0; i < n; i++) O += (double)lin[i].w.rows;
    return O;
}
static double weight_bytes(const Linear *lin, int n) {
    double bytes = 0;
    for (int i = 0; i < n; i++) bytes += (double)mat_bytes(&lin[i].w);
    return bytes;
}
enum { FEW_ROWS = 8 };                                                /* a decoding step or so: bound by memory */
static void t_matmul(const Linear *lin, int n, const act *x, const act *residual, size_t N) {
    double t = start(), O = outputs(lin, n), C = (double)lin[0].w.cols, rows = (double)N;
    timed.matmul(lin, n, x, residual, N);
    stop(N <= FEW_ROWS ? P_MATMUL_FEW : P_MATMUL, t, 2 * rows * C * O,
        weight_bytes(lin, n) + A(rows * (C + O * (residual ? 2 : 1))));
}
static void t_matmul_dx(act *dx, const Linear *lin, int n, size_t N, bool accumulate) {
    double t = start(), O = outputs(lin, n), C = (double)lin[0].w.cols, rows = (double)N;
    timed.matmul_dx(dx, lin, n, N, accumulate);
    stop(P_MATMUL_DX, t, 2 * rows * C * O, weight_bytes(lin, n) + A(rows * (O + C * (accumulate ? 2 : 1))));
}
static void t_matmul_dw(const Linear *lin, int n, const act *x, size_t N) {
    double t = start(), O = 0, C = (double)lin[0].w.cols, rows = (double)N;
    for (int i = 0; i < n; i++) O += lin[i].dw ? (double)lin[i].w.rows : 0;     /* frozen ones cost nothing */
    timed.matmul_dw(lin, n, x, N);
    stop(P_MATMUL_DW, t, 2 * rows * C * O, 8 * O * C + A(O > 0 ? rows * (O + C) : 0));
}
static void t_embed(act *y, const int32_t *ids, const Mat *table, size_t N, bool add) {
    double t = start(), n = (double)N * (double)table->cols;
    timed.embed(y, ids, table, N, add);
    stop(P_EMBED, t, 0, (double)(N * mat_row_bytes(table)) + A(n * (add ? 2 : 1)));
}
static void t_embed_bwd(float *dtable, const int32_t *ids, const int32_t *order, const act *dy, size_t N, size_t C) {
    double t = start(), n = (double)N * (double)C;
    timed.embed_bwd(dtable, ids, order, dy, N, C);
    stop(P_EMBED_BWD, t, 0, A(n) + 8 * n);
}
static void t_rmsnorm(act *y, float *rstd, const act *x, const float *w, size_t N, size_t C, float eps) {
    double t = start();
    timed.rmsnorm(y, rstd, x, w, N, C, eps);
    stop(P_RMSNORM, t, 0, A(2 * (double)N * (double)C));
}
static void t_rmsnorm_bwd(act *dx, float *dw, const act *dy, const act *x, const float *w, const float *rstd,
    size_t N, size_t C, bool accumulate) {
    double t = start();
    timed.rmsnorm_bwd(dx, dw, dy, x, w, rstd, N, C, accumulate);
    stop(P_RMSNORM_BWD, t, 0, A((accumulate ? 4 : 3) * (double)N * (double)C));
}
static void t_layernorm(act *y, float *mean, float *rstd, const act *x, const float *w, const float *b, size_t N,
    size_t C, float eps) {
    double t = start();
    timed.layernorm(y, mean, rstd, x, w, b, N, C, eps);
    stop(P_LAYERNORM, t, 0, A(2 * (double)N * (double)C));
}
static void t_layernorm_bwd(act *dx, float *dw, float *db, const act *dy, const act *x, const float *w,
    const float *mean, const float *rstd, size_t N, size_t C, bool accumulate) {
    double t = start();
    timed.layernorm_bwd(dx, dw, db, dy, x, w, mean, rstd, N, C, accumulate);
    stop(P_LAYERNORM_BWD, t, 0, A((accumulate ? 4 : 3) * (double)N * (double)C));
}
static void t_rope(act *y, const act *x, const Rope *r) {
    double t = start();
    timed.rope(y, x, r);
    stop(P_ROPE, t, 0, A(2 * (double)(r->B * r->T) * r->heads * r->D));
}
/* Pairs of a query and a slot that it sees. On a GPU the ranges lie there, and causal rows are taken to be whole. */
static double attended(const Attn *a) {
    double pairs = 0;
    if (!timed.host_memory)
        return (double)(a->B * a->T) * (a->causal ? (double)a->S - (double)(a->T - 1) / 2 : (double)a->S);
    for (size_t b = 0; b < a->B; b++)
        for (size_t t = 0; t < a->T; t++) {
            size_t lo, hi;
            attn_range(a, b, t, &lo, &hi);
            pairs += hi > lo ? (double)(hi - lo) : 0;
        }
    return pairs;
}
static double attention_bytes(const Attn *a) {                        /* q and out; k and v as far as they are seen */
    double rows = (double)(a->B * a->T), seen = attended(a) / (double)a->T * (a->T > 1 && a->causal ? 2 : 1);
    double heads = 2 * fmin(seen, (double)(a->B * a->S)) * a->K;
    return A(2 * rows * a->H * a->D) + heads * (a->k_scale ? a->D + (double)sizeof(float) : A(a->D));
}
static void t_cache_i8(int8_t *y, float *scale, const act *x, const Attn *a) {
    double t = start(), n = (double)(a->B * a->T) * a->K;
    timed.cache_i8(y, scale, x, a);
    stop(P_CACHE, t, 0, A(n * a->D) + n * (a->D + (double)sizeof(float)));
}
static void t_attention(act *out, float *lse, const act *q, const void *k, const void *v, const Attn *a) {
    double t = start();
    timed.attention(out, lse, q, k, v, a);
    stop(P_ATTENTION, t, 4.0 * a->D * a->H * attended(a), attention_bytes(a));
}
static void t_attention_bwd(act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out,
    const float *lse, const act *q, const act *k, const act *v, const Attn *a) {
    double t = start();
    timed.attention_bwd(dq, dk, dv, delta, dout, out, lse, q, k, v, a);
    stop(P_ATTENTION_BWD, t, 10.0 * a->D * a->H * attended(a), 2 * attention_bytes(a));
}
static void t_activation(act *y, const act *x, size_t n, ActivationKind kind) {
    double t = start();
    timed.activation(y, x, n, kind);
    stop(P_ACTIVATION, t, 0, A(2 * (double)n));
}
static void t_activation_bwd(act *dx, const act *dy, const act *x, size_t n, ActivationKind kind) {
    double t = start();
    timed.activation_bwd(dx, dy, x, n, kind);
    stop(P_ACTIVATION_BWD, t, 0, A(3 * (double)n));
}
static void t_swiglu(act *y, const act *gate, const act *up, size_t n) {
    double t = start();
    timed.swiglu(y, gate, up, n);
    stop(P_SWIGLU, t, 0, A(3 * (double)n));
}
static void t_swiglu_bwd(act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n) {
    double t = start();
    timed.swiglu_bwd(dgate, dup, dy, gate, up, n);
    stop(P_SWIGLU_BWD, t, 0, A(5 * (double)n));
}
static void t_add(act *y, const act *a, float alpha, const act *b, size_t n) {
    double t = start();
    timed.add(y, a, alpha, b, n);
    stop(P_ADD, t, 0, A(3 * (double)n));
}
static void t_dropout(act *y, const act *x, size_t n, float p, uint64_t seed) {
    double t = start();
    timed.dropout(y, x, n, p, seed);
    stop(P_DROPOUT, t, 0, A(2 * (double)n));
}
static void t_cross_entropy(float *loss, act *logits, const int32_t *target, size_t N, size_t V, float scale) {
    double t = start();
    timed.cross_entropy(loss, logits, target, N, V, scale);
    stop(P_CROSS_ENTROPY, t, 0, A((scale != 0 ? 2 : 1) * (double)N * (double)V));
}
static void t_adamw(float *p, const Mat *copy, float *grad, float *m, float *v, size_t n, const AdamW *h) {
    double t = start();
    timed.adamw(p, copy, grad, m, v, n, h);
    stop(P_ADAMW, t, 0, (double)n * (32 + (copy->data ? (double)dtype_size(copy->dtype) : 0)));
}
static void t_sum_squares(double *out, const float *x, size_t n) {
    double t = start();
    timed.sum_squares(out, x, n);
    stop(P_SUM_SQUARES, t, 0, 4 * (double)n);
}
static void t_sample(int32_t *token, float *scratch, const act *logits, size_t V, const int32_t *history,
    size_t n_history, const Sampler *s, float u) {
    double t = start();
    timed.sample(token, scratch, logits, V, history, n_history, s, u);
    stop(P_SAMPLE, t, 0, A((double)V));
}
static void t_upload(void *dst, const void *host, size_t bytes) {
    double t = start();
    timed.upload(dst, host, bytes);
    stop(P_TRANSFER, t, 0, 2 * (double)bytes);
}
static void t_download(void *host, const void *src, size_t bytes) {
    double t = start();
    timed.download(host, src, bytes);
    stop(P_TRANSFER, t, 0, 2 * (double)bytes);
}
static void t_copy(void *dst, const void *src, size_t bytes) {
    double t = start();
    timed.copy(dst, src, bytes);
    stop(P_TRANSFER, t, 0, 2 * (double)bytes);
}

/* Measuring the machine again is no part of what is measured. */
static double t_peak_flops(Precision p) {
    double t = now_s(), flops = timed.peak_flops(p);
    begin_s += now_s() - t;
    return flops;
}
static double t_peak_read(void) {
    double t = now_s(), read = timed.peak_read();
    begin_s += now_s() - t;
    return read;
}

void profile_reset(void) {
    memset(tally, 0, sizeof tally);
    begin_s = now_s();
}
void profile_begin(Precision precision) {
    peak_flops = op.peak_flops(precision);
    peak_read = op.peak_read();
    timed = op;
    op.matmul = t_matmul, op.matmul_dx = t_matmul_dx, op.matmul_dw = t_matmul_dw;
    op.embed = t_embed, op.embed_bwd = t_embed_bwd;
    op.rmsnorm = t_rmsnorm, op.rmsnorm_bwd = t_rmsnorm_bwd;
    op.layernorm = t_layernorm, op.layernorm_bwd = t_layernorm_bwd;
    op.rope = t_rope, op.cache_i8 = t_cache_i8, op.attention = t_attention, op.attention_bwd = t_attention_bwd;
    op.activation = t_activation, op.activation_bwd = t_activation_bwd;
    op.swiglu = t_swiglu, op.swiglu_bwd = t_swiglu_bwd;
    op.add = t_add, op.dropout = t_dropout, op.cross_entropy = t_cross_entropy;
    op.adamw = t_adamw, op.sum_squares = t_sum_squares, op.sample = t_sample;
    op.upload = t_upload, op.download = t_download, op.copy = t_copy;
    op.peak_flops = t_peak_flops, op.peak_read = t_peak_read;
    profile_reset();
}

static int by_time(const void *a, const void *b) {
    double x = tally[*(const Line *)a].s, y = tally[*(const Line *)b].s;
    return (x < y) - (x > y);
}
void profile_end(int64_t step) {
    if (!timed.name) return;                                          /* nothing was begun: --compare has its own ops */
    double total_s = now_s() - begin_s, ops_s = 0;
    Line order[P_COUNT];
    Buf rows = {0};
    for (int i = 0; i < P_COUNT; i++) order[i] = (Line)i, ops_s += tally[i].s;
    qsort(order, P_COUNT, sizeof *order, by_time);
    fprintf(stderr, "\n%-24s %9s %10s %7s %10s %9s %6s\n", "op", "calls", "ms", "time", "GFLOP/s", "GB/s", "limit");
    for (int i = 0; i < P_COUNT; i++) {
        const Tally *t = &tally[order[i]];
        if (!t->calls) continue;
        double arithmetic = t->flops / t->s / peak_flops, memory = t->bytes / t->s / peak_read;
        bool by_arithmetic = arithmetic > memory;
        double share = by_arithmetic ? arithmetic : memory;
        fprintf(stderr, "%-24s %9llu %10.1f %6.1f%%", names[order[i]], (unsigned long long)t->calls, t->s * 1e3,
            100 * t->s / total_s);
        if (t->flops > 0) fprintf(stderr, " %10.1f", t->flops / t->s / 1e9);
        else fprintf(stderr, " %10s", "");
        fprintf(stderr, " %9.1f %5.0f%% %s\n", t->bytes / t->s / 1e9, 100 * share,
            by_arithmetic ? "of arithmetic" : "of memory");
        buf_fmt(&rows, "%s{\"op\":\"%s\",\"calls\":%llu,\"s\":%.6g,\"time_share\":%.4f,\"gflops\":%.6g,"
                "\"gb_per_s\":%.6g,\"limit\":\"%s\",\"limit_share\":%.4f}", rows.len ? "," : "", names[order[i]],
                (unsigned long long)t->calls, t->s, t->s / total_s,
                t->flops / t->s / 1e9, t->bytes / t->s / 1e9, by_arithmetic ? "arithmetic" : "memory", share);
    }
    fprintf(stderr, "%-24s %9s %10.1f %6.1f%%\n%-24s %9s %10.1f          limits %7.1f %9.1f\n", "between the ops", "",
            (total_s - ops_s) * 1e3, 100 * (total_s - ops_s) / total_s, "all", "", total_s * 1e3, peak_flops / 1e9,
            peak_read / 1e9);
    log_line("profile", step, "\"seconds\":%.6g,\"between_s\":%.6g,\"peak_gflops\":%.6g,\"peak_gb_per_s\":%.6g,"
             "\"ops\":[%s]", total_s, total_s - ops_s, peak_flops / 1e9, peak_read / 1e9, rows.data ? rows.data : "");
    buf_free(&rows);
}
