/* chat.c - conversations as token ids.
 *
 *     ./infer --chat --model DIR                  talk to a model
 *     build/gcc/test_chat                         the ids of each template, held against the official libraries
 *
 * Map
 *     [chat.messages]   who said what; JSON in and out
 *     [chat.form]       the templates, one row each
 *     [chat.find]       which of them a model directory means
 *     [chat.format]     messages -> ids, and which of them are to be learnt
 *     [chat.answer]     what the model wrote -> a message
 *
 * A template is text with special tokens in it, and special tokens are the only thing that tells the model's makers'
 * words from a stranger's. So a message is never scanned for them: "<|im_end|>" typed by a user is eight ordinary
 * tokens. What lies between two special tokens is encoded in one go, literal text and message together, because that
 * is what the official code does, and merges may cross from one into the other.
 *
 * Refused here: Jinja. The files' chat_template is a program; we look for what it must contain and write the few forms
 * that models use as rows of a table. */
#include "chat.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [chat.messages] */
static const char *const role_names[] = {"system", "user", "assistant", "tool"};

void chat_add(Chat *c, ChatRole role, const char *content, const char *metadata) {
    if (c->n == c->cap) c->v = xrealloc(c->v, size_mul(c->cap = 2 * c->cap + 8, sizeof *c->v));
    c->v[c->n++] = (Message){role, xstrdup(content), metadata ? xstrdup(metadata) : NULL, NULL};
}

void chat_cut(Chat *c, size_t first, size_t n) {
    if (!n) return;
    for (size_t i = first; i < first + n; i++) free(c->v[i].content), free(c->v[i].metadata), free(c->v[i].tools);
    memmove(c->v + first, c->v + first + n, (c->n - first - n) * sizeof *c->v);
    c->n -= n;
}

void chat_free(Chat *c) {
    chat_cut(c, 0, c->n);
    free(c->v);
    *c = (Chat){0};
}

/* As Python's json.dumps(indent=4, ensure_ascii=False) prints it, which is how ChatGLM3 was shown its tools. One thing
 * is lost on the way: 1.0 has become 1. */
static void json_indent(Buf *out, const cJSON *v, size_t depth) {
    const cJSON *one;
    if (cJSON_IsString(v)) {
        buf_str(out, "\"");
        for (const char *s = v->valuestring; *s; s++) {               /* not json_escape: Python spells \b and \f */
            const char *escaped = *s == '\b' ? "\\b" : *s == '\f' ? "\\f" : NULL;
            if (escaped) buf_str(out, escaped);
            else if ((unsigned char)*s < 0x20 || *s == '"' || *s == '\\') json_escape(out, s, 1);
            else buf_add(out, s, 1);
        }
        buf_str(out, "\"");
    } else if (cJSON_IsNumber(v)) {
        char number[40];
        for (int digits = 15; digits <= 17; digits++) {                    /* the fewest that mean this number */
            snprintf(number, sizeof number, "%.*g", digits, v->valuedouble);
            if (strtod(number, NULL) == v->valuedouble) break;
        }
        buf_str(out, number);
    } else if (!cJSON_IsArray(v) && !cJSON_IsObject(v)) {
        buf_str(out, cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "null");
    } else {
        bool list = cJSON_IsArray(v);
        buf_str(out, list ? "[" : "{");
        cJSON_ArrayForEach(one, v) {
            buf_fmt(out, "%s\n%*s", one == v->child ? "" : ",", (int)(4 * depth + 4), "");
            if (!list) {
                cJSON name = {.type = cJSON_String, .valuestring = one->string};
                json_indent(out, &name, 0);
                buf_str(out, ": ");
            }
            json_indent(out, one, depth + 1);
        }
        if (v->child) buf_fmt(out, "\n%*s", (int)(4 * depth), "");
        buf_str(out, list ? "]" : "}");
    }
}

static char *tools_text(const cJSON *tools) {
    Buf b = {0};
    json_indent(&b, tools, 0);
    return b.data;
}

