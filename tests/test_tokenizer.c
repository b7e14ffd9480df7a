/* test_tokenizer.c - stage 1 as a library. Needs nothing but itself: it trains on texts of its own and writes its own
 * hostile files.
 *
 *     make tests && build/.../test_tokenizer        a few seconds
 *
 * What is pinned (merges, ids, word borders) is the output of Hugging Face's tokenizers 0.23 on the same text. */
#include "tokenizer.h"
#include "test.h"

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

typedef struct { const char *text; size_t n, at, step; } Text;

static const char *text_next(void *state, size_t *n) { /* documents of `step` bytes, or all at once */
    Text *t = state;
    if (t->at >= t->n) return NULL;
    const char *s = t->text + t->at;
    *n = t->step && t->step < t->n - t->at ? t->step : t->n - t->at;
    t->at += *n;
    return s;
}

static char *dir_of(const char *name) { return path_join(test_tmpdir(), name); }

static void train_on(const char *text, size_t n, size_t step, const char *split, int vocab, int64_t min_frequency,
                     const char **specials, int n_specials, const char *dir) {
    Text source = {text, n, 0, step};
    tokenizer_train((TextSource){text_next, &source, (double)n}, split, vocab, min_frequency, specials, n_specials,
                    dir);
}

static Ids encode(const Tokenizer *t, const char *text, size_t n, bool special) {
    Ids ids = {0};
    tokenizer_encode(t, text, n, special, &ids);
    return ids;
}

static bool same_ids(const Ids *a, const Ids *b) {
    return a->n == b->n && (!a->n || !memcmp(a->v, b->v, sizeof *a->v * a->n)); /* memcmp of NULL is not allowed */
}

static Buf ids_text(const Ids *ids) {
    Buf b = {0};
    buf_add(&b, "", 0);
    for (size_t i = 0; i < ids->n; i++) buf_fmt(&b, "%s%d", i ? " " : "", ids->v[i]);
    return b;
}

static void check_ids(const Tokenizer *t, const char *name, const char *text, bool special, const char *want) {
    Ids ids = encode(t, text, strlen(text), special);
    Buf got = ids_text(&ids);
    CHECK(!strcmp(got.data, want), "%s: ids %s%s%s", name, got.data, strcmp(got.data, want) ? ", want " : "",
          strcmp(got.data, want) ? want : "");
    buf_free(&got);
    ids_free(&ids);
}

/* ---- learning: the merges of the reference on the same text ----------------------------------------------------- */

static const char LESSON[] =
    "The cat sat on the mat. The cat's hat, the rat's hat and the bat's hat sat on that mat; that's that.\n"
    "aaaa aaaaa aaaaaaa banana bananas 1234 12345 123 1,234\n\n"
    "  the\tthe  the   then there other mother \r\n"
    "Ça déjà vu, déjà lu — 中文中文字 中文 🙂🙂 ab abab ababab\n";

static const char GPT2_MERGES[] =
    "a t | a a | t h | Ġ th | Ġth e | a b | a n | ' s | 2 3 | Ġ 1 | aa aa | h at | ¸ Ń | ä ¸Ń | æ ĸ | Ġ b | Ġ m "
    "| Ġ o | Ġ ab | Ġ hat | th e | Ġth at | 23 4 | ä¸Ń æĸ | ä¸Ńæĸ ĩ | the r | T h | c at | d Ã | j Ã | s at | © "
    "jÃ | ð Ł | Ġ aaaa | Ġ ä¸Ńæĸĩ | Ġ cat | Ġ dÃ | Ġ sat | Ļ Ĥ | an a | an ana | Ġ1 234 | Ġb anana | Ġm at | Ġo "
    "n | Ġab ab | Th e | ©jÃ ł | ðŁ ĻĤ";
static const char LLAMA3_MERGES[] =
    "a t | a a | t h | Ġ th | Ġth e | a b | a n | ' s | 2 3 | aa aa | 1 23 | h at | ¸ Ń | ä ¸Ń | æ ĸ | Ġ b | Ġ m "
    "| Ġ o | Ġ ab | Ġ hat | th e | Ġth at | ä¸Ń æĸ | ä¸Ńæĸ ĩ | the r | T h | c at | d Ã | j Ã | s at | © jÃ | ð "
    "Ł | Ġ aaaa | Ġ ä¸Ńæĸĩ | Ġ cat | Ġ dÃ | Ġ sat | Ļ Ĥ | an a | an ana | Ġb anana | Ġm at | Ġo n | Ġab ab | Th "
    "e | ©jÃ ł | ðŁ ĻĤ | ĠdÃ ©jÃł | . Ċ";

/* The merges of a file that we wrote, as "a b | c d". */
static Buf merges_of(const char *dir) {
    char *path = path_join(dir, "tokenizer.json"), *json = file_read(path, NULL);
    Buf b = {0};
    buf_add(&b, "", 0);
    int k = 0;
    for (char *p = strstr(json, "\"merges\": ["); p && (p = strstr(p, "        \"")); k++) {
        char *from = p + 9, *to = strstr(from, k % 2 ? "\"\n" : "\",\n");
        if (!to) break;
        buf_str(&b, k == 0 ? "" : k % 2 ? " " : " | ");
        buf_add(&b, from, (size_t)(to - from));
        p = to;
    }
    free(json);
    free(path);
    return b;
}

static void check_merges(const char *name, const char *dir, const char *want) {
    Buf got = merges_of(dir);
    size_t same = 0;
    while (got.data[same] && got.data[same] == want[same]) same++;
    CHECK(!strcmp(got.data, want), "%s: merges as the reference's, %zu bytes of %zu equal", name, same, strlen(want));
    buf_free(&got);
}

static void test_training(void) {
    const char *two[] = {"<|endoftext|>", "the"}, *one[] = {"<|endoftext|>"};
    char *gpt2 = dir_of("gpt2"), *llama3 = dir_of("llama3"), *rare = dir_of("rare");
    train_on(LESSON, strlen(LESSON), 0, "gpt2", 306, 0, two, 2, gpt2);
    check_merges("gpt2, \"the\" special", gpt2, GPT2_MERGES);
    train_on(LESSON, strlen(LESSON), 0, "llama3", 306, 0, two, 2, llama3);
    check_merges("llama3, \"the\" special", llama3, LLAMA3_MERGES);

    FILE *capture = tmpfile(); /* a warning says that the vocabulary stays short: not this test's output */
    int stderr_fd = dup(STDERR_FILENO);
    dup2(fileno(capture), STDERR_FILENO);
    train_on(LESSON, strlen(LESSON), 0, "gpt2", 305, 3, one, 1, rare);
    dup2(stderr_fd, STDERR_FILENO);
    close(stderr_fd);
    fclose(capture);
    Tokenizer *t = tokenizer_load(rare);
    CHECK(tokenizer_vocab(t) == 282, "min_frequency 3 stops at %d tokens", tokenizer_vocab(t));
    CHECK(tokenizer_eos(t) == 0 && tokenizer_bos(t) == 0 && tokenizer_adds_bos(t) && tokenizer_prefix(t)->n == 1,
          "eos and bos are the first special token, which opens a text");
    CHECK(tokenizer_id(t, "Ġthe") == 261 && tokenizer_id(t, "<|endoftext|>") == 0 && tokenizer_id(t, "no such") == -1,
          "ids by content: \"Ġthe\" is %d", tokenizer_id(t, "Ġthe"));
    check_ids(t, "gpt2", "The cat's then 12345 déjà aaaaaa", false,
              "52 72 69 221 67 257 264 261 78 266 279 21 221 68 128 103 74 128 255 221 267 258");
    tokenizer_free(t);
    free(gpt2);
    free(llama3);
    free(rare);
}

