"""The commands about heads that read pictures, as a person types them, on tiny-vlm."""

import importlib
import json
import tomllib

import numpy as np
import pandas
import pytest
from PIL import Image

import headlens
from headlens.analyses.headmap import HeadMap
from headlens.analyses.vision.divergence.divergence import divergence
from headlens.analyses.vision.gaze import Gaze, gaze
from headlens.analyses.vision.image_prompts import image_prompt, open_picture
from headlens.analyses.vision.redistribution.image_centric import image_centric_heads
from headlens.analyses.vision.redistribution.redistribution import redistribute
from headlens.analyses.vision.samples import Samples
from headlens.analyses.vision.scenes.scene_pictures import draw_picture
from headlens.analyses.vision.scenes.scene_samples import scene_questions
from headlens.analyses.vision.scenes.scenes import draw_scenes
from tiny_folders import contents
from tiny_models import tiny

SINKS = ("--dims", "91,7", "--above", "2.5", "--layers", "1-3", "--floor", "0.1")


@pytest.fixture(scope="module")
def model():
    return headlens.load("tiny-vlm", device="cpu")


@pytest.fixture
def scene(tmp_path):
    """Save a picture of a scene."""
    Image.fromarray(draw_picture(draw_scenes(1, 0)[0])).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def told(run, scene, tmp_path):
    """Run a command about the scene on tiny-vlm."""

    def told(command, *words, prompt="describe"):
        given = ["tiny-vlm", "--device", "cpu", "--image", scene, "--prompt", prompt, "--out", tmp_path / "run"]
        result = run(command, *given, *words)
        assert result.exit_code == 0, result.output
        return tmp_path / "run", result.stdout

    return told


def files_of(place):
    return {path.name for path in place.iterdir() if path.name != ".lock"}


def test_look_writes_the_gaze_of_what_the_model_says(told, model, scene):
    place, said = told("look")
    inputs = image_prompt(model, [open_picture(scene)], "describe")
    expected = gaze(model, inputs)
    found = Gaze.load(place / "gaze.safetensors")
    assert np.array_equal(found.attention, expected.attention) and found.tokens == expected.tokens
    assert f"Answer: {expected.answer}\n" in said and "there is a bat with a ball" in said
    top = expected.top(1).iloc[0]
    assert f"  {top['label']:<7}{top['share']:>6.1%}   row {top['row']}, column {top['column']}" in said
    table = pandas.read_csv(place / "gaze.csv")
    np.testing.assert_allclose(table["share"], expected.to_frame()["share"], rtol=1e-5)
    assert files_of(place) == {
        *("gaze.safetensors", "gaze.csv", "report.html", "config.toml", "scene.png", "run.json", "chunks")
    }
    page = (place / "report.html").read_text()
    assert "Prompt: describe<br>Answer: there is a bat" in page and '"kept":[[0,0]' in page


