"""Inhibition of text-image pairs against attention computed by hand, whole and in cached steps."""

import pytest
import torch

from headlens.analyses.vision.relatives.cross_modal_inhibition import focus, inhibit_cross_modal
from headlens.hooks.model import wrap
from plain_image_scores import rewritten_by_hand
from plain_inhibition import inhibited_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import sample, together

ONE = together(sample(9, seed=1), sample(9, seed=2), sample(9, seed=3))
TWO_PICTURES = together(*(sample(7, pictures=2, seed=seed, start=(2, 11)) for seed in (4, 5)))
PATTERN = "blocks.1.attn.hook_pattern"


@pytest.fixture(scope="module")
def plain_model():
    """The same weights, which no part of headlens has held."""
    return tiny("llava")


@pytest.fixture(scope="module")
def windowed():
    """A text model with sliding windows and grouped queries, one of whose tokens stands for patches."""
    hf = tiny("mistral")
    hf.config.image_token_id = IMAGE_TOKEN
    return wrap(hf, name="windowed")


def test_focus_is_where_the_text_looks_that_a_row_looks_at():
    draw = torch.Generator().manual_seed(0)
    looks = torch.rand(2, 5, 7, generator=draw)
    assert torch.equal(focus(torch.eye(5).expand(2, -1, -1), looks), looks)
    own = torch.rand(2, 5, 5, generator=draw)
    torch.testing.assert_close(focus(own, looks)[1, 3, 4], sum(own[1, 3, at] * looks[1, at, 4] for at in range(5)))


@pytest.mark.parametrize("inputs", [ONE, TWO_PICTURES], ids=["batch of 3", "two pictures each"])
@pytest.mark.parametrize("keep", [0.0, 0.25, 0.6])
def test_logits_are_those_of_pairs_hidden_by_hand(plain_model, inputs, keep):
    model = held("llava")
    with rewritten_by_hand(plain_model, inhibited_by_hand(inputs["input_ids"], IMAGE_TOKEN, keep), [0, 1, 2]):
        expected = plain_model(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(inhibit_cross_modal(model, keep)):
            found = model(inputs)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_hidden_pairs_have_no_attention_and_rows_their_sum():
    model, image = held("llava"), (TWO_PICTURES["input_ids"] == IMAGE_TOKEN)[:, None, None]
    plain = model.record(TWO_PICTURES, names_filter=PATTERN)[1][PATTERN]
    with model.edited(inhibit_cross_modal(model, 0.25, heads=["L1H0", "L1H2"])):
        found = model.record(TWO_PICTURES, names_filter=PATTERN)[1][PATTERN]
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]), atol=1e-6, rtol=0)
    assert torch.equal(found[:, [1, 3]], plain[:, [1, 3]])
    # from the last text on, a quarter of 32 patches is left
    assert (((found > 0) & image).sum(-1)[:, [0, 2], -7:] == 8).all()
    assert ((found == 0) | image | (found >= plain * (1 - 1e-6)))[:, [0, 2]].all()
    rows = image[:, 0, 0]
    for prompt in range(2):
        assert torch.equal(found[prompt][:, rows[prompt]], plain[prompt][:, rows[prompt]])
        assert torch.equal(found[prompt][:, :2], plain[prompt][:, :2])


def test_keeping_all_changes_no_bit_and_keeping_none_leaves_no_attention_to_patches():
    model = held("llava")
    with torch.no_grad(), model.edited(inhibit_cross_modal(model, 1.0)):
        found = model(ONE)
    with torch.no_grad():
        assert torch.equal(found, model(ONE))
    with torch.no_grad(), model.edited(inhibit_cross_modal(model, 0.0)):
        pattern = model.record(ONE, names_filter=PATTERN)[1][PATTERN]
    assert (pattern[:, :, 16:, :16] == 0).all() and pattern.isfinite().all()


def generated(model, inputs, **settings):
    return model.hf.generate(
        **inputs,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        disable_compile=True,
        **settings,
    )


@pytest.mark.parametrize("cache", [None, "static"])
def test_cached_steps_are_the_rows_of_a_whole_run(cache):
    model, last = held("llava"), TWO_PICTURES["input_ids"].shape[1] - 1
    with model.edited(inhibit_cross_modal(model, 0.3)):
        steps = generated(model, TWO_PICTURES, **({"cache_implementation": cache} if cache else {}))
        again = generated(model, TWO_PICTURES, use_cache=False)
        with torch.no_grad():
            whole = model({**TWO_PICTURES, "input_ids": steps.sequences[:, :-1]})
    torch.testing.assert_close(torch.stack(steps.logits, 1), whole[:, last:], atol=3e-5, rtol=0)
    assert torch.equal(steps.sequences, again.sequences)


def test_sliding_windows_and_grouped_queries(windowed):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 90, (3, 13), generator=draw)
    for prompt, places in enumerate([[0, 4, 8, 9], [1, 2, 7, 11], [4, 5, 6, 10]]):
        ids[prompt, places] = IMAGE_TOKEN
    edit = inhibit_cross_modal(windowed, 0.5)
    with windowed.edited(edit):
        steps = generated(windowed, {"input_ids": ids})
        with torch.no_grad():
            whole = windowed(steps.sequences[:, :-1])
    longer = steps.sequences[:, :-1]
    with rewritten_by_hand(windowed.hf, inhibited_by_hand(longer, IMAGE_TOKEN, 0.5), [0, 1, 2], window=6):
        expected = windowed.hf(longer).logits
    torch.testing.assert_close(whole, expected, atol=3e-5, rtol=0)
    torch.testing.assert_close(torch.stack(steps.logits, 1), expected[:, 12:], atol=3e-5, rtol=0)


def test_rows_in_blocks_are_rows_at_once(monkeypatch):
    model = held("llava")
    with torch.no_grad(), model.edited(inhibit_cross_modal(model, 0.3)):
        at_once = model(TWO_PICTURES)
    monkeypatch.setattr("headlens.hooks.row_blocks.row_blocks.__defaults__", (0, 4 * 2 * 4 * 48 * 5, None))
    with torch.no_grad(), model.edited(inhibit_cross_modal(model, 0.3)):
        torch.testing.assert_close(model(TWO_PICTURES), at_once, atol=1e-6, rtol=0)


def test_padding_in_front_changes_nothing():
    model, inputs = held("llava"), sample(9, seed=1)
    ids = torch.cat([torch.ones(1, 3, dtype=torch.long), inputs["input_ids"]], 1)
    mask = (ids != 1).long()
    with torch.no_grad(), model.edited(inhibit_cross_modal(model, 0.4)):
        whole = model(inputs)
        padded = model({"input_ids": ids, "pixel_values": inputs["pixel_values"], "attention_mask": mask})
    torch.testing.assert_close(padded[:, 3:], whole, atol=3e-5, rtol=0)


def test_beams_and_what_cannot_be_are_refused():
    model = held("llava")
    with pytest.raises(ValueError, match="beam search changes it"), model.edited(inhibit_cross_modal(model)):
        model.generate(ONE, num_beams=3, max_new_tokens=8, min_new_tokens=8)
    for keep in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"keep={keep}"):
            inhibit_cross_modal(model, keep)
    with pytest.raises(ValueError, match="names no image token"):
        inhibit_cross_modal(held("llama"))
