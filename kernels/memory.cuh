/* kernels/memory.cuh - [op.mem] memory, transfers, and conversions between number formats.
 *
 * On the CPU "the device" is the host: a transfer is a copy, and sync has nothing to wait for. Blocks above 4 MB are
 * split among the threads, because one core cannot load the memory bus alone. */
#pragma once

/* Elements below which one thread finishes before the others have woken: entering a parallel region costs 10 to 60 us,
 * and one core streams 64K elements from cache in about that time. */
enum { PAR_MIN = 1 << 16 };

#include <stdlib.h>

#ifndef __CUDACC__
#include <sys/mman.h>
/* ================================================ CPU ============================================================ */

/* calloc takes large blocks from the kernel, which zeroes each page at the first touch: gigabytes cost nothing until
 * they are used, and a page lands in the memory of the core that uses it. Blocks of several huge pages begin at one and
 * ask for them, where the system leaves that to programs (Ubuntu does): attention, whose rows lie far apart, gained a
 * tenth. The word before a block is calloc's pointer. */
static void *mem_alloc(size_t bytes) {
    const size_t huge_page = 2 << 20, align = bytes >= 2 * huge_page ? huge_page : 64;
    char *raw = bytes < SIZE_MAX - 2 * align ? (char *)calloc(1, bytes + align + sizeof raw) : NULL;
    if (!raw) die("out of memory: %zu bytes asked for", bytes);
    char *p = (char *)(((uintptr_t)raw + sizeof raw + align - 1) & ~(uintptr_t)(align - 1));
    memcpy(p - sizeof raw, &raw, sizeof raw);
#ifdef MADV_HUGEPAGE
    if (align == huge_page) madvise(p, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return p;
}

static void mem_free(void *p) {
    if (!p) return;
    char *raw;
    memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
    free(raw);
}

static void *scratch(int slot, size_t bytes) {
    static struct { void *p; size_t bytes; } slots[SCRATCH_SLOTS];
    if (bytes > slots[slot].bytes) {
        mem_free(slots[slot].p);
        slots[slot].p = mem_alloc(bytes);
        slots[slot].bytes = bytes;
    }
    return slots[slot].p;
}

enum { COPY_BLOCK = 1 << 20 };
static void copy(void *dst, const void *src, size_t bytes) {
    size_t blocks = CEIL_DIV(bytes, COPY_BLOCK);
#pragma omp parallel for if (blocks > 4)
    for (size_t i = 0; i < blocks; i++) {
        size_t at = i * COPY_BLOCK;
        memcpy((char *)dst + at, (const char *)src + at, MIN(bytes - at, COPY_BLOCK));
    }
}
static void zero(void *dst, size_t bytes) {
    size_t blocks = CEIL_DIV(bytes, COPY_BLOCK);
#pragma omp parallel for if (blocks > 4)
    for (size_t i = 0; i < blocks; i++) {
        size_t at = i * COPY_BLOCK;
        memset((char *)dst + at, 0, MIN(bytes - at, COPY_BLOCK));
    }
}
static void upload(void *dst, const void *host, size_t bytes) { copy(dst, host, bytes); }
static void download(void *host, const void *src, size_t bytes) { copy(host, src, bytes); }
static void sync(void) {}
static void act_to_host(float *host, const act *x, size_t n) { copy(host, x, n * sizeof *x); }
static void act_from_host(act *y, const float *host, size_t n) { copy(y, host, n * sizeof *y); }

/* ---- conversions of n values in a row --------------------------------------------------------------------------- *
 * Compilers vectorise the bf16 formulas; for halves the instruction set has its own conversions. */
static void f16_to_f32(float *y, const f16 *x, size_t n) {
    size_t i = 0;
#if VL == 16                                                  /* exact, as f16_float */
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i))));
#elif VL == 8
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
#endif
    for (; i < n; i++) y[i] = f16_float(x[i]);
}
static void f32_to_f16(f16 *y, const float *x, size_t n) {
    size_t i = 0;
#if VL == 16
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#elif VL == 8
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) y[i] = float_f16(x[i]);
}
static void bf16_to_f32(float *y, const bf16 *x, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = bf16_float(x[i]);
}
static void f32_to_bf16(bf16 *y, const float *x, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = float_bf16(x[i]);
}

