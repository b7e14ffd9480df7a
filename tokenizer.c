/* tokenizer.c - stage 1: text becomes numbers, numbers become text.
 *
 * A language model sees integers. This stage learns which pieces of text deserve a number of their own (train), turns
 * text into those numbers (encode) and back (decode), and shows how it got there (show). The method is byte-level BPE,
 * byte pair encoding: start from the 256 bytes, so that no text is ever unknown, and let training find which two
 * neighbours are most often seen together; they become one new token, and so on until the vocabulary is full.
 * Encoding replays those merges, oldest first.
 *
 *     ./tokenizer train --data corpus.txt --vocab 32000 --out my-tokenizer      a directory Hugging Face loads
 *     ./tokenizer train --data corpus:5M --vocab 4096 --out out/tok             a laptop: seconds, built-in corpus
 *     ./tokenizer show --model out/tok --text "The cat's 12 hats"               how BPE works, merge by merge
 *     ./tokenizer encode --model out/tok --text "The cat" | ./tokenizer decode --model out/tok
 *
 * Map, in the order in which a text meets the parts. They are the library that every other stage uses, and live in
 * tokenizers/, one subject a file; parts.h there says what they share. Here are the command line and the lesson.
 *     unicode.c   [tok.bytes]   UTF-8, and the alphabet in which vocabulary files spell bytes
 *                 [tok.class]   letters, numbers, white space: what Unicode says of a character
 *     norm.c      [tok.norm]    text -> text, where a tokenizer asks for it: one spelling for accented characters, ...
 *     split.h     [tok.split]   text -> words, by the rules of GPT-2 and of Llama-3 (no merge crosses a word's border)
 *     pretok.c    [tok.regex]   patterns of any other kind                  [tok.pieces]  cutting by steps
 *     vocab.c     [tok.vocab]   token <-> id; the table of merges
 *     bpe.c       [tok.bpe]     word -> ids: the lowest-ranked merge first; the same for very long words
 *                 [tok.joins]   where no merge can reach across: words for tokenizers that have no splitter
 *     encode.c    [tok.added]   special tokens: found before anything else, and only where the caller allows
 *                 [tok.cache]   most words have been seen before
 *                 [tok.encode]  all of it, in order           [tok.wrap]  special tokens around a text, or two
 *     decode.c    [tok.decode]  ids -> bytes -> whole characters
 *     load.c      [tok.load]    a directory's files: checked here, trusted above   [tok.tiktoken], [tok.dir]
 *     json.c      [tok.json]    tokenizer.json: every part by its type
 *     sentencepiece.c, wordpiece.c: the other two families of tokenizers, each with its files and its model
 *     train.c     [tok.train]   counting words, then merging the most frequent pair, thousands of times
 *     tokenizer.c [tok.show]    the same encoding, printed step by step         [tok.main]    the command line
 *
 * The ids are those of Hugging Face's tokenizers and of tiktoken, for every text; the merges learnt are those of
 * Hugging Face's BpeTrainer. Bytes that are not UTF-8 go through unharmed: decode(encode(x)) is x for any x.
 *
 * What this stage refuses to do: guess. A tokenizer.json with a part it does not know ends in a sentence naming the
 * part; BOS and EOS are the caller's business; and text that
 * merely looks like a special token never becomes one unless the caller says so, because that text may come from a
 * stranger. */
#include "dataset.h"
#include "tokenizers/parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* [tok.show] the lesson: watching it work -------------------------------------------------------------------------- */

static bool in_colour;

/* Bytes as a person can read them: blanks and line breaks get a sign, what is no character its hexadecimal value. */
static void show_bytes(const char *s, size_t n, Buf *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)s + i, n - i, &cp);
        if (len <= 0) {
            buf_fmt(out, "\\x%02X", (unsigned char)s[i]);
            len = 1;
        } else if (cp == ' ') buf_str(out, "\xE2\x90\xA3");  /* open box */
        else if (cp == '\n') buf_str(out, "\xE2\x8F\x8E");   /* return symbol */
        else if (cp < 0x20 || cp == 0x7F || (cp >= 0x80 && cp < 0xA0)) buf_fmt(out, "\\x%02X", cp);
        else buf_add(out, s + i, (size_t)len);
        i += (size_t)len;
    }
}

