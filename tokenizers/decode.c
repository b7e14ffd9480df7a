/* decode.c - ids -> bytes -> whole characters. */
#include "parts.h"

/* [tok.decode] ids -> text ----------------------------------------------------------------------------------------- */

static void check_id(const Tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n_ids) die("token id %d is outside the vocabulary (0 to %d)", id, t->n_ids - 1);
}

const char *tokenizer_token(const Tokenizer *t, int id, size_t *n) {
    check_id(t, id);
    *n = t->bytes_at[id + 1] - t->bytes_at[id];
    return t->token_bytes.data + t->bytes_at[id];
}

void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = tokenizer_token(t, ids[i], &len);
        if (!(skip_special && t->is_special[ids[i]])) buf_add(out, bytes, len);
    }
}

/* A token may end in the middle of a character: the bytes so far wait in pending until the next token completes them
 * or shows that nothing can. */
static void stream_byte(Utf8Stream *s, uint8_t byte, Buf *out) {
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
    buf_str(out, "\xEF\xBF\xBD");
    s->n = 0;
    if (byte_begins_anew) stream_byte(s, byte, out);
}

void tokenizer_decode_stream(const Tokenizer *t, Utf8Stream *s, int32_t id, Buf *out) {
    if (id == -1) {
        if (s->n) buf_str(out, "\xEF\xBF\xBD");
        s->n = 0;
        return;
    }
    size_t n;
    const char *bytes = tokenizer_token(t, id, &n);
    for (size_t i = 0; i < n; i++) stream_byte(s, (uint8_t)bytes[i], out);
}
