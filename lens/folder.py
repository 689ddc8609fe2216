"""Loading a model folder (config.json, *.safetensors, tokenizer files) with transformers, and nothing else.

Only safetensors weights are read, since a pickled .bin file can run code, and no code that lies beside the
weights is ever run.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from headlens.hub import holds_tokenizer, holds_weights
from headlens.quiet import quiet_transformers

LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_folder(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load the model of a folder as the class that its configuration names, in evaluation mode.

    A folder that is incomplete, damaged, without safetensors or in need of its own code is a ValueError.
    """
    _refuse_unreadable(folder)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, **LOCAL)
            model, found = model_class(config).from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
            )
        # transformers and safetensors raise many types for a damaged folder, even plain Exception.
        except Exception as error:
            raise ValueError(f"The model in {folder} could not be loaded: {_first_line(error)}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(
            f"The weights in {folder} lack {len(missing)} parameters of {type(model).__name__} (first: "
            f"{missing[0]}), which would be random numbers; give a folder with the whole model."
        )
    return model.eval().to(device)


def load_tokenizer(folder: Path) -> Any | None:
    """Load a folder's processor or tokenizer; None where it has neither."""
    if not holds_tokenizer(folder):
        return None
    with quiet_transformers():
        try:
            return _auto_tokenizer(folder).from_pretrained(folder, **LOCAL)
        # As above: what a damaged tokenizer file raises depends on where it is damaged.
        except Exception as error:
            raise ValueError(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}") from error


def model_class(config: PreTrainedConfig) -> Any:
    """Return the transformers class that a configuration names; failing that, an Auto class that takes it."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None)
    if named is not None:
        return named
    return AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModel


def _auto_tokenizer(folder: Path) -> Any:
    if not any((folder / f"{name}_config.json").is_file() for name in ("preprocessor", "processor")):
        return AutoTokenizer
    # Not at the top: it costs half a second, and models of text alone do without it.
    from transformers import AutoProcessor

    return AutoProcessor


def _refuse_unreadable(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no config.json; expected a Hugging Face model folder "
            "(config.json, *.safetensors, tokenizer.json)."
        )
    if holds_weights(folder):
        return
    if any(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} holds its weights as .bin, a pickle that can run code, so it is not read; save the "
            "model again with model.save_pretrained(folder), which writes safetensors."
        )
    raise ValueError(f"{folder} lacks weights; expected model.safetensors or all the shards of its index.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
