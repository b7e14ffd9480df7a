#!/usr/bin/env python3
"""tokenizer_fuzz.py - random strings through our tokenizer and through the official library: every id must be the same.

    make && python3 bench/tokenizer_fuzz.py gpt2 llama2 --count 100000 --seed 7
    python3 bench/tokenizer_fuzz.py chatglm3-6b --text book.txt        # stretches of your own texts among the strings

Each directory is judged by the library that reads its first file: tokenizer.json by tokenizers, tokenizer.model and
ice_text.model (with what ChatGLM-6B's code does around it) by sentencepiece, vocab.txt by tokenizers' BERT class. The
strings: characters of all planes, scripts mixed, tokens of the vocabulary, special tokens inside text (recognised and
not), long rows of one character, stretches of real text; where the library takes bytes, broken UTF-8. A part of the ids
is decoded again, as are random ids. Prints counts and the first differences; exits 1 if there are any. Same seed, same
strings.

This is no race. Every batch is one process of ours, whose documents end with a NUL (or a line break, for strings that
hold a NUL).
"""
import argparse
import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["tokenizers", "sentencepiece"]
BATCH = 4000
SHOWN = 5
PLANES = [(0x20, 0x7F), (0x20, 0x7F), (0, 0x20), (0x7F, 0x250), (0x250, 0x590), (0x590, 0x900), (0x900, 0x1100),
          (0x1100, 0x1200), (0x1200, 0x2000), (0x2000, 0x2C00), (0x2C00, 0x3400), (0x3400, 0x4E00), (0x4E00, 0xA000),
          (0x4E00, 0xA000), (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xE000, 0x10000), (0x10000, 0x20000),
          (0x1F300, 0x1FB00), (0x20000, 0x40000), (0x40000, 0x110000)]
BITS = (" |  |\n|\r\n|\t|\r| \n|\n\n|the| The|'s|'LL|n't|e\u0301|\u0301|\u0300\u0327|.|...|--|, |!?|$|0|12|123|4567|\u00bd|\u0663"
        "|\ufb01|\u212b|\u0130|\u017f|\u00df|\u01c4|\uac00\u11a8|\u1100|\u1161|\u200d|\u200b|\u00a0|\u3000|\u2028|\u0085|\u2581"
        "|\u2581\u2581|\ufeff|\ufffd|\U0001f469\u200d\U0001f467|\U0001f1e9\U0001f1ea|\u0928\u094d|\u0e44\u0e17\u0e22|\u0639|"
        "<0x41>|<n>|<|tab|>|<|blank_3|>|##|\u3002|\uff0c|\u201c|\u4e00|\u4e2d\u6587|\x00|\u07fd|\ufdfa").split("|")
BITS += ["<|tab|>", "<|blank_12|>", "|"]
GLM3_ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", nargs="+", help="directories of tokenizers")
    p.add_argument("--count", type=int, default=20000, help="strings for each")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--text", nargs="*", default=[], help="text files to take stretches from")
    p.add_argument("--venv", default=str(ROOT / "build/peers"), help="virtual environment of the peers")
    p.add_argument("--tokenizer", default=str(ROOT / "tokenizer"), help="the program to test")
    p.add_argument("--json", help="write the counts here")
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


class HuggingFace:
    """tokenizer.json, or BERT's vocab.txt."""
    takes_bytes = False

    def __init__(self, directory):
        from tokenizers import BertWordPieceTokenizer, Tokenizer
        if (directory / "tokenizer.json").exists():
            self.t = Tokenizer.from_file(str(directory / "tokenizer.json"))
        else:
            config = json.loads((directory / "tokenizer_config.json").read_text())
            lower = config.get("do_lower_case", True)
            with open(directory / "vocab.txt", encoding="utf-8") as f:     # as transformers reads it: U+2028 is a token
                vocab = {line.rstrip("\n"): i for i, line in enumerate(f)}
            self.t = BertWordPieceTokenizer(vocab, lowercase=lower)._tokenizer
        self.n_ids = self.t.get_vocab_size()
        self.specials = [a.content for a in self.t.get_added_tokens_decoder().values()]
        self.pieces = [self.t.decode([i]) for i in range(self.n_ids)]

    def encode(self, texts, special):
        self.t.encode_special_tokens = not special
        return [e.ids for e in self.t.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, rows, skip):
        return [self.t.decode(r, skip_special_tokens=skip) for r in rows]


