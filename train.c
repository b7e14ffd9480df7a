/* train.c - stage 2: pre-training. A model learns to predict the next token, or (BERT) the tokens that were masked.
 *
 *     ./train                                             the built-in corpus, a few minutes on two cores, into out/
 *     ./train --data shakespeare.txt --out play           your own text; the last tenth is held out
 *     ./train --steps 60 --out tiny                       the same as the first, in a minute or less
 *     ./train --resume last                               go on where it stopped, bit for bit
 *
 * THE LESSON. Text is cut into tokens (tokenizer.c) and packed into windows of T tokens (dataset.c). For each window
 * the network (model.c) gives, at every position, a distribution over the next token; the loss is -log of what it gave
 * to the one that came. Its gradient says how to change each weight; AdamW changes them by about lr. That is all: the
 * loop is train_loop below.
 *
 * MAP
 *   [train.options]   every choice, one line each
 *   [train.eval]      loss and bits per byte on text never trained on
 *   [train.sample]    what the model would write now
 *   [train.save]      the model that a checkpoint holds
 *   [train.loop]      the loop
 *   [train.bench]     the same step on random tokens, timed
 * Learning rates, checkpoints and going on are trainer.c's, which fine-tuning shares.
 *
 * Refused here: conversations and instructions (finetune.c), and anything that would make two runs of one command
 * differ. */
#include "dataset.h"
#include "profile.h"
#include "trainer.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [train.options] */
static struct {
    const char *arch, *config, *init, *tokenizer, *split, *out, *resume, *schedule, *precision;
    StrList data, valid_data, prompt;
    int64_t layers, width, heads, kv_heads, ffn, vocab, batch, seq, accum, steps, warmup, eval_steps, eval_tokens,
        sample_steps, sample_tokens, save_steps, keep, bench;
    double init_std, valid_fraction, lr, min_lr, decay_part, weight_decay, beta1, beta2, eps, clip, dropout, mask_rate;
    bool tie, untie, recompute, no_doc_mask, overwrite, load_best, whole_word, cased;
} o = {
    .arch = "llama", .split = "gpt2", .out = "out", .schedule = "cosine", .precision = "bf16",
    .layers = 3, .width = 192, .heads = 6, .batch = 4, .seq = 256, .accum = 1, .steps = 4400, .warmup = 200,
    .eval_steps = 400, .eval_tokens = 32768, .sample_steps = 1000, .sample_tokens = 200, .save_steps = 1000, .keep = 2,
    .valid_fraction = 0.1, .lr = 4e-3, .min_lr = 0.05, .decay_part = 0.25, .weight_decay = 0.1, .beta1 = 0.9,
    .beta2 = 0.99, .eps = 1e-8, .clip = 1.0, .mask_rate = 0.15,
};
static Opt table[] = {
    SECTION("Model"),
    ONE_OF("arch", arch, "family: llama (RMSNorm, rotary, SwiGLU), gpt2, chatglm (as ChatGLM3-6B), bert (masked "
        "tokens)", "llama|gpt2|chatglm|bert"),
    TEXT("config", config, "a config.json (or its directory) that gives family and sizes instead"),
    TEXT("init", init, "a model directory whose weights to start from (continued pre-training)"),
    INT("layers", layers, "blocks", 1, 4096),
    INT("width", width, "width of the residual stream", 1, 1 << 20),
    INT("heads", heads, "attention heads", 1, 4096),
    INT("kv-heads", kv_heads, "key/value heads (0: as many as heads; chatglm: 2)", 0, 4096),
    INT("ffn", ffn, "feed-forward width (0: 4 x width; 8/3 x width when gated)", 0, 1 << 22),
    REAL("init-std", init_std, "deviation of the first weights (0: 0.8 / sqrt(width))", 0, 10),
    FLAG("tie", tie, "share the token embedding with the head (gpt2 does)"),
    FLAG("untie", untie, "do not share it (llama does not when wide; small ones here do)"),
    SECTION("Data"),
    WORDS("data", data, "text, JSON lines, token shards, folders, corpus:BYTES (default: the built-in corpus)"),
    WORDS("valid-data", valid_data, "held-out text (default: the last part of --data; the corpus has its own)"),
    REAL("valid-fraction", valid_fraction, "how much of --data is held out, from its end", 0, 0.9),
    TEXT("tokenizer", tokenizer, "directory with a tokenizer (default: train one on the data)"),
    INT("vocab", vocab, "tokens of the tokenizer trained here (0: by the size of the data, 1024 to 4096)", 0, 1 << 20),
    ONE_OF("split", split, "its word-splitting rule (bert: words are split as BERT does)", "gpt2|llama3"),
    FLAG("cased", cased, "bert: its tokenizer keeps capitals and accents"),
    FLAG("no-doc-mask", no_doc_mask, "let documents packed into one window see each other (bert always does)"),
    REAL("mask-rate", mask_rate, "bert: the share of tokens to predict", 0.001, 0.9),
    FLAG("whole-word", whole_word, "bert: mask all pieces of a word, or none"),
    SECTION("Training"),
    INT("steps", steps, "optimiser steps", 1, 1000000000),
    INT("batch", batch, "windows in a forward pass", 1, 1 << 20),
    INT("seq", seq, "tokens of a window", 2, 1 << 20),
    INT("accum", accum, "forward passes whose gradients are added before a step", 1, 1 << 20),
    REAL("lr", lr, "peak learning rate (bert, whose norms stand after the sums, if not given: half of it)", 0, 10),
    ONE_OF("schedule", schedule, "after warm-up: cosine, warm-up-stable-decay, or constant", "cosine|wsd|constant"),
    INT("warmup", warmup, "steps of linear warm-up", 0, 1000000000),
    REAL("min-lr", min_lr, "last learning rate, as a part of the peak", 0, 1),
    REAL("decay-part", decay_part, "wsd: the part of the steps that decays", 0, 1),
    REAL("weight-decay", weight_decay, "decoupled decay of matrices and embeddings", 0, 10),
    REAL("beta1", beta1, "AdamW: memory of the mean", 0, 0.9999999),
    REAL("beta2", beta2, "AdamW: memory of the square", 0, 0.9999999),
    REAL("eps", eps, "AdamW: added to the root", 1e-20, 1),
    REAL("clip", clip, "largest norm of the gradient (0: any)", 0, 1e9),
    REAL("dropout", dropout, "part of the activations dropped on their way into the stream", 0, 0.95),
    ONE_OF("precision", precision, "inputs of products; sums, weights and moments stay f32", "f32|bf16"),
    FLAG("recompute", recompute, "keep only each layer's input, compute the rest again: less memory, a third more "
        "work"),
    SECTION("Looking and saving"),
    TEXT("out", out, "directory of the run: the model, log.jsonl, report.html, checkpoint-STEP"),
    INT("eval-steps", eval_steps, "validate every so many steps (0: only at the end)", 0, 1000000000),
    INT("eval-tokens", eval_tokens, "tokens of a validation (the last one takes all)", 1, 1e12),
    INT("sample-steps", sample_steps, "write a sample every so many steps (0: only at the end)", 0, 1000000000),
    INT("sample-tokens", sample_tokens, "length of a sample", 1, 100000),
    WORDS("prompt", prompt, "beginnings of the samples"),
    INT("save-steps", save_steps, "checkpoint every so many steps (0: only at the end)", 0, 1000000000),
    INT("keep", keep, "checkpoints kept, beside the best (0: all)", 0, 1000000),
    FLAG("load-best", load_best, "at the end, out/ gets the weights with the lowest validation loss seen at a save"),
    TEXT("resume", resume, "go on from a checkpoint directory, or from the last one in --out: \"last\""),
    FLAG("overwrite", overwrite, "start anew where --out holds an earlier run"),
    INT("bench", bench, "only time so many steps on random tokens; prints one JSON line", 0, 1000000),
    COMMON_OPTS,
};
enum { N_OPTS = sizeof table / sizeof *table };
static const char about[] = "train: pre-training of a LLaMA-style, GPT-2, ChatGLM3 or BERT model.\n"
                            "  ./train [--arch A] [--data FILE...] [--out DIR]\n";

