"""Tasks from the user's own pairs: what they hold, that they come back from a file, and what is refused."""

import pytest
import torch

import tiny_tokenizers
from headlens.analyses import tasks
from headlens.analyses.tasks import Task

GOOD = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Paul gave a drink to",
    "answer": " Mary",
    "foil": " John",
    "positions": {"S2": 9},
    "template": "when",
}


@pytest.fixture
def tokenizer():
    return tiny_tokenizers.bpe()


def arrays(**changes):
    """Fields of a small task, as tensors."""
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    plain = {"clean_tokens": tokens, "corrupted_tokens": tokens + 1, "lengths": torch.tensor([4, 3])}
    return {"name": "t", **plain, "answers": torch.tensor([1, 2]), "foils": torch.tensor([3, 4]), **changes}


def test_pairs_of_text_become_tokens(tokenizer):
    task = Task.from_pairs(tokenizer, [GOOD, tuple(GOOD.values())])
    assert len(task) == 2 and task.clean_tokens.shape == (2, 14)
    differing = (task.clean_tokens != task.corrupted_tokens).nonzero()[:, 1].tolist()
    assert (
        differing == [9, 9] and task.positions["S2"].tolist() == [9, 9] and task.positions["END"].tolist() == [13, 13]
    )
    assert tokenizer.decode([int(task.answers[0])]) == " Mary" and task.templates == ("when", "when")


def test_pairs_of_token_ids_and_of_many_lengths_are_padded_on_the_right(tokenizer):
    pairs = [([5, 6, 7], [5, 9, 7], 1, 2), ([5, 6, 7, 8, 9], [5, 6, 7, 8, 3], 3, 4)]
    task = Task.from_pairs(tokenizer, pairs)
    assert task.lengths.tolist() == [3, 5] and task.clean_tokens[0, :3].tolist() == [5, 6, 7]
    assert task.positions["END"].tolist() == [2, 4] and task.templates == ("Prompt 0", "Prompt 1")


@pytest.mark.parametrize("make", [lambda t: [GOOD], lambda t: [([5, 6, 7], [5, 9, 7], 1, 2)]])
def test_a_file_of_pairs_comes_back_the_same(tokenizer, tmp_path, make):
    task = Task.from_pairs(tokenizer, make(tokenizer), name="mine")
    task.to_jsonl(tmp_path / "mine.jsonl")
    back = Task.from_jsonl(tokenizer, tmp_path / "mine.jsonl")
    assert back.hash == task.hash and back.name == "mine"


def test_an_ioi_task_comes_back_from_its_file(tokenizer, tmp_path):
    task = tasks.ioi(tokenizer, n=5)
    task.to_jsonl(tmp_path / "ioi.jsonl")
    assert Task.from_jsonl(tokenizer, tmp_path / "ioi.jsonl").hash == task.hash


