#!/bin/sh
# test_bad_model.sh - model directories that are damaged, or made to hurt: weights, configurations of every family,
# adapters, a sentence encoder's side files, tokenizers of every kind. Each must end in one clear sentence on stderr,
# "tea: ...", and exit 1, within seconds and with bounded memory; never in a signal, a sanitizer's report or a hang, and
# no output file may be there afterwards.
#
#     BUILD=build/gcc sh tests/test_bad_model.sh
#
# The directories are made here, from the fixtures. What test_bad_input.sh tries already is not tried again.
set -u
. "$(dirname "$0")/bad.sh"
F=$HERE/fixtures M=$D/m W=$D/m/model.safetensors C=$D/m/config.json
INDEX=model.safetensors.index.json
# Memory: 6 GB of addresses are ample for models of 20 KB. Sanitizers need more, and say so at once.
LIMIT=6000000
sh -c "ulimit -v $LIMIT && $BUILD/infer --help" >/dev/null 2>&1 || LIMIT=unlimited
ulimit -v $LIMIT

# refused TEXT COMMAND...: exit 1 with a sentence that contains TEXT, in 20 s, and nothing written.
refused() {
    rm -f "$D"/l.safetensors*
    started=$(date +%s)
    bad 1 "$@"
    if [ $(($(date +%s) - started)) -gt 20 ] || [ -n "$(find "$D" -maxdepth 1 -name 'l.safetensors*')" ]; then
        failed=$((failed + 1))
        echo "FAIL  the last one took $(($(date +%s) - started)) s, and left: $(find "$D" -maxdepth 1 -name 'l.safetensors*')"
    fi
}
weights() { refused "$1" $I "$M"; } # TEXT
# changed FAMILY SED TEXT: a config.json that says something else.
changed() {
    config m "$2" "$1"
    ! cmp -s "$C" "$F/$1/config.json" || { failed=$((failed + 1)); echo "FAIL  $1: $2 changes nothing"; }
    weights "$3"
}
# The same for a header, of a single file: SED TEXT [FAMILY].
rewritten() {
    model m "${3:-llama}"
    header "$W" "$1"
    ! cmp -s "$W" "$F/${3:-llama}/model.safetensors" || { failed=$((failed + 1)); echo "FAIL  $1 changes nothing"; }
    weights "$2"
}
# works TEXT COMMAND...: what must be read, or the failures beside it would be for the wrong reason.
works() {
    what=$1
    shift
    if "$@" >"$D/stdout" 2>"$D/stderr" </dev/null && [ ! -s "$D/stderr" ]; then
        passed=$((passed + 1))
        echo "ok    $what works"
    else
        failed=$((failed + 1))
        echo "FAIL  $what does not work: $(head -n 3 "$D/stderr")"
    fi
}
for family in gpt2 llama llama_yarn llama_dynamic qwen2 qwen3 mistral glm chatglm1 chatglm3; do
    works $family $I "$F/$family"
done
for family in qwen3 gpt2 chatglm1 glm; do # a header that is not padded: data at odd addresses are data all the same
    model m $family; header "$W" 's/$/ /'
    works "$family at odd addresses" $I "$M"
    cp "$D/l.safetensors" "$D/odd"
    works $family $I "$F/$family"
    cmp -s "$D/odd" "$D/l.safetensors" || { failed=$((failed + 1)); echo "FAIL  $family: other logits at odd addresses"; }
done

# ---- weights: the header --------------------------------------------------------------------------------------------
model m; safetensors "$W" '{}' 0 -9223372036854775808
weights 'a header of 9223372036854775808 bytes'
model m; safetensors "$W" '{}' 0 1000000000
weights 'a header of 1000000000 bytes'
model m; safetensors "$W" '{}' 0 99999999
weights 'truncated?'
model m; safetensors "$W" '' 0
weights 'does not begin with {'
model m; safetensors "$W" '[1]' 0
weights 'does not begin with {'
model m; safetensors "$W" '{}' 0
weights '(0 tensors'
model m; safetensors "$W" '{} {}' 0
weights 'goes on after its JSON'
head -c 200000 /dev/zero | tr '\0' '[' >"$D/nest"
model m; safetensors "$W" "{\"a\":{\"shape\":$(head -c 100000 "$D/nest")" 0
weights 'header is not JSON'
i=0
while [ $i -lt 900 ]; do printf '{"a":'; i=$((i + 1)); done >"$D/objects" # cJSON itself stops at 1,000
model m; safetensors "$W" "{\"a\":$(cat "$D/objects")1$(tr -dc '{' <"$D/objects" | tr '{' '}')}" 0
weights '"dtype" is missing'
head -c 8 /dev/zero >"$D/zeros"
model m; cp "$D/zeros" "$W"
weights 'does not begin with {'
model m; head -c 7 "$D/zeros" >"$W"
weights '7 bytes cannot be'
model m; : >"$W"
weights '0 bytes cannot be'

