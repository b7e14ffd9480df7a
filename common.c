/* common.c - the workshop's floor: errors, options, files, random numbers, time, progress, the run log.
 *
 * Nothing here knows what a model is. Three things are worth reading before copying the idea elsewhere:
 *   files    out_open ... out_close: why a crash or a full disk never leaves half a file under its final name
 *   options  one table serves parsing, checking and --help, so the three cannot drift apart
 *   log      a run log that stays valid JSON through NaN losses, kills in mid-write and resumed runs
 *
 * Try it:  make tests/test_common && tests/test_common       (a second)
 *
 * Map:  [common.err] errors and memory   [common.memory] how much there is   [common.opt] options   [common.file] files
 *       [common.rng] random numbers   [common.time] time, progress, signals   [common.log] the run log */
#include "common.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- errors and memory ----------------------------------------------------------------------- [common.err] ---- */

static bool bar_on_screen; /* a progress bar without its newline: the next message must not be glued to it */

static void complain(const char *prefix, const char *fmt, va_list args, const char *suffix) {
    char text[4096];
    vsnprintf(text, sizeof text, fmt, args);
    /* Names out of hostile files end up in messages: no control character reaches the terminal, one line stays one. */
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) *p = *p == '\n' ? ' ' : '?';
        if (*p == 0xC2 && p[1] >= 0x80 && p[1] < 0xA0) p[0] = p[1] = '?'; /* U+0080 to U+009F steer terminals too */
    }
    fflush(stdout); /* results printed so far come before the complaint, even when both go to one file */
    fprintf(stderr, "%stea: %s%s%s\n", bar_on_screen ? "\r\033[K" : "", prefix, text, suffix);
    fflush(stderr);
    bar_on_screen = false;
}

void die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    complain("", fmt, args, "");
    va_end(args);
    exit(1);
}

void die_usage(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    complain("", fmt, args, " (--help shows every option)");
    va_end(args);
    exit(2);
}

void warn(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    complain("warning: ", fmt, args, "");
    va_end(args);
}

void *xmalloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1); /* malloc(0) may be NULL, which would read as failure */
    if (!p) die("out of memory: %zu bytes (%s) were asked for", bytes, human_bytes((double)bytes));
    return p;
}

void *xcalloc(size_t n, size_t size) {
    size_t bytes = size_mul(n, size);
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) die("out of memory: %zu bytes (%s) were asked for", bytes, human_bytes((double)bytes));
    return p;
}

void *xrealloc(void *p, size_t bytes) {
    p = realloc(p, bytes ? bytes : 1);
    if (!p) die("out of memory: %zu bytes (%s) were asked for", bytes, human_bytes((double)bytes));
    return p;
}

char *xstrdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(xmalloc(n), s, n);
}

char *strf(const char *fmt, ...) {
    va_list args;
    char *s;
    va_start(args, fmt);
    if (vasprintf(&s, fmt, args) < 0) die("out of memory while building a string");
    va_end(args);
    return s;
}

size_t size_mul(size_t a, size_t b) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) die("a size overflows: %zu * %zu", a, b);
    return product;
}

static void buf_room(Buf *b, size_t more) {
    if (more >= SIZE_MAX / 2 - b->len) die("a buffer of %zu bytes cannot grow by %zu", b->len, more);
    size_t need = b->len + more + 1;
    if (need <= b->cap) return;
    size_t cap = b->cap * 2 > need ? b->cap * 2 : need; /* doubling: n appends cost O(n) copies in all */
    b->data = xrealloc(b->data, cap < 64 ? 64 : cap);
    b->cap = cap < 64 ? 64 : cap;
}

