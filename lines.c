/* lines.c - a line editor for people, plain lines for programs.
 *
 * libedit (BSD licence) gives arrows, history, and characters of two columns that a backspace takes whole. A pipe gets
 * plain lines and no prompts. This is a file of its own because libedit's header has a Tokenizer too. */
#include "lines.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef HAVE_LIBEDIT
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#endif

static struct {
    bool person;
    const char *file, *prompt;
#ifdef HAVE_LIBEDIT
    EditLine *edit;
    History *history;
#endif
} lines;

#ifdef HAVE_LIBEDIT
static char *lines_prompt(EditLine *e) { (void)e; return (char *)(uintptr_t)lines.prompt; }
#endif
void interrupts_arm(void) {
    stop_requested = 0;
    catch_signals();
    signal(SIGTERM, SIG_DFL);
}

void lines_open(const char *history_file) {
    interrupts_arm();
    lines.person = isatty(STDIN_FILENO);
    lines.file = history_file;
#ifdef HAVE_LIBEDIT
    if (!lines.person) return;
    /* libedit reads characters as the locale spells them; "C" has none beyond ASCII. Numbers keep their point. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8")) setlocale(LC_CTYPE, "C.UTF-8");
    HistEvent event;
    lines.edit = el_init("tea", stdin, stderr, stderr);            /* stdout has the answers and nothing else */
    lines.history = history_init();
    if (!lines.edit || !lines.history) die("libedit: cannot use this terminal");
    history(lines.history, &event, H_SETSIZE, 1000);
    history(lines.history, &event, H_SETUNIQUE, 1);
    if (lines.file) history(lines.history, &event, H_LOAD, lines.file);
    el_set(lines.edit, EL_HIST, history, lines.history);
    el_set(lines.edit, EL_PROMPT, lines_prompt);
    el_set(lines.edit, EL_EDITOR, "emacs");
    el_set(lines.edit, EL_SIGNAL, 1);
    el_set(lines.edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    /* While a line is typed Ctrl-C is a key: it clears the line. */
    el_set(lines.edit, EL_SETTY, "-d", "-isig", NULL);
    el_set(lines.edit, EL_BIND, "^C", "em-kill-line", NULL);
#endif
}
void lines_close(void) {
#ifdef HAVE_LIBEDIT
    if (!lines.edit) return;
    HistEvent event;
    if (lines.file && history(lines.history, &event, H_SAVE, lines.file) < 0)
        warn("%s: cannot write the history: %s", lines.file, strerror(errno));
    history_end(lines.history);
    el_end(lines.edit);
#endif
}
/* One line without its end, a new string; NULL at the end of input. */
static char *lines_next(const char *prompt) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = -1;
    lines.prompt = prompt;
#ifdef HAVE_LIBEDIT
    if (lines.edit) {
        int len = 0;
        const char *typed = el_gets(lines.edit, &len);
        if (!typed || len <= 0) return fputs("\n", stderr), NULL;
        line = strf("%.*s", len, typed);
        n = len;
    } else
#endif
    {
        for (;; fputs("\n", stderr), clearerr(stdin)) {                    /* again after a Ctrl-C */
            if (lines.person) fputs(prompt, stderr);
            interrupts_arm();
            n = getline(&line, &cap, stdin);
            if (n >= 0 || !stop_requested || !lines.person) break;
        }
        if (n < 0) {
            if (ferror(stdin) && !stop_requested) die("stdin: %s", strerror(errno));
            free(line);
            return NULL;
        }
    }
    for (ssize_t i = 0; i < n; i++) if (!line[i]) line[i] = ' ';    /* a C string has no NUL in it */
    while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
#ifdef HAVE_LIBEDIT
    HistEvent event;
    if (lines.history && n) history(lines.history, &event, H_ENTER, line);
#endif
    return line;
}
char *lines_message(void) {
    Buf b = {0};
    char *line = lines_next("> ");
    if (!line) return NULL;
    for (;;) {
        size_t n = strlen(line);
        bool more = n && line[n - 1] == '\\';
        buf_add(&b, line, n - more);
        free(line);
        if (!more) break;
        buf_str(&b, "\n");
        if (!(line = lines_next("  "))) break;
    }
    return b.data;
}
