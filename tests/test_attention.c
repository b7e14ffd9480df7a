/* tests/test_attention.c - op.attention, op.attention_bwd and op.attention_probs, in every flavour this CPU runs.
 *
 * The reference is written here in double from the formulas and shares no code with the kernels (only attn_range, which
 * says what a query sees and is itself checked against the words of kernels.h). The reference's gradients are compared
 * with finite differences of the reference. Then, over some two hundred shapes and every kind of mask: outputs, lse,
 * gradients and weights against the reference; the same bits on 1, 2, 3, 8 threads; a prompt at once against token by
 * token; bf16 inputs where the flavour has them. Slots that no query sees hold NaN, and buffers end where the contract
 * says they end, so that the address sanitizer sees a step beyond. An int8 cache is held to the same cache widened
 * beforehand, bit by bit, and its rounding to half a step. */
#include "../common.h"
#include "../kernels.h"
#include "test.h"

static uint64_t draws;
static double uniform(double lo, double hi) { return lo + (hi - lo) * (double)(rng_mix(77, draws++) >> 11) * 0x1p-53; }
static int below(int n) { return (int)uniform(0, n); }

/* ---- a case ----------------------------------------------------------------------------------------------------- */
typedef struct {
    Attn a;
    char text[160];
    size_t n_q, n_k, n_stat;
    float *q, *k, *v, *dout;                                  /* inputs, exactly as long as the contract says */
    double *out, *lse, *dq, *dk, *dv, *probs;                 /* what is right; probs (H,T,S) of the last row */
    int32_t *pos, *prefix, *start, *len;
} Case;

static float *floats(size_t n, double size) {
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)uniform(-size, size);
    return x;
}