def test_the_config_says_everything_and_repeats_the_run(run, told, scene, tmp_path):
    place, said = told("look", "--answer", "there is a bat", "--heads", "L3H1,L2H5")
    assert tomllib.loads((place / "config.toml").read_text()) == {
        "model": "tiny-vlm",
        "device": "cpu",
        "dtype": "float32",
        "image": {"files": ["scene.png"], "prompt": "describe"},
        "look": {"answer": "there is a bat", "max_new_tokens": 40, "heads": ["L3H1", "L2H5"]},
    }
    assert "Given answer: there is a bat\n" in said and said.count("\n  L") == 2
    assert '"kept":[[2,5],[3,1]]' in (place / "report.html").read_text()
    scene.unlink()
    assert run("look", place / "config.toml", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(place)
    beside = run("look", place / "config.toml", "--prompt", "x", "--device", "cpu", "--out", tmp_path / "third")
    assert beside.exit_code == 1 and "--prompt, --device was given beside" in beside.stderr


def test_words_that_the_tokenizer_lacks_are_told(told):
    _, said = told("look", "--max-new-tokens", 2, prompt="Is there a CUP ?")
    assert "Note: the tokenizer of tiny-vlm does not know 2 words of the prompt." in said


def test_a_look_is_no_head_map(run, told):
    place, _ = told("look", "--max-new-tokens", 1)
    shown = run("show", place)
    assert shown.exit_code == 1 and "a run of `headlens look`, which has no head map" in shown.stderr


def test_divergence_on_drawn_scenes_is_the_librarys(run, model, tmp_path):
    words = ["--task", "scenes", "--n", 3, "--seed", 4, "--negatives", "popular", "--relative"]
    result = run("divergence", "tiny-vlm", "--device", "cpu", *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    samples = scene_questions(model, 3, 4, negatives="popular")
    expected = divergence(model, samples, relative=True, progress=False)
    found = HeadMap.load(tmp_path / "run" / "headmap.safetensors")
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-6)
    assert found.provenance["samples_hash"] == expected.provenance["samples_hash"]
    assert f"32 heads on {len(samples)} prompts about 3 pictures" in result.stdout
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["task"] == {"name": "scenes", "n": 3, "seed": 4, "negatives": "popular"}
    assert config["divergence"]["relative"] is True and config["divergence"]["without"] == "deleted"
    assert run("divergence", tmp_path / "run" / "config.toml", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "run")
    assert run("show", tmp_path / "run").exit_code == 0


def test_divergence_reads_one_prompt_or_a_file_of_questions(run, told, model, scene, tmp_path):
    place, _ = told("divergence", "--without", "blank", prompt="is there a cup ?")
    one = HeadMap.load(place / "headmap.safetensors")
    lines = [
        {"image": "scene.png", "prompt": "is there a cup ?", "answer": "no"},
        {"image": "scene.png", "text": "is there a bat ?", "label": "yes", "question_id": 7},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--data", tmp_path / "asked.jsonl", "--without", "blank", "--out", tmp_path / "both"]
    result = run("divergence", "tiny-vlm", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    both = HeadMap.load(tmp_path / "both" / "headmap.safetensors")
    np.testing.assert_allclose(both.samples[0], one.values, rtol=1e-4, atol=1e-6)
    assert both.clusters == ("scene.png", "scene.png") and "on 2 prompts about 1 picture" in result.stdout
    config = tomllib.loads((tmp_path / "both" / "config.toml").read_text())
    assert config["questions"] == {"file": str(tmp_path / "asked.jsonl")}


def test_redistribute_shows_before_and_after(told, model, scene):
    place, said = told("redistribute", *SINKS)
    inputs = image_prompt(model, [open_picture(scene)], "describe")
    edit = redistribute(model, dims=[91, 7], above=2.5, layers=[1, 2, 3], floor=0.1)
    before, after = (Gaze.load(place / f"{name}.safetensors") for name in ("before", "after"))
    assert np.array_equal(before.attention, gaze(model, inputs).attention)
    assert np.array_equal(after.attention, gaze(model, inputs, edits=[edit]).attention)
    assert not np.array_equal(before.attention, after.attention)
    chosen = image_centric_heads(model, Samples("image", (inputs,)), edit.donors, floor=0.1)["chosen"]
    assert np.array_equal(HeadMap.load(place / "headmap.safetensors").values, chosen.values)
    moved = pandas.read_csv(place / "moved.csv")
    assert [*moved["layer"].unique()] == [1, 2, 3] and 0 < moved["touched"].sum() < moved["rows"].sum()
    assert f"Before: {before.answer}\nAfter:  {after.answer}" in said and "rows of 24 of 24 heads changed" in said
    assert "Sinks are tokens above 2.50 root mean squares in dimension 91, 7, as was given." in said
    config = tomllib.loads((place / "config.toml").read_text())
    assert config["redistribute"] == {
        **{"move": 0.6, "non_sink": 0.5, "floor": 0.1, "convention": "paper", "dims": [91, 7], "above": 2.5},
        **{"layers": [1, 2, 3], "max_new_tokens": 40},
    }
    page = (place / "report.html").read_text()
    assert '"name":"before"' in page and '"name":"after"' in page and "rows of 24 of 24 heads changed" in page


def test_redistribute_repeats_and_says_when_no_head_is_chosen(run, told, tmp_path):
    place, said = told("redistribute", "--dims", "91", "--above", "2.5", "--layers", "1", "--floor", "1")
    assert "No head is image-centric by this rule, in any row, so nothing moved" in said and "(the same)" in said
    assert run("redistribute", place / "config.toml", "--out", tmp_path / "again").exit_code == 0
    assert contents(tmp_path / "again") == contents(place)


SLIPS = [
    ("look --image gone.png --prompt x", "There is no picture 'gone.png'"),
    ("look --image TEXT --prompt x", "cannot be read as a picture"),
    ("look --image SCENE", "was given without --prompt"),
    ("look --prompt x", "--prompt was given without --image"),
    ("look", "No picture was named"),
    ("look --image SCENE --image SCENE --prompt x", "Two pictures are called 'scene.png'"),
    ("look --image SCENE --prompt x --heads foo", "'foo' is not a head"),
    ("look --image SCENE --prompt x --max-new-tokens 0", "max_new_tokens=0 was given"),
    ("divergence --task scene", "Unknown task 'scene' of pictures"),
    ("divergence --task scenes --n 0", "n=0 scenes were asked for"),
    ("divergence --task scenes --seed=-1", "seed=-1 was given"),
    ("divergence --task scenes --negatives advers", "did you mean 'adversarial'?"),
    ("divergence --n 5", "--n was given without --task scenes"),
    ("divergence --task scenes --data x.jsonl", "--data and --task were given"),
    ("divergence --data x.jsonl", "x.jsonl' to read prompts from"),
    ("divergence --task scenes --without blanc", "did you mean 'blank'?"),
    ("divergence --task scenes --batch 0", "batch=0 was given"),
    ("redistribute --image SCENE --prompt x --dims 1,x", "write the dimensions as numbers"),
    ("redistribute --image SCENE --prompt x --move 1.5", "move=1.5 was given"),
    ("redistribute --image SCENE --prompt x --convention papr", "did you mean 'paper'?"),
    ("redistribute --image SCENE --prompt x --above 0", "above=0.0 was given"),
    ("redistribute --image SCENE --prompt x --layers 3-1", "write them as 2-29"),
]
LATER_SLIPS = [
    ("look --image SCENE --prompt x --heads L9H1", "Head L9H1 does not exist"),
    ("look --image SCENE --prompt x --answer Yes", "does not know all of 'Yes'"),
    ("divergence --task scenes --n 2 --without blank --position shifted", "always 'kept'"),
    ("redistribute --image SCENE --prompt x", "so this model has no sinks of this kind; to move"),
    ("redistribute --image SCENE --prompt x --dims 999", "residual stream of tiny-vlm has 0..127"),
    ("redistribute --image SCENE --prompt x --dims 1 --layers 7", "expected some of 0..3"),
]


@pytest.fixture
def slip(run, scene, tmp_path):
    """Type a command that ends in one sentence and leaves nothing behind."""

    def slip(model, words, sentence):
        (tmp_path / "text.png").write_text("no picture")
        words = words.replace("SCENE", str(scene)).replace("TEXT", str(tmp_path / "text.png")).split()
        result = run(words[0], model, *words[1:], "--out", tmp_path / "run")
        assert result.exit_code == 1 and sentence in result.stderr, result.output
        assert result.stderr.startswith("headlens: ") and result.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()

    return slip


@pytest.mark.parametrize(("words", "sentence"), SLIPS, ids=[words for words, _ in SLIPS])
def test_a_slip_is_told_before_the_model_is_loaded(slip, monkeypatch, words, sentence):
    monkeypatch.setattr(importlib.import_module("headlens.models"), "load", lambda *_, **__: pytest.fail("loaded"))
    slip("x", words, sentence)


@pytest.mark.parametrize(("words", "sentence"), LATER_SLIPS, ids=[words for words, _ in LATER_SLIPS])
def test_what_only_the_model_can_tell_leaves_nothing_behind(slip, words, sentence):
    slip("tiny-vlm", words, sentence)


def test_an_empty_prompt_is_told(run, scene, tmp_path):
    result = run("look", "tiny-vlm", "--image", scene, "--prompt", "  ", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "The prompt is empty" in result.stderr


def test_models_that_take_no_pictures_are_told_apart(slip, folder, tmp_path):
    for command in ("look", "redistribute", "divergence"):
        slip(folder, f"{command} --image SCENE --prompt x", "takes no pictures among its tokens (LlamaConfig names no")
    slip(folder, "divergence --task scenes --n 2", "such as tiny-vlm, which comes with headlens.")
    tiny("llava").save_pretrained(tmp_path / "blind")
    slip(tmp_path / "blind", "look --image SCENE --prompt x", "was loaded without an image processor")


def test_help_lists_the_commands(run):
    for command, option in (("look", "--max-new-tokens"), ("divergence", "--negatives"), ("redistribute", "--dims")):
        assert command in run("--help").stdout and option in run(command, "--help").stdout
