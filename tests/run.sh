#!/bin/sh
# run.sh - every test of this build, one line each; what `make test` runs.
#
#     BUILD=build/gcc sh tests/run.sh            all of them
#     BUILD=build/gcc sh tests/run.sh model      those whose name contains "model"
#
# A test is a program BUILD/test_NAME (from tests/test_NAME.c), a script tests/test_NAME.sh, or the conformance program
# on the committed fixtures. Its last line is "N passed, N failed"; lines that begin with FAIL say what is wrong. Exit
# 77 means that this machine lacks what it needs, and its last line says what. A test that ends without its closing
# line, by a signal or with a sanitizer's report counts as a failure, whatever it printed before.
set -u
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/run.sh}"
export BUILD
only=${1:-}
passed=0 failed=0 skipped=0
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
trap 'exit 130' INT TERM

run() { # NAME COMMAND...
    name=$1
    shift
    case $name in *"$only"*) ;; *) return ;; esac
    start=$(date +%s)
    "$@" >"$out" 2>&1 </dev/null
    code=$?
    took=$(($(date +%s) - start))
    last=$(tail -n 1 "$out")
    if [ $code = 77 ]; then
        printf 'skip  %-16s %s\n' "$name" "$last"
        skipped=$((skipped + 1))
        return
    fi
    p=$(printf '%s\n' "$last" | sed -n 's/^\([0-9][0-9]*\) passed, [0-9][0-9]* failed$/\1/p')
    f=$(printf '%s\n' "$last" | sed -n 's/^[0-9][0-9]* passed, \([0-9][0-9]*\) failed$/\1/p')
    if [ -z "$p" ]; then # no closing line: what it said last is all there is
        tail -n 20 "$out" | sed 's/^/      | /'
        printf 'FAIL  %-16s ended early, exit code %d\n' "$name" $code
        failed=$((failed + 1))
        return
    fi
    grep '^FAIL' "$out"
    if [ $code != 0 ] && [ "$f" = 0 ] || grep -q 'Sanitizer\|runtime error:' "$out"; then
        grep -A 12 'Sanitizer\|runtime error:' "$out" | head -n 30 | sed 's/^/      | /'
        printf 'FAIL  %-16s exit code %d\n' "$name" $code
        f=$((f + 1))
    fi
    if [ "$f" = 0 ]; then word='ok   '; else word='FAIL '; fi
    printf '%s %-16s %s passed, %s failed, %s s\n' "$word" "$name" "$p" "$f" "$took"
    passed=$((passed + p)) failed=$((failed + f))
}

for source in tests/test_*.c; do
    name=$(basename "$source" .c)
    run "${name#test_}" "$BUILD/$name"
done
run conformance "$BUILD/conformance" tests/fixtures
run doc-check sh tests/doc-check.sh
for script in tests/test_*.sh; do
    [ -e "$script" ] || continue
    name=$(basename "$script" .sh)
    run "${name#test_}" bash "$script"
done
[ $skipped = 0 ] || echo "$skipped skipped: see above"
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
