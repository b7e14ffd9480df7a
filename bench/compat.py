#!/usr/bin/env python3
"""compat.py - what tea writes, transformers reads, and the other way round, with the same numbers.

    python3 bench/compat.py --build build/gcc              needs torch, transformers, safetensors; two minutes
                            [--chatglm3-code DIR] [--chatglm1-code DIR]

1. ./train makes small models of every family; transformers loads their directories as they are. Compared: logits of
   random ids, ids of awkward texts, greedily generated ids; of BERT the masked tokens' logits, what --fill-mask finds
   and --embed pools.
2. transformers makes small random models of every family in F32, F16 and BF16, whole or in shards, tied or not; ./infer
   reads them as they are. Compared: logits of random ids; of BERT's other heads embeddings and classes.

ChatGLM is in no package: its DIR holds modeling_chatglm.py and configuration_chatglm.py as released with ChatGLM3-6B,
or with ChatGLM-6B. Without DIR its rows are left out, which is said at the end.

Both sides compute in float32. A difference above --limit, a missing or unexpected tensor or another id is a failure:
exit 1. --json FILE keeps the rows.
"""
import argparse
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from make_fixtures import CHATGLM1, CHATGLM3, chatglm_new, inputs  # noqa: E402: the path comes first

TEXTS = ["Once upon a time", "", " ", "a  b   c\n\n\td \r\n", "It's 12345 o'clock, isn't it? We'LL see.",
         "从前有一只猫，它住在海边。", "naïve café — “quotes” …", "😀👩‍👩‍👧 flags 🇫🇷", "<|endoftext|> is text here",
         "x" * 300, "\u00a0\u2003\ufeff", "def f(x):\n    return x**2\n"]
MASKED = ["Tom went to the [MASK] and saw a dog.", "[MASK]", "The [MASK] was very [MASK].", "从前有一只[MASK]。"]
# What ./train --config reads: each family's own parts, small. The tokenizer has 512 ids; vocabularies are padded.
SIZES = dict(vocab_size=544, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=176, max_position_embeddings=256, rms_norm_eps=1e-5, hidden_act="silu",
             initializer_range=0.1)
CONFIGS = {
    "mistral": dict(architectures=["MistralForCausalLM"], sliding_window=20, rope_theta=10000.0),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True, rope_theta=10000.0,
                  use_sliding_window=True, sliding_window=20, max_window_layers=1),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], head_dim=24, rope_theta=10000.0),
    "llama": dict(architectures=["LlamaForCausalLM"], rope_theta=10000.0, head_dim=32, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=8.0, attention_factor=1.2)),
    "glm": dict(architectures=["GlmForCausalLM"], head_dim=16, partial_rotary_factor=0.5, attention_bias=True,
                rope_theta=10000.0),
}


def sh(*command, **options):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout


def up_to_end(ids, eos):
    """Generated ids up to the end of the text; whether that itself is kept differs."""
    while ids and ids[-1] == eos:
        ids.pop()
    return ids


