"""Massive activations: found where they are planted and as plain comparisons find them, and usable as a group."""

import numpy as np
import pytest
import torch

from headlens.analyses.massive import massive
from headlens.analyses.sinks import find_sinks
from headlens.hooks.edits import Call
from headlens.hooks.model import wrap
from headlens.hooks.recalibrate import Recalibrate
from tiny_models import held, inputs_for, tiny

TOKEN, DIM, VALUE = 77, 5, -20_000


@pytest.fixture(scope="module")
def planted():
    """A model that has a massive activation wherever one token stands, and prompts with it at 4, and at 9 and 2."""
    hf = tiny("llama")
    with torch.no_grad():
        hf.get_input_embeddings().weight[TOKEN, DIM] = VALUE
    ids = inputs_for("llama", length=13)["input_ids"]
    ids[ids == TOKEN] = TOKEN + 1
    ids[0, 4] = ids[1, 9] = ids[1, 2] = TOKEN
    return wrap(hf), ids


def test_a_planted_dimension_is_found_at_its_tokens(planted):
    model, ids = planted
    found = massive(model, ids)
    assert found.dims == (DIM,)
    assert {(one.prompt, one.pos) for one in found.found} == {(0, 4), (1, 9), (1, 2)}
    at = found.at
    # before each of three layers and behind the last
    assert at.shape == (2, 4, 13) and at[0, :, 4].all() and at[1][:, [2, 9]].all() and at.sum() == 12
    first = found.to_frame().iloc[0]
    assert (first["prompt"], first["layer"], first["pos"], first["dim"], first["value"]) == (0, 0, 4, DIM, VALUE)
    said = found.described()
    assert (
        f"dimension {DIM} is massive before layer 0 to 3, at the first token of 0 of 2 prompts and at 3 other" in said
    )


def test_the_numbers_are_those_of_the_recorded_stream(planted):
    model, ids = planted
    found = massive(model, ids, least=2.0, ratio=4.0)
    _, kept = model.record(ids, names_filter=["resid_pre", "resid_post"])
    streams = [kept[f"blocks.{layer}.hook_resid_pre"] for layer in range(3)] + [kept["blocks.2.hook_resid_post"]]
    expected = {}
    for layer, stream in enumerate(streams):
        for prompt, own in enumerate(stream.detach().double().numpy()):
            # torch takes the lower of the two middle ones
            median = np.sort(np.abs(own), axis=None)[(own.size - 1) // 2]
            np.testing.assert_allclose(found.peak[prompt, layer], np.abs(own).max(-1) / median, rtol=1e-4)
            for pos, dim in np.argwhere((np.abs(own) >= 2) & (np.abs(own) >= 4 * median)):
                value, size = own[pos, dim], np.sqrt((own[pos] ** 2).mean())
                expected[prompt, layer, pos, dim] = [value, abs(value) / median, abs(value) / size]
    assert {one[:4] for one in found.found} == {*expected} and len(expected) > 20
    for one in found.found:
        assert [*one[4:]] == pytest.approx(expected[one[:4]], rel=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "t5", "bert", "vit", "llava"])
def test_it_is_known_from_which_layer_on(name):
    model, inputs = held(name), inputs_for(name)

    def plant(resid, hook):
        resid[1, 3, 7] += 40_000
        return resid

    with model.edited(Call("blocks.1.hook_resid_post", plant)):
        found = massive(model, inputs)
    assert [(one.prompt, one.layer, one.pos, one.dim) for one in found.found][:1] == [(1, 2, 3, 7)]
    assert not massive(model, inputs).found


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_for_nothing(planted, side):
    model, ids = planted
    ids, mask = ids.clone(), torch.ones_like(ids)
    empty = slice(0, 2) if side == "left" else slice(11, 13)
    ids[0, empty], mask[0, empty] = TOKEN, 0
    together = massive(model, {"input_ids": ids, "attention_mask": mask})
    own = mask[0].bool()
    alone = massive(model, ids[0, own])
    shift = 2 if side == "left" else 0
    mine = [one for one in together.found if one.prompt == 0]
    assert [(one.layer, one.pos - shift, one.dim) for one in mine] == [one[1:4] for one in alone.found] and mine
    np.testing.assert_allclose([one.ratio for one in mine], [one.ratio for one in alone.found], rtol=1e-4)
    assert np.isnan(together.peak[0][:, ~own]).all()


def test_as_a_group_they_are_those_tokens(planted):
    model, ids = planted
    group = massive(model, ids).group()
    assert group.dims == (DIM,) and massive(model, ids).group(above=4.0).above == 4.0

    def edited(donors):
        with (
            torch.no_grad(),
            model.edited(Recalibrate("all", policy="transfer", donors=donors, receivers="rest", beta=0.4)),
        ):
            return model(ids)

    torch.testing.assert_close(edited(group), edited(torch.tensor([[4, 4], [2, 9]])), rtol=0, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(edited(group), model(ids), atol=1e-3)


def test_nothing_massive_is_said_and_no_group():
    found = massive(held("llama"), inputs_for("llama"))
    assert not found.found and found.dims == () and not found.at.any() and len(found.to_frame()) == 0
    assert found.described().startswith("No residual dimension is massive (at least 100, and 1000 times the median")
    with pytest.raises(ValueError, match="No activation was massive .* look for smaller ones with least= and ratio="):
        found.group()
    with pytest.raises(ValueError, match="least=-1.0 and ratio=1000"):
        massive(held("llama"), inputs_for("llama"), least=-1.0)


def test_sinks_carry_the_evidence(planted):
    model, ids = planted
    sinks = find_sinks(model, ids, "row", alpha=1.1, min_rows=1, min_share=0.0)
    assert sinks.massive.found == massive(model, ids).found
    table = sinks.to_frame()
    share = np.mean([ids[prompt, pos] == TOKEN for prompt, pos in zip(table["prompt"], table["pos"], strict=True)])
    assert f"{share:.1%} of the sinks have a massive activation before their layer" in sinks.described()
    assert share > 0 and f"Residual dimension {DIM} is massive" in sinks.described()


@pytest.mark.real
def test_a_real_model_has_one_at_the_first_token(smollm2):
    found = massive(smollm2, "The lighthouse keeper counted the ships, and the ships counted him.")
    table = found.to_frame()
    assert found.dims[0] == 507 and set(table["pos"]) == {0}
    largest = table.loc[table["value"].abs().idxmax()]
    assert largest["value"] > 20_000 and largest["ratio"] > 10_000 and largest["normed"] > 23
    assert table.query("dim == 507")["layer"].between(12, 28).sum() == 17
    text = "The lighthouse keeper counted the ships, and the ships counted him.\nThen the fog came, and nobody counted."
    smaller = massive(smollm2, text, ratio=100.0).to_frame().query("pos > 0 and layer < 10")
    assert set(smaller["token"]) == {" the"} and set(smaller["dim"]) == {507} and {4, 5, 6, 7} <= {*smaller["layer"]}
