/* model.c - the network: parts, one tensor table per family, forward, backward, the optimiser's step.
 *
 * MAP
 *   [model.roles]    every tensor a model can have: its shape in letters and its kind
 *   [model.tables]   per family, what the Hub calls each tensor: one tensor, one line
 *   [model.config]   config.json <-> Config
 *   [model.io]       making, loading in place from the mmap, saving
 *   [model.lora]     adapters: reading them, and what they add forward and backward
 *   [model.acts]     activations, laid out once
 *   [model.layer]    one block forward; its backward stands beside it, mirrored line by line
 *   [model.head]     from the stream to logits: next tokens, masked tokens, classes
 *   [model.loss]     the head in chunks: full logits never exist
 *   [model.step]     gradient norm and AdamW
 *
 * A layer is: x -> norm -> q, k, v -> rotate -> attention -> project + x -> norm -> MLP + that (BERT: the norms after
 * the sums). Families differ in parts (Config), never in code paths of their own. What this file refuses: text, files
 * other than a model directory, and any knowledge of where it runs (see kernels.h). */
#include "model.h"
#include "quantized.h"
#include <assert.h>
#include <cjson/cJSON.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [model.roles] Every tensor by what it does. Letters of shapes: V vocabulary, C width, Q = H*D, K = K*D (key/value
 * width), F feed-forward, P positions, T token types, N classes, D head; cols '1': a vector. */
static const struct { const char *name; Kind kind; char rows, cols; } roles[R_COUNT] = {
    [R_WTE]     = {"wte",     KIND_EMBED,  'V', 'C'},    /* token embedding */
    [R_WPE]     = {"wpe",     KIND_EMBED,  'P', 'C'},    /* learned positions */
    [R_TYPES]   = {"types",   KIND_EMBED,  'T', 'C'},    /* which of two texts a token is from */
    [R_EMBED_W] = {"embed.w", KIND_NORM,   'C', '1'},    /* norm of the embeddings' sum */
    [R_EMBED_B] = {"embed.b", KIND_BIAS,   'C', '1'},
    [R_FINAL_W] = {"final.w", KIND_NORM,   'C', '1'},
    [R_FINAL_B] = {"final.b", KIND_BIAS,   'C', '1'},
    [R_HEAD]    = {"head",    KIND_MATRIX, 'V', 'C'},    /* absent when tied to wte */
    [R_POOL]    = {"pool",    KIND_MATRIX, 'C', 'C'},    /* tanh of it, on the first token: the whole text */
    [R_POOL_B]  = {"pool.b",  KIND_BIAS,   'C', '1'},
    [R_MLM]     = {"mlm",     KIND_MATRIX, 'C', 'C'},    /* before a masked-token head: dense, GELU, norm */
    [R_MLM_B]   = {"mlm.b",   KIND_BIAS,   'C', '1'},
    [R_MLM_W]   = {"mlm.norm.w", KIND_NORM, 'C', '1'},
    [R_MLM_NB]  = {"mlm.norm.b", KIND_BIAS, 'C', '1'},
    [R_HEAD_B]  = {"head.b",  KIND_BIAS,   'V', '1'},
    [R_CLASS]   = {"class",   KIND_MATRIX, 'N', 'C'},
    [R_CLASS_B] = {"class.b", KIND_BIAS,   'N', '1'},
    [R_NORM1_W] = {"norm1.w", KIND_NORM,   'C', '1'},
    [R_NORM1_B] = {"norm1.b", KIND_BIAS,   'C', '1'},
    [R_Q]       = {"q",       KIND_MATRIX, 'Q', 'C'},
    [R_K]       = {"k",       KIND_MATRIX, 'K', 'C'},
    [R_V]       = {"v",       KIND_MATRIX, 'K', 'C'},
    [R_Q_B]     = {"q.b",     KIND_BIAS,   'Q', '1'},
    [R_K_B]     = {"k.b",     KIND_BIAS,   'K', '1'},
    [R_V_B]     = {"v.b",     KIND_BIAS,   'K', '1'},
    [R_QNORM]   = {"qnorm",   KIND_NORM,   'D', '1'},
    [R_KNORM]   = {"knorm",   KIND_NORM,   'D', '1'},
    [R_O]       = {"o",       KIND_MATRIX, 'C', 'Q'},
    [R_O_B]     = {"o.b",     KIND_BIAS,   'C', '1'},
    [R_NORM2_W] = {"norm2.w", KIND_NORM,   'C', '1'},
    [R_NORM2_B] = {"norm2.b", KIND_BIAS,   'C', '1'},
    [R_GATE]    = {"gate",    KIND_MATRIX, 'F', 'C'},
    [R_UP]      = {"up",      KIND_MATRIX, 'F', 'C'},
    [R_GATE_B]  = {"gate.b",  KIND_BIAS,   'F', '1'},
    [R_UP_B]    = {"up.b",    KIND_BIAS,   'F', '1'},
    [R_DOWN]    = {"down",    KIND_MATRIX, 'C', 'F'},
    [R_DOWN_B]  = {"down.b",  KIND_BIAS,   'C', '1'},
};
static bool role_in_layer(Role r) { return r >= R_NORM1_W; }

static size_t letter_size(const Config *c, char letter) {
    switch (letter) {
    case 'V': return (size_t)c->V;
    case 'C': return (size_t)c->C;
    case 'Q': return (size_t)c->H * (size_t)c->D;
    case 'K': return (size_t)c->K * (size_t)c->D;
    case 'F': return (size_t)c->F;
    case 'P': return (size_t)c->max_pos;
    case 'T': return (size_t)c->type_vocab;
    case 'N': return (size_t)c->n_classes;
    case 'D': return (size_t)c->D;
    default: return 1;
    }
}
static size_t role_size(const Config *c, Role r) {
    return letter_size(c, roles[r].rows) * letter_size(c, roles[r].cols);
}
static bool role_present(const Config *c, Role r) {
    switch (r) {
    case R_WPE: return c->pos == POS_LEARNED;
    case R_TYPES: return c->type_vocab > 0;
    case R_EMBED_W: case R_EMBED_B: return c->norm_place == NORM_POST;
    case R_HEAD: return (c->head == HEAD_LM || c->head == HEAD_MASKED_LM) && !c->tied;
    case R_MLM: case R_MLM_B: case R_MLM_W: case R_MLM_NB: case R_HEAD_B: return c->head == HEAD_MASKED_LM;
    case R_POOL: case R_POOL_B: return c->pooler;
    case R_CLASS: return c->head == HEAD_CLASSIFY;
    case R_CLASS_B: return c->head == HEAD_CLASSIFY && c->pooler;
    case R_FINAL_W: return c->norm_place == NORM_PRE;
    case R_FINAL_B: return c->norm_place == NORM_PRE && c->norm == NORM_LAYER;
    case R_NORM1_B: case R_NORM2_B: return c->norm == NORM_LAYER;
    case R_Q_B: case R_K_B: case R_V_B: return c->qkv_bias;
    case R_O_B: return c->out_bias;
    case R_QNORM: case R_KNORM: return c->qk_norm;
    case R_GATE: return c->mlp == MLP_SWIGLU;
    case R_GATE_B: return c->mlp == MLP_SWIGLU && c->mlp_bias;
    case R_UP_B: case R_DOWN_B: return c->mlp_bias;
    default: return true;
    }
}

/* ================================================================================================================= *
 * [model.tables] What the Hub calls them. Neighbouring lines of one name are one HubTensor (model.h), in that order. */
typedef struct TensorLine { Role role; const char *name; Layout layout; } TensorLine;

static const TensorLine gpt2_tensors[] = {
    {R_WTE, "transformer.wte.weight", OI},
    {R_WPE, "transformer.wpe.weight", OI},
    {R_NORM1_W, "transformer.h.%d.ln_1.weight", OI},
    {R_NORM1_B, "transformer.h.%d.ln_1.bias", OI},
    {R_Q, "transformer.h.%d.attn.c_attn.weight", IO},
    {R_K, "transformer.h.%d.attn.c_attn.weight", IO},
    {R_V, "transformer.h.%d.attn.c_attn.weight", IO},
    {R_Q_B, "transformer.h.%d.attn.c_attn.bias", OI},
    {R_K_B, "transformer.h.%d.attn.c_attn.bias", OI},
    {R_V_B, "transformer.h.%d.attn.c_attn.bias", OI},
    {R_O, "transformer.h.%d.attn.c_proj.weight", IO},
    {R_O_B, "transformer.h.%d.attn.c_proj.bias", OI},
    {R_NORM2_W, "transformer.h.%d.ln_2.weight", OI},
    {R_NORM2_B, "transformer.h.%d.ln_2.bias", OI},
    {R_UP, "transformer.h.%d.mlp.c_fc.weight", IO},
    {R_UP_B, "transformer.h.%d.mlp.c_fc.bias", OI},
    {R_DOWN, "transformer.h.%d.mlp.c_proj.weight", IO},
    {R_DOWN_B, "transformer.h.%d.mlp.c_proj.bias", OI},
    {R_FINAL_W, "transformer.ln_f.weight", OI},
    {R_FINAL_B, "transformer.ln_f.bias", OI},
    {R_HEAD, "lm_head.weight", OI},
    {R_CLASS, "score.weight", OI},
    {R_COUNT, NULL, OI},
};
/* What Llama and GLM-4 call alike. */
#define LLAMA_ATTENTION \
    {R_WTE, "model.embed_tokens.weight", OI}, \
    {R_NORM1_W, "model.layers.%d.input_layernorm.weight", OI}, \
    {R_Q, "model.layers.%d.self_attn.q_proj.weight", OI}, \
    {R_K, "model.layers.%d.self_attn.k_proj.weight", OI}, \
    {R_V, "model.layers.%d.self_attn.v_proj.weight", OI}, \
    {R_Q_B, "model.layers.%d.self_attn.q_proj.bias", OI}, \
    {R_K_B, "model.layers.%d.self_attn.k_proj.bias", OI}, \
    {R_V_B, "model.layers.%d.self_attn.v_proj.bias", OI},
static const TensorLine llama_tensors[] = {               /* Llama, Mistral, Qwen2, Qwen3 */
    LLAMA_ATTENTION
    {R_QNORM, "model.layers.%d.self_attn.q_norm.weight", OI},
    {R_KNORM, "model.layers.%d.self_attn.k_norm.weight", OI},
    {R_O, "model.layers.%d.self_attn.o_proj.weight", OI},
    {R_O_B, "model.layers.%d.self_attn.o_proj.bias", OI},
    {R_NORM2_W, "model.layers.%d.post_attention_layernorm.weight", OI},
    {R_GATE, "model.layers.%d.mlp.gate_proj.weight", OI},
    {R_UP, "model.layers.%d.mlp.up_proj.weight", OI},
    {R_GATE_B, "model.layers.%d.mlp.gate_proj.bias", OI},
    {R_UP_B, "model.layers.%d.mlp.up_proj.bias", OI},
    {R_DOWN, "model.layers.%d.mlp.down_proj.weight", OI},
    {R_DOWN_B, "model.layers.%d.mlp.down_proj.bias", OI},
    {R_FINAL_W, "model.norm.weight", OI},
    {R_HEAD, "lm_head.weight", OI},
    {R_CLASS, "score.weight", OI},
    {R_COUNT, NULL, OI},
};

/* GLM-4 as transformers has it ("glm"): Llama's names, gate and up in one. */
static const TensorLine glm_tensors[] = {
    LLAMA_ATTENTION
    {R_O, "model.layers.%d.self_attn.o_proj.weight", OI},
    {R_NORM2_W, "model.layers.%d.post_attention_layernorm.weight", OI},
    {R_GATE, "model.layers.%d.mlp.gate_up_proj.weight", OI},
    {R_UP, "model.layers.%d.mlp.gate_up_proj.weight", OI},
    {R_DOWN, "model.layers.%d.mlp.down_proj.weight", OI},
    {R_FINAL_W, "model.norm.weight", OI},
    {R_HEAD, "lm_head.weight", OI},
    {R_CLASS, "score.weight", OI},
    {R_COUNT, NULL, OI},
};
static const TensorLine chatglm_tensors[] = {             /* ChatGLM2-6B, ChatGLM3-6B, GLM-4-9B */
    {R_WTE, "transformer.embedding.word_embeddings.weight", OI},
    {R_NORM1_W, "transformer.encoder.layers.%d.input_layernorm.weight", OI},
    {R_NORM1_B, "transformer.encoder.layers.%d.input_layernorm.bias", OI},
    {R_Q, "transformer.encoder.layers.%d.self_attention.query_key_value.weight", OI},
    {R_K, "transformer.encoder.layers.%d.self_attention.query_key_value.weight", OI},
    {R_V, "transformer.encoder.layers.%d.self_attention.query_key_value.weight", OI},
    {R_Q_B, "transformer.encoder.layers.%d.self_attention.query_key_value.bias", OI},
    {R_K_B, "transformer.encoder.layers.%d.self_attention.query_key_value.bias", OI},
    {R_V_B, "transformer.encoder.layers.%d.self_attention.query_key_value.bias", OI},
    {R_O, "transformer.encoder.layers.%d.self_attention.dense.weight", OI},
    {R_O_B, "transformer.encoder.layers.%d.self_attention.dense.bias", OI},
    {R_NORM2_W, "transformer.encoder.layers.%d.post_attention_layernorm.weight", OI},
    {R_NORM2_B, "transformer.encoder.layers.%d.post_attention_layernorm.bias", OI},
    {R_GATE, "transformer.encoder.layers.%d.mlp.dense_h_to_4h.weight", OI},
    {R_UP, "transformer.encoder.layers.%d.mlp.dense_h_to_4h.weight", OI},
    {R_GATE_B, "transformer.encoder.layers.%d.mlp.dense_h_to_4h.bias", OI},
    {R_UP_B, "transformer.encoder.layers.%d.mlp.dense_h_to_4h.bias", OI},
    {R_DOWN, "transformer.encoder.layers.%d.mlp.dense_4h_to_h.weight", OI},
    {R_DOWN_B, "transformer.encoder.layers.%d.mlp.dense_4h_to_h.bias", OI},
    {R_FINAL_W, "transformer.encoder.final_layernorm.weight", OI},
    {R_FINAL_B, "transformer.encoder.final_layernorm.bias", OI},
    {R_HEAD, "transformer.output_layer.weight", OI},
    {R_COUNT, NULL, OI},
};
static const TensorLine chatglm1_tensors[] = {            /* ChatGLM-6B */
    {R_WTE, "transformer.word_embeddings.weight", OI},
    {R_NORM1_W, "transformer.layers.%d.input_layernorm.weight", OI},
    {R_NORM1_B, "transformer.layers.%d.input_layernorm.bias", OI},
    {R_Q, "transformer.layers.%d.attention.query_key_value.weight", BY_HEAD},
    {R_K, "transformer.layers.%d.attention.query_key_value.weight", BY_HEAD},
    {R_V, "transformer.layers.%d.attention.query_key_value.weight", BY_HEAD},
    {R_Q_B, "transformer.layers.%d.attention.query_key_value.bias", BY_HEAD},
    {R_K_B, "transformer.layers.%d.attention.query_key_value.bias", BY_HEAD},
    {R_V_B, "transformer.layers.%d.attention.query_key_value.bias", BY_HEAD},
    {R_O, "transformer.layers.%d.attention.dense.weight", OI},
    {R_O_B, "transformer.layers.%d.attention.dense.bias", OI},
    {R_NORM2_W, "transformer.layers.%d.post_attention_layernorm.weight", OI},
    {R_NORM2_B, "transformer.layers.%d.post_attention_layernorm.bias", OI},
    {R_UP, "transformer.layers.%d.mlp.dense_h_to_4h.weight", OI},
    {R_UP_B, "transformer.layers.%d.mlp.dense_h_to_4h.bias", OI},
    {R_DOWN, "transformer.layers.%d.mlp.dense_4h_to_h.weight", OI},
    {R_DOWN_B, "transformer.layers.%d.mlp.dense_4h_to_h.bias", OI},
    {R_FINAL_W, "transformer.final_layernorm.weight", OI},
    {R_FINAL_B, "transformer.final_layernorm.bias", OI},
    {R_HEAD, "lm_head.weight", OI},
    {R_COUNT, NULL, OI},
};
static const TensorLine bert_tensors[] = {
    {R_WTE, "bert.embeddings.word_embeddings.weight", OI},
    {R_WPE, "bert.embeddings.position_embeddings.weight", OI},
    {R_TYPES, "bert.embeddings.token_type_embeddings.weight", OI},
    {R_EMBED_W, "bert.embeddings.LayerNorm.weight", OI},
    {R_EMBED_B, "bert.embeddings.LayerNorm.bias", OI},
    {R_Q, "bert.encoder.layer.%d.attention.self.query.weight", OI},
    {R_Q_B, "bert.encoder.layer.%d.attention.self.query.bias", OI},
    {R_K, "bert.encoder.layer.%d.attention.self.key.weight", OI},
    {R_K_B, "bert.encoder.layer.%d.attention.self.key.bias", OI},
    {R_V, "bert.encoder.layer.%d.attention.self.value.weight", OI},
    {R_V_B, "bert.encoder.layer.%d.attention.self.value.bias", OI},
    {R_O, "bert.encoder.layer.%d.attention.output.dense.weight", OI},
    {R_O_B, "bert.encoder.layer.%d.attention.output.dense.bias", OI},
    {R_NORM1_W, "bert.encoder.layer.%d.attention.output.LayerNorm.weight", OI},
    {R_NORM1_B, "bert.encoder.layer.%d.attention.output.LayerNorm.bias", OI},
    {R_UP, "bert.encoder.layer.%d.intermediate.dense.weight", OI},
    {R_UP_B, "bert.encoder.layer.%d.intermediate.dense.bias", OI},
    {R_DOWN, "bert.encoder.layer.%d.output.dense.weight", OI},
    {R_DOWN_B, "bert.encoder.layer.%d.output.dense.bias", OI},
    {R_NORM2_W, "bert.encoder.layer.%d.output.LayerNorm.weight", OI},
    {R_NORM2_B, "bert.encoder.layer.%d.output.LayerNorm.bias", OI},
    {R_POOL, "bert.pooler.dense.weight", OI},
    {R_POOL_B, "bert.pooler.dense.bias", OI},
    {R_MLM, "cls.predictions.transform.dense.weight", OI},
    {R_MLM_B, "cls.predictions.transform.dense.bias", OI},
    {R_MLM_W, "cls.predictions.transform.LayerNorm.weight", OI},
    {R_MLM_NB, "cls.predictions.transform.LayerNorm.bias", OI},
    {R_HEAD, "cls.predictions.decoder.weight", OI},
    {R_HEAD_B, "cls.predictions.bias", OI},
    {R_CLASS, "classifier.weight", OI},
    {R_CLASS_B, "classifier.bias", OI},
    {R_COUNT, NULL, OI},
};

