"""The program with --backend cuda, whose device is emulated on the host (tests/cuda_on_host)."""

import pytest

import cli

ON_HOST = cli.QUIP.with_name("quip_cuda_on_host")
OPTIONS = ("--bits", 2, "--samples", 2)

pytestmark = [
    pytest.mark.skipif(not ON_HOST.exists(), reason="built with QUIP_CUDA: no emulation"),
    pytest.mark.skipif(not cli.THOROUGH, reason="minutes: at night (tests/nightly.sh)"),
]


@pytest.fixture
def on_host(monkeypatch):
    monkeypatch.setattr(cli, "QUIP", ON_HOST)


def digest_and_loss(out, *options, **how):
    cli.quantize(cli.model("llama-nano"), out, *OPTIONS, *options, **how)
    return cli.inspect(out)["digest"], cli.mean_relative_proxy(out)


def test_same_bits_for_any_number_of_ranks_and_close_to_the_cpu(tmp_path, monkeypatch):
    _, expected = digest_and_loss(tmp_path / "cpu")
    monkeypatch.setattr(cli, "QUIP", ON_HOST)
    digest, loss = digest_and_loss(tmp_path / "1", "--backend", "cuda", timeout=280)
    # The forward pass is bf16's: activations differ in the third digit, some roundings with them.
    assert loss == pytest.approx(expected, rel=0.02)
    for devices in ("1", "2"):  # one GPU for both ranks, without NCCL; one for each, with it
        other = digest_and_loss(
            tmp_path / f"2-{devices}",
            *("--backend", "cuda"),
            ranks=2,
            timeout=280,
            environment={"CUDA_ON_HOST_DEVICES": devices},
        )
        assert other == (digest, loss)


def evaluate(*options, **how):
    return cli.run(
        *("eval", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION, *options),
        timeout=280,
        **how,
    )


def test_auto_takes_the_device(tmp_path, on_host):
    result = evaluate("--samples", 1, "--backend", "auto", "--json")
    assert '"perplexity"' in result.stdout
    nothing = evaluate("--backend", "cuda", check=False, environment={"CUDA_ON_HOST_DEVICES": "0"})
    assert nothing.returncode == 1
    assert "--backend cuda: no GPU" in nothing.stderr


def test_perplexity_is_close_to_the_cpus(monkeypatch):
    def perplexity():
        result = evaluate("--samples", 2, "--backend", "auto", "--json")
        return cli.json.loads(result.stdout)["perplexity"]

    expected = perplexity()
    monkeypatch.setattr(cli, "QUIP", ON_HOST)
    assert perplexity() == pytest.approx(expected, rel=0.01)
