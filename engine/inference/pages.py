"""The pages of the key-value cache: which are free and how many hold each of the others."""

from __future__ import annotations

from collections.abc import Iterable

from fw_sdk.types import FwError


class PagePool:
    """Page numbers ``0 … total-1`` with reference counts; taking and giving back are O(1) per page.

    A page with no reference is free. The pool knows nothing of what is in a page.
    """

    def __init__(self, total: int) -> None:
        if total < 1:
            raise FwError("out_of_memory", f"the key-value cache has room for {total} pages, it needs at least 1")
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._references = [0] * total

    @property
    def free(self) -> int:
        """How many pages nobody holds."""
        return len(self._free)

    def references(self, page: int) -> int:
        """How many hold this page."""
        return self._references[page]

    def take(self) -> int:
        """A free page with one reference. The caller has checked ``free``."""
        page = self._free.pop()
        self._references[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more reference to a page that is not free."""
        if self._references[page] < 1:
            raise RuntimeError(f"page {page} is free and cannot be held")
        self._references[page] += 1

    def release(self, page: int) -> int:
        """One reference fewer; returns how many are left. At zero the page is free."""
        left = self._references[page] - 1
        if left < 0:
            raise RuntimeError(f"page {page} is released more often than it was held")
        self._references[page] = left
        if left == 0:
            self._free.append(page)
        return left

    def check_integrity(self, holders: Iterable[int]) -> None:
        """Raise unless ``holders`` (one page number per reference, in any order) is exactly what is counted."""
        counted = [0] * self.total
        for page in holders:
            counted[page] += 1
        wrong = [page for page in range(self.total) if counted[page] != self._references[page]]
        if wrong:
            page = wrong[0]
            raise RuntimeError(f"page {page}: {self._references[page]} references, but {counted[page]} holders")
        free = {page for page in range(self.total) if counted[page] == 0}
        if len(self._free) != len(free) or set(self._free) != free:
            raise RuntimeError(f"free list {sorted(self._free)} differs from the pages nobody holds {sorted(free)}")
