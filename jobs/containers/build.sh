#!/usr/bin/env bash
# Usage: build.sh cpu|cuda PREFIX: the build stage of both container images, as root in a Debian or
# Ubuntu image. Installs what quip needs to build, then the program in PREFIX, with a list of the
# packages that it needs to run (PREFIX/packages) for install-runtime.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
backend=${1:?cpu or cuda} prefix=${2:?the folder to install in}
case "$backend" in
  cpu) cuda=OFF ;;
  cuda) cuda=ON PATH=$PATH:/usr/local/cuda/bin ;;
  *) echo "build.sh: '$backend': must be cpu or cuda" >&2 && exit 2 ;;
esac

bash jobs/install-deps.sh
build=build/container-$backend
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
  -DQUIP_CUDA="$cuda" -DQUIP_BUILD_TESTS=OFF -DQUIP_BENCHMARKS=OFF -DQUIP_WERROR=OFF
cmake --build "$build" --target quip
install -D --strip "$build/bin/quip" "$prefix/bin/quip"
install -D -m 644 src/packaging/completion.bash "$prefix/share/bash-completion/completions/quip"
bash jobs/containers/runtime-packages.sh "$prefix/bin/quip" >"$prefix/packages"
