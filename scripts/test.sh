#!/usr/bin/env bash
# Sets up, builds the release preset and runs every test.
#   scripts/test.sh [arguments for ctest]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

"$source_dir/scripts/setup.sh"
say "building"
build_preset release all >&2
say "testing"
cd "$source_dir/build/release"
exec ctest --output-on-failure --parallel "$jobs" "$@"
