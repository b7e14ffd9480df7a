#!/usr/bin/env python3
"""train.py - training steps beside PyTorch's, in one run on one machine.

    make && python3 bench/train.py                               # all rows; installs its peers into build/peers first
    python3 bench/train.py --rows llama-5.8m --rounds 1          # a quick look
    python3 bench/train.py --rows gpt2-124m-256 --compile --json r.json

Both programs get the same config.json, batch, thread count and kind of step, and make whole steps on random tokens:
zero the gradients, forward, loss over all tokens, backward, clip the norm to 1, AdamW with decayed matrices. PyTorch
runs the transformers model with fused attention and without dropout or cache; in bf16 it runs under autocast; of its
ways to clip and to step (fused, foreach, one by one) the fastest on this machine is taken, found anew in every run.

The programs take turns, `rounds` times; each turn's figure is the median of its steps, and the medians of the turns
count. A process that waits for its turn sleeps. Before each turn pair the machine's state is taken: some hosts move
between states in which memory is twice as fast or slow, so times from different runs must never be compared, and ratios
only within one. Needs a machine with nothing else to do; the load is recorded.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["torch", "transformers"]
GPT2 = dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=50257, n_embd=768, n_layer=12, n_head=12,
            n_positions=1024, activation_function="gelu_new", layer_norm_epsilon=1e-5, attn_pdrop=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0, bos_token_id=50256, eos_token_id=50256)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=6, max_position_embeddings=1024,
             hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, bos_token_id=1,
             eos_token_id=2)
LLAMA_6M = LLAMA | dict(hidden_size=256, num_attention_heads=8, intermediate_size=688, vocab_size=4096)
LLAMA_15M = LLAMA | dict(hidden_size=288, num_attention_heads=6, intermediate_size=768, vocab_size=32000)
ROWS = {  # name -> config, batch, tokens
    "gpt2-124m-64": (GPT2, 4, 64),
    "gpt2-124m-256": (GPT2, 4, 256),
    "gpt2-124m-1024": (GPT2, 2, 1024),
    "llama-5.8m": (LLAMA_6M, 16, 256),
    "llama-15m": (LLAMA_15M, 8, 256),
}

# Hand-over of a cache line between two cores, and sequential reads by all threads: the machine's state in 0.2 s.
STATE_C = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
enum { TURNS = 100000, WORDS = 1 << 24 };
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }
static _Atomic int ball;
static void *partner(void *x) {
    for (int i = 0; i < TURNS; i++) { while (atomic_load(&ball) != 1) {} atomic_store(&ball, 0); }
    return x;
}
static void *reader(void *x) {
    const uint64_t *p = x;
    uint64_t s[8] = {0};
    for (size_t i = 0; i < WORDS; i += 8) for (int j = 0; j < 8; j++) s[j] += p[i + j];
    return (void *)(uintptr_t)(s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]);
}
int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t t[256];
    if (n < 1 || n > 256) return 1;
    double ns = 0, best = 1e9, start = now();
    if (n > 1) {
        pthread_create(t, NULL, partner, NULL);
        for (int i = 0; i < TURNS; i++) { atomic_store(&ball, 1); while (atomic_load(&ball) != 0) {} }
        pthread_join(t[0], NULL);
        ns = (now() - start) / TURNS / 2 * 1e9;
    }
    uint64_t *data[256];
    for (int i = 0; i < n; i++) { if (!(data[i] = malloc(WORDS * 8))) return 1; memset(data[i], 1, WORDS * 8); }
    for (int k = 0; k < 5; k++) {
        start = now();
        for (int i = 0; i < n; i++) pthread_create(&t[i], NULL, reader, data[i]);
        for (int i = 0; i < n; i++) pthread_join(t[i], NULL);
        double s = now() - start;
        if (s < best) best = s;
    }
    printf("{\"handover_ns\":%.0f,\"read_gb_s\":%.1f}\n", ns, n * (double)WORDS * 8 / best / 1e9);
}
"""


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--venv", default=str(ROOT / "build/peers"), help="virtual environment of the peers")
    p.add_argument("--train", default=str(ROOT / "train"), help="the program to measure")
    p.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--compile", action="store_true", help="torch.compile too, in bf16")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=4, help="length of a turn")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--json", help="write everything measured to this file")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    return p.parse_args()


