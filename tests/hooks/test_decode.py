"""Cached generation: the same edit in one full pass and token by token, and causality under edits."""

import pytest
import torch

from headlens.hooks.edits import Ablate, Call, Gate, Patch
from tiny_models import GENERATING, held, inputs_for

LENGTH, PREFILL = 11, 4


def edits(model, reference):
    return {
        "gate": Gate(["L0H1", "L2H3"], 2.5),
        "ablate_v": Ablate("L1H1", site="v"),
        "ablate_rot_k": Ablate("L0H1", site="rot_k", pos=2),
        "mean_positional": Ablate("L1H2", how="mean_positional", reference=reference),
        "patch_z": Patch("L0H0", reference),
        "patch_late": Patch("L1H0", reference, pos=7),
        "patch_pattern": Patch("L1H1", reference, site="pattern"),
        "sharpen": Call("blocks.1.attn.hook_attn_scores", lambda scores, hook: scores * 1.7),
        "no_first_key": Call("blocks.2.attn.hook_pattern", _without_first_key),
        "steer": Call("blocks.1.hook_resid_mid", lambda tensor, hook: tensor + torch.linspace(-1, 1, 32)),
    }


def _without_first_key(pattern, hook):
    """Found by absolute position: a sliding window drops the first key from the cache."""
    if hook.key_start == 0:
        pattern[..., 0] = 0
    return pattern


def stepwise(model, ids):
    """Logits of a teacher-forced cached decode: a prefill, then one token at a time."""
    out = model.hf(input_ids=ids[:, :PREFILL], use_cache=True)
    logits = [out.logits]
    for pos in range(PREFILL, ids.shape[1]):
        out = model.hf(input_ids=ids[:, pos : pos + 1], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("kind", list(edits(None, {})))
def test_full_pass_equals_cached_decode(name, kind):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    if kind == "steer" and model.layers[1].middle is None:
        pytest.skip(f"{name} has no resid_mid: parallel block")
    with torch.no_grad():
        _, reference = model.record(inputs_for(name, length=LENGTH, seed=5), names_filter=["z", "pattern"])
        edit = edits(model, reference)[kind]
        with model.edited(edit):
            whole = model.hf(input_ids=ids, use_cache=False).logits
        with model.edited(edit):
            steps = stepwise(model, ids)
        plain = model(ids)
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-4)
    assert (whole - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", GENERATING)
def test_earlier_rows_never_see_later_tokens(name):
    model, ids = held(name), inputs_for(name, length=LENGTH)["input_ids"]
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 17) % 80 + 4
    sites = ["pattern", "z", "v", "resid_post"]
    with torch.no_grad(), model.edited(Gate("L1H1", 2.0)):
        logits, one = model.record(ids, names_filter=sites)
        other_logits, other = model.record(changed, names_filter=sites)
    torch.testing.assert_close(logits[:, :8], other_logits[:, :8], rtol=0, atol=1e-5)
    assert (logits[:, 8:] - other_logits[:, 8:]).abs().max() > 1e-3
    for full_name, value in one.items():
        axis = 2 if "pattern" in full_name else 1
        torch.testing.assert_close(value.narrow(axis, 0, 8), other[full_name].narrow(axis, 0, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GENERATING)
def test_generate_under_an_edit(name):
    """Greedy generation under an edit picks, at each step, what a full pass under that edit would."""
    model, ids = held(name), inputs_for(name, length=5)["input_ids"]
    with model.edited(Gate("all", 0.3), Gate("L0H0", -2.0)):
        text = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1)
        with torch.no_grad():
            logits = model(text)
    assert text.shape == (2, 11)
    assert torch.equal(logits[:, 4:-1].argmax(-1), text[:, 5:])
