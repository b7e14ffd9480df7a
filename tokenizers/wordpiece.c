/* wordpiece.c - BERT's text side: its normalizer, its words, WordPiece, and the vocab.txt of its directories.
 *
 * WordPiece knows no merges. A word is cut greedily: the longest token that it begins with, then the longest token that
 * the rest begins with, where tokens inside a word are spelt with a "##" in front; a word that cannot be cut to its
 * end is one [UNK]. That is one walk down a trie per token.
 *
 *     [wp.chars]      white space, punctuation, controls, accents: as BERT counts them
 *     [wp.normalize]  clean, set Chinese characters apart, strip accents, lower-case: one pass
 *     [wp.words]      white space separates, each punctuation character is a word
 *     [wp.encode]     a word -> ids, down the trie            [wp.decode]  blanks back between words
 *     [wp.load]       vocab.txt: a line is a token, its number is the id
 *
 * The ids are those of Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece for every text; malformed bytes
 * count as U+FFFD. Those know Unicode 8's punctuation and accents, 9's decompositions and 17's lower case, whatever
 * utf8proc is installed.
 *
 * What this file refuses to do: undo itself. Lower case, accents and blanks are lost: decoding gives readable text,
 * not the text. */
#include "json.h"
#include "parts.h"

#include <pthread.h>
#include <stdlib.h>
#include <utf8proc.h>

/* [wp.chars] what a character is ----------------------------------------------------------------------------------- */

/* Punctuation, accents and controls younger than Unicode 8, the version of the reference library: to it they are plain
 * characters. Each range runs on to anything between two that it does know, so a few lines cover Unicode 17. */
typedef struct { uint32_t first, last; } CharRange;
static const CharRange young_chars[] = {
    {0x61D, 0x61D}, {0x7FD, 0x7FD}, {0x890, 0x8E2}, {0x9FD, 0x9FE}, {0xA76, 0xA76}, {0xAFA, 0xAFF}, {0xB55, 0xB55},
    {0xC04, 0xC3C}, {0xC77, 0xC77}, {0xC84, 0xC84}, {0xD00, 0xD00}, {0xD3B, 0xD3C}, {0xD81, 0xD81}, {0xEBA, 0xEBA},
    {0xECE, 0xECE}, {0x180F, 0x1886}, {0x1ABF, 0x1AFF}, {0x1B4E, 0x1B4F}, {0x1B7D, 0x1B7F}, {0x1DF6, 0x1DFB},
    {0x2E43, 0x2E5D}, {0xA82C, 0xA82C}, {0xA8C5, 0xA8C5}, {0xA8FF, 0xA8FF}, {0xA9BD, 0xA9BD}, {0x10D24, 0x10FFF},
    {0x11070, 0x11074}, {0x110C2, 0x110CD}, {0x111CF, 0x111CF}, {0x1123E, 0x11241}, {0x1133B, 0x1133B},
    {0x113B8, 0x113E2}, {0x11438, 0x1145E}, {0x11660, 0x1166C}, {0x116B9, 0x116B9}, {0x1182F, 0x11FFF},
    {0x12FF1, 0x13455}, {0x1611E, 0x1612F}, {0x16D6D, 0x16D6F}, {0x16E97, 0x16F4F}, {0x16FE2, 0x16FE4},
    {0x1CF00, 0x1CF46}, {0x1E000, 0x1E8CF}, {0x1E944, 0x1E95F}};

/* Characters whose decomposition is younger than Unicode 9. */
static const CharRange young_compounds[] = {
    {0x105C9, 0x105C9}, {0x105E4, 0x105E4}, {0x11383, 0x11385}, {0x1138E, 0x11391}, {0x113C5, 0x113C8},
    {0x11938, 0x11938}, {0x16121, 0x16128}, {0x16D68, 0x16D6A}};

