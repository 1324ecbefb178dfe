"""``depai-robot model``: look at, measure and judge the models that find the dock."""

import click

from depai_robot.cli.model_check import check
from depai_robot.cli.model_eval import evaluate
from depai_robot.cli.model_gate import gate, report


@click.group()
def model() -> None:
    """Check, evaluate and gate the models that find the dock."""


model.add_command(check)
model.add_command(evaluate)
model.add_command(gate)
model.add_command(report)
