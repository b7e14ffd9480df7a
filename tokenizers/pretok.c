/* pretok.c - text -> pieces, step by step, as a tokenizer.json lists the steps. The general way: for the rules that
 * split.h has by hand nothing here runs. Patterns are PCRE2's, compiled to machine code. */
#include "parts.h"
#include "split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

/* [tok.regex] patterns --------------------------------------------------------------------------------------------- *
 * The reference library's engine is Oniguruma, in which ^ and $ stand at every line and a dot is anything but \n. What
 * else the two understand differently is rewritten: \w, \s, \h, and the letters and numbers of the newest Unicode. */

/* The inside of a class that is what Oniguruma takes \what for; false: both agree. */
static bool class_inside(const char *what, size_t n, Buf *out) {
    static const char *const scripts[] = {"Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek", "Cyrillic",
                                          "Arabic", "Hebrew", "Thai", "Devanagari"};
    out->len = 0;
    char kind = n == 1 ? (char)(*what | 0x20) : 0;
    if (kind == 'w') {
        buf_str(out, "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}"
                     "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}");
        newer_ranges("L", 0, out);
        newer_ranges("M", 0, out);
        newer_ranges("Nd", 0, out);
    } else if (kind == 's')
        buf_str(out, "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"
                     "\\x{3000}");
    else if (kind == 'h') buf_str(out, "0-9A-Fa-f");
    else if (kind == 'd') {
        buf_str(out, "\\p{Nd}");
        newer_ranges("Nd", 0, out);
    } else if (n >= 4 && (*what | 0x20) == 'p' && what[1] == '{' && what[n - 1] == '}') {
        char name[16] = "";
        if (n - 3 >= sizeof name) return false;
        memcpy(name, what + 2, n - 3);
        for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
            if (!strcmp(name, scripts[i])) { /* by itself PCRE2's also holds what a script shares with others */
                buf_fmt(out, "\\p{sc:%s}", name);
                if (!i) newer_ranges("Lo", 0x20000, out);
                return true;
            }
        if (strlen(name) > 2 || !strchr("LMNPSZC", name[0])) return false;
        buf_fmt(out, "\\p{%s}", name);
        newer_ranges(name, 0, out);
    } else return false;
    return true;
}

static void translate(const char *p, Buf *out) {
    bool in_class = false;
    Buf inside = {0};
    buf_add(out, "", 0);
    while (*p) {
        size_t n = 1;
        if (*p == '\\' && p[1]) {
            n = (p[1] == 'p' || p[1] == 'P') && p[2] == '{' ? 1 + strcspn(p + 1, "}") + (strchr(p, '}') != NULL) : 2;
            bool not = strchr("WSHDP", p[1]) != NULL;
            if (class_inside(p + 1, n - 1, &inside) && !(in_class && not)) { /* no class within a class to negate it */
                if (!in_class) buf_str(out, not ? "[^" : "[");
                buf_add(out, inside.data, inside.len);
                if (!in_class) buf_str(out, "]");
                p += n;
                continue;
            }
        } else if (*p == '[' && !in_class) {
            in_class = true;
            n = p[1] == '^' ? 2 : 1;
            if (p[n] == ']') n++;
        } else if (*p == '[' && p[1] == ':' && strstr(p, ":]")) n = (size_t)(strstr(p, ":]") + 2 - p);
        else if (*p == ']') in_class = false;
        buf_add(out, p, n);
        p += n;
    }
    buf_free(&inside);
}

struct Regex { pcre2_code *code; bool jit; };

Regex *regex_new(const char *pattern, const char *path) {
    int error;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) die("out of memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, 1 << 16);
    Buf ours = {0};
    translate(pattern, &ours);
    Regex *r = xcalloc(1, sizeof *r);
    r->code = pcre2_compile((PCRE2_SPTR)ours.data, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &error, &at, context);
    pcre2_compile_context_free(context);
    buf_free(&ours);
    if (!r->code) {
        PCRE2_UCHAR why[256];
        pcre2_get_error_message(error, why, sizeof why);
        die("%s: the pattern \"%.200s\": %s", path, pattern, (char *)why);
    }
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0; /* without it: the same matches, later */
    return r;
}

void regex_free(Regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

void regex_scratch_free(Worker *w) {
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->match_context);
    pcre2_jit_stack_free(w->jit_stack);
}

