/* test_model.c - the network against itself: derivatives by finite differences, one forward for training, prefill and
 * decoding, the same bits from any number of threads, files that come back as they went. That the numbers are also the
 * official ones is conformance.c's work.
 *
 * MAP
 *   [tmodel.make]       small models of every combination of parts
 *   [tmodel.gradient]   finite differences; recomputation; frozen parameters; accumulation; chunks of the classifier
 *   [tmodel.cache]      prefill = decode = training, rows of different lengths, packed documents
 *   [tmodel.threads]    bits
 *   [tmodel.files]      save and load: F32, BF16, F16, shards, in place
 *   [tmodel.step]       AdamW and clipping against double
 *   [tmodel.sizes]      counted weights, memory
 *   [tmodel.border]     what must be refused */
#include "model.h"
#include "test.h"
#include <stdint.h>
#ifndef _OPENMP
static void omp_set_num_threads(int n) { (void)n; }
static int omp_get_max_threads(void) { return 1; }
#endif

/* ================================================================================================================= *
 * [tmodel.make] A combination is a family and what is changed in its parts.                                          */
typedef struct { const char *name, *family; void (*change)(Config *c); float dropout; bool documents; } Case;

static void untied(Config *c) { c->tied = false; }
static void shared_heads(Config *c) { c->K = 2; c->D = 6; c->rope_dims = 6; c->tied = true; }
static void everything(Config *c) {
    c->K = 1, c->qk_norm = c->qkv_bias = c->out_bias = c->mlp_bias = true, c->window = 3;
    c->rope_scaling = ROPE_LINEAR, c->rope_factor = 2;
}
static void part_rotated(Config *c) { c->rope_dims = c->D / 2, c->rope_interleaved = true, c->qkv_bias = true; }
static void llama3_positions(Config *c) {
    c->K = 2, c->rope_scaling = ROPE_LLAMA3, c->rope_base = 1000;
    c->rope_factor = 8, c->rope_low_freq = 1, c->rope_high_freq = 4, c->rope_original_pos = 16;
}
static void erf_and_rms(Config *c) { c->mlp = MLP_GELU_ERF, c->norm = NORM_RMS; }
static void layer_norms(Config *c) { c->norm = NORM_LAYER, c->qk_norm = true, c->mlp_bias = true; }
static void shared_pairs(Config *c) { c->K = 2, c->D = 8, c->rope_dims = 4; }
static void half_window(Config *c) { c->window = 3, c->window_layer = 1, c->K = 2; }
static void yarn(Config *c) {
    c->rope_scaling = ROPE_YARN, c->rope_base = 100, c->rope_factor = 4, c->rope_low_freq = 1, c->rope_high_freq = 4;
    c->rope_original_pos = 16, c->rope_attention = 1.3f, c->D = 12, c->rope_dims = 12;
}
static void prefix(Config *c) {                               /* ChatGLM-6B's parts */
    c->norm = NORM_LAYER, c->mlp = MLP_GELU_TANH, c->out_bias = c->mlp_bias = true, c->D = 8, c->rope_dims = 4;
    c->rope_2d = c->rope_f16 = c->residual_from_norm = true, c->rope_interleaved = false, c->residual_scale = 2;
    c->mask = MASK_PREFIX, c->bos = 21, c->gmask_id = 22;
}
static void classes(Config *c) { c->head = HEAD_CLASSIFY, c->pooler = true, c->n_classes = 3, c->K = 2; }
static void last_token_classes(Config *c) { c->head = HEAD_CLASSIFY, c->n_classes = 3; }
static const Case cases[] = {
    {"gpt2", "gpt2", NULL, 0, false},
    {"gpt2, untied", "gpt2", untied, 0, false},
    {"gpt2, dropout", "gpt2", NULL, 0.3f, false},
    {"gpt2, GELU by erf, RMS norm", "gpt2", erf_and_rms, 0, true},
    {"llama", "llama", NULL, 0, false},
    {"llama, dropout, packed documents", "llama", NULL, 0.2f, true},
    {"llama, shared heads, tied", "llama", shared_heads, 0, false},
    {"llama, llama3 positions", "llama", llama3_positions, 0, false},
    {"llama, q/k norms, all biases, window", "llama", everything, 0, true},
    {"llama, half of the head rotated in pairs", "llama", part_rotated, 0, false},
    {"llama, LayerNorm, q/k norms", "llama", layer_norms, 0, false},
    {"qwen2, YaRN", "qwen2", yarn, 0, false},
    {"mistral, window in the second layer", "mistral", half_window, 0, false},
    {"glm", "glm", NULL, 0, false},
    {"chatglm3", "chatglm", shared_pairs, 0, false},
    {"chatglm1", "chatglm", prefix, 0, false},
    {"chatglm1, dropout", "chatglm", prefix, 0.2f, false},
    {"bert, masked tokens", "bert", NULL, 0, false},
    {"bert, masked tokens, dropout", "bert", NULL, 0.2f, false},
    {"bert, classes", "bert", classes, 0, false},
    {"llama, classes", "llama", last_token_classes, 0, false},
    {"gpt2, classes, dropout", "gpt2", last_token_classes, 0.2f, false},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Config small_config(const Case *k) {
    Config c = config_family_default(k->family);
    c.V = 23, c.C = 16, c.L = 2, c.H = c.K = 4, c.D = 4, c.F = 20, c.max_pos = 32;
    if (c.pos == POS_ROPE) c.rope_dims = (int)(c.rope_part * (float)c.D);
    if (k->change) k->change(&c);
    return c;
}
/* Weights drawn wide, norms and biases too: with the usual 0.02 all logits are alike and nothing shows. */
static Model *wide_model(const Config *c, uint64_t seed) {
    Model *m = model_new(c, seed);
    Rng r = {seed + 1, 0};
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        float *w = xmalloc(p->n * sizeof *w);
        double size = p->kind == KIND_MATRIX ? 1.2 / sqrt((double)p->cols) : p->kind == KIND_EMBED ? 0.7 : 0.3;
        for (size_t j = 0; j < p->n; j++) w[j] = (float)(size * rng_normal(&r) + (p->kind == KIND_NORM));
        op.upload(p->master, w, p->n * sizeof *w);
        free(w);
    }
    model_train_begin(m);
    return m;
}
typedef struct { size_t B, T; int32_t *tokens, *targets, *start, *types, *len; } Data;
static Data make_data(const Config *c, size_t B, size_t T, bool documents, uint64_t seed) {
    Data d = {B, T, xmalloc(B * T * 4), xmalloc(B * T * 4), documents ? xmalloc(B * T * 4) : NULL,
              c->type_vocab ? xmalloc(B * T * 4) : NULL, c->n_classes ? xmalloc(B * 4) : NULL};
    Rng r = {seed, 0};
    for (size_t i = 0; i < B && d.len; i++) d.len[i] = (int32_t)(T - i % T);   /* texts of several lengths, padded */
    for (size_t i = 0; i < B * T; i++) {
        d.tokens[i] = (int32_t)rng_below(&r, (uint64_t)(c->mask == MASK_PREFIX ? c->bos : c->V));
        if (c->mask == MASK_PREFIX && i % T == 1 + i / T % 2) d.tokens[i] = c->gmask_id;
        if (c->mask == MASK_PREFIX && i % T == 2 + i / T % 2) d.tokens[i] = c->bos;
        d.targets[i] = rng_below(&r, 5) ? (int32_t)rng_below(&r, (uint64_t)(c->n_classes ? c->n_classes : c->V)) : -1;
        if (d.types) d.types[i] = (int32_t)rng_below(&r, (uint64_t)c->type_vocab);
        if (documents) d.start[i] = i % T && rng_below(&r, 4) ? d.start[i - 1] : (int32_t)(i % T);
    }
    return d;
}
static void free_data(Data *d) { free(d->tokens), free(d->targets), free(d->start), free(d->types), free(d->len); }
static Batch batch_of(const Data *d) {
    return (Batch){.B = d->B, .T = d->T, .tokens = d->tokens, .targets = d->targets, .start = d->start,
                   .types = d->types, .len = d->len};
}
static Acts *acts_of(Model *m, const Data *d, const Case *k, bool recompute) {
    Acts *a = acts_new(m, d->B, d->T, d->T, true, recompute);
    a->noise.dropout = k->dropout;
    a->drop_seed = 77;
    return a;
}
static double loss_of(Model *m, Acts *a, const Data *d, float scale) {
    Batch b = batch_of(d);
    forward(m, a, &b);
    return model_loss(m, a, &b, scale);
}
/* All gradients, in arena order; the model's are zeroed behind it. */
static float *take_gradients(Model *m) {
    float *g = xmalloc(m->n_weights * sizeof *g);
    op.download(g, m->grad, m->n_weights * sizeof *g);
    op.zero(m->grad, m->n_weights * sizeof *g);
    return g;
}
static double max_abs(const float *x, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, isfinite(x[i]) ? fabs((double)x[i]) : INFINITY);
    return largest;
}
static float *logits_of(Model *m, Acts *a, size_t n) {
    size_t V = (size_t)m->cfg.V;
    float *out = xmalloc(n * V * sizeof *out);
    for (size_t first = 0; first < n; first += a->chunk) {
        size_t rows = n - first < a->chunk ? n - first : a->chunk;
        op.act_to_host(out + first * V, model_logits(m, a, first, rows), rows * V);
    }
    return out;
}

