"""Choice tasks from the user's own prompts: what they hold, that they come back from a file, and what is refused."""

import json

import pytest
import torch

import choice_tokenizers
import tiny_tokenizers
from choice_arrays import ragged_choices
from headlens.analyses.choice_prompts import ChoicePrompt
from headlens.analyses.choice_task import ChoiceTask
from tiny_models import held

GOOD = {
    "prompt": "When Mary and John went to the store, John gave a drink to",
    "choices": [" Mary", " John", " Paul"],
    "answer": " Mary",
    "template": "when",
}
IDS = {"prompt": [5, 6, 7], "choices": [9, 8], "answer": 1}

SURROGATE = r"mine\.jsonl, line 1: '{}' contains '\\ud800', half of a surrogate pair; write the whole character\.$"
TOO_LARGE = r"mine\.jsonl, line 1: '{}' contains the number -?10{{24}}, which 64 bits cannot hold"


@pytest.fixture
def tokenizer():
    return tiny_tokenizers.bpe()


def arrays(**changes):
    """Fields of a small task, as tensors."""
    plain = {"tokens": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]), "lengths": torch.tensor([4, 3])}
    return {
        "name": "t",
        **plain,
        "choices": torch.tensor([[1, 2, 3], [4, 5, -1]]),
        "answers": torch.tensor([2, 0]),
        **changes,
    }


def test_prompts_of_text_become_tokens(tokenizer):
    task = ChoiceTask.from_prompts(tokenizer, [GOOD, (GOOD["prompt"], [" John", " Mary"], 1, "when")])
    assert len(task) == 2 and task.tokens.shape == (2, 14) and task.lengths.tolist() == [14, 14]
    assert [tokenizer.decode([token]) for token in task.choices[0].tolist()] == [" Mary", " John", " Paul"]
    assert task.choices[1].tolist() == [*task.choices[0, [1, 0]].tolist(), -1]
    assert task.answers.tolist() == [0, 1] and task.templates == ("when", "when")
    assert task.texts == (GOOD["prompt"],) * 2 and task.choice_texts[1] == (" John", " Mary")
    assert task.details == {"prepend_bos": False}


def test_prompts_of_ids_and_of_many_lengths_are_padded_on_the_right(tokenizer):
    task = ChoiceTask.from_prompts(tokenizer, [IDS, {"prompt": [5, 6, 7, 8, 9], "choices": [1, 2, 3], "answer": 2}])
    assert task.lengths.tolist() == [3, 5] and task.tokens[0].tolist() == [5, 6, 7, 0, 0]
    assert task.choices.tolist() == [[9, 8, -1], [1, 2, 3]] and task.counts.tolist() == [2, 3]
    assert task.templates == ("Prompt 0", "Prompt 1") and task.texts == ("", "") and task.choice_texts[0] == ("", "")


