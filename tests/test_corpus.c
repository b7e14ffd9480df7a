/* test_corpus.c - the built-in corpus: is it the same everywhere, different throughout, right, and fairly split?
 *
 *     make build/gcc/test_corpus && build/gcc/test_corpus        (about two seconds)
 *
 * The texts themselves need a reader: ./data/corpus --kind story-en | less. What a program can see of them, broken
 * quotes, double blanks, grammar marks left over, is checked here for every document. */
#include "data/corpus_words.h"
#include "tests/test.h"

#include <ctype.h>
#include <time.h>

/* ---- sets of hashes --------------------------------------------------------------------------------------------- */

typedef struct { uint64_t *v; size_t n, cap; } Set;

static void set_add(Set *s, uint64_t x) {
    if (s->n == s->cap) s->v = xrealloc(s->v, size_mul(s->cap = s->cap ? 2 * s->cap : 1024, sizeof *s->v));
    s->v[s->n++] = x;
}
static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
static size_t set_sort(Set *s) { /* returns how many different ones there are */
    size_t distinct = 0;
    if (s->n) qsort(s->v, s->n, sizeof *s->v, compare);
    for (size_t i = 0; i < s->n; i++) distinct += !i || s->v[i] != s->v[i - 1];
    return distinct;
}
static bool set_has(const Set *s, uint64_t x) { return s->n && bsearch(&x, s->v, s->n, sizeof x, compare); }
static void set_free(Set *s) { free(s->v), *s = (Set){0}; }

static uint64_t hash(const char *s, size_t n) { /* FNV-1a */
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3ull;
    return h;
}

/* ---- the same everywhere ---------------------------------------------------------------------------------------- */

static void test_determinism(void) {
    Buf all = {0}, one = {0};
    uint64_t n = 0;
    while (all.len < 1000000) corpus_document(0, CORPUS_TRAIN, CORPUS_ALL, n++, &all);
    uint64_t got = hash(all.data, all.len), want = 0x6b0c7dc3446779d3ull;
    CHECK(got == want, "the first megabyte of seed 0 has hash %016llx (pinned: %016llx; any change of text changes it)",
          (unsigned long long)got, (unsigned long long)want);
    size_t end = all.len; /* backwards: no document depends on one drawn before it */
    bool same = true;
    while (n-- && same) {
        one.len = 0;
        corpus_document(0, CORPUS_TRAIN, CORPUS_ALL, n, &one);
        same = one.len <= end && !memcmp(all.data + end - one.len, one.data, one.len);
        end -= one.len;
    }
    CHECK(same && end == 0, "drawn in the opposite order, every document is the same");
    buf_free(&all), buf_free(&one);

    clock_t start = clock();
    size_t bytes = 0;
    for (uint64_t i = 0; bytes < 10000000; i++) {
        one.len = 0;
        corpus_document(1, CORPUS_TRAIN, CORPUS_ALL, i, &one);
        bytes += one.len;
    }
    double rate = (double)bytes / 1e6 / ((double)(clock() - start) / CLOCKS_PER_SEC);
#if defined __OPTIMIZE__ && !defined __SANITIZE_ADDRESS__
    bool fast = rate >= 50;
#if defined __has_feature
#if __has_feature(address_sanitizer)
    fast = true;
#endif
#endif
    CHECK(fast, "%.0f MB of text a second of processor time (50 wanted)", rate);
#else
    printf("      %.0f MB of text a second of processor time (not judged in this build)\n", rate);
#endif
    buf_free(&one);
}

/* ---- every document is sound ------------------------------------------------------------------------------------ */

static bool valid_utf8(const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n;) {
        int more = s[i] < 0x80 ? 0 : s[i] < 0xC2 ? -1 : s[i] < 0xE0 ? 1 : s[i] < 0xF0 ? 2 : s[i] < 0xF5 ? 3 : -1;
        if (more < 0 || i + (size_t)more >= n) return false;
        for (i++; more--; i++)
            if ((s[i] & 0xC0) != 0x80) return false;
    }
    return true;
}

