"""Where a training runs, and what it survives there: the cluster section."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from detcore.config.section import Count, NonNegative, Positive, Section


def _one_or_two(value: Any) -> str:
    return "range" if isinstance(value, list | tuple) else "number"


NumWorkers = Annotated[
    Annotated[Count, Tag("number")] | Annotated[tuple[Count, Count], Tag("range")], Discriminator(_one_or_two)
]


class ClusterConfig(Section):
    type: Literal["local", "ray"] = "ray"
    """'local' runs in this process, without Ray: for a debugger."""
    num_workers: NumWorkers = 1
    """A number, or [least, most]: as many as there is room for, fewer when nodes are lost, more when they come."""
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: NonNegative | None = None
    """None takes one where the cluster has enough for all workers and engine.device allows it."""
    resources_per_worker: dict[str, Positive] = Field(default_factory=dict)
    """Ray's own resources besides, as in {big_memory: 1}: a way to say on which nodes workers may be."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """Workers close together or on different nodes; strict rather waits than does otherwise."""
    address: str | None = None
    """A Ray cluster to join; None takes RAY_ADDRESS, else starts one on this machine."""
    storage_path: str | None = None
    """Where Ray keeps a run's state, a shared path or a URL; None takes a folder in run_dir, which all nodes share."""
    max_failures: Annotated[int, Field(ge=-1)] = 0
    """So often a training whose workers or nodes were lost goes on from the last checkpoint; -1 is always. What the
    configuration, the data or the model have wrong is never tried again."""
    start_timeout_s: Positive = 15.0
    """Workers that have no place by then are asked for anew, of an elastic number those there is room for."""
    resize_check_s: Positive = 60.0
    """How often an elastic training looks whether it can grow."""
    stall_timeout_s: Annotated[float, Field(ge=10.0)] | None = 45.0
    """A rank that has not gone on for so long, and for 5 times its longest step, ends the training with its name; None
    waits as long as collective_timeout_s."""
    collective_timeout_s: Count = 600
    """After which torch.distributed gives up waiting for the other ranks."""

    @property
    def least_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def elastic(self) -> bool:
        return not isinstance(self.num_workers, int)

    @model_validator(mode="after")
    def _local_is_one(self) -> Self:
        if self.type == "local" and self.num_workers != 1:
            raise ValueError(f"cluster=local runs one worker, got num_workers {self.num_workers}; use cluster=ray")
        return self

    @model_validator(mode="after")
    def _least_is_least(self) -> Self:
        if self.least_workers > self.most_workers:
            raise ValueError(f"num_workers = [{self.least_workers}, {self.most_workers}] is [least, most]: swap them")
        return self