/* A few thousand words with a heavy head, drawn from a seed: enough for thousands of merges and several threads. */
static Buf generated_text(uint64_t seed, size_t bytes) {
    static const char *const syllables[] = {"ka", "to", "mi", "ren", "sol", "é", "qua", "ing", "中", "ß", "th", "er",
                                            "x", "aa"};
    static const char *const ends[] = {" ", " ", " ", " ", " ", ", ", ". ", "\n", "\n\n", "'s ", " 2024 ", "  "};
    Rng rng = {seed, 0};
    Buf b = {0};
    while (b.len < bytes) {
        double u = rng_uniform(&rng);
        Rng word = {7, (uint64_t)(3000 * u * u * u) * 16};
        for (uint64_t k = 1 + rng_below(&word, 4); k; k--)
            buf_str(&b, syllables[rng_below(&word, sizeof syllables / sizeof *syllables)]);
        buf_str(&b, ends[rng_below(&rng, sizeof ends / sizeof *ends)]);
    }
    return b;
}

static void test_same_on_any_machine(void) {
    Buf text = generated_text(1, 3000000);
    const char *one[] = {"<|endoftext|>"};
    char *a = dir_of("whole"), *b = dir_of("one-thread");
    train_on(text.data, text.len, 0, "llama3", 2000, 0, one, 1, a);
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    omp_set_num_threads(threads > 1 ? 1 : 3);
#endif
    train_on(text.data, text.len, 0, "llama3", 2000, 0, one, 1, b);
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    char *path_a = path_join(a, "tokenizer.json"), *path_b = path_join(b, "tokenizer.json");
    size_t n_a, n_b;
    char *json_a = file_read(path_a, &n_a), *json_b = file_read(path_b, &n_b);
    CHECK(n_a == n_b && !memcmp(json_a, json_b, n_a), "another number of threads: the same file of %zu bytes", n_a);
    Tokenizer *t = tokenizer_load(a);
    CHECK(tokenizer_vocab(t) == 2000, "%d tokens learnt", tokenizer_vocab(t));
    Ids ids = encode(t, text.data, text.len, false);
    Buf back = {0};
    tokenizer_decode(t, ids.v, ids.n, false, &back);
    CHECK(back.len == text.len && !memcmp(back.data, text.data, text.len), "%zu bytes, %zu ids, the same bytes again",
          text.len, ids.n);
    CHECK(ids.n * 3 < text.len, "%.2f bytes a token", (double)text.len / (double)ids.n);
    ids_free(&ids);
    buf_free(&back);
    tokenizer_free(t);
    buf_free(&text);
    free(json_a), free(json_b), free(path_a), free(path_b), free(a), free(b);
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static const char *const WORDS[][4] = { /* text, GPT-2, Llama-3, Qwen */
    {"Hello world", "Hello| world", "Hello| world", "Hello| world"},
    {"  two  blanks ", " | two| | blanks| ", " | two| | blanks| ", " | two| | blanks| "},
    {"a\n\n  b\n", "a|\n\n | b|\n", "a|\n\n| | b|\n", "a|\n\n| | b|\n"},
    {"don't DON'T we'LL it'\305\277 'tis", "don|'t| DON|'|T| we|'|LL| it|'|\305\277| '|tis",
     "don|'t| DON|'T| we|'LL| it|'\305\277| '|tis", "don|'t| DON|'T| we|'LL| it|'\305\277| '|tis"},
    {"12345 6", "12345| 6", "123|45| |6", "1|2|3|4|5| |6"},
    {"x=1;\r\n\r\n y", "x|=|1|;|\r\n\r\n| y", "x|=|1|;\r\n\r\n| y", "x|=|1|;\r\n\r\n| y"},
    {"...\n\nhi", "...|\n|\n|hi", "...\n\n|hi", "...\n\n|hi"},
    {"a\302\240b \343\200\200c", "a|\302\240|b| |\343\200\200|c", "a|\302\240b| |\343\200\200c",
     "a|\302\240b| |\343\200\200c"},
    {"中文 12\302\262\342\205\247", "中文| 12\302\262\342\205\247", "中文| |12\302\262|\342\205\247",
     "中文| |1|2|\302\262|\342\205\247"},
    {"(foo) $bar", "(|foo|)| $|bar", "(foo|)| $|bar", "(foo|)| $|bar"},
    {"\t\tif x:", "\t|\t|if| x|:", "\t|\tif| x|:", "\t|\tif| x|:"},
    {"e\314\201 🙂!", "e|\314\201| 🙂!", "e|\314\201| 🙂!", "e|\314\201| 🙂!"},
    {"'re're'", "'re|'re|'", "'re|'re|'", "'re|'re|'"},
    {"end \n", "end| \n", "end| \n", "end| \n"},
    {" \n \n x", " \n \n| x", " \n \n| x", " \n \n| x"},
    /* A letter of Unicode 16 and an ideograph of 15.1, whatever the utf8proc; bytes that are no characters. */
    {"a\341\262\211b \360\256\257\260", "a\341\262\211b| \360\256\257\260", "a\341\262\211b| \360\256\257\260",
     "a\341\262\211b| \360\256\257\260"},
    {"a\377b \200\201 \303", "a|\377|b| \200\201| \303", "a|\377b| \200\201| \303", "a|\377b| \200\201| \303"},
    {"abcdefghijklm nopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[`{@",
     "abcdefghijklm| nopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ|[`{@",
     "abcdefghijklm| nopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ|[`{@",
     "abcdefghijklm| nopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ|[`{@"}};

/* The 256 bytes in the alphabet of vocabulary files, as the inside of a JSON object. */
static void byte_vocab(Buf *b, int first_id) {
    int id = first_id, next = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        int c = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE ? byte : next++;
        buf_fmt(b, "%s\"\\u%04x\": %d", byte ? ", " : "", c, id++);
    }
}

#define GPT2_SPLIT "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}"
#define SPLIT_OF(digits)                                                                                               \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "                     \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits "| ?[^\\\\s\\\\p{L}\\\\p{N}]+"    \
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": \"Isolated\", \"invert\": false}, "    \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]}"
#define LLAMA3_SPLIT SPLIT_OF("\\\\p{N}{1,3}")
#define QWEN_SPLIT SPLIT_OF("\\\\p{N}")

/* A tokenizer.json around the 256 bytes (ids 0 to 255): what follows them in the vocabulary, the merges, the rest. */
static char *write_json(const char *name, const char *split, const char *more_vocab, const char *merges,
                        const char *more_model, const char *added, const char *more) {
    char *dir = dir_of(name), *path = path_join(dir, "tokenizer.json");
    make_dirs(dir);
    Buf b = {0};
    buf_fmt(&b, "{\"version\": \"1.0\", \"added_tokens\": [%s], \"pre_tokenizer\": %s, %s\"model\": {%s\"vocab\": {",
            added, split, more, more_model);
    byte_vocab(&b, 0);
    buf_fmt(&b, "%s}, \"merges\": [%s]}}", more_vocab, merges);
    file_write(path, b.data, b.len);
    buf_free(&b);
    free(path);
    return dir;
}

