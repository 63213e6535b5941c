"""`inverted`: the noise behind pictures of a concept, its controls, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from rece_lightning import ConceptData, ConfigurationError
from rece_lightning.attacks import AttackStore, Goal, Inverted, Victim, make_goal, read_embeddings
from rece_lightning.attacks.explained import size_drawn
from rece_lightning.attacks.outcome import measure_all, requests_of, write_rungs
from rece_lightning.attacks.pictures import EmojiPictures, fitted
from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS
from rece_lightning.baselines.text_arguments import encoder_of
from rece_lightning.callbacks import RedTeam
from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.denoisers import known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.sampling import Sampling
from rece_lightning.reporting.ladder import read_ladder
from rece_lightning.vocabulary.expand import read_found
from tests.attacks.test_families import beside, erased, victim
from tests.helpers.tiny import unets

VARIANTS = ["noise=inverted text=own", "noise=inverted text=none", "noise=other text=own", "noise=alike text=own"]


class Squares:
    """Pictures of the size that the tiny pipelines draw; of another thing other ones."""

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(len(goal.concept))
        return torch.rand(count, 3, 16, 16, generator=generator)


def test_pictures_come_back_from_their_noise_without_a_text(original: Victim) -> None:
    """From the inverted noise nearer than from noise of the same mean and deviation, and nearest to their own."""
    found = Inverted(steps=30, pictures=4).run(original, make_goal("bomb"))
    pictures = EmojiPictures().of(original, make_goal("bomb"), 4)
    by_variant = {name: [one for one in found if one.variant == name] for name in VARIANTS}
    assert {len(rows) for rows in by_variant.values()} == {4}
    without = by_variant[VARIANTS[1]]
    assert {one.prompt for one in without} == {""}
    drawn = original.draw(requests_of(original, without, [0, 1]), edited=False)
    assert len(drawn) == 4  # a noise is drawn once, whatever the seeds
    alike = [replace(one, prompt="") for one in by_variant[VARIANTS[3]]]
    random = original.draw(requests_of(original, alike, [0]), edited=False)

    def missed(some: Tensor) -> Tensor:
        return (some - pictures).square().mean(dim=(1, 2, 3))

    assert bool((missed(drawn) < 0.5 * missed(random)).all())
    each = (drawn[:, None] - pictures).square().mean(dim=(2, 3, 4))
    assert torch.equal(each.argmin(1), torch.arange(4))
    own, other = (torch.stack([one.latents for one in by_variant[VARIANTS[place]]]) for place in (0, 3))
    torch.testing.assert_close(own.mean((1, 2, 3)), other.mean((1, 2, 3)), atol=0.3, rtol=0)
    torch.testing.assert_close(own.std((1, 2, 3)), other.std((1, 2, 3)), atol=0.3, rtol=0)


def test_every_variant_is_measured_once_a_picture_and_read_back(edited: Victim, tmp_path: Path) -> None:
    attack, goal = Inverted(steps=3, pictures=2), make_goal("bomb")
    found = AttackStore(tmp_path).run(attack, edited, goal)
    again = AttackStore(tmp_path).run(attack, edited, goal)
    assert not (tmp_path / PROMPTS).exists()
    for one, stored, read in zip(found, again, read_embeddings(tmp_path / EMBEDDINGS), strict=True):
        for other in (stored, read):
            assert other.latents is not None
            assert one.latents is not None
            assert torch.equal(other.latents, one.latents)
            assert (other.variant, other.prompt, other.embedding) == (one.variant, one.prompt, None)
    rungs = [one.rung for one in measure_all(edited, attack, goal, found, (0, 1, 2), original=True)]
    assert [rung.variant for rung in rungs] == VARIANTS
    assert {(rung.edited.total, rung.original.total, rung.queries) for rung in rungs} == {(2, 2, 6)}
    # What the field counts is the attack's, not its controls' on the same concept.
    whole = [replace(rung, concept="all") for rung in rungs]
    write_rungs([*rungs, *whole], tmp_path / "red_team.csv", {"detector": "", "sampling": ""})
    ladder = read_ladder(tmp_path / "red_team.csv")
    assert ladder is not None
    assert [row.variant for row in ladder.attacks] == VARIANTS[:2]
    assert len(ladder.whole) == 4


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart_sigma"])
def test_it_goes_backwards_through_every_familys_own_pipeline(tmp_path: Path, name: str) -> None:
    """Few steps of an untrained model: a little noise is added in many small steps of its own prediction."""
    one = victim(erased(tmp_path, name), Sampling(40, 1.0, 4))
    if name == "pixart_sigma":  # an untrained model is no flow that can be followed to where nothing of the picture is
        one.pipeline.scheduler = DDIMScheduler(beta_end=0.002, timestep_spacing="trailing")
    one.pipeline.default_sample_size = 8
    goal = make_goal("bomb")
    found = Inverted(steps=40, pictures=2, source=Squares()).run(one, goal)
    assert [row.variant for row in found[::2]] == VARIANTS
    without = [row for row in found if row.variant == VARIANTS[1]]
    family, requests = known_family(one.pipeline), requests_of(one, without, [0])
    assert family is not None
    arguments = family_arguments(one.pipeline, family, requests, requests[0], family.unguided if family.negative else 1)
    sized = {"height": 16, "width": 16, "use_resolution_binning": False}
    arguments |= {key: value for key, value in sized.items() if key in signature(one.pipeline.__call__).parameters}
    decoded = one.pipeline.vae
    with one.edited(), torch.no_grad():
        latents = torch.stack([row.latents for row in without if row.latents is not None])
        drawn = one.pipeline(**arguments, latents=latents, num_inference_steps=40, output_type="pt").images
        latents = decoded.encode(Squares().of(one, goal, 2) * 2 - 1).latent_dist.mean
        expected = (decoded.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    apart = (drawn - expected).square().mean()
    assert float(apart) < 0.2 * float((drawn - expected.flip(0)).square().mean())


class Given:
    """Pictures as somebody has them."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        return self.pictures[:count]


