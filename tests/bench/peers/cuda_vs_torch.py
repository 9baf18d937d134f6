#!/usr/bin/env python3
"""PyTorch on the shapes of cuda_bench: bf16 and int4 (tinygemm) products, attention, RMSNorm.

Run in the same session as tests/bench/cuda_bench and compare line by line:
    python3 tests/bench/peers/cuda_vs_torch.py
Calls are captured into a CUDA graph; weights and caches are many copies, used in turn, larger
together than the L2 cache, as in cuda_bench. Inputs are bf16 but for the norms.
"""
import statistics

import torch
import torch.nn.functional as F

WORKING_SET = 160 << 20
PEAK_TFLOPS = 989.4


def seconds_of(calls, body):
    """Median seconds of one body(i), i < calls, captured as one graph and replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(min(calls, 3)):
            body(i)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            body(i)
    times = []
    for run in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if run >= 3:
            times.append(begin.elapsed_time(end) * 1e-3 / calls)
    return statistics.median(times)


def show(name, seconds, flop=None, nbytes=None):
    rate = (f"{flop / seconds / 1e12:7.1f} TFLOP/s  {100 * flop / seconds / 1e12 / PEAK_TFLOPS:5.1f} % of peak"
            if flop else f"{nbytes / seconds / 1e9:7.1f} GB/s")
    print(f"{name:46} {seconds * 1e6:9.2f} us  {rate}", flush=True)


def products():
    shapes = [(960, 576), (576, 576), (3072, 576), (576, 1536),
              (3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)]
    for n, k in shapes:
        copies = max(2, min(1024, WORKING_SET // (2 * n * k)))
        weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
        for m in (1, 8, 16, 64, 512, 2048):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            seconds = seconds_of(copies, lambda i: F.linear(x, weights[i]))
            name = f"torch bf16 linear m {m} [{n}, {k}]"
            if m <= 8:
                show(name, seconds, nbytes=2 * n * k)
            else:
                show(name, seconds, flop=2 * m * n * k)
        del weights
        # Tinygemm wants k and n in whole tiles.
        if k % 1024 != 0 and k % 512 != 0:
            continue
        try:
            group = 32
            copies = max(2, min(1024, WORKING_SET // (n * k * 5 // 8)))
            codes = torch.randint(0, 256, (n, k // 2), device="cuda", dtype=torch.uint8)
            packed = [torch.ops.aten._convert_weight_to_int4pack(codes, 8) for _ in range(copies)]
            scales = [torch.randn(k // group, n, 2, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
            for m in (1, 8, 16, 64, 512, 2048):
                x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
                seconds = seconds_of(
                    copies, lambda i: torch.ops.aten._weight_int4pack_mm(x, packed[i], group, scales[i]))
                name = f"torch int4 linear m {m} [{n}, {k}]"
                if m <= 8:
                    show(name, seconds, nbytes=n * k * 5 // 8)
                else:
                    show(name, seconds, flop=2 * m * n * k)
        except RuntimeError as error:
            print(f"torch int4 [{n}, {k}]: {str(error).splitlines()[0]}", flush=True)
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    show(f"torch bf16 linear [{size}]^3", seconds_of(3, lambda i: F.linear(a, b)), flop=2 * size**3)


def attention():
    for heads, kv_heads, head_dim in ((9, 3, 64), (32, 8, 64), (32, 8, 128), (8, 4, 256)):
        for queries, keys in ((512, 512), (2048, 2048), (1, 1024), (1, 4096), (1, 32768)):
            cache = keys * kv_heads * head_dim
            copies = 1 if queries > 1 else max(2, min(64, WORKING_SET // (4 * cache)))
            k, v = (torch.randn(copies, 1, kv_heads, keys, head_dim, device="cuda", dtype=torch.bfloat16)
                    for _ in range(2))
            q = torch.randn(1, heads, queries, head_dim, device="cuda", dtype=torch.bfloat16)
            seconds = seconds_of(max(copies, 10), lambda i: F.scaled_dot_product_attention(
                q, k[i % copies], v[i % copies], is_causal=queries > 1, enable_gqa=True))
            name = f"torch sdpa {queries} of {keys}, {heads}/{kv_heads} x {head_dim}"
            if queries > 1:
                show(name, seconds, flop=2 * queries * keys * heads * head_dim)
            else:
                show(name, seconds, nbytes=4 * cache)


def norms():
    x = torch.randn(16384, 2048, device="cuda")
    weight = torch.randn(2048, device="cuda")
    nbytes = x.numel() * 8
    show("torch float32 rms_norm [16384, 2048]",
         seconds_of(5, lambda i: F.rms_norm(x, (2048,), weight)), nbytes=nbytes)
    show("torch float32 layer_norm [16384, 2048]",
         seconds_of(5, lambda i: F.layer_norm(x, (2048,), weight, weight)), nbytes=nbytes)


if __name__ == "__main__":
    print(torch.__version__, torch.cuda.get_device_name())
    products()
    attention()
    norms()
