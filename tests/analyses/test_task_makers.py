"""What all makers of tasks promise, whatever the task and the tokenizer."""

import subprocess
import sys

import pytest
import torch

import task_tokenizers
import tiny_tokenizers
from headlens.analyses import tasks
from headlens.analyses.tasks import Task
from headlens.analyses.templates import deal, read

NEW = ("greater_than", "induction", "capitals", "pronouns")


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


@pytest.fixture(params=NEW)
def make(request):
    return tasks.REGISTRY[request.param]


def prompts_of(task):
    return [tuple(row[:length].tolist()) for row, length in zip(task.clean_tokens, task.lengths, strict=True)]


def test_makers_are_found_by_name_and_name_their_tasks(make, tokenizer):
    task = make(tokenizer, 3, 0)
    assert getattr(tasks, task.name) is make and tasks.REGISTRY[task.name] is make
    assert len(task) == 3 and (task.details["n"], task.details["seed"]) == (3, 0)


def test_equal_arguments_give_equal_tasks(make, tokenizer):
    assert make(tokenizer, n=9, seed=5).hash == make(tokenizer, n=9, seed=5).hash
    assert make(tokenizer, n=9, seed=5).hash != make(tokenizer, n=9, seed=6).hash


def test_nothing_depends_on_the_hash_seed():
    script = (
        "import task_tokenizers; from headlens.analyses import tasks;"
        "print([make(task_tokenizers.one_digit(), n=7, seed=1).hash for make in tasks.REGISTRY.values()])"
    )
    path = str(task_tokenizers.__file__).rsplit("/", 1)[0]
    ours = str([make(task_tokenizers.one_digit(), n=7, seed=1).hash for make in tasks.REGISTRY.values()])
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONHASHSEED": "3", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert other.strip() == ours


def test_ioi_is_what_it_was_before_there_were_other_tasks():
    hashed = tasks.ioi(tiny_tokenizers.unigram(), n=64).hash
    assert hashed == "4ec9cc47e8aae07b49cd6fe698b66d7a5476c6acca83b12a4a33e44ba94429ad"


def test_templates_take_turns_and_no_prompt_comes_twice(make, tokenizer):
    task = make(tokenizer, n=96)
    counts = {label: task.templates.count(label) for label in task.templates}
    assert len(counts) >= 6 and set(counts.values()) == {96 // len(counts)}
    assert len(set(prompts_of(task))) == 96


def test_twins_differ_and_have_equal_lengths(make, tokenizer):
    task = make(tokenizer, n=24)
    for clean, corrupted, length in zip(task.clean_tokens, task.corrupted_tokens, task.lengths, strict=True):
        assert (clean != corrupted)[:length].any() and not (clean != corrupted)[length:].any()


def test_templates_can_be_chosen(make, tokenizer):
    first = make(tokenizer, n=1).details["templates"][0]
    task = make(tokenizer, n=4, templates=first)
    assert task.details["templates"] == [first] and all(label.startswith(first) for label in task.templates)


@pytest.mark.parametrize(
    "family, prepend_bos, lead",
    [
        ("one_digit", None, ["<s>"]),
        ("one_digit", False, []),
        ("two_digits", None, []),
        ("two_digits", True, ["<end>"]),
        ("word_pieces", None, ["[CLS]"]),
        ("word_pieces", False, []),
    ],
)
def test_bos_follows_the_tokenizer_unless_told(make, family, prepend_bos, lead):
    """Whatever stands in front, the rest of the prompt and what the positions point at stay the same."""
    tokenizer = task_tokenizers.FAMILIES[family]()
    task, bare = (make(tokenizer, n=5, seed=2, prepend_bos=bos) for bos in (prepend_bos, False))
    assert task.details["prepend_bos"] == bool(lead)
    for prompt, (row, plain) in enumerate(zip(prompts_of(task), prompts_of(bare), strict=True)):
        assert tokenizer.convert_ids_to_tokens(list(row[: len(lead)])) == lead and row[len(lead) :] == plain
        for name in task.positions:
            assert row[task.positions[name][prompt]] == plain[bare.positions[name][prompt]]


def test_tasks_come_back_from_their_files(make, tokenizer, tmp_path):
    task = make(tokenizer, n=6)
    task.to_jsonl(tmp_path / f"{task.name}.jsonl")
    back = Task.from_jsonl(tokenizer, tmp_path / f"{task.name}.jsonl", metric=task.metric)
    assert back.hash == task.hash and back.metric == task.metric
    assert (back.answer_sets, back.foil_sets) == (task.answer_sets, task.foil_sets)


def test_the_metric_that_suits_is_told(tokenizer):
    metrics = {name: make(tokenizer, n=2).metric for name, make in tasks.REGISTRY.items()}
    assert metrics.pop("greater_than") == "prob_diff" and set(metrics.values()) == {"logit_diff"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 prompts were asked for; give at least 1"),
        ({"templates": []}, "No .* template was given"),
        ({"templates": "lastd"}, "Unknown .* template 'lastd'.*; choose from"),
    ],
    ids=["n", "none", "unknown"],
)
def test_bad_arguments_get_a_sentence(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(task_tokenizers.one_digit(), **{"n": 2, **arguments})


@pytest.mark.parametrize("name", ["greater_than", "capitals", "pronouns"])
def test_a_tokenizer_of_characters_is_refused(name):
    with pytest.raises(ValueError, match=r"Only 0 of the \d+ .* are single tokens .* Task\.from_pairs"):
        tasks.REGISTRY[name](tiny_tokenizers.characters(), n=2)


@pytest.mark.parametrize("name", ["greater_than", "capitals", "pronouns"])
def test_templates_are_many_and_start_with_a_word_of_their_own(name):
    texts = read(name)["templates"].values()
    assert len({*texts}) >= 6 and not any(text.startswith("{") or text.endswith(" ") for text in texts)


def test_a_deck_is_dealt_whole_before_it_is_dealt_again():
    from random import Random

    cards = deal(Random(4), "abcdefg")
    rounds = ["".join(next(cards) for _ in range(7)) for _ in range(3)]
    assert all(sorted(dealt) == [*"abcdefg"] for dealt in rounds) and len({*rounds}) == 3


@pytest.mark.real
@pytest.mark.parametrize("name", NEW)
def test_the_real_model_does_the_task(smollm2, name):
    """By answer and foil; the sets of greater_than by their probabilities."""
    task = tasks.REGISTRY[name](smollm2, n=32)
    rows, clean, corrupted = torch.arange(32), [], []
    for tokens, found in ((task.clean_tokens, clean), (task.corrupted_tokens, corrupted)):
        with torch.no_grad():
            logits = smollm2.hf(tokens).logits[rows, task.positions["END"]]
        for row, right, wrong, answer, foil in zip(
            logits, task.answer_sets, task.foil_sets, task.answers, task.foils, strict=True
        ):
            chances = row.softmax(-1)
            sets = chances[list(right)].sum() - chances[list(wrong)].sum()
            found.append(float(sets if task.metric == "prob_diff" else row[answer] - row[foil]))
    least, most = BOUNDS[name]
    assert sum(clean) / 32 > least and sum(corrupted) / 32 < most
    assert sum(value > 0 for value in clean) >= 26


# The mean metric: clean above the first number, corrupted below the second.
BOUNDS = {"greater_than": (0.4, 0.0), "induction": (6.0, 3.0), "capitals": (7.0, -7.0), "pronouns": (2.0, -2.0)}
