/* evaluate.c - see evaluate.h.
 *
 * MAP
 *   [evaluate.stream]  files to one stream of ids
 *   [evaluate.compare] two models' logits, row by row
 *   [evaluate.run]     the sliding window */
#include "evaluate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [evaluate.stream] */
int opening_token(const Config *c, const Tokenizer *tok) {
    if (tokenizer_adds_bos(tok)) return tokenizer_bos(tok);
    if (tokenizer_eos(tok) >= 0) return tokenizer_eos(tok);
    if (c->n_eos) return c->eos[0];
    return tokenizer_bos(tok) >= 0 ? tokenizer_bos(tok) : c->bos;
}
static void read_text(Stream *s, StrList paths, const Tokenizer *tok, bool opened) {
    Docs *docs = docs_open(paths.v, paths.n);
    size_t n;
    for (const char *text; (text = docs_next(docs, &n));) {
        int eos = tokenizer_eos(tok);
        if (s->documents && eos >= 0 && eos != s->opening) ids_add(&s->ids, eos);
        if (s->opening >= 0 && (s->documents || opened)) ids_add(&s->ids, s->opening);
        tokenizer_encode(tok, text, n, false, &s->ids);
        s->bytes += (double)n;
        s->documents++;
    }
    docs_close(docs);
}
static void read_shards(Stream *s, StrList paths, const Config *c, const Tokenizer *tok, bool opened) {
    Tokens *t = tokens_open(paths.v, paths.n, 0, 1, NULL, NULL);
    size_t n = t->n;
    while (n && tokens_at(t, n - 1) == s->opening) n--;               /* the last document's end is not counted */
    if (n && opened && s->opening >= 0 && tokens_at(t, 0) != s->opening) ids_add(&s->ids, s->opening);
    for (size_t i = 0; i < n; i++) {
        int32_t id = tokens_at(t, i);
        if (id < 0 || id >= c->V)
            die("%s: token %zu is %d, the model has %d: made for another tokenizer?", paths.v[0], i, id, c->V);
        ids_add(&s->ids, id);
        size_t bytes = 0;
        if (tok && id != s->opening && id < tokenizer_vocab(tok)) tokenizer_token(tok, id, &bytes);
        s->bytes += (double)bytes;
    }
    s->documents = n > 0;
    for (size_t i = 1; i < s->ids.n; i++) s->documents += s->ids.v[i] == s->opening;
    tokens_close(t);
}
Stream stream_read(StrList paths, const Config *c, const Tokenizer *tok, bool opened) {
    int n_shards = 0;
    for (int i = 0; i < paths.n; i++) n_shards += ends_with(paths.v[i], ".bin");
    if (n_shards && n_shards < paths.n) die("%s: text and token shards cannot be mixed in one run", paths.v[0]);
    Stream s = {.opening = tok ? opening_token(c, tok) : c->n_eos ? c->eos[0] : c->bos, .uncounted = -1};
    if (tok && tokenizer_adds_bos(tok) && tokenizer_bos(tok) != tokenizer_eos(tok)) s.uncounted = s.opening;
    if (n_shards) read_shards(&s, paths, c, tok, opened);
    else read_text(&s, paths, tok, opened);
    if (s.ids.n < 2) die("%s: %zu token%s: nothing to predict", paths.v[0], s.ids.n, s.ids.n == 1 ? "" : "s");
    return s;
}
void stream_free(Stream *s) { ids_free(&s->ids); }

/* ================================================================================================================= *
 * [evaluate.compare] KL(p || q) = sum p (log p - log q) says how many nats are lost by believing q where p is right:
 * unlike perplexity it counts every token, not only the one that came, so it needs far less text to see a
 * difference. */
