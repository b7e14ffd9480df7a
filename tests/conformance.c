/* conformance.c - our outputs against the official implementations': the promise "a Hugging Face model directory is the
 * file format", measured.
 *
 *     make conformance GOLDENS=DIR                  every model of a folder of golden data
 *     build/gcc/conformance tests/fixtures          the tiny models of this repository, in two seconds
 *     build/gcc/conformance DIR --only llama3 --isa plain --threads 1 --precision bf16
 *     build/gcc/conformance DIR --quantize build/gcc/quantize     and each model as that program makes it of 8 bits
 *
 * DIR holds models/NAME/, or NAME/, or is one such NAME/ itself: a model directory with two files more.
 *     golden.json          ids, losses, norms, settings of the optimiser, greedy continuations
 *     golden.safetensors   batch.logits, long.logits, attn0.probs, grad.TENSOR, step3.TENSOR, and with an adapter in
 *                          lora/ lora.logits and lora.step3.TENSOR
 * A golden that is not there is not checked, but the logits and the loss of a batch must be there.
 *
 * Every line is one check: what, the largest error and where it is, the tolerance. A model runs in a process of its
 * own, so that one which dies, or crashes, is one failure and not the end.
 *
 * MAP
 *   [conf.tolerance]  how close is close enough
 *   [conf.report]     a line per check
 *   [conf.golden]     reading golden.json and golden.safetensors
 *   [conf.decoder]    the checks of a decoder
 *   [conf.encoder]    the checks of an encoder
 *   [conf.int8]       a model's twin in 8 bits
 *   [conf.main]       folders, families, one process per model
 *
 * Beside the models: token ids and text (conformance_tokenizer.c), conversations (conformance_chat.c). */
#include "conformance.h"
#include "model.h"
#include <assert.h>
#include <cjson/cJSON.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ================================================================================================================= *
 * [conf.tolerance] In float32: what a second float32 implementation can reach, about ten times the distance of the
 * official outputs from the same graph run in float64. Mistakes are far outside: a norm's epsilon wrong by ten times
 * moves logits by 1e-4 and more, a window off by one by 2.
 * In bf16 an input keeps 8 bits: a product of two is off by up to 2^-8 relative, and these wide-drawn models pass that
 * on. The tolerances find a broken kernel, not a subtle one. Adam's step divides by the gradient's own size, so
 * elements of step3 may lie two lr per step apart: they are bounded by that, not compared. */
typedef struct {
    double logits;        /* absolute */
    double encoder;       /* absolute: classes' logits and pooled states, whose values are smaller */
    double loss;          /* absolute */
    double grad;          /* of the largest element of the tensor */
    double grad_l2;       /* relative; of zeros (a bias that cannot change the softmax) see zero_norm */
    double step;          /* absolute, on stable elements */
    double delta_l2;      /* relative */
    double probs;         /* absolute */
    double zero_norm;     /* a golden norm below 1e-6 is a zero up to rounding; so is ours below this */
    bool greedy;          /* the best logit leads by 0.005 at least: more than float32's error, less than bf16's */
} Tolerance;
static const Tolerance tolerances[] = {
    [PREC_F32] = {1e-4, 2e-5, 2e-5, 2e-5, 1e-5, 1e-5, 1e-3, 1e-5, 1e-6, true},
    [PREC_BF16] = {0.4, 0.15, 0.15, 0.2, 0.15, 6.1e-3, 0.15, 0.02, 5e-3, false},
};
static const double zero_norm = 1e-6;
static const double noise_gradient = 1e-6;   /* not zero and below this: its sign may be rounding's, see find_strays */
static const double stray_way = 1e-4;        /* a tenth of lr: further from its golden than any stable element */

/* ================================================================================================================= *
 * [conf.report] Counts live in memory that parent and child share: what a child has checked counts though it die.    */
static struct { int passed, failed; } *count;
static const char *model_name;                                        /* stands at the head of each line */
static bool quiet_passes;

void check(bool ok, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (ok) count->passed++;
    else count->failed++;
    if (!ok || !quiet_passes) printf("%s %s: %s\n", ok ? "ok   " : "FAIL ", model_name, text);
    fflush(stdout);
}

/* The largest |got - want|; NaN or infinity on either side is an infinite error. skip (n_skip, ascending): left out. */
typedef struct { double error; size_t at; double got, want; } Worst;
static Worst worst_of(const float *got, const float *want, size_t n, const size_t *skip, size_t n_skip) {
    Worst w = {-1, 0, 0, 0};
    for (size_t i = 0, s = 0; i < n; i++) {
        while (s < n_skip && skip[s] < i) s++;
        if (s < n_skip && skip[s] == i) continue;
        double error = fabs((double)got[i] - (double)want[i]);
        if (!isfinite(error)) error = INFINITY;
        if (error > w.error) w = (Worst){error, i, (double)got[i], (double)want[i]};
    }
    return w;
}
/* "[1,13,208]" of a row-major index. */
static const char *place(char out[64], size_t at, const Tensor *shape) {
    size_t index[TENSOR_DIMS_MAX], used = 1;
    for (int d = shape->n_dims - 1; d >= 0; at /= shape->shape[d--]) index[d] = at % shape->shape[d];
    out[0] = '[', out[1] = 0;
    for (int d = 0; d < shape->n_dims && used < 56; d++)
        used += (size_t)snprintf(out + used, 64 - used, "%s%zu", d ? "," : "", index[d]);
    snprintf(out + used, 64 - used, "]");
    return out;
}
static void check_array(const char *what, const float *got, const Tensor *golden, const float *want, double tolerance,
                        const size_t *skip, size_t n_skip) {
    char at[64], left_out[64] = "";
    if (n_skip) snprintf(left_out, sizeof left_out, ", %zu of %zu left out as unstable", n_skip, golden->n);
    Worst w = worst_of(got, want, golden->n, skip, n_skip);
    if (w.error < 0) check(false, "%s: nothing to compare", what);
    else check(w.error <= tolerance, "%s: largest error %.2e at %s (got %.7g, want %.7g), tolerance %.1e%s", what,
               w.error, place(at, w.at, golden), w.got, w.want, tolerance, left_out);
}
static void check_number(const char *what, double got, double want, double tolerance) {
    double error = fabs(got - want);
    check(error <= tolerance, "%s: error %.2e (got %.8g, want %.8g), tolerance %.1e", what, error, got, want,
          tolerance);
}

