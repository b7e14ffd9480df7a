/* test_infer.c - ./infer from outside, as its users meet it, on two tiny random models made here.
 *
 * What the program prints is held against the library called directly: prefill, decoding and one whole forward give
 * the same logits; greedy text is the argmax of --logits; --eval is the sum that its comment promises, computed the
 * slow way. The rest is what users rely on: the same text on any number of threads, valid UTF-8 from any bytes, an end
 * at stop tokens, and one clear sentence for every mistake.
 *
 * Run: make tests; build/gcc/test_infer            (a few seconds; looks for infer beside itself) */
#include "dataset.h"
#include "model.h"
#include "test.h"
#include "tokenizer.h"
#include "weights.h"
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <math.h>

/* ---- running the program ---------------------------------------------------------------------------------------- */
static char *infer_path;
static const char *llama_dir, *gpt2_dir;

typedef struct { int code; Buf out, err; } Run;
static void run_free(Run *r) { buf_free(&r->out); buf_free(&r->err); }

static void read_all(FILE *f, Buf *b) {
    char piece[4096];
    rewind(f);
    buf_str(b, "");
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) buf_add(b, piece, n);
    fclose(f);
}
/* args: words separated by '|', because prompts have spaces. */
static char **split_args(const char *args) {
    char **argv = xcalloc(64, sizeof *argv), *copy = xstrdup(args);
    int n = 0;
    argv[n++] = infer_path;
    for (char *at = copy; at && n < 63;) {
        char *bar = strchr(at, '|');
        if (bar) *bar = 0;
        argv[n++] = at;
        at = bar ? bar + 1 : NULL;
    }
    return argv;
}
static Run run(const char *input, const char *args) {
    FILE *in = tmpfile(), *out = tmpfile(), *err = tmpfile();
    Run r = {0};
    if (!in || !out || !err) { CHECK(false, "no temporary file"); return r; }
    if (input) fputs(input, in);
    rewind(in);
    char **argv = split_args(args);
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        alarm(120);
        setenv("OMP_NUM_THREADS", "1", 1);               /* on a busy machine a barrier per tiny op takes seconds */
        dup2(fileno(in), 0), dup2(fileno(out), 1), dup2(fileno(err), 2);
        execv(infer_path, argv);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    fclose(in);
    read_all(out, &r.out);
    read_all(err, &r.err);
    free(argv[1]);
    free(argv);
    return r;
}
__attribute__((format(printf, 1, 2))) static char *args(const char *fmt, ...) {
    static char ring[64][2048];
    static int at;
    char *s = ring[at++ % 64];
    va_list list;
    va_start(list, fmt);
    vsnprintf(s, sizeof ring[0], fmt, list);
    va_end(list);
    return s;
}
static Run run_well(const char *input, const char *a) {
    Run r = run(input, a);
    if (r.code) CHECK(false, "exit %d of: %s\n%s", r.code, a, r.err.data);
    return r;
}
/* The mistakes: exit code and one line, see test.h. What a program that dies had allocated is not a leak. */
static void become_infer(const char *a) {
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    setenv("OMP_NUM_THREADS", "1", 1);
    dup2(open("/dev/null", O_RDONLY), 0);
    execv(infer_path, split_args(a));
}
#define BAD(code, text, a) TEST_DIES({ become_infer(a); }, code, text)

static int32_t *json_ids(const cJSON *o, const char *key, size_t *n) {
    const cJSON *list = cJSON_GetObjectItem(o, key), *id;
    int32_t *v = xmalloc(((size_t)cJSON_GetArraySize(list) + 1) * 4);
    *n = 0;
    cJSON_ArrayForEach(id, list) v[(*n)++] = id->valueint;
    return v;
}
static double json_number(const cJSON *o, const char *key) {
    const cJSON *v = cJSON_GetObjectItem(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}
static void write_text(const char *path, const char *text) { file_write(path, text, strlen(text)); }
static char *at(const char *name) { return path_join(test_tmpdir(), name); }

/* ---- the models ------------------------------------------------------------------------------------------------- */
static const char *const story[] = {"The old fox went to the river. It saw a boat and was glad.",
                                    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
                                    "小さな 川 で 魚 を 見た。 🐟 ok",
                                    "a b c d e f g the the the river river fox"};
static const char *story_next(void *state, size_t *n) {
    size_t *i = state;
    if (*i == sizeof story / sizeof *story) return NULL;
    *n = strlen(story[*i]);
    return story[(*i)++];
}
/* Weights ten times larger than usual: attention and logits then differ much between tokens. */
static const char *model_make(const char *family, const char *name, int max_pos, DType dtype) {
    char *dir = at(name);
    make_dirs(dir);
    size_t state = 0;
    common.quiet = true;
    tokenizer_train((TextSource){story_next, &state, 300}, "gpt2", 290, 1, (const char *[]){"<|endoftext|>"}, 1, dir);
    Tokenizer *tok = tokenizer_load(dir);
    Config c = config_family_default(family);
    c.V = tokenizer_vocab(tok) + 6;                      /* padded, as many models are */
    c.C = 32, c.L = 3, c.H = 4, c.D = 8, c.F = 48, c.max_pos = max_pos, c.rope_dims = 8, c.init_std = 0.3f;
    c.K = c.pos == POS_ROPE ? 2 : 4;
    c.bos = c.eos[0] = tokenizer_eos(tok), c.n_eos = 1;
    Model *m = model_new(&c, 7);
    model_save(m, dir, dtype);
    model_free(m);
    tokenizer_free(tok);
    return dir;
}

/* ---- the library, directly -------------------------------------------------------------------------------------- */
/* Logits of all T tokens, fed in pieces of `piece` through the cache; 0: one whole forward without a cache. */
static float *direct_logits(Model *m, const int32_t *ids, size_t T, size_t piece) {
    size_t V = (size_t)m->cfg.V;
    float *out = xmalloc(T * V * sizeof(float));
    Acts *a = acts_new(m, 1, piece ? piece : T, T, false, false);
    for (size_t first = 0; first < T; first += a->T) {
        size_t n = T - first < a->T ? T - first : a->T;
        int32_t pos = (int32_t)first;
        forward(m, a, &(Batch){.B = 1, .T = n, .tokens = ids + first, .pos = piece ? &pos : NULL});
        for (size_t i = 0; i < n; i++) op.act_to_host(out + (first + i) * V, model_logits(m, a, i, 1), V);
    }
    acts_free(a);
    return out;
}
static double nll(const float *logits, size_t V, int32_t target) {
    double max = -INFINITY, sum = 0;
    for (size_t v = 0; v < V; v++) max = fmax(max, (double)logits[v]);
    for (size_t v = 0; v < V; v++) sum += exp((double)logits[v] - max);
    return log(sum) + max - (double)logits[target];
}
static size_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Float rounding adds up in the width of the stream, not of each logit: 1e-5 of the largest logit (about 8 here) is ten
 * times what two orders of summation differ by; a wrong mask or slot is off by more than 1e-1. */
static double rounding(const float *logits, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)logits[i]));
    return 1e-5 * largest;
}

