#!/usr/bin/env bash
# Formats every C++ and CUDA source in place; --check only reports and fails.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$source_dir"
command -v clang-format >/dev/null || fail "clang-format is not installed: run scripts/setup.sh"
clang-format --version | grep -q 'version 14\.' || fail "clang-format 14 is wanted, found: $(clang-format --version)"
mapfile -t files < <(find data generator retriever indexer finetune api tests -regex '.*\.\(h\|cpp\|cu\)' 2>/dev/null | sort)
[ ${#files[@]} -gt 0 ] || fail "found no sources to format"
if [ "${1:-}" = --check ]; then
  clang-format --dry-run -Werror "${files[@]}"
  echo "${#files[@]} files are formatted"
else
  clang-format -i "${files[@]}"
fi
