"""What the cache cost, and after how many epochs it had paid for itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.files import read_json
from diffps.figures.sheets import Chart, Line
from diffps.records import Split
from stages.page.content import Cell, Headline, Table
from stages.page.evidence import Evidence
from stages.places import moments_manifest
from stages.text import count, duration, size


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """``nbytes`` on disk, filled in ``seconds``, of which ``train_seconds`` for what training reads.

    ``live_epoch``: seconds of computing one epoch's features anew; ``cached_epoch``: those an epoch waits for features
    from the cache; ``epochs`` trained. None where not recorded.
    """

    nbytes: int
    seconds: float | None
    train_seconds: float | None
    live_epoch: float | None
    cached_epoch: float | None
    epochs: int

    @property
    def paid_after(self) -> float | None:
        """Epochs until filling was cheaper than computing anew; None where not known, or never. Test scenes are left
        out: live evaluation computes them once as well."""
        if self.train_seconds is None or self.live_epoch is None or self.cached_epoch is None:
            return None
        gain = self.live_epoch - self.cached_epoch
        return self.train_seconds / gain if gain > 0 else None

    @property
    def saved(self) -> float | None:
        """Seconds this run gained over computing every epoch anew; negative where the cache has not paid yet."""
        if self.train_seconds is None or self.live_epoch is None or self.cached_epoch is None:
            return None
        return self.epochs * (self.live_epoch - self.cached_epoch) - self.train_seconds

    def headlines(self) -> list[Headline]:
        """Bytes, time and break-even, large."""
        paid, filled = self.paid_after, self.seconds
        return [
            Headline(label="On disk", value=size(self.nbytes), remark="of what this head reads"),
            Headline(label="Filled in", value="–" if filled is None else duration(filled), remark="once"),
            Headline(
                label="Paid after",
                value="–" if paid is None else f"{paid:.1f}",
                remark="not measured" if paid is None else "epochs of training",
            ),
        ]

    def text(self) -> str:
        """The same as a sentence, with the reckoning behind it."""
        if not self.nbytes:
            return "Nothing is stored: this head read its features live."
        if self.live_epoch is None or self.cached_epoch is None or self.saved is None:
            return "Times were not recorded for this store, so what it saved is not known."
        each = (
            f"Computing one epoch’s features anew takes {duration(self.live_epoch)}; "
            f"from the cache training waits {duration(self.cached_epoch)} for them. "
        )
        if self.paid_after is None:
            return each + "On this machine the cache does not pay: compute live."
        verb = "saved" if self.saved >= 0 else "is still short of breaking even by"
        return each + f"Over {count(self.epochs, 'epoch')} of this head it {verb} {duration(abs(self.saved))}."


def cost_chart(cost: Cost) -> Chart | None:
    """Seconds spent on features against epochs, with the cache and without; None where they were not recorded."""
    if cost.train_seconds is None or cost.live_epoch is None or cost.cached_epoch is None:
        return None
    last = max(cost.epochs, round(1.5 * (cost.paid_after or 0)), 1)
    live = [0.0, last * cost.live_epoch]
    cached = [cost.train_seconds, cost.train_seconds + last * cost.cached_epoch]
    return Chart(
        title="Seconds spent on features",
        x_label="epochs trained",
        y_label="seconds",
        lines=(Line(label="from the cache", x=[0, last], y=cached), Line(label="computed anew", x=[0, last], y=live)),
        markers=() if cost.paid_after is None else ((cost.paid_after, "paid"),),
        summary=(
            f"After {last} epochs: {cached[1]:.0f} seconds from the cache, filling included; "
            f"{live[1]:.0f} seconds computed anew."
        ),
        note="Where the lines cross, filling the store has paid for itself; test scenes are left out on both sides.",
        flat=True,
    )


def measure_cost(evidence: Evidence) -> Cost:
    """Bytes from the manifests of what this head reads, seconds from the receipts beside them."""
    root, facts, params = evidence.store.root, evidence.training, evidence.params
    arrays = _arrays(evidence)
    groups = {_group(entry["path"]): entry for entry in arrays}
    seconds = {group: _seconds(root, group) for group in groups}
    trained = {group: each for group, each in seconds.items() if group.startswith("train/")}
    views = {group.split("/")[1] for group in trained}
    images = max((groups[group]["images"] for group in trained), default=0)
    used, whole = facts.get("images", images), _total(trained)
    epochs = int(facts.get("epochs", params.train.epochs))
    waiting = facts.get("seconds_waiting")
    return Cost(
        nbytes=sum(entry["nbytes"] for entry in arrays),
        seconds=_total(seconds),
        train_seconds=whole,
        live_epoch=whole / len(views) * used / images if whole is not None and images else None,
        cached_epoch=waiting / epochs if waiting is not None and params.train.source == "cached" else None,
        epochs=epochs,
    )


def seconds_of_groups(evidence: Evidence, stage: str) -> float | None:
    """Seconds that ``encode`` or ``extract`` computed on what this head reads; None where not recorded."""
    groups = dict.fromkeys(_group(entry["path"]) for entry in _arrays(evidence))
    wanted = [group for group in groups if (group.count("/") == 3) == (stage == "extract")]
    return _total({group: _seconds(evidence.store.root, group) for group in wanted})


def store_table(evidence: Evidence) -> Table:
    """One row per array that this head reads."""
    rows = [
        [
            entry["name"].partition("@")[0],
            _group(entry["path"]),
            entry["images"],
            " × ".join(map(str, entry["shape"])),
            entry["encoding"],
            Cell(entry["nbytes"], size(entry["nbytes"])),
            entry["id"],
        ]
        for entry in _arrays(evidence)
    ]
    columns = ["Array", "Split, view, pass", "Images", "Shape", "Encoding", "Size", "Fingerprint"]
    return Table(caption=f"{len(rows)} arrays", columns=columns, rows=rows)


def _arrays(evidence: Evidence) -> list[dict[str, Any]]:
    """What the manifests say of each array that the scored head reads, and of the moments those were made from."""
    reading, files = evidence.reading, []
    splits: tuple[Split, Split] = ("train", "test")
    for split in splits:
        files += [moments_manifest(split, view) for view in reading.views(split)]
        files += [path for *_, path in reading.manifests(split)]
    return [entry for file in dict.fromkeys(files) if file.is_file() for entry in read_json(file)["arrays"]]


def _group(path: str) -> str:
    return path.rpartition("/")[0]


def _seconds(root: Path, group: str) -> float | None:
    found = [read_json(path)["info"].get("seconds") for path in (root / "receipts" / group).glob("*.json")]
    return None if not found or None in found else float(sum(found))


def _total(seconds: dict[str, float | None]) -> float | None:
    known = [each for each in seconds.values() if each is not None]
    return sum(known) if known and len(known) == len(seconds) else None