def peers_python(venv):
    """The Python of the virtual environment, made and filled when it is missing."""
    python = Path(venv) / "bin/python"
    if not python.exists():
        print(f"making {venv}: {', '.join(PEERS)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    try:
        subprocess.run([python, "-c", "import " + ", ".join(PEERS)], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return str(python)


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
    print(json.dumps(dict(torch=torch.__version__, transformers=transformers.__version__, clip=clip_how, adamw=step_how,
                          parameters=sum(p.numel() for p in parameters))), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order["variant"] not in warm:
            warm.add(order["variant"])
            step(order["variant"]), step(order["variant"])
        print(json.dumps([step(order["variant"]) for _ in range(order["steps"])]), flush=True)


class Peer:
    """A process of script's --worker, for one job, that answers a line of JSON for each line it is given."""

    def __init__(self, python, script, args, job):
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
        job = job | dict(threads=args.threads, device=args.device)
        self.process = subprocess.Popen([python, script, "--worker", json.dumps(job)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        self.facts = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("PyTorch's process ended early")
        return json.loads(line)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Torch(Peer):
    def __init__(self, python, args, config, batch, seq):
        super().__init__(python, __file__, args, dict(config=config, batch=batch, seq=seq))

    def step_s(self, variant, steps):
        return statistics.median(self.ask(variant=variant, steps=steps))


def tea(args, directory, batch, seq, precision, steps):
    command = [args.train, "--config", directory, "--batch", batch, "--seq", seq, "--precision", precision, "--bench",
               steps, "--threads", args.threads, "--device", args.device, "--quiet"]
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr.strip() or f"{args.train} ended with {run.returncode}")
    return json.loads(run.stdout)


# ---- the machine -----------------------------------------------------------------------------------------------------
def machine(args):
    lines = [line.partition(":") for line in open("/proc/cpuinfo")]
    said = {key.strip(): value.strip() for key, _, value in lines}
    cpu, flags = said.get("model name", platform.machine()), said.get("flags", "").split()
    kept = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return dict(cpu=cpu, flags=kept, cores=os.cpu_count(), threads=args.threads, memory_gib=round(memory, 1),
                system=platform.release(), load=os.getloadavg()[0], device=args.device)


def state_program(directory):
    """The state's program, or None where no C compiler is."""
    source, program = Path(directory, "state.c"), Path(directory, "state")
    source.write_text(STATE_C)
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O3", "-pthread", str(source), "-o", str(program)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return str(program)


def state(program, args):
    if not program:
        return {}
    return json.loads(subprocess.run([program, str(args.threads)], capture_output=True, text=True, check=True).stdout)


def measure_row(name, python, args, directory, program):
    config, batch, seq = ROWS[name]
    Path(directory, "config.json").write_text(json.dumps(config))
    torch = Torch(python, args, config, batch, seq)
    variants = list(args.precision) + (["compile"] if args.compile else [])
    players = [("tea", p) for p in args.precision] + [("torch", v) for v in variants]
    steps, turns, states, bytes_of, flops_per_token, peak = {}, {p: [] for p in players}, [], {}, 0, {}
    for r in range(-1, args.rounds):                                     # round -1 warms up and counts steps for a turn
        states.append(state(program, args))
        for player in players:
            who, variant = player
            n = steps.get(player, 1)
            if who == "tea":
                result = tea(args, directory, batch, seq, variant, n)
                took = result["step_ms"] / 1e3
                peak[variant] = max(peak.get(variant, 0), result["peak_gflops"])
                flops_per_token = result["gflops"] * 1e9 / result["tok_s"]
                bytes_of[player] = result["bytes"]
                if result["parameters"] != torch.facts["parameters"]:
                    raise SystemExit(f"{name}: {result['parameters']} parameters, PyTorch {torch.facts['parameters']}")
            else:
                took = torch.step_s(variant, n)
            if r < 0:
                steps[player] = max(3, min(1000, int(args.seconds / took)))
            else:
                turns[player].append(took)
    torch.close()
    tokens, rows = batch * seq, []
    for player in players:
        who, variant = player
        median = statistics.median(turns[player])
        precision = "f32" if variant == "f32" else "bf16"
        share = tokens / median * flops_per_token / peak[precision] / 1e9 if precision in peak else None
        rows.append(dict(row=name, program=who, variant=variant, tok_s=tokens / median, step_ms=median * 1e3,
                         spread=[tokens / max(turns[player]), tokens / min(turns[player])], turns_s=turns[player],
                         steps_per_turn=steps[player], peak_share=share))
    return dict(row=name, batch=batch, seq=seq, parameters=torch.facts["parameters"], torch=torch.facts,
                peak_gflops=peak, tea_bytes={p[1]: b for p, b in bytes_of.items()}, states=states, results=rows)


def print_row(row):
    best_torch = max(r["tok_s"] for r in row["results"] if r["program"] == "torch")
    by_name = {(r["program"], r["variant"]): r["tok_s"] for r in row["results"]}
    handover = [s["handover_ns"] for s in row["states"] if s]
    reads = [s["read_gb_s"] for s in row["states"] if s]
    where = ""
    if reads:
        where = f"; hand-over {min(handover):.0f}-{max(handover):.0f} ns, reads {min(reads):.0f}-{max(reads):.0f} GB/s"
    print(f"\n{row['row']}: {row['parameters'] / 1e6:.1f}M parameters, B {row['batch']} T {row['seq']}{where}")
    heads = [("", 22), ("tok/s", 9), ("(lowest - highest turn)", 26), ("ms/step", 10), ("of peak", 9), ("x same", 8),
             ("x best PyTorch", 16)]
    print("  " + "".join(f"{text:>{width}}" for text, width in heads))
    for r in row["results"]:
        share = f"{100 * r['peak_share']:.0f}%" if r["peak_share"] else ""
        same = by_name.get(("torch", r["variant"]))
        ratios = f"{r['tok_s'] / same:8.2f}{r['tok_s'] / best_torch:16.2f}" if r["program"] == "tea" and same else ""
        variant = {"compile": "bf16, compiled"}.get(r["variant"], r["variant"])
        name = {"tea": "tea ", "torch": "PyTorch "}[r["program"]] + variant
        spread = f"{r['spread'][0]:.0f} - {r['spread'][1]:.0f}"
        print(f"  {name:22}{r['tok_s']:9.0f}{spread:>26}{r['step_ms']:10.1f}{share:>9}{ratios}", flush=True)


def main():
    args = arguments()
    if args.worker:
        worker(json.loads(args.worker))
        return
    if not Path(args.train).exists():
        raise SystemExit(f"{args.train} is missing: run make first")
    python = peers_python(args.venv)
    facts = machine(args)
    print(f"{facts['cpu']}, {facts['cores']} cores, {args.threads} threads, load {facts['load']:.2f},",
          " ".join(facts["flags"]))
    if facts["load"] > 0.5:
        print("other programs are running: these figures will not be worth much", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        program = state_program(directory)
        for name in args.rows:
            rows.append(measure_row(name, python, args, directory, program))
            print_row(rows[-1])
    facts["load_at_end"] = os.getloadavg()[0]
    result = dict(machine=facts, seconds_per_turn=args.seconds, rounds=args.rounds, rows=rows)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    else:
        print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
