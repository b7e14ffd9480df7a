/* finetune.c - stage 3: fine-tuning. A model that can write learns to answer, to translate, or to tell classes apart.
 *
 *     ./finetune --model DIR --data chat.jsonl --out tuned              all weights, on conversations
 *     ./finetune --model DIR --data chat.jsonl --lora 8 --out adapter   a small adapter instead; DIR stays as it is
 *     ./finetune --model DIR --merge adapter --out merged               the two as one model
 *     ./finetune --model INT4-DIR --data chat.jsonl --lora 8            over 4 or 8 bits (./quantize, GPTQ, AWQ)
 *     ./finetune --model BERT --task classify --data labels.jsonl --out classifier
 *     ./finetune --model tuned --task dpo --data pairs.jsonl --out better    of two answers, the one that people prefer
 *     ./finetune --data corpus:100k --task lm --epochs 1 --out try      on ./train's model, in less than a minute
 *
 * THE LESSON. The loop is that of pre-training: loss, gradient, AdamW. New is what is learnt from. A conversation is
 * one text in the model's template, and the loss counts the answers alone: the question is read, not learnt. New, too,
 * is what may be lost: a model that learns one thing forgets others. So every run measures each evaluation set before
 * and after, and other data can be mixed in (--data general.txt:0.3, --replay 0.1).
 *
 * LoRA (Hu et al. 2021) leaves W alone and learns a difference of low rank, scale B A. Only A and B have gradients and
 * moments, so a large model's weights need not even be writable: they stay in the mapped file, and may be numbers of 4
 * or 8 bits there (QLoRA, Dettmers et al. 2023).
 *
 * MAP
 *   [finetune.options]  every choice, one line each; Trainer's names are the aliases
 *   [finetune.data]     reading, holding out, the report before training
 *   [finetune.eval]     loss, perplexity, accuracy, F1; what was forgotten
 *   [finetune.dpo]      preferences
 *   [finetune.anchor]   weights held where they began
 *   [finetune.save]     what a checkpoint holds
 *   [finetune.loop]     the loop
 *   [finetune.merge]    an adapter into its base
 *   [finetune.sweep]    the same run with more and less of the old data in the mix
 *   [finetune.memory]   how much it will need, before it is needed
 *
 * Refused here: pre-training (train.c), and anything that would make two runs of one command differ. */
#include "dataset.h"
#include "evaluate.h"
#include "profile.h"
#include "samples.h"
#include "trainer.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ================================================================================================================= *
 * [finetune.options] */
static struct {
    const char *model, *task, *template, *merge, *merge_as, *precision, *schedule, *out, *eval_strategy, *save_strategy,
        *metric, *resume, *config_file;
    StrList data, eval_data, replay_data, lora_targets, sweep_mix;
    int64_t lora, freeze, seq, max_steps, batch, eval_batch, accum, warmup, augment, log_steps, eval_steps,
        save_steps, keep;
    double lora_alpha, lora_dropout, eval_fraction, replay, epochs, lr, warmup_ratio, min_lr, weight_decay, beta1,
        beta2, eps, clip, dropout, neftune, l2_start, ewc, dpo_beta;
    bool rslora, freeze_embeddings, recompute, no_pack, load_best, overwrite;
} o = {
    .model = "out", .task = "chat", .merge_as = "base",
    .precision = "bf16", .schedule = "linear", .out = "tuned", .metric = "eval_loss",
    .eval_strategy = "steps", .save_strategy = "steps", .seq = 512, .batch = 8, .accum = 1, .log_steps = 1, .keep = 2,
    .eval_steps = 500, .save_steps = 500, .eval_fraction = 0.1, .epochs = 3, .beta1 = 0.9, .beta2 = 0.999,
    .eps = 1e-8, .clip = 1, .dpo_beta = 0.1,
};
static Opt table[] = {
    SECTION("Model"),
    {"model", OPT_STR, &o.model, "the model to start from: a directory", 0, 0, NULL, "model-name-or-path", false},
    ONE_OF("task", task, "what to learn: answers in conversations, plain text, classes, or preferences (dpo)",
           "chat|lm|classify|dpo"),
    ONE_OF("template", template,
           "how conversations are written (default: as the model's files say; alpaca if they do not)",
           CHAT_TEMPLATES),
    {"lora", OPT_INT, &o.lora, "rank of an adapter to train instead of the weights (0: train the weights)", 0, 65536,
     NULL, "lora-r", false},
    REAL("lora-alpha", lora_alpha, "the adapter counts alpha / rank times (0: twice the rank)", 0, 1e6),
    REAL("lora-dropout", lora_dropout, "part of an adapter's inputs dropped", 0, 0.95),
    WORDS("lora-targets", lora_targets,
          "modules to adapt, by the end of their name, or all-linear (default: attention's)"),
    FLAG("rslora", rslora, "the adapter counts alpha / sqrt(rank) times"),
    REAL("l2-start", l2_start, "pull of each weight back to where it began", 0, 1e9),
    REAL("ewc", ewc, "the same, by how much the --replay-data need the weight (elastic weight consolidation)", 0, 1e9),
    INT("freeze", freeze, "the first so many layers do not change", 0, 4096),
    {"dpo-beta", OPT_FLOAT, &o.dpo_beta, "dpo: how dear it is to leave the first model", 1e-6, 1e3, NULL, "beta",
     false},
    FLAG("freeze-embeddings", freeze_embeddings, "nor do the embeddings"),
    TEXT("merge", merge, "no training: fold this adapter into --model, write the result to --out, compare the two"),
    ONE_OF("merge-as", merge_as, "merged weights are what the base's are (of 4 or 8 bits: each the nearest), or "
        "plain floats", "base|float"),
    SECTION("Data"),
    {"data", OPT_LIST, &o.data,
     "FILE or FILE:WEIGHT: JSON rows, plain text, corpus:BYTES; 0.3 shows a part of it each epoch", 0, 0, NULL,
     "train-file", false},
    {"eval-data", OPT_LIST, &o.eval_data,
     "evaluation sets, the first decides what is best (default: a part of each --data)", 0, 0, NULL,
     "validation-file", false},
    REAL("eval-fraction", eval_fraction, "how much of each --data is held out, without --eval-data", 0, 0.9),
    REAL("replay", replay, "share of the samples that come from what the model was trained on", 0, 0.95),
    WORDS("replay-data", replay_data, "what it was trained on (default: what its log.jsonl says)"),
    INT("augment", augment, "so many variants of each row beside it: reworded, its input before its instruction, "
        "letters missing or doubled; answers and digits stay", 0, 100),
    WORDS("sweep-mix", sweep_mix,
          "shares of --replay to try one after another, such as 0 0.1 0.3; the table shows what each costs"),
    {"seq", OPT_INT, &o.seq, "tokens of a sample at most, and of a packed row", 2, 1 << 20, NULL, "max-seq-length",
     false},
    FLAG("no-pack", no_pack, "one sample a row, padded, those of like length together; else rows are packed"),
    SECTION("Training"),
    {"epochs", OPT_FLOAT, &o.epochs, "passes over the data", 0, 1e6, NULL, "num-train-epochs", false},
    INT("max-steps", max_steps, "optimiser steps instead of --epochs (0: no)", 0, 1000000000),
    {"batch", OPT_INT, &o.batch, "rows in a forward pass", 1, 1 << 20, NULL, "per-device-train-batch-size", false},
    {"eval-batch", OPT_INT, &o.eval_batch, "the same in evaluation (0: as --batch)", 0, 1 << 20, NULL,
     "per-device-eval-batch-size", false},
    {"accum", OPT_INT, &o.accum, "forward passes whose gradients are added before a step", 1, 1 << 20, NULL,
     "gradient-accumulation-steps", false},
    {"lr", OPT_FLOAT, &o.lr, "peak learning rate (0: 5e-5, with --lora 2e-4; dpo: 1e-6, 5e-5)", 0, 10, NULL,
     "learning-rate", false},
    {"schedule", OPT_STR, &o.schedule, "after warm-up", 0, 0, "linear|cosine|constant", "lr-scheduler-type", false},
    {"warmup", OPT_INT, &o.warmup, "steps of linear warm-up", 0, 1000000000, NULL, "warmup-steps", false},
    REAL("warmup-ratio", warmup_ratio, "or the part of all steps that it takes", 0, 1),
    REAL("min-lr", min_lr, "last learning rate, as a part of the peak", 0, 1),
    REAL("weight-decay", weight_decay, "decoupled decay of matrices and embeddings", 0, 10),
    {"beta1", OPT_FLOAT, &o.beta1, "AdamW: memory of the mean", 0, 0.9999999, NULL, "adam-beta1", false},
    {"beta2", OPT_FLOAT, &o.beta2, "AdamW: memory of the square", 0, 0.9999999, NULL, "adam-beta2", false},
    {"eps", OPT_FLOAT, &o.eps, "AdamW: added to the root", 1e-20, 1, NULL, "adam-epsilon", false},
    {"clip", OPT_FLOAT, &o.clip, "largest norm of the gradient (0: any)", 0, 1e9, NULL, "max-grad-norm", false},
    REAL("dropout", dropout, "part of the activations dropped on their way into the stream", 0, 0.95),
    {"neftune-noise-alpha", OPT_FLOAT, &o.neftune,
        "noise on the embeddings while training: 5 to 15 makes answers longer and "
     "less copied (NEFTune; 0: none)", 0, 1000, NULL, "neftune", false},
    ONE_OF("precision", precision, "inputs of products; sums, moments and trained weights stay f32", "f32|bf16"),
    {"recompute", OPT_FLAG, &o.recompute, "keep only each layer's input, compute the rest again: less memory", 0, 0,
     NULL,
     "gradient-checkpointing", false},
    SECTION("Looking and saving"),
    {"out", OPT_STR, &o.out, "directory of the run: the model, log.jsonl, report.html, checkpoint-STEP", 0, 0, NULL,
     "output-dir", false},
    {"log-steps", OPT_INT, &o.log_steps, "a line in log.jsonl every so many steps", 1, 1000000000, NULL,
     "logging-steps", false},
    {"eval-strategy", OPT_STR, &o.eval_strategy, "when to evaluate; the start and the end always are", 0, 0,
     "no|steps|epoch",
     "evaluation-strategy", false},
    INT("eval-steps", eval_steps, "evaluate every so many steps", 0, 1000000000),
    ONE_OF("save-strategy", save_strategy, "when to save; the end always is", "no|steps|epoch"),
    INT("save-steps", save_steps, "checkpoint every so many steps", 0, 1000000000),
    {"keep", OPT_INT, &o.keep, "checkpoints kept, beside the best (0: all)", 0, 1000000, NULL, "save-total-limit",
     false},
    {"load-best", OPT_FLAG, &o.load_best, "at the end, --out gets the best weights seen at a save", 0, 0, NULL,
     "load-best-model-at-end", false},
    {"metric", OPT_STR, &o.metric, "what the best is the best by, on the first evaluation set", 0, 0,
     "eval_loss|accuracy|f1",
     "metric-for-best-model", false},
    {"resume", OPT_STR, &o.resume, "go on from a checkpoint directory, or from the last one in --out: \"last\"", 0, 0,
     NULL,
     "resume-from-checkpoint", false},
    {"overwrite", OPT_FLAG, &o.overwrite, "start anew where --out holds an earlier run", 0, 0, NULL,
     "overwrite-output-dir", false},
    TEXT("config-file", config_file, "a JSON object of these options; what the command line says wins"),
    COMMON_OPTS,
};
enum { N_OPTS = sizeof table / sizeof *table };
static const char *const stay[] = {"resume", "overwrite", "merge", "merge-as", "sweep-mix", "config-file", "device",
                                   "threads", "isa", "quiet", "profile", NULL};
