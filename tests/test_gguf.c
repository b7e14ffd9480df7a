/* tests/test_gguf.c - the GGUF files that ./quantize writes, read by a reader of its own: header, keys, vocabulary,
 * places and sizes of the tensors, and their values against the model's. A matrix is off by no more than what rounding
 * each block to the nearest step of its largest weight costs; rows in the wrong order would be off by far more. */
#define main quantize_main
#include "../quantize.c"
#undef main
#include "test.h"

/* ---- a reader --------------------------------------------------------------------------------------------------- */
typedef struct { char *name; uint32_t n_dims, type; uint64_t dim[4], offset; size_t bytes; } Entry;
typedef struct {
    char *bytes;
    size_t n, at, data;
    uint64_t n_tensors, n_keys;
    struct { char *name; uint32_t type; size_t at; } key[64];
    Entry tensor[256];
    bool broken;
} File;
static uint64_t take(File *f, size_t n) {
    uint64_t x = 0;
    if (f->at + n > f->n) { f->broken = true; return 0; }
    memcpy(&x, f->bytes + f->at, n);
    f->at += n;
    return x;
}
static char *take_text(File *f) {
    size_t n = take(f, 8);
    if (n > f->n - f->at) { f->broken = true; return xstrdup(""); }
    char *s = strf("%.*s", (int)n, f->bytes + f->at);
    f->at += n;
    return s;
}
static void skip_value(File *f, uint32_t type) {
    if (type == 8) free(take_text(f));
    else if (type == 9) {
        uint32_t of = (uint32_t)take(f, 4);
        for (uint64_t n = take(f, 8); n-- && !f->broken;) skip_value(f, of);
    } else take(f, type == 7 ? 1 : 4);
}
static File *file_open(const char *path) {
    File *f = xcalloc(1, sizeof *f);
    f->bytes = file_read(path, &f->n);
    f->broken = f->n < 24 || memcmp(f->bytes, "GGUF", 4);
    f->at = 4;
    f->broken |= take(f, 4) != 3;
    f->n_tensors = take(f, 8), f->n_keys = take(f, 8);
    for (size_t i = 0; i < f->n_keys && i < 64 && !f->broken; i++) {
        f->key[i].name = take_text(f), f->key[i].type = (uint32_t)take(f, 4), f->key[i].at = f->at;
        skip_value(f, f->key[i].type);
    }
    for (size_t i = 0; i < f->n_tensors && i < 256 && !f->broken; i++) {
        Entry *t = &f->tensor[i];
        t->name = take_text(f), t->n_dims = (uint32_t)take(f, 4);
        size_t n = 1;
        for (uint32_t d = 0; d < t->n_dims && d < 4; d++) n *= t->dim[d] = take(f, 8);
        t->type = (uint32_t)take(f, 4), t->offset = take(f, 8);
        t->bytes = t->type == 0 ? 4 * n : t->type == 8 ? n / 32 * 34 : t->type == 2 ? n / 32 * 18 : 0;
    }
    f->data = (f->at + 31) / 32 * 32;
    return f;
}
static void file_close(File *f) {
    for (size_t i = 0; i < f->n_keys && i < 64; i++) free(f->key[i].name);
    for (size_t i = 0; i < f->n_tensors && i < 256; i++) free(f->tensor[i].name);
    free(f->bytes), free(f);
}
static bool find_key(File *f, const char *name) {
    for (size_t i = 0; i < f->n_keys; i++)
        if (!strcmp(f->key[i].name, name)) return f->at = f->key[i].at, true;
    return false;
}
static uint32_t number(File *f, const char *name) { return find_key(f, name) ? (uint32_t)take(f, 4) : UINT32_MAX; }
static float real(File *f, const char *name) {
    uint32_t bits = number(f, name);
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static bool text_is(File *f, const char *name, const char *want) {
    char *got = find_key(f, name) ? take_text(f) : xstrdup("(no key)");
    bool same = !strcmp(got, want);
    if (!same) printf("      %s is %s, not %s\n", name, got, want);
    free(got);
    return same;
}
static const Entry *find(const File *f, const char *name) {
    for (size_t i = 0; i < f->n_tensors; i++) if (!strcmp(f->tensor[i].name, name)) return &f->tensor[i];
    return NULL;
}
static float half(const uint8_t *p) {
    float x;
    tensor_to_f32(&(Tensor){.dtype = DT_F16, .n = 1, .data = p}, &x);
    return x;
}
static float value(const File *f, const Entry *t, size_t i) {
    const uint8_t *p = (const uint8_t *)f->bytes + f->data + t->offset;
    float x;
    if (t->type == 0) return memcpy(&x, p + 4 * i, 4), x;
    p += i / 32 * (t->type == 8 ? 34 : 18);
    size_t j = i % 32;
    int q = t->type == 8 ? (int8_t)p[2 + j] : (p[2 + j % 16] >> (j < 16 ? 0 : 4) & 15) - 8;
    return half(p) * (float)q;
}

/* ---- models ----------------------------------------------------------------------------------------------------- */
static const char story[] = "The old fox went to the river. It saw a boat and was glad, for the water was cold. "
                            "\xe4\xbd\xa0\xe5\xa5\xbd 123 12";
static int n_documents;
static const char *next_document(void *state, size_t *n) {
    (void)state, *n = strlen(story);
    return n_documents++ < 40 ? story : NULL;
}
typedef struct { const char *name, *type, *split; bool tied; RopeScaling scaling; } Case;
static const Case cases[] = {{"llama", "llama", "gpt2", true, ROPE_PLAIN}, {"llama3", "llama", "llama3", false, ROPE_LLAMA3},
                             {"linear", "llama", "gpt2", false, ROPE_LINEAR}, {"qwen2", "qwen2", "gpt2", false, ROPE_PLAIN},
                             {"qwen3", "qwen3", "gpt2", true, ROPE_PLAIN}, {"gpt2", "gpt2", "gpt2", true, ROPE_PLAIN}};
static char *make(const Case *k) {
    char *dir = path_join(test_tmpdir(), k->name);
    const char *special[] = {"<|end|>"};
    make_dirs(dir);
    n_documents = 0;
    tokenizer_train((TextSource){.next = next_document}, k->split, 300, 1, special, 1, dir);
    Config c = config_family_default(k->type);
    bool gpt2 = !strcmp(k->type, "gpt2");
    c.V = 307, c.C = 64, c.L = 2, c.H = 4, c.K = gpt2 ? 4 : 2, c.D = 16, c.F = gpt2 ? 256 : 96, c.max_pos = 128;
    c.rope_dims = c.D, c.tied = k->tied, c.bos = 0, c.eos[0] = 0, c.n_eos = 1, c.rope_scaling = k->scaling;
    if (k->scaling != ROPE_PLAIN) c.rope_factor = 4, c.rope_low_freq = 1, c.rope_high_freq = 4, c.rope_original_pos = 32;
    Model *m = model_new(&c, 7);
    for (int i = 0; i < m->n_params; i++)                     /* norms and biases too differ from row to row */
        for (size_t j = 0; j < m->params[i].n; j++) m->params[i].master[j] += (float)(rng_mix(5, j) >> 40) * 0x1p-24f * 0.1f;
    model_save(m, dir, DT_F32);
    model_free(m);
    return dir;
}
static int quantise(const char *dir, const char *out, const char *bits) {
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        test_in_child = true;
        const char *argv[] = {"quantize", "--model", dir, "--out", out, "--bits", bits, "--format", "gguf", "--quiet",
                              "--threads", "1", NULL};
        omp_set_num_threads(1);
        exit(quantize_main(12, (char **)(uintptr_t)argv));
    }
    int status = 1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What rounding a block to steps of its largest weight costs: llama.cpp's own rule. */
static double plain_error(const float *w, size_t n, bool eight) {
    double error = 0;
    for (size_t i = 0; i < n; i += 32) {
        float most = 0;
        for (size_t j = i; j < i + 32; j++) if (fabsf(w[j]) > fabsf(most)) most = w[j];
        float step = eight ? fabsf(most) / 127 : most / -8;
        for (size_t j = i; j < i + 32; j++) {
            float q = step ? rintf(w[j] / step) : 0, high = eight ? 127 : 7;
            q = q > high ? high : q;
            error += pow((double)(w[j] - q * step), 2);
        }
    }
    return error;
}
static void check_values(const Case *k, const Model *m, const File *f, bool eight) {
    static const struct { Role role; const char *name; int layer; } of[] = {
        {R_WTE, "token_embd.weight", -1}, {R_WPE, "position_embd.weight", -1}, {R_FINAL_W, "output_norm.weight", -1},
        {R_FINAL_B, "output_norm.bias", -1}, {R_HEAD, "output.weight", -1}, {R_Q, "blk.1.attn_q.weight", 1},
        {R_K, "blk.0.attn_k.weight", 0}, {R_V, "blk.1.attn_v.weight", 1}, {R_O, "blk.0.attn_output.weight", 0},
        {R_Q_B, "blk.1.attn_q.bias", 1}, {R_K_B, "blk.0.attn_k.bias", 0}, {R_V_B, "blk.1.attn_v.bias", 1},
        {R_QNORM, "blk.0.attn_q_norm.weight", 0}, {R_KNORM, "blk.1.attn_k_norm.weight", 1}, {R_GATE, "blk.1.ffn_gate.weight", 1},
        {R_UP, "blk.0.ffn_up.weight", 0}, {R_DOWN, "blk.1.ffn_down.weight", 1}, {R_DOWN_B, "blk.1.ffn_down.bias", 1},
        {R_NORM1_W, "blk.0.attn_norm.weight", 0}, {R_NORM2_W, "blk.1.ffn_norm.weight", 1}, {R_NORM2_B, "blk.1.ffn_norm.bias", 1}};
    bool joined = !strcmp(k->type, "gpt2"), pairs = !strcmp(k->type, "llama");
    size_t n_seen = 0;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const Param *p = m->at[of[i].layer + 1][of[i].role];
        Role role = of[i].role;
        bool part = joined && (role == R_Q || role == R_K || role == R_V || role == R_Q_B || role == R_K_B || role == R_V_B);
        char *name = part ? strf("blk.%d.attn_qkv.%s", of[i].layer, p->cols > 1 ? "weight" : "bias") : xstrdup(of[i].name);
        const Entry *t = find(f, name);
        if (!p || (role == R_HEAD && k->tied)) {
            CHECK(!t, "%s: no %s", k->name, of[i].name);
            free(name);
            continue;
        }
        n_seen++;
        bool matrix = p->kind == KIND_MATRIX || role == R_WTE || role == R_HEAD, q8 = eight || of[i].layer < 0;
        size_t cols = p->kind == KIND_NORM || p->kind == KIND_BIAS ? 1 : p->cols, rows = p->n / cols, bad = 0;
        size_t first = !part ? 0 : role == R_K || role == R_K_B ? rows : role == R_V || role == R_V_B ? 2 * rows : 0;
        uint32_t type = !matrix ? 0 : q8 ? 8 : 2;
        uint64_t outputs = rows * (part ? 3 : 1);
        if (!CHECK(t && t->type == type && (cols > 1 ? t->n_dims == 2 && t->dim[0] == cols && t->dim[1] == outputs
                                                     : t->n_dims == 1 && t->dim[0] == outputs),
                   "%s: %s has its type and shape", k->name, name)) { free(name); continue; }
        float *w = xmalloc(p->n * sizeof *w);
        op.mat_to_f32(w, &p->w);
        double error = 0, allowed = matrix ? plain_error(w, p->n, q8) : 0;
        bool turned = pairs && (role == R_Q || role == R_K || role == R_Q_B || role == R_K_B);
        for (size_t r = 0; r < rows; r++) {
            /* Pair i of a head is rows i and i + D/2 here, 2i and 2i + 1 there. */
            size_t in = r % 16, there = first + (turned ? r - in + (in < 8 ? 2 * in : 2 * (in - 8) + 1) : r);
            for (size_t c = 0; c < cols; c++) {
                double off = (double)(value(f, t, there * cols + c) - w[r * cols + c]);
                error += off * off, bad += off != 0;
            }
        }
        CHECK(matrix ? error > 0 && error <= allowed * 1.0005 : !bad, "%s: %s is off by %.4g, rounding to the largest weight's "
              "steps by %.4g", k->name, name, error, allowed);
        free(w), free(name);
    }
    CHECK(n_seen > 10, "%s: %zu tensors compared", k->name, n_seen);
}
static void check_file(const Case *k, const char *dir, const char *bits) {
    char *path = strf("%s.%s.gguf", dir, bits), *tmp = strf("%s.tmp", path);
    bool eight = *bits == '8';
    CHECK(quantise(dir, path, bits) == 0 && file_exists(path) && !file_exists(tmp), "%s in %s bits", k->name, bits);
    File *f = file_open(path);
    size_t end = 0;
    bool apart = true;
    for (size_t i = 0; i < f->n_tensors && i < 256; i++) {   /* they lie in their order, at multiples of 32, without holes */
        apart &= f->tensor[i].bytes && f->tensor[i].offset == end;
        end = (f->tensor[i].offset + f->tensor[i].bytes + 31) / 32 * 32;
    }
    CHECK(!f->broken && apart && f->n == f->data + end, "%s: %zu tensors in %zu bytes, each at its place", k->name,
          (size_t)f->n_tensors, f->n);
    Model *m = model_load(dir, false);
    const Config *c = &m->cfg;
    Tokenizer *tok = tokenizer_load(dir);
    bool gpt2 = !strcmp(k->type, "gpt2");
    char *heads = strf("%s.attention.head_count", k->type), *length = strf("%s.context_length", k->type);
    CHECK(text_is(f, "general.architecture", k->type) && number(f, heads) == 4 && number(f, length) == 128 &&
              number(f, "general.file_type") == (eight ? 7u : 2u), "%s: the keys of the model", k->name);
    if (!gpt2) {
        char *base = strf("%s.rope.freq_base", k->type), *kv = strf("%s.attention.head_count_kv", k->type);
        CHECK(real(f, base) == c->rope_base && number(f, kv) == 2, "%s: rotation and heads", k->name);
        free(base), free(kv);
    }
    const Entry *factors = find(f, "rope_freqs.weight");
    if (k->scaling == ROPE_LLAMA3)                             /* waves of 6 tokens and of thousands, by the paper's rule */
        CHECK(factors && value(f, factors, 0) == 1 && fabsf(value(f, factors, 7) - 4) < 1e-5f, "llama3: frequencies' factors");
    else CHECK(!factors && (k->scaling != ROPE_LINEAR || real(f, "llama.rope.scaling.factor") == 4), "%s: no factors", k->name);
    const char *pre = !strcmp(k->split, "gpt2") ? "gpt-2" : "llama-bpe";
    CHECK(text_is(f, "tokenizer.ggml.model", "gpt2") && text_is(f, "tokenizer.ggml.pre", pre) &&
              number(f, "tokenizer.ggml.bos_token_id") == 0, "%s: the keys of the tokenizer", k->name);
    size_t n_same = 0;
    bool there = find_key(f, "tokenizer.ggml.tokens") && take(f, 4) == 8 && take(f, 8) == (uint64_t)c->V;
    for (int id = 0; there && id < c->V; id++) {
        char *got = take_text(f);
        n_same += id < tokenizer_vocab(tok) ? tokenizer_id(tok, got) == id : !strncmp(got, "[PAD", 4);
        free(got);
    }
    CHECK(n_same == 307, "%s: %zu of 307 tokens", k->name, n_same);
    there = find_key(f, "tokenizer.ggml.token_type") && take(f, 4) == 5 && take(f, 8) == 307;
    bool types = there && take(f, 4) == 3 && take(f, 4) == 1;
    f->at += 4 * (307 - 3);
    CHECK(types && take(f, 4) == (tokenizer_vocab(tok) == 307 ? 1 : 5), "%s: special, plain and unused tokens", k->name);
    there = find_key(f, "tokenizer.ggml.merges") && take(f, 4) == 8;
    size_t n_merges = take(f, 8);
    char *first = take_text(f);
    CHECK(there && n_merges == (size_t)tokenizer_vocab(tok) - 257 && strchr(first, ' '),
          "%s: %zu merges, the first \"%s\"", k->name, n_merges, first);
    check_values(k, m, f, eight);
    tokenizer_free(tok);
    model_free(m);
    file_close(f);
    free(path), free(tmp), free(heads), free(length), free(first);
}

