#!/usr/bin/env python3
"""Fine-tuning held against PyTorch, transformers and PEFT: three steps on the same batch, adapters both ways.

    python3 bench/finetune.py              needs torch, transformers, peft; about a minute

Each case trains three steps here and there in f32, from the same weights, on the same four samples, and compares every
weight. The conversations are written there by the chat_template that finetune puts into the tokenizer's files, so the
two templates are compared as well. Elements whose gradient is below 1e-6 at some step are left out: Adam divides by the
gradient's own size, so their rounding noise becomes a step of the learning rate's size.
"""
import argparse, json, os, subprocess, sys, tempfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LR, DECAY, STEPS = 1e-3, 0.01, 3
failed = 0


def check(what, worst, limit):
    global failed
    ok = worst <= limit
    failed += not ok
    print(f"{'ok   ' if ok else 'FAIL '} {what}: {worst:.2g} (at most {limit:g})", flush=True)


def tea(program, *words):
    subprocess.run([os.path.join(ROOT, program), *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def adamw(model):
    """Trainer's groups as finetune has them: matrices and embeddings decay, vectors do not."""
    p = [q for q in model.parameters() if q.requires_grad]
    return torch.optim.AdamW([{"params": [q for q in p if q.dim() > 1], "weight_decay": DECAY},
                              {"params": [q for q in p if q.dim() == 1], "weight_decay": 0}], lr=LR)


def three_steps(model, loss_of):
    """Steps with clipping at 1; returns {name: True where every gradient was clear of rounding noise}."""
    model.eval()  # no dropout
    optimizer = adamw(model)
    stable = {}
    losses = []
    for _ in range(STEPS):
        loss = loss_of(model)
        losses.append(loss.item())
        loss.backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                clear = (p.grad.abs() > 1e-6) | (p.grad == 0)
                stable[name] = stable[name] & clear if name in stable else clear
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return stable, losses


def losses_of(out):
    return [e["loss"] for e in map(json.loads, open(f"{out}/log.jsonl")) if e["event"] == "step"]


def worst_weight(model, file, stable, rename=lambda n: n):
    ours, worst, n, n_stable = load_file(file), 0.0, 0, 0
    for name, p in model.named_parameters():
        if not p.requires_grad or rename(name) not in ours:
            continue
        w = ours[rename(name)].float()
        off = ((p.data - w).abs() * stable[name]).max().item()
        worst, n, n_stable = max(worst, off), n + w.numel(), n_stable + stable[name].sum().item()
    assert n and n_stable > n / 4, "nothing was compared"
    return worst


def conversation_loss(tokenizer, rows):
    """Summed over the answers of all rows, divided by their tokens, as model and Trainer count."""
    samples = []
    for row in rows:
        messages = row["messages"]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        learn = [False] * len(ids)
        for i, m in enumerate(messages):
            if m["role"] == "assistant":
                asked = tokenizer.apply_chat_template(messages[:i], tokenize=True, add_generation_prompt=True,
                                        return_dict=False)
                said = tokenizer.apply_chat_template(messages[:i + 1], tokenize=True, return_dict=False)
                for t in range(len(asked), len(said)):
                    learn[t] = True
        samples.append((ids, learn))

    def loss(model):
        total, n = 0, 0
        for ids, learn in samples:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            keep = torch.tensor(learn[1:])
            total = total + torch.nn.functional.cross_entropy(logits[keep], torch.tensor(ids)[1:][keep],
                                        reduction="sum")
            n += int(keep.sum())
        return total / n
    return loss


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.manual_seed(0)
    os.chdir(tempfile.mkdtemp())
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in
            [("What is the capital of France?", "Paris."), ("Say something nice.", "You look well today, my friend."),
             ("Count to five.", "One, two, three, four, five.")]]
    rows.append({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"},
                              {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Who are you?"},
                              {"role": "assistant", "content": "A small model."}]})
    with open("chat.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
    common = ["--epochs", STEPS, "--batch", 4, "--eval-fraction", 0, "--lr", LR, "--schedule", "constant",
              "--weight-decay", DECAY,
              "--precision", "f32", "--overwrite"]
    for arch in "llama", "gpt2":
        base = f"base-{arch}"
        tea("train", "--arch", arch, "--layers", 2, "--width", 64, "--heads", 4, "--vocab", 512, "--steps", 30,
            "--batch", 4,
            "--seq", 64, "--warmup", 5, "--eval-steps", 0, "--sample-steps", 0, "--save-steps", 0, "--data", "corpus:200k",
            "--out", base)
        for packing in [], ["--no-pack"]:
            tea("finetune", "--model", base, "--data", "chat.jsonl", "--out", "full", *common, *packing)
            loss = conversation_loss(AutoTokenizer.from_pretrained("full"), rows)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            stable, losses = three_steps(model, loss)
            how = "padded rows" if packing else "packed rows"
            check(f"{arch}, all weights, {how}: losses", max(abs(a - b) for a, b in zip(losses, losses_of("full"))),
                  1e-5)
            check(f"{arch}, all weights, {how}: weights after {STEPS} steps", worst_weight(model,
                                        "full/model.safetensors", stable), 1e-5)

        from peft import LoraConfig, PeftModel, get_peft_model
        for rs in [], ["--rslora"]:
            lora = ["--lora", 4, "--lora-alpha", 8, *rs]
            start = [*common, "--lr", 1e-30, "--max-steps", 1]  # the beginning of A; B is zero
            tea("finetune", "--model", base, "--data", "chat.jsonl", "--out", "start", *start, *lora)
            tea("finetune", "--model", base, "--data", "chat.jsonl", "--out", "adapter", *common, *lora)
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), "start",
                                        is_trainable=True)
            stable, losses = three_steps(model, loss)
            what = f"{arch}, {'rsLoRA' if rs else 'LoRA'}"
            check(f"{what}: losses", max(abs(a - b) for a, b in zip(losses, losses_of("adapter"))), 1e-5)
            check(f"{what}: adapter after {STEPS} steps",
                  worst_weight(model, "adapter/adapter_model.safetensors", stable, lambda n: n.replace(".default",
                                        "")), 1e-5)
        # What was trained here, loaded there; and merged here.
        tea("finetune", "--model", base, "--data", "chat.jsonl", "--out", "long", *common, "--epochs", 30, *lora)
        tea("finetune", "--model", base, "--merge", "long", "--out", "merged", "--overwrite")
        there = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
                                        "long").eval()
        merged = AutoModelForCausalLM.from_pretrained("merged", dtype=torch.float32).eval()
        ids = torch.arange(2, 50)[None]
        check(f"{arch}: PEFT's logits with the adapter trained here, and those of --merge",
              (there(ids).logits - merged(ids).logits).abs().max().item(), 1e-4)
        with there.disable_adapter():
            assert (there(ids).logits - merged(ids).logits).abs().max() > 1e-2, "the adapter changes nothing"

    # Preferences: -log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)), as Rafailov et al. have it.
    beta, pairs = 0.1, [("Say yes.", "Yes.", "No, never."), ("Say no.", "No.", "Yes!"), ("Be kind.", "You are kind.",
                                        "Go."),
                        ("Count.", "One, two.", "Two, one, none.")]
    with open("pairs.jsonl", "w") as f:
        f.writelines(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for p, c, r in pairs)
    tea("finetune", "--model", "base-llama", "--task", "dpo", "--data", "pairs.jsonl", "--beta", beta, "--out", "dpo",
        *common)
    tokenizer = AutoTokenizer.from_pretrained("dpo")
    model = AutoModelForCausalLM.from_pretrained("base-llama", dtype=torch.float32).eval()

    def log_p(m, question, answer):
        row = [{"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}]
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        n = len(tokenizer.apply_chat_template(said, return_dict=False)) - len(
            tokenizer.apply_chat_template(said[:1], add_generation_prompt=True, return_dict=False))
        return -conversation_loss(tokenizer, row)(m) * n

    with torch.no_grad():
        reference = [(log_p(model, p, c), log_p(model, p, r)) for p, c, r in pairs]
    stable, losses = three_steps(model, lambda m: sum(
        -torch.nn.functional.logsigmoid(beta * ((log_p(m, p, c) - a) - (log_p(m, p, r) - b)))
        for (p, c, r), (a, b) in zip(pairs, reference)) / len(pairs))
    check("llama, DPO: losses", max(abs(a - b) for a, b in zip(losses, losses_of("dpo"))), 1e-5)
    check(f"llama, DPO: weights after {STEPS} steps", worst_weight(model, "dpo/model.safetensors", stable), 1e-5)

    labels = ["good", "bad", "so so"]
    rows = [{"text": t, "label": labels[i % 3]} for i, t in enumerate(["a fine day", "an ugly thing that nobody wants",
                                        "well",
                                                                       "we like it here very much"])]
    with open("labels.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
    tea("train", "--arch", "bert", "--layers", 2, "--width", 64, "--heads", 4, "--vocab", 512, "--steps", 30,
        "--batch", 4, "--seq", 64,
        "--warmup", 5, "--eval-steps", 0, "--sample-steps", 0, "--save-steps", 0, "--data", "corpus:200k", "--out", "base-bert")
    classify = ["--task", "classify", "--data", "labels.jsonl", *common]
    tea("finetune", "--model", "base-bert", *classify, "--lr", 1e-30, "--max-steps", 1, "--out", "start")
    tea("finetune", "--model", "start", *classify, "--out", "classes")
    tokenizer = AutoTokenizer.from_pretrained("start")
    batch = tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained("start", dtype=torch.float32)
    target = torch.tensor([model.config.label2id[r["label"]] for r in rows])
    stable, losses = three_steps(model, lambda m: torch.nn.functional.cross_entropy(m(**batch).logits, target))
    check("bert, classification: losses", max(abs(a - b) for a, b in zip(losses, losses_of("classes"))), 1e-5)
    check(f"bert, classification: weights after {STEPS} steps", worst_weight(model, "classes/model.safetensors",
                                        stable), 1e-5)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
