/* conformance_tokenizer.c - token ids and decoded text against the official libraries, on real vocabularies.
 *
 * DIR/tokenizers/NAME holds a tokenizer's files, as they are or as .gz; DIR/tokenizer_goldens has the texts and what is
 * made of them:
 *     strings.jsonl        "i" and "text", or "hex" for bytes that are not UTF-8
 *     NAME.jsonl           "i"; ids of the text: "ids", "ids_special" (special tokens recognised), "ids_roles" (roles
 *                          recognised), "ids_hf" (by tokenizer.json), where absent the same as "ids"; "ids_raw_bytes"
 *                          (the bytes of hex as they are); "dec", "dec_hf": decoded again, absent: the text
 *     NAME.decode.jsonl    "ids"; "dec", "dec_hf", "dec_skip_special", "hex": as text, without special tokens, as bytes
 *     NAME.pairs.jsonl     "text", "pair", "max_length"; "ids", "token_type_ids", "attention_mask" with the template,
 *                          truncated, padded on the right
 * One line a field, over all its rows, with the first row that differs. Where a directory has both tokenizer.json and
 * tokenizer.model, "_hf" fields belong to the former and the others to the latter.
 *
 * A library that takes text alone was given U+FFFD for each malformed sequence; SentencePiece took the bytes. */
#include "conformance.h"
#include "tokenizer.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const char *what; size_t n, wrong; char *first; } Field;

static void field_row(Field *f, bool ok, size_t row, const char *got, const char *want) {
    f->n++;
    if (ok) return;
    if (!f->wrong++) f->first = strf("row %zu: %.160s, want %.160s", row, got, want);
}

static void field_end(Field *f, const char *of) {
    if (f->n) check(!f->wrong, "%s, %s: %zu rows, %zu differ%s%s", of, f->what, f->n, f->wrong, f->wrong ? ": " : "",
                    f->wrong ? f->first : "");
    free(f->first);
}

static void row_ids(Field *f, size_t row, const Ids *got, const cJSON *want) {
    size_t k = 0;
    const cJSON *e;
    bool same = got->n == (size_t)cJSON_GetArraySize(want);
    cJSON_ArrayForEach(e, want) same = same && got->v[k++] == e->valueint;
    if (same) {
        field_row(f, true, row, "", "");
        return;
    }
    Buf a = {0};
    buf_add(&a, "", 0);
    for (size_t i = 0; i < got->n && a.len < 200; i++) buf_fmt(&a, "%d ", got->v[i]);
    char *b = cJSON_PrintUnformatted(want);
    field_row(f, false, row, a.data, b);
    buf_free(&a), free(b);
}

static void row_text(Field *f, size_t row, const Buf *got, const Buf *want) {
    field_row(f, got->len == want->len && !memcmp(got->data ? got->data : "", want->data, want->len), row,
              got->data ? got->data : "", want->data);
}

static const cJSON *get(const cJSON *row, const char *key) { return cJSON_GetObjectItemCaseSensitive(row, key); }

/* cJSON's strings end at a NUL, and some texts have one: it travels as a character that no text has. */
#define NUL_AS "\xEF\xB7\x90" /* U+FDD0, for ever unassigned */

static void unhide_nul(const char *s, Buf *out) {
    out->len = 0;
    buf_add(out, "", 0);
    for (const char *nul; (nul = strstr(s, NUL_AS)); s = nul + strlen(NUL_AS)) {
        buf_add(out, s, (size_t)(nul - s));
        buf_add(out, "", 1);
    }
    buf_str(out, s);
}

/* The bytes of a row: of "text", or of "hex". */
static bool row_bytes(const cJSON *row, Buf *out) {
    const char *text = cJSON_GetStringValue(get(row, "text")), *hex = cJSON_GetStringValue(get(row, "hex"));
    out->len = 0;
    buf_add(out, "", 0);
    if (text) unhide_nul(text, out);
    for (; !text && hex && hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        buf_add(out, &(uint8_t){(uint8_t)strtoul(pair, NULL, 16)}, 1);
    }
    return !text;
}

/* U+FFFD for the longest beginning of a character, as every lossy decoder writes it. */
static void mended(const Buf *in, Buf *out) {
    const uint8_t *s = (const uint8_t *)in->data;
    out->len = 0;
    buf_add(out, "", 0);
    for (size_t i = 0; i < in->len;) {
        uint8_t b = s[i], lo = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
        uint8_t hi = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
        size_t want = b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0, have = 1;
        while (have < want && i + have < in->len && s[i + have] >= lo && s[i + have] <= hi)
            have++, lo = 0x80, hi = 0xBF;
        if (have == want) buf_add(out, s + i, have);
        else buf_str(out, "\xEF\xBF\xBD");
        i += have;
    }
}

