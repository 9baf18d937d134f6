"""Adapters change what a model does, per request and while it serves.

  python styles.py QUARRY SQUAD_FOLDER

Trains two adapters with `quarry finetune`, both from the default one, on the same questions of
SQuAD's train set: LABELLED answers "Answer: X", MARKED "<<X>>". Then
  1. serves both together and asks dev questions, over an index of their passages, of LABELLED, MARKED
     and the default adapter in turn: each reply has to have its adapter's style;
  2. swaps the two under one name while 16 clients ask: no request may fail, and no reply may mix the
     styles.
Needs nothing but Python; seven minutes on two cores. Exits 1 when a limit is missed.
"""
import glob
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from server_process import running_server  # noqa: E402

QUARRY, SQUAD = sys.argv[1:3]
DEFAULT = "smollm2-135m-instruct-qa"
STYLES = {"labelled": lambda answer: f"Answer: {answer}",
          "marked": lambda answer: f"<<{answer}>>"}
ROWS = 160
QUESTIONS = 120
OBEYED = 0.95  # of the replies
NEVER = -100  # refusal_bias: these questions have answers. Bans the first token of the refusal, "The"
CLIENTS = 16
SWAPS = 24


def read(pattern):
    for path in sorted(glob.glob(os.path.join(SQUAD, pattern))):
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def rows(part, count, step):
    """Question, answer and passage of every step-th question that fits a short prompt."""
    passages = {p["pid"]: p for p in read(f"{part}.passages*.jsonl")}
    found = []
    for row in list(read(f"{part}.questions*.jsonl"))[::step]:
        passage = passages[row["pid"]]
        answer = row["answers"][0]
        if len(passage["text"]) < 700:
            found.append({"question": row["question"], "answer": answer, "title": passage["title"],
                          "context": passage["text"]})
    return found[:count]


def train(name, style, folder):
    data = os.path.join(folder, f"{name}.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        for row in rows("train", ROWS, 97):
            file.write(json.dumps({"question": row["question"], "answer": style(row["answer"]),
                                   "context": row["context"]}) + "\n")
    home = os.environ.get("QUARRY_HOME", os.path.expanduser("~/.local/share/quarry"))
    subprocess.run([QUARRY, "--quiet", "finetune", "--train", data,
                    "--out", os.path.join(folder, f"run-{name}"),
                    "--epochs", "2", "--batch-size", "4", "--learning-rate", "1e-3",
                    "--set", f"adapter.start_from={home}/adapters/{DEFAULT}"], check=True)
    return os.path.join(folder, f"run-{name}", "last")


def make_index(folder, asked):
    passages = os.path.join(folder, "asked.passages.jsonl")
    with open(passages, "w", encoding="utf-8") as file:
        for pid, row in enumerate(asked):
            file.write(json.dumps({"pid": f"p{pid}", "title": row["title"], "text": row["context"]}) + "\n")
    index = os.path.join(folder, "asked.idx")
    subprocess.run([QUARRY, "--quiet", "index", "build", index, passages], check=True)
    return index


def post(base, path, body):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    if reply.status not in (200, 201):
        raise RuntimeError(f"status {reply.status}: {text[:300]}")
    return json.loads(text)


def ask(base, adapter, row):
    body = {"model": adapter, "temperature": 0, "max_tokens": 40,
            "retrieval": {"top_k": 1, "min_relevance": 0, "refusal_bias": NEVER},
            "messages": [{"role": "user", "content": row["question"]}]}
    return post(base, "/v1/chat/completions", body)["choices"][0]["message"]["content"]


def style_of(reply):
    labelled, marked = "Answer: " in reply, "<<" in reply or ">>" in reply
    if labelled and marked:
        return "mixed"
    if reply.startswith("Answer: "):
        return "labelled"
    return "marked" if reply.startswith("<<") and reply.endswith(">>") else "plain"


def check_obeyed(base, asked):
    good = True
    for name in [*STYLES, DEFAULT]:
        wanted = name if name in STYLES else "plain"
        replies = [ask(base, name, row) for row in asked]
        missed = [r for r in replies if style_of(r) != wanted]
        obeyed = len(replies) - len(missed)
        print(f"{name}: {obeyed} of {len(replies)} replies {wanted}; first: {replies[0]!r}; "
              f"not {wanted}: {missed}")
        good &= obeyed >= OBEYED * len(replies)
    return good


def check_swaps(base, folders, asked):
    stop, failures, seen, lock = threading.Event(), [], {}, threading.Lock()

    def client(number):
        turn = number
        while not stop.is_set():
            try:
                style = style_of(ask(base, "live", asked[turn % len(asked)]))
            except Exception as error:  # a failed request is what this test looks for
                style = "failed"
                failures.append(str(error))
            with lock:
                seen[style] = seen.get(style, 0) + 1
            turn += 1

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for swap in range(SWAPS):
        time.sleep(1)
        path = folders[list(STYLES)[(swap + 1) % 2]]
        post(base, "/v1/adapters", {"name": "live", "path": path, "replace": True})
    stop.set()
    for thread in threads:
        thread.join()
    for reason in failures[:3]:
        print("FAIL", reason)
    total = sum(seen.values())
    print(f"{SWAPS} swaps under {CLIENTS} clients, {total} replies: {seen}")
    return (not failures and seen.get("mixed", 0) == 0 and min(seen.get(s, 0) for s in STYLES) > 0
            and seen.get("plain", 0) <= (1 - OBEYED) * total)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: train(name, style, folder) for name, style in STYLES.items()}
        asked = rows("dev", QUESTIONS, 29)
        index = make_index(folder, asked)
        flags = " ".join(f"--adapter {name}={path}" for name, path in folders.items())
        with running_server(f"{QUARRY} serve {index} --port {{port}} {flags} "
                            f"--adapter live={folders['labelled']} --adapter-root {folder}") as base:
            results = [check_obeyed(base, asked), check_swaps(base, folders, asked)]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
