/* quantized.c - quantised weights in files; see quantized.h.
 *
 * THREE LAYOUTS of the same numbers, w = (q - zero) * scale with one scale for each group of G inputs of an output:
 *
 *   compressed-tensors  weight_packed (O, ceil(C bits/32)) or weight int8 (O,C); weight_scale (O, C/G);
 *                       weight_zero_point packed along outputs, or int8 (O, C/G); weight_g_idx (C), input_scale
 *   GPTQ                qweight (C bits/32, O): words hold neighbouring inputs; scales (C/G, O); qzeros packed along
 *                       outputs, one less than the zero point (version 2: the zero point); g_idx (C)
 *   AWQ                 qweight (C, O/8): words hold eight outputs, in the order 0 2 4 6 1 3 5 7; qzeros likewise
 *
 * q is unsigned in words; ours is signed (Mat in kernels.h), so 2^(bits-1) is taken from q and zero alike.
 *
 * Map:  [quant.config] what config.json says   [quant.load] tensors to matrices */
#include "quantized.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

/* ---- quantization_config ------------------------------------------------------------------- [quant.config] ---- */
typedef enum { LAYOUT_COMPRESSED, LAYOUT_GPTQ, LAYOUT_AWQ } QuantLayout;
typedef struct Scheme {            /* one of "config_groups" */
    char **targets;
    int n_targets;
    int bits;
    bool symmetric, per_tensor;
    size_t group;                  /* 0: one scale a row */
    InputQuant input;
} Scheme;
struct QuantConfig {
    char *path;
    QuantLayout layout;
    bool zeros_less_one;           /* GPTQ, version 1 */
    Scheme *schemes;
    int n_schemes;
};

static const cJSON *item(const cJSON *j, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
    return cJSON_IsNull(v) ? NULL : v;
}
static const char *text_of(const cJSON *j, const char *key, const char *fallback) {
    const char *s = cJSON_GetStringValue(item(j, key));
    return s ? s : fallback;
}
static bool flag_of(const cJSON *j, const char *key, bool fallback) {
    const cJSON *v = item(j, key);
    return v ? cJSON_IsTrue(v) : fallback;
}
/* A whole number from lo to hi; absent: fallback. */
static long whole_of(const char *path, const cJSON *j, const char *key, long lo, long hi, long fallback) {
    const cJSON *v = item(j, key);
    if (!v) return fallback;
    double x = cJSON_IsNumber(v) ? v->valuedouble : NAN;
    if (!(x >= (double)lo && x <= (double)hi) || x != floor(x))
        die("%s: quantization_config: \"%s\" is not a whole number from %ld to %ld", path, key, lo, hi);
    return (long)x;
}
static int bits_of(const char *path, const cJSON *j, const char *key) {
    long bits = whole_of(path, j, key, 1, 64, 0);
    if (bits != 4 && bits != 8) die("%s: quantization_config: weights of %ld bits (4 and 8 are known)", path, bits);
    return (int)bits;
}
static size_t group_of(const char *path, const cJSON *j) {
    long group = whole_of(path, j, "group_size", -1, 1 << 30, -1);
    if (group <= 0) return 0;
    if (group % 8) die("%s: quantization_config: a group size of %ld is no multiple of 8", path, group);
    return (size_t)group;
}

