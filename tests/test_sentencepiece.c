/* test_sentencepiece.c - tokenizer.model: two little files are made here, byte by byte, and read. The ids and texts
 * wanted are those that the official library (sentencepiece 0.2.3) gives for the same files.
 *
 * Then what a file may do to its reader: cut short after any byte, or with any byte changed, it must end in one
 * sentence or in a tokenizer that works. */
#include "tokenizer.h"
#include "test.h"
#include <math.h>

/* ---- a writer of protocol buffers -------------------------------------------------------------------------------- */

static void put_varint(Buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) buf_add(b, &(uint8_t){(uint8_t)(v | 0x80)}, 1);
    buf_add(b, &(uint8_t){(uint8_t)v}, 1);
}

static void put_number(Buf *b, int field, uint64_t v) {
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, v);
}

static void put_bytes(Buf *b, int field, const void *bytes, size_t n) {
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    buf_add(b, bytes, n);
}

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

static void put_piece(Buf *b, const char *text, float score, int type) {
    Buf p = {0};
    put_bytes(&p, 1, text, strlen(text));
    put_varint(&p, 2 << 3 | 5);
    buf_add(&p, &score, 4);
    if (type != NORMAL) put_number(&p, 3, (uint64_t)type);
    put_bytes(b, 1, p.data, p.len);
    buf_free(&p);
}

/* "A" -> "a", "AZ" -> "b", "Z" -> nothing, U+00A0 -> " ": a double array of seven blocks of 256 units. */
static void put_charsmap(Buf *normalizer) {
    enum { BLOCK = 256, ROOT = BLOCK, VALUE_A = 2 * BLOCK, AFTER_C2 = 3 * BLOCK, VALUE_A0 = 4 * BLOCK,
           VALUE_Z = 5 * BLOCK, VALUE_AZ = 6 * BLOCK, UNITS = 7 * BLOCK, HAS_VALUE = 1 << 8 };
    static const char texts[] = "a\0 \0\0b";
    uint32_t unit[1 + UNITS], *u = unit + 1;
    for (uint32_t i = 0; i < UNITS; i++) u[i] = (i & 0xFF) ^ 1; /* the byte of no step that leads here */
    unit[0] = UNITS * 4;
    u[0] = ROOT << 10;
    u[ROOT ^ 'A'] = (uint32_t)(ROOT ^ 'A' ^ VALUE_A) << 10 | HAS_VALUE | 'A';
    u[ROOT ^ 0xC2] = (uint32_t)(ROOT ^ 0xC2 ^ AFTER_C2) << 10 | 0xC2;
    u[AFTER_C2 ^ 0xA0] = (uint32_t)(AFTER_C2 ^ 0xA0 ^ VALUE_A0) << 10 | HAS_VALUE | 0xA0;
    u[ROOT ^ 'Z'] = (uint32_t)(ROOT ^ 'Z' ^ VALUE_Z) << 10 | HAS_VALUE | 'Z';
    u[VALUE_A ^ 'Z'] = (uint32_t)(VALUE_A ^ 'Z' ^ VALUE_AZ) << 10 | HAS_VALUE | 'Z';
    u[VALUE_AZ] = 1u << 31 | 5;
    u[VALUE_A] = 1u << 31 | 0;
    u[VALUE_A0] = 1u << 31 | 2;
    u[VALUE_Z] = 1u << 31 | 4;
    Buf blob = {0};
    buf_add(&blob, unit, sizeof unit);
    buf_add(&blob, texts, sizeof texts);
    put_bytes(normalizer, 2, blob.data, blob.len);
    buf_free(&blob);
}

#define MARK "\xE2\x96\x81"

