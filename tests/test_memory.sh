#!/bin/bash
# test_memory.sh - what ./train, ./finetune and ./infer say they will need, beside the most that they had: within 5%.
#
#     BUILD=build/gcc sh tests/test_memory.sh
#
# The models are small, but large enough that a forgotten buffer shows: 30 to 300 MB. Runs fill their batches.
set -u
. "$(dirname "$0")/check.sh"
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/test_memory.sh}"
BUILD=$(cd "$BUILD" && pwd)
case $BUILD in *san*) echo "the sanitizers' own memory is several times the program's"; exit 77 ;; esac
[ -r /proc/self/status ] || { echo "nothing here tells how much memory a process has"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-memory-XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
cd "$tmp" || exit 1

number() { grep -o "\"$1\":[0-9]*" "$2" | tail -n 1 | cut -d: -f2; } # KEY FILE: the last value of KEY in it
within() { # FORESEEN PEAK
    awk -v e="$1" -v p="$2" 'BEGIN { exit !(e > 1e7 && p > e * 0.95 && p < e * 1.05) }' ||
        { echo "$1 bytes foreseen, $2 at its peak"; return 1; }
}
logged() { check "$1" within "$(number memory_bytes "$2/log.jsonl")" "$(number peak_bytes "$2/log.jsonl")"; }
printed() { check "$1" within "$(number "$2" out.txt)" "$(number peak_bytes out.txt)"; }

model="--width 256 --layers 3 --heads 4 --vocab 1024 --seq 256 --batch 8 --quiet"
run="--data corpus:300k --steps 3 --eval-steps 2 --save-steps 2 --sample-steps 2 --sample-tokens 20 --eval-tokens 4000"
for arch in llama gpt2; do
    "$BUILD/train" --arch $arch $model $run --out $arch >out.txt 2>err.txt || broke "train --arch $arch"
    logged "train --arch $arch" $arch
    "$BUILD/infer" --model $arch --bench --n 600 --quiet >out.txt 2>err.txt || broke "infer --bench"
    printed "infer --bench, $arch" memory_bytes
done
"$BUILD/train" $model $run --recompute --out small >out.txt 2>err.txt || broke "train --recompute"
logged "train --recompute" small
"$BUILD/train" $model --bench 1 >out.txt 2>err.txt || broke "train --bench"
printed "train --bench" bytes
for i in $(seq 10 33); do
    printf '{"messages":[{"role":"user","content":"Say %s"},{"role":"assistant","content":"%s. %0900d"}]}\n' "$i" "$i" 7
done >chat.jsonl
# Adapters have a buffer of their inputs, which only dropout fills: with few layers it is 4% of all.
for how in "" "--recompute" "--lora 8 --lora-dropout 0.1" "--lora 8 --lora-dropout 0.1 --lora-targets all-linear"; do
    "$BUILD/finetune" --model llama --data chat.jsonl --max-steps 2 --batch 8 $how --out tuned --overwrite --quiet \
        >out.txt 2>err.txt || broke "finetune $how"
    logged "finetune $how" tuned
done

echo "$passed passed, $failed failed"
[ $failed = 0 ]
