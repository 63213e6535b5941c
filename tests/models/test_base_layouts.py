"""Every layout that a base model comes in: the same model must give the same erasure and the same encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from rece_lightning import RECE, ConceptData, Method
from rece_lightning.core.errors import BaseModelError
from rece_lightning.models.base import BaseModel
from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.families.unet import POOLED_READER
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from rece_lightning.models.sampling import Request, Sampling, generate
from rece_lightning.models.weights import SafetensorsWeights
from tests.helpers.models import make_checkpoint
from tests.helpers.models_original import KINDS, make_folder, make_original

PROMPTS = ["a photo of a cat", " ", "nudity"]
UNET = "diffusion_pytorch_model"


def erased(pretrained: Path | str, **model: object) -> RECE:
    """The module after two epochs."""
    module = RECE(pretrained=str(pretrained), tune="off", **model)  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ConceptData(concepts=["nudity"], preserve=[" ", "a cat"]))
    return module


def assert_same(first: RECE, second: RECE) -> None:
    """Fingerprints, maps and edited weights, bit for bit."""
    assert first.session.loaded.fingerprint == second.session.loaded.fingerprint
    assert first.maps.keys() == second.maps.keys()
    for space, maps in first.maps.items():
        assert torch.equal(maps.of_layer(0), second.maps[space].of_layer(0))
    edited = dict(second.erasure().weights())
    for name, weight in first.erasure().weights():
        assert torch.equal(weight, edited[name])
        assert weight.dtype == edited[name].dtype


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("kinds")
    return {kind: make_folder(place / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> dict[str, RECE]:
    return {kind: erased(folder) for kind, folder in folders.items()}


# One model in every format


def as_bin(folder: Path) -> None:
    """PyTorch's own format in place of safetensors."""
    for part, old, new in (
        ("unet", f"{UNET}.safetensors", f"{UNET}.bin"),
        ("vae", f"{UNET}.safetensors", f"{UNET}.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ):
        torch.save(load_file(folder / part / old), folder / part / new)
        (folder / part / old).unlink()


def as_shards(folder: Path) -> None:
    """Several files with an index, as diffusers and transformers write large models."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    (folder / "text_encoder" / "model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="100KB")
    assert (folder / "unet" / f"{UNET}.safetensors.index.json").exists()
    assert len(list((folder / "text_encoder").glob("*.safetensors"))) > 1


def as_sharded_bin(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / f"{UNET}.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB", safe_serialization=False)
    assert (folder / "unet" / f"{UNET}.bin.index.json").exists()


def as_legacy_bin(folder: Path) -> None:
    """What PyTorch wrote before version 1.6: no archive, so it cannot be mapped into memory."""
    file = folder / "unet" / f"{UNET}.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    file.unlink()


@pytest.mark.parametrize("change", [as_bin, as_shards, as_sharded_bin, as_legacy_bin])
def test_a_folder_in_other_files(folders: dict[str, Path], reference: dict[str, RECE], tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    folder = shutil.copytree(folders["sd1"], tmp_path / "model")
    change(folder)
    module = erased(folder)
    assert_same(reference["sd1"], module)
    whole = load_pipeline(module.base).unet.state_dict()
    for name, weight in load_pipeline(reference["sd1"].base).unet.state_dict().items():
        assert torch.equal(weight, whole[name])


@pytest.mark.parametrize("sharded", [False, True])
def test_a_variant(tmp_path: Path, sharded: bool) -> None:
    """Half precision beside full precision: the variant that was asked for is the one that is edited."""
    half = make_checkpoint(tmp_path / "half", dtype=torch.float16, variant="fp16")
    if sharded:
        unet = UNet2DConditionModel.from_pretrained(half / "unet", variant="fp16", torch_dtype=torch.float16)
        (half / "unet" / f"{UNET}.fp16.safetensors").unlink()
        unet.save_pretrained(half / "unet", variant="fp16", max_shard_size="50KB")
        assert (half / "unet" / f"{UNET}.safetensors.index.fp16.json").exists()
    with pytest.raises(BaseModelError, match=r"set model\.variant"):
        find_base(str(half))
    module = erased(half, variant="fp16")
    assert {weight.dtype for _, weight in module.erasure().weights()} == {torch.float16}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_single_file(
    folders: dict[str, Path], reference: dict[str, RECE], tmp_path: Path, kind: str, ending: str
) -> None:
    file = make_original(tmp_path / f"model{ending}", kind)
    module = erased(file)
    assert_same(reference[kind], module)
    assert module.base.family == reference[kind].base.family
    whole, same = load_pipeline(module.base), load_pipeline(reference[kind].base)
    assert type(whole) is type(same)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(same, part, None) is not None:
            others = getattr(whole, part).state_dict()
            for name, weight in getattr(same, part).state_dict().items():
                assert torch.equal(weight, others[name]), f"{part}: {name}"


def test_a_single_file_with_configurations_of_its_own(tmp_path: Path, folders: dict[str, Path]) -> None:
    """``model.config``: what no shape tells, here another prediction."""
    folder = tmp_path / "configs"
    shutil.copytree(folders["sd1"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "v_prediction"}))
    base = find_base(str(make_original(tmp_path / "model.safetensors", "sd1")), config=str(folder))
    assert load_pipeline(base).scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(BaseModelError, match=r"model\.config: 'sd9'.*sd2-base"):
        find_base(str(tmp_path / "model.safetensors"), config="sd9")


# The encoder is the pipeline's own


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_pipeline(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    for base in (find_base(str(folders[kind])), find_base(str(make_original(tmp_path / "m.safetensors", kind)))):
        pipeline = load_pipeline(base)
        encoded = load_encoder(base).encode(PROMPTS)
        answer = pipeline.encode_prompt(
            PROMPTS, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        torch.testing.assert_close(encoded.embeddings, answer[0], rtol=1e-5, atol=1e-5)
        assert encoded.embeddings.shape[-1] == base.width
        if kind == "sdxl":
            torch.testing.assert_close(encoded.pooled, answer[2], rtol=1e-5, atol=1e-5)
        else:
            assert encoded.pooled is None
        # begin, words, end: the published index of the last subject token
        assert encoded.last_subject.tolist()[:2] == [5, 0]


@pytest.mark.parametrize("kind", ["sdxl", "sd1-inpainting"])
def test_pictures(folders: dict[str, Path], kind: str) -> None:
    """With two encoders, and with a masked picture of nothing: each picture is what its pipeline makes alone."""
    base = find_base(str(folders[kind]))
    pipeline = load_pipeline(base)
    encoded = load_encoder(base).encode(["a cat", ""])
    pooled = [None, None] if encoded.pooled is None else list(encoded.pooled)
    cat, empty = (Request(encoded.embeddings[row], seed=4, pooled=pooled[row]) for row in range(2))
    made = generate(pipeline, [cat, cat], empty, Sampling(steps=2, guidance_scale=3.0))
    assert made.shape[0] == 2
    torch.testing.assert_close(made[0], made[1])
    size = made.shape[-1]
    more = (
        {} if kind == "sdxl" else {"image": torch.zeros(1, 3, size, size), "mask_image": torch.ones(1, 1, size, size)}
    )
    alone = pipeline(
        "a cat", generator=torch.Generator().manual_seed(4), num_inference_steps=2, guidance_scale=3.0,
        output_type="pt", height=size, width=size, **more, **({} if kind == "sdxl" else {"strength": 1.0}),
    ).images  # fmt: skip
    torch.testing.assert_close(made[0], alone[0].float(), rtol=1e-3, atol=1e-3)


def test_the_pooled_embedding_is_left_alone_where_the_text_is_edited_alone(folders: dict[str, Path]) -> None:
    """SDXL's text reaches the U-Net in a second way, which ``method.spaces`` may leave out."""
    module = erased(folders["sdxl"], method=Method(spaces=("text",)))
    assert list(module.maps) == ["text"]
    edited = set(dict(module.erasure().weights()))
    assert edited
    assert not [name for name in edited if "attn2" not in name]
    pipeline = module.pipeline()
    original = DiffusionPipeline.from_pretrained(folders["sdxl"])
    added = pipeline.unet.add_embedding.state_dict()
    for name, weight in original.unet.add_embedding.state_dict().items():
        assert torch.equal(weight, added[name])


def test_of_the_pooled_embeddings_reader_the_text_columns_alone_change(
    folders: dict[str, Path], reference: dict[str, RECE]
) -> None:
    """Behind them come sizes and crops of the picture, which no concept says anything about."""
    module = reference["sdxl"]
    assert list(module.maps) == ["text", "pooled"]
    edited = dict(module.erasure().weights())
    assert [name for name in edited if "attn2" not in name] == [POOLED_READER]
    unet, original = module.pipeline().unet, DiffusionPipeline.from_pretrained(folders["sdxl"]).unet
    assert torch.equal(unet.get_parameter(POOLED_READER), edited[POOLED_READER])
    before, width = original.get_parameter(POOLED_READER), module.maps["pooled"].of_layer(0).shape[0]
    expected = before[:, :width].double() @ module.maps["pooled"].of_layer(0)
    torch.testing.assert_close(edited[POOLED_READER][:, :width], expected.float())
    assert not torch.equal(edited[POOLED_READER][:, :width], before[:, :width])
    assert torch.equal(edited[POOLED_READER][:, width:], before[:, width:])
    for name, weight in original.add_embedding.state_dict().items():
        if f"add_embedding.{name}" != POOLED_READER:
            assert torch.equal(weight, unet.add_embedding.state_dict()[name])


def test_the_fingerprint_is_of_tensors_not_of_files(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["sd1"], tmp_path / "model")
    file = folder / "text_encoder" / "model.safetensors"
    before = find_base(str(folder)).fingerprint()
    tensors = load_file(file)
    save_file(dict(reversed(tensors.items())), file, metadata={"note": "another header"})
    assert find_base(str(folder)).fingerprint() == before
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1}, file)
    changed: BaseModel = find_base(str(folder))
    assert changed.fingerprint()["text_encoder"] != before["text_encoder"]
    assert changed.fingerprint()["projections"] == before["projections"]


