"""What a class of damage is, and the catalogue that its functions enter themselves in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from biomedray.corpus.layouts import Bundle
from biomedray.corpus.truth import Expected

Damage = Callable[[Bundle], Expected]
_BOTH = ("package", "cloud")


@dataclass(frozen=True)
class Class:
    """A class of damage and the layouts that it can occur in."""

    name: str
    layouts: tuple[str, ...]
    damage: Damage


class Catalogue:
    """Classes of damage in the order of their definition."""

    def __init__(self) -> None:
        self.classes: list[Class] = []

    def on(self, *layouts: str) -> Callable[[Damage], Damage]:
        """Decorator: enter a function for these layouts, by default both."""

        def register(function: Damage) -> Damage:
            self.classes.append(Class(function.__name__.lstrip("_"), layouts or _BOTH, function))
            return function

        return register