/* scale[i] of a quantised matrix. */
static float mat_scale(const Mat *w, size_t i) {
    float f;
    uint16_t h;
    if (w->scale_dtype == DT_F32) return memcpy(&f, (const char *)w->scale + 4 * i, 4), f;
    memcpy(&h, (const char *)w->scale + 2 * i, 2);
    return w->scale_dtype == DT_F16 ? f16_float(h) : bf16_float(h);
}
/* n elements of a row of a quantised matrix from stored column c0 on: w = (q - zero) * scale. */
static void quant_read(float *y, const Mat *w, size_t row, size_t c0, size_t n) {
    const size_t groups = mat_groups(w), G = groups > 1 ? w->group : w->cols;
    const char *q_row = (const char *)w->data + row * mat_row_bytes(w);
    for (size_t c = c0, stop; c < c0 + n; c = stop) {
        const size_t g = c / G, i = row * groups + g;
        stop = MIN((g + 1) * G, c0 + n);
        const float scale = mat_scale(w, i);
        float *y_c = y + (c - c0);
        if (w->dtype == DT_I8) {
            const int8_t *q = (const int8_t *)q_row + c;
            const int zero = w->zero ? w->zero[i] : 0;
#pragma omp simd
            for (size_t k = 0; k < stop - c; k++) y_c[k] = (float)(q[k] - zero) * scale;
        } else {
            const uint8_t *q = (const uint8_t *)q_row + c / 2;
            const int zero = 8 + (w->zero ? w->zero[i] : 0);
            if (c % 2) {                                      /* begins with a high nibble */
                *y_c++ = (float)((*q++ >> 4) - zero) * scale;
                if (++c == stop) continue;
            }
#pragma omp simd
            for (size_t k = 0; k < (stop - c) / 2; k++) {
                y_c[2 * k] = (float)((q[k] & 15) - zero) * scale;
                y_c[2 * k + 1] = (float)((q[k] >> 4) - zero) * scale;
            }
            if ((stop - c) % 2) y_c[stop - c - 1] = (float)((q[(stop - c) / 2] & 15) - zero) * scale;
        }
    }
}
/* n elements of a matrix from element `at` on (of a quantised one: within a row, as stored). memcpy for floats: in a
 * file's mapping they may lie at odd addresses. */
static void mat_read(float *y, const Mat *w, size_t at, size_t n) {
    if (mat_quantised(w)) quant_read(y, w, at / w->cols, at % w->cols, n);
    else if (w->dtype == DT_F32) memcpy(y, (const char *)w->data + 4 * at, 4 * n);
    else if (w->dtype == DT_F16) f16_to_f32(y, (const f16 *)w->data + at, n);
    else bf16_to_f32(y, (const bf16 *)w->data + at, n);
}
static void mat_write(const Mat *w, size_t at, const float *x, size_t n) {
    if (w->dtype == DT_F32) memcpy((char *)w->data + 4 * at, x, 4 * n);
    else if (w->dtype == DT_F16) f32_to_f16((f16 *)w->data + at, x, n);
    else f32_to_bf16((bf16 *)w->data + at, x, n);
}

