"""VAR against attention computed row by row in numpy, and the identities of the edit on recorded patterns."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.redistribution.redistribution import PAPER, RELEASED, redistribute
from headlens.analyses.vision.redistribution.sink_dimensions import sink_threshold
from headlens.hooks.groups import Massive
from headlens.hooks.report import Report
from plain_redistribution import moved_by_hand, redistributed_by_hand
from tiny_models import IMAGE_TOKEN, held, inputs_for, tiny
from tiny_samples import planted, pulled, sample, samples, together

DIMS, ABOVE, LAYERS = (3, 7), 1.5, [1, 2]
SETTINGS = {"dims": DIMS, "above": ABOVE, "layers": LAYERS}
PATTERN = "blocks.1.attn.hook_pattern"


@pytest.fixture(scope="module")
def plain_model():
    """The same weights, which no part of headlens has held."""
    return tiny("llava")


ONE = together(sample(9, seed=1), sample(9, seed=2), sample(9, seed=3))
TWO_PICTURES = together(*(sample(7, pictures=2, seed=seed, start=(2, 11)) for seed in (4, 5)))


@pytest.mark.parametrize("inputs", [ONE, TWO_PICTURES], ids=["batch of 3", "two pictures each"])
@pytest.mark.parametrize(
    ("given", "by_hand"),
    [
        ({}, {"move": 0.6, "non_sink": 0.5, "floor": 0.2}),
        ({"convention": "released"}, {"move": 0.4, "non_sink": 0.5, "floor": 0.2, "bias": 1e-6}),
        ({"move": 1.0, "non_sink": 0.9, "floor": 0.5}, {"move": 1.0, "non_sink": 0.9, "floor": 0.5}),
        ({"non_sink": 0.0, "floor": 0.0}, {"move": 0.6, "non_sink": 0.0, "floor": 0.0}),
    ],
    ids=["paper", "released", "strict", "all rows"],
)
def test_logits_are_those_of_attention_edited_by_hand(plain_model, inputs, given, by_hand):
    model = held("llava")
    with redistributed_by_hand(plain_model, IMAGE_TOKEN, LAYERS, DIMS, ABOVE, **by_hand):
        expected = plain_model(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(redistribute(model, **{**SETTINGS, **given})):
            found = model(inputs)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("move", [0.25, 0.6, 1.0])
def test_what_a_row_keeps_and_what_moves(move):
    model, inputs = held("llava"), TWO_PICTURES
    before = recorded(model, inputs)
    with model.edited(redistribute(model, dims=DIMS, above=ABOVE, layers=[1], move=move, non_sink=0.8, floor=0.4)):
        after = recorded(model, inputs)
    torch.testing.assert_close(after.sum(-1), torch.ones(after.shape[:3]), atol=1e-6, rtol=0)
    ids, sinks = inputs["input_ids"], massive(model, inputs)
    changed = 0
    for prompt, head, row in np.ndindex(*before.shape[:3]):
        old, new = before[prompt, head, row], after[prompt, head, row]
        image = {int(key) for key in (ids[prompt] == IMAGE_TOKEN).nonzero()}
        about = row not in image and row > min(image)
        chosen = about and moved_by_hand(old.double().numpy(), sinks[prompt], image, move, 0.8, 0.4)[1]
        if not chosen:
            assert torch.equal(old, new)
            continue
        changed += 1
        donors, takers = sorted(sinks[prompt]), sorted(image - sinks[prompt])
        others = sorted({*range(len(old))} - sinks[prompt] - image)
        torch.testing.assert_close(new[donors], (1 - move) * old[donors], atol=1e-7, rtol=1e-5)
        assert torch.equal(old[others], new[others])
        assert (new[row + 1 :] == 0).all()
        ratio = new[takers][old[takers] > 0] / old[takers][old[takers] > 0]
        budget = move * old[donors].sum()
        torch.testing.assert_close(ratio, (1 + budget / old[takers].sum()).expand_as(ratio), atol=0, rtol=1e-5)
    assert 20 < changed < len(before) * 4 * 18


def recorded(model, inputs):
    return model.record(inputs, names_filter=PATTERN)[1][PATTERN].detach()


def massive(model, inputs, layer=1, dims=DIMS):
    """The tokens of each prompt that have a massive activation, as a set."""
    stream = model.record(inputs, names_filter="resid_pre")[1][f"blocks.{layer}.hook_resid_pre"].detach().double()
    found = (stream[..., list(dims)].abs() / stream.pow(2).mean(-1, keepdim=True).sqrt() > ABOVE).any(-1)
    return [{int(key) for key in own.nonzero()} for own in found]


def test_moving_nothing_changes_no_bit():
    model = held("llava")
    with model.edited(redistribute(model, **SETTINGS, move=0.0)):
        found = model(ONE)
    assert torch.equal(found, model(ONE))


def test_rows_of_patches_and_heads_that_are_not_edited_stay_bit_for_bit():
    model, site = held("llava"), "blocks.1.attn.hook_z"
    plain = model.record(ONE, names_filter=site)[1][site]
    with model.edited(redistribute(model, dims=DIMS, above=ABOVE, heads=["L1H1", "L1H2"])):
        found = model.record(ONE, names_filter=site)[1][site]
    assert torch.equal(found[:, :16], plain[:, :16]) and torch.equal(found[:, :, [0, 3]], plain[:, :, [0, 3]])
    assert not torch.equal(found[:, 16:, 1:3], plain[:, 16:, 1:3])


def test_no_sample_leaves_anything_to_the_next():
    model, given = held("llava"), {**SETTINGS, "dims": (3, 7, 11, 20)}
    several = [sample(9, seed=seed) for seed in (1, 2, 3)] + [sample(13, pictures=2, seed=2)]
    # the first three are of one shape, and have different sinks
    assert len({frozenset(*massive(model, inputs, dims=given["dims"])) for inputs in several[:3]}) == 3
    alone = []
    for inputs in several:
        with model.edited(redistribute(model, **given)):
            alone.append(model(inputs))
    with model.edited(redistribute(model, **given)):
        in_turn = [model(inputs) for inputs in several]
        back = [model(inputs) for inputs in reversed(several)]
    for own, found, again in zip(alone, in_turn, reversed(back), strict=True):
        assert torch.equal(found, own) and torch.equal(again, own)


def test_a_batch_is_its_samples_each_with_its_own_sinks():
    model, places = held("llava"), [[1, 9], [4, 9], [2, 13]]
    edit = redistribute(model, dims=(5,), above=3.0, layers=LAYERS)
    with model.edited(planted(places, 5, 60.0)):
        plain = model(ONE)
        with model.edited(edit):
            found = model(ONE)
    for at, own in enumerate(places):
        with model.edited(planted(own, 5, 60.0)), model.edited(edit):
            alone = model({name: value[at : at + 1] for name, value in ONE.items()})
        torch.testing.assert_close(found[at : at + 1], alone, atol=3e-5, rtol=0)
        assert (found[at] - plain[at]).abs().max() > 0.1


def test_padding_in_front_changes_nothing():
    model, inputs = held("llava"), sample(9, seed=1)
    ids = torch.cat([torch.ones(1, 3, dtype=torch.long), inputs["input_ids"]], 1)
    mask = torch.ones_like(ids).index_fill(1, torch.arange(3), 0)
    with model.edited(redistribute(model, **SETTINGS)):
        whole = model(inputs)
        padded = model({"input_ids": ids, "pixel_values": inputs["pixel_values"], "attention_mask": mask})
    torch.testing.assert_close(padded[:, 3:], whole, atol=3e-5, rtol=0)


def test_cached_steps_are_the_rows_of_a_whole_run():
    model = held("llava")
    with model.edited(redistribute(model, **SETTINGS)):
        steps = model.hf.generate(
            **ONE, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        whole = model({**ONE, "input_ids": steps.sequences[:, :-1]})
    assert not (steps.sequences[:, 25:] == IMAGE_TOKEN).any()
    torch.testing.assert_close(torch.stack(steps.logits, 1), whole[:, 24:], atol=3e-5, rtol=0)


def test_a_row_whose_patches_are_all_sinks_is_left_alone():
    model = held("llava")
    everything = planted([*range(16)], 5, 400.0)
    with model.edited(everything):
        plain = model(ONE)
        report = Report()
        edit = redistribute(model, dims=(5,), above=3.0, layers=LAYERS, non_sink=0.0, floor=0.0)
        with model.edited(edit, report=report):
            found = model(ONE)
    assert torch.equal(found, plain) and found.isfinite().all()
    assert all(one.touched == 0 and one.idle > 0 for one in report.heads.values())


def test_planted_sinks_give_back_by_dose_and_captured_heads_by_none():
    """A planted pull towards three sinks costs divergence from the model without it, and moving attention recovers it;
    under the paper's selection nothing happens, because it rejects the heads that the sinks have captured."""
    model, at = held("llava"), [2, 7, 11]
    inputs, sinks = inputs_for("llava", batch=6, seed=0), planted(at, 5, 60.0)

    def loss(*edits):
        with torch.no_grad(), model.edited(sinks, *pulls), model.edited(*edits):
            found = model(inputs)[:, -1].log_softmax(-1)
        return float((free.exp() * (free - found)).sum(-1).mean())

    with torch.no_grad(), model.edited(sinks):
        free = model(inputs)[:, -1].log_softmax(-1)
    pulls = [pulled(at, 6.0, layer) for layer in LAYERS]
    # given, since the plant is not at the first token
    given = {"dims": (5,), "above": sink_threshold(model.d_model), "layers": LAYERS}
    losses = [loss(redistribute(model, **given, move=move, non_sink=0.0)) for move in (0.0, 0.2, 0.4, 0.6)]
    assert losses[0] > 0.3 and all(more > 1.15 * less for more, less in zip(losses, losses[1:], strict=False))
    assert losses[3] < 0.5 * losses[0]
    for move in (0.6, 1.0):
        assert loss(redistribute(model, **given, move=move)) == pytest.approx(losses[0], rel=0.02)


