/* test_dataset.c - documents in, token windows out: nothing lost, nothing twice, nothing trusted.
 *
 *   [permute]   a permutation for every size, another for every key
 *   [windows]   an epoch shows each window once; any sample can be entered directly
 *   [docs]      the forms of data; ranges that together give the whole; messages that name file and line
 *   [cache]     ids from the cache are the ids of the whole text, also across the borders of the pieces
 *   [shards]    truncated and hostile ones die with one sentence */
#include "dataset.h"
#include "model.h"
#include "test.h"
#include <errno.h>
#include <sys/stat.h>

static char *place(const char *name) { return path_join(test_tmpdir(), name); }
static char *put(const char *name, const char *text) {
    char *path = place(name);
    file_write(path, text, strlen(text));
    return path;
}

/* ---- [permute] -------------------------------------------------------------------------------------------------- */
static int by_u64(const void *a, const void *b) {
    return (*(const uint64_t *)a > *(const uint64_t *)b) - (*(const uint64_t *)a < *(const uint64_t *)b);
}
static void test_permute(void) {
    enum { N_MAX = 2000 };
    uint8_t seen[N_MAX];
    uint64_t bad_n = 0, same = 0, fixed = 0, total = 0;
    for (uint64_t n = 1; n <= N_MAX && !bad_n; n++) {
        uint64_t equal = 0;
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = permute(i, n, 7);
            if (p >= n || seen[p]++) bad_n = n;
            equal += p == permute(i, n, 8);
            fixed += p == i;
            total++;
        }
        if (n >= 8 && equal == n) same = n;
    }
    CHECK(!bad_n, "permute is a permutation for n = 1..%d (first that is not: %llu)", N_MAX, (unsigned long long)bad_n);
    CHECK(!same, "two keys give two orders for n = 8..%d (first that does not: %llu)", N_MAX, (unsigned long long)same);
    CHECK(fixed < 3 * N_MAX, "%llu of %llu stay in place; one a permutation is chance", (unsigned long long)fixed,
          (unsigned long long)total);

    static const uint64_t large[] = {65537, 1000003, (1ull << 32) - 5, (1ull << 32) + 1, 1000000000039ull, 1ull << 50};
    enum { SAMPLES = 20000 };
    uint64_t *v = xmalloc(SAMPLES * sizeof *v);
    for (size_t k = 0; k < sizeof large / sizeof *large; k++) {
        uint64_t n = large[k], out_of_range = 0, twice = 0, low_half = 0;
        for (uint64_t i = 0; i < SAMPLES; i++) {
            v[i] = permute(i, n, 3);
            out_of_range += v[i] >= n;
            low_half += v[i] < n / 2;
        }
        qsort(v, SAMPLES, sizeof *v, by_u64);
        for (size_t i = 1; i < SAMPLES; i++) twice += v[i] == v[i - 1];
        CHECK(!out_of_range && !twice && low_half > SAMPLES * 0.47 && low_half < SAMPLES * 0.53,
              "permute of %llu: %d neighbours go to different places, half of them to the lower half (%llu)",
              (unsigned long long)n, SAMPLES, (unsigned long long)low_half);
    }
    free(v);
}

/* ---- [windows] -------------------------------------------------------------------------------------------------- */
/* llm.c's layout, written here by hand so that a mistake in the writer and in the reader cannot cancel out. */
static char *put_shard(const char *name, int width, int32_t magic, int32_t version, uint32_t n_promised,
                       const uint32_t *ids, size_t n) {
    char *path = place(name);
    uint32_t header[256] = {(uint32_t)magic, (uint32_t)version, n_promised};
    Buf b = {0};
    buf_add(&b, header, sizeof header);
    for (size_t i = 0; i < n; i++)
        for (int byte = 0; byte < width; byte++) {
            char c = (char)(ids[i] >> (8 * byte));
            buf_add(&b, &c, 1);
        }
    file_write(path, b.data, b.len);
    buf_free(&b);
    return path;
}
static char *put_u16(const char *name, const uint32_t *ids, size_t n) {
    return put_shard(name, 2, 20240520, 1, (uint32_t)n, ids, n);
}
static char *put_u32(const char *name, const uint32_t *ids, size_t n) {
    return put_shard(name, 4, 20240801, 7, (uint32_t)n, ids, n);
}
static Tokens *open_one(const char *path) { return tokens_open(&path, 1, 0, 1, NULL, test_tmpdir()); }

