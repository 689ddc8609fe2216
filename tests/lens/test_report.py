"""The report: complete in one file, closed to the network, and deaf to what names and labels try to do."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from headlens.analyses.headmap import HeadMap
from headlens.javascript import module
from headlens.report import report_html, write_report

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028--><!--<style>"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts, styles and the rest."""

    def __init__(self, page):
        super().__init__()
        self.found, self.texts, self._inside = [], {}, ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        kind = dict(attrs).get("type", "style") if tag in {"script", "style"} else ""
        self._inside = kind or self._inside

    def handle_endtag(self, tag):
        self._inside = "" if tag in {"script", "style"} else self._inside

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


@pytest.fixture
def headmap():
    """A map of 30 layers and 9 heads from 64 prompts of 8 templates, with a cell that is missing."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.02, (64, 30, 9)).astype(np.float32)
    samples[:, 23, 3] += 0.44
    samples[:, 25, 1] -= 0.2
    samples[:, 4, 2] = np.nan
    return HeadMap.from_samples(
        samples,
        dims=("layer", "head"),
        name="patching effect",
        units="fraction of the difference in logits",
        sign="Positive means that the head carries the clean behaviour.",
        clusters=tuple(f"template {prompt % 8}" for prompt in range(64)),
        provenance={"model": {"name": "tiny", "parts": [{"heads": 9}]}, "words": ["a", "b"], "seed": 0, "note": None},
    )


@pytest.fixture
def positions(headmap):
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.01, (9, 30, 4))
    return replace(headmap, values=values, dims=("head", "layer", "pos"), coords={}, samples=None, clusters=())


def data_of(page):
    return json.loads(Elements(page).texts["application/json"])


def numbers_of(part, of="values"):
    """The numbers that the page's script reads, flat."""
    step = part["step"]
    stored = [np.nan if n is None else n for n in part[of]]
    return np.array(stored) if step is None else (np.array(stored) + 0.5) * step


def test_the_page_carries_the_numbers_of_the_map(headmap):
    data = data_of(report_html(headmap))
    (part,) = data["parts"]
    for of, numbers in {"values": headmap.values, "low": headmap.ci().low, "high": headmap.ci().high}.items():
        assert np.allclose(numbers_of(part, of), numbers.reshape(-1), atol=0.51e-4, rtol=0, equal_nan=True)
    assert part["values"][4 * 9 + 2] is None and data["entries"] == [""] and data["outer"] == 2
    assert part["bound"] == pytest.approx(np.nanmax(np.abs(headmap.values))) and part["digits"] == 2


def test_positions_come_last_whatever_their_order_was(positions):
    data = data_of(report_html(positions))
    (part,) = data["parts"]
    expected = positions.values.transpose(1, 0, 2).reshape(-1)
    assert np.allclose(numbers_of(part), expected, atol=0.51e-5, rtol=0)
    assert [dim["name"] for dim in data["dims"]] == ["layer", "head", "position"]
    assert data["dims"][2]["labels"] == ["0", "1", "2", "3"] and part["low"] is None


SHAPES = {
    ("layer",): "Each bar is one layer",
    ("layer", "head"): "Each cell is one attention head",
    ("layer", "pos"): "Rows are layers, with the one nearest the input on top, and columns are token positions.",
    ("layer", "head", "pos"): "choose a head to see it at every position",
    ("layer", "head", "query", "key"): "choose a head to see it at every query and key",
    ("query", "key"): "Rows are query positions, and columns are key positions.",
    ("layer", "head", "metric"): "Each metric has a map and a scale of its own.",
    ("layer", "pos", "metric"): "columns are token positions",
}


