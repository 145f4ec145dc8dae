"""A published model folder as MLflow's logged model: its files as artifacts, and around them a pyfunc from code."""

import base64
import io
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

import detcore
from detcore.inference import read_description
from detcore.tracking.client import patient
from detcore.tracking.version import WEIGHTS_SHA256

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

ARTIFACT = "model"
"""Under this name the published folder lies in `artifacts/` of the logged model."""

_PREDICTS_WITH = ("torch", "torchvision", "timm", "safetensors", "numpy", "pandas", "pillow", "mlflow")
_EXAMPLE_PIXELS = 512


def example_image(image: bytes | None) -> str:
    """A picture as base64 text, small enough to be kept as a model's input example; None gives a grey one."""
    picture = Image.new("RGB", (64, 64), "grey") if image is None else Image.open(io.BytesIO(image)).convert("RGB")
    picture.thumbnail((_EXAMPLE_PIXELS, _EXAMPLE_PIXELS))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    return base64.b64encode(encoded.getvalue()).decode()


def signature() -> "ModelSignature":
    """One column of text in, a path or a base64 image; one row a detection out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.long, "image")]
    outputs += [ColSpec(DataType.double, name) for name in ("x_min", "y_min", "x_max", "y_max", "score")]
    outputs += [ColSpec(DataType.long, "label"), ColSpec(DataType.string, "class_name")]
    outputs += [ColSpec(DataType.string, "mask", required=False)]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("score_threshold", DataType.double, 0.5)]),
    )


def requirements() -> list[str]:
    """detcore and what its predictions rest on, at the versions installed here."""
    pinned = [f"detcore=={detcore.__version__}"]
    for name in _PREDICTS_WITH:
        try:
            # A local label such as +cu130 names a build that no index may have.
            pinned.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return pinned


def logged_with(client: "MlflowClient", sha256: str, *, experiment_id: str) -> "list[LoggedModel]":
    """The experiment's logged models that hold the weights with this hash, completely."""
    found = client.search_logged_models([experiment_id], filter_string=f"tags.{WEIGHTS_SHA256} = '{sha256}'")
    return [model for model in found if model.status == "READY"]


def log_published_model(
    client: "MlflowClient",
    model_dir: Path,
    *,
    name: str,
    experiment_id: str,
    run_id: str | None,
    example: str,
    step: int,
) -> "LoggedModel":
    """The logged model of these weights in this run; logs it if the run has none.

    Args:
        name: what the model is called in the experiment.
        example: a base64 image, the input example.
        step: the training step of the weights.

    Raises:
        ValueError: if `model_dir` is no published model.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    sha256 = read_description(model_dir).weights_sha256
    for model in logged_with(client, sha256, experiment_id=experiment_id):
        if model.source_run_id == run_id:
            return model
    model = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags={WEIGHTS_SHA256: sha256}, model_type="object detection"
    )
    with TemporaryDirectory() as folder, patient():
        saved = Path(folder, "saved")
        pyfunc.save_model(
            saved,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ARTIFACT: str(model_dir)},
            signature=signature(),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=requirements(),
            mlflow_model=Model(
                artifact_path=model.artifact_location, model_uuid=model.model_id, model_id=model.model_id, run_id=run_id
            ),
        )
        client.log_model_artifacts(model.model_id, str(saved))
    if run_id is not None:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    return client.finalize_logged_model(model.model_id, "READY")
