/* model.c - the network: parts, one tensor table per family, forward, backward, the optimiser's step.
 *
 * MAP
 *   [model.roles]    every tensor a model can have: its shape in letters and its kind
 *   [model.tables]   per family, what the Hub calls each tensor: one tensor, one line
 *   [model.config]   config.json <-> Config
 *   [model.io]       making, loading in place from the mmap, saving
 *   [model.acts]     activations, laid out once
 *   [model.layer]    one block forward; its backward stands beside it, mirrored line by line
 *   [model.loss]     the classifier in chunks: full logits never exist
 *   [model.step]     gradient norm and AdamW
 *
 * A layer is: x -> norm -> q, k, v -> rotate -> attention -> project + x -> norm -> MLP + that. Families differ in parts
 * (Config), never in code paths of their own. What this file refuses: text, files other than a model directory, and any
 * knowledge of where it runs (see kernels.h). */
#include "model.h"
#include <assert.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [model.roles] Every tensor by what it does. Letters of shapes: V vocabulary, C width, Q = H*D, K = K*D (key/value
 * width), F feed-forward, P positions, D head; cols '1': a vector.                                                    */
static const struct { const char *name; Kind kind; char rows, cols; } roles[R_COUNT] = {
    [R_WTE]     = {"wte",     KIND_EMBED,  'V', 'C'},    /* token embedding */
    [R_WPE]     = {"wpe",     KIND_EMBED,  'P', 'C'},    /* learned positions */
    [R_FINAL_W] = {"final.w", KIND_NORM,   'C', '1'},
    [R_FINAL_B] = {"final.b", KIND_BIAS,   'C', '1'},
    [R_HEAD]    = {"head",    KIND_MATRIX, 'V', 'C'},    /* absent when tied to wte */
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
    case R_HEAD: return !c->tied;
    case R_FINAL_B: case R_NORM1_B: case R_NORM2_B: return c->norm == NORM_LAYER;
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
 * [model.tables] What the Hub calls them. Neighbouring lines of one name are one Hub tensor, stacked along the outputs
 * in that order (c_attn, query_key_value, gate_up_proj). IO: stored (inputs, outputs), as GPT-2's Conv1D does.         */
typedef enum { OI, IO } Layout;
typedef struct { Role role; const char *name; Layout layout; } TensorLine;

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
    {R_COUNT, NULL, OI},
};
static const TensorLine llama_tensors[] = {               /* Llama, Mistral, Qwen2, Qwen3 */
    {R_WTE, "model.embed_tokens.weight", OI},
    {R_NORM1_W, "model.layers.%d.input_layernorm.weight", OI},
    {R_Q, "model.layers.%d.self_attn.q_proj.weight", OI},
    {R_K, "model.layers.%d.self_attn.k_proj.weight", OI},
    {R_V, "model.layers.%d.self_attn.v_proj.weight", OI},
    {R_Q_B, "model.layers.%d.self_attn.q_proj.bias", OI},
    {R_K_B, "model.layers.%d.self_attn.k_proj.bias", OI},
    {R_V_B, "model.layers.%d.self_attn.v_proj.bias", OI},
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
    {R_COUNT, NULL, OI},
};

struct Family {
    const char *model_type, *architecture;
    const TensorLine *tensors;
    const char *prefix;                    /* may be missing from a file's names */
    const char *ignore[6];                 /* tensors that a file may hold and nobody reads: parts of names */
    Config parts;                          /* what makes the family; sizes come from config.json */
};
#define DECODER .residual_scale = 1, .init_std = 0.02f, .bos = -1, .pad = -1
#define LLAMA_PARTS                                                                                                    \
    DECODER, .norm = NORM_RMS, .norm_eps = 1e-6f, .pos = POS_ROPE, .rope_base = 10000, .mlp = MLP_SWIGLU
