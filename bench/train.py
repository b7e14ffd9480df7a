#!/usr/bin/env python3
"""train.py - training steps beside PyTorch's, in one run on one machine.

    make && make bench-programs && python3 bench/train.py --peers install      all rows, about half an hour
    python3 bench/train.py --rows llama-5.8m --rounds 1                        a quick look
    python3 bench/train.py --rows gpt2-124m-256 --compile --json r.json

Both programs get the same config.json, batch, thread count and kind of step, and make whole steps on random tokens:
zero the gradients, forward, loss over all tokens, backward, clip the norm to 1, AdamW with decayed matrices. PyTorch
runs the transformers model with fused attention and without dropout or cache; in bf16 it runs under autocast; of its
ways to clip and to step (fused, foreach, one by one) the fastest on this machine is taken, found anew in every run.

The programs take turns; each turn's figure is the median of its steps, after two to warm up. A process that waits for
its turn sleeps. Some hosts move between states in which memory is twice as fast or slow, so times from different runs
must never be compared, and ratios only within one. Needs a machine with nothing else to do; the load is recorded.
"""
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import Peer, main, ours, parse, parser, peers_python, race, serve
from models import GPT2, LLAMA_15M, LLAMA_6M

ROWS = {  # name -> config, batch, tokens
    "gpt2-124m-64": (GPT2, 4, 64),
    "gpt2-124m-256": (GPT2, 4, 256),
    "gpt2-124m-1024": (GPT2, 2, 1024),
    "llama-5.8m": (LLAMA_6M, 16, 256),
    "llama-15m": (LLAMA_15M, 8, 256),
}
QUICK = ["gpt2-124m-64", "llama-5.8m"]


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--compile", action="store_true", help="torch.compile too, in bf16")
    p.add_argument("--seconds", type=float, help="length of a turn (default: 4, quick: 1)")
    args = parse(p, argv)
    args.seconds = args.seconds or (1 if args.quick else 4)
    args.rows = args.rows or (QUICK if args.quick else list(ROWS))
    return args


# ---- PyTorch's side: a process that makes so many steps when it is told to -------------------------------------------
def worker(job):
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    torch.manual_seed(1)
    torch.set_num_threads(job["threads"])
    device, B, T = job["device"], job["batch"], job["seq"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(job["config"]))
        config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(device).train()
    model.config.use_cache = False
    parameters = list(model.parameters())
    compiled = []

    def sync():
        if device == "cuda":
            torch.cuda.synchronize()

    def optimiser(how):
        groups = [dict(params=[p for p in parameters if p.dim() == 2], weight_decay=0.1),
                  dict(params=[p for p in parameters if p.dim() != 2], weight_decay=0.0)]
        return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, **how)

    def gradients(variant):
        x, y = torch.randint(config.vocab_size, (2, B, T), device=device)
        network = model
        if variant == "compile":
            if not compiled:
                compiled.append(torch.compile(model))
            network = compiled[0]
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant != "f32"):
            logits = network(input_ids=x, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        return loss

    def fastest(ways, run):
        """The way whose second and third call are fastest; the first call makes its buffers."""
        best = None
        for how in ways:
            try:
                call = run(how)
                call()
                sync()
                start = time.perf_counter()
                call(), call()
                sync()
                took = time.perf_counter() - start
            except (RuntimeError, TypeError):
                continue
            if best is None or took < best[0]:
                best = (took, how)
        return best[1]

    gradients("f32")
    clip_how = fastest([dict(foreach=True), dict(foreach=False)],
                       lambda how: lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0, **how))
    step_how = fastest([dict(fused=True), dict(foreach=True), dict(foreach=False)], lambda how: optimiser(how).step)
    adamw = optimiser(step_how)

    def step(variant):
        sync()
        start = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        loss = gradients(variant)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, **clip_how)
        adamw.step()
        sync()
        took = time.perf_counter() - start
        assert torch.isfinite(loss)
        return took

    warm = set()

    def turn(variant, steps):
        if variant not in warm:
            warm.add(variant)
            step(variant), step(variant)
        return [step(variant) for _ in range(steps)]

    serve(dict(torch=torch.__version__, transformers=transformers.__version__, clip=clip_how, adamw=step_how,
               parameters=sum(p.numel() for p in parameters)), turn)


def measure(args, results, python, name, directory):
    config, batch, seq = ROWS[name]
    Path(directory, "config.json").write_text(json.dumps(config))
    torch = Peer(python, __file__, args, dict(config=config, batch=batch, seq=seq)) if python else None
    last = {}

    def tea(precision, steps):
        r = last[precision] = ours(args, "train", "--config", directory, "--batch", batch, "--seq", seq,
                                   "--precision", precision, "--bench", steps)
        if torch and r["parameters"] != torch.facts["parameters"]:
            raise SystemExit(f"{name}: {r['parameters']} parameters, PyTorch {torch.facts['parameters']}")
        return r["step_ms"] / 1e3

    def player(turn):
        """A call for race(): tokens/s over as many steps as fill a turn. The first, untimed, finds how many."""
        steps = max(3, min(1000, int(args.seconds / turn(1))))
        return lambda: batch * seq / turn(steps)

    players = {("tea", p): player(lambda steps, p=p: tea(p, steps)) for p in args.precision}
    for v in (*args.precision, *(["compile"] if args.compile else [])) if torch else ():
        players["PyTorch", v] = player(lambda steps, v=v: statistics.median(torch.ask(variant=v, steps=steps)))
    turns, states = race(args, players)
    if torch:
        torch.close()
    for p in args.precision:
        r = last[p]
        peers = {f"PyTorch {'bf16, compiled' if v == 'compile' else v}": t
                 for (who, v), t in turns.items() if who == "PyTorch" and (p == "bf16" or v == p)}
        share = statistics.median(turns["tea", p]) * r["gflops"] / r["tok_s"] / r["peak_gflops"]
        results.add(f"train/{name}/{p}", "tokens/s", turns["tea", p], share=share, limit=p, peers=peers, states=states,
                    batch=batch, seq=seq, parameters=r["parameters"], bytes=r["bytes"], peak_gflops=r["peak_gflops"],
                    torch=torch and torch.facts)


def measure_all(args, results):
    python = peers_python(args, ["torch", "transformers"])
    with tempfile.TemporaryDirectory() as directory:
        for name in args.rows:
            measure(args, results, python, name, directory)


if __name__ == "__main__":
    main(arguments, measure_all, "training steps", worker)
