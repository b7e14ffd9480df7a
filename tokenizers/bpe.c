/* bpe.c - a word -> ids, by byte pair encoding. */
#include "parts.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* [tok.bpe] a word -> ids ------------------------------------------------------------------------------------------ */

/* The definition of BPE: of all neighbouring pairs take the one learnt first, leftmost among equals, replace it, and
 * again, until no pair is left that was ever learnt. Each round looks at all pairs, O(n^2) in all; at the length of
 * words that is faster than anything clever. merge[i] is that of the pair (i, i + 1), its rank in the upper half, what
 * it makes in the lower: one comparison finds the rank, one copy moves both. Returns the number of ids. */
static inline uint64_t merge_of(const Tokenizer *t, int32_t left, int32_t right) {
    const Merge *m = merge_slot(&t->merges, pair_of(left, right));
    return (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)m->id;
}

int merge_short(const Tokenizer *t, int32_t *id, int n, Trace trace) {
    uint64_t merge[SHORT_WORD];
    for (int i = 0; i < n - 1; i++) merge[i] = merge_of(t, id[i], id[i + 1]);
    while (n > 1) {
        int at = 0;
        for (int i = 1; i < n - 1; i++)
            if (merge[i] >> 32 < merge[at] >> 32) at = i;
        int32_t rank = (int32_t)(merge[at] >> 32), into = (int32_t)(uint32_t)merge[at];
        if (rank == NO_MERGE) break;
        if (trace) trace(t, id, n, at, rank, into);
        id[at] = into;
        n--;
        for (int i = at + 1; i < n; i++) id[i] = id[i + 1], merge[i] = merge[i + 1];
        if (at > 0) merge[at - 1] = merge_of(t, id[at - 1], id[at]); /* the two pairs that the new token is part of */
        if (at < n - 1) merge[at] = merge_of(t, id[at], id[at + 1]);
    }
    return n;
}

/* The same for words of any length, in O(n log n): ten million times the letter "a" is one word. Symbols are a linked
 * list, pairs wait in a heap ordered by (rank, position); an entry whose rank is no longer that of its position has
 * been overtaken and is skipped. A pair only ever grows, so a rank never comes back and the test is exact. */
static void heap_sink(uint64_t *heap, size_t n, size_t i) {
    uint64_t x = heap[i];
    for (size_t child; (child = 4 * i + 1) < n; i = child) { /* four children: half the cache misses of two */
        size_t stop = child + 4 < n ? child + 4 : n;
        for (size_t c = child + 1; c < stop; c++)
            if (heap[c] < heap[child]) child = c;
        if (heap[child] >= x) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static void heap_push(Worker *w, size_t *n, uint64_t x) {
    if (*n == w->heap_cap) {
        w->heap_cap = w->heap_cap * 2 + 1024;
        w->heap = xrealloc(w->heap, size_mul(w->heap_cap, sizeof *w->heap));
    }
    size_t i = (*n)++;
    for (; i && w->heap[(i - 1) / 4] > x; i = (i - 1) / 4) w->heap[i] = w->heap[(i - 1) / 4];
    w->heap[i] = x;
}

static int32_t pair_rank(const Tokenizer *t, const Worker *w, int32_t i) {
    if (w->next[i] < 0) return NO_MERGE;
    const Merge *m = merge_slot(&t->merges, pair_of(w->id[i], w->id[w->next[i]]));
    if (t->note_splits && m->rank != NO_MERGE) w->split[m->id] = m->pair;
    return m->rank;
}

static void merge_long(const Tokenizer *t, Worker *w, int32_t n, Ids *ids) { /* symbols in w->id[0 .. n - 1] */
    size_t n_heap = 0;
    for (int32_t i = 0; i < n; i++) w->prev[i] = i - 1, w->next[i] = i + 1 < n ? i + 1 : -1;
    for (int32_t i = 0; i < n; i++)
        if ((w->rank[i] = pair_rank(t, w, i)) != NO_MERGE)
            heap_push(w, &n_heap, (uint64_t)w->rank[i] << 32 | (uint32_t)i);
    while (n_heap) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--n_heap];
        if (n_heap) heap_sink(w->heap, n_heap, 0);
        int32_t i = (int32_t)(uint32_t)top, right = w->next[i];
        if (w->rank[i] != (int32_t)(top >> 32)) continue;
        w->id[i] = merge_slot(&t->merges, pair_of(w->id[i], w->id[right]))->id;
        w->next[i] = w->next[right];
        w->rank[right] = NO_MERGE; /* gone: whatever the heap still holds of it is stale */
        if (w->next[i] >= 0) w->prev[w->next[i]] = i;
        for (int32_t k = w->prev[i] >= 0 ? w->prev[i] : i;; k = i) {
            if ((w->rank[k] = pair_rank(t, w, k)) != NO_MERGE)
                heap_push(w, &n_heap, (uint64_t)w->rank[k] << 32 | (uint32_t)k);
            if (k == i) break;
        }
    }
    for (int32_t i = 0; i >= 0; i = w->next[i]) ids_add(ids, w->id[i]);
}

