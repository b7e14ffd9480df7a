#!/bin/sh
# test_bad_input.sh - files that are missing, cut short or hostile, options that cannot be, disks that are full: each
# must end in one clear sentence on stderr, "tea: ...", and exit 1 (2 for wrong usage); never in a signal, a sanitizer's
# report, a hang, or a stack of messages.
#
#     BUILD=build/gcc sh tests/test_bad_input.sh
#
# Every case says what the sentence must contain: that it names the file or the option is half of what makes it clear.
set -u
. "$(dirname "$0")/bad.sh"

# ---- what must work first, or every failure below would be for the wrong reason -------------------------------------
i=0
while [ $i -lt 200 ]; do
    echo "The quick brown fox $i jumps over the lazy dog, and $((i * 7)) cats look on."
    i=$((i + 1))
done >"$D/text.txt"
SMALL="--layers 1 --width 16 --heads 2 --vocab 300 --seq 16 --batch 2 --steps 2 --warmup 1 --quiet"
TRAIN="$BUILD/train --data $D/text.txt $SMALL"
# shellcheck disable=SC2086
if ! $TRAIN --out "$D/good" >"$D/stdout" 2>"$D/stderr" ||
    ! "$BUILD/infer" --model "$D/good" --prompt "The" --n 4 --quiet >"$D/stdout" 2>>"$D/stderr" ||
    ! "$BUILD/infer" --model "$HERE/fixtures/gpt2" --logits "$D/ids.json" --logits-out "$D/l.safetensors" --quiet \
        2>>"$D/stderr"; then
    sed 's/^/      | /' "$D/stderr"
    echo "FAIL  a small run, with nothing wrong, does not work"
    echo "0 passed, 1 failed"
    exit 1
fi

# ---- options --------------------------------------------------------------------------------------------------------
bad 2 'no option --stpes' "$BUILD/train" --stpes 10
bad 2 '--steps' "$BUILD/train" --steps ten
bad 2 '--steps' "$BUILD/train" --steps 0
bad 2 '--steps' "$BUILD/train" --steps 1e30
bad 2 '--steps' "$BUILD/train" --steps
bad 2 '--lr' "$BUILD/train" --lr nan
bad 2 '--arch' "$BUILD/train" --arch mamba
bad 2 '"extra" is not an option' "$BUILD/train" extra
bad 2 '--device' "$BUILD/train" --device tpu
bad 2 '--threads' "$BUILD/infer" --threads -1
bad 2 '--tie and --untie' "$BUILD/train" --tie --untie
bad 2 'no option --modle' "$BUILD/infer" --modle x
bad 2 '--temperature' "$BUILD/infer" --temperature hot
bad 2 '--top-p' "$BUILD/infer" --top-p 2
bad 2 'no option --frobnicate' "$T" encode --frobnicate
bad 2 '--data' "$T" train --out "$D/t"
BENCH="$BUILD/train --quiet --bench 1 --vocab 300"
bad 1 'neon' $BENCH --isa neon --layers 1 --width 16 --heads 2
bad 1 'heads' $BENCH --layers 1 --width 16 --heads 3
bad 1 'heads' $BENCH --layers 1 --width 16 --heads 4 --kv-heads 3
bad 1 'more than any machine holds' $BENCH --layers 4096 --width 1048576 --heads 1 --ffn 4194304
bad 1 'more than any machine holds' $BENCH --layers 1 --width 4096 --heads 1 --batch 1048576 --seq 1048576

