"""The package as it is installed, and what its source promises about itself."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import headlens

ROOT = Path(__file__).parents[1]
FOLDERS = ["kernels", "hooks", "analyses", "lens", "data"]
SOURCES = [path for folder in [*FOLDERS, "tests"] for path in sorted((ROOT / folder).rglob("*.py"))]
HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "pydantic", "plotly", "numpy")


def imported_by(*command: str) -> set[str]:
    """Run Python in a fresh process and return which heavy packages it ended up importing."""
    probe = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-P", "-c", "; ".join([*command, probe])], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_importing_headlens_imports_nothing_heavy():
    assert imported_by("import headlens") == set()


def test_the_command_line_imports_nothing_heavy_until_a_command_runs():
    assert imported_by("import headlens.cli") == set()


def test_a_heavy_import_would_be_seen():
    assert imported_by("import numpy") == {"numpy"}


def test_our_kernels_are_not_importable_under_their_bare_name():
    found = importlib.util.find_spec("kernels")
    assert found is None or not Path(found.origin or "").is_relative_to(ROOT)


@pytest.mark.parametrize("name", headlens.__all__)
def test_every_public_name_loads(name):
    assert getattr(headlens, name) is not None
    assert name in dir(headlens)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = headlens.lod  # pyright: ignore[reportAttributeAccessIssue]


def test_versions_agree():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert headlens.__version__ == declared == version("headlens")
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_says_that_it_is_typed():
    assert files("headlens").joinpath("py.typed").is_file()


def test_the_console_script_is_there():
    (script,) = entry_points(group="console_scripts", name="headlens")
    assert script.value == "headlens.cli:app"


def test_every_folder_is_mapped():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapped = {folder: name for name, folder in tool["package-dir"].items()}
    assert mapped == {folder: "headlens" if folder == "lens" else f"headlens.{folder}" for folder in FOLDERS}
    inside = [
        path.parent.relative_to(ROOT).parts for folder in FOLDERS for path in (ROOT / folder).glob("*/**/__init__.py")
    ]
    inner = {".".join([mapped[folder], *rest]) for folder, *rest in inside}
    assert set(tool["packages"]) == set(mapped.values()) | inner


@pytest.mark.parametrize("folder", ["kernels", "hooks", "analyses", "data"])
def test_folders_load_nothing_of_their_own_accord(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text())
    assert len(tree.body) == 1 and ast.get_docstring(tree)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_runs_no_text_and_reads_no_pickle(path):
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {func.id if isinstance(func, ast.Name) else ast.unparse(func) for func in called}
    assert not names & {"eval", "exec", "print", "pickle.load", "pickle.loads", "torch.load"}
    trusting = r"trust_remote_code\W{1,3}\s*True"
    assert not re.search(trusting, path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_names_no_place_of_one_machine_and_leaves_nothing_to_do(path):
    places = r"(?<![\w.<{}])/(?:home|root|tmp|work|mnt|Users)/\w"
    notes = r"\b(?:TODO|FIXME|XXX)\b"
    source = path.read_text().replace("TODO|FIXME|XXX", "")
    assert not re.search(places, source)
    assert not re.search(notes, source)


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc"])
def test_no_file_is_a_drawer(name):
    assert not [path for path in SOURCES if path.stem == name]
