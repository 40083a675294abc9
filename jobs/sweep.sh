#!/usr/bin/env bash
# Quantizes a model in many ways and tabulates the results. Can be stopped at any time: the next run
# with the same --out goes on where this one ended.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: jobs/sweep.sh --model DIR --tokens FILE --eval FILE --out DIR [options] [-- OPTIONS OF QUANTIZE]
  --model DIR        Hugging Face directory
  --tokens FILE      calibration tokens
  --eval FILE        evaluation tokens
  --out DIR          gets sweep.csv, and reports/ with every run's report.json
  --methods LIST     rounding methods ("nearest ldlq"); METHOD:OPTION=VALUE, as in ldlq-rg:passes=0, adds an
                     option of quantize to that method alone
  --processing LIST  "baseline incoherence"
  --bits LIST        "2 3 4"
  --seeds LIST       "1 2 3"; the baseline has nothing random and runs with the first only
  --settings LIST    "paper default": with and without --paper
  --ranks N          MPI ranks of every run (1)
  --launch WORDS     the command that starts the ranks ("mpirun -n N")
  --quip FILE        the program (QUIP, or build/release/bin/quip of this checkout, or quip from the PATH)
  --keep             keep the packed models, in runs/
The rows of the grid can be run by themselves, at the same time (jobs/sweep.sbatch does that):
  --missing          prints the numbers of the rows that are still to be run, as in 0,3,4
  --only N           runs row N alone (0: the unquantized model); its line waits in rows/
  --merge            enters the lines that wait in rows/ in sweep.csv
Lists are words in one argument. Several models may share --out: the first column tells them apart.
A run that fails is reported, the others go on; the exit status is then 1.
TEXT
}

die() {
  echo "sweep.sh: error: $1" >&2
  exit 2
}