void buf_add(Buf *b, const void *bytes, size_t n) {
    buf_room(b, n);
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_str(Buf *b, const char *s) { buf_add(b, s, strlen(s)); }

static void buf_vfmt(Buf *b, const char *fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    if (n < 0) die("printf refuses the format \"%s\"", fmt);
    buf_room(b, (size_t)n);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    b->len += (size_t)n;
    va_end(again);
}

void buf_fmt(Buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    buf_vfmt(b, fmt, args);
    va_end(args);
}

void buf_free(Buf *b) {
    free(b->data);
    *b = (Buf){0};
}

/* ---- how much memory there is ------------------------------------------------------------- [common.memory] ---- */

static double file_number(const char *path, const char *key) { /* what stands behind key; NaN: no number, or no file */
    if (!file_exists(path)) return NAN;
    char *text = file_read(path, NULL), *at = strstr(text, key), *end;
    double v = at ? strtod(at + strlen(key), &end) : NAN;
    if (at && end == at + strlen(key)) v = NAN; /* "max" */
    free(text);
    return v;
}
int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}
double memory_now(void) { return 1024 * file_number("/proc/self/status", "VmRSS:"); }
double memory_peak(void) { return 1024 * file_number("/proc/self/status", "VmHWM:"); }
double memory_free(void) {
    double here = 1024 * file_number("/proc/meminfo", "MemAvailable:");
    double limit = file_number("/sys/fs/cgroup/memory.max", ""),
        used = file_number("/sys/fs/cgroup/memory.current", "");
    double cache = file_number("/sys/fs/cgroup/memory.stat", "\nfile ");
    if (isfinite(limit) && isfinite(used)) {
        double rest = limit - used + (isfinite(cache) ? cache : 0);
        if (!(rest > here)) here = rest;
    }
    return here;
}
double memory_plan(const MemoryPart *part, int n, bool on_host, const char *advice) {
    double need = 0, there = on_host ? memory_free() + memory_now() : NAN;
    Buf text = {0};
    for (int i = 0; i < n; i++) {
        if (!(part[i].bytes > 0)) continue;
        buf_fmt(&text, "%s%s %s", text.len ? ", " : "", part[i].what, human_bytes(part[i].bytes));
        need += part[i].bytes;
    }
    if (!common.quiet)
        fprintf(stderr, "memory   %s: %s%s%s\n", human_bytes(need), text.len ? text.data : "",
                isfinite(there) ? "; there is " : "", isfinite(there) ? human_bytes(there) : "");
    buf_free(&text);
    if (advice && need > there)
        die("this run needs %s of memory and %s are free: %s", human_bytes(need), human_bytes(there), advice);
    return need;
}

/* ---- options --------------------------------------------------------------------------------- [common.opt] ---- */

CommonOpts common = {.device = "cpu", .isa = "auto", .threads = 0, .seed = 42, .quiet = false};

/* Levenshtein distance, for "did you mean". Names are short; a row on the stack is enough. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 64 };
    int row[LONGEST + 1], n_b = (int)strlen(b);
    if (n_b > LONGEST) return INT_MAX;
    for (int j = 0; j <= n_b; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n_b];
}

static Opt *option_find(Opt *table, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (table[i].kind == OPT_SECTION) continue;
        if (!strcmp(table[i].name, name) || (table[i].alias && !strcmp(table[i].alias, name))) return &table[i];
    }
    return NULL;
}

static const char *option_nearest(const Opt *table, int n, const char *name) {
    const char *best = NULL;
    int best_distance = (int)strlen(name) / 2 + 1; /* further away than half the word is not a typing slip */
    for (int i = 0; i < n; i++) {
        if (table[i].kind == OPT_SECTION) continue;
        int d = edit_distance(name, table[i].name);
        if (d < best_distance) best = table[i].name, best_distance = d;
    }
    return best;
}

static bool among_choices(const char *choices, const char *word) {
    size_t n = strlen(word);
    for (const char *p = choices;; p++) {
        size_t len = strcspn(p, "|");
        if (len == n && !memcmp(p, word, n)) return true;
        p += len;
        if (!*p) return false;
    }
}

/* 4096, 4k, 1.5M, 1e6: anything whose value is a whole number; k, M, G are powers of 1000. Refused: 12x, 1.5, "". */
static bool parse_int(const char *s, int64_t *out) {
    char *end;
    if (!*s || isspace((unsigned char)*s)) return false;
    errno = 0;
    long long whole = strtoll(s, &end, 10);
    if (end > s && !*end && !errno) return *out = whole, true;
    if (strpbrk(s, "xXnN")) return false; /* strtod would take hexadecimal, nan and inf */
    double value = strtod(s, &end);
    if (end == s) return false;
    if (*end == 'k' || *end == 'K') value *= 1e3, end++;
    else if (*end == 'M') value *= 1e6, end++;
    else if (*end == 'G') value *= 1e9, end++;
    if (*end || !(fabs(value) <= 0x1p53) || value != floor(value)) return false; /* exact in a double, or not at all */
    *out = (int64_t)value;
    return true;
}

static bool parse_float(const char *s, double *out) {
    char *end;
    if (!*s || isspace((unsigned char)*s)) return false;
    *out = strtod(s, &end);
    return !*end && isfinite(*out);
}

static void check_range(const Opt *o, double value, const char *word) {
    if (o->min == 0 && o->max == 0) return;
    if (!(value >= o->min && value <= o->max))
        die_usage("--%s %s is out of range: %.15g to %.15g", o->name, word, o->min, o->max);
}

