#!/usr/bin/env bash
# clang-tidy with the enforced list of .clang-tidy over our sources (or those given). Needs a
# configured release build.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$source_dir"
command -v clang-tidy >/dev/null || fail "clang-tidy is not installed: apt-get install clang-tidy"
[ -f build/release/compile_commands.json ] || fail "run cmake --preset release first"
if [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(find data generator retriever indexer finetune api -name '*.cpp' 2>/dev/null | sort)
fi
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$jobs" clang-tidy -p build/release --quiet
