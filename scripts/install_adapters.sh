#!/usr/bin/env bash
# Installs the adapters that ship with the source (data/adapters/NAME) into ${QUARRY_HOME}/adapters/NAME,
# where `quarry ask` and `quarry serve` find the one made for their model. One that is the same already is
# left alone; one that differs is replaced whole.
#   scripts/install_adapters.sh
# QUARRY_ADAPTERS names another folder to install from.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

shipped=${QUARRY_ADAPTERS:-$source_dir/data/adapters}
installed=$quarry_home/adapters
staging=
trap '[ -z "$staging" ] || rm -rf "$staging"' EXIT

install_adapter() {
  local from=$1 name
  name=$(basename "$from")
  [ -f "$from/adapter_config.json" ] || return 0
  if [ -d "$installed/$name" ] && diff -rq "$from" "$installed/$name" >/dev/null; then return 0; fi
  say "installing the adapter $name"
  mkdir -p "$installed"
  staging=$(mktemp -d "$installed/.$name.XXXXXX")
  mkdir "$staging/new"
  cp -R "$from/." "$staging/new"
  sync "$staging"/new/*
  if [ -e "$installed/$name" ]; then mv -T "$installed/$name" "$staging/old"; fi
  mv -T "$staging/new" "$installed/$name"
  rm -rf "$staging"
}

for folder in "$shipped"/*/; do
  [ -d "$folder" ] || continue
  install_adapter "${folder%/}"
done