/* What canonical order may move, accents apart: these have a combining class. */
static const CharRange movable_chars[] = {
    {0x8D4, 0x8E1}, {0x1B44, 0x1B44}, {0x1BAA, 0x1BAA}, {0x1BF2, 0x1BF3}, {0x1DFB, 0x1DFB}, {0x302E, 0x302F},
    {0xA953, 0xA953}, {0xA9C0, 0xA9C0}, {0x111C0, 0x111C0}, {0x11235, 0x11235}, {0x1134D, 0x1134D}, {0x11442, 0x11442},
    {0x11446, 0x11446}, {0x116B6, 0x116B6}, {0x11C3F, 0x11C3F}, {0x1D165, 0x1D166}, {0x1D16D, 0x1D172},
    {0x1E000, 0x1E006}, {0x1E008, 0x1E018}, {0x1E01B, 0x1E021}, {0x1E023, 0x1E024}, {0x1E026, 0x1E02A},
    {0x1E944, 0x1E94A}};

#define IN_RANGES(table, cp) in_ranges(table, sizeof(table) / sizeof *(table), cp)

static bool in_ranges(const CharRange *range, size_t n, uint32_t cp) {
    for (size_t i = 0; i < n; i++)
        if (cp >= range[i].first && cp <= range[i].last) return true;
    return false;
}

/* ACCENT: a non-spacing mark; MOVABLE: any other that canonical order may move; COMPOUND: has a canonical
 * decomposition; CAPITAL: has a lower case. */
enum { BLANK = 1, PUNCTUATION = 2, CONTROL = 4, CHINESE = 8, ACCENT = 16, MOVABLE = 32, COMPOUND = 64, CAPITAL = 128 };

static uint8_t bert_bmp[0x10000]; /* the plane that nearly all text lives in */

static uint8_t bert_look_up(uint32_t cp) {
    uint8_t class = 0;
    bool known = !IN_RANGES(young_chars, cp);
    if (class_look_up(cp) & SPACE) class |= BLANK;
    switch (utf8proc_category((int32_t)cp)) {
    case UTF8PROC_CATEGORY_PC: case UTF8PROC_CATEGORY_PD: case UTF8PROC_CATEGORY_PS: case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI: case UTF8PROC_CATEGORY_PF: case UTF8PROC_CATEGORY_PO:
        if (known) class |= PUNCTUATION;
        break;
    case UTF8PROC_CATEGORY_MN:
        if (known) class |= ACCENT;
        break;
    case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CO:
        if (known && cp != '\t' && cp != '\n' && cp != '\r') class |= CONTROL;
        break;
    default: break;
    }
    if (cp > ' ' && cp < 0x7F && !((cp | 32) >= 'a' && (cp | 32) <= 'z') && !(cp >= '0' && cp <= '9'))
        class |= PUNCTUATION; /* all of ASCII's signs, "$" and "+" too, which Unicode calls symbols */
    if (cp == 0xFFFD) class |= CONTROL;
    /* Three that have changed sides since. */
    if (cp == 0x166D || cp == 0x111C9) class = PUNCTUATION;
    if (cp == 0x1734) class = ACCENT;
    if ((cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) || (cp >= 0xF900 && cp <= 0xFAFF) ||
        (cp >= 0x20000 && cp <= 0x2A6DF) || (cp >= 0x2A700 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
        (cp >= 0x2F800 && cp <= 0x2FA1F))
        class |= CHINESE;
    int32_t part[4];
    int boundary;
    if (utf8proc_decompose_char((int32_t)cp, part, 4, UTF8PROC_DECOMPOSE, &boundary) != 1 || part[0] != (int32_t)cp)
        class |= IN_RANGES(young_compounds, cp) ? 0 : COMPOUND;
    uint32_t lower[2];
    if (lower_case(cp, lower) != 1 || lower[0] != cp) class |= CAPITAL;
    if (IN_RANGES(movable_chars, cp)) class |= MOVABLE;
    return class;
}

static void bert_build(void) {
    for (uint32_t cp = 0; cp < 0x10000; cp++) bert_bmp[cp] = bert_look_up(cp);
}

static void bert_tables(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, bert_build);
}

