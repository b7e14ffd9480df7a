/* tokenizer.c - stage 1: text becomes numbers, numbers become text.
 *
 * A language model sees integers. This stage learns which pieces of text deserve a number of their own (train), turns
 * text into those numbers (encode) and back (decode), and shows how it got there (show). The method is byte-level BPE,
 * byte pair encoding: start from the 256 bytes, so that no text is ever unknown, and let training find which two
 * neighbours are most often seen together; they become one new token, and so on until the vocabulary is full.
 * Encoding replays those merges, oldest first.
 *
 *     ./tokenizer train --data corpus.txt --vocab 32000 --out my-tokenizer      a directory Hugging Face loads
 *     ./tokenizer train --data corpus:5M --vocab 4096 --out out/tok             a laptop: seconds, built-in corpus
 *     ./tokenizer show --model out/tok --text "The cat's 12 hats"               how BPE works, merge by merge
 *     ./tokenizer encode --model out/tok --text "The cat" | ./tokenizer decode --model out/tok
 *
 * Map, in the order in which a text meets the parts:
 *     [tok.bytes]   UTF-8, and the alphabet in which vocabulary files spell bytes
 *     [tok.class]   letters, numbers, white space: what Unicode says of a character
 *     [tok.split]   text -> words, by the rules of GPT-2 and of Llama-3 (no merge crosses a word's border)
 *     [tok.vocab]   token <-> id; the table of merges
 *     [tok.bpe]     word -> ids: the lowest-ranked merge first; the same for very long words
 *     [tok.cache]   most words have been seen before
 *     [tok.norm]    one spelling for accented characters (NFC), where a tokenizer asks for it
 *     [tok.added]   special tokens: found before anything else, and only where the caller allows
 *     [tok.encode]  all of it, in order        [tok.decode]  ids -> bytes -> whole characters
 *     [tok.load]    tokenizer.json, or vocab.json and merges.txt: checked here, trusted above
 *     [tok.train]   counting words, then merging the most frequent pair, thousands of times
 *     [tok.show]    the same encoding, printed step by step         [tok.main]    the command line
 *
 * The ids are those of Hugging Face's tokenizers and of tiktoken, for every text; the merges learnt are those of
 * Hugging Face's BpeTrainer. Bytes that are not UTF-8 go through unharmed: decode(encode(x)) is x for any x.
 *
 * What this file refuses to do: guess. A tokenizer.json with a part it does not know (WordPiece, Unigram, Metaspace,
 * another split pattern) ends in a sentence naming the part; BOS and EOS are the caller's business; and text that
 * merely looks like a special token never becomes one unless the caller says so, because that text may come from a
 * stranger. */
#include "tokenizer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Ids index arrays, so a file's largest id decides how much memory we ask for: published vocabularies end below
 * 300,000, and a "vocabulary" of 2^31 with three tokens is an attack or a mistake. */
enum { MAX_IDS = 1 << 22 };

/* [tok.bytes] bytes and characters --------------------------------------------------------------------------------- */

/* The well-formed character at s (n > 0 bytes): its length, its code point in *cp. 0 when the bytes end inside a
 * character that is well-formed so far. Otherwise minus the length of the malformed part: the longest beginning of
 * some character, at least one byte, which is what every decoder that writes U+FFFD replaces by one (Unicode, table
 * 3-7). Overlong forms, surrogates and code points past 10FFFF are malformed: the second byte's range excludes them. */
static int utf8_char(const uint8_t *s, size_t n, uint32_t *cp) {
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

static int utf8_put(uint32_t cp, char out[4]) { return (int)utf8proc_encode_char((int32_t)cp, (uint8_t *)out); }

/* JSON strings hold characters, not bytes, and a blank or a control character in a vocabulary file is a nuisance. So
 * GPT-2's files spell each byte as a printable character: the printable Latin-1 ones as themselves, the other 68, in
 * order, as U+0100 onward. The space is U+0120, which is the "Ġ" in front of so many tokens. */
static uint32_t char_of_byte[256];
static int16_t byte_of_char[0x144];

static void alphabet_build(void) {
    memset(byte_of_char, -1, sizeof byte_of_char);
    uint32_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        char_of_byte[b] = printable ? (uint32_t)b : next++;
        byte_of_char[char_of_byte[b]] = (int16_t)b;
    }
}

static size_t spell(const uint8_t *bytes, size_t n, char *out) { /* into at most 2 * n bytes; returns how many */
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = char_of_byte[bytes[i]];
        if (c >= 0x80) *p++ = (char)(0xC0 | c >> 6), c = 0x80 | (c & 0x3F);
        *p++ = (char)c;
    }
    return (size_t)(p - out);
}

static bool unspell(const char *s, size_t n, Buf *out) { /* false: a character outside the alphabet */
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)s + i, n - i, &cp);
        if (len <= 0 || cp >= 0x144 || byte_of_char[cp] < 0) return false;
        buf_add(out, &(uint8_t){(uint8_t)byte_of_char[cp]}, 1);
        i += (size_t)len;
    }
    return true;
}

/* [tok.class] what Unicode says of a character --------------------------------------------------------------------- */

/* The patterns know four things: \p{L}, \p{N}, \s, and \r\n, which is a kind of \s. Everything else is OTHER. */
enum { OTHER = 0, LETTER = 1, NUMBER = 2, SPACE = 4, NEWLINE = 8 | SPACE };

/* Letters and numbers of Unicode 15.1 and 16, which the distribution's utf8proc (2.8 has 15.0) may not know, while the
 * libraries whose ids we reproduce do. An id must not depend on which utf8proc is installed. */
static const struct { uint32_t first, last; uint8_t class; } newer_chars[] = {
    {0x1C89, 0x1C8A, LETTER},   {0xA7CB, 0xA7CD, LETTER},   {0xA7DA, 0xA7DC, LETTER},   {0x105C0, 0x105F3, LETTER},
    {0x10D40, 0x10D49, NUMBER}, {0x10D4A, 0x10D65, LETTER}, {0x10D6F, 0x10D85, LETTER}, {0x10EC2, 0x10EC4, LETTER},
    {0x11380, 0x11389, LETTER}, {0x1138B, 0x1138B, LETTER}, {0x1138E, 0x1138E, LETTER}, {0x11390, 0x113B5, LETTER},
    {0x113B7, 0x113B7, LETTER}, {0x113D1, 0x113D1, LETTER}, {0x113D3, 0x113D3, LETTER}, {0x116D0, 0x116E3, NUMBER},
    {0x11BC0, 0x11BE0, LETTER}, {0x11BF0, 0x11BF9, NUMBER}, {0x13460, 0x143FA, LETTER}, {0x16100, 0x1611D, LETTER},
    {0x16130, 0x16139, NUMBER}, {0x16D40, 0x16D6C, LETTER}, {0x16D70, 0x16D79, NUMBER}, {0x18CFF, 0x18CFF, LETTER},
    {0x1CCF0, 0x1CCF9, NUMBER}, {0x1E5D0, 0x1E5ED, LETTER}, {0x1E5F0, 0x1E5F0, LETTER}, {0x1E5F1, 0x1E5FA, NUMBER},
    {0x2EBF0, 0x2EE5D, LETTER}};

