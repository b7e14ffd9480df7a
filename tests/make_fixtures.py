#!/usr/bin/env python3
"""make_fixtures.py - writes tests/fixtures: tiny random models with the outputs of the official implementation.

    python tests/make_fixtures.py [--out tests/fixtures] [--only NAME]      needs: pip install torch transformers
                                  [--chatglm3-code DIR] [--chatglm1-code DIR]

The files are committed, so tests need neither Python nor a network; run this again only to add a model. Each folder is
a model directory as the Hub has them plus golden.json and golden.safetensors, in the layout that tests/conformance.c
reads. Together the models hold what may differ between files of one family: both generations of config.json, F32, F16
and BF16, one file and shards, tied and untied heads, names with and without the prefix, buffers that nobody reads,
every rope scaling, heads that share keys, a head size of its own, biases, a sliding window (in all layers, or in the
later ones), norms of q and k, adapters; BERT with each of its heads, two texts in a row and padding.

The ChatGLM models are in no package: their DIR holds modeling_chatglm.py and configuration_chatglm.py as released with
the weights of ChatGLM3-6B and of ChatGLM-6B. Without DIR their folders are left as they are.

All computing is float32 on one thread, from the stored (rounded) weights. Weights are drawn wide, so that softmaxes are
far from flat and a mistake cannot hide in logits that are all alike. The seed is searched until the greedy continuation
is safe: the best logit leads by MARGIN at every step."""
import argparse
import importlib
import json
import shutil
import sys
import types
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM,
                          AutoModelForSequenceClassification)

B, T, LONG, PROMPT, GREEDY, MARGIN = 2, 10, 18, 6, 12, 0.02
LR, BETAS, EPS, DECAY, NOISE = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1e-6
# Gradients and trained weights are kept whole for these: both ends, the middle, what is small. Norms cover the rest.
KEEP = ("wte", "wpe", "embed_tokens", "lm_head", "0.attn.c_attn", "0.self_attn.k_proj", "1.mlp.c_proj",
        "1.mlp.down_proj", "norm", "ln_", "word_embeddings", "position_embeddings", "token_type", "LayerNorm",
        "0.attention.self.key.weight", "1.output.dense", "predictions", "pooler", "classifier", "output_layer",
        "0.self_attention.query_key_value", "0.attention.query_key_value", "1.mlp.dense_4h_to_h")
RANK = 2

GPT2 = dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=64, n_embd=16, n_layer=2, n_head=2,
            n_positions=24, n_ctx=24, activation_function="gelu_new", layer_norm_epsilon=1e-5, bos_token_id=63,
            eos_token_id=63, attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=64, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=2, intermediate_size=24, max_position_embeddings=64, hidden_act="silu",
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
BERT = dict(model_type="bert", vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=12, type_vocab_size=2, hidden_act="gelu",
            layer_norm_eps=1e-12, pad_token_id=0, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
            torch_dtype="float32")
CHATGLM3 = dict(_name_or_path="THUDM/chatglm3-6b", model_type="chatglm", architectures=["ChatGLMModel"],
                padded_vocab_size=64, hidden_size=16, ffn_hidden_size=24, kv_channels=8, num_attention_heads=4,
                multi_query_attention=True, multi_query_group_num=2, num_layers=2, seq_length=32,
                layernorm_epsilon=1e-5, rmsnorm=True, post_layer_norm=True, add_qkv_bias=True, add_bias_linear=False,
                apply_query_key_layer_scaling=True, apply_residual_connection_post_layernorm=False,
                attention_dropout=0.0, hidden_dropout=0.0, attention_softmax_in_fp32=True, bias_dropout_fusion=True,
                fp32_residual_connection=False, original_rope=True, use_cache=True, tie_word_embeddings=False,
                bos_token_id=1, eos_token_id=2, pad_token_id=0, torch_dtype="float16")
CHATGLM1 = dict(_name_or_path="THUDM/chatglm-6b", model_type="chatglm", architectures=["ChatGLMModel"], vocab_size=64,
                hidden_size=32, inner_hidden_size=16, num_attention_heads=2, num_layers=2, max_sequence_length=32,
                layernorm_epsilon=1e-5, position_encoding_2d=True, use_cache=True, mask_token_id=60, gmask_token_id=61,
                bos_token_id=62, eos_token_id=63, pad_token_id=3, torch_dtype="float16")
