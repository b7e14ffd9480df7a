/* norm.c - text -> text: the normalizer steps of a tokenizer.json, before anything is cut.
 *
 * The reference library's tables of marks and decompositions are those of Unicode 9, its lower case is much younger;
 * what utf8proc knows beyond that is left out here by tables, and what it does not know yet is added. */
#include "parts.h"

#include <stdlib.h>
#include <utf8proc.h>

/* [tok.norm] one spelling per character ---------------------------------------------------------------------------- *
 * "é" may be one character or an e with an accent that follows it. NFC makes it one, NFD two; NFKC and NFKD also write
 * look-alikes as what they resemble ("ﬁ" as "fi"). */

typedef struct { uint32_t first, last; } Range;

/* Marks younger than Unicode 9, and others that the library does not take for marks: it leaves them where they are. */
static const Range young_marks[] = {
    {0x7FD, 0x7FD}, {0x897, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xAFA, 0xAFF}, {0xB55, 0xB55}, {0xC04, 0xC04},
    {0xC3C, 0xC3C}, {0xCF3, 0xCF3}, {0xD00, 0xD00}, {0xD3B, 0xD3C}, {0xD81, 0xD81}, {0xEBA, 0xEBA}, {0xECE, 0xECE},
    {0x1715, 0x1715}, {0x180F, 0x180F}, {0x1ABF, 0x1AFF}, {0x1CF7, 0x1CF7}, {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C}, {0xA8FF, 0xA8FF}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x11073, 0x11074},
    {0x110C2, 0x110C2}, {0x11145, 0x11146}, {0x111C9, 0x111C9}, {0x111CE, 0x111CF}, {0x11241, 0x11241},
    {0x1133B, 0x1133B}, {0x113B8, 0x113E2}, {0x1145E, 0x1145E}, {0x1182C, 0x1183A}, {0x11930, 0x11943},
    {0x119D1, 0x119E4}, {0x11A01, 0x11A0A}, {0x11A33, 0x11A3E}, {0x11A47, 0x11A5B}, {0x11A8A, 0x11A99},
    {0x11B60, 0x11B67}, {0x11D31, 0x11D47}, {0x11D8A, 0x11D97}, {0x11EF3, 0x11EF6}, {0x11F00, 0x11F03},
    {0x11F34, 0x11F42}, {0x11F5A, 0x11F5A}, {0x13440, 0x13455}, {0x1611E, 0x1612F}, {0x16D63, 0x16D6A},
    {0x16F4F, 0x16F4F}, {0x16F7F, 0x16F87}, {0x16FE4, 0x16FE4}, {0x16FF0, 0x16FF1}, {0x1CF00, 0x1CF46},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6F5}};