static const char about[] = "finetune: teach a model a task, with all its weights or by an adapter.\n"
                            "  ./finetune --model DIR --data FILE[:WEIGHT]... [--lora RANK] [--out DIR]\n";

/* Options that depend on others. */
static bool dpo(void) { return !strcmp(o.task, "dpo"); }
static Task task(void) {
    if (dpo()) return TASK_DPO;
    return !strcmp(o.task, "chat") ? TASK_CHAT : !strcmp(o.task, "lm") ? TASK_LM : TASK_CLASSIFY; }
static bool classes(void) { return task() == TASK_CLASSIFY; }
static double peak_lr(void) { return o.lr > 0 ? o.lr : dpo() ? (o.lora ? 5e-5 : 1e-6) : o.lora ? 2e-4 : 5e-5; }

/* --config-file: its entries become arguments before the command line's own, so one parser judges both. */
static void parse_options(int argc, char **argv) {
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--config-file=", 14)) path = argv[i] + 14;
        else if (!strcmp(argv[i], "--config-file") && i + 1 < argc) path = argv[i + 1];
    }
    if (!path) { options_parse(argc, argv, 1, about, table, N_OPTS); return; }
    cJSON *j = json_read(path, JSON_OBJECT);
    const cJSON *v, *one;
    Buf all = {0};                                                    /* char * after char * */
    #define ARG(s) do { char *arg_ = (s); buf_add(&all, &arg_, sizeof arg_); } while (0)
    ARG(argv[0]);
    cJSON_ArrayForEach(v, j) {
        char *name = xstrdup(v->string);
        for (char *c = name; *c; c++)
            if (*c == '_') *c = '-';
        bool again = false;                                           /* lists would add up */
        char *flag = strf("--%s", name);
        for (int i = 1; i < argc; i++) again |= !strcmp(argv[i], flag);
        if (again || cJSON_IsNull(v)) continue;
        if (cJSON_IsBool(v)) ARG(strf("%s=%s", flag, cJSON_IsTrue(v) ? "true" : "false"));
        else if (cJSON_IsNumber(v)) ARG(strf("%s=%.17g", flag, v->valuedouble));
        else if (cJSON_IsString(v)) ARG(strf("%s=%s", flag, v->valuestring));
        else if (cJSON_IsArray(v)) {
            cJSON_ArrayForEach(one, v) {
                if (!cJSON_IsString(one)) die("%s: \"%s\" must be a list of strings", path, v->string);
                ARG(strf("%s=%s", flag, one->valuestring));
            }
        } else die("%s: \"%s\" has the wrong type", path, v->string);
    }
    for (int i = 1; i < argc; i++) ARG(argv[i]);
    #undef ARG
    cJSON_Delete(j);
    int n = (int)(all.len / sizeof(char *));
    char **args = xcalloc((size_t)n + 1, sizeof *args);
    memcpy(args, all.data, all.len);
    options_parse(n, args, 1, about, table, N_OPTS);
}

/* ================================================================================================================= *
 * The run */
typedef struct { double loss, accuracy, f1; size_t n_target; } Eval;
typedef struct {
    Config cfg;
    Model *m;
    Acts *acts;
    Tokenizer *tok;
    ChatTemplate chat;
    Trainer t;
    StrList labels;
    SampleSet **train, **eval;     /* (n_train), (n_eval) */
    int n_train, n_eval;
    double **reference;            /* dpo: (n_train + n_eval)(2 n) what the first model gave each answer: log p */
    Eval *before;                  /* (n_eval) what the base made of them */
    size_t T, pack;                /* the longest row; rows are packed to so many tokens, 0: not */
    BatchRoom room;
    Plan plan;                     /* of the epoch that step t.step is in */
    int64_t epoch, epoch_first, epoch_steps;   /* its number, its first step, how many it has */
    int64_t steps;                 /* in all */
    DType stored;                  /* of the base's weights that are floats */
    double before_model;           /* bytes of memory: what was there before it, and the ops' scratch */
    float *start, *need;           /* (n_trained) on the host: the first weights, how much each is held; or NULL */
    size_t *confusion;             /* (classes, classes) of the last evaluation: row the truth, column the answer */
} Run;

/* ================================================================================================================= *
 * [finetune.data] */
