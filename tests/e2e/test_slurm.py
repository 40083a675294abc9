"""The jobs on a real Slurm: four nodes on this machine, both launchers, requeued in every way.

QUIP_THOROUGH=1 adds one and four nodes, a node that goes down, and a cluster without munge.
"""

import os
import re
import signal
import subprocess

import pytest

import cli
from local_slurm import (
    CLUSTER,
    cluster_environment,
    needs_slurm,
    record,
    slurm,
    state_at_end,
    wait_for,
)

JOB = cli.ROOT / "jobs" / "quantize.sbatch"
SETTINGS = ("--tokens", cli.CALIBRATION, "--bits", 2, "--samples", 48, *cli.QUICK)

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return cli.inspect(cli.quantize(cli.model("llama-nano"), out, *SETTINGS))["digest"]


def submit(cluster, folder, *arguments, job=JOB, options=(), **extra):
    resources = ("--ntasks-per-node=1", "--cpus-per-task=1", "--mem=500", "--time=60")
    command = ("sbatch", "--parsable", f"--output={folder}/log", *resources, *options, job)
    return slurm(cluster, *command, *arguments, **extra)


def wait_to_end(cluster, job, folder):
    assert state_at_end(cluster, job) == "COMPLETED", (folder / "log").read_text()
    return int(re.search(r"Restarts=(\d+)", record(cluster, job))[1])


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


@pytest.mark.parametrize(
    ("job", "name"),
    [("quantize-405b.sbatch", "llama-3.1-405b"), ("quantize-opt-66b.sbatch", "opt-66b")],
)
def test_worked_examples(job, name, cluster, tmp_path):
    """A small model stands where the large one would be."""
    (tmp_path / name).symlink_to(cli.model("llama-nano"))
    (tmp_path / "calibration.h5").symlink_to(cli.CALIBRATION)
    more = ("--samples", 4, "--method", "nearest")
    script = cli.ROOT / "jobs" / job
    number = submit(cluster, tmp_path, tmp_path, *more, job=script, options=("--nodes=1",))
    assert wait_to_end(cluster, number, tmp_path) == 0
    options = cli.inspect(tmp_path / f"{name}-2bit", "--verify")["options"]
    assert (options["bits"], options["method"]) == (2, "nearest")


def ranks_run(cluster, folder, command, launcher, *options):
    """The log of a job on two nodes of two tasks whose ranks run a shell command, not quip."""
    program = folder / "quip"
    program.write_text(f"#!/usr/bin/env bash\n{command}\n")
    program.chmod(0o755)
    options = ("--nodes=2", "--ntasks-per-node=2", *options)
    how = {"QUIP": str(program), "QUIP_LAUNCHER": launcher}
    job = submit(cluster, folder, "x", options=options, **how)
    assert wait_to_end(cluster, job, folder) == 0
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
@pytest.mark.parametrize("gpus", ["--gpus-per-task=1", "--gpus-per-node=2"])
def test_a_rank_sees_all_gpus_of_its_node(gpus, launcher, cluster, tmp_path):
    """Left alone, Slurm shows a rank one GPU: with mpirun the same one to all ranks of a node."""
    command = 'echo "GPUs ${CUDA_VISIBLE_DEVICES:-none}"'
    said = ranks_run(cluster, tmp_path, command, launcher, gpus)
    assert said[0].startswith("nodes: ") and said[1:] == 4 * ["GPUs 0,1"]


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_ranks_have_all_cores_of_the_job(launcher, cluster, tmp_path):
    """Left alone, mpirun's daemon on a node gets the cores of one task for all of its ranks."""
    command = "scontrol show step $SLURM_JOB_ID.0"
    said = ranks_run(cluster, tmp_path, command, launcher, "--cpus-per-task=2")
    assert re.findall(r" CPUs=(\d+) ", "\n".join(said)) == 4 * ["8"]


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


def test_requeue_to_other_nodes(cluster, undisturbed, tmp_path):
    """A node is taken away while the job runs there: it goes on with another."""
    job = start(cluster, tmp_path)
    before = re.search(r" NodeList=(\S+)", record(cluster, job))[1]
    lost = slurm(cluster, "scontrol", "show", "hostnames", before).split()[1]
    slurm(cluster, "scontrol", "update", f"nodename={lost}", "state=drain", "reason=test")
    slurm(cluster, "scontrol", "requeue", job)
    try:
        assert wait_to_end(cluster, job, tmp_path) == 1
    finally:
        slurm(cluster, "scontrol", "update", f"nodename={lost}", "state=resume")
    assert cli.inspect(tmp_path / "out", "--verify")["digest"] == undisturbed
    now = re.search(r" NodeList=(\S+)", record(cluster, job))[1]
    assert now != before
    assert f"nodes: {now} (before the restart: {before}; " in (tmp_path / "log").read_text()


def bring_back(cluster, node):
    """A node that registers in the meantime is back by itself, and Slurm refuses to resume it."""
    command = ["scontrol", "update", f"nodename={node}", "state=resume"]
    subprocess.run(command, env=cluster, capture_output=True, check=False)
    wait_for(lambda: "State=DOWN" not in slurm(cluster, "scontrol", "show", "node", node))


@pytest.mark.skipif(not cli.THOROUGH, reason="half a minute; QUIP_THOROUGH=1 runs it")
def test_a_node_that_goes_down(cluster, undisturbed, tmp_path):
    job = start(cluster, tmp_path, options=("--nodes=2", "--nodelist=n0,n1"))
    slurm(cluster, "scontrol", "update", "nodename=n1", "state=down", "reason=test")
    slurm(cluster, "scontrol", "update", f"jobid={job}", "reqnodelist=")
    wait_for(lambda: "Restarts=1" in record(cluster, job))
    bring_back(cluster, "n1")
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


@pytest.mark.skipif(not cli.THOROUGH, reason="a cluster of its own; QUIP_THOROUGH=1 runs it")
def test_a_cluster_without_munge_says_so(tmp_path):
    environment = cluster_environment(tmp_path / "c", offset=100)

    def local_cluster(*words):
        return subprocess.run(
            [CLUSTER, *words], env=environment, capture_output=True, text=True, check=False
        )

    assert local_cluster("up", "1").returncode == 0
    os.kill(int((tmp_path / "c" / "munged.pid").read_text()), signal.SIGTERM)
    try:
        wait_for(lambda: local_cluster("status").returncode != 0)
        assert local_cluster("status").stderr == (
            "local-cluster: error: munged, by which Slurm knows its users, is not running; "
            "local-cluster down, then up\n"
        )
    finally:
        assert local_cluster("down").returncode == 0
