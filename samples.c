/* samples.c - task data to marked samples, samples to batches.
 *
 * MAP
 *   [samples.row]    one row of a file: what kind is it, and what does it say
 *   [samples.augment] the same question in other words
 *   [samples.read]   files
 *   [samples.split]  held-out samples, classes, a look at some
 *   [samples.batch]  the order of an epoch, packing, batches
 *
 * Refused here: what a template looks like (chat.c), and training. */
#include "samples.h"
#include "dataset.h"
#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ================================================================================================================= *
 * [samples.row] The names that rows use; the first that is there decides. */
static const struct { const char *question, *more, *answer; } pairs[] = {
    {"instruction", "input", "output"}, {"prompt", NULL, "completion"}, {"prompt", NULL, "response"},
    {"question", NULL, "answer"},       {"query", NULL, "response"},    {"input", NULL, "output"},
};
enum { N_PAIRS = sizeof pairs / sizeof *pairs };
/* Who speaks, in ShareGPT's words and everybody's. */
static const struct { const char *name; ChatRole role; } speakers[] = {
    {"human", ROLE_USER},       {"user", ROLE_USER},         {"gpt", ROLE_ASSISTANT}, {"assistant", ROLE_ASSISTANT},
    {"chatgpt", ROLE_ASSISTANT}, {"bing", ROLE_ASSISTANT},   {"bard", ROLE_ASSISTANT}, {"model", ROLE_ASSISTANT},
    {"system", ROLE_SYSTEM},    {"tool", ROLE_TOOL},         {"observation", ROLE_TOOL},
};

/* One row on its way into the set. */
typedef struct {
    const SampleReader *r;
    SampleSet *s;
    const char *where;             /* "file:line" */
    size_t cap, n_rows, n_variants; /* of s->v; read so far */
    Ids ids, types, part, part2;
    Buf learn;
} RowReader;

static const cJSON *member(const cJSON *row, const char *key) {
    return key ? cJSON_GetObjectItemCaseSensitive(row, key) : NULL;
}
/* The string under key; NULL when it is missing or null; dies when it is something else. */
static const char *text_of(const RowReader *rr, const cJSON *row, const char *key) {
    const cJSON *v = member(row, key);
    if (!v || cJSON_IsNull(v)) return NULL;
    if (!cJSON_IsString(v)) die("%s: \"%s\" must be a string", rr->where, key);
    return v->valuestring;
}
static bool blank(const char *s) { return !s || !s[strspn(s, " \t\r\n")]; }

/* What lies in rr->ids and rr->learn becomes a sample, of at most max tokens. */
static void sample_add(RowReader *rr, int32_t label, size_t max) {
    SampleSet *s = rr->s;
    size_t n = rr->ids.n, learnt = 0;
    if (max && n > max) n = max, s->truncated++;
    for (size_t i = 1; i < n; i++) learnt += rr->learn.data[i] != 0;  /* nothing stands before the first */
    if (label < 0 && !learnt) s->dropped++;
    else {
        if (s->n == rr->cap) s->v = xrealloc(s->v, size_mul(rr->cap = 2 * rr->cap + 64, sizeof *s->v));
        s->v[s->n++] = (Sample){.at = s->ids.n, .n = (uint32_t)n, .label = label};
        for (size_t i = 0; i < n; i++) {
            ids_add(&s->ids, rr->ids.v[i]);
            buf_add(&s->types, &(char){rr->types.n ? (char)rr->types.v[i] : 0}, 1);
        }
        buf_add(&s->learn, rr->learn.data, n);
        s->learnt += label < 0 ? learnt : 0;
        if (n > s->longest) s->longest = n;
    }
    rr->ids.n = rr->types.n = rr->learn.len = 0;
}
static void learn(RowReader *rr, size_t n, bool on) {
    for (size_t i = 0; i < n; i++) buf_add(&rr->learn, &(char){on}, 1);
}

/* Plain text: all of it is learnt, in as many samples as it needs. A following piece begins with the last token of the
 * one before, so that each token is learnt once. */
