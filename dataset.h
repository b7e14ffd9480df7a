/* dataset.h - documents in, token batches out: what tokenizer, train, finetune and infer --eval read.
 *
 * A data argument is a .txt file (one document, or several separated by lines of <|endoftext|>), a .jsonl file (one
 * document a line: "text", or "messages", or instruction/input/output), a .bin shard in llm.c's layout (tokens
 * already), a folder of them, or "corpus:BYTES[:SEED]" for the built-in corpus. */
#pragma once
#include "common.h"
#include "tokenizer.h"

/* ---- the built-in corpus (data/corpus.c) ------------------------------------------------------------------------ *
 * Deterministic: document i of (seed, split) is a function of these three alone, so any size can be had and any part
 * made again. Training and validation never share a combination (see data/corpus.c). */
typedef enum { CORPUS_TRAIN, CORPUS_VALID } CorpusSplit;
typedef enum { CORPUS_ALL, CORPUS_STORY_EN, CORPUS_STORY_ZH, CORPUS_FACTS, CORPUS_MATH, CORPUS_POT,
    CORPUS_KINDS } CorpusKind;
/* appends one document */
void corpus_document(uint64_t seed, CorpusSplit split, CorpusKind kind, uint64_t i, Buf *out);

bool ends_with(const char *s, const char *end);  /* a data argument's kind is its suffix */

/* ---- documents -------------------------------------------------------------------------------------------------- */
typedef struct Docs Docs;
Docs *docs_open(const char **paths, int n);     /* dies on what cannot be read or has no text */
const char *docs_next(void *docs, size_t *n);   /* NULL at the end; the text is valid until the next call */
double docs_bytes(const Docs *d);               /* about how much text there is */
void docs_close(Docs *d);
/* Only the documents that start in the given share of the text, 0 <= from < to <= 1, counted in bytes; a .txt document
 * that crosses a border is cut there. So that the last tenth can be held out: docs_open_range(p, n, 0.9, 1). */
Docs *docs_open_range(const char **paths, int n, double from, double to);

/* ---- tokens ----------------------------------------------------------------------------------------------------- *
 * Each document's ids followed by the end-of-text id, all documents in one stream, mmapped: .bin shards as they are, or
 * a cache made once in cache_dir (itself such a shard), whose name holds the hash of all that it depends on. */
typedef struct { Mapped map; int width; size_t n; } TokenPart;  /* width: bytes of a token, 2 or 4 */
typedef struct {
    TokenPart *part;
    int n_parts;
    size_t n, first;               /* tokens in the range; index of the first within the parts */
    int32_t eos;                   /* the separator, -1: none known */
} Tokens;
/* t may be NULL when all paths are .bin shards. */
Tokens *tokens_open(const char **paths, int n, double from, double to, const Tokenizer *t, const char *cache_dir);
int32_t tokens_at(const Tokens *d, size_t i);
void tokens_close(Tokens *d);

/* Training window `sample` of T tokens: windows lie T apart, in an order that is a pseudo-random permutation of each
 * epoch and can be entered anywhere, so a resumed run needs no state but the number of the next sample. Each epoch
 * shifts the windows' borders. tokens, targets (T). start (T), or NULL: for each query the slot of its document's
 * separator, so that documents packed into one window do not see each other; the window then begins with a document
 * where it can. */
void tokens_window(const Tokens *d, uint64_t seed, uint64_t sample, size_t T, int32_t *tokens, int32_t *targets,
    int32_t *start);
/* The validation window at token *at, which moves on: returns how many targets it counts (the others are -1), 0 at the
 * end. Each target is counted once; with start, in a window that holds its document's beginning, unless T is too
 * short. */
size_t tokens_eval_window(const Tokens *d, size_t *at, size_t T, int32_t *tokens, int32_t *targets, int32_t *start);
/* The permutation: where i of [0, n) goes, for this key. */
uint64_t permute(uint64_t i, uint64_t n, uint64_t key);
