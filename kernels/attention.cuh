/* kernels/attention.cuh - [op.attention]: every query looks at the keys it may see and averages their values,
 * weighted by how well query and key agree.
 *
 *     score_ts = scale * q_t . k_s            for the slots s in [lo, hi) that query t sees (attn_range in kernels.h)
 *     p_ts     = exp(score_ts - lse_t)        lse_t = log of the sum over s of exp(score_ts)
 *     out_t    = sum over s of p_ts v_s
 *
 * Read it in this order; the chapter doc/en/attention.md walks the same way.
 *   1. The plain loops: forward [attn.fwd], backward [attn.bwd], the matrix of weights to look at [attn.probs].
 *      An int8 cache [attn.cache].
 *   2. The fast CPU path: one small matrix product [attn.tile], the softmax that never sees a whole row [attn.softmax],
 *      a block of queries forward [attn.block] and backward [attn.block_bwd], one query and a long cache [attn.decode].
 *   3. CUDA: a warp for a row [attn.warp], decoding [attn.split], tensor cores [attn.mma] and backward [attn.mma_bwd].
 *
 * Sources: Vaswani et al. 2017 (attention), Milakov and Gimelshein 2018 (online softmax), Dao et al. 2022 and Dao 2023
 * (blocks, backward from lse), Shazeer 2019 and Ainslie et al. 2023 (heads that share keys).
 *
 * What this file refuses to do: store a T x T matrix (attention_probs excepted, whose purpose it is), use what lies in
 * a cache's unused slots (it may be anything, NaN too), and sum in an order that depends on the threads. */
#pragma once
#include "base.cuh"

#define MASKED (-1e30f)                    /* the score of an unseen slot: finite, so that no inf - inf makes a NaN */
#define MAX_START (-1e29f)                 /* below any real score, yet exp(MASKED - MAX_START) is already 0 */
#define LOG2E 1.4426950408889634f          /* scores are kept times log2(e): exp becomes 2^x, one step less */
#define LN2 0.6931471805599453f

#ifndef __CUDACC__
/* [attn.cache] Keys and values in int8: (D + 4) / 4D of the floats' bytes. One scale for all heads, or for all tokens
 * of a head, would be cheaper still and worse: keys of one head have outliers that another's 127 steps would have to
 * span, and a scale over tokens would change with the tokens to come, so that slots filled long ago had to be rounded
 * anew.
 * Keys are stored behind the rotation, which is then done once. A number is off by half a step, 1/255 of its head's
 * largest, at most (Dettmers et al. 2022 round activations alike). The new tokens' own keys are read back from the
 * cache as well: a token sees the same numbers, whether what it sees came with it in one pass or before. */
static void cache_i8(int8_t *y, float *scale, const act *x, const Attn *a) {
    size_t K = (size_t)a->K, D = (size_t)a->D, n = a->B * a->T * K;
#pragma omp parallel for if (n * D > 65536)
    for (size_t i = 0; i < n; i++) {
        size_t b = i / K / a->T, t = i / K % a->T, slot = (a->pos ? (size_t)a->pos[b] : 0) + t,
               to = (b * a->S + slot) * K + i % K;
        scale[to] = input_to_i8(y + to * D, x + i * D, D, &(Mat){.input = INPUT_DYNAMIC});
    }
}
/* A row of the cache, (B,S,K) counted in rows, as floats: in place, or made in `to` (D). */
static const float *cache_floats(float *to, const void *x, const float *scale, size_t row, size_t D) {
    if (!scale) return (const float *)x + row * D;
    const int8_t *q = (const int8_t *)x + row * D;
    float factor = scale[row];
#pragma omp simd
    for (size_t d = 0; d < D; d++) to[d] = (float)q[d] * factor;
    return to;
}

#if VL == 1
/* [attn.fwd] The softmax's maximum and sum are kept up to date slot by slot: when a larger score comes, what was summed
 * so far shrinks by exp(old maximum - new maximum). That is the whole trick which saves storing the scores. */
static void attention(act *out, float *lse, const act *q, const void *k, const void *v, const Attn *a) {
    size_t B = a->B, T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
    float *rows = scratch(SCRATCH_ATTN, (size_t)omp_get_max_threads() * 2 * D * sizeof *rows);    /* of an int8 cache */
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < T; t++) {
                float *k_row = rows + (size_t)omp_get_thread_num() * 2 * D, *v_row = k_row + D;
                const float *q_bth = q + ((b * T + t) * H + h) * D;
                float *out_bth = out + ((b * T + t) * H + h) * D;
                float max = -INFINITY, sum = 0.0f;
                size_t lo, hi;
                attn_range(a, b, t, &lo, &hi);
                for (size_t d = 0; d < D; d++) out_bth[d] = 0.0f;
                for (size_t s = lo; s < hi; s++) {
                    size_t row = (b * S + s) * K + h / group;
                    const float *k_bs = cache_floats(k_row, k, a->k_scale, row, D),
                                *v_bs = cache_floats(v_row, v, a->v_scale, row, D);
                    float score = 0.0f;
                    for (size_t d = 0; d < D; d++) score += q_bth[d] * k_bs[d];
                    score *= a->scale;
                    float new_max = score > max ? score : max;
                    float shrink = exp_fast(max - new_max), p = exp_fast(score - new_max);
                    for (size_t d = 0; d < D; d++) out_bth[d] = out_bth[d] * shrink + p * v_bs[d];
                    sum = sum * shrink + p;
                    max = new_max;
                }
                bool seen = lo < hi;
                for (size_t d = 0; d < D && seen; d++) out_bth[d] /= sum;
                if (lse) lse[(b * H + h) * T + t] = seen ? max + logf(sum) : -INFINITY;
            }
}

/* [attn.bwd] With p rebuilt from lse, the gradients are, for every pair (t, s) that sees each other:
 *     dp_ts = dout_t . v_s      ds_ts = p_ts (dp_ts - delta_t)      delta_t = sum over s of p_ts dp_ts = dout_t . out_t
 *     dv_s += p_ts dout_t       dk_s += scale ds_ts q_t             dq_t += scale ds_ts k_s
 * delta is the softmax's pull on the other weights: raising one p lowers the rest. That it equals dout . out needs no
 * second pass over s. A task owns a kv head, so nobody else adds to its dk and dv. */
static void attention_bwd(act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out, const float *lse,
                          const act *q, const act *k, const act *v, const Attn *a) {
    size_t B = a->B, T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t b = 0; b < B; b++)
        for (size_t kh = 0; kh < K; kh++) {
            for (size_t s = 0; s < S; s++)
                for (size_t d = 0; d < D; d++)
                    dk[((b * S + s) * K + kh) * D + d] = dv[((b * S + s) * K + kh) * D + d] = 0.0f;
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

#else
/* ================================================ the fast CPU path ============================================== *
 * The plain loops spend two flops per number they load. Here a block of queries meets a block of slots as two small
 * matrix products with the softmax between them, all in L1: S = Q K^T, P = softmax(S), O += P V.
 *
 * Two decisions carry the design.
 * - Everything is transposed: lane i of a vector is query i. S^T = K Q^T is computed with the slots as rows, so a
 *   maximum or a sum over slots runs down the rows, lane by lane, and no instruction adds across a vector. P^T then
 *   lies exactly as the next product, O^T += V^T P^T, wants its right-hand side.
 * - The query heads that share a kv head are one matrix: row r = t*group + g. A key loaded once serves all of them. */
typedef float lanes __attribute__((vector_size(4 * VL)));
typedef int32_t lanes_i __attribute__((vector_size(4 * VL)));
typedef float lanes_mem __attribute__((vector_size(4 * VL), aligned(4), may_alias));     /* at any float's address */
#define LOAD(p) ((lanes)*(const lanes_mem *)(p))
#define STORE(p, x) (*(lanes_mem *)(p) = (x))
#define SPLAT(x) ((lanes){0} + (x))
#define INLINE static inline __attribute__((always_inline))
#define ROUND_UP(n, m) (CEIL_DIV(n, m) * (m))
#if VL == 8
#  define TILE_ROWS 4                      /* 4 x 2 sums, 2 of B and 1 of A: AVX2's 16 registers hold no 8 x 2 */
#else
#  define TILE_ROWS 8                      /* 8 x 2 sums in flight cover the latency of two FMA units */
#endif
#define QUERIES (2 * VL)                   /* queries in a block: as wide as a tile, so K streams past once per block */
#define SLOTS 64                           /* slots in a block: S^T fills 8 KB; 128 was 3 to 15 % slower (L1: 32 KB) */
#define PACK_SLOTS 8                       /* packed slots come in eights, a whole number of tiles; masked at the end */

INLINE lanes lanes_max(lanes a, lanes b) {                    /* a NaN in b comes through */
#if VL == 16
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif VL == 8
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return (lanes)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#endif
}
INLINE float lanes_sum(lanes x) {
#if VL == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0.0f;
    for (int i = 0; i < VL; i++) sum += x[i];
    return sum;
#endif
}
/* 2^x, x = n + r with |r| <= 1/2: 2^r by the minimax polynomial of degree 5 (Remez; error 1.5e-7), n into the exponent.
 * AVX-512 has both steps as one instruction each: 9 in all, where base.cuh's exp_fast takes 20. 0 below 2^-126. */
INLINE lanes lanes_exp2(lanes x) {
#if VL == 16
    lanes r = (lanes)_mm512_reduce_ps((__m512)x, 8), n = x - r;
#else
    lanes z = lanes_max(SPLAT(-126.0f), x), n = z + 12582912.0f;     /* adding 1.5 * 2^23 rounds to an integer */
    lanes_i exponent = (lanes_i)n << 23;
    lanes r = z - (n - 12582912.0f);
#endif
    lanes p = r * 0.0013276472f + 0.00967554133f;
    p = p * r + 0.0555071327f;
    p = p * r + 0.240221197f;
    p = p * r + 0.693146967f;
    p = p * r + 1.0f;
#if VL == 16
    return (lanes)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (lanes)(((lanes_i)p + exponent) & ~(lanes_i)(x < SPLAT(-126.0f)));
#endif
}

/* ---- the product ------------------------------------------------------------------------------------------------ *
 * [attn.tile] C (TILE_ROWS, n_vec*VL) = from C + sum over k of A[m][k] * B[k][n]. The sums stay in registers for the
 * whole of k; each A is one number broadcast from memory, which a vector FMA does for free, so A needs no packing and
 * may be read along its rows or across them (A_row, A_k: its strides).
 * A cell is a float or, with pairs, two bf16 that are neighbours along k, multiplied and added by one dpbf16
 * instruction into one f32 sum. Both are four bytes, so the addresses are the same and k is half as long. */
typedef enum { FROM_ZERO, FROM_C, FROM_SHRUNK_C } TileFrom;
INLINE void attn_tile(float *C, size_t ldc, const float *A, size_t A_row, size_t A_k, const float *B, size_t ldb,
                      size_t n_k, int n_vec, TileFrom from, const float *shrink, bool pairs) {
    lanes sum[TILE_ROWS][2];
    (void)pairs;
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 2
        for (int n = 0; n < n_vec; n++) {
            sum[m][n] = from == FROM_ZERO ? (lanes){0} : LOAD(C + (size_t)m * ldc + n * VL);
            if (from == FROM_SHRUNK_C) sum[m][n] *= LOAD(shrink + n * VL);
        }
    for (size_t k = 0; k < n_k; k++) {
        lanes b[2];
#pragma GCC unroll 2
        for (int n = 0; n < n_vec; n++) b[n] = LOAD(B + k * ldb + n * VL);
#pragma GCC unroll 8
        for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 2
            for (int n = 0; n < n_vec; n++) {
                float cell = A[(size_t)m * A_row + k * A_k];
#ifdef __AVX512BF16__
                if (pairs) {
                    sum[m][n] =
                        (lanes)_mm512_dpbf16_ps((__m512)sum[m][n], (__m512bh)_mm512_set1_ps(cell), (__m512bh)b[n]);
                    continue;
                }
#endif
                sum[m][n] += cell * b[n];
            }
    }
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 2
        for (int n = 0; n < n_vec; n++) STORE(C + (size_t)m * ldc + n * VL, sum[m][n]);
}
/* C (M,N) = from C + A (M,n_k) @ B (n_k,N); M a multiple of TILE_ROWS, N of VL. shrink (N) first multiplies C's
 * columns. */
INLINE void attn_product(float *C, size_t ldc, const float *A, size_t A_row, size_t A_k, const float *B, size_t ldb,
                         size_t M, size_t N, size_t n_k, TileFrom from, const float *shrink, bool pairs) {
    for (size_t n = 0; n < N; n += 2 * VL)
        for (size_t m = 0; m < M; m += TILE_ROWS)
            if (n + VL < N)
                attn_tile(C + m * ldc + n, ldc, A + m * A_row, A_row, A_k, B + n, ldb, n_k, 2, from, shrink + n, pairs);
            else
                attn_tile(C + m * ldc + n, ldc, A + m * A_row, A_row, A_k, B + n, ldb, n_k, 1, from, shrink + n, pairs);
}
/* Its four uses, each compiled with its stride of 1 known: _rows reads A along its rows, _columns across them. */
#define PRODUCT(name, A_row, A_k, from, shrink)                                                                        \
    __attribute__((noinline)) static void name(float *C, size_t ldc, const float *A, size_t lda, const float *B,       \
                                               size_t ldb, size_t M, size_t N, size_t n_k, const float *factor,        \
                                               bool pairs) {                                                           \
        (void)factor;                                                                                                  \
        if (pairs) attn_product(C, ldc, A, A_row, A_k, B, ldb, M, N, n_k, from, shrink, true);                         \
        else attn_product(C, ldc, A, A_row, A_k, B, ldb, M, N, n_k, from, shrink, false);                              \
    }
PRODUCT(product_rows, lda, 1, FROM_ZERO, B)
PRODUCT(product_rows_add, lda, 1, FROM_C, B)
PRODUCT(product_columns_add, 1, lda, FROM_C, B)
PRODUCT(product_columns_shrunk, 1, lda, FROM_SHRUNK_C, factor)

/* ---- packing ---------------------------------------------------------------------------------------------------- *
 * A packed row is `width` cells, a multiple of 16 with zeros behind the D numbers: no product ever sees a tail. */
INLINE lanes load_part(const float *x, size_t left) {         /* the first `left` floats at x, zeros behind */
#if VL == 16
    return (lanes)_mm512_maskz_loadu_ps((__mmask16)((1u << MIN(left, (size_t)VL)) - 1), x);
#else
    if (left >= VL) return LOAD(x);
    float part[VL] = {0};
    memcpy(part, x, left * sizeof *x);
    return LOAD(part);
#endif
}
#define LEFT(D, d) ((d) < (D) ? (D) - (d) : 0)
/* For a product whose k runs along the row. */
static void pack_along(float *cells, const float *row, size_t D, size_t width, float factor, bool pairs) {
    size_t d = 0;
    (void)pairs;
#ifdef __AVX512BF16__
    if (pairs) {
        for (; d + 2 * VL <= D; d += 2 * VL) {
            lanes low = LOAD(row + d) * factor, high = LOAD(row + d + VL) * factor;
            STORE(cells + d / 2, (lanes)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
        }
        for (; d < 2 * width; d += 2 * VL) {
            lanes low = load_part(row + d, LEFT(D, d)) * factor,
                  high = load_part(row + d + VL, LEFT(D, d + VL)) * factor;
            STORE(cells + d / 2, (lanes)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
        }
        return;
    }
#endif
    for (; d + VL <= D; d += VL) STORE(cells + d, LOAD(row + d) * factor);
    for (; d < width; d += VL) STORE(cells + d, load_part(row + d, LEFT(D, d)) * factor);
}
#ifdef __AVX512BF16__
INLINE lanes interleave(lanes row0, lanes row1) {             /* cell i = (row0[i], row1[i]), rounded to bf16 */
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (lanes)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)row1, (__m512)row0));
}
#endif
/* For a product whose k runs from row0 to row1: two rows of cells, or one of pairs. D0, D1: D, or 0 for zeros. */
static void pack_across(float *cells, const float *row0, size_t D0, const float *row1, size_t D1, size_t width,
                        bool pairs) {
    (void)pairs;
    for (size_t d = 0; d < width; d += VL) {
        bool whole = d + VL <= D0 && d + VL <= D1;
        lanes x0 = whole ? LOAD(row0 + d) : load_part(row0 + d, LEFT(D0, d)),
              x1 = whole ? LOAD(row1 + d) : load_part(row1 + d, LEFT(D1, d));
#ifdef __AVX512BF16__
        if (pairs) {
            STORE(cells + d, interleave(x0, x1));
            continue;
        }
#endif
        STORE(cells + d, x0);
        STORE(cells + width + d, x1);
    }
}
/* y (columns,rows) = x (rows,columns)^T, both multiples of VL. Within a VL x VL square, rows i and i + h swap the
 * off-diagonal quarters of their blocks of h, for h = VL/2 ... 1: log2(VL) rounds, one shuffle per row and round. */
