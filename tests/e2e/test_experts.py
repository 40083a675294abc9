"""Mixtures of experts: the same bits on any ranks, rare experts, resuming, and the options."""

import json

import numpy as np
import pytest
import test_plan

import checkpoints
import cli
import hf_models

ON_HOST = cli.QUIP.with_name("quip_cuda_on_host")
EXPERTS = 64
NEVER, RARE = 5, 11  # experts with no token, and with three
MARK = 7  # the token that goes to the rare expert


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """A block with 64 experts, of which one gets no token and one gets three."""
    folder = tmp_path_factory.mktemp("skewed")
    hidden, inner, vocabulary = 64, 48, 32
    config = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": 64,
        "moe_intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    random = np.random.default_rng(3)

    def matrix(rows, cols, scale):
        return (random.standard_normal((rows, cols)) * scale).astype(np.float32)

    layer = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden, 1),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": matrix(vocabulary, hidden, 0.1),
        layer + "input_layernorm.weight": np.ones(hidden, np.float32),
        layer + "post_attention_layernorm.weight": np.ones(hidden, np.float32),
        layer + "self_attn.q_norm.weight": np.ones(16, np.float32),
        layer + "self_attn.k_norm.weight": np.ones(16, np.float32),
        layer + "mlp.gate.weight": matrix(EXPERTS, hidden, 1),
    }
    for name in "qkvo":
        # Attention moves little: the token alone decides on the rare expert.
        tensors[layer + f"self_attn.{name}_proj.weight"] = matrix(hidden, hidden, 0.02)
    for expert in range(EXPERTS):
        part = f"{layer}mlp.experts.{expert}."
        tensors[part + "gate_proj.weight"] = matrix(inner, hidden, 0.3)
        tensors[part + "up_proj.weight"] = matrix(inner, hidden, 0.3)
        tensors[part + "down_proj.weight"] = matrix(hidden, inner, 0.3)
    embedding = tensors["model.embed_tokens.weight"]
    router = tensors[layer + "mlp.gate.weight"]
    # The mark has a direction of its own, and the rare expert looks for nothing else.
    embedding[:, 0] = 0
    embedding[MARK] = 0
    embedding[MARK, 0] = 8
    router[:, 0] = 0
    router[RARE] = 0
    router[RARE, 0] = 10
    router[RARE, 1:] = -0.0
    router[NEVER] = 0
    ids = random.integers(8, vocabulary, (6, 48)).astype(np.int32)
    for sample in (0, 2, 5):
        ids[sample, 20] = MARK
    hf_models.write_file(folder / "model.safetensors", tensors, "F32")
    (folder / "config.json").write_text(json.dumps(config))
    return folder, hf_models.write_tokens(folder / "tokens.h5", ids)


def losses_of(packed, expert):
    layers = cli.inspect(packed)["layers"]
    return {
        layer["name"].rsplit(".", 1)[1]: (layer["tokens"], layer["relative_proxy_loss"])
        for layer in layers
        if f".experts.{expert}." in layer["name"]
    }


@pytest.mark.parametrize("codebook", ["scalar", "trellis"] if cli.THOROUGH else ["scalar"])
def test_experts_that_see_no_token_or_few(skewed, codebook, tmp_path):
    checkpoint, tokens = skewed
    options = ("--bits", 2, "--codebook", codebook, "--tokens", tokens)
    ours = cli.quantize(checkpoint, tmp_path / "ours", *options)
    nearest = cli.quantize(checkpoint, tmp_path / "nearest", *options, "--method", "nearest")
    for expert, count in ((NEVER, 0), (RARE, 3)):
        good, bad = losses_of(ours, expert), losses_of(nearest, expert)
        assert sorted(good) == ["down_proj", "gate_proj", "up_proj"]
        for layer, (seen, loss) in good.items():
            assert seen == count
            assert 0 < loss < bad[layer][1] < 1
    said = cli.run("inspect", ours).stdout
    assert "no token was routed to these experts" in said
    assert f"experts.{NEVER}.up_proj (0)" in said
    assert "few tokens were routed to these experts" in said
    # One line for the layers of each kind.
    assert [line.split()[1] for line in said.splitlines() if ".experts.*." in line] == ["64"] * 3