struct Family {
    const char *model_type, *architecture;
    const TensorLine *tensors;
    const char *prefix;                    /* may be missing from a file's names */
    const char *ignore[6];                 /* tensors that a file may hold and nobody reads: parts of names */
    const char *marker;                    /* a key that tells two families of one model_type apart; NULL: the other */
    Config parts;                          /* what makes the family; sizes come from config.json */
};
#define ALL .residual_scale = 1, .init_std = 0.02f, .bos = -1, .pad = -1, .mask_id = -1, .gmask_id = -1
#define ROPE_PARTS ALL, .pos = POS_ROPE, .rope_base = 10000
#define LLAMA_PARTS ROPE_PARTS, .rope_part = 1, .norm = NORM_RMS, .norm_eps = 1e-6f, .mlp = MLP_SWIGLU
static const Family families[] = {
    {"gpt2", "GPT2LMHeadModel", gpt2_tensors, "transformer.", {".attn.bias", ".attn.masked_bias"}, NULL,
     {ALL, .norm = NORM_LAYER, .norm_eps = 1e-5f, .pos = POS_LEARNED, .qkv_bias = true, .out_bias = true,
      .mlp_bias = true, .mlp = MLP_GELU_TANH, .tied = true}},
    {"llama", "LlamaForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, NULL, {LLAMA_PARTS}},
    {"mistral", "MistralForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, NULL,
     {LLAMA_PARTS, .window = 4096}},
    {"qwen2", "Qwen2ForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, NULL,
     {LLAMA_PARTS, .qkv_bias = true}},
    {"qwen3", "Qwen3ForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, NULL,
     {LLAMA_PARTS, .qk_norm = true}},
    {"glm", "GlmForCausalLM", glm_tensors, "model.", {"rotary_emb.inv_freq"}, NULL,
     {ROPE_PARTS, .rope_part = 0.5f, .rope_interleaved = true, .norm = NORM_RMS, .norm_eps = 1.5625e-7f,
      .mlp = MLP_SWIGLU, .qkv_bias = true}},
    {"chatglm", "ChatGLMForConditionalGeneration", chatglm1_tensors, "transformer.", {"rotary_emb.inv_freq"},
     "inner_hidden_size",
     {ROPE_PARTS, .rope_part = 0.5f, .rope_2d = true, .rope_f16 = true, .norm = NORM_LAYER, .norm_eps = 1e-5f,
      .mlp = MLP_GELU_TANH, .qkv_bias = true, .out_bias = true, .mlp_bias = true, .mask = MASK_PREFIX,
      .residual_from_norm = true}},
    {"chatglm", "ChatGLMForConditionalGeneration", chatglm_tensors, "transformer.", {"rotary_pos_emb.inv_freq"}, NULL,
     {ROPE_PARTS, .rope_part = 0.5f, .rope_interleaved = true, .norm = NORM_RMS, .norm_eps = 1e-5f, .mlp = MLP_SWIGLU,
      .qkv_bias = true}},
    {"bert", "BertForMaskedLM", bert_tensors, "bert.",
     {"bert.pooler.", "cls.seq_relationship.", "position_ids", "cls.predictions.decoder."}, NULL,
     {ALL, .norm = NORM_LAYER, .norm_place = NORM_POST, .norm_eps = 1e-12f, .pos = POS_LEARNED,
      .mask = MASK_BIDIRECTIONAL, .type_vocab = 2, .qkv_bias = true, .out_bias = true, .mlp_bias = true,
      .mlp = MLP_GELU_ERF, .head = HEAD_MASKED_LM, .tied = true}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };
static bool family_classifies(const Family *f) {          /* does the Hub have classifiers of this family? */
    for (const TensorLine *t = f->tensors; t->name; t++)
        if (t->role == R_CLASS) return true;
    return false;
}

/* ================================================================================================================= *
 * [model.config] config.json -> Config */
typedef struct { const cJSON *json; const char *path; } ConfigFile;

/* The first of the |-separated keys that is there and not null. */
static const cJSON *config_find(const ConfigFile *f, const char *keys) {
    for (const char *k = keys; *k;) {
        size_t n = strcspn(k, "|");
        char key[64];
        assert(n < sizeof key);
        memcpy(key, k, n);
        key[n] = 0;
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(f->json, key);
        if (v && !cJSON_IsNull(v)) return v;
        k += n + (k[n] == '|');
    }
    return NULL;
}
static double config_number(const ConfigFile *f, const char *keys, double fallback) {
    const cJSON *v = config_find(f, keys);
    if (!v) return fallback;
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)) die("%s: \"%s\" is not a number", f->path, v->string);
    return v->valuedouble;
}
static float config_float(const ConfigFile *f, const char *keys, double min, double max, float fallback) {
    const cJSON *v = config_find(f, keys);
    double x = config_number(f, keys, (double)fallback);
    if (v && !(x >= min && x <= max))
        die("%s: \"%s\" is %g, must be a number from %g to %g", f->path, v->string, x, min, max);
    return (float)x;
}
/* NULL: there is no such key. */
static const char *config_string(const ConfigFile *f, const char *keys) {
    const cJSON *v = config_find(f, keys);
    if (v && !cJSON_IsString(v)) die("%s: \"%s\" is not a string", f->path, v->string);
    return cJSON_GetStringValue(v);
}
/* A whole number in [min, max]; fallback < min means that the key must be there. */
static int config_int(const ConfigFile *f, const char *keys, int min, int max, int fallback) {
    double v = config_number(f, keys, fallback);
    if (!config_find(f, keys) && fallback < min) die("%s: \"%.*s\" is missing", f->path, (int)strcspn(keys, "|"), keys);
    if (v != floor(v) || v < min || v > max)
        die("%s: \"%s\" is %g, must be a whole number from %d to %d", f->path,
            config_find(f, keys) ? config_find(f, keys)->string : keys, v, min, max);
    return (int)v;
}
static bool config_bool(const ConfigFile *f, const char *keys, bool fallback) {
    const cJSON *v = config_find(f, keys);
    if (v && !cJSON_IsBool(v)) die("%s: \"%s\" is neither true nor false", f->path, v->string);
    return v ? cJSON_IsTrue(v) : fallback;
}

/* Bounds far from what anybody trains with, and from where a table of angles is no longer made of numbers. */
#define ROPE_THETA(f, fallback) config_float(f, "rope_theta", 1, 1e30, fallback)
/* Old: rope_theta and rope_scaling {type or rope_type, factor, ...}. New: all of it in rope_parameters. */
static void config_read_rope(const ConfigFile *f, Config *c) {
    const cJSON *r = config_find(f, "rope_parameters|rope_scaling");
    c->rope_base = ROPE_THETA(f, c->rope_base);
    if (!r) return;
    if (!cJSON_IsObject(r)) die("%s: \"%s\" is not an object", f->path, r->string);
    ConfigFile g = {r, f->path};
    c->rope_base = ROPE_THETA(&g, c->rope_base);
    const char *kind = config_string(&g, "rope_type|type");
    if (!kind || !strcmp(kind, "default")) return;
    c->rope_factor = config_float(&g, "factor", 1e-6, 1e9, 1);
    c->rope_original_pos = config_int(&g, "original_max_position_embeddings", 1, 1 << 30, c->max_pos);
    if (!strcmp(kind, "linear")) c->rope_scaling = ROPE_LINEAR;
    else if (!strcmp(kind, "dynamic")) c->rope_scaling = ROPE_DYNAMIC;
    else if (!strcmp(kind, "yarn")) {
        c->rope_scaling = ROPE_YARN;
        c->rope_low_freq = config_float(&g, "beta_slow", 0, 1e9, 1);
        c->rope_high_freq = config_float(&g, "beta_fast", 0, 1e9, 32);
        c->rope_truncate = config_bool(&g, "truncate", true);
        if (!(c->rope_base > 1)) die("%s: YaRN needs a rope_theta above 1", f->path);
        if (!(c->rope_high_freq > c->rope_low_freq && c->rope_low_freq > 0))
            die("%s: YaRN needs 0 < beta_slow < beta_fast", f->path);
        /* Longer contexts flatten the softmax; YaRN sharpens it back (section 3.4 of the paper). */
        double mscale = (double)config_float(&g, "mscale", 0, 1e6, 0);
        double all = (double)config_float(&g, "mscale_all_dim", 0, 1e6, 0);
        double given = (double)config_float(&g, "attention_factor", 0, 1e6, 0);
        double k = (double)c->rope_factor, sharper = k > 1 ? 0.1 * log(k) : 0;
        double derived = mscale > 0 && all > 0 ? (mscale * sharper + 1) / (all * sharper + 1) : sharper + 1;
        c->rope_attention = (float)(given > 0 ? given : derived);
    }
    else if (!strcmp(kind, "llama3")) {
        c->rope_scaling = ROPE_LLAMA3;
        c->rope_low_freq = config_float(&g, "low_freq_factor", 0, 1e9, 1);
        c->rope_high_freq = config_float(&g, "high_freq_factor", 0, 1e9, 4);
        if (!config_find(&g, "original_max_position_embeddings")) c->rope_original_pos = 8192;
        if (!(c->rope_high_freq > c->rope_low_freq && c->rope_low_freq > 0))
            die("%s: rope needs 0 < low_freq_factor < high_freq_factor", f->path);
    } else die("%s: rope_type \"%s\" is not supported (default, linear, dynamic, yarn, llama3 are)", f->path, kind);
}

static void config_read_eos(const ConfigFile *f, Config *c) {
    enum { EOS_MAX = sizeof c->eos / sizeof *c->eos };
    const cJSON *e = config_find(f, "eos_token_id");
    for (const cJSON *one = cJSON_IsArray(e) ? e->child : e; one; one = cJSON_IsArray(e) ? one->next : NULL) {
        if (!cJSON_IsNumber(one) || one->valuedouble != one->valueint || c->n_eos == EOS_MAX)
            die("%s: \"eos_token_id\" is no token id, and no list of up to %d", f->path, EOS_MAX);
        c->eos[c->n_eos++] = one->valueint;
    }
}

/* json: the config.json, for families that share a model_type; NULL: the one without a marker. */
static const Family *family_find(const char *model_type, const cJSON *json) {
    for (int i = 0; i < N_FAMILIES; i++) {
        const Family *f = &families[i];
        if (!strcmp(f->model_type, model_type) && (!f->marker || (json && cJSON_HasObjectItem(json, f->marker))))
            return f;
    }
    return NULL;
}
Config config_family_default(const char *model_type) {
    const Family *f = family_find(model_type, NULL);
    if (!f) {
        Buf known = {0};
        for (int i = 0; i < N_FAMILIES; i++)
            if (!families[i].marker) buf_fmt(&known, "%s%s", i ? ", " : "", families[i].model_type);
        die("model_type \"%.60s\" is not supported (%s are)", model_type, known.data);
    }
    Config c = f->parts;
    c.family = f;
    return c;
}
bool config_supported(const char *model_type) { return family_find(model_type, NULL) != NULL; }
const char *config_model_type(const Config *c) { return c->family->model_type; }

/* What the class in "architectures" puts on the last layer. */
static void config_read_head(const ConfigFile *f, Config *c) {
    const cJSON *classes = config_find(f, "architectures"), *first = cJSON_GetArrayItem(classes, 0);
    if (classes && (!cJSON_IsArray(classes) || (first && !cJSON_IsString(first))))
        die("%s: \"architectures\" is not a list of strings", f->path);
    const char *class = cJSON_GetStringValue(first);
    if (class && strstr(class, "ForSequenceClassification")) {
        const cJSON *labels = config_find(f, "id2label");
        if (!family_classifies(c->family)) die("%s: a %s is not supported", f->path, class);
        c->pooler = c->head == HEAD_MASKED_LM;
        c->head = HEAD_CLASSIFY;
        c->n_classes = cJSON_IsObject(labels) ? cJSON_GetArraySize(labels) : config_int(f, "num_labels", 1, 1 << 20, 2);
        if (!c->n_classes) die("%s: \"id2label\" is empty", f->path);
        if (c->pooler && config_bool(f, "is_decoder", false)) die("%s: BERT as a decoder is not supported", f->path);
        return;
    }
    if (c->head != HEAD_MASKED_LM) return;
    if (config_bool(f, "is_decoder", false)) die("%s: BERT as a decoder is not supported", f->path);
    if (!class || strstr(class, "ForMaskedLM") || strstr(class, "ForPreTraining")) {
        if (!c->tied) die("%s: BERT with a masked-token head of its own is not supported (its embedding is)", f->path);
        return;
    }
    c->pooler = true;
    c->head = HEAD_NONE;
    if (strcmp(class, "BertModel"))
        die("%s: %s is not supported (BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel "
            "are)",
            f->path, class);
}

/* Windows by layer: none (Qwen2 states one and does not use it), all, or all from max_window_layers on. Newer files
 * list each layer's type. */
static void config_read_window(const ConfigFile *f, Config *c) {
    if (cJSON_HasObjectItem(f->json, "sliding_window")) c->window = config_int(f, "sliding_window", 0, 1 << 24, 0);
    const cJSON *types = config_find(f, "layer_types"), *type;
    int n = 0, n_full = 0;
    if (!config_bool(f, "use_sliding_window", true)) c->window = 0;
    else if (config_find(f, "use_sliding_window")) c->window_layer = config_int(f, "max_window_layers", 0, 1 << 24, 28);
    if (!types || !c->window) return;
    if (cJSON_GetArraySize(types) != c->L)
        die("%s: \"layer_types\" is not a list of %d, one for each layer", f->path, c->L);
    cJSON_ArrayForEach(type, types) {
        const char *name = cJSON_GetStringValue(type);
        bool sliding = name && !strcmp(name, "sliding_attention");
        if (!sliding && (!name || strcmp(name, "full_attention") || n_full != n))
            die("%s: \"layer_types\" must be full_attention layers and then sliding_attention layers", f->path);
        n_full += !sliding, n++;
    }
    c->window_layer = n_full;
}

/* activation's name -> the kind of a plain MLP; a gated one has SiLU. */
static void config_read_activation(const ConfigFile *f, Config *c) {
    const char *name = config_string(f, "hidden_act|activation_function");
    if (!name) return;
    bool gated = c->mlp == MLP_SWIGLU, tanh_form = !strcmp(name, "gelu_new") || !strcmp(name, "gelu_pytorch_tanh");
    if (gated ? strcmp(name, "silu") != 0 : !tanh_form && strcmp(name, "gelu"))
        die("%s: activation \"%s\" is not supported for %s (%s)", f->path, name, c->family->model_type,
            gated ? "silu is" : "gelu, gelu_new and gelu_pytorch_tanh are");
    if (!gated) c->mlp = tanh_form ? MLP_GELU_TANH : MLP_GELU_ERF;
}

static Config config_parse(const char *text, size_t n, const char *path) {
    cJSON *json = json_parse(text, n, JSON_OBJECT, path);
    ConfigFile f = {json, path};
    const char *type = config_string(&f, "model_type");
    if (!type) die("%s: \"model_type\" is missing", path);
    const Family *family = family_find(type, json);
    if (!family) config_family_default(type);                         /* dies, naming those that are known */
    Config c = family->parts;
    c.family = family;
    enum { MAX = 1 << 24 };
    c.V = config_int(&f, "vocab_size|padded_vocab_size", 1, MAX, 0);
    c.C = config_int(&f, "hidden_size|n_embd", 1, MAX, 0);
    c.L = config_int(&f, "num_hidden_layers|n_layer|num_layers", 1, 4096, 0);
    c.H = config_int(&f, "num_attention_heads|n_head", 1, 4096, 0);
    bool shared = config_bool(&f, "multi_query_attention", true);    /* ChatGLM: false leaves the group number unused */
    c.K = shared ? config_int(&f, "num_key_value_heads|multi_query_group_num", 1, 4096, c.H) : c.H;
    c.D = config_int(&f, "head_dim|kv_channels", 1, 65536, c.C / c.H > 0 ? c.C / c.H : 1);
    c.F = config_int(&f, "intermediate_size|n_inner|ffn_hidden_size|inner_hidden_size", 1, MAX,
        c.pos == POS_LEARNED ? 4 * c.C : 0);
    c.max_pos = config_int(&f, "max_position_embeddings|n_positions|n_ctx|seq_length|max_sequence_length", 1, MAX,
        2048);
    c.norm_eps = config_float(&f, "rms_norm_eps|layer_norm_epsilon|layer_norm_eps|layernorm_epsilon", 0, 1, c.norm_eps);
    c.tied = config_bool(&f, "tie_word_embeddings", c.tied);
    if (c.type_vocab) c.type_vocab = config_int(&f, "type_vocab_size", 1, MAX, c.type_vocab);
    c.init_std = config_float(&f, "initializer_range", 0, 1e3, c.init_std);
    if (c.pos == POS_ROPE) {
        if (!c.qkv_bias && config_bool(&f, "attention_bias", false)) c.qkv_bias = c.out_bias = true;
        else c.qkv_bias = config_bool(&f, "add_qkv_bias", c.qkv_bias && config_bool(&f, "attention_bias", true));
        c.mlp_bias = config_bool(&f, "mlp_bias|add_bias_linear", c.mlp_bias);
        c.out_bias = config_bool(&f, "add_bias_linear", c.out_bias);
        c.qkv_bias |= config_bool(&f, "add_bias_linear", false);
        if (!config_bool(&f, "rmsnorm", true)) c.norm = NORM_LAYER;
        c.rope_part = (float)config_number(&f, "partial_rotary_factor", (double)c.rope_part);
        config_read_rope(&f, &c);
        c.rope_base *= config_float(&f, "rope_ratio", 1e-3, 1e6, 1);
        if (!(c.rope_part > 0 && c.rope_part <= 1))
            die("%s: partial_rotary_factor %g must be above 0 and at most 1", path, (double)c.rope_part);
        c.rope_dims = (int)(c.rope_part * (float)c.D);
    }
    static const char *const refused[] = {"apply_residual_connection_post_layernorm", "fp32_residual_connection"};
    for (int i = 0; i < 2; i++)
        if (config_bool(&f, refused[i], false)) die("%s: \"%s\" is not supported", path, refused[i]);
    if (!config_bool(&f, "post_layer_norm", true)) die("%s: a model without a final norm is not supported", path);
    const char *positions = config_string(&f, "position_embedding_type");
    if (positions && strcmp(positions, "absolute") && strcmp(positions, "rope"))
        die("%s: position_embedding_type \"%s\" is not supported (absolute is)", path, positions);
    /* ChatGLM-6B's code: of 28 layers, whatever their number */
    if (c.residual_from_norm) c.residual_scale = sqrtf(2 * 28);
    config_read_window(&f, &c);
    config_read_activation(&f, &c);
    config_read_head(&f, &c);
    c.bos = config_int(&f, "bos_token_id", -1, MAX, -1);
    c.pad = config_int(&f, "pad_token_id", -1, MAX, -1);
    c.mask_id = config_int(&f, "mask_token_id", -1, MAX, -1);
    c.gmask_id = config_int(&f, "gmask_token_id", -1, MAX, -1);
    config_read_eos(&f, &c);
    c.quantised = cJSON_IsObject(config_find(&f, "quantization_config|compression_config"));
    if (c.mask == MASK_PREFIX && (c.bos < 0 || c.gmask_id < 0))
        die("%s: a prefix model needs \"bos_token_id\" and \"gmask_token_id\"", path);
    cJSON_Delete(json);
    if (c.C % c.H && c.D == c.C / c.H) die("%s: %d heads do not divide the width %d", path, c.H, c.C);
    config_check(&c);
    return c;
}
Config config_read(const char *path) {
    size_t n;
    char *file = is_dir(path) ? path_join(path, "config.json") : xstrdup(path), *text = file_read(file, &n);
    Config c = config_parse(text, n, file);
    free(text);
    free(file);
    return c;
}
void config_check(const Config *c) {
    if (c->V < 1 || c->C < 1 || c->L < 1 || c->H < 1 || c->K < 1 || c->D < 1 || c->F < 1 || c->max_pos < 1)
        die("model sizes must be positive: V %d C %d L %d H %d K %d D %d F %d", c->V, c->C, c->L, c->H, c->K, c->D,
            c->F);
    if (c->H % c->K) die("%d query heads cannot share %d key/value heads evenly", c->H, c->K);
    if (c->pos == POS_ROPE && (c->rope_dims < 2 || c->rope_dims % 2 || c->rope_dims > c->D))
        die("rotary embedding needs an even number of dimensions of a head of %d, not %d", c->D, c->rope_dims);
    if (c->rope_2d && 2 * c->rope_dims > c->D)
        die("two rotations of %d dimensions do not fit a head of %d", c->rope_dims, c->D);
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] < 0 || c->eos[i] >= 1 << 24) die("eos_token_id %d is no token id", c->eos[i]);
    double n = 0;                                                     /* in double: sizes in bytes must not overflow */
    for (Role r = 0; r < R_COUNT; r++)
        if (role_present(c, r))
            n += (double)letter_size(c, roles[r].rows) * (double)letter_size(c,
                roles[r].cols) * (role_in_layer(r) ? c->L : 1);
    if (n > 1e13) die("model sizes ask for %.3g weights, more than any machine holds", n);
}

/* A float as its shortest decimal: 1e-5 as float is 9.99999975e-06 as double. */
static void json_float(cJSON *j, const char *key, float value) {
    char text[32];
    snprintf(text, sizeof text, "%g", (double)value);
    cJSON_AddRawToObject(j, key, text);
}
/* The way back of config_read_rope, in the older generation's keys. */
static void config_write_rope(const Config *c, cJSON *config) {
    static const char *const types[] = {[ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_DYNAMIC] = "dynamic",
                                        [ROPE_YARN] = "yarn"};
    if (c->rope_scaling == ROPE_PLAIN) return;
    bool yarn = c->rope_scaling == ROPE_YARN, by_wave = yarn || c->rope_scaling == ROPE_LLAMA3;
    cJSON *j = cJSON_AddObjectToObject(config, "rope_scaling");
    cJSON_AddStringToObject(j, "rope_type", types[c->rope_scaling]);
    json_float(j, "factor", c->rope_factor);
    if (!by_wave) return;
    cJSON_AddNumberToObject(j, "original_max_position_embeddings", c->rope_original_pos);
    json_float(j, yarn ? "beta_slow" : "low_freq_factor", c->rope_low_freq);
    json_float(j, yarn ? "beta_fast" : "high_freq_factor", c->rope_high_freq);
    if (!yarn) return;
    cJSON_AddNumberToObject(j, "attention_factor", (double)c->rope_attention);    /* all digits, for resuming */
    cJSON_AddBoolToObject(j, "truncate", c->rope_truncate);
}
/* Config -> config.json of a model born here, with the keys that every version of the official code reads. Each part
 * has its own name in each of the three vocabularies: GPT-2's, ChatGLM's, and everybody else's. */
