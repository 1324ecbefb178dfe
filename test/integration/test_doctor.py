"""The doctor with real files, a real broker and a real chain: what is spoilt is found, no secret is shown."""

import json
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from depai_robot.adapters.anvil import DEVELOPMENT_USDC
from depai_robot.adapters.broker_process import free_port, start_broker
from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app import doctor
from depai_robot.app.doctor_wallet import check_clock, check_wallet, is_held
from depai_robot.app.part import KeyLock, open_locked_journal
from depai_robot.cli.main import cli
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy
from test.chain_world import code_hash, start_chain

OWNER, VOUCHER = DevelopmentSigner("doctor owner"), DevelopmentSigner("doctor voucher")
PASSPHRASE = "correct horse of the doctor"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    chain = start_chain(folder / "chain")
    try:
        broker = start_broker(folder / "broker")
        try:
            yield chain, broker
        finally:
            broker.stop()
    finally:
        chain.stop()


@pytest.fixture
def wallet(servers, tmp_path):
    """A healthy wallet's file."""
    chain, broker = servers
    chain.rpc("evm_setNextBlockTimestamp", max(int(time.time()), head_s(chain) + 1))
    chain.rpc("evm_mine")
    write_keystore(tmp_path / "voucher.json", VOUCHER.secret, PASSPHRASE)
    (tmp_path / "pass").write_text(PASSPHRASE + "\n")
    (tmp_path / "pass").chmod(0o600)
    write_policy(tmp_path)
    (tmp_path / "network.yaml").write_text(
        yaml.safe_dump(
            {
                "chain_id": 31337,
                "token": address_to_hex(DEVELOPMENT_USDC),
                "token_name": "USDC",
                "token_version": "2",
                "settlement_code_hash": "0x" + code_hash("settlement").hex(),
                "collector_code_hash": "0x" + code_hash("collector").hex(),
            }
        )
    )
    tree = {
        "version": 1,
        "robot": "r",
        "zone": "z",
        "folder": "wallet",
        "chain": {"network": "network.yaml", "rpc_urls": [chain.url]},
        "broker": {"port": broker.port},
        "keys": {
            "identity": {"development": "doctor identity"},
            "voucher": {"keystore": "voucher.json", "password_file": "pass"},
        },
        "owner": address_to_hex(OWNER.address),
        "policy": "policy.json",
    }
    path = tmp_path / "wallet.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def head_s(chain) -> int:
    return int(chain.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)


def write_policy(folder: Path, owner=OWNER) -> None:
    policy = make_policy("r", ())
    policy = type(policy)(
        **{item: getattr(policy, item) for item in policy.__slots__} | {"robot": VOUCHER.address}
    )
    signature = owner.sign(policy_digest(policy, 31337))
    (folder / "policy.json").write_bytes(format_policy(policy, 31337, owner.address, signature))


def change(path: Path, **changes) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def look(path: Path) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in check_wallet(path)}


def test_a_healthy_wallet_passes_every_check(wallet) -> None:
    found = look(wallet)
    assert {
        name: finding.status for name, finding in found.items() if finding.name != "disk"
    } == dict.fromkeys(("wallet", "keys", "policy", "journal", "broker", "chain", "clock"), "ok"), found
    assert "none yet" in found["journal"].seen
    assert not (wallet.parent / "wallet").exists(), "it only looks"


def test_a_key_that_others_can_read_fails(wallet) -> None:
    (wallet.parent / "voucher.json").chmod(0o644)
    (found,) = [finding for finding in check_wallet(wallet) if finding.name == "keys"]
    assert found.status == "fail"
    assert "0644" in found.seen
    assert "chmod 600" in found.mend


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda folder: (folder / "pass").unlink(), "No such file"),
        (lambda folder: (folder / "pass").chmod(0o640), "mode 0640"),
        (lambda folder: (folder / "voucher.json").write_text("{}"), "names no address"),
    ],
)
def test_a_key_in_a_bad_state_fails(wallet, spoil, seen: str) -> None:
    spoil(wallet.parent)
    found = look(wallet)["keys"]
    assert (found.status, seen in found.seen) == ("fail", True), found


def test_a_policy_that_another_signed_fails(wallet) -> None:
    write_policy(wallet.parent, DevelopmentSigner("thief"))
    assert look(wallet)["policy"].status == "fail"


def test_a_silent_broker_and_a_silent_chain_fail_and_leave_the_clock_unasked(wallet) -> None:
    change(
        wallet,
        broker={"port": free_port()},
        chain={"network": "network.yaml", "rpc_urls": [f"http://127.0.0.1:{free_port()}/v2/secretkey"]},
    )
    found = look(wallet)
    assert (found["broker"].status, found["chain"].status, found["clock"].status) == (
        "fail",
        "fail",
        "skipped",
    )
    assert "secretkey" not in str(found)


def test_one_silent_endpoint_of_two_is_a_warning_and_with_agree_2_a_fail(wallet, servers) -> None:
    urls = [servers[0].url, f"http://127.0.0.1:{free_port()}"]
    change(wallet, chain={"network": "network.yaml", "rpc_urls": urls})
    assert look(wallet)["chain"].status == "warn"
    change(wallet, chain={"network": "network.yaml", "rpc_urls": urls, "agree": 2})
    assert look(wallet)["chain"].status == "fail"