/* BPE with byte_fallback, blanks kept. x and y have no piece, and "xy" has. */
static void bpe_model(Buf *b, bool unused) {
    Buf trainer = {0}, normalizer = {0};
    put_piece(b, "<unk>", 0, UNKNOWN);
    put_piece(b, "<s>", 0, CONTROL);
    put_piece(b, "</s>", 0, CONTROL);
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        put_piece(b, name, 0, BYTE);
    }
    static const struct { const char *text; float score; int type; } pieces[] = { /* from id 259 on */
        {"bc", -1, NORMAL}, {"ab", -1, NORMAL}, {MARK "a", -2, NORMAL}, {MARK "ab", -3, NORMAL}, {"xy", -4, NORMAL},
        {"aa", -5, NORMAL}, {MARK MARK, -6, NORMAL}, {"<u>", -7, USER}, {"<u>a", -7, USER}, {MARK, -10, NORMAL},
        {"a", -11, NORMAL}, {"b", -12, NORMAL}, {"c", -13, NORMAL}, {"\xE4\xBD\xA0", -14, NORMAL}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(b, pieces[i].text, pieces[i].score, unused && i == 1 ? UNUSED : pieces[i].type);
    put_number(&trainer, 3, 2);
    put_number(&trainer, 35, 1);
    put_number(&trainer, 43, (uint64_t)-1); /* pad_id, ten bytes */
    put_bytes(b, 2, trainer.data, trainer.len);
    put_number(&normalizer, 4, 0);
    put_bytes(b, 3, normalizer.data, normalizer.len);
    put_bytes(b, 99, "a field of the future", 21);
    buf_free(&trainer);
    buf_free(&normalizer);
}

/* Unigram with a character map; blanks are collapsed, which is what files mean that say nothing. */
static void unigram_model(Buf *b, bool chatglm) {
    static const struct { const char *text; float score; int type; } pieces[] = {
        {"<unk>", 0, UNKNOWN}, {"<s>", 0, CONTROL}, {"</s>", 0, CONTROL}, {MARK, -2, NORMAL}, {"a", -3, NORMAL},
        {"b", -3.5, NORMAL}, {"ab", -4, NORMAL}, {MARK "a", -3.25, NORMAL}, {"aa", -6, NORMAL}, {"<n>", 0, USER},
        {"ba", -6.25, NORMAL}, {"bb", -7, UNUSED}, {"aba", -7.5, NORMAL}};
    Buf normalizer = {0};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(b, pieces[i].text, pieces[i].score, pieces[i].type);
    if (chatglm) {
        put_piece(b, "<|tab|>", 0, USER);
        put_piece(b, "<|blank_2|>", 0, USER);
        put_piece(b, "[gMASK]", 0, CONTROL);
        put_piece(b, "<sop>", 0, CONTROL);
    }
    put_charsmap(&normalizer);
    put_bytes(b, 3, normalizer.data, normalizer.len);
    buf_free(&normalizer);
}

static char *write_dir(const char *name, const char *file, const Buf *b, size_t n) {
    char *dir = path_join(test_tmpdir(), name), *path = path_join(dir, file);
    make_dirs(dir);
    file_write(path, b->data, n);
    free(path);
    return dir;
}

static void check_row(const Tokenizer *t, const char *text, size_t n, bool special, const char *want, const char *dec) {
    Ids ids = {0};
    Buf got = {0}, back = {0}, stream = {0};
    tokenizer_encode(t, text, n, special, &ids);
    buf_add(&got, "", 0);
    for (size_t i = 0; i < ids.n; i++) buf_fmt(&got, "%s%d", i ? " " : "", ids.v[i]);
    CHECK(!strcmp(got.data, want), "\"%.*s\" is %s, want %s", (int)n, text, got.data, want);
    buf_add(&back, "", 0);
    buf_add(&stream, "", 0);
    tokenizer_decode_text(t, ids.v, ids.n, false, &back);
    Utf8Stream s = {0};
    for (size_t i = 0; i < ids.n; i++) tokenizer_decode_stream(t, &s, ids.v[i], &stream);
    tokenizer_decode_stream(t, &s, -1, &stream);
    CHECK(!strcmp(back.data, dec), "%s is \"%s\", want \"%s\"", want, back.data, dec);
    CHECK(!strcmp(stream.data, dec), "%s, one by one, is \"%s\", want \"%s\"", want, stream.data, dec);
    ids_free(&ids);
    buf_free(&got);
    buf_free(&back);
    buf_free(&stream);
}

