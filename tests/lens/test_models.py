"""Loading: each kind of thing that `load` takes, and a sentence for each that it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, logging

from headlens import models
from headlens.cache import DamagedCache, model_folder
from headlens.hooks.bridge import to_bridge
from headlens.models import find, load
from tiny_models import HELD, tiny


@pytest.fixture
def tokenizer():
    words = Tokenizer(WordLevel({"<unk>": 0, "Mary": 1, "gave": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def test_a_folder_loads_as_it_was_saved(llama, llama_folder):
    model = load(llama_folder)
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(model.hf(tokens).logits, llama(tokens).logits)
    assert (model.name, model.n_layers, model.n_heads, model.n_kv_heads) == ("my-llama", 3, 4, 2)
    assert model.tokenizer is None and model.dtype == torch.float32 and not model.hf.training


def test_a_folder_can_be_given_as_text_and_below_home(llama_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(llama_folder.parent))
    assert find("~/my-llama") == find(str(llama_folder)) == llama_folder.resolve()


def test_a_folder_brings_its_tokenizer(llama_folder, tokenizer):
    tokenizer.save_pretrained(llama_folder)
    model = load(llama_folder)
    assert model.tokenizer("Mary gave").input_ids == [1, 2]


def test_a_given_tokenizer_replaces_the_folders(llama_folder, tokenizer):
    tokenizer.save_pretrained(llama_folder)
    assert load(llama_folder, tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16], ids=["name", "value"])
def test_the_number_format_can_be_chosen(llama_folder, dtype):
    assert load(llama_folder, dtype=dtype, device="cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("name", HELD)
def test_a_folder_loads_as_the_class_that_its_configuration_names(name, tmp_path):
    original = tiny(name)
    original.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert type(model.hf) is type(original)
    saved = dict(original.named_parameters())
    assert all(torch.equal(tensor, saved[key]) for key, tensor in model.hf.named_parameters())


def test_an_object_is_shared_not_copied(llama, tokenizer):
    model = load(llama, tokenizer)
    assert model.hf is llama and model.tokenizer is tokenizer


def test_an_object_is_not_converted_behind_its_owners_back(llama):
    with pytest.raises(ValueError, match=r"taken as it is.*\.to\("):
        load(llama, dtype="bfloat16")


def test_a_bridge_is_shared_not_copied(llama, tokenizer):
    model = load(to_bridge(load(llama)), tokenizer)
    ours, theirs = dict(model.hf.named_parameters()), dict(llama.named_parameters())
    assert {name: tensor.data_ptr() for name, tensor in ours.items()} == {
        name: tensor.data_ptr() for name, tensor in theirs.items()
    }
    assert model.tokenizer is tokenizer


def test_loading_is_silent_and_leaves_the_log_level_alone(llama_folder, capfd):
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    load(llama_folder)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == 20 and logging.is_progress_bar_enabled()
    logging.set_verbosity_warning()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch, llama_folder):
    """Make a Hugging Face cache that holds the tiny Llama as `me/llama`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--me--llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    shutil.copytree(llama_folder, repository / "snapshots" / "c0ffee")
    return repository / "snapshots" / "c0ffee"


def test_a_hugging_face_id_loads_from_the_cache(hub_cache):
    model = load("me/llama")
    assert model.name == "me/llama" and model.n_layers == 3


def test_a_half_cached_id_is_told_when_the_hub_may_not_be_asked(hub_cache):
    (hub_cache / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="'me/llama' is not in the Hugging Face cache"):
        load("me/llama")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("smollm2", "There is no model 'smollm2'; did you mean 'smollm2-135m'"),
        ("./nowhere", "no model folder './nowhere'"),
        ("nobody/nothing", "'nobody/nothing' is not in the Hugging Face cache.*HF_HUB_OFFLINE.*smollm2-135m"),
        ("not an id!", "neither a folder nor a Hugging Face id"),
        (12, "Cannot load a int; expected a name, a folder"),
        (torch.nn.Linear(2, 2), "Cannot load a Linear"),
    ],
    ids=["near", "path", "hub", "nonsense", "number", "module"],
)
def test_what_cannot_be_found_is_told(what, message, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load(what)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dtype": "float13"}, "'float13' is not a number format"),
        ({"dtype": torch.int8}, "torch.int8 is not a number format"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
    ],
    ids=["dtype", "integers", "device", "absent"],
)
def test_a_wrong_choice_is_told(llama_folder, choice, message):
    with pytest.raises(ValueError, match=message):
        load(llama_folder, **choice)


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_a_parameter(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.self_attn.o_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


def ask_for_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('their code ran')")


def pickle_instead(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_shard(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "could not be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer in .* cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks weights"),
        (cut_weights, "could not be loaded"),
        (drop_a_parameter, r"lack 1 parameters of LlamaForCausalLM \(first: .*o_proj.weight\)"),
        (ask_for_code, "could not be loaded"),
        (pickle_instead, "as .bin, a pickle that can run code"),
        (lose_a_shard, "lacks weights"),
    ],
    ids=["no config", "config", "tokenizer", "no weights", "cut", "parameter", "code", "pickle", "shard"],
)
def test_a_damaged_folder_is_told_in_one_paragraph(llama_folder, damage, message):
    damage(llama_folder)
    with pytest.raises(ValueError, match=message) as caught:
        load(llama_folder)
    assert "\n" not in str(caught.value)


def test_a_catalogue_model_is_fetched_once_and_checked_at_every_load(cache, listed, llama_folder, monkeypatch):
    def fetch_from_folder(name):
        from headlens.cache import write_manifest

        folder = model_folder(name)
        shutil.copytree(llama_folder, folder)
        write_manifest(folder, {})
        return folder

    monkeypatch.setattr(models, "fetch", fetch_from_folder)
    assert load("tiny").name == "tiny"
    monkeypatch.delattr(models, "fetch")
    assert load("tiny").n_layers == 3
    (model_folder("tiny") / "config.json").write_text("{}")
    with pytest.raises(DamagedCache, match="headlens fetch tiny --force"):
        load("tiny")


@pytest.mark.real
def test_the_real_model_knows_who_was_given_a_drink(smollm2):
    prompt = "When Mary and John went to the store, John gave a drink to"
    tokens = smollm2.tokenizer(prompt, return_tensors="pt").input_ids
    assert tokens.shape == (1, 14)
    with torch.no_grad():
        logits = smollm2.hf(tokens).logits[0, -1]
    mary, john = smollm2.tokenizer.encode(" Mary"), smollm2.tokenizer.encode(" John")
    assert logits.argmax().item() == mary[0]
    assert (logits[mary[0]] - logits[john[0]]).item() == pytest.approx(6.12, abs=0.02)
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.n_kv_heads) == (30, 9, 3)