static InputQuant input_read(const char *path, const cJSON *j) {
    if (!j) return INPUT_FLOAT;
    const char *type = text_of(j, "type", "int"), *strategy = text_of(j, "strategy", "tensor");
    const cJSON *dynamic = item(j, "dynamic");
    bool is_dynamic = cJSON_IsTrue(dynamic);
    if (strcmp(type, "int") || whole_of(path, j, "num_bits", 1, 64, 8) != 8 || !flag_of(j, "symmetric", true))
        die("%s: quantization_config: input_activations must be symmetric int of 8 bits", path);
    if (is_dynamic && !strcmp(strategy, "token")) return INPUT_DYNAMIC;
    if (!is_dynamic && !cJSON_IsString(dynamic) && !strcmp(strategy, "tensor")) return INPUT_STATIC;
    die("%s: quantization_config: input_activations of strategy \"%s\", %s (dynamic by token and static by tensor are "
        "known)",
        path, strategy, is_dynamic ? "dynamic" : "static");
}
static Scheme scheme_read(const char *path, const cJSON *j) {
    Scheme s = {0};
    const cJSON *w = item(j, "weights"), *targets = item(j, "targets");
    if (!cJSON_IsObject(w)) die("%s: quantization_config: a group without \"weights\"", path);
    if (item(j, "output_activations"))
        die("%s: quantization_config: quantised output_activations are not supported", path);
    const char *type = text_of(w, "type", "int"), *strategy = text_of(w, "strategy", "");
    if (strcmp(type, "int")) die("%s: quantization_config: weights of type \"%s\" (int is supported)", path, type);
    s.bits = bits_of(path, w, "num_bits");
    s.symmetric = flag_of(w, "symmetric", true);
    s.group = group_of(path, w);
    if (!*strategy) strategy = s.group ? "group" : "tensor";
    if (!strcmp(strategy, "tensor")) s.per_tensor = true, s.group = 0;
    else if (!strcmp(strategy, "channel")) s.group = 0;
    else if (strcmp(strategy, "group") || !s.group)
        die("%s: quantization_config: weights of strategy \"%s\" and group size %zu (tensor, channel and group are "
            "known)",
            path, strategy, s.group);
    s.input = input_read(path, item(j, "input_activations"));
    int n = cJSON_IsArray(targets) ? cJSON_GetArraySize(targets) : 0;
    s.targets = xcalloc((size_t)n, sizeof *s.targets);
    for (const cJSON *t = n ? targets->child : NULL; t; t = t->next) {
        if (!cJSON_IsString(t)) die("%s: quantization_config: \"targets\" holds something else than strings", path);
        s.targets[s.n_targets++] = xstrdup(t->valuestring);
    }
    return s;
}
QuantConfig *quant_config(const char *path, const char *text) {
    cJSON *json = cJSON_Parse(text);
    const cJSON *j = item(json, "quantization_config");
    if (!j) j = item(json, "compression_config");             /* its older name */
    if (!cJSON_IsObject(j)) {
        if (j) die("%s: \"quantization_config\" is not an object", path);
        cJSON_Delete(json);
        return NULL;
    }
    QuantConfig *q = xcalloc(1, sizeof *q);
    q->path = xstrdup(path);
    const char *method = text_of(j, "quant_method", "");
    if (!strcmp(method, "compressed-tensors")) {
        static const char *const formats[] = {"pack-quantized", "int-quantized", "naive-quantized", "mixed-precision",
            "dense", ""};
        const char *format = text_of(j, "format", ""), *sparse = text_of(item(j, "sparsity_config"), "format", "dense");
        bool known = false;
        for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) known |= !strcmp(format, formats[i]);
        if (!known)
            die("%s: quantization_config: format \"%s\" (pack-quantized and int-quantized are supported)", path,
                format);
        if (strcmp(sparse, "dense"))
            die("%s: quantization_config: sparse weights (\"%s\") are not supported", path, sparse);
        const cJSON *groups = item(j, "config_groups");
        if (!cJSON_IsObject(groups)) die("%s: quantization_config has no \"config_groups\"", path);
        q->schemes = xcalloc((size_t)cJSON_GetArraySize(groups), sizeof *q->schemes);
        for (const cJSON *g = groups->child; g; g = g->next) q->schemes[q->n_schemes++] = scheme_read(path, g);
        if (item(j, "kv_cache_scheme"))
            warn("%s: the quantised KV cache that it asks for is kept in full precision", path);
    } else if (!strcmp(method, "gptq") || !strcmp(method, "awq")) {
        q->layout = *method == 'g' ? LAYOUT_GPTQ : LAYOUT_AWQ;
        const char *version = text_of(j, q->layout == LAYOUT_GPTQ ? "checkpoint_format" : "version", "gptq");
        q->zeros_less_one = q->layout == LAYOUT_GPTQ && strcmp(version, "gptq_v2");
        if (q->layout == LAYOUT_AWQ && strcmp(version, "gemm") && strcmp(version, "GEMM") && item(j, "version"))
            die("%s: quantization_config: AWQ of version \"%s\" (gemm is supported)", path, version);
        q->schemes = xcalloc(1, sizeof *q->schemes);
        q->schemes[q->n_schemes++] = (Scheme){.bits = bits_of(path, j, item(j, "bits") ? "bits" : "w_bit"),
            .group = group_of(path, j)};
        if (q->layout == LAYOUT_AWQ && q->schemes->bits != 4) die("%s: quantization_config: AWQ of 8 bits", path);
    } else die("%s: quantization_config: quant_method \"%s\" (compressed-tensors, gptq and awq are supported)", path,
        method);
    cJSON_Delete(json);
    return q;
}
void quant_config_free(QuantConfig *q) {
    if (!q) return;
    for (int i = 0; i < q->n_schemes; i++) {
        for (int t = 0; t < q->schemes[i].n_targets; t++) free(q->schemes[i].targets[t]);
        free(q->schemes[i].targets);
    }
    free(q->schemes);
    free(q->path);
    free(q);
}

