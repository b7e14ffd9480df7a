#!/usr/bin/env python3
"""compare.py - two result files, row by row: what became faster, what slower?

    python3 bench/compare.py old.json new.json              exit 1 when something became slower

Where both runs know what share of its machine's limit a row reached, shares are compared: they stay the same when the
machine is in another of its states, or is another machine; figures do not. A ratio above 1 is better. A row is slower
when its ratio is below 1 by more than the spread of its turns, that is the larger of both runs' (highest - lowest) /
median; and never by less than 3%, or 8% where a run has one turn alone.
"""
import argparse
import json
import sys
from pathlib import Path

from common import number

LEAST, LEAST_ONE = 0.03, 0.08


def spread(row):
    width = (row["high"] - row["low"]) / row["value"] if row["value"] else 0
    return max(width, LEAST if len(row["turns"]) > 1 else LEAST_ONE)


def compare(old, new):
    """(row, old figure, new figure, ratio, by share?, verdict) of rows that both have."""
    before = {r["row"]: r for r in old["rows"]}
    for b in new["rows"]:
        a = before.get(b["row"])
        if a is None or a["unit"] != b["unit"] or not a["value"] or not b["value"]:
            continue
        by_share = bool(a.get("share") and b.get("share"))
        ratio = b["share"] / a["share"] if by_share else b["value"] / a["value"]
        if not by_share and b["better"] == "lower":
            ratio = 1 / ratio
        margin = max(spread(a), spread(b))
        yield a, b, ratio, by_share, "slower" if ratio < 1 - margin else "faster" if ratio > 1 + margin else ""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("old", type=Path)
    p.add_argument("new", type=Path)
    args = p.parse_args()
    try:
        old, new = (json.loads(f.read_text()) for f in (args.old, args.new))
        for run, file in ((old, args.old), (new, args.new)):
            m = run["machine"]
            print(f"{file}: {m['commit']}, {m['date']}, {m['cpu']}, {m['threads']} threads, {m['compiler']}")
        rows = list(compare(old, new))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SystemExit(f"not two result files of these benchmarks: {type(e).__name__}: {e}")
    print(f"\n{'':38}{'old':>10}{'new':>10}  {'unit':9}{'of limit':>12}{'ratio':>8}")
    for a, b, ratio, by_share, verdict in rows:
        shares = f"{100 * a['share']:.0f}% {100 * b['share']:.0f}%" if by_share else ""
        print(f"{b['row']:38}{number(a['value']):>10}{number(b['value']):>10}  {b['unit']:9}{shares:>12}{ratio:7.2f}x  "
              f"{verdict}".rstrip())
    names = [{r["row"] for r in run["rows"]} for run in (old, new)]
    for title, only in (("in the old run alone", names[0] - names[1]), ("in the new run alone", names[1] - names[0])):
        if only:
            print(f"{title}: {', '.join(sorted(only))}")
    slower = [b["row"] for _, b, _, _, verdict in rows if verdict == "slower"]
    print(f"{len(rows)} rows compared, {sum(v == 'faster' for *_, v in rows)} faster, {len(slower)} slower")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
