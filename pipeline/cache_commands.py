"""``diffps cache``: what the store will cost, holds, lost, and can do without."""

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cache_changes import export, gc, transcode
from pipeline.cache_options import PARAMS, ParamsOption, SetOption, indexed, opened, shell

app = typer.Typer(help="Look after the feature store.", no_args_is_help=True, rich_markup_mode=None)

ArrayArgument = Annotated[
    str, typer.Argument(metavar="ARRAY", help="Path of an array, as `diffps cache status` shows it.")
]
EVERY_ARRAY = "the store has every array these parameters ask for; `diffps cache status` counts the images in them"
NO_STORE = "{}: no store here yet; `diffps encode` and `diffps extract` make it"
UNITS = {"GB": 10**9, "TB": 10**12, "MB": 10**6, "GIB": 2**30, "TIB": 2**40}


@app.command()
def plan(
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Say what fits on a disk of this size, e.g. 500GB.")] = "",
    rate: Annotated[
        float,
        typer.Option(
            metavar="IMAGES_PER_SECOND",
            help="Whole images, through VAE and UNet; 0: what the store's receipts say of each.",
        ),
    ] = 0.0,
    measure: Annotated[bool, typer.Option("--measure", help="Time VAE and UNet on a few blanks instead.")] = False,
) -> None:
    """Bytes, files and hours before the first byte; free space; after how many epochs caching pays."""
    from cache.budget import measure_disk
    from cache.system import free_bytes
    from stages.features.plan import PassPlan
    from stages.forecasts.operations import operations
    from stages.forecasts.speed import Speed, measure_speed, recorded_speed
    from stages.forecasts.store import plan_store, what_fits
    from stages.text import size

    settings, runtime, store = opened(params, overrides)
    if not 0 <= rate < math.inf:
        raise typer.BadParameter(f"{rate:g}: expected images per second, such as 0.5", param_hint="--rate")
    free = _bytes(disk) if disk else free_bytes(store.root)
    if rate:
        speed: Speed | None = Speed(None, 1 / rate)
    elif measure:
        speed = measure_speed(PassPlan(settings.encode, settings.extract, store), runtime)
    else:
        speed = recorded_speed(store.root)
    found = plan_store(settings, runtime.shard, free, speed, measure_disk(store.root))
    for line in (*found.lines(), *operations(settings.encode, settings.extract)):
        typer.echo(line)
    if disk or found.budget.nbytes > found.free:
        fitting = what_fits(settings, runtime.shard, found.free)
        typer.echo(f"on {size(found.free)} would fit:" if fitting else "nothing milder fits; use fewer images")
        for label, nbytes in fitting:
            typer.echo(f"  {size(nbytes):>10}  {label}")


@app.command()
def status(params: ParamsOption = PARAMS, overrides: SetOption = None) -> None:
    """Data sets and their images; each array: images done, missing, skipped; size; recipe."""
    from stages.text import duration, size

    _, _, store = opened(params, overrides)
    groups = store.status()
    if not groups:
        typer.echo(NO_STORE.format(store.root))
    for found in store.datasets():
        mine = " (indexed here)" if found.dataset == store.dataset else ""
        typer.echo(
            f"data set {found.dataset or 'without a name'}{mine}: {found.images} {found.split} images, "
            f"{found.alone} of them no other data set's"
        )
    for group in groups:
        typer.echo(f"{group.group.path}: {size(group.nbytes)}, {group.images} images in {duration(group.seconds)}")
        typer.echo(f"  {_words(group.recipe)}")
        for array in group.arrays:
            counts = f"{array.done} done, {array.missing} missing, {array.skipped} skipped"
            typer.echo(f"  {array.spec.name:56} {counts:40} {size(array.nbytes):>10}")


