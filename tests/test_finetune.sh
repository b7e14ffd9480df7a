#!/bin/sh
# test_finetune.sh - fine-tuning keeps its promises: stopped, killed and resumed runs that end in the same bytes as an
# unbroken one; the best and the last kept; frozen weights that stay; a report that tells what was lost; bad data named.
#
#     BUILD=build/gcc sh tests/test_finetune.sh
#
# A model of 50,000 weights makes a run a fraction of a second. Needs about 30 MB under TMPDIR.
set -u
. "$(dirname "$0")/check.sh"
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/test_finetune.sh}"
bin=$(cd "$BUILD" && pwd)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-finetune-XXXXXX") || exit 1
started=
clean_up() {
    [ -z "$started" ] || kill -9 "$started" 2>/dev/null
    rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
cd "$tmp" || exit 1

less() {
    awk -v a="$1" -v b="$2" 'BEGIN { if (a != "" && b != "" && a < b) exit 0; print a " is not below " b; exit 1 }'
}

run() { "$bin/finetune" "$@" >out.txt 2>err.txt; }
tune() { # OUT OPTIONS...: from ./base unless they name a model; it must succeed
    out=$1
    shift
    run --model base --threads 1 --quiet --out "$out" --overwrite "$@" || broke "finetune --out $out $*: exit $?"
}
refused() { # CODE TEXT OPTIONS...: exits with the code, with one sentence that contains the text
    code=$1 text=$2
    shift 2
    run --threads 1 --quiet "$@"
    got=$?
    [ $got = "$code" ] && [ "$(wc -l <err.txt)" = 1 ] && grep -q "^tea: .*$text" err.txt && return
    echo "exit $got, stderr:"
    head -n 4 err.txt
    return 1
}
same_end() { # UNBROKEN OTHER
    facts "$1" && facts "$2" && cmp "$1.facts" "$2.facts" || return 1
    for f in model.safetensors adapter_model.safetensors; do
        [ ! -e "$1/$f" ] || cmp "$1/$f" "$2/$f" || return 1
    done
}
resumes() { # TITLE RUN CHECKPOINT: from there on, the same adapter in the end, byte for byte
    cp -r "$2/$3" from
    run --resume from --out "$2-resumed" --threads 1 --quiet || broke "$1: resume: exit $?"
    check "$1: resumed, it ends as the unbroken run" cmp "$2/adapter_model.safetensors" \
        "$2-resumed/adapter_model.safetensors"
    rm -r from
}
value() { sed -n "s/.*\"event\":\"$2\".*\"$3\":\(-\{0,1\}[0-9.e+-]*\).*/\1/p" "$1/log.jsonl"; } # RUN EVENT KEY
last_value() { value "$@" | tail -n 1; }
best_of() { # RUN: "LOSS STEP"; the best weights, loaded, are evaluated once more under the last step's number
    sed -n 's/^{"event":"eval","step":\([1-9][0-9]*\),"val_loss":\([0-9.]*\),.*/\2 \1/p' "$1/log.jsonl" |
        awk '!seen[$2]++' | sort -n | head -n 1
}
tensor() { # FILE NAME: its bytes
    n=$(od -An -N8 -tu8 "$1" | tr -d ' ')
    range=$(head -c $((n + 8)) "$1" | tail -c "$n" | sed -n \
        "s/.*\"$2\":{[^}]*\"data_offsets\":\[\([0-9]*\),\([0-9]*\)\].*/\1 \2/p")
    [ -n "$range" ] || { echo "$1 has no $2"; return 1; }
    tail -c +$((n + 9 + ${range% *})) "$1" | head -c $((${range#* } - ${range% *}))
}
random() { awk -v r="$(od -An -N4 -tu4 /dev/urandom)" -v max="$1" 'BEGIN { printf "%.3f", r / 4294967296 * max }'; }

tiny="--layers 2 --width 32 --heads 2 --vocab 300 --batch 4 --seq 32 --steps 40 --warmup 5 --eval-steps 0
      --sample-steps 0 --sample-tokens 8 --save-steps 0 --threads 1 --quiet"
"$bin/train" $tiny --data corpus:60k --out base >out.txt 2>err.txt || broke "train --out base"
"$bin/train" $tiny --data corpus:60k --arch bert --steps 5 --out bert >out.txt 2>err.txt || broke "train --arch bert"

row_is() { printf '%s\n' "$1"; } # some shells' echo would read the \n in it
i=0
while [ $i -lt 60 ]; do # the same 60 rows in four forms
    i=$((i + 1))
    q="Count from" a="$i, $((i + 1)), $((i * 2))"
    row_is "{\"messages\":[{\"role\":\"user\",\"content\":\"$q $i\"},{\"role\":\"assistant\",\"content\":\"$a\"}]}" >&3
    row_is "{\"instruction\":\"$q\",\"input\":\"$i\",\"output\":\"$a\"}" >&4
    row_is "{\"conversations\":[{\"from\":\"human\",\"value\":\"$q\\n$i\"},{\"from\":\"gpt\",\"value\":\"$a\"}]}" >&5
    row_is "{\"prompt\":\"$q\\n$i\",\"completion\":\"$a\"}" >&6
done 3>chat.jsonl 4>alpaca.jsonl 5>sharegpt.jsonl 6>pairs.jsonl
{ echo '['; sed '$!s/$/,/' alpaca.jsonl; echo ']'; } >alpaca.json
yes 'The sea is wide and the boat is small, so we row and row until the evening comes.' | head -n 200 >general.txt
i=0
while [ $i -lt 40 ]; do
    i=$((i + 1))
    echo "{\"text\":\"a good day $i\",\"label\":\"good\"}"
    echo "{\"text\":\"it was bad $i\",\"label\":\"bad\"}"
done >labels.jsonl

# ---- the same from any form of the rows, on any number of threads ----------------------------------------------------
short="--epochs 1 --batch 4 --seq 64 --lr 1e-3"
tune alpaca $short --data alpaca.jsonl
for f in sharegpt.jsonl pairs.jsonl alpaca.json; do
    tune form $short --data $f
    sed 's/,"loss: .*}/}/;s/"set":"[^"]*"/"set":""/' form/log.jsonl >log.txt # the sets' names differ, as they should
    check "$f: the weights that alpaca.jsonl gives" cmp alpaca/model.safetensors form/model.safetensors
done
tune threads $short --data alpaca.jsonl --threads 3
check "--threads 3 gives the losses and weights of --threads 1" same_end alpaca threads
tune recompute $short --data alpaca.jsonl --recompute
check "--recompute too" same_end alpaca recompute
check "the directory is complete" all_of alpaca/config.json alpaca/tokenizer.json alpaca/tokenizer_config.json \
    alpaca/README.md \
    alpaca/report.html
check "a base model's template is written down" grep -q '### Instruction:' alpaca/tokenizer_config.json
cat >ask.jsonl <<'TEXT'
{"messages":[{"role":"user","content":"Count from 3"}]}
TEXT
asked() { "$bin/infer" --chat --messages ask.jsonl --n 1 "$@" | sed 's/.*"prompt_ids":\(\[[0-9,]*\]\).*/\1/'; }
check "and infer --chat finds it" is "$(asked --model alpaca)" "$(asked --model base --template alpaca)"
check "which is another than the base's" sh -c '[ "$1" != "$2" ]' - "$(asked --model alpaca)" "$(asked --model base)"
echo '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"x"}]}' >one.jsonl
tune one --data chat.jsonl --eval-data one.jsonl --max-steps 1
check "the loss counts the answer alone: \"x\" and its end" is "$(value one eval n_tok | sort -u)" 2
{ cat general.txt; echo '<|endoftext|>'; cat general.txt; } >two.txt
tune varied $short --data alpaca.jsonl --augment 2 --save-steps 10 --keep 0
cp -r varied/checkpoint-10 from10
run --resume from10 --out varied2 --threads 1 --quiet || broke "--augment: resume: exit $?"
check "--augment: resumed, it ends as the unbroken run" cmp varied/model.safetensors varied2/model.safetensors
rm -r from10
tune lm $short --task lm --data two.txt
check "--task lm learns plain text" less "$(last_value lm eval val_loss)" "$(value lm eval val_loss | head -n 1)"

# ---- stopped, killed, resumed ----------------------------------------------------------------------------------------
long="--epochs 6 --batch 2 --accum 2 --lr 1e-3 --seq 64 --dropout 0.1 --neftune 5 --save-steps 10 --eval-steps 10 --keep 0
      --data chat.jsonl --data general.txt:0.5"
has_ended() { grep -q '"event":"end",.*finished' "$1/log.jsonl" 2>/dev/null; }
for kind in full lora padded; do
    case $kind in full) more= ;; lora) more="--lora 4 --lora-dropout 0.1" ;; padded) more=--no-pack ;; esac
    began=$(date +%s%N)
    tune $kind $long $more
    longest=$(awk 'BEGIN { printf "%.2f", ('"$(date +%s%N)"' - '"$began"') / 1e9 }')
    kills=0 moments= half=0
    while [ $kills -lt 5 ] && ! has_ended killed-$kind; do
        from=
        for c in killed-$kind/checkpoint-*; do case $c in *-\* | *.tmp) ;; *) from="--resume last" ;; esac; done
        [ -n "$from" ] || from="--overwrite"
        "$bin/finetune" --model base --threads 1 --quiet --out killed-$kind $long $more $from >out.txt 2>err.txt &
        started=$!
        moment=$(random "$longest")
        sleep "$moment"
        kill -9 $started 2>/dev/null
        wait $started 2>/dev/null
        started= kills=$((kills + 1)) moments="$moments $moment"
        for c in killed-$kind/checkpoint-*; do
            case $c in *-\* | *.tmp | *.old) continue ;; esac
            for f in model.safetensors adapter_model.safetensors optimizer.safetensors; do
                [ ! -e "$kind/${c##*/}/$f" ] || cmp "$kind/${c##*/}/$f" "$c/$f" >check.txt 2>&1 || half=$((half + 1))
            done
        done
    done
    check "$kind, kill -9 after$moments s: each checkpoint is that of the unbroken run" is $half 0
    from="--resume last"
    ls -d killed-$kind/checkpoint-*[0-9] >/dev/null 2>&1 || from="$long $more --overwrite"
    has_ended killed-$kind || run --model base --threads 1 --quiet --out killed-$kind $from || broke "resume: exit $?"
    check "$kind: killed and resumed, it ends as the unbroken run" same_end $kind killed-$kind