def test_chance_is_the_mean_over_prompts():
    assert ChoiceTask(**arrays()).chance == pytest.approx((1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("family", "prepend_bos", "lead"),
    [
        ("unigrams", None, ["<s>"]),
        ("unigrams", False, []),
        ("byte_pairs", None, []),
        ("byte_pairs", True, ["<end>"]),
        ("word_pieces", None, ["[CLS]"]),
    ],
)
def test_bos_follows_the_tokenizer_unless_told(family, prepend_bos, lead):
    tokenizer = choice_tokenizers.FAMILIES[family]()
    row = {"prompt": "we tried the hotel", "choices": [" positive", " negative"], "answer": 0}
    task = ChoiceTask.from_prompts(tokenizer, [{**row, "prepend_bos": prepend_bos}])
    plain = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    assert task.tokens[0].tolist() == tokenizer.convert_tokens_to_ids(lead) + plain
    assert task.details["prepend_bos"] == bool(lead)


def test_a_file_of_prompts_comes_back_the_same(tokenizer, tmp_path):
    rows = [GOOD, {**GOOD, "answer": 2, "template": "a\u2028b\x85c"}, {**GOOD, "choices": [" John", " Mary"]}]
    task = ChoiceTask.from_prompts(tokenizer, rows, name="mine")
    task.to_jsonl(tmp_path / "mine.jsonl")
    back = ChoiceTask.from_jsonl(tokenizer, tmp_path / "mine.jsonl")
    assert (back.hash, back.texts, back.choice_texts) == (task.hash, task.texts, task.choice_texts)
    assert back.name == "mine" and back.details == task.details and '"answer": " Paul"' in _text(tmp_path)


def test_a_file_of_ids_comes_back_the_same(tokenizer, tmp_path):
    task = ChoiceTask.from_prompts(tokenizer, [IDS, {**IDS, "choices": [3, 4, 5]}], name="mine")
    task.to_jsonl(tmp_path / "mine.jsonl")
    assert ChoiceTask.from_jsonl(tokenizer, tmp_path / "mine.jsonl").hash == task.hash
    assert '"prompt": [5, 6, 7], "choices": [9, 8], "answer": 1' in _text(tmp_path)


def _text(folder):
    return (folder / "mine.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"choices": [" Mary", "John"]}, r": the choice 'John' is not one known token .*mean ' John', with"),
        ({"choices": [" Mary", " xylo"]}, r": the choice ' xylo' is not one known token but \['Ġ', 'x'"),
        ({"choices": [" Mary"]}, r": the choices are \[' Mary'\]; give two or more"),
        ({"choices": [" Mary", " John", " John"]}, ": the choice ' John' is given twice"),
        ({"choices": " Mary"}, ": 'choices' is ' Mary'; it must be a list of texts or token ids"),
        ({"answer": " Marie"}, r": the answer ' Marie' is not among the choices .* \(did you mean ' Mary'\?\)"),
        ({"answer": 3}, ": the answer is the place 3, but the 3 choices have the places 0 to 2"),
        ({"answer": -1}, ": the answer is the place -1"),
        ({"answer": True}, ": 'answer' is True; it must be the text of a choice or its place"),
        ({"prompt": ""}, ": the prompt is empty"),
        ({"prompt": []}, ": the prompt is empty"),
        ({"prompt": [3, 4]}, ": the prompt is given as token ids, so give the choice ' Mary' as a token id too"),
        ({"prompt": 3}, ": 'prompt' is 3; it must be text or a list of token ids"),
        (
            {"prompt": GOOD["prompt"] + " ", "choices": ["Mary", "John"], "answer": 1},
            ": the prompt's own tokens change when the choice 'Mary' follows",
        ),
        ({"chioces": []}, r": unknown key 'chioces' \(did you mean 'choices'\?\)"),
        ({"template": 3}, ": 'template' is 3; it must be text"),
        ({"item": 3}, ": 'item' is 3; it must be text"),
        ({"prepend_bos": "yes"}, ": 'prepend_bos' is 'yes'; it must be true or false"),
        ({"prepend_bos": True}, "disagree about prepend_bos"),
    ],
)
def test_a_prompt_that_does_not_fit_is_named(tokenizer, change, sentence):
    start = "^" if "disagree" in sentence else "^Prompt 1"
    sentence = f".*{sentence}" if "disagree" in sentence else sentence
    with pytest.raises(ValueError, match=start + sentence):
        ChoiceTask.from_prompts(tokenizer, [GOOD, {**GOOD, **change}])


def test_a_prompt_made_by_hand_is_checked_too(tokenizer):
    with pytest.raises(ValueError, match="Prompt 0: the answer ' Paul' is not among the choices"):
        ChoiceTask.from_prompts(tokenizer, [ChoicePrompt(GOOD["prompt"], [" Mary", " John"], " Paul")])