# ---- model directories ----------------------------------------------------------------------------------------------
bad 1 'no such directory' $I "$D/absent"
bad 1 "$D/text.txt" $I "$D/text.txt"
mkdir "$D/empty"
W=$D/m/model.safetensors
bad 1 'empty' $I "$D/empty"
model m; rm "$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; rm "$D/m/config.json"
bad 1 'config.json' $I "$D/m"
model m; : >"$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; head -c 7 "$HERE/fixtures/gpt2/model.safetensors" >"$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; head -c 1000 "$HERE/fixtures/gpt2/model.safetensors" >"$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; head -c 20000 "$HERE/fixtures/gpt2/model.safetensors" >"$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; cp "$HERE/fixtures/gpt2/config.json" "$D/m/model.safetensors"
bad 1 'model.safetensors' $I "$D/m"
model m; safetensors "$W" '{}' 0 9223372036854775807
bad 1 'model.safetensors' $I "$D/m"
model m; safetensors "$W" '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}' 0
bad 1 'model.safetensors' $I "$D/m"
model m; safetensors "$W" '{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}' 8
bad 1 'model.safetensors' $I "$D/m"
model m; safetensors "$W" '{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}' 8
bad 1 'model.safetensors' $I "$D/m"
model m; safetensors "$W" '{"transformer.wte.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' 8
bad 1 'wte.weight' $I "$D/m"
model m; safetensors "$W" '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' 8
bad 1 'wte.weight' $I "$D/m"
model m; sed 's/"F32"/"I32"/g' "$HERE/fixtures/gpt2/model.safetensors" >"$D/m/model.safetensors"
bad 1 'I32' $I "$D/m"
model m; head -c 4000000 /dev/zero | tr '\0' '[' >"$D/nest"
safetensors "$W" "{\"a\":$(head -c 100000 "$D/nest")" 0
bad 1 'model.safetensors' $I "$D/m"
SHARD=model-00002-of-00003.safetensors INDEX=model.safetensors.index.json
model m gpt2_untied; rm "$D/m/$SHARD"
bad 1 "$SHARD" $I "$D/m"
model m gpt2_untied; head -c 3000 "$HERE/fixtures/gpt2_untied/$SHARD" >"$D/m/$SHARD"
bad 1 "$SHARD" $I "$D/m"
model m gpt2_untied; sed 's|model-00002-of|../m/model-00002-of|' "$HERE/fixtures/gpt2_untied/$INDEX" >"$D/m/$INDEX"
bad 1 "$INDEX" $I "$D/m"
model m gpt2_untied; echo '{"weight_map":3}' >"$D/m/$INDEX"
bad 1 "$INDEX" $I "$D/m"

# ---- config.json ----------------------------------------------------------------------------------------------------
model m; : >"$D/m/config.json"
bad 1 'config.json' $I "$D/m"
model m; head -c 100 "$HERE/fixtures/gpt2/config.json" >"$D/m/config.json"
bad 1 'config.json' $I "$D/m"
model m; head -c 300000 "$D/nest" >"$D/m/config.json"
bad 1 'config.json' $I "$D/m"
model m; head -c 2000 /dev/urandom >"$D/m/config.json"
bad 1 'config.json' $I "$D/m"
config m 's/"model_type": "llama"/"model_type": "mamba"/'
bad 1 'mamba' $I "$D/m"
config m 's/"model_type": "llama"/"model_type": 7/'
bad 1 'model_type' $I "$D/m"
config m 's/"hidden_size": [0-9]*/"hidden_size": 0/'
bad 1 'hidden_size' $I "$D/m"
config m 's/"hidden_size": [0-9]*/"hidden_size": 17/'
bad 1 'head' $I "$D/m"
config m 's/"hidden_size": [0-9]*/"hidden_size": 32/'
bad 1 'model.safetensors' $I "$D/m"
config m 's/"vocab_size": [0-9]*/"vocab_size": 1e300/'
bad 1 'vocab_size' $I "$D/m"
config m 's/"vocab_size": [0-9]*/"vocab_size": -1/'
bad 1 'vocab_size' $I "$D/m"
config m 's/"vocab_size": [0-9]*/"vocab_size": "many"/'
bad 1 'vocab_size' $I "$D/m"
config m 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 3/'
bad 1 'layers.2.' $I "$D/m"
config m 's/"num_attention_heads": [0-9]*/"num_attention_heads": 4096, "head_dim": 65536/'
bad 1 'm/' $I "$D/m"
config m 's/"rope_scaling": null/"rope_scaling": {"rope_type": "longrope", "factor": 2}/'
bad 1 'longrope' $I "$D/m"
config m 's/"rope_scaling": null/"rope_scaling": {"rope_type": "linear", "factor": -1}/'
bad 1 'factor' $I "$D/m"
config m 's/"hidden_act": "silu"/"hidden_act": "relu"/'
bad 1 'relu' $I "$D/m"

