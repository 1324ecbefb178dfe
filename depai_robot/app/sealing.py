"""Signs what leaves: messages, payments, receipts; and keeps receipts and evidence in files."""

import base64
import os
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.charging import effect as wish
from depai_robot.charging import envelope
from depai_robot.charging.message import BlockPayment, Draft, Payment
from depai_robot.payment.x402 import DepositPayload, bytes_to_text
from depai_robot.ports import Signer
from depai_robot.values.error import BugError
from depai_robot.values.identity import keccak256


class Sealer:
    """Signs messages with the identity key, and payments with the voucher and payer keys besides."""

    def __init__(self, chain_id: int, identity: Signer, voucher: Signer | None, payer: Signer | None) -> None:
        self._header = envelope.encode_header(identity.public_key, chain_id)
        self._identity, self._voucher, self._payer = identity, voucher, payer

    def seal(self, draft: Draft) -> str:
        """The token of a draft."""
        signing_input = envelope.encode_signing_input(draft, self._header)
        return envelope.assemble(signing_input, self._identity.sign(envelope.signing_digest(signing_input)))

    def seal_bytes(self, data: bytes) -> str:
        """A compact JWS over any bytes, with the same header as messages. For files, never for the wire."""
        payload = base64.urlsafe_b64encode(data).rstrip(b"=")
        signing_input = self._header.encode() + b"." + payload
        return envelope.assemble(signing_input, self._identity.sign(envelope.signing_digest(signing_input)))

    def seal_payment(self, payment: wish.SealPayment) -> str:
        """The token of a payment, with its voucher (and deposit) signed.

        Raises:
            BugError: there is no key for it, or the draft is no payment.
        """
        body = payment.draft.body
        if not isinstance(body, Payment) or self._voucher is None:
            raise BugError("a payment is sealed by whoever holds a voucher key")
        inner = body.payload.payload
        signature = bytes_to_text(self._voucher.sign(payment.voucher_digest))
        signed: Any = msgspec.structs.replace(
            inner, voucher=msgspec.structs.replace(inner.voucher, signature=signature)
        )
        if payment.deposit_digest is not None:
            signed = self._with_deposit(signed, payment.deposit_digest)
        payload = msgspec.structs.replace(body.payload, payload=signed)
        return self.seal(msgspec.structs.replace(payment.draft, body=Payment(payload)))

    def seal_transfer(self, payment: wish.SealTransfer) -> str:
        """The token of a payment of scheme exact, with its transfer signed.

        Raises:
            BugError: the payer's key is not here, or the draft is no such payment.
        """
        body = payment.draft.body
        if not isinstance(body, BlockPayment) or self._payer is None:
            raise BugError("a transfer is sealed by whoever holds the payer key")
        signature = bytes_to_text(self._payer.sign(payment.transfer_digest))
        inner = msgspec.structs.replace(body.payload.payload, signature=signature)
        payload = msgspec.structs.replace(body.payload, payload=inner)
        return self.seal(msgspec.structs.replace(payment.draft, body=BlockPayment(payload)))

    def _with_deposit(self, payload: Any, digest: bytes) -> DepositPayload:
        if not isinstance(payload, DepositPayload) or self._payer is None:
            raise BugError("a deposit is sealed by whoever holds the payer key")
        authorization = payload.deposit.authorization
        inner = msgspec.structs.replace(
            authorization.erc3009_authorization, signature=bytes_to_text(self._payer.sign(digest))
        )
        deposit = msgspec.structs.replace(
            payload.deposit,
            authorization=msgspec.structs.replace(authorization, erc3009_authorization=inner),
        )
        return msgspec.structs.replace(payload, deposit=deposit)


class Keeper:
    """Writes receipts and evidence where people find them; each file whole or not at all."""

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._sealer = sealer

    def keep_receipt(self, receipt: wish.KeepReceipt) -> None:
        """``receipt-<session>.json``, canonical, and ``.jws``: the same bytes signed by the identity key."""
        data = receipt.receipt.encode()
        self._write(f"receipt-{receipt.session}.jws", self._sealer.seal_bytes(data).encode() + b"\n")
        self._write(f"receipt-{receipt.session}.json", data + b"\n")

    def keep_evidence(self, evidence: wish.KeepEvidence) -> None:
        """``evidence-<session>-<digest>.json``: the rule and the signed messages; the receipt names the digest."""
        body = {"session": evidence.session, "reason": evidence.reason, "tokens": list(evidence.tokens)}
        digest = keccak256("\n".join((evidence.reason, *evidence.tokens)).encode()).hex()
        self._write(
            f"evidence-{evidence.session}-{digest[:16]}.json",
            msgspec.json.format(msgspec.json.encode(body), indent=2),
        )

    def _write(self, name: str, data: bytes) -> None:
        if (self._folder / name).exists():
            return  # kept before a crash; a name stands for its content
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{name}.part"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)
