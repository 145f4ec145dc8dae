"""A loss that becomes NaN: named, and never in a checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TinyDetector, train
from torch import Tensor

from detcore.engine import NonFiniteLossError
from detcore.structures.batch import Batch


class Poisoned(TinyDetector):
    """Its sixth batch gives NaN."""

    poison_on = 6

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        if self.training and self.passes == self.poison_on:
            self.seen = batch.sample_ids.tolist()
            losses["box"] = losses["box"] * torch.nan
        return losses


def test_the_step_and_its_images_are_named_and_checkpoints_stay_whole(configure) -> None:
    config = configure(engine__eval_every=None, engine__log_every=10)
    model = Poisoned()
    with pytest.raises(NonFiniteLossError) as caught:
        train(model, config)
    images = [1000 + sample for sample in model.seen]  # the ids that the data set was written with
    assert str(caught.value).startswith(f"step 5: box not finite, on images {images}; stopped")
    assert "\n" not in str(caught.value)
    # The next checkpoint would have been at step 6: the watch comes before it.
    checkpoints = Path(config.run_dir) / "checkpoints"
    assert [folder.name for folder in checkpoints.iterdir()] == ["step-00000003"]
    assert all(
        value.isfinite().all() for value in load_file(checkpoints / "step-00000003/weights.safetensors").values()
    )


@pytest.mark.parametrize("every", [{"engine__log_every": 1}, {"engine__eval_every": 6}])
def test_it_is_found_at_the_next_log_or_evaluation(configure, every: dict[str, int]) -> None:
    quiet = {"engine__eval_every": None, "engine__log_every": 100, "engine__checkpoint_every": 100}
    model = Poisoned()
    with pytest.raises(NonFiniteLossError, match="step 5"):
        train(model, configure(**{**quiet, **every}))
    assert model.passes == 6


def test_training_goes_on_from_the_last_checkpoint(configure) -> None:
    config = configure()
    with pytest.raises(NonFiniteLossError):
        train(Poisoned(), config)
    mended = Poisoned()
    mended.poison_on = -1
    assert train(mended, config).step == 10
    assert mended.passes == 6  # from the evaluation's checkpoint at step 4
