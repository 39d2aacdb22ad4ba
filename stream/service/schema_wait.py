"""Schema wait: holds ingestion until the schemas of a fetch are here. It is never given up, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import Any, Final

from stream.clock import Clock
from stream.errors import RegistryError
from stream.metrics import Metrics
from stream.registry.schemas import Schemas
from stream.service.health import Health

__all__ = ["SchemaWait"]

logger = logging.getLogger(__name__)
#: How often a wait looks whether its fetch is still wanted.
_NAP_S: Final = 0.1
#: How long until a registry that has not answered is asked again: at first, and at most.
_BACKOFF_S: Final = 0.5
_BACKOFF_MAX_S: Final = 10.0


class SchemaWait:
    """Fetches the schemas that records need before they are decoded. Without ``schemas`` nothing is waited for."""

    def __init__(self, schemas: Schemas | None, metrics: Metrics, health: Health, clock: Clock) -> None:
        self._schemas, self._metrics, self._health, self._clock = schemas, metrics, health, clock
        self._since: float | None = None
        metrics.schema_registry_wait.set_function(self._waited_s)

    async def until_known(self, fetch: Iterable[Collection[Any]], wanted: Callable[[], bool]) -> None:
        """Wait until the schemas of all records of a fetch are known, or until the fetch is no longer ``wanted``.

        A fetch is not wanted once its partitions are given up. A rebalance must not wait for the registry.
        """
        if self._schemas is None or not self._schemas.missing(chain.from_iterable(fetch)):
            return
        fetching = asyncio.ensure_future(self._fetch(self._schemas, list(chain.from_iterable(fetch))))
        try:
            while not fetching.done() and wanted():
                await asyncio.wait({fetching}, timeout=_NAP_S)
            if fetching.done():
                fetching.result()
        finally:
            fetching.cancel()
            self._since = None
            self._health.waits_for("")

    async def _fetch(self, schemas: Schemas, records: Collection[Any]) -> None:
        backoff_s = _BACKOFF_S
        while True:
            try:
                await schemas.fetch(records)
            except RegistryError as error:
                self._metrics.schema_registry_errors.inc()
                self._since = self._clock.monotonic() if self._since is None else self._since
                self._health.waits_for(str(error))
                logger.warning("%s; ingestion waits, asking again in %.1f s", error, backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
            else:
                if self._since is not None:
                    logger.info("the schema registry answers again, ingestion goes on")
                return

    def _waited_s(self) -> float:
        return 0.0 if self._since is None else self._clock.monotonic() - self._since
