"""Two maps in a browser: one choice for all pictures, marks and counts for any number on top, both rankings."""

from dataclasses import replace

import numpy as np
import pytest

from headlens.analyses.circuits.overlap import overlap
from headlens.analyses.headmap import HeadMap
from headlens.views.compare_data import compare_numbers, compare_payload, compared
from page_trial import trial

SHAPE = (7, 5)


def made(seed):
    samples = np.random.default_rng(seed).normal(size=(12, *SHAPE)).astype(np.float32)
    return HeadMap.from_samples(samples, dims=("layer", "head"), name="effect", units="u", sign="s")


@pytest.mark.slow
def test_a_choice_shows_in_all_pictures_and_marks_follow_the_slider(tmp_path):
    lacking = made(0).values.copy()
    lacking[2, 3] = np.nan
    pair = (replace(made(0), values=lacking), made(1))
    found = compared(*pair)
    sent = {"numbers": compare_numbers(found), "ranks": found.ranks.astype("<i4").tobytes()}
    traits = {"data": compare_payload(found), "top": 6, "by": "magnitude", "selected": None}
    seen = trial(
        "compare.js",
        ["compare.css"],
        traits,
        sent,
        """
        const boards = [...root.querySelectorAll(".board")];
        const marks = () => boards.map((board) => [".mark.both", ".mark:not(.both)"].map((kind) =>
          [...board.querySelectorAll(kind)].map((mark) => mark.closest(".cell").dataset.at)));
        const selected = () => [...root.querySelectorAll(".cell.selected")].map((cell) => cell.dataset.at);
        const point = () => root.querySelector(".point.selected").dataset.cell;
        const told = () => root.querySelector(".status").textContent;
        const said = () => root.querySelector(".said").textContent;
        const first = { marks: marks(), selected: selected(), told: told(), said: said() };
        const range = root.querySelector("input[type=range]");
        type(range, "3"); type(range, "3", "change");
        const three = { top: model.get("top"), marks: marks(), said: said() };
        boards[1].querySelector("[data-at='4,2']").click();
        const clicked = { model: model.get("selected"), all: selected(), point: point(), told: told() };
        key(root.querySelector(".point.selected"), "Home");
        const home = { all: selected(), point: point(), name: root.querySelector(".point-name").textContent };
        [...root.querySelectorAll("button")].find((one) => one.textContent === "value").click();
        key(root.querySelector(".point.selected"), "End");
        const byValue = { by: model.get("by"), point: point() };
        model.set("selected", [0, 1]);
        const set = { all: selected(), point: point() };
        const row = root.querySelector("tr[data-cell] button");
        row.click();
        const listed = { name: row.textContent, told: told() };
        const points = root.querySelectorAll(".point").length;
        const missing = boards[0].querySelectorAll(".grid .cell.missing").length;
        return { first, three, clicked, home, byValue, set, listed, points, missing };
        """,
        tmp_path,
    )
    for top, shown in ((6, seen["first"]), (3, seen["three"])):
        counted = overlap(*pair, top)
        groups = ((counted.shared, counted.first_only), (counted.shared, counted.second_only))
        for (both, alone), marks in zip(groups, shown["marks"], strict=True):
            assert [sorted(f"L{at[0]}H{at[2]}" for at in kind) for kind in marks] == [sorted(both), sorted(alone)]
        assert shown["said"].startswith(counted.described())
    assert seen["three"]["top"] == 3
    largest = "{},{}".format(*found.strongest)
    assert seen["first"]["selected"] == [largest] * 2 and "rank 1" in seen["first"]["told"]
    assert seen["clicked"]["model"] == [4, 2] and seen["clicked"]["all"] == ["4,2"] * 2
    assert seen["clicked"]["point"] == "22" and seen["clicked"]["told"].startswith("L4H2: effect (first) ")
    assert seen["home"]["all"] == [largest] * 2 and seen["home"]["name"] == found.maps[0].label(found.strongest)
    assert seen["byValue"] == {"by": "value", "point": str(np.nanargmin(lacking))}
    assert seen["set"] == {"all": ["0,1"] * 2, "point": "1"}
    assert seen["listed"]["told"].startswith(f"{seen['listed']['name']}: ")
    assert seen["points"] == 34 and seen["missing"] == 1