# ---- weights: each tensor, and all of them --------------------------------------------------------------------------
E=model.layers.0.mlp.up_proj.weight # [24,16], bytes 11328 to 12864
rewritten 's/\[11328,12864\]/[99999999,100001535]/' 'truncated?'
rewritten 's/\[11328,12864\]/[9223372036854775808,9223372036854777344]/' "$E"
rewritten 's/\[11328,12864\]/[-1536,0]/' "$E"
rewritten 's/\[11328,12864\]/[1e300,1e301]/' "$E"
rewritten 's/\[11328,12864\]/[12864,11328]/' 'after its end'
rewritten 's/\[11328,12864\]/[11329,12864]/' "$E"
rewritten 's/\[11328,12864\]/["11328","12864"]/' 'not a number'
rewritten 's/\[11328,12864\]/[11328]/' 'wants two numbers'
rewritten 's/\[11328,12864\]/[11328,12864,12864]/' 'wants two numbers'
rewritten 's/\[11328,12864\]/[11328.5,12864.5]/' 'whole number'
rewritten 's/\[11328,12864\]/[9792,11328]/' 'overlap'
rewritten 's/\[9792,11328\]/[9796,11332]/' 'belong to no tensor'
rewritten 's/"model.layers.0.mlp.up_proj.weight"[^}]*},//' 'belong to no tensor'
model m llama; printf 'more' >>"$W"
weights 'belong to no tensor'
rewritten 's/"shape":\[24,16\]/"shape":[9223372036854775808,2]/' 'whole number from 0'
rewritten 's/"shape":\[24,16\]/"shape":[4611686018427387904,4]/' 'whole number from 0'
rewritten 's/"shape":\[24,16\]/"shape":[9007199254740992,9007199254740992]/' 'overflows'
rewritten 's/"shape":\[24,16\]/"shape":[0,16]/' '[0,16] of F32 takes 0 bytes'
rewritten 's/"shape":\[24,16\]/"shape":[-24,-16]/' 'whole number'
rewritten 's/"shape":\[24,16\]/"shape":[16,24]/' 'the configuration asks for [24,16]'
rewritten 's/"shape":\[24,16\]/"shape":[384]/' 'the configuration asks for [24,16]'
rewritten 's/"shape":\[24,16\]/"shape":[1,1,1,1,1,1,1,1,1,1,24,16]/' 'dimensions'
rewritten 's/"shape":\[24,16\]/"shape":{"0":24,"1":16}/' '"shape" is missing or not a list'
rewritten 's/"shape":\[24,16\],//' '"shape" is missing'
rewritten 's/"shape":\[24,16\]/"shape":[24,8]/' '[24,8] of F32 takes 768 bytes'
rewritten 's/"dtype":"F32","shape":\[24,16\]/"dtype":"I64","shape":[24,8]/' 'has shape [24,8]'
rewritten 's/"dtype":"F32"/"dtype":"I32"/g' 'must be F32, F16 or BF16'
rewritten 's/"dtype":"F32"/"dtype":"F8_E4M3"/g' 'F8_E4M3'
rewritten 's/"dtype":"F32"/"dtype":32/' '"dtype" is missing or not a string'
rewritten 's/model.norm.weight/model.layers.0.mlp.up_proj.weight/' 'given twice'
rewritten 's/"dtype":"F32","shape":\[24,16\]/"dtype":"F32","dtype":"F32","shape":[24,16]/' 'given twice'
rewritten 's/model.norm.weight/model.norm.bias/' 'no tensor model.norm.weight'
rewritten 's/"format":"pt"/"format":7/' '__metadata__'
rewritten 's/"__metadata__":{[^}]*}/"__metadata__":[]/' '__metadata__'
rewritten 's/c_attn.weight","\(dtype":"F32","shape\)":\[16,48\]/c_attn.weight","\1":[48,16]/; s/"shape":\[16,48\]/"shape":[48,16]/' 'asks for [16,48]' gpt2
rewritten 's/query_key_value.weight/query_key_value.scale/' 'query_key_value.weight' chatglm1
rewritten 's/gate_up_proj.weight/gate_proj.weight/' 'gate_up_proj.weight' glm
rewritten 's/word_embeddings.weight/words.weight/' 'word_embeddings.weight' bert_mlm
rewritten 's/self_attn.q_norm.weight/self_attn.norm.weight/g' 'q_norm.weight' qwen3
rewritten 's/k_proj.bias/kk_proj.bias/g' 'k_proj.bias' qwen2

# ---- weights: shards ------------------------------------------------------------------------------------------------
shards() { # SED TEXT
    model m gpt2_untied
    sed "$1" "$F/gpt2_untied/$INDEX" >"$M/$INDEX"
    weights "$2"
}
shards 's|"model-00002-of[^"]*"|"../../etc/passwd"|' 'not a plain file name'
shards 's|"model-00002-of[^"]*"|"/etc/passwd"|' 'not a plain file name'
shards 's|"model-00002-of[^"]*"|""|' 'not a plain file name'
shards 's|"model-00002-of[^"]*"|"config.json"|' 'config.json'
shards 's|"model-00002-of[^"]*"|["model-00002-of-00003.safetensors"]|' 'not a string'
shards 's|"model-00002-of-00003|"model-00009-of-00003|' 'model-00009-of-00003.safetensors, which is missing'
shards 's|"model-00001-of-00003|"model-00003-of-00003|' 'but it does not'
name=$(sed -n 's/.*"\([^"]*\)": "model-00001-of.*/\1/p' "$F/gpt2_untied/$INDEX" | head -n 1)
shards "s|\"$name\": \([^,]*,\)|&&|" "tensor $name is given twice"
shards "s|\"$name\": [^,]*,|&\"$name\": \"extra.safetensors\",|" 'extra.safetensors, which is missing'
model m gpt2_untied; cp "$M/model-00001-of-00003.safetensors" "$M/extra.safetensors"
sed "s|\"weight_map\": {|&\"$name\": \"extra.safetensors\",|" "$F/gpt2_untied/$INDEX" >"$M/$INDEX"
weights "tensor $name is given twice"
shards 's/"weight_map"/"weights"/' '"weight_map" is missing'
shards 's/{/[/' 'not a JSON object'
model m gpt2_untied; echo '{"weight_map":{}}' >"$M/$INDEX"
weights 'no tensor'
model m gpt2_untied; cat "$D/nest" >"$M/$INDEX"
weights 'not a JSON object'

