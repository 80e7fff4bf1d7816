"""Write a random Qwen2 that vLLM can serve, without any hub.

Run by the environment in `build/vllm` (`python e2e/real_engine/tiny_model.py FOLDER`), which
has the libraries; the project's own does not. What such a model says is noise: tests look at
timings, counts and metrics. `tiny` answers at once; `queueing` is slow enough on two cores
for a queue to form, and is served with `--load-format=dummy`: its weights are not written.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 4096
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TRAINING_FILES = 120
"""Modules of the standard library: enough text for the vocabulary, seconds to train on."""


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a model; `weights` says whether they are written."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    weights: bool


SIZES = {
    "tiny": Size(hidden=128, layers=2, heads=4, kv_heads=2, weights=True),
    "queueing": Size(hidden=1024, layers=12, heads=16, kv_heads=8, weights=False),
}


def config_of(size: Size) -> dict[str, Any]:
    """The model's `config.json`."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "hidden_size": size.hidden,
        "intermediate_size": 2 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": _SPECIAL.index("<|endoftext|>"),
        "eos_token_id": _SPECIAL.index("<|im_end|>"),
        "pad_token_id": _SPECIAL.index("<|endoftext|>"),
        "torch_dtype": "bfloat16",
    }


def write_model(folder: Path, size: Size) -> None:
    """Write configuration, tokenizer and, where the size has them, weights."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    config = config_of(size)
    if size.weights:
        _write_weights(folder, config)
    # Last: a folder with a config.json is complete.
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = sorted(Path(os.__file__).parent.glob("*.py"))[:_TRAINING_FILES]
    tokenizer.train([str(text) for text in texts], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(str(folder))


def _write_weights(folder: Path, config: dict[str, Any]) -> None:
    import torch  # noqa: PLC0415
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    torch.manual_seed(0)
    shape = {key: value for key, value in config.items() if key not in _NOT_ARGUMENTS}
    Qwen2ForCausalLM(Qwen2Config(**shape)).to(torch.bfloat16).save_pretrained(str(folder))


_NOT_ARGUMENTS = ("architectures", "model_type", "torch_dtype")


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    given = parser.parse_args()
    write_model(given.folder, SIZES[given.size])
    print(f"tiny model: {given.size} in {given.folder}")


if __name__ == "__main__":
    main()
