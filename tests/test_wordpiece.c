/* test_wordpiece.c - BERT's text side: vocab.txt, normalizer, words, WordPiece, templates, decoding, training. Needs
 * nothing but itself.
 *
 *     make tests && build/.../test_wordpiece        a second
 *
 * Ids, texts and vocabularies written out here are the output of Hugging Face's tokenizers 0.23 and transformers 5. */
#include "tokenizer.h"
#include "test.h"

static const char VOCAB[] =
    "[PAD]\n[unused1]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n!\n'\n,\n.\n?\n#\n$\n-\n[\n]\n##s\n##ing\n##e\n##able\nun\n"
    "##believ\nbelieve\nthe\ndon\nt\ndo\nnot\nnaive\nna\xC3\xAFve\n\xC3\x80\nThe\ncafe\n##\xCC\x81\n"
    "\xE4\xB8\xAD\n\xE6\x96\x87\n\xE4\xB8\xAD\xE6\x96\x87\n##\xE6\x96\x87\ni\ni\xCC\x87\n\xCF\x83\n##\xCF\x83\n"
    "##\xCF\x82\n\xE1\x84\x90\n##\xE1\x85\xA1\n##\xE1\x86\xAB\na\n##a\n##aa\no\n##k\n"
    "\xE3\x80\x82\n\xF0\x9D\x85\x97\n##\xF0\x9D\x85\xA5\n##\nn\n's\nword\n";
enum { UNK = 2, A = 46, AFTER_A = 47, AFTER_AA = 48 };

/* A new directory with these files; config NULL: none. */
static char *make_dir(const char *name, const char *vocab, size_t n_vocab, const char *config) {
    char *dir = path_join(test_tmpdir(), name), *path;
    make_dirs(dir);
    file_write(path = path_join(dir, "vocab.txt"), vocab, n_vocab);
    free(path);
    if (config) {
        file_write(path = path_join(dir, "tokenizer_config.json"), config, strlen(config));
        free(path);
    }
    return dir;
}

static Tokenizer *load(const char *name, const char *vocab, size_t n_vocab, const char *config) {
    char *dir = make_dir(name, vocab, n_vocab, config);
    Tokenizer *t = tokenizer_load(dir);
    free(dir);
    return t;
}

static Buf ids_text(const Ids *ids) {
    Buf b = {0};
    buf_add(&b, "", 0);
    for (size_t i = 0; i < ids->n; i++) buf_fmt(&b, "%s%d", i ? " " : "", ids->v[i]);
    return b;
}

static void check_ids(const Tokenizer *t, const char *name, const char *text, size_t n, bool special,
                      const char *want) {
    Ids ids = {0};
    tokenizer_encode(t, text, n, special, &ids);
    Buf got = ids_text(&ids);
    bool same = !strcmp(got.data, want);
    CHECK(same, "%s: \"%.40s\" is %s%s%s", name, text, got.data, same ? "" : ", want ", same ? "" : want);
    buf_free(&got);
    ids_free(&ids);
}

/* ---- text -> ids ------------------------------------------------------------------------------------------------ */

typedef struct { const char *text; size_t n; const char *uncased, *cased, *stripped, *words; } Case;
#define S(s) s, sizeof s - 1

