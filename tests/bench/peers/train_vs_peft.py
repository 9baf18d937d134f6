"""LoRA training of the same model on the same batches: ours and Python PEFT in bf16.

  OMP_NUM_THREADS=2 python train_vs_peft.py TRAIN_BENCH MODEL.gguf PASSAGES.jsonl [--steps 5] [--full]

TRAIN_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). LoRA r=8 on every Linear, AdamW, B=4, T=512, the last 32
tokens of each sequence are targets; text of PASSAGES. Both start from the adapter that PEFT makes. Each side runs in a
process of its own, one after the other, so that its peak memory is its own. --full also runs full fine-tuning in
float32 with Adam: the peer of the memory claim. Made with torch 2.15, transformers 5.23, peft 0.21.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def make_batches(model_path, passages, steps, path):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(model_path), gguf_file=os.path.basename(model_path))
    ids = []
    with open(passages, encoding="utf-8") as file:
        for line in file:
            ids += tokenizer(json.loads(line)["text"] + "\n\n").input_ids
            if len(ids) >= steps * 4 * 512:
                break
    with open(path, "w", encoding="utf-8") as out:
        for step in range(steps):
            rows = [ids[(step * 4 + i) * 512:(step * 4 + i + 1) * 512] for i in range(4)]
            out.write(json.dumps([{"tokens": row, "targets": 32} for row in rows]) + "\n")


def load_model(model_path, dtype):
    import torch
    from transformers import AutoModelForCausalLM
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(os.path.dirname(model_path), gguf_file=os.path.basename(model_path),
                                                dtype=dtype)


def peft_model(model_path):
    import torch
    from peft import LoraConfig, get_peft_model
    config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(load_model(model_path, torch.bfloat16), config)


def peak_megabytes():
    """Of this process alone: getrusage would count what the parent had."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def run_peer(model_path, batches, full):
    import torch
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model = load_model(model_path, torch.float32) if full else peft_model(model_path)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.0)
    with open(batches, encoding="utf-8") as file:
        for line in file:
            rows = json.loads(line)
            ids = torch.tensor([row["tokens"] for row in rows])
            labels = torch.full_like(ids, -100)
            labels[:, -32:] = ids[:, -32:]
            start = time.perf_counter()
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - start
            print(json.dumps({"loss": loss.item(), "tokens_per_second": ids.numel() / seconds}), flush=True)
    print(json.dumps({"peak_mb": peak_megabytes()}))


def collect(command):
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    steps = [row for row in rows if "loss" in row]
    return {"losses": [row["loss"] for row in steps],
            "rate": statistics.median(row["tokens_per_second"] for row in steps[1:]),
            "peak_mb": rows[-1]["peak_mb"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("model")
    parser.add_argument("passages")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", default="2048", help="rows of one of our passes; 2048: all four sequences, as PEFT's")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments.model, arguments.passages, arguments.peer == "full")
        return
    with tempfile.TemporaryDirectory() as work:
        batches = os.path.join(work, "batches.jsonl")
        make_batches(arguments.model, arguments.passages, arguments.steps, batches)
        adapter = os.path.join(work, "adapter")
        peft_model(arguments.model).save_pretrained(adapter)
        steps = str(arguments.steps)
        own = [arguments.bench, "--model", arguments.model, "--batches", batches, "--adapter", adapter, "--steps", steps,
               "--rows", arguments.rows]
        ours = collect(own)
        peer = [sys.executable, __file__, arguments.bench, arguments.model, batches, "--peer"]
        peft = collect(peer + ["peft"])
        again = collect(own)
        rate = (ours["rate"] + again["rate"]) / 2  # before and after the peer: the machine changes
        apart = max(abs(a - b) / b for a, b in zip(ours["losses"], peft["losses"]))
        print(f"ours   {ours['rate']:.0f} and {again['rate']:.0f} tokens/s, peak {ours['peak_mb']:.0f} MB, losses {ours['losses']}")
        print(f"PEFT   {peft['rate']:.0f} tokens/s, peak {peft['peak_mb']:.0f} MB, losses {peft['losses']}")
        print(f"ratio  {rate / peft['rate']:.2f} x tokens/s, {ours['peak_mb'] / peft['peak_mb']:.3f} of the memory, "
              f"losses at most {100 * apart:.2f} % apart")
        if arguments.full:
            full = collect(peer + ["full"])
            print(f"full   {full['rate']:.0f} tokens/s, peak {full['peak_mb']:.0f} MB; ours takes "
                  f"{100 * ours['peak_mb'] / full['peak_mb']:.1f} % of it")


if __name__ == "__main__":
    main()
