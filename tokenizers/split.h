/* split.h - text -> words, by the rules of GPT-2, Llama-3 and Qwen. A header, because the loops that use it (encode.c's
 * over the cache, train.c's over the corpus) inline it: a call per word costs a tenth of encoding. */
#pragma once
#include "parts.h"

/* [tok.split] text -> words ----------------------------------------------------------------------------------------- *
 * Merges never cross the border of a word, so a word's ids do not depend on its neighbours, and the sentence
 * "dog. dog! dog?" cannot fill the vocabulary with "dog.", "dog!" and "dog?". What a word is, is said by a regular
 * expression. Both below are written out by hand, because a regex engine is ten times slower than all the rest here.
 * They look only forward from where the last word ended, so a text may be cut wherever a word ends and the parts
 * split apart: training does that to use all cores. */
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
static inline const uint8_t *white_space(const uint8_t *p, const uint8_t *end, bool through_newline) {
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
