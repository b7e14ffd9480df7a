/* json.c - tokenizer.json -> a Tokenizer: every part by its "type", as Hugging Face's tokenizers writes them. */
#include "json.h"

#include <math.h>
#include <math.h>
#include <stdlib.h>

/* [tok.json] the parts of a tokenizer.json ------------------------------------------------------------------------- */

/* A part of the file by its "type", which older files leave out for BPE. */
static const char *json_type(const Loader *l, const cJSON *node, const char *what) {
    const char *type = json_str(node, "type");
    if (!cJSON_IsObject(node) || !type) die("%s: %s has no \"type\"", l->path, what);
    return type;
}

/* The parts of a Sequence in order, or the one part itself. cJSON bounds the depth of files; it bounds ours. */
typedef void PartFn(Loader *l, const cJSON *node, const char *type, void *state);
static void each_part(Loader *l, const cJSON *node, const char *what, const char *list_name, PartFn *fn, void *state) {
    if (json_absent(node)) return;
    const char *type = json_type(l, node, what);
    if (strcmp(type, "Sequence")) {
        fn(l, node, type, state);
        return;
    }
    const cJSON *list = json_get(node, list_name);
    if (!cJSON_IsArray(list)) die("%s: %s, a Sequence, has no list \"%s\"", l->path, what, list_name);
    for (const cJSON *e = list->child; e; e = e->next) {
        if (json_absent(e)) die("%s: %s has null in its \"%s\"", l->path, what, list_name);
        each_part(l, e, what, list_name, fn, state);
    }
}

/* A string that must be there, a new one. */
static char *need_str(const Loader *l, const cJSON *node, const char *type, const char *key) {
    const char *s = json_str(node, key);
    if (!s) die("%s: %s has no \"%s\" that is a string", l->path, type, key);
    return strf("%s", s);
}

/* {"String": s} into *find or {"Regex": s} into *regex. */
static void read_pattern(const Loader *l, const cJSON *node, const char *type, char **find, Regex **regex) {
    const cJSON *pattern = json_get(node, "pattern");
    const char *string = json_str(pattern, "String"), *source = json_str(pattern, "Regex");
    if (string && *string) *find = strf("%s", string);
    else if (source) *regex = regex_new(source, l->path);
    else die("%s: %s has no pattern: neither a String nor a Regex", l->path, type);
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

/* ---- normalizer ------------------------------------------------------------------------------------------------- */

static bool json_default_true(const cJSON *node, const char *key) { return !cJSON_IsFalse(json_get(node, key)); }

static void read_charsmap(const Loader *l, const cJSON *node, NormStep *step) {
    const char *text = json_str(node, "precompiled_charsmap");
    if (!text) die("%s: the normalizer Precompiled has no \"precompiled_charsmap\" that is a string", l->path);
    Buf blob = {0};
    if (*text && !base64_decode(text, strlen(text), &blob))
        die("%s: precompiled_charsmap is not base64", l->path);
    if (blob.len) step->charsmap = charsmap_new(blob.data, blob.len, l->path);
    buf_free(&blob);
}

static void read_normalizer(Loader *l, const cJSON *node, const char *type, void *state) {
    (void)state;
    static const struct { const char *name; NormKind kind; } plain[] = {
        {"NFC", NORM_NFC}, {"NFD", NORM_NFD}, {"NFKC", NORM_NFKC}, {"NFKD", NORM_NFKD}, {"Lowercase", NORM_LOWERCASE},
        {"StripAccents", NORM_STRIP_ACCENTS}};
    NormStep step = {0};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(type, plain[i].name)) {
            norm_add(l->t, (NormStep){.kind = plain[i].kind});
            return;
        }
    if (!strcmp(type, "Strip"))
        step = (NormStep){.kind = NORM_STRIP, .left = json_default_true(node, "strip_left"),
                          .right = json_default_true(node, "strip_right")};
    else if (!strcmp(type, "Prepend"))
        step = (NormStep){.kind = NORM_PREPEND, .put = need_str(l, node, type, "prepend")};
    else if (!strcmp(type, "Replace")) {
        step = (NormStep){.kind = NORM_REPLACE, .put = need_str(l, node, type, "content")};
        read_pattern(l, node, type, &step.find, &step.regex);
    } else if (!strcmp(type, "BertNormalizer")) {
        bool low = json_default_true(node, "lowercase");
        const cJSON *strip = json_get(node, "strip_accents"); /* null: as lowercase says */
        step = (NormStep){.kind = NORM_BERT,
                          .bert = {json_default_true(node, "clean_text"),
                                   json_default_true(node, "handle_chinese_chars"),
                                   json_absent(strip) ? low : cJSON_IsTrue(strip), low}};
    } else if (!strcmp(type, "Precompiled")) {
        step.kind = NORM_CHARSMAP;
        read_charsmap(l, node, &step);
        if (!step.charsmap) return; /* an empty table changes nothing */
    } else
        die("%s: the normalizer %.40s is not supported (NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, "
            "Replace, BertNormalizer, Precompiled and Sequence are)", l->path, type);
    norm_add(l->t, step);
}