static void test_words(void) {
    static const char *const splits[] = {GPT2_SPLIT, LLAMA3_SPLIT, QWEN_SPLIT};
    for (int k = 0; k < 3; k++) {
        char *dir = write_json("words", splits[k], "", "", "", "", "");
        Tokenizer *t = tokenizer_load(dir);
        int wrong = 0;
        for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
            const char *text = WORDS[i][0];
            Buf got = {0};
            for (size_t at = 0, n = strlen(text), word; at < n; at += word) {
                word = tokenizer_word(t, text + at, n - at);
                if (at) buf_str(&got, "|");
                buf_add(&got, text + at, word);
            }
            if (strcmp(got.data, WORDS[i][k + 1])) wrong++, CHECK(false, "rule %d splits as \"%s\"", k, got.data);
            buf_free(&got);
        }
        CHECK(!wrong, "rule %d: %zu texts split as the pattern says", k, sizeof WORDS / sizeof *WORDS);
        tokenizer_free(t);
        free(dir);
    }
}

/* ---- any bytes come back ---------------------------------------------------------------------------------------- */

static Buf random_bytes(Rng *rng, size_t n) { /* from pure noise to nearly text: real characters, torn ones, blanks */
    static const char *const bits[] = {" ", "\n", "the", "'s", "<|endoftext|>", "é", "中", "🙂", "e\xCC\x81",
                                       "\xF0\x9F", "aaaa"};
    Buf b = {0};
    buf_add(&b, "", 0);
    uint64_t noise = rng_below(rng, 3);
    while (b.len < n)
        if (noise == 0 || (noise == 1 && rng_below(rng, 8) == 0)) buf_add(&b, &(uint8_t){(uint8_t)rng_u64(rng)}, 1);
        else buf_str(&b, bits[rng_below(rng, sizeof bits / sizeof *bits)]);
    return b;
}

/* What a strict decoder shows of bytes: the reference for streaming, written the long way round. */
static void lossy(const uint8_t *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        uint8_t b = s[i];
        int want = b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0;
        int have = want ? 1 : 0;
        while (have && have < want && i + (size_t)have < n) {
            uint8_t c = s[i + (size_t)have], lo = 0x80, hi = 0xBF;
            if (have == 1 && b == 0xE0) lo = 0xA0;
            if (have == 1 && b == 0xED) hi = 0x9F;
            if (have == 1 && b == 0xF0) lo = 0x90;
            if (have == 1 && b == 0xF4) hi = 0x8F;
            if (c < lo || c > hi) break;
            have++;
        }
        if (want && have == want) buf_add(out, s + i, (size_t)want);
        else buf_str(out, "\xEF\xBF\xBD");
        i += have ? (size_t)have : 1;
    }
}

static void test_round_trip(void) {
    char *gpt2 = dir_of("gpt2"), *llama3 = dir_of("llama3");
    const char *dirs[] = {gpt2, llama3};
    for (int k = 0; k < 2; k++) {
        Tokenizer *t = tokenizer_load(dirs[k]);
        Rng rng = {11, 0};
        int n_texts = 3000, lost = 0, torn = 0, special = 0, uncached = 0;
        for (int i = 0; i < n_texts; i++) {
            Buf text = random_bytes(&rng, rng_below(&rng, i % 100 ? 60 : 5000)), back = {0}, stream = {0}, want = {0};
            buf_add(&back, "", 0), buf_add(&stream, "", 0), buf_add(&want, "", 0);
            Ids ids = encode(t, text.data, text.len, false), again = encode(t, text.data, text.len, false);
            uncached += !same_ids(&ids, &again);
            for (size_t j = 0; j < ids.n; j++) special += tokenizer_is_special(t, ids.v[j]);
            tokenizer_decode(t, ids.v, ids.n, false, &back);
            lost += back.len != text.len || memcmp(back.data, text.data, text.len) != 0;
            Utf8Stream state = {0};
            for (size_t j = 0; j < ids.n; j++) tokenizer_decode_stream(t, &state, ids.v[j], &stream);
            tokenizer_decode_stream(t, &state, -1, &stream);
            lossy((const uint8_t *)text.data, text.len, &want);
            torn += stream.len != want.len || memcmp(stream.data, want.data, want.len) != 0;
            buf_free(&text), buf_free(&back), buf_free(&stream), buf_free(&want);
            ids_free(&ids), ids_free(&again);
        }
        CHECK(!lost, "%s: %d random texts come back byte for byte", dirs[k], n_texts);
        CHECK(!torn, "%s: streamed, they are whole characters and U+FFFD", dirs[k]);
        CHECK(!special, "%s: no special token arose from their text", dirs[k]);
        CHECK(!uncached, "%s: the ids are the same from the cache", dirs[k]);
        tokenizer_free(t);
    }
    free(gpt2);
    free(llama3);
}

/* Words beyond the quadratic method's length go another way to the same ids; ten million letters must not hang. */
static void test_long_words(void) {
    char *dir = write_json("long", GPT2_SPLIT, ", \"aa\": 256, \"aaa\": 257, \"aaaaa\": 258",
                           "\"a a\", \"aa a\", \"aa aaa\"", "", "", "");
    Tokenizer *t = tokenizer_load(dir);
    int wrong = 0;
    for (size_t n = 1; n < 400; n++) { /* pairs from the left; a lone a joins the last pair; that, the pair before it */
        char text[400];
        memset(text, 'a', n);
        Ids ids = encode(t, text, n, false);
        size_t pairs = n / 2, want = n == 1 ? 1 : n % 2 == 0 ? pairs : pairs == 1 ? 1 : pairs - 1;
        wrong += ids.n != want;
        if (n >= 5 && n % 2) wrong += ids.v[ids.n - 1] != 258;
        ids_free(&ids);
    }
    CHECK(!wrong, "runs of 1 to 399 letters become the right ids, short method and heap alike");
    size_t n = 10000000;
    char *run = xmalloc(n);
    memset(run, 'a', n);
    double start_s = now_s();
    Ids ids = encode(t, run, n, false);
    double took_s = now_s() - start_s;
    CHECK(ids.n == n / 2 && took_s < 60, "one word of %zu letters: %zu ids in %.1f s", n, ids.n, took_s);
    ids_free(&ids);
    free(run);
    tokenizer_free(t);
    free(dir);
}

/* ---- special and added tokens ----------------------------------------------------------------------------------- */

static void test_added(void) {
    static const char ADDED[] =
        "{\"id\": 256, \"content\": \"<s>\", \"special\": true}, "
        "{\"id\": 257, \"content\": \"<s>x\", \"special\": true}, "
        "{\"id\": 258, \"content\": \"<m>\", \"special\": true, \"lstrip\": true, \"rstrip\": true}, "
        "{\"id\": 259, \"content\": \"cat\", \"special\": false, \"single_word\": true}, "
        "{\"id\": 260, \"content\": \"ab\", \"special\": true}, {\"id\": 262, \"content\": \"éé\", \"special\": false}";
    /* The file has a merge that makes the special token "ab": it must not be made. 261 is a hole. */
    char *dir = write_json("added", GPT2_SPLIT, ", \"ab\": 260", "[\"a\", \"b\"]", "", ADDED,
                           "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
                           "{\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]}, ");
    Tokenizer *t = tokenizer_load(dir);
    CHECK(tokenizer_vocab(t) == 263, "the vocabulary is the largest id + 1, holes included: %d", tokenizer_vocab(t));
    CHECK(tokenizer_bos(t) == 256 && tokenizer_adds_bos(t) && tokenizer_eos(t) == -1, "the template adds BOS %d",
          tokenizer_bos(t));
    check_ids(t, "longest first", "<s>x<s>y", true, "257 256 121");
    check_ids(t, "ordinary text", "<s>", false, "60 115 62");
    check_ids(t, "lstrip and rstrip", "a \n<m>\t b", true, "97 258 98");
    check_ids(t, "whole words only", "cat cats _cat -cat", false, "259 32 99 97 116 115 32 95 99 97 116 32 45 259");
    check_ids(t, "a merge cannot make a special token", "ab", false, "97 98");
    check_ids(t, "but with_special finds it", "ab", true, "260");
    check_ids(t, "an added token is its text", "éé", false, "262");
    Buf out = {0};
    tokenizer_decode(t, (int32_t[]){256, 97, 262, 261, 258}, 5, false, &out);
    CHECK(!strcmp(out.data, "<s>aéé<m>"), "decoded: %s", out.data);
    out.len = 0;
    tokenizer_decode(t, (int32_t[]){256, 97, 262, 261, 258}, 5, true, &out);
    CHECK(!strcmp(out.data, "aéé"), "decoded without special tokens: %s", out.data);
    buf_free(&out);
    CHECK_DIES({ Buf b = {0}; tokenizer_decode(t, (int32_t[]){263}, 1, false, &b); }, "outside the vocabulary");
    CHECK_DIES({ Buf b = {0}; tokenizer_decode(t, (int32_t[]){-5}, 1, false, &b); }, "outside the vocabulary");
    tokenizer_free(t);
    free(dir);
}