# ---- files that are no files ----------------------------------------------------------------------------------------
for file in model.safetensors config.json generation_config.json; do
    model m; rm -f "$M/$file"; mkfifo "$M/$file"
    weights "$([ $file = generation_config.json ] && echo JSON || echo "m/$file")"
    model m; rm -f "$M/$file"; ln -s "$file" "$M/$file"
    case $file in
    generation*) works 'a dangling generation_config.json' $I "$M" ;;
    *) weights "m" ;;
    esac
    model m; rm -f "$M/$file"; mkdir "$M/$file"
    weights "$file is a directory"
    model m; rm -f "$M/$file"; ln -s /dev/zero "$M/$file"
    weights "m/$file"
done
model m gpt2_untied; rm "$M/model-00002-of-00003.safetensors"; mkfifo "$M/model-00002-of-00003.safetensors"
weights 'model-00002-of-00003.safetensors'
rm -rf "$M"; ln -s m "$M"
weights 'no such directory'
rm -f "$M"
refused 'no such directory' $I "$F/gpt2/model.safetensors"
refused 'no such directory' "$T" encode --model "$F/gpt2/model.safetensors" --text a
mkdir "$D/tok"; mkfifo "$D/tok/tokenizer.json"
refused 'tokenizer.json' "$T" encode --model "$D/tok" --text a
rm -rf "$D/tok"; mkdir "$D/tok"; mkfifo "$D/tok/tokenizer.model"
refused 'tokenizer.model' "$T" encode --model "$D/tok" --text a
model m; : >"$C"; dd of="$C" bs=1 count=0 seek=200000000000 2>/dev/null # a hole: no blocks, 200 GB of zeros
weights 'config.json'
if [ "$(id -u)" != 0 ]; then
    model m; chmod 000 "$W"
    weights 'Permission denied'
    model m; chmod 000 "$C"
    weights 'Permission denied'
fi

