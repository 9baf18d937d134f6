#!/usr/bin/env bash
# The same greedy text with AVX-512, AVX2 and the portable kernels, one prompt after the other. Instruction sets that this
# machine lacks are left out. Prints how many texts agree with the first set's; fails when one does not.
#   tests/acceptance/instruction_sets.sh QUARRY QUESTIONS.jsonl [PROMPTS [TOKENS [PRECISION]]]
# Each line of QUESTIONS has a "question". 20 prompts and 48 tokens by default, at the default precision; `fast8` rounds
# activations in other blocks on other sets, so that texts part there.
set -euo pipefail

quarry=$(realpath "${1:?usage: instruction_sets.sh QUARRY QUESTIONS.jsonl [PROMPTS [TOKENS [PRECISION]]]}")
questions=${2:?QUESTIONS.jsonl}
prompts=${3:-20}
tokens=${4:-48}
precision=${5:-fast}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sets=(avx512 avx2 portable)
grep -q avx512_bf16 /proc/cpuinfo || sets=(avx2 portable)
python3 -c 'import json, sys
for line in open(sys.argv[1]).readlines()[: int(sys.argv[2])]: print(json.loads(line)["question"])' "$questions" "$prompts" >"$work/prompts"

for set in "${sets[@]}"; do
  number=0
  while IFS= read -r prompt; do
    number=$((number + 1))
    QUARRY_CPU_ISA=$set "$quarry" --quiet generate "$prompt" --precision "$precision" --max-tokens "$tokens" \
      </dev/null >"$work/$set.$number"
  done <"$work/prompts"
done

status=0
for set in "${sets[@]:1}"; do
  same=0
  for number in $(seq "$prompts"); do
    if cmp -s "$work/${sets[0]}.$number" "$work/$set.$number"; then same=$((same + 1)); fi
  done
  echo "$set: $same of $prompts texts are those of ${sets[0]}"
  [ "$same" -eq "$prompts" ] || status=1
done
exit $status
