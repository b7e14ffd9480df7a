/* kernels/gemm_cpu.cuh - [gemm] the fast CPU path of the linear layers: one blocked matrix product for all three.
 *
 *     forward  y  (N,O) = x (N,C) @ w (O,C)^T       rows N, columns O, summed over C
 *     dx          (N,C) = dy (N,O) @ w (O,C)        rows N, columns C, summed over O
 *     dw          (O,C) = dy (N,O)^T @ x (N,C)      rows O, columns C, summed over N
 *
 * WHY PLAIN LOOPS ARE SLOW. A core does 16 to 64 multiply-adds per clock but loads only two or three vectors, and memory
 * gives it a fraction of one. So every loaded value has to be used many times, at each level (Goto and van de Geijn
 * 2008; Van Zee and van de Geijn 2015, "BLIS"):
 *   registers  a tile of MR x 3 vectors of the result stays in registers over the whole inner sum [gemm.tile]; each step
 *              loads 3 vectors of B and MR numbers of A for 3*MR multiply-adds
 *   L1         one panel of A, MR rows by one block of K: 12 KB, used for all columns of a chunk
 *   L2         one chunk of B, CHUNK columns by one block of K: 288 KB, used for all rows; packed by the thread that
 *              uses it
 *   L3         a slab of A, packed once by all threads together
 * Packing [gemm.pack] copies both operands in the order in which the tile reads them. It costs 2 to 5% and buys adjacent
 * loads, no TLB misses, and freedom: transposed operands, bf16 and f16 weights, rounding and tails are all dealt with
 * there, so there is one tile for all three products and no transposed copy of anything.
 *
 * UNITS. The tile works on "units" of 32 bits, adjacent along K: one float, or, where the CPU multiplies bf16 pairs
 * (AVX512-BF16, twice the speed), two bf16 of neighbouring k. Where it does not, PREC_BF16 rounds to bf16 while packing
 * and multiplies floats: the same products, the same meaning.
 *
 * ORDER OF THE SUM. Element (row, column) is summed over k in the order of K, in blocks whose borders depend on K alone.
 * Threads share out tiles, never K: any number of threads gives the same bits.
 *
 * This file knows one vector width (VL) per compilation and nothing about layers, gradients or lists: see matmul.cuh. */
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
ALWAYS_INLINE vf load_f(const void *p) { return *(const vf_any *)p; }
ALWAYS_INLINE vu load_u(const void *p) { return *(const vu_any *)p; }
ALWAYS_INLINE void store_f(void *p, vf v) { *(vf_any *)p = v; }
ALWAYS_INLINE vf splat(float x) { return (vf){0} + x; }

/* VL values of a stored type, widened; at any address. */
ALWAYS_INLINE vf widen(const void *p, DType dtype) {
    if (dtype == DT_F32) return load_f(p);
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
ALWAYS_INLINE vf round_bf16(vf x) {
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
} Operand;

/* How an operand becomes units. */
typedef enum { UNIT_F32, UNIT_ROUNDED, UNIT_PAIR } Unit;

static size_t dtype_bytes(DType dtype) { return dtype == DT_F32 ? 4 : 2; }

/* VL units of one row, K adjacent. */
ALWAYS_INLINE vu units_along_k(const char *p, DType dtype, Unit unit) {
#if UNIT_PAIRS
    if (unit == UNIT_PAIR) {
        if (dtype == DT_BF16) return load_u(p);
        size_t half = VL * dtype_bytes(dtype);
        return (vu)_mm512_cvtne2ps_pbh(widen(p + half, dtype), widen(p, dtype));
    }
#endif
    return (vu)(unit == UNIT_ROUNDED && dtype != DT_BF16 ? round_bf16(widen(p, dtype)) : widen(p, dtype));
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
            : (__m512i)_mm512_cvtne2ps_pbh(widen(q, dtype), widen(p, dtype));
        return (vu)_mm512_permutexvar_epi16(zip, two);
    }
#endif
    (void)q;
    return (vu)(unit == UNIT_ROUNDED && dtype != DT_BF16 ? round_bf16(widen(p, dtype)) : widen(p, dtype));
}