static void show_token(const Tokenizer *t, int32_t id, Buf *out) {
    size_t n;
    char room[4];
    const char *bytes = room;
    if (id < t->n_ids) bytes = tokenizer_token(t, id, &n);
    else n = sentencepiece_past(t, id, room);
    show_bytes(bytes, n, out);
}

/* A row of tokens: boxed by colour on a terminal, by lines otherwise. The one at `mark` has just been made. */
static void show_row(const Tokenizer *t, const int32_t *ids, int n, int mark, Buf *out) {
    for (int i = 0; i < n; i++) {
        if (in_colour) buf_str(out, i == mark ? "\033[1;30;42m" : i % 2 ? "\033[48;5;238m" : "\033[48;5;240m");
        else if (i) buf_str(out, "\xE2\x94\x82"); /* a line that is in no text, unlike "|" */
        show_token(t, ids[i], out);
        if (in_colour) buf_str(out, "\033[0m");
    }
}

/* printf's %-12s counts bytes; this counts characters. */
static void print_padded(const char *s, int width) {
    int chars = 0;
    for (const char *p = s; *p; p++) chars += (*p & 0xC0) != 0x80;
    printf("%s%*s", s, chars < width ? width - chars : 0, "");
}

enum { STEP_COLUMN = 14 };

static void show_merge(const Tokenizer *t, const int32_t *ids, int n, int at, int32_t rank, int32_t into) {
    int32_t after[SHORT_WORD];
    for (int i = 0; i < n - 1; i++) after[i] = i < at ? ids[i] : i == at ? into : ids[i + 1];
    Buf pair = {0}, row = {0};
    show_token(t, ids[at], &pair);
    buf_str(&pair, " + ");
    show_token(t, ids[at + 1], &pair);
    show_row(t, after, n - 1, at, &row);
    printf("    ");
    print_padded(pair.data, STEP_COLUMN);
    printf(" %s   merge %d makes id %d\n", row.data, rank, into);
    buf_free(&row);
    buf_free(&pair);
}

static void show_word(const Tokenizer *t, Worker *w, int number, const uint8_t *s, size_t n) {
    Buf text = {0};
    show_bytes((const char *)s, n, &text);
    printf("\n  word %d: %s\n", number, text.data);
    text.len = 0;
    int32_t id[SHORT_WORD], whole;
    Ids ids = {0};
    if (t->ignore_merges && word_is_token(t, s, n, &whole)) {
        printf("    the whole word is a token (ignore_merges)\n");
        ids_add(&ids, whole);
    } else if (n > SHORT_WORD || t->model != MODEL_BPE || t->note_splits) {
        if (n > SHORT_WORD) printf("    %zu bytes: too many steps to show\n", n);
        else if (t->note_splits) printf("    merged, and what is an unused piece taken apart again\n");
        encode_cached(t, w, &(Piece){0, n}, 1, s, s + n, &ids);
    } else {
        int n_id = first_symbols(t, s, n, id);
        show_row(t, id, n_id, -1, &text);
        printf("    %-*s %s\n", STEP_COLUMN, t->byte_level ? "bytes" : "symbols", text.data ? text.data : "");
        n_id = merge_short(t, id, n_id, show_merge);
        for (int i = 0; i < n_id; i++) ids_add(&ids, id[i]);
        if (t->sp) sentencepiece_finish(t, NULL, 0, &ids);
    }
    text.len = 0;
    for (size_t i = 0; i < ids.n; i++) {
        buf_fmt(&text, "%s%d ", i ? " " : "", ids.v[i]);
        show_token(t, ids.v[i], &text);
    }
    printf("    %-*s %s\n", STEP_COLUMN, ids.n == 1 ? "id" : "ids", text.data ? text.data : "");
    buf_free(&text);
    ids_free(&ids);
}

/* encode_plain's shape, with talk. */
static int words_shown;

static void show_plain(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    (void)with_special, (void)ids;
    Buf row = {0};
    size_t n_pieces = words_of(t, w, &s, n);
    Piece *piece = xmalloc(size_mul(n_pieces + 1, sizeof *piece)); /* show_word may use the worker's */
    if (n_pieces) memcpy(piece, w->piece, n_pieces * sizeof *piece);
    for (size_t i = 0; i < n_pieces; i++) {
        if (in_colour) buf_str(&row, i % 2 ? "\033[48;5;238m" : "\033[48;5;240m");
        else if (i) buf_str(&row, "\xE2\x94\x82");
        show_bytes((const char *)s + piece[i].from, piece[i].to - piece[i].from, &row);
        if (in_colour) buf_str(&row, "\033[0m");
    }
    printf("  words   %s   %zu, split before any merging\n", row.data ? row.data : "", n_pieces);
    for (size_t i = 0; i < n_pieces; i++)
        show_word(t, w, ++words_shown, s + piece[i].from, piece[i].to - piece[i].from);
    free(piece);
    buf_free(&row);
}

