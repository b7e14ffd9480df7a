/* doc/exercises/attention.c - exercise of the chapter on attention: a sliding window.
 *
 *     make exercise-attention        compiles this file, judges it, and says where it is wrong
 *
 * A causal query in slot `slot` sees the slots up to and including its own. With a window it sees only the last
 * `window` of them, its own included (Mistral and Gemma do this in some or all layers, so that a long text costs a
 * fixed amount per token). window 0 means no window. Write the range [lo, hi) of the slots it sees. As it stands, the
 * function is plain causal attention. Mind the first tokens, which have fewer than `window` slots before them. */
#include <stddef.h>

void window_range(size_t slot, size_t window, size_t *lo, size_t *hi) {
    (void)window;
    *lo = 0;
    *hi = slot + 1;
}