#ifdef __clang__
#  define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#  define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes_i){__VA_ARGS__})
#endif
#define LIST(...) __VA_ARGS__
#define SWAP(h, low, high)                                                                                             \
    _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) if (!(i & h)) {                                              \
        lanes above = square[i], below = square[i + h];                                                                \
        square[i] = SHUFFLE(above, below, low);                                                                        \
        square[i + h] = SHUFFLE(above, below, high);                                                                   \
    }
static void attn_transpose(float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r += VL)
        for (size_t c = 0; c < columns; c += VL) {
            lanes square[VL];
            _Pragma("GCC unroll 16") for (size_t i = 0; i < VL; i++) square[i] = LOAD(x + (r + i) * ldx + c);
#if VL == 16
            SWAP(8, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                 LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
            SWAP(4, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                 LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
            SWAP(2, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                 LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
            SWAP(1, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
                 LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#elif VL == 8
            SWAP(4, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15))
            SWAP(2, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15))
            SWAP(1, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15))
#else
            SWAP(2, LIST(0, 1, 4, 5), LIST(2, 3, 6, 7))
            SWAP(1, LIST(0, 4, 2, 6), LIST(1, 5, 3, 7))
#endif
            _Pragma("GCC unroll 16") for (size_t i = 0; i < VL; i++) STORE(y + (c + i) * ldy + r, square[i]);
        }
}

/* ---- rows, slots, sizes ----------------------------------------------------------------------------------------- */
typedef struct {                                              /* in cells or floats, all multiples of 16 */
    bool pairs;                                               /* products read bf16 pairs */
    size_t width, key_width;                                  /* of a row packed across, along */
    size_t key_cells, slots;                                  /* of key_width what is not padding; S rounded up */
} AttnShape;
static AttnShape attn_shape(const Attn *a) {
    size_t D = (size_t)a->D;
    bool pairs = false;
#ifdef __AVX512BF16__
    pairs = input_precision == PREC_BF16;
#endif
    size_t cells = pairs ? CEIL_DIV(D, 2) : D;
    return (AttnShape){pairs, ROUND_UP(D, 16), ROUND_UP(cells, 16), cells, ROUND_UP(a->S, 16)};
}

/* A block of rows r = t*group + g of one kv head: where each lies, what it sees, [lo, hi) that any of them sees and
 * [all_lo, all_hi) that all see. Lanes behind the last row repeat it; their results are not stored. */
typedef struct {
    size_t n, lo, hi, all_lo, all_hi;
    size_t at[QUERIES], stat[QUERIES];                        /* offset in q, out, dq, dout; in lse */
    int32_t row_lo[QUERIES], row_hi[QUERIES];
} AttnRows;
static void attn_rows(AttnRows *w, const Attn *a, size_t b, size_t kh, size_t r0, size_t width) {
    size_t H = (size_t)a->H, D = (size_t)a->D, group = H / (size_t)a->K, t = r0 / group, g = r0 % group, lo = 0, hi = 0;
    w->n = MIN(width, a->T * group - r0);
    w->lo = SIZE_MAX, w->hi = 0, w->all_lo = 0, w->all_hi = SIZE_MAX;
    for (size_t i = 0; i < width; i++) {
        if (i == 0 || (g == 0 && i < w->n)) {
            attn_range(a, b, t, &lo, &hi);
            if (lo >= hi) lo = hi = 0;
            else w->lo = MIN(w->lo, lo), w->hi = MAX(w->hi, hi);
            w->all_lo = MAX(w->all_lo, lo), w->all_hi = MIN(w->all_hi, hi);
        }
        w->at[i] = ((b * a->T + t) * H + kh * group + g) * D;
        w->stat[i] = (b * H + kh * group + g) * a->T + t;
        w->row_lo[i] = (int32_t)lo, w->row_hi[i] = (int32_t)hi;
        if (i + 1 < w->n && ++g == group) g = 0, t++;
    }
    if (w->lo > w->hi) w->lo = w->hi = 0;
}
/* The slots that any query of row b sees. Without start, ranges only move up from query to query. */
static void seen_by_any(const Attn *a, size_t b, size_t *lo, size_t *hi) {
    *lo = SIZE_MAX, *hi = 0;
    for (size_t t = 0; t < a->T; t += a->start || a->T == 1 ? 1 : a->T - 1) {
        size_t first, last;
        attn_range(a, b, t, &first, &last);
        if (first < last) *lo = MIN(*lo, first), *hi = MAX(*hi, last);
    }
    if (*lo > *hi) *lo = *hi = 0;
}
/* scores (n slots from s0, QUERIES): what a row does not see becomes MASKED. Nothing to do inside, only at edges. */
INLINE void mask_scores(float *scores, const AttnRows *rows, size_t s0, size_t n) {
    if (s0 >= rows->all_lo && s0 + n <= rows->all_hi) return;
    for (size_t s = 0; s < n; s++)
        for (size_t i = 0; i < QUERIES; i++)
            if ((int32_t)(s0 + s) < rows->row_lo[i] || (int32_t)(s0 + s) >= rows->row_hi[i])
                scores[s * QUERIES + i] = MASKED;
}
/* Lines asked for into L2 before they are needed: a head's rows lie H*D floats apart, a stride that no hardware
 * prefetcher follows. Bought 20 to 30 % of the time at D = 32, T = 256. x + at may lie behind the array's end. */
#define AHEAD 32                           /* slots; rows so far apart share few sets, a head's worth did not stay */
INLINE void fetch_row(const float *x, size_t at, size_t D, bool to_write) {
    for (size_t d = 0; d < D; d += 16) {
        const void *line = (const void *)((uintptr_t)x + (at + d) * sizeof *x);
        if (to_write) __builtin_prefetch(line, 1);            /* owned at once: 17 % of the backward at D = 64 */
        else __builtin_prefetch(line, 0, 2);
    }
}
/* From a row to its place in the next block of queries, nearly so where the group does not divide a block. */
INLINE size_t next_rows(const Attn *a) { return QUERIES * (size_t)a->K * (size_t)a->D; }
/* K and V of one kv head, slots [from, to), as the products read them: K along, V across. Slots outside [lo, hi) become
 * zeros: what lies in a cache's unused slot must not reach a sum, not even multiplied by 0. */
static void pack_slots(float *keys, float *values, const void *k, const void *v, const Attn *a, size_t b, size_t kh,
                       size_t lo, size_t hi, size_t from, size_t to, float *rows, AttnShape z) {
    size_t K = (size_t)a->K, D = (size_t)a->D;                /* rows (4,width): scratch */
    for (size_t s = from; s < to; s += 2) {
        const float *k_rows[2], *v_rows[2];
        size_t seen[2];                                       /* D, or 0 */
        for (size_t i = 0; i < 2; i++) {
            size_t row = (b * a->S + s + i) * K + kh;
            seen[i] = s + i >= lo && s + i < hi ? D : 0;
            k_rows[i] = seen[i] ? cache_floats(rows + i * z.width, k, a->k_scale, row, D) : rows;
            v_rows[i] = seen[i] ? cache_floats(rows + (2 + i) * z.width, v, a->v_scale, row, D) : rows;
            if (a->k_scale) continue;
            fetch_row((const float *)k, (row + AHEAD * K) * D, D, false);
            fetch_row((const float *)v, (row + AHEAD * K) * D, D, false);
        }
        pack_along(keys + s * z.key_width, k_rows[0], seen[0], z.key_width, 1.0f, z.pairs);
        pack_along(keys + (s + 1) * z.key_width, k_rows[1], seen[1], z.key_width, 1.0f, z.pairs);
        pack_across(values + (z.pairs ? s / 2 : s) * z.width, v_rows[0], seen[0], v_rows[1], seen[1], z.width, z.pairs);
    }
}

/* ---- a block of queries, forward -------------------------------------------------------------------------------- */
typedef struct { float *rows, *qt, *ot, *scores, *max, *sum, *shrink; } AttnBlock;
static size_t attn_block_floats(AttnShape z) { return ROUND_UP(QUERIES * (3 * z.width + SLOTS + 3), 16); }
static AttnBlock attn_block_at(float *p, AttnShape z) {
    AttnBlock w;
    w.rows = p, w.qt = w.rows + QUERIES * z.width, w.ot = w.qt + QUERIES * z.width, w.scores = w.ot + QUERIES * z.width;
    w.max = w.scores + QUERIES * SLOTS, w.sum = w.max + QUERIES, w.shrink = w.sum + QUERIES;
    return w;
}
/* [attn.softmax] Scores (n,QUERIES) of n more slots become weights relative to the maximum so far; max and sum move on,
 * and shrink is what the sums made before must be multiplied by. With pairs two rows become one of bf16 pairs, in
 * place: it lands where rows that were read already lay. */
INLINE void softmax_step(AttnBlock w, size_t n, bool pairs) {
    lanes max[2], old[2], sum[2];
    (void)pairs;
    for (int c = 0; c < 2; c++) max[c] = old[c] = LOAD(w.max + c * VL);
    for (size_t s = 0; s < n; s++)
        for (int c = 0; c < 2; c++) max[c] = lanes_max(max[c], LOAD(w.scores + s * QUERIES + c * VL));
    for (int c = 0; c < 2; c++) {
        lanes shrink = lanes_exp2(old[c] - max[c]);
        sum[c] = LOAD(w.sum + c * VL) * shrink;
        STORE(w.max + c * VL, max[c]);
        STORE(w.shrink + c * VL, shrink);
    }
    for (size_t s = 0; s < n; s += 2)
        for (int c = 0; c < 2; c++) {
            float *row0 = w.scores + s * QUERIES + c * VL, *row1 = row0 + QUERIES;
            lanes p0 = lanes_exp2(LOAD(row0) - max[c]), p1 = lanes_exp2(LOAD(row1) - max[c]);
            sum[c] += p0 + p1;
#ifdef __AVX512BF16__
            if (pairs) {
                STORE(w.scores + s / 2 * QUERIES + c * VL, interleave(p0, p1));
                continue;
            }
#endif
            STORE(row0, p0);
            STORE(row1, p1);
        }
    for (int c = 0; c < 2; c++) STORE(w.sum + c * VL, sum[c]);
}
/* [attn.block] Rows [r0, r0 + QUERIES) against every slot they see, SLOTS at a time; blocks that no row sees are never
 * visited, which halves a causal mask's work. Texts of 1,024 tokens reach 70 to 80% of the products' limit, those of 256
 * only 36 to 53%: with 128 slots to see on average, packing and exp, a quarter of the time each, are paid back by few
 * products, and an eighth of those is the upper half of the diagonal's blocks. Halving these blocks, a cheaper exp and
 * fetching ahead into L1 did not help. */
