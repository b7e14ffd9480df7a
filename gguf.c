/* gguf.c - see gguf.h. The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md; the keys and tensor names that
 * each architecture wants: llama.cpp's src/llama-arch.cpp.
 *
 *     "GGUF", u32 version 3, u64 tensors, u64 keys      everything little-endian
 *     keys                name, type, value             names and texts: u64 length, bytes
 *     tensors             name, u32 dimensions, u64 of each (the adjacent one first), u32 type, u64 offset
 *     data                at multiples of 32, which the offsets count from
 *
 * A block of 32 weights: Q8_0 is an F16 scale and 32 int8; Q4_0 an F16 scale and 16 bytes, weight i in the low half of
 * byte i and weight i + 16 in the high half, plus 8. These are grids that quantize.c rounds to anyway.
 *
 * TRAP. llama.cpp turns the two halves of a head in pairs (2i, 2i+1) for "llama", so the rows of q and k are written in
 * that order; for the Qwens it turns (i, i + D/2), as the Hub does. */
#include "gguf.h"
#include "tokenizer.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32 };                                                             /* bytes */
enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STR = 8, ARRAY = 9 };                  /* types of values */
enum { TYPE_F32 = 0, TYPE_Q4_0 = 2, TYPE_Q8_0 = 8 };                                 /* of tensors */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, UNUSED = 5, BYTE = 6 };       /* of tokens */

typedef struct { size_t at, row_bytes; bool put; } Place;      /* of a parameter: where its first row goes */
struct Gguf {
    const Model *m;
    const uint8_t *bits;
    OutFile out;
    Buf head;
    uint64_t n_keys, n_tensors;
    Place *place;                                              /* (n_params) */
    size_t data, size;
    bool pairs;                                                /* heads turn in pairs there */
    char *arch;
};

/* ---- keys ------------------------------------------------------------------------------------------------------- */
static void add32(Buf *b, uint32_t x) { buf_add(b, &x, 4); }
static void add64(Buf *b, uint64_t x) { buf_add(b, &x, 8); }
static void add_text(Buf *b, const char *s, size_t n) { add64(b, n), buf_add(b, s, n); }
/* A name that begins with a dot is the architecture's. */
static void key(Gguf *g, const char *name, uint32_t type) {
    char *whole = *name == '.' ? strf("%s%s", g->arch, name) : xstrdup(name);
    add_text(&g->head, whole, strlen(whole)), add32(&g->head, type);
    g->n_keys++;
    free(whole);
}
static void key_u32(Gguf *g, const char *name, int x) { key(g, name, U32), add32(&g->head, (uint32_t)x); }
static void key_f32(Gguf *g, const char *name, float x) { key(g, name, F32), buf_add(&g->head, &x, 4); }
static void key_bool(Gguf *g, const char *name, bool x) { key(g, name, BOOL), buf_add(&g->head, &(char){x}, 1); }
static void key_text(Gguf *g, const char *name, const char *s) { key(g, name, STR), add_text(&g->head, s, strlen(s)); }
static void key_array(Gguf *g, const char *name, uint32_t type, size_t n) {
    key(g, name, ARRAY), add32(&g->head, type), add64(&g->head, n);
}

