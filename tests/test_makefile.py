"""What make takes from the environment: nothing but credentials, a mirror, and names with the project's prefix."""

import os
import re
import subprocess

import pytest

from logreasoner.files import ROOT

MAKEFILES = ("Makefile", "demo/demo.mk", "recipes/stages.mk")
TEXT = "".join((ROOT / path).read_text() for path in MAKEFILES)
REFERENCES = set(re.findall(r"\$[({](?:value )?([A-Z][A-Z_]*)[:)}]", TEXT))
OWN = {name for name in REFERENCES if not name.startswith(("MAKE", "LOGREASONER_"))} - {"CURDIR"}
# Each row of docs/variables.md begins with its names.
DOCUMENTED = {name for row in re.findall(r"^\| (`[A-Z][^|]*) \|", (ROOT / "docs" / "variables.md").read_text(),
                                         re.MULTILINE) for name in re.findall("[A-Z_]+", row)}
OTHERS = "of-others"


def values(*arguments, names, **variables):
    """Return make's variables as a recipe sees them, with these arguments and environment variables."""
    show = f"shown: ; $(foreach name,{' '.join(names)},$(info $(name)=$($(name)))) @:"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "--silent", "--eval", show, "shown", *arguments], cwd=ROOT, capture_output=True,
                          env={**environment, **variables}, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("experiment", ["paper", "demo"])
def test_no_variable_comes_from_the_environment(experiment):
    """WSL exports NAME, conda HOST, and anything may export RUN, MODEL or SEED."""
    assert {"NAME", "HOST", "LIMIT", "SEED", "MODEL", "RUN", "ARGS", "BASE"} <= OWN
    names = sorted(OWN - {"DATA_MIRROR"})
    foreign = values(f"EXPERIMENT={experiment}", names=names, **dict.fromkeys(names, OTHERS))
    assert {name for name in foreign if OTHERS in foreign[name]} == set()
    assert foreign == values(f"EXPERIMENT={experiment}", names=names)


def test_every_variable_can_be_set_with_the_prefix_and_the_command_line_wins():
    names = sorted(DOCUMENTED - {"DATA_MIRROR", "EXPERIMENT"})
    assert set(names) <= OWN and len(names) > 40
    prefixed = {f"LOGREASONER_{name}": "mine" for name in names}
    assert values(names=names, **prefixed) == dict.fromkeys(names, "mine")
    assert values(*(f"{name}=given" for name in names), names=names, **prefixed) == dict.fromkeys(names, "given")


@pytest.mark.parametrize(("arguments", "variables", "declared"), [
    (["TASKS=demo"], {}, "demo"), (["TASKS=demo"], {"EXPERIMENT": "paper"}, "demo"),
    (["TASKS=demo"], {"LOGREASONER_EXPERIMENT": "smoke"}, "smoke"), (["TASKS=demo", "EXPERIMENT=smoke"], {}, "smoke"),
    (["EXPERIMENT=table3"], {"LOGREASONER_EXPERIMENT": "smoke"}, "paper"), ([], {"EXPERIMENT": "demo"}, "paper"),
])
def test_the_declaration_of_a_task_is_taken_unless_another_is_given(arguments, variables, declared):
    shown = values(*arguments, names=["EXPERIMENT", "RUN"], **variables)
    assert shown == {"EXPERIMENT": declared, "RUN": declared}


@pytest.mark.parametrize(("arguments", "variables", "model"), [
    ([], {}, "tiny"), ([], {"MODEL": "qwen2.5-7b"}, "tiny"),
    ([], {"LOGREASONER_MODEL": "smollm2-135m"}, "smollm2-135m"),
    (["MODEL=smollm2-135m"], {}, "smollm2-135m"),
])
def test_the_demo_takes_another_model_only_where_one_is_given(arguments, variables, model):
    assert values(*arguments, names=["DEMO_MODEL"], **variables) == {"DEMO_MODEL": model}
