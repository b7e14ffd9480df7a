/* test_common.c - options, files that appear whole, the run log and its report, random numbers.
 * Run: tests/test_common */
#include "../common.h"
#include "test.h"
#include <cjson/cJSON.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static const char *in_tmp(const char *name) {
    static char ring[64][512];
    static int next;
    char *p = ring[next++ % 64];
    snprintf(p, sizeof ring[0], "%s/%s", test_tmpdir(), name);
    return p;
}

static bool file_is(const char *path, const char *want) {
    if (!file_exists(path)) return false;
    char *text = file_read(path, NULL);
    bool same = !strcmp(text, want);
    free(text);
    return same;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */
static void test_json(void) {
    static const struct { const char *text; size_t n; int kinds; const char *message; } bad[] = {
        {"", 0, JSON_OBJECT, "bad.json: not a JSON object: broken in line 1, at byte 0 of 0"},
        {"{\n\"a\": }", 8, JSON_OBJECT, "not a JSON object: broken in line 2, at byte 7 of 8"},
        {"{\"a\":1", 6, JSON_OBJECT, "not a JSON object: broken in line 1"},
        {"{} {}", 5, JSON_OBJECT, "not a JSON object: something follows it in line 1, at byte 3 of 5"},
        {"{}\0{}", 5, JSON_OBJECT, "something follows it in line 1, at byte 2 of 5"},
        {"[1]\nx", 5, JSON_ARRAY, "not a JSON array: something follows it in line 2"},
        {"[1]", 3, JSON_OBJECT, "not a JSON object"}, {"{}", 2, JSON_ARRAY, "not a JSON array"},
        {"1", 1, JSON_OBJECT | JSON_ARRAY, "not a JSON object or array"},
        {"{\"a\":[\"b\\u0000c\"]}", 18, JSON_OBJECT, "bad.json: a string with \\u0000"}};
    const char *path = in_tmp("bad.json");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        file_write(path, bad[i].text, bad[i].n);
        CHECK_DIES({ json_read(path, bad[i].kinds); }, bad[i].message);
    }
    CHECK_DIES({ json_read(in_tmp("absent.json"), JSON_OBJECT); }, "absent.json");
    file_write(path, " {\"a\": \"\\\\u0000\"}\r\n\t ", 20); /* a backslash, and not that escape */
    cJSON *json = json_read(path, JSON_OBJECT);
    CHECK(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(json, "a")), "\\u0000"),
        "json_read: an object between blanks");
    cJSON_Delete(json);
    json = json_parse("[1]xyz", 3, JSON_OBJECT | JSON_ARRAY, "no file");
    CHECK(cJSON_IsArray(json), "json_parse: no byte more than said");
    cJSON_Delete(json);
}

/* ---- options ---------------------------------------------------------------------------------------------------- */
static bool flag, shuffle = true;
static int64_t batch = 8;
static double lr = 3e-4;
static const char *arch = "llama", *out_dir = "out";
static const char *default_data[] = {"corpus"};
static StrList data = {default_data, 1};
static Opt fresh[] = {
    {"Model", OPT_SECTION, NULL, NULL, 0, 0, NULL, NULL, false},
    {"arch", OPT_STR, &arch, "the family", 0, 0, "llama|gpt2", NULL, false},
    {"Run", OPT_SECTION, NULL, NULL, 0, 0, NULL, NULL, false},
    {"batch", OPT_INT, &batch, "rows to a step", 1, 4096, NULL, "b", false},
    {"lr", OPT_FLOAT, &lr, "peak learning rate", 0, 1, NULL, "learning-rate", false},
    {"data", OPT_LIST, &data, "files", 0, 0, NULL, NULL, false},
    {"out", OPT_STR, &out_dir, "where to", 0, 0, NULL, NULL, false},
    {"flag", OPT_FLAG, &flag, "a switch", 0, 0, NULL, NULL, false},
    {"shuffle", OPT_FLAG, &shuffle, "another, on", 0, 0, NULL, NULL, false},
    COMMON_OPTS,
};
enum { N_OPTS = sizeof fresh / sizeof *fresh };
static Opt table[N_OPTS];

static void parse_words(const char *line) { /* in the order of a command line; words split at spaces */
    static char *argv[64], words[64][256]; /* the options keep pointers into the words */
    static int next;
    int argc = 1;
    char *copy = words[next++ % 64];
    snprintf(copy, sizeof words[0], "%s", line);
    argv[0] = "stage";
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    memcpy(table, fresh, sizeof fresh);
    options_parse(argc, argv, 1, "stage - what it does", table, N_OPTS);
}

