/* conformance_chat.c - conversations against the ids of the official code, on real vocabularies.
 *
 * A folder of goldens has tokenizer_goldens/chat.jsonl, one conversation a line: "template", "messages",
 * "add_generation_prompt" and the "ids" that the official code gives; and tokenizers/NAME with the files, as they are
 * or as .gz. Each template is recognised by its directory: a wrong guess gives wrong ids. Beside the ids it is checked
 * that every answer, and nothing else, is to be learnt: what a conversation's ids are does not depend on being asked.
 *
 * Until the conformance program calls it, it is a program of its own:
 *     gcc -DCONFORMANCE_ALONE -I. tests/conformance_chat.c build/gcc/libtea.a ... && ./a.out DIR */
#include "chat.h"
#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void conformance_chat(const char *dir);
#ifdef CONFORMANCE_ALONE
static int n_passed, n_failed;
PRINTF_LIKE(2, 3) static void check(bool ok, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    printf(ok ? "ok    " : "FAIL  ");
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    *(ok ? &n_passed : &n_failed) += 1;
}
int main(int argc, char **argv) {
    if (argc != 2) die_usage("which folder of golden data?");
    conformance_chat(argv[1]);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed || !n_passed;
}
#else
#include "conformance.h"
#endif

/* The template's tokenizer by its folder's name, where the two differ. */
static const char *tokenizer_name(const char *template) {
    return !strcmp(template, "chatml") ? "qwen2" : template;
}

/* A directory with the files of dir, each .gz unpacked: a new name. */
static char *unpacked(const char *dir) {
    char *out = xstrdup("/tmp/tea-chat-XXXXXX");
    DIR *d = opendir(dir);
    if (!d || !mkdtemp(out)) die("%s: cannot be unpacked", dir);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        bool gz = n > 3 && !strcmp(e->d_name + n - 3, ".gz");
        if (e->d_name[0] == '.') continue;
        char *from = path_join(dir, e->d_name), *name = strf("%.*s", (int)(gz ? n - 3 : n), e->d_name);
        char *to = path_join(out, name), *real = realpath(from, NULL);
        char *command = strf("gzip -dc '%s' >'%s'", from, to);
        if (gz ? system(command) != 0 : !real || symlink(real, to)) die("%s: cannot be unpacked into %s", from, to);
        free(from), free(name), free(to), free(real), free(command);
    }
    closedir(d);
    return out;
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
                        char *from = path_join(tokenizers, tokenizer_name(names[k])), *files = unpacked(from);
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
