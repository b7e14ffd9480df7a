/* encode.c - text -> ids: added tokens, normal form, words, and each word its ids, most of them from the cache. */
#include "split.h"

#include <stdlib.h>
#include <string.h>

/* [tok.added] added tokens ----------------------------------------------------------------------------------------- */

static uint32_t char_after(const uint8_t *p, const uint8_t *end) {
    uint32_t cp;
    return p < end && utf8_char(p, (size_t)(end - p), &cp) > 0 ? cp : 0xFFFD;
}

/* The longest added token that begins at p, or NULL. */
static const AddedToken *added_at(const AddedSet *set, const uint8_t *p, size_t n) {
    for (int i = set->from[*p]; i < set->from[*p + 1]; i++) {
        if (n > 1 && !set->second[p[1]] && set->v[i].n > 1) continue;
        if (set->v[i].n <= n && !memcmp(set->v[i].text, p, set->v[i].n)) return &set->v[i];
    }
    return NULL;
}

/* Cuts s at the tokens of set; what lies between goes to rest. A special token that may not be recognised is passed
 * over whole, so that no shorter token is found inside it. */
void cut_at_added(const Tokenizer *t, Worker *w, const AddedSet *set, const uint8_t *s, size_t n,
                         bool with_special, Ids *ids, TextFn rest) {
    const bool at_start = w->at_start;
    if (!set->n || (!with_special && set->n == set->n_special)) {
        if (n) rest(t, w, s, n, with_special, ids);
        return;
    }
    const uint8_t *end = s + n, *done = s;
    for (const uint8_t *p = s; p < end;) {
        if (set->from[*p] == set->from[*p + 1]) {
            p++;
            continue;
        }
        const AddedToken *a = added_at(set, p, (size_t)(end - p));
        if (!a) {
            p++;
            continue;
        }
        const uint8_t *from = p, *to = p + a->n;
        p = to;
        if (a->special && !with_special) continue;
        if (a->single_word && ((from > s && is_word_char(char_after(char_start_before(s, from), from))) ||
                               (to < end && is_word_char(char_after(to, end)))))
            continue;
        int len;
        for (const uint8_t *q; a->lstrip && from > done; from = q) {
            q = char_start_before(done, from);
            if (!(class_at(q, from, &len) & SPACE)) break;
        }
        if (a->rstrip)
            while (to < end && class_at(to, end, &len) & SPACE) to += len;
        w->at_start = at_start && done == s;
        if (from > done) rest(t, w, done, (size_t)(from - done), with_special, ids);
        ids_add(ids, a->id);
        done = to;
    }
    w->at_start = at_start && done == s;
    if (done < end) rest(t, w, done, (size_t)(end - done), with_special, ids);
}

/* [tok.cache] words seen before ------------------------------------------------------------------------------------- *
 * Text repeats itself: of ten words nine are among the last thousands seen, so most of the work is looking up. The key
 * is the word itself, padded with zeros, its length in the last byte; the loads run over the word's end and a mask
 * clears what is not its own, which costs less than a loop over five bytes. One place per hash, newest wins. */
Worker *worker_take(const Tokenizer *t) {
    Tokenizer *lender = (Tokenizer *)(uintptr_t)t; /* const to the caller: what it lends cannot be seen from outside */
    for (int i = 0; i < IDLE_WORKERS; i++)
        if (atomic_load_explicit(&lender->idle[i], memory_order_relaxed)) {
            Worker *w = atomic_exchange(&lender->idle[i], NULL);
            if (w) return w;
        }
    Worker *w = xcalloc(1, sizeof *w);
    w->cache = aligned_alloc(64, sizeof *w->cache << CACHE_BITS);
    if (!w->cache) die("out of memory: %zu bytes for the word cache", sizeof *w->cache << CACHE_BITS);
    memset(w->cache, 0, sizeof *w->cache << CACHE_BITS); /* length 0 is no word's */
    return w;
}

void worker_free(Worker *w) {
    if (!w) return;
    free(w->cache);
    free(w->lone);
    free(w->id);
    free(w->rank);
    free(w->next);
    free(w->prev);
    free(w->heap);
    free(w->split);
    free(w->piece);
    free(w->piece2);
    regex_scratch_free(w);
    buf_free(&w->norm);
    buf_free(&w->other);
    buf_free(&w->prefixed);
    buf_free(&w->spelt);
    free(w);
}

