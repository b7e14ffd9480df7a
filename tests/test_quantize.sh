#!/bin/sh
# test_quantize.sh - ./quantize as a whole: every family's directory, the same bytes on any number of threads, nothing half
# written, and a sentence for what cannot be done.
#
#     BUILD=build/gcc sh tests/test_quantize.sh
#
# The models have a few thousand weights each. Needs about 10 MB under TMPDIR.
set -u
. "$(dirname "$0")/check.sh"
: "${BUILD:?say which build to test: BUILD=build/gcc sh tests/test_quantize.sh}"
bin=$(cd "$BUILD" && pwd)
fixtures=$(cd "$(dirname "$0")/fixtures" && pwd)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tea-quantize-XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
cd "$tmp" || exit 1

run() { "$bin/quantize" "$@" >out.txt 2>err.txt; }
make() { # OUT OPTIONS...: it must succeed
    out=$1
    shift
    run --quiet --threads 1 --out "$out" --overwrite "$@" || broke "quantize --out $out $*: exit $?"
}
refused() { # CODE TEXT OPTIONS...: exits with the code, with one sentence that contains the text; leaves nothing
    code=$1 text=$2
    shift 2
    run --quiet --threads 1 --out nothing "$@"
    got=$?
    [ $got = "$code" ] && [ "$(wc -l <err.txt)" = 1 ] && grep -q "^tea: .*$text" err.txt && none_of nothing nothing.tmp && return
    echo "exit $got, stderr:"
    head -n 4 err.txt
    return 1
}
header() { n=$(od -An -N8 -tu8 "$1/model.safetensors" | tr -d ' '); head -c $((n + 8)) "$1/model.safetensors" | tail -c "$n"; }
holds() { header "$1" | grep -qF -- "$2" || { echo "$1 has no $2"; return 1; }; }
lacks() { ! header "$1" | grep -qF -- "$2" || { echo "$1 has $2"; return 1; }; }
says() { tr -d '\n\t' <"$1/config.json" | grep -qF -- "$2" || { echo "$1/config.json does not say $2"; return 1; }; }

"$bin/train" --layers 2 --width 32 --heads 2 --vocab 300 --batch 4 --seq 32 --steps 30 --warmup 5 --eval-steps 0 --save-steps 0 \
    --sample-steps 0 --sample-tokens 4 --threads 1 --quiet --data corpus:60k --out base >out.txt 2>err.txt || broke "train"
text='--calibration corpus:60k --calibration-seq 64'

# ---- every family, in its own names ---------------------------------------------------------------------------------
for family in llama qwen3 gpt2 gpt2_hub chatglm1 chatglm3 glm bert_mlm bert_cls; do
    make $family.8 --model "$fixtures/$family" --bits 8
    check "$family in 8 bits: a directory" all_of $family.8/config.json $family.8/model.safetensors $family.8/README.md $family.8/report.html $family.8/log.jsonl
    check "$family: bytes in the weights' place" says $family.8 '"format":"int-quantized"'
    make $family.4 --model "$fixtures/$family" --bits 4 --group 8
    check "$family in 4 bits" says $family.4 '"group_size":8'
done
check "llama: words of eight" holds llama.4 '"model.layers.0.mlp.up_proj.weight_packed":{"dtype":"I32","shape":[24,2]'
check "llama: a scale for each group" holds llama.4 '"model.layers.0.mlp.down_proj.weight_scale":{"dtype":"BF16","shape":[16,3]'
check "llama: the shape" holds llama.4 '"model.layers.0.mlp.up_proj.weight_shape":{"dtype":"I64","shape":[2]'
check "llama: the head stays" holds llama.4 '"lm_head.weight":{"dtype":"F32"'
check "llama: and is named as what stays" says llama.4 '"ignore":["lm_head"]'
check "gpt2: (outputs, inputs) instead of Conv1D's order" holds gpt2.8 '"transformer.h.0.attn.c_attn.weight":{"dtype":"I8","shape":[48,16]'
check "chatglm3: one module for q, k and v" holds chatglm3.8 'query_key_value.weight_scale'
make asymmetric --model base --bits 4 --group 32 --symmetric no
check "zero points are packed down the outputs" holds asymmetric '"model.layers.0.self_attn.q_proj.weight_zero_point":{"dtype":"I32","shape":[4,1]'