@pytest.mark.parametrize("size", [(70, 45), (20, 24)])
def test_pictures_of_another_size_are_scaled_to_what_the_model_draws(original: Victim, size: tuple[int, int]) -> None:
    """As an imaging library scales each channel, and to a noise that the model takes."""
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    plain = np.stack([
        [np.asarray(Image.fromarray(channel).resize((32, 32), Image.Resampling.BICUBIC)) for channel in picture]
        for picture in pictures.numpy()
    ]).clip(0, 1)  # fmt: skip
    scaled = fitted(pictures, (32, 32), Given(pictures), "inverted")
    np.testing.assert_allclose(scaled.numpy(), plain, atol=2e-3)

    found = Inverted(steps=3, pictures=2, source=Given(pictures)).run(original, make_goal("bomb"))
    expected = Inverted(steps=3, pictures=2, source=Given(scaled)).run(original, make_goal("bomb"))
    for one, other in zip(found, expected, strict=True):
        assert one.latents is not None
        assert other.latents is not None
        assert torch.equal(one.latents, other.latents)
    assert original.draw(requests_of(original, found, [0]), edited=True).shape == (8, 3, 32, 32)
    assert fitted(scaled, (32, 32), Given(pictures), "inverted") is scaled


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart_sigma", "qwen_image", "hidream"])
def test_the_size_that_a_family_draws_is_that_of_its_pictures(name: str) -> None:
    one = beside(name)
    one.pictures.encoder = encoder_of(one.pipeline)
    one.pipeline.default_sample_size = 8
    (request,) = one.requests(["bomb"])
    family = known_family(one.pipeline)
    assert family is not None
    arguments = family_arguments(one.pipeline, family, [request], request, family.unguided if family.negative else 1)
    if "use_resolution_binning" in signature(one.pipeline.__call__).parameters:
        arguments["use_resolution_binning"] = False
    with torch.no_grad():
        drawn = one.pipeline(**arguments, num_inference_steps=1, output_type="pt").images
    assert size_drawn(one, "bomb", "attacks: inverted") == tuple(drawn.shape[-2:])


def test_what_is_no_picture_and_what_reads_more_than_latents_is_refused(original: Victim) -> None:
    for pictures, said in (
        (torch.rand(2, 1, 32, 32), r"\(1, 1, 32, 32\); give pictures \[n, 3, h, w\]"),
        (torch.rand(3, 32, 32), r"\(1, 32, 32\); give"),
        (2 * torch.ones(2, 3, 40, 40) - 3, r"from -1 to -1; give pictures with values in \[0, 1\]"),
        (torch.full((2, 3, 40, 40), torch.nan), r"from nan to nan; give"),
    ):
        with pytest.raises(ConfigurationError, match=rf"attacks: inverted: source: Given gives .*{said}"):
            Inverted(steps=2, pictures=1, source=Given(pictures)).run(original, make_goal("bomb"))
    # Its U-Net reads a picture beside the latents.
    upscaling = Victim(SimpleNamespace(pipeline=unets.build("upscaler"), encoder=None, use=lambda _: None))
    with pytest.raises(BaseModelError, match=r"attacks: inverted: the U-Net reads more than noisy latents"):
        Inverted(source=Squares()).run(upscaling, make_goal("bomb"))


def test_what_it_needs_is_said(original: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, named in (({"steps": 0}, "steps"), ({"pictures": 0}, "pictures")):
        with pytest.raises(ConfigurationError, match=rf"attacks: inverted: {named}"):
            Inverted(**settings)
    with pytest.raises(ConfigurationError, match=r"between_epochs: inverted finds noise to start from"):
        RedTeam(between_epochs=["inverted"])
    one = Inverted(steps=2, pictures=1)
    AttackStore(tmp_path).run(one, original, make_goal("bomb"))
    with pytest.raises(ConfigurationError, match="found"):
        read_found(str(tmp_path), ConceptData(["bomb"]))
    monkeypatch.setattr(original.pipeline, "vae", None)
    with pytest.raises(BaseModelError, match=r"attacks: inverted: .*no autoencoder"):
        one.run(original, make_goal("bomb"))