static void log_softmax(float *x, size_t V, size_t *largest) {
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (x[i] > x[best]) best = i;
    double sum = 0;
    float top = x[best];
    for (size_t i = 0; i < V; i++) sum += (double)expf(x[i] - top);
    float log_sum = top + (float)log(sum);
    for (size_t i = 0; i < V; i++) x[i] -= log_sum;
    *largest = best;
}
RowComparison compare_row(float *model, float *reference, size_t V, int32_t target) {
    size_t a, b;
    log_softmax(model, V, &a);
    log_softmax(reference, V, &b);
    RowComparison r = {.nats = -(double)model[target], .reference_nats = -(double)reference[target], .agree = a == b};
    for (size_t i = 0; i < V; i++) r.kl += (double)(expf(reference[i]) * (reference[i] - model[i]));
    return r;
}
/* The rows of a batch that both models have gone through. */
static void compare_batch(Evaluation *e, Model *m, Acts *a, Model *reference, Acts *r, const int32_t *targets,
    size_t N) {
    size_t V = (size_t)m->cfg.V, chunk = a->chunk < r->chunk ? a->chunk : r->chunk;
    float *x = xmalloc(size_mul(chunk * V, sizeof *x)), *y = xmalloc(size_mul(chunk * V, sizeof *y));
    RowComparison *row = xmalloc(chunk * sizeof *row);
    for (size_t first = 0; first < N; first += chunk) {
        size_t n = N - first < chunk ? N - first : chunk;
        op.act_to_host(x, model_logits(m, a, first, n), n * V);
        op.act_to_host(y, model_logits(reference, r, first, n), n * V);
        #pragma omp parallel for schedule(static)
        for (size_t i = 0; i < n; i++)
            if (targets[first + i] >= 0) row[i] = compare_row(x + i * V, y + i * V, V, targets[first + i]);
        for (size_t i = 0; i < n; i++) {
            if (targets[first + i] < 0) continue;
            e->nats += row[i].nats, e->reference_nats += row[i].reference_nats, e->kl += row[i].kl;
            e->agree += row[i].agree;
            e->n++;
        }
    }
    free(x), free(y), free(row);
}

/* ================================================================================================================= *
 * [evaluate.run] */
static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

Evaluation evaluate(Model *m, Model *reference, const Stream *s, size_t T, size_t stride) {
    if (reference && reference->cfg.V != m->cfg.V)
        die("the two models have vocabularies of %d and %d: they cannot be compared", m->cfg.V, reference->cfg.V);
    size_t n_targets = s->ids.n - 1, width = min_size(T, n_targets);  /* a short text needs no wide window */
    size_t n_windows = 1 + (n_targets > width ? (n_targets - width + stride - 1) / stride : 0);
    enum { BATCH_TOKENS = 4096, BATCH_ROWS = 8 };                     /* fills the cores; more only costs memory */
    size_t B = BATCH_TOKENS / width;
    B = B > BATCH_ROWS ? BATCH_ROWS : B < 1 ? 1 : B;
    B = min_size(B, n_windows);

    Acts *a = acts_new(m, B, width, width, false, false);
    Acts *r = reference ? acts_new(reference, B, width, width, false, false) : NULL;
    int32_t *tokens = xmalloc(B * width * 4), *targets = xmalloc(B * width * 4), *slot = xmalloc(B * width * 4);
    Evaluation e = {0};
    double begin_s = now_s();
    Progress bar = progress_begin("evaluate", (double)n_windows);
    for (size_t w = 0; w < n_windows; w += B) {
        for (size_t b = 0; b < B; b++) {                              /* a row past the end counts nothing */
            int32_t opened_at = 0;
            for (size_t t = 0; t < width; t++) {
                size_t at = (w + b) * stride + t, i = b * width + t;
                bool inside = w + b < n_windows && at < n_targets;
                tokens[i] = inside ? s->ids.v[at] : 0;
                if (inside && tokens[i] == s->opening) opened_at = (int32_t)t;
                slot[i] = opened_at;
                bool counted = inside && (w + b == 0 || t >= width - stride) && s->ids.v[at + 1] != s->uncounted;
                targets[i] = counted ? s->ids.v[at + 1] : -1;
            }
        }
        Batch batch = {.B = B, .T = width, .tokens = tokens, .targets = targets, .start = slot};
        forward(m, a, &batch);
        if (reference) {
            forward(reference, r, &batch);
            compare_batch(&e, m, a, reference, r, targets, B * width);
        } else {
            e.nats += model_loss(m, a, &batch, 0);
            e.n += a->n_target;
        }
        if (e.n) progress_at(&bar, (double)min_size(w + B, n_windows), "%.4f nats/token", e.nats / (double)e.n);
    }
    e.seconds = now_s() - begin_s;
    progress_end(&bar, "%s tokens, %.0f tokens/s", human_count((double)e.n), (double)e.n / e.seconds);
    if (!isfinite(e.nats)) warn("the loss is not finite: broken weights, or a precision that they do not survive");
    free(tokens), free(targets), free(slot);
    acts_free(a);
    if (r) acts_free(r);
    return e;
}
