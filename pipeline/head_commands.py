"""``diffps head``: heads that travel, and what their similarities mean."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Send, fetch and export heads; calibrate one.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def push(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="The folder that `diffps train` wrote.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="A folder, or a hub id such as someone/a-head.")],
) -> None:
    """Copy a head with its card and calibration to a folder, or to a private repository of the hub."""
    from stages.head.travel import push_head

    typer.echo(f"{push_head(head, to)}: there it lies")


@app.command()
def pull(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="A hub id such as someone/a-head, or a folder.")],
    into: Annotated[Path, typer.Argument(metavar="INTO", help="A folder that is not there yet.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="Commit, tag or branch of a hub id.")
    ] = None,
) -> None:
    """Fetch a head; `diffps search --head` also takes a hub id as it is."""
    from stages.head.travel import pull_head

    typer.echo(f"{pull_head(head, into, revision)}: written")


@app.command()
def export(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="The folder that `diffps train` wrote, or a hub id.")],
    into: Annotated[Path, typer.Argument(metavar="INTO", help="A folder that is not there yet.")],
) -> None:
    """Write a head as ONNX: detect.onnx finds persons in features, embed.onnx embeds given boxes."""
    from stages.head.exchange import export_head

    typer.echo(f"{export_head(head, into)}: detect.onnx and embed.onnx written")
