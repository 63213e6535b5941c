"""Quantized models: told apart from damaged ones, and refused with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WAY_OUT = (
    "erase from the unquantized model (bfloat16, float16 or float32), and put its LoRA or its map on the quantized one"
)
FLOAT8 = "float8 steps by 6 to 12 %, which would round an edit away"
KINDS = {
    "F8_E4M3": FLOAT8, "F8_E5M2": FLOAT8, "float8_e4m3fn": FLOAT8, "float8_e5m2": FLOAT8,
    "I8": "8 bits a weight", "U8": "4 or 8 bits a weight", "int8": "8 bits a weight", "uint8": "4 or 8 bits a weight",
}  # fmt: skip
"""Dtype, as a file or PyTorch names it → why it is not edited."""


def quantized_entry(file: Path, entry: Any) -> str:
    """What to say of a configuration that names a quantizer.

    Args:
        file: of the configuration.
        entry: its ``quantization_config``.
    """
    said = entry if isinstance(entry, Mapping) else {}
    method = str(said.get("quant_method") or "a quantizer")
    bits = next((f" in {bits} bits" for bits in (4, 8) if said.get(f"load_in_{bits}bit")), "")
    return (
        f"model.pretrained: {file}: quantization_config: the weights were quantized{bits} by {method}, and such "
        f"weights cannot be edited: refused. Give the model unquantized: {WAY_OUT}."
    )


def is_gguf(path: Path) -> bool:
    """Whether a file is GGUF, by its ending or its first bytes."""
    if path.suffix.lower() == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def gguf_refused(path: Path) -> str:
    """What to say of such a file."""
    return f"model.pretrained: {path} is GGUF, a quantized format, which cannot be edited; {WAY_OUT}."


def dtype_refused(where: str, name: str, dtype: str) -> str:
    """What to say of a tensor that is stored as no plain floating-point numbers."""
    why = f" ({KINDS[dtype]})" if dtype in KINDS else ""
    return (
        f"model.pretrained: {where}: {name} is stored as {dtype}{why}, a quantized format or none of weights; give the "
        f"model in float16, bfloat16 or float32: {WAY_OUT}."
    )
