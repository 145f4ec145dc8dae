"""Videos in and out, and the numbers that objects keep between frames."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detcore.cli import main
from detcore.inference import Prediction, Predictor, load_folder
from detcore.inference.sources import Frame, Video, expand, video_stem
from detcore.inference.track_ids import BoxTracker, with_track_ids
from detcore.inference.video import VideoWriter, frames, num_frames

pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'detcore[video]'")
Output = pytest.CaptureFixture[str]


def picture(number: int, height: int = 48, width: int = 65) -> Image.Image:
    """A grey that tells the frame's number, which survives compression."""
    return Image.new("RGB", (width, height), (10 * number, 10 * number, 10 * number))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames at 12.5 a second, of an odd width."""
    path = tmp_path / "clip.avi"
    with VideoWriter(path, fps=12.5) as writer:
        for number in range(12):
            writer.add(picture(number))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm", ".mkv"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with VideoWriter(path, fps=10.0) as writer:
        for number in range(12):
            writer.add(picture(number))
    found = list(frames(Video(str(path))))
    assert [frame.number for frame in found] == list(range(12))
    assert {frame.image.shape for frame in found} == {(48, 64, 3)}
    assert {frame.fps for frame in found} == {10.0}
    for frame in found:
        assert abs(float(frame.image.mean()) - 10 * frame.number) < 5


def test_every_third_frame(clip: Path) -> None:
    found = list(frames(Video(str(clip)), stride=3))
    assert [frame.number for frame in found] == [0, 3, 6, 9] and found[0].fps == pytest.approx(12.5 / 3)
    assert num_frames(Video(str(clip)), stride=3) == 4
    assert str(found[1]) == f"{clip}#3" and found[1].name == "clip/frame_000003.png"


def test_colours_are_in_their_order(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "red.avi", fps=1.0) as writer:
        writer.add(Image.new("RGB", (64, 64), (200, 20, 20)))
    (frame,) = frames(Video(str(tmp_path / "red.avi")))
    np.testing.assert_allclose(frame.image.reshape(-1, 3).mean(axis=0), [200, 20, 20], atol=6)


def test_which_sources_are_videos(clip: Path) -> None:
    for source in (str(clip), clip, Video(str(clip)), str(clip.parent / "*.avi")):
        assert expand(source) == ([Video(str(clip))], True)
    for source in ("rtsp://camera/1", "0", 0):
        ((video,), several) = expand(source)
        assert isinstance(video, Video) and video.live and several
    assert expand("https://example.org/a/clip.mp4?x=1") == ([Video("https://example.org/a/clip.mp4?x=1")], True)
    names = [video_stem(video) for video in ("0", "rtsp://camera/yard", "https://example.org/a/b.mp4?x=1", "c/d.avi")]
    assert names == ["camera-0", "yard", "b", "d"]


def test_of_a_broken_video_nothing_but_our_line_is_told(tmp_path: Path) -> None:
    """OpenCV and FFmpeg write to standard error themselves: in a process that has not loaded them before."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    code = f"""
from detcore.inference.sources import Video
from detcore.inference.video import frames
for source in ({str(broken)!r}, "97"):
    try:
        list(frames(Video(source)))
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{broken}: cannot be opened as a video",
        "camera 97: cannot be opened as a video",
    ]
    assert done.stderr == ""


def test_what_is_no_video_is_said(tmp_path: Path, published: Path, capfd: Output) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    predictor = load_folder(published, device="cpu")
    with pytest.raises(ValueError, match=r"broken\.mp4: cannot be opened as a video"):
        predictor.predict(broken)
    with pytest.raises(ValueError, match="camera 97: cannot be opened"):
        next(predictor.stream(97))
    with pytest.raises(ValueError, match="0: never ends: take `stream`"):
        predictor.predict(0)
    with pytest.raises(ValueError, match=r"clip\.gif: a video is written as \.mp4, "):
        VideoWriter(tmp_path / "clip.gif", fps=1.0)


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    clip, rng = tmp_path / "clip.mkv", np.random.default_rng(0)
    with VideoWriter(clip, fps=10.0) as writer:
        for _ in range(40):
            writer.add(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)))
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"clip\.mkv: ended at frame \d+ of 40: is the file whole"):
        assert len(list(frames(Video(str(clip))))) < 40


