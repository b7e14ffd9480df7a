/* test_weights.c - safetensors: what is written reads back bit for bit, and damaged or hostile files are refused in
 * one sentence.  Run: tests/test_weights */
#include "../weights.h"
#include "test.h"
#include <sys/resource.h>
#include <sys/stat.h>

static const char *in_tmp(const char *name) {
    static char ring[64][512];
    static int next;
    char *p = ring[next++ % 64];
    snprintf(p, sizeof ring[0], "%s/%s", test_tmpdir(), name);
    return p;
}

/* A raw file: header text of our choosing, then n_data bytes 0, 1, 2... length < 0: the true header length. */
static const char *raw_file(const char *name, long long length, const char *header, size_t n_data) {
    const char *path = in_tmp(name);
    FILE *f = fopen(path, "wb");
    uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, strlen(header), f);
    for (size_t i = 0; i < n_data; i++) fputc((int)(i & 255), f);
    fclose(f);
    return path;
}

#define ENTRY(name, dtype, shape, begin, end)                                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* ---- hostile files ---------------------------------------------------------------------------------------------- */
static void hostile(const char *substring, const char *header, size_t n_data) {
    const char *path = raw_file("hostile.safetensors", -1, header, n_data);
    CHECK_DIES({ tensors_open(path); }, substring);
    CHECK_DIES({ tensors_open(path); }, "hostile.safetensors"); /* the sentence names the file */
}