static const char *const stay[] = {"resume", "overwrite", "bench", "device", "threads", "isa", "quiet", "profile",
    NULL};

static const char *builtin_data[] = {"corpus:16M"}, *builtin_valid[] = {"corpus-valid:400k"};
static const char *builtin_prompts[] = {"Once upon a time", "从前", "Question:"};
static const char *builtin_masked[] = {"Once upon a [MASK], there was a kind [MASK] who lived in a small village.",
                                       "从前，[MASK]一座小村子里住[MASK]一个女孩。"};
static void default_data(void) {
    if (o.data.n) return;
    o.data = (StrList){builtin_data, 1};
    if (!o.valid_data.n) o.valid_data = (StrList){builtin_valid, 1};
    if (!o.prompt.n) o.prompt = !strcmp(o.arch, "bert") ? (StrList){builtin_masked, 2} : (StrList){builtin_prompts, 3};
}

static Config config_from_options(int vocab) {
    if (o.config) {
        Config c = config_read(o.config);
        if (vocab > c.V) die("%s: vocab_size %d is smaller than the tokenizer's %d", o.config, c.V, vocab);
        if (o.seq > c.max_pos)
            die("--seq %lld is longer than the %d positions of %s", (long long)o.seq, c.max_pos, o.config);
        return c;
    }
    Config c = config_family_default(o.arch);
    bool gated = c.mlp == MLP_SWIGLU;
    c.V = vocab;
    c.C = (int)o.width;
    c.L = (int)o.layers;
    c.H = (int)o.heads;
    bool chatglm = !strcmp(o.arch, "chatglm");
    c.K = (int)(o.kv_heads ? o.kv_heads : chatglm && o.heads % 2 == 0 ? 2 : o.heads);
    if (c.C % c.H) die("--width %d cannot be shared by %d heads", c.C, c.H);
    c.D = c.C / c.H;
    c.rope_dims = (int)(c.rope_part * (float)c.D);
    c.F = (int)(o.ffn ? o.ffn : gated ? (o.width * 8 / 3 + 15) / 16 * 16 : o.width * 4);
    c.max_pos = (int)(o.seq > 1024 ? o.seq : 1024);
    c.init_std = (float)(o.init_std > 0 ? o.init_std : 0.8 / sqrt((double)c.C));
    if (gated && !chatglm) c.tied = true;                             /* a small model's embedding is worth sharing */
    if (o.tie && chatglm) die("--tie: ChatGLM's own code keeps a head of its own");
    if (o.untie && c.head == HEAD_MASKED_LM) die("--untie: BERT's head is its token embedding");
    if (o.tie) c.tied = true;
    if (o.untie) c.tied = false;
    config_check(&c);
    return c;
}

