"""CLIP score and zero-shot detection, with the embedded CLIP and with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.emoji.catalog import load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.metrics import Clip, ClipScore, NamingDetector, ZeroShot
from rece_lightning.metrics.pretrained import eight_bit
from tests.helpers.pictures import rendered

NAMES = ["bomb", "axe", "church", "rocket", "dagger", "cactus", "dog", "guitar"]


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return rendered(NAMES * 4)


def embedded(pictures: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors by the towers themselves."""
    network, tokenizer = load_clip()
    ids = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        image = network.visual_projection(network.vision_model(pictures * 2 - 1).pooler_output)
        text = network.text_projection(network.text_model(ids).pooler_output)
    return image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP with tokenizer and preprocessor."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from rece_lightning.emoji.training.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("clip") / "tiny-clip"
    tokenizer = train_tokenizer(load_catalog(), path.parent / "tokenizer")
    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = sizes | {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20, initializer_factor=20.0)
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(path)
    return path


def test_score_is_a_hundred_cosines(pictures: Tensor) -> None:
    texts = [f"a picture of {name}" for name in NAMES * 4]
    image, text = embedded(pictures, texts)
    expected = 100 * (image.double() * text.double()).sum(1)
    metric = ClipScore(prompts=8)
    for first in range(0, 32, 8):
        part = slice(first, first + 8)
        metric.update(pictures[part], texts[part], list(range(8)))
    assert float(metric.compute()) == pytest.approx(float(expected.mean()), abs=1e-4)
    found = metric.mean()
    assert found.total == 32
    assert found.method == "95 % bootstrap over prompts"
    assert found.interval[0] < found.mean < found.interval[1]
    assert metric.protocol == "clip-score emoji"
    # Wrong prompts fit worse.
    wrong = ClipScore()
    wrong.update(pictures, texts[1:] + texts[:1])
    assert float(wrong.compute()) < float(metric.compute()) - 5


def test_score_is_that_of_torchmetrics(folder: Path, pictures: Tensor) -> None:
    """torchmetrics' own function on another CLIP, given what it expects of one: plain embeddings."""
    from torchmetrics.functional.multimodal import clip_score
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    network = CLIPModel.from_pretrained(folder).eval()
    tokenizer, preprocessor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)

    class Plain(torch.nn.Module):
        config = network.config

        def get_image_features(self, pixel_values: Tensor) -> Tensor:
            return network.visual_projection(network.vision_model(pixel_values).pooler_output)

        def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
            return network.text_projection(network.text_model(ids, attention_mask=mask).pooler_output)

    def processor(text: Any = None, images: Any = None, **settings: Any) -> Any:
        if text is not None:
            return tokenizer(text, **settings)
        return preprocessor(images=[image.permute(1, 2, 0).numpy() for image in images], return_tensors="pt")

    texts = [f"a photo of {name}" for name in NAMES * 4]
    images = [torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))) for picture in eight_bit(pictures)]
    with torch.no_grad():
        expected = clip_score(images, texts, lambda: (Plain(), processor))
    metric = ClipScore(Clip(str(folder)))
    metric.update(pictures, texts)
    assert float(expected) > 1
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-3)
    assert metric.protocol == "clip-score tiny-clip"


def test_zero_shot_takes_the_best_description(pictures: Tensor) -> None:
    alternatives = [*NAMES[1:], "owl"]
    detector = ZeroShot(alternatives, template="a photo of a {}")
    concepts = NAMES * 4
    for concept in concepts:
        detector.check(concept)
    every = [*NAMES, "owl"]
    image, text = embedded(pictures, [f"a photo of a {name}" for name in every])
    similar = image @ text.T
    for place, concept in enumerate(concepts):
        # "bomb" is a candidate only where it is searched for.
        allowed = [name for name in every if name != "bomb" or concept == "bomb"]
        best = max(allowed, key=lambda name: float(similar[place, every.index(name)]))
        assert detector.name(pictures[place : place + 1], [concept]) == [best]
        assert bool(detector.detect(pictures[place : place + 1], [concept])) == (best == concept)
    assert detector.detect(pictures, concepts).float().mean() > 0.8
    assert detector.detect(pictures, concepts[1:] + concepts[:1]).float().mean() < 0.1
    assert detector.protocol == "clip-zero-shot emoji, one of 8"
    assert isinstance(detector, NamingDetector)


def test_zero_shot_by_another_clip(folder: Path, pictures: Tensor) -> None:
    detector = ZeroShot(NAMES, model=str(folder))
    seen = detector.name(pictures, NAMES * 4)
    clip = Clip(str(folder))
    similar = clip.of_pictures(pictures) @ clip.of_texts([f"a photo of {name}" for name in NAMES]).T
    assert seen == [NAMES[index] for index in similar.argmax(1)]
    assert detector.protocol == "clip-zero-shot tiny-clip, one of 8"


def test_batches_make_no_difference(folder: Path, pictures: Tensor) -> None:
    whole, parts = Clip(str(folder)), Clip(str(folder), batch_size=5)
    assert torch.allclose(whole.of_pictures(pictures), parts.of_pictures(pictures), atol=1e-6)
    assert torch.allclose(whole.of_texts(NAMES), torch.cat([parts.of_texts([name]) for name in NAMES]), atol=1e-6)


def test_mistakes_name_the_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="alternatives"):
        ZeroShot([])
    with pytest.raises(ConfigurationError, match="template"):
        ZeroShot(["a"], template="a photo")
    with pytest.raises(ConfigurationError, match="no alternative"):
        ZeroShot(["bomb"]).check("bomb")
    with pytest.raises(ConfigurationError, match="no hub id"):
        Clip(str(tmp_path / "nothing")).of_texts(["bomb"])
    with pytest.raises(ConfigurationError, match="floats"):
        Clip().of_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ConfigurationError, match="texts: 1 for 2 pictures"):
        ClipScore().update(torch.zeros(2, 3, 8, 8), ["bomb"])
