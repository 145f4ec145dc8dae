import numpy as np
import pytest
from PIL import Image

from detcore.data import Objects
from detcore.inference import Drawing, compare, draw, truth_drawing
from detcore.inference.colours import class_colour
from detcore.inference.regions import Regions

GREY = (100, 100, 100)


def drawing(boxes: list[list[float]], **parts: object) -> Drawing:
    count = len(boxes)
    values = {"labels": np.arange(count), "captions": [""] * count, **parts}
    return Drawing(boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4), **values)


def test_a_thumbnail_is_enlarged_and_the_box_with_it() -> None:
    picture = draw(Image.new("RGB", (160, 80), GREY), drawing([[40, 20, 120, 60]]))
    assert picture.size == (720, 360)  # 4.5 times
    pixels = np.asarray(picture)
    for x, y in ((180, 200), (539, 200), (300, 90), (300, 269)):  # the middles of its four sides
        assert tuple(pixels[y, x]) == class_colour(0)
    assert tuple(pixels[180, 360]) == GREY  # no mask, no fill


@pytest.mark.parametrize("width", [160, 1333, 4000])
def test_lines_and_captions_grow_with_the_picture(width: int) -> None:
    picture = draw(
        Image.new("RGB", (width, width), GREY), drawing([[width / 4, width / 4, width / 2, width / 2]], captions=["a"])
    )
    side = picture.width
    assert side == max(width, 720)
    row = np.asarray(picture)[int(side * 0.45)]
    line = (row == class_colour(0)).all(axis=1).sum()  # left and right side of the box
    assert side / 300 <= line <= side / 120
    column = np.asarray(picture)[: side // 4 - side // 100, side // 4 + 1]
    tag = (column == class_colour(0)).all(axis=1).sum()
    assert tag > side / 80  # the tag above the box is high enough to be read


def test_large_pictures_keep_their_size_unless_told() -> None:
    image = Image.new("RGB", (2000, 1000), GREY)
    assert draw(image, drawing([])).size == (2000, 1000)
    small = draw(image, drawing([[1000, 500, 2000, 1000]]), max_side=800)
    assert small.size == (800, 400)
    assert tuple(np.asarray(small)[300, 400]) == class_colour(0)


def test_masks_tint_what_they_cover() -> None:
    masks = np.zeros((1, 720, 720), dtype=bool)
    masks[0, 100:300, 200:400] = True
    pixels = np.asarray(draw(Image.new("RGB", (720, 720), GREY), drawing([[100, 50, 500, 400]], masks=masks)))
    expected = 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(0))
    np.testing.assert_allclose(pixels[200, 300], expected, atol=2)
    assert tuple(pixels[200, 450]) == GREY
    assert tuple(pixels[100, 300]) == class_colour(0)  # its rim


def test_an_outline_is_drawn_as_its_mask() -> None:
    masks = np.zeros((1, 720, 720), dtype=bool)
    masks[0, 100:300, 200:400] = True
    ring = np.array([[200.0, 100.0], [400.0, 100.0], [400.0, 300.0], [200.0, 300.0]])
    image, boxes = Image.new("RGB", (720, 720), GREY), [[200.0, 100.0, 400.0, 300.0]]
    a = np.asarray(draw(image, drawing(boxes, masks=masks))).astype(int)
    b = np.asarray(draw(image, drawing(boxes, polygons=[[ring]]))).astype(int)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("box", [[0, 0, 30, 20], [700, 700, 720, 720], [0, 0, 720, 720], [-5, 300, 3, 310]])
def test_captions_stay_inside_the_picture(box: list[float]) -> None:
    image = Image.new("RGB", (720, 720), GREY)
    bare = np.asarray(draw(image, drawing([box]))).astype(int)
    tagged = np.asarray(draw(image, drawing([box], captions=["caption"]))).astype(int)
    rows, columns = np.nonzero(abs(bare - tagged).sum(axis=2))
    assert np.ptp(rows) >= 15 and np.ptp(columns) >= 50  # all of it, not a part cut off by the border


def test_captions_evade_each_other() -> None:
    labels = np.array([3, 4, 5])
    box = [300.0, 300.0, 420.0, 420.0]
    picture = draw(Image.new("RGB", (720, 720), GREY), drawing([box] * 3, labels=labels, captions=["in one place"] * 3))
    for label in labels.tolist():
        hits = (np.asarray(picture) == class_colour(label)).all(axis=2)
        # The rows of a tag are mostly of its colour; a box's outline alone never fills half of its own width.
        assert (hits[:, 290:430].sum(axis=1) > 50).sum() >= 8


