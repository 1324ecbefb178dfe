"""What an owner does at its desk, off the robot: check and replace policies, pre-sign deposits and take them back."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depai_robot.adapters.keystore_signer import read_keystore_address
from depai_robot.app.config import (
    ChainPart,
    KeyPart,
    NetworkFile,
    addresses,
    read_network,
    read_wallet,
    resolve,
)
from depai_robot.app.part import open_chain, open_signer
from depai_robot.app.policy_draft import widened
from depai_robot.app.policy_epoch import read_seen
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization
from depai_robot.payment.eip712 import cancellation_digest
from depai_robot.payment.policy import PolicyFile, SpendPolicy, parse_policy, policy_digest, read_policy_file
from depai_robot.payment.presigned import (
    DepositPlace,
    Presigned,
    format_presigned,
    presigned_digest,
    read_presigned,
    total_atomic,
    verify_presigned,
)
from depai_robot.payment.signature import SignatureError, recover
from depai_robot.ports import CancelCall, Chain, Signer, TransactionStatus
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ChainError, ConfigError, FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, address_from_hex, address_to_hex
from depai_robot.values.money import format_usdc

DAY_S = 86_400
CONFIRM_S = 300.0
POLL_S = 0.5


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all; signed files are for their owner's eyes and no secret (0644 by the umask)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}") from error


# --- policies -----------------------------------------------------------------------------------------------


def replace_policy(path: Path, policy: SpendPolicy) -> list[str]:
    """What changes against the file that is replaced.

    Raises:
        ConfigError: the file's policy is of the same robot, and the new epoch is not higher.
    """
    if not path.exists():
        return []
    try:
        before, _ = read_policy_file(path.read_bytes())
    except ConfigError as error:
        return [f"replaces {path}, which is not read: {error}"]
    if before.robot != policy.robot:
        raise ConfigError(
            f"{path} is the policy of another robot {address_to_hex(before.robot)}: name another --output"
        )
    if policy.epoch <= before.epoch:
        raise ConfigError(
            f"{path} has epoch {before.epoch}: the new one needs {before.epoch + 1} or more, or the robot could be"
            " given the old one again"
        )
    names = widened(before, policy)
    return [f"replaces       epoch {before.epoch}; widens {', '.join(names) if names else 'nothing'}"]


def signer_of(policy: SpendPolicy, text: PolicyFile) -> str:
    """Who signed, in words; the owner that a file names is a claim."""
    try:
        seen = recover(policy_digest(policy, text.chain_id), bytes.fromhex(text.signature.removeprefix("0x")))
    except (SignatureError, ValueError) as error:
        return f"nobody: {error}"
    if address_to_hex(seen).lower() != text.owner.lower():
        return f"NOBODY that it names: {address_to_hex(seen)} fits the signature, the file names {text.owner}"
    return f"{address_to_hex(seen)}; check that this is the owner: anybody can sign for himself"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a robot compares a policy with.

    Attributes:
        owner, robot: addresses.
        chain_id: EIP-155.
        epoch_min: highest epoch that it has seen.
    """

    owner: Address
    robot: Address
    chain_id: int
    epoch_min: int = 0


def expectation(owner: str, robot: str, network: str) -> Expectation:
    """From the command line. Raises ConfigError."""
    return Expectation(address_from_hex(owner), address_from_hex(robot), _network(network).chain_id)


def expectation_of(config: Path) -> Expectation:
    """Of a robot, by its configuration; a keystore is asked for its address only, no passphrase is needed."""
    file = read_wallet(config)
    chain_id = read_network(file.chain, config).chain_id
    (owner,) = addresses([file.owner])
    seen = read_seen(resolve(config, file.folder))
    robot = key_address("keys.voucher", file.keys.voucher, config, chain_id)
    return Expectation(owner, robot, chain_id, 0 if seen is None else seen.epoch)


def key_address(name: str, key: KeyPart, beside: Path, chain_id: int) -> Address:
    """The address of a configured key without a passphrase, where that is possible. Raises ConfigError."""
    if key.keystore is not None:
        return read_keystore_address(resolve(beside, key.keystore))
    if key.development is not None:
        return DevelopmentSigner(key.development).address
    return open_signer(name, key, beside, chain_id).address


