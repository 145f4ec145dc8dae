"""`detcore data check`: each fault is found once, at its place, and clean data are clean."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_folders import coco_annotation, png, voc_object, write_coco, write_image, write_voc

import detcore.data
from detcore.cli import main
from detcore.data import CheckReport
from detcore.data.checking.kinds import KINDS
from detcore.data.locate import locate
from detcore.data.statistics import describe

CLASSES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]


def clean_folder(root: Path) -> None:
    """12 training and 4 validation images of noise, each with a cat and a dog."""
    for split, number in (("train", 12), ("val", 4)):
        objects = [
            coco_annotation(2 * n + k, 100 + n, category_id=key, bbox=[10.0 + 9 * k, 5.0, 20.0, 30.0])
            for n in range(number)
            for k, key in enumerate((7, 90))
        ]
        write_coco(root, images=number, annotations=objects, split=split)
        for n in range(number):  # write_coco's seeds are the same for both splits
            write_image(root / "images" / f"{split}_{n:03d}.jpg", seed=1000 * (split == "val") + n)


def edit(root: Path, split: str = "train") -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def save(root: Path, document: dict, split: str = "train") -> None:
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def found(report: CheckReport) -> dict[str, tuple[int, tuple[str, ...]]]:
    codes = [finding.code for finding in report.findings]
    assert len(codes) == len(set(codes)) and set(codes) <= KINDS.keys()
    return {finding.code: (finding.count, finding.places) for finding in report.findings}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clean_folder(tmp_path)
    return tmp_path


def test_clean_data_are_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = detcore.data.check(folder)
    assert report.findings == () and report.errors == 0
    assert (report.images, report.objects) == ({"train": 12, "val": 4}, {"train": 24, "val": 8})
    assert main(["data", "check", str(folder)]) == 0
    assert "train 12 images and 24 objects, val 4 images and 8 objects: 0 errors, 0 warnings, 0 notes" in " ".join(
        capsys.readouterr().out.split()
    )


def test_faults_of_files(folder: Path) -> None:
    images = folder / "images"
    (images / "train_000.jpg").unlink()
    (images / "train_001.jpg").write_bytes((images / "train_001.jpg").read_bytes()[:700])
    Image.open(images / "train_002.jpg").convert("CMYK").save(images / "train_002.jpg")
    wide = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(wide).save(images / "train_003.jpg", "PNG")
    turned = Image.open(images / "train_004.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(images / "train_004.jpg", exif=exif)
    write_image(images / "train_005.jpg", height=40, width=64, seed=5)
    frames = [Image.new("RGB", (64, 48), (n, 0, 0)) for n in (10, 200)]
    frames[0].save(images / "train_006.jpg", "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(images / "train_010.jpg", "TIFF", save_all=True, append_images=frames[1:])
    (images / "train_008.jpg").write_bytes((images / "train_007.jpg").read_bytes())
    Image.open(images / "val_000.jpg").save(images / "train_009.jpg", "PNG")  # the same pixels in another file format
    (images / "train_011.jpg").write_bytes(png(48, 64, 16, np.random.default_rng(3).bytes(48 * 64 * 6)))
    report = detcore.data.check(folder)
    codes = found(report)
    refused = codes.pop("unreadable_image")
    assert refused[0] == 2 and refused[1][0].startswith("train: train_001.jpg: unreadable image")
    assert refused[1][1].startswith("train: train_006.jpg: an animation of 2 frames, refused")
    assert codes == {
        "missing_image": (1, ("train: train_000.jpg",)),
        "cmyk": (1, ("train: train_002.jpg",)),
        "sixteen_bit": (2, ("train: train_003.jpg", "train: train_011.jpg")),
        "turned_by_exif": (1, ("train: train_004.jpg",)),
        "other_size": (1, ("train: train_005.jpg: 64 x 40, not 64 x 48",)),
        "several_pages": (1, ("train: train_010.jpg",)),
        "same_pixels": (1, ("train: train_007.jpg = train: train_008.jpg",)),
        "same_pixels_across_splits": (1, ("train: train_009.jpg = val: val_000.jpg",)),
    }
    levels = [finding.level for finding in report.findings]
    assert report.errors == 4 and levels == sorted(levels, key=["error", "warning", "note"].index)


def test_faults_of_objects_and_classes(folder: Path) -> None:
    document = edit(folder)
    objects = document["annotations"]
    objects[0]["bbox"] = [3.0, 4.0, 0.0, 9.0]
    objects[1]["bbox"] = [70.0, 4.0, 5.0, 9.0]
    objects[2]["bbox"] = [50.0, 4.0, 30.0, 30.0]
    objects[3]["bbox"] = [float("nan"), 4.0, 5.0, 9.0]
    objects[4]["bbox"] = [5.0, 4.0, 50.0, 2.0]
    objects[5]["segmentation"] = [[1.0, 2.0, 3.0, 4.0]]
    objects[6]["area"] = 0.0
    objects.append({**objects[8], "id": 1000})
    document["images"].append({"id": 9, "file_name": "bare.jpg", "height": 48, "width": 64})
    write_image(folder / "images" / "bare.jpg", seed=77)
    document["categories"] += [{"id": 91, "name": "Cat"}, {"id": 92, "name": "cow"}, {"id": 93, "name": "ox"}]
    objects.append(coco_annotation(1001, 9 + 91, category_id=91, bbox=[30.0, 10.0, 25.0, 11.0]))
    save(folder, document)
    validation = edit(folder, "val")
    validation["categories"] = document["categories"]
    validation["annotations"][0]["category_id"] = 92
    validation["annotations"][1]["area"] = 0.0
    save(folder, validation, "val")
    assert found(detcore.data.check(folder)) == {
        "degenerate_box": (1, ("train: train_000.jpg: annotation 0",)),
        "outside_image": (1, ("train: train_000.jpg: annotation 1",)),
        "clipped_box": (1, ("train: train_001.jpg: annotation 2",)),
        "not_finite": (1, ("train: train_001.jpg: annotation 3",)),
        "extreme_aspect_ratio": (1, ("train: train_002.jpg: annotation 4",)),
        "empty_segmentation": (1, ("train: train_002.jpg: annotation 5",)),
        "zero_area": (2, ("train: train_003.jpg: annotation 6", "val: val_000.jpg: annotation 1")),
        "near_duplicate": (2, ("train: train_004.jpg: annotation 8", "train: train_004.jpg: annotation 1000")),
        "without_objects": (1, ("train: bare.jpg",)),
        "alike_names": (1, ("'cat' = 'Cat'",)),
        "unused_class": (2, ("cow (1 in val)", "ox")),
        "rare_class": (1, ("Cat: 1",)),
    }


def test_tiny_objects_are_those_of_the_resized_image(tmp_path: Path) -> None:
    """voc's evaluation fits images into 1000 pixels: 23 x 30 become 4.7 x 6.3 of 64 x 4800, and 3.2 x 4.2 of 7200."""
    write_voc(tmp_path, {f"{n}": [voc_object("cat", (1, 1, 20 + n, 30))] * 1 for n in range(12)})
    for n in range(12):
        write_image(tmp_path / "JPEGImages" / f"{n}.jpg", height=4800 if n == 3 else 48, width=64, seed=n)
    assert "tiny" not in found(detcore.data.check(tmp_path))
    write_image(tmp_path / "JPEGImages" / "3.jpg", height=7200, width=64, seed=3)
    assert found(detcore.data.check(tmp_path))["tiny"] == (1, ("train: 3.jpg: annotation 6",))


