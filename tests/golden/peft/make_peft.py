"""Makes the folders beside it: LoRA adapters of ../models and what PEFT computes with them.

  python make_peft.py [FOLDER ...]   (torch 2.15.0, transformers 5.23.0, safetensors; seed 11;
                                      peft 0.21.2, the folders of README.md's second table 0.21.0)

README.md tells what the files hold. With FOLDERs makes just these.
"""
import contextlib
import io
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "models")
STEPS = 3
CASES = {
    "q_v": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "all_linear": dict(r=16, lora_alpha=32, target_modules="all-linear"),
    "rslora": dict(r=8, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "k_proj", "down_proj"]),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"],
                     rank_pattern={"layers.1.self_attn.q_proj": 6, "o_proj": 2},
                     alpha_pattern={".*layers\\.0\\..*up_proj": 12, "o_proj": 3}),
}
# Adapters that hold more than LoRA: base, LoRA, the rest.
Q_V = dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
FULL_CASES = {
    "saved_head": ("llama", dict(Q_V, modules_to_save=["lm_head"])),
    "saved_embedding": ("llama", dict(Q_V, modules_to_save=["embed_tokens", "norm"])),
    "saved_mlp": ("llama_scaled", dict(Q_V, modules_to_save=["layers.1.mlp", "k_proj"], bias="all")),
    "bias_all": ("llama_scaled", dict(Q_V, bias="all")),
    "bias_lora_only": ("llama_scaled", dict(Q_V, bias="lora_only")),
}
PISSA_CASES = {
    "pissa": ("llama", dict(r=4, lora_alpha=2, target_modules="all-linear", init_lora_weights="pissa")),
    "pissa_rslora": ("llama_scaled", dict(r=3, lora_alpha=6, use_rslora=True,
                                          target_modules=["q_proj", "up_proj", "down_proj"],
                                          init_lora_weights="pissa")),
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


def load_base(name="llama"):
    return LlamaForCausalLM.from_pretrained(os.path.join(MODELS, name), dtype=torch.float32,
                                            attn_implementation="eager")


def printed_count(model):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        model.print_trainable_parameters()
    return out.getvalue().strip()


def trained_parameters(model):
    """Trainable parameters by the names they have in adapter_model.safetensors."""
    return {name.replace(".modules_to_save.default.", ".").replace(".default.", "."): p
            for name, p in model.named_parameters() if p.requires_grad}


def save(model, folder, **options):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = None
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config[key], list):
            config[key].sort()
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)


def make_batch(vocab):
    input_ids = torch.randint(0, vocab, (2, 16))
    labels = input_ids.clone()
    labels[0, :9] = -100
    labels[1, :5] = -100
    labels[1, 7] = -100
    return {"input_ids": input_ids, "labels": labels}


def train(model, batch, golden):
    """Three steps; weight decay on matrices, as transformers' Trainer does."""
    model.train()
    parameters = trained_parameters(model)
    groups = [{"params": [p for p in parameters.values() if p.dim() > 1], "weight_decay": 0.01},
              {"params": [p for p in parameters.values() if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        losses.append(output.loss.detach().reshape(1))
        if step == 0:
            golden["logits"] = output.logits.detach().clone()
            for key, parameter in parameters.items():
                golden["grad." + key] = parameter.grad.detach().clone()
        optimizer.step()
    golden["losses"] = torch.cat(losses)


def merged_logits(base, folder, input_ids):
    """The saved weights again, put into the base."""
    merged = PeftModel.from_pretrained(load_base(base), folder).merge_and_unload()
    with torch.no_grad():
        return merged(input_ids).logits.clone()


def make_case(name, base, options):
    folder = os.path.join(HERE, name)
    torch.manual_seed(11)
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **options))
    for key, parameter in trained_parameters(model).items():
        if "lora_" in key:
            parameter.data.normal_(0.0, 0.1)
        else:
            parameter.data += torch.randn_like(parameter) * 0.1
    save(model, folder)
    batch = make_batch(model.config.vocab_size)
    golden = dict(batch)
    train(model, batch, golden)
    for key, parameter in trained_parameters(model).items():
        golden["step3." + key] = parameter.detach().clone()
    golden["merged_logits"] = merged_logits(base, folder, batch["input_ids"])
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    return printed_count(model)


def delta(folder, key):
    """scale * B A of a saved pair, the same whatever the signs of its singular vectors."""
    weights = load_file(os.path.join(folder, "adapter_model.safetensors"))
    config = json.load(open(os.path.join(folder, "adapter_config.json")))
    r = config["r"]
    scale = config["lora_alpha"] / (r ** 0.5 if config["use_rslora"] else r)
    return scale * weights[key + ".lora_B.weight"] @ weights[key + ".lora_A.weight"]


def make_pissa(name, base, options):
    """The folder holds the adapter after three steps, converted by PEFT to plain LoRA."""
    folder = os.path.join(HERE, name)
    initial = os.path.join(HERE, "initial_adapter")
    torch.manual_seed(11)
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **options))
    model.peft_config["default"].init_lora_weights = True
    save(model, initial)
    starts = {key: delta(initial, key.removesuffix(".lora_A.weight"))
              for key in trained_parameters(model) if key.endswith(".lora_A.weight")}
    batch = make_batch(model.config.vocab_size)
    golden = dict(batch)
    train(model, batch, golden)
    model.eval()
    with torch.no_grad():
        golden["trained_logits"] = model(batch["input_ids"]).logits.clone()
    count = printed_count(model)
    model.peft_config["default"].init_lora_weights = options["init_lora_weights"]
    save(model, folder, path_initial_model_for_weight_conversion=initial)
    shutil.rmtree(initial)
    golden = {key: value for key, value in golden.items() if not key.startswith("grad.")}
    for key, start in starts.items():
        path = key.removesuffix(".lora_A.weight")
        golden["start." + path] = start
        golden["delta." + path] = delta(folder, path)
    golden["merged_logits"] = merged_logits(base, folder, batch["input_ids"])
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    return count


