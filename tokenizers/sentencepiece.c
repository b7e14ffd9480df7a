/* sentencepiece.c - tokenizer.model: the tokenizers of Llama-2, Mistral, ChatGLM and many more, as SentencePiece wrote
 * them. One file (a protocol buffer) holds the pieces with their scores and types, and how a text is to be normalised.
 *
 *     [sp.proto]     the file, field by field: every length checked, fields nobody asked for skipped
 *     [sp.trie]      which pieces begin here, one look-up a character
 *     [sp.charsmap]  one character sequence for another, by a trie that lies ready in the file
 *     [sp.norm]      text -> text with U+2581 for every blank, and one in front
 *     [sp.bpe]       merges from scores: the pair whose whole has the best score goes first
 *     [sp.unigram]   the most probable way to cut a text into pieces (Viterbi)
 *     [sp.load]      the parts put together; what ChatGLM adds to the file
 *
 * Ids and texts are those of the official library (0.2.3). Two things in it are easily missed: BPE knows no list of
 * merges, any two neighbours may become any piece that they spell; and unigram adds its scores in single precision
 * from the start of the text on, so that a near tie may fall either way, depending on what stands before the word. */
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char MARK[] = "\xE2\x96\x81"; /* U+2581, which stands for a blank */
enum { MARK_BYTES = 3, MARK_CHAR = 0x2581 };
static const char REPLACEMENT[] = "\xEF\xBF\xBD";

typedef enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE } PieceType;
static bool in_text(uint8_t type) { return type == NORMAL || type == USER_DEFINED || type == UNUSED; }

static size_t utf8_step(const uint8_t *s, size_t n) { /* of text known to be UTF-8 */
    size_t len = *s < 0xC0 ? 1 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : 4;
    return len < n ? len : n;
}

static uint32_t char_of(const uint8_t *s, size_t n) { /* the first one of such a text */
    uint32_t cp = 0;
    return utf8_char(s, n, &cp) > 0 ? cp : 0;
}

static void room_for(Buf *b, size_t more) {
    if (b->cap - b->len > more) return;
    b->cap = b->cap * 2 > b->len + more + 1 ? b->cap * 2 : b->len + more + 1;
    b->data = xrealloc(b->data, b->cap);
}

static inline void put(Buf *b, const void *bytes, size_t n) { /* buf_add without the call for a byte or three */
    room_for(b, n);
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
}

/* [sp.proto] the file ---------------------------------------------------------------------------------------------- */

typedef struct { const uint8_t *p, *end; const char *path; } Proto;
typedef enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } Wire;
typedef struct { uint64_t number; Wire wire; uint64_t value; Proto in; } Field; /* value, or in: the bytes */

static uint64_t varint(Proto *r) { /* a negative number takes all ten bytes */
    uint64_t v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (r->p == r->end) die("%s: the file ends in the middle of a number: truncated?", r->path);
        uint8_t b = *r->p++;
        v |= shift < 63 || b < 2 ? (uint64_t)(b & 0x7F) << shift : 0;
        if (b < 0x80) return v;
    }
    die("%s: a number of more than ten bytes: not a SentencePiece file", r->path);
}

static bool next_field(Proto *r, Field *f) {
    if (r->p == r->end) return false;
    uint64_t key = varint(r), left;
    *f = (Field){.number = key >> 3, .wire = (Wire)(key & 7), .in = {r->p, r->p, r->path}};
    switch (f->wire) {
    case VARINT: f->value = varint(r); return true;
    case FIXED64: left = 8; break;
    case FIXED32: left = 4; break;
    case BYTES: left = varint(r); break;
    default: die("%s: a field of kind %d: not a SentencePiece file", r->path, (int)f->wire);
    }
    if (left > (uint64_t)(r->end - r->p))
        die("%s: a field of %llu bytes, and %zu are left: truncated?", r->path, (unsigned long long)left,
            (size_t)(r->end - r->p));
    f->in = (Proto){r->p, r->p + left, r->path};
    r->p += left;
    return true;
}

/* A known number with another kind of content is an unknown field, which is skipped: the protocol's own rule. */
static bool is_bytes(const Field *f, uint64_t number) { return f->number == number && f->wire == BYTES; }
static bool is_number(const Field *f, uint64_t number) { return f->number == number && f->wire == VARINT; }
static size_t field_len(const Field *f) { return (size_t)(f->in.end - f->in.p); }

/* [sp.trie] which pieces begin here --------------------------------------------------------------------------------- *
 * A tree of characters. The root's children, with which every search begins, stand in the order of their code points;
 * behind them a hash table: a node is the slot in which (its parent, its character) stands. mask says which children a
 * node can have at all, by the last four bits of their characters: most steps that lead nowhere end there, without a
 * look-up. Common characters have hundreds of children and any mask: which two begin a piece, pairs says by a hash. */
typedef struct { int32_t id; float score; } TriePiece; /* id -1: no piece; the score is for unigram */
typedef struct { uint64_t key_mask; TriePiece piece; } TrieNode; /* parent << 37 | character << 16 | mask */
typedef struct {
    TrieNode *node;                              /* [FIRST_CHARS + 2^(64 - shift) + 1], the last one always empty */
    int shift;
    uint64_t *pairs;                             /* the beginnings of two characters, as bits of pair_bit */
} Trie;
enum { FIRST_CHARS = 0x10000, TRIE_MAX = 1 << 25, MASK_BITS = 16 };
static const uint32_t ROOT = (1 << 27) - 1, NO_NODE = UINT32_MAX;
static const uint64_t EMPTY = UINT64_MAX >> MASK_BITS;

static inline uint64_t trie_key(uint32_t from, uint32_t cp) { return (uint64_t)from << 21 | cp; }
static inline uint64_t key_of(const TrieNode *node) { return node->key_mask >> MASK_BITS; }

typedef struct { const uint8_t *s; uint32_t n; int32_t id; } Key;