static SampleReader reader(Run *r, bool new_labels) {
    SampleReader s = {.task = task(), .tok = r->tok, .chat = &r->chat, .opening = tokenizer_eos(r->tok),
                      .labels = &r->labels,
                      .new_labels = new_labels, .max_tokens = (size_t)o.seq + (task() != TASK_CLASSIFY)};
    return s;
}
static void set_add(SampleSet ***v, int *n, SampleSet *s) {
    *v = xrealloc(*v, (size_t)(*n + 1) * sizeof **v);
    (*v)[(*n)++] = s;
}
static void read_train(Run *r, const char *spec, double share_held_out) {
    double weight = 1;
    char *path = sample_spec(spec, &weight);
    SampleReader rd = reader(r, true);
    rd.variants = (int)o.augment, rd.seed = (uint64_t)common.seed;
    SampleSet *s = samples_read(&rd, path);
    s->weight = weight;
    SampleSet *held = share_held_out > 0 ? samples_hold_out(s, share_held_out) : NULL;
    set_add(&r->train, &r->n_train, s);
    if (held) set_add(&r->eval, &r->n_eval, held);
    free(path);
}
/* What the base was trained on: the first line of its log says. */
static StrList base_data(void) {
    char *path = path_join(o.model, "log.jsonl");
    if (!file_exists(path)) die("--replay: %s does not say what the model was trained on; give --replay-data", o.model);
    char *text = file_read(path, NULL);
    text[strcspn(text, "\n")] = 0;
    cJSON *j = cJSON_Parse(text);
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(j, "data"), *one;
    if (!cJSON_IsArray(data) || !data->child) die("%s: its first line names no data; give --replay-data", path);
    StrList l = {xcalloc((size_t)cJSON_GetArraySize(data), sizeof(char *)), 0};
    cJSON_ArrayForEach(one, data) if (cJSON_IsString(one)) l.v[l.n++] = xstrdup(one->valuestring);
    cJSON_Delete(j);
    free(text);
    free(path);
    return l;
}
/* Replayed text gets the weight that makes it the share of the samples that was asked for. */
static void read_replay(Run *r) {
    if (task() == TASK_CLASSIFY || dpo()) die("--replay mixes plain text, which --task %s cannot learn", o.task);
    enum { HELD_OUT_MAX = 500 };
    StrList files = o.replay_data.n ? o.replay_data : base_data();
    double task_n = 0, replay_n = 0;
    for (int i = 0; i < r->n_train; i++) task_n += r->train[i]->weight * (double)r->train[i]->n;
    int first = r->n_train;
    SampleReader rd = reader(r, false);
    for (int i = 0; i < files.n; i++) {
        SampleSet *s = samples_read(&rd, files.v[i]);
        double share = o.eval_fraction * (double)s->n > HELD_OUT_MAX
            ? (double)HELD_OUT_MAX / (double)s->n : o.eval_fraction;
        SampleSet *held = share > 0 ? samples_hold_out(s, share) : NULL;
        if (held) set_add(&r->eval, &r->n_eval, held);
        if (o.replay == 0) { samples_free(s); continue; }             /* named, so measured */
        set_add(&r->train, &r->n_train, s);
        replay_n += (double)s->n;
    }
    for (int i = first; i < r->n_train; i++) r->train[i]->weight = o.replay / (1 - o.replay) * task_n / replay_n;
}
static void data_report(const Run *r) {
    if (common.quiet) return;
    static const char *const names[] = {"learn", "eval"};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < (k ? r->n_eval : r->n_train); i++) {
            const SampleSet *s = (k ? r->eval : r->train)[i];
            fprintf(stderr, "%-8s %s: %zu samples, %s tokens, longest %zu", names[k], s->name, s->n,
                    human_count((double)s->ids.n),
                    s->longest);
            if (task() != TASK_CLASSIFY)
                fprintf(stderr, ", %.0f%% of them learnt", 100 * (double)s->learnt / (double)(s->ids.n ? s->ids.n : 1));
            if (!k && s->weight != 1)
                fprintf(stderr, "; weight %.3g: %.0f an epoch", s->weight, floor(s->weight * (double)s->n + 0.5));
            if (s->duplicates) fprintf(stderr, "; %zu duplicates", s->duplicates);
            if (s->truncated) fprintf(stderr, "; %zu cut at %lld tokens", s->truncated, (long long)o.seq);
            if (s->dropped) fprintf(stderr, "; %zu left out, with nothing to learn", s->dropped);
            fprintf(stderr, "\n");
        }
    if (task() == TASK_CHAT || dpo()) fprintf(stderr, "template %s, from %s\n\n", chat_template_name(&r->chat),
                                     r->chat.found_by);
    if (task() == TASK_CLASSIFY) {
        size_t *n = xcalloc((size_t)r->labels.n, sizeof *n);
        for (int s = 0; s < r->n_train; s++)
            for (size_t i = 0; i < r->train[s]->n; i++) n[r->train[s]->v[i].label]++;
        fprintf(stderr, "classes  ");
        for (int i = 0; i < r->labels.n; i++) fprintf(stderr, "%s%s (%zu)", i ? ", " : "", r->labels.v[i], n[i]);
        fprintf(stderr, "\n\n");
        free(n);
    }
    samples_show(r->train[0], r->tok, 3);
}
static void read_data(Run *r) {
    if (!o.data.n) die_usage("what should it learn from? --data FILE");
    double held = o.eval_data.n ? 0 : o.eval_fraction;
    for (int i = 0; i < o.data.n; i++) read_train(r, o.data.v[i], held);
    if (o.replay > 0 || o.replay_data.n) read_replay(r);
    if (task() == TASK_CLASSIFY) {
        SampleSet **all = xcalloc((size_t)(r->n_train + r->n_eval), sizeof *all);
        for (int i = 0; i < r->n_train; i++) all[i] = r->train[i];
        for (int i = 0; i < r->n_eval; i++) all[r->n_train + i] = r->eval[i];
        labels_sort(&r->labels, all, r->n_train + r->n_eval);
        free(all);
        if (r->labels.n < 2) die("%s: all samples have the label \"%s\": nothing to tell apart", o.data.v[0],
                                 r->labels.v[0]);
    }
    SampleReader rd = reader(r, false);
    int n_held = r->n_eval;                                           /* those of --eval-data come first */
    for (int i = 0; i < o.eval_data.n; i++) set_add(&r->eval, &r->n_eval, samples_read(&rd, o.eval_data.v[i]));
    for (int i = 0; i < n_held; i++) {
        SampleSet *s = r->eval[0];
        memmove(r->eval, r->eval + 1, (size_t)(r->n_eval - 1) * sizeof *r->eval);
        r->eval[r->n_eval - 1] = s;
    }
    r->pack = o.no_pack || dpo() || classes() || r->cfg.mask != MASK_CAUSAL ? 0 : (size_t)o.seq;
    r->T = r->pack ? r->pack : 1;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < (k ? r->n_eval : r->n_train); i++) {
            const SampleSet *s = (k ? r->eval : r->train)[i];
            for (size_t j = 0; j < s->n; j++)
                if (sample_inputs(&s->v[j]) > r->T) r->T = sample_inputs(&s->v[j]);
            for (size_t j = 0; j < s->ids.n; j++)
                if (s->ids.v[j] >= r->cfg.V)
                    die("%s: the tokenizer gives id %d, the model has %d ids: do they fit together?", o.model,
                        s->ids.v[j], r->cfg.V);
        }
}

/* ================================================================================================================= *
 * [finetune.eval] */
/* Answers of the last forward: the class with the largest logit, the first of equals. */
static void count_answers(Run *r, const Batch *b) {
    size_t n = (size_t)r->labels.n;
    float *logits = xmalloc(b->B * n * sizeof *logits);
    op.act_to_host(logits, r->acts->logits, b->B * n);
    for (size_t i = 0; i < b->B; i++) {
        size_t best = 0;
        for (size_t k = 1; k < n; k++)
            if (logits[i * n + k] > logits[i * n + best]) best = k;
        r->confusion[(size_t)b->targets[i] * n + best]++;
    }
    free(logits);
}
/* Macro F1: the mean over the classes that occur, as truth or as answer, of 2 right / (truths + answers). */
static double macro_f1(const size_t *confusion, size_t n) {
    double sum = 0;
    size_t n_there = 0;
    for (size_t k = 0; k < n; k++) {
        size_t truth = 0, answer = 0;
        for (size_t i = 0; i < n; i++) truth += confusion[k * n + i], answer += confusion[i * n + k];
        if (!truth && !answer) continue;
        n_there++;
        sum += 2.0 * (double)confusion[k * n + k] / (double)(truth + answer);
    }
    return n_there ? sum / (double)n_there : NAN;
}

/* [finetune.dpo] Direct preference optimisation (Rafailov et al. 2023): of two answers, the chosen one should gain more
 * log-probability over what the first model gave it than the rejected one does. The loss of a pair is
 * -log sigmoid(margin), margin = beta ((chosen - its reference) - (rejected - its reference)). Its gradient is that of
 * two plain language-model losses, one with the other sign, weighted by how wrong the pair still is. */
