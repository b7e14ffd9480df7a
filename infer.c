/* infer.c - stage 5: what a model does once it is trained. Generate, chat, evaluate, measure, compare, look inside.
 *
 *     ./infer --prompt "Once upon a time"                   the model in out/, which ./train leaves there
 *     ./infer --model gpt2 --prompt "Hello" --temperature 0 the same with a directory from the Hub
 *     ./infer --model Qwen2.5-0.5B-Instruct --chat          a conversation
 *
 * A laptop's minute:  ./train --steps 100 && ./infer --samples 3 --n 60
 *
 * MAP
 *   [infer.options]   every option, one line each
 *   [infer.start]     which kernels, which precision, which model
 *   [infer.settings]  generation_config.json, stop tokens: what the model's makers recommend
 *   [infer.prompt]    text -> ids, and the token that opens a document
 *   [infer.prefill]   the prompt through the network, in pieces of bounded memory
 *   [infer.decode]    the loop that everybody means by "inference": sample, show, feed back
 *   [infer.draft]     guesses that make it faster and change nothing: several tokens for one reading of the weights
 *   [infer.cache]     a prompt's keys and values in a file, so that it is paid for once in a lifetime
 *   [infer.batch]     many prompts at a time: one reading of the weights for all of them
 *   [infer.chat]      a conversation: only what is new goes through the network
 *   [infer.eval]      perplexity and bits per byte over a sliding window
 *   [infer.logits]    explicit ids in, logits or attention out: what tests and other programs compare with
 *   [infer.encode]    what an encoder (BERT) is for: masked words, embeddings, classes
 *   [infer.bench]     tokens/s beside the machine's limits
 *   [infer.compare]   two devices or instruction sets in one process, layer by layer
 *
 * WHY TWO SPEEDS. The prompt is known, so its tokens go through the network together and each weight that is read
 * serves hundreds of them: prefill is limited by arithmetic. New tokens come one after the other, each needs every
 * weight once: decoding is limited by memory bandwidth, whatever the processor. --bench shows both beside their limits.
 *
 * Refused here: changing weights, writing models, tokenizer files, any knowledge of a family (model.c) or a device. */
#include "chat.h"
#include "common.h"
#include "dataset.h"
#include "evaluate.h"
#include "kernels.h"
#include "lines.h"
#include "model.h"
#include "profile.h"
#include "tokenizer.h"
#include "weights.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ================================================================================================================= *
 * [infer.options] */
static struct {
    const char *model, *adapter, *kv_cache, *pooling, *embed_out, *pair, *config, *prompt, *bos, *logits, *logits_out,
        *attention_out, *compare, *reference, *precision, *system,
        *template, *messages, *history, *draft, *prompt_cache, *batch;
    int64_t n, samples, context, stride, top_k, layer, draft_tokens, batch_size;
    double temperature, top_p, min_p, repetition;
    bool ignore_eos, echo, bench, json, chat;
    StrList eval, fill_mask, embed, classify;
} o = {.model = "out", .bos = "auto", .pooling = "auto", .precision = "auto", .kv_cache = "auto", .n = 256,
    .samples = 1, .draft_tokens = 4, .batch_size = 8, .temperature = 0.8, .top_p = 0.95,
       .repetition = 1, .echo = true};

#define MANY (1 << 24)
#define CHAT_CONTEXT 4096
#define DRAFT_MAX 7                          /* with the token before them the 8 rows that matmul streams weights for */
static Opt options[] = {
    TEXT("model", model, "model directory: config.json, model.safetensors, tokenizer.json"),
    TEXT("adapter", adapter, "a LoRA adapter's directory, in PEFT's layout, to run the model with"),
    ONE_OF("precision", precision, "what matmuls multiply (sums are always f32); auto: bf16 for weights stored in "
        "BF16 where the device multiplies them natively, else f32", "auto|f32|bf16"),
    INT("context", context, "cache slots: prompt and answer together (0: all that the model knows); with --eval the "
        "window (0: that, at most 1024); with --chat 0 means that, at most 4096", 0, MANY),
    ONE_OF("kv-cache", kv_cache, "int8: keys and values of past tokens take a quarter of the memory, and a long "
        "context is read faster; they lose their last digits (--eval with --reference says what that costs). auto: "
        "kept as they are", "auto|int8"),
    FLAG("json", json, "the result as JSON, one object a line"),

    SECTION("Generate (the default)"),
    TEXT("prompt", prompt, "text to continue; - reads it from stdin, less one final newline; without it a new "
        "document begins"),
    INT("n", n, "at most this many new tokens (--chat: as many as fit, if not given)", 0, MANY),
    INT("samples", samples, "continuations of the one prompt", 1, MANY),
    REAL("temperature", temperature, "0: always the likeliest token; 1: as the model says. This and the next four "
        "take what generation_config.json states, if they are not given", 0, 100),
    INT("top-k", top_k, "only the k likeliest tokens (0: off)", 0, MANY),
    REAL("top-p", top_p, "only the fewest tokens with this probability together (1: off)", 0, 1),
    REAL("min-p", min_p, "only tokens with this share of the likeliest one's probability (0: off)", 0, 1),
    REAL("repetition-penalty", repetition, "above 1: makes tokens seen before less likely (1: off)", 0.01, 100),
    ONE_OF("bos", bos, "put the token that opens a document before the prompt; auto: where the tokenizer asks for "
        "it, as transformers does (with --eval: where there is one)", "auto|yes|no"),
    FLAG("ignore-eos", ignore_eos, "go on past the end of the text"),
    FLAG("echo", echo, "print the prompt too"),
    TEXT("draft", draft, "guess several tokens and check them in one pass; the text stays the same: \"lookup\" "
        "repeats what followed the last words before, a model directory (of the same tokenizer, much smaller) writes "
        "the guesses"),
    INT("draft-tokens", draft_tokens, "guesses a pass", 1, DRAFT_MAX),
    TEXT("prompt-cache", prompt_cache, "keep the prompt's keys and values in this file: a later prompt that begins "
        "alike starts behind that beginning"),

    SECTION("Many prompts"),
    TEXT("batch", batch, "answer each line of this .jsonl, {\"prompt\": TEXT} or {\"messages\": [...]}, with a line "
        "of JSON, in order; - reads stdin"),
    INT("batch-size", batch_size, "prompts that are decoded together; above 8 the sums are made in another order, "
        "and the last digits of logits may differ from those of a prompt alone", 1, 1024),

    SECTION("Chat"),
    FLAG("chat", chat, "talk with the model: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves"),
    TEXT("system", system, "what the model is told before all else"),
    ONE_OF("template", template, "how messages are written for the model, if its files do not say so", CHAT_TEMPLATES),
    TEXT("messages", messages, "answer the last message of each line of this .jsonl, {\"messages\": [{\"role\", "
        "\"content\"}, ...]}, with a line of JSON; - reads stdin"),
    TEXT("history", history, "keep the lines typed in this file (none: nothing is kept)"),

    SECTION("Encoders (BERT)"),
    WORDS("fill-mask", fill_mask, "texts with [MASK]: the likeliest tokens in its place (--top-k of them, else 5); - "
        "reads lines from stdin"),
    WORDS("embed", embed, "texts to embed: a line of JSON for each; - reads lines from stdin"),
    ONE_OF("pooling", pooling, "an embedding is the tokens' mean, the first token's state, their largest values, or "
        "the pooler's output; auto: what 1_Pooling/config.json says, else the mean. It has length 1 where "
        "modules.json normalises, and for mean and cls where there is no such file", "auto|mean|cls|max|pooler"),
    TEXT("embed-out", embed_out, "write tensor \"embeddings\", F32 (texts, width), to this .safetensors instead"),
    WORDS("classify", classify, "texts to classify, with a model that has classes; - reads lines from stdin"),
    TEXT("pair", pair, "the second text of each pair, for --embed and --classify"),

    SECTION("Evaluate"),
    WORDS("eval", eval, "perplexity and bits per byte of this data: .txt, .jsonl, a folder of them, "
        "corpus-valid:BYTES, or token shards .bin"),
    TEXT("reference", reference, "a model with the same vocabulary, to measure the KL divergence from: what was lost "
        "by quantising"),
    INT("stride", stride, "the window moves by this: each token is predicted from at least context - stride tokens, "
        "or all that its document has (0: half the context)", 0, MANY),

    SECTION("Look inside"),
    TEXT("logits", logits, "file of token ids, [[1,2,3],[4,5,6]]: rows of one length, used as they are"),
    TEXT("logits-out", logits_out, "write tensor \"logits\", F32 (rows, tokens, vocabulary), to this .safetensors"),
    TEXT("attention-out", attention_out, "write tensor \"attention\", F32 (heads, tokens, tokens), of the first row "
        "of --logits, or of --prompt"),
    INT("layer", layer, "the layer that --attention-out shows, from 0", 0, 4095),
    TEXT("compare", compare, "A,B: run --prompt (or --logits' first row) on both and compare every layer. Each is "
        "one of cpu, cuda, plain, avx2, avx512, avx512bf16, neon; :f32 or :bf16 behind it is its precision (else "
        "--precision; auto: f32)"),

    SECTION("Measure"),
    FLAG("bench", bench, "prefill and decode tokens/s against the machine's limits: a table on stderr, JSON on stdout"),
    TEXT("config", config, "with --bench: random weights for this config.json (or its directory); no model needed"),
    COMMON_OPTS,
};
enum { N_OPTIONS = sizeof options / sizeof *options };
static bool given(const char *name) { return option_given(options, N_OPTIONS, name); }

static const char about[] =
    "infer - run a model: generate text, chat, evaluate, measure, compare devices, look inside\n\n"
    "  ./infer --prompt \"Once upon a time\"                           continue a text\n"
    "  ./infer --model DIR --chat                                    a conversation\n"
    "  ./infer --model DIR --batch prompts.jsonl                     many prompts together, answers as JSON lines\n"
    "  ./infer --model gpt2 --eval test.txt                          perplexity and bits per byte\n"
    "  ./infer --model gpt2 --logits ids.json --logits-out l.safetensors\n"
    "  ./infer --model gpt2 --compare cpu,cuda --prompt Hello        both devices, per-layer differences\n"
    "  ./infer --model gpt2 --bench                                  tokens/s beside the machine's limits\n"
    "  ./infer --model bert --fill-mask \"A [MASK] day.\"              masked words; --embed, --classify";

static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

/* ================================================================================================================= *
 * [infer.start] Kernels are chosen before weights are loaded, because where weights may lie depends on the device; and
 * the precision depends on how the weights are stored. So the file is asked first, which costs its header only. */
static void require_model_dir(void) {
    if (is_dir(o.model)) return;
    if (given("model"))
        die("%s: no such directory: a model is a directory with config.json and model.safetensors", o.model);
    die("there is no model in %s/ yet: run ./train first, or name one with --model DIR", o.model);
}

/* An adapter that was tuned on conversations brings their template in its tokenizer's files. */
static ChatTemplate start_template(const Tokenizer *tok) {
    return chat_template(o.adapter && tokenizer_in_dir(o.adapter) ? o.adapter : o.model, tok, o.template);
}

/* bf16 by itself only where the weights lose nothing: F16 has three more bits, F32 sixteen. */
static Precision precision;
static void select_kernels(DType stored) {
    bool cuda = !strcmp(common.device, "cuda");
    precision = !strcmp(o.precision, "bf16") ? PREC_BF16 : PREC_F32;
    if (!strcmp(o.precision, "auto") && stored == DT_BF16) {
        if (!cuda) ops_select(common.device, common.isa, PREC_F32);
        if (cuda || !strcmp(op.name, "avx512bf16")) precision = PREC_BF16;
    }
    ops_select(common.device, common.isa, precision);
    if (common.profile) profile_begin(precision);
}
static const char *precision_name(void) { return precision == PREC_BF16 ? "bf16" : "f32"; }
static bool small_cache(void) { return !strcmp(o.kv_cache, "int8"); }
static double before_model;        /* bytes of memory: what was there before it, and the ops' scratch */
static Model *start_model(void) {
    require_model_dir();
    select_kernels(!strcmp(o.precision, "auto") ? tensors_dtype(o.model) : DT_F32);
    before_model = memory_now() + scratch_bytes();
    Model *m = o.adapter ? model_load_adapted(o.model, o.adapter) : model_load(o.model, false);
    m->cfg.cache_i8 = small_cache();
    if (common.profile) profile_reset();
    return m;
}
static Tokenizer *start_tokenizer(void) {
    double before = memory_now();
    Tokenizer *t = tokenizer_load(o.model);
    before_model += memory_now() - before;
    return t;
}
static Model *start_decoder(void) {
    Model *m = start_model();
    if (m->cfg.head != HEAD_LM)
        die("%s: a %s model does not continue texts: see --fill-mask, --embed, --classify", o.model,
            config_model_type(&m->cfg));
    return m;
}

/* Slots that a row may fill. Learned positions end; rotary ones go on, only nobody trained there. */
static size_t context_limit(const Config *c) {
    if (o.context > c->max_pos && c->pos == POS_LEARNED)
        die("--context %lld: this model has %d positions", (long long)o.context, c->max_pos);
    if (o.context > c->max_pos)
        warn("--context %lld: this model was made for %d positions and may lose the thread after them",
             (long long)o.context, c->max_pos);
    return o.context ? (size_t)o.context : (size_t)c->max_pos;
}

