"""Pictures of one's own, from lines of a file to samples that run, and what is wrong with a line by its number."""

import json

import pytest
from PIL import Image

import headlens
from headlens.analyses.vision.measures.chair import chair
from headlens.analyses.vision.measures.own_data import image_descriptions, image_questions, questions_about
from headlens.analyses.vision.measures.pope import pope
from headlens.analyses.vision.scenes.scene_pictures import draw_picture
from headlens.analyses.vision.scenes.scene_samples import scene_descriptions, scene_questions
from headlens.analyses.vision.scenes.scenes import draw_scenes
from headlens.hooks.model import wrap
from tiny_models import tiny

SCENES = draw_scenes(4, 5)
ASK = "is there a {object} ?"


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shots").mkdir()
    for at, scene in enumerate(SCENES):
        Image.fromarray(draw_picture(scene)).save(tmp_path / "shots" / f"{at}.png")
    return tmp_path


def written(folder, lines, name="data.jsonl"):
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def same(one, other):
    keys = [*other]
    return all(one[key].equal(other[key]) for key in keys)


def test_questions_of_a_file_are_those_of_the_scenes(model, folder):
    asked = scene_questions(model, 4, seed=5)
    number = {scene.name: at for at, scene in enumerate(SCENES)}
    lines = [
        {"image": f"shots/{number[cluster]}.png", "question": f"is there a {facts['noun']} ?", "answer": answer}
        for cluster, facts, answer in zip(asked.clusters, asked.facts, asked.answers, strict=True)
    ]
    own = image_questions(model, written(folder, ["", *lines, ""]))
    assert own.answers == asked.answers and len({*own.clusters}) == 4
    assert all(same(one, other) for one, other in zip(own.inputs, asked.inputs, strict=True))
    assert pope(model, own).margins == pytest.approx(pope(model, asked).margins, abs=1e-5)
    # pixels of one picture are kept once
    assert own.inputs[0]["pixel_values"] is own.inputs[1]["pixel_values"]


def test_clusters_and_several_pictures(model, folder):
    two = {"image": ["shots/0.png", "shots/1.png"], "question": "is there a star ?", "answer": "no"}
    own = image_questions(model, written(folder, [two, {**two, "cluster": "mine"}, {**two, "image": "shots/0.png"}]))
    assert own.inputs[0]["pixel_values"].shape[0] == 2 and own.facts[0]["images"] == ["shots/0.png", "shots/1.png"]
    assert own.clusters[1] == "mine" and len({*own.clusters}) == 3


def test_lines_as_in_popes_own_files_and_without_answers(model, folder):
    lines = [
        {"question_id": 7, "image": "shots/1.png", "text": "is there a cup ?", "label": "yes"},
        {"image": "shots/1.png", "prompt": "describe"},
    ]
    own = image_questions(model, written(folder, lines))
    assert own.answers == ("yes", "") and own.facts[0]["question_id"] == 7
    assert [facts["question"] for facts in own.facts] == ["is there a cup ?", "describe"]
    with pytest.raises(ValueError, match="answer of sample 1 is ''"):
        pope(model, own)


def test_descriptions_of_a_file_give_the_chair_of_the_scenes(model, folder):
    lines = [
        {"image": f"shots/{at}.png", "prompt": "describe", "objects": [*scene.nouns], "missing": [*scene.missing]}
        for at, scene in enumerate(SCENES)
    ]
    classes = written(
        folder, [{scene_noun: [] for scene in SCENES for scene_noun in scene.nouns} | {"cup": []}], "c.json"
    )
    own = chair(model, image_descriptions(model, written(folder, lines), classes=classes))
    names = [*json.loads(classes.read_text())]
    expected = chair(model, scene_descriptions(model, 4, seed=5), classes=names)
    assert [one.mentions for one in own.captions] == [one.mentions for one in expected.captions]
    assert [one.objects for one in own.captions] == [one.objects for one in expected.captions]


def test_names_of_classes_stand_for_them(model, folder):
    classes = written(folder, [{"star": ["stars", "Sun"], "cup": [], "": ["star fish"]}], "c.json")
    lines = written(folder, [{"image": "shots/0.png", "prompt": "describe", "objects": ["sun", "stars"]}])
    own = image_descriptions(model, lines, classes=classes)
    assert own.facts[0]["objects"] == ("star",) and own.details["classes"]["star fish"] is None
    with pytest.raises(ValueError, match=r"data.jsonl, line 1: The object 'pan' is none"):
        image_descriptions(
            model,
            written(folder, [{"image": "shots/0.png", "prompt": "describe", "objects": ["pan"]}]),
            classes=classes,
        )


