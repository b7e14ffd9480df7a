/* tests/test_doc.c - the course tells the truth: the numbers that a chapter prints are recomputed from the inputs that
 * it prints, in both languages, by the plain loops and by the fastest flavour; the judges of its exercises accept right
 * answers and refuse wrong ones.
 *
 * A worked example stands between <!-- worked:NAME --> and <!-- end -->. Its lines are a name and numbers. A printed
 * number is right when the computed one rounds to it: it may be off by half a unit of its last digit. */
#define EXERCISE_NO_MAIN
#include "exercise_attention.c"
#include "test.h"
#include <ctype.h>

/* ---- a worked example ------------------------------------------------------------------------------------------- */
typedef struct { char name[32]; float x[64]; double half_unit[64]; size_t n; } Row;
typedef struct { const char *file; Row row[32]; size_t n; } Worked;

static bool worked_read(Worked *w, const char *file, const char *name) {
    char *text = file_read(file, NULL), *mark = strf("<!-- worked:%s -->", name), *at = strstr(text, mark);
    *w = (Worked){.file = file};
    char *end = at ? strstr(at, "<!-- end -->") : NULL;
    if (!CHECK(end != NULL, "%s has a worked example \"%s\"", file, name)) return false;
    *end = 0;
    bool fits = true;
    for (char *line = strtok(at + strlen(mark), "\n"); line; line = strtok(NULL, "\n")) {
        int used = 0;
        char word[32];
        if (sscanf(line, "%31s%n", word, &used) != 1 || !isalpha((unsigned char)word[0])) continue;
        if (w->n == sizeof w->row / sizeof *w->row) { fits = false; break; }
        Row *row = &w->row[w->n++];
        snprintf(row->name, sizeof row->name, "%s", word);
        for (char *p = line + used; sscanf(p, "%31s%n", word, &used) == 1; p += used) {
            char *stop;
            float x = strtof(word, &stop), unit = 1;
            if (*stop) continue;                              /* a word: "causal", the name of a second number */
            if (row->n == 64) { fits = false; break; }
            for (const char *dot = strchr(word, '.'); dot && isdigit((unsigned char)*++dot);) unit /= 10;
            row->half_unit[row->n] = 0.5 * (double)unit;
            row->x[row->n++] = x;
        }
    }
    free(text), free(mark);
    return CHECK(fits, "%s: %zu lines of numbers", file, w->n);
}
static const Row *worked_row(const Worked *w, const char *name, size_t n) {
    static const Row none;
    for (size_t i = 0; i < w->n; i++)
        if (!strcmp(w->row[i].name, name) && w->row[i].n == n) return &w->row[i];
    CHECK(false, "%s: a line \"%s\" with %zu numbers", w->file, name, n);
    return &none;
}
static void worked_check(const Worked *w, const char *name, const float *got, size_t n) {
    const Row *row = worked_row(w, name, n);
    size_t wrong = 0, first = 0;
    for (size_t i = row->n; i-- > 0;)                         /* 1e-6: what float arithmetic may add to the half unit */
        if (!(fabs((double)got[i] - (double)row->x[i]) <= row->half_unit[i] + 1e-6)) wrong++, first = i;
    if (row->n != n) return;                                  /* worked_row has complained */
    char *what = wrong ? strf(", number %zu is printed %g", first + 1, (double)row->x[first]) : xstrdup("");
    CHECK(!wrong, "%s, %s: %s, %zu numbers%s, computed %g", w->file, op.name, name, n, what, (double)got[first]);
    free(what);
}

/* ---- attention -------------------------------------------------------------------------------------------------- */
static void test_attention(const char *file) {
    enum { T = 3, D = 2 };
    Worked w;
    if (!worked_read(&w, file, "attention")) return;
    const Row *q = worked_row(&w, "q", T * D), *k = worked_row(&w, "k", T * D), *v = worked_row(&w, "v", T * D);
    const Row *dout = worked_row(&w, "dout", T * D), *scale = worked_row(&w, "scale", 1);
    if (!q->n || !k->n || !v->n || !dout->n || !scale->n) return;
    Attn a = {.B = 1, .T = T, .S = T, .H = 1, .K = 1, .D = D, .scale = scale->x[0], .causal = true};
    float out[T * D], lse[T], probs[T * T], scores[T * (T + 1) / 2];
    float dq[T * D], dk[T * D], dv[T * D], scratch[T], delta[T], ds[T];
    op.attention((act *)out, lse, (const act *)q->x, (const act *)k->x, (const act *)v->x, &a);
    op.attention_probs(probs, (const act *)q->x, (const act *)k->x, &a, 0);
    op.attention_bwd((act *)dq, (act *)dk, (act *)dv, scratch, (const act *)dout->x, (const act *)out, lse,
                     (const act *)q->x, (const act *)k->x, (const act *)v->x, &a);
    size_t n_scores = 0;
    for (size_t t = 0; t < T; t++) {
        delta[t] = dout->x[t * D] * out[t * D] + dout->x[t * D + 1] * out[t * D + 1];
        for (size_t s = 0; s <= t; s++) scores[n_scores++] = logf(probs[t * T + s]) + lse[t]; /* p = exp(score - lse) */
        ds[t] = dk[t * D] / (a.scale * q->x[(T - 1) * D]);   /* dk_s = scale ds_s q, for the one query with dout */
    }
    worked_check(&w, "scores", scores, n_scores);
    worked_check(&w, "lse", lse, T);
    worked_check(&w, "probs", probs, T * T);
    worked_check(&w, "out", out, T * D);
    worked_check(&w, "delta", delta, T);
    worked_check(&w, "ds", ds, T);
    worked_check(&w, "dq", dq, T * D);
    worked_check(&w, "dk", dk, T * D);
    worked_check(&w, "dv", dv, T * D);
}

/* The answer the chapter hopes for is what op.attention does; the wrong ones are those that people write. */
static void answer_unsolved(size_t slot, size_t window, size_t *lo, size_t *hi) {
    (void)window, *lo = 0, *hi = slot + 1;
}
static void answer_one_short(size_t slot, size_t window, size_t *lo, size_t *hi) {
    *lo = window && slot >= window ? slot - window : 0, *hi = slot + 1;             /* forgets its own slot */
}
static void answer_wraps(size_t slot, size_t window, size_t *lo, size_t *hi) {
    *lo = window ? slot + 1 - window : 0, *hi = slot + 1;                           /* unsigned, below zero */
}
static void test_exercise_attention(void) {
    CHECK(judge_window_range(range_of_op, false) == 0, "the judge accepts what op.attention does");
    CHECK(judge_window_range(answer_unsolved, false) > 0, "the judge refuses the exercise as it stands");
    CHECK(judge_window_range(answer_one_short, false) > 0, "the judge refuses a window that is one too wide");
    CHECK(judge_window_range(answer_wraps, false) > 0, "the judge refuses a range that wraps below zero");
    size_t lo, hi;
    range_of_op(20, 4, &lo, &hi);
    CHECK(lo == 17 && hi == 21, "window 4: the query in slot 20 sees [17, 21)");
    range_of_op(2, 4, &lo, &hi);
    CHECK(lo == 0 && hi == 3, "window 4: the query in slot 2 sees [0, 3)");
}

int main(void) {
    static const char *const isas[] = {"plain", "auto"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        ops_select("cpu", isas[i], PREC_F32);
        test_attention("doc/en/attention.md");
        test_attention("doc/zh/attention.md");
        test_exercise_attention();
    }
    return test_end();
}
