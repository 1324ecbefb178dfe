"""A charging station that sells over HTTP: the block shop and the metered counter on one station's parts."""

import logging
import threading
from typing import Any

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.http_service import make_service
from depai_robot.app.http_shop import BlockShop, require_shop_url
from depai_robot.app.http_tab import TabCounter
from depai_robot.app.station import StationParts
from depai_robot.values.error import ConfigError, DepaiError, DeviceError
from depai_robot.values.identity import address_to_hex

LOG = logging.getLogger(__name__)

TEND_S = 5.0
"""Between two looks at what is due and at withdrawals; the shortest withdraw delay is 15 minutes."""


class HttpStation:
    """Runs until :meth:`stop`.

    Args:
        parts: of the station; its broker and journal are not used.
        listen: address and port.
        base_url: where buyers see it; None for ``http://`` and ``listen``.

    Raises:
        ConfigError: the extra is not installed, or the address is none.
        JournalError: a journal is damaged or held by another process.
    """

    def __init__(self, parts: StationParts, listen: str, base_url: str | None = None) -> None:
        try:
            import waitress
        except ImportError as error:
            raise ConfigError("energy over HTTP needs the extra: pip install 'depai_robot[http]'") from error
        settings = parts.settings
        self._parts = parts
        self.name = settings.station
        url = require_shop_url(base_url or f"http://{listen}")
        owner = address_to_hex(settings.identity)
        gates = {number: threading.Lock() for number in parts.connectors}
        self._journals = [SqliteJournal(parts.folder / f"tab-{self.name}.sqlite", owner)]
        self._counter = TabCounter(
            settings, dict(parts.connectors), parts.chain, self._journals[0], base_url=url, gates=gates
        )
        self._shop: BlockShop | None = None
        if settings.block_milliwh:
            self._journals.append(SqliteJournal(parts.folder / f"shop-{self.name}.sqlite", owner))
            self._shop = BlockShop(
                settings, dict(parts.connectors), parts.chain, self._journals[1], url, gates=gates
            )
        self._stopping = threading.Event()
        self._server: Any = waitress.create_server(
            make_service(self._shop, self._counter), listen=listen, threads=8
        )
        self._tender = threading.Thread(target=self._tend, name="tend", daemon=True)

    @property
    def urls(self) -> list[str]:
        """What is sold on the first connector."""
        return [self._counter.url_of(1)] + ([] if self._shop is None else [self._shop.url_of(1)])

    def resume(self) -> int:
        """Ends what a stop interrupted; returns how many. The meters are read before a block lets power flow."""
        return self._counter.resume() + (0 if self._shop is None else self._shop.resume())

    def serve(self) -> None:
        """Blocks until :meth:`stop`."""
        self._tender.start()
        try:
            self._server.run()
        except OSError:
            if not self._stopping.is_set():
                raise

    def _tend(self) -> None:
        while not self._stopping.wait(TEND_S):
            try:
                self._counter.tend()
            except DepaiError as error:
                LOG.warning("what is due is not claimed yet: %s", error)

    def stop(self) -> None:
        """Takes no more requests."""
        self._stopping.set()
        self._server.close()

    def close(self) -> None:
        """Power off; what is under way goes on at the next start."""
        self._stopping.set()
        for number, contactor in self._parts.connectors.items():
            try:
                contactor.deenergise()
            except DeviceError as error:
                LOG.warning("connector %d: %s", number, error)
        self._server.task_dispatcher.shutdown()
        for journal in self._journals:
            journal.close()
        self._parts.journal.close()
        if self._parts.key_lock is not None:
            self._parts.key_lock.release()