static void test_options(void) {
    char *dir = write_json("ignore", LLAMA3_SPLIT, ", \"Ġab\": 256, \"ab\": 257, \"abc\": 258", "\"a b\"",
                           "\"ignore_merges\": true, ", "", "");
    Tokenizer *t = tokenizer_load(dir);
    check_ids(t, "ignore_merges: a word that is a token is that token", "abc ab abd", false, "258 256 32 257 100");
    tokenizer_free(t);
    free(dir);
    dir = write_json("prefix", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", "", "", "",
                     "{\"id\": 256, \"content\": \"<s>\", \"special\": true}", "");
    t = tokenizer_load(dir);
    check_ids(t, "add_prefix_space: before every stretch of text", "a<s>b<s> c", true, "32 97 256 32 98 256 32 99");
    tokenizer_free(t);
    free(dir);
    dir = write_json("nfc", QWEN_SPLIT, "", "", "", "", "\"normalizer\": {\"type\": \"NFC\"}, ");
    t = tokenizer_load(dir);
    check_ids(t, "NFC: e and accent become one", "xe\xCC\x81\xFFy", false, "120 195 169 255 121");
    check_ids(t, "NFC: Hangul", "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", false, "237 149 156");
    check_ids(t, "NFC: nothing to do", "\xC3\xA9 \xCC\x81", false, "195 169 32 204 129");
    tokenizer_free(t);
    free(dir);
}

/* ---- the parts of a tokenizer.json ------------------------------------------------------------------------------- *
 * Small tokenizers over a vocabulary of their own, JSON written with ' for ". Ids and text are tokenizers 0.23's. */

#define BPE(options)                                                                                                   \
    "{'type': 'BPE', 'unk_token': '<unk>', " options "'vocab': {'<unk>': 0, '<s>': 1, '▁': 2, 'a': 3, 'b': 4, "        \
    "'c': 5, 'l': 6, 'o': 7, '1': 8, '2': 9, '.': 10, ',': 11, 'é': 12, '中': 13, ' ': 14, 'ab': 15, '▁ab': 16, "      \
    "'lo': 17, '▁lo': 18, '12': 19, '▁▁': 20, 'e': 21, 'A': 22, '<0xE6>': 23, '<0x96>': 24, '<0x87>': 25, 'Ġ': 26, "   \
    "'i': 27, 'f': 28}, 'merges': ['a b', '▁ ab', 'l o', '▁ lo', '1 2', '▁ ▁']}"
#define CONTINUING                                                                                                     \
    "{'type': 'BPE', 'unk_token': '<unk>', 'continuing_subword_prefix': '##', 'vocab': {'<unk>': 0, 'a': 1, "          \
    "'##b': 2, '##c': 3, 'ab': 4, '##bc': 5}, 'merges': ['a ##b', '##b ##c']}"
#define SUFFIXED                                                                                                       \
    "{'type': 'BPE', 'unk_token': '<unk>', 'end_of_word_suffix': '</w>', 'vocab': {'<unk>': 0, 'a': 1, 'b': 2, "       \
    "'b</w>': 3, 'ab</w>': 4}, 'merges': ['a b</w>']}"
#define UNIGRAM                                                                                                        \
    "{'type': 'Unigram', 'unk_id': 0, 'vocab': [['<unk>', 0], ['▁', -2], ['a', -3], ['b', -3.5], ['ab', -4], "         \
    "['▁ab', -5], ['lo', -4.25]]}"
#define WORDPIECE                                                                                                      \
    "{'type': 'WordPiece', 'unk_token': '[UNK]', 'continuing_subword_prefix': '##', 'max_input_chars_per_word': 6, "   \
    "'vocab': {'[UNK]': 0, 'a': 1, '##b': 2, 'ab': 3, 'lo': 4, '##lo': 5, '.': 6, '中': 7, 'e': 8, '[CLS]': 9, "       \
    "'[SEP]': 10}}"