/* VL x VL units in registers, transposed: log2(VL) rounds, each swapping blocks twice the size of the last. */
ALWAYS_INLINE void transpose(vu v[VL]) {
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
 * A group is VL lanes. Where its units go: unit k of lane i to at[(i / piece) * far + k * step + i % piece]. In B piece is
 * VL and step the panel's width; in A both are MR (NEON: piece is VL), and panels are `far` apart. */
typedef struct Place { uint32_t *at; size_t step, far; } Place;

ALWAYS_INLINE void put(Place p, size_t k, vu v, size_t piece) {
    uint32_t *at = p.at + k * p.step;
    for (size_t i = 0; i < VL / piece; i++) memcpy(at + i * p.far, (const char *)&v + i * piece * 4, piece * 4);
}

/* One group, K adjacent: squares of VL lanes x VL units are read row by row, transposed in registers and written. */
ALWAYS_INLINE void pack_square(const char *row, size_t row_bytes, size_t n_lanes, Place place, size_t k, size_t n,
                               DType dtype, Unit unit, size_t piece) {
    vu v[VL];
    for (size_t i = 0; i < VL; i++) v[i] = i < n_lanes ? units_along_k(row + i * row_bytes, dtype, unit) : (vu){0};
    transpose(v);
    for (size_t i = 0; i < VL; i++) if (i < n) put(place, k + i, v[i], piece);
}
ALWAYS_INLINE void pack_along(const Operand *o, size_t lane, size_t k0, size_t n_k, Place place, DType dtype,
                              Unit unit, size_t piece) {
    size_t per = unit == UNIT_PAIR ? 2 : 1, size = dtype_bytes(dtype), row_bytes = o->ld * size;
    size_t n_lanes = MIN(o->lanes - lane, (size_t)VL), full = n_k / (VL * per), left = n_k - full * VL * per;
    const char *row = (const char *)o->data + (lane * o->ld + k0) * size;
    if (n_lanes == VL) {
        for (size_t b = 0; b < full; b++)
            pack_square(row + b * VL * per * size, row_bytes, VL, place, b * VL, VL, dtype, unit, piece);
    } else {
        for (size_t b = 0; b < full; b++)
            pack_square(row + b * VL * per * size, row_bytes, n_lanes, place, b * VL, VL, dtype, unit, piece);
    }
    if (!left) return;
    char edge[VL][VL * 8] = {{0}};                            /* the last columns, filled up with zeros */
    for (size_t i = 0; i < n_lanes; i++) memcpy(edge[i], row + i * row_bytes + full * VL * per * size, left * size);
    pack_square(edge[0], sizeof edge[0], VL, place, full * VL, CEIL_DIV(left, per), dtype, unit, piece);
}
/* n_groups groups, lanes adjacent: all groups of one row before the next row, so that whole pages are read in turn and
 * not one cache line of each (which cost half the speed at a row length of 4096: each line another page). */
ALWAYS_INLINE void pack_across(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k,
                               const Place *places, DType dtype, Unit unit, size_t piece) {
    size_t per = unit == UNIT_PAIR ? 2 : 1, size = dtype_bytes(dtype);
    static const char zeros[VL * 4] = {0};
    for (size_t k = 0; k < n_k; k += per) {
        const char *p = (const char *)o->data + ((k0 + k) * o->ld + lane) * size, *q = p + o->ld * size;
        bool lone = per == 2 && k + 1 == n_k;                 /* an odd last k has no partner */
        for (size_t g = 0; g < n_groups; g++, p += VL * size, q += VL * size) {
            size_t n_lanes = MIN(o->lanes - lane - g * VL, (size_t)VL);
            if (n_lanes == VL) {
                put(places[g], k / per, units_across(p, lone ? zeros : q, dtype, unit), piece);
            } else {
                char edge[2][VL * 4] = {{0}};
                memcpy(edge[0], p, n_lanes * size);
                if (per == 2 && !lone) memcpy(edge[1], q, n_lanes * size);
                put(places[g], k / per, units_across(edge[0], edge[1], dtype, unit), piece);
            }
        }
    }
}
ALWAYS_INLINE void pack_typed(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places,
                              DType dtype, Unit unit, size_t piece) {
    if (!o->k_adjacent) pack_across(o, lane, n_groups, k0, n_k, places, dtype, unit, piece);
    else for (size_t g = 0; g < n_groups; g++)
        pack_along(o, lane + g * VL, k0, n_k, places[g], dtype, unit, piece);
}
ALWAYS_INLINE void pack_unit(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places,
                             Unit unit, size_t piece) {
    switch (o->dtype) {
    case DT_BF16: pack_typed(o, lane, n_groups, k0, n_k, places, DT_BF16, unit, piece); break;
    case DT_F16: pack_typed(o, lane, n_groups, k0, n_k, places, DT_F16, unit, piece); break;
    default: pack_typed(o, lane, n_groups, k0, n_k, places, DT_F32, unit, piece);
    }
}
/* Elements k0 .. k0+n_k of the groups from `lane` on. A's and B's pieces differ only where a vector is wider than MR. */
static void pack_a(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places, Unit unit) {
    const size_t piece = MIN(MR, VL);
    if (unit == UNIT_F32) pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_F32, piece);
    else pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED, piece);
}
static void pack_b(const Operand *o, size_t lane, size_t n_groups, size_t k0, size_t n_k, const Place *places, Unit unit) {
    if (unit == UNIT_F32) pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_F32, VL);
    else pack_unit(o, lane, n_groups, k0, n_k, places, UNIT_PAIRS ? UNIT_PAIR : UNIT_ROUNDED, VL);
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

