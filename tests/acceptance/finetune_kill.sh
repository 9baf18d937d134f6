#!/usr/bin/env bash
# Kills `quarry finetune` with signal 9 at random moments and resumes it: the final adapter has to be that of
# a run nobody disturbed, byte for byte, and the base model's file what it was.
#   tests/acceptance/finetune_kill.sh QUARRY SQUAD_FOLDER [KILLS [SEED]]
set -euo pipefail

usage="usage: finetune_kill.sh QUARRY SQUAD_FOLDER [KILLS [SEED]]"
quarry=$(realpath "${1:?$usage}")
squad=$(realpath "${2:?$usage}")
kills=${3:-8}
RANDOM=${4:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

base=$(ls "${QUARRY_HOME:-$HOME/.local/share/quarry}"/models/smollm2-135m-instruct/*.gguf)
before=$(sha256sum <"$base")
head -n 400 "$squad/train.questions.00.jsonl" >rows.questions.jsonl
ln -s "$squad"/train.passages.*.jsonl .

tune=("$quarry" --quiet finetune --train rows.questions.jsonl --set data.squad_passages=. --passages gold
  --max-steps 12 --set training.save_every=2 --set training.micro_batch_tokens=1024 --set training.max_seq_len=1024
  --set adapter.lora_dropout=0.05)

"${tune[@]}" --out whole
killed=0
for ((i = 0; i < kills; ++i)); do
  "${tune[@]}" --out broken --resume &
  pid=$!
  sleep "$((RANDOM % 12 + 2)).$((RANDOM % 10))"
  if kill -9 "$pid" 2>/dev/null; then killed=$((killed + 1)); fi
  wait "$pid" 2>/dev/null || true
  if [ -e broken/last ]; then break; fi
done
[ -e broken/last ] || "${tune[@]}" --out broken --resume
cmp whole/last/adapter_model.safetensors broken/last/adapter_model.safetensors
[ "$before" = "$(sha256sum <"$base")" ] || { echo "the base model's file changed"; exit 1; }
echo "killed $killed times; the adapter is bit-equal, the base file unchanged"
[ "$killed" -gt 0 ]