/* ================================================================================================================= *
 * [conf.golden] The two files. A golden that does not fit the layout is a broken golden, and dies saying so.         */
typedef struct { cJSON *json; Tensors *tensors; char *json_path; } Golden;

static Golden golden_open(const char *dir) {
    Golden g = {.json_path = path_join(dir, "golden.json")};
    char *text = file_read(g.json_path, NULL), *path = path_join(dir, "golden.safetensors");
    g.json = cJSON_Parse(text);
    if (!g.json) die("%s: not JSON", g.json_path);
    g.tensors = tensors_open(path);
    free(text);
    free(path);
    return g;
}
static void golden_close(Golden *g) {
    cJSON_Delete(g->json);
    tensors_close(g->tensors);
    free(g->json_path);
}
/* "adamw.betas": down the objects; NULL where there is none. */
static const cJSON *golden_find(const Golden *g, const char *keys) {
    const cJSON *v = g->json;
    for (const char *k = keys; v && *k;) {
        char key[64];
        size_t n = strcspn(k, ".");
        assert(n < sizeof key);
        memcpy(key, k, n);
        key[n] = 0;
        v = cJSON_GetObjectItemCaseSensitive(v, key);
        k += n + (k[n] == '.');
    }
    return v && !cJSON_IsNull(v) ? v : NULL;
}
static double golden_number(const Golden *g, const char *keys, double fallback) {
    const cJSON *v = golden_find(g, keys);
    return cJSON_IsNumber(v) ? v->valuedouble : fallback;
}
/* Rows of ids, all of one length: (B,T). A flat list is one row. NULL when the key is not there. */
static int32_t *golden_ids(const Golden *g, const char *keys, size_t *B, size_t *T) {
    const cJSON *rows = golden_find(g, keys), *row, *id;
    if (!rows) return NULL;
    bool flat = cJSON_IsNumber(cJSON_GetArrayItem(rows, 0));
    *B = flat ? 1 : (size_t)cJSON_GetArraySize(rows);
    *T = (size_t)cJSON_GetArraySize(flat ? rows : cJSON_GetArrayItem(rows, 0));
    if (!*B || !*T) die("%s: \"%s\" is empty", g->json_path, keys);
    int32_t *ids = xmalloc(*B * *T * sizeof *ids);
    size_t n = 0;
    for (row = flat ? rows : rows->child; row; row = flat ? NULL : row->next) {
        if ((size_t)cJSON_GetArraySize(row) != *T) die("%s: rows of \"%s\" differ in length", g->json_path, keys);
        cJSON_ArrayForEach(id, row) ids[n++] = id->valueint;
    }
    return ids;
}
static float *golden_tensor(const Golden *g, const char *name, const Tensor **t) {
    *t = tensors_find(g->tensors, name);
    if (!*t) return NULL;
    float *f = xmalloc(size_mul((*t)->n, sizeof(float)));
    tensor_to_f32(*t, f);
    return f;
}
/* Flat indices of the elements to leave out of tensor `name`. */
static size_t *golden_unstable(const Golden *g, const char *name, size_t *n) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(golden_find(g, "unstable_elements"), name), *v;
    size_t *index = xmalloc(((size_t)cJSON_GetArraySize(list) + 1) * sizeof *index);
    *n = 0;
    if (list) cJSON_ArrayForEach(v, list) index[(*n)++] = (size_t)v->valuedouble;
    return index;
}

/* ================================================================================================================= *
 * [conf.decoder]                                                                                                     */
