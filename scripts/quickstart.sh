#!/usr/bin/env bash
# From a bare Debian 12 to answers with sources: sets up, builds, indexes a real corpus that a Debian
# package installs, asks three questions.
#   scripts/quickstart.sh [--corpus debian-reference|python-doc]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

corpus=debian-reference
while [ $# -gt 0 ]; do
  case $1 in
    --corpus) corpus=${2:-}; shift 2 ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument '$1' (see --help)" ;;
  esac
done
case $corpus in
  debian-reference)
    package=debian-reference-en
    folder=/usr/share/debian-reference
    include='*.en.html'
    questions=(
      "Which command changes the permissions of a file?"
      "In which file are the mount options of disk filesystems set?"
      "What does setting the sticky bit on a directory prevent?"
    )
    ;;
  python-doc)
    package=python3.11-doc
    folder=/usr/share/doc/python3.11/html
    include='*.html'
    questions=(
      "Which function of the shutil module copies a whole directory tree?"
      "What does the walrus operator := do?"
      "Which exception is raised when a key is not found in a dictionary?"
    )
    ;;
  *) fail "unknown corpus '$corpus': debian-reference or python-doc" ;;
esac

started=$SECONDS
"$source_dir/scripts/setup.sh"
if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
  say "installing the corpus: $package"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
fi
[ -d "$folder" ] || fail "$folder: package $package is installed but its documents are not there (are /usr/share/doc files excluded by dpkg?)"
say "building quarry"
build_preset release quarry >&2
quarry=$source_dir/build/release/quarry
index=$quarry_home/indexes/$corpus
mkdir -p "$quarry_home/indexes"
say "indexing $folder"
"$quarry" index build "$index" "$folder" --include "$include"
for question in "${questions[@]}"; do
  printf '\n> quarry ask %s "%s" --top-k 2\n' "$index" "$question"
  "$quarry" ask "$index" "$question" --top-k 2 || [ $? -eq 4 ]  # 4: the documents do not hold the answer
done
say "done in $((SECONDS - started)) s. Ask more:  $quarry ask $index \"...\""
say "or serve it over HTTP:  $quarry serve $index --port 8080"