static void keys_of_model(Gguf *g, const char *dir) {
    const Config *c = &g->m->cfg;
    const char *slash = strrchr(dir, '/');
    int most = 0;
    for (int i = 0; i < g->m->n_params; i++)
        if (g->bits[i] && g->m->params[i].layer >= 0) most = g->bits[i];
    key_text(g, "general.architecture", g->arch);
    key_text(g, "general.name", slash && slash[1] ? slash + 1 : dir);
    key_u32(g, "general.quantization_version", 2);
    key_u32(g, "general.file_type", most == 8 ? 7 : 2);        /* mostly Q8_0, mostly Q4_0 */
    key_u32(g, "general.alignment", ALIGNMENT);
    key_u32(g, ".context_length", c->max_pos);
    key_u32(g, ".embedding_length", c->C);
    key_u32(g, ".block_count", c->L);
    key_u32(g, ".feed_forward_length", c->F);
    key_u32(g, ".attention.head_count", c->H);
    if (c->norm == NORM_LAYER) {
        key_f32(g, ".attention.layer_norm_epsilon", c->norm_eps);
        return;
    }
    key_f32(g, ".attention.layer_norm_rms_epsilon", c->norm_eps);
    key_u32(g, ".attention.head_count_kv", c->K);
    key_u32(g, ".attention.key_length", c->D);
    key_u32(g, ".attention.value_length", c->D);
    key_u32(g, ".rope.dimension_count", c->D);
    key_f32(g, ".rope.freq_base", c->rope_base);
    key_u32(g, ".vocab_size", c->V);
    if (c->rope_scaling != ROPE_LINEAR) return;
    key_text(g, ".rope.scaling.type", "linear");
    key_f32(g, ".rope.scaling.factor", c->rope_factor);
}

