#!/usr/bin/env bash
# Quality of answers, through the program: 1,000 SQuAD dev questions drawn with seed 1, greedy.
#   gold    each with its own paragraph
#   forced  the same, "not in the documents" forbidden: what saying it costs questions that have an
#           answer
#   open    over an index of all 20,963 paragraphs, the three best passages
#   absent  200 of them over a copy of that index without their paragraphs: the share that is told
#           that the documents do not hold the answer
#   tests/acceptance/answers.sh QUARRY DATA INDEX [ADAPTER [N]]
# INDEX is made by retrieval.sh (its folder squad). ADAPTER: a folder, a name or none; default: the
# one that is installed.
set -euo pipefail

usage="usage: answers.sh QUARRY DATA INDEX [ADAPTER [N]]"
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
index=$(realpath "${3:?$usage}")
adapter=(${4:+--adapter "$4"})
count=${5:-1000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$data/squad11/dev.questions.jsonl" "$work" "$count" <<'PYTHON'
import json
import pathlib
import random
import sys

rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
work = pathlib.Path(sys.argv[2])
sample = random.Random(1).sample(rows, int(sys.argv[3]))
few = sample[:max(1, len(sample) // 5)]
for name, part in (("sample", sample), ("absent", few)):
    (work / f"{name}.questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
(work / "absent.pids").write_text("".join(sorted({row["pid"] + "\n" for row in few})))
PYTHON
ln -s "$data/squad11/dev.passages.jsonl" "$work/dev.passages.jsonl"

ask() { # NAME QUESTIONS [options]
  local name=$1 questions=$2
  shift 2
  "$quarry" --quiet eval answers "$work/$questions.questions.jsonl" --max-tokens 40 "${adapter[@]}" "$@" \
    --output "$work/$name.answers.json" --json >"$work/$name.json"
}
ask gold sample --passages gold

# Only what was refused changes when refusing is forbidden.
python3 - "$work" <<'PYTHON'
import json
import pathlib
import sys

work = pathlib.Path(sys.argv[1])
answers = json.loads((work / "gold.answers.json").read_text())
refused = {qid for qid, answer in answers.items() if answer.strip() == "The documents do not hold the answer."}
with open(work / "refused.questions.jsonl", "w", encoding="utf-8") as out:
    for line in open(work / "sample.questions.jsonl", encoding="utf-8"):
        if json.loads(line)["qid"] in refused:
            out.write(line)
PYTHON
cp "$work/gold.json" "$work/forced.json"
if [ -s "$work/refused.questions.jsonl" ]; then
  ask again refused --passages gold --refusal-bias=-inf
  python3 -c 'import json, sys
print(json.dumps(json.load(open(sys.argv[1])) | json.load(open(sys.argv[2]))))' \
    "$work/gold.answers.json" "$work/again.answers.json" >"$work/forced.answers.json"
  "$quarry" --quiet eval answers "$work/sample.questions.jsonl" --predictions "$work/forced.answers.json" --json >"$work/forced.json"
fi
ask open sample --index "$index" --top-k 3
cp -r "$index" "$work/without.idx"
sed "s|^|$data/squad11/dev.passages.jsonl#|" "$work/absent.pids" | xargs -d '\n' "$quarry" --quiet index rm "$work/without.idx"
ask absent absent --index "$work/without.idx" --top-k 3

python3 - "$work" <<'PYTHON'
import json
import pathlib
import sys

for name in ("gold", "forced", "open", "absent"):
    report = json.loads((pathlib.Path(sys.argv[1]) / f"{name}.json").read_text())
    figures = "  ".join(f"{label} {report[key]['mean']:.1f} [{report[key]['low']:.1f}, {report[key]['high']:.1f}]"
                        for label, key in (("EM", "em"), ("F1", "f1"), ("not in the documents", "not_in_documents")))
    print(f"{name:7} {report['questions']} questions  {figures}")
PYTHON
