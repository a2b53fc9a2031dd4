import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from data_builders.llamafactory_dataset import dataset_info
from data_builders.recipes import (
    COMMITTED_STAGES,
    LAUNCHES,
    Split,
    committed,
    memory_gib,
    render,
    render_start,
    require_packages,
    split_batch,
)
from logreasoner.cli import UserError
from logreasoner.config import Run, declare, hardware, load_yaml, models, resolve, speeds, stages
from logreasoner.files import ROOT, read_json, write_json, writing
from logreasoner.logged import environment_of, exported

SITE = [str(path) for path in (ROOT / ".venv-train").glob("lib/python3*/site-packages")]
# What the paper states (section 4.2.2), by stage.
PAPER = {
    "thought-sft": {"stage": "sft", "learning_rate": 3.0e-5, "num_train_epochs": 5.0, "cutoff_len": 2096,
                    "lr_scheduler_type": "cosine"},
    "solution-sft": {"stage": "sft", "learning_rate": 3.0e-5, "num_train_epochs": 5.0, "cutoff_len": 2096,
                     "lr_scheduler_type": "cosine"},
    "dpo": {"stage": "dpo", "learning_rate": 5.0e-6, "num_train_epochs": 5.0, "pref_beta": 0.1},
}
GLOBAL_BATCH = {"thought-sft": 16, "solution-sft": 16, "dpo": 4}
# What is set although the paper is silent; each has a line in docs/deviations.md.
OURS = {"bf16", "cutoff_len", "logging_steps", "save_strategy", "save_total_limit", "report_to"}
NECESSARY = {"model_name_or_path", "trust_remote_code", "stage", "do_train", "finetuning_type", "dataset_dir",
             "dataset", "template", "enable_thinking", "output_dir",
             "per_device_train_batch_size", "gradient_accumulation_steps", "seed"}


OPEN = [name for name, row in models().items() if row.kind == "open"]


def paths():
    names = [name for name, row in models().items() if row.committed]
    return [(name, stage) for name in names for stage in COMMITTED_STAGES]


def recipe(name, stage):
    return load_yaml(ROOT / "recipes" / name / f"{stage}.yaml")


def test_the_committed_recipes_are_current():
    texts = committed()
    assert {str(path) for path in texts} == {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.*")
                                                if path.is_file()}
    for path, text in texts.items():
        assert (ROOT / path).read_text() == text, f"{path} is not what `make recipes` renders"


def test_losses_are_reported_only_where_asked():
    run = Run("t", resolve("paper", []))
    for options in ({}, {"report_to": "tensorboard"}):
        text = render(run, "qwen2.5-7b", "dpo", "2xA100", run.recipe("qwen2.5-7b", "dpo"), **options)
        assert yaml.safe_load(text)["report_to"] == options.get("report_to", "none")


@pytest.mark.parametrize(("name", "stage"), paths())
def test_a_recipe_says_what_the_paper_says(name, stage):
    given = recipe(name, stage)
    assert {key: given[key] for key in PAPER[stage]} == PAPER[stage]
    assert given["finetuning_type"] == "lora"
    assert given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * 2 == GLOBAL_BATCH[stage]


@pytest.mark.parametrize(("name", "stage"), paths())
def test_everything_else_is_left_to_llama_factory(name, stage):
    assert set(recipe(name, stage)) - set(PAPER[stage]) - NECESSARY <= OURS


def test_what_we_set_ourselves_is_in_the_deviations():
    silent = (ROOT / "docs" / "deviations.md").read_text()
    assert {key for key in OURS if f"`{key}`" not in silent} == set()


def test_each_stage_starts_where_the_one_before_ended():
    for name, _ in paths():
        weights = [recipe(name, stage)["model_name_or_path"] for stage in COMMITTED_STAGES]
        assert weights == [models()[name].path, f"build/runs/paper/models/{name}/thought-sft/model",
                           f"build/runs/paper/models/{name}/solution-sft/model"]