bool regex_find(const Regex *r, Worker *w, const uint8_t *s, size_t n, size_t at, size_t *from, size_t *to) {
    if (!w->match) {
        w->match = pcre2_match_data_create(1, NULL);
        w->match_context = pcre2_match_context_create(NULL);
        w->jit_stack = pcre2_jit_stack_create(1 << 15, 1 << 24, NULL);
        if (!w->match || !w->match_context) die("out of memory for matching a pattern");
        if (w->jit_stack) pcre2_jit_stack_assign(w->match_context, NULL, w->jit_stack);
    }
    int got = pcre2_match(r->code, s, n, at, 0, w->match, w->match_context);
    if (got == PCRE2_ERROR_NOMATCH) return false;
    if (got < 0) {
        PCRE2_UCHAR why[256];
        pcre2_get_error_message(got, why, sizeof why);
        die("the tokenizer's pattern fails on %zu bytes of text: %s", n, (char *)why);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(w->match);
    *from = place[0], *to = place[1];
    if (*to < *from) *to = *from; /* \K in a lookahead */
    return true;
}

/* [tok.pieces] cutting --------------------------------------------------------------------------------------------- */

static void piece_add(Worker *w, size_t *n, size_t from, size_t to) {
    if (from == to) return;
    if (*n == w->piece2_cap) {
        w->piece2_cap = w->piece2_cap * 2 + 256;
        w->piece2 = xrealloc(w->piece2, size_mul(w->piece2_cap, sizeof *w->piece2));
    }
    w->piece2[(*n)++] = (Piece){from, to};
}

/* What becomes of the matches of a step and of what lies between them. */
typedef struct {
    Worker *w;
    size_t n;                                    /* pieces so far, in w->piece2 */
    Behavior behavior;
    bool any, was_match, waiting;                /* since begin: any segment; the last one's kind; one held back */
    size_t from, to;                             /* the one held back */
} Cutter;

static void cut_flush(Cutter *c) {
    if (c->waiting) piece_add(c->w, &c->n, c->from, c->to);
    c->waiting = c->any = false;
}

static void cut_segment(Cutter *c, size_t from, size_t to, bool match) {
    bool join = c->any && (c->behavior == CONTIGUOUS             ? match == c->was_match
                           : c->behavior == MERGED_WITH_PREVIOUS ? match && !c->was_match
                           : c->behavior == MERGED_WITH_NEXT     ? !match && c->was_match
                                                                 : false);
    if (join && c->waiting) c->to = to;
    else {
        cut_flush(c);
        c->from = from, c->to = to;
        c->waiting = !(match && c->behavior == REMOVED);
    }
    c->any = true;
    c->was_match = match;
}

/* The class of a character, for the steps that cut by one. */
static bool belongs(PreKind kind, uint32_t cp, int class) {
    switch (kind) {
    case PRE_DIGITS: /* by tables a version younger than the patterns' */
        return class == NUMBER || (cp >= 0x11DE0 && cp <= 0x11DE9) || (cp >= 0x16FF4 && cp <= 0x16FF6);
    case PRE_WHITESPACE_SPLIT: return class & SPACE;
    case PRE_PUNCTUATION: return bert_punctuation(cp);
    default: return false;
    }
}

static void cut_piece(const PreStep *step, Cutter *c, const uint8_t *s, Piece p) {
    size_t n_find = step->find ? strlen(step->find) : 0;
    if (step->kind == PRE_SPLIT || step->kind == PRE_METASPACE) {
        /* A match sees only its piece: \b or a look-behind at the piece's start finds nothing before it. */
        const uint8_t *text = s + p.from;
        size_t n = p.to - p.from, done = 0, from, to;
        for (size_t at = 0; at <= n; at = to > at ? to : at + char_bytes(text + at, n - at)) {
            if (step->regex) {
                if (!regex_find(step->regex, c->w, text, n, at, &from, &to)) break;
                if (from == to && from == done && done) { /* no empty match right behind a match */
                    to = at;
                    continue;
                }
            } else {
                const uint8_t *q = at < n ? memmem(text + at, n - at, step->find, n_find) : NULL;
                if (!q) break;
                from = (size_t)(q - text), to = from + n_find;
            }
            if (from > done) cut_segment(c, p.from + done, p.from + from, step->invert);
            cut_segment(c, p.from + from, p.from + to, !step->invert);
            done = to;
        }
        if (done < n) cut_segment(c, p.from + done, p.to, step->invert);
        return;
    }
    const uint8_t *end = s + p.to;
    size_t done = p.from;
    int len;
    for (size_t i = p.from; i < p.to; i += (size_t)len) {
        uint32_t cp = 0xFFFD;
        int class = class_at(s + i, end, &len);
        utf8_char(s + i, p.to - i, &cp);
        if (step->kind == PRE_WHITESPACE) { /* \w+|[^\w\s]+ */
            bool word = is_word_char(cp);
            size_t from = i;
            if (class & SPACE) continue;
            for (i += (size_t)len; i < p.to; i += (size_t)len) {
                cp = 0xFFFD;
                class = class_at(s + i, end, &len);
                utf8_char(s + i, p.to - i, &cp);
                if (class & SPACE || is_word_char(cp) != word) break;
            }
            piece_add(c->w, &c->n, from, i);
            len = 0;
            continue;
        }
        if (!belongs(step->kind, cp, class)) continue;
        if (i > done) cut_segment(c, done, i, false);
        cut_segment(c, i, i + (size_t)len, true);
        done = i + (size_t)len;
    }
    if (step->kind != PRE_WHITESPACE && done < p.to) cut_segment(c, done, p.to, false);
}

/* The steps that rewrite: the pieces of one buffer become those of the other. */
static void rewrite(const PreStep *step, Worker *w, const uint8_t *s, size_t n_pieces, Buf *out) {
    size_t n_mark = step->kind == PRE_METASPACE ? strlen(step->find) : 0;
    out->len = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        Piece p = w->piece[i];
        const uint8_t *text = s + p.from, *end = s + p.to;
        size_t from = out->len;
        if (step->kind == PRE_METASPACE) {
            bool marked = *text == ' ' || ((size_t)(end - text) >= n_mark && !memcmp(text, step->find, n_mark));
            if (!marked && step->prefix && (!step->prefix_first || (w->at_start && p.from == 0)))
                buf_add(out, step->find, n_mark);
            while (text < end) {
                const uint8_t *blank = memchr(text, ' ', (size_t)(end - text)), *stop = blank ? blank : end;
                buf_add(out, text, (size_t)(stop - text));
                if (blank) buf_add(out, step->find, n_mark);
                text = blank ? blank + 1 : end;
            }
        } else {
            if (step->prefix && *text != ' ') buf_str(out, " ");
            buf_add(out, text, (size_t)(end - text));
        }
        w->piece[i] = (Piece){from, out->len};
    }
}