/* ================================================================================================================= *
 * [train.mask] BERT's task (Devlin et al. 2019, section 3.1): a share of the tokens is chosen, each by its own draw; of
 * those, 80% become [MASK], 10% a random token, 10% stay, so that the model cannot rely on a mask being there. A window
 * begins with [CLS]; neither it nor [SEP] is chosen. With whole words the draw is that of the word's first piece. */
typedef struct { int mask, cls, n_ids; const uint8_t *special, *continues; } MaskRule;   /* (n_ids) twice */
static void mask_tokens(const MaskRule *rule, uint64_t stream, size_t T, int32_t *tokens, int32_t *targets) {
    if (rule->cls >= 0) tokens[0] = rule->cls;
    size_t first = 0;                                                 /* of the word */
    for (size_t t = 0; t < T; t++) {
        int32_t id = tokens[t];
        if (!o.whole_word || !rule->continues[id]) first = t;
        Rng choice = {stream, 4 * first}, change = {stream, 4 * t + 1};
        targets[t] = -1;
        if (rule->special[id] || rng_uniform(&choice) >= o.mask_rate) continue;
        targets[t] = id;
        double way = rng_uniform(&change);
        if (way < 0.8) tokens[t] = rule->mask;
        else if (way < 0.9) tokens[t] = (int32_t)rng_below(&change, (uint64_t)rule->n_ids);
    }
}

/* ================================================================================================================= *
 * The run */
typedef struct {
    Model *m;
    Acts *acts, *gen;
    Tokenizer *tok;
    Tokens *data, *valid;
    uint8_t *id_bytes;             /* (V) bytes of text behind each id; 0 for special ones */
    MaskRule rule;                 /* of a masked-token model */
    int32_t *tokens, *targets, *start;   /* (accum, B, T) */
    Trainer t;
    double peak;                   /* FLOP/s of this machine */
    double before_model;           /* bytes of memory: what was there before it, and the ops' scratch */
    char *tokenizer_dir;
} Run;

static bool masked(const Run *r) { return r->m->cfg.head == HEAD_MASKED_LM; }
/* Where the first visible slots of the rows stand; NULL: documents see each other, as encoders' always do. */
static int32_t *doc_start(const Run *r, size_t at) { return o.no_doc_mask || masked(r) ? NULL : r->start + at; }

/* [train.eval] Mean loss over the held-out windows; bits per byte makes tokenizers comparable: the loss of all targets
 * divided by the bytes of text they stand for. */
typedef struct { double loss, bits_per_byte; size_t n_tok; } Eval;
static Eval evaluate(Run *r, size_t max_tokens) {
    Acts *a = r->acts;
    size_t T = a->T, B = a->B, at = 0;
    double sum = 0, bytes = 0;
    Eval e = {0};
    Noise noise = a->noise;
    a->noise = (Noise){0};
    for (bool more = true; more && e.n_tok < max_tokens;) {
        size_t n_rows = 0;
        for (; n_rows < B && more; n_rows++) {
            int32_t *tokens = r->tokens + n_rows * T, *targets = r->targets + n_rows * T;
            uint64_t window = at;
            more = tokens_eval_window(r->valid, &at, T, tokens, targets, doc_start(r, n_rows * T)) > 0;
            /* the same each time */
            if (more && masked(r)) mask_tokens(&r->rule, rng_mix(0xE7A1, window), T, tokens, targets);
        }
        if (!more) n_rows--;
        if (!n_rows) break;
        Batch b = {.B = n_rows, .T = T, .tokens = r->tokens, .targets = r->targets, .start = doc_start(r, 0)};
        forward(r->m, a, &b);
        sum += model_loss(r->m, a, &b, 0);
        e.n_tok += a->n_target;
        for (size_t i = 0; i < n_rows * T && !masked(r); i++)         /* of masked tokens, bits per byte say nothing */
            if (r->targets[i] >= 0) bytes += r->id_bytes ? r->id_bytes[r->targets[i]] : 0;
    }
    a->noise = noise;
    e.loss = e.n_tok ? sum / (double)e.n_tok : NAN;
    e.bits_per_byte = bytes > 0 ? sum / M_LN2 / bytes : NAN;
    return e;
}

