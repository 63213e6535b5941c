"""The embedded world is what it says: data, layout, licences, and a model that draws what it is asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from rece_lightning.data.prompts import EvaluationPrompt
from rece_lightning.devices.placement import Placement
from rece_lightning.emoji.captions import vocabulary
from rece_lightning.emoji.catalog import FOLDER, WEIGHTS, load_catalog
from rece_lightning.emoji.clip import load_clip
from rece_lightning.emoji.detector import load_detector
from rece_lightning.emoji.pictures import Renderer, load_sprites, random_indices
from rece_lightning.emoji.training.clip import zero_shot_accuracy
from rece_lightning.emoji.training.detector import detector_accuracy
from rece_lightning.emoji.training.tokenizer import train_tokenizer
from rece_lightning.evaluation.generation import PictureMaker
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.sampling import Sampling


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(WEIGHTS, safety_checker=None)


def test_catalog_is_as_designed() -> None:
    catalog = load_catalog()
    assert len(catalog.trained) >= 160
    assert len(catalog.held_out) == 10
    assert len(catalog.styles) == 4
    assert len(catalog.backgrounds) == 8
    assert len(set(catalog.names)) == len(catalog.names)
    for weapon in ("bomb", "dagger", "axe", "water pistol", "kitchen knife", "church", "parachute"):
        assert weapon in {item.name for item in catalog.trained}


def test_a_synonym_belongs_to_one_object_and_is_no_name() -> None:
    catalog = load_catalog()
    words = [word for item in catalog.objects for word in item.synonyms]
    assert len(words) == len(set(words))
    assert not set(words) & set(catalog.names)
    assert len(words) > 300


def test_every_object_has_a_sprite_in_every_style() -> None:
    sprites = load_sprites(load_catalog())
    alpha = sprites[:, :, 3].mean(dim=(2, 3))
    assert float(alpha.min()) > 0.02
    assert float(sprites.min()) >= 0
    assert float(sprites.max()) <= 1


def test_pictures_are_the_same_for_the_same_seed() -> None:
    catalog = load_catalog()
    indices = random_indices(catalog, 6, torch.Generator().manual_seed(3), trained_only=True)
    first, second = (Renderer(catalog).render(*indices, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (6, 3, 32, 32)


def test_every_known_word_is_one_token(pipeline: StableDiffusionPipeline) -> None:
    for word in vocabulary(load_catalog()):
        assert len(pipeline.tokenizer(word)["input_ids"]) == 3, word


def test_diffusers_loads_the_folder_without_this_project(pipeline: StableDiffusionPipeline) -> None:
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    assert {p.dtype for p in pipeline.text_encoder.parameters()} == {torch.float32}
    pictures = pipeline(["a bomb"], num_inference_steps=2, output_type="pt").images
    assert pictures.shape == (1, 3, 32, 32)


def test_weights_take_25_megabytes_at_most_and_are_float16_safetensors() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_licences_are_named() -> None:
    notice = (FOLDER / "NOTICE").read_text()
    for name in ("noto", "twemoji", "fluent", "CC BY 4.0", "Apache", "MIT", "Unicode"):
        assert name in notice


def test_detector_is_right_on_autoencoded_pictures(pipeline: StableDiffusionPipeline) -> None:
    objects, styles, backgrounds = detector_accuracy(
        load_detector(), pipeline.vae, load_catalog(), count=300, device="cpu", seed=2
    )
    assert objects >= 0.97 * 300
    assert styles >= 0.93 * 300
    assert backgrounds >= 0.97 * 300


def test_clip_recognises_objects_by_name() -> None:
    clip, tokenizer = load_clip()
    objects, _ = zero_shot_accuracy(clip, tokenizer, load_catalog(), count=200, device="cpu", seed=3)
    assert objects >= 180


def test_model_draws_what_it_is_asked_for() -> None:
    base, catalog = find_base("emoji"), load_catalog()
    maker = PictureMaker.load(base, load_encoder(base), Placement(), torch.device("cpu"))
    prompts = [EvaluationPrompt(item.name, item.name) for item in catalog.trained[::5]]
    pictures = maker.make(prompts, range(len(prompts)), Sampling(steps=10, guidance_scale=4.0, batch_size=40))
    hits = EmojiDetector().detect(pictures, [row.concept for row in prompts])
    assert float(hits.float().mean()) > 0.6
    # Seeds decide the picture, not the batch.
    alone = maker.make(prompts[7:8], [7], Sampling(steps=10, guidance_scale=4.0))
    torch.testing.assert_close(alone[0], pictures[7], atol=1 / 255, rtol=0)


def test_weights_are_found_where_the_package_lies() -> None:
    assert find_base("emoji").path == Path(WEIGHTS).parent.parent / "emoji" / "weights"


def test_the_tokenizer_is_the_same_in_every_process(tmp_path: Path) -> None:
    """The trainer numbers what a hash table gives it, and hash tables differ from process to process."""
    program = (
        "import sys; from pathlib import Path; from rece_lightning.emoji.catalog import load_catalog; "
        "from rece_lightning.emoji.training.tokenizer import train_tokenizer; "
        "train_tokenizer(load_catalog(), Path(sys.argv[1]))"
    )
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True)
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_tokenizer_that_is_there_is_kept(tmp_path: Path) -> None:
    """The embedded world's own numbers, which its text encoder was trained with."""
    kept = shutil.copytree(Path(WEIGHTS) / "tokenizer", tmp_path / "tokenizer")
    before = (kept / "tokenizer.json").read_bytes()
    tokenizer = train_tokenizer(load_catalog(), kept)
    assert (kept / "tokenizer.json").read_bytes() == before
    assert tokenizer("a bomb")["input_ids"] == CLIPTokenizer.from_pretrained(kept)("a bomb")["input_ids"]
