"""The modules of static/: one piece each when handed over, and without a way to make markup or code of data."""

import re
from importlib.resources import files

import pytest

from headlens.javascript import module

SOURCES = {path.name: path.read_text() for path in files("headlens").joinpath("static").iterdir()}
MODULES = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


def test_what_a_module_imports_is_written_out_once():
    whole = module("heatmap.js")
    assert not re.search(r"^\s*import\b", whole, re.MULTILINE)
    assert re.findall(r"^export.*", whole, re.MULTILINE) == ["export default {"]
    for text in MODULES.values():
        for name in re.findall(r"^export (?:const|function) (\w+)", text, re.MULTILINE):
            assert len(re.findall(rf"^(?:const|function) {name}\b", whole, re.MULTILINE)) == 1


def test_no_two_modules_use_one_name():
    names = re.findall(r"^(?:const|let|function) (\w+)", module("heatmap.js"), re.MULTILINE)
    assert len(names) > 15 and len(set(names)) == len(names)


def test_each_name_that_is_imported_is_exported():
    for text in MODULES.values():
        for names, source in re.findall(r'^import \{([^}]*)\} from "\./(.*)";', text, re.MULTILINE):
            exported = re.findall(r"^export (?:const|function) (\w+)", MODULES[source], re.MULTILINE)
            assert {name.strip() for name in names.split(",")} <= set(exported)


@pytest.mark.parametrize(
    "sink",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "Function(", "fetch(", "import("],
)
def test_no_module_makes_markup_or_code(sink):
    assert not [name for name, text in MODULES.items() if sink in text]