static const Case cases[] = {
    {S("unbelievable"), "20 21 19", "20 21 19", "20 21 19", "20 21 19"},
    {S("The na\xC3\xAFve caf\xC3\xA9"), "23 28 32", "31 29 2", "31 28 32", "23 29 2"},
    {S("nai\xCC\x88ve NA\xC3\x8FVE"), "28 28", "2 2", "28 2", "2 29"}, /* an accent of its own; capitals with one */
    {S("don't do not"), "24 7 25 26 27", "24 7 25 26 27", "24 7 25 26 27", "24 7 25 26 27"},
    {S("\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82\xE4\xB8\xAD""a\xE6\x96\x87"), "34 35 51 34 46 35", "34 35 51 34 46 35",
     "34 35 51 34 46 35", "36 51 34 47 37"},
    {S("aaaa aaaaa"), "46 48 47 46 48 48", "46 48 47 46 48 48", "46 48 47 46 48 48", "46 48 47 46 48 48"},
    {S("\xC4\xB0 i\xCC\x87"), "38 38", "2 39", "2 38", "39 39"}, /* I with a dot: two characters in lower case */
    {S("\xCE\xA3\xCE\xB1\xCF\x82 \xCF\x83\xCF\x82 \xCE\xA3\xCE\xA3"), "2 40 42 40 41", "2 40 42 2", "2 40 42 2",
     "2 40 42 40 41"}, /* no final sigma */
    {S("\xED\x83\x84"), "43 44 45", "2", "43 44 45", "2"}, /* a Korean syllable is three letters once decomposed */
    {S("o\xE2\x80\x8Bk o\xC2\xADk o\xEF\xBB\xBFk\x00o\x7Fk"), "49 50 49 50 2", "49 50 49 50 2", "49 50 49 50 2",
     "49 50 49 50 2"}, /* controls and marks without width vanish */
    {S("a\xE3\x80\x80""a\xE2\x80\xA8""a\x09""a\xC2\x85""a"), "46 46 46 46 47", "46 46 46 46 47", "46 46 46 46 47",
     "46 46 46 46 47"}, /* U+0085 is a control before it is white space */
    {S("##s ##"), "11 11 2 11 11", "11 11 2 11 11", "11 11 2 11 11", "11 11 2 11 11"},
    {S("[CLS] the [MASK]"), "14 2 15 23 14 2 15", "14 2 15 23 14 2 15", "14 2 15 23 14 2 15", "14 2 15 23 14 2 15"},
    {S("$word-words!?"), "12 57 13 57 16 6 10", "12 57 13 57 16 6 10", "12 57 13 57 16 6 10", "12 57 13 57 16 6 10"},
    {S("a\xE1\x9C\xB4""a a\xE1\xA0\x8E""a"), "46 47 46 47", "2 46 47", "46 47 46 47", "2 46 47"}, /* U+1734 */
    {S("\xE1\x99\xAD""a\xE2\xB9\x83""a\xD8\x9D""a"), "2 2", "2 2", "2 2", "2 2"}, /* U+2E43 is younger than the rules */
    {S("\xE2\x80\x80""a\xE2\x80\x81""a"), "46 46", "46 46", "46 46", "46 46"},    /* blanks that decompose */
    {S("the\xFF\xE4\xB8 a"), "23 46", "23 46", "23 46", "23 46"},                 /* malformed bytes: U+FFFD, cleaned */
};

static void test_encode(void) {
    static const char *const names[] = {"uncased", "cased", "stripped", "words"};
    static const char *const configs[] = {
        NULL, "{\"do_lower_case\": false}", "{\"do_lower_case\": false, \"strip_accents\": true}",
        "{\"strip_accents\": false, \"tokenize_chinese_chars\": false, \"unk_token\": {\"content\": \"[UNK]\"}}"};
    for (int k = 0; k < 4; k++) {
        Tokenizer *t = load(names[k], S(VOCAB), configs[k]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const Case *c = &cases[i];
            const char *const want[] = {c->uncased, c->cased, c->stripped, c->words};
            check_ids(t, names[k], c->text, c->n, false, want[k]);
        }
        check_ids(t, names[k], S("[CLS] the [MASK]"), true, "3 23 5");
        tokenizer_free(t);
    }
    Tokenizer *t = load("long", S(VOCAB), NULL);
    char text[101];
    memset(text, 'a', sizeof text);
    Ids ids = {0};
    tokenizer_encode(t, text, 100, false, &ids);
    CHECK(ids.n == 51 && ids.v[0] == A && ids.v[1] == AFTER_AA && ids.v[50] == AFTER_A,
          "a word of 100 characters: %zu ids", ids.n);
    ids.n = 0;
    tokenizer_encode(t, text, 101, false, &ids);
    CHECK(ids.n == 1 && ids.v[0] == UNK, "a word of 101 characters is unknown");

    /* A megabyte of marks that canonical order sorts: in quadratic time this would take an hour. */
    Buf marks = {0};
    for (int i = 0; i < 150000; i++) buf_str(&marks, "\xF0\x9D\x85\xA5\xE1\xAD\x84"); /* classes 216 and 9 */
    ids.n = 0;
    alarm(60);
    tokenizer_encode(t, marks.data, marks.len, false, &ids);
    alarm(0);
    CHECK(ids.n == 1 && ids.v[0] == UNK, "a megabyte of marks is one unknown word");
    buf_free(&marks);
    ids_free(&ids);
    tokenizer_free(t);
}