static void test_options(void) {
    parse_words("");
    CHECK(batch == 8 && !option_given(table, N_OPTS, "batch"), "no words: the defaults stay");
    parse_words("--batch 64 --lr=1e-3 --arch gpt2 --flag --no-shuffle --out=--odd");
    CHECK(batch == 64 && lr == 1e-3 && !strcmp(arch, "gpt2") && flag && !shuffle && !strcmp(out_dir, "--odd"),
          "--key value, --key=value, flags, --no-flag");
    CHECK(option_given(table, N_OPTS, "lr") && !option_given(table, N_OPTS, "data"), "option_given");
    parse_words("--data a b c --batch 2k --data=d");
    CHECK(data.n == 4 && !strcmp(data.v[0], "a") && !strcmp(data.v[3], "d") && batch == 2000, "a list, and 2k");
    parse_words("-b 1.5k --learning-rate 0.5");
    CHECK(batch == 1500 && lr == 0.5, "aliases, and 1.5k");
    parse_words("--seed 9e15 --batch 1e3");
    CHECK(common.seed == 9000000000000000 && batch == 1000, "1e3 and 9e15 are whole numbers");
    common.seed = 42;

    CHECK_USAGE({ parse_words("--bacth 3"); }, "no option --bacth; did you mean --batch?");
    CHECK_USAGE({ parse_words("--zzzzzzz 3"); }, "no option --zzzzzzz (--help");
    CHECK_USAGE({ parse_words("word"); }, "\"word\" is not an option");
    CHECK_USAGE({ parse_words("--batch 12x"); }, "--batch wants a whole number, not \"12x\"");
    CHECK_USAGE({ parse_words("--batch 1.5"); }, "whole number");
    CHECK_USAGE({ parse_words("--batch 0x10"); }, "whole number");
    CHECK_USAGE({ parse_words("--batch="); }, "whole number");
    CHECK_USAGE({ parse_words("--batch nan"); }, "whole number");
    CHECK_USAGE({ parse_words("--batch 99999999999999999999"); }, "whole number");
    CHECK_USAGE({ parse_words("--batch 0"); }, "out of range: 1 to 4096");
    CHECK_USAGE({ parse_words("--batch 4097"); }, "out of range");
    CHECK_USAGE({ parse_words("--batch"); }, "--batch wants a value");
    CHECK_USAGE({ parse_words("--data --batch 1"); }, "--data wants a value");
    CHECK_USAGE({ parse_words("--lr 1e-3x"); }, "--lr wants a number");
    CHECK_USAGE({ parse_words("--lr nan"); }, "--lr wants a number");
    CHECK_USAGE({ parse_words("--lr 2"); }, "out of range: 0 to 1");
    CHECK_USAGE({ parse_words("--arch gpt"); }, "--arch is one of llama|gpt2, not \"gpt\"");
    CHECK_USAGE({ parse_words("--flag=maybe"); }, "true or false");
    CHECK_USAGE({ parse_words("--device tpu"); }, "cpu|cuda");

    const char *path = in_tmp("help");
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        test_in_child = true;
        if (!freopen(path, "w", stdout)) _exit(9);
        batch = 8;
        parse_words("--help");
        _exit(8);
    }
    int status;
    waitpid(pid, &status, 0);
    char *help = file_read(path, NULL);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "--help exits 0");
    CHECK(strstr(help, "\nModel\n") && strstr(help, "\nRun\n") && strstr(help, "\nCommon\n"), "help is grouped");
    CHECK(strstr(help, "--batch N, -b") && strstr(help, "default 8; 1 to 4096"), "help shows alias, default, range");
    CHECK(strstr(help, "llama|gpt2; default "), "help shows choices");
    free(help);
}

