"""What one system gains over another, question by question: for query_encoder.sh and end_to_end.sh.

  python paired_gains.py FOLDER QUESTIONS TITLE MUST BEFORE:AFTER...

FOLDER has NAME.found.jsonl (`quarry eval retrieval --output`) and NAME.answers.json (`quarry eval answers --output`), each
where it was made. Prints R@1, R@5, EM and F1 of every system, then the mean gain over the pairs with its 95 % interval of a
bootstrap over questions, and that of each pair. Fails when the lower end of MUST's ("R@5", or "none") reaches 0.
"""
import collections
import json
import pathlib
import random
import re
import string
import sys


def normalize(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer, right):
    found, wanted = normalize(answer).split(), normalize(right).split()
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def outcomes(folder, name, gold):
    """Metric -> question id -> 0 to 100."""
    result = collections.defaultdict(dict)
    found = folder / f"{name}.found.jsonl"
    for row in map(json.loads, open(found, encoding="utf-8")) if found.exists() else ():
        for k in (1, 5):
            result[f"R@{k}"][row["qid"]] = 100.0 * (0 < (row["first_rank"] or 0) <= k)
    answers = folder / f"{name}.answers.json"
    for qid, answer in json.loads(answers.read_text()).items() if answers.exists() else ():
        result["EM"][qid] = 100.0 * any(normalize(answer) == normalize(right) for right in gold[qid])
        result["F1"][qid] = 100.0 * max(f1(answer, right) for right in gold[qid])
    return result


def mean(values):
    return sum(values) / len(values)


def main(folder, questions, title, must, *pairs):
    gold = {row["qid"]: row["answers"] for row in map(json.loads, open(questions, encoding="utf-8"))}
    pairs = [pair.split(":") for pair in pairs]
    systems = {name: outcomes(pathlib.Path(folder), name, gold) for pair in pairs for name in pair}
    print(title)
    for name, metrics in systems.items():
        print(f"{name:16}" + "  ".join(f"{key} {mean(list(rows.values())):.1f}" for key, rows in metrics.items()))
    holds = True
    for key in ("R@1", "R@5", "EM", "F1"):
        rows = [(systems[before][key], systems[after][key]) for before, after in pairs]
        qids = sorted(set.intersection(*(set(part) for pair in rows for part in pair)))
        if not qids:
            continue
        gains = [mean([after[qid] - before[qid] for before, after in rows]) for qid in qids]
        draws = random.Random(1)
        means = sorted(mean(draws.choices(gains, k=len(gains))) for _ in range(1000))
        low, high = means[25], means[974]
        each = " ".join(f"{mean([after[qid] - before[qid] for qid in qids]):+.2f}" for before, after in rows)
        print(f"{key} {mean(gains):+.2f} [{low:+.2f}, {high:+.2f}] of {len(gains)} questions ({each})")
        holds = holds and (key != must or low > 0.0)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
