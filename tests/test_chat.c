/* test_chat.c - conversations: the ids of every template, what is to be learnt, and ./infer --chat from outside.
 *
 * The ids in [formats] are literals of the official libraries on the tokenizers that this program trains: transformers
 * 5.23 apply_chat_template with the templates as published, and for GLM the released build_chat_input. Real
 * vocabularies are checked by `make conformance`. The model of [talking] is random: its words mean nothing, but they
 * must be the words that the same ids give in a cache that was never used before.
 *
 * Run: make tests; build/gcc/test_chat            (seconds; looks for infer beside itself) */
#include "chat.h"
#include "model.h"
#include "test.h"
#include <cjson/cJSON.h>

/* ---- tokenizers ------------------------------------------------------------------------------------------------- */
static const char *const story[] = {"Hello there, how are you? Be brief. Bye, and thank you. What is the weather in "
                                    "Rome?",
                                    "你好，你是谁？我是一个模型。", "user system assistant user system assistant tool round"};
static const char *story_next(void *state, size_t *n) {
    size_t *i = state;
    if (*i == sizeof story / sizeof *story) return NULL;
    *n = strlen(story[*i]);
    return story[(*i)++];
}
/* The first special token is both BOS and EOS. */
static const char *specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
                                 "<|end_header_id|>", "<|eot_id|>", "[gMASK]", "<sop>", "<eop>", "sop", "<|system|>",
                                 "<|user|>", "<|assistant|>", "<|observation|>", "[INST]", "[/INST]"};
enum { N_SPECIALS = sizeof specials / sizeof *specials, N_INST = 2 };   /* the last two: newer Mistral alone */

static char *tokenizer_make(const char *name, int n_specials) {
    char *dir = path_join(test_tmpdir(), name);
    make_dirs(dir);
    size_t state = 0;
    tokenizer_train((TextSource){story_next, &state, 300}, "llama3", n_specials + 256 + 40, 1, specials, n_specials,
                    dir);
    return dir;
}


/* ---- [formats] -------------------------------------------------------------------------------------------------- */
/* The conversation that the literals are of, with the last question open; `learn` is with OK as its answer. */
static Chat example(bool answered) {
    Chat c = {0};
    chat_add(&c, ROLE_SYSTEM, "Be brief.", NULL);
    chat_add(&c, ROLE_USER, " 你好，who? ", NULL);
    chat_add(&c, ROLE_ASSISTANT, "Hello.\n", NULL);
    chat_add(&c, ROLE_USER, "Bye", NULL);
    if (answered) chat_add(&c, ROLE_ASSISTANT, "OK", NULL);
    return c;
}
/* mistral: the blank in front of the published template's [INST] is the one that SentencePiece puts before a text;
 * these tokenizers put none, so neither has the literal. */
