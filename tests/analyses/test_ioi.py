"""IOI prompts for every family of tokenizers: what they say, and where their tokens lie."""

import re
import subprocess
import sys

import pytest
import torch

import tiny_tokenizers
from headlens.analyses import tasks
from headlens.analyses.ioi import all_words

FAMILIES = {
    "bpe": tiny_tokenizers.bpe,
    "word_pieces": tiny_tokenizers.word_pieces,
    "unigram": tiny_tokenizers.unigram,
}


@pytest.fixture(params=FAMILIES)
def tokenizer(request):
    return FAMILIES[request.param]()


def word_at(tokenizer, task, name, prompt, tokens=None):
    """The word that the token at a named position spells, without the family's mark for a space."""
    tokens = task.clean_tokens if tokens is None else tokens
    piece = tokenizer.convert_ids_to_tokens(int(tokens[prompt, task.positions[name][prompt]]))
    return piece.strip("Ġ▁").lower()


@pytest.mark.parametrize("corruption", ["abc", "swap"])
@pytest.mark.parametrize("prepend_bos", [None, False])
def test_every_named_position_holds_its_word(tokenizer, corruption, prepend_bos):
    task = tasks.ioi(tokenizer, n=37, seed=3, corruption=corruption, prepend_bos=prepend_bos)
    assert set(task.positions) == {"IO", "S1", "S1+1", "S2", "END"}
    for prompt, (clean, _) in enumerate(task.texts):
        io, subject = (text.strip() for text in task.answer_texts[prompt])
        words = re.findall(r"\w+|[^\w ]", clean)
        assert word_at(tokenizer, task, "IO", prompt) == io.lower()
        assert word_at(tokenizer, task, "S1", prompt) == subject.lower()
        assert word_at(tokenizer, task, "S2", prompt) == subject.lower()
        assert task.positions["S1"][prompt] < task.positions["S2"][prompt]
        assert word_at(tokenizer, task, "S1+1", prompt) == words[words.index(subject) + 1].lower()
        assert word_at(tokenizer, task, "END", prompt) == words[-1].lower()
        assert task.positions["END"][prompt] == task.lengths[prompt] - 1


@pytest.mark.parametrize("corruption", ["abc", "swap"])
def test_corrupted_prompts_differ_at_s2_alone(tokenizer, corruption):
    task = tasks.ioi(tokenizer, n=21, corruption=corruption)
    differs = task.clean_tokens != task.corrupted_tokens
    assert torch.equal(differs.nonzero()[:, 1], task.positions["S2"])
    for prompt, (io, subject) in enumerate(task.answer_texts):
        changed = word_at(tokenizer, task, "S2", prompt, task.corrupted_tokens)
        corrupted = task.texts[prompt][1]
        if corruption == "swap":
            assert changed == io.strip().lower()
            assert (corrupted.count(io), corrupted.count(subject)) == (2, 1)
        else:
            assert changed not in (io.strip().lower(), subject.strip().lower())
            assert (corrupted.count(io), corrupted.count(subject)) == (1, 1)


def test_answers_are_what_the_prompt_goes_on_with(tokenizer):
    task = tasks.ioi(tokenizer, n=17)
    for prompt, (clean, _) in enumerate(task.texts):
        for token, text in zip((task.answers, task.foils), task.answer_texts[prompt], strict=True):
            whole = tokenizer(clean + text, add_special_tokens=False)["input_ids"]
            assert whole[-1] == int(token[prompt])
            start = int(task.lengths[prompt]) - len(whole) + 1
            assert task.clean_tokens[prompt, start : task.lengths[prompt]].tolist() == whole[:-1]


@pytest.mark.parametrize(
    "family, prepend_bos, lead",
    [
        ("bpe", None, []),
        ("bpe", True, ["<end>"]),
        ("bpe", False, []),
        ("word_pieces", None, ["[CLS]"]),
        ("word_pieces", True, ["[CLS]"]),
        ("word_pieces", False, []),
        ("unigram", None, ["<s>"]),
        ("unigram", True, ["<s>"]),
        ("unigram", False, []),
    ],
)
def test_bos_follows_the_tokenizer_unless_told(family, prepend_bos, lead):
    tokenizer = FAMILIES[family]()
    task = tasks.ioi(tokenizer, n=3, templates=["when-went"], prepend_bos=prepend_bos)
    assert task.details["prepend_bos"] == bool(lead)
    assert task.lengths.tolist() == [14 + len(lead)] * 3
    pieces = tokenizer.convert_ids_to_tokens(task.clean_tokens[0])
    assert pieces[: len(lead)] == lead and pieces[len(lead)].strip("▁").lower() == "when"
    assert pieces[-1].strip("Ġ▁") == "to"
    assert task.positions["S2"].tolist() == [9 + len(lead)] * 3


def test_prepend_bos_needs_a_bos_token():
    tokenizer = tiny_tokenizers.bpe_without_bos()
    with pytest.raises(ValueError, match="prepend_bos=True .* no BOS token"):
        tasks.ioi(tokenizer, n=1, prepend_bos=True)


def test_the_same_seed_gives_the_same_task_and_another_gives_another(tokenizer):
    assert tasks.ioi(tokenizer, n=9, seed=5).hash == tasks.ioi(tokenizer, n=9, seed=5).hash
    assert tasks.ioi(tokenizer, n=9, seed=5).hash != tasks.ioi(tokenizer, n=9, seed=6).hash


