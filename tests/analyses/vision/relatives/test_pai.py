"""PAI against attention computed entry by entry, and what it must leave alone."""

import pytest
import torch

from headlens.analyses.vision.relatives.pai import pai, pai_centred
from headlens.hooks.edits import Call
from headlens.hooks.model import wrap
from plain_image_scores import raised_by_hand, rewritten_by_hand
from tiny_models import IMAGE_TOKEN, held, tiny
from tiny_samples import pulled, sample, together

ONE = together(sample(9, seed=1), sample(9, seed=2), sample(9, seed=3))
TWO_PICTURES = together(*(sample(7, pictures=2, seed=seed, start=(2, 11)) for seed in (4, 5)))
SITES = ["pattern", "z"]


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


def looking(layers=(0, 1, 2)):
    """Hooks that change nothing, so that a run takes the same way as an edited one."""
    return [Call(f"blocks.{layer}.attn.hook_attn_scores", lambda scores, hook: None) for layer in layers]


def recorded(model, inputs, *edits, layer=1):
    with torch.no_grad(), model.edited(*edits):
        kept = model.record(inputs, names_filter=SITES)[1]
    return kept[f"blocks.{layer}.attn.hook_pattern"], kept[f"blocks.{layer}.attn.hook_z"]


@pytest.mark.parametrize("inputs", [ONE, TWO_PICTURES], ids=["batch of 3", "two pictures each"])
@pytest.mark.parametrize("edit", [pai, pai_centred])
def test_logits_are_those_of_scores_raised_by_hand(plain_model, inputs, edit):
    model = held("llava")
    by_hand = raised_by_hand(inputs["input_ids"], IMAGE_TOKEN, 0.7, centred=edit is pai_centred)
    with rewritten_by_hand(plain_model, by_hand, [1, 2]):
        expected = plain_model(**inputs).logits
    with torch.no_grad():
        plain = model(inputs)
        with model.edited(edit(model, 0.7, layers=[1, 2])):
            found = model(inputs)
    assert (expected - plain)[:, -1].abs().amax(-1).min() > 0.05
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_layers_0_and_1_are_left_out_unless_named(plain_model):
    model = held("llava")
    with rewritten_by_hand(plain_model, raised_by_hand(ONE["input_ids"], IMAGE_TOKEN, 0.2), [2]):
        expected = plain_model(**ONE).logits
    with torch.no_grad(), model.edited(pai(model)):
        torch.testing.assert_close(model(ONE), expected, atol=3e-5, rtol=0)


def test_no_strength_changes_no_bit():
    model = held("llava")
    for edit in (pai, pai_centred):
        with torch.no_grad(), model.edited(edit(model, 0.0, layers=[0, 1, 2])):
            found = model(ONE)
        with torch.no_grad(), model.edited(*looking()):
            assert torch.equal(found, model(ONE))


@pytest.mark.parametrize("edit", [pai, pai_centred])
def test_attention_to_patches_grows_with_strength_in_every_head(edit):
    model, image = held("llava"), TWO_PICTURES["input_ids"] == IMAGE_TOKEN
    masses = []
    for alpha in (-0.3, 0.0, 0.1, 0.4, 0.9):
        pattern, _ = recorded(model, TWO_PICTURES, edit(model, alpha, layers=[1]))
        masses.append(torch.where(image[:, None], pattern[:, :, -1], 0).sum(-1))
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:3]), atol=1e-6, rtol=0)
    assert all((more > less).all() for less, more in zip(masses, masses[1:], strict=False))


def test_other_rows_and_heads_stay_bit_for_bit():
    model = held("llava")
    pattern, z = recorded(model, ONE, *looking([1]))
    raised, found = recorded(model, ONE, pai(model, 0.5, heads=["L1H1", "L1H2"]))
    assert torch.equal(found[:, :-1], z[:, :-1]) and torch.equal(raised[:, :, :-1], pattern[:, :, :-1])
    assert torch.equal(found[:, -1, [0, 3]], z[:, -1, [0, 3]])
    assert not torch.isclose(found[:, -1, 1:3], z[:, -1, 1:3]).all(-1).any()
    # and so do the rows of later layers
    late, plain = (recorded(model, ONE, *edits, layer=2)[1] for edits in ([pai(model, 0.5, layers=[1])], looking([1])))
    assert torch.equal(late[:, :-1], plain[:, :-1]) and not torch.equal(late, plain)