static void plain_text(RowReader *rr, const char *text, size_t n) {
    const SampleReader *r = rr->r;
    const Ids *prefix = tokenizer_prefix(r->tok);
    Ids *all = &rr->part;
    all->n = 0;
    for (size_t i = 0; i < prefix->n; i++) ids_add(all, prefix->v[i]);
    if (!prefix->n && r->opening >= 0) ids_add(all, r->opening);
    size_t given = all->n;
    tokenizer_encode(r->tok, text, n, false, all);
    if (all->n == given) { rr->s->dropped++; return; }
    if (tokenizer_eos(r->tok) >= 0) ids_add(all, tokenizer_eos(r->tok));
    for (size_t first = 0; first == 0 || first + 1 < all->n; first += r->max_tokens - 1) {
        size_t n_piece = all->n - first < r->max_tokens ? all->n - first : r->max_tokens;
        for (size_t i = 0; i < n_piece; i++) ids_add(&rr->ids, all->v[first + i]);
        learn(rr, n_piece, true);
        for (size_t i = 0; first == 0 && i < given && i < n_piece; i++) rr->learn.data[i] = 0;
        sample_add(rr, -1, 0);
    }
}
/* A prompt that is read and a completion that is learnt, with nothing between them: TASK_LM. */
static void prompt_completion(RowReader *rr, const char *prompt, const char *completion) {
    const SampleReader *r = rr->r;
    const Ids *prefix = tokenizer_prefix(r->tok);
    for (size_t i = 0; i < prefix->n; i++) ids_add(&rr->ids, prefix->v[i]);
    if (!prefix->n && r->opening >= 0) ids_add(&rr->ids, r->opening);
    /* Encoded in one go, as plain text would be; what is given ends where the prompt alone has other ids. */
    char *both = strf("%s%s", prompt, completion);
    size_t given = 0, before = rr->ids.n;
    rr->part.n = 0;
    tokenizer_encode(r->tok, prompt, strlen(prompt), false, &rr->part);
    tokenizer_encode(r->tok, both, strlen(both), false, &rr->ids);
    while (given < rr->part.n && before + given < rr->ids.n && rr->part.v[given] == rr->ids.v[before + given]) given++;
    free(both);
    if (tokenizer_eos(r->tok) >= 0) ids_add(&rr->ids, tokenizer_eos(r->tok));
    learn(rr, before + given, false);
    learn(rr, rr->ids.n - before - given, true);
    sample_add(rr, -1, r->max_tokens);
}

/* Its ids and marks to rr; false: an answer is empty. Frees it. */
static bool conversation_ids(RowReader *rr, Chat *c) {
    bool answered = false, empty = false;
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].role != ROLE_ASSISTANT) continue;
        answered = true;
        empty |= blank(c->v[i].content) && !c->v[i].metadata;
    }
    if (!answered) die("%s: a conversation without an answer: there is nothing to learn in it", rr->where);
    char *why = chat_problem(rr->r->chat, c);
    if (why) die("%s: %s", rr->where, why);
    if (!empty) chat_format(rr->r->chat, rr->r->tok, c, false, &rr->ids, &rr->learn);
    chat_free(c);
    return !empty;
}
static void conversation(RowReader *rr, Chat *c) {
    if (conversation_ids(rr, c)) sample_add(rr, -1, rr->r->max_tokens);
    else rr->s->dropped++;
}
/* ShareGPT's: [{"from": "human", "value": "..."}, ...]; also with "role" and "content". */
static void sharegpt(RowReader *rr, const cJSON *row, const cJSON *list) {
    Chat c = {0};
    const cJSON *m;
    const char *system = text_of(rr, row, "system");
    if (!blank(system)) chat_add(&c, ROLE_SYSTEM, system, NULL);
    cJSON_ArrayForEach(m, list) {
        if (!cJSON_IsObject(m)) die("%s: message %zu is no object", rr->where, c.n + 1);
        const char *from = text_of(rr, m, "from"), *value = text_of(rr, m, "value");
        int found = -1;
        if (!from || !value) die("%s: message %zu needs \"from\" and \"value\"", rr->where, c.n + 1);
        for (size_t i = 0; i < sizeof speakers / sizeof *speakers; i++)
            if (!strcmp(from, speakers[i].name)) found = (int)speakers[i].role;
        if (found < 0)
            die("%s: message %zu: nobody here is called \"%.40s\" (human, gpt, system, ...)", rr->where, c.n + 1, from);
        chat_add(&c, (ChatRole)found, value, NULL);
    }
    if (!c.n) die("%s: \"conversations\" is empty", rr->where);
    conversation(rr, &c);
}
/* A question and its answer; "system" and "history" ([[question, answer], ...]) may come before. */
static void question_answer(RowReader *rr, const cJSON *row, int pair) {
    const char *question = text_of(rr, row, pairs[pair].question), *more = text_of(rr, row, pairs[pair].more);
    const char *answer = text_of(rr, row, pairs[pair].answer), *system = text_of(rr, row, "system");
    if (!question || !answer)
        die("%s: \"%s\" is null", rr->where, question ? pairs[pair].answer : pairs[pair].question);
    char *asked = blank(more) ? xstrdup(question) : strf("%s\n%s", question, more);
    if (rr->r->task == TASK_LM) {
        if (blank(answer)) rr->s->dropped++;
        else prompt_completion(rr, asked, answer);
    } else {
        Chat c = {0};
        const cJSON *turn;
        if (!blank(system)) chat_add(&c, ROLE_SYSTEM, system, NULL);
        cJSON_ArrayForEach(turn, member(row, "history")) {
            const char *q = cJSON_GetStringValue(cJSON_GetArrayItem(turn, 0));
            const char *a = cJSON_GetStringValue(cJSON_GetArrayItem(turn, 1));
            if (!q || !a) die("%s: \"history\" holds pairs of strings", rr->where);
            chat_add(&c, ROLE_USER, q, NULL);
            chat_add(&c, ROLE_ASSISTANT, a, NULL);
        }
        chat_add(&c, ROLE_USER, asked, NULL);
        chat_add(&c, ROLE_ASSISTANT, answer, NULL);
        conversation(rr, &c);
    }
    free(asked);
}

