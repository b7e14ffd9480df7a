/* load.c - a directory's files -> a Tokenizer: which files there are, and what all kinds of them have in common.
 * Checked here, trusted everywhere else.
 *
 * What this file refuses to do: guess. A part that it does not know ends in a sentence naming the part. */
#include "json.h"

#include <dirent.h>
#include <stdlib.h>

/* [tok.load] reading a tokenizer's files ---------------------------------------------------------------------------- *
 * The only part that meets a file written by somebody else. Every check is here, so that nothing above needs one. */

uint32_t json_id(const char *path, const char *token, const cJSON *node) {
    double d = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (!cJSON_IsNumber(node)) die("%s: the id of token \"%.60s\" is not a number", path, token);
    if (!(d >= 0 && d < MAX_IDS) || d != (double)(uint32_t)d)
        die("%s: token \"%.60s\" has the id %.17g; ids are whole numbers from 0 to %d", path, token, d, MAX_IDS - 1);
    return (uint32_t)d;
}

void read_token(Loader *l, const char *text, size_t n, uint32_t id) {
    Vocab *v = &l->t->vocab;
    int shown = (int)(n < 60 ? n : 60);
    if (n > INT32_MAX) die("%s: a token of %zu bytes", l->path, n);
    if (id >= MAX_IDS) die("%s: token \"%.*s\" has the id %u; ids go up to %d", l->path, shown, text, id, MAX_IDS - 1);
    if (id < v->n_ids && v->spelling[id].used)
        die("%s: the id %u belongs to two tokens, \"%.*s\" and \"%.*s\"", l->path, id,
            (int)(v->spelling[id].n < 60 ? v->spelling[id].n : 60), vocab_str(v, (int32_t)id), shown, text);
    if (vocab_find(v, text, n) >= 0) die("%s: the token \"%.*s\" has two ids", l->path, shown, text);
    vocab_add(v, text, n, id);
}

void read_vocab(Loader *l, const cJSON *vocab) {
    if (!cJSON_IsObject(vocab)) die("%s: there is no vocabulary (an object of token: id)", l->path);
    for (const cJSON *e = vocab->child; e; e = e->next)
        read_token(l, e->string, strlen(e->string), json_id(l->path, e->string, e));
    if (!l->t->vocab.n_ids) die("%s: the vocabulary is empty", l->path);
}

bool is_added(const Loader *l, int32_t id) { return (size_t)id < l->n_added_at && l->added_at[id]; }

const char *token_name(const Loader *l, int32_t id, size_t *n) {
    const AddedToken *a = is_added(l, id) ? &l->added[l->added_at[id] - 1] : NULL;
    *n = a && a->normalized ? a->n : l->t->vocab.spelling[id].n;
    return a && a->normalized ? a->text : vocab_str(&l->t->vocab, id);
}

void add_token(Loader *l, AddedToken a) {
    Vocab *v = &l->t->vocab;
    if (!a.n) die("%s: an added token has no content", l->path);
    int32_t known = vocab_find(v, a.text, a.n);
    a.beyond_model = known < 0;
    if (known < 0) read_token(l, a.text, a.n, (uint32_t)a.id);
    else if (known != a.id)
        die("%s: the added token \"%.60s\" has the id %d, and %d in the vocabulary", l->path, a.text, a.id, known);
    if ((size_t)a.id >= l->n_added_at) {
        size_t n = (size_t)a.id + 1 + l->n_added_at;
        l->added_at = xrealloc(l->added_at, size_mul(n, sizeof *l->added_at));
        memset(l->added_at + l->n_added_at, 0, (n - l->n_added_at) * sizeof *l->added_at);
        l->n_added_at = n;
    }
    if (l->added_at[a.id]) {
        l->added[l->added_at[a.id] - 1].special |= a.special;
        return;
    }
    l->added = xrealloc(l->added, sizeof *l->added * (size_t)(l->n_added + 1));
    a.text = strf("%s", a.text);
    l->added[l->n_added++] = a;
    l->added_at[a.id] = l->n_added;
}

