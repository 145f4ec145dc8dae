"""Makes what MLflow's server and trainings expect to find: the buckets, and the MLflow user that trainings are.

Settings come from the environment: AWS_* and MLFLOW_* as infra/compose.yaml sets them. What is there already stays,
except a trainings' password that differs from MLFLOW_TRACKING_PASSWORD: it is set anew.
"""

import os
import sys

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

# MLflow's files, and shards (data.shards=s3://data/NAME).
BUCKETS = ("mlflow", "data")


def make_buckets() -> None:
    s3 = boto3.client("s3")
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in present:
            s3.create_bucket(Bucket=name)
            print(f"made bucket {name}")


def make_user(*, uri: str, user: tuple[str, str], admin: tuple[str, str]) -> None:
    """Makes a user of MLflow's server at `uri`, or gives it this password; both are (name, password).

    Raises:
        requests.RequestException: if the server is out of reach, or refuses.
    """
    users, (name, password) = f"{uri}/api/2.0/mlflow/users", user
    if requests.get(f"{users}/current", auth=user, timeout=60).ok:
        return
    wanted = {"username": name, "password": password}
    present = requests.get(f"{users}/get", params={"username": name}, auth=admin, timeout=60)
    if present.status_code == requests.codes.not_found:
        requests.post(f"{users}/create", json=wanted, auth=admin, timeout=60).raise_for_status()
        print(f"made MLflow user {name}")
    else:
        present.raise_for_status()
        requests.patch(f"{users}/update-password", json=wanted, auth=admin, timeout=60).raise_for_status()
        print(f"set the password of MLflow user {name} anew")


def main() -> int:
    told = os.environ
    try:
        make_buckets()
        make_user(
            uri=told["MLFLOW_TRACKING_URI"],
            user=(told["MLFLOW_TRACKING_USERNAME"], told["MLFLOW_TRACKING_PASSWORD"]),
            admin=(told["MLFLOW_ADMIN_USERNAME"], told["MLFLOW_ADMIN_PASSWORD"]),
        )
    except KeyError as error:
        print(f"error: {error.args[0]} is not set", file=sys.stderr)
    except (BotoCoreError, ClientError, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
