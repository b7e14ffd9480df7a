/* load.c - tokenizer.json, or vocab.json and merges.txt: checked here, trusted everywhere else.
 *
 * What this file refuses to do: guess. A part that it does not know ends in a sentence naming the part. */
#include "parts.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* [tok.load] reading a tokenizer's files ---------------------------------------------------------------------------- *
 * The only part that meets a file written by somebody else. Every check is here, so that nothing above needs one. */
typedef struct {
    Tokenizer *t;
    const char *path;                            /* for messages */
    bool byte_level;
    AddedToken *added;
    int n_added;
    int *added_at;                               /* [n_added_at] by id: 1 + its place in added, 0: none */
    size_t n_added_at;
    int missing_bytes;
} Loader;

static cJSON *json_read(const char *path) {
    size_t n;
    char *text = file_read(path, &n);
    const char *end = NULL;
    cJSON *json = cJSON_ParseWithLengthOpts(text, n, &end, false);
    if (!json) die("%s: no valid JSON: broken at byte %zu of %zu", path, end ? (size_t)(end - text) : 0, n);
    while (end < text + n && strchr(" \t\r\n", *end) && *end) end++;
    if (end != text + n) die("%s: something follows the JSON at byte %zu", path, (size_t)(end - text));
    free(text);
    if (!cJSON_IsObject(json)) die("%s: the JSON is not an object", path);
    return json;
}

static const cJSON *json_get(const cJSON *node, const char *key) { return cJSON_GetObjectItemCaseSensitive(node, key); }
static const char *json_str(const cJSON *node, const char *key) { return cJSON_GetStringValue(json_get(node, key)); }
static bool json_true(const cJSON *node, const char *key) { return cJSON_IsTrue(json_get(node, key)); }
static bool json_absent(const cJSON *node) { return !node || cJSON_IsNull(node); }

static uint32_t json_id(const char *path, const char *token, const cJSON *node) {
    double d = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (!cJSON_IsNumber(node)) die("%s: the id of token \"%.60s\" is not a number", path, token);
    if (!(d >= 0 && d < MAX_IDS) || d != (double)(uint32_t)d)
        die("%s: token \"%.60s\" has the id %.17g; ids are whole numbers from 0 to %d", path, token, d, MAX_IDS - 1);
    return (uint32_t)d;
}

/* A part of the file by its "type", which older files leave out for BPE. */
static const char *json_type(const Loader *l, const cJSON *node, const char *what) {
    const char *type = json_str(node, "type");
    if (!cJSON_IsObject(node) || !type) die("%s: %s has no \"type\"", l->path, what);
    return type;
}

static void read_token(Loader *l, const char *text, uint32_t id) {
    Vocab *v = &l->t->vocab;
    size_t n = strlen(text);
    if (n > INT32_MAX) die("%s: a token of %zu bytes", l->path, n);
    if (id < v->n_ids && v->spelling[id].used)
        die("%s: the id %u belongs to two tokens, \"%.*s\" and \"%.60s\"", l->path, id,
            (int)(v->spelling[id].n < 60 ? v->spelling[id].n : 60), vocab_str(v, (int32_t)id), text);
    if (vocab_find(v, text, n) >= 0) die("%s: the token \"%.60s\" has two ids", l->path, text);
    vocab_add(v, text, n, id);
}

static void read_vocab(Loader *l, const cJSON *vocab) {
    if (!cJSON_IsObject(vocab)) die("%s: there is no vocabulary (an object of token: id)", l->path);
    for (const cJSON *e = vocab->child; e; e = e->next) read_token(l, e->string, json_id(l->path, e->string, e));
    if (!l->t->vocab.n_ids) die("%s: the vocabulary is empty", l->path);
}

static void add_token(Loader *l, AddedToken a) {
    Vocab *v = &l->t->vocab;
    if (!a.n) die("%s: an added token has no content", l->path);
    int32_t known = vocab_find(v, a.text, a.n);
    if (known < 0) read_token(l, a.text, (uint32_t)a.id);
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
    a.text = xstrdup(a.text);
    l->added[l->n_added++] = a;
    l->added_at[a.id] = l->n_added;
}

