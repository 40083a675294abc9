"""Bad input, bad options and bad disks: one clear line, soon, and nothing half-written.

Cases run on two ranks, for no rank may wait for one that has given up; but mistakes on the command
line, which end before MPI starts. tests/unit/command_line_test.cpp has all of those.
"""

import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

import checkpoints
import cli
import hf_models

SECONDS = 30
QUERY = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.2.input_layernorm.weight"


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoints.copy(cli.model("llama-nano"), tmp_path / "model")


def refused(checkpoint, out, *options, tokens=cli.CALIBRATION, ranks=2, status=1, **how):
    """The one error line of a run that must fail."""
    defaults = {"--bits": 2, "--samples": 8}
    given = [part for key, value in defaults.items() if key not in options for part in (key, value)]
    result = cli.run(
        "quantize", "--model", checkpoint, "--tokens", tokens, "--out", out, *given, *options,
        ranks=ranks, check=False, timeout=SECONDS, **how,
    )  # fmt: skip
    assert result.returncode == status, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("quip: error: ")
    if out.is_dir() and any(out.iterdir()):
        assert cli.run("inspect", out, "--verify", check=False).returncode != 0
    return lines[0]


# --- the checkpoint ---


def test_missing_model_directory(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere", tmp_path / "out")


def test_missing_shard(checkpoint, tmp_path):
    files = checkpoints.shard(checkpoint)
    files[1].unlink()
    assert files[1].name in refused(checkpoint, tmp_path / "out")


def test_truncated_shard(checkpoint, tmp_path):
    files = checkpoints.shard(checkpoint)
    os.truncate(files[0], files[0].stat().st_size - 1)
    assert files[0].name in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("size", [0, 5, 60])
def test_file_shorter_than_its_header(checkpoint, size, tmp_path):
    os.truncate(checkpoint / "model.safetensors", size)
    assert "model.safetensors" in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63 - 8, 10**12])
def test_header_length_overflows(checkpoint, length, tmp_path):
    file = checkpoint / "model.safetensors"
    checkpoints.write(file, *checkpoints.read(file), length=length)
    assert "model.safetensors" in refused(checkpoint, tmp_path / "out")


def test_header_is_not_json(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", 16) + b"{" * 16)
    assert "model.safetensors" in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param(lambda begin, end: [begin - 64, end - 64], id="overlapping"),
        pytest.param(lambda begin, end: [10**15, 10**15 + end - begin], id="outside"),
        pytest.param(lambda begin, end: [end, begin], id="reversed"),
        pytest.param(lambda begin, end: [-64, end - begin - 64], id="negative"),
        pytest.param(lambda begin, end: [begin, end - 2], id="short"),
        pytest.param(lambda begin, end: [2**64 - 64, end - begin - 64], id="wrapping"),
    ],
)
def test_bad_offsets(checkpoint, offsets, tmp_path):
    checkpoints.edit_tensor(
        checkpoint, QUERY, lambda entry: entry.update(data_offsets=offsets(*entry["data_offsets"]))
    )
    assert "model.safetensors" in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"dtype": "I16"}, id="integers"),
        pytest.param({"dtype": "Q7"}, id="unknown-dtype"),
        pytest.param({"dtype": "F32"}, id="dtype-against-size"),
        pytest.param({"shape": [64, 256]}, id="other-shape-same-size"),
        pytest.param({"shape": [16384]}, id="one-dimension"),
        pytest.param({"shape": [2**62, 2**62]}, id="overflowing-shape"),
    ],
)
def test_wrong_dtype_or_shape(checkpoint, fields, tmp_path):
    checkpoints.edit_tensor(checkpoint, QUERY, lambda entry: entry.update(fields))
    assert QUERY in refused(checkpoint, tmp_path / "out")


def test_missing_tensor(checkpoint, tmp_path):
    header, data = checkpoints.read(checkpoint / "model.safetensors")
    header["renamed"] = header.pop(NORM)
    checkpoints.write(checkpoint / "model.safetensors", header, data)
    assert NORM in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("target", ["../secret.safetensors", "/etc/hostname"])
def test_index_names_a_file_outside(checkpoint, target, tmp_path):
    checkpoints.shard(checkpoint)
    checkpoints.write_index(checkpoint, checkpoints.index_of(checkpoint) | {QUERY: target})
    assert target in refused(checkpoint, tmp_path / "out")


def test_index_sends_a_tensor_to_the_wrong_shard(checkpoint, tmp_path):
    checkpoints.shard(checkpoint)
    index = checkpoints.index_of(checkpoint)
    other = next(file for file in index.values() if file != index[QUERY])
    checkpoints.write_index(checkpoint, index | {QUERY: other})
    assert QUERY in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("value", [b"\xc0\x7f", b"\x80\x7f"], ids=["nan", "infinity"])
@pytest.mark.parametrize("name", [QUERY, NORM])
def test_weights_that_are_not_finite(checkpoint, name, value, tmp_path):
    checkpoints.overwrite(checkpoint, name, 40, value)
    assert name in refused(checkpoint, tmp_path / "out")


# --- config.json ---


def test_unknown_architecture_lists_the_known(checkpoint, tmp_path):
    hf_models.edit_config(checkpoint, architectures=["MambaForCausalLM"], model_type="mamba")
    message = refused(checkpoint, tmp_path / "out")
    assert "Mamba" in message or "mamba" in message
    assert all(known in message.lower() for known in ("llama", "mistral", "qwen2", "opt"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", -128),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 3),
        ("hidden_act", "swish9"),
        ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}),
        ("intermediate_size", "many"),
    ],
)
def test_nonsense_in_the_configuration(checkpoint, field, value, tmp_path):
    hf_models.edit_config(checkpoint, **{field: value})
    assert field in refused(checkpoint, tmp_path / "out")