def test_ids_twice_and_other_faults_of_structure_are_all_told_at_once(folder: Path) -> None:
    document = edit(folder)
    document["annotations"][1]["id"] = document["annotations"][0]["id"]
    document["annotations"][2]["category_id"] = 555
    document["annotations"][3]["image_id"] = 666
    document["images"][5]["id"] = document["images"][4]["id"]
    save(folder, document)
    report = detcore.data.check(folder)
    codes = found(report)
    assert codes["annotations"][1][0].startswith(f"{folder}/annotations/instances_train.json: two images with one id")
    assert codes["duplicate_ann_id"] == (1, ("train: id 0",))
    assert codes["duplicate_image_id"] == (1, ("train: id 104",))
    assert codes["orphan_category_id"] == (1, ("train: id 2",))
    assert "train: id 3" in codes["orphan_image_id"][1]
    assert report.images == {} and report.errors == 5


def test_an_image_listed_in_two_splits_is_told_once(folder: Path) -> None:
    document = edit(folder, "val")
    document["images"][0]["file_name"] = "train_003.jpg"
    save(folder, document, "val")
    assert found(detcore.data.check(folder)) == {"shared_image": (1, ("train and val: train_003.jpg",))}


def test_a_broken_mask_and_invalid_json(folder: Path) -> None:
    document = edit(folder)
    document["annotations"][0]["segmentation"] = {"counts": [5, 5], "size": [48, 64]}
    save(folder, document)
    count, (place,) = found(detcore.data.check(folder))["broken_mask"]
    assert count == 1 and "annotation 0 of train_000.jpg: run lengths of 10 pixels" in place
    (folder / "annotations" / "instances_train.json").write_text('{"images": [')
    assert found(detcore.data.check(folder)).keys() == {"annotations", "no_health_check"}