# ---- ids, prompts, tokenizers ---------------------------------------------------------------------------------------
L="$BUILD/infer --quiet --model $HERE/fixtures/gpt2 --logits-out $D/l.safetensors --logits"
bad 1 'absent.json' $L "$D/absent.json"
for ids in '' '[[1,2' '{"a":1}' '[]' '[[]]' '[[1,2],[3]]' '[["a"]]' '[[1.5]]' '[[64]]' '[[-1]]' '[[1e30]]'; do
    printf '%s' "$ids" >"$D/bad.json"
    bad 1 '' $L "$D/bad.json"
done
printf '[[%s1]]' "$(i=0; while [ $i -lt 99 ]; do printf '1,'; i=$((i + 1)); done)" >"$D/bad.json"
bad 1 '24' $L "$D/bad.json" # 100 tokens, 24 positions
bad 1 'tokenizer' "$BUILD/infer" --quiet --model "$HERE/fixtures/gpt2" --prompt hello
bad 1 'absent' "$T" encode --model "$D/absent" --text hello
bad 1 'tokenizer.json' "$T" encode --model "$D/empty" --text hello
for json in '' '{' '[]' '{"model":3}' '{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}' \
    '{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}' \
    '{"model":{"type":"BPE","vocab":{"a":2000000000},"merges":[]}}' '{"model":{"type":"Nonsense","vocab":{}}}'; do
    rm -rf "$D/tok" && mkdir "$D/tok"
    printf '%s' "$json" >"$D/tok/tokenizer.json"
    bad 1 'tokenizer.json' "$T" encode --model "$D/tok" --text hello
done
cp -r "$D/good" "$D/cut" && head -c 3000 "$D/good/tokenizer.json" >"$D/cut/tokenizer.json"
bad 1 'tokenizer.json' "$BUILD/infer" --quiet --model "$D/cut" --prompt The
bad_shell 1 '99999' "echo 99999 | $T decode --model $D/good"
bad_shell 1 'hello' "echo hello | $T decode --model $D/good"
bad 1 'evaluat' "$BUILD/infer" --quiet --model "$D/good" --eval "$D/evaluation-is-absent"
bad 1 'layer' "$BUILD/infer" --quiet --model "$D/good" --prompt The --attention-out "$D/a.safetensors" --layer 9

# ---- data -----------------------------------------------------------------------------------------------------------
run() { # CODE TEXT ARGUMENTS: a small training run
    code_wanted=$1 text_wanted=$2
    shift 2
    rm -rf "$D/run"
    # shellcheck disable=SC2086
    bad "$code_wanted" "$text_wanted" "$BUILD/train" $SMALL --out "$D/run" "$@"
}
run 1 'absent.txt' --data "$D/absent.txt"
: >"$D/nothing.txt"
run 1 '' --data "$D/nothing.txt"
run 1 '' --data "$D/empty"
echo 'a' >"$D/one.txt"
run 1 '' --data "$D/one.txt" --tokenizer "$D/good"
echo '{"text": "a b' >"$D/broken.jsonl"
run 1 'broken.jsonl' --data "$D/broken.jsonl"
echo '{"no": "text"}' >"$D/no.jsonl"
run 1 'no.jsonl' --data "$D/no.jsonl"
head -c 100 /dev/zero >"$D/short.bin"
run 1 'short.bin' --data "$D/short.bin" --tokenizer "$D/good"
head -c 4096 /dev/urandom >"$D/noise.bin"
run 1 'noise.bin' --data "$D/noise.bin" --tokenizer "$D/good"
run 1 'corpus' --data corpus:many
run 1 'absent' --data "$D/text.txt" --tokenizer "$D/absent"
run 1 '' --data "$D/text.txt" --config "$D/absent"
run 1 '' --data "$D/text.txt" --init "$D/absent"
run 1 '' --data "$D/text.txt" --resume "$D/absent"
run 1 '' --data "$D/text.txt" --resume last
bad 1 '' $TRAIN --out "$D/good" # holds a run already

