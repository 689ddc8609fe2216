"""Colored objects: what the scenes say, what the corrupted prompt changes, and where the words lie."""

import re
from collections import Counter

import pytest
import torch

import task_tokenizers
import tiny_tokenizers
from headlens.analyses import tasks
from headlens.analyses.templates import read

SCENE = {
    "paper": re.compile(
        r"Q: On the (?:table|desk|floor), (?:there is|you see|I see) (an?) (\w+) (\w+), (an?) (\w+) (\w+), and (an?) "
        r"(\w+) (\w+)\. What color is the (\w+)\?\nA:(?: (\w+)\n)?"
    ),
    "plain": re.compile(
        r"The (\w+) (?:is now|is|was) (\w+), the (\w+) (?:is now|is|was) (\w+), "
        r"and the (\w+) (?:is now|is|was) (\w+)\. The (\w+) (?:is now|is|was)(?: (\w+)\.\n)?"
    ),
}
WORDINGS = pytest.mark.parametrize("wording", [*SCENE])


@pytest.fixture(params=task_tokenizers.FAMILIES)
def tokenizer(request):
    return task_tokenizers.FAMILIES[request.param]()


def scenes_in(text, wording):
    """Each scene of a prompt as (colors, objects, the object asked for, the answer or ""); nothing is left over."""
    found, end = [], 0
    for match in SCENE[wording].finditer(text):
        assert match.start() == end
        end = match.end()
        *scene, asked, answer = match.groups()
        if wording == "paper":
            articles = ["an" if color[0] in "aeiou" else "a" for color in scene[1::3]]
            assert scene[::3] == articles
            colors, objects = scene[1::3], scene[2::3]
        else:
            objects, colors = scene[::2], scene[1::2]
        found.append((colors, objects, asked, answer or ""))
    assert end == len(text)
    return found


def word_at(tokenizer, task, prompt, name):
    [piece] = tokenizer.convert_ids_to_tokens([int(task.clean_tokens[prompt, task.positions[name][prompt]])])
    return piece.strip("Ġ▁").lower()


@WORDINGS
def test_answers_are_the_colors_of_the_objects_asked_for(tokenizer, wording):
    task = tasks.colored_objects(tokenizer, n=54, seed=2, wording=wording)
    for (clean, corrupted), answers in zip(task.texts, task.answer_texts, strict=True):
        *examples, (colors, objects, asked, last) = scenes_in(clean, wording)
        *others, (same_colors, same_objects, instead, _) = scenes_in(corrupted, wording)
        assert last == "" and others == examples and (same_colors, same_objects) == (colors, objects)
        assert asked != instead
        expected = [colors[objects.index(each)] for each in (asked, instead)]
        assert [answer.strip() for answer in answers] == (
            [color.title() for color in expected] if wording == "paper" else expected
        )
        for example_colors, example_objects, example_asked, answer in examples:
            assert answer.lower() == example_colors[example_objects.index(example_asked)]
            assert (answer == answer.title()) is (wording == "paper")


@WORDINGS
@pytest.mark.parametrize("shots", [0, 1, 2, 4])
def test_examples_share_no_word_with_the_question(wording, shots):
    task = tasks.colored_objects(task_tokenizers.one_digit(), n=54, wording=wording, shots=shots)
    for clean, _ in task.texts:
        *examples, (colors, objects, _, _) = scenes_in(clean, wording)
        assert len(examples) == shots and len({*colors}) == len({*objects}) == 3
        for their_colors, their_objects, _, _ in examples:
            assert len({*their_colors}) == len({*their_objects}) == 3
            assert not {*their_colors} & {*colors} and not {*their_objects} & {*objects}
        # there are 17 objects, enough for five scenes
        named = [each for _, their_objects, _, _ in examples for each in their_objects]
        assert len(named) == len({*named})
    assert ("EXAMPLE" in task.positions) is (shots > 0)


@WORDINGS
def test_named_positions_hold_their_words(tokenizer, wording):
    task = tasks.colored_objects(tokenizer, n=27, seed=4, wording=wording)
    for prompt, (clean, _) in enumerate(task.texts):
        *examples, (colors, objects, asked, _) = scenes_in(clean, wording)
        answer, foil = (text.strip().lower() for text in task.answer_texts[prompt])
        words = {f"C{at}": color for at, color in enumerate(colors, 1)}
        words |= {f"O{at}": each for at, each in enumerate(objects, 1)}
        words |= {"Oq": asked, "C+": answer, "C-": foil, "EXAMPLE": examples[-1][3].lower()}
        assert {*words, "END"} == {*task.positions}
        assert {name: word_at(tokenizer, task, prompt, name) for name in words} == words
        at = {name: int(rows[prompt]) for name, rows in task.positions.items()}
        assert at["EXAMPLE"] < at["C1"] and max(at[f"O{slot}"] for slot in (1, 2, 3)) < at["Oq"] < at["END"]
        assert at["END"] == task.lengths[prompt] - 1
        differing = (task.clean_tokens[prompt] != task.corrupted_tokens[prompt]).nonzero().flatten()
        assert differing.tolist() == [at["Oq"]]


