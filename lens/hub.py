"""A Hugging Face id turned into a local folder: from the Hugging Face cache, else from the hub."""

import json
from pathlib import Path

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Subfolders hold other formats, and `consolidated` files repeat the weights for another loader.
UNWANTED = ["*/*", "consolidated*"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "preprocessor_config.json")


def hub_folder(repository: str) -> Path:
    """Return the folder with the files of a Hugging Face id; the hub is asked only for what is not cached.

    With HF_HUB_OFFLINE=1 the hub is never asked. A model that cannot be had is a ValueError that says why.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = _cached(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is neither a folder nor a Hugging Face id (owner/name).") from error
    if cached is not None and holds_weights(cached):
        if constants.HF_HUB_OFFLINE or holds_tokenizer(cached):
            return cached
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"{repository!r} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids asking the hub. "
            "Unset it, or give the folder of a local copy."
        )
    try:
        return Path(snapshot_download(repository, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except HfHubHTTPError as error:
        raise ValueError(
            f"The Hugging Face hub does not give out {repository!r} ({_first_line(error)}). "
            "Check the name, or log in with `hf auth login` if the model is gated."
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        if cached is not None and holds_weights(cached):
            return cached
        raise ValueError(
            f"{repository!r} is not in the Hugging Face cache and the hub could not be reached. "
            "Check the network, or give the folder of a local copy."
        ) from error


def holds_weights(folder: Path) -> bool:
    """Tell whether a folder has a configuration and all the safetensors files that belong to it."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return (folder / "model.safetensors").is_file()


def holds_tokenizer(folder: Path) -> bool:
    """Tell whether a folder has a tokenizer, or the preprocessor of a model of images."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _cached(repository: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
