#!/usr/bin/env python3
"""make_fixtures.py - writes tests/fixtures: tiny random models with the outputs of the official implementation.

    python tests/make_fixtures.py [--out tests/fixtures] [--only NAME]      needs: pip install torch transformers

The files are committed, so tests need neither Python nor a network; run this again only to add a model. Each folder is
a model directory as the Hub has them plus golden.json and golden.safetensors, in the layout that tests/conformance.c
reads. Together the models hold what may differ between files of one family: both generations of config.json, F32, F16
and BF16, one file and shards, tied and untied heads, names with and without the prefix, buffers that nobody reads,
every rope scaling, heads that share keys, a head size of its own, biases, a sliding window, norms of q and k.

All computing is float32 on one thread, from the stored (rounded) weights. Weights are drawn wide, so that softmaxes are
far from flat and a mistake cannot hide in logits that are all alike. The seed is searched until the greedy continuation
is safe: the best logit leads by MARGIN at every step."""
import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

B, T, LONG, PROMPT, GREEDY, MARGIN = 2, 10, 18, 6, 12, 0.02
LR, BETAS, EPS, DECAY, NOISE = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1e-6
# Gradients and trained weights are kept whole for these: both ends, the middle, what is small. Norms cover the rest.
KEEP = ("wte", "wpe", "embed_tokens", "lm_head", "0.attn.c_attn", "0.self_attn.k_proj", "1.mlp.c_proj",
        "1.mlp.down_proj", "norm", "ln_")

GPT2 = dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=64, n_embd=16, n_layer=2, n_head=2,
            n_positions=24, n_ctx=24, activation_function="gelu_new", layer_norm_epsilon=1e-5, bos_token_id=63,
            eos_token_id=63, attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=64, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=2, intermediate_size=24, max_position_embeddings=64, hidden_act="silu",
             rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)

# name -> config, stored dtype, file layout. A dtype key of the old generation is torch_dtype, of the new one dtype.
MODELS = {
    "gpt2": (GPT2 | dict(torch_dtype="float32"), torch.float32, {}),
    "gpt2_hub": (GPT2 | dict(n_inner=40), torch.float32, dict(prefix="", buffers=True)),    # as openai-community/gpt2
    "gpt2_untied": (GPT2 | dict(tie_word_embeddings=False, dtype="float16"), torch.float16, dict(shards=3)),
    "llama": (LLAMA | dict(torch_dtype="float32", rope_theta=10000.0, rope_scaling=None), torch.float32, {}),
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
}