typedef struct { double weights, cache, work; } Memory;            /* bytes */
static Memory memory_of(const Model *m, const Acts *a) {
    Memory mem = {0};
    for (int i = 0; i < m->n_params; i++) mem.weights += (double)mat_bytes(&m->params[i].w);
    mem.cache = cache_bytes(&m->cfg, a->B, a->S);
    mem.work = (double)a->bytes - mem.cache;
    return mem;
}
/* What there will be when the cache is full. Mapped weights may be more than the machine has: then the system drops and
 * reads them again, which is slow but no error. */
static double plan_memory(const Model *m, const Acts *a) {
    Memory mem = memory_of(m, a);
    const MemoryPart part[] = {{"weights", mem.weights}, {"cache", mem.cache}, {"work", mem.work},
        {"tokenizer and program", before_model}};
    return memory_plan(part, sizeof part / sizeof *part, op.host_memory, NULL);
}
static void print_machine(void) {
    fprintf(stderr, "%s, %s, %d thread%s", op.name, precision_name(), thread_count(), thread_count() > 1 ? "s" : "");
}

/* ================================================================================================================= *
 * [infer.settings] An option on the command line wins over generation_config.json, that over our defaults. Where the
 * file says do_sample, what it leaves out means what it does to transformers: false is greedy; true is temperature 1,
 * top-k 50. */
typedef struct { Sampler sampler; Ids stop; } Settings;

static double recommended(const cJSON *g, const char *key, double min, double max, double fallback) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(g, key);
    if (!v || cJSON_IsNull(v)) return fallback;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max))
        die("%s/generation_config.json: \"%s\" must be a number from %g to %g", o.model, key, min, max);
    return v->valuedouble;
}
static void stop_add(Ids *stop, int id) {
    for (size_t i = 0; i < stop->n; i++)
        if (stop->v[i] == id) return;
    if (id >= 0) ids_add(stop, id);
}
static bool stop_has(const Ids *stop, int32_t id) {
    for (size_t i = 0; i < stop->n; i++)
        if (stop->v[i] == id) return true;
    return false;
}

static Settings settings_read(const Model *m, const Tokenizer *tok) {
    Settings s = {0};
    double temperature = o.temperature, top_k = (double)o.top_k, top_p = o.top_p, min_p = o.min_p;
    double repetition = o.repetition;
    for (int i = 0; i < m->cfg.n_eos; i++) stop_add(&s.stop, m->cfg.eos[i]);
    stop_add(&s.stop, tokenizer_eos(tok));
    if (m->generation_json) {
        cJSON *g = cJSON_Parse(m->generation_json);
        const cJSON *do_sample = cJSON_GetObjectItemCaseSensitive(g, "do_sample");
        if (do_sample && !cJSON_IsNull(do_sample) && !cJSON_IsBool(do_sample))
            die("%s/generation_config.json: \"do_sample\" is neither true nor false", o.model);
        bool sampled = cJSON_IsTrue(do_sample);
        double file_temperature = recommended(g, "temperature", 0, 100, sampled ? 1 : temperature);
        if (!given("temperature")) temperature = cJSON_IsFalse(do_sample) ? 0 : file_temperature;
        if (!given("top-k")) top_k = recommended(g, "top_k", 0, 1 << 24, sampled ? 50 : top_k);
        if (!given("top-p")) top_p = recommended(g, "top_p", 0, 1, sampled ? 1 : top_p);
        if (!given("min-p")) min_p = recommended(g, "min_p", 0, 1, min_p);
        if (!given("repetition-penalty")) repetition = recommended(g, "repetition_penalty", 0.01, 100, repetition);
        const cJSON *eos = cJSON_GetObjectItemCaseSensitive(g, "eos_token_id");        /* a number, or several */
        if (cJSON_IsNull(eos)) eos = NULL;
        bool list = cJSON_IsArray(eos);
        for (const cJSON *one = list ? eos->child : eos; one; one = list ? one->next : NULL) {
            if (!cJSON_IsNumber(one) || one->valuedouble != one->valueint)
                die("%s/generation_config.json: \"eos_token_id\" is neither a token id nor a list of them", o.model);
            stop_add(&s.stop, one->valueint);
        }
        cJSON_Delete(g);
    }
    s.sampler = (Sampler){.repetition = (float)repetition, .temperature = (float)temperature, .top_k = (int)top_k,
                          .top_p = (float)top_p, .min_p = (float)min_p};
    return s;
}

/* ================================================================================================================= *
 * [infer.prompt] Models differ in what they want before a text, and the tokenizer's files say what. */
static bool wants_bos(bool by_itself) { return !strcmp(o.bos, "yes") || (by_itself && strcmp(o.bos, "no")); }

static Buf stdin_read(void) {
    Buf b = {0};
    char piece[65536];
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0;) buf_add(&b, piece, n);
    if (ferror(stdin)) die("stdin: %s", strerror(errno));
    if (b.len && b.data[b.len - 1] == '\n') b.data[--b.len] = 0;    /* echo's, not the writer's */
    return b;
}

static void check_ids(const Config *c, const Ids *ids) {
    for (size_t i = 0; i < ids->n; i++)
        if (ids->v[i] >= c->V)
            die("%s: the tokenizer gives id %d, the model has %d ids: do they fit together?", o.model, ids->v[i], c->V);
}

/* Appends a prompt's ids, or with NULL those that a new document begins with; returns how many were put before the
 * text. Special tokens written in the prompt are meant. */
static size_t prompt_wrap(const Config *c, const Tokenizer *tok, const char *text, size_t n, Ids *ids) {
    const Ids *prefix = tokenizer_prefix(tok);
    int opening = opening_token(c, tok);
    if (prefix->n && strcmp(o.bos, "no"))
        for (size_t i = 0; i < prefix->n; i++) ids_add(ids, prefix->v[i]);
    else if (!text || wants_bos(false)) {
        if (opening < 0)
            die("%s: no token opens a document here; %s", o.model, text ? "use --bos no" : "give a --prompt");
        ids_add(ids, opening);
    }
    size_t n_opening = ids->n;
    if (text) {
        tokenizer_encode(tok, text, n, true, ids);
        const Ids *suffix = tokenizer_suffix(tok);               /* ChatGLM-6B: the blank to fill and where it starts */
        for (size_t i = 0; c->mask == MASK_PREFIX && i < suffix->n; i++) ids_add(ids, suffix->v[i]);
    }
    check_ids(c, ids);
    return n_opening;
}
/* --prompt's ids; n_opening of them were put before it. */
static Ids prompt_ids(const Config *c, const Tokenizer *tok, size_t *n_opening) {
    Ids ids = {0};
    Buf text = {0};
    if (o.prompt && !strcmp(o.prompt, "-")) text = stdin_read();
    else if (o.prompt) buf_str(&text, o.prompt);
    if (o.prompt && !text.len) die("the prompt is empty; without --prompt a new document begins");
    *n_opening = prompt_wrap(c, tok, text.data, text.len, &ids);
    buf_free(&text);
    return ids;
}

/* ================================================================================================================= *
 * [infer.prefill] n ids go behind the `filled` slots of the cache, in pieces of a->T: activations need memory for one
 * piece only, however long the prompt. Later pieces see earlier ones through the cache. n = 1 is decoding. Returns the
 * last token's logits (V). */
enum { PREFILL_CHUNK = 512 };                                      /* enough rows that each weight read is well used */
/* A prompt whose tokens see those behind them (a prefix mask) cannot be cut. */
static size_t prefill_piece(const Config *c, size_t n) {
    return c->mask == MASK_PREFIX ? n : min_size(n, PREFILL_CHUNK);
}
static act *feed(Model *m, Acts *a, const int32_t *ids, size_t n, size_t filled) {
    size_t T = 0;
    for (size_t first = 0; first < n; first += T) {
        T = min_size(n - first, a->T);
        int32_t pos = (int32_t)(filled + first);
        forward(m, a, &(Batch){.B = 1, .T = T, .tokens = ids + first, .pos = &pos});
    }
    return model_logits(m, a, T - 1, 1);
}

/* ================================================================================================================= *
 * [infer.decode] Draw a token, show it, feed it back. */
static void show(const Buf *text) {
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
    for (size_t at = 0; at < text->len;) {                         /* not fwrite: Ctrl-C may come in the middle of it */
        ssize_t n = write(STDOUT_FILENO, text->data + at, text->len - at);
        if (n < 0 && errno != EINTR) die("stdout: %s", strerror(errno));
        if (n > 0) at += (size_t)n;
    }
}
static void json_ids(Buf *b, const char *key, const int32_t *ids, size_t n) {
    buf_fmt(b, "\"%s\":[", key);
    for (size_t i = 0; i < n; i++) buf_fmt(b, "%s%d", i ? "," : "", ids[i]);
    buf_str(b, "]");
}

/* Who guesses [infer.draft]: nobody, the text so far, or a small model. */
typedef struct {
    bool lookup;
    Model *m;
    Acts *a;
    Ids held;                                                      /* what its cache holds */
    size_t n_guessed, n_right;
} Draft;

typedef struct {
    Model *m;
    Acts *a;
    Tokenizer *tok;
    Settings set;
    size_t n_ids;                                               /* that the tokenizer can spell: padding is not drawn */
    Ids ids;                                                       /* of the text so far, prompt included */
    Utf8Stream utf8;                                               /* a character may take several tokens ... */
    Buf text;                                                      /* ... so this lags behind; with --json, all of it */
    size_t n_fed;                                                  /* tokens that went through the network alone */
    double decode_s;
    size_t n_cached;                                               /* of ids: what the cache holds */
    int32_t stopped_by;
    Draft draft;
    const ChatTemplate *talk;                                      /* a conversation; NULL: a text */
    size_t n_shown;                                                /* bytes of its answer's text */
} Session;
static void talk_show(Session *s, bool whole);

static void session_free(Session *s) {
    if (s->draft.m) {
        acts_free(s->draft.a);
        model_free(s->draft.m);
        ids_free(&s->draft.held);
    }
    acts_free(s->a);
    model_free(s->m);
    tokenizer_free(s->tok);
    ids_free(&s->ids);
    ids_free(&s->set.stop);
    buf_free(&s->text);
}
static void text_add(Session *s, int32_t id) {
    if (s->talk && id >= 0 && tokenizer_is_special(s->tok, id)) return;    /* notation, not words */
    tokenizer_decode_stream(s->tok, &s->utf8, id, &s->text);
    if (o.json) return;
    if (s->talk) talk_show(s, id < 0);
    else show(&s->text), s->text.len = 0;
}

/* ---- [infer.draft] ---------------------------------------------------------------------------------------------- *
 * A pass of one token reads every weight; a pass of five reads them once too. So somebody guesses the next few tokens,
 * one pass computes the logits behind each of them, and the guesses are right as long as each is the token that would
 * have been drawn there (speculative decoding: Leviathan et al. 2023, Chen et al. 2023). Those papers accept and
 * reject by probabilities, which keeps the distribution; here a draw is a function of (seed, step) and the logits
 * alone, and matmul and attention give a token the same bits in a pass of 1 and of 8, so the very text is that of
 * the plain run, greedy or sampled. A model that guesses draws with the same numbers, and so agrees more often. */
static void draft_open(Session *s, size_t n_prompt, size_t S) {
    Draft *d = &s->draft;
    if (!o.draft) return;
    if (!strcmp(o.draft, "lookup")) {
        d->lookup = true;
        return;
    }
    if (!is_dir(o.draft)) die("--draft %s: neither \"lookup\" nor a model directory", o.draft);
    d->m = model_load(o.draft, false);
    d->m->cfg.cache_i8 = small_cache();
    const Config *c = &d->m->cfg;
    Tokenizer *tok = tokenizer_load(o.draft);
    bool same = c->head == HEAD_LM && tokenizer_vocab(tok) == tokenizer_vocab(s->tok);
    for (int id = 0; same && id < tokenizer_vocab(tok); id++) {
        size_t n = 0, n_ours = 0;
        const char *its = tokenizer_token(tok, id, &n), *ours = tokenizer_token(s->tok, id, &n_ours);
        same = n == n_ours && !memcmp(its, ours, n);
    }
    tokenizer_free(tok);
    if (!same) die("--draft %s: it must be a language model with the tokenizer of %s", o.draft, o.model);
    if (c->pos == POS_LEARNED && S > (size_t)c->max_pos)
        die("--draft %s: it has %d positions, this text may need %zu (--n, --context)", o.draft, c->max_pos, S);
    d->a = acts_new(d->m, 1, prefill_piece(c, n_prompt), S, false, false);
}
/* What followed when the last words stood before: the latest place where the last three tokens do, else the last
 * two. */