static void test_hostile(void) {
    static const struct { const char *says, *header; size_t n_data; } cases[] = {
        {"not JSON", "{\"a\":", 0},
        {"not JSON", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]", 4},
        {"does not begin with {", "[]", 0},
        {"does not begin with {", " {}", 0},
        {"goes on after its JSON", "{}garbage", 0},
        {"goes on after its JSON", "{}{}", 0},
        {"entry is not an object", "{\"a\":3}", 0},
        {"entry is not an object", "{\"a\":null}", 0},
        {"\"dtype\" is missing", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
        {"\"dtype\" is missing", "{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
        {"dtype F8_E4M3 is not supported", "{" ENTRY("a", "F8_E4M3", "[4]", 0, 4) "}", 4},
        {"\"shape\" is missing", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4},
        {"\"shape\" is missing", "{" ENTRY("a", "F32", "1", 0, 4) "}", 4},
        {"is -1,", "{" ENTRY("a", "F32", "[-1]", 0, 4) "}", 4},
        {"is 1.5,", "{" ENTRY("a", "F32", "[1.5]", 0, 6) "}", 6},
        {"not a whole number", "{" ENTRY("a", "F32", "[1e300]", 0, 4) "}", 4},
        {"not a whole number", "{" ENTRY("a", "F32", "[18446744073709551617]", 0, 4) "}", 4},
        {"is not a number", "{" ENTRY("a", "F32", "[\"1\"]", 0, 4) "}", 4},
        {"its shape overflows", "{" ENTRY("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0},
        {"its shape overflows", "{" ENTRY("a", "F32", "[2147483648,2147483648]", 0, 0) "}", 0}, /* 2^62 * 4 bytes */
        {"more than 8 dimensions", "{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4},
        {"\"data_offsets\" is missing", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4},
        {"wants two numbers", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4},
        {"wants two numbers", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4},
        {"is given twice", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
        {"begins at 8, after its end 4", "{" ENTRY("a", "F32", "[1]", 8, 4) "}", 8},
        {"is -4,", "{" ENTRY("a", "F32", "[1]", -4, 0) "}", 4},
        {"is 0.5,", "{" ENTRY("a", "F32", "[1]", 0.5, 4.5) "}", 8},
        {"not a whole number", "{" ENTRY("a", "F32", "[1]", 0, 1e30) "}", 4},
        {"is not a number", "{" ENTRY("a", "F32", "[1]", 0, null) "}", 4},
        {"truncated", "{" ENTRY("a", "F32", "[4]", 0, 16) "}", 12},
        {"tensor a: [2] of F32 takes 8 bytes, data_offsets give 4", "{" ENTRY("a", "F32", "[2]", 0, 4) "}", 4},
        {"tensor a is given twice", "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("a", "F32", "[1]", 4, 8) "}", 8},
        {"a and b overlap", "{" ENTRY("a", "F32", "[2]", 0, 8) "," ENTRY("b", "F32", "[2]", 4, 12) "}", 12},
        {"overlap", "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 0, 4) "}", 4},
        {"4 bytes before tensor b", "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 8, 12) "}", 12},
        {"4 bytes before tensor a", "{" ENTRY("a", "F32", "[1]", 4, 8) "}", 8},
        {"3 bytes after the last tensor", "{" ENTRY("a", "F32", "[1]", 0, 4) "}", 7},
        {"1 bytes after the last tensor", "{}", 1},
        {"\"__metadata__\" is not an object", "{\"__metadata__\":[]}", 0},
        {"the value of \"k\" is not a string", "{\"__metadata__\":{\"k\":1}}", 0},
        {"\"__metadata__\" is given twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0},
        /* A name with control characters must not reach the terminal raw, nor break the line. */
        {"dtype X is not supported", "{" ENTRY("\\u001b[31mred\\nline", "X", "[]", 0, 4) "}", 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) hostile(cases[i].says, cases[i].header, cases[i].n_data);

    const char *path = raw_file("long.safetensors", 100000001, "{}", 0);
    CHECK_DIES({ tensors_open(path); }, "over the limit of 100000000");
    path = raw_file("huge.safetensors", 0x7fffffffffffffff, "{}", 0);
    CHECK_DIES({ tensors_open(path); }, "over the limit");
    path = raw_file("short.safetensors", 99999999, "{}", 0);
    CHECK_DIES({ tensors_open(path); }, "truncated");
    path = raw_file("none.safetensors", 0, "", 0);
    CHECK_DIES({ tensors_open(path); }, "not a safetensors file");
    file_write(in_tmp("seven"), "1234567", 7);
    CHECK_DIES({ tensors_open(in_tmp("seven")); }, "truncated");
    file_write(in_tmp("zero"), "", 0);
    CHECK_DIES({ tensors_open(in_tmp("zero")); }, "truncated");
    const char *lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    file_write(in_tmp("lfs"), lfs, strlen(lfs));
    CHECK_DIES({ tensors_open(in_tmp("lfs")); }, "Git LFS pointer");
    CHECK_DIES({ tensors_open(in_tmp("absent")); }, "No such file");
    CHECK_DIES({ tensors_open("/dev/zero"); }, "not a regular file");

    /* Nesting a hundred thousand deep must not run out of stack. */
    Buf deep = {0};
    buf_str(&deep, "{\"a\":");
    for (int i = 0; i < 100000; i++) buf_str(&deep, "[");
    path = raw_file("deep.safetensors", -1, deep.data, 0);
    CHECK_DIES({ tensors_open(path); }, "not JSON");
    buf_free(&deep);

    /* Every truncation of a good file is refused, none crashes. */
    const char *good = "{" ENTRY("a", "F32", "[2]", 0, 8) "," ENTRY("b", "BF16", "[]", 8, 10) "}";
    size_t len;
    char *whole = file_read(raw_file("whole.safetensors", -1, good, 10), &len);
    int refused = 0;
    for (size_t n = 0; n < len; n += 7) {
        file_write(in_tmp("cut"), whole, n);
        fflush(NULL);
        pid_t pid = fork();
        if (!pid) {
            test_in_child = true;
            if (!freopen("/dev/null", "w", stderr)) _exit(9);
            tensors_open(in_tmp("cut"));
            exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        refused += WIFEXITED(status) && WEXITSTATUS(status) == 1;
    }
    int cuts = (int)((len + 6) / 7);
    CHECK(refused == cuts, "%d of %d truncations of a good file refused", refused, cuts);
    free(whole);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */
static void test_reading(void) {
    const char *header = "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"y\"}," ENTRY("z", "F32", "[2]", 5, 13) ","
                         ENTRY("scalar", "I8", "[]", 0, 1) "," ENTRY("empty", "F32", "[0,3]", 5, 5) ","
                         ENTRY("m", "I32", "[1]", 1, 5) "}   ";
    Tensors *w = tensors_open(raw_file("read.safetensors", -1, header, 13));
    CHECK(w->n == 4, "4 tensors read: %d", w->n);
    CHECK(!strcmp(tensors_metadata(w, "format"), "pt") && !tensors_metadata(w, "none"), "metadata by key");
    const Tensor *scalar = tensors_get(w, "scalar", 0, NULL), *empty = tensors_find(w, "empty");
    CHECK(scalar->n == 1 && scalar->bytes == 1 && *(const int8_t *)scalar->data == 0, "a scalar has one element");
    CHECK(empty && empty->n == 0 && empty->bytes == 0 && empty->shape[1] == 3, "a zero-sized tensor is fine");
    const Tensor *z = tensors_get(w, "z", 1, (size_t[]){2});
    size_t header_len = strlen(header);
    CHECK(z->aligned == ((8 + header_len + 5) % 4 == 0), "aligned tells the truth: %d", z->aligned);
    float got[2], want[2];
    unsigned char bytes[8] = {5, 6, 7, 8, 9, 10, 11, 12};
    memcpy(want, bytes, 8);
    tensor_to_f32(z, got);
    CHECK(!memcmp(got, want, 8), "a float at byte 5 of the data reads right");
    CHECK(!tensors_find(w, "absent") && !tensors_find(w, ""), "an absent tensor is NULL");
    CHECK_DIES({ tensors_get(w, "absent", 2, ((size_t[]){3, 4})); }, "no tensor absent [3,4] (4 tensors, the first");
    CHECK_DIES({ tensors_get(w, "z", 2, ((size_t[]){2, 1})); }, "z has shape [2], the configuration asks for [2,1]");
    CHECK_DIES({ tensors_get(w, "scalar", 1, ((size_t[]){1})); }, "has shape [], the configuration asks for [1]");
    tensors_close(w);
    w = tensors_open(raw_file("bare.safetensors", -1, "{}", 0));
    CHECK(w->n == 0 && !tensors_find(w, "a"), "a file without tensors opens");
    tensors_close(w);
}

/* ---- conversion ------------------------------------------------------------------------------------------------- */

/* IEEE 754 half by its definition, in double: the reference. */
static double half_by_definition(unsigned h) {
    double sign = h & 0x8000 ? -1 : 1;
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 0x3ff);
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24));
}

static void test_conversion(void) {
    static uint16_t all[65536], back[65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    Tensor t = {.dtype = DT_F16, .n = 65536, .bytes = 131072, .data = all};
    tensor_to_f32(&t, wide);
    int wrong = 0, not_back = 0;
    for (int i = 0; i < 65536; i++) {
        double want = half_by_definition((unsigned)i);
        wrong += isnan(want) ? !isnan(wide[i]) : want != wide[i] || !signbit(want) != !signbit(wide[i]);
    }
    CHECK(!wrong, "all 65536 halves widen exactly: %d wrong", wrong);
    f32_to_dtype(wide, 65536, DT_F16, back);
    for (int i = 0; i < 65536; i++) not_back += isnan(wide[i]) ? (back[i] & 0x7fff) <= 0x7c00 : back[i] != all[i];
    CHECK(!not_back, "all halves come back bit for bit: %d wrong", not_back);
    t.dtype = DT_BF16;
    tensor_to_f32(&t, wide);
    f32_to_dtype(wide, 65536, DT_BF16, back);
    for (int i = wrong = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, &wide[i], 4);
        wrong += bits != (uint32_t)i << 16 || (isnan(wide[i]) ? (back[i] & 0x7fff) <= 0x7f80 : back[i] != all[i]);
    }
    CHECK(!wrong, "all 65536 bfloat16 widen exactly and come back: %d wrong", wrong);

    /* Rounding to nearest, ties to even: between every two neighbouring halves, the middle and both sides of it. */
    for (int i = wrong = 0; i < 0x7bff; i++) {
        float low = (float)half_by_definition((unsigned)i), high = (float)half_by_definition((unsigned)i + 1);
        float middle = (low + high) / 2;
        float in[3] = {nextafterf(middle, low), middle, nextafterf(middle, high)};
        uint16_t out[3];
        f32_to_dtype(in, 3, DT_F16, out);
        wrong += out[0] != i || out[1] != (i & 1 ? i + 1 : i) || out[2] != i + 1;
    }
    CHECK(!wrong, "halves round to nearest, ties to even: %d wrong", wrong);
    float edge[6] = {65519.99f, 65520.0f, 1e30f, 0x1p-25f, 0x1.8p-25f, -0.0f};
    uint16_t half[6];
    f32_to_dtype(edge, 6, DT_F16, half);
    CHECK(half[0] == 0x7bff && half[1] == 0x7c00 && half[2] == 0x7c00 && half[3] == 0 && half[4] == 1 &&
          half[5] == 0x8000, "edges of half: %04x %04x %04x %04x %04x %04x", half[0], half[1], half[2], half[3],
          half[4], half[5]);
    float bf[5] = {1.00390625f, 1.01171875f, 3.4e38f, NAN, 1.003906369f}; /* 1 + 2^-8: tie to even, down; 3*2^-8: up */
    uint16_t b[5];
    f32_to_dtype(bf, 5, DT_BF16, b);
    CHECK(b[0] == 0x3f80 && b[1] == 0x3f82 && b[2] == 0x7f80 && (b[3] & 0x7fff) > 0x7f80 && b[4] == 0x3f81,
          "bfloat16 rounds to nearest, ties to even: %04x %04x %04x %04x %04x", b[0], b[1], b[2], b[3], b[4]);

    /* Integers, at odd addresses. */
    unsigned char raw[64];
    int64_t i64 = -1234567;
    int32_t i32 = 16777216;
    memcpy(raw + 1, &i64, 8);
    memcpy(raw + 17, &i32, 4);
    raw[33] = 0x80, raw[34] = 200, raw[35] = 1;
    Tensor ints[] = {{.dtype = DT_I64, .n = 1, .data = raw + 1}, {.dtype = DT_I32, .n = 1, .data = raw + 17},
                     {.dtype = DT_I8, .n = 1, .data = raw + 33}, {.dtype = DT_U8, .n = 1, .data = raw + 34},
                     {.dtype = DT_BOOL, .n = 1, .data = raw + 35}};
    float got[5], want[5] = {-1234567, 16777216, -128, 200, 1};
    for (int i = 0; i < 5; i++) tensor_to_f32(&ints[i], &got[i]);
    CHECK_CLOSE("integers to float", got, want, 5, 0, 0);

    /* Large enough for several threads. */
    size_t n = 1000003;
    uint16_t *many = xmalloc(n * 2);
    float *out = xmalloc(n * 4);
    for (size_t i = 0; i < n; i++) many[i] = (uint16_t)(i * 7);
    Tensor big = {.dtype = DT_BF16, .n = n, .data = many};
    tensor_to_f32(&big, out);
    size_t differ = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &out[i], 4);
        differ += bits != (uint32_t)many[i] << 16;
    }
    CHECK(!differ, "a million elements over threads: %zu differ", differ);
    free(many);
    free(out);

    for (int d = 0; d < DT_COUNT; d++) {
        DType again = DT_COUNT;
        CHECK(dtype_parse(dtype_name((DType)d), &again) && again == (DType)d && dtype_size(again),
              "dtype %s parses back", dtype_name((DType)d));
    }
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

typedef struct { const float *data; size_t rows, cols; size_t n_calls; } Transposed;

static void fill_transposed(void *ctx, size_t first, size_t n, void *out) { /* (cols, rows) from (rows, cols) */
    Transposed *t = ctx;
    t->n_calls++;
    for (size_t i = 0; i < n; i++) {
        size_t row = (first + i) / t->rows, col = (first + i) % t->rows;
        ((float *)out)[i] = t->data[col * t->cols + row];
    }
}

static void test_writing(void) {
    /* The header that the official writer makes (compared byte for byte with the Python package, 0.8.0). */
    float f[2] = {1.5f, -2.0f};
    uint16_t bf = 0x3f80;
    int64_t ids[1] = {7};
    int8_t q[3] = {1, 2, 3};
    TensorOut v[] = {{"b.weight", DT_F32, 1, {2}, NULL, f},  {"a.weight", DT_BF16, 2, {1, 1}, NULL, &bf},
                     {"q", DT_I8, 1, {3}, NULL, q},          {"ids", DT_I64, 1, {1}, NULL, ids}};
    const char *path = in_tmp("official.safetensors");
    tensors_save(path, v, 4, "pt");
    static const char want[] = "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("ids", "I64", "[1]", 0, 8) ","
                               ENTRY("b.weight", "F32", "[2]", 8, 16) "," ENTRY("a.weight", "BF16", "[1,1]", 16, 18) ","
                               ENTRY("q", "I8", "[3]", 18, 21) "}";
    size_t len, header = (sizeof want - 1 + 7) / 8 * 8;
    char *bytes = file_read(path, &len);
    uint64_t header_says;
    memcpy(&header_says, bytes, 8);
    CHECK(len == 8 + header + 21 && header_says == header, "length %zu: header %zu, a multiple of 8", len, header);
    CHECK(!memcmp(bytes + 8, want, sizeof want - 1), "header in the official order: %.*s", (int)header, bytes + 8);
    CHECK(bytes[8 + header - 1] == ' ' || header == sizeof want - 1, "padding is spaces");
    CHECK(!memcmp(bytes + 8 + header, ids, 8) && !memcmp(bytes + 8 + header + 16, &bf, 2), "data in place");
    free(bytes);
    CHECK(!file_exists(in_tmp("official.safetensors.tmp")), "no temporary file is left");

    /* The same file, put together a tensor at a time in another order. */
    char *official = file_read(path, &len);
    size_t len_put;
    const char *put = in_tmp("put.safetensors");
    TensorFile parts = tensors_begin(put, v, 4, "pt");
    CHECK(!file_exists(put), "a file that is being put together is not there yet");
    tensors_put(&parts, "q", q, sizeof q);
    tensors_put(&parts, "b.weight", f, sizeof f);
    tensors_put(&parts, "a.weight", &bf, sizeof bf);
    tensors_put(&parts, "ids", ids, sizeof ids);
    tensors_end(&parts);
    bytes = file_read(put, &len_put);
    CHECK(len_put == len && !memcmp(bytes, official, len), "put together in any order: the same %zu bytes", len);
    free(bytes), free(official);

    /* A filled tensor larger than a piece, and names that need escaping. */
    Transposed t = {.rows = 1201, .cols = 1000};
    float *data = xmalloc(t.rows * t.cols * sizeof *data), *got = xmalloc(t.rows * t.cols * sizeof *got);
    for (size_t i = 0; i < t.rows * t.cols; i++) data[i] = (float)i;
    t.data = data;
    char odd_name[] = "quote\" slash\\ \xE8\x8C\xB6";
    TensorOut big[] = {{odd_name, DT_F32, 2, {1000, 1201}, fill_transposed, &t},
                       {"empty", DT_F16, 2, {0, 5}, NULL, NULL},
                       {"scalar", DT_F32, 0, {0}, NULL, f}};
    path = in_tmp("filled.safetensors");
    tensors_save(path, big, 3, NULL);
    Tensors *w = tensors_open(path);
    const Tensor *back = tensors_get(w, odd_name, 2, (size_t[]){1000, 1201});
    tensor_to_f32(back, got);
    size_t differ = 0;
    for (size_t r = 0; r < 1000; r++)
        for (size_t c = 0; c < 1201; c++) differ += got[r * 1201 + c] != data[c * 1000 + r];
    CHECK(!differ && t.n_calls == 2, "a transposed tensor in %zu pieces, odd name: %zu differ", t.n_calls, differ);
    CHECK(back->aligned && tensors_find(w, "empty")->n == 0 && w->n_metadata == 0, "aligned; empty kept; no metadata");
    CHECK(*(const float *)tensors_get(w, "scalar", 0, NULL)->data == 1.5f, "a scalar reads back");
    CHECK((uintptr_t)back->data % 64 == 0, "a large matrix begins with a cache line");
    tensors_close(w);

    /* A failed save leaves the earlier file as it was, and nothing besides it. */
    char *before = file_read(path, &len);
    TensorOut dead = {"d", DT_F32, 2, {1201, 1000}, NULL, data};
    struct rlimit small = {100000, 100000};
    CHECK_DIES({ tensors_save("/dev/full", &dead, 1, NULL); }, "cannot write /dev/full: No space left");
    CHECK_DIES({ setrlimit(RLIMIT_FSIZE, &small); tensors_save(path, &dead, 1, NULL); }, "File too large");
    size_t len_after;
    char *after = file_read(path, &len_after);
    CHECK(len == len_after && !memcmp(before, after, len), "a failed save leaves the earlier file as it was");
    CHECK(!file_exists(in_tmp("filled.safetensors.tmp")), "and removes its temporary file");
    free(before), free(after), free(data), free(got);
}

/* ---- shards ----------------------------------------------------------------------------------------------------- */

static void index_file(const char *dir, const char *text) {
    char *path = path_join(dir, "model.safetensors.index.json");
    file_write(path, text, strlen(text));
    free(path);
}

static void test_shards(void) {
    static float data[64];
    for (int i = 0; i < 64; i++) data[i] = (float)i;
    const char *dir = in_tmp("sharded");
    TensorOut v[5];
    char names[5][8];
    for (int i = 0; i < 5; i++) {
        snprintf(names[i], sizeof names[i], "t%d", 4 - i); /* written against the alphabet */
        v[i] = (TensorOut){names[i], DT_F32, 1, {8}, NULL, data + 8 * i};
    }
    tensors_save_sharded(dir, v, 5, 0);
    char *single = path_join(dir, "model.safetensors"), *index = path_join(dir, "model.safetensors.index.json");
    CHECK(file_exists(single) && !file_exists(index), "without a limit: one file");
    for (int i = 0; i < 5; i++) v[i] = (TensorOut){names[i], DT_F32, 1, {8}, NULL, data + 8 * i};
    tensors_save_sharded(dir, v, 5, 64); /* two of 32 bytes to a shard */
    char *third = path_join(dir, "model-00003-of-00003.safetensors");
    CHECK(!file_exists(single) && file_exists(index) && file_exists(third), "3 shards; the stale single file is gone");
    char *text = file_read(index, NULL);
    CHECK(strstr(text, "\"total_size\": 160") && strstr(text, "\"t4\": \"model-00001-of-00003.safetensors\"") &&
          strstr(text, "\"t0\": \"model-00003-of-00003.safetensors\""), "the index: total size and map");
    free(text);
    Tensors *w = tensors_open(dir);
    int right = 0;
    for (int i = 0; i < 5; i++) {
        const Tensor *t = tensors_get(w, names[i], 1, (size_t[]){8});
        right += !memcmp(t->data, data + 8 * i, 32);
    }
    CHECK(w->n == 5 && w->n_files == 3 && right == 5, "5 tensors in 3 shards read back: %d", right);
    tensors_close(w);

    for (int i = 0; i < 5; i++) v[i] = (TensorOut){names[i], DT_F32, 1, {8}, NULL, data + 8 * i};
    tensors_save_sharded(dir, v, 5, 16);
    char *fifth = path_join(dir, "model-00005-of-00005.safetensors");
    CHECK(file_exists(fifth) && !file_exists(third), "a tensor over the limit has its own shard; old shards are gone");
    unlink(fifth);
    CHECK_DIES({ tensors_open(dir); }, "names model-00005-of-00005.safetensors, which is missing");

    index_file(dir, "{\"weight_map\":{\"t4\":\"model-00001-of-00005.safetensors\"}}");
    w = tensors_open(dir);
    CHECK(w->n == 1 && tensors_find(w, "t4"), "the index decides what is loaded");
    tensors_close(w);
    static const struct { const char *says, *index; } cases[] = {
        {"says that model-00001-of-00005.safetensors holds tensor nope",
         "{\"weight_map\":{\"nope\":\"model-00001-of-00005.safetensors\"}}"},
        {"\"../x.safetensors\" is not a plain file name", "{\"weight_map\":{\"t4\":\"../x.safetensors\"}}"},
        {"is not a plain file name", "{\"weight_map\":{\"t4\":\"/etc/passwd\"}}"},
        {"is not a plain file name", "{\"weight_map\":{\"t4\":\"a\\\\b\"}}"},
        {"is not a plain file name", "{\"weight_map\":{\"t4\":\"..\"}}"},
        {"is not a plain file name", "{\"weight_map\":{\"t4\":\"\"}}"},
        {"its file is not a string", "{\"weight_map\":{\"t4\":3}}"},
        {"\"weight_map\" is missing", "{\"metadata\":{}}"},
        {"not a JSON object", "[]"},
        {"not a JSON object: broken", "{\"weight_map\":{"},
        {"something follows it", "{} trailing"},
        {"not a JSON object: broken", ""},
        {"a directory", "{\"weight_map\":{\"t4\":\".\"}}"},
        {"t4 is given twice", "{\"weight_map\":{\"t4\":\"model-00001-of-00005.safetensors\","
                            "\"t4\":\"model-00001-of-00005.safetensors\"}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        index_file(dir, cases[i].index);
        CHECK_DIES({ tensors_open(dir); }, cases[i].says);
    }
    const char *empty = in_tmp("empty");
    make_dirs(empty);
    CHECK_DIES({ tensors_open(empty); }, "holds neither model.safetensors nor");
    char *pickle = path_join(empty, "pytorch_model.bin");
    file_write(pickle, "x", 1);
    CHECK_DIES({ tensors_open(empty); }, "pickle");
    free(single), free(index), free(third), free(fifth), free(pickle);
}

static void test_large_header(void) {
    enum { MANY = 20000 };
    TensorOut *v = xcalloc(MANY, sizeof *v);
    float one = 1;
    for (int i = 0; i < MANY; i++)
        v[i] = (TensorOut){strf("model.layers.%d.self_attn.q_proj.weight", i), DT_F32, 1, {1}, NULL, &one};
    const char *path = in_tmp("many.safetensors");
    tensors_save(path, v, MANY, "pt");
    double start = now_s();
    Tensors *w = tensors_open(path);
    int found = 0;
    for (int i = 0; i < MANY; i++) found += tensors_find(w, v[i].name) != NULL;
    double took = now_s() - start;
    /* 0.02 s when this was written; a quadratic look-up takes many seconds. */
    CHECK(found == MANY && took < 2, "%d tensors opened and found in %s", found, human_time(took));
    tensors_close(w);
    for (int i = 0; i < MANY; i++) free(v[i].name);
    free(v);
}

int main(void) {
    test_reading();
    test_hostile();
    test_conversion();
    test_writing();
    test_shards();
    test_large_header();
    return test_end();
}
