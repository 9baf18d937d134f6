"""End-to-end RAG training of the same models on the same questions and passages: `quarry finetune` and PyTorch with PEFT.

  OMP_NUM_THREADS=2 python rag_vs_pytorch.py QUARRY MODEL.gguf EMBEDDER_FOLDER SQUAD_FOLDER [--rounds 5] [--all-logits]

RAG-Sequence (Lewis et al. 2020, arXiv:2005.11401) over the 5 nearest passages: LoRA r=16 on every Linear of the generator
and of the query encoder, AdamW. The generator starts from the repository's adapter, the query encoder from a fresh one.
The index holds the first paragraphs of SQuAD's train set; questions are drawn from theirs. A round is one batch: both
sides take --steps steps on it, each in a process of its own, one after the other; the first step warms up. The learning
rate is small, so that all steps do the same work. Quarry's time holds its search; the peer is given passages and vectors.

The peer reads all passages of a batch in one pass, keeps that, and goes back through it, in float32 or bfloat16, whichever
is faster in a first run of each. It computes the logits of the targets alone; --all-logits: of every token, as
RagSequenceForGeneration of transformers does, which takes more time and memory.

Exits 1 when Quarry is not --wanted times as fast, the losses of the first steps are more than 3 % apart in the mean or 10 %
in a batch (some 13 target tokens, which both sides round in their own way: 8-bit products, bfloat16), memory with 5
passages is more than 1.3 times that with one (batches of 16 questions, so that passes are full), or more than 1,536 MB.
Made with torch 2.15, transformers 5.23, peft 0.21.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

PASSAGES = 5
TEMPERATURE = 0.05  # rag.temperature
LEARNING_RATE, QUERY_LEARNING_RATE = 1e-6, 1e-7
SYSTEM = "Answer from the numbered passages only. If they do not hold the answer, say that the documents do not hold it."
QUESTION = "Using the text above, answer this question in a few words: "
HERE = os.path.dirname(os.path.abspath(__file__))
ADAPTER = os.path.join(HERE, "..", "..", "..", "data", "adapters", "smollm2-135m-instruct-qa")


# The peer.


def load_generator(model_path, adapter, dtype):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    files = {"pretrained_model_name_or_path": os.path.dirname(model_path), "gguf_file": os.path.basename(model_path)}
    model = AutoModelForCausalLM.from_pretrained(dtype=dtype, **files)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True), AutoTokenizer.from_pretrained(**files)


def load_query_encoder(folder, dtype):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer
    model = AutoModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    return get_peft_model(model, config), AutoTokenizer.from_pretrained(folder)


def embed(model, tokenizer, texts):
    """[len(texts), dim], means of the tokens' vectors, of length 1."""
    import torch
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state.float()
    mask = inputs.attention_mask.unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def tokens_of(tokenizer, row, passage):
    """Prompt and target as Quarry renders them."""
    user = f"[1] {passage['title']}\n{passage['text']}\n\n{QUESTION}{row['question']}"
    prompt = tokenizer.apply_chat_template([{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
                                           add_generation_prompt=True, tokenize=False)
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    return encode(prompt), encode(row["answers"][0]) + [tokenizer.eos_token_id]


def token_losses(model, sequences, all_logits):
    """[sequences]: -log p(target) of each (prompt, target), all in one pass. Padded on the left: targets end together."""
    import torch
    longest = max(len(prompt) + len(target) for prompt, target in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (prompt, target) in enumerate(sequences):
        ids[i, -len(prompt) - len(target):] = torch.tensor(prompt + target)
        mask[i, -len(prompt) - len(target):] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    most = max(len(target) for _, target in sequences)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False,
                   logits_to_keep=0 if all_logits else most + 1).logits
    if all_logits:
        logits = logits.float().log_softmax(-1)
    losses = []
    for i, (_, target) in enumerate(sequences):
        of_targets = logits[i, -len(target) - 1:-1].float()
        losses.append(torch.nn.functional.cross_entropy(of_targets, torch.tensor(target), reduction="sum"))
    return torch.stack(losses)


def run_peer(arguments):
    import torch
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.peer)
    generator, tokenizer = load_generator(arguments.model, arguments.adapter, dtype)
    encoder, encoder_tokenizer = load_query_encoder(arguments.embedder, dtype)
    with open(arguments.batch, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with torch.no_grad():  # stands for the index: passages are not embedded anew
        vectors = [embed(encoder, encoder_tokenizer, [f"{passage['title']}\n{passage['text']}" for passage in row["passages"]])
                   for row in rows]
    parts = [[p for p in model.parameters() if p.requires_grad] for model in (generator, encoder)]
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, (LEARNING_RATE, QUERY_LEARNING_RATE))]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    generator.train()
    encoder.eval()  # without the dropout of its configuration, as Quarry
    for _ in range(arguments.steps):
        start = time.perf_counter()
        sequences = [tokens_of(tokenizer, row, passage) for row in rows for passage in row["passages"]]
        losses = token_losses(generator, sequences, arguments.all_logits).split([len(row["passages"]) for row in rows])
        queries = embed(encoder, encoder_tokenizer, [row["question"] for row in rows])
        total, targets = 0.0, 0
        for row, query, passages, negative in zip(rows, queries, vectors, losses):
            prior = (passages @ query / TEMPERATURE).log_softmax(0)
            total = total - torch.logsumexp(prior - negative, 0)
            targets += len(tokens_of(tokenizer, row, row["passages"][0])[1])
        loss = total / targets
        loss.backward()
        for part in parts:
            torch.nn.utils.clip_grad_norm_(part, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        print(json.dumps({"loss": loss.item(), "examples_per_second": len(rows) / seconds}), flush=True)


# Both, from outside.


def run(command):
    """Standard output, and peak memory in MB: of the child alone, as this process stays small."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} ended with status {status}\n{errors.read()}")
    return output, usage.ru_maxrss / 1024


def summary(rows, peak_mb):
    rates = [row["examples_per_second"] for row in rows]
    return {"loss": rows[0]["loss"], "rate": statistics.median(rates[1:] or rates), "peak_mb": peak_mb}


def run_quarry(arguments, work, batch, questions, steps, top_k=PASSAGES):
    out = os.path.join(work, "run")
    _, peak_mb = run([arguments.quarry, "--quiet", "--threads", os.environ.get("OMP_NUM_THREADS", "2"), "finetune",
                      "--recipe", "rag-sequence", "--model", arguments.model, "--train", batch, "--index",
                      os.path.join(work, "index"), "--top-k", str(top_k), "--batch-size", str(questions), "--max-steps",
                      str(steps), "--learning-rate", str(LEARNING_RATE), "--set", f"adapter.start_from={arguments.adapter}",
                      "--set", f"query_encoder.learning_rate={QUERY_LEARNING_RATE}", "--set", "training.warmup_ratio=0",
                      "--set", "training.save_every=0", "--out", out])
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if '"train"' in line]
    subprocess.run(["rm", "-r", out], check=True)
    return summary([{"loss": row["loss"], "examples_per_second": questions * row["tokens_per_second"] / row["tokens"]}
                    for row in rows], peak_mb)


def run_pytorch(arguments, batch, dtype, steps):
    command = [sys.executable, __file__, arguments.quarry, arguments.model, arguments.embedder, arguments.squad,
               "--peer", dtype, "--batch", batch, "--steps", str(steps), "--adapter", arguments.adapter]
    output, peak_mb = run(command + (["--all-logits"] if arguments.all_logits else []))
    return summary([json.loads(line) for line in output.splitlines() if line.startswith("{")], peak_mb)


def first_lines(path, count):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count))]


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")
    return path


def make_index(arguments, work):
    """The index, and the questions of its paragraphs in random order."""
    passages = first_lines(os.path.join(arguments.squad, "train.passages.00.jsonl"), arguments.index_passages)
    path = write_lines(os.path.join(work, "index.passages.jsonl"), passages)
    run([arguments.quarry, "--quiet", "index", "build", os.path.join(work, "index"), path, "--embedder", arguments.embedder])
    known = {passage["pid"] for passage in passages}
    questions = [row for row in first_lines(os.path.join(arguments.squad, "train.questions.00.jsonl"), 1 << 30)
                 if row["pid"] in known and row["answers"]]
    random.Random(1).shuffle(questions)
    return questions


def with_passages(arguments, work, row):
    found, _ = run([arguments.quarry, "--quiet", "search", os.path.join(work, "index"), row["question"], "--mode", "dense",
                    "--top-k", str(PASSAGES), "--json"])
    return dict(row, passages=[{"title": hit["title"], "text": hit["quote"]} for hit in json.loads(found)["data"]])


def report(name, rounds):
    rates = " ".join(f"{r['rate']:.3f}" for r in rounds)
    losses = " ".join(f"{r['loss']:.4f}" for r in rounds)
    print(f"{name}  {rates} examples/s, peak {max(r['peak_mb'] for r in rounds):.0f} MB, losses of the first step {losses}")


def compare(arguments, work):
    questions = make_index(arguments, work)
    ours, theirs, dtype = [], [], None
    for number in range(arguments.rounds):
        rows = [with_passages(arguments, work, row)
                for row in questions[number * arguments.questions:(number + 1) * arguments.questions]]
        batch = write_lines(os.path.join(work, "batch.questions.jsonl"), rows)
        if dtype is None:
            tried = {name: run_pytorch(arguments, batch, name, 2) for name in ("float32", "bfloat16")}
            dtype = max(tried, key=lambda name: tried[name]["rate"])
            print("PyTorch: " + ", ".join(f"{name} {tried[name]['rate']:.3f} examples/s" for name in tried), flush=True)
        ours.append(run_quarry(arguments, work, batch, arguments.questions, arguments.steps))
        theirs.append(run_pytorch(arguments, batch, dtype, arguments.steps))
    report("Quarry ", ours)
    report("PyTorch", theirs)
    ratio = statistics.median(a["rate"] / b["rate"] for a, b in zip(ours, theirs))
    apart = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours, theirs))
    means = abs(sum(a["loss"] for a in ours) / sum(b["loss"] for b in theirs) - 1)
    print(f"ratio {ratio:.2f} in {dtype}; losses at most {100 * apart:.2f} % apart, their means {100 * means:.2f} %; "
          f"{max(a['peak_mb'] for a in ours) / max(b['peak_mb'] for b in theirs):.3f} of the memory")
    batch = write_lines(os.path.join(work, "batch.questions.jsonl"), questions[-16:])
    five, one = (run_quarry(arguments, work, batch, 16, 1, top_k)["peak_mb"] for top_k in (PASSAGES, 1))
    print(f"Quarry, 16 questions a step: peak {five:.0f} MB with {PASSAGES} passages, {one:.0f} MB with one, "
          f"ratio {five / one:.2f}")
    return ratio >= arguments.wanted and apart < 0.1 and means < 0.03 and five <= 1.3 * one and five < 1536


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quarry")
    parser.add_argument("model")
    parser.add_argument("embedder")
    parser.add_argument("squad")
    parser.add_argument("--adapter", default=os.path.normpath(ADAPTER))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--questions", type=int, default=2, help="of a batch: two take the peer some 10 GB in float32")
    parser.add_argument("--index-passages", type=int, default=1000)
    parser.add_argument("--all-logits", action="store_true")
    parser.add_argument("--wanted", type=float, default=3.0)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments)
        return
    with tempfile.TemporaryDirectory() as work:
        good = compare(arguments, work)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