static void show_normalized(const Tokenizer *t, Worker *w, const uint8_t *s, size_t n, bool with_special, Ids *ids) {
    const uint8_t *before = s;
    if (t->n_norm) normalize(t, w, &s, &n);
    if (s != before) {
        Buf b = {0};
        show_bytes((const char *)s, n, &b);
        printf("  normal  %s   %zu bytes\n", b.data ? b.data : "", n);
        buf_free(&b);
    }
    if (n) cut_at_added(t, w, &t->after_norm, s, n, with_special, ids, show_plain);
}

static void show(const Tokenizer *t, const char *text, size_t n, bool with_special) {
    in_colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    Buf b = {0};
    show_bytes(text, n, &b);
    printf("  text    %s   %zu bytes\n", b.data ? b.data : "", n);
    Worker *w = worker_take(t);
    Ids ids = {0};
    w->at_start = true;
    cut_at_added(t, w, &t->before_norm, (const uint8_t *)text, n, with_special, &ids, show_normalized);
    worker_give(t, w);
    ids.n = 0;
    tokenizer_encode(t, text, n, with_special, &ids);
    b.len = 0;
    for (size_t i = 0; i < ids.n; i++) buf_fmt(&b, "%s%d", i ? " " : "", ids.v[i]);
    printf("\n  ids     %s\n  %zu token%s for %zu bytes", b.data ? b.data : "", ids.n, ids.n == 1 ? "" : "s", n);
    if (ids.n) printf(": %.2f bytes a token", (double)n / (double)ids.n);
    printf("\n");
    buf_free(&b);
    ids_free(&ids);
}

/* [tok.main] the command line -------------------------------------------------------------------------------------- */

static const char ABOUT[] =
    "tokenizer: text <-> token ids, byte-level BPE\n"
    "  ./tokenizer train  --data FILE... --vocab 4096 --out DIR    learn a vocabulary\n"
    "  ./tokenizer encode --model DIR [--text S | < file]          one line of ids per document\n"
    "  ./tokenizer decode --model DIR < ids                        the text again\n"
    "  ./tokenizer show   --model DIR --text S                     how the text becomes ids, merge by merge\n"
    "  ./tokenizer SUB-COMMAND --help                              its options";

static char *read_stdin(size_t *n) {
    Buf b = {0};
    char chunk[1 << 16];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, stdin)) > 0) buf_add(&b, chunk, got);
    if (ferror(stdin)) die("stdin: %s", strerror(errno));
    buf_add(&b, "", 0);
    *n = b.len;
    return b.data;
}

static void put_out(Buf *b) {
    if (b->len && fwrite(b->data, 1, b->len, stdout) != b->len) die("stdout: %s", strerror(errno));
    b->len = 0;
}

static void finish_stdout(void) {
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
}

static Tokenizer *load_model(const char *dir) {
    if (!dir) die_usage("--model DIR is missing: the directory of a tokenizer");
    return tokenizer_load(dir);
}

typedef struct { Docs *docs; double left; } LimitedDocs;

static const char *limited_next(void *state, size_t *n) {
    LimitedDocs *l = state;
    if (l->left <= 0) return NULL;
    const char *text = docs_next(l->docs, n);
    if (!text) return NULL;
    if ((double)*n > l->left) *n = (size_t)l->left;
    l->left -= (double)*n;
    return text;
}