@pytest.mark.parametrize("pretrained", ["emoji", "folder"])
def test_a_layout_beside_a_folder_is_refused(tiny_model: Path, pretrained: str) -> None:
    name = str(tiny_model) if pretrained == "folder" else pretrained

    with pytest.raises(BaseModelError, match=r"model\.config: 'sd1' would say.*is no file: .*leave it out"):
        find_base(name, config="sd1")


def test_a_file_larger_than_any_memory_is_read_from_its_places(tmp_path: Path) -> None:
    """Two small tensors around a hole of 64 GiB: what is read is what is asked for."""
    first, last = torch.arange(6.0).reshape(2, 3), torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    hole = 64 << 30
    header = json.dumps(
        {
            "first": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "hole": {"dtype": "BF16", "shape": [hole // 2], "data_offsets": [24, 24 + hole]},
            "last": {"dtype": "BF16", "shape": [2], "data_offsets": [24 + hole, 28 + hole]},
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    try:
        with file.open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header + first.numpy().tobytes())
            stream.seek(8 + len(header) + 24 + hole)
            stream.write(last.view(torch.int16).numpy().tobytes())
    except OSError as error:
        pytest.skip(f"no holes in files here: {error}")

    weights = SafetensorsWeights(file)

    assert weights.shapes()["hole"] == (hole // 2,)
    found = dict(weights.read(["last", "first"]))
    assert torch.equal(found["first"], first)
    assert torch.equal(found["last"], last)
