"""The registered model as any user of MLflow loads it."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from tracking_samples import MakeConfig, MakeModel

import detcore
from detcore.tracking import register
from detcore.tracking.client import connect


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "scene.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def loaded(make_config: MakeConfig, make_model: MakeModel, store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pyfunc and detcore's own predictor of one registered model."""
    config = make_config()
    name = register(make_model(config), config=config).name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    connect(store)
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    yield mlflow.pyfunc.load_model(f"models:/{name}@champion"), detcore.load(f"{name}@champion")
    mlflow.set_tracking_uri(before)


def test_it_finds_what_detcore_finds_in_every_form_of_input(loaded: Any, photograph: Path) -> None:
    pyfunc, predictor = loaded
    everything = {"score_threshold": 0.0}
    expected = predictor.predict(str(photograph), **everything)
    assert len(expected) > 0
    table = pyfunc.predict(str(photograph), params=everything)
    np.testing.assert_allclose(table[["x_min", "y_min", "x_max", "y_max"]], expected.boxes_xyxy)
    assert table["class_name"].tolist() == list(expected.class_names)
    assert table["mask"].notna().all()
    assert set(table["image"]) == {0}

    encoded = base64.b64encode(photograph.read_bytes()).decode()
    array = np.asarray(Image.open(photograph))
    for same in (
        [str(photograph)],
        pd.DataFrame({"path": [str(photograph)]}),
        pd.DataFrame({"image": [encoded]}),
        pd.DataFrame({"image": [array]}),
    ):
        pd.testing.assert_frame_equal(pyfunc.predict(same, params=everything), table)
    twice = pyfunc.predict([str(photograph)] * 2, params=everything)
    assert twice["image"].tolist() == [0] * len(table) + [1] * len(table)


def test_the_input_example_can_be_predicted_on(loaded: Any) -> None:
    pyfunc, _ = loaded
    table = pyfunc.predict(pyfunc.input_example, params={"score_threshold": 0.99})
    assert list(table.columns) == ["image", "x_min", "y_min", "x_max", "y_max", "score", "label", "class_name", "mask"]
    assert table.empty


def test_bad_input_is_named(loaded: Any, tmp_path: Path) -> None:
    pyfunc, _ = loaded
    with pytest.raises(ValueError, match=r"absent\.jpg: no such file"):
        pyfunc.predict("absent.jpg")
    with pytest.raises(ValueError, match="no such file"):
        pyfunc.predict(str(tmp_path))
    with pytest.raises(ValueError, match="is not base64; paths go into a column path"):
        pyfunc.predict(pd.DataFrame({"image": ["scene.jpg"]}))


def test_text_may_be_an_image_too(loaded: Any, photograph: Path) -> None:
    pyfunc, _ = loaded
    everything = {"score_threshold": 0.0}
    encoded = base64.b64encode(photograph.read_bytes()).decode()
    table = pyfunc.predict(str(photograph), params=everything)
    pd.testing.assert_frame_equal(pyfunc.predict([encoded], params=everything), table)


def test_a_server_reads_no_files_for_its_clients(
    loaded: Any, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is wrong is MLflow's own exception: with others its server sends a stack trace."""
    pyfunc, _ = loaded
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    with pytest.raises(MlflowException, match="a server reads no files for its clients"):
        pyfunc.predict(pd.DataFrame({"path": [str(photograph)]}))
    with pytest.raises(MlflowException, match="is not base64") as raised:
        pyfunc.predict([str(photograph)])
    assert raised.value.get_http_status_code() == 400
    with pytest.raises(MlflowException, match=r"score_threshold 7\.0 is not between 0 and 1"):
        pyfunc.predict(pyfunc.input_example, params={"score_threshold": 7.0})