/* Characters younger than Unicode 9 that others have been defined to consist of, or to resemble. */
static const Range young_composites[] = {
    {0x32FF, 0x32FF}, {0xA7F1, 0xA7F4}, {0xAB69, 0xAB69}, {0x105C9, 0x105C9}, {0x105E4, 0x105E4}, {0x10781, 0x107BA},
    {0x11383, 0x11391}, {0x113C5, 0x113C8}, {0x11938, 0x11938}, {0x16121, 0x16128}, {0x16D68, 0x16D6A},
    {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

static bool in_ranges(uint32_t cp, const Range *r, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (cp >= r[i].first && cp <= r[i].last) return true;
    return false;
}
#define IN(cp, table) in_ranges(cp, table, sizeof table / sizeof *table)

static int combining_class(int32_t cp) { return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class; }

/* Canonical order: in each row of characters with a combining class, by class, equal ones as they stood. utf8proc's own
 * way takes the square of the row's length: an hour for a hostile megabyte. Rows of real text have two or three. */
static void order_marks(int32_t *c, size_t n) {
    int32_t *room = NULL;
    for (size_t from = 0, to; from < n; from = to + 1) {
        bool sorted = true;
        int before = 0, class;
        for (to = from; to < n && (class = combining_class(c[to])); to++, before = class) sorted &= before <= class;
        if (sorted) continue;
        size_t at[257] = {0};
        if (!room) room = xmalloc(size_mul(n, sizeof *room));
        for (size_t i = from; i < to; i++) at[combining_class(c[i]) + 1]++;
        for (int k = 0; k < 256; k++) at[k + 1] += at[k];
        for (size_t i = from; i < to; i++) room[at[combining_class(c[i])]++] = c[i];
        memcpy(c + from, room, (to - from) * sizeof *c);
    }
    free(room);
}

/* s, well-formed, in the normal form that options say, appended. */
static void form_append(const uint8_t *s, size_t n, int options, Buf *out) {
    enum { MOST = 18 }; /* characters that one decomposes into: U+FDFA */
    size_t cap = n + MOST, n_c = 0;
    int32_t *c = xmalloc(size_mul(cap, sizeof *c));
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp = 0;
        int boundary;
        len = (size_t)utf8_char(s + i, n - i, &cp);
        if (cap - n_c < MOST) c = xrealloc(c, size_mul(cap *= 2, sizeof *c));
        ssize_t made = utf8proc_decompose_char((int32_t)cp, c + n_c, MOST, (utf8proc_option_t)options, &boundary);
        if (made < 0 || made > MOST) die("normalising %zu bytes of text: %s", n, utf8proc_errmsg(made));
        n_c += (size_t)made;
    }
    order_marks(c, n_c);
    ssize_t left = utf8proc_normalize_utf32(c, (ssize_t)n_c, (utf8proc_option_t)options);
    if (left < 0) die("normalising %zu bytes of text: %s", n, utf8proc_errmsg(left));
    for (ssize_t i = 0; i < left; i++) {
        char bytes[4];
        buf_add(out, bytes, (size_t)utf8_put((uint32_t)c[i], bytes));
    }
    free(c);
}

/* Just before the Hangul finals, and none: utf8proc would have a syllable swallow it. */
enum { NO_FINAL = 0x11A7 };

enum { NFC_BASE, NFC_SUSPECT, NFC_BARRIER }; /* a barrier neither changes nor is joined by what follows it */

static int nfc_kind(uint32_t cp) {
    if (cp < 0x300) return NFC_BASE;
    if (cp == NO_FINAL) return NFC_BARRIER;
    if (cp >= 0x1160 && cp <= 0x11FF) return NFC_SUSPECT; /* Hangul vowels and finals join the syllable before them */
    const utf8proc_property_t *p = utf8proc_get_property((int32_t)cp);
    if (!p->combining_class && p->category != UTF8PROC_CATEGORY_MN && p->category != UTF8PROC_CATEGORY_MC &&
        (p->decomp_seqindex == UINT16_MAX || p->decomp_type != 0))
        return NFC_BASE;
    return IN(cp, young_marks) || IN(cp, young_composites) ? NFC_BARRIER : NFC_SUSPECT;
}

/* Only around characters that can take part in a change (suspects) is there anything to do; all other text is copied
 * as it is, and false means that there was none. A region that needs work runs from the last ordinary character, which
 * the suspects may join, to the next one. Malformed bytes stand for themselves. */
static bool nfc(const uint8_t *text, size_t n, Buf *out) {
    size_t copied = 0, base = 0; /* all before `copied` is in out; base: the last ordinary character */
    bool dirty = false;
    for (size_t i = 0; i <= n;) {
        uint32_t cp;
        int len = i < n ? utf8_char(text + i, n - i, &cp) : 0;
        int kind = len > 0 ? nfc_kind(cp) : NFC_BARRIER; /* malformed bytes, and the end of the text */
        if (kind == NFC_SUSPECT) {
            dirty = true;
            i += (size_t)len;
            continue;
        }
        if (dirty) {
            buf_add(out, text + copied, base - copied);
            form_append(text + base, i - base, UTF8PROC_STABLE | UTF8PROC_COMPOSE, out);
            copied = i;
            dirty = false;
        }
        size_t next = i + (len > 0 ? (size_t)len : 1);
        base = kind == NFC_BASE ? i : next;
        i = next;
    }
    if (!copied) return false;
    buf_add(out, text + copied, n - copied);
    return true;
}

/* The other three forms: region by region, from one ASCII character (a mark may follow it) to the next. */
static bool other_form(const uint8_t *s, size_t n, int options, Buf *out) {
    size_t from = 0; /* of the region in hand; ASCII before it is in out */
    bool changes = false;
    for (size_t i = 0; i < n && !changes; i++) changes = s[i] >= 0x80;
    if (!changes) return false;
    for (size_t i = 0; i < n;) {
        if (s[i] < 0x80) {
            form_append(s + from, i - from, options, out);
            size_t last = i;
            while (last + 1 < n && s[last + 1] < 0x80) last++;
            buf_add(out, s + i, last - i);
            from = last;
            i = last + 1;
            continue;
        }
        uint32_t cp;
        int len = utf8_char(s + i, n - i, &cp);
        bool barrier = len <= 0 || cp == NO_FINAL || IN(cp, young_marks) || IN(cp, young_composites);
        size_t next = i + (len > 0 ? (size_t)len : 1);
        if (barrier) {
            form_append(s + from, i - from, options, out);
            buf_add(out, s + i, next - i);
            from = next;
        }
        i = next;
    }
    form_append(s + from, n - from, options, out);
    return true;
}

/* Letters whose lower case utf8proc (2.8: Unicode 15) may not know, as differences. */
static const struct { uint32_t first, last; int32_t add; } young_capitals[] = {
    {0x1C89, 0x1C89, 1}, {0xA7CB, 0xA7CB, 0x264 - 0xA7CB}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1}, {0xA7D4, 0xA7D4, 1}, {0xA7DA, 0xA7DA, 1}, {0xA7DC, 0xA7DC, 0x19B - 0xA7DC},
    {0x10D50, 0x10D65, 0x20}, {0x16EA0, 0x16EB8, 0x1B}};

