"""An erasure of a pipeline whose projections lie inside adapters, or are not what the model computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.testing._internal.two_tensor import TwoTensor

import rece_lightning
from rece_lightning import ConfigurationError, Method
from rece_lightning.core.editors import TensorUCE
from tests.helpers.erasures import make_xl_checkpoint
from tests.helpers.loras import computed, fill, readers
from tests.helpers.models import make_checkpoint

KEYS_AND_VALUES = ["to_k", "to_v"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "base", seed=9)


def load(folder: Path) -> Any:
    """In float64, so that what an edit does is seen beside the rounding."""
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    loaded.unet.double()
    return loaded


@pytest.fixture
def pipeline(checkpoint: Path) -> Any:
    return load(checkpoint)


def assert_mapped(after: dict[str, Tensor], before: dict[str, Tensor], matrix: Tensor) -> None:
    """Every reader is what it was, times ``M``; and that is something else."""
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight @ matrix, rtol=1e-9, atol=1e-11)
        assert not torch.allclose(after[name], weight, rtol=1e-3, atol=1e-3)


def with_lora(pipeline: Any, **settings: Any) -> None:
    pipeline.unet.add_adapter(LoraConfig(**{"r": 2, "target_modules": KEYS_AND_VALUES, **settings}))


def two_loras(pipeline: Any) -> None:
    for name, rank, targets in (("one", 2, KEYS_AND_VALUES), ("two", 3, ["to_v"]), ("idle", 2, ["to_k"])):
        pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=4, target_modules=targets), adapter_name=name)
    pipeline.unet.set_adapters(["one", "two"], [0.5, -2.0])


def wrapped_by_peft(pipeline: Any) -> None:
    pipeline.unet = get_peft_model(pipeline.unet, LoraConfig(r=2, lora_alpha=3, target_modules=KEYS_AND_VALUES))


def merged(pipeline: Any) -> None:
    two_loras(pipeline)
    fill(pipeline.unet)
    pipeline.fuse_lora(components=["unet"], adapter_names=["one"])


def merged_and_off(pipeline: Any) -> None:
    merged(pipeline)
    pipeline.unet.disable_adapters()


def switched_off(pipeline: Any) -> None:
    two_loras(pipeline)
    pipeline.unet.disable_adapters()


SETUPS: dict[str, Callable[[Any], None]] = {
    "alpha over r": lambda pipeline: with_lora(pipeline, lora_alpha=5),
    "rslora": lambda pipeline: with_lora(pipeline, r=4, lora_alpha=5, use_rslora=True),
    "dropout": lambda pipeline: with_lora(pipeline, lora_dropout=0.5),
    "values alone": lambda pipeline: with_lora(pipeline, target_modules=["to_v", "to_q"]),
    "ranks of their own": lambda pipeline: with_lora(pipeline, rank_pattern={"to_k": 3}, alpha_pattern={"to_k": 7}),
    "several": two_loras,
    "get_peft_model": wrapped_by_peft,
    "merged": merged,
    "merged and switched off": merged_and_off,
    "switched off": switched_off,
}


@pytest.mark.parametrize("setup", SETUPS)
def test_a_lora_is_edited_with_its_base_and_comes_back(checkpoint: Path, setup: str) -> None:
    """``(W + s B A) M = W M + s B (A M)``; and ``M`` is that of the model with the LoRA fused into its weights."""
    pipeline, fused = load(checkpoint), load(checkpoint)
    SETUPS[setup](pipeline)
    if "merged" not in setup:
        fill(pipeline.unet)
    pipeline.unet.eval()
    before = computed(pipeline.unet)
    state = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    for name, layer in readers(fused.unet).items():
        layer.weight.data = before[name].clone()  # type: ignore[union-attr]
    erasure = rece_lightning.erase(pipeline, ["bomb"], preserve=[" ", "dog"], epochs=2, tune="off")
    reference = rece_lightning.erase(fused, ["bomb"], preserve=[" ", "dog"], epochs=2, tune="off")
    matrix = erasure.maps["text"].of_layer(0)
    torch.testing.assert_close(matrix, reference.maps["text"].of_layer(0), rtol=1e-6, atol=1e-8)
    assert erasure.figures == pytest.approx(reference.figures, rel=1e-6)
    assert_mapped(computed(pipeline.unet), before, matrix)
    changed = {name for name, value in pipeline.unet.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == set(erasure.names)
    assert not any("lora_B" in name for name in changed)
    erasure.undo()
    assert all(torch.equal(value, state[name]) for name, value in pipeline.unet.state_dict().items())


def test_whatever_is_switched_on_later_is_erased(pipeline: Any) -> None:
    """Scales, idle LoRAs, LoRAs that are switched off or taken away: the map is on every one of them."""
    two_loras(pipeline)
    fill(pipeline.unet)

    def states() -> Iterator[dict[str, Tensor]]:
        for names, scales in ((["one"], [1.0]), (["idle", "two"], [3.0, 0.25])):
            pipeline.unet.set_adapters(names, scales)
            yield computed(pipeline.unet)
        pipeline.unet.disable_adapters()
        yield computed(pipeline.unet)
        pipeline.unet.enable_adapters()

    before = list(states())
    erasure = rece_lightning.erase(pipeline, ["bomb"], preserve=[" ", "dog"], tune="off")
    matrix = erasure.maps["text"].of_layer(0)
    for was, now in zip(before, list(states()), strict=True):
        assert_mapped(now, was, matrix)
    # The pipeline without its LoRAs is the erased base, and can be given back.
    pipeline.unload_lora_weights()
    assert_mapped(computed(pipeline.unet), before[-1], matrix)
    erasure.undo()
    assert all(torch.equal(weight, before[-1][name]) for name, weight in computed(pipeline.unet).items())


def test_one_map_a_layer_edits_each_lora_with_its_layers_map(pipeline: Any) -> None:
    two_loras(pipeline)
    fill(pipeline.unet)
    before = computed(pipeline.unet)
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=2, method=Method(editor=TensorUCE()))
    after = computed(pipeline.unet)
    for layer, name in enumerate(sorted(before)):
        torch.testing.assert_close(after[name], before[name] @ erasure.maps["text"].of_layer(layer))


def test_layers_are_chosen_by_their_own_names(pipeline: Any) -> None:
    wrapped_by_peft(pipeline)
    method = Method(layers=r"^up_blocks.*attn2\.to_v\.weight$")
    erasure = rece_lightning.erase(pipeline, ["bomb"], method=method, epochs=1)
    assert erasure.names
    assert all(name.startswith("base_model.model.up_blocks") and ".to_v." in name for name in erasure.names)


def test_the_pooled_reader_of_sdxl_is_found_inside_a_lora(tmp_path: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(make_xl_checkpoint(tmp_path / "xl", seed=13))
    reader = pipeline.unet.add_embedding.linear_1
    pipeline.unet.double().add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v", "add_embedding.linear_1"]))
    fill(pipeline.unet)
    layer = pipeline.unet.add_embedding.linear_1
    eye = torch.eye(reader.in_features, dtype=torch.float64)
    before = (layer(eye) - reader.bias).mT.detach()
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=2, tune="off")
    after, matrix = (layer(eye) - reader.bias).mT.detach(), erasure.maps["pooled"].of_layer(0)
    # The other columns are sizes and crops.
    torch.testing.assert_close(after[:, :16], before[:, :16] @ matrix, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(after[:, 16:], before[:, 16:], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(after[:, :16], before[:, :16], atol=1e-3)
    # A copy that peft trains in its place is no such layer.
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "xl")
    inject_adapter_in_model(LoraConfig(target_modules=["to_k"], modules_to_save=["add_embedding"]), pipeline.unet)
    with pytest.raises(ConfigurationError, match=r"trained copy \(modules_to_save\) of add_embedding"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")


@pytest.mark.parametrize("switched_on", [True, False])
def test_rows_are_those_of_the_adapted_text_encoder(checkpoint: Path, switched_on: bool) -> None:
    pipeline, plain, fused = load(checkpoint), load(checkpoint), load(checkpoint)
    targets = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    for one in (pipeline, fused):
        torch.manual_seed(0)
        one.text_encoder = get_peft_model(one.text_encoder, LoraConfig(lora_alpha=16, lora_dropout=0.3, **targets))
    fused.text_encoder = fused.text_encoder.merge_and_unload()
    pipeline.text_encoder.train()
    if not switched_on:
        pipeline.text_encoder.base_model.disable_adapter_layers()
    found, wanted, other = (
        rece_lightning.erase(one, ["bomb"], epochs=1, tune="off").maps["text"].of_layer(0)
        for one in ((pipeline, fused, plain) if switched_on else (pipeline, plain, fused))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, other, rtol=1e-2, atol=1e-2)


OTHER_KINDS: dict[str, tuple[Any, str]] = {
    "DoRA": (LoraConfig(r=2, target_modules=KEYS_AND_VALUES, use_dora=True), "a DoRA lies around .*norms"),
    "LoHa": (LoHaConfig(r=2, target_modules=KEYS_AND_VALUES), "loha"),
    "LoKr": (LoKrConfig(r=2, target_modules=KEYS_AND_VALUES), "lokr"),
    "IA3": (IA3Config(target_modules=KEYS_AND_VALUES, feedforward_modules=[]), "ia3"),
    "a trained copy": (LoraConfig(target_modules=["to_q"], modules_to_save=["to_k"]), "modules_to_save"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_adapters_are_refused_by_name_until_merged(pipeline: Any, kind: str) -> None:
    config, named = OTHER_KINDS[kind]
    model = get_peft_model(pipeline.unet, config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigurationError, match=rf"erase: pipeline.unet: .*{named}.*merge_and_unload"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    pipeline.unet = model.merge_and_unload()
    assert len(rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off").names) == len(readers(pipeline.unet))


def test_an_adapter_inside_another_is_refused(pipeline: Any) -> None:
    layer = pipeline.unet.get_submodule(next(iter(readers(pipeline.unet))))
    attention = pipeline.unet.get_submodule(next(iter(readers(pipeline.unet))).rpartition(".")[0])
    inner = get_peft_model(nn.Sequential(layer), LoHaConfig(r=2, target_modules=["0"])).base_model.model
    attention.to_k = get_peft_model(inner, LoraConfig(r=2, target_modules=["0"])).base_model.model[0]
    with pytest.raises(ConfigurationError, match=r"erase: pipeline.unet: .*(loha|inside another)"):
        rece_lightning.erase(pipeline, ["bomb"], tune="off")


# What takes a layer's weight from where it was edited: each changes the layer that it is given.


def parametrized(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    parametrizations.orthogonal(layer)


def normed(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    weight_norm(layer)


def pruned(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    prune.random_unstructured(layer, "weight", amount=0.5)


def forward_taken(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    """As kohya's networks hang themselves into a model."""
    down, up, former = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2), layer.forward
    layer.forward = lambda rows: former(rows) + rows @ down.T @ up.T  # type: ignore[method-assign]


