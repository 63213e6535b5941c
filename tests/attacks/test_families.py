"""Attacks on families of transformers: requests are the pipeline's own, derived rows are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.attacks import P4D, Cce, Derived, Paraphrase, UnlearnDiffAtk, Victim, make_goal
from rece_lightning.attacks.base import AdversarialPrompt, Goal
from rece_lightning.attacks.explained import explained
from rece_lightning.attacks.noise import add_noise, latents_of, noise_loss
from rece_lightning.attacks.of_session import victim_of
from rece_lightning.attacks.outcome import requests_of
from rece_lightning.attacks.pictures import EmojiPictures
from rece_lightning.baselines.text_arguments import encoder_of
from rece_lightning.core.errors import BaseModelError, ConfigurationError
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
        for attack in (Derived(), Cce(pictures=1)):
            with pytest.raises(ConfigurationError, match=r"read behind caption_projection.*spaces: \[entry\]"):
                attack.run(victim(module), make_goal("bomb"))


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


class Given:
    """Pictures that somebody has."""

    def __init__(self, side: int = 32) -> None:
        self.side = side

    def of(self, victim: Victim, goal: Goal, count: int) -> Tensor:
        return torch.rand(count, 3, self.side, self.side, generator=torch.Generator().manual_seed(4))


def beside(name: str, detector: EmojiDetector | None = None) -> Victim:
    """A tiny pipeline as it is, under attack."""
    return Victim(SimpleNamespace(pipeline=pipelines.build(name), encoder=None, use=lambda _: None), detector=detector)


# A pooled embedding beside packed latents; noise and a variance behind a projector; rows of any number; two denoisers.
@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "z_image", "wan"])
@pytest.mark.parametrize(("start", "tokens"), [("noise", 2), ("prompt", 0)])
def test_cce_learns_rows_that_explain_the_pictures_better(name: str, start: str, tokens: int) -> None:
    one = beside(name)
    one.pictures.encoder = encoder_of(one.pipeline)
    attack = Cce(steps=4, tokens=tokens, pictures=2, batch_size=4, learning_rate=0.3, start=start, source=Given())

    (found,) = attack.run(one, make_goal("bomb"))

    own = one.encoder.encode(["bomb"]).embedding(0)
    assert found.embedding is not None
    assert found.embedding.shape == own.shape
    assert found.loss < found.loss_before
    assert found.queries == 4 * 4 + 2 * 16
    if tokens:
        kept = torch.ones(len(own), dtype=torch.bool)
        kept[1 : 1 + tokens] = False
        empty = one.encoder.encode([""]).embedding(0)
        filled = torch.cat([empty, empty[-1:].expand(max(0, len(own) - len(empty)), -1)])[: len(own)]
        assert torch.equal(found.embedding[kept], filled[kept])
        assert not torch.isclose(found.embedding[~kept], filled[~kept]).all(dim=1).any()


@pytest.mark.parametrize("name", ["flux", "pixart_sigma"])
def test_the_loss_is_that_of_every_picture_at_its_own_noise_level(name: str) -> None:
    """Of any text, with the mask and the pooled embedding that are its own."""
    one, pictures = beside(name), Given().of(None, None, 3)  # type: ignore[arg-type]
    one.pictures.encoder = encoder_of(one.pipeline)
    request = one.requests(["a red dog of wood"])[0]
    problem = explained(one, "bomb", pictures, "attacks: cce")
    times = torch.tensor([800, 300, 800])
    made = problem.noised(torch.arange(3), times, torch.Generator().manual_seed(0))

    with torch.no_grad():
        found = float(problem.losses(made, [request]))

    noise = torch.randn(problem.latents.shape, generator=torch.Generator().manual_seed(0))
    vae, wanted = one.pipeline.vae, []
    with torch.no_grad():
        clean = (vae.encode(pictures * 2 - 1).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
        rows = request.embedding[None]
        for place, time in enumerate(times.tolist()):
            drawn = noise[place][None]
            if name == "flux":
                own = one.pipeline._pack_latents(clean[place][None], 1, 4, 16, 16)
                share = (time + 1) / 1000
                said = one.pipeline.transformer(
                    (1 - share) * own + share * drawn, encoder_hidden_states=rows, timestep=torch.tensor([share]),
                    pooled_projections=request.call["pooled_prompt_embeds"].reshape(1, -1), guidance=torch.ones(1),
                    img_ids=torch.tensor([[0.0, y, x] for y in range(8) for x in range(8)]),
                    txt_ids=torch.zeros(rows.shape[1], 3),
                ).sample  # fmt: skip
                wanted.append((said - (drawn - own)).square().mean())
            else:
                betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
                kept = float((1 - betas[: time + 1]).prod())
                said = one.pipeline.transformer(
                    kept**0.5 * clean[place][None] + (1 - kept) ** 0.5 * drawn, rows, timestep=torch.tensor([time]),
                    encoder_attention_mask=request.call["prompt_attention_mask"][None],
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                ).sample[:, :4]  # fmt: skip
                wanted.append((said - drawn).square().mean())
    assert found == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)


def test_noised_pictures_need_an_autoencoder_a_size_that_is_drawn_and_a_known_prediction() -> None:
    prior = beside("cascade_prior")  # nothing of its text or pictures is asked for before it says so
    for attack in (Cce(source=Given()), P4D(), UnlearnDiffAtk()):
        reason = rf"attacks: {attack.name}: StableCascadePriorPipeline has no autoencoder"
        with pytest.raises(BaseModelError, match=reason):
            attack.run(prior, make_goal("bomb"))
    one = beside("pixart_sigma")
    one.pictures.encoder = encoder_of(one.pipeline)
    with pytest.raises(
        ConfigurationError, match=r"PixArtSigmaPipeline does not draw pictures of 20 × 20 .*give a sour"
    ):
        Cce(source=Given(20), start="prompt").run(one, make_goal("bomb"))
    one.pipeline.scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(BaseModelError, match=r"attacks: cce: the scheduler predicts 'sample'"):
        Cce(source=Given(), start="prompt").run(one, make_goal("bomb"))
