"""slurm/job.sh on clusters that this machine is not: stand-ins for Slurm's commands say what they
were called with. How Slurm itself takes it is test_slurm.py's."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

import cli

NO_PMIX, PMIX = "none\ncray_shasta\npmi2", "none\npmi2\npmix\npmix_v4"
# What the sourced script and these tests use, without what an MPI or a Slurm here would add.
TOOLS = ("bash", "cat", "env", "grep", "kill", "sed", "sleep", "tail")
JOB = {
    "QUIP": "quip",
    "SLURM_JOB_NAME": "quip",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_PER_TASK": "8",
}
SAYS = '#!/usr/bin/env bash\necho "called: ${0##*/} $*"\nenv | grep -E "^(OMP_|SLURM_GPU|SRUN_)"\n'


@pytest.fixture
def node(tmp_path):
    """job(mpi, affinity, without, **variables) runs `run_quip x` on a node with these commands."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))

    def command(name, text):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def job(mpi=PMIX, affinity=True, without=(), log=None, **variables):
        listing = f'if [[ "$1" == --mpi=list ]]; then echo "{mpi}"; exit; fi\n'
        command("srun", SAYS.replace("\n", "\n" + listing, 1))
        command("mpirun", SAYS)
        command("quip", SAYS)
        plugins = "task/affinity,task/cgroup" if affinity else "task/none"
        command("scontrol", f'#!/usr/bin/env bash\necho "TaskPlugin     = {plugins}"\n')
        for name in without:
            (tools / name).unlink()
        script = f'set -euo pipefail\nsource "{cli.ROOT}/slurm/job.sh"\nrun_quip x'
        log = log or tmp_path / "log"
        with log.open("a") as out:
            code = subprocess.run(
                [tools / "bash", "-c", script],
                env={"PATH": str(tools)} | JOB | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        return code, log.read_text().splitlines()

    return job


def test_srun_binds_ranks_and_threads(node):
    code, said = node()
    assert code == 0
    assert "called: srun --mpi=pmix -K --cpu-bind=cores quip x" in said
    assert {"OMP_NUM_THREADS=8", "SRUN_CPUS_PER_TASK=8"} <= set(said)
    assert {"OMP_PROC_BIND=close", "OMP_PLACES=cores"} <= set(said)


def test_without_pmix_mpirun_binds_them(node):
    code, said = node(mpi=NO_PMIX)
    assert code == 0
    assert "called: mpirun -n 4 --map-by slot:PE=8 --bind-to core quip x" in said
    assert {"OMP_PROC_BIND=close", "OMP_PLACES=cores"} <= set(said)


@pytest.mark.parametrize(
    ("launcher", "words"),
    [("srun", "srun --mpi=pmix -K"), ("mpirun", "mpirun -n 4 --bind-to none")],
)
def test_threads_of_unbound_ranks_are_free(launcher, words, node):
    """Bound by OpenMP alone, the ranks of a node would all begin on its first core."""
    _, said = node(affinity=False, QUIP_LAUNCHER=launcher, OMP_PLACES="cores")
    assert f"called: {words} quip x" in said
    assert "OMP_PROC_BIND=false" in said and "OMP_PLACES=cores" not in said


def test_other_than_one_task_per_gpu_is_noted(node):
    _, said = node(SLURM_GPUS_ON_NODE="4")
    note = "note: 2 task(s) on a node with 4 GPU(s); --ntasks-per-node=4 gives each task one"
    assert note in said


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mpi": NO_PMIX, "QUIP_LAUNCHER": "srun"}, "this Slurm has no PMIx"),
        ({"mpi": NO_PMIX, "without": ["mpirun"]}, "no PMIx, and mpirun is not on the PATH"),
        ({"without": ["mpirun"], "QUIP_LAUNCHER": "mpirun"}, "error: mpirun is not on the PATH"),
        ({"without": ["quip"]}, "'quip' is not on the PATH; set QUIP to the program"),
    ],
)
def test_what_is_missing_is_one_line(how, message, node):
    code, said = node(**how)
    assert code == 2
    assert len(said) == 1 and said[0].startswith("quip: error: ") and message in said[0]


