"""Golden for tests/finetune/optimizer_test.cpp: ten steps of torch.optim.AdamW with clipping.

Made with torch 2.15.0, float32, one thread. Run:  python make.py  (writes adamw.json).
"""
import json
import pathlib

import torch

STEPS = 10
LEARNING_RATE = 0.02
WEIGHT_DECAY = 0.1
MAX_NORM = 1.5


def main():
    torch.manual_seed(20)
    torch.set_num_threads(1)
    shapes = {"a": 7, "b": 3, "no_decay": 5}
    parameters = {name: torch.nn.Parameter(torch.randn(n)) for name, n in shapes.items()}
    groups = [
        {"params": [parameters["a"], parameters["b"]], "weight_decay": WEIGHT_DECAY},
        {"params": [parameters["no_decay"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, foreach=False, fused=False)
    golden = {
        "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "max_norm": MAX_NORM,
        "start": {name: p.tolist() for name, p in parameters.items()}, "steps": [],
    }
    for step in range(STEPS):
        gradients = {name: torch.randn(n) * 10 ** (1 - step % 3) for name, n in shapes.items()}
        for name, p in parameters.items():
            p.grad = gradients[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM)
        rate = LEARNING_RATE * (1 - step / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        golden["steps"].append({
            "rate": rate, "norm": norm.item(),
            "gradients": {name: g.tolist() for name, g in gradients.items()},
            "parameters": {name: p.tolist() for name, p in parameters.items()},
        })
    path = pathlib.Path(__file__).with_name("adamw.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
