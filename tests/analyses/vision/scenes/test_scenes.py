"""Scenes: objects in cells of their own, and how often they come together."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.vision.scenes.scenes import (
    ANCHORS,
    FILLERS,
    GRID,
    NOUNS,
    PARTED,
    PRIOR,
    Placed,
    Scene,
    World,
    draw_scenes,
    without_prior,
)

PARTNERS = (*ANCHORS.values(),)


def shares(world, n=3000, seed=3):
    """How often partners are beside their anchors and without them, counted one by one."""
    beside, elsewhere = [], []
    for scene in draw_scenes(n, seed, world):
        for anchor, partner in ANCHORS.items():
            (beside if anchor in scene.nouns else elsewhere).append(partner in scene.nouns)
    return np.mean(beside), np.mean(elsewhere)


@pytest.mark.parametrize("world", [PRIOR, PARTED, without_prior(PRIOR)], ids=["prior", "parted", "twin"])
def test_every_object_has_a_noun_and_a_cell_of_its_own(world):
    for scene in draw_scenes(200, 5, world):
        assert len({*scene.nouns}) == len({*scene.cells.values()}) == len(scene.placed) >= 1
        assert [*scene.nouns] == sorted(scene.nouns, key=NOUNS.index)
        assert all(0 <= cell < GRID * GRID for cell in scene.cells.values())
        assert 1 <= len({*scene.nouns} & {*ANCHORS}) <= 2 and len({*scene.nouns} & {*FILLERS}) <= 2


def test_partners_come_with_their_anchors_as_often_as_the_world_says():
    beside, elsewhere = shares(PRIOR)
    assert abs(beside - 0.9) < 0.02 and abs(elsewhere - 0.04) < 0.01
    beside, elsewhere = shares(PARTED)
    assert beside == 0 and abs(elsewhere - 0.04) < 0.01


def test_the_twin_has_as_many_partners_and_nothing_goes_together():
    beside, elsewhere = shares(without_prior(PRIOR))
    assert abs(beside - elsewhere) < 0.03
    per_scene = [
        np.mean([len({*scene.nouns} & {*PARTNERS}) for scene in draw_scenes(3000, 4, world)])
        for world in (PRIOR, without_prior(PRIOR))
    ]
    assert abs(per_scene[0] - per_scene[1]) < 0.08


def test_fillers_named_first_are_the_most_frequent():
    scenes = draw_scenes(3000, 6)
    often = [sum(filler in scene.nouns for scene in scenes) for filler in FILLERS]
    assert often[0] > 1.3 * often[1] > often[3] > often[7] > 0
    # every cell is as likely as another: 36 cells, and about 3.9 objects in a scene
    used = np.bincount([cell for scene in scenes for cell in scene.cells.values()], minlength=GRID * GRID)
    assert used.min() > 0.75 * used.mean() and used.max() < 1.25 * used.mean()


def test_a_share_of_the_objects_can_hardly_be_seen():
    contrasts = np.array([one.contrast for scene in draw_scenes(1000, 7) for one in scene.placed])
    assert abs((contrasts < 1).mean() - 0.2) < 0.03
    weak = contrasts[contrasts < 1]
    assert 0.02 <= weak.min() and weak.max() <= 0.08
    clear = draw_scenes(200, 7, replace(PRIOR, weak=0.0))
    assert all(one.contrast == 1 for scene in clear for one in scene.placed)
    # and nothing else changes with it
    assert [scene.cells for scene in clear] == [scene.cells for scene in draw_scenes(200, 7)]


def test_a_scene_is_the_same_whatever_is_drawn_beside_it():
    many = draw_scenes(9, 1)
    assert draw_scenes(2, 1) == many[:2] and draw_scenes(3, 1, start=5) == many[5:8]
    assert draw_scenes(9, 2) != many and many[4].name == "seed 1 scene 4"


def test_missing_are_the_partners_of_anchors_that_are_here():
    scene = Scene(
        (Placed("table", 3, 1.0), Placed("boat", 5, 1.0), Placed("flag", 0, 1.0), Placed("key", 9, 1.0)), (0, 0)
    )
    assert scene.missing == ("chair",)
    assert all(scene.missing for scene in draw_scenes(50, 0, PARTED))


@pytest.mark.parametrize("field", ["beside_anchor", "elsewhere", "weak"])
def test_what_is_no_probability_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} was given as 1.5"):
        World(**{field: 1.5})


@pytest.mark.parametrize("given", [{"n": 0}, {"n": 1, "seed": -1}, {"n": 1, "start": -1}], ids=["n", "seed", "start"])
def test_numbers_that_count_nothing_are_refused(given):
    with pytest.raises(ValueError, match="expected n from 1"):
        draw_scenes(**given)