class SentencePiece:
    """tokenizer.model; ChatGLM3's, where roles may be recognised; ChatGLM-6B's, with words for blanks."""
    takes_bytes = True

    def __init__(self, directory):
        import sentencepiece
        ice = directory / "ice_text.model"
        self.t = sentencepiece.SentencePieceProcessor()
        self.t.LoadFromFile(str(ice if ice.exists() else directory / "tokenizer.model"))
        self.glm_6b = ice.exists()
        config = directory / "tokenizer_config.json"
        name = json.loads(config.read_text()).get("tokenizer_class") if config.exists() else None
        self.roles = GLM3_ROLES if name == "ChatGLMTokenizer" and not self.glm_6b else []
        self.n_ids = self.t.GetPieceSize()
        self.specials = self.roles + [self.t.IdToPiece(i) for i in range(self.n_ids) if self.t.IsControl(i)]
        self.pieces = [self.t.IdToPiece(i).replace("\u2581", " ") for i in range(self.n_ids)]

    def prepare(self, text):
        if self.glm_6b:
            text = text.replace(b"\n", b"<n>").replace(b"\t", b"<|tab|>")
            for n in range(80, 1, -1):
                text = text.replace(b" " * n, b"<|blank_%d|>" % n)
        return text

    def encode_one(self, text, special):
        ids, rest = [], self.prepare(text)
        while special and self.roles:
            found = [(rest.find(r.encode()), i) for i, r in enumerate(self.roles) if r.encode() in rest]
            if not found:
                break
            at, i = min(found)
            ids += self.t.EncodeAsIds(rest[:at]) + [self.n_ids + 5 + i]
            rest = rest[at + len(self.roles[i]):]
        return ids + self.t.EncodeAsIds(rest)

    def encode(self, texts, special):
        if special and not self.roles: # Llama-2's own code never recognises them
            return None
        return [self.encode_one(s, special) for s in texts]

    def decode(self, rows, skip):
        if skip:
            return None
        texts = [self.t.DecodeIds(r) if max(r, default=0) < self.n_ids else None for r in rows]
        if self.glm_6b:
            for n in range(80, 1, -1):
                texts = [s.replace(f"<|blank_{n}|>", " " * n) for s in texts]
            texts = [s.replace("<n>", "\n").replace("<|tab|>", "\t") for s in texts]
        return texts


def judge_of(directory):
    for name in ("tokenizer.json", "tokenizer.model", "ice_text.model", "vocab.txt"):
        if (directory / name).exists():
            return SentencePiece(directory) if name.endswith(".model") else HuggingFace(directory)
    sys.exit(f"{directory}: no tokenizer.json, tokenizer.model, ice_text.model or vocab.txt")


class Strings:
    def __init__(self, seed, judge, corpus):
        self.r, self.judge, self.corpus = random.Random(seed), judge, corpus

    def character(self):
        r = self.r
        c = r.randrange(*r.choice(PLANES))
        return chr(c) if not 0xD800 <= c < 0xE000 else "\u00e9"

    def text(self):
        r = self.r
        parts = []
        kind = r.random()
        for _ in range(r.choice((1, 1, 2, 3, 5, 8, 13, 21))):
            k = r.random() if kind < 0.6 else kind
            if k < 0.2:
                parts.append(r.choice(BITS))
            elif k < 0.35:
                parts.append("".join(self.character() for _ in range(r.choice((1, 1, 2, 4, 9)))))
            elif k < 0.55 or (k < 0.7 and not self.corpus) or kind > 0.9:
                parts.append(r.choice(self.judge.pieces))
            elif k < 0.7:
                text = r.choice(self.corpus)
                at = r.randrange(len(text))
                parts.append(text[at:at + r.choice((3, 10, 30, 100))])
            elif k < 0.8 and self.judge.specials:
                parts += [r.choice(("", " ", "  ", "a")), r.choice(self.judge.specials), r.choice(("", " ", "b"))]
            elif k < 0.85:
                c = r.choice((" ", " ", "\n", "\t", "a", "=", "0", "\u7684", "\u0301", "ab", self.character()))
                parts.append(c * r.choice((2, 3, 4, 7, 16, 17, 31, 32, 33, 79, 80, 81, 97, 170)))
            else:
                a, b = r.randrange(*r.choice(PLANES[:16])), r.randrange(1, 40)
                parts.append("".join(chr(min(a + r.randrange(b), 0xD7FF)) for _ in range(r.randrange(1, 12))))
        return "".join(parts)

    def broken(self, text):
        r, text = self.r, bytearray(text)
        for _ in range(r.randrange(1, 5)):
            at, k = r.randrange(len(text) + 1), r.random()
            if k < 0.4:
                text[at:at + 1] = bytes([r.randrange(128, 256)])
            elif k < 0.7:
                del text[at:at + 1]
            else:
                text[at:at] = bytes([r.randrange(256)])
        return bytes(text)

    def batch(self, n):
        texts = [self.text() for _ in range(n)]
        if not self.judge.takes_bytes:
            return texts
        texts = [s.encode() for s in texts]
        return [self.broken(s) if self.r.random() < 0.2 else s for s in texts]

    def rows(self, encoded):
        """Ids to decode: of strings, shuffled, thinned out, random."""
        r, rows = self.r, []
        for ids in encoded:
            ids, k = list(ids), r.random()
            if k < 0.25:
                r.shuffle(ids)
            elif k < 0.5:
                ids = [i for i in ids if r.random() < 0.7]
            elif k < 0.75:
                ids = [r.randrange(r.choice((260, self.judge.n_ids))) for _ in range(r.randrange(1, 20))]
            rows.append(ids)
        return [ids for ids in rows if ids]