/* A preference (TASK_DPO): the prompt with one answer, and with another that is worse. Each is a string, or a list of
 * messages; lists may hold the prompt themselves. */
static void side(RowReader *rr, const cJSON *row, const char *which, Chat *c) {
    const cJSON *answer = member(row, which), *prompt = member(row, "prompt"), *m;
    const char *question = NULL, *more = NULL, *system = text_of(rr, row, "system");
    if (!cJSON_IsArray(answer) && !cJSON_IsString(answer)) die("%s: \"%s\" must be a string or a list of messages",
                                                               rr->where, which);
    if (cJSON_IsArray(answer)) {
        cJSON *all = cJSON_CreateObject(), *list = cJSON_IsArray(prompt) ? cJSON_Duplicate(prompt,
                true) : cJSON_CreateArray();
        cJSON_ArrayForEach(m, answer) cJSON_AddItemToArray(list, cJSON_Duplicate(m, true));
        cJSON_AddItemToObject(all, "messages", list);
        char *text = cJSON_PrintUnformatted(all), *why = chat_parse(text, c);
        if (why) die("%s: \"%s\": %s", rr->where, which, why);
        free(text);
        cJSON_Delete(all);
        return;
    }
    for (int i = 0; i < N_PAIRS && !question; i++)
        if ((question = text_of(rr, row, pairs[i].question))) more = text_of(rr, row, pairs[i].more);
    if (!question) die("%s: a preference needs a \"prompt\"", rr->where);
    char *asked = blank(more) ? xstrdup(question) : strf("%s\n%s", question, more);
    if (!blank(system)) chat_add(c, ROLE_SYSTEM, system, NULL);
    chat_add(c, ROLE_USER, asked, NULL);
    chat_add(c, ROLE_ASSISTANT, answer->valuestring, NULL);
    free(asked);
}
static void preference(RowReader *rr, const cJSON *row) {
    Chat chosen = {0}, rejected = {0};
    side(rr, row, "chosen", &chosen);
    side(rr, row, "rejected", &rejected);
    SampleSet *s = rr->s;
    size_t n_before = s->n, dropped = s->dropped;
    if (conversation_ids(rr, &chosen)) sample_add(rr, -1, rr->r->max_tokens);
    if (s->n > n_before && conversation_ids(rr, &rejected)) sample_add(rr, -1, rr->r->max_tokens);
    else chat_free(&rejected);
    if (s->n == n_before + 2) s->v[n_before].n2 = s->v[n_before + 1].n,
        s->n--;   /* its tokens lie behind the chosen's */
    else {
        if (s->n > n_before) s->ids.n = s->learn.len = s->types.len = s->v[n_before].at, s->n--;
        s->dropped = dropped + 1;
    }
    rr->ids.n = rr->learn.len = 0;
}

static int32_t label_id(RowReader *rr, const char *name) {
    StrList *l = rr->r->labels;
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->v[i], name)) return i;
    if (!rr->r->new_labels) die("%s: label \"%.80s\" was not seen in training", rr->where, name);
    if (l->n == 100000) die("%s: more than %d labels: is this a class?", rr->where, l->n);
    l->v = xrealloc(l->v, (size_t)(l->n + 1) * sizeof *l->v);
    l->v[l->n] = xstrdup(name);
    return l->n++;
}
/* {"text", "label"}, a second text under "text_pair"; the label is a word or a whole number. */
static void labelled(RowReader *rr, const cJSON *row) {
    const SampleReader *r = rr->r;
    const char *text = text_of(rr, row, "text"), *pair = text_of(rr, row, "text_pair");
    const cJSON *label = member(row, "label");
    if (!text) die("%s: holds no \"text\"", rr->where);
    if (!label) die("%s: holds no \"label\"", rr->where);
    double value = label->valuedouble;
    bool number = cJSON_IsNumber(label) && value == floor(value) && fabs(value) < 1e9;
    if (!number && (!cJSON_IsString(label) || blank(label->valuestring)))
        die("%s: \"label\" must be a word or a whole number", rr->where);
    char *name = number ? strf("%.0f", value) : xstrdup(label->valuestring);
    int32_t id = label_id(rr, name);
    free(name);
    rr->part.n = rr->part2.n = 0;
    tokenizer_encode(r->tok, text, strlen(text), false, &rr->part);
    if (pair) tokenizer_encode(r->tok, pair, strlen(pair), false, &rr->part2);
    size_t whole = rr->part.n + rr->part2.n, before = rr->ids.n;
    tokenizer_wrap(r->tok, &rr->part, pair ? &rr->part2 : NULL, r->max_tokens, &rr->ids, &rr->types);
    rr->s->truncated += rr->ids.n - before < whole;
    learn(rr, rr->ids.n, false);
    sample_add(rr, id, r->max_tokens);
}

