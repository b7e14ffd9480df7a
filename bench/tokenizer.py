#!/usr/bin/env python3
"""tokenizer.py - stage 1 beside tiktoken, Hugging Face tokenizers and SentencePiece, in one run on one machine.

    make && make bench-programs && python3 bench/tokenizer.py --peers install
    python3 bench/tokenizer.py --text my.txt --json out.json  # your own text
    python3 bench/tokenizer.py --model gpt2 llama2 chatglm-6b # published tokenizers: their directories
    python3 bench/tokenizer.py --model llama2 --text zh.txt   # the text is one document, as long as it is

Two races on the same text: learning a vocabulary, and encoding with it on one thread. The programs take turns and the
medians count, because a shared machine changes from minute to minute. Before any time is printed the results are
compared: the trained file and the ids must be identical, or the script exits 1. With --model nothing is trained: each
directory races instead, beside the library that reads its files: tokenizers for a tokenizer.json or vocab.txt, tiktoken,
too, where it is byte-level BPE, sentencepiece for a tokenizer.model or ice_text.model.

Without --text it reads the Python sources of the running interpreter: real text, found everywhere.
"""
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

from common import Peer, main, parse, parser, peers_python, program, race, run, serve

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--text", nargs="*", type=Path, help="text files")
    p.add_argument("--train-bytes", type=int, help="default: 50 MB, quick: 5")
    p.add_argument("--encode-bytes", type=int, help="default: 10 MB, quick: 2")
    p.add_argument("--vocab", type=int, default=32000)
    p.add_argument("--split", choices=["gpt2", "llama3"], default="gpt2")
    p.add_argument("--train-rounds", type=int, help="default: 3, quick: 1")
    p.add_argument("--model", nargs="*", type=Path, default=[], help="directories of tokenizers")
    args = parse(p, argv)
    args.train_bytes = args.train_bytes or (5_000_000 if args.quick else 50_000_000)
    args.encode_bytes = args.encode_bytes or (2_000_000 if args.quick else 10_000_000)
    args.train_rounds = args.train_rounds or (1 if args.quick else 3)
    return args


def read_documents(files, limit):
    """Documents of valid UTF-8, in an order that does not depend on the file system."""
    if not files:
        roots = {Path(os.__file__).parent, Path(json.__file__).parent.parent}
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
        raise SystemExit("no text found: name files with --text")
    return documents, total


# ---- the peers' side: a process that learns, or encodes, when it is told to ------------------------------------------
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