void worker_give(const Tokenizer *t, Worker *w) {
    Tokenizer *lender = (Tokenizer *)(uintptr_t)t;
    enum { KEEP = 1 << 20 }; /* one giant word should not pin its scratch memory for ever */
    if (w->cap > KEEP) {
        worker_free(w);
        return;
    }
    for (int i = 0; i < IDLE_WORKERS; i++) {
        Worker *none = NULL;
        if (atomic_compare_exchange_strong(&lender->idle[i], &none, w)) return;
    }
    worker_free(w);
}

static void model_word(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    switch (t->model) {
    case MODEL_BPE: bpe(t, w, s, n, ids); break;
    case MODEL_UNIGRAM: unigram_encode(t, w, s, n, ids); break;
    case MODEL_WORDPIECE: wordpiece_encode(t, w, s, n, ids); break;
    default: break;
    }
}

/* The ids of the word p, whose key stands, or will stand, in slot c. */
static inline void encode_found(const Tokenizer *t, Worker *w, const uint8_t *p, size_t n, const uint64_t key[4],
                                CacheSlot *c, Ids *ids) {
    ids_room(ids, CACHE_IDS);
    if (c->key[0] == key[0] && c->key[1] == key[1] && c->key[2] == key[2] && c->key[3] == key[3]) {
        memcpy(ids->v + ids->n, c->id, sizeof c->id); /* always seven: a copy of fixed size has no branch */
        ids->n += (size_t)c->n;
        return;
    }
    size_t before = ids->n;
    model_word(t, w, p, n, ids);
    if (ids->n - before > CACHE_IDS) return;
    memcpy(c->key, key, sizeof c->key);
    c->n = (int32_t)(ids->n - before);
    memcpy(c->id, ids->v + before, sizeof *c->id * (size_t)c->n);
}

static inline void encode_word(const Tokenizer *t, Worker *w, const uint8_t *p, size_t n, const uint8_t *end,
                               Ids *ids) {
    if (n > CACHE_WORD) {
        model_word(t, w, p, n, ids);
        return;
    }
    uint64_t key[4];
    cache_key(p, n, end, key);
    encode_found(t, w, p, n, key, cache_slot(w, key), ids);
}

void encode_cached(const Tokenizer *t, Worker *w, const Piece *word, size_t n_words, const uint8_t *s,
                   const uint8_t *end, Ids *ids) {
    uint64_t key[WORDS_AT_ONCE][4];
    CacheSlot *slot[WORDS_AT_ONCE];
    for (size_t i = 0; i < n_words; i++) {
        if (word[i].to - word[i].from > CACHE_WORD) continue;
        cache_key(s + word[i].from, word[i].to - word[i].from, end, key[i]);
        slot[i] = cache_slot(w, key[i]);
        __builtin_prefetch(slot[i]);
    }
    for (size_t i = 0; i < n_words; i++) {
        const uint8_t *p = s + word[i].from;
        size_t n = word[i].to - word[i].from;
        if (n > CACHE_WORD) model_word(t, w, p, n, ids);
        else encode_found(t, w, p, n, key[i], slot[i], ids);
    }
}

/* [tok.encode] text -> ids ----------------------------------------------------------------------------------------- */

/* Ordinary text by the steps of a tokenizer.json. */
static void encode_pieces(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    if (!t->n_pre) {
        encode_joined(t, w, s, n, ids);
        return;
    }
    size_t n_pieces = pretokenize(t, w, &s, n);
    if (!n_pieces) return;
    const uint8_t *end = s + w->piece[n_pieces - 1].to;
    if (t->joins.usable) {
        for (size_t i = 0; i < n_pieces; i++)
            encode_joined(t, w, s + w->piece[i].from, w->piece[i].to - w->piece[i].from, ids);
    } else {
        for (size_t i = 0; i < n_pieces; i++)
            encode_word(t, w, s + w->piece[i].from, w->piece[i].to - w->piece[i].from, end, ids);
    }
}