/* ================================================================================================================= *
 * [tmodel.gradient]                                                                                                  */
/* The derivative of the loss along u, by central differences of two widths: the h^2 term cancels (Richardson). Floats
 * are coarse: the widths are such that the loss moves by a good part of itself, its third derivative by little. */
static double along(Model *m, Acts *a, const Data *d, Param *p, const float *w, const double *u, double h) {
    float *moved = xmalloc(p->n * sizeof *moved);
    double slope[2];
    for (int k = 0; k < 2; k++, h /= 2) {
        double loss[2];
        for (int s = 0; s < 2; s++) {
            for (size_t j = 0; j < p->n; j++) moved[j] = (float)((double)w[j] + (s ? -h : h) * u[j]);
            op.upload(p->master, moved, p->n * sizeof *moved);
            loss[s] = loss_of(m, a, d, 0);
        }
        slope[k] = (loss[0] - loss[1]) / (2 * h);
    }
    op.upload(p->master, w, p->n * sizeof *w);
    free(moved);
    return (4 * slope[1] - slope[0]) / 3;
}
/* Every parameter along u = its gradient (the signal) + a random one, which sees what is at right angles to it. */
static void check_derivatives(const Case *k, const char *isa) {
    ops_select("cpu", isa, PREC_F32);
    Config c = small_config(k);
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 3, 7, k->documents, 11);
    Acts *a = acts_of(m, &d, k, false);
    loss_of(m, a, &d, 1);
    float *g = take_gradients(m);
    double worst = 0;
    char *worst_name = NULL;
    Rng r = {3, 0};
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        const float *g_p = g + (p->grad - m->grad);
        float *w = xmalloc(p->n * sizeof *w);
        double *u = xmalloc(p->n * sizeof *u), g_norm = 0, r_norm = 0, want = 0;
        op.download(w, p->master, p->n * sizeof *w);
        for (size_t j = 0; j < p->n; j++) {
            u[j] = rng_normal(&r);
            r_norm += u[j] * u[j];
            g_norm += (double)g_p[j] * (double)g_p[j];
        }
        g_norm = sqrt(g_norm), r_norm = sqrt(r_norm);
        for (size_t j = 0; j < p->n; j++) {
            u[j] = u[j] / r_norm + (g_norm > 0 ? (double)g_p[j] / g_norm : 0);
            want += u[j] * (double)g_p[j];
        }
        double got = along(m, a, &d, p, w, u, 0.02);
        double error = fabs(got - want) / (2e-3 * fabs(want) + 2e-3);
        if (!(error <= worst)) {
            worst = error;
            free(worst_name);
            char *name = param_name(p);
            worst_name = strf("%s: differences %.6f, gradient %.6f", name, got, want);
            free(name);
        }
        free(w);
        free(u);
    }
    CHECK(worst <= 1, "derivatives of %d parameters, %s, %s: worst %.2f of the tolerance (%s)", m->n_params, k->name,
          op.name, worst, worst_name);
    free(worst_name);
    free(g);
    acts_free(a);
    model_free(m);
    free_data(&d);
}

static char *scratch_dir(const char *family, DType dtype, const char *what) {
    char *dir = strf("%s/%s-%s-%s", test_tmpdir(), family, dtype_name(dtype), what);
    make_dirs(dir);
    return dir;
}
/* The blocks' matrices as numbers of 8 or 4 bits in groups of 8, an odd one with zero points; with plain, as floats
 * what those stand for. */
static void *own(Model *m, void *p) {
    m->own = xrealloc(m->own, (size_t)(m->n_own + 1) * sizeof *m->own);
    return m->own[m->n_own++] = p;
}
static void quantise_blocks(Model *m, int bits, bool plain) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        if (p->kind != KIND_MATRIX || p->layer < 0) continue;
        if (plain) {
            float *w = own(m, xmalloc(p->n * sizeof *w));
            op.mat_to_f32(w, &p->w);
            p->w = MAT(DT_F32, p->rows, p->cols, w);
            continue;
        }
        Mat q = {.dtype = bits == 4 ? DT_I4 : DT_I8, .rows = p->rows, .cols = p->cols, .group = 8,
            .scale_dtype = DT_F32};
        size_t groups = mat_groups(&q), row_bytes = mat_row_bytes(&q);
        uint8_t *data = own(m, xcalloc(p->rows, row_bytes));
        float *scale = own(m, xmalloc(p->rows * groups * sizeof *scale));
        int8_t *zero = i % 2 ? own(m, xcalloc(p->rows, groups)) : NULL;
        int high = bits == 4 ? 7 : 127;
        for (size_t o = 0; o < p->rows; o++)
            for (size_t g = 0; g < groups; g++) {
                size_t end = (g + 1) * 8 < p->cols ? (g + 1) * 8 : p->cols, at = o * groups + g;
                scale[at] = (float)(max_abs(p->master + o * p->cols + g * 8, end - g * 8) / (high - 2));
                if (zero) zero[at] = (int8_t)(at % 5) - 2;
                for (size_t c = g * 8; c < end; c++) {
                    int v = (int)rintf(p->master[o * p->cols + c] / scale[at]) + (zero ? zero[at] : 0);
                    if (bits == 8) data[o * row_bytes + c] = (uint8_t)v;
                    else data[o * row_bytes + c / 2] |= (uint8_t)((v + 8) << (c % 2 * 4));
                }
            }
        q.data = data, q.scale = scale, q.zero = zero;
        p->w = q;
    }
}
/* Adapters on every linear layer, in place of the weights, and a classifier's head beside them: their derivatives along
 * their gradients, by differences; then recomputed layers, and a round through the files. Dropout on the adapters'
 * inputs too. bits 8 or 4: over quantised weights, where the gradients must be those over the floats that they stand
 * for. */
