"""A thousand hostile requests, sixteen at a time, leave a server serving."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hostile_requests import KINDS, image, picture
from published_shapes import publish
from served_model import Served, request, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REQUESTS = 1000
SLOW_CLIENTS = 60
REFUSALS = range(400, 500)
BUSY = 503
LIMITS = ("--max-bytes", "2000000", "--max-pixels", "4000000", "--timeout-seconds", "20")


@pytest.fixture(params=["--local", pytest.param("--replicas=2", marks=pytest.mark.ray)])
def served(request: pytest.FixtureRequest, tmp_path: Path, repository: Path) -> Iterator[Served]:
    model = publish(tmp_path / "shapes")
    with serving(str(model), request.param, *LIMITS, folder=tmp_path, repository=repository) as served:
        yield served


def test_a_thousand_hostile_requests_leave_it_serving(served: Served) -> None:
    good = picture(random.Random(0), size=(160, 120))
    status, expected = image(served, good, "?score=0")
    assert status == 200 and b'"class_name"' in expected
    before = served.memory()

    def attack(number: int) -> tuple[str, int | None, bytes]:
        kind = KINDS[number % len(KINDS)]
        return kind.__name__, *kind(served, random.Random(number))

    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        for number in range(SLOW_CLIENTS):  # who begin to speak, and say no more
            whole = request("POST", "/predict", good, Content_Type="image/jpeg")
            stack.enter_context(served.open(whole[: (0, 20, 300)[number % 3]]))
        answers = []
        for start in range(0, REQUESTS, 100):
            answers += list(pool.map(attack, range(start, start + 100)))
            assert image(served, good, "?score=0") == (200, expected)

    assert len(answers) == REQUESTS
    unfit = [answer for answer in answers if not (answer[1] in (None, 100, 200, BUSY) or answer[1] in REFUSALS)]
    assert not unfit, [(kind, status, body[:200]) for kind, status, body in unfit[:9]]
    talkative = [answer for answer in answers if b"Traceback" in answer[2] or b"site-packages" in answer[2]]
    assert not talkative, talkative[0]
    counts = Counter(status for _, status, _ in answers)
    print({str(status): count for status, count in counts.most_common()}, "+", (served.memory() - before) >> 20, "MB")
    assert sum(count for status, count in counts.items() if status in REFUSALS) > REQUESTS / 2
    assert served.memory() - before < 1 << 30
    assert served.exchange(request("GET", "/health"))[0] == 200
    assert served.interrupt() == 0
    assert served.said.rstrip().endswith("stopped")
