"""Holds adapters and merged models that Quarry writes against Python PEFT.

  python peft_parity.py QUARRY [MODEL ADAPTER]      (peft 0.21, transformers 5.23, torch 2.15)

QUARRY is the built program. Takes each adapter of ../golden/peft through Quarry (to GGUF and back, or
where it holds whole parameters through `convert --type f32`, so that every byte of the new folder is
Quarry's) and loads it in PEFT, where any warning is an error; logits have to be within 1e-4 of the
original's. The same for the model that `quarry adapter merge` writes, loaded in transformers, for the
trainable counts, and for adapters that `quarry finetune` trains here with modules_to_save, biases and
each init_lora_weights. With MODEL (Hugging Face folder) and ADAPTER also checks that an adapter loads
without a warning and merges to the logits it gives. Prints one line a check and exits 1 when one
fails.
"""
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoTokenizer, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
LIMIT = 1e-4
failures = 0


def check(name, ok, detail=""):
    global failures
    failures += not ok
    print(("ok    " if ok else "FAILED"), name, detail, flush=True)


class Messages(logging.Handler):
    """Collects warnings of the log; those of the warnings module are raised as errors."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def nothing_to_complain_about(name):
    handler = Messages()
    loggers = [logging.getLogger(n) for n in ("", "peft", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for logger in loggers:
        logger.removeHandler(handler)
    texts = handler.texts + [str(w.message) for w in caught]
    # transformers warns of itself, whatever it loads.
    texts = [t for t in texts if "is_gradient_checkpointing" not in t]
    # PEFT's remark on every adapter that saves a tied embedding or head.
    texts = [t for t in texts if "a tied layer is part of the adapter" not in t]
    check(name + ": loads without a warning", not texts, "; ".join(texts))


def quarry(*arguments):
    return subprocess.run([sys.argv[1], *map(str, arguments)], check=True, capture_output=True,
                          text=True).stdout


def load_base(path):
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


def difference(a, b):
    return (a - b).abs().max().item()


def printed_count(model):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        model.print_trainable_parameters()
    return out.getvalue().strip()


def check_adapter(name, base, original, ours, ids):
    with nothing_to_complain_about(name):
        model = PeftModel.from_pretrained(load_base(base), ours, is_trainable=True).eval()
    wanted = logits(PeftModel.from_pretrained(load_base(base), original).eval(), ids)
    worst = difference(logits(model, ids), wanted)
    check(name + ": logits", worst <= LIMIT, f"{worst:.1e}")
    info = quarry("adapter", "info", ours, "--model", base)
    check(name + ": trainable counts", printed_count(model) in info, printed_count(model))
    unknown = set(vars(LoraConfig.from_pretrained(original))) ^ set(vars(LoraConfig.from_pretrained(ours)))
    check(name + ": configuration has PEFT's keys", not unknown, str(unknown or ""))
    return wanted


def check_merged(name, base, adapter, wanted, ids, folder):
    merged = os.path.join(folder, name.replace(" ", "_") + "_merged")
    quarry("adapter", "merge", base, adapter, merged, "--type", "f32")
    with nothing_to_complain_about(name + " merged"):
        model = load_base(merged)
    worst = difference(logits(model, ids), wanted)
    check(name + " merged: logits", worst <= LIMIT, f"{worst:.1e}")


FULL = {"saved_head": "llama", "saved_embedding": "llama", "saved_mlp": "llama_scaled",
        "bias_all": "llama_scaled", "bias_lora_only": "llama_scaled"}
TRAININGS = {
    "modules_to_save": ["modules_to_save=lm_head,norm"],
    "biases": ["bias=all"],
    "pissa": ["init_lora_weights=pissa"],
    "pissa_niter rsLoRA": ["init_lora_weights=pissa_niter_8", "use_rslora=true"],
    "loftq": ["init_lora_weights=loftq", "target_modules=q_proj,down_proj",
              "loftq_weights=" + os.path.join(GOLDEN, "peft", "loftq", "model.safetensors")],
    "false": ["init_lora_weights=false"],
}


def finetune(name, base, settings, folder):
    """Trains a few steps. Returns the adapter and what the dry run printed."""
    rows = os.path.join(folder, "rows.jsonl")
    with open(rows, "w") as file:
        for i in range(12):
            file.write(json.dumps({"prompt": f"row {i} of", "completion": f"the file {i * 7}"}) + "\n")
    out = os.path.join(folder, "run " + name)
    arguments = ["finetune", "--train", rows, "--model", base, "--out", out]
    for setting in ["training.max_steps=4", "training.batch_size=4", "training.max_seq_len=128",
                    "training.micro_batch_tokens=256", "adapter.r=4",
                    *("adapter." + s for s in settings)]:
        arguments += ["--set", setting]
    text = quarry(*arguments, "--dry-run")
    quarry(*arguments)
    return os.path.join(out, "last"), text


def check_trained(name, base, settings, ids, folder):
    adapter, text = finetune(name, base, settings, folder)
    with nothing_to_complain_about("trained with " + name):
        model = PeftModel.from_pretrained(load_base(base), adapter, is_trainable=True).eval()
    if "pissa" not in name:  # saved with twice the rank that is trained
        check("trained with " + name + ": counts", printed_count(model) in text, printed_count(model))
    far = difference(logits(model, ids), logits(load_base(base), ids))
    check("trained with " + name + ": changes the base", far > 1e-4, f"{far:.1e}")
    check_merged("trained with " + name, base, adapter, logits(model, ids), ids, folder)


def main():
    torch.manual_seed(3)
    base = os.path.join(GOLDEN, "models", "llama")
    ids = torch.randint(3, 280, (2, 24))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("q_v", "all_linear", "rslora", "patterns"):
            original = os.path.join(GOLDEN, "peft", name)
            gguf = os.path.join(folder, name + ".gguf")
            ours = os.path.join(folder, name)
            quarry("adapter", "convert", original, gguf, "--model", base)
            quarry("adapter", "convert", gguf, ours, "--model", base)
            wanted = check_adapter(name, base, original, ours, ids)
            check_merged(name, base, original, wanted, ids, folder)
        for name, model in FULL.items():
            original = os.path.join(GOLDEN, "peft", name)
            model = os.path.join(GOLDEN, "models", model)
            ours = os.path.join(folder, name)
            quarry("adapter", "convert", original, ours, "--model", model, "--type", "f32")
            wanted = check_adapter(name, model, original, ours, ids)
            check_merged(name, model, original, wanted, ids, folder)
        for name, settings in TRAININGS.items():
            model = os.path.join(GOLDEN, "models", "llama_scaled") if name == "biases" else base
            check_trained(name, model, settings, ids, folder)
        if len(sys.argv) > 3:
            base, adapter = sys.argv[2:4]
            text = "Answer from the passages. Which river flows through Basel?"
            ids = AutoTokenizer.from_pretrained(base)(text, return_tensors="pt").input_ids
            with nothing_to_complain_about(adapter):
                model = PeftModel.from_pretrained(load_base(base), adapter).eval()
            check_merged("given adapter", base, adapter, logits(model, ids), ids, folder)
    sys.exit(1 if failures else 0)


main()