ROW1 = 7                                                                 # BERT: tokens of the padded row

# name -> config, stored dtype, options of write_model and write_goldens. A dtype key of the old generation is
# torch_dtype, of the new one dtype.
MODELS = {
    "gpt2": (GPT2 | dict(torch_dtype="float32"), torch.float32, dict(lora=("c_attn", "attn.c_proj"), rslora=True)),
    "gpt2_hub": (GPT2 | dict(n_inner=40), torch.float32, dict(prefix="", buffers=True)),    # as openai-community/gpt2
    "gpt2_untied": (GPT2 | dict(tie_word_embeddings=False, dtype="float16"), torch.float16, dict(shards=3)),
    "llama": (LLAMA | dict(torch_dtype="float32", rope_theta=10000.0, rope_scaling=None), torch.float32,
              dict(lora=("q_proj", "k_proj", "v_proj", "down_proj"))),
    "llama_new": (LLAMA | dict(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                               dtype="bfloat16", tie_word_embeddings=True,
                               rope_parameters=dict(rope_type="default", rope_theta=5e5)),
                  torch.bfloat16, dict(shards=2)),
    "llama3": (LLAMA | dict(num_attention_heads=4, num_key_value_heads=1, head_dim=8, torch_dtype="bfloat16",
                            rope_theta=500000.0, eos_token_id=[2, 5],
                            rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                              original_max_position_embeddings=16)), torch.bfloat16, {}),
    "llama_linear": (LLAMA | dict(attention_bias=True, mlp_bias=True, torch_dtype="float16", rope_theta=10000.0,
                                  rope_scaling=dict(type="linear", factor=2.0)), torch.float16, {}),
    "mistral": (LLAMA | dict(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=5,
                             num_attention_heads=4, num_key_value_heads=2, torch_dtype="float32", rope_theta=10000.0),
                torch.float32, {}),
    "qwen3": (LLAMA | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], num_key_value_heads=1, head_dim=12,
                           dtype="bfloat16", rope_parameters=dict(rope_type="default", rope_theta=1e4)),
              torch.bfloat16, {}),
    # New models come last: a model's place decides its seed.
    "qwen2": (LLAMA | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], num_attention_heads=4,
                           num_key_value_heads=2, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
                           max_window_layers=1, torch_dtype="bfloat16", rope_theta=100.0), torch.bfloat16, {}),
    "llama_yarn": (LLAMA | dict(head_dim=16, dtype="bfloat16", max_position_embeddings=256,
                                rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, beta_fast=8.0,
                                                     original_max_position_embeddings=64)),
                   torch.bfloat16, dict(keep=())),
    # The frequencies follow the length of the row, with the official code at each step: nothing greedy to compare.
    "llama_dynamic": (LLAMA | dict(max_position_embeddings=12, torch_dtype="bfloat16", rope_theta=10000.0,
                                   rope_scaling=dict(type="dynamic", factor=2.0)),
                      torch.bfloat16, dict(keep=(), no_greedy=True)),
    "glm": (LLAMA | dict(model_type="glm", architectures=["GlmForCausalLM"], num_attention_heads=4,
                         num_key_value_heads=2, head_dim=8, rms_norm_eps=1.5625e-07, partial_rotary_factor=0.5,
                         attention_bias=True, rope_theta=100.0, eos_token_id=[2, 5], pad_token_id=None,
                         torch_dtype="bfloat16"), torch.bfloat16, {}),
    "bert_mlm": (BERT | dict(architectures=["BertForMaskedLM"]), torch.float32, dict(old_bert=True)),
    "bert_cls": (BERT | dict(architectures=["BertForSequenceClassification"],
                             id2label={"0": "negative", "1": "neutral", "2": "positive"},
                             label2id={"negative": 0, "neutral": 1, "positive": 2}), torch.float32,
                 dict(lora=("query", "value", "intermediate.dense"), keep=("classifier", "pooler", "LayerNorm"))),
    "bert_embed": (BERT | dict(architectures=["BertModel"]), torch.float16, dict(prefix="", sentence=True)),
    "chatglm3": (CHATGLM3, torch.float16, dict(shards=2, lora=("query_key_value", "dense_h_to_4h"), code="chatglm3")),
    # Wide heads: only where a frequency is near 0.1 does it show that the released code rounds them to half precision.
    "chatglm1": (CHATGLM1, torch.float16, dict(lora=("query_key_value",), code="chatglm1",
                                               keep=("word_embeddings", "0.attention.query_key_value", "layernorm"))),
}


