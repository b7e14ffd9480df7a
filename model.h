/* model.h - the network: its parts, one tensor table per family, forward and backward.
 *
 * A Config describes a transformer block by its parts; a family (gpt2, llama, …) is one row of parts and one table that
 * says what the Hub calls each tensor. forward() and model_loss() read parts, never a family's name. */
#pragma once
#include "common.h"
#include "kernels.h"
#include "weights.h"

/* ---- the parts [model.config] ----------------------------------------------------------------------------------- */
typedef enum { NORM_LAYER, NORM_RMS } NormKind;
typedef enum { NORM_PRE, NORM_POST } NormPlace;                   /* POST: after the residual sum (BERT) */
typedef enum { POS_LEARNED, POS_ROPE } PosKind;
typedef enum { MASK_CAUSAL, MASK_BIDIRECTIONAL, MASK_PREFIX } MaskKind;
typedef enum { MLP_GELU_TANH, MLP_GELU_ERF, MLP_SWIGLU } MlpKind;
typedef enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_DYNAMIC, ROPE_YARN } RopeScaling;
/* What stands on the last layer: next-token logits; BERT's masked-token logits; classes of the whole text; nothing. */
typedef enum { HEAD_LM, HEAD_MASKED_LM, HEAD_CLASSIFY, HEAD_NONE } HeadKind;

typedef struct Family Family;
typedef struct Config {
    const Family *family;
    /* sizes */
    int V, C, L, H, K, D, F;
    int max_pos;                   /* positions trained for; rows of the position table when learned */
    int type_vocab;                /* token types (BERT); 0: none */
    int n_classes;                 /* of HEAD_CLASSIFY; 0 otherwise */
    /* parts */
    NormKind norm;
    NormPlace norm_place;
    float norm_eps;
    PosKind pos;
    float rope_base;
    float rope_part;               /* the share of each head that is rotated, as the family has it ... */
    int rope_dims;                 /* ... and the dimensions that this makes, from the first; D: all */
    bool rope_interleaved;
    bool rope_2d;                  /* the second half of the head turns too, by block position (ChatGLM-6B) */
    bool rope_f16;                 /* frequencies are rounded to half precision, as their makers' were */
    RopeScaling rope_scaling;
    float rope_factor, rope_low_freq, rope_high_freq;   /* YaRN: beta_slow, beta_fast */
    float rope_attention;          /* YaRN: cos and sin are multiplied by this */
    bool rope_truncate;            /* YaRN: the ramp begins and ends at whole dimensions */
    int rope_original_pos;
    bool qk_norm;                  /* RMSNorm on each q and k head, before the rotation */
    bool qkv_bias, out_bias, mlp_bias;
    MaskKind mask;                 /* PREFIX: all tokens see those before the bos token, the rest is causal */
    int window;                    /* sliding window, 0: none */
    int window_layer;              /* the first layer that has it */
    MlpKind mlp;
    bool residual_from_norm;       /* the residual is the norm's output, not its input (ChatGLM-6B) ... */
    float residual_scale;          /* ... and counts this much: sqrt(56); else 1 */
    HeadKind head;
    bool pooler;               /* dense + tanh on the first token (BERT); decoders classify by the last token's state */
    bool tied;                     /* the head is the token embedding */
    float init_std;
    /* tokens; -1: none */
    int bos, eos[8], n_eos, pad, mask_id, gmask_id;
    int lora_r;                    /* the largest rank among the adapters; 0: no adapters */
    bool cache_i8;                 /* inference keeps keys and values in int8: set before acts_new, stands in no file */
    bool quantised;                /* the files hold weights of few bits */
} Config;

/* One tensor of the model, by what it does. Shapes follow from the role and the sizes: see the table in model.c. */
typedef enum {
    R_WTE, R_WPE, R_TYPES, R_EMBED_W, R_EMBED_B, R_FINAL_W, R_FINAL_B, R_HEAD,     /* once */
    R_POOL, R_POOL_B, R_MLM, R_MLM_B, R_MLM_W, R_MLM_NB, R_HEAD_B, R_CLASS, R_CLASS_B,
    R_NORM1_W, R_NORM1_B, R_Q, R_K, R_V, R_Q_B, R_K_B, R_V_B, R_QNORM, R_KNORM, R_O, R_O_B,     /* per layer */
    R_NORM2_W, R_NORM2_B, R_GATE, R_UP, R_GATE_B, R_UP_B, R_DOWN, R_DOWN_B,
    R_COUNT
} Role;
typedef enum { KIND_EMBED, KIND_MATRIX, KIND_NORM, KIND_BIAS } Kind;   /* decides initialisation, decay, quantisation */

