"""The server as replicas of a Ray Serve application, behind one address."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.schema import LoggingConfig

import detcore
from detcore.config import ClusterConfig
from detcore.config.section import Count, NonNegative, Positive
from detcore.inference.exported import SUFFIXES
from detcore.launch.ray_cluster import gpus_per_worker, ray_cluster
from detcore.loading import published_folder
from detcore.serving import ServedDetector, ServingMetrics, ServingSettings, create_app
from detcore.serving.running import address_of, listening_socket

_APPLICATION = "detcore"
_SPARE_REQUESTS = 32
"""Of a replica, beyond `max_queue`: for health checks, and for refusals in words of our own."""


class ReplicaSettings(ServingSettings):
    """How the replicas are made. Ray gives each as many threads as CPUs."""

    replicas: Count = 1
    cpus_per_replica: Positive = 1.0
    gpus_per_replica: NonNegative = 0.0


@serve.ingress()
class Replica:
    """One copy of the model, and its pages."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._metrics = ServingMetrics(replica=serve.get_replica_context().replica_id.unique_id)
        predictor = detcore.load(settings.model, device=settings.device)
        self._detector = ServedDetector(predictor, settings, on_batch=self._metrics.batch)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._detector, self._settings, self._metrics)

    def check_health(self) -> None:
        """Ray restarts the replica if this raises."""
        if self._detector.stuck:
            raise RuntimeError("the model has not come back from a batch")


def application(settings: ReplicaSettings) -> serve.Application:
    """What `serve run detcore.launch.serving:application model=NAME` and `serve deploy` put on a cluster."""
    ongoing = settings.max_queue + _SPARE_REQUESTS
    deployment: Any = serve.deployment(
        Replica,
        name=_APPLICATION,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": settings.gpus_per_replica},
        max_ongoing_requests=ongoing,
        max_queued_requests=ongoing,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10.0,
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
    )
    own = {name: getattr(settings, name) for name in ServingSettings.model_fields}
    bound: serve.Application = deployment.bind(ServingSettings(**own))
    return bound


def serve_on_ray(
    settings: ServingSettings, *, replicas: int, host: str, port: int, on_listening: Callable[[str], None]
) -> None:
    """Serves until Ctrl-C or SIGTERM, with Ray on this machine or in the cluster of RAY_ADDRESS.

    Args:
        settings: what is served.
        replicas: copies of the model, which share this machine's CPUs, and get a GPU each where there are enough.
        host, port: where; port 0 takes a free one.
        on_listening: called with the server's address once it answers.

    Raises:
        ValueError: too few GPUs, or Serve runs in that cluster already.
        OSError: the port is taken.
    """
    model = Path(settings.model)
    if model.suffix not in SUFFIXES:
        model = published_folder(settings.model)  # one version for all replicas, also when the champion changes
    detcore.load(model, device="cpu")  # a broken model is told in one line, before a cluster starts
    with listening_socket(host, port) as listener:  # Ray would try for a minute
        port, address = listener.getsockname()[1], address_of(listener)
    cluster = ClusterConfig(num_workers=replicas, cpus_per_worker=max(1, len(os.sched_getaffinity(0)) // replicas))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its lines are about ports and apps, not about the model
    stopped = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ray_cluster(cluster):
            gpus = gpus_per_worker(cluster, device=settings.device)
            placed = ReplicaSettings(
                **settings.model_dump(exclude={"device", "model"}),
                model=str(model.absolute()),
                device="cuda" if gpus else "cpu",
                replicas=replicas,
                cpus_per_replica=cluster.cpus_per_worker,
                gpus_per_replica=gpus,
            )
            if serve.status().proxies:
                raise ValueError(
                    "Ray Serve runs in this cluster already, at an address of its own: add the model to it with "
                    f"`serve run detcore.launch.serving:application model={settings.model}`"
                )
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": host, "port": port, "request_timeout_s": 3 * settings.timeout_seconds},
                logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
            )
            try:
                serve.run(application(placed), name=_APPLICATION)
                on_listening(address)
                stopped.wait()
            finally:
                if os.environ.get("RAY_ADDRESS"):
                    serve.shutdown()  # type: ignore[no-untyped-call]
                else:  # a cluster of our own ends with its Serve
                    serve.delete(_APPLICATION)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