def test_choices_that_a_tokenizer_makes_the_same_are_refused():
    row = {"prompt": "we tried the hotel", "choices": [" Positive", " positive"], "answer": 0}
    with pytest.raises(ValueError, match="Prompt 0: two of the choices are the same token"):
        ChoiceTask.from_prompts(choice_tokenizers.word_pieces(), [row])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "has no prompts; give at least one"),
        (["text"], "Prompt 0: 'text' is not a prompt with choices; give a dict"),
        ([{"prompt": "a"}], "Prompt 0: 'choices' and 'answer' missing"),
        ([{**IDS, "prompt": [5, 10**6]}], "Prompt 0 contains the token id 1000000, but the model's vocabulary is 0 to"),
        ([IDS, {**IDS, "choices": [4, 10**6]}], "Prompt 1 contains the token id 1000000"),
        ([{**IDS, "choices": [4, -2]}], "Prompt 0 contains the token id -2; ids start at 0"),
        ([{**IDS, "choices": [4, -1, 5]}], r"Prompt 0: the choices are \[4, -1, 5\]; give two or more"),
    ],
)
def test_prompts_that_make_no_task_are_refused(tokenizer, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChoiceTask.from_prompts(tokenizer, rows)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{", r"mine\.jsonl, line 1: not JSON"),
        (b"\n\n[1]", r"mine\.jsonl, line 3: list found"),
        (b'\n{"prompt": "a", "choices": [" a"], "answer": 0}', r"mine\.jsonl, line 2: the choices are \[' a'\]"),
        (
            b'{"prompt": "a", "choices": ["a", "Mary and"], "answer": 0}',
            r"line 1: the choice 'Mary and' is not one known token",
        ),
        (b'{"prompt": "a \\ud800 b", "choices": [" a", " b"], "answer": 0}', SURROGATE.format("prompt")),
        (b'{"prompt": "a", "choices": [" a", " \\ud800"], "answer": 0}', SURROGATE.format("choices")),
        (b'{"prompt": "a", "choices": [1, 2], "answer": 0, "item": "\\ud800"}', SURROGATE.format("item")),
        (b'{"prompt": [1, %d], "choices": [1, 2], "answer": 0}' % 10**24, TOO_LARGE.format("prompt")),
        (b'{"prompt": [1], "choices": [1, -%d], "answer": 0}' % 10**24, TOO_LARGE.format("choices")),
        (b"", "no prompts"),
        (b"\xff\xfe", r"mine\.jsonl is not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_prompts_is_refused(tokenizer, tmp_path, text, sentence):
    (tmp_path / "mine.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=sentence):
        ChoiceTask.from_jsonl(tokenizer, tmp_path / "mine.jsonl")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000], ids=["brackets", "digits"])
def test_a_line_that_python_cannot_read_is_named(tokenizer, tmp_path, text):
    (tmp_path / "mine.jsonl").write_text(f"\n{text}")
    with pytest.raises(
        ValueError, match=r"^mine\.jsonl, line 2: Python cannot read this JSON .*; give smaller values\."
    ):
        ChoiceTask.from_jsonl(tokenizer, tmp_path / "mine.jsonl")


def test_a_missing_file_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        ChoiceTask.from_jsonl(tokenizer, tmp_path / "gone.jsonl")


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="'tiny-llama' has no tokenizer"):
        ChoiceTask.from_prompts(held("llama"), [GOOD])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answers": torch.tensor([1.0, 0.0])}, "answers is torch.float32"),
        ({"choices": torch.ones(2, 3)}, "choices is torch.float32"),
        ({"answers": torch.tensor([1])}, r"answers has the shape \[1\], but \[prompt\] is expected, with the 2"),
        ({"choices": torch.tensor([1, 2])}, r"choices has the shape \[2\], but \[prompt, choice\] is expected"),
        ({"lengths": torch.tensor([], dtype=torch.int64)}, "has no prompts"),
        ({"lengths": torch.tensor([4, 5])}, "Prompt 1: its length is 5; the tokens given allow 1 to 4"),
        ({"lengths": torch.tensor([4, 0])}, "Prompt 1: its length is 0"),
        ({"answers": torch.tensor([2, 2])}, "Prompt 1: the answer is 2, but its choices have the places 0 to 1"),
        ({"choices": torch.tensor([[1, 2, 3], [4, -1, 5]])}, r"Prompt 1: the choices are \[4, -1, 5\]"),
        ({"choices": torch.tensor([[1, 2, 3], [4, -1, -1]])}, r"Prompt 1: the choices are \[4, -1, -1\]"),
        ({"choices": torch.tensor([[1, 2, 1], [4, 5, -1]])}, "Prompt 0: two of the choices are the same token"),
        ({"choices": torch.tensor([[1, 2, 3], [4, -5, -1]])}, "Prompt 1 contains the token id -5"),
        ({"tokens": torch.full((2, 4), -1)}, "Prompt 0 contains the token id -1"),
        ({"templates": ("a",)}, "templates has 1 entries for 2 prompts"),
        ({"items": ("a",)}, "items has 1 entries for 2 prompts"),
    ],
)
def test_arrays_that_make_no_task_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChoiceTask(**arrays(**changes))


