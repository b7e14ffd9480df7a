/* gguf.h - a model as one GGUF file, the format that llama.cpp loads.
 *
 *     Gguf *g = gguf_begin("small.gguf", m, dir, bits);     bits[i]: 8, 4 or 0 for floats, of m->params[i]
 *     gguf_put(g, param, q, scale);  gguf_put_floats(g, param, x);      each of m's parameters once, in any order
 *     gguf_end(g);                                          the file appears
 *
 * Families: llama (and mistral without a window), qwen2, qwen3, gpt2; tokenizers: tokenizer.json with byte-level BPE of
 * GPT-2's, Llama-3's or Qwen's words, or SentencePiece's as BPE. Anything else dies in a sentence before a byte is
 * written. */
#pragma once
#include "model.h"

enum { GGUF_BLOCK = 32 };                       /* weights that share a scale */
typedef struct Gguf Gguf;
Gguf *gguf_begin(const char *path, const Model *m, const char *dir, const uint8_t *bits);
/* A matrix (rows, cols) as whole numbers, -128..127 or -8..7, with scales (rows, cols / GGUF_BLOCK) that F16 holds. */
void gguf_put(Gguf *g, const Param *p, const int8_t *q, const float *scale);
void gguf_put_floats(Gguf *g, const Param *p, const float *x);
/* Returns the file's size in bytes. */
size_t gguf_end(Gguf *g);
