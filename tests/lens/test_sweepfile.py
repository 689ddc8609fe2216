"""Files that describe a run: what they mean, and what is told of those that are wrong."""

from pathlib import Path

import pytest

import tiny_tokenizers
from headlens.analyses import choice_tasks, tasks
from headlens.analyses.sweep_plan import plan
from headlens.sweepfile import read_work

SMALLEST = 'model = "gpt2"\n[task]\nname = "ioi"\n'
PAIR = '{"clean": "Mary and John", "corrupted": "Mary and Paul", "answer": " x", "foil": " y"}\n'


@pytest.fixture
def written(tmp_path):
    """Write a file of this text."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_whole_file_says_what_is_swept(written, tmp_path):
    path = written(
        'model = "gpt2"\ndevice = "cpu"\ndtype = "bfloat16"\nout = "runs/x"\n'
        '[task]\nname = "ioi"\nn = 3\ncorruption = "swap"\ntemplates = ["when-went"]\n'
        '[sweep]\nsite = "v"\naxes = ["layer", "head", "pos"]\nmetric = ["kl", "prob"]\ndirection = "noising"\n'
        'source = "resample"\npositions = ["S2", 9, "S1..S2"]\nseed = 4\nmemory = 1000000\n'
    )
    work = read_work(path, "sweep")
    assert (work.model, work.device, work.dtype, work.out) == ("gpt2", "cpu", "bfloat16", tmp_path / "runs/x")
    expected = plan("v", ["layer", "head", "pos"], ["kl", "prob"], "noising", "resample", ["S2", 9, "S1..S2"], None, 4)
    assert work.table.plan().described() == expected.described() and work.table.plan().memory == 1000000
    tokenizer = tiny_tokenizers.bpe()
    made = work.source.make(tokenizer)
    assert made.hash == tasks.ioi(tokenizer, 3, 0, corruption="swap", templates="when-went").hash


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ('axes = "layer, head,pos"', 'axes = ["layer", "head", "pos"]'),
        ('metric = "kl,rank"', 'metric = ["kl", "rank"]'),
        ('positions = "S2, 9"', 'positions = ["S2", 9]'),
        ('positions = "9"', "positions = 9"),
        ('heads = "L2H1+L0H3, L1H1"', 'heads = [["L0H3", "L2H1"], ["L1H1"]]'),
        ('heads = "L2H1+L0H3"', 'heads = ["L2H1", "L0H3"]'),
    ],
)
def test_text_is_a_list_as_on_the_command_line(written, text, lists):
    by_text = read_work(written(f"{SMALLEST}[sweep]\n{text}"), "sweep").table.plan()
    by_list = read_work(written(f"{SMALLEST}[sweep]\n{lists}"), "sweep").table.plan()
    assert by_text == by_list != read_work(written(SMALLEST), "sweep").table.plan()


def test_defaults_are_those_of_patch_sweep_and_the_task(written):
    cells = read_work(written(SMALLEST), "sweep").table
    assert cells.plan() == plan() and cells.plan("prob_diff") == plan(metric="prob_diff")
    assert read_work(written(SMALLEST), "attribute").kind == "attribute"


def test_a_task_resolved_makes_the_same_task_whatever_the_defaults(written):
    tokenizer = tiny_tokenizers.unigram()
    choice = read_work(written(SMALLEST + "n = 5\nseed = 2"), "sweep").source
    made = choice.make(tokenizer)
    resolved = choice.resolved(made)
    assert resolved["prepend_bos"] is True and len(resolved["templates"]) == 8
    assert {*resolved} == {"name", "n", "seed", "corruption", "orders", "templates", "prepend_bos"}
    again = tasks.ioi(tokenizer, **{key: value for key, value in resolved.items() if key != "name"})
    assert again.hash == made.hash and again.details == made.details


@pytest.mark.parametrize("name", tasks.REGISTRY)
def test_every_task_by_name_takes_its_makers_arguments(written, name):
    choice = read_work(written(f'model = "gpt2"\n[task]\nname = "{name}"\nn = 2\nprepend_bos = false'), "sweep").source
    assert choice.settings["name"] == name and choice.settings["prepend_bos"] is False


@pytest.mark.parametrize("name", choice_tasks.REGISTRY)
def test_a_calibration_is_on_a_task_with_choices(written, name):
    path = written(f'model = "gpt2"\n[task]\nname = "{name}"\nn = 8\n[calibrate]\nlayers = "2-4,7"\nalpha = 3\n')
    work = read_work(path, "calibrate")
    assert work.source.settings["name"] == name and work.source.settings["n"] == 8
    found = work.table.arguments()
    assert found["layers"] == [2, 3, 4, 7] and found["candidates"] == 60 and found["sinks"].alpha == 3.0


def test_a_run_that_reads_has_a_text_or_a_task(written, tmp_path):
    (tmp_path / "mine.txt").write_text("Mary and John went to the store. " * 9)
    tokenizer = tiny_tokenizers.bpe()
    by_name = read_work(written('model = "gpt2"\n[text]\nn = 3\n[stats]\nwhat = "self"'), "stats")
    by_file = read_work(written('model = "gpt2"\n[text]\nfile = "mine.txt"\n[sinks]'), "sinks")
    neither = read_work(written('model = "gpt2"'), "stats")
    assert by_name.source.settings == {"name": "english", "n": 3, "length": 256, "seed": 0}
    assert by_file.source.settings == {"file": "mine.txt", "n": 16, "length": 256, "seed": 0}
    assert by_file.source.path == tmp_path / "mine.txt" and neither.source.settings["n"] == 16
    assert read_work(written(SMALLEST), "sinks").source.table == "task"
    with pytest.raises(ValueError, match="16 windows of 256 tokens were asked for"):
        by_file.source.make(tokenizer)


def test_paths_start_from_the_files_folder(written, tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "a.jsonl").write_text(PAIR)
    (tmp_path / "weights").mkdir()
    path = written('model = "weights"\nout = "../x"\n[task]\nfile = "pairs/a.jsonl"\n')
    monkeypatch.chdir("/")
    work = read_work(path, "sweep")
    assert Path(work.model) == tmp_path / "weights" and work.source.path == tmp_path / "pairs" / "a.jsonl"
    assert work.out == tmp_path / "../x"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model = gpt2", "FILE is not TOML: Invalid value (at line 1, column 9)."),
        ('modl = "gpt2"\n[task]\nname = "ioi"', "FILE has an unknown key 'modl' (did you mean 'model'?)"),
        ('[task]\nname = "ioi"', "FILE has no 'model', which must be given; expected text."),
        ('model = "gpt2"', "FILE has no 'task', which must be given; expected a table."),
        ('model = "gpt2"\ntask = "ioi"', 'FILE has task = "ioi"; expected a table.'),
        (f'metric = "kl"\n{SMALLEST}', "FILE has an unknown key 'metric'"),
        ('model = "gpt2"\n[task]\nn = 3', "[task] of FILE has no 'name', which must be given; expected text."),
        ('model = "gpt2"\n[task]\nname = "io"', "Unknown task 'io' (did you mean 'ioi'?)"),
        (f"{SMALLEST}corupt = 1", "[task] of FILE has an unknown key 'corupt' (did you mean 'corruption'?); its keys"),
        (f"{SMALLEST}length = 9", "[task] of FILE has an unknown key 'length'; its keys are name, n, seed, corruption"),
        (f"{SMALLEST}n = 2.5", "[task] of FILE has n = 2.5; expected a whole number."),
        (f"{SMALLEST}n = 0", "n=0 prompts were asked for; give at least 1."),
        (f"{SMALLEST}templates = 3", "[task] of FILE has templates = 3; expected text or a list of texts."),
        ('model = "gpt2"\n[task]\nfile = "gone.jsonl"', "There is no task file"),
        ('model = "gpt2"\n[task]\nfile = "run.json"', "[task] of FILE has the file"),
        ('model = "gpt2"\n[task]\nfile = "x"\nn = 3', "[task] of FILE has an unknown key 'n'; its keys are file."),
        (f"{SMALLEST}[sweep]\ndirecton = 1", "[sweep] of FILE has an unknown key 'directon' (did you mean 'direction'"),
        (f"{SMALLEST}[sweep]\npositions = [[1]]", "[sweep] of FILE has positions = [[1]]; expected a whole number or"),
        (f"{SMALLEST}[text]\nn = 2", "FILE has an unknown key 'text'; its keys are model, device, dtype, out, task"),
        (f"{SMALLEST}[sweep]\nsteps = 2", "[sweep] of FILE has an unknown key 'steps'"),
        (f"{SMALLEST}[attribute]\nsteps = 2", "FILE has a table [attribute]; run it with `headlens attribute`."),
        (f"{SMALLEST}[attribute]\n[sweep]", "FILE has both [sweep] and [attribute]; one run does one of them."),
    ],
)
def test_what_is_wrong_is_one_sentence(written, text, sentence):
    path = written(text)
    with pytest.raises(ValueError) as told:
        read_work(path, "sweep")
    assert str(told.value).startswith(sentence.replace("FILE", str(path)))


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"model = '\xff'")
    for path, sentence in [
        (tmp_path / "config.toml", "is not UTF-8 text (invalid start byte at byte 9)."),
        (tmp_path, "is a folder; give its "),
        (tmp_path / "gone.toml", "expected a TOML file that describes a run."),
    ]:
        with pytest.raises(ValueError) as told:
            read_work(path, "sweep")
        assert sentence in str(told.value) and str(path) in str(told.value)