bool word_is_token(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    char room[512], *spelt = NULL;
    const char *name = (const char *)s;
    size_t n_name = n;
    if (t->byte_level) {
        spelt = 2 * n <= sizeof room ? room : xmalloc(2 * n);
        spelt[0] = 0; /* for the compiler, which cannot see that no word is empty */
        n_name = spell(s, n, spelt);
        name = spelt;
    }
    *id = vocab_find(&t->vocab, name, n_name);
    if (spelt != room) free(spelt);
    return *id >= 0 && !t->is_special[*id]; /* the text of a special token is ordinary text here */
}

static int32_t symbol_of(const Tokenizer *t, const uint8_t *s, size_t n, bool first, bool last) {
    char room[4 + 2 * MAX_AFFIX];
    size_t at = 0;
    if (!first && t->continuing_prefix) memcpy(room, t->continuing_prefix, at = strlen(t->continuing_prefix));
    memcpy(room + at, s, n);
    at += n;
    if (last && t->word_suffix) {
        size_t n_suffix = strlen(t->word_suffix);
        memcpy(room + at, t->word_suffix, n_suffix);
        at += n_suffix;
    }
    int32_t id = vocab_find(&t->vocab, room, at);
    return id >= 0 && !t->is_special[id] ? id : -1;
}

/* Characters, or what stands for those without a token: their bytes where all of them have tokens, else unk, one for
 * each or for a whole row. As in Hugging Face's, an unk in waiting comes behind bytes that follow it. */
static int32_t first_characters(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    int32_t n_id = 0;
    bool waiting = false;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        int got = utf8_char(s + i, n - i, &cp);
        len = got > 0 ? (size_t)got : 1;
        int32_t one = symbol_of(t, s + i, len, i == 0, i + len == n);
        if (one >= 0) {
            if (waiting) id[n_id++] = t->unk, waiting = false;
            id[n_id++] = one;
            continue;
        }
        bool bytes = t->byte_fallback;
        for (size_t k = 0; k < len && bytes; k++) bytes = t->byte_id[s[i + k]] >= 0;
        if (bytes) {
            for (size_t k = 0; k < len; k++) id[n_id++] = t->byte_id[s[i + k]];
        } else if (t->unk >= 0) {
            if (waiting && !t->fuse_unk) id[n_id++] = t->unk;
            waiting = true;
        }
    }
    if (waiting) id[n_id++] = t->unk;
    return n_id;
}

/* The symbols that a word starts from. A byte without a token (no published byte-level vocabulary lacks one, but
 * files exist) becomes the unknown token, or vanishes where there is none, as it does in Hugging Face's. */
int32_t first_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    if (t->sp) return sentencepiece_symbols(t, s, n, id);
    if (!t->byte_level) return first_characters(t, s, n, id);
    int32_t n_id = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t one = t->byte_id[s[i]] >= 0 ? t->byte_id[s[i]] : t->unk;
        id[n_id] = one;
        n_id += one >= 0;
    }
    return n_id;
}

