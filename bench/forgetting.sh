#!/bin/sh
# forgetting.sh - no race: what learning word problems costs a model that tells stories, by what is done against it.
#
#     sh bench/forgetting.sh [BUILD]                 build/gcc; half an hour or so on two cores
#     sh bench/forgetting.sh [BUILD] --quick         half a minute: is the script right? its figures say nothing
#
# The base learns the built-in corpus's stories alone, with a tokenizer that knows the problems' words too. Then it
# learns the problems: with nothing against forgetting, with other stories mixed in, with the very stories that it
# learnt from, held by elastic weight consolidation, by an adapter. Every run sees the same problems as often. Two
# figures for each: the loss on stories that nobody has seen, of whose rise without help a part is avoided (above 100%:
# the base was not done learning them); and how many of 300 problems that nobody has seen are answered rightly.
set -eu
build=build/gcc quick=
for a in "$@"; do case $a in --quick) quick=1 ;; *) build=$a ;; esac; done
bin=$(cd "$build" && pwd)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-forgetting-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
cd "$tmp"
stories=4M problems=2M asked=300 shape="--vocab 4096" steps="--steps 3000"
[ -z "$quick" ] || {
    stories=100k problems=30k asked=20 steps="--steps 60"
    shape="--layers 2 --width 64 --heads 2 --vocab 600"
}

for split in train valid; do
    size=$stories tasks=$problems
    [ $split = train ] || size=60k tasks=60k
    "$bin/corpus" --kind story-en --split $split --bytes $size --out stories-$split.txt
    "$bin/corpus" --kind math --split $split --bytes $tasks --out problems-$split.txt
done
"$bin/corpus" --kind story-en --seed 9 --bytes $stories --out other-stories.txt
"$bin/corpus" --problems 2000 | grep '^{"question":"[A-Z]' | head -n $asked >asked.jsonl
sed 's/^{"question":"\(.*\)","answer":.*/{"prompt":"Question: \1\\nAnswer:"}/' asked.jsonl >prompts.jsonl
sed 's/.*#### \(-\{0,1\}[0-9]*\)".*/\1/' asked.jsonl >right.txt
"$bin/tokenizer" train --data stories-train.txt problems-train.txt --vocab "${shape##* }" --out words --quiet >train.txt
"$bin/train" ${shape% --vocab*} $steps --tokenizer words --data stories-train.txt --out base --sample-steps 0 >train.txt

accuracy() { # MODEL OPTIONS...: per cent
    model=$1
    shift
    "$bin/infer" --model $model "$@" --batch prompts.jsonl --temperature 0 --n 80 --quiet >answers.jsonl
    # The number behind the first ####; an answer without one is wrong.
    sed 's/.*"text":"//; /####/!s/.*/none/; s/^[^#]*####* *\(-\{0,1\}[0-9]*\).*/\1/' answers.jsonl | paste right.txt - |
        awk '{ hits += $1 == $2 } END { printf "%.1f", 100 * hits / NR }'
}
loss() { # before|after RUN: of the stories
    sed -n "s/.*\"set\":\"stories-valid.txt\",.*\"loss_$1\":\([0-9.e+-]*\)[,}].*/\1/p" $2/log.jsonl
}

printf '%-48s %10s %10s %10s %9s\n' "against forgetting" "stories" "avoided" "problems" "points"
worst= best=
try() { # NAME TITLE OPTIONS...
    name=$1 title=$2
    shift 2
    "$bin/finetune" --model base --task lm --data problems-train.txt --eval-data problems-valid.txt stories-valid.txt \
        --epochs 3 --lr 1e-3 --batch 8 --seq 256 --schedule cosine --warmup-ratio 0.05 --eval-steps 0 --save-steps 0 \
        --quiet --out $name "$@" >train.txt
    before=$(loss before $name) after=$(loss after $name)
    case "$*" in *--lora*) got=$(accuracy base --adapter $name) ;; *) got=$(accuracy $name) ;; esac
    [ -n "$worst" ] || worst=$after best=$got
    [ $name != none ] || printf '%-48s %10.4f %10s %10s\n' "the base, which has seen no problem" $before "" \
        "$(accuracy base)%"
    awk -v title="$title" -v base=$before -v worst=$worst -v loss=$after -v got=$got -v best=$best 'BEGIN {
        avoided = worst > base ? 100 * (worst - loss) / (worst - base) : 0
        printf "%-48s %10.4f %9.1f%% %9.1f%% %+9.1f\n", title, loss, avoided, got, got - best }'
    rm -r $name
}
try none "nothing"
try mix10 "other stories, 10% of the samples" --replay 0.1 --replay-data other-stories.txt
try mix30 "other stories, 30%" --replay 0.3 --replay-data other-stories.txt
try replay "the base's own stories, 10%" --replay 0.1 --replay-data stories-train.txt
try replay30 "the base's own stories, 30%" --replay 0.3 --replay-data stories-train.txt
try ewc "elastic weight consolidation, strength 1" --ewc 1 --replay-data stories-train.txt
try ewc10 "elastic weight consolidation, strength 10" --ewc 10 --replay-data stories-train.txt
try both "the base's own stories, 10%, and consolidation" --replay 0.1 --ewc 1 --replay-data stories-train.txt
try lora "an adapter of rank 16" --lora 16 --lora-targets all-linear --lr 2e-3
