/* kernels/gemm_cpu.cuh - [gemm] the fast CPU path of the linear layers: one blocked matrix product for all three.
 *
 *     forward  y  (N,O) = x (N,C) @ w (O,C)^T       rows N, columns O, summed over C
 *     dx          (N,C) = dy (N,O) @ w (O,C)        rows N, columns C, summed over O
 *     dw          (O,C) = dy (N,O)^T @ x (N,C)      rows O, columns C, summed over N
 *
 * WHY PLAIN LOOPS ARE SLOW. A core does 16 to 64 multiply-adds per clock but loads only two or three vectors, and
 * memory gives it a fraction of one. So every loaded value has to be used many times, at each level (Goto and van de
 * Geijn 2008; Van Zee and van de Geijn 2015, "BLIS"):
 *   registers  a tile of MR x 3 vectors of the result stays in registers over the whole inner sum [gemm.tile]; each
 *              step loads 3 vectors of B and MR numbers of A for 3*MR multiply-adds
 *   L1         one panel of A, MR rows by one block of K: 12 KB, used for all columns of a chunk
 *   L2         one chunk of B, CHUNK columns by one block of K: 288 KB, used for all rows of a task; and those rows of
 *              A, up to 768 KB (what L2 cannot hold comes from L3 in time: one panel is used for 30,000 clocks)
 * Packing [gemm.pack] copies both operands in the order in which the tile reads them. It costs 2 to 5% and buys
 * adjacent loads, no TLB misses, and freedom: transposed operands, bf16 and f16 weights, rounding and tails are all
 * dealt with there, so there is one tile for all three products and no transposed copy of anything.
 *
 * UNITS. The tile works on "units" of 32 bits, adjacent along K: one float, or, where the CPU multiplies bf16 pairs
 * (AVX512-BF16, twice the speed), two bf16 of neighbouring k. Where it does not, PREC_BF16 rounds to bf16 while packing
 * and multiplies floats: the same products, the same meaning.
 *
 * ORDER OF THE SUM. Element (row, column) is summed over k in the order of K, in blocks whose borders depend on K
 * alone. Threads share out tiles, never K: any number of threads gives the same bits.
 *
 * This file knows one vector width (VL) per compilation and nothing about layers, gradients or lists: see
 * matmul.cuh. */
#pragma once

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define MR (VL == 8 ? 4 : 8)               /* 24 accumulators of 32 registers; 12 of 16 on AVX2 */
#define NV 3                               /* vectors in a row of the tile: MR*NV accumulators + NV + 1 registers */
#define BLOCK (MR > VL ? MR : VL)          /* rows of A are packed this many at a time */
#define KC (VL == 8 ? 256 : 384)           /* units in a block of K */
#define CHUNK 192                          /* columns of B packed at a time, at most */
#define CHUNK_GROUPS (CHUNK / VL)

#if defined __AVX512BF16__ && VL == 16
#  define UNIT_PAIRS 1
#else
#  define UNIT_PAIRS 0
#endif

/* ---- vectors: GCC's extension, so that one text serves all widths ---------------------------------------------- */
typedef float vf __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef float vf_any __attribute__((vector_size(4 * VL), aligned(1), may_alias));        /* for loads at any address */
typedef uint32_t vu_any __attribute__((vector_size(4 * VL), aligned(1), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(2 * VL), aligned(1), may_alias));
ALWAYS_INLINE vf vf_load(const void *p) { return *(const vf_any *)p; }
ALWAYS_INLINE vu vu_load(const void *p) { return *(const vu_any *)p; }
ALWAYS_INLINE void vf_store(void *p, vf v) { *(vf_any *)p = v; }

/* VL values of a stored type, widened; at any address. */
ALWAYS_INLINE vf vf_widen(const void *p, DType dtype) {
    if (dtype == DT_F32) return vf_load(p);
    if (dtype == DT_BF16) return (vf)(__builtin_convertvector(*(const vh_any *)p, vu) << 16);
#if VL == 16
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
#elif VL == 8
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
#else
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#endif
}
/* float_bf16 for VL floats, left in float. */
ALWAYS_INLINE vf vf_round(vf x) {
    vu u = (vu)x, nan = (vu)((u & 0x7fffffffu) > 0x7f800000u);
    vu r = u + 0x7fffu + ((u >> 16) & 1u);
    return (vf)(((r & ~nan) | ((u | 0x400000u) & nan)) & 0xffff0000u);
}

/* ---- operands -------------------------------------------------------------------------------------------------- */
typedef struct Operand {       /* `lanes` rows of A (or columns of B), each summed over K */
    const void *data;
    DType dtype;
    size_t lanes, ld;          /* ld: elements from one stored row to the next */
    bool k_adjacent;           /* (lanes, K) as stored; else (K, lanes) */
    const Mat *quantised;      /* what data is the data of; NULL: plain numbers */
} Operand;

/* How an operand becomes units. */
typedef enum { UNIT_F32, UNIT_ROUNDED, UNIT_PAIR } Unit;

static size_t dtype_bytes(DType dtype) { return dtype == DT_F32 ? 4 : 2; }

