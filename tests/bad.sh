# bad.sh - what test_bad_input.sh and test_bad_model.sh share: a command that must fail, judged; files that lie.
# To be sourced, with BUILD set; leaves $D (a directory that goes with the test), $HERE, and ends with `verdict`.
: "${BUILD:?say which build to test: BUILD=build/gcc sh $0}"
for program in train infer tokenizer; do
    [ -x "$BUILD/$program" ] || { echo "no $BUILD/$program: make it first"; exit 77; }
done
BUILD=$(cd "$BUILD" && pwd)
HERE=$(cd "$(dirname "$0")" && pwd)
D=$(mktemp -d) || exit 1
mounted=
trap '[ -z "$mounted" ] || umount "$D/small" "$D/frozen" 2>/dev/null; rm -rf "$D"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0
# A program that dies on purpose leaks on purpose; a size that memory does not have is the program's to report.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:${ASAN_OPTIONS:-}"
export OMP_NUM_THREADS=1
T=$BUILD/tokenizer
I="$BUILD/infer --quiet --logits $D/ids.json --logits-out $D/l.safetensors --model"
printf '[[1,2,3,4]]' >"$D/ids.json"

# bad CODE "PART OF THE SENTENCE" COMMAND...
bad() {
    want=$1 text=$2
    shift 2
    timeout 60 "$@" >"$D/stdout" 2>"$D/stderr" </dev/null
    judge $? "$*"
}
# The same, the command a string for the shell: redirections, limits.
bad_shell() {
    want=$1 text=$2
    timeout 60 sh -c "$3" >"$D/stdout" 2>"$D/stderr" </dev/null
    judge $? "$3"
}
judge() {
    code=$1 problem=
    shown=$(printf '%s' "$2" | sed "s|$BUILD/||g; s|$D/||g" | cut -c 1-90)
    lines=$(grep -c '' "$D/stderr")
    [ "$code" = "$want" ] || problem="exit code $code, want $want"
    [ "$code" != 124 ] || problem="still running after a minute"
    [ "$code" -lt 128 ] || problem="ended by signal $((code - 128))"
    [ "$lines" = 1 ] || problem="${problem:+$problem; }$lines lines on stderr, want one"
    grep -q '^tea: ' "$D/stderr" || problem="${problem:+$problem; }no sentence beginning with tea:"
    grep -qF -- "$text" "$D/stderr" || problem="${problem:+$problem; }the sentence does not contain \"$text\""
    ! grep -q 'Sanitizer\|runtime error:\|Assertion' "$D/stderr" || problem="a sanitizer's report or an assertion"
    if [ -z "$problem" ]; then
        passed=$((passed + 1))
        printf 'ok    %s    -> %s\n' "$shown" "$(cut -c 6-140 "$D/stderr" | sed "s|$D/||g")"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s: %s\n' "$shown" "$problem"
        head -n 12 "$D/stderr" | cut -c 1-300 | sed 's/^/      | /'
    fi
}
verdict() {
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}

byte() { # one byte of this value
    # shellcheck disable=SC2059
    printf "\\$(printf '%03o' "$1")"
}
le() { # NUMBER BYTES: little-endian
    n=$1
    for _ in $(seq "$2"); do
        byte $((n & 255))
        n=$((n >> 8))
    done
}
# safetensors FILE HEADER DATA_BYTES [LENGTH]: 8 bytes of length (that of the header, or a lie), header, zeros.
safetensors() {
    {
        le "${4:-$(printf '%s' "$2" | wc -c)}" 8
        printf '%s' "$2"
        [ "$3" = 0 ] || head -c "$3" /dev/zero
    } >"$1"
}
# header FILE SED-EXPRESSION...: the same file with its header changed, and the length that goes with it.
header() {
    file=$1
    shift
    n=$(od -An -tu8 -N8 "$file" | tr -d ' ')
    tail -c +9 "$file" | head -c "$n" | sed "$@" >"$D/header"
    tail -c +$((9 + n)) "$file" >"$D/data"
    { le "$(wc -c <"$D/header")" 8; cat "$D/header" "$D/data"; } >"$file"
}
# model NAME: a copy of a good model, to be damaged.
model() {
    rm -rf "${D:?}/$1"
    cp -r "$HERE/fixtures/${2:-gpt2}" "$D/$1"
    chmod -R u+w "$D/$1"
}
# config NAME SED-EXPRESSION: the same with its config.json changed.
config() {
    model "$1" "${3:-llama}"
    sed "$2" "$HERE/fixtures/${3:-llama}/config.json" >"$D/$1/config.json"
}
