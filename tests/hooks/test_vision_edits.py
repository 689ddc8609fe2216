"""Edits in every tower of a vision-language model, against plain hooks and attention written out as its formula."""

import pytest
import torch

from headlens.hooks.edits import Ablate, Call, Gate
from headlens.hooks.groups import Image
from headlens.hooks.inputs import prepare
from headlens.hooks.recalibrate import Recalibrate
from plain_attention import kept_attention, modules_of, plain_attention, silenced
from tiny_vlms import IMAGE_TOKEN, SEVERAL_PICTURES, VIDEO_TOKEN, VLMS, held_vlm
from vlm_inputs import continued, inputs_for_vlm

TOWERS = [(name, tower) for name in VLMS for tower in ("main", "vision")]
TOWERS += [("instructblip", "qformer"), ("instructblip", "qformer_cross")]
NEW = 9  # more than Gemma-3's window, with the words behind a picture


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def hook_name(tower, layer, site):
    return f"{'' if tower == 'main' else tower + '.'}blocks.{layer}.attn.hook_{site}"


def differ(one, other):
    return float((one - other).abs().max())


def some(name):
    return (2, 1) if name in SEVERAL_PICTURES else (1, 1)


def moved_from(pattern, donors, beta):
    """Rows in which donors keep `beta` of what they have and the others take the rest in proportion to theirs."""
    given = (pattern * donors).sum(-1, keepdim=True)
    taken = (pattern * ~donors).sum(-1, keepdim=True)
    changed = torch.where(donors, beta * pattern, pattern * (1 + (1 - beta) * given / taken.clamp(min=1e-30)))
    return torch.where(taken > 0, changed, pattern)


def from_image(inputs, beta):
    """For the language model's patterns of whole prompts."""
    image = (inputs["input_ids"] == IMAGE_TOKEN)[:, None, None]
    return lambda pattern: moved_from(pattern, image, beta)


