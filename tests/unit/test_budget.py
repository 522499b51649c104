"""A budget gives bytes in the order of the requests."""

import threading

import pytest

from clipdemo.budget import Budget


def test_a_large_request_is_not_overtaken():
    budget, order = Budget(100), []

    def take(nbytes, name):
        with budget.reserve(nbytes):
            order.append(name)

    with budget.reserve(60):
        large = threading.Thread(target=take, args=(90, "large"))
        large.start()
        while not budget._waiting:
            pass
        small = threading.Thread(target=take, args=(10, "small"))
        small.start()
        while len(budget._waiting) < 2:
            pass
        assert order == []
    large.join()
    small.join()
    assert order == ["large", "small"]
    with budget.reserve(10**12):  # more than there is: everything
        assert budget._free == 0
    assert budget._free == 100


def test_a_request_that_is_interrupted_leaves_the_queue(monkeypatch):
    budget = Budget(100)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(budget._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            budget.reserve(1).__enter__()
    assert not budget._waiting
    with budget.reserve(100):
        pass
