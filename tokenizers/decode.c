/* decode.c - ids -> bytes -> whole characters. */
#include "parts.h"

#include <stdlib.h>

/* [tok.decode] ids -> text ----------------------------------------------------------------------------------------- *
 * What a decoder makes of each token is worked out when the tokenizer is loaded, so that decoding is a look-up. What
 * remains to be known of the tokens before: whether there was any (the first may be written another way), how much of
 * the blank that stands before a text has been taken away, and whether a blank is due. */

static void check_id(const Tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n_ids) die("token id %d is outside the vocabulary (0 to %d)", id, t->n_ids - 1);
}

static const char *token_text(const Tokenizer *t, int32_t id, bool first, size_t *n) {
    const TokenTexts *text = &t->decoder.text[first && t->decoder.text[1].at];
    check_id(t, id);
    *n = text->at[id + 1] - text->at[id];
    return text->bytes.data + text->at[id];
}

const char *tokenizer_token(const Tokenizer *t, int id, size_t *n) { return token_text(t, id, false, n); }

/* The exact bytes of one token in its place. */
static void decode_one(const Tokenizer *t, Utf8Stream *s, int32_t id, Buf *out) {
    const Decoder *d = &t->decoder;
    size_t n;
    const char *bytes = token_text(t, id, !s->started, &n);
    if (s->blank_due) buf_str(out, " ");
    s->blank_due = d->blank_after && d->blank_after[id];
    if (!d->start || d->start[id] == START_ENDS) s->started = true;
    else if (d->start[id] == START_OVER) s->started = false;
    while (s->stripped < d->strip && n) {
        uint32_t cp;
        int len = utf8_char((const uint8_t *)bytes, n, &cp);
        if (len <= 0 || cp != d->strip_char) s->stripped = d->strip;
        else bytes += len, n -= (size_t)len, s->stripped++;
    }
    buf_add(out, bytes, n);
}

void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out) {
    Utf8Stream s = {0};
    for (size_t i = 0; i < n; i++) {
        check_id(t, ids[i]);
        if (!(skip_special && t->is_special[ids[i]] & IS_SPECIAL)) decode_one(t, &s, ids[i], out);
    }
}

/* Bytes as text: one U+FFFD for each malformed sequence, or for each of its bytes. */
static void mend(const char *bytes, size_t n, bool each, Buf *out) {
    const uint8_t *s = (const uint8_t *)bytes;
    for (size_t i = 0, good = 0; i <= n;) {
        uint32_t cp;
        int len = i < n ? utf8_char(s + i, n - i, &cp) : -1;
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        buf_add(out, bytes + good, i - good);
        size_t bad = i == n ? 0 : len < 0 ? (size_t)-len : n - i;
        for (size_t k = 0; k < (each ? bad : bad > 0); k++) buf_str(out, "\xEF\xBF\xBD");
        good = i += i == n ? 1 : bad;
    }
}

static bool well_formed(const char *bytes, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int len = utf8_char((const uint8_t *)bytes + i, n - i, &cp);
        if (len <= 0) return false;
        i += (size_t)len;
    }
    return true;
}

void tokenizer_decode_text(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out) {
    const Decoder *d = &t->decoder;
    Utf8Stream s = {0};
    /* A blank among the bytes of a broken row is not there to be stripped: the text is stripped, not its tokens. */
    if (d->bad == BAD_RUN) s.stripped = d->strip;
    Buf raw = {0}, one = {0};
    size_t from = out->len, run = 0; /* bytes at the end of raw that came from tokens of single bytes */
    buf_add(&raw, "", 0);
    for (size_t i = 0; i <= n; i++) {
        if (i < n) check_id(t, ids[i]);
        if (i < n && skip_special && t->is_special[ids[i]] & IS_SPECIAL) continue;
        one.len = 0;
        bool byte = i < n && d->is_byte && d->is_byte[ids[i]];
        if (i < n) decode_one(t, &s, ids[i], &one);
        if (!byte && run) { /* what lies between such runs is well-formed */
            bool all = d->bad == BAD_RUN && !well_formed(raw.data, run);
            for (size_t k = 0; all && k < run; k++) buf_str(out, "\xEF\xBF\xBD");
            if (!all) mend(raw.data, run, d->bad == BAD_BYTE, out);
            raw.len = run = 0;
        }
        buf_add(&raw, one.data ? one.data : "", one.len);
        if (byte) run = raw.len;
        else if (d->is_byte) {
            mend(raw.data, raw.len, d->bad == BAD_BYTE, out);
            raw.len = 0;
        }
    }
    mend(raw.data, raw.len, d->bad == BAD_BYTE, out);
    if (t->sp) sentencepiece_text(t, from, out);
    size_t n_text = out->len - from, n_strip = 0;
    for (int i = 0; d->bad == BAD_RUN && i < d->strip && n_strip < n_text; i++) {
        uint32_t cp;
        int len = utf8_char((uint8_t *)out->data + from + n_strip, n_text - n_strip, &cp);
        if (len <= 0 || cp != d->strip_char) break;
        n_strip += (size_t)len;
    }
    if (n_strip) memmove(out->data + from, out->data + from + n_strip, n_text - n_strip + 1);
    out->len -= n_strip;
    buf_free(&raw);
    buf_free(&one);
}

/* A token may end in the middle of a character: the bytes so far wait in pending until the next token completes them
 * or shows that nothing can. */
static void broken(int n_bytes, BadBytes bad, Buf *out) {
    for (int i = 0; i < (bad == BAD_BYTE ? n_bytes : n_bytes > 0); i++) buf_str(out, "\xEF\xBF\xBD");
}

static void stream_byte(Utf8Stream *s, uint8_t byte, BadBytes bad, Buf *out) {
    s->pending[s->n++] = byte;
    uint32_t cp;
    int len = utf8_char(s->pending, (size_t)s->n, &cp);
    if (!len) return;
    if (len > 0) {
        buf_add(out, s->pending, (size_t)len);
        s->n = 0;
        return;
    }
    bool byte_begins_anew = s->n > 1; /* it broke the character before it, but may itself begin one */
    broken(s->n - byte_begins_anew, bad, out);
    s->n = 0;
    if (byte_begins_anew) stream_byte(s, byte, bad, out);
}

void tokenizer_decode_stream(const Tokenizer *t, Utf8Stream *s, int32_t id, Buf *out) {
    if (id == -1) {
        broken(s->n, t->decoder.bad, out);
        *s = (Utf8Stream){0};
        return;
    }
    Buf bytes = {0};
    decode_one(t, s, id, &bytes);
    if (t->decoder.is_byte && !t->decoder.is_byte[id]) { /* it ends a row of bytes, whatever it is written as */
        broken(s->n, t->decoder.bad, out);
        s->n = 0;
    }
    for (size_t i = 0; i < bytes.len; i++) stream_byte(s, (uint8_t)bytes.data[i], t->decoder.bad, out);
    buf_free(&bytes);
}

Utf8Stream tokenizer_stream_after(const Tokenizer *t, const int32_t *ids, size_t n) {
    Utf8Stream s = {0};
    Buf shown = {0};
    for (size_t i = 0; i < n; i++, shown.len = 0) tokenizer_decode_stream(t, &s, ids[i], &shown);
    buf_free(&shown);
    return s;
}
