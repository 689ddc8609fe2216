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


def test_the_page_carries_the_numbers_of_the_map(headmap):
    data = data_of(report_html(headmap))
    assert np.array_equal(np.array(data["values"], np.float32), headmap.values, equal_nan=True)
    assert np.array_equal(np.array(data["low"], np.float32), headmap.ci().low, equal_nan=True)
    assert data["values"][4][2] is None and data["positions"] is None
    assert data["bound"] == pytest.approx(np.nanmax(np.abs(headmap.values))) and data["digits"] == 2


def test_positions_come_last_whatever_their_order_was(positions):
    data = data_of(report_html(positions))
    assert np.array_equal(np.array(data["values"], np.float32), positions.values.transpose(1, 0, 2))
    assert data["positions"] == ["0", "1", "2", "3"] and data["low"] is None


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
    assert "at its position of largest magnitude" in report_html(positions)
    assert "were not kept" in report_html(positions) and "4 positions" in report_html(positions)
    single = replace(headmap, samples=headmap.samples[:1], scale=None, clusters=())
    assert "on a single prompt" in report_html(single)


def test_provenance_is_readable(headmap):
    page = report_html(headmap)
    assert "<dt>model</dt><dd><dl><dt>name</dt><dd>tiny</dd>" in page
    assert "<dt>words</dt><dd>a, b</dd>" in page and "<dt>note</dt><dd>none</dd>" in page
    assert "<ol><li><dl><dt>heads</dt><dd>9</dd></dl></li></ol>" in page
    assert "This map does not say." in report_html(replace(headmap, provenance={}))


def test_without_scripts_there_is_a_table(headmap):
    (table,) = re.findall("<noscript>(.*)</noscript>", report_html(headmap), re.DOTALL)
    first, second = re.findall("<tr><td>(.*?)</td><td.*?>(.*?)</td><td.*?>(.*?)</td></tr>", table)[:2]
    row = headmap.top(1).iloc[0]
    assert first == ("L23H3", f"{row['value']:.2f}", f"[{row['low']:.2f}, {row['high']:.2f}]")
    assert second[0] == "L25H1" and second[1].startswith("\N{MINUS SIGN}0.")
    assert table.count("<tr>") == 16


@pytest.mark.parametrize("dims", [("layer", "head"), ("layer", "head", "pos")])
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
        coords={dim: (HOSTILE,) * size for dim, size in zip(dims, shape, strict=True)},
        clusters=(HOSTILE, HOSTILE, "a", "b"),
        provenance={HOSTILE: [{HOSTILE: HOSTILE}, HOSTILE]},
    )
    tags = [[tag for tag, _ in Elements(report_html(each)).found] for each in (clean, hostile)]
    assert tags[1] == tags[0] and "img" not in tags[1] and tags[1].count("script") == 3
    assert not [name for _, attrs in Elements(report_html(hostile)).found for name in attrs if name.startswith("on")]
    data = data_of(report_html(hostile))
    assert data["units"] == HOSTILE and data["layers"] == [HOSTILE] * 2
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
    module = files("headlens").joinpath("static", "heatmap.js").read_text()
    assert Elements(report_html(headmap)).texts["text/plain"] == module
    assert not re.search("</script|<!--", module)


@pytest.mark.parametrize(
    "sink", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "Function(", "fetch(", "import "]
)
def test_the_module_makes_no_markup_and_no_code(sink):
    assert sink not in files("headlens").joinpath("static", "heatmap.js").read_text()


def test_the_page_is_small_and_the_same_each_time(headmap, tmp_path):
    path = write_report(headmap, tmp_path / "reports" / "map.html")
    assert path.read_text() == report_html(headmap)
    assert path.stat().st_size < 300_000
    assert "plotly" not in path.read_text().lower()


@pytest.mark.parametrize("fill", [np.nan, 0.0, 1e-30, 1e30])
def test_awkward_values_make_a_page(headmap, fill):
    flat = replace(headmap, values=np.full((30, 9), fill), samples=None, scale=None, clusters=())
    assert data_of(report_html(flat))["bound"] > 0


def test_other_maps_are_refused(headmap):
    with pytest.raises(ValueError, match=r"leave both whole in \.sel"):
        report_html(headmap.sel(layer=3))
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