def test_the_original_is_untouched() -> None:
    image = np.full((100, 100, 3), 100, dtype=np.uint8)
    draw(image, drawing([[10, 10, 90, 90]], captions=["a"]))
    assert (image == 100).all()


def test_colours_of_many_classes_differ() -> None:
    colours = {class_colour(label) for label in range(40)}
    assert len(colours) == 40


def test_truth_beside_prediction() -> None:
    ring = np.array([[10.0, 10.0], [60.0, 10.0], [60.0, 60.0], [10.0, 60.0]])
    objects = Objects(
        boxes_xyxy=np.array([[10.0, 10.0, 60.0, 60.0], [70.0, 70.0, 90.0, 90.0]]),
        labels=np.array([1, 0]),
        crowd=np.array([False, True]),
        areas=np.array([2500.0, 400.0]),
        annotation_ids=np.array([1, 2]),
        polygons=[[ring], []],
    )
    truth = truth_drawing(objects, ("cat", "dog"))
    assert list(truth.captions) == ["dog", "cat (crowd)"]
    sheet = np.asarray(compare(Image.new("RGB", (100, 100), GREY), truth, drawing([])))
    height, width, _ = sheet.shape
    assert width > 2 * 720 and height > 720
    left, right = sheet[-720:, :720], sheet[-720:, -720:]
    assert (right == GREY).all()  # nothing predicted
    np.testing.assert_allclose(left[250, 250], 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(1)), atol=2)
    titles = sheet[: height - 720]
    assert (titles[:, :720] < 128).any() and (titles[:, -720:] < 128).any()


def test_a_rotated_box_is_drawn_along_its_sides() -> None:
    # A square of side 40 on its corner about (80, 40): its corners lie 20 sqrt 2 off, its sides' middles 20.
    found = draw(
        Image.new("RGB", (160, 80), GREY), drawing([[52, 12, 108, 68]], boxes_xywha=np.array([[80.0, 40, 40, 40, 45]]))
    )
    pixels, factor = np.asarray(found), 4.5
    offset = 20 / np.sqrt(2)
    for dx, dy in ((offset, offset), (offset, -offset), (-offset, offset), (-offset, -offset)):
        assert tuple(pixels[round((40 + dy) * factor), round((80 + dx) * factor)]) == class_colour(0)
    assert tuple(pixels[round(14 * factor), round(54 * factor)]) == GREY  # no upright box


def test_keypoints_that_are_not_there_are_not_drawn() -> None:
    points = np.array([[[20.0, 20, 2], [60, 20, 1], [60, 60, 0]]])
    lines = {"keypoints": points, "skeleton": ((0, 1), (1, 2))}
    pixels = np.asarray(draw(Image.new("RGB", (160, 80), GREY), drawing([[10, 10, 150, 70]], **lines)))
    assert tuple(pixels[90, 180]) == class_colour(0)  # half way from the first to the second
    assert tuple(pixels[90, 90]) == (255, 255, 255)
    assert tuple(pixels[180, 270]) == GREY


def test_regions_are_coloured_and_named() -> None:
    ids = np.zeros((80, 160), np.int32)
    ids[:, 100:] = 7
    regions = Regions(ids=ids, labels={7: 3}, names={7: "sea"})
    pixels = np.asarray(draw(Image.new("RGB", (160, 80), GREY), drawing([], regions=regions))).astype(int)
    assert tuple(pixels[100, 100]) == GREY
    expected = 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(3))
    np.testing.assert_allclose(pixels[20, 700], expected, atol=1)
    assert (pixels[140:220, 540:640] == 255).all(axis=-1).any()  # its name in the middle


def test_names_of_regions_at_the_edge_are_whole() -> None:
    def inked(corner: tuple[slice, slice]) -> int:
        ids = np.zeros((80, 160), np.int32)
        ids[corner] = 1
        regions = Regions(ids=ids, labels={1: 3}, names={1: "building-other"})
        return int((np.asarray(draw(Image.new("RGB", (160, 80), GREY), drawing([], regions=regions))) == 255).sum())

    middle = inked((slice(38, 42), slice(76, 84)))
    for corner in ((slice(0, 4), slice(0, 4)), (slice(76, 80), slice(156, 160))):
        assert inked(corner) == pytest.approx(middle, rel=0.2)