static char *config_write(const Config *c, DType dtype) {
    bool gpt2 = !strcmp(c->family->model_type, "gpt2"), glm = !strcmp(c->family->model_type, "chatglm");
    bool encoder = c->mask == MASK_BIDIRECTIONAL;
    cJSON *j = cJSON_CreateObject();
    cJSON *arch = cJSON_AddArrayToObject(j, "architectures");
    cJSON_AddItemToArray(arch, cJSON_CreateString(c->family->architecture));
    cJSON_AddStringToObject(j, "model_type", c->family->model_type);
    cJSON_AddNumberToObject(j, "vocab_size", c->V);
    cJSON_AddNumberToObject(j, gpt2 ? "n_embd" : "hidden_size", c->C);
    cJSON_AddNumberToObject(j, gpt2 ? "n_layer" : glm ? "num_layers" : "num_hidden_layers", c->L);
    cJSON_AddNumberToObject(j, gpt2 ? "n_head" : "num_attention_heads", c->H);
    cJSON_AddNumberToObject(j, gpt2 ? "n_inner" : glm ? "ffn_hidden_size" : "intermediate_size", c->F);
    cJSON_AddNumberToObject(j, gpt2 ? "n_positions" : glm ? "seq_length" : "max_position_embeddings", c->max_pos);
    if (gpt2) cJSON_AddNumberToObject(j, "n_ctx", c->max_pos);
    if (!glm)
        cJSON_AddStringToObject(j, gpt2 ? "activation_function" : "hidden_act",
                                c->mlp == MLP_SWIGLU ? "silu" : c->mlp == MLP_GELU_ERF ? "gelu" : "gelu_new");
    if (glm) {                                                        /* what modeling_chatglm.py reads, all of it */
        cJSON_AddStringToObject(j, "_name_or_path", "THUDM/chatglm3-6b");    /* converters choose the tokenizer by it */
        cJSON_AddNumberToObject(j, "padded_vocab_size", c->V);
        cJSON_AddNumberToObject(j, "kv_channels", c->D);
        cJSON_AddBoolToObject(j, "multi_query_attention", true);
        cJSON_AddNumberToObject(j, "multi_query_group_num", c->K);
        cJSON_AddBoolToObject(j, "add_qkv_bias", c->qkv_bias);
        cJSON_AddBoolToObject(j, "add_bias_linear", c->mlp_bias);
        cJSON_AddBoolToObject(j, "rmsnorm", c->norm == NORM_RMS);
        cJSON_AddBoolToObject(j, "post_layer_norm", true);
        cJSON_AddBoolToObject(j, "original_rope", true);
        json_float(j, "rope_ratio", c->rope_base / 10000);
        cJSON_AddBoolToObject(j, "apply_query_key_layer_scaling", true);
        cJSON_AddBoolToObject(j, "apply_residual_connection_post_layernorm", false);
        cJSON_AddBoolToObject(j, "attention_softmax_in_fp32", true);
        cJSON_AddBoolToObject(j, "bias_dropout_fusion", true);
        cJSON_AddBoolToObject(j, "fp32_residual_connection", false);
        cJSON_AddNumberToObject(j, "attention_dropout", 0);
        cJSON_AddNumberToObject(j, "hidden_dropout", 0);
        cJSON_AddBoolToObject(j, "use_cache", true);
    } else if (c->pos == POS_ROPE) {
        cJSON_AddNumberToObject(j, "num_key_value_heads", c->K);
        cJSON_AddNumberToObject(j, "head_dim", c->D);
        cJSON_AddNumberToObject(j, "rope_theta", (double)c->rope_base);
        if (c->rope_part < 1) json_float(j, "partial_rotary_factor", c->rope_part);
        cJSON_AddBoolToObject(j, "attention_bias", c->family->parts.qkv_bias ? c->qkv_bias : c->out_bias);
        cJSON_AddBoolToObject(j, "mlp_bias", c->mlp_bias);
        if (c->window) {                                         /* Qwen2 has one for later layers, and says so twice */
            cJSON_AddNumberToObject(j, "sliding_window", c->window);
            cJSON_AddBoolToObject(j, "use_sliding_window", true);
            cJSON_AddNumberToObject(j, "max_window_layers", c->window_layer);
        } else if (c->family->parts.window) cJSON_AddNullToObject(j, "sliding_window");
        config_write_rope(c, j);
    } else if (encoder) {
        cJSON_AddNumberToObject(j, "type_vocab_size", c->type_vocab);
        cJSON_AddStringToObject(j, "position_embedding_type", "absolute");
    }
    json_float(j, gpt2 ? "layer_norm_epsilon" : glm ? "layernorm_epsilon" : encoder ? "layer_norm_eps"
        : "rms_norm_eps", c->norm_eps);
    json_float(j, "initializer_range", c->init_std);
    cJSON_AddBoolToObject(j, "tie_word_embeddings", c->tied);
    if (c->bos >= 0) cJSON_AddNumberToObject(j, "bos_token_id", c->bos);
    if (c->n_eos) cJSON_AddNumberToObject(j, "eos_token_id", c->eos[0]);
    if (c->pad >= 0) cJSON_AddNumberToObject(j, "pad_token_id", c->pad);
    else cJSON_AddNullToObject(j, "pad_token_id");         /* else transformers takes its class's own, 151329 for glm */
    cJSON_AddStringToObject(j, "torch_dtype", dtype == DT_F32 ? "float32" : dtype == DT_F16 ? "float16" : "bfloat16");
    char *text = cJSON_Print(j);
    cJSON_Delete(j);
    return text;
}

size_t config_weights(const Config *c) {
    size_t n = 0;
    for (Role r = 0; r < R_COUNT; r++)
        if (role_present(c, r)) n += role_size(c, r) * (role_in_layer(r) ? (size_t)c->L : 1);
    return n;
}
/* 6 FLOPs per weight that a matmul reads (2 forward, 4 backward), the embedding looked up for free, and attention: two
 * products of 2 D FLOPs for each visible slot (causal: T/2 of them on average), three times. */
double config_flops_per_token(const Config *c, size_t T) {
    double n = c->head == HEAD_LM || c->head == HEAD_MASKED_LM ? (double)c->V * c->C : 0;    /* tied or not */
    for (Role r = 0; r < R_COUNT; r++)
        if (role_in_layer(r) && roles[r].kind == KIND_MATRIX && role_present(c, r)) n += (double)role_size(c, r) * c->L;
    return 6 * n + (c->mask == MASK_BIDIRECTIONAL ? 12.0 : 6.0) * c->L * c->H * c->D * (double)T;
}

/* ================================================================================================================= *
 * [model.io] Making, loading, saving */
enum { ARENA_ALIGN = 16 };                                            /* floats: a parameter starts on a cache line */

static size_t arena_room(const Param *p) { return (p->n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN; }

/* The skeleton: every parameter with its shape, in arena order (q, k, v of a layer are neighbours). */
static Model *model_skeleton(const Config *c) {
    config_check(c);
    Model *m = xcalloc(1, sizeof *m);
    m->cfg = *c;
    m->params = xcalloc((size_t)(c->L + 1) * R_COUNT, sizeof *m->params);
    m->at = xcalloc((size_t)c->L + 1, sizeof *m->at);
    for (int layer = -1; layer < c->L; layer++)
        for (Role r = 0; r < R_COUNT; r++) {
            if (role_in_layer(r) != (layer >= 0) || !role_present(c, r)) continue;
            Param *p = &m->params[m->n_params++];
            p->role = r;
            p->layer = layer;
            p->kind = roles[r].kind;
            p->rows = letter_size(c, roles[r].rows);
            p->cols = letter_size(c, roles[r].cols);
            p->n = size_mul(p->rows, p->cols);
            m->at[layer + 1][r] = p;
            m->n_weights += arena_room(p);
        }
    if (c->tied && (c->head == HEAD_LM || c->head == HEAD_MASKED_LM))
        m->at[0][R_HEAD] = m->at[0][R_WTE];                           /* one parameter, two uses: gradients add up */
    return m;
}

/* Hands a parameter its part of an arena; returns where the next one starts. */
static size_t arena_take(Param *p, float *arena, size_t at, size_t field_offset) {
    *(float **)(void *)((char *)p + field_offset) = arena + at;
    return at + arena_room(p);
}
static void arena_share(Model *m, float *arena, size_t field_offset) {
    size_t at = 0;
    for (int i = 0; i < m->n_params; i++) at = arena_take(&m->params[i], arena, at, field_offset);
}
/* The same for what a step changes: frozen parameters have no part of it. */
static void arena_share_trained(Model *m, float *arena, size_t field_offset) {
    size_t at = 0;
    for (int i = 0; i < m->n_params; i++)
        if (!m->params[i].frozen) at = arena_take(&m->params[i], arena, at, field_offset);
}
static size_t lora_weights(const Model *m) {
    size_t n = 0;
    for (int i = 0; i < m->n_lora; i++) {
        n += arena_room(&m->lora[i].a);
        for (int j = 0; j < m->lora[i].n_parts; j++) n += arena_room(&m->lora[i].b[j]);
    }
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].beside) n += arena_room(&m->params[i]);
    return n;
}
static void lora_arena_share(Model *m, float *arena, size_t field_offset) {
    size_t at = 0;
    for (int i = 0; i < m->n_lora; i++) {
        at = arena_take(&m->lora[i].a, arena, at, field_offset);
        for (int j = 0; j < m->lora[i].n_parts; j++) at = arena_take(&m->lora[i].b[j], arena, at, field_offset);
    }
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].beside) at = arena_take(&m->params[i], arena, at, field_offset);
}
static void masters_alloc(Model *m) {
    m->master = op.mem_alloc(size_mul(m->n_weights, sizeof(float)));
    arena_share(m, m->master, offsetof(Param, master));
}
/* Matmuls read the master itself, or a bf16 copy where activations are bf16 (AdamW keeps it fresh). */
static void master_to_mat(Param *p) {
    p->w = MAT(DT_F32, p->rows, p->cols, p->master);
    if (op.act_size == 2 && p->cols > 1) {
        p->w = MAT(DT_BF16, p->rows, p->cols, op.mem_alloc(p->n * 2));
        op.mat_from_f32(&p->w, p->master);
    }
}
static void masters_to_mats(Model *m) {
    for (int i = 0; i < m->n_params; i++) master_to_mat(&m->params[i]);
}

/* An encoder's positions begin as sines (Vaswani et al. 2017), std their root mean square: a neighbour is then one linear
 * map away at every position. A masked token has nothing but its neighbours to go by, and from random vectors each
 * position would have to learn its own first: 1,600 steps of the default run without progress, a few hundred so. A
 * decoder, which sees its own token, learns faster from random ones (measured: 1.32 against 1.45 after 1,000 steps). */
static void sines(float *w, size_t rows, size_t cols, double std) {
    for (size_t i = 0; i < cols; i++) {
        double frequency = pow(10000, -(double)(i / 2 * 2) / (double)cols);
        for (size_t t = 0; t < rows; t++) {
            double angle = (double)t * frequency;
            w[t * cols + i] = (float)(std * sqrt(2) * (i % 2 ? cos(angle) : sin(angle)));
        }
    }
}
Model *model_new(const Config *c, uint64_t seed) {
    Model *m = model_skeleton(c);
    masters_alloc(m);
    float *host = xcalloc(m->n_weights, sizeof(float));
    size_t at = 0;
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        float *w = host + at;
        at += arena_room(p);
        if (p->kind == KIND_BIAS) continue;
        /* Projections back into the stream start smaller, so that the sum over 2L of them starts at size 1 (GPT-2). */
        bool residual = p->role == R_O || p->role == R_DOWN;
        double std = (double)c->init_std / (residual ? sqrt(2.0 * c->L) : 1.0);
        uint64_t stream = rng_mix(seed, (uint64_t)i);
        if (p->role == R_WPE && c->mask == MASK_BIDIRECTIONAL) { sines(w, p->rows, p->cols, std); continue; }
        #pragma omp parallel for schedule(static)
        for (size_t j = 0; j < p->n; j++) {
            Rng r = {stream, 2 * j};
            w[j] = p->kind == KIND_NORM ? 1.0f : (float)(std * rng_normal(&r));
        }
    }
    op.upload(m->master, host, m->n_weights * sizeof(float));
    free(host);
    masters_to_mats(m);
    return m;
}

/* A name of the table with the layer's number in it. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static char *line_name(const TensorLine *t, int layer) { return layer < 0 ? xstrdup(t->name) : strf(t->name, layer); }
#pragma GCC diagnostic pop
char *hub_name(const Config *c, Role role, int layer) {
    for (const TensorLine *t = c->family->tensors; t->name; t++)
        if (t->role == role) return line_name(t, layer);
    return NULL;
}
HubTensor *hub_tensors(const Model *m, int *n_out) {
    HubTensor *v = xcalloc((size_t)(m->cfg.L + 1) * R_COUNT, sizeof *v);
    int n = 0;
    for (int layer = -1; layer < m->cfg.L; layer++)
        for (const TensorLine *t = m->cfg.family->tensors; t->name; t++) {
            Param *p = m->at[layer + 1][t->role];
            if (!p || role_in_layer(t->role) != (layer >= 0) || p->role != t->role) continue;
            bool joins = t > m->cfg.family->tensors && !strcmp(t[-1].name, t->name) && n &&
                v[n - 1].first->name == t[-1].name && v[n - 1].part[0]->layer == layer;
            HubTensor *h = joins ? &v[n - 1] : &v[n++];
            if (!joins)
                *h = (HubTensor){.name = line_name(t, layer), .first = t, .cols = p->cols, .layout = t->layout,
                    .vector = p->cols == 1};
            assert(h->n_parts < PARTS_MAX);
            h->part[h->n_parts++] = p;
            h->rows += p->rows;
        }
    *n_out = n;
    return v;
}
/* In the weight, and in B of an adapter on it. */
size_t hub_row(const HubTensor *h, int j, size_t r, size_t D) {
    if (h->layout == BY_HEAD) return (r / D * (size_t)h->n_parts + (size_t)j) * D + r % D;
    for (int i = 0; i < j; i++) r += h->part[i]->rows;
    return r;
}
void hub_tensors_free(HubTensor *v, int n) {
    for (int i = 0; i < n; i++) free(v[i].name);
    free(v);
}

/* Names of one tensor differ between the years: with the family's prefix or without, and LayerNorm's weight and bias
 * were gamma and beta in BERT's first files. Variant i of name into out; false: there are no more. */
enum { NAME_MAX_BYTES = 256 };
static bool hub_name_variant(const Family *f, const char *name, int i, char out[NAME_MAX_BYTES]) {
    size_t n_prefix = strlen(f->prefix);
    bool has_prefix = !strncmp(name, f->prefix, n_prefix);
    const char *weight = strstr(name, "LayerNorm.weight"), *bias = strstr(name, "LayerNorm.bias");
    if (i & 1) {
        if (!has_prefix) return false;
        name += n_prefix;
    }
    if (i >> 1 == 0) return snprintf(out, NAME_MAX_BYTES, "%s", name), true;
    const char *norm = weight ? weight : bias;
    if (!norm || i >> 1 > 1) return false;
    snprintf(out, NAME_MAX_BYTES, "%.*s%s", (int)(norm + strlen("LayerNorm.") - name), name, weight ? "gamma" : "beta");
    return true;
}
enum { NAME_VARIANTS = 4 };

/* The tensor of this name in one of its variants; dies with both shapes when it does not fit. NULL: it begins anew, as
 * the head of a new classifier does, and the pooler before it where the files have none. */
static const Tensor *hub_get(const Model *m, const Tensors *files, const HubTensor *h) {
    char variant[NAME_MAX_BYTES];
    const char *name = h->name;
    for (int i = 0; i < NAME_VARIANTS; i++)
        if (hub_name_variant(m->cfg.family, h->name, i, variant) && tensors_find(files, variant)) {
            name = variant;
            break;
        }
    Role role = h->part[0]->role;
    bool of_head = role == R_CLASS || role == R_CLASS_B, of_pooler = role == R_POOL || role == R_POOL_B;
    if (m->new_head && (of_head || (of_pooler && !tensors_find(files, name)))) return NULL;
    size_t shape[2] = {h->layout == IO ? h->cols : h->rows, h->layout == IO ? h->rows : h->cols};
    return tensors_get(files, name, h->vector ? 1 : 2, shape);
}

const Tensor *hub_file(const Model *m, const HubTensor *h) { return hub_get(m, m->files, h); }
/* The module that a Hub tensor is the weight of, by the variant of its name in the files, where it is quantised
 * there. */
static bool hub_quantised(const Model *m, const Tensors *files, const HubTensor *h, char module[NAME_MAX_BYTES]) {
    if (h->vector) return false;
    for (int i = 0; i < NAME_VARIANTS; i++) {
        if (!hub_name_variant(m->cfg.family, h->name, i, module)) continue;
        char *weight = strrchr(module, '.');
        if (weight && !strcmp(weight, ".weight")) *weight = 0;
        if (quant_find(files, module)) return true;
    }
    return false;
}
static void need_float(const Tensor *t) {
    if (t->dtype > DT_BF16)
        die("%s: tensor %s is %s; weights must be F32, F16 or BF16", t->file, t->name, dtype_name(t->dtype));
}
/* Says which tensors of the files nobody reads, unless the family's rule leaves them out. */
static void warn_unused(const Model *m, const Tensors *files, const HubTensor *hub, int n_hub) {
    bool *used = xcalloc((size_t)files->n, sizeof *used);             /* [i]: of files->v[i]; there may be a million */
    for (int i = 0; i < n_hub; i++) {
        char module[NAME_MAX_BYTES];
        bool quantised = hub_quantised(m, files, &hub[i], module);
        const Tensor *t = quantised ? NULL : hub_get(m, files, &hub[i]);
        if (quantised) quant_used(files, module, used);
        if (t) used[t - files->v] = true;
    }
    int n_extra = 0;
    const char *example = NULL;
    for (int i = 0; i < files->n; i++) {
        const char *name = files->v[i].name;
        bool known = used[i] || (m->cfg.tied && strstr(name, "lm_head.weight"));
        for (int j = 0; j < 6 && m->cfg.family->ignore[j] && !known; j++)
            known = strstr(name, m->cfg.family->ignore[j]);
        if (!known) n_extra++, example = name;
    }
    if (n_extra && !m->new_head)
        warn("%s: %d tensor%s not part of a %s model and ignored, such as %s", files->path, n_extra,
                      n_extra > 1 ? "s are" : " is", m->cfg.family->model_type, example);
    free(used);
}

/* Part j of a Hub tensor, widened to f32 in our (outputs, inputs) order; whole is the Hub tensor in f32. */
static void hub_extract(const HubTensor *h, int j, size_t D, const float *whole, float *out) {
    const Param *p = h->part[j];
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < p->rows; r++) {
        size_t row = hub_row(h, j, r, D);
        if (h->layout != IO) memcpy(out + r * p->cols, whole + row * p->cols, p->cols * sizeof(float));
        else for (size_t c = 0; c < p->cols; c++) out[r * p->cols + c] = whole[c * h->rows + row];
    }
}
void hub_stack(const HubTensor *h, size_t D, float *const part[], float *whole) {
    for (int j = 0; j < h->n_parts; j++) {
        const Param *p = h->part[j];
        #pragma omp parallel for schedule(static)
        for (size_t r = 0; r < p->rows; r++) {
            size_t row = hub_row(h, j, r, D);
            if (h->layout != IO) memcpy(whole + row * p->cols, part[j] + r * p->cols, p->cols * sizeof(float));
            else for (size_t c = 0; c < p->cols; c++) whole[c * h->rows + row] = part[j][r * p->cols + c];
        }
    }
}
/* The same in the file's own dtype, for tensors stored (outputs, inputs): rows are moved, nothing is rounded. */
static void hub_extract_rows(const HubTensor *h, int j, size_t D, const Tensor *t, void *out) {
    const Param *p = h->part[j];
    size_t row_bytes = p->cols * dtype_size(t->dtype);
    #pragma omp parallel for schedule(static)
    for (size_t r = 0; r < p->rows; r++)
        memcpy((char *)out + r * row_bytes, (const char *)t->data + hub_row(h, j, r, D) * row_bytes, row_bytes);
}