def verify_policy(data: bytes, expected: Expectation) -> Iterator[str]:
    """Lines of a pass.

    Raises:
        ConfigError: the reason of a fail.
    """
    policy = parse_policy(
        data,
        chain_id=expected.chain_id,
        owner=expected.owner,
        robot=expected.robot,
        epoch_min=expected.epoch_min,
    )
    now_s = int(time.time())
    if not policy.valid_after_s <= now_s < policy.valid_before_s:
        raise ConfigError(
            f"it is valid from {policy.valid_after_s} to {policy.valid_before_s}, now is {now_s}"
        )
    yield f"pass: signed by the owner {address_to_hex(expected.owner)} for robot {address_to_hex(expected.robot)}"
    yield f"on chain {expected.chain_id}, epoch {policy.epoch} (the robot has seen {expected.epoch_min})"


# --- pre-signed deposits ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PresignOrder:
    """What the treasury shall sign.

    Attributes:
        policy: of the robot, the signed file's bytes.
        network: its name.
        station, receiver_authorizer: addresses in the station's quotes.
        name: of the station, for people.
        withdraw_delay_s: of the channel, as in the station's quotes.
        amount_atomic: of each deposit.
        count: deposits.
        valid_days: from now; never beyond the policy.
        one_channel: all into one, or one each.
    """

    policy: bytes
    network: str
    station: str
    receiver_authorizer: str
    name: str
    withdraw_delay_s: int
    amount_atomic: int
    count: int
    valid_days: int
    one_channel: bool


def place_of(network: NetworkFile) -> DepositPlace:
    """Chain, token and contracts of a network."""
    return DepositPlace(
        network.chain_id,
        address_from_hex(network.token),
        network.token_name,
        network.token_version,
        address_from_hex(network.settlement),
        address_from_hex(network.collector),
    )


def _network(name: str) -> NetworkFile:
    return read_network(ChainPart(network=name), Path("--network"))


def add_presigned(path: Path, order: PresignOrder, treasury: Signer) -> tuple[int, int]:
    """Signs, checks each as the robot will, and adds them to the file.

    Returns:
        Deposits in the file, and the sum of those that have not expired, atomic.

    Raises:
        ConfigError: the policy does not allow such a deposit, or is of another chain; nothing is written.
    """
    network = _network(order.network)
    place = place_of(network)
    policy, text = read_policy_file(order.policy)
    parse_policy(
        order.policy, chain_id=network.chain_id, owner=address_from_hex(text.owner), robot=policy.robot
    )
    before = read_presigned(path.read_bytes(), place=place) if path.exists() else ()
    now_s = int(time.time())
    until_s = min(now_s + order.valid_days * DAY_S, policy.valid_before_s)
    if until_s <= now_s:
        raise ConfigError(f"the policy has expired: it was valid until {policy.valid_before_s}")
    shared = secrets.token_bytes(32)
    made = []
    for _ in range(order.count):
        channel = ChannelConfig(
            payer=treasury.address,
            payer_authorizer=policy.robot,
            receiver=address_from_hex(order.station),
            receiver_authorizer=address_from_hex(order.receiver_authorizer),
            token=place.token,
            withdraw_delay_s=order.withdraw_delay_s,
            salt=shared if order.one_channel else secrets.token_bytes(32),
        )
        deposit = DepositAuthorization(
            order.amount_atomic, now_s - 60, until_s, secrets.token_bytes(32), bytes(65)
        )
        deposit = replace(deposit, signature=treasury.sign(presigned_digest(place, channel, deposit)))
        item = Presigned(order.name, channel, deposit)
        verify_presigned(item, place=place, payer=treasury.address, voucher_key=policy.robot, policy=policy)
        made.append(item)
    items = (*before, *made)
    if any(item.channel.payer != treasury.address for item in before):
        raise ConfigError(f"{path} holds deposits of another treasury: name another --output")
    write_file(path, format_presigned(items, place))
    return len(items), total_atomic(items, now_s=now_s)


def _read_deposits(path: Path, network: NetworkFile) -> tuple[Presigned, ...]:
    try:
        return read_presigned(path.read_bytes(), place=place_of(network))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _chain(network: NetworkFile, rpc_urls: Sequence[str], signer: Signer | None) -> Chain:
    from msgspec.structs import replace as with_fields

    chain = open_chain(with_fields(network, rpc_urls=list(rpc_urls)), signer, Path("command line"))
    chain.check_pins()
    return chain