/* VL units of one row, K adjacent. */
ALWAYS_INLINE vu units_along_k(const char *p, DType dtype, Unit unit) {
#if UNIT_PAIRS
    if (unit == UNIT_PAIR) {
        if (dtype == DT_BF16) return vu_load(p);
        size_t half = VL * dtype_bytes(dtype);
        return (vu)_mm512_cvtne2ps_pbh(vf_widen(p + half, dtype), vf_widen(p, dtype));
    }
#endif
    return (vu)(unit == UNIT_ROUNDED && dtype != DT_BF16 ? vf_round(vf_widen(p, dtype)) : vf_widen(p, dtype));
}
/* VL units, one of each lane; pairs take k from row p and k+1 from row q. */
ALWAYS_INLINE vu units_across(const char *p, const char *q, DType dtype, Unit unit) {
#if UNIT_PAIRS
    if (unit == UNIT_PAIR) {
        const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                             23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        __m512i two = dtype == DT_BF16
            ? _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)),
                                 _mm256_loadu_si256((const __m256i *)q), 1)
            : (__m512i)_mm512_cvtne2ps_pbh(vf_widen(q, dtype), vf_widen(p, dtype));
        return (vu)_mm512_permutexvar_epi16(zip, two);
    }
#endif
    (void)q;
    return (vu)(unit == UNIT_ROUNDED && dtype != DT_BF16 ? vf_round(vf_widen(p, dtype)) : vf_widen(p, dtype));
}

/* VL x VL units in registers, transposed: log2(VL) rounds, each swapping blocks twice the size of the last. */
ALWAYS_INLINE void gemm_transpose(vu v[VL]) {
#if VL == 16
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32((__m512i)v[i], (__m512i)v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32((__m512i)v[i], (__m512i)v[i + 1]);
    }
    __m512i u[16];
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {                             /* u[i+4j]: columns i, i+4, i+8, i+12 of rows 4j..4j+3 */
        __m512i lo = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88), hi = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88);
        __m512i lo2 = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd), hi2 = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
        v[i] = (vu)_mm512_shuffle_i32x4(lo, hi, 0x88), v[i + 8] = (vu)_mm512_shuffle_i32x4(lo, hi, 0xdd);
        v[i + 4] = (vu)_mm512_shuffle_i32x4(lo2, hi2, 0x88), v[i + 12] = (vu)_mm512_shuffle_i32x4(lo2, hi2, 0xdd);
    }
#elif VL == 8
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44), u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44), u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = (vu)_mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        v[i + 4] = (vu)_mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
#else
    uint32x4x2_t a = vtrnq_u32((uint32x4_t)v[0], (uint32x4_t)v[1]), b = vtrnq_u32((uint32x4_t)v[2], (uint32x4_t)v[3]);
    v[0] = (vu)vcombine_u32(vget_low_u32(a.val[0]), vget_low_u32(b.val[0]));
    v[1] = (vu)vcombine_u32(vget_low_u32(a.val[1]), vget_low_u32(b.val[1]));
    v[2] = (vu)vcombine_u32(vget_high_u32(a.val[0]), vget_high_u32(b.val[0]));
    v[3] = (vu)vcombine_u32(vget_high_u32(a.val[1]), vget_high_u32(b.val[1]));
#endif
}

/* ---- packing [gemm.pack] --------------------------------------------------------------------------------------- *
 * A group is VL lanes. Where its units go: unit k of lane i to at[(i / PIECE) * far + k * step + i % PIECE]. In A step
 * is MR and panels are `far` apart; in B step is the panel's width and far is PIECE: the group stays together. */
enum { PIECE = MIN(MR, VL) };
typedef struct Place { uint32_t *at; size_t step, far; } Place;

ALWAYS_INLINE void gemm_put(Place p, size_t k, vu v) {
    uint32_t *at = p.at + k * p.step;
#if VL == 16                                                  /* by name: gcc would take the halves from the stack */
    _mm256_storeu_si256((__m256i *)at, _mm512_castsi512_si256((__m512i)v));
    _mm256_storeu_si256((__m256i *)(at + p.far), _mm512_extracti64x4_epi64((__m512i)v, 1));
#else
    for (size_t i = 0; i < VL / PIECE; i++) memcpy(at + i * p.far, (const char *)&v + i * PIECE * 4, PIECE * 4);
#endif
}

/* One group, K adjacent: squares of VL lanes x VL units are read row by row, transposed in registers and written.
 * Squares that stick out, at the last lanes or the last k, are first copied to where zeros surround them. */
