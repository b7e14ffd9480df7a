/* test_quantize.c - what quantize.c promises of its numbers: grids, factors, GPTQ against brute force, and that folding
 * changes weights but not what the model computes. The stage as a whole, its files and its refusals: test_quantize.sh.
 *
 * MAP
 *   [tquantize.grid]   scales and zero points
 *   [tquantize.gptq]   the factor, and the error that GPTQ says it made
 *   [tquantize.fold]   rotations and moved scales leave the logits alone
 *   [tquantize.input]  scales of static inputs */
#define main quantize_main /* the stage's own parts are under test */
#include "../quantize.c"
#undef main
#include "test.h"

static float *random_floats(size_t n, uint64_t seed) {
    float *x = xmalloc(n * sizeof *x);
    Rng r = {seed, 0};
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(&r);
    return x;
}

/* [tquantize.grid] */
static void check_grid(int bits, bool symmetric, DType scale_dtype) {
    enum { ROWS = 37, COLS = 96 };
    Grid g = {bits, symmetric, 32, scale_dtype};
    float *w = random_floats(ROWS * COLS, 3), *v = xmalloc(ROWS * COLS * sizeof *v),
        *energy = xmalloc(COLS * sizeof *energy);
    for (int c = 0; c < COLS; c++) energy[c] = 1;
    for (int i = 0; i < ROWS * COLS; i++) w[i] = symmetric ? w[i] : w[i] + 2;
    for (int i = 0; i < COLS; i++) w[i] = 0, w[COLS + i] *= 1e-30f, w[2 * COLS + i] *= 1e30f;
    float low = -(float)(1 << (bits - 1)), high = -low - 1;
    double error[2] = {0, 0};
    int outside = 0, far = 0, unfit = 0;
    for (int thorough = 0; thorough < 2; thorough++) {
        Codes c = codes_new(&g, ROWS, COLS);
        fit_all(&c, &g, w, energy, thorough);
        round_all(&c, &g, w);
        dequantise(&c, &g, v);
        for (size_t i = 0; i < ROWS * 3; i++) {
            float back = stored_scale(scale_dtype, c.scale[i]);
            unfit += back != c.scale[i] || c.scale[i] == 0 || !isfinite(c.scale[i]) || (symmetric && c.zero[i]);
        }
        for (size_t i = 0; i < ROWS * COLS; i++) {
            float q = c.q[i], s = fabsf(c.scale[i / 32]);
            outside += q < low || q > high;
            if (i >= 3 * COLS) far += q > low && q < high && fabsf(w[i] - v[i]) > s * 0.501f;
            if (i >= 3 * COLS) error[thorough] += (double)((w[i] - v[i]) * (w[i] - v[i]));
        }
        bool zeros = true;
        for (int i = 0; i < COLS; i++) zeros &= v[i] == 0 && c.scale[i / 32] == 1;
        CHECK(zeros, "%d bits: a group of zeros has scale 1 and stays zero", bits);
        codes_free(&c);
    }
    CHECK(!unfit, "%d bits, %s: every scale is what the file will hold, none is 0", bits, dtype_name(scale_dtype));
    CHECK(!outside && !far, "%d bits: codes on the grid, each the nearest: %d outside, %d far", bits, outside, far);
    CHECK(error[1] <= error[0] && (bits == 8 || error[1] < 0.97 * error[0]),
        "%d bits, %s: squared error %.4g, without the search %.4g",
          bits, symmetric ? "symmetric" : "with zero points", error[1], error[0]);
    free(w), free(v), free(energy);
}
/* What counts most is rounded best. */
static void check_energy(void) {
    enum { N = 64 };
    float *w = random_floats(N, 4), even[N], one[N];
    for (int i = 0; i < N; i++) even[i] = 1, one[i] = i < 4 ? 1000 : 1;
    Grid g = {4, true, N, DT_F32};
    double off[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        Step s = fit(&g, w, k ? one : even, N, true);
        for (int i = 0; i < 4; i++) {
            float d = code(w[i], 1 / s.scale, 0, -8, 7) * s.scale - w[i];
            off[k] += (double)(d * d);
        }
    }
    CHECK(off[1] < off[0], "inputs with much energy: error %.3g, %.3g when all count the same", off[1], off[0]);
    free(w);
}

