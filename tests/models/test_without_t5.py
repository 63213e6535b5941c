"""Stable Diffusion 3 without T5, which diffusers leaves to the user, and does not open again of itself."""

from __future__ import annotations

from pathlib import Path

import torch

from rece_lightning.models.encoders import load_encoder
from rece_lightning.models.find import find_base
from rece_lightning.models.pipelines import load_pipeline
from tests.helpers.tiny.pipelines import sd3


def test_its_rows_are_the_pipelines_and_end_in_zeros(tmp_path: Path) -> None:
    own = sd3(with_t5=False)
    own.save_pretrained(tmp_path)
    base = find_base(str(tmp_path))
    encoder = load_encoder(base)
    with torch.no_grad():
        rows, _, pooled, _ = own.encode_prompt("a bomb", None, None)
    encoded = encoder.encode(["a bomb"])
    torch.testing.assert_close(encoded.rows("text")[0].rows, rows[0])
    torch.testing.assert_close(encoded.rows("pooled")[0].rows, pooled)
    # 256 of them, as a call of the pipeline asks for.
    assert rows[0, :-256].any(dim=-1).all()
    assert not rows[0, -256:].any()
    pipeline = load_pipeline(base)
    assert pipeline.text_encoder_3 is None
    for name, weight in own.transformer.named_parameters():
        assert torch.equal(pipeline.transformer.get_parameter(name), weight)
