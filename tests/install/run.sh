#!/usr/bin/env bash
# Usage: run.sh BUILD_FOLDER: installs it elsewhere, builds a project against the installation with CMake
# and one with pkg-config, runs them, and looks for what shells and man read.
set -euo pipefail
build=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/first" >/dev/null
# Whatever is installed may be moved.
mv "$work/first" "$work/prefix"

cmake -S "$here" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/build"
"$work/build/consumer"

file=$(find "$work/prefix" -name quip.pc)
PKG_CONFIG_PATH=$(dirname "$file")
export PKG_CONFIG_PATH
read -ra flags < <(pkg-config --cflags quip)
read -ra libraries < <(pkg-config --libs quip)
c++ -std=c++20 "${flags[@]}" "$here/consumer.cpp" "${libraries[@]}" -o "$work/consumer"
"$work/consumer"

"$work/prefix/bin/quip" --version
version=$("$work/prefix/bin/quip" --version)
[[ "$version" == "quip $(pkg-config --modversion quip)" ]]

# As bash-completion does when somebody types `quip <TAB>`.
PATH=$work/prefix/bin:$PATH bash -c 'source "$1" && COMP_WORDS=(quip "") COMP_CWORD=1 && _quip && [[ " ${COMPREPLY[*]} " == *" quantize "* ]]' \
  bash "$work/prefix/share/bash-completion/completions/quip"
# A build without help2man, or of the target `quip` alone, has no pages.
if compgen -G "$build/man/*.1" >/dev/null; then
  [[ -s "$work/prefix/share/man/man1/quip.1" && -s "$work/prefix/share/man/man1/quip-quantize.1" ]]
fi
