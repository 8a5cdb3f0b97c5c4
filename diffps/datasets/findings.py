"""What was noticed about data while it was read: counted by reason, told to people, and whether to go on with it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from diffps.errors import DatasetError, one_line

Kind = Literal["fine", "repaired", "doubtful", "refused"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOLERATED = 0.01  # share of a whole that may be in doubt or lost for one reason
LONGEST = 300  # characters of a reason or an example, which may repeat what a file holds
TOLERATE_KEY = "index.tolerate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One reason, and how often it applied.

    ``kind``: fine (as expected, or left out by a rule that was asked for), repaired (read as what was meant), doubtful
    (read as it stands), refused (not read). ``count`` of ``total`` things, named in the plural by ``of``.
    ``example``: the first of them, a file below the dataset's root and a row of it; empty where there is none to name.
    """

    kind: Kind
    reason: str
    of: str
    count: int
    total: int
    example: str = ""

    @property
    def share(self) -> float:
        """The part of the whole, 0 to 1."""
        return self.count / self.total if self.total else 0.0

    @property
    def line(self) -> str:
        """The finding for people: `88 of 137 boxes (64.2 %) lie outside their image; first: persons.csv line 4`."""
        part = f" of {self.total}" if self.count != self.total else ""
        percent = f" ({_percent(self.share)})" if part else ""
        example = f"; first: {self.example}" if self.example else ""
        return f"{self.count}{part} {self.of}{percent} {self.reason}{example}"


class Findings:
    """Counts of what a reader noticed, by kind, reason and what they are counts of; in the order of their kinds."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Kind, str, str]] = Counter()
        self._examples: dict[tuple[Kind, str, str], str] = {}
        self._seen: Counter[str] = Counter()

    def seen(self, of: str, count: int = 1) -> None:
        """``count`` more things (boxes, images, rows, ...) were looked at: what shares are shares of."""
        self._seen[of] += count

    def add(self, kind: Kind, reason: str, of: str, example: str = "", *, count: int = 1) -> None:
        """``count`` more of the things had this reason, a predicate such as "lie outside their image".

        The example of the first call is kept. Nothing is added where ``count`` is 0.
        """
        if count:
            reason, example = one_line(reason, LONGEST), one_line(example, LONGEST)
            self._counts[kind, reason, of] += count
            self._examples.setdefault((kind, reason, of), example)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add what another reader noticed. Its totals count as seen once for each thing they are totals of."""
        totals: dict[str, int] = {}
        for finding in findings:
            self.add(finding.kind, finding.reason, finding.of, finding.example, count=finding.count)
            totals[finding.of] = max(totals.get(finding.of, 0), finding.total)
        self._seen.update(totals)

    def records(self) -> tuple[Finding, ...]:
        """All findings: fine first, then repaired, doubtful and refused; within a kind in the order of adding."""
        return tuple(
            Finding(
                kind=kind,
                reason=reason,
                of=of,
                count=count,
                total=max(count, self._seen[of]),  # what was never counted as seen is a whole of its own
                example=self._examples[kind, reason, of],
            )
            for kind in KINDS
            for (found, reason, of), count in self._counts.items()
            if found == kind
        )


def lines(findings: Iterable[Finding]) -> list[str]:
    """The block for people: one line per finding, its kind first."""
    width = max(map(len, KINDS))
    return [f"{finding.kind:<{width}}  {finding.line}" for finding in findings]


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as plain values for the index report."""
    return [asdict(finding) for finding in findings]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """What :func:`to_json` wrote."""
    return tuple(Finding(**row) for row in rows)


def require_plausible(findings: Iterable[Finding], tolerated: float = TOLERATED) -> None:
    """Raise DatasetError where more than the share ``tolerated`` is doubtful or refused for one reason.

    The one line names the largest share, its first example, and the key and value that let all of them pass.
    """
    over = [f for f in findings if f.kind in ("doubtful", "refused") and f.share > tolerated]
    if not over:
        return
    worst = max(over, key=lambda finding: finding.share)
    others = f" (and {len(over) - 1} more such findings)" if len(over) > 1 else ""
    raise DatasetError(
        f"{worst.kind}: {worst.line}{others}; more than {_percent(tolerated)} stops: "
        f"mend the data, or let it pass with {TOLERATE_KEY}={_rounded_up(worst.share)}"
    )


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %") if share >= 0.001 or not share else "under 0.1 %"


def _rounded_up(share: float) -> str:
    """The share with three decimals, not below it."""
    return f"{min(1.0, int(share * 1000) / 1000 + 0.001):g}"