static void test_windows(void) {
    static const struct { size_t n, T; } cases[] = {{9, 8}, {10, 8}, {16, 8}, {17, 8}, {24, 8}, {25, 8}, {1000, 7},
                                                    {7001, 32}};
    uint32_t *ids = xmalloc(7001 * sizeof *ids);
    for (uint32_t i = 0; i < 7001; i++) ids[i] = i;                  /* token i is its own place */
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t n = cases[k].n, T = cases[k].T, all = (n - 1) / T, n_windows = all > 1 ? all - 1 : 1;
        char *path = put_u32("windows.bin", ids, n);
        Tokens *d = open_one(path);
        int32_t tokens[32], targets[32];
        uint8_t *seen = xcalloc(n, 1), *ever = xcalloc(n, 1);
        size_t repeats = 0, broken = 0, off_grid = 0, shifts = 0, orders = 0, n_ever = 0;
        int32_t last_shift = -1, last_first = -1;
        enum { EPOCHS = 1000 };
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
            int32_t shift = -1;
            memset(seen, 0, n);
            for (uint64_t i = 0; i < n_windows; i++) {
                tokens_window(d, 5, epoch * n_windows + i, T, tokens, targets, NULL);
                if (shift < 0) shift = tokens[0] % (int32_t)T;
                off_grid += tokens[0] % (int32_t)T != shift;
                for (size_t t = 0; t < T; t++) {
                    broken += tokens[t] != tokens[0] + (int32_t)t || targets[t] != tokens[t] + 1;
                    broken += (size_t)targets[t] >= n;
                    repeats += seen[tokens[t]]++;
                    ever[targets[t]] = 1;
                }
                if (i == 0) orders += tokens[0] - shift != last_first, last_first = tokens[0] - shift;
            }
            shifts += shift != last_shift;
            last_shift = shift;
        }
        for (size_t i = 1; i < n; i++) n_ever += ever[i];
        CHECK(!repeats && !broken && !off_grid, "%zu tokens by %zu: %zu windows an epoch, %d epochs: no overlap", n, T,
              n_windows, EPOCHS);
        CHECK(n_ever == n - 1, "%zu tokens by %zu: the shifting borders show %zu of %zu targets", n, T, n_ever, n - 1);
        if (n_windows > 50) CHECK(shifts > EPOCHS / 2 && orders > EPOCHS * 0.9, "epochs differ in shift and order");
        /* the same samples in the opposite order */
        size_t differ = 0;
        int32_t again[32];
        for (uint64_t i = 3 * n_windows; i-- > 0;) {
            tokens_window(d, 5, i, T, tokens, targets, NULL);
            tokens_window(d, 5, 3 * n_windows - 1 - i, T, again, targets, NULL);
            tokens_window(d, 5, i, T, again, targets, NULL);
            differ += memcmp(tokens, again, T * sizeof *again) != 0;
        }
        CHECK(!differ, "%zu tokens by %zu: a sample does not depend on what was asked before", n, T);
        size_t covered = 0, counted = 0, at = 0, got;
        memset(seen, 0, n);
        while ((got = tokens_eval_window(d, &at, T, tokens, targets, NULL))) {
            counted += got;
            for (size_t t = 0; t < T; t++)
                if (targets[t] >= 0) covered += !seen[targets[t]]++ && targets[t] == tokens[t] + 1;
        }
        CHECK(covered == n - 1 && counted == n - 1, "%zu tokens by %zu: validation counts each of %zu targets once", n,
              T, covered);
        free(seen);
        free(ever);
        tokens_close(d);
        free(path);
    }
    char *path = put_u32("short.bin", ids, 8);
    int32_t none[8];
    CHECK_DIES({ tokens_window(open_one(path), 1, 0, 8, none, none, NULL); }, "fewer than one window of 9 needs");
    free(path);

    /* several shards are one stream; a range is a slice of it */
    const char *two[] = {put_u32("part1.bin", ids, 100), put_u32("part2.bin", ids + 100, 51)};
    Tokens *whole = tokens_open(two, 2, 0, 1, NULL, test_tmpdir());
    Tokens *head = tokens_open(two, 2, 0, 0.9, NULL, test_tmpdir());
    Tokens *tail = tokens_open(two, 2, 0.9, 1, NULL, test_tmpdir());
    size_t wrong = 0;
    for (size_t i = 0; i < whole->n; i++) {
        int32_t part = i < head->n ? tokens_at(head, i) : tokens_at(tail, i - head->n);
        wrong += tokens_at(whole, i) != (int32_t)i || part != (int32_t)i;
    }
    CHECK(whole->n == 151 && head->n + tail->n == 151 && !wrong,
          "two shards: %zu tokens; [0,.9) has %zu, [.9,1) the other %zu", whole->n, head->n, tail->n);
    tokens_close(whole), tokens_close(head), tokens_close(tail);

    /* document starts: eos is known from a tokenizer only, so set it */
    static const uint32_t docs[] = {5, 6, 9, 7, 8, 9, 9, 4, 3};
    path = put_u16("docs.bin", docs, 9);
    Tokens *d = open_one(path);
    d->eos = 9;
    int32_t tokens[8], targets[8], start[8];
    size_t at = 0;
    tokens_eval_window(d, &at, 8, tokens, targets, start);
    static const int32_t want[] = {0, 0, 2, 2, 2, 5, 6, 6};
    CHECK(!memcmp(start, want, sizeof want), "each query sees from its document's separator on");
    /* validation with documents apart: windows of 4 begin again where the document that they cut begins */
    static const int32_t want_targets[][4] = {{6, 9, -1, -1}, {7, 8, 9, -1}, {9, 4, 3, -1}};
    static const size_t want_at[] = {2, 5, 9};
    size_t n_right = 0;
    at = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = tokens_eval_window(d, &at, 4, tokens, targets, start);
        n_right += n == (i ? 3 : 2) && at == want_at[i] && !memcmp(targets, want_targets[i], sizeof targets / 2);
    }
    CHECK(n_right == 3 && !tokens_eval_window(d, &at, 4, tokens, targets, start),
          "%zu of 3 windows count whole documents, each target once", n_right);
    /* training windows begin with a document where one begins within them */
    size_t n_opening = 0;
    for (uint64_t i = 0; i < 50; i++) tokens_window(d, 3, i, 3, tokens, targets, start), n_opening += tokens[0] == 9;
    CHECK(n_opening >= 40, "%zu of 50 training windows open with a separator", n_opening);
    tokens_close(d);
    free(path);
    free((char *)two[0]), free((char *)two[1]);
    free(ids);
}