def test_configuration_is_not_json(checkpoint, tmp_path):
    (checkpoint / "config.json").write_text("{not json")
    assert "config.json" in refused(checkpoint, tmp_path / "out")


# --- the token set ---


def test_token_outside_the_vocabulary(checkpoint, tmp_path):
    ids = hf_models.read_tokens(cli.CALIBRATION).copy()
    ids[3, 17] = 4096
    tokens = hf_models.write_tokens(tmp_path / "tokens.h5", ids)
    message = refused(checkpoint, tmp_path / "out", tokens=tokens)
    assert "tokens.h5" in message
    assert "4096" in message


def test_negative_token(checkpoint, tmp_path):
    ids = hf_models.read_tokens(cli.CALIBRATION).copy()
    ids[0, 0] = -1
    tokens = hf_models.write_tokens(tmp_path / "tokens.h5", ids)
    assert "tokens.h5" in refused(checkpoint, tmp_path / "out", tokens=tokens)


@pytest.mark.parametrize("shape", [(0, 256), (8, 1), (8, 0)], ids=str)
def test_empty_or_too_short_token_set(checkpoint, shape, tmp_path):
    tokens = hf_models.write_tokens(tmp_path / "tokens.h5", np.zeros(shape))
    assert "tokens.h5" in refused(checkpoint, tmp_path / "out", tokens=tokens)


def test_sequences_longer_than_the_model_takes(checkpoint, tmp_path):
    tokens = hf_models.write_tokens(tmp_path / "tokens.h5", np.ones((8, 300)))
    assert "tokens.h5" in refused(checkpoint, tmp_path / "out", tokens=tokens)


def test_more_samples_than_there_are(checkpoint, tmp_path):
    assert "--samples" in refused(checkpoint, tmp_path / "out", "--samples", 129)


def test_token_set_is_something_else(checkpoint, tmp_path):
    tokens = tmp_path / "tokens.h5"
    tokens.write_text("not HDF5")
    assert "tokens.h5" in refused(checkpoint, tmp_path / "out", tokens=tokens)
    with h5py.File(tokens, "w") as file:
        file["other"] = np.zeros((2, 4), dtype=np.int32)
    assert "input_ids" in refused(checkpoint, tmp_path / "out", tokens=tokens)


def test_missing_token_set(checkpoint, tmp_path):
    missing = tmp_path / "nowhere.h5"
    assert "nowhere.h5" in refused(checkpoint, tmp_path / "out", tokens=missing)


# --- the output ---


def test_output_below_a_regular_file(checkpoint, tmp_path):
    """Fails for root too, who may write anywhere else."""
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(checkpoint, tmp_path / "file" / "out")


def test_output_where_nothing_can_be_made(checkpoint):
    out = Path("/proc/quip-output")
    assert str(out) in refused(checkpoint, out)


def test_output_directory_is_not_empty(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    assert str(out) in refused(checkpoint, out)
    assert [file.name for file in out.iterdir()] == ["precious.txt"]


def test_disk_is_full(checkpoint, tmp_path):
    """A limit on file size stands for a full disk: it needs no privilege, and binds root too.

    The default action of its signal, SIGXFSZ, kills; quip must report an error instead. Open
    MPI's own shared-memory files are above the limit, so the ranks talk over TCP here.
    """
    limit = ("bash", "-c", 'ulimit -f 256; exec "$0" "$@"')  # KiB; rest.h5 needs 2 MiB
    tcp = {"OMPI_MCA_btl": "self,tcp"}
    message = refused(checkpoint, tmp_path / "out", prefix=limit, environment=tcp)
    assert str(tmp_path / "out") in message


# --- options ---


@pytest.mark.parametrize("options", [("--skip", "("), ("--backend", "abacus")], ids=" ".join)
def test_options_that_the_ranks_refuse(checkpoint, options, tmp_path):
    assert options[0] in refused(checkpoint, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [("--bits", 5), ("--paper", "--rho", 2.0), ("--grid", "minmax", "--rho", 2.4)],
    ids=lambda options: " ".join(map(str, options)),
)
def test_options_that_end_before_mpi(checkpoint, options, tmp_path):
    message = refused(checkpoint, tmp_path / "out", *options, ranks=1, status=2)
    assert all(option in message for option in options if str(option).startswith("--"))
    assert not (tmp_path / "out").exists()


def test_required_option_is_missing():
    result = cli.run("quantize", "--bits", 2, ranks=2, check=False, timeout=SECONDS)
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1
    assert "--model" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "PACKED"),
        ("eval", "--model", cli.model("llama-nano"), "--packed", "PACKED"),
        ("export", "--model", cli.model("llama-nano"), "--packed", "PACKED", "--out", "OUT"),
    ],
    ids=lambda command: command[0],
)
def test_packed_directory_is_something_else(command, tmp_path):
    places = {"PACKED": tmp_path / "not-packed", "OUT": tmp_path / "out"}
    places["PACKED"].mkdir()
    arguments = [places.get(part, part) for part in command]
    tokens = ("--tokens", cli.EVALUATION) if command[0] == "eval" else ()
    result = cli.run(*arguments, *tokens, check=False, timeout=SECONDS)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, result.stderr
    assert str(places["PACKED"]) in errors[0]
    assert not places["OUT"].exists()
