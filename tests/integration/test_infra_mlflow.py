"""MLflow's server as infra/compose.yaml runs it: PostgreSQL, an S3-compatible store, users and passwords."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from infra_services import Service, Stack, compose, missing, mlflow_stack
from store_servers import s3_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

NAME = "digits-mask-rcnn"
SMALL = [f"data.source.{split}={count}" for split, count in (("train", 8), ("val", 4), ("test", 4))]


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if why := missing():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        with mlflow_stack(repository / "infra", tmp_path_factory.mktemp("stack"), s3_endpoint=endpoint) as stack:
            assert stack.provision.run() == 0, stack.provision.log.read_text()
            yield stack


@pytest.fixture(scope="module")
def node(stack: Stack, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A Ray node's environment, in which trainings run; Ray itself is not started."""
    head = compose(repository / "infra", stack.values)["services"]["ray-head"]
    environment = {name: value for name, value in head["environment"].items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = str(repository)
    definition = {**head, "environment": environment}
    return Service(definition, stack.mlflow.places, tmp_path_factory.mktemp("node") / "node.log")


@pytest.fixture(scope="module")
def run_dir(stack: Stack, node: Service) -> Path:
    """A training that was tracked, measured and registered."""
    run = node.log.parent / "run"
    small = [
        *SMALL,
        "engine.steps=2",
        "engine.batch_size=4",
        "tracking.num_pictures=1",
        "cluster=local",
        f"data.shards={run.parent}/shards",
    ]
    for command in (["train", f"run_dir={run}", *small], ["evaluate", str(run)], ["register", str(run)]):
        assert node.run(["detcore", *command], timeout=900) == 0, node.log.read_text()
    return run


def secrets(stack: Stack) -> dict[str, str]:
    found = {
        name: value for name, value in stack.values.items() if "PASSWORD" in name or name.endswith(("_KEY", "TOKEN"))
    }
    assert len(found) == 6 and all(len(value) == 48 for value in found.values())
    return found


def ask(stack: Stack, path: str, *, user: str | None = None, password: str = "", **headers: str) -> requests.Response:
    login = None if user is None else (user, password)
    return requests.get(f"{stack.url}/api/2.0/mlflow/{path}", auth=login, headers=headers, timeout=60)


def test_the_server_is_well_and_takes_nobody_without_a_password(stack: Stack) -> None:
    experiments = "experiments/search?max_results=1"
    trainer, password = stack.values["MLFLOW_TRACKING_USERNAME"], stack.values["MLFLOW_TRACKING_PASSWORD"]
    assert stack.mlflow.is_well
    assert ask(stack, experiments).status_code == 401
    assert ask(stack, experiments, user="admin", password="password1234").status_code == 401
    assert ask(stack, experiments, user=trainer, password="wrong").status_code == 401
    assert ask(stack, experiments, user=trainer, password=password).status_code == 200
    assert ask(stack, experiments, user=trainer, password=password, Host="mlflow:5000").status_code == 200
    assert ask(stack, experiments, user=trainer, password=password, Host="evil.example").status_code == 403
    # Trainings are no administrator.
    new = {"username": "somebody", "password": "their-own-password"}
    made = requests.post(f"{stack.url}/api/2.0/mlflow/users/create", json=new, auth=(trainer, password), timeout=60)
    assert made.status_code == 403


def test_provisioning_again_finds_nothing_to_do_and_a_new_password_is_set(stack: Stack) -> None:
    before = stack.provision.log.read_text()
    assert "made bucket mlflow" in before and "made MLflow user trainer" in before
    assert stack.provision.run() == 0
    assert "made" not in stack.provision.log.read_text().removeprefix(before)
    changed = stack.values["MLFLOW_TRACKING_PASSWORD"][::-1]
    assert stack.provision.run(MLFLOW_TRACKING_PASSWORD=changed) == 0
    assert "set the password of MLflow user trainer anew" in stack.provision.log.read_text()
    assert ask(stack, "users/current", user="trainer", password=changed).status_code == 200
    assert stack.provision.run() == 0


def test_a_wrong_password_of_the_administrator_is_one_line(stack: Stack) -> None:
    before = stack.provision.log.read_text()
    assert stack.provision.run(MLFLOW_ADMIN_PASSWORD="wrong", MLFLOW_TRACKING_USERNAME="somebody") == 1
    said = stack.provision.log.read_text().removeprefix(before)
    assert said.startswith("error: 401 ") and len(said.splitlines()) == 1


def test_a_run_and_its_model_are_in_the_database_and_the_store(
    stack: Stack, run_dir: Path, node: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import pg8000.native

    import detcore
    from detcore.tracking import resolve

    weights = (run_dir / "model" / "weights.safetensors").read_bytes()
    s3 = boto3.client("s3")
    stored = {item["Key"]: item["Size"] for item in s3.list_objects_v2(Bucket="mlflow")["Contents"]}
    assert len(weights) in [size for key, size in stored.items() if key.endswith("weights.safetensors")]

    password = stack.values["POSTGRES_PASSWORD"]
    database = pg8000.native.Connection("mlflow", "127.0.0.1", "mlflow", stack.database_port, password)
    assert database.run("SELECT name, version FROM model_versions") == [[NAME, 1]]
    assert database.run("SELECT count(*) FROM metrics")[0][0] > 10
    assert sorted(row[0] for row in database.run("SELECT username FROM users")) == ["admin", "trainer"]
    database.close()

    for name, value in node.definition["environment"].items():
        monkeypatch.setenv(name, node.here(value))
    assert len(detcore.load(f"{NAME}@champion").labels) == 10
    assert (resolve(f"{NAME}@champion") / "weights.safetensors").read_bytes() == weights


def test_no_password_is_printed_or_kept(stack: Stack, run_dir: Path, node: Service) -> None:
    import boto3

    s3 = boto3.client("s3")
    texts = {str(log): log.read_bytes() for log in (stack.mlflow.log, stack.provision.log, node.log)}
    texts |= {str(path): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    for item in s3.list_objects_v2(Bucket="mlflow")["Contents"]:
        texts[item["Key"]] = s3.get_object(Bucket="mlflow", Key=item["Key"])["Body"].read()
    assert len(texts) > 20
    for name, value in secrets(stack).items():
        leaks = [place for place, text in texts.items() if value.encode() in text]
        assert not leaks, f"{name} is in {leaks}"


def test_a_wrong_password_is_one_line(stack: Stack, run_dir: Path, node: Service) -> None:
    before = node.log.read_text()
    assert node.run(["detcore", "models", "--registry"], MLFLOW_TRACKING_PASSWORD="wrong-one") == 2
    said = node.log.read_text().removeprefix(before)
    assert len(said.strip().splitlines()) == 1
    assert said.startswith(f"detcore models: MLflow at {stack.url}: ") and "MLFLOW_TRACKING_PASSWORD" in said
    assert "wrong-one" not in said


def test_without_a_password_for_the_administrator_it_does_not_start(stack: Stack) -> None:
    before = stack.mlflow.log.read_text()
    nobody = {"MLFLOW_AUTH_ADMIN_USERNAME": "nobody-yet", "MLFLOW_AUTH_ADMIN_PASSWORD": ""}
    command = [word if not word.startswith("--port") else "--port=0" for word in stack.mlflow.definition["command"]]
    assert stack.mlflow.run(command, **nobody) != 0
    assert "MLflow ships no default admin password" in stack.mlflow.log.read_text().removeprefix(before)