def test_every_token_counts_for_as_many_experts_as_it_has(skewed, tmp_path):
    checkpoint, tokens = skewed
    packed = cli.quantize(checkpoint, tmp_path / "out", "--bits", 2, "--tokens", tokens, ranks=3)
    layers = cli.inspect(packed)["layers"]
    routed = [layer["tokens"] for layer in layers if layer["name"].endswith("up_proj")]
    assert len(routed) == EXPERTS
    assert sum(routed) == 6 * 48 * 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixtral", ("--codebook", "trellis")),
        ("qwen3-moe", ("--codebook", "scalar", "--true-sequential")),
        ("qwen3-moe", ("--codebook", "scalar", "--experts", "all")),
        ("mixtral", ("--codebook", "scalar", "--expert-prior", 0, "--statistics")),
        ("deepseek-v3", ("--codebook", "scalar", "--target", "stream")),
        ("mixtral", ("--codebook", "scalar", "--target", "stream", "--drift", 0.5)),
        ("qwen3-moe", ("--codebook", "scalar", "--skip", r"experts\.3\.|q_proj", "--wide", 16)),
    ],
)
def test_same_bits_on_any_ranks(name, options, tmp_path):
    """Fewer ranks than experts, as many, and more."""
    checkpoint, tokens = cli.family(name)
    if "stream" in options:
        tokens = hf_models.many_tokens(tmp_path / "many.h5")

    def outcome(ranks):
        out = tmp_path / f"{ranks}"
        cli.quantize(checkpoint, out, "--bits", 2, *options, "--tokens", tokens, ranks=ranks)
        kept = cli.inspect(out, "--verify")
        moved = [layer.get("target_shift", 0) for layer in kept["layers"] if "tokens" in layer]
        assert any(moved) == ("stream" in options)
        return kept["digest"], [layer.get("tokens") for layer in kept["layers"]]

    expected = outcome(1)
    for ranks in (3, 8, 10) if cli.THOROUGH else (3, 10):
        assert outcome(ranks) == expected


@pytest.mark.parametrize("target", ["layer", "stream"])
def test_experts_are_resumed_in_the_middle(target, tmp_path):
    checkpoint, _ = cli.family("qwen3-moe")
    tokens = hf_models.many_tokens(tmp_path / "many.h5")
    options = ("--bits", 2, "--codebook", "scalar", "--tokens", tokens, "--target", target)
    whole = cli.quantize(checkpoint, tmp_path / "whole", *options)
    for keep in ("none", "last"):
        out = tmp_path / keep
        first = (*options, "--keep-states", keep, "--blocks", "0:1")
        cli.run("quantize", "--model", checkpoint, "--out", out, *first)
        cli.quantize(checkpoint, out, *options, "--keep-states", keep, "--resume", ranks=2)
        assert cli.inspect(out)["digest"] == cli.inspect(whole)["digest"]


def test_hessians_of_an_untouched_expert_need_a_prior(skewed, tmp_path):
    checkpoint, tokens = skewed
    refused = cli.run(
        *("quantize", "--model", checkpoint, "--tokens", tokens, "--out", tmp_path / "out"),
        *("--bits", 2, "--expert-prior", 0),
        check=False,
        ranks=2,
    )
    assert refused.returncode == 1
    assert f"mlp.experts.{NEVER} gets no token, and --expert-prior 0" in refused.stderr


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, ("--samples", 4)),
        (3, ("--samples", 3, "--true-sequential", "--codebook", "trellis")),
        (6, ("--samples", 4, "--experts", "all")),
        (9, ("--samples", 4, "--expert-prior", 0)),
        (3, ("--samples", 32, "--target", "stream")),
        (9, ("--samples", 32, "--target", "stream", "--drift", 0)),
    ],
)
def test_bytes_sent_are_predicted_exactly(ranks, options, tmp_path):
    """Rank by rank and phase by phase, where every token goes to every expert."""
    checkpoint = checkpoints.copy(cli.family("mixtral")[0], tmp_path / "model")
    hf_models.edit_config(checkpoint, num_experts_per_tok=4)
    tokens, length = checkpoint / "tokens.h5", 24
    if "stream" in options:
        tokens, length = hf_models.many_tokens(tmp_path / "many.h5"), 96
    if "trellis" not in options:
        options = (*options, "--codebook", "scalar", "--rho", 1.6)
    planned = test_plan.predict(
        tmp_path / "plan.json",
        ranks,
        *options[2:],
        model=checkpoint,
        samples=options[1],
        length=length,
    )
    report = test_plan.quantize(
        tmp_path / "out", ranks, *options, "--tokens", tokens, model=checkpoint
    )
    assert sent_by_phase(report) == sent_by_phase(planned)
    exchanged = sum(phase["bytes_sent"] for phase in report["phases"].values())
    assert exchanged > 0


def sent_by_phase(report):
    return [
        {k: v["bytes_sent"] for k, v in rank["phases"].items() if v["bytes_sent"]}
        for rank in report["rank_reports"]
    ]


@pytest.mark.skipif(not ON_HOST.exists(), reason="built with QUIP_CUDA: no emulation")
def test_experts_on_a_device(tmp_path, monkeypatch):
    checkpoint, tokens = cli.family("mixtral")
    options = ("--bits", 3, "--codebook", "scalar", "--tokens", tokens)
    expected = cli.quantize(checkpoint, tmp_path / "cpu", *options)
    monkeypatch.setattr(cli, "QUIP", ON_HOST)
    out = tmp_path / "cuda"
    cli.quantize(checkpoint, out, *options, "--backend", "cuda", timeout=280)
    assert cli.mean_relative_proxy(out) == pytest.approx(
        cli.mean_relative_proxy(expected), rel=0.05
    )
