"""common.py - what every benchmark here needs: options, programs, peers, turns, the machine, one form of result.

A row is one figure of ours, in turns, beside the same figure of the programs it races, in as many turns; the medians
count. Its share is that of the machine's limit, measured in the same run. A result file holds the machine, the limits
and the rows:

    {"machine": {...}, "limits": [{...}], "options": {...}, "rows": [{"row": "train/llama-5.8m/bf16", "unit": "tokens/s",
      "better": "higher", "value": 1, "low": 1, "high": 1, "turns": [1], "share": 0.6, "limit": "bf16",
      "peers": {"PyTorch bf16": {"value": 1, "low": 1, "high": 1, "turns": [1], "ratio": 1.5}},
      "state": {"handover_ns": [50, 60], "read_gb_s": [40, 50]}, "facts": {...}}]}

A ratio above 1 always means that ours is better. compare.py reads two such files.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


# ---- options ---------------------------------------------------------------------------------------------------------
def parser(doc, rounds=5, quick=""):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, default=ROOT, help="where our programs are")
    p.add_argument("--venv", type=Path, default=ROOT / "build/peers", help="virtual environment with the peers")
    p.add_argument("--peers", choices=["auto", "no", "install"], default="auto",
                   help="race those that --venv has; none; or install what is missing there first")
    p.add_argument("--rounds", type=int, help=f"turns of each program (default: {rounds}, quick: 1)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--quick", action="store_true", help=quick or "less of everything, for a first look")
    p.add_argument("--json", type=Path, help="write everything measured to this file")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.set_defaults(default_rounds=rounds)
    return p


def parse(p, argv=None):
    args = p.parse_args(argv)
    args.rounds = args.rounds or (1 if args.quick else args.default_rounds)
    return args


# ---- programs --------------------------------------------------------------------------------------------------------
def program(args, name):
    """The path of one of ours. A link in the root leads to the build folder, where the benches' own programs are too."""
    path = args.build / name
    if not path.exists() and name.startswith("bench_"):
        linked = args.build / "infer"
        path = linked.resolve().parent / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: run make{' bench-programs' if name.startswith('bench_') else ''} first")
    return path


def run(command, **options):
    """Its stdout; ends the benchmark with its last words when it fails."""
    r = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {r.returncode}\n{(r.stderr or r.stdout)[-2000:]}")
    return r.stdout


def watch(command, **options):
    """(stdout, seconds, memory): with the most bytes of VmHWM, RssAnon (its own) and RssFile (mapped files, which the
    system can drop) seen in /proc while it ran. A process that ended within 20 ms leaves memory empty."""
    memory, start = {}, time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               **options)
    while True:
        try:
            out, errors = process.communicate(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            for line in open(f"/proc/{process.pid}/status"):
                key, _, value = line.partition(":")
                if key in ("VmHWM", "RssAnon", "RssFile"):
                    memory[key] = max(memory.get(key, 0), int(value.split()[0]) * 1024)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{errors[-2000:]}")
    return out, seconds, memory


def from_disk(files):
    """Throws files out of the page cache: who opens them next reads them as after a start of the machine. Written just
    before, they may lie in the cache in smaller pages than when they are read in order, which costs up to a tenth."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)                                                     # a page that is not on the disk yet would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def ours(args, name, *words):
    """The JSON that one of our programs prints, run on so many threads, saying nothing else."""
    return json.loads(run([program(args, name), *words, "--threads", args.threads, "--device", args.device, "--quiet"]))


def peers_python(args, packages):
    """The Python of --venv if it has these packages (installed first if asked for), else None: ours runs alone."""
    python = args.venv / "bin/python"
    if args.peers == "no":
        return None
    if args.peers == "install" and not python.exists():
        run([sys.executable, "-m", "venv", args.venv])

    def there():
        return python.exists() and not subprocess.run([python, "-c", "import " + ", ".join(packages)],
                                                      capture_output=True).returncode
    if not there() and args.peers == "install":
        run([python, "-m", "pip", "install", "--quiet", *packages])
    if there():
        return python
    print(f"{args.venv} lacks {', '.join(packages)}: ours alone (--peers install)", file=sys.stderr)
    return None


class Peer:
    """A process of script's --worker in the peers' Python: gets a job, answers a line of JSON for each line it is given,
    sleeps in between. Its first line tells facts."""

    def __init__(self, python, script, args, job):
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1",
                                    "TOKENIZERS_PARALLELISM": "true" if args.threads > 1 else "false"}
        job = job | dict(threads=args.threads, device=args.device)
        self.process = subprocess.Popen([python, script, "--worker", json.dumps(job)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        self.facts = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process ended early")
        return json.loads(line)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve(facts, answer):
    """The worker's side of Peer: answer(question) for each line of stdin."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


# ---- turns -----------------------------------------------------------------------------------------------------------
def state(args):
    """Which of its states the machine is in now: see limits.c."""
    return json.loads(run([program(args, "bench_limits"), "--state", "--threads", args.threads]))


def race(args, players, rounds=None):
    """Turns of {name: call that makes one turn and returns its figure}, in alternation, each round beginning with
    another player; returns {name: figures} and the machine's states, one a round."""
    turns, states, names = {name: [] for name in players}, [], list(players)
    for r in range(rounds or args.rounds):
        states.append(state(args))
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            turns[name].append(players[name]())
    return turns, states


# ---- the machine -----------------------------------------------------------------------------------------------------
def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine(args):
    said = {}
    for line in open("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value.strip())
    flags = said.get("flags", said.get("Features", "")).split()
    kept = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "asimddp") if f in flags]
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        caches[f"L{level}{'' if kind == 'Unified' else kind[0].lower()}"] = size
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    build = program(args, "infer").resolve().parent
    compiler = build.name.split("-")[0] if build.parent.name == "build" else os.environ.get("CC", "gcc")
    return dict(cpu=said.get("model name", platform.machine()), flags=kept, cores=os.cpu_count(), threads=args.threads,
                caches=caches, memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                kernel=platform.release(), huge_pages=pages.read_text().strip() if pages.exists() else "",
                compiler=first_line([compiler, "--version"]), build=build.name,
                omp={k: v for k, v in os.environ.items() if k.startswith(("OMP_", "GOMP_"))},
                commit=first_line(["git", "describe", "--always", "--dirty", "--abbrev=12"]),
                date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                load=os.getloadavg()[0])