# ---- how ------------------------------------------------------------------------------------------------------------
make one --model base --bits 4 --group 32 $text --eval corpus:5k --json
cp out.txt one.json
make three --model base --bits 4 --group 32 $text --threads 3
check "--threads 3 writes the bytes of --threads 1" cmp one/model.safetensors three/model.safetensors
check "the result in one line of JSON, perplexity and divergence in it" grep -q '^{"event":"quantize".*"perplexity_before":.*"kl":.*}$' one.json
number() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p" "$2"; }
check "GPTQ where there is text" says one '"strategy":"group"'
make nearest --model base --bits 4 --group 32 $text --method rtn --json
cp out.txt nearest.json
less() { awk -v a="$1" -v b="$2" 'BEGIN { if (a != "" && b != "" && a < b) exit 0; print a " is not below " b; exit 1 }'; }
check "GPTQ's layers are off by less than those rounded to nearest" less "$(number mean_error one.json)" "$(number mean_error nearest.json)"
make turned --model base --bits 4 --group 32 $text --rotate
check "--rotate: the head is a tensor of its own" holds turned '"lm_head.weight"'
check "and config.json says so" says turned '"tie_word_embeddings":false'
make smooth --model base --bits 8 --activations static $text --smooth 0.5
check "--activations static: a scale for the inputs" holds smooth '"model.layers.1.mlp.down_proj.input_scale":{"dtype":"F32","shape":[1]'
make dynamic --model base --bits 8 --activations dynamic
check "--activations dynamic: none" lacks dynamic input_scale
check "but config.json says it" says dynamic '"strategy":"token"'
make kept --model base --bits 4 --group 32 --keep down_proj --keep '*.0.*.v_proj'
check "--keep: by a part of the name" holds kept '"model.layers.1.mlp.down_proj.weight":{"dtype":"F32"'
check "--keep: by a pattern" holds kept '"model.layers.0.self_attn.v_proj.weight":{"dtype":"F32"'
check "the others are quantised" holds kept '"model.layers.1.self_attn.v_proj.weight_packed"'
make mixed --model base --bits 4 --group 32 --budget 5.5bpw $text --json
cp out.txt mixed.json
check "--budget: some matrices have 8 bits" says mixed '"mixed-precision"'
check "and all keep to it" less "$(number bits_per_weight mixed.json)" 5.5
make ends --model base --bits 8 --embedding 8
check "--embedding 8" holds ends '"model.embed_tokens.weight":{"dtype":"I8"'
make half --model base --bits 8 --dtype bf16
check "--dtype bf16: what stays is stored so" holds half '"model.norm.weight":{"dtype":"BF16"'

# ---- one file for llama.cpp (tests/test_gguf.c reads them) -----------------------------------------------------------
make small.gguf --model base --bits 4 --format gguf --threads 1
make again.gguf --model base --bits 4 --format gguf --threads 3
check "--format gguf: the bytes of --threads 1 with 3" cmp small.gguf again.gguf
make gptq.gguf --model base --bits 4 --format gguf $text
check "GPTQ in a GGUF file: other numbers, the same size" eval '! cmp -s small.gguf gptq.gguf && [ $(wc -c <small.gguf) = $(wc -c <gptq.gguf) ]'
run --quiet --threads 1 --model base --out small.gguf --bits 8 --format gguf
check "a file that is there stays" grep -q 'is there already' err.txt
check "--out is a directory" refused 1 'is a directory' --model base --bits 8 --format gguf --out one
check "chatglm has no GGUF here" refused 1 'this is a chatglm model' --model "$fixtures/chatglm3" --bits 8 --format gguf
check "nor has BERT" refused 1 'this is a bert model' --model "$fixtures/bert_mlm" --bits 8 --format gguf
check "rows that are no blocks" refused 1 'blocks hold 32' --model "$fixtures/llama" --bits 8 --format gguf
check "options of the other format" refused 2 'does not go with --format gguf' --model base --bits 4 --format gguf --rotate
cp -r base bare && rm bare/tokenizer.json
check "no tokenizer.json" refused 1 'tokenizer.json' --model bare --bits 8 --format gguf
(ulimit -f 40; run --quiet --threads 1 --model base --out full.gguf --bits 8 --format gguf)
check "a full disk is a sentence" grep -q '^tea: cannot write .*full.gguf' err.txt
check "and leaves nothing" none_of full.gguf full.gguf.tmp

# ---- what cannot be done ---------------------------------------------------------------------------------------------
check "a model quantised already" refused 1 'quantised already' --model one
check "no model" refused 1 'no such directory' --model absent
check "a group that does not divide" refused 1 'does not divide the 32 inputs' --model base --group 24
check "three bits" refused 2 'bits' --model base --bits 5
check "GPTQ without text" refused 2 'needs --calibration' --model base --method gptq
check "static inputs without text" refused 2 'needs --calibration' --model base --bits 8 --activations static
printf 'Too short.' >short.txt
check "text too short" refused 1 'too few to calibrate' --model base --group 32 --calibration short.txt
check "text that is not there" refused 1 'absent.txt' --model base --group 32 --calibration absent.txt
check "a name that no matrix has" refused 1 'no matrix' --model base --group 32 --keep attention_wizard
check "a budget below what 4 bits take" refused 1 '4 bits take' --model base --group 32 --budget 4.1bpw
check "a budget that is no number" refused 2 'bits per weight' --model base --group 32 --budget small
check "GPT-2 cannot be turned" refused 1 'RMSNorm' --model "$fixtures/gpt2" --bits 8 --rotate
check "BERT's norms cannot take scales" refused 1 'go elsewhere' --model "$fixtures/bert_mlm" --bits 8 --smooth 0.5 --calibration corpus:60k
run --quiet --threads 1 --model base --out one --bits 8
check "a model that is there stays" grep -q 'holds a model already' err.txt
run --quiet --threads 1 --model base --out base --bits 8 --overwrite
check "--out is not --model" grep -q 'the model itself' err.txt
(ulimit -f 40; run --quiet --threads 1 --model base --out full --bits 8)
check "a full disk is a sentence" grep -q '^tea: cannot write .*model.safetensors' err.txt
check "and leaves nothing" none_of full full.tmp
"$bin/quantize" --quiet --threads 1 --model base --out stopped --bits 4 --group 32 --calibration corpus:1200k --calibration-tokens 500000 \
    >out.txt 2>err.txt &
started=$!
tries=0
while [ ! -e stopped.tmp/model.safetensors.tmp ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -INT $started
wait $started
check "Ctrl-C leaves nothing half written" none_of stopped stopped.tmp
check "and says so" grep -q 'nothing was written' err.txt

echo "$passed passed, $failed failed"
[ $failed = 0 ]