# ---- config.json ----------------------------------------------------------------------------------------------------
model m; echo '[{"model_type":"gpt2"}]' >"$C"
weights 'not a JSON object'
model m; echo 'null' >"$C"
weights 'not a JSON object'
model m; head -c 3000 "$F/gpt2/model.safetensors" >"$C"
weights 'not a JSON object'
model m; { cat "$F/gpt2/config.json"; echo '}'; } >"$C"
weights 'not a JSON object'
model m; { printf '{"model_type":"'; head -c 200000000 /dev/zero | tr '\0' 'a'; printf '"}'; } >"$C"
weights 'model_type "aaa'
model m; { printf '{"a":'; cat "$D/nest"; } >"$C"
weights 'not a JSON object'
changed llama 's/"hidden_size": 16/"hidden_size": "16"/' 'hidden_size'
changed llama 's/"hidden_size": 16/"hidden_size": 1e999/' 'hidden_size'
changed llama 's/"hidden_size": 16/"hidden_size": NaN/' 'not a JSON object'
changed llama 's/"hidden_size": 16/"hidden_size": 16.5/' 'hidden_size'
changed llama 's/"hidden_size": 16/"hidden_size": -16/' 'hidden_size'
changed llama 's/"num_hidden_layers": 2/"num_hidden_layers": 1e300/' 'num_hidden_layers'
changed llama 's/"num_hidden_layers": 2/"num_hidden_layers": 4294967298/' 'num_hidden_layers'
changed llama 's/"num_hidden_layers": 2/"num_hidden_layers": [2]/' 'num_hidden_layers'
changed llama 's/"num_hidden_layers": 2,//' '"num_hidden_layers" is missing'
changed llama 's/"num_attention_heads": 2/"num_attention_heads": 3/' 'heads'
changed llama 's/"num_attention_heads": 2/"num_attention_heads": 0/' 'num_attention_heads'
changed mistral 's/"num_key_value_heads": 2/"num_key_value_heads": 3/' 'heads'
changed mistral 's/"num_key_value_heads": 2/"num_key_value_heads": 8/' 'heads'
changed llama 's/"max_position_embeddings": 64/"max_position_embeddings": 0/' 'max_position_embeddings'
changed llama 's/"rms_norm_eps": 1e-05/"rms_norm_eps": -1/' 'rms_norm_eps'
changed llama 's/"rms_norm_eps": 1e-05/"rms_norm_eps": 1e300/' 'rms_norm_eps'
changed llama 's/"rms_norm_eps": 1e-05/"rms_norm_eps": "tiny"/' 'rms_norm_eps'
changed llama 's/"tie_word_embeddings": false/"tie_word_embeddings": "false"/' 'tie_word_embeddings'
changed llama 's/"hidden_act": "silu"/"hidden_act": 7/' 'hidden_act'
changed llama 's/"LlamaForCausalLM"/"LlamaForSequenceClassification"/' 'score.weight'
changed llama 's/"eos_token_id": 2/"eos_token_id": "2"/' 'eos_token_id'
changed llama 's/"eos_token_id": 2/"eos_token_id": [2, "3"]/' 'eos_token_id'
changed llama 's/"eos_token_id": 2/"eos_token_id": 2147483648/' 'eos_token_id'
changed llama 's/"bos_token_id": 1/"bos_token_id": 1.5/' 'bos_token_id'
changed llama 's/"rope_theta": 10000.0/"rope_theta": 0/' 'rope_theta'
changed llama 's/"rope_theta": 10000.0/"rope_theta": -10000/' 'rope_theta'
changed llama 's/"rope_theta": 10000.0/"rope_theta": 1e300/' 'rope_theta'
changed llama 's/"rope_scaling": null/"rope_scaling": 2/' 'rope_scaling'
changed llama 's/"rope_scaling": null/"rope_scaling": {"rope_type": "linear", "factor": 1e300}/' 'factor'
changed llama 's/"rope_scaling": null/"rope_scaling": {"rope_type": "dynamic", "factor": 1e-300}/' 'factor'
changed llama 's/"rope_scaling": null/"rope_scaling": {"rope_type": "linear", "factor": "two"}/' 'factor'
changed llama 's/"rope_scaling": null/"rope_scaling": {"rope_type": ["linear"], "factor": 2}/' 'rope_type'
changed llama3 's/"high_freq_factor": [0-9.]*/"high_freq_factor": 1/' 'high_freq_factor'
changed llama3 's/"low_freq_factor": [0-9.]*/"low_freq_factor": 0/' 'low_freq_factor'
changed llama_yarn 's/"beta_fast": 8.0/"beta_fast": 1e300/' 'beta_fast'
changed llama_yarn 's/"rope_theta": 10000.0/"rope_theta": 1/' 'rope_theta'
changed llama_yarn 's/"beta_fast": 8.0/"beta_fast": 8.0, "attention_factor": 1e300/' 'attention_factor'
changed llama_yarn 's/"original_max_position_embeddings": 64/"original_max_position_embeddings": 0/' 'original_max'
changed glm 's/"partial_rotary_factor": 0.5/"partial_rotary_factor": 0/' 'partial_rotary_factor'
changed glm 's/"partial_rotary_factor": 0.5/"partial_rotary_factor": 1.5/' 'partial_rotary_factor'
changed glm 's/"partial_rotary_factor": 0.5/"partial_rotary_factor": 0.4/' 'even'
changed qwen2 's/"sliding_window": 5/"sliding_window": -5/' 'sliding_window'
changed qwen2 's/"sliding_window": 5/"sliding_window": "5"/' 'sliding_window'
changed qwen2 's/"max_window_layers": 1/"max_window_layers": -1/' 'max_window_layers'
changed mistral 's/"sliding_window": 5/"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]/' 'layer_types'
changed mistral 's/"sliding_window": 5/"sliding_window": 5, "layer_types": ["nonsense", 3]/' 'layer_types'
changed mistral 's/"sliding_window": 5/"sliding_window": 5, "layer_types": "full_attention"/' 'layer_types'
changed mistral 's/"sliding_window": 5/"sliding_window": 5, "layer_types": ["full_attention"]/' 'layer_types'
changed chatglm3 's/"kv_channels": 8/"kv_channels": 7/' 'even'
changed chatglm3 's/"multi_query_group_num": 2/"multi_query_group_num": 3/' 'heads'
changed chatglm3 's/"original_rope": true/"rope_ratio": -3/' 'rope_ratio'
changed chatglm3 's/"rmsnorm": true/"rmsnorm": 1/' 'rmsnorm'
changed chatglm3 's/"post_layer_norm": true/"post_layer_norm": false/' 'final norm'
changed chatglm1 's/"bos_token_id": 62,//' 'bos_token_id'
changed chatglm1 's/"gmask_token_id": 61/"gmask_token_id": "61"/' 'gmask_token_id'
changed bert_mlm 's/"type_vocab_size": 2/"type_vocab_size": 0/' 'type_vocab_size'
changed bert_mlm 's/"hidden_size": 16/"position_embedding_type": "relative_key", "hidden_size": 16/' 'relative_key'
changed bert_mlm 's/"hidden_size": 16/"position_embedding_type": [], "hidden_size": 16/' 'position_embedding_type'
changed bert_mlm 's/"BertForMaskedLM"/"BertForQuestionAnswering"/' 'BertForQuestionAnswering'
changed bert_mlm 's/"BertForMaskedLM"/7/' 'architectures'
changed gpt2 's/"n_positions": 24/"n_positions": 16777216/' 'wpe.weight'
changed gpt2 's/"vocab_size": 64/"vocab_size": 16777216/' 'wte.weight'
changed gpt2 's/"n_embd": 16/"n_embd": 16777216/' 'm'

# ---- adapters -------------------------------------------------------------------------------------------------------
A=$D/a/adapter_model.safetensors
adapter() { # SED for adapter_config.json, SED for the header, TEXT [FAMILY]
    model a "${4:-llama}/lora"
    sed "$1" "$F/${4:-llama}/lora/adapter_config.json" >"$D/a/adapter_config.json"
    [ -z "$2" ] || header "$A" "$2"
    if cmp -s "$A" "$F/${4:-llama}/lora/adapter_model.safetensors" &&
        cmp -s "$D/a/adapter_config.json" "$F/${4:-llama}/lora/adapter_config.json"; then
        failed=$((failed + 1))
        echo "FAIL  $1 $2 changes nothing"
    fi
    refused "$3" $I "$F/${4:-llama}" --adapter "$D/a"
}
for family in gpt2 llama chatglm1 chatglm3; do
    works "an adapter of $family" $I "$F/$family" --adapter "$F/$family/lora"