void read_added_tokens(Loader *l) {
    char *path = path_join(l->dir, "added_tokens.json");
    cJSON *json = file_exists(path) ? json_read(path, JSON_OBJECT) : NULL;
    for (cJSON *e = json ? json->child : NULL; e; e = e->next)
        add_token(l, (AddedToken){.text = e->string, .n = strlen(e->string),
                                  .id = (int32_t)json_id(path, e->string, e)});
    cJSON_Delete(json);
    free(path);
}

/* tokenizer_config.json (or the older special_tokens_map.json): names of the special tokens, as strings or as objects
 * with a content. Those in the vocabulary are special even where tokenizer.json forgot to say so. */
static void read_roles_in(Loader *l, const char *name) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token",
                                        "mask_token"};
    Tokenizer *t = l->t;
    char *path = path_join(l->dir, name);
    if (!file_exists(path)) {
        free(path);
        return;
    }
    cJSON *json = json_read(path, JSON_OBJECT);
    for (int i = 0; i < (int)(sizeof roles / sizeof *roles); i++) {
        const cJSON *node = json_get(json, roles[i]);
        char *token = cJSON_GetStringValue(cJSON_IsObject(node) ? json_get(node, "content") : node);
        if (!json_absent(node) && !token)
            die("%s: %s is neither a string nor an object with a content", path, roles[i]);
        if (!token || !*token) continue;
        int32_t id = vocab_find(&t->vocab, token, strlen(token));
        if (id < 0 && i < 2)
            die("%s: the %s \"%.60s\" is not in the vocabulary", path, roles[i], token);
        if (id < 0) continue;
        add_token(l, (AddedToken){.text = token, .n = strlen(token), .id = id, .special = true});
        if (i == 0) t->bos = id;
        if (i == 1) t->eos = id;
    }
    if (!t->single.n) { /* a template in tokenizer.json says more */
        if (json_true(json, "add_bos_token") && t->bos >= 0) wrap_add(&t->single, t->bos, 0);
        if (json_true(json, "add_eos_token") && t->eos >= 0) {
            wrap_add(&t->single, WRAP_A, 0);
            wrap_add(&t->single, t->eos, 0);
        } else if (t->single.n) wrap_add(&t->single, WRAP_A, 0);
    }
    cJSON_Delete(json);
    free(path);
}

void read_roles(Loader *l) {
    read_roles_in(l, "special_tokens_map.json");
    read_roles_in(l, "tokenizer_config.json");
}

void wrap_add(Wrap *w, int32_t id, int32_t type) {
    w->v = xrealloc(w->v, size_mul((size_t)w->n + 1, sizeof *w->v));
    w->v[w->n++] = (WrapItem){id, type};
}

static int added_order(const void *a, const void *b) {
    const AddedToken *x = a, *y = b;
    int first = (int)(uint8_t)x->text[0] - (int)(uint8_t)y->text[0];
    return first ? first : x->n != y->n ? (x->n < y->n ? 1 : -1) : x->id - y->id;
}

static void added_set_build(AddedSet *set) {
    if (set->n) qsort(set->v, (size_t)set->n, sizeof *set->v, added_order);
    for (int i = 0; i < set->n; i++) {
        set->from[(uint8_t)set->v[i].text[0] + 1]++;
        if (set->v[i].n > 1) set->second[(uint8_t)set->v[i].text[1]] = true;
        set->n_special += set->v[i].special;
    }
    for (int b = 0; b < 256; b++) set->from[b + 1] += set->from[b];
}

static void sort_added(Loader *l) {
    Tokenizer *t = l->t;
    Worker *w = worker_take(t);
    for (int i = 0; i < l->n_added; i++) {
        AddedToken a = l->added[i];
        t->is_special[a.id] = (uint8_t)((a.special ? IS_SPECIAL : 0) | (a.beyond_model ? BEYOND_MODEL : 0));
        if (a.normalized && t->n_norm) { /* it is looked for in normalised text, so it must be normalised itself */
            const uint8_t *s = (const uint8_t *)a.text;
            size_t n = a.n;
            w->at_start = true;
            normalize(t, w, &s, &n);
            char *copy = xmalloc(n + 1);
            if (n) memcpy(copy, s, n);
            copy[n] = 0;
            free(a.text);
            a.text = copy, a.n = n;
            l->added[i] = a;
        }
        if (!a.n) continue; /* nothing is left of it to be found */
        AddedSet *set = a.normalized ? &t->after_norm : &t->before_norm;
        set->v = xrealloc(set->v, sizeof *set->v * (size_t)(set->n + 1));
        set->v[set->n] = a;
        set->v[set->n++].text = strf("%s", a.text);
    }
    worker_give(t, w);
    added_set_build(&t->before_norm);
    added_set_build(&t->after_norm);
}

