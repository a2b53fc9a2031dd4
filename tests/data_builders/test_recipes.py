import json
import subprocess

import pytest
import yaml

from data_builders.gate import dataset_info
from data_builders.recipes import COMMITTED_STAGES, Split, committed, memory_gib, render, split_batch
from logreasoner.cli import UserError
from logreasoner.config import Run, hardware, load_yaml, models, resolve, stages
from logreasoner.files import ROOT

# What the paper states (section 4.2.2), by stage.
PAPER = {
    "thought-sft": {"stage": "sft", "learning_rate": 3.0e-5, "num_train_epochs": 5.0, "cutoff_len": 2096,
                    "lr_scheduler_type": "cosine"},
    "solution-sft": {"stage": "sft", "learning_rate": 3.0e-5, "num_train_epochs": 5.0, "cutoff_len": 2096,
                     "lr_scheduler_type": "cosine"},
    "dpo": {"stage": "dpo", "learning_rate": 5.0e-6, "num_train_epochs": 5.0, "pref_beta": 0.1},
}
GLOBAL_BATCH = {"thought-sft": 16, "solution-sft": 16, "dpo": 4}
# What is set although the paper is silent; each has a line in README.md, "Where the paper is silent".
OURS = {"bf16", "cutoff_len", "logging_steps", "logging_first_step", "save_strategy", "save_total_limit", "report_to"}
NECESSARY = {"model_name_or_path", "trust_remote_code", "stage", "do_train", "finetuning_type", "dataset_dir",
             "dataset", "template", "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"}


def paths():
    names = [name for name, row in models().items() if row.committed]
    return [(name, stage) for name in names for stage in COMMITTED_STAGES]


def recipe(name, stage):
    return load_yaml(ROOT / "recipes" / name / f"{stage}.yaml")


def test_the_committed_recipes_are_current():
    texts = committed()
    assert {str(path) for path in texts} == {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml")}
    for path, text in texts.items():
        assert (ROOT / path).read_text() == text, f"{path} is not what `make recipes` renders"


def test_losses_are_reported_only_where_asked():
    run = Run("t", resolve("paper", []))
    for asked in ({}, {"report_to": "tensorboard"}):
        text = render(run, "qwen2.5-7b", "dpo", "2xA100", run.recipe("qwen2.5-7b", "dpo"), **asked)
        assert yaml.safe_load(text)["report_to"] == asked.get("report_to", "none")


@pytest.mark.parametrize(("name", "stage"), paths())
def test_a_recipe_says_what_the_paper_says(name, stage):
    given = recipe(name, stage)
    assert {key: given[key] for key in PAPER[stage]} == PAPER[stage]
    assert given["finetuning_type"] == "lora"
    assert given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * 2 == GLOBAL_BATCH[stage]


@pytest.mark.parametrize(("name", "stage"), paths())
def test_everything_else_is_left_to_llama_factory(name, stage):
    assert set(recipe(name, stage)) - set(PAPER[stage]) - NECESSARY <= OURS


def test_what_is_ours_is_told_in_the_readme():
    silent = (ROOT / "README.md").read_text().split("## Where the paper is silent")[1]
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
    assert memory_gib(2**30, "full", "sft") == 16
    assert memory_gib(2**30, "full", "dpo", sharing=2) == 9
    assert memory_gib(2**30, "lora", "dpo") < 3


def test_full_on_two_cards_uses_deepspeed_and_the_policy_is_its_own_reference():
    run = Run("paper-full", resolve("paper", ["finetuning=full"]))
    given = yaml.safe_load(render(run, "qwen2.5-7b", "dpo", "2xA100", run.recipe("qwen2.5-7b", "dpo")))
    assert (ROOT / given["deepspeed"]).exists()
    assert given["output_dir"].endswith("dpo/model")
    assert "ref_model" not in given and "adapter_name_or_path" not in given


PARSE = """
import json, sys, yaml
from llamafactory.hparams import get_train_args
for path in sys.argv[1:]:
    given = yaml.safe_load(open(path))
    given.pop("bf16", None)  # a CPU has none; everything else is parsed as it stands
    model, data, training, finetuning, _ = get_train_args({**given, "use_cpu": True})
    print(json.dumps([path, finetuning.stage, finetuning.pref_beta, training.learning_rate, data.dataset]))
"""


@pytest.mark.e2e
def test_llama_factorys_own_parser_accepts_every_recipe(in_train):
    files = [str(path) for path in sorted(ROOT.glob("recipes/*/*.yaml"))]
    parsed = [json.loads(line) for line in in_train(PARSE, *files).splitlines() if line.startswith("[\"")]
    assert [row[0] for row in parsed] == files
    for path, stage, beta, rate, dataset in parsed:
        name = path.rsplit("/", 1)[1].removesuffix(".yaml")
        expected = stages()[name]
        assert (stage, rate, dataset) == (expected.method, expected.arguments["learning_rate"], [expected.dataset])
        assert beta == 0.1


@pytest.mark.e2e
def test_the_parser_accepts_full_fine_tuning_with_deepspeed(in_train, workdir):
    if "True" not in in_train("import importlib.util as u; print(u.find_spec('deepspeed') is not None)"):
        pytest.skip("deepspeed is installed on GPU machines only (requirements/train-gpu.txt)")
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
    trained = [line.split("llamafactory-cli train ")[1] for line in done.stdout.splitlines() if "cli train " in line]
    assert [path.rsplit("/", 1)[1] for path in trained] == ["thought-sft.yaml", "solution-sft.yaml", "dpo.yaml"]