static void check_adapters(const Case *k, int bits) {
    ops_select("cpu", "auto", PREC_F32);
    Config c = small_config(k);
    Model *m = wide_model(&c, 5);
    static const char *all[] = {"all-linear"};
    op.mem_free(m->grad), op.mem_free(m->m), op.mem_free(m->v);
    for (int i = 0; i < m->n_params; i++) m->params[i].grad = NULL;
    if (bits) quantise_blocks(m, bits, false);
    bool files = k->dropout == 0 && !k->change && !bits;
    char *base = files ? scratch_dir(k->family, DT_F32, "lora-base") : NULL;
    if (files) model_save(m, base, DT_F32);
    model_lora_new(m, &(LoraOpts){.r = 3, .alpha = 5, .rslora = true, .targets = {all, 1}}, 6);
    model_train_begin(m);
    CHECK(!c.n_classes == !m->at[0][R_CLASS] && (!c.n_classes || m->at[0][R_CLASS]->grad),
        "%s: a head trains beside adapters", k->name);
    Rng r = {9, 0};
    for (int i = 0; i < m->n_lora; i++)                               /* B is zero at first: A would have no gradient */
        for (int j = 0; j < m->lora[i].n_parts; j++) {
            Param *b = &m->lora[i].b[j];
            float *w = xmalloc(b->n * sizeof *w);
            for (size_t e = 0; e < b->n; e++) w[e] = (float)(0.3 * rng_normal(&r));
            op.upload(b->master, w, b->n * sizeof *w);
            free(w);
        }
    Data d = make_data(&c, 3, 7, k->documents, 11);
    Acts *a = acts_of(m, &d, k, false), *few = acts_of(m, &d, k, true);
    a->noise.lora_dropout = few->noise.lora_dropout = k->dropout;
    double worst = 0, loss = loss_of(m, a, &d, 1);
    char *worst_name = NULL;
    float *g = xmalloc(m->n_trained * sizeof *g), *g_few = xmalloc(m->n_trained * sizeof *g_few);
    op.download(g, m->grad, m->n_trained * sizeof *g);
    op.zero(m->grad, m->n_trained * sizeof *g);
    double loss_few = loss_of(m, few, &d, 1);
    op.download(g_few, m->grad, m->n_trained * sizeof *g);
    CHECK(loss == loss_few && !memcmp(g, g_few, m->n_trained * sizeof *g),
        "recomputing layers with adapters, %s: the same bits", k->name);
    if (bits) {
        Mat *was = xmalloc((size_t)m->n_params * sizeof *was);
        for (int i = 0; i < m->n_params; i++) was[i] = m->params[i].w;
        quantise_blocks(m, bits, true);
        op.zero(m->grad, m->n_trained * sizeof *g);
        double loss_plain = loss_of(m, a, &d, 1);
        op.download(g_few, m->grad, m->n_trained * sizeof *g);
        CHECK(loss == loss_plain && !memcmp(g, g_few, m->n_trained * sizeof *g),
              "adapters over %d bits, %s: loss and gradients are those over the same numbers as floats", bits, k->name);
        for (int i = 0; i < m->n_params; i++) m->params[i].w = was[i];
        free(was);
    }
    for (int i = 0; i < m->n_lora + m->n_params; i++)
        for (int j = -1; j < (i < m->n_lora ? m->lora[i].n_parts : 0); j++) {
            Param *p = i >= m->n_lora ? &m->params[i - m->n_lora] : j < 0 ? &m->lora[i].a : &m->lora[i].b[j];
            if (!p->grad) continue;
            const float *g_p = g + (p->grad - m->grad);
            float *w = xmalloc(p->n * sizeof *w);
            double *u = xmalloc(p->n * sizeof *u), g_norm = 0, want = 0;
            op.download(w, p->master, p->n * sizeof *w);
            for (size_t e = 0; e < p->n; e++) g_norm += (double)g_p[e] * (double)g_p[e];
            g_norm = sqrt(g_norm);
            for (size_t e = 0; e < p->n; e++) {
                u[e] = rng_normal(&r) / sqrt((double)p->n) + (g_norm > 0 ? (double)g_p[e] / g_norm : 0);
                want += u[e] * (double)g_p[e];
            }
            double got = along(m, a, &d, p, w, u, 0.005), error = fabs(got - want) / (2e-3 * fabs(want) + 2e-3);
            if (!(error <= worst)) {
                worst = error;
                free(worst_name);
                worst_name = strf("%s, part %d: differences %.6f, gradient %.6f",
                    i < m->n_lora ? m->lora[i].module : param_name(p), j, got, want);
            }
            free(w), free(u);
        }
    CHECK(m->n_lora > 0 && worst <= 1, "derivatives of %d adapters over %s, %s: worst %.2f of the tolerance (%s)",
        m->n_lora,
          bits == 8 ? "8 bits" : bits ? "4 bits" : "floats", k->name, worst, worst_name);
    free(worst_name), free(g), free(g_few);
    if (files) {                                     /* the same loss from the adapter read back, and from the two as one */
        char *dir = scratch_dir(k->family, DT_F32, "lora"), *sum = scratch_dir(k->family, DT_F32, "lora-sum");
        model_lora_save(m, dir, base);
        model_save(m, sum, DT_F32);
        Model *again = model_load(base, false);
        model_lora_load(again, dir);
        Acts *b = acts_new(again, 3, 7, 7, true, false);
        double loss_again = loss_of(again, b, &d, 0);
        CHECK(again->n_lora == m->n_lora && loss_again == loss,
            "%s: adapters written and read give the loss %.8f, before %.8f", k->name, loss_again, loss);
        acts_free(b);
        model_free(again);
        Model *one = model_load(sum, false);
        Acts *of_one = acts_new(one, 3, 7, 7, true, false);
        double loss_one = loss_of(one, of_one, &d, 0);
        CHECK(fabs(loss_one - loss) < 1e-5 * fabs(loss), "%s: with adapters added to the weights the loss is %.8f, beside "
            "them %.8f", k->name, loss_one, loss);
        acts_free(of_one);
        model_free(one);
        free(base), free(dir), free(sum);
    }
    acts_free(a), acts_free(few);
    model_free(m);
    free_data(&d);
}

/* Keeping each layer's input only must change no bit: the same ops see the same numbers. */
static void check_recompute(const Case *k) {
    Config c = small_config(k);
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 3, 7, k->documents, 11);
    Acts *all = acts_of(m, &d, k, false), *few = acts_of(m, &d, k, true);
    double loss_all = loss_of(m, all, &d, 0.1f);
    float *g_all = take_gradients(m);
    double loss_few = loss_of(m, few, &d, 0.1f);
    float *g_few = take_gradients(m);
    CHECK(loss_all == loss_few && !memcmp(g_all, g_few, m->n_weights * sizeof *g_all) && few->bytes < all->bytes,
          "recomputing layers, %s: the same bits in %zu bytes instead of %zu", k->name, few->bytes, all->bytes);
    free(g_all), free(g_few);
    acts_free(all), acts_free(few);
    model_free(m);
    free_data(&d);
}

/* A NULL gradient freezes a parameter and leaves the others' gradients as they are: what LoRA stands on. Below the
 * lowest layer that learns nothing is computed. */
static void check_frozen(void) {
    static const char *const which[] = {"every second parameter", "the embeddings and a layer",
                                        "those and the next layer but for its first norm", "all layers"};
    for (int k = 0; k < 4; k++) {
        Config c = small_config(&cases[8]);
        Model *m = wide_model(&c, 5);
        Data d = make_data(&c, 2, 7, false, 11);
        Acts *a = acts_of(m, &d, &cases[8], false);
        loss_of(m, a, &d, 1);
        float *all = take_gradients(m);
        size_t n_wrong = 0, n_frozen = 0;
        for (int i = 0; i < m->n_params; i++) {
            Param *p = &m->params[i];
            const bool embedding = p->layer < 0 && p->role <= R_EMBED_B;
            const bool below = embedding || p->layer == 0, next = p->layer == 1 && p->role != R_NORM1_W;
            if (k == 0 ? i % 2 == 0 : k == 1 ? below : k == 2 ? below || next : embedding || p->layer >= 0)
                p->grad = NULL, n_frozen++;
        }
        loss_of(m, a, &d, 1);
        float *some = take_gradients(m);
        for (int i = 0; i < m->n_params; i++) {
            Param *p = &m->params[i];
            size_t at = (size_t)(p->master - m->master);
            for (size_t j = 0; j < p->n; j++) n_wrong += some[at + j] != (p->grad ? all[at + j] : 0);
        }
        CHECK(!n_wrong && n_frozen && (int)n_frozen < m->n_params,
              "freezing %s leaves the other gradients alone (%zu values differ)", which[k], n_wrong);
        free(all), free(some);
        acts_free(a);
        model_free(m);
        free_data(&d);
    }
}

/* Two half batches add up to the whole one, but for the order of sums. */
static void check_accumulation(const Case *k) {
    Config c = small_config(k);
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 4, 7, k->documents, 11);
    Acts *a = acts_new(m, 4, 7, 7, true, false);
    double whole = loss_of(m, a, &d, 0.05f);
    size_t n_whole = a->n_target, n_halves = 0;
    float *g_whole = take_gradients(m);
    double halves = 0;
    for (size_t h = 0; h < 2; h++) {
        Data half = {2, 7, d.tokens + h * 14, d.targets + h * 14, d.start ? d.start + h * 14 : NULL,
                     d.types ? d.types + h * 14 : NULL, NULL};
        halves += loss_of(m, a, &half, 0.05f);
        n_halves += a->n_target;
    }
    float *g_halves = take_gradients(m);
    CHECK(fabs(whole - halves) < 1e-5 * whole && n_whole == n_halves, "losses of two halves add up, %s: %.7f + = %.7f, "
          "%zu targets", k->name, halves, whole, n_whole);
    CHECK_CLOSE("gradients of two halves add up", g_halves, g_whole, m->n_weights, 2e-6 * max_abs(g_whole,
                                                                                                  m->n_weights), 2e-5);
    free(g_whole), free(g_halves);
    acts_free(a);
    model_free(m);
    free_data(&d);
}

