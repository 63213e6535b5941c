"""`inverted`: the noise behind pictures of a concept, its controls, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from rece_lightning import ConceptData, ConfigurationError
from rece_lightning.attacks import AttackStore, Goal, Inverted, Victim, make_goal, read_embeddings
from rece_lightning.attacks.outcome import measure_all, requests_of, write_rungs
from rece_lightning.attacks.pictures import EmojiPictures
from rece_lightning.attacks.store import EMBEDDINGS, PROMPTS
from rece_lightning.callbacks import RedTeam
from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.denoisers import known_family
from rece_lightning.models.family_sampling import family_arguments
from rece_lightning.models.sampling import Sampling
from rece_lightning.reporting.ladder import read_ladder
from rece_lightning.vocabulary.expand import read_found
from tests.attacks.test_families import erased, victim

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