static void swap_pieces(Worker *w) {
    Piece *p = w->piece;
    size_t cap = w->piece_cap;
    w->piece = w->piece2, w->piece_cap = w->piece2_cap;
    w->piece2 = p, w->piece2_cap = cap;
}

size_t pretokenize_by(const PreStep *steps, int n_steps, Worker *w, const uint8_t **s, size_t n) {
    size_t n_pieces = 0;
    Buf *holds = NULL; /* the text in hand; NULL: the caller's */
    piece_add(w, &n_pieces, 0, n);
    swap_pieces(w);
    for (int i = 0; i < n_steps; i++) {
        const PreStep *step = &steps[i];
        Buf *out = holds == &w->prefixed ? &w->spelt : &w->prefixed;
        if (step->kind == PRE_METASPACE || (step->kind == PRE_BYTE_LEVEL && step->prefix)) {
            rewrite(step, w, *s, n_pieces, out);
            *s = (const uint8_t *)out->data, holds = out;
        }
        Cutter c = {.w = w, .behavior = step->kind == PRE_METASPACE ? MERGED_WITH_NEXT : step->behavior};
        if (step->kind == PRE_BYTE_LEVEL || step->kind == PRE_BERT || ((step->kind == PRE_METASPACE) && !step->cut)) {
            if (step->kind == PRE_METASPACE) continue;
            for (size_t k = 0; k < n_pieces; k++) {
                const uint8_t *p = *s + w->piece[k].from, *end = *s + w->piece[k].to, *next;
                if (step->kind == PRE_BERT) {
                    Piece got[64];
                    size_t at = 0, n_got;
                    while ((n_got = bert_split(p, (size_t)(end - p), &at, got, 64)))
                        for (size_t m = 0; m < n_got; m++)
                            piece_add(w, &c.n, w->piece[k].from + got[m].from, w->piece[k].from + got[m].to);
                } else if (step->cut) {
                    for (; p < end; p = next) {
                        next = word_gpt2(p, end);
                        piece_add(w, &c.n, (size_t)(p - *s), (size_t)(next - *s));
                    }
                } else piece_add(w, &c.n, w->piece[k].from, w->piece[k].to);
            }
        } else {
            for (size_t k = 0; k < n_pieces; k++) {
                cut_piece(step, &c, *s, w->piece[k]);
                cut_flush(&c);
            }
        }
        n_pieces = c.n;
        swap_pieces(w);
        if (step->kind == PRE_BYTE_LEVEL && step->spell) {
            out = holds == &w->prefixed ? &w->spelt : &w->prefixed;
            out->len = 0;
            for (size_t k = 0; k < n_pieces; k++) {
                char c4[4];
                size_t from = out->len;
                for (size_t m = w->piece[k].from; m < w->piece[k].to; m++)
                    buf_add(out, c4, (size_t)utf8_put(char_of_byte[(*s)[m]], c4));
                w->piece[k] = (Piece){from, out->len};
            }
            *s = (const uint8_t *)out->data, holds = out;
        }
    }
    return n_pieces;
}

size_t pretokenize(const Tokenizer *t, Worker *w, const uint8_t **s, size_t n) {
    return pretokenize_by(t->pre, t->n_pre, w, s, n);
}

void pre_step_free(PreStep *step) {
    free(step->find);
    regex_free(step->regex);
}