/* Each line of a file as JSON to fn. */
typedef void RowFn(const cJSON *row, size_t n_row, void *state);
static void each_row(const char *path, RowFn *fn, void *state) {
    if (!file_exists(path)) return;
    char *text = file_read(path, NULL);
    size_t n_row = 0;
    for (char *line = text, *next; *line; line = next, n_row++) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = 0;
        for (char *p = line; (p = strchr(p, '\\')); p += 2)
            if (!strncmp(p, "\\u0000", 6)) memcpy(p, "\\uFDD0", 6);
        cJSON *row = cJSON_Parse(line);
        if (!row) die("%s: row %zu is not JSON", path, n_row);
        fn(row, n_row, state);
        cJSON_Delete(row);
    }
    free(text);
}

/* ---- one tokenizer ---------------------------------------------------------------------------------------------- */

typedef struct {
    const Tokenizer *t;
    bool hf;                                     /* tokenizer.json beside a tokenizer.model: the fields with _hf */
    bool takes_bytes;                            /* its library takes bytes that are not UTF-8 */
    Buf *strings;                                /* [n_strings] */
    bool *is_hex;
    size_t n_strings;
    bool has_special;                            /* some row says what special tokens become */
    Field ids, special, raw, dec, stream, skip, bytes, pair_ids, pair_types, pair_mask;
} Judge;

static void string_row(const cJSON *row, size_t n_row, void *state) {
    Judge *j = state;
    j->strings = xrealloc(j->strings, (n_row + 1) * sizeof *j->strings);
    j->is_hex = xrealloc(j->is_hex, n_row + 1);
    j->strings[n_row] = (Buf){0};
    j->is_hex[n_row] = row_bytes(row, &j->strings[n_row]);
    j->n_strings = n_row + 1;
}

static void encode_row(const cJSON *row, size_t n_row, void *state) {
    Judge *j = state;
    double i = cJSON_GetNumberValue(get(row, "i"));
    if (!(i >= 0 && i < (double)j->n_strings)) die("row %zu is of no string", n_row);
    const Buf *raw = &j->strings[(size_t)i];
    Buf text = {0}, got = {0};
    mended(raw, &text);
    const Buf *given = j->takes_bytes ? raw : &text;
    const cJSON *ids = get(row, "ids"), *special = get(row, "ids_special"), *roles = get(row, "ids_roles"), *dec;
    if (j->hf) special = get(row, "ids_hf");
    Ids plain = {0}, with = {0}, bytes = {0};
    tokenizer_encode(j->t, given->data, given->len, false, &plain);
    tokenizer_encode(j->t, given->data, given->len, true, &with);
    if (!j->hf) row_ids(&j->ids, (size_t)i, &plain, ids);
    if (j->has_special) row_ids(&j->special, (size_t)i, &with, roles ? roles : special ? special : ids);
    if (get(row, "ids_raw_bytes")) {
        tokenizer_encode(j->t, raw->data, raw->len, false, &bytes);
        row_ids(&j->raw, (size_t)i, &bytes, get(row, "ids_raw_bytes"));
    }
    dec = get(row, j->hf ? "dec_hf" : "dec");
    const Ids *back = j->hf ? &with : &plain;
    tokenizer_decode_text(j->t, back->v, back->n, false, &got);
    if (dec) unhide_nul(cJSON_GetStringValue(dec), &text);
    row_text(&j->dec, (size_t)i, &got, &text);
    ids_free(&plain), ids_free(&with), ids_free(&bytes);
    buf_free(&text), buf_free(&got);
}

static Ids ids_of(const cJSON *list) {
    Ids ids = {0};
    const cJSON *e;
    cJSON_ArrayForEach(e, list) ids_add(&ids, e->valueint);
    return ids;
}

static void decode_row(const cJSON *row, size_t n_row, void *state) {
    Judge *j = state;
    Ids ids = ids_of(get(row, "ids"));
    const char *dec = cJSON_GetStringValue(get(row, j->hf ? "dec_hf" : "dec"));
    const char *skip = j->hf ? NULL : cJSON_GetStringValue(get(row, "dec_skip_special"));
    Buf got = {0}, want = {0};
    if (dec) {
        unhide_nul(dec, &want);
        tokenizer_decode_text(j->t, ids.v, ids.n, false, &got);
        row_text(&j->dec, n_row, &got, &want);
        got.len = 0;
        Utf8Stream s = {0};
        for (size_t i = 0; i < ids.n; i++) tokenizer_decode_stream(j->t, &s, ids.v[i], &got);
        tokenizer_decode_stream(j->t, &s, -1, &got);
        /* tokenizers marks every byte of a row that has a malformed one in it: nothing that a stream could know. */
        if (!j->hf || !strstr(dec, "\xEF\xBF\xBD")) row_text(&j->stream, n_row, &got, &want);
    }
    if (skip) {
        got.len = 0;
        unhide_nul(skip, &want);
        tokenizer_decode_text(j->t, ids.v, ids.n, true, &got);
        row_text(&j->skip, n_row, &got, &want);
    }
    if (get(row, "hex")) {
        got.len = 0;
        row_bytes(row, &want);
        tokenizer_decode(j->t, ids.v, ids.n, false, &got);
        row_text(&j->bytes, n_row, &got, &want);
    }
    ids_free(&ids), buf_free(&got), buf_free(&want);
}