ALWAYS_INLINE void gemm_pack_along(const Operand *o, size_t lane, size_t k0, size_t n_k, Place place, DType dtype,
                                   Unit unit) {
    const size_t per = unit == UNIT_PAIR ? 2 : 1, size = dtype_bytes(dtype), n_lanes = MIN(o->lanes - lane, (size_t)VL);
    const char *at = (const char *)o->data + (lane * o->ld + k0) * size;
    for (size_t k = 0; k < n_k; k += VL * per, at += VL * per * size) {
        size_t n = MIN(n_k - k, VL * per), row_bytes = o->ld * size;
        const char *rows = at;
        char edge[VL][VL * 8];
        if (n < VL * per || n_lanes < VL) {
            memset(edge, 0, sizeof edge);
            for (size_t i = 0; i < n_lanes; i++) memcpy(edge[i], at + i * row_bytes, n * size);
            rows = edge[0], row_bytes = sizeof edge[0];
        }
        vu v[VL];
        for (size_t i = 0; i < VL; i++) v[i] = units_along_k(rows + i * row_bytes, dtype, unit);
        gemm_transpose(v);
        if (n == VL * per) {
            for (size_t i = 0; i < VL; i++) gemm_put(place, k / per + i, v[i]);
        } else {
            vu some[VL];
            memcpy(some, v, sizeof v);                        /* v itself has to stay in registers */
            for (size_t i = 0; i < CEIL_DIV(n, per); i++) gemm_put(place, k / per + i, some[i]);
        }
    }
}
/* n_groups groups, lanes adjacent: all groups of one row before the next row, so that whole pages are read in turn and
 * not one cache line of each (which cost half the speed at a row length of 4096: each line another page). */
ALWAYS_INLINE void gemm_pack_across(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k,
                               const Place *places, DType dtype, Unit unit) {
    size_t per = unit == UNIT_PAIR ? 2 : 1, size = dtype_bytes(dtype);
    static const char zeros[VL * 4] = {0};
    for (size_t k = 0; k < n_k; k += per) {
        const char *p = (const char *)o->data + ((k0 + k) * o->ld + lane) * size, *q = p + o->ld * size;
        bool lone = per == 2 && k + 1 == n_k;                 /* an odd last k has no partner */
        for (size_t g = 0; g < n_groups; g++, p += VL * size, q += VL * size) {
            __builtin_prefetch(p + 16 * o->ld * size, 0, 2);  /* rows ahead; never faults. Buys 2% of dw */
            if (per == 2) __builtin_prefetch(q + 16 * o->ld * size, 0, 2);
            size_t n_lanes = MIN(o->lanes - lane - g * VL, (size_t)VL);
            if (n_lanes == VL) {
                gemm_put(places[g], k / per, units_across(p, lone ? zeros : q, dtype, unit));
            } else {
                char edge[2][VL * 4] = {{0}};
                memcpy(edge[0], p, n_lanes * size);
                if (per == 2 && !lone) memcpy(edge[1], q, n_lanes * size);
                gemm_put(places[g], k / per, units_across(edge[0], edge[1], dtype, unit));
            }
        }
    }
}
ALWAYS_INLINE void gemm_pack_typed(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k,
                                   const Place *places, DType dtype, Unit unit) {
    if (!o->k_adjacent) gemm_pack_across(o, lane, n_groups, k0, n_k, places, dtype, unit);
    else for (size_t g = 0; g < n_groups; g++) gemm_pack_along(o, lane + g * VL, k0, n_k, places[g], dtype, unit);
}
ALWAYS_INLINE void gemm_pack_unit(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k,
                                  const Place *places, Unit unit) {
    switch (o->dtype) {
    case DT_BF16: gemm_pack_typed(o, lane, n_groups, k0, n_k, places, DT_BF16, unit); break;
    case DT_F16: gemm_pack_typed(o, lane, n_groups, k0, n_k, places, DT_F16, unit); break;
    default: gemm_pack_typed(o, lane, n_groups, k0, n_k, places, DT_F32, unit);
    }
}
static void gemm_pack(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places,
                      Unit unit);
/* Quantised weights are widened piece by piece, each small enough to stay in L1 until it is packed: a group's lanes, or
 * a few k of all lanes. */
static void gemm_pack_quantised(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k,
                                const Place *places, Unit unit) {
    enum { K_STEP = 64, K_ROWS = 8 };                         /* a piece: VL lanes of 64 k; CHUNK lanes of 8 k */
    float piece[MAX(VL * K_STEP, CHUNK * K_ROWS)];
    const size_t step = o->k_adjacent ? K_STEP : K_ROWS, per = unit == UNIT_PAIR ? 2 : 1,
        at_once = o->k_adjacent ? 1 : n_groups;
    for (size_t g = 0; g < n_groups; g += at_once)
        for (size_t k = 0; k < n_k; k += step) {
            size_t lane_g = lane + g * VL, n_lanes = MIN(o->lanes - lane_g, at_once * VL), n = MIN(step, n_k - k);
            Operand wide = {piece, DT_F32, n_lanes, o->k_adjacent ? n : n_lanes, o->k_adjacent, NULL};
            Place to[CHUNK_GROUPS];
            for (size_t i = 0; i < at_once; i++) {
                to[i] = places[g + i];
                to[i].at += k / per * to[i].step;
            }
            if (o->k_adjacent) for (size_t i = 0; i < n_lanes; i++)
                quant_read(piece + i * n, o->quantised, lane_g + i, k0 + k, n);
            else for (size_t i = 0; i < n; i++) quant_read(piece + i * n_lanes, o->quantised, k0 + k + i, lane_g,
                n_lanes);
            gemm_pack(&wide, 0, at_once, 0, n, to, unit);
        }
}
/* Elements k0 .. k0+n_k of n_groups groups from `lane` on. */
static void gemm_pack(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places,
                      Unit unit) {
    if (o->quantised) {
        gemm_pack_quantised(o, lane, n_groups, k0, n_k, places, unit);
        return;
    }
    if (unit == UNIT_F32) gemm_pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_F32);
    else gemm_pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED);
}