static void option_set(Opt *o, const char *word) {
    switch (o->kind) {
    case OPT_FLAG:
        if (!strcmp(word, "true") || !strcmp(word, "1")) *(bool *)o->value = true;
        else if (!strcmp(word, "false") || !strcmp(word, "0")) *(bool *)o->value = false;
        else die_usage("--%s is true or false, not \"%s\"", o->name, word);
        break;
    case OPT_INT:
        if (!parse_int(word, o->value)) die_usage("--%s wants a whole number, not \"%s\"", o->name, word);
        check_range(o, (double)*(int64_t *)o->value, word);
        break;
    case OPT_FLOAT:
        if (!parse_float(word, o->value)) die_usage("--%s wants a number, not \"%s\"", o->name, word);
        check_range(o, *(double *)o->value, word);
        break;
    case OPT_STR:
        if (o->choices && !among_choices(o->choices, word))
            die_usage("--%s is one of %s, not \"%s\"", o->name, o->choices, word);
        *(const char **)o->value = word;
        break;
    case OPT_LIST: {
        StrList *list = o->value;
        if (o->choices && !among_choices(o->choices, word))
            die_usage("--%s takes words among %s, not \"%s\"", o->name, o->choices, word);
        /* The default may be a constant array, so the first word given starts a list of our own. */
        const char **grown = xmalloc(sizeof *grown * (size_t)(o->given ? list->n + 1 : 1));
        if (o->given) {
            memcpy(grown, list->v, sizeof *grown * (size_t)list->n);
            free(list->v);
        }
        list->n = o->given ? list->n + 1 : 1;
        list->v = grown;
        list->v[list->n - 1] = word;
        break;
    }
    case OPT_SECTION: break;
    }
    o->given = true;
}

/* " (a|b|c; default x; 1 to 9)": what a reader needs to choose a value. */
static void help_facts(const Opt *o, Buf *b) {
    Buf facts = {0};
    if (o->choices) buf_str(&facts, o->choices);
    const char *sep = facts.len ? "; default " : "default ";
    switch (o->kind) {
    case OPT_FLAG: if (*(bool *)o->value) buf_fmt(&facts, "%son; --no-%s", sep, o->name); break;
    case OPT_INT: buf_fmt(&facts, "%s%lld", sep, (long long)*(int64_t *)o->value); break;
    case OPT_FLOAT: buf_fmt(&facts, "%s%.6g", sep, *(double *)o->value); break;
    case OPT_STR: {
        const char *word = *(const char **)o->value;
        if (word && *word) buf_fmt(&facts, "%s%s", sep, word);
        break;
    }
    case OPT_LIST: {
        const StrList *list = o->value;
        for (int i = 0; i < list->n; i++) buf_fmt(&facts, "%s%s", i ? " " : sep, list->v[i]);
        break;
    }
    case OPT_SECTION: break;
    }
    if ((o->kind == OPT_INT || o->kind == OPT_FLOAT) && (o->min != 0 || o->max != 0))
        buf_fmt(&facts, "; %.15g to %.15g", o->min, o->max);
    if (facts.len) buf_fmt(b, " (%s)", facts.data);
    buf_free(&facts);
}

static void options_help(const char *about, const Opt *table, int n) {
    enum { HELP_COLUMN = 26, LINE = 120 };
    static const char *const placeholder[] = {
        [OPT_FLAG] = "", [OPT_INT] = " N", [OPT_FLOAT] = " X", [OPT_STR] = " S", [OPT_LIST] = " S..."};
    printf("%s\n", about);
    if (n && table[0].kind != OPT_SECTION) printf("\n");
    for (int i = 0; i < n; i++) {
        const Opt *o = &table[i];
        if (o->kind == OPT_SECTION) {
            printf("\n%s\n", o->name);
            continue;
        }
        int column = printf("  --%s%s", o->name, placeholder[o->kind]);
        if (o->alias) column += printf(", %s%s", o->alias[1] ? "--" : "-", o->alias);
        if (column > HELP_COLUMN - 2) column = 0, printf("\n");
        printf("%*s", HELP_COLUMN - column, "");
        Buf text = {0};
        buf_str(&text, o->help ? o->help : "");
        help_facts(o, &text);
        column = HELP_COLUMN;
        for (char *word = text.data; word && *word;) { /* wrapped between words */
            int len = (int)strcspn(word, " ");
            if (column > HELP_COLUMN && column + 1 + len > LINE) column = HELP_COLUMN, printf("\n%*s", HELP_COLUMN, "");
            column += printf("%s%.*s", column > HELP_COLUMN ? " " : "", len, word);
            word += len + (word[len] == ' ');
        }
        printf("\n");
        buf_free(&text);
    }
    printf("\n  --help shows this. --key value and --key=value are the same; whole numbers may end in k, M or G.\n");
}