def test_padding_may_hold_anything():
    task = ChoiceTask(**arrays(tokens=torch.tensor([[1, 2, 3, 4], [5, 6, 7, -9]])))
    task.check_vocabulary(8)
    with pytest.raises(ValueError, match="Prompt 1 contains the token id 7"):
        task.check_vocabulary(7)


def test_a_subset_keeps_what_belongs_to_its_prompts():
    task = ChoiceTask(**arrays(templates=("a", "b"), texts=("x", "y"), choice_texts=(("p", "q", "r"), ("s", "t"))))
    part = task.subset([1])
    assert part.tokens.tolist() == [[5, 6, 7]] and part.choices.tolist() == [[4, 5]] and part.answers.tolist() == [0]
    assert (part.templates, part.texts, part.choice_texts) == (("b",), ("y",), (("s", "t"),))
    assert part.details["subset"] == [1] and task.subset([1, 0]).subset([1]).details["subset"] == [0]
    with pytest.raises(ValueError, match="has prompts 0 to 1; .2. were asked for"):
        task.subset([2])
    with pytest.raises(ValueError, match="has no prompts"):
        task.subset([])


def test_prompts_of_the_same_tokens_are_one_item_unless_told():
    tokens = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 4], [5, 6, 7, 9], [56, 7, 0, 0]])
    choices, answers = torch.tensor([[1, 2]]).expand(4, 2), torch.tensor([0, 1, 1, 0])
    first, longer, again, other = ChoiceTask("t", tokens, torch.tensor([3, 4, 3, 2]), choices, answers).items
    assert first == again and len({first, longer, other}) == 3
    told = ChoiceTask("t", tokens, torch.tensor([3, 4, 3, 2]), choices, answers, items=("", "a", "", "a"))
    assert told.items == (first, "a", again, "a")


def test_items_stay_with_their_prompts(tokenizer, tmp_path):
    task = ChoiceTask.from_prompts(
        tokenizer, [{**GOOD, "item": "drink"}, GOOD, {**IDS, "item": "b\u2028"}], name="mine"
    )
    assert task.items[0] == "drink" and task.items[2] == "b\u2028" and str(task.tokens[1, 3].item()) in task.items[1]
    assert task.subset([2, 0]).items == ("b\u2028", "drink")
    task.to_jsonl(tmp_path / "mine.jsonl")
    assert ["item" in json.loads(line) for line in _text(tmp_path).split("\n")[:3]] == [True, False, True]
    back = ChoiceTask.from_jsonl(tokenizer, tmp_path / "mine.jsonl")
    assert back.items == task.items and back.hash == task.hash


def test_the_hash_is_of_what_a_model_sees():
    task = ragged_choices()
    same = ragged_choices()
    assert task.hash == same.hash and len(task.hash) == 64
    for changes in (
        {"name": "other"},
        {"answers": task.answers.flip(0) * 0},
        {"choices": task.choices.masked_fill(task.choices == 60, 61)},
        {"tokens": task.tokens + 1},
        {"templates": ("a",) * 7},
        {"items": ("a",) * 7},
    ):
        kept = {key: getattr(task, key) for key in ("name", "tokens", "lengths", "choices", "answers")}
        assert ChoiceTask(**{**kept, **changes}).hash != task.hash
    assert task.subset(range(7)).hash == task.hash != task.subset([1, 0, 2, 3, 4, 5, 6]).hash
