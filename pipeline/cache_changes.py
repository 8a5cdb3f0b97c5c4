"""The commands of ``diffps cache`` that write or delete: gc, export and transcode."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cache_options import PARAMS, ParamsOption, SetOption, indexed, opened, shell


def gc(
    params: Annotated[
        list[Path] | None,
        typer.Option("--params", metavar="FILE", help="Keep what this file asks for. Repeatable; default params.yaml."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the arrays that none of the given params files asks for, and forget images that the index has no longer
    (runtime.keep_removed keeps them), after showing them."""
    from dataclasses import replace

    from cache.garbage import find_garbage, remove
    from stages.features.plan import PassPlan
    from stages.forgetting.everywhere import forget_removed, removed_images
    from stages.text import size

    files = params or [PARAMS]
    stores = [opened(file, None) for file in files]
    roots = {store.root for _, _, store in stores}
    if len(roots) > 1:
        raise typer.BadParameter(f"the files name different stores: {', '.join(map(str, sorted(roots)))}")
    store = stores[0][2]
    plans = [
        PassPlan(settings.encode, replace(settings.extract, encoding=encoding), store)
        for settings, _, _ in stores
        for encoding in (settings.extract.encoding, *settings.extract.transcode)
    ]
    wanted = {(spec.path, spec.id) for plan in plans for spec in plan.arrays()}
    garbage = find_garbage(store.root, wanted)
    for item in garbage:
        typer.echo(f"{size(item.nbytes):>10}  {item.path}")
    settings, runtime, _ = stores[0]
    removed = removed_images(runtime)
    for traces in removed:
        typer.echo(f"{size(traces.nbytes):>10}  of {len(traces.rows)} {traces.split} images that were removed")
    if not garbage and not removed:
        typer.echo("nothing to delete: every array is asked for")
        return
    total = size(sum(item.nbytes for item in garbage) + sum(traces.nbytes for traces in removed))
    if not yes:
        images = f", and all of {sum(len(traces.rows) for traces in removed)} images" if removed else ""
        typer.confirm(f"Delete these {len(garbage)} arrays{images}, {total}?", abort=True)
    remove(store.root, garbage)
    forget_removed(removed, Path(settings.evaluate.head), runtime, shell())
    typer.echo(f"{total} freed")


def export(
    arrays: Annotated[list[str], typer.Argument(metavar="ARRAY...", help="Paths of arrays of one split and view.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the files go.")],
    scenes: Annotated[
        list[str] | None, typer.Option("--scene", metavar="ID", help="Only this scene. Repeatable; default all.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="npy (a file per scene and array) or safetensors.")] = "npy",
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    """Decoded features as .npy or safetensors files."""
    from cache import CacheError
    from cache.transcode import export as write
    from stages.features.transcode import current_names

    if kind not in ("npy", "safetensors"):
        raise typer.BadParameter("expected npy or safetensors", param_hint="--format")
    _, _, store = opened(params, overrides)
    specs = [store.array(path) for path in arrays]
    if len({(spec.group.split, spec.group.view) for spec in specs}) > 1:
        raise CacheError("export: the arrays are of different splits or views; export them one after the other")
    reader = store.reader(specs)
    names = current_names(store, specs[0], indexed())
    chosen = scenes or [scene for scene in names if reader.has(scene, specs[0].name)]
    written = list(write(reader, chosen, [spec.name for spec in specs], to, "npy" if kind == "npy" else "safetensors"))
    typer.echo(f"{len(written)} files below {to}")


def transcode(
    encoding: Annotated[str, typer.Argument(metavar="ENCODING", help="float16, int8, bitround:n or project:k.")],
    source: Annotated[
        str,
        typer.Option("--from", metavar="ENCODING", help="What it is made from; float16 is as good as extracting."),
    ] = "float16",
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    """Write every tap the parameters keep again under another encoding, without the backbone.

    Heads find the result with --set extract.encoding=ENCODING. Made from float16 it counts as extracted: values may be
    one step of the encoding off where the UNet computes in float32, and are the same where it computes in float16.
    """
    from stages.features.transcode import transcode_pass

    settings, runtime, store = opened(params, overrides)
    sections, takeover = (settings.encode, settings.extract), runtime.takeover
    transcode_pass(*sections, store, indexed(), encoding, source, shell(), takeover=takeover)
