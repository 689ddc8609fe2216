"""Greater-than: which tokens are right and wrong, compared with year by year tokenising, and where the years lie."""

import re

import pytest

import task_tokenizers
from headlens.analyses import tasks
from headlens.analyses.tasks import Task


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def start_of(text):
    """The century and the last two digits of the only whole year in a prompt."""
    (year,) = re.findall(r"\d{4}", text)
    return year[:2], int(year[2:])


def digits(tokenizer, tokens):
    return "".join(piece.strip("Ġ▁#") for piece in tokenizer.convert_ids_to_tokens([int(token) for token in tokens]))


def test_sets_are_the_tokens_whose_years_are_all_on_one_side(tokenizer):
    task = tasks.greater_than(tokenizer, n=40, seed=1)
    for prompt, (clean, _) in enumerate(task.texts):
        _, start = start_of(clean)
        sides = {}
        for year in range(2, 99):
            whole = tokenizer(f"{clean}{year:02}", add_special_tokens=False)["input_ids"]
            first = whole[len(tokenizer(clean, add_special_tokens=False)["input_ids"])]
            sides.setdefault(first, set()).add(year > start)
        assert set(task.answer_sets[prompt]) == {token for token, side in sides.items() if side == {True}} != set()
        assert set(task.foil_sets[prompt]) == {token for token, side in sides.items() if side == {False}} != set()


def test_two_digits_have_every_year_in_a_set():
    task = tasks.greater_than(task_tokenizers.two_digits(), n=30)
    for (clean, _), right, wrong in zip(task.texts, task.answer_sets, task.foil_sets, strict=True):
        start = start_of(clean)[1]
        assert (len(right), len(wrong)) == (98 - start, start - 1)


def test_single_digits_leave_the_mixed_ten_out():
    """After 1732, a 3 may become 31 or 33; after 1739 no later year, and after 1729 nothing but a later one."""
    tokenizer = task_tokenizers.one_digit()
    task = tasks.greater_than(tokenizer, n=600, templates="lasted")
    found = {start_of(clean)[1]: prompt for prompt, (clean, _) in enumerate(task.texts)}
    digit = {number: tokenizer.convert_tokens_to_ids(str(number)) for number in range(10)}
    for start, above, upto in [(32, 4, 2), (39, 4, 3), (29, 3, 2)]:
        assert set(task.answer_sets[found[start]]) == {digit[number] for number in range(above, 10)}
        assert set(task.foil_sets[found[start]]) == {digit[number] for number in range(upto + 1)}
    assert set(found) <= set(range(9, 90))


def test_answer_and_foil_are_the_nearest_in_their_sets():
    two = tasks.greater_than(task_tokenizers.two_digits(), n=30)
    for (clean, _), (answer, foil) in zip(two.texts, two.answer_texts, strict=True):
        start = start_of(clean)[1]
        assert (answer, foil) == (f"{start + 1:02}", f"{start:02}")
    one = tasks.greater_than(task_tokenizers.one_digit(), n=30)
    for (clean, _), (answer, foil) in zip(one.texts, one.answer_texts, strict=True):
        start = start_of(clean)[1]
        assert int(answer) == start // 10 + 1 and int(foil) == (start // 10 if start % 10 == 9 else start // 10 - 1)


def test_positions_hold_the_last_two_digits_of_the_start(tokenizer):
    task = tasks.greater_than(tokenizer, n=40)
    assert set(task.positions) == {"Y1", "YY", "END"}
    for prompt, (clean, corrupted) in enumerate(task.texts):
        century, start = start_of(clean)
        first, last = int(task.positions["Y1"][prompt]), int(task.positions["YY"][prompt])
        assert digits(tokenizer, task.clean_tokens[prompt, first : last + 1]) == f"{start:02}"
        assert digits(tokenizer, task.corrupted_tokens[prompt, first : last + 1]) == "01"
        assert corrupted == clean.replace(f"{century}{start:02}", f"{century}01") and clean.endswith(century)
        differing = (task.clean_tokens[prompt] != task.corrupted_tokens[prompt]).nonzero().flatten().tolist()
        assert differing and set(differing) <= set(range(first, last + 1))


@pytest.mark.parametrize("family", [task_tokenizers.whole_years, task_tokenizers.three_digits])
def test_years_without_a_token_for_their_end_are_refused(family):
    with pytest.raises(ValueError, match=r"no tokens for the last two digits of a year.*Task\.from_pairs"):
        tasks.greater_than(family(), n=2)


def test_years_that_are_split_in_another_way_are_left_out():
    """Neither is 1755 or 1785 a start, nor can 17 be completed to either."""
    tokenizer = task_tokenizers.uneven()
    task = tasks.greater_than(tokenizer, n=900, templates="dates")
    starts = {start for century, start in (start_of(clean) for clean, _ in task.texts) if century == "17"}
    assert len(starts) > 30 and not starts & {*range(50, 60), *range(80, 90)}
    for (clean, _), right, wrong in zip(task.texts, task.answer_sets, task.foil_sets, strict=True):
        if clean.endswith(" 17"):
            ends = {int(digits(tokenizer, [token])) for token in (*right, *wrong)}
            assert ends == {*range(2, 99)} - {*range(50, 60), *range(80, 90)}


def test_a_subset_keeps_its_sets(tokenizer):
    task = tasks.greater_than(tokenizer, n=9)
    part = task.subset([7, 2])
    assert part.answer_sets == (task.answer_sets[7], task.answer_sets[2]) and part.metric == "prob_diff"
    assert part.foil_sets == (task.foil_sets[7], task.foil_sets[2])


def test_sets_survive_a_file_without_their_metric(tokenizer, tmp_path):
    tasks.greater_than(tokenizer, n=2).to_jsonl(tmp_path / "years.jsonl")
    assert Task.from_jsonl(tokenizer, tmp_path / "years.jsonl").metric == "logit_diff"