int lower_case(uint32_t cp, uint32_t out[2]) {
    if (cp == 0x130) return out[0] = 'i', out[1] = 0x307, 2; /* the one capital whose lower case is two characters */
    for (size_t k = 0; k < sizeof young_capitals / sizeof *young_capitals; k++)
        if (cp >= young_capitals[k].first && cp <= young_capitals[k].last)
            return out[0] = (uint32_t)((int32_t)cp + young_capitals[k].add), 1;
    return out[0] = (uint32_t)utf8proc_tolower((int32_t)cp), 1;
}

void lowercase(const uint8_t *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && s[i] < 0x80) i++;
        buf_add(out, s + from, i - from);
        for (char *p = out->data + out->len - (i - from); p < out->data + out->len; p++)
            if (*p >= 'A' && *p <= 'Z') *p = (char)(*p | 0x20);
        if (i == n) break;
        uint32_t cp;
        int len = utf8_char(s + i, n - i, &cp);
        if (len <= 0) {
            buf_add(out, s + i++, 1);
            continue;
        }
        i += (size_t)len;
        char c[4];
        uint32_t low[2];
        for (int k = 0, n_low = lower_case(cp, low); k < n_low; k++) buf_add(out, c, (size_t)utf8_put(low[k], c));
    }
}

static bool is_mark(uint32_t cp) {
    if (cp == 0x1CF2 || cp == 0x1CF3) return true; /* letters since Unicode 12 */
    int category = cp < 0x300 ? UTF8PROC_CATEGORY_CN : utf8proc_category((int32_t)cp);
    return (category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
            category == UTF8PROC_CATEGORY_ME) && !IN(cp, young_marks);
}

static bool strip_accents(const uint8_t *s, size_t n, Buf *out) {
    size_t copied = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = s[i] < 0x80 ? 1 : utf8_char(s + i, n - i, &cp);
        size_t next = i + (len > 0 ? (size_t)len : 1);
        if (len > 1 && is_mark(cp)) {
            buf_add(out, s + copied, i - copied);
            copied = next;
        }
        i = next;
    }
    if (!copied) return false;
    buf_add(out, s + copied, n - copied);
    return true;
}

/* Twenty steps that each write ten characters for one make 10^20 of one. What published tokenizers make longest is one
 * character of 3 bytes, U+FDFA: 33 bytes. */
size_t norm_limit(size_t n) { return size_mul(n, 64) + 1024; }

static void check_growth(size_t n, size_t limit) {
    if (n > limit)
        die("the tokenizer's steps make more than %zu bytes of a text of %zu: a broken file", limit,
            (limit - 1024) / 64);
}

