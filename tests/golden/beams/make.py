"""Makes golden.json: what transformers' beam search says over the tiny models of ../models.

  python make.py      (torch 2.15, transformers 5.23)

Each case: model, prompt, num_beams, length_penalty, eos (end tokens), max_tokens; tokens: the best text, its end token
included. End tokens are ones that these random models really choose.
"""
import json
import os

import torch
from transformers import LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
cases = []
for name in ["llama", "llama_scaled"]:
    model = LlamaForCausalLM.from_pretrained(os.path.join(HERE, "..", "models", name), dtype=torch.float32).eval()
    torch.manual_seed(7)
    for number in range(3):
        prompt = torch.randint(3, model.config.vocab_size, (1, 5 + 7 * number))
        greedy = model.generate(prompt, max_new_tokens=24, do_sample=False, eos_token_id=None)[0, prompt.shape[1]:]
        likely = sorted(set(greedy.tolist()))
        for eos in [[2], likely[:1], likely[1:4]]:
            for num_beams in [2, 5]:
                for length_penalty in [-1.0, 0.0, 1.0, 2.0]:
                    with torch.no_grad():
                        best = model.generate(
                            prompt, attention_mask=torch.ones_like(prompt), num_beams=num_beams, do_sample=False,
                            length_penalty=length_penalty, max_new_tokens=16, eos_token_id=eos, pad_token_id=0)
                    cases.append({
                        "model": name, "prompt": prompt[0].tolist(), "num_beams": num_beams,
                        "length_penalty": length_penalty, "eos": eos, "max_tokens": 16,
                        "tokens": best[0, prompt.shape[1]:].tolist()})
with open(os.path.join(HERE, "golden.json"), "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
