# Finds the program; sourced by scripts that run it.
# shellcheck shell=bash

# find_quip FAIL: sets `quip` to the program that QUIP names, or to this checkout's build, or to that
# of the PATH. Calls FAIL with a message where there is none.
find_quip() {
  local built
  built=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)/build/release/bin/quip
  quip=${QUIP:-quip}
  if [[ -z "${QUIP:-}" && -x "$built" ]]; then quip=$built; fi
  command -v "$quip" >/dev/null && return
  [[ -z "${QUIP:-}" ]] || "$1" "'$quip' is not on the PATH; set QUIP to the program"
  "$1" "quip is neither built here (build/release/bin/quip) nor on the PATH; build it, or set QUIP to the program"
}
