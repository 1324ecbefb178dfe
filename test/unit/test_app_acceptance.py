"""The acceptance report: signed, checked, and never passed by steps that were not run."""

import pytest
from click.testing import CliRunner

from depai_robot.app.acceptance import (
    FAILED,
    NOT_RUN,
    PASSED,
    StepResult,
    make_report,
    open_report,
    render,
    seal_report,
)
from depai_robot.cli.acceptance import acceptance
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_to_hex

SIGNER = DevelopmentSigner("tester")


def report(*outcomes: str):
    steps = [
        StepResult(name, outcome) for name, outcome in zip(("find", "dock", "kill"), outcomes, strict=False)
    ]
    return make_report("jetson", "rover-1", steps)


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [
        ((PASSED, PASSED, NOT_RUN), True),
        ((PASSED, FAILED, NOT_RUN), False),
        ((NOT_RUN, NOT_RUN, NOT_RUN), False),
        ((), False),
    ],
)
def test_a_report_passes_when_something_was_run_and_nothing_failed(outcomes, passed):
    assert report(*outcomes).passed is passed


def test_a_report_says_who_signed_it_and_a_change_is_seen(tmp_path):
    made = report(PASSED, PASSED, NOT_RUN)
    token = seal_report(made, SIGNER)
    assert open_report(token) == (SIGNER.address, made)
    head, body, signature = token.split(".")
    other = seal_report(report(PASSED, FAILED, NOT_RUN), SIGNER).split(".")[1]
    with pytest.raises(ConfigError, match="acceptance report"):
        open_report(f"{head}.{other}.{signature}")
    path = tmp_path / "report.jws"
    path.write_text(token + "\n")
    shown = CliRunner().invoke(acceptance, ["--show", str(path)])
    assert shown.exit_code == 0
    assert f"signed by {address_to_hex(SIGNER.address)}" in shown.output
    assert "not run  kill" in shown.output
    assert body


def test_people_read_what_each_step_is():
    text = render(report(PASSED, FAILED))
    assert text.startswith("acceptance of rover-1 on jetson: FAILED")
    assert "the camera finds the dock that the wallet chose" in text
