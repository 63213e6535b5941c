"""How near words are to what is erased, by text and by name."""

from __future__ import annotations

import torch

from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.vocabulary.nearness import nearest_first

WORDS = ["dog", "comb", "firecracker", "rose", "balloon"]


def test_words_are_ordered_by_the_cosine_of_their_rows_and_by_their_letters() -> None:
    encoder = load_encoder(find_base("emoji"))
    found = nearest_first(WORDS, ["bomb", "axe"], encoder, "text")
    encoded = encoder.encode([f"a photo of {word}" for word in (*WORDS, "bomb", "axe")])
    rows = [
        torch.cat([embedding[last], embedding[last + 1]]).double()
        for embedding, last in zip(encoded.embeddings, encoded.last_subject.tolist(), strict=True)
    ]
    near = {
        word: max(float(torch.cosine_similarity(row, other, dim=0)) for other in rows[-2:])
        for word, row in zip(WORDS, rows, strict=False)
    }
    assert found["text"] == tuple(sorted(WORDS, key=lambda word: -near[word]))
    assert found["name"][0] == "comb"  # three letters of four
    assert set(found["name"]) == set(WORDS)
    assert nearest_first([], ["bomb"], encoder, "text")["text"] == ()
