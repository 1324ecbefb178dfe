"""What an auditor reads of a chain: the settlement contract's events and storage, over JSON-RPC, with nothing of ours.

Source of events and functions: x402 v2, scheme batch-settlement on EVM; EIP-20; EIP-3009.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import requests

from depai_robot.values.error import RetryableChainError
from depai_robot.values.identity import keccak256

RPC_TIMEOUT_S = 10.0
LOG_BLOCKS_MAX = 1000
"""In one question; public endpoints take between 1,000 and 10,000."""

_EVENTS = {
    keccak256(text.encode()): (text.partition("(")[0], word)
    for text, word in (
        ("Deposited(bytes32,address,uint128,uint128)", 0),
        ("Claimed(bytes32,address,uint128,uint128)", 1),
        ("Refunded(bytes32,address,uint128)", 0),
        ("WithdrawFinalized(bytes32,address,uint128)", 0),
        ("Settled(address,address,address,uint128)", 0),
    )
}
"""Name of each event, and which word of its data is the amount (Claimed: the new total)."""
_AUTHORIZATION_USED = keccak256(b"AuthorizationUsed(address,bytes32)")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the settlement contract.

    Attributes:
        name: Deposited, Claimed, Refunded, WithdrawFinalized or Settled.
        subject: channel, or the receiver's address of a Settled.
        amount: atomic units; of Claimed the new total.
    """

    name: str
    subject: bytes
    amount: int


@dataclass(frozen=True)
class ChainRecord:
    """A chain as an auditor sees it.

    Attributes:
        events: in order.
        channels: (balance, claimed) by channel, from storage; the balance counts what is claimed.
        receivers: (claimed, settled) by receiver, from storage.
        held: tokens that the settlement contract holds.
        used: EIP-3009 nonces that were used, as often as they were.
    """

    events: tuple[Event, ...]
    channels: dict[bytes, tuple[int, int]]
    receivers: dict[bytes, tuple[int, int]]
    held: int
    used: tuple[bytes, ...] = ()

    def total(self, name: str, subject: bytes) -> int:
        """Sum of an event's amounts; of Claimed the last."""
        return self._totals.get((name, subject), 0)

    @cached_property
    def _totals(self) -> dict[tuple[str, bytes], int]:
        totals: dict[tuple[str, bytes], int] = {}
        for item in self.events:
            before = 0 if item.name == "Claimed" else totals.get((item.name, item.subject), 0)
            totals[item.name, item.subject] = before + item.amount
        return totals


class Rpc:
    """Asks one endpoint."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._number = 0

    def ask(self, method: str, *params: Any) -> Any:
        """One answer. Raises RetryableChainError."""
        self._number += 1
        body: Any = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": list(params)}
        try:
            answer = requests.post(self._url, json=body, timeout=RPC_TIMEOUT_S).json()
        except (requests.RequestException, ValueError) as error:
            raise RetryableChainError(f"{method}: no answer: {type(error).__name__}") from error
        if not isinstance(answer, dict) or "result" not in answer:
            raise RetryableChainError(f"{method}: expected a result, got {str(answer)[:200]}")
        return answer["result"]

    def call(self, contract: bytes, signature: str, *words: bytes) -> list[int]:
        """A view's 32-byte words."""
        data = keccak256(signature.encode())[:4] + b"".join(word.rjust(32, b"\0") for word in words)
        result = self.ask(
            "eth_call", {"to": "0x" + contract.hex(), "data": "0x" + data.hex()}, "latest"
        ).removeprefix("0x")
        return [int(result[at : at + 64], 16) for at in range(0, len(result), 64)]


def read_chain(
    url: str, *, settlement: bytes, token: bytes, channels: Iterable[bytes] = (), from_block: int = 0
) -> ChainRecord:
    """Everything of the contract from a block on.

    Args:
        url: of JSON-RPC.
        settlement: address.
        token: address.
        channels: to look at besides those that events name.
        from_block: the first.

    Raises:
        RetryableChainError: no answer.
    """
    rpc = Rpc(url)
    head = int(rpc.ask("eth_blockNumber"), 16)
    events: list[Event] = []
    used: list[bytes] = []
    for first in range(from_block, head + 1, LOG_BLOCKS_MAX):
        last = min(head, first + LOG_BLOCKS_MAX - 1)
        place = {"fromBlock": hex(first), "toBlock": hex(last)}
        for log in rpc.ask("eth_getLogs", place | {"address": "0x" + settlement.hex()}):
            event = decode_log(log["topics"], log["data"])
            if event is not None:
                events.append(event)
        wanted = {"address": "0x" + token.hex(), "topics": ["0x" + _AUTHORIZATION_USED.hex()]}
        used += [_bytes(log["topics"][2]) for log in rpc.ask("eth_getLogs", place | wanted)]
    named = {item.subject for item in events if item.name != "Settled"} | set(channels)
    receivers = {item.subject for item in events if item.name == "Settled"}
    return ChainRecord(
        tuple(events),
        {item: _pair(rpc.call(settlement, "channels(bytes32)", item)) for item in sorted(named)},
        {
            item: _pair(rpc.call(settlement, "receivers(address,address)", item, token))
            for item in sorted(receivers)
        },
        rpc.call(token, "balanceOf(address)", settlement)[0],
        tuple(used),
    )


def decode_log(topics: Sequence[str], data: str) -> Event | None:
    """An event that moves money, or None."""
    name, word = _EVENTS.get(_bytes(topics[0]), ("", 0)) if topics else ("", 0)
    if not name:
        return None
    raw = _bytes(data)
    amount = int.from_bytes(raw[32 * word : 32 * word + 32], "big")
    subject = _bytes(topics[1])
    return Event(name, subject[12:] if name == "Settled" else subject, amount)


def _pair(words: list[int]) -> tuple[int, int]:
    return words[0], words[1]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
