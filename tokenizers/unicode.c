/* unicode.c - characters: UTF-8, the alphabet of bytes, what Unicode says of a character.
 *
 * What a tokenizer takes for a letter decides its ids, so an answer here must be that of the libraries whose ids are to
 * be reproduced, whichever utf8proc is installed: where Unicode's versions differ, a table says what they say. */
#include "parts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* [tok.bytes] bytes and characters --------------------------------------------------------------------------------- */

int utf8_put(uint32_t cp, char out[4]) { return (int)utf8proc_encode_char((int32_t)cp, (uint8_t *)out); }

/* JSON strings hold characters, not bytes, and a blank or a control character in a vocabulary file is a nuisance. So
 * GPT-2's files spell each byte as a printable character: the printable Latin-1 ones as themselves, the other 68, in
 * order, as U+0100 onward. The space is U+0120, which is the "Ġ" in front of so many tokens. */
uint32_t char_of_byte[256];
int16_t byte_of_char[0x144];

static void alphabet_build(void) {
    memset(byte_of_char, -1, sizeof byte_of_char);
    uint32_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        char_of_byte[b] = printable ? (uint32_t)b : next++;
        byte_of_char[char_of_byte[b]] = (int16_t)b;
    }
}

size_t spell(const uint8_t *bytes, size_t n, char *out) { /* into at most 2 * n bytes; returns how many */
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = char_of_byte[bytes[i]];
        if (c >= 0x80) *p++ = (char)(0xC0 | c >> 6), c = 0x80 | (c & 0x3F);
        *p++ = (char)c;
    }
    return (size_t)(p - out);
}

bool unspell(const char *s, size_t n, Buf *out) { /* false: a character outside the alphabet */
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

uint8_t class_look_up(uint32_t cp) {
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

uint8_t bmp_class[0x10000]; /* the plane that nearly all text lives in: 64 KiB, a millisecond to fill */

static void tables_build(void) {
    alphabet_build();
    for (uint32_t cp = 0; cp < 0x10000; cp++) bmp_class[cp] = class_look_up(cp);
}

void tables_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, tables_build);
}

/* \w: letters, marks, decimal digits, joining punctuation and joiners, and the circled letters. */
bool is_word_char(uint32_t cp) {
    switch (utf8proc_category((int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    return class_look_up(cp) == LETTER || cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
}

const uint8_t *char_start_before(const uint8_t *start, const uint8_t *p) {
    const uint8_t *q = p - 1;
    while (q > start && p - q < 4 && (*q & 0xC0) == 0x80) q--;
    uint32_t cp;
    return utf8_char(q, (size_t)(p - q), &cp) == p - q ? q : p - 1;
}