static uint8_t class_look_up(uint32_t cp) {
    if (cp == '\r' || cp == '\n') return NEWLINE;
    /* \s is the property White_Space, which is not the category Z: it has the tab and U+0085 as well. */
    if ((cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
        (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000)
        return SPACE;
    switch (utf8proc_category((int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO: return LETTER;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO: return NUMBER;
    default: break;
    }
    for (size_t i = 0; i < sizeof newer_chars / sizeof *newer_chars; i++)
        if (cp >= newer_chars[i].first && cp <= newer_chars[i].last) return newer_chars[i].class;
    return OTHER;
}

static uint8_t bmp_class[0x10000]; /* the plane that nearly all text lives in: 64 KiB, a millisecond to fill */

static void tables_build(void) {
    alphabet_build();
    for (uint32_t cp = 0; cp < 0x10000; cp++) bmp_class[cp] = class_look_up(cp);
}

static void tables_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, tables_build);
}

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

/* [tok.split] text -> words ----------------------------------------------------------------------------------------- *
 * Merges never cross the border of a word, so a word's ids do not depend on its neighbours, and the sentence
 * "dog. dog! dog?" cannot fill the vocabulary with "dog.", "dog!" and "dog?". What a word is, is said by a regular
 * expression. Both below are written out by hand, because a regex engine is ten times slower than all the rest here.
 * They look only forward from where the last word ended, so a text may be cut wherever a word ends and the parts
 * split apart: training does that to use all cores. */
typedef enum { SPLIT_NONE, SPLIT_GPT2, SPLIT_LLAMA3 } SplitKind;
typedef struct { SplitKind kind; int max_digits; } Split;

static const char GPT2_PATTERN[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* Llama-3 takes digits by threes, Qwen one at a time: the rest is the same. */
static const char LLAMA3_PATTERN[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char QWEN_PATTERN[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                   " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* How many of the eight bytes at p, from the first on, are ASCII letters. All eight at once in one register: a loop
 * would end in a mispredicted branch at every word, and that costs more than the arithmetic. */
static inline int ascii_letters(const uint8_t *p) {
    const uint64_t ones = 0x0101010101010101ull, high = ones << 7;
    uint64_t x;
    memcpy(&x, p, 8);
    uint64_t low = (x | ones * 0x20) & ~high;                       /* to lower case; 7 bits, so that no sum carries */
    uint64_t from_a = low + ones * (0x80 - 'a'), past_z = low + ones * (0x7F - 'z');
    uint64_t others = ~(from_a & ~past_z & ~x) & high;              /* the high bit of each byte that is no letter */
    return others ? __builtin_ctzll(others) / 8 : 8;
}

/* The end of the run of one class that begins at p. */
static inline const uint8_t *run_of(int class, const uint8_t *p, const uint8_t *end) {
    if (class == LETTER) {
        int n = 8;
        while (n == 8 && end - p >= 8) p += n = ascii_letters(p);
    }
    for (;;) {
        while (p < end && *p < 0x80 && bmp_class[*p] == class) p++;
        int len;
        if (p == end || *p < 0x80 || class_at(p, end, &len) != class) return p;
        p += len;
    }
}

/* 's 't 're 've 'm 'll 'd, or 0. Without regard to case, ſ (U+017F, bytes C5 BF) is an s: that is Unicode's folding,
 * and the libraries apply it. */
static inline size_t contraction(const uint8_t *p, const uint8_t *end, bool any_case) {
    if (end - p < 2) return 0;
    uint8_t a = p[1], b = end - p > 2 ? p[2] : 0;
    if (any_case) {
        if (a == 0xC5 && b == 0xBF) return 3;
        if (a >= 'A' && a <= 'Z') a |= 0x20;
        if (b >= 'A' && b <= 'Z') b |= 0x20;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* White space from p on. \s+(?!\S) is greedy and then gives one character back if a non-space follows it: that last
 * blank belongs to the word it stands before. Where through_newline, a run with line breaks ends at its last one. */
static const uint8_t *white_space(const uint8_t *p, const uint8_t *end, bool through_newline) {
    const uint8_t *last = p, *after_newline = NULL, *q = p;
    for (int class, len; q < end && (class = class_at(q, end, &len)) & SPACE; q += len) {
        last = q;
        if (class == NEWLINE) after_newline = q + 1;
    }
    if (through_newline && after_newline) return after_newline;
    return q == end || last == p ? q : last;
}

/* The end of the first word of p..end (not empty): the branches stand in the pattern's order, as its alternatives are
 * tried in that order. */
static inline const uint8_t *word_gpt2(const uint8_t *p, const uint8_t *end) {
    if (*p == '\'') {
        size_t n = contraction(p, end, false);
        if (n) return p + n;
    }
    const uint8_t *q = p + (*p == ' ');
    if (q < end) {
        int len, class = class_at(q, end, &len);
        if (!(class & SPACE)) return run_of(class, q + len, end); /* " ?\p{L}+" and its two sisters */
    }
    return white_space(p, end, false);
}

static inline const uint8_t *word_llama3(const uint8_t *p, const uint8_t *end, int max_digits) {
    if (*p == '\'') {
        size_t n = contraction(p, end, true);
        if (n) return p + n;
    }
    int len, class = class_at(p, end, &len);
    const uint8_t *q = p + len;
    if (class == LETTER) return run_of(LETTER, q, end);
    if (class == NUMBER) {
        for (int n = 1; n < max_digits && q < end && class_at(q, end, &len) == NUMBER; n++) q += len;
        return q;
    }
    int next_len, next = q < end ? class_at(q, end, &next_len) : SPACE;
    if (class != NEWLINE && next == LETTER) return run_of(LETTER, q + next_len, end); /* any one character may lead */
    if (*p == ' ' && next == OTHER) class = OTHER, q += next_len;
    if (class == OTHER) {
        q = run_of(OTHER, q, end);
        while (q < end && (*q == '\r' || *q == '\n')) q++;
        return q;
    }
    return white_space(p, end, true);
}

static inline const uint8_t *word_end(Split split, const uint8_t *p, const uint8_t *end) {
    return split.kind == SPLIT_LLAMA3 ? word_llama3(p, end, split.max_digits)
         : split.kind == SPLIT_GPT2   ? word_gpt2(p, end)
                                      : end;
}

/* [tok.vocab] tokens, ids and merges ------------------------------------------------------------------------------- */

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

static int32_t vocab_find(const Vocab *v, const char *s, size_t n) {
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
static void vocab_add(Vocab *v, const char *s, size_t n, uint32_t id) {
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

static const char *vocab_str(const Vocab *v, int32_t id) { return v->pool.data + v->spelling[id].at; }

static void vocab_free(Vocab *v) {
    buf_free(&v->pool);
    free(v->spelling);
    free(v->slot);
}

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

/* ---- the tokenizer --------------------------------------------------------------------------------------------- */

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

int tokenizer_vocab(const Tokenizer *t) { return t->n_ids; }
int tokenizer_id(const Tokenizer *t, const char *token) { return vocab_find(&t->vocab, token, strlen(token)); }
int tokenizer_bos(const Tokenizer *t) { return t->bos; }
int tokenizer_eos(const Tokenizer *t) { return t->eos; }
bool tokenizer_adds_bos(const Tokenizer *t) { return t->prefix.n && t->prefix.v[0] == t->bos; }
const Ids *tokenizer_prefix(const Tokenizer *t) { return &t->prefix; }
bool tokenizer_is_special(const Tokenizer *t, int id) { return id >= 0 && id < t->n_ids && t->is_special[id]; }

size_t tokenizer_word(const Tokenizer *t, const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    return n ? (size_t)(word_end(t->split, s, s + n) - s) : 0;
}

void ids_add(Ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        ids->cap = ids->cap ? ids->cap * 2 : 64;
        ids->v = xrealloc(ids->v, size_mul(ids->cap, sizeof *ids->v));
    }
    ids->v[ids->n++] = id;
}

static inline void ids_room(Ids *ids, size_t more) {
    if (ids->cap - ids->n >= more) return;
    ids->cap = ids->cap * 2 > ids->n + more ? ids->cap * 2 : ids->n + more;
    ids->v = xrealloc(ids->v, size_mul(ids->cap, sizeof *ids->v));
}

void ids_free(Ids *ids) {
    free(ids->v);
    *ids = (Ids){0};
}

/* [tok.bpe] a word -> ids ------------------------------------------------------------------------------------------ */

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

/* The definition of BPE: of all neighbouring pairs take the one learnt first, leftmost among equals, replace it, and
 * again, until no pair is left that was ever learnt. Each round looks at all pairs, O(n^2) in all; at the length of
 * words that is faster than anything clever. merge[i] is that of the pair (i, i + 1), its rank in the upper half, what
 * it makes in the lower: one comparison finds the rank, one copy moves both. Returns the number of ids. */
enum { SHORT_WORD = 96 };

static inline uint64_t merge_of(const Tokenizer *t, int32_t left, int32_t right) {
    const Merge *m = merge_slot(&t->merges, pair_of(left, right));
    return (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)m->id;
}

static int merge_short(const Tokenizer *t, int32_t *id, int n, Trace trace) {
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

static bool word_is_token(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    char room[512], *spelt = 2 * n <= sizeof room ? room : xmalloc(2 * n);
    spelt[0] = 0; /* for the compiler, which cannot see that no word is empty */
    size_t n_spelt = spell(s, n, spelt);
    *id = vocab_find(&t->vocab, spelt, n_spelt);
    if (spelt != room) free(spelt);
    return *id >= 0 && !t->is_special[*id]; /* the text of a special token is ordinary text here */
}

/* The symbols that a word starts from. A byte without a token (no published byte-level vocabulary lacks one, but
 * files exist) becomes the unknown token, or vanishes where there is none, as it does in Hugging Face's. */
static int32_t first_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    int32_t n_id = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t one = t->byte_id[s[i]] >= 0 ? t->byte_id[s[i]] : t->unk;
        id[n_id] = one;
        n_id += one >= 0;
    }
    return n_id;
}

static void bpe(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
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

/* [tok.cache] words seen before ------------------------------------------------------------------------------------- *
 * Text repeats itself: of ten words nine are among the last thousands seen, so most of the work is looking up. The key
 * is the word itself, padded with zeros, its length in the last byte; the loads run over the word's end and a mask
 * clears what is not its own, which costs less than a loop over five bytes. One place per hash, newest wins. */
static Worker *worker_take(const Tokenizer *t) {
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

static void worker_free(Worker *w) {
    if (!w) return;
    free(w->cache);
    free(w->id);
    free(w->rank);
    free(w->next);
    free(w->prev);
    free(w->heap);
    buf_free(&w->norm);
    buf_free(&w->prefixed);
    free(w);
}

static void worker_give(const Tokenizer *t, Worker *w) {
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

static inline void encode_word(const Tokenizer *t, Worker *w, const uint8_t *p, size_t n, const uint8_t *end,
                               Ids *ids) {
    if (n > CACHE_WORD) {
        bpe(t, w, p, n, ids);
        return;
    }
    uint64_t key[4];
    cache_key(p, n, end, key);
    CacheSlot *c = cache_slot(w, key);
    ids_room(ids, CACHE_IDS);
    if (c->key[0] == key[0] && c->key[1] == key[1] && c->key[2] == key[2] && c->key[3] == key[3]) {
        memcpy(ids->v + ids->n, c->id, sizeof c->id); /* always seven: a copy of fixed size has no branch */
        ids->n += (size_t)c->n;
        return;
    }
    size_t before = ids->n;
    bpe(t, w, p, n, ids);
    if (ids->n - before > CACHE_IDS) return;
    memcpy(c->key, key, sizeof c->key);
    c->n = (int32_t)(ids->n - before);
    memcpy(c->id, ids->v + before, sizeof *c->id * (size_t)c->n);
}

/* [tok.norm] one spelling per character ----------------------------------------------------------------------------- *
 * "é" may be one character or an e with an accent that follows it. NFC makes it one. Only around characters that can
 * take part in such a change (suspects) is there anything to do; all other text is copied as it is. */
/* Marks younger than Unicode 9, the version whose NFC the reference library has: it leaves them where they stand. */
static const struct { uint32_t first, last; } young_marks[] = {
    {0x7FD, 0x7FD}, {0x897, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xC3C, 0xC3C}, {0xD3B, 0xD3C}, {0xEBA, 0xEBA},
    {0x1715, 0x1715}, {0x1ABF, 0x1ADF}, {0x1DF6, 0x1DFA}, {0xA82C, 0xA82C}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D},
    {0x10EAB, 0x10EAC}, {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x113B8, 0x113E2}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1611E, 0x1612F},
    {0x16D63, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}};

enum { NFC_BASE, NFC_SUSPECT, NFC_BARRIER }; /* a barrier neither changes nor is joined by what follows it */

static int nfc_kind(uint32_t cp) {
    if (cp < 0x300) return NFC_BASE;
    if (cp >= 0x1160 && cp <= 0x11FF) return NFC_SUSPECT; /* Hangul vowels and finals join the syllable before them */
    const utf8proc_property_t *p = utf8proc_get_property((int32_t)cp);
    if (!p->combining_class && p->category != UTF8PROC_CATEGORY_MN && p->category != UTF8PROC_CATEGORY_MC &&
        (p->decomp_seqindex == UINT16_MAX || p->decomp_type != 0))
        return NFC_BASE;
    for (size_t i = 0; i < sizeof young_marks / sizeof *young_marks; i++)
        if (cp >= young_marks[i].first && cp <= young_marks[i].last) return NFC_BARRIER;
    return NFC_SUSPECT;
}

static void nfc_append(const uint8_t *s, size_t n, Buf *out) {
    uint8_t *composed;
    ssize_t len = utf8proc_map(s, (ssize_t)n, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len < 0) die("NFC of %zu bytes: %s", n, utf8proc_errmsg(len));
    buf_add(out, composed, (size_t)len);
    free(composed);
}

/* Leaves s and n alone when nothing changes; otherwise they are the text in out. A region that needs work runs from
 * the last ordinary character, which the suspects may join, to the next one. Malformed bytes stand for themselves. */
static void nfc(const uint8_t **s, size_t *n, Buf *out) {
    const uint8_t *text = *s;
    size_t copied = 0, base = 0; /* all before `copied` is in out; base: the last ordinary character */
    bool dirty = false;
    out->len = 0;
    for (size_t i = 0; i <= *n;) {
        uint32_t cp;
        int len = i < *n ? utf8_char(text + i, *n - i, &cp) : 0;
        int kind = len > 0 ? nfc_kind(cp) : NFC_BARRIER; /* malformed bytes, and the end of the text */
        if (kind == NFC_SUSPECT) {
            dirty = true;
            i += (size_t)len;
            continue;
        }
        if (dirty) {
            buf_add(out, text + copied, base - copied);
            nfc_append(text + base, i - base, out);
            copied = i;
            dirty = false;
        }
        size_t next = i + (len > 0 ? (size_t)len : 1);
        base = kind == NFC_BASE ? i : next;
        i = next;
    }
    if (!copied) return;
    buf_add(out, text + copied, *n - copied);
    *s = (const uint8_t *)out->data, *n = out->len;
}

/* [tok.added] added tokens ----------------------------------------------------------------------------------------- */

/* \w: letters, marks, decimal digits, joining punctuation and joiners, and the circled letters. */
static bool is_word_char(uint32_t cp) {
    switch (utf8proc_category((int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    return class_look_up(cp) == LETTER || cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
}

static uint32_t char_after(const uint8_t *p, const uint8_t *end) {
    uint32_t cp;
    return p < end && utf8_char(p, (size_t)(end - p), &cp) > 0 ? cp : 0xFFFD;
}

static const uint8_t *char_start_before(const uint8_t *start, const uint8_t *p) { /* start < p */
    const uint8_t *q = p - 1;
    while (q > start && p - q < 4 && (*q & 0xC0) == 0x80) q--;
    uint32_t cp;
    return utf8_char(q, (size_t)(p - q), &cp) == p - q ? q : p - 1;
}

/* The longest added token that begins at p, or NULL. */
static const AddedToken *added_at(const AddedSet *set, const uint8_t *p, size_t n) {
    for (int i = set->from[*p]; i < set->from[*p + 1]; i++) {
        if (n > 1 && !set->second[p[1]] && set->v[i].n > 1) continue;
        if (set->v[i].n <= n && !memcmp(set->v[i].text, p, set->v[i].n)) return &set->v[i];
    }
    return NULL;
}

typedef void (*TextFn)(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids);

/* Cuts s at the tokens of set; what lies between goes to rest. A special token that may not be recognised is passed
 * over whole, so that no shorter token is found inside it. */
static void cut_at_added(const Tokenizer *t, Worker *w, const AddedSet *set, const uint8_t *s, size_t n,
                         bool with_special, Ids *ids, TextFn rest) {
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
        if (from > done) rest(t, w, done, (size_t)(from - done), with_special, ids);
        ids_add(ids, a->id);
        done = to;
        if (p < done) p = done;
    }
    if (done < end) rest(t, w, done, (size_t)(end - done), with_special, ids);
}

/* [tok.encode] text -> ids ----------------------------------------------------------------------------------------- */

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
    case SPLIT_NONE: encode_word(t, w, s, n, end, ids); break;
    }
}

/* Between the tokens found in the text as it came: normalise, then look for those that want normalised text. */
static void encode_normalized(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    if (t->nfc) nfc(&s, &n, &w->norm);
    cut_at_added(t, w, &t->after_norm, s, n, with_special, ids, encode_plain);
}

void tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool with_special, Ids *ids) {
    Worker *w = worker_take(t);
    cut_at_added(t, w, &t->before_norm, (const uint8_t *)text, n, with_special, ids, encode_normalized);
    worker_give(t, w);
}

/* [tok.decode] ids -> text ----------------------------------------------------------------------------------------- */

static void check_id(const Tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n_ids) die("token id %d is outside the vocabulary (0 to %d)", id, t->n_ids - 1);
}

const char *tokenizer_token(const Tokenizer *t, int id, size_t *n) {
    check_id(t, id);
    *n = t->bytes_at[id + 1] - t->bytes_at[id];
    return t->token_bytes.data + t->bytes_at[id];
}

void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = tokenizer_token(t, ids[i], &len);
        if (!(skip_special && t->is_special[ids[i]])) buf_add(out, bytes, len);
    }
}

/* A token may end in the middle of a character: the bytes so far wait in pending until the next token completes them
 * or shows that nothing can. */
static void stream_byte(Utf8Stream *s, uint8_t byte, Buf *out) {
    s->pending[s->n++] = byte;
    uint32_t cp;
    int len = utf8_char(s->pending, (size_t)s->n, &cp);
    if (!len) return;
    if (len > 0) {
        buf_add(out, s->pending, (size_t)len);
        s->n = 0;
        return;
    }
    bool byte_begins_anew = s->n > 1; /* it broke the character before it, but may itself begin one */
    buf_str(out, "\xEF\xBF\xBD");
    s->n = 0;
    if (byte_begins_anew) stream_byte(s, byte, out);
}

void tokenizer_decode_stream(const Tokenizer *t, Utf8Stream *s, int32_t id, Buf *out) {
    if (id == -1) {
        if (s->n) buf_str(out, "\xEF\xBF\xBD");
        s->n = 0;
        return;
    }
    size_t n;
    const char *bytes = tokenizer_token(t, id, &n);
    for (size_t i = 0; i < n; i++) stream_byte(s, (uint8_t)bytes[i], out);
}

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

static void merges_reserve(MergeTable *m, size_t n) {
    m->shift = 60;
    while ((size_t)1 << (64 - m->shift) < n * 3) m->shift--; /* a third full at most: seldom a second look */
    size_t slots = (size_t)1 << (64 - m->shift);
    m->slot = xmalloc(size_mul(slots, sizeof *m->slot));
    for (size_t i = 0; i < slots; i++) m->slot[i] = (Merge){NO_PAIR, NO_MERGE, -1};
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

/* [tok.train] learning the merges ----------------------------------------------------------------------------------- *
 * Two steps. Count the distinct words of the corpus: however large it is, they are few (memory follows their number,
 * not the corpus). Then, with each word a row of symbols: find the pair of neighbours with the highest count, make it
 * a token, replace it in every word that has it, correct the counts around it, repeat.
 *
 * The result is that of Hugging Face's BpeTrainer to the last byte of the file, which takes care in three places:
 *   - ties go to the pair with the smaller ids;
 *   - the count of a pair that has been merged is never taken back, and the counts in "aaa" (two overlapping pairs)
 *     change in the order in which the replacement walks the word;
 *   - a pair may make a token that exists (a special one: "the" from t + he). It keeps its id, and the pairs around it
 *     may stand in the queue more than once, each entry with the words found since the one before. */

/* Step 1: how often does each word occur? */
typedef struct { uint64_t hash; int64_t count; size_t at; uint32_t n; } Word;
typedef struct { Word *v; size_t n, cap; uint64_t *slot; size_t n_slots; Buf pool; } WordTable;

static void words_count(WordTable *w, const uint8_t *s, size_t n, uint64_t hash, int64_t count) {
    if (w->n * 2 >= w->n_slots) {
        w->n_slots = w->n_slots ? w->n_slots * 2 : 1 << 14;
        free(w->slot);
        w->slot = xcalloc(w->n_slots, sizeof *w->slot);
        for (size_t k = 0; k < w->n; k++) {
            size_t i = w->v[k].hash & (w->n_slots - 1);
            while (w->slot[i]) i = (i + 1) & (w->n_slots - 1);
            w->slot[i] = k + 1;
        }
    }
    size_t i = hash & (w->n_slots - 1);
    for (; w->slot[i]; i = (i + 1) & (w->n_slots - 1)) {
        Word *e = &w->v[w->slot[i] - 1];
        if (e->hash == hash && e->n == n && !memcmp(w->pool.data + e->at, s, n)) {
            e->count += count;
            return;
        }
    }
    if (n > INT32_MAX) die("one word of the training text is %zu bytes long; at most %d are possible", n, INT32_MAX);
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 4096;
        w->v = xrealloc(w->v, size_mul(w->cap, sizeof *w->v));
    }
    w->v[w->n] = (Word){hash, count, w->pool.len, (uint32_t)n};
    buf_add(&w->pool, s, n);
    w->slot[i] = ++w->n;
}

static void words_free(WordTable *w) {
    free(w->v);
    free(w->slot);
    buf_free(&w->pool);
}

static void count_text(WordTable *w, Split split, const uint8_t *p, const uint8_t *end) {
    for (const uint8_t *next; p < end; p = next) {
        next = word_end(split, p, end);
        words_count(w, p, (size_t)(next - p), hash_bytes(p, (size_t)(next - p)), 1);
    }
}

/* Where a long text can be cut for another thread: between a letter and a blank or line break there is always a
 * border of words, and the rules look only forward from it. */
static const uint8_t *safe_cut(const uint8_t *p, const uint8_t *end) {
    for (; p < end; p++) {
        uint8_t before = p[-1] | 0x20;
        if ((*p == ' ' || *p == '\n') && before >= 'a' && before <= 'z') return p;
    }
    return end;
}

typedef struct { const uint8_t *from, *to; } Piece;
enum { PIECE_BYTES = 1 << 18, BATCH_BYTES = 1 << 25 };

/* Sums are per word and order plays no part, so the threads' tables can be added up in any order. */
static void count_pieces(WordTable *tables, Split split, const Piece *pieces, int n) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < n; i++) {
#ifdef _OPENMP
        count_text(&tables[omp_get_thread_num()], split, pieces[i].from, pieces[i].to);
#else
        count_text(&tables[0], split, pieces[i].from, pieces[i].to);
#endif
    }
}

typedef struct { size_t from, to; } Range; /* of a batch that may still move as it grows */
typedef struct { Range *v; size_t n, cap; } Ranges;

static void cut_document(Ranges *r, const uint8_t *base, size_t from, size_t to) {
    while (from < to) {
        size_t stop = to - from <= PIECE_BYTES ? to : (size_t)(safe_cut(base + from + PIECE_BYTES, base + to) - base);
        if (r->n == r->cap) {
            r->cap = r->cap ? r->cap * 2 : 256;
            r->v = xrealloc(r->v, size_mul(r->cap, sizeof *r->v));
        }
        r->v[r->n++] = (Range){from, stop};
        from = stop;
    }
}

static void count_batch(WordTable *tables, Split split, const uint8_t *base, Ranges *r) {
    Piece *pieces = xmalloc(size_mul(r->n + 1, sizeof *pieces));
    for (size_t i = 0; i < r->n; i++) pieces[i] = (Piece){base + r->v[i].from, base + r->v[i].to};
    if (r->n > INT_MAX) die("too many documents in one batch");
    count_pieces(tables, split, pieces, (int)r->n);
    free(pieces);
    r->n = 0;
}

static WordTable count_words(TextSource src, Split split, double *bytes) {
    int n_threads = 1;
#ifdef _OPENMP
    n_threads = omp_get_max_threads();
#endif
    WordTable *tables = xcalloc((size_t)n_threads, sizeof *tables);
    Buf batch = {0};
    Ranges ranges = {0};
    Progress bar = progress_begin("counting words", src.total_bytes);
    *bytes = 0;
    for (;;) {
        size_t n = 0;
        const char *text = src.next(src.state, &n);
        if (text && n >= BATCH_BYTES) { /* a document as large as a batch is counted where it lies */
            Ranges own = {0};
            cut_document(&own, (const uint8_t *)text, 0, n);
            count_batch(tables, split, (const uint8_t *)text, &own);
            free(own.v);
        } else if (text) { /* copied: it is valid only until the next one */
            size_t from = batch.len;
            buf_add(&batch, text, n);
            cut_document(&ranges, (const uint8_t *)batch.data, from, batch.len);
        }
        if (text) *bytes += (double)n;
        if (!text || batch.len >= BATCH_BYTES) {
            count_batch(tables, split, (const uint8_t *)batch.data, &ranges);
            batch.len = 0;
            progress_at(&bar, *bytes, "%s", human_bytes(*bytes));
        }
        if (!text) break;
    }
    WordTable all = tables[0];
    for (int k = 1; k < n_threads; k++) {
        for (size_t i = 0; i < tables[k].n; i++) {
            const Word *e = &tables[k].v[i];
            words_count(&all, (const uint8_t *)tables[k].pool.data + e->at, e->n, e->hash, e->count);
        }
        words_free(&tables[k]);
    }
    free(tables);
    free(ranges.v);
    buf_free(&batch);
    progress_end(&bar, "%s distinct words in %s", human_count((double)all.n), human_bytes(*bytes));
    return all;
}

/* Step 2. Words as rows of symbols; pairs with their counts; a queue of the pairs to come. */
typedef struct { uint32_t *v, n, cap; } WordList;
typedef struct { uint64_t pair; int64_t count; WordList fresh; } Pair; /* fresh: words where it arose this round */
typedef struct { int64_t count; uint64_t pair; uint32_t index; WordList words; } Candidate;

typedef struct {
    int32_t *symbol;                             /* all words' symbols in a row */
    size_t *start;                               /* [n_words] */
    uint32_t *length;                            /* [n_words], shrinking */
    int64_t *count;                              /* [n_words] */
    Pair *pair;
    size_t n_pairs, pairs_cap, n_slots;
    uint32_t *slot;                              /* index + 1 into pair */
    Candidate *queue;
    size_t n_queue, queue_cap;
    uint32_t *arisen;                            /* pairs with a fresh list */
    size_t n_arisen, arisen_cap;
    /* One merge changes at most four pairs per neighbouring symbol: (p,a) and (b,n) go, (p,ab) and (ab,n) come. Their
     * places are looked up once per merge and neighbour, not once per occurrence: that is the difference between
     * minutes and seconds. known[k][symbol] is right when stamp[k][symbol] is this round's. */
    uint32_t *known[4], *stamp[4], round;
} Trainer;
enum { LEFT_OLD, LEFT_NEW, RIGHT_OLD, RIGHT_NEW };

static uint32_t pair_index(Trainer *tr, uint64_t pair) {
    if (tr->n_pairs * 2 >= tr->n_slots) {
        tr->n_slots = tr->n_slots ? tr->n_slots * 2 : 1 << 16;
        free(tr->slot);
        tr->slot = xcalloc(tr->n_slots, sizeof *tr->slot);
        for (size_t k = 0; k < tr->n_pairs; k++) {
            size_t i = mix(tr->pair[k].pair) & (tr->n_slots - 1);
            while (tr->slot[i]) i = (i + 1) & (tr->n_slots - 1);
            tr->slot[i] = (uint32_t)k + 1;
        }
    }
    size_t i = mix(pair) & (tr->n_slots - 1);
    for (; tr->slot[i]; i = (i + 1) & (tr->n_slots - 1))
        if (tr->pair[tr->slot[i] - 1].pair == pair) return tr->slot[i] - 1;
    if (tr->n_pairs == tr->pairs_cap) {
        tr->pairs_cap = tr->pairs_cap ? tr->pairs_cap * 2 : 1 << 14;
        tr->pair = xrealloc(tr->pair, size_mul(tr->pairs_cap, sizeof *tr->pair));
    }
    if (tr->n_pairs >= UINT32_MAX - 1) die("too many different pairs to train on");
    tr->pair[tr->n_pairs] = (Pair){.pair = pair};
    tr->slot[i] = (uint32_t)++tr->n_pairs;
    return (uint32_t)tr->n_pairs - 1;
}

static void pair_arises_in(Trainer *tr, uint32_t index, uint32_t word) {
    WordList *l = &tr->pair[index].fresh;
    if (!l->n) {
        if (tr->n_arisen == tr->arisen_cap) {
            tr->arisen_cap = tr->arisen_cap ? tr->arisen_cap * 2 : 1024;
            tr->arisen = xrealloc(tr->arisen, size_mul(tr->arisen_cap, sizeof *tr->arisen));
        }
        tr->arisen[tr->n_arisen++] = index;
    } else if (l->v[l->n - 1] == word) return; /* words come one after the other: a repetition is the last */
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 4;
        l->v = xrealloc(l->v, sizeof *l->v * (size_t)l->cap);
    }
    l->v[l->n++] = word;
}

static bool goes_first(const Candidate *x, const Candidate *y) {
    return x->count != y->count ? x->count > y->count : x->pair < y->pair;
}

static void queue_sink(Candidate *q, size_t n, size_t i) {
    Candidate x = q[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && goes_first(&q[child + 1], &q[child])) child++;
        if (!goes_first(&q[child], &x)) break;
        q[i] = q[child];
    }
    q[i] = x;
}