static void attend(act *out, float *lse, const act *q, const float *keys, const float *values, const Attn *a, size_t b,
                   size_t kh, size_t r0, float *work, AttnShape z) {
    size_t D = (size_t)a->D;
    AttnBlock w = attn_block_at(work, z);
    AttnRows rows;
    attn_rows(&rows, a, b, kh, r0, QUERIES);
    for (size_t i = 0; i < QUERIES; i++)
        pack_along(w.rows + i * z.key_width, q + rows.at[i], D, z.key_width, a->scale * LOG2E, z.pairs);
    for (size_t i = 0; i < rows.n; i++)
        fetch_row(q, rows.at[i] + next_rows(a), D, false), fetch_row(out, rows.at[i], D, false);
    attn_transpose(w.qt, QUERIES, w.rows, z.key_width, QUERIES, z.key_width);
    for (size_t i = 0; i < QUERIES; i++) w.max[i] = MAX_START, w.sum[i] = 0.0f;
    memset(w.ot, 0, QUERIES * z.width * sizeof *w.ot);
    for (size_t s0 = rows.lo / PACK_SLOTS * PACK_SLOTS; s0 < rows.hi; s0 += SLOTS) {
        size_t n = MIN((size_t)SLOTS, ROUND_UP(rows.hi - s0, PACK_SLOTS));
        const float *k_s0 = keys + s0 * z.key_width, *v_s0 = values + (z.pairs ? s0 / 2 : s0) * z.width;
        /* S^T = K Q^T, P^T = softmax, O^T = O^T shrunk + V^T P^T */
        product_rows(w.scores, QUERIES, k_s0, z.key_width, w.qt, QUERIES, n, QUERIES, z.key_cells, NULL, z.pairs);
        mask_scores(w.scores, &rows, s0, n);
        if (z.pairs) softmax_step(w, n, true);
        else softmax_step(w, n, false);
        product_columns_shrunk(w.ot, QUERIES, v_s0, z.width, w.scores, QUERIES, ROUND_UP(D, TILE_ROWS), QUERIES,
                               z.pairs ? n / 2 : n, w.shrink, z.pairs);
    }
    attn_transpose(w.rows, z.width, w.ot, QUERIES, z.width, QUERIES);
    for (size_t i = 0; i < rows.n; i++) {
        bool seen = rows.row_lo[i] < rows.row_hi[i];
        float *out_r = out + rows.at[i], factor = seen ? 1.0f / w.sum[i] : 0.0f;
        for (size_t d = 0; d < D; d++) out_r[d] = w.rows[i * z.width + d] * factor;
        if (lse) lse[rows.stat[i]] = seen ? w.max[i] * LN2 + logf(w.sum[i]) : -INFINITY;
    }
}

/* ---- decoding: few rows, many slots ----------------------------------------------------------------------------- *
 * [attn.decode] A new token does two flops per byte of cache, so memory is the limit and K and V are read once for all
 * heads that share them. The slots are cut into parts of DECODE_SLOTS, whatever the number of threads; each part is a
 * softmax of its own, and attention_decode joins the parts in order, by their maxima, as the blocks of a row are joined
 * above. */
static const void *cache_from(const void *x, bool is_i8, size_t row, size_t D) {
    return (const char *)x + row * D * (is_i8 ? 1 : sizeof(float));
}
#define DECODE_ROWS 8
#define DECODE_SLOTS 256
typedef struct { float *max, *sum, *acc; } DecodeResult;      /* (DECODE_ROWS), (DECODE_ROWS), (DECODE_ROWS,width) */
static size_t decode_result_floats(AttnShape z) { return ROUND_UP(DECODE_ROWS * (z.width + 2), 16); }
static DecodeResult decode_result_at(float *p) { return (DecodeResult){p, p + DECODE_ROWS, p + 2 * DECODE_ROWS}; }

/* VL numbers of a cache, floats or int8, from number `at` on; of which the row has `left`. */
INLINE lanes load_cells(const void *x, size_t at, size_t left, bool is_i8) {
    if (!is_i8) return left >= VL ? LOAD((const float *)x + at) : load_part((const float *)x + at, left);
    int8_t part[VL] = {0};
    const int8_t *from = (const int8_t *)x + at;
    if (left < VL) memcpy(part, from, left), from = part;
#if VL == 16
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif VL == 8
    return (lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    return (lanes){(float)from[0], (float)from[1], (float)from[2], (float)from[3]};
#endif
}
/* One row: scores (n) = q . k_s. VL slots at a time, so that their partial sums are added up by one transposition. */
INLINE void scores_of_row(float *scores, float *squares, const float *q, const void *k, size_t k_row, size_t n,
                          size_t D, bool is_i8) {
    for (size_t s0 = 0; s0 < n; s0 += VL) {
        for (size_t i = 0; i < VL; i++) {
            size_t k_s = MIN(s0 + i, n - 1) * k_row;
            lanes sum[2] = {{0}, {0}};
            size_t d = 0;
            for (; d + 2 * VL <= D; d += 2 * VL) {
                sum[0] += LOAD(q + d) * load_cells(k, k_s + d, VL, is_i8);
                sum[1] += LOAD(q + d + VL) * load_cells(k, k_s + d + VL, VL, is_i8);
            }
            for (; d < D; d += VL) sum[0] += LOAD(q + d) * load_cells(k, k_s + d, D - d, is_i8);
            STORE(squares + i * VL, sum[0] + sum[1]);
        }
        attn_transpose(squares + VL * VL, VL, squares, VL, VL, VL);
        lanes total = {0};
        for (size_t i = 0; i < VL; i++) total += LOAD(squares + VL * VL + i * VL);
        STORE(scores + s0, total);
    }
}
/* One row: acc (D) += p (n) @ v (n,D). Four registers of D stay while the slots run by. */
INLINE void values_of_row(float *acc, const float *p, const void *v, size_t v_row, size_t n, size_t D, bool is_i8) {
    size_t d = 0;
    for (; d + 4 * VL <= D; d += 4 * VL) {
        lanes y[4];
        for (int j = 0; j < 4; j++) y[j] = LOAD(acc + d + j * VL);
        for (size_t s = 0; s < n; s++)
            for (size_t j = 0; j < 4; j++) y[j] += p[s] * load_cells(v, s * v_row + d + j * VL, VL, is_i8);
        for (int j = 0; j < 4; j++) STORE(acc + d + j * VL, y[j]);
    }
    for (; d < D; d += VL) {
        lanes y = LOAD(acc + d);
        for (size_t s = 0; s < n; s++) y += p[s] * load_cells(v, s * v_row + d, D - d, is_i8);
        STORE(acc + d, y);
    }
}
/* What a kv head needs while its part runs. */
typedef struct { AttnRows rows; DecodeResult y; float *q; } DecodeHead;
static void decode_begin(DecodeHead *head, const act *q, const Attn *a, size_t b, size_t kh, AttnShape z) {
    AttnRows *rows = &head->rows;
    attn_rows(rows, a, b, kh, 0, DECODE_ROWS);
    for (size_t r = 0; r < DECODE_ROWS; r++) {
        pack_along(head->q + r * z.width, q + rows->at[r], (size_t)a->D, z.width, a->scale * LOG2E, false);
        head->y.max[r] = MAX_START, head->y.sum[r] = 0.0f;
    }
    memset(head->y.acc, 0, DECODE_ROWS * z.width * sizeof *head->y.acc);
}
/* n of a kv head's rows in the cache, from `row` on, K rows apart: where they lie, or as floats in `to` (n,width). */
static const float *decode_floats(float *to, const void *x, const float *scale, size_t row, size_t K, size_t n,
                                  size_t D, AttnShape z) {
    for (size_t s = 0; s < n && scale; s++) cache_floats(to + s * z.width, x, scale, row + s * K, D);
    return scale ? to : (const float *)x + row * D;
}
static void multiply_scales(float *x, const float *scale, size_t row, size_t K, size_t n) {
    for (size_t s = 0; s < n; s++) x[s] *= scale[row + s * K];
}
/* Slots [s0, s0 + n) of a kv head, n at most SLOTS; the first is row `row` of the cache. int8 rows become floats in L1
 * where three queries or more read them; for fewer they are widened in registers, and their scales multiply scores and
 * weights: half the time of the former. Dot products of int8 would have to round q too, and could not serve V. */
static void decode_block(DecodeHead *head, float *work, const void *k, const void *v, const Attn *a, size_t row,
                         size_t s0, size_t n, AttnShape z) {
    size_t K = (size_t)a->K, D = (size_t)a->D, kv_row = a->k_scale ? z.width : K * D;
    float *scores = work, *squares = scores + DECODE_ROWS * SLOTS, *padded = squares + 2 * VL * VL;
    float *kt = padded + SLOTS * z.width;
    const AttnRows *rows = &head->rows;
    DecodeResult y = head->y;
    size_t tile_rows = ROUND_UP(rows->n, TILE_ROWS);
    bool tiles = rows->n > 2;                                 /* rows of a tile that are no query's repeat the last */
    bool as_stored = n == SLOTS && D == z.width;              /* else K and V are copied first, padded with zeros */
    if (tiles) {
        const float *k_s0 = decode_floats(padded, k, a->k_scale, row, K, n, D, z);
        for (size_t s = 0; s < SLOTS && !as_stored; s++)      /* k_s0 may be padded itself */
            pack_along(padded + s * z.width, k_s0 + s * kv_row, s < n ? D : 0, z.width, 1.0f, false);
        attn_transpose(kt, SLOTS, as_stored ? k_s0 : padded, as_stored ? kv_row : z.width, SLOTS, z.width);
        product_rows(scores, SLOTS, head->q, z.width, kt, SLOTS, tile_rows, SLOTS, D, NULL, false);
    } else
        for (size_t r = 0; r < rows->n; r++) {
            float *scores_r = scores + r * SLOTS, *q_r = head->q + r * z.width;
            const void *k_s0 = cache_from(k, a->k_scale, row, D);
            if (a->k_scale) scores_of_row(scores_r, squares, q_r, k_s0, K * D, n, D, true);
            else scores_of_row(scores_r, squares, q_r, k_s0, K * D, n, D, false);
            if (a->k_scale) multiply_scales(scores_r, a->k_scale, row, K, n);
        }
    for (size_t r = 0; r < rows->n; r++) {
        float *p = scores + r * SLOTS, max = y.max[r];
        if (n % VL || s0 < rows->all_lo || s0 + n > rows->all_hi)
            for (size_t s = 0; s < ROUND_UP(n, VL); s++)
                if (s >= n || (int32_t)(s0 + s) < rows->row_lo[r] || (int32_t)(s0 + s) >= rows->row_hi[r])
                    p[s] = MASKED;
        lanes maxima = SPLAT(max), sum = {0};
        for (size_t s = 0; s < n; s += VL) maxima = lanes_max(maxima, LOAD(p + s));
        for (int i = 0; i < VL; i++) max = maxima[i] > max ? maxima[i] : max;
        float shrink = lanes_exp2(SPLAT(y.max[r] - max))[0];
        for (size_t s = 0; s < n; s += VL) {
            lanes e = lanes_exp2(LOAD(p + s) - max);
            sum += e;
            STORE(p + s, e);
        }
        y.max[r] = max, y.sum[r] = y.sum[r] * shrink + lanes_sum(sum);
        for (size_t d = 0; d < z.width; d++) y.acc[r * z.width + d] *= shrink;
    }
    if (tiles) {
        const float *v_s0 = decode_floats(padded, v, a->v_scale, row, K, n, D, z);
        for (size_t s = 0; s < n && !as_stored; s++)
            pack_along(padded + s * z.width, v_s0 + s * kv_row, D, z.width, 1.0f, false);
        product_rows_add(y.acc, z.width, scores, SLOTS, as_stored ? v_s0 : padded, as_stored ? kv_row : z.width,
                         tile_rows, ROUND_UP(D, VL), n, NULL, false);
    } else
        for (size_t r = 0; r < rows->n; r++) {
            float *acc_r = y.acc + r * z.width, *p = scores + r * SLOTS;
            const void *v_s0 = cache_from(v, a->v_scale, row, D);
            if (a->v_scale) multiply_scales(p, a->v_scale, row, K, n);
            if (a->v_scale) values_of_row(acc_r, p, v_s0, K * D, n, D, true);
            else values_of_row(acc_r, p, v_s0, K * D, n, D, false);
        }
}
static size_t decode_work_floats(size_t K, AttnShape z) {
    size_t heads = K * (sizeof(DecodeHead) / sizeof(float) + DECODE_ROWS * z.width);
    return ROUND_UP(heads + DECODE_ROWS * SLOTS + 2 * VL * VL + 2 * SLOTS * z.width, 16);
}
/* Slots of one part, for kv heads [kh_from, kh_to): block by block, all heads in turn, because their keys share pages
 * and what the hardware fetches ahead for one head is the next head's. */
static void decode_part(float *results, size_t floats, float *work, const act *q, const void *k, const void *v,
                        const Attn *a, size_t b, size_t kh_from, size_t kh_to, size_t part, AttnShape z) {
    size_t K = (size_t)a->K, lo = SIZE_MAX, hi = 0;
    DecodeHead *heads = (DecodeHead *)work;
    float *packed_q = (float *)(heads + K), *scores = packed_q + K * DECODE_ROWS * z.width;
    memset(scores, 0, DECODE_ROWS * SLOTS * sizeof *scores);
    for (size_t kh = kh_from; kh < kh_to; kh++) {
        heads[kh].y = decode_result_at(results + kh * floats), heads[kh].q = packed_q + kh * DECODE_ROWS * z.width;
        decode_begin(&heads[kh], q, a, b, kh, z);
        lo = heads[kh].rows.lo, hi = heads[kh].rows.hi;       /* the same for every head */
    }
    lo = MAX(lo, part * DECODE_SLOTS), hi = MIN(hi, (part + 1) * DECODE_SLOTS);
    for (size_t s0 = lo; s0 < hi; s0 += SLOTS)
        for (size_t kh = kh_from; kh < kh_to; kh++)
            decode_block(&heads[kh], scores, k, v, a, (b * a->S + s0) * K + kh, s0, MIN((size_t)SLOTS, hi - s0), z);
}
static void attention_decode(act *out, float *lse, const act *q, const void *k, const void *v, const Attn *a,
                             AttnShape z) {
    size_t K = (size_t)a->K, D = (size_t)a->D, n_heads = a->B * K, threads = (size_t)omp_get_max_threads();
    size_t floats = decode_result_floats(z), work_floats = decode_work_floats(K, z), most = 0;
    for (size_t b = 0; b < a->B; b++) {
        size_t lo, hi;
        seen_by_any(a, b, &lo, &hi);
        most = MAX(most, hi);
    }
    size_t n_parts = CEIL_DIV(most, (size_t)DECODE_SLOTS), n_results = n_heads * n_parts;
    size_t teams = MIN(K, CEIL_DIV(threads, MAX(a->B * n_parts, (size_t)1)));     /* that share a part's kv heads */
    float *results = (float *)scratch(SCRATCH_ATTN, (n_results * floats + threads * work_floats) * sizeof(float));
    float *work = results + n_results * floats;
#pragma omp parallel for schedule(static) if (n_heads * most * D > 16384) /* less is done before a thread wakes up */
    for (size_t j = 0; j < a->B * n_parts * teams; j++) {
        size_t b = j / teams / n_parts, part = j / teams % n_parts, team = j % teams;
        decode_part(results + (b * n_parts + part) * K * floats, floats,
                    work + (size_t)omp_get_thread_num() * work_floats, q, k, v, a, b, team * K / teams,
                    (team + 1) * K / teams, part, z);
    }
    for (size_t i = 0; i < n_heads; i++) {
        size_t b = i / K, kh = i % K;
        AttnRows rows;
        attn_rows(&rows, a, b, kh, 0, DECODE_ROWS);
        for (size_t r = 0; r < rows.n; r++) {
            float max = MAX_START, sum = 0.0f, *out_r = out + rows.at[r];
            bool seen = rows.row_lo[r] < rows.row_hi[r];
            for (size_t p = 0; p < n_parts; p++)
                max = MAX(max, decode_result_at(results + ((b * n_parts + p) * K + kh) * floats).max[r]);
            for (size_t d = 0; d < D; d++) out_r[d] = 0.0f;
            for (size_t p = 0; p < n_parts; p++) {
                DecodeResult y = decode_result_at(results + ((b * n_parts + p) * K + kh) * floats);
                float shrink = lanes_exp2(SPLAT(y.max[r] - max))[0];
                sum += y.sum[r] * shrink;
                for (size_t d = 0; d < D; d++) out_r[d] += y.acc[r * z.width + d] * shrink;
            }
            float factor = seen ? 1.0f / sum : 0.0f;
            for (size_t d = 0; d < D; d++) out_r[d] *= factor;
            if (lse) lse[rows.stat[r]] = seen ? max * LN2 + logf(sum) : -INFINITY;
        }
    }
}

/* A few tokens behind a cache, as speculative decoding checks its guesses: each is computed alone, and so gets the very
 * bits that it would get alone. A prefix that they lie in would be more than a range of slots. */
#define FEW_QUERIES 8
static bool few_queries(const Attn *a, const float *lse) {
    if (lse || !a->pos || !a->causal || a->T < 2 || a->T > FEW_QUERIES) return false;
    for (size_t b = 0; b < a->B && a->prefix; b++)
        if (a->pos[b] < a->prefix[b]) return false;
    return true;
}
/* Where K and V are packed: by the thread that uses them, when there are kv heads enough to go round; else by all
 * threads for all, and the blocks of queries are then shared out one by one. The numbers are the same either way. */
static void attention(act *out, float *lse, const act *q, const void *k, const void *v, const Attn *a) {
    AttnShape z = attn_shape(a);
    size_t K = (size_t)a->K, rows = a->T * (size_t)(a->H / a->K), n_heads = a->B * K,
           threads = (size_t)omp_get_max_threads();
    if (few_queries(a, lse)) {
        for (size_t b = 0; b < a->B; b++)
            for (size_t t = 0; t < a->T; t++) {
                int32_t pos = a->pos[b] + (int32_t)t;
                Attn one = *a;
                one.B = one.T = 1, one.pos = &pos;
                if (a->prefix) one.prefix = a->prefix + b;
                if (a->start) one.start = a->start + b * a->T + t;
                if (a->len) one.len = a->len + b;
                size_t D = (size_t)a->D, at = (b * a->T + t) * (size_t)a->H * D, row = b * a->S * K;
                bool is_i8 = a->k_scale;
                if (is_i8) one.k_scale = a->k_scale + row, one.v_scale = a->v_scale + row;
                attention(out + at, NULL, q + at, cache_from(k, is_i8, row, D), cache_from(v, is_i8, row, D), &one);
            }
        return;
    }
    if (rows <= DECODE_ROWS) {
        attention_decode(out, lse, q, k, v, a, z);
        return;
    }
    size_t n_blocks = CEIL_DIV(rows, (size_t)QUERIES), floats = attn_block_floats(z),
           packed = z.slots * (z.key_width + z.width);
    bool shared = n_heads < 4 * threads;
    size_t all_floats = threads * floats + (shared ? n_heads : threads) * packed;
    float *work = (float *)scratch(SCRATCH_ATTN, all_floats * sizeof(float));
    float *packs = work + threads * floats;
    if (!shared) {
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n_heads; i++) {
            size_t lo, hi, thread = (size_t)omp_get_thread_num();
            float *keys = packs + thread * packed, *values = keys + z.slots * z.key_width;
            seen_by_any(a, i / K, &lo, &hi);
            pack_slots(keys, values, k, v, a, i / K, i % K, lo, hi, lo / PACK_SLOTS * PACK_SLOTS,
                       ROUND_UP(hi, PACK_SLOTS), work + thread * floats, z);
            for (size_t r0 = 0; r0 < rows; r0 += QUERIES)
                attend(out, lse, q, keys, values, a, i / K, i % K, r0, work + thread * floats, z);
        }
        return;
    }
    enum { PART = 256 };
    size_t n_parts = CEIL_DIV(z.slots, PART);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t i = 0; i < n_heads; i++)
            for (size_t part = 0; part < n_parts; part++) {
                float *keys = packs + i * packed, *values = keys + z.slots * z.key_width;
                size_t lo, hi;
                seen_by_any(a, i / K, &lo, &hi);
                pack_slots(keys, values, k, v, a, i / K, i % K, lo, hi, MAX(lo / PACK_SLOTS * PACK_SLOTS, part * PART),
                           MIN(ROUND_UP(hi, PACK_SLOTS), (part + 1) * PART),
                           work + (size_t)omp_get_thread_num() * floats, z);
            }
