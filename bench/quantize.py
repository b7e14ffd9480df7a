#!/usr/bin/env python3
"""quantize.py - what each way of quantising costs: bits, perplexity, KL divergence; and llama.cpp's formats beside it.

    python3 bench/quantize.py --model out --calibration corpus:300k --eval corpus-valid:100k
                              [--build build/gcc] [--group 128] [--llama-cpp DIR] [--json FILE]

Each row is a directory that ./quantize made, measured with ./infer --eval --reference: the same tokens, the same windows.

With --llama-cpp (a source tree of llama.cpp with gguf-py/, and llama-quantize built in it or given with --llama-quantize)
the same Llama model is written as GGUF, quantised by llama-quantize to Q8_0, Q4_0 and Q4_K_M, read back to floats by
gguf's own code, and measured by the same ./infer: what the formats keep, on the same tokens. Only the matrices of the
blocks are taken from it, as ours quantise only those; both sides keep embedding and head. (llama.cpp also rounds a
product's inputs to 8 bits, which is not in its rows; in ours that is --activations dynamic.) Needs numpy.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

OURS = [  # name, options; {g} is --group, {c} the calibration text
    ("int8", "--bits 8"),
    ("int8, dynamic int8 inputs", "--bits 8 --activations dynamic"),
    ("int8, dynamic, ranges moved", "--bits 8 --activations dynamic --method rtn --smooth 0.5 {c}"),
    ("int8, static int8 inputs", "--bits 8 --activations static --method rtn {c}"),
    ("int8, static, ranges moved", "--bits 8 --activations static --method rtn --smooth 0.5 {c}"),
    ("int4 to nearest", "--bits 4 --group {g}"),
    ("int4 to nearest, zero points", "--bits 4 --group {g} --symmetric no"),
    ("int4 GPTQ", "--bits 4 --group {g} {c}"),
    ("int4 GPTQ, dynamic int8 inputs", "--bits 4 --group {g} --activations dynamic {c}"),
    ("int4 GPTQ, zero points", "--bits 4 --group {g} --symmetric no {c}"),
    ("int4 GPTQ, ranges moved", "--bits 4 --group {g} --smooth 0.25 {c}"),
    ("int4 GPTQ, zero points, ranges moved", "--bits 4 --group {g} --symmetric no --smooth 0.25 {c}"),
    ("int4 GPTQ, rotated", "--bits 4 --group {g} --rotate {c}"),
    ("int4 GPTQ, some int8", "--bits 4 --group {g} --budget {b}bpw {c}"),
    ("int4 GPTQ, some int8, both", "--bits 4 --group {g} --budget {b}bpw --symmetric no --smooth 0.25 {c}"),
]
THEIRS = ["Q8_0", "Q4_0", "Q4_K_M"]
# Our names of a block's matrices, llama.cpp's, and whether its rows are reordered for rotation in pairs.
MATRICES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down"}
VECTORS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
ENDS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight"}


def sh(*command):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.rows = args, folder, []

    def program(self, name):
        return os.path.join(os.path.abspath(self.args.build), name)

    def measure(self, name, directory, bits, extra=None):
        e = json.loads(sh(self.program("infer"), "--model", directory, "--reference", self.args.model, "--quiet", "--json",
                          "--precision", "f32", "--eval", *self.args.eval))
        before = e["reference_perplexity"]
        row = {"name": name, "bits_per_weight": bits, "perplexity": e["perplexity"], "perplexity_before": before,
               "rise": e["perplexity"] / before - 1, "kl": e["kl"], "top1": e["top1"]} | (extra or {})
        if not self.rows:
            print(f"{self.args.model}: perplexity {before:.4f} on {e['tokens']} tokens\n"
                  f"{'':<38} {'bits':>7} {'perplexity':>11} {'rise':>9} {'KL':>9} {'top-1':>8}")
        self.rows.append(row)
        print(f"{name:<38} {bits:>7.3f} {row['perplexity']:>11.4f} {100 * row['rise']:>+8.3f}% {row['kl']:>9.5f} "
              f"{100 * row['top1']:>7.2f}%", flush=True)

    def ours(self, name, options):
        out = os.path.join(self.folder, "ours")
        options = options.format(g=self.args.group, b=self.args.budget,
                                 c="--calibration " + " ".join(self.args.calibration)).split()
        result = json.loads(sh(self.program("quantize"), "--model", self.args.model, "--out", out, "--overwrite", "--quiet",
                               "--json", *options))
        self.measure(name, out, result["bits_per_weight"], {"options": options, "seconds": result["seconds"],
                                                            "mean_error": result["mean_error"]})

    # ---- llama.cpp
    def llama_cpp(self):
        import numpy as np
        sys.path.insert(0, os.path.join(self.args.llama_cpp, "gguf-py"))
        import gguf
        with open(os.path.join(self.args.model, "config.json")) as f:
            c = json.load(f)
        if c["model_type"] != "llama" or c.get("attention_bias") or c.get("mlp_bias"):
            sys.exit("--llama-cpp: only for plain Llama models")
        tensors = read_safetensors(os.path.join(self.args.model, "model.safetensors"))
        heads, kv = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]

        def pairs(w, n):     # half-split rotation -> pairs, head by head
            return w.reshape(n, 2, w.shape[0] // n // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

        def halves(w, n):    # and back
            return w.reshape(n, w.shape[0] // n // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

        source = os.path.join(self.folder, "f32.gguf")
        w = gguf.GGUFWriter(source, "llama")
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        w.add_block_count(c["num_hidden_layers"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_head_count(heads)
        w.add_head_count_kv(kv)
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        w.add_rope_dimension_count(c.get("head_dim") or c["hidden_size"] // heads)
        w.add_vocab_size(c["vocab_size"])
        w.add_file_type(gguf.LlamaFileType.ALL_F32)
        w.add_tokenizer_model("none")
        for name, x in tensors.items():
            m = re.match(r"model\.layers\.(\d+)\.(.*)\.weight$", name)
            if not m:
                w.add_tensor(ENDS[name], x)
                continue
            kind = MATRICES.get(m[2]) or VECTORS[m[2]]
            x = pairs(x, heads if kind == "attn_q" else kv) if kind in ("attn_q", "attn_k") else x
            w.add_tensor(f"blk.{m[1]}.{kind}.weight", np.ascontiguousarray(x))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        quantise = self.args.llama_quantize or os.path.join(self.args.llama_cpp, "build", "bin", "llama-quantize")
        for kind in THEIRS:
            target = os.path.join(self.folder, f"{kind}.gguf")
            log = subprocess.run([quantise, source, target, kind, str(os.cpu_count())], capture_output=True, text=True)
            if log.returncode:
                print(f"llama.cpp {kind:<20} not for this model: {(log.stdout + log.stderr).strip().splitlines()[-1]}")
                continue
            read = {t.name: t for t in gguf.GGUFReader(target).tensors}
            out, stored, weights, kinds = dict(tensors), 0, 0, {}
            for name, x in tensors.items():
                m = re.match(r"model\.layers\.(\d+)\.(.*)\.weight$", name)
                if not m or m[2] not in MATRICES:
                    continue
                t = read[f"blk.{m[1]}.{MATRICES[m[2]]}.weight"]
                y = gguf.quants.dequantize(t.data, t.tensor_type).reshape(x.shape).astype(np.float32)
                y = halves(y, heads if m[2] == "self_attn.q_proj" else kv) if re.search("[qk]_proj", m[2]) else y
                out[name] = np.ascontiguousarray(y)
                stored, weights = stored + t.n_bytes, weights + x.size
                kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
            directory = os.path.join(self.folder, "theirs")
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
            for f in os.listdir(self.args.model):
                if f.endswith((".json", ".model", ".txt")):
                    shutil.copy(os.path.join(self.args.model, f), directory)
            write_safetensors(os.path.join(directory, "model.safetensors"), out)
            self.measure(f"llama.cpp {kind}", directory, 8 * stored / weights, {"types": kinds})


def read_safetensors(path):
    import numpy as np
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        base = f.tell()
        out = {}
        for name, t in header.items():
            if name == "__metadata__":
                continue
            f.seek(base + t["data_offsets"][0])
            raw = f.read(t["data_offsets"][1] - t["data_offsets"][0])
            if t["dtype"] == "BF16":
                x = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
            else:
                x = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]]).astype("<f4")
            out[name] = x.reshape(t["shape"])
    return out


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            f.write(x.astype("<f4").tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="out")
    p.add_argument("--build", default="build/gcc", help="directory of the built programs")
    p.add_argument("--calibration", nargs="+", default=["corpus:300k"])
    p.add_argument("--eval", nargs="+", default=["corpus-valid:100k"])
    p.add_argument("--group", type=int, default=128, help="of the int4 rows; must divide the model's widths")
    p.add_argument("--budget", type=float, default=5, help="bits per weight of the row with some int8")
    p.add_argument("--rows", help="only rows whose name contains this")
    p.add_argument("--llama-cpp", metavar="DIR", help="llama.cpp's source tree")
    p.add_argument("--llama-quantize", metavar="PROGRAM", help="where it is, if not in build/bin of that tree")
    p.add_argument("--json", help="write the rows there")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        b = Bench(args, folder)
        for name, options in OURS:
            if not args.rows or args.rows in name:
                b.ours(name, options)
        if args.llama_cpp:
            b.llama_cpp()
    if args.json:
        with open(args.json, "w") as f:
            json.dump(b.rows, f, indent=1)


if __name__ == "__main__":
    main()