/* The classifier in pieces of 5 rows against all at once, and a vocabulary so large that pieces come by themselves. */
static void check_chunks(const char *family) {
    Config c = small_config(&(Case){.family = family});
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 3, 7, false, 11);
    Acts *a = acts_new(m, 3, 7, 7, true, false);
    double whole = loss_of(m, a, &d, 0.05f);
    float *g_whole = take_gradients(m);
    a->chunk = 5;
    double pieces = loss_of(m, a, &d, 0.05f);
    float *g_pieces = take_gradients(m);
    CHECK(fabs(whole - pieces) < 1e-6 * whole, "%s: loss with the classifier in pieces: %.8f, at once %.8f", family,
          pieces, whole);
    CHECK_CLOSE("gradients with the classifier in pieces", g_pieces, g_whole, m->n_weights,
                2e-6 * max_abs(g_whole, m->n_weights), 2e-5);
    free(g_whole), free(g_pieces);
    acts_free(a);
    model_free(m);
    free_data(&d);
}
static void check_large_vocabulary(void) {
    Config c = small_config(&cases[4]);
    c.V = 70000, c.C = 8, c.D = 2, c.rope_dims = 2, c.F = 8, c.L = 1;
    Model *m = model_new(&c, 1);
    Data d = make_data(&c, 3, 50, false, 2);
    Acts *a = acts_new(m, 3, 50, 50, false, false);
    CHECK(a->chunk < 150 && a->chunk >= 128, "150 rows of 70,000 logits are made %zu at a time", a->chunk);
    double loss = loss_of(m, a, &d, 0) / (double)a->n_target;
    CHECK(fabs(loss - log(70000)) < 0.01, "a new model knows nothing: loss %.4f, log(70000) = %.4f", loss, log(70000));
    acts_free(a);
    model_free(m);
    free_data(&d);
}

/* ================================================================================================================= *
 * [tmodel.cache] The same logits by every road                                                                       */
static void check_cache(const Case *k) {
    enum { B = 2, T = 11, SHORT = 4, PROMPT = 6 };
    Config c = small_config(k);
    size_t V = (size_t)c.V;
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, B, T, false, 11);
    Batch b = batch_of(&d);
    Acts *train = acts_new(m, B, T, T, true, false), *whole = acts_new(m, B, T, T, false, false);
    forward(m, train, &b);
    float *want = logits_of(m, train, B * T);
    forward(m, whole, &b);
    float *got = logits_of(m, whole, B * T);
    CHECK_CLOSE("inference = training forward", got, want, B * T * V, 1e-5, 1e-5);
    free(got);

    /* one row: a prompt, then two more tokens in one call, then one by one */
    Acts *cache = acts_new(m, 1, PROMPT, T + 3, false, false);
    got = xmalloc(T * V * sizeof *got);
    for (size_t at = 0, n = PROMPT; at < T; at += n, n = at == PROMPT ? 2 : 1) {
        int32_t pos = (int32_t)at;
        forward(m, cache, &(Batch){.B = 1, .T = n, .tokens = d.tokens + at, .pos = &pos});
        float *rows = logits_of(m, cache, n);
        memcpy(got + at * V, rows, n * V * sizeof *got);
        free(rows);
    }
    CHECK_CLOSE("prefill, more, decode = training forward", got, want, T * V, 2e-5, 2e-5);
    free(got);
    acts_free(cache);

    /* two rows of different lengths: the shorter padded at the end of the prompt, then each at its own place */
    int32_t prompt[B * PROMPT], pos[B] = {0, 0}, len[B] = {PROMPT, SHORT}, next[B];
    for (int i = 0; i < B * PROMPT; i++) {
        int row = i / PROMPT, t = i % PROMPT;
        prompt[i] = t < len[row] ? d.tokens[row * T + t] : 0;
    }
    cache = acts_new(m, B, PROMPT, T, false, false);
    forward(m, cache, &(Batch){.B = B, .T = PROMPT, .tokens = prompt, .pos = pos, .len = len});
    got = logits_of(m, cache, B * PROMPT);
    CHECK_CLOSE("padded prompt, long row", got, want, PROMPT * V, 2e-5, 2e-5);
    CHECK_CLOSE("padded prompt, short row", got + PROMPT * V, want + T * V, SHORT * V, 2e-5, 2e-5);
    free(got);
    for (int step = 0; step < 3; step++) {
        for (int row = 0; row < B; row++) pos[row] = len[row] + step, next[row] = d.tokens[row * T + pos[row]];
        forward(m, cache, &(Batch){.B = B, .T = 1, .tokens = next, .pos = pos});
        got = logits_of(m, cache, B);
        for (int row = 0; row < B; row++) {
            char what[96];
            snprintf(what, sizeof what, "%s: row %d decoded at its place %d", k->name, row, pos[row]);
            CHECK_CLOSE(what, got + (size_t)row * V, want + (size_t)(row * T + pos[row]) * V, V, 2e-5, 2e-5);
        }
        free(got);
    }
    acts_free(cache);
    acts_free(train), acts_free(whole);
    free(want);
    model_free(m);
    free_data(&d);
}

/* Keys and values in int8: five tokens behind a prompt in one pass have the bits of one by one, a row copied to another
 * goes on as it does, training does not notice, and the logits are those of the plain cache but for the rounding. */
static void check_small_cache(const Case *k) {
    enum { B = 2, T = 11, PROMPT = 6, MORE = T - PROMPT };
    Config c = small_config(k);
    size_t V = (size_t)c.V;
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 1, T, false, 11);
    Batch b = batch_of(&d);
    Acts *plain = acts_new(m, 1, T, T, false, false), *train = acts_new(m, 1, T, T, true, false);
    forward(m, plain, &b), forward(m, train, &b);
    float *want = logits_of(m, plain, T), *of_train = logits_of(m, train, T);
    m->cfg.cache_i8 = true;
    Acts *again = acts_new(m, 1, T, T, true, false), *at_once = acts_new(m, B, T, T, false, false), *alone = acts_new(m, 1, T, T, false, false);
    forward(m, again, &b);
    float *small = logits_of(m, again, T), *one = xmalloc(MORE * V * sizeof *one);
    CHECK(!memcmp(small, of_train, T * V * sizeof *small), "%s: training does not notice an int8 cache", k->name);
    free(small);
    forward(m, at_once, &b);
    small = logits_of(m, at_once, T);
    double off = 0, size = 0;
    for (size_t i = 0; i < T * V; i++) {
        off += pow((double)small[i] - (double)want[i], 2);
        size += pow((double)want[i], 2);
    }
    CHECK(off > 0 && off < 4e-4 * size, "%s: an int8 cache changes logits by %.2g of their size", k->name, sqrt(off / size));
    free(small);
    int32_t pos[B] = {0, PROMPT}, last[B];
    Batch part = {.B = 1, .T = PROMPT, .tokens = d.tokens, .pos = pos};
    forward(m, at_once, &part), forward(m, alone, &part);
    pos[0] = PROMPT;
    forward(m, at_once, &(Batch){.B = 1, .T = MORE, .tokens = d.tokens + PROMPT, .pos = pos});
    small = logits_of(m, at_once, MORE);
    off = size = 0;
    for (size_t i = 0; i < MORE * V; i++) {
        off += pow((double)small[i] - (double)want[PROMPT * V + i], 2);
        size += pow((double)want[PROMPT * V + i], 2);
    }
    CHECK(off < 4e-4 * size, "%s: and of tokens behind a prompt by %.2g", k->name, sqrt(off / size));
    for (int t = 0; t < MORE; t++) {
        pos[0] = PROMPT + t;
        forward(m, alone, &(Batch){.B = 1, .T = 1, .tokens = d.tokens + PROMPT + t, .pos = pos});
        float *row = logits_of(m, alone, 1);
        memcpy(one + (size_t)t * V, row, V * sizeof *row);
        free(row);
    }
    CHECK(!memcmp(small, one, MORE * V * sizeof *one), "%s: int8 cache, %d tokens in a pass have the bits of one by one", k->name, MORE);
    free(small);
    acts_cache_copy(m, at_once, 1, 0, T - 1);
    pos[0] = pos[1] = T - 1, last[0] = last[1] = d.tokens[T - 1];
    forward(m, at_once, &(Batch){.B = B, .T = 1, .tokens = last, .pos = pos});
    small = logits_of(m, at_once, B);
    CHECK(!memcmp(small, small + V, V * sizeof *small) && !memcmp(small, one + (MORE - 1) * V, V * sizeof *small),
          "%s: int8 cache, a copied row goes on with the same bits", k->name);
    free(small), free(one), free(want), free(of_train);
    acts_free(plain), acts_free(train), acts_free(again), acts_free(at_once), acts_free(alone);
    model_free(m);
    free_data(&d);
}

