/* tests/exercise_attention.c - the judge of doc/exercises/attention.c (make exercise-attention).
 *
 * It asks op.attention, told the window, which slots count, and says where an answer differs. tests/test_doc.c includes
 * this file to see that the judge accepts a right answer and refuses wrong ones. */
#include "../common.h"
#include "../kernels.h"
#include <math.h>
#include <stdio.h>

typedef void WindowRange(size_t slot, size_t window, size_t *lo, size_t *hi);

/* What op.attention sees: with a query of zeros all weights are equal, so exp(lse) is the number of slots seen, and
 * with the value s in slot s the output is the mean slot. The two fix lo and hi. */
static void range_of_op(size_t slot, size_t window, size_t *lo, size_t *hi) {
    enum { SLOTS_MAX = 64 };
    float q[1] = {0}, k[SLOTS_MAX] = {0}, v[SLOTS_MAX], lse, out;
    int32_t pos = (int32_t)slot;
    Attn a = {.B = 1, .T = 1, .S = SLOTS_MAX, .H = 1, .K = 1, .D = 1, .scale = 1, .causal = true,
              .window = (int)window, .pos = &pos};
    for (size_t s = 0; s < SLOTS_MAX; s++) v[s] = (float)s;
    op.attention((act *)&out, &lse, (const act *)q, (const act *)k, (const act *)v, &a);
    double count = exp((double)lse), mean = (double)out;
    *lo = (size_t)(mean - (count - 1) / 2 + 0.5);
    *hi = *lo + (size_t)(count + 0.5);
}

/* How many of the questions are answered wrongly; the first wrong answers are explained. */
static int judge_window_range(WindowRange *answer, bool explain) {
    int wrong = 0, asked = 0;
    for (size_t window = 0; window <= 9; window++)
        for (size_t slot = 0; slot < 24; slot++, asked++) {
            size_t lo = 99, hi = 99, want_lo, want_hi;
            answer(slot, window, &lo, &hi);
            range_of_op(slot, window, &want_lo, &want_hi);
            if (lo == want_lo && hi == want_hi) continue;
            if (explain && wrong < 3)
                printf("window %zu: the query in slot %zu sees [%zu, %zu), your answer is [%zu, %zu)\n", window, slot,
                       want_lo, want_hi, lo, hi);
            wrong++;
        }
    if (explain && wrong) printf("not yet: %d of %d answers differ from op.attention\n", wrong, asked);
    if (explain && !wrong) printf("solved: %d answers agree with op.attention\n", asked);
    return wrong;
}

#ifndef EXERCISE_NO_MAIN
void window_range(size_t slot, size_t window, size_t *lo, size_t *hi);
int main(void) {
    ops_select("cpu", "auto", PREC_F32);
    return judge_window_range(window_range, true) != 0;
}
#endif