@app.command()
def verify(
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Withdraw damaged shards, rebuild lost rows.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Files read at a time.")] = 2,
) -> None:
    """Every checksum of the store. Exit code 1 when something is damaged and was not repaired."""
    from cache.repair import damaged_tables, rebuild_rows
    from cache.verify import verify as check
    from cache.verify import withdraw
    from stages.features.plan import PassPlan
    from stages.features.upkeep import repairs
    from stages.text import size

    settings, runtime, store = opened(params, overrides)
    tables = damaged_tables(store.root)
    for split, what in tables.items():
        typer.echo(what)
        if repair:
            images = [(scene.scene_id, scene.digest) for scene in indexed() if scene.split == split]
            built = rebuild_rows(store.root, split, images, store.dataset)
            typer.echo(
                f"rows of {split}: made anew from receipts, {built.images} images ({built.unnamed} without a name "
                f"until their data set runs `diffps encode`), {built.lost} rows lost"
            )
    if tables and not repair:
        typer.echo("to repair: diffps cache verify --repair")
        raise typer.Exit(1)
    groups = store.status()
    if not groups:
        typer.echo(NO_STORE.format(store.root))
        return
    total = sum(group.nbytes for group in groups)
    with shell().track("verify", total, "bytes") as tracker:
        damages = check(
            store.root, store.arrays(), threads=threads, progress=lambda nbytes: tracker.advance(nbytes, nbytes)
        )
    for damage in damages:
        scenes = f"; images {', '.join(damage.scene_ids)}" if damage.scene_ids else ""
        typer.echo(f"{damage.file}: {damage.what}{scenes}")
    if not damages:
        typer.echo(f"{store.root}: {size(total)} verified, nothing damaged")
        return
    commands, others = repairs(
        settings.extract,
        lambda extract: PassPlan(settings.encode, extract, store).arrays(),
        (damage.spec for damage in damages),
    )
    for spec in others:
        typer.echo(
            f"{spec.path}: {params} makes this under no encoding or head; run again what made it (extract with other "
            "parameters, or cache transcode), or let `diffps cache gc` delete it"
        )
    given = [] if params == PARAMS else ["--params", str(params)]
    given += [text for override in overrides or [] for text in ("--set", override)]
    lines = [shlex.join(["diffps", stage, *given, *change]) for stage, *change in commands]
    if repair:
        count = withdraw(store.root, damages, takeover=runtime.takeover)
        written = f"; `{' && '.join(lines)}` writes exactly those" if lines else ""
        typer.echo(f"{count} shards now count as missing{written}")
        return
    typer.echo(f"to repair: {' && '.join([shlex.join(['diffps', 'cache', 'verify', *given, '--repair']), *lines])}")
    raise typer.Exit(1)


@app.command()
def explain(
    first: Annotated[str, typer.Argument(metavar="[A", help="Path of an array.")] = "",
    second: Annotated[str, typer.Argument(metavar="B]", help="Path of another.")] = "",
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    """Which fields of two arrays' recipes differ; of one: its recipe; of none: why something would be made anew."""
    from cache import explain_difference
    from stages.features import upkeep
    from stages.features.plan import PassPlan

    settings, _, store = opened(params, overrides)
    if first and second:
        lines = explain_difference(store.array(first).full_recipe, store.array(second).full_recipe)
        typer.echo("\n".join(lines) or "the recipes are equal")
        return
    if first:
        typer.echo(_words(store.array(first).full_recipe))
        return
    typer.echo(
        "\n".join(upkeep.explain(PassPlan(settings.encode, settings.extract, store).arrays(), store)) or EVERY_ARRAY
    )


@app.command()
def stats(
    array: ArrayArgument,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.npz", help="Keep all of it as arrays.")] = None,
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    """Per-channel mean, deviation, range, histogram, and how few principal channels would do."""
    import dataclasses

    import numpy as np

    from cache.statistics import statistics

    _, _, store = opened(params, overrides)
    spec = store.array(array)
    found = statistics(store, spec)
    typer.echo(f"{array}: {found.images} images of {spec.shape[0]} x {spec.shape[1]} x {spec.shape[2]}")
    typer.echo(
        f"  {'':24} " + "  ".join(f"{name:>10}" for name in ("lowest", "quarter", "median", "3 quarters", "highest"))
    )
    for name in ("mean", "deviation", "low", "high"):
        quantiles = np.quantile(getattr(found, name), [0, 0.25, 0.5, 0.75, 1])
        typer.echo(f"  {name + ' over channels':24} " + "  ".join(f"{value:10.4g}" for value in quantiles))
    explained = np.cumsum(found.variances) / max(found.variances.sum(), np.finfo(float).tiny)
    for share in (0.9, 0.99, 0.999):
        channels = int(np.searchsorted(explained, share)) + 1
        typer.echo(f"  {share:.1%} of the variance lies in {channels} of {len(explained)} principal channels")
    if to is not None:
        np.savez(to, **dataclasses.asdict(found))
        typer.echo(f"  kept in {to}")


for _command in (gc, export, transcode):
    app.command()(_command)


def _bytes(text: str) -> int:
    """ "500GB" -> 500e9."""
    number = text.rstrip("GBTMibgtm ")
    try:
        nbytes = int(float(number) * UNITS[text[len(number) :].strip().upper()])
        if nbytes <= 0:
            raise ValueError
        return nbytes
    except (KeyError, ValueError, OverflowError):
        raise typer.BadParameter(f"{text}: expected a size such as 500GB or 2TB", param_hint="--disk") from None


def _words(recipe: object) -> str:
    """A recipe's leaves in one line."""
    from collections.abc import Mapping

    def leaves(value: object, path: str) -> list[str]:
        if isinstance(value, Mapping):
            return [leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}" if path else str(key))]
        text = str(value)
        return [f"{path} {text if len(text) <= 40 else text[:12] + '...'}"]

    return ", ".join(leaves(recipe, ""))