void options_parse(int argc, char **argv, int first, const char *about, Opt *table, int n) {
    for (int i = first; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            options_help(about, table, n); /* before parsing, so that the values printed are the defaults */
            if (fflush(stdout)) die("stdout: %s", strerror(errno));
            exit(0);
        }
    for (int i = first; i < argc;) {
        const char *arg = argv[i++];
        int dashes = !strncmp(arg, "--", 2) ? 2 : arg[0] == '-' && arg[1] && !arg[2] ? 1 : 0;
        if (!dashes || !arg[dashes]) die_usage("\"%s\" is not an option", arg);
        const char *equals = strchr(arg, '=');
        char *name = xstrdup(arg + dashes);
        if (equals) name[equals - arg - dashes] = 0;
        Opt *o = option_find(table, n, name);
        if (!o && !strncmp(name, "no-", 3) && !equals) { /* --no-quiet */
            o = option_find(table, n, name + 3);
            if (o && o->kind == OPT_FLAG) {
                option_set(o, "false");
                free(name);
                continue;
            }
            o = NULL;
        }
        if (!o) {
            const char *near = option_nearest(table, n, name);
            if (near) die_usage("there is no option --%s; did you mean --%s?", name, near);
            die_usage("there is no option --%s", name);
        }
        free(name);
        if (o->kind == OPT_FLAG && !equals) {
            option_set(o, "true");
            continue;
        }
        /* A value may begin with one dash (-1, or - for stdin); one with two is the next option unless = ties it. */
        if (equals) option_set(o, equals + 1);
        else if (i < argc && strncmp(argv[i], "--", 2)) option_set(o, argv[i++]);
        else die_usage("--%s wants a value", o->name);
        if (o->kind == OPT_LIST)
            while (i < argc && strncmp(argv[i], "--", 2)) option_set(o, argv[i++]);
    }
#ifdef _OPENMP
    if (common.threads > 0) omp_set_num_threads((int)common.threads);
#endif
}

bool option_given(const Opt *table, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (table[i].kind != OPT_SECTION && !strcmp(table[i].name, name)) return table[i].given;
    return false;
}

/* ---- files ---------------------------------------------------------------------------------- [common.file] ---- */

/* Without O_NONBLOCK, opening a named pipe waits for somebody to write into it, for ever if need be. */
static int file_open(const char *path, struct stat *st) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st)) die("%s: %s", path, strerror(errno));
    if (S_ISDIR(st->st_mode)) die("%s is a directory; a file is wanted", path);
    return fd;
}

Mapped file_map(const char *path) {
    struct stat st;
    int fd = file_open(path, &st);
    if (!S_ISREG(st.st_mode)) die("%s is not a regular file and cannot be mapped", path);
    Mapped m = {.data = (const uint8_t *)"", .bytes = (size_t)st.st_size, .path = xstrdup(path)};
    if (m.bytes) { /* mmap refuses zero bytes */
        void *p = mmap(NULL, m.bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) die("%s: cannot map %zu bytes: %s", path, m.bytes, strerror(errno));
        m.data = p;
    }
    close(fd); /* the mapping keeps the file */
    return m;
}

void file_unmap(Mapped *m) {
    if (m->bytes) munmap((void *)(uintptr_t)m->data, m->bytes);
    free(m->path);
    *m = (Mapped){0};
}

char *file_read(const char *path, size_t *len) {
    enum { READ_MAX = 1 << 30, WRITER_MS = 1000 };
    struct stat st;
    int fd = file_open(path, &st), waited_ms = 0;
    bool pipe = S_ISFIFO(st.st_mode);
    if (!pipe && !S_ISREG(st.st_mode)) die("%s is a device or a socket; a file is wanted", path); /* some never end */
    if (st.st_size > READ_MAX) die("%s: %s; at most %s are read at once", path, human_bytes((double)st.st_size),
                                   human_bytes(READ_MAX));
    Buf b = {0};
    buf_room(&b, S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 1 << 16); /* a guess: pipes and /proc have no size */
    for (;;) {
        if (b.cap - b.len < 2) buf_room(&b, b.cap);
        ssize_t got = read(fd, b.data + b.len, b.cap - b.len - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN && !fcntl(fd, F_SETFL, 0)) continue; /* a pipe with a writer: it will end */
        if (got < 0) die("%s: %s", path, strerror(errno));
        if (got == 0 && pipe && !b.len && waited_ms < WRITER_MS) { /* nobody writes yet */
            usleep(10000);
            waited_ms += 10;
            continue;
        }
        if (got == 0) break;
        b.len += (size_t)got;
        if (b.len > READ_MAX) die("%s goes on after %s", path, human_bytes(READ_MAX));
    }
    close(fd);
    b.data[b.len] = 0;
    if (len) *len = b.len;
    return b.data;
}