/* The plain formula for one query, in double: weights p (S) and lse. */
static double weights(double *p, const Case *c, const double *q, const double *k, size_t b, size_t h, size_t t) {
    const Attn *a = &c->a;
    size_t lo, hi, D = (size_t)a->D, kh = h / (size_t)(a->H / a->K);
    double max = -INFINITY, sum = 0;
    attn_range(a, b, t, &lo, &hi);
    for (size_t s = 0; s < a->S; s++) p[s] = 0;
    for (size_t s = lo; s < hi; s++) {
        for (size_t d = 0; d < D; d++)
            p[s] += q[((b * a->T + t) * (size_t)a->H + h) * D + d] * k[((b * a->S + s) * (size_t)a->K + kh) * D + d];
        p[s] *= (double)a->scale;
        max = fmax(max, p[s]);
    }
    for (size_t s = lo; s < hi; s++) sum += p[s] = exp(p[s] - max);
    for (size_t s = lo; s < hi; s++) p[s] /= sum;
    return lo < hi ? max + log(sum) : -INFINITY;
}
static void forward(double *out, double *lse, const Case *c, const double *q, const double *k, const double *v) {
    const Attn *a = &c->a;
    size_t D = (size_t)a->D, H = (size_t)a->H, K = (size_t)a->K;
    double *p = xmalloc((a->S + 1) * sizeof *p);
    for (size_t b = 0; b < a->B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < a->T; t++) {
                lse[(b * H + h) * a->T + t] = weights(p, c, q, k, b, h, t);
                for (size_t d = 0; d < D; d++) {
                    double y = 0;
                    for (size_t s = 0; s < a->S; s++)
                        if (p[s] != 0) y += p[s] * v[((b * a->S + s) * K + h / (H / K)) * D + d];
                    out[((b * a->T + t) * H + h) * D + d] = y;
                }
            }
    free(p);
}
/* The gradient by the softmax's full Jacobian, dscore_s = sum over u of p_u (delta_us - p_s) dp_u: no short cut. */
static void backward(double *dq, double *dk, double *dv, const Case *c, const double *dout, const double *q,
                     const double *k, const double *v) {
    const Attn *a = &c->a;
    size_t D = (size_t)a->D, H = (size_t)a->H, K = (size_t)a->K;
    double *p = xmalloc((a->S + 1) * sizeof *p), *dp = xmalloc((a->S + 1) * sizeof *dp);
    memset(dq, 0, c->n_q * sizeof *dq), memset(dk, 0, c->n_k * sizeof *dk), memset(dv, 0, c->n_k * sizeof *dv);
    for (size_t b = 0; b < a->B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < a->T; t++) {
                size_t bth = ((b * a->T + t) * H + h) * D, lo, hi;
                weights(p, c, q, k, b, h, t);
                attn_range(a, b, t, &lo, &hi);
                double mean = 0;
                for (size_t s = lo; s < hi; s++) {
                    dp[s] = 0;
                    for (size_t d = 0; d < D; d++)
                        dp[s] += dout[bth + d] * v[((b * a->S + s) * K + h / (H / K)) * D + d];
                    mean += p[s] * dp[s];
                }
                for (size_t s = lo; s < hi; s++) {
                    size_t bs = ((b * a->S + s) * K + h / (H / K)) * D;
                    double ds = p[s] * (dp[s] - mean) * (double)a->scale;
                    for (size_t d = 0; d < D; d++) {
                        dq[bth + d] += ds * k[bs + d];
                        dk[bs + d] += ds * q[bth + d];
                        dv[bs + d] += p[s] * dout[bth + d];
                    }
                }
            }
    free(p), free(dp);
}
static double *widen(const float *x, size_t n) {
    double *y = xmalloc((n + 1) * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

static void case_fill(Case *c, double size) {
    const Attn *a = &c->a;
    size_t D = (size_t)a->D;
    c->n_q = a->B * a->T * (size_t)a->H * D, c->n_k = a->B * a->S * (size_t)a->K * D,
    c->n_stat = a->B * (size_t)a->H * a->T;
    c->q = floats(c->n_q, size), c->k = floats(c->n_k, size), c->v = floats(c->n_k, 1.5), c->dout = floats(c->n_q, 1);
    snprintf(c->text, sizeof c->text, "B%zu T%zu S%zu H%d K%d D%d%s window%d%s%s%s%s", a->B, a->T, a->S, a->H, a->K,
             a->D, a->causal ? " causal" : " bidirectional", a->window, a->pos ? " pos" : "",
             a->prefix ? " prefix" : "", a->start ? " start" : "", a->len ? " len" : "");
    double *q = widen(c->q, c->n_q), *k = widen(c->k, c->n_k), *v = widen(c->v, c->n_k), *dout = widen(c->dout, c->n_q);
    c->out = xmalloc(c->n_q * sizeof(double)), c->lse = xmalloc(c->n_stat * sizeof(double));
    c->dq = xmalloc(c->n_q * sizeof(double)), c->dk = xmalloc(c->n_k * sizeof(double)),
    c->dv = xmalloc(c->n_k * sizeof(double));
    c->probs = xmalloc((size_t)a->H * a->T * a->S * sizeof(double));
    forward(c->out, c->lse, c, q, k, v);
    backward(c->dq, c->dk, c->dv, c, dout, q, k, v);
    for (size_t h = 0; h < (size_t)a->H; h++)
        for (size_t t = 0; t < a->T; t++) weights(c->probs + (h * a->T + t) * a->S, c, q, k, a->B - 1, h, t);
    free(q), free(k), free(v), free(dout);
    for (size_t b = 0; b < a->B; b++) {                       /* unused slots of a cache: NaN */
        size_t first = a->S, last = 0;
        for (size_t t = 0; t < a->T; t++) {
            size_t lo, hi;
            attn_range(a, b, t, &lo, &hi);
            if (lo < hi) first = lo < first ? lo : first, last = hi > last ? hi : last;
        }
        for (size_t s = 0; s < a->S; s++)
            for (size_t i = 0; i < (size_t)a->K * D && (s < first || s >= last); i++)
                c->k[(b * a->S + s) * (size_t)a->K * D + i] = c->v[(b * a->S + s) * (size_t)a->K * D + i] = NAN;
    }
}
static void case_free(Case *c) {
    free(c->q), free(c->k), free(c->v), free(c->dout), free(c->out), free(c->lse), free(c->dq), free(c->dk),
        free(c->dv);
    free(c->probs), free(c->pos), free(c->prefix), free(c->start), free(c->len);
}

typedef enum { CAUSAL, BIDIRECTIONAL, WINDOW, PREFIX, PACKED, PADDED_LEFT, PADDED_RIGHT, EVERYTHING, MASKS } Mask;
static const char *const mask_names[] = {"causal", "bidirectional", "window", "prefix", "packed", "padded left",
                                         "padded right", "everything at once"};
static Case case_make(Mask mask, int D, size_t T, size_t past, size_t spare, int K, int group, size_t B, double size) {
    Case c = {
        .a = {.B = B, .T = T, .S = past + T + spare, .H = K * group, .K = K, .D = D, .scale = (float)(1 / sqrt(D))}};
    Attn *a = &c.a;
    bool every = mask == EVERYTHING;
    a->causal = mask != BIDIRECTIONAL && mask != PADDED_RIGHT;
    if (past) {                                               /* rows of a batch have come differently far */
        a->pos = c.pos = xmalloc(B * sizeof *c.pos);
        for (size_t b = 0; b < B; b++) c.pos[b] = (int32_t)(past - (b ? (size_t)below((int)past) : 0));
    }
    if (mask == WINDOW || every) a->window = 1 + below((int)T + 3);
    if (mask == PADDED_RIGHT || every) {
        a->len = c.len = xmalloc(B * sizeof *c.len);
        for (size_t b = 0; b < B; b++) c.len[b] = below((int)((a->pos ? (size_t)a->pos[b] : 0) + T) + 1);
    }
    if (mask == PREFIX || every) {
        a->prefix = c.prefix = xmalloc(B * sizeof *c.prefix);
        for (size_t b = 0; b < B; b++)
            c.prefix[b] = below((int)(a->len ? (size_t)a->len[b] : (a->pos ? (size_t)a->pos[b] : 0) + T) + 1);
    }
    if (mask == PACKED || mask == PADDED_LEFT || every) {
        a->start = c.start = xmalloc(B * T * sizeof *c.start);
        for (size_t b = 0; b < B; b++) {
            size_t pos = a->pos ? (size_t)a->pos[b] : 0, from = mask == PADDED_LEFT ? (size_t)below((int)T) : 0;
            for (size_t t = 0; t < T; t++) {
                if (mask != PADDED_LEFT && !below(12)) from = pos + t;
                c.start[b * T + t] = (int32_t)from;           /* a padding query, t < from, sees nothing */
            }
        }
    }
    case_fill(&c, size);
    return c;
}

/* ---- the ops on a case ------------------------------------------------------------------------------------------ */
typedef struct { float *out, *lse, *dq, *dk, *dv, *probs; bool backward; } Got;
static float *stale(size_t n) {                               /* what an output holds before: it must all be written */
    float *x = xmalloc(n * sizeof *x);
    memset(x, 0xff, n * sizeof *x);
    return x;
}
static Got run(const Case *c) {
    const Attn *a = &c->a;
    Got g = {stale(c->n_q), stale(c->n_stat), stale(c->n_q),
             stale(c->n_k), stale(c->n_k),    stale((size_t)a->H * a->T * a->S),
             !a->pos};
    float *delta = stale(c->n_stat);
    op.attention((act *)g.out, g.lse, (const act *)c->q, (const act *)c->k, (const act *)c->v, a);
    if (g.backward)
        op.attention_bwd((act *)g.dq, (act *)g.dk, (act *)g.dv, delta, (const act *)c->dout, (const act *)g.out, g.lse,
                         (const act *)c->q, (const act *)c->k, (const act *)c->v, a);
    op.attention_probs(g.probs, (const act *)c->q, (const act *)c->k, a, a->B - 1);
    free(delta);
    return g;
}
static void got_free(Got *g) { free(g->out), free(g->lse), free(g->dq), free(g->dk), free(g->dv), free(g->probs); }
static bool same(const Case *c, const Got *x, const Got *y) {
    return !memcmp(x->out, y->out, c->n_q * sizeof(float)) && !memcmp(x->lse, y->lse, c->n_stat * sizeof(float)) &&
           (!x->backward ||
            (!memcmp(x->dq, y->dq, c->n_q * sizeof(float)) && !memcmp(x->dk, y->dk, c->n_k * sizeof(float)) &&
             !memcmp(x->dv, y->dv, c->n_k * sizeof(float))));
}

/* Many comparisons, one line: the worst element measured in its tolerance, by kind of array. */
static struct { double ratio, got, want; size_t count; char where[256]; } worst;
static void compare(const char *name, const Case *c, const float *got, const double *want, size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++) {
        double ratio = fabs((double)got[i] - want[i]) / (tolerance * (1 + fabs(want[i])));
        if (isinf(want[i])) ratio = (double)got[i] == want[i] ? 0 : INFINITY;
        else if (!isfinite(got[i])) ratio = INFINITY;
        if (worst.count++ && !(ratio > worst.ratio)) continue;
        worst.ratio = ratio, worst.got = (double)got[i], worst.want = want[i];
        snprintf(worst.where, sizeof worst.where, "%s[%zu] of %s", name, i, c->text);
    }
}
static void compare_all(const Case *c, const Got *g, double tolerance) {
    compare("out", c, g->out, c->out, c->n_q, tolerance);
    compare("lse", c, g->lse, c->lse, c->n_stat, tolerance);
    compare("probs", c, g->probs, c->probs, (size_t)c->a.H * c->a.T * c->a.S, tolerance < 1e-3 ? tolerance : 1e-3);
    if (!g->backward) return;
    compare("dq", c, g->dq, c->dq, c->n_q, tolerance);
    compare("dk", c, g->dk, c->dk, c->n_k, tolerance);
    compare("dv", c, g->dv, c->dv, c->n_k, tolerance);
}
static void report(const char *flavour, const char *what) {
    CHECK(worst.count && worst.ratio <= 1, "%s %s: %zu values, worst %.3g of the tolerance: %s got %.9g want %.9g",
          flavour, what, worst.count, worst.ratio, worst.where, worst.got, worst.want);
    memset(&worst, 0, sizeof worst);
}

/* ---- the reference, checked ------------------------------------------------------------------------------------- */
/* attn_range against the words of kernels.h, slot by slot. */
static void test_range(void) {
    bool ok = true;
    for (int i = 0; i < 400; i++) {
        Case c = case_make((Mask)(i % MASKS), 1, 1 + (size_t)below(9), (size_t)below(2) * (size_t)(1 + below(6)),
                           (size_t)below(3), 1, 1, 2, 1);
        const Attn *a = &c.a;
        for (size_t b = 0; b < a->B; b++)
            for (size_t t = 0; t < a->T; t++) {
                size_t lo, hi, pos = a->pos ? (size_t)a->pos[b] : 0;
                attn_range(a, b, t, &lo, &hi);
                for (size_t s = 0; s < a->S; s++) {
                    bool filled = s < (a->len ? (size_t)a->len[b] : pos + a->T), seen = filled;
                    if (a->causal && s > pos + t && !(a->prefix && s < (size_t)a->prefix[b])) seen = false;
                    if (a->window > 0 && s + (size_t)a->window <= pos + t) seen = false;
                    if (a->start && s < (size_t)a->start[b * a->T + t]) seen = false;
                    if (seen != (s >= lo && s < hi)) ok = false;
                }
            }
        case_free(&c);
    }
    CHECK(ok, "attn_range says what kernels.h says, in 400 small cases of every mask");
}
static double loss(const Case *c, const double *q, const double *k, const double *v, const double *dout) {
    double *out = xmalloc(c->n_q * sizeof *out), *lse = xmalloc(c->n_stat * sizeof *lse), y = 0;
    forward(out, lse, c, q, k, v);
    for (size_t i = 0; i < c->n_q; i++) y += out[i] * dout[i];
    free(out), free(lse);
    return y;
}
static void test_finite_differences(void) {
    double most = 0;
    for (int mask = 0; mask < MASKS; mask++) {
        Case c = case_make((Mask)mask, 3, 5, 0, 0, 2, 2, 2, 1.5);
        for (size_t i = 0; i < c.n_k; i++) if (isnan(c.k[i])) c.k[i] = c.v[i] = 0;
        double *q = widen(c.q, c.n_q), *k = widen(c.k, c.n_k), *v = widen(c.v, c.n_k), *dout = widen(c.dout, c.n_q),
               h = 1e-5;
        struct { double *x, *grad; size_t n; } of[3] = {{q, c.dq, c.n_q}, {k, c.dk, c.n_k}, {v, c.dv, c.n_k}};
        for (int j = 0; j < 3; j++)
            for (size_t i = 0; i < of[j].n; i++) {
                double x = of[j].x[i], up, down;
                of[j].x[i] = x + h, up = loss(&c, q, k, v, dout);
                of[j].x[i] = x - h, down = loss(&c, q, k, v, dout);
                of[j].x[i] = x;
                most = fmax(most, fabs((up - down) / (2 * h) - of[j].grad[i]));
            }
        free(q), free(k), free(v), free(dout);
        case_free(&c);
    }
    CHECK(most < 1e-8, "the reference's gradients against finite differences: off by %.2g at most", most);
}

/* ---- flavours against the reference ----------------------------------------------------------------------------- */
typedef struct { const char *isa; Precision precision; } Flavour;
static Flavour flavours[8];
static int n_flavours;
static void flavours_find(const char *only) {
    static const char *const isas[] = {"plain", "avx2", "avx512", "avx512bf16", "neon"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (only && strcmp(isas[i], only)) continue;
        if (!isa_runs(isas[i])) continue;
        flavours[n_flavours++] = (Flavour){isas[i], PREC_F32};
        if (!strcmp(isas[i], "avx512bf16")) flavours[n_flavours++] = (Flavour){isas[i], PREC_BF16};
    }
}
static char *flavour_name(const Flavour *f) {
    return strf("%s %s", f->isa, f->precision == PREC_BF16 ? "bf16" : "f32");
}
/* One bf16 rounding is 2^-9 relative; scores reach some units, sums over slots average the roundings of P, v and dS. */
static double tolerance_of(const Flavour *f) { return f->precision == PREC_BF16 ? 3e-2 : 5e-6; }

#define MAX_CASES 256
static Case cases[MAX_CASES];
static int n_cases;
static void cases_make(void) {
    static const int Ds[] = {12, 16, 20, 32, 48, 64, 80, 128, 256, 1, 7, 33, 100};
    static const size_t Ts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47, 63, 64, 65, 80, 96, 127, 128, 129, 130};
    int n_D = sizeof Ds / sizeof *Ds, n_T = sizeof Ts / sizeof *Ts;
    for (int mask = 0; mask < MASKS; mask++) /* every mask with every D; T, heads and cache vary with them */
        for (int i = 0; i < n_D; i++) {
            size_t T = Ts[(i * 8 + mask * 5) % n_T], past = i % 4 == 3 ? 1 + (size_t)below(70) : 0;
            cases[n_cases++] = case_make((Mask)mask, Ds[i], T, past, past ? (size_t)below(40) : 0, 1 + below(2),
                                         1 + below(4), 1 + (size_t)below(2), 1.7);
        }
    for (int i = 0; i < n_T; i++)                             /* every T in training and, with a cache, in decoding */
        for (int cache = 0; cache < 2; cache++)
            cases[n_cases++] = case_make((Mask)(i % MASKS), i % 2 ? 16 : 24, Ts[i], cache ? 130 - Ts[i] / 2 : 0,
                                         (size_t)cache * 9, 2, 1 + below(3), 2, 1.7);
    for (int i = 0; i < 10; i++)                              /* decoding: parts of 256 slots, all group sizes */
        cases[n_cases++] = case_make(i % 2 ? CAUSAL : EVERYTHING, i < 5 ? 64 : 40, 1 + (size_t)below(2),
                                     200 + (size_t)below(700), 5, 2, (int[]){1, 2, 3, 4, 8}[i % 5], 2, 1.7);
    cases[n_cases++] = case_make(CAUSAL, 64, 300, 0, 0, 1, 2, 1, 1.7); /* more than one part of 256 in the backward */
    cases[n_cases++] = case_make(PACKED, 32, 520, 0, 0, 1, 1, 1, 1.7);
    cases[n_cases++] = case_make(CAUSAL, 16, 100, 0, 0, 2, 1, 2, 20);       /* scores to +-500: one weight takes all */
    cases[n_cases++] = case_make(BIDIRECTIONAL, 64, 77, 0, 0, 2, 2, 1, 9);
}