/* A copy of rows of `bytes` bytes, part after part: rows of heads that take turns are gathered. */
static void *hub_gather(const HubTensor *h, size_t D, const void *from, size_t bytes) {
    char *to = xmalloc(size_mul(h->rows, bytes)), *at = to;
    for (int j = 0; j < h->n_parts; j++)
        for (size_t r = 0; r < h->part[j]->rows; r++, at += bytes)
            memcpy(at, (const char *)from + hub_row(h, j, r, D) * bytes, bytes);
    return to;
}
/* Memory that holds quantised weights and lies in no file: freed with the model. */
static void *model_own(Model *m, void *p) {
    if (!p) return p;
    m->own = xrealloc(m->own, (size_t)(m->n_own + 1) * sizeof *m->own);
    return m->own[m->n_own++] = p;
}
static void model_own_free(Model *m) {
    for (int i = 0; i < m->n_own; i++) (op.host_memory ? free : op.mem_free)(m->own[i]);
    free(m->own);
    m->own = NULL, m->n_own = 0;
}
static const void *device_copy(Model *m, const void *host, size_t bytes) {
    if (!host || op.host_memory) return host;
    void *p = model_own(m, op.mem_alloc(bytes));
    op.upload(p, host, bytes);
    return p;
}
/* A quantised Hub tensor: each part is a run of its rows, in the mmap where that is possible; to train, widened. */
static void load_quantised(Model *m, const HubTensor *h, const QuantConfig *q, const Tensors *files,
    const char *module, bool train) {
    QuantTensor t = quant_tensor(q, files, module, h->rows, h->cols);
    const size_t row_bytes = mat_row_bytes(&t.m), groups = mat_groups(&t.m),
        scale_bytes = groups * dtype_size(t.m.scale_dtype);
    if (h->part[0]->kind == KIND_EMBED && t.m.order)
        die("%s: %s: an embedding with inputs in another order", files->path, module);
    if (h->layout == BY_HEAD && h->n_parts > 1) {
        const void *from[3] = {t.m.data, t.m.scale, t.m.zero};
        size_t bytes[3] = {row_bytes, scale_bytes, groups};
        for (int i = 0; i < 3; i++) {
            if (!from[i]) continue;
            void *to = hub_gather(h, (size_t)m->cfg.D, from[i], bytes[i]);
            free(t.own[i]);
            t.own[i] = to;
        }
        t.m.data = t.own[0], t.m.scale = t.own[1], t.m.zero = t.own[2];
    }
    size_t row = 0;
    t.m.order = device_copy(m, t.m.order, h->cols * sizeof *t.m.order);
    for (int j = 0; j < h->n_parts; j++) {
        Param *p = h->part[j];
        p->w = t.m;
        p->w.rows = p->rows;
        p->w.data = (void *)(uintptr_t)device_copy(m, (char *)t.m.data + row * row_bytes, p->rows * row_bytes);
        p->w.scale = device_copy(m, (const char *)t.m.scale + row * scale_bytes, p->rows * scale_bytes);
        p->w.zero = t.m.zero ? device_copy(m, t.m.zero + row * groups, p->rows * groups) : NULL;
        row += p->rows;
        if (train) op.mat_to_f32(p->master, &p->w);
    }
    for (int i = 0; i < 4; i++) {
        if (op.host_memory) model_own(m, t.own[i]);
        else free(t.own[i]);
    }
    if (t.own[0]) tensor_forget(quant_find(files, module));
    if (train) op.sync(), model_own_free(m);
}

/* The config of a model that classifies, from that of any of its family; true when it has this head already. */
static bool config_classifier(char **text, Config *c, const char *path, StrList labels) {
    cJSON *j = cJSON_Parse(*text), *architectures = cJSON_CreateArray();
    cJSON *id2label = cJSON_CreateObject(), *label2id = cJSON_CreateObject();
    if (!family_classifies(c->family))
        die("%s: a %s model cannot be given a classification head", path, c->family->model_type);
    bool same = c->head == HEAD_CLASSIFY && c->n_classes == labels.n;
    const cJSON *had = cJSON_GetObjectItemCaseSensitive(j, "id2label");
    for (int i = 0; i < labels.n; i++) {
        char *id = strf("%d", i);
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(had, id));
        same &= name && !strcmp(name, labels.v[i]);
        cJSON_AddStringToObject(id2label, id, labels.v[i]);
        cJSON_AddNumberToObject(label2id, labels.v[i], i);
        free(id);
    }
    static const char *const stale[] = {"architectures", "id2label", "label2id", "num_labels", "problem_type"};
    for (size_t i = 0; i < sizeof stale / sizeof *stale; i++) cJSON_DeleteItemFromObjectCaseSensitive(j, stale[i]);
    /* "LlamaForCausalLM", "GPT2LMHeadModel" and "BertForMaskedLM" as classifiers. */
    const char *name = c->family->architecture, *lm = strstr(name, "LMHead"), *end = lm ? lm : strstr(name, "For");
    char *class = strf("%.*sForSequenceClassification", (int)(end - name), name);
    cJSON_AddItemToArray(architectures, cJSON_CreateString(class));
    free(class);
    c->pooler = c->mask == MASK_BIDIRECTIONAL;
    /* transformers finds a row's last token by the padding behind it, and wants to know what that is. */
    if (!c->pooler && c->pad < 0 && c->n_eos) {
        cJSON_DeleteItemFromObjectCaseSensitive(j, "pad_token_id");
        cJSON_AddNumberToObject(j, "pad_token_id", c->pad = c->eos[0]);
    }
    cJSON_AddItemToObject(j, "architectures", architectures);
    cJSON_AddItemToObject(j, "id2label", id2label);
    cJSON_AddItemToObject(j, "label2id", label2id);
    cJSON_AddStringToObject(j, "problem_type", "single_label_classification");
    free(*text);
    *text = cJSON_Print(j);
    cJSON_Delete(j);
    c->head = HEAD_CLASSIFY, c->n_classes = labels.n;
    return same;
}
/* A parameter that no file holds: as model_new begins it. */
static void param_begin(const Model *m, Param *p, uint64_t stream) {
    float *w = xcalloc(p->n, sizeof *w);
    Rng r = {stream, 0};
    for (size_t i = 0; i < p->n && p->kind != KIND_BIAS; i++) w[i] = (float)((double)m->cfg.init_std * rng_normal(&r));
    if (!p->master) p->w = MAT(DT_F32, p->rows, p->cols, op.mem_alloc(p->n * sizeof *w)), p->beside = true;
    op.upload(p->w.data ? p->w.data : p->master, w, p->n * sizeof *w);
    free(w);
}
static Model *load(const char *dir, bool train, bool populate, StrList labels, uint64_t seed) {
    if (!is_dir(dir)) die("%s: no such directory: a model is a directory with config.json and model.safetensors", dir);
    char *path = path_join(dir, "config.json");
    size_t n_text;
    char *text = file_read(path, &n_text);
    Config c = config_parse(text, n_text, path);
    bool new_head = labels.n && !config_classifier(&text, &c, path, labels);
    QuantConfig *quant = quant_config(path, text);
    free(path);
    Model *m = model_skeleton(&c);
    m->config_json = text;
    m->new_head = new_head;
    path = path_join(dir, "generation_config.json");
    if (file_exists(path)) {
        m->generation_json = file_read(path, &n_text);
        cJSON_Delete(json_parse(m->generation_json, n_text, JSON_OBJECT, path));      /* checked here, read by infer */
    }
    free(path);
    Tensors *files = tensors_open(dir);
    if (populate && op.host_memory) tensors_populate(files);
    if (c.head == HEAD_NONE && !tensors_find(files, "bert.pooler.dense.weight") &&
        !tensors_find(files, "pooler.dense.weight")) {
        c.pooler = false;                                             /* many sentence encoders come without */
        Model *without = model_skeleton(&c);
        without->config_json = m->config_json, without->generation_json = m->generation_json;
        m->config_json = m->generation_json = NULL;
        model_free(m);
        m = without;
    }
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    warn_unused(m, files, hub, n_hub);
    if (train) masters_alloc(m);
    for (int i = 0; i < n_hub; i++) {
        HubTensor *h = &hub[i];
        char module[NAME_MAX_BYTES];
        if (hub_quantised(m, files, h, module)) { load_quantised(m, h, quant, files, module, train); continue; }
        const Tensor *t = hub_get(m, files, h);
        if (!t) { param_begin(m, h->part[0], rng_mix(seed, (uint64_t)i)); continue; }
        need_float(t);
        bool as_stored = !train && op.host_memory && h->layout != IO && !h->vector;
        bool in_place = as_stored && h->layout == OI && t->aligned;   /* a header need not be padded */
        float *whole = NULL, *piece = NULL;
        size_t D = (size_t)c.D;
        for (int j = 0; j < h->n_parts; j++) {
            Param *p = h->part[j];
            if (in_place) {
                size_t at = hub_row(h, j, 0, D) * p->cols * dtype_size(t->dtype);
                p->w = MAT(t->dtype, p->rows, p->cols, (char *)(uintptr_t)t->data + at);
                continue;
            }
            if (as_stored) {
                p->w = MAT(t->dtype, p->rows, p->cols, op.mem_alloc(size_mul(p->n, dtype_size(t->dtype))));
                hub_extract_rows(h, j, D, t, p->w.data);
                continue;
            }
            if (!whole) tensor_to_f32(t, whole = xmalloc(size_mul(t->n, sizeof(float))));
            hub_extract(h, j, D, whole, piece = xrealloc(piece, p->n * sizeof(float)));
            if (train) { op.upload(p->master, piece, p->n * sizeof(float)); continue; }
            DType keep = h->vector ? DT_F32 : op.act_size == 2 && t->dtype == DT_F32 ? DT_BF16 : t->dtype;
            p->w = MAT(keep, p->rows, p->cols, op.mem_alloc(size_mul(p->n, dtype_size(keep))));
            void *rounded = xmalloc(p->n * dtype_size(keep));
            f32_to_dtype(piece, p->n, keep, rounded);
            op.upload(p->w.data, rounded, p->n * dtype_size(keep));
            free(rounded);
        }
        if (!in_place) tensor_forget(t);
        free(whole);
        free(piece);
    }
    hub_tensors_free(hub, n_hub);
    quant_config_free(quant);
    if (train) {
        masters_to_mats(m);
        tensors_close(files);
    } else m->files = files;
#ifdef __GLIBC__
    malloc_trim(0);                                        /* what conversion needed would stay with us: 15% of GPT-2 */
#endif
    return m;
}

Model *model_load(const char *dir, bool train) { return load(dir, train, !train, (StrList){0}, 0); }
Model *model_load_lazily(const char *dir) { return load(dir, false, false, (StrList){0}, 0); }
Model *model_load_classifier(const char *dir, StrList labels, uint64_t seed, bool train) {
    return load(dir, train, !train, labels, seed);
}

static float *param_field(const Param *p, Field field) {
    return field == FIELD_GRAD ? p->grad : field == FIELD_M ? p->m : field == FIELD_V ? p->v : p->master;
}
/* One field of a parameter, in f32 on the host: a new array. */
static float *param_download(const Param *p, Field field) {
    float *host = xmalloc(size_mul(p->n, sizeof(float)));
    const float *src = param_field(p, field);
    if (src) op.download(host, src, p->n * sizeof(float));
    else {
        assert(field == FIELD_WEIGHT);                               /* the others exist after model_train_begin only */
        float *wide = op.mem_alloc(p->n * sizeof(float));
        op.mat_to_f32(wide, &p->w);
        op.download(host, wide, p->n * sizeof(float));
        op.mem_free(wide);
    }
    return host;
}
static Lora *lora_on(const Model *m, int l, Role r) { return m->lora_at ? m->lora_at[l + 1][r] : NULL; }
/* w (O,C) += scale B A, where p has an adapter. */
static void lora_fold(const Model *m, const Param *p, float *w) {
    const Lora *lo = lora_on(m, p->layer, p->role);
    if (!lo) return;
    int j = 0;
    while (lo->role[j] != p->role) j++;
    const size_t R = lo->a.rows, C = lo->a.cols;
    float *a = param_download(&lo->a, FIELD_WEIGHT), *b = param_download(&lo->b[j], FIELD_WEIGHT);
    #pragma omp parallel for schedule(static)
    for (size_t row = 0; row < p->rows; row++)
        for (size_t k = 0; k < R; k++) {
            float s = lo->scale * b[row * R + k];
            for (size_t c = 0; c < C; c++) w[row * C + c] += s * a[k * C + c];
        }
    free(a), free(b);
}

/* For writing: produces the elements of a Hub tensor, from its parts in f32 on the host: masters that lie there, else
 * copies from the first piece to the last. */
typedef struct {
    const Model *m;
    const HubTensor *hub;
    DType dtype;
    Field field;
    bool fold;                                                        /* with adapters added */
    const float *host[PARTS_MAX];
    float *own[PARTS_MAX];
} SaveJob;
static void save_fill(void *ctx, size_t first, size_t n, void *out) {
    SaveJob *s = ctx;
    const HubTensor *h = s->hub;
    const size_t D = (size_t)s->m->cfg.D;
    for (int j = 0; j < h->n_parts && !first; j++) {
        const Param *p = h->part[j];
        s->host[j] = param_field(p, s->field);
        if (s->host[j] && op.host_memory && !(s->fold && lora_on(s->m, p->layer, p->role))) continue;
        s->host[j] = s->own[j] = param_download(p, s->field);
        if (s->fold) lora_fold(s->m, p, s->own[j]);
    }
    float *f = xmalloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        size_t at = first + i, row, col;
        if (h->layout == IO) col = at / h->rows, row = at % h->rows;
        else row = at / h->cols, col = at % h->cols;
        int j = 0;
        if (h->layout == BY_HEAD) {                                   /* hub_row's inverse */
            size_t block = row / D;
            j = (int)(block % (size_t)h->n_parts);
            row = block / (size_t)h->n_parts * D + row % D;
        } else
            while (row >= h->part[j]->rows) row -= h->part[j++]->rows;
        f[i] = s->host[j][row * h->cols + col];
    }
    f32_to_dtype(f, n, s->dtype, out);
    free(f);
    for (int j = 0; j < h->n_parts && first + n == h->rows * h->cols; j++) free(s->own[j]), s->own[j] = NULL;
}

void model_save(const Model *m, const char *dir, DType dtype) {
    int n;
    HubTensor *hub = hub_tensors(m, &n);
    SaveJob *jobs = xcalloc((size_t)n, sizeof *jobs);
    TensorOut *outs = xcalloc((size_t)n, sizeof *outs);
    for (int i = 0; i < n; i++) {
        const HubTensor *h = &hub[i];
        jobs[i] = (SaveJob){.m = m, .hub = h, .dtype = dtype, .field = FIELD_WEIGHT, .fold = true};
        outs[i] = (TensorOut){.name = h->name, .dtype = dtype, .n_dims = h->vector ? 1 : 2, .fill = save_fill,
            .ctx = &jobs[i]};
        outs[i].shape[0] = h->layout == IO ? h->cols : h->rows;
        outs[i].shape[1] = h->layout == IO ? h->rows : h->cols;
    }
    tensors_save_sharded(dir, outs, n, (size_t)5e9);
    char *path = path_join(dir, "config.json");
    char *text = m->config_json ? xstrdup(m->config_json) : config_write(&m->cfg, dtype);
    if (m->config_json) {                                           /* keep every other key: the dtype is ours to say */
        cJSON *j = cJSON_Parse(text);
        const char *key = cJSON_HasObjectItem(j, "dtype") ? "dtype" : "torch_dtype";
        cJSON_DeleteItemFromObject(j, key);
        cJSON_DeleteItemFromObject(j, "quantization_config");         /* what is written are plain numbers */
        cJSON_DeleteItemFromObject(j, "compression_config");
        cJSON_AddStringToObject(j, key, dtype == DT_F32 ? "float32" : dtype == DT_F16 ? "float16" : "bfloat16");
        free(text);
        text = cJSON_Print(j);
        cJSON_Delete(j);
    }
    file_write(path, text, strlen(text));
    free(text);
    free(path);
    path = path_join(dir, "generation_config.json");
    if (m->generation_json) file_write(path, m->generation_json, strlen(m->generation_json));
    else {
        text = m->cfg.n_eos ? strf("{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d\n}\n",
                                   m->cfg.bos >= 0 ? m->cfg.bos : m->cfg.eos[0], m->cfg.eos[0]) : xstrdup("{}\n");
        file_write(path, text, strlen(text));
        free(text);
    }
    free(path);
    free(jobs);
    free(outs);
    hub_tensors_free(hub, n);
}

/* Whether the files' tensor is no longer what the model computes with. */
static bool hub_changed(const Model *m, const HubTensor *h) {
    bool changed = false;
    for (int j = 0; j < h->n_parts; j++)
        changed |= h->part[j]->master || lora_on(m, h->part[j]->layer, h->part[j]->role);
    return changed;
}
void model_save_quantised(const Model *m, const char *dir) {
    char *path = strf("%s: config.json", m->files->path);
    QuantConfig *quant = quant_config(path, m->config_json);
    int n_hub, n = m->files->n;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor **of = xcalloc((size_t)(n + n_hub), sizeof *of);   /* the Hub tensor that replaces a file's */
    TensorOut *outs = xcalloc((size_t)(n + n_hub), sizeof *outs);
    for (int i = 0; i < n; i++) {
        const Tensor *t = &m->files->v[i];
        outs[i] = (TensorOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims,
            .ctx = (void *)(uintptr_t)t->data};
        memcpy(outs[i].shape, t->shape, sizeof t->shape);
    }
    char module[NAME_MAX_BYTES];
    for (int i = 0; i < n_hub; i++) {
        const HubTensor *h = &hub[i];
        if (!hub_changed(m, h)) continue;
        const Tensor *t = hub_quantised(m, m->files, h, module) ? quant_find(m->files, module) : hub_get(m, m->files,
            h);
        if (t) { of[t - m->files->v] = h; continue; }
        of[n] = h;                                                    /* a head that the files do not have */
        outs[n++] = (TensorOut){.name = h->name, .dtype = DT_F32, .n_dims = h->vector ? 1 : 2,
            .shape = {h->rows, h->cols}};
    }
    free(path);
    path = path_join(dir, "model.safetensors");
    TensorOut *v = xmalloc((size_t)n * sizeof *v);                    /* tensors_begin sorts what it is given */
    memcpy(v, outs, (size_t)n * sizeof *v);
    TensorFile file = tensors_begin(path, v, n, "pt");
    for (int i = 0; i < n; i++) {
        const HubTensor *h = of[i];
        size_t bytes = dtype_size(outs[i].dtype);
        for (int d = 0; d < outs[i].n_dims; d++) bytes *= outs[i].shape[d];
        if (!h) { tensors_put(&file, outs[i].name, outs[i].ctx, bytes); continue; }
        float *part[PARTS_MAX], *whole = xmalloc(size_mul(h->rows * h->cols, sizeof *whole));
        for (int j = 0; j < h->n_parts; j++)
            lora_fold(m, h->part[j], part[j] = param_download(h->part[j], FIELD_WEIGHT));
        void *data;
        if (hub_quantised(m, m->files, h, module)) {             /* outputs first, whatever the plain tensor's layout */
            for (int j = 0; j < h->n_parts; j++)
                for (size_t r = 0; r < h->part[j]->rows; r++)
                    memcpy(whole + hub_row(h, j, r, (size_t)m->cfg.D) * h->cols, part[j] + r * h->cols,
                        h->cols * sizeof *whole);
            data = quant_replace(quant, m->files, module, h->rows, h->cols, whole);
        } else {
            hub_stack(h, (size_t)m->cfg.D, part, whole);
            f32_to_dtype(whole, h->rows * h->cols, outs[i].dtype, data = xmalloc(bytes));
        }
        tensors_put(&file, outs[i].name, data, bytes);
        for (int j = 0; j < h->n_parts; j++) free(part[j]);
        free(whole), free(data);
    }
    tensors_end(&file);
    free(path);
    path = path_join(dir, "config.json");
    file_write(path, m->config_json, strlen(m->config_json));
    free(path);
    path = path_join(dir, "generation_config.json");
    if (m->generation_json) file_write(path, m->generation_json, strlen(m->generation_json));
    free(path), free(v), free(outs), free(of);
    hub_tensors_free(hub, n_hub);
    quant_config_free(quant);
}

