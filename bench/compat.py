#!/usr/bin/env python3
"""compat.py - what tea writes, transformers reads, and the other way round, with the same numbers.

    python3 bench/compat.py --build build/gcc              needs torch, transformers, safetensors; a minute

1. ./train makes small models; AutoModelForCausalLM and AutoTokenizer load their directories as they are. Compared:
   logits of random ids, ids of awkward texts, greedily generated ids.
2. transformers makes small random models in F32, F16 and BF16, whole or in shards, tied or not; ./infer reads them as
   they are. Compared: logits of random ids.

Both sides compute in float32. A difference above --limit, a missing or unexpected tensor or another id is a failure:
exit 1. --json FILE keeps the rows.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

TEXTS = ["Once upon a time", "", " ", "a  b   c\n\n\td \r\n", "It's 12345 o'clock, isn't it? We'LL see.",
         "从前有一只猫，它住在海边。", "naïve café — “quotes” …", "😀👩‍👩‍👧 flags 🇫🇷", "<|endoftext|> is text here",
         "x" * 300, "\u00a0\u2003\ufeff", "def f(x):\n    return x**2\n"]


def sh(*command, **options):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout


class Bench:
    def __init__(self, args, folder):
        self.build, self.limit, self.folder, self.rows = os.path.abspath(args.build), args.limit, folder, []

    def program(self, name):
        return os.path.join(self.build, name)

    def row(self, model, what, ok, detail):
        self.rows.append({"model": model, "what": what, "ok": bool(ok), "detail": detail})
        print(f"{'ok  ' if ok else 'FAIL'}  {model:<34} {what:<11} {detail}", flush=True)

    def our_logits(self, directory, ids):
        rows, out = os.path.join(self.folder, "ids.json"), os.path.join(self.folder, "logits.safetensors")
        with open(rows, "w") as f:
            json.dump(ids.tolist(), f)
        sh(self.program("infer"), "--model", directory, "--logits", rows, "--logits-out", out, "--precision", "f32",
           "--quiet")
        return load_file(out)["logits"]

    def compare_logits(self, name, directory, model, seed, rows=3, tokens=48):
        torch.manual_seed(seed)
        ids = torch.randint(0, model.config.vocab_size, (rows, tokens))
        with torch.no_grad():
            theirs = model(ids).logits.float()
        ours = self.our_logits(directory, ids)
        same_shape = ours.shape == theirs.shape
        off = (ours - theirs).abs().max().item() if same_shape else float("nan")
        self.row(name, "logits", same_shape and off <= self.limit,
                 f"largest difference {off:.2e}, logits up to {theirs.abs().max().item():.2f}, {ids.numel()} positions")

    def load(self, name, directory):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                                                        output_loading_info=True)
        wrong = {k: v for k, v in info.items() if v}
        n = sum(p.numel() for p in model.parameters())
        self.row(name, "loads", not wrong, f"{type(model).__name__}, {n:,} parameters {wrong or ''}")
        return model.eval()

    def trained(self, name, steps, *options):
        directory = os.path.join(self.folder, name.replace(" ", "-"))
        sh(self.program("train"), "--out", directory, "--data", "corpus:300k", "--vocab", 512, "--layers", 3,
           "--width", 64, "--heads", 4, "--batch", 4, "--seq", 64, "--steps", steps, "--warmup", 5, "--eval-steps", 0,
           "--sample-steps", 0, "--save-steps", 0, "--quiet", *options)
        model, tokenizer = self.load(name, directory), transformers.AutoTokenizer.from_pretrained(directory)
        self.compare_logits(name, directory, model, 1)

        # A text that looks like a special token is one for transformers unless told otherwise; for tea only when asked.
        differ = []
        for text in TEXTS:
            for flag in [], ["--special"]:
                ours = sh(self.program("tokenizer"), "encode", "--model", directory, "--text", text, *flag).split()
                theirs = tokenizer(text, add_special_tokens=False, split_special_tokens=not flag)["input_ids"]
                if [int(i) for i in ours] != theirs:
                    differ.append(text)
        self.row(name, "tokenizer", not differ, f"{len(TEXTS)} texts" + (f", differ: {differ}" if differ else ""))

        same, total = 0, 0
        for prompt in ["Once upon a time", "从前", "Question:"]:
            ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40,
                                        pad_token_id=tokenizer.eos_token_id)[0].tolist()
            ours = json.loads(sh(self.program("infer"), "--model", directory, "--prompt", prompt, "--n", 40,
                                 "--temperature", 0, "--bos", "no", "--json", "--precision", "f32", "--quiet"))
            ours = ours["prompt_ids"] + ours["ids"]
            eos = tokenizer.eos_token_id
            while theirs and theirs[-1] == eos:
                theirs.pop()
            while ours and ours[-1] == eos:
                ours.pop()
            total += 1
            same += ours == theirs
            if ours != theirs:
                print("  ours  ", ours, "\n  theirs", theirs)
        self.row(name, "generate", same == total, f"{same} of {total} prompts: 40 greedy ids equal")

    def random_model(self, name, config, dtype, shard=None):
        directory = os.path.join(self.folder, name.replace(" ", "-").replace(",", ""))
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
        with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide a swap
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
        files = sum(f.endswith(".safetensors") for f in os.listdir(directory))
        if shard and files < 2:
            sys.exit(f"{name}: {files} file, meant to be in shards")
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.compare_logits(name + (f", {files} shards" if shard else ""), directory, model, 2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/gcc", help="directory of the built programs")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--limit", type=float, default=1e-4, help="largest difference of a logit")
    p.add_argument("--json", help="write the rows there")
    args = p.parse_args()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        b = Bench(args, folder)
        b.trained("trained llama tied", args.steps, "--arch", "llama", "--tie")
        b.trained("trained llama grouped untied", args.steps, "--arch", "llama", "--kv-heads", 2, "--untie",
                  "--precision", "f32", "--split", "llama3")
        b.trained("trained gpt2", args.steps, "--arch", "gpt2")

        def gpt2(**options):
            return transformers.GPT2Config(**{
                "vocab_size": 500, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": 0,
                "eos_token_id": 0, "initializer_range": 0.2, **options})

        def llama(**options):
            return transformers.LlamaConfig(**{
                "vocab_size": 500, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
                "eos_token_id": 0, "initializer_range": 0.2, "tie_word_embeddings": False, **options})

        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        for dtype, t in dtypes.items():
            b.random_model(f"gpt2 {dtype} tied", gpt2(), t)
            b.random_model(f"gpt2 {dtype} untied sharded", gpt2(tie_word_embeddings=False), t, "100KB")
            b.random_model(f"llama {dtype} untied", llama(), t)
            b.random_model(f"llama {dtype} tied sharded", llama(tie_word_embeddings=True), t, "100KB")
        b.random_model("llama biases, head size 20", llama(attention_bias=True, mlp_bias=True, head_dim=20),
                       torch.float32)
        b.random_model("llama rope linear", llama(rope_parameters={
            "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), torch.float32)
        b.random_model("llama rope llama3", llama(rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
            "original_max_position_embeddings": 64}), torch.float32)
        b.random_model("gpt2 wide MLP", gpt2(n_inner=100), torch.float32)
        if args.json:
            with open(args.json, "w") as f:
                json.dump(b.rows, f, indent=1, ensure_ascii=False)
        failed = sum(not r["ok"] for r in b.rows)
        print(f"{len(b.rows) - failed} passed, {failed} failed")
        return failed > 0


if __name__ == "__main__":
    sys.exit(main())
