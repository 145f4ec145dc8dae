"""What a search may try: the tune section, and configurations around a composed one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from detcore.config import load
from detcore.config.loading import compose_params, config_directory, read_overrides
from detcore.config.tune import Distribution, TuneConfig
from detcore.config.variation import BEST, Variations, as_overrides, load_with

LR = {"optim.lr": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
SHORT = ["engine.steps=100", "engine.eval_every=20"]


def distribution(**fields: Any) -> Any:
    return TypeAdapter(Distribution).validate_python(fields)


def around(*overrides: str) -> Variations:
    words = [*SHORT, *overrides]
    return Variations.around(load(words), overrides=words)


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_directory() / "tune").glob("*.yaml")))
def test_every_search_in_conf_fits_the_default_run(name: str) -> None:
    words = [f"tune={name}"]
    config = load(words)
    if config.tune is None:
        assert name == "none"
        return
    assert Variations.around(config, overrides=words).composed


def test_shares_of_a_distribution_are_its_quantiles() -> None:
    uniform = distribution(type="uniform", low=1.0, high=3.0)
    assert [uniform.at(share) for share in (0.0, 0.25, 1.0)] == [1.0, 1.5, 3.0]
    log = distribution(type="loguniform", low=1e-4, high=1e-2)
    assert [log.at(share) for share in (0.0, 0.5, 1.0)] == [1e-4, 1e-3, 1e-2]
    integers = distribution(type="randint", low=2, high=4)
    assert [integers.at(share) for share in (0.0, 0.32, 0.34, 0.65, 0.68, 1.0)] == [2, 2, 3, 3, 4, 4]
    choice = distribution(type="choice", values=["a", [1, 2]])
    assert [choice.at(share) for share in (0.0, 0.49, 0.5, 1.0)] == ["a", "a", [1, 2], [1, 2]]
    assert uniform.at(1 / 3) == 1.667  # four digits
    assert (uniform.within(9.0), integers.within(2.6), log.within(1e-9)) == (3.0, 3, 1e-4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"space": {}, "num_trials": 1}, "at least 1 item"),
        ({"space": LR}, "num_trials is not set, and no key of the space is a grid"),
        (
            {"space": {"a": {"type": "uniform", "low": 1.0, "high": 1.0}}, "num_trials": 1},
            "low = 1.0 is not below high",
        ),
        ({"space": {"a": {"type": "loguniform", "low": 0.0, "high": 1.0}}, "num_trials": 1}, "greater than 0"),
        ({"space": {"a": {"type": "normal"}}, "num_trials": 1}, "'loguniform'"),
        ({"space": {"a": {"type": "choice", "values": [1, 1]}}, "num_trials": 1}, "one of them twice"),
        ({"space": {"a": {"type": "grid", "values": [1, 2]}}, "num_trials": 3}, "not a multiple of the 2 combinations"),
        ({"space": {"a": {"type": "grid", "values": [1, 2]}}, "search": "optuna"}, "make it a choice"),
        ({"space": LR, "num_trials": 4, "search": "optuna", "scheduler": {"type": "pbt"}}, "not optuna"),
        ({"space": LR, "num_trials": 1, "scheduler": {"type": "pbt"}}, "needs a population"),
        ({"space": LR, "num_trials": 4, "max_concurrent_trials": 2, "scheduler": {"type": "pbt"}}, "take turns"),
    ],
)
def test_what_makes_no_search_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneConfig.model_validate(section)


def test_a_configuration_of_the_space_is_that_of_the_same_words() -> None:
    space = (
        "tune.space={model: {type: choice, values: [digits_mask_rcnn, faster_rcnn_lite0]}, "
        "data.train_transforms.1.degrees: {type: uniform, low: 0, high: 20}, seed: {type: randint, low: 0, high: 9}}"
    )
    words = [*SHORT, "tune=grid", "tune.num_trials=8", space]
    variations = Variations.around(load(words), overrides=words)
    assert len(variations.composed) == 2
    values = {"model": "faster_rcnn_lite0", "data.train_transforms.1.degrees": 7.5, "seed": 4}
    assert as_overrides(values) == ["model=faster_rcnn_lite0", "data.train_transforms.1.degrees=7.5", "seed=4"]
    found = variations.config(values)
    expected = load([*SHORT, "tune=none", "model=faster_rcnn_lite0", "seed=4"])
    assert found.model == expected.model
    assert found.data.train_transforms[1].degrees == 7.5  # type: ignore[union-attr]
    assert (found.seed, found.optim, found.engine, found.tune) == (4, expected.optim, expected.engine, None)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("optim.lrr: {type: uniform, low: 1, high: 2}", "tune.space: optim.lrr: no such key; did you mean lr?"),
        ("optim.lr: {type: uniform, low: -1, high: 2}", "tune.space: optim.lr: Input should be greater than 0"),
        ("engine.batch_size: {type: choice, values: [8, many]}", "tune.space: engine.batch_size: .*integer"),
        ("model: {type: choice, values: [mask_rcn_r50_fpn]}", "model=mask_rcn_r50_fpn: no such file"),
        ("data.train_transforms.9.degrees: {type: uniform, low: 1, high: 2}", "tune.space: data.train_transforms.9"),
        ("seed.x: {type: uniform, low: 1, high: 2}", "tune.space: seed.x: no such key"),
        ("run_dir: {type: choice, values: [a]}", "tune.space: run_dir is no setting of the training"),
        ("tracking.experiment: {type: choice, values: [a]}", "tune.space: tracking.experiment is no setting"),
        ("engine.monitor: {type: choice, values: [box_ap]}", "engine.monitor is what trials are compared by"),
        ("engine.evaluation.protocol: {type: choice, values: [coco]}", "how trials are compared"),
        ("data.test_transforms: {type: choice, values: [[]]}", "changes what trials are compared on"),
        ("engine.steps: {type: randint, low: 50, high: 100}", "compares trials at the same steps"),
    ],
)
def test_a_space_that_cannot_be_is_refused_at_load(space: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        around("tune=asha", "tune.space={" + space + "}")


def test_schedulers_need_evaluations_to_look_at() -> None:
    with pytest.raises(ValueError, match=r"set engine.eval_every below engine.steps = 100 \(it is None\)"):
        around("tune=asha", "engine.eval_every=null")
    with pytest.raises(ValueError, match=r"grace_steps = 30 is not a multiple of engine\.eval_every = 20"):
        around("tune=asha", "tune.scheduler.grace_steps=30")
    with pytest.raises(ValueError, match="interval_steps = 100 is not a multiple"):
        around("tune=pbt", "tune.scheduler.interval_steps=100")


def test_a_population_changes_only_what_checkpoints_outlive() -> None:
    with pytest.raises(ValueError, match="where a checkpoint would not fit"):
        around("tune=pbt", "tune.space={model.neck.channels: {type: choice, values: [32, 64]}}")
    with pytest.raises(ValueError, match="must not come to 0, where it does nothing"):
        around("tune=pbt", "tune.space={optim.weight_decay_bias: {type: choice, values: [0.0, 0.1]}}")


def test_best_settings_are_words_and_changes_to_a_composed_file(tmp_path: Path) -> None:
    params, best = tmp_path / "params.yaml", tmp_path / BEST
    params.write_text(yaml.safe_dump(compose_params(["model=faster_rcnn_lite0"])))
    best.write_text("# found\n- optim.lr=0.00321\n- data.train_transforms.1.scale=[0.5,2.0]\n- engine.ema_decay=null\n")
    from_words = load(["model=faster_rcnn_lite0", f"overrides={best}"])
    assert from_words == load_with(params, best=best)
    assert (from_words.optim.lr, from_words.engine.ema_decay) == (0.00321, None)
    assert load(["optim.lr=1.0", f"overrides={best}", "optim.lr=0.5"]).optim.lr == 0.5

    best.write_text("[]")
    assert load_with(params, best=best) == load(file=params)
    for text, message in [
        ("- optim.lrr=1", "optim.lrr: no such key"),
        ("- model=faster_rcnn_r50_fpn", "is composed already; compose it with: make params O='model="),
        ("- optim.lr", "is no list of overrides"),
        ("optim.lr: 3", "is no list of overrides"),
        ("- [", "is not YAML"),
        ("- 'optim.lr=[1'", "is no override"),
    ]:
        best.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_with(params, best=best)
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist; a search writes it"):
        load(["overrides=absent.yaml"])


def test_words_are_read_back_as_they_were() -> None:
    values = {
        "optim.lr": 1e-7,
        "tracking.experiment": "two words, 'quoted' \\' \\ and = \\",
        "engine.monitor": None,
        "seed": 3,
    }
    values |= {"optim.nesterov": True, "data.train_transforms": [{"type": "resize_fixed", "height": 8, "width": 8}]}
    config = load(as_overrides(values))
    assert config.tracking.experiment == values["tracking.experiment"]
    assert (config.optim.lr, config.engine.monitor, config.seed, config.optim.nesterov) == (1e-7, None, 3, True)
    assert config.data.train_transforms[0].height == 8  # type: ignore[union-attr]


def test_an_empty_file_of_settings_is_none(tmp_path: Path) -> None:
    (tmp_path / BEST).write_text("# nothing\n")
    assert read_overrides(tmp_path / BEST) == []
