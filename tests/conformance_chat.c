/* conformance_chat.c - conversations against the ids of the official code, on real vocabularies.
 *
 * A folder of goldens has tokenizer_goldens/chat.jsonl, one conversation a line: "template", "messages",
 * "add_generation_prompt" and the "ids" that the official code gives; and tokenizers/NAME with the files, as they are
 * or as .gz. Each template is recognised by its directory: a wrong guess gives wrong ids. Beside the ids it is checked
 * that every answer, and nothing else, is to be learnt: what a conversation's ids are does not depend on being
 * asked. */
#include "chat.h"
#include "conformance.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* The template's tokenizer by its folder's name, where the two differ. */
static const char *tokenizer_name(const char *template) {
    return !strcmp(template, "chatml") ? "qwen2" : template;
}

static void check_row(const ChatTemplate *t, const Tokenizer *tok, const char *line, const cJSON *row, size_t n_line) {
    Chat c = {0};
    Ids ids = {0}, again = {0};
    Buf targets = {0};
    const cJSON *want = cJSON_GetObjectItem(row, "ids"), *one;
    bool ask = cJSON_IsTrue(cJSON_GetObjectItem(row, "add_generation_prompt"));
    char *why = chat_parse(line, &c);
    if (why) die("chat.jsonl, line %zu: %s", n_line, why);
    chat_format(t, tok, &c, ask, &ids, &targets);
    chat_format(t, tok, &c, ask, &again, NULL);
    size_t n_want = (size_t)cJSON_GetArraySize(want), same = 0, n_answers = 0, n_runs = 0;
    cJSON_ArrayForEach(one, want) {
        if (same == ids.n || ids.v[same] != one->valueint) break;
        same++;
    }
    check(same == n_want && ids.n == n_want && again.n == n_want && !memcmp(again.v, ids.v, n_want * 4),
          "chat.jsonl line %zu, %s: %zu of %zu ids, %zu given", n_line, chat_template_name(t), same, n_want, ids.n);
    for (size_t i = 0; i < c.n; i++) n_answers += c.v[i].role == ROLE_ASSISTANT;
    for (size_t i = 0; i < targets.len; i++) n_runs += targets.data[i] && (!i || !targets.data[i - 1]);
    if (!strcmp(chat_template_name(t), "chatglm1")) n_answers = 0;          /* with a question open, none is the last */
    check(targets.len == ids.n && n_runs == n_answers, "   %zu answers to be learnt in %zu runs of ids", n_answers,
          n_runs);
    chat_free(&c), ids_free(&ids), ids_free(&again), buf_free(&targets);
}

void conformance_chat(const char *dir) {
    char *path = path_join(dir, "tokenizer_goldens/chat.jsonl"), *tokenizers = path_join(dir, "tokenizers");
    if (file_exists(path) && is_dir(tokenizers)) {
        char *text = file_read(path, NULL), loaded[32] = "";
        Tokenizer *tok = NULL;
        ChatTemplate t = {0};
        const char *const names[] = {"llama2", "llama3", "chatml", "chatglm1", "chatglm3"};
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {         /* one big vocabulary at a time */
            size_t n_line = 0;
            for (char *line = text, *end; *line; line = end + (*end != 0), n_line++) {
                end = line + strcspn(line, "\n");
                char *row_text = strf("%.*s", (int)(end - line), line);
                cJSON *row = cJSON_Parse(row_text);
                const cJSON *template = cJSON_GetObjectItem(row, "template");
                if (cJSON_IsString(template) && !strcmp(template->valuestring, names[k])) {
                    if (strcmp(loaded, names[k])) {
                        char *from = path_join(tokenizers, tokenizer_name(names[k])), *files = unpacked(from, NULL);
                        tok = tokenizer_load(files);
                        t = chat_template(files, tok, NULL);
                        check(!strcmp(chat_template_name(&t), names[k]), "%s: recognised by %s", names[k], t.found_by);
                        dir_remove(files);
                        snprintf(loaded, sizeof loaded, "%s", names[k]);
                        free(from), free(files);
                    }
                    check_row(&t, tok, row_text, row, n_line + 1);
                }
                cJSON_Delete(row), free(row_text);
            }
            if (tok) tokenizer_free(tok), chat_template_free(&t);
            tok = NULL;
        }
        free(text);
    }
    free(path), free(tokenizers);
}
