"""infra/kuberay/ as kubectl, Kubernetes' schemas and Ray's own reader of such clusters take it."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from detcore.config import load

_FIELDS = {
    "RayCluster": {"headGroupSpec", "workerGroupSpecs", "rayVersion", "authOptions", "enableInTreeAutoscaling"}
    | {"autoscalerOptions", "headServiceAnnotations", "suspend", "managedBy", "gcsFaultToleranceOptions"},
    "head": {"serviceType", "headService", "enableIngress", "resources", "labels", "rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds", "suspend"}
    | {"resources", "labels", "rayStartParams", "template", "scaleStrategy"},
    "autoscaler": {"resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext"}
    | {"idleTimeoutSeconds", "upscalingMode", "version"},
    "RayJob": {"activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata"}
    | {"clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId"}
    | {"submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"}
    | {"shutdownAfterJobFinishes", "suspend"},
}
"""Of KubeRay's ray.io/v1, by its API reference; its schema is in no package."""


@pytest.fixture(scope="module")
def infra(repository: Path) -> Path:
    return repository / "infra"


@pytest.fixture(scope="module")
def objects(infra: Path) -> dict[str, dict[str, Any]]:
    """What `kubectl apply --kustomize infra/kuberay` makes, by kind."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([kubectl, "kustomize", infra / "kuberay"], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(made.stdout)}


def groups(cluster: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster["spec"]["headGroupSpec"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        yield "worker", group


def test_the_cluster_is_one_that_kuberay_and_kubernetes_know(objects: dict[str, dict[str, Any]]) -> None:
    import kubernetes_validate

    assert set(objects) == {"ConfigMap", "PersistentVolumeClaim", "RayCluster"}
    cluster = objects.pop("RayCluster")
    assert cluster["apiVersion"] == "ray.io/v1"
    assert set(cluster["spec"]) <= _FIELDS["RayCluster"]
    assert set(cluster["spec"]["autoscalerOptions"]) <= _FIELDS["autoscaler"]
    for kind, group in groups(cluster):
        assert set(group) <= _FIELDS[kind]
        # A parameter that is a number is refused.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": kind}, "template": group["template"]}
        kubernetes_validate.validate(pod, "1.31", strict=True)
    for each in objects.values():
        kubernetes_validate.validate(each, "1.31", strict=True)
    objects["RayCluster"] = cluster


def test_pods_see_what_they_are_told_and_may_do_little(objects: dict[str, dict[str, Any]]) -> None:
    cluster = objects["RayCluster"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    for _, group in groups(cluster):
        spec = group["template"]["spec"]
        [container] = spec["containers"]
        assert container["image"] == "registry.example/detcore:cuda"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert {"name": objects["ConfigMap"]["metadata"]["name"]} in [
            source.get("configMapRef") for source in container["envFrom"]
        ]
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if "emptyDir" not in volume
        ]
        assert claims == [objects["PersistentVolumeClaim"]["metadata"]["name"]]


def test_rays_autoscaler_reads_the_cluster(objects: dict[str, dict[str, Any]]) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(objects["RayCluster"])
    types = read["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"] == {"CPU": 8, "GPU": 1, "memory": 48 * 2**30}
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"], read["idle_timeout_minutes"]) == (0, 4, 5)


def test_ray_is_the_version_that_is_installed(infra: Path, repository: Path) -> None:
    [locked] = re.findall(r"^ray==(\S+)", (repository / "requirements.lock").read_text(), re.MULTILINE)
    cluster = next(yaml.safe_load_all((infra / "kuberay" / "cluster.yaml").read_text()))
    assert cluster["spec"]["rayVersion"] == locked


def test_the_job_is_a_training_that_fits_the_cluster(infra: Path, objects: dict[str, dict[str, Any]]) -> None:
    job = yaml.safe_load((infra / "kuberay" / "job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= _FIELDS["RayJob"]
    cluster = objects["RayCluster"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    program, command, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("detcore", "train")
    asked = load(overrides=overrides).cluster
    [group] = cluster["spec"]["workerGroupSpecs"]
    room = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert asked.cpus_per_worker <= int(room["cpu"]) and asked.gpus_per_worker == int(room["nvidia.com/gpu"])
    assert asked.most_workers <= group["maxReplicas"]
