#!/bin/sh
# test_compare.sh - bench/compare.py: ratios, shares of the limit instead of figures, and what counts as slower.
set -u
. "$(dirname "$0")/check.sh"
command -v python3 >/dev/null || { echo "no python3"; exit 77; }
compare=$(cd "$(dirname "$0")/.." && pwd)/bench/compare.py
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-compare-XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1

# row NAME UNIT BETTER VALUE LOW HIGH TURNS [SHARE]
row() {
    printf '{"row":"%s","unit":"%s","better":"%s","value":%s,"low":%s,"high":%s,"turns":%s,"peers":{}%s}' "$1" "$2" "$3" \
        "$4" "$5" "$6" "$7" "${8:+,\"share\":$8,\"limit\":\"x\"}"
}
file() { # NAME ROWS...
    name=$1
    shift
    { printf '{"machine":{"commit":"c","date":"d","cpu":"p","threads":2,"compiler":"g"},"limits":[],"rows":['
      (IFS=,; printf '%s' "$*"); printf ']}'; } >"$name"
}
says() { python3 -B "$compare" "$1" "$2" >out.txt 2>&1; echo "exit $?" >>out.txt; grep -qE -- "$3" out.txt || { cat out.txt; return 1; }; }

file a.json "$(row same tok/s higher 100 98 102 '[98,100,102]')" "$(row slow tok/s higher 100 99 101 '[99,100,101]')" \
    "$(row noisy tok/s higher 100 80 110 '[80,100,110]')" "$(row state tok/s higher 100 99 101 '[99,100,101]' 0.80)" \
    "$(row time s lower 2 2 2 '[2]')" "$(row gone s lower 2 2 2 '[2]')"
file b.json "$(row same tok/s higher 98 97 99 '[97,98,99]')" "$(row slow tok/s higher 90 89 91 '[89,90,91]')" \
    "$(row noisy tok/s higher 85 84 86 '[84,85,86]')" "$(row state tok/s higher 60 59 61 '[59,60,61]' 0.80)" \
    "$(row time s lower 1 1 1 '[1]')" "$(row fresh s lower 2 2 2 '[2]')"
check "a fall beyond the spread is slower" says a.json b.json '^slow .* 0\.90x  slower$'
check "a fall within the spread is not" says a.json b.json '^same .* 0\.98x$'
check "nor one within a wide spread" says a.json b.json '^noisy .* 0\.85x$'
check "the same share of a slower machine is no fall" says a.json b.json '^state .* 80% 80% +1\.00x$'
check "half the seconds are twice as fast" says a.json b.json '^time .* 2\.00x  faster$'
check "rows of one run alone are named" says a.json b.json '^in the old run alone: gone$'
check "and of the other" says a.json b.json '^in the new run alone: fresh$'
check "counted, and the exit code tells" says a.json b.json '^5 rows compared, 1 faster, 1 slower$'
check "exit 1 when something is slower" says a.json b.json '^exit 1$'
check "exit 0 when nothing is" says a.json a.json '^exit 0$'
file c.json "$(row state tok/s higher 110 109 111 '[109,110,111]' 0.60)"
check "a smaller share of a faster machine is slower" says a.json c.json '^state .* 0\.75x  slower$'
echo '{"rows":3}' >bad.json
check "another file is refused in a sentence" says a.json bad.json '^not two result files'

echo "$passed passed, $failed failed"
[ $failed = 0 ]
