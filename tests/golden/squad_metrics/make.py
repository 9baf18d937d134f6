#!/usr/bin/env python3
"""Writes rows.json: predictions and golds with the scores of SQuAD 1.1's evaluation script.

The four scoring functions follow evaluate-v1.1.py's definition with Python's own re, string and
collections (Python 3.11). Texts are made from a fixed word list with seed 11.
"""
import collections
import json
import pathlib
import random
import re
import string

WORDS = ("the The a A an AN theory antenna 1973 $12 U.S. U.S.A. it's “quoted” naïve ÉCOLE Ärger İstanbul "
         "the-end a_b a.b. re-elected (approx.) 3,000 50% & co. x—y 東京 ÅÄÖ\u00a0b tab\there the,an b\u2003c "
         "New York City of and ½ q² l'a the' 'an -a-").split(" ")


def normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(prediction, gold):
    p, g = normalize(prediction).split(), normalize(gold).split()
    same = sum((collections.Counter(p) & collections.Counter(g)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(p), same / len(g)
    return 2 * precision * recall / (precision + recall)


def main():
    rng = random.Random(11)
    text = lambda: rng.choice([" ", "  ", "-"]).join(rng.choices(WORDS, k=rng.randint(0, 6)))
    rows = []
    for _ in range(400):
        prediction = text()
        golds = [text() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.4:
            golds.append(rng.choice(["the ", "", "A "]) + prediction.upper() + rng.choice(["", ".", " York"]))
        rows.append({"prediction": prediction, "golds": golds, "normalized": normalize(prediction),
                     "em": max(float(normalize(prediction) == normalize(g)) for g in golds),
                     "f1": max(f1(prediction, g) for g in golds)})
    path = pathlib.Path(__file__).with_name("rows.json")
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