static char *message_parse(const cJSON *m, Chat *c) {
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(m, "role");
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(m, "content");
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(m, "metadata");
    const cJSON *tools = cJSON_GetObjectItemCaseSensitive(m, "tools");
    if (!cJSON_IsObject(m)) return strf("message %zu is no object", c->n + 1);
    if (!cJSON_IsString(role)) return strf("message %zu has no \"role\"", c->n + 1);
    const char *name = !strcmp(role->valuestring, "observation") ? "tool" : role->valuestring;
    int found = -1;
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, role_names[i])) found = i;
    if (found < 0) return strf("message %zu: role \"%.40s\" is none of system, user, assistant, tool", c->n + 1, name);
    if (!cJSON_IsString(content)) return strf("message %zu: \"content\" must be a string", c->n + 1);
    if (metadata && !cJSON_IsNull(metadata) && !cJSON_IsString(metadata))
        return strf("message %zu: \"metadata\" must be a string", c->n + 1);
    bool called = cJSON_IsString(metadata) && *metadata->valuestring;
    if (called && found != ROLE_ASSISTANT) return strf("message %zu: \"metadata\" is the assistant's", c->n + 1);
    if (called && strchr(metadata->valuestring, '\n'))
        return strf("message %zu: \"metadata\" is one line", c->n + 1);
    chat_add(c, (ChatRole)found, content->valuestring, called ? metadata->valuestring : NULL);
    if (tools && !cJSON_IsNull(tools)) {
        if (found != ROLE_SYSTEM) return strf("message %zu: \"tools\" belong to the system message", c->n);
        c->v[c->n - 1].tools = tools_text(tools);
    }
    return NULL;
}

char *chat_parse(const char *json, Chat *c) {
    const char *end = NULL;
    cJSON *line = cJSON_ParseWithOpts(json, &end, true);
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(line, "messages"), *m;
    char *why = NULL;
    if (!line) why = strf("not JSON from byte %zu on", end ? (size_t)(end - json) : (size_t)0);
    else if (!cJSON_IsArray(messages) || !messages->child)
        why = xstrdup("not a conversation: {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}");
    else
        cJSON_ArrayForEach(m, messages)
            if ((why = message_parse(m, c))) break;
    if (why) chat_free(c);
    cJSON_Delete(line);
    return why;
}

void chat_json(const Chat *c, size_t first, Buf *out) {
    buf_str(out, "{\"messages\":[");
    for (size_t i = first; i < c->n; i++) {
        const Message *m = &c->v[i];
        buf_fmt(out, "%s{\"role\":\"%s\",\"content\":\"", i > first ? "," : "", role_names[m->role]);
        json_escape(out, m->content, strlen(m->content));
        buf_str(out, "\"");
        if (m->metadata) {
            buf_str(out, ",\"metadata\":\"");
            json_escape(out, m->metadata, strlen(m->metadata));
            buf_str(out, "\"");
        }
        if (m->tools) {                                                    /* on one line again */
            cJSON *tools = cJSON_Parse(m->tools);
            char *text = cJSON_PrintUnformatted(tools);
            buf_fmt(out, ",\"tools\":%s", text ? text : "null");
            free(text);
            cJSON_Delete(tools);
        }
        buf_str(out, "}");
    }
    buf_str(out, "]}");
}

/* ================================================================================================================= *
 * [chat.form] {NAME} is the special token NAME of the tokenizer; {?NAME} that token where there is one, else its
 * letters; {bos} and {eos} those of the tokenizer ({end}: {eos}, if it names one); {prefix} what it puts before every
 * text; {#} the number of the round; {metadata} the tool that is called. {|} is nothing, only the end of one text and
 * the beginning of the next: the official code encodes the two apart.
 *
 * An answer is asked for by `ask`. What follows `ask`, up to and with the next special token, is what the model learns
 * to write, whichever message that token belongs to: in ChatGLM3 and GLM-4 an answer ends where another role begins,
 * and only at the very end with `last`. */
typedef enum { SYSTEM_MESSAGE, SYSTEM_IN_FIRST, SYSTEM_IN_LAST, SYSTEM_NOWHERE } SystemPlace;
typedef struct { const char *before, *after; } Around;
struct ChatForm {
    const char *name;
    const char *needs;             /* the row counts only where the tokenizer has this token; NULL: always */
    const char *begin;
    Around system, user, tool;     /* tool.before NULL: no place for a tool's answer */
    const char *ask;
    Around assistant;
    const char *last;              /* ends an answer that nothing follows */
    SystemPlace system_place;      /* a message of its own, or before a user's words */
    bool strip, strip_answer;      /* blanks around a message: off, as Python's strip() */
    bool turns;                    /* user and assistant must take turns */
    bool history_is_text;          /* earlier rounds are one text, and only the last answer is the model's */
    bool bare_first;               /* a first round stands alone, without its decoration */
    int first_round;
    bool calls;                    /* {metadata} and tools are known */
};

