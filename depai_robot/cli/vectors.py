"""``depai-robot vectors FILE``: recomputes golden vectors of x402 batch-settlement."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec
from coincurve import PrivateKey
from msgspec import UNSET

from depai_robot.payment import eip712, x402
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.payment.signature import SignatureError, recover
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.values.error import ConfigError, DepaiError
from depai_robot.values.identity import (
    ADDRESS_ZERO,
    Address,
    ChannelId,
    address_to_hex,
    public_key_to_address,
)

ESCROW_OF_SHAPES_ATOMIC = 100_000
"""The escrow that the file's voucher shapes were judged against: 100,000 is accepted, 100,001 is not."""
CHAIN_OF_SHAPES = 84532
"""Base Sepolia, where the shapes were judged."""

Result = tuple[str, str, object, object]
"""(case, what, expected, got)."""


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _sign(secret: str, digest: bytes) -> bytes:
    signature = bytes(PrivateKey(_bytes(secret)).sign_recoverable(digest, hasher=None))
    return signature[:64] + bytes([signature[64] + 27])


def _address(secret: str) -> Address:
    return public_key_to_address(PrivateKey(_bytes(secret)).public_key.format(compressed=False))


def _signer(digest: bytes, signature: str) -> str:
    """Who signed, as text: an address, or why there is none."""
    try:
        return address_to_hex(recover(digest, _bytes(signature)))
    except (SignatureError, ValueError) as error:
        return f"nobody: {error}"


def _json(value: object) -> Any:
    """An object as it is after it was written and read as JSON."""
    return json.loads(msgspec.json.encode(value))


def _equal(one: object, other: object) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, the order of keys is none."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@dataclass(frozen=True, slots=True)
class _Case:
    """The inputs of a case as our values, and what they make."""

    config: ChannelConfig
    authorizer_secret: str
    domain: bytes
    token_domain: bytes
    channel: ChannelId
    charged_atomic: int
    ceiling_atomic: int
    receive_digest: bytes
    deposit: DepositAuthorization

    def voucher(self, ceiling_atomic: int) -> Voucher:
        digest = eip712.voucher_digest(self.channel, ceiling_atomic, self.domain)
        return Voucher(self.channel, ceiling_atomic, _sign(self.authorizer_secret, digest))


def _read_case(given: dict[str, Any]) -> _Case:
    keys, mode = given["keys"], given["payerAuthorizerMode"]
    # A zero authorizer means that the payer's own account vouches; in these files it signs with its key.
    secret = keys["payerAuthorizer"] if mode == "key" else keys["payer"]
    if mode not in ("key", "payer", "zero"):
        raise ConfigError(f"payerAuthorizerMode is key, payer or zero, got {mode!r}")
    config = ChannelConfig(
        payer=_address(keys["payer"]),
        payer_authorizer=ADDRESS_ZERO if mode == "zero" else _address(secret),
        receiver=Address(_bytes(given["payTo"])),
        receiver_authorizer=_address(keys["receiverAuthorizer"]),
        token=Address(_bytes(given["asset"])),
        withdraw_delay_s=given["withdrawDelay"],
        salt=_bytes(given["channelSalt"]),
    )
    domain = eip712.settlement_domain(given["chainId"])
    token_domain = eip712.domain_separator(
        given["tokenName"], given["tokenVersion"], given["chainId"], config.token
    )
    channel = eip712.channel_id(config, domain)
    deposit = DepositAuthorization(
        amount_atomic=int(given["depositAmount"]),
        valid_after_s=int(given["validAfter"]),
        valid_before_s=int(given["validBefore"]),
        salt=_bytes(given["depositSalt"]),
        signature=b"",
    )
    digest = eip712.deposit_digest(
        token_domain,
        payer=config.payer,
        channel=channel,
        amount_atomic=deposit.amount_atomic,
        valid_after_s=deposit.valid_after_s,
        valid_before_s=deposit.valid_before_s,
        salt=deposit.salt,
    )
    charged = int(given["chargedCumulativeAmount"])
    return _Case(
        config=config,
        authorizer_secret=secret,
        domain=domain,
        token_domain=token_domain,
        channel=channel,
        charged_atomic=charged,
        ceiling_atomic=charged + int(given["amount"]),
        receive_digest=digest,
        deposit=replace(deposit, signature=_sign(keys["payer"], digest)),
    )