FIRST_OF_SEED_1 = repr(
    (
        "When Ben and Robert went to the garden, Robert gave a drink to",
        "When Ben and Robert went to the garden, Nick gave a drink to",
    )
)


def test_nothing_depends_on_the_hash_seed_or_the_platform():
    """The texts of a seed are written down here; a process with another hash seed draws the same."""
    script = (
        "import tiny_tokenizers; from headlens.analyses import tasks;"
        "print(*tasks.ioi(tiny_tokenizers.bpe(), n=3, seed=1).texts, sep='\\n')"
    )
    path = str(tiny_tokenizers.__file__).rsplit("/", 1)[0]
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].splitlines()[0] == FIRST_OF_SEED_1


def test_both_corruptions_share_their_clean_prompts(tokenizer):
    abc, swap = (tasks.ioi(tokenizer, n=11, corruption=corruption) for corruption in ("abc", "swap"))
    assert torch.equal(abc.clean_tokens, swap.clean_tokens)
    assert abc.hash != swap.hash


def test_templates_and_orders_take_turns(tokenizer):
    task = tasks.ioi(tokenizer, n=64)
    labels = [f"{template} {order}" for template in all_words().templates for order in ("ABBA", "BABA")]
    assert sorted(set(task.templates)) == sorted(labels)
    assert {task.templates.count(label) for label in labels} == {4}
    for prompt, label in enumerate(task.templates):
        io_first = bool(task.positions["IO"][prompt] < task.positions["S1"][prompt])
        assert label.endswith("ABBA") == io_first


def test_prompts_are_unique_where_possible():
    task = tasks.ioi(tiny_tokenizers.bpe(), n=500, templates=["when-went"], orders=["BABA"])
    assert len({clean for clean, _ in task.texts}) == 500


def test_prompts_repeat_rather_than_run_out():
    words = all_words()
    unknown = words.names[3:] + words.places[1:] + words.objects[1:]
    task = tasks.ioi(tiny_tokenizers.unigram(unknown), n=9, templates=["when-went"], orders=["BABA"])
    assert len({clean for clean, _ in task.texts}) == 6


def test_words_of_several_tokens_are_left_out():
    words = all_words()
    known = (words.names[2], words.names[40], words.names[77], words.names[99])
    unknown = tuple(name for name in words.names if name not in known) + words.places[:-2]
    task = tasks.ioi(tiny_tokenizers.unigram(unknown), n=40)
    assert {text.strip() for pair in task.answer_texts for text in pair} == set(known)
    assert all(any(place in clean for place in words.places[-2:]) for clean, _ in task.texts)


def test_unknown_words_are_not_one_token():
    """WordPiece makes any word one [UNK]; that is no answer."""
    with pytest.raises(ValueError, match=r"Only 0 of the 100 IOI names are single tokens"):
        tasks.ioi(tiny_tokenizers.word_pieces_of_a_stranger(), n=2)


def test_a_tokenizer_of_characters_is_refused():
    with pytest.raises(ValueError, match=r"Only 0 of the 100 IOI names .* 3 or more .* Task\.from_pairs"):
        tasks.ioi(tiny_tokenizers.characters(), n=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "n=0 prompts were asked for; give at least 1"),
        (
            {"corruption": "abcd"},
            r"Unknown IOI corruption 'abcd' \(did you mean 'abc'\?\); choose from abc, swap",
        ),
        ({"orders": ["ABAB"]}, r"Unknown IOI order 'ABAB' \(did you mean '\w+'\?\); choose from ABBA, BABA"),
        ({"orders": []}, "No IOI order was given"),
        ({"templates": []}, "No IOI template was given"),
        ({"templates": ["when-wend"]}, r"Unknown IOI template 'when-wend' \(did you mean 'when-went'\?\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_get_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.ioi(tiny_tokenizers.bpe(), **{"n": 2, **arguments})


def test_one_order_or_template_may_be_given_by_itself():
    task = tasks.ioi(tiny_tokenizers.bpe(), n=3, orders="BABA", templates="monday-met")
    assert set(task.templates) == {"monday-met BABA"}


def test_the_data_has_what_the_templates_ask_for():
    words = all_words()
    assert len(words.templates) >= 6 and len(words.names) >= 60
    assert all(len(set(group)) == len(group) for group in (words.names, words.places, words.objects))
    for text in words.templates.values():
        assert set(re.findall(r"{(\w+)}", text)) == {"first", "second", "S2", "place", "object"}
        assert not text.startswith("{") and not text.endswith(" ")


@pytest.mark.real
def test_the_real_model_does_the_task(smollm2):
    task = tasks.ioi(smollm2, n=64)
    assert task.lengths.max() == 20 and task.texts[0][0].startswith("When ")
    differences = {}
    for run, tokens in {"clean": task.clean_tokens, "corrupted": task.corrupted_tokens}.items():
        with torch.no_grad():
            logits = smollm2.hf(tokens).logits[torch.arange(64), task.positions["END"]]
        rows = torch.arange(64)
        differences[run] = logits[rows, task.answers] - logits[rows, task.foils]
    assert differences["clean"].mean() > 3.5
    assert (differences["clean"] > 0).float().mean() > 0.95
    assert differences["corrupted"].mean().abs() < 0.7