class Ours:
    def __init__(self, program, directory):
        self.program, self.directory = program, str(directory)

    def run(self, command, options, data):
        r = subprocess.run([self.program, command, "--model", self.directory, *options], input=data, capture_output=True)
        if r.returncode:
            sys.exit(f"{self.program} {command} died: {r.stderr.decode(errors='replace')}")
        return r.stdout

    def encode(self, texts, special):
        """Ids of each text; None where a text holds both a NUL and a line break."""
        result = [None] * len(texts)
        for option, end, other in (("--null", b"\0", b"\n"), ("--lines", b"\n", b"\0")):
            mine = [i for i, s in enumerate(texts) if end not in s and (end == b"\0" or other in s)]
            out = self.run("encode", [option] + ["--special"] * special, b"".join(texts[i] + end for i in mine))
            lines = out.split(b"\n")[:-1]
            assert len(lines) == len(mine)
            for i, line in zip(mine, lines):
                result[i] = [int(n) for n in line.split()]
        return result

    def decode(self, rows, skip):
        """The texts; those that hold a NUL are left to pieces of the caller's comparison: joined by NULs."""
        data = b"".join(b" ".join(b"%d" % i for i in ids) + b"\n" for ids in rows)
        return self.run("decode", ["--null", "--utf8"] + ["--skip-special"] * skip, data)


def fuzz(args, directory, corpus):
    judge = judge_of(directory)
    seed = args.seed ^ zlib.crc32(directory.name.encode())
    strings, ours = Strings(seed, judge, corpus), Ours(args.tokenizer, directory)
    count = {"strings": 0, "bytes": 0, "ids": 0, "with special": 0, "decoded": 0, "both NUL and line break": 0,
             "differences": 0}

    def compare(what, given, expected, got):
        if expected == got:
            return
        count["differences"] += 1
        if count["differences"] <= SHOWN:
            print(f"{directory.name}: {what}\n  given    {given!r}\n  library  {expected!r}\n  ours     {got!r}", flush=True)

    while count["strings"] < args.count:
        texts = strings.batch(min(BATCH, args.count - count["strings"]))
        raw = [s if judge.takes_bytes else s.encode() for s in texts]
        plain = judge.encode(texts, False)
        for text, expected, got in zip(texts, plain, ours.encode(raw, False)):
            if got is None:
                count["both NUL and line break"] += 1
            else:
                compare("ids", text, expected, got)
        count["strings"] += len(texts)
        count["bytes"] += sum(map(len, raw))
        count["ids"] += sum(map(len, plain))
        marked = [i for i, s in enumerate(raw) if any(a.encode() in s for a in judge.specials)]
        special = judge.encode([texts[i] for i in marked], True)
        if special:
            for i, expected, got in zip(marked, special, ours.encode([raw[i] for i in marked], True)):
                if got is not None:
                    compare("ids, special tokens recognised", texts[i], expected, got)
            count["with special"] += len(marked)
        rows = strings.rows(strings.r.sample(plain, len(plain) // 4) + (special or [])[:200])
        for skip in (False, True):
            expected = judge.decode(rows, skip)
            if expected is None:
                continue
            known = [i for i, s in enumerate(expected) if s is not None]
            got = ours.decode([rows[i] for i in known], skip).decode()
            count["decoded"] += len(known)
            whole = "".join(expected[i] + "\0" for i in known)
            if whole == got: # no need to know which NUL ends a text
                continue
            for i in known:
                compare("text" + " without special tokens" * skip, rows[i], expected[i] + "\0",
                        ours.decode([rows[i]], skip).decode())
    print(directory.name + ": " + ", ".join(f"{n} {what}" for what, n in count.items()), flush=True)
    return count


def main():
    args = arguments()
    if not os.access(args.tokenizer, os.X_OK):
        sys.exit(f"{args.tokenizer} is not there: run make first")
    enter_venv(args.venv)
    corpus = [Path(name).read_text(encoding="utf-8") for name in args.text]
    result = {Path(m).name: fuzz(args, Path(m), corpus) for m in args.model}
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(c["differences"] for c in result.values()))


if __name__ == "__main__":
    main()
