"""Pages of widgets: complete, closed to the network, deaf to what names and labels try to do."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from headlens.javascript import module
from headlens.views.map_view import MapView
from headlens.views.page import About, Part, page

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028--><!--<style>"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the texts of scripts and styles by their kind."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self._inside = [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("type", "style") if tag in {"script", "style"} else ""

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def test_a_page_holds_its_parts_and_each_module_once():
    parts = [
        Part("heatmap.js", {"data": {"a": [1, None]}, "selected": [0, 1]}, heading="One"),
        Part("heatmap.js", {"raw": b"\x00\xff\x10", "selected": None}, heading=HOSTILE, beside=True),
    ]
    text = page(parts, About(HOSTILE, made=HOSTILE), shared=["selected"])
    elements = Elements(text)
    given = json.loads(elements.texts["application/json"])
    assert given["shared"] == ["selected"] and given["parts"][0]["traits"]["data"] == {"a": [1, None]}
    assert base64.b64decode(given["parts"][1]["bytes"]["raw"]) == b"\x00\xff\x10"
    assert elements.texts["text/plain"] == module("heatmap.js")
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 3 and "img" not in tags and tags.count("style") == 1
    assert [attrs["id"] for tag, attrs in elements.found if "id" in attrs and tag == "div"] == ["view-0", "view-1"]
    assert text == page(parts, About(HOSTILE, made=HOSTILE), shared=["selected"])


def test_only_the_pages_own_script_and_style_may_run_and_nothing_is_fetched(effects):
    text = MapView(effects).html()
    elements = Elements(text)
    (policy,) = [attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for kind, rule in {"module": "script-src", "style": "style-src"}.items():
        digest = base64.b64encode(hashlib.sha256(elements.texts[kind].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert not [attrs for _, attrs in elements.found if {"src", "href", "srcset", "action", "style"} & set(attrs)]
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", text)


def test_numbers_that_json_cannot_say_are_refused():
    with pytest.raises(ValueError, match="send None for what is missing"):
        page([Part("heatmap.js", {"data": float("nan")})], About("t"))


def test_a_view_is_saved_with_its_words_and_tables(effects, tmp_path):
    path = MapView(effects).save(tmp_path / "pages" / "map.html")
    text = path.read_text()
    assert "<title>effect: 3 layers, 5 heads; 7 prompts</title>" in text and "Positive restores." in text
    (table,) = re.findall("<noscript>(.*)</noscript>", text, re.DOTALL)
    assert re.search("<tr><td>(.*?)</td>", table)[1] == "L2H3" and "<dt>seed</dt><dd>3</dd>" in text


def test_both_sheets_have_the_same_colours():
    sheets = [files("headlens").joinpath("static", name).read_text() for name in ("report.css", "views.css")]
    found = [
        [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r"\{([^{}]*--paper: [^{}]*)\}", sheet)]
        for sheet in sheets
    ]
    assert found[0] == found[1] and len(found[0]) == 2 and len(found[0][0]) == 10
