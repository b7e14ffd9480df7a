/* kernels/loss.cuh - [op.loss] softmax and cross-entropy, and [op.sample] the draw of the next token. */
#pragma once

#ifndef __CUDACC__
/* ---- CPU ---- */
/* The largest value that is not NaN. Lanes, not one maximum: clang vectorises no float maximum that must heed NaN. */
static float row_max(const float *x, size_t n) {
    float lane[LANES], max = -FLT_MAX;
    for (size_t j = 0; j < LANES; j++) lane[j] = -FLT_MAX;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (size_t j = 0; j < LANES; j++) max = lane[j] > max ? lane[j] : max;
    return max;
}

static void cross_entropy(float *loss, act *logits, const int32_t *target, size_t N, size_t V, float scale) {
#pragma omp parallel for if (N > 1 && N * V > PAR_MIN)
    for (size_t i = 0; i < N; i++) {
        act *l_i = logits + i * V;
        if (target[i] < 0) {
            loss[i] = 0;
            if (scale != 0) memset(l_i, 0, V * sizeof *l_i);
            continue;
        }
        float max = row_max(l_i, V);
        double sum = 0;
        float at_target = l_i[target[i]];
        for (size_t v0 = 0; v0 < V; v0 += 4096) {
            float part = 0;
            size_t end = MIN(v0 + 4096, V);
            if (scale != 0) {
#pragma omp simd reduction(+ : part)
                for (size_t v = v0; v < end; v++) part += l_i[v] = exp_fast(l_i[v] - max);
            } else {
#pragma omp simd reduction(+ : part)
                for (size_t v = v0; v < end; v++) part += exp_fast(l_i[v] - max);
            }
            sum += (double)part;
        }
        loss[i] = (float)(log(sum) - ((double)at_target - (double)max));
        if (scale == 0) continue;
        float factor = (float)((double)scale / sum);
#pragma omp simd
        for (size_t v = 0; v < V; v++) l_i[v] *= factor;
        l_i[target[i]] -= scale;
    }
}

#else
/* ---- CUDA ---- */
#endif

/* ================================================ [op.sample] ==================================================== *
 * Top-k and top-p each ask for the largest x such that the values >= x weigh enough: k of them, or the mass p. Sorting
 * V = 150,000 values costs milliseconds; but the weight falls as x rises, so x is found by bisection, and bisection over
 * the bits of a float ends after 32 steps, on the exact value. Each step is one pass of comparisons. */

/* Floats as unsigned integers of the same order: negative numbers are reversed, positive ones go above them. */
HD uint32_t float_key(float x) {
    uint32_t u = float_bits(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}
HD float key_float(uint32_t k) { return bits_float(k >> 31 ? k & 0x7fffffffu : ~k); }

/* Penalised as in Keskar et al. 2019: a token seen before gets less likely whichever sign its logit has. */
HD float penalised(float x, float repetition) { return x > 0 ? x / repetition : x * repetition; }

#ifndef __CUDACC__
/* ---- CPU ---- */
/* The number of values >= x, or their sum. Floats within a block, doubles over the blocks: exact for counts. */
enum { SAMPLE_BLOCK = 8192 };
static float block_weight(const float *p, size_t n, float x, bool mass) {
    float sum;
    if (mass) SUM_LANES(sum, v, n, p[v] >= x ? p[v] : 0.0f);
    else SUM_LANES(sum, v, n, p[v] >= x ? 1.0f : 0.0f);
    return sum;
}
static double weight(const float *p, size_t V, float x, bool mass) {
    double sum = 0;
    for (size_t v = 0; v < V; v += SAMPLE_BLOCK) sum += (double)block_weight(p + v, MIN(SAMPLE_BLOCK, V - v), x, mass);
    return sum;
}

/* The largest x in [lo, hi] whose weight is at least `want`; lo when there is none. */
static float threshold(const float *p, size_t V, float lo, float hi, double want, bool mass) {
    uint32_t a = float_key(lo), b = float_key(hi);
    while (a < b) {
        uint32_t mid = a + (b - a) / 2 + 1;
        if (weight(p, V, key_float(mid), mass) >= want) a = mid;
        else b = mid - 1;
    }
    return key_float(a);
}

static void sample(int32_t *token, float *p, const act *logits, size_t V, const int32_t *history, size_t n_history,
                   const Sampler *s, float u) {
#pragma omp simd
    for (size_t v = 0; v < V; v++) p[v] = logits[v] == logits[v] ? logits[v] : -INFINITY;      /* NaN is never drawn */
    if (s->repetition > 0 && s->repetition != 1)              /* from logits, so that a token seen twice pays once */
        for (size_t i = 0; i < n_history; i++)
            if (p[history[i]] > -INFINITY) p[history[i]] = penalised(logits[history[i]], s->repetition);
    float max = row_max(p, V);
    size_t best = 0;
    while (best < V - 1 && p[best] != max) best++;
    *token = (int32_t)best;
    if (!(s->temperature > 0) || !isfinite(p[best])) return;

    float temperature = s->temperature;                       /* a copy: through s, the loop below would not vectorise */
    float cut = -FLT_MAX;                                     /* on logits: distinct ones may have equal probabilities */
    if (s->top_k > 0 && (size_t)s->top_k < V) cut = threshold(p, V, cut, max, s->top_k, false);
#pragma omp simd
    for (size_t v = 0; v < V; v++) p[v] = exp_fast(p[v] >= cut ? (p[v] - max) / temperature : -INFINITY);

    float keep = FLT_MIN;                                     /* exp_fast gives nothing between this and zero */
    if (s->top_p < 1) keep = threshold(p, V, keep, 1, (double)s->top_p * weight(p, V, keep, true), true);
    keep = MAX(keep, s->min_p);                               /* the largest p is exp(0) = 1 */

    double at = (double)u * weight(p, V, keep, true), sum = 0;
    for (size_t v0 = 0; v0 < V; v0 += SAMPLE_BLOCK) {         /* the block in which the sum passes `at`, then the token */
        size_t end = MIN(v0 + SAMPLE_BLOCK, V);
        double block = (double)block_weight(p + v0, end - v0, keep, true);
        if (sum + block <= at) { sum += block; continue; }
        for (size_t v = v0; v < end && sum <= at; v++)
            if (p[v] >= keep) *token = (int32_t)v, sum += (double)p[v];
        return;
    }
}
#else
/* ---- CUDA ---- */
#endif