/* The scheme whose targets fit a module best: its name, a regular expression ("re:"), the class of all linear
 * layers. */
static const Scheme *scheme_for(const QuantConfig *q, const char *module) {
    const Scheme *best = NULL;
    int best_rank = 0;
    for (int i = 0; i < q->n_schemes; i++) {
        const Scheme *s = &q->schemes[i];
        int rank = !s->n_targets;
        for (int t = 0; t < s->n_targets; t++) {
            const char *target = s->targets[t];
            int r = !strcmp(target, "Linear") || !strcmp(target, "Conv1D") ||
                !strcmp(target, "Embedding") ? 1 : !strcmp(target, module) ? 3 : 0;
            if (!strncmp(target, "re:", 3)) {
                regex_t re;
                regmatch_t m;
                if (regcomp(&re, target + 3, REG_EXTENDED))
                    die("%s: quantization_config: target \"%s\" is no regular expression that we know", q->path,
                        target);
                if (!regexec(&re, module, 1, &m, 0) && m.rm_so == 0) r = 2;      /* Python's match: from the start on */
                regfree(&re);
            }
            if (r > rank) rank = r;
        }
        if (rank > best_rank) best = s, best_rank = rank;
    }
    return best;
}

/* ---- tensors -> matrices --------------------------------------------------------------------- [quant.load] ---- */
static const char *const parts[] = {"weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point",
                                    "weight_g_idx", "input_scale", "input_zero_point", "qweight", "qzeros", "scales",
                                        "g_idx"};
static const Tensor *part_find(const Tensors *files, const char *module, const char *part) {
    char *name = strf("%s.%s", module, part);
    const Tensor *t = tensors_find(files, name);
    free(name);
    return t;
}
const Tensor *quant_find(const Tensors *files, const char *module) {
    const Tensor *packed = part_find(files, module, "weight_packed"), *columns = part_find(files, module, "qweight");
    const Tensor *plain = part_find(files, module, "weight");
    return packed ? packed : columns ? columns : plain && plain->dtype == DT_I8 ? plain : NULL;
}
void quant_used(const Tensors *files, const char *module, bool *used) {
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const Tensor *t = part_find(files, module, parts[i]);
        if (t) used[t - files->v] = true;
    }
}

typedef struct Source {
    const QuantConfig *q;
    const Tensors *files;
    const char *module;
    const Scheme *scheme;
    size_t O, C;
} Source;
static const Tensor *find(const Source *s, const char *part) { return part_find(s->files, s->module, part); }
/* It must be there, of this type, of rows x cols (cols 0: a list of rows). */
static const Tensor *need(const Source *s, const char *part, DType dtype, size_t rows, size_t cols) {
    const Tensor *t = find(s, part);
    if (!t) die("%s: %s is quantised, but %s.%s is missing", s->files->path, s->module, s->module, part);
    if (t->dtype != dtype)
        die("%s: tensor %s is %s, not %s", t->file, t->name, dtype_name(t->dtype), dtype_name(dtype));
    if (t->n_dims != (cols ? 2 : 1) || t->shape[0] != rows || (cols && t->shape[1] != cols)) {
        char *want = cols ? strf("[%zu,%zu]", rows, cols) : strf("[%zu]", rows);
        die("%s: tensor %s is not of shape %s, as %d bits in groups of %zu make it", t->file, t->name, want,
            s->scheme->bits, s->scheme->group);
    }
    return t;
}
/* Element i of an integer tensor that may lie at any address. */
static uint32_t word(const Tensor *t, size_t i) {
    uint32_t w;
    memcpy(&w, (const char *)t->data + 4 * i, 4);
    return w;
}
static size_t groups_of(size_t C, size_t G) { return G && G < C ? (C + G - 1) / G : 1; }

