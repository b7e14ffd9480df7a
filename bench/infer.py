#!/usr/bin/env python3
"""infer.py - decoding and prefill of a 1.1B LLaMA shape beside llama.cpp, in one run on one machine.

    make && make bench-programs && python3 bench/infer.py --llama-cpp ~/llama.cpp/build
    python3 bench/infer.py --rows bf16 --rounds 1                        ours alone, one row

    row      ours                                  llama.cpp
    f32      F32 weights, products in f32          F32
    f16      F16 weights, products in f32          F16
    bf16     BF16 weights, products in bf16        BF16
    int8     ./quantize --bits 8                   Q8_0
    int4     ./quantize --bits 4 --group 128       Q4_0, Q4_K_M

The rows -dynamic have int8 inputs, too, as all of llama.cpp's quantised ones. Embedding and head have 8 bits in our
quantised rows, 8 or fewer in llama.cpp's.

Both programs get random weights of the same shape (width 2048, 22 layers, 32 heads that share 4 of keys and values,
feed-forward 5632, vocabulary 32000), written once below --models and thrown out of the page cache before a row: each
program's first turn reads its file in its own way. A turn is one start of ./infer --bench, or of
llama-bench: 512 tokens of prompt in one pass, then 128 tokens one by one; the programs take turns. Decoding has to read
every weight for each token: its share is of the read bandwidth that ./infer measures in the same process. Prefill's is
of the peak of multiply-adds in the precision of the products; of quantised weights, too.

--llama-cpp is a build folder of llama.cpp with bin/llama-bench and, for its quantised rows, bin/llama-quantize:
    cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target llama-bench llama-quantize
"""
import json
import os
import statistics
from pathlib import Path

from common import ROOT, from_disk, main, ours, parse, parser, program, race, run
from models import LLAMA_1B, write_gguf, write_model

ROWS = {  # name -> dtype of ours, options of ./quantize, llama.cpp's types
    "f32": ("F32", None, ["F32"]),
    "f16": ("F16", None, ["F16"]),
    "bf16": ("BF16", None, ["BF16"]),
    "int8": ("BF16", ["--bits", 8, "--embedding", 8], ["Q8_0"]),
    "int8-dynamic": ("BF16", ["--bits", 8, "--embedding", 8, "--activations", "dynamic"], ["Q8_0"]),
    "int4": ("BF16", ["--bits", 4, "--group", 128, "--embedding", 8], ["Q4_0", "Q4_K_M"]),
    "int4-dynamic": ("BF16", ["--bits", 4, "--group", 128, "--embedding", 8, "--activations", "dynamic"],
                     ["Q4_0", "Q4_K_M"]),
}
PROMPT, DECODE = 512, 128


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    p.add_argument("--llama-cpp", type=Path, help="a build folder of llama.cpp")
    p.add_argument("--models", type=Path, default=ROOT / "build/bench-models", help="where they are kept: up to 30 GB")
    p.add_argument("--layers", type=int, help="default: 22, quick: 4")
    args = parse(p, argv)
    args.layers = args.layers or (4 if args.quick else LLAMA_1B["num_hidden_layers"])
    args.rows = args.rows or list(ROWS)
    return args


def our_model(args, config, row, dtype, options):
    """The directory of the row's model; None: what would make it is not here yet."""
    base = args.models / f"llama-1b-{args.layers}-{dtype.lower()}"
    path = args.models / f"llama-1b-{args.layers}-{row}"
    if options and not path.exists() and not (args.build / "quantize").exists():
        return None
    if not (options and path.exists()):
        write_model(base, config, dtype)
    if options and not path.exists():
        run([program(args, "quantize"), "--model", base, "--out", path, *options, "--quiet"])
    return path if options else base


def peer_model(args, config, kind):
    exact = kind in ("F32", "F16", "BF16")
    base = args.models / f"llama-1b-{args.layers}-{kind if exact else 'BF16'}.gguf"
    path = args.models / f"llama-1b-{args.layers}-{kind}.gguf"
    if exact or not path.exists():
        write_gguf(base, config, kind if exact else "BF16")
    if not exact and not path.exists():
        partial = path.with_suffix(".part")
        run([args.llama_cpp / "bin/llama-quantize", base, partial, kind, args.threads])
        partial.rename(path)
    return path


def llama_bench(args, path, n_prompt, n_decode):
    out = run([args.llama_cpp / "bin/llama-bench", "-m", path, "-t", args.threads, "-p", n_prompt, "-n", n_decode,
               "-r", 1, "-o", "json"])
    return {("prefill" if r["n_prompt"] else "decode"): r["avg_ts"] for r in json.loads(out)}


def measure(args, results, row):
    dtype, options, kinds = ROWS[row]
    config = LLAMA_1B | dict(num_hidden_layers=args.layers)
    path, said = our_model(args, config, row, dtype, options), []
    if path is None:
        print(f"infer/*/{row:29} not measured: ./quantize is not there")
        return

    def tea():
        precision = "f32" if dtype in ("F32", "F16") else "auto"
        said.append(ours(args, "infer", "--model", path, "--bench", "--n", DECODE, "--precision", precision))
        assert said[-1]["prefill_tokens"] == PROMPT
        return said[-1]

    players, files = {"tea": tea}, list(path.glob("*.safetensors"))
    for kind in kinds if args.llama_cpp else ():
        file = peer_model(args, config, kind)
        files.append(file)
        players[f"llama.cpp {kind}"] = lambda file=file: llama_bench(args, file, PROMPT, DECODE)
    from_disk(files)
    turns, states = race(args, players)
    theirs = {name: t for name, t in turns.items() if name != "tea"}
    for way, limit in ("decode", "reads"), ("prefill", said[0]["precision"]):
        facts = {key: said[-1][key] for key in ("weight_bytes", "memory_bytes", "peak_bytes", "precision")}
        results.add(f"infer/{way}/{row}", "tokens/s", [r[f"{way}_tokens_per_s"] for r in said],
                    share=statistics.median(r[f"{way}_share"] for r in said), limit=limit,
                    peers={name: [r[way] for r in t] for name, t in theirs.items()}, states=states, layers=args.layers,
                    **facts)


def measure_all(args, results):
    if args.llama_cpp and not os.access(args.llama_cpp / "bin/llama-bench", os.X_OK):
        raise SystemExit(f"{args.llama_cpp}/bin/llama-bench is not there: --llama-cpp wants a build folder of llama.cpp")
    for row in args.rows:
        measure(args, results, row)


if __name__ == "__main__":
    main(arguments, measure_all, "inference")