/* ---- [docs] ----------------------------------------------------------------------------------------------------- */
typedef struct { char **v; size_t *len; size_t n, cap; Buf all; } List;
static List read_range(const char **paths, int n_paths, double from, double to) {
    List l = {0};
    Docs *d = docs_open_range(paths, n_paths, from, to);
    size_t n;
    for (const char *text; (text = docs_next(d, &n)); l.n++) {
        if (l.n == l.cap) {
            l.cap = l.cap ? 2 * l.cap : 16;
            l.v = xrealloc(l.v, l.cap * sizeof *l.v);
            l.len = xrealloc(l.len, l.cap * sizeof *l.len);
        }
        l.v[l.n] = xmalloc(n + 1);
        memcpy(l.v[l.n], text, n);
        l.v[l.n][n] = 0;
        l.len[l.n] = n;
        buf_add(&l.all, text, n);
    }
    docs_close(d);
    return l;
}
static void list_free(List *l) {
    for (size_t i = 0; i < l->n; i++) free(l->v[i]);
    free(l->v);
    free(l->len);
    buf_free(&l->all);
}
/* A file of this name and text holds these documents. */
static void documents(const char *what, const char *name, const char *text, const char **want, size_t n_want) {
    const char *path = text ? put(name, text) : place(name);
    List l = read_range(&path, 1, 0, 1);
    bool ok = l.n == n_want;
    for (size_t i = 0; ok && i < n_want; i++) ok = !strcmp(l.v[i], want[i]) && l.len[i] == strlen(want[i]);
    CHECK(ok, "%s: %zu documents", what, l.n);
    list_free(&l);
    free((char *)path);
}
#define DOCUMENTS(what, name, text, ...) \
    documents(what, name, text, (const char *[]){__VA_ARGS__}, sizeof (const char *[]){__VA_ARGS__} / sizeof(char *))