static const struct { const char *name; bool inst; size_t n; const char *learn; int *ids; } formats[] = {
    {"chatml", false, 54, "Hello.\n<|im_end|>OK<|im_end|>",
     (int[]){
      1, 280, 294, 212, 47, 82, 234, 305, 309, 27, 2, 212, 1, 282, 212, 234, 286, 175, 112, 135, 288, 248,
      100, 308, 44, 234, 2, 212, 1, 78, 279, 296, 212, 300, 89, 89, 92, 27, 212, 2, 212, 1, 282, 212, 47,
      102, 82, 2, 212, 1, 78, 279, 296, 212}},
    {"llama3", false, 58, "Hello.<|eot_id|>OK<|eot_id|>",
     (int[]){
      0, 3, 280, 294, 4, 212, 212, 47, 82, 234, 305, 309, 27, 5, 3, 282, 4, 212, 212, 286, 175, 112, 135,
      288, 248, 100, 308, 44, 5, 3, 78, 279, 296, 4, 212, 212, 300, 89, 89, 92, 27, 5, 3, 282, 4, 212, 212,
      47, 102, 82, 5, 3, 78, 279, 296, 4, 212, 212}},
    {"llama2", false, 77, " Hello. <|endoftext|> OK <|endoftext|>",
     (int[]){
      0, 72, 54, 59, 64, 65, 74, 234, 41, 41, 64, 70, 64, 43, 43, 212, 47, 82, 234, 305, 309, 27, 212, 41,
      41, 28, 64, 70, 64, 43, 43, 212, 212, 234, 286, 175, 112, 135, 288, 248, 100, 308, 44, 234, 72, 28,
      54, 59, 64, 65, 74, 234, 300, 89, 89, 92, 27, 234, 0, 0, 72, 54, 59, 64, 65, 74, 289, 102, 82, 234,
      72, 28, 54, 59, 64, 65, 74}},
    {"mistral", false, 59, " Hello.\n<|endoftext|> OK<|endoftext|>",
     (int[]){
      0, 72, 54, 59, 64, 65, 74, 289, 82, 234, 305, 309, 27, 212, 212, 234, 286, 175, 112, 135, 288, 248,
      100, 308, 44, 234, 234, 72, 28, 54, 59, 64, 65, 74, 234, 300, 89, 89, 92, 27, 212, 0, 72, 54, 59, 64,
      65, 74, 289, 102, 82, 234, 72, 28, 54, 59, 64, 65, 74}},
    {"mistral", true, 33, "Hello.<|endoftext|>OK<|endoftext|>",
     (int[]){
      0, 14, 236, 288, 177, 114, 137, 290, 250, 102, 310, 46, 236, 15, 302, 91, 91, 94, 29, 0, 14, 49, 84,
      236, 307, 311, 29, 214, 214, 49, 104, 84, 15}},
    {"chatglm3", false, 37, "\nHello.\n<|user|>\nOK<|endoftext|>",
     (int[]){
      6, 9, 10, 212, 47, 82, 234, 305, 309, 27, 11, 212, 234, 286, 175, 112, 135, 288, 248, 100, 308, 44,
      234, 12, 212, 300, 89, 89, 92, 27, 212, 11, 212, 47, 102, 82, 12}},
    {"glm4", false, 37, "\nHello.\n<|user|>\nOK<|endoftext|>",
     (int[]){
      6, 7, 10, 212, 47, 82, 234, 305, 309, 27, 11, 212, 234, 286, 175, 112, 135, 288, 248, 100, 308, 44,
      234, 12, 212, 300, 89, 89, 92, 27, 212, 11, 212, 47, 102, 82, 12}},
    {"chatglm1", false, 63, "OK<eop>",
     (int[]){
      72, 63, 274, 91, 81, 234, 29, 74, 212, 179, 259, 120, 288, 262, 234, 286, 175, 112, 135, 288, 248,
      100, 308, 44, 234, 212, 177, 269, 256, 288, 262, 300, 89, 89, 92, 27, 212, 212, 72, 63, 274, 91, 81,
      234, 30, 74, 212, 179, 259, 120, 288, 262, 47, 102, 82, 212, 177, 269, 256, 288, 262, 6, 7}},
    {"chatglm2", false, 68, "OK<|endoftext|>",
     (int[]){
      6, 9, 72, 63, 274, 91, 81, 234, 30, 74, 212, 212, 179, 259, 120, 288, 262, 234, 286, 175, 112, 135,
      288, 248, 100, 308, 44, 234, 212, 212, 177, 269, 256, 288, 262, 300, 89, 89, 92, 27, 212, 212, 212,
      72, 63, 274, 91, 81, 234, 31, 74, 212, 212, 179, 259, 120, 288, 262, 47, 102, 82, 212, 212, 177, 269,
      256, 288, 262}},
    {"plain", false, 29, "Hello.\n<|endoftext|>OK<|endoftext|>",
     (int[]){
      0, 47, 82, 234, 305, 309, 27, 212, 234, 286, 175, 112, 135, 288, 248, 100, 308, 44, 234, 300, 89, 89,
      92, 27, 212, 0, 47, 102, 82}},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static char *dirs[2];
static Tokenizer *toks[2];
static ChatTemplate template_of(size_t i) {
    /* chatml's published template says what stands for a missing system message; here it has one. */
    return chat_template(dirs[formats[i].inst], toks[formats[i].inst], formats[i].name);
}
/* The ids to be learnt, as text. */
static Buf learnt(const Tokenizer *tok, const Ids *ids, const Buf *targets) {
    Buf b = {0};
    buf_str(&b, "");
    for (size_t i = 0; i < ids->n; i++)
        if (targets->data[i]) tokenizer_decode(tok, ids->v + i, 1, false, &b);
    return b;
}

static void test_formats(void) {
    for (size_t i = 0; i < N_FORMATS; i++) {
        ChatTemplate t = template_of(i);
        const Tokenizer *tok = toks[formats[i].inst];
        Chat open = example(false), whole = example(true);
        Ids ids = {0}, all = {0}, plain = {0};
        Buf targets = {0};
        chat_format(&t, tok, &open, true, &ids, NULL);
        size_t same = 0;
        while (same < ids.n && same < formats[i].n && ids.v[same] == formats[i].ids[same]) same++;
        CHECK(same == formats[i].n && ids.n == same, "%s%s: %zu of %zu ids are the official ones", formats[i].name,
              formats[i].inst ? " ([INST] is a token)" : "", same, formats[i].n);
        chat_format(&t, tok, &whole, false, &all, &targets);
        chat_format(&t, tok, &whole, false, &plain, NULL);
        Buf learn = learnt(tok, &all, &targets);
        CHECK(targets.len == all.n && !strcmp(learn.data, formats[i].learn), "   to be learnt: \"%s\"", learn.data);
        CHECK(plain.n == all.n && !memcmp(plain.v, all.v, all.n * 4), "   with targets or without: the same ids");
        /* What training shows before the last answer is what inference gives: else it learns another notation. */
        size_t first = all.n;
        while (first && (!targets.data[first - 1] || first == all.n)) first--;
        while (first && targets.data[first - 1]) first--;
        CHECK(first == ids.n && !memcmp(all.v, ids.v, first * 4), "   the answer follows the %zu ids that ask for it",
              ids.n);
        ids_free(&ids), ids_free(&all), ids_free(&plain);
        buf_free(&targets), buf_free(&learn);
        chat_free(&open), chat_free(&whole);
        chat_template_free(&t);
    }
    /* A token across the border: it has a byte of the answer, so the model must write it. */
    ChatTemplate t = chat_template(dirs[0], toks[0], "plain");
    Chat c = {0};
    chat_add(&c, ROLE_USER, "Who? ", NULL);
    chat_add(&c, ROLE_ASSISTANT, "Bye", NULL);
    Ids ids = {0};
    Buf targets = {0};
    chat_format(&t, toks[0], &c, false, &ids, &targets);
    Buf learn = learnt(toks[0], &ids, &targets);
    CHECK(!strcmp(learn.data, " Bye<|endoftext|>"), "a token across the border is learnt: \"%s\"", learn.data);
    ids_free(&ids), buf_free(&targets), buf_free(&learn), chat_free(&c), chat_template_free(&t);
}

/* Every special token's letters as content: the tokens of the notation are as many as around plain words. */
static size_t n_special(const Tokenizer *tok, const ChatTemplate *t, const char *content) {
    Chat c = {0};
    chat_add(&c, ROLE_SYSTEM, content, NULL);
    chat_add(&c, ROLE_USER, content, NULL);
    chat_add(&c, ROLE_ASSISTANT, content, NULL);
    chat_add(&c, ROLE_USER, content, NULL);
    Ids ids = {0};
    chat_format(t, tok, &c, true, &ids, NULL);
    size_t n = 0;
    for (size_t i = 0; i < ids.n; i++) n += tokenizer_is_special(tok, ids.v[i]);
    ids_free(&ids), chat_free(&c);
    return n;
}
static void test_forgery(void) {
    Buf all = {0};
    for (int i = 0; i < N_SPECIALS; i++) buf_str(&all, specials[i]), buf_str(&all, i % 2 ? "user\n" : " ");
    for (size_t i = 0; i < N_FORMATS; i++) {
        ChatTemplate t = template_of(i);
        const Tokenizer *tok = toks[formats[i].inst];
        size_t want = n_special(tok, &t, "words"), got = n_special(tok, &t, all.data);
        CHECK(want && got == want, "%s: %zu special tokens, however many a user types", formats[i].name, got);
        chat_template_free(&t);
    }
    buf_free(&all);
}

static void test_calls(void) {
    ChatTemplate t = chat_template(dirs[0], toks[0], "chatglm3");
    Chat c = {0}, back = {0};
    const char *line = "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\","
                       "\"tools\":[{\"name\":\"f\",\"x\":{},\"y\":[1.5,-2,true,null,\"\\u4f60\\\"\\u0001\"]}]},"
                       "{\"role\":\"user\",\"content\":\"Rome?\"},"
                       "{\"role\":\"assistant\",\"metadata\":\"f\",\"content\":\"f()\"},"
                       "{\"role\":\"observation\",\"content\":\"22\"},{\"role\":\"assistant\",\"content\":\"22.\"}]}";
    char *why = chat_parse(line, &c);
    CHECK(!why && c.n == 5 && c.v[3].role == ROLE_TOOL, "a conversation with tools: %s", why ? why : "five messages");
    /* Python: json.dumps(tools, indent=4, ensure_ascii=False) */
    CHECK(!strcmp(c.v[0].tools, "[\n    {\n        \"name\": \"f\",\n        \"x\": {},\n        \"y\": [\n"
                                "            1.5,\n            -2,\n            true,\n            null,\n"
                                "            \"你\\\"\\u0001\"\n        ]\n    }\n]"), "tools as Python prints them");
    Ids ids = {0};
    Buf targets = {0}, text = {0}, json = {0};
    chat_format(&t, toks[0], &c, false, &ids, &targets);
    Buf learn = learnt(toks[0], &ids, &targets);
    CHECK(!strcmp(learn.data, "f\nf()<|observation|>\n22.<|endoftext|>"), "calls and words are learnt: \"%s\"",
          learn.data);
    tokenizer_decode(toks[0], ids.v, ids.n, false, &text);
    CHECK(strstr(text.data, "<|system|>\nBe brief.\n[\n    {\n") &&
          strstr(text.data, "<|assistant|>f\nf()<|observation|>\n22"),
          "the call's name stands in the role's line");
    chat_json(&c, 0, &json);
    why = chat_parse(json.data, &back);
    bool same = !why && back.n == c.n;
    for (size_t i = 0; same && i < c.n; i++)
        same = c.v[i].role == back.v[i].role && !strcmp(c.v[i].content, back.v[i].content) &&
               !strcmp(c.v[i].metadata ? c.v[i].metadata : "", back.v[i].metadata ? back.v[i].metadata : "") &&
               !strcmp(c.v[i].tools ? c.v[i].tools : "", back.v[i].tools ? back.v[i].tools : "");
    CHECK(same, "JSON and back: the same messages");
    /* What a model writes. */
    static const struct { const char *text; bool whole, known; size_t words; const char *call, *content; } wrote[] = {
        {"\n", false, false, 0, "", ""},          {"f", false, false, 0, "", ""},
        {"\n 22.\n", true, true, 2, "", "22."},   {"f\nf()\n", true, true, 2, "f", "f()"},
        {"no line", true, true, 0, "", "no line"}, {"", true, true, 0, "", ""}};
    for (size_t i = 0; i < sizeof wrote / sizeof *wrote; i++) {
        size_t words, n_call;
        const char *call;
        bool known = chat_words(&t, wrote[i].text, strlen(wrote[i].text), wrote[i].whole, &words, &call, &n_call);
        bool good = known == wrote[i].known;
        if (known) good &= words == wrote[i].words && n_call == strlen(wrote[i].call) &&
                           !memcmp(call, wrote[i].call, n_call);
        if (wrote[i].whole) {
            Chat one = {0};
            chat_add_answer(&t, &one, wrote[i].text, strlen(wrote[i].text));
            good &= !strcmp(one.v[0].content, wrote[i].content) && !one.v[0].metadata == !*wrote[i].call;
            chat_free(&one);
        }
        CHECK(good, "answer %zu is taken apart", i);
    }
    chat_free(&c), chat_free(&back);
    ids_free(&ids), buf_free(&targets), buf_free(&text), buf_free(&json), buf_free(&learn);
    chat_template_free(&t);
}

static void test_bad_conversations(void) {
    static const struct { const char *json, *why; } bad[] = {
        {"", "not JSON"}, {"{\"messages\":[", "not JSON"}, {"{} x", "not JSON"}, {"[]", "not a conversation"},
        {"{\"messages\":{}}", "not a conversation"}, {"{\"messages\":[]}", "not a conversation"},
        {"{\"messages\":[1]}", "message 1 is no object"}, {"{\"messages\":[{\"content\":\"x\"}]}", "no \"role\""},
        {"{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", "\"king\" is none of"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "\"content\" must be a string"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"metadata\":\"f\"}]}", "the assistant's"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"metadata\":\"a\\nb\"}]}", "one line"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"metadata\":7}]}", "must be a string"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"tools\":[]}]}", "belong to the system message"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Chat c = {0};
        char *why = chat_parse(bad[i].json, &c);
        CHECK(why && strstr(why, bad[i].why) && !c.n, "refused: %s", why ? why : bad[i].json);
        free(why), chat_free(&c);
    }
    static const struct { const char *name; ChatRole roles[3]; size_t n; const char *why; } misfits[] = {
        {"llama2", {ROLE_USER, ROLE_USER}, 2, "must take turns"},
        {"llama2", {ROLE_ASSISTANT}, 1, "must take turns"},
        {"llama2", {ROLE_SYSTEM}, 1, "there must be a user's message"},
        {"mistral", {ROLE_USER, ROLE_TOOL}, 2, "no place for a tool's answer"},
        {"chatglm1", {ROLE_USER, ROLE_SYSTEM}, 2, "only the first message"}};
    for (size_t i = 0; i < sizeof misfits / sizeof *misfits; i++) {
        ChatTemplate t = chat_template(dirs[0], toks[0], misfits[i].name);
        Chat c = {0};
        for (size_t k = 0; k < misfits[i].n; k++) chat_add(&c, misfits[i].roles[k], "x", NULL);
        char *why = chat_problem(&t, &c);
        CHECK(why && strstr(why, misfits[i].why), "refused: %s", why ? why : "nothing");
        free(why), chat_free(&c), chat_template_free(&t);
    }
}

static void write_text(const char *dir, const char *name, const char *text) {
    char *path = path_join(dir, name);
    file_write(path, text, strlen(text));
    free(path);
}
static void test_recognition(void) {
    static const struct { const char *jinja, *name, *system; } known[] = {
        {"{{'<|im_start|>' + m['role']}}", "chatml", NULL},
        {"{{'<|im_start|>system\\nBe good.<|im_end|>\\n'}}", "chatml", "Be good."},
        {"{{'<|im_start|>system\\n' + x + '<|im_end|>'}}{{'<|im_start|>system\\nHi.<|im_end|>'}}", "chatml", "Hi."},
        {"{{'<|start_header_id|>'}}", "llama3", NULL}, {"[INST] <<SYS>>", "llama2", NULL}, {"[INST]", "mistral", NULL},
        {"{{'<|start_header_id|>'}} Cutting Knowledge Date: December 2023", "llama3", ""},
        {"[gMASK]<sop><|user|>", "glm4", NULL}, {"[gMASK]sop<|user|>", "chatglm3", NULL}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        write_text(dirs[0], "chat_template.jinja", known[i].jinja);
        ChatTemplate t = chat_template(dirs[0], toks[0], NULL);
        CHECK(!strcmp(chat_template_name(&t), known[i].name) &&
              (known[i].system ? t.system && !strcmp(t.system, known[i].system) : !t.system),
              "%s is %s, system message: %s", known[i].jinja, chat_template_name(&t), t.system ? t.system : "none");
        chat_template_free(&t);
    }
    write_text(dirs[0], "chat_template.jinja", "{{ '<start_of_turn>' }}");
    CHECK_DIES(chat_template(dirs[0], toks[0], NULL), "choose one with --template chatml|llama2");
    ChatTemplate t = chat_template(dirs[0], toks[0], "llama2");
    CHECK(!strcmp(chat_template_name(&t), "llama2"), "--template wins");
    chat_template_free(&t);
    char *path = path_join(dirs[0], "chat_template.jinja");
    unlink(path), free(path);
    t = chat_template(dirs[0], toks[0], NULL);
    CHECK(!strcmp(chat_template_name(&t), "chatml"), "without a template, the special tokens decide: chatml");
    chat_template_free(&t);
    /* A tokenizer that knows no role: plain, and no other template will do. */
    size_t state = 0;
    char *dir = path_join(test_tmpdir(), "bare");
    make_dirs(dir);
    tokenizer_train((TextSource){story_next, &state, 300}, "llama3", 280, 1, specials, 1, dir);
    Tokenizer *bare = tokenizer_load(dir);
    t = chat_template(dir, bare, NULL);
    CHECK(!strcmp(chat_template_name(&t), "plain"), "and without those: plain");
    CHECK_DIES(chat_template(dir, bare, "chatml"), "template chatml needs the token <|im_start|>");
    chat_template_free(&t), tokenizer_free(bare), free(dir);
}

/* ---- [talking] -------------------------------------------------------------------------------------------------- */
static char *infer, *model_dir;

/* The shell runs ./infer --chat on the model with these options and this input; its stdout, and stderr in *err. */
static char *talk(const char *options, const char *input, int *code, char **err) {
    char *in = path_join(test_tmpdir(), "in"), *out = path_join(test_tmpdir(), "out");
    char *e = path_join(test_tmpdir(), "err");
    file_write(in, input, strlen(input));
    char *command = strf("OMP_NUM_THREADS=1 timeout 100 '%s' --chat --model '%s' --temperature 0 %s <'%s' >'%s' 2>'%s'",
                         infer, model_dir, options, in, out, e);
    int status = system(command);
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    char *said = file_read(out, NULL);
    if (err) *err = file_read(e, NULL);
    free(in), free(out), free(e), free(command);
    return said;
}

static void model_make(void) {
    Config c = config_family_default("llama");
    c.V = tokenizer_vocab(toks[0]);
    c.C = 32, c.L = 3, c.H = 4, c.D = 8, c.F = 48, c.K = 2, c.max_pos = 1000, c.rope_dims = 8, c.init_std = 0.3f;
    c.bos = c.eos[0] = 0, c.n_eos = 1;
    Model *m = model_new(&c, 7);
    model_save(m, dirs[0], DT_F32);
    model_free(m);
    write_text(dirs[0], "chat_template.jinja", "{{'<|im_start|>system\\nBe good.<|im_end|>\\n'}}");
    model_dir = dirs[0];
}
static Ids ids_of(const cJSON *line, const char *key) {
    Ids ids = {0};
    const cJSON *one;
    cJSON_ArrayForEach(one, cJSON_GetObjectItem(line, key)) ids_add(&ids, one->valueint);
    return ids;
}
/* How many of the answer's ids are the argmax of one whole forward over prompt and answer, no cache in it. */
static size_t n_greedy(Model *m, const Ids *prompt, const Ids *answer) {
    size_t T = prompt->n + answer->n, V = (size_t)m->cfg.V, n = 0;
    Ids all = {0};
    for (size_t i = 0; i < prompt->n; i++) ids_add(&all, prompt->v[i]);
    for (size_t i = 0; i < answer->n; i++) ids_add(&all, answer->v[i]);
    Acts *a = acts_new(m, 1, T, T, false, false);
    forward(m, a, &(Batch){.B = 1, .T = T, .tokens = all.v});
    float *row = xmalloc(V * sizeof *row);
    for (size_t i = 0; i < answer->n; i++) {
        op.act_to_host(row, model_logits(m, a, prompt->n + i - 1, 1), V);
        size_t best = 0;
        for (size_t v = 1; v < V; v++) if (row[v] > row[best]) best = v;
        n += best == (size_t)answer->v[i];
    }
    free(row), acts_free(a), ids_free(&all);
    return n;
}
/* Each answer of the run is the one that a fresh start would give; where the conversation goes on, all that was there
 * before it came from the cache. The answers are counted in *n_lines. */
static void check_fresh(const char *what, const char *said, bool goes_on, size_t *n_lines) {
    ops_select("cpu", "auto", PREC_F32);
    Model *m = model_load(model_dir, false);
    char *text = xstrdup(said), *save = NULL;
    size_t n_before = 0;
    *n_lines = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), ++*n_lines) {
        cJSON *j = cJSON_Parse(line);
        Ids prompt = ids_of(j, "prompt_ids"), ids = ids_of(j, "ids");
        int cached = j ? cJSON_GetObjectItem(j, "cached")->valueint : -1;
        size_t good = prompt.n && ids.n ? n_greedy(m, &prompt, &ids) : 0;
        CHECK(ids.n && good == ids.n, "%s, answer %zu: %zu of %zu tokens as from a fresh start", what, *n_lines + 1,
              good, ids.n);
        if (goes_on)
            CHECK(cached + 1 >= (int)n_before && cached < (int)prompt.n, "   %d of %zu ids were in the cache", cached,
                  prompt.n);
        n_before = prompt.n;
        ids_free(&prompt), ids_free(&ids), cJSON_Delete(j);
    }
    free(text), model_free(m);
}