def pooled(model, tokenizer, texts):
    """Mean of the last states over each text's tokens, of length 1."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).hidden_states[-1]
    mask = batch["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


class Bench:
    def __init__(self, args, folder):
        self.build, self.limit, self.folder, self.rows = os.path.abspath(args.build), args.limit, folder, []
        self.code = {"chatglm3": args.chatglm3_code, "chatglm1": args.chatglm1_code}

    def program(self, name):
        return os.path.join(self.build, name)

    def infer(self, directory, *options):
        return sh(self.program("infer"), "--model", directory, "--precision", "f32", "--quiet", *options)

    def row(self, model, what, ok, detail):
        self.rows.append({"model": model, "what": what, "ok": bool(ok), "detail": detail})
        print(f"{'ok  ' if ok else 'FAIL'}  {model:<34} {what:<11} {detail}", flush=True)

    def near(self, name, what, ours, theirs, of, limit=None):
        same_shape = ours.shape == theirs.shape
        off = (ours - theirs).abs().max().item() if same_shape else float("nan")
        self.row(name, what, same_shape and off <= (limit or self.limit),
                 f"largest difference {off:.2e}, values up to {theirs.abs().max().item():.2f}, {of}")

    def our_logits(self, directory, ids):
        rows, out = os.path.join(self.folder, "ids.json"), os.path.join(self.folder, "logits.safetensors")
        with open(rows, "w") as f:
            json.dump(ids.tolist(), f)
        self.infer(directory, "--logits", rows, "--logits-out", out, "--context", ids.shape[1])
        return load_file(out)["logits"]

    def compare_logits(self, name, directory, model, seed, rows=3, tokens=48, config=None, limit=None):
        """config: of a ChatGLM-6B, whose rows have a prefix."""
        torch.manual_seed(seed)
        ids = torch.randint(0, (config or model.config.to_dict())["vocab_size"], (rows, tokens))
        if config:
            ids %= config["mask_token_id"]
            for row, at in zip(ids, range(5, tokens, 9)):
                row[at], row[at + 2] = config["gmask_token_id"], config["bos_token_id"]
        with torch.no_grad():
            theirs = model(**inputs(config or {}, ids)).logits.float()
        self.near(name, "logits", self.our_logits(directory, ids), theirs, f"{ids.numel()} positions", limit)

    # ---- made here, read there
    def load(self, name, directory, auto):
        if auto == "chatglm3":
            config = json.loads(Path(directory, "config.json").read_text())
            model, weights = chatglm_new(config, Path(self.code[auto])), {}
            for file in Path(directory).glob("*.safetensors"):
                weights |= load_file(file)
            missing, unexpected = model.load_state_dict(weights, strict=False)
            wrong = [n for n in missing if "inv_freq" not in n] + unexpected     # the released code computes those
        else:
            model, info = auto.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
            wrong = {k: v for k, v in info.items() if v}
        n = sum(p.numel() for p in model.parameters())
        self.row(name, "loads", not wrong, f"{type(model).__name__}, {n:,} parameters {wrong or ''}")
        return model.eval()

    def train(self, name, steps, *options):
        directory = os.path.join(self.folder, name.replace(" ", "-"))
        sizes = [] if "--config" in options else ["--layers", 3, "--width", 64, "--heads", 4]
        sh(self.program("train"), "--out", directory, "--data", "corpus:300k", "--vocab", 512, *sizes, "--batch", 4,
           "--seq", 64, "--steps", steps, "--warmup", 5, "--eval-steps", 0, "--sample-steps", 0, "--save-steps", 0,
           "--quiet", *options)
        # For qwen2, AutoTokenizer takes the word-splitting rule of Qwen's own tokenizer whatever tokenizer.json says.
        auto = transformers.PreTrainedTokenizerFast if "qwen2" in name else transformers.AutoTokenizer
        return directory, auto.from_pretrained(directory)

    def quantised(self, name, source, *options, auto=transformers.AutoModelForCausalLM):
        """./quantize's directory, in transformers by way of compressed-tensors: the same logits within 2e-3. (Not with
        4-bit zero points: compressed-tensors 0.20 makes room for them unpacked when transformers loads, and refuses.)
        With dynamic inputs a token's largest, if negative, is -127.5 of its steps: whether that rounds to -127 or -128 is
        decided by the last bit of what came before, on both sides. A step of that input may differ: 5e-2."""
        directory = os.path.join(self.folder, "quantised " + name)
        sh(self.program("quantize"), "--model", source, "--out", directory, "--quiet", *options)
        self.compare_logits(name, directory, self.load(name, directory, auto), 3,
                            limit=5e-2 if "dynamic" in options else 2e-3)

    def compare_config(self, name, given, directory):
        """What ./train was told is what it wrote, as transformers understands both; token ids come from the tokenizer."""
        def read(path):
            return json.loads(transformers.AutoConfig.from_pretrained(path).to_json_string(use_diff=False))

        given, saved = read(given), read(directory)
        for config in given, saved:
            config |= config.pop("rope_parameters")
            for key in "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "_name_or_path":
                config.pop(key, None)
        def same(a, b):
            return math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b

        differ = {k: (v, saved.get(k)) for k, v in given.items() if not same(v, saved.get(k))}
        self.row(name, "config", not differ, f"{len(given)} keys {differ or ''}")

    def compare_tokenizer(self, name, directory, tokenizer, texts=TEXTS):
        # A text that looks like a special token is one for transformers unless told otherwise; for tea only when asked.
        differ = []
        for text in texts:
            for flag in [], ["--special"]:
                ours = sh(self.program("tokenizer"), "encode", "--model", directory, "--text", text, *flag).split()
                theirs = tokenizer(text, add_special_tokens=False, split_special_tokens=not flag)["input_ids"]
                if [int(i) for i in ours] != theirs:
                    differ.append(text)
        self.row(name, "tokenizer", not differ, f"{len(texts)} texts" + (f", differ: {differ}" if differ else ""))

    def trained(self, name, steps, *options, auto=transformers.AutoModelForCausalLM):
        directory, tokenizer = self.train(name, steps, *options)
        model = self.load(name, directory, auto)
        self.compare_logits(name, directory, model, 1)
        self.compare_tokenizer(name, directory, tokenizer)
        same, total, eos = 0, 0, tokenizer.eos_token_id
        for prompt in ["Once upon a time", "从前", "Question:"]:
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            ours = json.loads(self.infer(directory, "--prompt", prompt, "--n", 40, "--temperature", 0, "--bos", "no",
                                         "--json"))
            ours = up_to_end(ours["prompt_ids"] + ours["ids"], eos)
            theirs = up_to_end(self.generate(model, ids, eos, auto), eos)
            total += 1
            same += ours == theirs
            if ours != theirs:
                print("  ours  ", ours, "\n  theirs", theirs)
        self.row(name, "generate", same == total, f"{same} of {total} prompts: 40 greedy ids equal")
        return directory

    def generate(self, model, ids, eos, auto):
        if auto != "chatglm3":
            rows = torch.tensor([ids])
            return model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=40,
                                  pad_token_id=eos)[0].tolist()
        for _ in range(40):                                   # the released code's generate needs an older transformers
            with torch.no_grad():
                ids = ids + [model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()]
            if ids[-1] == eos:
                break
        return ids

    def trained_bert(self, name, steps, *options):
        directory, tokenizer = self.train(name, steps, "--arch", "bert", *options)
        model = self.load(name, directory, transformers.AutoModelForMaskedLM)
        self.compare_logits(name, directory, model, 1)
        self.compare_tokenizer(name, directory, tokenizer,
                               TEXTS + ["[CLS] a [MASK] day [SEP]", "Crème BRÛLÉE, déjà vu"])

        pipe = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
        same, total, worst = 0, 0, 0.0
        for text in MASKED:
            theirs = pipe(text, top_k=5)
            theirs = [c for mask in (theirs if isinstance(theirs[0], list) else [theirs]) for c in mask]
            ours = [json.loads(line) for line in self.infer(directory, "--json", "--fill-mask", text).splitlines()]
            total += len(theirs)
            same += sum(a["id"] == b["token"] for a, b in zip(ours, theirs)) if len(ours) == len(theirs) else 0
            worst = max([worst] + [abs(a["probability"] - b["score"]) for a, b in zip(ours, theirs)])
        self.row(name, "fill-mask", same == total and worst <= self.limit,
                 f"{same} of {total} tokens in {len(MASKED)} texts equal, probabilities {worst:.1e} apart")
        self.compare_embeddings(name, directory, model, tokenizer)
        return directory

    def compare_embeddings(self, name, directory, model, tokenizer):
        out, texts = os.path.join(self.folder, "embeddings.safetensors"), [t for t in TEXTS if t.strip()]
        self.infer(directory, "--embed-out", out, "--embed", *texts)
        self.near(name, "embeddings", load_file(out)["embeddings"], pooled(model, tokenizer, texts),
                  f"{len(texts)} texts")

    # ---- made there, read here
    def save_random(self, name, config, dtype, auto, shard):
        directory = os.path.join(self.folder, name.replace(" ", "-").replace(",", ""))
        torch.manual_seed(7)
        model = auto.from_config(config).to(dtype)
        with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide a swap
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
        files = sum(f.endswith(".safetensors") for f in os.listdir(directory))
        if shard and files < 2:
            sys.exit(f"{name}: {files} file, meant to be in shards")
        model = auto.from_pretrained(directory, dtype=torch.float32).eval()
        return directory, model, name + (f", {files} shards" if shard else "")

    def random_model(self, name, config, dtype, shard=None, auto=transformers.AutoModelForCausalLM):
        directory, model, name = self.save_random(name, config, dtype, auto, shard)
        self.compare_logits(name, directory, model, 2)

    def random_sentence_encoder(self, name, config, dtype, tokenizer_from):
        """A BertModel, and a BertForSequenceClassification: both read texts, so they get a tokenizer."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
        for kind, auto in ("embeddings", transformers.AutoModel), ("classes",
                                                                   transformers.AutoModelForSequenceClassification):
            directory, model, _ = self.save_random(f"{name} {kind}", config, dtype, auto, None)
            for file in "vocab.txt", "tokenizer.json", "tokenizer_config.json":
                if os.path.exists(os.path.join(tokenizer_from, file)):
                    shutil.copy(os.path.join(tokenizer_from, file), directory)
            if kind == "embeddings":
                self.compare_embeddings(name, directory, model, tokenizer)
                continue
            texts = [t for t in TEXTS if t.strip()]
            lines = self.infer(directory, "--json", "--classify", *texts).splitlines()
            ours = [json.loads(line) for line in lines]
            with torch.no_grad():
                theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
            self.near(name, "classes", torch.tensor([o["probabilities"] for o in ours]), theirs, f"{len(texts)} texts")
            labels = [model.config.id2label[i] for i in theirs.argmax(-1).tolist()]
            self.row(name, "labels", [o["label"] for o in ours] == labels, f"{len(set(labels))} different ones")

    def random_chatglm(self, name, kind, config, dtype):
        directory = Path(self.folder, name.replace(" ", "-"))
        directory.mkdir()
        torch.manual_seed(7)
        model = chatglm_new(config, Path(self.code[kind]))
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(torch.randn_like(p) * (0.1 if p.dim() == 1 else p.shape[1] ** -0.5) + ("norm.weight" in n))
                p.copy_(p.to(dtype))
        (directory / "config.json").write_text(json.dumps(config))
        save_file({n: t.to(dtype) for n, t in model.state_dict().items()}, directory / "model.safetensors")
        self.compare_logits(name, directory, model, 2, config=config if kind == "chatglm1" else None)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/gcc", help="directory of the built programs")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--limit", type=float, default=1e-4, help="largest difference of a logit")
    p.add_argument("--json", help="write the rows there")
    p.add_argument("--chatglm3-code", metavar="DIR", help="the code released with ChatGLM3-6B")
    p.add_argument("--chatglm1-code", metavar="DIR", help="the code released with ChatGLM-6B")
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
        for family, parts in CONFIGS.items():
            config = os.path.join(folder, family + ".json")
            with open(config, "w") as f:
                json.dump(SIZES | dict(model_type=family) | parts, f)
            b.compare_config(f"trained --config {family}", config,
                             b.trained(f"trained --config {family}", args.steps, "--config", config))
        if importlib.util.find_spec("compressed_tensors"):
            llama = b.train("quantised llama", args.steps, "--arch", "llama", "--kv-heads", 2, "--untie",
                            "--ffn", 192)[0]
            text = "--calibration", "corpus:100k"
            for name, options in {"int8": ["--bits", 8], "int8, dynamic inputs": ["--bits", 8, "--activations", "dynamic"],
                                  "int8, static inputs": ["--bits", 8, "--activations", "static", *text],
                                  "int8, zero points": ["--bits", 8, "--symmetric", "no"], "int4": ["--group", 32],
                                  "int4, a row": ["--group", 0],
                                  "int4 GPTQ, rotated": ["--group", 32, "--rotate", *text],
                                  "int4 and int8": ["--group", 32, "--budget", "5.5"],
                                  "int4, some kept": ["--group", 32, "--keep", "down_proj"]}.items():
                b.quantised(f"quantised llama, {name}", llama, *options)
        bert_directory = b.trained_bert("trained bert", args.steps)
        b.trained_bert("trained bert cased", args.steps, "--cased", "--whole-word")
        if args.chatglm3_code:
            b.trained("trained chatglm", args.steps, "--arch", "chatglm", auto="chatglm3")

        def gpt2(**options):
            return transformers.GPT2Config(**{
                "vocab_size": 500, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": 0,
                "eos_token_id": 0, "initializer_range": 0.2, **options})

        def llama(kind=transformers.LlamaConfig, **options):
            return kind(**{
                "vocab_size": 500, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
                "eos_token_id": 0, "initializer_range": 0.2, "tie_word_embeddings": False, **options})

        def bert(**options):
            return transformers.BertConfig(**{
                "vocab_size": 512, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3,
                "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2, **options})

        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        masked = transformers.AutoModelForMaskedLM
        for dtype, t in dtypes.items():
            b.random_model(f"gpt2 {dtype} tied", gpt2(), t)
            b.random_model(f"gpt2 {dtype} untied sharded", gpt2(tie_word_embeddings=False), t, "100KB")
            b.random_model(f"llama {dtype} untied", llama(), t)
            b.random_model(f"llama {dtype} tied sharded", llama(tie_word_embeddings=True), t, "100KB")
            b.random_model(f"mistral {dtype} window", llama(transformers.MistralConfig, sliding_window=20), t)
            b.random_model(f"qwen2 {dtype} late window", llama(
                transformers.Qwen2Config, use_sliding_window=True, sliding_window=20, max_window_layers=2), t)
            b.random_model(f"qwen3 {dtype} tied", llama(transformers.Qwen3Config, head_dim=24,
                                                        tie_word_embeddings=True), t)
            b.random_model(f"glm {dtype}", llama(transformers.GlmConfig, head_dim=16, attention_bias=True,
                                                 pad_token_id=0), t)
            b.random_model(f"bert {dtype} masked tokens", bert(), t, auto=masked)
            b.random_sentence_encoder(f"bert {dtype}", bert(
                initializer_range=0.5, id2label={0: "a", 1: "b\"", 2: "c d"}), t, bert_directory)
            if args.chatglm3_code:
                b.random_chatglm(f"chatglm3 {dtype}", "chatglm3", CHATGLM3 | dict(vocab_size=64, seq_length=64), t)
            if args.chatglm1_code:
                b.random_chatglm(f"chatglm1 {dtype}", "chatglm1", CHATGLM1 | dict(max_sequence_length=64), t)
        b.random_model("llama biases, head size 20", llama(attention_bias=True, mlp_bias=True, head_dim=20),
                       torch.float32)
        b.random_model("llama rope linear", llama(rope_parameters={
            "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), torch.float32)
        b.random_model("llama rope llama3", llama(rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
            "original_max_position_embeddings": 64}), torch.float32)
        b.random_model("llama rope dynamic", llama(max_position_embeddings=32, rope_parameters={
            "rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), torch.float32)
        for extra in {}, {"truncate": False}, {"attention_factor": 1.5}, {"mscale": 1.0, "mscale_all_dim": 0.5}:
            b.random_model("llama rope yarn" + "".join(f", {k}" for k in extra), llama(head_dim=32, rope_parameters={
                "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32,
                **extra}), torch.float32)
        b.random_model("gpt2 wide MLP", gpt2(n_inner=100), torch.float32)
        b.random_model("bert gelu_new", bert(hidden_act="gelu_new"), torch.float32, auto=masked)
        if args.json:
            with open(args.json, "w") as f:
                json.dump(b.rows, f, indent=1, ensure_ascii=False)
        for kind, code in b.code.items():
            if not code:
                print(f"left out: {kind}, which needs --{kind}-code")
        if not importlib.util.find_spec("compressed_tensors"):
            print("left out: quantised models, which need the package compressed-tensors")
        failed = sum(not r["ok"] for r in b.rows)
        print(f"{len(b.rows) - failed} passed, {failed} failed")
        return failed > 0


if __name__ == "__main__":
    sys.exit(main())
