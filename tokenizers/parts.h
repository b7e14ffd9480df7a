/* parts.h - what the files of this folder share: the pieces of a tokenizer, from bytes to ids. For them and for
 * tokenizer.c alone; everybody else uses tokenizer.h.
 *
 *     unicode.c   UTF-8, the byte alphabet, classes of characters, normal forms
 *     split.h     text -> words                     vocab.c    token <-> id, the table of merges
 *     bpe.c       word -> ids                       encode.c   added tokens, the cache of words, all of it in order
 *     decode.c    ids -> text                       load.c     a directory's files -> a Tokenizer, checked
 *     train.c     learning a vocabulary
 *
 * What stands here as code is what the loops over every byte and word must inline. */
#pragma once
#include "../tokenizer.h"

#include <limits.h>
#include <stdatomic.h>
#include <string.h>

/* Ids index arrays, so a file's largest id decides how much memory we ask for: published vocabularies end below
 * 300,000, and a "vocabulary" of 2^31 with three tokens is an attack or a mistake. */
enum { MAX_IDS = 1 << 22 };

/* ---- unicode.c -------------------------------------------------------------------------------------------------- */

/* The well-formed character at s (n > 0 bytes): its length, its code point in *cp. 0 when the bytes end inside a
 * character that is well-formed so far. Otherwise minus the length of the malformed part: the longest beginning of
 * some character, at least one byte, which is what every decoder that writes U+FFFD replaces by one (Unicode, table
 * 3-7). Overlong forms, surrogates and code points past 10FFFF are malformed: the second byte's range excludes them. */
static inline int utf8_char(const uint8_t *s, size_t n, uint32_t *cp) {
    uint8_t b = s[0];
    if (b < 0x80) return *cp = b, 1;
    int len = b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0;
    if (!len) return -1;
    uint8_t lo = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80, hi = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
    uint32_t c = b & (0x7F >> len);
    for (int i = 1; i < len; i++, lo = 0x80, hi = 0xBF) {
        if ((size_t)i == n) return 0;
        if (s[i] < lo || s[i] > hi) return -i;
        c = c << 6 | (s[i] & 0x3F);
    }
    return *cp = c, len;
}

int utf8_put(uint32_t cp, char out[4]);         /* the bytes of a character; returns how many */

extern uint32_t char_of_byte[256];              /* the byte alphabet of vocabulary files, both ways; -1: no byte's */
extern int16_t byte_of_char[0x144];
size_t spell(const uint8_t *bytes, size_t n, char *out); /* bytes -> alphabet: at most 2 * n bytes; returns how many */
bool unspell(const char *s, size_t n, Buf *out); /* alphabet -> bytes, appended; false: a character outside it */

/* The patterns know four things: \p{L}, \p{N}, \s, and \r\n, which is a kind of \s. Everything else is OTHER. */
enum { OTHER = 0, LETTER = 1, NUMBER = 2, SPACE = 4, NEWLINE = 8 | SPACE };

extern uint8_t bmp_class[0x10000];              /* the plane that nearly all text lives in */
uint8_t class_look_up(uint32_t cp);             /* any code point; slow */
bool is_word_char(uint32_t cp);                 /* \w */
void tables_once(void);                         /* fills the tables above; before anything else, from any thread */

/* The character at p: its class and, in *len, its bytes. A byte that is no part of a character is a character of its
 * own, of class OTHER: that is how \xFF passes through a pattern written for text. */
static inline int class_at(const uint8_t *p, const uint8_t *end, int *len) {
    if (*p < 0x80) return *len = 1, bmp_class[*p];
    uint32_t cp;
    int n = utf8_char(p, (size_t)(end - p), &cp);
    if (n <= 0) return *len = 1, OTHER;
    *len = n;
    return cp < 0x10000 ? bmp_class[cp] : class_look_up(cp);
}

/* Leaves s and n alone when nothing changes; otherwise they are the normalised text, in out. */
void nfc(const uint8_t **s, size_t *n, Buf *out);

/* ---- split.h, split.c ------------------------------------------------------------------------------------------- */

typedef enum { SPLIT_NONE, SPLIT_GPT2, SPLIT_LLAMA3 } SplitKind;
typedef struct { SplitKind kind; int max_digits; } Split;

extern const char GPT2_PATTERN[], LLAMA3_PATTERN[], QWEN_PATTERN[]; /* as tokenizer.json spells them */

/* ---- vocab.c ---------------------------------------------------------------------------------------------------- */

/* A 64-bit hash of any bytes, eight at a time: multiply, fold the high half down, as every fast string hash does. */
static inline uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 29);
}

static inline uint64_t hash_bytes(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    uint64_t h = n * 0xD6E8FEB86659FD93ull, w;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&w, p, 8);
        h = mix(h ^ w);
    }
    w = 0;
    memcpy(&w, p, n);
    return mix(mix(h ^ w));
}

/* Strings with ids, as the file spells them. slot holds id + 1; 0 is empty. */
typedef struct { size_t at; uint32_t n; bool used; } Spelling;
typedef struct {
    Buf pool;
    Spelling *spelling; /* [n_ids] */
    size_t n_ids, cap, n_used, n_slots;
    uint32_t *slot;
} Vocab;