void bpe(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    int32_t whole;
    if (t->ignore_merges && word_is_token(t, s, n, &whole)) {
        ids_add(ids, whole);
        return;
    }
    size_t before = ids->n;
    if (n <= SHORT_WORD && !t->note_splits) {
        int32_t id[SHORT_WORD];
        int n_id = merge_short(t, id, first_symbols(t, s, n, id), NULL);
        ids_room(ids, (size_t)n_id);
        memcpy(ids->v + ids->n, id, sizeof *id * (size_t)n_id);
        ids->n += (size_t)n_id;
        if (t->sp) sentencepiece_finish(t, NULL, before, ids);
        return;
    }
    if (n > INT32_MAX) die("one word of the text is %zu bytes long; at most %d are possible", n, INT32_MAX);
    if (n > w->cap) {
        w->cap = n + n / 2;
        w->id = xrealloc(w->id, size_mul(w->cap, sizeof *w->id));
        w->rank = xrealloc(w->rank, size_mul(w->cap, sizeof *w->rank));
        w->next = xrealloc(w->next, size_mul(w->cap, sizeof *w->next));
        w->prev = xrealloc(w->prev, size_mul(w->cap, sizeof *w->prev));
    }
    if (t->note_splits) {
        if (!w->split) w->split = xmalloc(size_mul((size_t)t->n_ids, sizeof *w->split));
        for (int i = 0; i < t->n_ids; i++) w->split[i] = NO_PAIR;
    }
    int32_t n_id = first_symbols(t, s, n, w->id);
    if (n_id) merge_long(t, w, n_id, ids);
    if (t->sp) sentencepiece_finish(t, w->split, before, ids);
}

/* [tok.joins] where merges end ------------------------------------------------------------------------------------- */

enum { NO_CHARACTER = 0x110000 }; /* a byte that is part of none */

static inline bool is_bound(const Joins *j, uint32_t c) { return c >= 0x10000 || has_bit(j->bound, c); }

void joins_add(Joins *j, uint32_t a, uint32_t b) {
    if (a < 0x10000) set_bit(j->bound, a);
    if (a < 0x80 && b < 0x80) {
        set_bit(j->ascii[a], b);
        return;
    }
    if (!j->pairs) j->pairs = xcalloc(PAIR_WORDS, sizeof *j->pairs);
    set_bit(j->pairs, pair_bit(a, b));
}

void joins_known(Joins *j, uint32_t c) {
    if (!j->known) j->known = xcalloc(NO_CHARACTER / 64 + 1, sizeof *j->known);
    set_bit(j->known, c);
}

void joins_from_merges(Tokenizer *t) {
    Joins *j = &t->joins;
    j->usable = !t->byte_level && !t->continuing_prefix && !t->word_suffix && !t->ignore_merges;
    bool unknown = !t->byte_fallback; /* complete, it leaves nothing to unk */
    for (int b = 0; b < 256 && !unknown; b++) unknown = t->byte_id[b] < 0;
    j->fuse = unknown && t->fuse_unk;
    /* What has no token vanishes, and its neighbours meet; or an unk in waiting goes behind the bytes that follow. */
    if (unknown && (t->unk < 0 || t->byte_fallback)) j->usable = false;
    size_t slots = (size_t)1 << (64 - t->merges.shift);
    for (size_t i = 0; j->usable && i < slots; i++) {
        if (t->merges.slot[i].pair == NO_PAIR) continue;
        int32_t left = (int32_t)(t->merges.slot[i].pair >> 32), right = (int32_t)(uint32_t)t->merges.slot[i].pair;
        /* A merge with the token of a byte or with unk could join what no two characters spell. */
        if (left == t->unk || right == t->unk) j->usable = false;
        for (int b = 0; b < 256 && t->byte_fallback; b++)
            if (left == t->byte_id[b] || right == t->byte_id[b]) j->usable = false;
        const Spelling *e = &t->vocab.spelling[left], *f = &t->vocab.spelling[right];
        const uint8_t *pool = (const uint8_t *)t->vocab.pool.data, *l = pool + e->at, *r = pool + f->at;
        uint32_t a, b;
        if (!e->n || !f->n || utf8_char(r, f->n, &b) <= 0) continue; /* no text makes such a symbol */
        size_t k = e->n - 1;
        while (k && (l[k] & 0xC0) == 0x80) k--;
        if (utf8_char(l + k, e->n - k, &a) <= 0) continue;
        joins_add(j, a, b);
    }
    for (size_t id = 0; j->usable && j->fuse && id < t->vocab.n_ids; id++) {
        const Spelling *e = &t->vocab.spelling[id];
        uint32_t c = 0;
        if (e->used && e->n && utf8_char((const uint8_t *)vocab_str(&t->vocab, (int32_t)id), e->n, &c) == (int)e->n)
            joins_known(j, c);
    }
}