static void test_flavour(const Flavour *f) {
    char *name = flavour_name(f);
    ops_select("cpu", f->isa, f->precision);
    bool sharp_only_in_f32 = f->precision == PREC_BF16; /* scores in the hundreds lose their last digits in bf16 */
    for (int mask = 0; mask < MASKS; mask++) {
        for (int i = 0; i < 13; i++) {
            Got g = run(&cases[mask * 13 + i]);
            compare_all(&cases[mask * 13 + i], &g, tolerance_of(f));
            got_free(&g);
        }
        report(name, mask_names[mask]);
    }
    for (int i = 13 * MASKS; i < n_cases - 2 * sharp_only_in_f32; i++) {
        Got g = run(&cases[i]);
        compare_all(&cases[i], &g, i < n_cases - 2 ? tolerance_of(f) : 1e-4);
        got_free(&g);
    }
    report(name, "every T, long caches, sharp weights");

    double off = 0, below_zero = 0;
    for (int i = 0; i < n_cases; i += 3) {
        Got g = run(&cases[i]);
        const Attn *a = &cases[i].a;
        for (size_t r = 0; r < (size_t)a->H * a->T; r++) {
            size_t lo, hi;
            attn_range(a, a->B - 1, r % a->T, &lo, &hi);
            double sum = 0;
            for (size_t s = 0; s < a->S; s++)
                sum += (double)g.probs[r * a->S + s], below_zero = fmin(below_zero, (double)g.probs[r * a->S + s]);
            off = fmax(off, fabs(sum - (lo < hi)));
        }
        got_free(&g);
    }
    CHECK(off < 1e-5 && below_zero == 0, "%s: rows of probs sum to 1 (0 where nothing is seen): off by %.2g", name,
          off);

    int differing = 0;
    for (int i = 0; i < n_cases; i++) {
        omp_set_num_threads(1);
        Got one = run(&cases[i]);
        for (int t = 1; t < 4; t++) {
            omp_set_num_threads((int[]){1, 2, 3, 8}[t]);
            Got many = run(&cases[i]);
            differing += !same(&cases[i], &one, &many);
            got_free(&many);
        }
        got_free(&one);
    }
    omp_set_num_threads(2);
    CHECK(!differing, "%s: the same bits on 1, 2, 3 and 8 threads (%d of %d differ)", name, differing, 3 * n_cases);
    free(name);
}