static const ChatForm forms[] = {
    {"chatml", .system = {"{<|im_start|>}system\n", "{<|im_end|>}\n"},
     .user = {"{<|im_start|>}user\n", "{<|im_end|>}\n"},
     .tool = {"{<|im_start|>}user\n{?<tool_response>}\n", "\n{?</tool_response>}{<|im_end|>}\n"},
     .ask = "{<|im_start|>}assistant\n", .assistant = {"", "{<|im_end|>}\n"}},
    /* Trained on the letters of [INST], not on tokens; each round between BOS and EOS. */
    {"llama2", .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"}, .user = {"{bos}[INST] ", " [/INST]"}, .ask = "",
     .assistant = {" ", " {eos}"}, .system_place = SYSTEM_IN_FIRST, .strip = true, .strip_answer = true,
     .turns = true},
    {"llama3", .begin = "{bos}", .system = {"{<|start_header_id|>}system{<|end_header_id|>}\n\n", "{<|eot_id|>}"},
     .user = {"{<|start_header_id|>}user{<|end_header_id|>}\n\n", "{<|eot_id|>}"},
     .tool = {"{<|start_header_id|>}ipython{<|end_header_id|>}\n\n", "{<|eot_id|>}"},
     .ask = "{<|start_header_id|>}assistant{<|end_header_id|>}\n\n", .assistant = {"", "{<|eot_id|>}"}, .strip = true,
     .strip_answer = true},
    /* v0.2 and v0.3 have [INST] as a token; the blank behind it is the one that SentencePiece puts before any text. */
    {"mistral", .needs = "[INST]", .begin = "{bos}", .system = {"", "\n\n"}, .user = {"{[INST]}", "{[/INST]}"},
     .ask = "", .assistant = {"", "{eos}"}, .system_place = SYSTEM_IN_LAST, .strip_answer = true, .turns = true},
    {"mistral", .begin = "{bos}", .system = {"", "\n\n"}, .user = {"[INST] ", " [/INST]"}, .ask = "",
     .assistant = {" ", "{eos}"}, .system_place = SYSTEM_IN_FIRST, .turns = true},
    {"chatglm1", .user = {"[Round {#}]\n问：", "\n答："}, .ask = "{[gMASK]}{<sop>}", .assistant = {"", "\n"},
     .last = "{<eop>}", .system_place = SYSTEM_NOWHERE, .turns = true, .history_is_text = true, .bare_first = true},
    {"chatglm2", .begin = "{[gMASK]}{sop}", .user = {"[Round {#}]\n\n问：", "\n\n答："}, .ask = "",
     .assistant = {"", "\n\n"}, .last = "{eos}", .system_place = SYSTEM_NOWHERE, .turns = true,
     .history_is_text = true, .first_round = 1},
    {"chatglm3", .begin = "{[gMASK]}{sop}", .system = {"{<|system|>}\n{|}", ""}, .user = {"{<|user|>}\n{|}", ""},
     .tool = {"{<|observation|>}\n{|}", ""}, .ask = "{<|assistant|>}", .assistant = {"{metadata}\n{|}", ""},
     .last = "{eos}", .calls = true},
    {"glm4", .begin = "{[gMASK]}{<sop>}", .system = {"{<|system|>}\n{|}", ""}, .user = {"{<|user|>}\n{|}", ""},
     .tool = {"{<|observation|>}\n{|}", ""}, .ask = "{<|assistant|>}", .assistant = {"{metadata}\n{|}", ""},
     .last = "{eos}", .calls = true},
    /* For models that were taught nothing but text: letters only (Taori et al. 2023's headings). */
    {"alpaca", .begin = "{prefix}", .system = {"", "\n\n"}, .user = {"### Instruction:\n", "\n\n"},
     .ask = "### Response:\n", .assistant = {"", "{eos}"}},
    {"plain", .begin = "{prefix}", .system = {"", "\n"}, .user = {"", ""}, .ask = "", .assistant = {"", "{end}"}},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

static const ChatForm *form_named(const char *name, const Tokenizer *tok) {
    for (int i = 0; i < N_FORMS; i++)
        if (!strcmp(forms[i].name, name) && (!forms[i].needs || tokenizer_id(tok, forms[i].needs) >= 0))
            return &forms[i];
    die("--template %s: no such template; known are " CHAT_TEMPLATES, name);
}

/* The next part of a markup string at *at: a run of letters (returns false), or what stands in braces (true). */
static bool markup_next(const char **at, const char **part, size_t *n) {
    bool named = **at == '{';
    *part = *at + named;
    *n = strcspn(*part, named ? "}" : "{");
    *at = *part + *n + named;
    return named;
}
static bool is(const char *part, size_t n, const char *word) { return n == strlen(word) && !memcmp(part, word, n); }

/* The token that {part} means; -1: none, or no token is meant. */
static int32_t markup_id(const ChatForm *f, const Tokenizer *tok, const char *part, size_t n) {
    if (is(part, n, "|") || is(part, n, "#") || is(part, n, "metadata") || is(part, n, "prefix")) return -1;
    bool bos = is(part, n, "bos"), eos = is(part, n, "eos"), end = is(part, n, "end");
    int32_t id = bos ? tokenizer_bos(tok) : eos || end ? tokenizer_eos(tok) : -1;
    if (id >= 0 || end) return id;
    if (bos || eos)
        die("template %s needs the token that %s a text, and this tokenizer names none", f->name,
            bos ? "begins" : "ends");
    bool optional = *part == '?';
    char *name = strf("%.*s", (int)n - optional, part + optional);
    id = tokenizer_id(tok, name);
    if (id < 0 && !optional)
        die("template %s needs the token %s, and this tokenizer has none: is it another model's template?", f->name,
            name);
    free(name);
    return id;
}

/* Every place of a row that holds markup. */
enum { N_PLACES = 11 };
static void form_places(const ChatForm *f, const char *place[N_PLACES]) {
    const char *all[N_PLACES] = {f->begin, f->system.before, f->system.after, f->user.before, f->user.after,
                                 f->tool.before, f->tool.after, f->ask, f->assistant.before, f->assistant.after,
                                 f->last};
    for (int i = 0; i < N_PLACES; i++) place[i] = all[i] ? all[i] : "";
}

void chat_stops(const ChatTemplate *t, const Tokenizer *tok, Ids *stops) {
    const char *place[N_PLACES], *part;
    size_t n;
    form_places(t->form, place);
    for (int i = 0; i < N_PLACES; i++)
        for (const char *at = place[i]; *at;)
            if (markup_next(&at, &part, &n) && *part != '?') {
                int32_t id = markup_id(t->form, tok, part, n);
                if (id >= 0) ids_add(stops, id);
            }
}

bool chat_goes_on(const ChatTemplate *t, const Tokenizer *tok, int32_t id) {
    const char *at = t->form->ask, *part;
    size_t n;
    return t->form->calls && markup_next(&at, &part, &n) && markup_id(t->form, tok, part, n) == id;
}

const char *chat_template_name(const ChatTemplate *t) { return t->form->name; }
bool chat_has_system(const ChatTemplate *t) { return t->form->system_place != SYSTEM_NOWHERE; }
void chat_template_free(ChatTemplate *t) {
    free(t->system);
    free(t->system_lead);
    *t = (ChatTemplate){0};
}

/* ================================================================================================================= *
 * [chat.find] Newer directories have the template in chat_template.jinja, older ones in tokenizer_config.json;
 * ChatGLM's first generations have none, their form is in their tokenizer's code. */
static cJSON *json_in_dir(const char *dir, const char *file) {              /* NULL: no such file */
    char *path = path_join(dir, file);
    cJSON *json = file_exists(path) ? json_read(path, JSON_OBJECT) : NULL;
    free(path);
    return json;
}

static char *template_text(const char *dir) {                               /* NULL: none */
    char *path = path_join(dir, "chat_template.jinja"), *text = NULL;
    if (file_exists(path)) text = file_read(path, NULL);
    else {
        cJSON *config = json_in_dir(dir, "tokenizer_config.json");
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, "chat_template"), *one;
        cJSON_ArrayForEach(one, v) { /* several by name: [{"name": "default", "template": "..."}, ...] */
            const cJSON *name = cJSON_GetObjectItemCaseSensitive(one, "name");
            if (cJSON_IsString(name) && !strcmp(name->valuestring, "default"))
                v = cJSON_GetObjectItemCaseSensitive(one, "template");
            if (cJSON_IsString(v)) break;
        }
        if (cJSON_IsString(v) && *v->valuestring) text = xstrdup(v->valuestring);
        cJSON_Delete(config);
    }
    free(path);
    return text;
}