static inline uint8_t bert_class(uint32_t cp) { return cp < 0x10000 ? bert_bmp[cp] : bert_look_up(cp); }

bool bert_punctuation(uint32_t cp) {
    bert_tables();
    return bert_class(cp) & PUNCTUATION;
}

/* [wp.normalize] the text that WordPiece cuts ---------------------------------------------------------------------- */

static void put(uint32_t cp, bool lower, uint8_t **to) {
    uint32_t c[2] = {cp};
    int n = lower ? lower_case(cp, c) : 1;
    for (int i = 0; i < n; i++) *to += utf8_put(c[i], (char *)*to);
}

/* Characters that canonical order moves wait for the next that stays: uint32_t each, combining class << 24 | character.
 * The sort is stable. There are half a dozen classes, so a pass for each is a sort in linear time, which a
 * hostile megabyte of marks needs. */
static void put_waiting(Buf *waiting, uint8_t **to) {
    for (uint32_t order = 0, next; waiting->len; order = next) {
        next = UINT32_MAX;
        for (size_t i = 0; i < waiting->len; i += sizeof(uint32_t)) {
            uint32_t x;
            memcpy(&x, waiting->data + i, sizeof x);
            if (x >> 24 == order) put(x & 0xFFFFFF, false, to);
            else if (x >> 24 > order && x >> 24 < next) next = x >> 24;
        }
        if (next == UINT32_MAX) waiting->len = 0;
    }
}

/* One character's canonical decomposition without its accents. */
static void put_stripped(uint32_t cp, bool lower, Buf *waiting, uint8_t **to) {
    int32_t part[4] = {(int32_t)cp};
    int n = 1, boundary;
    if (bert_class(cp) & COMPOUND)
        n = (int)utf8proc_decompose_char((int32_t)cp, part, 4, UTF8PROC_DECOMPOSE, &boundary);
    for (int i = 0; i < n; i++) {
        uint32_t c = (uint32_t)part[i], order = 0;
        uint8_t class = bert_class(c);
        if (class & (ACCENT | MOVABLE)) order = utf8proc_get_property(part[i])->combining_class;
        if (!order) put_waiting(waiting, to);
        if (class & ACCENT) continue; /* gone, but one without an order has stopped the others */
        if (order) buf_add(waiting, &(uint32_t){order << 24 | c}, sizeof(uint32_t));
        else put(c, lower, to);
    }
}

/* Sixteen bytes of printable ASCII at once; false, and nothing done, where they are something else. */
static inline bool plain_block(const uint8_t *p, bool lower, uint8_t *to) {
    uint8_t other = 0, out[16];
    for (int i = 0; i < 16; i++) {
        other |= (uint8_t)(p[i] - ' ') > '~' - ' ';
        out[i] = (uint8_t)(p[i] + ((lower & ((uint8_t)(p[i] - 'A') < 26)) << 5));
    }
    memcpy(to, out, 16);
    return !other;
}