static void test_three_ways(const char *dir, const char *isa) {
    ops_select("cpu", isa, PREC_F32);
    Model *m = model_load(dir, false);
    enum { T = 45 };
    int32_t ids[T];
    for (int i = 0; i < T; i++) ids[i] = (int32_t)(rng_mix(5, (uint64_t)i) % (uint64_t)m->cfg.V);
    size_t n = T * (size_t)m->cfg.V;
    float *whole = direct_logits(m, ids, T, 0);
    const size_t pieces[] = {1, 7, 45};
    for (int i = 0; i < 3; i++) {
        float *got = direct_logits(m, ids, T, pieces[i]);
        const char *what = args("%s, %s: logits fed %zu at a time are one forward's", config_model_type(&m->cfg),
                                op.name, pieces[i]);
        CHECK_CLOSE(what, got, whole, n, rounding(whole, n), 1e-5);
        free(got);
    }
    free(whole);
    model_free(m);
}

/* ---- generating ------------------------------------------------------------------------------------------------- */
static bool utf8_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint8_t c = (uint8_t)s[i];
        size_t len = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
        if (!len || i + len > n) return false;
        for (size_t j = 1; j < len; j++)
            if (((uint8_t)s[i + j] & 0xC0) != 0x80) return false;
        uint8_t d = len > 1 ? (uint8_t)s[i + 1] : 0;
        if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F)) return false;      /* over-long; surrogates */
        if ((c == 0xF0 && d < 0x90) || (c == 0xF4 && d > 0x8F)) return false;      /* over-long; past U+10FFFF */
        i += len;
    }
    return true;
}

static void test_same_text(void) {
    const char *a = args("--model|%s|--prompt|The old fox|--n|40|--ignore-eos|--temperature|1.5|--quiet", gpt2_dir);
    Run first = run_well(NULL, args("%s|--threads|1", a));
    CHECK(!strncmp(first.out.data, "The old fox", 11) && first.out.len > 40, "the text begins with its prompt");
    CHECK(!first.err.len, "--quiet leaves stderr empty");
    for (int threads = 1; threads <= 3; threads++) {
        Run again = run_well(NULL, args("%s|--threads|%d", a, threads));
        CHECK(!strcmp(first.out.data, again.out.data), "same seed, same text, --threads %d", threads);
        run_free(&again);
    }
    Run other = run_well(NULL, args("%s|--seed|43", a));
    Run input = run_well("The old fox\n", args("--model|%s|--prompt|-|--n|40|--ignore-eos|--temperature|1.5",
                                               gpt2_dir));
    CHECK(strcmp(first.out.data, other.out.data), "another seed, another text");
    CHECK(!strcmp(first.out.data, input.out.data), "--prompt - reads the same prompt from stdin");
    CHECK(strstr(input.err.data, "tokens/s") && strstr(input.err.data, "cache"), "figures on stderr: %.*s",
          (int)strcspn(input.err.data, "\n"), input.err.data);
    Run bare = run_well(NULL, args("%s|--no-echo", a));
    CHECK(!strcmp(bare.out.data, first.out.data + 11), "--no-echo leaves out the prompt, and nothing else");
    Run three = run_well(NULL, args("%s|--samples|3|--json", a)), one = run_well(NULL, args("%s|--json", a));
    CHECK(!strncmp(three.out.data, one.out.data, one.out.len), "the first of three samples is the only one of one");
    const char *second = strchr(three.out.data, '\n') + 1;
    CHECK(!strstr(second, strstr(one.out.data, "\"ids\"")), "the second sample differs");
    run_free(&first), run_free(&other), run_free(&input), run_free(&bare), run_free(&three), run_free(&one);
}

/* At temperature 100 the draw is nearly uniform over 290 tokens, most of them bytes: hardly a valid character. */
static void test_utf8(void) {
    const char *a = "--n|400|--ignore-eos|--temperature|100|--top-p|1|--bos|yes|--prompt|größe 🐟";
    Run r = run_well(NULL, args("--model|%s|%s", llama_dir, a));
    size_t n_bad = 0;
    for (const char *p = r.out.data; (p = strstr(p, "\xEF\xBF\xBD")); p += 3) n_bad++;
    CHECK(utf8_valid(r.out.data, r.out.len), "%zu bytes of random tokens come out as valid UTF-8", r.out.len);
    CHECK(n_bad > 20, "with U+FFFD for what is none (%zu times)", n_bad);
    CHECK(!strncmp(r.out.data, "größe 🐟", strlen("größe 🐟")), "behind the prompt, whole");
    Run half = run_well(NULL, args("--model|%s|--n|0|--prompt|caf\xC3", llama_dir));
    CHECK(!strcmp(half.out.data, "caf\xEF\xBF\xBD\n"), "and so does half a character at the end");
    run_free(&r), run_free(&half);
}

