"""Any order of appends, snapshots, ends and restarts leaves the file with exactly what was appended."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from depai_robot.adapters.journal_reader import survey
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.ports import Journal
from depai_robot.sim.memory_journal import MemoryJournal

OWNER = "0x0000000000000000000000000000000000000001"


def rows_of(journal: Journal, after: int = 0) -> list[tuple[int, int, bytes]]:
    return [(row.number, row.step_version, row.data) for row in journal.rows(after)]


class JournalModel(RuleBasedStateMachine):
    """A file beside its simulation; both must say the same at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "wallet.sqlite"
        self.model = MemoryJournal()
        self.file = SqliteJournal(self.path, OWNER)

    @rule(rows=st.lists(st.binary(max_size=6000), max_size=6), version=st.integers(0, 2**32 - 1))
    def append(self, rows: list[bytes], version: int) -> None:
        self.model.append(rows, version)
        self.file.append(rows, version)

    @rule(data=st.binary(max_size=9000), version=st.integers(1, 3))
    def snapshot(self, data: bytes, version: int) -> None:
        self.model.write_snapshot(data, version)
        self.file.write_snapshot(data, version)

    @rule()
    def restart(self) -> None:
        self.file.close()
        self.file = SqliteJournal(self.path, OWNER)

    @rule(share=st.floats(0, 1))
    def read_from(self, share: float) -> None:
        after = int(self.model.length * share)
        assert rows_of(self.file, after) == rows_of(self.model, after)

    @rule()
    def look(self) -> None:
        found = survey(self.path)
        assert found.findings == ()
        assert found.sound_rows == found.noted_rows == self.model.length

    @invariant()
    def both_are_the_same(self) -> None:
        assert self.file.length == self.model.length
        for version in (1, 2, 3):
            assert self.file.read_snapshot(version) == self.model.read_snapshot(version)

    def teardown(self) -> None:
        assert rows_of(self.file) == rows_of(self.model)
        self.file.close()
        self.folder.cleanup()


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