/* Ordinary text: words, and each word its ids. */
static void encode_plain(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    (void)with_special;
    if (t->add_prefix_space && s[0] != ' ') {
        w->prefixed.len = 0;
        buf_add(&w->prefixed, " ", 1);
        buf_add(&w->prefixed, s, n);
        s = (const uint8_t *)w->prefixed.data, n++;
    }
    const uint8_t *end = s + n, *next;
    switch (t->split.kind) { /* one loop per rule, so that the rule is compiled into the loop */
    case SPLIT_GPT2:
        for (const uint8_t *p = s; p < end; p = next) {
            next = word_gpt2(p, end);
            encode_word(t, w, p, (size_t)(next - p), end, ids);
        }
        break;
    case SPLIT_LLAMA3:
        for (const uint8_t *p = s; p < end; p = next) {
            next = word_llama3(p, end, t->split.max_digits);
            encode_word(t, w, p, (size_t)(next - p), end, ids);
        }
        break;
    case SPLIT_NONE: encode_pieces(t, w, s, n, ids); break;
    }
}

/* Between the tokens found in the text as it came: normalise, then look for those that want normalised text. */
static void encode_normalized(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    if (t->n_norm) normalize(t, w, &s, &n);
    if (n) cut_at_added(t, w, &t->after_norm, s, n, with_special, ids, encode_plain);
}

void tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool with_special, Ids *ids) {
    Worker *w = worker_take(t);
    w->at_start = true;
    cut_at_added(t, w, &t->before_norm, (const uint8_t *)text, n, with_special, ids, encode_normalized);
    worker_give(t, w);
}

size_t words_of(const Tokenizer *t, Worker *w, const uint8_t **s, size_t n) {
    if (t->split.kind == SPLIT_NONE) return pretokenize(t, w, s, n);
    static const PreStep prefix = {.kind = PRE_BYTE_LEVEL, .prefix = true};
    size_t n_pieces = pretokenize_by(&prefix, t->add_prefix_space, w, s, n), from = 0;
    if (!n_pieces) return 0;
    const uint8_t *end = *s + w->piece[0].to;
    for (n_pieces = 0; *s + from < end; n_pieces++) {
        size_t to = (size_t)(word_end(t->split, *s + from, end) - *s);
        if (n_pieces == w->piece_cap) w->piece = xrealloc(w->piece, sizeof *w->piece * (w->piece_cap *= 2));
        w->piece[n_pieces] = (Piece){from, to};
        from = to;
    }
    return n_pieces;
}

size_t tokenizer_word(const Tokenizer *t, const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    return n ? (size_t)(word_end(t->split, s, s + n) - s) : 0;
}

/* [tok.wrap] special tokens around a text -------------------------------------------------------------------------- */

/* How much of two texts stays when they may have `room` ids in all: the longer one gives. */
static void longest_first(size_t *a, size_t *b, size_t room) {
    size_t least = *a < *b ? *a : *b, most = *a < *b ? *b : *a;
    if (least + most <= room) return;
    most = least > room ? least : room - least > least ? room - least : least;
    if (least + most > room) least = room / 2, most = least + room % 2;
    if (*a > *b) *a = most, *b = least;
    else *a = least, *b = most;
}

void tokenizer_wrap(const Tokenizer *t, const Ids *a, const Ids *b, size_t max_length, Ids *ids, Ids *types) {
    WrapItem bare[] = {{WRAP_A, 0}, {WRAP_B, 1}};
    const Wrap plain = {bare, b ? 2 : 1}, *wrap = b ? &t->pair : &t->single;
    if (!wrap->n) wrap = &plain;
    size_t n_a = a->n, n_b = b ? b->n : 0, around = 0;
    for (int i = 0; i < wrap->n; i++) around += wrap->v[i].id >= 0;
    if (max_length) longest_first(&n_a, &n_b, max_length > around ? max_length - around : 0);
    for (int i = 0; i < wrap->n; i++) {
        WrapItem item = wrap->v[i];
        const int32_t *v = item.id == WRAP_A ? a->v : item.id == WRAP_B ? b->v : &item.id;
        size_t n = item.id == WRAP_A ? n_a : item.id == WRAP_B ? n_b : 1;
        for (size_t k = 0; k < n; k++) {
            ids_add(ids, v[k]);
            if (types) ids_add(types, item.type);
        }
    }
}
