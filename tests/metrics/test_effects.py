"""Main effects against differences of means, scikit-learn's regression, and draws whose truth is known."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from diffps.metrics.effects import (
    AS_IS,
    Run,
    basis,
    effects_text,
    factor_levels,
    main_effects,
    variant_scores,
)

SWITCHES = ("dgrpn", "msfrn", "sfan")


def factorial(score: Callable[[tuple[bool, ...], int], float], seeds: int) -> list[Run]:
    """The 2^3 factorial of modules, all on first."""
    return [
        Run(
            variant="-".join(name for name, off in zip(SWITCHES, point, strict=True) if off) or "full",
            factors={name: "off" if off else AS_IS for name, off in zip(SWITCHES, point, strict=True)},
            seed=seed,
            score=score(point, seed),
        )
        for point in product([False, True], repeat=3)
        for seed in range(seeds)
    ]


def drawn(rng: np.random.Generator, deviation: float) -> Callable[[tuple[bool, ...], int], float]:
    """DGRPN does nothing, MSFRN costs 5 points, SFAN brings 2."""
    return lambda point, seed: 0.6 + 0.05 * point[1] - 0.02 * point[2] + rng.normal(scale=deviation)


@given(seed=st.integers(0, 10_000), seeds=st.integers(1, 4))
def test_a_full_factorials_effects_are_differences_of_means(seed: int, seeds: int) -> None:
    runs = factorial(drawn(np.random.default_rng(seed), 0.03), seeds)
    found = main_effects(runs)
    assert [effect.factor for effect in found.effects] == list(SWITCHES)
    for effect in found.effects:
        off, on = ([r.score for r in runs if (r.factors[effect.factor] == "off") is side] for side in (True, False))
        assert effect.change == pytest.approx(np.mean(off) - np.mean(on))
        # Two means of half the runs each.
        assert effect.error == pytest.approx(found.deviation * np.sqrt(4 / len(runs)))
        assert effect.notable == (abs(effect.change) > 2 * effect.error)
    assert (found.degrees, found.source) == ((8 * (seeds - 1), "seeds") if seeds > 1 else (4, "residuals"))


def test_the_deviation_is_pooled_over_variants_and_free_of_what_they_do() -> None:
    runs = factorial(lambda point, seed: 0.5 + 0.1 * point[0] * point[1] + (0.01, -0.01)[seed], 2)
    found = main_effects(runs)
    assert found.deviation == pytest.approx(np.sqrt(2) * 0.01)
    assert found.degrees == 8


@given(seed=st.integers(0, 10_000))
def test_unbalanced_runs_against_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [run for run in factorial(drawn(rng, 0.03), 3) if rng.random() < 0.7]
    x = np.array([[run.factors[name] == "off" for name in SWITCHES] for run in runs], float).reshape(-1, 3)
    if len(runs) < 5 or np.linalg.matrix_rank(np.column_stack([np.ones(len(runs)), x])) < 4:
        return
    fitted = LinearRegression().fit(x, [run.score for run in runs]).coef_
    signs = {name: 1 if runs[0].factors[name] == AS_IS else -1 for name in SWITCHES}
    changes = {effect.factor: effect.change for effect in main_effects(runs).effects}
    assert changes == pytest.approx({name: signs[name] * c for name, c in zip(SWITCHES, fitted, strict=True)})


def test_errors_are_those_of_repeated_experiments() -> None:
    """The factorial drawn many times: its changes scatter as their errors say, and nothing is marked too often."""
    rng = np.random.default_rng(0)
    found = [main_effects(factorial(drawn(rng, 0.04), 3)) for _ in range(400)]
    for at, truth in enumerate((0.0, 0.05, -0.02)):
        changes = np.array([each.effects[at].change for each in found])
        assert changes.mean() == pytest.approx(truth, abs=4 * changes.std() / 20)
        assert changes.std() == pytest.approx(np.mean([each.effects[at].error for each in found]), rel=0.15)
    assert 0.01 < np.mean([each.effects[0].notable for each in found]) < 0.12
    assert np.mean([each.effects[1].notable for each in found]) > 0.75


def test_levels_of_many_are_compared_with_the_first() -> None:
    scores = {"0": (0.5, 0.6), "100": (0.3, 0.4), "500": (0.1, 0.2)}
    runs = [
        Run(variant=step, factors={"timestep": step}, seed=seed, score=score)
        for step, pair in scores.items()
        for seed, score in enumerate(pair)
    ]
    changes = {(e.level, e.reference): e.change for e in main_effects(runs).effects}
    assert changes == pytest.approx({("100", "0"): -0.2, ("500", "0"): -0.4})


def test_effects_that_cannot_be_told_apart_are_left_out() -> None:
    runs = [
        Run(variant=name, factors={"lr": lr, "clip": clip, "init": init}, seed=1, score=score)
        for name, lr, clip, init, score in [
            ("a", "1", "1", "v1", 0.5),
            ("b", "2", "2", "v1", 0.6),
            ("c", "1", "1", "v2", 0.4),
            ("d", "2", "2", "v2", 0.5),
        ]
    ]
    assert [effect.factor for effect in main_effects(runs).effects] == ["init"]


def test_variants_have_a_mean_and_an_error_over_their_seeds() -> None:
    runs = [Run(variant="a", factors={}, seed=s, score=x) for s, x in enumerate((0.5, 0.6, 0.7))]
    (score,) = variant_scores(runs)
    assert (score.runs, score.mean) == (3, pytest.approx(0.6))
    assert score.deviation == pytest.approx(0.1)
    assert score.error == pytest.approx(0.1 / np.sqrt(3))
    (single,) = variant_scores(runs[:1])
    assert (single.deviation, single.error) == (None, None)


def test_factors_are_what_variants_change() -> None:
    levels = factor_levels(
        {"full": {}, "no-dgrpn": {"model.dgrpn": None}, "sharp": {"model.sfan.temperature": 0.1, "seed": 3}}
    )
    assert levels == {
        "full": {"model.dgrpn": AS_IS, "model.sfan.temperature": AS_IS},
        "no-dgrpn": {"model.dgrpn": "off", "model.sfan.temperature": AS_IS},
        "sharp": {"model.dgrpn": AS_IS, "model.sfan.temperature": "0.1"},
    }
    assert factor_levels({"a": {"epochs": 3}, "b": {"epochs": 3}}) == {"a": {}, "b": {}}


def test_settings_that_change_together_are_one_factor() -> None:
    changes = {"paper": {}, "level3": {"taps.level1": [], "taps.level2": []}, "level23": {"taps.level1": []}}
    assert factor_levels(changes)["level3"] == {"taps.level1": "[]", "taps.level2": "[]"}
    both = {"paper": {}, "level3": {"taps.level1": [], "taps.level2": []}}
    assert factor_levels(both) == {"paper": {"variant": "paper"}, "level3": {"variant": "level3"}}


def test_the_text_says_what_its_errors_count() -> None:
    rng = np.random.default_rng(1)
    several = effects_text(factorial(drawn(rng, 0.01), 3))
    assert "msfrn: off against as in params    +5." in several
    assert "*" in next(line for line in several.splitlines() if line.startswith("msfrn: off"))
    assert "pooled over variants, 16 degrees of freedom" in several
    once = effects_text(factorial(drawn(rng, 0.01), 1), known_deviation=0.04)
    assert (
        "Errors over queries do not count the scatter from run to run, 4.0 points between trainings of the demo."
        in once
    )
    two = [Run(variant=v, factors={"variant": v}, seed=1, score=0.5) for v in ("a", "b")]
    assert basis(main_effects(two)).startswith("Every variant was trained once: errors over queries do not count")
    assert main_effects(two).effects[0].error is None
    assert not main_effects(two).effects[0].notable


def test_a_table_is_said_to_the_letter() -> None:
    """A pair of variants, each trained twice: 40 and 42, 50 and 52 of 100."""
    runs = [
        Run(variant=variant, factors={"lr": level}, seed=seed, score=score)
        for variant, level, scores in (("slow", AS_IS, (0.40, 0.42)), ("fast", "1", (0.50, 0.52)))
        for seed, score in enumerate(scores)
    ]
    assert effects_text(runs, known_deviation=0.5).splitlines() == [
        "variant  runs   mean    se",
        "slow        2   41.0   1.0",
        "fast        2   51.0   1.0",
        "",
        "main effect                 change    se",
        "lr: 1 against as in params   +10.0   1.4  *",
        "",
        "Errors from the scatter between seeds: 1.4 points from run to run, pooled over variants, 2 degrees of "
        "freedom; * marks changes above twice their error.",
    ]
    assert effects_text(runs[:1]).splitlines() == [
        "variant  runs   mean    se",
        "slow        1   40.0      ",
        "",
        "Every variant was trained once: errors over queries do not count the scatter from run to run.",
    ]
    assert basis(main_effects(runs[::2]), known_deviation=0.025) == (
        "Every variant was trained once: errors over queries do not count the scatter from run to run, 2.5 points "
        "between trainings of the demo."
    )
    left_over = [*runs[::2], Run(variant="again", factors={"lr": "1"}, seed=7, score=0.54)]
    assert basis(main_effects(left_over)) == (
        "Every variant was trained once. Errors from what the main effects leave over, interactions included: 2.8 "
        "points, 1 degrees of freedom. Errors over queries do not count the scatter from run to run."
    )


def test_a_change_is_notable_beyond_twice_its_error() -> None:
    """Runs an eighth above and below their means: an error of a root of two eighths."""
    for change, notable in ((0.25, False), (0.375, True), (-0.375, True)):
        runs = [
            Run(variant=level, factors={"f": level}, seed=seed, score=0.5 + mean + (-1) ** seed / 8)
            for level, mean in (("a", 0.0), ("b", change))
            for seed in range(2)
        ]
        (effect,) = main_effects(runs).effects
        assert effect.change == pytest.approx(change)
        assert effect.error == pytest.approx(2**0.5 / 8)
        assert effect.notable is (abs(change) > 2 * 2**0.5 / 8) is notable
    assert main_effects(runs).runs == 4