/* Scales (rows, cols) as stored; none may be 0 or infinite. */
static void check_scales(const Tensor *t) {
    if (t->dtype > DT_BF16)
        die("%s: tensor %s is %s; scales must be F32, F16 or BF16", t->file, t->name, dtype_name(t->dtype));
    uint32_t exponent = t->dtype == DT_F16 ? 0x7c00 : t->dtype == DT_BF16 ? 0x7f80 : 0x7f800000,
        rest = t->dtype == DT_F32 ? 0x7fffffff : 0x7fff;
    size_t size = dtype_size(t->dtype), bad = SIZE_MAX;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (size_t i = 0; i < t->n; i++) {
        uint32_t bits = 0;
        memcpy(&bits, (const char *)t->data + i * size, size);
        if ((bits & exponent) == exponent || !(bits & rest)) bad = i < bad ? i : bad;
    }
    if (bad != SIZE_MAX) die("%s: tensor %s: scale %zu is zero or not finite", t->file, t->name, bad);
}
/* From scales stored (groups, O), as GPTQ and AWQ do, to (O, groups); or one for all, as often as there are rows. */
static void scales_place(QuantTensor *out, const Tensor *t, size_t O, size_t n_groups, bool transpose) {
    size_t size = dtype_size(t->dtype);
    out->m.scale_dtype = t->dtype;
    if (!transpose && t->n == O * n_groups && t->aligned) { out->m.scale = t->data; return; }
    char *to = out->own[1] = xmalloc(size_mul(O, n_groups * size));
    for (size_t o = 0; o < O; o++)
        for (size_t g = 0; g < n_groups; g++)
            memcpy(to + (o * n_groups + g) * size, (const char *)t->data +
                (t->n == 1 ? 0 : transpose ? g * O + o : o * n_groups + g) * size, size);
    out->m.scale = to;
}
/* Columns sorted by group: order[i] is the input that comes i-th, NULL when they are in order already. Each group must
 * be full. */
static int32_t *order_of(const Tensor *t, size_t C, size_t G) {
    size_t n_groups = groups_of(C, G), *next = xcalloc(n_groups, sizeof *next);
    int32_t *order = xmalloc(size_mul(C, sizeof *order));
    bool sorted = true;
    for (size_t c = 0; c < C; c++) {
        size_t g = word(t, c), at = g < n_groups ? g * G + next[g]++ : C;
        if (g >= n_groups || next[g] > (G < C ? G : C) || at >= C)
            die("%s: tensor %s: input %zu has group %d of %zu, or its group is overfull", t->file, t->name, c,
                (int)word(t, c), n_groups);
        order[at] = (int32_t)c;
        sorted &= at == c;
    }
    free(next);
    if (sorted) free(order), order = NULL;
    return order;
}