/* ---- the tile [gemm.tile] -------------------------------------------------------------------------------------- *
 * c (rows, cols) = a (n_k, MR)^T @ b (n_k, nv*VL), and what stands in Out. nv and pair are constants in each copy. */
typedef struct Out {
    float *c;
    size_t ld;
    const float *bias;         /* per column, or NULL */
    const float *residual;     /* as c, or NULL; may be c */
    bool add;                  /* c += rather than c = */
} Out;

ALWAYS_INLINE vf multiply_add_v(vf acc, vf a, vf b, bool pair) {
#if UNIT_PAIRS
    if (pair) return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
#endif
    (void)pair;
    return acc + a * b;
}
/* The same with unit r of a[MR] for every lane. */
ALWAYS_INLINE vf multiply_add(vf acc, const float *a, int r, vf b, bool pair) {
#if UNIT_PAIRS
    if (pair) return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32((int)float_bits(a[r])), (__m512bh)b);
#endif
    (void)pair;
#if VL == 4                                                   /* a lane of a register: a quarter of the loads */
    return acc + b * vf_load(a + r / 4 * 4)[r % 4];
#else
    return acc + b * a[r];
#endif
}
ALWAYS_INLINE void tile(const int nv, const bool pair, size_t n_k, const float *a, const float *b, const Out *out,
                        size_t rows, size_t cols) {
    vf acc[MR][NV];
    for (int r = 0; r < MR; r++)
        for (int v = 0; v < nv; v++) acc[r][v] = (vf){0};
    for (int r = 0; r < MR; r++)                              /* c is needed in n_k * 24 clocks: ask for it now */
        if ((size_t)r < rows) for (int v = 0; v < nv; v++) __builtin_prefetch(out->c + r * out->ld + v * VL, 1);
    for (size_t k = 0; k < n_k; k++, a += MR, b += nv * VL) {
        vf b_k[NV];
        for (int v = 0; v < nv; v++) b_k[v] = vf_load(b + v * VL);
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) acc[r][v] = multiply_add(acc[r][v], a, r, b_k[v], pair);
    }
    if (rows == MR && cols == (size_t)nv * VL) {
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) {
                float *c = out->c + r * out->ld + v * VL;
                vf y = acc[r][v];
                if (out->bias) y += vf_load(out->bias + v * VL);
                if (out->residual) y += vf_load(out->residual + r * out->ld + v * VL);
                if (out->add) y += vf_load(c);
                vf_store(c, y);
            }
    } else {                                                  /* an edge: by way of memory */
        float edge[MR][NV * VL];
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) vf_store(&edge[r][v * VL], acc[r][v]);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < cols; i++) {
                float *c = out->c + r * out->ld + i, y = edge[r][i];
                if (out->bias) y += out->bias[i];
                if (out->residual) y += out->residual[r * out->ld + i];
                *c = out->add ? y + *c : y;
            }
    }
}
#define TILE_ARGS size_t n_k, const float *a, const float *b, const Out *out, size_t rows, size_t cols
#define TILE(name, nv, pair) static void name(TILE_ARGS) { tile(nv, pair, n_k, a, b, out, rows, cols); }
TILE(tile_1, 1, false)
TILE(tile_2, 2, false)
TILE(tile_3, 3, false)
#if UNIT_PAIRS
TILE(tile_1_pair, 1, true)
TILE(tile_2_pair, 2, true)
TILE(tile_3_pair, 3, true)
#endif
typedef void Tile(TILE_ARGS);

/* Panels of a chunk: as many of 3 vectors as fit, the rest of 2, one of 1 only when a chunk is that narrow. */
ALWAYS_INLINE size_t panel_width(size_t groups_left) {
    return groups_left == 3 || groups_left > 4 ? 3 : groups_left > 1 ? 2 : 1;
}

/* ---- fetching ahead -------------------------------------------------------------------------------------------- *
 * What will be packed next is fetched into L2 while tiles run, a few cache lines per tile: memory works while the core
 * multiplies. Packing that waits for memory costs 1 to 2 clocks a number instead of 0.2 to 0.5. */
typedef struct Ahead { const char *row; size_t row_bytes, lines, line, rows; } Ahead;
static Ahead ahead_of(const Operand *o, size_t lane, size_t n_lanes, size_t k, size_t n_k) {
    if (o->quantised) return (Ahead){0};                /* a quarter of the bytes: the hardware's prefetching will do */
    size_t size = dtype_bytes(o->dtype), row = o->k_adjacent ? lane : k, column = o->k_adjacent ? k : lane;
    size_t rows = o->k_adjacent ? n_lanes : n_k, lines = CEIL_DIV((o->k_adjacent ? n_k : n_lanes) * size, 64);
    return (Ahead){(const char *)o->data + (row * o->ld + column) * size, o->ld * size, lines, 0, rows};
}
ALWAYS_INLINE void fetch(Ahead *f, size_t n_lines) {
    for (size_t i = 0; i < n_lines && f->rows; i++) {
        __builtin_prefetch(f->row + f->line * 64, 0, 2);      /* never faults, wherever it points */
        if (++f->line == f->lines) f->line = 0, f->row += f->row_bytes, f->rows--;
    }
}