static void find_bytes(Loader *l) {
    Tokenizer *t = l->t;
    int missing = 0;
    for (int b = 0; b < 256; b++) {
        char name[8], c[4];
        size_t n = t->byte_level ? (size_t)utf8_put(char_of_byte[b], c) : (size_t)sprintf(name, "<0x%02X>", b);
        int32_t id = t->byte_id[b] = vocab_find(&t->vocab, t->byte_level ? c : name, n);
        if (id >= 0 && t->is_special[id] & IS_SPECIAL)
            die("%s: the special token with id %d is spelt like the byte 0x%02X, so ordinary text would produce it",
                l->path, id, b);
        missing += id < 0;
    }
    l->missing_bytes = t->byte_level ? missing : 0;
}

void finish_tokens(Loader *l) {
    Tokenizer *t = l->t;
    t->n_ids = (int)t->vocab.n_ids;
    t->is_special = xcalloc((size_t)t->n_ids, 1);
    sort_added(l);
    if (t->byte_level || t->byte_fallback) find_bytes(l);
}

/* Decoding is a look-up in one row of bytes. An id that no token has (a hole: published files have some) is empty. */
void decoder_build(Loader *l, bool by_position, TokenWriter *write, const void *state) {
    Tokenizer *t = l->t;
    for (int first = 0; first <= by_position; first++) {
        TokenTexts *text = &t->decoder.text[first];
        text->at = xcalloc((size_t)t->n_ids + 1, sizeof *text->at);
        buf_add(&text->bytes, "", 0);
        for (int32_t id = 0; id < t->n_ids; id++) {
            text->at[id] = text->bytes.len;
            if (t->vocab.spelling[id].used) write(l, id, first, state, &text->bytes);
        }
        text->at[t->n_ids] = text->bytes.len;
    }
}

void write_bytes(const Loader *l, int32_t id, bool first, const void *state, Buf *out) {
    (void)first, (void)state;
    size_t n;
    const char *s = token_name(l, id, &n);
    if (is_added(l, id)) buf_add(out, s, n);
    else if (!unspell(s, n, out))
        die("%s: the token \"%.*s\" (id %d) has a character outside the byte alphabet, and is no added token", l->path,
            (int)(n < 60 ? n : 60), s, id);
}

void read_merge(Loader *l, size_t rank, const char *a, size_t n_a, const char *b, size_t n_b, Buf *joined) {
    Tokenizer *t = l->t;
    joined->len = 0;
    buf_add(joined, a, n_a);
    size_t n_affix = t->continuing_prefix ? strlen(t->continuing_prefix) : 0;
    bool continues = n_affix && n_b > n_affix && !memcmp(b, t->continuing_prefix, n_affix);
    buf_add(joined, b + (continues ? n_affix : 0), n_b - (continues ? n_affix : 0));
    int32_t left = vocab_find(&t->vocab, a, n_a), right = vocab_find(&t->vocab, b, n_b);
    int32_t whole = vocab_find(&t->vocab, joined->data, joined->len);
    if (left < 0 || right < 0 || whole < 0)
        die("%s: merge %zu makes \"%.60s\" of \"%.*s\" and \"%.*s\", and %s is not in the vocabulary", l->path, rank,
            joined->data, (int)(n_a < 60 ? n_a : 60), a, (int)(n_b < 60 ? n_b : 60), b,
            left < 0 ? "the first of the two" : right < 0 ? "the second of the two" : "the result");
    if (t->is_special[whole]) return; /* no special token may arise from text, whatever the file says */
    Merge *m = merge_slot(&t->merges, pair_of(left, right));
    *m = (Merge){pair_of(left, right), (int32_t)rank, whole}; /* listed twice: the later rank holds */
}

