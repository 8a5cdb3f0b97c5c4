"""Every limit of every parameter: the last value that is taken, the first that is refused, and what is said of it."""

from typing import Any, NamedTuple, get_args, get_type_hints

import pytest

from diffps.errors import ConfigError
from pipeline.config import load_params
from stages.config_probe import ProbeFile
from stages.job import Runtime
from stages.params import Params, override
from stages.typed import build, dataclass_in, keys
from tests.architecture.repository import ROOT

PARAMS, _ = load_params(ROOT / "params.yaml")


class Limit(NamedTuple):
    key: str
    fits: list[Any]
    refused: list[Any]
    says: str


AT_LEAST_1 = "must be at least 1"
NOT_NEGATIVE = "must not be negative"
SHARE = "must be in [0, 1)"
INSIDE = "must be between 0 and 1"
STREETS, MODEL = "index.streets", "train.model"

LIMITS = [
    Limit("index.min_box", [[0, 0]], [[-1, 0], [0, -1]], "width and height must be 0 or more"),
    Limit("index.tolerate", [0.0, 1.0], [-0.01, 1.01], "a share, in [0, 1]"),
    Limit("index.max_pixels", [1], [0], AT_LEAST_1),
    Limit(f"{STREETS}.seed", [0], [-1], NOT_NEGATIVE),
    Limit(f"{STREETS}.train_scenes", [1], [0], AT_LEAST_1),
    Limit(f"{STREETS}.test_scenes", [1], [0], AT_LEAST_1),
    Limit(f"{STREETS}.train_identities", [6], [5, 1], "is below the 6 persons a scene may hold"),
    Limit(f"{STREETS}.train_identities", [], [0], AT_LEAST_1),
    Limit(f"{STREETS}.test_identities", [6], [5, 1], "is below the 6 persons a scene may hold"),
    Limit(f"{STREETS}.test_identities", [], [0], AT_LEAST_1),
    Limit(f"{STREETS}.cameras", [2, 9], [1, 10], "so 2 to 9"),
    Limit(f"{STREETS}.size", [64], [63], "not recognisable below 64 pixels"),
    Limit(f"{STREETS}.persons", [[0, 0], [2, 6]], [[3, 2], [-1, 2], [2, 41]], "give least and greatest, 0 to 40"),
    Limit(f"{STREETS}.unlabelled", [0.0, 0.99], [-0.01, 1.0], "must be in [0, 1)"),
    Limit(f"{STREETS}.queries_per_identity", [1], [0], AT_LEAST_1),
    Limit("encode.canvas", [[64, 128]], [[64, 72], [96, 64], [0, 64]], "must be a positive multiple of 64; nearest"),
    Limit("encode.views", [["hflip", "identity"]], [["hflip"], ["identity", "identity"]], "expected identity"),
    Limit("encode.words", [["a", "b"]], [["a", "a"], ["a", " "]], "each a word, and each once"),
    Limit("encode.words", [], [[]], "train.model.sfan: needs encode.words"),
    Limit("encode.text_encoder", [1, 3], [0, 4], "1, or up to 3 where the model has more"),
    Limit("extract.name", ["a", "a" * 100], ["", ".a", "a/b", "a" * 101, "a\n"], "up to 100 letters, digits"),
    Limit("extract.words", [["person", "b"]], [["person", "person"]], "names something twice"),
    Limit("extract.words", [], [["person", ""]], "one of them is empty"),
    Limit("extract.timesteps", [[0], [0, 999]], [[0, 1000], [-1, 0]], "UNet timesteps are 0 to 999"),
    Limit("extract.timesteps", [], [[0, 0]], "names something twice"),
    Limit("extract.timesteps", [], [[]], "must not be empty"),
    Limit("extract.taps", [], [[]], "must not be empty"),
    Limit("extract.seed", [0], [-1], NOT_NEGATIVE),
    Limit("extract.transcode", [[]], [["int8", "int8"]], "names something twice"),
    Limit("train.seed", [0], [-1], NOT_NEGATIVE),
    Limit("train.epochs", [1], [0], AT_LEAST_1),
    Limit("train.accumulate", [1], [0], AT_LEAST_1),
    Limit("train.lr", [1e-9], [0.0, -1.0], "must be above 0"),
    Limit("train.decay", [1e-9], [0.0], "must be above 0"),
    Limit("train.clip", [1e-9], [0.0], "must be above 0"),
    Limit("train.milestones", [[], [1], [1, 2]], [[0], [2, 2], [3, 2]], "epochs from 1, strictly increasing"),
    Limit("train.warmup_epochs", [0.0], [-0.01], NOT_NEGATIVE),
    Limit("train.warmup_start", [1.0, 1e-9], [0.0, 1.01], "must be in (0, 1]"),
    *(
        Limit(f"train.weights.{name}", [0.0], [-0.01], NOT_NEGATIVE)
        for name in ("rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid")
    ),
    Limit("train.timestep", [0], [-1], NOT_NEGATIVE),
    Limit("train.timestep", [], [1], "is not in extract.timesteps [0]"),
    Limit("train.data_seed", [0], [-1], NOT_NEGATIVE),
    Limit("train.batch", [1], [0], "must be at least 1 and at most scenes"),
    Limit("train.scenes", [5], [4], "at most scenes (4)"),
    Limit("train.holdout", [0.0, 0.99], [-0.01, 1.0], "in [0, 1)"),
    Limit("train.checkpoint", ["last"], ["best"], "needs held-out identities"),
    Limit("train.taps.level3", [], [[]], "name at least one tap"),
    Limit("evaluate.score_threshold", [0.0, 0.99], [-0.01, 1.0], SHARE),
    Limit("evaluate.ranking", [1], [0], AT_LEAST_1),
    Limit("evaluate.batch", [1], [0], AT_LEAST_1),
    Limit("evaluate.cbgm", [{"k1": 1, "k2": 1}], [{"k1": 0, "k2": 1}, {"k1": 1, "k2": 0}], AT_LEAST_1),
    Limit("report.queries", [1], [0], AT_LEAST_1),
    Limit("report.results", [1], [0], AT_LEAST_1),
    Limit("report.scenes", [1], [0], AT_LEAST_1),
    Limit("report.false_match_rate", [1e-9, 0.99], [0.0, 1.0], "must lie between 0 and 1"),
    Limit("sweep.file", ["a"], [""], "name a sweep file"),
    Limit("probe.file", ["a"], [""], "name a probe file"),
    Limit(f"{MODEL}.channels", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.head_channels", [4], [0, 30], "must be a multiple of 4"),
    Limit(f"{MODEL}.head_blocks", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.dgrpn.tau", [0.0, 0.99], [-0.01, 1.0], SHARE),
    Limit(f"{MODEL}.dgrpn.delta", [1e-9], [0.0], "must be above 0"),
    Limit(f"{MODEL}.dgrpn.peak_window", [1, 3], [0, 2, -1], "must be odd and positive"),
    Limit(f"{MODEL}.dgrpn.neighbourhood", [1, 3], [0, 2, -1], "must be odd and positive"),
    Limit(f"{MODEL}.dgrpn.peaks", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.sfan.temperature", [1e-9], [0.0], "must be above 0"),
    Limit(f"{MODEL}.rpn.anchor_sizes", [[1]], [[], [0], [32, -1]], "one number or more, each above 0"),
    Limit(f"{MODEL}.rpn.anchor_ratios", [[0.1]], [[], [0.0], [1.0, -1.0]], "one number or more, each above 0"),
    Limit(f"{MODEL}.rpn.positive_iou", [0.3, 1.0], [0.29, 1.01], "must be at most positive_iou"),
    Limit(f"{MODEL}.rpn.negative_iou", [0.7, 0.01], [0.71, 0.0], "must be at most positive_iou"),
    Limit(f"{MODEL}.rpn.positive_fraction", [0.99], [0.0, 1.0], INSIDE),
    Limit(f"{MODEL}.rpn.samples", [2], [1], "positive_fraction 0.5 of them is at least 1"),
    *(
        Limit(f"{MODEL}.rpn.{name}", [1], [0], AT_LEAST_1)
        for name in ("train_before_nms", "train_after_nms", "test_before_nms", "test_after_nms")
    ),
    Limit(f"{MODEL}.rpn.nms", [0.0, 1.0], [-0.01, 1.01], "an IoU, in [0, 1]"),
    Limit(f"{MODEL}.box.nms", [0.0, 1.0], [-0.01, 1.01], "an IoU, in [0, 1]"),
    Limit(f"{MODEL}.box.coder_weights", [[1.0, 1.0, 1.0, 0.1]], [[1.0, 0.0, 1.0, 1.0]], "above 0, each of them"),
    Limit(f"{MODEL}.box.score_threshold", [0.0, 0.99], [-0.01, 1.0], SHARE),
    Limit(f"{MODEL}.box.detections", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.box.grid", [[1, 1]], [[0, 8], [8, 0]], "must be at least 1 high and wide"),
    Limit(f"{MODEL}.reid.grid", [[5, 1]], [[4, 6], [6, 0]], "must be at least"),
    *(
        limit
        for part, negative, positive in (("box", 0.5, 0.5), ("reid", 0.3, 0.7))
        for limit in (
            Limit(f"{MODEL}.{part}.sampling_ratio", [1], [0], AT_LEAST_1),
            Limit(f"{MODEL}.{part}.samples", [2], [1], "must be at least 2"),
            Limit(f"{MODEL}.{part}.positive_iou", [negative, 1.0], [negative - 0.01, 1.01], "at most positive_iou"),
            Limit(f"{MODEL}.{part}.negative_iou", [positive, 0.01], [positive + 0.01, 0.0], "at most positive_iou"),
            Limit(f"{MODEL}.{part}.positive_fraction", [0.01, 0.99], [0.0, 1.0], INSIDE),
        )
    ),
    Limit(f"{MODEL}.embedding.size", [18], [17], "must be at least 18, one number for every strip"),
    Limit(f"{MODEL}.embedding.branches", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.embedding.reduction", [1], [0], AT_LEAST_1),
    Limit(f"{MODEL}.embedding.kernel", [1, 3], [0, 2, -1], "must be odd and positive"),
    Limit(f"{MODEL}.embedding.drop_path", [0.0, 0.99], [-0.01, 1.0], SHARE),
    Limit(f"{MODEL}.oim.queue", [0], [-1], "must be not negative"),
    Limit(f"{MODEL}.oim.momentum", [0.0, 0.99], [-0.01, 1.0], SHARE),
    Limit(f"{MODEL}.oim.scale", [1e-9], [0.0], "must be above 0"),
]

PROBE = [
    Limit("scenes", [2], [1], "must be at least 2"),
    Limit("timesteps", [[0, 999]], [[], [-1], [1000]], "name one or more from 0 to 999"),
    Limit("timesteps", [], [[0, 0]], "names something twice"),
    Limit("taps", [None, ["a"]], [[]], "name at least one, or null for all"),
    Limit("taps", [], [["a", "a"]], "names something twice"),
    Limit("budgets", [[], [1e-9]], [[0.0], [1.0, -1.0]], "must be above 0"),
    Limit("budgets", [], [[1.0, 1.0]], "names something twice"),
    Limit("strips", [1, 24], [0, 5, -1], "must divide 24"),
    Limit("width", [3], [2, 0], "must be at least 3"),
    Limit("boxes", [1], [0], AT_LEAST_1),
    Limit("folds", [2], [1], "must be at least 2"),
    Limit("resamples", [100], [99], "must be at least 100"),
    Limit("seed", [0], [-1], "must be at least 0"),
]

RUNTIME = [
    Limit("threads", [0, 4096], [-1, 4097], "must be 0 to 4096"),
    Limit("batch", [0, 65536], [-1, 65537], "must be 0 to 65536"),
    Limit("vae_batch", [0, 65536], [-1, 65537], "must be 0 to 65536"),
    Limit("readers", ["auto", 1, 256], [0, 257], "must be 1 to 256"),
    Limit("readers", [], ["many", 2.5], "valid integer or 'auto', found"),
    Limit("shard", [1, 65536], [0, 65537], "must be 1 to 65536"),
    Limit("store", ["a"], ["", "  "], "names no folder"),
]

# Numbers without a limit: the paper starts them at 0 or 1 and training moves them wherever it likes.
# And those that name something of the model or the data set, which says what it has once it is open.
LEARNED = {f"{MODEL}.dgrpn.beta", f"{MODEL}.dgrpn.gamma", f"{MODEL}.sfan.alpha"}
NAMES = {"extract.head", "evaluate.gallery", "evaluate.also"}


def cases(limits: list[Limit], kind: str) -> list[Any]:
    return [
        pytest.param(limit.key, value, limit.says, id=f"{limit.key}={value!r}"[:80])
        for limit in limits
        for value in getattr(limit, kind)
    ]


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value", "says"), cases(LIMITS, "fits"))
def test_the_last_value_that_fits_is_taken(key: str, value: object, says: str) -> None:
    found: Any = override(PARAMS, {key: value}, "here")
    for name in key.split("."):
        found = getattr(found, name)
    if not isinstance(value, dict):
        assert found == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("key", "value", "says"), cases(LIMITS, "refused"))
def test_the_first_value_beyond_is_refused_by_name(key: str, value: object, says: str) -> None:
    said = refusal(override, PARAMS, {key: value}, "here")
    assert said.startswith("here: ")
    assert says in said
    assert key.rpartition(".")[2] in said


@pytest.mark.parametrize(("cls", "limits"), [(ProbeFile, PROBE), (Runtime, RUNTIME)], ids=["probe", "runtime"])
def test_limits_of_a_probe_file_and_of_the_runtime(cls: type, limits: list[Limit]) -> None:
    for limit in limits:
        for value in limit.fits:
            build(cls, {limit.key: value}, "here")
        for value in limit.refused:
            said = refusal(build, cls, {limit.key: value}, "here")
            assert limit.says in said, said
            assert limit.key in said


def numbers(cls: type, prefix: str = "") -> set[str]:
    """Dotted keys below ``cls`` whose values are numbers, or several."""
    found = set()
    for key in keys(cls, prefix):
        kind: Any = cls
        for name in key.removeprefix(f"{prefix}.").split("."):
            hint = get_type_hints(dataclass_in(kind) or kind)[name]
            kind = hint
        if dataclass_in(kind) is None and {int, float} & leaves(kind):
            found.add(key)
    return found


def leaves(kind: Any) -> set[Any]:
    inner = get_args(kind)
    return set().union(*map(leaves, inner)) if inner else {kind}


def test_every_number_has_its_limits_in_the_tables() -> None:
    """A parameter that is added without a row fails here."""
    for cls, limits, free in ((Params, LIMITS, LEARNED | NAMES), (ProbeFile, PROBE, set()), (Runtime, RUNTIME, set())):
        named = {limit.key for limit in limits}
        covered = {key for key in numbers(cls) if any(key == name or key.startswith(f"{name}.") for name in named)}
        assert numbers(cls) - covered == free