static void pair_row(const cJSON *row, size_t n_row, void *state) {
    Judge *j = state;
    const char *a_text = cJSON_GetStringValue(get(row, "text")), *b_text = cJSON_GetStringValue(get(row, "pair"));
    size_t max = (size_t)cJSON_GetNumberValue(get(row, "max_length"));
    Ids a = {0}, b = {0}, ids = {0}, types = {0}, mask = {0};
    tokenizer_encode(j->t, a_text, strlen(a_text), true, &a);
    if (b_text) tokenizer_encode(j->t, b_text, strlen(b_text), true, &b);
    tokenizer_wrap(j->t, &a, b_text ? &b : NULL, max, &ids, &types);
    int pad = tokenizer_id(j->t, "[PAD]");
    for (size_t i = 0; i < ids.n; i++) ids_add(&mask, 1);
    while (ids.n < (size_t)cJSON_GetArraySize(get(row, "ids")))
        ids_add(&ids, pad), ids_add(&types, 0), ids_add(&mask, 0);
    row_ids(&j->pair_ids, n_row, &ids, get(row, "ids"));
    row_ids(&j->pair_types, n_row, &types, get(row, "token_type_ids"));
    row_ids(&j->pair_mask, n_row, &mask, get(row, "attention_mask"));
    ids_free(&a), ids_free(&b), ids_free(&ids), ids_free(&types), ids_free(&mask);
}

static void judge(const char *files, const char *goldens, const char *name, bool both, bool hf) {
    Judge j = {.hf = both && hf,
               .ids = {.what = "ids"}, .special = {.what = both && hf ? "ids_hf" : "ids_special or ids_roles"},
               .raw = {.what = "ids_raw_bytes"},
               .dec = {.what = both && hf ? "dec_hf" : "dec"}, .stream = {.what = "dec, streamed"},
               .skip = {.what = "dec_skip_special"}, .bytes = {.what = "hex"}, .pair_ids = {.what = "pairs: ids"},
               .pair_types = {.what = "pairs: token_type_ids"}, .pair_mask = {.what = "pairs: attention_mask"}};
    Tokenizer *t = tokenizer_load(files);
    j.t = t;
    char *model = path_join(files, "tokenizer.model"), *ice = path_join(files, "ice_text.model");
    j.takes_bytes = !hf && (file_exists(model) || file_exists(ice));
    char *rows_path = strf("%s/%s.jsonl", goldens, name), *rows = file_read(rows_path, NULL);
    j.has_special = j.hf || strstr(rows, "\"ids_special\"") || strstr(rows, "\"ids_roles\"");
    free(rows), free(rows_path);
    const struct { const char *file; RowFn *fn; } parts[] = {{"strings.jsonl", string_row}, {".jsonl", encode_row},
                                                             {".decode.jsonl", decode_row}, {".pairs.jsonl", pair_row}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *file = strf("%s%s", i ? name : "", parts[i].file), *path = path_join(goldens, file);
        each_row(path, parts[i].fn, &j);
        free(file), free(path);
    }
    const char *of = !both ? "tokenizer" : hf ? "tokenizer.json" : "tokenizer.model";
    Field *fields[] = {&j.ids, &j.special, &j.raw, &j.dec, &j.stream, &j.skip, &j.bytes, &j.pair_ids,
                       &j.pair_types, &j.pair_mask};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) field_end(fields[i], of);
    if (!j.ids.n && !j.special.n) check(false, "%s: no rows to compare", of);
    for (size_t i = 0; i < j.n_strings; i++) buf_free(&j.strings[i]);
    free(j.strings), free(j.is_hex), free(model), free(ice);
    tokenizer_free(t);
}

static void check_tokenizer(const char *dir) { /* .../tokenizers/NAME */
    char *goldens = strf("%s/../../tokenizer_goldens", dir), *files = unpacked(dir, NULL);
    const char *name = strrchr(dir, '/') + 1;
    char *json = path_join(files, "tokenizer.json"), *model = path_join(files, "tokenizer.model");
    bool both = file_exists(json) && file_exists(model);
    judge(files, goldens, name, both, file_exists(json));
    if (both) {
        char *without = unpacked(dir, "tokenizer.json");
        judge(without, goldens, name, true, false);
        dir_remove(without);
        free(without);
    }
    dir_remove(files);
    free(goldens), free(files), free(json), free(model);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void conformance_tokenizers(const char *dir) {
    char *tokenizers = path_join(dir, "tokenizers"), **names = NULL;
    size_t n = 0;
    DIR *d = opendir(tokenizers);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        names = xrealloc(names, (n + 1) * sizeof *names);
        names[n++] = xstrdup(e->d_name);
    }
    if (d) closedir(d);
    if (n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        char *path = path_join(tokenizers, names[i]), *golden = strf("%s/tokenizer_goldens/%s.jsonl", dir, names[i]);
        if (file_exists(golden)) check_apart(names[i], check_tokenizer, path);
        free(path), free(golden), free(names[i]);
    }
    free(names), free(tokenizers);
}
