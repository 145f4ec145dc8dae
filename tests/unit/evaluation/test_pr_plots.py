from pathlib import Path

import numpy as np
from PIL import Image

from detcore.evaluation import PRCurve, save_pr_curve


def curve_of(classes: int) -> PRCurve:
    recall = np.linspace(0, 1, 101)
    curves = {f"class {i}": np.clip(1.2 - recall * (i + 1) / classes, 0, 1) for i in range(classes)}
    return PRCurve(recall=recall, mean=np.mean(list(curves.values()), axis=0), by_class=curves)


def test_the_picture_holds_the_curves(tmp_path: Path) -> None:
    for classes in (3, 30):
        path = tmp_path / f"{classes}.png"
        save_pr_curve(curve_of(classes), path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert pixels.shape == (600, 960, 3)
        # With few classes the curves are coloured, with many they are grey behind the mean.
        coloured = (pixels.max(axis=2) - pixels.min(axis=2) > 80).sum()
        assert (coloured > 500) == (classes == 3)
