# Completes commands, options and values of quip in bash. It knows none of them by itself: it asks the
# program that stands on the command line for its --help, once a shell for each command and build.
# shellcheck shell=bash

declare -gA _quip_help_of=()

# _quip_help WORD...: sets `help` to what `quip WORD... --help` prints. A program that cannot run here
# (a library is missing, a path with a typing error) has no help and nothing to complete.
_quip_help() {
  local program key
  program=$(type -P -- "${COMP_WORDS[0]/#\~/$HOME}") || program=''
  key="$program $(stat -L -c %Y.%s -- "$program" 2>/dev/null) $*"
  if [[ -n "$program" && -z "${_quip_help_of[$key]+known}" ]]; then
    _quip_help_of[$key]=$("$program" "$@" --help 2>/dev/null </dev/null)
  fi
  help=${_quip_help_of[$key]-}
}

# _quip_options: one line an option of `help`, its name, a tab, and its whole text. An option begins
# with two blanks and a dash; what is indented further continues it.
_quip_options() {
  awk '/^  -/ { if (text) print text; name = $1
                if (name == "-h") name = "--help"
                sub(/^ +/, ""); text = name "\t" $0; next }
       /^   / { if (text) { sub(/^ +/, " "); text = text $0 }; next }
       { if (text) print text; text = "" }
       END { if (text) print text }' <<<"$help"
}

# _quip_choices TEXT: the values that an option's whole text names: `on|off`; `auto, cpu or cuda`; `one of
# A, B, C`; `A: remark; B: remark`; or else `what it does (A), or something else (B)`. Nothing where it
# names fewer than two, so that no stray word is offered.
_quip_choices() {
  awk '
    function word(text) { return text ~ /^[a-z0-9][a-z0-9-]*$/ }
    function trim(text) { gsub(/^ +| +$/, "", text); return text }
    # Keeps the parts of `text` between separators as values, or nothing unless all are single words.
    function keep(text, separator,   parts, i) {
      count = split(text, parts, separator)
      for (i = 1; i <= count; ++i) {
        values[i] = trim(parts[i])
        if (!word(values[i])) { count = 0; return }
      }
    }
    function keep_listed(text) {
      while (gsub(/\([^()]*\)/, "", text)) {}
      sub(/;.*/, "", text)
      sub(/^.*: /, "", text)
      sub(/^ *one of /, "", text)
      gsub(/,? or /, ",", text)
      keep(text, ",")
    }
    function keep_before_remarks(text) {
      gsub(/: [^;]*/, "", text)
      keep(text, ";")
    }
    function keep_in_parentheses(text,   found) {
      while (match(text, /\([^()]*\)/)) {
        found = found "," substr(text, RSTART + 1, RLENGTH - 2)
        text = substr(text, RSTART + RLENGTH)
        sub(/[:;].*/, "", found)
      }
      keep(substr(found, 2), ",")
    }
    {
      kind = $2
      text = $0
      sub(/^[^ ]+ [^ ]+ */, "", text)
      if (match(text, /^\(=[^)]*\)/)) {
        standard = substr(text, 3, RLENGTH - 3)
        text = substr(text, RLENGTH + 1)
      }
      if (kind ~ /^[a-z]+(\|[a-z]+)+$/) keep(kind, "|")
      else if (kind !~ /^(NAME|STYLE|WHICH|WHAT)$/) exit
      if (count < 2) keep_listed(text)
      if (count < 2) keep_before_remarks(text)
      if (count < 2) keep_in_parentheses(text)
      if (count < 2) exit
      for (i = 1; i <= count; ++i) print values[i]
      if (word(standard)) print standard
    }' <<<"$1" | sort -u
}

# _quip_value OPTION: candidates for its value. Fails if the option has none, or is unknown.
_quip_value() {
  local name text kind
  while IFS=$'\t' read -r name text; do
    [[ "$name" == "$1" ]] || continue
    kind=${text#"$name "}
    [[ "$kind" != "$text" && "$kind" != ' '* ]] || return 1 # a switch
    case "$kind" in
      DIR*)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
      FILE* | PATH*) ;; # bash itself completes files where there is no candidate
      *) mapfile -t COMPREPLY < <(compgen -W "$(_quip_choices "$text")" -- "$word") ;;
    esac
    return 0
  done < <(_quip_options)
  return 1
}

_quip() {
  local help='' word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    _quip_help
    [[ -n "$help" ]] || return
    local commands
    commands=$(awk '/^commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }' <<<"$help")
    mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$word")
    return
  fi
  # bash cuts --option=value into three words.
  if [[ "$word" == '=' ]]; then
    word=''
  elif [[ "$previous" == '=' ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  _quip_help "${COMP_WORDS[1]}"
  if [[ "$previous" == --* ]] && _quip_value "$previous"; then return; fi
  if [[ -z "$word" || "$word" == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_quip_options | cut -f 1)" -- "$word")
  fi
}

complete -o default -F _quip quip
