"""Attacks on families of transformers: requests are the pipeline's own, derived rows are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import P4D, Cce, Derived, Paraphrase, UnlearnDiffAtk, Victim, make_goal
from rece_lightning.attacks.base import AdversarialPrompt
from rece_lightning.attacks.noise import add_noise, latents_of, noise_loss
from rece_lightning.attacks.of_session import victim_of
from rece_lightning.attacks.outcome import requests_of
from rece_lightning.attacks.pictures import EmojiPictures
from rece_lightning.callbacks import RedTeam
from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.derived import derived_of, out_of_reach
from rece_lightning.metrics import EmojiDetector
from rece_lightning.models.sampling import Sampling
from tests.helpers.fits import fit_quietly
from tests.helpers.tiny import pipelines

SAMPLING = Sampling(2, 3.0, 4)


def erased(path: Path, name: str, *spaces: str) -> RECE:
    pipelines.build(name).save_pretrained(path / name)
    module = RECE(str(path / name), method=Method(spaces=spaces or None))
    fit_quietly(module, ConceptData(["bomb"], target="a spoon", preserve=[" "]))
    return module


def victim(module: RECE, sampling: Sampling = SAMPLING) -> Victim:
    return victim_of(module.session, module.pictures, EmojiDetector(), sampling)


# Packed rows, a mask of padding, several layers of a language model, a list in place of a batch.
@pytest.mark.parametrize("name", ["qwen_image", "pixart_sigma", "hidream", "flux"])
def test_what_an_attacker_sends_is_all_that_the_pipeline_takes(tmp_path: Path, name: str) -> None:
    module = erased(tmp_path, name)
    one, texts = victim(module), ["a bomb", "a dog of a rocket"]
    found = [AdversarialPrompt("paraphrase", "bomb", place, text) for place, text in enumerate(texts)]
    embedding = torch.randn_like(module.pictures.embed(["a bomb"])[0].embedding)
    found.append(AdversarialPrompt("derived", "bomb", 0, "a bomb", embedding=embedding))

    sent = requests_of(one, found, [3])

    own = module.pictures.embed([*texts, "a bomb"])
    own[2] = replace(own[2], embedding=embedding, pooled=None)
    for request, expected in zip(sent, own, strict=True):
        assert request.seed == 3
        assert torch.equal(request.embedding, expected.embedding)
        assert (request.pooled is None) == (expected.pooled is None)
        assert set(request.call) == set(expected.call) != set()
        assert all(torch.equal(request.call[key], value) for key, value in expected.call.items())


def read_by_all(module: RECE, request: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the readers of every edited space make of a request, from its embeddings as a pipeline takes them."""
    found = {}
    for space in module.session.spaces:
        rows = {
            "text": request.embedding,
            "pooled": None if request.pooled is None else request.pooled[None],
        }.get(space.source or space.name)
        if rows is None:
            rows = request.call["prompt_embeds_llama3"][int(space.name.split(".")[1])]
        rows = module.session.encoder.passed(space, rows) if space.before else rows
        found[space.name] = torch.cat([
            rows.double() @ reader.part(weights[key]).double().T for key, reader in space.readers.items()
        ], dim=1)  # fmt: skip
    return found


@pytest.mark.parametrize(("name", "spaces"), [("flux", ()), ("hidream", ()), ("pixart_sigma", ("entry",))])
def test_derived_rows_bring_back_what_the_original_readers_made(
    tmp_path: Path, name: str, spaces: tuple[str, ...]
) -> None:
    """In every space that is edited, whatever argument of the pipeline its rows go by."""
    module = erased(tmp_path, name, *spaces)
    own = module.pictures.embed(["bomb"])[0]
    derived = derived_of(module.session, module.maps)(own)

    original, edited = dict(module.erasure().original()), dict(module.erasure().weights())
    wanted, plain, attacked = (
        read_by_all(module, request, weights)
        for request, weights in ((own, original), (own, edited), (derived, edited))
    )
    for space in wanted:
        before, after = (float((one[space] - wanted[space]).norm()) for one in (plain, attacked))
        assert after < 0.8 * before, space
    assert (derived.pooled is None) == (own.pooled is None)


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "lumina2"])
def test_behind_a_norm_the_direction_of_the_derived_row_is_given(tmp_path: Path, name: str) -> None:
    module = erased(tmp_path, name)
    own, space = module.pictures.embed(["bomb"])[0], module.session.spaces[0]

    derived = derived_of(module.session, module.maps)(own)

    encoder, read = module.session.encoder, own.embedding
    passed: Tensor = encoder.passed(space, read)  # type: ignore[attr-defined]
    gram, maps = module.session.attacked(module.maps)[space.name]
    ridge = 1e-3 * gram.scale
    edited, cross = maps.grams(gram)
    wanted = torch.linalg.solve(edited + ridge * torch.eye(space.width).double(), cross @ passed.double().T).T
    given = encoder.passed(space, derived.embedding).double()  # type: ignore[attr-defined]
    alike = torch.nn.functional.cosine_similarity(given, wanted, dim=1)[passed.any(dim=1)]
    assert float(alike.min()) > 0.999


