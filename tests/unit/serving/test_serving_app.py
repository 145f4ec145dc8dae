"""Requests and their answers, good and bad."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fixed_detector import LABELS, POISON, FixedDetector, picture, served
from PIL import Image
from pycocotools import mask as coco_mask
from starlette.testclient import TestClient

from detcore.serving import create_app, sha256_of
from detcore.serving.answers import JsonQuestion

JPEG = {"Content-Type": "image/jpeg"}


def client_of(model: FixedDetector | None = None, **settings: Any) -> TestClient:
    return TestClient(create_app(*served(model or FixedDetector(), **settings)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(max_bytes=50_000, max_pixels=10_000) as client:
        yield client


def error_of(response: Any, status: int) -> str:
    """The reason, once the answer is just that."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    reason: str = response.json()["error"]
    assert "\n" not in reason and "Traceback" not in reason
    return reason


def test_an_image_in_every_form_gets_the_same_answer(client: TestClient) -> None:
    file = picture(20, 40)
    answers = [
        client.post("/predict", content=file, headers={"Content-Type": "image/png"}),
        client.post("/predict", content=file, headers={"Content-Type": "application/octet-stream"}),
        client.post("/predict", files={"image": ("scene.png", file)}),
        client.post("/predict", json={"image": base64.b64encode(file).decode()}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.content for answer in answers}) == 1
    content = answers[0].json()
    assert (content["height"], content["width"]) == (20, 40)
    cat, dog = content["detections"]
    assert (cat["class_name"], cat["label"], cat["box_xyxy"]) == ("cat", 0, pytest.approx([0.0, 0.0, 20.0, 20.0]))
    assert (dog["class_name"], dog["score"]) == ("dog", pytest.approx(0.6))
    assert coco_mask.decode(dog["mask"]).sum() == 20 * 10  # the upper half of 20 x 20


def test_masks_as_outlines_or_not_at_all(client: TestClient) -> None:
    file = {"image": picture(20, 40)}
    outlines = client.post("/predict?masks=polygons", files=file).json()["detections"][1]["mask"]
    xs, ys = np.array(outlines[0]).reshape(-1, 2).T
    assert len(outlines) == 1 and (xs.min(), xs.max(), ys.min(), ys.max()) == (20, 40, 0, 10)
    assert "mask" not in client.post("/predict?masks=none", files=file).json()["detections"][1]


def test_coco_s_results(client: TestClient) -> None:
    rows = client.post("/predict?format=coco&image_id=17&score=0.7", files={"image": picture(20, 40)}).json()
    assert len(rows) == 1
    assert (rows[0]["image_id"], rows[0]["category_id"], rows[0]["category_name"]) == (17, 1, "cat")
    assert rows[0]["bbox"] == pytest.approx([0.0, 0.0, 20.0, 20.0])
    assert coco_mask.area(rows[0]["segmentation"]) == 20 * 20
    outlines = client.post("/predict?format=coco&masks=polygons", files={"image": picture(20, 40)}).json()
    assert isinstance(outlines[0]["segmentation"][0], list)


def test_the_drawn_image(client: TestClient) -> None:
    answer = client.post("/draw?max_side=256", files={"image": picture(20, 40)})
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(io.BytesIO(answer.content))
    assert drawn.size == (256, 128)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("score=2", "score: Input should be less than or equal to 1, got '2'"),
        ("score=-0.1", "score: Input should be greater than or equal to 0"),
        ("score=nan", "score: "),
        ("score=much", "score: Input should be a valid number"),
        ("classes=horse", "class 'horse': the model knows cat, dog"),
        ("masks=png", "masks: Input should be 'rle', 'polygons' or 'none', got 'png'"),
        ("scores=0.5", "scores: there is no such parameter"),
        ("image_id=3", "image_id has no use without format=coco"),
    ],
)
def test_a_wrong_query_is_named(client: TestClient, query: str, reason: str) -> None:
    assert error_of(client.post(f"/predict?{query}", files={"image": picture()}), 422).startswith(reason)


