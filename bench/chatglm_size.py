#!/usr/bin/env python3
"""chatglm_size.py - ./infer on a model of ChatGLM3-6B's size: what does 13 GB of weights cost a plain machine?

    make && make bench-programs && python3 bench/chatglm_size.py /big/disk/chatglm3      needs 13 GB of disk and memory
    python3 bench/chatglm_size.py /tmp/glm --quick                                       one layer

Writes DIR once: config.json as released, random F16 weights in seven shards, in the released tensors' names and order.
Speed does not depend on what weights hold, so random ones do. --tokenizer DIR links a tokenizer in, so that the model
can be talked to; the measurements do not need it. Then, with one process at a time:

1. cold    the files are thrown out of the page cache; from the process's start to the logits of PROMPT tokens, that is
           to the first token. What is left of the cache is measured, not believed.
2. warm    the same again, the files in the page cache; the median of the rounds.
3. speed   ./infer --bench: prefill and decode tokens/s, and the share of the machine's peak and read bandwidth that
           they reach, as ./infer measures it; the median of the rounds.

Memory is read from /proc while a process runs: VmHWM, and the largest RssAnon (its own) and RssFile (the mapped
weights, which the system can drop).
"""
import ctypes
import json
import mmap
import statistics
import sys
import tempfile
from pathlib import Path

from common import from_disk, main, parse, parser, program, state, watch
from models import CHATGLM3, write_model

SHARDS, PROMPT = 7, 16


def arguments(argv=None):
    p = parser(__doc__, rounds=3)
    p.add_argument("dir", type=Path, help="the model's directory: written if it holds none")
    p.add_argument("--layers", type=int, help=f"default: {CHATGLM3['num_layers']}, quick: 1")
    p.add_argument("--tokenizer", type=Path, help="a directory whose tokenizer files are linked in")
    p.add_argument("--precision", default="auto", choices=["auto", "f32", "bf16"])
    args = parse(p, argv)
    args.layers = args.layers or (1 if args.quick else CHATGLM3["num_layers"])
    return args


# ---- the page cache --------------------------------------------------------------------------------------------------
def weight_files(path):
    return sorted(path.glob("*.safetensors"))


def cached_bytes(path):
    """How much of the weights lies in the page cache, by mincore."""
    libc, page, total = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, 0
    lowest_bit = bytes(b & 1 for b in range(256))
    for file in weight_files(path):
        with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m:
            seen = (ctypes.c_ubyte * ((len(m) + page - 1) // page))()
            first = ctypes.c_char.from_buffer(m)
            ok = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(m)), seen) == 0
            del first                                                    # or the map cannot be closed
            if not ok:
                raise SystemExit("mincore does not work here: nothing can be said about a cold cache")
            total += page * bytes(seen).translate(lowest_bit).count(1)
    return total


def measure_all(args, results):
    path = args.dir
    write_model(path, CHATGLM3 | dict(num_layers=args.layers), "F16", SHARDS)
    for file in args.tokenizer.glob("*token*") if args.tokenizer else ():
        if not (path / file.name).exists():
            (path / file.name).symlink_to(file.resolve())
    weight_bytes = sum(f.stat().st_size for f in weight_files(path))
    common = [program(args, "infer"), "--model", path, "--threads", args.threads, "--device", args.device,
              "--precision", args.precision, "--quiet"]
    with tempfile.TemporaryDirectory() as directory:
        ids = Path(directory, "ids.json")
        ids.write_text(json.dumps([list(range(100, 100 + PROMPT))]))
        first = common + ["--logits", ids, "--logits-out", Path(directory, "logits.safetensors")]
        from_disk(weight_files(path))
        left, states = cached_bytes(path), [state(args)]
        if left > 0.05 * weight_bytes:
            print(f"{left / 1e9:.1f} of {weight_bytes / 1e9:.1f} GB stay in the page cache: 'cold' is not cold",
                  file=sys.stderr)
        _, cold_s, memory = watch(first)
        results.add("chatglm3/first-token/cold", "s", [cold_s], "lower", states=states, layers=args.layers,
                    weight_bytes=weight_bytes, disk_gb_s=weight_bytes / cold_s / 1e9, cached_before=left, memory=memory)
        states.append(state(args))
        warm = [watch(first)[1:] for _ in range(args.rounds)]
        results.add("chatglm3/first-token/warm", "s", [s for s, _ in warm], "lower", states=states, layers=args.layers,
                    cached_bytes=cached_bytes(path), memory=warm[-1][1])
    said, states = [], []
    for _ in range(args.rounds):
        states.append(state(args))
        text, _, memory = watch(common + ["--bench"])
        said.append(json.loads(text) | dict(memory=memory))
    for way, limit in ("prefill", said[0]["precision"]), ("decode", "reads"):
        results.add(f"chatglm3/{way}", "tokens/s", [s[f"{way}_tokens_per_s"] for s in said],
                    share=statistics.median(s[f"{way}_share"] for s in said), limit=limit, states=states,
                    layers=args.layers, memory=said[-1]["memory"], memory_bytes=said[-1]["memory_bytes"])
    for key in ("VmHWM", "RssAnon", "RssFile"):
        results.add(f"chatglm3/memory/{key}", "GB", [max(s["memory"].get(key, 0) for s in said) / 1e9], "lower",
                    layers=args.layers)


if __name__ == "__main__":
    main(arguments, measure_all, "ChatGLM3-6B's size")