static void read_added(Loader *l, const cJSON *list) {
    if (json_absent(list)) return;
    if (!cJSON_IsArray(list)) die("%s: added_tokens is not a list", l->path);
    for (const cJSON *e = list->child; e; e = e->next) {
        char *content = cJSON_GetStringValue(json_get(e, "content"));
        if (!content) die("%s: an added token has no content that is a string", l->path);
        add_token(l, (AddedToken){.text = content, .n = strlen(content), .special = json_true(e, "special"),
                                  .id = (int32_t)json_id(l->path, content, json_get(e, "id")),
                                  .lstrip = json_true(e, "lstrip"), .rstrip = json_true(e, "rstrip"),
                                  .single_word = json_true(e, "single_word"),
                                  .normalized = json_true(e, "normalized")});
    }
}

static void read_normalizer(Loader *l, const cJSON *node) {
    if (json_absent(node)) return;
    const char *type = json_type(l, node, "the normalizer");
    if (!strcmp(type, "NFC")) l->t->nfc = true;
    else if (!strcmp(type, "Sequence")) {
        const cJSON *list = json_get(node, "normalizers");
        for (const cJSON *e = list ? list->child : NULL; e; e = e->next) read_normalizer(l, e);
    } else die("%s: the normalizer %.40s is not supported (NFC is)", l->path, type);
}

static void read_pattern(Loader *l, const char *pattern) {
    Split *s = &l->t->split;
    if (s->kind != SPLIT_NONE) die("%s: two split patterns in a row are not supported", l->path);
    if (!strcmp(pattern, GPT2_PATTERN)) *s = (Split){SPLIT_GPT2, 0};
    else if (!strcmp(pattern, LLAMA3_PATTERN)) *s = (Split){SPLIT_LLAMA3, 3};
    else if (!strcmp(pattern, QWEN_PATTERN)) *s = (Split){SPLIT_LLAMA3, 1};
    else die("%s: the split pattern %.300s is not supported (those of GPT-2, Llama-3 and Qwen are)", l->path, pattern);
}

static void read_pre_tokenizer(Loader *l, const cJSON *node) {
    if (json_absent(node)) return;
    const char *type = json_type(l, node, "the pre_tokenizer");
    if (l->byte_level) die("%s: the pre_tokenizer %.40s after ByteLevel is not supported", l->path, type);
    if (!strcmp(type, "Sequence")) {
        const cJSON *list = json_get(node, "pretokenizers");
        for (const cJSON *e = list ? list->child : NULL; e; e = e->next) read_pre_tokenizer(l, e);
    } else if (!strcmp(type, "Split")) {
        const char *pattern = json_str(json_get(node, "pattern"), "Regex"), *behavior = json_str(node, "behavior");
        if (!pattern) die("%s: a Split pre_tokenizer without a Regex pattern is not supported", l->path);
        read_pattern(l, pattern);
        /* The known patterns match every character, so keeping the matches alone is the same as isolating them. */
        bool invert = json_true(node, "invert");
        if (!behavior || !(strcmp(behavior, "Isolated") ? !strcmp(behavior, "Removed") && invert : true))
            die("%s: the Split behavior %.40s is not supported (Isolated is)", l->path, behavior ? behavior : "(none)");
    } else if (!strcmp(type, "ByteLevel")) {
        l->byte_level = true;
        bool after_split = l->t->split.kind != SPLIT_NONE;
        l->t->add_prefix_space = json_true(node, "add_prefix_space");
        if (after_split && l->t->add_prefix_space)
            die("%s: ByteLevel with add_prefix_space after a Split is not supported", l->path);
        if (!cJSON_IsFalse(json_get(node, "use_regex"))) read_pattern(l, GPT2_PATTERN); /* absent means true */
    } else die("%s: the pre_tokenizer %.40s is not supported (ByteLevel and Split are)", l->path, type);
}

static void read_decoder(Loader *l, const cJSON *node) {
    if (json_absent(node)) return;
    const char *type = json_type(l, node, "the decoder");
    if (!strcmp(type, "Sequence")) {
        const cJSON *list = json_get(node, "decoders");
        for (const cJSON *e = list ? list->child : NULL; e; e = e->next) read_decoder(l, e);
    } else if (strcmp(type, "ByteLevel")) die("%s: the decoder %.40s is not supported (ByteLevel is)", l->path, type);
}

