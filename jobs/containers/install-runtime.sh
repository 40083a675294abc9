#!/usr/bin/env bash
# Usage: install-runtime.sh PREFIX: the last stage of both container images. Installs the packages in
# PREFIX/packages that the image lacks (a CUDA image has its own of the toolkit, and holds them), and
# sees that the program starts.
set -euo pipefail
prefix=${1:?the folder that build.sh installed in}
missing=()
while read -r package; do
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || missing+=("$package")
done <"$prefix/packages"
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
  rm -rf /var/lib/apt/lists/*
fi
"$prefix/bin/quip" --version