enum { CONVERT_BLOCK = 1 << 14 };
static void mat_from_f32(const Mat *dst, const float *src) {
    size_t n = dst->rows * dst->cols, blocks = CEIL_DIV(n, CONVERT_BLOCK);
#pragma omp parallel for if (n > PAR_MIN)
    for (size_t i = 0; i < blocks; i++)
        mat_write(dst, i * CONVERT_BLOCK, src + i * CONVERT_BLOCK, MIN(n - i * CONVERT_BLOCK, CONVERT_BLOCK));
}
static void mat_to_f32(float *dst, const Mat *src) {
    size_t n = src->rows * src->cols, blocks = CEIL_DIV(n, CONVERT_BLOCK);
    if (mat_quantised(src)) {
        const size_t C = src->cols;
        float *rows = src->order ? scratch(SCRATCH_QUANT, (size_t)omp_get_max_threads() * C * sizeof *rows) : NULL;
#pragma omp parallel for if (n > PAR_MIN)
        for (size_t o = 0; o < src->rows; o++) {
            float *row = rows ? rows + (size_t)omp_get_thread_num() * C : dst + o * C;
            quant_read(row, src, o, 0, C);
            for (size_t c = 0; rows && c < C; c++) dst[o * C + (size_t)src->order[c]] = row[c];
        }
        return;
    }
#pragma omp parallel for if (n > PAR_MIN)
    for (size_t i = 0; i < blocks; i++)
        mat_read(dst + i * CONVERT_BLOCK, src, i * CONVERT_BLOCK, MIN(n - i * CONVERT_BLOCK, CONVERT_BLOCK));
}
#else
/* ================================================ CUDA =========================================================== */
static void stream_ready(void) {
    if (!stream) CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
}

#ifdef ACT_BF16                                               /* both CUDA flavours may be in the program: one has it */
extern "C" int cuda_devices(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError();                                       /* no driver, no GPU: an answer, not an error to keep */
    return 0;
}
#endif

static void *mem_alloc(size_t bytes) {
    stream_ready();
    void *p = NULL;
    if (cudaMalloc(&p, MAX(bytes, 1)) != cudaSuccess) {
        size_t free_bytes = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total);
        die("out of GPU memory: %zu bytes asked for, %zu of %zu free", bytes, free_bytes, total);
    }
    CUDA_OK(cudaMemsetAsync(p, 0, bytes, stream));
    return p;
}
static void mem_free(void *p) {
    if (stream) CUDA_OK(cudaStreamSynchronize(stream));       /* ops that still use it finish first */
    CUDA_OK(cudaFree(p));
}
static void *scratch(int slot, size_t bytes) {
    static struct { void *p; size_t bytes; } slots[SCRATCH_SLOTS];
    if (bytes > slots[slot].bytes) {
        mem_free(slots[slot].p);
        slots[slot].p = mem_alloc(bytes);
        slots[slot].bytes = bytes;
    }
    return slots[slot].p;
}
static void sync(void) {
    if (stream) CUDA_OK(cudaStreamSynchronize(stream));
}
static void upload(void *dst, const void *host, size_t bytes) {
    CUDA_OK(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream));
    sync();
}
static void download(void *host, const void *src, size_t bytes) {
    CUDA_OK(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream));
    sync();
}
static void copy(void *dst, const void *src, size_t bytes) {
    CUDA_OK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream));
}
static void zero(void *dst, size_t bytes) { CUDA_OK(cudaMemsetAsync(dst, 0, bytes, stream)); }

#ifdef ACT_BF16
/* The bf16 values land in the upper half of host's own space and are widened from the front: value i is written to
 * bytes 4i .. 4i+3 after every source below 2n + 2i has been read. No second buffer, and half the bytes over the
 * bus. */
static void act_to_host(float *host, const act *x, size_t n) {
    const char *half = (const char *)host + 2 * n;
    download((char *)host + 2 * n, x, 2 * n);
    for (size_t i = 0; i < n; i++) {
        bf16 h;
        memcpy(&h, half + 2 * i, 2);
        host[i] = bf16_float(h);
    }
}
static void act_from_host(act *y, const float *host, size_t n) {
    bf16 *rounded = (bf16 *)xmalloc(MAX(n, 1) * sizeof *rounded);
    for (size_t i = 0; i < n; i++) rounded[i] = float_bf16(host[i]);
    upload(y, rounded, n * sizeof *rounded);
    free(rounded);
}
#else
static void act_to_host(float *host, const act *x, size_t n) { download(host, x, n * sizeof *x); }
static void act_from_host(act *y, const float *host, size_t n) { upload(y, host, n * sizeof *y); }
#endif