static void queue_push(Trainer *tr, Candidate x) {
    if (tr->n_queue == tr->queue_cap) {
        tr->queue_cap = tr->queue_cap ? tr->queue_cap * 2 : 1 << 14;
        tr->queue = xrealloc(tr->queue, size_mul(tr->queue_cap, sizeof *tr->queue));
    }
    size_t i = tr->n_queue++;
    for (; i && goes_first(&x, &tr->queue[(i - 1) / 2]); i = (i - 1) / 2) tr->queue[i] = tr->queue[(i - 1) / 2];
    tr->queue[i] = x;
}

static void queue_arisen(Trainer *tr) {
    for (size_t k = 0; k < tr->n_arisen; k++) {
        Pair *p = &tr->pair[tr->arisen[k]];
        if (p->count > 0) queue_push(tr, (Candidate){p->count, p->pair, tr->arisen[k], p->fresh});
        else free(p->fresh.v); /* came and went within one word, as (A,a) does when aaaa becomes AA */
        p->fresh = (WordList){0};
    }
    tr->n_arisen = 0;
}

static inline void pair_change(Trainer *tr, int which, int32_t neighbour, uint64_t pair, int64_t change,
                               uint32_t word) {
    if (tr->stamp[which][neighbour] != tr->round) {
        tr->stamp[which][neighbour] = tr->round;
        tr->known[which][neighbour] = pair_index(tr, pair);
    }
    uint32_t index = tr->known[which][neighbour];
    tr->pair[index].count += change;
    if (change > 0) pair_arises_in(tr, index, word);
}

