#!/usr/bin/env bash
# Installs the packages for building and running quip, on Debian 12 or newer and on Ubuntu.
# The one place that lists the packages; spack.yaml is its counterpart for clusters.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: jobs/install-deps.sh [--tests] [--slurm] [--venv] [--engines]
  --tests   also the needs of tests/run.sh: linters, help2man, Slurm, and the virtual environment
  --slurm   also the needs of slurm/local-cluster
  --venv    also the Python virtual environment .venv (tests/requirements.txt), which
            jobs/tokenize.py runs in
  --engines also the virtual environment .venv-engines, in which tests/engines has transformers
            and compressed-tensors read exports (some 6 GB)
Does nothing, quickly, where everything is there already.
TEXT
}

packages=(
  build-essential cmake ninja-build pkg-config git
  libopenmpi-dev openmpi-bin libscalapack-openmpi-dev libopenblas-dev
  libhdf5-dev hdf5-tools libboost-program-options-dev
  libgtest-dev nlohmann-json3-dev libspdlog-dev libfmt-dev
  libxxhash-dev librandom123-dev libbenchmark-dev
  python3 python3-venv python3-numpy python3-h5py python3-matplotlib
)
test_packages=(clang clang-format clang-tidy libclang-rt-dev shellcheck help2man)
# libpmix-dev brings the library that Slurm's PMIx plugin opens.
slurm_packages=(slurm-wlm munge libpmix-dev)
venv=no engines=no

for argument in "$@"; do
  case "$argument" in
    --tests) packages+=("${test_packages[@]}" "${slurm_packages[@]}") venv=yes ;;
    --slurm) packages+=("${slurm_packages[@]}") ;;
    --venv) venv=yes ;;
    --engines) venv=yes engines=yes ;;
    -h | --help) usage && exit 0 ;;
    *) echo "install-deps.sh: unknown option '$argument' (see --help)" >&2 && exit 2 ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

installed() {
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps.sh: no apt here; on a cluster use the Spack environment in spack.yaml instead" >&2
    exit 1
  fi
  local missing=() package
  for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "install-deps.sh: not root and no sudo; ask an administrator for: ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# install_venv FOLDER REQUIREMENTS [OPTIONS of venv]
install_venv() {
  local folder=$1 requirements=$2 stamp=$1/requirements.installed
  [[ -x "$folder/bin/python" ]] && cmp -s "$requirements" "$stamp" && return 0
  echo "making the virtual environment $folder"
  /usr/bin/python3 -m venv "${@:3}" "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$stamp"
}

install_packages
# On Debian's own python3, with its numpy and h5py.
[[ "$venv" == no ]] || install_venv .venv tests/requirements.txt --system-site-packages
[[ "$engines" == no ]] || install_venv .venv-engines tests/engines/requirements.txt
