#!/usr/bin/env python3
"""chatglm_size.py - ./infer on a model of ChatGLM3-6B's size: what does 13 GB of weights cost a plain machine?

    make && python3 bench/chatglm_size.py /big/disk/chatglm3            needs numpy, 13 GB of disk, as much memory
    python3 bench/chatglm_size.py /tmp/glm --layers 1                   a quick look

Writes DIR once: config.json as released, random F16 weights in seven shards, in the released tensors' names and order.
Speed does not depend on what weights hold, so random ones do. --tokenizer DIR links a tokenizer in, so that the model
can be talked to; the measurements do not need it. Then, with one process at a time:

1. cold    the files are thrown out of the page cache; from the process's start to the logits of PROMPT tokens, that is
           to the first token. What is left of the cache is measured, not believed.
2. warm    the same again, the files in the page cache; the median of --rounds.
3. speed   ./infer --bench: prefill and decode tokens/s, and the share of the machine's peak and read bandwidth that
           they reach, as ./infer measures it; the median of --rounds.

Memory is read from /proc while a process runs: VmHWM, and the largest RssAnon (its own) and RssFile (the mapped
weights, which the system can drop). A table goes to stderr, JSON to stdout or to --json FILE.
"""
import argparse
import ctypes
import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARDS, PROMPT, CHUNK = 7, 16, 1 << 24
CONFIG = dict(
    _name_or_path="THUDM/chatglm3-6b", model_type="chatglm", architectures=["ChatGLMModel"], add_bias_linear=False,
    add_qkv_bias=True, apply_query_key_layer_scaling=True, apply_residual_connection_post_layernorm=False,
    attention_dropout=0.0, attention_softmax_in_fp32=True, bias_dropout_fusion=True, ffn_hidden_size=13696,
    fp32_residual_connection=False, hidden_dropout=0.0, hidden_size=4096, kv_channels=128, layernorm_epsilon=1e-05,
    multi_query_attention=True, multi_query_group_num=2, num_attention_heads=32, num_layers=28, original_rope=True,
    padded_vocab_size=65024, post_layer_norm=True, rmsnorm=True, seq_length=8192, use_cache=True,
    torch_dtype="float16", tie_word_embeddings=False, eos_token_id=2, pad_token_id=0)


