/* parts.h - what the files of this folder share: the pieces of a tokenizer, from bytes to ids. For them and for
 * tokenizer.c alone; everybody else uses tokenizer.h.
 *
 *     unicode.c   UTF-8, the byte alphabet, classes of characters, normal forms
 *     norm.c      text -> text                      split.h    text -> words, the fast way
 *     pretok.c    text -> pieces, the general way   vocab.c    token <-> id, the table of merges
 *     bpe.c       word -> ids                       encode.c   added tokens, the cache of words, all of it in order
 *     decode.c    ids -> text                       load.c     a directory's files -> a Tokenizer, checked
 *     json.c      tokenizer.json                    sentencepiece.c, wordpiece.c   their models and files
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
    if (n >= 3 && (b & 0xF0) == 0xE0 && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80) { /* Chinese, without a loop */
        uint32_t three = (uint32_t)(b & 0xF) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
        if (three >= 0x800 && (three & 0xF800) != 0xD800) return *cp = three, 3;
    }
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

/* Bytes to go on by: a character's, or one; at the text's end one, too. */
static inline size_t char_bytes(const uint8_t *s, size_t n) {
    uint32_t cp;
    int len = n ? utf8_char(s, n, &cp) : 1;
    return len > 0 ? (size_t)len : 1;
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
/* What PCRE2 may not know of a general category ("L", "Nd"), from a code point on: as ranges of a class, appended. */
void newer_ranges(const char *category, uint32_t from, Buf *out);
const uint8_t *char_start_before(const uint8_t *start, const uint8_t *p); /* of the character that ends at p > start */
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
/* Of any two 32-bit numbers; its high bits are the good ones. */
static inline uint64_t pair_hash(uint64_t pair) { return (pair ^ pair >> 32) * 0x9E3779B97F4A7C15ull; }

static inline Merge *merge_slot(const MergeTable *m, uint64_t pair) {
    size_t mask = ((size_t)1 << (64 - m->shift)) - 1;
    size_t i = (size_t)(pair_hash(pair) >> m->shift);
    while ((m->slot[i].pair != pair) & (m->slot[i].pair != NO_PAIR)) i = (i + 1) & mask; /* &: one branch, not two */
    return &m->slot[i];
}

void merges_reserve(MergeTable *m, size_t n);   /* an empty table for n merges; free m->slot */

static inline bool has_bit(const uint64_t *bits, size_t i) { return bits[i / 64] >> (i % 64) & 1; }
static inline void set_bit(uint64_t *bits, size_t i) { bits[i / 64] |= 1ull << (i % 64); }

/* A set of pairs of characters as bits found by a hash, 128 KiB near the core. It may hold more than was put in: one
 * more in twenty, for forty thousand. */
enum { PAIR_BITS = 20, PAIR_WORDS = (1 << PAIR_BITS) / 64 };
static inline size_t pair_bit(uint32_t a, uint32_t b) {
    return (size_t)(pair_hash((uint64_t)a << 32 | b) >> (64 - PAIR_BITS));
}

/* Between which two characters a merge can reach at all: where none can, a text may be cut and its parts looked up in
 * the cache of words. This is what makes BPE without a splitter (Llama-2's) fast. Saying yes too often costs time, not
 * ids. */
typedef struct {
    bool usable;                                 /* false: never cut */
    bool fuse;                                   /* never between two characters that are both unknown either */
    uint64_t bound[0x10000 / 64];                /* characters that can have one behind them; others end a word */
    uint64_t ascii[128][2];                      /* bit b of row a: a token can hold a and b side by side */
    uint64_t *pairs;                             /* of the others, as bits of pair_bit; or NULL: none */
    uint64_t *known;                             /* where fuse: a bit for each character with a token, or NULL: none */
} Joins;

static inline void ids_room(Ids *ids, size_t more) {
    if (ids->cap - ids->n >= more) return;
    ids->cap = ids->cap * 2 > ids->n + more ? ids->cap * 2 : ids->n + more;
    ids->v = xrealloc(ids->v, size_mul(ids->cap, sizeof *ids->v));
}

/* ---- the tokenizer ---------------------------------------------------------------------------------------------- */

/* beyond_model: an id that the model's own vocabulary lacks. */
typedef struct {
    char *text;
    size_t n;
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized, beyond_model;
} AddedToken;
enum { IS_SPECIAL = 1, BEYOND_MODEL = 2 };

/* Tokens to be found in text as they stand, sorted by first byte, then longest first. second[] says which second bytes
 * occur at all: it spares most of the comparisons in a text full of "<". */
typedef struct {
    AddedToken *v;
    int n, n_special;
    int from[257]; /* tokens whose first byte is b are v[from[b]] .. v[from[b + 1] - 1] */
    bool second[256];
} AddedSet;

/* A pre-tokenizer's piece, in the buffer that goes with it. */
typedef struct { size_t from, to; } Piece;

typedef struct Worker Worker;
enum { IDLE_WORKERS = 64 };

/* [tok.parts] How a text becomes ids, as tokenizer.json names the parts: normalizer steps rewrite the text,
 * pre-tokenizer steps cut it into pieces (and may rewrite them), the model makes ids of a piece, the template puts
 * special tokens around them, the decoder makes text of ids. Byte-level BPE with a splitter of split.h goes a shorter
 * way: no pre-tokenizer steps. */
typedef enum { MODEL_BPE, MODEL_UNIGRAM, MODEL_WORDPIECE } ModelKind;

typedef struct Regex Regex;                      /* pretok.c */
typedef struct Charsmap Charsmap;                /* sentencepiece.c */
typedef struct SentencePiece SentencePiece;      /* sentencepiece.c: whatever a tokenizer.model needs, in t->sp */
typedef struct Unigram Unigram;                  /* sentencepiece.c: t->unigram */
typedef struct WordPiece WordPiece;              /* wordpiece.c: t->wordpiece */

typedef struct { bool clean_text, chinese_chars, strip_accents, lowercase; } BertNorm;

typedef enum {
    NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_LOWERCASE, NORM_STRIP, NORM_STRIP_ACCENTS, NORM_PREPEND,
    NORM_REPLACE, NORM_BERT, NORM_CHARSMAP, NORM_SENTENCEPIECE
} NormKind;
typedef struct {
    NormKind kind;
    bool left, right;                            /* STRIP */
    char *find, *put;                            /* REPLACE find, or regex, by put; PREPEND put */
    Regex *regex;
    BertNorm bert;
    Charsmap *charsmap;
} NormStep;

typedef enum { PRE_SPLIT, PRE_BYTE_LEVEL, PRE_METASPACE, PRE_BERT, PRE_WHITESPACE, PRE_WHITESPACE_SPLIT,
               PRE_PUNCTUATION, PRE_DIGITS } PreKind;
typedef enum { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } Behavior;
typedef struct {
    PreKind kind;
    Behavior behavior;
    bool invert;                                 /* SPLIT: what matches is what lies between */
    char *find;                                  /* SPLIT at this string, or at regex; METASPACE: the mark */
    Regex *regex;
    bool prefix, prefix_first, cut;              /* METASPACE: mark before every piece, or the text's first; BYTE_LEVEL:
                                                    prefix: a blank; cut: at marks, or by GPT-2's pattern */
    bool spell;                                  /* BYTE_LEVEL: the piece goes on in the byte alphabet */
} PreStep;

/* What stands around a text, or two: one id, or a place for text A or B (WRAP_A, WRAP_B), each with its token type. */
enum { WRAP_A = -1, WRAP_B = -2 };
typedef struct { int32_t id, type; } WrapItem;
typedef struct { WrapItem *v; int n; } Wrap;

/* How an id is written. Row 0 of text is what it decodes to inside a text, row 1 what it does as a text's first token
 * (at NULL: the same). is_byte: one byte of a character that has no token. What bytes that are no character look like
 * as text depends on the library: one U+FFFD per malformed sequence, per malformed byte, or per byte of a run of
 * is_byte with anything malformed in it. */
typedef enum { BAD_SEQUENCE, BAD_BYTE, BAD_RUN } BadBytes;
typedef struct { Buf bytes; size_t *at; } TokenTexts; /* at [n_ids + 1] */
enum { START_ENDS, START_STAYS, START_OVER };
typedef struct {
    TokenTexts text[2];
    uint8_t *is_byte, *blank_after;              /* [n_ids] or NULL; blank_after: one comes before the next */
    BadBytes bad;
    uint8_t *start;                           /* [n_ids] or NULL: START_ENDS, the text has begun with this token; STAYS:
                                                    the next is still its first; OVER: the next is a first one again */
    int strip;                                   /* so many of strip_char vanish from the start of a text */
    uint32_t strip_char;
} Decoder;

struct Tokenizer {
    Vocab vocab;
    uint8_t *is_special;                         /* [n_ids] IS_SPECIAL, BEYOND_MODEL; neither ever arises from text */
    int n_ids, bos, eos;
    Wrap single, pair;                           /* the post-processor's templates; n 0: the text alone */
    Ids prefix, suffix;                          /* what single puts before and after a text */

    NormStep *norm;
    int n_norm;
    PreStep *pre;                                /* with n_pre > 0, split and add_prefix_space play no part */
    int n_pre;
    bool add_prefix_space;
    Split split;

    ModelKind model;
    bool byte_level;                             /* BPE over bytes; otherwise over characters */
    bool ignore_merges;                          /* a word that is a token is that token */
    bool byte_fallback, fuse_unk;                /* a character without a token: its bytes', or unk; one for a run */
    int32_t byte_id[256], unk;                   /* byte-level: all bytes; byte_fallback: "<0xNN>"; -1: none */
    char *continuing_prefix, *word_suffix;       /* of BPE over characters, or NULL */
    bool note_splits;                            /* what each token was made of is noted: SentencePiece's unused ones
                                                    fall apart again */
    MergeTable merges;
    Joins joins;
    Unigram *unigram;
    WordPiece *wordpiece;
    SentencePiece *sp;

    Decoder decoder;
    AddedSet before_norm, after_norm;            /* added tokens, by the text they are looked for in */

    _Atomic(Worker *) idle[IDLE_WORKERS];        /* scratch memory, lent to one call at a time */
};

/* ---- bpe.c ------------------------------------------------------------------------------------------------------ */

/* A word that the cache below holds: up to 31 bytes that became up to 7 ids, in one cache line. */
enum { CACHE_WORD = 31, CACHE_IDS = 7, CACHE_BITS = 16 };
typedef struct { uint64_t key[4]; int32_t id[CACHE_IDS], n; } CacheSlot;
enum { LONE_IDS = 3 };
typedef struct { int32_t id[LONE_IDS], n; } LoneChar; /* n 0: not asked for yet */

struct Worker {
    CacheSlot *cache;                            /* [1 << CACHE_BITS], 4 MiB; the frequent words stay near the core */
    LoneChar *lone;                              /* [0x10000], 1 MiB, or NULL: of characters that stand alone */
    int32_t *id, *rank, *next, *prev;            /* [cap], for long words */
    uint64_t *heap;
    size_t cap, heap_cap;
    uint64_t *split;                             /* [n_ids] where t->note_splits: the last pair that could make it */
    Buf norm, other;                             /* of normalize */
    Buf prefixed, spelt;                         /* of pretokenize, and of the fast way */
    bool at_start;                               /* the stretch of text in hand begins where the text does */
    Piece *piece, *piece2;                       /* pretok.c's, and PCRE2's scratch memory */
    size_t piece_cap, piece2_cap;
    void *match, *match_context, *jit_stack;
};

/* show prints each step; encode passes NULL. Of the n symbols those at `at` and after it are about to become `into`. */
typedef void (*Trace)(const Tokenizer *t, const int32_t *ids, int n, int at, int32_t rank, int32_t into);

enum { MAX_AFFIX = 32 };                        /* bytes of continuing_prefix and word_suffix, at most */
enum { SHORT_WORD = 96 };                       /* symbols; longer words go another way to the same ids */
int32_t first_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id); /* id holds n; returns how many */
int merge_short(const Tokenizer *t, int32_t *id, int n, Trace trace); /* in place, n <= SHORT_WORD; returns how many */
bool word_is_token(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id); /* as a whole, and not a special one */
void bpe(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids); /* appends the ids of one word */
void joins_add(Joins *j, uint32_t a, uint32_t b); /* a token can hold characters a and b side by side */
void joins_known(Joins *j, uint32_t c);         /* character c has a token (asked for where fuse) */
void joins_from_merges(Tokenizer *t);           /* all of BPE's, once t->merges is complete; sets usable */
bool chars_joined(const Joins *j, uint32_t a, uint32_t b); /* can a token hold a and b (not 0) side by side?
                                                                 true now and then where none can */
