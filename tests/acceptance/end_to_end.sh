#!/usr/bin/env bash
# Is a generator better tuned together with the query encoder than alone? Tunes both ways with every SEED, by RAG-Sequence
# over 5 passages of an index of SQuAD train paragraphs, from the default adapter, the same questions and steps. Then dense
# search over an index of all paragraphs: R@1 and R@5 of every dev question, EM and F1 of ANSWERS of them drawn with seed 1
# (3 passages in one prompt, or TOP_K), and what the end-to-end run gains over the generator's, the mean over the seeds,
# with 95 % bootstrap intervals over questions; the same of both over the default adapter. Fails only when a run does, or when R@5
# does not rise.
#   tests/acceptance/end_to_end.sh QUARRY DATA TRAIN_INDEX INDEX [STEPS [SEEDS [ANSWERS]]]
# TRAIN_INDEX: `quarry index build train.idx DATA/squad11/train.passages.*.jsonl`; INDEX: of *.passages*.jsonl.
# Default: 30 steps of 16 questions, seeds "1 2 3", 1000 answers; a GPU answers where there is one.
set -euo pipefail

usage="usage: end_to_end.sh QUARRY DATA TRAIN_INDEX INDEX [STEPS [SEEDS [ANSWERS]]]"
here=$(dirname "$(realpath "$0")")
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
train_index=$(realpath "${3:?$usage}")
index=$(realpath "${4:?$usage}")
steps=${5:-30}
read -ra seeds <<<"${6:-1 2 3}"
answers=${7:-1000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

questions=$data/squad11/dev.questions.jsonl
find_passages() { # NAME [options]
  local name=$1
  shift
  "$quarry" --quiet eval retrieval "$index" "$questions" --mode dense --output "$work/$name.found.jsonl" "$@" >/dev/null
}
answer() { # NAME ADAPTER [options]
  local name=$1 adapter=$2
  shift 2
  "$quarry" --quiet eval answers "$questions" --sample "$answers" --index "$index" --mode dense \
    --top-k "${TOP_K:-3}" --max-tokens 40 --adapter "$adapter" --output "$work/$name.answers.json" "$@" >/dev/null
}
start=$here/../../data/adapters/smollm2-135m-instruct-qa
find_passages default
answer default "$start"
for seed in "${seeds[@]}"; do
  for trained in generator both; do
    "$quarry" --quiet finetune --recipe rag-sequence --train "$data"/squad11/train.questions.*.jsonl \
      --set data.squad_passages="$data/squad11" --set data.max_examples=20000 --index "$train_index" --top-k 5 \
      --max-steps "$steps" --batch-size 16 --seed "$seed" --set rag.train="$trained" --set adapter.start_from="$start" \
      --learning-rate 1e-4 --set query_encoder.learning_rate=1e-3 --out "$work/run.$trained.$seed" >/dev/null
  done
  ln -s default.found.jsonl "$work/generator.$seed.found.jsonl" # its questions are embedded as ever
  answer "generator.$seed" "$work/run.generator.$seed/last"
  encoder=(--query-adapter "$work/run.both.$seed/last-query-encoder")
  find_passages "both.$seed" "${encoder[@]}"
  answer "both.$seed" "$work/run.both.$seed/last" "${encoder[@]}"
done

gains() { # TITLE MUST BEFORE:AFTER...
  python3 "$here/paired_gains.py" "$work" "$questions" "$@"
}
gains "the generator alone over the default adapter" none "${seeds[@]/#/default:generator.}"
gains "end to end over the default adapter" R@5 "${seeds[@]/#/default:both.}"
pairs=()
for seed in "${seeds[@]}"; do pairs+=("generator.$seed:both.$seed"); done
gains "end to end over the generator alone" R@5 "${pairs[@]}"
