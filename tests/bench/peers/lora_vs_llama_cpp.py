"""LoRA of rank 16 on every Linear, at run time: what it costs us, and eight sequences with four adapters beside llama.cpp.

  OMP_NUM_THREADS=2 python lora_vs_llama_cpp.py GENERATE_BENCH QUARRY MODEL.gguf [--precision fast8] [--rounds 5]

GENERATE_BENCH and QUARRY are our built programs; the model is the default one's Q4_0. Adapters are random. The first two
lines compare with the same model without adapter in one process, round beside round; "merged" is the adapter merged and
requantized to Q4_0 by QUARRY. llama.cpp's server puts only requests with the same adapters into one batch: here each
adapter has a context of its own with two sequences, and a step of all eight is one llama_decode for each adapter. (The
server has one context and switches its adapters between those calls, which costs it more.)
Made with llama-cpp-python 0.3.36 built with CMAKE_ARGS=-DGGML_NATIVE=ON, torch 2.15, safetensors 0.8.
"""
import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import gguf
import llama_cpp
import torch
from safetensors.torch import save_file

from generate_vs_llama_cpp import DECODE_TOKENS, LlamaCpp

RANK, ADAPTERS, SEQUENCES, PROMPT_TOKENS = 16, 4, 8, 8
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def write_adapter(model, folder, seed):
    os.makedirs(folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for tensor in gguf.GGUFReader(model).tensors:
        found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if not found or found.group(2) not in NAMES:
            continue
        width, rows = (int(extent) for extent in tensor.shape)
        path = f"base_model.model.model.layers.{found.group(1)}.{NAMES[found.group(2)]}"
        tensors[path + ".lora_A.weight"] = torch.randn(RANK, width, generator=generator) * width ** -0.5
        tensors[path + ".lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.01
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none",
              "target_modules": sorted(name.split(".")[1] for name in NAMES.values())}
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


def ours(options, model, prompt, decode, batch, adapters, rounds=1):
    command = [options.bench, model, options.precision, str(prompt), str(decode), str(batch), str(rounds), "as-is",
               ",".join(adapters)]
    out = subprocess.run(command[:len(command) - (not adapters)], check=True, capture_output=True, text=True).stdout
    rates = [float(re.search(name + r" .*?: ([\d.]+) tok/s", out).group(1)) for name in ("prefill", "decode")]
    longer = re.search(r"longer by: prefill (\S+) %, decode (\S+) %", out)
    return rates, [float(value) for value in longer.groups()] if longer else None


class GroupsOfLlamaCpp(LlamaCpp):
    def __init__(self, path, adapters):
        super().__init__(path)
        each = SEQUENCES // len(adapters)
        self.contexts = []
        for adapter in adapters:
            ctx = self.context(256, each)
            lora = llama_cpp.llama_adapter_lora_init(self.model, adapter.encode())
            pointers = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
            if llama_cpp.llama_set_adapters_lora(ctx, pointers, 1, (ctypes.c_float * 1)(1.0)) != 0:
                raise RuntimeError("llama_set_adapters_lora failed")
            self.contexts.append((ctx, range(each)))

    def decode(self, tokens):
        """Tokens a second of all sequences together."""
        newest = []
        for ctx, sequences in self.contexts:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
            rows = [((i * 7919 + 17) % self.vocab, i, s) for s in sequences for i in range(PROMPT_TOKENS)]
            newest.append([llama_cpp.llama_sampler_sample(self.sampler, ctx, at) for at in self.feed(ctx, rows)])
        start = time.perf_counter()
        for step in range(tokens):
            for group, (ctx, sequences) in enumerate(self.contexts):
                rows = [(newest[group][s], PROMPT_TOKENS + step, s) for s in sequences]
                newest[group] = [llama_cpp.llama_sampler_sample(self.sampler, ctx, at) for at in self.feed(ctx, rows)]
        return SEQUENCES * tokens / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("quarry")
    parser.add_argument("model")
    parser.add_argument("--precision", default="fast8")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        def run_quarry(*arguments):
            subprocess.run([options.quarry, *arguments], check=True, capture_output=True)

        folders = [os.path.join(work, f"adapter{i}") for i in range(ADAPTERS)]
        for seed, folder in enumerate(folders):
            write_adapter(options.model, folder, seed)
            run_quarry("adapter", "convert", folder, folder + ".gguf", "--model", options.model)
        merged = os.path.join(work, "merged.gguf")
        run_quarry("adapter", "merge", options.model, folders[0], os.path.join(work, "wide.gguf"))
        run_quarry("model", "quantize", os.path.join(work, "wide.gguf"), "--to", "q4_0", "--out", merged)

        _, one = ours(options, options.model, 512, DECODE_TOKENS, 1, folders[:1], options.rounds)
        print(f"one adapter: prefill of 512 takes {one[0]:+.1f} %, decode {one[1]:+.1f} %", flush=True)
        pairs = []
        for _ in range(options.rounds):
            base, _ = ours(options, options.model, 512, DECODE_TOKENS, 1, [])
            own, _ = ours(options, merged, 512, DECODE_TOKENS, 1, [])
            pairs.append([100 * (b / o - 1) for b, o in zip(base, own)])
        prefill, decode = (statistics.median(column) for column in zip(*pairs))
        print(f"merged: prefill of 512 takes {prefill:+.1f} %, decode {decode:+.1f} %", flush=True)
        peer = GroupsOfLlamaCpp(options.model, [folder + ".gguf" for folder in folders])
        mine, theirs, longer = [], [], []
        for _ in range(options.rounds):
            rates, more = ours(options, options.model, PROMPT_TOKENS, DECODE_TOKENS, SEQUENCES, folders)
            mine.append(rates[1])
            longer.append(more[1])
            theirs.append(peer.decode(DECODE_TOKENS))
        a, b = statistics.median(mine), statistics.median(theirs)
        print(f"{SEQUENCES} sequences, {ADAPTERS} adapters: ours {a:.0f}, llama.cpp {b:.0f} tok/s, ratio {a / b:.2f}; "
              f"takes {statistics.median(longer):+.1f} % against no adapter")


if __name__ == "__main__":
    main()
