#!/usr/bin/env bash
# Installs the packages for building and running quip, on Debian 12 or newer and on Ubuntu.
# The one place that lists the packages; spack.yaml is its counterpart for clusters.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: jobs/install-deps.sh [--tests] [--slurm] [--venv]
  --tests   also the needs of tests/run.sh: linters, PyTorch, Slurm, and the virtual environment
  --slurm   also the needs of slurm/local-cluster
  --venv    also the Python virtual environment .venv (tests/requirements.txt), which
            jobs/tokenize.py runs in
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
test_packages=(clang clang-format clang-tidy libclang-rt-dev shellcheck)
# libpmix-dev brings the library that Slurm's PMIx plugin opens.
slurm_packages=(slurm-wlm munge libpmix-dev)
venv=no

for argument in "$@"; do
  case "$argument" in
    --tests) packages+=("${test_packages[@]}" "${slurm_packages[@]}") venv=yes ;;
    --slurm) packages+=("${slurm_packages[@]}") ;;
    --venv) venv=yes ;;
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

# Made with Debian's own python3, on whose numpy and h5py the environment builds.
install_venv() {
  local stamp=.venv/requirements.installed
  [[ -x .venv/bin/python ]] && cmp -s tests/requirements.txt "$stamp" && return 0
  echo "making the virtual environment .venv"
  /usr/bin/python3 -m venv --system-site-packages .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$stamp"
}

install_packages
[[ "$venv" == no ]] || install_venv