static const Family families[] = {
    {"gpt2", "GPT2LMHeadModel", gpt2_tensors, "transformer.", {".attn.bias", ".attn.masked_bias"},
     {DECODER, .norm = NORM_LAYER, .norm_eps = 1e-5f, .pos = POS_LEARNED, .qkv_bias = true, .out_bias = true,
      .mlp_bias = true, .mlp = MLP_GELU_TANH, .tied = true}},
    {"llama", "LlamaForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, {LLAMA_PARTS}},
    {"mistral", "MistralForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, {LLAMA_PARTS, .window = 4096}},
    {"qwen2", "Qwen2ForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, {LLAMA_PARTS, .qkv_bias = true}},
    {"qwen3", "Qwen3ForCausalLM", llama_tensors, "model.", {"rotary_emb.inv_freq"}, {LLAMA_PARTS, .qk_norm = true}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* ================================================================================================================= *
 * [model.config] config.json -> Config                                                                                */
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

/* Old: rope_theta and rope_scaling {type or rope_type, factor, ...}. New: all of it in rope_parameters. */
static void config_read_rope(const ConfigFile *f, Config *c) {
    const cJSON *r = config_find(f, "rope_parameters|rope_scaling");
    c->rope_base = (float)config_number(f, "rope_theta", (double)c->rope_base);
    if (!r) return;
    if (!cJSON_IsObject(r)) die("%s: \"%s\" is not an object", f->path, r->string);
    ConfigFile g = {r, f->path};
    c->rope_base = (float)config_number(&g, "rope_theta", (double)c->rope_base);
    const cJSON *type = config_find(&g, "rope_type|type");
    const char *kind = type ? cJSON_GetStringValue(type) : "default";
    if (!kind) die("%s: rope_type is not a string", f->path);
    if (!strcmp(kind, "default")) return;
    c->rope_factor = (float)config_number(&g, "factor", 1);
    if (!(c->rope_factor > 0)) die("%s: rope factor %g must be positive", f->path, (double)c->rope_factor);
    if (!strcmp(kind, "linear")) c->rope_scaling = ROPE_LINEAR;
    else if (!strcmp(kind, "llama3")) {
        c->rope_scaling = ROPE_LLAMA3;
        c->rope_low_freq = (float)config_number(&g, "low_freq_factor", 1);
        c->rope_high_freq = (float)config_number(&g, "high_freq_factor", 4);
        c->rope_original_pos = config_int(&g, "original_max_position_embeddings", 1, 1 << 30, 8192);
        if (!(c->rope_high_freq > c->rope_low_freq && c->rope_low_freq > 0))
            die("%s: rope needs 0 < low_freq_factor < high_freq_factor", f->path);
    } else die("%s: rope_type \"%s\" is not supported (default, linear, llama3 are)", f->path, kind);
}

static void config_read_eos(const ConfigFile *f, Config *c) {
    const cJSON *e = config_find(f, "eos_token_id"), *one;
    if (cJSON_IsArray(e)) {
        cJSON_ArrayForEach(one, e) if (cJSON_IsNumber(one) && c->n_eos < 8) c->eos[c->n_eos++] = one->valueint;
    } else if (cJSON_IsNumber(e)) c->eos[c->n_eos++] = e->valueint;
}

static const Family *family_find(const char *model_type) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i].model_type, model_type)) return &families[i];
    return NULL;
}
Config config_family_default(const char *model_type) {
    const Family *f = family_find(model_type);
    if (!f) {
        Buf known = {0};
        for (int i = 0; i < N_FAMILIES; i++) buf_fmt(&known, "%s%s", i ? ", " : "", families[i].model_type);
        die("model_type \"%s\" is not supported (%s are)", model_type, known.data);
    }
    Config c = f->parts;
    c.family = f;
    return c;
}
bool config_supported(const char *model_type) { return family_find(model_type) != NULL; }
const char *config_model_type(const Config *c) { return c->family->model_type; }

static Config config_parse(const char *text, const char *path) {
    cJSON *json = cJSON_Parse(text);
    if (!cJSON_IsObject(json)) die("%s: not a JSON object", path);
    ConfigFile f = {json, path};
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "model_type"));
    if (!type) die("%s: \"model_type\" is missing", path);
    if (!family_find(type)) config_family_default(type);              /* dies, naming those that are known */
    Config c = config_family_default(type);
    enum { MAX = 1 << 24 };
    c.V = config_int(&f, "vocab_size", 1, MAX, 0);
    c.C = config_int(&f, "hidden_size|n_embd", 1, MAX, 0);
    c.L = config_int(&f, "num_hidden_layers|n_layer", 1, 4096, 0);
    c.H = config_int(&f, "num_attention_heads|n_head", 1, 4096, 0);
    c.K = config_int(&f, "num_key_value_heads", 1, 4096, c.H);
    c.D = config_int(&f, "head_dim", 1, 65536, c.C / c.H);
    c.F = config_int(&f, "intermediate_size|n_inner", 1, MAX, c.pos == POS_LEARNED ? 4 * c.C : 0);
    c.max_pos = config_int(&f, "max_position_embeddings|n_positions|n_ctx", 1, MAX, 2048);
    c.norm_eps = (float)config_number(&f, "rms_norm_eps|layer_norm_epsilon|layer_norm_eps", (double)c.norm_eps);
    c.tied = config_bool(&f, "tie_word_embeddings", c.tied);
    if (c.pos == POS_ROPE) {
        if (config_bool(&f, "attention_bias", false)) c.qkv_bias = c.out_bias = true;
        c.mlp_bias = config_bool(&f, "mlp_bias", c.mlp_bias);
        config_read_rope(&f, &c);
        c.rope_dims = c.D;
    }
    if (!config_bool(&f, "use_sliding_window", true)) c.window = 0;   /* Qwen2 states a window and does not use it */
    else if (cJSON_HasObjectItem(json, "sliding_window")) c.window = config_int(&f, "sliding_window", 0, MAX, 0);
    const char *act_name = cJSON_GetStringValue(config_find(&f, "hidden_act|activation_function"));
    const char *act_want = c.mlp == MLP_SWIGLU ? "silu" : "gelu_new";
    if (act_name && strcmp(act_name, act_want) && !(c.mlp == MLP_GELU_TANH && !strcmp(act_name, "gelu_pytorch_tanh")))
        die("%s: activation \"%s\" is not supported for %s (%s is)", path, act_name, type, act_want);
    c.bos = config_int(&f, "bos_token_id", -1, MAX, -1);
    c.pad = config_int(&f, "pad_token_id", -1, MAX, -1);
    config_read_eos(&f, &c);
    cJSON_Delete(json);
    if (c.C % c.H && c.D == c.C / c.H) die("%s: %d heads do not divide the width %d", path, c.H, c.C);
    config_check(&c);
    return c;
}
Config config_read(const char *path) {
    char *file = is_dir(path) ? path_join(path, "config.json") : xstrdup(path), *text = file_read(file, NULL);
    Config c = config_parse(text, file);
    free(text);
    free(file);
    return c;
}
void config_check(const Config *c) {
    if (c->V < 1 || c->C < 1 || c->L < 1 || c->H < 1 || c->K < 1 || c->D < 1 || c->F < 1 || c->max_pos < 1)
        die("model sizes must be positive: V %d C %d L %d H %d K %d D %d F %d", c->V, c->C, c->L, c->H, c->K, c->D, c->F);
    if (c->H % c->K) die("%d query heads cannot share %d key/value heads evenly", c->H, c->K);
    if (c->pos == POS_ROPE && c->rope_dims % 2) die("rotary embedding needs an even head size, not %d", c->rope_dims);
    if (c->norm_place != NORM_PRE || c->rope_2d || c->mask != MASK_CAUSAL)
        die("%s: this family's parts are not built yet", c->family->model_type);
    double n = 0;                                                     /* in double: sizes in bytes must not overflow */
    for (Role r = 0; r < R_COUNT; r++)
        if (role_present(c, r))
            n += (double)letter_size(c, roles[r].rows) * (double)letter_size(c, roles[r].cols) * (role_in_layer(r) ? c->L : 1);
    if (n > 1e13) die("model sizes ask for %.3g weights, more than any machine holds", n);
}

