#!/usr/bin/env bash
# Installs what Quarry needs and nothing else: Debian packages, builds of FAISS and sentencepiece in the cache
# folder, the default models and the adapters made for them. Safe to run again: what is there is left alone.
#   scripts/setup.sh [--no-models]
# Environment: QUARRY_HOME (models and adapters, default ~/.local/share/quarry), QUARRY_CACHE (builds, default
# ~/.cache/quarry), QUARRY_JOBS (default 2).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

with_models=yes
for argument in "$@"; do
  case $argument in
    --no-models) with_models=no ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument '$argument' (see --help)" ;;
  esac
done

install_packages() {
  command -v apt-get >/dev/null ||
    fail "this set-up script is for Debian 12; elsewhere install the packages of scripts/packages.txt yourself, then run cmake --preset release"
  local missing=()
  local package
  while read -r package; do
    case $package in '' | '#'*) continue ;; esac
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done <"$source_dir/scripts/packages.txt"
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${#missing[@]} Debian packages: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

install_packages
"$source_dir/scripts/build_libraries.sh"
if [ "$with_models" = yes ]; then
  "$source_dir/scripts/fetch_models.sh"
fi
"$source_dir/scripts/install_adapters.sh"
say "set-up complete"
