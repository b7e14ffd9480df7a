#!/usr/bin/env python3
"""speculative.py - guesses must change nothing: many prompts, plain and with --draft, and every id compared.

    python3 bench/speculative.py --model out --draft small [--count 1000] [--n 32] [--kv-cache int8] [--text book.txt]

Prompts are stretches of the text, from a few bytes to a few hundred, many of which begin in the middle of a word. Each
is continued plainly, with --draft lookup and with the smaller model's guesses (--draft-tokens from 1 to 7), greedily and
sampled, with a seed of its own. Prints how many differ and how many guesses were right; exits 1 if any differs.

This is no race.
"""
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import common


def arguments():
    p = common.parser(__doc__, quick="50 prompts")
    p.add_argument("--model", type=Path, default=common.ROOT / "out")
    p.add_argument("--draft", type=Path, help="a smaller model with the same tokenizer (default: lookup alone)")
    p.add_argument("--text", type=Path, help="where prompts come from (default: the built-in corpus, its unseen part)")
    p.add_argument("--count", type=int, default=1000, help="prompts")
    p.add_argument("--n", type=int, default=32, help="tokens of an answer")
    p.add_argument("--kv-cache", choices=["auto", "int8"], default="auto")
    p.add_argument("--seed", type=int, default=1)
    args = common.parse(p)
    args.count = 50 if args.quick else args.count
    return args


def prompts(args):
    if args.text:
        text = args.text.read_text(encoding="utf-8")
    else:
        corpus = (args.build / "infer").resolve().parent / "corpus"
        text = common.run([corpus, "--split", "valid", "--bytes", "1M"])
    text = text.replace("<|endoftext|>", " ").replace("\0", " ")
    draw = random.Random(args.seed)
    for _ in range(args.count):
        at, length = draw.randrange(max(1, len(text) - 400)), int(2 ** draw.uniform(1, 8.5))
        stretch = text[at:at + length].strip()
        yield "The" if stretch in ("", "-") else stretch       # --prompt=- would read stdin


def answer(args, prompt, *options):
    """Its ids, and (right, guessed)."""
    command = [common.program(args, "infer"), "--model", args.model, "--prompt=" + prompt, "--n", args.n, "--json", "--ignore-eos",
               "--threads", args.threads, "--kv-cache", args.kv_cache, *options]
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {r.returncode}\n{r.stderr[-2000:]}")
    said = re.search(r"(\d+) of (\d+) guesses right", r.stderr)
    return json.loads(r.stdout)["ids"], (int(said[1]), int(said[2])) if said else (0, 0)


def main():
    args = arguments()
    os.environ["OMP_WAIT_POLICY"] = "passive"
    kinds = {"greedy": ("--temperature", 0), "sampled": ("--temperature", 1, "--top-p", 0.95)}
    ways = {"lookup": "lookup"} | ({"a smaller model": args.draft} if args.draft else {})
    rows = {(kind, way): {"kind": kind, "draft": way, "prompts": 0, "differ": 0, "right": 0, "guessed": 0}
            for kind in kinds for way in ways}
    for i, prompt in enumerate(prompts(args)):
        for kind, how in kinds.items():
            plain, _ = answer(args, prompt, *how, "--seed", i)
            for way, draft in ways.items():
                ids, (right, guessed) = answer(args, prompt, *how, "--seed", i, "--draft", draft, "--draft-tokens", 1 + i % 7)
                row = rows[kind, way]
                row["prompts"] += 1
                row["right"] += right
                row["guessed"] += guessed
                if ids != plain:
                    row["differ"] += 1
                    print(f"DIFFERS  {kind}, {way}, seed {i}: {prompt!r}\n  {plain}\n  {ids}")
    for row in rows.values():
        print(f"{row['kind']:<8} {row['draft']:<16} {row['prompts']:>6} prompts {row['differ']:>4} differ  "
              f"{row['right']} of {row['guessed']} guesses right")
    if args.json:
        args.json.write_text(json.dumps({"kv_cache": args.kv_cache, "tokens": args.n, "rows": list(rows.values())}, indent=1))
    sys.exit(any(row["differ"] for row in rows.values()))


if __name__ == "__main__":
    main()