def test_another_chain_and_other_code_fail(wallet) -> None:
    network = wallet.parent / "network.yaml"
    change(network, settlement_code_hash="0x" + "11" * 32)
    assert look(wallet)["chain"].status == "fail"
    change(network, chain_id=1337)
    assert look(wallet)["chain"].status == "fail"


def test_the_journal_is_verified_and_a_damaged_one_fails(wallet) -> None:
    folder = wallet.parent / "wallet"
    folder.mkdir()
    lock, journal = open_locked_journal(folder / "wallet.sqlite", VOUCHER.address)
    running = look(wallet)["journal"]
    assert (running.status, "running" in running.seen) == ("skipped", True)
    journal.close()
    lock.release()
    assert look(wallet)["journal"].status == "ok"
    (folder / "wallet.sqlite").write_bytes(b"x" * 5000)
    assert look(wallet)["journal"].status == "fail"


def test_a_held_key_is_seen_without_taking_it() -> None:
    name = address_to_hex(DevelopmentSigner("held").address)
    lock = KeyLock(DevelopmentSigner("held").address)
    assert is_held(name)
    lock.release()
    assert not is_held(name)


@pytest.mark.parametrize(
    ("skew_s", "chain_id", "status"),
    [
        (120, 8453, "ok"),
        (121, 8453, "fail"),
        (-121, 8453, "fail"),
        (9000, 31337, "warn"),
        (-9000, 31337, "fail"),
    ],
)
def test_the_clock_is_judged_against_the_chain(skew_s: int, chain_id: int, status: str) -> None:
    assert check_clock(1_800_000_000, 1_800_000_000 + skew_s, chain_id).status == status


def test_the_command_exits_1_on_a_fail_in_json_and_shows_no_secret(wallet) -> None:
    good = CliRunner().invoke(cli, ["doctor", "--wallet", str(wallet), "--json"])
    answer = json.loads(good.output)
    failed = [item for item in answer["checks"] if item["status"] == "fail"]
    assert answer["ok"] == (not failed)
    assert good.exit_code == (1 if failed else 0)
    change(wallet, zne="typo")
    bad = CliRunner().invoke(cli, ["doctor", "--wallet", str(wallet)])
    assert bad.exit_code == 1
    assert "zne: unknown key" in bad.output
    for text in (good.output, bad.output):
        assert PASSPHRASE not in text
        assert VOUCHER.secret.hex() not in text
    assert CliRunner().invoke(cli, ["doctor", "--wallet", "absent.yaml"]).exit_code == 2


# --- the machine --------------------------------------------------------------------------------------------


def test_a_requirement_that_is_absent_or_of_another_version_is_named() -> None:
    assert doctor.unmet(["click>=8", "click<1 ; extra == 'old'"]) == []
    assert doctor.unmet(["depai-nowhere", "click<1"])[0] == "depai-nowhere is not installed"
    assert "expected <1" in doctor.unmet(["click<1"])[0]


def test_devices_are_judged_by_our_rights(tmp_path, monkeypatch) -> None:
    assert doctor.check_serial([]).status == "warn"
    assert doctor.check_camera(tmp_path).status == "warn"
    port = tmp_path / "video0"
    port.touch()
    assert doctor.check_camera(tmp_path).status == "ok"
    assert doctor.check_serial([(str(port), "an adapter")]).status == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    for found, group in (
        (doctor.check_serial([(str(port), "")]), "dialout"),
        (doctor.check_camera(tmp_path), "video"),
    ):
        assert found.status == "fail"
        assert f"usermod -aG {group}" in found.mend


def test_a_full_disk_fails(tmp_path, monkeypatch) -> None:
    usage = doctor.shutil.disk_usage(tmp_path)
    for free, status in ((50 << 20, "fail"), (500 << 20, "warn"), (5 << 30, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert doctor.check_disk(tmp_path / "not" / "yet").status == status


def test_a_provider_that_does_not_serve_is_a_warning_and_a_damaged_model_a_fail(tmp_path) -> None:
    robot = tmp_path / "robot.yaml"
    robot.write_text("inference: {providers: [tensorrt, cpu]}\n")
    models, providers, report = doctor.check_models(robot)
    assert (models.status, providers.status, report.status) == ("ok", "warn", "warn")
    assert "model_report_keys" in report.mend
    assert "CPUExecutionProvider serves" in providers.seen
    robot.write_text(f"model_report: {tmp_path}/none.jws\nmodel_report_keys: ['0x{'11' * 20}']\n")
    report = doctor.check_models(robot)[-1]
    assert (report.name, report.status) == ("report", "fail")
    assert "none.jws can't be read" in report.seen
    assert "model gate" in report.mend
    robot.write_text(f"models: {tmp_path}\n")
    models, providers = doctor.check_models(robot)
    assert (models.status, providers.status) == ("fail", "skipped")
