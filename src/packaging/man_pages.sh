#!/usr/bin/env bash
# Usage: man_pages.sh QUIP FOLDER: writes quip.1, and quip-COMMAND.1 for each command, from what the
# program QUIP prints for --help. Needs help2man.
set -euo pipefail
quip=$(realpath -- "$1") folder=$2
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT

rm -rf "$folder"
mkdir -p "$folder"
if ! version=$("$quip" --version); then
  echo "note: no man pages: $quip does not run here" >&2
  exit 0
fi
commands=$("$quip" --help | awk '/^commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')

# as_help2man_reads: `Usage:`, short and long names separated by a comma, and two blanks before the text
# of the longest option, where there is only one.
as_help2man_reads() {
  sed -E -e 's/^usage:/Usage:/' -e 's/^  -h \[ --help \]/  -h, --help      /' -e 's/^commands:/Commands:/' \
    -e 's/^(  --[^ ]+ [^ (]+( \(=[^)]*\))?) ([^ (])/\1  \3/'
}

# page NAME SUMMARY WORD...: writes NAME.1 about `quip WORD...`. help2man asks a program of that name.
page() {
  local name=$1 summary=$2 other related=''
  shift 2
  for other in quip $commands; do
    [[ "$other" == quip ]] || other=quip-$other
    [[ "$other" == "$name" ]] || related+=${related:+, }".BR $other (1)"
  done
  related=${related//, /,$'\n'}
  cat >"$wrappers/$name" <<WRAPPER
#!/usr/bin/env bash
$(declare -f as_help2man_reads)
if [[ "\$1" == --version ]]; then
  echo "$name ${version#quip }"
else
  $(printf '%q ' "$@") --help | as_help2man_reads
fi
WRAPPER
  chmod +x "$wrappers/$name"
  printf '[SEE ALSO]\n%s\n' "$related" >"$wrappers/$name.more"
  help2man --no-info --name="$summary" --include="$wrappers/$name.more" --output="$folder/$name.1" "$wrappers/$name"
}

page quip 'QuIP quantization of large language models across a cluster' "$quip"
for command in $commands; do
  summary=$("$quip" "$command" --help | sed -n 3p)
  page "quip-$command" "${summary%.}" "$quip" "$command"
done
