"""The model gate on the real runtime and on the frames that the tests keep: figures, signatures, refusals."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.adapters.onnx_session import RuntimeSettings
from depai_robot.app.dock_observer import make_observer
from depai_robot.app.model_data import DataSet
from depai_robot.app.model_gate import (
    CHAIN_ID,
    Limits,
    Metrics,
    compare,
    make_report,
    open_report,
    require_report,
    seal_report,
)
from depai_robot.app.resource import resource_path
from depai_robot.app.sealing import Sealer
from depai_robot.cli.model import model
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Pose3
from depai_robot.values.identity import address_to_hex

FRAMES = Path(__file__).parents[1] / "data" / "dock_frames"
TRUTH = json.loads((FRAMES / "truth.json").read_text(encoding="utf-8"))
MODELS, DOCK_FILE = resource_path("models"), resource_path("config", "dock.yaml")
DOCK = parse_dock(DOCK_FILE.read_text(encoding="utf-8"))
INSPECTOR, STRANGER = DevelopmentSigner("inspector"), DevelopmentSigner("stranger")
LENIENT = Limits(frames_min=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The kept frames in the form that anyone may bring."""
    folder = tmp_path_factory.mktemp("frames")
    lines = []
    for name, entry in TRUTH.items():
        shutil.copy(FRAMES / f"{name}.png", folder)
        dock = None
        if entry["dock"]:
            pose = Pose3.from_matrix(np.array(entry["dock"]["rotation"]), tuple(entry["dock"]["position_m"]))
            dock = {"position_m": pose.position_m, "quaternion_xyzw": pose.quaternion_xyzw}
        focal = entry["focal_px"]
        label = {"image": f"{name}.png", "fx": focal, "fy": focal, "cx": 319.5, "cy": 239.5}
        lines.append(json.dumps({**label, "distortion": [0, 0, 0, 0, 0], "condition": "kept", "dock": dock}))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def report_of(folder, candidate=MODELS, limits=LENIENT, now_s=1_000):
    return make_report(
        candidate,
        MODELS,
        DataSet(folder),
        dock=DOCK,
        data_name="kept",
        limits=limits,
        settings=RuntimeSettings(),
        now_s=now_s,
    )


@pytest.fixture(scope="module")
def report(folder):
    return report_of(folder)


def test_the_same_frames_models_and_versions_give_the_same_report(folder, report):
    assert report_of(folder) == report
    assert report.passed
    assert report.candidate == report.current
    assert report.candidate.docks == sum(bool(entry["dock"]) for entry in TRUTH.values())
    assert report.candidate.usable == report.candidate.docks
    assert report.candidate.wrong == report.candidate.false == 0
    assert {"onnxruntime", "opencv", "numpy", "python", "depai_robot"} == set(report.versions)


def test_models_that_see_less_do_not_pass(folder, tmp_path):
    blind = tmp_path / "models"
    shutil.copytree(MODELS, blind)
    manifest = json.loads((blind / "manifest.json").read_text())
    manifest["gate"]["weights"][0] = -1000.0  # never sure enough
    (blind / "manifest.json").write_text(json.dumps(manifest))
    report = report_of(folder, blind)
    assert not report.passed
    assert report.candidate.usable == 0
    failed = [check.name for check in report.checks if not check.passed]
    assert failed == [
        "usable",
        "usable, against the current models",
        "usable, kept, against the current models",
    ]


def metrics(**changes):
    values = {
        "models_sha256": "ab" * 32,
        "name": "x",
        "docks": 1000,
        "usable": 950,
        "wrong": 2,
        "rooms": 1000,
        "false": 1,
        "position_p95_mm": 10.0,
        "yaw_p95_deg": 1.0,
        "usable_by_condition": {"clean": (500, 500), "dark": (450, 500)},
    }
    return Metrics(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"usable": 941}, []),
        ({"usable": 930}, ["usable, against the current models"]),
        ({"wrong": 3}, ["wrong, against the current models"]),
        ({"wrong": 6}, ["wrong", "wrong, against the current models"]),
        ({"false": 2}, ["false, against the current models"]),
        ({"docks": 90, "usable": 90}, ["frames with a dock", "wrong", "wrong, against the current models"]),
        (
            {"usable_by_condition": {"clean": (500, 500), "dark": (440, 500)}},
            ["usable, dark, against the current models"],
        ),
    ],
)
def test_each_limit_is_its_own_check(changes, failed):
    seen = [check.name for check in compare(metrics(**changes), metrics(), Limits()) if not check.passed]
    assert seen == failed


# --- what a robot demands -----------------------------------------------------------------------------------


def put(path, report, signer=INSPECTOR):
    path.write_text(seal_report(report, signer) + "\n", encoding="ascii")
    return path


def test_a_robot_that_demands_a_report_runs_models_that_have_one(report, tmp_path):
    path = put(tmp_path / "report.jws", report)
    keys = (address_to_hex(INSPECTOR.address),)
    assert make_observer(MODELS, DOCK_FILE, report=path, report_keys=keys).model_sha256
    with pytest.raises(ConfigError, match="runs only models with a report: depai-robot model gate"):
        make_observer(MODELS, DOCK_FILE, report=tmp_path / "none.jws", report_keys=keys)
    put(path, report, STRANGER)
    with pytest.raises(ConfigError, match="is signed by .* expected one of the trusted keys"):
        make_observer(MODELS, DOCK_FILE, report=path, report_keys=keys)