# ---- results ---------------------------------------------------------------------------------------------------------
def summary(turns):
    return dict(value=statistics.median(turns), low=min(turns), high=max(turns), turns=turns)


def number(x):
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


class Results:
    """The rows of one run: printed as they come, written as one file at the end."""

    def __init__(self, args, title):
        self.args, self.rows, self.limits = args, [], []
        self.machine = m = machine(args)
        print(f"{title}: {m['cpu']}, {m['cores']} cores, {m['threads']} threads, {' '.join(m['flags'])}, "
              f"{m['memory_gib']} GiB, load {m['load']:.2f}")
        if m["load"] > 0.5:
            print("other programs are running: these figures will not be worth much", file=sys.stderr)
        print(f"{'':38}{'':>10}  {'':9}{'lowest - highest':>20}{'of limit':>14}{'ratio':>8}   hand-over, reads", flush=True)

    def add(self, row, unit, turns, better="higher", share=None, limit=None, peers=None, states=(), quiet=False, **facts):
        """turns: our figures; share: of `limit`, by name; peers: {name: figures}. Returns the row."""
        r = dict(row=row, unit=unit, better=better, **summary(turns))
        if share is not None:
            r |= dict(share=share, limit=limit)
        r["peers"] = {}
        for name, theirs in (peers or {}).items():
            s = summary(theirs)
            r["peers"][name] = s | dict(ratio=r["value"] / s["value"] if better == "higher" else s["value"] / r["value"])
        if states:
            r["state"] = {key: [min(s[key] for s in states), max(s[key] for s in states)]
                          for key in ("handover_ns", "read_gb_s")}
        if facts:
            r["facts"] = facts
        self.rows.append(r)
        if not quiet:
            self.print(r)
        return r

    @staticmethod
    def print(r):
        of = f"{100 * r['share']:.0f}% {r['limit']}" if "share" in r else ""
        spread = f"{number(r['low'])} - {number(r['high'])}" if len(r["turns"]) > 1 else ""
        where = ""
        if "state" in r:
            ns, gb = r["state"]["handover_ns"], r["state"]["read_gb_s"]
            where = f"   {ns[0]:.0f}-{ns[1]:.0f} ns, {gb[0]:.0f}-{gb[1]:.0f} GB/s"
        print(f"{r['row']:38}{number(r['value']):>10}  {r['unit']:9}{spread:>20}{of:>14}{'':8}{where}")
        for name, p in r["peers"].items():
            spread = f"{number(p['low'])} - {number(p['high'])}" if len(p["turns"]) > 1 else ""
            print(f"    {name:34}{number(p['value']):>10}  {r['unit']:9}{spread:>20}{'':14}{p['ratio']:7.2f}x")
        sys.stdout.flush()

    def write(self, path):
        self.machine["load_at_end"] = os.getloadavg()[0]
        places = ("build", "venv", "json", "models", "llama_cpp", "worker")     # of one machine: nobody else's business
        options = {k: v for k, v in vars(self.args).items() if k not in places and not isinstance(v, Path)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(machine=self.machine, limits=self.limits, options=options, rows=self.rows),
                                   indent=1, default=lambda v: v.name if isinstance(v, Path) else list(v)) + "\n")
        print(f"\nwritten to {path}")


def main(arguments, measure_all, title, worker=None):
    """A script's end: measures, prints, writes; or is the peers' side of it, when Peer started it with --worker."""
    args = arguments()
    if args.worker:
        return worker(json.loads(args.worker))
    results = Results(args, title)
    measure_all(args, results)
    if args.json:
        results.write(args.json)
