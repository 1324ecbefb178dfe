"""Buys from any x402 server over HTTP, by scheme exact, under the owner's policy.

For what a robot needs besides energy, and for stations that speak only HTTP. The same limits as at a dock: the price of
one purchase is a tranche, receivers and days are limited by the policy. A purchase is in the journal, signed bytes
included, before they leave; after a crash or a lost answer the same bytes go out again, never a second payment.
"""

import base64
import binascii
import time
from dataclasses import dataclass, replace

import msgspec
import requests
from msgspec import Struct

from depai_robot.app.http_service import PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE
from depai_robot.app.http_shop import encode_header
from depai_robot.charging.setting import Network
from depai_robot.charging.terms import token_domain
from depai_robot.payment.exact import (
    ExactPaymentPayload,
    TransferAuthorization,
    transfer_digest,
    transfer_to_json,
)
from depai_robot.payment.policy import Exposure, SpendPolicy, Terms, refuse_signature, refuse_terms
from depai_robot.payment.x402 import (
    EXACT,
    X402_VERSION,
    PaymentRequired,
    PaymentRequirements,
    SettleResponse,
    parse_amount,
    parse_bytes,
)
from depai_robot.ports import Journal, Signer
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import Address, keccak256

BUYER_VERSION = 1
DAY_S = 24 * 3600
TIMEOUT_S = 150.0
ANSWER_BYTES_MAX = 1 << 20
VALID_MAX_S = 3600


class Bought(Struct, frozen=True, tag=True):
    """A payment was signed; it has not left.

    Attributes:
        key: of the purchase, chosen by whoever asks: the same key is the same purchase.
        url: of the resource.
        header: PAYMENT-SIGNATURE, the bytes.
        amount_atomic: of it.
        signed_s: wall clock.
    """

    key: str
    url: str
    header: str
    amount_atomic: int
    signed_s: int


class Answered(Struct, frozen=True, tag=True):
    """The server's word on it."""

    key: str
    status: int
    settle: str


_ROW = msgspec.json.Decoder(Bought | Answered)


@dataclass(frozen=True, slots=True)
class Purchase:
    """What came of it.

    Attributes:
        status: HTTP.
        body: of the answer.
        settle: the server's SettleResponse, None when it sent none.
        amount_atomic: signed for it, 0 when nothing had to be paid.
    """

    status: int
    body: bytes
    settle: SettleResponse | None
    amount_atomic: int