root=$(dirname "${BASH_SOURCE[0]}")/..
declare -A option=(
  [model]='' [tokens]='' [eval]='' [out]='' [methods]='nearest ldlq'
  [processing]='baseline incoherence' [bits]='2 3 4' [seeds]='1 2 3' [settings]='paper default'
  [ranks]=1 [launch]='' [quip]='' [only]=''
)
keep=no action=all extra=()
while (($#)); do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --keep) keep=yes && shift ;;
    --missing | --merge) action=${1#--} && shift ;;
    --)
      shift
      extra=("$@")
      break
      ;;
    --model | --tokens | --eval | --out | --methods | --processing | --bits | --seeds | --settings | --ranks | --launch | \
      --quip | --only)
      (($# >= 2)) || die "$1 wants a value (see --help)"
      option[${1#--}]=$2
      shift 2
      ;;
    -*) die "unknown option '$1' (see --help)" ;;
    *) die "unexpected '$1' (see --help)" ;;
  esac
done
for name in model tokens eval out; do
  [[ -n "${option[$name]}" ]] || die "--$name is missing (see --help)"
done
for name in model tokens eval; do
  [[ -e "${option[$name]}" ]] || die "--$name: ${option[$name]} is not there"
  option[$name]=$(realpath -- "${option[$name]}")
done
if [[ -z "${option[quip]}" ]]; then
  # shellcheck source=slurm/find_quip.sh
  source "$root/slurm/find_quip.sh"
  find_quip die
  option[quip]=$(command -v "$quip")
fi
[[ -x "${option[quip]}" ]] || die "--quip: ${option[quip]} is not a program; build it first"
[[ "${option[ranks]}" =~ ^[1-9][0-9]*$ ]] || die "--ranks wants a positive number, not '${option[ranks]}'"
read -ra methods <<<"${option[methods]}"
for word in "${methods[@]}"; do
  [[ "$word" =~ ^[a-z-]+(:[a-z-]+=[^:=/]+)*$ ]] || die "--methods: '$word' is not METHOD or METHOD:OPTION=VALUE"
done
read -ra processings <<<"${option[processing]}"
read -ra bits_list <<<"${option[bits]}"
read -ra seeds <<<"${option[seeds]}"
read -ra settings_list <<<"${option[settings]}"
for word in "${settings_list[@]}"; do
  [[ "$word" == paper || "$word" == default ]] || die "--settings: '$word' is neither paper nor default"
done

[[ "${option[only]}" =~ ^[0-9]*$ ]] || die "--only wants the number of a row, not '${option[only]}'"

out=${option[out]} model=${option[model]}
name=$(basename "$model")
csv=$out/sweep.csv
mkdir -p "$out/runs" "$out/reports" "$out/logs" "$out/rows"

# clear_away FOLDER: removes what an interrupted sweep has left, whose ranks may still be ending there.
clear_away() {
  for _ in {1..20}; do
    rm -rf "$1" 2>/dev/null && return
    sleep 0.5
  done
  rm -rf "$1"
}

# lock FILE WHAT SECONDS: holds a lock until this script ends: a single row on its log, all rows on the folder.
lock() {
  exec 9>>"$1"
  flock -w "$3" 9 || die "another sweep is writing to $2"
}

# Rows are comparable only if everything that is not a column is the same.
inputs=$(printf '%s\n' "model $model" "tokens ${option[tokens]}" "eval ${option[eval]}" "extra ${extra[*]@Q}")
remembered=$out/$name.inputs
if [[ -e "$remembered" ]]; then
  difference=$(diff "$remembered" - <<<"$inputs") ||
    die "$out holds runs of $name with other inputs; choose another --out"$'\n'"$difference"
else
  printf '%s\n' "$inputs" >"$remembered.$$"
  mv "$remembered.$$" "$remembered"
fi

if [[ -n "${option[launch]}" ]]; then
  read -ra launch <<<"${option[launch]}"
else
  # Containers run as root and have few cores: Open MPI wants to be told that both are meant.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
  launch=(mpirun -n "${option[ranks]}")
fi
quip() { "${launch[@]}" "${option[quip]}" "$@" </dev/null; }

# table FILE has KEY... | table FILE add EVALUATION REPORT INSPECTION KEY... | table FILE take OTHER:
# reads and writes the columns, which are named here only. A last line without its end comes from an
# interrupted write: it does not count, and the next write drops it.
table() {
  python3 - "$@" <<'PY'
import csv, io, json, os, sys

file, action, *arguments = sys.argv[1:]
columns = ("model method processing bits seed settings mean_relative_proxy_loss perplexity "
           "divergence agreement seconds digest").split()


def whole_lines(path):
    text = open(path, newline="").read() if os.path.exists(path) else ""
    return text[: text.rfind("\n") + 1]


def append(row):
    if text and next(csv.reader(io.StringIO(text))) != columns:
        sys.exit(f"{file} has other columns: it is of another version; choose another --out")
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerows([row] if text else [columns, row])
    with open(file, "r+" if os.path.exists(file) else "w", newline="") as out:
        out.seek(len(text.encode()))
        out.truncate()
        out.write(line.getvalue())


text = whole_lines(file)
if action == "has":
    rows = csv.reader(io.StringIO(text))
    sys.exit(0 if any(row[: len(arguments)] == arguments for row in rows) else 1)
if action == "take":
    append(list(csv.reader(io.StringIO(whole_lines(arguments[0]))))[1])
    sys.exit(0)
evaluation, report, inspection, *key = arguments
load = lambda path: json.load(open(path)) if path != "-" else {}
found, quantized, digest = load(evaluation), load(report), load(inspection)
perplexity, beside = found["perplexity"], found.get("against", {"divergence": 0, "agreement": 1})
append([*key, quantized.get("mean_relative_proxy_loss", 0), perplexity, beside["divergence"],
        beside["agreement"], quantized.get("seconds", 0), digest.get("digest", "")])
print(f"perplexity {perplexity:.4f}, {quantized.get('seconds', 0):.1f} s")
PY
}

# With `set -e` off inside a condition, every step has to say that its failure counts.
run_one() {
  local run=$1 log=$2 method=$3 processing=$4 bits=$5 seed=$6 settings=$7 paper=() own=() words word
  [[ "$settings" == default ]] || paper=(--paper)
  IFS=: read -ra words <<<"$method"
  for word in "${words[@]:1}"; do own+=("--${word%%=*}" "${word#*=}"); done
  clear_away "$run"
  quip quantize --model "$model" --tokens "${option[tokens]}" --out "$run" --method "${words[0]}" \
    --processing "$processing" --bits "$bits" --seed "$seed" "${paper[@]}" "${own[@]}" --progress none \
    "${extra[@]}" >"$log" 2>&1 || return 1
  quip eval --model "$model" --packed "$run" --against "$model" --tokens "${option[eval]}" --json \
    --progress none >"$scratch/eval" 2>>"$log" || return 1
  "${option[quip]}" inspect "$run" --json >"$scratch/inspect" 2>>"$log" || return 1
  cp "$run/report.json" "$out/reports/$(basename "$run").json" || return 1
  table "$csv" add "$scratch/eval" "$run/report.json" "$scratch/inspect" \
    "$name" "$method" "$processing" "$bits" "$seed" "$settings" 2>>"$log" || return 1
}

run_unquantized() {
  local log=$1
  quip eval --model "$model" --tokens "${option[eval]}" --json --progress none >"$scratch/eval" 2>"$log" || return 1
  table "$csv" add "$scratch/eval" - - "$name" unquantized - - - - 2>>"$log" || return 1
}

rows=("unquantized - - - -")
for bits in "${bits_list[@]}"; do
  for processing in "${processings[@]}"; do
    some=("${seeds[@]}")
    [[ "$processing" != baseline ]] || some=("${seeds[0]}")
    for method in "${methods[@]}"; do
      for settings in "${settings_list[@]}"; do
        for seed in "${some[@]}"; do
          rows+=("$method $processing $bits $seed $settings")
        done
      done
    done
  done
done
last=$((${#rows[@]} - 1))

id_of() { echo "$name-${1//[ :=]/-}"; }

# done_already FILE WORDS: true if the row is in the file.
done_already() {
  local key
  read -ra key <<<"$2"
  table "$1" has "$name" "${key[@]}"
}

# run_row NUMBER: runs a row, unless its line is in $csv, and enters it there.
run_row() {
  local row=${rows[$1]} key log worked=yes
  if done_already "$csv" "$row"; then return; fi
  read -ra key <<<"$row"
  log=$out/logs/$(id_of "$row").log
  printf '[%d/%d] %s %s: ' "$1" "$last" "$name" "$row"
  if (($1 == 0)); then
    run_unquantized "$log" || worked=no
  else
    current=$out/runs/$(id_of "$row")
    run_one "$current" "$log" "${key[@]}" || worked=no
    if [[ "$keep" == no || "$worked" == no ]]; then rm -rf "$current"; fi
    current=''
  fi
  if [[ "$worked" == no ]]; then
    echo "FAILED; $log ends:"
    tail -n 3 "$log"
    return 1
  fi
}

# merge: enters the lines of rows that ran alone, in the grid's order.
merge() {
  local row line
  for row in "${rows[@]}"; do
    line=$out/rows/$(id_of "$row").csv
    [[ -e "$line" ]] || continue
    done_already "$csv" "$row" || ! done_already "$line" "$row" || table "$csv" take "$line"
    rm "$line"
  done
}

missing() {
  local number found=()
  for ((number = 0; number <= last; ++number)); do
    done_already "$csv" "${rows[number]}" ||
      done_already "$out/rows/$(id_of "${rows[number]}").csv" "${rows[number]}" || found+=("$number")
  done
  (IFS=, && echo "${found[*]}")
}

scratch=$(mktemp -d)
current=''
finish() {
  rm -rf "$scratch"
  if [[ -n "$current" ]]; then rm -rf "$current"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

if [[ "$action" == missing ]]; then
  missing
  exit
fi
if [[ -n "${option[only]}" ]]; then
  number=${option[only]}
  ((number <= last)) || die "--only $number: the grid has rows 0 to $last"
  id=$(id_of "${rows[number]}")
  lock "$out/logs/$id.log" "row $number of $out" 0
  if done_already "$csv" "${rows[number]}"; then exit; fi
  csv=$out/rows/$id.csv
  run_row "$number"
  exit
fi
# The sweeps of several models may end at the same time; entering lines takes moments.
wait=0
[[ "$action" != merge ]] || wait=60
lock "$out/.lock" "$out" "$wait"
merge
failures=0
if [[ "$action" == merge ]]; then
  left=$(missing)
  if [[ -n "$left" ]]; then
    echo "sweep.sh: of rows 0 to $last these are missing: $left; $out/logs says why" >&2
    exit 1
  fi
else
  for ((number = 0; number <= last; ++number)); do run_row "$number" || ((++failures)); done
fi
if ((failures)); then
  echo "sweep.sh: $failures of $last runs failed" >&2
  exit 1
fi
echo "$csv"