done
adapter 's/"r": 2/"r": 3/' '' 'asks for [3,'
adapter 's/"r": 2/"r": 65536/' '' 'asks for [65536,'
adapter 's/"r": 2/"r": 0/' '' '"r" is 0'
adapter 's/"r": 2/"r": "2"/' '' '"r" is not a number'
adapter 's/"r": 2,//' '' '"r" is missing'
adapter 's/"lora_alpha": [0-9]*/"lora_alpha": 1e300/' '' 'lora_alpha'
adapter 's/"lora_alpha": [0-9]*/"lora_alpha": null, "rank_pattern": {"q_proj": 4}/' '' 'rank_pattern'
adapter 's/"peft_type": "LORA"/"peft_type": "IA3"/' '' 'IA3'
adapter 's/"peft_type": "LORA"/"peft_type": 1/' '' 'peft_type'
adapter 's/"bias": "none"/"bias": "all"/' '' 'biases'
adapter 's/"bias": "none"/"bias": 3/' '' 'bias'
adapter 's/^{/[/' '' 'not a JSON object'
adapter '' 's/layers.1.mlp/layers.2.mlp/g' 'layers.2.mlp'
adapter '' 's/layers.0.mlp.down_proj/layers.0.input_layernorm/g' 'input_layernorm'
adapter '' 's/"shape":\[24,2\]/"shape":[2,24]/; s/"shape":\[16,2\]/"shape":[2,16]/' 'lora_B.weight has shape'
adapter '' 's/lora_B/lora_C/g' 'lora_B.weight'
adapter '' 's/lora_A/lora_C/g' 'no tensor ends in .lora_A.weight'
adapter '' 's/layers.0.mlp.down_proj.lora_B/layers.0.mlp.down_proj.lora_C/' 'lora_B.weight'
adapter '' 's/layers.0.self_attn.k_proj/layers.0.self_attn.q_proj/g; s/base_model.model.model.layers.0.self_attn.q_proj/layers.0.self_attn.q_proj/; s/base_model.model.model.layers.0.self_attn.q_proj/layers.0.self_attn.q_proj/' 'twice'
adapter '' 's/"dtype":"F32"/"dtype":"I32"/g' 'must be F32, F16 or BF16'
adapter '' 's/\[48,2\]/[2,48]/' 'has shape' gpt2
adapter '' 's/\[64,2\]/[2,64]/' 'has shape' chatglm3
adapter '' 's/query_key_value/query_key/g' 'query_key' chatglm1
model a llama/lora; rm "$A"
refused 'adapter_model.safetensors' $I "$F/llama" --adapter "$D/a"
model a llama/lora; rm "$D/a/adapter_config.json"
refused 'adapter_config.json' $I "$F/llama" --adapter "$D/a"
refused 'which this model does not have' $I "$F/llama" --adapter "$F/gpt2/lora"

# ---- tokenizers: tokenizer.json -------------------------------------------------------------------------------------
tokenizer() { # JSON TEXT [MORE OF THE COMMAND]
    rm -rf "$D/tok" && mkdir "$D/tok"
    printf '%s' "$1" >"$D/tok/tokenizer.json"
    refused "$2" "$T" encode --model "$D/tok" --text "${3:-a b}"
}
# bpe / wp / uni PARTS: a small tokenizer of the kind, with more parts around its model.
bpe() { printf '{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}%s}' "${1:+,$1}"; }
wp() { printf '{"model":{"type":"WordPiece","unk_token":"[UNK]","vocab":{"[UNK]":0,"a":1,"[MASK]":2,"[CLS]":3}}%s}' "${1:+,$1}"; }
uni() { printf '{"model":{"type":"Unigram","unk_id":%s,"vocab":%s}%s}' "$1" "$2" "${3:+,$3}"; }
for kind in bpe wp "uni 0 [[\"<unk>\",0],[\"a\",-1]]"; do
    rm -rf "$D/tok" && mkdir "$D/tok"
    set -f
    $kind >"$D/tok/tokenizer.json"
    set +f
    works "a tokenizer.json ($kind)" "$T" encode --model "$D/tok" --text a