/* What the row holds, for somebody who expected something else. */
_Noreturn static void unknown_row(const RowReader *rr, const cJSON *row, const char *wanted) {
    Buf keys = {0};
    const cJSON *k;
    int n = 0;
    cJSON_ArrayForEach(k, row) if (n++ < 8) buf_fmt(&keys, "%s\"%.40s\"", keys.len ? ", " : "", k->string);
    die("%s: holds %s, where %s is wanted", rr->where, keys.len ? keys.data : "nothing", wanted);
}
static void row_read(RowReader *rr, const cJSON *row, const char *json) {
    Task task = rr->r->task;
    if (!cJSON_IsObject(row)) die("%s: not a JSON object", rr->where);
    if (task == TASK_CLASSIFY) { labelled(rr, row); return; }
    if (task == TASK_DPO) {
        if (!member(row, "chosen") || !member(row, "rejected")) unknown_row(rr, row, "\"chosen\" and \"rejected\"");
        preference(rr, row);
        return;
    }
    const cJSON *messages = member(row, "messages"), *list = member(row, "conversations");
    if ((messages || list) && task == TASK_LM) die("%s: a conversation: --task chat learns it", rr->where);
    const cJSON *first = list ? list->child : NULL;
    if (messages || (cJSON_IsArray(list) && member(first, "role"))) {
        char *text = NULL;
        if (!messages) {                                              /* ChatGLM3's, which says "conversations" */
            cJSON *renamed = cJSON_CreateObject();
            cJSON_AddItemToObject(renamed, "messages", cJSON_Duplicate(list, true));
            text = cJSON_PrintUnformatted(renamed);
            cJSON_Delete(renamed);
        } else text = json ? xstrdup(json) : cJSON_PrintUnformatted(row);
        Chat c = {0};
        char *why = chat_parse(text, &c);
        if (why) die("%s: %s", rr->where, why);
        conversation(rr, &c);
        free(text);
        return;
    }
    if (list) {
        if (!cJSON_IsArray(list)) die("%s: \"conversations\" must be a list", rr->where);
        sharegpt(rr, row, list);
        return;
    }
    for (int i = 0; i < N_PAIRS; i++)
        if (member(row, pairs[i].question) && member(row, pairs[i].answer)) { question_answer(rr, row, i); return; }
    const char *text = text_of(rr, row, "text");
    if (!text)
        unknown_row(rr, row, task == TASK_LM ? "\"text\", or \"prompt\" and \"completion\"," :
                    "\"messages\", \"conversations\", \"instruction\" and \"output\", \"prompt\" and \"completion\", "
                    "or \"text\"");
    plain_text(rr, text, strlen(text));
}

/* ================================================================================================================= *
 * [samples.augment] Variants of a row: what is asked is worded otherwise, instruction and input change places, and here
 * and there a letter is missing or twice. Answers, classes, digits and words of three letters stay: they may decide. */
