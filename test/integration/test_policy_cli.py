"""The owner's desk: a draft with comments becomes a signed policy that a robot takes, and nothing else does."""

import json
import os
import time

import pytest
from click.testing import CliRunner
from eth_account import Account

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app.policy_draft import parse_usdc, policy_to_words, read_draft
from depai_robot.app.policy_epoch import NAME, note_seen, read_seen
from depai_robot.cli.main import cli
from depai_robot.payment.policy import parse_policy
from depai_robot.payment.presigned import parse_presigned
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError, DepaiError
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy

OWNER, ROBOT, STATION = (DevelopmentSigner(name) for name in ("desk owner", "desk voucher", "desk station"))
CHAIN = 84532


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    write_keystore(folder / "owner.json", OWNER.secret, "owner pass")
    (folder / "pass").write_text("owner pass\n")
    (folder / "pass").chmod(0o600)
    return folder


def run(*arguments, ok=True):
    done = CliRunner().invoke(cli, [str(item) for item in arguments])
    if isinstance(done.exception, DepaiError):
        assert not ok, done.exception
        return f"error: {done.exception}"
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code == 0) == ok, done.output
    return done.output


@pytest.fixture
def desk(tmp_path, monkeypatch, keys):
    """A filled-in draft in the working folder."""
    monkeypatch.chdir(tmp_path)
    # The test process itself must stay as it is.
    monkeypatch.setattr("depai_robot.adapters.core_dump.forbid_core_dumps", lambda: None)
    run("policy", "init", "draft.yaml", "--robot", address_to_hex(ROBOT.address))
    change("payees: []", f'payees: ["{address_to_hex(STATION.address)}"]')
    return tmp_path


def change(before, after):
    with open("draft.yaml") as file:
        text = file.read()
    assert before in text, before
    with open("draft.yaml", "w") as file:
        file.write(text.replace(before, after))


def sign(keys, *more, ok=True):
    return run(
        "policy",
        "sign",
        "draft.yaml",
        "--key",
        keys / "owner.json",
        "--password-file",
        keys / "pass",
        *more,
        ok=ok,
    )


def verify(*more, ok=True):
    names = ("--owner", address_to_hex(OWNER.address), "--robot", address_to_hex(ROBOT.address))
    return run("policy", "verify", "policy.json", *names, "--network", "base-sepolia", *more, ok=ok)


def test_from_the_draft_to_what_the_robot_takes(desk, keys):
    said = sign(keys)
    assert f"signed by {address_to_hex(OWNER.address)}" in said
    policy = parse_policy(
        (desk / "policy.json").read_bytes(), chain_id=CHAIN, owner=OWNER.address, robot=ROBOT.address
    )
    assert (policy.tranche_max_atomic, policy.session_max_atomic, policy.day_max_atomic) == (
        2000,
        100_000,
        300_000,
    )
    assert policy.payees == (STATION.address,)
    shown = run("policy", "show", "policy.json")
    for words in (
        "pays at most   0.600000 USDC per kWh, 0.010000 USDC to start",
        "0.100000 USDC in one charge, 0.300000 USDC in 24 hours",
        "0.200000 USDC in one channel, 0.400000 USDC in all",
        "not granted",
        "others         get nothing",
        address_to_hex(STATION.address),
        f"signed by      {address_to_hex(OWNER.address)}",
    ):
        assert words in shown, shown
    assert verify().startswith("pass: signed by the owner")
    assert (desk / "policy.json").stat().st_mode & 0o022 == 0


def test_verify_says_fail_and_why(desk, keys):
    sign(keys)
    other = address_to_hex(DevelopmentSigner("other").address)
    assert "fail: policy names owner" in verify("--owner", other, ok=False)
    assert "fail: policy is for robot" in verify("--robot", other, ok=False)
    assert "fail: policy is for chain 84532, this robot is on 8453" in verify("--network", "base", ok=False)
    text = json.loads((desk / "policy.json").read_text())
    (desk / "policy.json").write_text(json.dumps({**text, "day_max_atomic": 10**9}))
    assert "fail: policy is not signed by its owner" in verify(ok=False)
    assert "NOBODY that it names" in run("policy", "show", "policy.json")
    (desk / "policy.json").write_text("{}")
    assert "signs it again with" in verify(ok=False)


