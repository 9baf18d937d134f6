"""Golden for tests/generator/nn/lora_test.cpp: which modules PEFT adapts, with rank and scaling.

Made with peft 0.21.0, transformers 5.23, torch 2.15. Run:  python make.py  (writes targets.json).
"""
import json
import pathlib
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

CASES = {
    "list": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "all_linear": dict(r=16, lora_alpha=32, target_modules="all-linear"),
    "regex": dict(r=2, target_modules=r".*\.layers\.(0|11)\.mlp\.(up|down)_proj"),
    "rslora": dict(r=16, lora_alpha=16, use_rslora=True, target_modules=["o_proj"]),
    "full_path": dict(r=4, target_modules=["model.layers.3.self_attn.k_proj", "gate_proj"],
                      layers_to_transform=[1]),
    "layers": dict(r=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 10]),
    "layers_pattern": dict(r=4, target_modules=["q_proj"], layers_to_transform=2,
                           layers_pattern="layers"),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                     rank_pattern={"layers.1.self_attn.q_proj": 6, "v_proj": 2},
                     alpha_pattern={".*layers\\.[01]\\..*down_proj": 12, "v_proj": 3}),
    "excluded": dict(r=4, target_modules="all-linear", exclude_modules=["mlp.up_proj", "k_proj"]),
    "excluded_regex": dict(r=4, target_modules=["q_proj"], exclude_modules=r".*\.[0-9]\.self_attn.*"),
}


def main():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=12,
                         num_attention_heads=2, num_key_value_heads=1, vocab_size=32)
    cases = []
    for name, arguments in CASES.items():
        base = LlamaForCausalLM(config)
        modules = [n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)]
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **arguments))
        adapted = {
            n.removeprefix("base_model.model."): [m.r["default"], m.scaling["default"]]
            for n, m in model.named_modules() if hasattr(m, "lora_A")
        }
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            saved = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
        if isinstance(saved["target_modules"], list):
            saved["target_modules"].sort()
        # The saved form of "all-linear" is the list it stood for; both have to work.
        variants = {name: saved}
        if arguments["target_modules"] == "all-linear":
            variants[name + "_as_written"] = dict(saved, target_modules="all-linear")
        for variant, value in variants.items():
            cases.append({"name": variant, "config": value, "adapted": adapted})
    out = {"modules": modules, "cases": cases}
    pathlib.Path(__file__).with_name("targets.json").write_text(json.dumps(out, sort_keys=True))


main()