@pytest.mark.parametrize("stage", COMMITTED_STAGES)
def test_the_dataset_named_is_registered_with_every_column(stage):
    declared = stages()[stage]
    entry = dataset_info(declared)[recipe("qwen2.5-7b", stage)["dataset"]]
    columns = {"prompt", "query", *(("chosen", "rejected") if declared.method == "dpo" else ("response",))}
    assert set(entry["columns"]) == columns
    assert entry.get("ranking", False) == (declared.method == "dpo")


@pytest.mark.parametrize("profile", sorted(hardware()))
@pytest.mark.parametrize("stage", COMMITTED_STAGES)
def test_the_split_gives_the_global_batch(profile, stage):
    split = split_batch(stages()[stage], hardware()[profile])
    assert split.per_device * split.accumulation * hardware()[profile].devices == GLOBAL_BATCH[stage]
    assert split.per_device <= hardware()[profile].max_per_device[stages()[stage].method]


def test_a_split_that_is_not_even_is_an_error():
    three = hardware()["2xA100"].model_copy(update={"devices": 3})
    with pytest.raises(UserError, match="16 cannot be split over 3"):
        split_batch(stages()["thought-sft"], three)
    six = stages()["dpo"].model_copy(update={"global_batch": 6})
    two_at_once = hardware()["2xA100"].model_copy(update={"max_per_device": {"sft": 2, "dpo": 2}})
    assert split_batch(six, two_at_once) == Split(1, 3)


def test_memory_is_16_bytes_a_parameter_for_full_fine_tuning():
    assert memory_gib(2**30, "full", False) == 16
    assert memory_gib(2**30, "full", True, sharing=2) == 9
    assert memory_gib(2**30, "lora", True) < 3


def test_full_on_two_cards_uses_deepspeed_and_the_policy_is_its_own_reference():
    run = Run("paper-full", resolve("paper", ["finetuning=full"]))
    given = yaml.safe_load(render(run, "qwen2.5-7b", "dpo", "2xA100", run.recipe("qwen2.5-7b", "dpo")))
    zero = read_json(ROOT / given["deepspeed"])["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"]) == (3, False)  # true: NaN (DeepSpeed issue 5347)
    assert given["output_dir"].endswith("dpo/model")
    assert "ref_model" not in given and "adapter_name_or_path" not in given


@pytest.mark.parametrize(("stage", "memory"), [("dpo", 18), ("orpo", 16), ("simpo", 16), ("kto", 18)])
def test_a_loss_without_a_reference_needs_no_memory_for_one(stage, memory):
    run = Run("paper-full", resolve("paper", ["finetuning=full"]))
    text = render(run, "qwen2.5-7b", stage, "1xA100", run.recipe("qwen2.5-7b", stage))
    gib = math.ceil(models()["qwen2.5-7b"].parameters * memory / 2**30)
    assert f"about {gib} GiB a device" in text and "ref_model" not in text


PARSE = """
import json, sys, yaml
from llamafactory.hparams import get_train_args
for path in sys.argv[1:]:
    given = yaml.safe_load(open(path))
    given.pop("bf16", None)  # a CPU has none; everything else is parsed as it stands
    model, data, training, finetuning, _ = get_train_args({**given, "use_cpu": True})
    print(json.dumps([path, finetuning.stage, finetuning.pref_beta, training.learning_rate, data.dataset,
                      model.model_name_or_path, data.template, data.enable_thinking]))
"""


@pytest.mark.e2e
def test_llama_factorys_own_parser_accepts_every_recipe(in_train, workdir):
    """The committed ones, and two rendered for every model."""
    files = [str(path) for path in sorted(ROOT.glob("recipes/*/*.yaml"))]
    for name in OPEN:
        for stage in ("thought-sft", "dpo"):
            files.append(str(workdir / name / f"{stage}.yaml"))
            with writing(Path(files[-1])) as stream:
                stream.write(render(own(), name, stage, "2xA100", Path(files[-1])))
    parsed = [json.loads(line) for line in in_train(PARSE, *files).splitlines() if line.startswith("[\"")]
    assert [row[0] for row in parsed] == files
    for path, stage, beta, rate, dataset, weights, template, thinking in parsed:
        name, file = Path(path).parts[-2:]
        expected, row = stages()[file.removesuffix(".yaml")], models()[name]
        assert (stage, rate, dataset) == (expected.method, expected.arguments["learning_rate"], [expected.dataset])
        assert (beta, template, thinking) == (0.1, row.template, row.thinking)
        assert weights.replace("runs/paper/", "runs/t/") == own().weights(name, expected.starts_from)


