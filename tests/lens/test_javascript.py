"""The modules of static/: one piece each when handed over, and without a way to make markup or code of data."""

import re
from importlib.resources import files

import pytest

from headlens.javascript import module

SOURCES = {path.name: path.read_text() for path in files("headlens").joinpath("static").iterdir()}
MODULES = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


WIDGETS = [name for name, text in MODULES.items() if "export default" in text]


@pytest.mark.parametrize("widget", WIDGETS)
def test_what_a_module_imports_is_written_out_once(widget):
    whole = module(widget)
    assert not re.search(r"^\s*import\b", whole, re.MULTILINE)
    assert re.findall(r"^export.*", whole, re.MULTILINE) == ["export default {"]
    for names in re.findall(
        r"^import \{([^}]*)\} from", "\n".join(MODULES[name] for name in _reached(widget)), re.MULTILINE
    ):
        for name in (part.strip() for part in names.split(",")):
            assert len(re.findall(rf"^(?:const|function) {name}\b", whole, re.MULTILINE)) == 1


def test_each_module_is_part_of_a_widget():
    assert {"heatmap.js", "gaze.js"} <= {*WIDGETS}
    assert set().union(*(_reached(widget) for widget in WIDGETS)) == {*MODULES}


@pytest.mark.parametrize("widget", WIDGETS)
def test_no_two_modules_use_one_name(widget):
    names = re.findall(r"^(?:const|let|function) (\w+)", module(widget), re.MULTILINE)
    assert len(names) > 15 and len(set(names)) == len(names)


def _reached(name):
    imported = re.findall(r'^import .* from "\./(.*)";', MODULES[name], re.MULTILINE)
    return {name}.union(*(_reached(other) for other in imported))


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