/* The trie against the definition: of all tokens that the rest begins with, the longest. */
static void greedy(const Tokenizer *t, const char *word, Ids *ids) {
    size_t before = ids->n;
    for (const char *p = word; *p;) {
        size_t n = strlen(p);
        int id = -1;
        for (; n && id < 0; n -= id < 0) {
            char *piece = strf("%s%.*s", p > word ? "##" : "", (int)n, p);
            id = tokenizer_id(t, piece);
            free(piece);
        }
        if (id < 0) {
            ids->n = before;
            ids_add(ids, tokenizer_id(t, "[UNK]"));
            return;
        }
        ids_add(ids, id);
        p += n;
    }
}

static void test_trie(void) {
    Rng rng = {7, 0};
    Buf vocab = {0};
    buf_str(&vocab, "[UNK]\na\n##a\nb\n##b\n");
    for (int i = 0; i < 300; i++) { /* equal lines too */
        if (rng_below(&rng, 2)) buf_str(&vocab, "##");
        for (uint64_t n = 2 + rng_below(&rng, 6); n; n--) buf_add(&vocab, &"abc"[rng_below(&rng, 3)], 1);
        buf_str(&vocab, rng_below(&rng, 9) ? "\n" : "\r\n");
    }
    Tokenizer *t = load("random", vocab.data, vocab.len, NULL);
    int wrong = 0, unknown = 0;
    for (int i = 0; i < 20000; i++) {
        char word[25] = {0};
        for (uint64_t k = 0, n = 1 + rng_below(&rng, 24); k < n; k++) word[k] = "abc"[rng_below(&rng, 16) % 3];
        Ids got = {0}, want = {0};
        tokenizer_encode(t, word, strlen(word), false, &got);
        greedy(t, word, &want);
        wrong += got.n != want.n || memcmp(got.v, want.v, got.n * sizeof *got.v);
        unknown += want.n == 1 && want.v[0] == 0;
        ids_free(&got);
        ids_free(&want);
    }
    CHECK(!wrong && unknown > 1000 && unknown < 19000, "20000 random words, %d of them unknown: %d not cut greedily",
          unknown, wrong);
    buf_free(&vocab);
    tokenizer_free(t);
}

/* ---- templates, ids -> text ------------------------------------------------------------------------------------- */

static void check_wrap(const Tokenizer *t, const char *a, const char *b, size_t max_length, const char *want,
                       const char *want_types) {
    Ids x = {0}, y = {0}, ids = {0}, types = {0};
    tokenizer_encode(t, a, strlen(a), false, &x);
    if (b) tokenizer_encode(t, b, strlen(b), false, &y);
    tokenizer_wrap(t, &x, b ? &y : NULL, max_length, &ids, &types);
    Buf got = ids_text(&ids), got_types = ids_text(&types);
    CHECK(!strcmp(got.data, want) && !strcmp(got_types.data, want_types), "\"%s\", \"%s\" in %zu: %s, types %s", a,
          b ? b : "", max_length, got.data, got_types.data);
    buf_free(&got);
    buf_free(&got_types);
    Ids *all[] = {&x, &y, &ids, &types};
    for (int i = 0; i < 4; i++) ids_free(all[i]);
}

