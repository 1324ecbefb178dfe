"""``depai-robot vectors FILE``: recomputes golden vectors of x402 batch-settlement."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from coincurve import PrivateKey

from depai_robot.payment import eip712, x402
from depai_robot.payment.channel import ChannelConfig, Voucher
from depai_robot.payment.signature import recover
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import (
    ADDRESS_ZERO,
    Address,
    ChannelId,
    address_to_hex,
    public_key_to_address,
)

ESCROW_OF_SHAPES_ATOMIC = 100_000
"""The escrow that the file's voucher shapes were judged against: 100,000 is accepted, 100,001 is not."""

Result = tuple[str, str, object, object]
"""(case, what, expected, got)."""


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _sign(secret: str, digest: bytes) -> str:
    signature = PrivateKey(_bytes(secret)).sign_recoverable(digest, hasher=None)
    return _hex(signature[:64] + bytes([signature[64] + 27]))


def _address(secret: str) -> Address:
    return public_key_to_address(PrivateKey(_bytes(secret)).public_key.format(compressed=False))


def check_case(case: dict[str, Any]) -> Iterator[Result]:
    """Every value of one golden case, recomputed from its inputs."""
    name, given, expected = case["id"], case["inputs"], case["expected"]
    keys = given["keys"]
    payer, receiver_authorizer = _address(keys["payer"]), _address(keys["receiverAuthorizer"])
    authorizer_key = {"key": keys.get("payerAuthorizer"), "payer": keys["payer"], "zero": keys["payer"]}[
        given["payerAuthorizerMode"]
    ]
    authorizer = {"zero": ADDRESS_ZERO, "payer": payer}.get(given["payerAuthorizerMode"]) or _address(
        authorizer_key
    )
    config = ChannelConfig(
        payer=payer,
        payer_authorizer=authorizer,
        receiver=Address(_bytes(given["payTo"])),
        receiver_authorizer=receiver_authorizer,
        token=Address(_bytes(given["asset"])),
        withdraw_delay_s=given["withdrawDelay"],
        salt=_bytes(given["channelSalt"]),
    )
    domain = eip712.settlement_domain(given["chainId"])
    token_domain = eip712.domain_separator(
        given["tokenName"], given["tokenVersion"], given["chainId"], config.token
    )
    channel = eip712.channel_id(config, domain)
    ceiling = int(given["chargedCumulativeAmount"]) + int(given["amount"])
    salt = _bytes(given["depositSalt"])
    window = (int(given["validAfter"]), int(given["validBefore"]))
    voucher = eip712.voucher_digest(channel, ceiling, domain)
    receive = eip712.deposit_digest(
        token_domain,
        payer=payer,
        channel=channel,
        amount_atomic=int(given["depositAmount"]),
        valid_after_s=window[0],
        valid_before_s=window[1],
        salt=salt,
    )
    refund = eip712.refund_digest(channel, int(given["refundNonce"]), int(given["refundAmount"]), domain)
    rows = [
        (
            eip712.channel_id(x402.json_to_config(_config(row["voucher"]["channel"])), domain),
            int(row["voucher"]["maxClaimableAmount"]),
            int(row["totalClaimed"]),
        )
        for row in expected["claims"]
    ]
    batch = eip712.claim_batch_digest(rows, domain)
    receive_signature = _sign(keys["payer"], receive)
    pairs: list[tuple[str, object]] = [
        ("settlementDomainSeparator", _hex(domain)),
        ("tokenDomainSeparator", _hex(token_domain)),
        ("channelId", _hex(channel)),
        ("maxClaimableAmount", str(ceiling)),
        ("voucherDigest", _hex(voucher)),
        ("voucherSignature", _sign(authorizer_key, voucher)),
        ("erc3009Nonce", _hex(eip712.deposit_nonce(channel, salt))),
        ("receiveDigest", _hex(receive)),
        ("receiveSignature", receive_signature),
        ("collectorData", _hex(eip712.encode_collector_data(*window, salt, _bytes(receive_signature)))),
        ("refundDigest", _hex(refund)),
        ("refundSignature", _sign(keys["receiverAuthorizer"], refund)),
        ("claimBatchDigest", _hex(batch)),
        ("claimBatchSignature", _sign(keys["receiverAuthorizer"], batch)),
    ]
    for what, got in pairs:
        yield name, what, expected[what], got
    addresses = expected["addresses"]
    yield name, "addresses.payer", addresses["payer"], address_to_hex(payer)
    yield (
        name,
        "addresses.receiverAuthorizer",
        addresses["receiverAuthorizer"],
        address_to_hex(receiver_authorizer),
    )
    if given["payerAuthorizerMode"] == "key":
        yield name, "addresses.payerAuthorizer", addresses["payerAuthorizer"], address_to_hex(authorizer)
    signer = recover(voucher, _bytes(expected["voucherSignature"]))
    yield name, "voucher signer", _hex(_address(authorizer_key)), _hex(signer)
    for what in ("paymentRequired", "depositPaymentPayload", "voucherPaymentPayload", "refundPaymentPayload"):
        form = x402.PaymentRequired if what == "paymentRequired" else x402.PaymentPayload
        decoded = msgspec.convert(expected[what], form)
        yield name, what, expected[what], json.loads(msgspec.json.encode(decoded))


def _config(data: dict[str, Any]) -> x402.ChannelConfigJson:
    return msgspec.convert(data, x402.ChannelConfigJson)


def check_shape(number: int, shape: dict[str, Any]) -> Iterator[Result]:
    """Our verdict on one voucher is the contract's, not a more lenient one."""
    config = x402.json_to_config(_config(shape["channelConfig"]))
    chain_id = 84532  # the shapes are of Base Sepolia; channelId below would differ on any other
    domain = eip712.settlement_domain(chain_id)
    name = f"voucher {number}: {shape['note']}"
    yield name, "channelId", shape["channelId"], _hex(eip712.channel_id(config, domain))
    limits = VoucherLimits(balance_atomic=ESCROW_OF_SHAPES_ATOMIC, total_claimed_atomic=0)
    voucher = Voucher(
        ChannelId(_bytes(shape["channelId"])), int(shape["maxClaimableAmount"]), _bytes(shape["signature"])
    )
    try:
        check_voucher(config, voucher, domain, limits)
        got, reason = "accepted", None
    except VoucherRefusedError as error:
        got, reason = "refused", error.reason
    yield name, "verdict", "accepted" if shape["contractClaim"] == "ok" else "refused", got
    if shape["sdkReason"] is not None:
        yield name, "reason", shape["sdkReason"], reason


def check_file(data: dict[str, Any]) -> Iterator[Result]:
    """Every result of a file of golden vectors."""
    yield "file", "settlement", data["settlement"].lower(), _hex(eip712.SETTLEMENT)
    yield "file", "erc3009Collector", data["erc3009Collector"].lower(), _hex(eip712.DEPOSIT_COLLECTOR)
    for case in data["cases"]:
        yield from check_case(case)
    for number, shape in enumerate(data.get("voucherAcceptance", []), start=1):
        yield from check_shape(number, shape)


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
    passed = failed = 0
    try:
        data = json.loads(file.read_bytes())
        for case, what, expected, got in check_file(data):
            if expected == got:
                passed += 1
                if verbose:
                    click.echo(f"ok    {case} {what} {got}")
            else:
                failed += 1
                click.echo(f"FAIL  {case} {what}\n      expected {expected}\n      got      {got}")
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.MsgspecError, DepaiError) as error:
        click.echo(
            f"error: {file} is not a file of x402 golden vectors: {type(error).__name__}: {error}", err=True
        )
        sys.exit(2)
    click.echo(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
