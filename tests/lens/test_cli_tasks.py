"""`headlens tasks`, as a command of an app of its own, with a tokenizer in place of a model."""

import importlib
import json

import pytest
import typer
from typer.testing import CliRunner

import task_tokenizers
from headlens import cli_tasks
from headlens.analyses import choice_tasks, tasks

loading = importlib.import_module("headlens.models")


@pytest.fixture
def run(monkeypatch):
    """Run the command with the given words; errors are raised."""
    app = typer.Typer(rich_markup_mode=None)
    app.command()(cli_tasks.tasks)
    monkeypatch.setattr(loading, "load", lambda name: task_tokenizers.FAMILIES[name]())
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False).stdout


def test_tasks_are_listed_by_their_kind_without_a_model(run, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    lines = run().splitlines()
    pairs, choices = lines.index("pairs of a clean and a corrupted prompt:"), lines.index("prompts with choices:")
    assert [line.split()[0] for line in lines[pairs + 1 : choices]] == [*tasks.REGISTRY]
    assert [line.split()[0] for line in lines[choices + 1 :]] == [*choice_tasks.REGISTRY]
    assert "arXiv 2305.00586" in lines[2] and all(len(line) < 120 for line in lines)


def test_a_pair_is_shown_with_its_tokens(run):
    shown = run("pronouns", "--model", "two_digits", "--n", "1", "--seed", "4").splitlines()
    assert shown[0] == "pronouns: 1 pairs of 10 tokens or fewer, metric logit_diff"
    clean, corrupted = (line.split(maxsplit=1)[1] for line in shown[3:5])
    name, other = clean.split()[1], corrupted.split()[1]
    assert clean == f"So {name} is quite a fast swimmer, isn't" and name != other
    assert shown[2:3] + shown[5:] == [
        "swimmer-isnt he",
        "  answer     ' he'",
        "  foil       ' she'",
        f"  NAME       1 ' {name}' -> ' {other}'",
        '  END        9 "\'t"',
    ]


def test_a_prompt_is_shown_with_its_choices_and_the_right_one_marked(run, monkeypatch):
    tokenizer = task_tokenizers.one_digit()
    rows = [{"prompt": "a man\nb:", "choices": [" he", " she"], "answer": 1, "template": "t"}]
    made = choice_tasks.ChoiceTask.from_prompts(tokenizer, rows, name="sentiment")
    monkeypatch.setitem(choice_tasks.REGISTRY, "sentiment", lambda model, n, seed: made)
    assert run("sentiment", "--model", "one_digit").splitlines() == [
        f"sentiment: 1 prompts of {int(made.lengths[0])} tokens or fewer, accuracy by chance 50.0%",
        "",
        "t",
        "  prompt     a man",
        "             b:",
        "  choices    'he'",
        "             'she'  (right)",
    ]


def test_sets_are_shown_where_there_are_any(run):
    shown = run("greater_than", "--model", "one_digit", "--n", "1")
    right, wrong = (line.split()[1:] for line in shown.splitlines() if line.split()[:1] in (["right"], ["wrong"]))
    assert "'9'" in right and "'0'" in wrong and not {*right} & {*wrong}


def test_prompts_of_token_ids_are_spelt(run):
    shown = run("induction", "--model", "word_pieces", "--n", "2")
    assert shown.count("  clean      ") == 2 and "[UNK]" not in shown and "C2" in shown


def test_pairs_are_written_to_a_file(run, tmp_path):
    out = tmp_path / "capitals.jsonl"
    assert (
        run("capitals", "--model", "one_digit", "--n", "5", "--out", str(out))
        == f"Wrote 5 pairs of capitals to {out}\n"
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 5 and {"clean", "corrupted", "answer", "foil"} <= {*lines[0]}


def test_an_unknown_task_is_told_before_a_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(ValueError, match=r"Unknown task 'capital' \(did you mean 'capitals'\?\)"):
        run("capital")


def test_a_file_needs_a_task(run, tmp_path):
    with pytest.raises(ValueError, match="--out was given without a task"):
        run("--out", str(tmp_path / "a.jsonl"))
