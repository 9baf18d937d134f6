"""Many clients at once against a real `quarry serve`, and adapters served together.

  python serve.py QUARRY INDEX [part ...]      parts: streams adapters

streams: 32 clients stream answers at once; each must get the text it gets when alone, and /healthz
must answer in under 50 ms throughout. adapters: two random PEFT adapters served together must answer
as each does when served alone. Exits 1 when a limit is missed. Needs torch, transformers and peft for
the second part only. INDEX must hold SQuAD's dev paragraphs.
"""
import http.client
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
from server_process import running_server  # noqa: E402

CLIENTS = 32
HEALTH_LIMIT_MS = 50
QUESTIONS = [f"{q}?" for q in (
    "When did the 1973 oil crisis begin", "Who led the Norman conquest of England",
    "What is the capital of Victoria", "What does a combustion engine burn",
    "Who designed the steam engine condenser", "What is a prime number",
    "Where is the Amazon rainforest", "What is the Rhine's length", "Who was Genghis Khan",
    "What is oxygen used for", "What is a private school", "Who founded Islam",
    "What is the Apollo program", "How is packet switching done", "What is the immune system",
    "What did Martin Luther write")]


def connect(base):
    return http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=600)


def stream(base, model, question, retrieval=True, max_tokens=64):
    """Returns the streamed text and the seconds until its first word."""
    body = {"model": model, "stream": True, "temperature": 0, "max_tokens": max_tokens,
            "retrieval": retrieval, "messages": [{"role": "user", "content": question}]}
    connection, started, first, text = connect(base), time.monotonic(), None, ""
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"status {reply.status}: {reply.read()[:500]}")
    ended = False
    for line in reply:
        if line.strip() == b"data: [DONE]":
            ended = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if piece:
                first = first or time.monotonic() - started
                text += piece
    connection.close()
    if not ended:
        raise RuntimeError("the stream ended without [DONE]")
    return text, first


def models(base):
    connection = connect(base)
    connection.request("GET", "/v1/models")
    return json.load(connection.getresponse())["data"]


def probe_health(base, stop, times):
    """In a process of its own: one new connection each, as a load balancer asks."""
    while not stop.is_set():
        started = time.perf_counter()
        connection = connect(base)
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        reply.read()
        connection.close()
        times.put((reply.status, 1e3 * (time.perf_counter() - started)))
        time.sleep(0.005)
    times.put(None)


def all_at_once(jobs):
    """Runs every job in a thread of its own, started together. Returns their results in order."""
    results, together = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(i):
        together.wait()
        try:
            results[i] = jobs[i]()
        except Exception as error:  # a failed client is a result, not the end of the others
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def check_streams(quarry, index):
    with running_server(f"{quarry} serve {index} --port {{port}}") as base:
        name = next(m["id"] for m in models(base) if m["kind"] == "base")
        asked = [(QUESTIONS[i % len(QUESTIONS)], i >= len(QUESTIONS)) for i in range(CLIENTS)]
        alone = [stream(base, name, question, retrieval)[0] for question, retrieval in asked]
        stop, times = multiprocessing.Event(), multiprocessing.Queue()
        prober = multiprocessing.Process(target=probe_health, args=(base, stop, times))
        prober.start()
        started = time.monotonic()
        together = all_at_once([lambda q=q, r=r: stream(base, name, q, r) for q, r in asked])
        seconds = time.monotonic() - started
        stop.set()
        probes = list(iter(times.get, None))
        prober.join()
    failed = [str(r) for r in together if isinstance(r, Exception)]
    for reason in failed:
        print("FAIL stream:", reason)
    other = [i for i, r in enumerate(together) if not isinstance(r, Exception) and r[0] != alone[i]]
    for i in other[:3]:
        print(f"FAIL {asked[i]}\n  alone    {alone[i]!r}\n  together {together[i][0]!r}")
    first = sorted(r[1] for r in together if not isinstance(r, Exception) and r[1])
    milliseconds = sorted(ms for _, ms in probes)
    print(f"{CLIENTS} streams in {seconds:.1f} s, first word after {first[0]:.1f} to {first[-1]:.1f} s: "
          f"{CLIENTS - len(failed) - len(other)} with the text they get alone")
    print(f"/healthz {len(probes)} times: median {statistics.median(milliseconds):.1f} ms, "
          f"p99 {milliseconds[int(0.99 * len(probes))]:.1f} ms, max {milliseconds[-1]:.1f} ms")
    return (not failed and not other and all(status == 200 for status, _ in probes)
            and milliseconds[-1] < HEALTH_LIMIT_MS)


def make_adapters(folder):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                         tie_word_embeddings=True)
    kinds = {"narrow": dict(r=4, target_modules=["q_proj", "v_proj"]),
             "wide": dict(r=16, target_modules="all-linear", use_rslora=True)}
    for seed, (name, options) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        tuned = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", **options))
        for parameter_name, parameter in tuned.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.02)
        tuned.save_pretrained(os.path.join(folder, name))
    return list(kinds)


def check_adapters(quarry, index):
    with tempfile.TemporaryDirectory() as folder:
        names = make_adapters(folder)
        serve = f"{quarry} serve {index} --port {{port}}"
        flags = {name: f" --adapter {name}={folder}/{name}" for name in names}
        questions = QUESTIONS[:4]
        alone = {}
        for name in names:
            with running_server(serve + flags[name]) as base:
                base_name = next(m["id"] for m in models(base) if m["kind"] == "base")
                for asked in (name, base_name):
                    for question in questions:
                        alone[asked, question] = stream(base, asked, question)[0]
        with running_server(serve + "".join(flags.values())) as base:
            wanted = list(alone)
            together = all_at_once([lambda k=k: stream(base, *k) for k in wanted])
    good = True
    for key, result in zip(wanted, together):
        same = not isinstance(result, Exception) and result[0] == alone[key]
        if not same:
            print(f"FAIL {key}\n  alone    {alone[key]!r}\n  together {result!r}")
        good &= same
    texts = [tuple(alone[name, q] for q in questions) for name in [*names, base_name]]
    if len(set(texts)) != len(texts):
        print("FAIL an adapter does not change the answers")
        good = False
    print(f"{len(names)} adapters and the base, {len(wanted)} streams at once: "
          f"{'each as when served alone' if good else 'differ'}")
    return good


def main():
    quarry, index, *parts = sys.argv[1:]
    checks = {"streams": check_streams, "adapters": check_adapters}
    results = [checks[part](quarry, index) for part in parts or checks]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
