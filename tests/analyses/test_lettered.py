"""Lettered options: one of them is right, the corrupted prompt moves it, and letters can be mixed up."""

import re
from collections import Counter

import pytest
import torch

import task_tokenizers
import tiny_tokenizers
from headlens.analyses import tasks
from headlens.analyses.templates import read

LINE = re.compile(r"(\w)\. (\w+)")
MUTATIONS = pytest.mark.parametrize("mutation", ["none", "shuffled", "relettered"])


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def questions_in(text):
    """Each question of a prompt as (what is told, letters, options, the answer or "")."""
    found = []
    for block in text.split("\n\n"):
        told, *lines, answer = block.split("\n")
        letters, options = zip(*(LINE.fullmatch(line).groups() for line in lines), strict=True)
        assert answer.startswith("Answer:")
        found.append((told, letters, options, answer.removeprefix("Answer:").strip()))
    return found


def right_item(told, options):
    """Which option, from 0, is told in the sentence before the question."""
    sentence, _ = told.split(". ")
    [item] = [at for at, option in enumerate(options) if option in re.findall(r"\w+", sentence)]
    return item


def word_at(tokenizer, tokens, task, prompt, name):
    [piece] = tokenizer.convert_ids_to_tokens([int(tokens[prompt, task.positions[name][prompt]])])
    return piece.strip("Ġ▁").lower()


@MUTATIONS
def test_the_right_letter_stands_before_what_was_told(tokenizer, mutation):
    task = tasks.lettered(tokenizer, n=64, seed=3, mutation=mutation)
    for prompt, ((clean, corrupted), answers) in enumerate(zip(task.texts, task.answer_texts, strict=True)):
        *examples, (told, letters, options, last) = questions_in(clean)
        *others, (same, same_letters, moved, _) = questions_in(corrupted)
        assert last == "" and others == examples and (same, same_letters) == (told, letters)
        right, instead = right_item(told, options), right_item(told, moved)
        assert right != instead and answers == (f" {letters[right]}", f" {letters[instead]}")
        swapped = [*options]
        swapped[right], swapped[instead] = swapped[instead], swapped[right]
        assert [*moved] == swapped and len({*options}) == len({*letters}) == 4
        for example_told, example_letters, example_options, answer in examples:
            assert answer == example_letters[right_item(example_told, example_options)]
            assert not {*example_options} & {*options}
        details = task.details
        assert (details["right_items"][prompt], details["foil_items"][prompt]) == (right + 1, instead + 1)
        assert details["right_letters"][prompt] == letters[right]
        assert details["foil_letters"][prompt] == letters[instead]


@MUTATIONS
@pytest.mark.parametrize("prepend_bos", [None, False])
def test_named_positions_hold_their_words(tokenizer, mutation, prepend_bos):
    task = tasks.lettered(tokenizer, n=32, seed=1, mutation=mutation, prepend_bos=prepend_bos)
    for prompt, (clean, corrupted) in enumerate(task.texts):
        for text, tokens in ((clean, task.clean_tokens), (corrupted, task.corrupted_tokens)):
            told, letters, options, _ = questions_in(text)[-1]
            right = right_item(told, options)
            words = {f"L{at}": letter.lower() for at, letter in enumerate(letters, 1)}
            words |= {f"O{at}": option for at, option in enumerate(options, 1)}
            # what is right in the clean prompt is not in the other
            sign = "+" if text == clean else "-"
            words |= {f"L{sign}": letters[right].lower(), f"O{sign}": options[right], "FACT": options[right]}
            assert {name: word_at(tokenizer, tokens, task, prompt, name) for name in words} == words
        assert {*words, "L+", "O+", "END"} == {*task.positions}
        assert task.positions["END"][prompt] == task.lengths[prompt] - 1
        # the two contents that changed places, and nothing else
        differing = (task.clean_tokens[prompt] != task.corrupted_tokens[prompt]).nonzero().flatten().tolist()
        assert differing == sorted(int(task.positions[name][prompt]) for name in ("O+", "O-"))


@pytest.mark.parametrize("mutation", ["shuffled", "relettered"])
def test_mutations_change_letters_and_nothing_else(mutation):
    plain, other = (
        tasks.lettered(task_tokenizers.two_digits(), n=64, seed=7, mutation=each) for each in ("none", mutation)
    )
    assert plain.details["right_items"] == other.details["right_items"]
    assert plain.details["foil_items"] == other.details["foil_items"]
    assert all(torch.equal(plain.positions[name], other.positions[name]) for name in plain.positions)
    for (clean, _), (changed, _) in zip(plain.texts, other.texts, strict=True):
        ours, theirs = questions_in(clean), questions_in(changed)
        assert [(told, options) for told, _, options, _ in ours] == [(told, options) for told, _, options, _ in theirs]
        assert all(letters == ("A", "B", "C", "D") for _, letters, _, _ in ours)


def test_shuffled_letters_tell_the_place_from_the_letter():
    task = tasks.lettered(task_tokenizers.one_digit(), n=200, mutation="shuffled")
    orders = set()
    for clean, _ in task.texts:
        *examples, (told, letters, options, _) = questions_in(clean)
        assert letters[right_item(told, options)] != "ABCD"[right_item(told, options)]
        orders |= {letters, *(letters for _, letters, _, _ in examples)}
    # every order comes, and that of the alphabet only in examples
    assert len(orders) == 24 and {*task.details["right_letters"]} == {*"ABCD"}