/* ---- the product [gemm.run] ------------------------------------------------------------------------------------ *
 * out (rows, columns) = sum over terms of a (rows, K) @ b (columns, K)^T. A list of linear layers is several products
 * in the forward and in dw, and several terms of one product in dx. */
typedef struct Term { Operand a, b; size_t K; } Term;
typedef struct Product { size_t rows, columns; Out out; int n_terms; Term term[LINEAR_MAX]; } Product;

/* A product is cut into a grid of tasks. A task packs the rows of A and the columns of B that it needs, shares nothing
 * and waits for nobody, so an idle core takes the next one and a slow core takes fewer. That rows and columns are
 * packed again by every task beside costs 1 to 3%; packing them once for all threads and waiting at a barrier was no
 * faster. */
#define TASK_ROWS 512                      /* at most: 768 KB of packed A, most of an L2 */
#define TASK_COLUMNS 1536
#define A_ROWS 64                          /* rows of A packed at a time, just before their first tiles */
#define PACK_A 12                          /* the estimate: packing a row of A costs as 12 columns of tiles, ... */
#define PACK_B 10                          /* ... a column of B as 10 rows of tiles, and a row of the output that two */
#define SHARED_ROW 25                      /* threads write as 25 columns: where cores share no cache that costs most */
                                           /* (512 x 768 outputs, in halves of columns 79% of the limit, of rows 92%) */
typedef struct Grid { size_t down, across; } Grid;
static Grid gemm_grid(size_t rows, size_t columns, size_t threads) {
    Grid best = {1, 1};
    double best_cost = INFINITY;
    size_t blocks = CEIL_DIV(rows, BLOCK), groups = CEIL_DIV(columns, VL);
    size_t least_down = CEIL_DIV(rows, TASK_ROWS), least_across = CEIL_DIV(columns, TASK_COLUMNS);
    for (size_t down = least_down; down <= MIN(blocks, least_down + 2 * threads); down++)
        for (size_t across = least_across; across <= MIN(groups, least_across + 2 * threads); across++) {
            double r = (double)(CEIL_DIV(blocks, down) * BLOCK), c = (double)(CEIL_DIV(groups, across) * VL);
            double a = down % threads ? PACK_A + SHARED_ROW : PACK_A;
            double cost = (double)CEIL_DIV(down * across, threads) * (r * c + a * r + PACK_B * c);
            if (cost < best_cost * 0.999) best_cost = cost, best = (Grid){down, across};
        }
    return best;
}

/* Places of a chunk of B: panels one after another, each (n_units, width) with its groups side by side. */
static size_t gemm_places(Place *places, float *b, size_t n_groups, size_t n_units) {
    size_t n_panels = 0;
    for (size_t i = 0, w; i < n_groups; i += w, n_panels++) {
        w = panel_width(n_groups - i);
        for (size_t v = 0; v < w; v++) places[i + v] = (Place){(uint32_t *)b + (i * n_units + v) * VL, w * VL, PIECE};
    }
    return n_panels;
}