static void check_text(const Tokenizer *t, const int32_t *ids, size_t n, bool skip, const char *want) {
    Buf text = {0}, stream = {0};
    buf_add(&text, "", 0);
    tokenizer_decode(t, ids, n, skip, &text);
    CHECK(!strcmp(text.data, want), "decoded: \"%s\"%s%s", text.data, strcmp(text.data, want) ? ", want " : "",
          strcmp(text.data, want) ? want : "");
    Utf8Stream state = {0};
    buf_add(&stream, "", 0);
    for (size_t i = 0; i < n; i++)
        if (!(skip && tokenizer_is_special(t, ids[i]))) tokenizer_decode_stream(t, &state, ids[i], &stream);
    tokenizer_decode_stream(t, &state, -1, &stream);
    CHECK(!strcmp(stream.data, want), "the same token by token: \"%s\"", stream.data);
    buf_free(&text);
    buf_free(&stream);
}

static void test_template_and_decode(void) {
    Tokenizer *t = load("template", S(VOCAB), NULL);
    check_wrap(t, "the cafe a a a", "o a", 7, "3 23 32 4 49 46 4", "0 0 0 0 1 1 1");
    check_wrap(t, "a a a a", "a a a a a", 8, "3 46 46 4 46 46 46 4", "0 0 0 0 1 1 1 1");
    check_wrap(t, "the cafe", NULL, 3, "3 23 4", "0 0 0");
    check_wrap(t, "a a a", "o", 0, "3 46 46 46 4 49 4", "0 0 0 0 0 1 1");
    check_wrap(t, "a a", "a", 3, "3 4 4", "0 0 1");
    CHECK(tokenizer_is_special(t, 0) && tokenizer_is_special(t, 5) && !tokenizer_is_special(t, 1) &&
              tokenizer_id(t, "[SEP]") == 4 && tokenizer_vocab(t) == 58,
          "five special tokens of 58");

    static const int32_t mixed[] = {18, 16, 20, 21, 9, 7, 24, 7, 25, 3, 3, 2, 6};
    check_text(t, mixed, sizeof mixed / sizeof *mixed, false, "##es unbeliev. ' don ' t [CLS] [CLS] [UNK]!");
    check_text(t, mixed, sizeof mixed / sizeof *mixed, true, "##es unbeliev. ' don ' t!");
    check_text(t, (int32_t[]){3, 26, 27, 4}, 4, false, "[CLS] do not [SEP]");
    check_text(t, (int32_t[]){3, 26, 27, 4}, 4, true, "do not");
    check_text(t, (int32_t[]){0, 16}, 2, false, "[PAD]s");
    check_text(t, (int32_t[]){0, 16}, 2, true, "##s"); /* the first that is left keeps its sign */
    check_text(t, (int32_t[]){57, 56}, 2, true, "word's");
    check_text(t, (int32_t[]){26, 8, 27, 10, 6, 13}, 6, true, "do, not?! -");
    CHECK_DIES({ check_text(t, (int32_t[]){58}, 1, false, ""); }, "token id 58 is outside the vocabulary");
    tokenizer_free(t);

    t = load("names", S("<u>\n<c>\n<s>\na\nb\nmask\n"),
             "{\"tokenizer_class\": \"BertTokenizerFast\", \"unk_token\": \"<u>\", "
             "\"cls_token\": {\"content\": \"<c>\"}, \"sep_token\": \"<s>\", \"mask_token\": \"mask\"}");
    check_ids(t, "a word that is a special token's name", S("a mask"), false, "3 0");
    check_ids(t, "the same where special tokens count", S("a mask"), true, "3 5");
    check_wrap(t, "a x", "b", 0, "1 3 0 2 4 2", "0 0 0 0 1 1");
    tokenizer_free(t);
    t = load("bare", S("[UNK]\na\n"), NULL);
    check_wrap(t, "a a", NULL, 0, "1 1", "0 0"); /* no [CLS], no [SEP]: nothing is added */
    tokenizer_free(t);
}

