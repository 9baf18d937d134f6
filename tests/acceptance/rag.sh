#!/usr/bin/env bash
# End-to-end training through the program, small: STEPS steps of RAG-Sequence on SQuAD train questions over
# an index of train paragraphs, from the default adapter. Prints the loss of the first and last
# steps, peak memory, and EM and R@5 on held-out questions before and after; fails when the loss does not
# fall or memory passes 1.5 GB.
#   tests/acceptance/rag.sh QUARRY DATA INDEX [STEPS [HELD_OUT]]
# INDEX: `quarry index build train.idx DATA/squad11/train.passages.*.jsonl`.
set -euo pipefail

usage="usage: rag.sh QUARRY DATA INDEX [STEPS [HELD_OUT]]"
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
index=$(realpath "${3:?$usage}")
steps=${4:-100}
held_out=${5:-200}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$data/squad11" "$work" "$held_out" <<'PYTHON'
import json
import pathlib
import random
import sys

rows = [json.loads(line) for path in sorted(pathlib.Path(sys.argv[1]).glob("train.questions.*.jsonl"))
        for line in open(path, encoding="utf-8")]
random.Random(1).shuffle(rows)
held = int(sys.argv[3])
for name, part in (("held", rows[:held]), ("train", rows[held:])):
    (pathlib.Path(sys.argv[2]) / f"{name}.questions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
PYTHON
for passages in "$data"/squad11/train.passages.*.jsonl; do ln -s "$passages" "$work/"; done

measure() { # NAME [options of both commands]
  local name=$1
  shift
  "$quarry" --quiet eval answers "$work/held.questions.jsonl" --index "$index" --mode dense --top-k 5 \
    --decode rag-sequence --max-tokens 32 --json "${answer_options[@]}" "$@" >"$work/$name.answers.json"
  "$quarry" --quiet eval retrieval "$index" "$work/held.questions.jsonl" --mode dense --json "$@" >"$work/$name.retrieval.json"
}
start="$(dirname "$(realpath "$0")")/../../data/adapters/smollm2-135m-instruct-qa"
answer_options=(--adapter "$start")
measure before
/usr/bin/time -v "$quarry" --quiet finetune --recipe rag-sequence --train "$work/train.questions.jsonl" --index "$index" \
  --top-k 5 --max-steps "$steps" --batch-size 8 --learning-rate 1e-4 --set data.max_examples=20000 \
  --set adapter.start_from="$start" --out "$work/run" 2>"$work/time.txt"
answer_options=(--adapter "$work/run/last")
measure after --query-adapter "$work/run/last-query-encoder"

python3 - "$work" <<'PYTHON'
import json
import pathlib
import sys

work = pathlib.Path(sys.argv[1])
rows = [json.loads(line) for line in open(work / "run" / "metrics.jsonl") if '"train"' in line]
few = max(1, len(rows) // 5)
mean = lambda part, key: sum(row[key] for row in part) / len(part)
first, last = mean(rows[:few], "loss"), mean(rows[-few:], "loss")
peak = next(int(line.split()[-1]) for line in open(work / "time.txt") if "Maximum resident" in line) / 1024
print(f"{len(rows)} steps: loss {first:.4f} -> {last:.4f}, posterior entropy {mean(rows[:few], 'posterior_entropy'):.3f} -> "
      f"{mean(rows[-few:], 'posterior_entropy'):.3f}, peak {peak:.0f} MB")
for name in ("before", "after"):
    answers = json.loads((work / f"{name}.answers.json").read_text())
    metrics = json.loads((work / f"{name}.retrieval.json").read_text())["metrics"]
    print(f"{name:7} EM {answers['em']['mean']:.1f} [{answers['em']['low']:.1f}, {answers['em']['high']:.1f}]  "
          f"R@5 {metrics['R@5']['mean']:.3f}")
sys.exit(0 if last < first and peak < 1536 else 1)
PYTHON
