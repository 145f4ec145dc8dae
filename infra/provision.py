"""Makes what MLflow's server and trainings expect to find: the buckets, and the MLflow user that trainings are.

Settings come from the environment: AWS_* and MLFLOW_* as infra/compose.yaml sets them. What is there already stays,
except a trainings' password that differs from MLFLOW_TRACKING_PASSWORD: it is set anew.
"""

import os
import sys

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

# MLflow's files, and shards (data.shards=s3://data/NAME).
BUCKETS = ("mlflow", "data")


def make_buckets() -> None:
    s3 = boto3.client("s3")
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in present:
            s3.create_bucket(Bucket=name)
            print(f"made bucket {name}")


def make_user(*, uri: str, name: str, password: str, admin: str, admin_password: str) -> None:
    """Makes the user at MLflow's server `uri`, or gives it this password."""
    if _may_enter(uri, name, password):
        return
    os.environ |= {"MLFLOW_TRACKING_USERNAME": admin, "MLFLOW_TRACKING_PASSWORD": admin_password}
    client = AuthServiceClient(uri)
    try:
        client.create_user(name, password)
        print(f"made MLflow user {name}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_user_password(name, password)
        print(f"set the password of MLflow user {name} anew")


def _may_enter(uri: str, name: str, password: str) -> bool:
    path = f"{uri}/api/2.0/mlflow/users/current"
    return requests.get(path, auth=(name, password), timeout=30).ok


def main() -> int:
    setting = os.environ
    try:
        make_buckets()
        make_user(
            uri=setting["MLFLOW_TRACKING_URI"],
            name=setting["MLFLOW_TRACKING_USERNAME"],
            password=setting["MLFLOW_TRACKING_PASSWORD"],
            admin=setting["MLFLOW_ADMIN_USERNAME"],
            admin_password=setting["MLFLOW_ADMIN_PASSWORD"],
        )
    except KeyError as error:
        print(f"error: {error.args[0]} is not set", file=sys.stderr)
    except (BotoCoreError, ClientError, MlflowException, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