/* ---- errors and memory ------------------------------------------------------------------------------------------ */
static void test_errors(void) {
    CHECK_DIES({ die("%s\n\033[31m", "two lines"); }, "tea: two lines ?[31m");
    CHECK_DIES({ size_mul(SIZE_MAX / 2, 3); }, "overflows");
    CHECK_DIES({ xcalloc(SIZE_MAX, 2); }, "overflows");
    CHECK(size_mul(3, 5) == 15, "size_mul");
    Buf b = {0};
    for (int i = 0; i < 1000; i++) buf_fmt(&b, "%d,", i);
    CHECK(b.len == 3890 && !b.data[b.len] && !strncmp(b.data + 3886, "999,", 4), "a buffer grows: %zu bytes", b.len);
    buf_free(&b);
    CHECK(!strcmp(human_count(5.8e6), "5.8M") && !strcmp(human_count(999), "999") && !strcmp(human_count(999600), "1M"),
          "counts: %s %s %s", human_count(5.8e6), human_count(999), human_count(999600));
    CHECK(!strcmp(human_bytes(1.25 * 1024 * 1024 * 1024), "1.25 GiB") && !strcmp(human_bytes(1023), "1023 B"),
          "bytes: %s %s", human_bytes(1.25 * 1024 * 1024 * 1024), human_bytes(1023));
    const char *t1 = human_time(192), *t2 = human_time(3599.7), *t3 = human_time(0.25);
    CHECK(!strcmp(t1, "3m12s") && !strcmp(t2, "1h00m") && !strcmp(t3, "250ms"), "times: %s %s %s", t1, t2, t3);
    b = (Buf){0};
    const char bad[] = "a\"\\\n\x01\xE8\x8C\xB6\xFF\xED\xA0\x80\xC0\xAFz";
    json_escape(&b, bad, sizeof bad - 1);
    const char *want = "a\\\"\\\\\\n\\u0001\xE8\x8C\xB6\xEF\xBF\xBD"
                       "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz";
    CHECK(!strcmp(b.data, want), "json_escape: quotes, controls, invalid UTF-8, surrogates: %s", b.data);
    buf_free(&b);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */
static void test_files(void) {
    const char *path = in_tmp("file");
    file_write(path, "first", 5);
    CHECK(file_is(path, "first"), "file_write, file_read");
    OutFile o = out_open(path);
    out_write(&o, "half", 4);
    CHECK(file_is(path, "first") && file_exists(in_tmp("file.tmp")), "while writing, the old file stands");
    out_close(&o);
    CHECK(file_is(path, "half") && !file_exists(in_tmp("file.tmp")), "after closing, the new one does");
    CHECK(!symlink(path, in_tmp("link")), "a symbolic link");
    file_write(in_tmp("link"), "through", 7);
    struct stat st;
    CHECK(file_is(path, "through") && !lstat(in_tmp("link"), &st) && S_ISLNK(st.st_mode), "a link is written through");
    struct rlimit small = {1000, 1000};
    char *large = xcalloc(10000, 1);
    CHECK_DIES({ setrlimit(RLIMIT_FSIZE, &small); file_write(path, large, 10000); }, "File too large");
    CHECK(file_is(path, "through") && !file_exists(in_tmp("file.tmp")), "a failed write leaves the earlier file alone");
    free(large);
    CHECK_DIES({ file_write("/dev/full", "x", 1); }, "cannot write /dev/full: No space left on device");
    CHECK_DIES({ file_write(in_tmp("absent/file"), "x", 1); }, "No such file or directory");
    CHECK_DIES({ file_write(test_tmpdir(), "x", 1); }, "is a directory");
    CHECK_DIES({ file_read(test_tmpdir(), NULL); }, "is a directory");
    CHECK_DIES({ file_map(in_tmp("absent")); }, "No such file or directory");
    file_write("/dev/null", "x", 1);
    CHECK(!stat("/dev/null", &st) && S_ISCHR(st.st_mode), "writing to /dev/null leaves the device in place");
    file_write(in_tmp("empty"), "", 0);
    Mapped m = file_map(in_tmp("empty"));
    CHECK(m.bytes == 0, "an empty file maps");
    file_unmap(&m);
    m = file_map(path);
    CHECK(m.bytes == 7 && !memcmp(m.data, "through", 7), "file_map");
    file_unmap(&m);
    char *joined = path_join("a/", "b"), *bare = path_join("", "b");
    CHECK(!strcmp(joined, "a/b") && !strcmp(bare, "b"), "path_join: %s %s", joined, bare);
    free(joined), free(bare);
    make_dirs(in_tmp("x/y/z"));
    CHECK(is_dir(in_tmp("x/y/z")), "make_dirs");
    CHECK_DIES({ make_dirs(in_tmp("file/z")); }, "cannot make the directory");
}

static void test_dirs(void) {
    const char *path = in_tmp("deep/model");
    for (int round = 0; round < 2; round++) {
        char *tmp = dir_begin(in_tmp("deep/model/")), text[8];
        char *config = path_join(tmp, "config.json"), *extra = path_join(tmp, round ? "second" : "first");
        snprintf(text, sizeof text, "{%d}", round);
        file_write(config, text, 3);
        file_write(extra, "x", 1);
        if (round) CHECK(file_is(in_tmp("deep/model/config.json"), "{0}"), "until the commit, the old one stands");
        dir_commit(tmp, path);
        free(config), free(extra);
    }
    CHECK(file_is(in_tmp("deep/model/config.json"), "{1}") && file_exists(in_tmp("deep/model/second")) &&
          !file_exists(in_tmp("deep/model/first")), "a directory is replaced whole");
    CHECK(!file_exists(in_tmp("deep/model.tmp")) && !file_exists(in_tmp("deep/model.old")), "and nothing is left over");
    make_dirs(in_tmp("deep/model.tmp/left/over"));
    char *tmp = dir_begin(path);
    CHECK(!file_exists(in_tmp("deep/model.tmp/left")), "a left-over temporary directory is removed first");
    free(tmp);
    make_dirs(in_tmp("home/letters"));
    CHECK_DIES({ dir_begin(in_tmp("home")); }, "holds the directory letters, which would be lost");
    make_dirs(in_tmp("photos"));
    file_write(in_tmp("photos/cat.jpg"), "x", 1);
    CHECK_DIES({ dir_begin(in_tmp("photos")); }, "we did not write it");
    CHECK_DIES({ dir_begin("."); }, "name a directory");
    CHECK_DIES({ dir_begin(in_tmp("photos/cat.jpg")); }, "exists and is not a directory");
    CHECK_DIES({ dir_remove(in_tmp("photos/cat.jpg")); }, "is not a directory");
    CHECK(!symlink(in_tmp("photos"), in_tmp("home/letters/link")), "a link to elsewhere");
    dir_remove(in_tmp("home"));
    dir_remove(in_tmp("home"));
    CHECK(!file_exists(in_tmp("home")) && file_exists(in_tmp("photos/cat.jpg")), "dir_remove follows no link");
}

/* ---- random numbers --------------------------------------------------------------------------------------------- */
static void test_random(void) {
    enum { N = 200000 };
    Rng r = {.seed = 7};
    double sum = 0, squares = 0, fourth = 0, low = 1, high = 0;
    int below[10] = {0};
    for (int i = 0; i < N; i++) {
        double u = rng_uniform(&r);
        low = fmin(low, u), high = fmax(high, u);
        below[rng_below(&r, 10)]++;
        double x = rng_normal(&r);
        sum += x, squares += x * x, fourth += x * x * x * x;
    }
    CHECK(low >= 0 && high < 1 && low < 1e-3 && high > 0.999, "uniform in [0, 1): %g to %g", low, high);
    CHECK(fabs(sum / N) < 0.01 && fabs(squares / N - 1) < 0.02 && fabs(fourth / N - 3) < 0.15,
          "normal: mean %.4f, variance %.4f, fourth moment %.3f", sum / N, squares / N, fourth / N);
    int worst = 0;
    for (int i = 0; i < 10; i++) worst = abs(below[i] - N / 10) > worst ? abs(below[i] - N / 10) : worst;
    CHECK(worst < 600, "below 10: every digit within %d of %d", worst, N / 10);
    Rng a = {7, 0}, b = {7, 0}, other = {8, 0};
    bool same = true, differs = false;
    for (int i = 0; i < 100; i++) {
        uint64_t x = rng_u64(&a);
        same &= x == rng_u64(&b) && x == rng_mix(7, (uint64_t)i);
        differs |= x != rng_u64(&other);
    }
    CHECK(same && differs, "the value depends on seed and counter only");
    Rng n1 = {7, 0}, n2 = {7, 2};
    rng_normal(&n1);
    CHECK(rng_normal(&n1) == rng_normal(&n2), "the second normal is at counter 2: it may be drawn alone");
}

/* ---- signals and progress --------------------------------------------------------------------------------------- */
static void test_signals(void) {
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        catch_signals();
        raise(SIGINT);
        if (!stop_requested) _exit(3);
        raise(SIGINT);
        _exit(4); /* not reached */
    }
    int status;
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT, "the first Ctrl-C asks, the second kills");

    const char *path = in_tmp("progress");
    pid = fork();
    if (!pid) {
        test_in_child = true;
        if (!freopen(path, "w", stderr)) _exit(9);
        Progress p = progress_begin("work", 10);
        for (int i = 1; i <= 10; i++) {
            p.last_s -= 2; /* as if two seconds passed */
            progress_at(&p, i, "loss %.2f", 1.0 / i);
        }
        progress_end(&p, "%d done", 10);
        exit(0);
    }
    waitpid(pid, &status, 0);
    char *text = file_read(path, NULL);
    int lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    CHECK(lines == 4 && !strchr(text, '\r') && !strchr(text, '\033') && strstr(text, "work:  30% loss 0.33 (") &&
          strstr(text, "work: 10 done\n"), "not a terminal: plain lines, one in 5 seconds: %d", lines);
    free(text);
}

