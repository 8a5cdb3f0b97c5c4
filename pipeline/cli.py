"""The command line: one command a stage, each with --params, --set and --dry-run, and what looks at the results."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cache_commands import app as cache_app
from pipeline.head_commands import app as head_app
from pipeline.person_commands import calibrate, forget, search
from pipeline.running import (
    PARAMS,
    DryRunOption,
    ParamsOption,
    SetOption,
    run_command,
    run_in,
    run_stage,
    shell,
    told_to_user,
)

app = typer.Typer(
    name="diffps",
    help="Person search on diffusion features: run the backbone once, keep its features, train heads on them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: importing rich costs more than the rest of --help
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app, name="cache")
app.add_typer(head_app, name="head")

# In the order in which `dvc repro` runs them; `probe` and `pretrain` stand outside.
STAGES = {
    "index": "Read a dataset's annotations into Parquet.",
    "encode": "Images to VAE latents, words to text embeddings.",
    "extract": "Latents to UNet features and attention maps, kept in the store.",
    "train": "Train a head on the features.",
    "evaluate": "Find persons in the gallery, rank them for each query, score both.",
    "sweep": "Train and evaluate many variants of the head from one reading of the store.",
    "report": "Write the page: scores, rankings, pictures, costs.",
    "probe": "Rank every tap of the backbone from one pass, before anything is stored.",
    "pretrain": "Make the demo's backbone from drawn scenes.",
}


def _version(asked: bool) -> None:
    if asked:
        from pipeline.version import version_text

        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is, and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. Exit codes: 0; 2 for what the user can mend (one line says what); 130 and 143 when stopped."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = told_to_user(error)
        if told is None:
            raise
        print(f"diffps: {told}", file=sys.stderr)
        sys.exit(2)


def _command(name: str) -> Callable[..., None]:
    def command(params: ParamsOption = PARAMS, overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
        run_stage(name, params, overrides or [], dry_run)

    return command


for _name, _help in STAGES.items():
    if _name not in ("index", "report", "pretrain"):
        app.command(_name, help=_help)(_command(_name))


@app.command(help=STAGES["index"])
def index(
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    check: Annotated[bool, typer.Option("--check", help="Read and judge the dataset, and write nothing.")] = False,
) -> None:
    if not check:
        run_stage("index", params, overrides or [], dry_run)
        return
    from pipeline.config import load_params
    from pipeline.runtime import Shell
    from stages import index as stage

    loaded, runtime = load_params(params, overrides or [])
    run_in(Shell(None), lambda job: stage.run(loaded, runtime, job, check=True))


@app.command(help=STAGES["pretrain"])
def pretrain(
    params: Annotated[
        Path | None, typer.Option("--params", metavar="FILE", help="Sections pretrain and runtime; the defaults do.")
    ] = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:
    from pipeline.config import load_pretraining
    from stages import pretrain as stage

    config, runtime = load_pretraining(params, overrides or [])
    if dry_run:
        print(stage.dry_run(config, runtime, shell("pretrain")))
    else:
        run_command("pretrain", {"overrides": overrides}, lambda job: stage.run(config, runtime, job))


@app.command(help=STAGES["report"])
def report(
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="OTHER", help="A folder of another run to stand beside this one. Repeatable."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show the page in a browser afterwards.")] = False,
) -> None:
    if others and not dry_run:
        from pipeline.config import load_params
        from stages import report as stage

        loaded, runtime = load_params(params, overrides or [])
        said = {"params": str(params), "overrides": overrides or []}
        run_command("report", said, lambda job: stage.run(loaded, runtime, job, others))
    else:
        run_stage("report", params, overrides or [], dry_run)
    if show and not dry_run:
        import webbrowser

        webbrowser.open(Path("results/report/index.html").resolve().as_uri())


@app.command(help="Draw one of the paper's figures from the store, as PNG and SVG.")
def figure(
    name: Annotated[str, typer.Argument(help="Which one; an unknown name lists them.")],
    params: ParamsOption = PARAMS,
    overrides: SetOption = None,
) -> None:
    from pipeline.config import load_params
    from stages import figure as stage

    loaded, runtime = load_params(params, overrides or [])
    run_command("figure", {"params": str(params)}, lambda job: stage.run(loaded, runtime, job, name))


@app.command(help="Read every digest and checksum of results and store, and name what is not what was written.")
def verify(params: ParamsOption = PARAMS, overrides: SetOption = None) -> None:
    from pipeline.config import load_params
    from stages import verify as stage

    loaded, runtime = load_params(params, overrides or [])
    head = Path(loaded.evaluate.head)
    run_command("verify", {"params": str(params)}, lambda job: stage.run(head, runtime, job))


app.command(help="Take images out of the whole project: store, results and index; the files themselves stay.")(forget)
app.command(help="Find one person in pictures: who looks most alike, and whether that means anything.")(search)
head_app.command()(calibrate)


@app.command(help="Begin a project in this folder: params.yaml, dvc.yaml and what belongs to them.")
def init(
    preset: Annotated[str, typer.Argument(help="What to begin with; an unknown name lists them.")] = "demo",
) -> None:
    from pipeline.init import init_project

    written = init_project(preset, Path())
    typer.echo(f"wrote {', '.join(name for name in written if '/' not in name)} and {len(written)} files in all")
    typer.echo("next: dvc repro (pip install 'diffps[dvc]'), or the commands one by one, from `diffps index` on")


@app.command(help="Look at this machine and the checkpoint: what is there, what does not go together.")
def doctor(params: ParamsOption = PARAMS, overrides: SetOption = None) -> None:
    run_stage("doctor", params, overrides or [], dry_run=False)


@app.command(
    help="Every parameter with its meaning, as Markdown; or a JSON Schema, by which editors complete and check."
)
def params(
    schema: Annotated[bool, typer.Option("--schema", help="JSON Schema of a params file.")] = False,
    sweep_schema: Annotated[bool, typer.Option("--sweep-schema", help="JSON Schema of a sweep file.")] = False,
    probe_schema: Annotated[bool, typer.Option("--probe-schema", help="JSON Schema of a probe file.")] = False,
) -> None:
    import json

    from pipeline.config import ParamsFile
    from stages import reference
    from stages.config_heads import TrainConfig
    from stages.config_probe import ProbeFile

    if schema:
        typer.echo(json.dumps(reference.schema(ParamsFile), indent=1))
    elif sweep_schema:
        typer.echo(json.dumps(reference.sweep_schema(TrainConfig), indent=1))
    elif probe_schema:
        typer.echo(json.dumps(reference.schema(ProbeFile), indent=1))
    else:
        typer.echo(reference.page(ParamsFile), nl=False)


if __name__ == "__main__":
    main()
