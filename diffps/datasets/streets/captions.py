"""What is in a scene, in words. The vocabulary of the built-in checkpoints' tokenizer is exactly these words."""

from collections.abc import Sequence

import numpy as np

from diffps.datasets.streets.people import COLOURS, PARTS, PATTERNS, Identity
from diffps.datasets.streets.scenery import OBJECTS

WORDS: tuple[str, ...] = (
    *("a", "person", "with", "hair", "hat", "bag", "street", "photo", "of", "the", "and", "in"),
    *PARTS,
    *OBJECTS,
    *COLOURS,
    *PATTERNS,
)


def describe(who: Identity) -> list[str]:
    """The words for each thing one can see of ``who``."""
    pattern = f" {who.pattern}" if who.pattern != "plain" else ""
    head = f"{who.hat} hat head" if who.hat else f"{who.hair} hair head"
    phrases = [head, f"{who.shirt}{pattern} shirts", f"{who.pants} pants", f"{who.shoes} shoes"]
    return phrases + ([f"{who.bag} bag"] if who.bag else [])


def caption(people: Sequence[Identity], things: Sequence[str], rng: np.random.Generator) -> str:
    """A caption for a picture that shows ``people`` (most prominent first) and ``things`` (words of OBJECTS).

    Long, short, of parts only, or empty, as ``rng`` has it: the empty one is what guidance needs, the others teach
    single words.
    """
    style = rng.random()
    article = "a " if rng.random() < 0.6 else ""
    if style < 0.08:
        return ""
    phrases: list[str] = []
    if people and style < 0.3:
        phrases = [f"{article}person"]
    elif people and style < 0.5:
        kept = [part for part in PARTS if rng.random() < 0.6]
        phrases = [" ".join([f"{article}person with", *kept])] if rng.random() < 0.5 else kept
    else:
        for who in people[:2]:
            kept = [phrase for phrase in describe(who) if rng.random() < 0.8]
            phrases.append(" ".join([f"{article}person with", *kept]))
    named = [article + thing for thing in things if rng.random() < 0.8]
    phrases = named + phrases if rng.random() < 0.4 else phrases + named
    return " ".join(phrases) if phrases else f"{article}street"