/* Replaces a b by ab in one word, left to right. The left neighbour is what has been written already, so in "abab" the
 * second ab has an ab to its left. */
static void merge_in_word(Trainer *tr, uint32_t word, int32_t a, int32_t b, int32_t ab) {
    int32_t *s = tr->symbol + tr->start[word];
    uint32_t n = tr->length[word], to = 0;
    int64_t count = tr->count[word];
    for (uint32_t i = 0; i < n;) {
        if (s[i] != a || i + 1 == n || s[i + 1] != b) {
            s[to++] = s[i++];
            continue;
        }
        if (to > 0) {
            int32_t left = s[to - 1];
            pair_change(tr, LEFT_OLD, left, pair_of(left, a), -count, word);
            pair_change(tr, LEFT_NEW, left, pair_of(left, ab), count, word);
        }
        if (i + 2 < n) {
            int32_t right = s[i + 2];
            pair_change(tr, RIGHT_OLD, right, pair_of(b, right), -count, word);
            pair_change(tr, RIGHT_NEW, right, pair_of(ab, right), count, word);
        }
        s[to++] = ab;
        i += 2;
    }
    tr->length[word] = to;
}

static void trainer_begin(Trainer *tr, const WordTable *w, const int32_t byte_id[256], int vocab) {
    tr->start = xmalloc(size_mul(w->n + 1, sizeof *tr->start));
    tr->length = xmalloc(size_mul(w->n + 1, sizeof *tr->length));
    tr->count = xmalloc(size_mul(w->n + 1, sizeof *tr->count));
    tr->symbol = xmalloc(size_mul(w->pool.len + 1, sizeof *tr->symbol));
    if (w->n >= UINT32_MAX) die("%zu distinct words are more than training can hold", w->n);
    for (int k = 0; k < 4; k++) {
        tr->known[k] = xcalloc((size_t)vocab, sizeof *tr->known[k]);
        tr->stamp[k] = xcalloc((size_t)vocab, sizeof *tr->stamp[k]);
    }
    for (uint32_t i = 0; i < (uint32_t)w->n; i++) {
        const Word *e = &w->v[i];
        tr->start[i] = e->at, tr->length[i] = e->n, tr->count[i] = e->count;
        int32_t *s = tr->symbol + e->at;
        for (uint32_t k = 0; k < e->n; k++) s[k] = byte_id[(uint8_t)w->pool.data[e->at + k]];
        for (uint32_t k = 0; k + 1 < e->n; k++) {
            uint32_t index = pair_index(tr, pair_of(s[k], s[k + 1]));
            tr->pair[index].count += e->count;
            pair_arises_in(tr, index, i);
        }
    }
    queue_arisen(tr);
}