/* Slots and pieces of the samples' cache; 0: none are written. */
enum { PROMPT_MAX = 64 };
static size_t sample_slots(const Run *r) {
    size_t S = (size_t)(PROMPT_MAX + o.sample_tokens), max_pos = (size_t)r->m->cfg.max_pos;
    if (!r->tok || masked(r)) return 0;
    return r->m->cfg.pos == POS_LEARNED && S > max_pos ? max_pos : S;
}
/* [train.sample] A document begins after the separator, here as in training. */
static void sample_text(Run *r, const char *prompt, Buf *out) {
    int eos = tokenizer_eos(r->tok);
    if (!r->gen) r->gen = acts_new(r->m, 1, PROMPT_MAX, sample_slots(r), false, false);
    Ids ids = {0};
    if (eos >= 0) ids_add(&ids, eos);
    tokenizer_encode(r->tok, prompt, strlen(prompt), false, &ids);
    if (ids.n > PROMPT_MAX) ids.n = PROMPT_MAX;
    Utf8Stream utf8 = tokenizer_stream_after(r->tok, ids.v, ids.n);
    Sampler s = {.temperature = 0.7f, .top_p = 0.95f};
    int32_t pos = 0;
    size_t fed = 0;
    if (!ids.n) return;
    for (int64_t i = 0; i < o.sample_tokens && (size_t)pos + (ids.n - fed) <= r->gen->S; i++) {
        Batch b = {.B = 1, .T = ids.n - fed, .tokens = ids.v + fed, .pos = &pos};
        forward(r->m, r->gen, &b);
        pos += (int32_t)b.T;
        fed = ids.n;
        act *logits = model_logits(r->m, r->gen, b.T - 1, 1);
        int32_t id = model_sample(r->gen, logits, (size_t)tokenizer_vocab(r->tok), &s, ids.v, ids.n,
            (uint64_t)common.seed, (uint64_t)i);
        if (id == eos) break;
        ids_add(&ids, id);
        tokenizer_decode_stream(r->tok, &utf8, id, out);
    }
    tokenizer_decode_stream(r->tok, &utf8, -1, out);
    ids_free(&ids);
}
/* A masked-token model's sample: the prompt with its likeliest tokens in place of the masks. */
static void sample_fill(Run *r, const char *prompt, Buf *out) {
    Ids text = {0}, ids = {0};
    tokenizer_encode(r->tok, prompt, strlen(prompt), true, &text);
    tokenizer_wrap(r->tok, &text, NULL, (size_t)r->m->cfg.max_pos, &ids, NULL);
    Acts *a = acts_new(r->m, 1, ids.n, ids.n, false, false);
    forward(r->m, a, &(Batch){.B = 1, .T = ids.n, .tokens = ids.v});
    Sampler greedy = {.temperature = 0, .top_p = 1};
    for (size_t t = 0; t < ids.n; t++)
        if (ids.v[t] == r->rule.mask)
            ids.v[t] = model_sample(a, model_logits(r->m, a, t, 1), (size_t)r->rule.n_ids, &greedy, NULL, 0, 0, 0);
    tokenizer_decode(r->tok, ids.v, ids.n, true, out);
    acts_free(a);
    ids_free(&text);
    ids_free(&ids);
}
static void show_samples(Run *r, bool aloud) {
    static const char *empty[] = {""};
    StrList prompts = o.prompt.n ? o.prompt : (StrList){empty, 1};
    if (!r->tok) return;
    for (int i = 0; i < prompts.n; i++) {
        Buf text = {0}, prompt_json = {0}, text_json = {0};
        if (masked(r)) sample_fill(r, prompts.v[i], &text);
        else sample_text(r, prompts.v[i], &text);
        json_escape(&prompt_json, prompts.v[i], strlen(prompts.v[i]));
        json_escape(&text_json, text.data ? text.data : "", text.len);
        log_line("sample", r->t.step, "\"prompt\":\"%s\",\"text\":\"%s\"", prompt_json.data ? prompt_json.data : "",
                 text_json.data ? text_json.data : "");
        if (aloud) printf(masked(r) ? "\n> %s\n  %s\n" : "\n> %s%s\n", prompts.v[i], text.data ? text.data : ""),
            fflush(stdout);
        buf_free(&text);
        buf_free(&prompt_json);
        buf_free(&text_json);
    }
}

/* ================================================================================================================= *
 * [train.save] */
static void write_model_card(Run *r, const char *dir, double val_loss) {
    Buf b = {0};
    buf_fmt(&b, "---\nlibrary_name: transformers\npipeline_tag: %s\n---\n# A %s model trained with tea\n\n",
        masked(r) ? "fill-mask" : "text-generation",
            config_model_type(&r->m->cfg));
    buf_fmt(&b, "%s parameters, %d layers of width %d, vocabulary %d, trained for %lld steps of %lld tokens.\n\n",
            human_count((double)config_weights(&r->m->cfg)), r->m->cfg.L, r->m->cfg.C, r->m->cfg.V,
                (long long)r->t.step,
            (long long)(o.batch * o.seq * o.accum));
    buf_str(&b, "- Data: ");
    for (int i = 0; i < o.data.n; i++) buf_fmt(&b, "%s%s", i ? ", " : "", o.data.v[i]);
    buf_str(&b, "\n");
    if (isfinite(val_loss))
        buf_fmt(&b, "- Validation loss: %.4f nats per %stoken\n", val_loss, masked(r) ? "masked " : "");
    buf_str(&b, "- Limits: it knows text of the kind it was trained on; what it states is not checked by anyone. It "
                "holds what\n"
                "  its data held, personal data and prejudice included: look at the data before you publish the "
                "model.\n");
    char *path = path_join(dir, "README.md");
    file_write(path, b.data, b.len);
    free(path);
    buf_free(&b);
}
static void write_model(void *run, const char *dir, double val_loss) {
    Run *r = run;
    model_save(r->m, dir, DT_F32);
    if (r->tokenizer_dir && strcmp(r->tokenizer_dir, dir)) tokenizer_copy_files(r->tokenizer_dir, dir);
    write_model_card(r, dir, val_loss);
}