int32_t vocab_find(const Vocab *v, const char *s, size_t n);  /* the id, -1: none */
void vocab_add(Vocab *v, const char *s, size_t n, uint32_t id); /* a free id and a new string: the caller has checked */
void vocab_free(Vocab *v);
static inline const char *vocab_str(const Vocab *v, int32_t id) { return v->pool.data + v->spelling[id].at; }

/* Which two tokens merge, how early that was learnt (the rank: lower goes first), and into what. Open addressing, at
 * most a third full: a look-up is nearly always one cache line. */
typedef struct { uint64_t pair; int32_t rank, id; } Merge;
typedef struct { Merge *slot; int shift; } MergeTable;
enum { NO_MERGE = INT_MAX };
static const uint64_t NO_PAIR = UINT64_MAX;

static inline uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

static inline Merge *merge_slot(const MergeTable *m, uint64_t pair) {
    size_t mask = ((size_t)1 << (64 - m->shift)) - 1;
    size_t i = (size_t)((pair ^ pair >> 32) * 0x9E3779B97F4A7C15ull >> m->shift);
    while ((m->slot[i].pair != pair) & (m->slot[i].pair != NO_PAIR)) i = (i + 1) & mask; /* &: one branch, not two */
    return &m->slot[i];
}

void merges_reserve(MergeTable *m, size_t n);   /* an empty table for n merges; free m->slot */

static inline void ids_room(Ids *ids, size_t more) {
    if (ids->cap - ids->n >= more) return;
    ids->cap = ids->cap * 2 > ids->n + more ? ids->cap * 2 : ids->n + more;
    ids->v = xrealloc(ids->v, size_mul(ids->cap, sizeof *ids->v));
}

/* ---- the tokenizer ---------------------------------------------------------------------------------------------- */

typedef struct { char *text; size_t n; int32_t id; bool special, lstrip, rstrip, single_word, normalized; } AddedToken;

/* Tokens to be found in text as they stand, sorted by first byte, then longest first. second[] says which second bytes
 * occur at all: it spares most of the comparisons in a text full of "<". */
typedef struct {
    AddedToken *v;
    int n, n_special;
    int from[257]; /* tokens whose first byte is b are v[from[b]] .. v[from[b + 1] - 1] */
    bool second[256];
} AddedSet;

typedef struct Worker Worker;
enum { IDLE_WORKERS = 64 };

struct Tokenizer {
    Vocab vocab;
    Buf token_bytes;                             /* what each id decodes to, in a row */
    size_t *bytes_at;                            /* [n_ids + 1] */
    uint8_t *is_special;                         /* [n_ids] */
    int n_ids, bos, eos;
    Ids prefix;                                  /* what the post-processor puts before a text */

    bool nfc;                                    /* normalizer */
    bool add_prefix_space;                       /* splitter */
    Split split;
    bool ignore_merges;                          /* model: a word that is a token is that token */
    int32_t byte_id[256], unk;
    MergeTable merges;
    AddedSet before_norm, after_norm;            /* added tokens, by the text they are looked for in */

    _Atomic(Worker *) idle[IDLE_WORKERS];        /* scratch memory, lent to one call at a time */
};

/* ---- bpe.c ------------------------------------------------------------------------------------------------------ */

/* A word that the cache below holds: up to 31 bytes that became up to 7 ids, in one cache line. */
enum { CACHE_WORD = 31, CACHE_IDS = 7, CACHE_BITS = 16 };
typedef struct { uint64_t key[4]; int32_t id[CACHE_IDS], n; } CacheSlot;

struct Worker {
    CacheSlot *cache;                            /* [1 << CACHE_BITS], 4 MiB; the frequent words stay near the core */
    int32_t *id, *rank, *next, *prev;            /* [cap], for long words */
    uint64_t *heap;
    size_t cap, heap_cap;
    Buf norm, prefixed;
};

/* show prints each step; encode passes NULL. Of the n symbols those at `at` and after it are about to become `into`. */
typedef void (*Trace)(const Tokenizer *t, const int32_t *ids, int n, int at, int32_t rank, int32_t into);

enum { SHORT_WORD = 96 };                       /* symbols; longer words go another way to the same ids */
int32_t first_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id); /* id holds n; returns how many */
int merge_short(const Tokenizer *t, int32_t *id, int n, Trace trace); /* in place, n <= SHORT_WORD; returns how many */
bool word_is_token(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id); /* as a whole, and not a special one */
void bpe(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids); /* appends the ids of one word */

/* ---- encode.c --------------------------------------------------------------------------------------------------- */

Worker *worker_take(const Tokenizer *t);        /* scratch memory for one call; give it back */
void worker_give(const Tokenizer *t, Worker *w);
void worker_free(Worker *w);                    /* NULL: nothing */

typedef void (*TextFn)(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids);
void cut_at_added(const Tokenizer *t, Worker *w, const AddedSet *set, const uint8_t *s, size_t n,
                  bool with_special, Ids *ids, TextFn rest);
