/* quantized.h - quantised weights in files: compressed-tensors, GPTQ and AWQ directories, as matrices for the ops.
 *
 *     QuantConfig *q = quant_config("model/config.json", text);          // NULL: nothing is quantised
 *     if (quant_find(files, "model.layers.0.mlp.up_proj"))
 *         t = quant_tensor(q, files, "model.layers.0.mlp.up_proj", rows, cols);             // t.m
 *
 * int8 and packed int4 of compressed-tensors lie in the file as the ops want them and are used in place; GPTQ's and
 * AWQ's columns of words, other packings and input orders are repacked into memory of our own. Zero, missing or
 * infinite scales, wrong shapes, unknown bits and formats die in a sentence that names tensor and file.
 *
 * Refused: floating-point formats (fp8, fp4), sparse ones, blocks, quantised outputs. */
#pragma once
#include "kernels.h"
#include "weights.h"

typedef struct QuantConfig QuantConfig;
/* From the text of a config.json (path is for messages): its "quantization_config"; NULL when there is none. */
QuantConfig *quant_config(const char *path, const char *text);
void quant_config_free(QuantConfig *q);

typedef struct QuantTensor {
    Mat m;                         /* (rows, cols) on the host */
    void *own[4];                  /* what of it does not lie in a file: data, scale, zero, order; free() them */
} QuantTensor;
/* Its quantised weights; NULL when the module has none (a plain weight, perhaps). */
const Tensor *quant_find(const Tensors *files, const char *module);
/* The matrix of a module that has: rows outputs x cols inputs. */
QuantTensor quant_tensor(const QuantConfig *q, const Tensors *files, const char *module, size_t rows, size_t cols);
/* The way back: the bytes of the tensor that quant_find gives, a new array, with w (rows, cols) in place of what it
 * holds.
 * Each weight becomes the nearest of its group's steps; scales, zero points and the order of inputs stay. */
void *quant_replace(const QuantConfig *q, const Tensors *files, const char *module, size_t rows, size_t cols,
                    const float *w);
/* Sets used[i] where files->v[i] is one of the tensors that belong to the module's weight. */
void quant_used(const Tensors *files, const char *module, bool *used);
