"""PatternView: one head's numbers at a time in a notebook, all heads' on a page, and the traits are the state."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from headlens.views.pattern_view import PatternView, stored


def causal(*shape, seed=0):
    """Random attention: rows over the keys up to their own that sum to 1."""
    scores = np.random.default_rng(seed).normal(size=shape) * 2
    shares = np.exp(scores) * np.tril(np.ones(shape[-2:]))
    return (shares / shares.sum(-1, keepdims=True)).astype(np.float32)


def half(pattern):
    return pattern.astype("<f2").tobytes()


def test_one_head_travels_alone_as_bytes():
    patterns = causal(3, 4, 9, 9)
    view = PatternView(torch.tensor(patterns))
    assert (view.pattern, view.title, view.shown()) == (b"", "", None)
    view.selected = [2, 1]
    assert view.pattern == half(patterns[2, 1]) and view.title == "L2H1" and len(view.pattern) == 2 * 81
    with pytest.raises(ValueError, match=r"inside \(3, 4\)"):
        view.selected = [3, 0]
    view.selected = None
    assert (view.pattern, view.title) == (b"", "")


def test_another_prompt_forgets_the_places_of_the_last():
    view = PatternView(causal(7, 7), list("abcdefg"), title="L0H0", cell=[3, 2], locked=4)
    view.show(causal(7, 7, seed=1), list("abcdefg"), "L1H1")
    assert view.pattern == half(causal(7, 7, seed=1)) and (view.cell, view.locked) == ([3, 2], 4)
    view.show(causal(5, 5), list("abcdE"), "L1H1")
    assert view.pattern == half(causal(5, 5)) and view.tokens == list("abcdE")
    assert (view.cell, view.locked, view.corner) == (None, None, [0, 0])


@pytest.mark.parametrize("trait, wrong", [("cell", [3, 7]), ("locked", 7), ("locked", -1), ("corner", [0, 8])])
def test_places_that_are_not_there_are_refused(trait, wrong):
    view = PatternView(causal(7, 7))
    with pytest.raises(ValueError, match="expected positions from 0 to 6"):
        setattr(view, trait, wrong)
    assert view.cell is None and view.locked is None


@pytest.mark.parametrize(
    "given, says",
    [
        (np.zeros((3, 4)), "as many keys as queries"),
        (np.zeros((2, 3, 3)), "expected .query, key. of one head"),
        (np.full((3, 3), -2.0), "give no scores"),
        (np.full((3, 3), 1.5), "give no scores"),
    ],
)
def test_other_arrays_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        PatternView(given)
    with pytest.raises(ValueError, match="2 tokens were given for a pattern of 3"):
        PatternView(causal(3, 3), ["a", "b"])


def test_a_page_of_all_heads_is_small_and_close():
    patterns = causal(12, 12, 128, 128)
    view = PatternView(patterns, [f"token {at}" for at in range(128)], selected=[3, 4])
    traits = stored(view.grid, view.names)
    codes = np.frombuffer(traits["store"], np.uint8).reshape(patterns.shape)
    assert np.abs((codes / 255) ** 2 - patterns).max() < 0.004 and traits["heads"] == [12, 12]
    assert np.abs((codes / 255) ** 2 - patterns)[patterns < 0.01].max() < 0.0005
    assert traits["names"][12 + 1] == "L1H1"
    assert len(view.html()) < 6_000_000
    (part,) = PatternView(causal(2, 2, 1100, 1100), selected=[1, 0]).parts()
    assert "store" not in part.traits and len(part.traits["pattern"]) == 2 * 1100**2


def test_one_head_has_no_others_to_choose():
    view = PatternView(causal(3, 3), title="L1H0")
    assert np.array_equal(view.shown(), causal(3, 3).astype(np.float16)) and view.names == []
    with pytest.raises(ValueError, match="this view holds one head"):
        view.selected = [0, 0]
    view.show(None, ["a", "b"])
    assert (view.shown(), view.tokens, view.title) == (None, ["a", "b"], "")


def test_code_is_small():
    view = PatternView(causal(3, 3))
    assert len(view._esm) + len(view._css) < 100_000


@pytest.mark.parametrize("size", [1, 5, 90])
def test_a_stored_notebook_shows_the_block(size):
    view = PatternView(causal(size, size), [f"<{at}>" for at in range(size)], title="L3H1", corner=[size // 2] * 2)
    svg = ElementTree.fromstring(view._repr_mimebundle_()[0]["image/svg+xml"])
    texts = [one.text for one in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "Attention of L3H1" and texts.count("<0>") == (2 if size < 65 else 0)
    empty = PatternView(causal(2, 2, 5, 5))._repr_mimebundle_()[0]["image/svg+xml"]
    assert "Choose a head" in empty
