/* vocab.c - token <-> id, the table of merges, and what a tokenizer answers about itself. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>

/* [tok.vocab] tokens, ids and merges ------------------------------------------------------------------------------- */

int32_t vocab_find(const Vocab *v, const char *s, size_t n) {
    if (!v->n_slots) return -1;
    for (size_t i = hash_bytes(s, n) & (v->n_slots - 1); v->slot[i]; i = (i + 1) & (v->n_slots - 1)) {
        const Spelling *e = &v->spelling[v->slot[i] - 1];
        if (e->n == n && !memcmp(v->pool.data + e->at, s, n)) return (int32_t)v->slot[i] - 1;
    }
    return -1;
}

static void vocab_place(Vocab *v, uint32_t id) {
    const Spelling *e = &v->spelling[id];
    size_t i = hash_bytes(v->pool.data + e->at, e->n) & (v->n_slots - 1);
    while (v->slot[i]) i = (i + 1) & (v->n_slots - 1);
    v->slot[i] = id + 1;
}

/* The id must be free and the string new: the caller has checked both. */
void vocab_add(Vocab *v, const char *s, size_t n, uint32_t id) {
    if (id >= v->cap) {
        size_t cap = v->cap * 2 > (size_t)id + 1 ? v->cap * 2 : (size_t)id + 256;
        v->spelling = xrealloc(v->spelling, size_mul(cap, sizeof *v->spelling));
        memset(v->spelling + v->cap, 0, (cap - v->cap) * sizeof *v->spelling);
        v->cap = cap;
    }
    v->spelling[id] = (Spelling){v->pool.len, (uint32_t)n, true};
    buf_add(&v->pool, s, n);
    if (id >= v->n_ids) v->n_ids = (size_t)id + 1;
    if (++v->n_used * 2 > v->n_slots) {
        v->n_slots = v->n_slots ? v->n_slots * 4 : 1024;
        free(v->slot);
        v->slot = xcalloc(v->n_slots, sizeof *v->slot);
        for (size_t i = 0; i < v->n_ids; i++)
            if (v->spelling[i].used) vocab_place(v, (uint32_t)i);
    } else {
        vocab_place(v, id);
    }
}

void vocab_free(Vocab *v) {
    buf_free(&v->pool);
    free(v->spelling);
    free(v->slot);
}

void merges_reserve(MergeTable *m, size_t n) {
    m->shift = 60;
    while ((size_t)1 << (64 - m->shift) < n * 3) m->shift--; /* a third full at most: seldom a second look */
    size_t slots = (size_t)1 << (64 - m->shift);
    m->slot = xmalloc(size_mul(slots, sizeof *m->slot));
    for (size_t i = 0; i < slots; i++) m->slot[i] = (Merge){NO_PAIR, NO_MERGE, -1};
}

int tokenizer_vocab(const Tokenizer *t) { return t->n_ids; }
int tokenizer_id(const Tokenizer *t, const char *token) { return vocab_find(&t->vocab, token, strlen(token)); }
int tokenizer_bos(const Tokenizer *t) { return t->bos; }
int tokenizer_eos(const Tokenizer *t) { return t->eos; }
const char *tokenizer_words(const Tokenizer *t) {
    if (t->n_pre || t->add_prefix_space || !t->byte_level) return NULL;
    if (t->split.kind == SPLIT_GPT2) return "gpt2";
    if (t->split.kind != SPLIT_LLAMA3) return NULL;
    return t->split.max_digits == 3 ? "llama3" : t->split.max_digits == 1 ? "qwen2" : NULL;
}
bool tokenizer_adds_bos(const Tokenizer *t) { return t->prefix.n && t->prefix.v[0] == t->bos; }
const Ids *tokenizer_prefix(const Tokenizer *t) { return &t->prefix; }
const Ids *tokenizer_suffix(const Tokenizer *t) { return &t->suffix; }
bool tokenizer_is_special(const Tokenizer *t, int id) {
    return id >= 0 && id < t->n_ids && t->is_special[id] & IS_SPECIAL;
}

void ids_add(Ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        ids->cap = ids->cap ? ids->cap * 2 : 64;
        ids->v = xrealloc(ids->v, size_mul(ids->cap, sizeof *ids->v));
    }
    ids->v[ids->n++] = id;
}

void ids_free(Ids *ids) {
    free(ids->v);
    *ids = (Ids){0};
}
