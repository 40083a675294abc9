"""No rank holds more than one block and its share: peak memory against what it must hold."""

import json

import cli
import hf_models

HIDDEN, FFN, HEADS, KV_HEADS = 1024, 2816, 8, 4
SAMPLES, LENGTH, RANKS = 64, 256, 2
MIB = 1 << 20


def write_model(directory):
    config = hf_models.llama(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=LENGTH,
    )
    return hf_models.write_model(config, directory, seed=3, dtype="BF16")


def needed_bytes():
    """What a rank cannot do without, in bytes."""
    key_width = KV_HEADS * HIDDEN // HEADS
    block = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * key_width + 3 * HIDDEN * FFN
    tokens = SAMPLES * LENGTH // RANKS
    # inputs of q,k,v; of o; of gate,up; of down
    hessians = 3 * HIDDEN**2 + FFN**2
    return 4 * block + 4 * tokens * (HIDDEN + FFN) + 8 * hessians + 64 * MIB


def test_peak_memory_per_rank(tmp_path):
    checkpoint = write_model(tmp_path / "model")
    ids = hf_models.random_tokens(samples=SAMPLES, length=LENGTH)
    tokens = hf_models.write_tokens(tmp_path / "tokens.h5", ids)
    out = tmp_path / "out"
    cli.quantize(checkpoint, out, "--bits", 2, "--tokens", tokens, ranks=RANKS, timeout=300)
    peaks = json.loads((out / "report.json").read_text())["peak_rss_bytes"]
    assert len(peaks) == RANKS
    limit = 1.3 * needed_bytes()
    # A process that has MPI, BLAS and a block in memory cannot be smaller than this.
    assert all(40 * MIB < peak <= limit for peak in peaks), (peaks, limit)
