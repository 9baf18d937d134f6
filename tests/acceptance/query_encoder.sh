#!/usr/bin/env bash
# Does a query encoder that was trained find and answer more than the one it came from? Trains it with every SEED on SQuAD
# train questions over an index of train paragraphs, by RECIPE:
#   contrastive   InfoNCE with mined hard negatives; no generator
#   rag-sequence  the marginal likelihood under the frozen default model and adapter, of 5 passages
# Then dense search over an index of all paragraphs: R@1 and R@5 of every dev question, EM of ANSWERS of them drawn with seed
# 1 (the default adapter, 3 passages or TOP_K), and what training added, the mean over the seeds, with paired 95 % bootstrap
# intervals over questions. Fails when that of R@5 reaches 0.
#   tests/acceptance/query_encoder.sh QUARRY DATA TRAIN_INDEX INDEX [RECIPE [STEPS [SEEDS [ANSWERS]]]]
# TRAIN_INDEX: `quarry index build train.idx DATA/squad11/train.passages.*.jsonl`; INDEX: of *.passages*.jsonl.
# Default: contrastive, 100 steps of 32 questions, seeds "1 2 3", 1000 answers; 0: none.
set -euo pipefail

usage="usage: query_encoder.sh QUARRY DATA TRAIN_INDEX INDEX [RECIPE [STEPS [SEEDS [ANSWERS]]]]"
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
train_index=$(realpath "${3:?$usage}")
index=$(realpath "${4:?$usage}")
recipe=${5:-contrastive}
steps=${6:-100}
read -ra seeds <<<"${7:-1 2 3}"
answers=${8:-1000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

start="$(dirname "$(realpath "$0")")/../../data/adapters/smollm2-135m-instruct-qa"
case $recipe in
  contrastive) options=(--batch-size 32 --set query_encoder.learning_rate=5e-4) ;;
  rag-sequence) options=(--batch-size 16 --top-k 5 --set rag.train=query-encoder --set adapter.start_from="$start"
    --set query_encoder.learning_rate=1e-3 --set data.max_examples=20000) ;;
  *) echo "RECIPE is $recipe, wanted contrastive or rag-sequence" >&2; exit 2 ;;
esac

measure() { # NAME [options of both commands]
  local name=$1
  shift
  "$quarry" --quiet eval retrieval "$index" "$data/squad11/dev.questions.jsonl" --mode dense \
    --output "$work/$name.found.jsonl" "$@" >/dev/null
  [ "$answers" -eq 0 ] || "$quarry" --quiet eval answers "$data/squad11/dev.questions.jsonl" --sample "$answers" --index "$index" \
    --mode dense --top-k "${TOP_K:-3}" --max-tokens 40 --precision fast8 --output "$work/$name.answers.json" "$@" >/dev/null
}
measure frozen
for seed in "${seeds[@]}"; do
  "$quarry" --quiet finetune --recipe "$recipe" --train "$data"/squad11/train.questions.*.jsonl \
    --set data.squad_passages="$data/squad11" --index "$train_index" --max-steps "$steps" --seed "$seed" "${options[@]}" \
    --out "$work/run.$seed" >/dev/null
  measure "$seed" --query-adapter "$work/run.$seed/last-query-encoder"
done

python3 "$(dirname "$(realpath "$0")")/paired_gains.py" "$work" "$data/squad11/dev.questions.jsonl" \
  "$recipe, $steps steps: what a trained query encoder gains" R@5 "${seeds[@]/#/frozen:}"
