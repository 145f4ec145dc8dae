"""What asks at the same time is worked on together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from fixed_detector import POISON, FixedDetector, picture, served

from detcore.serving.answers import JsonQuestion
from detcore.serving.batching import Batcher

Work = Callable[[list[int]], Awaitable[Sequence[int | Exception]]]


class Doubling:
    """Doubles numbers; odd hundreds are an error of their own. Each batch takes as long as it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        await self.go.wait()
        return [ValueError(f"{item} is odd") if item % 100 == 1 else 2 * item for item in items]


def test_each_gets_its_own_result_and_batches_are_full() -> None:
    async def ask() -> list[int]:
        batcher = Batcher(work, max_size=4, max_wait_seconds=0.01)
        return await asyncio.gather(*(batcher(number) for number in range(10, 20)))

    work = Doubling()
    assert asyncio.run(ask()) == [2 * number for number in range(10, 20)]
    assert [len(batch) for batch in work.batches] == [4, 4, 2]


def test_what_arrives_during_a_batch_is_the_next_one() -> None:
    """One after the other, longer apart than the wait: still one batch, because the model was busy."""

    async def ask() -> None:
        batcher = Batcher(work, max_size=8, max_wait_seconds=0.0)
        work.go.clear()
        asked = [asyncio.ensure_future(batcher(0))]
        for number in range(2, 7):
            await asyncio.sleep(0.01)
            asked.append(asyncio.ensure_future(batcher(number)))
        work.go.set()
        await asyncio.gather(*asked)

    work = Doubling()
    asyncio.run(ask())
    assert work.batches == [[0], [2, 3, 4, 5, 6]]


def test_a_full_batch_does_not_wait() -> None:
    async def ask() -> None:
        batcher = Batcher(work, max_size=2, max_wait_seconds=60)
        await asyncio.wait_for(asyncio.gather(batcher(2), batcher(3)), 5)

    work = Doubling()
    asyncio.run(ask())
    assert work.batches == [[2, 3]]


def test_an_error_is_raised_to_whom_it_belongs() -> None:
    async def ask() -> list[int | BaseException]:
        batcher = Batcher(Doubling(), max_size=4, max_wait_seconds=0.01)
        return await asyncio.gather(*(batcher(number) for number in (100, 101, 102)), return_exceptions=True)

    first, error, last = asyncio.run(ask())
    assert (first, last) == (200, 204)
    assert isinstance(error, ValueError) and str(error) == "101 is odd"


def test_an_error_of_the_work_ends_one_batch_and_no_more() -> None:
    async def ask() -> tuple[object, int]:
        async def work(items: list[int]) -> Sequence[int | Exception]:
            if items == [1]:
                raise RuntimeError("broken")
            return items

        batcher = Batcher(work, max_size=1, max_wait_seconds=0)
        first, _ = await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)
        return first, await batcher(3)

    error, later = asyncio.run(ask())
    assert isinstance(error, RuntimeError) and later == 3


def test_who_gives_up_costs_nothing() -> None:
    async def ask() -> None:
        batcher = Batcher(work, max_size=1, max_wait_seconds=0)
        work.go.clear()
        first = asyncio.ensure_future(batcher(0))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(batcher(2))
        third = asyncio.ensure_future(batcher(3))
        await asyncio.sleep(0)
        second.cancel()
        work.go.set()
        assert (await first, await third) == (0, 6)

    work = Doubling()
    asyncio.run(ask())
    assert work.batches == [[0], [3]]


def test_images_that_come_together_are_looked_at_together() -> None:
    model = FixedDetector()
    detector, _, _ = served(model, max_wait_ms=200)

    async def ask() -> list[bytes]:
        return await asyncio.gather(*(detector.answer(picture(), JsonQuestion()) for _ in range(8)))

    assert len(set(asyncio.run(ask()))) == 1
    assert model.sizes == [1, 8]  # the first at the start


def test_an_image_that_the_model_fails_on_does_not_take_the_others_with_it() -> None:
    detector, _, _ = served(FixedDetector(), max_wait_ms=200)

    async def ask() -> list[bytes | BaseException]:
        files = [picture(), picture(grey=POISON), picture()]
        return await asyncio.gather(*(detector.answer(file, JsonQuestion()) for file in files), return_exceptions=True)

    first, error, last = asyncio.run(ask())
    assert first == last and isinstance(first, bytes)
    assert isinstance(error, RuntimeError)


def test_a_model_that_does_not_come_back_is_noticed() -> None:
    model = FixedDetector()
    detector, _, _ = served(model, timeout_seconds=0.02)

    async def ask() -> None:
        model.go.clear()
        waiting = asyncio.ensure_future(detector.answer(picture(), JsonQuestion()))
        assert not detector.stuck
        await asyncio.sleep(0.3)
        assert detector.stuck
        model.go.set()
        await waiting
        assert not detector.stuck

    asyncio.run(ask())


@pytest.mark.parametrize("score", [0.5, 0.7, 0.95])
def test_each_has_its_own_thresholds_in_one_batch(score: float) -> None:
    model = FixedDetector()
    detector, _, _ = served(model, max_wait_ms=200)

    async def ask() -> list[bytes]:
        questions = [JsonQuestion(score=score), JsonQuestion(score=0.0), JsonQuestion(classes="dog")]
        return await asyncio.gather(*(detector.answer(picture(), question) for question in questions))

    own, everything, dogs = asyncio.run(ask())
    assert model.sizes == [1, 3]
    assert own.count(b"class_name") == (score <= 0.9) + (score <= 0.6)
    assert everything.count(b"class_name") == 2
    assert dogs.count(b'"dog"') == 1 and b'"cat"' not in dogs