static int key_order(const void *a, const void *b) {
    const Key *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static inline uint64_t trie_hash(uint32_t from, uint32_t cp) {
    return pair_hash((uint64_t)from << 32 | cp);
}

static inline uint32_t trie_slot(const Trie *t, uint32_t from, uint32_t cp) { /* its own, or the empty one for it */
    uint64_t key = trie_key(from, cp);
    uint32_t last = ((uint32_t)1 << (64 - t->shift)) - 1, i = (uint32_t)(trie_hash(from, cp) >> t->shift);
    const TrieNode *node = t->node + FIRST_CHARS;
    while ((int)(key_of(&node[i]) != key) & (int)(key_of(&node[i]) != EMPTY)) i = (i + 1) & last;
    return FIRST_CHARS + i;
}

static inline uint32_t no_node(const Trie *t) { return FIRST_CHARS + ((uint32_t)1 << (64 - t->shift)); }

/* Where the node of these two (the first below FIRST_CHARS) would stand, which lies anywhere in memory and is asked for
 * here; no_node where no piece begins with them. By masks, as no branch predicts whether two characters are a word. */
static inline uint32_t trie_pair(const Trie *t, uint32_t first, uint32_t cp) {
    uint32_t yes = -(uint32_t)has_bit(t->pairs, pair_bit(first, cp));
    uint32_t slot = FIRST_CHARS + (uint32_t)(trie_hash(first, cp) >> t->shift);
    slot = (slot & yes) | (no_node(t) & ~yes);
    __builtin_prefetch(t->node + slot);
    return slot;
}

/* From there to their node; an empty one where there is none. */
static inline uint32_t trie_pair_node(const Trie *t, uint32_t slot, uint32_t first, uint32_t cp) {
    const uint64_t key = trie_key(first, cp) << MASK_BITS, empty = EMPTY << MASK_BITS;
    while (__builtin_expect(((t->node[slot].key_mask ^ key) >> MASK_BITS != 0) & (t->node[slot].key_mask < empty), 0))
        if (++slot == no_node(t)) slot = FIRST_CHARS;
    return slot;
}

static inline uint32_t child_bit(uint32_t cp) { return 1u << (cp % MASK_BITS); }

static inline uint32_t trie_step(const Trie *t, uint32_t from, uint32_t cp) { /* NO_NODE: no child */
    if (from != ROOT && !(t->node[from].key_mask & child_bit(cp))) return NO_NODE;
    uint32_t i = from == ROOT && cp < FIRST_CHARS ? cp : trie_slot(t, from, cp);
    return key_of(&t->node[i]) == EMPTY ? NO_NODE : i;
}

/* How many characters of b, a key behind a in their order, are not also the beginning of a. 0: b is no text. */
static uint32_t new_chars(Key a, Key b) {
    uint32_t same = 0, n = 0, cp;
    while (same < a.n && same < b.n && a.s[same] == b.s[same]) same++;
    for (uint32_t i = 0; i < b.n; n += i > same) {
        int len = utf8_char(b.s + i, b.n - i, &cp);
        if (len <= 0) return 0;
        i += (uint32_t)len;
    }
    return n;
}

/* keys: no two alike, none empty. They are sorted here; what is no UTF-8 is left out, as no text can hold it. */
static Trie trie_build(Key *keys, uint32_t n_keys, const char *path) {
    Trie t = {.shift = 60};
    size_t n_nodes = 0;
    Key last = {NULL, 0, -1};
    if (n_keys) qsort(keys, n_keys, sizeof *keys, key_order);
    for (uint32_t i = 0; i < n_keys; i++) {
        uint32_t more = new_chars(last, keys[i]);
        n_nodes += more;
        if (!more) keys[i].id = -1;
        else last = keys[i];
    }
    if (n_nodes > TRIE_MAX) die("%s: the pieces need a tree of %zu nodes; at most %d", path, n_nodes, TRIE_MAX);
    while ((size_t)1 << (64 - t.shift) < 2 * n_nodes) t.shift--;
    size_t n_slots = FIRST_CHARS + ((size_t)1 << (64 - t.shift));
    t.node = xmalloc(size_mul(n_slots + 1, sizeof *t.node));
    for (size_t i = 0; i <= n_slots; i++) t.node[i] = (TrieNode){EMPTY << MASK_BITS, {-1, 0}};
    t.pairs = xcalloc(PAIR_WORDS, sizeof *t.pairs);
    for (uint32_t i = 0; i < n_keys; i++) {
        uint32_t at = ROOT, cp = 0;
        for (uint32_t k = 0; k < keys[i].n && keys[i].id >= 0; k += char_bytes(keys[i].s + k, keys[i].n - k)) {
            utf8_char(keys[i].s + k, keys[i].n - k, &cp);
            uint32_t slot = at == ROOT && cp < FIRST_CHARS ? cp : trie_slot(&t, at, cp);
            if (key_of(&t.node[slot]) == EMPTY) t.node[slot].key_mask = trie_key(at, cp) << MASK_BITS;
            if (at != ROOT) t.node[at].key_mask |= child_bit(cp);
            if (at < FIRST_CHARS) set_bit(t.pairs, pair_bit(at, cp));
            at = slot;
        }
        if (at != ROOT) t.node[at].piece.id = keys[i].id;
    }
    return t;
}

static void trie_free(Trie *t) {
    free(t->node);
    free(t->pairs);
}

static int32_t trie_longest(const Trie *t, const uint8_t *s, size_t n, size_t *len) { /* an id, -1: none */
    int32_t id = -1;
    uint32_t at = ROOT, cp;
    for (size_t i = 0; i < n;) {
        int one = utf8_char(s + i, n - i, &cp);
        if (one <= 0 || (at = trie_step(t, at, cp)) == NO_NODE) break;
        i += (size_t)one;
        if (t->node[at].piece.id >= 0) id = t->node[at].piece.id, *len = i;
    }
    return id;
}

/* [sp.charsmap] one sequence for another ---------------------------------------------------------------------------- *
 * The file brings a double array in Darts-clone's layout. A unit: bit 31 set, a value (where in the texts its
 * replacement begins); otherwise bits 0 to 7 its own byte, bit 8 whether a value hangs at its offset, bits 10 on the
 * offset, to be shifted by 8 more when bit 9 is set. */
struct Charsmap {
    uint32_t *unit;
    size_t n_units;
    char *text;                                  /* NUL-terminated strings, one after the other */
    size_t n_text;
    /* ASCII: nothing begins with it alone or with it and another ASCII character. Others below U+10000: nothing at all
     * begins with it. */
    uint64_t plain[0x10000 / 64];
};

static inline bool is_plain(const Charsmap *c, uint32_t cp) {
    return !c || (cp < 0x10000 && c->plain[cp / 64] >> (cp % 64) & 1);
}

static inline uint32_t unit_offset(uint32_t u) { return (u >> 10) << ((u & 1u << 9) >> 6); }
static inline bool unit_is_value(uint32_t u) { return u >> 31; }

/* The value for the first n bytes of s, longest or shortest match; -1: none. The library looks at 32 matches. */
static inline int64_t charsmap_find(const Charsmap *c, const uint8_t *s, size_t n, bool longest, size_t *len) {
    int64_t value = -1;
    uint32_t at = unit_offset(c->unit[0]);
    int matches = 0;
    for (size_t i = 0; i < n && matches < 32; i++) {
        uint32_t u = c->unit[at ^= s[i]];
        if ((u & (1u << 31 | 0xFF)) != s[i]) break;
        at ^= unit_offset(u);
        if (!(u & 1u << 8)) continue;
        value = c->unit[at] & ~(1u << 31), *len = i + 1;
        if (!longest) break;
        matches++;
    }
    return value;
}

/* Is there a key that is s or its beginning, or one that goes on after s (ascii: by an ASCII character)? */
static bool charsmap_begins(const Charsmap *c, const uint8_t *s, int n, bool ascii) {
    uint32_t at = unit_offset(c->unit[0]);
    for (int i = 0; i < n; i++) {
        uint32_t u = c->unit[at ^= s[i]];
        if ((u & (1u << 31 | 0xFF)) != s[i]) return false;
        at ^= unit_offset(u);
        if (u & 1u << 8) return true;
    }
    for (uint32_t b = 0; b < 128 && ascii; b++)
        if ((c->unit[at ^ b] & (1u << 31 | 0xFF)) == b) return true;
    return !ascii;
}

enum { MAX_REPLACEMENT = 1024 };

Charsmap *charsmap_new(const void *blob, size_t n, const char *path) {
    uint32_t trie_bytes = 0;
    if (n > 4) memcpy(&trie_bytes, blob, 4);
    if (n <= 4 || trie_bytes < 1024 || trie_bytes % 1024 || trie_bytes >= n - 4)
        die("%s: the character map says that its tree has %u of %zu bytes: broken", path, trie_bytes, n);
    Charsmap *c = xcalloc(1, sizeof *c);
    c->n_units = trie_bytes / 4;
    c->unit = xmalloc(trie_bytes);
    memcpy(c->unit, (const char *)blob + 4, trie_bytes);
    c->n_text = n - 4 - trie_bytes;
    c->text = xmalloc(c->n_text + 1);
    memcpy(c->text, (const char *)blob + 4 + trie_bytes, c->n_text);
    c->text[c->n_text] = 0;
    /* A replacement may begin anywhere: sound[i] says whether the text from i to its NUL is UTF-8. */
    uint8_t *sound = xcalloc(c->n_text + 1, 1);
    sound[c->n_text] = 1;
    for (size_t i = c->n_text; i-- > 0;) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)c->text + i, c->n_text - i, &cp);
        sound[i] = !c->text[i] || (len > 0 && sound[i + (size_t)len]);
    }
    /* With every place that a step can lead to inside the array, looking up needs no checks. */
    for (size_t i = 0; i < c->n_units; i++) {
        uint32_t u = c->unit[i];
        if (i && unit_is_value(u)) {
            uint32_t at = u & ~(1u << 31);
            if (at >= c->n_text || !sound[at]) die("%s: the character map has a replacement that is no text", path);
            if (strnlen(c->text + at, MAX_REPLACEMENT + 1) > MAX_REPLACEMENT) /* of each character of a text */
                die("%s: the character map has a replacement of more than %d bytes", path, MAX_REPLACEMENT);
            continue;
        }
        size_t to = i ^ unit_offset(u);
        if ((to | 0xFF) >= c->n_units || (u & 1u << 8 && !unit_is_value(c->unit[to])))
            die("%s: the character map's tree points outside itself", path);
    }
    free(sound);
    for (uint32_t cp = 0; cp < 0x10000; cp++) {
        char bytes[4];
        int n_bytes = utf8_put(cp, bytes);
        if (charsmap_begins(c, (uint8_t *)bytes, n_bytes, cp < 0x80)) continue;
        c->plain[cp / 64] |= 1ull << (cp % 64);
    }
    return c;
}

void charsmap_free(Charsmap *c) {
    if (!c) return;
    free(c->unit);
    free(c->text);
    free(c);
}

size_t charsmap_shortest(const Charsmap *c, const uint8_t *s, size_t n, const char **to, size_t *n_to) {
    size_t len = 0;
    int64_t value = charsmap_find(c, s, n, false, &len);
    if (value < 0) return 0;
    *to = c->text + value, *n_to = strlen(c->text + value);
    return len;
}

/* [sp.norm] text -> text with U+2581 for blanks -------------------------------------------------------------------- */

typedef struct {
    Charsmap *charsmap;
    bool dummy_prefix, collapse, escape, suffix; /* collapse: one blank for many, none at the ends; suffix: the dummy
                                                    blank at the end instead */
    const char *blank;                           /* what stands for one: MARK, or a blank */
    size_t n_blank;
    bool copied[256], plain_blank;               /* ASCII that stays as it is before ASCII; nothing applies to ' ' */
    bool copied_three[256];                      /* first bytes of three whose characters all stay as they are */
} Normalizer;

typedef struct { Trie trie; bool first[256]; bool any; } UserPieces; /* found before anything else, and left alone */

/* marks: blanks become marks, and not, as unigram would rather have it, marks blanks. */
static void normalizer_prepare(Normalizer *z, const UserPieces *user, bool marks) {
    z->blank = marks ? MARK : " ", z->n_blank = strlen(z->blank);
    z->plain_blank = !user->first[' '] && is_plain(z->charsmap, ' ');
    for (uint8_t b = 0; b < 0x80; b++)
        z->copied[b] = b == ' ' ? !marks && z->plain_blank : !user->first[b] && is_plain(z->charsmap, b);
    for (uint32_t b = 0xE1; b < 0xF0; b++) { /* 0xE0 and 0xED also begin what is no character, 0xE2 the mark */
        bool all = !user->first[b] && b != 0xE2 && b != 0xED;
        for (uint32_t cp = (b & 0xF) << 12, i = 0; i < 0x1000 && all; i++) all = is_plain(z->charsmap, cp + i);
        z->copied_three[b] = all;
    }
}

typedef struct { const char *s; size_t n, used; } Rewritten;

