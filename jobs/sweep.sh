#!/usr/bin/env bash
# Quantizes a model in many ways and tabulates what that does to it. Can be stopped at any time:
# the next run with the same --out goes on where this one ended.
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
  --quip FILE        the program (build/release/bin/quip)
  --keep             keep the packed models, in runs/
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
  [ranks]=1 [quip]="$root/build/release/bin/quip"
)
keep=no extra=()
while (($#)); do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --keep) keep=yes && shift ;;
    --)
      shift
      extra=("$@")
      break
      ;;
    --model | --tokens | --eval | --out | --methods | --processing | --bits | --seeds | --settings | --ranks | --quip)
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

out=${option[out]} model=${option[model]}
name=$(basename "$model")
csv=$out/sweep.csv
mkdir -p "$out/runs" "$out/reports" "$out/logs"
exec 9>"$out/.lock"
flock -n 9 || die "another sweep is writing to $out"

# Rows are comparable only if everything that is not a column is the same.
inputs=$(printf '%s\n' "model $model" "tokens ${option[tokens]}" "eval ${option[eval]}" "extra ${extra[*]@Q}")
remembered=$out/$name.inputs
if [[ -e "$remembered" ]]; then
  difference=$(diff "$remembered" - <<<"$inputs") ||
    die "$out holds runs of $name with other inputs; choose another --out"$'\n'"$difference"
else
  printf '%s\n' "$inputs" >"$remembered"
fi

# Containers run as root and have few cores: Open MPI wants to be told that both are meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
quip() { mpirun -n "${option[ranks]}" "${option[quip]}" "$@" </dev/null; }

# table has KEY... | table add EVALUATION REPORT INSPECTION KEY...: the one place that knows the
# columns. A last line without its end is what an interrupted write left: it is dropped.
table() {
  python3 - "$csv" "$@" <<'PY'
import csv, io, json, os, sys

file, action, *arguments = sys.argv[1:]
columns = ("model method processing bits seed settings mean_relative_proxy_loss perplexity "
           "seconds digest").split()
text = open(file, newline="").read() if os.path.exists(file) else ""
if text and not text.endswith("\n"):
    text = text[: text.rfind("\n") + 1]
    open(file, "w", newline="").write(text)
if action == "has":
    rows = csv.reader(io.StringIO(text))
    sys.exit(0 if any(row[: len(arguments)] == arguments for row in rows) else 1)
evaluation, report, inspection, *key = arguments
load = lambda path: json.load(open(path)) if path != "-" else {}
perplexity, quantized, digest = load(evaluation)["perplexity"], load(report), load(inspection)
line = io.StringIO()
writer = csv.writer(line, lineterminator="\n")
if not text:
    writer.writerow(columns)
writer.writerow([*key, quantized.get("mean_relative_proxy_loss", 0), perplexity,
                 quantized.get("seconds", 0), digest.get("digest", "")])
with open(file, "a", newline="") as out:
    out.write(line.getvalue())
print(f"perplexity {perplexity:.4f}, {quantized.get('seconds', 0):.1f} s")
PY
}

# With `set -e` off inside a condition, every step has to say that its failure counts.
run_one() {
  local run=$1 log=$2 method=$3 processing=$4 bits=$5 seed=$6 settings=$7 paper=() own=() words word
  [[ "$settings" == default ]] || paper=(--paper)
  IFS=: read -ra words <<<"$method"
  for word in "${words[@]:1}"; do own+=("--${word%%=*}" "${word#*=}"); done
  rm -rf "$run" # what an interrupted sweep left
  quip quantize --model "$model" --tokens "${option[tokens]}" --out "$run" --method "${words[0]}" \
    --processing "$processing" --bits "$bits" --seed "$seed" "${paper[@]}" "${own[@]}" --progress none \
    "${extra[@]}" >"$log" 2>&1 || return 1
  quip eval --model "$model" --packed "$run" --tokens "${option[eval]}" --json --progress none \
    >"$scratch/eval" 2>>"$log" || return 1
  "${option[quip]}" inspect "$run" --json >"$scratch/inspect" 2>>"$log" || return 1
  cp "$run/report.json" "$out/reports/$(basename "$run").json" || return 1
  table add "$scratch/eval" "$run/report.json" "$scratch/inspect" \
    "$name" "$method" "$processing" "$bits" "$seed" "$settings" 2>>"$log" || return 1
}

scratch=$(mktemp -d)
current=''
finish() {
  rm -rf "$scratch"
  if [[ -n "$current" ]]; then rm -rf "$current"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

if ! table has "$name" unquantized; then
  echo "$name unquantized"
  quip eval --model "$model" --tokens "${option[eval]}" --json --progress none >"$scratch/eval"
  table add "$scratch/eval" - - "$name" unquantized - - - -
fi

runs=()
for bits in "${bits_list[@]}"; do
  for processing in "${processings[@]}"; do
    some=("${seeds[@]}")
    [[ "$processing" != baseline ]] || some=("${seeds[0]}")
    for method in "${methods[@]}"; do
      for settings in "${settings_list[@]}"; do
        for seed in "${some[@]}"; do
          runs+=("$method $processing $bits $seed $settings")
        done
      done
    done
  done
done

number=0 failures=0
for words in "${runs[@]}"; do
  read -ra key <<<"$words"
  ((++number))
  if table has "$name" "${key[@]}"; then continue; fi
  id=$name-${words//[ :=]/-}
  current=$out/runs/$id
  printf '[%d/%d] %s %s: ' "$number" "${#runs[@]}" "$name" "$words"
  if ! run_one "$current" "$out/logs/$id.log" "${key[@]}"; then
    echo "FAILED; $out/logs/$id.log ends:"
    tail -n 3 "$out/logs/$id.log"
    ((++failures))
  elif [[ "$keep" == yes ]]; then
    current=''
  fi
  if [[ -n "$current" ]]; then rm -rf "$current"; fi
  current=''
done
if ((failures)); then
  echo "sweep.sh: $failures of ${#runs[@]} runs failed" >&2
  exit 1
fi
echo "$csv"
