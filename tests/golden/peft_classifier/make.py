"""Makes the folders beside it: LoRA adapters with a trained head of ../encoders/NAME and what PEFT computes with them.

  python make.py      (torch 2.15.0, transformers 5.23.0, peft 0.21.0, safetensors; seed 6)

NAME/adapter_config.json, adapter_model.safetensors   as PEFT saves them, task type SEQ_CLS: r = 4, and the classifier
                                                      under modules_to_save
NAME/golden.safetensors   of the inputs of ../encoders/NAME/golden.json: logits F32 [inputs, labels]; labels I64; loss F32
                          [1], the mean cross entropy; and its gradient of each A, B and parameter of the classifier
                          under its name in adapter_model.safetensors. Computed in float64, one input at a time (nothing
                          padded), without dropout.
NAME/counts.json          what print_trainable_parameters() prints
"""
import contextlib
import io
import json
import os
import shutil

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = {
    "bert_sequence": dict(target_modules=["query", "value"], lora_alpha=8),
    "roberta_sequence": dict(target_modules="all-linear", lora_alpha=6, use_rslora=True),
}


def make(name, settings):
    base_path = os.path.join(HERE, "..", "encoders", name)
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(6)
    with open(os.path.join(base_path, "golden.json")) as file:
        inputs = json.load(file)["inputs"]
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    base = AutoModelForSequenceClassification.from_pretrained(base_path, dtype=torch.float32,
                                                              attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, **settings)).eval()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # 0 would hide the gradient of A
            parameter.data.normal_(0.0, 0.1)
        elif "modules_to_save" in parameter_name:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as file:
        saved = json.load(file)
    saved["base_model_name_or_path"] = name
    saved["target_modules"].sort()
    with open(path, "w") as file:
        json.dump(saved, file, indent=2, sort_keys=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model.print_trainable_parameters()
    with open(os.path.join(folder, "counts.json"), "w") as file:
        json.dump(printed.getvalue().strip(), file)

    model = model.double()
    logits = torch.cat([model(**tokenizer([first], [second], truncation=True, return_tensors="pt")).logits
                        for first, second in inputs])
    labels = torch.randint(0, logits.shape[1], (len(inputs),))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    golden = {"logits": logits.detach().float(), "labels": labels, "loss": loss.detach().float()[None]}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            stored = parameter_name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
            golden[stored] = parameter.grad.float().contiguous()
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    print(name, printed.getvalue().strip(), sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)))


for case, case_settings in CASES.items():
    make(case, case_settings)