static void read_merges_txt(Loader *l) {
    size_t n_bytes, lines = 0, rank = 0;
    char *text = file_read(l->path, &n_bytes);
    for (size_t i = 0; i < n_bytes; i++) lines += text[i] == '\n';
    merges_reserve(&l->t->merges, lines + 1);
    Buf joined = {0};
    for (char *line = text, *next; line < text + n_bytes; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + 1;
        if (n && line[n - 1] == '\r') n--;
        if (!n || !strncmp(line, "#version", 8)) continue;
        char *blank = memchr(line, ' ', n);
        if (!blank || memchr(blank + 1, ' ', n - (size_t)(blank + 1 - line)))
            die("%s: merge %zu, \"%.*s\", is not two tokens", l->path, rank, (int)(n < 60 ? n : 60), line);
        read_merge(l, rank++, line, (size_t)(blank - line), blank + 1, n - (size_t)(blank + 1 - line), &joined);
    }
    buf_free(&joined);
    free(text);
}

void norm_add(Tokenizer *t, NormStep step) {
    t->norm = xrealloc(t->norm, size_mul((size_t)t->n_norm + 1, sizeof *t->norm));
    t->norm[t->n_norm++] = step;
}

/* The older layout: vocab.json and merges.txt; the rest is known from the name of the class. */
static void load_vocab_and_merges(Loader *l) {
    Tokenizer *t = l->t;
    cJSON *vocab = json_read(l->path, JSON_OBJECT);
    read_vocab(l, vocab);
    cJSON_Delete(vocab);
    t->split = (Split){SPLIT_GPT2, 0};
    t->byte_level = true;
    char *config = path_join(l->dir, "tokenizer_config.json"), *merges = path_join(l->dir, "merges.txt");
    read_added_tokens(l);
    if (file_exists(config)) {
        cJSON *json = json_read(config, JSON_OBJECT);
        const char *class = json_str(json, "tokenizer_class");
        if (class && !strncmp(class, "Qwen2", 5)) {
            t->split = (Split){SPLIT_LLAMA3, 1};
            norm_add(t, (NormStep){.kind = NORM_NFC});
        }
        t->add_prefix_space = json_true(json, "add_prefix_space");
        cJSON_Delete(json);
    }
    read_roles(l);
    char end_of_text[] = "<|endoftext|>"; /* GPT-2's own files name no special token at all */
    int32_t id = vocab_find(&t->vocab, end_of_text, strlen(end_of_text));
    if (id >= 0 && t->eos < 0) {
        add_token(l, (AddedToken){.text = end_of_text, .n = strlen(end_of_text), .id = id, .special = true});
        t->bos = t->eos = id;
    }
    finish_tokens(l);
    decoder_build(l, false, write_bytes, NULL);
    l->path = merges;
    read_merges_txt(l);
    free(config);
    free(merges);
}

/* [tok.tiktoken] a file of ranks ------------------------------------------------------------------------------------ *
 * One token a line: its bytes in base64, its rank, which is its id. There are no merges: any two neighbours whose bytes
 * together are a token merge, the lowest rank first. So each way to cut a token into two tokens becomes a merge. The
 * pattern and the special tokens are not in the file; they follow from the family. */

bool base64_decode(const char *s, size_t n, Buf *out) {
    uint32_t bits = 0;
    int n_bits = 0;
    while (n && s[n - 1] == '=') n--;
    for (size_t i = 0; i < n; i++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d) return false;
        bits = bits << 6 | (uint32_t)(d - digits);
        if ((n_bits += 6) >= 8) buf_add(out, &(uint8_t){(uint8_t)(bits >> (n_bits -= 8))}, 1);
    }
    return n > 0 && n_bits < 6;
}