static void trainer_free(Trainer *tr) {
    for (size_t i = 0; i < tr->n_queue; i++) free(tr->queue[i].words.v);
    for (int k = 0; k < 4; k++) free(tr->known[k]), free(tr->stamp[k]);
    free(tr->symbol);
    free(tr->start);
    free(tr->length);
    free(tr->count);
    free(tr->pair);
    free(tr->slot);
    free(tr->queue);
    free(tr->arisen);
}

typedef struct { uint64_t *v; size_t n, cap; } MergeList;

/* Fills names up to `vocab` tokens and lists the merges in the order learnt. */
static MergeList learn_merges(Trainer *tr, Vocab *names, int vocab, int64_t min_frequency) {
    MergeList merges = {0};
    Buf joined = {0};
    Progress bar = progress_begin("merging pairs", vocab);
    while (names->n_ids < (size_t)vocab && tr->n_queue) {
        Candidate top = tr->queue[0];
        int64_t now = tr->pair[top.index].count;
        if (top.count != now) { /* its count changed since it was queued: back with it, look again */
            tr->queue[0].count = now;
            queue_sink(tr->queue, tr->n_queue, 0);
            continue;
        }
        if (top.count < 1 || top.count < min_frequency) break;
        tr->queue[0] = tr->queue[--tr->n_queue];
        if (tr->n_queue) queue_sink(tr->queue, tr->n_queue, 0);

        int32_t a = (int32_t)(top.pair >> 32), b = (int32_t)(uint32_t)top.pair;
        joined.len = 0;
        buf_add(&joined, vocab_str(names, a), names->spelling[a].n);
        buf_add(&joined, vocab_str(names, b), names->spelling[b].n);
        int32_t ab = vocab_find(names, joined.data, joined.len);
        if (ab < 0) {
            ab = (int32_t)names->n_ids;
            vocab_add(names, joined.data, joined.len, (uint32_t)ab);
        }
        if (merges.n == merges.cap) {
            merges.cap = merges.cap ? merges.cap * 2 : 4096;
            merges.v = xrealloc(merges.v, size_mul(merges.cap, sizeof *merges.v));
        }
        merges.v[merges.n++] = top.pair;
        tr->round++;
        for (uint32_t i = 0; i < top.words.n; i++) merge_in_word(tr, top.words.v[i], a, b, ab);
        free(top.words.v);
        queue_arisen(tr);
        progress_at(&bar, (double)names->n_ids, "%zu tokens, the last seen %s times", names->n_ids,
                    human_count((double)top.count));
    }
    progress_end(&bar, "%zu tokens, %zu merges", names->n_ids, merges.n);
    buf_free(&joined);
    return merges;
}