/* The telling parts of a Jinja template, the most telling first. */
static const struct { const char *has, *name; } telling[] = {
    {"<|im_start|>", "chatml"}, {"<|start_header_id|>", "llama3"}, {"<<SYS>>", "llama2"}, {"[INST]", "mistral"},
    {"[gMASK]<sop>", "glm4"},   {"[gMASK]sop", "chatglm3"}, {"### Instruction:", "alpaca"},
};
static const char *template_told(const char *jinja) {                      /* NULL: none that is known here */
    for (size_t i = 0; i < sizeof telling / sizeof *telling; i++)
        if (strstr(jinja, telling[i].has)) return telling[i].name;
    return NULL;
}
/* The forms as Jinja, for others' eyes: what apply_chat_template makes of it are the ids that chat_format gives. */
static const struct { const char *name, *jinja; } written[] = {
    {"chatml", "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% "
               "endfor %}"
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"llama3", "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
               "'<|end_header_id|>\\n\\n' + "
               "m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
               "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"llama2", "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
               "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
               "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}"
               "{% for m in turns %}{% if m['role'] == 'user' %}{% set said = (system if loop.first else '') + "
               "m['content'] %}"
               "{{ bos_token + '[INST] ' + said | trim + ' [/INST]' }}"
               "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"},
    {"alpaca", "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\\n' + m['content'] + '\\n\\n' "
               "}}"
               "{% elif m['role'] == 'assistant' %}{{ '### Response:\\n' + m['content'] + eos_token }}"
               "{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
               "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"},
};