static size_t count_cut(const List *l) { /* documents that begin inside a character */
    size_t cut = 0;
    for (size_t i = 0; i < l->n; i++) cut += ((unsigned char)l->v[i][0] & 0xC0) == 0x80;
    return cut;
}
static size_t count_empty(const List *l) {
    size_t empty = 0;
    for (size_t i = 0; i < l->n; i++) empty += !l->len[i];
    return empty;
}

/* [0,f) and [f,1) together are the whole, and no character is cut, for many f. */
static void check_ranges(const char *what, const char **paths, int n) {
    List whole = read_range(paths, n, 0, 1);
    size_t wrong = 0, cut = 0, empty = 0;
    double bad_f = -1;
    for (int k = 1; k < 200; k++) {
        double f = k == 180 ? 0.9 : k / 200.0 + k % 7 * 1e-4;
        List head = read_range(paths, n, 0, f), tail = read_range(paths, n, f, 1);
        cut += count_cut(&head) + count_cut(&tail);
        empty += count_empty(&head) + count_empty(&tail);
        if (tail.all.len) buf_add(&head.all, tail.all.data, tail.all.len);
        if (head.all.len != whole.all.len || memcmp(head.all.data, whole.all.data, whole.all.len)) wrong++, bad_f = f;
        list_free(&head);
        list_free(&tail);
    }
    CHECK(!wrong && !cut && !empty && whole.n,
          "%s: %zu documents in two parts, cut in 199 places: together the whole (not: %zu, such as %g; "
          "characters cut: %zu; empty: %zu)", what, whole.n, wrong, bad_f, cut, empty);
    list_free(&whole);
}