static void test_greedy(void) {
    /* 700 tokens of prompt: two pieces of prefill. */
    Buf prompt = {0};
    for (int i = 0; prompt.len < 1400; i++) buf_str(&prompt, story[i % 4]);
    Run r = run_well(prompt.data, args("--model|%s|--prompt|-|--n|24|--ignore-eos|--temperature|0|--json", llama_dir));
    cJSON *j = cJSON_Parse(r.out.data);
    size_t n_prompt = 0, n = 0;
    int32_t *prompt_ids = json_ids(j, "prompt_ids", &n_prompt), *ids = json_ids(j, "ids", &n);
    CHECK(n_prompt > 512 && n == 24, "greedy: %zu tokens behind a prompt of %zu", n, n_prompt);
    int32_t *all = xmalloc((n_prompt + n) * 4);
    memcpy(all, prompt_ids, n_prompt * 4);
    memcpy(all + n_prompt, ids, n * 4);
    Buf rows = {0};
    buf_str(&rows, "[[");
    for (size_t i = 0; i < n_prompt + n; i++) buf_fmt(&rows, "%s%d", i ? "," : "", all[i]);
    buf_str(&rows, "]]");
    char *ids_json = at("greedy.json"), *logits_file = at("greedy.safetensors");
    write_text(ids_json, rows.data);
    Run l = run_well(NULL, args("--model|%s|--logits|%s|--logits-out|%s", llama_dir, ids_json, logits_file));
    Tensors *t = tensors_open(logits_file);
    ops_select("cpu", "auto", PREC_F32);
    Model *m = model_load(llama_dir, false);
    size_t T = n_prompt + n, V = (size_t)m->cfg.V;
    const Tensor *logits = tensors_get(t, "logits", 3, (size_t[]){1, T, V});
    float *got = xmalloc(logits->bytes);
    tensor_to_f32(logits, got);
    size_t same = 0;
    for (size_t i = 0; i < n; i++) same += (int32_t)argmax(got + (n_prompt + i - 1) * V, V - 6) == ids[i];
    CHECK(same == n, "greedy tokens are the argmax of --logits: %zu of %zu", same, n);
    float *want = direct_logits(m, all, T, 0);
    CHECK_CLOSE("--logits in pieces is one whole forward", got, want, T * V, rounding(want, T * V), 1e-5);
    Run quiet = run_well(prompt.data, args("--model|%s|--prompt|-|--n|24|--ignore-eos|--top-k|1|--json", llama_dir));
    CHECK(!strcmp(quiet.out.data, r.out.data), "top-k 1 is greedy at any temperature");
    free(want), free(got), free(all), free(prompt_ids), free(ids), free(ids_json), free(logits_file);
    buf_free(&rows), buf_free(&prompt);
    cJSON_Delete(j);
    model_free(m);
    tensors_close(t);
    run_free(&r), run_free(&l), run_free(&quiet);
}

static void test_stop_and_settings(void) {
    const char *dir = model_make("llama", "stops", 64, DT_F32);
    char *settings = path_join(dir, "generation_config.json");
    const char *greedy = args("--model|%s|--prompt|river|--n|30|--temperature|0|--json", dir);
    char *a = xstrdup(greedy);
    Run r = run_well(NULL, args("%s|--ignore-eos", a));
    cJSON *j = cJSON_Parse(r.out.data);
    size_t n = 0, stop_at = 0;
    int32_t *ids = json_ids(j, "ids", &n);
    for (size_t i = 1; i < n && !stop_at; i++) {                   /* a token that comes for the first time */
        stop_at = i;
        for (size_t k = 0; k < i; k++) if (ids[k] == ids[i]) stop_at = 0;
    }
    CHECK(n == 30 && stop_at, "a free run of %zu tokens, of which token %zu is new", n, stop_at);
    write_text(settings, args("{\"do_sample\": false, \"eos_token_id\": [289, %d]}", ids[stop_at]));
    Run s = run_well(NULL, a);
    cJSON *k = cJSON_Parse(s.out.data);
    size_t n_stopped = 0;
    int32_t *stopped = json_ids(k, "ids", &n_stopped);
    CHECK(n_stopped == stop_at && !memcmp(stopped, ids, stop_at * 4) && strstr(s.out.data, "\"finish\":\"stop\""),
          "a stop token of generation_config.json ends the text before itself, after %zu tokens", n_stopped);
    Run on = run_well(NULL, args("%s|--ignore-eos", a));
    CHECK(!strcmp(on.out.data, r.out.data), "--ignore-eos goes on");
    Run file = run_well(NULL, args("--model|%s|--prompt|river|--n|30|--ignore-eos|--json", dir));
    CHECK(!strcmp(file.out.data, r.out.data), "do_sample false is greedy");
    Run hot = run_well(NULL, args("--model|%s|--prompt|river|--n|30|--ignore-eos|--json|--temperature|9", dir));
    CHECK(strcmp(hot.out.data, r.out.data), "--temperature wins over the file");
    write_text(settings, "{\"do_sample\": true, \"temperature\": 5.0, \"top_k\": 1}");
    Run top = run_well(NULL, args("--model|%s|--prompt|river|--n|30|--ignore-eos|--json", dir));
    CHECK(!strcmp(top.out.data, r.out.data), "top_k of the file is used");
    write_text(settings, "{}");
    Run penalty = run_well(NULL, args("%s|--ignore-eos|--repetition-penalty|100", a));
    cJSON *p = cJSON_Parse(penalty.out.data);
    size_t n_penalty = 0, repeats = 0;
    int32_t *once = json_ids(p, "ids", &n_penalty);
    for (size_t i = 0; i < n_penalty; i++)
        for (size_t h = 0; h < i; h++) repeats += once[h] == once[i];
    CHECK(n_penalty == 30 && !repeats, "a strong repetition penalty: 30 tokens, none twice");

    Run full = run_well(NULL, args("--model|%s|--prompt|river|--n|500|--ignore-eos|--json", dir));
    cJSON *f = cJSON_Parse(full.out.data);
    size_t n_prompt = 0, n_full = 0;
    free(json_ids(f, "prompt_ids", &n_prompt)), free(json_ids(f, "ids", &n_full));
    CHECK(n_prompt + n_full == 64 && strstr(full.err.data, "context of 64 tokens is full"),
          "the model's context ends the text: %zu + %zu: %.*s", n_prompt, n_full, (int)strcspn(full.err.data, "\n"),
          full.err.data);
    Run small = run_well(NULL, args("--model|%s|--prompt|river|--n|500|--ignore-eos|--context|20", dir));
    CHECK(strstr(small.err.data, "context of 20 tokens is full (--context)"), "and so does --context");

    write_text(settings, "{\"top_p\": 3}");
    BAD(1, "\"top_p\" must be a number from 0 to 1", a);
    write_text(settings, "[");
    BAD(1, "generation_config.json: not a JSON object", a);
    write_text(settings, "{}");
    char *tokenizer = path_join(dir, "tokenizer.json");
    unlink(tokenizer);
    BAD(1, "tokenizer", a);
    free(tokenizer), free(settings), free(a), free(ids), free(stopped), free(once);
    cJSON_Delete(j), cJSON_Delete(k), cJSON_Delete(p), cJSON_Delete(f);
    run_free(&r), run_free(&s), run_free(&on), run_free(&file), run_free(&hot), run_free(&top), run_free(&penalty);
    run_free(&full), run_free(&small);
    free((char *)(uintptr_t)dir);
}

