"""The command line: one command a stage, each with --params, --set and --dry-run, and what looks at the results."""

import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cache_commands import app as cache_app
from pipeline.head_commands import app as head_app

if TYPE_CHECKING:
    from pipeline.runtime import Shell

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

ParamsOption = Annotated[Path, typer.Option("--params", metavar="FILE", help="The parameters, one section a stage.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter, e.g. train.lr=1e-3. Repeatable."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be read and written, and stop.")]

PARAMS = Path("params.yaml")


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


def run_stage(name: str, params_file: Path, overrides: list[str], dry_run: bool) -> None:
    """One stage, or what it would do."""
    from pipeline.config import load_params

    stage = import_module(f"stages.{name}")
    params, runtime = load_params(params_file, overrides)
    said = {"params": str(params_file), "overrides": overrides}
    if dry_run:
        print(stage.dry_run(params, runtime, _shell(name)))
    else:
        run_command(name, said, lambda job: stage.run(params, runtime, job))


def run_command(name: str, said: Mapping[str, object], run: "Callable[[Shell], None]") -> None:
    """``run`` with the shell around it, and ``said`` in its log; exits with 128 + the signal's number when it was
    stopped."""
    from stages.job import StoppedError

    job = _shell(name)
    job.record("run", command=name, **said)
    with job.signals():
        try:
            run(job)
        except StoppedError:
            job.signal = job.signal or signal.SIGINT
        except Exception as error:
            job.record("failed", error=f"{type(error).__name__}: {error}")
            raise
    if job.signal is not None:
        job.say("stopped; the same command continues")
        sys.exit(128 + job.signal)
    job.record("finished")


def _shell(name: str) -> "Shell":
    from pipeline.runtime import Shell

    return Shell(Path("results") / name / "log.jsonl")


def told_to_user(error: Exception) -> str | None:
    """One line about what the user can mend: errors of this program, and whatever the system refused; None for a
    mistake of ours, which shows its traceback."""
    from cache.errors import CacheError
    from cache.system import refusal
    from diffps.errors import DiffPSError

    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, DiffPSError | CacheError):
        error = refusal(error, Path(str(error.filename or Path.cwd())), "used")
    return " ".join(str(error).split()) if isinstance(error, DiffPSError | CacheError) else None


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
    from stages import index as stage

    loaded, runtime = load_params(params, overrides or [])
    run_command("index", {"params": str(params)}, lambda job: stage.run(loaded, runtime, job, check=True))


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
        print(stage.dry_run(config, runtime, _shell("pretrain")))
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


@app.command(help="Take images out of the whole project: store, results and index; the files themselves stay.")
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


@app.command(help="Find one person in pictures: who looks most alike, and whether that means anything.")
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
        anyway=anyway,
        format=kind,  # type: ignore[arg-type]  # checked above
        **(chosen | ({} if head is None else {"head": head})),  # type: ignore[arg-type]
    )
    answer = find.serve if page else find.run
    run_command("search", {}, lambda job: answer(request, runtime, job))  # whom is not told to a log


@head_app.command()
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