/* What stands for the beginning of s, and how much of s it stands for. */
static Rewritten rewrite(const Normalizer *z, const UserPieces *user, const uint8_t *s, size_t n) {
    size_t len;
    if (user->first[*s] && trie_longest(&user->trie, s, n, &len) >= 0) return (Rewritten){(const char *)s, len, len};
    if (z->charsmap && !(*s < 0x80 && is_plain(z->charsmap, *s) && (n == 1 || s[1] < 0x80))) {
        int64_t value = charsmap_find(z->charsmap, s, n, true, &len);
        if (value >= 0) return (Rewritten){z->charsmap->text + value, strlen(z->charsmap->text + value), len};
    }
    uint32_t cp;
    int one = utf8_char(s, n, &cp);
    if (one <= 0) return (Rewritten){REPLACEMENT, 3, 1}; /* each malformed byte for itself */
    return (Rewritten){(const char *)s, (size_t)one, (size_t)one};
}

/* Where the part of the text ends that begins at s and stays as it is: most text does, and goes over in one copy. */
static const uint8_t *copied_end(const Normalizer *z, const UserPieces *user, const uint8_t *s, const uint8_t *end) {
    const uint8_t *from = s;
    while (s < end) {
        size_t len;
        while (s + 1 < end && z->copied[*s] & !(z->collapse & (s[0] == ' ') & (s[1] == ' '))) s++; /* &: one branch */
        if (s + 1 == end && z->copied[*s]) return end;
        if (*s < 0x80) return s;
        /* A mark may follow, and be a key together with what is before it. */
        if (s > from && s[-1] < 0x80 && z->charsmap &&
            charsmap_find(z->charsmap, s - 1, (size_t)(end - s) + 1, true, &len) >= 0)
            return s - 1;
        const uint8_t *row = s;
        while (end - s >= 3 && z->copied_three[*s] && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80) s += 3;
        if (s > row) continue;
        uint32_t cp;
        int one = utf8_char(s, (size_t)(end - s), &cp);
        if (one <= 0 || user->first[*s] || !is_plain(z->charsmap, cp) || (cp == MARK_CHAR && z->escape)) return s;
        s += one;
    }
    return s;
}

static void put_run(Buf *b, const uint8_t *s, size_t n, const uint8_t *end) { /* end: how far s may be read */
    enum { SHORT = 16 };
    room_for(b, n + SHORT);
    if (n <= SHORT && end - s >= SHORT) memcpy(b->data + b->len, s, SHORT); /* of fixed size: no call */
    else memcpy(b->data + b->len, s, n);
    b->len += n;
}

static void normalize_text(const Normalizer *z, const UserPieces *user, const uint8_t *s, size_t n, Buf *out) {
    const char *blank = z->blank;
    const size_t n_blank = z->n_blank, start = out->len;
    const bool no_marks = z->escape && n_blank == 1;
    const uint8_t *end = s + n;
    while (z->collapse && s < end) {
        Rewritten r = rewrite(z, user, s, (size_t)(end - s));
        if (r.n != 1 || *r.s != ' ') break;
        s += r.used;
    }
    if (s == end) return;
    room_for(out, (size_t)(end - s) + (size_t)(end - s) / 4);
    if (z->dummy_prefix && !z->suffix) put(out, blank, n_blank);
    bool after_blank = z->collapse;
    while (s < end) {
        const uint8_t *plain = s;
        if (!after_blank || *s != ' ') s = copied_end(z, user, s, end);
        if (s > plain) {
            put_run(out, plain, (size_t)(s - plain), end);
            after_blank = z->collapse && s[-1] == ' ';
            continue;
        }
        if (*s == ' ' && z->plain_blank && (!z->charsmap || end - s == 1 || s[1] < 0x80)) { /* the commonest of all */
            if (!after_blank) put(out, blank, n_blank);
            after_blank = z->collapse;
            s++;
            continue;
        }
        Rewritten r = rewrite(z, user, s, (size_t)(end - s));
        s += r.used;
        while (after_blank && r.n && *r.s == ' ') r.s++, r.n--;
        if (!r.n) continue;
        after_blank = z->collapse && r.s[r.n - 1] == ' ';
        for (size_t i = 0, len; i < r.n; i += len) {
            bool mark = no_marks && r.n - i >= MARK_BYTES && !memcmp(r.s + i, MARK, MARK_BYTES);
            len = mark ? MARK_BYTES : 1;
            if (mark || r.s[i] == ' ') put(out, blank, n_blank);
            else put(out, r.s + i, 1);
        }
    }
    while (z->collapse && out->len - start >= n_blank && !memcmp(out->data + out->len - n_blank, blank, n_blank))
        out->len -= n_blank;
    if (z->dummy_prefix && z->suffix) put(out, blank, n_blank);
}

/* ---- what a tokenizer.model needs -------------------------------------------------------------------------------- */

typedef struct { uint32_t cp; int32_t id; } CharSlot; /* id -1: empty */

struct SentencePiece {
    uint8_t *type;                               /* [n_pieces]: piece i has the id first_id + i */
    float *score;
    int32_t n_pieces, first_id;
    Normalizer norm, denorm;                     /* denorm: for decoded text, where the file has one */
    bool denormalizes;
    UserPieces user;
    Buf unk_surface;
    bool any_unused, blanks_as_tokens;           /* blanks_as_tokens: ChatGLM-6B */
    /* BPE. A character without a piece of its own may still be part of one: it gets an id past the vocabulary. */
    int32_t ascii[128];                          /* symbol of a character, -1: none */
    CharSlot *chars;
    size_t n_chars, char_slots;
    int32_t n_symbols;                           /* ids and those past them; n_symbols itself: unknown */
    Buf past;                                    /* [n_symbols - n_ids] uint32_t: their characters */
};

void sentencepiece_free(SentencePiece *sp) {
    if (!sp) return;
    free(sp->type);
    free(sp->score);
    charsmap_free(sp->norm.charsmap);
    charsmap_free(sp->denorm.charsmap);
    trie_free(&sp->user.trie);
    buf_free(&sp->unk_surface);
    free(sp->chars);
    buf_free(&sp->past);
    free(sp);
}

static uint8_t type_of(const SentencePiece *sp, int32_t id) { /* 0: no piece of the file */
    return id >= sp->first_id && id - sp->first_id < sp->n_pieces ? sp->type[id - sp->first_id] : 0;
}

/* [sp.bpe] merges from scores -------------------------------------------------------------------------------------- */

static CharSlot *char_slot(const SentencePiece *sp, uint32_t cp) {
    size_t i = mix(cp) & (sp->char_slots - 1);
    while (sp->chars[i].id >= 0 && sp->chars[i].cp != cp) i = (i + 1) & (sp->char_slots - 1);
    return &sp->chars[i];
}

static void char_add(SentencePiece *sp, uint32_t cp, int32_t id) {
    if (++sp->n_chars * 2 > sp->char_slots) {
        CharSlot *old = sp->chars;
        size_t n_old = sp->char_slots;
        sp->char_slots = n_old ? n_old * 4 : 1024;
        sp->chars = xmalloc(size_mul(sp->char_slots, sizeof *sp->chars));
        for (size_t i = 0; i < sp->char_slots; i++) sp->chars[i].id = -1;
        for (size_t i = 0; i < n_old; i++)
            if (old[i].id >= 0) *char_slot(sp, old[i].cp) = old[i];
        free(old);
    }
    *char_slot(sp, cp) = (CharSlot){cp, id};
    if (cp < 0x80) sp->ascii[cp] = id;
}

int32_t sentencepiece_symbols(const Tokenizer *t, const uint8_t *s, size_t n, int32_t *id) {
    const SentencePiece *sp = t->sp;
    int32_t n_id = 0;
    for (size_t i = 0, len; i < n; i += len) {
        if (sp->user.first[s[i]]) {
            int32_t user = trie_longest(&sp->user.trie, s + i, n - i, &len);
            if (user >= 0) {
                id[n_id++] = user; /* no merge has it: it stays whole */
                continue;
            }
        }
        int32_t one;
        uint32_t cp;
        if (s[i] < 0x80) one = sp->ascii[s[i]], len = 1;
        else {
            int got = utf8_char(s + i, n - i, &cp); /* what comes here is UTF-8, except from `show` */
            len = got > 0 ? (size_t)got : 1;
            one = got > 0 ? char_slot(sp, cp)->id : -1;
        }
        if (one >= 0) id[n_id++] = one;
        else if (!t->byte_fallback) id[n_id++] = sp->n_symbols;
        else for (size_t k = 0; k < len; k++) id[n_id++] = t->byte_id[s[i + k]];
    }
    return n_id;
}

size_t sentencepiece_past(const Tokenizer *t, int32_t id, char out[4]) {
    uint32_t cp = 0xFFFD;
    if (id < t->sp->n_symbols) memcpy(&cp, t->sp->past.data + 4 * (size_t)(id - t->n_ids), 4);
    return (size_t)utf8_put(cp, out);
}

