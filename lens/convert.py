"""Conversion of a GGUF file into a folder of safetensors that transformers loads in seconds.

Reading a GGUF file takes the better part of a minute, so it is done once. The expanded weights are float32
and exact: every number that a 4-bit block stands for is a float32 number.
"""

from pathlib import Path


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the model and the tokenizer of the GGUF file `source` into `folder`, weights in float32.

    The tokenizer adds no token in front of a text: neither does the model's chat template expect one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from headlens.quiet import quiet_stderr, quiet_transformers

    where = {"gguf_file": source.name, "local_files_only": True}
    # The bar of the GGUF reader is plain tqdm on stderr, outside transformers' settings.
    with quiet_transformers(), quiet_stderr():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
        # transformers still counts the expanded weights as quantised, and would refuse to save them.
        vars(model.config).pop("quantization_config")
        for mark, value in {"hf_quantizer": None, "is_quantized": False, "quantization_method": None}.items():
            setattr(model, mark, value)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
