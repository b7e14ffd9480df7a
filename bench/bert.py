#!/usr/bin/env python3
"""bert.py - BERT-base beside PyTorch's: embeddings per second, and fine-tuning steps, in one run on one machine.

    make && make bench-programs && python3 bench/bert.py --peers install
    python3 bench/bert.py --what embed --rounds 1                        a quick look
    python3 bench/bert.py --layers 2 --json r.json

Both programs get the same config.json (BERT-base: 12 layers, width 768, 12 heads, vocabulary 30522), random weights,
batches of 16 texts of 128 tokens without padding, and the same number of threads.

embed  ./infer --bench --config, and transformers' BertModel without its pooler, in inference mode with fused attention;
       in bf16 its weights are bf16. Each side's figure of a turn is its fastest batch.
train  ./train --bench --config of a classifier with two classes, and a step of BertForSequenceClassification: zero the
       gradients, forward, loss, backward, clip the norm to 1, AdamW with decayed matrices; no dropout; in bf16 under
       autocast. Each side's figure of a turn is the median of its steps.

The programs take turns, and the medians of the turns count; a process that waits for its turn sleeps.
"""
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import Peer, main, ours, parse, parser, peers_python, race, serve
from models import BERT

BATCH, SEQ = 16, 128
CLASSES = {"embed": dict(architectures=["BertModel"]),
           "train": dict(architectures=["BertForSequenceClassification"], id2label={"0": "no", "1": "yes"},
                         label2id={"no": 0, "yes": 1})}


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--what", nargs="+", choices=CLASSES, default=list(CLASSES))
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--layers", type=int, help="default: 12, quick: 2")
    p.add_argument("--steps", type=int, default=5, help="training steps of a turn")
    p.add_argument("--seconds", type=float, help="length of PyTorch's embedding turn, as of ./infer's (5; quick: 1)")
    args = parse(p, argv)
    args.layers = args.layers or (2 if args.quick else BERT["num_hidden_layers"])
    args.seconds = args.seconds or (1 if args.quick else 5)
    return args


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

    def turn(steps, seconds):
        took = []
        while len(took) < steps or sum(took) < seconds:
            took.append(timed(call))
        return took

    timed(call), timed(call)
    serve(dict(torch=torch.__version__, transformers=transformers.__version__,
               parameters=sum(p.numel() for p in model.parameters())), turn)


def measure(args, results, python, what, precision, config, directory):
    torch = Peer(python, __file__, args, dict(what=what, precision=precision, config=config)) if python else None
    shares = []

    def tea():
        common = ["--config", directory, "--precision", precision]
        if what == "train":
            r = ours(args, "train", "--bench", args.steps, "--batch", BATCH, "--seq", SEQ, *common)
            rate, parameters, share = BATCH * 1e3 / r["step_ms"], r["parameters"], r["peak_share"]
        else:
            r = ours(args, "infer", "--bench", *common)
            assert (r["texts"], r["tokens"]) == (BATCH, SEQ)
            pooler = config["hidden_size"] * (config["hidden_size"] + 1)                     # is not used
            rate, parameters, share = r["texts_per_s"], r["weights"] - pooler, r["share"]
        shares.append(share)
        if torch and parameters != torch.facts["parameters"]:
            raise SystemExit(f"{what}: {parameters} parameters, PyTorch {torch.facts['parameters']}")
        return rate

    players = {"tea": tea}
    if torch and what == "embed":
        players["PyTorch"] = lambda: BATCH / min(torch.ask(steps=3, seconds=args.seconds))
    elif torch:
        players["PyTorch"] = lambda: BATCH / statistics.median(torch.ask(steps=args.steps, seconds=0))
    turns, states = race(args, players)
    if torch:
        torch.close()
    results.add(f"bert/{what}/{precision}", "texts/s", turns["tea"], share=statistics.median(shares), limit=precision,
                peers={f"PyTorch {precision}": turns["PyTorch"]} if torch else {}, states=states, layers=args.layers,
                batch=BATCH, seq=SEQ, torch=torch and torch.facts)


def measure_all(args, results):
    python = peers_python(args, ["torch", "transformers"])
    with tempfile.TemporaryDirectory() as directory:
        for what in args.what:
            config = BERT | CLASSES[what] | dict(num_hidden_layers=args.layers)
            Path(directory, "config.json").write_text(json.dumps(config))
            for precision in args.precision:
                measure(args, results, python, what, precision, config, directory)


if __name__ == "__main__":
    main(arguments, measure_all, "BERT", worker)
