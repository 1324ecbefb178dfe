"""Rules for the whole suite: loopback only, and in CI no skip that is not on the list."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def allowed_skips() -> list[str]:
    """Substrings of test ids that may be skipped in CI."""
    lines = ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines()
    return [line.split(" - ")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


class _SkipsFail:
    """In CI a skip that nobody allowed is a failure: a missing tool must not look like a pass."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.allowed = allowed_skips()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._judge(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._judge(report.nodeid, report.longrepr)

    def _judge(self, nodeid: str, longrepr: object) -> None:
        if not any(part in nodeid for part in self.allowed):
            self.refused.append(f"{nodeid}: {longrepr[2] if isinstance(longrepr, tuple) else longrepr}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.refused:
            terminalreporter.write_line(f"SKIPPED IN CI, NOT IN test/allowed_skips.txt: {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Arms the rule where CI is set."""
    if os.environ.get("CI"):
        config.pluginmanager.register(_SkipsFail(), "skips-fail-in-ci")
