"""`ray job submit` to a cluster of several nodes: data from a bucket, and what is refused before any worker starts."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_cluster import NodeCluster, missing
from store_servers import BUCKET
from tiny_training import tiny_config, write_shards

from detcore.config import ClusterConfig, Config
from detcore.toolchain.library import cache_folder

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]

S3_PORT = 5000
SMALL = ("data.source.train=8", "data.source.val=4", "data.source.test=4")


class Cluster:
    """A head that takes jobs, and two nodes, each with a disk of its own besides the one that all share."""

    def __init__(self, folder: Path) -> None:
        self.shared, self.own = folder / "shared", folder / "own"
        self.nodes = NodeCluster(dashboard=True)
        self.caches = [folder / f"cache-{number}" for number in range(3)]
        for path in (self.shared, self.own, *self.caches):
            path.mkdir()
        for cache in self.caches:
            (cache / "native").symlink_to(cache_folder())  # compiling is another test's
        self.nodes.environment |= {
            "AWS_ENDPOINT_URL": f"http://{self.nodes.address_of(0)}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "very-secret-indeed",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DETCORE_CACHE": str(self.caches[0]),
        }
        del self.nodes.environment["PYTHONPATH"]  # jobs bring the code

    def start(self) -> None:
        for number in (1, 2):
            # Another folder by the same name, as a node's own disk is.
            disk = ["sh", "-c", f'mount -t tmpfs none {self.own} && exec "$@"', "sh"]
            self.nodes.start(number, within=[*disk, "env", f"DETCORE_CACHE={self.caches[number]}"])
        self.nodes.wait(1, 2)

    def submit(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = self.nodes.inside(0, *client(self.nodes, *command))
        return subprocess.run(inside, env=self.nodes.environment, capture_output=True, text=True, timeout=600)


def client(nodes: NodeCluster, *command: str) -> list[str]:
    ray, checkout = Path(sys.executable).with_name("ray"), Path(__file__).resolve().parents[2]
    submit = [str(ray), "job", "submit", "--address", nodes.dashboard_address]
    return [*submit, "--working-dir", str(checkout), "--", *command]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(why)
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    with made.nodes:
        made.start()
        yield made


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[str]:
    """On the head."""
    nodes = cluster.nodes
    words = [sys.executable, "-m", "moto.server", "-H", nodes.address_of(0), "-p", str(S3_PORT)]
    server = subprocess.Popen(nodes.inside(0, *words), env=nodes.environment, stderr=subprocess.DEVNULL)
    make = f"import boto3; boto3.client('s3').create_bucket(Bucket='{BUCKET}')"
    deadline = time.monotonic() + 120
    while subprocess.run(
        nodes.inside(0, sys.executable, "-c", make), env=nodes.environment, capture_output=True
    ).returncode:
        assert server.poll() is None and time.monotonic() < deadline, "no S3 server"
    yield f"s3://{BUCKET}"
    server.kill()
    server.wait()


def test_two_nodes_train_on_a_bucket_and_each_keeps_what_it_read(cluster: Cluster, bucket: str) -> None:
    shards = f"data.shards={bucket}/digits"
    done = cluster.submit("python", "pipelines/prepare.py", shards, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    run = cluster.shared / "run"
    done = cluster.submit(
        *("python", "pipelines/train.py", shards, *SMALL, f"run_dir={run}", "tracking.enabled=false"),
        *("engine.steps=2", "engine.batch_size=4", "engine.log_every=1", "engine.eval_every=null"),
        *("cluster.num_workers=2", "cluster.cpus_per_worker=1", "cluster.placement=strict_spread"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    assert f"published: {run}/model" in done.stdout
    for cache in cluster.caches[1:]:
        assert any(path.suffix == ".tar" or path.stat().st_size > 1000 for path in cache.rglob("shards/**/*"))


def configuration(cluster: Cluster, *, run: Path, shards: Path, **changes: object) -> Config:
    two = {"type": "ray", "num_workers": 2, "placement": "strict_spread"}
    return tiny_config(run, shards, **{"cluster": two, "tracking__enabled": False, **changes})


def test_what_a_node_cannot_reach_is_refused_before_any_worker_starts(cluster: Cluster) -> None:
    from detcore.launch.ray_cluster import ray_cluster
    from detcore.launch.training import train

    write_shards(cluster.shared / "squares")
    write_shards(cluster.own / "squares")
    database = f"sqlite:///{cluster.shared}/mlflow.db"
    node = rf"node {os.uname().nodename} \({cluster.nodes.address_of(1)}\) \(and 1 more\)"
    refused = {
        f"{node} does not share run_dir": {"run": cluster.own / "run", "shards": cluster.shared / "squares"},
        f"{node} does not have data.shards": {"run": cluster.shared / "a", "shards": cluster.own / "squares"},
        f"{node} does not have data.shards .*/absent: ": {
            "run": cluster.shared / "b",
            "shards": cluster.own / "absent",
        },
        "of this node alone, and workers may be on 2 others": {
            **{"run": cluster.shared / "c", "shards": cluster.shared / "squares"},
            **{"tracking__enabled": True, "tracking__uri": database},
        },
    }
    with cluster.nodes.within_head(), pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
            patch.setenv(name, cluster.nodes.environment[name])
        with ray_cluster(ClusterConfig(address=cluster.nodes.address)):
            for words, places in refused.items():
                with pytest.raises(ValueError, match=words) as said:
                    train(configuration(cluster, **places))  # type: ignore[arg-type]
                assert "\n" not in str(said.value)
                assert not (places["run"] / "ray").exists()  # type: ignore[operator]
                assert not list(Path(places["run"]).glob(".shared*"))  # type: ignore[arg-type]
    assert not (cluster.shared / "mlflow.db").exists()
    assert not (cluster.own / "absent").exists()


def test_the_head_is_lost_with_the_driver_of_a_job_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["python", "pipelines/train.py", f"data.shards={tmp_path}/shards", *SMALL, f"run_dir={run}"]
    train += ["tracking.enabled=false", "engine.steps=60", "engine.batch_size=4", "engine.log_every=1"]
    train += ["engine.eval_every=null", "engine.checkpoint_every=4", "cluster.num_workers=2"]
    train += ["cluster.cpus_per_worker=1", "cluster.placement=strict_spread"]
    with NodeCluster(dashboard=True) as nodes:
        job = submitted(nodes, *train)
        saved, deadline = run / "checkpoints" / "step-00000004" / "manifest.json", time.monotonic() + 400
        while not saved.is_file():
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nodes.kill(0)
        began = time.monotonic()
        said = job.communicate(timeout=200)[0]
        assert job.returncode != 0, said
        # Ray gives the head up after a minute; until then the workers go on, and may save.
        while left := [pid for number in (1, 2) for pid in nodes.processes(number) if is_worker(pid)]:
            assert time.monotonic() < began + 150, left
            time.sleep(1)
    with NodeCluster(dashboard=True) as nodes:
        done = submitted(nodes, *train)
        said = done.communicate(timeout=400)[0]
        assert done.returncode == 0, said
    # On a quick machine the workers came to the last step without the head: the model is then all that is left to do.
    steps = [int(line.partition(",")[0]) for line in (run / "history.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 61)), "it began anew"
    assert not (run / "checkpoints.previous").exists()
    assert (run / "model" / "weights.safetensors").is_file()


def submitted(nodes: NodeCluster, *command: str) -> subprocess.Popen[str]:
    """A job of two nodes, from another machine than the head, as people submit them."""
    nodes.start(1, 2)
    nodes.wait(1, 2)
    nodes.environment.pop("PYTHONPATH")  # jobs bring the code
    return subprocess.Popen(
        nodes.inside(1, *client(nodes, *command)),
        env=nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_worker(pid: int) -> bool:
    try:
        return b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