/* [tquantize.gptq] Correlated inputs, as real ones are. */
static float *hessian(size_t n, size_t samples, uint64_t seed) {
    float *x = random_floats(samples * n, seed), *H = op.mem_alloc(n * n * sizeof *H);
    for (size_t r = 0; r < samples; r++)
        for (size_t c = 1; c < n; c++)
            x[r * n + c] = 0.9f * x[r * n + c - 1] + 0.4f * x[r * n + c] * (float)(1 + c % 7);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double s = 0;
            for (size_t r = 0; r < samples; r++) s += (double)(x[r * n + i] * x[r * n + j]);
            H[i * n + j] = (float)s;
        }
    free(x);
    return H;
}
static void check_gptq(size_t n, size_t O, size_t group, bool symmetric) {
    float *H = hessian(n, 2 * n, 5), *w = random_floats(O * n, 6), *v = xmalloc(O * n * sizeof *v),
        *energy = xmalloc(n * sizeof *energy);
    double mean = 0, worst = 0;
    for (size_t i = 0; i < n; i++) energy[i] = H[i * n + i], mean += (double)energy[i] / (double)n;
    Factor f = factor_new(H, n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double s = 0;
            for (size_t k = 0; k <= j; k++)
                s += (double)f.panel[k / P][(i - k / P * P) * panel_width(n, k / P) + k % P] *
                     (double)f.panel[k / P][(j - k / P * P) * panel_width(n, k / P) + k % P];
            double want = (double)H[f.order[i] * n + f.order[j]] + (i == j ? 0.01 * mean : 0);
            worst = fmax(worst, fabs(s - want));
        }
    CHECK(worst < 1e-4 * mean, "factor of %zu: L L^T is H within %.2g of its diagonal", n, worst / mean);
    bool ascending = true;
    for (size_t i = 1; i < n; i++) ascending &= energy[f.order[i - 1]] <= energy[f.order[i]];
    CHECK(ascending, "the inputs with most energy are rounded first");

    Grid g = {4, symmetric, group, DT_F32};
    double error[3];
    for (int k = 0; k < 3; k++) {
        Codes c = codes_new(&g, O, n);
        fit_all(&c, &g, w, energy, true);
        double said = 0, sum = 0;
        if (k) gptq(&c, &g, &f, w);
        if (k == 2) said = descend(&c, &g, H, f.damp, w);
        if (!k) round_all(&c, &g, w);
        dequantise(&c, &g, v);
        for (size_t r = 0; r < O; r++)
            for (size_t i = 0; i < n; i++) {
                double e = (double)(w[r * n + i] - v[r * n + i]);
                for (size_t j = 0; j < n; j++) sum += e * (double)H[i * n + j] * (double)(w[r * n + j] - v[r * n + j]);
            }
        error[k] = sum;
        if (k == 2) CHECK(fabs(said - sum) < 1e-3 * sum, "the descent, %zu x %zu, says error %.6g, by brute force %.6g",
            O, n, said, sum);
        codes_free(&c);
    }
    CHECK(error[1] < 0.7 * error[0], "GPTQ %zu x %zu, groups of %zu: error %.4g, to nearest %.4g", O, n, group,
        error[1], error[0]);
    CHECK(error[2] < 0.95 * error[1], "the descent after it: %.4g", error[2]);
    factor_free(&f);

    /* inputs that have nothing to do with each other leave nothing to pay back */
    memset(H, 0, n * n * sizeof *H);
    for (size_t i = 0; i < n; i++) H[i * n + i] = 1 + (float)(i % 5);
    f = factor_new(H, n);
    Codes a = codes_new(&g, O, n), b = codes_new(&g, O, n);
    fit_all(&a, &g, w, energy, true), fit_all(&b, &g, w, energy, true);
    round_all(&a, &g, w);
    gptq(&b, &g, &f, w);
    CHECK(!memcmp(a.q, b.q, O * n), "%zu x %zu, a diagonal H: GPTQ rounds to nearest", O, n);
    codes_free(&a), codes_free(&b);
    factor_free(&f);
    op.mem_free(H);
    free(w), free(v), free(energy);
}
static void check_poor_text(void) {                              /* fewer samples than inputs; some inputs never seen */
    enum { N = 140 };
    float *H = hessian(N, 20, 7);
    for (size_t i = 0; i < N; i++) H[i * N + 3] = H[3 * N + i] = 0;
    Factor f = factor_new(H, N);
    bool finite = true;
    for (size_t i = 0; i < N * P; i++) finite &= isfinite(f.panel[0][i]) != 0;
    CHECK(finite, "20 samples of 140 inputs, one never seen: a factor all the same");
    factor_free(&f);
    memset(H, 0, N * N * sizeof *H);
    f = factor_new(H, N);
    CHECK(f.panel[0][0] > 0, "nothing seen at all: a factor all the same");
    factor_free(&f);
    H[5] = H[5 * N] = NAN, H[5 * N + 5] = NAN;
    CHECK_DIES({ factor_new(H, N); }, "not finite");
    op.mem_free(H);
}

