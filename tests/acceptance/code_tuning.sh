#!/usr/bin/env bash
# Instruction tuning on code: the default model learns ROWS rows {"instruction", "input", "output"} with recipe
# causal-lm, and writes HELD_OUT functions that it has not seen. The rows are functions of the standard library of the
# python3 that runs this, made anew each time (see code_tuning.py; Python's own licence, PSF). Prints the loss of the
# first and last steps, and how many of the held-out prompts get valid Python from base and adapter; fails when the loss
# does not fall or the adapter is not valid more often.
#   tests/acceptance/code_tuning.sh QUARRY [STEPS [ROWS [HELD_OUT]]]
set -euo pipefail

here=$(dirname "$(realpath "$0")")
quarry=$(realpath "${1:?usage: code_tuning.sh QUARRY [STEPS [ROWS [HELD_OUT]]]}")
steps=${2:-120}
rows=${3:-1000}
held_out=${4:-50}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 "$here/code_tuning.py" rows "$work" "$rows" "$held_out"
"$quarry" --quiet finetune --recipe causal-lm --train "$work/train.jsonl" --max-steps "$steps" --batch-size 16 \
  --out "$work/run" >/dev/null

write() { # NAME [options]: into the folder NAME, a file for each prompt
  local name=$1
  shift
  for prompt in "$work"/prompts/*.txt; do
    "$quarry" --quiet generate - --max-tokens 160 "$@" <"$prompt" >"$work/$name/$(basename "$prompt")"
  done
}
mkdir "$work/base" "$work/adapter"
write base
write adapter --adapter "$work/run/last"
python3 "$here/code_tuning.py" report "$work"
