"""The models that a cache keeps: which are released, and which counts as used last."""

from __future__ import annotations

from panoform.backend.models.cache import ModelCache


class Loaded:
    """A model of a ModelCache."""

    label = device_label = "toy"

    def device_memory(self) -> tuple[int, int, int]:
        return 0, 0, 0


def test_without_room_the_least_recently_used_is_released() -> None:
    cache, first, second = ModelCache(), Loaded(), Loaded()
    cache.get("first", lambda: first, lambda: True)
    cache.get("second", lambda: second, lambda: False)
    assert cache.latest is second
    assert cache.get("first", Loaded, lambda: True) is not first


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