done
tokenizer "$(bpe | sed 's/"a":0/"a":4294967296/')" 'has the id 4294967296'
tokenizer "$(bpe | sed 's/"a":0/"a":2147483648/')" 'has the id 2147483648'
tokenizer "$(bpe | sed 's/"a":0/"a":1e300/')" 'has the id 1'
tokenizer "$(bpe | sed 's/"a":0/"a":0.5/')" 'has the id 0.5'
tokenizer "$(bpe | sed 's/"a":0/"a":"0"/')" 'not a number'
tokenizer "$(bpe | sed 's/"a":0/"a":1/')" 'belongs to two tokens'
tokenizer "$(bpe | sed 's/"a":0/"a":0,"a":7/')" 'has two ids'
tokenizer "$(bpe | sed 's/"vocab":{[^}]*}/"vocab":{}/')" 'the vocabulary is empty'
tokenizer "$(bpe | sed 's/"vocab":{[^}]*}/"vocab":[["a",0]]/')" 'no vocabulary'
tokenizer "$(bpe | sed 's/"a b"/"a b c"/')" 'merge 0'
tokenizer "$(bpe | sed 's/"a b"/["a"]/')" 'merge 0'
tokenizer "$(bpe | sed 's/"a b"/7/')" 'merge 0'
tokenizer "$(bpe | sed 's/"merges":\[[^]]*\]/"merges":{}/')" 'merges'
tokenizer "$(bpe | sed 's/"type":"BPE"/"type":"BPE","dropout":0.5/')" 'dropout'
tokenizer "$(bpe '"added_tokens":[{"id":2147483648,"content":"<s>"}]')" 'has the id 2147483648'
tokenizer "$(bpe '"added_tokens":[{"id":-1,"content":"<s>"}]')" 'has the id -1'
tokenizer "$(bpe '"added_tokens":[{"id":0,"content":"<s>"}]')" 'belongs to two tokens'
tokenizer "$(bpe '"added_tokens":[{"id":3,"content":"<s>"},{"id":3,"content":"</s>"}]')" 'belongs to two tokens'
tokenizer "$(bpe '"added_tokens":[{"id":3,"content":"<s>"},{"id":4,"content":"<s>"}]')" 'has the id 4'
tokenizer "$(bpe '"added_tokens":[{"id":3,"content":""}]')" 'no content'
tokenizer "$(bpe '"added_tokens":[{"id":3,"content":["<s>"]}]')" 'no content'
tokenizer "$(bpe '"added_tokens":{"a":1}')" 'not a list'
tokenizer "$(bpe '"normalizer":{"type":"Nonsense"}')" 'Nonsense'
tokenizer "$(bpe '"normalizer":{"type":"Sequence"}')" 'Sequence'
tokenizer "$(bpe '"normalizer":{"type":"Sequence","normalizers":[null]}')" 'null'
tokenizer "$(bpe '"normalizer":{"type":"Replace","pattern":{"Regex":"(a"},"content":""}')" 'the pattern "(a"'
tokenizer "$(bpe '"normalizer":{"type":"Replace","pattern":{"Regex":"^(?:a|a)*[xy]"},"content":""}')" 'pattern fails' "$(head -c 3000 /dev/zero | tr '\0' a)"
tokenizer "$(bpe '"normalizer":{"type":"Precompiled","precompiled_charsmap":"!!"}')" 'not base64'
tokenizer "$(bpe '"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAAAAAA"}')" 'character map'
tokenizer "$(bpe '"pre_tokenizer":{"type":"Split","pattern":{"String":""},"behavior":"Isolated"}')" 'no pattern'
tokenizer "$(bpe '"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Sideways"}')" 'Sideways'
tokenizer "$(bpe '"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[],"special_tokens":{}}')" 'template'
tokenizer "$(bpe '"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],"pair":[],"special_tokens":{}}')" 'not in the vocabulary'
tokenizer "$(bpe '"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}],"special_tokens":{"<s>":{"ids":[99]}}}')" 'outside the vocabulary'
tokenizer "$(bpe '"decoder":{"type":"Strip","content":"a","start":1e9,"stop":0}')" 'a million'
tokenizer "$(bpe '"decoder":{"type":"Nonsense"}')" 'Nonsense'
tokenizer "$(wp | sed 's/"unk_token":"\[UNK\]"/"unk_token":"[unk]"/')" 'unk_token'
tokenizer "$(wp | sed 's/"unk_token"/"max_input_chars_per_word":-1,"unk_token"/')" 'max_input_chars'
tokenizer "$(uni 2 '[["<unk>",0],["a",-1]]')" 'unk_id'
tokenizer "$(uni -1 '[["<unk>",0],["a",-1]]')" 'unk'
tokenizer "$(uni 0 '[["<unk>",0],["a"]]')" 'entry 1'
tokenizer "$(uni 0 '[["<unk>",0],["a","-1"]]')" 'entry 1'
tokenizer "$(uni 0 '[["<unk>",0],["a",1e999]]')" 'score'
tokenizer "$(uni 0 '[["<unk>",0],["a",-1],["a",-2]]')" 'has two ids'
# Text that grows tenfold with each of 20 steps; a Sequence in a Sequence, 400 deep.
i=0 steps=
while [ $i -lt 20 ]; do
    steps="$steps${steps:+,}{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaa\"}" i=$((i + 1))
done
tokenizer "$(bpe "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[$steps]}")" 'steps make more than'
tokenizer "$(bpe "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[$steps]}")" 'steps make more than'
tokenizer "$(bpe "\"added_tokens\":[{\"id\":3,\"content\":\"<a>\",\"normalized\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[$steps]}")" 'steps make more than' b
i=0 open= close=
while [ $i -lt 400 ]; do open="$open{\"type\":\"Sequence\",\"normalizers\":[" close="]}$close" i=$((i + 1)); done
tokenizer "$(bpe "\"normalizer\":$open{\"type\":\"Nonsense\"}$close")" 'Nonsense'
tokenizer "$(bpe "\"normalizer\":$open$open$open{\"type\":\"Nonsense\"}$close$close$close")" 'not a JSON object: broken in line'
tokenizer "{\"model\":$(cat "$D/nest")" 'not a JSON object: broken in line'
tokenizer "$(bpe)$(bpe)" 'something follows'
side() { # FILE CONTENT TEXT: beside a good tokenizer.json
    rm -rf "$D/tok" && mkdir "$D/tok"
    bpe >"$D/tok/tokenizer.json"
    printf '%s' "$2" >"$D/tok/$1"
    refused "$3" "$T" encode --model "$D/tok" --text a
}
side tokenizer_config.json '[]' 'not a JSON object'
side tokenizer_config.json '{"bos_token":7}' 'bos_token'
side tokenizer_config.json '{"eos_token":"<absent>"}' '<absent>'
side special_tokens_map.json '{"bos_token":{"content":[]}}' 'bos_token'
side special_tokens_map.json '' 'not a JSON object: broken'

# ---- tokenizers: the other files ------------------------------------------------------------------------------------
only() { # FILE CONTENT TEXT: a directory with this file; \-escapes are printf's
    rm -rf "$D/tok" && mkdir "$D/tok"
    # shellcheck disable=SC2059
    printf "$2" >"$D/tok/$1"
    refused "$3" "$T" encode --model "$D/tok" --text a
}
only x.tiktoken 'IQ== 0\nI!== 1\n' 'line 2 is not "base64 rank"'
only x.tiktoken 'IQ== 0\nIg==\n' 'line 2 is not "base64 rank"'
only x.tiktoken 'IQ== 0\nIg== one\n' 'line 2 is not "base64 rank"'
only x.tiktoken 'IQ== 0\nIg== 9999999999999999999999\n' 'line 2: the rank'
only x.tiktoken 'IQ== 0\nIg== 2147483648\n' 'line 2: the rank'
only x.tiktoken 'IQ== 0\nIg== -1\n' 'line 2: the rank'
only x.tiktoken 'IQ== 0\nIg== 0\n' 'belongs to two tokens'
only x.tiktoken 'IQ== 0\nIQ== 1\n' 'has two ids'
only x.tiktoken '= 0\n' 'line 1'
only x.tiktoken '' 'the vocabulary is empty'
only tokenizer.model 'IQ== 0\n' 'unknown family'
only tokenizer.model '' 'the vocabulary is empty'
only vocab.txt 'a\nb\n' '[UNK]'
only vocab.txt '' 'the vocabulary is empty'
only vocab.txt '[UNK]\n\377\n' 'is not UTF-8'
rm -rf "$D/tok" && mkdir "$D/tok"
printf '{"a":0,"b":1,"ab":2}' >"$D/tok/vocab.json"
printf 'a b\na b c\n' >"$D/tok/merges.txt"
refused 'is not two tokens' "$T" encode --model "$D/tok" --text a
printf 'a b\na c\n' >"$D/tok/merges.txt"
refused 'not in the vocabulary' "$T" encode --model "$D/tok" --text a
printf '{"<s>":-4}' >"$D/tok/added_tokens.json"
refused 'has the id -4' "$T" encode --model "$D/tok" --text a

