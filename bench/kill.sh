#!/bin/sh
# kill.sh - the long form of one promise: a run that is killed at any moment loses nothing but time.
#
#     sh bench/kill.sh [BUILD [KILLS [TRAIN OPTIONS...]]]            build/gcc, 20 kills, some minutes
#
# An unbroken run keeps every checkpoint. The same run is then killed with SIGKILL at random moments, as it tokenises,
# computes, saves or removes, and resumed each time. Compared byte for byte: every checkpoint found after every kill;
# at the end the model, and in log.jsonl all that the clock does not decide. Exit 1 when anything differs.
set -u
build=$(cd "${1:-build/gcc}" && pwd) || exit 1
kills=${2:-20}
[ $# -lt 2 ] || shift 2
[ $# != 1 ] || shift
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-kill-XXXXXX") || exit 1
started=
trap '[ -z "$started" ] || kill -9 "$started" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
cd "$tmp" || exit 1
export OMP_WAIT_POLICY=passive # threads that spin for a busy machine's other core make a step a thousand times slower
[ $# != 0 ] || set -- --layers 4 --width 128 --heads 4 --vocab 2048 --data corpus:2M --batch 8 --seq 128 --steps 300 \
    --accum 2 --dropout 0.1 --warmup 20 --eval-steps 25 --eval-tokens 8192 --sample-steps 50 --save-steps 10

differences=0
differ() { differences=$((differences + 1)); echo "DIFFERS  $1"; }
same() { cmp "$1" "$2" 2>cmp.txt || differ "$(cat cmp.txt)"; }
now() { date +%s.%N; }
checkpoints() { ls -d killed/checkpoint-* 2>/dev/null | grep -v '\.tmp$\|\.old$'; }
# Killed while it wrote its last lines, it writes them again: the same line twice counts once, steps excepted.
facts() {
    grep -E '"event":"(step|eval|sample)"' "$1/log.jsonl" | sed 's/,"tok_s".*//' | awk '/"event":"step"/ || !seen[$0]++'
}

echo "unbroken: ./train $*"
start=$(now)
"$build/train" "$@" --keep 0 --quiet --out unbroken >/dev/null || exit 1
# Twice a kill's share of the time, since what came after a checkpoint is done again; and it must prepare itself.
longest=$(awk "BEGIN { print 2 * ($(now) - $start) / $kills + 0.2 }")
echo "unbroken: done; now killed $kills times, each within $longest s"

i=0 compared=0 finished=
while [ $i -lt "$kills" ] && [ -z "$finished" ]; do
    if [ -n "$(checkpoints)" ]; then resume="--resume last"; else resume=; fi
    "$build/train" "$@" --keep 2 --quiet --out killed $resume >out.txt 2>err.txt &
    started=$!
    moment=$(awk "BEGIN { printf \"%.3f\", $(od -An -N4 -tu4 /dev/urandom) / 4294967296 * $longest }")
    sleep "$moment"
    kill -9 $started 2>/dev/null
    wait $started 2>/dev/null
    code=$?
    started= files=0
    case $code in
    137) i=$((i + 1)) ;;
    0) echo "finished before the next kill" && finished=yes ;;
    *) differ "it ended by itself, exit $code: $(head -n 1 err.txt)" && finished=yes ;;
    esac
    for c in $(checkpoints); do
        for f in unbroken/"${c##*/}"/*; do
            case $f in */trainer_state.json) continue ;; esac # names its own --out and --keep
            same "$f" "$c/${f##*/}"
            files=$((files + 1))
        done
        grep -q '^}$' "$c/trainer_state.json" || differ "$c/trainer_state.json"
    done
    compared=$((compared + files))
    [ -n "$finished" ] || printf 'kill %2d after %6s s, at step %s: checkpoints %s; %d files compared\n' $i "$moment" \
        "$(sed -n 's/^{"event":"step","step":\([0-9]*\),.*/\1/p' killed/log.jsonl 2>/dev/null | tail -n 1)" \
        "$(checkpoints | sed 's/.*-//' | sort -n | tr '\n' ' ')" $files
done
[ -n "$finished" ] || "$build/train" --resume last --quiet --out killed >/dev/null || differ "the last resume"

same unbroken/model.safetensors killed/model.safetensors
facts unbroken >unbroken.facts
facts killed >killed.facts
same unbroken.facts killed.facts
left=$(ls -d killed/*.tmp killed/*.old 2>/dev/null)
[ -z "$left" ] || differ "left over: $left"
echo "compared: $compared checkpoint files after $i kills; the model ($(wc -c <killed/model.safetensors) bytes);" \
    "$(wc -l <killed.facts) lines of log.jsonl. $differences differ."
[ $differences = 0 ]