static Batch dpo_row(Run *r, Plan *p, SampleSet **sets, size_t row, bool second) {
    p->second = second;
    Batch b = plan_batch(p, sets, row, 1, r->T, r->cfg.pad >= 0 ? r->cfg.pad : 0, false, &r->room);
    p->second = false;
    acts_reshape(r->m, r->acts, b.B, b.T);
    return b;
}
/* log p of one side's answer, its activations kept for a backward. */
static double dpo_forward(Run *r, Plan *p, SampleSet **sets, size_t row, bool second) {
    Batch b = dpo_row(r, p, sets, row, second);
    forward(r->m, r->acts, &b);
    return -model_loss(r->m, r->acts, &b, 0);
}
/* One pair: its margin; with scale > 0 the gradient of scale * loss is added. first: of sets among all (reference). */
static double dpo_pair(Run *r, Plan *p, SampleSet **sets, int first, size_t row, double scale, uint64_t drop_seed) {
    SampleRef x = p->item[row];
    const double *reference = r->reference[first + (int)x.set] + 2 * (size_t)x.i;
    r->acts->drop_seed = drop_seed;
    double chosen = dpo_forward(r, p, sets, row, false), rejected = dpo_forward(r, p, sets, row, true);
    double margin = o.dpo_beta * ((chosen - reference[0]) - (rejected - reference[1]));
    float weight = (float)(scale * o.dpo_beta / (1 + exp(margin)));
    if (weight == 0) return margin;
    Batch b = dpo_row(r, p, sets, row, true);                         /* its activations are there still */
    model_loss(r->m, r->acts, &b, -weight);
    b = dpo_row(r, p, sets, row, false);
    forward(r->m, r->acts, &b);
    model_loss(r->m, r->acts, &b, weight);
    return margin;
}
static double dpo_loss(double margin) { return margin > 0 ? log1p(exp(-margin)) : log1p(exp(margin)) - margin; }
static void dpo_reference(Run *r) {
    r->reference = xcalloc((size_t)(r->n_train + r->n_eval), sizeof *r->reference);
    Noise noise = r->acts->noise;
    r->acts->noise = (Noise){0};
    for (int k = 0; k < r->n_train + r->n_eval; k++) {
        SampleSet **set = k < r->n_train ? &r->train[k] : &r->eval[k - r->n_train];
        Plan p = plan_in_order(set, 1, 0);
        r->reference[k] = xcalloc((*set)->n, 2 * sizeof **r->reference);
        for (size_t row = 0; row < p.n_rows; row++)
            for (int half = 0; half < 2; half++)
                r->reference[k][2 * (size_t)p.item[row].i + (size_t)half] = dpo_forward(r, &p, set, row, half);
        plan_free(&p);
    }
    r->acts->noise = noise;
}

static Eval evaluate_set(Run *r, int set) {
    Acts *a = r->acts;
    Noise noise = a->noise;
    a->noise = (Noise){0};
    size_t B = (size_t)(o.eval_batch ? o.eval_batch : o.batch), n = (size_t)r->labels.n;
    Plan p = plan_in_order(&r->eval[set], 1, r->pack);
    Eval e = {.loss = NAN, .accuracy = NAN, .f1 = NAN};
    double sum = 0;
    memset(r->confusion, 0, n * n * sizeof *r->confusion);
    size_t right = 0;
    for (size_t row = 0; row < p.n_rows && dpo() && !stop_requested; row++, e.n_target++) {
        double margin = dpo_pair(r, &p, &r->eval[set], r->n_train + set, row, 0, 0);
        sum += dpo_loss(margin);
        right += margin > 0;
    }
    for (size_t row = 0; row < p.n_rows && !dpo() && !stop_requested; row += B) {
        size_t rows = p.n_rows - row < B ? p.n_rows - row : B;
        Batch b = plan_batch(&p, &r->eval[set], row, rows, r->T, r->cfg.pad >= 0 ? r->cfg.pad : 0,
                             r->cfg.type_vocab > 0, &r->room);
        acts_reshape(r->m, a, b.B, b.T);
        forward(r->m, a, &b);
        sum += model_loss(r->m, a, &b, 0);
        e.n_target += a->n_target;
        if (classes()) count_answers(r, &b);
    }
    plan_free(&p);
    a->noise = noise;
    if (e.n_target) e.loss = sum / (double)e.n_target;
    if (dpo() && e.n_target) e.accuracy = (double)right / (double)e.n_target;
    if (!classes()) return e;
    for (size_t k = 0; k < n; k++) right += r->confusion[k * n + k];
    e.accuracy = (double)right / (double)e.n_target;
    e.f1 = macro_f1(r->confusion, n);
    return e;
}
/* All evaluation sets, each one's figures to e (n_eval); the first decides. */
static void evaluate_all(Run *r, Eval *e) {
    Buf line = {0};
    for (int i = r->n_eval - 1; i >= 0; i--) e[i] = evaluate_set(r, i); /* the first last: its confusion matrix stays */
    if (!r->n_eval || stop_requested) return;
    buf_fmt(&line, "\"val_loss\":%.8g,\"n_tok\":%zu", e[0].loss, e[0].n_target);
    if (!dpo()) buf_fmt(&line, ",\"perplexity\":%.6g", exp(e[0].loss));
    if (classes() || dpo()) buf_fmt(&line, ",\"accuracy\":%.6g", e[0].accuracy);
    if (classes()) buf_fmt(&line, ",\"f1\":%.6g", e[0].f1);
    for (int i = 1; i < r->n_eval; i++) {
        buf_fmt(&line, ",\"loss: ");
        json_escape(&line, r->eval[i]->name, strlen(r->eval[i]->name));
        buf_fmt(&line, "\":%.8g", e[i].loss);
    }
    log_line("eval", r->t.step, "%s", line.data);
    buf_free(&line);
}
static double metric_of(const Eval *e) {
    return !strcmp(o.metric, "accuracy") ? e->accuracy : !strcmp(o.metric, "f1") ? e->f1 : e->loss;
}
/* What the base made of the evaluation sets stays with the run: a resumed one has no base to ask. */
static void before_save(const Run *r) {
    cJSON *j = cJSON_CreateArray();
    for (int i = 0; i < r->n_eval; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "set", r->eval[i]->name);
        cJSON_AddNumberToObject(one, "loss", r->before[i].loss);
        cJSON_AddNumberToObject(one, "accuracy", r->before[i].accuracy);      /* NaN becomes null */
        cJSON_AddNumberToObject(one, "f1", r->before[i].f1);
        cJSON_AddItemToArray(j, one);
    }
    char *text = cJSON_Print(j), *path = path_join(o.out, "before.json");
    file_write(path, text, strlen(text));
    free(path);
    free(text);
    cJSON_Delete(j);
}
static void before_load(Run *r) {
    char *path = path_join(o.out, "before.json"), *text = file_exists(path) ? file_read(path, NULL) : NULL;
    cJSON *j = text ? cJSON_Parse(text) : NULL;
    for (int i = 0; i < r->n_eval; i++) {
        const cJSON *one = cJSON_GetArrayItem(j, i);
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(one, "set"));
        bool same = name && !strcmp(name, r->eval[i]->name);
        r->before[i] = (Eval){NAN, NAN, NAN, 0};
        if (!same) continue;
        r->before[i].loss = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(one, "loss"));
        r->before[i].accuracy = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(one, "accuracy"));
        r->before[i].f1 = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(one, "f1"));
    }
    cJSON_Delete(j);
    free(text);
    free(path);
}
/* Every set before and after: what was gained, what was lost. */
static void forgetting_report(const Run *r, const Eval *after) {
    if (!r->n_eval) return;
    /* of a preference there is none */
    const char *second = dpo() ? "" : "perplexity", *its_after = dpo() ? "" : "after";
    printf("\n%-40s %10s %10s %12s %12s  %s\n", "evaluation set", "loss", "after", second, its_after, "");
    for (int i = 0; i < r->n_eval; i++) {
        const Eval *b = &r->before[i], *a = &after[i];
        const char *name = r->eval[i]->name;
        size_t n = strlen(name);
        printf("%-40s %10.4f %10.4f ", n > 40 ? name + n - 40 : name, b->loss, a->loss);
        if (!dpo()) printf("%12.4g %12.4g", exp(b->loss), exp(a->loss));
        printf("  %s", a->loss <= b->loss ? "gained" : isnan(b->loss) ? "" : "lost");
        if (classes()) printf("; accuracy %.2f%% -> %.2f%%, macro F1 %.4f -> %.4f", 100 * b->accuracy,
                              100 * a->accuracy, b->f1, a->f1);
        if (dpo()) printf("; %.2f%% of the pairs the right way round", 100 * a->accuracy);
        printf("\n");
        Buf set = {0};
        json_escape(&set, name, n);
        log_line("forgetting", r->t.step, "\"set\":\"%s\",\"loss_before\":%.8g,\"loss_after\":%.8g", set.data
                 ? set.data : "",
                 isnan(b->loss) ? -1 : b->loss, a->loss);
        buf_free(&set);
    }
    if (!classes()) return;
    size_t n_labels = (size_t)r->labels.n;
    if (n_labels > 20) return;
    printf("\nwhat it is (rows) and what it was taken for:\n%-20s", "");
    for (size_t k = 0; k < n_labels; k++) printf(" %10.10s", r->labels.v[k]);
    for (size_t k = 0; k < n_labels; k++) {
        printf("\n%-20.20s", r->labels.v[k]);
        for (size_t i = 0; i < n_labels; i++) printf(" %10zu", r->confusion[k * n_labels + i]);
    }
    printf("\n");
}