static size_t draft_lookup(const Ids *ids, size_t most, int32_t *guess) {
    for (size_t words = 3; words > 1; words--) {
        if (ids->n <= words) continue;
        const int32_t *end = ids->v + ids->n - words;
        for (size_t at = ids->n - words; at-- > 0;) {
            if (memcmp(ids->v + at, end, words * sizeof *end)) continue;
            size_t n = min_size(most, ids->n - at - words);
            memcpy(guess, ids->v + at + words, n * sizeof *guess);
            return n;
        }
    }
    return 0;
}
/* At most `most` guesses of what follows s->ids, whose next token is number `step` of its stream. */
static size_t draft_guess(Session *s, size_t most, uint64_t stream, size_t step, int32_t *guess) {
    Draft *d = &s->draft;
    most = min_size(most, (size_t)o.draft_tokens);
    if (d->lookup) return draft_lookup(&s->ids, most, guess);
    if (!d->m || !most) return 0;
    size_t kept = 0, n_text = s->ids.n;
    while (d->m->cfg.mask != MASK_PREFIX && kept < d->held.n && kept + 1 < n_text &&
        d->held.v[kept] == s->ids.v[kept]) kept++;
    act *logits = feed(d->m, d->a, s->ids.v + kept, n_text - kept, kept);
    size_t n = 0;
    for (;;) {                                                     /* guesses join the text while they are made */
        guess[n] = model_sample(d->a, logits, s->n_ids, &s->set.sampler, s->ids.v, s->ids.n, stream, step + n);
        bool end = stop_has(&s->set.stop, guess[n]) && !o.ignore_eos;
        if (++n == most || end) break;
        ids_add(&s->ids, guess[n - 1]);
        logits = feed(d->m, d->a, &guess[n - 1], 1, s->ids.n - 1);
    }
    d->held.n = 0;
    for (size_t i = 0; i < s->ids.n; i++) ids_add(&d->held, s->ids.v[i]);
    s->ids.n = n_text;
    return n;
}

/* Goes on from the last token's logits for at most n_new tokens; says why it ended. The token drawn last is not fed:
 * nobody asks what would follow it. */
static const char *decode(Session *s, const act *logits, size_t n_new, uint64_t stream) {
    const char *why = "length";
    int32_t fed[1 + DRAFT_MAX];                                    /* the token drawn last, and guesses of the next */
    size_t n_guess = 0, row = 0, V = (size_t)s->m->cfg.V;      /* row of logits: behind how many right guesses we are */
    double start = now_s();
    for (size_t step = 0; step < n_new; step++) {
        int32_t id = model_sample(s->a, act_at(&op, logits, row * V), s->n_ids, &s->set.sampler, s->ids.v, s->ids.n,
            stream, step);
        if (stop_requested) { why = "interrupted"; break; }
        if (!o.ignore_eos && stop_has(&s->set.stop, id)) {
            s->stopped_by = id;
            why = "stop";
            break;
        }
        ids_add(&s->ids, id);
        text_add(s, id);
        if (step + 1 == n_new) break;
        s->n_fed++;
        if (row < n_guess && fed[1 + row] == id) {                 /* its logits are there already */
            row++;
            s->draft.n_right++;
            s->n_cached = s->ids.n;
            continue;
        }
        fed[0] = id;
        n_guess = draft_guess(s, n_new - step - 2, stream, step + 1, fed + 1);
        s->draft.n_guessed += n_guess;
        row = 0;
        int32_t pos = (int32_t)s->ids.n - 1;
        forward(s->m, s->a, &(Batch){.B = 1, .T = 1 + n_guess, .tokens = fed, .pos = &pos});
        logits = model_logits(s->m, s->a, 0, 1 + n_guess);
        s->n_cached = s->ids.n;
    }
    s->decode_s += now_s() - start;
    return why;
}

/* One answer as a line of JSON: which it is, all ids, its text, why it ended ("stop", "length", "context"). */
static void result_json(Buf *line, const char *which, size_t number, const Ids *ids, size_t n_prompt, const Buf *text,
                        const char *why) {
    buf_fmt(line, "{\"%s\":%zu,", which, number);
    json_ids(line, "prompt_ids", ids->v, n_prompt);
    buf_str(line, ",");
    json_ids(line, "ids", ids->v + n_prompt, ids->n - n_prompt);
    buf_str(line, ",\"text\":\"");
    json_escape(line, text->data ? text->data : "", text->len);
    buf_fmt(line, "\",\"finish\":\"%s\"}\n", why);
}

/* ---- [infer.cache] ---------------------------------------------------------------------------------------------- *
 * A safetensors file: "ids" I32 (n), the prompt; "model" I64 (1), a fingerprint; "layer.L.keys" and "layer.L.values"
 * (n, K*D), as the device has them (F32, BF16 or I8); for I8 also "layer.L.keys.scale" and "layer.L.values.scale" F32
 * (n, K). What a prompt has in common with it, from the first token on, is read instead of computed: the same bits. */
static int64_t fingerprint(const Model *m) {
    uint64_t hash = 14695981039346656037ull;                       /* FNV-1a */
    Buf of = {0};
    buf_fmt(&of, "%s %s", op.name, m->config_json);
    for (int i = 0; m->files && i < m->files->n; i++) {            /* the first bytes of each tensor stand for all */
        const Tensor *t = &m->files->v[i];
        buf_str(&of, t->name);
        buf_add(&of, t->data, min_size(t->bytes, 64));
    }
    for (int i = 0; i < m->n_lora; i++) {
        float b[16];
        size_t n = min_size(16, m->lora[i].b[0].n);
        op.download(b, m->lora[i].b[0].master, n * sizeof *b);
        buf_add(&of, b, n * sizeof *b);
    }
    for (size_t i = 0; i < of.len; i++) hash = (hash ^ (unsigned char)of.data[i]) * 1099511628211ull;
    buf_free(&of);
    return (int64_t)hash;
}
static char *cache_name(int layer, CachePart part) {
    static const char *const name[CACHE_PARTS] = {"keys", "values", "keys.scale", "values.scale"};
    return strf("layer.%d.%s", layer, name[part]);
}

/* How many of the session's first ids are in its cache now; at most all but one, whose logits are wanted. */
static size_t cache_load(Session *s, const char *path) {
    if (!file_exists(path)) return 0;
    Tensors *w = tensors_open(path);
    const Tensor *model = tensors_get(w, "model", 1, (size_t[]){1}), *ids = tensors_find(w, "ids");
    int64_t its_model = 0;
    if (model->dtype != DT_I64 || !ids || ids->dtype != DT_I32 || ids->n_dims != 1) die("%s: not a prompt cache", path);
    memcpy(&its_model, model->data, sizeof its_model);
    if (its_model != fingerprint(s->m))
        die("%s: made with another model or kind of device: name another file, or delete this one", path);
    size_t kept = 0;
    for (int32_t id; kept < ids->n && kept + 1 < s->ids.n; kept++) {
        memcpy(&id, (const char *)ids->data + kept * sizeof id, sizeof id);
        if (id != s->ids.v[kept]) break;
    }
    if (s->m->cfg.mask == MASK_PREFIX) kept = 0;                /* tokens that see those behind them change with them */
    for (int l = 0; l < s->m->cfg.L; l++)
        for (CachePart part = 0; part < CACHE_PARTS; part++) {
            CacheSlots to = acts_cache(s->m, s->a, l, part, 0, 0);
            if (!to.data) continue;
            char *name = cache_name(l, part);
            const Tensor *t = tensors_find(w, name);
            if (t && t->dtype != to.dtype)
                die("%s: keeps keys and values in %s, this run in %s (--kv-cache): name another file, or delete this "
                    "one", path,
                    dtype_name(t->dtype), dtype_name(to.dtype));
            t = tensors_get(w, name, 2, (size_t[]){ids->n, to.width});
            if (kept) op.upload(to.data, t->data, kept * to.slot_bytes);
            free(name);
        }
    tensors_close(w);
    return kept;
}

static void cache_fill(void *ctx, size_t first, size_t n, void *out) {
    const CacheSlots *from = ctx;
    size_t bytes = dtype_size(from->dtype);
    op.download(out, (const char *)from->data + first * bytes, n * bytes);
}
static void cache_save(const Session *s, const char *path) {
    size_t n = s->ids.n;
    int n_out = 0, most = CACHE_PARTS * s->m->cfg.L;
    TensorOut *out = xcalloc((size_t)most + 2, sizeof *out);
    CacheSlots *from = xcalloc((size_t)most, sizeof *from);
    int64_t model = fingerprint(s->m);
    for (int i = 0; i < most; i++) {
        from[i] = acts_cache(s->m, s->a, i / CACHE_PARTS, (CachePart)(i % CACHE_PARTS), 0, 0);
        if (!from[i].data) continue;
        out[n_out++] = (TensorOut){.name = cache_name(i / CACHE_PARTS, (CachePart)(i % CACHE_PARTS)),
            .dtype = from[i].dtype,
                                   .n_dims = 2, .shape = {n, from[i].width}, .fill = cache_fill, .ctx = &from[i]};
    }
    out[n_out++] = (TensorOut){.name = xstrdup("ids"), .dtype = DT_I32, .n_dims = 1, .shape = {n}, .ctx = s->ids.v};
    out[n_out++] = (TensorOut){.name = xstrdup("model"), .dtype = DT_I64, .n_dims = 1, .shape = {1}, .ctx = &model};
    tensors_save(path, out, n_out, NULL);
    for (int i = 0; i < n_out; i++) free(out[i].name);
    free(out);
    free(from);
}

static void generate(void) {
    Session s = {.m = start_decoder()};
    const Config *c = &s.m->cfg;
    s.tok = start_tokenizer();
    s.set = settings_read(s.m, s.tok);
    size_t n_opening, context = context_limit(c), logits_bytes = (size_t)c->V * op.act_size;
    s.ids = prompt_ids(c, s.tok, &n_opening);
    size_t n_prompt = s.ids.n;
    if (n_prompt >= context)
        die("the prompt has %zu tokens, the context %zu: no room for an answer", n_prompt, context);
    size_t n_new = min_size((size_t)o.n, context - n_prompt);

    size_t S = n_prompt + n_new, T = prefill_piece(c, n_prompt);
    if (o.draft && T < 1 + DRAFT_MAX) T = min_size(1 + DRAFT_MAX, S);
    s.a = acts_new(s.m, 1, T, S, false, false);
    if (!o.json) plan_memory(s.m, s.a);
    s.n_ids = min_size((size_t)c->V, (size_t)tokenizer_vocab(s.tok));
    draft_open(&s, n_prompt, S);
    catch_signals();

    /* The prompt is paid for once: every sample starts from its slots in the cache, and from a copy of its logits. */
    double start = now_s();
    act *first_logits = op.mem_alloc(logits_bytes);
    size_t kept = o.prompt_cache ? cache_load(&s, o.prompt_cache) : 0;
    op.copy(first_logits, feed(s.m, s.a, s.ids.v + kept, n_prompt - kept, kept), logits_bytes);
    op.sync();
    double prefill_s = now_s() - start;
    if (o.prompt_cache && kept + 1 < n_prompt) cache_save(&s, o.prompt_cache);
    const char *why = "";
    for (int64_t i = 0; i < o.samples && !stop_requested; i++) {
        s.ids.n = n_prompt;
        s.utf8 = o.echo ? (Utf8Stream){0} : tokenizer_stream_after(s.tok, s.ids.v + n_opening, n_prompt - n_opening);
        s.text.len = 0;
        if (o.samples > 1 && !o.json) printf("%s--- sample %lld ---\n", i ? "\n" : "", (long long)i + 1);
        if (o.echo) for (size_t j = n_opening; j < n_prompt; j++) text_add(&s, s.ids.v[j]);
        why = decode(&s, first_logits, n_new, rng_mix((uint64_t)common.seed, (uint64_t)i));
        if (!strcmp(why, "length") && n_new < (size_t)o.n) why = "context";
        text_add(&s, -1);
        if (o.json) {
            Buf line = {0};
            result_json(&line, "sample", (size_t)i, &s.ids, n_prompt, &s.text, why);
            show(&line);
            buf_free(&line);
        } else if (puts("") < 0) die("stdout: %s", strerror(errno));
    }

    if (!common.quiet) {
        if (!strcmp(why, "context"))
            fprintf(stderr, "stopped: the context of %zu tokens is full%s\n", context,
                    o.context ? " (--context)" : ", the model has no more positions");
        fprintf(stderr, "prompt %zu tokens, %.1f tokens/s; ", n_prompt, (double)(n_prompt - kept) / prefill_s);
        if (o.prompt_cache) fprintf(stderr, "%zu of them from %s; ", kept, o.prompt_cache);
        if (s.draft.n_guessed)
            fprintf(stderr, "%zu of %zu guesses right; ", s.draft.n_right, s.draft.n_guessed);
        if (s.n_fed) fprintf(stderr, "decode %.1f tokens/s; ", (double)s.n_fed / s.decode_s);
        print_machine();
        fprintf(stderr, "\n");
    }
    op.mem_free(first_logits);
    session_free(&s);
}

/* ================================================================================================================= *
 * [infer.batch] Continuous batching (Yu et al. 2022): a pass decodes one token for each of the rows, and a prompt takes
 * a row as soon as its answer is done, so rows never wait for the longest among them. A prompt's draws depend on its
 * place in the file, not on its row or its neighbours: the answers are those of one at a time. */
typedef struct { Ids ids; size_t n_prompt, line; } Request;
typedef struct { Request *v; size_t n, cap; } Requests;
typedef struct {
    Request *of;                                                   /* its ids grow by the answer's */
    size_t number, n_cached;
    Utf8Stream utf8;
    Buf text;
} BatchRow;
typedef struct { Session s; bool chat; size_t context; Buf *done; size_t n_shown; } BatchRun;