# ---- the model -------------------------------------------------------------------------------------------------------
def tensors(c):
    """(name, shape) in the released order."""
    C, F = c["hidden_size"], c["ffn_hidden_size"]
    q, kv = c["num_attention_heads"] * c["kv_channels"], c["multi_query_group_num"] * c["kv_channels"]
    yield "transformer.embedding.word_embeddings.weight", (c["padded_vocab_size"], C)
    yield "transformer.rotary_pos_emb.inv_freq", (c["kv_channels"] // 4,)
    for i in range(c["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        yield layer + "input_layernorm.weight", (C,)
        yield layer + "self_attention.query_key_value.weight", (q + 2 * kv, C)
        yield layer + "self_attention.query_key_value.bias", (q + 2 * kv,)
        yield layer + "self_attention.dense.weight", (C, q)
        yield layer + "post_attention_layernorm.weight", (C,)
        yield layer + "mlp.dense_h_to_4h.weight", (2 * F, C)
        yield layer + "mlp.dense_4h_to_h.weight", (C, F)
    yield "transformer.encoder.final_layernorm.weight", (C,)
    yield "transformer.output_layer.weight", (c["padded_vocab_size"], C)


def f16_bits(name, n, random):
    """n values as F16 in uint16: norms are 1; weights have a random sign and mantissa and one of two exponents, which
    makes magnitudes from 2^-7 to 2^-5 at the speed of the generator."""
    if "layernorm" in name:
        return np.full(n, 0x3C00, np.uint16)
    if name.endswith("inv_freq"):
        return (10000.0 ** (-np.arange(n) / n)).astype(np.float16).view(np.uint16)
    bits = random.integers(0, 1 << 64, (n + 3) // 4, np.uint64, endpoint=False).view(np.uint16)[:n]
    return (bits & np.uint16(0x87FF)) | np.uint16(0x2000)


def write_model(path, config):
    path.mkdir(parents=True, exist_ok=True)
    random, todo = np.random.Generator(np.random.SFC64(1)), list(tensors(config))
    sizes = [2 * int(np.prod(shape)) for _, shape in todo]
    total, before, shards = sum(sizes), 0, [[] for _ in range(SHARDS)]
    for tensor, size in zip(todo, sizes):                                # in order, cut where a seventh is full
        shards[min(SHARDS - 1, before * SHARDS // total)].append(tensor)
        before += size
    shards = [s for s in shards if s]
    weight_map, start = {}, time.perf_counter()
    for i, shard in enumerate(shards):
        file, header, at = f"model-{i + 1:05}-of-{len(shards):05}.safetensors", {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shard:
            end = at + 2 * int(np.prod(shape))
            header[name] = dict(dtype="F16", shape=shape, data_offsets=[at, end])
            weight_map[name], at = file, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path / file, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name, shape in shard:
                n = int(np.prod(shape))
                for first in range(0, n, CHUNK):
                    f16_bits(name, min(CHUNK, n - first), random).tofile(f)
            f.flush()
            os.fsync(f.fileno())                                         # a dirty page cannot be thrown out
        print(f"\rwriting {file}, {time.perf_counter() - start:.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    (path / "config.json").write_text(json.dumps(config, indent=1))      # last: it says that the model is complete
    return total


# ---- the page cache --------------------------------------------------------------------------------------------------
def weight_files(path):
    return sorted(path.glob("*.safetensors"))


def cached_bytes(path):
    """How much of the weights lies in the page cache, by mincore."""
    libc, page, total = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, 0
    for file in weight_files(path):
        with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m:
            seen = (ctypes.c_ubyte * ((len(m) + page - 1) // page))()
            first = ctypes.c_char.from_buffer(m)
            ok = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(m)), seen) == 0
            del first                                                    # or the map cannot be closed
            if not ok:
                raise SystemExit("mincore does not work here: nothing can be said about a cold cache")
            total += page * int((np.frombuffer(seen, np.uint8) & 1).sum())
    return total


def drop(path):
    for file in weight_files(path):
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


# ---- the process -----------------------------------------------------------------------------------------------------
def run(command):
    """Its stdout, seconds from start to end, and memory in bytes while it ran. For a process that was too short to be
    looked at, memory is empty."""
    memory, start = {}, time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=errors, text=True)
        while True:
            try:
                code = process.wait(timeout=0.02)
                break
            except subprocess.TimeoutExpired:
                with open(f"/proc/{process.pid}/status") as status:
                    for line in status:
                        key, _, value = line.partition(":")
                        if key in ("VmHWM", "RssAnon", "RssFile"):
                            memory[key] = max(memory.get(key, 0), int(value.split()[0]) * 1024)
        seconds = time.perf_counter() - start
        out.seek(0), errors.seek(0)
        if code:
            raise SystemExit(f"{' '.join(map(str, command))}: exit {code}\n{errors.read()[-2000:]}")
        return out.read(), seconds, memory


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir", type=Path, help="the model's directory: written if it holds none")
    p.add_argument("--layers", type=int, default=CONFIG["num_layers"], help="fewer, for a quick look")
    p.add_argument("--tokenizer", type=Path, help="a directory whose tokenizer files are linked in")
    p.add_argument("--infer", default=str(ROOT / "infer"), help="the program to measure")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--precision", default="auto", choices=["auto", "f32", "bf16"])
    p.add_argument("--json", help="write everything measured to this file")
    args = p.parse_args()
    config, path = CONFIG | dict(num_layers=args.layers), args.dir
    if not Path(args.infer).exists():
        raise SystemExit(f"{args.infer} is missing: run make first")
    if not (path / "config.json").exists():
        write_model(path, config)
    elif json.loads((path / "config.json").read_text()) != config:
        raise SystemExit(f"{path}: holds another model; not touched")
    for file in args.tokenizer.glob("*token*") if args.tokenizer else ():
        if not (path / file.name).exists():
            (path / file.name).symlink_to(file.resolve())
    weight_bytes = sum(f.stat().st_size for f in weight_files(path))
    common = [args.infer, "--model", path, "--threads", args.threads, "--precision", args.precision, "--quiet"]

    with tempfile.TemporaryDirectory() as directory:
        ids = Path(directory, "ids.json")
        ids.write_text(json.dumps([list(range(100, 100 + PROMPT))]))
        first = common + ["--logits", ids, "--logits-out", Path(directory, "logits.safetensors")]
        drop(path)
        left = cached_bytes(path)
        if left > 0.05 * weight_bytes:
            print(f"{left / 1e9:.1f} of {weight_bytes / 1e9:.1f} GB stay in the page cache: 'cold' is not cold",
                  file=sys.stderr)
        _, cold_s, cold_memory = run(first)
        warm = [run(first)[1:] for _ in range(args.rounds)]
        in_cache = cached_bytes(path)
    speeds = []
    for _ in range(args.rounds):
        text, _, memory = run(common + ["--bench"])
        speeds.append(json.loads(text) | dict(memory=memory))

    def median(key):
        return statistics.median(s[key] for s in speeds)

    warm_s = statistics.median(s for s, _ in warm)
    memory = {k: max(s["memory"].get(k, 0) for s in speeds) for k in ("VmHWM", "RssAnon", "RssFile")}
    say = [f"{args.layers} layers, {weight_bytes / 1e9:.2f} GB of F16 weights, {args.threads} threads, products in "
           f"{speeds[0]['precision']}, load {os.getloadavg()[0]:.2f}",
           f"  first token, cold   {cold_s:9.2f} s        {weight_bytes / cold_s / 1e9:8.2f} GB/s from the disk "
           f"({left / 1e9:.2f} GB were cached)",
           f"  first token, warm   {warm_s:9.2f} s        {PROMPT} tokens of prompt, {in_cache / 1e9:.2f} GB cached",
           f"  prefill             {median('prefill_tokens_per_s'):9.2f} tokens/s "
           f"{median('prefill_gflops'):8.1f} GFLOP/s, {100 * median('prefill_share'):.0f}% of the measured peak",
           f"  decode              {median('decode_tokens_per_s'):9.2f} tokens/s "
           f"{median('decode_gb_per_s'):8.2f} GB/s, {100 * median('decode_share'):.0f}% of the measured read bandwidth"]
    say += [f"  {key:<19} {value / 1e9:9.2f} GB" for key, value in memory.items()]
    print("\n".join(say), file=sys.stderr)
    result = json.dumps(dict(layers=args.layers, weight_bytes=weight_bytes, threads=args.threads, prompt_tokens=PROMPT,
                             cold=dict(seconds=cold_s, cached_before=left, memory=cold_memory),
                             warm=[dict(seconds=s, memory=m) for s, m in warm], bench=speeds), indent=1)
    if args.json:
        Path(args.json).write_text(result + "\n")
    else:
        print(result)


if __name__ == "__main__":
    main()