def _compute_digests(case: _Case, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name in the file, value) of every digest, signature and encoding of the case's own inputs."""
    voucher, deposit = case.voucher(case.ceiling_atomic), case.deposit
    refund = eip712.refund_digest(
        case.channel, int(given["refundNonce"]), int(given["refundAmount"]), case.domain
    )
    data = eip712.encode_collector_data(
        deposit.valid_after_s, deposit.valid_before_s, deposit.salt, deposit.signature
    )
    yield "settlementDomainSeparator", _hex(case.domain)
    yield "tokenDomainSeparator", _hex(case.token_domain)
    yield "channelId", _hex(case.channel)
    yield "maxClaimableAmount", str(case.ceiling_atomic)
    yield "voucherDigest", _hex(eip712.voucher_digest(case.channel, case.ceiling_atomic, case.domain))
    yield "voucherSignature", _hex(voucher.signature)
    yield "erc3009Nonce", _hex(eip712.deposit_nonce(case.channel, deposit.salt))
    yield "receiveDigest", _hex(case.receive_digest)
    yield "receiveSignature", _hex(deposit.signature)
    yield "collectorData", _hex(data)
    yield "refundDigest", _hex(refund)
    yield "refundSignature", _hex(_sign(given["keys"]["receiverAuthorizer"], refund))