def file_name(name, options):
    """What the weight file calls the model's parameter."""
    if "prefix" in options:
        name = name.removeprefix("transformer.")
    if options.get("old_bert"):                                          # as released in 2018
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name


def auto_class(config):
    kinds = {"BertForMaskedLM": AutoModelForMaskedLM, "BertModel": AutoModel,
             "BertForSequenceClassification": AutoModelForSequenceClassification}
    return kinds.get(config["architectures"][0], AutoModelForCausalLM)


def chatglm_new(config, code):
    """The released class with float32 parameters that hold nothing yet. transformers' own loader has moved on since, so
    it is used as a plain torch module."""
    name = "released_" + code.name
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(code)]
    released = importlib.import_module(name + ".modeling_chatglm")
    settings = released.ChatGLMConfig(**config | dict(quantization_bit=0))
    settings.torch_dtype, settings.max_length, settings.use_cache = torch.float32, 32, False
    return released.ChatGLMForConditionalGeneration(settings).float().eval()


def write_model(path, config, dtype, seed, options, code):
    """config.json and the weights: random, wide, rounded to dtype, under the file's own names."""
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shards = options.get("shards", 1)
    if config["model_type"] != "bert":
        ends = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
        (path / "generation_config.json").write_text(json.dumps(ends) + "\n")
    torch.manual_seed(seed)
    model = chatglm_new(config, code) if code else auto_class(config).from_config(AutoConfig.from_pretrained(path))
    tied = getattr(model.config, "tie_word_embeddings", False)
    weights = {}
    for name, p in model.named_parameters():
        if p.dim() == 2:
            fan_in = p.shape[0] if "c_" in name else p.shape[1]         # GPT-2's Conv1D stores (inputs, outputs)
            w = torch.randn(p.shape) * (0.6 if "wte" in name or "embed" in name else 1.6 * fan_in**-0.5)
        else:
            w = torch.randn(p.shape) * 0.2 + ("norm" in name.lower() or "ln_" in name) * name.endswith("weight")
        weights[file_name(name, options)] = w.to(dtype)
    if options.get("buffers"):
        for i in range(config["n_layer"]):
            weights[f"h.{i}.attn.bias"] = torch.ones(1, 1, 24, 24).tril().to(torch.uint8)
            weights[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if code:                                                             # the released files hold the frequencies
        weights |= {n: b.detach().to(dtype) for n, b in model.named_buffers()}
    if options.get("old_bert"):                                          # of a second pre-training task
        width = config["hidden_size"]
        for name, rows in ("bert.pooler.dense", width), ("cls.seq_relationship", 2):
            weights |= {name + ".weight": torch.randn(rows, width), name + ".bias": torch.randn(rows)}
    if options.get("sentence"):
        weights = {n: w for n, w in weights.items() if "pooler" not in n}
        write_sentence_files(path, config["hidden_size"])
    assert not (tied and "lm_head.weight" in weights)
    names = sorted(weights)
    if shards == 1:
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": {}}
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = names[len(names) * s // shards:len(names) * (s + 1) // shards]
        save_file({n: weights[n] for n in part}, path / file, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_sentence_files(path, width):
    """What sentence-transformers puts beside the weights."""
    parts = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")
    modules = [{"idx": i, "name": str(i), "path": part, "type": f"sentence_transformers.models.{kind}"}
               for i, (part, kind) in enumerate(parts)]
    (path / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
               "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1) + "\n")


def load(path, config, code):
    """No dropout, and gradients all the same."""
    if code:
        model = chatglm_new(config, code)
        model.load_state_dict({n: w for f in path.glob("*.safetensors") if f.name != "golden.safetensors"
                               for n, w in load_file(f).items()})
        return model
    return auto_class(config).from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def is_prefix_model(config):
    return "inner_hidden_size" in config                                 # ChatGLM-6B: all see what is before bos


def draw_ids(config, rows, length):
    ids = torch.randint(config.get("vocab_size", config.get("padded_vocab_size")), (rows, length))
    if is_prefix_model(config):                                          # a gMASK right before bos; a MASK well before
        ids %= config["mask_token_id"]
        for row, (mask, at, bos) in zip(ids, [("gmask_token_id", length // 2 - 2, length // 2 - 1),
                                              ("mask_token_id", 2, length // 2 + 1)]):
            row[at], row[bos] = config[mask], config["bos_token_id"]
    return ids


def inputs(config, ids):
    """What the model is called with. The prefix model's masks and positions are given: releases differ in the token ids
    that their own functions look for. The last of them computes these same arrays."""
    if not is_prefix_model(config):
        return dict(input_ids=ids)
    place, hidden, positions = torch.arange(ids.shape[1]), [], []
    for row in ids.tolist():
        bos = row.index(config["bos_token_id"])
        mask = row.index(config["gmask_token_id" if config["gmask_token_id"] in row else "mask_token_id"])
        hidden.append((place[None, :] > place[:, None]) & (place[None, :] >= bos))
        positions.append(torch.stack([torch.where(place < bos, place, mask), (place - bos + 1).clamp(min=0)]))
    return dict(input_ids=ids, attention_mask=torch.stack(hidden)[:, None], position_ids=torch.stack(positions))


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)


def loss_of(model, config, ids, labels):
    return cross_entropy(model(**inputs(config, ids)).logits[:, :-1], labels[:, 1:])


def greedy(model, config, prompt):
    ids, margin = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(GREEDY):
            best = model(**inputs(config, torch.tensor([ids]))).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


class Training:
    """Three AdamW steps on one batch. parameters: file's name -> parameter; keep: parts of names of tensors that are
    kept whole. Tensors go to tensors[grad.NAME], where there is grad, and to tensors[step + NAME]."""

    def __init__(self, parameters, loss, keep, tensors, grad, step):
        first = {n: p.detach().clone() for n, p in parameters.items()}
        noisy = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in first.items()}
        kept = [n for n in parameters if any(part in n for part in keep)]
        optimiser = torch.optim.AdamW(
            [dict(params=[p for p in parameters.values() if p.dim() == 2], weight_decay=DECAY),
             dict(params=[p for p in parameters.values() if p.dim() != 2], weight_decay=0.0)],
            lr=LR, betas=BETAS, eps=EPS)
        self.losses, self.grad_l2, self.delta, self.omitted, self.unstable = [], {}, {}, [], {}
        for t in range(3):
            optimiser.zero_grad()
            value = loss()
            value.backward()
            self.losses.append(value.item())
            for n, p in parameters.items():
                noisy[n] |= (p.grad != 0) & (p.grad.abs() < NOISE)
                if t == 0:
                    self.grad_l2[n] = p.grad.double().norm().item()
                    if n in kept and grad:
                        tensors[grad + n] = p.grad.clone()
            optimiser.step()
        with torch.no_grad():
            self.after = loss().item()
        for n, p in parameters.items():
            way = (p.detach() - first[n]).double().norm().item()
            if noisy[n].sum().item() * (3 * LR)**2 > 1e-4 * way**2:      # noise would be a visible part of it
                self.omitted.append(n)
                continue
            self.delta[n] = way
            if n in kept:
                tensors[step + n] = p.detach().clone()
                if noisy[n].any():
                    self.unstable[step + n] = noisy[n].flatten().nonzero().flatten().tolist()

    def settings(self):
        return {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY,
                "decayed": "tensors with exactly 2 dimensions", "clip": None,
                "losses_before_steps_1_2_3": self.losses, "loss_after_step_3": self.after,
                "step3_delta_l2": self.delta, "step3_delta_l2_omitted_ill_conditioned": self.omitted}


def write_adapter(path, model, seed, options):
    """An adapter in PEFT's layout, on the modules whose names end in one of options["lora"]; hooks make the model use
    it. Returns the scale's alpha and {file's name: parameter}."""
    alpha, parameters = 2 * RANK, {}
    scale = alpha / (RANK**0.5 if options.get("rslora") else RANK)
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.requires_grad_(False)
    for name, module in model.named_modules():
        if not any(name.endswith("." + target) for target in options["lora"]):
            continue
        conv = type(module).__name__ == "Conv1D"
        n_in, n_out = module.weight.shape if conv else module.weight.shape[::-1]
        a = torch.nn.Parameter(torch.randn(RANK, n_in, generator=generator) * n_in**-0.5)
        b = torch.nn.Parameter(torch.randn(n_out, RANK, generator=generator) * 0.3)
        module.register_forward_hook(lambda _, x, y, a=a, b=b: y + scale * (x[0] @ a.T) @ b.T)
        parameters |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    (path / "lora").mkdir()
    save_file({n: p.detach().clone() for n, p in parameters.items()}, path / "lora" / "adapter_model.safetensors",
              {"format": "pt"})
    settings = {"peft_type": "LORA", "base_model_name_or_path": "", "task_type": None, "r": RANK, "lora_alpha": alpha,
                "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": conv, "use_rslora": bool(options.get("rslora")),
                "target_modules": list(options["lora"]), "inference_mode": True}
    (path / "lora" / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return alpha, parameters


def check_adapter(path, config, code, seed, options, run, loss, tensors, golden):
    """run(model), loss(model): the batch's logits and loss. Adds the adapter's goldens."""
    model = load(path, config, code)
    alpha, parameters = write_adapter(path, model, seed, options)
    with torch.no_grad():
        tensors["lora.logits"] = run(model)
    t = Training(parameters, lambda: loss(model), [""], tensors, None, "lora.step3.")
    golden["lora"] = {"r": RANK, "alpha": alpha, "modules": list(options["lora"]),
                      "losses_before_steps_1_2_3": t.losses, "loss_after_step_3": t.after}
    golden["unstable_elements"] |= t.unstable


def golden_head(path, config, dtype, model):
    return {"format": 1, "name": path.name, "class": config["architectures"][0], "compute_dtype": "float32",
            "stored_dtype": {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype],
            "tied_embeddings": getattr(model.config, "tie_word_embeddings", False)}


def save_goldens(path, golden, tensors):
    (path / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path / "golden.safetensors")


def write_goldens(path, config, dtype, seed, options, code):
    """Of a decoder. Returns the greedy margin; writes the goldens when it is wide enough."""
    torch.manual_seed(seed + 1)
    ids, row = draw_ids(config, B, T), draw_ids(config, 1, LONG)
    masked = torch.where(torch.rand(B, T) < 0.4, -100, ids)
    model = load(path, config, code)
    prompt = ids[0, :PROMPT].tolist()
    continuation, margin = (None, float("inf")) if options.get("no_greedy") else greedy(model, config, prompt)
    if margin < MARGIN:
        return margin

    def run(model):
        return model(**inputs(config, ids)).logits

    with torch.no_grad():
        tensors = {"batch.input_ids": ids, "long.input_ids": row, "batch.logits": run(model),
                   "long.logits": model(**inputs(config, row)).logits}
        if options.get("code") != "chatglm3":                            # whose code keeps none
            probs = model(**inputs(config, ids), output_attentions=True).attentions[0]
            tensors["attn0.probs"] = probs.reshape(B, -1, T, T)[0]
        loss_masked = loss_of(model, config, ids, masked).item()
    parameters = {file_name(n, options): p for n, p in model.named_parameters()}
    t = Training(parameters, lambda: loss_of(model, config, ids, ids), options.get("keep", KEEP), tensors, "grad.",
                 "step3.")
    golden = golden_head(path, config, dtype, model) | {
        "batch": {"input_ids": ids.tolist(), "masked_labels": masked.tolist()}, "long": {"input_ids": row.tolist()},
        "loss": t.losses[0], "loss_masked": loss_masked, "grad_l2": t.grad_l2, "adamw": t.settings(),
        "greedy": {"prompt_ids": prompt, "ids": continuation, "min_margin": margin},
        "unstable_elements": t.unstable,
    }
    if options.get("no_greedy"):
        del golden["greedy"]
    if "lora" in options:
        check_adapter(path, config, code, seed + 2, options, run, lambda m: loss_of(m, config, ids, ids), tensors,
                      golden)
    save_goldens(path, golden, tensors)
    return margin


def write_encoder_goldens(path, config, dtype, seed, options):
    """BERT: two rows of two texts each, the second row padded on the right."""
    torch.manual_seed(seed + 1)
    place = torch.arange(T)
    mask = torch.stack([place < T, place < ROW1]).long()
    types = torch.stack([place >= T // 2, place >= ROW1 // 2]).long() * mask
    ids = torch.randint(1, config["vocab_size"], (B, T)) * mask
    labels = torch.where((torch.rand(B, T) < 0.4) & (mask > 0), torch.randint(config["vocab_size"], (B, T)), -100)
    batch = dict(input_ids=ids, attention_mask=mask, token_type_ids=types)
    model, kind = load(path, config, None), config["architectures"][0]
    with torch.no_grad():
        out = model(**batch, output_attentions=True, output_hidden_states=True)
        hidden = out.hidden_states[-1]
        tensors = {"batch.last_hidden_state": hidden, "attn0.probs": out.attentions[0][0]}
        if kind == "BertForSequenceClassification":
            tensors["batch.pooler_output"] = model.bert.pooler(hidden)
            labels = torch.tensor([2, 0])
        if kind == "BertModel":
            mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            tensors |= {"batch.mean_pooled": mean,
                        "batch.mean_pooled_normalized": mean / mean.norm(dim=1, keepdim=True),
                        "batch.cls_normalized": hidden[:, 0] / hidden[:, 0].norm(dim=1, keepdim=True)}
    golden = golden_head(path, config, dtype, model) | {
        "batch": {k: v.tolist() for k, v in batch.items()}, "unstable_elements": {}}
    if kind != "BertModel":
        def run(model):
            return model(**batch).logits

        def loss(model):
            return cross_entropy(run(model), labels)

        tensors["batch.logits"] = run(model)
        golden["batch"]["labels"] = labels.tolist()
        parameters = {file_name(n, options): p for n, p in model.named_parameters()}
        t = Training(parameters, lambda: loss(model), options.get("keep", KEEP), tensors, "grad.", "step3.")
        golden |= {"loss": t.losses[0], "grad_l2": t.grad_l2, "adamw": t.settings(), "unstable_elements": t.unstable}
        if "lora" in options:
            check_adapter(path, config, None, seed + 2, options, run, loss, tensors, golden)
    save_goldens(path, golden, tensors)
    return float("inf")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--chatglm3-code", type=Path, metavar="DIR", help="the code released with ChatGLM3-6B")
    parser.add_argument("--chatglm1-code", type=Path, metavar="DIR", help="the code released with ChatGLM-6B")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    total = 0
    for number, (name, (config, dtype, options)) in enumerate(MODELS.items()):
        path, code = args.out / name, None
        make = not args.only or name == args.only
        if "code" in options:
            code = getattr(args, options["code"] + "_code")
            if make and not code:
                print(f"{name:14} left as it is: needs --{options['code']}-code")
                make = False
        for seed in range(1000 * number, 1000 * number + 100) if make else ():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            write_model(path, config, dtype, seed, options, code)
            if config["model_type"] == "bert":
                margin = write_encoder_goldens(path, config, dtype, seed, options)
            else:
                margin = write_goldens(path, config, dtype, seed, options, code)
            if margin >= MARGIN:
                break
        else:
            if make:
                raise SystemExit(f"{name}: no seed gives a greedy continuation with margin {MARGIN}")
        files = [f for f in path.rglob("*") if f.is_file()]
        for file in files:
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in files)
        total += size
        print(f"{name:14} {size:7} bytes")
        assert size < 100_000, "a fixture must stay under 100 KB"
    print(f"{'total':14} {total:7} bytes")
    assert total < 1_150_000


if __name__ == "__main__":
    main()
