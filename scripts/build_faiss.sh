#!/usr/bin/env bash
# Builds Debian's FAISS source package with the SIMD level of this CPU into the cache folder. The
# packaged binary is generic SSE2 and 3 to 6 times slower.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if grep -qw avx512vl /proc/cpuinfo && grep -qw avx512dq /proc/cpuinfo; then
  level=x86-64-v4
elif grep -qw avx2 /proc/cpuinfo; then
  level=x86-64-v3
else
  level=x86-64
fi
version=1.7.3
prefix=$cache_dir/faiss-$version-$level
if [ -f "$prefix/share/faiss/faiss-config.cmake" ]; then
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial" "$work/source"
# The machine's own package sources, asked for source packages; its configuration stays as it is.
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ -f "$list" ] && sed -n 's/^deb /deb-src /p' "$list" >>"$work/parts/quarry.list"
done
for list in /etc/apt/sources.list.d/*.sources; do
  [ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"$work/parts/$(basename "$list")"
done
chmod -R a+rX "$work"
apt_options=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/parts" -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
say "fetching the FAISS $version source package"
(
  cd "$work/source"
  apt-get -qq "${apt_options[@]}" update
  apt-get -qq "${apt_options[@]}" source --download-only "faiss=$version*" 2>/dev/null ||
    apt-get -qq "${apt_options[@]}" source --download-only faiss
  tar xf faiss_"$version".orig.tar.*
)
say "building FAISS for $level (about two minutes on two cores)"
log=$work/build.log
cmake -G Ninja -S "$work/source/faiss-$version" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
  -DFAISS_ENABLE_GPU=OFF -DFAISS_ENABLE_PYTHON=OFF -DBUILD_TESTING=OFF -DFAISS_OPT_LEVEL=generic \
  -DCMAKE_CXX_FLAGS="-march=$level" -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
  -DCMAKE_CXX_COMPILER_LAUNCHER=ccache \
  -DBLA_VENDOR=OpenBLAS -DCMAKE_INSTALL_PREFIX="$work/install" >"$log" 2>&1 &&
  cmake --build "$work/build" --target faiss --parallel "$jobs" >>"$log" 2>&1 &&
  cmake --install "$work/build" >>"$log" 2>&1 || { tail -40 "$log" >&2; fail "FAISS did not build"; }
mkdir -p "$cache_dir"
rm -rf "$prefix"
mv "$work/install" "$prefix"
say "FAISS is in the cache folder"