/* What it adds around a text is the caller's business: we keep what stands in front of it for tokenizer_prefix. */
static void read_post_processor(Loader *l, const cJSON *node) {
    if (json_absent(node)) return;
    const char *type = json_type(l, node, "the post_processor");
    if (!strcmp(type, "Sequence")) {
        const cJSON *list = json_get(node, "processors");
        for (const cJSON *e = list ? list->child : NULL; e; e = e->next) read_post_processor(l, e);
    } else if (!strcmp(type, "TemplateProcessing")) {
        const cJSON *single = json_get(node, "single");
        for (const cJSON *e = single ? single->child : NULL; e; e = e->next) {
            const char *name = json_str(json_get(e, "SpecialToken"), "id");
            if (!name) break; /* the text itself */
            int32_t id = vocab_find(&l->t->vocab, name, strlen(name));
            if (id < 0) die("%s: the template's token \"%.60s\" is not in the vocabulary", l->path, name);
            ids_add(&l->t->prefix, id);
        }
        if (l->t->prefix.n == 1) l->t->bos = l->t->prefix.v[0]; /* unless tokenizer_config.json names another */
    } else if (strcmp(type, "ByteLevel"))
        die("%s: the post_processor %.40s is not supported (ByteLevel and TemplateProcessing are)", l->path, type);
}

/* tokenizer_config.json (or the older special_tokens_map.json): names of the special tokens, as strings or as objects
 * with a content. Those in the vocabulary are special even where tokenizer.json forgot to say so. */
static void read_roles(Loader *l, const char *path, bool required_in_vocab) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token",
                                        "mask_token"};
    Tokenizer *t = l->t;
    cJSON *json = json_read(path);
    for (int i = 0; i < (int)(sizeof roles / sizeof *roles); i++) {
        const cJSON *node = json_get(json, roles[i]);
        char *name = cJSON_GetStringValue(cJSON_IsObject(node) ? json_get(node, "content") : node);
        if (!json_absent(node) && !name) die("%s: %s is neither a string nor an object with a content", path, roles[i]);
        if (!name || !*name) continue;
        int32_t id = vocab_find(&t->vocab, name, strlen(name));
        if (id < 0 && required_in_vocab && i < 2)
            die("%s: the %s \"%.60s\" is not in the vocabulary", path, roles[i], name);
        if (id < 0) continue;
        add_token(l, (AddedToken){.text = name, .n = strlen(name), .id = id, .special = true});
        if (i == 0) t->bos = id;
        if (i == 1) t->eos = id;
    }
    if (json_true(json, "add_bos_token") && t->bos >= 0 && !t->prefix.n) ids_add(&t->prefix, t->bos);
    cJSON_Delete(json);
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
    Buf norm = {0};
    for (int i = 0; i < l->n_added; i++) {
        AddedToken a = l->added[i];
        t->is_special[a.id] = a.special;
        if (a.normalized && t->nfc) { /* it is looked for in normalised text, so it must be normalised itself */
            const uint8_t *s = (const uint8_t *)a.text;
            size_t n = a.n;
            nfc(&s, &n, &norm);
            char *copy = xmalloc(n + 1);
            memcpy(copy, s, n);
            copy[n] = 0;
            free(a.text);
            a.text = copy, a.n = n;
        }
        AddedSet *set = a.normalized ? &t->after_norm : &t->before_norm;
        set->v = xrealloc(set->v, sizeof *set->v * (size_t)(set->n + 1));
        set->v[set->n++] = a;
    }
    added_set_build(&t->before_norm);
    added_set_build(&t->after_norm);
    buf_free(&norm);
}

/* Decoding is a look-up in one row of bytes. An id that no token has (a hole: published files have some) is empty. */
static void build_bytes(Loader *l) {
    Tokenizer *t = l->t;
    t->bytes_at = xcalloc((size_t)t->n_ids + 1, sizeof *t->bytes_at);
    buf_add(&t->token_bytes, "", 0);
    for (int32_t id = 0; id < t->n_ids; id++) {
        const Spelling *e = &t->vocab.spelling[id];
        t->bytes_at[id] = t->token_bytes.len;
        if (!e->used) continue;
        const char *s = vocab_str(&t->vocab, id);
        if ((size_t)id < l->n_added_at && l->added_at[id]) buf_add(&t->token_bytes, s, e->n);
        else if (!unspell(s, e->n, &t->token_bytes))
            die("%s: the token \"%.*s\" (id %d) has a character outside the byte alphabet, and is no added token",
                l->path, (int)(e->n < 60 ? e->n : 60), s, id);
    }
    t->bytes_at[t->n_ids] = t->token_bytes.len;
    int missing = 0;
    for (int b = 0; b < 256; b++) {
        char c[4];
        int32_t id = t->byte_id[b] = vocab_find(&t->vocab, c, (size_t)utf8_put(char_of_byte[b], c));
        if (id >= 0 && t->is_special[id])
            die("%s: the special token with id %d is spelt like the byte 0x%02X, so ordinary text would produce it",
                l->path, id, b);
        missing += id < 0;
    }
    l->missing_bytes = missing;
}