/* The value at output o, input c, as stored: unsigned, or signed for plain int8. */
typedef enum { PACK_ROWS, PACK_INPUTS, PACK_OUTPUTS, PACK_NONE } Packing;
static const int awq_shift[8] = {0, 16, 4, 20, 8, 24, 12, 28};           /* of output 0 .. 7 in a word */
static inline int packed_at(const Tensor *t, Packing how, int bits, size_t O, size_t C, size_t o, size_t c) {
    size_t per = 32 / (size_t)bits;
    uint32_t mask = bits == 4 ? 15 : 255;
    switch (how) {
    case PACK_ROWS: return (int)(word(t, o * ((C + per - 1) / per) + c / per) >> (c % per * (size_t)bits) & mask);
    case PACK_INPUTS: return (int)(word(t, c / per * O + o) >> (c % per * (size_t)bits) & mask);
    case PACK_OUTPUTS: return (int)(word(t, c * (O / 8) + o / 8) >> awq_shift[o % 8] & mask);
    default: return ((const int8_t *)t->data)[o * C + c];
    }
}
/* Into our layout, columns in order. Blocks of outputs: a word of GPTQ's or AWQ's lines holds neighbours of them. */
static void repack(QuantTensor *out, const Tensor *t, Packing how, int bits, size_t O, size_t C) {
    enum { BLOCK = 64 };
    size_t row_bytes = mat_row_bytes(&out->m);
    uint8_t *data = out->own[0] = xmalloc(size_mul(O, row_bytes));
    const int32_t *order = out->m.order;
    int offset = how == PACK_NONE ? 0 : 1 << (bits - 1);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t o0 = 0; o0 < O; o0 += BLOCK) {
        size_t o1 = o0 + BLOCK < O ? o0 + BLOCK : O;
        memset(data + o0 * row_bytes, 0, (o1 - o0) * row_bytes);
        for (size_t i = 0; i < C; i++)
            for (size_t o = o0; o < o1; o++) {
                int q = packed_at(t, how, bits, O, C, o, order ? (size_t)order[i] : i);
                uint8_t *row = data + o * row_bytes;
                if (bits == 8) row[i] = (uint8_t)(q - offset);
                else row[i / 2] |= (uint8_t)(q << (i % 2 * 4));
            }
    }
    out->m.data = data;
}

/* Zero points as int8; none, if all are 0. plus: 1 where they are stored one less. */
typedef struct Zeros { const Tensor *t; QuantLayout layout; int bits, plus; size_t O, n_groups; } Zeros;
static int zero_at(const Zeros *z, size_t o, size_t g) {
    const size_t per = 32 / (size_t)z->bits;
    const uint32_t mask = z->bits == 4 ? 15 : 255;
    if (z->t->dtype == DT_I8) return ((const int8_t *)z->t->data)[o * z->n_groups + g];
    uint32_t w = z->layout == LAYOUT_COMPRESSED ? word(z->t, o / per * z->n_groups + g) : word(z->t,
        g * ((z->O + per - 1) / per) + o / per);
    int shift = z->layout == LAYOUT_AWQ ? awq_shift[o % 8] : (int)(o % per) * z->bits;
    return (int)(w >> shift & mask) + z->plus - (1 << (z->bits - 1));
}
static void zeros_place(QuantTensor *out, const Zeros *from) {
    int8_t *zero = out->own[2] = xmalloc(size_mul(from->O, from->n_groups));
    bool any = false;
    for (size_t o = 0; o < from->O; o++)
        for (size_t g = 0; g < from->n_groups; g++) {
            int z = zero_at(from, o, g);
            if (z > 127)
                die("%s: tensor %s: the zero point of output %zu, group %zu is 256", from->t->file, from->t->name, o,
                    g);
            zero[o * from->n_groups + g] = (int8_t)z;
            any |= z != 0;
        }
    if (!any) free(zero), out->own[2] = zero = NULL;
    out->m.zero = zero;
}