#pragma omp for schedule(dynamic)
        for (size_t j = 0; j < n_heads * n_blocks; j++) {     /* late rows, which see most, first: the ends meet */
            size_t i = j % n_heads, r0 = (n_blocks - 1 - j / n_heads) * QUERIES;
            float *keys = packs + i * packed, *values = keys + z.slots * z.key_width;
            attend(out, lse, q, keys, values, a, i / K, i % K, r0, work + (size_t)omp_get_thread_num() * floats, z);
        }
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- *
 * Five products per block, still transposed: S^T = K Q^T and dP^T = V dO^T, then, from P^T and dS^T = P^T (dP^T -
 * delta), dV += P^T dO, dK += dS^T Q (both read the blocks just made along their rows) and dQ^T += K^T dS^T (as O^T
 * forward). */
typedef struct {
    float *rows, *qt, *dot, *q_across, *dout_across, *dqt;    /* (QUERIES or width, ...) */
    float *scores, *dp, *ds_across, *lse, *delta;
} BwdBlock;
typedef struct { float *keys, *values, *dk, *dv, *keys_across; } BwdSlots;
static size_t bwd_block_floats(AttnShape z) { return ROUND_UP(QUERIES * (6 * z.width + 3 * SLOTS + 2), 16); }
static size_t bwd_slots_floats(AttnShape z) { return z.slots * (2 * z.key_width + 3 * z.width); }
static BwdBlock bwd_block_at(float *p, AttnShape z) {
    size_t big = QUERIES * z.width, square = QUERIES * SLOTS;
    float *s = p + 6 * big;
    return (BwdBlock){p, p + big, p + 2 * big, p + 3 * big, p + 4 * big, p + 5 * big,
                      s, s + square, s + 2 * square, s + 3 * square, s + 3 * square + QUERIES};
}
static BwdSlots bwd_slots_at(float *p, AttnShape z) {
    BwdSlots y;
    y.keys = p, y.values = y.keys + z.slots * z.key_width, y.dk = y.values + z.slots * z.key_width;
    y.dv = y.dk + z.slots * z.width;
    y.keys_across = z.pairs ? y.dv + z.slots * z.width : y.keys;   /* floats look the same along and across */
    return y;
}
/* scores -> P^T, dp -> dS^T. In pairs both become A of a product over queries (pairs within a row, in place: behind
 * what was read), and dS^T also B of a product over slots (pairs of rows). */
INLINE void bwd_weights(BwdBlock w, size_t n, bool pairs) {
    (void)pairs;
    for (size_t s = 0; s < n; s += 2) {
        lanes p[2][2], ds[2][2];
#pragma GCC unroll 2
        for (size_t r = 0; r < 2; r++)
#pragma GCC unroll 2
            for (size_t c = 0; c < 2; c++) {
                size_t at = (s + r) * QUERIES + c * VL;
                p[r][c] = lanes_exp2(LOAD(w.scores + at) - LOAD(w.lse + c * VL));
                ds[r][c] = p[r][c] * (LOAD(w.dp + at) - LOAD(w.delta + c * VL));
            }
#pragma GCC unroll 2
        for (size_t r = 0; r < 2; r++) {
#ifdef __AVX512BF16__
            if (pairs) {
                STORE(w.scores + (s + r) * VL, (lanes)_mm512_cvtne2ps_pbh((__m512)p[r][1], (__m512)p[r][0]));
                STORE(w.dp + (s + r) * VL, (lanes)_mm512_cvtne2ps_pbh((__m512)ds[r][1], (__m512)ds[r][0]));
                STORE(w.ds_across + s / 2 * QUERIES + r * VL, interleave(ds[0][r], ds[1][r]));
                continue;
            }
#endif
#pragma GCC unroll 2
            for (size_t c = 0; c < 2; c++) {
                STORE(w.scores + (s + r) * QUERIES + c * VL, p[r][c]);
                STORE(w.dp + (s + r) * QUERIES + c * VL, ds[r][c]);
            }
        }
    }
}
/* [attn.block_bwd] Rows [r0, r1) of one kv head against slots [s_from, s_to): dq of these rows, or dk and dv of these
 * slots, or both. Each sum runs in the same order whichever way the work is cut, so the cut does not show in the
 * result. */
typedef enum { WANT_DQ = 1, WANT_DKV = 2 } Want;
static void attend_bwd(act *dq, act *dk, act *dv, const act *dout, const act *out, const float *lse, const act *q,
                       const act *k, const act *v, const Attn *a, size_t b, size_t kh, size_t r0, size_t r1,
                       size_t s_from, size_t s_to, int want, float *work, AttnShape z) {
    size_t D = (size_t)a->D, K = (size_t)a->K, d_lanes = ROUND_UP(D, VL), lo, hi;
    size_t n_q = z.pairs ? QUERIES / 2 : QUERIES;             /* cells of a block's queries along k */
    BwdBlock w = bwd_block_at(work, z);
    BwdSlots y = bwd_slots_at(work + bwd_block_floats(z), z);
    seen_by_any(a, b, &lo, &hi);
    lo = MAX(lo, s_from), hi = MIN(hi, s_to);
    if (lo > hi) lo = hi = s_from;
    for (size_t s = lo / PACK_SLOTS * PACK_SLOTS; s < ROUND_UP(hi, PACK_SLOTS); s += 2) {
        size_t bs = ((b * a->S + s) * K + kh) * D, D0 = s >= lo && s < hi ? D : 0,
               D1 = s + 1 >= lo && s + 1 < hi ? D : 0;
        for (size_t i = AHEAD; i < AHEAD + 2; i++)
            fetch_row(k, bs + i * K * D, D, false), fetch_row(v, bs + i * K * D, D, false);
        pack_along(y.keys + s * z.key_width, k + bs, D0, z.key_width, 1.0f, z.pairs);
        pack_along(y.keys + (s + 1) * z.key_width, k + bs + K * D, D1, z.key_width, 1.0f, z.pairs);
        pack_along(y.values + s * z.key_width, v + bs, D0, z.key_width, 1.0f, z.pairs);
        pack_along(y.values + (s + 1) * z.key_width, v + bs + K * D, D1, z.key_width, 1.0f, z.pairs);
        if (z.pairs) pack_across(y.keys_across + s / 2 * z.width, k + bs, D0, k + bs + K * D, D1, z.width, true);
        if (want & WANT_DKV) {
            memset(y.dk + s * z.width, 0, 2 * z.width * sizeof *y.dk);
            memset(y.dv + s * z.width, 0, 2 * z.width * sizeof *y.dv);
        }
    }
    for (; r0 < r1; r0 += QUERIES) {
        AttnRows rows;
        attn_rows(&rows, a, b, kh, r0, QUERIES);
        size_t first = MAX(rows.lo, lo), last = MIN(rows.hi, hi);
        if (first >= last && !(want & WANT_DQ)) continue;
        for (size_t i = 0; i < rows.n; i++) {
            size_t next = rows.at[i] + next_rows(a);
            fetch_row(q, next, D, false), fetch_row(dout, next, D, false), fetch_row(out, next, D, false);
            fetch_row(dq, rows.at[i], D, false);
        }
        memset(w.dqt, 0, QUERIES * z.width * sizeof *w.dqt);
        for (size_t i = 0; i < QUERIES; i++)
            pack_along(w.rows + i * z.key_width, q + rows.at[i], D, z.key_width, a->scale * LOG2E, z.pairs);
        attn_transpose(w.qt, QUERIES, w.rows, z.key_width, QUERIES, z.key_width);
        for (size_t i = 0; i < QUERIES; i++)
            pack_along(w.rows + i * z.key_width, dout + rows.at[i], D, z.key_width, 1.0f, z.pairs);
        attn_transpose(w.dot, QUERIES, w.rows, z.key_width, QUERIES, z.key_width);
        for (size_t i = 0; i < QUERIES && want & WANT_DKV; i += 2) { /* lanes that repeat a row count as zeros here */
            size_t to = (z.pairs ? i / 2 : i) * z.width, D0 = i < rows.n ? D : 0, D1 = i + 1 < rows.n ? D : 0;
            pack_across(w.q_across + to, q + rows.at[i], D0, q + rows.at[i + 1], D1, z.width, z.pairs);
            pack_across(w.dout_across + to, dout + rows.at[i], D0, dout + rows.at[i + 1], D1, z.width, z.pairs);
        }
        for (size_t i = 0; i < QUERIES; i++) {
            const float *dout_r = dout + rows.at[i], *out_r = out + rows.at[i];
            lanes sum = {0};
            for (size_t d = 0; d < D; d += VL) sum += load_part(dout_r + d, D - d) * load_part(out_r + d, D - d);
            w.delta[i] = lanes_sum(sum);
            bool seen = rows.row_lo[i] < rows.row_hi[i];
            w.lse[i] = seen ? lse[rows.stat[i]] * LOG2E : -MASKED;           /* sees nothing: its weights become 0 */
        }
        for (size_t s0 = first / PACK_SLOTS * PACK_SLOTS; s0 < last; s0 += SLOTS) {
            size_t n = MIN((size_t)SLOTS, ROUND_UP(last - s0, PACK_SLOTS)), s0_across = z.pairs ? s0 / 2 : s0;
            const float *k_s0 = y.keys + s0 * z.key_width, *v_s0 = y.values + s0 * z.key_width;
            product_rows(w.scores, QUERIES, k_s0, z.key_width, w.qt, QUERIES, n, QUERIES, z.key_cells, NULL, z.pairs);
            product_rows(w.dp, QUERIES, v_s0, z.key_width, w.dot, QUERIES, n, QUERIES, z.key_cells, NULL, z.pairs);
            mask_scores(w.scores, &rows, s0, n);
            if (z.pairs) bwd_weights(w, n, true);
            else bwd_weights(w, n, false);
            if (want & WANT_DKV) {
                float *dk_s0 = y.dk + s0 * z.width, *dv_s0 = y.dv + s0 * z.width;
                product_rows_add(dv_s0, z.width, w.scores, n_q, w.dout_across, z.width, n, d_lanes, n_q, NULL, z.pairs);
                product_rows_add(dk_s0, z.width, w.dp, n_q, w.q_across, z.width, n, d_lanes, n_q, NULL, z.pairs);
            }
            if (want & WANT_DQ)
                product_columns_add(w.dqt, QUERIES, y.keys_across + s0_across * z.width, z.width,
                                    z.pairs ? w.ds_across : w.dp, QUERIES, ROUND_UP(D, TILE_ROWS), QUERIES,
                                    z.pairs ? n / 2 : n, NULL, z.pairs);
        }
        if (want & WANT_DQ) {
            attn_transpose(w.rows, z.width, w.dqt, QUERIES, z.width, QUERIES);
            for (size_t i = 0; i < rows.n; i++)
                for (size_t d = 0; d < D; d++) dq[rows.at[i] + d] = w.rows[i * z.width + d] * a->scale;
        }
    }
    for (size_t s = s_from; s < s_to && want & WANT_DKV; s++) {
        size_t bs = ((b * a->S + s) * K + kh) * D;
        bool seen = s >= lo && s < hi;
        fetch_row(dk, bs + 8 * K * D, D, true), fetch_row(dv, bs + 8 * K * D, D, true);
        for (size_t d = 0; d < D; d++) dk[bs + d] = seen ? y.dk[s * z.width + d] * a->scale : 0.0f;
        for (size_t d = 0; d < D; d++) dv[bs + d] = seen ? y.dv[s * z.width + d] : 0.0f;
    }
}

