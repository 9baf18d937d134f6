"""Prefill and decode of the same GGUF file: ours and llama.cpp, interleaved, medians of five.

  OMP_NUM_THREADS=2 python generate_vs_llama_cpp.py GENERATE_BENCH MODEL.gguf

GENERATE_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). The peer is llama-cpp-python 0.3.36
built with CMAKE_ARGS=-DGGML_NATIVE=ON.
"""
import re
import statistics
import subprocess
import sys
import time

import llama_cpp

PROMPT_TOKENS, DECODE_TOKENS, THREADS = 512, 64, 2


def ours(bench, model):
    def run(prompt, decode):
        out = subprocess.run([bench, model, "fast", str(prompt), str(decode)], check=True,
                             capture_output=True, text=True).stdout
        return (float(re.search(r"prefill .*?: ([\d.]+) tok/s", out).group(1)),
                float(re.search(r"decode .*?: ([\d.]+) tok/s", out).group(1)))
    return run(PROMPT_TOKENS, 1)[0], run(8, DECODE_TOKENS)[1]


class LlamaCpp:
    def __init__(self, path):
        self.llama = llama_cpp.Llama(path, n_ctx=2048, n_batch=512, n_ubatch=512, n_threads=THREADS,
                                     n_threads_batch=THREADS, verbose=False)
        self.ctx = self.llama._ctx.ctx
        self.sampler = llama_cpp.llama_sampler_init_greedy()
        self.vocab = self.llama.n_vocab()

    def feed(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(self.ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)

    def run(self):
        prompt = [(i * 7919 + 17) % self.vocab for i in range(PROMPT_TOKENS)]
        self.clear()
        start = time.perf_counter()
        self.feed(prompt)
        llama_cpp.llama_synchronize(self.ctx)
        prefill = PROMPT_TOKENS / (time.perf_counter() - start)
        self.clear()
        self.feed(prompt[:8])
        token = llama_cpp.llama_sampler_sample(self.sampler, self.ctx, -1)
        start = time.perf_counter()
        for _ in range(DECODE_TOKENS):
            self.feed([token])
            token = llama_cpp.llama_sampler_sample(self.sampler, self.ctx, -1)
        return prefill, DECODE_TOKENS / (time.perf_counter() - start)


def main():
    bench, model = sys.argv[1:3]
    peer = LlamaCpp(model)
    peer.run()
    rows = []
    for _ in range(5):
        rows.append(ours(bench, model) + peer.run())
    ours_prefill, ours_decode, peer_prefill, peer_decode = (
        statistics.median(column) for column in zip(*rows))
    print(f"prefill {PROMPT_TOKENS}: ours {ours_prefill:.0f}, llama.cpp {peer_prefill:.0f} tok/s, "
          f"ratio {ours_prefill / peer_prefill:.2f}")
    print(f"decode {DECODE_TOKENS}: ours {ours_decode:.0f}, llama.cpp {peer_decode:.0f} tok/s, "
          f"ratio {ours_decode / peer_decode:.2f}")


if __name__ == "__main__":
    main()