static const struct {
    const char *name, *normalizer, *pre_tokenizer, *model, *decoder, *text, *ids, *decoded;
} PARTS[] = {
    {"Llama-2",
     "{'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': '▁'}, {'type': 'Replace', "
     "'pattern': {'String': ' '}, 'content': '▁'}]}",
     "null",
     BPE("'byte_fallback': true, 'fuse_unk': true, "),
     "{'type': 'Sequence', 'decoders': [{'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '}, "
     "{'type': 'ByteFallback'}, {'type': 'Fuse'}, {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': "
     "0}]}",
     "ab lo  文é?", "16 18 20 23 24 25 12 0", "ab lo  文é<unk>"},
    {"fuse_unk",
     "null",
     "null",
     BPE("'fuse_unk': true, "),
     "null",
     "a??b? ?lo", "3 0 4 0 14 0 17", "a <unk> b <unk>   <unk> lo"},
    {"no fuse_unk",
     "null",
     "null",
     BPE(""),
     "null",
     "a??b? ?lo", "3 0 0 4 0 14 0 17", "a <unk> <unk> b <unk>   <unk> lo"},
    {"ignore_merges",
     "null",
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never', 'split': true}",
     BPE("'ignore_merges': true, "),
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never'}",
     "ab lo 12", "15 18 2 19", "ab lo 12"},
    {"continuing_subword_prefix",
     "null",
     "{'type': 'WhitespaceSplit'}",
     CONTINUING,
     "null",
     "abc ab a", "4 3 4 1", "ab ##c ab a"},
    {"end_of_word_suffix",
     "null",
     "{'type': 'WhitespaceSplit'}",
     SUFFIXED,
     "{'type': 'BPEDecoder', 'suffix': '</w>'}",
     "ab b aab", "4 3 1 4", "ab b aab"},
    {"NFC",
     "{'type': 'NFC'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "é", "12", "é"},
    {"NFD",
     "{'type': 'NFD'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "é.", "21 0 10", "e<unk>."},
    {"NFKC",
     "{'type': 'NFKC'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "①ﬁ", "8 28 27", "1fi"},
    {"NFKD",
     "{'type': 'NFKD'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "é²", "21 0 9", "e<unk>2"},
    {"Lowercase",
     "{'type': 'Lowercase'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "AÉ", "3 12", "aé"},
    {"Strip",
     "{'type': 'Strip', 'strip_left': true, 'strip_right': true}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     " \ta b\n", "3 14 4", "a b"},
    {"StripAccents",
     "{'type': 'Sequence', 'normalizers': [{'type': 'NFD'}, {'type': 'StripAccents'}]}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "é", "21", "e"},
    {"Replace Regex",
     "{'type': 'Replace', 'pattern': {'Regex': '[ .]+'}, 'content': '12'}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "a . b", "3 19 4", "a12b"},
    {"BertNormalizer",
     "{'type': 'BertNormalizer', 'clean_text': true, 'handle_chinese_chars': true, 'strip_accents': null, "
     "'lowercase': true}",
     "null",
     BPE(""),
     "{'type': 'Fuse'}",
     "É\001A中", "21 3 14 13 14", "ea 中 "},
    {"Metaspace always",
     "null",
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always', 'split': true}",
     BPE(""),
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always'}",
     "ab<s>lo ab", "16 1 18 16", "ab<s> lo ab"},
    {"Metaspace first",
     "null",
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'first', 'split': true}",
     BPE(""),
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'first'}",
     "ab<s>lo ab", "16 1 17 16", "ab<s>lo ab"},
    {"Metaspace never",
     "null",
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never', 'split': true}",
     BPE(""),
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'never'}",
     "ab<s>lo ab", "15 1 17 16", "ab<s>lo ab"},
    {"Split Isolated",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': 'l'}, 'behavior': 'Isolated', 'invert': false}",
     BPE(""),
     "null",
     "loab lo", "6 7 15 14 6 7", "l o ab   l o"},
    {"Split Removed",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': ' '}, 'behavior': 'Removed', 'invert': false}",
     BPE(""),
     "null",
     "ab lo 12", "15 17 19", "ab lo 12"},
    {"Split MergedWithPrevious",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': 'l'}, 'behavior': 'MergedWithPrevious', 'invert': false}",
     BPE(""),
     "null",
     "alola", "3 6 7 6 3", "a l o l a"},
    {"Split MergedWithNext",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': 'o'}, 'behavior': 'MergedWithNext', 'invert': false}",
     BPE(""),
     "null",
     "alolo", "3 6 7 6 7", "a l o l o"},
    {"Split Contiguous",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': '[12]'}, 'behavior': 'Contiguous', 'invert': false}",
     BPE(""),
     "null",
     "a12b", "3 19 4", "a 12 b"},
    {"Split inverted",
     "null",
     "{'type': 'Split', 'pattern': {'Regex': '[a-c]+|\\\\d'}, 'behavior': 'Removed', 'invert': true}",
     BPE(""),
     "null",
     "ab12 ab", "15 8 9 15", "ab 1 2 ab"},
    {"Whitespace",
     "null",
     "{'type': 'Whitespace'}",
     BPE(""),
     "null",
     "ab. ab12,", "15 10 15 19 11", "ab . ab 12 ,"},
    {"Punctuation",
     "null",
     "{'type': 'Punctuation', 'behavior': 'Isolated'}",
     BPE(""),
     "null",
     "1.2,12", "8 10 9 11 19", "1 . 2 , 12"},
    {"Digits",
     "null",
     "{'type': 'Digits', 'individual_digits': true}",
     BPE(""),
     "null",
     "ab12", "15 8 9", "ab 1 2"},
    {"Digits together",
     "null",
     "{'type': 'Digits', 'individual_digits': false}",
     BPE(""),
     "null",
     "ab12", "15 19", "ab 12"},
    {"Sequence",
     "null",
     "{'type': 'Sequence', 'pretokenizers': [{'type': 'WhitespaceSplit'}, {'type': 'Metaspace', "
     "'replacement': '▁', 'prepend_scheme': 'always', 'split': true}, {'type': 'Digits', "
     "'individual_digits': true}]}",
     BPE(""),
     "null",
     "ab 12 lo", "16 2 8 9 18", "▁ab ▁ 1 2 ▁lo"},
    {"ByteLevel, then Digits",
     "null",
     "{'type': 'Sequence', 'pretokenizers': [{'type': 'ByteLevel', 'add_prefix_space': false, "
     "'trim_offsets': true, 'use_regex': true}, {'type': 'Digits', 'individual_digits': true}]}",
     BPE(""),
     "{'type': 'ByteLevel', 'add_prefix_space': true, 'trim_offsets': true, 'use_regex': true}",
     "ab 12", "15 26 8 9", "ab 12"},
    {"Unigram",
     "null",
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always', 'split': true}",
     UNIGRAM,
     "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'always'}",
     "ab lo? ??", "5 1 6 0 1 0", "ab lo<unk> <unk>"},
    {"WordPiece",
     "{'type': 'BertNormalizer', 'clean_text': true, 'handle_chinese_chars': true, 'strip_accents': null, "
     "'lowercase': true}",
     "{'type': 'BertPreTokenizer'}",
     WORDPIECE,
     "{'type': 'WordPiece', 'prefix': '##', 'cleanup': true}",
     "ABlo 中. abababa", "3 5 7 6 0", "ablo 中. [UNK]"},
    /* Patterns, where PCRE2 by itself means something else than Oniguruma. */
    {"\\w", "null", "{'type': 'Split', 'pattern': {'Regex': '\\\\w'}, 'behavior': 'Removed', 'invert': false}",
     BPE(""), "null", "a.²Ⓐ,", "10 11", ". ,"},
    {"\\s", "null", "{'type': 'Split', 'pattern': {'Regex': '\\\\s+'}, 'behavior': 'Removed', 'invert': false}",
     BPE(""), "null", "a᠎ b", "3 0 4", "a <unk> b"},
    {"\\h", "null", "{'type': 'Split', 'pattern': {'Regex': '\\\\h'}, 'behavior': 'Removed', 'invert': false}",
     BPE(""), "null", "ab\t12l", "0 6", "<unk> l"},
    {"\\p{Han}", "null", "{'type': 'Split', 'pattern': {'Regex': '\\\\p{Han}'}, 'behavior': 'Removed', 'invert': "
                         "false}",
     BPE(""), "null", "、中a", "0 3", "<unk> a"},
    {"an empty match", "null", "{'type': 'Split', 'pattern': {'Regex': '(?=c)'}, 'behavior': 'Isolated', 'invert': "
                               "false}",
     BPE(""), "null", "abcc", "15 5 5", "ab c c"}};

/* A directory with this tokenizer.json, each ' in it a ". */
static char *write_quoted(const char *name, const char *json) {
    char *dir = dir_of(name), *path = path_join(dir, "tokenizer.json"), *copy = xstrdup(json);
    make_dirs(dir);
    for (char *p = copy; *p; p++)
        if (*p == '\'') *p = '"';
    file_write(path, copy, strlen(copy));
    free(copy);
    free(path);
    return dir;
}

/* Marks in any order, against the definition: neighbours swap as long as the first one's class is the higher. Then a
 * row of a megabyte, which that way would take an hour. The ids are bytes, so decoding shows the normal form. */
static void test_mark_order(void) {
    static const struct { const char *bytes; int class; } marks[] = {
        {"\xCC\xB4", 1}, {"\xE0\xA4\xBC", 7}, {"\xD6\xB0", 10}, {"\xCC\xA1", 202}, {"\xCC\xB1", 220},
        {"\xCC\xAE", 220}, {"\xCC\x90", 230}, {"\xCC\x91", 230}, {"\xCD\xA0", 234}};
    enum { N_MARKS = sizeof marks / sizeof *marks, MOST = 40, HUGE_ROW = 250000, ROUNDS = 400 };
    char *dir = write_json("mark-order", QWEN_SPLIT, "", "", "", "", "\"normalizer\": {\"type\": \"NFD\"}, ");
    Tokenizer *t = tokenizer_load(dir);
    Rng rng = {11, 0};
    size_t n_same = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int row[MOST], n = (int)rng_below(&rng, MOST);
        Buf text = {0}, want = {0}, got = {0};
        buf_str(&text, "x"), buf_str(&want, "x"), buf_add(&got, "", 0);
        for (int i = 0; i < n; i++) {
            row[i] = (int)rng_below(&rng, N_MARKS);
            buf_str(&text, marks[row[i]].bytes);
        }
        for (int i = 0; i + 1 < n;)
            if (marks[row[i]].class > marks[row[i + 1]].class) {
                int first = row[i];
                row[i] = row[i + 1], row[i + 1] = first;
                i -= i > 0;
            } else i++;
        for (int i = 0; i < n; i++) buf_str(&want, marks[row[i]].bytes);
        Ids ids = encode(t, text.data, text.len, false);
        tokenizer_decode(t, ids.v, ids.n, false, &got);
        n_same += !strcmp(got.data, want.data);
        ids_free(&ids);
        buf_free(&text), buf_free(&want), buf_free(&got);
    }
    CHECK(n_same == ROUNDS, "rows of marks in canonical order: %zu of %d", n_same, ROUNDS);
    Buf text = {0}, got = {0};
    buf_str(&text, "x");
    for (int i = 0; i < HUGE_ROW; i++) buf_str(&text, "\xCC\x90\xCC\xB1"); /* classes 230 and 220 */
    alarm(60);
    Ids ids = encode(t, text.data, text.len, false);
    alarm(0);
    tokenizer_decode(t, ids.v, ids.n, false, &got);
    bool ordered = got.len == text.len;
    for (size_t i = 0; ordered && i < HUGE_ROW; i++)
        ordered = !memcmp(got.data + 1 + 2 * i, "\xCC\xB1", 2) &&
            !memcmp(got.data + 1 + 2 * (HUGE_ROW + i), "\xCC\x90", 2);
    CHECK(ordered, "half a million marks in a row are ordered, in time");
    ids_free(&ids);
    buf_free(&text), buf_free(&got);
    tokenizer_free(t);
    free(dir);
}

static void test_parts(void) {
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
        bool bpe = strstr(PARTS[i].model, "'<s>'");
        char *json = strf("{'added_tokens': [%s], 'normalizer': %s, 'pre_tokenizer': %s, 'decoder': %s, 'model': %s}",
                          bpe ? "{'id': 1, 'content': '<s>', 'special': true}" : "", PARTS[i].normalizer,
                          PARTS[i].pre_tokenizer, PARTS[i].decoder, PARTS[i].model);
        char *dir = write_quoted("parts", json);
        Tokenizer *t = tokenizer_load(dir);
        Ids ids = encode(t, PARTS[i].text, strlen(PARTS[i].text), true);
        Buf got = ids_text(&ids), text = {0}, stream = {0};
        tokenizer_decode_text(t, ids.v, ids.n, false, &text);
        Utf8Stream s = {0};
        for (size_t k = 0; k < ids.n; k++) tokenizer_decode_stream(t, &s, ids.v[k], &stream);
        tokenizer_decode_stream(t, &s, -1, &stream);
        bool same_ids_as = !strcmp(got.data, PARTS[i].ids), same_text = !strcmp(text.data, PARTS[i].decoded);
        CHECK(same_ids_as && same_text && !strcmp(stream.data, PARTS[i].decoded),
              "%s: \"%s\" is %s, and \"%s\" again, streamed \"%s\"; want %s, \"%s\"", PARTS[i].name,
              PARTS[i].text, got.data, text.data, stream.data, PARTS[i].ids, PARTS[i].decoded);
        ids_free(&ids), buf_free(&got), buf_free(&text), buf_free(&stream);
        tokenizer_free(t);
        free(dir), free(json);
    }
}

/* tiktoken's file of ranks; ids are tiktoken's. */
static void test_ranks(void) {
    static const char RANKS[] = "YQ== 0\nYg== 1\nYw== 2\nIA== 3\nYmM= 4\nYWI= 5\nYWJj 6\nIGE= 7\nZA== 8\nY2Q= 9\r\n"
                                "ww== 10\nqQ== 11\nw6k= 12\nZGRh 13\n";
    static const char CONFIG[] = "{\"added_tokens_decoder\": {\"14\": {\"content\": \"<|end|>\", \"special\": true}}, "
                                 "\"eos_token\": \"<|end|>\"}";
    char *dir = dir_of("ranks"), *path = path_join(dir, "tokenizer.model");
    char *config = path_join(dir, "tokenizer_config.json");
    make_dirs(dir);
    file_write(path, RANKS, strlen(RANKS));
    CHECK_DIES({ tokenizer_load(dir); }, "14 ranks of an unknown family");
    file_write(config, CONFIG, strlen(CONFIG));
    FILE *capture = tmpfile(); /* most bytes have no token: a warning */
    int stderr_fd = dup(STDERR_FILENO);
    dup2(fileno(capture), STDERR_FILENO);
    Tokenizer *t = tokenizer_load(dir);
    dup2(stderr_fd, STDERR_FILENO);
    close(stderr_fd);
    fclose(capture);
    check_ids(t, "ranks", "abcd abc é", false, "6 8 3 6 3 12");
    check_ids(t, "ranks: any two that are a token together merge", "abcdabcd", false, "6 8 6 8");
    check_ids(t, "ranks: special tokens of the config", "aab a<|end|>", true, "0 5 7 14");
    check_ids(t, "ranks: a word that is a token, though no merges lead to it", "dda ddab", false, "13 3 8 8 5");
    CHECK(tokenizer_eos(t) == 14 && tokenizer_vocab(t) == 15, "eos is %d of %d", tokenizer_eos(t), tokenizer_vocab(t));
    tokenizer_free(t);
    static const struct { const char *file, *why; } bad[] = {
        {"YQ== 0\nYg= x\n", "line 2 is not"},      {"YQ== 0\n!! 1\n", "line 2 is not"},
        {"YQ==\n", "line 1 is not"},               {"YQ== 99999999999\n", "is not between 0 and"},
        {"YQ== -1\n", "is not between 0 and"},     {"YQ== 0\nYQ== 1\n", "has two ids"},
        {"YQ== 0\nYg== 0\n", "belongs to two"},    {"YQ== 1 2\n", "line 1 is not"},
        {"", "empty"},                              {"A 0\n", "line 1 is not"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        file_write(path, bad[i].file, strlen(bad[i].file));
        CHECK_DIES({ tokenizer_load(dir); }, bad[i].why);
    }
    free(dir), free(path), free(config);
}

/* Templates around one text and two, types, and what stays when there is no room: ids are tokenizers'. */
static void test_wrap(void) {
    static const char JSON[] =
        "{'pre_tokenizer': {'type': 'Whitespace'}, 'model': {'type': 'WordPiece', 'unk_token': 'a', 'vocab': {'a': 0, "
        "'b': 1, '[CLS]': 2, '[SEP]': 3}}, 'post_processor': {'type': 'TemplateProcessing', 'single': "
        "[{'SpecialToken': "
        "{'id': '[CLS]', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}, {'SpecialToken': {'id': '[SEP]', "
        "'type_id': 0}}], 'pair': [{'SpecialToken': {'id': '[CLS]', 'type_id': 7}}, {'Sequence': {'id': 'A', "
        "'type_id': "
        "0}}, {'SpecialToken': {'id': '[SEP]', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 1}}, "
        "{'SpecialToken': {'id': '[SEP]', 'type_id': 1}}], 'special_tokens': {'[CLS]': {'id': '[CLS]', 'ids': [2], "
        "'tokens': ['[CLS]']}, '[SEP]': {'id': '[SEP]', 'ids': [3], 'tokens': ['[SEP]']}}}}";
    static const struct { const char *a, *b; size_t max; const char *ids, *types; } rows[] = {
        {"a a a", NULL, 4, "2 0 0 3", "0 0 0 0"},
        {"a a a a a", "b b b b b", 12, "2 0 0 0 0 3 1 1 1 1 1 3", "7 0 0 0 0 0 1 1 1 1 1 1"},
        {"a a a a a", "b b b b b", 8, "2 0 0 3 1 1 1 3", "7 0 0 0 1 1 1 1"},
        {"a", "b b b b b", 6, "2 0 3 1 1 3", "7 0 0 1 1 1"},
        {"a a a a", "b", 5, "2 0 3 1 3", "7 0 0 1 1"},
        {"a a", "b b", 0, "2 0 0 3 1 1 3", "7 0 0 0 1 1 1"},
        {"a a", "b b", 2, "2 3 3", "7 0 1"}}; /* less room than the template needs: it stays whole */
    char *dir = write_quoted("wrap", JSON);
    Tokenizer *t = tokenizer_load(dir);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Ids a = encode(t, rows[i].a, strlen(rows[i].a), false), b = {0}, ids = {0}, types = {0};
        if (rows[i].b) b = encode(t, rows[i].b, strlen(rows[i].b), false);
        tokenizer_wrap(t, &a, rows[i].b ? &b : NULL, rows[i].max, &ids, &types);
        Buf x = ids_text(&ids), y = ids_text(&types);
        CHECK(!strcmp(x.data, rows[i].ids) && !strcmp(y.data, rows[i].types), "%s | %s in %zu: ids %s, types %s",
              rows[i].a, rows[i].b ? rows[i].b : "", rows[i].max, x.data, y.data);
        ids_free(&a), ids_free(&b), ids_free(&ids), ids_free(&types), buf_free(&x), buf_free(&y);
    }
    CHECK(tokenizer_prefix(t)->n == 1 && tokenizer_prefix(t)->v[0] == 2 && tokenizer_suffix(t)->n == 1 &&
          tokenizer_suffix(t)->v[0] == 3, "prefix [CLS], suffix [SEP]");
    tokenizer_free(t);
    free(dir);
}

/* GPT-2's own layout: vocab.json and merges.txt, and not a word about special tokens. */
static void test_two_files(void) {
    char *dir = dir_of("two-files"), *vocab = path_join(dir, "vocab.json"), *merges = path_join(dir, "merges.txt");
    make_dirs(dir);
    Buf b = {0};
    buf_str(&b, "{");
    byte_vocab(&b, 0);
    buf_str(&b, ", \"Ġt\": 256, \"he\": 257, \"Ġthe\": 258, \"<|endoftext|>\": 259}");
    file_write(vocab, b.data, b.len);
    static const char MERGES[] = "#version: 0.2\nĠ t\nh e\r\nĠt he\n\n";
    file_write(merges, MERGES, strlen(MERGES));
    CHECK(tokenizer_in_dir(dir), "vocab.json and merges.txt are a tokenizer");
    Tokenizer *t = tokenizer_load(dir);
    check_ids(t, "two files", " the<|endoftext|>", true, "258 259");
    CHECK(tokenizer_eos(t) == 259 && tokenizer_bos(t) == 259 && !tokenizer_adds_bos(t), "eos is %d", tokenizer_eos(t));
    tokenizer_free(t);
    static const char BAD[] = "#version: 0.2\nĠ t\nq zz\n";
    file_write(merges, BAD, strlen(BAD));
    CHECK_DIES({ tokenizer_load(dir); }, "not in the vocabulary");
    static const char WORDY[] = "Ġ t h\n";
    file_write(merges, WORDY, strlen(WORDY));
    CHECK_DIES({ tokenizer_load(dir); }, "is not two tokens");
    buf_free(&b);
    free(vocab), free(merges), free(dir);
}

static void test_copy(void) {
    char *from = dir_of("gpt2"), *to = dir_of("copied");
    make_dirs(to);
    tokenizer_copy_files(from, to);
    Tokenizer *a = tokenizer_load(from), *b = tokenizer_load(to);
    Ids ids_a = encode(a, LESSON, strlen(LESSON), false), ids_b = encode(b, LESSON, strlen(LESSON), false);
    CHECK(same_ids(&ids_a, &ids_b), "copied files: the same %zu ids", ids_a.n);
    Ids empty = encode(a, "", 0, true);
    CHECK(empty.n == 0, "no text, no ids");
    ids_free(&ids_a), ids_free(&ids_b), ids_free(&empty);
    tokenizer_free(a), tokenizer_free(b);
    free(from), free(to);
}

/* One tokenizer, many threads: the scratch memory is lent, not shared. */
static void test_threads(void) {
    char *dir = dir_of("whole");
    Tokenizer *t = tokenizer_load(dir);
    Buf text = generated_text(2, 200000);
    Ids want = encode(t, text.data, text.len, false);
    int wrong = 0;
#pragma omp parallel for num_threads(8) reduction(+ : wrong)
    for (int i = 0; i < 64; i++) {
        Ids got = encode(t, text.data, text.len, false);
        wrong += !same_ids(&got, &want);
        ids_free(&got);
    }
    CHECK(!wrong, "eight threads at once get the same %zu ids", want.n);
    ids_free(&want);
    buf_free(&text);
    tokenizer_free(t);
    free(dir);
}

/* ---- hostile and broken files ----------------------------------------------------------------------------------- */

static void hostile(const char *json, const char *substring) {
    char *dir = dir_of("hostile"), *path = path_join(dir, "tokenizer.json");
    make_dirs(dir);
    file_write(path, json, strlen(json));
    CHECK_DIES({ tokenizer_load(dir); }, substring);
    free(path);
    free(dir);
}

static void hostile_parts(const char *split, const char *more_vocab, const char *merges, const char *more_model,
                          const char *added, const char *more, const char *substring) {
    char *dir = write_json("hostile", split, more_vocab, merges, more_model, added, more);
    CHECK_DIES({ tokenizer_load(dir); }, substring);
    free(dir);
}

#define MODEL(vocab) "{\"pre_tokenizer\": " GPT2_SPLIT ", \"model\": {\"vocab\": " vocab ", \"merges\": []}}"

static void test_hostile(void) {
    hostile("", "not a JSON object: broken");
    hostile("{\"model\": {\"vocab\": {\"a\": 1", "not a JSON object: broken");
    hostile("{\"model\": {}} {", "something follows");
    hostile("[1, 2]", "not a JSON object");
    hostile("{}", "there is no \"model\"");
    hostile("{\"pre_tokenizer\": " GPT2_SPLIT ", \"model\": {\"merges\": []}}", "there is no vocabulary");
    hostile(MODEL("[\"a\", \"b\"]"), "there is no vocabulary");
    hostile(MODEL("{}"), "the vocabulary is empty");
    hostile(MODEL("{\"a\": 0, \"b\": 0}"), "belongs to two tokens");
    hostile(MODEL("{\"a\": 0, \"a\": 1}"), "has two ids");
    hostile(MODEL("{\"a\": -1}"), "whole numbers from 0");
    hostile(MODEL("{\"a\": 2147483648}"), "whole numbers from 0");
    hostile(MODEL("{\"a\": 1e300}"), "whole numbers from 0");
    hostile(MODEL("{\"a\": 0.5}"), "whole numbers from 0");
    hostile(MODEL("{\"a\": \"0\"}"), "is not a number");
    hostile(MODEL("{\"a b\": 0}"), "outside the byte alphabet");
    hostile(MODEL("{\"\xE4\xB8\xAD\": 0}"), "outside the byte alphabet");
    hostile(MODEL("{\"\xFF\": 0}"), "outside the byte alphabet");
    hostile_parts(GPT2_SPLIT, ", \"ab\": 256", "\"a b\", \"ab zz\"", "", "", "", "not in the vocabulary");
    hostile_parts(GPT2_SPLIT, "", "\"a b\"", "", "", "", "the result is not in the vocabulary");
    hostile_parts(GPT2_SPLIT, ", \"ab\": 256", "\"ab\"", "", "", "", "is neither \"a b\"");
    hostile_parts(GPT2_SPLIT, ", \"ab\": 256", "\"a b c\"", "", "", "", "is neither \"a b\"");
    hostile_parts(GPT2_SPLIT, ", \"ab\": 256", "[\"a\"]", "", "", "", "is neither \"a b\"");
    hostile_parts(GPT2_SPLIT, ", \"ab\": 256", "[\"a\", 7]", "", "", "", "is neither \"a b\"");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 5, \"content\": \"<s>\"}", "", "belongs to two tokens");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 300, \"content\": \"a\"}", "", "in the vocabulary");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 300, \"content\": 7}", "", "no content that is a string");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 300, \"content\": \"\"}", "", "has no content");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 65, \"content\": \"A\", \"special\": true}", "",
                  "spelt like the byte");
    hostile_parts(GPT2_SPLIT, "", "", "", "{\"id\": 300, \"content\": \"é\"}", "", "in the vocabulary");
    hostile_parts(GPT2_SPLIT, "", "", "\"type\": \"WordPiece\", ", "", "", "ByteLevel with a model other than BPE");
    hostile_parts(GPT2_SPLIT, "", "", "\"type\": \"WordLevel\", ", "", "", "the model WordLevel is not supported");
    hostile_parts(GPT2_SPLIT, "", "", "\"dropout\": 0.1, ", "", "", "dropout");
    hostile_parts("{\"type\": \"UnicodeScripts\"}", "", "", "", "", "", "UnicodeScripts is not supported");
    hostile_parts("{\"type\": \"Metaspace\", \"replacement\": \"ab\"}", "", "", "", "", "", "not one character");
    hostile_parts("{\"type\": \"Metaspace\", \"prepend_scheme\": \"x\"}", "", "", "", "", "", "not always, first");
    hostile_parts("{\"type\": \"Sequence\"}", "", "", "", "", "", "has no list");
    hostile_parts("{\"type\": \"Sequence\", \"pretokenizers\": [null]}", "", "", "", "", "", "has null");
    hostile_parts("{\"type\": \"Split\", \"behavior\": \"Isolated\"}", "", "", "", "", "", "has no pattern");
    hostile_parts("{\"type\": \"CharDelimiterSplit\", \"delimiter\": \"\"}", "", "", "", "", "", "empty delimiter");
    hostile_parts("7", "", "", "", "", "", "has no \"type\"");
    hostile_parts("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a-z\"}, \"behavior\": \"Isolated\"}", "", "",
                  "", "", "", "the pattern \"[a-z\": missing terminating ]");
    hostile_parts("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Glued\"}", "", "", "", "", "",
                  "has the behavior \"Glued\"");
    hostile_parts(GPT2_SPLIT, "", "", "", "", "\"normalizer\": {\"type\": \"Nmt\"}, ", "the normalizer Nmt");
    hostile_parts(GPT2_SPLIT, "", "", "", "", "\"decoder\": {\"type\": \"CTC\"}, ", "the decoder CTC");
    hostile_parts(GPT2_SPLIT, "", "", "", "",
                  "\"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": 1e300}, ", "has no \"start\"");
    hostile_parts(GPT2_SPLIT, "", "", "", "", "\"normalizer\": {\"type\": \"Prepend\"}, ", "has no \"prepend\"");
    hostile_parts(GPT2_SPLIT, "", "", "", "", "\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"a\"]}, ",
                  "that is [token, id]");
    hostile("{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}", "entry 0 of the vocabulary is not");
    hostile("{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"unk_id\": 7}}", "unk_id 7 is outside");
    hostile("{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}}", "unk_token is not in the vocabulary");
    hostile("{\"model\": {\"vocab\": {\"\\u0000\": 0}}}", "is not supported");
    hostile_parts(GPT2_SPLIT, "", "", "", "",
                  "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                  "\"<no>\"}}]}, ", "\"<no>\" is not in the vocabulary");

    Buf deep = {0};
    for (int i = 0; i < 100000; i++) buf_str(&deep, "{\"normalizer\":");
    hostile(deep.data, "not a JSON object: broken");
    deep.len = 0;
    for (int i = 0; i < 300; i++) buf_str(&deep, "{\"type\":\"Sequence\",\"normalizers\":[");
    Buf whole = {0};
    buf_fmt(&whole, "{\"normalizer\": %s", deep.data);
    for (int i = 0; i < 300; i++) buf_str(&whole, "]}");
    buf_str(&whole, ", \"model\": {}}");
    hostile(whole.data, "there is no vocabulary");
    buf_free(&deep);
    buf_free(&whole);

    char *dir = write_json("roles", GPT2_SPLIT, "", "", "", "", ""), *config = path_join(dir, "tokenizer_config.json");
    file_write(config, "{\"eos_token\": \"</s>\"}", 21);
    CHECK_DIES({ tokenizer_load(dir); }, "eos_token \"</s>\" is not in the vocabulary");
    file_write(config, "{\"eos_token\": [1]}", 18);
    CHECK_DIES({ tokenizer_load(dir); }, "neither a string nor an object");
    CHECK_DIES({ tokenizer_load("/no/such/dir"); }, "no such directory");
    CHECK_DIES({ tokenizer_load(test_tmpdir()); }, "holds no tokenizer");
    CHECK(!tokenizer_in_dir(test_tmpdir()), "a folder without the files is no tokenizer");
    free(config);
    free(dir);

    const char *byte_like[] = {"a"}, *twice[] = {"<s>", "<s>"}, *none[] = {""};
    CHECK_DIES({ train_on("x", 1, 0, "gpt2", 300, 0, byte_like, 1, test_tmpdir()); }, "spelt like a byte");
    CHECK_DIES({ train_on("x", 1, 0, "gpt2", 300, 0, twice, 2, test_tmpdir()); }, "is given twice");
    CHECK_DIES({ train_on("x", 1, 0, "gpt2", 300, 0, none, 1, test_tmpdir()); }, "cannot be empty");
    CHECK_DIES({ train_on("x", 1, 0, "gpt2", 256, 0, twice, 1, test_tmpdir()); }, "is not possible");
    CHECK_DIES({ train_on("x", 1, 0, "gpt3", 300, 0, twice, 1, test_tmpdir()); }, "neither gpt2 nor llama3");
}

int main(void) {
    common.quiet = true;
    test_training();
    test_same_on_any_machine();
    test_words();
    test_round_trip();
    test_long_words();
    test_added();
    test_options();
    test_mark_order();
    test_parts();
    test_ranks();
    test_wrap();
    test_two_files();
    test_copy();
    test_threads();
    test_hostile();
    return test_end();
}
