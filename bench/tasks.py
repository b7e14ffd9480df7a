#!/usr/bin/env python3
"""tasks.py - no race: what fine-tuning makes of the models that ./train leaves, asked what no training ever showed.

    ./train && ./train --arch bert --out out-bert && python3 bench/tasks.py

Chat: the built-in corpus's questions about facts, and its word problems, as conversations. Held out are combinations: a
fact in a wording it was never asked for in, a problem with other numbers. An answer about a fact is right if it is the
corpus's, letter by letter; a problem's, if the number behind #### is. Classes: BERT reads a word problem and says how it
is reckoned: the operators of its program, in order. Every figure is one seed's.
"""
import json
import re
import tempfile
from pathlib import Path

from common import ROOT, main, parse, parser, program, run

QUESTION = re.compile(r"(?:Question: |问：)(.*)\n(?:Answer: |答：)(.*)\n")
PROGRAM = re.compile(r"(?:Question: |问：)(.*)\n(?:Program:|程序：)\n((?:.+\n)+)")


def arguments(argv=None):
    p = parser(__doc__, quick="a few steps: is the script right? its figures say nothing")
    p.add_argument("--base", type=Path, default=ROOT / "out", help="what ./train left")
    p.add_argument("--bert", type=Path, default=ROOT / "out-bert", help="what ./train --arch bert left")
    return parse(p, argv)


def corpus(args, kind, split, size):
    """Documents of one kind."""
    tool = program(args, "infer").resolve().parent / "corpus"
    return run([tool, "--kind", kind, "--split", split, "--bytes", "60k" if args.quick else size]).split("<|endoftext|>\n")


def pairs(documents, pattern):
    """(question, answer), each once: only those that stand alone, with nothing told before them."""
    return list(dict.fromkeys(m.groups() for d in documents if pattern.match(d) for m in pattern.finditer(d)))


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def steps(args):
    return ["--max-steps", 20] if args.quick else []


def chat(args, results, tmp):
    kinds = {"facts": ("facts", "4M"), "problems": ("math", "3M")}
    asked = {(name, split): [(q, a) for q, a in pairs(corpus(args, kind, split, size if split == "train" else "400k"), QUESTION)
                             if not re.match(r"\d", q)]
             for name, (kind, size) in kinds.items() for split in ("train", "valid")}
    held = {name: asked[name, "valid"][:40 if args.quick else 1000] for name in kinds}
    facts = asked["facts", "train"]
    problems = asked["problems", "train"]
    learnt = facts * max(1, len(problems) // (2 * len(facts))) + problems       # facts are few: as often as they are asked
    data = write(tmp / "chat.jsonl", [{"prompt": q, "completion": a} for q, a in learnt])
    check = write(tmp / "held.jsonl", [{"prompt": q, "completion": a} for name in held for q, a in held[name]])
    run([program(args, "finetune"), "--model", args.base, "--data", data, "--eval-data", check, "--out", tmp / "chat", "--lr",
         "1e-3", "--schedule", "cosine", "--warmup-ratio", "0.05", "--epochs", 2, "--batch", 16, "--seq", 128, "--eval-steps", 0,
         "--save-steps", 0, "--quiet", "--threads", args.threads, *steps(args)])
    for name, rows in held.items():
        prompts = write(tmp / "prompts.jsonl", [{"messages": [{"role": "user", "content": q}]} for q, _ in rows])
        out = run([program(args, "infer"), "--model", tmp / "chat", "--batch", prompts, "--temperature", 0, "--n", 100, "--quiet",
                   "--threads", args.threads])
        said = [json.loads(line)["text"].strip() for line in out.splitlines()]
        number = lambda text: (re.findall(r"####\s*(-?\d+)", text) or [None])[-1]           # noqa: E731
        right = sum(s == a if name == "facts" else number(s) == number(a) for s, (_, a) in zip(said, rows))
        results.add(f"tasks/chat/{name}", "% right", [100 * right / len(rows)], asked=len(rows), learnt=len(asked[name, "train"]))


def classify(args, results, tmp):
    def rows(split, size):
        texts = pairs(corpus(args, "pot", split, size), PROGRAM)
        return [{"text": q, "label": " ".join(re.findall(r"[-+*/]", p))} for q, p in texts]
    learnt, held = rows("train", "2M"), rows("valid", "200k")
    data, check = write(tmp / "labels.jsonl", learnt), write(tmp / "labels-held.jsonl", held)
    run([program(args, "finetune"), "--model", args.bert, "--task", "classify", "--data", data, "--eval-data", check, "--out",
         tmp / "classes", "--lr", "5e-4", "--schedule", "cosine", "--warmup-ratio", "0.05", "--epochs", 2, "--batch", 16, "--seq", 128,
         "--eval-steps", 0, "--save-steps", 0, "--quiet", "--threads", args.threads, *steps(args)])
    log = [json.loads(line) for line in open(tmp / "classes" / "log.jsonl")]
    accuracy = [line["accuracy"] for line in log if line["event"] == "eval"][-1]
    results.add("tasks/classify/operators", "% right", [100 * accuracy], asked=len(held), learnt=len(learnt),
                classes=len({r["label"] for r in learnt}))


def measure_all(args, results):
    with tempfile.TemporaryDirectory(prefix="tea-tasks-") as tmp:
        chat(args, results, Path(tmp))
        classify(args, results, Path(tmp))


if __name__ == "__main__":
    main(arguments, measure_all, "tasks")
