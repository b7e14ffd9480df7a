/* common.h - what every stage needs and no stage is about: errors, options, files, random numbers, time, progress,
 * the run log.
 *
 * Errors. A user's mistake or a bad file ends in die(): one sentence on stderr, exit 1. Wrong usage ends in
 * die_usage(): exit 2. assert() is for programmer errors only. Whatever comes from a file or a person is checked once,
 * where it enters, and trusted afterwards.
 *
 * What this file refuses to do: know anything about models, tokens or kernels. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
#define _Noreturn [[noreturn]] /* nvcc reads this header as C++ */
extern "C" {
#endif

/* ---- errors and memory ------------------------------------------------------------------------------------------ */
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
_Noreturn void die(const char *fmt, ...) PRINTF_LIKE(1, 2);       /* "tea: " + message, exit 1 */
_Noreturn void die_usage(const char *fmt, ...) PRINTF_LIKE(1, 2); /* the same and "--help shows…", exit 2 */
void warn(const char *fmt, ...) PRINTF_LIKE(1, 2);

void *xmalloc(size_t bytes);                    /* never NULL: dies with the size asked for */
void *xcalloc(size_t n, size_t size);           /* zeroed, n * size checked for overflow */
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *strf(const char *fmt, ...) PRINTF_LIKE(1, 2); /* a new string; the caller frees it */
size_t size_mul(size_t a, size_t b);            /* a * b, or die: overflow never decides a size */

/* Bytes of memory: of this process now and at its highest so far; of what it may still have here, and no more than a
 * container allows. NaN where the system does not tell. */
double memory_now(void), memory_peak(void), memory_free(void);
/* What a run will hold at its peak, said before it takes it: the sum, and what for. With advice (NULL: it may not fit)
 * it dies where less is left; of a GPU's memory (on_host false) nobody knows. Returns the sum in bytes. */
typedef struct { const char *what; double bytes; } MemoryPart;
double memory_plan(const MemoryPart *part, int n, bool on_host, const char *advice);

int thread_count(void);                         /* that a parallel region gets */

/* A growing byte buffer. data is NUL-terminated after every append (the NUL is not counted in len). */
typedef struct { char *data; size_t len, cap; } Buf;
void buf_add(Buf *b, const void *bytes, size_t n);
void buf_str(Buf *b, const char *s);
void buf_fmt(Buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_free(Buf *b);

/* ---- the option table ------------------------------------------------------------------------------------------- *
 * One option, one line; the value in place before the call is the default that --help prints.
 *     OPT_FLAG bool*   OPT_INT int64_t*   OPT_FLOAT double*   OPT_STR const char**   OPT_LIST StrList* (one or more
 *     words, up to the next "--"; may be repeated)
 * min..max bounds a number (both 0: none). choices "a|b|c" restricts a string. alias is a second name or NULL. */
typedef struct { const char **v; int n; } StrList;
typedef enum { OPT_FLAG, OPT_INT, OPT_FLOAT, OPT_STR, OPT_LIST, OPT_SECTION } OptKind;
typedef struct {
    const char *name;      /* "batch" for --batch; for OPT_SECTION, the heading */
    OptKind kind;
    void *value;
    const char *help;
    double min, max;
    const char *choices;
    const char *alias;
    bool given;            /* set by options_parse */
} Opt;
/* The rows of a stage's table: name, field of the stage's struct `o`, help, then bounds or choices. */
#define TEXT(n, v, h) {n, OPT_STR, &o.v, h, 0, 0, NULL, NULL, false}
#define ONE_OF(n, v, h, c) {n, OPT_STR, &o.v, h, 0, 0, c, NULL, false}
#define INT(n, v, h, lo, hi) {n, OPT_INT, &o.v, h, lo, hi, NULL, NULL, false}
#define REAL(n, v, h, lo, hi) {n, OPT_FLOAT, &o.v, h, lo, hi, NULL, NULL, false}
#define FLAG(n, v, h) {n, OPT_FLAG, &o.v, h, 0, 0, NULL, NULL, false}
#define WORDS(n, v, h) {n, OPT_LIST, &o.v, h, 0, 0, NULL, NULL, false}
#define SECTION(n) {n, OPT_SECTION, NULL, NULL, 0, 0, NULL, NULL, false}
/* Options common to all stages (end of each stage's table). */
typedef struct { const char *device, *isa; int64_t threads, seed; bool quiet, profile; } CommonOpts;
extern CommonOpts common;
#define COMMON_OPTS                                                                                                    \
    SECTION("Common"),                                                                                                 \
    {"device", OPT_STR, &common.device, "where to compute", 0, 0, "cpu|cuda", NULL, false},                            \
    {"threads", OPT_INT, &common.threads, "CPU threads (0: OMP_NUM_THREADS, else all cores)", 0, 4096, NULL, NULL,     \
        false},                                                                                                        \
    {"isa", OPT_STR, &common.isa, "CPU instruction set: a lower one than found, for tests", 0, 0,                      \
        "auto|plain|avx2|avx512|avx512bf16|neon", NULL, false},                                                        \
    {"seed", OPT_INT, &common.seed, "same seed, same result, on any number of threads", 0, 9e15, NULL, NULL, false},   \
    {"profile", OPT_FLAG, &common.profile, "at the end, where the time went: a table by operation", 0, 0, NULL, NULL,  \
        false},                                                                                                        \
    {"quiet", OPT_FLAG, &common.quiet, "no progress on stderr", 0, 0, NULL, NULL, false}
/* Parses argv into table (n entries); prints help and exits 0 on --help; usage errors exit 2. First is the index of
 * argv to start at (2 for a stage with sub-commands); about is printed above the options. */
void options_parse(int argc, char **argv, int first, const char *about, Opt *table, int n);
bool option_given(const Opt *table, int n, const char *name);

/* ---- files ------------------------------------------------------------------------------------------------------ */
typedef struct { const uint8_t *data; size_t bytes; char *path; } Mapped;
Mapped file_map(const char *path);              /* read-only mmap; dies with the reason */
void file_unmap(Mapped *m);
/* A whole file of up to 1 GiB, NUL-terminated (len may be NULL); dies with the reason. A named pipe has a second to
 * find its writer, or counts as empty. */
char *file_read(const char *path, size_t *len);
/* The JSON value of a file (as file_read, so of up to 1 GiB), or of a text that came from it. Dies with one sentence
 * that names the file when it is broken (and where), when anything but blanks follows, when it is of no kind that is
 * wanted, and when a string holds \\u0000, at which cJSON would end it. The caller calls cJSON_Delete. */
typedef struct cJSON cJSON;
typedef enum { JSON_OBJECT = 1, JSON_ARRAY = 2 } JsonKinds;
cJSON *json_read(const char *path, int kinds);
cJSON *json_parse(const char *text, size_t n, int kinds, const char *path);
bool file_exists(const char *path);
bool is_dir(const char *path);
void make_dirs(const char *path);               /* mkdir -p; dies with the reason */
char *path_join(const char *dir, const char *name);
/* Atomic writing: the bytes go to path.tmp, are fsynced, then renamed over path. Dies (and removes the temporary file)
 * when the disk is full or read-only, leaving any earlier file as it was. */
typedef struct { FILE *f; char *path, *tmp, *buffer; size_t at; } OutFile;
OutFile out_open(const char *path);
/* Before the first write: writes huge pages, at multiples of their size, so that the system keeps the file in such pages:
 * decoding from it is 11% faster. */
void out_by_huge_pages(OutFile *o);
void out_write(OutFile *o, const void *bytes, size_t n);
void out_seek(OutFile *o, size_t at);           /* what is written next begins at this byte */
void out_close(OutFile *o);                     /* flush, fsync, rename */
void file_write(const char *path, const void *bytes, size_t n);
void dir_remove(const char *path);              /* rm -r of a directory that we wrote; missing is fine */
/* Directories appear whole: write into dir_begin(path) = "path.tmp", then dir_commit renames it (replacing path). */
char *dir_begin(const char *path);
void dir_commit(char *tmp, const char *path);

/* ---- random numbers --------------------------------------------------------------------------------------------- *
 * Counter based: the value depends on (seed, counter) only, so any thread may draw any element and a resumed run
 * draws what the first would have. Mixer: splitmix64 (Steele, Lea, Flood 2014). */
#ifdef __CUDACC__
__host__ __device__            /* dropout draws on the GPU */
#endif
static inline uint64_t rng_mix(uint64_t seed, uint64_t counter) {
    uint64_t z = seed * 0xD1342543DE82EF95ull + (counter + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
typedef struct { uint64_t seed, counter; } Rng;
static inline uint64_t rng_u64(Rng *r) { return rng_mix(r->seed, r->counter++); }
static inline double rng_uniform(Rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }                  /* [0, 1) */
static inline uint64_t rng_below(Rng *r, uint64_t n) { return (uint64_t)(rng_uniform(r) * (double)n); }    /* [0, n) */
double rng_normal(Rng *r);                                                                  /* mean 0, deviation 1 */

/* ---- time, progress, signals ------------------------------------------------------------------------------------ */
double now_s(void);                             /* monotonic seconds */
/* One line on stderr: a bar that redraws itself on a terminal, a plain line every few seconds otherwise; silent with
 * --quiet. text is what stands right of the bar. */
typedef struct { const char *what; double total, start_s, last_s, first_done; bool tty; } Progress;
Progress progress_begin(const char *what, double total);
void progress_at(Progress *p, double done, const char *fmt, ...) PRINTF_LIKE(3, 4);
void progress_end(Progress *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
char *human_count(double n);                    /* "5.8M"; a ring of static buffers */
char *human_time(double s);                     /* "3m12s" */
char *human_bytes(double n);                    /* "1.25 GiB" */
extern volatile int stop_requested;             /* set by SIGINT and SIGTERM after catch_signals() */
void catch_signals(void);

/* ---- the run log: log.jsonl and report.html --------------------------------------------------------------------- *
 * log.jsonl: one JSON object a line. The first has "event":"start" and the settings; every other one has "event"
 * ("step", "eval", "sample", "save", "end") and "step". report_write draws it as one self-contained page. */
void log_open(const char *dir, int64_t keep_through_step); /* keeps earlier lines with step <= keep_through_step, so
                                                              that a resumed run has one log; -1 starts afresh */
/* "\"loss\":%.5g,…" */
void log_line(const char *event, int64_t step, const char *json_fields_fmt, ...) PRINTF_LIKE(3, 4);
void log_close(void);
void json_escape(Buf *out, const char *s, size_t n); /* the inside of a JSON string; invalid UTF-8 becomes U+FFFD */
void report_write(const char *dir);             /* report.c: dir/log.jsonl -> dir/report.html */

#ifdef __cplusplus
}
#endif