def test_the_command_writes_json_and_says_errors_by_its_exit_code(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (folder / "images" / "train_000.jpg").unlink()
    assert main(["data", "check", str(folder), "--json", str(tmp_path / "found.json")]) == 1
    told = capsys.readouterr().out
    assert "1 error, 0 warnings, 0 notes" in " ".join(told.split())
    assert "1 of 16 images that are not there" in told and "train: train_000.jpg" in told
    written = json.loads((tmp_path / "found.json").read_text())
    assert main(["data", "check", str(folder), "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out) == written
    assert written["errors"] == 1 and written["findings"] == [
        {
            "code": "missing_image",
            "level": "error",
            "what": "images that are not there",
            "count": 1,
            "of": 16,
            "places": ["train: train_000.jpg"],
            "mend": "copy them, or do without: data.absent_images=skip",
        }
    ]


def test_maps_alone_and_prepared_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / "train" / f"{number}.jpg", seed=number)
        path = tmp_path / "annotations" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 64), number, np.uint8)).save(path)
    path.write_text("no PNG")
    config = locate([str(tmp_path), "data.semantic.classes=[sky,sea]"])
    assert found(detcore.data.check(config)) == {
        "unreadable_map": (1, ("train: 2.jpg: unreadable map: of no known format",))
    }
    with pytest.raises(ValueError, match=r"map of 2\.jpg: unreadable map: .*; 'detcore data check' lists all such"):
        describe(config)
    Image.fromarray(np.full((48, 64), 2, np.uint8)).save(path)
    (place,) = found(detcore.data.check(config))["unreadable_map"][1]
    assert place == "train: 2.jpg: 2.png holds 2, the ids are 0..1 and 255"
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "dataset.json").write_text('{"format_version": 1, "name": "x"}')
    with pytest.raises(ValueError, match="shards holds prepared shards; name the folder of the raw data"):
        detcore.data.check(tmp_path / "shards")


def test_brackets_in_names_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = edit(folder)
    document["images"][0]["file_name"] = "a[red]b[/].jpg"
    save(folder, document)
    assert main(["data", "check", str(folder)]) == 1
    assert "a[red]b[/].jpg" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("name", ["coco_mini", "coco_mini_keypoints", "coco_mini_panoptic", "hit_uav"])
def test_published_data_have_no_errors(shared: Path, name: str) -> None:
    root = shared / "data" / ("hit_uav" if name == "hit_uav" else "coco_mini")
    report = detcore.data.check(locate([f"data={name}", f"data.root={root}"]))
    assert report.errors == 0 and sum(report.images.values()) > 50


def test_the_docs_name_all_that_can_be_found(repository: Path) -> None:
    lines = (repository / "docs" / "data.md").read_text().splitlines()
    for code, kind in KINDS.items():
        assert f"| {kind.level} | `{code}` | {kind.what} |" in lines