/* ================================================================================================================= *
 * [train.loop] */
/* One optimiser step: accum forward and backward passes, one division by the number of all their targets, clipping,
 * AdamW. Returns the mean loss; *norm gets the gradient's. A loss or norm that is not finite leaves the weights
 * alone. */
static double train_step(Run *r, double lr, double *norm) {
    size_t T = (size_t)o.seq, N = (size_t)o.batch * T, n_target = 0;
    for (int64_t i = 0; i < o.accum * o.batch; i++) {
        uint64_t sample = (uint64_t)r->t.step * (uint64_t)(o.accum * o.batch) + (uint64_t)i;
        size_t at = (size_t)i * T;
        tokens_window(r->data, (uint64_t)common.seed, sample, T, r->tokens + at, r->targets + at, doc_start(r, at));
        if (masked(r))
            mask_tokens(&r->rule, rng_mix((uint64_t)common.seed ^ 0x3A5C, sample), T, r->tokens + at, r->targets + at);
    }
    for (size_t i = 0; i < N * (size_t)o.accum; i++) n_target += r->targets[i] >= 0;
    double sum = 0;
    for (int64_t k = 0; k < o.accum; k++) {
        size_t at = (size_t)k * N;
        Batch b = {.B = (size_t)o.batch, .T = T, .tokens = r->tokens + at, .targets = r->targets + at,
                   .start = doc_start(r, at)};
        r->acts->drop_seed = rng_mix((uint64_t)common.seed ^ 0xD40F, (uint64_t)r->t.step * (uint64_t)o.accum +
            (uint64_t)k);
        forward(r->m, r->acts, &b);
        sum += model_loss(r->m, r->acts, &b, n_target ? 1.0f / (float)n_target : 1);
    }
    double loss = n_target ? sum / (double)n_target : 0;             /* a short masked window may have chosen nothing */
    *norm = model_grad_norm(r->m);
    if (!isfinite(loss) || !isfinite(*norm)) return NAN;
    OptimOpts h = {lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip};
    model_adamw(r->m, &h, r->t.step + 1, *norm);
    r->t.step++;
    return loss;
}

static Eval eval_and_log(Run *r, size_t max_tokens) {
    if (!r->valid) return (Eval){.loss = NAN, .bits_per_byte = NAN};
    Eval e = evaluate(r, max_tokens);
    log_line("eval", r->t.step, "\"val_loss\":%.6f,\"perplexity\":%.6g,\"bits_per_byte\":%.6f,\"n_tok\":%zu", e.loss,
        exp(e.loss),
             e.bits_per_byte, e.n_tok);
    return e;
}

static void train_loop(Run *r) {
    size_t step_tokens = (size_t)(o.batch * o.seq * o.accum);
    double flops = config_flops_per_token(&r->m->cfg, (size_t)o.seq);
    Progress bar = progress_begin("train", (double)o.steps);
    double smooth_s = 0;
    Eval e = {.loss = NAN, .bits_per_byte = NAN};
    int64_t saved_at = trainer_saved(&r->t) ? r->t.step : -1;        /* resumed: it is saved already */
    Schedule rate = {o.schedule, o.lr, o.min_lr, o.decay_part, o.warmup, o.steps};
    while (r->t.step < o.steps && !stop_requested) {
        double start = now_s(), lr = schedule_lr(&rate, r->t.step + 1), norm = 0;
        double loss = train_step(r, lr, &norm);
        double seconds = now_s() - start;
        if (isnan(loss) || trainer_exploded(&r->t, loss)) {
            log_line("end", r->t.step, "\"reason\":\"%s\"", isnan(loss) ? "loss not finite" : "loss exploded");
            report_write(o.out);
            die("step %lld: the loss %s (learning rate %g, gradient norm %g): stopped; %s",
                (long long)r->t.step + isnan(loss),
                isnan(loss) ? "is not finite" : "has exploded", lr, norm, trainer_last_good(&r->t));
        }
        smooth_s = smooth_s == 0 ? seconds : 0.9 * smooth_s + 0.1 * seconds;
        double tok_s = (double)step_tokens / smooth_s;
        log_line("step", r->t.step, "\"loss\":%.8g,\"lr\":%.6g,\"grad_norm\":%.6g,\"tok_s\":%.1f,\"peak_share\":%.4f",
            loss, lr, norm,
                 (double)step_tokens / seconds, tok_s * flops / r->peak);
        bool last = r->t.step == o.steps, save = o.save_steps && r->t.step % o.save_steps == 0;
        bool eval = !last && r->valid && ((o.eval_steps && r->t.step % o.eval_steps == 0) || save);
        if (eval) e = eval_and_log(r, (size_t)o.eval_tokens);
        if (!last && o.sample_steps && r->t.step % o.sample_steps == 0) show_samples(r, false);
        char valid_text[64] = "";
        if (isfinite(e.loss)) snprintf(valid_text, sizeof valid_text, "  valid %.3f", e.loss);
        progress_at(&bar, (double)r->t.step, "loss %.3f%s  %s tok/s  %.0f%% of peak", r->t.loss_smooth, valid_text,
            human_count(tok_s),
                    100 * tok_s * flops / r->peak);
        if (save && !last) trainer_save(&r->t, r->m, eval ? e.loss : NAN), saved_at = r->t.step;
        if (eval) report_write(o.out);
    }
    bool finished = r->t.step >= o.steps;
    if (finished) e = eval_and_log(r, SIZE_MAX);
    progress_end(&bar, "step %lld  loss %.4f", (long long)r->t.step, r->t.loss_smooth);
    if (common.profile) profile_end(r->t.step);
    if (saved_at != r->t.step) trainer_save(&r->t, r->m, finished ? e.loss : NAN);
    if (finished && o.load_best && r->t.best_step >= 0 && r->t.best_step != r->t.step) {
        char *path = checkpoint_path(&r->t, r->t.best_step);
        Model *best = model_load(path, true);
        model_copy_weights(r->m, best);
        model_free(best);
        free(path);
        e = eval_and_log(r, SIZE_MAX);
    }
    write_model(r, o.out, e.loss);
    if (finished) show_samples(r, true);
    log_line("end", r->t.step, "\"reason\":\"%s\",\"val_loss\":%.6f,\"bits_per_byte\":%.6f,\"peak_bytes\":%.0f",
        finished ? "finished" : "stopped",
             e.loss, e.bits_per_byte, memory_peak());
    report_write(o.out);
    if (finished && isfinite(e.loss)) {
        printf("\nvalidation: loss %.4f nats per %stoken, perplexity %.2f", e.loss, masked(r) ? "masked " : "",
            exp(e.loss));
        if (isfinite(e.bits_per_byte)) printf(", %.4f bits per byte", e.bits_per_byte);
        printf(" (%s tokens)\n", human_count((double)e.n_tok));
    }
    if (finished)
        printf("model in %s, curves in %s/report.html; try ./infer --model %s %s \"…\"\n", o.out, o.out, o.out,
            masked(r) ? "--fill-mask" : "--prompt");
    else printf("stopped at step %lld and saved; go on with ./train --resume last --out %s\n", (long long)r->t.step,
        o.out);
}