static void put_symbol(const Tokenizer *t, const uint64_t *split, int32_t id, int depth, Ids *out) {
    const SentencePiece *sp = t->sp;
    if (id < t->n_ids && type_of(sp, id) != UNUSED) {
        ids_add(out, id);
        return;
    }
    if (id < t->n_ids && split[id] != NO_PAIR && depth <= 100) { /* the library's own limit */
        put_symbol(t, split, (int32_t)(split[id] >> 32), depth + 1, out);
        put_symbol(t, split, (int32_t)(uint32_t)split[id], depth + 1, out);
        return;
    }
    if (id < t->n_ids && depth > 100) {
        ids_add(out, id);
        return;
    }
    if (t->byte_fallback) {
        char bytes[4];
        int n = 0;
        const char *s = bytes;
        if (id < t->n_ids) s = vocab_str(&t->vocab, id), n = (int)t->vocab.spelling[id].n;
        else if (id < sp->n_symbols) n = (int)sentencepiece_past(t, id, bytes);
        for (int k = 0; k < n; k++) ids_add(out, t->byte_id[(uint8_t)s[k]]);
    } else if (!out->n || out->v[out->n - 1] != t->unk) ids_add(out, t->unk);
}

void sentencepiece_finish(const Tokenizer *t, const uint64_t *split, size_t from, Ids *ids) {
    const SentencePiece *sp = t->sp;
    size_t i = from;
    while (i < ids->n && ids->v[i] < t->n_ids && !(sp->any_unused && type_of(sp, ids->v[i]) == UNUSED)) i++;
    if (i == ids->n) return;
    Ids out = {0};
    for (size_t k = from; k < ids->n; k++) put_symbol(t, split, ids->v[k], 0, &out);
    ids->n = from;
    ids_room(ids, out.n);
    memcpy(ids->v + from, out.v, sizeof *out.v * out.n);
    ids->n += out.n;
    ids_free(&out);
}

typedef struct { float score; int32_t piece; } Ranked;

static int by_score(const void *a, const void *b) {
    float x = ((const Ranked *)a)->score, y = ((const Ranked *)b)->score;
    return (x < y) - (x > y);
}

/* The symbol that the text s is, or -1. */
static int32_t symbol_of(const Tokenizer *t, const uint8_t *s, size_t n) {
    const SentencePiece *sp = t->sp;
    if (utf8_step(s, n) == n) return char_slot(sp, char_of(s, n))->id;
    int32_t id = vocab_find(&t->vocab, (const char *)s, n);
    uint8_t type = id < 0 ? 0 : type_of(sp, id);
    return type == NORMAL || type == UNUSED ? id : -1;
}

static void join_neighbours(Joins *j, const uint8_t *s, size_t n) {
    uint32_t before = 0, c;
    for (size_t i = 0; i < n; i += utf8_step(s + i, n - i), before = c) {
        c = char_of(s + i, n - i);
        if (i) joins_add(j, before, c);
    }
}

enum { MAX_BPE_PIECE = 1024 }; /* every way to cut a piece in two is looked up: a file must not make that a hang */

static void bpe_build(Loader *l) {
    Tokenizer *t = l->t;
    SentencePiece *sp = t->sp;
    memset(sp->ascii, -1, sizeof sp->ascii);
    char_add(sp, MARK_CHAR, -1); /* so that there is a table to look into */
    sp->n_chars = 0;
    sp->n_symbols = t->n_ids;
    Ranked *order = xmalloc(size_mul((size_t)sp->n_pieces + 1, sizeof *order));
    int32_t n_order = 0;
    size_t n_splits = 0;
    for (int pass = 0; pass < 2; pass++) /* characters with a piece first: the others are those without */
        for (int32_t k = 0; k < sp->n_pieces; k++) {
            if (sp->type[k] != NORMAL && sp->type[k] != UNUSED) continue;
            const uint8_t *s = (const uint8_t *)vocab_str(&t->vocab, sp->first_id + k);
            size_t n = t->vocab.spelling[sp->first_id + k].n, len;
            bool one = utf8_step(s, n) == n;
            if (n > MAX_BPE_PIECE)
                die("%s: piece %d has %zu bytes; at most %d are supported", l->path, k, n, MAX_BPE_PIECE);
            if (one && !pass) char_add(sp, char_of(s, n), sp->first_id + k);
            if (one || !pass) continue;
            order[n_order++] = (Ranked){sp->score[k], k};
            for (size_t i = 0; i < n; i += len, n_splits++) {
                uint32_t cp = char_of(s + i, n - i);
                len = utf8_step(s + i, n - i);
                if (char_slot(sp, cp)->id >= 0) continue;
                char_add(sp, cp, sp->n_symbols++);
                buf_add(&sp->past, &cp, 4);
            }
        }
    if (n_order) qsort(order, (size_t)n_order, sizeof *order, by_score);
    merges_reserve(&t->merges, n_splits + 1);
    int32_t rank = -1;
    for (int32_t k = 0; k < n_order; k++) {
        if (!k || order[k].score != order[k - 1].score) rank++;
        int32_t id = sp->first_id + order[k].piece;
        const uint8_t *s = (const uint8_t *)vocab_str(&t->vocab, id);
        size_t n = t->vocab.spelling[id].n, len;
        for (size_t i = 0; i + (len = utf8_step(s + i, n - i)) < n; i += len) {
            size_t cut = i + len;
            int32_t left = symbol_of(t, s, cut), right = left < 0 ? -1 : symbol_of(t, s + cut, n - cut);
            if (left < 0 || right < 0) continue;
            *merge_slot(&t->merges, pair_of(left, right)) = (Merge){pair_of(left, right), rank, id};
            joins_add(&t->joins, char_of(s + i, len), char_of(s + cut, n - cut));
        }
    }
    free(order);
    t->joins.usable = !sp->any_unused; /* how an unused piece falls apart depends on the whole text */
    t->joins.fuse = !t->byte_fallback;
    for (size_t i = 0; i < sp->char_slots && t->joins.fuse; i++)
        if (sp->chars[i].id >= 0 && sp->chars[i].id < t->n_ids) joins_known(&t->joins, sp->chars[i].cp);
}

/* [sp.unigram] the most probable pieces ----------------------------------------------------------------------------- *
 * Each piece has a score, the logarithm of its probability; of all ways to cut the text the one with the highest sum
 * wins. place[i] holds the best way to the i-th character, known before any piece that begins there is tried (Viterbi,
 * 1967): `way` is the last piece's id and, in the upper half, the place where it begins. cp is the character behind a
 * place, at its byte; pair: where it and the next one would stand in the tree. Where no piece reaches across a place,
 * what lies before it is decided: there words can be looked up instead, and written out, so that memory stays small. */
typedef struct { union { double d; float f; } score; uint64_t way; const uint8_t *at; uint32_t cp, pair; } Place;
enum { UNKNOWN_CHAR = -1, NO_CHARACTER = 0x110000 };

struct Unigram {
    Trie trie;
    TriePiece *one;                              /* [FIRST_CHARS] of the root's children, close together; where there is
                                                    no piece, with the score of an unknown character */
    double *score, largest;                      /* score [n_ids], score[-1]: an unknown one's; largest: without sign */
    float *score_f;                              /* the same where single: half the memory to look into */
    int32_t unk;
    bool single;                                 /* SentencePiece's arithmetic; Hugging Face's is in double precision */
    bool joined[128][128];                       /* some piece has these two in a row; t->joins knows all others */
};

typedef struct { const Tokenizer *t; Ids *ids; size_t start; const uint8_t *run, *run_end; bool unknown; } Emit;

/* Unknown characters in a row are one. */
static void emit_run(Emit *e) {
    if (e->run == e->run_end) return;
    bool bytes = e->t->byte_fallback;
    for (const uint8_t *p = e->run; p < e->run_end && bytes; p++) bytes = e->t->byte_id[*p] >= 0;
    for (const uint8_t *p = e->run; p < e->run_end && bytes; p++) ids_add(e->ids, e->t->byte_id[*p]);
    int32_t unk = e->t->unigram->unk;
    if (!bytes && unk >= 0 && !(e->ids->n > e->start && e->ids->v[e->ids->n - 1] == unk)) ids_add(e->ids, unk);
    e->run = e->run_end;
}

static inline uint64_t way_of(size_t from, int32_t id) { return (uint64_t)from << 32 | (uint32_t)id; }

static void emit_path(Emit *e, Place *place, size_t n) { /* to place[n] */
    size_t n_ids = 0;
    int32_t id = 0;
    for (size_t i = n, after = n, before; i; after = i, i = before, n_ids++) { /* from now on, way says where to */
        before = place[i].way >> 32;
        int32_t last = (int32_t)(uint32_t)place[i].way;
        place[i].way = way_of(after, id);
        id = last;
        if (!before) place[0].way = way_of(i, id);
    }
    ids_room(e->ids, n_ids);
    for (size_t from = 0, to; from < n; from = to, n_ids--) {
        to = place[from].way >> 32, id = (int32_t)(uint32_t)place[from].way;
        if (id != UNKNOWN_CHAR) {
            if (e->run != e->run_end) {
                emit_run(e);
                ids_room(e->ids, n_ids);
            }
            e->ids->v[e->ids->n++] = id;
        } else {
            e->unknown = true;
            if (e->run == e->run_end) e->run = place[from].at;
            e->run_end = place[to].at;
        }
    }
}

/* Room for n places: the heap's memory, which only BPE needs otherwise. */
static Place *place_room(Worker *w, size_t n) {
    size_t words = size_mul(n, sizeof(Place) / sizeof *w->heap);
    if (words > w->heap_cap) {
        w->heap_cap = words * 2;
        w->heap = xrealloc(w->heap, size_mul(w->heap_cap, sizeof *w->heap));
    }
    return (Place *)(void *)w->heap;
}