cJSON *json_parse(const char *text, size_t n, int kinds, const char *path) {
    static const char *const wanted[] = {"", "a JSON object", "a JSON array", "a JSON object or array"};
    const char *at = NULL, *end = text + n;
    cJSON *json = cJSON_ParseWithLengthOpts(text, n, &at, false);
    if (!at) at = text; /* nothing there: cJSON does not say where */
    while (json && at < end && *at && strchr(" \t\r\n", *at)) at++;
    if (!json || at != end) {
        size_t line = 1;
        for (const char *p = text; p < at; p++) line += *p == '\n';
        die("%s: not %s: %s in line %zu, at byte %zu of %zu", path, wanted[kinds],
            json ? "something follows it" : "broken", line, (size_t)(at - text), n);
    }
    if (!(kinds & JSON_OBJECT && cJSON_IsObject(json)) && !(kinds & JSON_ARRAY && cJSON_IsArray(json)))
        die("%s: not %s", path, wanted[kinds]);
    for (const char *p = text; (p = memchr(p, '\\', (size_t)(end - p))); p += 2) /* in JSON, only strings have one */
        if (end - p >= 6 && !memcmp(p, "\\u0000", 6)) die("%s: a string with \\u0000 in it is not supported", path);
    return json;
}

cJSON *json_read(const char *path, int kinds) {
    size_t n;
    char *text = file_read(path, &n);
    cJSON *json = json_parse(text, n, kinds, path);
    free(text);
    return json;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool is_dir(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

void make_dirs(const char *path) {
    char *p = xstrdup(path);
    for (size_t i = 1; *p; i++) {
        char c = p[i];
        if (c && c != '/') continue;
        p[i] = 0;
        if (mkdir(p, 0777) && !is_dir(p))
            die("cannot make the directory %s: %s", p, errno == EEXIST ? "a file has that name" : strerror(errno));
        p[i] = c;
        if (!c) break;
    }
    free(p);
}

char *path_join(const char *dir, const char *name) {
    size_t n = strlen(dir);
    return strf("%s%s%s", dir, n && dir[n - 1] != '/' ? "/" : "", name);
}

/* A rename lives in the directory, not in the file: without this it may be gone after a power cut. Some file systems
 * refuse to sync a directory (EINVAL) and need no telling; a failed sync of the data itself has died earlier. */
static void sync_parent(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir = !slash ? xstrdup(".") : slash == path ? xstrdup("/") : strndup(path, (size_t)(slash - path));
    int fd = open(dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) fsync(fd), close(fd);
    free(dir);
}

_Noreturn static void out_fail(OutFile *o, int err) {
    if (o->f) fclose(o->f);
    if (o->tmp) unlink(o->tmp);
    die("cannot write %s: %s", o->path, strerror(err));
}

OutFile out_open(const char *path) {
    signal(SIGXFSZ, SIG_IGN); /* over a file size limit, write() then fails with EFBIG instead of killing us */
    OutFile o = {0};
    struct stat st;
    bool exists = !stat(path, &st);
    if (exists && S_ISDIR(st.st_mode)) die("cannot write %s: it is a directory", path);
    /* A link keeps pointing where it did: the file behind it is replaced. */
    char *target = exists ? realpath(path, NULL) : NULL;
    o.path = target ? target : xstrdup(path);
    /* Renaming over /dev/stdout or a pipe would replace the device itself: such paths are written in place. */
    if (!exists || S_ISREG(st.st_mode)) o.tmp = strf("%s.tmp", o.path);
    o.f = fopen(o.tmp ? o.tmp : o.path, "wb");
    if (!o.f) die("cannot write %s: %s", o.path, strerror(errno));
    return o;
}

void out_by_huge_pages(OutFile *o) {
    enum { HUGE_PAGE = 2 << 20 };
    setvbuf(o->f, o->buffer = xmalloc(HUGE_PAGE), _IOFBF, HUGE_PAGE);
}

void out_write(OutFile *o, const void *bytes, size_t n) {
    if (n && fwrite(bytes, 1, n, o->f) != n) out_fail(o, errno);
    o->at += n;
}

void out_seek(OutFile *o, size_t at) {
    if (at == o->at) return;                             /* seeking writes what is left of a page */
    if (fseeko(o->f, (off_t)at, SEEK_SET)) out_fail(o, errno);
    o->at = at;
}

void out_close(OutFile *o) {
    if (fflush(o->f)) out_fail(o, errno);
    if (o->tmp && fsync(fileno(o->f))) out_fail(o, errno);
    FILE *f = o->f;
    o->f = NULL;
    if (fclose(f)) out_fail(o, errno);
    if (o->tmp) {
        if (rename(o->tmp, o->path)) out_fail(o, errno);
        sync_parent(o->path);
    }
    free(o->path);
    free(o->tmp);
    free(o->buffer);
    *o = (OutFile){0};
}

void file_write(const char *path, const void *bytes, size_t n) {
    OutFile o = out_open(path);
    out_write(&o, bytes, n);
    out_close(&o);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where) {
    (void)st, (void)type, (void)where;
    if (remove(path) && errno != ENOENT) die("cannot remove %s: %s", path, strerror(errno));
    return 0;
}

void dir_remove(const char *path) {
    struct stat st;
    if (lstat(path, &st)) return;
    if (!S_ISDIR(st.st_mode)) die("cannot remove %s: it is not a directory", path);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* PHYS: a link is removed, never followed */
}

static char *without_slashes(const char *path) {
    char *p = xstrdup(path);
    for (size_t n = strlen(p); n > 1 && p[n - 1] == '/'; n--) p[n - 1] = 0;
    return p;
}

/* dir_commit deletes what it replaces, and --out may name anything: --out ~/Documents must not cost a person's files.
 * What we write is flat and holds a .json; only such a directory, or an empty one, is replaced. */
static void check_replaceable(const char *path) {
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
    if (!*last || !strcmp(last, ".") || !strcmp(last, "..")) die("%s cannot be replaced: name a directory", path);
    if (!file_exists(path)) return;
    if (!is_dir(path)) die("%s exists and is not a directory", path);
    DIR *d = opendir(path);
    if (!d) die("%s: %s", path, strerror(errno));
    bool empty = true, ours = false;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *inner = path_join(path, e->d_name);
        if (is_dir(inner)) die("%s holds the directory %s, which would be lost: choose another name", path, e->d_name);
        free(inner);
        size_t n = strlen(e->d_name);
        empty = false;
        ours |= n > 5 && !strcmp(e->d_name + n - 5, ".json");
    }
    closedir(d);
    if (!empty && !ours) die("%s holds files but no .json, so we did not write it: choose another name", path);
}

char *dir_begin(const char *path) {
    char *p = without_slashes(path), *slash = strrchr(p, '/');
    check_replaceable(p);
    if (slash && slash != p) {
        *slash = 0;
        make_dirs(p);
        *slash = '/';
    }
    char *tmp = strf("%s.tmp", p);
    dir_remove(tmp); /* left over from a run that was killed */
    if (mkdir(tmp, 0777)) die("cannot make the directory %s: %s", tmp, strerror(errno));
    free(p);
    return tmp;
}

static int sync_one(const char *path, const struct stat *st, int type, struct FTW *where) {
    (void)st, (void)where;
    if (type != FTW_F && type != FTW_D && type != FTW_DP) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) && errno != EINVAL)) die("cannot write %s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

/* At every instant either the old directory or the new one is whole on disk, under path or, between the two renames,
 * under path.old and path.tmp. */
void dir_commit(char *tmp, const char *path) {
    char *p = without_slashes(path), *old = strf("%s.old", p);
    check_replaceable(p);
    nftw(tmp, sync_one, 16, FTW_DEPTH | FTW_PHYS);
    if (file_exists(p)) {
        dir_remove(old); /* only now: while p is missing, a left-over p.old is the last good copy */
        if (rename(p, old)) die("cannot rename %s to %s: %s", p, old, strerror(errno));
    }
    if (rename(tmp, p)) die("cannot rename %s to %s: %s", tmp, p, strerror(errno));
    sync_parent(p);
    dir_remove(old);
    free(tmp);
    free(old);
    free(p);
}

/* ---- random numbers -------------------------------------------------------------------------- [common.rng] ---- */

/* Box and Muller (1958). Two draws make one number; the second of the pair is thrown away so that the n-th normal of
 * a seed depends on n alone. */
double rng_normal(Rng *r) {
    double u = 1 - rng_uniform(r); /* (0, 1]: log never sees zero */
    double v = rng_uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586477 * v);
}