static const char *const wordings[2][5] = {
    {"Please answer: %s", "Question: %s", "Here is a task. %s", "%s\nYour answer, please.", "I have a question. %s"},
    {"请回答：%s", "问题：%s", "请完成下面的任务。%s", "%s\n请给出答案。", "我有一个问题。%s"},
};
static void misspell(Buf *out, const char *s, Rng *g) {
    enum { LONG = 4, ONE_IN = 12 };                                   /* of the words of at least so many letters */
    for (size_t n; *s; s += n) {
        for (n = 0; isalpha((unsigned char)s[n]); n++) {}
        if (!n) { buf_add(out, s, n = 1); continue; }
        bool hit = n >= LONG && rng_below(g, ONE_IN) == 0, twice = rng_below(g, 2);
        size_t at = 1 + rng_below(g, n - 1 ? n - 1 : 1);              /* not the first, which people get right */
        buf_add(out, s, hit ? at + twice : n);
        if (hit) buf_add(out, s + at + !twice, n - at - !twice);
    }
}
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
/* A string of the row, if there is one; wording: of a question, -1: as it is. */
static void vary(cJSON *object, const char *key, int wording, Rng *g) {
    const char *old = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    if (blank(old)) return;
    Buf b = {0};
    bool chinese = (unsigned char)*old >= 0xE3 && (unsigned char)*old <= 0xE9;
    char *worded = wording < 0 ? xstrdup(old) : strf(wordings[chinese][wording], old);
    misspell(&b, worded, g);
    cJSON_ReplaceItemInObjectCaseSensitive(object, key, cJSON_CreateString(b.data));
    free(worded);
    buf_free(&b);
}
#pragma GCC diagnostic pop
static void row_vary(cJSON *row, Task task, Rng *g) {
    int wording = task == TASK_CHAT || task == TASK_DPO ? (int)rng_below(g, 5) : -1;
    static const char *const lists[] = {"messages", "conversations", "prompt", "chosen", "rejected"};
    cJSON *m;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        cJSON *list = cJSON_GetObjectItemCaseSensitive(row, lists[i]);
        Rng same = *g;                                                /* chosen and rejected begin with one question */
        if (!cJSON_IsArray(list)) continue;
        cJSON_ArrayForEach(m, list) {
            const char *from = cJSON_GetStringValue(member(m, "from")), *role = cJSON_GetStringValue(member(m, "role"));
            if (from ? !strcmp(from, "human") || !strcmp(from, "user") : role && !strcmp(role, "user"))
                vary(m, from ? "value" : "content", wording, i < 3 ? g : &same);
        }
    }
    bool turned = cJSON_IsString(member(row, "instruction")) && !blank(cJSON_GetStringValue(member(row, "input"))) &&
                  member(row, "output") && rng_below(g, 2);
    for (int i = 0, done = 0; i < N_PAIRS && !done; i++)
        if ((done = cJSON_IsString(member(row, pairs[i].question)))) vary(row, pairs[i].question, wording, g);
    if (turned) {
        cJSON *first = cJSON_DetachItemFromObjectCaseSensitive(row, "instruction");
        cJSON_AddItemToObject(row, "instruction", cJSON_DetachItemFromObjectCaseSensitive(row, "input"));
        cJSON_AddItemToObject(row, "input", first);
    }
    if (task == TASK_CLASSIFY) vary(row, "text", -1, g), vary(row, "text_pair", -1, g);
}
static uint64_t sample_hash(const SampleSet *s, const Sample *x);
/* The row, then its variants, but for those that are the row itself. */
static void row_and_variants(RowReader *rr, const cJSON *row, const char *json) {
    SampleSet *s = rr->s;
    size_t first = s->n;
    row_read(rr, row, json);
    rr->n_rows++;
    for (int k = 0; k < rr->r->variants && s->n > first; k++) {
        cJSON *varied = cJSON_Duplicate(row, true);
        uint64_t origin = sample_hash(s, &s->v[first]);
        Rng g = {rng_mix(rr->r->seed ^ 0xA06, rr->n_rows), (uint64_t)k << 32};
        row_vary(varied, rr->r->task, &g);
        size_t before = s->n;
        if (!cJSON_Compare(row, varied, true)) row_read(rr, varied, NULL);
        for (size_t i = before; i < s->n; i++, rr->n_variants++) s->v[i].origin = origin;
        cJSON_Delete(varied);
    }
}

/* ================================================================================================================= *
 * [samples.read] */
char *sample_spec(const char *spec, double *weight) {
    const char *colon = strrchr(spec, ':');
    char *end = NULL;
    bool corpus = !strncmp(spec, "corpus:", 7) || !strncmp(spec, "corpus-valid:", 13);
    /* corpus:10M:2 is a seed; a weight there has a point. And a file may be called so. */
    if (!colon || !colon[1] || (corpus && !strchr(colon, '.')) || file_exists(spec)) return xstrdup(spec);
    double w = strtod(colon + 1, &end);
    if (*end || !isdigit((unsigned char)colon[1])) return xstrdup(spec);
    if (!(w > 0 && w <= 1000)) die("%s: a weight is above 0 and at most 1000", spec);
    *weight = w;
    return strf("%.*s", (int)(colon - spec), spec);
}

static uint64_t sample_hash(const SampleSet *s, const Sample *x) {    /* FNV-1a over its tokens and its class */
    uint64_t h = 0xCBF29CE484222325ull ^ (uint64_t)(uint32_t)x->label;
    for (size_t i = 0; i < (size_t)x->n + x->n2; i++) h = (h ^ (uint32_t)s->ids.v[x->at + i]) * 0x100000001B3ull;
    return rng_mix(h, 0);
}
typedef struct { uint64_t hash; size_t i; } Hashed;
static int by_hash(const void *a, const void *b) {
    const Hashed *x = a, *y = b;
    return x->hash != y->hash ? (x->hash > y->hash) - (x->hash < y->hash) : (x->i > y->i) - (x->i < y->i);
}
static Hashed *hashed(const SampleSet *s) {
    Hashed *h = xmalloc(size_mul(s->n + 1, sizeof *h));
    for (size_t i = 0; i < s->n; i++) h[i] = (Hashed){s->v[i].origin ? s->v[i].origin : sample_hash(s, &s->v[i]), i};
    qsort(h, s->n, sizeof *h, by_hash);
    return h;
}