/* ---- pre-tokenizer ---------------------------------------------------------------------------------------------- */

static Behavior read_behavior(const Loader *l, const cJSON *node, const char *type, const char *fallback) {
    static const char *const names[] = {[ISOLATED] = "Isolated", [REMOVED] = "Removed",
                                        [MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [MERGED_WITH_NEXT] = "MergedWithNext", [CONTIGUOUS] = "Contiguous"};
    const char *name = json_absent(json_get(node, "behavior")) ? fallback : json_str(node, "behavior");
    for (int i = 0; name && i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(name, names[i])) return (Behavior)i;
    die("%s: %s has the behavior \"%.40s\", which is not Isolated, Removed, MergedWithPrevious, MergedWithNext or "
        "Contiguous", l->path, type, name ? name : "(none)");
}

static void pre_add(Tokenizer *t, PreStep step) {
    t->pre = xrealloc(t->pre, size_mul((size_t)t->n_pre + 1, sizeof *t->pre));
    t->pre[t->n_pre++] = step;
}

/* Metaspace, as a pre-tokenizer and as a decoder. Files older than prepend_scheme have add_prefix_space. */
static char *read_metaspace(const Loader *l, const cJSON *node, bool *prefix, bool *first) {
    const char *scheme = json_str(node, "prepend_scheme");
    char *mark = json_absent(json_get(node, "replacement")) ? strf("\xE2\x96\x81")
                                                            : need_str(l, node, "Metaspace", "replacement");
    uint32_t cp;
    if (!*mark || utf8_char((uint8_t *)mark, strlen(mark), &cp) != (int)strlen(mark))
        die("%s: Metaspace has the replacement \"%.40s\", which is not one character", l->path, mark);
    if (scheme && strcmp(scheme, "always") && strcmp(scheme, "first") && strcmp(scheme, "never"))
        die("%s: Metaspace has the prepend_scheme \"%.40s\", which is not always, first or never", l->path, scheme);
    *first = scheme && !strcmp(scheme, "first");
    *prefix = scheme ? strcmp(scheme, "never") != 0 : json_default_true(node, "add_prefix_space");
    return mark;
}

static void read_pre_tokenizer(Loader *l, const cJSON *node, const char *type, void *state) {
    (void)state;
    PreStep step = {0};
    if (!strcmp(type, "Split")) {
        step = (PreStep){.kind = PRE_SPLIT, .behavior = read_behavior(l, node, type, NULL),
                         .invert = json_true(node, "invert")};
        read_pattern(l, node, type, &step.find, &step.regex);
    } else if (!strcmp(type, "ByteLevel")) {
        step = (PreStep){.kind = PRE_BYTE_LEVEL, .prefix = json_default_true(node, "add_prefix_space"),
                         .cut = json_default_true(node, "use_regex")};
    } else if (!strcmp(type, "Metaspace")) {
        step = (PreStep){.kind = PRE_METASPACE, .cut = json_default_true(node, "split")};
        step.find = read_metaspace(l, node, &step.prefix, &step.prefix_first);
    } else if (!strcmp(type, "BertPreTokenizer")) step.kind = PRE_BERT;
    else if (!strcmp(type, "Whitespace")) step.kind = PRE_WHITESPACE;
    else if (!strcmp(type, "WhitespaceSplit")) step = (PreStep){.kind = PRE_WHITESPACE_SPLIT, .behavior = REMOVED};
    else if (!strcmp(type, "Punctuation"))
        step = (PreStep){.kind = PRE_PUNCTUATION, .behavior = read_behavior(l, node, type, "Isolated")};
    else if (!strcmp(type, "Digits"))
        step = (PreStep){.kind = PRE_DIGITS, .behavior = json_true(node, "individual_digits") ? ISOLATED : CONTIGUOUS};
    else if (!strcmp(type, "CharDelimiterSplit"))
        step = (PreStep){.kind = PRE_SPLIT, .behavior = REMOVED, .find = need_str(l, node, type, "delimiter")};
    else
        die("%s: the pre_tokenizer %.40s is not supported (ByteLevel, Split, Metaspace, BertPreTokenizer, Whitespace, "
            "WhitespaceSplit, Punctuation, Digits, CharDelimiterSplit and Sequence are)", l->path, type);
    if (step.find && !*step.find) die("%s: %s has an empty delimiter", l->path, type);
    pre_add(l->t, step);
}

/* The split rule that is written out by hand for this pattern; SPLIT_NONE: there is none. */
static Split split_of(const cJSON *node) {
    const char *type = json_str(node, "type");
    if (type && !strcmp(type, "Split")) {
        const char *pattern = json_str(json_get(node, "pattern"), "Regex"), *behavior = json_str(node, "behavior");
        /* The known patterns match every character, so keeping the matches alone is the same as isolating them. */
        bool invert = json_true(node, "invert");
        if (!pattern || !behavior || !(strcmp(behavior, "Isolated") ? !strcmp(behavior, "Removed") && invert : true))
            return (Split){SPLIT_NONE, 0};
        if (!strcmp(pattern, GPT2_PATTERN)) return (Split){SPLIT_GPT2, 0};
        if (!strcmp(pattern, LLAMA3_PATTERN)) return (Split){SPLIT_LLAMA3, 3};
        if (!strcmp(pattern, QWEN_PATTERN)) return (Split){SPLIT_LLAMA3, 1};
    }
    return (Split){SPLIT_NONE, 0};
}

/* ByteLevel alone, or behind one Split of a known pattern: the fast way. Anything else goes by steps; a ByteLevel that
 * is not the last of them hands on text in the byte alphabet. */
static void read_pre_tokenizers(Loader *l, const cJSON *node) {
    Tokenizer *t = l->t;
    each_part(l, node, "the pre_tokenizer", "pretokenizers", read_pre_tokenizer, NULL);
    if (!t->n_pre) return;
    PreStep *last = &t->pre[t->n_pre - 1];
    for (int i = 0; i < t->n_pre - 1; i++) t->pre[i].spell = t->pre[i].kind == PRE_BYTE_LEVEL;
    for (int i = 0; i < t->n_pre - 1; i++)
        if (t->pre[i].spell && last->kind == PRE_BYTE_LEVEL)
            die("%s: two ByteLevel pre_tokenizers in a row are not supported", l->path);
    t->byte_level = last->kind == PRE_BYTE_LEVEL;
    if (!t->byte_level) return;
    const cJSON *list = json_get(node, "pretokenizers");
    const cJSON *split = cJSON_GetArraySize(list) == 2 ? list->child : NULL;
    if (t->n_pre == 1 && last->cut) t->split = (Split){SPLIT_GPT2, 0};
    else if (t->n_pre == 2 && split && !last->cut && !last->prefix) t->split = split_of(split);
    if (t->split.kind == SPLIT_NONE) return;
    t->add_prefix_space = last->prefix;
    for (int i = 0; i < t->n_pre; i++) pre_step_free(&t->pre[i]);
    t->n_pre = 0;
}

/* ---- decoder ---------------------------------------------------------------------------------------------------- */

typedef enum {
    DEC_BYTE_LEVEL, DEC_METASPACE, DEC_WORDPIECE, DEC_STRIP, DEC_REPLACE, DEC_BPE, DEC_BYTE_FALLBACK
} DecKind;
typedef struct {
    DecKind kind;
    char *find, *put;                            /* METASPACE, WORDPIECE, BPE: mark, prefix, suffix */
    Regex *regex;
    bool flag;                                   /* METASPACE: the first token loses its marks; WORDPIECE: cleanup */
    int start, stop;                             /* STRIP */
} DecStep;
typedef struct { DecStep *v; int n; bool fused, spaced; Worker *w; } DecChain;

static int json_count(const Loader *l, const cJSON *node, const char *type, const char *key) {
    const cJSON *n = json_get(node, key);
    if (!cJSON_IsNumber(n) || !(n->valuedouble >= 0 && n->valuedouble < 1e6))
        die("%s: the decoder %s has no \"%s\" from 0 to a million", l->path, type, key);
    return (int)n->valuedouble;
}

static void read_decoder(Loader *l, const cJSON *node, const char *type, void *state) {
    DecChain *chain = state;
    DecStep step = {0};
    if (!strcmp(type, "Fuse")) {
        chain->fused = true;
        return;
    }
    if (!strcmp(type, "Strip")) {
        step = (DecStep){.kind = DEC_STRIP, .find = need_str(l, node, type, "content"),
                         .start = json_count(l, node, type, "start"), .stop = json_count(l, node, type, "stop")};
        uint32_t cp = 0;
        if (!*step.find || utf8_char((uint8_t *)step.find, strlen(step.find), &cp) != (int)strlen(step.find))
            die("%s: the decoder Strip has the content \"%.40s\", which is not one character", l->path, step.find);
        if (chain->fused) {
            if (step.stop || l->t->decoder.strip)
                die("%s: after Fuse, only one decoder Strip and with stop 0 is supported", l->path);
            l->t->decoder.strip = step.start, l->t->decoder.strip_char = cp;
            free(step.find);
            return;
        }
    } else if (chain->fused) die("%s: the decoder %.40s after Fuse is not supported", l->path, type);
    else if (!strcmp(type, "ByteLevel")) step.kind = DEC_BYTE_LEVEL, chain->fused = true;
    else if (!strcmp(type, "ByteFallback")) {
        step.kind = DEC_BYTE_FALLBACK;
        l->t->decoder.bad = BAD_RUN;
    } else if (!strcmp(type, "Metaspace")) {
        bool first;
        step.kind = DEC_METASPACE;
        step.find = read_metaspace(l, node, &step.flag, &first);
    } else if (!strcmp(type, "WordPiece"))
        step = (DecStep){.kind = DEC_WORDPIECE, .find = need_str(l, node, type, "prefix"),
                         .flag = json_default_true(node, "cleanup")};
    else if (!strcmp(type, "BPEDecoder"))
        step = (DecStep){.kind = DEC_BPE, .find = need_str(l, node, type, "suffix")};
    else if (!strcmp(type, "Replace")) {
        step = (DecStep){.kind = DEC_REPLACE, .put = need_str(l, node, type, "content")};
        read_pattern(l, node, type, &step.find, &step.regex);
    } else
        die("%s: the decoder %.40s is not supported (ByteLevel, Metaspace, WordPiece, BPEDecoder, ByteFallback, Fuse, "
            "Strip, Replace and Sequence are)", l->path, type);
    chain->v = xrealloc(chain->v, size_mul((size_t)chain->n + 1, sizeof *chain->v));
    chain->v[chain->n++] = step;
}

static bool byte_token(const char *s, size_t n, uint8_t *byte) { /* "<0x0A>" */
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return false;
    char *end, digits[3] = {s[3], s[4], 0};
    *byte = (uint8_t)strtol(digits, &end, 16);
    return end == digits + 2 && strchr("+- ", s[3]) == NULL;
}

static void strip(const DecStep *step, Buf *b) {
    size_t n = strlen(step->find), from = 0, to = b->len;
    for (int i = 0; i < step->start && to - from >= n && !memcmp(b->data + from, step->find, n); i++) from += n;
    for (int i = 0; i < step->stop && to - from >= n && !memcmp(b->data + to - n, step->find, n); i++) to -= n;
    Buf kept = {0};
    buf_add(&kept, b->data + from, to - from);
    buf_free(b);
    *b = kept;
}

static void replace_all(const DecStep *step, Worker *w, const char *put, size_t limit, Buf *b) {
    NormStep as_norm = {.kind = NORM_REPLACE, .find = step->find, .regex = step->regex, .put = (char *)(uintptr_t)put};
    Buf out = {0};
    if (!norm_replace(&as_norm, w, (const uint8_t *)b->data, b->len, limit, &out)) return;
    buf_free(b);
    *b = out;
}

/* What one token becomes. */
static void write_by_chain(const Loader *l, int32_t id, bool first, const void *state, Buf *out) {
    const DecChain *chain = state;
    size_t n_name;
    const char *name = token_name(l, id, &n_name);
    Buf b = {0};
    size_t limit = norm_limit(n_name);
    uint8_t byte;
    buf_add(&b, name, n_name);
    if (chain->spaced && !first) buf_str(out, " "); /* without a decoder tokens are words */
    for (int i = 0; i < chain->n; i++) {
        const DecStep *step = &chain->v[i];
        switch (step->kind) {
        case DEC_BYTE_LEVEL:
            if (!is_added(l, id)) {
                Buf bytes = {0};
                buf_add(&bytes, "", 0);
                if (unspell(b.data, b.len, &bytes)) {
                    buf_free(&b);
                    b = bytes;
                } else buf_free(&bytes);
            }
            break;
        case DEC_BYTE_FALLBACK:
            if (!byte_token(b.data, b.len, &byte)) break;
            l->t->decoder.is_byte[id] = true;
            b.len = 0;
            buf_add(&b, &byte, 1);
            i = chain->n; /* the steps behind it would see the character that the byte is part of */
            break;
        case DEC_METASPACE: replace_all(step, chain->w, first && step->flag ? "" : " ", limit, &b); break;
        case DEC_WORDPIECE: {
            Buf word = {0};
            buf_add(&word, "", 0);
            wordpiece_write(b.data, b.len, step->find, step->flag, first, &word);
            buf_free(&b);
            b = word;
            break;
        }
        case DEC_STRIP: strip(step, &b); break;
        case DEC_REPLACE: replace_all(step, chain->w, step->put, limit, &b); break;
        case DEC_BPE: { /* the suffix ends a word: a blank, unless it is the text's last */
            size_t n = strlen(step->find);
            if (n && b.len >= n && !memcmp(b.data + b.len - n, step->find, n)) {
                l->t->decoder.blank_after[id] = true;
                b.len -= n;
            }
            break;
        }
        }
    }
    buf_add(out, b.data, b.len);
    buf_free(&b);
}

static void read_decoders(Loader *l, const cJSON *node) {
    Tokenizer *t = l->t;
    DecChain chain = {.spaced = json_absent(node)};
    each_part(l, node, "the decoder", "decoders", read_decoder, &chain);
    bool plain = (chain.n == 1 && chain.v[0].kind == DEC_BYTE_LEVEL) || json_absent(node);
    if (t->byte_level && plain) decoder_build(l, false, write_bytes, NULL);
    else {
        bool by_position = chain.spaced;
        for (int i = 0; i < chain.n; i++) {
            DecKind kind = chain.v[i].kind;
            by_position |= kind == DEC_METASPACE || kind == DEC_WORDPIECE;
            if (kind == DEC_BYTE_FALLBACK) t->decoder.is_byte = xcalloc((size_t)t->n_ids, 1);
            if (kind == DEC_BPE) t->decoder.blank_after = xcalloc((size_t)t->n_ids, 1);
        }
        chain.w = worker_take(t);
        decoder_build(l, by_position, write_by_chain, &chain);
        worker_give(t, chain.w);
    }
    for (int i = 0; i < chain.n; i++) {
        free(chain.v[i].find);
        free(chain.v[i].put);
        regex_free(chain.v[i].regex);
    }
    free(chain.v);
}

/* ---- post-processor --------------------------------------------------------------------------------------------- */

static void read_template(Loader *l, const cJSON *node, const char *which, Wrap *wrap) {
    const cJSON *list = json_get(node, which), *specials = json_get(node, "special_tokens");
    if (wrap->n) die("%s: two post_processors with templates are not supported", l->path);
    for (const cJSON *e = cJSON_IsArray(list) ? list->child : NULL; e; e = e->next) {
        const cJSON *special = json_get(e, "SpecialToken"), *sequence = json_get(e, "Sequence");
        const cJSON *type_node = json_get(special ? special : sequence, "type_id");
        const char *name = json_str(special ? special : sequence, "id");
        double type = cJSON_IsNumber(type_node) ? type_node->valuedouble : 0;
        if (!name || !(type >= 0 && type <= INT32_MAX))
            die("%s: the post_processor's template \"%s\" has an item that is neither a SpecialToken nor a Sequence",
                l->path, which);
        if (!special) {
            bool pair = wrap == &l->t->pair; /* B of a single text does not exist */
            if (strcmp(name, "A") && (strcmp(name, "B") || !pair))
                die("%s: the post_processor's template \"%s\" has the Sequence \"%.40s\", not A%s", l->path, which,
                    name, pair ? " or B" : "");
            wrap_add(wrap, *name == 'A' ? WRAP_A : WRAP_B, (int32_t)type);
            continue;
        }
        const cJSON *ids = json_get(json_get(specials, name), "ids");
        if (cJSON_IsArray(ids)) {
            for (const cJSON *i = ids->child; i; i = i->next) {
                uint32_t id = json_id(l->path, name, i);
                if (id >= l->t->vocab.n_ids)
                    die("%s: the template's token \"%.60s\" has the id %u, which is outside the vocabulary", l->path,
                        name, id);
                wrap_add(wrap, (int32_t)id, (int32_t)type);
            }
            continue;
        }
        int32_t id = vocab_find(&l->t->vocab, name, strlen(name));
        if (id < 0) die("%s: the template's token \"%.60s\" is not in the vocabulary", l->path, name);
        wrap_add(wrap, id, (int32_t)type);
    }
}

/* ["[SEP]", 102] */
static int32_t read_named_id(Loader *l, const cJSON *node, const char *type, const char *key) {
    const cJSON *pair = json_get(node, key);
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(pair, 0));
    if (!cJSON_IsArray(pair) || !name || cJSON_GetArraySize(pair) != 2)
        die("%s: the post_processor %s has no \"%s\" that is [token, id]", l->path, type, key);
    uint32_t id = json_id(l->path, name, cJSON_GetArrayItem(pair, 1));
    if (id >= l->t->vocab.n_ids) die("%s: %s has the id %u, which is outside the vocabulary", l->path, key, id);
    return (int32_t)id;
}