/* One line's prompt; with "messages" the ids that an answer to them follows. */
static Request request_read(BatchRun *b, const Config *c, const char *line, size_t n_line, ChatTemplate *template) {
    cJSON *json = cJSON_ParseWithOpts(line, NULL, true);
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(json, "prompt");
    Request r = {0};
    if (!json) die("%s: line %zu: not JSON", o.batch, n_line);
    if (cJSON_GetObjectItemCaseSensitive(json, "messages")) {
        Chat talk = {0};
        if (!template->form) *template = start_template(b->s.tok);
        char *why = chat_parse(line, &talk);
        if (!why) why = chat_problem(template, &talk);
        if (why) die("%s: line %zu: %s", o.batch, n_line, why);
        chat_format(template, b->s.tok, &talk, true, &r.ids, NULL);
        chat_free(&talk);
        b->chat = true;
    } else if (cJSON_IsString(prompt) && *prompt->valuestring) {
        prompt_wrap(c, b->s.tok, prompt->valuestring, strlen(prompt->valuestring), &r.ids);
    } else
        die("%s: line %zu: neither \"prompt\", a text that is not empty, nor \"messages\"", o.batch, n_line);
    cJSON_Delete(json);
    check_ids(c, &r.ids);                                          /* a conversation's are not checked yet */
    r.n_prompt = r.ids.n, r.line = n_line;
    if (r.n_prompt >= b->context)
        die("%s: line %zu: the prompt has %zu tokens, the context %zu: no room for an answer", o.batch, n_line,
            r.n_prompt, b->context);
    return r;
}
static Requests requests_read(BatchRun *b, const Config *c) {
    FILE *f = !strcmp(o.batch, "-") ? stdin : fopen(o.batch, "rb");
    if (!f) die("%s: %s", o.batch, strerror(errno));
    Requests r = {0};
    ChatTemplate template = {0};
    char *line = NULL;
    size_t cap = 0, n_line = 0;
    while (getline(&line, &cap, f) >= 0) {
        n_line++;
        if (!line[strspn(line, " \t\r\n")]) continue;
        if (r.n == r.cap) r.v = xrealloc(r.v, size_mul(r.cap = r.cap ? 2 * r.cap : 64, sizeof *r.v));
        r.v[r.n++] = request_read(b, c, line, n_line, &template);
    }
    if (ferror(f)) die("%s: %s", o.batch, strerror(errno));
    if (!r.n) die("%s: no prompt in it", o.batch);
    if (b->chat) {
        Ids stops = {0};
        chat_stops(&template, b->s.tok, &stops);
        for (size_t i = 0; i < stops.n; i++) stop_add(&b->s.set.stop, stops.v[i]);
        ids_free(&stops);
        chat_template_free(&template);
    }
    free(line);
    if (f != stdin) fclose(f);
    return r;
}
/* Draws the row's next token. False: the answer is done, its line stands in its place and shows when its turn comes. */
static bool batch_draw(BatchRun *b, BatchRow *row, const act *logits) {
    Session *s = &b->s;
    Ids *ids = &row->of->ids;
    size_t n_answer = ids->n - row->of->n_prompt;
    const char *why = n_answer == (size_t)o.n ? "length" : ids->n == b->context ? "context" : NULL;
    if (!why) {
        uint64_t stream = rng_mix((uint64_t)common.seed, row->number);
        int32_t id = model_sample(s->a, logits, s->n_ids, &s->set.sampler, ids->v, ids->n, stream, n_answer);
        if (!o.ignore_eos && stop_has(&s->set.stop, id)) why = "stop";
        else {
            ids_add(ids, id);
            if (!b->chat || !tokenizer_is_special(s->tok, id))
                tokenizer_decode_stream(s->tok, &row->utf8, id, &row->text);
            if (n_answer + 1 == (size_t)o.n) why = "length";
            else if (ids->n == b->context) why = "context";
        }
    }
    if (!why) return true;
    tokenizer_decode_stream(s->tok, &row->utf8, -1, &row->text);
    result_json(&b->done[row->number], "line", row->of->line, ids, row->of->n_prompt, &row->text, why);
    s->n_fed += ids->n - row->of->n_prompt;
    for (; b->done[b->n_shown].len; b->n_shown++) {
        show(&b->done[b->n_shown]);
        buf_free(&b->done[b->n_shown]);
    }
    ids_free(ids);
    return false;
}
/* A prompt into cache row r and its first token. False: that ended it. */
static bool batch_start(BatchRun *b, BatchRow *row, size_t r, Request *of, size_t number, size_t piece) {
    Session *s = &b->s;
    row->of = of, row->number = number, row->n_cached = 0;
    row->utf8 = b->chat ? (Utf8Stream){0} : tokenizer_stream_after(s->tok, of->ids.v, of->n_prompt);
    row->text.len = 0;
    size_t T = 0;
    for (size_t at = 0; at < of->n_prompt; at += T) {
        T = min_size(of->n_prompt - at, piece);
        int32_t pos = (int32_t)at;
        forward(s->m, s->a, &(Batch){.B = 1, .T = T, .tokens = of->ids.v + at, .pos = &pos, .row = r});
    }
    row->n_cached = of->n_prompt;
    return batch_draw(b, row, model_logits(s->m, s->a, T - 1, 1));
}
static void batch(void) {
    BatchRun b = {.s = {.m = start_decoder()}};
    Session *s = &b.s;
    const Config *c = &s->m->cfg;
    s->tok = tokenizer_load(o.model);
    s->set = settings_read(s->m, s->tok);
    s->n_ids = min_size((size_t)c->V, (size_t)tokenizer_vocab(s->tok));
    b.context = context_limit(c);
    Requests all = requests_read(&b, c);
    size_t longest = 0, n_rows = min_size((size_t)o.batch_size, all.n);
    for (size_t i = 0; i < all.n; i++) longest = all.v[i].n_prompt > longest ? all.v[i].n_prompt : longest;
    size_t S = min_size(b.context, longest + (size_t)o.n), piece = prefill_piece(c, longest);
    s->a = acts_new(s->m, n_rows, (piece + n_rows - 1) / n_rows, S, false, false);
    b.done = xcalloc(all.n + 1, sizeof *b.done);                   /* the last stays empty: an end */
    BatchRow *row = xcalloc(n_rows, sizeof *row);
    int32_t *tokens = xmalloc(n_rows * sizeof *tokens), *pos = xmalloc(n_rows * sizeof *pos);
    size_t next = 0, n_active = 0, n_done = 0;
    catch_signals();
    Progress bar = progress_begin("answers", (double)all.n);
    double start = now_s();
    while (!stop_requested) {
        while (n_active < n_rows && next < all.n && !stop_requested) {
            bool on = batch_start(&b, &row[n_active], n_active, &all.v[next], next, piece);
            next++;
            if (on) n_active++;
            else n_done++;
        }
        if (!n_active) break;
        for (size_t r = 0; r < n_active; r++) {
            tokens[r] = row[r].of->ids.v[row[r].of->ids.n - 1];
            pos[r] = (int32_t)row[r].n_cached++;
        }
        forward(s->m, s->a, &(Batch){.B = n_active, .T = 1, .tokens = tokens, .pos = pos});
        act *logits = model_logits(s->m, s->a, 0, n_active);
        bool *on = xcalloc(n_active, sizeof *on);
        for (size_t r = 0; r < n_active; r++) on[r] = batch_draw(&b, &row[r], act_at(&op, logits, r * (size_t)c->V));
        for (size_t r = n_active; r-- > 0;) {                      /* a free row takes a new prompt, or the last row */
            if (on[r]) continue;
            n_done++;
            while (!on[r] && next < all.n && !stop_requested) {
                on[r] = batch_start(&b, &row[r], r, &all.v[next], next, piece);
                next++;
                n_done += !on[r];
            }
            if (on[r]) continue;
            n_active--;
            if (r == n_active) continue;
            acts_cache_copy(s->m, s->a, r, n_active, row[n_active].n_cached);
            BatchRow free_row = row[r];                            /* its text's memory stays in use */
            row[r] = row[n_active];
            row[n_active] = free_row;
        }
        free(on);
        progress_at(&bar, (double)n_done, "%.1f tokens/s", (double)s->n_fed / (now_s() - start));
    }
    progress_end(&bar, "%zu prompts, %.1f tokens/s", n_done, (double)s->n_fed / (now_s() - start));
    if (stop_requested) warn("stopped: %zu of %zu prompts are answered", b.n_shown, all.n);
    for (size_t i = 0; i < all.n; i++) ids_free(&all.v[i].ids), buf_free(&b.done[i]);
    for (size_t r = 0; r < n_rows; r++) buf_free(&row[r].text);
    free(all.v), free(b.done), free(row), free(tokens), free(pos);
    session_free(s);
}

/* ================================================================================================================= *
 * [infer.chat] A conversation over one cache. Each turn the whole conversation is written anew as ids; what the cache
 * holds of them, the longest common beginning, is not computed again. So /retry, /load, another system message and a
 * full context are no cases of their own, and an answer is the same as from a fresh start. */
typedef struct {
    ChatTemplate template;
    Chat messages;                                                 /* all that was said, for /save */
    size_t n_gone;                                                 /* of them, behind the system's: no longer fit */
    size_t context, n_new;                                         /* slots; tokens of an answer, at most */
    uint64_t n_answers;                                            /* each draws from its own random numbers */
} Talk;

/* What a person sees of the answer so far: its words, and the name of a tool that it calls. */
static void talk_show(Session *s, bool whole) {
    const char *call;
    size_t words, n_call;
    if (!chat_words(s->talk, s->text.data ? s->text.data : "", s->text.len, whole, &words, &call, &n_call)) return;
    Buf seen = {0};
    if (n_call && !s->n_shown) buf_fmt(&seen, "[calls %.*s]\n", (int)n_call, call);
    if (s->n_shown < words) s->n_shown = words;
    buf_add(&seen, s->text.data + s->n_shown, s->text.len - s->n_shown);
    s->n_shown = s->text.len;
    show(&seen);
    buf_free(&seen);
}

/* The messages that are still in the context; the array is new, the messages are not. */
static Chat talk_view(const Talk *k) {
    Chat v = {.v = xmalloc(size_mul(k->messages.n + 1, sizeof(Message)))};
    size_t first = k->messages.n && k->messages.v[0].role == ROLE_SYSTEM;
    for (size_t i = 0; i < k->messages.n; i++)
        if (i < first || i >= first + k->n_gone) v.v[v.n++] = k->messages.v[i];
    return v;
}

/* The ids that the next answer follows. Where they leave no room for one, the oldest rounds (a user's message and all
 * up to the next) leave for good. False: the last round alone is too long. */
static bool talk_ids(Talk *k, const Session *s, Ids *ids) {
    size_t room = min_size(k->n_new, k->context / 4 + 1), n_rounds = 0;
    for (;;) {
        Chat view = talk_view(k);
        size_t first = view.v[0].role == ROLE_SYSTEM, next = first + 1;
        while (next < view.n && view.v[next].role != ROLE_USER) next++;
        bool more = next < view.n;
        ids->n = 0;
        chat_format(&k->template, s->tok, &view, true, ids, NULL);
        free(view.v);
        if (ids->n + room <= k->context || !more) break;
        k->n_gone += next - first;
        n_rounds++;
    }
    check_ids(&s->m->cfg, ids);
    if (n_rounds)
        fprintf(stderr, "the context of %zu tokens is full: the oldest %s left the conversation\n", k->context,
                n_rounds > 1 ? "rounds have" : "round has");
    if (ids->n < k->context) return true;
    fprintf(stderr, "this message needs %zu tokens and the context has %zu: too long\n", ids->n, k->context);
    return false;
}

/* One answer, added to the messages; several where the model goes on by itself. Returns why it ended, NULL where there
 * is none: a message too long, or Ctrl-C before the first word. */