/* A thread owns a kv head where that keeps the threads busy. Where there are too few, S^T and dP^T are computed twice,
 * once for tasks that own slots (dk, dv) and once for tasks that own rows (dq): seven products for five, but tasks
 * enough. */
static void attention_bwd(act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out, const float *lse,
                          const act *q, const act *k, const act *v, const Attn *a) {
    AttnShape z = attn_shape(a);
    size_t K = (size_t)a->K, rows = a->T * (size_t)(a->H / a->K), n_heads = a->B * K,
           threads = (size_t)omp_get_max_threads();
    size_t floats = bwd_block_floats(z) + bwd_slots_floats(z);
    float *work = (float *)scratch(SCRATCH_ATTN, threads * floats * sizeof(float));
    (void)delta;                                              /* stays in a block here */
    if (CEIL_DIV(n_heads, threads) * threads * 5 <= n_heads * 7) {
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < n_heads; i++)
            attend_bwd(dq, dk, dv, dout, out, lse, q, k, v, a, i / K, i % K, 0, rows, 0, a->S, WANT_DQ | WANT_DKV,
                       work + (size_t)omp_get_thread_num() * floats, z);
        return;
    }
    enum { PART = 256 };
    size_t slot_parts = CEIL_DIV(a->S, PART), row_parts = CEIL_DIV(rows, PART);
#pragma omp parallel for schedule(dynamic)
    for (size_t j = 0; j < n_heads * (slot_parts + row_parts); j++) {
        size_t i = j % n_heads, part = j / n_heads, r0 = 0, r1 = rows, s0 = 0, s1 = a->S;
        bool own_slots = part < slot_parts;
        if (own_slots) s0 = part * PART, s1 = MIN(s1, s0 + PART);
        else r0 = (row_parts - 1 - (part - slot_parts)) * PART, r1 = MIN(r1, r0 + PART);
        attend_bwd(dq, dk, dv, dout, out, lse, q, k, v, a, i / K, i % K, r0, r1, s0, s1, own_slots ? WANT_DKV : WANT_DQ,
                   work + (size_t)omp_get_thread_num() * floats, z);
    }
}
#endif

/* [attn.probs] Here the T x S matrix is the answer: the weights of row b, to look at. Two passes, the textbook's
 * softmax. */
static void attention_probs(float *probs, const act *q, const act *k, const Attn *a, size_t b) {
    size_t T = a->T, S = a->S, H = (size_t)a->H, K = (size_t)a->K, D = (size_t)a->D, group = H / K;
#pragma omp parallel for collapse(2) schedule(dynamic)
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

#ifdef __CUDACC__
/* ================================================ CUDA =========================================================== *
 * No kernel adds with atomics: whoever owns an output sums it, in one order, so two runs agree to the bit. */
extern __shared__ uint4 dynamic_shared[];
static constexpr int ATTN_WARPS = 4, ATTN_THREADS = 32 * ATTN_WARPS;
__device__ static inline float exp2_fast(float x) {           /* one instruction, 2 ulp; 0 for a masked score */
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* Row r = t*group + g of a kv head, as in the CPU half. */
struct RowPlace { size_t t, at, stat; };                      /* at: offset in q, out, dq, dout; stat: in lse, delta */
__device__ static inline RowPlace row_place(const Attn &a, size_t b, size_t kh, size_t r) {
    unsigned group = (unsigned)(a.H / a.K), t = (unsigned)r / group, g = (unsigned)r % group;
    size_t h = kh * group + g;
    return {t, ((b * a.T + t) * a.H + h) * a.D, (b * a.H + h) * a.T + t};
}
template <typename Cell>
__device__ static inline const Cell *slot_row(const Cell *x, const Attn &a, size_t b, size_t kh, size_t s) {
    return x + ((b * a.S + s) * a.K + kh) * a.D;
}
/* What an int8 row's numbers are multiplied by. */
__device__ static inline float slot_scale(const float *scale, const Attn &a, size_t b, size_t kh, size_t s) {
    return scale ? scale[(b * a.S + s) * a.K + kh] : 1.0f;
}
__device__ static inline float to_f(int8_t x) { return (float)x; }
__device__ static inline void zero_all(float *x, int n) {
#pragma unroll
    for (int i = 0; i < n; i++) x[i] = 0;
}

/* ---- one warp for one row --------------------------------------------------------------------------------------- *
 * [attn.warp] The kernels to read first, for any D up to 256 and both types. Thirty-two slots at a time: lane i
 * computes the score of slot i, the softmax's maximum and sum are two warp reductions, then all lanes together add the
 * 32 weighted values, each lane its N numbers of D. W numbers are loaded at once, 16 bytes where D allows. */
template <int W> __device__ static inline float dot_row(const float *x, const act *y, int D) {
    float sum = 0;
    for (int d = 0; d < D; d += W) {
        Pack<act, W> pack = load<W>(y + d);
#pragma unroll
        for (int i = 0; i < W; i++) sum += x[d + i] * to_f(pack.v[i]);
    }
    return sum;
}
template <int N> __device__ static inline void add_row(float (&sum)[N], float weight, const act *x, int lane, int D) {
#pragma unroll
    for (int n = 0; n < N; n++)
        if (lane + 32 * n < D) sum[n] += weight * to_f(x[lane + 32 * n]);
}
template <int N, int W>
__global__ static void __launch_bounds__(ATTN_THREADS) attention_rows(act *out, float *lse, const act *q, const act *k,
                                                                     const act *v, const Attn a) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    size_t t = (size_t)blockIdx.x * ATTN_WARPS + warp, h = blockIdx.y, b = blockIdx.z, kh = h / (a.H / a.K), lo, hi;
    if (t >= a.T) return;
    float *q_row = (float *)dynamic_shared + warp * a.D, sum_v[N], max = MAX_START, sum = 0;
    size_t at = ((b * a.T + t) * a.H + h) * a.D;
    for (int d = lane; d < a.D; d += 32) q_row[d] = to_f(q[at + d]) * a.scale;
    __syncwarp();
    zero_all(sum_v, N);
    attn_range(&a, b, t, &lo, &hi);
    for (size_t s0 = lo; s0 < hi; s0 += 32) {
        int n = (int)MIN(hi - s0, (size_t)32);
        float score = lane < n ? dot_row<W>(q_row, slot_row(k, a, b, kh, s0 + lane), a.D) : MASKED;
        float new_max = fmaxf(max, warp_max(score)), shrink = __expf(max - new_max), p = __expf(score - new_max);
        sum = sum * shrink + warp_sum(p);
        max = new_max;
#pragma unroll
        for (int i = 0; i < N; i++) sum_v[i] *= shrink;
        for (int i = 0; i < n; i++) add_row<N>(sum_v, __shfl_sync(~0u, p, i), slot_row(v, a, b, kh, s0 + i), lane, a.D);
    }
    bool seen = lo < hi;
    for (int n = 0; n < N; n++)
        if (lane + 32 * n < a.D) out[at + lane + 32 * n] = from_f<act>(seen ? sum_v[n] / sum : 0.0f);
    if (lse && !lane) lse[(b * a.H + h) * a.T + t] = seen ? max + logf(sum) : -INFINITY;
}
/* delta (B,H,T) = dout . out, a warp for a row. */
__global__ static void attention_delta(float *delta, const act *dout, const act *out, const Attn a) {
    size_t row = (size_t)blockIdx.x * ATTN_WARPS + (threadIdx.x >> 5);                     /* (b*T + t)*H + h */
    int lane = threadIdx.x & 31;
    if (row >= a.B * a.T * a.H) return;
    float sum = 0;
    for (int d = lane; d < a.D; d += 32) sum += to_f(dout[row * a.D + d]) * to_f(out[row * a.D + d]);
    sum = warp_sum(sum);
    size_t h = row % a.H, bt = row / a.H;
    if (!lane) delta[(bt / a.T * a.H + h) * a.T + bt % a.T] = sum;
}
template <int N, int W>
__global__ static void __launch_bounds__(ATTN_THREADS) attention_rows_dq(act *dq, const act *dout, const float *lse,
                                                                        const float *delta, const act *q, const act *k,
                                                                        const act *v, const Attn a) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    size_t t = (size_t)blockIdx.x * ATTN_WARPS + warp, h = blockIdx.y, b = blockIdx.z, kh = h / (a.H / a.K), lo, hi;
    if (t >= a.T) return;
    float *q_row = (float *)dynamic_shared + warp * 2 * a.D, *dout_row = q_row + a.D, sum_dq[N];
    size_t at = ((b * a.T + t) * a.H + h) * a.D, stat = (b * a.H + h) * a.T + t;
    for (int d = lane; d < a.D; d += 32) q_row[d] = to_f(q[at + d]) * a.scale, dout_row[d] = to_f(dout[at + d]);
    __syncwarp();
    zero_all(sum_dq, N);
    attn_range(&a, b, t, &lo, &hi);
    for (size_t s0 = lo; s0 < hi; s0 += 32) {
        int n = (int)MIN(hi - s0, (size_t)32);
        float ds = 0;
        if (lane < n) {
            float p = __expf(dot_row<W>(q_row, slot_row(k, a, b, kh, s0 + lane), a.D) - lse[stat]);
            ds = p * (dot_row<W>(dout_row, slot_row(v, a, b, kh, s0 + lane), a.D) - delta[stat]) * a.scale;
        }
        for (int i = 0; i < n; i++)
            add_row<N>(sum_dq, __shfl_sync(~0u, ds, i), slot_row(k, a, b, kh, s0 + i), lane, a.D);
    }
    for (int n = 0; n < N; n++)
        if (lane + 32 * n < a.D) dq[at + lane + 32 * n] = from_f<act>(sum_dq[n]);
}
/* A warp owns slot s of kv head kh and goes through the rows that may see it, 32 at a time. */
template <int N, int W>
__global__ static void __launch_bounds__(ATTN_THREADS)
    attention_rows_dkv(act *dk, act *dv, const act *dout, const float *lse, const float *delta, const act *q,
                       const act *k, const act *v, const Attn a) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    size_t s = (size_t)blockIdx.x * ATTN_WARPS + warp, kh = blockIdx.y, b = blockIdx.z, group = a.H / a.K,
           rows = a.T * group;
    if (s >= a.S) return;
    float *k_row = (float *)dynamic_shared + warp * 2 * a.D, *v_row = k_row + a.D, sum_dk[N], sum_dv[N];
    size_t bs = ((b * a.S + s) * a.K + kh) * a.D;
    for (int d = lane; d < a.D; d += 32) k_row[d] = to_f(k[bs + d]) * a.scale, v_row[d] = to_f(v[bs + d]);
    __syncwarp();
    zero_all(sum_dk, N), zero_all(sum_dv, N);
    for (size_t r0 = a.causal && !a.prefix ? s * group : 0; r0 < rows; r0 += 32) {
        float p = 0, ds = 0;
        bool sees = false;
        if (r0 + lane < rows) {
            RowPlace row = row_place(a, b, kh, r0 + lane);
            size_t lo, hi;
            attn_range(&a, b, row.t, &lo, &hi);
            sees = s >= lo && s < hi;
            if (sees) {
                p = __expf(dot_row<W>(k_row, q + row.at, a.D) - lse[row.stat]);
                ds = p * (dot_row<W>(v_row, dout + row.at, a.D) - delta[row.stat]) * a.scale;
            }
        }
        for (unsigned left = __ballot_sync(~0u, sees); left; left &= left - 1) {
            int i = __ffs((int)left) - 1;
            size_t at = row_place(a, b, kh, r0 + i).at;
            add_row<N>(sum_dv, __shfl_sync(~0u, p, i), dout + at, lane, a.D);
            add_row<N>(sum_dk, __shfl_sync(~0u, ds, i), q + at, lane, a.D);
        }
    }
    for (int n = 0; n < N; n++)
        if (lane + 32 * n < a.D) {
            dk[bs + lane + 32 * n] = from_f<act>(sum_dk[n]);
            dv[bs + lane + 32 * n] = from_f<act>(sum_dv[n]);
        }
}
__global__ static void attention_probs_rows(float *probs, const act *q, const act *k, const Attn a, size_t b) {
    size_t t = blockIdx.x, h = blockIdx.y, kh = h / (a.H / a.K), lo, hi;
    float *probs_ht = probs + (h * a.T + t) * a.S, *q_row = (float *)dynamic_shared, max = MAX_START, sum = 0;
    for (int d = threadIdx.x; d < a.D; d += blockDim.x)
        q_row[d] = to_f(q[((b * a.T + t) * a.H + h) * a.D + d]) * a.scale;
    __syncthreads();
    attn_range(&a, b, t, &lo, &hi);
    for (size_t s = threadIdx.x; s < a.S; s += blockDim.x) {
        bool seen = s >= lo && s < hi;
        probs_ht[s] = seen ? dot_row<1>(q_row, slot_row(k, a, b, kh, s), a.D) : 0.0f;
        if (seen) max = fmaxf(max, probs_ht[s]);
    }
    max = block_max(max);
    for (size_t s = lo + threadIdx.x; s < a.S; s += blockDim.x) {
        if (s < hi) sum += __expf(probs_ht[s] - max);
    }
    sum = block_sum(sum);
    for (size_t s = threadIdx.x; s < a.S; s += blockDim.x)
        if (s >= lo && s < hi) probs_ht[s] = __expf(probs_ht[s] - max) / sum;
}

