"""The two sets of facts of hot_swap.sh, and its verdict.

  python hot_swap.py facts FOLDER COUNT    {first,second}.passages.jsonl and .questions.jsonl
  python hot_swap.py report FOLDER         from INDEX.ASKED.json, the scores of an index's answers against a set of facts
"""
import json
import pathlib
import random
import sys

TOWNS = [start + end for end in ("mouth", "holm", "stead", "wick", "brook", "ridge", "moor", "gate")
         for start in ("Alder", "Bran", "Cold", "Dun", "Ever", "Fal", "Grim", "Hart", "Ivel", "Kes")]
FIRST_NAMES = ("Ada", "Bruno", "Clara", "Dario", "Elsa", "Felix", "Greta", "Hugo", "Irene", "Jonas")
LAST_NAMES = ("Abbot", "Brandt", "Calder", "Duarte", "Ekman", "Farkas", "Gruber", "Holm")
TRADES = ("glass", "wool", "timber", "slate", "salt", "paper", "copper", "linen", "rope")
SIGHTS = ("a stone bridge", "an old windmill", "a clock tower", "a covered market", "a botanical garden")
FACTOR = 5  # matching over crossed, at least


def document(town, mayor, draw):
    """2 to 4 sentences, one of which is the fact, in an order that `draw` gives."""
    others = [f"{town} is a town of {draw.randint(3, 90)},000 people that lives on {draw.choice(TRADES)}.",
              f"Visitors of {town} come to see {draw.choice(SIGHTS)} from {draw.randint(1500, 1890)}.",
              f"Its railway station was opened in {draw.randint(1840, 1930)}."]
    sentences = others[:draw.randint(1, 3)]
    sentences.insert(draw.randint(1, len(sentences)), f"The mayor of {town} is {mayor}.")
    return " ".join(sentences)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_facts(folder, count):
    if not 2 <= count <= len(TOWNS):
        sys.exit(f"{count} facts, wanted 2 to {len(TOWNS)}")
    draw = random.Random(1)
    towns = draw.sample(TOWNS, count)
    mayors = draw.sample([f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES], count)
    moved = mayors[1:] + mayors[:1]  # so that no town keeps its mayor
    seeds = [draw.random() for _ in towns]
    for name, of_towns in (("first", mayors), ("second", moved)):
        passages, questions = [], []
        for number, (town, mayor) in enumerate(zip(towns, of_towns)):
            passages.append({"pid": f"t{number}", "title": town, "text": document(town, mayor, random.Random(seeds[number]))})
            questions.append({"qid": f"q{number}", "pid": f"t{number}", "question": f"Who is the mayor of {town}?",
                              "answers": [mayor]})
        write_rows(folder / f"{name}.passages.jsonl", passages)
        write_rows(folder / f"{name}.questions.jsonl", questions)


def report(folder):
    found = {True: 0.0, False: 0.0}  # exact match in percent, the mean of two pairs
    for index in ("first", "second"):
        for asked in ("first", "second"):
            score = json.loads((folder / f"{index}.{asked}.json").read_text(encoding="utf-8"))
            em = score["em"]
            found[index == asked] += em["mean"] / 2
            print(f"{index:6} index, facts of the {asked:6}  EM {em['mean']:.1f} [{em['low']:.1f}, {em['high']:.1f}]  "
                  f"of {score['questions']} questions")
    print(f"matching {found[True]:.1f}, crossed {found[False]:.1f}; wanted at least {FACTOR} times as many")
    return found[True] > 0 and found[True] >= FACTOR * found[False]


if __name__ == "__main__":
    if sys.argv[1:2] == ["facts"] and len(sys.argv) == 4:
        write_facts(pathlib.Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["report"] and len(sys.argv) == 3:
        sys.exit(0 if report(pathlib.Path(sys.argv[2])) else 1)
    else:
        sys.exit(__doc__)