static void read_ranks(Loader *l) {
    size_t n_bytes, n_line = 0;
    char *text = file_read(l->path, &n_bytes);
    Buf bytes = {0}, spelt = {0};
    for (char *line = text, *next; line < text + n_bytes; line = next) {
        char *newline = memchr(line, '\n', (size_t)(text + n_bytes - line)), *end = newline ? newline : text + n_bytes;
        next = end + 1;
        n_line++;
        if (end > line && end[-1] == '\r') end--;
        if (end == line) continue;
        *end = 0;
        char *blank = memchr(line, ' ', (size_t)(end - line)), *stop = NULL;
        long rank = blank ? strtol(blank + 1, &stop, 10) : -1;
        bytes.len = spelt.len = 0;
        if (!blank || !base64_decode(line, (size_t)(blank - line), &bytes) || stop != end || stop == blank + 1)
            die("%s: line %zu is not \"base64 rank\"", l->path, n_line);
        if (rank < 0 || rank >= MAX_IDS)
            die("%s: line %zu: the rank %ld is not between 0 and %d", l->path, n_line, rank, MAX_IDS - 1);
        char *room = xmalloc(2 * bytes.len);
        size_t n = spell((const uint8_t *)bytes.data, bytes.len, room);
        read_token(l, room, n, (uint32_t)rank);
        free(room);
    }
    buf_free(&bytes);
    buf_free(&spelt);
    free(text);
    if (!l->t->vocab.n_ids) die("%s: the vocabulary is empty", l->path);
}

/* Calls for each way to cut a token in two; once to count, once to fill the table. */
static size_t each_cut(Tokenizer *t, size_t n_ranks, bool fill) {
    size_t n_cuts = 0;
    for (size_t id = 0; id < n_ranks; id++) {
        const Spelling *e = &t->vocab.spelling[id];
        if (!e->used) continue;
        const char *s = vocab_str(&t->vocab, (int32_t)id);
        for (size_t k = 1; k < e->n; k++) {
            if ((s[k] & 0xC0) == 0x80) continue; /* inside a character of the byte alphabet */
            int32_t left = vocab_find(&t->vocab, s, k), right = left < 0 ? -1 : vocab_find(&t->vocab, s + k, e->n - k);
            if (right < 0) continue;
            n_cuts++;
            uint64_t pair = pair_of(left, right);
            if (fill) *merge_slot(&t->merges, pair) = (Merge){pair, (int32_t)id, (int32_t)id};
        }
    }
    return n_cuts;
}

static void add_special(Loader *l, const char *text, int32_t id) {
    char *copy = strf("%s", text);
    add_token(l, (AddedToken){.text = copy, .n = strlen(copy), .id = id, .special = true});
    free(copy);
}

/* The special tokens as tokenizer_config.json lists them; false: it does not. */
static bool read_added_decoder(Loader *l, const cJSON *config) {
    const cJSON *list = json_get(config, "added_tokens_decoder");
    for (const cJSON *e = list ? list->child : NULL; e; e = e->next) {
        char *content = cJSON_GetStringValue(json_get(e, "content")), *end;
        long id = strtol(e->string ? e->string : "", &end, 10);
        if (!content || !*content || *end || end == e->string || id < 0 || id >= MAX_IDS)
            die("%s/tokenizer_config.json: added_tokens_decoder is not an object of id: {content}", l->dir);
        add_token(l, (AddedToken){.text = content, .n = strlen(content), .id = (int32_t)id,
                                  .special = json_true(e, "special"), .lstrip = json_true(e, "lstrip"),
                                  .rstrip = json_true(e, "rstrip"), .single_word = json_true(e, "single_word"),
                                  .normalized = json_true(e, "normalized")});
    }
    return list && list->child;
}

