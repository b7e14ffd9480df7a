"""models.py - the shapes that are measured, and directories of such models with random weights.

Speed does not depend on what weights hold, so random ones do; zeros would not, for a processor draws less power on them
and clocks higher. Plain Python: a block of random bytes is repeated, its high bytes chosen so that magnitudes lie
between 2^-7 and 2^-5.
"""
import json
import os
import random
import struct
import sys
import time

GPT2 = dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=50257, n_embd=768, n_layer=12, n_head=12,
            n_positions=1024, activation_function="gelu_new", layer_norm_epsilon=1e-5, attn_pdrop=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0, bos_token_id=50256, eos_token_id=50256)
GPT2_350M = GPT2 | dict(n_embd=1024, n_layer=24, n_head=16)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=6, max_position_embeddings=1024,
             hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, bos_token_id=1,
             eos_token_id=2)
LLAMA_1M = LLAMA | dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=336,
                        vocab_size=2048)
LLAMA_6M = LLAMA | dict(hidden_size=256, num_attention_heads=8, intermediate_size=688, vocab_size=4096)
LLAMA_15M = LLAMA | dict(hidden_size=288, num_attention_heads=6, intermediate_size=768, vocab_size=32000)
LLAMA_1B = LLAMA | dict(hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
                        intermediate_size=5632, vocab_size=32000, max_position_embeddings=2048,
                        tie_word_embeddings=False)
BERT = dict(model_type="bert", vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
            intermediate_size=3072, max_position_embeddings=512, type_vocab_size=2, hidden_act="gelu",
            layer_norm_eps=1e-12, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=0.02)
CHATGLM3 = dict(
    _name_or_path="THUDM/chatglm3-6b", model_type="chatglm", architectures=["ChatGLMModel"], add_bias_linear=False,
    add_qkv_bias=True, apply_query_key_layer_scaling=True, apply_residual_connection_post_layernorm=False,
    attention_dropout=0.0, attention_softmax_in_fp32=True, bias_dropout_fusion=True, ffn_hidden_size=13696,
    fp32_residual_connection=False, hidden_dropout=0.0, hidden_size=4096, kv_channels=128, layernorm_epsilon=1e-05,
    multi_query_attention=True, multi_query_group_num=2, num_attention_heads=32, num_layers=28, original_rope=True,
    padded_vocab_size=65024, post_layer_norm=True, rmsnorm=True, seq_length=8192, use_cache=True,
    torch_dtype="float16", tie_word_embeddings=False, eos_token_id=2, pad_token_id=0)


