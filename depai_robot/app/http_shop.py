"""Energy over HTTP: x402's own transport, for buyers that speak no MQTT. One request buys one block (scheme exact).

Thin: what is asked for and what is accepted are the station's own rules (``charging.terms``, ``payment.exact``). What a
request changes is in a journal before it happens: the payment before its transaction leaves, the confirmation before
power flows. The same payment again gets the same answer; nothing is sold twice or paid twice.

Source: x402 v2, transport HTTP: PAYMENT-REQUIRED, PAYMENT-SIGNATURE and PAYMENT-RESPONSE carry base64 of JSON.
"""

import base64
import binascii
import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct

from depai_robot.app.chain_worker import wish_to_call
from depai_robot.charging.effect import TransferWish
from depai_robot.charging.message import MESSAGE_BYTES_MAX
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.terms import (
    block_price_atomic,
    build_block_need,
    build_block_requirements,
    build_failure,
    build_transfer_success,
    token_domain,
)
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.exact import (
    ExactPaymentPayload,
    TransferAuthorization,
    TransferRefusedError,
    check_transfer,
    json_to_transfer,
)
from depai_robot.payment.x402 import (
    PaymentPayload,
    PaymentRequired,
    Resource,
    SettleResponse,
    X402Object,
)
from depai_robot.ports import Chain, Contactor, Journal, Meter, SignedTransaction, TransactionStatus
from depai_robot.values.error import ConfigError, DepaiError, DeviceError, FinalChainError
from depai_robot.values.identity import Address

LOG = logging.getLogger(__name__)

SHOP_VERSION = 1
POLL_S = 0.1
CONFIRM_S = 120.0
REASON_STATE = "invalid_transaction_state"


class Taken(Struct, frozen=True, tag=True):
    """A payment was judged good, and its transaction has its bytes; neither has left.

    Attributes:
        connector: number.
        nonce: of the transfer.
        payer: address.
        amount_atomic: paid.
        energy_milliwh: bought.
        raw, tx_hash, tx_nonce: the transaction.
    """

    connector: int
    nonce: bytes
    payer: bytes
    amount_atomic: int
    energy_milliwh: int
    raw: bytes
    tx_hash: bytes
    tx_nonce: int


class Paid(Struct, frozen=True, tag=True):
    """The transaction is deep enough. ``until_milliwh``: power flows until the register reads that."""

    nonce: bytes
    until_milliwh: int


class Failed(Struct, frozen=True, tag=True):
    """The transaction was refused or reverted."""

    nonce: bytes
    reason: str


_ROW = msgspec.json.Decoder(Taken | Paid | Failed)

P = TypeVar("P", PaymentPayload, ExactPaymentPayload)


class ShopConnector(Contactor, Meter, Protocol):
    """What the shop needs of a connector's hardware."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request.

    Attributes:
        status: HTTP.
        required: for 402.
        settle: for a payment, good or bad.
        body: for the buyer.
    """

    status: int
    required: PaymentRequired | None = None
    settle: SettleResponse | None = None
    body: dict[str, object] | None = None


def encode_header(value: X402Object) -> str:
    """Base64 of the JSON, as x402's headers carry it."""
    return base64.b64encode(msgspec.json.encode(value)).decode()