/* ---- training --------------------------------------------------------------------------------------------------- */

static const char LESSON[] = "The cat sat on the mat. The cats and the rats chat: \"that's the matter\"!\n"
                             "\xC3\x80 table, the caf\xC3\xA9's tables; \xE4\xB8\xAD\xE6\x96\x87"
                             "\xE7\x9A\x84\xE6\x96\x87\xE4\xB8\xAD \xE4\xB8\xAD\xE6\x96\x87.\n";

static const char *lesson_next(void *state, size_t *n) {
    bool *done = state;
    *n = sizeof LESSON - 1;
    return *done ? NULL : (*done = true, LESSON);
}

static void check_training(const char *name, int vocab, int64_t min_frequency, int64_t limit, bool lowercase,
                           bool chinese, const char **specials, int n_specials, const char *want) {
    char *dir = path_join(test_tmpdir(), name), *path = path_join(dir, "vocab.txt");
    bool done = false;
    tokenizer_train_wordpiece((TextSource){lesson_next, &done, sizeof LESSON - 1}, vocab, min_frequency, limit,
                              lowercase, chinese, specials, n_specials, dir);
    size_t n;
    char *text = file_read(path, &n);
    for (char *p = text; *p; p++)
        if (*p == '\n') *p = p[1] ? ' ' : 0;
    CHECK(!strcmp(text, want), "%s: %s", name, text);
    free(text);

    Ids by_json = {0}, by_vocab = {0};
    Tokenizer *t = tokenizer_load(dir);
    tokenizer_encode(t, LESSON, sizeof LESSON - 1, false, &by_json);
    tokenizer_free(t);
    free(path);
    remove(path = path_join(dir, "tokenizer.json"));
    t = tokenizer_load(dir);
    tokenizer_encode(t, LESSON, sizeof LESSON - 1, false, &by_vocab);
    CHECK(by_json.n > 20 && by_json.n == by_vocab.n && !memcmp(by_json.v, by_vocab.v, by_json.n * sizeof *by_json.v),
          "%s: tokenizer.json and vocab.txt give the same %zu ids", name, by_json.n);
    char *wrapped = strf("2 %d 3", tokenizer_id(t, "the"));
    check_wrap(t, "the", NULL, 0, wrapped, "0 0 0");
    free(wrapped);
    tokenizer_free(t);
    ids_free(&by_json);
    ids_free(&by_vocab);
    free(path);
    free(dir);
}

static void test_training(void) {
    const char *extra[] = {"[X]"}, *twice[] = {"[CLS]"};
    check_training("train-uncased", 60, 0, 0, true, true, NULL, 0,
                   "[PAD] [UNK] [CLS] [SEP] [MASK] ! \" ' , . : ; a b c d e f h l m n o r s t \xE4\xB8\xAD "
                   "\xE6\x96\x87 \xE7\x9A\x84 ##a ##b ##d ##e ##f ##h ##l ##n ##r ##s ##t ##at th the cat mat ta "
                   "##bl tabl table an ca ch on rat sat ##er ##fe ##ter that cats");
    check_training("train-cased", 60, 2, 0, false, false, extra, 1,
                   "[PAD] [UNK] [CLS] [SEP] [MASK] [X] ! \" ' , . : ; T a b c d e f h l m n o r s t \xC3\x80 \xC3\xA9 "
                   "\xE4\xB8\xAD \xE6\x96\x87 \xE7\x9A\x84 ##a ##b ##d ##e ##f ##h ##l ##n ##r ##s ##t ##\xC3\xA9 "
                   "##\xE4\xB8\xAD ##\xE6\x96\x87 ##\xE7\x9A\x84 ##at ##he the The cat mat ta "
                   "\xE4\xB8\xAD\xE6\x96\x87 ##bl ##hat tabl table");
    check_training("train-limited", 40, 0, 12, true, true, NULL, 0,
                   "[PAD] [UNK] [CLS] [SEP] [MASK] \" ' . a b c e h s t \xE4\xB8\xAD \xE6\x96\x87 ##a ##b ##e ##h "
                   "##s ##t ##at th the cat ta ##be tabe ca ch sat ##te ##ats ##atte that cats tabes cae");
    CHECK_DIES({ check_training("twice", 60, 0, 0, true, true, twice, 1, ""); }, "is given twice");
}

