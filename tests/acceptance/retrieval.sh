#!/usr/bin/env bash
# Retrieval quality on whole real sets, through the program: indexes SQuAD's 20,963 paragraphs and
# SciFact's 5,183 abstracts, asks all 10,570 dev questions and 300 test claims in each mode, and fails
# when hybrid search misses a bar or does not beat both single modes. About half an hour on two cores,
# nearly all of it embedding.
#   tests/acceptance/retrieval.sh build/release/quarry ../shared/data [FOLDER FOR THE INDEXES]
set -euo pipefail

quarry=$(realpath "${1:?usage: retrieval.sh QUARRY DATA [WORK]}")
data=$(realpath "${2:?usage: retrieval.sh QUARRY DATA [WORK]}")
work=${3:-$(mktemp -d)}
mkdir -p "$work"

"$quarry" index build "$work/squad" "$data"/squad11/*.passages*.jsonl
"$quarry" index build "$work/scifact" "$data"/scifact/corpus.*.jsonl
for mode in hybrid lexical dense; do
  "$quarry" eval retrieval "$work/squad" "$data/squad11/dev.questions.jsonl" --mode "$mode" --json \
    >"$work/squad.$mode.json"
  "$quarry" eval retrieval "$work/scifact" "$data/scifact" --mode "$mode" --json \
    >"$work/scifact.$mode.json"
done

python3 - "$work" <<'PYTHON'
import json
import pathlib
import sys

work = pathlib.Path(sys.argv[1])
bars = {"squad": {"R@1": 0.78, "R@5": 0.93, "R@20": 0.975}, "scifact": {"nDCG@10": 0.69}}
failed = 0
for corpus, wanted in bars.items():
    reports = {m: json.loads((work / f"{corpus}.{m}.json").read_text()) for m in ("hybrid", "lexical", "dense")}
    for name, bar in wanted.items():
        mean = {mode: report["metrics"][name]["mean"] for mode, report in reports.items()}
        good = mean["hybrid"] >= bar and mean["hybrid"] > max(mean["lexical"], mean["dense"])
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {corpus} {name}: hybrid {mean['hybrid']:.4f} (wanted {bar}), "
              f"lexical {mean['lexical']:.4f}, dense {mean['dense']:.4f}, {reports['hybrid']['seconds']:.0f} s")
sys.exit(1 if failed else 0)
PYTHON