static void json_token(Buf *b, const Vocab *v, int32_t id) {
    buf_str(b, "\"");
    json_escape(b, vocab_str(v, id), v->spelling[id].n);
    buf_str(b, "\"");
}

static void json_pattern(Buf *b, const char *pattern) { json_escape(b, pattern, strlen(pattern)); }

/* A text begins where a document of the training data does: behind the separator. Whoever encodes a prompt with special
 * tokens, transformers included, gets it put in front. */
static void write_template(Buf *b, const Vocab *v, int n_specials) {
    if (!n_specials) { buf_str(b, "  \"post_processor\": null,\n"); return; }
    buf_str(b, "  \"post_processor\": {\n    \"type\": \"TemplateProcessing\",\n");
    for (int pair = 0; pair < 2; pair++) {
        buf_fmt(b, "    \"%s\": [", pair ? "pair" : "single");
        for (int i = 0; i <= pair; i++) {
            buf_fmt(b, "%s\n      {\n        \"SpecialToken\": {\n          \"id\": ", i ? "," : "");
            json_token(b, v, 0);
            buf_fmt(b, ",\n          \"type_id\": %d\n        }\n      },\n      {\n        \"Sequence\": {\n          \"id\": \"%c\",\n"
                       "          \"type_id\": %d\n        }\n      }", i, 'A' + i, i);
        }
        buf_str(b, "\n    ],\n");
    }
    buf_str(b, "    \"special_tokens\": {\n      ");
    json_token(b, v, 0);
    buf_str(b, ": {\n        \"id\": ");
    json_token(b, v, 0);
    buf_str(b, ",\n        \"ids\": [\n          0\n        ],\n        \"tokens\": [\n          ");
    json_token(b, v, 0);
    buf_str(b, "\n        ]\n      }\n    }\n  },\n");
}

/* The files, laid out as Hugging Face's own writer does. */
static void write_files(const char *dir, const char *split, const Vocab *v, int n_specials, const MergeList *merges) {
    Buf b = {0};
    buf_str(&b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (int i = 0; i < n_specials; i++) {
        buf_fmt(&b, "%s\n    {\n      \"id\": %d,\n      \"content\": ", i ? "," : "", i);
        json_token(&b, v, i);
        buf_str(&b, ",\n      \"single_word\": false,\n      \"lstrip\": false,\n      \"rstrip\": false,\n"
                    "      \"normalized\": false,\n      \"special\": true\n    }");
    }
    buf_fmt(&b, "%s],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\n", n_specials ? "\n  " : "");
    if (!strcmp(split, "llama3")) {
        buf_str(&b, "    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n      {\n        \"type\": \"Split\",\n"
                    "        \"pattern\": {\n          \"Regex\": \"");
        json_pattern(&b, LLAMA3_PATTERN);
        buf_str(&b, "\"\n        },\n        \"behavior\": \"Isolated\",\n        \"invert\": false\n      },\n"
                    "      {\n        \"type\": \"ByteLevel\",\n        \"add_prefix_space\": false,\n"
                    "        \"trim_offsets\": true,\n        \"use_regex\": false\n      }\n    ]\n  },\n");
    } else {
        buf_str(&b, "    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": false,\n    \"trim_offsets\": true,\n"
                    "    \"use_regex\": true\n  },\n");
    }
    write_template(&b, v, n_specials);
    buf_str(&b, "  \"decoder\": {\n    \"type\": \"ByteLevel\",\n"
                "    \"add_prefix_space\": true,\n    \"trim_offsets\": true,\n    \"use_regex\": true\n  },\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                "    \"vocab\": {");
    for (size_t i = 0; i < v->n_ids; i++) {
        buf_str(&b, i ? ",\n      " : "\n      ");
        json_token(&b, v, (int32_t)i);
        buf_fmt(&b, ": %zu", i);
    }
    buf_str(&b, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < merges->n; i++) {
        buf_str(&b, i ? ",\n      [\n        " : "\n      [\n        ");
        json_token(&b, v, (int32_t)(merges->v[i] >> 32));
        buf_str(&b, ",\n        ");
        json_token(&b, v, (int32_t)(uint32_t)merges->v[i]);
        buf_str(&b, "\n      ]");
    }
    buf_fmt(&b, "%s]\n  }\n}", merges->n ? "\n    " : "");
    char *path = path_join(dir, "tokenizer.json");
    file_write(path, b.data, b.len);
    free(path);

    b.len = 0;
    buf_str(&b, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
    for (int i = 0; n_specials && i < 2; i++) {
        buf_str(&b, i ? "  \"eos_token\": " : "  \"bos_token\": ");
        json_token(&b, v, 0);
        buf_str(&b, ",\n");
    }
    /* No limit, in the words of transformers (int(1e30)): the model's config knows its context. */
    buf_str(&b, "  \"clean_up_tokenization_spaces\": false,\n"
                "  \"model_max_length\": 1000000000000000019884624838656\n}\n");
    path = path_join(dir, "tokenizer_config.json");
    file_write(path, b.data, b.len);
    free(path);
    buf_free(&b);
}

void tokenizer_train(TextSource src, const char *split, int vocab, int64_t min_frequency, const char **specials,
                     int n_specials, const char *dir) {
    tables_once();
    Split rule = !strcmp(split, "llama3") ? (Split){SPLIT_LLAMA3, 3} : (Split){SPLIT_GPT2, 0};
    if (strcmp(split, "llama3") && strcmp(split, "gpt2"))
        die("the split rule \"%s\" is neither gpt2 nor llama3", split);
    if (vocab < 256 + n_specials || vocab > MAX_IDS)
        die("a vocabulary of %d is not possible: 256 bytes and %d special tokens are the least, %d the most", vocab,
            n_specials, MAX_IDS);
    Vocab names = {0};
    for (int i = 0; i < n_specials; i++) {
        Buf bytes = {0};
        if (!*specials[i]) die("a special token cannot be empty");
        if (vocab_find(&names, specials[i], strlen(specials[i])) >= 0)
            die("the special token \"%s\" is given twice", specials[i]);
        if (unspell(specials[i], strlen(specials[i]), &bytes) && bytes.len == 1)
            die("the special token \"%s\" is spelt like a byte, so that ordinary text would produce it", specials[i]);
        vocab_add(&names, specials[i], strlen(specials[i]), (uint32_t)i);
        buf_free(&bytes);
    }
    /* The bytes come in the order of the characters that spell them: "!" is the first, the space a late one. */
    int32_t byte_id[256];
    for (uint32_t cp = 0; cp < 0x144; cp++) {
        char c[4];
        if (byte_of_char[cp] < 0) continue;
        byte_id[byte_of_char[cp]] = (int32_t)names.n_ids;
        vocab_add(&names, c, (size_t)utf8_put(cp, c), (uint32_t)names.n_ids);
    }
    double bytes;
    WordTable words = count_words(src, rule, &bytes);
    Trainer tr = {0};
    trainer_begin(&tr, &words, byte_id, vocab);
    words_free(&words);
    MergeList merges = learn_merges(&tr, &names, vocab, min_frequency);
    trainer_free(&tr);
    if (names.n_ids < (size_t)vocab)
        warn("the text has pairs for %zu tokens only, of the %d asked for", names.n_ids, vocab);
    make_dirs(dir);
    write_files(dir, split, &names, n_specials, &merges);
    free(merges.v);
    vocab_free(&names);
}

#ifndef TOKENIZER_LIB
#include "dataset.h"

/* [tok.show] the lesson: watching it work -------------------------------------------------------------------------- */

static bool in_colour;

/* Bytes as a person can read them: blanks and line breaks get a sign, what is no character its hexadecimal value. */
static void show_bytes(const char *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)s + i, n - i, &cp);
        if (len <= 0) {
            buf_fmt(out, "\\x%02X", (unsigned char)s[i]);
            len = 1;
        } else if (cp == ' ') buf_str(out, "\xE2\x90\xA3");  /* open box */
        else if (cp == '\n') buf_str(out, "\xE2\x8F\x8E");   /* return symbol */
        else if (cp < 0x20 || cp == 0x7F || (cp >= 0x80 && cp < 0xA0)) buf_fmt(out, "\\x%02X", cp);
        else buf_add(out, s + i, (size_t)len);
        i += (size_t)len;
    }
}