@pytest.fixture
def checkout(tmp_path):
    """checkout(built, on_path) → (status, output) of a script that finds the program."""
    (tmp_path / "here" / "slurm").mkdir(parents=True)
    shutil.copy(cli.ROOT / "slurm" / "find_quip.sh", tmp_path / "here" / "slurm")
    program = tmp_path / "here" / "build" / "release" / "bin" / "quip"

    def find(built, on_path, **variables):
        tools = tmp_path / "tools"
        for there, file in ((built, program), (on_path, tools / "quip")):
            file.parent.mkdir(parents=True, exist_ok=True)
            if there:
                file.touch(mode=0o755)
        script = 'fail() { echo "$1"; exit 2; }\nsource here/slurm/find_quip.sh\nfind_quip fail\n'
        done = subprocess.run(
            [shutil.which("bash"), "-c", script + 'echo "$quip"'],
            cwd=tmp_path,
            env={"PATH": str(tools)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    return find, str(program)


def test_jobs_find_the_program_that_their_checkout_built(checkout):
    find, program = checkout
    assert find(built=False, on_path=True) == (0, "quip")
    assert find(built=True, on_path=True) == (0, program)
    assert find(built=True, on_path=True, QUIP="quip") == (0, "quip")


def test_jobs_say_where_they_looked_for_the_program(checkout):
    status, said = checkout[0](built=False, on_path=False)
    assert status == 2
    assert said == (
        "quip is neither built here (build/release/bin/quip) nor on the PATH; "
        "build it, or set QUIP to the program"
    )


def test_a_restart_says_that_the_nodes_changed(node, tmp_path):
    log = tmp_path / "one log"  # of all restarts, as with --open-mode=append
    node(log=log)
    node(log=log, SLURM_RESTART_COUNT="1")
    node(log=log, SLURM_RESTART_COUNT="2", SLURM_JOB_NODELIST="n[4,7]")
    _, said = node(log=log, SLURM_RESTART_COUNT="3", SLURM_JOB_NODELIST="n8")
    assert [line for line in said if line.startswith("nodes: ")] == [
        "nodes: n[1-2]",
        "nodes: n[1-2]",
        "nodes: n[4,7] (before the restart: n[1-2]; the result does not depend on them)",
        "nodes: n8 (before the restart: n[4,7]; the result does not depend on them)",
    ]


def test_local_cluster_names_what_is_not_installed(tmp_path):
    for tool in ("bash", "id", "hostname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "place").mkdir()
    environment = {"PATH": str(tmp_path), "QUIP_CLUSTER_DIR": str(tmp_path / "place" / "c")}
    # The script itself looks in the system's folders, too; a copy does not.
    script = (cli.ROOT / "slurm" / "local-cluster").read_text()
    copy = tmp_path / "local-cluster"
    copy.write_text(script.replace("PATH=$PATH:/usr/sbin:/sbin\n", ""))
    done = subprocess.run(
        [tmp_path / "bash", copy, "up"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "local-cluster: error: munged is not installed; run jobs/install-deps.sh --slurm\n"
    )
    assert os.listdir(tmp_path / "place") == []


LLAMA_405B = {
    "model_type": "llama",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = json.loads((cli.DATA / "configs" / "deepseek-v3.json").read_text())
OPT_66B = {
    "model_type": "opt",
    "hidden_size": 9216,
    "ffn_dim": 36864,
    "num_hidden_layers": 64,
    "num_attention_heads": 72,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 9216,
    "torch_dtype": "float16",
}


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("quantize-405b.sbatch", LLAMA_405B),
        ("quantize-opt-66b.sbatch", OPT_66B),
        ("quantize-deepseek-v3.sbatch", DEEPSEEK_V3),
    ],
)
def test_plans_in_the_examples_are_what_the_program_says(job, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = (cli.ROOT / "jobs" / job).read_text()
    shown = re.search(r"^#   (quip plan .*?)^#$(.*?)^set ", text, re.DOTALL | re.MULTILINE)
    words = shlex.split(re.sub(r"\\\n#", "", shown[1]))
    words[words.index("--model") + 1] = str(tmp_path)
    says = cli.run(*words[1:], "--codebook", "auto", "--target", "auto").stdout
    lines = [line.removeprefix("#   ").removeprefix("#") for line in shown[2].split("\n")[1:-1]]
    said = says[says.index(lines[0]) :].splitlines()
    # "other" counts the bytes of config.json, which is shorter here.
    assert [line for line in said if "  other " not in line] == [
        line for line in lines if "  other " not in line
    ]
    ranks_per_node = int(re.search(r"^#SBATCH --ntasks-per-node=(\d+)$", text, re.MULTILINE)[1])
    nodes = int(re.search(r"^#SBATCH --nodes=(\d+)$", text, re.MULTILINE)[1])
    assert lines[0].startswith(f"{nodes * ranks_per_node} ranks on {nodes} nodes, ")
