"""How the tools read their options, and how they stay silent about what a user cannot act on."""

from __future__ import annotations

import argparse
import warnings
from typing import NoReturn

from rece_lightning.cli.verbs import fail
from rece_lightning.core.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one message that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        words = message.split()
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        if message.startswith("unrecognized arguments:") and words[2].startswith("--"):
            fail(f"unknown option {words[2]}; {nearest(words[2].split('=')[0], options)}.")
        fail(f"{message}; see `{self.prog} --help`.")


def quiet() -> None:
    """Silence what libraries say about matters that a user cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
