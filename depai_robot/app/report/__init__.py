"""The report of a run: one self-contained HTML file."""

from depai_robot.app.report.page import write_report

__all__ = ["write_report"]