static const char *talk_answer(Talk *k, Session *s) {
    const char *why = NULL;
    size_t n_before = k->messages.n, n_left = k->n_new;
    bool again = true;
    interrupts_arm();
    while (again && n_left) {
        Ids ids = {0};
        if (!talk_ids(k, s, &ids)) { ids_free(&ids); break; }
        size_t kept = 0;
        /* One slot at least is computed: the logits are not kept. Where tokens see those behind them, none can stay. */
        while (s->m->cfg.mask != MASK_PREFIX && kept < s->n_cached && kept + 1 < ids.n && ids.v[kept] == s->ids.v[kept])
            kept++;
        ids_free(&s->ids);
        s->ids = ids;
        s->n_cached = kept;
        s->utf8 = (Utf8Stream){0};
        s->text.len = s->n_shown = 0;
        double start = now_s();
        act *logits = NULL;
        while (s->n_cached < ids.n && !stop_requested) {           /* piece by piece, so that Ctrl-C is heard */
            size_t n = min_size(ids.n - s->n_cached, s->a->T);
            logits = feed(s->m, s->a, ids.v + s->n_cached, n, s->n_cached);
            s->n_cached += n;
        }
        op.sync();
        double prefill_s = now_s() - start;
        s->n_fed = 0, s->decode_s = 0;
        size_t n_new = min_size(n_left, k->context - ids.n);
        why = stop_requested ? "interrupted"
                             : decode(s, logits, n_new, rng_mix((uint64_t)common.seed, k->n_answers++));
        if (!strcmp(why, "length") && n_new < n_left) why = "context";
        text_add(s, -1);
        size_t n_answer = s->ids.n - ids.n;
        n_left -= n_answer;
        again = !strcmp(why, "stop") && n_answer && chat_goes_on(&k->template, s->tok, s->stopped_by);
        if (!n_answer && !strcmp(why, "interrupted")) why = NULL;
        if (!why) break;
        chat_add_answer(&k->template, &k->messages, s->text.data ? s->text.data : "", s->text.len);
        if (!o.json) show(&(Buf){.data = (char[]){"\n"}, .len = 1});
        if (!o.json && !common.quiet)
            fprintf(stderr, "[%zu tokens, %zu of them from the cache, %.1f tokens/s; answer %zu, %.1f tokens/s%s%s]\n",
                    ids.n, kept, (double)(ids.n - kept) / prefill_s, n_answer,
                    s->n_fed ? (double)s->n_fed / s->decode_s : 0.0, strcmp(why, "stop") ? "; ended by " : "",
                    strcmp(why, "stop") ? why : "");
        if (o.json && !again) {
            Buf line = {0};
            chat_json(&k->messages, n_before, &line);
            line.data[--line.len] = 0;                             /* the brace: more follows */
            buf_str(&line, ",");
            json_ids(&line, "prompt_ids", s->ids.v, ids.n);
            buf_fmt(&line, ",\"cached\":%zu,", kept);
            json_ids(&line, "ids", s->ids.v + ids.n, n_answer);
            buf_fmt(&line, ",\"finish\":\"%s\"}\n", why);
            show(&line);
            buf_free(&line);
        }
    }
    return why;
}

static void talk_forget(Talk *k) {
    chat_free(&k->messages);
    k->n_gone = 0;
}
/* Sets, replaces or (NULL) removes the system's message. */
static void talk_system(Talk *k, const char *text) {
    Chat c = {0};
    if (text) chat_add(&c, ROLE_SYSTEM, text, NULL);
    if (text && !chat_has_system(&k->template))
        fprintf(stderr, "template %s has no system message: it is not used\n", chat_template_name(&k->template));
    for (size_t i = k->messages.n && k->messages.v[0].role == ROLE_SYSTEM; i < k->messages.n; i++)
        chat_add(&c, k->messages.v[i].role, k->messages.v[i].content, k->messages.v[i].metadata);
    chat_free(&k->messages);
    k->messages = c;
}
/* The messages up to the last that wants an answer: answers behind it leave. False: there is none. */
static bool talk_back(Talk *k) {
    size_t n = k->messages.n;
    while (n && k->messages.v[n - 1].role == ROLE_ASSISTANT) n--;
    if (!n || k->messages.v[n - 1].role == ROLE_SYSTEM) return false;
    chat_cut(&k->messages, n, k->messages.n - n);
    return true;
}

/* Files named in a conversation: what goes wrong is said, and the conversation goes on. */
static void talk_save(const Talk *k, const char *path) {
    Buf line = {0};
    chat_json(&k->messages, 0, &line);
    buf_str(&line, "\n");
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(line.data, 1, line.len, f) == line.len;
    if (f && fclose(f)) good = false;
    if (good) fprintf(stderr, "%s: %zu messages\n", path, k->messages.n);
    else fprintf(stderr, "%s: %s\n", path, strerror(errno));
    buf_free(&line);
}
static void talk_load(Talk *k, const char *path) {
    FILE *f = fopen(path, "rb");
    char *line = NULL, *why = NULL;
    size_t cap = 0;
    Chat c = {0};
    if (!f || getline(&line, &cap, f) < 0) why = xstrdup(f && !ferror(f) ? "the file is empty" : strerror(errno));
    else if (!(why = chat_parse(line, &c))) why = chat_problem(&k->template, &c);
    if (f) fclose(f);
    free(line);
    if (why) {
        fprintf(stderr, "%s: %s\n", path, why);
        free(why);
        chat_free(&c);
        return;
    }
    talk_forget(k);
    k->messages = c;
    fprintf(stderr, "%s: %zu messages\n", path, c.n);
}

static const char chat_help[] =
    "/system TEXT  what the model should be told before all else (nothing: no such message)\n"
    "/retry        another answer to your last message\n"
    "/reset        a new conversation; the system message stays\n"
    "/save FILE    the conversation as one line of JSON\n"
    "/load FILE    go on from such a file (its first line)\n"
    "/exit         or Ctrl-D: leave\n"
    "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer; what was said of it stays.\n";

/* A line that begins with / and one word of letters is a command, so that a path can be talked about. */
typedef enum { TALK_MESSAGE, TALK_ANSWER, TALK_DONE, TALK_EXIT } TalkNext;
static TalkNext talk_command(Talk *k, const char *line) {
    size_t n = 1;
    while (line[0] == '/' && line[n] >= 'a' && line[n] <= 'z') n++;
    if (line[0] != '/' || n == 1 || (line[n] && line[n] != ' ')) return TALK_MESSAGE;
    char *word = strf("%.*s", (int)n - 1, line + 1);
    const char *rest = line + n + strspn(line + n, " ");
    TalkNext next = TALK_DONE;
    if (!strcmp(word, "exit") || !strcmp(word, "quit")) next = TALK_EXIT;
    else if (!strcmp(word, "help")) fputs(chat_help, stderr);
    else if (!strcmp(word, "system")) talk_system(k, *rest ? rest : NULL);
    else if (!strcmp(word, "reset")) {
        bool system = k->messages.n && k->messages.v[0].role == ROLE_SYSTEM;
        chat_cut(&k->messages, system, k->messages.n - system);
        k->n_gone = 0;
    } else if (!strcmp(word, "retry")) {
        if (talk_back(k)) next = TALK_ANSWER;
        else fprintf(stderr, "/retry: there is no message to answer yet\n");
    } else if (!strcmp(word, "save") || !strcmp(word, "load")) {
        if (!*rest) fprintf(stderr, "/%s wants a file\n", word);
        else if (*word == 's') talk_save(k, rest);
        else talk_load(k, rest);
    } else {
        fprintf(stderr, "/%s is no command; /help lists them\n", word);
    }
    free(word);
    return next;
}

static void talk_with_person(Talk *k, Session *s) {
    bool person = isatty(STDIN_FILENO);
    if (person && !common.quiet)
        fprintf(stderr, "template %s (%s); /help lists the commands, Ctrl-D leaves\n",
                chat_template_name(&k->template), k->template.found_by);
    lines_open(o.history);
    for (char *line; (line = lines_message());) {
        TalkNext next = talk_command(k, line);
        if (next == TALK_MESSAGE && *line) {
            chat_add(&k->messages, ROLE_USER, line, NULL);
            next = TALK_ANSWER;
        }
        free(line);
        if (next == TALK_EXIT) break;
        if (next != TALK_ANSWER) continue;
        if (!talk_answer(k, s) && k->messages.v[k->messages.n - 1].role == ROLE_USER)
            chat_cut(&k->messages, k->messages.n - 1, 1);          /* as if it had not been said */
    }
    lines_close();
}

static void talk_with_file(Talk *k, Session *s) {
    FILE *f = !strcmp(o.messages, "-") ? stdin : fopen(o.messages, "rb");
    char *line = NULL;
    size_t cap = 0, n_line = 0, n_answered = 0;
    if (!f) die("%s: %s", o.messages, strerror(errno));
    o.json = true;
    while (getline(&line, &cap, f) >= 0) {
        n_line++;
        if (!line[strspn(line, " \t\r\n")]) continue;
        Chat c = {0};
        char *why = chat_parse(line, &c);
        if (why) die("%s: line %zu: %s", o.messages, n_line, why);
        talk_forget(k);
        k->messages = c;
        if (o.system && c.v[0].role != ROLE_SYSTEM) talk_system(k, o.system);
        if (!talk_back(k)) die("%s: line %zu: there is no message to answer", o.messages, n_line);
        if ((why = chat_problem(&k->template, &k->messages))) die("%s: line %zu: %s", o.messages, n_line, why);
        if (!talk_answer(k, s)) {
            if (stop_requested) break;
            die("%s: line %zu: no room for an answer", o.messages, n_line);
        }
        n_answered++;
    }
    if (ferror(f)) die("%s: %s", o.messages, strerror(errno));
    if (!n_answered && !stop_requested) die("%s: no conversation in it", o.messages);
    free(line);
    if (f != stdin) fclose(f);
}

static void chat(void) {
    Session s = {.m = start_decoder()};
    const Config *c = &s.m->cfg;
    s.tok = start_tokenizer();
    s.set = settings_read(s.m, s.tok);
    Talk k = {.template = start_template(s.tok), .context = context_limit(c)};
    s.talk = &k.template;
    /* A cache of all that a model knows can be tens of gigabytes: by itself, a conversation gets a part of it. */
    if (!o.context) k.context = min_size(k.context, CHAT_CONTEXT);
    k.n_new = given("n") ? (size_t)o.n : k.context;
    if (!k.n_new) die_usage("--n 0 leaves no room for an answer");
    Ids stops = {0};
    chat_stops(&k.template, s.tok, &stops);
    for (size_t i = 0; i < stops.n; i++) stop_add(&s.set.stop, stops.v[i]);
    ids_free(&stops);
    s.a = acts_new(s.m, 1, prefill_piece(c, k.context), k.context, false, false);
    if (!o.messages) plan_memory(s.m, s.a);
    s.n_ids = min_size((size_t)c->V, (size_t)tokenizer_vocab(s.tok));
    draft_open(&s, k.context, k.context);
    if (!o.messages && o.system) talk_system(&k, o.system);
    if (o.messages) talk_with_file(&k, &s);
    else talk_with_person(&k, &s);
    talk_forget(&k);
    chat_template_free(&k.template);
    session_free(&s);
}

/* ================================================================================================================= *
 * [infer.eval] What is counted, and how: evaluate.h. */
static void eval(void) {
    Model *m = start_decoder(), *reference = o.reference ? model_load(o.reference, false) : NULL;
    const Config *c = &m->cfg;
    bool shards = ends_with(o.eval.v[0], ".bin");
    Tokenizer *tok = shards && !tokenizer_in_dir(o.model) ? NULL : tokenizer_load(o.model);
    Stream s = stream_read(o.eval, c, tok, wants_bos(true));
    size_t limit = context_limit(c);
    size_t T = o.context ? limit : min_size(limit, 1024), stride = o.stride ? (size_t)o.stride : T > 1 ? T / 2 : 1;
    if (stride > T)
        die("--stride %zu passes the context of %zu: tokens between two windows would be left out", stride, T);
    Evaluation e = evaluate(m, reference, &s, T, stride);
    if (!e.n) die("%s: nothing to predict", o.eval.v[0]);
    double n = (double)e.n, per_token = e.nats / n;

    char bits_per_byte[32] = "null", bytes[32] = "null";
    if (s.bytes > 0) {
        snprintf(bits_per_byte, sizeof bits_per_byte, "%.6g", e.nats / log(2) / s.bytes);
        snprintf(bytes, sizeof bytes, "%.0f", s.bytes);
    }
    if (!o.json) {
        printf("%.4f nats/token, perplexity %.4f, ", per_token, exp(per_token));
        if (s.bytes > 0) printf("%s bits/byte: %zu tokens, %s bytes, ", bits_per_byte, e.n, bytes);
        else printf("bits/byte unknown without a tokenizer: %zu tokens, ", e.n);
        printf("%zu document%s; context %zu, stride %zu\n", s.documents, s.documents == 1 ? "" : "s", T, stride);
        if (reference)
            printf("the reference's perplexity %.4f, KL divergence from it %.5f nats/token, same likeliest token at "
                   "%.2f%%\n",
                   exp(e.reference_nats / n), e.kl / n, 100 * (double)e.agree / n);
    } else if (!isfinite(e.nats)) {                                /* JSON has no word for it */
        printf("{\"event\":\"eval\",\"nats_per_token\":null,\"perplexity\":null,\"bits_per_byte\":null}\n");
    } else {
        Buf name = {0};
        json_escape(&name, o.model, strlen(o.model));
        printf("{\"event\":\"eval\",\"model\":\"%s\",\"nats_per_token\":%.8g,\"perplexity\":%.8g,\"bits_per_byte\":%s,",
               name.data, per_token, exp(per_token), bits_per_byte);
        printf("\"tokens\":%zu,\"bytes\":%s,\"documents\":%zu,\"context\":%zu,\"stride\":%zu,", e.n, bytes,
               s.documents, T, stride);
        if (reference)
            printf("\"reference_perplexity\":%.8g,\"kl\":%.8g,\"top1\":%.6g,", exp(e.reference_nats / n), e.kl / n,
                   (double)e.agree / n);
        printf("\"tokens_per_s\":%.6g,\"device\":\"%s\",\"precision\":\"%s\"}\n", n / e.seconds, op.name,
               precision_name());
        buf_free(&name);
    }
    if (reference) model_free(reference);
    model_free(m);
    stream_free(&s);
    if (tok) tokenizer_free(tok);
}

/* ================================================================================================================= *
 * [infer.logits] Explicit ids, so that no tokenizer stands between two programs that are compared. */
typedef struct { int32_t *v; size_t rows, T; } IdTable;