void bert_normalize(BertNorm how, const uint8_t *s, size_t n, Buf *out) {
    bert_tables();
    const uint8_t *p = s, *end = s + n;
    /* No character grows to more than three times its bytes: a byte that is none to U+FFFD, a Hangul syllable to its
     * three letters. Memory that is never written costs nothing. */
    size_t most = size_mul(n, 3) + 32;
    if (out->cap - out->len < most) out->data = xrealloc(out->data, out->cap = out->len + most);
    uint8_t *to = (uint8_t *)out->data + out->len;
    uint8_t matters = (uint8_t)((how.clean_text ? BLANK | CONTROL : 0) | (how.chinese_chars ? CHINESE : 0) |
                                (how.strip_accents ? ACCENT | MOVABLE | COMPOUND : 0) | (how.lowercase ? CAPITAL : 0));
    Buf waiting = {0};
    while (p < end) {
        if (*p < 0x80 && !waiting.len)
            while (end - p >= 16 && plain_block(p, how.lowercase, to)) p += 16, to += 16;
        for (int i = 0; i < 16 && p < end; i++) {
            uint32_t cp;
            int len = utf8_char(p, (size_t)(end - p), &cp);
            bool malformed = len <= 0;
            if (malformed) cp = 0xFFFD, len = len ? -len : (int)(end - p);
            const uint8_t *from = p;
            p += len;
            uint8_t class = bert_class(cp) & matters;
            if (class & CONTROL) continue;
            if (class & (ACCENT | MOVABLE | COMPOUND) && !(class & (BLANK | CHINESE))) {
                put_stripped(cp, how.lowercase, &waiting, &to);
                continue;
            }
            if (waiting.len) put_waiting(&waiting, &to);
            if (class & BLANK) *to++ = ' ';
            else if (cp < 0x80) *to++ = (uint8_t)(cp | (class & CAPITAL ? 0x20 : 0));
            else if (class & CHINESE) {
                *to++ = ' ';
                if (class & COMPOUND) put_stripped(cp, false, &waiting, &to);
                else
                    for (int k = 0; k < len; k++) *to++ = from[k];
                *to++ = ' ';
            } else if (class & CAPITAL) put(cp, true, &to);
            else if (malformed) put(cp, false, &to);
            else
                for (int k = 0; k < len; k++) *to++ = from[k];
        }
    }
    put_waiting(&waiting, &to);
    buf_free(&waiting);
    out->len = (size_t)(to - (uint8_t *)out->data);
    out->data[out->len] = 0;
}

/* [wp.words] text -> words ----------------------------------------------------------------------------------------- */

size_t bert_split(const uint8_t *s, size_t n, size_t *at, Piece *pieces, size_t max) {
    bert_tables();
    size_t n_pieces = 0, from = *at, i = *at;
    while (n_pieces < max && i < n) {
        uint32_t cp = 0xFFFD;
        int len = utf8_char(s + i, n - i, &cp);
        if (len <= 0) len = 1; /* a malformed byte is a letter, as U+FFFD is */
        uint8_t class = bert_class(cp) & (BLANK | PUNCTUATION);
        if (class && i > from) {
            pieces[n_pieces++] = (Piece){from, i};
            from = i; /* the sign is for the next round: there may be no room for it in this call */
            continue;
        }
        i += (size_t)len;
        if (class & PUNCTUATION) pieces[n_pieces++] = (Piece){from, i};
        if (class) from = i;
    }
    if (i == n && from < n && n_pieces < max) pieces[n_pieces++] = (Piece){from, n}, from = n;
    *at = from;
    return n_pieces;
}

/* [wp.encode] a word -> ids ---------------------------------------------------------------------------------------- *
 * The trie of all tokens, byte by byte, in one hash table: (node, byte) -> node, eight bytes an edge. A token inside a
 * word is looked for from the node that its "##" leads to. */
struct WordPiece {
    uint64_t *edge;                              /* node << 36 | byte << 28 | child; 0: empty, as no child is node 0 */
    int shift;                                   /* 64 - log2 of the edges' room */
    size_t n_nodes;
    int32_t *id;                                 /* [n_nodes] the token that ends here, or -1 */
    size_t id_cap;
    int32_t inside;                              /* node of the prefix, -1: no token has it */
    size_t max_chars;
    int32_t unk;
};
enum { CHILD_BITS = 28};

static inline uint64_t *trie_edge(const WordPiece *wp, uint64_t node_byte) {
    size_t mask = ((size_t)1 << (64 - wp->shift)) - 1, i = (size_t)(node_byte * 0x9E3779B97F4A7C15ull >> wp->shift);
    while (wp->edge[i] && wp->edge[i] >> CHILD_BITS != node_byte) i = (i + 1) & mask;
    return &wp->edge[i];
}

