"""Probes that are trained: the same for a seed, better than a mean on scenes, and looking where objects are."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

import headlens
from headlens.analyses.vision.measures.binary_measures import auroc
from headlens.analyses.vision.relatives.patch_features import patch_features
from headlens.analyses.vision.relatives.probe_training import train_mean_probe, train_probe
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions
from headlens.analyses.vision.scenes.scenes import NOUNS, PRIOR, without_prior

FEATURES = torch.randn(40, 6, 8, generator=torch.Generator().manual_seed(0))
PRESENCE = (FEATURES.amax(1)[:, :3] > 1.2).float()
BOTH = pytest.mark.parametrize("train", [train_probe, train_mean_probe], ids=["attentive", "mean"])


@BOTH
def test_a_seed_decides_all_and_nothing_else_does(train):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = train(FEATURES, PRESENCE, epochs=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(9)
    again, other = (train(FEATURES, PRESENCE, epochs=3, seed=seed) for seed in (1, 2))
    assert torch.equal(one(FEATURES), again(FEATURES)) and not torch.equal(one(FEATURES), other(FEATURES))
    assert not one.training and not any(each.requires_grad for each in one.parameters())


@BOTH
def test_numbers_of_classes_are_labels_too(train):
    labels = (FEATURES.mean(1)[:, 0] > 0).long() + (FEATURES.mean(1)[:, 0] > 0.3).long()
    probe = train(FEATURES, labels, epochs=200, weight_decay=0.0)
    assert probe(FEATURES).shape == (40, 3) and (probe(FEATURES).argmax(-1) == labels).float().mean() > 0.9


def test_a_cue_in_one_patch_is_found_where_it_is():
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(120, 25, 16, generator=draw)
    label, cell = torch.randint(2, (120,), generator=draw), torch.randint(25, (120,), generator=draw)
    features[torch.arange(120), cell, label] += 6
    probe = train_probe(features[:80], label[:80], queries=4, epochs=200)
    assert (probe(features[80:]).argmax(-1) == label[80:]).float().mean() > 0.9
    found = probe.evidence(features[80:])[torch.arange(40), label[80:]].argmax(-1)
    assert (found == cell[80:]).float().mean() > 0.9


@pytest.mark.slow
def test_on_scenes_it_beats_the_mean_and_points_at_objects():
    vlm, world = headlens.load("tiny-vlm"), replace(without_prior(PRIOR), weak=0.0)
    told = [scene_descriptions(vlm, n, seed, world=world) for n, seed in ((240, 700), (80, 701))]
    seen, unseen = (patch_features(vlm, each, 0, batch=40) for each in told)
    labels, truth = (
        torch.tensor([[float(noun in one["objects"]) for noun in NOUNS] for one in each.facts]) for each in told
    )
    probe, mean = (train(seen, labels, epochs=60) for train in (train_probe, train_mean_probe))
    area, hits, scores = [], [], {}
    for name, each in (("attentive", probe), ("mean", mean)):
        logits, even = each(unseen).numpy(), np.ones(len(unseen))
        per_class = [auroc(even, logits[:, at], truth[:, at].numpy() > 0) for at in range(len(NOUNS))]
        scores[name] = np.nanmean(per_class)
    assert scores["attentive"] > scores["mean"] + 0.02
    maps = probe.maps(unseen).numpy()
    for own, one in zip(maps, told[1].facts, strict=True):
        cells = [*one["cells"].values()]
        hits.append(np.isin(own.argmax(-1), cells).mean())
        area.append(len(cells) / 36)
    assert np.mean(hits) > 3 * np.mean(area)


@BOTH
@pytest.mark.parametrize(
    ("features", "labels", "words", "says"),
    [
        (FEATURES, PRESENCE[:5], {}, "one label for each"),
        (FEATURES[0], PRESENCE[:6], {}, r"expected \[sample, patch, width\]"),
        (FEATURES, PRESENCE * 2, {}, "presence"),
        (FEATURES, PRESENCE[:, 0], {}, "numbers of classes"),
        (FEATURES, PRESENCE, {"epochs": 0}, "epochs=0"),
        (FEATURES, PRESENCE, {"reduce": 3}, "divide"),
    ],
    ids=["count", "flat", "twos", "floats", "epochs", "reduce"],
)
def test_what_does_not_fit_is_refused(train, features, labels, words, says):
    with pytest.raises(ValueError, match=says):
        # users run without the type checks of tests
        inspect.unwrap(train)(features, labels, **words)
