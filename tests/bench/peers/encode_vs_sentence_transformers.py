"""Embedding real passages: ours and sentence-transformers in bf16, interleaved, medians of five.

  OMP_NUM_THREADS=2 python encode_vs_sentence_transformers.py ENCODE_BENCH MODEL_FOLDER PASSAGES.jsonl

ENCODE_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). The peer is sentence-transformers 6.2
on torch 2.15, two threads, batch 32.
"""
import json
import re
import statistics
import subprocess
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

COUNT = 256


def main():
    bench, folder, passages = sys.argv[1:4]
    torch.set_num_threads(2)
    with open(passages, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(COUNT))]
    peer = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": torch.bfloat16})
    peer.encode(texts[:32])
    rows = []
    for _ in range(5):
        out = subprocess.run([bench, passages, folder, "fast", str(COUNT)], check=True,
                             capture_output=True, text=True).stdout
        start = time.perf_counter()
        peer.encode(texts, batch_size=32)
        rows.append((float(re.search(r"([\d.]+) passages/s", out).group(1)),
                     COUNT / (time.perf_counter() - start)))
    ours, theirs = (statistics.median(column) for column in zip(*rows))
    print(f"embed: ours {ours:.1f}, sentence-transformers bf16 {theirs:.1f} passages/s, "
          f"ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