static inline int32_t trie_step(const WordPiece *wp, int32_t node, uint8_t byte) { /* -1: no token goes on so */
    uint64_t e = *trie_edge(wp, (uint64_t)node << 8 | byte);
    return e ? (int32_t)(e & ((1u << CHILD_BITS) - 1)) : -1;
}

static void trie_grow(WordPiece *wp) {
    uint64_t *old = wp->edge;
    size_t n_old = old ? (size_t)1 << (64 - wp->shift) : 0;
    wp->shift = old ? wp->shift - 1 : 64 - 12;
    wp->edge = xcalloc((size_t)1 << (64 - wp->shift), sizeof *wp->edge);
    for (size_t i = 0; i < n_old; i++)
        if (old[i]) *trie_edge(wp, old[i] >> CHILD_BITS) = old[i];
    free(old);
}

static int32_t trie_node(WordPiece *wp) {
    if (wp->n_nodes >> CHILD_BITS) die("the vocabulary's tokens are too long: %zu bytes and more", wp->n_nodes);
    if (wp->n_nodes == wp->id_cap) {
        wp->id_cap = wp->id_cap ? wp->id_cap * 2 : 4096;
        wp->id = xrealloc(wp->id, size_mul(wp->id_cap, sizeof *wp->id));
    }
    wp->id[wp->n_nodes] = -1;
    return (int32_t)wp->n_nodes++;
}

static int32_t trie_walk(const WordPiece *wp, const char *s, size_t n) {
    int32_t node = 0;
    for (size_t i = 0; i < n && node >= 0; i++) node = trie_step(wp, node, (uint8_t)s[i]);
    return node;
}

WordPiece *wordpiece_new(const Tokenizer *t, const char *continuing_prefix, int32_t unk, size_t max_chars) {
    const Vocab *v = &t->vocab;
    WordPiece *wp = xcalloc(1, sizeof *wp);
    wp->max_chars = max_chars, wp->unk = unk;
    trie_grow(wp);
    trie_node(wp);
    for (size_t id = 0; id < v->n_ids; id++) {
        if (!v->spelling[id].used || t->is_special[id]) continue; /* no special token arises from text */
        const char *s = vocab_str(v, (int32_t)id);
        int32_t node = 0;
        for (size_t i = 0; i < v->spelling[id].n; i++) {
            int32_t child = trie_step(wp, node, (uint8_t)s[i]);
            if (child < 0) {
                if (wp->n_nodes * 2 >> (64 - wp->shift)) trie_grow(wp);
                child = trie_node(wp);
                uint64_t node_byte = (uint64_t)node << 8 | (uint8_t)s[i];
                *trie_edge(wp, node_byte) = node_byte << CHILD_BITS | (uint64_t)child;
            }
            node = child;
        }
        wp->id[node] = (int32_t)id;
    }
    wp->inside = trie_walk(wp, continuing_prefix, strlen(continuing_prefix));
    return wp;
}

void wordpiece_free(WordPiece *wp) {
    if (!wp) return;
    free(wp->edge);
    free(wp->id);
    free(wp);
}

void wordpiece_encode(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, Ids *ids) {
    (void)w;
    const WordPiece *wp = t->wordpiece;
    size_t chars = 0, before = ids->n;
    for (size_t i = 0; i < n; i++) chars += (s[i] & 0xC0) != 0x80;
    for (size_t at = 0; at < n;) {
        size_t stop = at;
        int32_t id = -1;
        int32_t node = chars > wp->max_chars ? -1 : at ? wp->inside : 0;
        for (size_t i = at; i < n && node >= 0;) {
            node = trie_step(wp, node, s[i++]);
            if (node >= 0 && wp->id[node] >= 0) id = wp->id[node], stop = i;
        }
        if (id < 0) {
            ids->n = before;
            ids_add(ids, wp->unk);
            return;
        }
        ids_add(ids, id);
        at = stop;
    }
}