@pytest.mark.parametrize("dims", SHAPES, ids="-".join)
def test_every_shape_has_a_page_with_its_numbers_and_its_guide(dims):
    shape = (2, 3, 4, 5)[: len(dims)]
    samples = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    headmap = HeadMap.from_samples(samples, dims=dims, name="n", units="u", sign="s")
    page = report_html(headmap)
    parts = data_of(page)["parts"]
    assert SHAPES[dims] in page and page == report_html(headmap)
    by_metric = np.moveaxis(headmap.values, -1, 0) if "metric" in dims else headmap.values[None]
    assert [part["metric"] for part in parts] == ([str(n) for n in range(shape[-1])] if "metric" in dims else [""])
    for part, values in zip(parts, by_metric, strict=True):
        assert np.allclose(numbers_of(part), values.reshape(-1), atol=0.51e-4, rtol=0)
    assert page.count("<caption>") == len(parts)


def test_tokens_label_positions(headmap):
    tokens = [["When", 1.0], [HOSTILE, 0.004], ["to", 0.25]]
    values = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    fields = {"name": "n", "units": "u", "sign": "s", "provenance": {"tokens": tokens}}
    page = report_html(HeadMap(values=values, dims=("layer", "head", "query", "key"), **fields))
    labels = [["When", ""], [f"{HOSTILE}…", "in under 1% of prompts"], ["to…", "in 25% of prompts"]]
    assert [dim["tokens"] for dim in data_of(page)["dims"]] == [None, None, labels, labels]
    assert "with … where prompts differ" in page and "<dt>tokens</dt><dd>When &lt;/script&gt;" in page
    assert not [tag for tag, _ in Elements(page).found if tag == "img"]
    (table,) = re.findall("<noscript>(.*)</noscript>", page, re.DOTALL)
    assert re.search(r"<td>L\d+H\d+ q0 k2 “When” → “to…” \(in 25% of prompts\)</td>", table)


def test_a_page_of_every_pair_is_small_and_names_each_head():
    values = np.random.default_rng(0).normal(0, 0.01, (30, 9, 14, 14))
    values[..., ~np.tril(np.ones((14, 14), bool))] = np.nan
    values[23, 3, 13, 9] = 0.6
    page = report_html(HeadMap(values=values, dims=("layer", "head", "query", "key"), name="n", units="u", sign="s"))
    assert len(page) < 400_000
    assert data_of(page)["names"][23 * 9 + 3] == "L23H3" and data_of(page)["entries"][13 * 14 + 9] == " q13 k9"


def test_the_guide_says_what_is_shown(headmap, positions):
    page = report_html(headmap)
    for said in (
        headmap.name,
        headmap.units,
        headmap.sign,
        "percentile bootstrap over 8 templates",
        "30 layers, 9 heads",
    ):
        assert said in page
    assert "The map shows each at its strongest" in report_html(positions)
    assert "were not kept" in report_html(positions) and "4 positions" in report_html(positions)
    single = replace(headmap, samples=headmap.samples[:1], scale=None, clusters=())
    assert "on a single prompt" in report_html(single)


def test_provenance_is_readable(headmap):
    page = report_html(headmap)
    assert "<dt>model</dt><dd><dl><dt>name</dt><dd>tiny</dd>" in page
    assert "<dt>words</dt><dd>a, b</dd>" in page and "<dt>note</dt><dd>none</dd>" in page
    assert "<ol><li><dl><dt>heads</dt><dd>9</dd></dl></li></ol>" in page
    assert "This map does not say." in report_html(replace(headmap, provenance={}))


def test_what_a_map_says_in_words_stands_on_top_once(headmap):
    told = replace(headmap, provenance={"in_words": "p < 0.05 for two.", "selected": ["L0H1"], "null": None})
    page = report_html(told)
    assert page.count("p &lt; 0.05 for two.") == 1 and page.index("for two.") < page.index("What it was made from")
    assert "selected" in page[page.index("What it was made from") :]


def test_without_scripts_there_is_a_table(headmap):
    (table,) = re.findall("<noscript>(.*)</noscript>", report_html(headmap), re.DOTALL)
    first, second = re.findall("<tr><td>(.*?)</td><td.*?>(.*?)</td><td.*?>(.*?)</td></tr>", table)[:2]
    row = headmap.top(1).iloc[0]
    assert first == ("L23H3", f"{row['value']:.2f}", f"[{row['low']:.2f}, {row['high']:.2f}]")
    assert second[0] == "L25H1" and second[1].startswith("\N{MINUS SIGN}0.")
    assert table.count("<tr>") == 16


