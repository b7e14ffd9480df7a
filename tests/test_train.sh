#!/bin/sh
# test_train.sh - pre-training keeps its promises: the same losses on any number of threads; stopped, killed and resumed
# runs that end in the same bytes as an unbroken one; checkpoints whole or absent; one sentence when something is wrong.
#
#     BUILD=build/gcc sh tests/test_train.sh
#
# A model of 36,000 weights makes a run a fraction of a second. Needs about 30 MB under TMPDIR.
set -u
. "$(dirname "$0")/check.sh"
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/test_train.sh}"
train=$(cd "$BUILD" && pwd)/train
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-train-XXXXXX") || exit 1
mounted= started=
clean_up() {
    [ -z "$started" ] || kill -9 "$started" 2>/dev/null
    [ -z "$mounted" ] || umount "$mounted"
    rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
cd "$tmp" || exit 1

tiny="--layers 2 --width 32 --heads 2 --vocab 300 --batch 2 --seq 32 --steps 20 --warmup 5 --eval-steps 0
      --sample-steps 0 --sample-tokens 8 --save-steps 5 --threads 1 --quiet"
corpus="--data corpus:60k"
run() { "$train" "$@" >out.txt 2>err.txt; } # the options as they are
tea() { # OUT OPTIONS...: the tiny model, on the corpus when they name no data; it must succeed
    out=$1
    shift
    case "$*" in *--data*) text= ;; *) text=$corpus ;; esac
    run $tiny $text --out "$out" "$@" || broke "train --out $out $*: exit $?"
}
refused() { # CODE TEXT OPTIONS...: exits with the code, with one sentence that contains the text
    code=$1 text=$2
    shift 2
    run "$@"
    got=$?
    [ $got = "$code" ] && [ "$(wc -l <err.txt)" = 1 ] && grep -q "^tea: .*$text" err.txt && return
    echo "exit $got, stderr:"
    head -n 4 err.txt
    return 1
}
same_log() { facts "$1" && facts "$2" && cmp "$1.facts" "$2.facts"; }
same_end() { same_log "$1" "$2" && cmp "$1/model.safetensors" "$2/model.safetensors"; }
# Every checkpoint of a run is byte for byte that of the unbroken run: none is half written, half removed or different.
whole() { # UNBROKEN OUT
    for c in "$2"/checkpoint-*; do
        case $c in *-\* | *.tmp | *.old) continue ;; esac
        for f in model.safetensors optimizer.safetensors config.json tokenizer.json tokenizer_config.json; do
            cmp "$1/${c##*/}/$f" "$c/$f" || return 1
        done
        grep -q '^}$' "$c/trainer_state.json" || { echo "$c/trainer_state.json has no end"; return 1; }
    done
}
# Each line one JSON object of plain values; each step 1..N exactly once, in order.
log_valid() { # OUT STEPS
    string='"([^"\\]|\\["\\/bfnrt]|\\u[0-9a-f]{4})*"'
    value="($string|-?[0-9]+(\\.[0-9]+)?(e[+-][0-9]+)?|null|true|false|\\[($string(,$string)*)?\\])"
    if grep -Evn "^\\{$string:$value(,$string:$value)*\\}\$" "$1/log.jsonl"; then return 1; fi
    [ -z "$(tail -c 1 "$1/log.jsonl")" ] || { echo "the last line is not finished"; return 1; }
    sed -n 's/^{"event":"step","step":\([0-9]*\),.*/\1/p' "$1/log.jsonl" >steps.txt
    seq "$2" | cmp - steps.txt
}
last_loss() { sed -n 's/^{"event":"step".*"loss":\([0-9.]*\),.*/\1/p' "$1/log.jsonl" | tail -n 1; }
wait_for_step() { # OUT STEP: of a run in the background
    tries=0
    until grep -q "\"event\":\"step\",\"step\":$2," "$1/log.jsonl" 2>/dev/null || [ $tries -gt 1000 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
}
random() { awk -v r="$(od -An -N4 -tu4 /dev/urandom)" -v max="$1" 'BEGIN { printf "%.3f", r / 4294967296 * max }'; }

# ---- threads, recompute ----------------------------------------------------------------------------------------------
tea full --keep 0 --eval-steps 5
for n in 2 3; do
    tea threads --threads $n --overwrite --eval-steps 5
    check "--threads $n gives the losses and weights of --threads 1" same_end full threads
done
tea full16 --keep 0 --precision f32 --dropout 0.1 --accum 2
tea threads --precision f32 --dropout 0.1 --accum 2 --threads 3 --overwrite
check "the same for f32 with dropout and accumulation" same_end full16 threads
tea recompute --precision f32 --dropout 0.1 --accum 2 --recompute
check "--recompute gives the same losses and weights" same_end full16 recompute
check "log.jsonl: each line valid JSON, each step once" log_valid full 20
check "report.html holds the curve" grep -q '<svg.*polyline' full/report.html
check "the model directory is complete" all_of full/config.json full/generation_config.json full/tokenizer.json \
    full/tokenizer_config.json full/README.md

# ---- stopped and resumed ---------------------------------------------------------------------------------------------
for precision in f32 bf16; do
    options="--precision $precision --dropout 0.1 --accum 2 --schedule constant --eval-steps 5"
    tea once $options --overwrite
    tea twice $options --steps 13 --overwrite
    grep -v '"step":13,.*val_loss\|"event":"sample","step":13' twice/log.jsonl >log.txt
    cp log.txt twice/log.jsonl # the end of 13 steps was a real end: it validated and wrote a sample
    resume twice --steps 20
    check "$precision, dropout, accumulation: 13 steps and 7 are 20 steps" same_end once twice
    check "$precision: log.jsonl is one run's" log_valid twice 20
done
cp -r full/checkpoint-10 elsewhere
mkdir moved
cp full/log.jsonl moved/
run --resume elsewhere --out moved --threads 1 --quiet --keep 1
check "from a checkpoint that was moved, into another directory" same_end full moved
check "a finished run has nothing to resume" refused 1 "nothing to do" --resume last --out full --quiet
check "resuming before a later checkpoint is refused" refused 1 "later than step 5" \
    --resume full/checkpoint-5 --out full --quiet
cp -r full again
run --resume again/checkpoint-5 --out again --overwrite --keep 1 --threads 1 --quiet
check "with --overwrite the later ones are dropped, and the end is the same" same_end full again
check "--keep 1 removes the one resumed from" none_of again/checkpoint-5
check "and its tokenizer outlives it" all_of again/checkpoint-20/tokenizer.json again/tokenizer.json
cp -r full/checkpoint-10 damaged
head -c 9000 full/checkpoint-10/optimizer.safetensors >damaged/optimizer.safetensors
check "a truncated optimizer.safetensors" refused 1 "optimizer.safetensors" --resume damaged --out damaged-out --quiet
echo '{' >damaged/trainer_state.json
check "a damaged trainer_state.json" refused 1 "trainer_state.json: not a JSON object" --resume damaged --out damaged-out --quiet
check "nothing to resume" refused 1 "holds no checkpoint" --resume last --out nowhere --quiet

# ---- signals ---------------------------------------------------------------------------------------------------------
long="--steps 120 --batch 4 --seq 64 --save-steps 10"
tea unbroken $long --keep 0
for signal in INT TERM; do
    "$train" $tiny $corpus $long --out signal-$signal >out.txt 2>err.txt &
    started=$!
    wait_for_step signal-$signal 15
    kill -$signal $started
    wait $started
    code=$? started=
    check "SIG$signal: saves and exits 0" is "$code, $(grep -c 'stopped at step [0-9]* and saved' out.txt)" "0, 1"
    check "SIG$signal: it did stop" none_of signal-$signal/checkpoint-120
    resume signal-$signal
    check "SIG$signal: resumed, it ends as the unbroken run" same_end unbroken signal-$signal
done

# ---- killed ----------------------------------------------------------------------------------------------------------
longest=$(awk 'BEGIN { printf "%.2f", '"$(date +%s%N)"' / 1e9 }')
tea timed $long
longest=$(awk 'BEGIN { printf "%.2f", '"$(date +%s%N)"' / 1e9 - '"$longest"' }')
kills=0 half=0 moments=
has_ended() { grep -q '"event":"end","step":120,' "$1/log.jsonl" 2>/dev/null; }
while [ $kills -lt 8 ] && ! has_ended killed; do
    from=
    for c in killed/checkpoint-*; do case $c in *-\* | *.tmp) ;; *) from="--resume last" ;; esac; done
    "$train" $tiny $corpus $long --out killed $from >out.txt 2>err.txt &
    started=$!
    moment=$(random "$longest")
    sleep "$moment"
    kill -9 $started 2>/dev/null
    wait $started 2>/dev/null
    started= kills=$((kills + 1)) moments="$moments $moment"
    whole unbroken killed >check.txt 2>&1 || { half=$((half + 1)); cat check.txt; }