typedef struct Param {
    Role role;
    int layer;                     /* -1: not in a layer */
    Kind kind;
    size_t rows, cols, n;          /* a vector is (n, 1) */
    bool frozen;                   /* set before model_train_begin: no gradient, no moments, no step */
    bool beside;         /* trains whole, beside adapters of the others: a classifier's head (PEFT's modules_to_save) */
    Mat w;                         /* what the ops read: F32 master, a bf16 copy of it, or the mmapped file */
    float *master, *grad, *m, *v;  /* training only: all in one arena each, on the device */
} Param;

/* A low-rank adapter of one of the Hub's modules (Hu et al. 2021): y += scale (x A^T) B^T, A (R,C), B (O,R). B is in
 * parts where the module is: query_key_value has a q, a k and a v. */
enum { PARTS_MAX = 4 };
typedef struct Lora {
    char *module;                  /* "model.layers.0.self_attn.q_proj": the tensor's name without ".weight" */
    int layer, n_parts;
    Role role[PARTS_MAX];
    Param a, b[PARTS_MAX];
    float scale;                   /* alpha / R, or alpha / sqrt(R) (rsLoRA) */
} Lora;

typedef struct LoraOpts {
    int r;
    double alpha;
    bool rslora;                   /* scale alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023) */
    StrList targets;             /* ends of module names, "q_proj" or "attn.c_proj"; "all-linear": every linear layer */
} LoraOpts;

typedef struct Model {
    Config cfg;
    Param *params;                 /* in arena order */
    int n_params;
    Param *(*at)[R_COUNT];         /* at[1 + layer][role], layer -1 for the global ones; NULL: this model has none */
    size_t n_weights;              /* values in all parameters */
    /* the arenas, (n_weights) each; grad, m, v only after model_train_begin: (n_trained) */
    float *master, *grad, *m, *v;
    size_t n_trained;              /* n_weights, or the values in the adapters */
    Lora *lora;
    int n_lora;
    LoraOpts lora_opts;            /* what they were made with; targets is not kept */
    float *lora_master;            /* the adapters' arena */
    Lora *(*lora_at)[R_COUNT];     /* as `at`; NULL without adapters */
    Tensors *files;                /* the mmapped files that the weights live in, or NULL */
    void **own;                    /* (n_own) memory of quantised weights that could not be used in place */
    int n_own;
    bool new_head;                 /* its classification head is not from the files */
    float *rope_table;             /* (max_pos, rope_dims/2, 2) on the device */
    int rope_rows;
    char *config_json, *generation_json; /* as loaded, so that saving keeps what we do not know */
} Model;

/* ---- making, loading, saving [model.io] ------------------------------------------------------------------------- */
Config config_read(const char *path);        /* a config.json, or the directory of one; dies on what it does not know */
Config config_family_default(const char *model_type);              /* parts of the family, sizes zero */
bool config_supported(const char *model_type);                     /* is there a row of parts for it? */
void config_check(const Config *c);                                /* dies on impossible sizes */
const char *config_model_type(const Config *c);
size_t config_weights(const Config *c);                            /* values in all parameters, a tied head once */
/* forward and backward: 6 per matmul weight + 6 L H D T (causal) */
double config_flops_per_token(const Config *c, size_t T);
/* radians a position that pair i of a head turns, in texts of so many tokens */
double rope_frequency(const Config *c, size_t i, size_t tokens);

Model *model_new(const Config *c, uint64_t seed);                  /* random weights, f32 masters */
/* From a model directory. train: f32 masters of our own; else weights stay in the mmap where the device allows it. */
Model *model_load(const char *dir, bool train);
/* To be gone through once, matrix by matrix: each comes into memory when it is read, and goes with param_drop. */
Model *model_load_lazily(const char *dir);
/* A BERT, or a decoder, that learns to tell these classes apart; train as above: false where only an adapter and the
 * head will learn. Where dir is no classifier of the same names, the head begins anew (m->new_head), and with it BERT's
 * pooler if the files have none. Dies for families that the Hub has no such models of (ChatGLM). */