static char *temporary(const char *what) {
    const char *base = getenv("TMPDIR");
    char *out = strf("%s/tea-golden-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(out)) die("%s: no folder for what is made of it", what);
    return out;
}
/* Logits of all rows of the last forward: (n,V) on the host. */
static float *all_logits(Model *m, Acts *a, size_t n) {
    size_t V = (size_t)m->cfg.V;
    float *out = xmalloc(size_mul(n * V, sizeof(float)));
    for (size_t first = 0; first < n; first += a->chunk) {
        size_t rows = n - first < a->chunk ? n - first : a->chunk;
        op.act_to_host(out + first * V, model_logits(m, a, first, rows), rows * V);
    }
    return out;
}
static float *host_acts(const act *x, size_t n) {
    float *out = xmalloc(n * sizeof(float));
    op.act_to_host(out, x, n);
    return out;
}
static void check_logits(const char *what, const Golden *g, const char *name, const float *got, size_t n,
                         double tolerance) {
    const Tensor *t;
    float *want = golden_tensor(g, name, &t);
    if (!want) check(false, "%s: golden.safetensors has no %s", what, name);
    else if (t->n != n) check(false, "%s: we have %zu values, the golden %zu", what, n, t->n);
    else check_array(what, got, t, want, tolerance, NULL, 0);
    free(want);
}
/* targets[t] = ids[t+1]; the last of a row has none. */
static int32_t *next_ids(const int32_t *ids, size_t B, size_t T) {
    int32_t *next = xmalloc(B * T * sizeof *next);
    for (size_t i = 0; i < B * T; i++) next[i] = i % T == T - 1 ? -1 : ids[i + 1];
    return next;
}
static double mean_loss(Model *m, Acts *a, const Batch *b, bool with_gradient) {
    size_t n = 0;
    for (size_t i = 0; i < (m->cfg.head == HEAD_CLASSIFY ? b->B : b->B * b->T); i++) n += b->targets[i] >= 0;
    forward(m, a, b);
    return model_loss(m, a, b, with_gradient ? 1.0f / (float)n : 0) / (double)n;
}

/* Layer 0's attention, before the product with the values: (H,T,T) of batch row 0. To be called after a forward. */
static void check_attention(const Golden *g, const Model *m, const Acts *a, const Batch *b, const Tolerance *tol) {
    const Tensor *t;
    float *want = golden_tensor(g, "attn0.probs", &t);
    if (!want) return;
    size_t n = (size_t)m->cfg.H * b->T * a->S;
    float *got = model_attention(m, a, b, 0, 0);
    if (t->n != n) check(false, "attention of layer 0: we have %zu values, the golden %zu", n, t->n);
    else check_array("attention of layer 0", got, t, want, tol->probs, NULL, 0);
    free(got);
    free(want);
}

static double l2(const float *x, const float *minus, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (minus ? (double)minus[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}
/* One line per golden tensor called PREFIX + NAME: our field of NAME, in the Hub's layout. */
static void check_tensors(const Golden *g, const Model *m, const char *prefix, Field field, double tolerance,
                          bool relative) {
    size_t n_prefix = strlen(prefix);
    for (int i = 0; i < g->tensors->n; i++) {
        const Tensor *t = &g->tensors->v[i];
        if (strncmp(t->name, prefix, n_prefix)) continue;
        size_t n, n_skip = 0;
        float *got = m->n_lora ? model_lora_read(m, t->name + n_prefix, field, &n) : model_hub_read(m,
            t->name + n_prefix, field, &n);
        if (!got) check(false, "%s: the model has no such tensor", t->name);
        else if (n != t->n) check(false, "%s: we have %zu values, the golden %zu", t->name, n, t->n);
        else {
            float *want = xmalloc(n * sizeof(float));
            tensor_to_f32(t, want);
            size_t *skip = golden_unstable(g, t->name, &n_skip);
            double allowed = tolerance, largest = 0;
            for (size_t j = 0; j < n; j++) largest = fmax(largest, fabs((double)want[j]));
            if (relative) allowed = fmax(tolerance * largest, zero_norm / sqrt((double)n));
            check_array(t->name, got, t, want, allowed, skip, n_skip);
            free(skip);
            free(want);
        }
        free(got);
    }
}
/* A table of norms {tensor: L2}, with what comparing needs: the weights before training (for norms of differences), and
 * how many elements had a gradient that is rounding noise, over all steps. */
typedef struct { const char *key; int n; float **before; size_t *n_noisy; double lr; } Norms;
static Norms norms_begin(const Golden *g, const Model *m, const char *key, double lr) {
    const cJSON *table = golden_find(g, key), *v;
    Norms t = {.key = key, .lr = lr};
    t.before = xcalloc((size_t)cJSON_GetArraySize(table) + 1, sizeof *t.before);
    t.n_noisy = xcalloc((size_t)cJSON_GetArraySize(table) + 1, sizeof *t.n_noisy);
    size_t n;
    if (table) cJSON_ArrayForEach(v, table) t.before[t.n++] = model_hub_read(m, v->string, FIELD_WEIGHT, &n);
    return t;
}
static void norms_count_noise(Norms *t, const Golden *g, const Model *m) {
    const cJSON *table = golden_find(g, t->key), *v;
    int i = 0;
    if (table) cJSON_ArrayForEach(v, table) {
        size_t n = 0;
        float *grad = model_hub_read(m, v->string, FIELD_GRAD, &n);
        for (size_t j = 0; j < n; j++) t->n_noisy[i] += grad[j] != 0 && fabs((double)grad[j]) < noise_gradient;
        free(grad);
        i++;
    }
}
static void norms_free(Norms *t) {
    for (int i = 0; i < t->n; i++) free(t->before[i]);
    free(t->before);
    free(t->n_noisy);
}
/* One line: the tensor that is furthest from its golden. since (or NULL) makes them norms of the way gone since
 * norms_begin: an element of noise may have gone anything up to 3 lr, so n of them may move the square of the norm by
 * n (3 lr)^2, and the norm by that over (got + want). complete: the table must cover every weight. */
static void check_norms(const Golden *g, const Model *m, const char *key, Field field, const Norms *since,
                        double tolerance, double our_zero, bool complete) {
    const cJSON *table = golden_find(g, key), *v;
    if (!table) return;
    double worst = -1, worst_got = 0, worst_want = 0;
    const char *worst_name = "";
    int i = 0, n_missing = 0, n_excused = 0;
    size_t covered = 0;
    cJSON_ArrayForEach(v, table) {
        size_t n;
        float *x = model_hub_read(m, v->string, field, &n);
        if (!x) {
            if (!n_missing++) worst_name = v->string;
            i++;
            continue;
        }
        double want = v->valuedouble, got = l2(x, since ? since->before[i] : NULL,
                                               n), off = fabs(got - want), excuse = 0;
        bool zero = !since && want < zero_norm;                       /* a bias that cannot change the softmax */
        if (since && off > tolerance * want && since->n_noisy[i]) {
            excuse = (double)since->n_noisy[i] * 9 * since->lr * since->lr / (got + want);
            n_excused++;
        }
        double error = zero ? got / our_zero * tolerance : fmax(0, off - excuse) / want;
        if (!isfinite(error)) error = INFINITY;
        if (error > worst && !n_missing) worst = error, worst_name = v->string, worst_got = got, worst_want = want;
        covered += n;
        i++;
        free(x);
    }
    char excused[64] = "";
    if (n_excused) snprintf(excused, sizeof excused, ", allowing for elements of noise in %d", n_excused);
    if (n_missing) check(false, "%s: the model lacks %d of its tensors, such as %s", key, n_missing, worst_name);
    else check(worst >= 0 && worst <= tolerance,
               "%s of %d tensors: largest relative error %.2e at %s (got %.7g, want %.7g),"
               " tolerance %.1e%s", key, i, worst, worst_name, worst_got, worst_want, tolerance, excused);
    if (complete)
        check(covered == config_weights(&m->cfg), "%s covers %zu of the model's %zu weights", key, covered,
              config_weights(&m->cfg));
}

/* Where the gradient is rounding noise, Adam's update is a step of the size of lr in a direction that is chance, and
 * the losses and gradients after it see that. An element that the golden lists as unstable, and that went another way
 * than the golden's, is led along the golden's way, a third of it at each step: all else is then compared strictly. */
typedef struct { const Tensor *golden; size_t index; float from, to; } Stray;
enum { STRAYS_MAX = 64 };
static int find_strays(const Golden *g, const Model *trained, const Model *fresh, Stray *strays) {
    int n_strays = 0;
    for (int i = 0; i < g->tensors->n; i++) {
        const Tensor *t = &g->tensors->v[i];
        if (strncmp(t->name, "step3.", 6)) continue;
        size_t n, n_before, n_unstable, *unstable = golden_unstable(g, t->name, &n_unstable);
        float *got = model_hub_read(trained, t->name + 6, FIELD_WEIGHT, &n);
        float *from = model_hub_read(fresh, t->name + 6, FIELD_WEIGHT, &n_before);
        float *want = xmalloc(size_mul(t->n, sizeof(float)));
        tensor_to_f32(t, want);
        for (size_t k = 0; got && n == t->n && k < n_unstable && n_strays < STRAYS_MAX; k++) {
            size_t at = unstable[k];
            if (at >= n) die("%s: unstable element %zu of %s is past its %zu", g->json_path, at, t->name, n);
            if (fabs((double)got[at] - (double)want[at]) > stray_way) strays[n_strays++] = (Stray){t, at, from[at],
                                                                                                   want[at]};
        }
        free(got), free(from), free(want), free(unstable);
    }
    return n_strays;
}
static void lead_strays(Model *m, const Stray *strays, int n_strays, int step) {
    for (int i = 0; i < n_strays; i++) {
        size_t n;
        float *w = model_hub_read(m, strays[i].golden->name + 6, FIELD_WEIGHT, &n);
        w[strays[i].index] = strays[i].from + (strays[i].to - strays[i].from) * (float)step / 3;
        model_hub_write(m, strays[i].golden->name + 6, FIELD_WEIGHT, w);
        free(w);
    }
}

static OptimOpts golden_optimiser(const Golden *g) {
    OptimOpts h = {.lr = golden_number(g, "adamw.lr", 1e-3), .beta1 = 0.9, .beta2 = 0.95,
                   .eps = golden_number(g, "adamw.eps", 1e-8), .weight_decay = golden_number(g, "adamw.weight_decay",
                                                                                             0.1),
                   .clip = golden_number(g, "adamw.clip", 0)};
    const cJSON *betas = golden_find(g, "adamw.betas");
    if (cJSON_GetArraySize(betas) == 2) {
        h.beta1 = cJSON_GetArrayItem(betas, 0)->valuedouble;
        h.beta2 = cJSON_GetArrayItem(betas, 1)->valuedouble;
    }
    return h;
}
/* The gradients of one batch, then three steps on it: loss before each, weights after the last. */
static void check_training(const Golden *g, const char *dir, Model *m, Acts *a, const Batch *b, const Tolerance *tol) {
    check_number("loss", mean_loss(m, a, b, true), golden_number(g, "loss", NAN), tol->loss);
    check_tensors(g, m, "grad.", FIELD_GRAD, tol->grad, true);
    check_norms(g, m, "grad_l2", FIELD_GRAD, NULL, tol->grad_l2, tol->zero_norm, true);
    const cJSON *losses = golden_find(g, "adamw.losses_before_steps_1_2_3");
    if (!losses) return;
    OptimOpts h = golden_optimiser(g);
    Norms way = norms_begin(g, m, "adamw.step3_delta_l2", h.lr);
    double loss[4];
    for (int t = 0; t < 3; t++) {
        loss[t] = mean_loss(m, a, b, t > 0);                          /* the first gradient is there already */
        norms_count_noise(&way, g, m);
        model_adamw(m, &h, t + 1, model_grad_norm(m));
    }
    loss[3] = mean_loss(m, a, b, false);

    Stray strays[STRAYS_MAX];
    Model *again = model_load(dir, true);
    int n_strays = find_strays(g, m, again, strays);
    if (n_strays) {
        model_train_begin(again);
        Acts *acts = acts_new(again, b->B, b->T, b->T, true, false);
        for (int t = 0; t < 3; t++) {
            loss[t] = mean_loss(again, acts, b, true);
            model_adamw(again, &h, t + 1, model_grad_norm(again));
            lead_strays(again, strays, n_strays, t + 1);
        }
        loss[3] = mean_loss(again, acts, b, false);
        acts_free(acts);
        if (!quiet_passes)
            printf("note  %s: %d unstable element%s led the golden's way\n", model_name, n_strays, n_strays > 1
                   ? "s" : "");
    }
    for (int t = 0; t < 3; t++) {
        char what[64];
        const cJSON *want = cJSON_GetArrayItem(losses, t);
        snprintf(what, sizeof what, "loss before AdamW step %d", t + 1);
        check_number(what, loss[t], cJSON_IsNumber(want) ? want->valuedouble : NAN, tol->loss);
    }
    check_number("loss after AdamW step 3", loss[3], golden_number(g, "adamw.loss_after_step_3", NAN), tol->loss);
    const Model *trained = n_strays ? again : m;
    check_tensors(g, trained, "step3.", FIELD_WEIGHT, tol->step, false);
    check_norms(g, trained, "adamw.step3_delta_l2", FIELD_WEIGHT, &way, tol->delta_l2, 0, false);
    norms_free(&way);
    model_free(again);
}

/* The folder's adapter: what it makes of the batch, and three steps that train it alone. The base stays in the mmap. */
static void check_lora(const char *dir, const Golden *g, const Batch *b, const Tolerance *tol) {
    char *adapter = path_join(dir, "lora");
    if (is_dir(adapter) && golden_find(g, "lora")) {
        Model *m = model_load(dir, false);
        bool classes = m->cfg.head == HEAD_CLASSIFY;
        size_t n = b->B * b->T;
        model_lora_load(m, adapter);
        model_train_begin(m);
        Acts *a = acts_new(m, b->B, b->T, b->T, true, false);
        forward(m, a, b);
        float *logits = classes ? host_acts(model_classify(m, a, b->B), b->B * (size_t)m->cfg.n_classes)
            : all_logits(m, a, n);
        check_logits("logits with the adapter", g, "lora.logits", logits,
                     classes ? b->B * (size_t)m->cfg.n_classes : n * (size_t)m->cfg.V,
                         classes ? tol->encoder : tol->logits);
        free(logits);
        OptimOpts h = golden_optimiser(g);
        const cJSON *losses = golden_find(g, "lora.losses_before_steps_1_2_3");
        for (int t = 0; t < 3; t++) {
            char what[64];
            const cJSON *want = cJSON_GetArrayItem(losses, t);
            snprintf(what, sizeof what, "loss before LoRA step %d", t + 1);
            check_number(what, mean_loss(m, a, b, true), cJSON_IsNumber(want) ? want->valuedouble : NAN, tol->loss);
            model_adamw(m, &h, t + 1, model_grad_norm(m));
        }
        check_number("loss after LoRA step 3", mean_loss(m, a, b, false),
            golden_number(g, "lora.loss_after_step_3", NAN), tol->loss);
        check_tensors(g, m, "lora.step3.", FIELD_WEIGHT, tol->step, false);
        acts_free(a);
        model_free(m);
    }
    free(adapter);
}

/* The long row, first half in one call and then token by token: the cache must hold what the whole row would have. */
static float *logits_through_cache(Model *m, const int32_t *ids, size_t T) {
    size_t V = (size_t)m->cfg.V, half = T / 2;
    for (size_t t = half; m->cfg.mask == MASK_PREFIX && t < T; t++)   /* a prefix comes in one piece */
        if (ids[t] == m->cfg.bos) half = t + 1;
    float *out = xmalloc(T * V * sizeof(float));
    Acts *a = acts_new(m, 1, half ? half : 1, T, false, false);
    for (size_t at = 0; at < T;) {
        size_t n = at < half ? half : 1;
        int32_t pos = (int32_t)at;
        forward(m, a, &(Batch){.B = 1, .T = n, .tokens = ids + at, .pos = &pos});
        float *rows = all_logits(m, a, n);
        memcpy(out + at * V, rows, n * V * sizeof(float));
        free(rows);
        at += n;
    }
    acts_free(a);
    return out;
}
static void check_greedy(const Golden *g, Model *m) {
    size_t one, n_prompt, n_want;
    int32_t *prompt = golden_ids(g, "greedy.prompt_ids", &one, &n_prompt);
    int32_t *want = golden_ids(g, "greedy.ids", &one, &n_want);
    if (!prompt || !want) { free(prompt), free(want); return; }
    Acts *a = acts_new(m, 1, n_prompt, n_prompt + n_want, false, false);
    int32_t token = 0, pos = 0;
    size_t n_right = 0, V = (size_t)m->cfg.V;
    for (; n_right < n_want; n_right++) {
        bool first = n_right == 0;
        Batch b = {.B = 1, .T = first ? n_prompt : 1, .tokens = first ? prompt : &token, .pos = &pos};
        forward(m, a, &b);
        float *logits = xmalloc(V * sizeof(float));
        op.act_to_host(logits, model_logits(m, a, b.T - 1, 1), V);
        token = 0;
        for (size_t i = 1; i < V; i++)
            if (logits[i] > logits[token]) token = (int32_t)i;
        free(logits);
        if (token != want[n_right]) break;
        pos += (int32_t)b.T;
    }
    if (n_right == n_want) check(true, "greedy through the cache: all %zu ids", n_want);
    else check(false, "greedy through the cache: id %zu is %d, want %d", n_right, token, want[n_right]);
    acts_free(a);
    free(prompt);
    free(want);
}

static void check_decoder(const char *dir, const Golden *g, const Tolerance *tol) {
    size_t B, T, long_B, long_T, mask_B, mask_T;
    int32_t *ids = golden_ids(g, "batch.input_ids", &B, &T), *row = golden_ids(g, "long.input_ids", &long_B, &long_T);
    if (!ids) die("%s: \"batch.input_ids\" is missing", g->json_path);
    int32_t *next = next_ids(ids, B, T), *labels = golden_ids(g, "batch.masked_labels", &mask_B, &mask_T);

    Model *m = model_load(dir, true);                                 /* as a trainer holds it: f32 masters */
    size_t V = (size_t)m->cfg.V;
    model_train_begin(m);
    Acts *a = acts_new(m, B, T, T, true, false);
    Batch b = {.B = B, .T = T, .tokens = ids, .targets = next};
    forward(m, a, &b);
    float *logits = all_logits(m, a, B * T);
    check_logits("logits", g, "batch.logits", logits, B * T * V, tol->logits);
    free(logits);
    check_attention(g, m, a, &b, tol);
    if (labels && golden_find(g, "loss_masked")) {
        if (mask_B != B || mask_T != T) die("%s: \"masked_labels\" has another shape than \"input_ids\"", g->json_path);
        int32_t *masked = next_ids(labels, B, T);                     /* -100 is negative: not counted */
        Batch with_mask = b;
        with_mask.targets = masked;
        check_number("masked loss", mean_loss(m, a, &with_mask, false), golden_number(g, "loss_masked", NAN),
                     tol->loss);
        free(masked);
    }
    check_training(g, dir, m, a, &b, tol);
    check_lora(dir, g, &b, tol);
    acts_free(a);
    model_free(m);

    m = model_load(dir, false);                                       /* as inference holds it: weights in the mmap */
    a = acts_new(m, B, T, T, false, false);
    forward(m, a, &b);
    logits = all_logits(m, a, B * T);
    check_logits("logits, weights in place", g, "batch.logits", logits, B * T * V, tol->logits);
    free(logits);
    acts_free(a);
    if (row) {
        if (long_B != 1) die("%s: \"long\" has %zu rows, must have one", g->json_path, long_B);
        a = acts_new(m, 1, long_T, long_T, false, false);
        forward(m, a, &(Batch){.B = 1, .T = long_T, .tokens = row});
        logits = all_logits(m, a, long_T);
        check_logits("long logits", g, "long.logits", logits, long_T * V, tol->logits);
        free(logits);
        acts_free(a);
        logits = logits_through_cache(m, row, long_T);
        check_logits("long logits through the cache", g, "long.logits", logits, long_T * V, tol->logits);
        free(logits);
    }
    if (tol->greedy) check_greedy(g, m);
    model_free(m);
    free(ids);
    free(row);
    free(next);
    free(labels);
}

/* ================================================================================================================= *
 * [conf.encoder] BERT: rows of two texts, padded on the right; hidden states, pooled states, masked tokens or
 * classes. */
typedef struct { Batch b; int32_t *types, *len, *labels; } EncoderBatch;
static EncoderBatch encoder_batch(const Golden *g, const Config *c) {
    size_t B, T, B2, T2;
    EncoderBatch e = {.b.tokens = golden_ids(g, "batch.input_ids", &B, &T)};
    if (!e.b.tokens) die("%s: \"batch.input_ids\" is missing", g->json_path);
    e.b.B = B, e.b.T = T;
    e.b.types = e.types = golden_ids(g, "batch.token_type_ids", &B2, &T2);
    int32_t *mask = golden_ids(g, "batch.attention_mask", &B2, &T2);
    e.b.len = e.len = xcalloc(B, 4);
    for (size_t i = 0; i < B * T; i++) e.len[i / T] += mask ? mask[i] : 1;
    free(mask);
    e.b.targets = e.labels = golden_ids(g, "batch.labels", &B2, &T2);
    if (e.labels && B2 * T2 != (c->head == HEAD_CLASSIFY ? B : B * T))
        die("%s: \"batch.labels\" has %zu values", g->json_path, B2 * T2);
    return e;
}
static void encoder_batch_free(EncoderBatch *e) {
    free((void *)(uintptr_t)e->b.tokens), free(e->types), free(e->len), free(e->labels);
}
/* Of masked tokens or of classes; NULL without a head. */
static float *encoder_logits(Model *m, Acts *a, size_t B, size_t T) {
    if (m->cfg.head == HEAD_MASKED_LM) return all_logits(m, a, B * T);
    if (m->cfg.head == HEAD_CLASSIFY) return host_acts(model_classify(m, a, B), B * (size_t)m->cfg.n_classes);
    return NULL;
}
/* Hidden states averaged over each row's tokens, or its first token's; divided by their length. */
static void check_embeddings(const Golden *g, const float *hidden, const EncoderBatch *e, size_t C, double tolerance) {
    float *mean = xcalloc(e->b.B * C, 4), *unit = xcalloc(e->b.B * C, 4), *first = xcalloc(e->b.B * C, 4);
    for (size_t r = 0; r < e->b.B; r++) {
        double mean_l2 = 0, first_l2 = 0;
        for (size_t i = 0; i < C; i++) {
            double sum = 0;
            for (int t = 0; t < e->len[r]; t++) sum += (double)hidden[(r * e->b.T + (size_t)t) * C + i];
            mean[r * C + i] = (float)(sum / e->len[r]);
            mean_l2 += pow(sum / e->len[r], 2);
            first_l2 += pow((double)hidden[r * e->b.T * C + i], 2);
        }
        for (size_t i = 0; i < C; i++) {
            unit[r * C + i] = (float)((double)mean[r * C + i] / sqrt(mean_l2));
            first[r * C + i] = (float)((double)hidden[r * e->b.T * C + i] / sqrt(first_l2));
        }
    }
    check_logits("mean of the tokens", g, "batch.mean_pooled", mean, e->b.B * C, tolerance);
    check_logits("mean, normalised", g, "batch.mean_pooled_normalized", unit, e->b.B * C, tolerance);
    check_logits("first token, normalised", g, "batch.cls_normalized", first, e->b.B * C, tolerance);
    free(mean), free(unit), free(first);
}
static void check_encoder(const char *dir, const Golden *g, const Tolerance *tol) {
    for (int train = 1; train >= 0; train--) {                        /* as a trainer holds it, then in the mmap */
        Model *m = model_load(dir, train);
        const Config *c = &m->cfg;
        EncoderBatch e = encoder_batch(g, c);
        size_t N = e.b.B * e.b.T, C = (size_t)c->C;
        double tolerance = c->head == HEAD_MASKED_LM ? tol->logits : tol->encoder;
        if (train) model_train_begin(m);
        Acts *a = acts_new(m, e.b.B, e.b.T, e.b.T, train, false);
        forward(m, a, &e.b);
        float *hidden = host_acts(a->final, N * C), *logits = NULL;
        const char *where = train ? "" : ", weights in place";
        char what[64];
        if (tensors_find(g->tensors, "batch.last_hidden_state")) {
            snprintf(what, sizeof what, "last hidden state%s", where);
            check_logits(what, g, "batch.last_hidden_state", hidden, N * C, tol->logits);
        }
        if (train) check_attention(g, m, a, &e.b, tol);
        if (c->pooler && tensors_find(g->tensors, "batch.pooler_output")) {
            float *pooled = host_acts(model_pool(m, a, e.b.B), e.b.B * C);
            snprintf(what, sizeof what, "pooled first token%s", where);
            check_logits(what, g, "batch.pooler_output", pooled, e.b.B * C, tol->encoder);
            free(pooled);
        }
        if (tensors_find(g->tensors, "batch.mean_pooled")) check_embeddings(g, hidden, &e, C, tol->encoder);
        snprintf(what, sizeof what, "logits%s", where);
        logits = encoder_logits(m, a, e.b.B, e.b.T);
        if (logits)
            check_logits(what, g, "batch.logits", logits,
                         c->head == HEAD_CLASSIFY ? e.b.B * (size_t)c->n_classes : N * (size_t)c->V, tolerance);
        if (train && e.labels) check_training(g, dir, m, a, &e.b, tol);
        if (train && e.labels) check_lora(dir, g, &e.b, tol);
        free(hidden), free(logits);
        acts_free(a);
        encoder_batch_free(&e);
        model_free(m);
    }
}

/* ================================================================================================================= *
 * [conf.int8] The model in 8 bits a weight, and with its products' inputs in 8 bits too: how far the logits (without a
 * head: the last hidden state) are from the official ones, root mean square, as a share of the logits' own deviation.
 * Rounding costs each of a layer's matrices about half a percent of its output, and these wide-drawn models pass that
 * on: 0.2 to 3.8% of the logits with int8 weights, up to 5.5% with int8 inputs. A matrix or scales misread: 100%. That
 * the numbers which rounding left are multiplied exactly is tests/test_quantized.c's. */
static const char *quantiser = "";
static float *int8_outputs(const char *dir, const Golden *g, const char **name) {
    Model *m = model_load(dir, false);
    const Config *c = &m->cfg;
    float *out;
    *name = "batch.logits";
    if (c->mask == MASK_BIDIRECTIONAL) {
        EncoderBatch e = encoder_batch(g, c);
        Acts *a = acts_new(m, e.b.B, e.b.T, e.b.T, false, false);
        forward(m, a, &e.b);
        out = encoder_logits(m, a, e.b.B, e.b.T);
        if (!out) *name = "batch.last_hidden_state", out = host_acts(a->final, e.b.B * e.b.T * (size_t)c->C);
        acts_free(a);
        encoder_batch_free(&e);
    } else {
        size_t B, T;
        int32_t *ids = golden_ids(g, "batch.input_ids", &B, &T);
        Acts *a = acts_new(m, B, T, T, false, false);
        forward(m, a, &(Batch){.B = B, .T = T, .tokens = ids});
        out = all_logits(m, a, B * T);
        acts_free(a);
        free(ids);
    }
    model_free(m);
    return out;
}
static void check_int8(const char *dir, const Golden *g) {
    static const struct { const char *what, *options; double tolerance; } twins[] = {
        {"int8 weights", "", 0.05}, {"int8 weights and inputs", "--activations dynamic", 0.08}};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) {
        char *out = temporary(dir);
        char *command = strf("'%s' --overwrite --bits 8 %s --model '%s' --out '%s' 2>/dev/null", quantiser,
                             twins[i].options, dir, out);
        const char *name;
        const Tensor *t;
        if (system(command)) check(false, "%s: %s", twins[i].what, command);
        else {
            float *got = int8_outputs(out, g, &name), *want = golden_tensor(g, name, &t);
            if (!want) die("%s: no %s", dir, name);
            double mean = 0, spread = 0, error = 0;
            for (size_t k = 0; k < t->n; k++) mean += (double)want[k] / (double)t->n;
            for (size_t k = 0; k < t->n; k++)
                spread += pow((double)want[k] - mean, 2), error += pow((double)(got[k] - want[k]), 2);
            error = sqrt(error / spread);
            check(error < twins[i].tolerance, "%s: %s off by %.2f%% of their deviation (%.0f%%)", twins[i].what,
                  name + strlen("batch."), 100 * error, 100 * twins[i].tolerance);
            free(got), free(want);
        }
        dir_remove(out);
        free(command), free(out);
    }
}

/* ================================================================================================================= *
 * [conf.main]                                                                                                        */
static const char *precision_name = "f32";

static void check_model(const char *dir) {
    Precision precision = !strcmp(precision_name, "bf16") ? PREC_BF16 : PREC_F32;
    ops_select(common.device, common.isa, precision);
    Golden g = golden_open(dir);
    if (config_read(dir).mask == MASK_BIDIRECTIONAL) check_encoder(dir, &g, &tolerances[precision]);
    else check_decoder(dir, &g, &tolerances[precision]);
    if (*quantiser) check_int8(dir, &g);
    golden_close(&g);
}
/* model_type of a directory, a new string; NULL when it is not a model with goldens. */
static char *golden_model_type(const char *dir) {
    char *golden = path_join(dir, "golden.json"), *config = path_join(dir, "config.json"), *type = NULL;
    if (file_exists(golden) && file_exists(config)) {
        char *text = file_read(config, NULL);
        cJSON *json = cJSON_Parse(text);
        const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "model_type"));
        type = xstrdup(s ? s : "");
        cJSON_Delete(json);
        free(text);
    }
    free(golden);
    free(config);
    return type;
}
/* The parent has started no thread and no device, which would not survive the fork. */
void check_apart(const char *name, void (*fn)(const char *dir), const char *dir) {
    model_name = name;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("cannot start a process");
    if (!pid) {
        fn(dir);
        exit(0);
    }
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) die("lost a process");
    if (WIFSIGNALED(status)) check(false, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status)) check(false, "ended with exit code %d, see above", WEXITSTATUS(status));
}
char *unpacked(const char *dir, const char *leave_out) {
    char *out = temporary(dir);
    DIR *d = opendir(dir);
    if (!d) die("%s: cannot be unpacked", dir);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        bool gz = n > 3 && !strcmp(e->d_name + n - 3, ".gz");
        char *from = path_join(dir, e->d_name), *name = strf("%.*s", (int)(gz ? n - 3 : n), e->d_name);
        char *to = path_join(out, name), *command = strf("gzip -dc '%s' >'%s'", from, to);
        if (e->d_name[0] != '.' && !is_dir(from) && !(leave_out && !strcmp(name, leave_out))) {
            if (gz && system(command)) die("%s: gzip cannot unpack it", from);
            if (!gz) {
                size_t n_bytes;
                char *bytes = file_read(from, &n_bytes);
                file_write(to, bytes, n_bytes);
                free(bytes);
            }
        }
        free(from), free(name), free(to), free(command);
    }
    closedir(d);
    return out;
}
static void run_model(const char *dir, const char *name) {
    char *type = golden_model_type(dir);
    if (!type) return;
    model_name = name;
    if (!config_supported(type)) {
        printf("skip  %s: model_type \"%s\" not supported yet\n", name, type);
        free(type);
        return;
    }
    free(type);
    check_apart(name, check_model, dir);
}
static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    const char *only = "", *root = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
    Opt table[] = {
        {"only", OPT_STR, &only, "one model's folder name, or tokenizers, or chat", 0, 0, NULL, NULL, false},
        {"quantize", OPT_STR, &quantiser, "also check what this program makes of each model in 8 bits", 0, 0, NULL, NULL,
         false},
        {"precision", OPT_STR, &precision_name, "of products; the tolerances follow it", 0, 0, "f32|bf16", NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, root ? 2 : 1,
                  "conformance DIR: our outputs against the official ones, see tests/conformance.c.",
                  table, sizeof table / sizeof *table);
    if (!root) die_usage("which folder of golden data? conformance DIR");
    if (!is_dir(root)) die("%s: no such directory", root);
    quiet_passes = common.quiet;
    count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count == MAP_FAILED) die("no shared memory");

    char *single = golden_model_type(root), *models = path_join(root, "models");
    const char *parent = is_dir(models) ? models : root;
    if (single) run_model(root, root);
    else {
        DIR *d = opendir(parent);
        if (!d) die("%s: cannot be listed", parent);
        char **names = NULL;
        size_t n = 0;
        for (struct dirent *e; (e = readdir(d));) {
            if (e->d_name[0] == '.' || (*only && strcmp(only, e->d_name))) continue;
            names = xrealloc(names, (n + 1) * sizeof *names);
            names[n++] = xstrdup(e->d_name);
        }
        closedir(d);
        if (n) qsort(names, n, sizeof *names, by_name);
        for (size_t i = 0; i < n; i++) {
            char *dir = path_join(parent, names[i]);
            run_model(dir, names[i]);
            free(dir);
            free(names[i]);
        }
        free(names);
    }
    if (!single && (!*only || !strcmp(only, "tokenizers"))) conformance_tokenizers(root);
    if (!single && (!*only || !strcmp(only, "chat"))) check_apart("chat", conformance_chat, root);
    free(single);
    free(models);
    if (!count->passed && !count->failed) die("%s: no model with a golden.json that we support", root);
    printf("%d passed, %d failed\n", count->passed, count->failed);
    return count->failed || !count->passed;
}