ALWAYS_INLINE vf multiply_add(vf acc, float a, vf b, bool pair) {
#if UNIT_PAIRS
    if (pair) return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32((int)float_bits(a)), (__m512bh)b);
#endif
    (void)pair;
    return acc + a * b;
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
        for (int v = 0; v < nv; v++) b_k[v] = load_f(b + v * VL);
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) acc[r][v] = multiply_add(acc[r][v], a[r], b_k[v], pair);
    }
    if (rows == MR && cols == (size_t)nv * VL) {
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) {
                float *c = out->c + r * out->ld + v * VL;
                vf y = acc[r][v];
                if (out->bias) y += load_f(out->bias + v * VL);
                if (out->residual) y += load_f(out->residual + r * out->ld + v * VL);
                if (out->add) y += load_f(c);
                store_f(c, y);
            }
    } else {                                                  /* an edge: by way of memory */
        float edge[MR][NV * VL];
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < nv; v++) store_f(&edge[r][v * VL], acc[r][v]);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < cols; i++) {
                float *c = out->c + r * out->ld + i, y = edge[r][i];
                if (out->bias) y += out->bias[i];
                if (out->residual) y += out->residual[r * out->ld + i];
                *c = out->add ? y + *c : y;
            }
    }
}
static void tile_3(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(3, false, n_k, a, b, o, rows, cols); }
static void tile_2(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(2, false, n_k, a, b, o, rows, cols); }
static void tile_1(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(1, false, n_k, a, b, o, rows, cols); }
#if UNIT_PAIRS
static void tile_3_pair(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(3, true, n_k, a, b, o, rows, cols); }
static void tile_2_pair(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(2, true, n_k, a, b, o, rows, cols); }
static void tile_1_pair(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols) { tile(1, true, n_k, a, b, o, rows, cols); }
#endif
typedef void Tile(size_t n_k, const float *a, const float *b, const Out *o, size_t rows, size_t cols);

/* Panels of a chunk: as many of 3 vectors as fit, the rest of 2, one of 1 only when a chunk is that narrow. */
ALWAYS_INLINE size_t panel_width(size_t groups_left) {
    return groups_left == 3 || groups_left > 4 ? 3 : groups_left > 1 ? 2 : 1;
}

/* ---- the product [gemm.run] ------------------------------------------------------------------------------------ *
 * out (rows, columns) = sum over terms of a (rows, K) @ b (columns, K)^T. A list of linear layers is several products in
 * the forward and in dw, and several terms of one product in dx. */
typedef struct Term { Operand a, b; size_t K; } Term;
typedef struct Product { size_t rows, columns; Out out; int n_terms; Term term[LINEAR_MAX]; } Product;

/* A product is cut into a grid of tasks; a task packs its own rows of A and columns of B, shares nothing and waits for
 * nobody. Packing a row or a column twice is cheap (0.2 to 0.5 clocks a number, against columns/16 clocks of tiles). */
#ifndef TASK_ROWS
#define TASK_ROWS 512          /* at most: 768 KB of A, most of an L2 */
#define TASK_COLUMNS 1536
#endif
#define PACK_A 12              /* packing a row of A, a column of B, in rows and columns of tiles: for the estimate */
#define PACK_B 10
typedef struct Grid { size_t down, across; } Grid;
static Grid grid(size_t rows, size_t columns, size_t threads) {
    Grid best = {1, 1};
    double best_cost = INFINITY;
    size_t blocks = CEIL_DIV(rows, BLOCK), groups = CEIL_DIV(columns, VL);
    size_t least_down = CEIL_DIV(rows, TASK_ROWS), least_across = CEIL_DIV(columns, TASK_COLUMNS);
    for (size_t down = least_down; down <= MIN(blocks, least_down + 2 * threads); down++)
        for (size_t across = least_across; across <= MIN(groups, least_across + 2 * threads); across++) {
            double r = (double)(CEIL_DIV(blocks, down) * BLOCK), c = (double)(CEIL_DIV(groups, across) * VL);
            double cost = (double)CEIL_DIV(down * across, threads) * (r * c + PACK_A * r + PACK_B * c);
            if (cost < best_cost * 0.999) best_cost = cost, best = (Grid){down, across};
        }
    return best;
}

