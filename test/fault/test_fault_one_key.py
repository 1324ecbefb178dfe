"""One key, several processes: exactly one opens it, whatever folder or environment; the day limit outlives restarts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy as app_policy
from test.builders import make_policy
from test.pretend import World, make_robot_settings, make_station_settings
from test.unit.test_charging_channel import WH

OWNER = DevelopmentSigner("one key owner")

PROGRAM = """
import sys
from pathlib import Path
from depai_robot.app.part import SystemClock
from depai_robot.app.wallet import open_wallet
from depai_robot.values.error import DepaiError
sys.stdin.readline()  # both begin at once
try:
    parts = open_wallet(Path(sys.argv[1]), clock=SystemClock(), battery=None, connector=None, docking=None)
except DepaiError as error:
    print("refused:", error, flush=True)
    sys.exit(3)
print("signs:", parts.voucher.sign(b"7" * 32).hex(), flush=True)
sys.stdin.readline()
"""


def write_wallet(folder: Path, name: str, voucher: DevelopmentSigner, secret: bytes, network: str) -> Path:
    """A wallet of that key in a folder of its own."""
    place = folder / name
    place.mkdir()
    write_keystore(place / "voucher.json", secret, "pass")
    (place / "pass").write_text("pass\n")
    (place / "pass").chmod(0o600)
    policy = app_policy("r", ())
    policy = type(policy)(
        **{item: getattr(policy, item) for item in policy.__slots__} | {"robot": voucher.address}
    )
    signature = OWNER.sign(policy_digest(policy, 31337))
    (place / "policy.json").write_bytes(format_policy(policy, 31337, OWNER.address, signature))
    tree = {
        "version": 1,
        "robot": "r",
        "zone": "z",
        "folder": "wallet",
        "chain": {"network": network, "rpc_urls": ["http://127.0.0.1:1"]},
        "broker": {},
        "keys": {
            "identity": {"development": f"{name} identity"},
            "voucher": {"keystore": "voucher.json", "password_file": "pass"},
            "payer": {"development": f"{name} payer"},
        },
        "owner": address_to_hex(OWNER.address),
        "policy": "policy.json",
    }
    (place / "wallet.yaml").write_text(yaml.safe_dump(tree))
    return place / "wallet.yaml"


@contextlib.contextmanager
def started(*configs: Path):
    """Processes that wait for a line before they open their wallet."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # As a service and a shell have it: other runtime folders.
            env={**os.environ, "XDG_RUNTIME_DIR": str(config.parent)},
        )
        for config in configs
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            process.stdin.close()
            process.stdout.close()


def go(process) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_with_one_key_exactly_one_signs(tmp_path):
    voucher = DevelopmentSigner(f"one key {time.time_ns()}")
    same = write_wallet(tmp_path, "same", voucher, voucher.secret, "development")
    copy = write_wallet(tmp_path, "copy", voucher, voucher.secret, "development")
    with started(same, copy, same) as processes:
        for process in processes:
            go(process)
        lines = [process.stdout.readline().strip() for process in processes]
        signers = [line for line in lines if line.startswith("signs: ")]
        refused = [line for line in lines if line.startswith("refused: ")]
        assert (len(signers), len(refused)) == (1, 2), lines
        for line in refused:
            assert f"key {address_to_hex(voucher.address)} is in use by another process" in line
        # However the holder ends, the next one may sign.
        holder = processes[lines.index(signers[0])]
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with started(copy) as (heir,):
            go(heir)
            assert heir.stdout.readline().startswith("signs: ")


@pytest.mark.parametrize("restarts", [0, 3])
def test_the_day_limit_holds_over_sessions_and_restarts(restarts):
    """The second session would take the day's sum above the limit; what was signed before a restart counts."""
    settings = make_robot_settings(policy=make_policy(day_max_atomic=5000))
    world = World(settings, [make_station_settings("a")])
    world.run_session("s-1", 2 * WH)
    spent = sum(
        rise for _, rise in next(iter(world.robot.state.ledger.account_by_channel.values())).signed_by_time
    )
    assert 2500 < spent <= 5000
    for _ in range(restarts):
        world.restart(world.robot)
    world.request("s-2", 10 * WH)
    world.run(
        lambda: world.phase in ("BACKING_OFF", "SETTLED") and world.robot.state.session.id == "s-2", 300
    )
    signed = sum(
        rise
        for account in world.robot.state.ledger.account_by_channel.values()
        for _, rise in account.signed_by_time
    )
    assert signed <= 5000