static void gemm_task(const Product *p, Unit unit, size_t row0, size_t row1, size_t column0, size_t column1, float *a,
                     float *b) {
    static Tile *const tiles[2][NV + 1] = {
        {NULL, tile_1, tile_2, tile_3},
#if UNIT_PAIRS
        {NULL, tile_1_pair, tile_2_pair, tile_3_pair},
#endif
    };
    const bool pair = UNIT_PAIRS && unit != UNIT_F32;
    const size_t per = pair ? 2 : 1;                          /* elements in a unit */
    const size_t groups = CEIL_DIV(column1 - column0, VL), n_chunks = CEIL_DIV(groups, CHUNK_GROUPS);
    Out o = p->out;
    for (const Term *t = p->term; t < p->term + p->n_terms; t++) {
        size_t units = CEIL_DIV(t->K, per), n_kb = CEIL_DIV(units, KC), kc = CEIL_DIV(units, n_kb);
        for (size_t k = 0; k < t->K; k += kc * per) {
            size_t n_k = MIN(kc * per, t->K - k), n_u = CEIL_DIV(n_k, per);
            size_t far = n_u * MR + 16;                       /* a cache line more: panels do not share L1 sets */
            for (size_t chunk = 0; chunk < n_chunks; chunk++) {
                size_t g0 = chunk * CHUNK_GROUPS, g1 = MIN(groups, g0 + CHUNK_GROUPS);
                Place places[MAX(CHUNK_GROUPS, A_ROWS / VL)];
                size_t n_panels = gemm_places(places, b, g1 - g0, n_u);
                gemm_pack(&t->b, column0 + g0 * VL, g1 - g0, k, n_k, places, unit);
                /* the first chunk packs A as it goes, the others find it packed */
                for (size_t r0 = row0, r1; r0 < row1; r0 = r1) {
                    r1 = chunk ? row1 : MIN(r0 + A_ROWS, row1);
                    float *a_panel = a + (r0 - row0) / MR * far;
                    if (!chunk) {
                        for (size_t i = 0; i * VL < r1 - r0; i++)
                            places[i] = (Place){(uint32_t *)a_panel + i * VL / MR * far + i * VL % MR, MR, far};
                        gemm_pack(&t->a, r0, CEIL_DIV(r1 - r0, VL), k, n_k, places, unit);
                    }
                    size_t n_tiles = CEIL_DIV(r1 - r0, MR) * n_panels, k2 = k + n_k;
                    Ahead a_next = {0}, b_next = {0};         /* in the order in which they will be packed */
                    if (r1 < row1) a_next = ahead_of(&t->a, r1, MIN((size_t)A_ROWS, row1 - r1), k, n_k);
                    else if (g1 < groups) {
                        size_t g2 = MIN(groups, g1 + CHUNK_GROUPS);
                        b_next = ahead_of(&t->b, column0 + g1 * VL, (g2 - g1) * VL, k, n_k);
                    }
                    else if (k2 < t->K) {
                        b_next = ahead_of(&t->b, column0, MIN(groups, (size_t)CHUNK_GROUPS) * VL, k2,
                                          MIN(n_k, t->K - k2));
                        a_next = ahead_of(&t->a, row0, MIN((size_t)A_ROWS, row1 - row0), k2, MIN(n_k, t->K - k2));
                    }
                    size_t a_lines = CEIL_DIV(a_next.lines * a_next.rows, n_tiles);
                    size_t b_lines = CEIL_DIV(b_next.lines * b_next.rows, n_tiles);
                    for (size_t row = r0; row < r1; row += MR, a_panel += far)
                        for (size_t g = g0, w; g < g1; g += w) {
                            w = panel_width(g1 - g);
                            size_t column = column0 + g * VL, at = row * o.ld + column;
                            Out here = {o.c + at, o.ld, o.bias ? o.bias + column : NULL,
                                        o.residual ? o.residual + at : NULL, o.add};
                            fetch(&b_next, b_lines), fetch(&a_next, a_lines);
                            tiles[pair][w](n_u, a_panel, b + (g - g0) * VL * n_u, &here, MIN((size_t)MR, r1 - row),
                                           MIN(w * VL, column1 - column));
                        }
                }
            }
            o.bias = o.residual = NULL, o.add = true;         /* the first block of K has brought them in */
        }
    }
}

/* Work too small to wake other threads for (that costs 5 to 50 us). */
static size_t threads_for(double multiply_adds) { return multiply_adds < 3e5 ? 1 : (size_t)omp_get_max_threads(); }

/* Each thread begins with its own share of every product's tasks, the same rows in call after call: they are in its
 * cache then, where a core's caches are its own. When its share is done it takes from the others'. */
typedef struct Share { _Alignas(64) size_t next, end; } Share;

static void gemm_run(const Product *p, int n, Unit unit) {
    double work = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < p[i].n_terms; j++)
            work += (double)p[i].rows * (double)p[i].columns * (double)p[i].term[j].K;
    const size_t threads = threads_for(work), N = (size_t)n;
    const size_t a_units = (TASK_ROWS + BLOCK) / MR * (KC * MR + 16), b_units = CHUNK * KC;
    /* shares (threads, products) */
    Share *shares = scratch(SCRATCH_A, threads * (N * sizeof *shares + (a_units + b_units) * 4));
    float *buffers = (float *)(shares + threads * N);
    Grid grids[LINEAR_MAX];
    for (size_t i = 0; i < N; i++) {
        grids[i] = gemm_grid(p[i].rows, p[i].columns, threads);
        size_t tasks = grids[i].down * grids[i].across;
        for (size_t t = 0; t < threads; t++)
            shares[t * N + i] = (Share){tasks * t / threads, tasks * (t + 1) / threads};
    }
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    for (size_t me = (size_t)omp_get_thread_num(), at = 0; at < threads * N;) {
        Share *share = &shares[(me * N + at) % (threads * N)];
        size_t i = at % N, task;
#pragma omp atomic capture
        task = share->next++;
        if (task >= share->end) {
            at++;
            continue;
        }
        size_t down = task / grids[i].across, across = task % grids[i].across;
        size_t blocks = CEIL_DIV(p[i].rows, BLOCK), groups = CEIL_DIV(p[i].columns, VL);
        size_t row0 = blocks * down / grids[i].down * BLOCK, row1 = blocks * (down + 1) / grids[i].down * BLOCK;
        size_t column0 = groups * across / grids[i].across * VL, column1 = groups * (across + 1) / grids[i].across * VL;
        float *a = buffers + me * (a_units + b_units);
        gemm_task(&p[i], unit, row0, MIN(row1, p[i].rows), column0, MIN(column1, p[i].columns), a, a + a_units);
    }
}

