/* kernels/attention.cuh - [op.attention]: every query looks at the keys it may see and takes their values' weighted mean. */
#pragma once
#include "base.cuh"

#ifndef __CUDACC__
static void attention(act *out, float *lse, const act *q, const act *k, const act *v, const Attn *a) {
    size_t B = a->B, T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
#pragma omp parallel for collapse(2) schedule(static)
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < T; t++) {
                const float *q_bth = q + ((b * T + t) * H + h) * D;
                float *out_bth = out + ((b * T + t) * H + h) * D;
                float max = -INFINITY, sum = 0.0f;
                size_t lo, hi;
                attn_range(a, b, t, &lo, &hi);
                for (size_t d = 0; d < D; d++) out_bth[d] = 0.0f;
                for (size_t s = lo; s < hi; s++) {
                    const float *k_bs = k + ((b * S + s) * K + h / group) * D, *v_bs = v + ((b * S + s) * K + h / group) * D;
                    float score = 0.0f;
                    for (size_t d = 0; d < D; d++) score += q_bth[d] * k_bs[d];
                    score *= a->scale;
                    float new_max = score > max ? score : max;
                    float shrink = exp_fast(max - new_max), p = exp_fast(score - new_max);
                    for (size_t d = 0; d < D; d++) out_bth[d] = out_bth[d] * shrink + p * v_bs[d];
                    sum = sum * shrink + p;
                    max = new_max;
                }
                if (sum > 0.0f)
                    for (size_t d = 0; d < D; d++) out_bth[d] /= sum;
                if (lse) lse[(b * H + h) * T + t] = sum > 0.0f ? max + logf(sum) : -INFINITY;
            }
}

static void attention_bwd(act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out, const float *lse,
                          const act *q, const act *k, const act *v, const Attn *a) {
    size_t B = a->B, T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
#pragma omp parallel for collapse(2) schedule(static)
    for (size_t b = 0; b < B; b++)
        for (size_t kh = 0; kh < K; kh++) {
            for (size_t s = 0; s < S; s++)
                for (size_t d = 0; d < D; d++) dk[((b * S + s) * K + kh) * D + d] = dv[((b * S + s) * K + kh) * D + d] = 0.0f;
            for (size_t h = kh * group; h < (kh + 1) * group; h++)
                for (size_t t = 0; t < T; t++) {
                    size_t bth = ((b * T + t) * H + h) * D, bht = (b * H + h) * T + t, lo, hi;
                    float sum = 0.0f;
                    for (size_t d = 0; d < D; d++) sum += dout[bth + d] * out[bth + d];
                    for (size_t d = 0; d < D; d++) dq[bth + d] = 0.0f;
                    delta[bht] = sum;
                    attn_range(a, b, t, &lo, &hi);
                    for (size_t s = lo; s < hi; s++) {
                        size_t bs = ((b * S + s) * K + kh) * D;
                        float score = 0.0f, dp = 0.0f;
                        for (size_t d = 0; d < D; d++) score += q[bth + d] * k[bs + d];
                        for (size_t d = 0; d < D; d++) dp += dout[bth + d] * v[bs + d];
                        float p = exp_fast(score * a->scale - lse[bht]), ds = p * (dp - delta[bht]) * a->scale;
                        for (size_t d = 0; d < D; d++) dv[bs + d] += p * dout[bth + d];
                        for (size_t d = 0; d < D; d++) dk[bs + d] += ds * q[bth + d];
                        for (size_t d = 0; d < D; d++) dq[bth + d] += ds * k[bs + d];
                    }
                }
        }
}

static void attention_probs(float *probs, const act *q, const act *k, const Attn *a, size_t b) {
    size_t T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
#pragma omp parallel for collapse(2) schedule(static)
    for (size_t h = 0; h < H; h++)
        for (size_t t = 0; t < T; t++) {
            const float *q_bth = q + ((b * T + t) * H + h) * D;
            float *probs_ht = probs + (h * T + t) * S, max = -INFINITY, sum = 0.0f;
            size_t lo, hi;
            attn_range(a, b, t, &lo, &hi);
            for (size_t s = 0; s < S; s++) probs_ht[s] = 0.0f;
            for (size_t s = lo; s < hi; s++) {
                const float *k_bs = k + ((b * S + s) * K + h / group) * D;
                float score = 0.0f;
                for (size_t d = 0; d < D; d++) score += q_bth[d] * k_bs[d];
                probs_ht[s] = score * a->scale;
                if (probs_ht[s] > max) max = probs_ht[s];
            }
            for (size_t s = lo; s < hi; s++) sum += probs_ht[s] = exp_fast(probs_ht[s] - max);
            for (size_t s = lo; s < hi; s++) probs_ht[s] /= sum;
        }
}
#endif