Model *model_load_classifier(const char *dir, StrList labels, uint64_t seed, bool train);
/* To run: a model with the adapter in a directory, a classifier's where the adapter has a head. */
Model *model_load_adapted(const char *dir, const char *adapter);
/* config.json, generation_config.json and model.safetensors into dir (which exists), rounded to dtype; adapters are
 * added to what they adapt. Needs memory for one tensor in f32 beside the model. */
void model_save(const Model *m, const char *dir, DType dtype);
/* As the quantised directory that m was loaded from, byte for byte, but for what has adapters or masters: that takes
 * the nearest of its groups' steps, scales and zero points as they are; where it is not quantised, its tensor's dtype.
 */
void model_save_quantised(const Model *m, const char *dir);
/* One field of the tensor that the Hub calls name (with the family's prefix or without), in the Hub's shape and order,
 * f32 on the host: a new array of *n values; NULL when the model has no such tensor. For tests and reports: it lists
 * all tensors at each call. Gradients and moments exist after model_train_begin. */
typedef enum { FIELD_WEIGHT, FIELD_GRAD, FIELD_M, FIELD_V } Field;
float *model_hub_read(const Model *m, const char *name, Field field, size_t *n);
/* The way back, into a model that trains; dies when there is no such tensor. */
void model_hub_write(Model *m, const char *name, Field field, const float *values);
/* Gradients and moments, zeroed: for all weights that are not frozen, or with adapters for those alone. */
void model_train_begin(Model *m);
void model_free(Model *m);
/* Frees a weight's memory, unless it is the file's, a master's or a quantised one, and leaves its data NULL. */
void param_drop(const Model *m, Param *p);
char *param_name(const Param *p);                                  /* "layers.3.q": a new string */

/* ---- the Hub's tensors and our parameters [model.hub] ------------------------------------------------------------ */
/* One tensor of the Hub: a parameter, or several stacked along the outputs (c_attn, query_key_value, gate_up_proj). IO:
 * stored (inputs, outputs), as GPT-2's Conv1D does. BY_HEAD: the parts take turns, head by head: D rows of q, of k, of
 * v, then the next head's (ChatGLM-6B). */
typedef enum { OI, IO, BY_HEAD } Layout;
typedef struct HubTensor {
    char *name;                    /* with the layer's number */
    const struct TensorLine *first;
    int n_parts;
    Param *part[PARTS_MAX];
    size_t rows, cols;             /* of the stack: outputs, inputs */
    Layout layout;
    bool vector;
} HubTensor;
HubTensor *hub_tensors(const Model *m, int *n);                    /* all of a model, by layer; to be freed with: */
void hub_tensors_free(HubTensor *v, int n);
size_t hub_row(const HubTensor *h, int j, size_t r, size_t D);     /* the row of the stack where row r of part j is */
/* The stack in the Hub's shape and order, from its parts, (rows, cols) each as our parameters are. */
void hub_stack(const HubTensor *h, size_t D, float *const part[], float *whole);
/* What the Hub calls the tensor of this role, a new string; NULL: the family has none. The model need not have it (a
 * tied head). */
char *hub_name(const Config *c, Role role, int layer);
const Tensor *hub_file(const Model *m, const HubTensor *h);        /* the tensor in the files that m was loaded from */

/* ---- adapters, in PEFT's layout [model.lora] -------------------------------------------------------------------- */
/* Reads DIR/adapter_config.json and adapter_model.safetensors onto a loaded model, once. Dies on what it does not
 * know. */
void model_lora_load(Model *m, const char *dir);
/* The values of adapters that m has, and of what trains beside them, from a directory of model_lora_save. */
void model_lora_reload(Model *m, const char *dir);
/* New ones, which change nothing yet: A is uniform in +-1/sqrt(inputs), B zero. A classifier's head trains beside them.
 * Dies when a target is no module. */
void model_lora_new(Model *m, const LoraOpts *opts, uint64_t seed);
/* Both files into dir (which exists); base is the model that they belong to, by name or path. A classifier's class
 * names beside them, in labels.json. */