/* ---- time, progress, signals ---------------------------------------------------------------- [common.time] ---- */

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* wall time may jump when the clock is set */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Eight strings alive at once: enough for any one printf, and nobody has to free them. */
static char *ring_slot(size_t *bytes) {
    static _Thread_local char ring[8][32];
    static _Thread_local unsigned next;
    *bytes = sizeof ring[0];
    return ring[next++ % 8];
}

static char *scaled(double x, double step, const char *const *units, int n_units) {
    size_t bytes;
    char *s = ring_slot(&bytes);
    int u = 0;
    double magnitude = fabs(x);
    /* 999.5 would print as "1000": the next unit begins where rounding does. */
    while (magnitude >= (u ? 0.9995 : 1.0) * step && u + 1 < n_units) magnitude /= step, u++;
    if (!isfinite(x)) snprintf(s, bytes, "%g", x);
    else if (u == 0) snprintf(s, bytes, x == round(x) ? "%.0f%s" : "%.3g%s", x, units[0]);
    else snprintf(s, bytes, "%s%.3g%s", x < 0 ? "-" : "", magnitude < 999.5 ? magnitude : round(magnitude), units[u]);
    return s;
}

char *human_count(double n) {
    static const char *const units[] = {"", "k", "M", "B", "T"};
    return scaled(n, 1000, units, 5);
}