@pytest.mark.parametrize("name", ["pixart_sigma", "wan", "sana", "ltx"])
def test_behind_a_projector_no_embedding_is_derived_and_it_says_where_one_is(tmp_path: Path, name: str) -> None:
    module = erased(tmp_path, name)
    reason = out_of_reach(module.session)
    assert reason is not None
    assert "no embedding that a pipeline takes" in reason
    assert "spaces: [entry]" in reason
    if name == "pixart_sigma":
        for attack in (Derived(), Cce()):
            with pytest.raises(
                ConfigurationError, match=r"read behind caption_projection.*spaces: \[entry\]|written for"
            ):
                attack.run(victim(module), make_goal("bomb"))


@pytest.mark.parametrize(
    ("name", "refused", "reason"),
    [("flux", "cce", "not for FLUX.1's"), ("flux", "p4d", "not for FLUX.1's")],
)
def test_what_cannot_attack_a_family_is_said_before_any_work(
    tmp_path: Path, name: str, refused: str, reason: str
) -> None:
    pipelines.build(name).save_pretrained(tmp_path / name)
    red_team = RedTeam(attacks=[refused], detector=EmojiDetector(), concepts=["bomb"])
    trainer = Trainer(callbacks=[red_team], accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigurationError, match=rf"attacks: {refused}: .*{reason}"):
        red_team.setup(trainer, RECE(str(tmp_path / name)), "test")


@pytest.mark.parametrize("attack", [P4D(), UnlearnDiffAtk(), Cce()])
def test_a_loss_on_noised_pictures_that_is_not_written_for_a_family(tmp_path: Path, attack: Any) -> None:
    module = erased(tmp_path, "flux")
    one = victim(module)
    one.pictures.pipeline.vae = None  # nothing is drawn before it says so
    with pytest.raises(
        ConfigurationError, match=rf"{attack.name}.*not for FLUX.1's denoiser; take paraphrase or derived"
    ):
        attack.run(one, make_goal("bomb"))


def test_paraphrases_need_nothing_of_a_model(tmp_path: Path) -> None:
    found = Paraphrase(most=2).run(victim(erased(tmp_path, "pixart_sigma")), make_goal("bomb", synonyms=("grenade",)))
    assert [one.prompt for one in found] == ["grenade", "a photo of a grenade"]


def test_the_transformer_of_stable_diffusion_3_answers_with_the_velocity_of_flow_matching(tmp_path: Path) -> None:
    """The trained world's loss is small where its own prompt is given, and larger where another is."""
    module = RECE("emoji-mmdit")
    one = victim_of(module.session, module.pictures, EmojiDetector(), Sampling(6, 4.0, 8))
    goal = make_goal("bomb")
    latents = latents_of(one.pipeline, EmojiPictures().of(one, goal, 8))
    noised = add_noise(one.pipeline, latents, torch.full((8,), 800), torch.Generator().manual_seed(0))
    encoded = one.encoder.encode(["bomb", "guitar"])
    with one.original() as denoiser, torch.no_grad():
        own, other = noise_loss(denoiser, noised, encoded.embeddings, encoded.pooled).tolist()
    variance = float(noised.answer.square().mean())
    assert own < 0.5 * variance
    assert own < other


def test_cce_brings_the_second_worlds_concept_nearer(tmp_path: Path) -> None:
    module = RECE("emoji-mmdit")
    fit_quietly(module, ConceptData(["bomb"], preserve=[" ", "dog"]))
    one = victim_of(module.session, module.pictures, EmojiDetector(), Sampling(4, 4.0, 8))
    for start in ("noise", "prompt"):
        found = Cce(steps=10, pictures=4, batch_size=4, start=start).run(one, make_goal("bomb"))
        assert found[-1].loss < found[-1].loss_before
    curve = Derived(ratios=[0.5, 1.0]).run(one, make_goal("bomb"))
    assert curve[1].loss < curve[0].loss < curve[0].loss_before
    requests = requests_of(one, [replace(curve[1])], [0])
    assert one.draw(requests, edited=True).shape == (1, 3, 32, 32)