/* ================================================================================================================= *
 * [finetune.anchor] Two ways to forget less without other data in the mix: the loss gets 1/2 sum f (w - start)^2. f is
 * the same for all weights (--l2-start), or as large as old texts' loss is sensitive to the weight (--ewc; Kirkpatrick
 * et al. 2017): the diagonal of the Fisher information, a mean of squared gradients, here scaled to a mean of 1. */
static void masters_get(const Model *m, float *host) {
    for (int i = 0; i < m->n_params; i++) {
        const Param *p = &m->params[i];
        if (p->grad) op.download(host + (p->grad - m->grad), p->master, p->n * sizeof *host);
    }
}
static void masters_put(Model *m, const float *host) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        if (!p->grad) continue;
        op.upload(p->master, host + (p->grad - m->grad), p->n * sizeof *host);
        if (p->w.data != (void *)p->master) op.mat_from_f32(&p->w, p->master);
    }
}
static void fisher(Run *r, float *f) {
    enum { ROWS = 200 };
    StrList files = o.replay_data.n ? o.replay_data : base_data();
    SampleReader rd = reader(r, false);
    rd.task = TASK_LM;
    SampleSet **sets = xcalloc((size_t)files.n, sizeof *sets);
    for (int i = 0; i < files.n; i++) sets[i] = samples_read(&rd, files.v[i]);
    Plan p = plan_epoch(sets, files.n, (uint64_t)common.seed ^ 0xF15E, 0, r->pack, 1);
    size_t n = r->m->n_trained, rows = p.n_rows < ROWS ? p.n_rows : ROWS;
    float *g = xmalloc(size_mul(n, sizeof *g));
    Progress bar = progress_begin("fisher", (double)rows);
    for (size_t row = 0; row < rows; row++) {
        Batch b = plan_batch(&p, sets, row, 1, r->T, r->cfg.pad >= 0 ? r->cfg.pad : 0, r->cfg.type_vocab > 0, &r->room);
        acts_reshape(r->m, r->acts, b.B, b.T);
        forward(r->m, r->acts, &b);
        model_loss(r->m, r->acts, &b, 1.0f / (float)batch_targets(&b, false));
        op.download(g, r->m->grad, n * sizeof *g);
        op.zero(r->m->grad, n * sizeof *g);
        for (size_t i = 0; i < n; i++) f[i] += g[i] * g[i];
        progress_at(&bar, (double)row + 1, "%s", "");
    }
    progress_end(&bar, "%zu rows", rows);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)f[i];
    if (!(sum > 0 && isfinite(sum))) die("--ewc: the gradients of the --replay-data are %s", sum > 0
                                         ? "not finite" : "zero");
    for (size_t i = 0; i < n; i++) f[i] = (float)((double)f[i] / sum * (double)n);
    plan_free(&p);
    for (int i = 0; i < files.n; i++) samples_free(sets[i]);
    free(sets);
    free(g);
}
static void anchor_begin(Run *r) {
    size_t n = r->m->n_trained;
    r->start = xcalloc(n, sizeof *r->start);
    r->need = xcalloc(n, sizeof *r->need);
    masters_get(r->m, r->start);
    Noise noise = r->acts->noise;
    r->acts->noise = (Noise){0};
    if (o.ewc > 0) fisher(r, r->need);
    r->acts->noise = noise;
    for (size_t i = 0; i < n; i++) r->need[i] = (float)(o.ewc * (double)r->need[i] + o.l2_start);
}
/* After a step, back toward the start: w = start + (w - start) / (1 + lr f), which minimises that sum plus the square of
 * the way back over 2 lr (a proximal step: it cannot overshoot). Apart from AdamW's step, as its decay is: in the
 * gradient, the few weights that old texts need most would set the norm that is clipped, and all others stand still.
 * By way of the host: two copies, little beside a step. */
static void anchor_pull(const Run *r, float lr) {
    size_t n = r->m->n_trained;
    float *w = xcalloc(n, sizeof *w);
    masters_get(r->m, w);
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) w[i] = r->start[i] + (w[i] - r->start[i]) / (1 + lr * r->need[i]);
    masters_put(r->m, w);
    free(w);
}

/* ================================================================================================================= *
 * [finetune.save] */
static void write_card(const Run *r, const char *dir, double metric) {
    Buf b = {0};
    buf_fmt(&b, "---\nlibrary_name: %s\nbase_model: %s\n---\n# %s fine-tuned with tea\n\n", o.lora
            ? "peft" : "transformers", o.model,
            config_model_type(&r->cfg));
    buf_fmt(&b, "Task: %s; %s. %lld steps.\n\n- Data:", o.task, o.lora ? "a LoRA adapter" : "all weights",
            (long long)r->t.step);
    for (int i = 0; i < o.data.n; i++) buf_fmt(&b, "%s %s", i ? "," : "", o.data.v[i]);
    if (task() == TASK_CHAT || dpo()) buf_fmt(&b, "\n- Conversations are written as template %s",
                                              chat_template_name(&r->chat));
    if (isfinite(metric)) buf_fmt(&b, "\n- %s on held-out data: %.4f", o.metric, metric);
    buf_str(&b, "\n- Limits: those of its base and of its data; what it states is not checked by anyone.\n");
    char *path = path_join(dir, "README.md");
    file_write(path, b.data, b.len);
    free(path);
    buf_free(&b);
}
static void write_model_as(Run *r, const char *dir, double metric, DType dtype) {
    if (r->m->n_lora) model_lora_save(r->m, dir, o.model);
    else model_save(r->m, dir, dtype);
    tokenizer_copy_files(o.model, dir);
    if (task() == TASK_CHAT || dpo()) chat_template_save(&r->chat, r->tok, dir);
    write_card(r, dir, metric);
}
/* Checkpoints hold the weights as they are trained, to the last bit. */
static void write_checkpoint(void *run, const char *dir, double metric) { write_model_as(run, dir, metric, DT_F32); }

/* ================================================================================================================= *
 * [finetune.loop] */
