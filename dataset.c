/* dataset.c - documents in, token windows out.
 *
 * MAP
 *   [data.docs]     files, folders and the built-in corpus as one sequence of documents
 *   [data.tokens]   documents -> one mmapped stream of ids, made once
 *   [data.windows]  the shuffled, seekable order of training windows
 *
 * Refused here: what a conversation means to a chat model (that is finetune's), and downloads (data/get). */
#include "dataset.h"
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ================================================================================================================= *
 * [data.docs] */
typedef enum { SRC_TXT, SRC_JSONL, SRC_JSON, SRC_BIN, SRC_CORPUS } SourceKind;
typedef struct {
    SourceKind kind;
    char *path;
    size_t bytes;                  /* of raw text, for ranges and progress */
    uint64_t seed;                 /* corpus */
    CorpusSplit split;
} Source;

struct Docs {
    Source *src;
    int n_src, at_src;
    double lo, hi;                 /* the range, in bytes of all sources together */
    double src_start;              /* bytes before the current source */
    bool open;
    Mapped map;                    /* of the current source */
    size_t at;                     /* next byte of it */
    size_t line;                   /* jsonl: number of the line read last */
    cJSON *array, *item;           /* json */
    int n_items;
    uint64_t corpus_i;
    size_t corpus_bytes;
    Buf text;                      /* the document handed out, where it is not a slice of the map */
    bool any;
};

bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), e = strlen(end);
    return n >= e && !strcmp(s + n - e, end);
}
static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void source_add(Docs *d, Source s) {
    d->src = xrealloc(d->src, (size_t)(d->n_src + 1) * sizeof *d->src);
    d->src[d->n_src++] = s;
}
static bool known_suffix(const char *name, SourceKind *kind) {
    static const struct { const char *suffix; SourceKind kind; } known[] = {
        {".txt", SRC_TXT}, {".jsonl", SRC_JSONL}, {".json", SRC_JSON}, {".bin", SRC_BIN}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (ends_with(name, known[i].suffix)) return *kind = known[i].kind, true;
    return false;
}
/* corpus:BYTES[:SEED] and corpus-valid:BYTES[:SEED] */
static bool corpus_path(const char *path, Source *s) {
    CorpusSplit split = CORPUS_TRAIN;
    const char *p = path;
    if (!strncmp(p, "corpus-valid:", 13)) split = CORPUS_VALID, p += 13;
    else if (!strncmp(p, "corpus:", 7)) p += 7;
    else return false;
    char *end;
    errno = 0;
    double bytes = strtod(p, &end);
    double unit = *end == 'k' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : 1;
    end += unit > 1;
    uint64_t seed = 1;
    if (*end == ':' && end[1]) seed = strtoull(end + 1, &end, 10);
    if (end == p || *end || !(bytes * unit >= 1 && bytes * unit <= 1e13))
        die("%s: the built-in corpus is written corpus:BYTES[:SEED], such as corpus:10M", path);
    *s = (Source){SRC_CORPUS, xstrdup(path), (size_t)(bytes * unit), seed, split};
    return true;
}
static void sources_from(Docs *d, const char *path) {
    Source s;
    if (corpus_path(path, &s)) { source_add(d, s); return; }
    struct stat st;
    if (stat(path, &st)) die("%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        DIR *dir = opendir(path);
        if (!dir) die("%s: %s", path, strerror(errno));
        char **names = NULL;
        int n = 0;
        SourceKind kind;
        for (struct dirent *e; (e = readdir(dir));) {
            if (e->d_name[0] == '.' || !known_suffix(e->d_name, &kind)) continue;
            names = xrealloc(names, (size_t)(n + 1) * sizeof *names);
            names[n++] = path_join(path, e->d_name);
        }
        closedir(dir);
        if (!n) die("%s: holds no .txt, .jsonl, .json or .bin file", path);
        qsort(names, (size_t)n, sizeof *names, by_name);
        for (int i = 0; i < n; i++) sources_from(d, names[i]), free(names[i]);
        free(names);
        return;
    }
    s = (Source){SRC_TXT, xstrdup(path), (size_t)st.st_size, 0, CORPUS_TRAIN};
    known_suffix(path, &s.kind);                                      /* a file of any other name is plain text */
    source_add(d, s);
}

Docs *docs_open_range(const char **paths, int n, double from, double to) {
    Docs *d = xcalloc(1, sizeof *d);
    for (int i = 0; i < n; i++) sources_from(d, paths[i]);
    double total = docs_bytes(d);
    if (total <= 0) die("%s: there is no text in it", n == 1 ? paths[0] : "--data");
    d->lo = from * total;
    d->hi = to * total;
    return d;
}
Docs *docs_open(const char **paths, int n) { return docs_open_range(paths, n, 0, 1); }
double docs_bytes(const Docs *d) {
    double total = 0;
    for (int i = 0; i < d->n_src; i++) total += (double)d->src[i].bytes;
    return d->hi > 0 ? d->hi - d->lo : total;
}

/* The string under key, or NULL. */
static const char *json_text(const cJSON *o, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
}
/* One JSON document as plain text. */
static void json_document(const cJSON *o, const char *where, Buf *out) {
    const char *text = json_text(o, "text"), *instruction = json_text(o, "instruction"),
        *question = json_text(o, "question");
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(o, "messages"), *m;
    if (text) buf_str(out, text);
    else if (cJSON_IsArray(messages)) {
        cJSON_ArrayForEach(m, messages) {
            const char *role = json_text(m, "role"), *content = json_text(m, "content");
            if (!role || !content) die("%s: a message needs \"role\" and \"content\"", where);
            buf_fmt(out, "%s: %s\n", role, content);
        }
    } else if (instruction && json_text(o, "output")) {
        const char *input = json_text(o, "input");
        buf_fmt(out, "Instruction: %s\n%s%s%sAnswer: %s\n", instruction, input && *input ? "Input: " : "",
                input ? input : "", input && *input ? "\n" : "", json_text(o, "output"));
    } else if (question && json_text(o, "answer"))
        buf_fmt(out, "Question: %s\nAnswer: %s\n", question, json_text(o, "answer"));
    else die("%s: holds neither \"text\", nor \"messages\", nor \"instruction\" and \"output\", nor \"question\" and "
             "\"answer\"", where);
}

static void source_open(Docs *d, const Source *s) {
    d->open = true;
    d->at = d->line = 0;
    d->corpus_i = d->corpus_bytes = 0;
    if (s->kind == SRC_BIN) die("%s: a shard of tokens is not text", s->path);
    if (s->kind == SRC_CORPUS || !s->bytes) return;
    d->map = file_map(s->path);
    if (s->kind == SRC_JSON) {
        d->array = json_parse((const char *)d->map.data, d->map.bytes, JSON_ARRAY, s->path);
        d->item = d->array->child;
        d->n_items = cJSON_GetArraySize(d->array);                    /* walks the whole list: once */
    }
}
static void source_close(Docs *d, const Source *s) {
    if (d->map.data) file_unmap(&d->map);
    d->map = (Mapped){0};
    cJSON_Delete(d->array);
    d->array = d->item = NULL;
    d->open = false;
    d->src_start += (double)s->bytes;
    d->at_src++;
}

/* Documents of plain text end at a line that holds only the separator. */
static const char separator[] = "<|endoftext|>";
static size_t txt_end(const char *s, size_t n, size_t *skip) {
    for (const char *p = s; (p = memmem(p, n - (size_t)(p - s), separator, sizeof separator - 1)); p++) {
        size_t at = (size_t)(p - s), after = at + sizeof separator - 1;
        bool line_start = at == 0 || s[at - 1] == '\n', line_end = after == n || s[after] == '\n' || s[after] == '\r';
        if (!line_start || !line_end) continue;
        while (after < n && (s[after] == '\n' || s[after] == '\r')) after++;
        *skip = after - at;
        return at;
    }
    *skip = 0;
    return n;
}
/* A cut through text falls before a whole UTF-8 character. */
static size_t utf8_floor(const char *s, size_t at, size_t n) {
    while (at > 0 && at < n && ((unsigned char)s[at] & 0xC0) == 0x80) at--;
    return at;
}

/* The next document of the open source, any range; NULL at its end. start: its first byte within the source. */
static const char *source_next(Docs *d, const Source *s, size_t *n, size_t *start) {
    const char *all = (const char *)d->map.data;
    char where[4200];
    d->text.len = 0;
    switch (s->kind) {
    case SRC_TXT: {
        if (d->at >= s->bytes) return NULL;
        size_t skip;
        *start = d->at;
        *n = txt_end(all + d->at, s->bytes - d->at, &skip);
        d->at += *n + skip;
        return all + *start;
    }
    case SRC_JSONL:
        while (d->at < s->bytes) {
            *start = d->at;
            const char *line = all + d->at, *end = memchr(line, '\n', s->bytes - d->at);
            size_t len = end ? (size_t)(end - line) : s->bytes - d->at;
            d->at += len + 1;
            d->line++;
            size_t blank = 0;
            while (blank < len && strchr(" \t\r", line[blank])) blank++;
            if (blank == len) continue;
            snprintf(where, sizeof where, "%s:%zu", s->path, d->line);
            const char *rest;
            cJSON *o = cJSON_ParseWithLengthOpts(line, len, &rest, false);
            if (!cJSON_IsObject(o)) die("%s: not a JSON object", where);
            while (rest < line + len && strchr(" \t\r", *rest)) rest++;
            if (rest < line + len) die("%s: something follows the JSON object; one document a line", where);
            json_document(o, where, &d->text);
            cJSON_Delete(o);
            *n = d->text.len;
            return d->text.data ? d->text.data : "";
        }
        return NULL;
    case SRC_JSON: {
        if (!d->item) return NULL;
        d->line++;
        snprintf(where, sizeof where, "%s: document %zu", s->path, d->line);
        json_document(d->item, where, &d->text);
        d->item = d->item->next;
        *start = d->at;                                               /* JSON does not tell: spread evenly */
        d->at = (size_t)((double)s->bytes * (double)d->line / d->n_items);
        *n = d->text.len;
        return d->text.data ? d->text.data : "";
    }
    case SRC_CORPUS:
        if (d->corpus_bytes >= s->bytes) return NULL;
        corpus_document(s->seed, s->split, CORPUS_ALL, d->corpus_i++, &d->text);
        *start = d->corpus_bytes;
        d->corpus_bytes += d->text.len;
        *n = d->text.len;
        return d->text.data;
    default: return NULL;
    }
}

const char *docs_next(void *docs, size_t *n) {
    Docs *d = docs;
    while (d->at_src < d->n_src) {
        const Source *s = &d->src[d->at_src];
        if (d->src_start >= d->hi) return NULL;
        if (d->src_start + (double)s->bytes <= d->lo) { source_close(d, s); continue; }
        if (!d->open) source_open(d, s);
        size_t start;
        const char *text = source_next(d, s, n, &start);
        if (!text) { source_close(d, s); continue; }
        double at = d->src_start + (double)start;
        if (at >= d->hi) return NULL;
        if (s->kind == SRC_TXT) {                                     /* cut at the borders of the range */
            if (at + (double)*n > d->hi) *n = utf8_floor(text, (size_t)(d->hi - at), *n);
            if (at < d->lo) {
                if (at + (double)*n <= d->lo) continue;
                size_t skip = utf8_floor(text, (size_t)(d->lo - at), *n);
                text += skip;
                *n -= skip;
            }
        } else if (at < d->lo) continue;
        if (*n) return text;
    }
    return NULL;
}
void docs_close(Docs *d) {
    while (d->at_src < d->n_src) source_close(d, &d->src[d->at_src]);
    for (int i = 0; i < d->n_src; i++) free(d->src[i].path);
    free(d->src);
    buf_free(&d->text);
    free(d);
}

/* ================================================================================================================= *
 * [data.tokens] llm.c's shards: 256 int32 of header (magic, version, number of tokens), then the ids: uint16 under the
 * first magic, uint32 under the second (its Llama-3 data). */
enum { SHARD_HEADER = 256 * 4, MAGIC_U16 = 20240520, MAGIC_U32 = 20240801 };

static TokenPart shard_open(const char *path) {
    TokenPart p = {.map = file_map(path)};
    int32_t header[3] = {0};
    if (p.map.bytes >= SHARD_HEADER) memcpy(header, p.map.data, sizeof header);
    if (header[0] == MAGIC_U16 && header[1] == 1) p.width = 2;
    else if (header[0] == MAGIC_U32 && header[1] == 7) p.width = 4;
    else die("%s: not a token shard (magic %d, version %d)", path, header[0], header[1]);
    p.n = (uint32_t)header[2];
    if (p.n > (p.map.bytes - SHARD_HEADER) / (size_t)p.width)
        die("%s: %zu bytes, header promises %zu tokens: truncated?", path, p.map.bytes, p.n);
    return p;
}
static int32_t part_at(const TokenPart *p, size_t i) {
    const uint8_t *v = p->map.data + SHARD_HEADER + i * (size_t)p->width;
    return p->width == 2 ? v[0] | v[1] << 8
        : (int32_t)((uint32_t)v[0] | (uint32_t)v[1] << 8 | (uint32_t)v[2] << 16 | (uint32_t)v[3] << 24);
}
int32_t tokens_at(const Tokens *d, size_t i) {
    i += d->first;
    int p = 0;
    while (i >= d->part[p].n) i -= d->part[p++].n;
    return part_at(&d->part[p], i);
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t n) {  /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001B3ull;
    return h;
}
static uint64_t hash_file_stat(uint64_t h, const char *path) {
    struct stat st = {0};
    stat(path, &st);
    h = hash_bytes(h, path, strlen(path) + 1);
    h = hash_bytes(h, &st.st_size, sizeof st.st_size);
    return hash_bytes(h, &st.st_mtim, sizeof st.st_mtim);
}
/* A piece of a long document ends between a letter and a space that starts the next word: a border of every split
 * rule, so pieces encode as the whole would. */
static size_t piece_end(const char *s, size_t n, size_t want) {
    if (n <= want) return n;
    #define LETTER(c) (((c) | 32) >= 'a' && ((c) | 32) <= 'z')
    for (size_t i = want; i + 1 < n; i++)
        if (s[i] == ' ' && LETTER(s[i - 1]) && LETTER(s[i + 1])) return i;
    #undef LETTER
    return n;
}
/* What stands behind each document: the end-of-text token, or BERT's [SEP]. */
static int32_t end_of_document(const Tokenizer *t) {
    return tokenizer_eos(t) >= 0 ? tokenizer_eos(t) : tokenizer_id(t, "[SEP]");
}
static void cache_write(const char *path, Docs *docs, const Tokenizer *t) {
    int eos = end_of_document(t), width = tokenizer_vocab(t) <= 65536 ? 2 : 4;
    OutFile out = out_open(path);
    int32_t header[256] = {width == 2 ? MAGIC_U16 : MAGIC_U32, width == 2 ? 1 : 7};
    out_write(&out, header, sizeof header);
    Ids ids = {0};
    uint8_t *packed = NULL;
    size_t n_tokens = 0, n;
    double bytes = docs_bytes(docs), done = 0;
    Progress bar = progress_begin("tokenise", bytes);
    for (const char *text; (text = docs_next(docs, &n));) {
        for (size_t at = 0; at < n || ids.n; ) {
            size_t piece = at < n ? piece_end(text + at, n - at, 1 << 20) : 0;
            if (piece) tokenizer_encode(t, text + at, piece, false, &ids);
            at += piece;
            done += (double)piece;
            if (at >= n && eos >= 0) ids_add(&ids, eos);
            packed = xrealloc(packed, ids.n * (size_t)width);
            for (size_t i = 0; i < ids.n; i++)
                for (int b = 0; b < width; b++)
                    packed[i * (size_t)width + (size_t)b] = (uint8_t)((uint32_t)ids.v[i] >> (8 * b));
            out_write(&out, packed, ids.n * (size_t)width);
            n_tokens += ids.n;
            ids.n = 0;
        }
        progress_at(&bar, done, "%s tokens", human_count((double)n_tokens));
    }
    if (n_tokens > INT32_MAX)
        die("%s: %zu tokens are more than one shard holds; give the data in several runs", path, n_tokens);
    header[2] = (int32_t)n_tokens;
    if (fseek(out.f, 0, SEEK_SET)) die("%s: %s", path, strerror(errno));
    out_write(&out, header, sizeof header);
    out_close(&out);
    progress_end(&bar, "%s tokens from %s", human_count((double)n_tokens), human_bytes(bytes));
    ids_free(&ids);
    free(packed);
}

Tokens *tokens_open(const char **paths, int n, double from, double to, const Tokenizer *t, const char *cache_dir) {
    Tokens *d = xcalloc(1, sizeof *d);
    d->eos = t ? end_of_document(t) : -1;
    Docs *docs = docs_open_range(paths, n, from, to);
    int n_bin = 0;
    for (int i = 0; i < docs->n_src; i++) n_bin += docs->src[i].kind == SRC_BIN;
    if (n_bin && n_bin < docs->n_src) die("--data: text and token shards cannot be mixed in one run");
    if (n_bin) {
        for (int i = 0; i < docs->n_src; i++) {
            d->part = xrealloc(d->part, (size_t)(d->n_parts + 1) * sizeof *d->part);
            d->part[d->n_parts] = shard_open(docs->src[i].path);
            d->n += d->part[d->n_parts++].n;
        }
        size_t total = d->n;
        d->first = (size_t)(from * (double)total);
        d->n = (size_t)(to * (double)total) - d->first;
    } else {
        if (!t) die("text needs a tokenizer: --tokenizer DIR");
        uint64_t h = 0xCBF29CE484222325ull;
        char *spec = strf("v1 %.9g %.9g %d", from, to, tokenizer_vocab(t));
        h = hash_bytes(h, spec, strlen(spec));
        free(spec);
        for (int i = 0; i < docs->n_src; i++) h = hash_file_stat(h, docs->src[i].path);
        for (int32_t id = 0; id < tokenizer_vocab(t); id++) {         /* the tokenizer is its words */
            size_t n_word;
            const char *word = tokenizer_token(t, id, &n_word);
            h = hash_bytes(hash_bytes(h, word, n_word), "", 1);
        }
        make_dirs(cache_dir);
        char *name = strf("tokens-%016llx.bin", (unsigned long long)h), *path = path_join(cache_dir, name);
        if (!file_exists(path)) cache_write(path, docs, t);
        d->part = xcalloc(1, sizeof *d->part);
        d->part[d->n_parts++] = shard_open(path);
        d->n = d->part[0].n;
        free(name);
        free(path);
    }
    docs_close(docs);
    return d;
}
void tokens_close(Tokens *d) {
    for (int i = 0; i < d->n_parts; i++) file_unmap(&d->part[i].map);
    free(d->part);
    free(d);
}

/* ================================================================================================================= *
 * [data.windows] A permutation of [0, n) that can be entered anywhere: four Feistel rounds on the smallest even number
 * of bits that holds n; a result >= n is sent round again (cycle walking; Black and Rogaway 2002). */
uint64_t permute(uint64_t i, uint64_t n, uint64_t key) {
    int half = 1;
    while (half < 31 && (1ull << (2 * half)) < n) half++;
    uint64_t mask = (1ull << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t mixed = left ^ (rng_mix(key, right * 4 + round) & mask);
            left = right;
            right = mixed;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
/* For each query the slot of the separator that opens its document. */
static void document_starts(const int32_t *tokens, size_t T, int32_t eos, int32_t *start) {
    int32_t at = 0;
    for (size_t t = 0; t < T; t++) {
        if (tokens[t] == eos) at = (int32_t)t;
        start[t] = at;
    }
}
void tokens_window(const Tokens *d, uint64_t seed, uint64_t sample, size_t T, int32_t *tokens, int32_t *targets,
    int32_t *start) {
    uint64_t n_windows = (d->n - 1) / T;
    if (n_windows < 1) die("the data has %zu tokens, fewer than one window of %zu needs", d->n, T + 1);
    if (n_windows > 1) n_windows--;                                   /* room for the shift */
    uint64_t epoch = sample / n_windows, i = permute(sample % n_windows, n_windows, rng_mix(seed, epoch));
    size_t room = d->n - 1 - n_windows * T, shift = rng_mix(seed ^ 0x5EED, epoch) % (room + 1);
    size_t at = i * T + shift;
    /* With documents kept apart, one whose beginning lies before the window teaches guesses: names and facts come from
     * nowhere. So the window moves on to the next document, if one begins within it. */
    for (size_t t = 0; start && t < T && at + t + T < d->n; t++)
        if (tokens_at(d, at + t) == d->eos) { at += t; break; }
    for (size_t t = 0; t < T; t++) tokens[t] = tokens_at(d, at + t), targets[t] = tokens_at(d, at + t + 1);
    if (start) document_starts(tokens, T, d->eos, start);
}
size_t tokens_eval_window(const Tokens *d, size_t *at, size_t T, int32_t *tokens, int32_t *targets, int32_t *start) {
    size_t n = 0, next = *at + T;
    for (size_t t = 0; t < T; t++) {
        bool there = *at + t + 1 < d->n;
        tokens[t] = *at + t < d->n ? tokens_at(d, *at + t) : 0;
        targets[t] = there ? tokens_at(d, *at + t + 1) : -1;
    }
    if (start) {
        document_starts(tokens, T, d->eos, start);
        size_t cut = (size_t)start[T - 1];                            /* the document that the window cuts ... */
        if (cut > 0 && next + 1 < d->n) {
            for (size_t t = cut; t < T; t++) targets[t] = -1;         /* ... is counted when it opens the next one */
            next = *at + cut;
        }
    }
    for (size_t t = 0; t < T; t++) n += targets[t] >= 0;
    *at = next;
    return n;
}
