"""amqtt as a program: ``python -m depai_robot.adapters.amqtt_broker PORT``, on loopback, for everybody.

Started by :mod:`depai_robot.adapters.broker_process` where mosquitto is not installed. Keeps nothing on disk.
"""

import asyncio
import logging
import signal
import sys

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

HOST = "127.0.0.1"


class EverybodyAuthPlugin(BaseAuthPlugin):  # type: ignore[misc]
    """Lets everybody in, as somebody: amqtt's own anonymous plugin forgets the sessions of who is away."""

    async def authenticate(self, *, session: Session) -> bool:  # noqa: ARG002 - amqtt names it
        """Always."""
        return True


async def serve(port: int) -> None:
    """Until SIGTERM or SIGINT."""
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"depai_robot.adapters.amqtt_broker.EverybodyAuthPlugin": {}},
        }
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(int(sys.argv[1])))
