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

/* The characters of Unicode 15, 15.1 and 16, by general category: the distribution's utf8proc (2.8: 15.0) and PCRE2
 * (10.42: 14.0) may not know them, while the libraries whose ids we reproduce do. An id must not depend on what is
 * installed. */
static const struct { uint32_t first, last; char category[3]; } newer_chars[] = {
    {0x897, 0x897, "Mn"}, {0xCF3, 0xCF3, "Mc"}, {0xECE, 0xECE, "Mn"}, {0x1B4E, 0x1B4F, "Po"}, {0x1B7F, 0x1B7F, "Po"},
    {0x1C89, 0x1C89, "Lu"}, {0x1C8A, 0x1C8A, "Ll"}, {0x2427, 0x2429, "So"}, {0x2FFC, 0x2FFF, "So"},
    {0x31E4, 0x31E5, "So"}, {0x31EF, 0x31EF, "So"}, {0xA7CB, 0xA7CC, "Lu"}, {0xA7CD, 0xA7CD, "Ll"},
    {0xA7DA, 0xA7DA, "Lu"}, {0xA7DB, 0xA7DB, "Ll"}, {0xA7DC, 0xA7DC, "Lu"}, {0x105C0, 0x105F3, "Lo"},
    {0x10D40, 0x10D49, "Nd"}, {0x10D4A, 0x10D4D, "Lo"}, {0x10D4E, 0x10D4E, "Lm"}, {0x10D4F, 0x10D4F, "Lo"},
    {0x10D50, 0x10D65, "Lu"}, {0x10D69, 0x10D6D, "Mn"}, {0x10D6E, 0x10D6E, "Pd"}, {0x10D6F, 0x10D6F, "Lm"},
    {0x10D70, 0x10D85, "Ll"}, {0x10D8E, 0x10D8F, "Sm"}, {0x10EC2, 0x10EC4, "Lo"}, {0x10EFC, 0x10EFF, "Mn"},
    {0x1123F, 0x11240, "Lo"}, {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138B, 0x1138B, "Lo"},
    {0x1138E, 0x1138E, "Lo"}, {0x11390, 0x113B5, "Lo"}, {0x113B7, 0x113B7, "Lo"}, {0x113B8, 0x113BA, "Mc"},
    {0x113BB, 0x113C0, "Mn"}, {0x113C2, 0x113C2, "Mc"}, {0x113C5, 0x113C5, "Mc"}, {0x113C7, 0x113CA, "Mc"},
    {0x113CC, 0x113CD, "Mc"}, {0x113CE, 0x113CE, "Mn"}, {0x113CF, 0x113CF, "Mc"}, {0x113D0, 0x113D0, "Mn"},
    {0x113D1, 0x113D1, "Lo"}, {0x113D2, 0x113D2, "Mn"}, {0x113D3, 0x113D3, "Lo"}, {0x113D4, 0x113D5, "Po"},
    {0x113D7, 0x113D8, "Po"}, {0x113E1, 0x113E2, "Mn"}, {0x116D0, 0x116E3, "Nd"}, {0x1171E, 0x1171E, "Mc"},
    {0x11B00, 0x11B09, "Po"}, {0x11BC0, 0x11BE0, "Lo"}, {0x11BE1, 0x11BE1, "Po"}, {0x11BF0, 0x11BF9, "Nd"},
    {0x11F00, 0x11F01, "Mn"}, {0x11F02, 0x11F02, "Lo"}, {0x11F03, 0x11F03, "Mc"}, {0x11F04, 0x11F10, "Lo"},
    {0x11F12, 0x11F33, "Lo"}, {0x11F34, 0x11F35, "Mc"}, {0x11F36, 0x11F3A, "Mn"}, {0x11F3E, 0x11F3F, "Mc"},
    {0x11F40, 0x11F40, "Mn"}, {0x11F41, 0x11F41, "Mc"}, {0x11F42, 0x11F42, "Mn"}, {0x11F43, 0x11F4F, "Po"},
    {0x11F50, 0x11F59, "Nd"}, {0x11F5A, 0x11F5A, "Mn"}, {0x1342F, 0x1342F, "Lo"}, {0x13440, 0x13440, "Mn"},
    {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"}, {0x13460, 0x143FA, "Lo"}, {0x16100, 0x1611D, "Lo"},
    {0x1611E, 0x16129, "Mn"}, {0x1612A, 0x1612C, "Mc"}, {0x1612D, 0x1612F, "Mn"}, {0x16130, 0x16139, "Nd"},
    {0x16D40, 0x16D42, "Lm"}, {0x16D43, 0x16D6A, "Lo"}, {0x16D6B, 0x16D6C, "Lm"}, {0x16D6D, 0x16D6F, "Po"},
    {0x16D70, 0x16D79, "Nd"}, {0x18CFF, 0x18CFF, "Lo"}, {0x1B132, 0x1B132, "Lo"}, {0x1B155, 0x1B155, "Lo"},
    {0x1CC00, 0x1CCEF, "So"}, {0x1CCF0, 0x1CCF9, "Nd"}, {0x1CD00, 0x1CEB3, "So"}, {0x1D2C0, 0x1D2D3, "No"},
    {0x1DF25, 0x1DF2A, "Ll"}, {0x1E030, 0x1E06D, "Lm"}, {0x1E08F, 0x1E08F, "Mn"}, {0x1E4D0, 0x1E4EA, "Lo"},
    {0x1E4EB, 0x1E4EB, "Lm"}, {0x1E4EC, 0x1E4EF, "Mn"}, {0x1E4F0, 0x1E4F9, "Nd"}, {0x1E5D0, 0x1E5ED, "Lo"},
    {0x1E5EE, 0x1E5EF, "Mn"}, {0x1E5F0, 0x1E5F0, "Lo"}, {0x1E5F1, 0x1E5FA, "Nd"}, {0x1E5FF, 0x1E5FF, "Po"},
    {0x1F6DC, 0x1F6DC, "So"}, {0x1F774, 0x1F776, "So"}, {0x1F77B, 0x1F77F, "So"}, {0x1F7D9, 0x1F7D9, "So"},
    {0x1F8B2, 0x1F8BB, "So"}, {0x1F8C0, 0x1F8C1, "So"}, {0x1FA75, 0x1FA77, "So"}, {0x1FA87, 0x1FA89, "So"},
    {0x1FA8F, 0x1FA8F, "So"}, {0x1FAAD, 0x1FAAF, "So"}, {0x1FABB, 0x1FABF, "So"}, {0x1FAC6, 0x1FAC6, "So"},
    {0x1FACE, 0x1FACF, "So"}, {0x1FADA, 0x1FADC, "So"}, {0x1FADF, 0x1FADF, "So"}, {0x1FAE8, 0x1FAE9, "So"},
    {0x1FAF7, 0x1FAF8, "So"}, {0x1FBCB, 0x1FBEF, "So"}, {0x2B739, 0x2B739, "Lo"}, {0x2EBF0, 0x2EE5D, "Lo"},
    {0x31350, 0x323AF, "Lo"}};

static const char *newer_category(uint32_t cp) { /* "": not among them */
    if (cp < 0x897) return "";
    for (size_t i = 0; i < sizeof newer_chars / sizeof *newer_chars; i++)
        if (cp >= newer_chars[i].first && cp <= newer_chars[i].last) return newer_chars[i].category;
    return "";
}

void newer_ranges(const char *category, uint32_t from, Buf *out) {
    for (size_t i = 0; i < sizeof newer_chars / sizeof *newer_chars; i++)
        if (newer_chars[i].first >= from && !strncmp(newer_chars[i].category, category, strlen(category)))
            buf_fmt(out, "\\x{%X}-\\x{%X}", newer_chars[i].first, newer_chars[i].last);
}

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
    const char *newer = newer_category(cp);
    return *newer == 'L' ? LETTER : *newer == 'N' ? NUMBER : OTHER;
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
    const char *newer = newer_category(cp);
    return *newer == 'M' || !strcmp(newer, "Nd") || class_look_up(cp) == LETTER || cp == 0x200C || cp == 0x200D ||
           (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
}

const uint8_t *char_start_before(const uint8_t *start, const uint8_t *p) {
    const uint8_t *q = p - 1;
    while (q > start && p - q < 4 && (*q & 0xC0) == 0x80) q--;
    uint32_t cp;
    return utf8_char(q, (size_t)(p - q), &cp) == p - q ? q : p - 1;
}