/* ---- evaluating ------------------------------------------------------------------------------------------------- */
/* Each target alone: a forward over what its window and its document let it see, positions as in the window. */
static double direct_nats(Model *m, const int32_t *ids, size_t n, int32_t opening, size_t T, size_t stride) {
    double nats = 0;
    for (size_t target = 1; target < n; target++) {
        size_t window = 0, first;
        while (window + T < target) window += stride;
        first = window;
        for (size_t i = window; i < target; i++) if (ids[i] == opening) first = i;
        size_t len = target - first;
        int32_t position[512];
        for (size_t i = 0; i < len; i++) position[i] = (int32_t)(first - window + i);
        Acts *a = acts_new(m, 1, len, T, false, false);
        forward(m, a, &(Batch){.B = 1, .T = len, .tokens = ids + first, .position = position});
        float *row = xmalloc((size_t)m->cfg.V * sizeof *row);
        op.act_to_host(row, model_logits(m, a, len - 1, 1), (size_t)m->cfg.V);
        nats += nll(row, (size_t)m->cfg.V, ids[target]);
        free(row);
        acts_free(a);
    }
    return nats;
}
static void test_eval(const char *dir) {
    char *txt = at("eval.txt"), *bin = at("eval.bin");
    write_text(txt, args("%s\n<|endoftext|>\n%s\n<|endoftext|>\n%s", story[0], story[1], story[3]));
    Tokenizer *tok = tokenizer_load(dir);
    ops_select("cpu", "auto", PREC_F32);
    Model *m = model_load(dir, false);
    Ids ids = {0};
    Docs *docs = docs_open((const char *[]){txt}, 1);
    size_t n, bytes = 0, documents = 0;
    for (const char *text; (text = docs_next(docs, &n)); bytes += n, documents++) {
        ids_add(&ids, tokenizer_eos(tok));
        tokenizer_encode(tok, text, n, false, &ids);
    }
    docs_close(docs);
    const struct { int T, stride; } cases[] = {{256, 128}, {16, 4}, {16, 16}, {1, 1}, {33, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double want = direct_nats(m, ids.v, ids.n, tokenizer_eos(tok), (size_t)cases[i].T, (size_t)cases[i].stride);
        Run r = run_well(NULL, args("--model|%s|--eval|%s|--context|%d|--stride|%d|--json|--quiet", dir, txt,
                                    cases[i].T, cases[i].stride));
        cJSON *j = cJSON_Parse(r.out.data);
        double got = json_number(j, "nats_per_token"), per_token = want / (double)(ids.n - 1);
        CHECK(fabs(got - per_token) < 1e-5, "%s --eval, context %d, stride %d: %.7f nats/token, by hand %.7f",
              config_model_type(&m->cfg), cases[i].T, cases[i].stride, got, per_token);
        CHECK(json_number(j, "tokens") == (double)(ids.n - 1) && json_number(j, "bytes") == (double)bytes &&
              json_number(j, "documents") == (double)documents && documents == 3,
              "it counts %zu tokens, %zu documents, %zu bytes", ids.n - 1, documents, bytes);
        CHECK(fabs(json_number(j, "perplexity") - exp(per_token)) < 1e-4 * exp(per_token) &&
              fabs(json_number(j, "bits_per_byte") - want / log(2) / (double)bytes) < 1e-4,
              "and its perplexity and bits per byte belong together");
        cJSON_Delete(j);
        run_free(&r);
    }
    /* The same as a shard of tokens, each document followed by its end. */
    Buf shard = {0};
    int32_t header[256] = {20240520, 1, (int32_t)ids.n};
    buf_add(&shard, header, sizeof header);
    for (size_t i = 0; i < ids.n; i++) buf_add(&shard, (uint16_t[]){(uint16_t)ids.v[(i + 1) % ids.n]}, 2);
    file_write(bin, shard.data, shard.len);
    Run text = run_well(NULL, args("--model|%s|--eval|%s|--context|20|--quiet", dir, txt));
    Run tokens = run_well(NULL, args("--model|%s|--eval|%s|--context|20|--quiet", dir, bin));
    CHECK(!strcmp(text.out.data, tokens.out.data) && strstr(text.out.data, "3 documents; context 20, stride 10"),
          "a shard of the same tokens has the same loss: %.*s", (int)text.out.len - 1, text.out.data);
    BAD(1, "--stride 21 passes the context of 20", args("--model|%s|--eval|%s|--context|20|--stride|21", dir, txt));
    BAD(1, "cannot be mixed", args("--model|%s|--eval|%s|%s", dir, txt, bin));
    ((uint16_t *)(void *)(shard.data + sizeof header))[3] = 60000;
    file_write(bin, shard.data, shard.len);
    BAD(1, "token 3 is 60000", args("--model|%s|--eval|%s", dir, bin));
    run_free(&text), run_free(&tokens);
    buf_free(&shard);
    ids_free(&ids);
    model_free(m);
    tokenizer_free(tok);
    free(txt), free(bin);
}

/* ---- looking inside --------------------------------------------------------------------------------------------- */
static void test_logits_and_attention(const char *dir) {
    enum { B = 2, T = 9 };
    int32_t rows[B][T] = {{5, 6, 7, 8, 9, 10, 11, 12, 13}, {100, 0, 100, 0, 50, 51, 52, 5, 6}};
    char *ids = at("rows.json"), *out = at("rows.safetensors"), *att = at("att.safetensors");
    write_text(ids, "[[5,6,7,8,9,10,11,12,13],\n [100,0,100,0,50,51,52,5,6]]");
    Run r = run_well(NULL, args("--model|%s|--logits|%s|--logits-out|%s|--attention-out|%s|--layer|1", dir, ids, out,
                                att));
    ops_select("cpu", "auto", PREC_F32);
    Model *m = model_load(dir, false);
    const Config *c = &m->cfg;
    size_t V = (size_t)c->V, H = (size_t)c->H, K = (size_t)c->K, D = (size_t)c->D;
    Tensors *t = tensors_open(out);
    const Tensor *logits = tensors_get(t, "logits", 3, (size_t[]){B, T, V});
    float *got = xmalloc(logits->bytes);
    tensor_to_f32(logits, got);
    for (size_t b = 0; b < B; b++) {
        float *want = direct_logits(m, rows[b], T, 0);
        const char *what = args("%s: row %zu of --logits-out", config_model_type(c), b);
        CHECK_CLOSE(what, got + b * T * V, want, T * V, rounding(want, T * V), 1e-5);
        free(want);
    }
    tensors_close(t);
    /* Attention of layer 1, from its q and k in double. */
    t = tensors_open(att);
    float *probs = xmalloc(H * T * T * sizeof(float)), *want = xcalloc(H * T * T, sizeof(float));
    tensor_to_f32(tensors_get(t, "attention", 3, (size_t[]){H, T, T}), probs);
    Acts *a = acts_new(m, 1, T, T, true, false);
    forward(m, a, &(Batch){.B = 1, .T = T, .tokens = rows[0]});
    float *q = xmalloc(T * H * D * sizeof *q), *k = xmalloc(T * K * D * sizeof *k);
    op.act_to_host(q, a->layer[1].q, T * H * D);
    op.act_to_host(k, a->layer[1].k, T * K * D);
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < T; i++) {
            double p[T], sum = 0;
            for (size_t s = 0; s <= i; s++) {
                double dot = 0;
                for (size_t d = 0; d < D; d++)
                    dot += (double)q[(i * H + h) * D + d] * (double)k[(s * K + h * K / H) * D + d];
                sum += p[s] = exp(dot / sqrt((double)D));
            }
            for (size_t s = 0; s <= i; s++) want[(h * T + i) * T + s] = (float)(p[s] / sum);
        }
    CHECK_CLOSE(args("%s: --attention-out of layer 1", config_model_type(c)), probs, want, H * T * T, 1e-6, 1e-5);
    acts_free(a);
    tensors_close(t);
    model_free(m);
    free(got), free(probs), free(want), free(q), free(k), free(ids), free(out), free(att);
    run_free(&r);
}

