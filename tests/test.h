/* test.h - the harness of every test program: check, print what was checked, count, exit 1 on failure.
 *
 *     int main(void) {
 *         CHECK(add(2, 2) == 4, "2 + 2 is %d", add(2, 2));
 *         CHECK_CLOSE("softmax", got, want, n, 1e-6, 1e-5);
 *         CHECK_DIES({ tensors_open("absent"); }, "No such file");
 *         CHECK_USAGE({ options_parse(argc, argv, 1, "", table, n); }, "did you mean");
 *         return test_end();
 *     }
 *
 * Include it in one .c file per program: its few functions are static. */
#pragma once
#include <ftw.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int test_passed, test_failed;
static char test_dir[256];
static bool test_in_child;

/* The address sanitizer's leak check asks this weak function at exit. A child that dies in the middle of its work
 * leaks, rightly; the parent is still checked. */
int __lsan_is_turned_off(void);
__attribute__((unused)) int __lsan_is_turned_off(void) { return test_in_child; }

__attribute__((unused, format(printf, 4, 5)))
static bool test_check(bool ok, const char *file, int line, const char *fmt, ...) {
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (ok) test_passed++, printf("ok    %s\n", text);
    else test_failed++, printf("FAIL  %s    [%s:%d]\n", text, file, line);
    fflush(stdout);
    return ok;
}

/* |got - want| <= atol + rtol * |want| for every element; a NaN or infinity on either side fails. The line printed
 * names the element that is worst measured in its own tolerance. */
__attribute__((unused))
static bool test_close(const char *file, int line, const char *name, const float *got, const float *want, size_t n,
                       double atol, double rtol) {
    size_t worst = 0;
    double worst_ratio = -1;
    for (size_t i = 0; i < n; i++) {
        double allowed = atol + rtol * fabs((double)want[i]), off = fabs((double)got[i] - (double)want[i]);
        double ratio = !isfinite(got[i]) || !isfinite(want[i]) ? INFINITY : off == 0 ? 0 : off / allowed;
        if (ratio > worst_ratio) worst_ratio = ratio, worst = i;
    }
    if (!n) return test_check(false, file, line, "%s: nothing to compare", name);
    return test_check(worst_ratio <= 1, file, line,
                      "%s: %zu elements, worst [%zu] got %.9g want %.9g, %.3g of the tolerance (%g + %g relative)",
                      name, n, worst, (double)got[worst], (double)want[worst], worst_ratio, atol, rtol);
}

#define CHECK(cond, ...) test_check((cond), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_CLOSE(name, got, want, n, atol, rtol) test_close(__FILE__, __LINE__, name, got, want, n, atol, rtol)

/* ---- code that must die ----------------------------------------------------------------------------------------- *
 * The block runs in a child. It must exit with the code wanted, having written one line on stderr that contains the
 * text; a signal, a sanitizer's report, a second line or a normal return fail. */
__attribute__((unused)) static pid_t test_fork(FILE *capture) {
    fflush(NULL); /* what is buffered now would be printed by both */
    pid_t pid = fork();
    if (pid) return pid;
    test_in_child = true;
    alarm(120); /* a hang is a failure, not a stuck build */
    if (dup2(fileno(capture), STDERR_FILENO) < 0 || !freopen("/dev/null", "w", stdout)) _exit(99);
#ifdef _OPENMP
    omp_set_num_threads(1); /* libgomp's threads do not survive fork: a parallel region would wait for ever */
#endif
    return 0;
}

__attribute__((unused))
static bool test_died(const char *file, int line, pid_t pid, FILE *capture, int want_code, const char *substring) {
    char text[8192];
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return test_check(false, file, line, "cannot fork");
    rewind(capture);
    size_t n = fread(text, 1, sizeof text - 1, capture);
    fclose(capture);
    text[n] = 0;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    char *newline = strchr(text, '\n');
    bool one_line = newline && !newline[1];
    bool ok = code == want_code && one_line && strstr(text, substring) && !strstr(text, "Sanitizer") &&
              !strstr(text, "runtime error:");
    if (ok) {
        *newline = 0;
        return test_check(true, file, line, "dies: %s", text);
    }
    return test_check(false, file, line, "should die with exit %d and one line containing \"%s\"; %s %d, stderr:\n%s",
                      want_code, substring, code < 0 ? "signal" : "exit", abs(code), text);
}

#define TEST_DIES(block, code, substring)                                                                              \
    do {                                                                                                               \
        FILE *test_capture = tmpfile();                                                                                \
        if (!test_capture) { CHECK(false, "no temporary file"); break; }                                               \
        pid_t test_pid = test_fork(test_capture);                                                                      \
        if (!test_pid) {                                                                                               \
            block;                                                                                                     \
            exit(0);                                                                                                   \
        }                                                                                                              \
        test_died(__FILE__, __LINE__, test_pid, test_capture, code, substring);                                        \
    } while (0)
#define CHECK_DIES(block, substring) TEST_DIES(block, 1, substring)
#define CHECK_USAGE(block, substring) TEST_DIES(block, 2, substring)

#ifdef KERNELS_H
/* Does an instruction set run here? Asked in a child: ops_select dies where the CPU or the build lacks it. */
__attribute__((unused)) static bool isa_runs(const char *isa) {
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        test_in_child = true;
        ops_select("cpu", isa, PREC_F32);
        _exit(0);
    }
    int status = 1;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status);
}
#endif

/* ---- a place for files ------------------------------------------------------------------------------------------ */

__attribute__((unused)) static int test_remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* One new directory per program, removed by test_end when all passed and kept for a look otherwise. */
__attribute__((unused)) static const char *test_tmpdir(void) {
    if (!test_dir[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(test_dir, sizeof test_dir, "%s/tea-test-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(test_dir)) {
            perror(test_dir);
            exit(1);
        }
    }
    return test_dir;
}

__attribute__((unused)) static int test_end(void) {
    if (test_dir[0] && !test_failed) nftw(test_dir, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    else if (test_dir[0]) printf("files kept in %s\n", test_dir);
    printf("%d passed, %d failed\n", test_passed, test_failed);
    return test_failed || !test_passed; /* a program that checked nothing has not passed */
}
