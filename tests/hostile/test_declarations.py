"""Declarations of any form: what they say is checked, or the file is named; none fills the memory or leaves build/."""

import copy

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from logreasoner import config
from logreasoner.cli import UserError
from logreasoner.files import ROOT
from tests.hostile.conftest import forget, some

EXPERIMENTS = ROOT / "experiments"
LAUGHS = "\n".join(["a0: &a0 [lol, lol]", *(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]"
                                            for at in range(1, 12))])
MERGED = "\n".join(["b0: &b0 {x: 1}", *(f"b{at}: &b{at} {{<<: [{', '.join([f'*b{at - 1}'] * 9)}]}}"
                                        for at in range(1, 12))])
PIECES = st.sampled_from([
    "a: ", "- ", "\n", "  ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "!!int ", "!!timestamp ", "!!bool ", "!!binary ",
    "!!set ", "!!python/object/apply:os.system [id]", "!!omap ", "!!pairs ", "? ", ": ", "2026-99-99", "0x", "1e999",
    "'", '"', "|\n", ">\n", "%YAML 1.2\n", "---\n", "\t", "=", "~", "\0"])


@given(data=st.binary(max_size=60) | st.lists(PIECES | st.text(max_size=5), max_size=20).map(
    lambda parts: "".join(parts).encode("utf-8", "surrogatepass")))
@example(data=LAUGHS.encode())
@example(data=MERGED.encode())
@example(data=b"a: &a [*a]")
@example(data=b"a: &a {<<: *a}")
@example(data=b"a: " + b"[" * 100_000)
@example(data=b"a: 2026-99-99")
@example(data=b"a: !!int x")
@example(data=b"? [1]\n: 2")
@example(data=b"1: 2")
@some(150)
def test_yaml_of_any_form_is_names_and_values_or_an_error(place, data):
    path = place / "given.yaml"
    path.write_bytes(data)
    try:
        assert all(isinstance(name, str) for name in config.load_yaml(path))
    except UserError as error:
        assert str(error).startswith(f"{path}: ")


LEAF = st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.text(max_size=5),
                 st.sampled_from(["../../x", "{run.__class__}", "$HOME"]), st.builds(dict), st.builds(list),
                 st.just({"a": {"b": 1}}))


@st.composite
def changed(draw, value):
    """A declaration with one value, anywhere in it, replaced or left out, or one added."""
    value = copy.deepcopy(value)
    at = value
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
            at = at[key]
            continue
        if draw(st.booleans()):
            at[key] = draw(LEAF)
        else:
            del at[key]
        break
    if isinstance(at, dict) and draw(st.booleans()):
        at[draw(st.sampled_from(["extends", "name", "../x", "a", "", "\n"]))] = draw(LEAF)
    return value


def used(run):
    """Every model at every stage, as far as they are declared well; what they are made in lies in the run's folder."""
    try:
        for model, stage in ((model, stage) for model in config.models() for stage in ("base", *config.stages())):
            run.check(model, stage)
            run.weights(model, stage)
            assert ".." not in run.dataset(model, stage).relative_to(run.dir).parts
    except UserError:
        pass


FILES = ["tasks/anomaly_detection.yaml", "runs/demo.yaml", "runs/paper.yaml", "models.yaml", "stages.yaml",
         "hardware.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_declaration_is_checked(place, strays, command, name):
    whole = yaml.safe_load((EXPERIMENTS / name).read_text())

    @given(value=changed(whole))
    @some(25)
    def check(value):
        path = place / "experiments" / name
        path.write_text(yaml.safe_dump(value, sort_keys=False))
        forget()
        for path in (place / "build" / "runs").glob("*/run.json"):
            path.unlink()
        status = command(config, "--run", "changed", "--experiment", "demo", "teacher=m")
        assert status == 0 or status.startswith("error: "), status
        if status == 0:
            used(config.load_run("changed"))
        assert not strays()

    try:
        check()
    finally:
        (place / "experiments" / name).write_text((EXPERIMENTS / name).read_text())


def test_a_run_that_extends_itself_is_an_error(place, command):
    for name, base in (("one", "two"), ("two", "one")):
        (place / "experiments" / "runs" / f"{name}.yaml").write_text(f"extends: {base}\n")
    assert "extends itself" in command(config, "--run", "x", "--experiment", "one")
    for name in ("one", "two"):
        (place / "experiments" / "runs" / f"{name}.yaml").unlink()