def worker(job):
    import sentencepiece
    import tiktoken
    import tokenizers
    from tokenizer_fuzz import SentencePiece, judge_of
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    text, call = "", {}

    def learn(corpus, out):
        documents = [json.loads(line)["text"] for line in open(corpus, encoding="utf-8")]
        t = Tokenizer(models.BPE())
        if job["split"] == "gpt2":
            t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=job["vocab"], special_tokens=["<|endoftext|>"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        start = time.perf_counter()
        t.train_from_iterator(documents, trainer, length=len(documents))
        took = time.perf_counter() - start
        t.save(out)
        return took

    def load(file, model):
        """Hashes of the ids that each program makes of the file's text."""
        nonlocal text
        text = Path(file).read_bytes().decode()
        call.clear()
        judge, path = judge_of(Path(model)), Path(model, "tokenizer.json")
        if isinstance(judge, SentencePiece):
            prepared = judge.prepare(text.encode())
            call["sentencepiece"] = lambda: judge.t.EncodeAsIds(prepared)
        else:
            judge.t.encode_special_tokens = True # the name of a special token in the text is text, as to the others
            call["tokenizers"] = lambda: judge.t.encode(text, add_special_tokens=False).ids
        tik = path.exists() and tiktoken_of(json.loads(path.read_text()))
        if tik:
            call["tiktoken"] = lambda: tik.encode_ordinary(text)
        return {name: digest(encode()) for name, encode in call.items()}

    def encode(name):
        start = time.perf_counter()
        call[name]()
        return time.perf_counter() - start

    serve(dict(tiktoken=tiktoken.__version__, tokenizers=tokenizers.__version__, sentencepiece=sentencepiece.__version__),
          lambda what, **rest: dict(learn=learn, load=load, encode=encode)[what](**rest))


def digest(ids):
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


# ---- the races -------------------------------------------------------------------------------------------------------
def race_training(args, results, peer, documents, total, work):
    """Seconds; ours include starting, reading the files and writing the result. Both get one .jsonl."""
    corpus = work / "corpus.jsonl"
    with open(corpus, "w", encoding="utf-8") as f:
        for d in documents:
            f.write(json.dumps({"text": d}, ensure_ascii=False) + "\n")

    def tea():
        start = time.perf_counter()
        run([program(args, "tokenizer"), "train", "--data", corpus, "--vocab", args.vocab, "--out", work / "tea", "--split",
             args.split, "--threads", args.threads, "--quiet"])
        return time.perf_counter() - start

    players = {"tea": tea}
    if peer:
        players["tokenizers"] = lambda: peer.ask(what="learn", corpus=str(corpus), out=str(work / "peer.json"))
    turns, states = race(args, players, args.train_rounds)
    if peer and json.loads((work / "tea/tokenizer.json").read_text())["model"] != json.loads(
            (work / "peer.json").read_text())["model"]:
        raise SystemExit("the trained vocabularies differ: the times mean nothing")
    results.add("tokenizer/learn", "s", turns.pop("tea"), "lower", peers=turns, states=states, bytes=total,
                documents=len(documents), vocab=args.vocab, split=args.split, versions=peer and peer.facts)


def race_encoding(args, results, peer, name, text, model, work):
    """MB/s on one thread. "cold" is the first pass of a new process, its word cache empty."""
    raw, file, cold = text.encode(), work / "encode.txt", []
    file.write_bytes(raw)
    command = [program(args, "tokenizer"), "encode", "--model", model, "--threads", 1]
    mine = run(command, stdin=open(file, "rb")).split()
    kinds = peer.ask(what="load", file=str(file), model=str(model)) if peer else {}
    if any(d != digest(mine) for d in kinds.values()):
        raise SystemExit(f"{name}: the ids differ: the times mean nothing")

    def tea():
        seconds = json.loads(run([*command, "--bench", 4], stdin=open(file, "rb")))["seconds"]
        cold.append(len(raw) / seconds[0] / 1e6)
        return len(raw) / statistics.median(seconds[1:]) / 1e6

    players = {"tea": tea} | {k: lambda k=k: len(raw) / peer.ask(what="encode", name=k) / 1e6 for k in kinds}
    turns, states = race(args, players)
    facts = dict(bytes=len(raw), ids=len(mine), versions=peer and peer.facts)
    ours = turns.pop("tea")
    results.add(f"tokenizer/encode/{name}", "MB/s", ours, peers=turns, states=states, **facts)
    results.add(f"tokenizer/encode-cold/{name}", "MB/s", cold, peers=turns, states=states, **facts)


def measure_all(args, results):
    python = peers_python(args, ["tokenizers", "tiktoken", "sentencepiece"])
    peer = Peer(python, __file__, args, dict(split=args.split, vocab=args.vocab)) if python else None
    documents, total = read_documents(args.text, args.train_bytes)
    text = "".join(documents).encode()[:args.encode_bytes].decode("utf-8", "ignore")
    with tempfile.TemporaryDirectory() as d:
        if not args.model:
            race_training(args, results, peer, documents, total, Path(d))
            race_encoding(args, results, peer, f"bpe-{args.vocab}", text, Path(d) / "tea", Path(d))
        for model in args.model:                 # the normal form that some tokenizers would bring it to
            race_encoding(args, results, peer, model.name, unicodedata.normalize("NFC", text), model, Path(d))
    if peer:
        peer.close()


if __name__ == "__main__":
    main(arguments, measure_all, "tokenizers", worker)
