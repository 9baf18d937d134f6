"""Ours and llama.cpp, interleaved, medians of five: prefill, decode at two lengths, eight sequences.

  OMP_NUM_THREADS=2 python generate_vs_llama_cpp.py GENERATE_BENCH MODEL.gguf [--precision fast8]
      [--load-in nf4] [--peer-model OTHER.gguf] [--long 4096] [--rounds 5]

GENERATE_BENCH is our built benchmark (-DQUARRY_BUILD_BENCH=ON). The peer is llama-cpp-python 0.3.36
built with CMAKE_ARGS=-DGGML_NATIVE=ON; --peer-model gives it another file than ours, such as the
one that it is fastest with.
"""
import argparse
import ctypes
import re
import statistics
import subprocess
import time

import llama_cpp

THREADS, DECODE_TOKENS, LONG_TOKENS, SEQUENCES = 2, 64, 16, 8


class Ours:
    def __init__(self, options):
        self.options = options
        self.bandwidth = []

    def run(self, prompt, decode, batch=1):
        command = [self.options.bench, self.options.model, self.options.precision, str(prompt),
                   str(decode), str(batch), "1", self.options.load_in]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        read = re.search(r"reads ([\d.]+) GB/s", out)
        if read:
            self.bandwidth.append(float(read.group(1)))
        return tuple(float(re.search(name + r" .*?: ([\d.]+) tok/s", out).group(1))
                     for name in ("prefill", "decode"))


class LlamaCpp:
    def __init__(self, path):
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # the library keeps a pointer
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.sampler = llama_cpp.llama_sampler_init_greedy()

    def context(self, tokens, sequences):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = tokens * sequences, sequences
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_threads = params.n_threads_batch = THREADS
        return llama_cpp.llama_init_from_model(self.model, params)

    def feed(self, ctx, rows):
        """rows: (token, position, sequence), logits for the last of each sequence."""
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        last = {sequence: i for i, (_, _, sequence) in enumerate(rows)}
        for i, (token, position, sequence) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = last[sequence] == i
        if llama_cpp.llama_decode(ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(ctx)
        llama_cpp.llama_batch_free(batch)
        return [last[sequence] for sequence in sorted(last)]

    def run(self, prompt, decode, sequences=1):
        ctx = self.context(-(-(prompt + decode + 8) // 256) * 256, sequences)
        tokens = [(i * 7919 + 17) % self.vocab for i in range(prompt)]
        start = time.perf_counter()
        for begin in range(0, prompt, 2048 // sequences):
            part = range(begin, min(prompt, begin + 2048 // sequences))
            places = self.feed(ctx, [(tokens[i], i, s) for s in range(sequences) for i in part])
        prefill = sequences * prompt / (time.perf_counter() - start)
        sample = lambda place: llama_cpp.llama_sampler_sample(self.sampler, ctx, place)
        newest = [sample(place) for place in places]
        start = time.perf_counter()
        for step in range(decode):
            places = self.feed(ctx, [(token, prompt + step, s) for s, token in enumerate(newest)])
            newest = [sample(place) for place in places]
        rate = sequences * decode / (time.perf_counter() - start)
        llama_cpp.llama_free(ctx)
        return prefill, rate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("model")
    parser.add_argument("--precision", default="fast")
    parser.add_argument("--load-in", default="as-is")
    parser.add_argument("--peer-model")
    parser.add_argument("--long", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ours, peer = Ours(options), LlamaCpp(options.peer_model or options.model)
    works = {
        "prefill of 512": (0, (512, 1)),
        "prefill of 1536": (0, (1536, 1)),
        f"decode of {DECODE_TOKENS}": (1, (8, DECODE_TOKENS)),
        f"decode behind {options.long}": (1, (options.long, LONG_TOKENS)),
        f"decode of {SEQUENCES} sequences": (1, (8, DECODE_TOKENS, SEQUENCES)),
    }
    peer.run(512, 1)
    figures = {name: ([], []) for name in works}
    for _ in range(options.rounds):
        for name, (column, arguments) in works.items():
            figures[name][0].append(ours.run(*arguments)[column])
            figures[name][1].append(peer.run(*arguments)[column])
    for name, (mine, theirs) in figures.items():
        a, b = statistics.median(mine), statistics.median(theirs)
        print(f"{name}: ours {a:.0f}, llama.cpp {b:.0f} tok/s, ratio {a / b:.2f}", flush=True)
    print(f"a plain loop reads {statistics.median(ours.bandwidth):.1f} GB/s")


if __name__ == "__main__":
    main()