static void read_post_processor(Loader *l, const cJSON *node, const char *type, void *state) {
    (void)state;
    Tokenizer *t = l->t;
    bool bert = !strcmp(type, "BertProcessing");
    if (!strcmp(type, "TemplateProcessing")) {
        read_template(l, node, "single", &t->single);
        read_template(l, node, "pair", &t->pair);
    } else if (bert || !strcmp(type, "RobertaProcessing")) {
        int32_t cls = read_named_id(l, node, type, "cls"), sep = read_named_id(l, node, type, "sep");
        if (t->single.n) die("%s: two post_processors with templates are not supported", l->path);
        wrap_add(&t->single, cls, 0), wrap_add(&t->single, WRAP_A, 0), wrap_add(&t->single, sep, 0);
        wrap_add(&t->pair, cls, 0), wrap_add(&t->pair, WRAP_A, 0), wrap_add(&t->pair, sep, 0);
        if (!bert) wrap_add(&t->pair, sep, 0);
        wrap_add(&t->pair, WRAP_B, bert), wrap_add(&t->pair, sep, bert);
    } else if (strcmp(type, "ByteLevel"))
        die("%s: the post_processor %.40s is not supported (ByteLevel, TemplateProcessing, BertProcessing, "
            "RobertaProcessing and Sequence are)", l->path, type);
}