static void show_token(const Tokenizer *t, int32_t id, Buf *out) {
    size_t n;
    const char *bytes = tokenizer_token(t, id, &n);
    show_bytes(bytes, n, out);
}

/* A row of tokens: boxed by colour on a terminal, by lines otherwise. The one at `mark` has just been made. */
static void show_row(const Tokenizer *t, const int32_t *ids, int n, int mark, Buf *out) {
    for (int i = 0; i < n; i++) {
        if (in_colour) buf_str(out, i == mark ? "\033[1;30;42m" : i % 2 ? "\033[48;5;238m" : "\033[48;5;240m");
        else if (i) buf_str(out, "\xE2\x94\x82"); /* a line that is in no text, unlike "|" */
        show_token(t, ids[i], out);
        if (in_colour) buf_str(out, "\033[0m");
    }
}

/* printf's %-12s counts bytes; this counts characters. */
static void print_padded(const char *s, int width) {
    int chars = 0;
    for (const char *p = s; *p; p++) chars += (*p & 0xC0) != 0x80;
    printf("%s%*s", s, chars < width ? width - chars : 0, "");
}

enum { STEP_COLUMN = 14 };

static void show_merge(const Tokenizer *t, const int32_t *ids, int n, int at, int32_t rank, int32_t into) {
    int32_t after[SHORT_WORD];
    for (int i = 0; i < n - 1; i++) after[i] = i < at ? ids[i] : i == at ? into : ids[i + 1];
    Buf pair = {0}, row = {0};
    show_token(t, ids[at], &pair);
    buf_str(&pair, " + ");
    show_token(t, ids[at + 1], &pair);
    show_row(t, after, n - 1, at, &row);
    printf("    ");
    print_padded(pair.data, STEP_COLUMN);
    printf(" %s   merge %d makes id %d\n", row.data, rank, into);
    buf_free(&row);
    buf_free(&pair);
}

static void show_word(const Tokenizer *t, Worker *w, int number, const uint8_t *s, size_t n) {
    Buf text = {0};
    show_bytes((const char *)s, n, &text);
    printf("\n  word %d: %s\n", number, text.data);
    text.len = 0;
    int32_t id[SHORT_WORD], whole;
    Ids ids = {0};
    if (t->ignore_merges && word_is_token(t, s, n, &whole)) {
        printf("    the whole word is a token (ignore_merges)\n");
        ids_add(&ids, whole);
    } else if (n > SHORT_WORD) {
        printf("    %zu bytes: too many steps to show\n", n);
        bpe(t, w, s, n, &ids);
    } else {
        int n_id = first_symbols(t, s, n, id);
        show_row(t, id, n_id, -1, &text);
        printf("    %-*s %s\n", STEP_COLUMN, "bytes", text.data ? text.data : "");
        n_id = merge_short(t, id, n_id, show_merge);
        for (int i = 0; i < n_id; i++) ids_add(&ids, id[i]);
    }
    text.len = 0;
    for (size_t i = 0; i < ids.n; i++) {
        buf_fmt(&text, "%s%d ", i ? " " : "", ids.v[i]);
        show_token(t, ids.v[i], &text);
    }
    printf("    %-*s %s\n", STEP_COLUMN, ids.n == 1 ? "id" : "ids", text.data ? text.data : "");
    buf_free(&text);
    ids_free(&ids);
}

/* encode_plain's shape, with talk. */
static int words_shown;

static void show_plain(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    (void)with_special, (void)ids;
    Buf prefixed = {0};
    if (t->add_prefix_space && s[0] != ' ') {
        buf_add(&prefixed, " ", 1);
        buf_add(&prefixed, s, n);
        s = (const uint8_t *)prefixed.data, n++;
    }
    Buf row = {0};
    const uint8_t *end = s + n, *next;
    int k = 0;
    for (const uint8_t *p = s; p < end; p = next, k++) {
        next = word_end(t->split, p, end);
        if (in_colour) buf_str(&row, k % 2 ? "\033[48;5;238m" : "\033[48;5;240m");
        else if (k) buf_str(&row, "\xE2\x94\x82");
        show_bytes((const char *)p, (size_t)(next - p), &row);
        if (in_colour) buf_str(&row, "\033[0m");
    }
    printf("  words   %s   %d, split before any merging\n", row.data ? row.data : "", k);
    for (const uint8_t *p = s; p < end; p = next) {
        next = word_end(t->split, p, end);
        show_word(t, w, ++words_shown, p, (size_t)(next - p));
    }
    buf_free(&row);
    buf_free(&prefixed);
}

static void show_normalized(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    Buf norm = {0};
    const uint8_t *before = s;
    if (t->nfc) nfc(&s, &n, &norm);
    if (s != before) printf("  NFC     the text has been normalised: one character per accented letter\n");
    cut_at_added(t, w, &t->after_norm, s, n, with_special, ids, show_plain);
    buf_free(&norm);
}

static void show(const Tokenizer *t, const char *text, size_t n, bool with_special) {
    in_colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    Buf b = {0};
    show_bytes(text, n, &b);
    printf("  text    %s   %zu bytes\n", b.data ? b.data : "", n);
    Worker *w = worker_take(t);
    Ids ids = {0};
    cut_at_added(t, w, &t->before_norm, (const uint8_t *)text, n, with_special, &ids, show_normalized);
    worker_give(t, w);
    ids.n = 0;
    tokenizer_encode(t, text, n, with_special, &ids);
    b.len = 0;
    for (size_t i = 0; i < ids.n; i++) buf_fmt(&b, "%s%d", i ? " " : "", ids.v[i]);
    printf("\n  ids     %s\n  %zu token%s for %zu bytes", b.data ? b.data : "", ids.n, ids.n == 1 ? "" : "s", n);
    if (ids.n) printf(": %.2f bytes a token", (double)n / (double)ids.n);
    printf("\n");
    buf_free(&b);
    ids_free(&ids);
}

/* [tok.main] the command line -------------------------------------------------------------------------------------- */

static const char ABOUT[] =
    "tokenizer: text <-> token ids, byte-level BPE\n"
    "  ./tokenizer train  --data FILE... --vocab 4096 --out DIR    learn a vocabulary\n"
    "  ./tokenizer encode --model DIR [--text S | < file]          one line of ids per document\n"
    "  ./tokenizer decode --model DIR < ids                        the text again\n"
    "  ./tokenizer show   --model DIR --text S                     how the text becomes ids, merge by merge\n"
    "  ./tokenizer SUB-COMMAND --help                              its options";