# ---- tokenizers: SentencePiece --------------------------------------------------------------------------------------
varint() {
    v=$1
    while [ "$v" -gt 127 ]; do
        byte $((v & 127 | 128))
        v=$((v >> 7))
    done
    byte "$v"
}
bytes() { # NUMBER FILE: a field of bytes
    byte $(($1 << 3 | 2))
    varint "$(wc -c <"$2")"
    cat "$2"
}
piece() { # TEXT TYPE, a score of 0
    # shellcheck disable=SC2059
    printf "$1" >"$D/text"
    { bytes 1 "$D/text"; byte 21; le 0 4; byte 24; byte "$2"; } >"$D/piece"
    bytes 1 "$D/piece"
}
charsmap() { # UNIT...: a tree of 256 units, the first of them these, and one replacement
    le 1024 4
    for u in "$@"; do le "$u" 4; done
    head -c $((1024 - 4 * $#)) /dev/zero
    printf 'x\0'
}
S=$D/tok/tokenizer.model trainer=
proto() { # FILE OF CHARSMAP (or /dev/null), MODEL TYPE, then more pieces on stdin
    rm -rf "$D/tok" && mkdir "$D/tok"
    bytes 2 "$1" >"$D/normalizer"
    # shellcheck disable=SC2059
    { byte 24; byte "$2"; printf "$trainer"; } >"$D/trainer"
    {
        piece '<unk>' 2; piece '<s>' 3; piece '</s>' 3; piece 'a' 1
        cat
        bytes 2 "$D/trainer"
        bytes 3 "$D/normalizer"
    } >"$S"
}
sp() { refused "$1" "$T" encode --model "$D/tok" --text a; } # TEXT
charsmap >"$D/good.map"
for type in 1 2; do
    proto "$D/good.map" $type </dev/null
    works "a SentencePiece model of type $type" "$T" encode --model "$D/tok" --text a
done
cp "$S" "$D/whole"
for n in 1 2 10 17 100 1000 $(($(wc -c <"$D/whole") - 1)); do
    head -c "$n" "$D/whole" >"$S"
    sp 'tokenizer.model'
done
proto "$D/good.map" 3 </dev/null
sp 'the model type 3'
piece 'b' 9 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'unknown type 9'
piece 'b' 6 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'is a byte'
piece '' 1 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'is empty'
piece 'a' 1 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'has two ids'
piece '\377' 1 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'not text in UTF-8'
piece '<unk2>' 2 >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'both the unknown one'
for i in $(seq 0 255); do printf '\012\017\012\006<0x%02X>\025\0\0\0\0\030\006' "$i"; done >"$D/more"
trainer='\230\002\001' # field 35, byte_fallback
cp "$D/more" "$D/fallback"
piece 'x' 6 >>"$D/more"; proto /dev/null 2 <"$D/more"
sp 'not spelt like <0x0A>'
head -c $((250 * 17)) "$D/fallback" >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'no piece for the byte 0xFA'
trainer=
printf '\012\377\377\377\377\377\377\377\377\377\001' >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'truncated?'
printf '\012\377\377\377\377\377\377\377\377\377\377\377' >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'more than ten bytes'
printf '\017' >"$D/more"; proto /dev/null 2 <"$D/more"
sp 'a field of kind 7'
{ charsmap 0 $((0x80000000)) | head -c 1028; head -c 5000 /dev/zero | tr '\0' x; } >"$D/bad.map"; proto "$D/bad.map" 2 </dev/null
sp 'a replacement of more than'
charsmap $((0x7FFFFC00)) >"$D/bad.map"; proto "$D/bad.map" 2 </dev/null
sp 'points outside itself'
charsmap 0 $((0x80000000 | 5000)) >"$D/bad.map"; proto "$D/bad.map" 2 </dev/null
sp 'a replacement that is no text'
charsmap | { le 4294967295 4; tail -c +5; } >"$D/bad.map"; proto "$D/bad.map" 2 </dev/null
sp 'broken'
head -c 3 "$D/good.map" >"$D/bad.map"; proto "$D/bad.map" 2 </dev/null
sp 'broken'

# ---- what infer reads beside the weights ----------------------------------------------------------------------------
says() { # FILE CONTENT TEXT: in a llama with a tokenizer
    model m llama
    wp >"$M/tokenizer.json"
    printf '%s' "$2" >"$M/$1"
    refused "$3" "$BUILD/infer" --quiet --model "$M" --prompt a --n 2
}
model m llama; wp >"$M/tokenizer.json"
works 'a prompt' "$BUILD/infer" --quiet --model "$M" --prompt a --n 2
G=generation_config.json
says $G '[]' 'not a JSON object'
says $G '' 'not a JSON object'
says $G '{"temperature":1} {' 'not a JSON object'
says $G '{"temperature":"hot"}' '"temperature"'
says $G '{"temperature":-1}' '"temperature"'
says $G '{"temperature":1e300}' '"temperature"'
says $G '{"top_k":"50"}' '"top_k"'
says $G '{"top_k":1e300}' '"top_k"'
says $G '{"top_p":[]}' '"top_p"'
says $G '{"repetition_penalty":0}' '"repetition_penalty"'
says $G '{"do_sample":"yes"}' '"do_sample"'
says $G '{"eos_token_id":"2"}' '"eos_token_id"'
says $G '{"eos_token_id":[2,"3"]}' '"eos_token_id"'
says $G '{"eos_token_id":1e300}' '"eos_token_id"'
says tokenizer.json "$(wp | sed 's/"a":1/"a":64/')" 'do they fit together?'
config m 's/"bos_token_id": 1/"bos_token_id": 64/; s/"eos_token_id": 2,//' llama; wp >"$M/tokenizer.json"
refused '64' "$BUILD/infer" --quiet --model "$M" --n 2
config m 's/"bos_token_id": 1/"bos_token_id": 64/; s/"eos_token_id": 2,//' llama; wp >"$M/tokenizer.json"
echo 'a a a' >"$D/text.txt"
refused '64' "$BUILD/infer" --quiet --model "$M" --eval "$D/text.txt"
wp >"$D/one.json"
bert() { # FAMILY FILE CONTENT TEXT OPTION ARGUMENTS...
    model m "$1"
    printf '[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n' >"$M/vocab.txt"
    [ "$2" != "-" ] && mkdir -p "$M/$(dirname "$2")" && printf '%s' "$3" >"$M/$2"
    t=$4
    shift 4
    refused "$t" "$BUILD/infer" --quiet --model "$M" "$@"
}
model m bert_embed; printf '[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n' >"$M/vocab.txt"
works 'an embedding' "$BUILD/infer" --quiet --model "$M" --embed a 'a b'
bert bert_embed 1_Pooling/config.json '{"pooling_mode_lasttoken":true}' 'pooling_mode_lasttoken' --embed a
bert bert_embed 1_Pooling/config.json '{"pooling_mode_cls_token":true,"pooling_mode_max_tokens":true}' 'pooling_mode_max_tokens' --embed a
bert bert_embed 1_Pooling/config.json '{"pooling_mode_cls_token":"yes"}' 'pooling_mode_cls_token' --embed a
bert bert_embed 1_Pooling/config.json '[]' 'not a JSON object' --embed a
bert bert_embed 1_Pooling/config.json '' 'not a JSON object' --embed a
bert bert_embed modules.json '{' 'modules.json' --embed a
bert bert_embed sentence_bert_config.json '[' 'sentence_bert_config.json' --embed a
bert bert_embed sentence_bert_config.json '{"max_seq_length":"12"}' 'max_seq_length' --embed a
bert bert_embed sentence_bert_config.json '{"max_seq_length":-1}' 'max_seq_length' --embed a
bert bert_embed vocab.txt "$(seq 65)" '[UNK]' --embed a
bert bert_embed config.json "$(sed 's/"pad_token_id": 0/"pad_token_id": 64/' "$F/bert_embed/config.json")" '64' --embed a 'a b'
bert bert_embed tokenizer.json "$(wp '"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":2147483647}}],"pair":[],"special_tokens":{}}')" 'token type' --embed a
bert bert_embed - '' 'masked tokens' --fill-mask 'a [MASK]'
bert bert_mlm - '' 'no [MASK]' --fill-mask 'a'
bert bert_cls config.json "$(tr -d '\n' <"$F/bert_cls/config.json" | sed 's/"id2label": {[^}]*}/"id2label": {}/')" 'id2label' --classify a
bert bert_cls config.json "$(tr -d '\n' <"$F/bert_cls/config.json" | sed 's/"id2label": {[^}]*}/"id2label": {"0":"a"}/')" 'classifier' --classify a
bert bert_cls config.json "$(tr -d '\n' <"$F/bert_cls/config.json" | sed 's/"id2label": {[^}]*}/"num_labels": 1e300/')" 'num_labels' --classify a

# ---- training from such a directory ---------------------------------------------------------------------------------
i=0
while [ $i -lt 300 ]; do echo 'a b a a b b a b'; i=$((i + 1)); done >"$D/text.txt"
train() { # TEXT
    rm -rf "$D/run"
    refused "$1" "$BUILD/train" --quiet --init "$M" --data "$D/text.txt" --seq 8 --batch 2 --steps 1 --warmup 0 --out "$D/run"
    left=$(find "$D/run" -name '*.safetensors*' 2>/dev/null)
    [ -z "$left" ] || { failed=$((failed + 1)); echo "FAIL  a run that began with an error left $left"; }
}
model m llama; wp >"$M/tokenizer.json"; head -c 20000 "$F/llama/model.safetensors" >"$W"
train 'truncated?'
model m llama; wp >"$M/tokenizer.json"; header "$W" 's/"F32"/"I32"/g'
train 'must be F32, F16 or BF16'
config m 's/"num_hidden_layers": 2/"num_hidden_layers": 4096/' llama; wp >"$M/tokenizer.json"
train 'layers.2.'
model m llama; wp | sed 's/"a":1/"a":64/' >"$M/tokenizer.json"
train '64'
model m llama; echo '{' >"$M/tokenizer.json"
train 'not a JSON object: broken in line'
model m llama; wp >"$M/tokenizer.json"; rm "$C"; mkfifo "$C"
train 'config.json'
verdict