def _check_claims(case: _Case, given: dict[str, Any], expected: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The claim rows: the first is the case's own, the others are of foreign keys and only checked."""
    rows = []
    for number, row in enumerate(expected["claims"], start=1):
        data = row["voucher"]
        config = x402.json_to_config(msgspec.convert(data["channel"], x402.ChannelConfigJson))
        channel, ceiling = eip712.channel_id(config, case.domain), int(data["maxClaimableAmount"])
        rows.append((channel, ceiling, int(row["totalClaimed"])))
        authorizer = config.payer if config.payer_authorizer == ADDRESS_ZERO else config.payer_authorizer
        digest = eip712.voucher_digest(channel, ceiling, case.domain)
        yield f"claims {number} signer", address_to_hex(authorizer), _signer(digest, row["signature"])
    digest = eip712.claim_batch_digest(rows, case.domain)
    signature = _hex(_sign(given["keys"]["receiverAuthorizer"], digest))
    yield "claimBatchDigest", expected["claimBatchDigest"], _hex(digest)
    yield "claimBatchSignature", expected["claimBatchSignature"], signature
    own = {
        "channel": _json(x402.config_to_json(case.config)),
        "maxClaimableAmount": str(case.ceiling_atomic),
    }
    yield "claims 1 voucher", expected["claims"][0]["voucher"], own
    claim = {"type": "claim", "claims": expected["claims"], "claimAuthorizerSignature": signature}
    yield "claimPayload", expected["claimPayload"], claim
    settle = {
        "type": "settle",
        "receiver": address_to_hex(case.config.receiver),
        "token": address_to_hex(case.config.token),
    }
    yield "settlePayload", expected["settlePayload"], settle


def _check_objects(case: _Case, given: dict[str, Any], expected: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The JSON objects: built from the inputs, and decoded strictly.

    What no input names (resource, maxTimeoutSeconds, minDeposit) is taken from paymentRequired.
    """
    plain = expected["paymentRequired"]
    resource = msgspec.convert(plain["resource"], x402.Resource)
    free = plain["accepts"][0]
    requirements = x402.PaymentRequirements(
        scheme="batch-settlement",
        network=given["network"],
        amount=given["amount"],
        asset=given["asset"],
        pay_to=given["payTo"],
        max_timeout_seconds=free["maxTimeoutSeconds"],
        extra=x402.RequirementsExtra(
            receiver_authorizer=address_to_hex(case.config.receiver_authorizer),
            withdraw_delay=given["withdrawDelay"],
            name=given["tokenName"],
            version=given["tokenVersion"],
            asset_transfer_method=free["extra"].get("assetTransferMethod", UNSET),
            min_deposit=free["extra"].get("minDeposit", UNSET),
        ),
    )
    config = x402.config_to_json(case.config)
    voucher = x402.voucher_to_json(case.voucher(case.ceiling_atomic))
    asked = given.get("refundRequestAmount")
    payloads: dict[str, x402.SchemePayload] = {
        "depositPaymentPayload": x402.DepositPayload(config, voucher, x402.deposit_to_json(case.deposit)),
        "voucherPaymentPayload": x402.VoucherPayload(config, voucher),
        "refundPaymentPayload": x402.RefundPayload(
            config,
            x402.voucher_to_json(case.voucher(case.charged_atomic)),
            UNSET if asked is None else str(asked),
        ),
    }
    yield "network", given["network"], f"eip155:{given['chainId']}"
    yield "channelConfig", expected["channelConfig"], _json(config)
    required = x402.PaymentRequired(x402_version=x402.X402_VERSION, resource=resource, accepts=[requirements])
    yield "paymentRequired", plain, _json(required)
    yield "paymentRequired, decoded", plain, _decode(plain, x402.PaymentRequired)
    for name, payload in payloads.items():
        built = x402.PaymentPayload(
            x402_version=x402.X402_VERSION, accepted=requirements, payload=payload, resource=resource
        )
        yield name, expected[name], _json(built)
        yield f"{name}, decoded", expected[name], _decode(expected[name], x402.PaymentPayload)


def _decode(plain: object, form: type[msgspec.Struct]) -> Any:
    """The object after a strict decoding and writing again; why not, when it does not decode."""
    try:
        return _json(msgspec.convert(plain, form))
    except msgspec.ValidationError as error:
        return f"does not decode: {error}"


def check_case(data: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """(what, expected, got) of every value of one golden case, recomputed from its inputs."""
    given, expected = data["inputs"], data["expected"]
    case = _read_case(given)
    for name, got in _compute_digests(case, given):
        yield name, expected[name], got
    for name, secret in given["keys"].items():
        yield f"addresses.{name}", expected["addresses"][name], address_to_hex(_address(secret))
    signer = address_to_hex(_address(case.authorizer_secret))
    digest = eip712.voucher_digest(case.channel, case.ceiling_atomic, case.domain)
    yield "voucher signer", signer, _signer(digest, expected["voucherSignature"])
    yield from _check_claims(case, given, expected)
    yield from _check_objects(case, given, expected)


def check_shape(shape: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """(what, expected, got): our verdict on one voucher is the contract's, never a more lenient one."""
    config = x402.json_to_config(msgspec.convert(shape["channelConfig"], x402.ChannelConfigJson))
    domain = eip712.settlement_domain(shape.get("chainId", CHAIN_OF_SHAPES))
    channel = eip712.channel_id(config, domain)
    yield "channelId", shape["channelId"], _hex(channel)
    limits = VoucherLimits(balance_atomic=ESCROW_OF_SHAPES_ATOMIC, total_claimed_atomic=0)
    voucher = Voucher(
        ChannelId(_bytes(shape["channelId"])), int(shape["maxClaimableAmount"]), _bytes(shape["signature"])
    )
    reason = None
    try:
        check_voucher(config, voucher, domain, limits)
    except VoucherRefusedError as error:
        reason = error.reason
    verdict = "accepted" if shape["contractClaim"] == "ok" else "refused"
    yield "verdict", verdict, "accepted" if reason is None else "refused"
    if shape.get("sdkReason") is not None:
        yield "reason", shape["sdkReason"], reason


def check_file(data: dict[str, Any]) -> Iterator[Result]:
    """Every result of a file of golden vectors.

    Raises:
        ConfigError: it is not of that form, naming the case.
    """
    name = "file"
    try:
        yield name, "settlement", data["settlement"].lower(), _hex(eip712.SETTLEMENT)
        yield name, "erc3009Collector", data["erc3009Collector"].lower(), _hex(eip712.DEPOSIT_COLLECTOR)
        if not data["cases"]:
            raise ConfigError("no cases, expected at least one")
        for case in data["cases"]:
            name = str(case["id"])
            for what, expected, got in check_case(case):
                yield name, what, expected, got
        for number, shape in enumerate(data.get("voucherAcceptance", []), start=1):
            name = f"voucher {number}: {shape['note']}"
            for what, expected, got in check_shape(shape):
                yield name, what, expected, got
    except KeyError as error:
        raise ConfigError(f"{name}: {error} is missing") from error
    except (LookupError, ValueError, TypeError, AttributeError, msgspec.MsgspecError, DepaiError) as error:
        raise ConfigError(f"{name}: {error}") from error


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Print every value, not only those that differ.")
def vectors(file: Path, *, verbose: bool) -> None:
    """Recompute FILE, golden vectors of x402 batch-settlement, and compare.

    FILE is JSON: {settlement, erc3009Collector, cases: [{id, inputs, expected}], voucherAcceptance: [...]}.
    Every digest, address, signature, ABI encoding and JSON object of each case is recomputed from its inputs; each
    voucher shape gets our verdict, which must be the contract's. Exit code 1 when a value differs, 2 when FILE is
    not of that form.
    """
    try:
        results = list(check_file(json.loads(file.read_bytes())))
    except OSError as error:
        click.echo(f"error: {file}: {error.strerror}", err=True)
        sys.exit(2)
    except (ValueError, RecursionError, DepaiError) as error:
        shown = " ".join(str(error).split())
        click.echo(f"error: {file} is not a file of x402 golden vectors: {shown}", err=True)
        sys.exit(2)
    failed = 0
    for case, what, expected, got in results:
        if not _equal(expected, got):
            failed += 1
            click.echo(f"FAIL  {case}, {what}: expected {expected}, got {got}")
        elif verbose:
            click.echo(f"ok    {case}, {what}: {got}")
    click.echo(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