static int occurrences(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

/* NULL, or what is wrong with the text of a document. */
static const char *flaw(const Buf *doc, CorpusKind kind) {
    static const char *const never[] = {"<", ">", "{", "}", "[", "]", "|", "`", "  ", " .", " ,", "..", "?.", "!.",
                                        "?,", "!,", ",.", ".,", " \n", "\n\n", "。。", "，。", "。，", "？。", "！。", "？，", "！，",
                                        "，，", "的的", "。”。", "！”。", " a a", " an a "};
    if (doc->len < 20 || doc->data[doc->len - 1] != '\n') return "it is too short or does not end with a newline";
    if (!valid_utf8((const uint8_t *)doc->data, doc->len)) return "it is not UTF-8";
    for (int i = 0; i < COUNT(never); i++)
        if (strstr(doc->data, never[i])) return never[i];
    if (kind == CORPUS_STORY_EN && (strstr(doc->data, "\".") || strstr(doc->data, "\",")))
        return "a stop outside its quote";
    if (occurrences(doc->data, "\"") % 2) return "a quote is not closed";
    if (occurrences(doc->data, "“") != occurrences(doc->data, "”")) return "a Chinese quote is not closed";
    const char *last = doc->data + doc->len - 2;
    bool ends = strchr(".!?\"", *last) || (doc->len > 4 && (!memcmp(last - 2, "。", 3) || !memcmp(last - 2, "！", 3) ||
                                                             !memcmp(last - 2, "？", 3) || !memcmp(last - 2, "”", 3)));
    if (kind <= CORPUS_FACTS && !ends) return "its last sentence has no end";
    for (const char *p = doc->data; kind == CORPUS_STORY_EN && *p; p++) {
        bool after_stop = p == doc->data || p[-1] == '\n' ||
                          (p > doc->data + 1 && p[-1] == ' ' && strchr(".!?", p[-2]));
        if (after_stop && islower((uint8_t)*p)) return "a sentence begins small";
    }
    return NULL;
}

static const char *const kind_names[] = {"all", "English stories", "Chinese stories", "facts", "problems", "programs"};

static void test_soundness(void) {
    Buf doc = {0};
    for (int kind = CORPUS_STORY_EN; kind < CORPUS_KINDS; kind++) {
        size_t n = 0, bytes = 0, longest = 0;
        const char *wrong = NULL;
        for (int split = CORPUS_TRAIN; split <= CORPUS_VALID && !wrong; split++)
            for (uint64_t i = 0; i < 5000 && !wrong; i++, n++) {
                doc.len = 0;
                corpus_document(2, (CorpusSplit)split, (CorpusKind)kind, i, &doc);
                wrong = flaw(&doc, (CorpusKind)kind);
                bytes += doc.len;
                if (doc.len > longest) longest = doc.len;
            }
        CHECK(!wrong, "%s: %zu documents of %zu bytes on average, %zu at most, %s%s%s", kind_names[kind], n, bytes / n,
              longest, wrong ? "wrong: " : "sound", wrong ? wrong : "", wrong ? doc.data : "");
    }
    buf_free(&doc);
}

/* ---- no two stories equal, many ways to say it ------------------------------------------------------------------ */

/* The sentences of a skeleton, one hash each: names, nouns, numbers and words of lists are printed as what they are, so
 * two sentences that differ only in those count once. */
static void add_sentences(Set *forms, const char *text, size_t len) {
    static const char *const stops[] = {".", "!", "?", "\n", "。", "！", "？"};
    size_t begin = 0;
    for (size_t i = 0; i < len;) {
        size_t stop = 0;
        for (int k = 0; k < COUNT(stops) && !stop; k++)
            if (!strncmp(text + i, stops[k], strlen(stops[k]))) stop = strlen(stops[k]);
        i += stop ? stop : 1;
        if (!stop) continue;
        if (i - begin > 3) set_add(forms, hash(text + begin, i - begin));
        begin = i + (text[i] == '"') + (text[i] == ' ');
    }
}

/* How many of the names a story knows. A name must be nothing else (圆圆的 is round), or it is copied from the wrong
 * place; and no English line may begin with one, since there it lacks its blank and is another token. */
static int people(const char *text, bool zh, bool *at_line_start) {
    const char *const *names = zh ? names_zh : names_en;
    int n = zh ? COUNT(names_zh) : COUNT(names_en), found = 0;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        bool here = false;
        for (const char *p = text; (p = strstr(p, names[i])); p += len)
            if (zh || !isalpha((uint8_t)p[len])) here = true, *at_line_start |= !zh && (p == text || p[-1] == '\n');
        found += here;
    }
    return found;
}