/* ---- few rows [gemm.few] --------------------------------------------------------------------------------------- *
 * Decoding multiplies every weight with one to FEW_ROWS vectors: reading the weights is all the time there is. So
 * nothing is packed; each row of w is read once, from where it lies, and meets all x together. A core reads from
 * several far places at once (`streams`): one stream of loads leaves a third of the memory's speed unused (17 to 20
 * against 26 GB/s a core, Zen 4), and rows side by side are no better, for the prefetcher starts anew at the end of
 * each. */
#define FEW_ROWS 8
typedef struct Few { const float *x; size_t x_step, N; } Few;  /* x as units, rows x_step apart, zero-filled */

ALWAYS_INLINE float few_sum(vf v) {
#if VL == 16
    return _mm512_reduce_add_ps(v);
#else
    float x[VL], sum = 0;
    vf_store(x, v);
    for (int i = 0; i < VL; i++) sum += x[i];
    return sum;
#endif
}
/* A file's rows begin where they begin. 64 bytes from there on are parts of two cache lines, which cost a fifth of the
 * memory's speed (bf16 64 -> 58 GB/s, int8 54 -> 42): so lines are loaded whole, each vector is put together from two. */
static bool lines_shifted(const Mat *w) {
    return VL == 16 && (uintptr_t)w->data % 64 && (uintptr_t)w->data % 4 == 0 && mat_row_bytes(w) % 64 == 0;
}
#if VL == 16
static inline vu lines_pick(const Mat *w) {                   /* its lanes, of a line and the next */
    return (vu)_mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                _mm512_set1_epi32((int)((uintptr_t)w->data % 64 / 4)));
}
/* The first line and the last hold what lies beside the matrix, too, on the same page: sanitizers must not look. */
ALWAYS_INLINE vu lines_load(const char *p) {
    __m512i v;
    __asm__("vmovdqa64 %1, %0" : "=v"(v) : "m"(*(const __m512i *)p));
    return (vu)v;
}
ALWAYS_INLINE vu lines_next(vu *line, const char *next, vu pick) {
    const vu two = lines_load(next);
    const __m512i v = _mm512_permutex2var_epi32((__m512i)*line, (__m512i)pick, (__m512i)two);
    *line = two;
    return (vu)v;
}
#else
ALWAYS_INLINE vu lines_load(const char *p) { return vu_load(p); }
static inline vu lines_pick(const Mat *w) { return (void)w, (vu){0}; }
ALWAYS_INLINE vu lines_next(vu *line, const char *next, vu pick) { return (void)line, (void)pick, vu_load(next); }
#endif
/* Rows [o0, o1) of one layer, in `streams` parts that are read side by side and share the loads of x. */
ALWAYS_INLINE void few_rows(const Linear *l, const float *residual, size_t o0, size_t o1, const Few *f, DType dtype,
                            Unit unit, const size_t n_x, const size_t streams, const bool shifted) {
    const size_t size = dtype_bytes(dtype), C = l->w.cols, O = l->w.rows, step = VL * (unit == UNIT_PAIR ? 2 : 1);
    const size_t whole = C / step, edge_bytes = (C - whole * step) * size, part = CEIL_DIV(o1 - o0, streams);
    const size_t shift = shifted ? (uintptr_t)l->w.data % 64 : 0, units = shifted ? 64 / (step * size) : 1; /* of a line */
    const vu pick = lines_pick(&l->w);
    for (size_t i = 0; i < part; i++) {
        const char *w[4];
        vu line[4];
        vf acc[4][8];
        for (size_t r = 0; r < streams; r++) {                /* a part that is one short reads its last row again */
            w[r] = (const char *)l->w.data + MIN(o0 + r * part + i, o1 - 1) * C * size;
            if (shifted) line[r] = lines_load(w[r] - shift);
            for (size_t n = 0; n < n_x; n++) acc[r][n] = (vf){0};
        }
        for (size_t s = 0; s < whole; s += units)
            for (size_t r = 0; r < streams; r++) {
                const char *at = w[r] + s * step * size;
                vu together;
                if (shifted) together = lines_next(&line[r], at - shift + 64, pick), at = (const char *)&together;
                for (size_t u = 0; u < units; u++) {
                    vf w_k = (vf)units_along_k(at + u * step * size, dtype, unit);
                    const float *x = f->x + (s + u) * VL;
                    for (size_t n = 0; n < n_x; n++)
                        acc[r][n] = multiply_add_v(acc[r][n], w_k, vf_load(x + n * f->x_step), unit == UNIT_PAIR);
                }
            }
        for (size_t r = 0; r < streams; r++) {
            size_t o = o0 + r * part + i;
            if (edge_bytes) {
                char edge[VL * 8] = {0};
                memcpy(edge, w[r] + whole * step * size, edge_bytes);
                vf w_k = (vf)units_along_k(edge, dtype, unit);
                const float *x = f->x + whole * VL;
                for (size_t n = 0; n < n_x; n++)
                    acc[r][n] = multiply_add_v(acc[r][n], w_k, vf_load(x + n * f->x_step), unit == UNIT_PAIR);
            }
            for (size_t n = 0; n < n_x; n++) {
                float y = few_sum(acc[r][n]);
                if (o >= o1 || n >= f->N) continue;
                if (l->bias) y += l->bias[o];
                if (residual) y += residual[n * O + o];
                l->y[n * O + o] = y;
            }
        }
    }
}
#define FEW_ARGS const Linear *l, const float *residual, size_t o0, size_t o1, const Few *f
ALWAYS_INLINE void few_n(FEW_ARGS, DType dtype, Unit unit) {
    const bool wide = VL != 8;                                /* 32 registers: twice as many sums */
    const bool lines = VL * (unit == UNIT_PAIR ? 2 : 1) * dtype_bytes(dtype) <= 64;
    if (f->N == 1 && lines && lines_shifted(&l->w)) few_rows(l, residual, o0, o1, f, dtype, unit, 1, 4, true);
    else if (f->N == 1) few_rows(l, residual, o0, o1, f, dtype, unit, 1, 4, false);
    else if (f->N == 2) few_rows(l, residual, o0, o1, f, dtype, unit, 2, 4, false);
    else if (f->N <= 4) few_rows(l, residual, o0, o1, f, dtype, unit, 4, wide ? 4 : 2, false);
    else few_rows(l, residual, o0, o1, f, dtype, unit, 8, wide ? 2 : 1, false);
}
ALWAYS_INLINE void few_unit(FEW_ARGS, Unit unit) {
    switch (l->w.dtype) {
    case DT_BF16: few_n(l, residual, o0, o1, f, DT_BF16, unit); break;
    case DT_F16: few_n(l, residual, o0, o1, f, DT_F16, unit); break;
    default: few_n(l, residual, o0, o1, f, DT_F32, unit);
    }
}
static void few(FEW_ARGS, Unit unit) {
    if (unit == UNIT_F32) few_unit(l, residual, o0, o1, f, UNIT_F32);
    else few_unit(l, residual, o0, o1, f, UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED);
}