/* ---- files that somebody else wrote ----------------------------------------------------------------------------- */

static void check_dies(const char *vocab, size_t n_vocab, const char *config, const char *why) {
    char *dir = make_dir("hostile", vocab, n_vocab, config);
    CHECK_DIES({ tokenizer_load(dir); }, why);
    char *path = path_join(dir, "tokenizer_config.json");
    remove(path); /* the next one may have none */
    free(path);
    free(dir);
}

static void test_files(void) {
    check_dies(S(""), NULL, "the vocabulary is empty");
    check_dies(S("a\nb\n"), NULL, "no line is the unknown token");
    check_dies(S("[UNK]\na\n\xFF\n"), NULL, "line 3 is not UTF-8");
    check_dies(S("[UNK]\na\xE4\xB8"), NULL, "line 2 is not UTF-8");
    check_dies(S("[UNK]\na\n"), "{\"unk_token\": \"<unk>\"}", "no line is the unknown token");
    check_dies(S("[UNK]\na\n"), "{\"unk_token\": 7}", "unk_token is neither a string nor");
    check_dies(S("[UNK]\na\n"), "[1]", "not a JSON object");
    check_dies(S("[UNK]\na\n"), "{\"tokenizer_class\": \"BertJapaneseTokenizer\"}",
               "BertJapaneseTokenizer is not supported");
    check_dies(S("[UNK]\na\n"), "{\"tokenizer_class\": \"EsmTokenizer\"}", "EsmTokenizer is not supported");

    Tokenizer *t = load("equal", S("a\n[UNK]\nb\na"), NULL); /* of equal lines the later; no line break at the end */
    check_ids(t, "equal lines", S("a b"), false, "3 2");
    CHECK(tokenizer_vocab(t) == 4, "their earlier id stays, as a hole");
    tokenizer_free(t);
    t = load("lines", S("[UNK]\r\n\r\na\rb\n\n ##a\n"), NULL); /* an empty line is the empty token, and never found */
    check_ids(t, "line ends", S("a b aa"), false, "2 3 0");
    tokenizer_free(t);
    t = load("nul", S("[UNK]\na\x00" "b\na\n##b\n"), NULL);
    check_ids(t, "a NUL in a token", S("a\x00" "b ab"), false, "2 3 2 3"); /* the normalizer removes it from the text */
    tokenizer_free(t);

    Buf giant = {0};
    buf_str(&giant, "[UNK]\n");
    for (int i = 0; i < 1 << 20; i++) buf_str(&giant, "a");
    buf_str(&giant, "\na\n##a\n");
    t = load("giant", giant.data, giant.len, NULL);
    check_ids(t, "a token of a megabyte beside", S("aaa a"), false, "2 3 3 2");
    Ids ids = {0};
    tokenizer_encode(t, giant.data + 6, 1 << 20, false, &ids);
    CHECK(ids.n == 1 && ids.v[0] == 0, "and that text itself has too many characters for a word");
    ids_free(&ids);
    buf_free(&giant);
    tokenizer_free(t);
}

int main(void) {
    common.quiet = true;
    test_encode();
    test_trie();
    test_template_and_decode();
    test_training();
    test_files();
    return test_end();
}