/* [wp.decode] ids -> readable text --------------------------------------------------------------------------------- */

static void replace_all(Buf *b, size_t from, const char *old, const char *new) {
    size_t n_old = strlen(old), n_new = strlen(new), to = from; /* new is never the longer one */
    for (size_t i = from; i < b->len;) {
        bool hit = b->len - i >= n_old && !memcmp(b->data + i, old, n_old);
        if (hit) memcpy(b->data + to, new, n_new);
        else b->data[to] = b->data[i];
        to += hit ? n_new : 1, i += hit ? n_old : 1;
    }
    b->len = to;
    b->data[to] = 0;
}

void wordpiece_write(const char *token, size_t n, const char *prefix, bool cleanup, bool first, Buf *out) {
    /* The reference cleans token by token, so "don ' t" keeps its blanks: each rule sees one token and its blank. */
    static const char *const rules[][2] = {
        {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
        {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    size_t from = out->len, n_prefix = strlen(prefix);
    bool goes_on = n >= n_prefix && !memcmp(token, prefix, n_prefix);
    if (!first && !goes_on) buf_str(out, " ");
    if (!first && goes_on) token += n_prefix, n -= n_prefix;
    buf_add(out, token, n);
    for (size_t i = 0; cleanup && i < sizeof rules / sizeof *rules; i++)
        replace_all(out, from, rules[i][0], rules[i][1]);
}

/* [wp.load] vocab.txt ---------------------------------------------------------------------------------------------- */

enum { MAX_WORD_CHARS = 100 };
static const char PREFIX[] = "##";

/* The id of a token is the number of its line, from 0. Of equal lines the last one counts, as it does to the reference;
 * the others' ids are holes. */
static void read_vocab_txt(const char *path, Vocab *v) {
    size_t n, lines = 0;
    char *text = file_read(path, &n);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)text + i, n - i, &cp);
        if (len <= 0) die("%s: line %zu is not UTF-8 (byte %zu of the file)", path, lines + 1, i);
        i += (size_t)len;
        lines += cp == '\n' || (cp == '\r' && text[i] != '\n'); /* file_read puts a NUL behind the text */
    }
    if (n && text[n - 1] != '\n' && text[n - 1] != '\r') lines++;
    if (!lines) die("%s: the vocabulary is empty", path);
    if (lines > MAX_IDS) die("%s: %zu lines; %d tokens are the most", path, lines, MAX_IDS);
    size_t *start = xmalloc(size_mul(lines + 1, sizeof *start)), line = 0;
    for (size_t i = 0; i < n; line++) {
        start[line] = i;
        while (i < n && text[i] != '\n' && text[i] != '\r') i++;
        i += i < n && text[i] == '\r' && text[i + 1] == '\n' ? 2 : 1;
    }
    for (size_t stop = n; line-- > 0; stop = start[line]) {
        size_t len = stop - start[line];
        if (len && text[start[line] + len - 1] == '\n') len--;
        if (len && text[start[line] + len - 1] == '\r') len--;
        if (len > INT32_MAX) die("%s: line %zu has %zu bytes", path, line + 1, len);
        if (vocab_find(v, text + start[line], len) < 0) vocab_add(v, text + start[line], len, (uint32_t)line);
    }
    free(start);
    free(text);
}

static void write_token(const Loader *l, int32_t id, bool first, const void *state, Buf *out) {
    (void)state;
    const Vocab *v = &l->t->vocab;
    wordpiece_write(vocab_str(v, id), v->spelling[id].n, PREFIX, true, first, out);
}

