"""The configuration's door: what composes, what is refused, and in which words."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detcore.config import MaskRCNN, compose_params, config_directory, load
from detcore.config.__main__ import main as compose_file
from detcore.config.preparing import settings_hash


@pytest.fixture
def conf(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that a test may edit."""
    copy = tmp_path / "conf"
    shutil.copytree(repository / "conf", copy)
    monkeypatch.setenv("DETCORE_CONF", str(copy))
    return copy


def test_default_is_the_demo() -> None:
    config = load()
    assert config.name == "digits-mask-rcnn"
    assert config.run_dir == "runs/digits-mask-rcnn"
    assert config.tracking.registered_name == config.name
    assert isinstance(config.model, MaskRCNN)


def test_overrides_reach_groups_and_values() -> None:
    config = load(["model=faster_rcnn_r50_fpn", "optim=sgd", "optim.lr=0.5", "engine.steps=3", "cluster=local"])
    assert (config.model.type, config.optim.type, config.optim.lr) == ("faster_rcnn", "sgd", 0.5)
    assert (config.engine.steps, config.cluster.type) == (3, "local")


def test_a_key_that_conf_does_not_name_can_be_set() -> None:
    assert load(["engine.accumulate=2"]).engine.accumulate == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=-1", ["optim.lr", "greater than 0", "-1"]),
        ("optim.lr=fast", ["optim.lr", "number", "fast"]),
        ("cluster.num_workers=0", ["cluster.num_workers", "greater than or equal to 1"]),
        ("optim.larning_rate=1", ["optim.larning_rate", "no such key"]),
        ("model.backbone.norm=batch", ["model.backbone.norm", "frozen_bn"]),
        ("model=zebra", ["model=zebra", "there are", "retinanet_r50_fpn"]),
        ("model=mask_rcnn_r50", ["model=mask_rcnn_r50", "did you mean mask_rcnn_r50_"]),
        ("optm.lr=1", ["optm", "did you mean optim"]),
        ("engine.batch_size=7", ["batch_size", "7"]),
        ("data=coco", ["data.root"]),
        ("model=faster_rcnn_lite0 engine.monitor=mask_ap", ["engine.monitor", "no masks"]),
        (
            "+data/augmentation=mosaic data.unmixed_last_steps=700",
            ["data.unmixed_last_steps = 700", "no step would mix"],
        ),
        ("engine.evaluation.protocol=voc", ["engine.evaluation.protocol", "voc2007", "got 'voc'"]),
        ("engine.evaluation.protocol=open_images engine.monitor=box_ap", ["monitor", "box_ap50 alone"]),
    ],
)
def test_a_wrong_override_is_one_clear_line(override: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        load([*override.split(), *(["cluster.num_workers=2"] if "batch_size" in override else [])])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_two_faults_are_two_lines() -> None:
    with pytest.raises(ValueError) as caught:
        load(["optim.lr=-1", "engine.steps=0"])
    assert len(str(caught.value).splitlines()) == 2


def test_params_file_equals_composition(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    overrides = ["optim.lr=0.25", "seed=7"]
    subprocess.run([sys.executable, "-m", "detcore.config", str(file), *overrides], check=True)
    assert load(file=file) == load(overrides)


def test_a_stale_params_file_is_noticed(tmp_path: Path, conf: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(compose_params()))
    load(file=file)
    (conf / "optim" / "sgd.yaml").write_text("type: sgd\nlr: 0.3\n")
    with pytest.raises(ValueError, match="make params"):
        load(file=file)


def test_a_composed_file_says_what_the_shards_depend_on() -> None:
    def composed(*overrides: str) -> str:
        return str(compose_params(overrides)["shards_sha256"])

    config = load()
    assert composed() == settings_hash(config.data, seed=config.seed)
    resize = "data.train_transforms=[{type: resize_fixed, height: 96, width: 96}]"
    assert composed(resize, "data.threads=3", "data.shards=other", "optim.lr=0.5") == composed()
    others = ["data.source.size=96", "data.root=other", "data.samples_per_shard=7", "data.val_fraction=0.3"]
    assert len({composed(), *map(composed, others)}) == 1 + len(others)
    # The seed deals images to the splits that the data lacks: digits have all of their own.
    assert composed("seed=1") == composed()
    yours = ["data=coco", "data.root=photos"]
    assert composed(*yours, "seed=1") != composed(*yours)
    assert composed(*yours, "data.val_fraction=0", "data.test_fraction=0", "seed=1") == composed(
        *yours, "data.val_fraction=0", "data.test_fraction=0"
    )
    named = "{annotations: a.json, images: a}"
    yours.append(f"data.splits={{train: {named}, val: {named}}}")
    assert composed(*yours, "seed=1") != composed(*yours), "test is missing"
    yours[-1] = f"data.splits={{train: {named}, val: {named}, test: {named}}}"
    assert composed(*yours, "seed=1") == composed(*yours)
    assert composed("data.val_fraction=2") == "not valid"
    with pytest.raises(ValueError, match=r"data\.val_fraction"):
        load(["data.val_fraction=2"])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']"])
def test_a_broken_params_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml"):
        load(file=file)


def test_every_recipe_composes(conf: Path) -> None:
    for group in ("model", "data", "optim", "engine", "cluster", "tracking"):
        for path in sorted((conf / group).glob("*.yaml")):
            extra = ["data.root=somewhere"] if group == "data" else []
            extra += ["model.source=somewhere"] if path.stem == "published" else []
            monitor = [] if group != "model" else ["engine.monitor=box_ap"]
            load([f"{group}={path.stem}", *extra, *monitor])


def test_config_imports_no_torch() -> None:
    code = "import sys, detcore.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_directory_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (config_directory() / "config.yaml").is_file()


def test_the_committed_params_are_of_the_committed_conf(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    assert load(file=repository / "params.yaml") == load()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("name=''", r"name = '' is empty"),
        ("run_dir=' '", r"run_dir is empty"),
        ("name=a/b", r"name = 'a/b' "),
        ("model.name=v1.2", r"name = 'digits-v1\.2' .* made of data\.name and model\.name"),
        ("tracking.registered_name='a:b'", r"tracking\.registered_name = 'a:b'"),
    ],
)
def test_names_that_mlflow_refuses(override: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        load([override])
    assert "\n" not in str(caught.value)


def test_a_name_may_have_blanks() -> None:
    assert load(["data.name='my own data'"]).run_dir == "runs/my own data-mask-rcnn"


def test_a_file_for_dvc_says_that_its_stages_keep_shards_in_a_folder(tmp_path: Path, capsys) -> None:
    assert compose_file([str(tmp_path / "params.yaml"), "data.shards=s3://team/shards"]) == 0
    assert "data.shards is a URL" in capsys.readouterr().err
    assert compose_file([str(tmp_path / "params.yaml")]) == 0
    assert capsys.readouterr().err == ""


def test_a_url_with_a_secret_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match=r"data\.shards: .*docs/data_stores\.md") as caught:
        load(["data.shards='https://ann:hunter2@host/shards'"])
    assert "hunter2" not in str(caught.value)