static void test_variety(void) {
    for (int kind = CORPUS_STORY_EN; kind <= CORPUS_STORY_ZH; kind++) {
        Set stories = {0}, forms = {0};
        Buf doc = {0}, skeleton = {0};
        size_t bytes = 0, nameless = 0, crowded = 0, girls = 0, boys = 0;
        bool at_line_start = false;
        uint64_t keys[CORPUS_KEYS];
        for (uint64_t i = 0; bytes < 10000000; i++) {
            doc.len = skeleton.len = 0;
            corpus_document(3, CORPUS_TRAIN, (CorpusKind)kind, i, &doc);
            corpus_inspect(3, CORPUS_TRAIN, (CorpusKind)kind, i, &skeleton, keys);
            set_add(&stories, hash(doc.data, doc.len));
            add_sentences(&forms, skeleton.data, skeleton.len);
            nameless += !strstr(skeleton.data, "<hero>") ||
                        (!strstr(skeleton.data, "<pal>") && !strstr(skeleton.data, "<elder>"));
            crowded += people(doc.data, kind == CORPUS_STORY_ZH, &at_line_start) !=
                       1 + (strstr(skeleton.data, "<pal>") != NULL);
            girls += strstr(doc.data, kind == CORPUS_STORY_EN ? "girl" : "女孩") != NULL;
            boys += strstr(doc.data, kind == CORPUS_STORY_EN ? "boy" : "男孩") != NULL;
            bytes += doc.len;
        }
        size_t distinct = set_sort(&stories), n_forms = set_sort(&forms);
        CHECK(distinct == stories.n, "%s: %zu of %zu in 10 MB are different", kind_names[kind], distinct, stories.n);
        CHECK(n_forms >= 3000, "%s: %zu sentence forms (3000 wanted) in %zu sentences", kind_names[kind], n_forms,
              forms.n);
        CHECK(!nameless, "%s: every one names both characters, on whom the split depends", kind_names[kind]);
        CHECK(!crowded && !at_line_start, "%s: in %zu a name occurs that is nobody's%s", kind_names[kind], crowded,
              at_line_start ? "; a line begins with a name" : "");
        double share = (double)girls / (double)(girls + boys);
        CHECK(share > 0.47 && share < 0.53, "%s: girls in %zu, boys in %zu", kind_names[kind], girls, boys);
        set_free(&stories), set_free(&forms);
        buf_free(&doc), buf_free(&skeleton);
    }
}

/* ---- the split -------------------------------------------------------------------------------------------------- */

static void collect(uint64_t seed, CorpusSplit split, size_t bytes, Set *keys, Set *docs, Buf *text) {
    uint64_t mine[CORPUS_KEYS];
    for (uint64_t i = 0; text->len < bytes; i++) {
        size_t begin = text->len;
        corpus_document(seed, split, CORPUS_ALL, i, text);
        set_add(docs, hash(text->data + begin, text->len - begin));
        for (int n = corpus_inspect(seed, split, CORPUS_ALL, i, NULL, mine); n--;) set_add(keys, mine[n]);
    }
    set_sort(keys), set_sort(docs);
}

static int missing(const char *text, const char *const *words, int n, Buf *which) {
    int absent = 0;
    for (int i = 0; i < n; i++)
        if (!strstr(text, words[i])) absent++, buf_fmt(which, " %s", words[i]);
    return absent;
}