def llama_tensors(c):
    """(name, GGUF's name, shape), in the Hub's names and order."""
    C, F, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = C // c["num_attention_heads"] * c.get("num_key_value_heads", c["num_attention_heads"])
    yield "model.embed_tokens.weight", "token_embd.weight", (V, C)
    for i in range(c["num_hidden_layers"]):
        hub, gguf = f"model.layers.{i}.", f"blk.{i}."
        yield hub + "input_layernorm.weight", gguf + "attn_norm.weight", (C,)
        yield hub + "self_attn.q_proj.weight", gguf + "attn_q.weight", (C, C)
        yield hub + "self_attn.k_proj.weight", gguf + "attn_k.weight", (kv, C)
        yield hub + "self_attn.v_proj.weight", gguf + "attn_v.weight", (kv, C)
        yield hub + "self_attn.o_proj.weight", gguf + "attn_output.weight", (C, C)
        yield hub + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", (C,)
        yield hub + "mlp.gate_proj.weight", gguf + "ffn_gate.weight", (F, C)
        yield hub + "mlp.up_proj.weight", gguf + "ffn_up.weight", (F, C)
        yield hub + "mlp.down_proj.weight", gguf + "ffn_down.weight", (C, F)
    yield "model.norm.weight", "output_norm.weight", (C,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", "output.weight", (V, C)


def chatglm_tensors(c):
    C, F, V = c["hidden_size"], c["ffn_hidden_size"], c["padded_vocab_size"]
    q, kv = c["num_attention_heads"] * c["kv_channels"], c["multi_query_group_num"] * c["kv_channels"]
    yield "transformer.embedding.word_embeddings.weight", None, (V, C)
    yield "transformer.rotary_pos_emb.inv_freq", None, (c["kv_channels"] // 4,)
    for i in range(c["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        yield layer + "input_layernorm.weight", None, (C,)
        yield layer + "self_attention.query_key_value.weight", None, (q + 2 * kv, C)
        yield layer + "self_attention.query_key_value.bias", None, (q + 2 * kv,)
        yield layer + "self_attention.dense.weight", None, (C, q)
        yield layer + "post_attention_layernorm.weight", None, (C,)
        yield layer + "mlp.dense_h_to_4h.weight", None, (2 * F, C)
        yield layer + "mlp.dense_4h_to_h.weight", None, (C, F)
    yield "transformer.encoder.final_layernorm.weight", None, (C,)
    yield "transformer.output_layer.weight", None, (V, C)


SIZE = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}
GROUP = 128                                                              # of int4 weights


def int4(tensors, dtype):
    """(name, dtype, shape): the blocks' matrices as compressed-tensors packs them, the others in dtype."""
    for name, shape in tensors:
        if len(shape) == 1 or ".layers." not in name:
            yield name, dtype, shape
            continue
        O, C = shape
        yield name + "_packed", "I32", (O, C // 8)
        yield name + "_scale", dtype, (O, C // GROUP)
        yield name + "_shape", "I64", (O, C)


INT4_CONFIG = dict(quant_method="compressed-tensors", format="pack-quantized", quantization_status="compressed", ignore=[],
                   config_groups=dict(group_0=dict(
                       targets=["Linear"], input_activations=None, output_activations=None,
                       weights=dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP))))
ONE = {"F32": struct.pack("<f", 1), "F16": struct.pack("<e", 1), "BF16": b"\x80\x3f"}
BLOCK = 1 << 23                                                          # values


def random_block(dtype):
    draw, size = random.Random(1), SIZE[dtype]
    if dtype == "I32":
        return memoryview(draw.randbytes(BLOCK * size))
    keep, exponent = (0x87, 0x20) if dtype == "F16" else (0x80, 0x3C)    # of the high byte; the next has the last bit
    block = bytearray(draw.randbytes(BLOCK * size))
    block[size - 1::size] = block[size - 1::size].translate(bytes(b & keep | exponent for b in range(256)))
    return memoryview(block)


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def pieces(name, shape, dtype, block):
    """A tensor's bytes, in pieces."""
    n, size = count(shape), SIZE[dtype]
    if name.endswith("weight_shape"):
        yield struct.pack("<2q", *shape)
    elif name.endswith("weight_scale"):
        yield struct.pack("<e" if dtype == "F16" else "<f", 2.0 ** -9)[-size:] * n
    elif "norm" in name:
        yield ONE[dtype] * n
    elif name.endswith("inv_freq"):
        yield struct.pack(f"<{n}e", *(10000.0 ** (-i / n) for i in range(n)))
    else:
        for first in range(0, n, BLOCK):
            yield block[:min(BLOCK, n - first) * size]


def write_model(path, config, dtype, shards=1, bits=16):
    """path as a directory of this config, its weights random in dtype, with bits=4 the blocks' in 4 bits; one that is there
    already is left as it is."""
    text = json.dumps(config | (dict(quantization_config=INT4_CONFIG) if bits == 4 else {}) | dict(torch_dtype={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]), indent=1)
    if (path / "config.json").exists():
        if (path / "config.json").read_text() != text:
            raise SystemExit(f"{path}: holds another model; not touched")
        return
    path.mkdir(parents=True, exist_ok=True)
    todo = [(name, shape) for name, _, shape in (chatglm_tensors if "kv_channels" in config else llama_tensors)(config)]
    todo = list(int4(todo, dtype)) if bits == 4 else [(name, dtype, shape) for name, shape in todo]
    sizes = [16 if kind == "I64" else SIZE[kind] * count(shape) for _, kind, shape in todo]
    total, before, parts = sum(sizes), 0, [[] for _ in range(shards)]
    blocks = {kind: random_block(kind) for kind in {kind for _, kind, _ in todo} - {"I64"}}
    for tensor, size in zip(todo, sizes):                                # in order, cut where a shard is full
        parts[min(shards - 1, before * shards // total)].append(tensor)
        before += size
    parts, weight_map, start = [p for p in parts if p], {}, time.perf_counter()
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{len(parts):05}.safetensors" if len(parts) > 1 else "model.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, kind, shape in part:
            end = at + (16 if kind == "I64" else SIZE[kind] * count(shape))
            header[name] = dict(dtype=kind, shape=[2] if kind == "I64" else shape, data_offsets=[at, end])
            weight_map[name], at = file, end
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        with open(path / file, "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head)
            for name, kind, shape in part:
                f.writelines(pieces(name, shape, kind, blocks.get(kind)))
            f.flush()
            os.fsync(f.fileno())                                         # a dirty page cannot be thrown out of the cache
        print(f"writing {path / file}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if len(parts) > 1:
        (path / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    (path / "config.json").write_text(text)                              # last: it says that the model is complete


def write_gguf(path, config, dtype):
    """The same LLaMA shape in llama.cpp's format, version 3 (its docs/gguf.md), without a vocabulary: rows of C values
    are first dimensions, norms are F32, tensors begin at multiples of 32. llama.cpp wants q and k in an order of their
    own, which random ones have anyway."""
    if path.exists():
        return
    kinds, block = {"F32": 0, "F16": 1, "BF16": 30}, random_block(dtype)

    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def pair(key, value):
        kind, form = {str: (8, None), int: (4, "<I"), float: (6, "<f")}[type(value)]
        return text(key) + struct.pack("<I", kind) + (text(value) if form is None else struct.pack(form, value))
    heads = config["num_attention_heads"]
    facts = {"general.architecture": "llama", "llama.vocab_size": config["vocab_size"],
             "llama.context_length": config["max_position_embeddings"], "llama.embedding_length": config["hidden_size"],
             "llama.block_count": config["num_hidden_layers"], "llama.feed_forward_length": config["intermediate_size"],
             "llama.attention.head_count": heads, "llama.rope.dimension_count": config["hidden_size"] // heads,
             "llama.attention.head_count_kv": config.get("num_key_value_heads", heads),
             "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
             "llama.rope.freq_base": config["rope_theta"], "tokenizer.ggml.model": "no_vocab"}
    todo = [(name, shape, "F32" if "norm" in name else dtype) for _, name, shape in llama_tensors(config)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(todo), len(facts)) + b"".join(pair(k, v) for k, v in facts.items())
    at = 0
    for name, shape, kind in todo:
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kinds[kind], at)
        at += -(-SIZE[kind] * count(shape) // 32) * 32
    partial = path.with_suffix(".part")
    with open(partial, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for name, shape, kind in todo:
            f.writelines(pieces(name, shape, kind, block))
            f.write(b"\0" * (-SIZE[kind] * count(shape) % 32))
    partial.rename(path)
