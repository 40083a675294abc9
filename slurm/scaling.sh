# The common part of jobs/scaling_strong.sbatch and jobs/scaling_weak.sbatch, which source it.
# Started by a user it submits the script once for every node count, and a last job that collects; the
# jobs come back here as `measure COUNT` and `collect`. With --ranks all of it runs here, by mpirun.
# shellcheck shell=bash

usage() {
  cat <<TEXT
Usage: bash jobs/scaling_$kind.sbatch --study DIR [options] -- OPTIONS OF QUANTIZE
  --study DIR          gets reports/ (report.json of every run), logs/, scaling.csv, scaling.md,
                       scaling.png and scaling.svg
  --node-counts LIST   a job for each: "1,2,4,8"
  --ranks LIST         instead of jobs: "1,2" ranks by mpirun on this machine, here and now
  --threads N          threads of a rank with --ranks (1)
  --repeats N          runs of each count; the table has their median (3)
TEXT
  [[ "$kind" == strong ]] || echo '  --samples-each N     calibration samples for each node (for each rank with --ranks)'
  cat <<'TEXT'
  --one-by-one         no two jobs at a time, where they would share a network or file system
  --sbatch OPTION      goes to sbatch, as in --sbatch --partition=gpu; may be repeated
Each run's --out is the study's own. Finished runs are not repeated: after a failed job start the
same command once more. Variables as in slurm/job.sh; QUIP_PYTHON is a Python with matplotlib
(.venv/bin/python where that is there).
TEXT
}

# Parses options as a user wrote them, and as the jobs get them again.
parse() {
  study='' counts='' unit=node threads=1 repeats=3 samples_each='' one_by_one=no sbatch_options=() arguments=()
  while (($#)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --one-by-one) one_by_one=yes && shift && continue ;;
      --)
        shift
        arguments=("$@")
        break
        ;;
      --samples-each) [[ "$kind" == weak ]] || refuse "--samples-each is for weak scaling (see --help)" ;;&
      --study | --node-counts | --ranks | --threads | --repeats | --sbatch | --samples-each)
        (($# >= 2)) || refuse "$1 wants a value (see --help)"
        ;;
      -*) refuse "unknown option '$1'; options of quantize stand after -- (see --help)" ;;
      *) refuse "unexpected '$1' (see --help)" ;;
    esac
    case "$1" in
      --study) study=$2 ;;
      --node-counts) counts=$2 unit=node ;;
      --ranks) counts=$2 unit=rank ;;
      --threads) threads=$2 ;;
      --repeats) repeats=$2 ;;
      --samples-each) samples_each=$2 ;;
      --sbatch) sbatch_options+=("$2") ;;
    esac
    shift 2
  done
}

