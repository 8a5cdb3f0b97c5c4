"""The card of a head with its scores: what each module is worth and what it learned."""

from typing import Any

from diffps.cards import NO_CARD, with_scores

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