/* Where no template is given: tokens that only one form has. */
static const struct { const char *token[3], *name; } telling_tokens[] = {
    {{"<|im_start|>", "<|im_end|>", NULL}, "chatml"},
    {{"<|start_header_id|>", "<|eot_id|>", NULL}, "llama3"},
    {{"<sop>", "<|system|>", "<|observation|>"}, "glm4"},
    {{"sop", "<|system|>", "<|observation|>"}, "chatglm3"},
    {{"[gMASK]", "<sop>", "<eop>"}, "chatglm1"},
    {{"[gMASK]", "sop", "eop"}, "chatglm2"},
};

/* "<|im_start|>system\nYou are...<|im_end|>" in one literal of the template is what a missing system message becomes.
 * The text is Jinja's, where a newline is spelt \n. NULL: none. */
static char *default_system(const char *jinja) {
    static const char opening[] = "<|im_start|>system\\n", closing[] = "<|im_end|>";
    for (const char *at = jinja; (at = strstr(at, opening));) {
        at += strlen(opening);
        const char *end = strstr(at, closing);
        if (!end || end == at || strcspn(at, "'\"{}\\") < (size_t)(end - at)) continue; /* more than a literal */
        return strf("%.*s", (int)(end - at), at);
    }
    return NULL;
}