/* Config -> config.json of a model born here, with the keys that every version of transformers reads. */
static char *config_write(const Config *c, DType dtype) {
    cJSON *j = cJSON_CreateObject();
    cJSON *arch = cJSON_AddArrayToObject(j, "architectures");
    cJSON_AddItemToArray(arch, cJSON_CreateString(c->family->architecture));
    cJSON_AddStringToObject(j, "model_type", c->family->model_type);
    cJSON_AddNumberToObject(j, "vocab_size", c->V);
    if (c->pos == POS_LEARNED) {
        cJSON_AddNumberToObject(j, "n_embd", c->C);
        cJSON_AddNumberToObject(j, "n_layer", c->L);
        cJSON_AddNumberToObject(j, "n_head", c->H);
        cJSON_AddNumberToObject(j, "n_inner", c->F);
        cJSON_AddNumberToObject(j, "n_positions", c->max_pos);
        cJSON_AddNumberToObject(j, "n_ctx", c->max_pos);
        cJSON_AddStringToObject(j, "activation_function", "gelu_new");
    } else {
        cJSON_AddNumberToObject(j, "hidden_size", c->C);
        cJSON_AddNumberToObject(j, "num_hidden_layers", c->L);
        cJSON_AddNumberToObject(j, "num_attention_heads", c->H);
        cJSON_AddNumberToObject(j, "num_key_value_heads", c->K);
        cJSON_AddNumberToObject(j, "head_dim", c->D);
        cJSON_AddNumberToObject(j, "intermediate_size", c->F);
        cJSON_AddNumberToObject(j, "max_position_embeddings", c->max_pos);
        cJSON_AddStringToObject(j, "hidden_act", "silu");
        cJSON_AddNumberToObject(j, "rope_theta", (double)c->rope_base);
        cJSON_AddBoolToObject(j, "attention_bias", c->out_bias);
        cJSON_AddBoolToObject(j, "mlp_bias", c->mlp_bias);
        if (c->window) cJSON_AddNumberToObject(j, "sliding_window", c->window);
    }
    char eps[32];                                                     /* 1e-5 as float is 9.99999975e-06 as double */
    snprintf(eps, sizeof eps, "%g", (double)c->norm_eps);
    cJSON_AddRawToObject(j, c->norm == NORM_RMS ? "rms_norm_eps" : "layer_norm_epsilon", eps);
    char std[32];
    snprintf(std, sizeof std, "%g", (double)c->init_std);
    cJSON_AddRawToObject(j, "initializer_range", std);
    cJSON_AddBoolToObject(j, "tie_word_embeddings", c->tied);
    if (c->bos >= 0) cJSON_AddNumberToObject(j, "bos_token_id", c->bos);
    if (c->n_eos) cJSON_AddNumberToObject(j, "eos_token_id", c->eos[0]);
    if (c->pad >= 0) cJSON_AddNumberToObject(j, "pad_token_id", c->pad);
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
/* 6 FLOPs per weight that a matmul reads (2 forward, 4 backward), the embedding looked up for free, and causal attention:
 * two products of 2 D FLOPs for T/2 visible slots on average, three times. */
double config_flops_per_token(const Config *c, size_t T) {
    double n = (double)c->V * c->C;                                   /* the head, tied or not */
    for (Role r = 0; r < R_COUNT; r++)
        if (role_in_layer(r) && roles[r].kind == KIND_MATRIX && role_present(c, r)) n += (double)role_size(c, r) * c->L;
    return 6 * n + 6.0 * c->L * c->H * c->D * (double)T;
}

/* ================================================================================================================= *
 * [model.io] Making, loading, saving                                                                                  */
enum { ARENA_ALIGN = 16 };                                            /* floats: a parameter starts on a cache line */

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
            m->n_weights += (p->n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
        }
    if (c->tied) m->at[0][R_HEAD] = m->at[0][R_WTE];                  /* one parameter, two uses: gradients add up */
    return m;
}