/* ---- model ------------------------------------------------------------------------------------------------------ */

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

static char *read_affix(const Loader *l, const cJSON *model, const char *key) {
    const char *affix = json_str(model, key);
    if (!affix || !*affix) return NULL;
    if (strlen(affix) >= MAX_AFFIX) die("%s: %s is longer than %d bytes", l->path, key, MAX_AFFIX - 1);
    if (l->t->byte_level) die("%s: byte-level BPE with %s \"%.40s\" is not supported", l->path, key, affix);
    return strf("%s", affix);
}

static int32_t read_unk(const Loader *l, const cJSON *model) {
    const char *unk = json_str(model, "unk_token");
    return unk ? vocab_find(&l->t->vocab, unk, strlen(unk)) : -1;
}

static void begin_bpe(Loader *l, const cJSON *model) {
    Tokenizer *t = l->t;
    const cJSON *dropout = json_get(model, "dropout");
    if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
        die("%s: BPE with dropout is not supported: the ids of a text would differ from call to call", l->path);
    t->ignore_merges = json_true(model, "ignore_merges");
    t->byte_fallback = json_true(model, "byte_fallback") && !t->byte_level; /* all bytes have tokens there */
    t->fuse_unk = json_true(model, "fuse_unk");
    t->continuing_prefix = read_affix(l, model, "continuing_subword_prefix");
    t->word_suffix = read_affix(l, model, "end_of_word_suffix");
    t->unk = read_unk(l, model);
}