static void test_docs(void) {
    DOCUMENTS("text without a separator", "a.txt", "one\ntwo\n", "one\ntwo\n");
    DOCUMENTS("lines of the separator", "b.txt", "one\n<|endoftext|>\ntwo\r\n<|endoftext|>\r\n\nthree",
              "one\n", "two\r\n", "three");
    DOCUMENTS("separators first, last and doubled", "c.txt",
              "<|endoftext|>\n<|endoftext|>\na\n<|endoftext|>\n<|endoftext|>", "a\n");
    DOCUMENTS("a separator inside a line is text", "d.txt", "a <|endoftext|>\n<|endoftext|> b\n<|endoftext|>x\n",
              "a <|endoftext|>\n<|endoftext|> b\n<|endoftext|>x\n");
    DOCUMENTS("a file of another name is text", "e.md", "# x\n", "# x\n");
    DOCUMENTS("jsonl: text", "a.jsonl",
              "{\"text\":\"a\\nb\"}\n\n  \r\n{\"text\":\"\\u4ece\\ud83d\\ude00\"}\r\n{\"text\":\"\"}\n"
              "{\"text\":\"c\",\"id\":1}",
              "a\nb", "从😀", "c");
    DOCUMENTS("jsonl: messages", "b.jsonl",
              "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"yes\"}]}\n",
              "user: hi\nassistant: yes\n");
    DOCUMENTS("jsonl: instruction", "c.jsonl",
              "{\"instruction\":\"add\",\"input\":\"1 2\",\"output\":\"3\"}\n"
              "{\"instruction\":\"say\",\"input\":\"\",\"output\":\"x\"}\n{\"instruction\":\"say\",\"output\":\"y\"}\n",
              "Instruction: add\nInput: 1 2\nAnswer: 3\n", "Instruction: say\nAnswer: x\n",
              "Instruction: say\nAnswer: y\n");
    DOCUMENTS("jsonl: question", "d.jsonl", "{\"question\":\"1+1?\",\"answer\":\"2\"}\n",
              "Question: 1+1?\nAnswer: 2\n");
    DOCUMENTS("json array", "a.json", "[{\"text\":\"a\"},\n {\"question\":\"q\",\"answer\":\"r\"}]",
              "a", "Question: q\nAnswer: r\n");

    static const struct { const char *what, *name, *text, *says; } bad[] = {
        {"not JSON", "bad1.jsonl", "{\"text\":\"a\"}\n\n{\"text\": \n", "bad1.jsonl:3: not a JSON object"},
        {"not an object", "bad2.jsonl", "[1,2]\n", "bad2.jsonl:1: not a JSON object"},
        {"no known field", "bad3.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"a\"}\n", "bad3.jsonl:2: holds neither"},
        {"two on a line", "bad4.jsonl", "{\"text\":\"a\"} {\"text\":\"b\"}\n", "bad4.jsonl:1: something follows"},
        {"half a message", "bad5.jsonl", "{\"messages\":[{\"role\":\"user\"}]}\n", "bad5.jsonl:1: a message needs"},
        {"text is a number", "bad6.jsonl", "{\"text\":5}\n", "bad6.jsonl:1: holds neither"},
        {"json of no array", "bad7.json", "{\"text\":\"a\"}", "bad7.json: not a JSON array"},
        {"json document of no form", "bad8.json", "[{\"text\":\"a\"},7]", "bad8.json: document 2: holds neither"},
        {"empty file", "bad9.txt", "", "there is no text"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = put(bad[i].name, bad[i].text);
        CHECK_DIES({ List l = read_range(&path, 1, 0, 1); list_free(&l); }, bad[i].says);
        free((char *)path);
    }
    const char *absent = place("absent.txt"), *folder = place("folder"), *typo = "corpus:ten", *none = "corpus:0";
    make_dirs(folder);
    CHECK_DIES({ docs_open(&absent, 1); }, "No such file");
    CHECK_DIES({ docs_open(&folder, 1); }, "holds no .txt");
    CHECK_DIES({ docs_open(&typo, 1); }, "corpus:BYTES[:SEED]");
    CHECK_DIES({ docs_open(&none, 1); }, "corpus:BYTES[:SEED]");

    /* characters of one to four bytes, so that cuts fall inside each kind */
    Buf text = {0}, jsonl = {0}, json = {0};
    static const char *words[] = {"word ", "é", "从前 ", "😀", "\n", "naïve "};
    for (uint64_t i = 0; i < 3000; i++) {
        if (i % 500 == 499) buf_str(&text, "\n<|endoftext|>\n");
        buf_str(&text, words[rng_mix(9, i) % 6]);
    }
    buf_str(&json, "[");
    for (int i = 0; i < 40; i++) {
        buf_fmt(&jsonl, "{\"text\":\"document %d 从前\"}\n", i);
        buf_fmt(&json, "%s{\"text\":\"document %d 从前\"}", i ? "," : "", i);
    }
    buf_str(&json, "]");
    const char *one = put("long.txt", text.data), *lines = put("long.jsonl", jsonl.data);
    const char *array = put("long.json", json.data), *several[] = {one, lines, array}, *corpus = "corpus:20k";
    free(put("folder/2.txt", "second\n"));
    free(put("folder/1.jsonl", "{\"text\":\"first\"}\n"));
    free(put("folder/notes.md", "not data"));
    free(put("folder/.hidden.txt", "not data"));
    check_ranges(".txt", &one, 1);
    check_ranges(".jsonl", &lines, 1);
    check_ranges(".json", &array, 1);
    check_ranges("corpus", &corpus, 1);
    check_ranges("three files", several, 3);
    DOCUMENTS("a folder, by name, of known suffixes", "folder", NULL, "first", "second\n");
    char *bytes = xmalloc(4001);
    memset(bytes, 0x80, 4000), bytes[4000] = 0;                       /* no character starts here at all */
    const char *garbage = put("garbage.txt", bytes);
    List head = read_range(&garbage, 1, 0, 0.9), tail = read_range(&garbage, 1, 0.9, 1);
    CHECK(head.all.len + tail.all.len == 4000, "bytes that are no UTF-8 are all kept: %zu + %zu", head.all.len,
          tail.all.len);
    list_free(&head), list_free(&tail), free(bytes);
    buf_free(&text), buf_free(&jsonl), buf_free(&json);

    /* many documents in one array: time must not grow with the square */
    Buf big = {0};
    buf_str(&big, "[{\"text\":\"a\"}");
    for (int i = 1; i < 100000; i++) buf_str(&big, ",{\"text\":\"a\"}");
    buf_str(&big, "]");
    const char *large = put("large.json", big.data);
    double start = now_s();
    List l = read_range(&large, 1, 0, 1);
    double seconds = now_s() - start;
    CHECK(l.n == 100000 && seconds < 10, "an array of 100,000 documents is read in %.2f s", seconds);
    list_free(&l), buf_free(&big);
    const char *paths[] = {absent, folder, one, lines, array, garbage, large};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) free((char *)paths[i]);
}

