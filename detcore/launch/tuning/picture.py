"""A search as a picture: how its trials went, and which settings led where."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detcore.config import EngineConfig
from detcore.config.tune import LogUniform, TuneConfig
from detcore.config.variation import as_overrides
from detcore.launch.tuning.record import TrialRecord, best_of


def save_picture(
    records: Sequence[TrialRecord], path: Path, *, tune: TuneConfig, engine: EngineConfig, metric: str
) -> None:
    """Writes it: on the left the metric over the step, on the right a line through the settings of each trial.

    Colours are by the best value of the metric; a cross is where a trial was stopped early.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    found = [(record, best[1]) for record in records if (best := best_of(record.scores(engine))) is not None]
    figure = Figure(figsize=(13.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    history, parallel = figure.subplots(1, 2, width_ratios=(1.0, 1.3))
    values = [value for _, value in found] or [0.0]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1.0)
    colours: Any = ScalarMappable(norm, cmap="viridis")
    for record, value in sorted(found, key=lambda each: each[1]):
        leads = value == max(values)
        style = {"color": colours.to_rgba(value), "linewidth": 2.5 if leads else 1.2}
        steps, scores = zip(*record.scores(engine), strict=True)
        history.plot(steps, scores, marker="o", markersize=3, **style)
        end = "x" if record.outcome == "stopped early" else "o"
        history.plot(steps[-1], scores[-1], marker=end, markersize=8, **style)
        history.annotate(str(record.number), (steps[-1], scores[-1]), xytext=(6, -3), textcoords="offset points")
        heights = [_height(tune, key, record.current) for key in tune.space]
        parallel.plot([*range(len(heights)), len(heights)], [*heights, norm(value)], **style, alpha=0.9)
    history.set(
        xlabel="step", ylabel=f"{metric} on val", title="Trials; x: stopped early", xlim=(0, engine.steps * 1.06)
    )
    history.grid(alpha=0.3)
    _label(parallel, tune, low=norm.vmin, high=norm.vmax, metric=metric)
    figure.colorbar(colours, ax=parallel, label=f"best {metric} on val", pad=0.08)
    figure.savefig(path, dpi=120)


def _label(axes: Any, tune: TuneConfig, *, low: float | None, high: float | None, metric: str) -> None:
    names = [*(key.rpartition(".")[2] for key in tune.space), f"best {metric}"]
    axes.set_xticks(range(len(names)), names, rotation=15)
    axes.set(ylim=(-0.08, 1.08), yticks=[], title="Settings")
    ends = [(_word(tune, key, 0), _word(tune, key, 1)) for key in tune.space] + [(f"{low:.1f}", f"{high:.1f}")]
    for position, (bottom, top) in enumerate(ends):
        axes.axvline(position, color="0.8", linewidth=1.0, zorder=0)
        axes.text(position, -0.02, bottom, ha="center", va="top", fontsize="small")
        axes.text(position, 1.02, top, ha="center", va="bottom", fontsize="small")
    for edge in ("left", "right", "top"):
        axes.spines[edge].set_visible(False)


def _height(tune: TuneConfig, key: str, settings: Mapping[str, Any]) -> float:
    """Where a setting stands between the least and the most, 0 to 1."""
    one, value = tune.space[key], settings[key]
    if isinstance(one, LogUniform):
        return math.log(value / one.low) / math.log(one.high / one.low)
    if hasattr(one, "values"):
        return list(one.values).index(value) / max(1, len(one.values) - 1)
    return float((value - one.low) / (one.high - one.low))


def _word(tune: TuneConfig, key: str, end: int) -> str:
    one = tune.space[key]
    value = one.values[-end] if hasattr(one, "values") else (one.low, one.high)[end]
    if end == 0 and hasattr(one, "values"):
        value = one.values[0]
    return as_overrides({key: value})[0].partition("=")[2]