/* Where the part of the text ends that begins at p: before a character that no token holds behind the last one's. */
const uint8_t *joined_end(const Joins *j, const uint8_t *p, const uint8_t *end);
/* One piece of text, cut where joins allows, each part through the cache. Serves every model. */
void encode_joined(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids);

/* ---- norm.c, pretok.c: the general way -------------------------------------------------------------------------- */

/* Runs t->norm; leaves s and n alone, or points them into w->norm or w->other. */
void normalize(const Tokenizer *t, Worker *w, const uint8_t **s, size_t *n);
/* false: no match. Dies when more than `limit` bytes are made: norm_limit of the n bytes that the text had at first. */
bool norm_replace(const NormStep *step, Worker *w, const uint8_t *s, size_t n, size_t limit, Buf *out);
size_t norm_limit(size_t n);
void norm_step_free(NormStep *step);
void lowercase(const uint8_t *s, size_t n, Buf *out);                  /* appends; full mappings, no context */
int lower_case(uint32_t cp, uint32_t out[2]);   /* of one character, as of Unicode 17: one or two; returns how many */

/* Compiles a tokenizer.json's pattern; dies on one that PCRE2 does not take. */
Regex *regex_new(const char *pattern, const char *path);
void regex_free(Regex *r);                      /* NULL: nothing */
void regex_scratch_free(Worker *w);
/* The first match in s[at .. n): its place in *from and *to; false: none. Malformed bytes match nothing. */
bool regex_find(const Regex *r, Worker *w, const uint8_t *s, size_t n, size_t at, size_t *from, size_t *to);

