"""Makes the folders beside it: LoRA adapters of ../models/bert and what PEFT computes with them.

  python make.py      (torch 2.15.0, transformers 5.23.0, peft 0.21.0, safetensors; seed 5)

FOLDER/adapter_config.json, adapter_model.safetensors   as PEFT saves them, task type
                                                        FEATURE_EXTRACTION
FOLDER/golden.safetensors   vectors F32 [texts, 32]: mean of the token vectors, length 1, of the texts
                            of ../models/bert/golden.json, cut after 16 tokens;
                            vector_gradients F32 [texts, 32], drawn at random; and the gradient of
                            sum(vector_gradients * vectors) of each A and B under its name in
                            adapter_model.safetensors. Computed in float64.
"""
import json
import os
import shutil

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

HERE = os.path.dirname(os.path.abspath(__file__))
BERT = os.path.join(HERE, "..", "models", "bert")
CASES = {
    "all_linear": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "query_value": dict(r=2, lora_alpha=6, use_rslora=True, target_modules=["query", "value"]),
}


def embed(model, tokenizer, texts):
    vectors = []
    for text in texts:  # one at a time: no padding to mask
        ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        vectors.append(model(**ids).last_hidden_state[0].mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(vectors), dim=1)


def make(name, settings, texts, tokenizer):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(5)
    base = BertModel.from_pretrained(BERT, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, **settings)
    model = get_peft_model(base, config).eval()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # 0 would hide the gradient of A
            parameter.data.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as file:
        saved = json.load(file)
    saved["base_model_name_or_path"] = "bert"
    with open(path, "w") as file:
        json.dump(saved, file, indent=2, sort_keys=True)

    model = model.double()
    vectors = embed(model, tokenizer, texts)
    vector_gradients = torch.randn(vectors.shape, dtype=torch.float64).float()
    (vectors * vector_gradients.double()).sum().backward()
    golden = {"vectors": vectors.detach().float(), "vector_gradients": vector_gradients}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            golden[parameter_name.replace(".default.", ".")] = gradient.float().contiguous()
    save_file(golden, os.path.join(folder, "golden.safetensors"))


def main():
    with open(os.path.join(BERT, "golden.json")) as file:
        texts = json.load(file)["texts"]
    tokenizer = AutoTokenizer.from_pretrained(BERT)
    for name, settings in CASES.items():
        make(name, settings, texts, tokenizer)


main()
