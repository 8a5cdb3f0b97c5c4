"""What a trained head owes to each learned module: the same head with that module taken out, and its learned scalars.

A knock-out differs from training without the module: nothing is learned anew, so there is no scatter between trainings.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffps.features import Feature
from diffps.heads.msfrn import FRM, SRB
from diffps.heads.sfan import SFAN
from diffps.model import PersonSearcher

Range = tuple[float, float]


def knock_outs(searcher: PersonSearcher) -> dict[str, PersonSearcher]:
    """The searcher once per module that it has, with that one's scalars 0: ``dgrpn``, ``msfrn``, ``sfan``.

    ``dgrpn``: gamma, so F_det = F. ``sfan``: alpha, so F_sem = F. ``msfrn``: the gammas of every FRM, so that nothing
    it learned is left; an FRM then adds the low band that Eq. 5 passes on unchanged, with ``refine_low_band`` nothing.
    All other tensors are the searcher's own, not copies.
    """
    return {name: _silenced(searcher, scalars) for name, scalars in _switches(searcher).items() if scalars}


def learned_scalars(searcher: PersonSearcher, words: Sequence[str] | None = None) -> dict[str, Any]:
    """The numbers that say how much each module is used, as JSON values; a module that is off is left out.

    ``dgrpn``: beta as it enters Eq. 3, and gamma. ``sfan``: alpha, temperature, and ``weights`` by word (numbered where
    ``words`` is not given), which sum to 1. ``msfrn``: gamma of every band, by level.
    """
    found: dict[str, Any] = {}
    dgrpn, sfan = searcher.dgrpn, searcher.reid_head.sfan
    if dgrpn is not None:
        found["dgrpn"] = {"beta": abs(dgrpn.beta.item()) + 1e-6, "gamma": dgrpn.gamma.item()}
    if searcher.msfrn.frm:
        found["msfrn"] = {
            level: {band: block.gamma.item() for band, block in _blocks(frm).items()}
            for level, frm in searcher.msfrn.frm.items()
        }
    if isinstance(sfan, SFAN):
        weights = sfan.part_weights.softmax(0).tolist()
        names = [str(number) for number in range(len(weights))] if words is None else words
        found["sfan"] = {
            "alpha": sfan.alpha.item(),
            "temperature": sfan.temperature,
            "weights": dict(zip(names, weights, strict=True)),
        }
    return found


@torch.no_grad()
def gate_ranges(
    searcher: PersonSearcher, features: Mapping[str, Feature], boxes: Sequence[Float[Tensor, "_ 4"]]
) -> dict[str, Range]:
    """Least and greatest factor that features are multiplied by, of ``features`` and each image's ``boxes``.

    ``dgrpn``: 1 + gamma G over the maps. ``sfan``: over the RoIs of the boxes; left out where there are none.
    """
    assert not searcher.training, "gate_ranges() needs eval()"
    found: dict[str, Range] = {}
    if searcher.dgrpn is not None:
        gate = 1 + searcher.dgrpn.gamma * searcher.dgrpn.gaussians(searcher.guidance(features))
        found["dgrpn"] = (gate.min().item(), gate.max().item())
    sfan = searcher.reid_head.sfan
    if isinstance(sfan, SFAN) and any(len(image_boxes) for image_boxes in boxes):
        gate = sfan.gate(searcher.reid_head.cut(searcher.msfrn(features), boxes))
        found["sfan"] = (gate.min().item(), gate.max().item())
    return found


def widest(ranges: Iterable[Mapping[str, Range]]) -> dict[str, Range]:
    """The ranges of many batches as one."""
    found: dict[str, Range] = {}
    for batch in ranges:
        for name, (low, high) in batch.items():
            known = found.get(name, (low, high))
            found[name] = min(known[0], low), max(known[1], high)
    return found


def _switches(searcher: PersonSearcher) -> dict[str, list[nn.Parameter]]:
    """The scalars of each module that take it out when they are 0."""
    sfan = searcher.reid_head.sfan
    return {
        "dgrpn": [searcher.dgrpn.gamma] if searcher.dgrpn is not None else [],
        "msfrn": [block.gamma for frm in searcher.msfrn.frm.values() for block in _blocks(frm).values()],
        "sfan": [sfan.alpha] if isinstance(sfan, SFAN) else [],
    }


def _silenced(searcher: PersonSearcher, scalars: Sequence[nn.Parameter]) -> PersonSearcher:
    zeros = {id(scalar): nn.Parameter(torch.zeros_like(scalar)) for scalar in scalars}
    shared = {id(tensor): tensor for tensor in (*searcher.parameters(), *searcher.buffers())}
    # What its memo holds deepcopy takes for copied already.
    return copy.deepcopy(searcher, shared | zeros)


def _blocks(frm: nn.Module) -> dict[str, SRB]:
    assert isinstance(frm, FRM)
    return {name: block for name, block in frm.named_children() if isinstance(block, SRB)}