/* ================================================================================================================= *
 * Getting ready */
static void prepare_tokenizer(Run *r, const char *resume_dir) {
    bool all_shards = o.data.n > 0;
    for (int i = 0; i < o.data.n; i++) all_shards &= ends_with(o.data.v[i], ".bin");
    if (resume_dir) {
        /* Into --out, since the checkpoint that it comes from is removed when newer ones are kept. */
        if (tokenizer_in_dir(resume_dir)) tokenizer_copy_files(resume_dir, o.out), r->tokenizer_dir = xstrdup(o.out);
    } else if (o.tokenizer) r->tokenizer_dir = xstrdup(o.tokenizer);
    else if (o.init && (!all_shards || tokenizer_in_dir(o.init))) r->tokenizer_dir = xstrdup(o.init);
    else if (!all_shards) {
        static const char *specials[] = {"<|endoftext|>"};
        Docs *docs = docs_open_range(o.data.v, o.data.n, 0, o.valid_data.n ? 1 : 1 - o.valid_fraction);
        double bytes = docs_bytes(docs);
        if (!o.vocab) o.vocab = bytes < 4e6 ? 1024 : bytes < 8e6 ? 2048 : 4096;
        TextSource text = {docs_next, docs, bytes};
        if (!strcmp(o.arch, "bert"))
            tokenizer_train_wordpiece(text, (int)o.vocab, 2, o.vocab / 2, !o.cased, true, NULL, 0, o.out);
        else tokenizer_train(text, o.split, (int)o.vocab, 2, specials, 1, o.out);
        docs_close(docs);
        r->tokenizer_dir = xstrdup(o.out);
    }
    if (r->tokenizer_dir) r->tok = tokenizer_load(r->tokenizer_dir);
}
static int need_id(const Run *r, const char *token) {
    int id = tokenizer_id(r->tok, token);
    if (id < 0) die("%s: the tokenizer has no %s, which masked-token training needs", r->tokenizer_dir, token);
    return id;
}
static void prepare_masking(Run *r) {
    if (!r->tok) die("masked-token training needs text and a tokenizer: token shards do not say what a mask is");
    int V = tokenizer_vocab(r->tok);
    uint8_t *special = xcalloc((size_t)r->m->cfg.V, 1), *continues = xcalloc((size_t)r->m->cfg.V, 1);
    for (int id = 0; id < V; id++) {
        special[id] = tokenizer_is_special(r->tok, id);
        size_t n;                                                 /* a token that begins a word has a blank before it */
        continues[id] = !special[id] && tokenizer_token(r->tok, id, &n)[0] != ' ';
    }
    r->rule = (MaskRule){need_id(r, "[MASK]"), need_id(r, "[CLS]"), V, special, continues};
}
static void prepare_data(Run *r) {
    char *cache = path_join(o.out, "cache");
    bool own_valid = o.valid_data.n > 0;
    double cut = own_valid ? 1 : 1 - o.valid_fraction;
    r->data = tokens_open(o.data.v, o.data.n, 0, cut, r->tok, cache);
    if (r->data->n < (size_t)o.seq + 1)
        die("--data has %zu tokens, fewer than one window of --seq %lld needs", r->data->n, (long long)o.seq);
    if (own_valid) r->valid = tokens_open(o.valid_data.v, o.valid_data.n, 0, 1, r->tok, cache);
    else if (o.valid_fraction > 0) r->valid = tokens_open(o.data.v, o.data.n, cut, 1, r->tok, cache);
    if (r->valid && r->valid->n < 2)
        warn("the held-out part has no text: no validation"), tokens_close(r->valid), r->valid = NULL;
    free(cache);
    if (masked(r)) prepare_masking(r);
    if (!r->tok) return;
    int V = tokenizer_vocab(r->tok);
    r->id_bytes = xcalloc((size_t)(r->m ? r->m->cfg.V : V) + (size_t)V, 1);
    for (int id = 0; id < V; id++) {
        size_t n;
        tokenizer_token(r->tok, id, &n);
        if (tokenizer_is_special(r->tok, id)) n = 0;
        r->id_bytes[id] = (uint8_t)(n < 255 ? n : 255);
    }
}
/* Of the mapped token files only the pages that windows lie on are read: all of them when the run is long. */
static double mapped_bytes(const Tokens *d, double windows) {
    double all = 0, page = 4096, used = 0;
    for (int i = 0; i < d->n_parts; i++)
        all += (double)d->part[i].map.bytes, used = windows * ((double)d->part[i].width * (double)o.seq + page);
    return used < all ? used : all;
}
static double plan_memory(const Run *r) {
    const Config *c = &r->m->cfg;
    double n = (double)r->m->n_weights, batch = (double)(o.batch * o.seq * o.accum),
        windows = (double)(o.batch * o.accum) * (double)o.steps;
    size_t S = sample_slots(r), V = (size_t)c->V;
    const MemoryPart part[] = {
        {"weights, gradients and moments", 16 * n},
        {"activations", (double)acts_bytes(c, (size_t)o.batch, (size_t)o.seq, (size_t)o.seq, true, o.recompute)},
        {"samples", S ? (double)acts_bytes(c, 1, PROMPT_MAX, S, false, false) : 0},
        {"the best weights", o.load_best ? 4 * n : 0},
        {"data", 12 * batch + (double)(r->id_bytes ? V : 0) + (r->data ? mapped_bytes(r->data, windows) : 0) +
            (r->valid ? mapped_bytes(r->valid, INFINITY) : 0)},
        {"the program", r->before_model},
    };
    return memory_plan(part, sizeof part / sizeof *part, op.host_memory, "a smaller --batch or --seq, or --recompute");
}
static void print_start(Run *r) {
    const Config *c = &r->m->cfg;
    if (common.quiet) return;
    fprintf(stderr, "model    %s, %s parameters: %d layers, width %d, %d heads, feed-forward %d, vocabulary %d\n",
            config_model_type(c), human_count((double)config_weights(c)), c->L, c->C, c->H, c->F, c->V);
    fprintf(stderr, "data     %s tokens to train on, %s held out; a step reads %s (%.2f epochs in all)\n",
        human_count((double)r->data->n),
            human_count(r->valid ? (double)r->valid->n : 0), human_count((double)(o.batch * o.seq * o.accum)),
            (double)(o.batch * o.seq * o.accum) * (double)o.steps / (double)r->data->n);
    fprintf(stderr, "machine  %s, products in %s, peak %.0f GFLOP/s measured\n", op.name, o.precision, r->peak / 1e9);
}
static void alloc_batch(Run *r) {
    size_t N = (size_t)o.batch * (size_t)o.seq;
    r->acts = acts_new(r->m, (size_t)o.batch, (size_t)o.seq, (size_t)o.seq, true, o.recompute);
    r->acts->noise.dropout = (float)o.dropout;
    r->tokens = xmalloc(N * (size_t)o.accum * 4);
    r->targets = xmalloc(N * (size_t)o.accum * 4);
    r->start = xmalloc(N * (size_t)o.accum * 4);
}