/* ---- the tokenizer ---------------------------------------------------------------------------------------------- */
static const cJSON *at(const cJSON *j, const char *name) { return cJSON_GetObjectItemCaseSensitive(j, name); }
static const char *text_at(const cJSON *j, const char *name) { return cJSON_GetStringValue(at(j, name)); }
typedef struct { const char *text; int type; float score; } Piece;
/* A merge, "a b" or ["a", "b"] (tokenizer_load has checked), as text with this between its halves. */
static char *merge_text(const cJSON *merge, const char *between) {
    if (cJSON_IsArray(merge)) return strf("%s%s%s", merge->child->valuestring, between, merge->child->next->valuestring);
    const char *text = merge->valuestring, *blank = strchr(text, ' ');
    return strf("%.*s%s%s", (int)(blank - text), text, between, blank + 1);
}
static void keys_of_tokenizer(Gguf *g, const char *dir) {
    char *path = path_join(dir, "tokenizer.json");
    if (!file_exists(path)) die("%s: GGUF files are written from a tokenizer.json, which is not there", dir);
    cJSON *json = json_read(path, JSON_OBJECT);
    const cJSON *model = at(json, "model"), *vocab = at(model, "vocab"), *merges = at(model, "merges"), *one;
    const char *kind = text_at(model, "type");
    bool pieces = cJSON_IsTrue(at(model, "byte_fallback"));    /* SentencePiece's BPE */
    if ((kind && strcmp(kind, "BPE")) || !cJSON_IsObject(vocab) || !cJSON_IsArray(merges))
        die("%s: GGUF files are written for BPE vocabularies, this is %s", path, kind ? kind : "none");
    Tokenizer *tok = tokenizer_load(dir);
    const char *words = tokenizer_words(tok);
    if (!pieces && !words) die("%s: its way of cutting text into words has no name in GGUF that is known here", path);
    size_t V = (size_t)g->m->cfg.V;
    if ((size_t)tokenizer_vocab(tok) > V) die("%s: %d ids, the model has %zu", path, tokenizer_vocab(tok), V);
    Piece *v = xcalloc(V, sizeof *v);
    /* tokenizer_load has checked that ids are whole numbers, and no more of them than the largest. */
    cJSON_ArrayForEach(one, vocab) v[one->valueint] = (Piece){one->string, NORMAL, 0};
    const char *unknown = text_at(model, "unk_token");
    for (size_t i = 0; pieces && i < V; i++) {
        v[i].score = -(float)cJSON_GetArraySize(merges);       /* of what no merge makes */
        if (v[i].text && strlen(v[i].text) == 6 && !strncmp(v[i].text, "<0x", 3)) v[i].type = BYTE;
        if (v[i].text && unknown && !strcmp(v[i].text, unknown)) v[i].type = UNKNOWN;
    }
    /* SentencePiece merges the pair whose piece has the highest score: the rank of the first merge that makes it. (Ids
     * are no ranks: Llama's runs of blanks have low ids and late merges.) */
    float rank = 0;
    for (one = pieces ? merges->child : NULL; one; one = one->next, rank++) {
        char *whole = merge_text(one, "");
        int id = tokenizer_id(tok, whole);
        if (id >= 0 && v[id].score < -rank) v[id].score = -rank;
        free(whole);
    }
    cJSON_ArrayForEach(one, at(json, "added_tokens")) {
        int id = cJSON_IsNumber(at(one, "id")) ? at(one, "id")->valueint : -1;
        const char *text = text_at(one, "content");
        if (id < 0 || (size_t)id >= V || !text) die("%s: an added token without a place in the vocabulary", path);
        if (v[id].type != UNKNOWN) v[id] = (Piece){text, cJSON_IsTrue(at(one, "special")) ? CONTROL : USER, 0};
    }
    key_text(g, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
    if (!words) words = "default";
    words = !strcmp(words, "gpt2") ? "gpt-2" : !strcmp(words, "llama3") ? "llama-bpe" : words;
    key_text(g, "tokenizer.ggml.pre", words);
    key_array(g, "tokenizer.ggml.tokens", STR, V);
    for (size_t i = 0; i < V; i++) {
        char *pad = v[i].text ? NULL : strf("[PAD%zu]", i);    /* ids beyond the tokenizer's: names must differ */
        add_text(&g->head, pad ? pad : v[i].text, strlen(pad ? pad : v[i].text)), free(pad);
    }
    key_array(g, "tokenizer.ggml.token_type", I32, V);
    for (size_t i = 0; i < V; i++) add32(&g->head, (uint32_t)(v[i].text ? v[i].type : UNUSED));
    if (pieces) {
        key_array(g, "tokenizer.ggml.scores", F32, V);
        for (size_t i = 0; i < V; i++) buf_add(&g->head, &v[i].score, 4);
        bool blank = text_at(at(json, "normalizer"), "prepend") != NULL;
        cJSON_ArrayForEach(one, at(at(json, "normalizer"), "normalizers")) blank |= text_at(one, "prepend") != NULL;
        key_bool(g, "tokenizer.ggml.add_space_prefix", blank);
        if (unknown) key_u32(g, "tokenizer.ggml.unknown_token_id", tokenizer_id(tok, unknown));
    } else {
        key_array(g, "tokenizer.ggml.merges", STR, (size_t)cJSON_GetArraySize(merges));
        cJSON_ArrayForEach(one, merges) {
            char *both = merge_text(one, " ");
            add_text(&g->head, both, strlen(both)), free(both);
        }
    }
    if (tokenizer_bos(tok) >= 0) key_u32(g, "tokenizer.ggml.bos_token_id", tokenizer_bos(tok));
    if (tokenizer_eos(tok) >= 0) key_u32(g, "tokenizer.ggml.eos_token_id", tokenizer_eos(tok));
    key_bool(g, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(tok));
    char *config_path = path_join(dir, "tokenizer_config.json");
    if (file_exists(config_path)) {
        cJSON *config = json_read(config_path, JSON_OBJECT);
        if (text_at(config, "chat_template")) key_text(g, "tokenizer.chat_template", text_at(config, "chat_template"));
        cJSON_Delete(config);
    }
    tokenizer_free(tok), cJSON_Delete(json);
    free(v), free(path), free(config_path);
}

/* ---- the tensors ------------------------------------------------------------------------------------------------ */
static const char *const names[R_COUNT] = {
    [R_WTE] = "token_embd.weight", [R_WPE] = "position_embd.weight", [R_FINAL_W] = "output_norm.weight",
    [R_FINAL_B] = "output_norm.bias", [R_HEAD] = "output.weight", [R_NORM1_W] = "attn_norm.weight",
    [R_NORM1_B] = "attn_norm.bias", [R_Q] = "attn_q.weight", [R_K] = "attn_k.weight", [R_V] = "attn_v.weight",
    [R_Q_B] = "attn_q.bias", [R_K_B] = "attn_k.bias", [R_V_B] = "attn_v.bias", [R_QNORM] = "attn_q_norm.weight",
    [R_KNORM] = "attn_k_norm.weight", [R_O] = "attn_output.weight", [R_O_B] = "attn_output.bias",
    [R_NORM2_W] = "ffn_norm.weight", [R_NORM2_B] = "ffn_norm.bias", [R_GATE] = "ffn_gate.weight",
    [R_UP] = "ffn_up.weight", [R_GATE_B] = "ffn_gate.bias", [R_UP_B] = "ffn_up.bias", [R_DOWN] = "ffn_down.weight",
    [R_DOWN_B] = "ffn_down.bias"};
static bool is_vector(const Param *p) { return p->kind == KIND_NORM || p->kind == KIND_BIAS; }
static bool joins(const Param *p) { return p->role == R_K || p->role == R_V || p->role == R_K_B || p->role == R_V_B; }

static void announce(Gguf *g, const char *name, const size_t *dim, int n_dims, uint32_t type, size_t bytes) {
    add_text(&g->head, name, strlen(name)), add32(&g->head, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++) add64(&g->head, dim[i]);
    add32(&g->head, type), add64(&g->head, g->size);
    g->n_tensors++;
    g->size = (g->size + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}
/* Offsets from the data's beginning; GPT-2's q, k and v are one tensor. */
static void announce_all(Gguf *g) {
    const Model *m = g->m;
    bool joined = !strcmp(g->arch, "gpt2");
    for (int i = 0; i < m->n_params; i++) {
        const Param *p = &m->params[i];
        Place *to = &g->place[i];
        bool vector = is_vector(p), quantised = g->bits[i];
        size_t dim[2] = {vector ? p->n : p->cols, p->rows}, rows = vector ? p->n : p->rows;
        to->row_bytes = vector ? 4 : !quantised ? p->cols * 4 : p->cols / GGUF_BLOCK * (g->bits[i] == 8 ? 34 : 18);
        if (joined && joins(p)) continue;
        char *name = p->layer < 0 ? xstrdup(names[p->role]) : strf("blk.%d.%s", p->layer, names[p->role]);
        to->at = g->size;
        if (joined && (p->role == R_Q || p->role == R_Q_B)) {
            const Param *k = m->at[p->layer + 1][p->role + 1], *v = m->at[p->layer + 1][p->role + 2];
            g->place[k - m->params].at = to->at + rows * to->row_bytes;
            g->place[v - m->params].at = to->at + 2 * rows * to->row_bytes;
            rows *= 3, dim[vector ? 0 : 1] *= 3;
            free(name);
            name = strf("blk.%d.attn_qkv.%s", p->layer, vector ? "bias" : "weight");
        }
        uint32_t type = !quantised ? TYPE_F32 : g->bits[i] == 8 ? TYPE_Q8_0 : TYPE_Q4_0;
        announce(g, name, dim, vector ? 1 : 2, type, rows * to->row_bytes);
        free(name);
    }
}
static void check_model(const Model *m, const char *dir, const uint8_t *bits) {
    const Config *c = &m->cfg;
    const char *type = config_model_type(c), *known = " llama mistral qwen2 qwen3 gpt2 ";
    char *word = strf(" %s ", type);
    if (!strstr(known, word)) die("%s: GGUF files are written for%shere, this is a %s model", dir, known, type);
    free(word);
    if (c->head != HEAD_LM) die("%s: GGUF files are written for language models, this one has another head", dir);
    if (c->window && c->window < c->max_pos)
        die("%s: a window of %d tokens, which GGUF has no word for in a %s model", dir, c->window, type);
    bool part = c->pos == POS_ROPE && c->rope_dims != c->D;
    if (part || c->rope_scaling == ROPE_DYNAMIC || c->rope_scaling == ROPE_YARN)
        die("%s: its positions turn %s, which is not written to GGUF", dir, part ? "part of a head" : "by length");
    for (int i = 0; i < m->n_params; i++)
        if (bits[i] && m->params[i].cols % GGUF_BLOCK)
            die("%s: %s has rows of %zu, GGUF's blocks hold 32", dir, names[m->params[i].role], m->params[i].cols);
}
Gguf *gguf_begin(const char *path, const Model *m, const char *dir, const uint8_t *bits) {
    check_model(m, dir, bits);
    const Config *c = &m->cfg;
    Gguf *g = xcalloc(1, sizeof *g);
    const char *type = config_model_type(c);
    *g = (Gguf){.m = m, .bits = bits, .arch = xstrdup(strcmp(type, "mistral") ? type : "llama")};
    g->place = xcalloc((size_t)m->n_params, sizeof *g->place);
    g->pairs = !strcmp(g->arch, "llama");
    keys_of_model(g, dir);
    keys_of_tokenizer(g, dir);
    bool factors = c->pos == POS_ROPE && c->rope_scaling == ROPE_LLAMA3;
    size_t half = (size_t)c->D / 2, factors_at = 0;
    announce_all(g);
    if (factors) factors_at = g->size, announce(g, "rope_freqs.weight", &half, 1, TYPE_F32, half * 4);
    Buf start = {0};
    buf_add(&start, "GGUF", 4), add32(&start, 3), add64(&start, g->n_tensors), add64(&start, g->n_keys);
    g->data = (start.len + g->head.len + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    g->out = out_open(path);
    out_write(&g->out, start.data, start.len);
    out_write(&g->out, g->head.data, g->head.len);
    out_seek(&g->out, g->data + g->size - 1), out_write(&g->out, "", 1);   /* the length stands; what comes replaces */
    if (factors) {                                             /* what a frequency is divided by */
        Config plain = *c;
        plain.rope_scaling = ROPE_PLAIN;
        out_seek(&g->out, g->data + factors_at);
        for (size_t i = 0; i < half; i++) {
            float f = (float)(rope_frequency(&plain, i, 1) / rope_frequency(c, i, 1));
            out_write(&g->out, &f, 4);
        }
    }
    buf_free(&start), buf_free(&g->head);
    return g;
}
/* Row r of what lies there is row row_here() of ours. */
static size_t row_here(const Gguf *g, const Param *p, size_t r) {
    size_t D = (size_t)g->m->cfg.D;
    if (!g->pairs || (p->role != R_Q && p->role != R_K && p->role != R_Q_B && p->role != R_K_B)) return r;
    return r / D * D + r % D / 2 + r % 2 * (D / 2);
}
static Place *place_of(Gguf *g, const Param *p) {
    Place *to = &g->place[p - g->m->params];
    to->put = true;
    out_seek(&g->out, g->data + to->at);
    return to;
}
void gguf_put(Gguf *g, const Param *p, const int8_t *q, const float *scale) {
    const Place *to = place_of(g, p);
    size_t blocks = p->cols / GGUF_BLOCK;
    bool eight = g->bits[p - g->m->params] == 8;
    uint8_t *row = xmalloc(to->row_bytes);
    for (size_t r = 0; r < p->rows; r++) {
        size_t from = row_here(g, p, r);
        uint8_t *b = row;
        for (size_t i = 0; i < blocks; i++) {
            const int8_t *x = q + from * p->cols + i * GGUF_BLOCK;
            f32_to_dtype(scale + from * blocks + i, 1, DT_F16, b), b += 2;
            if (eight) memcpy(b, x, GGUF_BLOCK), b += GGUF_BLOCK;
            for (int j = 0; j < 16 && !eight; j++) *b++ = (uint8_t)((x[j] + 8) | (x[j + 16] + 8) << 4);
        }
        out_write(&g->out, row, to->row_bytes);
    }
    free(row);
}
void gguf_put_floats(Gguf *g, const Param *p, const float *x) {
    const Place *to = place_of(g, p);
    size_t width = to->row_bytes / 4, rows = p->n / width;
    for (size_t r = 0; r < rows; r++) out_write(&g->out, x + row_here(g, p, r) * width, to->row_bytes);
}
size_t gguf_end(Gguf *g) {
    for (int i = 0; i < g->m->n_params; i++)
        if (!g->place[i].put) die("%s was not written", names[g->m->params[i].role]);
    size_t bytes = g->data + g->size;
    out_close(&g->out);
    free(g->place), free(g->arch), free(g);
    return bytes;
}
