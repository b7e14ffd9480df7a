#!/bin/sh
# run.sh - every test of this build, one line each; what `make test` runs.
#
#     BUILD=build/gcc sh tests/run.sh            all of them, as many at a time as there are processors
#     BUILD=build/gcc sh tests/run.sh model      those whose name contains "model"
#     BUILD=build/gcc JOBS=1 sh tests/run.sh     one after the other
#
# A test is a program BUILD/test_NAME (from tests/test_NAME.c), a script tests/test_NAME.sh, or the conformance program
# on the committed fixtures. Its last line is "N passed, N failed"; lines that begin with FAIL say what is wrong. Exit
# 77 means that this machine lacks what it needs, and its last line says what. A test that ends without its closing
# line, by a signal or with a sanitizer's report counts as a failure, whatever it printed before.
set -u
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/run.sh}"
export BUILD
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # tests share the processors: a thread that waits must not spin

# One test, FILE: prints its line, after what went wrong, at once, so that two that end together do not mix.
one() { # FILE
    case $1 in
    *.c) name=$(basename "$1" .c) && set -- "$BUILD/$name" ;;
    */test_*.sh) name=$(basename "$1" .sh) && set -- bash "$1" ;;
    */doc-check.sh) name=doc-check && set -- sh "$1" ;;
    */fixtures) name=conformance && set -- "$BUILD/conformance" "$1" --quantize "$BUILD/quantize" ;;
    esac
    name=${name#test_}
    out=$TEST_RUN/$$.out
    start=$(date +%s)
    "$@" >"$out" 2>&1 </dev/null
    code=$?
    took=$(($(date +%s) - start))
    last=$(tail -n 1 "$out")
    if [ $code = 77 ]; then
        printf 'skip  %-16s %s\n' "$name" "$last"
        return
    fi
    p=$(printf '%s\n' "$last" | sed -n 's/^\([0-9][0-9]*\) passed, [0-9][0-9]* failed$/\1/p')
    f=$(printf '%s\n' "$last" | sed -n 's/^[0-9][0-9]* passed, \([0-9][0-9]*\) failed$/\1/p')
    if [ -z "$p" ]; then # no closing line: what it said last is all there is
        tail -n 20 "$out" | sed 's/^/      | /'
        printf 'FAIL  %-16s 0 passed, 1 failed, ended early, exit code %d\n' "$name" $code
        return
    fi
    grep '^FAIL' "$out"
    if [ $code != 0 ] && [ "$f" = 0 ] || grep -q 'Sanitizer\|runtime error:' "$out"; then
        grep -A 12 'Sanitizer\|runtime error:' "$out" | head -n 30 | sed 's/^/      | /'
        printf '      | exit code %d\n' $code
        f=$((f + 1))
    fi
    if [ "$f" = 0 ]; then word='ok   '; else word='FAIL '; fi
    printf '%s %-16s %s passed, %s failed, %s s\n' "$word" "$name" "$p" "$f" "$took"
}
if [ "${TEST_RUN:-}" ]; then # one of the processes that xargs starts below
    one "$1" >"$TEST_RUN/$$.said"
    cat "$TEST_RUN/$$.said"
    exit
fi

TEST_RUN=$(mktemp -d) || exit 1
export TEST_RUN
trap 'rm -rf "$TEST_RUN"' EXIT
trap 'exit 130' INT TERM
only=${1:-}
: "${JOBS:=$(nproc 2>/dev/null || echo 1)}"
for test in tests/test_*.sh tests/test_*.c tests/doc-check.sh tests/fixtures/conformance; do # the longest first
    case ${test##*/} in *"$only"*) printf '%s\n' "${test%/conformance}" ;; esac
done | xargs -r -n 1 -P "$JOBS" sh "$0" ||
    echo 'FAIL  run.sh           0 passed, 1 failed, the process of a test ended early: not all have run' |
    tee "$TEST_RUN/run.said"

cat "$TEST_RUN"/*.said 2>/dev/null | awk '
    /^(ok|FAIL ) .* passed, [0-9]+ failed, / { passed += $3; failed += $5 }
    /^skip /                               { skipped++ }
    END {
        if (skipped) print skipped " skipped: see above"
        print passed + 0 " passed, " failed + 0 " failed"
        exit failed || !passed
    }'