/* [train.bench] Steps on random tokens: no data, nothing written. The median of the timed steps, after two to warm
 * up. */
static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void bench(Run *r) {
    Config c = config_from_options(o.vocab ? (int)o.vocab : o.config ? 0 : 4096);
    if (c.head == HEAD_NONE) die("%s: a model without a head has no loss to train", o.config);
    r->before_model = memory_now() + scratch_bytes();
    r->m = model_new(&c, (uint64_t)common.seed);
    double memory = plan_memory(r);
    model_train_begin(r->m);
    alloc_batch(r);
    size_t N = (size_t)(o.batch * o.seq);
    double *seconds = xcalloc((size_t)o.bench, sizeof *seconds);
    for (int64_t i = -2; i < o.bench; i++) {
        if (i == 0 && common.profile) profile_reset();                /* the first steps warm up */
        double start = now_s(), sum = 0;
        for (int64_t k = 0; k < o.accum; k++) {
            for (size_t j = 0; j < N; j++) {
                Rng g = {(uint64_t)common.seed, ((uint64_t)(i + 2) * (uint64_t)o.accum + (uint64_t)k) * N + j};
                r->tokens[j] = (int32_t)rng_below(&g, (uint64_t)c.V);
            }
            for (size_t j = 0; j < N; j++) {                        /* next tokens; masked ones; or the rows' classes */
                bool counted = !masked(r) || (double)(j % 100) < 100 * o.mask_rate;
                r->targets[j] = c.head == HEAD_CLASSIFY ? (int32_t)(j % (size_t)c.n_classes) : counted
                    ? r->tokens[(j + 1) % N] : -1;
            }
            Batch b = {.B = (size_t)o.batch, .T = (size_t)o.seq, .tokens = r->tokens, .targets = r->targets};
            forward(r->m, r->acts, &b);
            size_t n_target = c.head == HEAD_CLASSIFY ? (size_t)o.batch : N;
            sum += model_loss(r->m, r->acts, &b, 1.0f / (float)(n_target * (size_t)o.accum));
        }
        OptimOpts h = {1e-4, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip};
        model_adamw(r->m, &h, i + 3, model_grad_norm(r->m));
        op.sync();
        if (i >= 0) seconds[i] = now_s() - start;
        if (!isfinite(sum)) die("the benchmark's loss is not finite");
    }
    if (common.profile) profile_end(o.bench);
    qsort(seconds, (size_t)o.bench, sizeof *seconds, by_value);
    double s = seconds[o.bench / 2], tok_s = (double)N * (double)o.accum / s;
    double flops = tok_s * config_flops_per_token(&c, (size_t)o.seq);
    printf("{\"tok_s\":%.1f,\"step_ms\":%.3f,\"gflops\":%.1f,\"peak_gflops\":%.1f,\"peak_share\":%.4f,\"parameters\":%zu,"
           "\"bytes\":%.0f,\"peak_bytes\":%.0f,\"precision\":\"%s\",\"kernels\":\"%s\"}\n", tok_s, s * 1e3, flops / 1e9,
           r->peak / 1e9, flops / r->peak, config_weights(&c), memory, memory_peak(), o.precision, op.name);
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
}