static void read_merge(Loader *l, size_t rank, const char *a, size_t n_a, const char *b, size_t n_b, Buf *joined) {
    Tokenizer *t = l->t;
    joined->len = 0;
    buf_add(joined, a, n_a);
    buf_add(joined, b, n_b);
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

static void read_merges(Loader *l, const cJSON *list) {
    if (!cJSON_IsArray(list)) die("%s: model.merges is missing or no list", l->path);
    int n = cJSON_GetArraySize(list);
    merges_reserve(&l->t->merges, (size_t)n);
    Buf joined = {0};
    size_t rank = 0;
    for (const cJSON *e = list->child; e; e = e->next, rank++) {
        const char *a = cJSON_GetStringValue(e), *b = NULL;
        size_t n_a = 0;
        if (a) { /* "a b": no token contains a blank, because blanks are spelt Ġ */
            n_a = strcspn(a, " ");
            b = a[n_a] ? a + n_a + 1 : NULL;
            if (b && strchr(b, ' ')) b = NULL;
        } else if (cJSON_IsArray(e) && cJSON_GetArraySize(e) == 2) {
            a = cJSON_GetStringValue(e->child), b = cJSON_GetStringValue(e->child->next);
            n_a = a ? strlen(a) : 0;
        }
        if (!a || !b) die("%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", l->path, rank);
        read_merge(l, rank, a, n_a, b, strlen(b), &joined);
    }
    buf_free(&joined);
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

static void read_model_options(Loader *l, const cJSON *model) {
    const char *type = json_str(model, "type");
    if (type && strcmp(type, "BPE")) die("%s: the model %.40s is not supported (BPE is)", l->path, type);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *affix = json_str(model, affixes[i]);
        if (affix && *affix) die("%s: BPE with %s \"%.40s\" is not supported", l->path, affixes[i], affix);
    }
    if (json_true(model, "byte_fallback")) die("%s: BPE with byte_fallback is not supported", l->path);
    const cJSON *dropout = json_get(model, "dropout");
    if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
        die("%s: BPE with dropout is not supported: the ids of a text would differ from call to call", l->path);
    l->t->ignore_merges = json_true(model, "ignore_merges");
    const char *unk = json_str(model, "unk_token");
    if (unk) l->t->unk = vocab_find(&l->t->vocab, unk, strlen(unk));
}

/* Called when the vocabulary and all added tokens are known. */
static void index_tokens(Loader *l) {
    Tokenizer *t = l->t;
    t->n_ids = (int)t->vocab.n_ids;
    t->is_special = xcalloc((size_t)t->n_ids, 1);
    sort_added(l);
    build_bytes(l);
}

static void load_tokenizer_json(Loader *l, const char *dir) {
    cJSON *json = json_read(l->path);
    const cJSON *model = json_get(json, "model");
    if (!cJSON_IsObject(model)) die("%s: there is no \"model\"", l->path);
    const char *type = json_str(model, "type");
    if (type && strcmp(type, "BPE")) die("%s: the model %.40s is not supported (BPE is)", l->path, type);
    read_normalizer(l, json_get(json, "normalizer"));
    read_pre_tokenizer(l, json_get(json, "pre_tokenizer"));
    if (!l->byte_level) die("%s: BPE without the ByteLevel pre_tokenizer is not supported", l->path);
    read_decoder(l, json_get(json, "decoder"));
    read_vocab(l, json_get(model, "vocab"));
    read_added(l, json_get(json, "added_tokens"));
    read_model_options(l, model);
    read_post_processor(l, json_get(json, "post_processor"));
    char *config = path_join(dir, "tokenizer_config.json"), *map = path_join(dir, "special_tokens_map.json");
    if (file_exists(config)) read_roles(l, config, true);
    else if (file_exists(map)) read_roles(l, map, true);
    free(config);
    free(map);
    index_tokens(l);
    read_merges(l, json_get(model, "merges"));
    cJSON_Delete(json);
}

/* The older layout: vocab.json and merges.txt; the rest is known from the name of the class. */
static void load_vocab_and_merges(Loader *l, const char *dir) {
    Tokenizer *t = l->t;
    cJSON *vocab = json_read(l->path);
    read_vocab(l, vocab);
    cJSON_Delete(vocab);
    t->split = (Split){SPLIT_GPT2, 0};
    char *added = path_join(dir, "added_tokens.json"), *config = path_join(dir, "tokenizer_config.json");
    char *map = path_join(dir, "special_tokens_map.json"), *merges = path_join(dir, "merges.txt");
    if (file_exists(added)) {
        cJSON *json = json_read(added);
        for (cJSON *e = json->child; e; e = e->next)
            add_token(l, (AddedToken){.text = e->string, .n = strlen(e->string),
                                      .id = (int32_t)json_id(added, e->string, e)});
        cJSON_Delete(json);
    }
    if (file_exists(map)) read_roles(l, map, true);
    if (file_exists(config)) {
        cJSON *json = json_read(config);
        const char *class = json_str(json, "tokenizer_class");
        if (class && !strncmp(class, "Qwen2", 5)) t->split = (Split){SPLIT_LLAMA3, 1}, t->nfc = true;
        t->add_prefix_space = json_true(json, "add_prefix_space");
        cJSON_Delete(json);
        read_roles(l, config, true);
    }
    char end_of_text[] = "<|endoftext|>"; /* GPT-2's own files name no special token at all */
    int32_t id = vocab_find(&t->vocab, end_of_text, strlen(end_of_text));
    if (id >= 0 && t->eos < 0) {
        add_token(l, (AddedToken){.text = end_of_text, .n = strlen(end_of_text), .id = id, .special = true});
        t->bos = t->eos = id;
    }
    index_tokens(l);
    l->path = merges;
    read_merges_txt(l);
    free(added);
    free(config);
    free(map);
    free(merges);
}

static bool dir_has(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    bool yes = file_exists(path);
    free(path);
    return yes;
}

bool tokenizer_in_dir(const char *dir) {
    return dir_has(dir, "tokenizer.json") || (dir_has(dir, "vocab.json") && dir_has(dir, "merges.txt"));
}

Tokenizer *tokenizer_load(const char *dir) {
    tables_once();
    if (!is_dir(dir)) die("%s: no such directory (a tokenizer is a directory with tokenizer.json)", dir);
    Tokenizer *t = xcalloc(1, sizeof *t);
    t->bos = t->eos = t->unk = -1;
    bool json = dir_has(dir, "tokenizer.json");
    if (!json && dir_has(dir, "vocab.txt")) die("%s: vocab.txt (WordPiece) is not supported", dir);
    if (!json && !tokenizer_in_dir(dir) && dir_has(dir, "tokenizer.model"))
        die("%s: tokenizer.model (SentencePiece or tiktoken) is not supported", dir);
    if (!tokenizer_in_dir(dir)) die("%s holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt", dir);
    char *path = path_join(dir, json ? "tokenizer.json" : "vocab.json");
    Loader l = {.t = t, .path = path};
    if (json) load_tokenizer_json(&l, dir);
    else load_vocab_and_merges(&l, dir);
    if (l.missing_bytes)
        warn("%s: %d of the 256 bytes have no token; text with them cannot be decoded back", path, l.missing_bytes);
    free(path);
    free(l.added);
    free(l.added_at);
    return t;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    vocab_free(&t->vocab);
    buf_free(&t->token_bytes);
    free(t->bytes_at);
    free(t->is_special);
    free(t->merges.slot);
    ids_free(&t->prefix);
    AddedSet *sets[] = {&t->before_norm, &t->after_norm};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < sets[k]->n; i++) free(sets[k]->v[i].text);
        free(sets[k]->v);
    }
    for (int i = 0; i < IDLE_WORKERS; i++) worker_free(atomic_load(&t->idle[i]));
    free(t);
}

void tokenizer_copy_files(const char *from_dir, const char *to_dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
                                        "tokenizer.model", "ice_text.model", "chat_template.jinja"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        char *from = path_join(from_dir, names[i]), *to = path_join(to_dir, names[i]);
        if (file_exists(from)) {
            size_t n;
            char *bytes = file_read(from, &n);
            file_write(to, bytes, n);
            free(bytes);
        }
        free(from);
        free(to);
    }
}
