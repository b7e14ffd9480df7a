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
    return w->next[i] < 0 ? NO_MERGE : merge_slot(&t->merges, pair_of(w->id[i], w->id[w->next[i]]))->rank;
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
    char room[512], *spelt = 2 * n <= sizeof room ? room : xmalloc(2 * n);
    spelt[0] = 0; /* for the compiler, which cannot see that no word is empty */
    size_t n_spelt = spell(s, n, spelt);
    *id = vocab_find(&t->vocab, spelt, n_spelt);
    if (spelt != room) free(spelt);
    return *id >= 0 && !t->is_special[*id]; /* the text of a special token is ordinary text here */
}

/* The symbols that a word starts from. A byte without a token (no published byte-level vocabulary lacks one, but
 * files exist) becomes the unknown token, or vanishes where there is none, as it does in Hugging Face's. */
int32_t first_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
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
    if (n <= SHORT_WORD) {
        int32_t id[SHORT_WORD];
        int n_id = merge_short(t, id, first_symbols(t, s, n, id), NULL);
        ids_room(ids, (size_t)n_id);
        memcpy(ids->v + ids->n, id, sizeof *id * (size_t)n_id);
        ids->n += (size_t)n_id;
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
    int32_t n_id = first_symbols(t, s, n, w->id);
    if (n_id) merge_long(t, w, n_id, ids);
}