class HttpBuyer:
    """One robot's purchases over HTTP.

    Args:
        network: chain and token that it pays on and in.
        policy: the owner's, checked.
        payer: the key that pays.
        journal: of these purchases alone.

    Raises:
        JournalError: it is damaged.
    """

    def __init__(self, network: Network, policy: SpendPolicy, payer: Signer, journal: Journal) -> None:
        self._network, self._policy, self._payer, self._journal = network, policy, payer, journal
        self._bought: dict[str, Bought] = {}
        for row in journal.rows():
            self._fold(_ROW.decode(row.data))

    def _fold(self, row: Bought | Answered) -> None:
        if isinstance(row, Bought):
            self._bought[row.key] = row

    def _write(self, row: Bought | Answered) -> None:
        self._journal.append([msgspec.json.encode(row)], BUYER_VERSION)
        self._fold(row)

    def day_atomic(self, now_s: int) -> int:
        """Signed in the last 24 hours."""
        return sum(row.amount_atomic for row in self._bought.values() if row.signed_s > now_s - DAY_S)

    def buy(self, url: str, key: str, now_s: int | None = None) -> Purchase:
        """Asks, pays once if the policy allows, and returns the answer.

        Args:
            url: of the resource.
            key: the same key is the same purchase, however often it is asked for.
            now_s: wall clock; None for now.

        Raises:
            ConfigError: the policy does not allow it, or the key was used for another address.
            RemoteError: the server does not answer, or not in x402's words.
        """
        now_s = int(time.time()) if now_s is None else now_s
        known = self._bought.get(key)
        if known is not None and known.url != url:
            raise ConfigError(f"purchase {key!r} was one of {known.url}, now {url} is asked for")
        if known is None:
            status, headers, body = _get(url, {})
            if status != 402:
                return Purchase(status, body, None, 0)
            known = self._sign(url, key, _read_required(headers.get(PAYMENT_REQUIRED, "")), now_s)
        status, headers, body = _get(url, {PAYMENT_SIGNATURE: known.header})
        settle = _read_settle(headers.get(PAYMENT_RESPONSE))
        text = headers.get(PAYMENT_RESPONSE, "")
        self._write(Answered(key, status, text[:4096]))
        return Purchase(status, body, settle, known.amount_atomic)

    def _sign(self, url: str, key: str, required: PaymentRequired, now_s: int) -> Bought:
        accepted = self._choose(required, now_s)
        amount = parse_amount(accepted.amount)
        transfer = TransferAuthorization(
            payer=self._payer.address,
            receiver=Address(parse_bytes(accepted.pay_to)),
            amount_atomic=amount,
            valid_after_s=0,
            valid_before_s=now_s + min(accepted.max_timeout_seconds, VALID_MAX_S),
            nonce=self._nonce(url, key),
        )
        signature = self._payer.sign(transfer_digest(token_domain(self._network), transfer))
        signed = replace(transfer, signature=signature)
        payment = ExactPaymentPayload(
            x402_version=X402_VERSION,
            accepted=accepted,
            payload=transfer_to_json(signed),
            resource=required.resource,
        )
        row = Bought(key, url, encode_header(payment), amount, now_s)
        self._write(row)
        return row

    def _nonce(self, url: str, key: str) -> bytes:
        """Unguessable to others, the same for the same purchase: a signature of the payer hashed."""
        secret = self._payer.sign(keccak256(f"depai http purchase\n{url}\n{key}".encode()))
        return keccak256(secret)

    def _choose(self, required: PaymentRequired, now_s: int) -> PaymentRequirements:
        """The first way to pay that this robot can use and its policy allows."""
        reasons = []
        for accepted in required.accepts:
            refused = self._refuse(accepted, now_s)
            if not refused:
                return accepted
            reasons.append(f"{accepted.scheme} on {accepted.network}: {refused}")
        raise ConfigError(f"not bought at {required.resource.url}: " + "; ".join(reasons))

    def _refuse(self, accepted: PaymentRequirements, now_s: int) -> str:
        network = self._network
        for name, seen, expected in (
            ("scheme", accepted.scheme, EXACT),
            ("network", accepted.network, network.caip2),
            ("asset", accepted.asset.lower(), "0x" + network.token.hex()),
            ("token name", accepted.extra.name, network.token_name),
            ("token version", accepted.extra.version, network.token_version),
        ):
            if seen != expected:
                return f"{name} {seen}, this robot pays {expected}"
        amount = parse_amount(accepted.amount)
        exposure = Exposure(day_atomic=self.day_atomic(now_s))
        terms = Terms(Address(parse_bytes(accepted.pay_to)), 0, 0, amount, 0, 0)
        return (
            refuse_terms(self._policy, terms, exposure, now_s)
            or refuse_signature(self._policy, exposure, rise_atomic=amount, ahead_atomic=amount, now_s=now_s)
            or ""
        )


def _get(url: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    try:
        with requests.get(
            url, headers=headers, timeout=TIMEOUT_S, allow_redirects=False, stream=True
        ) as response:
            body = response.raw.read(ANSWER_BYTES_MAX, decode_content=True)
            return response.status_code, {k.upper(): v for k, v in response.headers.items()}, body
    except (requests.RequestException, OSError) as error:
        raise RemoteError(f"{url}: {type(error).__name__}: {error}"[:300]) from error


def _read_required(header: str) -> PaymentRequired:
    try:
        return msgspec.json.decode(base64.b64decode(header, validate=True), type=PaymentRequired)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise RemoteError(f"the server's {PAYMENT_REQUIRED} is none: {error}"[:300]) from error


def _read_settle(header: str | None) -> SettleResponse | None:
    if not header:
        return None
    try:
        return msgspec.json.decode(base64.b64decode(header, validate=True), type=SettleResponse)
    except (binascii.Error, ValueError, RecursionError):
        return None
