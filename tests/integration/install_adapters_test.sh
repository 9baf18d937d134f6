#!/usr/bin/env bash
# scripts/install_adapters.sh: installs what is there, leaves alone what is the same, replaces what differs.
#   install_adapters_test.sh SOURCE_DIR
set -euo pipefail
script=$1/scripts/install_adapters.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export QUARRY_HOME=$work/home QUARRY_ADAPTERS=$work/shipped
installed=$QUARRY_HOME/adapters
fail() { echo "FAIL: $*"; exit 1; }

"$script" || fail "no folder of adapters is an error"
mkdir -p "$work/shipped/tiny-qa" "$work/shipped/notes"
echo '{"r": 1}' >"$work/shipped/tiny-qa/adapter_config.json"
echo weights >"$work/shipped/tiny-qa/adapter_model.safetensors"
echo old >"$work/shipped/tiny-qa/gone_later"
"$script" 2>"$work/said"
diff -r "$work/shipped/tiny-qa" "$installed/tiny-qa" || fail "not installed"
[ ! -e "$installed/notes" ] || fail "a folder without adapter_config.json was installed"
grep -q "installing the adapter tiny-qa" "$work/said" || fail "said nothing"

mkdir "$installed/mine"
inode=$(stat -c %i "$installed/tiny-qa")
"$script" 2>"$work/said"
[ "$inode" = "$(stat -c %i "$installed/tiny-qa")" ] || fail "the same adapter was copied again"
[ ! -s "$work/said" ] || fail "said something"

echo new >"$work/shipped/tiny-qa/adapter_model.safetensors"
rm "$work/shipped/tiny-qa/gone_later"
"$script" 2>/dev/null
diff -r "$work/shipped/tiny-qa" "$installed/tiny-qa" || fail "not replaced whole"
[ "$(ls -A "$installed" | tr '\n' ' ')" = "mine tiny-qa " ] || fail "left over: $(ls -A "$installed")"
echo "installed once, replaced when it differs"