/* Block by block over two batches that take turns, the same bits as all blocks at once. */
static void check_parts(const Case *k) {
    enum { B = 2, T = 9 };
    Config c = small_config(k);
    Model *m = wide_model(&c, 6);
    size_t n = B * T * (size_t)c.C;
    Data d[2] = {make_data(&c, B, T, k->documents, 12), make_data(&c, B, T, k->documents, 13)};
    Acts *a = acts_new(m, B, T, T, false, false);
    float *want = xmalloc(n * sizeof *want), *got = xmalloc(n * sizeof *got);
    act *stream[2] = {op.mem_alloc(n * op.act_size), op.mem_alloc(n * op.act_size)};
    for (int l = 0; l < c.L; l++)
        for (int i = 0; i < 2; i++) {
            Batch b = batch_of(&d[i]);
            forward_part(m, a, &b, l, l + 1, stream[i]);
        }
    for (int i = 0; i < 2; i++) {
        Batch b = batch_of(&d[i]);
        forward(m, a, &b);
        op.act_to_host(want, a->final, n);
        op.act_to_host(got, stream[i], n);
        CHECK(!memcmp(got, want, n * sizeof *got), "%s: batch %d, block by block = all at once", k->name, i);
        op.mem_free(stream[i]);
        free_data(&d[i]);
    }
    free(want), free(got);
    acts_free(a);
    model_free(m);
}

/* An encoder's rows, padded on the right: what stands behind a row's end changes nothing before it. */
static void check_padding(const Case *k) {
    enum { B = 2, T = 9, SHORT = 5 };
    Config c = small_config(k);
    size_t C = (size_t)c.C;
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, B, T, false, 11);
    Batch b = batch_of(&d);
    b.len = (int32_t[B]){T, SHORT};
    Acts *a = acts_new(m, B, T, T, true, false), *alone = acts_new(m, 1, SHORT, SHORT, false, false);
    forward(m, a, &b);
    float got[SHORT * 64], want[SHORT * 64];
    op.act_to_host(got, act_at(&op, a->final, T * C), SHORT * C);
    forward(m, alone, &(Batch){.B = 1, .T = SHORT, .tokens = d.tokens + T, .types = d.types + T});
    op.act_to_host(want, alone->final, SHORT * C);
    CHECK_CLOSE("a padded row's hidden states = the row alone", got, want, SHORT * C, 1e-5, 1e-5);
    acts_free(a), acts_free(alone);
    model_free(m);
    free_data(&d);
}

/* The classes of a padded row are those of the row alone: a decoder's stand on its last real token. */
static void check_class_padding(const Case *k) {
    enum { B = 2, T = 9, SHORT = 5 };
    Config c = small_config(k);
    size_t n = (size_t)c.n_classes;
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, B, T, false, 11);
    Batch b = batch_of(&d);
    b.targets = NULL, b.len = (int32_t[B]){T, SHORT};
    Acts *a = acts_new(m, B, T, T, false, false), *alone = acts_new(m, 1, SHORT, SHORT, false, false);
    float got[2 * 3], want[3];
    forward(m, a, &b);
    op.act_to_host(got, model_classify(m, a, B), B * n);
    forward(m, alone, &(Batch){.B = 1, .T = SHORT, .tokens = d.tokens + T, .types = d.types ? d.types + T : NULL});
    op.act_to_host(want, model_classify(m, alone, 1), n);
    char what[96];
    snprintf(what, sizeof what, "%s: a padded row's = the row's alone", k->name);
    CHECK_CLOSE(what, got + n, want, n, 1e-5, 1e-5);
    acts_free(a), acts_free(alone);
    model_free(m);
    free_data(&d);
}
/* Documents packed into one row, each seeing itself only and counting its positions from 0, are as good as alone. */
static void check_documents(const Case *k) {
    enum { T = 13, N_DOCUMENTS = 3 };
    static const size_t begin[N_DOCUMENTS + 1] = {0, 4, 5, T};
    Config c = small_config(k);
    size_t V = (size_t)c.V;
    Model *m = wide_model(&c, 5);
    Data d = make_data(&c, 1, T, false, 11);
    int32_t start[T], position[T];
    for (size_t i = 0, doc = 0; i < T; i++) {
        if (i == begin[doc + 1]) doc++;
        start[i] = (int32_t)begin[doc];
        position[i] = (int32_t)(i - begin[doc]);
    }
    Batch packed = batch_of(&d);
    packed.start = start;
    packed.position = position;
    Acts *a = acts_new(m, 1, T, T, true, false);
    forward(m, a, &packed);
    float *got = logits_of(m, a, T), *g[2];
    double loss[2] = {model_loss(m, a, &packed, 0.1f), 0};
    g[0] = take_gradients(m);
    acts_free(a);
    for (size_t doc = 0; doc < N_DOCUMENTS; doc++) {
        size_t n = begin[doc + 1] - begin[doc];
        Batch alone = {.B = 1, .T = n, .tokens = d.tokens + begin[doc], .targets = d.targets + begin[doc]};
        a = acts_new(m, 1, n, n, true, false);
        forward(m, a, &alone);
        float *want = logits_of(m, a, n);
        char what[96];
        snprintf(what, sizeof what, "%s: document %zu of a packed row, against alone", k->name, doc);
        CHECK_CLOSE(what, got + begin[doc] * V, want, n * V, 1e-5, 1e-5);
        loss[1] += model_loss(m, a, &alone, 0.1f);
        free(want);
        acts_free(a);
    }
    g[1] = take_gradients(m);
    CHECK(fabs(loss[0] - loss[1]) < 1e-5 * loss[1], "%s: loss of the packed row %.7f, sum of the documents %.7f",
          k->name, loss[0], loss[1]);
    CHECK_CLOSE("gradients of the packed row", g[0], g[1], m->n_weights, 2e-6 * max_abs(g[1], m->n_weights), 2e-5);
    free(got), free(g[0]), free(g[1]);
    model_free(m);
    free_data(&d);
}

/* ================================================================================================================= *
 * [tmodel.threads] Losses, gradients and trained weights: the same bits from 1, 2 and 3 threads. Sizes above the
 * thresholds under which ops stay on one thread. */
static void check_threads(const char *family, Precision precision) {
    ops_select("cpu", "auto", precision);
    Config c = small_config(&(Case){.family = family});
    c.V = 301, c.C = 96, c.H = 6, c.K = c.pos == POS_ROPE ? 2 : 6, c.D = 16, c.F = 208, c.max_pos = 64;
    c.rope_dims = 16;
    float *first = NULL, *first_w = NULL;
    double first_loss = 0;
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        Model *m = wide_model(&c, 9);
        Data d = make_data(&c, 3, 61, true, 4);
        Acts *a = acts_new(m, 3, 61, 61, true, false);
        a->noise.dropout = 0.1f;
        a->drop_seed = 5;
        double loss = loss_of(m, a, &d, 0.01f);
        float *g = xmalloc(m->n_weights * sizeof *g), *w = xmalloc(m->n_weights * sizeof *w);
        op.download(g, m->grad, m->n_weights * sizeof *g);
        OptimOpts h = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0};
        model_adamw(m, &h, 1, model_grad_norm(m));
        op.download(w, m->master, m->n_weights * sizeof *w);
        if (threads == 1) first = g, first_w = w, first_loss = loss;
        else {
            CHECK(loss == first_loss && !memcmp(g, first, m->n_weights * sizeof *g)
                  && !memcmp(w, first_w, m->n_weights * sizeof *w),
                  "%s, %s: loss %.9g, gradients and weights after a step have the same bits with %d threads as with 1",
                  family, precision == PREC_BF16 ? "bf16" : "f32", loss, threads);
            free(g), free(w);
        }
        acts_free(a);
        model_free(m);
        free_data(&d);
    }
    free(first), free(first_w);
}

/* NEFTune: uniform noise in +-alpha / sqrt(T C) on the embeddings, another one each step, none where there is no
 * alpha. */
static void check_noise(void) {
    Config c = small_config(&(Case){.family = "llama"});
    Model *m = wide_model(&c, 9);
    Data d = make_data(&c, 2, 19, false, 4);
    size_t n = 2 * 19 * (size_t)c.C;
    float *x[4], bound = 5 / sqrtf(19 * (float)c.C), most = 0;
    double sum = 0, squares = 0;
    Acts *a = acts_new(m, 2, 19, 19, true, false);
    for (int i = 0; i < 4; i++) {                                    /* without, with, the same again, another step's */
        a->noise.neftune = i ? 5 : 0;
        a->drop_seed = i == 3;
        Batch b = batch_of(&d);
        forward(m, a, &b);
        x[i] = xmalloc(n * sizeof *x[i]);
        op.act_to_host(x[i], a->layer[0].x, n);
    }
    for (size_t i = 0; i < n; i++) {
        float noise = x[1][i] - x[0][i];
        most = fmaxf(most, fabsf(noise));
        sum += (double)noise, squares += (double)(noise * noise);
    }
    CHECK(most <= bound * 1.001f && most > 0.97f * bound && fabs(sum / (double)n) < 0.1 * (double)bound &&
          fabs(squares / (double)n - (double)(bound * bound) / 3) < 0.05 * (double)(bound * bound),
          "NEFTune's noise is uniform in +-%.4f: at most %.4f, mean %.2g", (double)bound, (double)most,
              sum / (double)n);
    CHECK(!memcmp(x[1], x[2], n * sizeof(float)) && memcmp(x[1], x[3], n * sizeof(float)), "the step decides it");
    for (int i = 0; i < 4; i++) free(x[i]);
    acts_free(a);
    model_free(m);
    free_data(&d);
}