static int64_t plan_steps(const Plan *p) {
    int64_t batches = ((int64_t)p->n_rows + o.batch - 1) / o.batch;
    return (batches + o.accum - 1) / o.accum;                         /* an epoch's last step takes what is left */
}
static Plan plan_of(Run *r, int64_t epoch) {
    return plan_epoch(r->train, r->n_train, (uint64_t)common.seed, (uint64_t)epoch, r->pack, (size_t)o.batch);
}
/* Steps in all: rows are packed anew each epoch, so their number is known when they are. */
static int64_t count_steps(Run *r) {
    if (o.max_steps) return o.max_steps;
    double steps = 0;
    for (int64_t e = 0; (double)e < o.epochs; e++) {
        Plan p = plan_of(r, e);
        double part = o.epochs - (double)e;
        steps += part >= 1 ? (double)plan_steps(&p) : ceil(part * (double)plan_steps(&p));
        plan_free(&p);
    }
    if (!(steps >= 1 && steps < 1e9)) die("--epochs %g make %.0f steps", o.epochs, steps);
    return (int64_t)steps;
}
/* The plan of the epoch that holds this step. */
static void plan_enter(Run *r, int64_t step) {
    while (!r->plan.row || step >= r->epoch_first + r->epoch_steps) {
        if (r->plan.row) r->epoch_first += r->epoch_steps, r->epoch++;
        plan_free(&r->plan);
        r->plan = plan_of(r, r->epoch);
        r->epoch_steps = plan_steps(&r->plan);
    }
}
static Batch batch_at(Run *r, int64_t batch) {
    size_t B = (size_t)o.batch, row = (size_t)batch * B, rows = r->plan.n_rows - row < B ? r->plan.n_rows - row : B;
    return plan_batch(&r->plan, r->train, row, rows, r->T, r->cfg.pad >= 0 ? r->cfg.pad : 0, r->cfg.type_vocab > 0,
                      &r->room);
}
/* The gradients are there: clipping and AdamW, unless loss or norm are not finite. Returns the loss, or NaN. */
static double apply(Run *r, double loss, double lr, double *norm) {
    *norm = model_grad_norm(r->m);
    if (!isfinite(loss) || !isfinite(*norm)) return NAN;
    OptimOpts h = {lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip};
    model_adamw(r->m, &h, r->t.step + 1, *norm);
    if (r->start) anchor_pull(r, (float)lr);
    r->t.step++;
    return loss;
}
/* The pairs of n batches from `first` on, one by one: each has a weight of its own. */
static double dpo_step(Run *r, int64_t first, int64_t n, double lr, double *norm, size_t *n_tok) {
    size_t row = (size_t)(first * o.batch), end = (size_t)((first + n) * o.batch);
    if (end > r->plan.n_rows) end = r->plan.n_rows;
    double sum = 0, scale = 1 / (double)(end - row);
    *n_tok = 0;
    for (size_t i = row; i < end; i++) {
        uint64_t drop_seed = rng_mix((uint64_t)common.seed ^ 0xD40F,
                                     (uint64_t)r->t.step * (uint64_t)(o.batch * o.accum) + i - row);
        sum += dpo_loss(dpo_pair(r, &r->plan, r->train, 0, i, scale, drop_seed));
        *n_tok += 2 * r->acts->T;
    }
    return apply(r, sum * scale, lr, norm);
}
/* One optimiser step: the mean loss over the targets of all its batches. NaN leaves the weights alone. */
static double train_step(Run *r, double lr, double *norm, size_t *n_tok) {
    plan_enter(r, r->t.step);
    int64_t first = (r->t.step - r->epoch_first) * o.accum,
        n_batches = ((int64_t)r->plan.n_rows + o.batch - 1) / o.batch;
    int64_t n = n_batches - first < o.accum ? n_batches - first : o.accum;
    size_t n_target = 0;
    if (dpo()) return dpo_step(r, first, n, lr, norm, n_tok);
    for (int64_t k = 0; k < n; k++) {
        Batch b = batch_at(r, first + k);
        n_target += batch_targets(&b, classes());
    }
    double sum = 0;
    *n_tok = 0;
    for (int64_t k = 0; k < n; k++) {
        Batch b = batch_at(r, first + k);
        *n_tok += b.B * b.T;
        r->acts->drop_seed = rng_mix((uint64_t)common.seed ^ 0xD40F,
                                     (uint64_t)r->t.step * (uint64_t)o.accum + (uint64_t)k);
        acts_reshape(r->m, r->acts, b.B, b.T);
        forward(r->m, r->acts, &b);
        sum += model_loss(r->m, r->acts, &b, 1.0f / (float)n_target);
    }
    return apply(r, sum / (double)n_target, lr, norm);
}
/* The weights of a checkpoint, into the model that trains. */
static void load_checkpoint(Run *r, const char *dir) {
    if (r->m->n_lora) { model_lora_reload(r->m, dir); return; }
    Model *from = classes() ? model_load_classifier(dir, r->labels, 0, true) : model_load(dir, true);
    model_copy_weights(r->m, from);
    model_free(from);
}
static bool due(const Run *r, const char *strategy, int64_t every) {
    if (!strcmp(strategy, "epoch")) return r->t.step == r->epoch_first + r->epoch_steps;
    return !strcmp(strategy, "steps") && every && r->t.step % every == 0;
}
static void train_loop(Run *r) {
    Schedule rate = {o.schedule, peak_lr(), o.min_lr, 0, o.warmup
                     ? o.warmup : (int64_t)ceil(o.warmup_ratio * (double)r->steps), r->steps};
    Progress bar = progress_begin("finetune", (double)r->steps);
    Eval *e = xcalloc((size_t)r->n_eval + 1, sizeof *e);
    e[0].loss = NAN;
    int64_t saved_at = trainer_saved(&r->t) ? r->t.step : -1;
    double smooth_s = 0;
    while (r->t.step < r->steps && !stop_requested) {
        size_t n_tok;
        double start = now_s(), lr = schedule_lr(&rate, r->t.step + 1), norm = 0;
        double loss = train_step(r, lr, &norm, &n_tok), seconds = now_s() - start;
        if (isnan(loss) || trainer_exploded(&r->t, loss)) {
            log_line("end", r->t.step, "\"reason\":\"%s\"", isnan(loss) ? "loss not finite" : "loss exploded");
            report_write(o.out);
            die("step %lld: the loss %s (learning rate %g, gradient norm %g): stopped; %s",
                (long long)r->t.step + isnan(loss),
                isnan(loss) ? "is not finite" : "has exploded", lr, norm, trainer_last_good(&r->t));
        }
        double tok_s = (double)n_tok / seconds;
        smooth_s = smooth_s == 0 ? tok_s : 0.9 * smooth_s + 0.1 * tok_s;
        bool last = r->t.step == r->steps, save = !last && due(r, o.save_strategy, o.save_steps);
        if (r->t.step % o.log_steps == 0 || last)
            log_line("step", r->t.step, "\"loss\":%.8g,\"lr\":%.6g,\"grad_norm\":%.6g,\"epoch\":%.6g,\"tok_s\":%.1f",
                     loss, lr, norm,
                     (double)r->epoch + (double)(r->t.step - r->epoch_first) / (double)r->epoch_steps, tok_s);
        bool eval = !last && r->n_eval && (due(r, o.eval_strategy, o.eval_steps) || save);
        if (eval) evaluate_all(r, e);
        char text[64] = "";
        if (isfinite(e[0].loss)) snprintf(text, sizeof text, "  eval %.3f", e[0].loss);
        progress_at(&bar, (double)r->t.step, "loss %.3f%s  %s tok/s", r->t.loss_smooth, text, human_count(smooth_s));
        if (save && !(eval && stop_requested)) trainer_save(&r->t, r->m, eval ? metric_of(&e[0]) : NAN),
            saved_at = r->t.step;
        if (eval) report_write(o.out);
    }
    bool finished = r->t.step >= r->steps && !stop_requested;
    e[0] = (Eval){NAN, NAN, NAN, 0};
    if (finished) evaluate_all(r, e);
    finished &= !stop_requested;
    double metric = finished && r->n_eval ? metric_of(&e[0]) : NAN;
    progress_end(&bar, "step %lld  loss %.4f", (long long)r->t.step, r->t.loss_smooth);
    if (common.profile) profile_end(r->t.step);
    if (saved_at != r->t.step) trainer_save(&r->t, r->m, metric);
    if (!finished) {
        log_line("end", r->t.step, "\"reason\":\"stopped\"");
        report_write(o.out);
        printf("stopped at step %lld and saved; go on with ./finetune --resume last --out %s\n", (long long)r->t.step,
               o.out);
        return;
    }
    if (o.load_best && r->t.best_step >= 0 && r->t.best_step != r->t.step) {
        char *path = checkpoint_path(&r->t, r->t.best_step);
        load_checkpoint(r, path);
        free(path);
        evaluate_all(r, e);
        metric = metric_of(&e[0]);
        if (!common.quiet) fprintf(stderr, "the best was step %lld\n", (long long)r->t.best_step);
    }
    write_model_as(r, o.out, metric, r->stored);
    forgetting_report(r, e);
    if (r->n_eval)
        log_line("end", r->t.step, "\"reason\":\"finished\",\"val_loss\":%.8g,\"peak_bytes\":%.0f", e[0].loss,
            memory_peak());
    else log_line("end", r->t.step, "\"reason\":\"finished\",\"peak_bytes\":%.0f", memory_peak());
    report_write(o.out);
    const char *how = classes() ? "--classify" : task() == TASK_LM ? "--prompt" : "--chat";
    if (o.lora) printf("\nadapter in %s; try ./infer --model %s --adapter %s %s, or fold it in: "
                       "./finetune --model %s --merge %s --out DIR\n", o.out,
                       o.model, o.out, how, o.model, o.out);
    else printf("\nmodel in %s, curves in %s/report.html; try ./infer --model %s %s\n", o.out, o.out, o.out, how);
}