def boxes(*left: float) -> NDArray[np.float64]:
    return np.array([[x, 0.0, x + 10.0, 10.0] for x in left]).reshape(-1, 4)


def test_objects_keep_their_numbers() -> None:
    tracker, two = BoxTracker(patience=2), np.array([0, 0])
    assert tracker.update(boxes(0, 50), two).tolist() == [1, 2]
    assert tracker.update(boxes(52, 2), two).tolist() == [2, 1]  # whatever their order
    assert tracker.update(boxes(4, 54), np.array([0, 1])).tolist() == [1, 3]  # another class is another object
    assert tracker.update(boxes(), two[:0]).tolist() == []
    assert tracker.update(boxes(6), two[:1]).tolist() == [1]  # after a frame in which it was missed
    assert tracker.update(boxes(80), two[:1]).tolist() == [4]
    for _ in range(2):
        tracker.update(boxes(), two[:0])
    assert tracker.update(boxes(6), two[:1]).tolist() == [5]  # missed for too long
    # Of two that could be it, the one that overlaps more; the other is new.
    tracker = BoxTracker()
    tracker.update(boxes(0), two[:1])
    assert tracker.update(boxes(4, 1), two).tolist() == [2, 1]
    # Both keep their numbers, though the second box overlaps the first object's more than its own.
    tracker = BoxTracker()
    tracker.update(boxes(0, 6), two)
    assert tracker.update(boxes(-4, 2), two).tolist() == [1, 2]


def frame_prediction(video: str, number: int, left: float) -> Prediction:
    return Prediction(
        source=Frame(video, number, np.zeros((60, 80, 3), np.uint8)),
        height=60,
        width=80,
        boxes_xyxy=boxes(left, 40.0),
        scores=np.array([0.9, 0.8], np.float32),
        labels=np.array([1, 1]),
        class_names=("cat", "cat"),
    )


def test_each_video_counts_by_itself_and_colours_go_by_number() -> None:
    predictions = [frame_prediction("a", 0, 0), frame_prediction("a", 1, 1), frame_prediction("b", 0, 20)]
    found = list(with_track_ids(predictions))
    assert [one.track_ids.tolist() for one in found if one.track_ids is not None] == [[1, 2], [1, 2], [1, 2]]
    drawing = found[0].drawing()
    assert drawing.captions == ["#1 cat 0.90", "#2 cat 0.80"] and drawing.colour(0) != drawing.colour(1)
    assert found[0].to_dict()["detections"][1]["track_id"] == 2


@pytest.mark.parametrize("name", ["drawn.mp4", "drawn"])
def test_the_command_draws_a_video(published: Path, clip: Path, tmp_path: Path, capsys: Output, name: str) -> None:
    out = tmp_path / name
    options = ["--frame-stride", "2", "--out", str(out), "--score", "0.2", "--classes", "circle", "--device", "cpu"]
    assert main(["predict", str(published), str(clip), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{clip}#{number}" for number in range(0, 12, 2)]
    drawn = list(frames(Video(str(out if out.is_file() else out / "clip.mp4"))))
    assert len(drawn) == 6 and drawn[0].image.shape == (540, 720, 3) and drawn[0].fps == pytest.approx(6.25)


def test_frames_are_seen_as_images_are(published: Path, clip: Path) -> None:
    predictor: Predictor = load_folder(published, device="cpu")
    found = predictor.predict(clip, score_threshold=0.1, batch_size=5)
    assert isinstance(found, list) and len(found) == 12
    alone = predictor.predict(next(frames(Video(str(clip)))).image, score_threshold=0.1)
    assert isinstance(alone, Prediction)
    np.testing.assert_allclose(found[0].boxes_xyxy, alone.boxes_xyxy, atol=1e-3)
