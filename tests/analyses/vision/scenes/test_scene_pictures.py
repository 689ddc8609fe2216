"""Pictures of scenes: an object is where the scene says, and nowhere else."""

import numpy as np
import pytest

from headlens.analyses.vision.scenes.scene_pictures import CELL, GROUND, SIZE, as_pixels, draw_picture, looks
from headlens.analyses.vision.scenes.scenes import GRID, NOUNS, PRIOR, Placed, Scene, draw_scenes


def cell_of(picture, cell):
    row, column = cell // GRID, cell % GRID
    return picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].astype(float)


def scene_with(noun, cell, contrast=1.0, at=0):
    return Scene((Placed(noun, cell, contrast),), (1, at))


def test_every_noun_looks_different():
    assert len({looks(noun) for noun in NOUNS}) == len(NOUNS) == 24
    drawn = [np.mean([cell_of(draw_picture(scene_with(noun, 20, at=at)), 20) for at in range(6)], 0) for noun in NOUNS]
    apart = [np.abs(one - other).mean() for at, one in enumerate(drawn) for other in drawn[:at]]
    assert min(apart) > 20


def test_an_object_is_in_its_cell_in_its_colour_and_nowhere_else():
    picture = draw_picture(scene_with("boat", 8))
    assert picture.dtype == np.uint8 and picture.shape == (SIZE, SIZE, 3)
    shape, colour = looks("boat")
    assert shape == "ring" and colour == (40, 190, 60)
    # the left side of the ring, rows 2 to 5 of its cell
    stroke = cell_of(picture, 8)[2:6, :2].mean((0, 1))
    assert np.abs(stroke - colour).max() < 30
    elsewhere = np.concatenate([cell_of(picture, cell).reshape(-1, 3) for cell in range(GRID**2) if cell != 8])
    assert np.abs(elsewhere.mean(0) - GROUND).max() < 3 and np.abs(elsewhere.std(0) - 24).max() < 2


def test_contrast_blends_into_the_ground():
    faint = np.mean([cell_of(draw_picture(scene_with("cup", 0, 0.5, at)), 0) for at in range(40)], 0)
    full = np.mean([cell_of(draw_picture(scene_with("cup", 0, 1.0, at)), 0) for at in range(40)], 0)
    inside = np.abs(full - GROUND) > 60
    assert inside.sum() > 20
    ratio = (faint - GROUND)[inside] / (full - GROUND)[inside]
    assert abs(ratio.mean() - 0.5) < 0.06


def test_a_scene_has_one_picture_and_another_scene_has_other_noise():
    (scene, other) = draw_scenes(2, 4, PRIOR)
    assert np.array_equal(draw_picture(scene), draw_picture(scene))
    alike = Scene(scene.placed, other.draw)
    assert not np.array_equal(draw_picture(scene), draw_picture(alike))


def test_pixels_are_channels_first_from_minus_one_to_one():
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[2, 5] = (0, 255, 51)
    pixels = as_pixels([picture, picture + 255])
    assert pixels.shape == (2, 3, SIZE, SIZE)
    assert pixels[0, :, 2, 5].tolist() == pytest.approx([-1, 1, -0.6], abs=1e-6)
    assert pixels[0, :, 5, 2].tolist() == [-1, -1, -1] and pixels[1, 0, 5, 2] == 1


def test_a_noun_without_a_drawing_is_refused():
    with pytest.raises(ValueError, match="no drawing of 'cat'"):
        looks("cat")
    with pytest.raises(ValueError, match="no drawing of 'cat'"):
        draw_picture(scene_with("cat", 1))
