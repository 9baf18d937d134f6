#!/usr/bin/env bash
# Builds two of Debian's source packages into the cache folder:
#   faiss          with the SIMD level of this CPU; the packaged binary is generic SSE2, 3 to 6 times
#                  slower
#   sentencepiece  as a static library; the packaged shared one exports its own protobuf, which
#                  clashes with the protobuf that Debian's LibTorch loads
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if grep -qw avx512vl /proc/cpuinfo && grep -qw avx512dq /proc/cpuinfo; then
  level=x86-64-v4
elif grep -qw avx2 /proc/cpuinfo; then
  level=x86-64-v3
else
  level=x86-64
fi
faiss_version=1.7.3
sentencepiece_version=0.1.97
faiss_prefix=$cache_dir/faiss-$faiss_version-$level
sentencepiece_prefix=$cache_dir/sentencepiece-$sentencepiece_version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apt_options=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/parts"
  -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)

# Reads the machine's own package sources, asked for source packages; its configuration stays as it
# is.
prepare_source_lists() {
  [ ! -d "$work/lists" ] || return 0
  mkdir -p "$work/parts" "$work/lists/partial"
  local list
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    if [ -f "$list" ]; then sed -n 's/^deb /deb-src /p' "$list" >>"$work/parts/quarry.list"; fi
  done
  for list in /etc/apt/sources.list.d/*.sources; do
    if [ -f "$list" ]; then sed 's/^Types:.*/Types: deb-src/' "$list" >"$work/parts/$(basename "$list")"; fi
  done
  apt-get -qq "${apt_options[@]}" update
}

# fetch_source PACKAGE VERSION: unpacks to $work/source/PACKAGE-VERSION.
fetch_source() {
  prepare_source_lists
  say "fetching the $1 $2 source package"
  mkdir -p "$work/source"
  (
    cd "$work/source"
    apt-get -qq "${apt_options[@]}" source --download-only "$1" 2>/dev/null
    [ -f "$(echo "$1_$2".orig.tar.*)" ] || fail "$1: Debian does not offer version $2 here, but: $(ls)"
    mkdir "$1-$2"
    tar xf "$1_$2".orig.tar.* --strip-components=1 -C "$1-$2"
  )
}

# build_library NAME VERSION PREFIX TARGET CMAKE_OPTION...
build_library() {
  local name=$1 version=$2 prefix=$3 target=$4
  shift 4
  [ ! -f "$prefix/.complete" ] || return 0
  fetch_source "$name" "$version"
  say "building $name"
  local log=$work/$name.log
  { cmake -G Ninja -S "$work/source/$name-$version" -B "$work/$name" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_CXX_COMPILER_LAUNCHER=ccache \
    -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_INSTALL_PREFIX="$work/install-$name" "$@" &&
    cmake --build "$work/$name" --target "$target" --parallel "$jobs"; } >"$log" 2>&1 ||
    { tail -40 "$log" >&2; fail "$name did not build"; }
}

# Puts $work/install-NAME in place, whole or not at all.
publish() {
  touch "$1/.complete"
  mkdir -p "$cache_dir"
  rm -rf "$2"
  mv "$1" "$2"
}

if [ ! -f "$faiss_prefix/.complete" ]; then
  build_library faiss "$faiss_version" "$faiss_prefix" faiss -DFAISS_ENABLE_GPU=OFF \
    -DFAISS_ENABLE_PYTHON=OFF -DBUILD_TESTING=OFF -DFAISS_OPT_LEVEL=generic \
    -DCMAKE_CXX_FLAGS="-march=$level" -DBLA_VENDOR=OpenBLAS
  cmake --install "$work/faiss" >>"$work/faiss.log" 2>&1 || { tail "$work/faiss.log" >&2; fail "faiss did not install"; }
  publish "$work/install-faiss" "$faiss_prefix"
fi
if [ ! -f "$sentencepiece_prefix/.complete" ]; then
  build_library sentencepiece "$sentencepiece_version" "$sentencepiece_prefix" sentencepiece-static \
    -DSPM_ENABLE_SHARED=OFF -DSPM_USE_BUILTIN_PROTOBUF=ON
  mkdir -p "$work/install-sentencepiece/lib" "$work/install-sentencepiece/include"
  cp "$(find "$work/sentencepiece" -name libsentencepiece.a)" "$work/install-sentencepiece/lib/"
  cp "$work/source/sentencepiece-$sentencepiece_version/src/sentencepiece_processor.h" "$work/install-sentencepiece/include/"
  publish "$work/install-sentencepiece" "$sentencepiece_prefix"
fi