static void read_lines(RowReader *rr, const char *path) {
    Mapped map = file_map(path);
    const char *all = (const char *)map.data;
    size_t line_no = 0;
    Buf text = {0};
    for (size_t at = 0; at < map.bytes;) {
        const char *line = all + at, *newline = memchr(line, '\n', map.bytes - at), *rest = NULL;
        size_t len = newline ? (size_t)(newline - line) : map.bytes - at;
        at += len + 1;
        line_no++;
        text.len = 0;
        buf_add(&text, line, len);                                    /* cJSON wants a string's end */
        if (blank(text.data) && strlen(text.data) == len) continue;
        char *where = strf("%s:%zu", path, line_no);
        rr->where = where;
        cJSON *row = strlen(text.data) == len ? cJSON_ParseWithOpts(text.data, &rest, true) : NULL;
        if (!row) {
            const char *at_error = rest ? rest : text.data;
            die("%s: not JSON from byte %zu of the line on", where, (size_t)(at_error - text.data) + 1);
        }
        row_and_variants(rr, row, text.data);
        cJSON_Delete(row);
        free(where);
    }
    buf_free(&text);
    file_unmap(&map);
}
static void read_array(RowReader *rr, const char *path) {
    size_t i = 0;
    cJSON *array = json_read(path, JSON_ARRAY), *row;
    cJSON_ArrayForEach(row, array) {
        char *where = strf("%s: row %zu", path, ++i);
        rr->where = where;
        row_and_variants(rr, row, NULL);
        free(where);
    }
    cJSON_Delete(array);
}

SampleSet *samples_read(const SampleReader *r, const char *path) {
    SampleSet *s = xcalloc(1, sizeof *s);
    *s = (SampleSet){.name = xstrdup(path), .weight = 1};
    RowReader rr = {.r = r, .s = s, .where = path};
    bool rows = !is_dir(path) && (ends_with(path, ".jsonl") || ends_with(path, ".json"));
    if (rows && ends_with(path, ".jsonl")) read_lines(&rr, path);
    else if (rows) read_array(&rr, path);
    else if (r->task == TASK_DPO) die("%s: preferences are read from .jsonl or .json rows", path);
    else if (r->task == TASK_CLASSIFY) die("%s: classification reads .jsonl or .json rows of \"text\" and \"label\"",
                                           path);
    else {
        Docs *docs = docs_open(&path, 1);
        size_t n;
        for (const char *text; (text = docs_next(docs, &n));) plain_text(&rr, text, n);
        docs_close(docs);
    }
    ids_free(&rr.ids), ids_free(&rr.types), ids_free(&rr.part), ids_free(&rr.part2);
    buf_free(&rr.learn);
    if (!s->n && s->truncated)
        die("%s: cut at %zu tokens, no sample has something to learn left: a larger --seq", path, r->max_tokens);
    if (!s->n) die("%s: there is no sample in it%s", path, s->dropped ? " that has something to learn" : "");
    if (s->n > UINT32_MAX) die("%s: %zu samples are too many", path, s->n);
    Hashed *h = hashed(s);
    for (size_t i = 1; i < s->n; i++) s->duplicates += h[i].hash == h[i - 1].hash;
    s->duplicates -= rr.n_variants;
    free(h);
    return s;
}
void samples_free(SampleSet *s) {
    free(s->name);
    free(s->v);
    ids_free(&s->ids);
    buf_free(&s->learn);
    buf_free(&s->types);
    free(s);
}

/* ================================================================================================================= *
 * [samples.split] */
static void move_sample(SampleSet *to, const SampleSet *from, size_t i) {
    const Sample *x = &from->v[i];
    size_t n = (size_t)x->n + x->n2;
    to->v[to->n++] = (Sample){to->ids.n, x->n, x->n2, x->label, x->origin};
    for (size_t t = 0; t < n; t++) ids_add(&to->ids, from->ids.v[x->at + t]);
    buf_add(&to->learn, from->learn.data + x->at, n);
    buf_add(&to->types, from->types.data + x->at, n);
    for (size_t t = 1; t < n && x->label < 0; t++) to->learnt += from->learn.data[x->at + t] != 0;
    if (x->n > to->longest) to->longest = x->n;
    if (x->n2 > to->longest) to->longest = x->n2;
}
SampleSet *samples_hold_out(SampleSet *s, double share) {
    size_t want = (size_t)(share * (double)s->n + 0.5);
    if (share > 0 && !want && s->n > 1) want = 1;
    Hashed *h = hashed(s);
    while (want && want < s->n && h[want].hash == h[want - 1].hash) want++;     /* equals stay together */
    if (!want || want >= s->n) { free(h); return NULL; }
    uint8_t *out = xcalloc(s->n, 1);
    for (size_t i = 0; i < want; i++) out[h[i].i] = 1;
    free(h);
    SampleSet *part[2];
    for (int k = 0; k < 2; k++) {
        part[k] = xcalloc(1, sizeof *part[k]);
        *part[k] = (SampleSet){.name = xstrdup(s->name), .weight = s->weight, .v = xmalloc(s->n * sizeof(Sample))};
        for (size_t i = 0; i < s->n; i++)
            if (out[i] == k && !(k && s->v[i].origin)) move_sample(part[k], s, i);
    }
    part[0]->truncated = s->truncated, part[0]->dropped = s->dropped, part[0]->duplicates = s->duplicates;
    SampleSet old = *s;
    *s = *part[0];
    *part[0] = old;
    samples_free(part[0]);
    free(out);
    return part[1];
}