ChatTemplate chat_template(const char *dir, const Tokenizer *tok, const char *name) {
    char *jinja = template_text(dir), *wanted = name ? xstrdup(name) : NULL;
    ChatTemplate t = {.found_by = "--template"};
    if (!wanted && jinja) {
        const char *told = template_told(jinja);
        wanted = told ? xstrdup(told) : NULL;
        if (!wanted) die("%s: its chat_template is none of those known here; choose one with --template "
                         CHAT_TEMPLATES, dir);
        t.found_by = "its chat_template";
    }
    if (!wanted) {
        /* ChatGLM2 has the vocabulary file of ChatGLM3, so a tokenizer may show the roles in both. */
        cJSON *config = json_in_dir(dir, "config.json");
        const cJSON *origin = cJSON_GetObjectItemCaseSensitive(config, "_name_or_path");
        if (cJSON_IsString(origin) && strstr(origin->valuestring, "chatglm2")) wanted = xstrdup("chatglm2");
        t.found_by = wanted ? "_name_or_path" : "its special tokens";
        cJSON_Delete(config);
    }
    for (size_t i = 0; !wanted && i < sizeof telling_tokens / sizeof *telling_tokens; i++) {
        bool all = true;
        for (int k = 0; k < 3 && telling_tokens[i].token[k]; k++)
            all &= tokenizer_id(tok, telling_tokens[i].token[k]) >= 0;
        if (all) wanted = xstrdup(telling_tokens[i].name);
    }
    if (!wanted) {
        t.found_by = "no chat_template: the model goes on with the text, it was not taught to answer";
        wanted = xstrdup("plain");
    }
    t.form = form_named(wanted, tok);
    if (jinja && !strcmp(wanted, "chatml")) {
        t.system = default_system(jinja);
        t.drop_thoughts = strstr(jinja, "</think>");
    }
    /* Llama 3.1 and later tell every conversation a date; 3.1's is fixed, and a fixed one keeps results the same. */
    if (jinja && !strcmp(wanted, "llama3") && strstr(jinja, "Cutting Knowledge Date: December 2023")) {
        t.system = xstrdup("");
        t.system_lead = xstrdup("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
    }
    Ids tokens = {0};
    chat_stops(&t, tok, &tokens);                                           /* dies on a missing token */
    ids_free(&tokens);
    free(jinja);
    free(wanted);
    return t;
}

bool chat_template_save(const ChatTemplate *t, const Tokenizer *tok, const char *dir) {
    char *had = template_text(dir);
    const char *told = had ? template_told(had) : NULL, *jinja = NULL;
    bool same = told && !strcmp(told, t->form->name);
    free(had);
    if (same) return true;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++)
        if (!strcmp(written[i].name, t->form->name)) jinja = written[i].jinja;
    if (!jinja) return false;
    bool bos = !strcmp(t->form->name, "alpaca") && tokenizer_prefix(tok)->n;    /* its {prefix} */
    char *text = strf("%s%s", bos ? "{{ bos_token }}" : "", jinja), *path = path_join(dir, "chat_template.jinja");
    if (file_exists(path)) file_write(path, text, strlen(text));
    free(path);
    cJSON *config = json_in_dir(dir, "tokenizer_config.json");
    if (!config) config = cJSON_CreateObject();
    cJSON_DeleteItemFromObjectCaseSensitive(config, "chat_template");
    cJSON_AddStringToObject(config, "chat_template", text);
    free(text);
    text = cJSON_Print(config);
    path = path_join(dir, "tokenizer_config.json");
    file_write(path, text, strlen(text));
    free(text);
    free(path);
    cJSON_Delete(config);
    return true;
}

/* ================================================================================================================= *
 * [chat.format] A Writer gathers text until a special token comes, then encodes it. */
typedef struct {
    const ChatForm *form;
    const Tokenizer *tok;
    Ids *ids;
    Buf *targets;                  /* NULL: nobody asks */
    Buf text;                      /* since the last special token */
    size_t words_at;               /* where in the text the assistant begins, when begins */
    bool begins, on;               /* on: what comes is the assistant's */
    size_t round;
    const char *metadata;
} Writer;

static void mark(Writer *w, size_t n, bool target) {
    if (w->targets) for (size_t i = 0; i < n; i++) buf_add(w->targets, &(char){target}, 1);
}

/* A token may hold the end of the question and the beginning of the answer. It is to be learnt: what the model is given
 * is the question encoded alone, and the first token where the two differ is the first that it must write. */
static void text_end(Writer *w) {
    if (!w->text.len) return;
    size_t first = w->ids->n, n_given = 0;
    tokenizer_encode(w->tok, w->text.data, w->text.len, false, w->ids);
    size_t n = w->ids->n - first;
    if (w->begins && w->targets) {
        Ids given = {0};
        tokenizer_encode(w->tok, w->text.data, w->words_at, false, &given);
        while (n_given < given.n && n_given < n && given.v[n_given] == w->ids->v[first + n_given]) n_given++;
        ids_free(&given);
        mark(w, n_given, false);
    }
    w->on |= w->begins;
    w->begins = false;
    mark(w, n - n_given, w->on);
    w->text.len = 0;
}
static void special(Writer *w, int32_t id) {
    text_end(w);
    ids_add(w->ids, id);
    mark(w, 1, w->on);
    w->on = false;                                                          /* it ended the answer */
}
static void answer_begins(Writer *w) {
    if (!w->text.len) w->on = true;
    else w->begins = true, w->words_at = w->text.len;
}

