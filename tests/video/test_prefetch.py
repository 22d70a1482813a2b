"""Items made ahead: in order, in one thread, which ends however the reading ends."""

import threading
from contextlib import closing

import pytest
import torch

from comfyui_aot.aot.video.prefetch import ahead
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video, open_video


class Source:
    """Numbers, and what became of the generator that gave them."""

    def __init__(self, count, fails_at=None):
        self.count, self.fails_at = count, fails_at
        self.made = [threading.Event() for _ in range(count)]
        self.threads, self.closed_in = set(), None

    def __iter__(self):
        return self.numbers()

    def numbers(self):
        try:
            for number in range(self.count):
                if number == self.fails_at:
                    raise ValueError(f"no {number}")
                self.threads.add(threading.current_thread())
                self.made[number].set()
                yield number
        finally:
            self.closed_in = threading.current_thread()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("most", [1, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 10])
def test_items_come_in_order_out_of_one_other_thread(count, most):
    source = Source(count)
    assert list(ahead(source.numbers(), most)) == list(range(count))
    assert len(source.threads) == min(1, count)
    assert threading.current_thread() not in source.threads


def test_the_next_item_is_made_while_the_last_is_used_and_no_more():
    source = Source(10)
    with closing(ahead(source.numbers(), 2)) as numbers:
        next(numbers)
        assert source.made[1].wait(10) and source.made[2].wait(10)
        assert not source.made[3].wait(0.05)
        next(numbers)
        assert source.made[3].wait(10)


def test_an_error_arrives_in_its_place():
    numbers = ahead(Source(10, fails_at=2).numbers(), 4)
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(ValueError, match="no 2"):
        next(numbers)


def test_closing_early_closes_the_source_in_its_thread():
    source = Source(10)
    numbers = ahead(source.numbers(), 2)
    next(numbers)
    numbers.close()
    assert source.closed_in in source.threads
    assert not source.made[4].is_set()


def test_an_error_of_the_reader_closes_the_source():
    source = Source(10)

    def read():
        with closing(ahead(source.numbers(), 1)) as numbers:
            for number in numbers:
                raise KeyError(number)

    with pytest.raises(KeyError):
        read()
    assert source.closed_in in source.threads


@pytest.mark.parametrize(("backend", "size"), [("decord", None), ("pyav", 64), ("auto", 64)])
def test_files_are_decoded_in_another_thread_as_in_this_one(bikes, backend, size):
    sampling = Sampling(frames=20)
    parts = list(ahead(open_video(bikes, sampling, size, backend).parts(4), 1))
    whole = load_video(bikes, sampling, size, backend)
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.timestamps for part in parts]), whole.timestamps)
