"""A store and the parameters held against each other: how damage is repaired, and why an array is not there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from cache import ArraySpec, CacheError, FeatureStore, explain_difference
from diffps.errors import DiffPSError
from stages.config_data import ExtractConfig


def repairs(
    extract: ExtractConfig, wanted: Callable[[ExtractConfig], Sequence[ArraySpec]], damaged: Iterable[ArraySpec]
) -> tuple[list[list[str]], list[ArraySpec]]:
    """Arguments of the commands that write ``damaged`` arrays again once withdrawn, in their order; and the arrays
    that the parameters make under no encoding or head. ``wanted``: every array kept under a section ``extract``."""
    left = {spec.path: spec for spec in damaged}

    def claim(changed: ExtractConfig) -> set[str]:
        """Take what the changed section wants out of ``left``; the stages that write it."""
        mine = [spec.path for spec in wanted(changed) if spec.path in left and left[spec.path].id == spec.id]
        return {_stage(left.pop(path)) for path in mine}

    plain = [[stage] for stage in sorted({_stage(spec) for spec in left.values()})]
    changed: list[list[str]] = []
    try:
        stages = claim(extract)
        choices = {_choice(spec) for spec in left.values() if _stage(spec) == "extract"}
        for key, value in sorted(choices, key=str):
            if claim(replace(extract, **{key: value})):
                changed.append(["extract", "--set", f"extract.{key}={value}"])
    except (DiffPSError, CacheError):  # such as a checkpoint that is not here: the stages say it themselves
        return plain, []
    # The parameters' own extraction comes last: it names what training reads.
    commands = [["encode"], *changed, ["extract"]]
    return [command for command in commands if len(command) > 1 or command[0] in stages], list(left.values())


def explain(wanted: Iterable[ArraySpec], store: FeatureStore) -> Iterator[str]:
    """For each array that is wanted and the store lacks: the nearest one it has, and the fields that differ."""
    there = {spec.path: spec for spec in store.arrays()}
    for spec in wanted:
        found = there.get(spec.path)
        if found is not None and found.id == spec.id:
            continue
        same = [
            other
            for other in there.values()
            if (other.group.split, other.group.view) == (spec.group.split, spec.group.view)
            and _stem(other.name) == _stem(spec.name)
        ]
        if not same:
            yield f"{spec.path}: the store has no {spec.name} for {spec.group.split}/{spec.group.view}"
            continue
        fewest = min((explain_difference(spec.full_recipe, other.full_recipe) for other in same), key=len)
        told = [line for line in fewest if not line.startswith("name:")]  # the encoding or head that it says
        yield f"{spec.path}: differs from what is there in {'; '.join(told)}"


def _stage(spec: ArraySpec) -> str:
    return "encode" if spec.group.timestep is None else "extract"


def _choice(spec: ArraySpec) -> tuple[str, Any]:
    """The key of ``extract`` by which arrays of one pass lie side by side: a map's head, a tap's encoding."""
    return ("head", spec.recipe["head"]) if "head" in spec.recipe else ("encoding", spec.encoding.name)


def _stem(name: str) -> str:
    return name.partition("@")[0]
