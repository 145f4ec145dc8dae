"""How torch.distributed's ranks find each other on a Ray cluster: by the network that Ray itself uses."""

import os
import socket
from dataclasses import dataclass

import psutil
import ray.util
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_SHUTDOWN_SECONDS = "5"
"""For workers to leave their group, in place of Ray's 30: one that hangs never does."""


@dataclass
class NodesNetwork(TorchConfig):
    """Ray Train's setting up of torch.distributed, over nodes whose names do not lead to them."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group, backend_config) -> None:  # type: ignore[no-untyped-def]
        worker_group.execute(use_nodes_interface)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group, backend_config) -> None:  # type: ignore[no-untyped-def]
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, _SHUTDOWN_SECONDS)
        super().on_shutdown(worker_group, backend_config)


def use_nodes_interface() -> None:
    """Has gloo use the interface of this node's address in the cluster, unless GLOO_SOCKET_IFNAME is set.

    gloo by itself looks the machine's name up, which many machines resolve to a loopback address.
    """
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family == socket.AF_INET and each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