/* The Hub tensor of this name, in any of its variants; NULL when there is none. */
static const HubTensor *hub_find(const Model *m, const HubTensor *hub, int n, const char *name) {
    char variant[NAME_MAX_BYTES];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < NAME_VARIANTS; v++)
            if (hub_name_variant(m->cfg.family, hub[i].name, v, variant) && !strcmp(variant, name)) return &hub[i];
    return NULL;
}
float *model_hub_read(const Model *m, const char *name, Field field, size_t *n) {
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor *h = hub_find(m, hub, n_hub, name);
    float *out = NULL;
    if (h) {
        SaveJob job = {.m = m, .hub = h, .dtype = DT_F32, .field = field};
        *n = h->rows * h->cols;
        out = xmalloc(size_mul(*n, sizeof(float)));
        save_fill(&job, 0, *n, out);
    }
    hub_tensors_free(hub, n_hub);
    return out;
}
void model_hub_write(Model *m, const char *name, Field field, const float *values) {
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor *h = hub_find(m, hub, n_hub, name);
    if (!h) die("the model has no tensor %s", name);
    for (int j = 0; j < h->n_parts; j++) {
        Param *p = h->part[j];
        float *dst = param_field(p, field), *part = xmalloc(size_mul(p->n, sizeof(float)));
        assert(dst);                                           /* a model that trains: weights in place are read-only */
        hub_extract(h, j, (size_t)m->cfg.D, values, part);
        op.upload(dst, part, p->n * sizeof(float));
        if (field == FIELD_WEIGHT && p->w.data != (void *)p->master) op.mat_from_f32(&p->w, p->master);
        free(part);
    }
    hub_tensors_free(hub, n_hub);
}

void model_train_begin(Model *m) {
    m->n_trained = m->n_lora ? lora_weights(m) : m->n_weights;
    for (int i = 0; i < m->n_params && !m->n_lora; i++)
        if (m->params[i].frozen) m->n_trained -= arena_room(&m->params[i]);
    void (*share)(Model *, float *, size_t) = m->n_lora ? lora_arena_share : arena_share_trained;
    size_t bytes = size_mul(m->n_trained, sizeof(float));
    share(m, m->grad = op.mem_alloc(bytes), offsetof(Param, grad));
    share(m, m->m = op.mem_alloc(bytes), offsetof(Param, m));
    share(m, m->v = op.mem_alloc(bytes), offsetof(Param, v));
}
void param_drop(const Model *m, Param *p) {
    const char *data = p->w.data;
    bool mapped = false;                                              /* the file's pages are not ours to free */
    for (int f = 0; m->files && f < m->files->n_files; f++)
        mapped |= data >= (const char *)m->files->files[f].data &&
                  data < (const char *)m->files->files[f].data + m->files->files[f].bytes;
    if (data && data != (const char *)p->master && !mat_quantised(&p->w)) {
        if (mapped) tensor_forget(&(Tensor){.data = data, .bytes = p->n * dtype_size(p->w.dtype)});
        else op.mem_free(p->w.data);
    }
    p->w.data = NULL;
}
void model_free(Model *m) {
    for (int i = 0; i < m->n_params; i++) param_drop(m, &m->params[i]);
    model_own_free(m);
    op.mem_free(m->master);
    op.mem_free(m->grad);
    op.mem_free(m->m);
    op.mem_free(m->v);
    op.mem_free(m->rope_table);
    for (int i = 0; i < m->n_lora; i++) {
        if (m->lora[i].a.w.data != (void *)m->lora[i].a.master) op.mem_free(m->lora[i].a.w.data);
        for (int j = 0; j < m->lora[i].n_parts; j++)
            if (m->lora[i].b[j].w.data != (void *)m->lora[i].b[j].master) op.mem_free(m->lora[i].b[j].w.data);
        free(m->lora[i].module);
    }
    op.mem_free(m->lora_master);
    free(m->lora);
    free(m->lora_at);
    if (m->files) tensors_close(m->files);
    free(m->config_json);
    free(m->generation_json);
    free(m->params);
    free(m->at);
    free(m);
}
char *param_name(const Param *p) {
    return p->layer < 0 ? xstrdup(roles[p->role].name) : strf("layers.%d.%s", p->layer, roles[p->role].name);
}

/* [model.rope] How fast pair i of a head turns: base^(-2i/rope_dims) per position, changed as the config says for texts
 * longer than those of the training.
 *   linear    all slower by factor: positions are squeezed (Chen et al. 2023)
 *   dynamic   a larger base, as much as `rows` positions ask for (NTK-aware; transformers' "dynamic")
 *   yarn      long waves slower by factor, short ones kept, a ramp between (Peng et al. 2023)
 *   llama3    the same idea with its own borders (Llama 3.1's model code) */
double rope_frequency(const Config *c, size_t i, size_t rows) {
    double dims = c->rope_dims, base = (double)c->rope_base, factor = (double)c->rope_factor, pi2 = 2 * M_PI;
    double orig = c->rope_original_pos, low = (double)c->rope_low_freq, high = (double)c->rope_high_freq;
    if (c->rope_scaling == ROPE_DYNAMIC && rows > (size_t)c->max_pos)
        base *= pow(factor * (double)rows / c->max_pos - (factor - 1), dims / (dims - 2));
    double freq = pow(base, -2.0 * (double)i / dims);
    if (c->rope_scaling == ROPE_LINEAR) return freq / factor;
    if (c->rope_scaling == ROPE_YARN) {
        /* The dimension whose wave turns n times in the original context. */
        double first = dims * log(orig / (high * pi2)) / (2 * log(base)),
            last = dims * log(orig / (low * pi2)) / (2 * log(base));
        if (c->rope_truncate) first = floor(first), last = ceil(last);
        first = fmax(first, 0), last = fmin(last, dims - 1);
        if (first == last) last += 0.001;
        double slowed = fmin(fmax(((double)i - first) / (last - first), 0), 1);
        return freq / factor * slowed + freq * (1 - slowed);
    }
    if (c->rope_scaling == ROPE_LLAMA3) {
        double wave = pi2 / freq, s = (orig / wave - low) / (high - low);
        if (wave > orig / low) return freq / factor;
        if (wave >= orig / high) return freq * ((1 - s) / factor + s);
    }
    return freq;
}
/* cos and sin of position * frequency, in double, rounded once. */
static void rope_prepare(Model *m, size_t rows) {
    const Config *c = &m->cfg;
    bool grows = c->rope_scaling == ROPE_DYNAMIC;                     /* the frequencies depend on the length */
    if (c->pos != POS_ROPE || (grows ? (size_t)m->rope_rows == rows : (size_t)m->rope_rows >= rows)) return;
    size_t half = (size_t)c->rope_dims / 2;
    float *host = xmalloc(size_mul(rows * 2, half * sizeof(float)));
    double scale = c->rope_scaling == ROPE_YARN ? (double)c->rope_attention : 1;
    for (size_t i = 0; i < half; i++) {
        float f = (float)rope_frequency(c, i, rows);                  /* the official code holds frequencies in float */
        if (c->rope_f16) {
            uint16_t h;
            f32_to_dtype(&f, 1, DT_F16, &h);
            tensor_to_f32(&(Tensor){.dtype = DT_F16, .n = 1, .data = &h}, &f);
        }
        for (size_t p = 0; p < rows; p++) {
            double angle = (double)(float)((double)p * (double)f);
            host[(p * half + i) * 2] = (float)(scale * cos(angle));
            host[(p * half + i) * 2 + 1] = (float)(scale * sin(angle));
        }
    }
    op.mem_free(m->rope_table);
    m->rope_table = op.mem_alloc(rows * half * 2 * sizeof(float));
    op.upload(m->rope_table, host, rows * half * 2 * sizeof(float));
    m->rope_rows = (int)rows;
    free(host);
}

/* ================================================================================================================= *
 * [model.lora] Adapters. Their place among the layers is found by the module's name; in a layer each adds to what its
 * linear layer makes, so nothing else knows of them. */
#define ADAPTER_PREFIX "base_model.model."
/* What the classes are called, as config.json has it. PEFT's files do not say, and a config.json among them would be
 * taken for a whole model's by transformers. */
#define ADAPTER_LABELS "labels.json"
static bool of_class_head(Role r) { return r == R_CLASS || r == R_CLASS_B || r == R_POOL || r == R_POOL_B; }
/* "base_model.model.MODULE.lora_A.weight" -> MODULE, a new string; NULL when it ends otherwise. */
static char *lora_module(const char *tensor, const char *suffix) {
    if (!strncmp(tensor, ADAPTER_PREFIX, strlen(ADAPTER_PREFIX))) tensor += strlen(ADAPTER_PREFIX);
    size_t n = strlen(tensor), n_suffix = strlen(suffix);
    return n > n_suffix && !strcmp(tensor + n - n_suffix, suffix) ? strf("%.*s", (int)(n - n_suffix), tensor) : NULL;
}
/* The skeleton of an adapter on the module that h is the weight of. */
static Lora lora_of(const HubTensor *h, const LoraOpts *opts) {
    float scale = (float)(opts->alpha / (opts->rslora ? sqrt((double)opts->r) : opts->r));
    Lora lo = {.module = strf("%.*s", (int)(strlen(h->name) - strlen(".weight")), h->name), .layer = h->part[0]->layer,
               .n_parts = h->n_parts, .scale = scale};
    size_t R = (size_t)opts->r;
    lo.a = (Param){.role = h->part[0]->role, .layer = lo.layer, .kind = KIND_MATRIX, .rows = R, .cols = h->cols,
        .n = size_mul(R, h->cols)};
    for (int j = 0; j < h->n_parts; j++) {
        const Param *p = h->part[j];
        lo.role[j] = p->role;
        lo.b[j] = (Param){.role = p->role, .layer = lo.layer, .kind = KIND_MATRIX, .rows = p->rows, .cols = R,
            .n = size_mul(p->rows, R)};
    }
    return lo;
}
/* Memory for all adapters of m->lora and what trains beside them, and their places. */
static void lora_place(Model *m) {
    float **beside = xcalloc((size_t)m->n_params, sizeof *beside);
    m->lora_at = xcalloc((size_t)m->cfg.L + 1, sizeof *m->lora_at);
    for (int i = 0; i < m->n_lora; i++) {
        Lora *lo = &m->lora[i];
        for (int j = 0; j < lo->n_parts; j++) m->lora_at[lo->layer + 1][lo->role[j]] = lo;
        if ((int)lo->a.rows > m->cfg.lora_r) m->cfg.lora_r = (int)lo->a.rows;
    }
    for (int i = 0; i < m->n_params; i++) {
        if (!m->params[i].beside) continue;
        beside[i] = param_download(&m->params[i], FIELD_WEIGHT);
        param_drop(m, &m->params[i]);
    }
    m->lora_master = op.mem_alloc(size_mul(lora_weights(m), sizeof(float)));
    lora_arena_share(m, m->lora_master, offsetof(Param, master));
    for (int i = 0; i < m->n_params; i++) {
        if (!beside[i]) continue;
        op.upload(m->params[i].master, beside[i], m->params[i].n * sizeof(float));
        master_to_mat(&m->params[i]);
        free(beside[i]);
    }
    free(beside);
}
static void lora_refuse(const ConfigFile *f, const char *key) {
    const cJSON *v = config_find(f, key);
    if (v && !cJSON_IsFalse(v) && !((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child))
        die("%s: an adapter with \"%s\" is not supported", f->path, key);
}
/* Values from a file into an adapter or what trains beside it, and into what the ops read. */
static void param_set(Param *p, const float *host) {
    op.upload(p->master, host, p->n * sizeof *host);
    if (p->w.data != (void *)p->master) op.mat_from_f32(&p->w, p->master);
}
/* Of the module that h is the weight of; a_name: its A in the files. */
static void lora_read(const Model *m, Lora *lo, const HubTensor *h, const Tensors *files, const char *a_name) {
    char *b_name = xstrdup(a_name);
    memcpy(strstr(b_name, ".lora_A.weight"), ".lora_B.weight", strlen(".lora_B.weight"));
    const Tensor *a = tensors_get(files, a_name, 2, (size_t[]){lo->a.rows, lo->a.cols});
    const Tensor *b = tensors_get(files, b_name, 2, (size_t[]){h->rows, lo->a.rows});
    need_float(a), need_float(b);
    float *host = xmalloc(size_mul(a->n > b->n ? a->n : b->n, sizeof(float)));
    tensor_to_f32(a, host);
    param_set(&lo->a, host);
    tensor_to_f32(b, host);
    for (int j = 0; j < lo->n_parts; j++) {
        Param *p = &lo->b[j];
        float *part = xmalloc(size_mul(p->n, sizeof(float)));
        for (size_t row = 0; row < p->rows; row++)
            memcpy(part + row * p->cols, host + hub_row(h, j, row, (size_t)m->cfg.D) * p->cols,
                p->cols * sizeof(float));
        param_set(p, part);
        free(part);
    }
    free(host);
    free(b_name);
}
static void beside_read(const HubTensor *h, const Tensors *files, const char *name) {
    const Tensor *t = tensors_get(files, name, h->vector ? 1 : 2, (size_t[]){h->rows, h->cols});
    need_float(t);
    float *host = xmalloc(size_mul(t->n, sizeof *host));
    tensor_to_f32(t, host);
    param_set(h->part[0], host);
    free(host);
}
void model_lora_load(Model *m, const char *dir) {
    assert(!m->n_lora);
    char *path = path_join(dir, "adapter_config.json");
    cJSON *json = json_read(path, JSON_OBJECT);
    ConfigFile f = {json, path};
    const char *type = config_string(&f, "peft_type"), *bias = config_string(&f, "bias");
    if (!type || strcmp(type, "LORA")) die("%s: peft_type \"%s\" is not supported (LORA is)", path, type ? type : "");
    if (bias && strcmp(bias, "none")) die("%s: an adapter that trains biases is not supported", path);
    lora_refuse(&f, "use_dora"), lora_refuse(&f, "rank_pattern");
    lora_refuse(&f, "alpha_pattern"), lora_refuse(&f, "lora_bias"), lora_refuse(&f, "trainable_token_indices");
    int r = config_int(&f, "r", 1, 65536, 0);
    double alpha = (double)config_float(&f, "lora_alpha", -1e9, 1e9, 8);
    m->lora_opts = (LoraOpts){.r = r, .alpha = alpha, .rslora = config_bool(&f, "use_rslora", false)};

    free(path);
    path = path_join(dir, "adapter_model.safetensors");
    Tensors *files = tensors_open(path);
    int n_hub, n_used = 0;
    HubTensor *hub = hub_tensors(m, &n_hub);
    m->lora = xcalloc((size_t)files->n + 1, sizeof *m->lora);
    const HubTensor **of = xcalloc((size_t)files->n + 1, sizeof *of);
    char **a_name = xcalloc((size_t)files->n + 1, sizeof *a_name), **name_of = xcalloc((size_t)n_hub, sizeof *name_of);
    for (int i = 0; i < files->n; i++) {
        char *module = lora_module(files->v[i].name, ".lora_A.weight");
        char *other = module ? NULL : lora_module(files->v[i].name, "");
        const HubTensor *whole = other ? hub_find(m, hub, n_hub, other) : NULL;
        if (whole) whole->part[0]->beside = true, name_of[whole - hub] = files->v[i].name;
        free(other);
        if (whole && !of_class_head(whole->part[0]->role))
            die("%s: %s is trained whole, which an adapter here cannot hold but for a classifier's head", path,
                files->v[i].name);
        if (!module) continue;
        char *weight = strf("%s.weight", module);
        const HubTensor *h = hub_find(m, hub, n_hub, weight);
        if (!h) die("%s: the adapter is for module %s, which this model does not have", path, module);
        if (h->vector || h->part[0]->layer < 0)
            die("%s: an adapter of %s is not supported (linear layers of blocks are)", path, module);
        for (int j = 0; j < m->n_lora; j++)
            if (of[j] == h) die("%s: the adapter has module %s twice", path, module);
        need_float(tensors_get(files, files->v[i].name, 2, (size_t[]){(size_t)r, h->cols})); /* before memory goes */
        of[m->n_lora] = h;
        a_name[m->n_lora] = files->v[i].name;
        m->lora[m->n_lora++] = lora_of(h, &m->lora_opts);
        free(module);
        free(weight);
    }
    if (!m->n_lora) die("%s: no tensor ends in .lora_A.weight", path);
    lora_place(m);
    for (int i = 0; i < m->n_lora; i++, n_used += 2) {
        for (int j = 0; j < m->lora[i].n_parts; j++) master_to_mat(&m->lora[i].b[j]);
        master_to_mat(&m->lora[i].a);
        lora_read(m, &m->lora[i], of[i], files, a_name[i]);
    }
    for (int i = 0; i < n_hub; i++)
        if (hub[i].part[0]->beside) beside_read(&hub[i], files, name_of[i] ? name_of[i] : hub[i].name), n_used++;
    if (n_used != files->n)
        die("%s: %d of its %d tensors are no lora_A and lora_B pairs", path, files->n - n_used, files->n);
    hub_tensors_free(hub, n_hub);
    free(of);
    free(a_name), free(name_of);
    tensors_close(files);
    cJSON_Delete(json);
    free(path);
}
void model_lora_reload(Model *m, const char *dir) {
    char *path = path_join(dir, "adapter_model.safetensors");
    Tensors *files = tensors_open(path);
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    for (int i = 0; i < m->n_lora; i++) {
        char *weight = strf("%s.weight", m->lora[i].module), *a_name = strf(ADAPTER_PREFIX "%s.lora_A.weight",
                                                                           m->lora[i].module);
        lora_read(m, &m->lora[i], hub_find(m, hub, n_hub, weight), files, a_name);
        free(weight), free(a_name);
    }
    for (int i = 0; i < n_hub; i++) {
        char *name = strf(ADAPTER_PREFIX "%s", hub[i].name);
        if (hub[i].part[0]->beside) beside_read(&hub[i], files, name);
        free(name);
    }
    hub_tensors_free(hub, n_hub);
    tensors_close(files);
    free(path);
}
/* The classes of an adapter that has a head: their names as a file beside it says, else as the base's config.json
 * does. */
static StrList adapter_labels(const Config *c, const char *dir, const char *adapter) {
    StrList labels = {0};
    char *head = hub_name(c, R_CLASS, -1), *path = path_join(adapter, "adapter_model.safetensors");
    if (head) {
        char *name = strf(ADAPTER_PREFIX "%s", head);
        Tensors *files = tensors_open(path);
        const Tensor *t = tensors_find(files, name);
        if (t && (t->n_dims != 2 || !t->shape[0] || t->shape[0] > 1 << 20))
            die("%s: tensor %s is no head of classes", path, name);
        labels.n = t ? (int)t->shape[0] : 0;
        tensors_close(files);
        free(name);
    }
    labels.v = xcalloc((size_t)labels.n + 1, sizeof *labels.v);
    for (int k = 0; k < 2 && labels.n; k++) {
        char *config = k ? path_join(dir, "config.json") : path_join(adapter, ADAPTER_LABELS);
        cJSON *j = file_exists(config) ? json_read(config, JSON_OBJECT) : NULL;
        const cJSON *names = cJSON_GetObjectItemCaseSensitive(j, "id2label");
        for (int i = 0; i < labels.n && cJSON_GetArraySize(names) == labels.n; i++) {
            char *id = strf("%d", i);
            const char *label = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(names, id));
            if (!labels.v[i] && label) labels.v[i] = xstrdup(label);
            free(id);
        }
        cJSON_Delete(j);
        free(config);
    }
    for (int i = 0; i < labels.n; i++)
        if (!labels.v[i]) labels.v[i] = strf("LABEL_%d", i);
    free(head), free(path);
    return labels;
}
Model *model_load_adapted(const char *dir, const char *adapter) {
    Config c = config_read(dir);
    StrList labels = adapter_labels(&c, dir, adapter);
    Model *m = load(dir, false, true, labels, 0);
    model_lora_load(m, adapter);
    for (int i = 0; i < labels.n; i++) free((char *)(uintptr_t)labels.v[i]);
    free(labels.v);
    return m;
}
/* Does PEFT's rule take this module for this target? Its name ends with it, at a dot. */
static bool lora_targets(const char *module, const char *target) {
    size_t n = strlen(module), n_target = strlen(target);
    if (!strcmp(target, "all-linear")) return true;
    return n >= n_target && !strcmp(module + n - n_target, target) &&
        (n == n_target || module[n - n_target - 1] == '.');
}
void model_lora_new(Model *m, const LoraOpts *opts, uint64_t seed) {
    assert(!m->n_lora && opts->r > 0);
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    bool *used = xcalloc((size_t)opts->targets.n + 1, sizeof *used);
    m->lora_opts = *opts;
    m->lora_opts.targets = (StrList){0};
    m->lora = xcalloc((size_t)n_hub, sizeof *m->lora);
    for (int i = 0; i < n_hub; i++) {
        const HubTensor *h = &hub[i];
        if (h->vector || h->part[0]->layer < 0) continue;
        Lora lo = lora_of(h, opts);
        bool wanted = false;
        for (int t = 0; t < opts->targets.n; t++)
            if (lora_targets(lo.module, opts->targets.v[t])) wanted = used[t] = true;
        if (wanted) m->lora[m->n_lora++] = lo;
        else free(lo.module);
    }
    for (int t = 0; t < opts->targets.n; t++)
        if (!used[t])
            die("an adapter for \"%s\": this model has no such linear layer in its blocks", opts->targets.v[t]);
    if (!m->n_lora) die("an adapter without a target");
    for (int i = 0; i < m->n_params; i++)
        m->params[i].beside |= m->params[i].role == R_CLASS || m->params[i].role == R_CLASS_B;
    lora_place(m);
    for (int i = 0; i < m->n_lora; i++) {
        Param *a = &m->lora[i].a;
        float *host = xmalloc(a->n * sizeof *host);
        double bound = 1 / sqrt((double)a->cols);
        Rng r = {rng_mix(seed, (uint64_t)i), 0};
        for (size_t j = 0; j < a->n; j++) host[j] = (float)((2 * rng_uniform(&r) - 1) * bound);
        op.upload(a->master, host, a->n * sizeof *host);
        master_to_mat(a);
        for (int j = 0; j < m->lora[i].n_parts; j++) master_to_mat(&m->lora[i].b[j]);
        free(host);
    }
    free(used);
    hub_tensors_free(hub, n_hub);
}
/* The target that names this module and its like in the other layers ("self_attn.q_proj"); the module itself where that
 * would take in modules without an adapter: BERT's "output.dense" ends "attention.output.dense" too. */
