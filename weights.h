/* weights.h - tensors in files: the safetensors half of "a Hugging Face model directory is the file format".
 *
 *     Tensors *w = tensors_open("gpt2");                       // directory or .safetensors file: mapped, not read
 *     const Tensor *wte = tensors_get(w, "wte.weight", 2, (size_t[]){50257, 768});
 *     tensor_to_f32(wte, out);
 *
 * A file is checked whole when it is opened, and trusted afterwards: every Tensor returned lies inside its file and has
 * exactly the bytes that its shape and dtype ask for. Opening costs the header only (a millisecond for thousands of
 * tensors); data comes in from disk page by page when it is touched, and processes share it.
 *
 * The format (github.com/huggingface/safetensors): 8 bytes little-endian header length N, N bytes of JSON, then the
 * data. One tensor: "name":{"dtype":"F32","shape":[2,3],"data_offsets":[begin,end]}, offsets counted from 8+N.
 *
 * Refused here: what a tensor means, what config.json says, pickle files. */
#pragma once
#include "common.h"
#include "kernels.h" /* DType */

#ifdef __cplusplus
extern "C" {
#endif

enum { TENSOR_DIMS_MAX = 8 };

size_t dtype_size(DType t);                     /* bytes of one element */
const char *dtype_name(DType t);                /* "BF16", as in the file */
bool dtype_parse(const char *name, DType *out); /* false: a dtype that we do not know */

/* ---- reading ---------------------------------------------------------------------------------------------------- */
typedef struct {
    char *name;
    DType dtype;
    int n_dims;                                 /* 0: a scalar */
    size_t shape[TENSOR_DIMS_MAX];
    size_t n, bytes;                            /* elements; n * dtype_size */
    const void *data;                           /* in the mapped file: row-major, little-endian, read-only */
    bool aligned;                               /* data may be read as an array of its type: not promised */
    const char *file;                           /* where it lies, for messages */
} Tensor;

typedef struct {
    Tensor *v;                                  /* sorted by name */
    int n;
    char **metadata_keys, **metadata_values;    /* "__metadata__" of the file, or of the first shard */
    int n_metadata;
    Mapped *files;
    int n_files;
    char *path;                                 /* as given to tensors_open */
} Tensors;

/* A .safetensors file; or a directory with model.safetensors, or with model.safetensors.index.json and its shards. A
 * damaged or hostile file dies in one sentence that names the file and the tensor. */
Tensors *tensors_open(const char *path);
const Tensor *tensors_find(const Tensors *w, const char *name); /* NULL when absent; O(log n) */
/* Dies when it is absent or has another shape, naming both shapes. */
const Tensor *tensors_get(const Tensors *w, const char *name, int n_dims, const size_t *shape);
const char *tensors_metadata(const Tensors *w, const char *key); /* NULL when absent */
/* Brings the files into memory from the first page to the last, before anything else reads them: for weights used in
 * place. Does nothing where they would fill most of the memory. */
void tensors_populate(const Tensors *w);
/* The type of floats that most values of a file or directory have: norms are often F32 in a BF16 model. Where weights
 * are whole numbers, their scales' type; F32 where there are no floats. */
DType tensors_dtype(const char *path);
void tensors_close(Tensors *w);                 /* every Tensor of it is gone */

/* Widens to float. Exact for F32, F16, BF16, BOOL and for integers up to 2^24; larger integers round to nearest. */
void tensor_to_f32(const Tensor *t, float *out);
/* The tensor was copied: its pages may leave this process (they stay in the page cache, and come again when read). */
void tensor_forget(const Tensor *t);
/* The way back, for F32, F16 and BF16: rounds to nearest, ties to even; too large becomes infinity. */
void f32_to_dtype(const float *in, size_t n, DType dtype, void *out);

/* ---- writing ---------------------------------------------------------------------------------------------------- */
/* fill writes elements [first, first + n), counted row-major, in dtype to out: a transposed, converted or downloaded
 * tensor needs no copy of the whole. The pieces come in order. fill NULL: ctx is the data itself. */
typedef struct {
    char *name;
    DType dtype;
    int n_dims;
    size_t shape[TENSOR_DIMS_MAX];
    void (*fill)(void *ctx, size_t first, size_t n, void *out);
    void *ctx;
} TensorOut;

/* One file, atomically; byte for byte what the official writer makes. metadata_format: "pt" (transformers wants it) or
 * NULL for no metadata. v is sorted into the file's order. */
void tensors_save(const char *path, TensorOut *v, int n, const char *metadata_format);
/* The same file written a tensor at a time, in any order, by whoever has them one after the other: its header and size
 * stand from the start. Each of v is put once, whole (n_bytes is checked); end makes the file appear. */
typedef struct TensorFile { OutFile out; TensorOut *v; size_t *at; int n, n_put; } TensorFile;
TensorFile tensors_begin(const char *path, TensorOut *v, int n, const char *metadata_format);
void tensors_put(TensorFile *f, const char *name, const void *data, size_t n_bytes);
/* Before long work: takes all the space on the disk that the file will need, or says that it is not there. Written out
 * of order later, it stays in the huge pages that it has now. */
void tensors_reserve(TensorFile *f);
void tensors_end(TensorFile *f);
/* dir/model.safetensors when all fits max_shard_bytes (0: no limit); otherwise model-0000i-of-0000n.safetensors and
 * their index. Shards follow the order of v. Files of the other layout are removed, so that dir holds one model. */
void tensors_save_sharded(const char *dir, TensorOut *v, int n, size_t max_shard_bytes);

#ifdef __cplusplus
}
#endif
