"""Parts of the logit difference against plain forwards and TransformerLens's decomposition."""

import numpy as np
import pytest
import torch

from end_tasks import own_difference, own_logits, ragged_task, scrambled, scrambled_weights
from headlens.analyses.direct_parts import direct_parts
from headlens.hooks.bridge import to_bridge
from headlens.hooks.model import wrap
from tiny_models import GENERATING, held, tiny


@pytest.mark.parametrize(("name", "run"), [*((name, "clean") for name in (*GENERATING, "llava")), ("opt", "corrupted")])
def test_parts_sum_to_the_models_logit_difference(name, run):
    model, task = scrambled(name), ragged_task()
    found = direct_parts(model, task, run)
    own = own_difference(model, task, run)
    if name == "gemma2":
        rows, uncapped = torch.arange(6), 30 * torch.atanh(own_logits(model, task, run).double() / 30)
        own = (uncapped[rows, task.answers] - uncapped[rows, task.foils]).numpy()
        assert found.units == "logits before the soft cap (answer minus foil)"
    bound = 1e-4 * np.abs(own).max()
    np.testing.assert_allclose(found.samples.sum(1), own, rtol=0, atol=bound)
    np.testing.assert_allclose(found.total, own, rtol=0, atol=bound)
    assert (np.abs(found.samples[:, 1:7]).max(0) > 1e-3).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox"])
def test_every_part_equals_transformer_lens(name):
    """On tiny models as they are drawn: TransformerLens expects the final norm's weight folded, and it is 1."""
    model, task = held(name), ragged_task()
    found = direct_parts(model, task)
    bridge = to_bridge(model)
    for prompt, end in enumerate(task.positions["END"]):
        with torch.no_grad():
            _, cache = bridge.run_with_cache(task.clean_tokens[prompt : prompt + 1, : end + 1])
            stack = [cache["resid_pre", 0], *(cache[f"{kind}_out", at] for at in range(3) for kind in ("attn", "mlp"))]
            theirs = cache.logit_attrs(
                torch.stack(stack)[:, :, -1:], task.answers[[prompt]], task.foils[[prompt]], pos_slice=-1
            )
        np.testing.assert_allclose(found.samples[prompt, :7], theirs.reshape(7).numpy(), rtol=0, atol=1e-4)


def test_the_frame_has_a_row_for_every_part():
    found = direct_parts(scrambled("gpt2"), ragged_task())
    frame = found.to_frame()
    assert frame["part"].tolist() == [
        "embedding",
        *(f"L{layer} {kind}" for layer in range(3) for kind in ("attention", "mlp")),
        "final norm bias",
        "unembedding bias",
    ]
    assert frame["layer"].isna().tolist() == [True, *[False] * 6, True, True]
    np.testing.assert_allclose(frame["value"], found.samples.mean(0), rtol=1e-6)
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert "low" not in direct_parts(scrambled("gpt2"), ragged_task().subset([1])).to_frame()
    assert found.provenance["run"] == "clean" and found.provenance["model"] == "scrambled-gpt2"


def test_half_precision_is_close():
    half = wrap(scrambled_weights("gemma2").to(torch.bfloat16))
    found, full = direct_parts(half, ragged_task()), direct_parts(scrambled("gemma2"), ragged_task())
    np.testing.assert_allclose(found.samples, full.samples, rtol=0, atol=0.05)


def test_a_block_that_adds_something_else_is_refused():
    hf = tiny("llama")
    hf.model.layers[1].register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.raises(ValueError, match="do not sum to its logit difference .* LlamaDecoderLayer does more"):
        direct_parts(wrap(hf), ragged_task())


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_what_is_not_a_causal_language_model_is_refused(name):
    with pytest.raises(ValueError, match="is not a causal language model"):
        direct_parts(held(name), ragged_task())


@pytest.mark.real
def test_parts_of_the_real_model_sum_to_its_logit_difference(smollm2):
    from headlens.analyses.tasks import ioi

    task = ioi(smollm2, n=6, seed=1)
    found, own = direct_parts(smollm2, task), own_difference(smollm2, task)
    np.testing.assert_allclose(found.samples.sum(1), own, rtol=0, atol=1e-4 * np.abs(own).max())
