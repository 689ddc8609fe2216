"""Loading: a catalogue name, a Hugging Face id, a folder or a model object becomes a `Model`.

The catalogue's own files are checked byte for byte at every load, while torch and transformers are being
imported. Nothing is installed, no network is touched for a model that is already here, and no code that came
with weights is run.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headlens.bundled import bundled_folder
from headlens.cache import check, model_folder
from headlens.catalogue import CATALOGUE, near_names
from headlens.fetch import fetch, repair_command
from headlens.imports import collector_paused

if TYPE_CHECKING:
    import torch

    from headlens.hooks.model import Model


def load(
    what: Any,
    tokenizer: Any = None,
    *,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
) -> "Model":
    """Load a model and look through it, ready to record and edit.

    `what` is a name of the catalogue ("smollm2-135m", fetched on first use), "tiny-vlm" (which comes with headlens), a
    Hugging Face id, a folder, a transformers model, or a TransformerLens TransformerBridge. `tokenizer` goes with a
    model object, and replaces the tokenizer or processor that comes with a name. Weights are float32, on the GPU if
    there is one, unless `dtype` ("bfloat16") or `device` ("cpu", "cuda:1") say otherwise; an object is taken as it is,
    its parameters shared; one that a `device_map` spread over several GPUs, the CPU or disk stays where it is.
    Anything that cannot be loaded is a ValueError that says what to do.
    """
    if isinstance(what, str | Path):
        return _load_named(what, tokenizer, dtype, device)
    if dtype is not None or device is not None:
        raise ValueError("A model object is taken as it is: convert it with its own .to(...), without dtype or device.")
    if _is_bridge(what):
        from headlens.hooks.bridge import from_bridge

        model = from_bridge(what)
        return model if tokenizer is None else replace(model, tokenizer=tokenizer)
    return _wrap_object(what, tokenizer)


def _load_named(what: str | Path, tokenizer: Any, dtype: Any, device: Any) -> "Model":
    # Found before the thread starts, since it may download, and Ctrl-C must reach that.
    folder = find(what)
    with ThreadPoolExecutor(max_workers=1) as aside:
        # Hashing half a gigabyte leaves the interpreter free: it costs nothing beside the imports below.
        checked = aside.submit(_check_own, what, folder)
        with collector_paused():
            from headlens.device import default_device, default_dtype, parse_device, parse_dtype
            from headlens.folder import load_folder, load_tokenizer
            from headlens.hooks.host_memory import ask_for_huge_pages
            from headlens.hooks.model import wrap

        number_format = default_dtype() if dtype is None else parse_dtype(dtype)
        place = default_device() if device is None else parse_device(device)
        checked.result()
    ask_for_huge_pages()
    own_tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    name = folder.name if Path(what).expanduser().is_dir() else str(what)
    return wrap(load_folder(folder, number_format, place), own_tokenizer, name)


def _check_own(what: str | Path, folder: Path) -> None:
    """Check the files of a catalogue model; nothing is known about the right contents of others."""
    if what in CATALOGUE:
        check(folder, repair_command(str(what)))


def find(what: str | Path) -> Path:
    """Return the folder of a catalogue name, a path or a Hugging Face id, fetching it if need be."""
    if what in CATALOGUE:
        folder = model_folder(str(what))
        return folder if folder.exists() else fetch(str(what))
    if (inside := bundled_folder(str(what))) is not None:
        return inside
    if (path := Path(what).expanduser()).is_dir():
        return path.resolve()
    if _looks_like_path(what):
        raise ValueError(f"There is no model folder {str(what)!r}.")
    near = near_names(str(what))
    if near and "/" not in str(what):
        raise ValueError(f"There is no model {what!r}; did you mean {' or '.join(map(repr, near))}?")
    from headlens.hub import hub_folder

    try:
        return hub_folder(str(what))
    except ValueError as error:
        known = ", ".join(CATALOGUE)
        raise ValueError(f"{error} Of the catalogue, which needs no hub, there is: {known}.") from error


def _looks_like_path(what: str | Path) -> bool:
    text = str(what)
    return isinstance(what, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text


def _is_bridge(what: Any) -> bool:
    # Only a program that has imported TransformerLens can hand over one of its objects.
    module = sys.modules.get("transformer_lens.model_bridge")
    return module is not None and isinstance(what, module.TransformerBridge)


def _wrap_object(what: Any, tokenizer: Any) -> "Model":
    from transformers import PreTrainedModel

    from headlens.hooks.model import wrap

    if isinstance(what, PreTrainedModel):
        return wrap(what, tokenizer, what.name_or_path or type(what).__name__)
    raise ValueError(
        f"Cannot load a {type(what).__name__}; expected a name, a folder, a transformers model or a "
        "TransformerLens TransformerBridge."
    )
