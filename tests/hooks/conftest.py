"""A tokenizer of numbered words, made in process."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(params=["left", "right"])
def word_tokenizer(request):
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(120)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="w0",
        pad_token="w1",
        bos_token="w2",
        eos_token="w3",
        padding_side=request.param,
    )
