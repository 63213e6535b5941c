"""A byte-pair tokenizer in CLIP's file format in which every word of the world is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from rece_lightning.emoji.captions import vocabulary
from rece_lightning.emoji.catalog import Catalog

POSITIONS = 16
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(catalog: Catalog, folder: Path) -> CLIPTokenizer:
    """Train BPE until no pair is left, so that every known word ends as one token.

    Words that the world does not know are split into pieces, as CLIP's own tokenizer does. A tokenizer that lies in
    ``folder`` is kept: what was trained with its numbers must go on with them.
    """
    if (folder / "tokenizer.json").exists():
        return check_words(CLIPTokenizer.from_pretrained(folder, local_files_only=True), catalog)
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        initial_alphabet=alphabet,
        # Numbered first and in order: the trainer numbers them as they come out of a hash table, anew in every process.
        special_tokens=[character + "</w>" for character in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(vocabulary(catalog), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = dict(model["vocab"])
    for special in (BEGIN, END):
        tokens[special] = len(tokens)
    merges = [tuple(pair) for pair in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special_tokens = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END}
    built = CLIPTokenizer(vocab=tokens, merges=merges, model_max_length=POSITIONS, **special_tokens)
    built.save_pretrained(folder)
    return check_words(built, catalog)


def check_words(tokenizer: CLIPTokenizer, catalog: Catalog) -> CLIPTokenizer:
    """The tokenizer itself, if every word of the world is one token.

    Raises:
        RuntimeError: naming a word that is not.
    """
    for word in vocabulary(catalog):
        pieces = tokenizer(word)["input_ids"]
        if len(pieces) != 3:
            raise RuntimeError(f"{word!r} became {len(pieces) - 2} tokens")
    return tokenizer
