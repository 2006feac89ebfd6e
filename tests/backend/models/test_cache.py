"""The models that a cache keeps: which are released, and which counts as used last."""

from __future__ import annotations

from panoform.backend.models.cache import ModelCache


class Loaded:
    """A model of a ModelCache."""

    label = device_label = "toy"

    def device_memory(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def leave_device(self) -> bool:
        return False


def test_without_room_the_least_recently_used_is_released() -> None:
    cache, first, second = ModelCache(), Loaded(), Loaded()
    cache.get("first", lambda: first, lambda: True)
    cache.get("second", lambda: second, lambda: False)
    assert cache.latest is second
    assert cache.get("first", Loaded, lambda: True) is not first


def test_models_leave_their_device_before_they_are_released() -> None:
    """A and B alternate on a device that holds one of them, beside main memory that holds both: none is read twice."""
    cache, on_device, read = ModelCache(), [], []

    class Moving(Loaded):
        def leave_device(self) -> bool:
            if self not in on_device:
                return False
            on_device.remove(self)
            return True

    def job(name: str) -> Loaded:
        def load() -> Loaded:
            read.append(name)
            on_device.append(model := Moving())
            return model

        return cache.get(name, load, lambda: not on_device)

    first, second = job("A"), job("B")
    assert on_device == [second]
    assert job("A") is first
    cache.make_room(lambda: not on_device)
    assert not on_device
    assert job("B") is second
    assert read == ["A", "B"]
    cache.make_room(lambda: False)
    assert cache.latest is second, "the model in use stays"
    assert job("A") is not first, "without room in main memory it is released"


def test_keeping_releases_nothing_and_keeps_the_order() -> None:
    cache, first, second, third = ModelCache(), Loaded(), Loaded(), Loaded()
    cache.get("first", lambda: first, lambda: True)
    cache.get("second", lambda: second, lambda: True)
    with cache.keeping():
        cache.get("third", lambda: third, lambda: False)
        assert cache.get("first", Loaded, lambda: False) is first
    assert cache.latest is second
    cache.release_unused()
    assert cache.get("second", Loaded, lambda: True) is second
    assert cache.get("third", Loaded, lambda: False) is not third, "it was the least recently used"
