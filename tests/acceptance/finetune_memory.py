"""Is the memory that `quarry finetune --dry-run` estimates the memory that training takes?

  python finetune_memory.py QUARRY SQUAD_FOLDER [--model M]

Tunes the default model for two steps with prompts of some 350 tokens, in one setting after another,
and compares the peak of the process with the estimate. Exits 1 when one is more than 10 % off. Needs
nothing but Python; four minutes on two cores.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

LIMIT = 0.10
SETTINGS = {
    "default": [],
    "512 rows": ["micro_batch_tokens=512", "max_seq_len=512"],
    "512 rows, no checkpointing": ["micro_batch_tokens=512", "max_seq_len=512", "checkpointing=false"],
    "1,024 rows, no checkpointing": ["micro_batch_tokens=1024", "max_seq_len=512", "checkpointing=false"],
    "2,048 rows, no checkpointing": ["checkpointing=false"],
    "1,024 rows, f32": ["micro_batch_tokens=1024", "max_seq_len=512", "checkpointing=false", "compute=f32"],
    "512 rows, f32": ["micro_batch_tokens=512", "max_seq_len=512", "compute=f32"],
    "8-bit AdamW": ["micro_batch_tokens=512", "max_seq_len=512", "optimizer=adamw8bit"],
}


def write_rows(squad, path):
    with open(os.path.join(squad, "train.passages.00.jsonl"), encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    with open(path, "w", encoding="utf-8") as out:
        for i in range(0, 240, 3):
            prompt = "\n\n".join(texts[i:i + 3])[:1500]
            out.write(json.dumps({"prompt": prompt, "completion": "A short reply."}) + "\n")


def estimate(command):
    text = subprocess.run([*command, "--dry-run"], check=True, capture_output=True, text=True).stdout
    value, unit = re.search(r"estimated peak\s+([\d.]+) (MB|GB)", text).groups()
    return float(value) * (1e6 if unit == "MB" else 1e9)


def peak(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quarry")
    parser.add_argument("squad")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="this setting (repeatable)")
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "rows.jsonl")
        write_rows(arguments.squad, data)
        for number, (name, settings) in enumerate(SETTINGS.items()):
            if arguments.only and name not in arguments.only:
                continue
            command = [arguments.quarry, "--quiet", "finetune", "--train", data, "--model", arguments.model,
                       "--out", os.path.join(folder, f"run{number}"), "--max-steps", "2", "--batch-size", "8"]
            for setting in settings:
                command += ["--set", f"training.{setting}"]
            estimated, measured = estimate(command), peak(command)
            apart = estimated / measured - 1
            good &= abs(apart) <= LIMIT
            print(f"{'ok  ' if abs(apart) <= LIMIT else 'FAIL'} {name}: estimated {estimated / 1e6:.0f} MB, "
                  f"measured {measured / 1e6:.0f} MB ({100 * apart:+.1f} %)", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
