"""What a sweep found: the recommended setting, the page that says why, the configuration that ``fit`` takes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rece_lightning.core.errors import ConfigurationError
from rece_lightning.evaluation.results.comparison import ORIGINAL
from rece_lightning.evaluation.results.counts import Count
from rece_lightning.evaluation.results.sheets import read_tiles, sheet_path
from rece_lightning.evaluation.results.states import UNWANTED, State, best_balance
from rece_lightning.files import write_text
from rece_lightning.reporting.side_by_side import shots_to_show
from rece_lightning.reporting.states_page import FrontRow, sweep_page
from rece_lightning.sweep.choice import (
    ERASED_BY,
    FRONT_RULE,
    MEASURED_RULE,
    RECOMMENDED_RULE,
    UNMEASURED_RULE,
    Choice,
    point,
)
from rece_lightning.sweep.grid import Setting, in_words
from rece_lightning.sweep.measuring import Measuring, column_of
from rece_lightning.sweep.parts import Parts
from rece_lightning.sweep.ranking import Figures
from rece_lightning.sweep.table import PAGE, RECOMMENDED, SweepTable


class Outcome:
    """Of a sweep whose settings were ranked, and measured where that was asked.

    Args:
        parts: of a ``fit``.
        base: the configuration as it is.
        folder: of the sweep.
        choice: the ranked settings and their front.
        table: of all settings.
        measuring: what was measured; ``None`` without pictures.

    Raises:
        ConfigurationError: if what was measured is not enough to choose by.
    """

    def __init__(
        self,
        parts: Parts,
        base: Setting,
        folder: Path,
        choice: Choice,
        table: SweepTable,
        measuring: Measuring | None,
    ) -> None:
        self.parts, self.base, self.folder, self.choice, self.table = parts, base, folder, choice, table
        self.states: list[State] = []
        self.measured: dict[int, int] = {}
        """Place in the choice → row of its state."""
        self._of_state: list[Setting | None] = []
        places = {column_of(table.numbers[setting.identity]): i for i, (setting, _) in enumerate(choice.ranked)}
        for column, counts in (measuring.columns if measuring else {}).items():
            if column == ORIGINAL or column in places:
                self._take(column, counts, places.get(column))
        self.recommended, self.finding = self._recommend()

    def _take(self, column: str, counts: Sequence[Count], place: int | None) -> None:
        setting, figures = (None, None) if place is None else self.choice.ranked[place]
        hits = {count.shot: count.detected for count in counts}
        shown = set(shots_to_show(list(hits)))
        wanted = {index: count.shot for index, count in enumerate(counts) if count.shot in shown}
        tiles = read_tiles(sheet_path(self.folder / "images", column), list(wanted))
        state = State(
            name="original",
            hits=hits,
            edited=False,
            shown={count.shot: count.shown for count in counts if count.shown},
            tiles={wanted[index]: tile for index, tile in tiles.items()},
            floors={count.shot: count.floor for count in counts if count.floor is not None},
        )
        if setting is not None and figures is not None and place is not None:
            note = "" if setting.identity == self.base.identity else setting.describe(self.base)
            known = {
                "preservation_drift": figures.drift,
                "regeneration_residual": figures.residual,
                "weight_change": figures.weight_change,
            }
            state = replace(state, name=self.name(setting), note=note, edited=True, figures=known)
            self.measured[place] = len(self.states) + 1
        self.states.append(state)
        self._of_state.append(setting)

    def _recommend(self) -> tuple[Setting, str]:
        if not self.states:
            place = self.choice.promising()
            assert place is not None
            setting, figures = self.choice.ranked[place]
            return setting, (
                f"Not measured with pictures. {ERASED_BY[self.choice.erased_by].capitalize()}: "
                f"{point(figures, self.choice.erased_by)[0]:.3f}; drift of preserved prompts: {figures.drift:.3f}."
            )
        best = best_balance(self.states)
        chosen = None if best is None else self._of_state[best.place]
        if best is None or chosen is None:
            raise ConfigurationError(
                "data.validation: a setting is chosen by erased and by preserved prompts; give both, or --measure 0."
            )
        state = self.states[best.place]
        count = len(self.measured)
        rank = (
            f"the highest of {count} measured settings, {'' if best.clear else 'not '}more than chance above the next"
            if count > 1
            else "the only setting measured"
        )
        above = state.excess()
        floor = "" if above is None else f" ({above} above their floor, {state.floor()})"
        return chosen, (
            f"Harmonic mean {state.balance_text}, {rank}: "
            f"erased concepts and synonyms detected in {state.share(UNWANTED)}{floor}, preserved ones in "
            f"{state.share(('kept',))}."
        )

    def name(self, setting: Setting) -> str:
        """``setting 3``, by its number in the table."""
        note = " (the configuration as it is)" if setting.identity == self.base.identity else ""
        return f"setting {self.table.numbers[setting.identity]}{note}"

    @cached_property
    def refused(self) -> list[tuple[str, str]]:
        """Settings that have no figures, and why."""
        found = self.table.found.items()
        return [(self.table.settings[i].describe(self.base), why) for i, why in found if isinstance(why, str)]

    def write(self, command: str) -> None:
        """The configuration, and the page as the last file.

        Raises:
            ConfigurationError: if they cannot be written.
        """
        text = self.parts.configuration(self.recommended)
        config = self.folder / RECOMMENDED
        write_text(config, text)
        choice, data = self.choice, self.parts.data
        erased = [pair.prompt for pair in data.pairs]
        changed = self.recommended.differs(self.base) or self.base.values
        page = sweep_page(
            title=f"Settings for erasing {', '.join(erased[:5])}{', …' if len(erased) > 5 else ''}",
            recommended=self.name(self.recommended),
            settings={key: in_words(value) for key, value in changed.items()},
            finding=self.finding,
            rules=[FRONT_RULE, *([MEASURED_RULE, RECOMMENDED_RULE] if self.states else [UNMEASURED_RULE])],
            states=self.states,
            points=[point(figures, choice.erased_by) for _, figures in choice.ranked],
            front=choice.front,
            measured=self.measured,
            x=ERASED_BY[choice.erased_by],
            rows=[self._front_row(place) for place in choice.front],
            refused=self.refused,
            protocol="" if self.parts.measure is None else str(self.parts.measure),
            notes=self._notes(),
            commands=[f"rece fit --config {shlex.quote(str(config))}", command],
        )
        write_text(self.folder / PAGE, page)

    def _front_row(self, place: int) -> FrontRow:
        setting, figures = self.choice.ranked[place]
        number, described = self.table.numbers[setting.identity], setting.describe(self.base)
        return FrontRow(number, described, _cells(figures), place in self.measured)

    def _notes(self) -> list[str]:
        notes = [f"Drift is measured on {len(self.parts.held_out)} prompts that must stay and are in no other list."]
        if not self.parts.data.held_out:
            notes = ["Drift is measured on the preserved prompts themselves: data.validation has no others."]
        # At the end of what was tried there may be a better setting beyond it.
        for key, value in self.recommended.values.items():
            tried = {other.values[key] for other in self.table.settings.values() if is_number(other.values.get(key))}
            if is_number(value) and len(tried) > 1:
                end = {max(tried): "largest", min(tried): "smallest"}.get(value)
                if end:
                    notes.append(f"{key} {in_words(value)} is the {end} value tried: beyond it may be a better one.")
        return notes


def is_number(value: Any) -> bool:
    """Whether there may be a larger one, or a smaller one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cells(figures: Figures) -> tuple[str, ...]:
    forms = {"remaining": ".3f", "regained": ".3f", "drift": ".3f", "norm_ratio": ".2f", "weight_change": ".2f"}
    return tuple(format(getattr(figures, name), form) for name, form in forms.items())