/* Runs t->pre. The pieces are w->piece[0 .. result), offsets into *s, which may point into w afterwards. */
size_t pretokenize(const Tokenizer *t, Worker *w, const uint8_t **s, size_t n);
size_t pretokenize_by(const PreStep *steps, int n_steps, Worker *w, const uint8_t **s, size_t n);
void pre_step_free(PreStep *step);

/* ---- encode.c --------------------------------------------------------------------------------------------------- */

Worker *worker_take(const Tokenizer *t);        /* scratch memory for one call; give it back */
void worker_give(const Tokenizer *t, Worker *w);
void worker_free(Worker *w);                    /* NULL: nothing */

/* The words of ordinary text, for show: as pretokenize, with the rules of split.h too. */
size_t words_of(const Tokenizer *t, Worker *w, const uint8_t **s, size_t n);

typedef void (*TextFn)(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids);
void cut_at_added(const Tokenizer *t, Worker *w, const AddedSet *set, const uint8_t *s, size_t n,
                  bool with_special, Ids *ids, TextFn rest);

static inline void cache_key(const uint8_t *p, size_t n, const uint8_t *end, uint64_t key[4]) {
    static const uint8_t ones_then_zeros[64] = {
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    uint64_t mask[4];
    if (end - p >= 32) {
        memcpy(key, p, 32);
        memcpy(mask, ones_then_zeros + 32 - n, 32);
        for (int i = 0; i < 4; i++) key[i] &= mask[i];
    } else {
        memset(key, 0, 32);
        memcpy(key, p, n);
    }
    key[3] |= (uint64_t)n << 56; /* little-endian, as the file formats of this project are: the last byte */
}

static inline CacheSlot *cache_slot(Worker *w, const uint64_t key[4]) {
    uint64_t h = key[0] * 0x9E3779B97F4A7C15ull ^ key[1] * 0xD6E8FEB86659FD93ull ^ key[2] * 0xC2B2AE3D27D4EB4Full ^
                 key[3] * 0xA0761D6478BD642Full;
    return &w->cache[mix(h) >> (64 - CACHE_BITS)];
}

/* The ids of up to WORDS_AT_ONCE words of s through the cache, whose slots, anywhere in 4 MiB, come from memory
 * together; `end` is how far s may be read. On a miss, model_word does the work. For a model that cuts a piece into
 * words itself. */
enum { WORDS_AT_ONCE = 16 };
void encode_cached(const Tokenizer *t, Worker *w, const Piece *word, size_t n_words, const uint8_t *s,
                   const uint8_t *end, Ids *ids);

/* ---- load.c ----------------------------------------------------------------------------------------------------- */

/* Loading: fill vocab (read_token), added tokens (add_token), roles (read_roles), the model's own parts; then
 * finish_tokens, which sets n_ids and is_special, and decoder_build. */
typedef struct {
    Tokenizer *t;
    const char *dir, *path;                      /* path: the file in hand, for messages */
    AddedToken *added;
    int n_added;
    int *added_at;                               /* [n_added_at] by id: 1 + its place in added, 0: none */
    size_t n_added_at;
    int missing_bytes;                           /* of a byte-level vocabulary */
} Loader;
void read_token(Loader *l, const char *text, size_t n, uint32_t id); /* dies: an id or a text that is taken */
void add_token(Loader *l, AddedToken a);        /* copies a.text; in the vocabulary already, or a new id */
void read_added_tokens(Loader *l);              /* added_tokens.json, if there is one: {token: id} */
void read_roles(Loader *l);                     /* bos, eos from tokenizer_config.json, or special_tokens_map.json, if
                                                   there is one; all tokens that it names become special */
void finish_tokens(Loader *l);
bool is_added(const Loader *l, int32_t id);
/* What decoders see: an added token that is looked for in normalised text is written so, too. After finish_tokens. */
const char *token_name(const Loader *l, int32_t id, size_t *n);
/* The decoder's texts: write appends what id is written as; by_position: in two ways, first: at a text's beginning. */
typedef void TokenWriter(const Loader *l, int32_t id, bool first, const void *state, Buf *out);
void decoder_build(Loader *l, bool by_position, TokenWriter *write, const void *state);
TokenWriter write_bytes;                        /* byte-level: the bytes that the token spells; an added token itself */
void norm_add(Tokenizer *t, NormStep step);     /* which t owns from now on */
void read_merge(Loader *l, size_t rank, const char *a, size_t n_a, const char *b, size_t n_b, Buf *joined);
bool base64_decode(const char *s, size_t n, Buf *out); /* appends; false: it is not base64 */
void load_tokenizer_json(Loader *l);            /* json.c */
void wrap_add(Wrap *w, int32_t id, int32_t type); /* or WRAP_A, WRAP_B; t->prefix and suffix follow from single */

/* ---- sentencepiece.c -------------------------------------------------------------------------------------------- */

/* tokenizer.model or ice_text.model in l->path, a SentencePiece proto: everything, finish_tokens and decoder_build
 * included. Its own normaliser runs as one step, NORM_SENTENCEPIECE (w->at_start: whether the text begins here). */
void sentencepiece_load(Loader *l);
void sentencepiece_normalize(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Buf *out);
void sentencepiece_free(SentencePiece *sp);
/* first_symbols where t->sp: at most n ids; some may lie past the vocabulary. */
int32_t sentencepiece_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id);
/* The character that such an id past the vocabulary stands for, U+FFFD for any unknown one; returns its bytes. */
size_t sentencepiece_past(const Tokenizer *t, int32_t id, char out[4]);
/* After the merges: ids from `from` on that are no tokens become some. split: w->split where t->note_splits. */
void sentencepiece_finish(const Tokenizer *t, const uint64_t *split, size_t from, Ids *ids);
void sentencepiece_text(const Tokenizer *t, size_t from, Buf *out); /* what is still to be done to out[from ..) */

