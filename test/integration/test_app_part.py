"""Keys, passwords, inbox and policy epochs: what is refused, with which words."""

import threading

import pytest

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.config import KeyPart
from depai_robot.app.inbox import Inbox
from depai_robot.app.part import open_signer, read_password
from depai_robot.app.sealing import Sealer
from depai_robot.app.wallet import WalletParts, WalletProgram
from depai_robot.charging.fact import BatteryRead, Instant
from depai_robot.charging.message import Draft, EventType, QuoteReject, SessionEvent
from depai_robot.charging.setting import Network
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, address_to_hex, did_pkh
from test.app_world import make_policy, robot_key, robot_settings, until

CHAIN = 31337
NOW_S = 1_800_000_000


@pytest.fixture
def file(tmp_path):
    """The configuration file that names are relative to."""
    return tmp_path / "wallet.yaml"


def write_password(folder, text: str, mode: int = 0o600):
    path = folder / "password"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_keystore_opens_with_the_first_line_of_its_password_file(file, tmp_path) -> None:
    secret = DevelopmentSigner("x").secret
    address = write_keystore(tmp_path / "key.json", secret, "pass word")
    write_password(tmp_path, "pass word\nnot this\n")
    signer = open_signer("keys.payer", KeyPart(keystore="key.json", password_file="password"), file, 8453)
    assert signer.address == address


@pytest.mark.parametrize(
    ("text", "mode", "line"),
    [
        ("secret\n", 0o640, "has mode 0640, expected 0600"),
        ("", 0o600, "expected one line"),
        ("\n", 0o600, "expected one line"),
        ("x" * 2000, 0o600, "expected one line"),
    ],
)
def test_a_bad_password_file_is_refused(tmp_path, text: str, mode: int, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        read_password(write_password(tmp_path, text, mode))


def test_a_password_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="none: No such file"):
        read_password(tmp_path / "none")


@pytest.mark.parametrize(
    ("key", "chain", "line"),
    [
        (KeyPart(), CHAIN, "expected either keystore or pkcs11 with a password_file"),
        (KeyPart(keystore="k", development="d"), CHAIN, "expected either"),
        (KeyPart(keystore="k"), CHAIN, "a key needs a password_file"),
        (KeyPart(development="d"), 8453, "known to everybody; chain 8453 is not one of"),
    ],
)
def test_a_bad_key_part_names_its_place(file, key: KeyPart, chain: int, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as found:
        open_signer("keys.payer", key, file, chain)
    assert str(found.value).startswith(f"{file}: keys.payer: ")


# --- inbox --------------------------------------------------------------------------------------------------

ROBOT, STATION = robot_key("r", "identity"), DevelopmentSigner("s")
READING = BatteryRead(1, 25_000, 0, 200, 5, 0)


class Ears:
    def __init__(self) -> None:
        self.facts = []
        self.heard = threading.Event()
        self.inbox = Inbox(
            CHAIN, ROBOT.address, self._post, lambda: Instant(7, NOW_S), read_battery=lambda: READING
        )
        self._sealer = Sealer(CHAIN, STATION, None, None)

    def _post(self, fact) -> None:
        self.facts.append(fact)
        self.heard.set()

    def token(self, body, to: Address = ROBOT.address, exp: int = NOW_S + 60) -> bytes:
        draft = Draft("m.1", "s-1", 0, NOW_S, exp, did_pkh(CHAIN, to), body)
        return self._sealer.seal(draft).encode()


@pytest.fixture
def ears():
    made = Ears()
    made.inbox.start()
    yield made
    made.inbox.stop()


def test_only_a_message_with_a_statement_gets_a_reading(ears) -> None:
    ears.inbox.receive("t", ears.token(QuoteReject("price")))
    event = SessionEvent(EventType.UPDATED, 1, "MeterValuePeriodic", "Charging", statement="OCMF|{}|{}")
    ears.inbox.receive("t", ears.token(event))
    until(lambda: len(ears.facts) == 2, "both come in")
    assert [fact.reading for fact in ears.facts] == [None, READING]
    assert {fact.sender for fact in ears.facts} == {bytes(STATION.address)}


def test_what_is_refused_is_counted_and_never_becomes_a_fact(ears) -> None:
    good = ears.token(QuoteReject("price"))
    for payload in (
        b"nonsense",
        b"\xff\xfe..",
        good[:-4] + b"AAAA",
        ears.token(QuoteReject("price"), to=STATION.address),
        ears.token(QuoteReject("price"), exp=NOW_S - 1),
        b"x" * 70_000,
        b"",
    ):
        ears.inbox.receive("t", payload)
    ears.inbox.receive("t", good)
    ears.heard.wait(5)
    assert len(ears.facts) == 1
    assert sum(ears.inbox.refused.values()) == 6
    assert {"form", "signature", "addressee", "time", "size"} <= set(ears.inbox.refused)


def test_more_than_can_wait_is_dropped_and_counted(monkeypatch) -> None:
    from depai_robot.app import inbox

    monkeypatch.setattr(inbox, "WAITING_MAX", 3)
    ears = Ears()
    for _ in range(5):
        ears.inbox.receive("t", b"x")
    assert ears.inbox.refused["overflow"] == 2


# --- policy -------------------------------------------------------------------------------------------------


class StillClock:
    def session_ns(self) -> int:
        return 1

    def wall_s(self) -> int:
        return NOW_S


def run_with_epoch(folder, epoch: int) -> None:
    network = Network(chain_id=CHAIN, token=bytes(19) + b"\x01", token_name="USDC", token_version="2")
    settings = robot_settings(network, robot="r", policy=make_policy("r", (), epoch=epoch))
    exchange = MemoryExchange()
    parts = WalletParts(
        settings=settings,
        identity=ROBOT,
        voucher=robot_key("r", "voucher"),
        payer=robot_key("r", "payer"),
        journal=SqliteJournal(folder / "w.sqlite", address_to_hex(settings.voucher_key)),
        broker=exchange.client("r"),
        chain=MemoryChain(MemoryLedger(Address(network.token))),
        clock=StillClock(),
        battery=None,
        connector=None,
        docking=None,
        folder=folder,
    )
    program = WalletProgram(parts)
    program.watch = lambda *_: None
    try:
        program.start()
        assert program.state.settings.policy.epoch == epoch
    finally:
        program.stop()
        exchange.close()


def test_a_policy_that_the_owner_replaced_does_not_come_back(tmp_path) -> None:
    run_with_epoch(tmp_path, 1)
    run_with_epoch(tmp_path, 2)
    with pytest.raises(ConfigError, match="policy has epoch 1, one of epoch 2 was in force"):
        run_with_epoch(tmp_path, 1)
    run_with_epoch(tmp_path, 2)
