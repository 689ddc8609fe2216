"""The modules of static/ in one piece each, for whoever must hand over a module as one text: a page, or a widget."""

import re
from importlib.resources import files

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const |function )", re.MULTILINE)


def module(name: str) -> str:
    """The text of a module with the modules that it imports, each once, written out in front of it."""
    return _joined(name, set())


def _joined(name: str, written: set[str]) -> str:
    text = files("headlens").joinpath("static", name).read_text()
    before = []
    for imported in _IMPORT.findall(text):
        if imported not in written:
            written.add(imported)
            before.append(_EXPORT.sub("", _joined(imported, written)))
    return "\n".join([*before, _IMPORT.sub("", text)])