JSON = {"Content-Type": "application/json"}
DEEP = b'{"image": ' + b"[" * 200_000
BOMB = picture(101, 100)  # 10,100 pixels, 10,000 are taken


@pytest.mark.parametrize(
    ("status", "content", "headers", "reason"),
    [
        (415, b"x=1", {"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type 'application/x-www-form"),
        (415, b"hello", {}, "Content-Type ''"),
        (415, picture(), JPEG | {"Content-Encoding": "gzip"}, "Content-Encoding 'gzip'"),
        (415, b"no image", JPEG, "the 8 bytes sent as the image are no JPEG, PNG"),
        (415, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", JPEG, "the 47 bytes sent as the image are no"),
        (422, picture(40, 40)[:-500], JPEG, "unreadable image"),
        (400, b"", JPEG, "there is no image in the request"),
        (413, b"\xff" * 50_001, JPEG, "the image is larger than the 50,000 bytes"),
        (413, BOMB, JPEG, "an image of 100 x 101 pixels; this server takes up to 10,000"),
        (400, b"{", JSON, "the JSON cannot be taken: "),
        (400, DEEP[:40_000], JSON, "the JSON cannot be taken: "),
        (400, b"[]", JSON, "the JSON cannot be taken: "),
        (400, b"{}", JSON, 'the JSON must have one of "image" (base64) and "url"'),
        (400, b'{"image": 7}', JSON, "the JSON cannot be taken: image: "),
        (400, b'{"image": "A", "socre": 1}', JSON, "the JSON cannot be taken: socre: "),
        (400, b'{"image": "scene.jpg"}', JSON, '"image" is not base64'),
        (400, '{"image": "é"}'.encode(), JSON, '"image" is not base64'),
        (403, b'{"url": "http://169.254.169.254/latest"}', JSON, "this server fetches no addresses"),
        (400, b"--a", {"Content-Type": "multipart/form-data"}, "the form cannot be read: Missing boundary"),
        (400, b"garbage", {"Content-Type": "multipart/form-data; boundary=a"}, "the form "),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(
    client: TestClient, status: int, content: bytes, headers: dict[str, str], reason: str
) -> None:
    assert error_of(client.post("/predict", content=content, headers=headers), status).startswith(reason)


def test_forms_with_something_else(client: TestClient) -> None:
    image = ("scene.png", picture())
    assert "Too many files" in error_of(client.post("/predict", files=[("image", image), ("image", image)]), 400)
    assert "Too many fields" in error_of(client.post("/predict", files={"image": image}, data={"score": "1"}), 400)
    assert "no file in a field called image" in error_of(client.post("/predict", files={"picture": image}), 400)


def test_a_body_without_a_length_is_cut_off_at_the_limit(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 1000
            yield b"\xff" * 1000

    error_of(client.post("/predict", content=endless(), headers=JPEG), 413)


def test_pages_that_do_not_exist(client: TestClient) -> None:
    assert "GET / says what there is" in error_of(client.get("/../../etc/passwd"), 404)
    error_of(client.get("/docs"), 404)
    error_of(client.get("/predict"), 405)
    error_of(client.request("DELETE", "/predict"), 405)


def test_an_error_of_the_server_says_nothing_of_its_inside() -> None:
    with client_of() as client:
        answer = client.post("/predict", files={"image": picture(grey=POISON)})
        assert error_of(answer, 500) == "an error of the server; its log has it"
        assert client.post("/predict", files={"image": picture()}).status_code == 200


def test_only_so_many_at_a_time() -> None:
    model = FixedDetector()
    with client_of(model, max_queue=2, max_batch=1) as client:
        model.go.clear()
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", files={"image": picture()})))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while client.get("/ready").status_code == 200:
            assert time.monotonic() < deadline
        refused = client.post("/predict", files={"image": picture()})
        assert error_of(refused, 503).startswith("2 requests are waiting already")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        model.go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get("/ready").json() == {"status": "ready"}


def test_a_late_answer_is_a_refusal() -> None:
    model = FixedDetector()
    with client_of(model, timeout_seconds=0.1) as client:
        model.go.clear()
        try:
            assert "not answered within 0.1 s" in error_of(client.post("/predict", files={"image": picture()}), 503)
        finally:
            model.go.set()


def test_a_token_is_asked_for_everywhere_but_for_health(caplog: pytest.LogCaptureFixture) -> None:
    token = "correct-horse"
    with client_of(token_sha256=sha256_of(token)) as client:
        for headers in (
            {},
            {"Authorization": token},
            {"Authorization": f"Basic {token}"},
            {"Authorization": "Bearer x"},
        ):
            answer = client.post("/predict?score=7", files={"image": picture()}, headers=headers)
            assert "Authorization: Bearer TOKEN" in error_of(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (
            client.get("/model").status_code == client.get("/").status_code == client.get("/metrics").status_code == 401
        )
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        answer = client.post("/predict", files={"image": picture()}, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
    assert token not in caplog.text


def test_addresses_of_allowed_servers_alone() -> None:
    with client_of(url_hosts=("images.example",)) as client:
        reason = error_of(client.post("/predict", json={"url": "http://127.0.0.1/a.jpg"}), 400)
        assert "nothing is fetched from 127.0.0.1, only from images.example" in reason
        for address in ("file:///etc/passwd", "ftp://images.example/a", "images.example", "http://[", "gopher://x"):
            error_of(client.post("/predict", json={"url": address}), 400)


def test_what_is_served(client: TestClient) -> None:
    about = client.get("/model").json()
    assert (about["model"], about["labels"], about["predicts"]) == ("pets", list(LABELS), ["boxes", "masks"])
    assert about["limits"]["max_pixels"] == 10_000
    assert "token" not in json.dumps(about)


def test_counts_for_prometheus() -> None:
    with client_of(max_wait_ms=0) as client:
        client.post("/predict", files={"image": picture()})
        client.post("/predict", content=b"", headers=JPEG)
        client.get("/a-page-that-strangers-thought-of")
        text = client.get("/metrics").text
    assert 'detcore_requests_total{path="/predict",replica="0",status="200"} 1.0' in text
    assert 'detcore_requests_total{path="/predict",replica="0",status="400"} 1.0' in text
    assert 'detcore_requests_total{path="other",replica="0",status="404"} 1.0' in text
    assert "strangers" not in text
    assert 'detcore_batch_images_count{replica="0"} 1.0' in text


def test_the_description_for_programs(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    asked = described["paths"]["/predict"]["post"]
    assert {parameter["name"] for parameter in asked["parameters"]} == {
        "score",
        "classes",
        "masks",
        "format",
        "image_id",
    }
    assert set(asked["requestBody"]["content"]) >= {"multipart/form-data", "application/json", "image/*"}
    assert "image/png" in described["paths"]["/draw"]["post"]["responses"]["200"]["content"]


def test_the_front_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/").text
    assert "<script" not in page and "https://" not in page and "src=" not in page
    assert "cat, dog" in page and "http://testserver/predict" in page


def test_names_cannot_write_html() -> None:
    detector, settings, metrics = served(FixedDetector(), name="<b>pets</b>")
    detector.predictor.labels = ("<script>alert(1)</script>",)
    with TestClient(create_app(detector, settings, metrics)) as client:
        page = client.get("/", headers={"Host": 'x"><script>'}).text
    assert "<script" not in page and "<b>pets" not in page


def test_a_token_that_no_header_can_hold() -> None:
    for token in ("", " a", "a\nb", "é"):
        with pytest.raises(ValueError, match="printable ASCII"):
            sha256_of(token)


def test_run_lengths_are_those_of_the_masks() -> None:
    """Made without masks of the whole image, they are pycocotools' of `prediction.masks`, bit for bit."""
    detector, _, _ = served(FixedDetector())
    pixels = np.random.default_rng(5).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    threshold = detector.thresholds(JsonQuestion(score=0.0))
    plain, short = detector.predictor.look([(pixels, pixels)] * 2, [threshold] * 2)
    assert short(masks="rle").masks is None
    assert short(masks="rle").to_dict() == plain().to_dict()
    assert "mask" not in short(masks="none").to_dict()["detections"][0]
