"""What is said of checkpoints that hold more than their configuration, or disagree with it."""

import json
import shlex
import shutil

import pytest

import checkpoints
import cli
import hf_models

NORM = "model.layers.0.self_attn.q_norm.weight"


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoints.copy(cli.model("llama-nano"), tmp_path / "model")


def add_tensor(checkpoint, name):
    """32 ones in bf16."""
    file = checkpoint / "model.safetensors"
    header, data = checkpoints.read(file)
    header[name] = {"dtype": "BF16", "shape": [32], "data_offsets": [len(data), len(data) + 64]}
    checkpoints.write(file, header, data + b"\x80\x3f" * 32)


def evaluate(checkpoint, samples):
    options = ("--tokens", cli.EVALUATION, "--samples", samples, "--json")
    return json.loads(cli.run("eval", "--model", checkpoint, *options).stdout)


def run(command, checkpoint, *options, **how):
    return cli.run(*command, "--model", checkpoint, "--samples", 2, *options, **how)


def commands(out):
    return {
        "quantize": ("quantize", "--tokens", cli.CALIBRATION, "--out", out, "--bits", 4),
        "eval": ("eval", "--tokens", cli.EVALUATION),
    }


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_tensors_of_another_family_in_a_block(name, checkpoint, tmp_path):
    command = commands(tmp_path / "out")[name]
    add_tensor(checkpoint, NORM)
    result = run(command, checkpoint, ranks=2, check=False)
    assert result.returncode == 1
    assert result.stderr.count("error:") == 1
    assert NORM in result.stderr and "--allow-unused" in result.stderr
    assert not (tmp_path / "out").exists()
    allowed = run(command, checkpoint, "--allow-unused", ranks=2)
    assert [NORM in line for line in allowed.stderr.splitlines()].count(True) == 1


def test_tensors_beyond_the_blocks_are_said_and_change_nothing(checkpoint):
    expected = evaluate(checkpoint, 2)
    add_tensor(checkpoint, "model.layers.4.mlp.up_proj.weight")
    result = run(commands(None)["eval"], checkpoint, "--json", ranks=2)
    assert result.stderr.count("model.layers.4.mlp.up_proj.weight") == 1
    assert str(expected["mean_loss"]) in result.stdout


def test_an_index_counts_more_than_a_stray_file(checkpoint):
    """The stray file is the whole of another model."""
    checkpoints.shard(checkpoint)
    stray = checkpoint / "model.safetensors"
    shutil.copy(cli.model("llama-micro") / "model.safetensors", stray)
    result = run(commands(None)["eval"], checkpoint, ranks=2)
    assert result.stderr.count(str(stray)) == 1


def test_rope_scaling_wins_over_rope_parameters(checkpoint):
    """The loss is what transformers 4.46 and 5.24 compute with rope_scaling alone."""
    hf_models.edit_config(
        checkpoint,
        rope_scaling={"rope_type": "linear", "factor": 4.0},
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    result = evaluate(checkpoint, 4)
    assert result["mean_loss"] == pytest.approx(4.787, abs=5e-4)


HUB = "models--meta-llama--Small"


@pytest.mark.parametrize(
    ("variable", "folder"),
    [("HF_HUB_CACHE", "."), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_models_in_the_cache_of_the_hub(variable, folder, tmp_path):
    """Laid out as `hf download meta-llama/Small` leaves it."""
    repository = tmp_path / folder / HUB
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    checkpoints.copy(cli.model("llama-nano"), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    unset = dict.fromkeys(("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"), "")
    environment = unset | {variable: str(tmp_path)}
    command = ("eval", "--tokens", cli.EVALUATION, "--samples", 2, "--json", "--model")
    found = cli.run(*command, "meta-llama/Small", environment=environment)
    assert json.loads(found.stdout) == evaluate(cli.model("llama-nano"), 2)
    missing = cli.run(*command, "meta-llama/Large", environment=environment, check=False)
    assert missing.returncode == 1
    assert f"nor is it in {(tmp_path / folder).as_posix().removesuffix('/.')}" in missing.stderr
    assert "hf download meta-llama/Large" in missing.stderr


@pytest.mark.parametrize(
    ("options", "form"),
    [((), "bf16"), (("--codebook", "trellis"), "exl3"), (("--for", "vllm"), "compressed-tensors")],
)
def test_what_to_do_next(options, form, tmp_path):
    """The commands that a run ends with, as they stand there."""
    checkpoint, tokens = cli.family("llama")
    out = tmp_path / "it's here"
    job = ("quantize", "--model", checkpoint, "--tokens", tokens, "--out", out)
    says = cli.run(*job, *options, "--group-size", 8) if form[0] == "c" else cli.run(*job, *options)
    lines = says.stdout[says.stdout.index("\nnext\n") :].splitlines()[2:]
    measure, export = (shlex.split(line.split("     ")[0]) for line in lines)
    assert measure[:2] == ["quip", "eval"] and export[:2] == ["quip", "export"]
    assert (
        "KL divergence" in cli.run(*(str(tokens) if w == "FILE" else w for w in measure[1:])).stdout
    )
    assert export[export.index("--format") + 1] == form
    cli.run(*export[1:])
    assert (tmp_path / f"it's here-{form}" / "README.md").exists()