static IdTable ids_read(const char *path, int V) {
    cJSON *json = json_read(path, JSON_ARRAY);
    if (!json->child) die("%s: not a JSON list of lists of token ids, such as [[1,2,3]]", path);
    IdTable t = {0};
    t.rows = (size_t)cJSON_GetArraySize(json);
    size_t r = 0;
    const cJSON *row, *id;
    cJSON_ArrayForEach(row, json) {
        if (!cJSON_IsArray(row)) die("%s: row %zu is not a list; one row is written [[1,2,3]]", path, r);
        size_t n = (size_t)cJSON_GetArraySize(row), at = 0;
        if (!n) die("%s: row %zu is empty", path, r);
        if (!r) t.T = n, t.v = xmalloc(size_mul(size_mul(t.rows, n), 4));
        if (n != t.T) die("%s: row %zu has %zu ids, row 0 has %zu; rows must have one length", path, r, n, t.T);
        cJSON_ArrayForEach(id, row) {
            double v = cJSON_IsNumber(id) ? id->valuedouble : -1;
            if (!(v >= 0 && v < V) || v != floor(v))
                die("%s: row %zu, place %zu: ids are whole numbers from 0 to %d", path, r, at, V - 1);
            t.v[r * t.T + at++] = (int32_t)v;
        }
        r++;
    }
    cJSON_Delete(json);
    return t;
}
static void fits_context(const Config *c, size_t T) {
    size_t limit = context_limit(c);
    if (T > limit) die("%zu tokens do not fit the context of %zu", T, limit);
}

/* The tensor may be larger than memory (8 rows of 1,024 tokens of GPT-2 are 1.6 GB), so it is made piece by piece while
 * it is written: rows of ids in order, each in chunks behind what the cache holds. */
typedef struct {
    Model *m;
    Acts *a;
    const IdTable *ids;
    size_t row, filled;                                            /* the chunk in acts: its row, slots before it ... */
    size_t chunk_T, next;                                          /* ... its tokens, and the next of them to compute */
    float *host;                                                   /* logits (up to a->chunk, V) of which ... */
    size_t n, used;                                                /* ... n values, `used` written */
} LogitsJob;
static void logits_more(LogitsJob *j) {
    if (j->next == j->chunk_T) {                                   /* done: the next chunk, or the next row */
        j->filled += j->chunk_T;
        if (j->filled == j->ids->T) j->filled = 0, j->row++;
        j->chunk_T = min_size(j->a->T, j->ids->T - j->filled);
        j->next = 0;
        int32_t pos = (int32_t)j->filled;
        const int32_t *ids = j->ids->v + j->row * j->ids->T + j->filled;
        forward(j->m, j->a, &(Batch){.B = 1, .T = j->chunk_T, .tokens = ids, .pos = &pos});
    }
    size_t n_rows = min_size(j->a->chunk, j->chunk_T - j->next);
    j->n = n_rows * (size_t)j->m->cfg.V;
    j->used = 0;
    op.act_to_host(j->host, model_logits(j->m, j->a, j->next, n_rows), j->n);
    j->next += n_rows;
}
static void logits_fill(void *ctx, size_t first, size_t n, void *out) {
    (void)first;                                                   /* pieces come in order */
    LogitsJob *j = ctx;
    for (float *y = out; n;) {
        if (j->used == j->n) logits_more(j);
        size_t part = min_size(n, j->n - j->used);
        memcpy(y, j->host + j->used, part * sizeof *y);
        j->used += part;
        y += part;
        n -= part;
    }
}
static void write_logits(Model *m, const IdTable *ids, const char *path) {
    size_t V = (size_t)m->cfg.V;
    Acts *a = acts_new(m, 1, prefill_piece(&m->cfg, ids->T), ids->T, false, false);
    LogitsJob job = {.m = m, .a = a, .ids = ids, .host = xmalloc(size_mul(a->chunk, V * sizeof(float)))};
    TensorOut out = {.name = (char *)"logits", .dtype = DT_F32, .n_dims = 3, .shape = {ids->rows, ids->T, V},
                     .fill = logits_fill, .ctx = &job};
    double start = now_s();
    tensors_save(path, &out, 1, NULL);
    if (!common.quiet)
        fprintf(stderr, "%s: logits (%zu, %zu, %zu), %.1f tokens/s; %s, %s\n", path, ids->rows, ids->T, V,
                (double)(ids->rows * ids->T) / (now_s() - start), op.name, precision_name());
    free(job.host);
    acts_free(a);
}

/* Inference reuses one layer's buffers for all layers. Training buffers keep each layer's own, so a forward into them
 * leaves every layer's q, k and stream to be looked at; no gradient is made. */
static Acts *forward_keeping_layers(Model *m, const int32_t *ids, size_t T) {
    Acts *a = acts_new(m, 1, T, T, true, false);
    forward(m, a, &(Batch){.B = 1, .T = T, .tokens = ids});
    return a;
}
static void write_attention(Model *m, const int32_t *ids, size_t T, const char *path) {
    const Config *c = &m->cfg;
    if (o.layer >= c->L) die("--layer %lld: this model has layers 0 to %d", (long long)o.layer, c->L - 1);
    size_t H = (size_t)c->H;
    Acts *a = forward_keeping_layers(m, ids, T);
    float *host = model_attention(m, a, &(Batch){.B = 1, .T = T, .tokens = ids}, (int)o.layer, 0);
    TensorOut out = {.name = (char *)"attention", .dtype = DT_F32, .n_dims = 3, .shape = {H, T, T}, .ctx = host};
    tensors_save(path, &out, 1, NULL);
    if (!common.quiet)
        fprintf(stderr, "%s: attention (%zu, %zu, %zu) of layer %lld\n", path, H, T, T, (long long)o.layer);
    free(host);
    acts_free(a);
}

/* The ids to look at: --logits' rows, or the prompt's. */
static IdTable look_ids(const Config *c) {
    if (o.logits) return ids_read(o.logits, c->V);
    Tokenizer *tok = tokenizer_load(o.model);
    size_t n_opening;
    Ids ids = prompt_ids(c, tok, &n_opening);
    tokenizer_free(tok);
    return (IdTable){ids.v, 1, ids.n};
}
static void look_inside(void) {
    Model *m = start_model();
    if (o.logits_out && m->cfg.head != HEAD_LM && m->cfg.head != HEAD_MASKED_LM)
        die("%s: --logits-out wants a model with a head over tokens; see --classify and --embed", o.model);
    IdTable ids = look_ids(&m->cfg);
    fits_context(&m->cfg, ids.T);
    if (o.logits_out) write_logits(m, &ids, o.logits_out);
    if (o.attention_out) write_attention(m, ids.v, ids.T, o.attention_out);
    model_free(m);
    free(ids.v);
}

/* ================================================================================================================= *
 * [infer.encode] An encoder sees a text whole. Texts go through in batches of rows padded on the right, sorted by
 * nothing: results come in the order of the texts. */
enum { ENCODE_ROWS = 16 };
typedef struct { Ids ids, types; } EncoderRow;

static StrList texts_of(StrList given) {
    if (given.n != 1 || strcmp(given.v[0], "-")) return given;
    Buf all = stdin_read();
    StrList lines = {0};
    for (char *line = all.data, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end) *end++ = 0;
        lines.v = xrealloc(lines.v, sizeof *lines.v * (size_t)(lines.n + 1));
        lines.v[lines.n++] = line;                                 /* all.data lives as long as the program */
        if (!end) break;
    }
    if (!lines.n) die("stdin: no text");
    return lines;
}
static cJSON *side_file(const char *path) {                        /* of sentence-transformers: a list or an object */
    return json_read(path, JSON_OBJECT | JSON_ARRAY);
}
/* Longest input: the model's positions, or what a sentence encoder's makers state. */
static size_t encoder_limit(const Config *c) {
    size_t limit = o.context ? (size_t)o.context : (size_t)c->max_pos;
    if (limit > (size_t)c->max_pos) die("--context %zu: this model has %d positions", limit, c->max_pos);
    char *path = path_join(o.model, "sentence_bert_config.json");
    if (!o.context && file_exists(path)) {
        cJSON *json = side_file(path);
        const cJSON *n = cJSON_GetObjectItemCaseSensitive(json, "max_seq_length");
        if (n && !cJSON_IsNull(n) && (!cJSON_IsNumber(n) || !(n->valuedouble >= 1)))
            die("%s: \"max_seq_length\" is not a number from 1 up", path);
        if (cJSON_IsNumber(n) && n->valuedouble < (double)limit) limit = (size_t)n->valuedouble;
        cJSON_Delete(json);
    }
    free(path);
    return limit;
}
static EncoderRow encoder_row(const Tokenizer *tok, const char *text, const char *pair, bool with_special,
    size_t limit) {
    EncoderRow row = {0};
    Ids a = {0}, b = {0};
    tokenizer_encode(tok, text, strlen(text), with_special, &a);
    if (pair) tokenizer_encode(tok, pair, strlen(pair), with_special, &b);
    tokenizer_wrap(tok, &a, pair ? &b : NULL, limit, &row.ids, &row.types);
    ids_free(&a);
    ids_free(&b);
    if (!row.ids.n) die("a text without a token cannot be encoded");
    return row;
}
/* forward over rows[0 .. n), padded to the longest, whose length is returned; *len (n) are their lengths. */
static size_t encode_rows(Model *m, Acts *a, const EncoderRow *rows, size_t n, int32_t *len) {
    size_t T = 1;
    for (size_t r = 0; r < n; r++) T = rows[r].ids.n > T ? rows[r].ids.n : T;
    int32_t *tokens = xmalloc(n * T * 4), *types = xcalloc(n * T, 4);
    for (size_t r = 0; r < n; r++) {
        len[r] = (int32_t)rows[r].ids.n;
        for (size_t t = 0; t < T; t++) {
            bool inside = t < rows[r].ids.n;
            tokens[r * T + t] = inside ? rows[r].ids.v[t] : m->cfg.pad >= 0 ? m->cfg.pad : 0;
            if (inside) types[r * T + t] = rows[r].types.v[t];
        }
    }
    forward(m, a, &(Batch){.B = n, .T = T, .tokens = tokens, .types = m->cfg.type_vocab ? types : NULL, .len = len});
    free(tokens);
    free(types);
    return T;
}
typedef void (*EncodedFn)(Model *m, Acts *a, const char *const *texts, const EncoderRow *rows, size_t n, size_t T,
    const int32_t *len);