/* SentencePiece's vocabulary, from a tokenizer.json: scores are the merges' ranks, whatever the ids. */
static void check_pieces(const char *dir) {
    Buf b = {0};
    buf_str(&b, "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\","
                "\"special\":true},{\"id\":2,\"content\":\"</s>\",\"special\":true}],\"normalizer\":{\"type\":\"Sequence\","
                "\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":"
                "{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\","
                "\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (int i = 0; i < 256; i++) buf_fmt(&b, ",\"<0x%02X>\":%d", i, 3 + i);
    static const char *const pieces[] = {"\xe2\x96\x81\xe2\x96\x81", "\xe2\x96\x81" "ab", "ab", "\xe2\x96\x81", "a", "b"};
    static const float scores[] = {-2, -1, 0, -3, -3, -3};
    for (int i = 0; i < 6; i++) buf_fmt(&b, ",\"%s\":%d", pieces[i], 259 + i);
    buf_str(&b, "},\"merges\":[\"a b\",\"\xe2\x96\x81 ab\",\"\xe2\x96\x81 \xe2\x96\x81\"]}}");
    char *path = path_join(dir, "tokenizer.json"), *out = strf("%s.pieces.gguf", dir);
    file_write(path, b.data, b.len);
    free(path), path = path_join(dir, "tokenizer_config.json");
    file_write(path, "{}", 2);
    CHECK(quantise(dir, out, "8") == 0, "pieces with scores: a file");
    File *f = file_open(out);
    CHECK(!f->broken && text_is(f, "tokenizer.ggml.model", "llama") && find_key(f, "tokenizer.ggml.add_space_prefix") &&
              take(f, 1) == 1 && number(f, "tokenizer.ggml.unknown_token_id") == 0, "pieces: the keys of the tokenizer");
    bool there = find_key(f, "tokenizer.ggml.scores") && take(f, 4) == 6 && take(f, 8) == 307;
    f->at += 4 * 259;
    for (int i = 0; i < 6; i++) {
        uint32_t bits = (uint32_t)take(f, 4);
        float score;
        memcpy(&score, &bits, 4);
        CHECK(there && score == scores[i], "piece %d \"%s\" has score %g, its first merge's rank says %g", 259 + i, pieces[i],
              (double)score, (double)scores[i]);
    }
    there = find_key(f, "tokenizer.ggml.token_type") && take(f, 4) == 5 && take(f, 8) == 307;
    uint32_t types[307];
    for (int i = 0; i < 307; i++) types[i] = (uint32_t)take(f, 4);
    CHECK(there && types[0] == 2 && types[1] == 3 && types[3] == 6 && types[258] == 6 && types[259] == 1 && types[306] == 5,
          "pieces: unknown, special, bytes, plain, unused");
    file_close(f);
    free(path), free(out), buf_free(&b);
}

int main(void) {
    ops_select("cpu", "auto", PREC_F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = make(&cases[i]);
        check_file(&cases[i], dir, "8");
        check_file(&cases[i], dir, "4");
        if (!i) check_pieces(dir);
        free(dir);
    }
    return test_end();
}