@pytest.mark.parametrize(
    "dims", [("layer",), ("layer", "head"), ("layer", "head", "pos"), ("layer", "head", "metric")], ids="-".join
)
def test_hostile_names_are_inert(headmap, dims):
    shape = (2, 3, 2)[: len(dims)]
    samples = np.random.default_rng(0).normal(size=(4, *shape))
    clean = HeadMap.from_samples(samples, dims=dims, name="n", units="u", sign="s", provenance={"k": [{"a": "v"}, "w"]})
    hostile = HeadMap.from_samples(
        samples,
        dims=dims,
        name=HOSTILE,
        units=HOSTILE,
        sign=HOSTILE,
        coords={dim: [f"{HOSTILE}{n}" for n in range(size)] for dim, size in zip(dims, shape, strict=True)},
        clusters=(HOSTILE, HOSTILE, "a", "b"),
        provenance={HOSTILE: [{HOSTILE: HOSTILE}, HOSTILE]},
    )
    tags = [[tag for tag, _ in Elements(report_html(each)).found] for each in (clean, hostile)]
    assert tags[1] == tags[0] and "img" not in tags[1] and tags[1].count("script") == 3
    assert not [name for _, attrs in Elements(report_html(hostile)).found for name in attrs if name.startswith("on")]
    data = data_of(report_html(hostile))
    assert data["parts"][0]["units"] == HOSTILE and data["dims"][0]["labels"] == [f"{HOSTILE}{n}" for n in range(2)]
    assert not set("<>&\u2028") & set(Elements(report_html(hostile)).texts["application/json"])


def test_nothing_is_fetched(headmap):
    page = report_html(headmap)
    elements = Elements(page)
    assert not [attrs for _, attrs in elements.found if {"src", "href", "srcset", "action"} & set(attrs)]
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", page)
    (policy,) = [attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy


def test_only_the_pages_own_script_and_style_may_run(headmap):
    elements = Elements(report_html(headmap))
    (policy,) = [attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs]
    for kind, rule in {"module": "script-src", "style": "style-src"}.items():
        digest = base64.b64encode(hashlib.sha256(elements.texts[kind].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert not [attrs for _, attrs in elements.found if "style" in attrs]


def test_the_page_carries_the_module_whole(headmap):
    assert Elements(report_html(headmap)).texts["text/plain"] == module("heatmap.js")
    assert not re.search("</script|<!--", module("heatmap.js"))


def test_the_page_is_small_and_the_same_each_time(headmap, tmp_path):
    path = write_report(headmap, tmp_path / "reports" / "map.html")
    assert path.read_text() == report_html(headmap)
    assert path.stat().st_size < 300_000
    assert "plotly" not in path.read_text().lower()


@pytest.mark.parametrize("fill", [np.nan, 0.0, 1e-30, 1e30])
def test_awkward_values_make_a_page(headmap, fill):
    flat = replace(headmap, values=np.full((30, 9), fill), samples=None, scale=None, clusters=())
    (part,) = data_of(report_html(flat))["parts"]
    assert part["bound"] > 0
    assert np.allclose(numbers_of(part), fill, atol=0.51e-4, equal_nan=True)


def test_other_maps_are_refused(headmap):
    with pytest.raises(ValueError, match=r"leave some in \.sel"):
        report_html(headmap.sel(layer=3, head=3))
    with pytest.raises(ValueError, match="infinite"):
        report_html(replace(headmap, values=np.full((30, 9), np.inf), samples=None))


def contrast(first, second):
    """The contrast of two colours as WCAG 2 defines it."""
    parts = np.array([[int(c[at : at + 2], 16) / 255 for at in (1, 3, 5)] for c in (first, second)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_in_light_and_dark():
    css = files("headlens").joinpath("static", "report.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in css.split("prefers-color-scheme: dark")]
    for colours in themes:
        for ink in ("ink", "soft"):
            for under in ("paper", "panel"):
                assert contrast(colours[ink], colours[under]) >= 4.5