void model_lora_save(const Model *m, const char *dir, const char *base);
/* One field of an adapter's tensor by its name in the file ("base_model.model....lora_A.weight"), as model_hub_read. */
float *model_lora_read(const Model *m, const char *name, Field field, size_t *n);

/* ---- activations [model.acts] ----------------------------------------------------------------------------------- */
typedef struct LayerActs {         /* N = B*T rows */
    act *x;                        /* (N,C) the residual stream coming in */
    act *n1;                       /* (N,C) norm 1 of it; where norms come after the sum: the sum, xm its norm */
    act *q, *k, *v;                /* (N,H*D), (B,S,K*D) twice: the cache */
    int8_t *k_i8, *v_i8;           /* (B,S,K*D) an int8 cache, and k and v NULL */
    float *k_scale, *v_scale;      /* (B,S,K) of it */
    act *att;                      /* (N,H*D) attention's output */
    act *xm;                       /* (N,C) the stream between attention and MLP */
    act *n2, *gate, *up, *h;       /* (N,C) as n1, (N,F) three times; gate is NULL without one */
    act *q_raw, *k_raw;            /* (N,H*D), (N,K*D) before q/k norms; NULL without them */
    float *mean1, *rstd1, *mean2, *rstd2, *lse;   /* (N) four times, (B,H,T) */
    float *q_rstd, *k_rstd;        /* (N*H), (N*K) */
    act *lora[R_COUNT];            /* (N,R) scale x A^T, by an adapter's first role */
} LayerActs;

typedef struct Noise {             /* what makes training harder, so that less is learnt by heart */
    float dropout, lora_dropout;   /* shares of activations that are zeroed: into the stream, into adapters */
    float neftune;                 /* alpha: uniform noise in +-alpha / sqrt(T C) on embeddings (Jain et al. 2023) */
} Noise;

typedef struct Acts {
    size_t B, T, S;                /* the largest batch it can hold, cache slots */
    bool train, recompute;
    LayerActs *layer;              /* (L) */
    act *embed;                    /* (N,C) the embeddings' sum before its norm; NULL without one */
    float *embed_mean, *embed_rstd;
    act *out, *final;              /* (N,C) the stream after the last layer; its norm (out itself, without one) */
    float *mean, *rstd;
    act *logits;                   /* (chunk, V), or (B, classes) */
    size_t chunk;
    act *head_in, *head_pre, *head_act, *head_norm;   /* (chunk,C) rows that a head reads, and its steps between */
    float *head_mean, *head_rstd;
    act *dhead;                    /* (chunk,C) */
    float *loss;                   /* (N) */
    int32_t *next, *history;       /* sampling: (1), (S) */
    float *sample_scratch;         /* (V) */
    /* on the device */
    int32_t *tokens, *targets, *types, *position, *block, *order, *pos, *start, *len, *prefix, *rows;
    act *dx, *dn, *dq, *dk, *dv, *dh, *dgate;     /* backward: (N,C), (N,max(C,HD)), …, (N,F) */
    float *delta;
    act *lora_x, *dlora;           /* (N, the widest input) x after dropout; (N,R) */
    void *arena;
    size_t bytes;
    size_t n_target;               /* targets >= 0 of the last batch */
    size_t T_now;                  /* tokens a row of the last forward */
    uint64_t drop_seed;            /* mixed into every dropout site; set by the trainer each step */
    Noise noise;                   /* all 0 in evaluation and inference */
    /* (B) on the host, prefix masks: where the rows' prefixes end, which slot they fill */
    int32_t *prefix_len, *mask_at;
    int32_t *end;                  /* (B) on the host: tokens in each row of the last forward, padding left out */
} Acts;

size_t acts_bytes(const Config *c, size_t B, size_t T, size_t S, bool train, bool recompute);
/* What comes beside once the ops have run: blocks of operands, packed by each thread, and the pages of the program and
 * its libraries that come in as they are used. About. */
double scratch_bytes(void);
Acts *acts_new(Model *m, size_t B, size_t T, size_t S, bool train, bool recompute);
/* The same memory for another training batch, of no more rows and no more tokens; what it held is lost. */
void acts_reshape(const Model *m, Acts *a, size_t B, size_t T);
void acts_free(Acts *a);
/* What the cache holds of a layer: rows of slots, data on the device from slot `slot` of row `row` on, `width` values a
 * slot: K*D keys or values, or K scales of either (data NULL: it has none). */
