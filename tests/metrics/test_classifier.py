"""Any image classifier of transformers as a detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.metrics import ConceptDetector, ImageClassifier, NamingDetector
from rece_lightning.metrics.pretrained import eight_bit

LABELS = ["tench, Tinca tinca", "church, church building", "golf_ball", "parachute"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random classifier with its preprocessor."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    path = tmp_path_factory.mktemp("classifier") / "tiny-vit"
    torch.manual_seed(5)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        initializer_range=1.0, id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(40, 3, 24, 20, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def probabilities(folder: Path, pictures: Tensor) -> Tensor:
    """By transformers alone, one picture at a time."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    network = AutoModelForImageClassification.from_pretrained(folder).eval()
    preprocessor = AutoImageProcessor.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for picture in eight_bit(pictures):
            inputs = preprocessor(images=Image.fromarray(picture), return_tensors="pt")
            rows.append(network(**inputs).logits.softmax(-1)[0])
    return torch.stack(rows)


def test_detections_are_those_of_the_classifier(folder: Path, pictures: Tensor, probabilities: Tensor) -> None:
    concepts = ["tench", "Tinca tinca", "church building", "golf ball", "Parachute"] * 8
    wanted = torch.tensor([0, 0, 1, 2, 3] * 8)
    detector = ImageClassifier(str(folder), batch_size=7)
    for concept in concepts:
        detector.check(concept)
    assert torch.allclose(detector.probabilities(pictures), probabilities, atol=1e-6)
    assert len(set(probabilities.argmax(1).tolist())) > 1
    assert torch.equal(detector.detect(pictures, concepts), probabilities.argmax(1) == wanted)
    two = ImageClassifier(str(folder), top=2).detect(pictures, concepts)
    assert torch.equal(two, (probabilities.topk(2).indices == wanted[:, None]).any(1))
    own = probabilities.gather(1, wanted[:, None])[:, 0]
    above = ImageClassifier(str(folder), threshold=0.5).detect(pictures, concepts)
    assert torch.equal(above, (probabilities.argmax(1) == wanted) & (own > 0.5))
    names = [label.split(",")[0] for label in LABELS]
    assert detector.name(pictures, concepts) == [names[index] for index in probabilities.argmax(1)]


def test_protocol_says_rule_and_network(folder: Path) -> None:
    assert ImageClassifier(str(folder)).protocol == "classifier-top1 tiny-vit"
    assert ImageClassifier(str(folder), top=5, threshold=0.25).protocol == "classifier-top5>0.25 tiny-vit"
    detector = ImageClassifier(str(folder))
    assert isinstance(detector, ConceptDetector)
    assert isinstance(detector, NamingDetector)


def test_aliases_give_a_concept_a_class(folder: Path, pictures: Tensor, probabilities: Tensor) -> None:
    detector = ImageClassifier(str(folder), aliases={"chapel": "church"})
    detector.check("chapel")
    assert torch.equal(detector.detect(pictures, ["chapel"] * 40), probabilities.argmax(1) == 1)


def test_mistakes_name_the_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'parachute'"):
        ImageClassifier(str(folder)).check("parachutte")
    with pytest.raises(ConfigurationError, match="no folder on this machine and no hub id"):
        ImageClassifier(str(tmp_path / "nothing")).check("tench")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="could not be loaded"):
        ImageClassifier(str(tmp_path / "empty")).check("tench")
    with pytest.raises(ConfigurationError, match="top"):
        ImageClassifier(str(folder), top=0)


def test_a_hub_id_that_is_not_here_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match="hub cannot be reached"):
        ImageClassifier("nobody/nothing").check("tench")
