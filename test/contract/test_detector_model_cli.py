"""The command that says which provider runs the models, on the real runtime."""

import re

import pytest
from click.testing import CliRunner

from depai_robot.cli.model import model
from depai_robot.values.error import ConfigError


def test_model_check_says_what_runs_what_was_refused_and_how_fast():
    result = CliRunner().invoke(model, ["check", "--providers", "tensorrt,cpu", "--io-binding"])
    assert result.exit_code == 0, result.output
    assert "refused: TensorrtExecutionProvider" in result.output
    assert "provider in use: CPUExecutionProvider" in result.output
    assert re.search(r"search \d+\.\d ms, tracked \d+\.\d ms", result.output)


def test_model_check_can_demand_a_provider():
    with pytest.raises(ConfigError, match="no execution provider serves; CUDA"):
        CliRunner().invoke(model, ["check", "--providers", "cuda,cpu", "--fail"], catch_exceptions=False)