static void compressed_read(const Source *s, QuantTensor *out) {
    Mat *m = &out->m;
    const size_t O = s->O, C = s->C, n_groups = groups_of(C, s->scheme->group), per = 32 / (size_t)s->scheme->bits;
    const int bits = s->scheme->bits;
    const Tensor *packed = find(s, "weight_packed"), *index = find(s, "weight_g_idx"),
        *zeros = find(s, "weight_zero_point");
    if (packed) {
        packed = need(s, "weight_packed", DT_I32, O, (C + per - 1) / per);
        const Tensor *shape = find(s, "weight_shape");
        if (shape && (shape->n != 2 || (shape->dtype != DT_I64 && shape->dtype != DT_I32)))
            die("%s: tensor %s is not two whole numbers", shape->file, shape->name);
        for (size_t i = 0; shape && i < 2; i++) {
            int64_t got = 0;
            if (shape->dtype == DT_I64) memcpy(&got, (const char *)shape->data + 8 * i, 8);
            else got = (int32_t)word(shape, i);
            if (got != (int64_t)(i ? C : O))
                die("%s: tensor %s says %lld, where %s has %zu", shape->file, shape->name, (long long)got, s->module,
                    i ? C : O);
        }
    }
    const Tensor *data = packed ? packed : need(s, "weight", DT_I8, O, C);
    if (!packed && bits != 8) die("%s: tensor %s is I8, but config.json says %d bits", data->file, data->name, bits);
    const Tensor *scale = find(s, "weight_scale");
    if (!scale) die("%s: %s is quantised, but %s.weight_scale is missing", s->files->path, s->module, s->module);
    size_t want = s->scheme->per_tensor ? 1 : O * n_groups;
    if (scale->n != want || scale->n_dims > 2 || (scale->n_dims == 2 && !s->scheme->per_tensor && scale->shape[0] != O))
        die("%s: tensor %s has %zu scales, where %zu outputs of %zu groups need %zu", scale->file, scale->name,
            scale->n, O, n_groups, want);
    check_scales(scale);
    if (index && n_groups > 1) {
        index = need(s, "weight_g_idx", DT_I32, C, 0);
        m->order = out->own[3] = order_of(index, C, s->scheme->group);
    }
    bool in_place = !m->order && (bits == 4 || !packed) && data->aligned;
    if (in_place) m->data = (void *)(uintptr_t)data->data;
    else repack(out, data, packed ? PACK_ROWS : PACK_NONE, bits, O, C);
    scales_place(out, scale, O, n_groups, false);
    if (!s->scheme->symmetric && !zeros)
        die("%s: %s is asymmetric, but %s.weight_zero_point is missing", s->files->path, s->module, s->module);
    if (!s->scheme->symmetric) {
        if (zeros->dtype == DT_I32) zeros = need(s, "weight_zero_point", DT_I32, (O + per - 1) / per, n_groups);
        else if (zeros->dtype != DT_I8 || zeros->n != want)
            die("%s: tensor %s: zero points must be packed I32, or I8 and as many as scales", zeros->file, zeros->name);
        if (s->scheme->per_tensor)
            die("%s: tensor %s: zero points with one scale for the whole tensor", zeros->file, zeros->name);
        zeros_place(out, &(Zeros){zeros, LAYOUT_COMPRESSED, bits, 0, O, n_groups});
    }
    if (s->scheme->input != INPUT_STATIC) return;
    const Tensor *input = find(s, "input_scale");
    if (!input || input->n != 1)
        die("%s: %s has static inputs, but no %s.input_scale of one number", s->files->path, s->module, s->module);
    check_scales(input);
    tensor_to_f32(input, &m->input_scale);
    if (!(m->input_scale > 0)) die("%s: tensor %s is not positive", input->file, input->name);
}
static void columns_read(const Source *s, QuantTensor *out) {     /* GPTQ, AWQ */
    Mat *m = &out->m;
    const size_t O = s->O, C = s->C, n_groups = groups_of(C, s->scheme->group), per = 32 / (size_t)s->scheme->bits;
    const int bits = s->scheme->bits;
    const bool awq = s->q->layout == LAYOUT_AWQ;
    if (awq ? O % per : C % per)
        die("%s: %s.qweight: %zu %s are no multiple of %zu", s->files->path, s->module, awq ? O : C,
            awq ? "outputs" : "inputs", per);
    const Tensor *data = awq ? need(s, "qweight", DT_I32, C, O / per) : need(s, "qweight", DT_I32, C / per, O);
    const Tensor *zeros = need(s, "qzeros", DT_I32, n_groups, (O + per - 1) / per), *scale = find(s, "scales"),
        *index = find(s, "g_idx");
    if (!scale || scale->n_dims != 2 || scale->shape[0] != n_groups || scale->shape[1] != O)
        die("%s: %s.scales is missing or not of %zu groups x %zu outputs", s->files->path, s->module, n_groups, O);
    check_scales(scale);
    if (index && n_groups > 1 && !awq)
        m->order = out->own[3] = order_of(need(s, "g_idx", DT_I32, C, 0), C, s->scheme->group);
    repack(out, data, awq ? PACK_OUTPUTS : PACK_INPUTS, bits, O, C);
    scales_place(out, scale, O, n_groups, true);
    zeros_place(out, &(Zeros){zeros, s->q->layout, bits, s->q->zeros_less_one, O, n_groups});
}