static void test_split(void) {
    Set train_keys = {0}, train_docs = {0}, valid_keys = {0}, valid_docs = {0};
    Buf train = {0}, valid = {0}, which = {0};
    collect(4, CORPUS_TRAIN, 5000000, &train_keys, &train_docs, &train);
    collect(5, CORPUS_VALID, 500000, &valid_keys, &valid_docs, &valid); /* another seed: the split must not care */
    size_t shared_keys = 0, shared_docs = 0;
    for (size_t i = 0; i < valid_keys.n; i++) shared_keys += set_has(&train_keys, valid_keys.v[i]);
    for (size_t i = 0; i < valid_docs.n; i++) shared_docs += set_has(&train_docs, valid_docs.v[i]);
    CHECK(!shared_keys && valid_keys.n > 500, "%zu of %zu validation combinations occur among %zu of training",
          shared_keys, valid_keys.n, train_keys.n);
    CHECK(!shared_docs && valid_docs.n > 500, "%zu of %zu validation documents occur among %zu of training",
          shared_docs, valid_docs.n, train_docs.n);

    static const struct { const char *const *words; int n; } lists[] = {
        {names_en, COUNT(names_en)}, {elders_en, COUNT(elders_en)}, {kinds_en, COUNT(kinds_en)},
        {names_zh, COUNT(names_zh)}, {elders_zh, COUNT(elders_zh)}, {kinds_zh, COUNT(kinds_zh)}};
    int absent = 0;
    for (int i = 0; i < COUNT(lists); i++) absent += missing(train.data, lists[i].words, lists[i].n, &which);
    for (int i = 0; i < COUNT(things_en); i++) absent += missing(train.data, &things_en[i].name, 1, &which);
    for (int i = 0; i < COUNT(things_zh); i++) absent += missing(train.data, &things_zh[i].name, 1, &which);
    for (int i = 2; i <= 30; i++) {
        char number[16];
        const char *p = number;
        snprintf(number, sizeof number, " %d ", i);
        absent += missing(train.data, &p, 1, &which);
    }
    for (int i = 0; i < COUNT(relations); i++)
        for (int k = 0; k < relations[i].n_pairs; k++) absent += missing(train.data, relations[i].pairs[k], 2, &which);
    CHECK(!absent, "each single name, animal, thing, number and fact is in 5 MB of training%s",
          which.len ? which.data : "");

    /* Held-out problems against everything that training says of problems, by combination and by wording. */
    Set questions = {0};
    size_t seen = 0, n_problems = 500;
    uint64_t keys[CORPUS_KEYS];
    for (char *p = train.data; (p = strstr(p, "\n")); p++) {
        const char *label = !strncmp(p + 1, "Question: ", 10) ? p + 11 : !strncmp(p + 1, "问：", 6) ? p + 7 : NULL;
        if (label) set_add(&questions, hash(label, strcspn(label, "\n")));
    }
    set_sort(&questions);
    for (uint64_t i = 0; i < n_problems; i++) {
        which.len = 0;
        corpus_problem(0, CORPUS_VALID, i, &which);
        const char *q = which.data + strlen("{\"question\":\"");
        int n = corpus_inspect(0, CORPUS_VALID, CORPUS_POT, i, NULL, keys);
        seen += n != 1 || set_has(&train_keys, keys[0]) || set_has(&questions, hash(q, strcspn(q, "\"")));
    }
    CHECK(!seen && questions.n > 5000, "%zu of %zu held-out problems occur among %zu questions of training", seen,
          n_problems, questions.n);
    set_free(&train_keys), set_free(&train_docs), set_free(&valid_keys), set_free(&valid_docs), set_free(&questions);
    buf_free(&train), buf_free(&valid), buf_free(&which);
}

/* ---- a very small Python ---------------------------------------------------------------------------------------- *
 * Lines "name = expression" over + - * // ( ), then "print(answer)". ok turns false on anything else. */

typedef struct { const char *s; bool ok; int n; struct { char name[24]; long value; } vars[8]; } Py;

static void py_blanks(Py *py) { while (*py->s == ' ') py->s++; }
static bool py_take(Py *py, const char *what) {
    py_blanks(py);
    size_t n = strlen(what);
    return !strncmp(py->s, what, n) ? py->s += n, true : false;
}
static size_t py_name(const Py *py) {
    size_t n = 0;
    while (isalpha((uint8_t)py->s[n]) || py->s[n] == '_') n++;
    return n;
}
static long py_sum(Py *py);
static long py_factor(Py *py) {
    long value = 0;
    if (py_take(py, "(")) {
        value = py_sum(py);
        py->ok &= py_take(py, ")");
        return value;
    }
    if (isdigit((uint8_t)*py->s)) {
        while (isdigit((uint8_t)*py->s)) value = value * 10 + (*py->s++ - '0');
        return value;
    }
    size_t n = py_name(py);
    for (int i = 0; i < py->n; i++)
        if (n && strlen(py->vars[i].name) == n && !strncmp(py->vars[i].name, py->s, n))
            return py->s += n, py->vars[i].value;
    py->ok = false; /* a name that was never given a value */
    return 0;
}
static long py_product(Py *py) {
    long value = py_factor(py);
    while (py->ok)
        if (py_take(py, "*")) value *= py_factor(py);
        else if (py_take(py, "//")) {
            long by = py_factor(py);
            py->ok &= by > 0 && value >= 0 && value % by == 0; /* our divisions leave nothing over */
            if (py->ok) value /= by;
        } else break;
    return value;
}
static long py_sum(Py *py) {
    long value = py_product(py);
    while (py->ok)
        if (py_take(py, "+")) value += py_product(py);
        else if (py_take(py, "-")) value -= py_product(py);
        else break;
    return value;
}
static bool py_run(const char *program, long *answer) {
    Py py = {.s = program, .ok = true};
    while (py.ok && py.n < COUNT(py.vars)) {
        size_t n = py_name(&py);
        if (!n || n >= sizeof py.vars[0].name) return false;
        if (n == 5 && !strncmp(py.s, "print", 5)) {
            py.s += n;
            return py_take(&py, "(") && (*answer = py_sum(&py), py.ok) && py_take(&py, ")\n") && !*py.s;
        }
        const char *name = py.s;
        py.s += n;
        py.ok &= py_take(&py, "=");
        long value = py_sum(&py);
        py.ok &= py_take(&py, "\n");
        memcpy(py.vars[py.n].name, name, n), py.vars[py.n++].value = value;
    }
    return false;
}

