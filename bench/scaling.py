#!/usr/bin/env python3
"""scaling.py - how fast does a training step stay when threads, the model or the texts grow?

    make && make bench-programs && python3 bench/scaling.py --svg scaling.svg           about half an hour
    python3 bench/scaling.py --quick                                                    the small models, short turns

Three rows of points, each point one ./train --bench a turn, taken by turns:

    threads   1, 2, 4 ... all of them                        with llama-5.8m, 256 tokens
    size      1M, 5.8M, 15M, 124M, 350M parameters           with 256 tokens
    length    64, 256, 1024, 4096 tokens a text              with llama-5.8m; as many texts as make 4,096 tokens

The share is of the peak of multiply-adds that ./train measures with as many threads in the same process; 6 FLOPs per
matmul weight and causal attention count. The plot has tokens/s above, the share of the peak below.
"""
import json
import math
import tempfile
from pathlib import Path

from common import main, number, parse, parser, program, race, run
from models import GPT2, GPT2_350M, LLAMA_15M, LLAMA_1M, LLAMA_6M

MODELS = {"1M": LLAMA_1M, "5.8M": LLAMA_6M, "15M": LLAMA_15M, "124M": GPT2, "350M": GPT2_350M}
BATCH_TOKENS = 4096


def arguments(argv=None):
    p = parser(__doc__, rounds=3)
    p.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    p.add_argument("--svg", type=Path, help="the plot")
    p.add_argument("--seconds", type=float, help="length of a turn (default: 3, quick: 0.3)")
    args = parse(p, argv)
    args.seconds = args.seconds or (0.3 if args.quick else 3)
    return args


def points(args):
    """(row, label, config, tokens a text, texts, threads)."""
    threads = 1
    while threads < args.threads:
        yield "threads", f"{threads}", LLAMA_6M, 256, 16, threads
        threads *= 2
    yield "threads", f"{args.threads}", LLAMA_6M, 256, 16, args.threads
    for name, config in list(MODELS.items())[:3 if args.quick else None]:
        yield "size", name, config, 256, 4 if "n_embd" in config else 16, args.threads
    for T in (64, 256, 1024) if args.quick else (64, 256, 1024, 4096):
        yield "length", f"{T}", LLAMA_6M, T, BATCH_TOKENS // T, args.threads


def measure_all(args, results):
    with tempfile.TemporaryDirectory() as directory:
        for row, label, config, T, B, threads in points(args):
            key = "n_positions" if "n_embd" in config else "max_position_embeddings"
            Path(directory, "config.json").write_text(json.dumps(config | {key: max(1024, T)}))
            steps, said = 1, []

            def turn():
                said.append(json.loads(run([program(args, "train"), "--config", directory, "--batch", B, "--seq", T,
                                            "--precision", args.precision, "--bench", steps, "--threads", threads, "--device",
                                            args.device, "--quiet"])))
                return said[-1]["tok_s"]

            steps = max(2, min(1000, int(args.seconds * turn() / (B * T))))
            said.clear()
            turns, states = race(args, {"tea": turn})
            best = max(said, key=lambda s: s["peak_share"])
            results.add(f"scaling/{row}/{label}", "tokens/s", turns["tea"], share=best["peak_share"], limit=args.precision,
                        states=states, parameters=best["parameters"], seq=T, batch=B, threads=threads, bytes=best["bytes"],
                        peak_bytes=best["peak_bytes"])
    if args.svg:
        args.svg.write_text(plot(results))


# ---- the plot: one column a row of points, tokens/s on a logarithmic scale above, the share below --------------------
def plot(results):
    rows = {}
    for r in results.rows:
        _, row, label = r["row"].split("/")
        rows.setdefault(row, []).append((label, r["value"], r["share"]))
    titles = {"threads": "threads", "size": "parameters", "length": "tokens a text"}
    width, height, left, top, gap = 260, 150, 62, 46, 44
    total_w, total_h = len(rows) * (width + left) + 24, 2 * (height + gap) + top + 6
    m, limit = results.machine, results.args.precision
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_w} {total_h}" width="{total_w}" height="{total_h}" '
           f'font-family="sans-serif" font-size="12" fill="#333"><rect width="100%" height="100%" fill="#fff"/>',
           f'<text x="{left}" y="20" font-size="14">training steps in {limit}: {m["cpu"]}, {m["threads"]} threads, '
           f'{m["date"][:10]}</text>']
    for i, (row, values) in enumerate(rows.items()):
        x0 = left + i * (width + left)
        xs = [x0 + (j + 0.5) * width / len(values) for j in range(len(values))]
        for k, what in enumerate(("tokens/s", f"share of the {limit} peak")):
            y0, figures = top + k * (height + gap), [v[1 + k] for v in values]
            if k == 0:
                low, high = math.floor(math.log10(min(figures))), math.ceil(math.log10(max(figures)) + 1e-9)
                ticks = [(10.0 ** e, number(10.0 ** e)) for e in range(low, high + 1)]
                place = lambda v: y0 + height * (1 - (math.log10(v) - low) / (high - low))           # noqa: E731
            else:
                ticks = [(t / 4, f"{25 * t}%") for t in range(5)]
                place = lambda v: y0 + height * (1 - v)                                              # noqa: E731
            out.append(f'<text x="{x0}" y="{y0 - 8}" fill="#777">{what}</text>')
            for tick, text in ticks:
                y = place(tick)
                out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                           f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#777">{text}</text>')
            path = " ".join(f"{x:.1f},{place(v):.1f}" for x, v in zip(xs, figures))
            out.append(f'<polyline points="{path}" fill="none" stroke="#2a6db0" stroke-width="2"/>')
            for x, v, (label, *_) in zip(xs, figures, values):
                text = number(v) if k == 0 else f"{100 * v:.0f}%"
                beside = -8 if place(v) > y0 + 12 else 18    # not into the title
                out.append(f'<circle cx="{x:.1f}" cy="{place(v):.1f}" r="3.5" fill="#2a6db0"/>'
                           f'<text x="{x:.1f}" y="{place(v) + beside:.1f}" text-anchor="middle">{text}</text>'
                           f'<text x="{x:.1f}" y="{y0 + height + 16}" text-anchor="middle">{label}</text>')
        out.append(f'<text x="{x0 + width / 2}" y="{top + 2 * height + gap + 34}" text-anchor="middle">{titles[row]}</text>')
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    main(arguments, measure_all, "scaling")