@pytest.mark.parametrize("negatives", ["random", "popular", "adversarial"])
def test_questions_are_made_from_lists_of_objects(model, folder, negatives):
    objects = [["cup", "star"], ["star", "fish", "cup"], ["star"], ["fish", "book"]]
    lines = written(folder, [{"image": f"shots/{at}.png", "objects": some} for at, some in enumerate(objects)])
    own = questions_about(model, lines, negatives, template=ASK)
    assert own.answers == ("yes", "no") * (len(own) // 2) and len(own) == 2 * (2 + 1 + 1 + 2)
    words = [model.tokenizer.tokenizer.decode(one["input_ids"][0, -6:]) for one in own.inputs]
    for text, facts, answer in zip(words, own.facts, own.answers, strict=True):
        assert text.endswith(f"is there a {facts['noun']} ?")
        assert (facts["noun"] in facts["objects"]) == (answer == "yes") and facts["paired"] in facts["objects"]
    vain = [facts["noun"] for facts, answer in zip(own.facts, own.answers, strict=True) if answer == "no"]
    # star 3 times, cup and fish twice, book once; cup and star together twice; of equal ones the first by name
    known = {
        "popular": ["fish", "book", "book", "cup", "star", "cup"],
        "adversarial": ["fish", "book", "book", "cup", "cup", "star"],
    }
    assert vain == known.get(negatives, vain)
    again = questions_about(model, lines, negatives, template=ASK)
    assert again.facts == own.facts


def test_templates_name_the_object_with_its_article(model, folder):
    lines = written(folder, [{"image": "shots/0.png", "objects": ["cup"]}])
    classes = written(folder, [["cup", "egg"]], "c.json")
    own = questions_about(model, lines, template="is there {a} {object} ?", classes=classes)
    assert [facts["noun"] for facts in own.facts] == ["cup", "egg"]
    seen = []
    questions_about(model, lines, template=lambda noun: seen.append(noun) or "is there a cup ?", classes=classes)
    assert seen == ["cup", "egg"]
    with pytest.raises(ValueError, match=r"has no \{object\}"):
        questions_about(model, lines, template="is there one ?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "one JSON object a line"),
        ({"question": "q", "answer": "no"}, "'image' missing"),
        ({"image": "shots/0.png", "answer": "no"}, "'question' missing"),
        ({"image": "shots/0.png", "question": " ", "answer": "no"}, "'question' is ' '"),
        ({"image": "shots/0.png", "question": "q", "answer": ["yes"]}, "'answer' is"),
        ({"image": "shots/0.png", "question": "q", "prompt": "p"}, "two keys for one thing"),
        ({"image": [], "question": "q", "answer": "no"}, "a list of paths"),
        ({"image": "shots/9.png", "question": "q", "answer": "no"}, "there is no picture"),
        ({"image": "data.jsonl", "question": "q", "answer": "no"}, "cannot be read as a picture"),
        ({"image": "shots/0.png", "question": "<image> <image> q", "answer": "no"}, "2 marks"),
        ({"image": "shots", "question": "q", "answer": "no"}, "line 3"),
    ],
)
def test_a_wrong_line_is_named(model, folder, line, message):
    good = {"image": "shots/0.png", "question": "is there a cup ?", "answer": "no"}
    with pytest.raises(ValueError, match=message) as raised:
        image_questions(model, written(folder, [good, "", line]))
    assert str(raised.value).startswith("data.jsonl, line 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('"cup"', "something else"),
        ('{"cup": "mug"}', "something else"),
        ('{"cup": ["mug"], "glass": ["mug"]}', "'mug' to two classes"),
        ("[]", "c.json: The names are"),
        (None, "no file"),
    ],
)
def test_wrong_classes_are_named(model, folder, text, message):
    path = folder / "c.json"
    if text is not None:
        path.write_text(text)
    lines = written(folder, [{"image": "shots/0.png", "objects": ["cup"]}])
    with pytest.raises(ValueError, match=message):
        questions_about(model, lines, template=ASK, classes=path)


def test_nothing_to_ask_is_refused(model, folder):
    with pytest.raises(ValueError, match="has no lines"):
        image_questions(model, written(folder, [""]))
    with pytest.raises(ValueError, match="nothing to ask"):
        questions_about(model, written(folder, [{"image": "shots/0.png", "objects": ["cup"]}]), template=ASK)
    with pytest.raises(ValueError, match="No line names any object"):
        questions_about(model, written(folder, [{"image": "shots/0.png", "objects": []}]), template=ASK)
    with pytest.raises(ValueError, match="expected one of random"):
        questions_about(model, folder / "data.jsonl", "rare")
    with pytest.raises(ValueError, match="without an image processor"):
        questions_about(
            wrap(tiny("llava")),
            written(
                folder,
                [{"image": "shots/0.png", "objects": ["cup", "hat"]}] * 2
                + [{"image": "shots/1.png", "objects": ["hat"]}],
            ),
        )