/* Where text begins that is better looked up: signs between Chinese are not worth it. */
static bool begins_word(uint32_t cp) {
    return cp < 0x80 && (cp == ' ' || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z'));
}

/* The library starts its sums afresh beyond this, as single precision runs out. */
static const double RESET = 100000;

static inline double score_at(const Place *p, const bool single) { return single ? (double)p->score.f : p->score.d; }
static inline void set_score(Place *p, double score, const bool single) {
    if (single) p->score.f = (float)score;
    else p->score.d = score;
}

/* A piece leads from place `from` here, with that sum: is it the best way? By masks: a branch would guess wrong. */
static inline void offer(Place *to, const Unigram *u, double sum, TriePiece piece, size_t from, const bool single) {
    const float score_f = (float)sum + piece.score;
    const double score = single ? 0 : sum + u->score[piece.id];
    const uint64_t better = -(uint64_t)(single ? score_f > to->score.f : score > to->score.d);
    if (single) to->score.f = score_f > to->score.f ? score_f : to->score.f;
    else to->score.d = score > to->score.d ? score : to->score.d;
    to->way = (way_of(from, piece.id) & better) | (to->way & ~better);
}

typedef struct { Place *v; size_t n, room; } Places; /* n characters are known: v[n] is where the next begins */

/* One more character; the place behind it, and the score of the one after that, for a pair that is none. What the tree
 * knows of it lies anywhere in memory: it is asked for here, long before it is needed. */
static inline __attribute__((always_inline)) uint32_t look_on(const Unigram *u, Worker *w, Places *p,
                                                              const uint8_t *end, const bool single) {
    enum { MOST = 1 << 28 };
    if (p->n + 3 > p->room) {
        if (p->n >= MOST) die("a text of %d characters in which no place is sure to be a piece's end", MOST);
        p->v = place_room(w, p->room *= 2);
    }
    Place *here = p->v + p->n;
    uint32_t cp = *here->at;
    int len = cp < 0x80 ? 1 : utf8_char(here->at, (size_t)(end - here->at), &cp);
    if (len <= 0) cp = NO_CHARACTER + *here->at, len = 1; /* no piece has it */
    here->cp = cp;
    here[1].at = here->at + len;
    set_score(here + 2, -INFINITY, single);
    if (cp < FIRST_CHARS) __builtin_prefetch(u->one + cp);
    if (p->n++ && here[-1].cp < FIRST_CHARS) here[-1].pair = trie_pair(&u->trie, here[-1].cp, cp);
    return cp;
}

/* The best pieces of the text from s on, up to end or, with until_word, to the first decided place where a word begins.
 * Returns that place. sum: of the scores before s, then with those of the text. Characters are looked at AHEAD of the
 * place in hand, or, as a word may be looked up instead, to where one begins; at least a pair's, and the next. */
static inline __attribute__((always_inline)) const uint8_t *best_pieces(Emit *e, Worker *w, const uint8_t *s,
                                                                        const uint8_t *end, bool until_word,
                                                                        double *sum, const bool single) {
    enum { PART = 128, LOOK = 3, AHEAD = 16 };   /* PART: characters that are written out together */
    const Unigram *u = e->t->unigram;
    const Trie *trie = &u->trie;
    Places p = {place_room(w, 2 * PART), 0, 2 * PART};
    size_t reached = 0;                          /* pieces end as far as this place */
    bool word = false;
    p.v[0].at = s;
    set_score(&p.v[0], *sum, single);
    set_score(&p.v[1], -INFINITY, single);
    for (size_t i = 0;; i++) {
        while ((p.n < i + LOOK || (p.n < i + AHEAD && !word)) && p.v[p.n].at < end)
            word = begins_word(look_on(u, w, &p, end, single)) && until_word;
        const bool stop = i == p.n || (until_word && begins_word(p.v[i].cp));
        if ((i >= PART || stop) && i == reached && i) {
            emit_path(e, p.v, i);
            if (stop) {
                emit_run(e);
                *sum = score_at(&p.v[i], single);
                return p.v[i].at;
            }
            memmove(p.v, p.v + i, (p.n - i + 2) * sizeof *p.v);
            p.n -= i, reached = i = 0;
        }
        double here = score_at(&p.v[i], single);
        if (single && fabs(here) > RESET) {
            for (size_t k = i; k <= reached; k++) set_score(&p.v[k], score_at(&p.v[k], single) - here, single);
            here = 0;
        }
        const uint32_t cp = p.v[i].cp;
        uint32_t node = no_node(trie);           /* of the pair */
        TriePiece one;
        if (cp < FIRST_CHARS) {
            one = u->one[cp];
            if (i + 1 < p.n) node = trie_pair_node(trie, p.v[i].pair, cp, p.v[i + 1].cp);
        } else {
            uint32_t first = trie_step(trie, ROOT, cp), two = NO_NODE;
            one = trie->node[first == NO_NODE ? node : first].piece;
            if (one.id < 0) one.score = (float)u->score[-1];
            if (first != NO_NODE && i + 1 < p.n) two = trie_step(trie, first, p.v[i + 1].cp);
            if (two != NO_NODE) node = two;
        }
        const TriePiece pair = trie->node[node].piece;
        size_t to = i + 1 + (pair.id >= 0);
        offer(&p.v[i + 1], u, here, one, i, single);
        if (single || pair.id >= 0) offer(&p.v[i + 2], u, here, pair, i, single);
        if (i + 2 < p.n && trie->node[node].key_mask & child_bit(p.v[i + 2].cp)) /* longer ones, step by step */
            for (size_t k = i + 2; k < p.n || p.v[k].at < end;) {
                if (k == p.n) look_on(u, w, &p, end, single);
                if ((node = trie_step(trie, node, p.v[k++].cp)) == NO_NODE) break;
                if (trie->node[node].piece.id >= 0) offer(&p.v[to = k], u, here, trie->node[node].piece, i, single);
            }
        if (to > reached) reached = to;
    }
}

static const uint8_t *viterbi(Emit *e, Worker *w, const uint8_t *s, const uint8_t *end, bool until_word, double *sum) {
    return e->t->unigram->single ? best_pieces(e, w, s, end, until_word, sum, true)
                                 : best_pieces(e, w, s, end, until_word, sum, false);
}

/* How large may the sum before a word become until rounding can change how the word is cut? Exact sums of the best and
 * the second best way are d apart; m additions err by at most m * 2^-24 * (sum + m * largest) each way, so the order
 * holds while twice that is below d. Half of it, to be on the safe side. */
static float sum_limit(const Unigram *u, const uint8_t *s, size_t n) {
    double first[CACHE_WORD + 1], second[CACHE_WORD + 1];
    for (size_t i = 0; i <= n; i++) first[i] = second[i] = -INFINITY;
    first[0] = 0;
    int m = 0;
    for (size_t at = 0, len; at < n; at += len, m++) {
        len = utf8_step(s + at, n - at);
        bool one = false;
        uint32_t node = ROOT;
        for (size_t to = at; to <= n;) {
            double score;
            size_t step = to < n ? utf8_step(s + to, n - to) : 0;
            if (step && node != NO_NODE && (node = trie_step(&u->trie, node, char_of(s + to, step))) != NO_NODE) {
                to += step;
                int32_t id = u->trie.node[node].piece.id;
                if (id < 0) continue;
                score = u->score[id];
                one |= to - at == len;
            } else if (!one) to = at + len, score = u->score[-1], one = true, node = NO_NODE;
            else break;
            double a = first[at] + score, b = second[at] + score;
            if (a > first[to]) second[to] = fmax(first[to], b), first[to] = a;
            else second[to] = fmax(second[to], a);
        }
    }
    double limit = fmin((first[n] - second[n]) * 0x1p22 / m, RESET) - m * u->largest;
    return limit > 0 ? (float)limit : -1;
}

/* A word's slot in the cache: six ids as they are where nothing stands before it, how many, and the limit of sum_limit
 * (-1: ask viterbi). The key's last bit keeps these slots apart from those of encode_cached. */
enum { LIMIT = CACHE_IDS - 1 };

static void slot_fill(Emit *e, Worker *w, CacheSlot *c, const uint64_t key[4], const uint8_t *s, size_t n) {
    const Unigram *u = e->t->unigram;
    size_t before = e->ids->n;
    double sum = 0;
    e->unknown = false;
    viterbi(e, w, s, s + n, false, &sum);
    size_t n_ids = e->ids->n - before;
    bool sure = n_ids <= LIMIT && !e->unknown;
    float limit = sure ? sum_limit(u, s, n) : -1;
    memcpy(c->key, key, sizeof c->key);
    c->n = sure ? (int32_t)n_ids : 0;
    memcpy(c->id, e->ids->v + before, sizeof *c->id * (sure ? n_ids : 0));
    memcpy(&c->id[LIMIT], &limit, sizeof limit);
    e->ids->n = before;
}

/* The end of the word at s, of ASCII: where no piece reaches on. NULL: too long for the cache, or what follows is of
 * another script and may hang on it. */
static const uint8_t *word_end_at(const Tokenizer *t, const uint8_t *s, const uint8_t *end) {
    const uint8_t *limit = end - s > CACHE_WORD ? s + CACHE_WORD : end, *p = s + 1;
    for (; p < limit; p++) {
        if (*p >= 0x80) return chars_joined(&t->joins, p[-1], char_of(p, (size_t)(end - p))) ? NULL : p;
        if (!t->unigram->joined[p[-1]][*p]) return p;
    }
    return p == end ? p : NULL;
}

typedef struct { const uint8_t *s, *end; CacheSlot *slots; uint64_t key[4]; } Word;

static bool has_key(const CacheSlot *c, const uint64_t key[4]) {
    return c->key[0] == key[0] && c->key[1] == key[1] && c->key[2] == key[2] && c->key[3] == key[3];
}

/* The word's slot, filled. Here a word has two, as a miss costs a microsecond: the older one gives way. */
static const CacheSlot *filled_slot(Emit *e, Worker *w, const Word *word) {
    CacheSlot *c = word->slots;
    if (has_key(&c[0], word->key)) return &c[0];
    if (has_key(&c[1], word->key)) return &c[1];
    c[1] = c[0];
    slot_fill(e, w, c, word->key, word->s, (size_t)(word->end - word->s));
    return c;
}

/* Text of words goes through the cache, several at once, so that their slots come from memory together; anything else
 * through viterbi: Chinese has no words to look up, and is as fast so. */
static void encode_words(Emit *e, Worker *w, const uint8_t *s, const uint8_t *end) {
    const Unigram *u = e->t->unigram;
    Ids *ids = e->ids;
    Word words[WORDS_AT_ONCE];
    double sum = 0;
    while (s < end) {
        int n = 0;
        for (const uint8_t *next; n < WORDS_AT_ONCE && s < end && *s < 0x80; n++, s = next) {
            Word *word = &words[n];
            if (!(next = word_end_at(e->t, s, end))) break;
            word->s = s, word->end = next;
            cache_key(s, (size_t)(next - s), end, word->key);
            word->key[3] |= 1ull << 63;
            word->slots = w->cache + ((size_t)(cache_slot(w, word->key) - w->cache) & ~(size_t)1);
            __builtin_prefetch(word->slots);
            __builtin_prefetch(word->slots + 1);
        }
        for (const Word *word = words; word < words + n; word++) {
            const CacheSlot *c = filled_slot(e, w, word);
            float limit;
            memcpy(&limit, &c->id[LIMIT], sizeof limit);
            if (fabs(sum) > limit) {
                viterbi(e, w, word->s, word->end, false, &sum);
                continue;
            }
            ids_room(ids, CACHE_IDS);
            memcpy(ids->v + ids->n, c->id, sizeof c->id); /* a copy of fixed size has no branch */
            float sum_f = (float)sum;
            for (int32_t i = 0; i < c->n; i++) sum_f += u->score_f[c->id[i]];
            sum = sum_f;
            ids->n += (size_t)c->n;
        }
        if (n < WORDS_AT_ONCE && s < end) s = viterbi(e, w, s, end, true, &sum);
    }
}

void unigram_encode(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    Emit e = {.t = t, .ids = ids, .start = ids->n};
    double sum = 0;
    if (t->unigram->single) encode_words(&e, w, s, s + n);
    else if (n) viterbi(&e, w, s, s + n, false, &sum);
}

/* score: NaN where an id is no piece. joins: gets the pieces' neighbours, or NULL. blanks: the text has blanks where
 * the pieces have marks. */
static Unigram *unigram_build(const Tokenizer *t, const double *score, int32_t unk, double least, Joins *joins,
                              bool blanks, const char *path) {
    Unigram *u = xcalloc(1, sizeof *u);
    size_t n_ids = t->vocab.n_ids;
    Key *keys = xmalloc(size_mul(n_ids + 1, sizeof *keys));
    uint32_t n_keys = 0;
    char *text = xmalloc(t->vocab.pool.len + 1), *p = text;
    u->score = (double *)xmalloc(size_mul(n_ids + 1, sizeof *u->score)) + 1;
    u->unk = unk;
    u->score[-1] = least - 10;
    u->largest = fabs(u->score[-1]);
    for (size_t id = 0; id < n_ids; id++) {
        const Spelling *spelling = &t->vocab.spelling[id];
        u->score[id] = spelling->used && spelling->n ? score[id] : NAN;
        if (isnan(u->score[id])) continue;
        u->largest = fmax(u->largest, fabs(u->score[id]));
        const char *s = vocab_str(&t->vocab, (int32_t)id), *from = p;
        size_t n = spelling->n;
        if (blanks && memchr(s, ' ', n)) continue; /* no text has it */
        for (size_t i = 0, len; i < n; i += len) {
            bool mark = blanks && n - i >= MARK_BYTES && !memcmp(s + i, MARK, MARK_BYTES);
            len = mark ? MARK_BYTES : 1;
            *p++ = mark ? ' ' : s[i];
        }
        keys[n_keys++] = (Key){(uint8_t *)from, (uint32_t)(p - from), (int32_t)id};
        if (joins) join_neighbours(joins, (uint8_t *)from, (size_t)(p - from));
    }
    u->trie = trie_build(keys, n_keys, path);
    free(keys);
    free(text);
    return u;
}

/* What the search meets together lies together: pieces with their scores, once those are final. */
static void unigram_place_scores(Unigram *u) {
    u->one = xmalloc(FIRST_CHARS * sizeof *u->one);
    for (uint32_t i = 0; i <= no_node(&u->trie); i++) {
        TriePiece *piece = &u->trie.node[i].piece;
        float score = (float)u->score[piece->id];
        piece->score = piece->id < 0 ? -INFINITY : score;
        if (i < FIRST_CHARS) u->one[i] = (TriePiece){piece->id, score};
    }
}

Unigram *unigram_new(const Tokenizer *t, const double *score, int32_t unk) {
    double least = INFINITY;
    for (size_t id = 0; id < t->vocab.n_ids; id++)
        if (score[id] < least) least = score[id];
    Unigram *u = unigram_build(t, score, unk, least, NULL, false, "the vocabulary");
    unigram_place_scores(u);
    return u;
}

void unigram_free(Unigram *u) {
    if (!u) return;
    trie_free(&u->trie);
    free(u->one);
    free(u->score - 1);
    if (u->score_f) free(u->score_f - 1);
    free(u);
}

/* [sp.load] the parts put together --------------------------------------------------------------------------------- */

/* ChatGLM-6B's tokenizer writes what its vocabulary cannot hold as words: the line break as <n>, the tab as <|tab|>, a
 * run of 2 to 80 blanks as <|blank_N|>; and turns these words back into what they stand for after decoding. */
enum { MAX_BLANKS = 80 };

/* Is one of the eight bytes at p a line break or a tab, or a blank before another (p[8] is looked at)? x - 1 borrows
 * into the high bit where a byte x is 0. */
static inline bool any_blanks(const uint8_t *p) {
    const uint64_t ones = 0x0101010101010101ull, high = ones << 7;
    uint64_t x, next;
    memcpy(&x, p, 8);
    memcpy(&next, p + 1, 8);
    const uint64_t a = x ^ ones * '\n', b = x ^ ones * '\t', c = (x ^ ones * ' ') | (next ^ ones * ' ');
    return (((a - ones) & ~a) | ((b - ones) & ~b) | ((c - ones) & ~c)) & high;
}

/* How much of s comes before the first line break, tab or row of blanks. */
static size_t before_blanks(const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i + 8 < n && !any_blanks(s + i)) i += 8;
    while (i < n && s[i] != '\n' && s[i] != '\t' && !(s[i] == ' ' && i + 1 < n && s[i + 1] == ' ')) i++;
    return i;
}