/* bf16 rounds what products read to 8 bits; losses of a model with ordinary weights move little, gradients keep their
 * direction. */
static void check_bf16(const char *family) {
    Config c = small_config(&(Case){.family = family});
    c.V = 301, c.C = 96, c.H = c.K = 6, c.D = 16, c.rope_dims = 16, c.F = 208;
    double loss[2];
    float *g[2];
    size_t n = 0;
    for (int k = 0; k < 2; k++) {
        ops_select("cpu", "auto", k ? PREC_BF16 : PREC_F32);
        Model *m = wide_model(&c, 9);
        Data d = make_data(&c, 2, 31, false, 4);
        Acts *a = acts_new(m, 2, 31, 31, true, false);
        loss[k] = loss_of(m, a, &d, 0.02f) / (double)a->n_target;
        g[k] = take_gradients(m);
        n = m->n_weights;
        acts_free(a);
        model_free(m);
        free_data(&d);
    }
    ops_select("cpu", "auto", PREC_F32);
    double dot = 0, norm[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        dot += (double)g[0][i] * (double)g[1][i];
        for (int k = 0; k < 2; k++) norm[k] += (double)g[k][i] * (double)g[k][i];
    }
    double cosine = dot / sqrt(norm[0] * norm[1]);
    CHECK(loss[0] != loss[1] && fabs(loss[0] - loss[1]) < 0.01 * loss[0],
          "%s: loss in bf16 %.5f, in f32 %.5f: within 1%%, and not equal",
          family, loss[1], loss[0]);
    CHECK(cosine > 0.999 && cosine < 1, "%s: gradients in bf16 and f32 have the cosine %.6f", family, cosine);
    free(g[0]), free(g[1]);
}

/* ================================================================================================================= *
 * [tmodel.files]                                                                                                     */
static float *masters(Model *m) {
    float *w = xmalloc(m->n_weights * sizeof *w);
    op.download(w, m->master, m->n_weights * sizeof *w);
    return w;
}
/* Round to nearest even, written otherwise than the library's: half of the last place is added in double. */
static float nearest_bf16(float x) {
    int e;
    double f = frexp((double)x, &e), scaled = ldexp(f, 8), r = rint(scaled);
    return (float)ldexp(r, e - 8);
}
static float nearest_f16(float x) {
    int e;
    frexp((double)x, &e);
    if (e < -13) e = -13;                                             /* subnormal halves have a fixed last place */
    return (float)ldexp(rint(ldexp((double)x, 11 - e)), e - 11);
}

static void check_files(const Case *k) {
    Config c = small_config(k);
    Model *m = wide_model(&c, 5);
    float *w = masters(m);
    Data d = make_data(&c, 2, 7, false, 11);
    Batch b = batch_of(&d);
    size_t n_logits = 14 * (size_t)c.V;
    Acts *a = acts_new(m, 2, 7, 7, false, false);
    forward(m, a, &b);
    float *want = logits_of(m, a, 14);
    acts_free(a);

    for (DType dtype = DT_F32; dtype <= DT_BF16; dtype++) {
        char *dir = scratch_dir(k->family, dtype, "saved");
        model_save(m, dir, dtype);
        Model *back = model_load(dir, true), *in_place = model_load(dir, false);
        float *w_back = masters(back), *w_want = xmalloc(m->n_weights * sizeof *w_want);
        for (size_t i = 0; i < m->n_weights; i++)
            w_want[i] = dtype == DT_F32 ? w[i] : dtype == DT_F16 ? nearest_f16(w[i]) : nearest_bf16(w[i]);
        CHECK(!memcmp(w_back, w_want, m->n_weights * sizeof *w),
              "%s: saved as %s, loaded to train: every weight is the nearest",
              k->name, dtype_name(dtype));
        CHECK(back->cfg.tied == c.tied && back->cfg.K == c.K && back->cfg.D == c.D && back->cfg.F == c.F
              && back->cfg.max_pos == c.max_pos && back->cfg.norm_eps == c.norm_eps
                  && back->cfg.rope_base == c.rope_base
              && back->cfg.qkv_bias == c.qkv_bias && back->cfg.window == c.window,
              "%s: config.json written and read again gives the same parts", k->name);
        float *logits[2];
        for (int i = 0; i < 2; i++) {
            Model *l = i ? in_place : back;
            a = acts_new(l, 2, 7, 7, false, false);
            forward(l, a, &b);
            logits[i] = logits_of(l, a, 14);
            acts_free(a);
        }
        CHECK(!memcmp(logits[0], logits[1], n_logits * sizeof(float)),
              "%s: %s weights in the mmap give the same bits as f32 copies",
              k->name, dtype_name(dtype));
        if (dtype == DT_F32)
            CHECK(!memcmp(logits[0], want, n_logits * sizeof(float)),
                  "%s: the loaded model gives the bits of the saved one", k->name);
        free(logits[0]), free(logits[1]), free(w_back), free(w_want);
        model_free(back);

        /* the same model in shards */
        Tensors *files = tensors_open(dir);
        TensorOut *outs = xcalloc((size_t)files->n, sizeof *outs);
        for (int i = 0; i < files->n; i++) {
            const Tensor *t = &files->v[i];
            outs[i] = (TensorOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims,
                                  .ctx = (void *)(uintptr_t)t->data};
            memcpy(outs[i].shape, t->shape, sizeof outs[i].shape);
        }
        char *shards = scratch_dir(k->family, dtype, "shards");
        tensors_save_sharded(shards, outs, files->n, 6000);
        char *from = path_join(dir, "config.json"), *to = path_join(shards, "config.json"), *text = file_read(from,
                                                                                                              NULL);
        file_write(to, text, strlen(text));
        Model *sharded = model_load(shards, true);
        Model *again = model_load(dir, true);
        CHECK(sharded->n_weights == again->n_weights && !memcmp(sharded->master, again->master,
                                                                m->n_weights * sizeof(float)),
              "%s: the %s model in shards has the same weights", k->name, dtype_name(dtype));

        /* a model loaded for inference saves what it has */
        char *copy = scratch_dir(k->family, dtype, "copy");
        model_save(in_place, copy, dtype);
        Model *copied = model_load(copy, true);
        CHECK(!memcmp(copied->master, again->master, m->n_weights * sizeof(float)),
              "%s: saved from the mmap as %s: the same weights", k->name, dtype_name(dtype));
        model_free(sharded), model_free(again), model_free(copied), model_free(in_place);
        tensors_close(files);
        free(outs), free(from), free(to), free(text), free(dir), free(shards), free(copy);
    }
    free(w), free(want);
    model_free(m);
    free_data(&d);
}

/* Reading and writing under the Hub's names, in the Hub's order. */
static void check_hub_names(void) {
    Config c = small_config(&cases[0]);
    Model *m = wide_model(&c, 5);
    size_t n, n_short, C = (size_t)c.C;
    float *w = model_hub_read(m, "transformer.h.1.attn.c_attn.weight", FIELD_WEIGHT, &n);
    float *w_short = model_hub_read(m, "h.1.attn.c_attn.weight", FIELD_WEIGHT, &n_short);
    CHECK(w && w_short && n == 3 * C * C && n == n_short && !memcmp(w, w_short, n * sizeof *w),
          "c_attn with and without its prefix");
    const float *k = m->at[2][R_K]->master;                           /* its [o][i] is their [i][C + o] */
    bool same = true;
    for (size_t o = 0; o < C; o++)
        for (size_t i = 0; i < C; i++) same &= k[o * C + i] == w[i * 3 * C + C + o];
    CHECK(same, "c_attn is stored (inputs, outputs), its middle third is K");
    for (size_t i = 0; i < n; i++) w[i] = (float)i;
    model_hub_write(m, "h.1.attn.c_attn.weight", FIELD_WEIGHT, w);
    float *back = model_hub_read(m, "h.1.attn.c_attn.weight", FIELD_WEIGHT, &n);
    CHECK(!memcmp(w, back, n * sizeof *w), "what is written is read");
    CHECK(!model_hub_read(m, "h.2.attn.c_attn.weight", FIELD_WEIGHT, &n), "a tensor that is not there is NULL");
    free(w), free(w_short), free(back);
    model_free(m);
}

