"""Pre-signed deposits on a real EVM: one is used, the other taken back, and the desk says which is which."""

import pytest
from click.testing import CliRunner

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app.owner import _network, place_of
from depai_robot.cli.main import cli
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.payment.presigned import read_presigned
from depai_robot.ports import DepositCall
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import FinalChainError
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy
from test.chain_world import AnvilWorld, send, signer


@pytest.fixture
def world(tmp_path_factory):
    made = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield made
    made.close()


def test_a_deposit_is_used_and_another_taken_back(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("depai_robot.adapters.core_dump.forbid_core_dumps", lambda: None)
    treasury, owner, station = (
        DevelopmentSigner(f"desk {name}") for name in ("treasury", "owner", "station")
    )
    world.fund(treasury.address, 100_000)
    relayer = signer("relayer")
    world.fund(relayer.address)
    policy = make_policy("r", (), payees=(station.address,))
    data = format_policy(policy, 31337, owner.address, owner.sign(policy_digest(policy, 31337)))
    (tmp_path / "policy.json").write_bytes(data)
    write_keystore(tmp_path / "treasury.json", treasury.secret, "pass")
    (tmp_path / "pass").write_text("pass\n")
    (tmp_path / "pass").chmod(0o600)
    key = ("--key", "treasury.json", "--password-file", "pass")
    network = ("--network", "development")
    chain = world.chain(relayer)

    def run(*arguments: str) -> list[str]:
        done = CliRunner().invoke(cli, ["policy", *arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output.splitlines()

    run("presign", "--policy", "policy.json", *network, "--station", address_to_hex(station.address),
        "--amount", "0.02", "--count", "3", *key)  # fmt: skip
    items = read_presigned(
        (tmp_path / "presigned.json").read_bytes(), place=place_of(_network("development"))
    )
    assert ("Deposited", 20_000) in send(chain, DepositCall(items[0].channel, items[0].deposit))
    url = ("--rpc-url", world.anvil.url)
    lines = run("cancel", "presigned.json", *network, "--number", "1", "--number", "2", *key, *url)
    assert lines[0].startswith("deposit 1 was used or cancelled before")
    assert lines[1].startswith("deposit 2 is cancelled by transaction 0x")
    states = [line.split("  ")[-1] for line in run("deposits", "presigned.json", *network, *url)]
    assert states[:2] == ["used or cancelled"] * 2
    assert states[2].endswith("h left")
    with pytest.raises(FinalChainError, match="used or canceled"):
        chain.prepare(DepositCall(items[1].channel, items[1].deposit))
    assert ("Deposited", 20_000) in send(chain, DepositCall(items[2].channel, items[2].deposit))
    assert chain.token_balance(treasury.address) == 60_000
