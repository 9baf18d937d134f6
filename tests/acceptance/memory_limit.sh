#!/usr/bin/env bash
# A model of twice the memory it may use answers with the same tokens: generates without a limit and
# then in a control group (version 1 or 2; needs the right to make one) whose limit is half of the
# weights, where --offload auto has to find out by itself. Fails when the texts differ, the limit is not
# half of the weights, or memory passed it.
#   tests/acceptance/memory_limit.sh QUARRY [MODEL]
set -euo pipefail

usage="usage: memory_limit.sh QUARRY [MODEL]"
quarry=$(realpath "${1:?$usage}")
model=${2:-smollm2-135m-instruct}
prompt="List three rivers of Europe and a city on each."
arguments=(generate --model "$model" --load-in f32 --max-tokens 24 "$prompt")
weights=$("$quarry" model estimate "$model" --load-in f32 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["weight_bytes"])')
limit=$((weights / 2))

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  group=$(mktemp -d /sys/fs/cgroup/quarry.XXXXXX) limit_file=memory.max peak_file=memory.peak
else
  group=$(mktemp -d /sys/fs/cgroup/memory/quarry.XXXXXX) limit_file=memory.limit_in_bytes peak_file=memory.max_usage_in_bytes
fi
trap 'rmdir "$group"' EXIT
echo "$limit" >"$group/$limit_file"
for swap in memory.swap.max memory.swappiness; do
  [ ! -f "$group/$swap" ] || echo 0 >"$group/$swap"
done

begin=$(date +%s.%N)
wanted=$("$quarry" --quiet "${arguments[@]}")
middle=$(date +%s.%N)
found=$(bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$quarry" "${arguments[@]}")
end=$(date +%s.%N)
peak=$(cat "$group/$peak_file")

python3 - "$weights" "$limit" "$peak" "$begin" "$middle" "$end" <<'PYTHON'
import sys
weights, limit, peak = map(int, sys.argv[1:4])
begin, middle, end = map(float, sys.argv[4:7])
print(f"weights {weights / 1e6:.0f} MB; without a limit {middle - begin:.1f} s; in {limit / 1e6:.0f} MB "
      f"{end - middle:.1f} s, peak {peak / 1e6:.0f} MB")
sys.exit(0 if peak <= limit + 65536 and 2 * limit <= weights else 1)
PYTHON
echo "$found"
[ "$found" = "$wanted" ] || { echo "FAIL without a limit: $wanted"; exit 1; }