/* [[piece, log probability], ...]: a piece's place is its id. */
static double *read_pieces(Loader *l, const cJSON *list) {
    if (!cJSON_IsArray(list)) die("%s: there is no vocabulary (a list of [piece, score])", l->path);
    int n = cJSON_GetArraySize(list);
    double *score = xcalloc((size_t)n + 1, sizeof *score);
    uint32_t id = 0;
    for (const cJSON *e = list->child; e; e = e->next, id++) {
        const char *piece = cJSON_IsArray(e) ? cJSON_GetStringValue(e->child) : NULL;
        const cJSON *value = piece ? e->child->next : NULL;
        if (!cJSON_IsNumber(value) || !isfinite(value->valuedouble) || value->next)
            die("%s: entry %u of the vocabulary is not [piece, score]", l->path, id);
        score[id] = value->valuedouble;
        read_token(l, piece, strlen(piece), id);
    }
    if (!l->t->vocab.n_ids) die("%s: the vocabulary is empty", l->path);
    return score;
}

static ModelKind model_kind(const Loader *l, const cJSON *model) {
    const char *type = json_str(model, "type");
    if (!type) { /* older files: by what they have */
        if (cJSON_IsArray(json_get(model, "merges"))) return MODEL_BPE;
        if (cJSON_IsArray(json_get(model, "vocab"))) return MODEL_UNIGRAM;
        return json_get(model, "max_input_chars_per_word") ? MODEL_WORDPIECE : MODEL_BPE;
    }
    if (!strcmp(type, "BPE")) return MODEL_BPE;
    if (!strcmp(type, "Unigram")) return MODEL_UNIGRAM;
    if (!strcmp(type, "WordPiece")) return MODEL_WORDPIECE;
    die("%s: the model %.40s is not supported (BPE, Unigram and WordPiece are)", l->path, type);
}

