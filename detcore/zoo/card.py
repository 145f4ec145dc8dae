"""The model card (Mitchell et al., "Model Cards for Model Reporting", 2019): what a model is for, how good it is, where
it fails, what it was made of. All figures are the evaluation's; what only people know is `tracking.card`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detcore.config.training import CardConfig
from detcore.tracking.lineage import Generation
from detcore.zoo.dossier import Dossier

FEW_OBJECTS, FEW_IMAGES = 50, 200
"""Fewer of a class in train, and of images in test, are said to be few."""
_SIZES = {
    "small": "small (under 32² pixels)",
    "medium": "medium (32² to 96²)",
    "large": "large (over 96²)",
}
_PREFIXES = ("box", "mask", "keypoint", "rotated")
_CLASS_COLUMNS = {"ap": "AP", "ap50": "AP50", "ar100": "AR", "f1": "best F1", "f1_score": "at score"}
_HASH = 12


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it, in this order; none of it is marked up."""

    title: str
    text: str = ""
    points: Sequence[str] = ()
    code: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model card.

    Attributes:
        title: name, version.
        about: the model in a sentence.
        sections: all of it.
        kind: what is compared first: box, mask, keypoint or rotated; '' for others.
        classes: the title of the section that is as long as there are classes.
    """

    title: str
    about: str
    sections: Sequence[Section]
    kind: str
    classes: str = "Classes"


def make_card(dossier: Dossier, lineage: Sequence[Generation], stated: CardConfig) -> Card:
    """The card of a registered version.

    Args:
        dossier: whose title is `name/version`.
        lineage: of the version, itself first.
        stated: what people said.
    """
    name, _, version = dossier.title.rpartition("/")
    published = dossier.published
    kind = f"{getattr(published.model, 'name', published.model.type)} ({published.model.type})"
    split, figures = ("test", dossier.test) if dossier.test else ("val", published.metrics)
    best = next((f"{key} {value:.1f}" for key, value in figures.items() if _headline(key)), "no figures")
    return Card(
        title=f"{name}, version {version}",
        about=(
            f"{kind}, {published.num_classes} classes, {dossier.num_parameters / 1e6:.1f} M parameters, trained on "
            f"{published.data.name}: {best} on {split}."
        ),
        kind=_kind(dossier),
        sections=(
            Section(title="Intended use", text=stated.intended_use or _not_stated("intended_use")),
            Section(title="How to use it", code=_usage(dossier)),
            _figures(dossier),
            _classes(dossier),
            Section(title="Limits", text=stated.limits or "", points=limits(dossier)),
            _training_data(dossier),
            _licences(stated),
            Section(title="Lineage", points=[_generation(generation) for generation in lineage]),
        ),
    )


def limits(dossier: Dossier) -> list[str]:
    """What the figures and the data show of where the model fails, or is not known to work."""
    found = []
    if not dossier.test:
        found.append(
            "There is no test split: the figures are of the validation split, on which the weights were chosen, and "
            "so are too good."
        )
    images = dossier.split("test").get("images")
    if dossier.test and images is not None and images < FEW_IMAGES:
        found.append(f"The test split has only {images} images: figures may be off by several points.")
    found += _rare_and_weak(dossier)
    if prefix := _kind(dossier):
        sizes = {size: dossier.test[f"{prefix}_ap_{size}"] for size in _SIZES if f"{prefix}_ap_{size}" in dossier.test}
        if missing := [size for size in _SIZES if size not in sizes]:
            found.append(f"Nothing is known of {_and([_SIZES[size] for size in missing])} objects: test has none.")
        if len(sizes) > 1:
            worst = min(sizes, key=sizes.__getitem__)
            found.append(f"{prefix} AP is lowest for {_SIZES[worst]} objects: {sizes[worst]:.1f}.")
    train = dossier.split("train")
    if train:
        low, high = (train["image_height"], train["image_width"])
        found.append(
            f"It has seen images of {low['p05']:.0f} to {low['p95']:.0f} pixels of height and {high['p05']:.0f} to "
            f"{high['p95']:.0f} of width (5th to 95th percentile), objects of {train['box_size']['p05']:.0f} to "
            f"{train['box_size']['p95']:.0f} pixels; of others nothing is known."
        )
    found.append("It was measured on images of the same source as those it was trained on; other cameras, places or "
                 "seasons were not tried.")  # fmt: skip
    return found


def _rare_and_weak(dossier: Dossier) -> list[str]:
    found = []
    counts = dossier.split("train").get("objects_by_class", {})
    rare = [f"{name} ({number})" for name, number in counts.items() if number < FEW_OBJECTS]
    if rare:
        found.append(f"Learnt from fewer than {FEW_OBJECTS} objects: {_some(rare)}.")
    for prefix in _PREFIXES:
        values = {name: table[f"{prefix}_ap"] for name, table in dossier.per_class.items() if f"{prefix}_ap" in table}
        if len(values) > 1:
            mean = sum(values.values()) / len(values)
            weak = [f"{name} ({value:.1f})" for name, value in values.items() if value < mean / 2]
            if weak:
                found.append(f"{prefix} AP under half of the mean ({mean:.1f}): {_some(weak)}.")
    return found


def _figures(dossier: Dossier) -> Section:
    val, test = dossier.published.metrics, dossier.test
    names = [name for name in dict.fromkeys([*test, *val]) if not name.startswith("val_")]
    return Section(
        title="Figures",
        text="In percent. The weights were chosen on val; test was looked at once, afterwards.",
        columns=("metric", "test", "val"),
        rows=[(name, _percent(test.get(name)), _percent(val.get(name))) for name in names],
    )


def _classes(dossier: Dossier) -> Section:
    tables, counts = dossier.per_class, dossier.split("train").get("objects_by_class", {})
    prefix = _kind(dossier)
    if not prefix:
        names = dict.fromkeys(name for table in tables.values() for name in table)
        columns = {name: name for name in names}
    else:
        said = {f"{prefix}_{key}": text for key, text in _CLASS_COLUMNS.items()}
        columns = {key: text for key, text in said.items() if any(key in table for table in tables.values())}
    trained = ("objects in train",) if counts else ()
    return Section(
        title="Classes",
        text=(
            f"{prefix.capitalize()} figures on test. 'best F1' is at IoU 0.5, 'at score' the score_threshold it takes."
            if tables
            else f"Not measured by class. The classes: {', '.join(dossier.published.labels)}."
        ),
        columns=("class", *trained, *columns.values()) if tables else (),
        rows=[
            (name, *([f"{counts.get(name, 0):,}"] if counts else []), *(_percent(table.get(key)) for key in columns))
            for name, table in tables.items()
        ],
    )


def _training_data(dossier: Dossier) -> Section:
    splits: Mapping[str, Mapping[str, int]] = dossier.data.get("splits", {})
    published = dossier.published.data
    return Section(
        title="Data",
        text=f"{published.name}, SHA-256 {published.content_hash[:_HASH]}…",
        columns=("split", "images", "without objects", "objects") if splits else (),
        rows=[
            (name, *(f"{values[key]:,}" for key in ("images", "images_without_objects", "objects")))
            for name, values in splits.items()
        ],
    )


def _licences(stated: CardConfig) -> Section:
    return Section(
        title="Licences",
        points=[
            f"Weights: {stated.weights_licence or _not_stated('weights_licence')}",
            f"Data: {stated.data_licence or _not_stated('data_licence')}",
        ],
    )


def _usage(dossier: Dossier) -> str:
    return (
        f'import detcore\n\nmodel = detcore.load("{dossier.title}")\nprediction = model.predict("image.jpg")\n\n'
        f"# in a shell: detcore predict {dossier.title} image.jpg"
    )


def _generation(generation: Generation) -> str:
    if generation.version is None:
        return f"trained from weights {(generation.weights_sha256 or '')[:_HASH]}…, which are not registered here"
    parts = [f"{generation.version}, {generation.created} UTC"]
    if generation.run_id is not None:
        parts.append(f"run {generation.run_name} ({generation.run_id})")
    if generation.git_commit is not None:
        dirty = " with uncommitted changes" if generation.git_dirty else ""
        parts.append(f"git {generation.git_commit[:_HASH]}{dirty}")
    parts.append(f"data {generation.data} {(generation.data_hash or '')[:_HASH]}…")
    if generation.dvc_md5 is not None:
        parts.append(f"DVC {generation.dvc_md5}")
    parts.append(f"weights {(generation.weights_sha256 or '')[:_HASH]}…")
    if generation.backbone is not None:
        parts.append(f"backbone from {generation.backbone}")
    return "; ".join(parts)


def _kind(dossier: Dossier) -> str:
    return next((prefix for prefix in _PREFIXES if f"{prefix}_ap" in dossier.test), "")


def _headline(name: str) -> bool:
    return name in ("miou", "pq", "proposal_ar1000") or name.endswith("_ap")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _not_stated(key: str) -> str:
    return f"Not stated (tracking.card.{key})."


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