def make_loftq():
    """A dense model near ../models/llama, which stands for what was quantized, and PEFT's pairs."""
    folder = os.path.join(HERE, "loftq")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(11)
    weights = load_file(os.path.join(MODELS, "llama", "model.safetensors"))
    dense, golden = {}, {}
    for name, weight in weights.items():
        if not any(part in name for part in ("q_proj", "down_proj")):
            continue
        residual = torch.randn_like(weight) * 0.02
        dense[name] = weight + residual
        pair = _low_rank_decomposition(dense[name] - weight, reduced_rank=4)
        golden[name] = pair["L"] @ pair["R"]
    save_file(dense, os.path.join(folder, "model.safetensors"))
    save_file(golden, os.path.join(folder, "golden.safetensors"))


def make_alora():
    """Rows: the invocation once, twice, and not at all."""
    folder = os.path.join(HERE, "alora")
    torch.manual_seed(11)
    invocation = [7, 9, 7]
    model = get_peft_model(load_base(), LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=invocation,
                                                   **CASES["q_v"]))
    for parameter in trained_parameters(model).values():
        parameter.data.normal_(0.0, 0.5)
    save(model, folder)
    input_ids = torch.randint(10, model.config.vocab_size, (3, 16))
    input_ids[0, 9:12] = torch.tensor(invocation)
    input_ids[1, 3:6] = input_ids[1, 11:14] = torch.tensor(invocation)
    model.eval()
    with torch.no_grad():
        golden = {"input_ids": input_ids, "logits": model(input_ids).logits.clone()}
        golden["generated"] = torch.cat([
            model.generate(input_ids=row.unsqueeze(0), attention_mask=torch.ones(1, 16), do_sample=False,
                           max_new_tokens=8, min_new_tokens=8, pad_token_id=0)[:, 16:] for row in input_ids])
    save_file(golden, os.path.join(folder, "golden.safetensors"))


def real_counts():
    counts = {}
    for name, shape in SHAPES.items():
        for label, options in {
                "r8 q,v": dict(r=8, target_modules=["q_proj", "v_proj"]),
                "r16 all-linear": dict(r=16, target_modules="all-linear"),
                "r8 q,v saved": dict(r=8, target_modules=["q_proj", "v_proj"],
                                     modules_to_save=["lm_head", "embed_tokens", "norm"])}.items():
            with torch.device("meta"):
                base = LlamaForCausalLM(LlamaConfig(**shape))
                model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
            counts[name + " " + label] = printed_count(model)
    return counts


def main():
    torch.set_num_threads(1)
    path = os.path.join(HERE, "trainable_counts.json")
    wanted = sys.argv[1:]
    counts = json.load(open(path)) if wanted else {}
    makers = {name: lambda n=name, o=options: make_case(n, "llama", o) for name, options in CASES.items()}
    makers.update({name: lambda n=name, c=case: make_case(n, *c) for name, case in FULL_CASES.items()})
    makers.update({name: lambda n=name, c=case: make_pissa(n, *c) for name, case in PISSA_CASES.items()})
    for name, maker in makers.items():
        if not wanted or name in wanted:
            counts[name] = maker()
    if not wanted or "loftq" in wanted:
        make_loftq()
    if not wanted or "alora" in wanted:
        make_alora()
    if not wanted or "counts" in wanted:
        counts.update(real_counts())
    with open(path, "w") as file:
        json.dump(counts, file, indent=1)


main()
