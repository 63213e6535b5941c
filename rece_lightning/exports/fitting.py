"""Which formats fit an erasure, and who reads them: what refusals, last lines of commands and cards advise."""

from __future__ import annotations

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.erasure.trained_weights import AnyErasure, TrainedWeights
from rece_lightning.exports.map import entry_beside, map_problem
from rece_lightning.exports.trained_lora import matrices_problem
from rece_lightning.models.base import BaseModel
from rece_lightning.models.families import family_named
from rece_lightning.models.original.model import PARTS

NAMES = ("delta", "pipeline", "single-file", "lora", "kohya", "map")
LORAS = ("lora", "kohya")
FOR_WEBUIS = ("single-file", "kohya")


def check_fits(format: str, erasure: AnyErasure) -> None:
    """Refuse a format that cannot hold the erasure, or that other tools have not for a model of its family.

    Raises:
        ConfigurationError: with those that fit.
    """
    problem = problem_of(format, erasure)
    if problem is None:
        return
    entry = entry_beside(erasure) if format == "map" and not isinstance(erasure, TrainedWeights) else None
    remedies = [f"erase with model.method.spaces: [{entry}]"] if entry else []
    remedies.append(f"export {listed(formats_of(erasure))}")
    raise ConfigurationError(f"--format {format}: {problem}; {', or '.join(remedies)}.")


def formats_of(erasure: AnyErasure) -> list[str]:
    """The formats that an erasure can be exported in; ``delta`` is always among them."""
    return [format for format in NAMES if problem_of(format, erasure) is None]


def problem_of(format: str, erasure: AnyErasure) -> str | None:
    """Why a format does not fit the erasure; ``None`` where it does."""
    problem = _family_problem(format, erasure.base)
    if problem is not None:
        return problem
    if not isinstance(erasure, TrainedWeights):
        return map_problem(erasure) if format == "map" else None
    if format == "map":
        return "no map on prompt embeddings does what was trained"
    return matrices_problem(erasure) if format in LORAS else None


def _family_problem(format: str, base: BaseModel) -> str | None:
    family = family_named(base.family)
    if format in LORAS and len(base.denoisers) > 1:
        return (
            f"this model has {', '.join(base.denoisers)}, and a LoRA is loaded into one denoiser at a time, so that "
            "the other would draw what was erased"
        )
    if format == "pipeline" and family is not None and base.layout != "folder":
        return f"pipeline is a whole diffusers folder, and {base.name} is {family.title}'s transformer alone"
    has_kohya = family is None or bool(family.original)
    has_original = base.family in PARTS if family is None else base.layout == "single_file"
    if (format == "kohya" and not has_kohya) or (format == "single-file" and not has_original):
        if format == "single-file" and has_kohya and family is not None:
            return f"single-file is written of {family.title}'s own file, and not of a folder"
        title = "Stable Diffusion XL's refiner" if family is None else family.title
        return f"{format} is not written for {title}"
    return None


def diffusers_loads(format: str, base: BaseModel) -> bool:
    """Whether ``load_lora_weights`` of the model's pipeline reads a LoRA in this format.

    Of ``kohya`` it knows the names of U-Nets. For transformers it knows those of the blocks, not those of what reads
    the text before them.
    """
    family = family_named(base.family)
    return family is None or (family.lora and format == "lora")


def readers_of(format: str, erasure: AnyErasure) -> str:
    """Who reads a format that fits, and what to take where somebody does not: the last words of a command and a card.

    Advice names no format that :func:`check_fits` refuses.
    """
    base = erasure.base
    family = family_named(base.family)
    fits = formats_of(erasure)
    other = [one for one in FOR_WEBUIS if one in fits]
    webuis = f"for one write {listed(other)}." if other else "no format of theirs holds this erasure."
    if format == "delta":
        code = f"{next(iter(base.parts))}.load_state_dict(…, strict=False)"
        if len(base.parts) > 1:
            code = f"load_state_dict of {' and '.join(base.parts)}, by which its names begin"
        return f"code: {code}. No WebUI reads it: {webuis}"
    if format == "pipeline":
        return f"diffusers: DiffusionPipeline.from_pretrained. WebUIs read files: {webuis}"
    if format == "map":
        return f"Python: rece_lightning.EmbeddingMap.load. No WebUI reads it: {webuis}"
    if format == "single-file":
        if family is None:
            return "WebUIs (A1111, Forge, ComfyUI), in their folder of checkpoints; and diffusers: from_single_file."
        return (
            f"what reads the file that it was made from (ComfyUI, Forge), in the folder where that file lies: it is "
            f"{family.title}'s, with the same names."
        )
    loads = diffusers_loads(format, base)
    if format == "kohya":
        if loads:
            return (
                "WebUIs (A1111, Forge, ComfyUI), in their folder of LoRAs; diffusers (load_lora_weights) reads it too."
            )
        return "ComfyUI and Forge, in their folder of LoRAs. Diffusers does not apply it: for diffusers write lora."
    if not loads:
        title = base.family if family is None else family.title
        return f"PEFT alone: diffusers has no loader of LoRAs for {title}; for diffusers write {listed(_whole(fits))}."
    kohya = ": for one write kohya" if "kohya" in fits else ""
    return f"diffusers (load_lora_weights) and PEFT. A WebUI may apply nothing of it without a word{kohya}."


def _whole(fits: list[str]) -> list[str]:
    return [one for one in ("pipeline", "delta") if one in fits]


def listed(names: list[str]) -> str:
    """Alternatives as a sentence has them: ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