/* ---- decoding --------------------------------------------------------------------------------------------------- *
 * [attn.split] One query has no rows to share among blocks, so the slots are shared out: a block takes `part` slots of
 * one kv head for all R rows that read it, in three steps (scores, softmax, values), and leaves its maximum, sum and
 * weighted sum; attention_join adds the parts up in order (flash decoding, Dao et al. 2023). K and V are read once, 16
 * bytes a lane (of int8 4 or 8): `team` lanes, a power of two, hold one slot's row. The grid covers all S slots,
 * because how many are filled stands in device memory (and a captured graph must not change); a block behind the last
 * one ends at once. */
static constexpr int SPLIT_ROWS = 8, SPLIT_MAX = 256;
template <int R, typename Cell>
__global__ static void __launch_bounds__(ATTN_THREADS)
    attention_split(float *parts, const act *q, const Cell *k, const Cell *v, const Attn a, int part, int team) {
    constexpr int W = ACT_W;
    __shared__ float weights[R][SPLIT_MAX], partial[ATTN_WARPS][R][32 * W / 2];
    __shared__ size_t row_lo[R], row_hi[R];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, in_team = threadIdx.x % team, n_teams = ATTN_THREADS / team;
    int d = in_team * W, rows = (int)(a.T * (a.H / a.K));
    size_t kh = blockIdx.y, b = blockIdx.z, s_from = (size_t)blockIdx.x * part, lo = SIZE_MAX, hi = 0;
    float q_mine[R][W];
#pragma unroll
    for (int r = 0; r < R; r++) {
        zero_all(q_mine[r], W);
        if (r >= rows) continue;
        RowPlace row = row_place(a, b, kh, r);
        size_t first, last;
        attn_range(&a, b, row.t, &first, &last);
        if (first < last) lo = MIN(lo, first), hi = MAX(hi, last);
        if (threadIdx.x == 0) row_lo[r] = first, row_hi[r] = last;
        if (d < a.D) {
            Pack<act, W> pack = load<W>(q + row.at + d);
#pragma unroll
            for (int i = 0; i < W; i++) q_mine[r][i] = to_f(pack.v[i]) * a.scale;
        }
    }
    lo = MAX(lo, s_from), hi = MIN(hi, s_from + part);
    float *mine = parts + ((b * a.K + kh) * gridDim.x + blockIdx.x) * (size_t)(rows * (a.D + 2));
    if (lo >= hi) {
        if (threadIdx.x < rows) mine[threadIdx.x] = MAX_START, mine[rows + threadIdx.x] = 0;
        return;
    }
    __syncthreads();
    int n = (int)(hi - lo), n_all = CEIL_DIV(n, n_teams) * n_teams;           /* shuffles need whole teams */
#pragma unroll 2
    for (int i = threadIdx.x / team; i < n_all; i += n_teams) {               /* step 1: scores */
        float dot[R];
        zero_all(dot, R);
        if (i < n && d < a.D) {
            Pack<Cell, W> pack = load<W>(slot_row(k, a, b, kh, lo + i) + d);
            float factor = slot_scale(a.k_scale, a, b, kh, lo + i);
#pragma unroll
            for (int r = 0; r < R; r++) {
#pragma unroll
                for (int j = 0; j < W; j++) dot[r] += q_mine[r][j] * to_f(pack.v[j]);
                dot[r] *= factor;
            }
        }
        for (int o = team / 2; o; o >>= 1)
#pragma unroll
            for (int r = 0; r < R; r++) dot[r] += __shfl_xor_sync(~0u, dot[r], o);
#pragma unroll
        for (int r = 0; r < R; r++)
            if (in_team == 0 && i < n && r < rows)
                weights[r][i] = lo + i >= row_lo[r] && lo + i < row_hi[r] ? dot[r] : MASKED;
    }
    __syncthreads();
    for (int r = warp; r < rows; r += ATTN_WARPS) {                           /* step 2: softmax, a warp for a row */
        float max = MAX_START, sum = 0;
        for (int i = lane; i < n; i += 32) max = fmaxf(max, weights[r][i]);
        max = warp_max(max);
        for (int i = lane; i < n; i += 32) sum += weights[r][i] = __expf(weights[r][i] - max);
        sum = warp_sum(sum);
        if (!lane) mine[r] = max, mine[rows + r] = sum;
    }
    __syncthreads();
    float sum_v[R][W];                                                        /* step 3: values */
#pragma unroll
    for (int r = 0; r < R; r++) zero_all(sum_v[r], W);
#pragma unroll 2
    for (int i = threadIdx.x / team; i < n; i += n_teams) {
        if (d >= a.D) continue;
        Pack<Cell, W> pack = load<W>(slot_row(v, a, b, kh, lo + i) + d);
        float factor = slot_scale(a.v_scale, a, b, kh, lo + i);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float p = r < rows ? weights[r][i] * factor : 0.0f;
#pragma unroll
            for (int j = 0; j < W; j++) sum_v[r][j] += p * to_f(pack.v[j]);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int j = 0; j < W; j++) {
            for (int o = team; o < 32; o <<= 1) sum_v[r][j] += __shfl_xor_sync(~0u, sum_v[r][j], o);
            if (lane < team && d < a.D) partial[warp][r][d + j] = sum_v[r][j];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * a.D; i += ATTN_THREADS) {
        float sum = 0;
        for (int w = 0; w < ATTN_WARPS; w++) sum += partial[w][i / a.D][i % a.D];
        mine[2 * rows + i] = sum;
    }
}
/* A warp for a row: the parts' sums, each shrunk to the common maximum. */
__global__ static void attention_join(act *out, float *lse, const float *parts, const Attn a, int n_parts) {
    int lane = threadIdx.x & 31, rows = (int)(a.T * (a.H / a.K)), r = blockIdx.x * ATTN_WARPS + (threadIdx.x >> 5);
    size_t kh = blockIdx.y, b = blockIdx.z, floats = (size_t)rows * (a.D + 2);
    if (r >= rows) return;
    const float *mine = parts + (b * a.K + kh) * n_parts * floats;
    float max = MAX_START, sum = 0;
    for (int p = lane; p < n_parts; p += 32) max = fmaxf(max, mine[p * floats + r]);
    max = warp_max(max);
    for (int p = lane; p < n_parts; p += 32) sum += mine[p * floats + rows + r] * __expf(mine[p * floats + r] - max);
    sum = warp_sum(sum);
    RowPlace row = row_place(a, b, kh, r);
    bool seen = sum > 0;
    for (int d = lane; d < a.D; d += 32) {
        float y = 0;
        for (int p = 0; p < n_parts; p++)
            if (mine[p * floats + rows + r] > 0)              /* an empty part has written no values */
                y += mine[p * floats + 2 * rows + r * a.D + d] * __expf(mine[p * floats + r] - max);
        out[row.at + d] = from_f<act>(seen ? y / sum : 0.0f);
    }
    if (lse && !lane) lse[row.stat] = seen ? max + logf(sum) : -INFINITY;
}

#ifdef ACT_BF16
/* ---- tensor cores ----------------------------------------------------------------------------------------------- *
 * mma.sync m16n8k16: a warp multiplies A (16,16) by B (16,8) into C (16,8) f32. A lane,
 * with g = lane/4 and c = 2*(lane%4), holds
 *     A: rows g, g+8; columns c, c+1, c+8, c+9    B: rows c, c+1, c+8, c+9; column g    C: rows g, g+8; columns c, c+1
 * so that the C of one product, rounded, is the A of the next: scores become weights without leaving the registers.
 * ldmatrix loads four 8 x 8 matrices from shared memory into that layout, as stored or transposed. A tile's rows are D
 * + 8 numbers apart: an odd number of 16-byte chunks, so that eight rows lie in eight different groups of banks. */
typedef __nv_bfloat16 half_t;
/* PTX, wrapped */
__device__ static inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ static inline void ldmatrix(uint32_t (&r)[4], const half_t *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p))
                 : "memory");
}
__device__ static inline void ldmatrix_trans(uint32_t (&r)[4], const half_t *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p))
                 : "memory");
}
/* 16 bytes from global to shared memory behind the threads' backs; zeros when not wanted. */
__device__ static inline void copy_async(half_t *to, const half_t *from, bool wanted) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
__device__ static inline void copies_done(void) { asm volatile("cp.async.wait_all;" ::: "memory"); }
/* end of PTX */
__device__ static inline uint32_t pair_of(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}
/* The lane's address for ldmatrix of a 16 x 16 piece at p. For A, and with trans for a B stored (k,n): */
template <int LD> __device__ static inline const half_t *piece_a(const half_t *p, int lane) {
    return p + (lane % 16) * LD + lane / 16 * 8;
}
/* For a B stored (n,k): */
template <int LD> __device__ static inline const half_t *piece_b(const half_t *p, int lane) {
    return p + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
}
/* C (16*M, 8*N) += A (16*M, K) @ B (N*8, K)^T, both tiles in shared memory. */
template <int M, int N, int K, int LD>
__device__ static inline void mma_nt(float (&c)[M][N][4], const half_t *a_tile, const half_t *b_tile, int lane) {
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix(a[m], piece_a<LD>(a_tile + m * 16 * LD + k, lane));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            ldmatrix(b, piece_b<LD>(b_tile + n * 8 * LD + k, lane));
#pragma unroll
            for (int m = 0; m < M; m++) mma(c[m][n], a[m], b[0], b[1]), mma(c[m][n + 1], a[m], b[2], b[3]);
        }
    }
}
/* C (16*M, 8*N) += A (16*M, 8*K) @ B (8*K, 8*N): A is another product's C, rounded; B a tile in shared memory. */
template <int M, int N, int K, int LD>
__device__ static inline void mma_nn(float (&c)[M][N][4], const float (&a_sums)[M][K][4], const half_t *b_tile,
                                     int lane) {
#pragma unroll
    for (int k = 0; k < K; k += 2) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            a[m][0] = pair_of(a_sums[m][k][0], a_sums[m][k][1]), a[m][1] = pair_of(a_sums[m][k][2], a_sums[m][k][3]);
            a[m][2] = pair_of(a_sums[m][k + 1][0], a_sums[m][k + 1][1]);
            a[m][3] = pair_of(a_sums[m][k + 1][2], a_sums[m][k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            ldmatrix_trans(b, piece_a<LD>(b_tile + k * 8 * LD + n * 8, lane));
#pragma unroll
            for (int m = 0; m < M; m++) mma(c[m][n], a[m], b[0], b[1]), mma(c[m][n + 1], a[m], b[2], b[3]);
        }
    }
}
template <int M, int N> __device__ static inline void zero_sums(float (&c)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
}
/* Tiles: n slots from s0 (zeros from hi on); rows from r0 of q, dout or out. */
template <int ROWS, int D>
__device__ static inline void load_slots(half_t *tile, const half_t *x, const Attn &a, size_t b, size_t kh, size_t s0,
                                         size_t hi) {
    for (int i = threadIdx.x; i < ROWS * (D / 8); i += ATTN_THREADS) {
        int row = i / (D / 8), chunk = i % (D / 8);
        bool wanted = s0 + row < hi;
        copy_async(tile + row * (D + 8) + chunk * 8, slot_row(x, a, b, kh, wanted ? s0 + row : s0) + chunk * 8, wanted);
    }
}
template <int ROWS, int D>
__device__ static inline void load_rows(half_t *tile, const half_t *x, const Attn &a, size_t b, size_t kh, size_t r0,
                                        size_t rows) {
    for (int i = threadIdx.x; i < ROWS * (D / 8); i += ATTN_THREADS) {
        int row = i / (D / 8), chunk = i % (D / 8);
        bool wanted = r0 + row < rows;
        copy_async(tile + row * (D + 8) + chunk * 8, x + row_place(a, b, kh, wanted ? r0 + row : r0).at + chunk * 8,
                   wanted);
    }
}
/* Sums (16*M, D) of a warp, each row times its factor, to rows of global memory by way of the warp's own rows of a
 * tile. */
