#!/usr/bin/env bash
# One model, two indexes whose facts differ: answers have to follow the index, as in "index hot-swapping" of Lewis et al.
# 2020 (arXiv:2005.11401). FACTS invented towns have a document each, 2 to 4 sentences among which one names the mayor;
# the second index holds the same documents with the same mayors, each in another town. Every index is asked who the
# mayors are, and its answers are scored against the facts of both. Prints the exact matches of the four pairs; fails
# when those of the matching pairs are not at least 5 times those of the crossed ones.
#   tests/acceptance/hot_swap.sh QUARRY [DECODE [ADAPTER [FACTS]]]
# DECODE: concat (default), rag-sequence or rag-token. ADAPTER: a folder, a name or none; default: the one in the
# repository. FACTS: up to 80, the default.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
quarry=$(realpath "${1:?usage: hot_swap.sh QUARRY [DECODE [ADAPTER [FACTS]]]}")
decode=${2:-concat}
adapter=${3:-$here/../../data/adapters/smollm2-135m-instruct-qa}
facts=${4:-80}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 "$here/hot_swap.py" facts "$work" "$facts"
for index in first second; do
  "$quarry" --quiet index build "$work/$index.idx" "$work/$index.passages.jsonl" >/dev/null
  "$quarry" --quiet eval answers "$work/$index.questions.jsonl" --index "$work/$index.idx" --mode dense --decode "$decode" \
    --max-tokens 24 --refusal-bias=-inf --adapter "$adapter" --output "$work/$index.answers.json" --json >/dev/null
  for asked in first second; do
    "$quarry" --quiet eval answers "$work/$asked.questions.jsonl" --predictions "$work/$index.answers.json" --json \
      >"$work/$index.$asked.json"
  done
done
python3 "$here/hot_swap.py" report "$work"
