"""ImageView: the numbers drawn are the gaze's, a head comes when it is chosen, and a run's folder is read back."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

import headlens
from headlens.analyses.vision.gaze import Gaze, gaze
from headlens.analyses.vision.image_prompts import image_prompt, open_picture
from headlens.analyses.vision.scenes.scene_pictures import draw_picture
from headlens.analyses.vision.scenes.scenes import draw_scenes
from headlens.hooks.token_roles import Grid
from headlens.javascript import module
from headlens.views.image_view import ImageView, view_image
from page_trial import trial

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028"
PICTURES = [np.full((5, 7, 3), shade, np.uint8) for shade in (40, 200)]
SVG = "{http://www.w3.org/2000/svg}"


def made(seed=0, answer=3, layers=3, heads=5):
    """A gaze of two prompt tokens and an answer, over pictures of 2 x 3 and 1 x 2 patches."""
    attention = (
        np.random.default_rng(seed).dirichlet(np.ones(9), (2 + answer, layers, heads))[..., :8].astype(np.float32)
    )
    cells = [(0, row, column) for row in range(2) for column in range(3)] + [(1, 0, 0), (1, 0, 1)]
    tokens = ("what", " ", *(HOSTILE, "b", "a", "c")[:answer])
    rows = (11, 12, *range(12, 12 + answer))
    grids = (Grid(0, 2, 3, 1), Grid(1, 1, 2, 8))
    return Gaze(attention, np.array(cells, np.int32), grids, tokens, rows, 2, HOSTILE, {"model": "m"})


@pytest.fixture
def both():
    return {"before": made(), "after": made(1, answer=4)}


def test_the_widget_carries_the_module_and_begins_at_the_answer(both):
    view = ImageView(both, PICTURES)
    assert view._esm == module("gaze.js") and ".headlens-gaze" in view._css
    assert len(view._esm) + len(view._css) < 100_000
    over = both["before"].attention[2:].sum(-1).mean(0)
    assert view.head == [int(axis) for axis in np.unravel_index(over.argmax(), over.shape)] and view.token == 2
    assert [part["name"] for part in view.data["parts"]] == ["before", "after"] and len(view.data["pictures"]) == 2
    assert ImageView(made(), PICTURES).data["parts"][0]["name"] == ""


def test_what_is_drawn_follows_the_traits(both):
    view = ImageView(both, PICTURES, "L1H4", token=5)
    one, two = (gaze.attention for gaze in both.values())
    # the first answer is a token shorter
    np.testing.assert_allclose(view.shown()["before"], one[4, 1, 4])
    np.testing.assert_allclose(view.shown()["after"], two[5, 1, 4])
    assert view.label == "L1H4"
    view.token, view.head = 0, [2]
    np.testing.assert_allclose(view.shown()["after"], two[0, 2].mean(0), rtol=1e-6)
    assert view.label == "the mean of layer 2"
    view.head = []
    np.testing.assert_allclose(view.shown()["before"], one[0].mean((0, 1)), rtol=1e-6)
    assert view.label == "the mean of all heads"


def test_what_is_not_there_is_refused(both):
    view = ImageView(both, PICTURES)
    for token in (-1, 6):
        with pytest.raises(ValueError, match="index of a token, 0 to 5"):
            view.token = token
    for head in ([3, 0], [0, 5], [-1], [3]):
        with pytest.raises(ValueError, match="of 3 layers with 5 heads"):
            view.head = head
    with pytest.raises(ValueError, match="L3H0 does not exist"):
        ImageView(both, PICTURES, "L3H0")
    with pytest.raises(ValueError, match="different models"):
        ImageView({"a": made(), "b": made(heads=4)}, PICTURES)


def test_a_head_that_is_not_there_comes_when_it_is_chosen():
    view = ImageView(made(), PICTURES, room=240)
    (first, *_) = view.data["kept"]
    assert len(view.data["kept"]) == 2 and "The patches of 2 of 15 heads are on this page" in view.about().said
    away = next([layer, head] for layer in range(3) for head in range(5) if [layer, head] not in view.data["kept"])
    view.head = away
    assert sorted(view.data["kept"]) == sorted([away, first])
    (part,) = view.data["parts"]
    numbers = np.frombuffer(base64.b64decode(part["rows"]), "<u1").reshape(5, 6, 8)
    steps = np.frombuffer(base64.b64decode(part["steps"]), "<f4").reshape(5, 6)
    own = numbers[:, 4 + view.data["kept"].index(away)] * steps[:, 4 + view.data["kept"].index(away), None]
    np.testing.assert_allclose(own, made().attention[:, away[0], away[1]], atol=0.003)
    before = view.data
    view.head = [0]
    assert view.data is before


def test_the_still_picture_has_the_attention_of_each_patch(both):
    view = ImageView(both, PICTURES, (1, 4))
    bundle = view._repr_mimebundle_()
    (data, *_) = bundle if isinstance(bundle, tuple) else (bundle,)
    assert data["image/svg+xml"] == view.fallback() == ImageView(both, PICTURES, (1, 4)).fallback()
    root = ElementTree.fromstring(view.fallback())
    addresses = [image.get("href").partition(",")[2] for image in root.iter(f"{SVG}image")]
    shades = [np.unique(np.asarray(Image.open(io.BytesIO(base64.b64decode(one))))).tolist() for one in addresses]
    assert shades == [[40], [200], [40], [200]]
    depths = [float(one.get("fill-opacity")) for one in root.iter(f"{SVG}rect") if one.get("fill-opacity")]
    wanted = np.concatenate([view.shown()["before"], view.shown()["after"]])
    wanted = 0.8 * wanted / wanted.max()
    np.testing.assert_allclose(depths, wanted[wanted >= 0.005], atol=0.006)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words[0] == "Where L1H4 looks" and words[1].startswith("before, at “</script><img")
    share = max(both["before"].attention[2, 1, 4].max(), both["after"].attention[2, 1, 4].max())
    assert f"{share:.2%} of a row's attention on one patch" in words[-1]


def test_a_saved_page_is_closed_and_shows_the_pictures(both, tmp_path):
    view = ImageView(both, PICTURES)
    page = view.save(tmp_path / "looks.html").read_text()
    assert page == ImageView(both, PICTURES).html() and len(page) < 150_000
    policy = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0]
    assert "default-src 'none'" in policy and "img-src data:;" in policy and "connect" not in policy
    assert HOSTILE not in page and "<img src" not in page
    assert "Share of attention on the image over the answer, after" in page


@pytest.mark.slow
def test_a_word_and_a_head_are_chosen_in_a_browser(both, tmp_path):
    view = ImageView(both, PICTURES, (0, 2))
    found = trial(
        "gaze.js",
        ["gaze.css"],
        view.state(),
        {},
        """
        const status = () => [...root.querySelectorAll(".panel .status")].map((one) => one.textContent);
        const first = status();
        root.querySelectorAll(".panel .token")[1].click();
        const word = [model.get("token"), status()];
        root.querySelector('.heads [data-at="2,1"]').click();
        const head = [model.get("head"), status()[0].slice(0, 5)];
        model.set("head", [1]);
        return { first, word, head, mean: status()[1].slice(0, 19) };
        """,
        tmp_path,
    )
    shares = [f"{100 * own.sum():.1f}%" for own in view.shown().values()]
    assert [one.split(": ")[1].split(" ")[0] for one in found["first"]] == shares
    view.token = 1
    shares = [f"{100 * own.sum():.1f}%" for own in view.shown().values()]
    assert found["word"][0] == 1 and [one.split(": ")[1].split(" ")[0] for one in found["word"][1]] == shares
    assert found["head"] == [[2, 1], "L2H1 "] and found["mean"] == "the mean of layer 1"


@pytest.fixture(scope="module")
def vlm():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture
def scene(tmp_path):
    """Save a picture of a scene, in the size that the model takes."""
    Image.fromarray(draw_picture(draw_scenes(1, 0)[0])).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_pictures_of_a_gaze_are_given_or_made_of_the_prompt(vlm, scene):
    picture = open_picture(scene)
    inputs = image_prompt(vlm, [picture], "describe")
    seen = gaze(vlm, inputs, answer=" there is")
    made_of = view_image(seen, "L2H5", model=vlm, inputs=inputs)
    assert np.array_equal(made_of.pictures[0], picture) and made_of.label == "L2H5"
    given = view_image({"": seen}, "L2H5", pictures=[picture], token=1)
    assert given.data == made_of.data and given.token == 1
    with pytest.raises(ValueError, match="holds no picture"):
        view_image(seen)
    with pytest.raises(ValueError, match="inputs= was given without model="):
        view_image(seen, inputs=inputs)
    with pytest.raises(ValueError, match="takes no pixels of whole pictures"):
        view_image(seen, model=vlm, inputs={"input_ids": inputs["input_ids"]})
    for wrong in ({}, {"before": 1}, seen.attention):
        with pytest.raises(ValueError, match="what hl.gaze returns"):
            view_image(wrong, pictures=[picture])


@pytest.mark.parametrize("command", ["look", "redistribute"])
def test_a_run_folder_has_its_gazes_and_pictures(run, vlm, tmp_path, command):
    wide = draw_picture(draw_scenes(1, 0)[0]).repeat(2, 0).repeat(3, 1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    sinks = {"look": ["--answer", " there is"], "redistribute": ["--dims", "91,7", "--above", "2.5", "--layers", "1-3"]}
    words = ["--image", tmp_path / "wide.png", "--prompt", "describe", "--out", tmp_path / "run"]
    result = run(command, "tiny-vlm", "--device", "cpu", *words, *sinks[command])
    assert result.exit_code == 0, result.output
    view = view_image(str(tmp_path / "run"), (2, 5))
    files = {"": "gaze"} if command == "look" else {"before": "before", "after": "after"}
    assert [*view.gazes] == [*files]
    for name, file in files.items():
        stored = Gaze.load(tmp_path / "run" / f"{file}.safetensors").attention
        assert np.array_equal(view.gazes[name].attention, stored)
    # the processor scaled it
    pixels = image_prompt(vlm, [wide], "describe")["pixel_values"][0].permute(1, 2, 0).numpy()
    assert np.array_equal(view.pictures[0], np.rint((pixels * 0.5 + 0.5) * 255))
    with pytest.raises(ValueError, match="a run folder has its own"):
        view_image(tmp_path / "run", pictures=[wide])
    (tmp_path / "run" / "report.html").write_text(json.dumps({"pictures": ["http://example.com/x.png"]}))
    with pytest.raises(ValueError, match="holds no pictures"):
        view_image(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no gazes"):
        view_image(tmp_path)