def quantized(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    parent.to_v = torch.ao.nn.quantized.dynamic.Linear.from_float(with_qconfig(layer.float()))


def with_qconfig(layer: nn.Linear) -> nn.Linear:
    layer.qconfig = torch.ao.quantization.default_dynamic_qconfig  # type: ignore[assignment]
    return layer


def subclassed(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    """A tensor that holds others, as torchao's and quanto's do; its dtype says nothing of it."""
    layer.weight = nn.Parameter(TwoTensor(layer.weight.data, layer.weight.data.clone()))


def other_layer(unet: nn.Module, parent: nn.Module, layer: nn.Linear) -> None:
    class Scaled(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            return super().forward(2 * rows)

    parent.to_v = Scaled(layer.in_features, layer.out_features, bias=False)


ELSEWHERE: dict[str, tuple[Callable[[nn.Module, nn.Module, nn.Linear], None], str]] = {
    "parametrized": (parametrized, "parametrization"),
    "weight norm": (normed, "weight norm"),
    "pruned": (pruned, "pruning"),
    "forward taken": (forward_taken, "took the place of its forward .*forward_taken"),
    "quantized": (quantized, "quantized or replaced .*quantized.dynamic"),
    "tensor subclass": (subclassed, "two_tensor.TwoTensor"),
    "another class": (other_layer, "replaced .*Scaled"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ELSEWHERE)
def test_layers_that_compute_otherwise_are_refused_and_stand_in_the_way_of_undoing(pipeline: Any, kind: str) -> None:
    """None is left out in silence, and no undo reports success that changes nothing."""
    change, named = ELSEWHERE[kind]
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    path = next(name for name in readers(pipeline.unet) if name.endswith("to_v")).rpartition(".")[0]
    parent = pipeline.unet.get_submodule(path)
    change(pipeline.unet, parent, parent.to_v)
    before = computed_plainly(pipeline.unet)
    for refused in (
        erasure.undo,
        lambda: erasure.undo(force=True),
        lambda: rece_lightning.erase(pipeline, ["axe"], tune="off"),
    ):
        with pytest.raises(ConfigurationError, match=rf"{path}.to_v: .*{named}"):
            refused()
    assert not erasure.undone
    assert all(torch.equal(weight, before[name]) for name, weight in computed_plainly(pipeline.unet).items())


def computed_plainly(unet: nn.Module) -> dict[str, Tensor]:
    """The keys, which these tests leave as they are."""
    return {name: layer.weight.clone() for name, layer in readers(unet).items() if name.endswith("to_k")}  # type: ignore


@contextmanager
def refused_until_taken_back(erasure: Any, pipeline: Any, message: str) -> Iterator[None]:
    with pytest.raises(ConfigurationError, match=message):
        erasure.undo()
    assert not erasure.undone
    yield
    erasure.undo()
    assert erasure.undone


def test_fused_projections_are_refused_until_unfused(pipeline: Any) -> None:
    before = computed(pipeline.unet)
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    pipeline.fuse_qkv_projections(vae=False)
    with refused_until_taken_back(erasure, pipeline, r"undo: .*fused.*unfuse_qkv_projections\(\) first"):
        with pytest.raises(ConfigurationError, match=r"erase: .*fused.*unfuse_qkv_projections\(\) first"):
            rece_lightning.erase(pipeline, ["axe"], tune="off")
        pipeline.unfuse_qkv_projections(vae=False)
    # diffusers leaves the fused copies where they were: they compute nothing.
    assert all(torch.equal(weight, before[name]) for name, weight in computed(pipeline.unet).items())
    with rece_lightning.erase(pipeline, ["axe"], epochs=1, tune="off"):
        assert not any(torch.equal(weight, before[name]) for name, weight in computed(pipeline.unet).items())


def test_a_lora_fused_since_is_in_the_way_of_undoing(pipeline: Any) -> None:
    with_lora(pipeline)
    fill(pipeline.unet)
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    pipeline.fuse_lora(components=["unet"])
    with pytest.raises(ConfigurationError, match=r"undo: .*changed since .*a LoRA fused or unfused"):
        erasure.undo()
    pipeline.unload_lora_weights()
    with pytest.raises(ConfigurationError, match=r"undo: .*changed since"):
        erasure.undo()


def test_a_lora_loaded_since_is_in_the_way_of_undoing_until_it_is_unloaded(pipeline: Any) -> None:
    before = computed(pipeline.unet)
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    with_lora(pipeline)
    with refused_until_taken_back(erasure, pipeline, r"unload what was put around it since"):
        pipeline.unload_lora_weights()
    assert all(torch.equal(weight, before[name]) for name, weight in computed(pipeline.unet).items())


def test_another_unet_since_is_in_the_way_of_undoing_until_the_former_is_back(pipeline: Any, checkpoint: Path) -> None:
    edited, other = pipeline.unet, load(checkpoint).unet
    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    pipeline.unet = other
    with refused_until_taken_back(erasure, pipeline, r"undo: the pipeline has another U-Net"):
        pipeline.unet = edited


def test_weights_offloaded_since_are_in_the_way_of_undoing(pipeline: Any) -> None:
    """Accelerate keeps them beside the module, which it leaves on the device meta."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    erasure = rece_lightning.erase(pipeline, ["bomb"], epochs=1, tune="off")
    cpu_offload(pipeline.unet, "cpu")
    with refused_until_taken_back(erasure, pipeline, r"undo: the U-Net was offloaded"):
        with pytest.raises(ConfigurationError, match="offloaded"):
            rece_lightning.erase(pipeline, ["axe"], tune="off")
        remove_hook_from_module(pipeline.unet, recurse=True)