static void finish_wordpiece(Loader *l, const cJSON *model) {
    const cJSON *max = json_get(model, "max_input_chars_per_word");
    const char *prefix = json_str(model, "continuing_subword_prefix");
    double most = cJSON_IsNumber(max) ? max->valuedouble : 100;
    int32_t unk = json_str(model, "unk_token") ? read_unk(l, model) : vocab_find(&l->t->vocab, "[UNK]", 5);
    if (unk < 0) die("%s: WordPiece's unk_token is not in the vocabulary", l->path);
    if (!(most >= 1 && most <= 1e9)) die("%s: max_input_chars_per_word is not a number from 1 up", l->path);
    l->t->wordpiece = wordpiece_new(l->t, prefix ? prefix : "##", unk, (size_t)most);
    l->t->unk = unk;
}

static void finish_unigram(Loader *l, const cJSON *model, const double *score, size_t n_pieces) {
    Tokenizer *t = l->t;
    const cJSON *unk = json_get(model, "unk_id");
    t->unk = json_absent(unk) ? -1 : (int32_t)json_id(l->path, "unk", unk);
    if (t->unk >= (int32_t)n_pieces) die("%s: unk_id %d is outside the vocabulary", l->path, t->unk);
    double *all = xcalloc((size_t)t->n_ids, sizeof *all); /* added tokens lie behind the pieces and are never made */
    memcpy(all, score, n_pieces * sizeof *all);
    for (int id = (int)n_pieces; id < t->n_ids; id++) all[id] = NAN;
    t->unigram = unigram_new(t, all, t->unk);
    free(all);
}

