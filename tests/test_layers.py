"""Imports point down the ladder: kernels <- hooks <- analyses <- lens."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LADDER = ["kernels", "hooks", "analyses", "lens"]
SCREENS = {"typer", "plotly", "anywidget", "ipywidgets"}


def modules_imported(source: str) -> list[list[str]]:
    """Split into parts the dotted name of each module that the source imports from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "headlens":
            names += [f"headlens.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name.split(".") for name in names]


def layers_imported(source: str) -> set[str]:
    """Find our layers that the source imports from; `headlens.x` with no folder `x` lives in lens/."""
    ours = [parts[1:] for parts in modules_imported(source) if parts[0] == "headlens"]
    return {parts[0] if parts and parts[0] in [*LADDER, "data"] else "lens" for parts in ours}


def files_of(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LADDER)
def test_imports_point_down(layer):
    allowed = {*LADDER[: LADDER.index(layer) + 1], "data"}
    for path in files_of(layer):
        assert layers_imported(path.read_text()) <= allowed, path


@pytest.mark.parametrize("layer", ["kernels", "hooks", "analyses"])
def test_only_lens_knows_screens(layer):
    for path in files_of(layer):
        assert not {parts[0] for parts in modules_imported(path.read_text())} & SCREENS, path


@pytest.mark.parametrize(
    ("planted", "layers"),
    [
        ("import headlens.analyses.headmap", {"analyses"}),
        ("from headlens.lens import x", {"lens"}),
        ("from headlens import hooks", {"hooks"}),
        ("from headlens import load", {"lens"}),
        ("import headlens", {"lens"}),
        ("def f():\n    from headlens.models import load", {"lens"}),
        ("import torch, headlens.kernels.reference", {"kernels"}),
        ("from importlib.resources import files", set()),
    ],
)
def test_a_planted_import_is_seen(planted, layers):
    assert layers_imported(planted) == layers
