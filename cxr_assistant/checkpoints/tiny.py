"""A tiny LLaVA folder of random weights, complete to the last file: for tests and for a first run.

Knows the folder's parts; what such a model says is noise by design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxr_assistant.checkpoints.folder import IMAGE_TOKEN, write_llava
from cxr_assistant.imaging.transforms import ImageSpec

__all__ = ["write_tiny_llava"]

_SPECIALS = ("<unk>", "<s>", "</s>", IMAGE_TOKEN)
_SENTENCES = (
    "USER: Describe the findings of this radiograph. ASSISTANT: The lungs are clear.",
    "USER: Which view is this? ASSISTANT: This is a lateral view.",
    "No pleural effusion or pneumothorax. The heart is not enlarged. Small left pleural effusion.",
    "Is there a pneumothorax? Which side? How large is the heart?",
)


def write_tiny_llava(target: Path, image: ImageSpec, *, chat_template: str, seed: int = 0) -> None:
    """Write the folder into `target`, which is made if need be; equal seeds give equal weights."""
    import torch

    from cxr_assistant.models.llava import make_config, make_empty

    tokenizer = _train_tokenizer()
    config = make_config(_sizes(image, tokenizer.get_vocab_size()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llava = make_empty(config)
        for parameter in llava.parameters():
            # Larger than any trainer would start: text and picture must both move the logits.
            torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    write_llava(target, llava, tokenizer, image, chat_template=chat_template, precision="fp16")


def _sizes(image: ImageSpec, vocab_size: int) -> dict[str, Any]:
    patch_size = image.size_px // 7  # 49 image tokens
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": {
            "model_type": "dinov2",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "mlp_ratio": 2,
            "image_size": patch_size * 7,
            "patch_size": patch_size,
            "num_channels": image.channels,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": vocab_size,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "image_token_index": _SPECIALS.index(IMAGE_TOKEN),
        "image_seq_length": 49,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _train_tokenizer() -> Any:
    """Byte-level BPE on a few sentences: every text has ids, and decoding gives it back."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=list(_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return tokenizer
