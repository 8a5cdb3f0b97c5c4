"""Charts from tables: training losses, and scores against timesteps and taps."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffps.figures.sheets import Bar, Chart, Line

MOST_POINTS = 400  # more than this is noise at the width of a page
NOTES = {
    "Total loss": "What training makes small, step by step. A curve that still falls at its end would gain by more.",
    "Its parts": (
        "rpn: proposals, prop: boxes; cls says person or not, reg places the box; reid tells persons apart. A part "
        "that rises while the others fall is bought by them."
    ),
}
LOG_SPAN = 20  # values that differ by more are drawn on a logarithmic axis


def loss_charts(columns: Mapping[str, Sequence[float]]) -> list[Chart]:
    """The sum and its parts against the step; ``columns`` hold ``step`` and one list per loss, NaN where not known."""
    names = [name for name in columns if name not in ("step", "total")]
    charts = []
    for title, chosen in (("Total loss", ["total"] if "total" in columns else []), ("Its parts", names)):
        lines = tuple(_smooth(name, columns["step"], columns[name]) for name in chosen)
        lines = tuple(line for line in lines if len(line.x))
        if lines:
            ends = "; ".join(f"{line.label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
            values = [value for line in lines for value in line.y]
            log = min(values) > 0 and max(values) > LOG_SPAN * min(values)
            charts.append(
                Chart(
                    title=title,
                    x_label="step",
                    y_label="loss",
                    lines=lines,
                    log_y=log,
                    note=NOTES[title],
                    summary=f"{title}: {ends}.",
                )
            )
    return charts


def score_chart(title: str, x_label: str, rows: Mapping[str, Sequence[tuple[float, float]]], note: str = "") -> Chart:
    """One line per name through its (x, score) points, in order of x."""
    lines = []
    for name, points in rows.items():
        ordered = sorted(points)
        lines.append(Line(label=name, x=[x for x, _ in ordered], y=[y for _, y in ordered], points=True))
    return Chart(
        title=title,
        x_label=x_label,
        y_label="score",
        lines=tuple(lines),
        note=note,
        shares="y",
        summary=". ".join(
            f"{line.label}: " + ", ".join(f"{100 * y:.1f} % at {x:g}" for x, y in zip(line.x, line.y, strict=True))
            for line in lines
        ),
    )


def bar_chart(title: str, x_label: str, groups: Mapping[str, Sequence[tuple[str, float]]], note: str = "") -> Chart:
    """Horizontal bars: one group per name of the first series, one bar per series in it."""
    bars = tuple(Bar(label=label, values=values) for label, values in groups.items())
    summary = ". ".join(
        f"{bar.label}: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in bar.values) for bar in bars
    )
    return Chart(title=title, x_label=x_label, bars=bars, shares="x", note=note, summary=summary)


def _smooth(label: str, steps: Sequence[float], values: Sequence[float]) -> Line:
    known = np.isfinite(np.asarray(values, np.float64))
    x, y = np.asarray(steps, np.float64)[known], np.asarray(values, np.float64)[known]
    parts = np.array_split(np.arange(len(x)), min(len(x), MOST_POINTS)) if len(x) else []
    return Line(label=label, x=[float(x[part].mean()) for part in parts], y=[float(y[part].mean()) for part in parts])