KNOWN = """
import json
from llamafactory.data.template import TEMPLATES, ReasoningTemplate
from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS
print("KNOWN", json.dumps([
    [path, name, DEFAULT_TEMPLATE[name]] for name, paths in SUPPORTED_MODELS.items()
    for source, path in paths.items() if source.value == "hf"]))
print("THINKING", json.dumps([name for name, row in TEMPLATES.items() if isinstance(row, ReasoningTemplate)]))
"""
NOT_LISTED = {"HuggingFaceTB/SmolLM3-3B": "qwen3"}  # LLaMA-Factory 0.9.5 has no SmolLM3; its turns are Qwen3's
RENAMED = {"meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B-Instruct"}  # one repository of the hub


@pytest.mark.e2e
def test_names_templates_and_sizes_are_those_of_llama_factorys_own_tables(in_train):
    printed = in_train(KNOWN).splitlines()
    listed, reasoning = (json.loads(line.split(" ", 1)[1]) for line in printed
                         if line.startswith(("KNOWN", "THINKING")))
    known = {path: (name, template) for path, name, template in listed}
    for name, row in models().items():
        if row.kind != "open" or "{run}" in row.path:
            continue
        if row.path in NOT_LISTED:
            assert row.path not in known and row.template == NOT_LISTED[row.path], name
        else:
            theirs, template = known[RENAMED.get(row.path, row.path)]
            assert row.template == template, (name, theirs, template)
            number, unit = re.findall(r"-(\d+(?:\.\d+)?)([BM])\b", theirs)[-1]
            assert row.parameters == pytest.approx(float(number) * {"B": 1e9, "M": 1e6}[unit], rel=0.25), (name, theirs)
        assert row.template in reasoning if row.thinking or row.begins_thought else True, name


@pytest.mark.e2e
def test_the_parser_accepts_full_fine_tuning_with_deepspeed(in_train, workdir):
    if "True" not in in_train("import importlib.util as u; print(u.find_spec('deepspeed') is not None)"):
        pytest.skip("deepspeed is installed on GPU machines only (requirements/deepspeed.txt)")
    run = Run("paper-full", resolve("paper", ["finetuning=full"]))
    file = workdir / "dpo.yaml"
    file.write_text(render(run, "qwen2.5-7b", "dpo", "2xA100", run.recipe("qwen2.5-7b", "dpo")))
    assert "dpo" in in_train(PARSE, str(file))


def test_an_unknown_hardware_is_named(workdir):
    run = Run("paper", resolve("paper", []))
    with pytest.raises(UserError, match="unknown hardware 'abacus'"):
        render(run, "qwen2.5-7b", "dpo", "abacus", run.recipe("qwen2.5-7b", "dpo"))


def test_make_shows_the_whole_chain():
    done = subprocess.run(["make", "-n", "dpo", "MODEL=qwen2.5-7b", "RUN=never"], cwd=ROOT, capture_output=True,
                          text=True)
    started = re.findall(r"-- llamafactory-cli train (\S+)$", done.stdout, re.MULTILINE)
    assert [path.rsplit("/", 1)[1] for path in started] == [f"{stage}.yaml" for stage in COMMITTED_STAGES]


def own(overrides=()):
    return Run("t", resolve("paper", list(overrides)))


def rendered(run, stage, hardware="2xA100", **how):
    return yaml.safe_load(render(run, "qwen2.5-7b", stage, hardware, run.recipe("qwen2.5-7b", stage), **how))