static void test_compare_and_bench(void) {
    Run r = run_well(NULL, args("--model|%s|--compare|plain,cpu|--prompt|The river|--json", llama_dir));
    cJSON *j = cJSON_Parse(r.out.data), *layers = cJSON_GetObjectItem(j, "layers"), *one;
    CHECK(cJSON_GetArraySize(layers) == 6, "--compare shows the embedding, 3 layers, the final norm, the logits");
    double worst = 0, largest = 0;
    cJSON_ArrayForEach(one, layers) {
        worst = fmax(worst, json_number(one, "relative"));
        largest = fmax(largest, json_number(one, "largest"));
    }
    CHECK(worst < 1e-5 && largest > 0.1, "plain and the best instruction set agree within %.2g", worst);
    CHECK(json_number(j, "same_next_token") == json_number(j, "tokens"), "and in every next token");
    cJSON_Delete(j);
    Run same = run_well(NULL, args("--model|%s|--compare|plain,plain|--json", gpt2_dir));
    CHECK(strstr(same.out.data, "\"relative\":0}],\"same_next_token\":64"), "a set against itself has no difference");
    Run bf16 = run_well(NULL, args("--model|%s|--compare|cpu:f32,cpu:bf16|--prompt|The river", gpt2_dir));
    CHECK(strstr(bf16.out.data, "layer 2") && strstr(bf16.out.data, "likeliest next token"), "--compare as a table");
    Run gpu = run(NULL, args("--model|%s|--compare|cpu,cuda|--precision|f32", llama_dir));
    const char *said = gpu.code ? gpu.err.data : gpu.out.data;     /* a table, or why there is none */
    CHECK(gpu.code < 2 && strstr(said, gpu.code ? "--device cuda" : "likeliest next token"), "--compare cpu,cuda: %.*s",
          (int)strcspn(said, "\n"), said);
    run_free(&r), run_free(&same), run_free(&bf16), run_free(&gpu);

    for (int i = 0; i < 2; i++) {
        char *config = path_join(llama_dir, "config.json");
        r = run_well(NULL, i ? args("--config|%s|--bench|--n|8|--quiet", config)
                             : args("--model|%s|--bench|--n|8", gpt2_dir));
        j = cJSON_Parse(r.out.data);
        static const char *const keys[] = {
            "prefill_tokens_per_s", "prefill_gflops", "peak_gflops", "prefill_share", "decode_tokens_per_s",
            "decode_gb_per_s", "peak_gb_per_s", "decode_share", "weight_bytes", "cache_bytes", "work_bytes"};
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            if (!(json_number(j, keys[k]) > 0)) CHECK(false, "--bench: %s is %g", keys[k], json_number(j, keys[k]));
        CHECK(json_number(j, "decode_tokens") == 8 && json_number(j, "prefill_tokens") == (i ? 512 : 256) &&
              strchr(r.out.data, '\n') == r.out.data + r.out.len - 1, "--bench%s: one JSON line",
              i ? " on a config alone" : "");
        CHECK(i ? !r.err.len : strstr(r.err.data, "prefill") != NULL, "and a table on stderr unless --quiet");
        cJSON_Delete(j);
        run_free(&r);
        free(config);
    }
}

