"""FlowCut's reading: by hand from transformers' own vision tower, and its limits."""

import math

import numpy as np
import pytest
import torch

from headlens.analyses.vision.relatives.visual_flow import even_entropy, flow, number_to_prune, visual_flow
from headlens.analyses.vision.samples import Samples
from tiny_models import held, tiny
from tiny_samples import sample

SEVERAL = Samples("several", (sample(5, start=(2, 8)), sample(9, pictures=2, seed=1), sample(5, seed=2, start=(2, 9))))


def tower(pixels):
    """Of one picture: attention of CLS [layer, head, token], and values [layer, token, head, d_head]."""
    hf = tiny("llava")
    hf.set_attn_implementation("eager")
    values = []
    encoder = hf.model.vision_tower.encoder if hasattr(hf.model.vision_tower, "encoder") else None
    layers = (encoder or hf.model.vision_tower.vision_model.encoder).layers
    for layer in layers:
        layer.self_attn.v_proj.register_forward_hook(
            lambda module, args, out: values.append(out[0].unflatten(-1, (4, -1)))
        )
    with torch.no_grad():
        attention = hf.model.vision_tower(pixels[None], output_attentions=True).attentions
    return [each[0, :, 0].double() for each in attention], [each.double() for each in values]


def by_hand(attention, values, target, every):
    """One picture with plain loops over heads and patches: C, entropies and kept patches of each layer."""
    patches = len(values[0]) - 1
    left, running, entropies, sets = list(range(patches)), [0.0] * patches, [], []
    for layer, (rows, value) in enumerate(zip(attention, values, strict=True)):
        heads = len(rows)
        raw = [sum(float(rows[head][1 + at]) for head in range(heads)) / heads for at in left]
        r = [one / sum(raw) for one in raw]
        m = [0.0] * len(left)
        for head in range(heads):
            weights = [math.exp(float(value[0, head] @ value[1 + at, head])) for at in left]
            m = [one + weight / sum(weights) / heads for one, weight in zip(m, weights, strict=True)]
        for place, at in enumerate(left):
            size = float(value[1 + at].mean(0).abs().sum())
            running[at] = running[at] / 2 + (r[place] + m[place]) * size / 2
        entropies.append(-sum(one * math.log(one) for one in r) / math.log(len(r)))
        if layer % every == every - 1:
            many = (len(left) - target) / math.sqrt(len(attention) - layer) * (1 - entropies[-1] ** 2)
            worst = sorted(left, key=lambda at: running[at])[: min(round(many), len(left) - target)]
            left = [at for at in left if at not in worst]
        sets.append(left)
    return running, entropies, sets


@pytest.mark.parametrize(("target", "every"), [(3, 1), (3, 2), (None, 1)])
def test_importance_and_kept_patches_by_hand(target, every):
    found = visual_flow(held("llava"), SEVERAL, target=target, every=every, batch=2)
    assert [len(each) for each in found] == [1, 2, 1]
    some_go = False
    for inputs, flows in zip(SEVERAL.inputs, found, strict=True):
        for pixels, one in zip(inputs["pixel_values"], flows, strict=True):
            running, entropies, sets = by_hand(*tower(pixels), target or 4, every)
            there = ~np.isnan(one.importance)
            np.testing.assert_allclose(one.importance[there], np.array(running)[there], rtol=1e-4)
            np.testing.assert_allclose(one.entropy, entropies, rtol=1e-4)
            assert [each.tolist() for each in one.kept] == sets
            some_go |= sum(one.pruned) > 0
            before = sets[-2]
            assert np.flatnonzero(there).tolist() == before
    assert some_go


def test_none_goes_where_attention_is_even_and_most_where_it_is_on_one():
    even, one = torch.full((36,), 1 / 36), torch.eye(36)[5]
    assert even_entropy(even) == pytest.approx(1, abs=1e-6) and even_entropy(one) == pytest.approx(0, abs=1e-6)
    assert number_to_prune(even_entropy(even), 36, 4, 1) == 0
    counts = [number_to_prune(entropy, 36, 4, 2) for entropy in (even_entropy(one), 0.3, 0.7, 1.0)]
    assert counts == [round(32 / math.sqrt(2)), 21, 12, 0]
    assert number_to_prune(even_entropy(one), 36, 4, 1) == 32
    # what is left is never below the target
    assert number_to_prune(0.0, 4, 4, 1) == number_to_prune(0.0, 3, 4, 1) == 0


@pytest.mark.parametrize("sharp", [0.0, 1.0, 9.0])
def test_kept_patches_are_sorted_unique_and_nested(sharp):
    draw = torch.Generator().manual_seed(0)
    relation = [(sharp * torch.randn(40, generator=draw)).softmax(-1) for _ in range(6)]
    values = [torch.randn(4, 41, 8, generator=draw) for _ in range(6)]
    found = flow(relation, values, target=5)
    before = set(range(40))
    for kept in found.kept:
        assert kept.tolist() == sorted({*kept.tolist()}) and {*kept.tolist()} <= before
        before = {*kept.tolist()}
    assert len(before) >= 5 and (sum(found.pruned) == 0) == (sharp == 0)
    # only every second layer prunes
    assert found.pruned[::2] == (0, 0, 0)


def test_a_share_of_0_has_a_logarithm():
    relation = [torch.eye(6)[2]] * 2
    found = flow(relation, [torch.ones(2, 7, 3)] * 2, target=1)
    assert np.isfinite(found.importance).all() and found.pruned == (0, 5) and found.kept[-1].tolist() == [2]


def test_layers_that_the_language_model_does_not_read_are_left_out(monkeypatch):
    model = held("llava")
    whole = visual_flow(model, SEVERAL)[0][0]
    monkeypatch.setattr(model.hf.config, "vision_feature_layer", -2)
    assert len(visual_flow(model, SEVERAL)[0][0].entropy) == 2 and len(whole.entropy) == 3
    np.testing.assert_array_equal(visual_flow(model, SEVERAL, layers=[0, 1])[0][0].entropy, whole.entropy[:2])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: visual_flow(held("llama"), SEVERAL), "no vision tower with a CLS"),
        (lambda: visual_flow(held("llava"), SEVERAL.subset([])), "0 samples"),
        (lambda: visual_flow(held("llava"), SEVERAL, target=0), "target=0"),
        (lambda: visual_flow(held("llava"), SEVERAL, every=0), "every=0"),
        (lambda: visual_flow(held("llava"), SEVERAL, layers=[3]), r"layers=\[3\]"),
        (lambda: visual_flow(held("llava"), SEVERAL, layers=[1, 0]), "in order"),
        (lambda: visual_flow(held("llava"), Samples("text", ({"input_ids": torch.arange(4, 9)[None]},))), "no picture"),
    ],
    ids=["no tower", "no samples", "target", "every", "layer", "order", "text"],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
