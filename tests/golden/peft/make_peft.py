"""Makes the folders beside it: LoRA adapters of ../models/llama and what PEFT computes with them.

  python make_peft.py      (torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors; seed 11)

README.md tells what the files hold.
"""
import contextlib
import io
import json
import os
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = os.path.join(HERE, "..", "models", "llama")
STEPS = 3
CASES = {
    "q_v": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "all_linear": dict(r=16, lora_alpha=32, target_modules="all-linear"),
    "rslora": dict(r=8, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "k_proj", "down_proj"]),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"],
                     rank_pattern={"layers.1.self_attn.q_proj": 6, "o_proj": 2},
                     alpha_pattern={".*layers\\.0\\..*up_proj": 12, "o_proj": 3}),
}
# LlamaConfig of real sizes, for the counts alone.
SHAPES = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                         tie_word_embeddings=True),
    "llama-3.2-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                         num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
                         tie_word_embeddings=True),
    "llama-2-7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=32, vocab_size=32000,
                       tie_word_embeddings=False),
}


def load_base():
    return LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")


def printed_count(model):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        model.print_trainable_parameters()
    return out.getvalue().strip()


def lora_parameters(model):
    """Trainable parameters by the names they have in adapter_model.safetensors."""
    return {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}


def make_case(name, options):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(11)
    model = get_peft_model(load_base(), LoraConfig(task_type="CAUSAL_LM", **options))
    for parameter in lora_parameters(model).values():
        parameter.data.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = None
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)

    vocab = model.config.vocab_size
    input_ids = torch.randint(0, vocab, (2, 16))
    labels = input_ids.clone()
    labels[0, :9] = -100
    labels[1, :5] = -100
    labels[1, 7] = -100
    golden = {"input_ids": input_ids, "labels": labels}
    model.train()
    optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-3, betas=(0.9, 0.999),
                                  eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        output = model(input_ids=input_ids, labels=labels)
        output.loss.backward()
        losses.append(output.loss.detach().reshape(1))
        if step == 0:
            golden["logits"] = output.logits.detach().clone()
            for key, parameter in lora_parameters(model).items():
                golden["grad." + key] = parameter.grad.detach().clone()
        optimizer.step()
    golden["losses"] = torch.cat(losses)
    for key, parameter in lora_parameters(model).items():
        golden["step3." + key] = parameter.detach().clone()
    count = printed_count(model)

    # Merged: the saved weights again, put into the base.
    from peft import PeftModel
    merged = PeftModel.from_pretrained(load_base(), folder).merge_and_unload()
    with torch.no_grad():
        golden["merged_logits"] = merged(input_ids).logits.clone()
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    return count


def real_counts():
    counts = {}
    for name, shape in SHAPES.items():
        for label, options in {"r8 q,v": dict(r=8, target_modules=["q_proj", "v_proj"]),
                               "r16 all-linear": dict(r=16, target_modules="all-linear")}.items():
            with torch.device("meta"):
                base = LlamaForCausalLM(LlamaConfig(**shape))
                model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
            counts[name + " " + label] = printed_count(model)
    return counts


torch.set_num_threads(1)
counts = {name: make_case(name, options) for name, options in CASES.items()}
counts.update(real_counts())
with open(os.path.join(HERE, "trainable_counts.json"), "w") as file:
    json.dump(counts, file, indent=1)