template <int M, int D>
__device__ static inline void sums_to_tile(half_t *tile, const float (&c)[M][D / 8][4], const float (&factor)[M][2],
                                           int lane) {
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *(uint32_t *)(tile + (m * 16 + lane / 4 + half * 8) * (D + 8) + n * 8 + 2 * (lane % 4)) =
                    pair_of(c[m][n][2 * half] * factor[m][half], c[m][n][2 * half + 1] * factor[m][half]);
    __syncwarp();
}
template <int M, int D>
__device__ static inline void tile_to_rows(half_t *x, const half_t *tile, const Attn &a, size_t b, size_t kh, size_t r0,
                                           size_t rows, int lane) {
    for (int i = lane; i < M * 16 * (D / 8); i += 32) {
        size_t row = i / (D / 8), chunk = i % (D / 8);
        if (r0 + row < rows)
            *(uint4 *)(x + row_place(a, b, kh, r0 + row).at + chunk * 8) =
                *(const uint4 *)(tile + row * (D + 8) + chunk * 8);
    }
}

/* [attn.mma] Forward (Dao 2023, "FlashAttention-2"). A block of four warps owns ROWS rows of a kv head; a warp owns
 * 16*M of them, and with M = 2 each piece of K and V read from shared memory feeds four mma instead of two, which is
 * what keeps the tensor cores from waiting for shared memory. While S = Q K^T is computed V arrives, while P V is
 * computed the next K. */
template <int D> struct Forward {
    static constexpr int M = D <= 128 ? 2 : 1, SLOTS = D <= 128 ? 64 : 32, ROWS = ATTN_WARPS * 16 * M, LD = D + 8;
    static constexpr size_t BYTES = (ROWS + 2 * SLOTS) * LD * sizeof(half_t);
};
template <int D>
__global__ static void __launch_bounds__(ATTN_THREADS)
    attention_mma(half_t *out, float *lse, const half_t *q, const half_t *k, const half_t *v, const Attn a) {
    using F = Forward<D>;
    constexpr int M = F::M, N = F::SLOTS / 8, LD = F::LD;
    __shared__ int row_lo[F::ROWS], row_hi[F::ROWS], any_lo, any_hi, all_lo, all_hi;
    half_t *q_tile = (half_t *)dynamic_shared, *k_tile = q_tile + F::ROWS * LD, *v_tile = k_tile + F::SLOTS * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_row = warp * 16 * M;
    size_t kh = blockIdx.y, b = blockIdx.z, rows = a.T * (a.H / a.K),
           r0 = (size_t)(gridDim.x - 1 - blockIdx.x) * F::ROWS;
    half_t *q_warp = q_tile + first_row * LD;                 /* late rows see most: they start first */

    if (threadIdx.x == 0) any_lo = INT32_MAX, any_hi = 0, all_lo = 0, all_hi = INT32_MAX;
    load_rows<F::ROWS, D>(q_tile, q, a, b, kh, r0, rows);
    __syncthreads();
    if (threadIdx.x < F::ROWS) {                              /* rows behind the last repeat its range */
        size_t lo, hi;
        attn_range(&a, b, row_place(a, b, kh, MIN(r0 + threadIdx.x, rows - 1)).t, &lo, &hi);
        if (lo >= hi) lo = hi = 0;
        else atomicMin(&any_lo, (int)lo), atomicMax(&any_hi, (int)hi);        /* of integers: any order, one result */
        atomicMax(&all_lo, (int)lo), atomicMin(&all_hi, (int)hi);
        row_lo[threadIdx.x] = (int)lo, row_hi[threadIdx.x] = (int)hi;
    }
    __syncthreads();
    int lo = any_lo, hi = any_hi;
    if (lo < hi) load_slots<F::SLOTS, D>(k_tile, k, a, b, kh, lo, hi);
    float o[M][D / 8][4], max[M][2], sum[M][2], to_log2 = a.scale * LOG2E;
    zero_sums(o);
#pragma unroll
    for (int m = 0; m < M; m++) max[m][0] = max[m][1] = MAX_START, sum[m][0] = sum[m][1] = 0;
    for (int s0 = lo; s0 < hi; s0 += F::SLOTS) {
        copies_done();
        __syncthreads();                                      /* K is here, and nobody reads the old V any more */
        load_slots<F::SLOTS, D>(v_tile, v, a, b, kh, s0, hi);
        float s[M][N][4];
        zero_sums(s);
        mma_nt<M, N, D, LD>(s, q_warp, k_tile, lane);
        copies_done();
        __syncthreads();                                      /* V is here, and nobody reads this K any more */
        if (s0 + F::SLOTS < hi) load_slots<F::SLOTS, D>(k_tile, k, a, b, kh, s0 + F::SLOTS, hi);
        if (s0 < all_lo || s0 + F::SLOTS > all_hi)
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int row = first_row + m * 16 + half * 8 + lane / 4, from = row_lo[row], to = row_hi[row];
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            int slot = s0 + n * 8 + 2 * (lane % 4) + j;
                            if (slot < from || slot >= to) s[m][n][2 * half + j] = MASKED;
                        }
                }
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {            /* a row's scores lie in the four lanes of a quad */
                float new_max = max[m][half];
#pragma unroll
                for (int n = 0; n < N; n++) new_max = fmaxf(new_max, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                new_max = fmaxf(new_max, __shfl_xor_sync(~0u, new_max, 1));
                new_max = fmaxf(new_max, __shfl_xor_sync(~0u, new_max, 2));
                float shrink = exp2_fast((max[m][half] - new_max) * to_log2), bias = new_max * to_log2, add = 0;
                max[m][half] = new_max;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        add += s[m][n][2 * half + j] = exp2_fast(s[m][n][2 * half + j] * to_log2 - bias);
                sum[m][half] = sum[m][half] * shrink + add;   /* of this lane's columns; the quad adds up at the end */
#pragma unroll
                for (int n = 0; n < D / 8; n++) o[m][n][2 * half] *= shrink, o[m][n][2 * half + 1] *= shrink;
            }
        mma_nn<M, D / 8, N, LD>(o, s, v_tile, lane);
    }
    copies_done();
    __syncthreads();                                          /* Q was loaded even where nothing is seen */
    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = sum[m][half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            int row = first_row + m * 16 + half * 8 + lane / 4;
            bool seen = row_lo[row] < row_hi[row];
            factor[m][half] = seen ? 1.0f / total : 0.0f;
            if (lse && lane % 4 == 0 && r0 + row < rows)
                lse[row_place(a, b, kh, r0 + row).stat] = seen ? max[m][half] * a.scale + logf(total) : -INFINITY;
        }
    sums_to_tile<M, D>(q_warp, o, factor, lane);
    tile_to_rows<M, D>(out, q_warp, a, b, kh, r0 + first_row, rows, lane);
}

/* [attn.mma_bwd] Backward in two kernels, so that no sum needs atomics: one owns slots and goes through the rows (dk,
 * dv), one owns rows and goes through the slots (dq). S and dP are computed in both: seven products for five, the price
 * of results that repeat to the bit. In the first everything is transposed (S^T = K Q^T), for then P^T and dS^T are, in
 * registers, the A of dV += P^T dO and dK += dS^T Q. The tiles that change are loaded one step ahead into the other of
 * two stages. */
template <int D> struct Backward {
    static constexpr int M = D <= 64 ? 2 : 1, OWN = ATTN_WARPS * 16 * M, PASS = D <= 64 ? 32 : 64, LD = D + 8;
    static constexpr size_t BYTES = (2 * OWN + 4 * PASS) * LD * sizeof(half_t);
};
template <int D>
__global__ static void __launch_bounds__(ATTN_THREADS)
    attention_mma_dkv(half_t *dk, half_t *dv, const half_t *dout, const float *lse, const float *delta, const half_t *q,
                      const half_t *k, const half_t *v, const Attn a) {
    using F = Backward<D>;
    constexpr int M = F::M, N = F::PASS / 8, LD = F::LD;
    __shared__ int row_lo[2][F::PASS], row_hi[2][F::PASS];
    __shared__ float row_lse[2][F::PASS], row_delta[2][F::PASS];
    half_t *k_tile = (half_t *)dynamic_shared, *v_tile = k_tile + F::OWN * LD, *stages = v_tile + F::OWN * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_slot = warp * 16 * M;
    size_t kh = blockIdx.y, b = blockIdx.z, group = a.H / a.K, rows = a.T * group;
    int s_from = blockIdx.x * F::OWN, s_to = (int)MIN((size_t)s_from + F::OWN, a.S);
    float to_log2 = a.scale * LOG2E, dk_sum[M][D / 8][4], dv_sum[M][D / 8][4];
    zero_sums(dk_sum), zero_sums(dv_sum);
    load_slots<F::OWN, D>(k_tile, k, a, b, kh, s_from, s_to);
    load_slots<F::OWN, D>(v_tile, v, a, b, kh, s_from, s_to);

    size_t r_first = a.causal && !a.prefix ? MIN((size_t)s_from * group, rows) : 0, r_end = rows;   /* slot = t here */
    if (a.causal && a.window > 0) r_end = MIN(rows, ((size_t)s_to + a.window) * group);
    bool overlaps = false, whole = false;                     /* of this thread's row of the stage loaded last */
    auto load_stage = [&](size_t r0, int stage) {
        half_t *q_tile = stages + stage * 2 * F::PASS * LD;
        load_rows<F::PASS, D>(q_tile, q, a, b, kh, r0, rows);
        load_rows<F::PASS, D>(q_tile + F::PASS * LD, dout, a, b, kh, r0, rows);
        overlaps = false, whole = true;
        int i = threadIdx.x;
        if (i >= F::PASS) return;
        size_t lo = 0, hi = 0;
        float lse_r = -MASKED, delta_r = 0;                   /* a row that sees nothing: weights exp(-1e30) */
        if (r0 + i < rows) {
            RowPlace row = row_place(a, b, kh, r0 + i);
            attn_range(&a, b, row.t, &lo, &hi);
            if (lo < hi) lse_r = lse[row.stat] * LOG2E, delta_r = delta[row.stat];
            else lo = hi = 0;
        }
        row_lo[stage][i] = (int)lo, row_hi[stage][i] = (int)hi, row_lse[stage][i] = lse_r,
        row_delta[stage][i] = delta_r;
        overlaps = (int)lo < s_to && (int)hi > s_from;
        whole = (int)lo <= s_from && (int)hi >= s_from + F::OWN;
    };
    if (r_first < r_end) load_stage(r_first, 0);
    int stage = 0;
    for (size_t r0 = r_first; r0 < r_end; r0 += F::PASS, stage ^= 1) {
        copies_done();
        bool any = __syncthreads_or(overlaps), all = __syncthreads_and(whole);
        if (r0 + F::PASS < r_end) load_stage(r0 + F::PASS, stage ^ 1);
        if (!any) continue;
        half_t *q_tile = stages + stage * 2 * F::PASS * LD, *dout_tile = q_tile + F::PASS * LD;
        float p[M][N][4], ds[M][N][4];
        zero_sums(p), zero_sums(ds);
        mma_nt<M, N, D, LD>(p, k_tile + first_slot * LD, q_tile, lane);
        mma_nt<M, N, D, LD>(ds, v_tile + first_slot * LD, dout_tile, lane);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int row = n * 8 + 2 * (lane % 4) + j;
                float lse_r = row_lse[stage][row], delta_r = row_delta[stage][row];
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        int slot = s_from + first_slot + m * 16 + half * 8 + lane / 4, i = 2 * half + j;
                        float weight = exp2_fast(p[m][n][i] * to_log2 - lse_r);
                        bool seen = all || (slot >= row_lo[stage][row] && slot < row_hi[stage][row]);
                        p[m][n][i] = seen ? weight : 0.0f;    /* not weight * 0: an unseen slot's k may be NaN */
                        ds[m][n][i] = seen ? weight * (ds[m][n][i] - delta_r) : 0.0f;
                    }
            }
        mma_nn<M, D / 8, N, LD>(dv_sum, p, dout_tile, lane);
        mma_nn<M, D / 8, N, LD>(dk_sum, ds, q_tile, lane);
    }
    copies_done();
    __syncthreads(); /* K and V are read no more: their tiles take the results */
    float scale[M][2], one[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) scale[m][0] = scale[m][1] = a.scale, one[m][0] = one[m][1] = 1;
    sums_to_tile<M, D>(k_tile + first_slot * LD, dk_sum, scale, lane);
    sums_to_tile<M, D>(v_tile + first_slot * LD, dv_sum, one, lane);
    for (int i = lane; i < M * 16 * (D / 8); i += 32) {
        int slot = first_slot + i / (D / 8), chunk = i % (D / 8);
        if (s_from + slot >= s_to) continue;
        size_t at = ((b * a.S + s_from + slot) * a.K + kh) * D + chunk * 8;
        *(uint4 *)(dk + at) = *(const uint4 *)(k_tile + slot * LD + chunk * 8);
        *(uint4 *)(dv + at) = *(const uint4 *)(v_tile + slot * LD + chunk * 8);
    }
}
template <int D>
__global__ static void __launch_bounds__(ATTN_THREADS)
    attention_mma_dq(half_t *dq, const half_t *dout, const float *lse, const float *delta, const half_t *q,
                     const half_t *k, const half_t *v, const Attn a) {
    using F = Backward<D>;
    constexpr int M = F::M, N = F::PASS / 8, LD = F::LD;
    __shared__ int row_lo[F::OWN], row_hi[F::OWN], any_lo, any_hi, all_lo, all_hi;
    half_t *q_tile = (half_t *)dynamic_shared, *dout_tile = q_tile + F::OWN * LD, *stages = dout_tile + F::OWN * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_row = warp * 16 * M;
    size_t kh = blockIdx.y, b = blockIdx.z, rows = a.T * (a.H / a.K),
           r0 = (size_t)(gridDim.x - 1 - blockIdx.x) * F::OWN;
    if (threadIdx.x == 0) any_lo = INT32_MAX, any_hi = 0, all_lo = 0, all_hi = INT32_MAX;
    load_rows<F::OWN, D>(q_tile, q, a, b, kh, r0, rows);
    load_rows<F::OWN, D>(dout_tile, dout, a, b, kh, r0, rows);
    __syncthreads();
    if (threadIdx.x < F::OWN) {
        size_t lo, hi;
        attn_range(&a, b, row_place(a, b, kh, MIN(r0 + threadIdx.x, rows - 1)).t, &lo, &hi);
        if (lo >= hi) lo = hi = 0;
        else atomicMin(&any_lo, (int)lo), atomicMax(&any_hi, (int)hi);
        atomicMax(&all_lo, (int)lo), atomicMin(&all_hi, (int)hi);
        row_lo[threadIdx.x] = (int)lo, row_hi[threadIdx.x] = (int)hi;
    }
    __syncthreads();
    int lo = any_lo, hi = any_hi, stage = 0;
    float to_log2 = a.scale * LOG2E, row_lse[M][2], row_delta[M][2], scale[M][2], dq_sum[M][D / 8][4];
    zero_sums(dq_sum);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first_row + m * 16 + half * 8 + lane / 4;
            RowPlace place = row_place(a, b, kh, MIN(r0 + row, rows - 1));
            bool seen = row_lo[row] < row_hi[row];
            row_lse[m][half] = seen ? lse[place.stat] * LOG2E : -MASKED,
            row_delta[m][half] = seen ? delta[place.stat] : 0.0f;
            scale[m][half] = a.scale;
        }
    auto load_stage = [&](int s0, int to) {
        half_t *k_tile = stages + to * 2 * F::PASS * LD;
        load_slots<F::PASS, D>(k_tile, k, a, b, kh, s0, hi);
        load_slots<F::PASS, D>(k_tile + F::PASS * LD, v, a, b, kh, s0, hi);
    };
    if (lo < hi) load_stage(lo, 0);
    for (int s0 = lo; s0 < hi; s0 += F::PASS, stage ^= 1) {
        copies_done();
        __syncthreads();
        if (s0 + F::PASS < hi) load_stage(s0 + F::PASS, stage ^ 1);
        half_t *k_tile = stages + stage * 2 * F::PASS * LD, *v_tile = k_tile + F::PASS * LD;
        float p[M][N][4], ds[M][N][4];
        zero_sums(p), zero_sums(ds);
        mma_nt<M, N, D, LD>(p, q_tile + first_row * LD, k_tile, lane);
        mma_nt<M, N, D, LD>(ds, dout_tile + first_row * LD, v_tile, lane);
        bool edge = s0 < all_lo || s0 + F::PASS > all_hi;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = first_row + m * 16 + half * 8 + lane / 4, from = edge ? row_lo[row] : 0,
                    to = edge ? row_hi[row] : INT32_MAX;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        int slot = s0 + n * 8 + 2 * (lane % 4) + j, i = 2 * half + j;
                        float weight = exp2_fast(p[m][n][i] * to_log2 - row_lse[m][half]);
                        ds[m][n][i] = slot >= from && slot < to ? weight * (ds[m][n][i] - row_delta[m][half]) : 0.0f;
                    }
            }
        mma_nn<M, D / 8, N, LD>(dq_sum, ds, k_tile, lane);
    }
    copies_done();
    __syncthreads();
    sums_to_tile<M, D>(q_tile + first_row * LD, dq_sum, scale, lane);
    tile_to_rows<M, D>(dq, q_tile + first_row * LD, a, b, kh, r0 + first_row, rows, lane);
}
/* More than 48 KB of shared memory must be asked for. */
template <typename Kernel> static void allow_shared(Kernel *kernel, size_t bytes) {
    CUDA_OK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}
