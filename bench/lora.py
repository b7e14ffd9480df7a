#!/usr/bin/env python3
"""lora.py - adapters on a 1.1B LLaMA shape in bf16 beside PEFT: tokens/s and memory, in one run on one machine; then on
ChatGLM3-6B's shape, in 4 bits (QLoRA), which has to do with 12 GB, and in F16 as published.

    make && make bench-programs && python3 bench/lora.py --peers install
    python3 bench/lora.py --quick                                        two layers and one, one turn

Both train adapters of rank 8 on q, k, v and o, batch 1, 512 tokens, every token learnt: ours with ./finetune, from the
directory as it lies; PEFT with transformers' model in bf16, fused attention and AdamW. A turn is a few steps of a fresh
process (ours) or of one that sleeps in between (PEFT); its figure is their median, after two to warm up. Memory is the
process's highest: ours maps the weights, which count as long as they are in memory. The large models take 4 and 13 GB of
disk and have no peer: transformers has no such model of its own, and bitsandbytes, which PEFT calls for 4 bits, needs a
GPU.
"""
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import ROOT, Peer, main, parse, parser, peers_python, program, race, run, serve
from models import CHATGLM3, LLAMA_1B, write_model

SEQ, WARM = 512, 2


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--models", type=Path, default=ROOT / "build/bench-models", help="where the model is kept")
    p.add_argument("--layers", type=int, help="default: 22, quick: 2")
    p.add_argument("--steps", type=int, default=5, help="timed steps of a turn")
    args = parse(p, argv)
    args.layers = args.layers or (2 if args.quick else LLAMA_1B["num_hidden_layers"])
    return args


def worker(job):
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16,
                                                              attn_implementation="sdpa").to(job["device"]).train()
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
                                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    parameters = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(parameters, lr=2e-4)

    def step():
        ids = torch.randint(model.config.vocab_size, (1, SEQ + 1), device=job["device"])
        start = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        logits = model(input_ids=ids[:, :-1]).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        if job["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(WARM):
        step()

    def turn(steps):
        took = [step() for _ in range(steps)]
        line = next(s for s in open("/proc/self/status") if s.startswith("VmHWM"))
        return took, int(line.split()[1]) * 1024

    serve(dict(torch=torch.__version__, transformers=transformers.__version__, trained=sum(p.numel() for p in parameters)),
          turn)


def tune(args, path):
    """A turn of ours: tokens/s, the highest memory in GB, and what of it was foreseen."""
    if not (path / "tokenizer.json").exists():                           # any will do: the rows are full whatever they say
        run([program(args, "tokenizer"), "train", "--data", "corpus:1M", "--vocab", 1000, "--out", path, "--quiet"])
    with tempfile.TemporaryDirectory() as directory:
        text, out = Path(directory, "text.txt"), Path(directory, "out")
        text.write_text("\n\n".join(f"{i} " + "a cat sat on a mat and a dog ran off. " * 200
                                    for i in range(WARM + args.steps)))
        run([program(args, "finetune"), "--model", path, "--task", "lm", "--data", text, "--eval-fraction", 0, "--lora", 8,
             "--batch", 1, "--seq", SEQ, "--max-steps", WARM + args.steps, "--precision", "bf16", "--out", out,
             "--overwrite", "--threads", args.threads, "--device", args.device, "--quiet"])
        log = [json.loads(line) for line in open(out / "log.jsonl")]
    speed = statistics.median(e["tok_s"] for e in log[WARM:] if e["event"] == "step" and e["step"] > WARM)
    return speed, log[-1]["peak_bytes"] / 1e9, log[0]["memory_bytes"] / 1e9


def measure_all(args, results):
    path, memory = args.models / f"llama-1b-{args.layers}-bf16", dict(tea=[], PEFT=[], foreseen=[])
    write_model(path, LLAMA_1B | dict(num_hidden_layers=args.layers), "BF16")
    python = peers_python(args, ["torch", "transformers", "peft"])
    peer = Peer(python, __file__, args, dict(model=str(path))) if python else None

    def ours(directory):
        speed, peak, foreseen = tune(args, directory)
        memory["tea"].append(peak)
        memory["foreseen"].append(foreseen)
        return speed

    def theirs():
        took, peak = peer.ask(steps=args.steps)
        memory["PEFT"].append(peak / 1e9)
        return SEQ / statistics.median(took)

    turns, states = race(args, {"tea": lambda: ours(path)} | ({"PEFT": theirs} if peer else {}))
    if peer:
        peer.close()
    facts = dict(layers=args.layers, seq=SEQ, rank=8, peft=peer and peer.facts)
    results.add("lora/bf16", "tokens/s", turns.pop("tea"), peers=turns, states=states, **facts)
    results.add("lora/bf16/memory", "GB", memory["tea"], "lower", peers={"PEFT": memory["PEFT"]} if peer else {}, **facts)

    layers = 1 if args.quick else CHATGLM3["num_layers"]
    for weights, bits, shards in ("int4", 4, 1), ("f16", 16, 7):          # half a minute a step: one turn
        path, memory = args.models / f"chatglm3-{layers}-{weights}", dict(tea=[], foreseen=[])
        write_model(path, CHATGLM3 | dict(num_layers=layers), "F16", shards, bits)
        turns, states = race(args, {"tea": lambda path=path: ours(path)}, 1)
        facts = dict(layers=layers, seq=SEQ, rank=8, foreseen=statistics.median(memory["foreseen"]))
        results.add(f"lora/{weights}-6b", "tokens/s", turns.pop("tea"), states=states, **facts)
        results.add(f"lora/{weights}-6b/memory", "GB", memory["tea"], "lower", **facts)


if __name__ == "__main__":
    main(arguments, measure_all, "adapters", worker)