@pytest.mark.parametrize("name", sorted(speeds()))
@pytest.mark.parametrize("stage", COMMITTED_STAGES)
def test_a_speed_profile_adds_its_arguments_and_changes_nothing_else(name, stage):
    plain, fast, declared = rendered(own(), stage), rendered(own([f"speed={name}"]), stage), speeds()[name]
    added = declared.arguments.get(stages()[stage].method, {})
    split = {key for key in plain if key in ("per_device_train_batch_size", "gradient_accumulation_steps")}
    assert {key: value for key, value in fast.items() if key not in plain} == added
    assert {key for key in plain if fast[key] != plain[key]} <= (split if declared.max_per_device else set())
    batches = [math.prod(given[key] for key in split) for given in (plain, fast)]
    assert batches[0] == batches[1]


def test_a_recipe_says_what_its_speed_profile_does_to_a_batch():
    run = own(["speed=neat-packing"])
    text = render(run, "qwen2.5-7b", "thought-sft", "2xA100", run.recipe("qwen2.5-7b", "thought-sft"))
    assert "# Speed: neat-packing: " in text and speeds()["neat-packing"].batch in text


def test_packs_for_flash_attention_are_taken_one_at_a_time():
    assert rendered(own(["speed=fast"]), "solution-sft", "1xH200")["per_device_train_batch_size"] == 1


def test_the_speed_belongs_to_the_run(workdir):
    declare("t", resolve("paper", []))
    with pytest.raises(UserError, match="experiment.speed: None -> 'packing'"):
        declare("t", resolve("paper", ["speed=packing"]))
    with pytest.raises(UserError, match="unknown SPEED 'warp'.*neat-packing"):
        resolve("paper", ["speed=warp"])


def test_a_run_that_was_declared_before_there_were_speeds_goes_on(workdir):
    run = declare("t", resolve("paper", []))
    declared = read_json(run.dir / "run.json")
    del declared["experiment"]["speed"]
    write_json(run.dir / "run.json", declared)
    assert declare("t", resolve("paper", [])).experiment.speed is None


def test_a_missing_gpu_or_package_is_named(tmp_path):
    run = own(["speed=kernels"])
    with pytest.raises(UserError, match="SPEED=kernels needs liger-kernel and flash-attn, which run on GPUs only"):
        rendered(run, "dpo", "cpu")
    site = tmp_path / "lib" / "python3.11" / "site-packages" / "liger_kernel-0.8.5.dist-info"
    with writing(site / "METADATA") as stream:
        stream.write("Metadata-Version: 2.1\nName: liger-kernel\nVersion: 0.8.5\n")
    with pytest.raises(UserError, match="SPEED=kernels needs flash-attn: do .*/bin/pip install flash-attn,"):
        require_packages(run, tmp_path)
    require_packages(own(["speed=packing"]), tmp_path)
    full = own(["finetuning=full"])
    with pytest.raises(UserError, match="FINETUNING=full on 2 x NVIDIA A100.* needs deepspeed: do .*/bin/pip install "
                                        "-r requirements/deepspeed.txt"):
        require_packages(full, tmp_path, hardware()["2xA100"])
    require_packages(full, tmp_path, hardware()["1xH200"])
    require_packages(own(), tmp_path, hardware()["2xA100"])


@pytest.mark.parametrize(("profile", "nodes", "stage", "split"), [
    ("2xA100", 2, "thought-sft", Split(4, 1)), ("1xA100", 2, "thought-sft", Split(4, 2)),
    ("1xA100", 4, "dpo", Split(1, 1))])
def test_the_global_batch_is_spread_over_the_nodes_too(profile, nodes, stage, split):
    assert split_batch(stages()[stage], hardware()[profile], nodes) == split
    given = rendered(own(), stage, profile, nodes=nodes)
    assert (given["per_device_train_batch_size"], given["gradient_accumulation_steps"]) == (
        split.per_device, split.accumulation)


def test_nodes_that_the_batch_cannot_be_spread_over_are_an_error():
    with pytest.raises(UserError, match="4 cannot be split over 8 devices \\(4 x 2 x NVIDIA A100"):
        rendered(own(), "dpo", nodes=4)


def started(tmp_path, launch, nodes=1, profile="2xA100", stage="thought-sft"):
    """What starts a training (a script, or the environment of one machine), written where it can be run."""
    recipe = Path("build/runs/t/recipes/qwen2.5-7b") / f"{stage}.yaml"
    (path, text), = render_start(own(), stage, profile, recipe, nodes, launch).items()
    written = tmp_path / path.name
    written.write_text(text)
    return written