/* ================================================================================================================= *
 * [tmodel.step] Three steps of AdamW in double, on drawn gradients.                                                  */
static void check_adamw(double clip) {
    Config c = small_config(&cases[8]);
    Model *m = wide_model(&c, 5);
    size_t n = m->n_weights;
    float *w = masters(m), *g = xmalloc(n * sizeof *g);
    float *got = xmalloc(n * sizeof *got), *want = xmalloc(n * sizeof *want);
    double *p = xmalloc(n * sizeof *p), *m1 = xcalloc(n, sizeof *m1), *m2 = xcalloc(n, sizeof *m2);
    for (size_t i = 0; i < n; i++) p[i] = (double)w[i];
    OptimOpts h = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = clip};
    Rng r = {8, 0};
    for (int t = 1; t <= 3; t++) {
        double sum = 0;
        memset(g, 0, n * sizeof *g);
        for (int i = 0; i < m->n_params; i++) {
            float *g_p = g + (m->params[i].grad - m->grad);
            for (size_t j = 0; j < m->params[i].n; j++) g_p[j] = (float)(rng_normal(&r) * pow(10, 2 * rng_normal(&r)));
        }
        for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
        op.upload(m->grad, g, n * sizeof *g);
        double norm = model_grad_norm(m);
        CHECK(fabs(norm - sqrt(sum)) <= 1e-6 * sqrt(sum), "gradient norm %.8g, in double %.8g", norm, sqrt(sum));
        model_adamw(m, &h, t, norm);
        double scale = clip > 0 && norm > clip ? clip / norm : 1;
        for (int i = 0; i < m->n_params; i++) {
            Param *q = &m->params[i];
            bool decayed = q->kind == KIND_MATRIX || q->kind == KIND_EMBED;
            size_t at = (size_t)(q->grad - m->grad);
            for (size_t j = at; j < at + q->n; j++) {
                double x = (double)g[j] * scale;
                if (decayed) p[j] *= 1 - h.lr * h.weight_decay;
                m1[j] = h.beta1 * m1[j] + (1 - h.beta1) * x;
                m2[j] = h.beta2 * m2[j] + (1 - h.beta2) * x * x;
                p[j] -= h.lr * (m1[j] / (1 - pow(h.beta1, t))) / (sqrt(m2[j] / (1 - pow(h.beta2, t))) + h.eps);
            }
        }
    }
    op.download(got, m->master, n * sizeof *got);
    for (size_t i = 0; i < n; i++) want[i] = (float)p[i];
    CHECK_CLOSE(clip > 0 ? "three steps of AdamW, clipped, against double" : "three steps of AdamW against double", got,
                want, n, 3e-7, 1e-6);
    op.download(got, m->grad, n * sizeof *got);
    CHECK(max_abs(got, n) == 0, "the step leaves zero gradients behind");
    free(w), free(g), free(got), free(want), free(p), free(m1), free(m2);
    model_free(m);
}

/* Sixty steps on one batch: the pieces together learn. */
static void check_learns(const Case *k) {
    Config c = small_config(k);
    Model *m = model_new(&c, 3);
    model_train_begin(m);
    Data d = make_data(&c, 2, 8, false, 6);
    Acts *a = acts_new(m, 2, 8, 8, true, false);
    OptimOpts h = {1e-2, 0.9, 0.95, 1e-8, 0.0, 1.0};
    double first = 0, last = 0;
    for (int t = 1; t <= 60; t++) {
        last = loss_of(m, a, &d, 1.0f / 13) / (double)a->n_target;
        if (t == 1) first = last;
        model_adamw(m, &h, t, model_grad_norm(m));
    }
    CHECK(fabs(first - log(23)) < 0.1 && last < 0.1, "%s learns 16 tokens by heart: loss %.3f -> %.4f", k->name, first,
          last);
    acts_free(a);
    model_free(m);
    free_data(&d);
}

/* ================================================================================================================= *
 * [tmodel.sizes]                                                                                                     */
static void check_counts(void) {
    Config c = config_family_default("gpt2");
    c.V = 50257, c.C = 768, c.L = 12, c.H = c.K = 12, c.D = 64, c.F = 3072, c.max_pos = 1024;
    CHECK(config_weights(&c) == 124439808, "GPT-2 has 124,439,808 weights: %zu", config_weights(&c));
    double want = 6.0 * (50257.0 * 768 + 12 * 12 * 768.0 * 768) + 6.0 * 12 * 768 * 1024;
    CHECK(config_flops_per_token(&c, 1024) == want, "GPT-2 costs %.4g FLOPs a token at 1024", want);
    c = config_family_default("llama");
    c.V = 128256, c.C = 4096, c.L = 32, c.H = 32, c.K = 8, c.D = 128, c.F = 14336, c.max_pos = 8192;
    CHECK(config_weights(&c) == 8030261248, "Llama-3 8B has 8,030,261,248 weights: %zu", config_weights(&c));
    c = config_family_default("qwen3");
    c.V = 151936, c.C = 1024, c.L = 28, c.H = 16, c.K = 8, c.D = 128, c.F = 3072, c.tied = true;
    CHECK(config_weights(&c) == 596049920, "Qwen3 0.6B has 596,049,920 weights: %zu", config_weights(&c));
}

typedef struct { const char *what; const void *at; size_t bytes; } Piece;
static int by_address(const void *a, const void *b) {
    const Piece *p = a, *q = b;
    return (p->at > q->at) - (p->at < q->at);
}
/* acts_bytes is what --bytes promises: all pieces lie inside that many bytes, and no two share any. */
static void check_layout(const Case *k, bool train, bool recompute) {
    Config c = small_config(k);
    Model *m = model_new(&c, 1);
    size_t B = 2, T = 5, S = train ? 5 : 9, N = B * T, A = op.act_size;
    size_t C = (size_t)c.C, H = (size_t)c.H, HD = H * (size_t)c.D, KD = (size_t)(c.K * c.D), F = (size_t)c.F;
    size_t bytes = acts_bytes(&c, B, T, S, train, recompute);
    Acts *a = acts_new(m, B, T, S, train, recompute);
    Piece p[512];
    int n = 0;
#define ADD(pointer, size) p[n++] = (Piece){#pointer, pointer, size}
    for (int l = 0; l < c.L; l++) {
        LayerActs *y = &a->layer[l];
        bool own = train && !recompute;
        if (train) ADD(y->x, N * C * A);
        if (!train || own) ADD(y->k, B * S * KD * A), ADD(y->v, B * S * KD * A);
        if (l
            && !own) continue;                                      /* the other layers share the first one's pieces */
        if (!train) ADD(y->x, N * C * A);
        if (train && !own) ADD(y->k, B * S * KD * A), ADD(y->v, B * S * KD * A);
        ADD(y->n1, N * C * A), ADD(y->q, N * HD * A), ADD(y->att, N * HD * A), ADD(y->xm, N * C * A), ADD(y->n2,
                                                                                                          N * C * A);
        ADD(y->up, N * F * A), ADD(y->h, N * F * A);
        if (c.mlp == MLP_SWIGLU) ADD(y->gate, N * F * A);
        if (c.qk_norm) {
            ADD(y->q_raw, N * HD * A), ADD(y->k_raw, N * KD * A);
            ADD(y->q_rstd, N * (size_t)c.H * 4), ADD(y->k_rstd, N * (size_t)c.K * 4);
        }
        if (!train) continue;
        ADD(y->mean1, N * 4), ADD(y->rstd1, N * 4), ADD(y->mean2, N * 4), ADD(y->rstd2, N * 4), ADD(y->lse, N * H * 4);
    }
    bool by_token = c.head == HEAD_LM || c.head == HEAD_MASKED_LM;
    ADD(a->out, N * C * A), ADD(a->logits, a->chunk * (size_t)(by_token ? c.V : c.n_classes) * A), ADD(a->loss, N * 4);
    if (c.norm_place == NORM_PRE) ADD(a->final, N * C * A);
    else if (train) ADD(a->embed, N * C * A), ADD(a->embed_mean, N * 4), ADD(a->embed_rstd, N * 4);
    if (a->head_in) ADD(a->head_in, a->chunk * C * A);
    if (a->head_pre) ADD(a->head_pre, a->chunk * C * A), ADD(a->head_act, a->chunk * C * A);
    if (a->head_norm)
        ADD(a->head_norm, a->chunk * C * A), ADD(a->head_mean, a->chunk * 4), ADD(a->head_rstd, a->chunk * 4);
    if (a->types) ADD(a->types, N * 4);
    if (a->block) ADD(a->block, N * 4);
    ADD(a->prefix, B * 4), ADD(a->rows, N * 4);
    ADD(a->tokens, N * 4), ADD(a->targets, N * 4), ADD(a->position, N * 4), ADD(a->start, N * 4);
    ADD(a->pos, B * 4), ADD(a->len, B * 4);
    ADD(a->dk, (train ? B * S : N) * KD * A), ADD(a->dv, (train ? B * S : N) * KD * A);
    if (train) {
        ADD(a->dx, N * C * A), ADD(a->dn, N * C * A), ADD(a->dq, N * HD * A), ADD(a->dh, N * (F > HD ? F : HD) * A);
        ADD(a->delta, N * (size_t)c.H * 4), ADD(a->order, N * 4), ADD(a->mean, N * 4), ADD(a->rstd, N * 4);
        ADD((char *)a->dhead - C * A, (a->chunk + 1) * C * A);        /* a row of zeros before it */
        if (c.mlp == MLP_SWIGLU) ADD(a->dgate, N * F * A);
    }
#undef ADD
    qsort(p, (size_t)n, sizeof *p, by_address);
    const char *end = a->arena, *problem = NULL;
    size_t sum = 0;
    for (int i = 0; i < n && !problem; i++) {
        if ((const char *)p[i].at < end || (uintptr_t)p[i].at % 64) problem = p[i].what;
        end = (const char *)p[i].at + p[i].bytes;
        sum += p[i].bytes;
    }
    size_t used = (size_t)(end - (const char *)a->arena);
    CHECK(!problem && used <= bytes && bytes == a->bytes && sum + 64 * (size_t)n >= bytes,
          "%s, %s: %d pieces side by side in the %zu bytes promised (%s)", k->name,
          !train ? "inference" : recompute ? "training, recomputing" : "training", n, bytes,
          problem ? problem : "none overlaps");
    acts_free(a);
    model_free(m);
}

