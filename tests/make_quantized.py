#!/usr/bin/env python3
"""make_quantized.py - writes tests/quantized: tiny quantised models with the logits that the official code gives them.

    python tests/make_quantized.py [--out tests/quantized]      needs: pip install torch transformers compressed-tensors

The weights are those of tests/fixtures/llama and tests/fixtures/gpt2, rounded here and stored as compressed-tensors,
GPTQ or AWQ lay them out. Where transformers loads the directory on its own (compressed-tensors, Linear modules, no zero
points) the logits are of that; else of the same model with the weights that the stored numbers stand for. Each folder is
a model directory plus logits.safetensors: "ids" and "logits". The files are committed: tests need no Python."""
import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parent / "fixtures"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# name -> model, bits, group (0: a row), and what else is special
KINDS = {
    "int4": dict(bits=4, group=8, official=True),
    "int4_channel": dict(bits=4, official=True),
    "int4_asymmetric": dict(bits=4, group=8, asymmetric=True),
    "int4_order": dict(bits=4, group=8, order="weight_g_idx"),
    "int8": dict(bits=8, official=True, packed=True),
    "int8_dynamic": dict(bits=8, official=True, dynamic=True),
    "int8_static": dict(bits=8, official=True, dynamic=False),
    "int8_asymmetric": dict(bits=8, group=8, asymmetric=True),
    "gptq": dict(bits=4, group=8, asymmetric=True, method="gptq"),
    "gptq_order": dict(bits=4, group=8, asymmetric=True, order="g_idx", method="gptq", version="gptq_v2"),
    "gptq_int8": dict(bits=8, group=8, method="gptq"),
    "awq": dict(bits=4, group=8, asymmetric=True, method="awq"),
    "gpt2_int4": dict(model="gpt2", bits=4, group=8),
    "gpt2_int8": dict(model="gpt2", bits=8, embedding=True),
}


def pack(values, bits, dim):
    """Unsigned values as int32 words along dim, the first in the lowest bits; short of a word: zeros."""
    values = values.movedim(dim, -1).to(torch.int64)
    per = 32 // bits
    values = torch.nn.functional.pad(values, (0, -values.shape[-1] % per)).reshape(*values.shape[:-1], -1, per)
    words = (values << (torch.arange(per) * bits)).sum(-1)
    return words.to(torch.uint32).view(torch.int32).movedim(-1, dim).contiguous()


def quantise(w, bits, group, asymmetric, order):
    """w (O,C) -> q and zero (signed), scale, and what they stand for."""
    outputs, inputs = w.shape
    size = group or inputs
    lo, hi = -(1 << bits - 1), (1 << bits - 1) - 1
    g = w[:, order].reshape(outputs, -1, size)
    if asymmetric:
        least, most = g.amin(-1).clamp(max=0), g.amax(-1).clamp(min=0)
        scale = ((most - least) / (hi - lo)).half().float()
        zero = (lo - least / scale).round().clamp(lo + 1, hi)           # GPTQ's first version cannot store the least
    else:
        scale = (g.abs().amax(-1) / hi).half().float()
        zero = torch.zeros_like(scale)
    q = (g / scale[..., None] + zero[..., None]).round().clamp(lo, hi)
    back = torch.argsort(order)
    wide = ((q - zero[..., None]) * scale[..., None]).reshape(outputs, inputs)[:, back]
    return q.reshape(outputs, inputs)[:, back].to(torch.int8), zero.to(torch.int8), scale, wide