static void blanks_to_words(const uint8_t *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        size_t plain = before_blanks(s + i, n - i);
        put(out, s + i, plain);
        i += plain;
        if (i == n) break;
        if (s[i] != ' ') {
            buf_str(out, s[i++] == '\n' ? "<n>" : "<|tab|>");
            continue;
        }
        int run = 0;
        while (i < n && s[i] == ' ' && run < MAX_BLANKS) i++, run++;
        if (run > 1) buf_fmt(out, "<|blank_%d|>", run);
        else buf_str(out, " ");
    }
}

/* If s begins with such a word: its length, and what it stands for in *c, *times over. 0: it does not. */
static size_t blank_word(const char *s, size_t n, char *c, int *times) {
    *times = 1;
    if (n >= 3 && !memcmp(s, "<n>", 3)) return *c = '\n', 3;
    if (n >= 7 && !memcmp(s, "<|tab|>", 7)) return *c = '\t', 7;
    if (n < 11 || memcmp(s, "<|blank_", 8)) return 0;
    size_t i = 8;
    for (*times = 0; i < n && i < 10 && s[i] >= '0' && s[i] <= '9'; i++) *times = *times * 10 + (s[i] - '0');
    *c = ' ';
    bool sound = *times >= 2 && *times <= MAX_BLANKS && s[8] != '0' && i + 2 <= n && s[i] == '|' && s[i + 1] == '>';
    return sound ? i + 2 : 0;
}

static void words_to_blanks(const char *s, size_t n, Buf *out) {
    for (size_t i = 0, len; i < n; i += len) {
        char c = s[i];
        int times = 1;
        len = s[i] == '<' ? blank_word(s + i, n - i, &c, &times) : 0;
        if (!len) c = s[i], times = 1, len = 1;
        while (times-- > 0) put(out, &c, 1);
    }
}

void sentencepiece_normalize(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Buf *out) {
    const SentencePiece *sp = t->sp;
    if (sp->blanks_as_tokens) {
        w->prefixed.len = 0;
        blanks_to_words(s, n, &w->prefixed);
        s = (const uint8_t *)w->prefixed.data, n = w->prefixed.len;
    }
    room_for(out, 1);
    normalize_text(&sp->norm, &sp->user, s, n, out);
}