static const char *lora_target(const Model *m, const HubTensor *hub, int n_hub, const char *module) {
    const char *target = module;
    for (const char *p = module; *p; p++)
        if (p[0] == '.' && p[1] >= '0' && p[1] <= '9') target = strchr(p + 1, '.') ? strchr(p + 1, '.') + 1 : module;
    int n = 0;
    for (int i = 0; i < n_hub; i++) {
        char *name = strf("%.*s", (int)(strlen(hub[i].name) - strlen(".weight")), hub[i].name);
        n += !hub[i].vector && lora_targets(name, target);
        free(name);
    }
    for (int i = 0; i < m->n_lora; i++) n -= lora_targets(m->lora[i].module, target);
    return n ? module : target;
}
void model_lora_save(const Model *m, const char *dir, const char *base) {
    const LoraOpts *opts = &m->lora_opts;
    cJSON *j = cJSON_CreateObject(), *targets = cJSON_CreateArray();
    cJSON_AddStringToObject(j, "peft_type", "LORA");
    cJSON_AddStringToObject(j, "base_model_name_or_path", base);
    cJSON_AddStringToObject(j, "task_type", m->cfg.head == HEAD_CLASSIFY ? "SEQ_CLS" : m->cfg.head == HEAD_LM
        ? "CAUSAL_LM" : "FEATURE_EXTRACTION");
    cJSON_AddNumberToObject(j, "r", opts->r);
    cJSON_AddNumberToObject(j, "lora_alpha", opts->alpha);
    cJSON_AddNumberToObject(j, "lora_dropout", 0);
    cJSON_AddStringToObject(j, "bias", "none");
    cJSON_AddBoolToObject(j, "use_rslora", opts->rslora);
    cJSON_AddBoolToObject(j, "inference_mode", true);
    bool transposed = false;
    int n_hub, n_outs = 2 * m->n_lora;
    HubTensor *hub = hub_tensors(m, &n_hub);
    TensorOut *outs = xcalloc((size_t)(n_outs + n_hub), sizeof *outs);
    for (int i = 0; i < m->n_lora; i++) {
        const Lora *lo = &m->lora[i];
        const char *name = lora_target(m, hub, n_hub, lo->module);
        bool listed = false;
        const cJSON *t;
        cJSON_ArrayForEach(t, targets) listed |= !strcmp(t->valuestring, name);
        if (!listed) cJSON_AddItemToArray(targets, cJSON_CreateString(name));
        char *weight = strf("%s.weight", lo->module);
        transposed |= hub_find(m, hub, n_hub, weight)->layout == IO;
        free(weight);
        for (int k = 0; k < 2; k++) {
            size_t n;
            TensorOut *o = &outs[2 * i + k];
            *o = (TensorOut){.name = strf(ADAPTER_PREFIX "%s.lora_%c.weight", lo->module, "AB"[k]), .dtype = DT_F32,
                .n_dims = 2};
            o->ctx = model_lora_read(m, o->name, FIELD_WEIGHT, &n);
            o->shape[0] = k ? n / lo->a.rows : lo->a.rows;
            o->shape[1] = k ? lo->a.rows : lo->a.cols;
        }
    }
    cJSON *whole = cJSON_CreateArray();
    for (int i = 0; i < n_hub; i++) {
        const HubTensor *h = &hub[i];
        size_t n;
        if (!h->part[0]->beside) continue;
        TensorOut *o = &outs[n_outs++];
        *o = (TensorOut){.name = strf(ADAPTER_PREFIX "%s", h->name), .dtype = DT_F32, .n_dims = h->vector ? 1 : 2,
                         .shape = {h->rows, h->cols}};
        o->ctx = model_hub_read(m, h->name, FIELD_WEIGHT, &n);
        if (h->vector) continue;                                      /* its bias is of the same module */
        char *module = strf("%.*s", (int)(strlen(h->name) - strlen(".weight")), h->name);
        cJSON_AddItemToArray(whole, cJSON_CreateString(module));
        free(module);
    }
    cJSON_AddItemToObject(j, "target_modules", targets);
    if (whole->child) cJSON_AddItemToObject(j, "modules_to_save", whole);
    else cJSON_Delete(whole);
    cJSON_AddBoolToObject(j, "fan_in_fan_out", transposed);
    char *path = path_join(dir, "adapter_model.safetensors"), *text = cJSON_Print(j);
    tensors_save(path, outs, n_outs, NULL);
    free(path);
    path = path_join(dir, "adapter_config.json");
    file_write(path, text, strlen(text));
    cJSON *config = m->cfg.head == HEAD_CLASSIFY && m->config_json ? cJSON_Parse(m->config_json) : NULL;
    cJSON *labels = cJSON_CreateObject();
    if (cJSON_HasObjectItem(config, "id2label")) {
        cJSON_AddItemToObject(labels, "id2label", cJSON_DetachItemFromObjectCaseSensitive(config, "id2label"));
        free(text), free(path);
        path = path_join(dir, ADAPTER_LABELS), text = cJSON_Print(labels);
        file_write(path, text, strlen(text));
    }
    cJSON_Delete(config), cJSON_Delete(labels);
    for (int i = 0; i < n_outs; i++) free(outs[i].name), free(outs[i].ctx);
    free(outs);
    free(path);
    free(text);
    cJSON_Delete(j);
    hub_tensors_free(hub, n_hub);
}
float *model_lora_read(const Model *m, const char *name, Field field, size_t *n) {
    char *a = lora_module(name, ".lora_A.weight"), *b = lora_module(name, ".lora_B.weight"),
        *weight = strf("%s.weight", a ? a : b ? b : "");
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor *h = hub_find(m, hub, n_hub, weight);
    const Lora *lo = NULL;
    for (int i = 0; h && i < m->n_lora; i++)
        if (!strncmp(m->lora[i].module, h->name, strlen(m->lora[i].module)) &&
            !strcmp(h->name + strlen(m->lora[i].module), ".weight"))
            lo = &m->lora[i];
    float *out = NULL;
    if (lo && a) {
        *n = lo->a.n;
        out = param_download(&lo->a, field);
    } else if (lo) {
        *n = h->rows * lo->a.rows;
        out = xmalloc(size_mul(*n, sizeof(float)));
        for (int j = 0; j < lo->n_parts; j++) {
            float *part = param_download(&lo->b[j], field);
            for (size_t row = 0; row < lo->b[j].rows; row++)
                memcpy(out + hub_row(h, j, row, (size_t)m->cfg.D) * lo->a.rows, part + row * lo->a.rows,
                    lo->a.rows * sizeof(float));
            free(part);
        }
    }
    hub_tensors_free(hub, n_hub);
    free(a), free(b), free(weight);
    return out;
}

/* ================================================================================================================= *
 * [model.acts] All activations in one block of memory, laid out once: a first pass with no block counts the bytes. */
typedef struct { char *base; size_t at; } Carver;
static void *carve(Carver *v, size_t n, size_t size) {
    size_t start = v->at;
    v->at += (size_mul(n, size) + 63) / 64 * 64;
    return v->base ? v->base + start : NULL;
}
static act *carve_act(Carver *v, size_t n) { return carve(v, n, op.act_size); }
static float *carve_float(Carver *v, size_t n) { return carve(v, n, sizeof(float)); }

/* Rows of logits held at once: enough for an efficient product, at most about 32 MiB. */
static size_t logits_chunk(const Config *c, size_t N) {
    size_t rows = ((size_t)32 << 20) / ((size_t)c->V * 4) / 64 * 64;
    if (rows < 128) rows = 128;
    return rows < N ? rows : N;
}
static void layer_carve(Carver *v, const Config *c, LayerActs *y, size_t B, size_t T, bool train) {
    size_t N = B * T, HD = (size_t)c->H * (size_t)c->D, KD = (size_t)c->K * (size_t)c->D;
    y->n1 = carve_act(v, N * (size_t)c->C);
    y->q = carve_act(v, N * HD);
    y->att = carve_act(v, N * HD);
    y->xm = carve_act(v, N * (size_t)c->C);
    y->n2 = carve_act(v, N * (size_t)c->C);
    y->gate = c->mlp == MLP_SWIGLU ? carve_act(v, N * (size_t)c->F) : NULL;
    y->up = carve_act(v, N * (size_t)c->F);
    y->h = carve_act(v, N * (size_t)c->F);
    if (c->lora_r)
        for (Role r = R_NORM1_W; r < R_COUNT; r++)
            if (roles[r].kind == KIND_MATRIX && role_present(c, r)) y->lora[r] = carve_act(v, N * (size_t)c->lora_r);
    if (c->qk_norm) {
        y->q_raw = carve_act(v, N * HD);
        y->k_raw = carve_act(v, N * KD);
        y->q_rstd = carve_float(v, N * (size_t)c->H);
        y->k_rstd = carve_float(v, N * (size_t)c->K);
    }
    if (!train) return;
    y->mean1 = carve_float(v, N);
    y->rstd1 = carve_float(v, N);
    y->mean2 = carve_float(v, N);
    y->rstd2 = carve_float(v, N);
    y->lse = carve_float(v, N * (size_t)c->H);
}
static void acts_layout(Carver *v, const Config *c, Acts *a) {
    size_t N = a->B * a->T, C = (size_t)c->C, HD = (size_t)c->H * (size_t)c->D, KD = (size_t)c->K * (size_t)c->D;
    size_t kv = a->B * a->S * KD;
    LayerActs shared = {0};
    bool own = a->train && !a->recompute;                             /* does each layer keep its activations? */
    if (!own) {
        layer_carve(v, c, &shared, a->B, a->T, a->train);
        if (a->train) shared.k = carve_act(v, kv), shared.v = carve_act(v, kv);
        else shared.x = carve_act(v, N * C);
    }
    for (int l = 0; l < c->L; l++) {
        LayerActs *y = &a->layer[l];
        *y = shared;
        if (a->train) y->x = carve_act(v, N * C);
        if (own) layer_carve(v, c, y, a->B, a->T, true);
        if (!a->train && c->cache_i8) {
            y->k_i8 = carve(v, kv, 1), y->v_i8 = carve(v, kv, 1);
            y->k_scale = carve_float(v, kv / (size_t)c->D), y->v_scale = carve_float(v, kv / (size_t)c->D);
        } else if (own || !a->train) y->k = carve_act(v, kv), y->v = carve_act(v, kv);
    }
    if (c->norm_place == NORM_POST) {
        a->embed = a->train ? carve_act(v, N * C) : a->layer[0].x;   /* in place when nobody asks for it again */
        a->embed_mean = a->train ? carve_float(v, N) : NULL;
        a->embed_rstd = a->train ? carve_float(v, N) : NULL;
    }
    a->out = carve_act(v, N * C);
    a->final = c->norm_place == NORM_PRE ? carve_act(v, N * C) : a->out;
    bool by_token = c->head == HEAD_LM || c->head == HEAD_MASKED_LM;
    size_t O = by_token ? (size_t)c->V : c->head == HEAD_CLASSIFY ? (size_t)c->n_classes : 0;
    a->chunk = by_token ? logits_chunk(c, N) : a->B;
    a->logits = carve_act(v, a->chunk * O);
    if (c->head == HEAD_CLASSIFY || c->pooler || a->train || c->head == HEAD_MASKED_LM)
        a->head_in = carve_act(v, a->chunk * C);
    if (c->head == HEAD_MASKED_LM || c->pooler) {
        a->head_pre = carve_act(v, a->chunk * C);
        a->head_act = carve_act(v, a->chunk * C);
    }
    if (c->head == HEAD_MASKED_LM) {
        a->head_norm = carve_act(v, a->chunk * C);
        a->head_mean = carve_float(v, a->chunk);
        a->head_rstd = carve_float(v, a->chunk);
    }
    a->tokens = carve(v, N, 4);
    a->position = carve(v, N, 4);
    if (c->type_vocab) a->types = carve(v, N, 4);
    if (c->rope_2d) a->block = carve(v, N, 4);
    a->start = carve(v, N, 4);
    a->pos = carve(v, a->B, 4);
    a->len = carve(v, a->B, 4);
    a->prefix = carve(v, a->B, 4);
    a->rows = carve(v, N, 4);
    a->targets = carve(v, N, 4);
    a->loss = carve_float(v, N);
    if (!a->train) {
        a->dk = carve_act(v, N * KD);                                 /* K and V on their way into the cache */
        a->dv = carve_act(v, N * KD);
        a->next = carve(v, 1, 4);
        a->history = carve(v, a->S, 4);
        a->sample_scratch = carve_float(v, (size_t)c->V);
        return;
    }
    size_t widest = (size_t)c->F > HD ? (size_t)c->F : HD;
    if (c->lora_r) {
        a->lora_x = carve_act(v, N * (widest > C ? widest : C));
        a->dlora = carve_act(v, 3 * N * (size_t)c->lora_r);           /* of q, k and v */
    }
    a->order = carve(v, N, 4);
    act *zeros_first = carve_act(v, (a->chunk + 1) * C);              /* see scatter_rows */
    a->dhead = zeros_first ? act_at(&op, zeros_first, C) : NULL;
    a->mean = carve_float(v, N);
    a->rstd = carve_float(v, N);
    a->dx = carve_act(v, N * C);
    a->dn = carve_act(v, N * C);
    a->dq = carve_act(v, N * HD);
    a->dk = carve_act(v, kv);
    a->dv = carve_act(v, kv);
    a->dh = carve_act(v, N * widest);
    if (c->mlp == MLP_SWIGLU) a->dgate = carve_act(v, N * (size_t)c->F);
    a->delta = carve_float(v, N * (size_t)c->H);
}
size_t acts_bytes(const Config *c, size_t B, size_t T, size_t S, bool train, bool recompute) {
    double widest = (double)c->C + c->F + (double)(c->H + 2 * c->K) * c->D + c->V;
    if ((double)B * (double)S * widest * c->L > 1e15)                 /* the sums below would overflow */
        die("%zu rows of %zu tokens are more than any machine holds", B, S);
    Acts a = {.B = B, .T = T, .S = S, .train = train, .recompute = recompute};
    a.layer = xcalloc((size_t)c->L, sizeof *a.layer);
    Carver v = {0};
    acts_layout(&v, c, &a);
    free(a.layer);
    return v.at;
}
double scratch_bytes(void) { return op.host_memory ? 1e6 * (1 + thread_count()) : 0; }
Acts *acts_new(Model *m, size_t B, size_t T, size_t S, bool train, bool recompute) {
    assert(S >= T && (!train || S == T));
    Acts *a = xcalloc(1, sizeof *a);
    *a = (Acts){.B = B, .T = T, .S = S, .train = train, .recompute = train && recompute};
    a->layer = xcalloc((size_t)m->cfg.L, sizeof *a->layer);
    a->bytes = acts_bytes(&m->cfg, B, T, S, train, recompute);
    a->arena = op.mem_alloc(a->bytes);
    Carver v = {a->arena, 0};
    acts_layout(&v, &m->cfg, a);
    a->prefix_len = xcalloc(B, sizeof *a->prefix_len);
    a->mask_at = xcalloc(B, sizeof *a->mask_at);
    a->end = xcalloc(B, sizeof *a->end);
    rope_prepare(m, S);
    return a;
}
void acts_reshape(const Model *m, Acts *a, size_t B, size_t T) {
    assert(a->train);
    if (B == a->B && T == a->T) return;
    *a = (Acts){.B = B, .T = T, .S = T, .train = true, .recompute = a->recompute, .layer = a->layer, .arena = a->arena,
                .bytes = a->bytes, .drop_seed = a->drop_seed, .noise = a->noise,
                .prefix_len = a->prefix_len, .mask_at = a->mask_at, .end = a->end};
    Carver v = {a->arena, 0};
    acts_layout(&v, &m->cfg, a);
    assert(v.at <= a->bytes);
    op.zero((char *)a->dhead - (size_t)m->cfg.C * op.act_size, (size_t)m->cfg.C * op.act_size);  /* see scatter_rows */
}
void acts_free(Acts *a) {
    op.mem_free(a->arena);
    free(a->layer);
    free(a->prefix_len);
    free(a->mask_at);
    free(a->end);
    free(a);
}

CacheSlots acts_cache(const Model *m, const Acts *a, int layer, CachePart part, size_t row, size_t slot) {
    const LayerActs *y = &a->layer[layer];
    bool values = part == CACHE_VALUES || part == CACHE_VALUE_SCALES, scales = part >= CACHE_KEY_SCALES;
    size_t K = (size_t)m->cfg.K;
    CacheSlots s = {.dtype = DT_F32, .width = K};
    if (scales) s.data = values ? y->v_scale : y->k_scale;
    else if (y->k_i8) s = (CacheSlots){values ? y->v_i8 : y->k_i8, DT_I8, K * (size_t)m->cfg.D, 0};
    else s = (CacheSlots){values ? y->v : y->k, op.act_size == 2 ? DT_BF16 : DT_F32, K * (size_t)m->cfg.D, 0};
    s.slot_bytes = s.width * dtype_size(s.dtype);
    if (s.data) s.data = (char *)s.data + (row * a->S + slot) * s.slot_bytes;
    return s;
}
double cache_bytes(const Config *c, size_t B, size_t S) {
    double head = c->cache_i8 ? c->D + (double)sizeof(float) : (double)op.act_size * c->D;
    return 2.0 * c->L * (double)(B * S) * c->K * head;
}
void acts_cache_copy(const Model *m, Acts *a, size_t to, size_t from, size_t n) {
    for (int l = 0; l < m->cfg.L; l++)
        for (CachePart part = 0; part < CACHE_PARTS; part++) {
            CacheSlots s = acts_cache(m, a, l, part, to, 0);
            if (s.data) op.copy(s.data, acts_cache(m, a, l, part, from, 0).data, n * s.slot_bytes);
        }
    a->prefix_len[to] = a->prefix_len[from];
    a->mask_at[to] = a->mask_at[from];
}

/* ================================================================================================================= *
 * [model.layer] One block, forward. Each helper is one line of the picture in the head. */
static Param *param(const Model *m, int layer, Role r) { return m->at[layer + 1][r]; }
static float *vector(const Model *m, int layer, Role r) {
    Param *p = param(m, layer, r);
    return p ? p->w.data : NULL;
}
static float *grad_of(const Model *m, int layer, Role r) {
    Param *p = param(m, layer, r);
    return p ? p->grad : NULL;
}
static Linear linear(const Model *m, int layer, Role w, Role bias, act *y, const act *dy) {
    Linear l = {.w = param(m, layer, w)->w, .y = y, .dy = dy, .dw = grad_of(m, layer, w)};
    if (bias != R_COUNT) l.bias = vector(m, layer, bias), l.dbias = grad_of(m, layer, bias);
    return l;
}
static void norm(const Model *m, int layer, Role w, Role b, act *y, float *mean, float *rstd, const act *x, size_t N) {
    const Config *c = &m->cfg;
    if (c->norm == NORM_RMS) op.rmsnorm(y, rstd, x, vector(m, layer, w), N, (size_t)c->C, c->norm_eps);
    else op.layernorm(y, mean, rstd, x, vector(m, layer, w), vector(m, layer, b), N, (size_t)c->C, c->norm_eps);
}
static void norm_bwd(const Model *m, int layer, Role w, Role b, act *dx, const act *dy, const act *x, const float *mean,
                     const float *rstd, size_t N, bool accumulate) {
    const Config *c = &m->cfg;
    if (c->norm == NORM_RMS)
        op.rmsnorm_bwd(dx, grad_of(m, layer, w), dy, x, vector(m, layer, w), rstd, N, (size_t)c->C, accumulate);
    else
        op.layernorm_bwd(dx, grad_of(m, layer, w), grad_of(m, layer, b), dy, x, vector(m, layer, w), mean, rstd, N,
                         (size_t)c->C, accumulate);
}