static void task_run(const Product *p, Unit unit, size_t row0, size_t row1, size_t column0, size_t column1, float *a,
                     float *b) {
    static Tile *const tiles[2][4] = {
        {NULL, tile_1, tile_2, tile_3},
#if UNIT_PAIRS
        {NULL, tile_1_pair, tile_2_pair, tile_3_pair},
#endif
    };
    const bool pair = UNIT_PAIRS && unit != UNIT_F32;
    const size_t per = pair ? 2 : 1;
    const size_t all_groups = CEIL_DIV(column1 - column0, VL), n_chunks = CEIL_DIV(all_groups, CHUNK_GROUPS);
    const size_t row_groups = CEIL_DIV(row1 - row0, VL);
    Out o = p->out;
    for (const Term *t = p->term; t < p->term + p->n_terms; t++) {
        size_t units = CEIL_DIV(t->K, per), n_kb = CEIL_DIV(units, KC), kc = CEIL_DIV(units, n_kb);
        for (size_t kb = 0; kb < n_kb; kb++) {
            size_t k0 = kb * kc * per, n_k = MIN(kc * per, t->K - k0), n_u = CEIL_DIV(n_k, per);
            size_t far = n_u * MR + 16;                       /* a cache line more: panels do not share L1 sets */
            enum { TOGETHER = 64 / VL };
            for (size_t g = 0; g < row_groups; g += TOGETHER) {
                Place places[TOGETHER];
                size_t n = MIN(row_groups - g, (size_t)TOGETHER);
                for (size_t i = 0; i < n; i++)
                    places[i] = (Place){(uint32_t *)a + (g + i) * VL / MR * far + (g + i) * VL % MR, MR, far};
                pack_a(&t->a, row0 + g * VL, n, k0, n_k, places, unit);
            }
            for (size_t chunk = 0; chunk < n_chunks; chunk++) {
                size_t g0 = all_groups * chunk / n_chunks, n_groups = all_groups * (chunk + 1) / n_chunks - g0;
                Place places[CHUNK_GROUPS];
                for (size_t i = 0, w; i < n_groups; i += w) {
                    w = panel_width(n_groups - i);
                    for (size_t v = 0; v < w; v++)
                        places[i + v] = (Place){(uint32_t *)b + i * VL * n_u + v * VL, w * VL, 0};
                }
                pack_b(&t->b, column0 + g0 * VL, n_groups, k0, n_k, places, unit);
                const float *a_panel = a;
                for (size_t row = row0; row < row1; row += MR, a_panel += far)
                    for (size_t q = 0, w; q < n_groups; q += w) {
                        w = panel_width(n_groups - q);
                        size_t column = column0 + (g0 + q) * VL, at = row * o.ld + column;
                        Out here = {o.c + at, o.ld, o.bias ? o.bias + column : NULL, o.residual ? o.residual + at : NULL,
                                    o.add};
                        tiles[pair][w](n_u, a_panel, b + q * VL * n_u, &here, MIN((size_t)MR, row1 - row),
                                       MIN(w * VL, column1 - column));
                    }
            }
            o.bias = o.residual = NULL, o.add = true;         /* the first block of K has brought them in */
        }
    }
}

static void gemm_run(const Product *p, int n, Unit unit) {
    Grid grids[LINEAR_MAX];
    size_t first[LINEAR_MAX + 1] = {0}, threads = (size_t)omp_get_max_threads();
    double work = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < p[i].n_terms; j++) work += (double)p[i].rows * (double)p[i].columns * (double)p[i].term[j].K;
    if (work < 1e5) threads = 1;                              /* starting threads costs as much as this */
    for (int i = 0; i < n; i++) {
        grids[i] = grid(p[i].rows, p[i].columns, threads);
        first[i + 1] = first[i] + grids[i].down * grids[i].across;
    }
    const size_t a_units = (TASK_ROWS + BLOCK) / MR * (KC * MR + 16), b_units = CHUNK * KC;
    float *buffers = scratch(SCRATCH_A, threads * (a_units + b_units) * 4);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)threads) if (threads > 1)
    for (size_t t = 0; t < first[n]; t++) {
        int i = 0;
        while (t >= first[i + 1]) i++;
        size_t down = (t - first[i]) % grids[i].down, across = (t - first[i]) / grids[i].down;
        size_t blocks = CEIL_DIV(p[i].rows, BLOCK), groups = CEIL_DIV(p[i].columns, VL);
        float *a = buffers + (size_t)omp_get_thread_num() * (a_units + b_units);
        task_run(&p[i], unit, blocks * down / grids[i].down * BLOCK, MIN(blocks * (down + 1) / grids[i].down * BLOCK, p[i].rows),
                 groups * across / grids[i].across * VL, MIN(groups * (across + 1) / grids[i].across * VL, p[i].columns),
                 a, a + a_units);
    }
}