@pytest.mark.parametrize(("name", "tower"), TOWERS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_silenced_head_equals_a_plain_hook(name, tower, layer):
    model, inputs = held_vlm(name), inputs_for_vlm(name, some(name))
    real = inputs["attention_mask"].bool()

    def zero(z, hook):
        z[:, :, 1] = 0

    edited = model.run_with_hooks(inputs, fwd_hooks=[(hook_name(tower, layer, "z"), zero)])[real]
    with silenced(model.hf, modules_of(name, tower, layer)[1], 1, model.towers[tower].d_head):
        torch.testing.assert_close(edited, model(inputs)[real], rtol=0, atol=3e-5)
    assert differ(edited, model(inputs)[real]) > 1e-3
    if tower == "main":
        for edit in (Gate((layer, 1), 0.0), Ablate((layer, 1))):
            with model.edited(edit):
                torch.testing.assert_close(model(inputs)[real], edited, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("name", "tower"), TOWERS)
def test_an_edited_pattern_equals_the_formula(name, tower):
    model, inputs = held_vlm(name), inputs_for_vlm(name, some(name))
    real = inputs["attention_mask"].bool()

    def change(pattern, hook=None):
        """One head looks backwards over the keys it sees, another moves attention from its first keys to the rest."""
        out = pattern.clone()
        seen = (pattern[:, 0] > 0).to(pattern.dtype)
        out[:, 0] = seen / seen.sum(-1, keepdim=True)
        first = torch.arange(pattern.shape[-1]) < 3
        out[:, 2] = moved_from(pattern[:, 2], first, 0.25)
        return out

    edited = model.run_with_hooks(inputs, fwd_hooks=[(hook_name(tower, 1, "pattern"), change)])[real]
    hf = held_vlm(name).hf
    before = model(inputs)[real]
    with kept_attention(hf), plain_attention(hf, {modules_of(name, tower, 1)[0]: change}):
        torch.testing.assert_close(edited, hf(**prepared(model, inputs)).logits[real], rtol=0, atol=3e-5)
    assert differ(edited, before) > 1e-3


@pytest.mark.parametrize("name", VLMS)
def test_attention_is_moved_from_the_image_to_the_rest(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name, some(name))
    real, hf = inputs["attention_mask"].bool(), model.hf
    edit = Recalibrate("all", donors="image", receivers="rest", beta=0.3, policy="transfer")
    with model.edited(edit):
        edited = model(inputs)[real]
    plainly = {modules_of(name, "main", layer)[0]: from_image(inputs, 0.3) for layer in range(3)}
    with kept_attention(hf), plain_attention(hf, plainly):
        torch.testing.assert_close(edited, hf(**prepared(model, inputs)).logits[real], rtol=0, atol=5e-5)
    assert differ(edited, model(inputs)[real]) > 1e-3


@pytest.mark.parametrize("name", VLMS)
def test_edits_that_change_nothing_leave_every_bit(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name, some(name))
    plain = model(inputs)
    for edit in (
        Gate("all", 1.0),
        Recalibrate("all", donors=Image(), receivers="rest", beta=1.0, policy="transfer"),
        Recalibrate("all", {"image": "image"}, {"image": 1.0}),
        Call(lambda site: "pattern" not in site and "scores" not in site, lambda tensor, hook: tensor),
    ):
        with model.edited(edit):
            assert torch.equal(model(inputs), plain)


@pytest.mark.parametrize("name", VLMS)
@pytest.mark.parametrize("kind", ["none", "main", "vision"])
def test_a_batch_equals_its_prompts_alone(name, kind):
    model, counts = held_vlm(name), some(name)
    inputs = inputs_for_vlm(name, counts)
    edit = {
        "none": Gate("all", 1.0),
        "main": Recalibrate("all", donors="image", receivers="rest", beta=0.3, policy="transfer"),
        "vision": Call("vision.blocks.0.attn.hook_z", lambda z, hook: z * torch.tensor([1.0, 0.0, 1.5])[:, None]),
    }[kind]
    with model.edited(edit):
        together = model(inputs)
        for at, count in enumerate(counts):
            alone = model(inputs_for_vlm(name, (count,), seed=1 + at))
            own = inputs["attention_mask"][at].bool()
            torch.testing.assert_close(together[at][own], alone[0], rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", VLMS)
@pytest.mark.parametrize("kind", ["image", "positions", "vision"])
def test_cached_generation_equals_whole_runs(name, kind):
    model, inputs = held_vlm(name), inputs_for_vlm(name, some(name), text=2)
    place = int((inputs["input_ids"] == IMAGE_TOKEN).nonzero()[-1, 1])
    edit = {
        "image": Recalibrate("all", donors="image", receivers="rest", beta=0.2, policy="transfer"),
        "positions": Recalibrate("all", {"cell": [place, place - 1]}, {"cell": 0.05}),
        "vision": Call("vision.blocks.1.attn.hook_z", lambda z, hook: z * torch.tensor([1.0, 0.0, 1.5])[:, None]),
    }[kind]
    with model.edited(edit):
        steps, new = generated(model, inputs)
        longer = continued(name, inputs, new[:, :-1])
        whole = model(longer)[:, -NEW:]
    torch.testing.assert_close(steps, whole, rtol=0, atol=2e-4)
    assert differ(whole, model(longer)[:, -NEW:]) > 1e-3
    if kind == "image":
        plainly = {modules_of(name, "main", layer)[0]: from_image(longer, 0.2) for layer in range(3)}
        with kept_attention(model.hf), plain_attention(model.hf, plainly):
            expected = model.hf(**prepared(model, longer)).logits[:, -NEW:]
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-4)


def test_tokens_of_an_inner_language_model_are_not_mistaken_for_others():
    """InstructBLIP's language model generates by itself, and gets embeddings; without ids no token is known."""
    model, inputs = held_vlm("instructblip"), inputs_for_vlm("instructblip")
    with model.edited(Recalibrate("all", {"image": "image"}, {"image": 0.1})):
        model(inputs)
        model.generate(inputs, max_new_tokens=2)
        with pytest.raises(ValueError, match="A group by token needs the token ids"):
            model.hf.generate(**inputs, max_new_tokens=2)


def prepared(model, inputs):
    """With positions counted from the first token."""
    return prepare(model.hf, None, inputs, {})


def generated(model, inputs):
    """Logits [prompt, step, token] of each cached step, and the tokens said."""
    steps = []

    def keep(ids, logits):
        steps.append(logits.clone())
        # a random model would ask for pictures
        logits[:, [IMAGE_TOKEN, VIDEO_TOKEN]] = -torch.inf
        return logits

    ids = model.generate(inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=10**6, logits_processor=[keep])
    return torch.stack(steps, 1), ids[:, -NEW:]
