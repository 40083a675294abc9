# What the jobs share; sourced by them. Runs `quip` on the allocation, and lets it end in time: when
# the time limit nears or the job is cancelled, the ranks checkpoint, and the job queues itself again.
#
#   QUIP            the program (default: quip, from the PATH)
#   QUIP_LAUNCHER   srun or mpirun (default: srun if it speaks PMIx)
#   QUIP_RESTARTS   how often a job may queue itself again (default: 20)
# shellcheck shell=bash

die() {
  echo "${SLURM_JOB_NAME:-job}: error: $1" >&2
  exit 2
}

quip=${QUIP:-quip}
command -v "$quip" >/dev/null || die "'$quip' is not on the PATH; set QUIP to the program"

# Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=$SRUN_CPUS_PER_TASK OMP_PROC_BIND=close OMP_PLACES=cores

choose_launcher() {
  local launcher=${QUIP_LAUNCHER:-}
  if [[ -z "$launcher" ]]; then
    launcher=mpirun
    if srun --mpi=list 2>&1 | grep -qw pmix; then launcher=srun; fi
  fi
  case "$launcher" in
    srun)
      srun --mpi=list 2>&1 | grep -qw pmix ||
        die "this Slurm has no PMIx, which srun needs to start MPI; set QUIP_LAUNCHER=mpirun"
      # -K: one dead rank ends the step instead of leaving the others to wait for it.
      launch=(srun --mpi=pmix -K --cpu-bind=cores)
      ;;
    mpirun)
      command -v mpirun >/dev/null || die "mpirun is not on the PATH; load the MPI that quip was built with"
      # Slurm has given the cores; ranks of a node share them evenly.
      launch=(mpirun --bind-to none -n "${SLURM_NTASKS:?run this with sbatch}")
      ;;
    *) die "QUIP_LAUNCHER=$launcher: must be srun or mpirun" ;;
  esac
}

launch=()
child=0
asked=no

# The warning before the time limit comes to this script alone: pass it on to the ranks.
on_warning() {
  asked=yes
  if ((child)); then kill -USR1 "$child" 2>/dev/null || true; fi
}

# run_quip ARGUMENT...: runs it on all tasks. Ends the job script with its status, or queues the job
# again if it was stopped by the time limit's warning (#SBATCH --signal=B:USR1@…).
run_quip() {
  choose_launcher
  trap on_warning USR1
  trap : TERM # scancel and requeue: Slurm tells the ranks itself, and they need this script alive
  "${launch[@]}" "$quip" "$@" &
  child=$!
  local status=0
  wait "$child" || status=$?
  # A trapped signal ends `wait` before the child has ended.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  local restarts=${SLURM_RESTART_COUNT:-0} most=${QUIP_RESTARTS:-20}
  # Whatever the ranks said: a warning may also hit them before they listen.
  if ((status)) && [[ "$asked" == yes ]]; then
    if ((restarts >= most)); then
      echo "stopped in time, but restarted $restarts times already (QUIP_RESTARTS=$most): not queued again" >&2
      exit 75
    fi
    echo "stopped in time; queued again (restart $((restarts + 1)))"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # until Slurm ends this script
  fi
  exit "$status"
}