static void encode_texts(Model *m, const Tokenizer *tok, StrList texts, bool with_special, EncodedFn each) {
    size_t limit = encoder_limit(&m->cfg), longest = 1, n_texts = (size_t)texts.n;
    EncoderRow *rows = xcalloc(n_texts, sizeof *rows);
    for (size_t i = 0; i < n_texts; i++) {
        rows[i] = encoder_row(tok, texts.v[i], o.pair, with_special, limit);
        longest = rows[i].ids.n > longest ? rows[i].ids.n : longest;
        for (size_t t = 0; t < rows[i].ids.n; t++)
            if (rows[i].ids.v[t] >= m->cfg.V)
                die("%s: the tokenizer gives id %d, the model has %d ids: do they fit together?", o.model,
                    rows[i].ids.v[t], m->cfg.V);
    }
    Acts *a = acts_new(m, min_size(ENCODE_ROWS, n_texts), longest, longest, false, false);
    int32_t len[ENCODE_ROWS];
    for (size_t first = 0; first < n_texts; first += ENCODE_ROWS) {
        size_t n = min_size(ENCODE_ROWS, n_texts - first), T = encode_rows(m, a, rows + first, n, len);
        each(m, a, texts.v + first, rows + first, n, T, len);
    }
    for (size_t i = 0; i < n_texts; i++) ids_free(&rows[i].ids), ids_free(&rows[i].types);
    free(rows);
    acts_free(a);
}
static float *acts_to_host(const act *x, size_t n) {
    float *host = xmalloc(size_mul(n, sizeof(float)));
    op.act_to_host(host, x, n);
    return host;
}
static void softmax(float *x, size_t n) {
    float largest = -INFINITY;
    double sum = 0;
    for (size_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    for (size_t i = 0; i < n; i++) sum += exp((double)(x[i] - largest));
    for (size_t i = 0; i < n; i++) x[i] = (float)(exp((double)(x[i] - largest)) / sum);
}

static Tokenizer *encoder_tok;
static void show_filled(Model *m, Acts *a, const char *const *texts, const EncoderRow *rows, size_t n, size_t T,
    const int32_t *len) {
    int mask = tokenizer_id(encoder_tok, "[MASK]");
    size_t V = min_size((size_t)m->cfg.V, (size_t)tokenizer_vocab(encoder_tok)), k = o.top_k ? (size_t)o.top_k : 5;
    Buf line = {0}, text = {0};
    for (size_t r = 0; r < n; r++) {
        size_t n_masks = 0;
        for (int32_t t = 0; t < len[r]; t++) {
            if (rows[r].ids.v[t] != mask) continue;
            n_masks++;
            float *p = acts_to_host(model_logits(m, a, r * T + (size_t)t, 1), (size_t)m->cfg.V);
            softmax(p, (size_t)m->cfg.V);
            for (size_t i = 0; i < k && i < V; i++) {
                size_t best = 0;
                for (size_t j = 1; j < V; j++) if (p[j] > p[best]) best = j;
                size_t n_token;
                const char *token = tokenizer_token(encoder_tok, (int)best, &n_token);
                int32_t *ids = xmalloc(rows[r].ids.n * 4);
                memcpy(ids, rows[r].ids.v, rows[r].ids.n * 4);
                ids[t] = (int32_t)best;
                text.len = line.len = 0;
                buf_add(&text, "", 0);
                tokenizer_decode(encoder_tok, ids, rows[r].ids.n, true, &text);
                free(ids);
                if (o.json) {
                    buf_fmt(&line, "{\"text\":%d,\"position\":%d,\"id\":%zu,\"token\":\"", (int)r, t, best);
                    json_escape(&line, token, n_token);
                    buf_fmt(&line, "\",\"probability\":%.6g,\"filled\":\"", (double)p[best]);
                    json_escape(&line, text.data, text.len);
                    buf_str(&line, "\"}\n");
                } else buf_fmt(&line, "%.4f  %-14.*s %s\n", (double)p[best], (int)n_token, token, text.data);
                show(&line);
                p[best] = -1;
            }
            free(p);
        }
        if (!n_masks) die("\"%s\": no [MASK] in it", texts[r]);
    }
    buf_free(&line);
    buf_free(&text);
}
static void fill_mask(void) {
    Model *m = start_model();
    if (m->cfg.head != HEAD_MASKED_LM)
        die("%s: --fill-mask wants a model for masked tokens (BertForMaskedLM)", o.model);
    encoder_tok = tokenizer_load(o.model);
    if (tokenizer_id(encoder_tok, "[MASK]") < 0) die("%s: the tokenizer has no [MASK]", o.model);
    encode_texts(m, encoder_tok, texts_of(o.fill_mask), true, show_filled);
    tokenizer_free(encoder_tok);
    model_free(m);
}

/* How a sentence encoder's makers pool, in the files of sentence-transformers. */
static struct { const char *pooling; bool normalize; float *out; size_t n_out; } embed;
static void embed_settings(const Config *c) {
    char *path = path_join(o.model, "1_Pooling/config.json"), *modules = path_join(o.model, "modules.json");
    embed.pooling = strcmp(o.pooling, "auto") ? o.pooling : "mean";
    embed.normalize = strcmp(embed.pooling, "mean") == 0 || strcmp(embed.pooling, "cls") == 0;
    if (file_exists(path)) {
        cJSON *json = side_file(path);
        if (!cJSON_IsObject(json)) die("%s: not a JSON object", path);
        static const char *const keys[][2] = {{"pooling_mode_cls_token", "cls"}, {"pooling_mode_mean_tokens", "mean"},
                                              {"pooling_mode_max_tokens", "max"}};
        int n = 0;
        for (const cJSON *e = json->child; e && !strcmp(o.pooling, "auto"); e = e->next) {
            if (strncmp(e->string, "pooling_mode_", 13)) continue;
            if (!cJSON_IsBool(e)) die("%s: \"%s\" is neither true nor false", path, e->string);
            if (cJSON_IsFalse(e)) continue;
            const char *known = NULL;
            for (int i = 0; i < 3; i++) if (!strcmp(e->string, keys[i][0])) known = keys[i][1];
            if (!known || n++) die("%s: \"%s\" is not supported (one of cls, mean and max is)", path, e->string);
            embed.pooling = known;
        }
        cJSON_Delete(json);
        json = file_exists(modules) ? side_file(modules) : NULL;
        embed.normalize = false;
        for (const cJSON *e = json ? json->child : NULL; e; e = e->next) {
            const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "type"));
            const char *dot = type ? strrchr(type, '.') : NULL;
            embed.normalize |= dot && !strcmp(dot, ".Normalize");
        }
        cJSON_Delete(json);
    }
    if (!strcmp(embed.pooling, "pooler") && !c->pooler) die("%s: the model has no pooler", o.model);
    free(path);
    free(modules);
}
static void pool(float *out, const float *hidden, size_t len, size_t C) {
    bool mean = !strcmp(embed.pooling, "mean"), largest = !strcmp(embed.pooling, "max");
    for (size_t i = 0; i < C; i++) {
        double v = (double)hidden[i];
        for (size_t t = 1; t < len && (mean || largest); t++) {
            double x = (double)hidden[t * C + i];
            v = mean ? v + x : fmax(v, x);
        }
        out[i] = (float)(mean ? v / (double)len : v);
    }
}
static void show_embedded(Model *m, Acts *a, const char *const *texts, const EncoderRow *rows, size_t n, size_t T,
    const int32_t *len) {
    size_t C = (size_t)m->cfg.C;
    bool pooler = !strcmp(embed.pooling, "pooler");
    float *hidden = pooler ? acts_to_host(model_pool(m, a, n), n * C) : acts_to_host(a->final, n * T * C),
        *v = xmalloc(C * sizeof *v);
    Buf line = {0};
    (void)rows;
    for (size_t r = 0; r < n; r++) {
        pool(v, hidden + r * (pooler ? 1 : T) * C, pooler ? 1 : (size_t)len[r], C);
        double norm = 0;
        for (size_t i = 0; i < C; i++) norm += (double)v[i] * (double)v[i];
        for (size_t i = 0; i < C && embed.normalize; i++) v[i] = (float)((double)v[i] / fmax(sqrt(norm), 1e-12));
        if (o.embed_out) {
            embed.out = xrealloc(embed.out, (embed.n_out + 1) * C * sizeof *v);
            memcpy(embed.out + embed.n_out++ * C, v, C * sizeof *v);
            continue;
        }
        line.len = 0;
        buf_str(&line, "{\"text\":\"");
        json_escape(&line, texts[r], strlen(texts[r]));
        buf_str(&line, "\",\"embedding\":[");
        for (size_t i = 0; i < C; i++) buf_fmt(&line, "%s%.7g", i ? "," : "", (double)v[i]);
        buf_str(&line, "]}\n");
        show(&line);
    }
    buf_free(&line);
    free(hidden);
    free(v);
}
static void embed_texts(void) {
    Model *m = start_model();
    if (m->cfg.mask != MASK_BIDIRECTIONAL) die("%s: --embed wants an encoder (BERT)", o.model);
    embed_settings(&m->cfg);
    encoder_tok = tokenizer_load(o.model);
    encode_texts(m, encoder_tok, texts_of(o.embed), false, show_embedded);
    if (o.embed_out) {
        TensorOut out = {.name = (char *)"embeddings", .dtype = DT_F32, .n_dims = 2,
            .shape = {embed.n_out, (size_t)m->cfg.C}, .ctx = embed.out};
        tensors_save(o.embed_out, &out, 1, NULL);
        free(embed.out);
    }
    tokenizer_free(encoder_tok);
    model_free(m);
}

/* The names of the classes, in config.json's id2label; without one, LABEL_0, LABEL_1, ... */
static cJSON *class_labels;
static void show_classes(Model *m, Acts *a, const char *const *texts, const EncoderRow *rows, size_t n, size_t T,
    const int32_t *len) {
    size_t n_classes = (size_t)m->cfg.n_classes;
    float *p = acts_to_host(model_classify(m, a, n), n * n_classes);
    Buf line = {0};
    (void)rows, (void)T, (void)len;
    for (size_t r = 0; r < n; r++) {
        float *p_r = p + r * n_classes;
        size_t best = 0;
        softmax(p_r, n_classes);
        for (size_t i = 1; i < n_classes; i++) if (p_r[i] > p_r[best]) best = i;
        char id[24];
        snprintf(id, sizeof id, "%zu", best);
        const char *label = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(class_labels, id));
        char *name = label ? xstrdup(label) : strf("LABEL_%zu", best);
        line.len = 0;
        if (o.json) {
            buf_str(&line, "{\"text\":\"");
            json_escape(&line, texts[r], strlen(texts[r]));
            buf_str(&line, "\",\"label\":\"");
            json_escape(&line, name, strlen(name));
            buf_str(&line, "\",\"probabilities\":[");
            for (size_t i = 0; i < n_classes; i++) buf_fmt(&line, "%s%.6g", i ? "," : "", (double)p_r[i]);
            buf_str(&line, "]}\n");
        } else buf_fmt(&line, "%.4f  %-14s %s\n", (double)p_r[best], name, texts[r]);
        show(&line);
        free(name);
    }
    buf_free(&line);
    free(p);
}
static void classify(void) {
    Model *m = start_model();
    if (m->cfg.head != HEAD_CLASSIFY)
        die("%s: --classify wants a model with classes (...ForSequenceClassification)", o.model);
    cJSON *config = cJSON_Parse(m->config_json);
    class_labels = cJSON_GetObjectItemCaseSensitive(config, "id2label");
    encoder_tok = tokenizer_load(o.model);
    encode_texts(m, encoder_tok, texts_of(o.classify), false, show_classes);
    cJSON_Delete(config);
    tokenizer_free(encoder_tok);
    model_free(m);
}

/* ================================================================================================================= *
 * [infer.bench] Speeds beside what this machine can do at best, so that a number says how much is left to gain. */
static int32_t arbitrary_id(size_t i, int V) { return (int32_t)(rng_mix(1, i) % (uint64_t)V); }

/* Bytes of weights that one token's pass reads: all but the rows of the embedding that were not looked up. */
static double streamed_bytes(const Model *m) {
    double bytes = 0;
    for (int i = 0; i < m->n_params; i++) {
        const Param *p = &m->params[i];
        bool looked_up = p->kind == KIND_EMBED && !(p->role == R_WTE && m->cfg.tied);
        if (!looked_up) bytes += (double)mat_bytes(&p->w);
    }
    return bytes;
}
/* What prefill computes: a third of training's FLOPs, and the classifier for the last token alone. */
static double prefill_flops(const Config *c, size_t T) {
    return config_flops_per_token(c, T) / 3 * (double)T - 2.0 * c->V * c->C * (double)(T - 1);
}

static Model *bench_model(void) {
    if (!o.config) return start_model();
    Config c = config_read(o.config);
    select_kernels(DT_F32);
    before_model = memory_now() + scratch_bytes();
    c.cache_i8 = small_cache();
    return model_new(&c, (uint64_t)common.seed);
}