static char *read_stdin(size_t *n) {
    Buf b = {0};
    char chunk[1 << 16];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, stdin)) > 0) buf_add(&b, chunk, got);
    if (ferror(stdin)) die("stdin: %s", strerror(errno));
    buf_add(&b, "", 0);
    *n = b.len;
    return b.data;
}

static void put_out(Buf *b) {
    if (b->len && fwrite(b->data, 1, b->len, stdout) != b->len) die("stdout: %s", strerror(errno));
    b->len = 0;
}

static void finish_stdout(void) {
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
}

static Tokenizer *load_model(const char *dir) {
    if (!dir) die_usage("--model DIR is missing: the directory of a tokenizer");
    return tokenizer_load(dir);
}

typedef struct { Docs *docs; double left; } LimitedDocs;

static const char *limited_next(void *state, size_t *n) {
    LimitedDocs *l = state;
    if (l->left <= 0) return NULL;
    const char *text = docs_next(l->docs, n);
    if (!text) return NULL;
    if ((double)*n > l->left) *n = (size_t)l->left;
    l->left -= (double)*n;
    return text;
}

static void main_train(int argc, char **argv) {
    static const char *end_of_text[] = {"<|endoftext|>"};
    StrList data = {0}, specials = {end_of_text, 1};
    int64_t vocab = 4096, min_frequency = 0, max_bytes = 0;
    const char *out = NULL, *split = "gpt2";
    Opt table[] = {
        {"data", OPT_LIST, &data, ".txt, .jsonl, folders, corpus:BYTES", 0, 0, NULL, NULL, false},
        {"vocab", OPT_INT, &vocab, "tokens: special ones, 256 bytes, merges", 257, MAX_IDS, NULL, NULL, false},
        {"out", OPT_STR, &out, "directory to write", 0, 0, NULL, NULL, false},
        {"split", OPT_STR, &split, "rule that cuts text into words", 0, 0, "gpt2|llama3", NULL, false},
        {"min-frequency", OPT_INT, &min_frequency, "never merge a pair seen less often", 0, 9e15, NULL, NULL, false},
        {"special", OPT_LIST, &specials, "special tokens; the first is the end of text", 0, 0, NULL, NULL, false},
        {"bytes", OPT_INT, &max_bytes, "read at most so much text (0: all)", 0, 9e15, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer train: learn a vocabulary", table, (int)(sizeof table / sizeof *table));
    if (!data.n) die_usage("--data is missing: the text to learn from");
    if (!out) die_usage("--out is missing: the directory to write");
    if (vocab < 256 + specials.n)
        die_usage("--vocab %lld is too small for 256 bytes and %d special tokens", (long long)vocab, specials.n);
    double start_s = now_s();
    LimitedDocs source = {docs_open(data.v, data.n), max_bytes ? (double)max_bytes : 9e18};
    double total = docs_bytes(source.docs);
    if (max_bytes && total > (double)max_bytes) total = (double)max_bytes;
    tokenizer_train((TextSource){limited_next, &source, total}, split, (int)vocab, min_frequency, specials.v,
                    specials.n, out);
    docs_close(source.docs);
    Tokenizer *t = tokenizer_load(out);
    printf("%s: a vocabulary of %d tokens, learnt in %s. Watch it work:\n", out, tokenizer_vocab(t),
           human_time(now_s() - start_s));
    printf("  ./tokenizer show --model %s --text \"...\"\n", out);
    tokenizer_free(t);
}

/* Times for bench/tokenizer.py: reading the files and printing are not what is compared. */
static void bench_encode(const Tokenizer *t, const char *text, size_t n, int rounds) {
    Buf out = {0};
    Ids ids = {0};
    for (int i = 0; i < rounds; i++) {
        ids.n = 0;
        double start_s = now_s();
        tokenizer_encode(t, text, n, false, &ids);
        buf_fmt(&out, "%s%.6g", i ? ", " : "", now_s() - start_s);
    }
    printf("{\"bytes\": %zu, \"ids\": %zu, \"seconds\": [%s]}\n", n, ids.n, out.data);
    buf_free(&out);
    ids_free(&ids);
}

static void encode_line(const Tokenizer *t, const char *s, size_t n, bool special, Ids *ids, Buf *out) {
    ids->n = 0;
    tokenizer_encode(t, s, n, special, ids);
    for (size_t i = 0; i < ids->n; i++) {
        char digits[12], *p = digits + sizeof digits;
        *--p = i + 1 < ids->n ? ' ' : '\n';
        uint32_t v = (uint32_t)ids->v[i];
        do *--p = (char)('0' + v % 10);
        while (v /= 10);
        buf_add(out, p, (size_t)(digits + sizeof digits - p));
        if (out->len > 1 << 20) put_out(out);
    }
    if (!ids->n) buf_add(out, "\n", 1);
}

static void main_encode(int argc, char **argv) {
    const char *model = NULL, *text = NULL;
    bool special = false, lines = false;
    int64_t bench = 0;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"text", OPT_STR, &text, "what to encode, instead of stdin", 0, 0, NULL, NULL, false},
        {"special", OPT_FLAG, &special, "recognise special tokens in the text", 0, 0, NULL, NULL, false},
        {"lines", OPT_FLAG, &lines, "each line of stdin is a document", 0, 0, NULL, NULL, false},
        {"bench", OPT_INT, &bench, "encode so many times and print the seconds, as JSON", 0, 1e6, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer encode: text -> ids, one line a document", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *read = text ? NULL : read_stdin(&n);
    if (text) n = strlen(text);
    else text = read;
    Ids ids = {0};
    Buf out = {0};
    if (bench) bench_encode(t, text, n, (int)bench);
    else if (!lines) encode_line(t, text, n, special, &ids, &out);
    for (const char *line = text, *end = text + n, *next; lines && !bench && line < end; line = next) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        next = newline ? newline + 1 : end;
        encode_line(t, line, (size_t)((newline ? newline : end) - line), special, &ids, &out);
    }
    put_out(&out);
    buf_free(&out);
    ids_free(&ids);
    free(read);
    tokenizer_free(t);
}

static void main_decode(int argc, char **argv) {
    const char *model = NULL;
    bool skip = false, lines = false;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"skip-special", OPT_FLAG, &skip, "leave special tokens out", 0, 0, NULL, NULL, false},
        {"lines", OPT_FLAG, &lines, "each line is a document: end each with a line break", 0, 0, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer decode: ids on stdin -> the exact bytes", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *text = read_stdin(&n);
    Buf out = {0};
    for (char *p = text, *end = text + n; p < end;) {
        if (*p == '\n' && lines) buf_add(&out, "\n", 1);
        if (strchr(" \t\r\n,[]", *p) && *p) {
            p++;
            continue;
        }
        char *stop;
        errno = 0;
        long id = strtol(p, &stop, 10);
        if (stop == p || errno || id < 0 || id >= tokenizer_vocab(t))
            die("\"%.*s\" is no id of this tokenizer (0 to %d)", (int)strcspn(p, " \t\r\n,[]"), p,
                tokenizer_vocab(t) - 1);
        tokenizer_decode(t, &(int32_t){(int32_t)id}, 1, skip, &out);
        if (out.len > 1 << 20) put_out(&out);
        p = stop;
    }
    put_out(&out);
    buf_free(&out);
    free(text);
    tokenizer_free(t);
}

static void main_show(int argc, char **argv) {
    const char *model = NULL, *text = NULL;
    bool special = false;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"text", OPT_STR, &text, "what to encode, instead of stdin", 0, 0, NULL, NULL, false},
        {"special", OPT_FLAG, &special, "recognise special tokens in the text", 0, 0, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer show: words, then merge by merge", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *read = text ? NULL : read_stdin(&n);
    show(t, text ? text : read, text ? strlen(text) : n, special);
    free(read);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(int argc, char **argv); } commands[] = {
        {"train", main_train}, {"encode", main_encode}, {"decode", main_decode}, {"show", main_show}};
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        printf("%s\n", ABOUT);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i].name)) {
            commands[i].run(argc, argv);
            finish_stdout();
            return 0;
        }
    fprintf(stderr, "%s\n", ABOUT);
    if (argc > 1) die_usage("there is no sub-command \"%s\": train, encode, decode or show", argv[1]);
    return 2;
}
#endif