/* ---- the log and the report ------------------------------------------------------------------------------------- */
static void test_log(void) {
    const char *dir = in_tmp("run"), *path = in_tmp("run/log.jsonl");
    log_open(dir, -1);
    log_line("start", 0, "\"arch\":\"%s\",\"note\":\"nan and -inf stay in a string, \\\" too: inf\"", "llama");
    for (int i = 1; i <= 5; i++)
        log_line("step", i, "\"loss\":%.5g,\"lr\":%g", i == 2 ? NAN : 5.0 / i, i == 3 ? -INFINITY : 1.0);
    log_line("end", 5, NULL);
    log_close();
    char *text = file_read(path, NULL);
    CHECK(strstr(text, "\"nan and -inf stay in a string, \\\" too: inf\"") && strstr(text, "\"loss\":null,") &&
          strstr(text, "\"lr\":null}") && strstr(text, "{\"event\":\"end\",\"step\":5}\n"),
          "NaN and infinity become null");
    int lines = 0, valid = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *object = cJSON_Parse(line);
        lines++, valid += cJSON_IsObject(object);
        cJSON_Delete(object);
    }
    CHECK(lines == 7 && valid == 7, "every line is JSON: %d of %d", valid, lines);
    free(text);

    FILE *f = fopen(path, "a");
    fputs("{\"event\":\"step\",\"step\":3,\"lo", f); /* killed in mid-write */
    fclose(f);
    log_open(dir, 3);
    log_line("step", 4, "\"loss\":%g", 9.0);
    log_close();
    text = file_read(path, NULL);
    const char *tail = "{\"event\":\"step\",\"step\":3,\"loss\":1.6667,\"lr\":null}\n"
                       "{\"event\":\"step\",\"step\":4,\"loss\":9}\n";
    CHECK(strlen(text) > strlen(tail) && !strcmp(text + strlen(text) - strlen(tail), tail) && !strstr(text, "\"end\""),
          "a resumed run keeps the steps before it, drops the later ones and the half-written line");
    free(text);
    log_open(dir, -1);
    log_close();
    CHECK(file_is(path, ""), "-1 starts afresh");
    log_line("step", 1, NULL);
    CHECK(file_is(path, ""), "without an open log nothing is written");
    struct rlimit small = {100, 100};
    CHECK_DIES(
        {
            log_open(dir, -1);
            setrlimit(RLIMIT_FSIZE, &small);
            for (int i = 0; i < 99; i++) log_line("step", i, NULL);
        },
        "log.jsonl: File too large");
}

