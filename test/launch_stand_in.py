"""The part of ros2/launch that our launch files use, for machines without it: it only remembers what was said.

With the real launch installed the same tests run on it (test/ros/test_launch_files.py).
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


class Said:
    """One action or substitution: its class's name and what it was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.args}"


NAMES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument",
        "ExecuteProcess",
        "GroupAction",
        "IncludeLaunchDescription",
        "RegisterEventHandler",
        "Shutdown",
    ],
    "launch.conditions": ["IfCondition"],
    "launch.event_handlers": ["OnProcessExit", "OnProcessIO"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": [
        "IfElseSubstitution",
        "LaunchConfiguration",
        "PathJoinSubstitution",
        "PythonExpression",
    ],
    "launch_ros": [],
    "launch_ros.actions": ["Node", "SetRemap"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
    "launch_ros.substitutions": ["FindPackageShare"],
}


def load(path: Path) -> list[Said]:
    """The entities of a launch file, its event handlers' actions included."""
    before = {name: sys.modules.get(name) for name in NAMES}
    try:
        for name, classes in NAMES.items():
            module = types.ModuleType(name)
            for kind in classes:
                setattr(module, kind, type(kind, (Said,), {}))
            sys.modules[name] = module
        spec = importlib.util.spec_from_file_location(f"launch_file_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        entities = list(module.generate_launch_description().args[0])
    finally:
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = old
    for handler in [item for item in entities if type(item).__name__ == "RegisterEventHandler"]:
        entities += _handled(handler.args[0])
    return entities


def _flat(entities: list[Said]) -> list[Said]:
    flat: list[Said] = []
    for entity in entities:
        flat += _flat(entity.args[0]) if type(entity).__name__ == "GroupAction" else [entity]
    return flat


def _handled(handler: Said) -> list[Said]:
    if type(handler).__name__ == "OnProcessIO":
        event = types.SimpleNamespace(text=b"site: files are in /somewhere\n")
        return _flat(handler.kwargs["on_stdout"](event) or [])
    return list(handler.kwargs["on_exit"])