def test_a_constant_added_to_a_row_matters_to_the_papers_form_alone():
    model, everything = held("llava"), [*range(25)]
    for edit, same in ((pai, False), (pai_centred, True)):
        plain, shifted = (
            recorded(model, ONE, pulled(everything, offset, 1), edit(model, 0.5, layers=[1]))[0][:, :, -1]
            for offset in (0.0, 3.0)
        )
        distance = (plain - shifted).abs().amax(-1)
        assert (distance < 1e-5).all() if same else (distance > 1e-3).all()


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
@pytest.mark.parametrize("edit", [pai, pai_centred])
def test_cached_steps_are_one_run_edited_from_the_last_token_of_the_prompt(edit, cache):
    model, last = held("llava"), ONE["input_ids"].shape[1] - 1
    with model.edited(edit(model, 0.6, layers=[0, 1, 2])):
        steps = generated(model, ONE, **({"cache_implementation": cache} if cache else {}))
    with torch.no_grad(), model.edited(edit(model, 0.6, layers=[0, 1, 2], since=last)):
        whole = model({**ONE, "input_ids": steps.sequences[:, :-1]})
        again = generated(model, ONE, use_cache=False)
    torch.testing.assert_close(torch.stack(steps.logits, 1), whole[:, last:], atol=3e-5, rtol=0)
    assert torch.equal(steps.sequences, again.sequences)
    with torch.no_grad(), model.edited(edit(model, 0.6, layers=[0, 1, 2])):
        newest = model({**ONE, "input_ids": steps.sequences[:, :-1]})
    # the paper's rule, without a cache, is another one
    assert (newest[:, -1] - whole[:, -1]).abs().max() > 1e-3


def test_sliding_windows_and_grouped_queries(windowed):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 90, (3, 13), generator=draw)
    # at 7 and behind, patches are inside the window of the last row; of 6, and before, they are not
    for prompt, places in enumerate([[0, 8, 9], [1, 2, 7, 11], [4, 5, 10]]):
        ids[prompt, places] = IMAGE_TOKEN
    edit = pai(windowed, 0.8, layers=[0, 1, 2])
    with rewritten_by_hand(windowed.hf, raised_by_hand(ids, IMAGE_TOKEN, 0.8), [0, 1, 2], window=6):
        expected = windowed.hf(ids).logits
    with torch.no_grad(), windowed.edited(edit):
        torch.testing.assert_close(windowed(ids), expected, atol=3e-5, rtol=0)
        steps = generated(windowed, {"input_ids": ids})
    rows = range(12, steps.sequences.shape[1] - 1)
    longer = steps.sequences[:, :-1]
    with rewritten_by_hand(windowed.hf, raised_by_hand(longer, IMAGE_TOKEN, 0.8, rows), [0, 1, 2], window=6):
        expected = windowed.hf(longer).logits[:, 12:]
    torch.testing.assert_close(torch.stack(steps.logits, 1), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_last_token(side):
    model, inputs = held("llava"), sample(9, seed=1)
    parts = [torch.ones(1, 3, dtype=torch.long), inputs["input_ids"]]
    ids = torch.cat(parts if side == "left" else parts[::-1], 1)
    mask = (ids != 1).long()
    with torch.no_grad(), model.edited(pai(model, 0.6, layers=[1, 2])):
        whole = model(inputs)
        padded = model({"input_ids": ids, "pixel_values": inputs["pixel_values"], "attention_mask": mask})
    own = padded[:, 3:] if side == "left" else padded[:, :-3]
    torch.testing.assert_close(own, whole, atol=3e-5, rtol=0)


def test_rows_by_prompt():
    model = held("llava")
    since = [20, 25, 22]
    with torch.no_grad(), model.edited(pai(model, 0.6, layers=[1], since=since)):
        found = recorded(model, ONE)[1]
    with torch.no_grad(), model.edited(*looking([1])):
        plain = recorded(model, ONE)[1]
    changed = (found != plain).flatten(2).any(-1)
    assert torch.equal(changed, torch.arange(25) >= torch.tensor(since)[:, None])


def test_a_prompt_without_patches_is_not_changed():
    model, ids = held("llava"), torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.edited(pai(model, 5.0, layers=[1, 2])):
        found = model(ids)
    with torch.no_grad(), model.edited(*looking([1, 2])):
        assert torch.equal(found, model(ids))


def test_gradients_are_finite():
    model = held("llava")
    embeddings = model.hf.get_input_embeddings().weight
    with model.edited(pai_centred(model, 0.5, layers=[1, 2])):
        (slope,) = torch.autograd.grad(model(ONE)[:, -1].sum(), embeddings)
    assert slope.isfinite().all() and slope.any()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"layers": [3]}, r"layers=\[3\] were given.*some of 0..2"),
        ({"layers": []}, r"layers=\[\] were given"),
        ({"layers": [1], "heads": "L1H0"}, "Both layers= and heads="),
        ({"heads": []}, "names no head"),
        ({"since": -1}, "negative"),
    ],
    ids=["alpha", "layer", "no layers", "both", "no heads", "row"],
)
def test_what_cannot_be_is_refused(given, words):
    for edit in (pai, pai_centred):
        with pytest.raises(ValueError, match=words):
            edit(held("llava"), **given)


def test_runs_and_models_that_cannot_be_are_refused():
    model = held("llava")
    with pytest.raises(ValueError, match="names no image token"):
        pai(held("llama"))
    with pytest.raises(ValueError, match="since has 2 entries for a batch of 3"):
        with model.edited(pai(model, since=[3, 4])):
            model(ONE)
    embeds = model.hf.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    with pytest.raises(ValueError, match="token ids of the whole run"), model.edited(pai(model)):
        model({"inputs_embeds": embeds})