QuantTensor quant_tensor(const QuantConfig *q, const Tensors *files, const char *module, size_t rows, size_t cols) {
    Source s = {.q = q, .files = files, .module = module, .O = rows, .C = cols};
    const Tensor *t = quant_find(files, module);
    if (!q) die("%s: tensor %s is quantised, but config.json has no quantization_config", t->file, t->name);
    bool columns = q->layout != LAYOUT_COMPRESSED;
    if (columns != !strcmp(t->name + strlen(t->name) - 7, "qweight"))
        die("%s: tensor %s is of another format than the quant_method in %s", t->file, t->name, q->path);
    s.scheme = scheme_for(q, module);
    if (!s.scheme) die("%s: no group in quantization_config has %s as a target, but it is quantised", q->path, module);
    QuantTensor out = {.m = {.dtype = s.scheme->bits == 4 ? DT_I4 : DT_I8, .rows = rows, .cols = cols,
                               .group = s.scheme->group < cols ? s.scheme->group : 0, .input = s.scheme->input}};
    (columns ? columns_read : compressed_read)(&s, &out);
    return out;
}

void *quant_replace(const QuantConfig *q, const Tensors *files, const char *module, size_t rows, size_t cols,
                    const float *w) {
    QuantTensor t = quant_tensor(q, files, module, rows, cols);
    const Tensor *stored = quant_find(files, module);
    const bool plain = stored->dtype == DT_I8;
    const int bits = t.m.dtype == DT_I4 ? 4 : 8;
    const size_t G = t.m.group ? t.m.group : cols, n_groups = groups_of(cols, G), per = 32 / (size_t)bits;
    const float low = -(float)(1 << (bits - 1)), high = -low - 1;
    float *scale = xmalloc(size_mul(rows * n_groups, sizeof *scale));
    tensor_to_f32(&(Tensor){.dtype = t.m.scale_dtype, .n = rows * n_groups, .data = t.m.scale}, scale);
    size_t *group = xmalloc(size_mul(cols, sizeof *group));
    for (size_t i = 0; i < cols; i++) group[t.m.order ? (size_t)t.m.order[i] : i] = i / G;
    uint8_t *out = xcalloc(stored->bytes, 1);
    /* A word of AWQ's lines holds eight outputs: blocks of them keep threads out of each other's. */
    enum { BLOCK = 64 };
    #pragma omp parallel for schedule(static)
    for (size_t o0 = 0; o0 < rows; o0 += BLOCK)
        for (size_t o = o0; o < rows && o < o0 + BLOCK; o++)
            for (size_t c = 0; c < cols; c++) {
                size_t at = o * n_groups + group[c];
                float code = rintf(w[o * cols + c] / scale[at]) + (t.m.zero ? (float)t.m.zero[at] : 0);
                int v = (int)(code >= low ? code <= high ? code : high : low);        /* NaN: the lowest */
                if (plain) { out[o * cols + c] = (uint8_t)v; continue; }
                size_t i = o * ((cols + per - 1) / per) + c / per, shift = c % per * (size_t)bits;
                if (q->layout == LAYOUT_GPTQ) i = c / per * rows + o;
                if (q->layout == LAYOUT_AWQ) i = c * (rows / 8) + o / 8, shift = (size_t)awq_shift[o % 8];
                uint32_t u = (uint32_t)(v + (1 << (bits - 1))) << shift;
                for (size_t b = 0; b < 4; b++) out[4 * i + b] |= (uint8_t)(u >> (8 * b));
            }
    for (int i = 0; i < 4; i++) free(t.own[i]);
    free(scale), free(group);
    return out;
}