/* What holds for one call of forward: sizes, masks and rotations of every layer. */
typedef struct { size_t B, T, N, cache_at; bool direct, rounded; Attn attn; Rope rope_q, rope_k, place_v; } Call;
static Call call_of(const Model *m, const Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    Call k = {.B = b->B, .T = b->T, .N = b->B * b->T};
    k.rounded = a->layer[0].k_i8;                          /* k and v are made elsewhere, then rounded into the cache */
    k.direct = b->T == a->S && !b->pos;                               /* k and v are born in their cache slots */
    k.attn = (Attn){.B = b->B, .T = b->T, .S = a->S, .H = c->H, .K = c->K, .D = c->D, .scale = 1 / sqrtf((float)c->D),
                    .causal = c->mask != MASK_BIDIRECTIONAL, .window = c->window, .pos = b->pos ? a->pos : NULL,
                    .prefix = c->mask == MASK_PREFIX ? a->prefix : NULL,
                    .start = b->start ? a->start : NULL, .len = b->len ? a->len : NULL};
    size_t KD = (size_t)c->K * (size_t)c->D;
    Rope r = {.B = b->B, .T = b->T, .D = c->D, .rot = c->pos == POS_ROPE ? c->rope_dims : 0,
              .interleaved = c->rope_interleaved, .table = m->rope_table, .position = a->position};
    k.rope_q = r;
    k.rope_q.heads = c->H;
    k.rope_q.y_row = b->T * (size_t)c->H * (size_t)c->D;
    k.rope_k = r;
    k.rope_k.heads = c->K;
    k.rope_k.y_row = (k.rounded ? b->T : a->S) * KD;
    k.rope_k.slot = b->pos && !k.rounded ? a->pos : NULL;
    k.cache_at = b->row * a->S * KD;
    k.place_v = k.rope_k;
    k.place_v.rot = 0;
    return k;
}
/* x -> its place y, rotated; where block positions turn the second half of a head, first that, in place. */
static void rotate(const Acts *a, const Config *c, act *y, act *x, const Rope *r, bool inverse) {
    Rope turn = *r;
    turn.inverse = inverse;
    if (c->rope_2d) {
        Rope by_block = turn;
        by_block.first = c->rope_dims;
        by_block.position = a->block;
        by_block.slot = NULL;
        by_block.y_row = r->T * (size_t)r->heads * (size_t)r->D;
        op.rope(x, x, &by_block);
    }
    op.rope(y, x, &turn);
}
static Attn layer_attn(const Config *c, const Call *k, int layer) {
    Attn attn = k->attn;
    if (layer < c->window_layer) attn.window = 0;
    return attn;
}
static uint64_t drop_site(const Acts *a, int layer, int site) {       /* one seed per step, layer and place */
    return rng_mix(a->drop_seed, (uint64_t)(layer + 1) * 64 + (uint64_t)site);
}

/* An adapter's inner product t = scale x A^T, x under the adapter's own dropout. The layers of roles[] (n) read the
 * same x; a fused module's parts share one t. */
static const act *lora_input(Acts *a, const Lora *lo, const act *x, size_t N) {
    if (a->noise.lora_dropout <= 0) return x;
    op.dropout(a->lora_x, x, N * lo->a.cols, a->noise.lora_dropout, drop_site(a, lo->layer, 8 + (int)lo->role[0]));
    return a->lora_x;
}
static void lora_inner(const Model *m, Acts *a, int l, const Role *role, int n, const act *x, size_t N) {
    Linear inner[LINEAR_MAX];
    int n_inner = 0;
    const bool noise = a->noise.lora_dropout > 0;                     /* then each has an x of its own */
    for (int i = 0; i < n; i++) {
        const Lora *lo = lora_on(m, l, role[i]);
        if (!lo || lo->role[0] != role[i]) continue;
        inner[n_inner++] = (Linear){.w = lo->a.w, .y = a->layer[l].lora[role[i]]};
        if (noise) op.matmul(&inner[n_inner - 1], 1, lora_input(a, lo, x, N), NULL, N);
    }
    if (n_inner && !noise) op.matmul(inner, n_inner, x, NULL, N);
    for (int i = 0; i < n_inner; i++)                                 /* one scale for all adapters of a model */
        op.add(inner[i].y, inner[i].y, m->lora->scale - 1, inner[i].y, N * inner[i].w.rows);
}
/* lin[i].y += t B^T, for the adapters among the layers. */
static void lora_forward(const Model *m, Acts *a, int l, const Role *role, const Linear *lin, int n, const act *x,
    size_t N) {
    if (!m->lora_at) return;
    lora_inner(m, a, l, role, n, x, N);
    for (int i = 0; i < n; i++) {
        const Lora *lo = lora_on(m, l, role[i]);
        for (int j = 0; lo && j < lo->n_parts; j++) {
            if (lo->role[j] != role[i]) continue;
            Linear outer = {.w = lo->b[j].w, .y = lin[i].y};
            op.matmul(&outer, 1, a->layer[l].lora[lo->role[0]], lin[i].y, N);
        }
    }
}
/* Given lin[i].dy: the gradients of A and B, and dx (= or +=) of lin and of the adapters, in one product. dx NULL:
 * nothing below learns. */
static void input_grad(const Model *m, Acts *a, int l, const Role *role, const Linear *lin, int n, const act *x,
    act *dx, size_t N, bool accumulate) {
    Linear all[LINEAR_MAX];
    const Lora *of[LINEAR_MAX];
    int n_all = n;
    memcpy(all, lin, (size_t)n * sizeof *lin);
    for (int i = 0; i < n; i++) {
        Lora *lo = lora_on(m, l, role[i]);
        if (!lo || lo->role[0] != role[i]) continue;
        Linear outer[PARTS_MAX];
        for (int j = 0; j < lo->n_parts; j++)
            for (int k = 0; k < n; k++)
                if (role[k] == lo->role[j]) outer[j] = (Linear){.w = lo->b[j].w, .dy = lin[k].dy, .dw = lo->b[j].grad};
        act *dt = act_at(&op, a->dlora, (size_t)(n_all - n) * N * lo->a.rows);
        op.matmul_dw(outer, lo->n_parts, a->layer[l].lora[role[i]], N);
        op.matmul_dx(dt, outer, lo->n_parts, N, false);
        op.add(dt, dt, lo->scale - 1, dt, N * lo->a.rows);
        of[n_all] = lo, all[n_all] = (Linear){.w = lo->a.w, .dy = dt, .dw = lo->a.grad};
        op.matmul_dw(&all[n_all++], 1, lora_input(a, lo, x, N), N);
    }
    if (!dx) return;
    const bool noise = a->noise.lora_dropout > 0;
    op.matmul_dx(dx, all, noise ? n : n_all, N, accumulate);
    for (int i = n; noise && i < n_all; i++) {
        op.matmul_dx(a->lora_x, &all[i], 1, N, false);
        lora_input(a, of[i], a->lora_x, N);                           /* the same mask on the gradient */
        op.add(dx, dx, 1, a->lora_x, N * of[i]->a.cols);
    }
}

/* y = scale * residual + dropout(x @ w^T + bias): the way back into the stream. */
static void project(const Model *m, Acts *a, Role role, Linear l, const act *x, const act *residual, float scale,
    size_t N, int layer, int site) {
    if (a->noise.dropout <= 0 && scale == 1) {
        op.matmul(&l, 1, x, residual, N);
        lora_forward(m, a, layer, &role, &l, 1, x, N);
        return;
    }
    act *y = l.y;
    l.y = a->noise.dropout > 0 ? a->dn : y;
    op.matmul(&l, 1, x, NULL, N);
    lora_forward(m, a, layer, &role, &l, 1, x, N);
    if (a->noise.dropout > 0) op.dropout(a->dn, a->dn, N * l.w.rows, a->noise.dropout, drop_site(a, layer, site));
    op.add(y, residual, scale, l.y, N * l.w.rows);
}
static const Role qkv_roles[] = {R_Q, R_K, R_V}, gate_up_roles[] = {R_GATE, R_UP}, *const up_role = gate_up_roles + 1;
static ActivationKind gelu_kind(const Config *c) { return c->mlp == MLP_GELU_ERF ? GELU_ERF : GELU_TANH; }

/* Where the norms stand (PRE: before a sublayer; POST: after its residual sum):
 *
 *     PRE    n1 = norm(x)   xm = x + attention(n1)                     POST   n1 = x + attention(x)   xm = norm(n1)
 *            n2 = norm(xm)  next = xm + mlp(n2)                               n2 = xm + mlp(xm)       next = norm(n2)
 *
 * with_output false: all but the last product, for the backward of a layer that kept only its input. */
static void layer_forward(Model *m, Acts *a, int l, const Call *k, bool with_output) {
    const Config *c = &m->cfg;
    LayerActs *y = &a->layer[l];
    size_t N = k->N;
    bool pre = c->norm_place == NORM_PRE;
    act *next = l + 1 < c->L ? a->layer[l + 1].x : a->out;

    if (pre) norm(m, l, R_NORM1_W, R_NORM1_B, y->n1, y->mean1, y->rstd1, y->x, N);
    const act *in = pre ? y->n1 : y->x;
    act *k_slots = k->rounded ? a->dk : act_at(&op, y->k, k->cache_at);
    act *v_slots = k->rounded ? a->dv : act_at(&op, y->v, k->cache_at);
    act *k_new = k->direct ? k_slots : a->dk, *v_new = k->direct ? v_slots : a->dv;
    Linear qkv[3] = {linear(m, l, R_Q, R_Q_B, c->qk_norm ? y->q_raw : y->q, NULL),
                     linear(m, l, R_K, R_K_B, c->qk_norm ? y->k_raw : k_new, NULL),
                     linear(m, l, R_V, R_V_B, v_new, NULL)};
    op.matmul(qkv, 3, in, NULL, N);
    lora_forward(m, a, l, qkv_roles, qkv, 3, in, N);
    if (c->qk_norm) {
        op.rmsnorm(y->q, y->q_rstd, y->q_raw, vector(m, l, R_QNORM), N * (size_t)c->H, (size_t)c->D, c->norm_eps);
        op.rmsnorm(k_new, y->k_rstd, y->k_raw, vector(m, l, R_KNORM), N * (size_t)c->K, (size_t)c->D, c->norm_eps);
    }
    if (c->pos == POS_ROPE) {
        rotate(a, c, y->q, y->q, &k->rope_q, false);
        rotate(a, c, k_slots, k_new, &k->rope_k, false);
    } else if (k_slots != k_new) op.rope(k_slots, k_new, &k->rope_k);
    if (v_slots != v_new) op.rope(v_slots, v_new, &k->place_v);
    Attn attn = layer_attn(c, k, l);
    if (k->rounded) {
        int8_t *k_i8 = y->k_i8 + k->cache_at, *v_i8 = y->v_i8 + k->cache_at;
        float *k_scale = y->k_scale + k->cache_at / (size_t)c->D, *v_scale = y->v_scale + k->cache_at / (size_t)c->D;
        op.cache_i8(k_i8, k_scale, a->dk, &attn);
        op.cache_i8(v_i8, v_scale, a->dv, &attn);
        attn.k_scale = k_scale, attn.v_scale = v_scale;
        op.attention(y->att, y->lse, y->q, k_i8, v_i8, &attn);
    } else op.attention(y->att, y->lse, y->q, k_slots, v_slots, &attn);
    project(m, a, R_O, linear(m, l, R_O, R_O_B, pre ? y->xm : y->n1, NULL), y->att,
            c->residual_from_norm ? y->n1 : y->x, c->residual_scale, N, l, 1);
    if (!pre) norm(m, l, R_NORM1_W, R_NORM1_B, y->xm, y->mean1, y->rstd1, y->n1, N);

    if (pre) norm(m, l, R_NORM2_W, R_NORM2_B, y->n2, y->mean2, y->rstd2, y->xm, N);
    in = pre ? y->n2 : y->xm;
    size_t NF = N * (size_t)c->F;
    if (c->mlp == MLP_SWIGLU) {
        Linear gate_up[2] = {linear(m, l, R_GATE, R_GATE_B, y->gate, NULL), linear(m, l, R_UP, R_UP_B, y->up, NULL)};
        op.matmul(gate_up, 2, in, NULL, N);
        lora_forward(m, a, l, gate_up_roles, gate_up, 2, in, N);
        op.swiglu(y->h, y->gate, y->up, NF);
    } else {
        Linear up = linear(m, l, R_UP, R_UP_B, y->up, NULL);
        op.matmul(&up, 1, in, NULL, N);
        lora_forward(m, a, l, up_role, &up, 1, in, N);
        op.activation(y->h, y->up, NF, gelu_kind(c));
    }
    if (pre && !with_output) {
        lora_inner(m, a, l, &(Role){R_DOWN}, 1, y->h, N);
        return;
    }
    project(m, a, R_DOWN, linear(m, l, R_DOWN, R_DOWN_B, pre ? next : y->n2, NULL), y->h,
            c->residual_from_norm ? y->n2 : y->xm, c->residual_scale, N, l, 2);
    if (!pre) norm(m, l, R_NORM2_W, R_NORM2_B, next, y->mean2, y->rstd2, y->n2, N);
}

/* The end of a sublayer's backward: its input's gradient, where it is wanted, joins that of the residual, a->dx.
 * lin (n) read that input, x. */
static void join(Model *m, Acts *a, int l, const Role *role, const Linear *lin, int n, const act *x, Role w, Role b,
                 const act *norm_in, const float *mean, const float *rstd, size_t N, bool wanted) {
    const Config *c = &m->cfg;
    bool pre = c->norm_place == NORM_PRE;
    input_grad(m, a, l, role, lin, n, x, !wanted ? NULL : pre ? a->dn : a->dx, N, !pre);
    if (!pre || !wanted) return;
    if (c->residual_from_norm) op.add(a->dn, a->dx, c->residual_scale, a->dn, N * (size_t)c->C);
    norm_bwd(m, l, w, b, a->dx, a->dn, norm_in, mean, rstd, N, !c->residual_from_norm);
}

/* The same block backward: a->dx comes in as d(output) and leaves as d(x), where something below learns. */
static void layer_backward(Model *m, Acts *a, int l, const Call *k, bool below) {
    const Config *c = &m->cfg;
    LayerActs *y = &a->layer[l];
    size_t N = k->N, C = (size_t)c->C, NF = N * (size_t)c->F;
    bool pre = c->norm_place == NORM_PRE;
    if (a->recompute) layer_forward(m, a, l, k, false);

    if (!pre) norm_bwd(m, l, R_NORM2_W, R_NORM2_B, a->dx, a->dx, y->n2, y->mean2, y->rstd2, N, false);
    const act *dy = a->dx;                                            /* MLP */
    if (a->noise.dropout > 0) op.dropout(a->dn, a->dx, N * C, a->noise.dropout, drop_site(a, l, 2)), dy = a->dn;
    Linear down = linear(m, l, R_DOWN, R_DOWN_B, NULL, dy);
    op.matmul_dw(&down, 1, y->h, N);
    input_grad(m, a, l, &(Role){R_DOWN}, &down, 1, y->h, a->dh, N, false);
    bool gated = c->mlp == MLP_SWIGLU;
    if (gated) op.swiglu_bwd(a->dgate, a->dh, a->dh, y->gate, y->up, NF);
    else op.activation_bwd(a->dh, a->dh, y->up, NF, gelu_kind(c));
    Linear gate_up[2] = {{.y = NULL}, linear(m, l, R_UP, R_UP_B, NULL, a->dh)};
    if (gated) gate_up[0] = linear(m, l, R_GATE, R_GATE_B, NULL, a->dgate);
    const Linear *ups = gated ? gate_up : gate_up + 1;
    op.matmul_dw(ups, gated ? 2 : 1, pre ? y->n2 : y->xm, N);
    join(m, a, l, gated ? gate_up_roles : up_role, ups, gated ? 2 : 1, pre ? y->n2 : y->xm, R_NORM2_W, R_NORM2_B, y->xm,
         y->mean2, y->rstd2, N, true);

    if (!pre) norm_bwd(m, l, R_NORM1_W, R_NORM1_B, a->dx, a->dx, y->n1, y->mean1, y->rstd1, N, false);
    dy = a->dx;                                                       /* attention */
    if (a->noise.dropout > 0) op.dropout(a->dn, a->dx, N * C, a->noise.dropout, drop_site(a, l, 1)), dy = a->dn;
    Linear o = linear(m, l, R_O, R_O_B, NULL, dy);
    op.matmul_dw(&o, 1, y->att, N);
    input_grad(m, a, l, &(Role){R_O}, &o, 1, y->att, a->dh, N, false);
    Attn attn = layer_attn(c, k, l);
    op.attention_bwd(a->dq, a->dk, a->dv, a->delta, a->dh, y->att, y->lse, y->q, y->k, y->v, &attn);
    if (c->pos == POS_ROPE) {
        rotate(a, c, a->dq, a->dq, &k->rope_q, true);
        rotate(a, c, a->dk, a->dk, &k->rope_k, true);
    }
    if (c->qk_norm) {
        op.rmsnorm_bwd(a->dq, grad_of(m, l, R_QNORM), a->dq, y->q_raw, vector(m, l, R_QNORM), y->q_rstd,
                       N * (size_t)c->H, (size_t)c->D, false);
        op.rmsnorm_bwd(a->dk, grad_of(m, l, R_KNORM), a->dk, y->k_raw, vector(m, l, R_KNORM), y->k_rstd,
                       N * (size_t)c->K, (size_t)c->D, false);
    }
    Linear qkv[3] = {linear(m, l, R_Q, R_Q_B, NULL, a->dq), linear(m, l, R_K, R_K_B, NULL, a->dk),
                     linear(m, l, R_V, R_V_B, NULL, a->dv)};
    op.matmul_dw(qkv, 3, pre ? y->n1 : y->x, N);
    join(m, a, l, qkv_roles, qkv, 3, pre ? y->n1 : y->x, R_NORM1_W, R_NORM1_B, y->x, y->mean1, y->rstd1, N,
         below || (pre && grad_of(m, l, R_NORM1_W)));
}

float *model_attention(const Model *m, const Acts *a, const Batch *b, int layer, size_t row) {
    assert(a->layer[layer].k);
    Call k = call_of(m, a, b);
    Attn attn = layer_attn(&m->cfg, &k, layer);
    size_t n = size_mul((size_t)m->cfg.H, size_mul(b->T, a->S));
    float *probs = op.mem_alloc(n * sizeof(float)), *host = xmalloc(n * sizeof(float));
    op.attention_probs(probs, a->layer[layer].q, a->layer[layer].k, &attn, row);
    op.download(host, probs, n * sizeof(float));
    op.mem_free(probs);
    return host;
}

/* ================================================================================================================= *
 * [model.forward] Tokens to the final norm's output */
/* Token ids become kernels' array indices: the one place where they are checked. */
static void check_ids(const Model *m, const Acts *a, const Batch *b) {
    size_t N = b->B * b->T;
    if (b->row + b->B > a->B || N > a->B * a->T || (a->train && b->T > a->T))
        die("a batch of %zu x %zu tokens was given buffers for %zu x %zu", b->B, b->T, a->B, a->T);
    for (size_t i = 0; i < N; i++)
        if (b->tokens[i] < 0 || b->tokens[i] >= m->cfg.V)
            die("token id %d is outside the model's vocabulary of %d", b->tokens[i], m->cfg.V);
    bool classes = m->cfg.head == HEAD_CLASSIFY;
    for (size_t i = 0; b->targets && i < (classes ? b->B : N); i++) {
        if (classes && b->targets[i] >= m->cfg.n_classes)
            die("class %d is outside the model's %d classes", b->targets[i], m->cfg.n_classes);
        if (!classes && b->targets[i] >= m->cfg.V)
            die("target id %d is outside the model's vocabulary of %d", b->targets[i], m->cfg.V);
    }
    for (size_t i = 0; b->types && i < N; i++)
        if (b->types[i] < 0 || b->types[i] >= m->cfg.type_vocab)
            die("token type %d is outside the model's %d", b->types[i], m->cfg.type_vocab);
    for (size_t i = 0; b->pos && i < b->B; i++)
        if (b->pos[i] < 0 || (size_t)b->pos[i] + b->T > a->S)
            die("%d + %zu tokens do not fit the context of %zu", b->pos[i], b->T, a->S);
}
/* Positions of the batch's tokens: slot numbers, or what the caller says. Where the mask has a prefix, it is found
 * here: the prefix ends at the row's bos token; from there on a token keeps the position of the first [gMASK] (or
 * [MASK]), which is the blank that it helps to fill, and its block position counts 1, 2, ... (GLM; Du et al. 2022). A
 * row without bos is causal and has slot numbers. */