/* ---- [cache] ---------------------------------------------------------------------------------------------------- */
static Tokenizer *make_tokenizer(const char *split, const char *name) {
    static const char *specials[] = {"<|endoftext|>"};
    const char *corpus = "corpus:200k";
    char *dir = place(name);
    Docs *docs = docs_open(&corpus, 1);
    make_dirs(dir);
    tokenizer_train((TextSource){docs_next, docs, docs_bytes(docs)}, split, 600, 2, specials, 1, dir);
    docs_close(docs);
    Tokenizer *t = tokenizer_load(dir);
    free(dir);
    return t;
}
static uint64_t mtime_of(const char *dir, size_t *n) { /* of the one cache file in dir, and how many there are */
    uint64_t sum = 0;
    char *command = strf("ls %s/*.bin", dir), line[4200];
    FILE *f = popen(command, "r");
    for (*n = 0; f && fgets(line, sizeof line, f); ++*n) {
        struct stat st;
        line[strcspn(line, "\n")] = 0;
        if (!stat(line, &st)) sum += (uint64_t)st.st_mtim.tv_nsec + (uint64_t)st.st_mtim.tv_sec * 1000000000u;
    }
    if (f) pclose(f);
    free(command);
    return sum;
}
static void check_cache(const char *what, const Tokenizer *t, const char *text, size_t n) {
    char *path = place("cached.txt"), *dir = place("cache");
    dir_remove(dir);
    file_write(path, text, n);
    Ids want = {0};
    tokenizer_encode(t, text, n, false, &want);
    ids_add(&want, tokenizer_eos(t));
    for (int again = 0; again < 2; again++) {
        Tokens *d = tokens_open((const char *[]){path}, 1, 0, 1, t, dir);
        size_t first = 0, shorter = d->n < want.n ? d->n : want.n;
        while (first < shorter && tokens_at(d, first) == want.v[first]) first++;
        CHECK(d->n == want.n && first == want.n, "%s, %s: %zu bytes, %zu of %zu ids are those of the whole text", what,
              again ? "from the cache" : "encoded in pieces", n, first, d->n);
        CHECK(d->eos == tokenizer_eos(t), "the separator is known");
        tokens_close(d);
    }
    ids_free(&want);
    free(path);
    free(dir);
}
static void test_cache(void) {
    Tokenizer *gpt2 = make_tokenizer("gpt2", "tok-gpt2"), *llama3 = make_tokenizer("llama3", "tok-llama3");
    Buf corpus = {0}, hard = {0}, chinese = {0};
    for (uint64_t i = 0; corpus.len < 3300000; i++) {
        corpus_document(3, CORPUS_TRAIN, CORPUS_ALL, i, &corpus);
        buf_str(&corpus, "\n");
    }
    /* runs of blanks, digits, contractions, signs and characters between the letters, where a border could go wrong */
    static const char *const bits[] = {" a", "b", " the", "  ", "   ", "\n", " \n ", "'s", "'ll", " 12", "345", "\t",
                                       "!", " ?!", "从", "é", "\xC2\xA0", "…", " I", "x y", "\r\n", "😀", "\xFF",
                                       " don't"};
    for (uint64_t i = 0; hard.len < 3300000; i++) buf_str(&hard, bits[rng_mix(4, i) % (sizeof bits / sizeof *bits)]);
    for (uint64_t i = 0; chinese.len < 3300000; i++) buf_str(&chinese, rng_mix(5, i) % 9 ? "从" : "前，");
    check_cache("corpus, gpt2's split", gpt2, corpus.data, corpus.len);
    check_cache("corpus, llama3's split", llama3, corpus.data, corpus.len);
    check_cache("hard text, gpt2's split", gpt2, hard.data, hard.len);
    check_cache("hard text, llama3's split", llama3, hard.data, hard.len);
    check_cache("Chinese without a blank", llama3, chinese.data, chinese.len);

    /* when the cache is used, and when it is not */
    const char *path = put("small.txt", "one small text\n<|endoftext|>\nand another\n");
    char *dir = place("cache2");
    size_t n;
    tokens_close(tokens_open(&path, 1, 0, 1, gpt2, dir));
    uint64_t first = mtime_of(dir, &n);
    tokens_close(tokens_open(&path, 1, 0, 1, gpt2, dir));
    CHECK(n == 1 && mtime_of(dir, &n) == first && n == 1, "the same data again: the cache is used");
    tokens_close(tokens_open(&path, 1, 0, 0.5, gpt2, dir));
    mtime_of(dir, &n);
    CHECK(n == 2, "another range: a second cache");
    tokens_close(tokens_open(&path, 1, 0, 1, llama3, dir));
    mtime_of(dir, &n);
    CHECK(n == 3, "another tokenizer: a third");
    free(put("small.txt", "one small text\n<|endoftext|>\nand anothex\n"));
    tokens_close(tokens_open(&path, 1, 0, 1, gpt2, dir));
    mtime_of(dir, &n);
    CHECK(n == 4, "the file was changed to the same size: a fourth");
    Tokens *d = tokens_open(&path, 1, 0, 1, gpt2, dir);
    int n_eos = 0;
    for (size_t i = 0; i < d->n; i++) n_eos += tokens_at(d, i) == d->eos;
    CHECK(n_eos == 2 && tokens_at(d, d->n - 1) == d->eos, "each document ends in one separator");
    tokens_close(d);
    CHECK_DIES({ tokens_open(&path, 1, 0, 1, NULL, dir); }, "text needs a tokenizer");
    free((char *)path);
    free(dir);
    buf_free(&corpus), buf_free(&hard), buf_free(&chinese);
    tokenizer_free(gpt2), tokenizer_free(llama3);
}