def test_the_papers_wording_has_its_geometry():
    """62 tokens without BOS, where each word is one token and the line end too, as for GPT-2."""
    task = tasks.colored_objects(task_tokenizers.two_digits(), n=54, wording="paper")
    fixed = {"EXAMPLE": 30, "C1": 41, "O1": 42, "C2": 45, "O2": 46, "C3": 50, "O3": 51, "Oq": 57, "END": 61}
    assert {*task.lengths.tolist()} == {62} and task.details["shots"] == 1
    for name, position in fixed.items():
        assert {*task.positions[name].tolist()} == {position}, name


@WORDINGS
def test_wordings_and_places_take_turns_and_details_tell_them(wording):
    task = tasks.colored_objects(task_tokenizers.one_digit(), n=54, wording=wording)
    labels = Counter(task.templates)
    assert len(labels) == 3 * len(task.details["templates"]) and len({*labels.values()}) == 1
    assert len({clean for clean, _ in task.texts}) == 54
    asked, instead = task.details["queried"], task.details["queried_instead"]
    for prompt, (clean, corrupted) in enumerate(task.texts):
        slots = [
            objects.index(word) + 1
            for *_, (_, objects, word, _) in (scenes_in(clean, wording), scenes_in(corrupted, wording))
        ]
        assert slots == [asked[prompt], instead[prompt]]
        assert task.templates[prompt].endswith(f"object {asked[prompt]}")
    assert {*zip(asked, instead, strict=True)} == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}


def test_equal_arguments_give_equal_tasks(tokenizer):
    made = [tasks.colored_objects(tokenizer, n=9, seed=seed) for seed in (5, 5, 6)]
    assert made[0].hash == made[1].hash != made[2].hash
    assert made[0].details == made[1].details and made[0].texts != made[2].texts


def test_words_of_several_tokens_are_left_out():
    tokenizer = task_tokenizers.one_digit(("mug", "leash", "Blue", "red"))
    task = tasks.colored_objects(tokenizer, n=54, wording="paper")
    words = {*re.findall(r"\w+", " ".join(clean for clean, _ in task.texts).lower())}
    assert not words & {"mug", "leash", "blue", "red"}
    assert words >= {"green", "orange", "pen", "bowl"}


def test_words_that_do_not_suffice_are_refused():
    found = read("colored_objects")
    with pytest.raises(ValueError, match=r"Only 5 of the 17 colored objects are single tokens .* 6 or more are needed"):
        tasks.colored_objects(task_tokenizers.one_digit(tuple(found["objects"][5:])), n=2)
    titles = tuple(color.title() for color in found["colors"][4:])
    with pytest.raises(ValueError, match=r"Only 4 of the 8 colors as answers are single tokens .* Task\.from_pairs"):
        tasks.colored_objects(task_tokenizers.one_digit(titles), n=2, wording="paper")
    # without examples, half of the words do
    assert len(tasks.colored_objects(task_tokenizers.one_digit(titles), n=2, wording="paper", shots=0)) == 2
    with pytest.raises(ValueError, match=r"Only 0 of the 17 colored objects"):
        tasks.colored_objects(tiny_tokenizers.characters(), n=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"wording": "papr"},
            r"Unknown colored-objects wording 'papr' \(did you mean 'paper'\?\); choose from paper, pl",
        ),
        ({"shots": -1}, r"shots=-1 solved examples were asked for; give 0 or more\."),
        ({"wording": "paper", "templates": "is"}, r"Unknown colored-objects template 'is'.*table-there-is"),
        ({"n": 0}, "n=0 prompts were asked for"),
    ],
    ids=["wording", "shots", "template", "n"],
)
def test_bad_arguments_get_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.colored_objects(task_tokenizers.one_digit(), **{"n": 2, **arguments})


@pytest.mark.real
def test_the_real_model_follows_the_object_asked_for(smollm2):
    task = tasks.colored_objects(smollm2, n=9)
    rows = torch.arange(9)
    differences = []
    for tokens in (task.clean_tokens, task.corrupted_tokens):
        with torch.no_grad():
            logits = smollm2.hf(tokens).logits[rows, task.positions["END"]]
        differences.append(float((logits[rows, task.answers] - logits[rows, task.foils]).mean()))
    assert differences[0] > 0 > differences[1]