static bool whole_number(const char *s) {
    s += *s == '-';
    return *s && !s[strspn(s, "0123456789")];
}
static int by_label(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    if (whole_number(x) && whole_number(y)) return (atof(x) > atof(y)) - (atof(x) < atof(y));
    return strcmp(x, y);
}
void labels_sort(StrList *labels, SampleSet **sets, int n) {
    StrList old = *labels;
    if (!old.n) return;
    labels->v = xmalloc((size_t)old.n * sizeof *labels->v);
    memcpy(labels->v, old.v, (size_t)old.n * sizeof *labels->v);
    qsort(labels->v, (size_t)labels->n, sizeof *labels->v, by_label);
    int32_t *now = xmalloc((size_t)old.n * sizeof *now);
    for (int32_t i = 0; i < old.n; i++)
        for (int k = 0; k < old.n; k++)
            if (old.v[k] == labels->v[i]) now[k] = i;
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sets[s]->n; i++) sets[s]->v[i].label = now[sets[s]->v[i].label];
    free(now);
    free(old.v);
}

void samples_show(const SampleSet *s, const Tokenizer *tok, int n_samples) {
    enum { SHOWN = 160 };                                             /* tokens */
    bool tty = isatty(STDERR_FILENO);
    for (int k = 0; k < n_samples && (size_t)k < s->n; k++) {
        const Sample *x = &s->v[(size_t)k * s->n / (size_t)n_samples];
        Buf text = {0};
        size_t n = x->n < SHOWN ? x->n : SHOWN;
        for (size_t t = 0; t < n;) {
            size_t from = t;
            bool on = s->learn.data[x->at + t];
            while (t < n && (bool)s->learn.data[x->at + t] == on) t++;
            if (on) buf_str(&text, tty ? "\033[32m" : "[[");
            tokenizer_decode_text(tok, s->ids.v + x->at + from, t - from, false, &text);
            if (on) buf_str(&text, tty ? "\033[0m" : "]]");
        }
        fprintf(stderr, "  | ");
        for (size_t i = 0; i < text.len; i++) {
            unsigned char c = (unsigned char)text.data[i];
            if (c == '\n') fprintf(stderr, "\n  | ");
            else if (c >= ' ' || c == '\t' || (c == '\033' && tty)) fputc(c, stderr);
        }
        fprintf(stderr, "%s\n\n", n < x->n ? " ..." : "");
        buf_free(&text);
    }
}

/* ================================================================================================================= *
 * [samples.batch] */
size_t sample_inputs(const Sample *s) {
    size_t n = s->n > s->n2 ? s->n : s->n2;
    return s->label < 0 ? n - 1 : n;
}