def test_a_report_of_other_models_or_that_did_not_pass_is_refused(report, tmp_path):
    path, trusted = tmp_path / "report.jws", (INSPECTOR.address,)
    mine = report.candidate.models_sha256
    assert require_report(put(path, report), mine, trusted) == report
    with pytest.raises(ConfigError, match="these are cdcd"):
        require_report(path, "cd" * 32, trusted)
    failed = msgspec.structs.replace(report.checks[0], passed=False)
    for changed in (
        msgspec.structs.replace(report, passed=False),
        msgspec.structs.replace(report, checks=[failed, *report.checks[1:]]),  # says passed all the same
    ):
        with pytest.raises(ConfigError, match="did not pass"):
            require_report(put(path, changed), mine, trusted)


def test_what_is_not_a_signed_report_is_refused(report):
    token = seal_report(report, INSPECTOR)
    head, payload, signature = token.split(".")
    for bad in (
        "",
        "a.b",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        f"{head}.{payload[:-2]}.{signature}",
        ".".join([seal_report(report, STRANGER).split(".")[0], payload, signature]),
        "x" * 70_000,
    ):
        with pytest.raises(ConfigError, match="report"):
            open_report(bad)
    other = Sealer(CHAIN_ID, INSPECTOR, None, None).seal_bytes(b'{"kind":"receipt"}')
    with pytest.raises(ConfigError, match="signed, but not a report"):
        open_report(other)


# --- data sets ----------------------------------------------------------------------------------------------


def test_a_set_is_named_by_all_of_its_bytes(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert DataSet(copy).sha256 == DataSet(folder).sha256
    picture = copy / "near.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert DataSet(copy).sha256 != DataSet(folder).sha256


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{}", "line 1: Object missing required field"),
        ("nonsense", "line 1: JSON is malformed"),
        ("", "has 0 frames"),
        ('"image": "../../etc/passwd"', "is not inside of the folder"),
        ('"image": "/etc/passwd"', "is not inside of the folder"),
        ('"image": "none.png"', "No such file"),
    ],
)
def test_a_folder_that_is_no_set_is_refused(tmp_path, line, words):
    if line.startswith('"image"'):
        line = f'{{{line}, "fx": 1, "fy": 1, "cx": 1, "cy": 1, "condition": "x", "dock": null}}'
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=words):
        DataSet(tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("text")
    (tmp_path / "labels.jsonl").write_text(
        '{"image": "a.png", "fx": 1, "fy": 1, "cx": 1, "cy": 1, "condition": "x", "dock": null}'
    )
    with pytest.raises(ConfigError, match=r"a\.png is not an image"):
        list(DataSet(tmp_path))


# --- command ------------------------------------------------------------------------------------------------


def test_the_commands_measure_sign_and_show(folder, tmp_path):
    key, password, output = tmp_path / "key.json", tmp_path / "password", tmp_path / "report.jws"
    password.write_text("correct horse battery")
    password.chmod(0o600)
    write_keystore(key, INSPECTOR.secret, "correct horse battery")
    arguments = ["gate", "--candidate", str(MODELS), "--data", str(folder), "--output", str(output)]
    signing = ["--key", str(key), "--password-file", str(password)]
    result = CliRunner().invoke(model, [*arguments, *signing, "--frames-min", "3"])
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.output
    shown = CliRunner().invoke(model, ["report", str(output)])
    assert shown.exit_code == 0
    signer, _ = open_report(output.read_bytes().strip())
    assert f"signed by {address_to_hex(signer)}" in shown.output
    unsigned = CliRunner().invoke(model, arguments)
    assert unsigned.exit_code == 1, "too few frames"
    assert "NOT PASSED" in unsigned.output
    assert "not signed" in unsigned.output


def test_eval_prints_every_condition_and_range(folder):
    done = CliRunner().invoke(model, ["eval", "--data", str(folder), "--cells"])
    assert done.exit_code == 0, done.output
    assert DataSet(folder).sha256 in done.output
    assert "kept, 3 to 4 m" in done.output or "kept, 4 to 5 m" in done.output
    assert "usable %" in done.output


def test_eval_gives_the_gate_s_figures_as_json(folder):
    done = CliRunner().invoke(model, ["eval", "--data", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    total = json.loads(done.output)["total"]
    report = make_report(
        MODELS,
        MODELS,
        DataSet(folder),
        dock=DOCK,
        data_name="kept",
        limits=LENIENT,
        settings=RuntimeSettings(),
        now_s=1,
    )
    current = report.current
    seen = (total["docks"], total["usable"], total["wrong"], total["rooms"], total["false"])
    assert seen == (current.docks, current.usable, current.wrong, current.rooms, current.false)
    assert total["position_p95_mm"] == pytest.approx(current.position_p95_mm, abs=1e-3)


def test_eval_says_which_line_is_no_label(folder, tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"image": "a.png"}\n', encoding="utf-8")
    done = CliRunner().invoke(model, ["eval", "--data", str(tmp_path)])
    assert done.exit_code != 0
    assert "line 1" in str(done.exception)
