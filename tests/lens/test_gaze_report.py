"""Pages of gazes: numbers come back from their steps, what does not fit is told, and nothing is loaded."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from headlens.analyses.vision.gaze import Gaze
from headlens.gaze_data import gaze_data
from headlens.gaze_report import gaze_html, write_gaze_report
from headlens.hooks.sites import Head
from headlens.hooks.token_roles import Grid
from headlens.javascript import module
from headlens.seen_pictures import seen_pictures
from tiny_models import held

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028"
PICTURES = [np.full((5, 7, 3), shade, np.uint8) for shade in (40, 200)]


def made(seed=0, answer=3, layers=3, heads=5):
    """A gaze of two prompt tokens and an answer, over pictures of 2 x 3 and 1 x 2 patches."""
    rng = np.random.default_rng(seed)
    attention = rng.dirichlet(np.ones(9), (2 + answer, layers, heads))[..., :8].astype(np.float32)
    cells = [(0, row, column) for row in range(2) for column in range(3)] + [(1, 0, 0), (1, 0, 1)]
    tokens = ("what", " ", *("a", "b", HOSTILE, "c")[:answer])
    rows = (11, 12, *range(12, 12 + answer))
    return Gaze(
        attention,
        np.array(cells, np.int32),
        (Grid(0, 2, 3, 1), Grid(1, 1, 2, 8)),
        tokens,
        rows,
        2,
        HOSTILE,
        {"model": "m", "edits": []},
    )


def rows_of(data, part):
    """The rows [token, entry, patch] that a page's steps stand for."""
    numbers = np.frombuffer(base64.b64decode(part["rows"]), f"<u{data['bits'] // 8}")
    steps = np.frombuffer(base64.b64decode(part["steps"]), "<f4")
    entries = 1 + data["layers"] + len(data["kept"])
    shape = (len(part["tokens"]), entries, len(data["cells"]))
    return numbers.reshape(shape) * steps.reshape(shape[:2])[..., None]


@pytest.mark.parametrize(("room", "bits", "kept"), [(10_000, 16, 15), (640, 8, 12), (200, 8, 1), (0, 8, 0)])
def test_numbers_come_back_as_well_as_they_fit(room, bits, kept):
    gaze = made()
    data = gaze_data({"": gaze}, PICTURES, room=room)
    (part,) = data["parts"]
    assert (data["bits"], len(data["kept"])) == (bits, kept)
    means = gaze.attention.mean(2)
    own = [gaze.attention[:, layer, head] for layer, head in data["kept"]]
    wanted = np.stack([means.mean(1), *means.swapaxes(0, 1), *own], 1)
    assert np.abs(rows_of(data, part) - wanted).max() <= 0.51 * wanted.max() / (2**bits - 1)
    # the heads that are kept are those that look most over the answer
    over = gaze.share()[2:].mean(0)
    best = np.argsort(-over, axis=None)[:kept]
    assert data["kept"] == sorted([int(at) // 5, int(at) % 5] for at in best)
    shares = np.frombuffer(base64.b64decode(part["shares"]), "<u2").reshape(gaze.attention.shape[:3])
    np.testing.assert_allclose(shares / 65535, gaze.share(), atol=1e-5)


def test_heads_that_are_asked_for_are_those_that_are_kept():
    data = gaze_data({"": made()}, PICTURES, [Head(2, 1), Head(0, 4)])
    assert data["kept"] == [[0, 4], [2, 1]]


def test_two_gazes_keep_the_same_heads_and_have_answers_of_their_own():
    one, two = made(), made(1, answer=4)
    data = gaze_data({"before": one, "after": two}, PICTURES, room=700)
    assert [part["name"] for part in data["parts"]] == ["before", "after"]
    assert [len(part["tokens"]) for part in data["parts"]] == [5, 6] and 0 < len(data["kept"]) < 15
    for gaze, part in zip((one, two), data["parts"], strict=True):
        own = rows_of(data, part)[:, 4:]
        wanted = np.stack([gaze.attention[:, layer, head] for layer, head in data["kept"]], 1)
        assert np.abs(own - wanted).max() < 0.003


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="no gaze"):
        gaze_data({}, PICTURES)
    with pytest.raises(ValueError, match="different models"):
        gaze_data({"before": made(), "after": made(heads=4)}, PICTURES)
    with pytest.raises(ValueError, match="1 pictures were given for a prompt with 2"):
        gaze_data({"": made()}, PICTURES[:1])


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts by id."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts, self._inside = [], {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id", "boot") if tag == "script" else None

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data


def test_the_page_is_closed_whole_and_the_same_each_time(tmp_path):
    words = {"prompt": HOSTILE, "words": [HOSTILE]}
    page = gaze_html({"before": made(), "after": made(1)}, PICTURES, **words)
    elements = Elements(page)
    assert "img" not in {tag for tag, _ in elements.found}
    assert not [attrs for _, attrs in elements.found if {"src", "href", "style", "onclick"} & {*attrs}]
    (policy,) = [attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs]
    assert "default-src 'none'" in policy and "img-src data:;" in policy and "connect" not in policy
    assert elements.scripts["module"].rstrip() == module("gaze.js").rstrip()
    data = json.loads(elements.scripts["data"])
    assert data["parts"][0]["tokens"][4] == HOSTILE and HOSTILE not in page
    path = write_gaze_report({"before": made(), "after": made(1)}, PICTURES, tmp_path / "x" / "p.html", **words)
    assert path.read_text() == page and path.stat().st_size < 100_000


def test_the_page_says_which_heads_it_leaves_out():
    few = gaze_html({"": made()}, PICTURES, heads=[Head(1, 1)])
    assert "Patches are on this page for 1 of 15 heads" in few
    assert "Patches are on this page" not in gaze_html({"": made()}, PICTURES)
    assert re.search(r"<noscript><table>.*share.*</noscript>", few)


def test_pictures_are_drawn_as_the_model_saw_them():
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    cut = whole[:, 1:5]
    mean, deviation = np.array([0.48, 0.45, 0.40]), np.array([0.26, 0.27, 0.28])
    pixels = torch.tensor(((cut / 255 - mean) / deviation).transpose(2, 0, 1)[None], dtype=torch.float32)
    processor = SimpleNamespace(image_mean=[*mean], image_std=[*deviation], rescale_factor=1 / 255, do_normalize=True)
    model = replace(held("llava"), tokenizer=SimpleNamespace(image_processor=processor))
    (seen,) = seen_pictures(model, {"pixel_values": pixels}, [whole])
    assert np.array_equal(seen, cut)
    # patches in place of pixels: the picture itself
    (same,) = seen_pictures(model, {"pixel_values": pixels[0, 0]}, [whole])
    assert same is whole
    shown = gaze_data({"": made()}, [seen, whole])["pictures"][0].removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown)))), cut)