/* y = x in another number format, rounded. */
template <int W, typename To, typename From> static __global__ void convert_kernel(To *y, const From *x, size_t n) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i + W <= n) {
        Pack<From, W> in = load<W>(x + i);
        Pack<To, W> out;
        for (int k = 0; k < W; k++) out.v[k] = from_f<To>(to_f(in.v[k]));
        store<W>(y + i, out);
    } else
        for (; i < n; i++) y[i] = from_f<To>(to_f(x[i]));
}
template <typename To, typename From> static void convert(To *y, const From *x, size_t n) {
    if (!n) return;
    if (aligned16(x, y)) convert_kernel<8><<<(unsigned)CEIL_DIV(n, 256 * 8), 256, 0, stream>>>(y, x, n);
    else convert_kernel<1><<<(unsigned)CEIL_DIV(n, 256), 256, 0, stream>>>(y, x, n);
    LAUNCHED();
}
static void mat_from_f32(const Mat *dst, const float *src) {
    size_t n = dst->rows * dst->cols;
    if (dst->dtype == DT_F32) copy(dst->data, src, n * sizeof *src);
    else if (dst->dtype == DT_F16) convert((__half *)dst->data, src, n);
    else convert((__nv_bfloat16 *)dst->data, src, n);
}
/* w = (q - zero) * scale of a quantised matrix, eight columns a thread; with reorder each goes to the input it belongs
 * to. */
__device__ static inline float mat_scale(const Mat *w, size_t i) {
    if (w->scale_dtype == DT_F32) return ((const float *)w->scale)[i];
    if (w->scale_dtype == DT_F16) return to_f(((const __half *)w->scale)[i]);
    return to_f(((const __nv_bfloat16 *)w->scale)[i]);
}
template <typename To> __device__ static inline void quant_read8(To *y, const Mat *w, size_t o, size_t c, int n) {
    size_t groups = mat_groups(w), i = o * groups + (groups > 1 ? c / w->group : 0);
    const char *row = (const char *)w->data + o * mat_row_bytes(w);
    float scale = mat_scale(w, i), zero = w->zero ? (float)w->zero[i] : 0.0f;
    uint32_t word = w->dtype == DT_I4 ? *(const uint32_t *)(row + c / 2) : 0;
    for (int k = 0; k < n; k++) {
        float q = w->dtype == DT_I4 ? (float)((int)(word >> (4 * k) & 15) - 8) : (float)((const int8_t *)row)[c + k];
        y[k] = from_f<To>((q - zero) * scale);
    }
}
template <typename To> static __global__ void quant_kernel(To *y, Mat w, bool reorder) {
    size_t eights = CEIL_DIV(w.cols, 8);
    const size_t n_threads = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < w.rows * eights; i += n_threads) {
        size_t o = i / eights, c = i % eights * 8;
        int n = (int)MIN(w.cols - c, (size_t)8);
        To v[8];
        quant_read8(v, &w, o, c, n);
        for (int k = 0; k < n; k++) y[o * w.cols + (reorder && w.order ? (size_t)w.order[c + k] : c + k)] = v[k];
    }
}
template <typename To> static void quant_convert(To *y, const Mat *w, bool reorder) {
    quant_kernel<<<(unsigned)MIN(CEIL_DIV(w->rows * CEIL_DIV(w->cols, 8), 256), (size_t)16384), 256, 0,
        stream>>>(y, *w, reorder);
    LAUNCHED();
}
static void mat_to_f32(float *dst, const Mat *src) {
    size_t n = src->rows * src->cols;
    if (mat_quantised(src)) { quant_convert(dst, src, true); return; }
    if (src->dtype == DT_F32) copy(dst, src->data, n * sizeof *dst);
    else if (src->dtype == DT_F16) convert(dst, (const __half *)src->data, n);
    else convert(dst, (const __nv_bfloat16 *)src->data, n);
}
#endif