def test_relettered_prompts_have_one_set_of_other_letters_each():
    task = tasks.lettered(task_tokenizers.one_digit(), n=64, mutation="relettered")
    sets = [{letters for _, letters, _, _ in questions_in(clean)} for clean, _ in task.texts]
    assert all(len(each) == 1 for each in sets)
    used = {letter for each in sets for letters in each for letter in letters}
    assert not used & {*"ABCD"} and len(used) == 22


@pytest.mark.parametrize("letters", ["AB", "XQMR", "ABCDE"])
def test_letters_are_those_given(tokenizer, letters):
    task = tasks.lettered(tokenizer, n=20, letters=letters)
    assert all(given == (*letters,) for clean, _ in task.texts for _, given, _, _ in questions_in(clean))
    assert f"L{len(letters)}" in task.positions and f"L{len(letters) + 1}" not in task.positions


@pytest.mark.parametrize("family", ["one_digit", "two_digits"])
def test_numbers_follow_a_space_of_their_own(family):
    """Where " 1" is two tokens, the prompt has the first of them, and the answer is the second."""
    tokenizer = task_tokenizers.FAMILIES[family]()
    task = tasks.lettered(tokenizer, n=16, letters="1234")
    numbers = {"1", "2", "3", "4"}
    for prompt, (clean, _) in enumerate(task.texts):
        assert clean.endswith("\nAnswer: ") and "\nAnswer: " in clean[:-9]
        ends = tokenizer.convert_ids_to_tokens([int(task.clean_tokens[prompt, task.positions["END"][prompt]])])
        assert ends[0] in ("Ġ", "▁") and {*task.answer_texts[prompt]} < numbers


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_examples_are_as_many_as_asked_for(shots):
    task = tasks.lettered(task_tokenizers.one_digit(), n=32, shots=shots)
    for clean, _ in task.texts:
        *examples, (told, _, _, _) = questions_in(clean)
        assert len(examples) == shots
        subjects = [{*re.findall(r"\w+", told)} & _subjects() for told, *_ in (*examples, (told,))]
        assert all(len(each) == 1 for each in subjects) and len({*map(min, subjects)}) == shots + 1


def _subjects():
    return {word for words in read("lettered")["subjects"].values() for word in words}


def test_templates_and_items_take_turns():
    task = tasks.lettered(task_tokenizers.one_digit(), n=96)
    labels = Counter(task.templates)
    assert len(labels) == 32 and {*labels.values()} == {3}
    assert Counter(task.details["right_letters"]) == dict.fromkeys("ABCD", 24)
    assert len({clean for clean, _ in task.texts}) == 96


def test_equal_arguments_give_equal_tasks(tokenizer):
    made = [tasks.lettered(tokenizer, n=9, seed=seed, mutation="shuffled") for seed in (5, 5, 6)]
    assert made[0].hash == made[1].hash != made[2].hash
    assert made[0].details == made[1].details


def test_contents_of_several_tokens_are_left_out():
    tokenizer = task_tokenizers.one_digit(("red", "kitchen"))
    task = tasks.lettered(tokenizer, n=64)
    assert not {"red", "kitchen"} & {*re.findall(r"\w+", " ".join(clean for clean, _ in task.texts))}


def test_contents_that_do_not_suffice_are_refused():
    unknown = tuple(read("lettered")["contents"]["colors"][7:])
    message = r"Only 7 of the 12 lettered colors are single tokens .* 8 or more are needed; .* Task\.from_pairs"
    with pytest.raises(ValueError, match=message):
        tasks.lettered(task_tokenizers.one_digit(unknown), n=2)
    with pytest.raises(ValueError, match=r"Only 0 of the 12 lettered colors"):
        tasks.lettered(tiny_tokenizers.characters(), n=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"letters": "A"}, "letters='A' was given; expected 2 or more different letters"),
        ({"letters": "ABA"}, "letters='ABA' was given"),
        ({"letters": "A B"}, "letters='A B' was given"),
        ({"letters": "αβγδ"}, r"The letters 'αβγδ' are not single tokens behind 'Answer:'"),
        ({"mutation": "shufled"}, r"Unknown lettered mutation 'shufled' \(did you mean 'shuffled'\?\)"),
        ({"shots": -2}, "shots=-2 solved examples were asked for; give 0 or more"),
        ({"templates": "color"}, "Unknown lettered template 'color'"),
    ],
    ids=["one", "twice", "space", "unknown", "mutation", "shots", "template"],
)
def test_bad_arguments_get_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.lettered(task_tokenizers.one_digit(), **{"n": 2, **arguments})


@pytest.mark.real
def test_the_real_model_answers_with_a_letter(smollm2):
    """Which letter, it does not know better than by chance."""
    task = tasks.lettered(smollm2, n=8)
    rows = torch.arange(8)
    with torch.no_grad():
        best = smollm2.hf(task.clean_tokens).logits[rows, task.positions["END"]].argmax(-1)
    assert {smollm2.tokenizer.decode([token]) for token in best.tolist()} <= {" A", " B", " C", " D"}