/* ---- answers and programs are right ----------------------------------------------------------------------------- */

/* Every "a op b = c" of a line of reasoning holds, and the last c is the answer. */
static bool reasoning_right(const char *text, long answer) {
    long a, b, c, last = -1;
    char op;
    for (const char *p = text; *p; p++) {
        if (!isdigit((uint8_t)*p) || (p > text && isdigit((uint8_t)p[-1]))) continue;
        if (sscanf(p, "%ld %c %ld = %ld", &a, &op, &b, &c) != 4) continue;
        bool holds = op == '+' ? a + b == c : op == '-' ? a - b == c : op == '*' ? a * b == c
                     : op == '/' && b && a % b == 0 && a / b == c;
        if (!holds) return false;
        last = c;
    }
    return last == answer;
}

/* The same of a page of sums: nothing but true ones. */
static bool sums_right(const char *text) {
    long a, b, c;
    char op;
    int n = 0, used = 0;
    for (const char *p = strchr(text, ' '); p && *p != '\n'; p += used, n++) {
        if (sscanf(p, " %ld %c %ld = %ld%*1[,.]%n", &a, &op, &b, &c, &used) != 4 || !used) return false;
        if (op == '+' ? a + b != c : op == '-' ? a - b != c : op == '*' ? a * b != c : b * c != a) return false;
    }
    return n >= CORPUS_KEYS;
}

static bool json_field(const char *line, const char *name, char *out, size_t room) {
    char key[32];
    snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *p = strstr(line, key);
    size_t n = 0;
    for (p = p ? p + strlen(key) : ""; *p && *p != '"' && n + 1 < room; p++)
        out[n++] = *p != '\\' ? *p : *++p == 'n' ? '\n' : *p;
    out[n] = 0;
    return *p == '"';
}

static void test_answers(void) {
    Buf line = {0}, script = {0}, expected = {0};
    char question[1024] = "", answer[1024] = "", program[1024] = "";
    bool right = true;
    int n = 0;
    for (; n < 20000 && right; n++) {
        line.len = 0;
        corpus_problem(6, n % 2 ? CORPUS_VALID : CORPUS_TRAIN, (uint64_t)n, &line);
        right = json_field(line.data, "question", question, sizeof question) &&
                json_field(line.data, "answer", answer, sizeof answer) &&
                json_field(line.data, "program", program, sizeof program);
        const char *final = strstr(answer, "#### ");
        long claimed = final ? strtol(final + 5, NULL, 10) : -1, computed = -2;
        right = right && py_run(program, &computed) && claimed == computed && claimed >= 2 &&
                reasoning_right(answer, claimed);
        for (const char *p = question; *p && right; p++) /* the program computes with the question's numbers */
            if (isdigit((uint8_t)*p)) {
                char number[16] = "";
                size_t len = strspn(p, "0123456789");
                memcpy(number, p, len < sizeof number ? len : sizeof number - 1);
                right = strstr(program, number) != NULL;
                p += len - 1;
            }
        if (n < 400) buf_str(&script, program), buf_fmt(&expected, "%ld\n", claimed);
    }
    CHECK(right, "%d problems: reasoning, answer and program agree%s%s", n, right ? "" : "; not in ",
          right ? "" : line.data);
    int pages = 0;
    for (uint64_t i = 0; i < 5000 && right; i++) {
        line.len = 0;
        corpus_document(6, i % 2 ? CORPUS_VALID : CORPUS_TRAIN, CORPUS_MATH, i, &line);
        if (strstr(line.data, "#### ")) continue;
        right = sums_right(line.data), pages++;
    }
    CHECK(right && pages > 1000, "%d pages of sums: all are right%s%s", pages, right ? "" : "; not in ",
          right ? "" : line.data);
    long value;
    CHECK(!py_run("a = 7\nanswer = a // 2\nprint(answer)\n", &value) &&
              !py_run("answer = b\nprint(answer)\n", &value) && !py_run("answer = 3\n", &value) &&
              !reasoning_right("2 + 2 = 5. #### 5", 5) && !sums_right("Sums: 2 + 2 = 5.\n") &&
                  reasoning_right("7 - 3 = 4.", 4),
          "the judges refuse what is wrong");

    if (system("python3 -c 'pass' 2>/dev/null") == 0) {
        char *path = path_join(test_tmpdir(), "programs.py"), *command = strf("python3 '%s'", path);
        char got[8192];
        file_write(path, script.data, script.len);
        FILE *pipe = popen(command, "r");
        size_t len = pipe ? fread(got, 1, sizeof got, pipe) : 0;
        int status = pipe ? pclose(pipe) : -1;
        CHECK(!status && len == expected.len && !memcmp(got, expected.data, len),
              "python3 says the same of 400 programs");
        free(path), free(command);
    } else printf("      no python3 here: programs judged by the small evaluator only\n");
    buf_free(&line), buf_free(&script), buf_free(&expected);
}