typedef struct { const char *text, *ids, *dec; } Row;

static void check_rows(const Tokenizer *t, const Row *rows, size_t n) {
    for (int again = 0; again < 2; again++) /* the second time from the cache */
        for (size_t i = 0; i < n; i++)
            check_row(t, rows[i].text, strlen(rows[i].text), false, rows[i].ids, rows[i].dec);
}

#define ROWS(r) r, sizeof r / sizeof *r

static void check_model(const char *name, Buf *b, const Row *rows, size_t n) { /* frees b */
    char *dir = write_dir(name, "tokenizer.model", b, b->len);
    Tokenizer *t = tokenizer_load(dir);
    check_rows(t, rows, n);
    tokenizer_free(t);
    free(dir);
    buf_free(b);
}

static void test_bpe(void) {
    static const Row rows[] = {
        {"", "", ""}, {"a", "261", "a"}, {"ab c", "262 268 271", "ab c"}, {"abc", "262 271", "abc"},
        {"aabc", "261 260 271", "aabc"},             /* ab and bc score the same: the left one goes first */
        {"xyx", "268 263 123", "xyx"},               /* two characters without a piece make one together */
        {"a<u>ab", "261 267 270", "a<u>ab"}, {"<u", "268 63 120", "<u"}, {"  a b", "265 261 268 270", "  a b"},
        {"   ", "265 265", "   "}, {" \xC3\xA9", "265 198 172", " \xC3\xA9"},
        {"a\xFF\xE4\xBD", "261 242 194 192 242 194 192 242 194 192", "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xE4\xBD\xA0\xE4\xBD\xA0", "268 272 272", "\xE4\xBD\xA0\xE4\xBD\xA0"}, {MARK "a", "268 261", " a"},
        {"aaaaa", "261 264 264", "aaaaa"}, {"a\nb", "261 13 270", "a\nb"},
        {"<s>", "268 63 118 65", "<s>"}};
    static const Row unused[] = {{"ab", "262", "ab"}, {"abc", "262 271", "abc"}, {"aab", "261 269 270", "aab"},
                                 {" ab ab", "268 262 262", " ab ab"}};
    Buf b = {0}, long_text = {0}, want = {0}, u = {0};
    bpe_model(&b, false);
    char *dir = write_dir("bpe", "tokenizer.model", &b, b.len);
    Tokenizer *t = tokenizer_load(dir);
    CHECK(tokenizer_vocab(t) == 273 && tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2, "vocabulary 273, <s>, </s>");
    CHECK(tokenizer_adds_bos(t), "a directory that says nothing wants <s>, as Llama-2's own code does");
    check_rows(t, ROWS(rows));
    check_row(t, "a<s>a", 5, true, "261 1 261", "a a"); /* each part gets its blank */
    buf_str(&want, "261");
    for (int i = 0; i < 100; i++) /* too long for merge_short */
        buf_str(&long_text, "aa"), buf_str(&want, i ? " 264" : "");
    buf_str(&want, " 269");
    check_row(t, long_text.data, long_text.len, false, want.data, long_text.data);
    tokenizer_free(t);
    free(dir);
    bpe_model(&u, true);
    check_model("unused", &u, ROWS(unused));
    buf_free(&b);
    buf_free(&long_text);
    buf_free(&want);
}

