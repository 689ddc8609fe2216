"""Regions of a map kept, cropped and magnified, against a flood fill by hand."""

import inspect

import numpy as np
import pytest

from headlens.analyses.vision.relatives.contrast_crop import contrast_crop

PICTURE = np.random.default_rng(0).integers(1, 255, (21, 34, 3)).astype(np.uint8)


def regions_by_hand(keep, pixels):
    """Regions that touch by an edge, as sets of pixels, the largest sum first."""
    left, regions = {(int(row), int(column)) for row, column in np.argwhere(keep)}, []
    while left:
        edge = [left.pop()]
        region = {*edge}
        while edge:
            row, column = edge.pop()
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left:
                    left.remove(near)
                    region.add(near)
                    edge.append(near)
        regions.append(region)
    return sorted(regions, key=lambda region: -sum(pixels[at] for at in region))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("share", "most"), [(0.2, 2), (0.5, 3), (0.5, 1), (1.0, 2)])
def test_kept_pixels_by_hand(seed, share, most):
    scores = np.random.default_rng(seed).random((7, 9))
    found = contrast_crop(PICTURE, scores, share=share, regions=most)
    pixels = np.array([[scores[row * 7 // 21, column * 9 // 34] for column in range(34)] for row in range(21)])
    order = sorted(pixels.flat, reverse=True)
    least = order[max(round(share * len(order)) - 1, 0)]
    wanted = np.zeros((21, 34), bool)
    for region in regions_by_hand(pixels >= least, pixels)[:most]:
        for at in region:
            wanted[at] = True
    assert (found.kept == wanted).all()
    rows, columns = np.nonzero(wanted)
    assert found.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def test_one_cell_is_magnified_to_the_size_of_the_picture():
    picture = np.full((24, 24, 3), 9, np.uint8)
    picture[8:12, 16:20] = 200
    scores = np.zeros((6, 6))
    scores[2, 4] = 1
    found = contrast_crop(picture, scores, share=1 / 36)
    assert found.box == (8, 16, 12, 20) and found.picture.shape == (24, 24, 3) and (found.picture == 200).all()
    scores[2, 5] = 2
    wide = contrast_crop(picture, scores, share=2 / 36)
    assert wide.box == (8, 16, 12, 24) and wide.picture.shape == (12, 24, 3)


def test_what_is_not_kept_is_painted_over():
    picture = np.full((6, 6, 3), 200, np.uint8)
    scores = np.zeros((6, 6))
    scores[0, 0] = scores[5, 5] = 1
    found = contrast_crop(picture, scores, share=2 / 36, regions=2, ground=40)
    assert found.box == (0, 0, 6, 6) and (found.picture[[0, 5], [0, 5]] == 200).all()
    assert (found.picture == 40).sum() == 34 * 3
    # the number of regions is a most, not a least
    one = contrast_crop(picture, scores + np.eye(6) * [3, 0, 0, 0, 0, 0], share=2 / 36, regions=1)
    assert one.kept.sum() == 1 and one.kept[0, 0]


def test_where_all_scores_tie_all_is_kept():
    found = contrast_crop(PICTURE, np.ones((3, 3)), share=0.2)
    assert found.kept.all() and (found.picture == PICTURE).all()


@pytest.mark.parametrize(
    ("picture", "scores", "words", "says"),
    [
        (PICTURE.astype(np.float32) / 255, np.ones((3, 3)), {}, "expected uint8"),
        (PICTURE[..., 0], np.ones((3, 3)), {}, "expected uint8"),
        (PICTURE, np.ones(9), {}, "of a grid"),
        (PICTURE, np.full((3, 3), np.nan), {}, "finite"),
        (PICTURE, np.ones((30, 3)), {}, "finer"),
        (PICTURE, np.ones((3, 3)), {"share": 0.0}, "share=0.0"),
        (PICTURE, np.ones((3, 3)), {"regions": 0}, "regions=0"),
        (PICTURE, np.ones((3, 3)), {"ground": 256}, "ground=256"),
    ],
    ids=["float", "grey", "flat", "nan", "fine", "share", "regions", "ground"],
)
def test_what_does_not_fit_is_refused(picture, scores, words, says):
    with pytest.raises(ValueError, match=says):
        # users run without the type checks of tests
        inspect.unwrap(contrast_crop)(picture, scores, **words)
