"""What a training's evaluations found, compared with the truth in a thread: the next steps need not wait for it."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch.distributed as dist

from detcore.engine.collective import (
    from_rank_zero,
    gather_at_rank_zero,
    host_group,
    largest_over_ranks,
    rank,
)
from detcore.engine.evaluate import Scores
from detcore.evaluation import Evaluation, Evaluator


class Comparison:
    """One evaluation at a time: the ranks' detections are brought to rank 0 and compared there.

    Every rank calls each method, and at the same steps.

    Attributes:
        step: of the evaluation that is under way, or None.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self._group = host_group()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detcore-evaluation")
        self._futures: dict[str, Future[Evaluation | None]] = {}
        self._losses: dict[str, float] = {}

    def begin(self, step: int, evaluators: Mapping[str, Evaluator], losses: Mapping[str, float]) -> None:
        """Begins to compare what was found at a step.

        Args:
            evaluators: with this rank's detections, by what the names of their metrics begin with; the first, "", is
                what `Scores.evaluation` will be of.
            losses: that belong to the metrics.
        """
        assert self.step is None, "one at a time"
        states = {prefix: evaluator.state() for prefix, evaluator in evaluators.items()}  # waits for the device

        def compare(prefix: str) -> Evaluation | None:
            gathered = gather_at_rank_zero(states.pop(prefix), self._group)
            if gathered is None:
                return None
            evaluators[prefix].merge(gathered)
            return evaluators[prefix].compute()

        self.step, self._losses = step, dict(losses)
        self._futures = {prefix: self._thread.submit(compare, prefix) for prefix in evaluators}

    def arrived(self) -> bool:
        """Whether the scores are there; the same on every rank."""
        done = rank() == 0 and all(future.done() for future in self._futures.values())
        return bool(largest_over_ranks(int(done)))

    def take(self) -> tuple[int, Scores]:
        """The step and its scores, waited for.

        Raises:
            ValueError: if what the model detects does not fit the ground truth.
        """
        step, futures = self.step, self._futures
        assert step is not None, "begin first"
        metrics = from_rank_zero(lambda: _metrics(futures))
        evaluation = futures[""].result()
        self.step, self._futures = None, {}
        return step, Scores(metrics={**metrics, **self._losses}, evaluation=evaluation)

    def close(self) -> None:
        """Gives up what is under way."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._group is not None:
            dist.destroy_process_group(self._group)


def _metrics(futures: Mapping[str, Future[Evaluation | None]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for prefix, future in futures.items():
        evaluation = future.result()
        assert evaluation is not None, "of rank 0"
        metrics |= {f"{prefix}{name}": value for name, value in evaluation.metrics.items()}
    return metrics