static size_t item_inputs(SampleSet *const *sets, SampleRef x) { return sample_inputs(&sets[x.set]->v[x.i]); }
/* Rows of as many samples as fit into `pack` tokens, in their order; or of one each. */
static void plan_rows(Plan *p, SampleSet *const *sets, size_t pack) {
    p->row = xmalloc(size_mul(p->n_items + 1, sizeof *p->row));
    p->packed = pack > 0;
    size_t filled = 0;
    for (size_t i = 0; i < p->n_items; i++) {
        size_t n = item_inputs(sets, p->item[i]);
        if (!pack || !i || filled + n > pack) p->row[p->n_rows++] = i, filled = 0;
        filled += n;
    }
    p->row[p->n_rows] = p->n_items;
}
typedef struct { SampleRef x; size_t n, at; } Sized;
static int by_size(const void *a,
                   const void *b) {                    /* the longest first: what does not fit shows at once */
    const Sized *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->at > y->at) - (x->at < y->at);
}
static void sort_by_size(SampleRef *item, size_t n, SampleSet *const *sets) {
    Sized *v = xmalloc(size_mul(n + 1, sizeof *v));
    for (size_t i = 0; i < n; i++) v[i] = (Sized){item[i], item_inputs(sets, item[i]), i};
    qsort(v, n, sizeof *v, by_size);
    for (size_t i = 0; i < n; i++) item[i] = v[i].x;
    free(v);
}
Plan plan_epoch(SampleSet *const *sets, int n, uint64_t seed, uint64_t epoch, size_t pack, size_t batch) {
    Plan p = {0};
    size_t *count = xcalloc((size_t)n, sizeof *count);
    for (int s = 0; s < n; s++) {
        count[s] = (size_t)(sets[s]->weight * (double)sets[s]->n + 0.5);
        if (!count[s]) count[s] = 1;
        p.n_items += count[s];
    }
    SampleRef *in_order = xmalloc(size_mul(p.n_items, sizeof *in_order));
    p.item = xmalloc(size_mul(p.n_items, sizeof *p.item));
    size_t at = 0;
    for (int s = 0; s < n; s++)
        for (size_t j = 0; j < count[s]; j++) {                       /* the set's samples, pass after pass over them */
            uint64_t k = epoch * count[s] + j, pass = k / sets[s]->n;
            uint64_t key = rng_mix(rng_mix(seed ^ 0x5A17, (uint64_t)s), pass);
            in_order[at++] = (SampleRef){(uint32_t)s, (uint32_t)permute(k % sets[s]->n, sets[s]->n, key)};
        }
    for (size_t i = 0; i < p.n_items; i++) p.item[i] = in_order[permute(i, p.n_items, rng_mix(seed, epoch))];
    if (!pack && batch > 1)
        {                                         /* like lengths together, as Trainer's group_by_length */
        size_t group = batch * 50, n_batches = p.n_items / batch;
        for (size_t i = 0; i < p.n_items; i += group)
            sort_by_size(p.item + i, p.n_items - i < group ? p.n_items - i : group, sets);
        memcpy(in_order, p.item,
               p.n_items * sizeof *in_order);       /* whole batches in a random order, the rest last */
        for (size_t i = 0; i < n_batches; i++)
            memcpy(p.item + i * batch, in_order + permute(i, n_batches, rng_mix(seed ^ 0xBA7C, epoch)) * batch,
                   batch * sizeof *in_order);
    }
    free(in_order);
    free(count);
    plan_rows(&p, sets, pack);
    return p;
}
Plan plan_in_order(SampleSet *const *sets, int n, size_t pack) {
    Plan p = {0};
    for (int s = 0; s < n; s++) p.n_items += sets[s]->n;
    p.item = xmalloc(size_mul(p.n_items + 1, sizeof *p.item));
    size_t at = 0;
    for (int s = 0; s < n; s++)
        for (size_t i = 0; i < sets[s]->n; i++) p.item[at++] = (SampleRef){(uint32_t)s, (uint32_t)i};
    sort_by_size(p.item, p.n_items, sets);
    plan_rows(&p, sets, pack);
    return p;
}
void plan_free(Plan *p) {
    free(p->item);
    free(p->row);
    *p = (Plan){0};
}

BatchRoom batch_room(size_t B, size_t T) {
    BatchRoom room;
    int32_t **all[] = {&room.tokens, &room.targets, &room.types, &room.start, &room.len, &room.position};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = xmalloc(size_mul(size_mul(B, T), 4));
    return room;
}
void batch_room_free(BatchRoom *room) {
    free(room->tokens), free(room->targets), free(room->types), free(room->start), free(room->len),
        free(room->position);
    *room = (BatchRoom){0};
}
Batch plan_batch(const Plan *p, SampleSet *const *sets, size_t first, size_t B, size_t T, int32_t pad, bool types,
                 BatchRoom *room) {
    bool classes = false;
    if (!p->packed) {
        T = 1;
        for (size_t i = p->row[first]; i < p->row[first + B]; i++) {
            size_t n = item_inputs(sets, p->item[i]);
            if (n > T) T = n;
        }
    }
    for (size_t b = 0; b < B; b++) {
        size_t t = 0;
        for (size_t i = p->row[first + b]; i < p->row[first + b + 1]; i++) {
            const SampleSet *s = sets[p->item[i].set];
            const Sample *x = &s->v[p->item[i].i];
            size_t at = x->at + (p->second ? x->n : 0), begin = t;
            classes = x->label >= 0;
            size_t n = (p->second ? x->n2 : x->n) - (size_t)!classes;
            if (classes) room->targets[b] = x->label;
            for (size_t k = 0; k < n; k++, t++) {
                size_t to = b * T + t;
                room->tokens[to] = s->ids.v[at + k];
                room->types[to] = (unsigned char)s->types.data[at + k];
                room->start[to] = (int32_t)begin;
                room->position[to] = (int32_t)k;
                if (!classes) room->targets[to] = s->learn.data[at + k + 1] ? s->ids.v[at + k + 1] : -1;
            }
        }
        room->len[b] = (int32_t)t;
        for (size_t begin = t; t < T; t++) {                          /* padding sees padding */
            size_t to = b * T + t;
            room->tokens[to] = pad, room->types[to] = 0;
            room->start[to] = (int32_t)begin, room->position[to] = 0;
            if (!classes) room->targets[to] = -1;
        }
    }
    Batch out = {.B = B, .T = T, .tokens = room->tokens, .targets = room->targets, .types = types ? room->types : NULL};
    if (p->packed) out.start = room->start, out.position = room->position;
    else out.len = room->len;
    return out;
}
size_t batch_targets(const Batch *b, bool classes) {
    size_t n = 0;
    for (size_t i = 0; i < (classes ? b->B : b->B * b->T); i++) n += b->targets[i] >= 0;
    return n;
}
