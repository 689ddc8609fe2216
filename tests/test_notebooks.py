"""Every notebook runs from top to bottom, is stored without what running it leaves behind, and answers its question."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
# What was typed in would stay where the numbers change; but 95% is what an interval is, and no result.
TYPED = re.compile(r"(?<![.\d])(?!95%)\d+(\.\d+)?%|\bL\d+H\d+\b")


def read(path):
    return nbformat.read(path, as_version=4)


def test_all_of_them_are_here():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_stored_as_it_was_written(path):
    book = read(path)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert set(book.metadata) == {"kernelspec", "language_info"} and all(not cell.metadata for cell in book.cells)
    assert book.metadata.kernelspec.name == "python3"
    # as nbformat writes it, with cells that keep their names, so that a change is a small difference
    assert path.read_text(encoding="utf-8") == nbformat.writes(book) + "\n"
    names = [cell.id for cell in book.cells]
    assert len({*names}) == len(names) and all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names)
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_begins_with_a_question_and_ends_with_the_answer(path):
    first, *_, heading, last = read(path).cells
    assert first.cell_type == heading.cell_type == "markdown" and last.cell_type == "code"
    assert re.match(r"# [^\n]*\?\n", first.source)
    assert heading.source == "## The answer" and "print(" in last.source
    assert re.search(r"\{[^{}]+:[^{}]*[f%]\}", last.source) and not TYPED.search(last.source)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs(path, smollm2):
    # the fixture has fetched the weights, so that no notebook waits for them
    book = read(path)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(book, timeout=180, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in warned if "Warning" in text]
    (answer,) = book.cells[-1].outputs
    assert answer.name == "stdout" and re.search(r"\d", answer.text) and "nan" not in answer.text