static void load_tiktoken(Loader *l) {
    static const char *const glm4[] = {"<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>",
                                       "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>",
                                       "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"};
    static const char *const llama3[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                                         "<|reserved_special_token_1|>", "<|reserved_special_token_2|>",
                                         "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>",
                                         "<|reserved_special_token_4|>", "<|eot_id|>"};
    enum { GLM4_RANKS = 151329, LLAMA3_RANKS = 128000, LLAMA3_SPECIALS = 256, QWEN_EXTRAS = 205 };
    Tokenizer *t = l->t;
    char *path = path_join(l->dir, "tokenizer_config.json");
    cJSON *config = file_exists(path) ? json_read(path, JSON_OBJECT) : NULL;
    const char *class = json_str(config, "tokenizer_class"), *dot = strrchr(l->path, '.');
    read_ranks(l);
    size_t n_ranks = t->vocab.n_ids;
    int32_t next = (int32_t)n_ranks;
    bool glm = n_ranks == GLM4_RANKS || (class && !strcmp(class, "ChatGLM4Tokenizer"));
    bool qwen = !strcmp(dot, ".tiktoken");
    t->byte_level = t->ignore_merges = true;
    t->split = (Split){SPLIT_LLAMA3, qwen ? 1 : 3};
    if (qwen) norm_add(t, (NormStep){.kind = NORM_NFC});
    if (read_added_decoder(l, config)) {
    } else if (glm) {
        for (size_t i = 0; i < sizeof glm4 / sizeof *glm4; i++) add_special(l, glm4[i], next++);
    } else if (qwen) {
        add_special(l, "<|endoftext|>", next++);
        add_special(l, "<|im_start|>", next++);
        add_special(l, "<|im_end|>", next++);
        for (int i = 0; i < QWEN_EXTRAS; i++) {
            char *name = strf("<|extra_%d|>", i);
            add_special(l, name, next++);
            free(name);
        }
    } else if (n_ranks == LLAMA3_RANKS) {
        int n_named = (int)(sizeof llama3 / sizeof *llama3);
        for (int i = 0; i < LLAMA3_SPECIALS; i++) {
            char *name = i < n_named ? strf("%s", llama3[i]) : strf("<|reserved_special_token_%d|>", i - n_named + 5);
            add_special(l, name, next++);
            free(name);
        }
    } else
        die("%s: %zu ranks of an unknown family: its tokenizer_config.json must list the special tokens "
            "(added_tokens_decoder)", l->path, n_ranks);
    read_roles(l);
    if (glm && !t->single.n) {
        int32_t gmask = vocab_find(&t->vocab, "[gMASK]", 7), sop = vocab_find(&t->vocab, "<sop>", 5);
        if (gmask >= 0 && sop >= 0)
            wrap_add(&t->single, gmask, 0), wrap_add(&t->single, sop, 0), wrap_add(&t->single, WRAP_A, 0);
    }
    if (t->eos < 0) t->eos = vocab_find(&t->vocab, "<|endoftext|>", 13);
    int32_t begin = vocab_find(&t->vocab, "<|begin_of_text|>", 17);
    if (t->bos < 0 && begin >= 0) {
        t->bos = begin;
        if (!t->single.n) wrap_add(&t->single, begin, 0), wrap_add(&t->single, WRAP_A, 0);
    }
    if (t->eos < 0) t->eos = vocab_find(&t->vocab, "<|end_of_text|>", 15);
    finish_tokens(l);
    decoder_build(l, false, write_bytes, NULL);
    merges_reserve(&t->merges, each_cut(t, n_ranks, false));
    each_cut(t, n_ranks, true);
    cJSON_Delete(config);
    free(path);
}

/* [tok.dir] which files there are ---------------------------------------------------------------------------------- */

static bool dir_has(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    bool yes = file_exists(path);
    free(path);
    return yes;
}

/* The one file with this ending, a new string; NULL: none. */
static char *file_ending(const char *dir, const char *ending) {
    DIR *d = opendir(dir);
    char *found = NULL;
    size_t n_ending = strlen(ending);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > n_ending && !strcmp(e->d_name + n - n_ending, ending)) found = path_join(dir, e->d_name);
    }
    if (d) closedir(d);
    return found;
}

/* A SentencePiece proto begins with field 1, its first piece, as 0x0A; a file of ranks with a digit of base64. */
static void load_model_file(Loader *l) {
    Mapped m = file_map(l->path);
    bool proto = m.bytes && m.data[0] == 0x0A;
    file_unmap(&m);
    if (!proto) load_tiktoken(l);
    else sentencepiece_load(l);
}

/* In the order of preference: what the Hub's libraries load first comes first. */
static const struct { const char *name, *with, *ending; void (*load)(Loader *l); } layouts[] = {
    {"tokenizer.json", NULL, NULL, load_tokenizer_json},   {"vocab.json", "merges.txt", NULL, load_vocab_and_merges},
    {"tokenizer.model", NULL, NULL, load_model_file},      {"ice_text.model", NULL, NULL, load_model_file},
    {NULL, NULL, ".tiktoken", load_tiktoken},              {"vocab.txt", NULL, NULL, wordpiece_load}};