bool norm_replace(const NormStep *step, Worker *w, const uint8_t *s, size_t n, size_t limit, Buf *out) {
    size_t copied = 0, from, to, n_find = step->find ? strlen(step->find) : 0, n_put = strlen(step->put);
    bool any = false;
    for (size_t at = 0; at <= n; at = to > from ? to : to + char_bytes(s + to, n - to)) {
        if (step->regex) {
            if (!regex_find(step->regex, w, s, n, at, &from, &to)) break;
            if (from == to && from == copied && any) { /* no empty match right behind a match */
                to = from = at;
                continue;
            }
        } else {
            const uint8_t *p = at < n ? memmem(s + at, n - at, step->find, n_find) : NULL;
            if (!p) break;
            from = (size_t)(p - s), to = from + n_find;
        }
        buf_add(out, s + copied, from - copied);
        buf_add(out, step->put, n_put);
        check_growth(out->len, limit);
        copied = to;
        any = true;
    }
    if (any) buf_add(out, s + copied, n - copied);
    return any;
}

/* tokenizer.json's Precompiled is SentencePiece's table, looked up another way: whole user-perceived characters of up
 * to five bytes first, then each code point, and of the keys that fit the shortest. */
static bool precompiled(const Charsmap *map, const uint8_t *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        size_t from = i, end = i, n_put;
        uint32_t before = 0, cp;
        int32_t state = 0;
        while (end < n) {
            int len = utf8_char(s + end, n - end, &cp);
            if (len <= 0) break;
            if (end > from && utf8proc_grapheme_break_stateful((int32_t)before, (int32_t)cp, &state)) break;
            before = cp;
            end += (size_t)len;
        }
        if (end == from) { /* malformed */
            buf_add(out, s + i++, 1);
            continue;
        }
        const char *put;
        if (end - from < 6 && charsmap_shortest(map, s + from, end - from, &put, &n_put)) {
            buf_add(out, put, n_put);
            i = end;
        }
        for (; i < end; i += (size_t)utf8_char(s + i, end - i, &cp)) {
            size_t len = (size_t)utf8_char(s + i, end - i, &cp);
            if (charsmap_shortest(map, s + i, len, &put, &n_put)) buf_add(out, put, n_put);
            else buf_add(out, s + i, len);
        }
    }
    return true;
}

void normalize(const Tokenizer *t, Worker *w, const uint8_t **s, size_t *n) {
    Buf *holds = NULL; /* the text in hand; NULL: the caller's */
    size_t limit = norm_limit(*n);
    for (int i = 0; i < t->n_norm && *n; i++) {
        const NormStep *step = &t->norm[i];
        Buf *out = holds == &w->norm ? &w->other : &w->norm;
        bool changed = true;
        int len;
        out->len = 0;
        switch (step->kind) {
        case NORM_NFC: changed = nfc(*s, *n, out); break;
        case NORM_NFD: changed = other_form(*s, *n, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, out); break;
        case NORM_NFKC:
            changed = other_form(*s, *n, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, out);
            break;
        case NORM_NFKD:
            changed = other_form(*s, *n, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, out);
            break;
        case NORM_LOWERCASE: lowercase(*s, *n, out); break;
        case NORM_STRIP:
            while (step->left && *n && class_at(*s, *s + *n, &len) & SPACE) *s += len, *n -= (size_t)len;
            while (step->right && *n) {
                const uint8_t *end = *s + *n, *c = char_start_before(*s, end);
                if (!(class_at(c, end, &len) & SPACE)) break;
                *n = (size_t)(c - *s);
            }
            continue;
        case NORM_STRIP_ACCENTS: changed = strip_accents(*s, *n, out); break;
        case NORM_PREPEND:
            buf_str(out, step->put);
            buf_add(out, *s, *n);
            break;
        case NORM_REPLACE: changed = norm_replace(step, w, *s, *n, limit, out); break;
        case NORM_BERT:
            bert_normalize(step->bert, *s, *n, out);
            break;
        case NORM_CHARSMAP: changed = precompiled(step->charsmap, *s, *n, out); break;
        case NORM_SENTENCEPIECE: sentencepiece_normalize(t, w, *s, *n, out); break;
        }
        if (changed) *s = (const uint8_t *)out->data, *n = out->len, holds = out;
        check_growth(*n, limit);
    }
}

void norm_step_free(NormStep *step) {
    free(step->find);
    free(step->put);
    regex_free(step->regex);
    if (step->charsmap) charsmap_free(step->charsmap);
}
