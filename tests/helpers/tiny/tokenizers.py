"""Small tokenizers of the kinds that text encoders have, over letters and a few words."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE as VIDEO
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTokenizer, GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.training.tokenizer import train_tokenizer

WORDS = ("bomb", "axe", "rocket", "spoon", "dog", "knife", "a", "of", "picture", "an")
LETTERS = tuple(map(chr, range(ord("a"), ord("z") + 1)))
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """The embedded world's: words, 16 positions."""
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(load_catalog(), Path(folder))


@cache
def t5_tokenizer() -> T5Tokenizer:
    """Sub-words of a unigram model, an end of text, padding on the right."""
    pieces = [(f"▁{word}", -2.0) for word in WORDS] + [(letter, -8.0) for letter in LETTERS] + [("▁", -4.0)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *pieces]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # Templates are to be words, as they are for the real ones: so many rows of theirs are dropped.
    trained.train_from_iterator([" ".join(WORDS)] * 10 + [VIDEO["template"]] * 9, trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


@cache
def qwen_tokenizer() -> Qwen2Tokenizer:
    """Byte pairs with a chat template, as language models have."""
    vocabulary, merges = _byte_pairs()
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=2048)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


@cache
def gemma_tokenizer() -> GemmaTokenizer:
    """Byte pairs with a begin of text and none at the end."""
    letters = ["▁", *LETTERS, *(chr(n) for n in range(33, 97)), "\n", "’"]
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters])}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=2048)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return tokenizer


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs with a begin of text: Llama's and GLM's kind."""
    vocabulary, merges = _byte_pairs()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>", "<|pad|>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=2048,
        chat_template=CHAT,
    )


def size_of(tokenizer: Any) -> int:
    """Rows that an embedding table needs."""
    return len(tokenizer) + 8
