#!/usr/bin/env bash
# Does a base of 4 bits cost quality, and which LoRA is enough? Tunes MODEL on SQuAD train questions with their gold
# paragraphs (sft), from scratch and with every SEED, on a base held as bf16 and as NF4 with double quantization; LoRA on
# all Linears and on q_proj and v_proj; ranks 4, 16 and 64 at the same scale. Then HELD_OUT dev questions, drawn with seed
# 1, each with its own paragraph, on the base held as in training. Prints the bytes of the adapter, loss, EM and F1 of
# every run with 95 % intervals, and means over the seeds. Fails only when a run does.
#   tests/acceptance/quantized_training.sh QUARRY DATA [STEPS [HELD_OUT [SEEDS [MODEL]]]]
# SEEDS: "1 2 3" (default). MODEL: one whose weights are whole shows what NF4 costs; the default has 4 bits as it is, and
# bf16 holds what these stand for. `quarry finetune` wants a Linear with LoRA, so that full fine-tuning trains every
# module whole but q_proj, which has LoRA of rank 64.
set -euo pipefail

usage="usage: quantized_training.sh QUARRY DATA [STEPS [HELD_OUT [SEEDS [MODEL]]]]"
quarry=$(realpath "${1:?$usage}")
data=$(realpath "${2:?$usage}")
steps=${3:-150}
held_out=${4:-500}
read -ra seeds <<<"${5:-1 2 3}"
model=${6:-smollm2-135m-instruct}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$data/squad11/dev.questions.jsonl" "$work/held.questions.jsonl" "$held_out" <<'PYTHON'
import random
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    rows = random.Random(1).sample(list(file), int(sys.argv[3]))
with open(sys.argv[2], "w", encoding="utf-8") as out:
    out.writelines(rows)
PYTHON
ln -s "$data/squad11/dev.passages.jsonl" "$work/"

printf '%-5s %-7s %4s %4s  %9s  %6s  %-18s  %s\n' base LoRA rank seed adapter loss EM F1
run() { # LABEL LOAD_IN TARGETS RANK [options of finetune]: a row for each seed, and their mean
  local label=$1 load_in=$2 targets=$3 rank=$4 seed reports=()
  shift 4
  for seed in "${seeds[@]}"; do
    local name=run.$seed
    "$quarry" --quiet finetune --train "$data"/squad11/train.questions.*.jsonl --set data.squad_passages="$data/squad11" \
      --passages gold --set passages.unanswerable_share=0 --model "$model" --load-in "$load_in" \
      --set adapter.target_modules="$targets" --rank "$rank" --alpha $((2 * rank)) --seed "$seed" --max-steps "$steps" \
      --set training.save_every=0 --out "$work/$name" "$@" >/dev/null
    "$quarry" --quiet eval answers "$work/held.questions.jsonl" --passages gold --max-tokens 40 --model "$model" \
      --load-in "$load_in" --adapter "$work/$name/last" --json >"$work/$name/answers.json"
    reports+=("$work/$name")
  done
  python3 - "$load_in" "$label" "$rank" "${reports[@]}" <<'PYTHON'
import json
import pathlib
import sys

load_in, label, rank = sys.argv[1:4]
label = f"{load_in:5} {label:7} {rank:>4}"
runs = []
for folder in map(pathlib.Path, sys.argv[4:]):
    losses = [json.loads(line)["loss"] for line in open(folder / "metrics.jsonl") if '"train"' in line]
    last = losses[-max(1, len(losses) // 5):]
    answers = json.loads((folder / "answers.json").read_text())
    size = (folder / "last" / "adapter_model.safetensors").stat().st_size / 1e6
    runs.append((sum(last) / len(last), answers["em"]["mean"], answers["f1"]["mean"]))
    em, f1 = (f"{answers[key]['mean']:.1f} [{answers[key]['low']:.1f}, {answers[key]['high']:.1f}]" for key in ("em", "f1"))
    print(f"{label} {folder.suffix[1:]:>4}  {size:6.1f} MB  {runs[-1][0]:.4f}  {em:18}  {f1}")
loss, em, f1 = (sum(values) / len(runs) for values in zip(*runs))
print(f"{label} mean  {size:6.1f} MB  {loss:.4f}  {em:<18.1f}  {f1:.1f}", flush=True)
PYTHON
  rm -r "${reports[@]}"
}
run all bf16 all-linear 16
run all nf4 all-linear 16
run "q, v" nf4 q_proj,v_proj 16
run all nf4 all-linear 4
run all nf4 all-linear 64
whole=k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,input_layernorm,post_attention_layernorm,norm,embed_tokens,lm_head
run full bf16 q_proj 64 --learning-rate 5e-5 --set adapter.modules_to_save="$whole"