static void test_talk(void) {
    int code;
    size_t n;
    char *err;
    char *said = talk("--json --quiet --n 20", "Hello there, you are what? What is this?\nBye \\\n你好\n/retry\n\nok\n",
        &code,
                      &err);
    CHECK(!code && !*err, "three questions and a retry: exit %d, stderr \"%s\"", code, err);
    check_fresh("a conversation", said, true, &n);
    CHECK(n == 4, "%zu answers", n);
    CHECK(!strstr(said, "> "), "no prompts into a pipe");
    cJSON *first = cJSON_Parse(said);
    Ids prompt = ids_of(first, "prompt_ids");
    Buf text = {0};
    tokenizer_decode(toks[0], prompt.v, prompt.n, false, &text);
    CHECK(!strcmp(text.data, "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\nHello there, you are what? "
                             "What is this?<|im_end|>\n<|im_start|>assistant\n"),
          "the template's own system message is used");
    CHECK(strstr(said, "\"messages\":[{\"role\":\"assistant\",\"content\":\""), "the line has the answer as a message");
    free(said), free(err), buf_free(&text), ids_free(&prompt), cJSON_Delete(first);

    /* Plain output; --system; lines without an answer. */
    said = talk("--n 5 --system 'Be bad.' --quiet", "/reset\n/help\n/foo\nHello\n/reset\n/retry\n/exit\nnot read\n",
        &code,
                &err);
    CHECK(!code && strstr(err, "/foo is no command") && strstr(err, "/save FILE") &&
          strstr(err, "no message to answer yet"), "commands answer on stderr");
    CHECK(*said && said[strlen(said) - 1] == '\n', "one answer, and a newline behind it");
    free(said), free(err);
}