template <int D>
static void forward_mma(act *out, float *lse, const act *q, const act *k, const act *v, const Attn *a) {
    using F = Forward<D>;
    dim3 grid((unsigned)CEIL_DIV(a->T * (a->H / a->K), (size_t)F::ROWS), a->K, (unsigned)a->B);
    allow_shared(attention_mma<D>, F::BYTES);
    attention_mma<D><<<grid, ATTN_THREADS, F::BYTES, stream>>>(out, lse, q, k, v, *a);
    LAUNCHED();
}
template <int D>
static void backward_mma(act *dq, act *dk, act *dv, const float *delta, const act *dout, const float *lse, const act *q,
                         const act *k, const act *v, const Attn *a) {
    using F = Backward<D>;
    dim3 slots((unsigned)CEIL_DIV(a->S, (size_t)F::OWN), a->K, (unsigned)a->B);
    dim3 rows((unsigned)CEIL_DIV(a->T * (a->H / a->K), (size_t)F::OWN), a->K, (unsigned)a->B);
    allow_shared(attention_mma_dkv<D>, F::BYTES);
    attention_mma_dkv<D><<<slots, ATTN_THREADS, F::BYTES, stream>>>(dk, dv, dout, lse, delta, q, k, v, *a);
    LAUNCHED();
    allow_shared(attention_mma_dq<D>, F::BYTES);
    attention_mma_dq<D><<<rows, ATTN_THREADS, F::BYTES, stream>>>(dq, dout, lse, delta, q, k, v, *a);
    LAUNCHED();
}
#endif

/* ---- which kernel ----------------------------------------------------------------------------------------------- */
/* CALL(N, W) for D: N numbers a lane, W loaded at once. */
#define BY_WIDTH(D, wide, CALL)                                                                                        \
    do {                                                                                                               \
        if ((D) > 256) die("attention: a head of %d numbers; the CUDA kernels hold up to 256", (int)(D));              \
        if ((wide) && (D) <= 64) CALL(2, ACT_W);                                                                       \
        else if ((wide) && (D) <= 128) CALL(4, ACT_W);                                                                 \
        else if (wide) CALL(8, ACT_W);                                                                                 \
        else if ((D) <= 64) CALL(2, 1);                                                                                \
        else CALL(8, 1);                                                                                               \
        LAUNCHED();                                                                                                    \
    } while (0)

/* A warp for a head of a token. */
__global__ static void cache_round(int8_t *y, float *scales, const act *x, const Attn a) {
    size_t i = (size_t)blockIdx.x * ATTN_WARPS + (threadIdx.x >> 5);                       /* (b*T + t)*K + kh */
    int lane = threadIdx.x & 31;
    if (i >= a.B * a.T * a.K) return;
    size_t b = i / a.K / a.T, t = i / a.K % a.T, slot = (a.pos ? a.pos[b] : 0) + t;
    size_t to = (b * a.S + slot) * a.K + i % a.K;
    float largest = 0, bad = 0;
    for (int d = lane; d < a.D; d += 32) {
        float v = fabsf(to_f(x[i * a.D + d]));
        if (!(v < INFINITY)) bad = 1;
        largest = fmaxf(largest, v);
    }
    largest = warp_max(largest), bad = warp_max(bad);
    float scale = bad > 0 ? NAN : largest / 127.5f, divisor = scale > 0x1p-120f ? scale : INFINITY;
    for (int d = lane; d < a.D; d += 32)
        y[to * a.D + d] =
            (int8_t)(bad > 0 ? 0.0f : rintf(fminf(fmaxf(to_f(x[i * a.D + d]) / divisor, -128.0f), 127.0f)));
    if (!lane) scales[to] = scale;
}
static void cache_i8(int8_t *y, float *scale, const act *x, const Attn *a) {
    size_t n = a->B * a->T * a->K;
    if (!n) return;
    cache_round<<<(unsigned)CEIL_DIV(n, (size_t)ATTN_WARPS), ATTN_THREADS, 0, stream>>>(y, scale, x, *a);
    LAUNCHED();
}
__global__ static void cache_widen(act *y, const int8_t *q, const float *scale, size_t n, int D) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_f<act>(to_f(q[i]) * scale[i / D]);
}

template <typename Cell>
static void split_rows(float *parts, const act *q, const void *k, const void *v, const Attn *a, dim3 grid, int part,
                       int team) {
    size_t rows = a->T * (a->H / a->K);
    const Cell *keys = (const Cell *)k, *values = (const Cell *)v;
    if (rows <= 1) attention_split<1><<<grid, ATTN_THREADS, 0, stream>>>(parts, q, keys, values, *a, part, team);
    else if (rows <= 4) attention_split<4><<<grid, ATTN_THREADS, 0, stream>>>(parts, q, keys, values, *a, part, team);
    else attention_split<8><<<grid, ATTN_THREADS, 0, stream>>>(parts, q, keys, values, *a, part, team);
    LAUNCHED();
}
static void attention(act *out, float *lse, const act *q, const void *keys, const void *values, const Attn *a) {
    size_t rows = a->T * (a->H / a->K);
    bool wide = a->D % ACT_W == 0 && aligned16(out, q) && (a->k_scale || aligned16(keys, values));
    if (!a->B || !rows) return;
    const act *k = (const act *)keys, *v = (const act *)values;
    Attn widened;
    if (a->k_scale && a->S && !(rows <= SPLIT_ROWS && wide && a->D / ACT_W <= 16)) {
        /* many rows: one layer's cache is widened for the kernels below */
        size_t n = a->B * a->S * a->K * a->D, n_padded = CEIL_DIV(n, (size_t)16) * 16;
        act *wider = (act *)scratch(SCRATCH_QUANT, 2 * n_padded * sizeof(act));
        unsigned blocks = (unsigned)CEIL_DIV(n, (size_t)256);
        cache_widen<<<blocks, 256, 0, stream>>>(wider, (const int8_t *)keys, a->k_scale, n, a->D);
        cache_widen<<<blocks, 256, 0, stream>>>(wider + n_padded, (const int8_t *)values, a->v_scale, n, a->D);
        LAUNCHED();
        k = wider, v = wider + n_padded;
        wide = a->D % ACT_W == 0 && aligned16(out, q);
        widened = *a, widened.k_scale = widened.v_scale = NULL;
        a = &widened;
    }
    if (rows <= SPLIT_ROWS && wide && a->D / ACT_W <= 16 && a->S) {
        int part = a->S <= 2048 ? 64 : SPLIT_MAX, n_parts = (int)CEIL_DIV(a->S, (size_t)part), team = 1;
        while (team * ACT_W < a->D) team *= 2;
        float *parts = (float *)scratch(SCRATCH_ATTN, a->B * a->K * n_parts * rows * (a->D + 2) * sizeof(float));
        dim3 grid(n_parts, a->K, (unsigned)a->B),
            join((unsigned)CEIL_DIV(rows, (size_t)ATTN_WARPS), a->K, (unsigned)a->B);
        if (a->k_scale) split_rows<int8_t>(parts, q, keys, values, a, grid, part, team);
        else split_rows<act>(parts, q, k, v, a, grid, part, team);
        attention_join<<<join, ATTN_THREADS, 0, stream>>>(out, lse, parts, *a, n_parts);
        LAUNCHED();
        return;
    }
#ifdef ACT_BF16
    if (wide) switch (a->D) {
        case 32: forward_mma<32>(out, lse, q, k, v, a); return;
        case 64: forward_mma<64>(out, lse, q, k, v, a); return;
        case 80: forward_mma<80>(out, lse, q, k, v, a); return;
        case 96: forward_mma<96>(out, lse, q, k, v, a); return;
        case 128: forward_mma<128>(out, lse, q, k, v, a); return;
        case 256: forward_mma<256>(out, lse, q, k, v, a); return;
        }
#endif
    dim3 grid((unsigned)CEIL_DIV(a->T, (size_t)ATTN_WARPS), a->H, (unsigned)a->B);
    size_t bytes = ATTN_WARPS * a->D * sizeof(float);
#define CALL(N, W) attention_rows<N, W><<<grid, ATTN_THREADS, bytes, stream>>>(out, lse, q, k, v, *a)
    BY_WIDTH(a->D, wide, CALL);
#undef CALL
}

static void attention_bwd(act *dq, act *dk, act *dv, float *delta, const act *dout, const act *out, const float *lse,
                          const act *q, const act *k, const act *v, const Attn *a) {
    size_t n_rows = a->B * a->T * a->H;
    bool wide = a->D % ACT_W == 0 && aligned16(dq, dk, dv, dout, q, k, v);
    if (!n_rows || !a->S) return;
    attention_delta<<<(unsigned)CEIL_DIV(n_rows, (size_t)ATTN_WARPS), ATTN_THREADS, 0, stream>>>(delta, dout, out, *a);
    LAUNCHED();
#ifdef ACT_BF16
    if (wide) switch (a->D) { /* 256: the sums of dk and dv alone would fill the registers */
        case 32: backward_mma<32>(dq, dk, dv, delta, dout, lse, q, k, v, a); return;
        case 64: backward_mma<64>(dq, dk, dv, delta, dout, lse, q, k, v, a); return;
        case 80: backward_mma<80>(dq, dk, dv, delta, dout, lse, q, k, v, a); return;
        case 96: backward_mma<96>(dq, dk, dv, delta, dout, lse, q, k, v, a); return;
        case 128: backward_mma<128>(dq, dk, dv, delta, dout, lse, q, k, v, a); return;
        }
#endif
    dim3 rows((unsigned)CEIL_DIV(a->T, (size_t)ATTN_WARPS), a->H, (unsigned)a->B);
    dim3 slots((unsigned)CEIL_DIV(a->S, (size_t)ATTN_WARPS), a->K, (unsigned)a->B);
    size_t bytes = ATTN_WARPS * 2 * a->D * sizeof(float);
#define CALL(N, W) attention_rows_dq<N, W><<<rows, ATTN_THREADS, bytes, stream>>>(dq, dout, lse, delta, q, k, v, *a)
    BY_WIDTH(a->D, wide, CALL);
#undef CALL
#define CALL(N, W)                                                                                                     \
    attention_rows_dkv<N, W><<<slots, ATTN_THREADS, bytes, stream>>>(dk, dv, dout, lse, delta, q, k, v, *a)
    BY_WIDTH(a->D, wide, CALL);
#undef CALL
}

static void attention_probs(float *probs, const act *q, const act *k, const Attn *a, size_t b) {
    dim3 grid((unsigned)a->T, a->H);
    attention_probs_rows<<<grid, ATTN_THREADS, a->D * sizeof(float), stream>>>(probs, q, k, *a, b);
    LAUNCHED();
}
#endif