/* --out, ready. An earlier model there goes: weights beside an adapter would be both to whoever loads them. */
static void claim_out(const Trainer *t, int64_t from_step) {
    static const char *const model_files[] = {"config.json", "generation_config.json", "model.safetensors",
                                              "model.safetensors.index.json", "adapter_config.json",
                                              "adapter_model.safetensors", "labels.json", "before.json"};
    const char *inputs[] = {o.model, o.merge};
    for (int i = 0; i < 2; i++) {
        char *in = inputs[i] ? realpath(inputs[i], NULL) : NULL, *out = realpath(o.out, NULL);
        if (in && out && !strcmp(in, out)) die("--out %s is where the run reads from: choose another", o.out);
        free(in);
        free(out);
    }
    trainer_claim(t, from_step, o.overwrite);
    for (size_t i = 0; from_step < 0 && i < sizeof model_files / sizeof *model_files; i++) {
        char *path = path_join(o.out, model_files[i]);
        if (remove(path) && errno != ENOENT) die("%s: %s", path, strerror(errno));
        free(path);
    }
}

/* ================================================================================================================= *
 * [finetune.merge] W += scale B A in f32, rounded to what the base is stored in: a float type, or the steps of a
 * quantised weight. Then both ways to run it are compared, for what the rounding loses. */
/* Logits (N, n) of the same random tokens: the next tokens', or the classes' of N texts of as many tokens. */
enum { COMPARED = 64 };
static float *logits_of(Model *m, const int32_t *tokens, size_t *n) {
    const Config *c = &m->cfg;
    bool by_text = c->head == HEAD_CLASSIFY;
    *n = (size_t)(by_text ? c->n_classes : c->V);
    float *logits = xmalloc(size_mul(COMPARED, *n * sizeof *logits));
    Acts *a = acts_new(m, 1, COMPARED, COMPARED, false, false);
    for (int32_t i = 0; i < (by_text ? COMPARED : 1); i++) {
        int32_t len = by_text ? i + 1 : COMPARED;
        forward(m, a, &(Batch){.B = 1, .T = COMPARED, .tokens = tokens, .len = &len});
        if (by_text) op.act_to_host(logits + (size_t)i * *n, model_classify(m, a, 1), *n);
    }
    for (size_t row = 0; row < COMPARED && !by_text; row++)
        op.act_to_host(logits + row * *n, model_logits(m, a, row, 1), *n);
    acts_free(a);
    return logits;
}
static void merge(void) {
    Config cfg = config_read(o.model);
    bool as_quantised = cfg.quantised && !strcmp(o.merge_as, "base");
    DType dtype = tensors_dtype(o.model);
    Trainer t = {.out = o.out};
    claim_out(&t, -1);
    ops_select(common.device, common.isa, PREC_F32);
    Model *m = model_load_adapted(o.model, o.merge);
    if (as_quantised) model_save_quantised(m, o.out);
    else model_save(m, o.out, dtype);
    tokenizer_copy_files(o.model, o.out);
    tokenizer_copy_files(o.merge, o.out);                             /* the adapter's know its template */
    bool by_text = m->cfg.head == HEAD_CLASSIFY;
    const char *form = as_quantised ? "quantised as its base" : dtype_name(dtype);
    if (m->cfg.head == HEAD_NONE) { printf("merged into %s (%s)\n", o.out, form); return; }
    Model *both[2] = {m, model_load(o.out, false)};
    int32_t tokens[COMPARED];
    float *logits[2];
    size_t n, same = 0;
    for (size_t i = 0; i < COMPARED; i++) {
        Rng g = {(uint64_t)common.seed, i};
        tokens[i] = (int32_t)rng_below(&g, (uint64_t)cfg.V);
    }
    for (int k = 0; k < 2; k++) {
        logits[k] = logits_of(both[k], tokens, &n);
        model_free(both[k]);
    }
    double worst = 0, largest = 0, divergence = 0;
    for (size_t row = 0; row < COMPARED; row++) {
        float *x = logits[0] + row * n, *y = logits[1] + row * n;
        for (size_t v = 0; v < n; v++) {
            worst = fmax(worst, fabs((double)x[v] - (double)y[v]));
            largest = fmax(largest, fabs((double)x[v]));
        }
        RowComparison r = compare_row(y, x, n, 0);
        divergence += r.kl / COMPARED;
        same += r.agree;
    }
    if (!isfinite(worst) || !isfinite(divergence)) die("%s: the merged model's logits are not finite", o.out);
    printf("merged into %s (%s): logits differ from the adapter's by at most %.3g (the largest is %.3g), by a KL "
           "divergence of %.3g nats; the likeliest %s is the same in %zu of %d\n", o.out, form, worst, largest,
           fmax(divergence, 0), by_text ? "class" : "token", same, COMPARED);
    free(logits[0]);
    free(logits[1]);
}

/* ================================================================================================================= *
 * [finetune.memory] */
static size_t weights_of_layers(const Config *c, int64_t n) {
    Config without = *c;
    without.L = (int)(n < c->L ? c->L - n : 0);
    if (!without.L) without.L = 1, n = c->L - 1;                      /* a config has one at least */
    return config_weights(c) - config_weights(&without);
}
static double plan_memory(const Run *r, size_t n_trained) {
    size_t B = (size_t)(o.eval_batch > o.batch ? o.eval_batch : o.batch);
    double all = (double)config_weights(&r->cfg), stored = 0;
    for (int i = 0; o.lora && i < r->m->n_params; i++) stored += (double)mat_bytes(&r->m->params[i].w);
    const MemoryPart part[] = {
        {"weights", o.lora ? stored : all * 4},
        {"gradients and moments", (double)n_trained * (o.lora ? 16 : o.l2_start > 0 || o.ewc > 0 ? 24 : 12)},
        {"activations", (double)acts_bytes(&r->cfg, B, r->T, r->T, true, o.recompute)},
        {"the best weights", o.load_best && !o.lora ? all * 4 : 0},
        {"data, tokenizer and program", r->before_model},
    };
    return memory_plan(part, sizeof part / sizeof *part, op.host_memory,
                       o.lora ? "a smaller --batch or --seq, or --recompute"
                              : "a smaller --batch or --seq, --recompute, --lora 8, or --freeze");
}

/* ================================================================================================================= *
 * Getting ready */
