"""The jobs on a real Slurm: four nodes on this machine, both launchers, requeued in every way.

QUIP_THOROUGH=1 adds one and four nodes, and a node that goes down.
"""

import os
import re
import shutil
import subprocess
import time

import pytest

import cli

CLUSTER = cli.ROOT / "slurm" / "local-cluster"
JOB = cli.ROOT / "jobs" / "quantize.sbatch"
SETTINGS = ("--tokens", cli.CALIBRATION, "--bits", 2, "--samples", 48)

pytestmark = pytest.mark.skipif(
    shutil.which("sbatch") is None, reason="Slurm is not installed (jobs/install-deps.sh --slurm)"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment in which Slurm's commands reach the cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    port = 20000 + os.getpid() % 10000  # several test runs may share a machine
    environment = os.environ | cli.ENVIRONMENT
    environment |= {"QUIP_CLUSTER_DIR": str(folder / "c"), "QUIP_CLUSTER_PORT": str(port)}
    environment |= {"SLURM_CONF": str(folder / "c" / "slurm.conf"), "QUIP": str(cli.QUIP)}
    subprocess.run([CLUSTER, "up"], env=environment, check=True, capture_output=True)
    yield environment
    subprocess.run([CLUSTER, "down"], env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return cli.inspect(cli.quantize(cli.model("llama-nano"), out, *SETTINGS))["digest"]


def slurm(cluster, *command, **extra):
    done = subprocess.run(
        list(map(str, command)), env=cluster | extra, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def submit(cluster, folder, *arguments, options=(), **extra):
    resources = ("--ntasks-per-node=1", "--cpus-per-task=1", "--mem=500", "--time=60")
    command = ("sbatch", "--parsable", f"--output={folder}/log", *resources, *options, JOB)
    return slurm(cluster, *command, *arguments, **extra)


def record(cluster, job):
    return slurm(cluster, "scontrol", "show", "job", job)


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_to_end(cluster, job, folder):
    wait_for(lambda: re.search(r"JobState=(COMPLETED|FAILED|CANCEL|TIMEOUT)", record(cluster, job)))
    said = record(cluster, job)
    assert "JobState=COMPLETED" in said, (folder / "log").read_text()
    return int(re.search(r"Restarts=(\d+)", said)[1])


def start(cluster, folder, options=("--nodes=2",), **extra):
    """Submits a job and waits until its first block is written."""
    arguments = ("--model", cli.model("llama-nano"), *SETTINGS, "--out", folder / "out")
    job = submit(cluster, folder, *arguments, options=options, **extra)
    wait_for((folder / "out" / "blocks" / "block_00000.h5").exists)
    return job


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
@pytest.mark.parametrize("nodes", [1, 2, 4] if cli.THOROUGH else [2])
def test_one_digest_on_any_number_of_nodes(launcher, nodes, cluster, undisturbed, tmp_path):
    model = tmp_path / "a model"  # arguments with spaces survive
    model.symlink_to(cli.model("llama-nano"))
    out = tmp_path / "the output"
    job = submit(
        *(cluster, tmp_path, "--model", model, *SETTINGS, "--out", out),
        options=(f"--nodes={nodes}",),
        QUIP_LAUNCHER=launcher,
    )
    assert wait_to_end(cluster, job, tmp_path) == 0
    assert cli.inspect(out, "--verify")["digest"] == undisturbed


def test_the_warning_before_the_time_limit(cluster, undisturbed, tmp_path):
    job = start(cluster, tmp_path)
    slurm(cluster, "scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@… sends
    assert wait_to_end(cluster, job, tmp_path) == 1
    assert "stopped in time; queued again (restart 1)" in (tmp_path / "log").read_text()
    assert cli.inspect(tmp_path / "out", "--verify")["digest"] == undisturbed


def test_restarts_are_limited(cluster, tmp_path):
    job = start(cluster, tmp_path, QUIP_RESTARTS="0")
    slurm(cluster, "scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: "JobState=FAILED" in record(cluster, job))
    assert "ExitCode=75:0" in record(cluster, job)
    assert "not queued again" in (tmp_path / "log").read_text()


def test_requeue(cluster, undisturbed, tmp_path):
    job = start(cluster, tmp_path)
    slurm(cluster, "scontrol", "requeue", job)
    assert wait_to_end(cluster, job, tmp_path) == 1
    assert cli.inspect(tmp_path / "out", "--verify")["digest"] == undisturbed


@pytest.mark.skipif(not cli.THOROUGH, reason="half a minute; QUIP_THOROUGH=1 runs it")
def test_a_node_that_goes_down(cluster, undisturbed, tmp_path):
    job = start(cluster, tmp_path, options=("--nodes=2", "--nodelist=n0,n1"))
    slurm(cluster, "scontrol", "update", "nodename=n1", "state=down", "reason=test")
    slurm(cluster, "scontrol", "update", f"jobid={job}", "reqnodelist=")
    wait_for(lambda: "Restarts=1" in record(cluster, job))
    slurm(cluster, "scontrol", "update", "nodename=n1", "state=resume")
    assert wait_to_end(cluster, job, tmp_path) == 1
    assert cli.inspect(tmp_path / "out", "--verify")["digest"] == undisturbed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"QUIP": "no-such-program"}, "'no-such-program' is not on the PATH; set QUIP"),
        ({"QUIP_LAUNCHER": "ssh"}, "QUIP_LAUNCHER=ssh: must be srun or mpirun"),
    ],
)
def test_bad_settings_are_one_line(extra, message, cluster, tmp_path):
    job = submit(cluster, tmp_path, "--model", "x", **extra)
    wait_for(lambda: "JobState=FAILED" in record(cluster, job))
    log = (tmp_path / "log").read_text()
    assert message in log and len(log.splitlines()) == 1