@pytest.mark.parametrize(("launch", "nodes", "profile"), [
    (launch, nodes, profile) for launch in LAUNCHES
    for nodes, profile in [(1, "cpu"), (1, "2xA100"), (2, "4x24GB"), (2, "cpu")] if (launch, nodes) != ("torchrun", 1)])
def test_starting_scripts_are_clean(launch, nodes, profile, tmp_path):
    script = started(tmp_path, launch, nodes, profile)
    for command in (["bash", "-n"], [Path(sys.executable).with_name("shellcheck"), "--severity=style"]):
        done = subprocess.run([*command, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# What stands for LLaMA-Factory prints what it was started with; everything else in the script is real.
STAND_IN = """#!/bin/bash
echo "$FORCE_TORCHRUN $NNODES $NODE_RANK $NPROC_PER_NODE $MASTER_ADDR $MASTER_PORT $*"; env
"""


@pytest.mark.parametrize(("given", "expected"), [
    ({"NODE_RANK": "1", "MASTER_ADDR": "first"}, "1 2 1 2 first 29500 train build/"),
    ({"MASTER_ADDR": "first", "MASTER_PORT": "4000"}, "1 2 0 2 first 4000 train build/")])
def test_torchrun_is_told_how_many_processes_there_are(given, expected, tmp_path):
    script = started(tmp_path, "torchrun", 2)
    program = tmp_path / ".venv-train" / "bin" / "llamafactory-cli"
    with writing(program) as stream:
        stream.write(STAND_IN)
    program.chmod(0o755)
    done = subprocess.run(["bash", script], cwd=tmp_path, env={"PATH": os.environ["PATH"], **FOREIGN, **given},
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(expected), done
    assert not re.search(f"^({'|'.join(FOREIGN)})=", done.stdout, re.MULTILINE)
    assert ("NODE_RANK=1 MASTER_ADDR=first" in done.stderr) == ("NODE_RANK" not in given)


@pytest.mark.parametrize(("profile", "expected"), [
    ("1xA100", {"NNODES": "1", "NODE_RANK": "0", "NPROC_PER_NODE": "1"}),  # else it would take every GPU that it sees
    ("2xA100", {"NNODES": "1", "NODE_RANK": "0", "NPROC_PER_NODE": "2", "FORCE_TORCHRUN": "1"}),
    ("cpu", {"NNODES": "1", "NODE_RANK": "0", "NPROC_PER_NODE": "1", "OMP_WAIT_POLICY": "PASSIVE",
             "ACCELERATE_TORCH_DEVICE": "cpu"})])
def test_one_machine_is_told_by_its_environment(profile, expected, tmp_path):
    everywhere = {"PYTHONUTF8": "1", "DS_IGNORE_CUDA_DETECTION": "1"}
    assert exported(started(tmp_path, "torchrun", profile=profile)) == {**everywhere, **expected}


# As a job of a cluster finds them. RDZV_ID alone makes LLaMA-Factory start an elastic training.
FOREIGN = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "RDZV_ID": "job", "MAX_RESTARTS": "9", "MIN_NNODES": "1",
           "MAX_NNODES": "4"}


def test_what_another_program_set_for_its_own_nodes_is_not_inherited(tmp_path, monkeypatch):
    elsewhere = {**FOREIGN, "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1"}
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    given = environment_of(started(tmp_path, "torchrun"))
    assert not set(elsewhere) & set(given) and given["NPROC_PER_NODE"] == "2" and given["PATH"] == os.environ["PATH"]
    sourced = subprocess.run(["bash", "-c", f". {started(tmp_path, 'torchrun')}; env"], capture_output=True, text=True)
    assert {line.partition("=")[0] for line in sourced.stdout.splitlines()} >= set(given) - {"_", "SHLVL"}
    assert not re.search(f"^({'|'.join(elsewhere)})=", sourced.stdout, re.MULTILINE)


@pytest.mark.parametrize(("variables", "start"), [
    ([], "--environment {0}.env -- llamafactory-cli train {0}.yaml"), (["NODES=2"], "-- bash {0}.torchrun.sh"),
    (["LAUNCH=slurm"], "-- bash {0}.slurm.sh")])
def test_make_starts_with_the_file_that_was_rendered(variables, start, workdir):
    """On one machine with its environment; a script sets its own, and there is no other file then."""
    for name in ("Makefile", "demo", "experiments", "recipes", "requirements", "templates"):
        (workdir / name).symlink_to(ROOT / name)
    goal = ["build/runs/t/models/tiny/dpo/manifest.json", "RUN=t", "MODEL=tiny"]
    done = subprocess.run(["make", "-n", *goal, *variables], cwd=workdir, capture_output=True, text=True)
    assert start.format("build/runs/t/recipes/tiny/dpo") in done.stdout, done.stderr


def test_slurm_asks_for_the_nodes_and_their_gpus(tmp_path):
    text = started(tmp_path, "slurm", 2).read_text()
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=2"} <= set(text.splitlines())
    assert "gpus" not in started(tmp_path, "slurm", 2, "cpu").read_text()
    # Slurm reads its lines up to the first command.
    assert text.index("set -eu") > text.rindex("#SBATCH --")


@pytest.mark.parametrize(("launch", "says"), [("slurm", "there is no sbatch here"), ("ray", "there is no ray in")])
def test_a_missing_launcher_is_named(launch, says, tmp_path):
    for name in ("bash", "python"):  # a machine with nothing but these
        (tmp_path / name).symlink_to(shutil.which(name) or sys.executable)
    done = subprocess.run(["bash", started(tmp_path, launch)], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr


def test_torchrun_takes_no_white_space_in_paths(tmp_path, monkeypatch):
    folder = tmp_path / "my logs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    started(tmp_path, "torchrun", profile="1xA100")  # one process is started without torchrun
    with pytest.raises(UserError, match="my logs: torchrun.*white space"):
        started(tmp_path, "torchrun")


AS_LAUNCHED = """
import json, os, sys
os.environ["USE_RAY"] = "1"
from llamafactory.hparams import get_ray_args, get_train_args, read_args
for line in sys.argv[1:]:
    sys.argv = ["llamafactory-cli", *line.split()]
    given = dict(read_args())
    given.pop("bf16", None)  # a CPU has none
    model, data, training, _, _ = get_train_args({**given, "use_cpu": True})
    ray = get_ray_args(given)
    print("PARSED", json.dumps({
        "packing": data.packing, "neat_packing": data.neat_packing, "group_by_length": training.group_by_length,
        "flash_attn": model.flash_attn.value, "enable_liger_kernel": model.enable_liger_kernel,
        "use_ray": ray.use_ray, "ray_num_workers": ray.ray_num_workers}))
"""
UNSET = {"packing": False, "neat_packing": False, "group_by_length": False, "flash_attn": "auto",
         "enable_liger_kernel": False}


@pytest.mark.e2e
def test_the_parser_understands_speed_profiles_and_what_ray_is_given(in_train, workdir):
    """LLaMA-Factory refuses liger without its package: what is not installed is left out."""
    lines, expected = [], []
    for name, profile in speeds().items():
        run, file = own([f"speed={name}"]), workdir / f"{name}.yaml"
        if any(not list(distributions(name=package, path=SITE)) for package in profile.packages):
            continue
        file.write_text(render(run, "qwen2.5-7b", "thought-sft", "2xA100", file, nodes=2, launch="ray"))
        (text,) = render_start(run, "thought-sft", "2xA100", file, 2, "ray").values()
        last = text.splitlines()[-1]
        lines.append(last.removeprefix("exec llamafactory-cli train "))
        given = {**UNSET, **profile.arguments["sft"], "use_ray": True, "ray_num_workers": 4}
        expected.append({**given, "packing": given["packing"] or given["neat_packing"]})
    printed = in_train(AS_LAUNCHED, *lines).splitlines()
    assert expected and [json.loads(line[7:]) for line in printed if line.startswith("PARSED ")] == expected