def test_marks_that_look_like_line_ends_stay_in_their_prompt(tokenizer, tmp_path):
    pair = {**GOOD, "template": "a\u2028b\x85c"}
    Task.from_pairs(tokenizer, [pair]).to_jsonl(tmp_path / "marks.jsonl")
    assert Task.from_jsonl(tokenizer, tmp_path / "marks.jsonl").templates == ("a\u2028b\x85c",)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": "Mary"}, "did you mean ' Mary', with the space"),
        ({"answer": " Maryland the Third"}, "is not one known token but"),
        ({"foil": " Mary"}, "the answer and the foil are the same token"),
        ({"corrupted": "When Mary went"}, "has 14 tokens and the corrupted one 3; a pair needs equal lengths"),
        ({"positions": {"S2": 14}}, "the position 'S2' is 14, but the prompt's 14 tokens are numbered 0 to 13"),
        ({"positions": {"S2": -1}}, "the position 'S2' is -1"),
        ({"positions": 3}, "'positions' is 3; it must be token positions by name"),
        ({"answr": " Mary"}, "unknown key 'answr' .did you mean 'answer'"),
        ({"clean": 3}, "'clean' is 3; it must be text or a list of token ids"),
        ({"answer_set": " Mary"}, "'answer_set' is ' Mary'; it must be a list of texts or token ids"),
        ({"answer_set": ["Mary"]}, "did you mean ' Mary', with the space"),
        ({"foil_set": [" Paul"]}, "which its foil set lacks"),
        ({"foil": "Mary"}, "the foil 'Mary' is not one known token but .*did you mean ' Mary', with the space"),
        ({"clean": "Mary \ud800"}, r"'clean' contains '\\ud800', half of a surrogate pair"),
        ({"positions": {"\ud800": 3}}, r"'positions' contains '\\ud800', half of a surrogate pair"),
        ({"positions": {"S2": 10**24}}, "'positions' contains the number 10{24}, which 64 bits cannot hold"),
        ({"prepend_bos": "yes"}, "'prepend_bos' is 'yes'; it must be true or false"),
    ],
)
def test_a_pair_that_does_not_fit_is_named(tokenizer, change, sentence):
    with pytest.raises(ValueError, match=f"^Prompt 1.*{sentence}"):
        Task.from_pairs(tokenizer, [GOOD, {**GOOD, **change}])


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "has no prompts; give at least one pair"),
        (["text"], "'text' is not a pair; give a dict, or a tuple"),
        ([{"clean": "a"}], "'corrupted' and 'answer' and 'foil' missing"),
        ([GOOD, {**GOOD, "positions": {}}], "every pair of a task names the same"),
        ([GOOD, {**GOOD, "prepend_bos": True}], "disagree about prepend_bos"),
        ([{**GOOD, "clean": ""}], "0 tokens"),
        ([{**GOOD, "answer_set": [" Mary", 10**6]}], "token id 1000000, but"),
        ([([5, 10**6], [5, 6], 1, 2)], "token id 1000000, but the model's vocabulary is 0 to"),
    ],
)
def test_pairs_that_make_no_task_are_refused(tokenizer, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        Task.from_pairs(tokenizer, pairs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{", r"mine\.jsonl, line 1: not JSON"),
        (b"\n\n[1]", r"mine\.jsonl, line 3: list found"),
        (
            b'{"clean": "\\ud800", "corrupted": "a", "answer": "b", "foil": "c"}',
            r"mine\.jsonl, line 1: 'clean' contains",
        ),
        (
            b'{"clean": [%d], "corrupted": [1], "answer": 1, "foil": 2}' % 10**24,
            r"mine\.jsonl, line 1: 'clean' contains",
        ),
        (b"", "no prompts"),
        (b"\xff\xfe", r"mine\.jsonl is not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_pairs_is_refused(tokenizer, tmp_path, text, sentence):
    (tmp_path / "mine.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=sentence):
        Task.from_jsonl(tokenizer, tmp_path / "mine.jsonl")


def test_a_missing_file_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        Task.from_jsonl(tokenizer, tmp_path / "gone.jsonl")


def test_a_model_without_a_tokenizer_is_refused():
    from tiny_models import held

    with pytest.raises(ValueError, match="'tiny-llama' has no tokenizer, and a task needs one"):
        Task.from_pairs(held("llama"), [GOOD])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answers": torch.tensor([1.0, 2.0])}, "answers is torch.float32"),
        ({"answers": torch.tensor([1])}, r"answers has the shape \[1\]"),
        ({"corrupted_tokens": torch.zeros(2, 5, dtype=torch.int64)}, "padded to one common length"),
        ({"lengths": torch.tensor([4, 5])}, "Prompt 1: its length is 5; the tokens given allow 1 to 4"),
        ({"lengths": torch.tensor([], dtype=torch.int64)}, "has no prompts"),
        ({"positions": {"X": torch.tensor([0, 3])}}, "Prompt 1: the position 'X' is 3"),
        ({"foils": torch.tensor([1, 4])}, "Prompt 0: the answer and the foil are the same token"),
        ({"clean_tokens": torch.full((2, 4), -1)}, "Prompt 0 contains the token id -1"),
        ({"templates": ("a",)}, "templates has 1 entries for 2 prompts"),
        ({"answer_sets": ((1,),)}, "answer_sets has 1 entries for 2 prompts"),
        ({"answer_sets": ((1,), (9,))}, "Prompt 1: the answer is the token 2, which its answer set lacks"),
        ({"foil_sets": ((3, 1), (4,))}, r"Prompt 0: the tokens \[1\] are in the answer set and in the foil set"),
        ({"foil_sets": ((3,), (4, -2))}, "Prompt 1 contains the token id -2"),
    ],
)
def test_arrays_that_make_no_task_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Task(**arrays(**changes))


def test_a_subset_keeps_what_belongs_to_its_prompts():
    task = Task(**arrays(templates=("a", "b")))
    part = task.subset([1])
    assert part.clean_tokens.tolist() == [[5, 6, 7]] and part.templates == ("b",) and part.answers.tolist() == [2]
    assert part.details["subset"] == [1] and task.subset([1, 0]).subset([1]).details["subset"] == [0]
    with pytest.raises(ValueError, match="has prompts 0 to 1; .2. were asked for"):
        task.subset([2])


def test_sets_are_answer_and_foil_unless_given():
    task = Task(**arrays())
    assert task.answer_sets == ((1,), (2,)) and task.foil_sets == ((3,), (4,)) and not task.has_sets
    said = Task(**arrays(answer_sets=((1,), (2,)), foil_sets=((3,), (4,)), metric="prob_diff"))
    assert said.hash == task.hash


def test_sets_are_part_of_the_hash_and_their_order_is_not():
    plain, wide, turned, other = (
        Task(**arrays(answer_sets=sets)).hash for sets in ((), ((1, 7), (2,)), ((7, 1, 1), (2,)), ((1, 8), (2,)))
    )
    assert len({plain, wide, other}) == 3 and wide == turned


def test_sets_of_text_and_of_ids_come_back_from_a_file(tokenizer, tmp_path):
    sets = {"answer_set": [" Mary", " Paul"], "foil_set": [tokenizer.encode(" John")[0], " Helen"]}
    task = Task.from_pairs(tokenizer, [{**GOOD, **sets}, GOOD], name="mine", metric="prob_diff")
    assert [tokenizer.decode([token]) for token in task.answer_sets[0]] == sorted(
        [" Mary", " Paul"], key=lambda text: tokenizer.encode(text)
    )
    assert len(task.foil_sets[0]) == 2 and task.answer_sets[1] == (int(task.answers[1]),)
    task.to_jsonl(tmp_path / "mine.jsonl")
    back = Task.from_jsonl(tokenizer, tmp_path / "mine.jsonl")
    assert back.hash == task.hash and back.answer_sets == task.answer_sets and back.foil_sets == task.foil_sets
