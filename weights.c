/* weights.c - safetensors: mapped for reading, atomic for writing, shards included. The contract is in weights.h.
 *
 * A weights file comes from a stranger, so reading is mostly refusing. The checks stand in the order in which a field
 * can be trusted: length, JSON, each tensor alone, then all of them against the file. After weights_read nothing is
 * checked again.
 *
 * Try it:  make tests/test_weights && tests/test_weights       (a second; its hostile files show what is refused)
 *
 * Map:  [weights.dtype] element types   [weights.read] one file   [weights.shards] a directory
 *       [weights.convert] to float and back   [weights.write] saving */
#include "weights.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian and used in place");

/* ---- element types ------------------------------------------------------------------------- [weights.dtype] ---- */

/* rank is the place in the official enum, which sorts by alignment and then as the authors wrote it. */
static const struct { const char *name; size_t size; int rank; } dtypes[DT_COUNT] = {
    [DT_BOOL] = {"BOOL", 1, 0}, [DT_U8] = {"U8", 1, 1},   [DT_I8] = {"I8", 1, 2},   [DT_F16] = {"F16", 2, 3},
    [DT_BF16] = {"BF16", 2, 4}, [DT_I32] = {"I32", 4, 5}, [DT_F32] = {"F32", 4, 6}, [DT_I64] = {"I64", 8, 7},
};

size_t dtype_size(DType t) { return dtypes[t].size; }
const char *dtype_name(DType t) { return dtypes[t].name; }

bool dtype_parse(const char *name, DType *out) {
    for (int t = 0; t < DT_COUNT; t++)
        if (!strcmp(name, dtypes[t].name)) return *out = (DType)t, true;
    return false;
}

static char *shape_text(int n_dims, const size_t *shape) { /* "[2,3]" */
    Buf b = {0};
    buf_str(&b, "[");
    for (int i = 0; i < n_dims; i++) buf_fmt(&b, "%s%zu", i ? "," : "", shape[i]);
    buf_str(&b, "]");
    return b.data;
}

/* ---- reading one file ----------------------------------------------------------------------- [weights.read] ---- */

enum { HEADER_MAX = 100000000 }; /* the official reader's limit: a larger one is an attack or not a header */

