"""Embedding real passages: ours beside sentence-transformers in bf16 and onnxruntime, interleaved,
medians of five, and how far our vectors are from the float32 model's.

  OMP_NUM_THREADS=2 python encode_vs_sentence_transformers.py ENCODE_BENCH MODEL_FOLDER
      PASSAGES.jsonl [--precision fast8] [--onnx-folder FOLDER] [--rounds 5]

ENCODE_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). The peers are sentence-transformers
6.2 on torch 2.15 and, with --onnx-folder, onnxruntime 1.32 on model.onnx and model_int8.onnx, which
are made there of the same weights where they are missing (needs the package onnx); two threads,
batches of 32 texts of like length.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import numpy
import torch
from sentence_transformers import SentenceTransformer

COUNT, THREADS, BATCH = 256, 2, 32


class Ours:
    def __init__(self, options):
        self.options = options
        self.query_ms = []

    def encode(self, _):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "vectors")
            out = subprocess.run(
                [self.options.bench, self.options.passages, self.options.model,
                 self.options.precision, str(COUNT), path],
                check=True, capture_output=True, text=True).stdout
            vectors = numpy.fromfile(path, dtype=numpy.float32).reshape(COUNT, -1)
        self.query_ms.append(float(re.search(r"one query: ([\d.]+) ms", out).group(1)))
        return vectors, COUNT / float(re.search(r"([\d.]+) passages/s", out).group(1))


class SentenceTransformers:
    def __init__(self, folder, dtype):
        self.model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": dtype})
        self.model.encode(["warm up"] * BATCH)

    def encode(self, texts):
        start = time.perf_counter()
        vectors = self.model.encode(texts, batch_size=BATCH, normalize_embeddings=True)
        return vectors, time.perf_counter() - start


class OnnxRuntime:
    def __init__(self, model, tokenizer):
        import onnxruntime
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(model, settings)
        self.tokenizer = tokenizer
        self.encode(["warm up"] * BATCH)

    def encode(self, texts):
        start = time.perf_counter()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = [None] * len(texts)
        for begin in range(0, len(texts), BATCH):
            members = order[begin:begin + BATCH]
            inputs = self.tokenizer([texts[i] for i in members], padding=True, truncation=True,
                                    max_length=256, return_tensors="np")
            states = self.session.run(None, {name.name: inputs[name.name]
                                             for name in self.session.get_inputs()})[0]
            mask = inputs["attention_mask"][..., None]
            means = (states * mask).sum(1) / mask.sum(1)
            for i, vector in zip(members, means):
                vectors[i] = vector / numpy.linalg.norm(vector)
        return numpy.array(vectors), time.perf_counter() - start


def make_onnx(encoder, folder):
    """model.onnx of float32 and model_int8.onnx, quantized dynamically."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    whole, small = (os.path.join(folder, name) for name in ("model.onnx", "model_int8.onnx"))
    if not os.path.exists(whole):
        class States(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, input_ids, attention_mask, token_type_ids):
                return self.model(input_ids=input_ids, attention_mask=attention_mask,
                                  token_type_ids=token_type_ids).last_hidden_state
        names = ["input_ids", "attention_mask", "token_type_ids"]
        example = encoder.tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
        torch.onnx.export(States(encoder[0].auto_model.eval()), tuple(example[n] for n in names),
                          whole, input_names=names, output_names=["states"], dynamo=False,
                          dynamic_axes={n: {0: "batch", 1: "tokens"} for n in names + ["states"]})
    if not os.path.exists(small):
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True,
                         reduce_range=False)
    return whole, small


def main():
    parser = argparse.ArgumentParser()
    for name in ("bench", "model", "passages"):
        parser.add_argument(name)
    parser.add_argument("--precision", default="fast")
    parser.add_argument("--onnx-folder")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with open(options.passages, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(COUNT))]
    reference = SentenceTransformers(options.model, torch.float32)
    expected, _ = reference.encode(texts)
    ours = Ours(options)
    sides = {"ours": ours,
             "sentence-transformers bf16": SentenceTransformers(options.model, torch.bfloat16)}
    if options.onnx_folder:
        whole, small = make_onnx(reference.model, options.onnx_folder)
        sides["onnxruntime float32"] = OnnxRuntime(whole, reference.model.tokenizer)
        sides["onnxruntime int8"] = OnnxRuntime(small, reference.model.tokenizer)
    rates = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            vectors, seconds = side.encode(texts)
            rates[name].append(COUNT / seconds)
            if len(rates[name]) == 1:
                vectors = numpy.asarray(vectors, dtype=numpy.float64)
                vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
                cosines = (vectors * expected).sum(1)
                print(f"{name}: cosine to float32 mean {cosines.mean():.6f}, "
                      f"least {cosines.min():.6f}")
    best = statistics.median(rates["ours"])
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name}: {rate:.1f} passages/s, ours is {best / rate:.2f} times that")
    print(f"one query: {statistics.median(ours.query_ms):.2f} ms")


if __name__ == "__main__":
    main()