static void main_train(int argc, char **argv) {
    static const char *end_of_text[] = {"<|endoftext|>"};
    StrList data = {0}, specials = {end_of_text, 1};
    int64_t vocab = 4096, min_frequency = 0, max_bytes = 0, limit_alphabet = 0;
    const char *out = NULL, *split = "gpt2", *model = "bpe";
    bool cased = false, chinese_words = false;
    Opt table[] = {
        {"data", OPT_LIST, &data, ".txt, .jsonl, folders, corpus:BYTES", 0, 0, NULL, NULL, false},
        {"model-type", OPT_STR, &model, "byte-level BPE, or BERT's WordPiece", 0, 0, "bpe|wordpiece", NULL, false},
        {"vocab", OPT_INT, &vocab, "tokens: special ones, bytes or characters, merges", 6, MAX_IDS, NULL, NULL, false},
        {"out", OPT_STR, &out, "directory to write", 0, 0, NULL, NULL, false},
        {"split", OPT_STR, &split, "bpe: rule that cuts text into words", 0, 0, "gpt2|llama3", NULL, false},
        {"min-frequency", OPT_INT, &min_frequency, "never merge a pair seen less often", 0, 9e15, NULL, NULL, false},
        {"special", OPT_LIST, &specials, "special tokens; bpe: the first is the end of text", 0, 0, NULL, NULL, false},
        {"bytes", OPT_INT, &max_bytes, "read at most so much text (0: all)", 0, 9e15, NULL, NULL, false},
        {"cased", OPT_FLAG, &cased, "wordpiece: keep capitals and accents", 0, 0, NULL, NULL, false},
        {"chinese-words", OPT_FLAG, &chinese_words, "wordpiece: Chinese as other text", 0, 0, NULL, NULL, false},
        {"limit-alphabet", OPT_INT, &limit_alphabet, "wordpiece: characters (0: all)", 0, 1e6, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer train: learn a vocabulary", table, (int)(sizeof table / sizeof *table));
    if (!data.n) die_usage("--data is missing: the text to learn from");
    if (!out) die_usage("--out is missing: the directory to write");
    bool wordpiece = !strcmp(model, "wordpiece");
    if (wordpiece && !option_given(table, (int)(sizeof table / sizeof *table), "special")) specials.n = 0;
    if (!wordpiece && vocab < 256 + specials.n)
        die_usage("--vocab %lld is too small for 256 bytes and %d special tokens", (long long)vocab, specials.n);
    double start_s = now_s();
    LimitedDocs source = {docs_open(data.v, data.n), max_bytes ? (double)max_bytes : 9e18};
    double total = docs_bytes(source.docs);
    if (max_bytes && total > (double)max_bytes) total = (double)max_bytes;
    TextSource text = {limited_next, &source, total};
    if (wordpiece) tokenizer_train_wordpiece(text, (int)vocab, min_frequency, limit_alphabet, !cased, !chinese_words,
                                             specials.v, specials.n, out);
    else tokenizer_train(text, split, (int)vocab, min_frequency, specials.v, specials.n, out);
    docs_close(source.docs);
    Tokenizer *t = tokenizer_load(out);
    printf("%s: a vocabulary of %d tokens, learnt in %s. Watch it work:\n", out, tokenizer_vocab(t),
           human_time(now_s() - start_s));
    printf("  ./tokenizer show --model %s --text \"...\"\n", out);
    tokenizer_free(t);
}

/* Times for bench/tokenizer.py: reading the files and printing are not what is compared. */
static void bench_encode(const Tokenizer *t, const char *text, size_t n, int rounds) {
    Buf out = {0};
    Ids ids = {0};
    for (int i = 0; i < rounds; i++) {
        ids.n = 0;
        double start_s = now_s();
        tokenizer_encode(t, text, n, false, &ids);
        buf_fmt(&out, "%s%.6g", i ? ", " : "", now_s() - start_s);
    }
    printf("{\"bytes\": %zu, \"ids\": %zu, \"seconds\": [%s]}\n", n, ids.n, out.data);
    buf_free(&out);
    ids_free(&ids);
}

static void encode_line(const Tokenizer *t, const char *s, size_t n, bool special, Ids *ids, Buf *out) {
    ids->n = 0;
    tokenizer_encode(t, s, n, special, ids);
    for (size_t i = 0; i < ids->n; i++) {
        char digits[12], *p = digits + sizeof digits;
        *--p = i + 1 < ids->n ? ' ' : '\n';
        uint32_t v = (uint32_t)ids->v[i];
        do *--p = (char)('0' + v % 10);
        while (v /= 10);
        buf_add(out, p, (size_t)(digits + sizeof digits - p));
        if (out->len > 1 << 20) put_out(out);
    }
    if (!ids->n) buf_add(out, "\n", 1);
}

static void main_encode(int argc, char **argv) {
    const char *model = NULL, *text = NULL;
    bool special = false, lines = false, null = false;
    int64_t bench = 0;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"text", OPT_STR, &text, "what to encode, instead of stdin", 0, 0, NULL, NULL, false},
        {"special", OPT_FLAG, &special, "recognise special tokens in the text", 0, 0, NULL, NULL, false},
        {"lines", OPT_FLAG, &lines, "each line of stdin is a document", 0, 0, NULL, NULL, false},
        {"null", OPT_FLAG, &null, "a NUL byte ends each document of stdin", 0, 0, NULL, NULL, false},
        {"bench", OPT_INT, &bench, "encode so many times and print the seconds, as JSON", 0, 1e6, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer encode: text -> ids, one line a document", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *read = text ? NULL : read_stdin(&n);
    if (text) n = strlen(text);
    else text = read;
    Ids ids = {0};
    Buf out = {0};
    bool many = (lines || null) && !bench;
    if (bench) bench_encode(t, text, n, (int)bench);
    else if (!many) encode_line(t, text, n, special, &ids, &out);
    for (const char *doc = text, *end = text + n, *next; many && doc < end; doc = next) {
        const char *stop = memchr(doc, null ? 0 : '\n', (size_t)(end - doc));
        next = stop ? stop + 1 : end;
        encode_line(t, doc, (size_t)((stop ? stop : end) - doc), special, &ids, &out);
    }
    put_out(&out);
    buf_free(&out);
    ids_free(&ids);
    free(read);
    tokenizer_free(t);
}

static void main_decode(int argc, char **argv) {
    const char *model = NULL;
    bool skip = false, lines = false, null = false, utf8 = false;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"skip-special", OPT_FLAG, &skip, "leave special tokens out", 0, 0, NULL, NULL, false},
        {"lines", OPT_FLAG, &lines, "each line is a document: end each with a line break", 0, 0, NULL, NULL, false},
        {"null", OPT_FLAG, &null, "each line is a document: end each with a NUL byte", 0, 0, NULL, NULL, false},
        {"utf8", OPT_FLAG, &utf8, "what is no character as U+FFFD, as the libraries do", 0, 0, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer decode: ids on stdin -> the exact bytes", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *text = read_stdin(&n);
    Buf out = {0};
    Ids ids = {0}; /* of one document: what a token is written as can depend on those before it */
    for (char *p = text, *end = text + n; p <= end;) {
        if (p == end || (*p == '\n' && (lines || null))) {
            (utf8 ? tokenizer_decode_text : tokenizer_decode)(t, ids.v, ids.n, skip, &out);
            ids.n = 0;
            if (p < end) buf_add(&out, null ? "" : "\n", 1);
            if (p == end || out.len > 1 << 20) put_out(&out);
        }
        if (p == end || (strchr(" \t\r\n,[]", *p) && *p)) {
            p++;
            continue;
        }
        char *stop;
        errno = 0;
        long id = strtol(p, &stop, 10);
        if (stop == p || errno || id < 0 || id >= tokenizer_vocab(t))
            die("\"%.*s\" is no id of this tokenizer (0 to %d)", (int)strcspn(p, " \t\r\n,[]"), p,
                tokenizer_vocab(t) - 1);
        ids_add(&ids, (int32_t)id);
        p = stop;
    }
    ids_free(&ids);
    buf_free(&out);
    free(text);
    tokenizer_free(t);
}

static void main_show(int argc, char **argv) {
    const char *model = NULL, *text = NULL;
    bool special = false;
    Opt table[] = {
        {"model", OPT_STR, &model, "directory of the tokenizer", 0, 0, NULL, NULL, false},
        {"text", OPT_STR, &text, "what to encode, instead of stdin", 0, 0, NULL, NULL, false},
        {"special", OPT_FLAG, &special, "recognise special tokens in the text", 0, 0, NULL, NULL, false},
        COMMON_OPTS};
    options_parse(argc, argv, 2, "tokenizer show: words, then merge by merge", table,
                  (int)(sizeof table / sizeof *table));
    Tokenizer *t = load_model(model);
    size_t n;
    char *read = text ? NULL : read_stdin(&n);
    show(t, text ? text : read, text ? strlen(text) : n, special);
    free(read);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(int argc, char **argv); } commands[] = {
        {"train", main_train}, {"encode", main_encode}, {"decode", main_decode}, {"show", main_show}};
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        printf("%s\n", ABOUT);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i].name)) {
            commands[i].run(argc, argv);
            finish_stdout();
            return 0;
        }
    fprintf(stderr, "%s\n", ABOUT);
    if (argc > 1) die_usage("there is no sub-command \"%s\": train, encode, decode or show", argv[1]);
    return 2;
}