static const char *const attention[][6] = {   /* attention's linear layers, by model_type */
    {"gpt2", "attn.c_attn", "attn.c_proj"}, {"chatglm", "query_key_value", "dense"},
    {"bert", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
    {"", "q_proj", "k_proj", "v_proj", "o_proj"},
};
static LoraOpts lora_opts(const Config *c) {
    LoraOpts l = {.r = (int)o.lora, .alpha = o.lora_alpha > 0 ? o.lora_alpha : 2 * (double)o.lora, .rslora = o.rslora,
                  .targets = o.lora_targets};
    for (size_t i = 0; !l.targets.n && i < sizeof attention / sizeof *attention; i++)
        if (!*attention[i][0] || !strcmp(attention[i][0], config_model_type(c))) {
            l.targets.v = xcalloc(6, sizeof(char *));
            for (int k = 1; k < 6 && attention[i][k]; k++) l.targets.v[l.targets.n++] = attention[i][k];
        }
    return l;
}
static void freeze(Model *m) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        p->frozen = (p->layer >= 0 && p->layer < o.freeze) || (o.freeze_embeddings && p->role <= R_EMBED_B);
    }
}
static void load_model(Run *r, const char *resume_dir) {
    bool anchored = o.l2_start > 0 || o.ewc > 0 || dpo();             /* then the first weights come first */
    const char *dir = resume_dir && !o.lora && !anchored ? resume_dir : o.model;
    if (classes()) r->m = model_load_classifier(dir, r->labels, (uint64_t)common.seed, !o.lora);
    else r->m = model_load(dir, !o.lora);
    if (o.lora) {
        /* A gradient through rounding would be that of another function: inputs that the base rounds stay floats. */
        for (int i = 0; i < r->m->n_params; i++) r->m->params[i].w.input = INPUT_FLOAT;
        LoraOpts opts = lora_opts(&r->m->cfg);
        model_lora_new(r->m, &opts, (uint64_t)common.seed);
        if (resume_dir && !dpo()) load_checkpoint(r, resume_dir);
    } else freeze(r->m);
    r->cfg = r->m->cfg;
    model_train_begin(r->m);
}
static void choose_template(Run *r) {
    r->chat = chat_template(o.model, r->tok, o.template);
    if (!o.template && !strcmp(chat_template_name(&r->chat), "plain"))
        {   /* a base model: question and answer need borders */
        chat_template_free(&r->chat);
        r->chat = chat_template(o.model, r->tok, "alpaca");
        r->chat.found_by = "default, as the model has none";
    }
}
static void run(void) {
    Run r = {.t = {.out = o.out, .options = {table, N_OPTS, stay}, .best_name = "val_loss", .write = write_checkpoint,
                   .best_step = -1}};
    r.t.stage = &r;
    char *resume_dir = NULL;
    r.t.best = INFINITY;
    int64_t from_step = o.resume ? trainer_resume(&r.t, o.resume, &resume_dir) : -1;
    r.t.out = o.out, r.t.keep = o.keep;
    r.t.best_is_largest = strcmp(o.metric, "eval_loss");
    if (r.t.best_step < 0) r.t.best = r.t.best_is_largest ? -INFINITY : INFINITY;
    if (r.t.best_is_largest && !classes() && !(dpo() && !strcmp(o.metric, "accuracy")))
        die_usage("--metric %s is for --task classify", o.metric);
    if (o.lora && (o.freeze || o.freeze_embeddings)) die_usage("--lora freezes all weights: --freeze adds nothing");
    if (o.lora && (o.l2_start > 0 || o.ewc > 0))
        die_usage("--lora begins at no change: --weight-decay pulls it back there");
    if (o.ewc > 0 && classes()) die_usage("--ewc reads plain text again, which --task classify cannot");
    Precision precision = strcmp(o.precision, "bf16") ? PREC_F32 : PREC_BF16;
    ops_select(common.device, common.isa, precision);
    if (common.profile) profile_begin(precision);
    r.cfg = config_read(o.model);
    if (!classes() && r.cfg.head != HEAD_LM) die("%s: a %s model does not write text; it learns --task classify",
                                                 o.model, config_model_type(&r.cfg));
    if (!o.lora && r.cfg.quantised)
        die("%s holds weights of few bits, which cannot be trained: an adapter over them can (--lora 8)", o.model);
    if (o.seq > r.cfg.max_pos) {
        if (option_given(table, N_OPTS, "seq")) die("--seq %lld is longer than the model's %d positions",
                                                    (long long)o.seq, r.cfg.max_pos);
        o.seq = r.cfg.max_pos;
    }
    r.stored = tensors_dtype(o.model);
    r.tok = tokenizer_load(o.model);
    if (task() == TASK_CHAT || dpo()) choose_template(&r);
    read_data(&r);
    data_report(&r);
    if (classes())
        r.cfg.n_classes = r.labels.n, r.cfg.head = HEAD_CLASSIFY, r.cfg.pooler = r.cfg.mask == MASK_BIDIRECTIONAL;
    r.before_model = memory_now() + scratch_bytes();
    double need = 0;
    if (!o.lora) need = plan_memory(&r, config_weights(&r.cfg) - weights_of_layers(&r.cfg, o.freeze));
    claim_out(&r.t, from_step);
    load_model(&r, resume_dir);
    if (o.lora) need = plan_memory(&r, r.m->n_trained);
    size_t B = (size_t)(o.eval_batch > o.batch ? o.eval_batch : o.batch), n_labels = (size_t)r.labels.n;
    r.acts = acts_new(r.m, B, r.T, r.T, true, o.recompute);
    r.acts->noise = (Noise){(float)o.dropout, (float)o.lora_dropout, (float)o.neftune};
    r.room = batch_room(B, r.T);
    if (o.l2_start > 0 || o.ewc > 0) anchor_begin(&r);
    if (dpo()) dpo_reference(&r);
    if (resume_dir && (r.start || dpo())) load_checkpoint(&r, resume_dir);
    r.confusion = xcalloc(n_labels * n_labels + 1, sizeof *r.confusion);
    r.before = xcalloc((size_t)r.n_eval + 1, sizeof *r.before);
    r.steps = count_steps(&r);
    if (resume_dir) trainer_moments(&r.t, r.m, resume_dir, from_step);
    if (r.t.step > r.steps || (r.t.step == r.steps && trainer_has_finished(&r.t, r.t.step)))
        die("%s is at step %lld already: nothing to do up to step %lld", resume_dir, (long long)r.t.step,
            (long long)r.steps);
    plan_enter(&r, r.t.step);
    if (common.profile) profile_reset();                              /* loading is not what is asked about */

    log_open(o.out, resume_dir ? r.t.step : -1);
    cJSON *settings = options_to_json(&r.t.options);
    cJSON_AddStringToObject(settings, "kernels", op.name);
    cJSON_AddNumberToObject(settings, "steps", (double)r.steps);
    cJSON_AddNumberToObject(settings, "parameters", (double)config_weights(&r.cfg));
    cJSON_AddNumberToObject(settings, "memory_bytes", need);
    cJSON_AddNumberToObject(settings, "trained", (double)r.m->n_trained);
    char *text = cJSON_PrintUnformatted(settings);
    text[strlen(text) - 1] = 0;                                       /* the inside of the object */
    log_line("start", r.t.step, "%s", text + 1);
    free(text);
    cJSON_Delete(settings);
    if (!common.quiet)
        fprintf(stderr, "run      %lld steps, %lld an epoch; learning rate %g, %s\n", (long long)r.steps,
                (long long)r.epoch_steps, peak_lr(),
                o.schedule);
    catch_signals();
    if (resume_dir) before_load(&r);
    else {
        evaluate_all(&r, r.before);
        if (stop_requested) {
            printf("stopped before the first step: nothing to save\n");
            return;
        }
        before_save(&r);
    }
    train_loop(&r);
    log_close();
}

/* ================================================================================================================= *
 * [finetune.sweep] One process a share, so that each run is what it would be alone. */
typedef struct { char *set; double before, after; } Forgotten;
/* The end of a run's report; -1: it does not know. */
static Forgotten *forgotten_read(const char *out, int *n) {
    char *path = path_join(out, "log.jsonl"), *text = file_read(path, NULL);
    Forgotten *v = NULL;
    *n = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (!strstr(line, "\"event\":\"forgetting\"")) continue;
        cJSON *j = cJSON_Parse(line);
        const char *set = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "set"));
        v = xrealloc(v, (size_t)(*n + 1) * sizeof *v);
        v[(*n)++] = (Forgotten){xstrdup(set ? set : ""), cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(j,
                "loss_before")),
                                cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(j, "loss_after"))};
        cJSON_Delete(j);
    }
    free(text);
    free(path);
    return v;
}
static void sweep(void) {
    enum { BAR = 24 };
    if (o.resume) die_usage("--sweep-mix begins runs: --resume each in its own directory");
    if (!o.replay_data.n) o.replay_data = base_data();
    const char *out = o.out;
    int n_shares = o.sweep_mix.n, n_sets = 0;
    Forgotten **got = xcalloc((size_t)n_shares, sizeof *got);
    for (int i = 0; i < n_shares; i++) {
        char *end;
        double share = strtod(o.sweep_mix.v[i], &end);
        if (*end || end == o.sweep_mix.v[i] || !(share >= 0 && share <= 0.95))
            die_usage("--sweep-mix %s: a share is from 0 to 0.95", o.sweep_mix.v[i]);
        o.replay = share;
        o.out = strf("%s/mix-%s", out, o.sweep_mix.v[i]);
        if (!common.quiet) fprintf(stderr, "\n== %s of the samples replayed\n", o.sweep_mix.v[i]);
        fflush(NULL);
        pid_t child = fork();                                         /* before any thread or device is there */
        if (child < 0) die("cannot start a process: %s", strerror(errno));
        if (!child) {
            run();
            exit(fflush(stdout) ? 1 : 0);
        }
        int status;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR) die("waitpid: %s", strerror(errno));
        if (!WIFEXITED(status) || WEXITSTATUS(status)) exit(1);       /* it has said why */
        int n;
        got[i] = forgotten_read(o.out, &n);
        if (!n) die("%s: stopped before its end", o.out);
        n_sets = n;
    }
    printf("\nlosses after training, by the share of replayed samples (the longer the bar, the worse)\n");
    for (int k = 0; k < n_sets; k++) {
        double worst = got[0][k].before;
        for (int i = 0; i < n_shares; i++) worst = fmax(worst, got[i][k].after);
        printf("\n%s\n", got[0][k].set);
        for (int i = -1; i < n_shares; i++) {
            double loss = i < 0 ? got[0][k].before : got[i][k].after;
            printf("  %-8s %8.4f  %.*s\n", i < 0 ? "before" : o.sweep_mix.v[i], loss, worst > 0
                   ? (int)(BAR * loss / worst) : 0,
                   "########################");
        }
    }
    printf("\neach run is in %s/mix-SHARE\n", out);
}

int main(int argc, char **argv) {
    common.seed = 42;
    parse_options(argc, argv);
    if (o.merge) merge();
    else if (o.sweep_mix.n) sweep();
    else run();
    return 0;
}