done
"$bin/finetune" --model base --threads 1 --quiet --out stopped $long --epochs 60 --schedule constant >out.txt \
    2>err.txt &
started=$!
tries=0
until grep -q '"event":"step","step":12,' stopped/log.jsonl 2>/dev/null || [ $tries -gt 1000 ]; do sleep 0.01; \
    tries=$((tries + 1)); done
kill -INT $started
wait $started
code=$? started=
check "SIGINT: saves and exits 0" is "$code, $(grep -c 'stopped at step [0-9]* and saved' out.txt)" "0, 1"
tune once $long --epochs 60 --max-steps 40 --schedule constant
resume stopped --max-steps 40
check "and goes on to the same end, with another --max-steps" cmp once/model.safetensors stopped/model.safetensors
check "a finished run has nothing to resume" refused 1 "nothing to do" --resume last --out full

# ---- what is kept, what is best --------------------------------------------------------------------------------------
yes '{"prompt":"a","completion":"never seen before, and unlike all the rest: 0123456789"}' | head -n 3 >other.jsonl
tune best --data chat.jsonl --eval-data other.jsonl --epochs 8 --batch 4 --seq 64 --no-pack --lr 1e-2 --eval-steps 5 \
    --save-steps 5 --keep 1 \
    --load-best
last=$(last_value best step step)
best=$(best_of best)
best_loss=${best% *} best=${best#* }
check "--keep 1 keeps the last and the best (step $best of $last)" \
    is "$(ls -d best/checkpoint-* | sort)" "$(printf 'best/checkpoint-%s\n' "$best" "$last" | sort -u)"
check "the best is not the last here" test "$best" != "$last"
check "--load-best: the model is the best checkpoint's" cmp best/model.safetensors \
    "best/checkpoint-$best/model.safetensors"
check "--load-best: and so is the loss at the end" is "$(last_value best end val_loss)" "$best_loss"
tune lorabest --lora 4 --data chat.jsonl --eval-data other.jsonl --epochs 8 --batch 4 --seq 64 --no-pack --lr 1e-2 \
    --eval-steps 5 --save-steps 5 \
    --load-best
best=$(best_of lorabest)
check "--load-best with an adapter" cmp lorabest/adapter_model.safetensors \
    "lorabest/checkpoint-${best#* }/adapter_model.safetensors"
tune epochs --data chat.jsonl --epochs 3 --batch 4 --seq 64 --no-pack --eval-strategy epoch --save-strategy epoch \
    --keep 0
check "by epochs: 54 samples in batches of 4 are 14 steps, evaluated and saved three times" \
    is "$(cd epochs && echo checkpoint-*) $(value epochs eval step | sort -nu | tr '\n' ' ')" \
        "checkpoint-14 checkpoint-28 checkpoint-42 0 14 28 42 "

# ---- Trainer's names, from a file ------------------------------------------------------------------------------------
cat >trainer.json <<'TEXT'
{"num_train_epochs": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3,
 "save_steps": 1000, "eval_steps": 1000, "logging_steps": 100, "evaluation_strategy": "steps", "weight_decay": 0.01,
 "load_best_model_at_end": true, "metric_for_best_model": "eval_loss", "warmup_ratio": 0.1, "max_grad_norm": 1.0,
 "lr_scheduler_type": "cosine", "save_total_limit": 2, "seed": 7, "output_dir": "course", "no_pack": true,
 "gradient_checkpointing": false, "train_file": ["chat.jsonl"], "max_seq_length": 64, "overwrite_output_dir": true}
TEXT
run --model base --threads 1 --quiet --config-file trainer.json || broke "--config-file"
tune same --data chat.jsonl --epochs 3 --batch 4 --lr 1e-3 --save-steps 1000 --eval-steps 1000 --log-steps 100 \
    --load-best --weight-decay 0.01 \
    --warmup-ratio 0.1 --schedule cosine --seed 7 --seq 64 --no-pack
check "a JSON file of Trainer's names is the same run" cmp course/model.safetensors same/model.safetensors
check "its last step is evaluated and saved" all_of course/checkpoint-42/trainer_state.json
run --model base --threads 1 --quiet --config-file trainer.json --out course2 --num-train-epochs 1 || broke \
    "--config-file and more"
check "the command line wins over the file" is "$(cd course2 && echo checkpoint-*)" checkpoint-14
echo '{"learning_rat": 1}' >bad.json
check "an unknown name in the file" refused 2 "no option --learning-rat" --model base --config-file bad.json

# ---- what trains and what does not -----------------------------------------------------------------------------------
tune frozen $short --data chat.jsonl --freeze 1 --freeze-embeddings
same_tensor() { tensor base/model.safetensors "$1" >a.bin && tensor "$2/model.safetensors" "$1" >b.bin && cmp a.bin \
    b.bin; }
check "--freeze 1: layer 0 stays" same_tensor model.layers.0.mlp.up_proj.weight frozen
check "--freeze 1: layer 1 moves" sh -c '! cmp -s "$1" "$2"' - frozen/model.safetensors base/model.safetensors
check "--freeze 1: layer 1's own tensor moves" sh -c '! "$@"' - cmp -s a.bin /dev/null
if same_tensor model.layers.1.mlp.up_proj.weight frozen >/dev/null; then fail "--freeze 1: layer 1 did not move"; fi
check "--freeze-embeddings: they stay" same_tensor model.embed_tokens.weight frozen
check "and have no moments" sh -c '! grep -q "exp_avg.wte\|exp_avg.layers.0" "$1"' - \
    frozen/checkpoint-*/optimizer.safetensors
tune adapter $short --data chat.jsonl --lora 4 --lora-targets all-linear
check "an adapter's directory holds no weights" none_of adapter/model.safetensors adapter/config.json
check "PEFT's layout" grep -q '"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"' \
    adapter/adapter_model.safetensors
run --model base --merge adapter --out merged --threads 1 || broke "--merge"
difference=$(sed -n 's/.*at most \([0-9.e+-]*\) .*/\1/p' out.txt)
check "--merge: the adapter's logits ($difference)" less "$difference" 1e-4
check "and they are not the base's" sh -c '! cmp -s base/model.safetensors merged/model.safetensors'
check "merging into the base itself is refused" refused 1 "where the run reads from" --model base --merge adapter \
    --out base --overwrite

# ---- over weights of few bits (QLoRA) --------------------------------------------------------------------------------
few() { # OUT OPTIONS...: ./quantize
    out=$1
    shift
    "$bin/quantize" --out "$out" --overwrite --threads 1 --quiet "$@" >out.txt 2>err.txt || broke "quantize --out $out"
}
few q4 --model base --bits 4 --group 16 --symmetric no
few q8 --model base --bits 8 --activations dynamic
check "weights of few bits cannot be trained" refused 1 "an adapter over them can (--lora 8)" --model q4 --data \
    chat.jsonl --out x
over="--lora 4 --lora-targets all-linear --data chat.jsonl --epochs 3 --batch 4 --seq 64 --lr 3e-3 --lora-dropout 0.1
      --save-steps 5 --keep 0"
for q in q4 q8; do
    tune $q-lora --model $q $over
    check "$q: an adapter learns over it" less "$(last_value $q-lora eval val_loss)" \
        "$(value $q-lora eval val_loss | head -n 1)"
    tune $q-nothing --model $q --lora 4 --lora-targets all-linear --data chat.jsonl --max-steps 1 --lr 1e-30 --seq 64
    run --model $q --merge $q-nothing --merge-as float --out $q-floats --overwrite --threads 1 ||
        broke "$q: --merge-as float"
    tune $q-same --model $q-floats $over
    check "$q: the same losses and adapter as over the same numbers as floats" same_end $q-lora $q-same
    tune $q-threads --model $q $over --threads 3 --recompute
    check "$q: on three threads, recomputed" same_end $q-lora $q-threads
    resumes $q $q-lora checkpoint-5
    run --model $q --merge $q-lora --out $q-merged --overwrite --threads 1 || broke "$q: --merge"
    cp out.txt report.txt
    check "$q: merged, it is quantised as its base was" grep -q '(quantised as its base): .* KL divergence' report.txt
    check "$q: and as large" is "$(wc -c <$q-merged/model.safetensors)" "$(wc -c <$q/model.safetensors)"
    check "$q: scales stay, numbers change" sh -c 'cmp -s "$1" "$2" && ! cmp -s "$3" "$4"' - $(for d in $q $q-merged; do
        tensor $d/model.safetensors model.layers.1.mlp.up_proj.weight_scale >$d.scale; echo $d.scale; done) \
        $q/model.safetensors $q-merged/model.safetensors
    run --model $q --merge $q-nothing --out $q-again --overwrite --threads 1 || broke "$q: --merge of nothing"
    check "$q: nothing learnt, nothing changed" cmp $q/model.safetensors $q-again/model.safetensors
done
run --model q4 --merge q4-lora --merge-as float --out q4-whole --overwrite --threads 1 || broke "q4: --merge-as float"
difference=$(sed -n 's/.*at most \([0-9.e+-]*\) .*/\1/p' out.txt)
check "q4: merged into floats: the adapter's logits ($difference)" less "$difference" 1e-3

# ---- mixing and forgetting -------------------------------------------------------------------------------------------
measure="--data chat.jsonl --eval-data chat.jsonl --eval-data general.txt --epochs 3 --batch 4 --seq 64 --lr 3e-3"
"$bin/train" $tiny --data general.txt --steps 60 --out knows >out.txt 2>err.txt || broke "train --out knows"
tune alone $measure --model knows
row() { sed -n 's/^general.txt *\([0-9.]*\) *\([0-9.]*\) .*/\'"$1"'/p' report.txt | head -n 1; }
cp out.txt report.txt
check "the report shows what was lost ($(row 1) -> $(row 2))" less "$(row 1)" "$(row 2)"
check "and says so" grep -q '^general.txt .* lost' report.txt
check "and what was gained" grep -q '^chat.jsonl .* gained' report.txt
lost=$(row 2)
tune mixed $measure --model knows --data general.txt:2
cp out.txt report.txt
check "mixed with the old text, less is lost ($(row 2))" less "$(row 2)" "$lost"
tune replay $measure --model knows --replay 0.5
grep '^general.txt' out.txt | head -n 1 >report.txt
check "--replay finds what the model was trained on ($(row 2))" less "$(row 2)" "$lost"
for hold in "--l2-start 1" "--ewc 1 --replay-data general.txt"; do
    tune held $measure --model knows $hold --save-steps 20 --keep 0
    cp out.txt report.txt
    check "$hold: less is lost ($(row 2))" less "$(row 2)" "$lost"
    cp -r held/checkpoint-20 from20
    run --resume from20 --out held2 --overwrite --threads 1 --quiet || broke "$hold: resume: exit $?"
    check "$hold: resumed, it is held at the same place" cmp held/model.safetensors held2/model.safetensors
    rm -r from20
done
tune sweep $measure --model knows --sweep-mix 0 0.2 0.5
awk '/^general.txt$/ { seen++ } seen == 1 && $1 ~ /^(before|0|0.2|0.5)$/ { print $2 }' out.txt | tr '\n' ' ' >report.txt
read -r before none little half <report.txt
check "--sweep-mix: nothing replayed is the run without ($none)" is "$none" "$lost"
check "--sweep-mix: half is replayed as by --replay 0.5 ($before, $none, $little, $half)" \
    cmp replay/model.safetensors sweep/mix-0.5/model.safetensors
check "--sweep-mix: the more, the less is lost" less "$little" "$none"
check "--sweep-mix: a share above all" refused 2 "a share is from 0 to 0.95" --model knows --data chat.jsonl \
    --sweep-mix 1.5 --out x
tune still $measure --model knows --lr 1e-30
cp out.txt report.txt
check "nothing learnt, nothing lost" is "$(row 1)" "$(row 2)"
run --model knows --threads 1 --out half --overwrite $measure --replay 0.5 --max-steps 1
check "half of an epoch's samples are replayed: 60 beside 60" grep -q 'weight .*: 60 an epoch' err.txt

# ---- classes ---------------------------------------------------------------------------------------------------------
tune classes --model bert --task classify --data labels.jsonl --epochs 6 --batch 8 --seq 32 --lr 3e-3 --metric f1 \
    --load-best --eval-steps 9 \
    --save-steps 9
check "two words tell the classes apart" is "$(last_value classes eval accuracy) $(last_value classes eval f1)" "1 1"
check "the confusion matrix is printed" grep -q '^good  *0  *[1-9]' out.txt
check "classes have their names" grep -q '"label2id"' classes/config.json
tune again --model classes --task classify --data labels.jsonl --max-steps 1 --seq 32
check "a classifier of the same classes keeps its head" is "$(value again eval accuracy | head -n 1)" 1
check "--metric f1 without classes" refused 2 "is for --task classify" --model base --data chat.jsonl --metric f1 \
    --out x
tune decides --model base --task classify --data labels.jsonl --epochs 6 --batch 8 --seq 32 --lr 3e-3
check "a decoder classifies by its last token" is "$(last_value decides eval accuracy)" 1
check "and is called what transformers calls it" grep -q 'ForSequenceClassification' decides/config.json
sed -n 's/.*"text": *"\([^"]*\)".*"label": *"\([^"]*\)".*/\1\t\2/p' labels.jsonl | head -n 6 >some.txt
cut -f 1 some.txt | "$bin/infer" --model decides --classify - --quiet >told.txt 2>err.txt || broke "infer --classify"
check "./infer --classify tells them apart" is "$(awk '{print $2}' told.txt | tr '\n' ' ')" "$(cut -f 2 some.txt | tr '\n' ' ')"
for kind in bert base q4; do # a head beside an adapter
    tune $kind-head --model $kind --task classify --data labels.jsonl --lora 4 --epochs 6 --batch 8 --seq 32 --lr 1e-2 \
        --save-steps 9 --keep 0
    check "$kind: an adapter and a head tell them apart" is "$(last_value $kind-head eval accuracy)" 1
    check "$kind: the head is in the adapter" grep -q '"modules_to_save":.*"\(classifier\|score\)"' \
        $kind-head/adapter_config.json
    check "$kind: and transformers will not take it for a whole model" none_of $kind-head/config.json
    cut -f 1 some.txt | "$bin/infer" --model $kind --adapter $kind-head --classify - --quiet >told.txt 2>err.txt ||
        broke "infer --adapter $kind-head --classify"
    check "$kind: ./infer --adapter --classify tells them apart" is "$(awk '{print $2}' told.txt | tr '\n' ' ')" \
        "$(cut -f 2 some.txt | tr '\n' ' ')"
    resumes $kind $kind-head checkpoint-18
    run --model $kind --merge $kind-head --out $kind-one --overwrite --threads 1 || broke "$kind: --merge"
    check "$kind: merged, the likeliest class is the same" grep -q 'likeliest class is the same in 6[0-4] of 64' out.txt
    cut -f 1 some.txt | "$bin/infer" --model $kind-one --classify - --quiet >one.txt 2>err.txt ||
        broke "infer --classify"
    check "$kind: and ./infer --classify reads it" is "$(awk '{print $2}' one.txt | tr '\n' ' ')" \
        "$(cut -f 2 some.txt | tr '\n' ' ')"
done
check "an encoder that should write" refused 1 "does not write text" --model bert --data chat.jsonl --out x

# ---- preferences -----------------------------------------------------------------------------------------------------
i=0
while [ $i -lt 30 ]; do
    i=$((i + 1))
    row_is "{\"prompt\":\"Hello $i\",\"chosen\":\"Good day to you.\",\"rejected\":\"Go away, $i.\"}" >&3
    row_is "{\"prompt\":[{\"role\":\"user\",\"content\":\"Hello $i\"}],
        \"chosen\":[{\"role\":\"assistant\",\"content\":\"Good day to you.\"}],
        \"rejected\":[{\"role\":\"assistant\",\"content\":\"Go away, $i.\"}]}" | tr '\n' ' ' >&4
    echo >&4
done 3>dpo.jsonl 4>lists.jsonl
prefer="--task dpo --epochs 4 --batch 4 --seq 64 --lr 1e-3 --dropout 0.1 --metric accuracy --save-steps 5"
tune dpo $prefer --data dpo.jsonl --keep 0
check "--task dpo begins at log 2" is "$(value dpo eval val_loss | head -n 1)" 0.69314718
check "and learns what is preferred" is "$(last_value dpo eval accuracy)" 1
check "with less loss ($(last_value dpo eval val_loss))" less "$(last_value dpo eval val_loss)" 0.5
cp -r dpo/checkpoint-10 from10
run --resume from10 --out dpo2 --overwrite --threads 1 --quiet || broke "dpo: resume: exit $?"
check "resumed, it ends as the unbroken run" cmp dpo/model.safetensors dpo2/model.safetensors
tune lists $prefer --data lists.jsonl --eval-data dpo.jsonl --epochs 1
tune texts $prefer --data dpo.jsonl --eval-data dpo.jsonl --epochs 1
check "lists of messages are the same as texts" cmp lists/model.safetensors texts/model.safetensors
tune dpolora $prefer --data dpo.jsonl --keep 0 --lora 4 --lr 3e-3
check "with an adapter too" less "$(last_value dpolora eval val_loss)" 0.6
cp -r dpolora/checkpoint-10 from10l
run --resume from10l --out dpolora2 --overwrite --threads 1 --quiet || broke "dpo, adapter: resume: exit $?"
check "and resumed" cmp dpolora/adapter_model.safetensors dpolora2/adapter_model.safetensors

# ---- memory ----------------------------------------------------------------------------------------------------------
check "what cannot fit is refused, with its size" refused 1 "needs .*iB of memory and .* free" --model base --data \
    chat.jsonl --batch 1000000 --out x
check "and nothing is left of it" none_of x
check "a question as long as --seq: said so" refused 1 "cut at 9 tokens, no sample has something to learn left" \
    --model base --data chat.jsonl \
    --seq 8 --out x

# ---- bad data: file and line, and nothing is written -----------------------------------------------------------------
bad() { # WHAT TEXT OPTIONS...: bad.jsonl or another file, as prepared
    about=$1 text=$2
    shift 2
    check "bad data: $about" refused 1 "$text" --model base --out x "$@"
}
good='{"prompt":"a","completion":"b"}'
: >empty.jsonl
bad "an empty file" "empty.jsonl: there is no sample" --data empty.jsonl
bad "no such file" "nowhere.jsonl: No such file" --data nowhere.jsonl
{ yes "$good" | head -n 500; echo '{"prompt":"a","completion":'; yes "$good" | head -n 500; } >bad.jsonl
bad "a broken line among a thousand" "bad.jsonl:501: not JSON from byte" --data bad.jsonl
{ echo "$good"; echo "$good $good"; } >bad.jsonl
bad "two rows on a line" "bad.jsonl:2: not JSON from byte 33" --data bad.jsonl
{ echo "$good"; echo; echo '{"promt":"a","completion":"b"}'; } >bad.jsonl
bad "wrong keys are listed" 'bad.jsonl:3: holds "promt", "completion", where' --data bad.jsonl
echo '[1,2]' >bad.jsonl
bad "a list instead of a row" "bad.jsonl:1: not a JSON object" --data bad.jsonl
echo '{"messages":[{"role":"user","content":"Hi"}]}' >bad.jsonl
bad "a conversation without an answer" "bad.jsonl:1: a conversation without an answer" --data bad.jsonl
echo '{"messages":[{"role":"user","content":5},{"role":"assistant","content":"b"}]}' >bad.jsonl
bad "content that is no text" 'bad.jsonl:1: message 1: "content" must be a string' --data bad.jsonl
echo '{"messages":[{"role":"boss","content":"Hi"},{"role":"assistant","content":"b"}]}' >bad.jsonl
bad "an unknown role" 'bad.jsonl:1: message 1: role "boss"' --data bad.jsonl
echo '{"messages":[]}' >bad.jsonl
bad "no messages" "bad.jsonl:1: not a conversation" --data bad.jsonl
echo '{"conversations":[{"from":"alien","value":"Hi"}]}' >bad.jsonl
bad "an unknown speaker" 'bad.jsonl:1: message 1: nobody here is called "alien"' --data bad.jsonl
echo '{"conversations":[{"from":"human"}]}' >bad.jsonl
bad "a turn without words" 'bad.jsonl:1: message 1 needs "from" and "value"' --data bad.jsonl
echo '{"conversations":"Hi"}' >bad.jsonl
bad "conversations that are none" 'bad.jsonl:1: "conversations" must be a list' --data bad.jsonl
echo '{"prompt":"a","completion":["b"]}' >bad.jsonl
bad "a completion that is a list" 'bad.jsonl:1: "completion" must be a string' --data bad.jsonl
echo '{"instruction":"a","output":""}' >bad.jsonl
bad "nothing but empty answers" "bad.jsonl: there is no sample in it that has something to learn" --data bad.jsonl
echo '{"text":"a"}' | gzip >bad.jsonl
bad "a compressed file" "bad.jsonl:1: not JSON" --data bad.jsonl
printf '{"text":"a\000b"}\n' >bad.jsonl
bad "a NUL byte" "bad.jsonl:1: not JSON" --data bad.jsonl
printf '[\n{"text":"a"},\n{"text":}\n]\n' >bad.json
bad "a broken array" "bad.json: not a JSON array: broken in line 3" --data bad.json
echo '{"text":"a"}' >bad.json
bad "a .json that is no array" "bad.json: not a JSON array" --data bad.json
awk 'BEGIN { for (i = 0; i < 200000; i++) printf "["; print "" }' >bad.jsonl
bad "brackets without end" "bad.jsonl:1: not JSON" --data bad.jsonl
echo '{"prompt":"a","chosen":"b"}' >bad.jsonl
bad "a preference without its other side" 'bad.jsonl:1: holds "prompt", "chosen", where' --task dpo --data bad.jsonl
echo '{"prompt":"a","chosen":"b","rejected":3}' >bad.jsonl
bad "a rejected number" 'bad.jsonl:1: "rejected" must be a string or a list' --task dpo --data bad.jsonl
echo '{"chosen":"b","rejected":"c"}' >bad.jsonl
bad "an answer to nothing" 'bad.jsonl:1: a preference needs a "prompt"' --task dpo --data bad.jsonl
bad "a weight of nothing" "a weight is above 0" --data chat.jsonl:0
bad "a conversation for --task lm" "chat.jsonl:1: a conversation: --task chat learns it" --task lm --data chat.jsonl
check "no data at all" refused 2 "what should it learn from" --model base --out x
sed 's/good"}/splendid"}/' labels.jsonl >other-labels.jsonl
bad "a label unseen in training" 'other-labels.jsonl:1: label "splendid" was not seen in training' --model bert \
    --task classify --data labels.jsonl \
    --eval-data other-labels.jsonl
echo '{"text":"a"}' >bad.jsonl
bad "a text without its label" 'bad.jsonl:1: holds no "label"' --model bert --task classify --data bad.jsonl
echo '{"text":"a","label":1.5}' >bad.jsonl
bad "a label between two" 'bad.jsonl:1: "label" must be a word or a whole number' --model bert --task classify --data \
    bad.jsonl
sed 's/bad"}/good"}/' labels.jsonl >bad.jsonl
bad "one class only" "nothing to tell apart" --model bert --task classify --data bad.jsonl
bad "classes from plain text" "classification reads .jsonl" --model bert --task classify --data general.txt
bad "replay of nothing known" "does not say what the model was trained on" --model merged --data chat.jsonl --replay 0.1
check "nothing was written" none_of x
cp -r full/checkpoint-10 damaged
head -c 9000 full/checkpoint-10/optimizer.safetensors >damaged/optimizer.safetensors
check "a truncated optimizer.safetensors" refused 1 "optimizer.safetensors" --resume damaged --out damaged-out
check "a diverging run stops with one sentence" refused 1 "the loss .* stopped" --model base --data chat.jsonl --lr \
    10 --clip 0 --epochs 50 \
    --seq 64 --out diverging

echo "$passed passed, $failed failed"
[ $failed = 0 ]