/* What the library does to a decoded text: everything in out from `from` on. */
void sentencepiece_text(const Tokenizer *t, size_t from, Buf *out) {
    static const UserPieces none;
    const SentencePiece *sp = t->sp;
    Buf text = {0};
    if (out->len == from || !(sp->denormalizes || sp->blanks_as_tokens)) return;
    buf_add(&text, out->data + from, out->len - from);
    out->len = from;
    if (sp->denormalizes) normalize_text(&sp->denorm, &none, (const uint8_t *)text.data, text.len, out);
    else words_to_blanks(text.data, text.len, out);
    buf_add(out, "", 0); /* its NUL */
    buf_free(&text);
}

typedef struct { Proto in; uint64_t type; float score; } PieceField;

static PieceField read_piece(Proto in, int32_t k) {
    PieceField piece = {.in = {NULL, NULL, in.path}, .type = NORMAL};
    Field f;
    while (next_field(&in, &f)) {
        if (is_bytes(&f, 1)) piece.in = f.in;
        else if (f.number == 2 && f.wire == FIXED32) memcpy(&piece.score, f.in.p, 4);
        else if (is_number(&f, 3)) piece.type = f.value;
    }
    if (piece.in.p == piece.in.end) die("%s: piece %d is empty", in.path, k);
    if (piece.type < NORMAL || piece.type > BYTE)
        die("%s: piece %d has the unknown type %llu", in.path, k, (unsigned long long)piece.type);
    if (!isfinite(piece.score)) die("%s: the score of piece %d is not a number", in.path, k);
    return piece;
}

/* Texts of the library are C++ strings, those in its tries end at a NUL: a piece with one is a mistake of whoever made
 * the file. Known files have such a piece for the NUL itself, beside <0x00>; the library ignores it. */
static bool is_null_piece(PieceField p) { return p.in.end - p.in.p == 1 && !*p.in.p; }

static void check_text(PieceField p, int32_t k) {
    uint32_t cp;
    enum { MAX_PIECE = 8000 }; /* the library's own limit */
    if (p.in.end - p.in.p >= MAX_PIECE) die("%s: piece %d has %zu bytes", p.in.path, k, (size_t)(p.in.end - p.in.p));
    for (const uint8_t *s = p.in.p; s < p.in.end;) {
        int len = utf8_char(s, (size_t)(p.in.end - s), &cp);
        if (len <= 0 || !cp) die("%s: piece %d is not text in UTF-8", p.in.path, k);
        s += len;
    }
}

typedef struct { uint64_t model_type; bool byte_fallback, suffix, has_surface; Proto bos, eos, surface; } Trainer;

static Trainer read_trainer(Proto in) {
    static const char BOS[] = "<s>", EOS[] = "</s>";
    Trainer trainer = {.model_type = 1, .bos = {(const uint8_t *)BOS, (const uint8_t *)BOS + 3, in.path},
                       .eos = {(const uint8_t *)EOS, (const uint8_t *)EOS + 4, in.path}};
    Field f;
    while (next_field(&in, &f)) {
        if (is_number(&f, 3)) trainer.model_type = f.value;
        else if (is_number(&f, 24)) trainer.suffix = f.value;
        else if (is_number(&f, 35)) trainer.byte_fallback = f.value;
        else if (is_bytes(&f, 44)) trainer.surface = f.in, trainer.has_surface = true;
        else if (is_bytes(&f, 46) && field_len(&f)) trainer.bos = f.in;
        else if (is_bytes(&f, 47) && field_len(&f)) trainer.eos = f.in;
    }
    return trainer;
}

static void read_normalizer(Normalizer *z, Proto in) {
    Field f;
    while (next_field(&in, &f)) {
        if (is_bytes(&f, 2)) {
            charsmap_free(z->charsmap);
            z->charsmap = field_len(&f) ? charsmap_new(f.in.p, field_len(&f), in.path) : NULL;
        } else if (is_number(&f, 3)) z->dummy_prefix = f.value;
        else if (is_number(&f, 4)) z->collapse = f.value;
        else if (is_number(&f, 5)) z->escape = f.value;
    }
}

static int32_t control_piece(const Tokenizer *t, Proto name) {
    int32_t id = vocab_find(&t->vocab, (const char *)name.p, (size_t)(name.end - name.p));
    return id >= 0 && type_of(t->sp, id) == CONTROL ? id : -1;
}

static void read_pieces(Loader *l, Proto in, int32_t n_pieces) {
    Tokenizer *t = l->t;
    SentencePiece *sp = t->sp;
    sp->type = xcalloc((size_t)n_pieces + 1, 1);
    sp->score = xcalloc((size_t)n_pieces + 1, sizeof *sp->score);
    Field f;
    t->unk = -1;
    while (next_field(&in, &f)) {
        if (!is_bytes(&f, 1)) continue;
        int32_t k = sp->n_pieces++;
        PieceField p = read_piece(f.in, k);
        sp->type[k] = (uint8_t)p.type, sp->score[k] = p.score;
        if (is_null_piece(p) && (t->byte_fallback || p.type == UNUSED)) {
            sp->type[k] = CONTROL; /* written as nothing, found in no text */
            continue;
        }
        check_text(p, k);
        int32_t id = sp->first_id + k;
        read_token(l, (const char *)p.in.p, (size_t)(p.in.end - p.in.p), (uint32_t)id);
        sp->any_unused |= p.type == UNUSED;
        sp->user.any |= p.type == USER_DEFINED;
        if (p.type == BYTE && (p.in.end - p.in.p != 6 || memcmp(p.in.p, "<0x", 3)))
            die("%s: piece %d is a byte, and not spelt like <0x0A>", l->path, k);
        if (p.type == BYTE && !t->byte_fallback)
            die("%s: piece %d is a byte, and there is no byte_fallback", l->path, k);
        if (p.type != UNKNOWN) continue;
        if (t->unk >= 0) die("%s: pieces %d and %d are both the unknown one", l->path, t->unk - sp->first_id, k);
        t->unk = id;
    }
    if (t->unk < 0 && !t->byte_fallback) die("%s: no piece stands for what is unknown", l->path);
    for (int b = 0; b < 256 && t->byte_fallback; b++) {
        char name[8];
        int32_t id = vocab_find(&t->vocab, name, (size_t)sprintf(name, "<0x%02X>", b));
        if (id < 0 || type_of(sp, id) != BYTE) die("%s: byte_fallback, and no piece for the byte 0x%02X", l->path, b);
    }
}

static void user_build(Loader *l) {
    SentencePiece *sp = l->t->sp;
    Key *keys = xmalloc(size_mul((size_t)sp->n_pieces + 1, sizeof *keys));
    uint32_t n_keys = 0;
    for (int32_t k = 0; k < sp->n_pieces && sp->user.any; k++) {
        if (sp->type[k] != USER_DEFINED) continue;
        int32_t id = sp->first_id + k;
        const uint8_t *s = (const uint8_t *)vocab_str(&l->t->vocab, id);
        keys[n_keys++] = (Key){s, l->t->vocab.spelling[id].n, id};
        sp->user.first[*s] = true;
        join_neighbours(&l->t->joins, s, l->t->vocab.spelling[id].n);
    }
    if (sp->user.any) sp->user.trie = trie_build(keys, n_keys, l->path);
    free(keys);
}

static void unigram_load(Loader *l) {
    Tokenizer *t = l->t;
    SentencePiece *sp = t->sp;
    double *score = xmalloc(size_mul(t->vocab.n_ids + 1, sizeof *score)), least = 0x1.fffffep127;
    for (size_t id = 0; id < t->vocab.n_ids; id++) score[id] = NAN;
    for (int32_t k = 0; k < sp->n_pieces; k++) {
        if (sp->type[k] == NORMAL) {
            score[sp->first_id + k] = sp->score[k];
            least = fmin(least, sp->score[k]);
        } else if (sp->type[k] == USER_DEFINED) /* better than anything else that could stand there */
            score[sp->first_id + k] = (float)(0.1 * ((double)t->vocab.spelling[sp->first_id + k].n - 1));
    }
    t->unigram = unigram_build(t, score, t->unk, least, &t->joins, sp->norm.escape && sp->norm.n_blank == 1, l->path);
    t->unigram->score[-1] = (float)least - 10.0f;
    t->unigram->single = true;
    for (uint32_t a = 1; a < 128; a++)
        for (uint32_t b = 1; b < 128; b++) t->unigram->joined[a][b] = chars_joined(&t->joins, a, b);
    t->unigram->score_f = (float *)xmalloc(size_mul(t->vocab.n_ids + 1, sizeof *t->unigram->score_f)) + 1;
    for (int32_t id = -1; id < (int32_t)t->vocab.n_ids; id++) t->unigram->score_f[id] = (float)t->unigram->score[id];
    unigram_place_scores(t->unigram);
    free(score);
}

typedef enum { PLAIN, CHATGLM_6B, CHATGLM_3 } Family; /* CHATGLM_3: 2 as well, which has no roles but room for them */

static bool config_says(const char *dir, const char *file, const char *key, const char *value) {
    char *path = path_join(dir, file);
    cJSON *json = file_exists(path) ? json_read(path, JSON_OBJECT) : NULL;
    const char *s = json_str(json, key);
    bool yes = s && !strcmp(s, value);
    cJSON_Delete(json);
    free(path);
    return yes;
}

static Family family_of(const Loader *l) {
    size_t n = strlen(l->path), n_name = strlen("ice_text.model");
    if (n >= n_name && !strcmp(l->path + n - n_name, "ice_text.model")) return CHATGLM_6B;
    return config_says(l->dir, "tokenizer_config.json", "tokenizer_class", "ChatGLMTokenizer") ||
           config_says(l->dir, "config.json", "model_type", "chatglm") ? CHATGLM_3 : PLAIN;
}