def store(tensors, module, q, zero, scale, order, kind):
    bits, group, method, half = kind["bits"], kind.get("group", 0), kind.get("method"), 1 << kind["bits"] - 1
    inputs = q.shape[1]
    index = torch.empty(inputs, dtype=torch.int32)
    index[order] = (torch.arange(inputs) // (group or inputs)).int()
    if method == "gptq":
        less = 0 if kind.get("version") == "gptq_v2" else 1
        tensors |= {module + ".qweight": pack(q.t().int() + half, bits, 0), module + ".scales": scale.t().half(),
                    module + ".qzeros": pack(((zero.t().int() + half - less) & (2 * half - 1)), bits, 1),
                    module + ".g_idx": index}
        return
    if method == "awq":
        shuffled = lambda x: pack(x.reshape(x.shape[0], -1, 8)[..., AWQ_ORDER].reshape(x.shape), 4, 1)
        tensors |= {module + ".qweight": shuffled(q.t() + half), module + ".scales": scale.t().half(),
                    module + ".qzeros": shuffled(zero.t() + half)}
        return
    if bits == 4 or kind.get("packed"):
        tensors |= {module + ".weight_packed": pack(q.int() + half, bits, 1), module + ".weight_shape": torch.tensor(q.shape)}
        if kind.get("asymmetric"):
            tensors[module + ".weight_zero_point"] = pack(zero.int() + half, bits, 0)
    else:
        tensors[module + ".weight"] = q
        if kind.get("asymmetric"):
            tensors[module + ".weight_zero_point"] = zero
    tensors[module + ".weight_scale"] = scale
    if "order" in kind:
        tensors[module + "." + kind["order"]] = index
    if kind.get("dynamic") is False:
        tensors[module + ".input_scale"] = torch.tensor([0.05])


def settings(kind):
    bits, group = kind["bits"], kind.get("group") or None
    if kind.get("method") == "gptq":
        return dict(quant_method="gptq", bits=bits, group_size=group, desc_act="order" in kind, sym=False,
                    checkpoint_format=kind.get("version", "gptq"))
    if kind.get("method") == "awq":
        return dict(quant_method="awq", bits=bits, group_size=group, zero_point=True, version="gemm")
    weights = dict(num_bits=bits, type="int", symmetric=not kind.get("asymmetric"), dynamic=False, group_size=group,
                   strategy="group" if group else "channel")
    inputs = None
    if "dynamic" in kind:
        inputs = dict(num_bits=8, type="int", symmetric=True, dynamic=kind["dynamic"],
                      strategy="token" if kind["dynamic"] else "tensor")
    packed = bits == 4 or kind.get("packed")
    return dict(quant_method="compressed-tensors", format="pack-quantized" if packed else "int-quantized",
                quantization_status="compressed", ignore=["lm_head"], kv_cache_scheme=None,
                config_groups={"group_0": dict(targets=["Linear"], weights=weights, input_activations=inputs,
                                               output_activations=None)})


def logits(path, ids):
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(ids).logits


def make(path, kind):
    source = FIXTURES / kind.get("model", "llama")
    config = json.loads((source / "config.json").read_text())
    weights, tensors, wide = load_file(source / "model.safetensors"), {}, {}
    for name, w in sorted(weights.items()):
        conv = "c_" in name
        if w.dim() != 2 or not (conv or "proj" in name or (kind.get("embedding") and "wte" in name)):
            tensors[name] = wide[name] = w
            continue
        w = w.t() if conv else w                                         # quantised Conv1D: (outputs, inputs)
        order = torch.randperm(w.shape[1]) if "order" in kind else torch.arange(w.shape[1])
        group = kind.get("group", 0)
        q, zero, scale, w = quantise(w, kind["bits"], group if group and w.shape[1] % group == 0 else 0,
                                     kind.get("asymmetric"), order)
        assert not group or w.shape[1] % group == 0, name
        store(tensors, name.removesuffix(".weight"), q, zero, scale, order, kind)
        wide[name] = w.t() if conv else w
    path.mkdir(parents=True)
    ids = torch.randint(0, config["vocab_size"], (2, 12))
    (path / "config.json").write_text(json.dumps(config | dict(quantization_config=settings(kind)), indent=1) + "\n")
    save_file({n: t.contiguous() for n, t in tensors.items()}, path / "model.safetensors", {"format": "pt"})
    if kind.get("official"):
        want = logits(path, ids)
    else:
        with tempfile.TemporaryDirectory() as plain:
            (Path(plain) / "config.json").write_text(json.dumps(config))
            save_file({n: t.contiguous() for n, t in wide.items()}, Path(plain) / "model.safetensors", {"format": "pt"})
            want = logits(plain, ids)
    save_file({"ids": ids.int(), "logits": want.contiguous()}, path / "logits.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "quantized")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shutil.rmtree(args.out, ignore_errors=True)
    for number, (name, kind) in enumerate(KINDS.items()):
        torch.manual_seed(number)
        make(args.out / name, kind)
        print(f"{name:16} {sum(f.stat().st_size for f in (args.out / name).iterdir()):6} bytes")


if __name__ == "__main__":
    main()
