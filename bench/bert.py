#!/usr/bin/env python3
"""bert.py - BERT-base beside PyTorch's: embeddings per second, and fine-tuning steps, in one run on one machine.

    make && python3 bench/bert.py                                        # installs its peers into build/peers first
    python3 bench/bert.py --what embed --rounds 1                        # a quick look
    python3 bench/bert.py --layers 2 --json r.json

Both programs get the same config.json (BERT-base: 12 layers, width 768, 12 heads, vocabulary 30522), random weights,
batches of 16 texts of 128 tokens without padding, and the same number of threads.

embed  ./infer --bench --config, and transformers' BertModel without its pooler, in inference mode with fused attention;
       in bf16 its weights are bf16. Each side's figure of a turn is its fastest batch.
train  ./train --bench --config of a classifier with two classes, and a step of BertForSequenceClassification: zero the
       gradients, forward, loss, backward, clip the norm to 1, AdamW with decayed matrices; no dropout; in bf16 under
       autocast. Each side's figure of a turn is the median of its steps.

The programs take turns, --rounds times, and the medians of the turns count; a process that waits for its turn sleeps.
Needs a machine with nothing else to do; the load is recorded.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train import ROOT, Peer, machine, peers_python

BATCH, SEQ = 16, 128
BERT = dict(model_type="bert", vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
            intermediate_size=3072, max_position_embeddings=512, type_vocab_size=2, hidden_act="gelu",
            layer_norm_eps=1e-12, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=0.02)
CLASSES = {"embed": dict(architectures=["BertModel"]),
           "train": dict(architectures=["BertForSequenceClassification"], id2label={"0": "no", "1": "yes"},
                         label2id={"no": 0, "yes": 1})}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--venv", default=str(ROOT / "build/peers"), help="virtual environment of the peers")
    p.add_argument("--build", default=str(ROOT), help="where infer and train are")
    p.add_argument("--what", nargs="+", choices=CLASSES, default=list(CLASSES))
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--layers", type=int, default=BERT["num_hidden_layers"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=5, help="training steps of a turn")
    p.add_argument("--seconds", type=float, default=5, help="length of PyTorch's embedding turn, as of ./infer's")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--json", help="write everything measured to this file")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    return p.parse_args()


# ---- PyTorch's side: a process that takes a turn for each line it reads ----------------------------------------------
def worker(job):
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    torch.manual_seed(1)
    torch.set_num_threads(job["threads"])
    device, bf16 = job["device"], job["precision"] == "bf16"
    config = transformers.BertConfig(**job["config"], attn_implementation="sdpa")
    ids = torch.randint(config.vocab_size, (BATCH, SEQ), device=device)

    def timed(call):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if job["what"] == "embed":
        model = transformers.BertModel(config, add_pooling_layer=False).eval().to(device)
        model = model.to(torch.bfloat16) if bf16 else model

        def call():
            with torch.inference_mode():
                model(input_ids=ids)
    else:
        model = transformers.BertForSequenceClassification(config).train().to(device)
        labels = torch.randint(2, (BATCH,), device=device)
        parameters = list(model.parameters())
        adamw = torch.optim.AdamW([dict(params=[p for p in parameters if p.dim() == 2], weight_decay=0.1),
                                   dict(params=[p for p in parameters if p.dim() != 2], weight_decay=0.0)],
                                  lr=1e-4, fused=True)

        def call():
            adamw.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adamw.step()

    print(json.dumps(dict(torch=torch.__version__, transformers=transformers.__version__,
                          parameters=sum(p.numel() for p in model.parameters()))), flush=True)
    timed(call), timed(call)
    for line in sys.stdin:
        order, took = json.loads(line), []
        while len(took) < order["steps"] or sum(took) < order["seconds"]:
            took.append(timed(call))
        print(json.dumps(took), flush=True)


class Torch(Peer):
    def __init__(self, python, args, what, precision, config):
        super().__init__(python, __file__, args, dict(what=what, precision=precision, config=config))

    def turn(self, steps, seconds):
        return self.ask(steps=steps, seconds=seconds)


def tea(args, what, precision, directory):
    """Seconds for a batch, parameters, share of the peak."""
    common = ["--config", directory, "--precision", precision, "--threads", args.threads, "--device", args.device,
              "--quiet"]
    command = [Path(args.build, "infer"), "--bench"] if what == "embed" else [
        Path(args.build, "train"), "--bench", args.steps, "--batch", BATCH, "--seq", SEQ]
    run = subprocess.run([str(c) for c in command + common], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr.strip() or f"{command[0]} ended with {run.returncode}")
    r = json.loads(run.stdout)
    if what == "train":
        return r["step_ms"] / 1e3, r["parameters"], r["peak_share"]
    assert (r["texts"], r["tokens"]) == (BATCH, SEQ)
    return BATCH / r["texts_per_s"], r["weights"], r["share"]


def main():
    args = arguments()
    if args.worker:
        worker(json.loads(args.worker))
        return
    for program in "infer", "train":
        if not Path(args.build, program).exists():
            raise SystemExit(f"{Path(args.build, program)} is missing: run make first")
    python, facts, rows = peers_python(args.venv), machine(args), []
    print(f"{facts['cpu']}, {facts['cores']} cores, {args.threads} threads, load {facts['load']:.2f}",
          " ".join(facts["flags"]))
    if facts["load"] > 0.5:
        print("other programs are running: these figures will not be worth much", file=sys.stderr)
    print(f"BERT, {args.layers} layers, batches of {BATCH} x {SEQ}: texts/s, medians of {args.rounds} turns")
    print(f"  {'':14}{'tea':>9}{'of peak':>9}{'PyTorch':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as directory:
        for what in args.what:
            config = BERT | CLASSES[what] | dict(num_hidden_layers=args.layers)
            Path(directory, "config.json").write_text(json.dumps(config))
            for precision in args.precision:
                torch, ours, theirs, share = Torch(python, args, what, precision, config), [], [], 0
                for _ in range(args.rounds):
                    took, weights, share = tea(args, what, precision, directory)
                    ours.append(took)
                    if what == "embed":
                        theirs.append(min(torch.turn(3, args.seconds)))
                    else:
                        theirs.append(statistics.median(torch.turn(args.steps, 0)))
                torch.close()
                unused = 0 if what == "train" else config["hidden_size"] * (config["hidden_size"] + 1)    # the pooler
                if weights - unused != torch.facts["parameters"]:
                    raise SystemExit(f"{what}: {weights} parameters, PyTorch {torch.facts['parameters']}")
                mine, other = (BATCH / statistics.median(t) for t in (ours, theirs))
                print(f"  {what + ' ' + precision:14}{mine:9.1f}{100 * share:8.0f}%{other:10.1f}{mine / other:8.2f}",
                      flush=True)
                rows.append(dict(what=what, precision=precision, tea_texts_per_s=mine, torch_texts_per_s=other,
                                 tea_turns_s=ours, torch_turns_s=theirs, peak_share=share, torch=torch.facts))
    facts["load_at_end"] = os.getloadavg()[0]
    result = json.dumps(dict(machine=facts, layers=args.layers, batch=BATCH, seq=SEQ, rounds=args.rounds, rows=rows),
                        indent=1)
    if args.json:
        Path(args.json).write_text(result + "\n")
    else:
        print(result)


if __name__ == "__main__":
    main()
