# `make demo` and `make test` are the two commands to remember; each does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Everything binds to loopback; ROS must not multicast either.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
# Options of the demo: make demo ARGS="--seed 7 --dishonest over-meter"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test check format bench bench-perception docs faults clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/.made:
	@echo "[1/3] making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed to develop, found {v.major}.{v.minor}")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml setup.py
	@echo "[2/3] installing depai_robot with ROS 2 wheels, MuJoCo and onnxruntime (about 600 MB, a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -e ".[ros,sim,onnx]"
	@touch $@

$(VENV)/.anvil: $(VENV)/.demo
	@echo "[3/3] installing the development chain (anvil, from npm)"
	@$(BIN)/depai-robot setup chain
	@touch $@

$(VENV)/.test: $(VENV)/.anvil
	@echo "[+] installing the tools of the tests"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -e ".[ros,sim,onnx,test]"
	@touch $@

$(VENV)/.interfaces: $(VENV)/.test tools/build_interfaces.py tools/interfaces-requirements.txt $(shell find depai_interfaces -type f)
	@$(BIN)/python tools/build_interfaces.py
	@touch $@

setup: $(VENV)/.anvil  ## what the demo needs, and nothing else

setup-test: $(VENV)/.interfaces  ## what the tests need

demo: setup  ## the whole loop: find the dock, buy energy, keep the receipt
	@$(BIN)/depai-robot demo $(ARGS)

test: setup-test  ## unit, property, contract, fault and integration tests, with real ROS, broker and chain
	$(BIN)/python -m pytest $(ARGS)

check: setup-test  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-test  ## lay the code out
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: setup-test  ## every fault at every place of a session; writes docs/faults.md (an hour; ARGS="--points 6": minutes)
	$(BIN)/python -m bench.faults $(ARGS)

bench: setup-test  ## measure, and write docs/benchmarks.md
	$(BIN)/python -m bench.all $(ARGS)

bench-perception: setup-test  ## the dock models beside AprilTag 3 and ArUco; writes docs/perception.md (an hour; ARGS=--quick: minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	$(BIN)/python -m bench.perception $(ARGS)

docs: setup-test  ## draw the pictures that are made from the code
	$(BIN)/python -m docs.draw
	$(BIN)/python -m docs.wire
	$(BIN)/python -m docs.ros_api
	$(BIN)/python -m docs.console

clean:  ## remove what was built, not what was recorded in out/
	rm -rf build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