void load_tokenizer_json(Loader *l) {
    Tokenizer *t = l->t;
    cJSON *json = json_read(l->path, JSON_OBJECT);
    const cJSON *model = json_get(json, "model");
    if (!cJSON_IsObject(model)) die("%s: there is no \"model\"", l->path);
    t->model = model_kind(l, model);
    each_part(l, json_get(json, "normalizer"), "the normalizer", "normalizers", read_normalizer, NULL);
    read_pre_tokenizers(l, json_get(json, "pre_tokenizer"));
    if (t->byte_level && t->model != MODEL_BPE)
        die("%s: ByteLevel with a model other than BPE is not supported", l->path);
    double *score = NULL;
    if (t->model == MODEL_UNIGRAM) score = read_pieces(l, json_get(model, "vocab"));
    else read_vocab(l, json_get(model, "vocab"));
    size_t n_pieces = t->vocab.n_ids;
    read_added(l, json_get(json, "added_tokens"));
    each_part(l, json_get(json, "post_processor"), "the post_processor", "processors", read_post_processor, NULL);
    if (t->single.n >= 2 && t->single.v[0].id >= 0 && t->single.v[1].id == WRAP_A)
        t->bos = t->single.v[0].id; /* unless tokenizer_config.json names another */
    read_roles(l);
    if (t->model == MODEL_BPE) begin_bpe(l, model);
    if (t->model == MODEL_UNIGRAM) t->byte_fallback = json_true(model, "byte_fallback");
    finish_tokens(l);
    read_decoders(l, json_get(json, "decoder"));
    switch (t->model) {
    case MODEL_BPE:
        read_merges(l, json_get(model, "merges"));
        joins_from_merges(t);
        break;
    case MODEL_UNIGRAM: finish_unigram(l, model, score, n_pieces); break;
    case MODEL_WORDPIECE: finish_wordpiece(l, model); break;
    }
    free(score);
    cJSON_Delete(json);
}
