"""The card of a trained head: what it was made from, what it is for and what it cannot do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TERMS = {
    "streets": "Scenes drawn by this project; no real persons are shown. Free to use.",
    "prw": "PRW (Person Re-identification in the Wild): for research, as its authors state with the download. It "
    "shows real persons who did not ask to be found: do not try to name them.",
    "cuhk-sysu": "CUHK-SYSU: for research only, given on request and not to be passed on. It shows real persons who "
    "did not ask to be found: do not try to name them.",
}
OWN_TERMS = "Images of the user's own. Whether their persons may be shown and searched is for the user to settle."

SCORES_HEADING = "## Scores"
NOT_EVALUATED = "Not evaluated when this card was written. `diffps evaluate` writes one with scores beside its results."

NO_CARD = f"""# A DiffPS head

{SCORES_HEADING}

## Limits

The head came without a card: what it was trained on, and under which terms, is not known.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a card states. ``settings`` is the section ``train``; ``scores`` may be empty; ``features`` names the
    recipe the features were made by."""

    dataset: str
    backbone: str
    features: Mapping[str, object]
    settings: Mapping[str, object]
    scenes: int
    identities: int
    parameters: int
    scores: Mapping[str, float]


def write_card(facts: CardFacts) -> str:
    """The card as Markdown, for README.md in the head's folder."""
    terms = TERMS.get(facts.dataset, OWN_TERMS)
    return f"""# A DiffPS head

Finds persons in uncropped scenes and describes how they look, from features of a frozen diffusion backbone.
Load it with `PersonSearcher.from_pretrained(<this folder>)`.

- Backbone: {facts.backbone}
- Features: {_list(facts.features)}
- Trained on: {facts.dataset}, {facts.scenes} scenes, {facts.identities} labelled identities
- Parameters: {facts.parameters:,}

{_scores(facts.scores)}
## Data and its terms

{terms} The head inherits these terms.

## Intended use

Research on person search: comparing methods, settings and features on data like that it was trained on.

## Limits

- It compares appearance, not identity: clothing and build as seen by a camera. Two persons dressed alike match, one
  person in other clothes does not. A match is no evidence of who somebody is.
- It works only on features of the backbone and recipe named above; others are refused or give noise.
- Scores hold for the dataset named; other cameras, places and people lower them, not equally for everybody.
- Not for surveillance, for finding private persons, or for decisions about anybody.

## Settings

```json
{json.dumps(facts.settings, indent=2, default=list)}
```
"""


def with_scores(card: str, metrics: Mapping[str, Any]) -> str:
    """``card`` with its scores replaced by those of an evaluation, as metrics.json has them: ``search``, ``detection``,
    and ``knock_outs`` and ``learned`` where they are there. What is undefined is left out."""
    search, detection = metrics["search"], metrics["detection"]
    found = {"detection AP": detection["ap"], "mAP": search["map"], "top-1": search["top1"]}
    scores = {name: value for name, value in found.items() if value is not None}
    modules = _knock_outs(metrics.get("knock_outs", {})) + _learned(metrics.get("learned", {}))
    before, _, after = card.partition(SCORES_HEADING)
    return before + _scores(scores) + modules + "## " + after.split("\n## ", 1)[1]


def _scores(scores: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    table = "\n".join(["| score | value |", "|---|---|", *rows]) if rows else NOT_EVALUATED
    return f"{SCORES_HEADING}\n\n{table}\n\n"


def _knock_outs(found: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [
        f"| {name} | {_signed(scores['map_diff'])} | {_plain(scores['map_diff_se'])} |"
        for name, scores in found.items()
        if scores["map_diff"] is not None
    ]
    if not rows:
        return ""
    head = ["| taken out of the trained head | change of mAP | standard error over queries |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n\n"


def _learned(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per module; what is named by level or word in brackets."""

    def told(value: Any) -> str:
        return f"({_list({k: told(v) for k, v in value.items()})})" if isinstance(value, Mapping) else f"{value:.4g}"

    lines = [f"- learned by {name}: {_list({k: told(v) for k, v in values.items()})}" for name, values in found.items()]
    return "\n".join(lines) + "\n\n" if lines else ""


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _list(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
