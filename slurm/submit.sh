# The common part of scripts that submit themselves, which source it. `script` is their name in messages.
# shellcheck shell=bash

refuse() {
  echo "${script:?}: error: $1" >&2
  exit 2
}

jobs=()

# submit OPTION...: submits a job and adds it to `jobs`. If Slurm refuses it, cancels those before it.
submit() {
  local said errors
  command -v sbatch >/dev/null || refuse "sbatch is not on the PATH${without_slurm:-}"
  errors=$(mktemp)
  if said=$(sbatch --parsable "$@" 2>"$errors"); then
    rm -f "$errors"
    jobs+=("${said%%;*}")
    return
  fi
  said=$(tr '\n' ' ' <"$errors")
  rm -f "$errors"
  if ((${#jobs[@]})); then scancel "${jobs[@]}" 2>/dev/null || true; fi
  case "$said" in
    *[Mm][Uu][Nn][Gg][Ee]*) refuse "munged does not answer on this machine, and Slurm knows users by it: have it started" ;;
    *) refuse "nothing was submitted: ${said% }" ;;
  esac
}
