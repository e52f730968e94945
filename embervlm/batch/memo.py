"""Results kept in memory while there is room, so that many epochs over few pictures decode each picture once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")

PIXEL_BYTES = 2 << 30
TARGET_BYTES = 1 << 30
"""Budgets in bytes for each process that loads data."""


class Memo(Generic[Value]):
    """A dictionary that stops growing at a budget. What does not fit is made again each time."""

    def __init__(self, budget: int) -> None:
        self.left = budget
        self._kept: dict[Hashable, Value] = {}

    def get(self, key: Hashable) -> Value | None:
        return self._kept.get(key)

    def put(self, key: Hashable, value: Value, size: int) -> None:
        if size <= self.left and key not in self._kept:
            self._kept[key] = value
            self.left -= size

    def get_or_make(self, key: Hashable, make: Callable[[], Value], size_of: Callable[[Value], int]) -> Value:
        value = self._kept.get(key)
        if value is None:
            value = make()
            self.put(key, value, size_of(value))
        return value
