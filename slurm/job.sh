# The common part of the jobs, which source it. Runs `quip` on the allocation, and lets it end in time:
# when the time limit nears or the job is cancelled, the ranks checkpoint, and the job queues itself again.
#
#   QUIP            the program (default: build/release/bin/quip of this checkout, or else quip from the PATH)
#   QUIP_LAUNCHER   srun or mpirun (default: srun if it speaks PMIx)
#   QUIP_RESTARTS   how often a job may queue itself again (default: 20)
# shellcheck shell=bash

die() {
  echo "${SLURM_JOB_NAME:-job}: error: $1" >&2
  exit 2
}

# shellcheck source=slurm/find_quip.sh
source "${BASH_SOURCE[0]%/*}/find_quip.sh"
find_quip die

# Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=$SRUN_CPUS_PER_TASK

# choose_launcher: sets `launch`, the words that start a program on all tasks of the job, each rank
# on cores of its own and in sight of all GPUs of its node.
choose_launcher() {
  local launcher=${QUIP_LAUNCHER:-} pmix=no
  if srun --mpi=list 2>&1 | grep -w pmix >/dev/null; then pmix=yes; fi
  if [[ -z "$launcher" ]]; then
    launcher=mpirun
    if [[ "$pmix" == yes ]]; then launcher=srun; fi
  fi
  case "$launcher" in
    srun)
      [[ "$pmix" == yes ]] ||
        die "this Slurm has no PMIx, which srun needs to start MPI; set QUIP_LAUNCHER=mpirun"
      # -K: one dead rank ends the step instead of leaving the others to wait for it.
      launch=(srun --mpi=pmix -K)
      ;;
    mpirun)
      local why=''
      [[ "$pmix" == yes ]] || why="this Slurm has no PMIx, and "
      command -v mpirun >/dev/null || die "${why}mpirun is not on the PATH; load the MPI that quip was built with"
      launch=(mpirun -n "${SLURM_NTASKS:?run this with sbatch}")
      # Its own srun starts one daemon a node, which needs the cores of all ranks there.
      unset SRUN_CPUS_PER_TASK SLURM_CPUS_PER_TASK
      ;;
    *) die "QUIP_LAUNCHER=$launcher: must be srun or mpirun" ;;
  esac
  bind_cores "$launcher"
  show_gpus
}

# Where Slurm does not hold ranks on their cores, OpenMP must not bind threads either: every rank of
# a node would put its first thread on the node's first core.
bind_cores() {
  local bound=no
  if scontrol show config | grep -E '^TaskPlugin .*affinity' >/dev/null; then bound=yes; fi
  if [[ "$bound" == yes ]]; then
    export OMP_PROC_BIND=close OMP_PLACES=cores
  else
    export OMP_PROC_BIND=false
    unset OMP_PLACES
  fi
  case "$1 $bound" in
    'srun yes') launch+=(--cpu-bind=cores) ;;
    'mpirun yes') launch+=(--map-by "slot:PE=$OMP_NUM_THREADS" --bind-to core) ;;
    'mpirun no') launch+=(--bind-to none) ;;
  esac
}

# --gpus-per-task would show each rank its own GPU only (under mpirun: every rank of a node the same
# one), and NCCL and CUDA's peer access could not reach the others. quip takes the GPU with its rank's
# number within the node.
show_gpus() {
  local gpus=${SLURM_GPUS_ON_NODE:-0} tasks=${SLURM_TASKS_PER_NODE:-1}
  ((gpus)) || return 0
  if [[ -n "${SLURM_GPUS_PER_TASK:-}${SLURM_TRES_PER_TASK:-}" ]]; then
    unset SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK
    export SLURM_GPUS_PER_NODE=$gpus
  fi
  unset SLURM_GPU_BIND
  tasks=${tasks%%[(,]*}
  ((tasks == gpus)) ||
    echo "note: $tasks task(s) on a node with $gpus GPU(s); --ntasks-per-node=$gpus gives each task one" >&2
}

launch=()
child=0
asked=no

# The warning before the time limit comes to this script alone: pass it on to the ranks.
on_warning() {
  asked=yes
  if ((child)); then kill -USR1 "$child" 2>/dev/null || true; fi
}

# Prints the nodes of the job; after a restart also those before, from this job's log, if they differ.
show_nodes() {
  local now=${SLURM_JOB_NODELIST:-} log=/proc/$$/fd/1 before=''
  if ((${SLURM_RESTART_COUNT:-0})) && [[ -f "$log" ]]; then
    before=$(sed -n 's/^nodes: \([^ ]*\).*/\1/p' "$log" | tail -n 1)
  fi
  if [[ -n "$before" && "$before" != "$now" ]]; then
    echo "nodes: $now (before the restart: $before; the result does not depend on them)"
  else
    echo "nodes: $now"
  fi
}

# run_quip ARGUMENT...: runs quip on all tasks. Ends the job script with its status, or queues the job
# again if it was stopped by the time limit's warning (#SBATCH --signal=B:USR1@…).
run_quip() {
  choose_launcher
  show_nodes
  trap on_warning USR1
  trap : TERM # scancel, requeue: Slurm signals the ranks itself, and they need this script alive
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
  # Not judged by the ranks' status: a warning may also hit them before they listen.
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
