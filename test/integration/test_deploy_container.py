"""The container and the workflow for Gazebo, as far as they can be checked without an engine: what they name exists."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from depai_robot.adapters.anvil import _binary_below
from depai_robot.app.acceptance import STEPS
from depai_robot.app.demo_plan import DemoPlan, plan_stations
from depai_robot.app.resource import resource_path
from depai_robot.cli.main import cli
from test.launch_stand_in import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "container"
CONTAINER, SCRIPT = FOLDER / "Containerfile", FOLDER / "acceptance.sh"
WORKFLOW = ROOT / ".github" / "workflows" / "gazebo.yml"
INSTRUCTIONS = ["FROM", "SHELL", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "ENTRYPOINT", "CMD"]


def joined(text: str) -> list[str]:
    """Logical lines without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def instructions() -> list[tuple[str, str]]:
    return [tuple(line.split(None, 1)) for line in joined(CONTAINER.read_text(encoding="utf-8"))]


def workflow() -> dict:
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def commands() -> list[list[str]]:
    """Each command of the three files, in words."""
    runs = [step["run"] for step in workflow()["jobs"]["acceptance"]["steps"] if "run" in step]
    texts = [rest for name, rest in instructions() if name == "RUN"]
    texts += joined(SCRIPT.read_text(encoding="utf-8")) + [line for run in runs for line in joined(run)]
    return [shlex.split(part) for text in texts for part in re.split(r"&&|(?<!<)\|\|", text)]


def ours(name: str) -> list[list[str]]:
    return [words[words.index(name) + 1 :] for words in commands() if name in words]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command of depai-robot that the words mean, and what is left of them."""
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        command = command.get_command(context, words[0])
        assert command is not None, words
        words = words[1:]
    return command, words


def test_the_container_is_made_of_known_instructions_in_a_sane_order() -> None:
    made = instructions()
    assert {name for name, _ in made} == set(INSTRUCTIONS)
    assert made[0] == ("FROM", "ros:jazzy-ros-base"), "a named distribution, never latest"
    (copy,) = [rest.split() for name, rest in made if name == "COPY"]
    assert (ROOT / copy[0]).is_dir()
    assert ".venv*" in (FOLDER / "Containerfile.dockerignore").read_text(encoding="utf-8").split()


def test_packages_come_with_the_distribution_and_leave_no_lists() -> None:
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "apt-get install" in rest]
    assert "--no-install-recommends" in install
    assert install.endswith("rm -rf /var/lib/apt/lists/*")
    names = install.partition("--no-install-recommends")[2].partition("&&")[0].split()
    assert names == sorted(names)
    assert {name for name in names if name.startswith("ros-") and name != "ros-dev-tools"} == {
        "ros-jazzy-nav2-msgs",
        "ros-jazzy-navigation2",
        "ros-jazzy-ros-gz",
        "ros-jazzy-vision-msgs",
    }


def test_both_packages_are_built_as_the_install_page_says() -> None:
    (build,) = [words for words in commands() if "colcon" in words and "build" in words]
    text = " ".join(build[build.index("python") :])
    assert text in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for path in build[build.index("--base-paths") + 1 :]:
        assert (ROOT / Path(path).relative_to("src/depai_robot") / "package.xml").is_file()


def test_the_chain_is_looked_for_where_it_is_installed() -> None:
    (where,) = [words for words in ours("depai-robot") if words[0] == "setup"]
    prefix = Path(where[where.index("--prefix") + 1])
    environment = " ".join(rest for name, rest in instructions() if name == "ENV")
    assert f"DEPAI_ANVIL={_binary_below(prefix)}" in environment


def test_every_option_of_ours_exists() -> None:
    used = ours("depai-robot")
    shown = [
        step["run"] for step in workflow()["jobs"]["acceptance"]["steps"] if "--show" in str(step.get("run"))
    ]
    used.append(shlex.split(shown[0].partition("depai-gazebo ")[2]))
    assert [words[0] for words in used] == ["setup", "acceptance", "acceptance"]
    for words in used:
        command, rest = resolve(words)
        known = {option for parameter in command.params for option in parameter.opts}
        options = [word for word in rest if word.startswith("--")]
        assert options, words
        assert set(options) <= known, words


def test_the_suite_is_given_every_means_and_stations_that_the_launched_site_has(tmp_path: Path) -> None:
    (words,) = [words for words in ours("depai-robot") if words[0] == "acceptance"]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert given["--target"] == "gazebo"
    assert {"--cut-command", "--restore-command", "--kill-command"} <= set(given)
    assert "--step" not in given, f"all of {list(STEPS)}"
    stations = plan_stations(
        DemoPlan(folder=tmp_path, dishonest="over-meter"), ["dock_near", "dock_far", "dock_shut"]
    )
    by_id = {station.id: station.dishonest for station in stations}
    assert by_id[given["--station"]] == "none"
    assert by_id[given["--cheat-station"]] == "over-meter"
    assert given["--kill-command"].endswith("[l]ib/depai_robot/wallet")
    assert resource_path("scripts", "wallet").is_file()


def test_the_launch_file_has_the_arguments_that_it_is_given() -> None:
    ((package, file, *arguments),) = [words[1:] for words in ours("ros2") if words[0] == "launch"]
    assert package == "depai_robot"
    entities = load(resource_path("launch", file))
    declared = {entity.args[0] for entity in entities if type(entity).__name__ == "DeclareLaunchArgument"}
    given = {argument.partition(":=")[0] for argument in arguments if ":=" in argument}
    assert {"headless", "site", "dishonest"} == given
    assert given <= declared


def test_every_test_file_that_is_run_exists() -> None:
    (words,) = ours("pytest")
    files = [word for word in words if word.startswith("test/")]
    assert len(files) == 3
    assert all((ROOT / file).is_file() for file in files)


def test_the_script_parses_and_ends_what_it_started() -> None:
    subprocess.run(["/bin/bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text(encoding="utf-8")
    assert "trap finish EXIT" in text
    assert text.index("set -m") < text.index("ros2 launch"), "without, a job in the background ignores SIGINT"
    assert 'kill -INT "$launch"' in text, "launch leaves its processes behind on SIGTERM"


def test_the_workflow_builds_that_file_and_may_only_read() -> None:
    made = workflow()
    assert made["permissions"] == {"contents": "read"}
    job = made["jobs"]["acceptance"]
    assert 0 < job["timeout-minutes"] <= 360
    steps = job["steps"]
    assert [step["uses"] for step in steps if "uses" in step] == [
        "actions/checkout@v4",
        "actions/upload-artifact@v4",
    ]
    (build,) = [shlex.split(step["run"]) for step in steps if "docker build" in step.get("run", "")]
    assert (ROOT / build[build.index("-f") + 1]) == CONTAINER
    # YAML 1.1 reads the key `on` as true.
    for pattern in made[True]["pull_request"]["paths"]:
        assert list(ROOT.glob(pattern.replace("/**", "/*"))), pattern


@pytest.mark.parametrize("path", [CONTAINER, SCRIPT, WORKFLOW], ids=lambda path: path.name)
def test_it_says_that_it_was_not_run(path: Path) -> None:
    assert "not run yet" in path.read_text(encoding="utf-8")[:1200].lower()
    assert path.name in (ROOT / "docs" / "gazebo.md").read_text(encoding="utf-8")
