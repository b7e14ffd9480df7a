# check.sh - what test_train.sh and test_finetune.sh share: checks, counted; a run resumed, and what its log says of it.
# To be sourced. The script defines run, which calls its program with out.txt and err.txt for what it says.
export OMP_WAIT_POLICY=passive ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}" # a program's end frees its memory

passed=0 failed=0
ok() { passed=$((passed + 1)); printf 'ok    %s\n' "$1"; }
fail() { failed=$((failed + 1)); printf 'FAIL  %s\n' "$1"; }
check() { # DESCRIPTION COMMAND...
    what=$1
    shift
    if "$@" >check.txt 2>&1; then ok "$what"; else fail "$what"; head -n 5 check.txt | sed 's/^/      | /'; fi
}
all_of() { for f in "$@"; do [ -e "$f" ] || { echo "missing: $f"; return 1; }; done; }
none_of() { for f in "$@"; do [ ! -e "$f" ] || { echo "there: $f"; return 1; }; done; }
is() { [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\""; return 1; }; }
broke() { fail "$1" && head -n 5 err.txt | sed 's/^/      | /'; }
resume() { # OUT OPTIONS...: no other option is repeated, they are in the checkpoint
    out=$1
    shift
    run --resume last --out "$out" --threads 1 --quiet "$@" || broke "--resume last --out $out: exit $?"
}
# What a log says of the run itself, without what the clock says and without where it was stopped.
# Killed while it wrote its last lines, a run writes them again: the same line twice counts once, steps excepted.
facts() {
    grep -E '"event":"(step|eval|sample|forgetting)"' "$1/log.jsonl" | sed 's/,"tok_s".*//' |
        awk '/"event":"step"/ || !seen[$0]++' >"$1.facts"
}