/* auto takes bf16 for BF16 weights where the CPU multiplies bf16, and f32 elsewhere. */
static void test_precision(void) {
    const char *dir = model_make("llama", "bf16", 64, DT_BF16);
    char *txt = at("precision.txt");
    write_text(txt, story[0]);
    ops_select("cpu", "auto", PREC_F32);
    bool native = !strcmp(op.name, "avx512bf16");
    const struct { const char *dir, *extra, *want; } cases[] = {
        {dir, "", native ? "bf16" : "f32"}, {dir, "|--isa|plain", "f32"}, {dir, "|--precision|f32", "f32"},
        {llama_dir, "", "f32"}, {llama_dir, "|--precision|bf16", "bf16"}};
    double loss[5];
    for (int i = 0; i < 5; i++) {
        Run r = run_well(NULL, args("--model|%s|--eval|%s|--json|--quiet%s", cases[i].dir, txt, cases[i].extra));
        CHECK(strstr(r.out.data, args("\"precision\":\"%s\"", cases[i].want)), "%s weights%s: %s",
              i < 3 ? "BF16" : "F32", cases[i].extra, cases[i].want);
        cJSON *j = cJSON_Parse(r.out.data);
        loss[i] = json_number(j, "nats_per_token");
        cJSON_Delete(j);
        run_free(&r);
    }
    CHECK(fabs(loss[1] - loss[2]) < 1e-5 && fabs(loss[3] - loss[4]) < 0.05 && loss[3] != loss[4],
          "losses: %.6f %.6f in f32; %.6f against %.6f in bf16", loss[1], loss[2], loss[3], loss[4]);
    free(txt);
    free((char *)(uintptr_t)dir);
}

