/* evaluate.h - how well a model predicts a text, alone or beside another: perplexity, bits per byte, KL divergence.
 *
 * All documents make one stream, an opening token before each:
 *
 *     <|endoftext|> first document <|endoftext|> second document        (BOS models: BOS first EOS BOS second)
 *
 * A window of T tokens moves over it by `stride`. The first window counts all its predictions, a later one its last
 * `stride`, so each is made once, from at least T - stride tokens or all that its document has: no token sees another
 * document. A smaller stride is kinder to the model and costs T/stride passes. A document's end is a prediction too,
 * except the last one's; BOS is not, since nobody trains a model to say it. Bits per byte divides by the bytes of the
 * text, so it compares models whose tokenizers differ; nats per token and perplexity do not. */
#pragma once
#include "common.h"
#include "dataset.h"
#include "model.h"
#include "tokenizer.h"

typedef struct {
    Ids ids;
    double bytes;                  /* of text; 0: not known (shards, no tokenizer) */
    size_t documents;
    int opening, uncounted;        /* -1: none */
} Stream;

/* The token that a document follows: BOS where the tokenizer puts one before every text; else the end-of-text token,
 * behind which training data has its next document. -1: none. */
int opening_token(const Config *c, const Tokenizer *tok);
/* The files of --eval and the like: texts, or token shards .bin (then tok may be NULL), not both. opened: the first
 * document has its opening token too. Dies when there is nothing to predict. */
Stream stream_read(StrList paths, const Config *c, const Tokenizer *tok, bool opened);
void stream_free(Stream *s);

/* Logits (V) of two models at one place, which become log-probabilities: what the model and its reference paid for the
 * target, KL(reference || model), and whether the likeliest token is the same. */
typedef struct { double nats, reference_nats, kl; bool agree; } RowComparison;
RowComparison compare_row(float *model, float *reference, size_t V, int32_t target);

typedef struct {
    double nats, seconds;          /* summed over n predictions */
    size_t n;
    double reference_nats, kl;     /* with a reference: its nats; the sum of KL(reference || model) */
    size_t agree;                  /* predictions whose likeliest token is the reference's */
} Evaluation;
/* m, a decoder, over the stream in windows of T <= S tokens. reference, or NULL, is the model that m was made from: it
 * sees the same, and both distributions are compared whole. */
Evaluation evaluate(Model *m, Model *reference, const Stream *s, size_t T, size_t stride);
