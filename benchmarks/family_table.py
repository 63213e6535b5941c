"""The table of families in ``docs/models.md``, from the declarations.

python -m benchmarks.family_table
"""

from __future__ import annotations

import re

from rece_lightning.models.families import FAMILIES
from rece_lightning.models.families.base import Family, Place

HEADING = "| family | pipelines of diffusers | text spaces and what reads them |\n|---|---|---|"
TAPPED = {"llama_layers": [0]}
"""A configuration whose spaces are as many as it says: one of them is shown."""


def table() -> str:
    """As Markdown, a row a family."""
    return "\n".join([HEADING, *(_row(family) for family in FAMILIES)]) + "\n"


def _row(family: Family) -> str:
    pipelines = ", ".join(name.removesuffix("Pipeline") for name in family.pipelines)
    places = "<br>".join(_place(place) for place in family.places_of(TAPPED))
    note = f" {family.note}" if family.note else ""
    if not family.lora:
        note += " Diffusers loads no LoRA of it."
    return f"| {family.title}.{note} | {pipelines} | {places} |"


def _place(place: Place) -> str:
    readers = re.sub(r"\(\?:([^)]*)\)", lambda found: "{" + found[1].replace("|", ",") + "}", place.readers)
    # Blocks of one alternative, and a prefix that may be there: names are shown, not expressions.
    readers = re.sub(r"\{([^,}]*)\}", r"\1", readers.replace(r"{.*\.}?", r".*\."))
    readers = readers.replace(r"\.", ".").replace(r"\d+", "N").replace("[kv]", "{k,v}").replace(".*", "*")
    behind = f", behind `{'`, `'.join(place.before)}`" if place.before else ""
    instead = f", in place of {place.instead_of}" if place.instead_of else ""
    component = f" of `{place.component}`" if place.component else ""
    return f"{place.name}: `{readers}`{component}{behind}{instead}"


if __name__ == "__main__":
    print(table(), end="")