/* ---- [shards] --------------------------------------------------------------------------------------------------- */
/* A model of 300 words meets the first window of a shard. */
static void run_model_on(const char *shard) {
    ops_select("cpu", "plain", PREC_F32);
    Config c = config_family_default("gpt2");
    c.V = 300, c.C = 8, c.L = 1, c.H = c.K = 2, c.D = 4, c.F = 16, c.max_pos = 16;
    Model *m = model_new(&c, 1);
    Acts *a = acts_new(m, 1, 8, 8, false, false);
    int32_t tokens[8], targets[8];
    tokens_window(open_one(shard), 1, 0, 8, tokens, targets, NULL);
    forward(m, a, &(Batch){.B = 1, .T = 8, .tokens = tokens, .targets = targets});
}
static void test_shards(void) {
    uint32_t ids[64];
    for (uint32_t i = 0; i < 64; i++) ids[i] = 65535 - i;
    char *p = put_u16("u16.bin", ids, 64);
    Tokens *d = open_one(p);
    CHECK(d->n == 64 && tokens_at(d, 0) == 65535 && tokens_at(d, 63) == 65472, "uint16 ids up to 65535");
    tokens_close(d), free(p);
    for (uint32_t i = 0; i < 64; i++) ids[i] = 200000 + i;
    d = open_one(p = put_u32("u32.bin", ids, 64));
    CHECK(d->n == 64 && tokens_at(d, 63) == 200063, "uint32 ids beyond 65535");
    tokens_close(d), free(p);
    d = open_one(p = put_shard("long.bin", 4, 20240801, 7, 32, ids, 64));
    CHECK(d->n == 32, "bytes after the promised tokens are not read");
    tokens_close(d), free(p);

    CHECK_DIES({ open_one(put_shard("t1.bin", 2, 20240520, 1, 65, ids, 64)); }, "truncated");
    CHECK_DIES({ open_one(put_shard("t2.bin", 4, 20240801, 7, UINT32_MAX, ids, 64)); }, "truncated");
    CHECK_DIES({ open_one(put_shard("t3.bin", 2, 20240520, 1, 0x80000000u, ids, 64)); }, "truncated");
    CHECK_DIES({ open_one(put_shard("m1.bin", 2, 12345, 1, 64, ids, 64)); }, "not a token shard");
    CHECK_DIES({ open_one(put_shard("m2.bin", 2, 20240520, 2, 64, ids, 64)); }, "not a token shard");
    CHECK_DIES({ open_one(put("tiny.bin", "x")); }, "not a token shard");
    CHECK_DIES({ open_one(put("empty.bin", "")); }, "no text in it");
    const char *mixed[] = {put_u16("mix.bin", ids, 64), put("mix.txt", "text")};
    size_t n;
    CHECK_DIES({ tokens_open(mixed, 2, 0, 1, NULL, test_tmpdir()); }, "cannot be mixed");
    CHECK_DIES({ docs_next(docs_open(mixed, 1), &n); }, "a shard of tokens is not text");
    free((char *)mixed[0]), free((char *)mixed[1]);

    /* ids that the model does not have: as an input, as the last target, and the id that is -1 as an int32 */
    static const struct { const char *what; size_t at; uint32_t id; } bad[] = {
        {"a token", 3, 300}, {"the last target", 8, 300}, {"a negative token", 3, UINT32_MAX}};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        for (uint32_t i = 0; i < 64; i++) ids[i] = i;
        ids[bad[k].at] = bad[k].id;
        p = put_u32("ids.bin", ids, 9);
        CHECK_DIES({ run_model_on(p); }, "outside the model's vocabulary of 300");
        free(p);
    }
}

int main(void) {
    common.quiet = true;
    test_permute();
    test_windows();
    test_docs();
    test_cache();
    test_shards();
    return test_end();
}