def list_presigned(path: Path, network_name: str, rpc_urls: Sequence[str]) -> Iterator[str]:
    """One line a deposit. Raises ConfigError."""
    network = _network(network_name)
    place = place_of(network)
    chain = _chain(network, rpc_urls, None) if rpc_urls else None
    now_s = int(time.time())
    for number, item in enumerate(_read_deposits(path, network), 1):
        left_s = item.deposit.valid_before_s - now_s
        state = f"{left_s // 3600} h left" if left_s > 0 else "expired"
        if chain is not None and chain.authorization_used(item.channel.payer, item.nonce(place)):
            state = "used or cancelled"
        yield (
            f"{number:4}  {format_usdc(item.deposit.amount_atomic)}  {item.station}"
            f"  {address_to_hex(item.channel.receiver)}  channel 0x{place.channel_id(item.channel).hex()[:12]}  {state}"
        )


def cancellations(
    path: Path, network_name: str, numbers: Sequence[int], treasury: Signer
) -> list[tuple[int, CancelCall]]:
    """Signed cancellations of deposits of a file, all of them when no number is named.

    Raises:
        ConfigError: no such number, or another treasury's deposit.
    """
    network = _network(network_name)
    place = place_of(network)
    items = _read_deposits(path, network)
    wrong = [number for number in numbers if not 1 <= number <= len(items)]
    if wrong:
        raise ConfigError(f"{path} has deposits 1 to {len(items)}, not {wrong[0]}")
    calls = []
    for number in numbers or range(1, len(items) + 1):
        item = items[number - 1]
        if item.channel.payer != treasury.address:
            raise ConfigError(
                f"deposit {number} is of payer {address_to_hex(item.channel.payer)}, the key is"
                f" {address_to_hex(treasury.address)}"
            )
        nonce = item.nonce(place)
        digest = cancellation_digest(place.token_domain(), treasury.address, nonce)
        calls.append((number, CancelCall(treasury.address, nonce, treasury.sign(digest))))
    return calls


def cancel_presigned(
    calls: Sequence[tuple[int, CancelCall]],
    network_name: str,
    rpc_urls: Sequence[str],
    gas: Signer | None,
) -> Iterator[str]:
    """Sends cancellations one after the other; without endpoints, says what anybody can send.

    Raises:
        ChainError: the chain does not answer; what was said before is done.
    """
    from depai_robot.adapters.settlement_abi import encode_cancel

    network = _network(network_name)
    if not rpc_urls:
        for number, call in calls:
            yield json.dumps(
                {"deposit": number, "to": network.token, "data": "0x" + encode_cancel(call).hex()}
            )
        return
    chain = _chain(network, rpc_urls, gas)
    for number, call in calls:
        if chain.authorization_used(call.payer, call.nonce):
            yield (
                f"deposit {number} was used or cancelled before; if it was used, its money is in its channel:"
                " depai-robot channel withdraw"
            )
            continue
        try:
            signed = chain.prepare(call)
        except FinalChainError as error:
            yield f"deposit {number} can't be cancelled: {error}"
            continue
        chain.broadcast(signed)
        _await_cancelled(chain, signed.tx_hash)
        yield f"deposit {number} is cancelled by transaction 0x{signed.tx_hash.hex()}"


def _await_cancelled(chain: Chain, tx_hash: bytes) -> None:
    deadline_s = time.monotonic() + CONFIRM_S
    while time.monotonic() < deadline_s:
        try:
            outcome = chain.outcome(tx_hash, 1)
        except RetryableChainError:
            outcome = None
        if outcome is not None and outcome.status is TransactionStatus.REVERTED:
            raise ChainError(f"transaction 0x{tx_hash.hex()} reverted: the deposit was sent in the meantime")
        if outcome is not None and outcome.status is TransactionStatus.CONFIRMED:
            if any(event.name == "AuthorizationCanceled" for event in outcome.events):
                return
            raise ChainError(f"transaction 0x{tx_hash.hex()} shows no AuthorizationCanceled")
        time.sleep(POLL_S)
    raise ChainError(f"transaction 0x{tx_hash.hex()} was not seen in a block within {CONFIRM_S:.0f} s")