/* Characters of three bytes: without a piece, with one, and as the first or second of a longer one. */
static void test_bpe_chinese(void) {
    static const Row rows[] = {
        {"\xE6\x88\x91\xE4\xBD\xA0\xE6\x88\x91", "268 233 139 148 272 233 139 148",
         "\xE6\x88\x91\xE4\xBD\xA0\xE6\x88\x91"},
        {"\xE4\xBD\xA0\xE5\xA5\xBD", "268 273", "\xE4\xBD\xA0\xE5\xA5\xBD"},
        {"\xE5\xA5\xBD\xE4\xBD\xA0\xE5\xA5\xBD\xE5\xA5\xBD", "268 232 168 192 273 232 168 192",
         "\xE5\xA5\xBD\xE4\xBD\xA0\xE5\xA5\xBD\xE5\xA5\xBD"},
        {"\xE4\xBD\xA0\xE6\x88\x91\xE5\xA5\xBD", "268 272 233 139 148 232 168 192",
         "\xE4\xBD\xA0\xE6\x88\x91\xE5\xA5\xBD"},
        {"a\xE6\x88\x91" "b", "261 233 139 148 270", "a\xE6\x88\x91" "b"}};
    Buf b = {0};
    bpe_model(&b, false);
    put_piece(&b, "\xE4\xBD\xA0\xE5\xA5\xBD", -15, NORMAL); /* 273 */
    check_model("chinese", &b, ROWS(rows));
}