/* The special token of a role: by the name that the directory's files give it, else by BERT's own. */
static int32_t role(Loader *l, const cJSON *const configs[2], const char *key, const char *usual) {
    const char *name = NULL;
    for (int i = 0; i < 2 && !name; i++) {
        const cJSON *node = json_get(configs[i], key);
        name = cJSON_GetStringValue(cJSON_IsObject(node) ? json_get(node, "content") : node);
    }
    if (!name || !*name) name = usual;
    int32_t id = vocab_find(&l->t->vocab, name, strlen(name));
    AddedToken a = {.text = (char *)(uintptr_t)name, .n = strlen(name), .id = id, .special = true}; /* is copied */
    if (id >= 0) add_token(l, a);
    return id;
}

/* Classes whose text side is this one. Others read a vocab.txt in their own way (BertJapaneseTokenizer looks for words
 * in a dictionary, EsmTokenizer knows amino acids), and guessing would give wrong ids. */
static void check_class(const Loader *l, const char *class) {
    static const char *const known[] = {"Bert", "DistilBert", "Electra", "MobileBert", "SqueezeBert", "ConvBert",
                                        "Lxmert", "LayoutLM", "DPR", "RetriBert", "PreTrained", "Tokenizers"};
    bool japanese = class && !strncmp(class, "BertJapanese", 12);
    for (size_t i = 0; class && !japanese && i < sizeof known / sizeof *known; i++)
        if (!strncmp(class, known[i], strlen(known[i]))) return;
    if (class) die("%s: vocab.txt of the class %.60s is not supported (BertTokenizer's is)", l->dir, class);
}

void wordpiece_load(Loader *l) {
    Tokenizer *t = l->t;
    read_vocab_txt(l->path, &t->vocab);
    char *path[2] = {path_join(l->dir, "tokenizer_config.json"), path_join(l->dir, "special_tokens_map.json")};
    cJSON *configs[2];
    for (int i = 0; i < 2; i++) configs[i] = file_exists(path[i]) ? json_read(path[i], JSON_OBJECT) : NULL;
    const cJSON *const read[2] = {configs[0], configs[1]};
    check_class(l, json_str(configs[0], "tokenizer_class"));
    bool lowercase = !cJSON_IsFalse(json_get(configs[0], "do_lower_case"));
    bool chinese = !cJSON_IsFalse(json_get(configs[0], "tokenize_chinese_chars"));
    const cJSON *strip = json_get(configs[0], "strip_accents");
    bool accents = cJSON_IsBool(strip) ? cJSON_IsTrue(strip) : lowercase;
    t->unk = role(l, read, "unk_token", "[UNK]");
    int32_t cls = role(l, read, "cls_token", "[CLS]"), sep = role(l, read, "sep_token", "[SEP]");
    role(l, read, "pad_token", "[PAD]");
    role(l, read, "mask_token", "[MASK]");
    if (t->unk < 0) die("%s: no line is the unknown token, [UNK] unless a file beside it names another", l->path);
    read_added_tokens(l);
    read_roles(l);
    for (int i = 0; i < 2; i++) cJSON_Delete(configs[i]), free(path[i]);

    norm_add(t, (NormStep){.kind = NORM_BERT, .bert = {true, chinese, accents, lowercase}});
    t->pre = xcalloc(1, sizeof *t->pre);
    t->n_pre = 1;
    t->pre[0] = (PreStep){.kind = PRE_BERT};
    t->model = MODEL_WORDPIECE;
    /* A directory may lack the two tokens of the template (not every vocabulary is for BERT): then nothing is added. */
    for (int pair = 0; pair < 2 && cls >= 0 && sep >= 0; pair++) {
        Wrap *w = pair ? &t->pair : &t->single;
        wrap_add(w, cls, 0);
        wrap_add(w, WRAP_A, 0);
        wrap_add(w, sep, 0);
        if (pair) wrap_add(w, WRAP_B, 1), wrap_add(w, sep, 1);
    }
    finish_tokens(l);
    t->wordpiece = wordpiece_new(t, PREFIX, t->unk, MAX_WORD_CHARS);
    decoder_build(l, true, write_token, NULL);
}