check() {
  local value word
  [[ -n "$study" ]] || refuse "--study is missing (see --help)"
  study=$(realpath -m -- "$study")
  word=$counts
  mapfile -t counts < <(tr , '\n' <<<"$word" | sort -nu)
  if ((${#counts[@]} < 2)) || [[ ! "$word" =~ ^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*$ ]]; then
    refuse "--node-counts (or --ranks) wants at least two numbers from 1 to 9999, as in 1,2,4, not '$word'"
  fi
  for value in "$threads" "$repeats" ${samples_each:+"$samples_each"}; do
    [[ "$value" =~ ^[1-9][0-9]*$ ]] || refuse "'$value': --threads, --repeats and --samples-each want positive numbers"
  done
  [[ "$kind" == strong || -n "$samples_each" ]] || refuse "--samples-each is missing (see --help)"
  ((${#arguments[@]})) || refuse "no options of quantize after --; give at least --model, --tokens and --bits"
  for word in "${arguments[@]}"; do
    case "$word" in
      --out | --out=* | --resume) refuse "$word: every run of a study has a new output directory of its own" ;;
      --samples | --samples=*)
        [[ "$kind" == strong ]] || refuse "$word: weak scaling sets the samples; give --samples-each"
        ;;
    esac
  done
}

# Runs are comparable only if everything but the count is the same.
remember_inputs() {
  local inputs difference remembered=$study/study.inputs
  inputs=$(printf '%s\n' "$kind scaling by ${unit}s" "threads $threads" "samples each ${samples_each:--}" \
    "quantize ${arguments[*]@Q}")
  mkdir -p "$study/reports" "$study/logs" "$study/runs"
  if [[ -e "$remembered" ]]; then
    difference=$(diff "$remembered" - <<<"$inputs") ||
      refuse "$study holds another study; choose another --study"$'\n'"$difference"
  else
    printf '%s\n' "$inputs" >"$remembered"
  fi
}

run_name() { printf '%04d-%d' "$1" "$2"; }

measured() {
  local repeat
  for ((repeat = 1; repeat <= repeats; ++repeat)); do
    [[ -e "$study/reports/$(run_name "$1" "$repeat").json" ]] || return 1
  done
}

# keep_report OUT TARGET COUNT REPEAT: keeps the report of a run, with the study's own entries; prints its time.
keep_report() {
  local nodes=1
  [[ "$unit" == rank ]] || nodes=$3
  python3 - "$@" "$kind" "$nodes" <<'PY'
import json, os, sys

out, target, count, repeat, kind, nodes = sys.argv[1:]
report = json.load(open(f"{out}/report.json"))
work = int(count) if kind == "weak" else 1
digest = json.load(open(f"{out}/inspect.json"))["digest"]
report["study"] = {"kind": kind, "nodes": int(nodes), "work": work, "repeat": int(repeat), "digest": digest}
with open(target + ".new", "w") as file:
    json.dump(report, file)
os.replace(target + ".new", target)
print(f"{report['seconds']:.2f} s")
PY
}

# measure_run COUNT REPEAT: does one run with `launch`, unless its report is there; removes the model.
measure_run() {
  local name out log said samples=()
  name=$(run_name "$1" "$2")
  out=$study/runs/$name log=$study/logs/$name.log
  [[ ! -e "$study/reports/$name.json" ]] || return 0
  [[ "$kind" == strong ]] || samples=(--samples "$((samples_each * $1))")
  rm -rf "$out" # left by an interrupted run
  if "${launch[@]}" "$quip" quantize --progress none "${arguments[@]}" "${samples[@]}" --out "$out" \
    </dev/null >"$log" 2>&1 &&
    "$quip" inspect "$out" --json >"$out/inspect.json" 2>>"$log" &&
    said=$(keep_report "$out" "$study/reports/$name.json" "$1" "$2" 2>>"$log"); then
    echo "run $name: $said"
    rm -rf "$out"
  else
    echo "scaling_$kind: run $name failed; from $log:" >&2
    { grep '^quip: error' "$log" || tail -n 3 "$log"; } >&2
    rm -rf "$out"
    return 1
  fi
}

measure_in_job() {
  local count=$1 repeat failures=0
  # shellcheck source=slurm/job.sh
  source "$root/slurm/job.sh"
  ((SLURM_JOB_NUM_NODES == count)) ||
    refuse "the job has $SLURM_JOB_NUM_NODES nodes instead of $count; leave --nodes out of --sbatch"
  choose_launcher
  show_nodes
  for ((repeat = 1; repeat <= repeats; ++repeat)); do measure_run "$count" "$repeat" || ((++failures)); done
  ((failures == 0))
}

# Counts take turns, so that a machine that gets busier or warmer affects all of them.
measure_here() {
  local count repeat cores failures=0
  command -v mpirun >/dev/null || refuse "mpirun is not on the PATH; load the MPI that quip was built with"
  # shellcheck source=slurm/find_quip.sh
  source "$root/slurm/find_quip.sh"
  find_quip refuse
  cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  for count in "${counts[@]}"; do
    ((count * threads <= cores)) ||
      refuse "--ranks $count with $threads thread(s) each, but $cores cores: their times would say nothing"
  done
  # Containers run as root: Open MPI wants to be told that this is meant.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMP_NUM_THREADS=$threads OMP_PROC_BIND=close OMP_PLACES=cores
  for ((repeat = 1; repeat <= repeats; ++repeat)); do
    for count in "${counts[@]}"; do
      launch=(mpirun --map-by "slot:PE=$threads" --bind-to core -n "$count")
      measure_run "$count" "$repeat" || ((++failures))
    done
  done
  collect || ((++failures))
  ((failures == 0))
}

submit_all() {
  local count after=() say
  for count in "${counts[@]}"; do
    if measured "$count"; then continue; fi
    after=()
    if [[ "$one_by_one" == yes ]] && ((${#jobs[@]})); then after=(--dependency="afterany:${jobs[-1]}"); fi
    submit --job-name="quip-$kind-$count" --nodes="$count" --exclusive --output="$study/logs/nodes-$count.log" \
      "${after[@]}" "${sbatch_options[@]}" "$original" measure "$count" "${given[@]}"
  done
  say='nothing is left to measure'
  after=()
  if ((${#jobs[@]})); then
    say="jobs ${jobs[*]} measure"
    after=(--dependency="afterany:$(IFS=: && echo "${jobs[*]}")")
  fi
  submit "${sbatch_options[@]}" --job-name="quip-$kind" --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 \
    --time=15 --mem=2G --output="$study/logs/collect.log" "${after[@]}" "$original" collect "${given[@]}"
  echo "$say; job ${jobs[-1]} collects into $study/scaling.md"
}

# Makes table and plots of the reports that are there; fails if some are missing.
collect() {
  local python=${QUIP_PYTHON:-} missing=() reports count
  if [[ -z "$python" ]]; then
    python=python3
    [[ ! -x "$root/.venv/bin/python" ]] || python=$root/.venv/bin/python
  fi
  for count in "${counts[@]}"; do measured "$count" || missing+=("$count"); done
  reports=("$study"/reports/*.json)
  [[ -e "${reports[0]}" ]] || refuse "no run ended well; $study/logs says why"
  "$python" "$root/jobs/plot_scaling.py" "${reports[@]}" --out "$study/scaling"
  if ((${#missing[@]})); then
    echo "scaling_$kind: runs on ${missing[*]} ${unit}s are missing; $study/logs says why" >&2
    return 1
  fi
}

# scaling KIND SCRIPT [measure COUNT | collect] OPTION...
scaling() {
  kind=$1 original=$(realpath -- "$2")
  shift 2
  root=$(dirname "$original")/..
  # shellcheck disable=SC2034  # read by submit.sh
  script=scaling_$kind without_slurm='; give --ranks instead of --node-counts to do without Slurm'
  # shellcheck source=slurm/submit.sh
  source "$root/slurm/submit.sh"
  local role=submit nodes=0
  case "${1:-}" in
    measure) role=measure nodes=$2 && shift 2 ;;
    collect) role=collect && shift ;;
  esac
  given=("$@")
  parse "$@"
  check
  remember_inputs
  case "$role $unit" in
    measure*) measure_in_job "$nodes" ;;
    collect*) collect ;;
    *rank) measure_here ;;
    *) submit_all ;;
  esac
}
