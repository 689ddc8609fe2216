"""The gaze against transformers' eager attention: which row is shown for which word, and what is kept of it."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

import headlens
from headlens.analyses.vision.answers import answer_ids, greedy_answer, with_answer
from headlens.analyses.vision.gaze import Gaze, gaze
from headlens.analyses.vision.image_prompts import image_prompt
from headlens.analyses.vision.scenes.scene_pictures import draw_picture
from headlens.analyses.vision.scenes.scenes import draw_scenes
from headlens.bundled import bundled_folder
from headlens.hooks.edits import Gate
from headlens.hooks.row_edits import Temperature
from headlens.hooks.token_roles import Grid, token_roles
from tiny_models import held
from tiny_samples import sample
from tiny_vlms import VLMS, held_vlm
from vlm_inputs import continued, inputs_for_vlm

PICTURES = [draw_picture(scene) for scene in draw_scenes(2, 5)]
ASKED = "is there a cup ?"
WORDS = ("is", "there", "a", "cup", "?")


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture(scope="module")
def eager():
    folder = bundled_folder("tiny-vlm")
    return LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def one(model):
    return image_prompt(model, PICTURES[:1], ASKED)


@pytest.fixture(scope="module")
def seen(model, one):
    return gaze(model, one, answer="there is a ring .")


def patterns(eager, inputs, ids):
    """The whole attention of the prompt with its answer, [layer, head, query, key]."""
    whole = {"pixel_values": inputs["pixel_values"], "input_ids": torch.cat([inputs["input_ids"], ids], 1)}
    with torch.no_grad():
        return torch.stack(eager(**whole, output_attentions=True).attentions)[:, 0].numpy()


@pytest.mark.parametrize("pictures", [1, 2])
def test_every_row_is_the_one_that_sees_or_says_the_word(model, eager, pictures):
    inputs = image_prompt(model, PICTURES[:pictures], ASKED)
    found = gaze(model, inputs, answer="there is a ring .")
    ids = torch.tensor([model.tokenizer.tokenizer("there is a ring .", add_special_tokens=False)["input_ids"]])
    whole = patterns(eager, inputs, ids)
    length, image = inputs["input_ids"].shape[1], (inputs["input_ids"][0] == 4).nonzero()[:, 0].tolist()
    assert found.tokens == (*WORDS, "there", "is", "a", "ring", ".") and found.n_prompt == 5
    rows = [length - 5 + at for at in range(5)] + [length - 1 + at for at in range(5)]
    assert found.rows == tuple(rows) and found.answer == "there is a ring ."
    wanted = whole[:, :, rows][..., image].transpose(2, 0, 1, 3)
    np.testing.assert_allclose(found.attention, wanted, rtol=1e-4, atol=1e-6)
    # the first word of the answer is said at the prompt's last
    assert np.array_equal(found.attention[4], found.attention[5])
    assert found.attention.sum(-1).max() > 0.5 and found.attention.std() > 0


def test_patches_lie_in_rows_of_their_own_picture(model):
    found = gaze(model, image_prompt(model, PICTURES, ASKED), answer="yes")
    assert found.grids == (Grid(0, 6, 6, 1), Grid(1, 6, 6, 37)) and found.attention.shape[-1] == 72
    for picture in (0, 1):
        own = found.attention[5, 2, 5, 36 * picture : 36 * (picture + 1)].reshape(6, 6)
        assert np.array_equal(found.over(5, "L2H5", picture), own)
    assert found.cells[36 + 8].tolist() == [1, 1, 2]


@pytest.mark.parametrize("name", [name for name in VLMS if name != "instructblip"])
def test_every_architecture_has_its_patches_in_their_places(name):
    model, inputs = held_vlm(name), inputs_for_vlm(name)
    found = gaze(model, inputs, answer=[11, 12, 13])
    with torch.no_grad():
        _, kept = model.record(continued(name, inputs, torch.tensor([[11, 12, 13]])), names_filter=["pattern"])
    roles = token_roles(model.hf.config, inputs)
    for at, grid in enumerate(found.grids):
        positions = roles.patches(0, grid.image, grid.level)
        for layer in range(model.n_layers):
            pattern = kept[f"blocks.{layer}.attn.hook_pattern"][0, 2][-4:-1][:, positions.clamp(min=0)]
            own = np.stack([found.over(token, (layer, 2), at) for token in found.answer_tokens])
            there = (positions >= 0).numpy()
            np.testing.assert_allclose(own[:, there], pattern[:, there], rtol=1e-4, atol=1e-6)
            assert np.isnan(own[:, ~there]).all()
    assert len(found.cells) == sum(int((roles.patches(0, g.image, g.level) >= 0).sum()) for g in found.grids)


def test_a_picture_may_stand_in_front_of_everything():
    model, inputs = held("llava"), sample(length=5)
    found = gaze(model, inputs, answer=[7])
    with torch.no_grad():
        _, kept = model.record(inputs, names_filter=["pattern"])
    pattern = kept["blocks.1.attn.hook_pattern"][0, :, -1, :16]
    np.testing.assert_allclose(found.attention[-1, 1], pattern, rtol=1e-4, atol=1e-6)
    assert found.attention[..., 0].min() > 0 and found.n_prompt == 5


def test_without_an_answer_the_model_says_one(model, eager, one):
    found = gaze(model, one, max_new_tokens=7)
    with torch.no_grad():
        said = eager.generate(**one, max_new_tokens=7, do_sample=False)[0, one["input_ids"].shape[1] :]
    kept = [token for token in said.tolist() if token != 3]
    assert found.provenance["answer_ids"] == kept and len(found.answer_tokens) == len(kept)


def test_edits_shape_both_the_answer_and_the_attention(model, one):
    edits = [Gate("L2H3", 0.0), Temperature("L3H1", 2.5)]
    found = gaze(model, one, edits=edits)
    said = greedy_answer(model, one, edits=edits)
    assert found.provenance["answer_ids"] == said
    with model.edited(*edits):
        _, kept = model.record(with_answer(model, one, said), names_filter=["pattern"])
        outside = gaze(model, one, answer=said)
    for layer in range(4):
        pattern = kept[f"blocks.{layer}.attn.hook_pattern"][0][:, [*found.rows], 1:37].transpose(0, 1)
        np.testing.assert_allclose(found.attention[:, layer], pattern, rtol=1e-4, atol=1e-6)
    assert np.array_equal(outside.attention, found.attention)
    assert np.abs(found.attention - gaze(model, one, answer=said).attention).max() > 0.05


def test_what_goes_with_tokens_goes_on(model, one):
    extra = {"token_type_ids": torch.ones_like(one["input_ids"]), "position_ids": torch.arange(42)[None]}
    longer = with_answer(model, {**one, **extra}, [7, 8, 9])
    assert longer["input_ids"][0, -3:].tolist() == [7, 8, 9]
    assert longer["attention_mask"][0, -3:].tolist() == [1, 1, 1]
    assert longer["token_type_ids"][0, -4:].tolist() == [1, 0, 0, 0]
    assert longer["position_ids"][0, -4:].tolist() == [41, 42, 43, 44]
    assert longer["pixel_values"] is one["pixel_values"]


def test_tables_name_the_heads_that_look_most(seen):
    top = seen.top(3)
    shares = seen.attention[5:].sum(-1).mean(0)
    layer, head = np.unravel_index(shares.argmax(), shares.shape)
    assert top["label"][0] == f"L{layer}H{head}" and top["share"][0] == pytest.approx(shares.max(), rel=1e-5)
    mean = seen.attention[5:, layer, head].mean(0)
    assert (top["row"][0], top["column"][0]) == divmod(int(mean.argmax()), 6)
    assert top["patch"][0] == pytest.approx(mean.max(), rel=1e-5)
    frame = seen.to_frame()
    assert len(frame) == 10 * 4 * 8 and [*frame["part"].unique()] == ["prompt", "answer"]
    line = frame[(frame["token"] == 6) & (frame["label"] == "L1H3")].iloc[0]
    assert line["text"] == "is" and line["pos"] == seen.rows[6]
    assert line["share"] == pytest.approx(seen.attention[6, 1, 3].sum())
    assert line["patch"] == seen.over(6, (1, 3))[line["row"], line["column"]] == seen.attention[6, 1, 3].max()


def test_a_file_holds_all_of_it(seen, tmp_path):
    seen.save(tmp_path / "gaze.safetensors")
    back = Gaze.load(tmp_path / "gaze.safetensors")
    assert np.array_equal(back.attention, seen.attention) and np.array_equal(back.cells, seen.cells)
    for name in ("grids", "tokens", "rows", "n_prompt", "answer", "provenance"):
        assert getattr(back, name) == getattr(seen, name)
    back.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "gaze.safetensors").read_bytes()
    with pytest.raises(FrozenInstanceError):
        seen.answer = ""
    with pytest.raises(ValueError, match="read-only"):
        seen.attention[0] = 0


def test_a_file_of_another_kind_is_refused(tmp_path, model, one):
    headlens.HeadMap(np.ones((1, 1)), ("layer", "head"), "x", "y", "z").save(tmp_path / "map.safetensors")
    with pytest.raises(ValueError, match="holds no Gaze"):
        Gaze.load(tmp_path / "map.safetensors")


def test_what_cannot_be_looked_at_is_refused(model, one):
    with pytest.raises(ValueError, match="no image tokens that are patches"):
        gaze(held_vlm("instructblip"), inputs_for_vlm("instructblip"), answer=[11])
    with pytest.raises(ValueError, match="no image tokens that are patches"):
        gaze(model, {"input_ids": one["input_ids"][:, 37:]}, answer="yes")
    with pytest.raises(ValueError, match="one prompt"):
        gaze(model, {name: torch.cat([value, value]) for name, value in one.items()}, answer="yes")
    with pytest.raises(ValueError, match="does not know all of 'Yes sir'"):
        gaze(model, one, answer="Yes sir")
    with pytest.raises(ValueError, match="answer is empty"):
        answer_ids(model, "")
    with pytest.raises(ValueError, match="has no tokens"):
        gaze(model, one, answer=[])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        gaze(model, one, max_new_tokens=0)