/* The oldest rounds leave, whole; the system message stays. */
static void test_overflow(void) {
    int code;
    size_t n, n_gone = 0;
    char *err, *said = talk("--json --n 24 --context 200 --system 'Stay.'",
                            "aaaa aaaa aaaa\nbbbb bbbb bbbb\ncccc cccc cccc\ndddd dddd dddd\neeee eeee eeee\n"
                            "ffff ffff\n",
                            &code, &err);
    const char *at = err;
    while ((at = strstr(at, "the context of 200 tokens is full"))) n_gone++, at++;
    CHECK(!code && n_gone, "a full context is said aloud, %zu times: %.*s", n_gone, (int)strcspn(err, "\n"), err);
    check_fresh("with a full context", said, false, &n);
    CHECK(n == 6, "%zu answers", n);
    char *last = said, *line = said;
    while ((line = strchr(line, '\n')) && line[1]) last = ++line;
    cJSON *j = cJSON_Parse(last);
    Ids prompt = ids_of(j, "prompt_ids");
    Buf text = {0};
    tokenizer_decode(toks[0], prompt.v, prompt.n, false, &text);
    CHECK(!strncmp(text.data, "<|im_start|>system\nStay.<|im_end|>\n<|im_start|>user\n", 52) && prompt.n <= 200 - 24 &&
          strstr(text.data, "ffff ffff") && !strstr(text.data, "aaaa"),
          "the system's and the last message are there, the first is not: %zu tokens", prompt.n);
    const char *first_user = strstr(text.data, "user\n") + 5;
    CHECK(strchr("bcde", *first_user) && strstr(text.data, "eeee"), "what is left begins with a question: %.4s",
          first_user);
    free(said), free(err), ids_free(&prompt), buf_free(&text), cJSON_Delete(j);
    Buf lengthy = {0};
    for (int i = 0; i < 300; i++) buf_str(&lengthy, "too long ");
    buf_str(&lengthy, "\nHello\n");
    said = talk("--json --n 8 --context 200", lengthy.data, &code, &err);
    check_fresh("behind a message that is too long", said, false, &n);
    CHECK(!code && n == 1 && strstr(err, "the context has 200: too long"), "a message that is too long is refused: %s",
          err);
    free(said), free(err), buf_free(&lengthy);
}