/* Ids that no text makes, in a row: where the text's first blank is, and what bytes that are no character look like. */
static void test_decode(void) {
    static const struct { const char *model; int32_t ids[5]; int n; const char *want; } rows[] = {
        {"bpe", {1, 261, 2}, 3, "a"}, {"bpe", {0, 261}, 2, " \xE2\x81\x87  a"}, {"bpe", {268, 268, 269}, 3, " a"},
        {"bpe", {231, 192, 261, 258}, 4, "\xEF\xBF\xBD\xEF\xBF\xBD a\xEF\xBF\xBD"}, {"bpe", {1, 268}, 2, ""},
        {"bpe", {68, 261}, 2, "A a"}, {"unigram", {3, 3, 7, 4}, 4, "aa"},
        {"unigram", {1, 7, 0, 2}, 4, "a \xE2\x81\x87 "},
        {"unigram", {9, 7}, 2, "<n> a"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *dir = path_join(test_tmpdir(), rows[i].model);
        Tokenizer *t = tokenizer_load(dir);
        Buf got = {0};
        buf_add(&got, "", 0);
        tokenizer_decode_text(t, rows[i].ids, (size_t)rows[i].n, false, &got);
        CHECK(!strcmp(got.data, rows[i].want), "%s decodes %d ... to \"%s\", want \"%s\"", rows[i].model,
              rows[i].ids[0], got.data, rows[i].want);
        buf_free(&got);
        tokenizer_free(t);
        free(dir);
    }
}

static void test_unigram(void) {
    static const Row rows[] = {
        {"", "", ""}, {"a", "7", "a"}, {"A", "7", "a"}, {"AZaA", "3 10 4", "baa"}, {"Zab  a ", "3 6 7", "ab a"},
        {"aaa", "7 8", "aaa"},
        {"aaaa", "7 4 8", "aaaa"}, {"abab", "3 6 6", "abab"}, {"baab", "3 10 6", "baab"},
        {"\xC2\xA0\xC2\xA0" "a\xC2\xA0" "b", "7 3 5", "a b"}, {"bb", "3 5 5", "bb"},
        {"xy\xC3\xA9z a", "3 0 7", " \xE2\x81\x87  a"}, {"a<n>Ab", "7 9 6", "a<n>ab"}, {"<n> a", "3 9 7", "<n> a"},
        {"\xFF" "b", "3 0 5", " \xE2\x81\x87 b"}, {"ZZ", "", ""}, {" Z a", "7", "a"}, {"ababa", "3 6 6 4", "ababa"},
        {MARK MARK "a", "3 3 7", "a"}};
    Buf b = {0};
    unigram_model(&b, false);
    check_model("unigram", &b, ROWS(rows));
}

/* The definition, the long way round: all pieces at every place, sums from the text's start in single precision. Texts
 * with other characters than those of the pieces, long words, mixed scripts; scores that often tie or nearly do, and
 * that soon pass 100,000, where the library starts its sums afresh. */
static const struct { const char *text; float score; } many[] = {
    {MARK, -2000.5f}, {"a", -1500.25f}, {"b", -1500.5f}, {"ab", -3000.75f}, {"ba", -3000.7f}, {MARK "a", -3500.75f},
    {"aba", -4500.95f}, {"bab", -4501}, {MARK "ab" MARK, -6999.9f}, {"abab", -6001.3f}, {"\xE4\xB8\xAD", -1700},
    {"\xE6\x96\x87", -1701.1f}, {"\xE4\xB8\xAD\xE6\x96\x87", -3401.1f}, {"\xE6\x96\x87\xE4\xB8\xAD", -3401.3f},
    {"\xE6\x96\x87" "a", -3201.3f}, {"b\xE4\xB8\xAD", -3200.4f}, {"\xE4\xB8\xAD\xE6\x96\x87\xE4\xB8\xAD", -5102.2f},
    {".", -900}, {"..", -1800}, {"...", -2699.99f}, {"\xF0\x9F\x98\x80", -1234.5f},
        {"\xF0\x9F\x98\x80" "a", -2734.75f}};
enum { N_MANY = sizeof many / sizeof *many };

static void reference(const char *s, size_t n, Ids *ids) { /* piece i has the id i + 1; 0 is the unknown one */
    typedef struct { float score; int32_t id; size_t from; bool reached; } Best;
    Best *best = xcalloc(n + 1, sizeof *best);
    best[0].reached = true;
    for (size_t at = 0; at < n; at++) {
        if (!best[at].reached) continue; /* inside a character */
        if (fabsf(best[at].score) > 100000) {
            float offset = best[at].score;
            for (size_t k = at; k <= n; k++)
                if (best[k].reached) best[k].score -= offset;
        }
        uint8_t c = (uint8_t)s[at];
        size_t one = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        bool has_one = false;
        for (int32_t i = 0; i <= N_MANY; i++) { /* the last round: the unknown character */
            size_t len = i < N_MANY ? strlen(many[i].text) : one;
            if (i < N_MANY && (len > n - at || memcmp(many[i].text, s + at, len))) continue;
            has_one |= len == one && i < N_MANY;
            if (i == N_MANY && has_one) continue;
            float score = best[at].score + (i < N_MANY ? many[i].score : -7009.9f);
            Best *to = &best[at + len];
            if (!to->reached || score > to->score) *to = (Best){score, i < N_MANY ? i + 1 : 0, at, true};
        }
    }
    size_t n_ids = 0;
    int32_t *back = xmalloc((n + 1) * sizeof *back);
    for (size_t at = n; at; at = best[at].from) back[n_ids++] = best[at].id;
    while (n_ids-- > 0)
        if (back[n_ids] || !ids->n || ids->v[ids->n - 1]) ids_add(ids, back[n_ids]); /* unknown ones are one */
    free(back);
    free(best);
}

static void test_unigram_definition(void) {
    static const char *const parts[] = {"a", "b", "ab", "abab", " ", "\xE4\xB8\xAD", "\xE6\x96\x87", "\xC3\xA9", "x",
                                        ".", "...", " ab ", "\xF0\x9F\x98\x80", "\xF0\x9F\x99\x82",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    enum { N_PARTS = sizeof parts / sizeof *parts, ROUNDS = 1500 };
    Buf b = {0}, normalizer = {0};
    put_piece(&b, "<unk>", 0, UNKNOWN);
    for (int i = 0; i < N_MANY; i++) put_piece(&b, many[i].text, many[i].score, NORMAL);
    put_number(&normalizer, 4, 0); /* blanks stay as many as they are */
    put_bytes(&b, 3, normalizer.data, normalizer.len);
    char *dir = write_dir("many", "tokenizer.model", &b, b.len);
    Tokenizer *t = tokenizer_load(dir);
    Rng rng = {5, 0};
    size_t n_same = 0;
    for (int round = 0; round < ROUNDS; round++) {
        Buf text = {0}, normal = {0};
        Ids got = {0}, want = {0};
        size_t kinds = 1 + rng_below(&rng, N_PARTS), n_parts = 1 + rng_below(&rng, round % 10 ? 60 : 3000);
        for (size_t i = 0; i < n_parts; i++) buf_str(&text, parts[rng_below(&rng, kinds)]);
        buf_str(&normal, MARK);
        for (size_t i = 0; i < text.len; i++)
            buf_add(&normal, text.data[i] == ' ' ? MARK : text.data + i, text.data[i] == ' ' ? strlen(MARK) : 1);
        tokenizer_encode(t, text.data, text.len, false, &got);
        reference(normal.data, normal.len, &want);
        n_same += got.n == want.n && !memcmp(got.v, want.v, got.n * sizeof *got.v);
        ids_free(&got), ids_free(&want);
        buf_free(&text), buf_free(&normal);
    }
    CHECK(n_same == ROUNDS, "unigram as the definition has it: %zu of %d texts", n_same, ROUNDS);
    tokenizer_free(t);
    free(dir);
    buf_free(&b);
    buf_free(&normalizer);
}

/* Tokens of a file beside the model, and a stream that begins behind a prompt. */
static void test_beside(void) {
    static const char added[] = "{\"<x>\": 273, \"ab\": 260}";
    Buf b = {0}, out = {0};
    bpe_model(&b, false);
    char *dir = write_dir("beside", "tokenizer.model", &b, b.len), *path = path_join(dir, "added_tokens.json");
    file_write(path, added, strlen(added));
    Tokenizer *t = tokenizer_load(dir);
    CHECK(tokenizer_vocab(t) == 274 && tokenizer_id(t, "<x>") == 273, "added_tokens.json: one more token");
    check_row(t, "a<x>c", 5, false, "261 273 268 271", "a<x>c");
    tokenizer_free(t);
    file_write(path, "{\"<x>\": 270}", 12);
    CHECK_DIES({ tokenizer_load(dir); }, "belongs to two tokens");
    free(path);
    free(dir);
    t = tokenizer_load(dir = path_join(test_tmpdir(), "bpe"));
    const int32_t ids[] = {262, 268, 271};
    Utf8Stream first = {0}, behind = tokenizer_stream_after(t, ids, 1);
    tokenizer_decode_stream(t, &first, ids[1], &out);
    tokenizer_decode_stream(t, &first, ids[2], &out);
    CHECK(!strcmp(out.data, "c"), "the first blank of a text is dropped: \"%s\"", out.data);
    out.len = 0;
    tokenizer_decode_stream(t, &behind, ids[1], &out);
    tokenizer_decode_stream(t, &behind, ids[2], &out);
    CHECK(!strcmp(out.data, " c"), "behind a prompt it is not: \"%s\"", out.data);
    tokenizer_free(t);
    free(dir);
    buf_free(&b);
    buf_free(&out);
}

/* What `tokenizer show` says of characters and pieces that a model lacks. */
static void test_show(const char *program) {
    static const struct { const char *model, *text, *want; } rows[] = {
        {"bpe", "xyx", "x + y"}, {"bpe", "xyx", "268 263 123"}, {"unused", "aab", "261 269 270"},
        {"unigram", "ab", "3 6"}, {"bpe", "a\xC3\xA9", "261 198 172"}};
    char *slash = strrchr(program, '/');
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Buf out = {0};
        char chunk[4096];
        char *command = strf("'%.*s/tokenizer' show --model '%s/%s' --text '%s' 2>&1",
            slash ? (int)(slash - program) : 1,
                             slash ? program : ".", test_tmpdir(), rows[i].model, rows[i].text);
        FILE *f = popen(command, "r");
        for (size_t got; f && (got = fread(chunk, 1, sizeof chunk, f)) > 0;) buf_add(&out, chunk, got);
        int code = f ? pclose(f) : -1;
        buf_add(&out, "", 0);
        CHECK(!code && strstr(out.data, rows[i].want), "show %s \"%s\" says %s: %d\n%s", rows[i].model, rows[i].text,
              rows[i].want, code, out.data);
        free(command);
        buf_free(&out);
    }
}

static void test_chatglm(void) {
    static const char config[] = "{\"tokenizer_class\": \"ChatGLMTokenizer\"}", images[] = "{\"num_image_tokens\": 20}";
    Buf b = {0}, u = {0};
    bpe_model(&b, false);
    char *dir = write_dir("chatglm3", "tokenizer.model", &b, b.len), *path = path_join(dir, "tokenizer_config.json");
    file_write(path, config, strlen(config));
    Tokenizer *t = tokenizer_load(dir);
    const Ids *prefix = tokenizer_prefix(t);
    CHECK(tokenizer_vocab(t) == 273 + 9 && tokenizer_id(t, "<|user|>") == 279, "nine tokens behind the pieces");
    CHECK(prefix->n == 2 && prefix->v[0] == 274 && prefix->v[1] == 276, "[gMASK] sop before a text");
    check_row(t, "<|user|>a</s>", 13, true, "279 261 63 50 118 65", "<|user|>a</s>"); /* roles, and nothing else */
    check_row(t, "a<|user|>a", 10, true, "261 279 261", "a<|user|>a");
    CHECK(tokenizer_is_special(t, 276) && tokenizer_is_special(t, 279) && !tokenizer_is_special(t, 261),
          "special ones");
    tokenizer_free(t);
    free(path);
    free(dir);
    unigram_model(&u, true);
    dir = write_dir("chatglm1", "ice_text.model", &u, u.len), path = path_join(dir, "tokenizer_config.json");
    file_write(path, images, strlen(images));
    t = tokenizer_load(dir);
    const Ids *suffix = tokenizer_suffix(t);
    CHECK(tokenizer_vocab(t) == 17 + 20 && !tokenizer_prefix(t)->n, "17 pieces behind 20 tokens of images");
    CHECK(suffix->n == 2 && suffix->v[0] == 35 && suffix->v[1] == 36, "[gMASK] <sop> behind a text");
    check_row(t, "a\n\tb  b", 7, false, "27 29 33 25 34 25", "a\n\tb  b");
    const char *far = "ababababab\nabababab\tababab  abababab"; /* blanks far from both ends */
    check_row(t, far, strlen(far), false, "23 26 26 26 26 26 29 26 26 26 26 33 26 26 26 34 26 26 26 26", far);
    check_row(t, "a b   b", 7, false, "27 23 25 20 25 20 24 20 25",
              "a b \xE2\x81\x87 b \xE2\x81\x87 a \xE2\x81\x87 b"); /* no piece for three blanks */
    tokenizer_free(t);
    free(path);
    free(dir);
    buf_free(&b);
    buf_free(&u);
}

/* Loads dir and uses the tokenizer, in a child; true: it was well, or died with one sentence. */
static bool survives(const char *dir) {
    FILE *capture = tmpfile();
    if (!capture) return false;
    pid_t pid = test_fork(capture);
    if (!pid) {
        Tokenizer *t = tokenizer_load(dir);
        Ids ids = {0};
        Buf out = {0};
        for (int special = 0; special < 2; special++)
            tokenizer_encode(t, "Zab xy<n>\xC2\xA0\xFF<s>abc", 19, special, &ids);
        tokenizer_decode_text(t, ids.v, ids.n, false, &out);
        _exit(0);
    }
    int status = 0;
    char text[4096];
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return false;
    rewind(capture);
    size_t n = fread(text, 1, sizeof text - 1, capture);
    fclose(capture);
    text[n] = 0;
    char *newline = strchr(text, '\n');
    bool clean = WIFEXITED(status) && !strstr(text, "Sanitizer") && !strstr(text, "runtime error:");
    return clean && (!WEXITSTATUS(status) || (WEXITSTATUS(status) == 1 && newline && !newline[1]));
}

/* Every byte of the fields that tell the parts apart; of long rows of the same (256 pieces for bytes, the tree's 6 KiB)
 * every few, in steps that reach all places of a piece and of a unit. */
static bool worth_trying(size_t i, size_t n, bool unigram) {
    return i < 280 || i + 330 > n || i % (unigram ? 29 : 9) == 0;
}

static void test_hostile(void) {
    for (int unigram = 0; unigram < 2; unigram++) {
        Buf b = {0};
        if (unigram) unigram_model(&b, false);
        else bpe_model(&b, false);
        size_t cut_ok = 0, cut_n = 0, changed_ok = 0, changed_n = 0;
        for (size_t i = 0; i < b.len; i++) {
            if (!worth_trying(i, b.len, unigram)) continue;
            char *dir = write_dir("hostile", "tokenizer.model", &b, i);
            cut_ok += survives(dir), cut_n++;
            free(dir);
            uint8_t was = (uint8_t)b.data[i];
            b.data[i] = (char)(was ^ (i % 2 ? 0xFF : 0x10));
            dir = write_dir("hostile", "tokenizer.model", &b, b.len);
            changed_ok += survives(dir), changed_n++;
            b.data[i] = (char)was;
            free(dir);
        }
        CHECK(cut_n && cut_ok == cut_n, "%s cut short: %zu of %zu end well", unigram ? "unigram" : "BPE", cut_ok,
              cut_n);
        CHECK(changed_n && changed_ok == changed_n, "%s with a byte changed: %zu of %zu end well",
              unigram ? "unigram" : "BPE", changed_ok, changed_n);
        buf_free(&b);
    }
    static const uint32_t root[] = {7 * 1024, 256 << 10};
    Buf outside = {0};
    unigram_model(&outside, false);
    char *at = memmem(outside.data, outside.len, root, sizeof root);
    CHECK(at, "the tree's root is found");
    if (at) at[6] = at[7] = 0x7F;
    char *dir_outside = write_dir("hostile", "tokenizer.model", &outside, outside.len);
    CHECK_DIES({ tokenizer_load(dir_outside); }, "tree points outside itself");
    free(dir_outside);
    buf_free(&outside);
    static const struct { const char *bytes; size_t n; const char *want; } files[] = {
        {"\n\x05", 2, "truncated"},
        {"\n\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11, "truncated"},
        {"\n\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 12, "more than ten bytes"},
        {"\n\x03\n\x01" "a", 5, "no piece stands for what is unknown"},
        {"\n\x05\n\x01" "a\x18\x07", 7, "unknown type 7"},
        {"\n\x05\n\x01" "a\x18\x02\n\x05\n\x01" "b\x18\x02", 14, "both the unknown one"},
        {"\n\x05\n\x01" "a\x18\x02\n\x03\n\x01" "a", 12, "two ids"},
        {"\n\x05\n\x01" "a\x18\x02\n\x03\n\x01\xFF", 12, "not text in UTF-8"},
        {"\n\x05\n\x01" "a\x18\x02\n\x00", 9, "is empty"},
        {"\n\x08\n\x01" "a\x15\x00\x00\xC0\x7F", 10, "not a number"},
        {"\n\x05\n\x01" "a\x18\x02\x12\x02\x18\x03", 11, "model type 3"},
        {"\n\x05\n\x01" "a\x18\x02\x12\x03\x98\x02\x01", 12, "no piece for the byte 0x00"},
        {"\n\x05\n\x01" "a\x18\x02\x1A\x07\x12\x05\x00\x04\x00\x00x", 16, "character map"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Buf b = {0};
        buf_add(&b, files[i].bytes, files[i].n);
        char *dir = write_dir("hostile", "tokenizer.model", &b, b.len);
        CHECK_DIES({ tokenizer_load(dir); }, files[i].want);
        free(dir);
        buf_free(&b);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    test_bpe();
    test_bpe_chinese();
    test_unigram();
    test_unigram_definition();
    test_beside();
    test_show(argv[0]);
    test_decode();
    test_chatglm();
    test_hostile();
    return test_end();
}
