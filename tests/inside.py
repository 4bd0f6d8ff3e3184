"""Run a test inside the lab's namespaces: in a forked process, whose failure is the test's."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from unblink.lab.hosts import sandbox

P = ParamSpec("P")


def inside(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The coroutine runs as process 1 of new namespaces; a traceback of it is in the test's captured stderr."""

    @functools.wraps(test)
    def outside(*args: P.args, **kwargs: P.kwargs) -> None:
        def main() -> int:
            asyncio.run(test(*args, **kwargs))
            return 0

        assert sandbox.run(main) == 0, "failed inside the namespaces; see the captured stderr"

    needs: Callable[[Callable[P, None]], Callable[P, None]] = pytest.mark.needs_namespaces
    return needs(outside)
