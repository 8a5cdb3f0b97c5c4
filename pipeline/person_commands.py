"""Commands about persons: find one, say what similarities mean, forget one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.running import PARAMS, ParamsOption, SetOption, run_command

if TYPE_CHECKING:
    from pipeline.runtime import Shell


def forget(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Names in the index, or paths of the files.")
    ] = None,
    person: Annotated[
        str, typer.Option("--person", metavar="NAME", help="All images of somebody: a name, or test:NUMBER.")
    ] = "",
    folder: Annotated[str, typer.Option("--folder", metavar="FOLDER", help="All images below a folder.")] = "",
    heads: Annotated[
        bool, typer.Option("--heads", help="Delete heads and bases that learned from them, instead of listing them.")
    ] = False,
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and stop.")] = False,
) -> None:
    from pipeline.config import load_params
    from stages import forget as stage

    loaded, runtime = load_params(params, overrides or [])

    def run(job: "Shell") -> None:
        named, head = tuple(images or ()), Path(loaded.evaluate.head)
        stage.run(loaded.index, head, runtime, job, named, person=person, folder=folder, heads=heads, dry=dry_run)

    run_command("forget", {"params": str(params)}, run)  # whom is not told to a log


def search(
    query: Annotated[Path | None, typer.Argument(metavar="[QUERY]", help="A picture that shows the person.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="The pictures to search; default: the test split.")
    ] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X,Y,W,H", help="Where the person is, in the query's pixels.")
    ] = None,
    person: Annotated[int | None, typer.Option("--person", metavar="N", help="Which of the people found.")] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="FILE", help="Another picture of this person. Repeatable."),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HEAD", help="A folder or a hub id; default: evaluate.head.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of the hub id.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="PLACE", help="Where the checkpoint lies that the head names.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=10_000, help="How many hits are shown.")] = 20,
    promise: Annotated[
        float, typer.Option("--promise", help="Share of strangers for whom somebody may be taken, in (0, 1).")
    ] = 0.01,
    kind: Annotated[
        str | None, typer.Option("--format", metavar="KIND", help="Also write csv, json, parquet or coco.")
    ] = None,
    page: Annotated[bool, typer.Option("--serve", help="A page on this machine instead.")] = False,
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Also keep the pictures' features in the store, for other heads.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Show photographs to a head of drawn scenes, where answers mean nothing.")
    ] = False,
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    from pipeline.search_words import EXPLAINED, box_of

    if query is None and folder is None and not page:
        typer.echo(EXPLAINED)
        return
    from pipeline.config import load_params
    from stages import find
    from stages.job import Runtime

    if kind is not None and kind not in ("csv", "json", "parquet", "coco"):
        raise typer.BadParameter(f"{kind}: expected csv, json, parquet or coco", param_hint="--format")
    # A head knows what it needs: outside of a project there is no params.yaml, and none is missed.
    needless = params == PARAMS and not params.is_file() and not overrides
    loaded, runtime = (None, Runtime()) if needless else load_params(params, overrides or [])
    chosen = {} if loaded is None else {"index": loaded.index, "head": loaded.evaluate.head}
    request = find.SearchRequest(
        query=query,
        folder=folder,
        box=None if box is None else box_of(box),
        person=person,
        also=tuple(also or ()),
        revision=revision,
        checkpoint=checkpoint,
        top=top,
        promise=promise,
        keep_features=keep_features,
        anyway=anyway,
        format=kind,  # type: ignore[arg-type]  # checked above
        **(chosen | ({} if head is None else {"head": head})),  # type: ignore[arg-type]
    )
    answer = find.serve if page else find.run
    run_command("search", {}, lambda job: answer(request, runtime, job))  # whom is not told to a log


def calibrate(
    people: Annotated[
        str, typer.Option("--people", help="held-out (by train.holdout), or test: the test split's, not to be scored.")
    ] = "held-out",
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    """Measure what the similarities of evaluate.head mean, on people it was not trained on."""
    from pipeline.config import load_params
    from stages import calibrate as stage

    if people not in ("held-out", "test"):
        raise typer.BadParameter(f"{people}: expected held-out or test", param_hint="--people")
    loaded, runtime = load_params(params, overrides or [])
    said = {"params": str(params), "people": people}
    run_command("calibrate", said, lambda job: stage.run(loaded, runtime, job, people))  # type: ignore[arg-type]