# ---- checkpoints ----------------------------------------------------------------------------------------------------
C=$(find "$D/good" -maxdepth 1 -name 'checkpoint-*' | head -n 1)
if [ -n "$C" ]; then
    damaged() { rm -rf "$D/ck" && cp -r "$C" "$D/ck"; }
    resume() { run 1 "$1" --data "$D/text.txt" --resume "$D/ck" --steps 4; }
    damaged; echo '{' >"$D/ck/trainer_state.json"; resume 'trainer_state.json'
    damaged; echo '{"global_step": -5}' >"$D/ck/trainer_state.json"; resume 'trainer_state.json'
    damaged; rm "$D/ck/optimizer.safetensors"; resume 'optimizer.safetensors'
    damaged; head -c 500 "$C/optimizer.safetensors" >"$D/ck/optimizer.safetensors"; resume 'optimizer.safetensors'
    damaged; cp "$C/model.safetensors" "$D/ck/optimizer.safetensors"; resume 'optimizer.safetensors'
    damaged; head -c 5000 "$C/model.safetensors" >"$D/ck/model.safetensors"; resume 'model.safetensors'
fi

# ---- places that cannot be written ----------------------------------------------------------------------------------
# Root ignores permissions, so "read-only" is a path below a file, a full device, a limit on file sizes, a tiny disk.
bad 1 "$D/text.txt" $TRAIN --out "$D/text.txt/out"
bad 1 "$D/text.txt" "$T" train --data "$D/text.txt" --vocab 300 --out "$D/text.txt/out" --quiet
bad 1 'logits' "$BUILD/infer" --quiet --model "$HERE/fixtures/gpt2" --logits "$D/ids.json" \
    --logits-out "$D/text.txt/logits"
if [ -e /dev/full ]; then
    bad_shell 1 '' "$T encode --model $D/good --text hello >/dev/full"
    bad_shell 1 '' "$BUILD/infer --quiet --model $D/good --prompt The --n 4 >/dev/full"
    bad_shell 1 '' "$BENCH --layers 1 --width 16 --heads 2 --seq 16 --batch 2 >/dev/full"
fi
# ulimit counts blocks of 512 bytes; the signal that goes with it is ignored, so that write() reports the error.
bad_shell 1 '' "trap '' XFSZ; ulimit -f 8; $TRAIN --out $D/limited"
bad_shell 1 '' "trap '' XFSZ; ulimit -f 2; $T train --data $D/text.txt --vocab 300 --out $D/limited-tokenizer --quiet"
if [ -e "$D/limited/model.safetensors" ] || ls "$D/limited/"*.tmp >/dev/null 2>&1; then
    failed=$((failed + 1))
    echo "FAIL  a run that could not write left a half-written model: $(ls "$D/limited")"
else
    passed=$((passed + 1))
    echo "ok    a run that could not write leaves no half-written model"
fi
mkdir "$D/small" "$D/frozen"
if mount -t tmpfs -o size=64k tmpfs "$D/small" 2>/dev/null && mount -t tmpfs -o ro tmpfs "$D/frozen" 2>/dev/null; then
    mounted=yes
    bad 1 "$D/small" $TRAIN --out "$D/small/out"
    bad 1 "$D/frozen" $TRAIN --out "$D/frozen/out"
    bad 1 "$D/frozen" "$T" train --data "$D/text.txt" --vocab 300 --out "$D/frozen/out" --quiet
fi

verdict