static void place_tokens(const Model *m, Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T;
    int rows = c->pos == POS_LEARNED ? c->max_pos : m->rope_rows;
    int32_t *position = xmalloc(N * 4), *block = xcalloc(N, 4);
    int32_t *prefix_len = a->prefix_len + b->row, *mask_at = a->mask_at + b->row;
    for (size_t r = 0; r < b->B; r++) {
        int32_t filled = b->pos ? b->pos[r] : 0;
        const int32_t *id = b->tokens + r * b->T;
        if (c->mask == MASK_PREFIX) {
            size_t bos = 0, mask = 0;
            while (bos < b->T && id[bos] != c->bos) bos++;
            while (mask < b->T && id[mask] != c->gmask_id && id[mask] != c->mask_id) mask++;
            if (!filled) {
                prefix_len[r] = bos < b->T ? (int32_t)bos : 0;
                mask_at[r] = (int32_t)(mask < bos ? mask : bos);
            } else if (!prefix_len[r] && bos < b->T)
                die("a %s model needs its prompt, up to token %d, in one call", c->family->model_type, c->bos);
        }
        for (size_t t = 0; t < b->T; t++) {
            size_t i = r * b->T + t;
            int32_t slot = filled + (int32_t)t;
            position[i] = b->position ? b->position[i] : slot;
            if (c->mask == MASK_PREFIX && prefix_len[r] && slot >= prefix_len[r]) {
                position[i] = mask_at[r];
                block[i] = slot - prefix_len[r] + 1;
            }
            if (position[i] < 0 || position[i] >= rows || block[i] >= rows)
                die("position %d is past the %d that this model knows",
                    position[i] > block[i] ? position[i] : block[i], rows);
        }
    }
    op.upload(a->position, position, N * 4);
    if (c->rope_2d) op.upload(a->block, block, N * 4);
    if (c->mask == MASK_PREFIX) op.upload(a->prefix, prefix_len, b->B * 4);
    free(position);
    free(block);
}
/* A step's noise is drawn on the host, a small part of the step's time: it needs no kernel. */
static void embedding_noise(const Acts *a, act *x, size_t T, size_t N, size_t C) {
    float *host = xmalloc(N * C * sizeof *host), size = a->noise.neftune / sqrtf((float)(T * C));
    uint64_t seed = drop_site(a, -1, 1);
    for (size_t i = 0; i < N * C; i++) host[i] = size * ((float)(rng_mix(seed, i) >> 40) * 0x1p-23f - 1);
    op.act_from_host(a->dn, host, N * C);
    op.add(x, x, 1, a->dn, N * C);
    free(host);
}
void forward_part(Model *m, Acts *a, const Batch *b, int first, int end, act *stream) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T, C = (size_t)c->C, bytes = N * C * op.act_size;
    check_ids(m, a, b);
    a->T_now = b->T;
    for (size_t r = 0; r < b->B; r++) a->end[r] = b->len ? b->len[r] : (int32_t)b->T;
    op.upload(a->tokens, b->tokens, N * 4);
    place_tokens(m, a, b);
    if (c->type_vocab && b->types) op.upload(a->types, b->types, N * 4);
    else if (c->type_vocab) op.zero(a->types, N * 4);
    if (b->pos) op.upload(a->pos, b->pos, b->B * 4);
    if (b->start) op.upload(a->start, b->start, N * 4);
    if (b->len) op.upload(a->len, b->len, b->B * 4);

    act *x = a->layer[first].x, *sum = a->embed ? a->embed : x;
    if (first) op.copy(x, stream, bytes);
    else {
        op.embed(sum, a->tokens, &param(m, -1, R_WTE)->w, N, false);
        if (c->pos == POS_LEARNED) op.embed(sum, a->position, &param(m, -1, R_WPE)->w, N, true);
        if (c->type_vocab) op.embed(sum, a->types, &param(m, -1, R_TYPES)->w, N, true);
        if (a->noise.neftune > 0) embedding_noise(a, sum, b->T, N, C);
        if (a->embed) norm(m, -1, R_EMBED_W, R_EMBED_B, x, a->embed_mean, a->embed_rstd, sum, N);
        if (a->noise.dropout > 0) op.dropout(x, x, N * C, a->noise.dropout, drop_site(a, -1, 0));
    }
    Call k = call_of(m, a, b);
    for (int l = first; l < end; l++) layer_forward(m, a, l, &k, true);
    bool whole = end == c->L;
    if (whole && a->final != a->out) norm(m, -1, R_FINAL_W, R_FINAL_B, a->final, a->mean, a->rstd, a->out, N);
    if (stream) op.copy(stream, whole ? a->final : a->layer[end].x, bytes);
}
void forward(Model *m, Acts *a, const Batch *b) { forward_part(m, a, b, 0, m->cfg.L, NULL); }

/* ================================================================================================================= *
 * [model.head] From the stream to logits. Rows are chosen first: a->head_in (n,C) holds rows[i] of a->final. */
static act *gather_rows(Acts *a, const Config *c, size_t n) {
    Mat final = MAT(op.act_size == 2 ? DT_BF16 : DT_F32, a->B * a->T, (size_t)c->C, a->final);
    op.embed(a->head_in, a->rows, &final, n, false);
    return a->head_in;
}
/* Logits of n rows x (n,C). A masked-token head first sends them through dense, GELU and norm, kept for its
 * backward. */
static act *head_forward(Model *m, Acts *a, const act *x, size_t n) {
    const Config *c = &m->cfg;
    Linear head = linear(m, -1, R_HEAD, c->head == HEAD_MASKED_LM ? R_HEAD_B : R_COUNT, a->logits, NULL);
    if (c->head == HEAD_MASKED_LM) {
        Linear dense = linear(m, -1, R_MLM, R_MLM_B, a->head_pre, NULL);
        op.matmul(&dense, 1, x, NULL, n);
        op.activation(a->head_act, a->head_pre, n * (size_t)c->C, gelu_kind(c));
        norm(m, -1, R_MLM_W, R_MLM_NB, a->head_norm, a->head_mean, a->head_rstd, a->head_act, n);
        x = a->head_norm;
    }
    op.matmul(&head, 1, x, NULL, n);
    return a->logits;
}
/* dx (n,C) of head_forward's x, given the logits' gradient in a->logits. */
static void head_backward(Model *m, Acts *a, act *dx, const act *x, size_t n) {
    const Config *c = &m->cfg;
    bool masked = c->head == HEAD_MASKED_LM;
    Linear head = linear(m, -1, R_HEAD, masked ? R_HEAD_B : R_COUNT, NULL, a->logits);
    op.matmul_dx(dx, &head, 1, n, false);
    op.matmul_dw(&head, 1, masked ? a->head_norm : x, n);
    if (!masked) return;
    norm_bwd(m, -1, R_MLM_W, R_MLM_NB, dx, dx, a->head_act, a->head_mean, a->head_rstd, n, false);
    op.activation_bwd(a->head_pre, dx, a->head_pre, n * (size_t)c->C, gelu_kind(c));
    Linear dense = linear(m, -1, R_MLM, R_MLM_B, NULL, a->head_pre);
    op.matmul_dw(&dense, 1, x, n);
    op.matmul_dx(dx, &dense, 1, n, false);
}
act *model_logits(Model *m, Acts *a, size_t first, size_t n) {
    assert(n <= a->chunk && (m->cfg.head == HEAD_LM || m->cfg.head == HEAD_MASKED_LM));
    return head_forward(m, a, act_at(&op, a->final, first * (size_t)m->cfg.C), n);
}
/* The rows (B) of the tokens that stand for their texts: the first where there is a pooler, else the last. */
static int32_t *text_rows(const Acts *a, const Config *c, size_t B) {
    int32_t *rows = xmalloc(B * sizeof *rows);
    for (size_t i = 0; i < B; i++)
        rows[i] = (int32_t)(i * a->T_now) + (c->pooler || a->end[i] < 1 ? 0 : a->end[i] - 1);
    return rows;
}
static act *gather_texts(Acts *a, const Config *c, size_t B) {       /* (B,C) */
    int32_t *rows = text_rows(a, c, B);
    op.upload(a->rows, rows, B * sizeof *rows);
    free(rows);
    return gather_rows(a, c, B);
}
act *model_pool(Model *m, Acts *a, size_t B) {
    const Config *c = &m->cfg;
    assert(c->pooler && B <= a->chunk);
    gather_texts(a, c, B);
    Linear dense = linear(m, -1, R_POOL, R_POOL_B, a->head_pre, NULL);
    op.matmul(&dense, 1, a->head_in, NULL, B);
    op.activation(a->head_act, a->head_pre, B * (size_t)c->C, TANH);
    return a->head_act;
}
act *model_classify(Model *m, Acts *a, size_t B) {
    assert(m->cfg.head == HEAD_CLASSIFY);
    act *text = m->cfg.pooler ? model_pool(m, a, B) : gather_texts(a, &m->cfg, B);
    Linear class = linear(m, -1, R_CLASS, R_CLASS_B, a->logits, NULL);
    op.matmul(&class, 1, text, NULL, B);
    return a->logits;
}

int32_t model_sample(Acts *a, const act *logits, size_t n_ids, const Sampler *s, const int32_t *history,
                     size_t n_history, uint64_t stream, uint64_t step) {
    assert(!a->train);
    float u = (float)(rng_mix(stream, step) >> 40) * 0x1p-24f;        /* 24 bits, so that it stays below 1 as a float */
    if (s->repetition == 0 || s->repetition == 1) n_history = 0;
    if (n_history > a->S) history += n_history - a->S, n_history = a->S;
    if (n_history) op.upload(a->history, history, n_history * sizeof *history);
    op.sample(a->next, a->sample_scratch, logits, n_ids, a->history, n_history, s, u);
    int32_t next;
    op.download(&next, a->next, sizeof next);
    return next;
}

/* ================================================================================================================= *
 * [model.loss] Classifier, loss, and the whole backward */
/* Token positions sorted by id (counting sort): embedding gradients then add up in one order, run by run. */
static void upload_order(int32_t *dst, const int32_t *ids, size_t N, size_t n_ids) {
    int32_t *start = xcalloc(n_ids + 1, 4), *order = xmalloc(N * 4);
    for (size_t i = 0; i < N; i++) start[ids[i] + 1]++;
    for (size_t i = 0; i < n_ids; i++) start[i + 1] += start[i];
    for (size_t i = 0; i < N; i++) order[start[ids[i]]++] = (int32_t)i;
    op.upload(dst, order, N * 4);
    free(start);
    free(order);
}
/* table's gradient from a->dx (N,C), by the rows that the forward looked up. */
static void lookup_bwd(Model *m, Acts *a, Role table, const int32_t *device_ids, const int32_t *ids, size_t N) {
    float *grad = grad_of(m, -1, table);
    if (!grad) return;
    upload_order(a->order, ids, N, param(m, -1, table)->rows);
    op.embed_bwd(grad, device_ids, a->order, a->dx, N, (size_t)m->cfg.C);
}
/* The layer below which nothing learns; -1 where the embeddings do. */
static int lowest_learning(const Model *m) {
    int lowest = m->cfg.L;
    for (int i = 0; i < m->n_params; i++) {
        const Param *p = &m->params[i];
        bool above = p->layer < 0 && p->role > R_EMBED_B;             /* the head, the last norm */
        if (p->grad && !above && p->layer < lowest) lowest = p->layer;
    }
    for (int i = 0; i < m->n_lora; i++)
        if (m->lora[i].layer < lowest) lowest = m->lora[i].layer;
    return lowest;
}
/* From a->dn, the gradient of a->final, down to the lowest that learns. */
static void backward(Model *m, Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T, C = (size_t)c->C;
    Call k = call_of(m, a, b);
    if (a->final == a->out) op.copy(a->dx, a->dn, N * C * op.act_size);
    else norm_bwd(m, -1, R_FINAL_W, R_FINAL_B, a->dx, a->dn, a->out, a->mean, a->rstd, N, false);
    const int lowest = lowest_learning(m);
    for (int l = c->L - 1; l >= 0 && l >= lowest; l--) layer_backward(m, a, l, &k, l > lowest);
    if (lowest >= 0) return;
    if (a->noise.dropout > 0) op.dropout(a->dx, a->dx, N * C, a->noise.dropout, drop_site(a, -1, 0));
    if (a->embed) norm_bwd(m, -1, R_EMBED_W, R_EMBED_B, a->dx, a->dx, a->embed, a->embed_mean, a->embed_rstd, N, false);
    lookup_bwd(m, a, R_WTE, a->tokens, b->tokens, N);
    int32_t *ids = xcalloc(N, 4);
    if (c->type_vocab) lookup_bwd(m, a, R_TYPES, a->types, b->types ? b->types : ids, N);
    if (c->pos == POS_LEARNED) {
        op.download(ids, a->position, N * 4);
        lookup_bwd(m, a, R_WPE, a->position, ids, N);
    }
    free(ids);
}

/* a->dn's rows [lo, hi) from a->dhead's: row i takes the gathered row with rows[j] = i, j in [first, first + n), or
 * zeros, which the row before a->dhead is. */
static void scatter_rows(Acts *a, const Config *c, const int32_t *rows, size_t first, size_t n, size_t lo, size_t hi) {
    int32_t *source = xmalloc((hi - lo + 1) * sizeof *source);
    for (size_t i = lo, j = 0; i < hi; i++) {
        bool here = j < n && (size_t)rows[first + j] == i;
        source[i - lo] = here ? (int32_t)++j : 0;
    }
    op.upload(a->order, source, (hi - lo) * sizeof *source);
    size_t C = (size_t)c->C;
    Mat zeros_first = MAT(op.act_size == 2 ? DT_BF16 : DT_F32, a->chunk + 1, C, (char *)a->dhead - C * op.act_size);
    op.embed(act_at(&op, a->dn, lo * C), a->order, &zeros_first, hi - lo, false);
    free(source);
}
/* The classes' loss, and the way back into a->dn. */
static void classify_loss(Model *m, Acts *a, const Batch *b, float scale) {
    const Config *c = &m->cfg;
    size_t C = (size_t)c->C, B = b->B;
    op.upload(a->targets, b->targets, B * 4);
    act *dlogits = model_classify(m, a, B);
    op.cross_entropy(a->loss, dlogits, a->targets, B, (size_t)c->n_classes, scale);
    if (scale == 0) return;
    Linear class = linear(m, -1, R_CLASS, R_CLASS_B, NULL, dlogits);
    op.matmul_dx(a->dhead, &class, 1, B, false);
    op.matmul_dw(&class, 1, c->pooler ? a->head_act : a->head_in, B);
    if (c->pooler) {
        Linear dense = linear(m, -1, R_POOL, R_POOL_B, NULL, a->head_pre);
        op.activation_bwd(a->head_pre, a->dhead, a->head_pre, B * C, TANH);
        op.matmul_dw(&dense, 1, a->head_in, B);
        op.matmul_dx(a->dhead, &dense, 1, B, false);
    }
    int32_t *rows = text_rows(a, c, B);
    scatter_rows(a, c, rows, 0, B, 0, B * b->T);
    free(rows);
}
/* The tokens' loss, in chunks of rows. Where at least an eighth of the rows have no target (masked tokens, prompts that
 * are not to be learnt), the others are gathered first: the head costs what its targets cost. */
static void tokens_loss(Model *m, Acts *a, const Batch *b, float scale) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T, C = (size_t)c->C, n_rows = 0;
    int32_t *rows = xmalloc(N * sizeof *rows), *target = xmalloc(N * sizeof *target);
    for (size_t i = 0; i < N; i++)
        if (b->targets[i] >= 0) rows[n_rows] = (int32_t)i, target[n_rows++] = b->targets[i];
    bool gather = a->head_in && n_rows <= N - N / 8;
    if (!gather) n_rows = N;
    op.upload(a->targets, gather ? target : b->targets, n_rows * 4);
    if (!n_rows && scale != 0) op.zero(a->dn, N * C * op.act_size);
    for (size_t first = 0; first < n_rows; first += a->chunk) {
        size_t n = n_rows - first < a->chunk ? n_rows - first : a->chunk;
        const act *x = act_at(&op, a->final, first * C);
        if (gather) {
            op.upload(a->rows, rows + first, n * sizeof *rows);
            x = gather_rows(a, c, n);
        }
        act *dlogits = head_forward(m, a, x, n);                    /* cross_entropy turns logits into their gradient */
        op.cross_entropy(a->loss + first, dlogits, a->targets + first, n, (size_t)c->V, scale);
        if (scale == 0) continue;
        head_backward(m, a, gather ? a->dhead : act_at(&op, a->dn, first * C), x, n);
        size_t lo = first ? (size_t)rows[first] : 0, hi = first + n < n_rows ? (size_t)rows[first + n] : N;
        if (gather) scatter_rows(a, c, rows, first, n, lo, hi);
    }
    if (gather) {                                                     /* losses back to where their tokens are */
        float *compact = xmalloc((n_rows + 1) * sizeof(float)), *loss = xcalloc(N, sizeof(float));
        op.download(compact, a->loss, n_rows * sizeof(float));
        for (size_t j = 0; j < n_rows; j++) loss[rows[j]] = compact[j];
        op.upload(a->loss, loss, N * sizeof(float));
        free(compact);
        free(loss);
    }
    free(rows);
    free(target);
}
double model_loss(Model *m, Acts *a, const Batch *b, float scale) {
    bool classes = m->cfg.head == HEAD_CLASSIFY;
    size_t n = classes ? b->B : b->B * b->T;
    assert(b->targets && m->cfg.head != HEAD_NONE && (scale == 0 || a->train));
    assert(scale == 0 || (b->T == a->S && !b->pos));               /* backward takes the whole cache to be this batch */
    if (classes) classify_loss(m, a, b, scale);
    else tokens_loss(m, a, b, scale);
    if (scale != 0) backward(m, a, b);
    float *loss = xmalloc(n * sizeof(float));
    op.download(loss, a->loss, n * sizeof(float));
    double sum = 0;
    a->n_target = 0;
    for (size_t i = 0; i < n; i++)
        if (b->targets[i] >= 0) sum += (double)loss[i], a->n_target++;
    free(loss);
    return sum;
}

/* ================================================================================================================= *
 * [model.step] The optimiser */
double model_grad_norm(Model *m) {
    static double *sum;                                               /* one number on the device */
    if (!sum) sum = op.mem_alloc(sizeof *sum);
    op.sum_squares(sum, m->grad, m->n_trained);
    double host;
    op.download(&host, sum, sizeof host);
    return sqrt(host);
}
static void param_adamw(Param *p, AdamW *step, double weight_decay) {
    if (!p->grad) return;
    step->weight_decay = p->kind == KIND_MATRIX || p->kind == KIND_EMBED ? (float)weight_decay : 0;
    Mat none = MAT(DT_F32, 0, 0, NULL);
    op.adamw(p->master, p->w.data == (void *)p->master ? &none : &p->w, p->grad, p->m, p->v, p->n, step);
}
void model_adamw(Model *m, const OptimOpts *h, int64_t t, double grad_norm) {
    AdamW step = {.lr = (float)h->lr, .beta1 = (float)h->beta1, .beta2 = (float)h->beta2, .eps = (float)h->eps,
                  /* of the very betas that the op uses */
                  .bias1 = (float)(1 - pow((double)(float)h->beta1, (double)t)),
                  .bias2 = (float)(1 - pow((double)(float)h->beta2, (double)t)),
                  .grad_scale = h->clip > 0 && grad_norm > h->clip ? (float)(h->clip / grad_norm) : 1.0f};
    for (int i = 0; i < m->n_params; i++) param_adamw(&m->params[i], &step, h->weight_decay);
    for (int i = 0; i < m->n_lora; i++) {
        param_adamw(&m->lora[i].a, &step, h->weight_decay);
        for (int j = 0; j < m->lora[i].n_parts; j++) param_adamw(&m->lora[i].b[j], &step, h->weight_decay);
    }
}