def test_the_sinks_are_those_of_the_dimensions_found_in_samples():
    model, some = held("llava"), samples(2, start=(2,))
    with model.edited(planted([0, 4], 5, 300.0)):
        edit = redistribute(model, some, layers=LAYERS[1:])
    assert edit.donors == Massive((5,), sink_threshold(model.d_model))
    with pytest.raises(ValueError, match="No residual dimension of the first token is above 5.50"):
        redistribute(model, some, layers=LAYERS, above=5.5)


def test_conventions_by_name():
    model = held("llava")
    paper, released = (
        redistribute(model, dims=DIMS, above=ABOVE, convention=name, layers=layers)
        for name, layers in (("paper", LAYERS), ("released", None))
    )
    assert paper.policy == released.policy == "transfer"
    assert paper.beta == pytest.approx(0.4) and released.beta == pytest.approx(0.6)
    assert (paper.receivers.function.bias, released.receivers.function.bias) == (0.0, 1e-6)
    # the last of three layers is edited in the released code alone
    assert {layer for layer, _ in released.heads} == {2}
    with pytest.raises(ValueError, match="leaves out layers 0 and 1 and the last, and of the 3 layers .* none is left"):
        redistribute(model, dims=DIMS)
    assert (PAPER.move(0.6), PAPER.non_sink(0.8)) == (0.6, 0.8)
    assert (RELEASED.move(0.6), RELEASED.non_sink(0.2)) == (0.4, 0.8)
    # a move that is given is what moves, in both
    assert redistribute(model, **SETTINGS, move=0.7, convention="released").beta == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"convention": "papre"}, "Unknown convention 'papre'.*paper"),
        ({"move": 1.5}, "move=1.5"),
        ({"non_sink": -1.0}, "non_sink=-1.0"),
        ({"layers": [3]}, r"layers=\[3\] were given; expected some of 0..2"),
        ({"heads": "L1H0"}, "Both layers= and heads="),
        ({"dims": None}, "Neither samples .* nor dims="),
        ({"dims": ()}, "expected one dimension or more"),
    ],
    ids=["convention", "move", "non_sink", "layer", "both", "no sinks", "no dims"],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        redistribute(held("llava"), **{**SETTINGS, **given})


def test_a_model_without_pictures_is_refused():
    with pytest.raises(ValueError, match="names no image token"):
        redistribute(held("llama"), dims=DIMS, layers=LAYERS)
