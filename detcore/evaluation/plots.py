"""Evaluation as pictures."""

from pathlib import Path

from detcore.evaluation.metrics import PRCurve

_NAMED_CLASSES = 20
"""More curves than this get no legend entry each: nobody could tell the colours apart."""


def save_pr_curve(curve: PRCurve, path: Path, *, title: str = "Precision over recall at IoU 0.5") -> None:
    """Writes the curves of all classes and their mean as a picture; the format follows the path's suffix."""
    # Here, for every worker that trains imports this room.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no global state: safe in any thread of a worker
    axes = figure.add_subplot()
    # Worst class last in the legend.
    ranked = sorted(curve.by_class.items(), key=lambda item: -item[1].mean())
    named = len(ranked) <= _NAMED_CLASSES
    for index, (name, precision) in enumerate(ranked):
        colour, dash = (f"C{index % 10}", ("-", "--")[index // 10]) if named else ("0.8", "-")
        label = f"{name}  {100 * precision.mean():.1f}" if named else None
        axes.plot(curve.recall, precision, color=colour, linestyle=dash, linewidth=1.0, label=label)
    axes.plot(curve.recall, curve.mean, color="black", linewidth=2.5, label=f"mean  {100 * curve.mean.mean():.1f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    axes.legend(title="AP50", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)