static void markup(Writer *w, const char *s) {
    const char *part;
    size_t n;
    while (s && *s) {
        if (!markup_next(&s, &part, &n)) {
            buf_add(&w->text, part, n);
            continue;
        }
        int32_t id = markup_id(w->form, w->tok, part, n);
        if (id >= 0) special(w, id);
        else if (is(part, n, "|")) text_end(w);
        else if (is(part, n, "#")) buf_fmt(&w->text, "%zu", w->round);
        else if (is(part, n, "metadata")) buf_str(&w->text, w->metadata ? w->metadata : "");
        else if (is(part, n, "prefix"))
            for (size_t i = 0; i < tokenizer_prefix(w->tok)->n; i++) special(w, tokenizer_prefix(w->tok)->v[i]);
        else if (*part == '?') buf_add(&w->text, part + 1, n - 1);
    }
}

/* White space at s (n bytes) as Python's str.isspace has it: its length, 0 where there is none. */
static size_t blank_at(const char *s, size_t n) {
    const unsigned char *u = (const unsigned char *)s;
    if (!n) return 0;
    if (*u == ' ' || (*u >= 9 && *u <= 13) || (*u >= 0x1C && *u <= 0x1F)) return 1;
    if (n >= 2 && *u == 0xC2 && (u[1] == 0x85 || u[1] == 0xA0)) return 2;
    static const char wide[][4] = {"\u1680", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"};
    for (size_t i = 0; n >= 3 && i < sizeof wide / sizeof *wide; i++)
        if (!memcmp(s, wide[i], 3)) return 3;
    return n >= 3 && *u == 0xE2 && u[1] == 0x80 && u[2] >= 0x80 && u[2] <= 0x8A ? 3 : 0; /* U+2000 .. U+200A */
}
static size_t blanks(const char *s, size_t n) {
    size_t at = 0;
    for (size_t len; (len = blank_at(s + at, n - at)); at += len) {}
    return at;
}
static size_t without_blanks_behind(const char *s, size_t n) {
    for (size_t len = 1; n && len;) {
        len = 0;
        for (size_t k = 1; k <= 3 && k <= n && !len; k++)
            if (blank_at(s + n - k, k) == k) len = k;
        n -= len;
    }
    return n;
}

static void text_add(Writer *w, const char *s, bool strip) {
    size_t n = strlen(s), skip = strip ? blanks(s, n) : 0;
    buf_add(&w->text, s + skip, strip ? without_blanks_behind(s + skip, n - skip) : n);
}

char *chat_problem(const ChatTemplate *t, const Chat *c) {
    const ChatForm *f = t->form;
    if (!c->n) return xstrdup("the conversation is empty");
    size_t first = c->v[0].role == ROLE_SYSTEM;
    for (size_t i = 0; i < c->n; i++) {
        const Message *m = &c->v[i];
        if (m->role == ROLE_TOOL && !f->tool.before)
            return strf("template %s has no place for a tool's answer", f->name);
        if ((m->tools || m->metadata) && !f->calls) return strf("template %s knows no tools", f->name);
        if (m->tools && strcmp(f->name, "chatglm3")) return strf("template %s: tools are not known here", f->name);
        if (i && m->role == ROLE_SYSTEM && (f->turns || !f->system.before))
            return strf("template %s: only the first message can be the system's", f->name);
        if (f->turns && i >= first && (m->role == ROLE_USER) != ((i - first) % 2 == 0))
            return strf("template %s: user and assistant must take turns, and message %zu does not", f->name, i + 1);
    }
    if (f->turns && c->n == first) return strf("template %s: there must be a user's message", f->name);
    return NULL;
}

/* Qwen3 thinks aloud before it answers; what it thought in earlier rounds is not shown to it again. */
static const char *without_thoughts(const char *s) {
    for (const char *at; (at = strstr(s, "</think>"));) {
        s = at + strlen("</think>");
        s += strspn(s, "\n");
    }
    return s;
}

static void system_message(Writer *w, const ChatTemplate *t, const Message *m) {
    markup(w, w->form->system.before);
    if (t->system_lead) buf_str(&w->text, t->system_lead);
    text_add(w, m->content, w->form->strip);
    if (m->tools) buf_str(&w->text, "\n"), buf_str(&w->text, m->tools);
    markup(w, w->form->system.after);
}

/* system: what stands before the user's words, or NULL. llama2 strips the two together, so blanks between them stay. */
static void user_message(Writer *w, const Message *m, const Message *system, bool bare) {
    const ChatForm *f = w->form;
    Buf all = {0};
    if (system) buf_str(&all, f->system.before), buf_str(&all, system->content), buf_str(&all, f->system.after);
    buf_str(&all, m->content);
    if (!bare) markup(w, f->user.before);
    text_add(w, all.data, f->strip);
    if (!bare) markup(w, f->user.after);
    buf_free(&all);
}

void chat_format(const ChatTemplate *t, const Tokenizer *tok, const Chat *c, bool ask, Ids *ids, Buf *targets) {
    char *why = chat_problem(t, c);
    if (why) die("%s", why);
    const ChatForm *f = t->form;
    const Message stands_in = {ROLE_SYSTEM, t->system, NULL, NULL};
    const Message *system = c->v[0].role == ROLE_SYSTEM ? &c->v[0] : t->system ? &stands_in : NULL;
    size_t first = c->v[0].role == ROLE_SYSTEM, last_user = first;
    for (size_t i = first; i < c->n; i++)
        if (c->v[i].role == ROLE_USER) last_user = i;
    size_t system_at = f->system_place == SYSTEM_IN_FIRST  ? first
                     : f->system_place == SYSTEM_IN_LAST ? last_user
                                                         : SIZE_MAX;
    bool bare = f->bare_first && last_user == first;

    Writer w = {.form = f, .tok = tok, .ids = ids, .targets = targets, .round = (size_t)f->first_round};
    markup(&w, f->begin);
    if (system && f->system_place == SYSTEM_MESSAGE) system_message(&w, t, system);
    for (size_t i = first; i < c->n; i++) {
        const Message *m = &c->v[i];
        bool last = i + 1 == c->n && !ask;
        switch (m->role) {
        case ROLE_SYSTEM: system_message(&w, t, m); break;
        case ROLE_USER: user_message(&w, m, i == system_at ? system : NULL, bare); break;
        case ROLE_TOOL:
            markup(&w, f->tool.before);
            text_add(&w, m->content, f->strip);
            markup(&w, f->tool.after);
            break;
        case ROLE_ASSISTANT:
            w.metadata = m->metadata;
            if (!f->history_is_text || last) {
                markup(&w, f->ask);
                if (f->history_is_text) text_end(&w);                       /* the official code encodes it apart */
                answer_begins(&w);
            }
            markup(&w, f->assistant.before);
            text_add(&w, t->drop_thoughts && i < last_user ? without_thoughts(m->content) : m->content,
                     f->strip_answer && !m->metadata);
            if (last && f->last) markup(&w, f->last);
            else markup(&w, f->assistant.after);
            w.round++;
            break;
        }
    }
    if (ask) markup(&w, f->ask);
    text_end(&w);
    buf_free(&w.text);
}

/* ================================================================================================================= *
 * [chat.answer] Blanks before an answer belong to the notation: llama2's [/INST] is followed by one. */
bool chat_words(const ChatTemplate *t, const char *text, size_t n, bool whole, size_t *words, const char **call,
                size_t *n_call) {
    *words = 0, *call = text, *n_call = 0;
    if (t->form->calls) {                                                   /* the first line is the metadata */
        const char *newline = n ? memchr(text, '\n', n) : NULL;
        if (!newline && !whole) return false;
        if (newline) {
            size_t line = (size_t)(newline - text), skip = blanks(text, line);
            *call = text + skip;
            *n_call = without_blanks_behind(*call, line - skip);
            *words = line + 1;
        }
    }
    *words += blanks(text + *words, n - *words);
    return whole || *words < n;
}

void chat_add_answer(const ChatTemplate *t, Chat *c, const char *text, size_t n) {
    const char *call;
    size_t words, n_call;
    chat_words(t, text, n, true, &words, &call, &n_call);
    if (!t->form->calls) words = 0;                                         /* the template strips, if anybody does */
    size_t len = t->form->calls ? without_blanks_behind(text + words, n - words) : n;
    char *metadata = n_call ? strf("%.*s", (int)n_call, call) : NULL;
    Buf content = {0};
    for (size_t i = words; i < words + len; i++)                            /* a message is a C string */
        buf_add(&content, text[i] ? text + i : "\xEF\xBF\xBD", text[i] ? 1 : 3);
    chat_add(c, ROLE_ASSISTANT, content.data ? content.data : "", metadata);
    buf_free(&content);
    free(metadata);
}