static void test_report(void) {
    const char *dir = in_tmp("report"), *page = in_tmp("report/report.html");
    log_open(dir, -1);
    report_write(dir);
    char *html = file_read(page, NULL);
    CHECK(strstr(html, "no steps yet"), "an empty log gives a page that says so");
    free(html);
    log_line("start", 0, "\"stage\":\"train\",\"lr\":%g,\"note\":\"<script>alert(1)</script>\"", 3e-4);
    for (int i = 1; i <= 20000; i++)
        log_line("step", i, "\"loss\":%.5g,\"lr\":1e-3,\"grad_norm\":%g,\"tok_s\":1000", i == 777 ? 99.25 : 2 + 3.0 / i,
                 i == 50 ? NAN : 1.0);
    log_line("eval", 10000, "\"val_loss\":2.5,\"bits_per_byte\":1.25");
    log_line("sample", 20000, "\"prompt\":\"<b>\",\"text\":\"a & b </script>\"");
    log_line("end", 20000, "\"seconds\":12.5");
    log_close();
    double start = now_s();
    report_write(dir);
    double took = now_s() - start;
    size_t len;
    html = file_read(page, &len);
    CHECK(strstr(html, "&lt;script&gt;alert(1)") && strstr(html, "a &amp; b &lt;/script&gt;"), "text is escaped");
    CHECK(!strstr(html, "<script>alert") && !strstr(html, "http://") && !strstr(html, "https://"),
          "nothing of the log is markup, nothing is loaded from elsewhere");
    CHECK(strstr(html, "99.25"), "a spike of one step survives the thinning");
    CHECK(!strstr(html, "nan") || strstr(html, "nan") > strstr(html, "</html>"), "no nan in the page");
    CHECK(len < 600000 && took < 5, "20000 steps make a page of %s in %s", human_bytes((double)len), human_time(took));
    free(html);
}

int main(void) {
    test_json();
    test_options();
    test_errors();
    test_files();
    test_dirs();
    test_random();
    test_signals();
    test_log();
    test_report();
    return test_end();
}