/* Hands each parameter its part of an arena. */
static void arena_share(Model *m, float *arena, size_t field_offset) {
    size_t at = 0;
    for (int i = 0; i < m->n_params; i++) {
        *(float **)(void *)((char *)&m->params[i] + field_offset) = arena + at;
        at += (m->params[i].n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    }
}
static void masters_alloc(Model *m) {
    m->master = op.mem_alloc(size_mul(m->n_weights, sizeof(float)));
    arena_share(m, m->master, offsetof(Param, master));
}
/* Matmuls read the masters themselves, or a bf16 copy where activations are bf16 (AdamW keeps it fresh). */
static void masters_to_mats(Model *m) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        p->w = (Mat){DT_F32, p->rows, p->cols, p->master};
        if (op.act_size == 2 && p->cols > 1) {
            p->w = (Mat){DT_BF16, p->rows, p->cols, op.mem_alloc(p->n * 2)};
            op.mat_from_f32(&p->w, p->master);
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
        at += (p->n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
        if (p->kind == KIND_BIAS) continue;
        /* Projections back into the stream start smaller, so that the sum over 2L of them starts at size 1 (GPT-2). */
        bool residual = p->role == R_O || p->role == R_DOWN;
        double std = (double)c->init_std / (residual ? sqrt(2.0 * c->L) : 1.0);
        uint64_t stream = rng_mix(seed, (uint64_t)i);
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

/* Neighbouring lines with one name make one Hub tensor: [first, last) of the table, for a layer. */
typedef struct {
    char *name;                        /* with the layer's number */
    const TensorLine *first;
    int n_parts;                       /* lines present in this model */
    Param *part[4];
    size_t rows, cols;                 /* of the stack: outputs, inputs */
    Layout layout;
    bool vector;
} HubTensor;

/* All Hub tensors of a model. Caller frees names and array. */
static HubTensor *hub_tensors(const Model *m, int *n_out) {
    HubTensor *v = xcalloc((size_t)(m->cfg.L + 1) * R_COUNT, sizeof *v);
    int n = 0;
    for (int layer = -1; layer < m->cfg.L; layer++)
        for (const TensorLine *t = m->cfg.family->tensors; t->name; t++) {
            Param *p = m->at[layer + 1][t->role];
            if (!p || role_in_layer(t->role) != (layer >= 0) || p->role != t->role) continue;
            bool joins = t > m->cfg.family->tensors && !strcmp(t[-1].name, t->name) && n && v[n - 1].first->name == t[-1].name
                         && v[n - 1].part[0]->layer == layer;
            HubTensor *h = joins ? &v[n - 1] : &v[n++];
            if (!joins) {
                #pragma GCC diagnostic push
                #pragma GCC diagnostic ignored "-Wformat-nonliteral"
                *h = (HubTensor){.name = layer < 0 ? xstrdup(t->name) : strf(t->name, layer), .first = t,
                                 .cols = p->cols, .layout = t->layout, .vector = p->cols == 1};
                #pragma GCC diagnostic pop
            }
            assert(h->n_parts < 4);
            h->part[h->n_parts++] = p;
            h->rows += p->rows;
        }
    *n_out = n;
    return v;
}
static void hub_tensors_free(HubTensor *v, int n) {
    for (int i = 0; i < n; i++) free(v[i].name);
    free(v);
}

/* The tensor of this name, the family's prefix there or not; dies with both shapes when it does not fit. */
static const Tensor *hub_get(const Model *m, const Tensors *files, const HubTensor *h) {
    const char *name = h->name, *prefix = m->cfg.family->prefix;
    size_t n_prefix = strlen(prefix);
    if (!tensors_find(files, name) && !strncmp(name, prefix, n_prefix) && tensors_find(files, name + n_prefix))
        name += n_prefix;
    size_t shape[2] = {h->layout == IO ? h->cols : h->rows, h->layout == IO ? h->rows : h->cols};
    return tensors_get(files, name, h->vector ? 1 : 2, shape);
}

/* Says which tensors of the files nobody reads, unless the family's rule leaves them out. */
static void warn_unused(const Model *m, const Tensors *files, const HubTensor *hub, int n_hub) {
    const char **used = xcalloc((size_t)n_hub, sizeof *used);
    for (int i = 0; i < n_hub; i++) used[i] = hub_get(m, files, &hub[i])->name;
    int n_extra = 0;
    const char *example = NULL;
    for (int i = 0; i < files->n; i++) {
        const char *name = files->v[i].name;
        bool known = m->cfg.tied && strstr(name, "lm_head.weight");
        for (int j = 0; j < n_hub && !known; j++) known = used[j] == name;
        for (int j = 0; m->cfg.family->ignore[j] && !known; j++) known = strstr(name, m->cfg.family->ignore[j]);
        if (!known) n_extra++, example = name;
    }
    if (n_extra) warn("%s: %d tensor%s not part of a %s model and ignored, such as %s", files->path, n_extra,
                      n_extra > 1 ? "s are" : " is", m->cfg.family->model_type, example);
    free(used);
}

/* part of a Hub tensor, widened to f32 in our (outputs, inputs) order; whole is the Hub tensor in f32. */
static void hub_extract(const HubTensor *h, const float *whole, size_t row0, const Param *p, float *out) {
    if (h->layout == OI) { memcpy(out, whole + row0 * h->cols, p->n * sizeof(float)); return; }
    #pragma omp parallel for schedule(static)
    for (size_t o = 0; o < p->rows; o++)
        for (size_t c = 0; c < p->cols; c++) out[o * p->cols + c] = whole[c * h->rows + row0 + o];
}

Model *model_load(const char *dir, bool train) {
    if (!is_dir(dir)) die("%s: no such directory: a model is a directory with config.json and model.safetensors", dir);
    char *path = path_join(dir, "config.json");
    char *text = file_read(path, NULL);
    Config c = config_parse(text, path);
    free(path);
    Model *m = model_skeleton(&c);
    m->config_json = text;
    path = path_join(dir, "generation_config.json");
    if (file_exists(path)) m->generation_json = file_read(path, NULL);
    free(path);
    Tensors *files = tensors_open(dir);
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    warn_unused(m, files, hub, n_hub);
    if (train) masters_alloc(m);
    for (int i = 0; i < n_hub; i++) {
        HubTensor *h = &hub[i];
        const Tensor *t = hub_get(m, files, h);
        if (t->dtype > DT_BF16) die("%s: tensor %s is %s; weights must be F32, F16 or BF16", t->file, t->name, dtype_name(t->dtype));
        bool in_place = !train && op.host_memory && h->layout == OI && !h->vector;
        float *whole = NULL, *piece = NULL;
        size_t row0 = 0;
        for (int j = 0; j < h->n_parts; row0 += h->part[j]->rows, j++) {
            Param *p = h->part[j];
            if (in_place) {
                p->w = (Mat){t->dtype, p->rows, p->cols, (char *)(uintptr_t)t->data + row0 * p->cols * dtype_size(t->dtype)};
                continue;
            }
            if (!whole) tensor_to_f32(t, whole = xmalloc(size_mul(t->n, sizeof(float))));
            hub_extract(h, whole, row0, p, piece = xrealloc(piece, p->n * sizeof(float)));
            if (train) { op.upload(p->master, piece, p->n * sizeof(float)); continue; }
            DType keep = h->vector ? DT_F32 : op.act_size == 2 && t->dtype == DT_F32 ? DT_BF16 : t->dtype;
            p->w = (Mat){keep, p->rows, p->cols, op.mem_alloc(size_mul(p->n, dtype_size(keep)))};
            void *rounded = xmalloc(p->n * dtype_size(keep));
            f32_to_dtype(piece, p->n, keep, rounded);
            op.upload(p->w.data, rounded, p->n * dtype_size(keep));
            free(rounded);
        }
        free(whole);
        free(piece);
    }
    hub_tensors_free(hub, n_hub);
    if (train) {
        masters_to_mats(m);
        tensors_close(files);
    } else m->files = files;
    return m;
}

/* For writing: produces the elements of a Hub tensor from the host copies of its parts. */
typedef struct { const HubTensor *hub; const float *host[4]; DType dtype; } SaveJob;
static void save_fill(void *ctx, size_t first, size_t n, void *out) {
    const SaveJob *s = ctx;
    const HubTensor *h = s->hub;
    float *f = xmalloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        size_t at = first + i, row, col;
        if (h->layout == IO) col = at / h->rows, row = at % h->rows;
        else row = at / h->cols, col = at % h->cols;
        int j = 0;
        while (row >= h->part[j]->rows) row -= h->part[j++]->rows;
        f[i] = s->host[j][row * h->cols + col];
    }
    f32_to_dtype(f, n, s->dtype, out);
    free(f);
}

void model_save(Model *m, const char *dir, DType dtype) {
    int n;
    HubTensor *hub = hub_tensors(m, &n);
    SaveJob *jobs = xcalloc((size_t)n, sizeof *jobs);
    TensorOut *outs = xcalloc((size_t)n, sizeof *outs);
    float **host = xcalloc((size_t)m->n_params, sizeof *host);
    for (int i = 0; i < n; i++) {
        HubTensor *h = &hub[i];
        jobs[i] = (SaveJob){.hub = h, .dtype = dtype};
        for (int j = 0; j < h->n_parts; j++) {
            Param *p = h->part[j];
            float **w = &host[p - m->params];
            if (p->master && op.host_memory) jobs[i].host[j] = p->master;
            else {
                *w = xmalloc(p->n * sizeof(float));
                if (p->master) op.download(*w, p->master, p->n * sizeof(float));
                else {
                    float *wide = op.mem_alloc(p->n * sizeof(float));
                    op.mat_to_f32(wide, &p->w);
                    op.download(*w, wide, p->n * sizeof(float));
                    op.mem_free(wide);
                }
                jobs[i].host[j] = *w;
            }
        }
        outs[i] = (TensorOut){.name = h->name, .dtype = dtype, .n_dims = h->vector ? 1 : 2, .fill = save_fill, .ctx = &jobs[i]};
        outs[i].shape[0] = h->layout == IO ? h->cols : h->rows;
        outs[i].shape[1] = h->layout == IO ? h->rows : h->cols;
    }
    tensors_save_sharded(dir, outs, n, (size_t)5e9);
    char *path = path_join(dir, "config.json");
    char *text = m->config_json ? xstrdup(m->config_json) : config_write(&m->cfg, dtype);
    if (m->config_json) {                                             /* keep every key; only the dtype is ours to say */
        cJSON *j = cJSON_Parse(text);
        const char *key = cJSON_HasObjectItem(j, "dtype") ? "dtype" : "torch_dtype";
        cJSON_DeleteItemFromObject(j, key);
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
    for (int i = 0; i < m->n_params; i++) free(host[i]);
    free(host);
    free(jobs);
    free(outs);
    hub_tensors_free(hub, n);
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
        assert(field == FIELD_WEIGHT);                                /* the others exist after model_train_begin only */
        float *wide = op.mem_alloc(p->n * sizeof(float));
        op.mat_to_f32(wide, &p->w);
        op.download(host, wide, p->n * sizeof(float));
        op.mem_free(wide);
    }
    return host;
}
/* The Hub tensor of this name, with the family's prefix or without; NULL when there is none. */
static const HubTensor *hub_find(const Model *m, const HubTensor *hub, int n, const char *name) {
    const char *prefix = m->cfg.family->prefix;
    size_t n_prefix = strlen(prefix);
    for (int i = 0; i < n; i++) {
        bool with_prefix = !strncmp(hub[i].name, prefix, n_prefix);
        if (!strcmp(hub[i].name, name) || (with_prefix && !strcmp(hub[i].name + n_prefix, name))) return &hub[i];
    }
    return NULL;
}
float *model_hub_read(const Model *m, const char *name, Field field, size_t *n) {
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor *h = hub_find(m, hub, n_hub, name);
    float *out = NULL;
    if (h) {
        SaveJob job = {.hub = h, .dtype = DT_F32};
        float *part[4];
        for (int j = 0; j < h->n_parts; j++) job.host[j] = part[j] = param_download(h->part[j], field);
        *n = h->rows * h->cols;
        out = xmalloc(size_mul(*n, sizeof(float)));
        save_fill(&job, 0, *n, out);
        for (int j = 0; j < h->n_parts; j++) free(part[j]);
    }
    hub_tensors_free(hub, n_hub);
    return out;
}
void model_hub_write(Model *m, const char *name, Field field, const float *values) {
    int n_hub;
    HubTensor *hub = hub_tensors(m, &n_hub);
    const HubTensor *h = hub_find(m, hub, n_hub, name);
    if (!h) die("the model has no tensor %s", name);
    size_t row0 = 0;
    for (int j = 0; j < h->n_parts; row0 += h->part[j]->rows, j++) {
        Param *p = h->part[j];
        float *dst = param_field(p, field), *part = xmalloc(size_mul(p->n, sizeof(float)));
        assert(dst);                                                  /* a model that trains: weights in place are read-only */
        hub_extract(h, values, row0, p, part);
        op.upload(dst, part, p->n * sizeof(float));
        if (field == FIELD_WEIGHT && p->w.data != (void *)p->master) op.mat_from_f32(&p->w, p->master);
        free(part);
    }
    hub_tensors_free(hub, n_hub);
}

void model_train_begin(Model *m) {
    size_t bytes = size_mul(m->n_weights, sizeof(float));
    m->grad = op.mem_alloc(bytes);
    m->m = op.mem_alloc(bytes);
    m->v = op.mem_alloc(bytes);
    arena_share(m, m->grad, offsetof(Param, grad));
    arena_share(m, m->m, offsetof(Param, m));
    arena_share(m, m->v, offsetof(Param, v));
}
void model_free(Model *m) {
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        const char *data = p->w.data;
        bool mapped = false;                                          /* the file's pages are not ours to free */
        for (int f = 0; m->files && f < m->files->n_files; f++)
            mapped |= data >= (const char *)m->files->files[f].data &&
                      data < (const char *)m->files->files[f].data + m->files->files[f].bytes;
        if (p->w.data && p->w.data != (void *)p->master && !mapped) op.mem_free(p->w.data);
    }
    op.mem_free(m->master);
    op.mem_free(m->grad);
    op.mem_free(m->m);
    op.mem_free(m->v);
    op.mem_free(m->rope_table);
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

/* [model.rope] cos and sin of position * frequency, frequencies base^(-2i/rope_dims), scaled as the config says; in
 * double, rounded once. Llama-3 (Llama 3.1's model code): long waves are slowed by factor, short ones kept, between them a blend. */
static void rope_prepare(Model *m, size_t rows) {
    const Config *c = &m->cfg;
    if (c->pos != POS_ROPE || (size_t)m->rope_rows >= rows) return;
    size_t half = (size_t)c->rope_dims / 2;
    float *host = xmalloc(size_mul(rows * 2, half * sizeof(float)));
    for (size_t i = 0; i < half; i++) {
        double freq = pow((double)c->rope_base, -2.0 * (double)i / c->rope_dims);
        if (c->rope_scaling == ROPE_LINEAR) freq /= (double)c->rope_factor;
        if (c->rope_scaling == ROPE_LLAMA3) {
            double wave = 2 * M_PI / freq, orig = c->rope_original_pos, low = (double)c->rope_low_freq, high = (double)c->rope_high_freq;
            double s = (orig / wave - low) / (high - low);
            if (wave > orig / low) freq /= (double)c->rope_factor;
            else if (wave >= orig / high) freq *= (1 - s) / (double)c->rope_factor + s;
        }
        freq = (double)(float)freq;                                   /* the official code holds frequencies in float */
        for (size_t p = 0; p < rows; p++) {
            double angle = (double)(float)((double)p * freq);
            host[(p * half + i) * 2] = (float)cos(angle);
            host[(p * half + i) * 2 + 1] = (float)sin(angle);
        }
    }
    op.mem_free(m->rope_table);
    m->rope_table = op.mem_alloc(rows * half * 2 * sizeof(float));
    op.upload(m->rope_table, host, rows * half * 2 * sizeof(float));
    m->rope_rows = (int)rows;
    free(host);
}

/* ================================================================================================================= *
 * [model.acts] All activations in one block of memory, laid out once: a first pass with no block counts the bytes.    */
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
        if (own || !a->train) y->k = carve_act(v, kv), y->v = carve_act(v, kv);
    }
    a->out = carve_act(v, N * C);
    a->final = carve_act(v, N * C);
    a->chunk = logits_chunk(c, N);
    a->logits = carve_act(v, a->chunk * (size_t)c->V);
    a->tokens = carve(v, N, 4);
    a->position = carve(v, N, 4);
    a->start = carve(v, N, 4);
    a->pos = carve(v, a->B, 4);
    a->len = carve(v, a->B, 4);
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
    a->order = carve(v, N, 4);
    a->pos_order = carve(v, N, 4);
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
Acts *acts_new(Model *m, size_t B, size_t T, size_t S, bool train, bool recompute) {
    assert(S >= T && (!train || S == T));
    Acts *a = xcalloc(1, sizeof *a);
    *a = (Acts){.B = B, .T = T, .S = S, .train = train, .recompute = train && recompute};
    a->layer = xcalloc((size_t)m->cfg.L, sizeof *a->layer);
    a->bytes = acts_bytes(&m->cfg, B, T, S, train, recompute);
    a->arena = op.mem_alloc(a->bytes);
    Carver v = {a->arena, 0};
    acts_layout(&v, &m->cfg, a);
    rope_prepare(m, S);
    return a;
}
void acts_free(Acts *a) {
    op.mem_free(a->arena);
    free(a->layer);
    free(a);
}

/* ================================================================================================================= *
 * [model.layer] One block, forward. Each helper is one line of the picture in the head.                               */
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
typedef struct { size_t B, T, N; bool direct; Attn attn; Rope rope_q, rope_k, place_v; } Call;
static Call call_of(const Model *m, const Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    Call k = {.B = b->B, .T = b->T, .N = b->B * b->T};
    k.direct = b->T == a->S && !b->pos;                               /* k and v are born in their cache slots */
    k.attn = (Attn){.B = b->B, .T = b->T, .S = a->S, .H = c->H, .K = c->K, .D = c->D, .scale = 1 / sqrtf((float)c->D),
                    .causal = c->mask != MASK_BIDIRECTIONAL, .window = c->window, .pos = b->pos ? a->pos : NULL,
                    .start = b->start ? a->start : NULL, .len = b->len ? a->len : NULL};
    size_t KD = (size_t)c->K * (size_t)c->D;
    Rope r = {.B = b->B, .T = b->T, .D = c->D, .rot = c->pos == POS_ROPE ? c->rope_dims : 0,
              .interleaved = c->rope_interleaved, .table = m->rope_table, .position = a->position};
    k.rope_q = r;
    k.rope_q.heads = c->H;
    k.rope_q.y_row = b->T * (size_t)c->H * (size_t)c->D;
    k.rope_k = r;
    k.rope_k.heads = c->K;
    k.rope_k.y_row = a->S * KD;
    k.rope_k.slot = b->pos ? a->pos : NULL;
    k.place_v = k.rope_k;
    k.place_v.rot = 0;
    return k;
}
static uint64_t drop_site(const Acts *a, int layer, int site) {       /* one seed per step, layer and place */
    return rng_mix(a->drop_seed, (uint64_t)(layer + 1) * 4 + (uint64_t)site);
}
/* y = residual + dropout(x @ w^T + bias): the way back into the stream. */
static void project(Acts *a, Linear l, const act *x, const act *residual, size_t N, int layer, int site) {
    if (a->dropout <= 0) { op.matmul(&l, 1, x, residual, N); return; }
    act *y = l.y;
    l.y = a->dn;
    op.matmul(&l, 1, x, NULL, N);
    op.dropout(a->dn, a->dn, N * l.w.rows, a->dropout, drop_site(a, layer, site));
    op.add(y, residual, 1, a->dn, N * l.w.rows);
}

/* with_output false: all but the last product, for the backward of a layer that kept only its input. */
static void layer_forward(Model *m, Acts *a, int l, const Call *k, bool with_output) {
    const Config *c = &m->cfg;
    LayerActs *y = &a->layer[l];
    size_t N = k->N;
    act *next = l + 1 < c->L ? a->layer[l + 1].x : a->out;

    norm(m, l, R_NORM1_W, R_NORM1_B, y->n1, y->mean1, y->rstd1, y->x, N);
    act *k_new = k->direct ? y->k : a->dk, *v_new = k->direct ? y->v : a->dv;
    Linear qkv[3] = {linear(m, l, R_Q, R_Q_B, c->qk_norm ? y->q_raw : y->q, NULL),
                     linear(m, l, R_K, R_K_B, c->qk_norm ? y->k_raw : k_new, NULL),
                     linear(m, l, R_V, R_V_B, v_new, NULL)};
    op.matmul(qkv, 3, y->n1, NULL, N);
    if (c->qk_norm) {
        op.rmsnorm(y->q, y->q_rstd, y->q_raw, vector(m, l, R_QNORM), N * (size_t)c->H, (size_t)c->D, c->norm_eps);
        op.rmsnorm(k_new, y->k_rstd, y->k_raw, vector(m, l, R_KNORM), N * (size_t)c->K, (size_t)c->D, c->norm_eps);
    }
    if (c->pos == POS_ROPE) op.rope(y->q, y->q, &k->rope_q);
    if (c->pos == POS_ROPE || !k->direct) op.rope(y->k, k_new, &k->rope_k);
    if (!k->direct) op.rope(y->v, v_new, &k->place_v);
    op.attention(y->att, y->lse, y->q, y->k, y->v, &k->attn);
    project(a, linear(m, l, R_O, R_O_B, y->xm, NULL), y->att, y->x, N, l, 1);

    norm(m, l, R_NORM2_W, R_NORM2_B, y->n2, y->mean2, y->rstd2, y->xm, N);
    size_t NF = N * (size_t)c->F;
    if (c->mlp == MLP_SWIGLU) {
        Linear gate_up[2] = {linear(m, l, R_GATE, R_GATE_B, y->gate, NULL), linear(m, l, R_UP, R_UP_B, y->up, NULL)};
        op.matmul(gate_up, 2, y->n2, NULL, N);
        op.swiglu(y->h, y->gate, y->up, NF);
    } else {
        Linear up = linear(m, l, R_UP, R_UP_B, y->up, NULL);
        op.matmul(&up, 1, y->n2, NULL, N);
        op.gelu(y->h, y->up, NF, c->mlp == MLP_GELU_ERF ? GELU_ERF : GELU_TANH);
    }
    if (with_output) project(a, linear(m, l, R_DOWN, R_DOWN_B, next, NULL), y->h, y->xm, N, l, 2);
}

/* The same block backward: a->dx comes in as d(output) and leaves as d(x). */
static void layer_backward(Model *m, Acts *a, int l, const Call *k) {
    const Config *c = &m->cfg;
    LayerActs *y = &a->layer[l];
    size_t N = k->N, C = (size_t)c->C, NF = N * (size_t)c->F;
    if (a->recompute) layer_forward(m, a, l, k, false);

    const act *dy = a->dx;                                            /* MLP */
    if (a->dropout > 0) op.dropout(a->dn, a->dx, N * C, a->dropout, drop_site(a, l, 2)), dy = a->dn;
    Linear down = linear(m, l, R_DOWN, R_DOWN_B, NULL, dy);
    op.matmul_dx(a->dh, &down, 1, N, false);
    op.matmul_dw(&down, 1, y->h, N);
    Linear gate_up[2] = {linear(m, l, R_UP, R_UP_B, NULL, a->dh)};
    int n_up = 1;
    if (c->mlp == MLP_SWIGLU) {
        op.swiglu_bwd(a->dgate, a->dh, a->dh, y->gate, y->up, NF);
        gate_up[n_up++] = linear(m, l, R_GATE, R_GATE_B, NULL, a->dgate);
    } else op.gelu_bwd(a->dh, a->dh, y->up, NF, c->mlp == MLP_GELU_ERF ? GELU_ERF : GELU_TANH);
    op.matmul_dx(a->dn, gate_up, n_up, N, false);
    op.matmul_dw(gate_up, n_up, y->n2, N);
    norm_bwd(m, l, R_NORM2_W, R_NORM2_B, a->dx, a->dn, y->xm, y->mean2, y->rstd2, N, true);

    dy = a->dx;                                                       /* attention */
    if (a->dropout > 0) op.dropout(a->dn, a->dx, N * C, a->dropout, drop_site(a, l, 1)), dy = a->dn;
    Linear o = linear(m, l, R_O, R_O_B, NULL, dy);
    op.matmul_dx(a->dh, &o, 1, N, false);
    op.matmul_dw(&o, 1, y->att, N);
    op.attention_bwd(a->dq, a->dk, a->dv, a->delta, a->dh, y->att, y->lse, y->q, y->k, y->v, &k->attn);
    if (c->pos == POS_ROPE) {
        Rope back_q = k->rope_q, back_k = k->rope_k;
        back_q.inverse = back_k.inverse = true;
        op.rope(a->dq, a->dq, &back_q);
        op.rope(a->dk, a->dk, &back_k);
    }
    if (c->qk_norm) {
        op.rmsnorm_bwd(a->dq, grad_of(m, l, R_QNORM), a->dq, y->q_raw, vector(m, l, R_QNORM), y->q_rstd,
                       N * (size_t)c->H, (size_t)c->D, false);
        op.rmsnorm_bwd(a->dk, grad_of(m, l, R_KNORM), a->dk, y->k_raw, vector(m, l, R_KNORM), y->k_rstd,
                       N * (size_t)c->K, (size_t)c->D, false);
    }
    Linear qkv[3] = {linear(m, l, R_Q, R_Q_B, NULL, a->dq), linear(m, l, R_K, R_K_B, NULL, a->dk),
                     linear(m, l, R_V, R_V_B, NULL, a->dv)};
    op.matmul_dx(a->dn, qkv, 3, N, false);
    op.matmul_dw(qkv, 3, y->n1, N);
    norm_bwd(m, l, R_NORM1_W, R_NORM1_B, a->dx, a->dn, y->x, y->mean1, y->rstd1, N, true);
}

/* ================================================================================================================= *
 * [model.forward] Tokens to the final norm's output                                                                   */
/* Token ids become kernels' array indices: the one place where they are checked. */
static void check_ids(const Model *m, const Acts *a, const Batch *b) {
    size_t N = b->B * b->T;
    if (b->B > a->B || b->T > a->T) die("a batch of %zu x %zu tokens was given buffers for %zu x %zu", b->B, b->T, a->B, a->T);
    for (size_t i = 0; i < N; i++)
        if (b->tokens[i] < 0 || b->tokens[i] >= m->cfg.V)
            die("token id %d is outside the model's vocabulary of %d", b->tokens[i], m->cfg.V);
    for (size_t i = 0; b->targets && i < N; i++)
        if (b->targets[i] >= m->cfg.V) die("target id %d is outside the model's vocabulary of %d", b->targets[i], m->cfg.V);
    for (size_t i = 0; b->pos && i < b->B; i++)
        if (b->pos[i] < 0 || (size_t)b->pos[i] + b->T > a->S)
            die("%d + %zu tokens do not fit the context of %zu", b->pos[i], b->T, a->S);
}
void forward(Model *m, Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T;
    check_ids(m, a, b);
    op.upload(a->tokens, b->tokens, N * 4);
    int rows = c->pos == POS_LEARNED ? c->max_pos : m->rope_rows;
    int32_t *position = xmalloc(N * 4);
    for (size_t i = 0; i < N; i++) {
        position[i] = b->position ? b->position[i] : (int32_t)(i % b->T) + (b->pos ? b->pos[i / b->T] : 0);
        if (position[i] < 0 || position[i] >= rows)
            die("position %d is past the %d that this model knows", position[i], rows);
    }
    op.upload(a->position, position, N * 4);
    free(position);
    if (b->pos) op.upload(a->pos, b->pos, b->B * 4);
    if (b->start) op.upload(a->start, b->start, N * 4);
    if (b->len) op.upload(a->len, b->len, b->B * 4);

    act *x = a->layer[0].x;
    op.embed(x, a->tokens, &param(m, -1, R_WTE)->w, N, false);
    if (c->pos == POS_LEARNED) op.embed(x, a->position, &param(m, -1, R_WPE)->w, N, true);
    if (a->dropout > 0) op.dropout(x, x, N * (size_t)c->C, a->dropout, drop_site(a, -1, 0));
    Call k = call_of(m, a, b);
    for (int l = 0; l < c->L; l++) layer_forward(m, a, l, &k, true);
    norm(m, -1, R_FINAL_W, R_FINAL_B, a->final, a->mean, a->rstd, a->out, N);
}

act *model_logits(Model *m, Acts *a, size_t first, size_t n) {
    assert(n <= a->chunk);
    Linear head = linear(m, -1, R_HEAD, R_COUNT, a->logits, NULL);
    op.matmul(&head, 1, act_at(&op, a->final, first * (size_t)m->cfg.C), NULL, n);
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
 * [model.loss] Classifier, loss, and the whole backward                                                               */
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
static void backward(Model *m, Acts *a, const Batch *b) {
    const Config *c = &m->cfg;
    size_t N = b->B * b->T, C = (size_t)c->C;
    Call k = call_of(m, a, b);
    norm_bwd(m, -1, R_FINAL_W, R_FINAL_B, a->dx, a->dn, a->out, a->mean, a->rstd, N, false);
    for (int l = c->L - 1; l >= 0; l--) layer_backward(m, a, l, &k);
    if (a->dropout > 0) op.dropout(a->dx, a->dx, N * C, a->dropout, drop_site(a, -1, 0));
    if (grad_of(m, -1, R_WTE)) {
        upload_order(a->order, b->tokens, N, (size_t)c->V);
        op.embed_bwd(grad_of(m, -1, R_WTE), a->tokens, a->order, a->dx, N, C);
    }
    if (grad_of(m, -1, R_WPE)) {
        int32_t *position = xmalloc(N * 4);
        op.download(position, a->position, N * 4);
        upload_order(a->pos_order, position, N, (size_t)c->max_pos);
        free(position);
        op.embed_bwd(grad_of(m, -1, R_WPE), a->position, a->pos_order, a->dx, N, C);
    }
}
double model_loss(Model *m, Acts *a, const Batch *b, float scale) {
    size_t N = b->B * b->T, C = (size_t)m->cfg.C, V = (size_t)m->cfg.V;
    assert(b->targets && (scale == 0 || a->train));
    assert(scale == 0 || (b->T == a->S && !b->pos));                  /* backward takes the whole cache to be this batch */
    op.upload(a->targets, b->targets, N * 4);
    for (size_t first = 0; first < N; first += a->chunk) {
        size_t n = N - first < a->chunk ? N - first : a->chunk;
        act *dlogits = model_logits(m, a, first, n);                  /* cross_entropy turns logits into their gradient */
        op.cross_entropy(a->loss + first, dlogits, a->targets + first, n, V, scale);
        if (scale == 0) continue;
        Linear head = linear(m, -1, R_HEAD, R_COUNT, NULL, dlogits);
        op.matmul_dx(act_at(&op, a->dn, first * C), &head, 1, n, false);
        op.matmul_dw(&head, 1, act_at(&op, a->final, first * C), n);
    }
    if (scale != 0) backward(m, a, b);
    float *loss = xmalloc(N * sizeof(float));
    op.download(loss, a->loss, N * sizeof(float));
    double sum = 0;
    a->n_target = 0;
    for (size_t i = 0; i < N; i++)
        if (b->targets[i] >= 0) sum += (double)loss[i], a->n_target++;
    free(loss);
    return sum;
}

/* ================================================================================================================= *
 * [model.step] The optimiser                                                                                          */
double model_grad_norm(Model *m) {
    static double *sum;                                               /* one number on the device */
    if (!sum) sum = op.mem_alloc(sizeof *sum);
    op.sum_squares(sum, m->grad, m->n_weights);
    double host;
    op.download(&host, sum, sizeof host);
    return sqrt(host);
}
void model_adamw(Model *m, const OptimOpts *h, int64_t t, double grad_norm) {
    AdamW step = {.lr = (float)h->lr, .beta1 = (float)h->beta1, .beta2 = (float)h->beta2, .eps = (float)h->eps,
                  .bias1 = (float)(1 - pow((double)(float)h->beta1, (double)t)),
                  .bias2 = (float)(1 - pow((double)(float)h->beta2, (double)t)),     /* of the very betas that the op uses */
                  .grad_scale = h->clip > 0 && grad_norm > h->clip ? (float)(h->clip / grad_norm) : 1.0f};
    for (int i = 0; i < m->n_params; i++) {
        Param *p = &m->params[i];
        if (!p->grad) continue;
        bool matrix = p->kind == KIND_MATRIX || p->kind == KIND_EMBED;
        step.weight_decay = matrix ? (float)h->weight_decay : 0;
        Mat none = {DT_F32, 0, 0, NULL};
        op.adamw(p->master, p->w.data == (void *)p->master ? &none : &p->w, p->grad, p->m, p->v, p->n, &step);
    }
}