/* Unigram, also tokenizer.json's: score [n_ids] (double there), unk an id or -1; unknown characters in a row are one
 * unk (or, with t->byte_fallback, the bytes of all of them). Called after the vocabulary is complete. */
Unigram *unigram_new(const Tokenizer *t, const double *score, int32_t unk);
void unigram_free(Unigram *u);
void unigram_encode(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids); /* one piece, appended */

Charsmap *charsmap_new(const void *blob, size_t n, const char *path); /* copies; dies on a blob that is not sound */
void charsmap_free(Charsmap *c);
/* The shortest key that s begins with: its length, and its text in *put. 0: none. (tokenizer.json's Precompiled.) */
size_t charsmap_shortest(const Charsmap *c, const uint8_t *s, size_t n, const char **put, size_t *n_put);

/* ---- wordpiece.c ------------------------------------------------------------------------------------------------ */

void wordpiece_load(Loader *l);                 /* vocab.txt in l->path: everything, as above */
WordPiece *wordpiece_new(const Tokenizer *t, const char *continuing_prefix, int32_t unk, size_t max_chars);
void wordpiece_free(WordPiece *m);
void wordpiece_encode(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids); /* one piece, appended */
void bert_normalize(BertNorm how, const uint8_t *s, size_t n, Buf *out); /* appends */
/* Cuts s as BertPreTokenizer does: up to max pieces, white space left out, into pieces (offsets into s, from *at on);
 * moves *at; returns how many, 0 at the end. */
size_t bert_split(const uint8_t *s, size_t n, size_t *at, Piece *pieces, size_t max);
bool bert_punctuation(uint32_t cp);             /* ASCII's signs and category P of Unicode 8: what BertPreTokenizer and
                                                   tokenizer.json's Punctuation cut at */
/* WordPiece decoder: how id is written; cleanup is done on the token alone, as the library does it. */
void wordpiece_write(const char *token, size_t n, const char *prefix, bool cleanup, bool first, Buf *out);