static void test_save_and_load(void) {
    int code;
    char *err, *file = path_join(test_tmpdir(), "talk.jsonl"), *again = path_join(test_tmpdir(), "again.jsonl");
    char *input = strf("/system Be \"odd\".\nHello\n你好\\\nBye\n/save %s\n/reset\nWho?\n/load %s\n/save %s\n"
                       "/save /nowhere/x\n/load /nowhere/x\n/load\nok\n", file, file, again);
    char *said = talk("--json --n 12", input, &code, &err);
    char *one = file_read(file, NULL), *two = file_read(again, NULL);
    CHECK(!code && !strcmp(one, two), "/save, /load, /save: the same file");
    CHECK(!strncmp(one, "{\"messages\":[{\"role\":\"system\",\"content\":\"Be \\\"odd\\\".\"},{\"role\":\"user\","
                        "\"content\":\"Hello\"},", 81) && strstr(one, "\"content\":\"你好\\nBye\""),
          "with all that was said");
    size_t n_sentences = 0;
    for (const char *at = err; (at = strstr(at, "/nowhere/x: No such file")); at++) n_sentences++;
    CHECK(n_sentences == 2 && strstr(err, "/load wants a file"),
          "files that cannot be opened do not end the conversation");
    size_t n;
    check_fresh("with /load", said, false, &n);
    CHECK(n == 4, "%zu answers", n);
    free(said), free(err);

    /* The same conversation non-interactively: the last question gets the answer it got. */
    char *options = strf("--n 12 --messages %s", file);
    said = talk(options, "", &code, &err);
    cJSON *j = cJSON_Parse(said), *kept = cJSON_Parse(one);
    const cJSON *messages = cJSON_GetObjectItem(kept, "messages");
    const char *want = cJSON_GetObjectItem(cJSON_GetArrayItem(messages, 4), "content")->valuestring;
    const cJSON *answer = cJSON_GetArrayItem(cJSON_GetObjectItem(j, "messages"), 0);
    CHECK(!code && answer && !strcmp(cJSON_GetObjectItem(answer, "content")->valuestring, want), "--messages: \"%s\"",
          want);
    cJSON_Delete(j), cJSON_Delete(kept);
    free(said), free(err);
    write_text(test_tmpdir(), "talk.jsonl",
               "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}\n\n{\"messages\":3}\n");
    said = talk(options, "", &code, &err);
    CHECK(code == 1 && strstr(err, "line 3: not a conversation"), "a bad line is named: %s", err);
    free(said), free(err);
    static const struct { const char *options, *why; int code; } bad[] = {
        {"--prompt x", "--prompt is for a text", 2}, {"--bench", "one run each", 2}, {"--template x", "--template", 2},
        {"--messages /nowhere/x", "No such file", 1}, {"--messages -", "no conversation in it", 1},
        {"--n 0", "no room for an answer", 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        said = talk(bad[i].options, "", &code, &err);
        CHECK(code == bad[i].code && strstr(err, bad[i].why), "%s: exit %d, %s", bad[i].options, code, err);
        free(said), free(err);
    }
    free(file), free(again), free(input), free(one), free(two), free(options);
}

int main(int argc, char **argv) {
    (void)argc;
    char *self = xstrdup(argv[0]), *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    infer = path_join(slash ? self : ".", "infer");
    if (!file_exists(infer)) die("%s: not built; run make", infer);
    common.quiet = true;
    ops_select("cpu", "auto", PREC_F32);
    dirs[0] = tokenizer_make("tok", N_SPECIALS - N_INST);
    dirs[1] = tokenizer_make("tok_inst", N_SPECIALS);
    for (int i = 0; i < 2; i++) toks[i] = tokenizer_load(dirs[i]);
    test_formats();
    test_forgery();
    test_calls();
    test_bad_conversations();
    test_recognition();
    model_make();
    test_talk();
    test_overflow();
    test_save_and_load();
    for (int i = 0; i < 2; i++) tokenizer_free(toks[i]), free(dirs[i]);
    free(self), free(infer);
    return test_end();
}
