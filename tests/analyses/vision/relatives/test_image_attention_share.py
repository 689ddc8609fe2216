"""Which picture is looked at: R against transformers' own generation, and what it tells of wrong answers."""

import numpy as np
import pytest
import torch

from headlens.analyses.vision.relatives.image_attention_share import ImageShares, image_attention_share
from headlens.analyses.vision.samples import Samples
from plain_answers import plain_answer
from tiny_models import held
from tiny_samples import pulled, sample, samples

# The second picture is asked about in half of the samples.
ASKED = [0, 1, 0]
SEVERAL = Samples(
    "several",
    (sample(5, pictures=2, start=(2, 8)), sample(9, pictures=3, seed=1), sample(5, pictures=2, seed=2, start=(2, 9))),
    clusters=("a", "b", "a"),
)


def pictures_of(inputs):
    """Runs of image tokens."""
    runs, before = [], None
    for at in (inputs["input_ids"][0] == 99).nonzero()[:, 0].tolist():
        runs = runs if before == at - 1 else [*runs, []]
        runs[-1].append(at)
        before = at
    return runs


@pytest.mark.parametrize(("layer", "read"), [(None, 1), (2, 2)])
def test_ratio_by_hand_from_generated_steps(layer, read):
    found = image_attention_share(held("llava"), SEVERAL, ASKED, max_new_tokens=5, layer=layer, batch=2)
    assert found.layer == read and found.clusters == ("a", "b", "a")
    for at, (inputs, which) in enumerate(zip(SEVERAL.inputs, ASKED, strict=True)):
        said, steps = plain_answer(inputs, 5)
        assert found.answers[at].tolist() == said.tolist()
        # the first step is the prompt's last row
        means = [
            np.mean([[step[read].mean(0)[key] for key in run] for step in steps[1:]]) for run in pictures_of(inputs)
        ]
        np.testing.assert_allclose(found.attention[at], means, rtol=1e-4)
        assert found.ratio[at] == pytest.approx(means[which] / sum(means), rel=1e-4)


def test_an_answer_that_was_said_by_somebody_else():
    model = held("llava")
    own = image_attention_share(model, SEVERAL, ASKED, max_new_tokens=5)
    given = image_attention_share(model, SEVERAL, ASKED, answers=[said.tolist() for said in own.answers])
    np.testing.assert_array_equal(own.ratio, given.ratio)
    other = image_attention_share(model, SEVERAL, ASKED, answers=[[7, 9, 11]] * 3)
    assert not np.allclose(own.ratio, other.ratio)


def test_pictures_without_a_token_between_them_are_two():
    model, apart = held("llava"), sample(6, pictures=2)
    ids = apart["input_ids"]
    # the tokens between the two pictures come last
    order = [*range(16), *range(19, 41), 16, 17, 18]
    found = image_attention_share(
        model, Samples("adjacent", ({**apart, "input_ids": ids[:, order]},)), [1], answers=[[5, 6, 7]]
    )
    assert found.attention[0].shape == (2,) and 0 < found.ratio[0] < 1


def test_an_answer_of_one_token_has_no_row():
    found = image_attention_share(held("llava"), SEVERAL, ASKED, answers=[[5], [6, 7], [5, 6]])
    assert np.isnan(found.ratio[0]) and not np.isnan(found.ratio[1:]).any()


def test_a_low_ratio_tells_wrong_answers_until_patterns_are_permuted():
    """Every other sample is made to look at the picture that it was not asked about."""
    model, some = held("llava"), samples(24, pictures=2, length=6)
    asked = np.arange(24) // 2 % 2
    wrong = np.arange(24) % 2 == 1
    places = [pictures_of(some.inputs[0])[picture] for picture in range(2)]
    attention = [np.zeros(2)] * 24
    for picture in range(2):
        own = np.flatnonzero((asked ^ wrong) == picture)
        with model.edited(pulled(places[picture], 3.0, 1)):
            part = image_attention_share(model, some.subset(own.tolist()), asked[own].tolist(), answers=[[5, 6]] * 12)
        for at, each in zip(own, part.attention, strict=True):
            attention[at] = each
    found = ImageShares(tuple(attention), asked, (), 1, some.clusters)
    assert found.auroc(wrong) > 0.95
    draw = np.random.default_rng(0)
    permuted = [
        ImageShares(tuple(attention[at] for at in draw.permutation(24)), asked, (), 1, some.clusters).auroc(wrong)
        for _ in range(400)
    ]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.02)


def test_auroc_leaves_out_what_has_no_ratio():
    attention = tuple(np.array([one, 1 - one], np.float32) for one in (0.1, 0.5, 0.5, 0.9, np.nan))
    found = ImageShares(attention, np.zeros(5, np.int64), (), 0, ())
    # pairs of a wrong and a right one: .1 < .5, .1 < .9, .5 = .5, .5 < .9
    assert found.auroc(np.array([True, True, False, False, True])) == pytest.approx(3.5 / 4)
    assert np.isnan(found.auroc(np.zeros(5, bool)))


@pytest.mark.parametrize(
    ("samples", "asked", "words", "says"),
    [
        (SEVERAL, [0, 1], {}, "2 asked pictures were given for 3"),
        (Samples("one", (sample(),)), [0], {}, "has 1 pictures"),
        (SEVERAL, [0, 3, 0], {}, "pictures 0..2, and 3 was asked"),
        (SEVERAL, ASKED, {"layer": 3}, "Layer 3"),
        (SEVERAL, ASKED, {"answers": [[5]]}, "1 answers"),
        (Samples("text", ({"input_ids": torch.arange(4, 9)[None]},)), [0], {}, "has 0 pictures"),
    ],
    ids=["count", "one picture", "not there", "layer", "answers", "text"],
)
def test_what_does_not_fit_is_refused(samples, asked, words, says):
    with pytest.raises(ValueError, match=says):
        image_attention_share(held("llava"), samples, asked, **words)