/* ---- the faster ways: guesses, a kept prompt, many prompts ------------------------------------------------------- */
static char *ids_of(const Run *r) {                                /* the first answer's "ids":[...] */
    const char *ids = strstr(r->out.data ? r->out.data : "", "\"ids\":");
    return ids ? strf("%.*s", (int)strcspn(ids, "]"), ids) : xstrdup("no ids");
}
/* Each must write what the plain run writes: greedy, where ties and near-ties decide, and sampled. */
static void test_faster_ways(const char *dir, const char *draft_dir, const char *cache) {
    static const char *const kinds[] = {"0", "1"};
    const char *guide = "the river and the fox the river and the fox the river";
    size_t n_right = 0, n_guessed = 0;
    for (int k = 0; k < 2; k++) {
        const char *base = args("--model|%s|--prompt|%s|--n|40|--ignore-eos|--json|--temperature|%s|--kv-cache|%s",
            dir, guide, kinds[k], cache);
        Run plain = run_well(NULL, base);
        char *want = ids_of(&plain);
        static const int most[] = {1, 4, 7};
        for (int i = 0; i < 9; i++) {
            const char *draft = i < 3 ? "lookup" : i < 6 ? draft_dir : dir;
            Run r = run_well(NULL, args("%s|--draft|%s|--draft-tokens|%d|--threads|%d", base, draft, most[i % 3],
                1 + i % 2));
            char *got = ids_of(&r);
            CHECK(!strcmp(got, want), "--draft %s --draft-tokens %d, temperature %s, --kv-cache %s: the plain run's "
                                      "ids",
                  i < 3 ? "lookup" : i < 6 ? "another model" : "the model itself", most[i % 3], kinds[k], cache);
            const char *says = strstr(r.err.data, "; ");           /* "prompt ...; N of M guesses right; ..." */
            size_t right = 0, guessed = 0;
            if (says && sscanf(says, "; %zu of %zu guesses", &right, &guessed) == 2 && i >= 6)
                CHECK(right == guessed && guessed > 10, "what guesses is the model itself: %zu of %zu right", right,
                    guessed);
            else if (i >= 6) CHECK(false, "no guesses were counted: %s", r.err.data);
            n_right += right, n_guessed += guessed;
            free(got);
            run_free(&r);
        }
        free(want);
        run_free(&plain);
    }
    CHECK(n_guessed > n_right, "wrong guesses were among them: %zu of %zu right", n_right, n_guessed);

    /* A prompt's cache: whole, shared in part, not at all. */
    char *kept = at(args("prompt.%s", cache));
    static const char *const prompts[] = {"The old fox went to the river.", "The old fox went to the river.",
                                          "The old fox went to the boat", "a b c"};
    for (int i = 0; i < 4; i++) {
        const char *base = args("--model|%s|--prompt|%s|--n|12|--ignore-eos|--json|--kv-cache|%s", dir, prompts[i],
            cache);
        Run plain = run_well(NULL, base), r = run_well(NULL, args("%s|--prompt-cache|%s", base, kept));
        const char *says = strstr(r.err.data, "; ");
        size_t from_file = 99, n_prompt = 0;
        if (says) sscanf(says, "; %zu of them", &from_file);
        sscanf(r.err.data, "prompt %zu", &n_prompt);
        size_t want = i == 0 || i == 3 ? 0 : i == 1 ? n_prompt - 1 : 1;
        bool right = i == 2 ? from_file > 1 && from_file < n_prompt - 1 : i == 3 ? from_file <= 1 : from_file == want;
        CHECK(!strcmp(plain.out.data, r.out.data) &&
            right, "--prompt-cache, prompt %d, --kv-cache %s: the same line, %zu of %zu tokens "
              "from the file", i, cache, from_file, n_prompt);
        run_free(&plain), run_free(&r);
    }
    bool is_i8 = !strcmp(cache, "int8");
    BAD(1, is_i8 ? "keeps keys and values in I8, this run in F32" : "keeps keys and values in F32, this run in I8",
        args("--model|%s|--prompt|x|--prompt-cache|%s|--quiet|--kv-cache|%s", dir, kept, is_i8 ? "auto" : "int8"));
    BAD(1, "made with another model", args("--model|%s|--prompt|x|--prompt-cache|%s|--quiet", draft_dir, kept));
    size_t n;
    char *bytes = file_read(kept, &n);
    file_write(kept, bytes, n / 2);
    BAD(1, "truncated", args("--model|%s|--prompt|x|--prompt-cache|%s|--quiet", dir, kept));
    file_write(kept, "no", 2);
    BAD(1, kept, args("--model|%s|--prompt|x|--prompt-cache|%s|--quiet", dir, kept));
    BAD(1, "/nowhere/", args("--model|%s|--prompt|x|--prompt-cache|/nowhere/cache|--quiet", dir));
    free(bytes);

    /* Many prompts: any number of rows, the answers of one at a time, in order. */
    char *file = at("prompts.jsonl");
    Buf lines = {0};
    for (int i = 0; i < 13; i++)
        buf_fmt(&lines, "{\"prompt\": \"%.*s\"}\n%s", 1 + 7 * (i % 5), "The old fox went to the river and saw",
            i == 6 ? "\n" : "");
    file_write(file, lines.data, lines.len);
    for (int k = 0; k < 2; k++) {
        const char *base = args("--model|%s|--batch|%s|--n|20|--temperature|%s|--kv-cache|%s", dir, file, kinds[k],
            cache);
        Run one = run_well(NULL, args("%s|--batch-size|1", base));
        size_t n_lines = 0, in_order = 0;
        for (const char *line = one.out.data, *end; (end = strchr(line, '\n')); line = end + 1, n_lines++)
            in_order += !strncmp(line, args("{\"line\":%zu,", n_lines + (n_lines > 6 ? 2 : 1)), strlen("{\"line\":1"));
        CHECK(n_lines == 13 && in_order == 13, "--batch: %zu answers, %zu with their line's number", n_lines, in_order);
        static const int rows[] = {2, 5, 8};
        for (int i = 0; i < 3; i++) {
            Run r = run_well(NULL, args("%s|--batch-size|%d", base, rows[i]));
            CHECK(!strcmp(r.out.data, one.out.data), "--batch-size %d, temperature %s: the bytes of one at a time",
                rows[i], kinds[k]);
            run_free(&r);
        }
        /* The first prompt alone, where no random number has a say. */
        Run alone = run_well(NULL, args("--model|%s|--prompt|T|--n|20|--temperature|0|--json|--kv-cache|%s", dir,
            cache));
        char *want = ids_of(&alone), *got = ids_of(&one);
        if (!k) CHECK(!strcmp(want, got) && strlen(want) > 20, "and of --prompt");
        free(want), free(got);
        run_free(&alone), run_free(&one);
    }
    Run empty = run_well("{\"prompt\":\"x\"}", args("--model|%s|--batch|-|--n|3|--quiet", dir));
    CHECK(strstr(empty.out.data, "{\"line\":1,"), "--batch - reads stdin");
    run_free(&empty);
    static const struct { const char *text, *message; } mistakes[] = {
        {"", "no prompt in it"}, {"{\"prompt\":\"a\"}\n{", "line 2: not JSON"},
            {"{\"prompt\":\"\"}", "line 1: neither"},
        {"{\"prompt\":3}", "line 1: neither"}, {"{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", "line 1: "}};
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        write_text(file, mistakes[i].text);
        BAD(1, mistakes[i].message, args("--model|%s|--batch|%s|--template|plain", dir, file));
    }
    write_text(file, "{\"prompt\":\"The old fox went\"}");
    BAD(1, "line 1: the prompt has", args("--model|%s|--batch|%s|--context|3", dir, file));
    BAD(1, "No such file", args("--model|%s|--batch|/nowhere/p.jsonl", dir));
    BAD(2, "one run each", args("--model|%s|--batch|%s|--bench", dir, file));
    BAD(2, "--batch has its prompts in a file", args("--model|%s|--batch|%s|--prompt|x", dir, file));
    BAD(2, "--batch-size goes with --batch", args("--model|%s|--batch-size|2", dir));
    BAD(2, "--prompt-cache goes with --prompt", args("--model|%s|--prompt-cache|%s", dir, kept));
    BAD(2, "--draft goes with --prompt", args("--model|%s|--draft|lookup|--bench", dir));
    BAD(2, "--draft-tokens 8 is out of range", args("--model|%s|--prompt|x|--draft|lookup|--draft-tokens|8", dir));
    BAD(1, "neither \"lookup\" nor a model", args("--model|%s|--prompt|x|--draft|/nowhere|--quiet", dir));
    buf_free(&lines);
    free(file), free(kept);
}

/* An int8 cache: what it takes, and what it costs. */
static void test_small_cache(const char *dir) {
    Config c = config_read(dir);
    double bytes[2], kl, heads = 2.0 * c.L * c.K, slots = 0;
    for (int i = 0; i < 2; i++) {
        Run r = run_well(NULL, args("--model|%s|--bench|--n|8|--quiet|--kv-cache|%s", dir, i ? "int8" : "auto"));
        cJSON *j = cJSON_Parse(r.out.data);
        bytes[i] = json_number(j, "cache_bytes");
        slots = json_number(j, "prefill_tokens");
        cJSON_Delete(j);
        run_free(&r);
    }
    CHECK(bytes[0] == heads * slots * 4 * c.D && bytes[1] == heads * slots * (c.D + 4),
        "--kv-cache int8: %.0f bytes instead of %.0f",
          bytes[1], bytes[0]);
    char *txt = at("cache.txt");
    write_text(txt, args("%s\n%s\n%s", story[0], story[1], story[3]));
    Run r = run_well(NULL, args("--model|%s|--eval|%s|--context|64|--json|--kv-cache|int8|--reference|%s", dir, txt,
        dir));
    cJSON *j = cJSON_Parse(r.out.data);
    kl = json_number(j, "kl");
    CHECK(kl > 0 && kl < 2e-3, "--eval --kv-cache int8: a KL divergence of %.2g from the plain cache", kl);
    cJSON_Delete(j);
    run_free(&r);
    BAD(2, "nothing is kept here", args("--model|%s|--prompt|x|--attention-out|%s|--kv-cache|int8", dir, txt));
    free(txt);
}