static inline int char_at(const uint8_t *p, const uint8_t *end, uint32_t *cp) {
    if (*p < 0x80) return *cp = *p, 1;
    int len = utf8_char(p, (size_t)(end - p), cp);
    return len > 0 ? len : (*cp = NO_CHARACTER, 1);
}

static inline bool is_known(const Joins *j, uint32_t c) { return j->known && has_bit(j->known, c); }

static inline bool joined(const Joins *j, uint32_t a, uint32_t b) {
    bool yes = a < 0x80 && b < 0x80 ? has_bit(j->ascii[a], b) : j->pairs && has_bit(j->pairs, pair_bit(a, b));
    return yes || !a || (j->fuse && !is_known(j, a) && !is_known(j, b));
}

bool chars_joined(const Joins *j, uint32_t a, uint32_t b) { return joined(j, a, b); }

const uint8_t *joined_end(const Joins *j, const uint8_t *p, const uint8_t *end) {
    uint32_t before, c;
    p += char_at(p, end, &before);
    for (int len; p < end; p += len, before = c) {
        len = char_at(p, end, &c);
        if (!joined(j, before, c)) break;
    }
    return p;
}

/* Most Chinese characters begin no longer token of Llama-2's: each is a word, whose ids its code point finds without a
 * key or a hash (4 times as fast as through the cache). */
enum { LONE_BYTES = 3 };                         /* of the characters U+0800 to U+FFFF */

static inline uint32_t lone_char(const Joins *j, const uint8_t *p, const uint8_t *end) { /* 0: none begins at p */
    uint32_t c;
    if (*p < 0xE0 || end - p < LONE_BYTES || utf8_char(p, LONE_BYTES, &c) != LONE_BYTES) return 0;
    return is_bound(j, c) ? 0 : c;
}

/* Their row, if one begins at p. Returns where it ends. */
static const uint8_t *encode_lone(const Tokenizer *t, Worker *w, const uint8_t *p, const uint8_t *end, Ids *ids) {
    for (uint32_t c; p < end && (c = lone_char(&t->joins, p, end)); p += LONE_BYTES) {
        if (!w->lone) w->lone = xcalloc(0x10000, sizeof *w->lone);
        LoneChar *lone = &w->lone[c];
        if (!lone->n) {
            size_t before = ids->n;
            bpe(t, w, p, LONE_BYTES, ids);
            lone->n = (int32_t)(ids->n - before);
            if (lone->n > LONE_IDS) die("a character of three bytes has %d tokens", lone->n);
            memcpy(lone->id, ids->v + before, (size_t)lone->n * sizeof *ids->v);
            ids->n = before;
        }
        ids_room(ids, LONE_IDS);
        memcpy(ids->v + ids->n, lone->id, sizeof lone->id); /* always three: no branch */
        ids->n += (size_t)lone->n;
    }
    return p;
}

void encode_joined(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    const uint8_t *const end = s + n, *next;
    const bool lone = t->joins.usable && !t->joins.fuse && t->model == MODEL_BPE;
    Piece word[WORDS_AT_ONCE];
    for (const uint8_t *p = s; p < end;) {
        size_t n_words = 0;
        if (lone) p = encode_lone(t, w, p, end, ids);
        for (; n_words < WORDS_AT_ONCE && p < end && !(lone && n_words && lone_char(&t->joins, p, end)); p = next) {
            next = t->joins.usable ? joined_end(&t->joins, p, end) : end;
            word[n_words++] = (Piece){(size_t)(p - s), (size_t)(next - s)};
        }
        encode_cached(t, w, word, n_words, s, end, ids);
    }
}
