# Shared by the scripts of this folder: source it, do not run it.
set -euo pipefail
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache_dir=${QUARRY_CACHE:-$HOME/.cache/quarry}
quarry_home=${QUARRY_HOME:-$HOME/.local/share/quarry}
jobs=${QUARRY_JOBS:-2}

say() { printf '== %s\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Runs a command as root: as it is when we are root, through sudo otherwise.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "need root (or sudo) to run: $*"
  fi
}

# Configures and builds targets of a preset: build_preset PRESET TARGET...
build_preset() {
  local preset=$1
  shift
  cmake -S "$source_dir" --preset "$preset" >"/tmp/quarry-configure.$$.log" 2>&1 ||
    { cat "/tmp/quarry-configure.$$.log" >&2; fail "cmake --preset $preset failed"; }
  rm -f "/tmp/quarry-configure.$$.log"
  cmake --build "$source_dir/build/$preset" --parallel "$jobs" --target "$@"
}
