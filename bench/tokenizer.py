#!/usr/bin/env python3
"""tokenizer.py - stage 1 beside tiktoken and Hugging Face tokenizers, in one run on one machine.

    make && python3 bench/tokenizer.py                        # installs its peers into build/peers the first time
    python3 bench/tokenizer.py --text my.txt --json out.json  # your own text
    python3 bench/tokenizer.py --model gpt2 llama2 qwen2      # published tokenizers: directories with tokenizer.json

Two races on the same text: learning a vocabulary, and encoding with it on one thread. The programs take turns and the
medians count, because a shared machine changes from minute to minute. Before any time is printed the results are
compared: the trained file and the ids must be identical, or the script exits 1. With --model nothing is trained: each
directory's tokenizer.json races instead, beside tiktoken where it is byte-level BPE.

Without --text it reads the Python sources of the running interpreter and of the peers: real text, found everywhere.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["tokenizers", "tiktoken"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--venv", default=str(ROOT / "build/peers"), help="virtual environment of the peers")
    p.add_argument("--tokenizer", default=str(ROOT / "tokenizer"), help="the program to measure")
    p.add_argument("--text", nargs="*", help="text files")
    p.add_argument("--train-bytes", type=int, default=50_000_000)
    p.add_argument("--encode-bytes", type=int, default=10_000_000)
    p.add_argument("--vocab", type=int, default=32000)
    p.add_argument("--split", choices=["gpt2", "llama3"], default="gpt2")
    p.add_argument("--rounds", type=int, default=5, help="rounds of encoding")
    p.add_argument("--train-rounds", type=int, default=3)
    p.add_argument("--model", nargs="*", default=[], help="directories with a tokenizer.json")
    p.add_argument("--json", help="write the results here")
    return p.parse_args()


def enter_venv(venv):
    """Continues this script inside the virtual environment, making it and installing the peers first if needed."""
    python = Path(venv) / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    if subprocess.run([python, "-c", "import " + ", ".join(PEERS)], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    if Path(sys.prefix).resolve() != Path(venv).resolve():
        os.execv(python, [str(python), *sys.argv])


def read_documents(files, limit):
    """Documents of valid UTF-8, in an order that does not depend on the file system."""
    if not files:
        roots = {Path(os.__file__).parent, Path(json.__file__).parent.parent, *map(Path, sys.path[1:])}
        files = sorted({str(f) for r in roots if r.is_dir() for f in r.rglob("*.py")})
    documents, total = [], 0
    for name in files:
        try:
            text = Path(name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = text.replace("\x00", "")
        if text.strip() and total < limit:
            documents.append(text)
            total += len(text.encode())
    if not documents:
        sys.exit("no text found: name files with --text")
    return documents, total


def peer_trainer(args):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    if args.split == "gpt2":
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return t, trainers.BpeTrainer(vocab_size=args.vocab, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def race_training(args, documents, work):
    """Median seconds of both; ours include starting, reading the files and writing the result. The text goes to ours
    as .jsonl so that both see the same documents."""
    corpus = work / "corpus.jsonl"
    with open(corpus, "w", encoding="utf-8") as f:
        for d in documents:
            f.write(json.dumps({"text": d}, ensure_ascii=False) + "\n")
    ours, theirs = [], []
    for _ in range(args.train_rounds):
        start = time.perf_counter()
        subprocess.run([args.tokenizer, "train", "--data", str(corpus), "--vocab", str(args.vocab), "--out",
                        str(work / "tea"), "--split", args.split, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        ours.append(time.perf_counter() - start)
        t, trainer = peer_trainer(args)
        start = time.perf_counter()
        t.train_from_iterator(documents, trainer, length=len(documents))
        theirs.append(time.perf_counter() - start)
    t.save(str(work / "peer.json"))
    mine, peer = json.loads((work / "tea/tokenizer.json").read_text()), json.loads((work / "peer.json").read_text())
    if mine["model"] != peer["model"]:
        sys.exit("the trained vocabularies differ: the times mean nothing")
    return {"tea": statistics.median(ours), "tokenizers": statistics.median(theirs)}


def pattern_of(config):
    """The split pattern of a byte-level BPE tokenizer.json; None: it is something else."""
    parts = config["pre_tokenizer"] or {}
    parts = parts.get("pretokenizers", [parts])
    if not parts or parts[-1].get("type") != "ByteLevel" or "merges" not in config["model"]:
        return None
    return parts[0]["pattern"]["Regex"] if parts[0]["type"] == "Split" else GPT2


def tiktoken_of(config):
    """The same vocabulary for tiktoken: bytes instead of the printable characters that spell them."""
    import tiktoken
    pattern, model = pattern_of(config), config["model"]
    if not pattern:
        return None
    special = {t["content"]: t["id"] for t in config["added_tokens"]}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
    ranks = {bytes(byte_of[c] for c in token): i for token, i in model["vocab"].items() if token not in special}
    return tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def race_encoding(args, text, model, work):
    """Median MB/s on one thread. "tea, cold" is the first pass of a new process, its word cache empty."""
    from tokenizers import Tokenizer
    peer = Tokenizer.from_file(str(model / "tokenizer.json"))
    peer.encode_special_tokens = True  # the name of a special token in the text is text, as it is to the other two
    tik = tiktoken_of(json.loads((model / "tokenizer.json").read_text()))
    raw = text.encode()
    (work / "encode.txt").write_bytes(raw)
    command = [args.tokenizer, "encode", "--model", str(model)]
    with open(work / "encode.txt", "rb") as f:
        mine = [int(i) for i in subprocess.run(command, stdin=f, check=True, capture_output=True).stdout.split()]
    if (tik and mine != tik.encode_ordinary(text)) or mine != peer.encode(text, add_special_tokens=False).ids:
        sys.exit("the ids differ: the times mean nothing")
    speeds = {"tea": [], "tea, cold": [], "tiktoken": [], "tokenizers": []}
    for _ in range(args.rounds):
        with open(work / "encode.txt", "rb") as f:
            run = subprocess.run([*command, "--bench", "4"], stdin=f, check=True, capture_output=True)
        seconds = json.loads(run.stdout)["seconds"]
        speeds["tea, cold"].append(len(raw) / seconds[0] / 1e6)
        speeds["tea"].append(len(raw) / statistics.median(seconds[1:]) / 1e6)
        if tik:
            start = time.perf_counter()
            tik.encode_ordinary(text)
            speeds["tiktoken"].append(len(raw) / (time.perf_counter() - start) / 1e6)
        start = time.perf_counter()
        peer.encode(text, add_special_tokens=False)
        speeds["tokenizers"].append(len(raw) / (time.perf_counter() - start) / 1e6)
    return {k: statistics.median(v) for k, v in speeds.items() if v}, len(mine)


def race_published(args, text):
    """Each directory of --model on the same text, in the normal form that some tokenizers would bring it to."""
    result = {}
    text = unicodedata.normalize("NFC", text)
    print(f"{len(text.encode()) / 1e6:.1f} MB, one thread, MB/s (tea is so many times as fast)\n")
    for model in map(Path, args.model):
        with tempfile.TemporaryDirectory() as d:
            speeds, n_ids = race_encoding(args, text, model, Path(d))
        result[model.name] = speeds
        print(f"{model.name:<16}" + "   ".join(f"{k} {v:.1f} ({speeds['tea'] / v:.1f}x)" for k, v in speeds.items()),
              flush=True)
    return result


def main():
    args = arguments()
    if not os.access(args.tokenizer, os.X_OK):
        sys.exit(f"{args.tokenizer} is not there: run make first")
    enter_venv(args.venv)
    import tiktoken
    import tokenizers
    documents, total = read_documents(args.text, args.train_bytes)
    text = "".join(documents).encode()[:args.encode_bytes].decode("utf-8", "ignore")
    if args.model:
        result = race_published(args, text)
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as d:
        train = race_training(args, documents, Path(d))
        encode, n_ids = race_encoding(args, text, Path(d) / "tea", Path(d))
    result = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "split": args.split,
              "vocab": args.vocab, "train_bytes": total, "encode_bytes": len(text.encode()), "encode_ids": n_ids,
              "train_s": train, "encode_MB_s": encode,
              "versions": {"tiktoken": tiktoken.__version__, "tokenizers": tokenizers.__version__}}
    print(f"{total / 1e6:.1f} MB of text, {len(documents)} documents, vocabulary {args.vocab}, split {args.split}; "
          f"{len(text.encode()) / 1e6:.1f} MB encoded into {n_ids} ids\n")
    print(f"{'learning':<14}{'seconds':>10}{'tea is':>12}")
    for name, s in train.items():
        print(f"{name:<14}{s:>10.2f}{s / train['tea']:>11.1f}x")
    print(f"\n{'encoding':<14}{'MB/s':>10}{'tea is':>12}")
    for name, v in encode.items():
        print(f"{name:<14}{v:>10.1f}{encode['tea'] / v:>11.1f}x")
    print("\n" + json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
