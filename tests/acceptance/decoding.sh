#!/usr/bin/env bash
# What an answer owes to how passages are decoded: COUNT SQuAD dev questions drawn with seed 1 over an index of all paragraphs,
# dense search, the default adapter. Five passages in one prompt, five in one each by RAG-Sequence and by RAG-Token (the same
# passages, so nearly the same tokens to read), and three in one prompt as `ask` is mostly used. Prints EM, F1, the share of
# "not in the documents" and seconds a question, and what latent passages gain over one prompt, with 95 % bootstrap intervals
# over questions. Fails only when a run does.
#   tests/acceptance/decoding.sh QUARRY DATA INDEX [COUNT [options of `eval answers`]]
# INDEX: `quarry index build squad.idx DATA/squad11/*.passages*.jsonl`. Default: 400 questions.
set -euo pipefail

usage="usage: decoding.sh QUARRY DATA INDEX [COUNT [options]]"
here=$(dirname "$(realpath "$0")")
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
index=$(realpath "${3:?$usage}")
count=${4:-400}
shift $(($# < 4 ? $# : 4))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

questions=$data/squad11/dev.questions.jsonl
adapter=$here/../../data/adapters/smollm2-135m-instruct-qa
for system in concat:3 concat:5 rag-sequence:5 rag-token:5; do
  name=${system/:/-}
  begin=$SECONDS
  "$quarry" --quiet eval answers "$questions" --sample "$count" --index "$index" --mode dense --max-tokens 24 \
    --adapter "$adapter" --decode "${system%:*}" --top-k "${system#*:}" --output "$work/$name.answers.json" "$@" >"$work/$name.txt"
  echo "$name: $((SECONDS - begin)) s" "$(grep "not in the documents" "$work/$name.txt")"
done
gains() { # TITLE BEFORE:AFTER
  python3 "$here/paired_gains.py" "$work" "$questions" "$1" none "$2"
}
gains "RAG-Sequence over five passages in one prompt" concat-5:rag-sequence-5
gains "RAG-Token over five passages in one prompt" concat-5:rag-token-5
gains "RAG-Sequence over three passages in one prompt" concat-3:rag-sequence-5
