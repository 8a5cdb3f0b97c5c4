"""What a step costs is counted without computing: against layers counted by hand."""

from dataclasses import replace

from diffps.heads.costs import costs
from tests.heads.scenes import CONFIG, IDENTITIES, searcher


def test_costs_count_every_parameter_once_and_compute_nothing() -> None:
    model = searcher()
    parts = costs(model, batch=2)
    assert sum(part.parameters for part in parts) == sum(parameter.numel() for parameter in model.parameters())
    assert {part.part for part in parts} == {name for name, _ in model.named_children()}
    assert all(part.activation_bytes > 0 for part in parts)
    without_words = searcher(replace(CONFIG, sfan=None))  # projecting the words does not depend on the batch
    for one, two in zip(costs(without_words), costs(without_words, batch=2), strict=True):
        assert two.forward_flops == 2 * one.forward_flops


def test_cost_of_the_aggregation_by_hand() -> None:
    (part,) = [part for part in costs(searcher()) if part.part == "aggregation"]
    positions, channels = 16 * 24, 24
    assert part.forward_flops == 2 * positions * (8 * channels + 9 * channels)


def test_cost_of_other_parts_by_hand() -> None:
    one, two = ({part.part: part for part in costs(searcher(), batch=batch)} for batch in (1, 2))
    positions, anchors, channels = 16 * 24, 2 * 3, 24
    rpn = positions * (9 * channels * channels + channels * (anchors + 4 * anchors))
    assert one["proposals"].forward_flops == 2 * rpn
    persons, size, memory = 24, 48, IDENTITIES + 6
    assert one["oim"] == ("oim", 0, 2 * persons * size * memory, 4 * size * memory)
    assert one["dgrpn"][1:3] == (2, 0)
    # The tap, three maps, and of both BatchNorms the statistics of the batch and those kept.
    assert one["aggregation"].activation_bytes == 4 * (positions * (8 + 3 * channels) + 2 * 4 * channels)
    assert two["aggregation"].activation_bytes == 4 * (2 * positions * (8 + 3 * channels) + 2 * 4 * channels)
    assert one["proposals"].activation_bytes == 4 * positions * 2 * channels
    assert two["oim"].activation_bytes == one["oim"].activation_bytes
    frozen = searcher()
    frozen.box_head.requires_grad_(False)
    (part,) = [part for part in costs(frozen) if part.part == "box_head"]
    assert (part.parameters, part.forward_flops) == (0, one["box_head"].forward_flops)
    assert not [part for part in costs(searcher(replace(CONFIG, dgrpn=None))) if part.part == "dgrpn"]