def write_model(path, config, dtype, seed, prefix=None, buffers=False, shards=1):
    """config.json and the weights: random, wide, rounded to dtype, under the file's own names."""
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    (path / "generation_config.json").write_text(json.dumps(ends) + "\n")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    tied = model.config.tie_word_embeddings
    weights = {}
    for name, p in model.named_parameters():
        if p.dim() == 2:
            fan_in = p.shape[0] if "c_" in name else p.shape[1]         # GPT-2's Conv1D stores (inputs, outputs)
            w = torch.randn(p.shape) * (0.6 if "wte" in name or "embed" in name else 1.6 * fan_in**-0.5)
        else:
            w = torch.randn(p.shape) * 0.2 + ("norm" in name or "ln_" in name) * name.endswith("weight")
        weights[name] = w.to(dtype)
    if prefix is not None:
        weights = {name.removeprefix("transformer."): w for name, w in weights.items()}
    if buffers:
        for i in range(config["n_layer"]):
            weights[f"h.{i}.attn.bias"] = torch.ones(1, 1, 24, 24).tril().to(torch.uint8)
            weights[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
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


def load(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.eval()                                                  # no dropout, and gradients all the same


def loss_of(model, ids, labels):
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def greedy(model, prompt):
    ids, margin = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(GREEDY):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def write_goldens(path, config, dtype, seed):
    """Returns the greedy margin; writes the goldens when it is wide enough."""
    torch.manual_seed(seed + 1)
    ids, row = torch.randint(config["vocab_size"], (B, T)), torch.randint(config["vocab_size"], (1, LONG))
    masked = torch.where(torch.rand(B, T) < 0.4, -100, ids)
    model = load(path)
    prompt = ids[0, :PROMPT].tolist()
    continuation, margin = greedy(model, prompt)
    if margin < MARGIN:
        return margin
    stored = {n for f in path.glob("*.safetensors") for n in load_file(f)}
    names = {n: n if n in stored else n.removeprefix("transformer.") for n, _ in model.named_parameters()}

    with torch.no_grad():
        batch = model(ids, output_attentions=True)
        tensors = {"batch.input_ids": ids, "long.input_ids": row, "batch.logits": batch.logits,
                   "long.logits": model(row).logits, "attn0.probs": batch.attentions[0][0]}
        loss_masked = loss_of(model, ids, masked).item()

    keep = [n for n in names if any(part in n for part in KEEP)]
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimiser = torch.optim.AdamW([dict(params=matrices, weight_decay=DECAY), dict(params=vectors, weight_decay=0.0)],
                                  lr=LR, betas=BETAS, eps=EPS)
    losses, noisy, grad_l2 = [], {n: torch.zeros_like(p, dtype=torch.bool) for n, p in first.items()}, {}
    for step in range(3):
        optimiser.zero_grad()
        loss = loss_of(model, ids, ids)
        loss.backward()
        losses.append(loss.item())
        for n, p in model.named_parameters():
            noisy[n] |= (p.grad != 0) & (p.grad.abs() < NOISE)
            if step == 0:
                grad_l2[names[n]] = p.grad.double().norm().item()
                if n in keep:
                    tensors["grad." + names[n]] = p.grad.clone()
        optimiser.step()
    with torch.no_grad():
        after = loss_of(model, ids, ids).item()
    delta, omitted = {}, []
    for n, p in model.named_parameters():
        way = (p.detach() - first[n]).double().norm().item()
        if noisy[n].sum().item() * (3 * LR)**2 > 1e-4 * way**2:          # noise would be a visible part of it
            omitted.append(names[n])
        else:
            delta[names[n]] = way
        if n in keep and names[n] not in omitted:
            tensors["step3." + names[n]] = p.detach().clone()

    golden = {
        "format": 1, "name": path.name, "class": config["architectures"][0], "compute_dtype": "float32",
        "stored_dtype": {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype],
        "tied_embeddings": model.config.tie_word_embeddings,
        "batch": {"input_ids": ids.tolist(), "masked_labels": masked.tolist()}, "long": {"input_ids": row.tolist()},
        "loss": losses[0], "loss_masked": loss_masked, "grad_l2": grad_l2,
        "adamw": {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY,
                  "decayed": "tensors with exactly 2 dimensions", "clip": None,
                  "losses_before_steps_1_2_3": losses, "loss_after_step_3": after, "step3_delta_l2": delta,
                  "step3_delta_l2_omitted_ill_conditioned": omitted},
        "greedy": {"prompt_ids": prompt, "ids": continuation, "min_margin": margin},
        "unstable_elements": {"step3." + names[n]: noisy[n].flatten().nonzero().flatten().tolist()
                              for n in keep if names[n] not in omitted and noisy[n].any()},
    }
    (path / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    save_file({n: t.contiguous() for n, t in tensors.items()}, path / "golden.safetensors")
    return margin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--only", choices=MODELS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    total = 0
    for number, (name, (config, dtype, layout)) in enumerate(MODELS.items()):
        path = args.out / name
        if not args.only or name == args.only:
            for seed in range(1000 * number, 1000 * number + 100):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                write_model(path, config, dtype, seed, **layout)
                if (margin := write_goldens(path, config, dtype, seed)) >= MARGIN:
                    break
            else:
                raise SystemExit(f"{name}: no seed gives a greedy continuation with margin {MARGIN}")
        for file in path.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in path.iterdir())
        total += size
        print(f"{name:14} {size:7} bytes")
        assert size < 100_000, "a fixture must stay under 100 KB"
    print(f"{'total':14} {total:7} bytes")
    assert total < 600_000


if __name__ == "__main__":
    main()
