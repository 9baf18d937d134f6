"""One Linear in NF4 and in LLM.int8: ours and bitsandbytes' CPU backend, interleaved, medians of five.

  OMP_NUM_THREADS=2 python linear_vs_bitsandbytes.py LINEAR_BENCH [--rounds 5]      (bitsandbytes 0.50.2, torch 2.15)

LINEAR_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). bitsandbytes is timed at its fastest: bfloat16, with its
native library, and weights repacked by it for inference where it can. Errors are root mean squares relative to the
float64 product with the weights before quantization. That codes and absmax are equal bit by bit, and that checkpoints
give the same logits, is what tests/acceptance/bitsandbytes_parity.py checks.
"""
import argparse
import os
import statistics
import subprocess
import tempfile
import time
import warnings

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import bitsandbytes as bnb  # noqa: E402
import bitsandbytes.functional as F  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

SHAPES = [(2048, 2048), (2048, 8192), (576, 1536)]  # in_features, out_features
WORKS = [("dequantize", 1), ("nf4", 1), ("nf4", 512), ("int8", 1), ("int8", 512)]


def peer(work, w, x):
    """A function that makes the same as ours, of the same operands."""
    if work == "int8":
        layer = bnb.nn.Linear8bitLt(w.shape[1], w.shape[0], bias=False, has_fp16_weights=False, threshold=6.0)
        layer.weight = bnb.nn.Int8Params(w.half(), requires_grad=False)
        layer, half = layer.to("cpu").eval(), x.half()
        return lambda: layer(half)
    if work == "dequantize":
        codes, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4")
        state.dtype = torch.bfloat16
        return lambda: F.dequantize_4bit(codes, state)
    layer = bnb.nn.Linear4bit(w.shape[1], w.shape[0], bias=False, compute_dtype=torch.bfloat16,
                              compress_statistics=False, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(w.bfloat16(), requires_grad=False, compress_statistics=False, quant_type="nf4")
    layer, rounded = layer.to("cpu").eval(), x.bfloat16()
    return lambda: layer(rounded)


def seconds(call):
    runs = []
    call()
    for _ in range(5):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.05:
            call()
            count += 1
        runs.append((time.perf_counter() - start) / count)
    return statistics.median(runs)


def relative_error(found, wanted):
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted ** 2)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(1)
    print("| work | in, out | ours, us | bitsandbytes, us | ratio | error: ours | bitsandbytes |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for k, n in SHAPES:
            w = torch.randn(n, k) * 0.05
            w.numpy().tofile(os.path.join(folder, "w.f32"))
            for work, rows in WORKS:
                x = torch.randn(rows, k)
                if work == "int8":
                    x[:, 7] *= 8  # a column of outliers
                x.numpy().tofile(os.path.join(folder, "x.f32"))
                call = peer(work, w, x)
                mine, theirs = [], []
                for _ in range(options.rounds):
                    mine.append(float(subprocess.run([options.bench, folder, str(n), str(k), str(rows), work], check=True,
                                                     capture_output=True, text=True).stdout))
                    theirs.append(seconds(call))
                wanted = w.double().numpy() if work == "dequantize" else (x.double() @ w.double().T).numpy()
                found = np.fromfile(os.path.join(folder, "y.f32"), np.float32).reshape(wanted.shape)
                errors = [relative_error(y, wanted) for y in (found, call().double().numpy().reshape(wanted.shape))]
                a, b = statistics.median(mine), statistics.median(theirs)
                name = work if work == "dequantize" else f"{work}, {rows} row{'s' * (rows > 1)}"
                print(f"| {name} | {k}, {n} | {a * 1e6:.0f} | {b * 1e6:.0f} | {b / a:.2f} | {errors[0]:.2e} | "
                      f"{errors[1]:.2e} |", flush=True)


if __name__ == "__main__":
    main()