/* ---- mistakes --------------------------------------------------------------------------------------------------- */
static void test_mistakes(void) {
    char *f = at("bad.json"), *out = at("bad.safetensors"), *txt = at("empty.txt");
    const char *with_ids = xstrdup(args("--model|%s|--logits|%s|--logits-out|%s", gpt2_dir, f, out));
    BAD(1, "no such directory", "--model|/nowhere/model|--prompt|x");
    BAD(1, "the prompt is empty", args("--model|%s|--prompt|", gpt2_dir));
    BAD(1, "the prompt is empty", args("--model|%s|--prompt|-", gpt2_dir));
    BAD(1, "no room for an answer", args("--model|%s|--prompt|The old fox went|--context|3", gpt2_dir));
    BAD(1, "this model has 256 positions", args("--model|%s|--prompt|x|--context|257", gpt2_dir));
    BAD(2, "--n -1 is out of range", args("--model|%s|--prompt|x|--n|-1", gpt2_dir));
    BAD(2, "--n wants a whole number", args("--model|%s|--prompt|x|--n|many", gpt2_dir));
    BAD(2, "--temperature -1 is out of range", args("--model|%s|--temperature|-1", gpt2_dir));
    BAD(2, "--top-p 2 is out of range", args("--model|%s|--top-p|2", gpt2_dir));
    BAD(2, "--samples 0 is out of range", args("--model|%s|--samples|0", gpt2_dir));
    BAD(2, "did you mean --prompt", args("--model|%s|--promt|x", gpt2_dir));
    BAD(2, "one run each", args("--model|%s|--bench|--eval|%s", gpt2_dir, txt));
    BAD(2, "--logits wants --logits-out", args("--model|%s|--logits|%s", gpt2_dir, f));
    BAD(2, "--logits-out wants --logits", args("--model|%s|--logits-out|%s", gpt2_dir, out));
    BAD(2, "--attention-out wants", args("--model|%s|--attention-out|%s", gpt2_dir, out));
    BAD(2, "it goes with --bench", args("--config|%s", gpt2_dir));
    BAD(2, "--stride goes with --eval", args("--model|%s|--stride|3", gpt2_dir));
    BAD(1, "No such file", "--config|/nowhere/config.json|--bench");
    BAD(2, "two names", args("--model|%s|--compare|cpu", gpt2_dir));
    BAD(2, "\"gpu\" is none of", args("--model|%s|--compare|cpu,gpu", gpt2_dir));
    BAD(2, "a precision is f32 or bf16", args("--model|%s|--compare|cpu,cpu:f16", gpt2_dir));
    BAD(1, "this model has layers 0 to 2", args("--model|%s|--prompt|x|--attention-out|%s|--layer|3", gpt2_dir, out));
    BAD(1, "No such file", args("--model|%s|--eval|/nowhere/text.txt", gpt2_dir));
    write_text(txt, "");
    BAD(1, "no text", args("--model|%s|--eval|%s", gpt2_dir, txt));
    BAD(1, "No such file", with_ids);
    static const struct { const char *text, *message; } tables[] = {
        {"[[1,2", "not a JSON array: broken"},        {"{\"ids\":[[1]]}", "not a JSON array"},
        {"[]", "not a JSON list of lists"},           {"[[1,2]] [[3,4]]", "something follows it"},
        {"[1,2]", "row 0 is not a list"},             {"[[]]", "row 0 is empty"},
        {"[[1,2],[3]]", "rows must have one length"}, {"[[1,-2]]", "row 0, place 1"},
        {"[[1],[2.5]]", "row 1, place 0"},            {"[[999999]]", "whole numbers from 0 to"},
        {"[[\"a\"]]", "row 0, place 0"},              {"[[1e300]]", "row 0, place 0"}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        write_text(f, tables[i].text);
        BAD(1, tables[i].message, with_ids);
    }
    write_text(f, "[[1,2,3,4]]");
    BAD(1, "4 tokens do not fit the context of 3", args("%s|--context|3", with_ids));
    BAD(1, "/nowhere/", args("--model|%s|--logits|%s|--logits-out|/nowhere/x.safetensors", gpt2_dir, f));
    Run help = run_well(NULL, "--help");
    CHECK(strstr(help.out.data, "--repetition-penalty") && strstr(help.out.data, "--seed"), "--help lists the options");
    run_free(&help);
    free((char *)(uintptr_t)with_ids), free(f), free(out), free(txt);
}

int main(int argc, char **argv) {
    (void)argc;
    char *self = xstrdup(argv[0]), *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    infer_path = path_join(slash ? self : ".", "infer");
    free(self);
    if (!file_exists(infer_path)) die("%s: not built; run make", infer_path);
    ops_select("cpu", "auto", PREC_F32);
    llama_dir = model_make("llama", "llama", 2048, DT_F32);
    gpt2_dir = model_make("gpt2", "gpt2", 256, DT_F32);
    test_three_ways(llama_dir, "auto");
    test_three_ways(llama_dir, "plain");
    test_three_ways(gpt2_dir, "auto");
    test_same_text();
    test_utf8();
    test_greedy();
    test_stop_and_settings();
    test_eval(llama_dir);
    test_eval(gpt2_dir);
    test_logits_and_attention(llama_dir);
    test_logits_and_attention(gpt2_dir);
    test_compare_and_bench();
    test_faster_ways(llama_dir, gpt2_dir, "auto");
    test_faster_ways(llama_dir, gpt2_dir, "int8");
    test_small_cache(llama_dir);
    test_small_cache(gpt2_dir);
    test_precision();
    test_mistakes();
    free(infer_path), free((char *)(uintptr_t)llama_dir), free((char *)(uintptr_t)gpt2_dir);
    return test_end();
}