/* The layout of a directory and, a new string, the path of its first file; -1: none. */
static int layout_of(const char *dir, char **path) {
    for (int i = 0; i < (int)(sizeof layouts / sizeof *layouts); i++) {
        *path = NULL;
        if (!layouts[i].name) *path = file_ending(dir, layouts[i].ending);
        else if (dir_has(dir, layouts[i].name) && (!layouts[i].with || dir_has(dir, layouts[i].with)))
            *path = path_join(dir, layouts[i].name);
        if (*path) return i;
    }
    return -1;
}

bool tokenizer_in_dir(const char *dir) {
    char *path;
    bool yes = layout_of(dir, &path) >= 0;
    free(path);
    return yes;
}

Tokenizer *tokenizer_load(const char *dir) {
    tables_once();
    if (!is_dir(dir)) die("%s: no such directory (a tokenizer is a directory with tokenizer.json)", dir);
    Tokenizer *t = xcalloc(1, sizeof *t);
    t->bos = t->eos = t->unk = -1;
    char *path;
    int layout = layout_of(dir, &path);
    if (layout < 0)
        die("%s holds no tokenizer: no tokenizer.json, vocab.json and merges.txt, tokenizer.model, ice_text.model, "
            "*.tiktoken or vocab.txt", dir);
    Loader l = {.t = t, .dir = dir, .path = path};
    layouts[layout].load(&l);
    bool before = true;
    for (int i = 0; i < t->single.n; i++) {
        if (t->single.v[i].id < 0) before = false;
        else ids_add(before ? &t->prefix : &t->suffix, t->single.v[i].id);
    }
    if (l.missing_bytes)
        warn("%s: %d of the 256 bytes have no token; text with them cannot be decoded back", path, l.missing_bytes);
    free(path);
    for (int i = 0; i < l.n_added; i++) free(l.added[i].text);
    free(l.added);
    free(l.added_at);
    return t;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    vocab_free(&t->vocab);
    for (int k = 0; k < 2; k++) {
        buf_free(&t->decoder.text[k].bytes);
        free(t->decoder.text[k].at);
    }
    free(t->decoder.is_byte);
    free(t->decoder.blank_after);
    free(t->decoder.start);
    free(t->is_special);
    free(t->merges.slot);
    free(t->joins.pairs);
    free(t->joins.known);
    free(t->continuing_prefix);
    free(t->word_suffix);
    for (int i = 0; i < t->n_norm; i++) norm_step_free(&t->norm[i]);
    for (int i = 0; i < t->n_pre; i++) pre_step_free(&t->pre[i]);
    free(t->norm);
    free(t->pre);
    free(t->single.v);
    free(t->pair.v);
    ids_free(&t->prefix);
    ids_free(&t->suffix);
    if (t->unigram) unigram_free(t->unigram);
    if (t->sp) sentencepiece_free(t->sp);
    if (t->wordpiece) wordpiece_free(t->wordpiece);
    AddedSet *sets[] = {&t->before_norm, &t->after_norm};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < sets[k]->n; i++) free(sets[k]->v[i].text);
        free(sets[k]->v);
    }
    for (int i = 0; i < IDLE_WORKERS; i++) worker_free(atomic_load(&t->idle[i]));
    free(t);
}

static void copy_file(const char *from_dir, const char *to_dir, const char *name) {
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    if (file_exists(from)) {
        size_t n;
        char *bytes = file_read(from, &n);
        file_write(to, bytes, n);
        free(bytes);
    }
    free(from);
    free(to);
}

void tokenizer_copy_files(const char *from_dir, const char *to_dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
                                        "tokenizer.model", "ice_text.model", "chat_template.jinja"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) copy_file(from_dir, to_dir, names[i]);
    char *ranks = file_ending(from_dir, ".tiktoken");
    if (ranks) copy_file(from_dir, to_dir, strrchr(ranks, '/') + 1);
    free(ranks);
}