char *human_bytes(double n) {
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    return scaled(n, 1024, units, 5);
}

char *human_time(double s) {
    size_t bytes;
    char *text = ring_slot(&bytes);
    if (!isfinite(s) || fabs(s) > 1e12) snprintf(text, bytes, "?");
    else if (s < 0.9995) snprintf(text, bytes, "%.0fms", s * 1e3);
    else if (s < 9.95) snprintf(text, bytes, "%.1fs", s);
    else if (s < 59.5) snprintf(text, bytes, "%.0fs", s);
    else {
        long long whole = llround(s);
        if (whole < 3600) snprintf(text, bytes, "%lldm%02llds", whole / 60, whole % 60);
        else if (whole < 48 * 3600) snprintf(text, bytes, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
        else snprintf(text, bytes, "%lldd%02lldh", whole / 86400, whole / 3600 % 24);
    }
    return text;
}

Progress progress_begin(const char *what, double total) {
    double now = now_s();
    return (Progress){.what = what, .total = total, .start_s = now, .last_s = now, .tty = isatty(STDERR_FILENO) == 1,
                      .first_done = -1};
}

static int terminal_columns(void) {
    struct winsize size;
    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col > 20 ? size.ws_col : 80;
}

void progress_at(Progress *p, double done, const char *fmt, ...) {
    enum { BAR_CELLS = 20 };
    double now = now_s();
    /* Speed is measured from the first call on: a resumed run begins at step 5000, not with 5000 steps in no time. */
    bool first = p->first_done < 0;
    if (first) p->first_done = done, p->start_s = now;
    if (common.quiet || (!(p->tty && first) && now - p->last_s < (p->tty ? 0.1 : 5.0))) return;
    p->last_s = now;

    Buf line = {0};
    double share = p->total > 0 ? fmin(1, fmax(0, done / p->total)) : 0;
    if (p->total <= 0) buf_fmt(&line, "%s %s", p->what, human_count(done));
    else if (p->tty) {
        int full = (int)(share * BAR_CELLS);
        buf_fmt(&line, "%s [%.*s%s%*s] %3.0f%%", p->what, full, "====================", full < BAR_CELLS ? ">" : "",
                full < BAR_CELLS ? BAR_CELLS - 1 - full : 0, "", floor(share * 100));
    } else buf_fmt(&line, "%s: %3.0f%%", p->what, floor(share * 100));
    if (fmt && *fmt) {
        va_list args;
        va_start(args, fmt);
        buf_str(&line, " ");
        buf_vfmt(&line, fmt, args);
        va_end(args);
    }
    double covered = done - p->first_done;
    if (covered > 0 && share < 1 && p->total > 0)
        buf_fmt(&line, " (%s left)", human_time((now - p->start_s) * (p->total - done) / covered));
    if (p->tty) {
        /* A line longer than the terminal would wrap, and \r would then redraw only its tail. */
        size_t keep = line.len, columns = (size_t)terminal_columns() - 1;
        if (keep > columns)
            for (keep = columns; keep && ((unsigned char)line.data[keep] & 0xC0) == 0x80;) keep--; /* whole UTF-8 */
        fprintf(stderr, "\r%.*s\033[K", (int)keep, line.data);
        bar_on_screen = true;
    } else fprintf(stderr, "%s\n", line.data);
    fflush(stderr);
    buf_free(&line);
}

void progress_end(Progress *p, const char *fmt, ...) {
    if (common.quiet) return;
    if (bar_on_screen) fputs("\r\033[K", stderr);
    bar_on_screen = false;
    if (fmt && *fmt) {
        va_list args;
        va_start(args, fmt);
        fprintf(stderr, "%s: ", p->what);
        vfprintf(stderr, fmt, args);
        fputc('\n', stderr);
        va_end(args);
    }
    fflush(stderr);
}

volatile int stop_requested;

static void on_signal(int number) {
    (void)number;
    stop_requested = 1;
    signal(SIGINT, SIG_DFL); /* the second Ctrl-C kills: never trap a person in a loop that does not look */
    signal(SIGTERM, SIG_DFL);
}

void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: a prompt that waits for input returns */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* ---- the run log ----------------------------------------------------------------------------- [common.log] ---- */

static struct { FILE *f; char *path; } run_log;

void json_escape(Buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') buf_fmt(out, "\\%c", c), i++;
        else if (c == '\n') buf_str(out, "\\n"), i++;
        else if (c == '\t') buf_str(out, "\\t"), i++;
        else if (c == '\r') buf_str(out, "\\r"), i++;
        else if (c < 0x20 || c == 0x7f) buf_fmt(out, "\\u%04x", c), i++;
        else if (c < 0x80) buf_add(out, s + i, 1), i++;
        else { /* the well-formed sequences of the Unicode Standard, table 3-7: no surrogates, nothing over-long */
            size_t len = c >= 0xC2 && c <= 0xDF ? 2 : c >= 0xE0 && c <= 0xEF ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
            bool good = len && i + len <= n;
            for (size_t j = 1; good && j < len; j++) good = ((unsigned char)s[i + j] & 0xC0) == 0x80;
            unsigned char d = good ? (unsigned char)s[i + 1] : 0;
            good &= !(c == 0xE0 && d < 0xA0) && !(c == 0xED && d > 0x9F) && !(c == 0xF0 && d < 0x90) &&
                    !(c == 0xF4 && d > 0x8F);
            buf_add(out, good ? s + i : "\xEF\xBF\xBD", good ? len : 3);
            i += good ? len : 1;
        }
    }
}