int main(int argc, char **argv) {
    common.seed = 1;
    options_parse(argc, argv, 1, about, table, N_OPTS);
    Run r = {.t = {.out = o.out, .options = {table, N_OPTS, stay}, .best_name = "val_loss", .write = write_model,
                   .best = INFINITY, .best_step = -1}};
    r.t.stage = &r;
    char *resume_dir = NULL;
    int64_t from_step = o.resume ? trainer_resume(&r.t, o.resume, &resume_dir) : -1;
    r.t.out = o.out, r.t.keep = o.keep;                               /* the checkpoint's own, unless given again */
    Precision precision = strcmp(o.precision, "bf16") ? PREC_F32 : PREC_BF16;
    if (!strcmp(o.arch, "bert") && !o.resume && !option_given(table, N_OPTS, "lr")) o.lr /= 2;
    if (o.tie && o.untie) die_usage("--tie and --untie exclude each other");
    if (o.config && o.init) die_usage("--config and --init exclude each other: --init brings its own config");
    ops_select(common.device, common.isa, precision);
    r.peak = op.peak_flops(precision);
    if (common.profile) profile_begin(precision);
    if (o.bench) { bench(&r); return 0; }

    default_data();
    trainer_claim(&r.t, from_step, o.overwrite);
    prepare_tokenizer(&r, resume_dir);
    int vocab = r.tok ? tokenizer_vocab(r.tok) : o.vocab ? (int)o.vocab : 50304; /* shards: GPT-2's ids, rounded up */
    r.before_model = memory_now() + scratch_bytes();
    if (resume_dir) r.m = model_load(resume_dir, true);
    else if (o.init) r.m = model_load(o.init, true);
    else {
        Config c = config_from_options(vocab);
        if (r.tok) c.bos = c.eos[0] = tokenizer_eos(r.tok), c.n_eos = c.bos >= 0;
        if (r.tok) c.pad = tokenizer_id(r.tok, "[PAD]");
        r.m = model_new(&c, (uint64_t)common.seed);
    }
    if (vocab > r.m->cfg.V) die("the tokenizer has %d tokens, the model only %d", vocab, r.m->cfg.V);
    if (o.seq > r.m->cfg.max_pos)
        die("--seq %lld is longer than the model's %d positions", (long long)o.seq, r.m->cfg.max_pos);
    prepare_data(&r);
    print_start(&r);
    double memory = plan_memory(&r);
    model_train_begin(r.m);
    alloc_batch(&r);
    if (resume_dir) trainer_moments(&r.t, r.m, resume_dir, from_step);
    if (r.t.step > o.steps || (r.t.step == o.steps && trainer_has_finished(&r.t, r.t.step)))
        die("%s is at step %lld already: nothing to do up to --steps %lld", resume_dir, (long long)r.t.step,
            (long long)o.steps);

    log_open(o.out, resume_dir ? r.t.step : -1);
    cJSON *settings = options_to_json(&r.t.options);
    cJSON_AddStringToObject(settings, "kernels", op.name);
    cJSON_AddNumberToObject(settings, "parameters", (double)config_weights(&r.m->cfg));
    cJSON_AddNumberToObject(settings, "memory_bytes", memory);
    char *text = cJSON_PrintUnformatted(settings);
    text[strlen(text) - 1] = 0;                                       /* the inside of the object */
    log_line("start", r.t.step, "%s", text + 1);
    free(text);
    cJSON_Delete(settings);
    catch_signals();
    train_loop(&r);
    log_close();
    return 0;
}
