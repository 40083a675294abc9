#!/usr/bin/env bash
# Usage: runtime-packages.sh PROGRAM: prints the Debian packages that PROGRAM needs to run, one a line:
# those that own the shared libraries it is linked with, so that names follow the distribution's
# release, and mpirun's, for jobs of one node.
set -euo pipefail
program=${1:?the program}

# On merged systems a package may know /usr/lib/… as /lib/….
owner() {
  local file package
  file=$(realpath "$1")
  for file in "$file" "${file#/usr}"; do
    if package=$(dpkg-query --search "$file" 2>/dev/null); then
      package=${package%%:*}
      echo "${package%%,*}"
      return
    fi
  done
  echo "runtime-packages.sh: no package owns $1" >&2
  return 1
}

libraries=$(ldd "$program")
if grep 'not found' <<<"$libraries" >&2; then exit 1; fi
# Those that it asks for by itself: theirs come as dependencies of their packages.
needed=$(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }')
packages=$(awk '$2 == "=>" { print $1, $3 }' <<<"$libraries" | while read -r name path; do
  if grep -qxF "$name" <<<"$needed"; then owner "$path"; fi
done)
printf '%s\n' openmpi-bin "$packages" | sort -u