/* An encoder: 16 texts of 128 tokens at a time, as one would embed a collection. */
static void bench_encoder(Model *m) {
    const Config *c = &m->cfg;
    size_t B = ENCODE_ROWS, T = min_size(128, (size_t)c->max_pos), runs = 0;
    Acts *a = acts_new(m, B, T, T, false, false);
    int32_t *ids = xmalloc(B * T * sizeof *ids);
    for (size_t i = 0; i < B * T; i++) ids[i] = arbitrary_id(i, c->V);
    double best_s = INFINITY, spent_s = 0;
    for (; runs < 3 || (runs < 20 && spent_s < 5); runs++) {
        double start = now_s();
        forward(m, a, &(Batch){.B = B, .T = T, .tokens = ids});
        op.sync();
        double s = now_s() - start;
        spent_s += s;
        if (runs && s < best_s) best_s = s;
    }
    double head = c->head == HEAD_MASKED_LM ? 6.0 * c->V * c->C : 0;
    double flops = (config_flops_per_token(c, T) - head) / 3 * (double)(B * T) / best_s,
        peak = op.peak_flops(precision);
    const char *what = o.config ? o.config : o.model;
    if (!common.quiet) {
        fprintf(stderr, "%s %s, %s weights; ", what, config_model_type(c), human_count((double)config_weights(c)));
        print_machine();
        fprintf(stderr, "\n  %zu texts of %zu tokens: %.1f texts/s, %.1f%% of the measured %.1f GFLOP/s\n", B, T,
                (double)B / best_s, 100 * flops / peak, peak / 1e9);
    }
    printf("{\"event\":\"bench\",\"weights\":%zu,\"device\":\"%s\",\"precision\":\"%s\",\"threads\":%d,\"texts\":%zu,"
           "\"tokens\":%zu,\"texts_per_s\":%.6g,\"gflops\":%.6g,\"peak_gflops\":%.6g,\"share\":%.4g}\n",
               config_weights(c), op.name,
           precision_name(), thread_count(), B, T, (double)B / best_s, flops / 1e9, peak / 1e9, flops / peak);
    free(ids);
    acts_free(a);
    model_free(m);
}
static void bench(void) {
    Model *m = bench_model();
    const Config *c = &m->cfg;
    if (c->mask == MASK_BIDIRECTIONAL) {
        bench_encoder(m);
        return;
    }
    size_t context = context_limit(c), n_prefill = min_size(PREFILL_CHUNK, context), n_short = min_size(16, context);
    size_t n_decode = min_size(given("n") ? (size_t)o.n : 128, context - n_short);
    size_t S = n_prefill > n_short + n_decode ? n_prefill : n_short + n_decode;
    if (!n_decode) die("--bench: nothing to decode: it wants --n above 0 and a context above %zu", n_short);
    Acts *a = acts_new(m, 1, n_prefill, S, false, false);
    double memory = plan_memory(m, a);
    Sampler greedy = {.repetition = 1, .top_p = 1};
    int32_t *ids = xmalloc(n_prefill * sizeof *ids);
    for (size_t i = 0; i < n_prefill; i++) ids[i] = arbitrary_id(i, c->V);

    /* The first pass brings the weights in from the disk. The best of the others is the least disturbed one. */
    double prefill_s = INFINITY, spent_s = 0;
    for (int run = 0; run < 2 || (run < 6 && spent_s < 3); run++) {
        double start = now_s();
        feed(m, a, ids, n_prefill, 0);
        op.sync();
        double s = now_s() - start;
        spent_s += s;
        if (run && s < prefill_s) prefill_s = s;
    }
    act *logits = feed(m, a, ids, n_short, 0);
    int32_t id = model_sample(a, logits, (size_t)c->V, &greedy, NULL, 0, 0, 0);
    /* The memory's speed changes by half from one second to the next on a shared machine (32 and 52 GB/s were seen): a
     * limit measured once, afterwards, made 98 % look like 62. So it is measured before and after each half second. */
    double peak_bytes = memory_peak();
    double decode_s = 0, readable = 0, limit = op.peak_read();     /* readable: bytes that memory would have given */
    for (size_t i = 0; i < n_decode;) {
        double start = now_s(), slice_s = 0, before = limit;
        for (; i < n_decode && slice_s < 0.5; i++, slice_s = now_s() - start) {    /* as in [infer.decode] */
            logits = feed(m, a, &id, 1, n_short + i);
            id = model_sample(a, logits, (size_t)c->V, &greedy, NULL, 0, 0, i);
        }
        limit = op.peak_read();
        decode_s += slice_s, readable += slice_s * (before + limit) / 2;
    }
    peak_bytes = fmax(peak_bytes, memory_now());                   /* the limits' buffers came and went */

    double flops = prefill_flops(c, n_prefill) / prefill_s, peak_flops = op.peak_flops(precision);
    double read = streamed_bytes(m) * (double)n_decode / decode_s, peak_read = readable / decode_s;
    double prefill_rate = (double)n_prefill / prefill_s, decode_rate = (double)n_decode / decode_s;
    const char *what = o.config ? o.config : o.model;
    if (!common.quiet) {
        fprintf(stderr, "%s %s, %s weights; ", what, config_model_type(c), human_count((double)config_weights(c)));
        print_machine();
        fprintf(stderr, "\n  prefill %5zu tokens %10.1f tokens/s %10.2f GFLOP/s  %5.1f%% of the measured %.1f\n",
                n_prefill, prefill_rate, flops / 1e9, 100 * flops / peak_flops, peak_flops / 1e9);
        fprintf(stderr, "  decode  %5zu tokens %10.1f tokens/s %10.2f GB/s     %5.1f%% of the measured %.1f\n",
                n_decode, decode_rate, read / 1e9, 100 * read / peak_read, peak_read / 1e9);
        if (streamed_bytes(m) < 64e6)                              /* above 100 % is then no wonder */
            fprintf(stderr, "  (the weights may fit the cache: decoding can then read faster than memory)\n");
    }
    Buf name = {0};
    json_escape(&name, what, strlen(what));
    printf("{\"event\":\"bench\",\"model\":\"%s\",\"weights\":%zu,", name.data, config_weights(c));
    printf("\"device\":\"%s\",\"precision\":\"%s\",\"threads\":%d,", op.name, precision_name(), thread_count());
    printf("\"prefill_tokens\":%zu,\"prefill_tokens_per_s\":%.6g,\"prefill_gflops\":%.6g,\"peak_gflops\":%.6g,"
           "\"prefill_share\":%.4g,", n_prefill, prefill_rate, flops / 1e9, peak_flops / 1e9, flops / peak_flops);
    printf("\"decode_tokens\":%zu,\"decode_tokens_per_s\":%.6g,\"decode_gb_per_s\":%.6g,\"peak_gb_per_s\":%.6g,"
           "\"decode_share\":%.4g,", n_decode, decode_rate, read / 1e9, peak_read / 1e9, read / peak_read);
    Memory mem = memory_of(m, a);
    printf("\"weight_bytes\":%.0f,\"cache_bytes\":%.0f,\"work_bytes\":%.0f,\"memory_bytes\":%.0f,"
           "\"peak_bytes\":%.0f}\n", mem.weights, mem.cache, mem.work, memory, peak_bytes);
    buf_free(&name);
    free(ids);
    acts_free(a);
    model_free(m);
}

/* ================================================================================================================= *
 * [infer.compare] One process, two tables of functions, one after the other: each leaves host copies of every
 * layer's stream. Rounding differs between any two, so look at the relative column: about 1e-6 per layer for f32, 1e-2
 * for bf16, growing slowly. A jump names the first layer that is wrong. */
typedef struct {
    float **v;                                                     /* [0..L] the stream, [L+1] its norm, [L+2] logits */
    int n;                                                         /* L + 3 */
    size_t T, C, V;
    char *name;
} Trace;
static size_t trace_width(const Trace *t, int i) { return i == t->n - 1 ? t->V : t->C; }

typedef struct { const char *device, *isa; Precision precision; char *name; } Side;
static Side side_parse(char *word) {
    static const char *const isas[] = {"plain", "avx2", "avx512", "avx512bf16", "neon"};
    Side s = {"cpu", common.isa, !strcmp(o.precision, "bf16") ? PREC_BF16 : PREC_F32, xstrdup(word)};
    char *colon = strchr(word, ':');
    if (colon) {
        *colon++ = 0;
        if (strcmp(colon, "f32") && strcmp(colon, "bf16"))
            die_usage("--compare %s: a precision is f32 or bf16", s.name);
        s.precision = strcmp(colon, "f32") ? PREC_BF16 : PREC_F32;
    }
    if (!strcmp(word, "cpu")) return s;
    if (!strcmp(word, "cuda")) return s.device = "cuda", s.isa = "auto", s;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (!strcmp(word, isas[i])) return s.isa = isas[i], s;
    die_usage("--compare: \"%s\" is none of cpu, cuda, plain, avx2, avx512, avx512bf16, neon", word);
}

static Trace trace(const Side *side, const int32_t *ids, size_t T) {
    ops_select(side->device, side->isa, side->precision);
    Model *m = model_load(o.model, false);
    Acts *a = forward_keeping_layers(m, ids, T);
    int L = m->cfg.L;
    Trace t = {.n = L + 3, .T = T, .C = (size_t)m->cfg.C, .V = (size_t)m->cfg.V};
    t.name = !strcmp(side->name, op.name) ? xstrdup(op.name) : strf("%s (%s)", side->name, op.name);
    t.v = xcalloc((size_t)t.n, sizeof *t.v);
    for (int i = 0; i < t.n; i++) {
        t.v[i] = xmalloc(size_mul(size_mul(T, trace_width(&t, i)), sizeof(float)));
        if (i <= L + 1) op.act_to_host(t.v[i], i < L ? a->layer[i].x : i == L ? a->out : a->final, T * t.C);
    }
    for (size_t first = 0; first < T; first += a->chunk) {
        size_t n = min_size(a->chunk, T - first);
        op.act_to_host(t.v[L + 2] + first * t.V, model_logits(m, a, first, n), n * t.V);
    }
    acts_free(a);
    model_free(m);
    return t;
}
static void trace_free(Trace *t) {
    for (int i = 0; i < t->n; i++) free(t->v[i]);
    free(t->v);
    free(t->name);
}
typedef struct { double largest, worst, relative; bool finite; } Distance;
static Distance distance(const float *x, const float *y, size_t n) {
    Distance d = {.finite = true};
    double sum = 0, off = 0;
    for (size_t i = 0; i < n; i++) {
        double u = (double)x[i], v = (double)y[i];
        d.finite &= isfinite(u) && isfinite(v);
        d.largest = fmax(d.largest, fabs(u));
        d.worst = fmax(d.worst, fabs(u - v));
        sum += u * u;
        off += (u - v) * (u - v);
    }
    d.relative = off > 0 ? sqrt(off / fmax(sum, 1e-300)) : 0;
    return d;
}
static size_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void compare(void) {
    char *words = xstrdup(o.compare), *comma = strchr(words, ',');
    if (!comma || strchr(comma + 1, ',')) die_usage("--compare wants two names and a comma between, such as cpu,cuda");
    *comma = 0;
    Side side[2] = {side_parse(words), side_parse(comma + 1)};
    require_model_dir();
    Config c = config_read(o.model);
    IdTable ids;
    if (o.logits || o.prompt) ids = look_ids(&c);
    else {                                                         /* any ids will do, and need no tokenizer */
        ids = (IdTable){xmalloc(64 * sizeof *ids.v), 1, min_size(64, (size_t)c.max_pos)};
        for (size_t i = 0; i < ids.T; i++) ids.v[i] = arbitrary_id(i, c.V);
    }
    fits_context(&c, ids.T);
    Trace x = trace(&side[0], ids.v, ids.T), y = trace(&side[1], ids.v, ids.T);

    size_t agree = 0;
    for (size_t t = 0; t < x.T; t++)
        agree += argmax(x.v[x.n - 1] + t * x.V, x.V) == argmax(y.v[y.n - 1] + t * y.V, y.V);
    if (o.json) {
        printf("{\"event\":\"compare\",\"a\":\"%s\",\"b\":\"%s\",", x.name, y.name);
        printf("\"tokens\":%zu,\"layers\":[", ids.T);
    } else {
        printf("%s against %s, %zu tokens\n", x.name, y.name, ids.T);
        printf("%-10s %14s %14s %14s\n", "after", "largest value", "difference", "relative");
    }
    for (int i = 0; i < x.n; i++) {
        Distance d = distance(x.v[i], y.v[i], x.T * trace_width(&x, i));
        char *name = i == 0 ? xstrdup("embedding") : i <= c.L ? strf("layer %d", i - 1)
                                                              : xstrdup(i == c.L + 1 ? "final norm" : "logits");
        if (!d.finite) die("%s: after %s there are values that are not finite", o.model, name);
        if (!o.json) printf("%-10s %14.6g %14.3e %14.3e\n", name, d.largest, d.worst, d.relative);
        else printf("%s{\"after\":\"%s\",\"largest\":%.6g,\"difference\":%.4g,\"relative\":%.4g}", i ? "," : "", name,
                    d.largest, d.worst, d.relative);
        free(name);
    }
    if (o.json) printf("],\"same_next_token\":%zu}\n", agree);
    else printf("the likeliest next token is the same at %zu of %zu positions\n", agree, ids.T);
    for (int i = 0; i < 2; i++) free(side[i].name);
    trace_free(&x);
    trace_free(&y);
    free(words);
    free(ids.v);
}

/* ================================================================================================================= */
int main(int argc, char **argv) {
    options_parse(argc, argv, 1, about, options, N_OPTIONS);
    bool looks = o.logits_out || o.attention_out;
    int modes = (o.eval.n > 0) + (o.batch != NULL) + looks + (o.compare != NULL) + o.bench + o.chat +
        (o.fill_mask.n > 0) + (o.embed.n > 0) +
                (o.classify.n > 0);
    if (modes > 1)
        die_usage("--chat, --batch, --eval, --fill-mask, --embed, --classify, --logits-out or --attention-out, "
                  "--compare and --bench "
                  "are one run each");
    if ((given("pooling") || o.embed_out) && !o.embed.n) die_usage("--pooling and --embed-out go with --embed");
    if (o.pair && !o.embed.n && !o.classify.n) die_usage("--pair goes with --embed or --classify");
    const char *const of_chat[] = {"system", "template", "messages", "history"};
    for (int i = 0; i < 4; i++)
        if (given(of_chat[i]) && !o.chat && !(i == 1 && o.batch)) die_usage("--%s goes with --chat", of_chat[i]);
    if (o.batch && (o.prompt || o.draft || o.prompt_cache || given("samples")))
        die_usage("--batch has its prompts in a file; --prompt, --samples, --draft and --prompt-cache are for one");
    if (o.batch && !o.n) die_usage("--n 0 leaves no room for an answer");
    if (o.prompt_cache && (modes || !o.prompt)) die_usage("--prompt-cache goes with --prompt");
    if (o.draft && modes && !o.chat) die_usage("--draft goes with --prompt or --chat");
    if (given("draft-tokens") && !o.draft) die_usage("--draft-tokens goes with --draft");
    if (given("batch-size") && !o.batch) die_usage("--batch-size goes with --batch");
    if (o.chat && o.prompt) die_usage("--chat asks you, or --messages FILE: --prompt is for a text");
    if (o.config && !o.bench) die_usage("--config has random weights: it goes with --bench alone");
    if (o.logits && !looks && !o.compare) die_usage("--logits wants --logits-out or --attention-out: where to write");
    if (o.logits_out && !o.logits) die_usage("--logits-out wants --logits, a file of token ids");
    if (o.attention_out && !o.logits && !o.prompt) die_usage("--attention-out wants --logits or --prompt");
    if (small_cache() && (o.fill_mask.n || o.embed.n || o.classify.n || o.attention_out || o.compare))
        die_usage("--kv-cache int8 is for texts that are continued or evaluated: nothing is kept here");
    if (o.reference && !o.eval.n) die_usage("--reference goes with --eval");
    if (given("stride") && !o.eval.n) die_usage("--stride goes with --eval");
    if (o.fill_mask.n) fill_mask();
    else if (o.embed.n) embed_texts();
    else if (o.classify.n) classify();
    else if (o.chat) chat();
    else if (o.batch) batch();
    else if (o.eval.n) eval();
    else if (looks) look_inside();
    else if (o.compare) compare();
    else if (o.bench) bench();
    else generate();
    if (common.profile) profile_end(0);
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
    return 0;
}