def test_an_expired_policy_fails(desk, keys):
    change(time.strftime("%Y-%m-%d", time.gmtime()), "2020-01-01")
    sign(keys)
    assert "fail: it is valid from" in verify(ok=False)
    assert "expired" in run("policy", "show", "policy.json")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("tranche_max: 0.002", "tranche_max: 0", "nothing could be bought"),
        ("tranche_max: 0.002", "tranche_max: 0.0000001", "at most 6 decimals, got 1e-07"),
        ("tranche_max: 0.002", "tranche_max: -1", "0 or more USDC"),
        ("tranche_max: 0.002", "tranche_max: .nan", "must be an amount"),
        ("tranche_max: 0.002", "tranche_max: .inf", "must be an amount"),
        ("tranche_max: 0.002", "tranche_max: lots", "must be an amount"),
        ("tranche_max: 0.002", "tranch_max: 0.002", "did you mean 'tranche_max'"),
        ("tranche_max: 0.002", "tranche_max: 0.2", "is above session_max (0.100000 USDC)"),
        ("session_max: 0.10", "session_max: 0.5", "session_max (0.500000 USDC) is above day_max"),
        ("escrow_unknown_max: 0 ", "escrow_unknown_max: 1 ", "escrow_unknown_max (1.000000 USDC) is above"),
        ("escrow_total_max: 0.40", "escrow_total_max: 0.1", "is above escrow_total_max"),
        ("valid_days: 90", "valid_days: 0", "valid_days"),
        ("withdraw_delay_max_s: 86400", "withdraw_delay_max_s: 60", "withdraw_delay_max_s"),
        ("below_percent: 0", "below_percent: 5", "survival grants nothing"),
        ("network: base-sepolia", "network: base-sepola", "did you mean 'base-sepolia'"),
        ("epoch: 1", "epoch: 1\nepoch: 2", "key 'epoch' twice"),
    ],
)
def test_a_draft_that_nobody_can_have_meant_is_refused_with_words(desk, keys, before, after, words):
    change(before, after)
    said = sign(keys, ok=False)
    assert words in said
    assert not (desk / "policy.json").exists()


def test_nobody_to_pay_is_said(desk, keys):
    change(f'payees: ["{address_to_hex(STATION.address)}"]', "payees: []")
    assert "no station could be paid" in sign(keys, ok=False)


def test_survival_is_shown_in_words(desk, keys):
    change("below_percent: 0", "below_percent: 7.5")
    change("  price_max_per_kwh: 0\n  session_max: 0", "  price_max_per_kwh: 2.5\n  session_max: 0.05")
    words = "below 7.5 % of the battery one charge a day may cost 2.500000 USDC per kWh, 0.050000 USDC in all"
    assert f"survival       {words}" in sign(keys)


def test_a_later_policy_needs_a_higher_epoch_and_says_what_it_widens(desk, keys):
    sign(keys)
    assert "has epoch 1: the new one needs 2 or more" in sign(keys, ok=False)
    change("epoch: 1", "epoch: 2")
    change("day_max: 0.30", "day_max: 3")
    assert "replaces       epoch 1; widens day_max_atomic" in sign(keys)
    change(address_to_hex(ROBOT.address), address_to_hex(OWNER.address))
    assert "policy of another robot" in sign(keys, ok=False)


def test_an_external_wallet_signs_typed_data(desk):
    typed = json.loads(run("policy", "sign", "draft.yaml", "--typed-data"))
    wallet = Account.from_key(OWNER.secret)
    raw = wallet.sign_typed_data(full_message=typed).signature
    names = ("policy", "sign", "draft.yaml", "--owner", address_to_hex(OWNER.address), "--signature")
    assert "that is no signature of" in run(*names, "0x" + "00" * 65, ok=False)
    run(*names, "0x" + bytes(raw).hex())
    assert verify().startswith("pass")


def test_the_robots_own_key_can_not_sign(desk, keys, tmp_path):
    write_keystore(tmp_path / "robot.json", ROBOT.secret, "owner pass")
    said = run(
        "policy", "sign", "draft.yaml", "--key", "robot.json", "--password-file", keys / "pass", ok=False
    )
    assert "the owner's key is another, off the robot" in said


def test_without_a_terminal_a_passphrase_is_not_asked_for(desk, keys):
    said = run("policy", "sign", "draft.yaml", "--key", keys / "owner.json", ok=False)
    assert "no terminal to ask" in said


def test_init_leaves_an_existing_file_alone(desk):
    before = (desk / "draft.yaml").read_bytes()
    assert "File exists" in run("policy", "init", "draft.yaml", ok=False)
    assert (desk / "draft.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "atomic"),
    [("0.3", 300_000), (0.1, 100_000), (1, 10**6), ("1e-6", 1), (0.000001, 1), (123456.654321, 123456654321)],
)
def test_amounts_are_exact(value, atomic):
    assert parse_usdc(value, "x") == atomic


def test_booleans_are_no_amounts():
    with pytest.raises(ConfigError):
        parse_usdc(True, "x")


def test_times_that_no_calendar_has_are_shown_all_the_same(desk):
    policy, chain_id = read_draft(desk / "draft.yaml")
    huge = make_policy("r", (), valid_before_s=2**120)
    assert f"second {2**120}" in "\n".join(policy_to_words(huge, chain_id))
    assert "not yet" in "\n".join(policy_to_words(policy, chain_id, now_s=0))


