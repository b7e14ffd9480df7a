/* kernels/loss.cuh - [op.loss] softmax and cross-entropy, and [op.sample] the draw of the next token. */
#pragma once

/* ---- cross-entropy: loss = log(sum of e^l) - l[target]; its gradient is softmax - onehot ------------------------ *
 * With the largest logit taken off first, e^l cannot overflow. The gradient takes the place of the logits: a
 * second (N,V) array would be the largest of the whole training step. */
#ifndef __CUDACC__
/* The largest value that is not NaN. Lanes, not one maximum: clang vectorises no float maximum that must heed NaN. */
static float row_max(const float *x, size_t n) {
    float lane[LANES], max = -INFINITY;
    for (size_t j = 0; j < LANES; j++) lane[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (size_t j = 0; j < LANES; j++) max = lane[j] > max ? lane[j] : max;
    return max;
}

/* Three passes over a row, which stays in the L2 cache: largest value, exponentials and their sum, factor. One pass
 * that corrects its sum when it meets a new maximum, and computes each exponential twice, measured a quarter slower. */
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
/* f(v, logit) for every element of a row, which becomes what f returns if WRITE. Rows of an odd V start at odd
 * addresses: single values up to the first 16-byte boundary, packs, and single values again. */
template <bool WRITE, typename F> __device__ static inline void row_each(act *row, size_t V, F f) {
    size_t head = MIN((16 - (uintptr_t)row % 16) % 16 / sizeof(act), V), packs = (V - head) / ACT_W;
    size_t tail = head + packs * ACT_W;
    for (size_t v = threadIdx.x; v < head + (V - tail); v += blockDim.x) {
        size_t at = v < head ? v : v - head + tail;
        float y = f(at, to_f(row[at]));
        if (WRITE) row[at] = from_f<act>(y);
    }
    for (size_t i = threadIdx.x; i < packs; i += blockDim.x) {
        size_t at = head + i * ACT_W;
        Pack<act, ACT_W> x = load<ACT_W>(row + at);
        for (int k = 0; k < ACT_W; k++) {
            float y = f(at + k, to_f(x.v[k]));
            if (WRITE) x.v[k] = from_f<act>(y);
        }
        if (WRITE) store<ACT_W>(row + at, x);
    }
}

/* One block a row. Maximum and sum in one pass (Milakov and Gimelshein 2018): each thread rescales its sum when it
 * meets a larger value. The second pass finds the row in the L2 cache. */
static __global__ void cross_entropy_kernel(float *loss, act *logits, const int32_t *target, size_t V, float scale) {
    act *row = logits + blockIdx.x * V;
    int32_t t = target[blockIdx.x];
    if (t < 0) {
        if (!threadIdx.x) loss[blockIdx.x] = 0;
        if (scale != 0) row_each<true>(row, V, [](size_t, float) { return 0.0f; });
        return;
    }
    float max = -FLT_MAX, sum = 0, at_target = to_f(row[t]);
    row_each<false>(row, V, [&](size_t, float x) {
        if (x > max) sum = sum * exp_fast(max - x) + 1, max = x;
        else sum += exp_fast(x - max);
        return 0.0f;
    });
    float row_max = block_max(max);
    sum = block_sum(sum * exp_fast(max - row_max));
    if (!threadIdx.x) loss[blockIdx.x] = logf(sum) + (row_max - at_target);
    if (scale == 0) return;
    float factor = scale / sum;
    row_each<true>(row, V, [&](size_t v, float x) {
        return exp_fast(x - row_max) * factor - (v == (size_t)t ? scale : 0.0f);
    });
}
static void cross_entropy(float *loss, act *logits, const int32_t *target, size_t N, size_t V, float scale) {
    if (!N) return;
    unsigned threads = (unsigned)MIN(CEIL_DIV(CEIL_DIV(V, ACT_W), 32) * 32, 1024);
    cross_entropy_kernel<<<(unsigned)N, threads, 0, stream>>>(loss, logits, target, V, scale);
    LAUNCHED();
}
#endif

/* ================================================ [op.sample] ==================================================== *
 * Top-k and top-p each ask for the largest x such that the values >= x weigh enough: k of them, or the mass p. Sorting
 * V = 150,000 values costs milliseconds; but the weight falls as x rises, so x is found by bisection, and bisection
 * over the bits of a float ends after 32 steps, on the exact value. Each step is one pass of comparisons. */

/* Floats as unsigned integers of the same order: negative numbers are reversed, positive ones go above them. */
HD uint32_t float_key(float x) {
    uint32_t u = float_bits(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}
HD float key_float(uint32_t k) { return bits_float(k >> 31 ? k & 0x7fffffffu : ~k); }

/* Penalised as in Keskar et al. 2019: a token seen before gets less likely whichever sign its logit has. */
HD float penalised(float x, float repetition) { return x > 0 ? x / repetition : x * repetition; }

#ifndef __CUDACC__
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

    float temperature = s->temperature;                       /* a copy: a load through s stops vectorisation */
    /* top-k goes by logits, not probabilities: distinct logits may have equal ones */
    float cut = -FLT_MAX;
    if (s->top_k > 0 && (size_t)s->top_k < V) cut = threshold(p, V, cut, max, s->top_k, false);
#pragma omp simd
    for (size_t v = 0; v < V; v++) p[v] = exp_fast(p[v] >= cut ? (p[v] - max) / temperature : -INFINITY);

    float keep = FLT_MIN;                                     /* exp_fast gives nothing between this and zero */
    if (s->top_p < 1) keep = threshold(p, V, keep, 1, (double)s->top_p * weight(p, V, keep, true), true);
    keep = MAX(keep, s->min_p);                               /* the largest p is exp(0) = 1 */

    double at = (double)u * weight(p, V, keep, true), sum = 0;
    /* the block in which the sum passes `at`, then the token */
    for (size_t v0 = 0; v0 < V; v0 += SAMPLE_BLOCK) {
        size_t end = MIN(v0 + SAMPLE_BLOCK, V);
        double block = (double)block_weight(p + v0, end - v0, keep, true);
        if (sum + block <= at) { sum += block; continue; }
        for (size_t v = v0; v < end && sum <= at; v++)
            if (p[v] >= keep) *token = (int32_t)v, sum += (double)p[v];
        return;
    }
}
#else
/* One block of 1024 threads does all of it, so that the steps need no launches between them; every thread takes the
 * same way, because block_sum and block_max give all of them the same number. */
template <bool MASS> __device__ static double weight(const float *p, size_t V, float x) {
    float sum = 0;
    for (size_t v = threadIdx.x; v < V; v += blockDim.x) sum += p[v] >= x ? (MASS ? p[v] : 1.0f) : 0.0f;
    return block_sum((double)sum);
}
template <bool MASS> __device__ static float threshold(const float *p, size_t V, float lo, float hi, double want) {
    uint32_t a = float_key(lo), b = float_key(hi);
    while (a < b) {
        uint32_t mid = a + (b - a) / 2 + 1;
        if (weight<MASS>(p, V, key_float(mid)) >= want) a = mid;
        else b = mid - 1;
    }
    return key_float(a);
}

static __global__ void __launch_bounds__(1024) sample_kernel(int32_t *token, float *p, const act *logits, size_t V,
                                                      const int32_t *history, size_t n_history, Sampler s, float u) {
    __shared__ unsigned best;
    __shared__ double mass[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (!threadIdx.x) best = (unsigned)V;
    for (size_t v = threadIdx.x; v < V; v += 1024) {
        float x = to_f(logits[v]);
        p[v] = x == x ? x : -INFINITY;
    }
    __syncthreads();
    if (s.repetition > 0 && s.repetition != 1)                /* a token seen twice is written twice, the same */
        for (size_t i = threadIdx.x; i < n_history; i += 1024) {
            float x = to_f(logits[history[i]]);
            if (x > -INFINITY) p[history[i]] = penalised(x, s.repetition);
        }
    __syncthreads();
    float max = -INFINITY;
    for (size_t v = threadIdx.x; v < V; v += 1024) max = fmaxf(max, p[v]);
    max = block_max(max);
    for (size_t v = threadIdx.x; v < V; v += 1024)
        if (p[v] == max) { atomicMin(&best, (unsigned)v); break; }
    __syncthreads();
    if (!threadIdx.x) *token = best < V ? (int32_t)best : 0;
    if (!(s.temperature > 0) || !isfinite(max)) return;

    float cut = -FLT_MAX, keep = FLT_MIN;
    if (s.top_k > 0 && (size_t)s.top_k < V) cut = threshold<false>(p, V, cut, max, s.top_k);
    for (size_t v = threadIdx.x; v < V; v += 1024) p[v] = p[v] >= cut ? exp_fast((p[v] - max) / s.temperature) : 0.0f;
    __syncthreads();
    if (s.top_p < 1) keep = threshold<true>(p, V, keep, 1, (double)s.top_p * weight<true>(p, V, keep));
    keep = fmaxf(keep, s.min_p);

    /* Warp w holds tokens [w, w+1) * chunk, in order. The warp in whose chunk the sum passes u * total walks it. */
    size_t chunk = CEIL_DIV(CEIL_DIV(V, 32), 32) * 32, begin = warp * chunk, end = MIN(begin + chunk, V);
    double sum = 0, total = 0, before = 0;
    for (size_t v = begin + lane; v < end; v += 32) sum += p[v] >= keep ? (double)p[v] : 0;
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (!lane) mass[warp] = sum;
    __syncthreads();
    for (int w = 0; w < 32; w++) {
        if (w == warp) before = total;
        total += mass[w];
    }
    double at = (double)u * total;
    if (!(before <= at && at < before + mass[warp])) return;
    for (size_t v = begin + lane; v - lane < end; v += 32) {
        double mine = v < end && p[v] >= keep ? (double)p[v] : 0, incl = mine;
        for (int o = 1; o < 32; o <<= 1) {                    /* sums of the lanes up to this one */
            double left = __shfl_up_sync(~0u, incl, o);
            if (lane >= o) incl += left;
        }
        unsigned kept = __ballot_sync(~0u, mine > 0), past = __ballot_sync(~0u, mine > 0 && before + incl > at);
        if (past ? lane == __ffs(past) - 1 : kept && lane == 31 - __clz(kept)) *token = (int32_t)v;
        if (past) return;                                     /* without it rounding leaves the last one kept */
        before += __shfl_sync(~0u, incl, 31);
    }
}
static void sample(int32_t *token, float *p, const act *logits, size_t V, const int32_t *history, size_t n_history,
                   const Sampler *s, float u) {
    sample_kernel<<<1, 1024, 0, stream>>>(token, p, logits, V, history, n_history, *s, u);
    LAUNCHED();
}
#endif