/* The loops read that many of N rows of x. */
static size_t few_rows_read(size_t N) { return N <= 2 ? N : N <= 4 ? 4 : FEW_ROWS; }
/* Rows of layers. Each thread begins with its own share, which it takes in ever smaller pieces (half of what is left);
 * then it takes from the others', for whoever ends last is waited for, and two cores are seldom equally fast. A counter
 * that all threads share is fetched from another core's cache for every piece: 8 us of a product's 86 where that takes
 * 160 ns. */
typedef struct FewQueue { const Linear *lin; size_t threads; Share *share; } FewQueue;
typedef struct FewTask { const Linear *lin; size_t o0, o1; } FewTask;
static FewQueue few_queue(const Linear *lin, int n, size_t N) {
    size_t rows = 0;
    for (int i = 0; i < n; i++) rows += lin[i].w.rows;
    FewQueue q = {.lin = lin, .threads = threads_for((double)rows * (double)lin[0].w.cols * (double)N)};
    q.share = scratch(SCRATCH_A, q.threads * sizeof *q.share);
    for (size_t t = 0; t < q.threads; t++) q.share[t] = (Share){rows * t / q.threads, rows * (t + 1) / q.threads};
    return q;
}
static bool few_take(const FewQueue *q, size_t me, FewTask *t) {
    for (size_t i = 0; i < q->threads; i++) {
        Share *share = &q->share[(me + i) % q->threads];
        size_t at = __atomic_load_n(&share->next, __ATOMIC_RELAXED), end, first;
        do {
            if (at >= share->end) break;
            for (t->lin = q->lin, first = 0; at >= first + t->lin->w.rows; t->lin++) first += t->lin->w.rows;
            end = MIN(at + MAX((share->end - at) / 8 * 4, (size_t)16), MIN(share->end, first + t->lin->w.rows));
            t->o0 = at - first, t->o1 = end - first;
        } while (!__atomic_compare_exchange_n(&share->next, &at, end, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        if (at < share->end) return true;
    }
    return false;
}

static void few_run(const Linear *lin, int n, const float *x, const float *residual, size_t N, Unit unit) {
    const size_t C = lin[0].w.cols, per = UNIT_PAIRS && unit != UNIT_F32 ? 2 : 1;
    Few f = {NULL, CEIL_DIV(C, per * VL) * VL + 16, N};           /* + 16: rows of x do not share L1 sets */
    const size_t bytes = few_rows_read(N) * f.x_step * 4;
    float *x_units = scratch(SCRATCH_C, bytes);
    memset(x_units, 0, bytes);
    for (size_t i = 0; i < N; i++) {
        const float *from = x + i * C;
        for (size_t c = 0; c < C; c++) {
            if (unit == UNIT_F32) x_units[i * f.x_step + c] = from[c];
            else if (per == 1) x_units[i * f.x_step + c] = bf16_float(float_bf16(from[c]));
            else ((bf16 *)(x_units + i * f.x_step))[c] = float_bf16(from[c]);
        }
    }
    f.x = x_units;
    FewQueue q = few_queue(lin, n, N);
#pragma omp parallel num_threads((int)q.threads) if (q.threads > 1)
    for (FewTask t; few_take(&q, (size_t)omp_get_thread_num(), &t);) few(t.lin, residual, t.o0, t.o1, &f, unit);
}