/* A key of tokenizer_config.json, or NULL where there is no such key or no such file. The caller deletes *json. */
static const cJSON *config_get(const char *dir, const char *key, cJSON **json) {
    char *path = path_join(dir, "tokenizer_config.json");
    *json = file_exists(path) ? json_read(path, JSON_OBJECT) : NULL;
    free(path);
    return json_get(*json, key);
}

/* Older files of ChatGLM-6B put the tokens of images before those of text: 20,000 ids that no text uses. */
static int32_t image_tokens(const Loader *l) {
    cJSON *json;
    const cJSON *number = config_get(l->dir, "num_image_tokens", &json);
    double n = cJSON_IsNumber(number) ? number->valuedouble : 0;
    if (!(n >= 0 && n < MAX_IDS / 2) || n != (double)(int32_t)n)
        die("%s/tokenizer_config.json: num_image_tokens is %.17g", l->dir, n);
    cJSON_Delete(json);
    return (int32_t)n;
}

static const char *const CHATGLM_3_TOKENS[] = {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>",
                                               "<|assistant|>", "<|observation|>"};
enum { N_CHATGLM_3_TOKENS = 9, FIRST_ROLE = 5 };

/* The special tokens and what stands around a text. Those that are found in a text, if the caller allows it, are added
 * tokens; of ChatGLM3 only the roles are. */
static void read_family(Loader *l, Family family) {
    Tokenizer *t = l->t;
    SentencePiece *sp = t->sp;
    int32_t past = sp->first_id + sp->n_pieces;
    for (int i = 0; i < N_CHATGLM_3_TOKENS && family == CHATGLM_3; i++) {
        size_t n = strlen(CHATGLM_3_TOKENS[i]);
        char *text = strf("%s", CHATGLM_3_TOKENS[i]);
        if (i < FIRST_ROLE) read_token(l, text, n, (uint32_t)(past + i));
        else add_token(l, (AddedToken){.text = text, .n = n, .id = past + i, .special = true});
        free(text);
    }
    for (int32_t k = 0; k < sp->n_pieces && family != CHATGLM_3; k++) {
        int32_t id = sp->first_id + k;
        if ((sp->type[k] != CONTROL && sp->type[k] != UNKNOWN) || (size_t)id >= t->vocab.n_ids) continue;
        if (!t->vocab.spelling[id].used) continue; /* the NUL's */
        char *text = strf("%.*s", (int)t->vocab.spelling[id].n, vocab_str(&t->vocab, id));
        add_token(l, (AddedToken){.text = text, .n = t->vocab.spelling[id].n, .id = id, .special = true});
        free(text);
    }
    read_added_tokens(l);
    read_roles(l);
    if (family == CHATGLM_3) {
        wrap_add(&t->single, past + 1, 0); /* [gMASK] sop */
        wrap_add(&t->single, past + 3, 0);
        wrap_add(&t->single, WRAP_A, 0);
    } else if (family == CHATGLM_6B) {
        int32_t gmask = vocab_find(&t->vocab, "[gMASK]", 7), sop = vocab_find(&t->vocab, "<sop>", 5);
        if (gmask < 0 || sop < 0) die("%s: there is no piece [gMASK] or <sop>: not ChatGLM-6B's vocabulary", l->path);
        t->single.n = 0;
        wrap_add(&t->single, WRAP_A, 0);
        wrap_add(&t->single, gmask, 0);
        wrap_add(&t->single, sop, 0);
    } else if (!t->single.n && t->bos >= 0) {
        cJSON *json;
        bool silent = !config_get(l->dir, "add_bos_token", &json); /* the classes that read such files add it then */
        cJSON_Delete(json);
        if (silent) wrap_add(&t->single, t->bos, 0), wrap_add(&t->single, WRAP_A, 0);
    }
}

/* How a token is written. The first blank of a text is the one that encoding put there. */
static void write_piece(const Loader *l, int32_t id, bool first, const void *state, Buf *out) {
    (void)state;
    const SentencePiece *sp = l->t->sp;
    const char *s = vocab_str(&l->t->vocab, id);
    size_t n = l->t->vocab.spelling[id].n;
    int byte, times;
    char c;
    switch (type_of(sp, id)) {
    case CONTROL: return;
    case UNKNOWN: buf_add(out, sp->unk_surface.data, sp->unk_surface.len); return;
    case BYTE:
        byte = (int)strtol(s + 3, NULL, 16);
        buf_add(out, &(uint8_t){(uint8_t)byte}, 1);
        return;
    case 0: buf_add(out, s, n); return; /* added */
    default: break;
    }
    if (sp->blanks_as_tokens && blank_word(s, n, &c, &times) == n) {
        while (times-- > 0) buf_add(out, &c, 1);
        return;
    }
    if (first && (sp->norm.dummy_prefix || sp->norm.collapse) && n >= MARK_BYTES && !memcmp(s, MARK, MARK_BYTES))
        s += MARK_BYTES, n -= MARK_BYTES;
    for (size_t i = 0, len; i < n; i += len) {
        bool mark = n - i >= MARK_BYTES && !memcmp(s + i, MARK, MARK_BYTES);
        len = mark ? MARK_BYTES : 1;
        buf_add(out, mark ? " " : s + i, 1);
    }
}

static void decoder_load(Loader *l) {
    Tokenizer *t = l->t;
    SentencePiece *sp = t->sp;
    Decoder *d = &t->decoder;
    decoder_build(l, true, write_piece, NULL);
    d->bad = BAD_BYTE;
    d->is_byte = xcalloc((size_t)t->n_ids, 1);
    d->start = xcalloc((size_t)t->n_ids, 1);
    for (int32_t id = 0; id < t->n_ids; id++) {
        uint8_t type = type_of(sp, id);
        d->is_byte[id] = type == BYTE;
        bool empty = d->text[1].at[id] == d->text[1].at[id + 1];
        bool took_blank = empty && in_text(type) && !sp->norm.collapse;
        bool added = !type && t->vocab.spelling[id].used;
        d->start[id] = added ? START_OVER : empty && !took_blank ? START_STAYS : START_ENDS;
    }
}

void sentencepiece_load(Loader *l) {
    Tokenizer *t = l->t;
    Mapped file = file_map(l->path);
    Proto in = {file.data, file.data + file.bytes, l->path}, pass = in;
    SentencePiece *sp = t->sp = xcalloc(1, sizeof *sp);
    sp->norm = sp->denorm = (Normalizer){.dummy_prefix = true, .collapse = true, .escape = true,
                                            .blank = MARK, .n_blank = MARK_BYTES};
    Trainer trainer = read_trainer((Proto){in.p, in.p, l->path});
    size_t n_pieces = 0;
    Field f;
    while (next_field(&pass, &f)) {
        if (is_bytes(&f, 1)) n_pieces++;
        else if (is_bytes(&f, 2)) trainer = read_trainer(f.in);
        else if (is_bytes(&f, 3)) read_normalizer(&sp->norm, f.in);
        else if (is_bytes(&f, 5)) read_normalizer(&sp->denorm, f.in);
    }
    if (!n_pieces) die("%s: no pieces: not a SentencePiece file", l->path);
    if (n_pieces >= MAX_IDS / 2) die("%s: %zu pieces; at most %d are supported", l->path, n_pieces, MAX_IDS / 2 - 1);
    if (trainer.model_type != 1 && trainer.model_type != 2)
        die("%s: the model type %llu is not supported (1, unigram, and 2, BPE, are)", l->path,
            (unsigned long long)trainer.model_type);
    Family family = family_of(l);
    t->model = trainer.model_type == 1 ? MODEL_UNIGRAM : MODEL_BPE;
    t->byte_fallback = trainer.byte_fallback;
    sp->norm.suffix = trainer.suffix;
    sp->denormalizes = sp->denorm.charsmap;
    sp->blanks_as_tokens = family == CHATGLM_6B;
    sp->first_id = family == CHATGLM_6B ? image_tokens(l) : 0;
    Proto surface = trainer.surface;
    if (trainer.has_surface) buf_add(&sp->unk_surface, surface.p, (size_t)(surface.end - surface.p));
    else buf_str(&sp->unk_surface, " \xE2\x81\x87 ");
    read_pieces(l, in, (int32_t)n_pieces);
    t->bos = control_piece(t, trainer.bos);
    t->eos = control_piece(t, trainer.eos);
    read_family(l, family);
    norm_add(t, (NormStep){.kind = NORM_SENTENCEPIECE});
    finish_tokens(l);
    for (int32_t id = 0; id < t->n_ids; id++) {
        uint8_t type = type_of(sp, id);
        t->is_special[id] |= type == CONTROL || type == UNKNOWN || (!type && family == CHATGLM_3);
    }
    user_build(l);
    /* Unigram would rather have ASCII than marks; but one that is no piece must fall into the mark's bytes. */
    int32_t mark = vocab_find(&t->vocab, MARK, MARK_BYTES);
    bool marks = t->model == MODEL_BPE || (t->byte_fallback && (mark < 0 || type_of(sp, mark) != NORMAL));
    normalizer_prepare(&sp->norm, &sp->user, sp->norm.escape && marks);
    normalizer_prepare(&sp->denorm, &(UserPieces){.any = false}, sp->denorm.escape);
    if (t->model == MODEL_UNIGRAM) unigram_load(l);
    else bpe_build(l);
    t->note_splits = sp->any_unused && t->model == MODEL_BPE;
    decoder_load(l);
    file_unmap(&file);
}
