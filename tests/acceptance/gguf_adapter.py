"""GGUF adapters that Quarry writes, in llama.cpp: the same 64 greedy tokens as Quarry?

  python gguf_adapter.py QUARRY SQUAD_FOLDER [ADAPTER ...]
                                    (llama-cpp-python, peft 0.21, transformers 5.23, torch 2.15)

Runs on the installed smollm2-135m-instruct GGUF. Each ADAPTER (plain LoRA as a PEFT folder, for
instance of `quarry finetune`) is converted with `quarry adapter convert`, and so is its rsLoRA twin:
the same function written with use_rslora and an alpha_pattern, which llama.cpp alone would scale
wrongly. The prompts are 20 questions of SQuAD's dev set with their passage, in the form of
`quarry ask`. Passes when at least 18 of 20 texts agree with `quarry generate --adapter`. The untuned
base is compared too: what differs there is rounding, not the adapter.
Without ADAPTER trains one with PEFT first, to answer with the sentence that holds the answer (a
minute); the dense model that PEFT needs is made by `quarry adapter merge` with an adapter of zeros,
and has to tokenize like the GGUF.
"""
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np

QUARRY, SQUAD = sys.argv[1:3]
HOME = os.environ.get("QUARRY_HOME", os.path.expanduser("~/.local/share/quarry"))
MODEL = glob.glob(os.path.join(HOME, "models/smollm2-135m-instruct/*.gguf"))[0]
SYSTEM = ("Answer from the numbered passages only. If they do not hold the answer, say that the "
          "documents do not hold it.")
TOKENS = 64
WANTED = 18
STEPS = 20


def quarry(*arguments):
    return subprocess.run([QUARRY, *map(str, arguments)], check=True, capture_output=True,
                          text=True).stdout


def questions(part, step):
    """Prompt and the passage's sentence with the answer, of every step-th question."""
    with open(os.path.join(SQUAD, part.replace("*", "passages"))) as file:
        passages = {p["pid"]: p for p in map(json.loads, file)}
    with open(os.path.join(SQUAD, part.replace("*", "questions"))) as file:
        for item in list(map(json.loads, file))[::step]:
            passage = passages[item["pid"]]
            prompt = (f"[1] {passage['title']}\n{passage['text']}\n\n"
                      f"Using the text above, answer this question in a few words: {item['question']}")
            sentences = re.split(r"(?<=[.?!]) ", passage["text"])
            yield prompt, next((s for s in sentences if item["answers"][0] in s), sentences[0])


def chat(prompt):
    """What the model's chat template makes of it."""
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
            "<|im_start|>assistant\n")


def zero_adapter(folder):
    from safetensors.numpy import save_file
    os.makedirs(folder)
    tensors = {}
    for layer in range(30):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj."
        tensors[name + "lora_A.weight"] = np.zeros((1, 576), np.float32)
        tensors[name + "lora_B.weight"] = np.zeros((576, 1), np.float32)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}, file)


def train(dense, folder, **options):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(dense)
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step, (prompt, sentence) in zip(range(STEPS), questions("train.*.00.jsonl", 100)):
        prompt = tokenizer(chat(prompt)).input_ids
        target = tokenizer(sentence + "<|im_end|>").input_ids
        ids = torch.tensor([prompt + target])
        labels = torch.tensor([[-100] * len(prompt) + target])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


def make_adapter(folder):
    dense = os.path.join(folder, "dense")
    zero = os.path.join(folder, "zero")
    zero_adapter(zero)
    quarry("adapter", "merge", MODEL, zero, dense, "--type", "f32")
    adapter = os.path.join(folder, "trained")
    train(dense, adapter, r=8, lora_alpha=16, target_modules="all-linear")
    return dense, adapter


def rslora_twin(adapter, folder):
    """alpha / r = alpha' / sqrt(r), but for k: half the alpha' and twice the B."""
    from safetensors.torch import load_file, save_file  # numpy has no bfloat16
    os.makedirs(folder)
    with open(os.path.join(adapter, "adapter_config.json")) as file:
        config = json.load(file)
    assert not config["use_rslora"] and not config["rank_pattern"] and not config["alpha_pattern"]
    alpha = config["lora_alpha"] / config["r"] ** 0.5
    config.update(use_rslora=True, lora_alpha=alpha, alpha_pattern={"k_proj": alpha / 2})
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump(config, file)
    tensors = {name: tensor.float()
               for name, tensor in load_file(os.path.join(adapter, "adapter_model.safetensors")).items()}
    for name in tensors:
        if name.endswith("k_proj.lora_B.weight"):
            tensors[name] = tensors[name] * 2
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))


def ours(prompt, adapter):
    options = ["--adapter", adapter] if adapter else []
    return json.loads(quarry("generate", prompt, "--system", SYSTEM, "--model", MODEL, "--max-tokens", TOKENS,
                             "--temperature", 0, "--json", *options))["text"]


def theirs(prompts, gguf):
    from llama_cpp import Llama
    model = Llama(MODEL, lora_path=gguf, n_ctx=1024, seed=0, verbose=False)
    texts = []
    for prompt in prompts:
        ids = model.tokenize(chat(prompt).encode(), add_bos=False, special=True)
        texts.append(model.create_completion(ids, max_tokens=TOKENS, temperature=0,
                                             repeat_penalty=1.0)["choices"][0]["text"])
    return ids, texts


def compare(name, prompts, adapter, gguf):
    last_ids, peer = theirs(prompts, gguf)
    mine = [ours(prompt, adapter) for prompt in prompts]
    same = [a == b for a, b in zip(mine, peer)]
    print(f"{name}: {sum(same)} of {len(same)} texts of {TOKENS} tokens agree", flush=True)
    for a, b, ok in zip(mine, peer, same):
        if not ok:
            at = len(os.path.commonprefix([a, b]))
            print(f"  from character {at}: {a[at:at + 40]!r} / {b[at:at + 40]!r}")
    return last_ids, mine, sum(same)


def main():
    prompts = [prompt for prompt, _ in questions("dev.*.jsonl", 500)][:20]
    assert len(prompts) == 20
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        adapters = sys.argv[3:]
        dense = None
        if not adapters:
            dense, adapter = make_adapter(folder)
            adapters = [adapter]
        ids, base_texts, _ = compare("base", prompts, None, None)
        if dense:
            from transformers import AutoTokenizer
            same = AutoTokenizer.from_pretrained(dense)(chat(prompts[-1])).input_ids == ids
            print("tokenizer of the merged folder:", "same ids" if same else "OTHER IDS")
            failed = failed or not same
        for number, adapter in enumerate(adapters):
            twin = os.path.join(folder, f"twin{number}")
            rslora_twin(adapter, twin)
            for kind, path in (("plain", adapter), ("rsLoRA", twin)):
                gguf = os.path.join(folder, f"{number}{kind}.gguf")
                quarry("adapter", "convert", path, gguf, "--model", MODEL)
                _, texts, agreed = compare(f"{adapter}, {kind}", prompts, path, gguf)
                changed = sum(a != b for a, b in zip(texts, base_texts))
                print(f"  the adapter changes {changed} of {len(texts)} texts", flush=True)
                failed = failed or agreed < WANTED or changed < len(texts) // 2
    sys.exit(1 if failed else 0)


main()
