#!/usr/bin/env python3
"""all.py - every benchmark of this machine in one run: its limits, then each row beside its peers, one result file.

    make bench                                         all rows, an hour or two; ours alone where a peer is missing
    make bench BENCH="--quick"                         a first look at everything, under three minutes
    make bench BENCH="--venv build/peers --peers install --llama-cpp ~/llama.cpp/build"
    python3 bench/all.py --parts limits gemm           some of it

Peers are raced where they are: PyTorch and transformers, tiktoken and tokenizers in --venv, llama.cpp in --llama-cpp.
The file goes to bench/results/DATE-COMMIT.json, or to --json; python3 bench/compare.py OLD NEW puts two side by side.
Nothing else should run on the machine meanwhile: one busy process slows products six times over.
"""
import json
import time
from pathlib import Path

import bert
import infer
import lora
import tokenizer
import train
from common import ROOT, Results, number, parse, parser, program, run

STATES = 30                                     # samples of the machine's state, half a second each


def lines(args, name, *words):
    """The JSON lines of one of the benches' own programs."""
    return map(json.loads, run([program(args, name), *words, "--threads", args.threads]).splitlines())


def limits(args, results):
    """The machine's best, and the states that it was seen in: hand-over between cores below or above 120 ns."""
    n = 3 if args.quick else STATES
    results.limits = list(lines(args, "bench_limits", "--samples", n))
    for name, unit in (("f32_gflops", "GFLOP/s"), ("bf16_gflops", "GFLOP/s"), ("int8_gops", "GOP/s"),
                       ("read_gb_s", "GB/s")):
        results.add(f"limits/{name.split('_')[0]}", unit, [s[name] for s in results.limits])
    for name, state in (("near", [s for s in results.limits if s["handover_ns"] < 120]),
                        ("far", [s for s in results.limits if s["handover_ns"] >= 120])):
        if state and state[0]["handover_ns"]:
            results.add(f"limits/read/{name}-cores", "GB/s", [s["read_gb_s"] for s in state], states=state)


def gemm(args, results):
    for r in lines(args, "bench_gemm", *(["--quick"] if args.quick else [])):
        if r["bench"] == "gemm":
            results.add(f"gemm/{r['op']}/{r['precision']}/{r['rows']}x{r['O']}x{r['C']}", "GFLOP/s", [r["gflops"]],
                        share=r["share"], limit=r["precision"])
        elif r["bench"] == "gemv":
            results.add(f"gemm/decode/{r['weights']}/{r['rows']}x{r['O']}x{r['C']}", "GB/s", [r["gb_s"]],
                        share=r["share"], limit="reads")


def quant(args, results):
    for r in lines(args, "bench_quant", *(["--quick"] if args.quick else [])):
        decode, kind = r["bench"] == "quant_decode", r["weights"].replace(" ", "-")
        limit = "reads" if decode else "int8" if "inputs-int8" in kind else "bf16"
        results.add(f"quant/{'decode' if decode else 'prefill'}/{kind}/{r['rows']}x{r['O']}x{r['C']}",
                    "GB/s" if decode else "GOP/s", [r["gb_s" if decode else "gops"]], share=r["share"], limit=limit)


def attention(args, results):
    for r in lines(args, "bench_attention", *(["--only", "T256"] if args.quick else [])):
        decode = r["way"] == "decode"
        results.add(f"attention/{r['way']}/{r['precision']}/{r['case'].replace(' ', '-')}",
                    "GB/s" if decode else "GFLOP/s", [r["gb_s" if decode else "gflop_s"]], share=r["share"],
                    limit="reads" if decode else r["precision"])


def ops(args, results):
    for r in lines(args, "bench_ops", *(["--mb", 32] if args.quick else [])):
        results.add(f"ops/{r['op']}", "GB/s", [r["gb_s"]], share=r["share_of_read"], limit="reads",
                    cached_gb_s=r["cached_gb_s"])


def script(module, *options):
    """A script that measures by itself: its own options, and those that are common."""
    def part(args, results):
        common = ["--build", args.build, "--venv", args.venv, "--peers", args.peers, "--threads", args.threads,
                  "--device", args.device, *(["--quick"] if args.quick else []),
                  *(["--rounds", args.rounds] if args.rounds_given else [])]
        own = [word for o in options if getattr(args, o) for word in ("--" + o.replace("_", "-"), getattr(args, o))]
        module.measure_all(module.arguments([str(w) for w in [*common, *own]]), results)
    return part


PARTS = dict(limits=limits, gemm=gemm, quant=quant, attention=attention, ops=ops, train=script(train),
             bert=script(bert), tokenizer=script(tokenizer), infer=script(infer, "llama_cpp", "models"), lora=script(lora, "models"))


def main():
    p = parser(__doc__, quick="a first look at everything, under three minutes")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    p.add_argument("--llama-cpp", type=Path, help="a build folder of llama.cpp")
    p.add_argument("--models", type=Path, default=ROOT / "build/bench-models", help="where random models are kept")
    args = p.parse_args()
    rounds_given = args.rounds is not None
    args = parse(p)
    args.rounds_given = rounds_given
    results, start = Results(args, "all benchmarks"), time.perf_counter()
    for name in args.parts:
        before = time.perf_counter()
        PARTS[name](args, results)
        print(f"{'':38}{number(time.perf_counter() - before):>10}  s for {name}", flush=True)
    results.machine["seconds"] = round(time.perf_counter() - start, 1)
    name = f"{results.machine['date'][:10]}-{results.machine['commit']}{'-quick' if args.quick else ''}.json"
    results.write(args.json or ROOT / "bench/results" / name)


if __name__ == "__main__":
    main()