typedef enum { CACHE_KEYS, CACHE_VALUES, CACHE_KEY_SCALES, CACHE_VALUE_SCALES, CACHE_PARTS } CachePart;
typedef struct { void *data; DType dtype; size_t width, slot_bytes; } CacheSlots;
CacheSlots acts_cache(const Model *m, const Acts *a, int layer, CachePart part, size_t row, size_t slot);
/* Bytes of the whole cache: rows B, slots S. */
double cache_bytes(const Config *c, size_t B, size_t S);
/* The first n slots of row `from` become row `to`'s. */
void acts_cache_copy(const Model *m, Acts *a, size_t to, size_t from, size_t n);

/* ---- running it [model.forward] --------------------------------------------------------------------------------- */
typedef struct Batch {             /* all on the host */
    size_t B, T;
    const int32_t *tokens;         /* (B,T) */
    const int32_t *types;          /* (B,T) token types (BERT); NULL: all 0 */
    const int32_t *targets;        /* (B,T) next tokens, negative: not counted; NULL: no loss asked. To classify: (B) */
    const int32_t *pos;            /* (B) cache slots already filled; NULL: none */
    const int32_t *start;          /* (B,T) first slot each query sees; NULL: 0 */
    const int32_t *len;            /* (B) slots filled after this call, for padded rows; NULL: all */
    const int32_t *position;       /* (B,T) positions for rotary or learned embedding; NULL: slot number */
    size_t row;                    /* inference: the batch's rows are rows row .. row+B-1 of the cache */
} Batch;

/* Blocks [first, end) of the network alone, for whoever looks at or changes one at a time. stream (N,C), on the device,
 * comes in (where first is 0: the tokens' embeddings do) and goes out; behind the last block it has had the final norm.
 * Call it with the blocks in order, over one batch or over many: K and V of a block live until its next call. */
void forward_part(Model *m, Acts *a, const Batch *b, int first, int end, act *stream);
/* Runs the network: K and V of the new tokens go to slots pos .. pos+T-1 of the cache, the final norm's output to
 * a->final (N,C). Training is pos = 0, S = T; prefill T = the prompt; decode T = 1. B*T may be as large as what the
 * activations were made for; in inference a few rows may have longer texts than many. */
void forward(Model *m, Acts *a, const Batch *b);
/* Logits of rows [first, first+n) of a->final, in a->logits (n,V); n <= a->chunk. */
act *model_logits(Model *m, Acts *a, size_t first, size_t n);
/* tanh of a dense layer on the first token of each row, (B,C); needs cfg.pooler. */
act *model_pool(Model *m, Acts *a, size_t B);
/* The classes' logits, (B,n_classes), in a->logits: from the pooled first token, or the last one's state. */
act *model_classify(Model *m, Acts *a, size_t B);
/* What layer's attention saw in the last forward, which was of b: (H,T,S) of row `row`, on the host, a new array. */
float *model_attention(const Model *m, const Acts *a, const Batch *b, int layer, size_t row);
/* After forward with targets: the summed loss over all targets >= 0 (natural log), the classifier run in chunks. With
 * scale != 0 also the backward of scale * sum, added to the gradients (scale = 1 / number of targets of the step). */
double model_loss(Model *m, Acts *a, const Batch *b, float scale);

/* One token drawn from logits (V), of which the first n_ids may be chosen (vocabularies are padded; the tokenizer knows
 * how many it can spell). history: ids on the host that a repetition penalty meets. The uniform number is a function of
 * (stream, step) alone, so a text depends on its seed and nothing else. Waits for the device. */
int32_t model_sample(Acts *a, const act *logits, size_t n_ids, const Sampler *s, const int32_t *history,
                     size_t n_history, uint64_t stream, uint64_t step);

/* ---- the optimiser's step [model.step] -------------------------------------------------------------------------- */
double model_grad_norm(Model *m);                                 /* L2 norm over all gradients; waits for the device */
typedef struct { double lr, beta1, beta2, eps, weight_decay, clip; } OptimOpts;
/* AdamW on every parameter, matrices and embeddings decayed, gradients zeroed; t counts from 1. Clips to norm
 * h->clip (0: no) given the norm measured before. */
void model_adamw(Model *m, const OptimOpts *h, int64_t t, double grad_norm);