done
check "kill -9 after$moments s: no checkpoint is half there" is $half 0
has_ended killed || resume killed
check "killed and resumed, it ends as the unbroken run" same_end unbroken killed
check "log.jsonl: valid JSON, each step exactly once" log_valid killed 120
check "nothing temporary is left" none_of killed/*.tmp killed/*.old killed/cache/*.tmp
cp -r unbroken late
rm -r late/model.safetensors late/report.html
sed '/"event":"save","step":120,/q' unbroken/log.jsonl >late/log.jsonl
resume late
check "killed after its last checkpoint, it still writes its model" same_end unbroken late
check "and its report" all_of late/report.html

# ---- what is kept ----------------------------------------------------------------------------------------------------
yes 'the cat sat on the mat' | head -n 200 >learn.txt
yes '0123456789' | head -n 50 >other.txt # never seen in training: it gets worse, so an early one is best
overfit="--data learn.txt --valid-data other.txt --lr 0.01 --schedule constant --steps 60 --eval-steps 4 --save-steps 4
         --keep 2"
tea kept $overfit
best=$(sed -n 's/^{"event":"eval","step":\([0-9]*\),"val_loss":\([0-9.]*\),.*/\2 \1/p' kept/log.jsonl | sort -n |
    head -n 1)
best_loss=${best% *} best=${best#* }
check "--keep 2 keeps the last two and the best (step $best)" \
    is "$(ls -d kept/checkpoint-* | sort)" "$(printf 'kept/checkpoint-%s\n' "$best" 56 60 | sort)"
check "the best is not among the last" test "$best" -lt 56
tea loaded $overfit --load-best
check "--load-best: the model is the best checkpoint's" cmp loaded/model.safetensors \
    "loaded/checkpoint-$best/model.safetensors"
check "--load-best: and so is the loss at the end" is \
    "$(sed -n 's/.*"event":"end".*"val_loss":\([0-9.]*\),.*/\1/p' loaded/log.jsonl)" "$best_loss"

# ---- refusals --------------------------------------------------------------------------------------------------------
check "a second run in the same --out is refused" refused 1 "holds a run already" $tiny --out kept
check "a model in --out is not overwritten either" refused 1 "holds a model already" $tiny --out elsewhere
tea kept --overwrite --save-steps 10
check "--overwrite starts anew" is "$(cd kept && echo checkpoint-*)" "checkpoint-10 checkpoint-20"
check "--overwrite starts a new log" log_valid kept 20

# ---- diverging -------------------------------------------------------------------------------------------------------
cp -r full diverging
check "a diverging run stops with one sentence" \
    refused 1 "the loss .* stopped; the last good checkpoint is diverging/checkpoint-20" \
    --resume last --out diverging --lr 10 --clip 0 --steps 400 --save-steps 0 --threads 1 --quiet
resume diverging --lr 0.001 --clip 1 --steps 24
check "its last good checkpoint goes on" \
    awk -v a="$(last_loss diverging)" -v b="$(last_loss full)" 'BEGIN { exit !(a > 0 && a < b + 1) }'
mkdir nan
cp full/*.json nan/
head -c -4 full/model.safetensors >nan/model.safetensors
printf '\000\000\300\177' >>nan/model.safetensors
check "a loss that is not a number stops with one sentence" \
    refused 1 "step 1: the loss is not finite.*no checkpoint had been saved" \
    $tiny $corpus --init nan --out nan-out
check "and no checkpoint of it is left" none_of nan-out/checkpoint-* nan-out/model.safetensors

# ---- --init ----------------------------------------------------------------------------------------------------------
tea init --init full --lr 0 --steps 1
check "--init starts from the weights given" cmp full/model.safetensors init/model.safetensors
tea init --init full --overwrite --steps 3 --data learn.txt
check "--init goes on with other data" log_valid init 3

# ---- kinds of data: the same documents, so the same tokens and the same losses ---------------------------------------
tea words --steps 1 # its tokenizer serves all
data="--tokenizer words --valid-fraction 0 --steps 3"
cat >documents.txt <<'TEXT'
Once upon a time there was a cat. The cat was called Mia and it lived by the sea.
<|endoftext|>
从前有一只猫。它住在海边。 And it could swim, which is rare for a cat, as you know well.
<|endoftext|>
Question: What is two and two? Answer: four. Question: what is two and three? Answer: five.
TEXT
cat >documents.jsonl <<'TEXT'
{"text":"Once upon a time there was a cat. The cat was called Mia and it lived by the sea.\n"}
{"text":"从前有一只猫。它住在海边。 And it could swim, which is rare for a cat, as you know well.\n", "source":"us"}

{"text":"Question: What is two and two? Answer: four. Question: what is two and three? Answer: five.\n"}
TEXT
{ echo '['; grep . documents.jsonl | sed '$!s/$/,/'; echo ']'; } >documents.json
mkdir folder
head -n 1 documents.txt >folder/1.txt
sed -n 2p documents.jsonl >folder/2.jsonl
{ echo '['; sed -n 4p documents.jsonl; echo ']'; } >folder/3.json
echo 'not data' >folder/README.md
tea txt $data --data documents.txt
for kind in documents.jsonl documents.json folder; do
    tea kind $data --data $kind --overwrite
    check "$kind: the tokens of documents.txt" cmp txt/cache/*.bin "$(ls -t kind/cache/*.bin | head -n 1)"
    check "$kind: and its losses" same_log txt kind
done
cp txt/cache/*.bin shard.bin
tea kind $data --data shard.bin --overwrite
check ".bin, the cache of an earlier run: the same losses" same_log txt kind
tea kind --data shard.bin --valid-fraction 0 --vocab 300 --steps 3 --overwrite --no-doc-mask
check ".bin without a tokenizer" log_valid kind 3
check ".bin with ids that the model does not have" refused 1 "outside the model's vocabulary of 258" \
    $tiny --data shard.bin --valid-fraction 0 --vocab 258 --overwrite --out kind
cat >chat.jsonl <<'TEXT'
{"messages":[{"role":"user","content":"What is the capital of France?"},{"role":"assistant","content":"Paris."}]}
{"instruction":"Add the numbers.","input":"1 and 2","output":"3"}
{"question":"How many legs has a cat?","answer":"Four, as a rule."}
TEXT
cat >chat.txt <<'TEXT'
user: What is the capital of France?
assistant: Paris.
<|endoftext|>
Instruction: Add the numbers.
Input: 1 and 2
Answer: 3
<|endoftext|>
Question: How many legs has a cat?
Answer: Four, as a rule.
TEXT
tea txt $data --data chat.txt --overwrite
tea kind $data --data chat.jsonl --overwrite
check ".jsonl of messages, instructions and questions" same_log txt kind
echo '{"text":5}' >>documents.jsonl
check "a bad line is named" refused 1 "documents.jsonl:5: " $tiny $data --data documents.jsonl --overwrite --out kind
check "too little text" refused 1 "fewer than one window" $tiny $data --data chat.txt --seq 1000 --overwrite --out kind

# ---- what is held out is not learnt from: another last tenth changes nothing but the validation ----------------------
yes 'the cat sat on the mat and the dog lay on the log' | head -c 9000 >head.txt
{ cat head.txt; yes 'a zebra in the zoo was quite amazed' | head -c 1000; } >zebra.txt
{ cat head.txt; yes 'XYLOPHONE QUARTETS JUMP! 1234567890' | head -c 1000; } >xylophone.txt
tea zebra --data zebra.txt --eval-steps 5
tea xylophone --data xylophone.txt --eval-steps 5
check "held-out text does not reach the tokenizer" cmp zebra/tokenizer.json xylophone/tokenizer.json
check "held-out text does not reach the weights" cmp zebra/model.safetensors xylophone/model.safetensors
grep '"event":"eval"' zebra/log.jsonl >zebra.eval
grep '"event":"eval"' xylophone/log.jsonl >xylophone.eval
check "held-out text is what validation reads" sh -c '! cmp -s zebra.eval xylophone.eval'

# ---- a full disk -----------------------------------------------------------------------------------------------------
mkdir disk
if mount -t tmpfs -o size=3m tmpfs disk 2>/dev/null; then
    mounted=$tmp/disk
    tea disk/run --steps 6 --schedule constant --save-steps 5 --keep 0
    dd if=/dev/zero of=disk/filler bs=1k count=3000 2>/dev/null # as much as fits
    check "a full disk: one sentence" refused 1 "No space left" \
        --resume last --out disk/run --steps 20 --threads 1 --quiet
    rm disk/filler
    check "a full disk: the earlier checkpoint is intact" all_of disk/run/checkpoint-6/trainer_state.json
    resume disk/run --steps 20
    tea never-full --schedule constant --keep 0
    check "with space again it goes on to the same end" cmp disk/run/model.safetensors never-full/model.safetensors
    umount disk
    mounted=
else
    echo "      no right to mount a small disk here: a limit on the size of files stands in for it"
    tea full-disk --steps 6 --schedule constant --save-steps 5 --keep 0
    check "no room for a file: one sentence" \
        sh -c 'trap "" XFSZ; ulimit -f 300; "$@" 2>&1 | grep "^tea: .*too large"' - \
        "$train" --resume last --out full-disk --steps 20 --threads 1 --quiet
    resume full-disk --steps 20
    tea never-full --schedule constant --keep 0
    check "with room again it goes on to the same end" cmp full-disk/model.safetensors never-full/model.safetensors
fi

# the other families, a profile
tea profiled --profile --seed 4
check "--profile: every product is in the table" \
    sh -c 'for op in "matmul " "matmul dX" "matmul dW" "attention backward" adamw; do grep -q "^$op.*% of " err.txt || exit 1; done'
tea unprofiled --seed 4
check "--profile changes no bit" cmp profiled/model.safetensors unprofiled/model.safetensors
check "the report draws it" grep -q 'Where the time went.*matmul dX' profiled/report.html
tea glm --arch chatglm
check "chatglm: its own names" grep -q 'encoder.layers.1.self_attention.query_key_value.weight' glm/model.safetensors
check "chatglm: head and embedding are two" grep -q 'transformer.output_layer.weight' glm/model.safetensors
tea bert --arch bert --steps 10 --vocab 600
check "bert: its own tokenizer" all_of bert/vocab.txt bert/tokenizer.json
tea bert-cut --arch bert --steps 5 --vocab 600 --schedule constant --keep 0
resume bert-cut --steps 10
tea bert-whole --arch bert --steps 10 --vocab 600 --schedule constant --keep 0
check "bert: stopped and resumed, the same masks and bytes" cmp bert-cut/model.safetensors bert-whole/model.safetensors
tea bert-words --arch bert --steps 10 --vocab 600 --whole-word
check "bert: whole words are other masks" sh -c '! cmp -s bert-words/model.safetensors bert/model.safetensors'
check "--tie is not ChatGLM's" refused 1 "keeps a head of its own" $tiny $corpus --arch chatglm --tie --out x

echo "$passed passed, $failed failed"
[ $failed = 0 ]