/* ================================================================================================================= *
 * [tmodel.border]                                                                                                    */
static void write_config(const char *dir, const char *json) {
    char *path = path_join(dir, "config.json");
    file_write(path, json, strlen(json));
    free(path);
}
#define LLAMA_JSON "{\"model_type\":\"llama\",\"vocab_size\":32,\"hidden_size\":16,\"num_hidden_layers\":1," \
                   "\"num_attention_heads\":4,\"intermediate_size\":24"
static void check_refusals(void) {
    Config c = small_config(&cases[0]);
    Model *m = wide_model(&c, 1);
    Acts *a = acts_new(m, 1, 4, 4, false, false);
    int32_t good[4] = {1, 2, 3, 4}, bad[4] = {1, 2, 23, 4}, negative[4] = {1, 2, -1, 4}, pos = 1;
    CHECK_DIES(forward(m, a, &(Batch){.B = 1, .T = 4, .tokens = bad}), "token id 23 is outside");
    CHECK_DIES(forward(m, a, &(Batch){.B = 1, .T = 4, .tokens = negative}), "token id -1 is outside");
    CHECK_DIES(forward(m, a, &(Batch){.B = 1, .T = 4, .tokens = good, .targets = bad}), "target id 23 is outside");
    CHECK_DIES(forward(m, a, &(Batch){.B = 1, .T = 4, .tokens = good, .pos = &pos}), "do not fit the context of 4");
    CHECK_DIES(forward(m, a, &(Batch){.B = 2, .T = 4, .tokens = good}), "buffers for 1 x 4");
    acts_free(a);
    a = acts_new(m, 1, 33, 33, false, false);
    int32_t many[33] = {0};
    CHECK_DIES(forward(m, a, &(Batch){.B = 1, .T = 33, .tokens = many}), "position 32 is past the 32");
    acts_free(a);
    model_free(m);

    char *dir = scratch_dir("llama", DT_F32, "configs");
    static const struct { const char *json, *message; } refused[] = {
        {"{", "not a JSON object"},
        {"[]", "not a JSON object"},
        {"{\"vocab_size\":1}", "\"model_type\" is missing"},
        {"{\"model_type\":\"mamba\"}", "\"mamba\" is not supported"},
        {"{\"model_type\":\"llama\"}", "\"vocab_size\" is missing"},
        {LLAMA_JSON ",\"num_key_value_heads\":3}", "4 query heads cannot share 3"},
        {LLAMA_JSON ",\"num_key_value_heads\":0}", "\"num_key_value_heads\" is 0"},
        {LLAMA_JSON ",\"head_dim\":5}", "even number of dimensions"},
        {LLAMA_JSON ",\"hidden_act\":\"relu\"}", "activation \"relu\" is not supported"},
        {LLAMA_JSON ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4}}",
            "rope_type \"longrope\" is not supported"},
        {LLAMA_JSON ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0}}", "factor"},
        {LLAMA_JSON ",\"rms_norm_eps\":\"small\"}", "\"rms_norm_eps\" is not a number"},
        {LLAMA_JSON ",\"tie_word_embeddings\":1}", "neither true nor false"},
        {"{\"model_type\":\"llama\",\"vocab_size\":1e12}", "\"vocab_size\" is 1e+12"},
        {"{\"model_type\":\"llama\",\"vocab_size\":-4}", "\"vocab_size\" is -4"},
        {"{\"model_type\":\"llama\",\"vocab_size\":3.5}", "\"vocab_size\" is 3.5"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        write_config(dir, refused[i].json);
        CHECK_DIES(config_read(dir), refused[i].message);
    }
    write_config(dir, LLAMA_JSON ",\"rope_scaling\":null,\"num_key_value_heads\":null,\"unknown_key\":[1,2]}");
    Config read = config_read(dir);
    CHECK(read.K == 4 && read.D == 4 && read.rope_base == 10000 && !read.tied,
          "null means absent, and unknown keys are left alone");
    write_config(dir, LLAMA_JSON ",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
                      "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":99},"
                      "\"eos_token_id\":[3,4,5]}");
    read = config_read(dir);
    CHECK(read.rope_base == 5e5f && read.rope_scaling == ROPE_LLAMA3 && read.rope_factor == 8
          && read.rope_original_pos == 99
          && read.n_eos == 3 && read.eos[2] == 5, "rope_parameters of transformers 5; a list of ends");
    free(dir);
}

int main(void) {
    ops_select("cpu", "auto", PREC_F32);
    const int threads = omp_get_max_threads();
    check_noise();
    omp_set_num_threads(1);                                           /* models this small only wait for each other */
    for (int i = 0; i < N_CASES; i++) {
        check_derivatives(&cases[i], "auto");
        check_derivatives(&cases[i], "plain");
        ops_select("cpu", "auto", PREC_F32);
        check_recompute(&cases[i]);
        for (int bits = 0; bits <= 8; bits += 4) check_adapters(&cases[i], bits);
        if (cases[i].dropout == 0) check_parts(&cases[i]);
        Config c = small_config(&cases[i]);
        bool writes = c.head == HEAD_LM && cases[i].dropout == 0;
        if (writes) check_cache(&cases[i]), check_small_cache(&cases[i]);
        if (writes && c.mask == MASK_CAUSAL) check_documents(&cases[i]);
        if (c.head == HEAD_CLASSIFY && cases[i].dropout == 0) check_class_padding(&cases[i]);
        if (cases[i].dropout == 0 && c.mask == MASK_BIDIRECTIONAL) check_padding(&cases[i]);
        check_layout(&cases[i], false, false);
        check_layout(&cases[i], true, false);
        check_layout(&cases[i], true, true);
    }
    check_frozen();
    check_accumulation(&cases[0]);
    check_accumulation(&cases[8]);
    check_chunks("gpt2");
    check_chunks("llama");
    check_chunks("bert");
    check_large_vocabulary();
    for (Precision p = PREC_F32; p <= PREC_BF16; p++) {
        check_threads("gpt2", p);
        check_threads("llama", p);
        check_threads("bert", p);
    }
    omp_set_num_threads(threads);
    check_bf16("gpt2");
    check_bf16("llama");
    check_files(&cases[0]);
    check_files(&cases[6]);
    check_hub_names();
    check_adamw(0);
    check_adamw(1.0);
    check_learns(&cases[0]);
    check_learns(&cases[4]);
    check_counts();
    check_refusals();
    return test_end();
}
