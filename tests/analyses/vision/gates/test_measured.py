"""What gates read off the small model, against plain runs of transformers' own."""

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

import headlens
from headlens.analyses.vision.gates.results import Results, over_seeds
from headlens.analyses.vision.gates.seeing_heads import _silenced
from headlens.analyses.vision.gates.setting import CLEAR, CLEARLY_PARTED, Setting, missing_partner, of
from headlens.analyses.vision.gates.told_prior import _told
from headlens.analyses.vision.scenes.scene_questions import describe
from headlens.analyses.vision.scenes.scenes import ANCHORS, PRIOR, draw_scenes
from headlens.analyses.vision.scenes.tiny_vlm import tiny_tokenizer
from made_answers import answers

SEED = 77


@pytest.fixture(scope="module")
def setting():
    return Setting(headlens.load("tiny-vlm", device="cpu"), (SEED,), scenes=3, resamples=20)


@pytest.fixture(scope="module")
def plain():
    """The same weights, which no part of headlens has held."""
    folder = headlens.load("tiny-vlm", device="cpu").hf.name_or_path
    return LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


def test_what_is_told_of_an_anchor_without_a_picture(setting, plain):
    found, tokenizer, expected = _told(setting, SEED), tiny_tokenizer(), []
    for scene in draw_scenes(3, SEED, PRIOR):
        said = ["describe", *describe(scene).split()]
        for at, word in enumerate(said):
            if word not in ANCHORS:
                continue
            chance, so_far = [], [*said[: at + 1]]
            for following in ("with", "a", ANCHORS[word]):
                ids = torch.tensor([tokenizer(" ".join(so_far))["input_ids"]])
                with torch.no_grad():
                    likely = plain(input_ids=ids).logits[0, -1].softmax(-1)
                chance.append(float(likely[tokenizer.convert_tokens_to_ids(following)]))
                so_far.append(following)
            expected.append((scene.name, chance[0], float(np.prod(chance))))
    assert found.clusters == tuple(name for name, _, _ in expected)
    np.testing.assert_allclose(found.numbers["P(with)"], [each for _, each, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.numbers["P(partner)"], [each for _, _, each in expected], rtol=1e-4)


def margins_without(plain, samples, layer=None, head=None):
    """logit(yes) - logit(no) with one head's z put to 0 in front of the output projection."""
    ids, found = tiny_tokenizer().convert_tokens_to_ids(["yes", "no"]), []

    def silence(module, args):
        z = args[0].clone()
        z[..., head * 16 : (head + 1) * 16] = 0
        return (z,)

    handle = None
    if layer is not None:
        projection = plain.model.language_model.layers[layer].self_attn.o_proj
        handle = projection.register_forward_pre_hook(silence)
    with torch.no_grad():
        for inputs in samples.inputs:
            logits = plain(**inputs).logits[0, -1]
            found.append(float(logits[ids[0]] - logits[ids[1]]))
    if handle is not None:
        handle.remove()
    return np.array(found)


def test_what_silencing_a_head_costs(setting, plain):
    samples = setting.questions(SEED, "random", CLEAR, setting.few)
    found, clean = _silenced(setting, SEED), margins_without(plain, samples)
    sign = np.where(np.array(samples.answers) == "yes", 1, -1)
    for layer, head in ((0, 1), (2, 5), (3, 7)):
        without = margins_without(plain, samples, layer, head)
        np.testing.assert_allclose(found.margin[:, layer, head], sign * (clean - without), atol=1e-4)
        right = [(sign * each > 0).astype(float) for each in (clean, without)]
        np.testing.assert_array_equal(found.points[:, layer, head], right[0] - right[1])
    assert np.abs(found.margin).max() > 0.5 and found.clusters == samples.clusters


def test_questions_about_missing_partners_are_told_from_others(setting):
    samples = setting.questions(SEED, "adversarial", CLEARLY_PARTED)
    mask = missing_partner(samples)
    assert setting.questions(SEED, "adversarial", CLEARLY_PARTED) is samples
    for at, facts in enumerate(samples.facts):
        anchors = [one for one in facts["objects"] if ANCHORS.get(one) == facts["noun"]]
        assert mask[at] == (bool(anchors) and samples.answers[at] == "no")
    assert mask.any()


def test_beside_an_accuracy_stand_the_margins_of_absent_partners_and_others(setting):
    given, mask = answers(fpr=0.5, n=6), np.array([False] * 6 + [True, True] + [False] * 4)
    results = over_seeds([given])
    figures = setting.answer_figures("G5", "an edit", results, Results((mask,), mask))
    by = {one.measure: one.value for one in figures}
    assert by["margin_of_partners"] == 3 and by["margin_of_others"] == pytest.approx((3 - 2 * 3) / 4)
    assert by["margin_if_no"] == pytest.approx(0.5) and by["margin_if_yes"] == 2
    assert len(of(given, mask)) == 2 and of(given, mask).clusters == given.clusters[6:8]