/* A prompt of T tokens at once, the same tokens one by one into a cache, and in chunks: the same outputs. */
static void test_decode(const Flavour *f) {
    char *name = flavour_name(f);
    ops_select("cpu", f->isa, f->precision);
    double most = 0;
    for (int i = 0; i < 6; i++) {
        size_t T = (size_t[]){5, 40, 67, 130, 300, 90}[i], chunk = (size_t[]){1, 1, 3, 1, 37, 12}[i];
        Case c =
            case_make(i % 3 == 2 ? WINDOW : CAUSAL, (int[]){16, 64, 20, 32, 64, 80}[i], T, 0, 0, 2, 1 + i % 4, 1, 1.7);
        size_t row = (size_t)c.a.H * (size_t)c.a.D;
        Got all = run(&c);
        float *out = stale(c.n_q);
        for (size_t t = 0; t < T; t += chunk) {
            int32_t pos = (int32_t)t;
            Attn a = c.a;
            a.T = t + chunk < T ? chunk : T - t, a.pos = &pos;
            op.attention((act *)(out + t * row), NULL, (const act *)(c.q + t * row), (const act *)c.k, (const act *)c.v,
                         &a);
        }
        for (size_t j = 0; j < c.n_q; j++) {
            double off = fabs((double)out[j] - (double)all.out[j]);
            if (!(off <= most)) most = off;
        }
        got_free(&all), free(out), case_free(&c);
    }
    CHECK(most < (f->precision == PREC_BF16 ? 2e-2 : 3e-6), "%s: token by token as all at once, off by %.2g", name,
          most);
    free(name);
}
/* Up to 8 tokens behind a cache get the bits that they get one by one: what speculative decoding relies on. */
static void test_few_queries(const Flavour *f) {
    size_t differ = 0, n_checked = 0;
    ops_select("cpu", f->isa, f->precision);
    op.set_precision(f->precision);
    for (int i = 0; i < 24; i++) {
        Mask mask = i % 4 == 3 ? WINDOW : CAUSAL;
        static const int dims[] = {8, 33, 64, 128}, groups[] = {1, 4, 8, 40};
        size_t T = 2 + (size_t)below(7), past = 1 + (size_t)below(700);
        Case c = case_make(mask, dims[i % 4], T, past, 5, 2, groups[i / 4 % 4], 1, 1);
        size_t width = (size_t)(c.a.H * c.a.D);
        float *at_once = stale(T * width), *alone = stale(T * width);
        op.attention((act *)at_once, NULL, (act *)c.q, (act *)c.k, (act *)c.v, &c.a);
        for (size_t t = 0; t < T; t++) {
            int32_t pos = c.pos[0] + (int32_t)t;
            Attn one = c.a;
            one.T = 1, one.pos = &pos, one.len = NULL, one.start = NULL;
            op.attention((act *)(alone + t * width), NULL, (act *)(c.q + t * width), (act *)c.k, (act *)c.v, &one);
        }
        differ += memcmp(at_once, alone, T * width * sizeof(float)) != 0;
        n_checked++;
        free(at_once), free(alone), case_free(&c);
    }
    char *name = flavour_name(f);
    CHECK(!differ, "%s: 2 to 8 tokens behind a cache have the bits of one by one (%zu of %zu differ)", name, differ,
        n_checked);
    free(name);
}
/* An int8 cache: what is written, and that attention sees exactly that, in every case and on any number of threads. */
typedef struct { int8_t *q; float *scale, *wide; } Rounded;
static Rounded rounded(const Attn *of, const float *x, size_t n) {
    Attn all = {.B = of->B, .T = of->S, .S = of->S, .K = of->K, .D = of->D};
    size_t D = (size_t)of->D;
    Rounded r = {xmalloc(n), stale(n / D), xmalloc(n * sizeof(float))};
    op.cache_i8(r.q, r.scale, (const act *)x, &all);
    for (size_t i = 0; i < n; i++) r.wide[i] = (float)r.q[i] * r.scale[i / D];
    return r;
}
static void rounded_free(Rounded *r) { free(r->q), free(r->scale), free(r->wide); }
static void test_int8(const Flavour *f) {
    char *name = flavour_name(f);
    ops_select("cpu", f->isa, f->precision);
    size_t differ = 0, by_threads = 0, bad_rows = 0;
    double worst_step = 0;
    for (int i = 0; i < n_cases; i++) {
        const Case *c = &cases[i];
        Attn a = c->a;
        size_t D = (size_t)a.D;
        Rounded k = rounded(&a, c->k, c->n_k), v = rounded(&a, c->v, c->n_k);
        for (size_t r = 0; r < c->n_k / D; r++) {
            float largest = 0;
            for (size_t d = 0; d < D; d++) largest = fmaxf(largest, fabsf(c->k[r * D + d]));
            if (isnan(c->k[r * D])) {
                bad_rows += !isnan(k.scale[r]);
                continue;
            }
            bad_rows += fabsf(k.scale[r] * 127.5f - largest) > 1e-6f * largest;
            for (size_t d = 0; d < D; d++)
                worst_step = fmax(worst_step, fabs((double)(k.wide[r * D + d] - c->k[r * D + d]) / (double)k.scale[r]));
        }
        float *first = stale(c->n_q), *want = stale(c->n_q), *got = stale(c->n_q);
        float *want_lse = stale(c->n_stat), *got_lse = stale(c->n_stat);
        op.attention((act *)want, want_lse, (const act *)c->q, k.wide, v.wide, &a);
        a.k_scale = k.scale, a.v_scale = v.scale;
        for (int threads = 1; threads <= 3; threads++) {
            omp_set_num_threads(threads);
            op.attention((act *)got, got_lse, (const act *)c->q, k.q, v.q, &a);
            if (threads == 1) memcpy(first, got, c->n_q * sizeof *got);
            else by_threads += memcmp(first, got, c->n_q * sizeof *got) != 0;
        }
        /* One or two rows: the scale multiplies sums, not numbers. */
        if (a.T * (size_t)(a.H / a.K) > 2) differ += memcmp(want, got, c->n_q * sizeof *got) != 0;
        double *right = widen(want, c->n_q), *right_lse = widen(want_lse, c->n_stat);
        compare("int8 out", c, got, right, c->n_q, 3e-6);
        compare("int8 lse", c, got_lse, right_lse, c->n_stat, 3e-6);
        free(right), free(right_lse), free(first);
        omp_set_num_threads(2);
        free(want), free(want_lse), free(got), free(got_lse);
        rounded_free(&k), rounded_free(&v);
    }
    CHECK(!bad_rows && worst_step < 0.501, "%s: int8 rows have the scale largest / 127.5, NaN if they hold one; off "
                                           "by %.3f "
          "steps at most", name, worst_step);
    CHECK(!differ && !by_threads, "%s: attention over int8 has the bits of attention over q * scale from three rows "
                                  "on, and "
          "the same on 1 to 3 threads (%zu, %zu of %d differ)", name, differ, by_threads, n_cases);
    report(name, "int8, all rows");

    /* Tokens one by one into the cache and together: the same bytes, no other slot touched; and 2 to 8 tokens behind a
     * cache get the bits that they get alone. */
    size_t other_bytes = 0, other_bits = 0;
    for (int i = 0; i < 16; i++) {
        size_t T = 2 + (size_t)below(7), D = (size_t[]){8, 33, 64, 128}[i % 4];
        int group = (int[]){1, 4, 8, 12}[i / 4];
        Case c = case_make(i % 4 == 3 ? WINDOW : CAUSAL, (int)D, T, 1 + (size_t)below(300), 5, 2, group, 2, 1);
        for (size_t j = 0; j < c.n_k; j++) if (isnan(c.k[j])) c.k[j] = c.v[j] = 0.5f;
        size_t row = 2 * D, q_row = (size_t)c.a.H * D, S = c.a.S;
        Rounded k = rounded(&c.a, c.k, c.n_k), v = rounded(&c.a, c.v, c.n_k);
        int8_t *at_once = xmalloc(c.n_k), *alone = xmalloc(c.n_k);
        memcpy(at_once, k.q, c.n_k), memcpy(alone, k.q, c.n_k);
        float *scale = xmalloc(c.n_k / D * sizeof *scale), *x = floats(2 * T * row, 3), *out = stale(2 * c.n_q);
        float *one_out = out + c.n_q;
        memcpy(scale, k.scale, c.n_k / D * sizeof *scale);
        Attn a = c.a;
        op.cache_i8(at_once, k.scale, (const act *)x, &a);
        for (size_t b = 0; b < 2; b++) {
            other_bytes += memcmp(at_once + b * S * row, k.q + b * S * row, (size_t)c.pos[b] * row) != 0;
            size_t behind = (size_t)c.pos[b] + T, at = (b * S + behind) * row;
            other_bytes += memcmp(at_once + at, k.q + at, (S - behind) * row) != 0;
        }
        a.k_scale = k.scale, a.v_scale = v.scale;
        op.attention((act *)out, NULL, (const act *)c.q, at_once, v.q, &a);
        for (size_t b = 0; b < 2; b++)
            for (size_t t = 0; t < T; t++) {
                int32_t pos = c.pos[b] + (int32_t)t;
                Attn one = c.a;
                one.B = one.T = 1, one.pos = &pos;
                size_t rows = b * S * 2;
                op.cache_i8(alone + b * S * row, scale + rows, (const act *)(x + (b * T + t) * row), &one);
                one.k_scale = scale + rows, one.v_scale = v.scale + rows;
                size_t at = (b * T + t) * q_row, cache_at = b * S * row;
                op.attention((act *)(one_out + at), NULL, (const act *)(c.q + at), alone + cache_at, v.q + cache_at,
                    &one);
            }
        other_bytes += memcmp(at_once, alone, c.n_k) != 0 || memcmp(scale, k.scale, c.n_k / D * sizeof *scale) != 0;
        other_bits += memcmp(out, one_out, c.n_q * sizeof *out) != 0;
        free(at_once), free(alone), free(scale), free(x), free(out);
        rounded_free(&k), rounded_free(&v), case_free(&c);
    }
    CHECK(!other_bytes && !other_bits, "%s: int8 slots filled together or one by one are the same bytes, and few "
                                       "tokens "
          "behind them get the bits of one by one (%zu, %zu of 16 differ)", name, other_bytes, other_bits);
    free(name);
}
/* A flavour that has bf16 pairs must use them when told to, and must stop when told to. */
static void test_precision(void) {
    for (int i = 0; i < n_flavours; i++) {
        if (flavours[i].precision != PREC_BF16) continue;
        Case *c = &cases[n_cases - 4];
        ops_select("cpu", flavours[i].isa, PREC_F32);
        Got f32 = run(c);
        op.set_precision(PREC_BF16);
        Got bf16 = run(c);
        op.set_precision(PREC_F32);
        Got again = run(c);
        double off = 0;
        for (size_t j = 0; j < c->n_q; j++) off = fmax(off, fabs((double)f32.out[j] - (double)bf16.out[j]));
        CHECK(off > 1e-4 && off < 3e-2 && same(c, &f32, &again),
              "%s: set_precision takes effect: f32 and bf16 differ by %.2g", flavours[i].isa, off);
        got_free(&f32), got_free(&bf16), got_free(&again);
    }
}

int main(int argc, char **argv) {                             /* test_attention [FLAVOUR]: only this one */
    omp_set_num_threads(2);
    test_range();
    test_finite_differences();
    flavours_find(argc > 1 ? argv[1] : NULL);
    cases_make();
    for (int i = 0; i < n_flavours; i++) {
        test_flavour(&flavours[i]), test_decode(&flavours[i]);
        test_few_queries(&flavours[i]), test_int8(&flavours[i]);
    }
    test_precision();
    for (int i = 0; i < n_cases; i++) case_free(&cases[i]);
    return test_end();
}