/* One question, one answer: facts never contradict each other. */
static void test_facts(void) {
    typedef struct { uint64_t question, answer; } Pair; /* the question first: compare() sorts by it */
    Pair *pairs = NULL;
    Buf doc = {0};
    size_t n = 0, cap = 0, contradictions = 0, questions = 1;
    for (uint64_t i = 0; i < 20000; i++) {
        doc.len = 0;
        corpus_document(7, i % 2 ? CORPUS_VALID : CORPUS_TRAIN, CORPUS_FACTS, i, &doc);
        for (const char *line = doc.data, *next; *line; line = next) {
            next = line + strcspn(line, "\n") + 1;
            if (strncmp(line, "Question: ", 10) && strncmp(line, "问：", 6)) continue;
            if (n == cap) pairs = xrealloc(pairs, size_mul(cap = cap ? 2 * cap : 1024, sizeof *pairs));
            pairs[n++] = (Pair){hash(line, (size_t)(next - line)), hash(next, strcspn(next, "\n"))};
        }
    }
    qsort(pairs, n, sizeof *pairs, compare);
    for (size_t i = 1; i < n; i++) {
        bool same = pairs[i].question == pairs[i - 1].question;
        questions += !same;
        contradictions += same && pairs[i].answer != pairs[i - 1].answer;
    }
    CHECK(!contradictions && questions > 800, "facts: %zu questions, %zu with two answers", questions, contradictions);
    free(pairs);
    buf_free(&doc);
}

/* ---- the mix ---------------------------------------------------------------------------------------------------- */

static void test_mix(void) {
    static const double want[] = {0, 40, 28, 6, 14, 12};
    double bytes[CORPUS_KINDS] = {0}, total = 0;
    Buf doc = {0};
    for (uint64_t i = 0; i < 30000; i++) {
        doc.len = 0;
        corpus_document(8, CORPUS_TRAIN, CORPUS_ALL, i, &doc);
        bool asks = !strncmp(doc.data, "Question: ", 10) || !strncmp(doc.data, "问：", 6);
        bool any = strstr(doc.data, "Question: ") || strstr(doc.data, "\n问：") || asks;
        int kind = strstr(doc.data, "print(answer)") ? CORPUS_POT : strstr(doc.data, "#### ") ||
            strstr(doc.data, " = ") ? CORPUS_MATH
                   : any ? CORPUS_FACTS : strstr(doc.data, "。") ? CORPUS_STORY_ZH : CORPUS_STORY_EN;
        bytes[kind] += (double)doc.len, total += (double)doc.len;
    }
    for (int kind = CORPUS_STORY_EN; kind < CORPUS_KINDS; kind++) {
        double share = 100 * bytes[kind] / total;
        CHECK(fabs(share - want[kind]) < 1, "%s: %.1f%% of the bytes (%.0f%% wanted)", kind_names[kind], share,
              want[kind]);
    }
    buf_free(&doc);
}

int main(void) {
    test_determinism();
    test_soundness();
    test_variety();
    test_split();
    test_answers();
    test_facts();
    test_mix();
    return test_end();
}