/* printf writes nan, -inf...; JSON has no such numbers. Outside strings they become null. */
static void add_without_nan(Buf *out, const char *s) {
    bool in_string = false;
    for (const char *p = s; *p; p++) {
        if (in_string) {
            buf_add(out, p, 1);
            if (*p == '\\' && p[1]) buf_add(out, ++p, 1);
            else if (*p == '"') in_string = false;
            continue;
        }
        const char *word = p + (*p == '-' || *p == '+');
        size_t len = !strncasecmp(word, "infinity", 8) ? 8
                   : !strncasecmp(word, "nan", 3) || !strncasecmp(word, "inf", 3) ? 3 : 0;
        if (len) {
            buf_str(out, "null");
            p = word + len - 1;
            continue;
        }
        in_string = *p == '"';
        buf_add(out, p, 1);
    }
}

void log_open(const char *dir, int64_t keep_through_step) {
    log_close();
    make_dirs(dir);
    char *path = path_join(dir, "log.jsonl");
    if (keep_through_step >= 0 && file_exists(path)) {
        char *text = file_read(path, NULL);
        OutFile out = out_open(path);
        for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) { /* no newline: half-written, lost */
            *end = 0;
            cJSON *object = cJSON_Parse(line);
            const cJSON *step = cJSON_GetObjectItemCaseSensitive(object, "step");
            if (cJSON_IsObject(object) && (!step || (cJSON_IsNumber(step) &&
                                                     step->valuedouble <= (double)keep_through_step))) {
                *end = '\n';
                out_write(&out, line, (size_t)(end - line) + 1);
            }
            cJSON_Delete(object);
        }
        out_close(&out);
        free(text);
    } else file_write(path, "", 0);
    run_log.f = fopen(path, "ab");
    if (!run_log.f) die("cannot write %s: %s", path, strerror(errno));
    run_log.path = path;
}

/* Without log_open there is no log, and nothing is written: a library function may log without asking. */
void log_line(const char *event, int64_t step, const char *json_fields_fmt, ...) {
    if (!run_log.f) return;
    Buf fields = {0}, line = {0};
    va_list args;
    va_start(args, json_fields_fmt);
    if (json_fields_fmt) buf_vfmt(&fields, json_fields_fmt, args);
    va_end(args);
    buf_fmt(&line, "{\"event\":\"%s\",\"step\":%lld", event, (long long)step);
    if (fields.len) {
        buf_str(&line, ",");
        add_without_nan(&line, fields.data);
    }
    buf_str(&line, "}\n");
    /* One write, flushed: whoever follows the file, or reads it after a kill, sees whole lines. */
    if (fwrite(line.data, 1, line.len, run_log.f) != line.len || fflush(run_log.f))
        die("cannot write %s: %s", run_log.path, strerror(errno));
    buf_free(&fields);
    buf_free(&line);
}

void log_close(void) {
    if (!run_log.f) return;
    if (fclose(run_log.f)) die("cannot write %s: %s", run_log.path, strerror(errno));
    free(run_log.path);
    run_log.f = NULL;
    run_log.path = NULL;
}