static int by_name(const void *a, const void *b) {
    const Tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_offset(const void *a, const void *b) { /* zero-sized tensors sort before the one that starts there */
    const Tensor *x = *(Tensor *const *)a, *y = *(Tensor *const *)b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* JSON numbers arrive as doubles: above 2^53 they are no longer what the file says. */
static size_t json_size(const cJSON *number, const char *file, const char *name, const char *what) {
    if (!cJSON_IsNumber(number)) die("%s: tensor %s: %s is not a number", file, name, what);
    double x = number->valuedouble;
    if (!(x >= 0 && x <= 0x1p53) || x != floor(x))
        die("%s: tensor %s: %s is %.17g, not a whole number from 0 to 2^53", file, name, what, x);
    return (size_t)x;
}

/* One header entry. data is the start of the data section, which has room bytes. */
static Tensor entry_read(const cJSON *entry, const char *file, const uint8_t *data, size_t room) {
    const char *name = entry->string;
    if (!cJSON_IsObject(entry)) die("%s: tensor %s: its entry is not an object", file, name);
    const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL;
    for (const cJSON *field = entry->child; field; field = field->next) {
        const cJSON **slot = !strcmp(field->string, "dtype") ? &dtype : !strcmp(field->string, "shape") ? &shape
                           : !strcmp(field->string, "data_offsets") ? &offsets : NULL;
        if (slot && *slot) die("%s: tensor %s: \"%s\" is given twice", file, name, field->string);
        if (slot) *slot = field;
    }
    Tensor t = {.file = file};
    if (!cJSON_IsString(dtype)) die("%s: tensor %s: \"dtype\" is missing or not a string", file, name);
    if (!dtype_parse(dtype->valuestring, &t.dtype))
        die("%s: tensor %s: dtype %s is not supported (F32 F16 BF16 I8 U8 I32 I64 BOOL are)", file, name,
            dtype->valuestring);
    if (!cJSON_IsArray(shape)) die("%s: tensor %s: \"shape\" is missing or not a list", file, name);
    t.n = 1;
    for (const cJSON *d = shape->child; d; d = d->next) {
        if (t.n_dims == TENSOR_DIMS_MAX)
            die("%s: tensor %s has more than %d dimensions", file, name, TENSOR_DIMS_MAX);
        size_t size = t.shape[t.n_dims++] = json_size(d, file, name, "a size in \"shape\"");
        if (__builtin_mul_overflow(t.n, size, &t.n)) die("%s: tensor %s: its shape overflows", file, name);
    }
    if (__builtin_mul_overflow(t.n, dtype_size(t.dtype), &t.bytes))
        die("%s: tensor %s: its shape overflows", file, name);
    if (!cJSON_IsArray(offsets)) die("%s: tensor %s: \"data_offsets\" is missing or not a list", file, name);
    const cJSON *first = offsets->child, *second = first ? first->next : NULL;
    if (!second || second->next) die("%s: tensor %s: \"data_offsets\" wants two numbers", file, name);
    size_t begin = json_size(first, file, name, "the begin in \"data_offsets\"");
    size_t end = json_size(second, file, name, "the end in \"data_offsets\"");
    if (begin > end) die("%s: tensor %s: data begins at %zu, after its end %zu", file, name, begin, end);
    if (end > room)
        die("%s: tensor %s: data ends at byte %zu of %zu: truncated?", file, name, end, room);
    if (end - begin != t.bytes) {
        char *text = shape_text(t.n_dims, t.shape);
        die("%s: tensor %s: %s of %s takes %zu bytes, data_offsets give %zu", file, name, text, dtype->valuestring,
            t.bytes, end - begin);
    }
    t.data = data + begin;
    t.aligned = (uintptr_t)t.data % dtype_size(t.dtype) == 0;
    t.name = xstrdup(name);
    return t;
}

static void metadata_read(Tensors *w, const cJSON *object, const char *file) {
    if (!cJSON_IsObject(object)) die("%s: \"__metadata__\" is not an object", file);
    int n = cJSON_GetArraySize(object);
    w->metadata_keys = xcalloc((size_t)n, sizeof(char *));
    w->metadata_values = xcalloc((size_t)n, sizeof(char *));
    for (const cJSON *m = object->child; m; m = m->next) {
        if (!cJSON_IsString(m)) die("%s: \"__metadata__\": the value of \"%s\" is not a string", file, m->string);
        w->metadata_keys[w->n_metadata] = xstrdup(m->string);
        w->metadata_values[w->n_metadata++] = xstrdup(m->valuestring);
    }
}

/* The ranges must tile the data section: a hole could hide a payload, an overlap would make two weights one. */
static void check_tiling(const Tensor *v, int n, const char *file, const uint8_t *data, size_t room) {
    const Tensor **order = xmalloc(sizeof(*order) * (size_t)n);
    for (int i = 0; i < n; i++) order[i] = &v[i];
    qsort(order, (size_t)n, sizeof *order, by_offset);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        size_t begin = (size_t)((const uint8_t *)order[i]->data - data);
        if (begin < at)
            die("%s: the data of tensors %s and %s overlap", file, order[i - 1]->name, order[i]->name);
        if (begin > at) die("%s: %zu bytes before tensor %s belong to no tensor", file, begin - at, order[i]->name);
        at = begin + order[i]->bytes;
    }
    if (at != room) die("%s: %zu bytes after the last tensor belong to no tensor", file, room - at);
    free(order);
}

/* One file: its tensors, sorted by name, are the result; its mapping is added to w->files. */
static Tensor *weights_read(Tensors *w, const char *path, int *n_out) {
    Mapped m = file_map(path);
    const char *file = m.path;
    static const char lfs[] = "version https://git-lfs";
    if (m.bytes >= sizeof lfs && !memcmp(m.data, lfs, sizeof lfs - 1))
        die("%s is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned", file);
    if (m.bytes < 8) die("%s: %zu bytes cannot be a safetensors file: truncated?", file, m.bytes);
    uint64_t header_bytes;
    memcpy(&header_bytes, m.data, 8);
    if (header_bytes > HEADER_MAX)
        die("%s: a header of %llu bytes is over the limit of %d: not a safetensors file", file,
            (unsigned long long)header_bytes, HEADER_MAX);
    if (header_bytes > m.bytes - 8)
        die("%s: %zu bytes, the header alone promises %llu: truncated?", file, m.bytes,
            (unsigned long long)header_bytes + 8);
    const char *text = (const char *)m.data + 8, *stop = NULL;
    if (!header_bytes || text[0] != '{') die("%s: the header does not begin with {: not a safetensors file", file);
    cJSON *header = cJSON_ParseWithLengthOpts(text, header_bytes, &stop, false);
    if (!header)
        die("%s: the header is not JSON (byte %td): damaged or not a safetensors file", file, stop ? stop - text : 0);
    for (const char *p = stop; p < text + header_bytes; p++)
        if (!strchr(" \t\r\n", *p) || !*p) die("%s: the header goes on after its JSON (byte %td)", file, p - text);

    const uint8_t *data = m.data + 8 + header_bytes;
    size_t room = m.bytes - 8 - header_bytes;
    int n = 0;
    bool metadata_seen = false;
    Tensor *v = xcalloc((size_t)cJSON_GetArraySize(header), sizeof *v);
    /* Children are walked, never looked up by name: a look-up is linear, and a header has thousands. */
    for (const cJSON *entry = header->child; entry; entry = entry->next) {
        if (strcmp(entry->string, "__metadata__")) {
            v[n++] = entry_read(entry, file, data, room);
            continue;
        }
        if (metadata_seen) die("%s: \"__metadata__\" is given twice", file);
        metadata_seen = true;
        if (!w->n_files) metadata_read(w, entry, file);
    }
    cJSON_Delete(header);
    qsort(v, (size_t)n, sizeof *v, by_name);
    for (int i = 1; i < n; i++)
        if (!strcmp(v[i - 1].name, v[i].name)) die("%s: tensor %s is given twice", file, v[i].name);
    check_tiling(v, n, file, data, room);
    w->files = xrealloc(w->files, sizeof *w->files * (size_t)(w->n_files + 1));
    w->files[w->n_files++] = m;
    *n_out = n;
    return v;
}

/* ---- a directory -------------------------------------------------------------------------- [weights.shards] ---- */

typedef struct { const char *tensor, *file; } MapEntry;

static int by_file_then_tensor(const void *a, const void *b) {
    const MapEntry *x = a, *y = b;
    int c = strcmp(x->file, y->file);
    return c ? c : strcmp(x->tensor, y->tensor);
}

/* The index decides: a tensor comes from the shard it names, and what a shard holds besides is left alone. */
static void shards_read(Tensors *w, const char *dir, const char *index_path) {
    cJSON *index = json_read(index_path, JSON_OBJECT);
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    if (!cJSON_IsObject(map)) die("%s: \"weight_map\" is missing or not an object", index_path);
    int n = cJSON_GetArraySize(map), at = 0;
    MapEntry *entries = xcalloc((size_t)n, sizeof *entries);
    for (const cJSON *e = map->child; e; e = e->next) {
        if (!cJSON_IsString(e)) die("%s: tensor %s: its file is not a string", index_path, e->string);
        const char *file = e->valuestring;
        if (!*file || strchr(file, '/') || strchr(file, '\\') || strstr(file, ".."))
            die("%s: tensor %s: \"%s\" is not a plain file name", index_path, e->string, file);
        entries[at++] = (MapEntry){e->string, file};
    }
    qsort(entries, (size_t)n, sizeof *entries, by_file_then_tensor);

    w->v = xcalloc((size_t)n, sizeof *w->v);
    for (int i = 0; i < n;) {
        const char *shard = entries[i].file;
        char *shard_path = path_join(dir, shard);
        if (!file_exists(shard_path)) die("%s names %s, which is missing: a partial download?", index_path, shard);
        int n_held;
        Tensor *held = weights_read(w, shard_path, &n_held);
        int h = 0;
        for (; i < n && !strcmp(entries[i].file, shard); i++) { /* both sides are sorted: one pass merges them */
            while (h < n_held && strcmp(held[h].name, entries[i].tensor) < 0) free(held[h++].name);
            if (h == n_held || strcmp(held[h].name, entries[i].tensor))
                die("%s says that %s holds tensor %s, but it does not", index_path, shard, entries[i].tensor);
            w->v[w->n++] = held[h++];
            if (i + 1 < n && !strcmp(entries[i + 1].file, shard) && !strcmp(entries[i + 1].tensor, entries[i].tensor))
                die("%s: tensor %s is given twice", index_path, entries[i].tensor);
        }
        while (h < n_held) free(held[h++].name);
        free(held);
        free(shard_path);
    }
    qsort(w->v, (size_t)w->n, sizeof *w->v, by_name);
    for (int i = 1; i < w->n; i++)
        if (!strcmp(w->v[i - 1].name, w->v[i].name)) die("%s: tensor %s is given twice", index_path, w->v[i].name);
    free(entries);
    cJSON_Delete(index);
}

Tensors *tensors_open(const char *path) {
    Tensors *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    if (!is_dir(path)) {
        w->v = weights_read(w, path, &w->n);
        return w;
    }
    char *single = path_join(path, "model.safetensors"), *index = path_join(path, "model.safetensors.index.json");
    if (file_exists(single)) w->v = weights_read(w, single, &w->n);
    else if (file_exists(index)) shards_read(w, path, index);
    else {
        char *pickle = path_join(path, "pytorch_model.bin");
        if (file_exists(pickle))
            die("%s holds pytorch_model.bin only, a Python pickle: get the model's safetensors revision", path);
        die("%s holds neither model.safetensors nor model.safetensors.index.json", path);
    }
    free(single);
    free(index);
    return w;
}

const Tensor *tensors_find(const Tensors *w, const char *name) {
    for (int low = 0, high = w->n; low < high;) {
        int middle = low + (high - low) / 2, c = strcmp(name, w->v[middle].name);
        if (!c) return &w->v[middle];
        if (c < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

const Tensor *tensors_get(const Tensors *w, const char *name, int n_dims, const size_t *shape) {
    const Tensor *t = tensors_find(w, name);
    if (!t) /* one of the names that are there shows at once a prefix that differs */
        die("%s has no tensor %s %s (%d tensors, the first is %s)", w->path, name, shape_text(n_dims, shape), w->n,
            w->n ? w->v[0].name : "none");
    if (t->n_dims != n_dims || (n_dims && memcmp(t->shape, shape, sizeof *shape * (size_t)n_dims)))
        die("%s: tensor %s has shape %s, the configuration asks for %s", t->file, name,
            shape_text(t->n_dims, t->shape), shape_text(n_dims, shape));
    return t;
}

const char *tensors_metadata(const Tensors *w, const char *key) {
    for (int i = 0; i < w->n_metadata; i++)
        if (!strcmp(w->metadata_keys[i], key)) return w->metadata_values[i];
    return NULL;
}

/* In order, Linux reads megabytes at a time and maps them as huge pages. Pages that come in as products need them, from
 * many places by turns, stay small: decoding then reached 83% of the memory's speed rather than 95. */
void tensors_populate(const Tensors *w) {
#ifdef MADV_POPULATE_READ
    size_t bytes = 0, memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < w->n_files; i++) bytes += w->files[i].bytes;
    if (bytes > memory / 4 * 3) return;
    for (int i = 0; i < w->n_files; i++) {      /* what cannot be read now says so when it is used */
        void *data = (void *)(uintptr_t)w->files[i].data;
        if (!w->files[i].bytes) continue;
        (void)madvise(data, w->files[i].bytes, MADV_HUGEPAGE);
        (void)madvise(data, w->files[i].bytes, MADV_POPULATE_READ);
    }
#else
    (void)w;
#endif
}

DType tensors_dtype(const char *path) {
    Tensors *w = tensors_open(path);
    size_t count[DT_COUNT] = {0};
    for (int i = 0; i < w->n; i++)
        if (w->v[i].dtype <= DT_BF16) count[w->v[i].dtype] += w->v[i].n;
    tensors_close(w);
    DType most = DT_F32;
    for (int t = 0; t < DT_COUNT; t++)
        if (count[t] > count[most]) most = (DType)t;
    return most;
}

void tensors_close(Tensors *w) {
    if (!w) return;
    for (int i = 0; i < w->n; i++) free(w->v[i].name);
    for (int i = 0; i < w->n_metadata; i++) free(w->metadata_keys[i]), free(w->metadata_values[i]);
    for (int i = 0; i < w->n_files; i++) file_unmap(&w->files[i]);
    free(w->metadata_keys);
    free(w->metadata_values);
    free(w->files);
    free(w->path);
    free(w->v);
    free(w);
}

/* ---- to float and back ------------------------------------------------------------------- [weights.convert] ---- */

static inline float f32_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    /* Subnormals go through an integer, not through a float multiply, which flush-to-zero mode would turn into 0. */
    uint32_t tiny = f32_bits((float)(int32_t)mantissa * 0x1p-24f);
    uint32_t wide = (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | mantissa << 13;
    return f32_from_bits(sign | (exponent == 0 ? tiny : wide));
}

static inline uint16_t f32_to_bf16(float x) {
    uint32_t b = f32_bits(x);
    if ((b & 0x7fffffff) > 0x7f800000) return (uint16_t)(b >> 16 | 0x40); /* NaN: rounding could make it infinity */
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static inline uint16_t f32_to_f16(float x) {
    uint32_t b = f32_bits(x), magnitude = b & 0x7fffffff;
    uint16_t sign = (uint16_t)(b >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return sign | 0x7e00 | (uint16_t)(magnitude >> 13 & 0x1ff);
    if (magnitude >= 0x477ff000) return sign | 0x7c00; /* 65520 and more round beyond 65504, the largest half */
    if (magnitude < 0x38800000) { /* below 2^-14: adding 0.5 leaves the multiple of 2^-24, rounded, in the low bits */
        uint32_t halved = f32_bits(f32_from_bits(magnitude) + 0.5f);
        return sign | (uint16_t)(halved - 0x3f000000);
    }
    return sign | (uint16_t)((magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

/* memcpy per element compiles to one unaligned load and vectorises: data may lie at any byte. */
#define WIDEN(type, value)                                                                                             \
    for (size_t i = 0; i < n; i++) {                                                                                   \
        type v;                                                                                                        \
        memcpy(&v, src + i * sizeof v, sizeof v);                                                                      \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    break

static void widen(DType dtype, const unsigned char *restrict src, float *restrict out, size_t n) {
    switch (dtype) {
    case DT_F32: memcpy(out, src, n * 4); break;
    case DT_F16: WIDEN(uint16_t, f16_to_f32(v));
    case DT_BF16: WIDEN(uint16_t, bf16_to_f32(v));
    case DT_I8: WIDEN(int8_t, (float)v);
    case DT_U8: WIDEN(uint8_t, (float)v);
    case DT_I32: WIDEN(int32_t, (float)v);
    case DT_I64: WIDEN(int64_t, (float)v);
    case DT_BOOL: WIDEN(uint8_t, v ? 1.0f : 0.0f);
    case DT_COUNT: break;
    }
}

enum { CONVERT_BLOCK = 1 << 16 }; /* elements to a thread at a time: large against the cost of handing out work */

/* Few numbers go without a parallel region, which takes a microsecond and memory even where its `if` says no: quantize.c
 * converts single scales, a hundred million times. */
void tensor_to_f32(const Tensor *t, float *out) {
    size_t size = dtype_size(t->dtype);
    if (t->n <= 4 * CONVERT_BLOCK) { widen(t->dtype, t->data, out, t->n); return; }
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < t->n; first += CONVERT_BLOCK) {
        size_t n = t->n - first < CONVERT_BLOCK ? t->n - first : CONVERT_BLOCK;
        widen(t->dtype, (const unsigned char *)t->data + first * size, out + first, n);
    }
}
/* Its first and last page, too: neighbours that are on them, or on the same huge page, come again when they are read. */
void tensor_forget(const Tensor *t) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = (uintptr_t)t->data / page * page, to = ((uintptr_t)t->data + t->bytes + page - 1) / page * page;
    if (t->bytes) madvise((void *)from, to - from, MADV_DONTNEED);
}

static void narrow(DType dtype, const float *in, void *out, size_t n) {
    uint16_t *half = out;
    switch (dtype) {
    case DT_F32: memcpy(out, in, n * 4); break;
    case DT_F16: for (size_t i = 0; i < n; i++) half[i] = f32_to_f16(in[i]); break;
    case DT_BF16: for (size_t i = 0; i < n; i++) half[i] = f32_to_bf16(in[i]); break;
    default: assert(!"f32_to_dtype: F32, F16 or BF16");
    }
}
void f32_to_dtype(const float *in, size_t n, DType dtype, void *out) {
    size_t size = dtype_size(dtype);
    if (n <= 4 * CONVERT_BLOCK) { narrow(dtype, in, out, n); return; }
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < n; first += CONVERT_BLOCK) {
        size_t n_now = n - first < CONVERT_BLOCK ? n - first : CONVERT_BLOCK;
        narrow(dtype, in + first, (unsigned char *)out + first * size, n_now);
    }
}

/* ---- saving -------------------------------------------------------------------------------- [weights.write] ---- */

static size_t out_elements(const TensorOut *t) {
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n = size_mul(n, t->shape[i]);
    return n;
}

static size_t out_bytes(const TensorOut *t) { return size_mul(out_elements(t), dtype_size(t->dtype)); }

static int by_official_order(const void *a, const void *b) {
    const TensorOut *x = a, *y = b;
    int c = dtypes[y->dtype].rank - dtypes[x->dtype].rank; /* widest first: with the padded header all is aligned */
    return c ? c : strcmp(x->name, y->name);
}

TensorFile tensors_begin(const char *path, TensorOut *v, int n, const char *metadata_format) {
    if (n) qsort(v, (size_t)n, sizeof *v, by_official_order);
    TensorFile f = {.v = v, .at = xcalloc((size_t)n, sizeof *f.at), .n = n};
    Buf header = {0};
    buf_str(&header, "{");
    if (metadata_format) {
        buf_str(&header, "\"__metadata__\":{\"format\":\"");
        json_escape(&header, metadata_format, strlen(metadata_format));
        buf_str(&header, "\"}");
    }
    size_t at = 0, largest = 0, largest_at = 0;
    for (int i = 0; i < n; i++) {
        char *shape = shape_text(v[i].n_dims, v[i].shape);
        size_t bytes = out_bytes(&v[i]);
        buf_str(&header, header.len > 1 ? ",\"" : "\"");
        json_escape(&header, v[i].name, strlen(v[i].name));
        buf_fmt(&header, "\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", dtype_name(v[i].dtype), shape,
                at, at + bytes);
        f.at[i] = at;
        if (bytes > largest) largest = bytes, largest_at = at;
        at += bytes;
        free(shape);
    }
    buf_str(&header, "}");
    /* The official padding; where matrices are large, so much that they begin with a cache line, if their sizes allow
     * it: what has to be put together from two lines is decoded a tenth slower. */
    const bool aligned = largest >= 1 << 16 && largest_at % 8 == 0;
    while (header.len % 8 || (aligned && (8 + header.len + largest_at) % 64)) buf_str(&header, " ");
    if (header.len > HEADER_MAX) die("cannot write %s: %d tensors make a header over %d bytes", path, n, HEADER_MAX);
    for (int i = 0; i < n; i++) f.at[i] += 8 + header.len;

    enum { LARGE = 64 << 20 };                                /* a small one would only take up more memory */
    f.out = out_open(path);
    if (at >= LARGE) out_by_huge_pages(&f.out);
    uint64_t header_bytes = header.len;
    out_write(&f.out, &header_bytes, 8);
    out_write(&f.out, header.data, header.len);
    buf_free(&header);
    return f;
}

void tensors_put(TensorFile *f, const char *name, const void *data, size_t n_bytes) {
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->v[i].name, name)) continue;
        assert(n_bytes == out_bytes(&f->v[i]));
        out_seek(&f->out, f->at[i]);
        out_write(&f->out, data, n_bytes);
        f->n_put++;
        return;
    }
    assert(!"tensors_put: a tensor that was not announced");
}

void tensors_reserve(TensorFile *f) {
    static const char zeros[1 << 20];
    size_t end = f->out.at;
    for (int i = 0; i < f->n; i++) end += out_bytes(&f->v[i]);
    while (f->out.at < end) out_write(&f->out, zeros, end - f->out.at < sizeof zeros ? end - f->out.at : sizeof zeros);
}

void tensors_end(TensorFile *f) {
    assert(f->n_put == f->n);
    out_close(&f->out);
    free(f->at);
    *f = (TensorFile){0};
}

void tensors_save(const char *path, TensorOut *v, int n, const char *metadata_format) {
    enum { PIECE_BYTES = 4 << 20 };
    TensorFile f = tensors_begin(path, v, n, metadata_format);
    void *piece = xmalloc(PIECE_BYTES);
    for (int i = 0; i < n; i++, f.n_put++) {                          /* in the file's order: no seeking */
        if (!v[i].fill) {
            out_write(&f.out, v[i].ctx, out_bytes(&v[i]));
            continue;
        }
        size_t size = dtype_size(v[i].dtype), n_all = out_elements(&v[i]), n_piece = PIECE_BYTES / size;
        for (size_t first = 0; first < n_all; first += n_piece) {
            size_t n_now = n_all - first < n_piece ? n_all - first : n_piece;
            v[i].fill(v[i].ctx, first, n_now, piece);
            out_write(&f.out, piece, n_now * size);
        }
    }
    free(piece);
    tensors_end(&f);
}

/* Removes files of an earlier save in the other layout, or in another number of shards: tensors_open would find two
 * models and take the stale one. n_shards 1: model.safetensors is what stays. */
static void remove_stale(const char *dir, int n_shards) {
    DIR *d = opendir(dir);
    if (!d) die("%s: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        int i, of, used = 0;
        bool shard = sscanf(e->d_name, "model-%5d-of-%5d.safetensors%n", &i, &of, &used) == 2 && used &&
                     !e->d_name[used];
        bool stale = (shard && (n_shards == 1 || of != n_shards)) ||
                     !strcmp(e->d_name, n_shards == 1 ? "model.safetensors.index.json" : "model.safetensors");
        if (!stale) continue;
        char *path = path_join(dir, e->d_name);
        if (unlink(path)) die("cannot remove %s: %s", path, strerror(errno));
        free(path);
    }
    closedir(d);
}

static int entry_by_tensor(const void *a, const void *b) {
    return strcmp(((const MapEntry *)a)->tensor, ((const MapEntry *)b)->tensor);
}

void tensors_save_sharded(const char *dir, TensorOut *v, int n, size_t max_shard_bytes) {
    make_dirs(dir);
    /* Shards are runs of v, filled until the next tensor does not fit. One larger than the limit has its own. */
    int *shard_of = xcalloc((size_t)n, sizeof *shard_of), n_shards = 1;
    size_t total = 0, filled = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes = out_bytes(&v[i]);
        size_t left = filled < max_shard_bytes ? max_shard_bytes - filled : 0;
        if (max_shard_bytes && filled && bytes > left) n_shards++, filled = 0;
        shard_of[i] = n_shards - 1;
        filled += bytes;
        total += bytes;
    }
    if (n_shards == 1) {
        char *path = path_join(dir, "model.safetensors");
        tensors_save(path, v, n, "pt");
        free(path);
    } else {
        MapEntry *map = xcalloc((size_t)n, sizeof *map);
        char **names = xcalloc((size_t)n_shards, sizeof *names);
        for (int s = 0, i = 0; s < n_shards; s++) {
            int first = i;
            names[s] = strf("model-%05d-of-%05d.safetensors", s + 1, n_shards);
            for (; i < n && shard_of[i] == s; i++) map[i] = (MapEntry){v[i].name, names[s]};
            char *path = path_join(dir, names[s]);
            tensors_save(path, v + first, i - first, "pt");
            free(path);
        }
        qsort(map, (size_t)n, sizeof *map, entry_by_tensor);
        Buf b = {0};
        buf_fmt(&b, "{\n  \"metadata\": {\n    \"total_size\": %zu\n  },\n  \"weight_map\": {", total);
        for (int i = 0; i < n; i++) {
            buf_str(&b, i ? ",\n    \"" : "\n    \"");
            json_escape(&b, map[i].tensor, strlen(map[i].tensor));
            buf_fmt(&b, "\": \"%s\"", map[i].file);
        }
        buf_str(&b, "\n  }\n}\n");
        char *path = path_join(dir, "model.safetensors.index.json");
        file_write(path, b.data, b.len); /* last: an index never names a shard that is not there yet */
        free(path);
        buf_free(&b);
        for (int s = 0; s < n_shards; s++) free(names[s]);
        free(names);
        free(map);
    }
    free(shard_of);
    remove_stale(dir, n_shards);
}
