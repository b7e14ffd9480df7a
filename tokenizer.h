/* tokenizer.h - stage 1 as a library: text <-> token ids.
 *
 * A Tokenizer is immutable after loading and may be used by many threads at once. */
#pragma once
#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

/* Reads the tokenizer that lies in a model directory: tokenizer.json; or vocab.json and merges.txt; tokenizer.model or
 * ice_text.model (SentencePiece, or tiktoken's ranks); *.tiktoken; vocab.txt; with tokenizer_config.json beside it.
 * Dies with one sentence on a missing, malformed or unsupported file. */
Tokenizer *tokenizer_load(const char *dir);
void tokenizer_free(Tokenizer *t);
bool tokenizer_in_dir(const char *dir);         /* does dir hold a tokenizer that tokenizer_load knows? */
void tokenizer_copy_files(const char *from_dir, const char *to_dir); /* the tokenizer's files, for saved models */

int tokenizer_vocab(const Tokenizer *t);        /* number of ids: largest id + 1, special tokens included */
int tokenizer_id(const Tokenizer *t, const char *token); /* id of a token by its exact content, -1 when absent */
/* Ids by role, -1 when the tokenizer has none: beginning of text, end of text. */
int tokenizer_bos(const Tokenizer *t);
int tokenizer_eos(const Tokenizer *t);
/* Whose way of cutting text into words a byte-level one has: "gpt2", "llama3", "qwen2"; NULL: none of them. */
const char *tokenizer_words(const Tokenizer *t);
bool tokenizer_adds_bos(const Tokenizer *t);    /* the post-processor or add_bos_token asks for BOS before a text */

typedef struct { int32_t *v; size_t n, cap; } Ids;
void ids_add(Ids *ids, int32_t id);
void ids_free(Ids *ids);

/* The ids that the tokenizer's post-processor puts before a text: none, BOS, or more (GLM: [gMASK] <sop>). Nobody adds
 * them but the caller: tokenizer_encode does not. */
const Ids *tokenizer_prefix(const Tokenizer *t);
bool tokenizer_is_special(const Tokenizer *t, int id);
const Ids *tokenizer_suffix(const Tokenizer *t); /* the same behind a text */
/* Appends to ids the text a, or the two texts a and b, with what the post-processor puts around them, and to types (or
 * NULL) each one's token type. With max_length > 0 no more ids than that: the longer text gives up its end first. */
void tokenizer_wrap(const Tokenizer *t, const Ids *a, const Ids *b, size_t max_length, Ids *ids, Ids *types);
/* The exact bytes of one token inside a text (as a text's first it may lack its blank), valid as long as the
 * tokenizer. Ids out of range die. */
const char *tokenizer_token(const Tokenizer *t, int id, size_t *n);

/* The length of the first word of text: the piece that no merge crosses the end of. Call it again on the rest. */
size_t tokenizer_word(const Tokenizer *t, const char *text, size_t n);

/* Appends the ids of text (n bytes, any bytes) to ids. Text in the form of a special token is ordinary text unless
 * with_special; nothing is added at either end. */
void tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool with_special, Ids *ids);
/* Appends the exact bytes of the ids to out; special tokens are written by their name, or left out with skip_special.
 * Ids out of range die. */
void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out);
/* The same as text that is valid UTF-8, with U+FFFD where the library that the tokenizer comes from writes it. */
void tokenizer_decode_text(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out);
/* Streaming: bytes of an unfinished UTF-8 character stay in the state; what is appended to out is always whole
 * characters, invalid sequences become U+FFFD. Finish with id = -1 (flushes what is left). A state of {0} begins a
 * text, whose first blank some tokenizers drop. */
typedef struct { uint8_t pending[4]; int n; bool started, blank_due; int stripped; } Utf8Stream;
void tokenizer_decode_stream(const Tokenizer *t, Utf8Stream *s, int32_t id, Buf *out);
/* The state behind ids that somebody else has shown, a prompt's: what follows them goes on, with its blank. */
Utf8Stream tokenizer_stream_after(const Tokenizer *t, const int32_t *ids, size_t n);

/* Trains byte-level BPE on documents that next() hands out (NULL ends; the text may be reused by the next call).
 * split: "gpt2" or "llama3". specials: contents of the special tokens; they get the first ids, as in Hugging Face's
 * BpeTrainer with a byte alphabet, then the 256 bytes, then the merges. Same text and vocab give the same merges as
 * that trainer (min_frequency as given; ties by the smaller pair of ids). Memory is bounded by the vocabulary of
 * words, counts are 64-bit. The result is written into dir with tokenizer_config.json. specials[0] becomes both
 * eos_token and, when bos, bos_token. */
typedef struct {
    const char *(*next)(void *state, size_t *n);
    void *state;
    double total_bytes;            /* for the bar */
} TextSource;
void tokenizer_train(TextSource src, const char *split, int vocab, int64_t min_frequency, const char **specials,
                     int n_specials, const char *dir);
/* Trains WordPiece likewise: [PAD] [UNK] [CLS] [SEP] [MASK] and specials first, then the characters (the limit_alphabet
 * most frequent; 0: all), then those inside words ("##x"), then what Hugging Face's WordPieceTrainer makes of them.
 * lowercase (which strips accents too) and chinese_chars (each a word) are the normalizer's. Writes tokenizer.json,
 * vocab.txt and tokenizer_config.json. */
void tokenizer_train_wordpiece(TextSource src, int vocab, int64_t min_frequency, int64_t limit_alphabet, bool lowercase,
                               bool chinese_chars, const char **specials, int n_specials, const char *dir);

#ifdef __cplusplus
}
#endif
