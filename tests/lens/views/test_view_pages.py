"""Saved pages in a headless browser: they draw themselves from a file, and react as widgets do."""

import html
import json
import re
import subprocess

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.views.explorer import Explorer
from headlens.views.map_view import MapView
from headlens.views.pattern_view import PatternView
from page_trial import BROWSER, FLAGS, trial
from tiny_models import held
from tiny_tasks import task_of

pytestmark = pytest.mark.slow
TOKENS = ["When", "Mary", "", "to", "<b>", "the", "store"]
_ACTING = """<pre id="found"></pre><script type="module">
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const wait = () => new Promise((done) => setTimeout(done, 300));
await wait();
const act = async () => { %s };
document.getElementById("found").textContent = JSON.stringify(await act());
</script></body>"""


def dumped(page, folder, width=1280):
    """The page's elements after its scripts ran, and what they said on the console."""
    if not BROWSER:
        pytest.skip("no chromium here; `apt-get install chromium` brings one")
    where = (f"--window-size={width},900", f"--user-data-dir={folder / 'browser'}", "--enable-logging=stderr")
    run = subprocess.run(
        [BROWSER, *FLAGS, *where, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def acted(view, script, folder, width=1280):
    """What a script returns that acts on a saved page; the page's policy, which lets no other script run, is taken
    out."""
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", view.html())
    page = folder / "acted.html"
    page.write_text(text.replace("</body>", _ACTING % script))
    dom, said = dumped(page, folder, width)
    assert said == []
    return json.loads(html.unescape(re.findall('<pre id="found">(.*?)</pre>', dom, re.DOTALL)[0]))


def causal(*shape):
    scores = np.random.default_rng(0).normal(size=shape) * 2
    shares = np.exp(scores) * np.tril(np.ones(shape[-2:]))
    return shares / shares.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def explorer():
    values = np.random.default_rng(0).normal(size=(3, 4))
    headmap = HeadMap(values=values, dims=("layer", "head"), name="effect", units="u", sign="s")
    return Explorer(headmap, held("llama"), task_of(), selected=(2, 1))


@pytest.mark.parametrize("width", [1280, 420])
def test_an_explorer_draws_itself_from_a_file(explorer, tmp_path, width):
    dom, said = dumped(explorer.save(tmp_path / "explorer.html"), tmp_path, width)
    body = dom.split("<body")[1].split("<script")[0]
    assert said == [] and "would not run" not in body
    assert body.count('class="cell') >= 12 and "Attention of L2H1</p>" in body and '<h3 class="name">L2H1</h3>' in body
    assert body.count('class="word"') == 9 and "direct effect on the answer" in body


def test_a_click_on_the_map_of_a_page_fills_the_others(explorer, tmp_path):
    found = acted(
        explorer,
        """
        const cell = (at) => document.querySelector(`.cell[data-at="${at}"]`);
        cell("0,3").click();
        await wait();
        const words = (selector) => document.querySelector(selector).textContent;
        const clicked = [words(".headlens-pattern .heading"), words(".headlens-card h3")];
        [...document.querySelectorAll(".word")][8].click();
        const shares = [...document.querySelectorAll(".word")].map((word) =>
          parseFloat(word.style.getPropertyValue("--share")));
        key(cell("0,3"), "ArrowDown");
        await wait();
        const moved = [words(".headlens-pattern .heading"), words(".headlens-card h3")];
        const select = document.querySelector("select");
        select.value = "8";
        select.dispatchEvent(new Event("change"));
        await wait();
        const chosen = [words(".headlens-map .status"), words(".headlens-card h3")];
        return { clicked, shares, moved, chosen, wide: document.documentElement.scrollWidth > window.innerWidth };
        """,
        tmp_path,
        420,
    )
    # a byte of the page is a step of the root
    roots = 100 * np.sqrt(explorer.reading.pattern(0, 3)[8].astype(float))
    assert np.allclose(found["shares"], roots, atol=0.25) and max(found["shares"]) > 20
    assert found["clicked"] == ["Attention of L0H3", "L0H3"] and found["moved"] == ["Attention of L1H3", "L1H3"]
    assert found["chosen"][0].startswith("L2H0: ") and found["chosen"][1] == "L2H0" and not found["wide"]


def test_heads_lie_in_order_of_effect(effects, tmp_path):
    found = acted(
        MapView(effects, selected=[2, 3]),
        """
        const rows = () => [...document.querySelectorAll(".grid .row")].slice(1).map((row) =>
          [...row.querySelectorAll(".cell")].map((cell) => cell.getAttribute("aria-label").split(":")[0]));
        const chosen = () => document.querySelector(".cell.selected").getAttribute("aria-label").split(":")[0];
        const button = (text) => [...document.querySelectorAll("button")].find((one) => one.textContent === text);
        const before = [rows(), chosen()];
        button("effect").focus();
        button("effect").click();
        await wait();
        const focused = document.activeElement.textContent;
        const after = [rows(), chosen()];
        key(document.querySelector(".cell.selected"), "Home");
        const first = chosen();
        button("head").click();
        await wait();
        return { before, after, focused, first, back: [rows(), chosen()] };
        """,
        tmp_path,
    )
    heads = [[f"L{layer}H{head}" for head in range(5)] for layer in range(3)]
    orders = [np.argsort(-np.nan_to_num(row, nan=-9)) for row in effects.values]
    ranked = [[f"L{layer}H{head}" for head in order] for layer, order in enumerate(orders)]
    assert found["before"] == [heads, "L2H3"] and found["after"] == [ranked, "L2H3"] != found["before"]
    assert ranked[1][-1] == "L1H4" and found["focused"] == "effect"
    assert found["first"] == ranked[2][0] and found["back"] == [heads, ranked[2][0]]


def test_numbers_as_bytes_are_drawn_as_they_are(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 7, 9, 10))
    values[5, 6, 8, 9], values[0, 0] = -7.125, np.nan
    view = MapView(HeadMap(values=values, dims=("layer", "head", "query", "key"), name="n", units="u", sign="s"))
    found = acted(
        view,
        """
        const cells = [...document.querySelectorAll(".map .cell[aria-label]")];
        const labels = cells.map((cell) => cell.getAttribute("aria-label"));
        return [labels[0], labels.at(-1), document.querySelector(".detail .heading").textContent];
        """,
        tmp_path,
    )
    assert found == ["L0H0 q0 k0: missing", "L5H6 q8 k9: \u22127.13", "L5H6 by query and key"]


def test_tokens_are_hovered_locked_and_walked(tmp_path):
    pattern = causal(7, 7)
    sent = {"pattern": pattern.astype("<f2").tobytes()}
    first = {"tokens": TOKENS, "title": "L2H1", "selected": None, "cell": None, "locked": None}
    found = trial(
        "pattern.js",
        ["pattern.css"],
        {**first, "role": "destination", "corner": [0, 0], "heads": [], "names": []},
        sent,
        """
        const words = [...root.querySelectorAll(".word")];
        const shares = () => words.map((word) => parseFloat(word.style.getPropertyValue("--share")));
        words[4].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        const hovered = shares();
        root.querySelector(".words").dispatchEvent(new PointerEvent("pointerleave"));
        const left = shares();
        words[2].click();
        const locked = [model.get("locked"), shares(), words[2].getAttribute("aria-selected")];
        root.querySelectorAll(".choices button")[1].click();
        const source = [model.get("role"), shares(), words[5].getAttribute("aria-label")];
        words[2].focus();
        key(words[2], "ArrowRight");
        const walked = document.activeElement.textContent;
        key(words[3], "Escape");
        const canvas = root.querySelector("canvas");
        canvas.focus();
        for (const name of ["ArrowDown", "ArrowDown", "ArrowRight"]) key(canvas, name);
        const status = root.querySelector(".status").textContent;
        const cell = model.get("cell");
        key(canvas, "Enter");
        const again = model.get("locked");
        const label = canvas.getAttribute("aria-label");
        const image = [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        const painted = image.filter((_, at) => at % 4 === 3 && image[at] > 0).length;
        return { hovered, left, locked, source, walked, status, cell, again, label, painted,
          hidden: root.querySelector(".head-choice").hidden, overview: root.querySelector(".overview") };
        """,
        tmp_path,
    )
    roots = 100 * np.sqrt(pattern)
    assert np.allclose(found["hovered"], roots[4], atol=0.05) and found["left"] == [0] * 7
    assert found["locked"][0] == 2 and np.allclose(found["locked"][1], roots[2], atol=0.05)
    assert found["locked"][2] == "true"
    assert found["source"][0] == "source" and np.allclose(found["source"][1], roots[:, 2], atol=0.05)
    said = f"{100 * pattern[5, 2]:.{2 if pattern[5, 2] < 0.1 else 1}f}%"
    assert found["source"][2] == f"5 the, {said}" and found["walked"] == "to"
    assert found["cell"] == [2, 1] and found["status"].startswith("2 “” reads ") and "1 “Mary”" in found["status"]
    assert found["again"] == 1 and "2 “” reads" in found["label"] and found["painted"] > 1000
    assert found["hidden"] and found["overview"] is None


def test_a_long_prompt_is_drawn_by_blocks(tmp_path):
    view = PatternView(causal(90, 90), title="L0H0", cell=[10, 3])
    found = acted(
        view,
        """
        const canvas = document.querySelector("canvas.block");
        const label = () => canvas.getAttribute("aria-label");
        const before = label();
        key(canvas, "PageDown");
        key(canvas, "PageDown");
        const after = label();
        const overview = document.querySelector(".overview canvas");
        const box = overview.getBoundingClientRect();
        const at = { clientX: box.left + 1, clientY: box.top + box.height - 1, bubbles: true };
        overview.dispatchEvent(new MouseEvent("click", at));
        return [before, after, label()];
        """,
        tmp_path,
    )
    starts = [re.search(r"Positions (\d+) and (\d+) onwards of 90", label).groups() for label in found]
    assert starts == [("0", "0"), ("11", "0"), ("26", "0")] and "74 “74” reads" in found[1]