# --- pre-signed deposits -----------------------------------------------------------------------------------------


def presign(keys, *more, ok=True):
    return run(
        "policy", "presign", "--policy", "policy.json", "--network", "base-sepolia",
        "--station", address_to_hex(STATION.address), "--key", keys / "owner.json", "--password-file", keys / "pass",
        *more, ok=ok,
    )  # fmt: skip


def test_deposits_are_signed_added_listed_and_taken_back(desk, keys):
    from depai_robot.app.owner import _network, place_of

    sign(keys)
    assert "3 more, 3 in all; 0.300000 USDC" in presign(
        keys, "--amount", "0.1", "--count", "3", "--name", "north"
    )
    assert "2 more, 5 in all; 0.400000 USDC" in presign(
        keys, "--amount", "0.05", "--count", "2", "--one-channel"
    )
    place = place_of(_network("base-sepolia"))
    policy = parse_policy(
        (desk / "policy.json").read_bytes(), chain_id=CHAIN, owner=OWNER.address, robot=ROBOT.address
    )
    items = parse_presigned(
        (desk / "presigned.json").read_bytes(),
        place=place, payer=OWNER.address, voucher_key=ROBOT.address, policy=policy,
    )  # fmt: skip
    assert [item.deposit.amount_atomic for item in items] == [100_000] * 3 + [50_000] * 2
    channels = [place.channel_id(item.channel) for item in items]
    assert len(set(channels)) == 4
    assert channels[3] == channels[4]
    assert all(item.deposit.valid_before_s <= policy.valid_before_s for item in items)
    listed = run("policy", "deposits", "presigned.json", "--network", "base-sepolia").splitlines()
    assert len(listed) == 5
    assert "north" in listed[0]
    calls = [
        json.loads(line)
        for line in run(
            "policy", "cancel", "presigned.json", "--network", "base-sepolia", "--number", "2", "--number", "5",
            "--key", keys / "owner.json", "--password-file", keys / "pass",
        ).splitlines()
    ]  # fmt: skip
    assert [call["deposit"] for call in calls] == [2, 5]
    assert items[1].nonce(place).hex() in calls[0]["data"]
    # cancelAuthorization(address,bytes32,bytes)
    assert calls[0]["data"].startswith("0xb7b72899")
    assert calls[0]["to"] == "0x036CbD53842c5426634e7929541eC2318f3dCF7e"


def test_what_the_policy_does_not_allow_is_not_signed(desk, keys):
    sign(keys)
    assert "the policy allows 200000 there" in presign(keys, "--amount", "0.21", ok=False)
    assert "0 or more USDC" in presign(keys, "--amount", "-1", ok=False)
    other = address_to_hex(DevelopmentSigner("other").address)
    assert "not among the policy's payees" in presign(keys, "--amount", "0.1", "--station", other, ok=False)
    assert "the policy allows 86400 s" in presign(
        keys, "--amount", "0.1", "--withdraw-delay", "86401", ok=False
    )
    assert "for chain 84532" in presign(keys, "--amount", "0.1", "--network", "base", ok=False)
    assert not (desk / "presigned.json").exists()


def test_cancel_wants_to_know_which(desk, keys):
    sign(keys)
    presign(keys, "--amount", "0.1")
    names = (
        "policy", "cancel", "presigned.json", "--network", "base-sepolia", "--key", keys / "owner.json",
        "--password-file", keys / "pass",
    )  # fmt: skip
    assert "expected --number" in run(*names, ok=False)
    assert "has deposits 1 to 1, not 2" in run(*names, "--number", "2", ok=False)
    assert len(run(*names, "--all").splitlines()) == 1


# --- the highest epoch -------------------------------------------------------------------------------------------


def test_an_older_policy_is_refused_as_soon_as_a_newer_one_was_seen(tmp_path):
    folder = tmp_path / "wallet"
    assert read_seen(folder) is None
    note_seen(folder, make_policy("r", (), epoch=2), CHAIN)
    note_seen(folder, make_policy("r", (), epoch=2), CHAIN)
    with pytest.raises(ConfigError, match="epoch 1, one of 2 was seen before"):
        note_seen(folder, make_policy("r", (), epoch=1), CHAIN)
    with pytest.raises(ConfigError, match="another policy of epoch 2 was seen before"):
        note_seen(folder, make_policy("r", (), epoch=2, day_max_atomic=10**9), CHAIN)
    note_seen(folder, make_policy("r", (), epoch=7), CHAIN)
    assert read_seen(folder).epoch == 7
    assert os.listdir(folder) == [NAME]


@pytest.mark.parametrize("data", [b"", b"{", b'{"epoch": 1}', b'{"epoch": "1", "digest": "0x"}', b"\0" * 50])
def test_a_damaged_note_stops_until_a_person_looks(tmp_path, data):
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        note_seen(tmp_path, make_policy("r", ()), CHAIN)
