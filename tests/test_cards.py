"""The card of a head with its scores: what each module is worth and what it learned."""

from typing import Any

import pytest

from diffps.cards import NO_CARD, CardFacts, with_scores, write_card

METRICS: dict[str, Any] = {
    "search": {"map": 0.412, "top1": 0.5},
    "detection": {"ap": 0.7},
    "knock_outs": {
        "dgrpn": {"map": 0.4, "map_diff": -0.012, "map_diff_se": 0.003},
        "sfan": {"map": None, "map_diff": None, "map_diff_se": None},
    },
    "learned": {
        "dgrpn": {"beta": 1.0, "gamma": 0.25, "gate_min": 1.0, "gate_max": 1.125},
        "msfrn": {"level3": {"high_y": 0.0625, "high_xy": -0.125}},
        "sfan": {"alpha": 0.5, "weights": {"head": 0.75, "shoes": 0.25}, "gate_min": 0.5, "gate_max": 0.75},
    },
}


def test_knock_outs_and_learned_scalars_stand_beside_the_scores() -> None:
    lines = with_scores(NO_CARD, METRICS).splitlines()
    assert "| dgrpn | -0.0120 | 0.0030 |" in lines
    assert not [line for line in lines if line.startswith("| sfan")]  # undefined
    assert "- learned by dgrpn: beta 1, gamma 0.25, gate_min 1, gate_max 1.125" in lines
    assert "- learned by msfrn: level3 (high_y 0.0625, high_xy -0.125)" in lines
    assert "- learned by sfan: alpha 0.5, weights (head 0.75, shoes 0.25), gate_min 0.5, gate_max 0.75" in lines


def test_what_is_undefined_is_left_out() -> None:
    card = with_scores(NO_CARD, {"search": {"map": None, "top1": None}, "detection": {"ap": 0.7}})
    assert "| detection AP | 0.7000 |" in card
    assert "mAP" not in card


FACTS: dict[str, Any] = {
    "dataset": "streets",
    "backbone": "a prior",
    "features": {"timestep": 50, "canvas": "64x64"},
    "settings": {"epochs": 2, "milestones": (8, 14)},
    "scenes": 12,
    "identities": 7,
    "parameters": 1234567,
    "scores": {},
}


def test_a_card_says_what_a_head_was_made_from() -> None:
    lines = write_card(CardFacts(**FACTS)).splitlines()
    assert lines[5:9] == [
        "- Backbone: a prior",
        "- Features: timestep 50, canvas 64x64",
        "- Trained on: streets, 12 scenes, 7 labelled identities",
        "- Parameters: 1,234,567",
    ]
    assert lines[10:16] == [
        "## Scores",
        "",
        "Not evaluated when this card was written. `diffps evaluate` writes one with scores beside its results.",
        "",
        "",
        "## Data and its terms",
    ]
    assert lines[-11:] == [
        "## Settings",
        "",
        "```json",
        "{",
        '  "epochs": 2,',
        '  "milestones": [',
        "    8,",
        "    14",
        "  ]",
        "}",
        "```",
    ]


@pytest.mark.parametrize(
    ("dataset", "terms"),
    [
        ("streets", "Scenes drawn by this project; no real persons are shown. Free to use."),
        ("prw", "PRW (Person Re-identification in the Wild): for research,"),
        ("cuhk-sysu", "CUHK-SYSU: for research only, given on request and not to be passed on."),
        ("of my own", "Images of the user's own."),
    ],
)
def test_a_card_states_the_terms_of_its_dataset(dataset: str, terms: str) -> None:
    card = write_card(CardFacts(**FACTS | {"dataset": dataset}))
    assert f"## Data and its terms\n\n{terms}" in card
    assert "The head inherits these terms.\n\n## Intended use" in card


def test_scores_take_the_place_of_those_before_and_leave_the_rest() -> None:
    card = write_card(CardFacts(**FACTS | {"scores": {"mAP": 0.25}}))
    before, scores, after = card.partition("## Scores\n\n| score | value |\n|---|---|\n| mAP | 0.2500 |\n\n")
    assert scores
    changed = with_scores(card, METRICS)
    assert changed.startswith(before + "## Scores\n\n| score | value |\n|---|---|\n| detection AP | 0.7000 |\n")
    assert "| mAP | 0.4120 |\n| top-1 | 0.5000 |\n\n| taken out of the trained head | change of mAP" in changed
    assert "0.2500 |" not in changed
    assert changed.endswith(after)
    bare = with_scores(card, {"search": METRICS["search"], "detection": METRICS["detection"]})
    assert "taken out" not in bare
    assert "learned by" not in bare
    assert bare.endswith("| top-1 | 0.5000 |\n" + after)