/* [tquantize.fold] */
static void check_rotation(size_t n) {
    Rotation r = rotation_new(n, 9);
    float *R = xcalloc(n * n, sizeof *R);
    for (size_t i = 0; i < n; i++) R[i * n + i] = 1;
    rotate_rows(&r, R, n);                                            /* I R */
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double s = 0;
            for (size_t k = 0; k < n; k++) s += (double)(R[i * n + k] * R[j * n + k]);
            worst = fmax(worst, fabs(s - (i == j)));
            largest = fmax(largest, fabs((double)R[i * n + j]));
        }
    CHECK(worst < 1e-5 && largest < 1.5 / sqrt((double)n),
        "rotation of %zu: orthogonal within %.1e, largest entry %.3g / sqrt(n)", n,
          worst, largest * sqrt((double)n));
    free(R), free(r.sign), free(r.hartley);
}
static float *logits(Model *m, size_t *n) {
    int32_t ids[12];
    for (int i = 0; i < 12; i++) ids[i] = (i * 7 + 3) % m->cfg.V;
    Acts *a = acts_new(m, 1, 12, 12, false, false);
    forward(m, a, &(Batch){.B = 1, .T = 12, .tokens = ids});
    *n = 12 * (size_t)m->cfg.V;
    float *x = xmalloc(*n * sizeof *x);
    op.act_to_host(x, model_logits(m, a, 0, 12), *n);
    acts_free(a);
    return x;
}
static void floats_of(Param *p) {
    float *x = op.mem_alloc(p->n * sizeof *x);
    op.mat_to_f32(x, &p->w);
    p->w = MAT(DT_F32, p->rows, p->cols, x);
}
static void check_fold(const char *fixture, bool turn) {
    char *dir = strf("tests/fixtures/%s", fixture);
    Model *m = model_load(dir, false);
    size_t n;
    float *want = logits(m, &n);
    size_t C = (size_t)m->cfg.C;
    Rotation r = rotation_new(C, 9);
    Tap t[N_TAPS] = {{0}};
    for (int l = 0; l < m->cfg.L; l++) {
        layer_load(m, l);
        if (turn) { layer_rotate(m, l, &r); continue; }
        for (int k = 0; k <= TAP_UP; k += TAP_UP) {
            t[k] = tap_new(m, l, (TapKind)k, false, false);
            for (size_t c = 0; c < t[k].n; c++) t[k].largest[c] = (float)(1 + c % 9);
            layer_smooth(m, l, (TapKind)k, &t[k], 0.5);
            tap_free(&t[k]);
        }
    }
    if (turn) {
        Param *wte = m->at[0][R_WTE], *stored_head = m->at[0][R_HEAD], head = *stored_head;
        Mat stored = wte->w;
        floats_of(&head);
        scale_columns(head.w.data, head.rows, C, values(m, -1, R_FINAL_W));
        rotate_rows(&r, head.w.data, head.rows);
        for (size_t c = 0; c < C; c++) values(m, -1, R_FINAL_W)[c] = 1;
        floats_of(wte);
        rotate_rows(&r, wte->w.data, wte->rows);
        m->at[0][R_HEAD] = &head;
        float *got = logits(m, &n);
        CHECK_CLOSE(dir, got, want, n, 2e-4, 2e-4);
        free(got);
        op.mem_free(head.w.data), op.mem_free(wte->w.data);
        wte->w = stored, m->at[0][R_HEAD] = stored_head;
    } else {
        float *got = logits(m, &n);
        CHECK_CLOSE(dir, got, want, n, 2e-4, 2e-4);
        free(got);
    }
    for (int l = 0; l < m->cfg.L; l++) layer_drop(m, l);
    model_free(m);
    free(r.sign), free(r.hartley), free(want), free(dir);
}