def decode_payment(header: str, kind: type[P]) -> P:
    """The payment in a PAYMENT-SIGNATURE header.

    Args:
        header: its text.
        kind: of the scheme that is sold by.

    Raises:
        TransferRefusedError: too long, no base64, or not of the scheme.
    """
    if len(header) > MESSAGE_BYTES_MAX:
        raise TransferRefusedError("invalid_payload", f"{len(header)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        return msgspec.json.decode(base64.b64decode(header, validate=True), type=kind)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TransferRefusedError("invalid_payload", str(error)[:300]) from error


class BlockShop:
    """Sells blocks on a station's connectors.

    Args:
        settings: the station's; ``block_milliwh`` must be set.
        connectors: hardware by number.
        chain: with the receiver's account.
        journal: of the shop alone.
        base_url: where buyers see it.
        gates: one lock a connector, shared with whoever else sells on it.

    Raises:
        ConfigError: the station sells no blocks.
        JournalError: the journal is damaged.
    """

    def __init__(
        self,
        settings: StationSettings,
        connectors: dict[int, ShopConnector],
        chain: Chain,
        journal: Journal,
        base_url: str,
        *,
        gates: dict[int, threading.Lock] | None = None,
    ) -> None:
        if not settings.block_milliwh:
            raise ConfigError("settings.block_milliwh is 0: this station sells no blocks of energy")
        self._settings, self._connectors, self._chain, self._journal = settings, connectors, chain, journal
        self._base_url = base_url.rstrip("/")
        self._lock = threading.Lock()
        self._gates = gates or {number: threading.Lock() for number in connectors}
        self._price = block_price_atomic(settings, settings.price_atomic_per_kwh)
        self._taken: dict[bytes, Taken] = {}
        self._end: dict[bytes, Paid | Failed] = {}
        for row in journal.rows():
            self._fold(_ROW.decode(row.data))

    def _fold(self, row: Taken | Paid | Failed) -> None:
        if isinstance(row, Taken):
            self._taken[row.nonce] = row
        else:
            self._end[row.nonce] = row

    def _write(self, row: Taken | Paid | Failed) -> None:
        self._journal.append([msgspec.json.encode(row)], SHOP_VERSION)
        self._fold(row)

    def resume(self) -> int:
        """Brings what a stop interrupted to its end: the same bytes again, then power. Returns how many there were."""
        self._chain.check_pins()
        open_rows = [row for nonce, row in self._taken.items() if nonce not in self._end]
        with self._lock:
            for row in open_rows:
                self._settle(row)
        return len(open_rows)

    def url_of(self, connector: int) -> str:
        """Where a block on that connector is bought."""
        return f"{self._base_url}/connectors/{connector}/block"

    def offer(self, connector: int, error: str = "") -> Answer:
        """402: what a block costs, and how it is paid."""
        if connector not in self._connectors:
            return Answer(
                404, body={"error": f"no connector {connector}, there are {sorted(self._connectors)}"}
            )
        need = build_block_need(self._settings, connector, self._price)
        resource = Resource(
            url=self.url_of(connector),
            description=f"{self._settings.block_milliwh} mWh at connector {connector} of {self._settings.name}",
            mime_type="application/json",
        )
        required = msgspec.structs.replace(need, resource=resource, error=error or UNSET)
        return Answer(402, required=required, body={"error": error or "payment required"})

    def buy(self, connector: int, header: str, now_s: int | None = None) -> Answer:
        """A request with a payment.

        Args:
            connector: number.
            header: PAYMENT-SIGNATURE.
            now_s: wall clock; None for now.
        """
        if connector not in self._connectors:
            return self.offer(connector)
        try:
            payment = decode_payment(header, ExactPaymentPayload)
            transfer = self._judge(payment, int(time.time()) if now_s is None else now_s)
        except TransferRefusedError as error:
            LOG.info("payment refused: %s", error)
            return self._refuse(connector, error.reason)
        if not self._gates[connector].acquire(blocking=False):
            return Answer(
                409, body={"error": f"connector {connector} serves somebody else: nothing was taken"}
            )
        try:
            with self._lock:
                return self._sell(connector, transfer)
        finally:
            self._gates[connector].release()

    def _judge(self, payment: ExactPaymentPayload, now_s: int) -> TransferAuthorization:
        if payment.accepted != build_block_requirements(self._settings, self._price):
            raise TransferRefusedError("invalid_payment_requirements", "not those that were asked for")
        transfer = json_to_transfer(payment.payload)
        if transfer.nonce in self._taken:
            return transfer
        check_transfer(
            transfer,
            token_domain(self._settings.network),
            receiver=Address(self._settings.receiver),
            amount_atomic=self._price,
            now_s=now_s,
        )
        return transfer

    def _refuse(self, connector: int, reason: str) -> Answer:
        offer = self.offer(connector, reason)
        failure = build_failure(self._settings.network, reason)
        return Answer(offer.status, offer.required, failure, offer.body)

    def _sell(self, connector: int, transfer: TransferAuthorization) -> Answer:
        known = self._taken.get(transfer.nonce)
        if known is not None:
            same = (known.connector, known.payer, known.amount_atomic) == (
                connector,
                bytes(transfer.payer),
                transfer.amount_atomic,
            )
            if not same:
                return self._refuse(connector, REASON_STATE)
            if known.nonce not in self._end:
                self._settle(known)  # unknown was not failed: ask on, with the same bytes
            return self._answer(known)
        if not self._connectors[connector].present():
            return Answer(409, body={"error": f"nothing is on connector {connector}: nothing was taken"})
        wish = TransferWish(
            payer=bytes(transfer.payer),
            receiver=bytes(transfer.receiver),
            amount_atomic=transfer.amount_atomic,
            valid_after_s=transfer.valid_after_s,
            valid_before_s=transfer.valid_before_s,
            nonce=transfer.nonce,
            signature=transfer.signature,
        )
        network = self._settings.network
        try:
            signed = self._chain.prepare(
                wish_to_call(wish, settlement_domain(network.chain_id, network.settlement))
            )
        except FinalChainError as error:
            reason = "insufficient_funds" if "balance" in str(error) else REASON_STATE
            return self._refuse(connector, reason)
        except DepaiError as error:
            return Answer(503, body={"error": f"the chain does not serve: {error}"[:300]})
        row = Taken(
            connector,
            transfer.nonce,
            bytes(transfer.payer),
            transfer.amount_atomic,
            self._settings.block_milliwh,
            signed.raw,
            signed.tx_hash,
            signed.nonce,
        )
        self._write(row)
        self._settle(row)
        return self._answer(row)

    def _settle(self, row: Taken) -> None:
        """Sends the bytes, waits until they are deep enough, lets power flow. Unknown is not failed."""
        transaction = SignedTransaction(row.raw, row.tx_hash, row.tx_nonce)
        deadline = time.monotonic() + CONFIRM_S
        sent = False
        while time.monotonic() < deadline:
            try:
                if not sent:
                    self._chain.broadcast(transaction)
                    sent = True
                outcome = self._chain.outcome(row.tx_hash, self._settings.confirmations)
            except FinalChainError as error:
                self._write(Failed(row.nonce, str(error)[:300]))
                return
            except DepaiError as error:
                LOG.warning("transfer 0x%s: %s", row.nonce.hex(), error)
                time.sleep(POLL_S)
                continue
            if outcome.status is TransactionStatus.CONFIRMED:
                if any(event.name == "AuthorizationUsed" for event in outcome.events):
                    self._deliver(row)
                else:
                    self._write(Failed(row.nonce, "confirmed without its event"))
                return
            if outcome.status is TransactionStatus.REVERTED:
                self._write(Failed(row.nonce, "reverted"))
                return
            if outcome.status is TransactionStatus.UNKNOWN:
                sent = False
            time.sleep(POLL_S)

    def _deliver(self, row: Taken) -> None:
        """Another block on top of what is still flowing, else from where the register stands."""
        connector = self._connectors[row.connector]
        register = connector.read().energy_milliwh
        running = [
            end.until_milliwh
            for nonce, end in self._end.items()
            if isinstance(end, Paid) and self._taken[nonce].connector == row.connector
        ]
        until = max([register, *running]) + row.energy_milliwh
        self._write(Paid(row.nonce, until))
        try:
            connector.energise(float(self._settings.power_max_w), until)
        except DeviceError:
            # Paid and not delivered: the operator owes this buyer; the journal says whom and how much.
            LOG.exception("connector %s does not follow", row.connector)

    def _answer(self, row: Taken) -> Answer:
        end = self._end.get(row.nonce)
        network = self._settings.network
        if end is None:
            return Answer(
                503, body={"error": "the transfer is not confirmed yet: ask again with the same payment"}
            )
        if isinstance(end, Failed):
            return self._refuse(row.connector, REASON_STATE)
        settle = build_transfer_success(network, row.payer, row.amount_atomic, row.tx_hash)
        reading = self._connectors[row.connector].read()
        body: dict[str, object] = {
            "station": self._settings.station,
            "connector": row.connector,
            "energy_milliwh": row.energy_milliwh,
            "price_atomic": row.amount_atomic,
            "register_milliwh": reading.energy_milliwh,
            "until_milliwh": end.until_milliwh,
        }
        return Answer(200, settle=settle, body=body)


def require_shop_url(url: str) -> str:
    """An address that buyers can use. Raises ConfigError."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"base URL must begin with http:// or https://, got {url!r}")
    return url