/* [tquantize.input] */
static void check_static(void) {
    enum { N = 20000 };
    Tap t = {.n = 1, .bins = xcalloc(N_BINS, sizeof(uint32_t))};
    float *x = random_floats(N, 11);
    for (int spikes = 0; spikes < 2; spikes++) {
        double best = INFINITY, at = 0, got = 0;
        float largest = 0;
        memset(t.bins, 0, N_BINS * sizeof *t.bins);
        for (int i = 0; i < N; i++) {
            if (spikes && i < 2) x[i] = 60;
            uint32_t b;
            memcpy(&b, &x[i], 4);
            t.bins[(b & 0x7fffffff) >> BIN_SHIFT]++;
            largest = fmaxf(largest, fabsf(x[i]));
        }
        double scale = (double)static_scale(&t);
        for (double s = (double)largest / 127 * 1.1; s > (double)largest / 127 / 40; s /= 1.02) {
            double e = 0;
            for (int i = 0; i < N; i++) {
                double q = fmin(fmax(rint((double)x[i] / s), -127), 127), d = q * s - (double)x[i];
                e += d * d;
            }
            if (e < best) best = e, at = s;
        }
        for (int i = 0; i < N; i++) {
            double q = fmin(fmax(rint((double)x[i] / scale), -127), 127), d = q * scale - (double)x[i];
            got += d * d;
        }
        CHECK(got < 1.1 * best, "%s: static scale %.4g with error %.4g; the best of all is %.4g with %.4g",
            spikes ? "spikes" : "normal",
              scale, got, at, best);
    }
    free(x), free(t.bins);
}

int main(void) {
    ops_select("cpu", "auto", PREC_F32);
    for (int bits = 4; bits <= 8; bits += 4)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            check_grid(bits, symmetric, DT_F32);
            check_grid(bits, symmetric, DT_BF16);
            check_grid(bits, symmetric, DT_F16);
        }
    check_energy();
    check_gptq(96, 70, 32, true);
    check_gptq(300, 130, 0, true);
    check_gptq(128, 64, 128, true);
    check_gptq(768, 40, 384, true);                                 /* a block ends within a group */
    check_gptq(352, 40, 88, false);                                 /* groups that do not fill a block */
    check_poor_text();
    const size_t sizes[] = {64, 192, 288, 48, 7};
    for (int i = 0; i < 5; i++) check_rotation(sizes[i]);
    check_fold("llama", true);
    check_fold("qwen3", true);
    check_fold("chatglm3", true);
    check_fold("llama", false);
    check_fold("gpt2", false);
    check_static();
    return test_end();
}
