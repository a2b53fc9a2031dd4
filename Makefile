# LogReasoner: every step of the paper is a target; `make help` lists them. Files decide what is missing.
# A run is a declared experiment; everything it makes lies under build/runs/$(RUN).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules

# ---- what a user may set ---------------------------------------------------------------------------------------
MODEL ?= qwen2.5-7b
EXPERIMENT ?= paper
RUN ?= $(EXPERIMENT)
STAGE ?= dpo
HARDWARE ?= 2xA100
ENGINE ?= vllm
# These belong to the run: it is declared with them once, and a later difference is an error.
FINETUNING ?=
TEACHER ?=
TEACHER_BASE_URL ?=
TASKS ?=
SEED ?=
TRAINING_SEED ?=
SPEED ?=
# How many machines of HARDWARE train together, and what starts the processes: torchrun, slurm, ray.
NODES ?= 1
LAUNCH ?= torchrun
# How the teacher is asked (openai, openai-batch), and how much may be spent, in USD.
TEACHER_ENGINE ?= openai
BUDGET ?=
# Where model answers come from with ENGINE=openai (several addresses with spaces between them share the requests),
# what that endpoint calls the model; how many copies of it our own vLLM runs, each on devices of its own.
BASE_URL ?=
NAME ?=
DATA_PARALLEL ?=
# What is evaluated: at most LIMIT instances of a test set, a vote over SAMPLES answers; the models of a figure.
LIMIT ?=
SAMPLES ?=
MODELS ?=
FORMAT ?= text
# Where LLaMA-Factory reports losses: tensorboard, wandb, mlflow, ...; nothing leaves the machine without it.
TRACK ?=
WHO ?=
# Where `make data` looks first, before the network.
DATA_MIRROR ?=
DATA ?= bundled
PYTHON ?= $(if $(shell command -v python3.11),python3.11,python3)

# Names go into shell lines and paths as they are; what else is given is text: make expands no $(...) in it, and it is
# quoted where a shell reads it. ARGS alone is read by the shell, as options to be added.
NAMES := MODEL EXPERIMENT RUN STAGE HARDWARE ENGINE FINETUNING TEACHER TASKS SEED TRAINING_SEED TEACHER_ENGINE BUDGET \
  LIMIT SAMPLES MODELS FORMAT TRACK DATA DATA_PARALLEL TASK PORT A B RUNS PARTS SPEED NODES LAUNCH
TEXTS := BASE_URL TEACHER_BASE_URL NAME WHO HOST LOG FROM BGL SPIRIT DATA_MIRROR
UNSAFE := ' " ` $$ ; & | < > ( ) \ \#
define NEWLINE


endef
given = $(filter command environment,$(firstword $(origin $(1))))
$(foreach each,$(NAMES),$(if $(call given,$(each)),$(foreach char,$(UNSAFE),$(if $(findstring $(char),$(value $(each))),\
  $(error $(each) is a name, so it has no $(char) in it)))))
$(foreach each,$(NAMES) $(TEXTS),$(if $(findstring $(NEWLINE),$(value $(each))),$(error $(each) must be one line)))
$(foreach each,$(TEXTS),$(if $(call given,$(each)),$(eval override $(each) := $$(value $(each)))))
quoted = '$(subst ','\'',$(1))'

ifneq ($(DATA_MIRROR),)
export DATA_MIRROR
endif
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export GRADIO_ANALYTICS_ENABLED := False
export TOKENIZERS_PARALLELISM := false

# The grid of the paper is named like an experiment (make plan EXPERIMENT=table3); its run is the paper's.
ONLY := $(addprefix --only ,$(filter table% figure%,$(EXPERIMENT)))
ifneq ($(ONLY),)
override EXPERIMENT := paper
endif
# A task of one's own brings the declaration of its run: TASKS=disk-failures means EXPERIMENT=disk-failures.
ifneq ($(and $(filter file default undefined,$(origin EXPERIMENT)),$(TASKS),$(wildcard experiments/runs/$(TASKS).yaml)),)
EXPERIMENT := $(TASKS)
endif
# Models of models.yaml that are behind an API (a test compares).
API := chatgpt gpt-4o

# ---- one make at a time ----------------------------------------------------------------------------------------
# What builds into a run holds it: a second make waits, then finds what the first made. The lock ends with the last
# process that make started, so a kill needs no cleaning up. These goals build into no run, or only add files that
# appear whole; HELD=<run> says that it is held already, as inside of a make that holds it.
HELD ?=
FREE := help setup setup-dev setup-train setup-serve doctor data-ad review recipes costs matrix plan tables report \
  compare spread audit audit-deps serve analyze demo smoke new-task try-task check test test-long bench
ifneq ($(filter-out $(FREE),$(MAKECMDGOALS)),)
ALONE := $(if $(filter-out $(RUN),$(or $(HELD),/)),$(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),,alone))
endif
ifneq ($(ALONE),)
.PHONY: alone $(MAKECMDGOALS)
alone: export MADE_OF := make $(MAKECMDGOALS) RUN=$(RUN)
alone:
	@$(firstword $(wildcard .venv/bin/python) $(PYTHON)) -m logreasoner.alone --lock build/locks/$(RUN) --whose "$$MADE_OF" -- $(MAKE) --no-print-directory $(MAKECMDGOALS) HELD=$(RUN)
$(MAKECMDGOALS): alone ; @:
else

# ---- environments ----------------------------------------------------------------------------------------------
CORE := .venv/.ready
DEV := .venv/.ready-dev
TRAIN := .venv-train/.ready
SERVE := .venv-serve/.ready
PY := .venv/bin/python
PYTRAIN := .venv-train/bin/python
PYSERVE := .venv-serve/bin/python
# LLaMA-Factory calls torchrun by its bare name, so its environment's programs must be on PATH.
LLAMAFACTORY := PATH="$(CURDIR)/.venv-train/bin:$$PATH" llamafactory-cli
PIP_QUIET := -m pip --disable-pip-version-check --quiet
HAS_GPU := command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1

$(CORE): requirements/core.txt requirements/core.lock.txt
	$(PYTHON) -m venv .venv
	$(PY) $(PIP_QUIET) install -r requirements/core.txt -c requirements/core.lock.txt
	@touch $@

$(DEV): requirements/dev.txt requirements/core.lock.txt | $(CORE)
	$(PY) $(PIP_QUIET) install -r requirements/dev.txt -c requirements/core.lock.txt
	@touch $@

# On a CPU build of torch, torchvision and torchaudio come as CUDA builds that cannot load: torchvision breaks
# `import transformers` and is not needed; LLaMA-Factory imports torchaudio, which works without its extension.
$(TRAIN): requirements/train.txt requirements/train.lock.txt requirements/train-gpu.txt
	$(PYTHON) -m venv .venv-train
	$(PYTRAIN) $(PIP_QUIET) install -r requirements/train.txt -c requirements/train.lock.txt
	@if $(HAS_GPU); then $(PYTRAIN) $(PIP_QUIET) install -r requirements/train-gpu.txt -c requirements/train.lock.txt; fi
	@if $(PYTRAIN) -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then \
	  $(PYTRAIN) $(PIP_QUIET) uninstall -y torchvision; rm -f .venv-train/lib/python3*/site-packages/torchaudio/lib/_torchaudio.abi3.so; fi
	@touch $@

$(SERVE): requirements/serve-gpu.txt requirements/serve-cpu.txt requirements/serve-cpu.lock.txt
	$(PYTHON) -m venv .venv-serve
	@if $(HAS_GPU); then $(PYSERVE) $(PIP_QUIET) install -r requirements/serve-gpu.txt; \
	else $(PYSERVE) $(PIP_QUIET) install -r requirements/serve-cpu.txt -c requirements/serve-cpu.lock.txt; \
	  $(PYSERVE) $(PIP_QUIET) uninstall -y torchvision torchaudio torchcodec; fi
	@touch $@

.PHONY: setup setup-dev setup-train setup-serve doctor
setup: $(CORE) ## make the core environment .venv
setup-dev: $(DEV) ## add the tools for tests to .venv
setup-train: $(TRAIN) ## make .venv-train (LLaMA-Factory, FlagEmbedding)
setup-serve: $(SERVE) ## make .venv-serve (vLLM; its CPU build without a GPU)
doctor: | $(CORE) ## what this machine can do, and what is missing for the rest
	@$(PY) -m data_builders.doctor

# ---- the run ---------------------------------------------------------------------------------------------------
D := build/runs/$(RUN)
SPLITS := $(D)/splits/manifest.json
# The teacher's answers and what is made of them; what depends on the model; a trained stage.
SHARED = $(D)/datasets/shared/$(1)
OWN = $(D)/datasets/$(MODEL)/$(1)
TRAINED = $(D)/models/$(MODEL)/$(1)/manifest.json
OVERRIDES := $(if $(FINETUNING),'finetuning=$(FINETUNING)') $(if $(TEACHER),'teacher=$(TEACHER)') \
  $(if $(TEACHER_BASE_URL),$(call quoted,teacher_base_url=$(TEACHER_BASE_URL))) $(if $(TASKS),'tasks=$(TASKS)') $(if $(SEED),'seed=$(SEED)') $(if $(TRAINING_SEED),'training_seed=$(TRAINING_SEED)') $(if $(SPEED),'speed=$(SPEED)')
SPEND := $(if $(BUDGET),--budget $(BUDGET))
ASK_TEACHER = $(PY) -m logreasoner.generation.generate --run $(RUN) --role teacher --engine $(TEACHER_ENGINE) $(SPEND)
ASK_POLICY = $(PY) -m logreasoner.generation.generate --run $(RUN) --role policy --model $(MODEL) --engine $(ENGINE) $(if $(BASE_URL),--base-url $(call quoted,$(BASE_URL))) $(if $(DATA_PARALLEL),--data-parallel $(DATA_PARALLEL)) $(SPEND)

PUBLIC := build/data/public/manifest.json
BUNDLED := build/data/bundled/manifest.json
OWN_DATA := $(shell grep -ls '^  kind: own' experiments/runs/$(EXPERIMENT).yaml)

# What has a manifest gets it a moment later: a file that a kill left without one is made again.
WITH_MANIFEST := $(foreach name,analyses.jsonl thoughts.jsonl solutions.jsonl corrections.jsonl samples.jsonl selected.json \
  embeddings.npy thought_embeddings.npy,$(D)/datasets/*/*/$(name)) $(D)/predictions/*/*/*.requests.jsonl \
  $(foreach name,datasets predictions,$(D)/$(name)/*/*/*.responses.jsonl) $(D)/results*/*/*/result.json
.PHONY: $(foreach file,$(wildcard $(WITH_MANIFEST)),$(if $(wildcard $(file).manifest.json),,$(file)))

include demo/demo.mk

# Declares the run, or stops if it was declared otherwise; then says what is missing before anything is spent.
.PHONY: declare preflight
declare: | $(CORE)
	@$(PY) -m logreasoner.config --run $(RUN) --experiment $(EXPERIMENT) $(OVERRIDES) >&2
preflight: | declare
	@$(PY) -m data_builders.doctor --require --run $(RUN) --model $(MODEL) --stage $(CHECK) --hardware $(HARDWARE) --nodes $(NODES) --launch $(LAUNCH) --goal $(call TRAINED,$(CHECK))
# What preflight looks at: how far a goal goes.
CHECK = $(STAGE)
rationales thoughts: CHECK = thoughts
thought-sft solutions: CHECK = thought-sft
solution-sft: CHECK = solution-sft
corrections dpo: CHECK = dpo

# ---- data ------------------------------------------------------------------------------------------------------
.PHONY: data data-ad
data: $(SPLITS) ## download, verify and normalise the public data; show the splits and Tables 1 and 2
	@$(PY) -m data_builders.splits --run $(RUN) --show
data-ad: | $(CORE) ## the large raw logs for anomaly detection, before `make data`; or BGL=FILE SPIRIT=FILE
	$(PY) -m data_builders.fetch --group ad $(if $(BGL),--file $(call quoted,BGL.zip=$(BGL))) $(if $(SPIRIT),--file $(call quoted,spirit2.gz=$(SPIRIT)))

$(PUBLIC): $(wildcard build/data/raw/ad/*) | $(CORE)
	$(PY) -m data_builders.fetch
	$(PY) -m data_builders.normalise
$(BUNDLED): demo/logs.yaml | $(CORE)
	$(PY) -m demo.logs --out $(@D)

$(SPLITS): | declare $(if $(OWN_DATA),,$(if $(filter demo smoke,$(EXPERIMENT)),$(BUNDLED),$(PUBLIC)))
	$(PY) -m data_builders.splits --run $(RUN)

# ---- stage 1: high-level thoughts (section 3.2) ----------------------------------------------------------------
STAGE1 := $(PY) -m data_builders.stage1 --run $(RUN)
THOUGHTS := $(call SHARED,thought-sft)

# $(1): thought-sft, or cot-sft, which asks the teacher about stage 2's instances (section 4.4.4).
define rationales
$(call SHARED,$(1))/rationales.requests.jsonl: $(SPLITS)
	$(STAGE1) --stage $(1) rationale-requests
$(call SHARED,$(1))/rationales.responses.jsonl: $(call SHARED,$(1))/rationales.requests.jsonl
	$(ASK_TEACHER) --requests $$< --responses $$@
$(call SHARED,$(1))/analyses.jsonl: $(call SHARED,$(1))/rationales.responses.jsonl
	$(STAGE1) --stage $(1) rationales
endef
$(foreach stage,thought-sft cot-sft,$(eval $(call rationales,$(stage))))

$(THOUGHTS)/embeddings.npy: $(THOUGHTS)/analyses.jsonl | $(TRAIN) $(EMBEDDER)
	$(PYTRAIN) -m data_builders.embed --run $(RUN) --texts $< --field analysis --out $@
$(THOUGHTS)/selected.json: $(THOUGHTS)/embeddings.npy
	$(PY) -m data_builders.dpp --run $(RUN) --embeddings $< --out $@
$(THOUGHTS)/thoughts.requests.jsonl: $(THOUGHTS)/selected.json
	$(STAGE1) thought-requests
$(THOUGHTS)/thoughts.responses.jsonl: $(THOUGHTS)/thoughts.requests.jsonl
	$(ASK_TEACHER) --requests $< --responses $@
$(THOUGHTS)/thoughts.jsonl: $(THOUGHTS)/thoughts.responses.jsonl
	$(STAGE1) thoughts

.PHONY: rationales thoughts review
rationales: preflight $(THOUGHTS)/analyses.jsonl ## stage 1: the teacher's rationales that arrive at the true label
thoughts: preflight $(THOUGHTS)/samples.jsonl ## stage 1: selected, abstracted and validated thoughts (D_thought)
review: | $(CORE) ## a web page to accept, edit or reject thoughts and MODEL's corrections; WHO=name
	@$(PY) -m data_builders.review_page --run $(RUN) --model $(MODEL) $(if $(WHO),--who $(call quoted,$(WHO)))

# ---- stage 2: stepwise solutions (section 3.3) -----------------------------------------------------------------
STAGE2 := $(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL)

# $(1) the stage that holds the solutions, $(2) the policy that solves, $(3) its weights
define solutions
$(call OWN,$(1))/solutions.requests.jsonl: $(SPLITS) $(3)
	$(STAGE2) --stage $(1) solution-requests
$(call OWN,$(1))/solutions.responses.jsonl: $(call OWN,$(1))/solutions.requests.jsonl | $(SERVE)
	$(ASK_POLICY) --stage $(2) --requests $$< --responses $$@
$(call OWN,$(1))/solutions.jsonl: $(call OWN,$(1))/solutions.responses.jsonl
	$(STAGE2) --stage $(1) solutions
endef
$(eval $(call solutions,solution-sft,thought-sft,$(call TRAINED,thought-sft)))
$(eval $(call solutions,solution-sft-no-thought,base,$(BASE)))

# $(1) the stage that holds the corrections, $(2) the one that holds the solutions
define corrections
$(call OWN,$(1))/corrections.requests.jsonl: $(call OWN,$(2))/solutions.jsonl
	$(STAGE2) --stage $(1) correction-requests
$(call OWN,$(1))/corrections.responses.jsonl: $(call OWN,$(1))/corrections.requests.jsonl | $(SERVE)
	$(PY) -m logreasoner.generation.generate --run $(RUN) --role corrector --model $(MODEL) --stage $(1) --engine $(ENGINE) --teacher-engine $(TEACHER_ENGINE) $(SPEND) --requests $$< --responses $$@
$(call OWN,$(1))/corrections.jsonl: $(call OWN,$(1))/corrections.responses.jsonl
	$(STAGE2) --stage $(1) corrections
endef
$(eval $(call corrections,dpo,solution-sft))
$(eval $(call corrections,dpo-self,solution-sft))
$(eval $(call corrections,dpo-no-thought,solution-sft-no-thought))

.PHONY: solutions corrections
solutions: preflight $(call OWN,solution-sft)/samples.jsonl ## stage 2: pi_thought's solutions; the right ones are D_corr
corrections: preflight $(call OWN,dpo)/samples.jsonl ## stage 2: corrected wrong solutions, in pairs (D_pref)

# ---- training (section 4.2.2) ----------------------------------------------------------------------------------
# $(1) stage, $(2) its samples, $(3) the weights it starts from. Every line may be run again after a kill. The script that
# starts LLaMA-Factory stands beside the recipe (templates/launch/).
define train
$(call TRAINED,$(1)): $(2) $(3) | $(TRAIN)
	$(PY) -m data_builders.recipes --run $(RUN) --model $(MODEL) --stage $(1) --hardware $(HARDWARE) --nodes $(NODES) --launch $(LAUNCH) $(if $(TRACK),--report-to $(TRACK))
	$(PYTRAIN) -m data_builders.llamafactory_dataset --run $(RUN) --model $(MODEL) --stage $(1) --samples $(2)
	$(PYTRAIN) -m data_builders.train prepare --run $(RUN) --model $(MODEL) --stage $(1)
	test -f $(D)/models/$(MODEL)/$(1)/*/trainer_state.json || bash $(D)/recipes/$(MODEL)/$(1).$(LAUNCH).sh
	test -f $(D)/models/$(MODEL)/$(1)/model/trainer_state.json || $$(LLAMAFACTORY) export $(D)/recipes/$(MODEL)/$(1).export.yaml
	$(PYTRAIN) -m data_builders.train finish --run $(RUN) --model $(MODEL) --stage $(1)
endef
$(if $(FORM),$(eval $(call train,base-sft,$(FORM)/samples.jsonl,$(INIT)/config.json)))

# $(1) stage, $(2) folder of its samples, $(3) what they are made of, $(4) the weights it starts from
define stage
$(2)/samples.jsonl: $(3)
	$(PY) -m data_builders.samples --run $(RUN) --model $(MODEL) --stage $(1)
$(call train,$(1),$(2)/samples.jsonl,$(4))
endef
thoughts_of = $(eval $(call stage,$(1),$(call SHARED,$(1)),$(THOUGHTS)/thoughts.jsonl $(wildcard $(D)/review/thoughts.jsonl),$(BASE)))
solutions_of = $(eval $(call stage,$(1),$(call OWN,$(1)),$(call OWN,$(2))/solutions.jsonl,$(3)))
pairs_of = $(eval $(call stage,$(1),$(call OWN,$(1)),$(if $(3),$(call OWN,$(3))/corrections.jsonl $(wildcard $(D)/review/corrections.$(MODEL)$(if $(filter-out dpo,$(3)),.$(3)).jsonl),$(call OWN,$(2))/solutions.jsonl),$(call TRAINED,$(4))))
SHARES := 20 40 60 80

# The method.
$(call thoughts_of,thought-sft)
$(call solutions_of,solution-sft,solution-sft,$(call TRAINED,thought-sft))
$(call pairs_of,dpo,solution-sft,dpo,solution-sft)
# Baselines and ablations (experiments/stages.yaml says which table or figure each is for).
$(eval $(call stage,cot-sft,$(call SHARED,cot-sft),$(call SHARED,cot-sft)/analyses.jsonl $(THOUGHTS)/selected.json,$(BASE)))
$(eval $(call stage,direct-sft,$(call SHARED,direct-sft),$(SPLITS),$(BASE)))
$(foreach part,$(SHARES),$(call thoughts_of,thought-sft-$(part)))
$(foreach part,$(SHARES),$(call solutions_of,solution-sft-$(part),solution-sft,$(call TRAINED,thought-sft)))
$(foreach part,$(SHARES),$(call pairs_of,dpo-$(part),solution-sft,dpo,solution-sft-$(part)))
$(call pairs_of,dpo-self,solution-sft,dpo-self,solution-sft)
$(call pairs_of,dpo-uncorrected,solution-sft,,solution-sft)
$(call pairs_of,dpo-no-solution,solution-sft,dpo,thought-sft)
$(call solutions_of,solution-sft-no-thought,solution-sft-no-thought,$(BASE))
$(call pairs_of,dpo-no-thought,solution-sft-no-thought,dpo-no-thought,solution-sft-no-thought)

.PHONY: thought-sft solution-sft dpo train export recipes
thought-sft: preflight $(call TRAINED,thought-sft) ## tune MODEL on D_thought, after making what is missing
solution-sft: preflight $(call TRAINED,solution-sft) ## tune it on D_corr
dpo: preflight $(call TRAINED,dpo) ## tune it on D_pref: the whole method, from logs to pi_dpo
train: preflight $(call TRAINED,$(STAGE)) ## tune it up to STAGE, any stage of experiments/stages.yaml
export: preflight $(call TRAINED,$(STAGE)) ## the complete weights of STAGE with a model card: lineage, data, recipe, scores, limits
	@$(PY) -m eval.card --run $(RUN) --model $(MODEL) --stage $(STAGE) --out $(D)/models/$(MODEL)/$(STAGE)/model
	@echo "complete weights, with a model card: $(D)/models/$(MODEL)/$(STAGE)/model"
recipes: | $(CORE) ## render the committed recipes/<model>/<stage>.yaml
	$(PY) -m data_builders.recipes --committed

# ---- evaluation (sections 4.2.3 and 4.5) -----------------------------------------------------------------------
VOTES := $(filter-out 1,$(SAMPLES))
VARIANT := $(if $(LIMIT),.limit$(LIMIT))$(if $(VOTES),.samples$(VOTES))
PREDICTIONS := $(D)/predictions/$(MODEL)/$(STAGE)
ANSWERS := $(PREDICTIONS)/test$(VARIANT)
RESULT := $(D)/results$(VARIANT)/$(MODEL)/$(STAGE)/result.json
SUBSET := $(if $(LIMIT),--limit $(LIMIT)) $(if $(VOTES),--samples $(VOTES))
ifeq ($(STAGE),baseline)
$(ANSWERS).responses.jsonl: $(SPLITS)
	$(PY) -m eval.baselines --run $(RUN) --model $(MODEL) --out $@
else ifeq ($(STAGE),classifier)
$(ANSWERS).responses.jsonl: $(SPLITS) | $(TRAIN) $(EMBEDDER)
	$(PYTRAIN) -m eval.classifier --run $(RUN) --model $(MODEL) --out $@
else
# Written anew each time: what is asked, and of whom, hangs on NAME and BASE_URL, which no file's time shows. What has
# been answered is not asked again.
$(ANSWERS).requests.jsonl: $(SPLITS) always
	$(PY) -m eval.predict --run $(RUN) --model $(MODEL) --stage $(STAGE) $(SUBSET) $(if $(NAME),--endpoint other --name $(call quoted,$(NAME))) --out $@
$(ANSWERS).responses.jsonl: $(ANSWERS).requests.jsonl $(if $(filter-out base,$(STAGE)),$(call TRAINED,$(STAGE)),$(if $(filter $(API),$(MODEL)),,$(BASE))) | $(if $(filter $(API),$(MODEL)),,$(SERVE))
	$(ASK_POLICY) --stage $(STAGE) --requests $< --responses $@ --journal $(PREDICTIONS)/test.journal.jsonl
endif
$(RESULT): $(ANSWERS).responses.jsonl
	$(PY) -m eval.score --run $(RUN) --model $(MODEL) --stage $(STAGE) $(SUBSET) --responses $< --out $@

.PHONY: always eval baselines tables report compare spread matrix plan costs audit
eval: preflight $(RESULT) ## predict and score MODEL at STAGE: base, any trained stage, classifier or baseline
baselines: $(SPLITS) ## score what needs no language model: a constant, TF-IDF with logistic regression, a cosine
	@for model in $$($(PY) -m eval.baselines --run $(RUN)); do $(MAKE) --no-print-directory eval MODEL=$$model STAGE=baseline; done
tables: | declare ## Tables 3-5, measured beside published, as Markdown, CSV and LaTeX
	$(PY) -m eval.tables --run $(RUN) $(SUBSET)
report: | declare ## one HTML file: tables, figures, losses, costs, lineage, every prediction; MODELS= for some
	$(PY) -m eval.report --run $(RUN) $(if $(MODELS),--models $(MODELS)) $(SUBSET)
compare: | declare ## paired tests of A=model/stage against B=model/stage on the same instances
	$(PY) -m eval.compare pair --run $(RUN) --a $(A) --b $(B) $(if $(LIMIT),--limit $(LIMIT))
spread: | declare ## mean and spread of MODEL at STAGE over RUNS="paper paper-43 ..."
	$(PY) -m eval.compare spread --runs $(RUNS) --model $(MODEL) --stage $(STAGE) $(SUBSET)
matrix: | declare ## every cell of the paper's tables and figures, its command and its state; FORMAT=csv
	@$(PY) -m eval.matrix --run $(RUN) $(ONLY) --format $(FORMAT)
plan: $(SPLITS) ## what EXPERIMENT=table3 MODEL=... would ask, cost and take, before anything is spent
	@$(PY) -m eval.plan --run $(RUN) $(ONLY) $(if $(filter command line,$(origin MODEL)),--models $(MODEL)) --hardware $(HARDWARE) $(SUBSET)
costs: | declare ## what the teacher's answers have cost, beside the paper's figures
	@$(PY) -m logreasoner.generation.costs --run $(RUN)
audit: | $(CORE) ## can the published numbers be? docs/audit.md
	$(PY) -m eval.audit --out docs/audit.md

# One table or figure of the paper: whatever it lacks is made, then it is drawn.
GRID := table3 table4 table5 figure4 figure5 figure6 figure7 figure8
.PHONY: table1 table2 $(GRID) figure10
table1 table2: data ## as built beside the paper's; table3 table4 table5: every row that is missing, then the table
$(GRID): | declare
	@$(PY) -m eval.matrix --run $(RUN) --only $@ $(if $(MODELS),--models $(MODELS)) --format open | while read -r model stage; do \
	  $(MAKE) --no-print-directory eval MODEL=$$model STAGE=$$stage </dev/null; done
	$(if $(filter figure%,$@),$(PY) -m eval.figures --run $(RUN) --figure $(@:figure%=%) $(if $(MODELS),--models $(MODELS)) $(SUBSET),$(PY) -m eval.tables --run $(RUN) $(SUBSET))
$(THOUGHTS)/thought_embeddings.npy: $(THOUGHTS)/samples.jsonl | $(TRAIN) $(EMBEDDER)
	$(PYTRAIN) -m data_builders.embed --run $(RUN) --texts $< --field response --out $@
figure10: CHECK = thoughts
figure10: preflight $(THOUGHTS)/thought_embeddings.npy ## t-SNE and steps of the thoughts; figure4 ... figure8 (MODELS=): what is missing, then PNG, SVG and CSV
	$(PY) -m eval.figures --run $(RUN) --figure 10

# ---- using the model -------------------------------------------------------------------------------------------
PORT ?= 8000
HOST ?= 127.0.0.1
LOG ?= -
TASK ?= anomaly_detection
ARGS ?=
WEIGHTS = $(if $(filter-out base,$(STAGE)),$(call TRAINED,$(STAGE)),$(BASE))
OF_RUN = --run $(RUN) --model $(MODEL)
.PHONY: serve analyze weights
# A server holds no run; what it lacks is made by a make that does.
weights:
	@test -f $(WEIGHTS) || $(MAKE) --no-print-directory $(WEIGHTS)
serve: preflight weights | $(SERVE) ## serve MODEL at STAGE by vLLM (OpenAI-compatible) until Ctrl-C; PORT=8000 HOST=127.0.0.1
	@$(PY) -m logreasoner.generation.serve $(OF_RUN) --stage $(STAGE) --port $(PORT) --host $(call quoted,$(HOST))
ifeq ($(BASE_URL),)
analyze: preflight weights | $(SERVE)
endif
analyze: | $(CORE) ## a verdict with its steps for each session of LOG (- is standard input); TASK=, and MODEL= or BASE_URL=
	@$(PY) -m eval.analyze --log $(call quoted,$(LOG)) --task $(TASK) $(ARGS) $(if $(BASE_URL),--base-url $(call quoted,$(BASE_URL)) $(if $(NAME),--name $(call quoted,$(NAME))) $(if $(wildcard $(D)/run.json),$(OF_RUN)),$(OF_RUN) --stage $(STAGE))

# ---- checks ----------------------------------------------------------------------------------------------------
PARTS ?=
.PHONY: check test test-long audit-deps bench help
check: | $(DEV) ## lint, types and unit tests: a minute or two
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -m "not e2e" -x
# Two at a time, each file in one process; in the files' order, since those that run real programs take longest.
PYTEST := .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder
test: | $(DEV) $(TRAIN) $(SERVE) ## everything, with an end-to-end run of the real programs
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(PYTEST)

test-long: | $(DEV) $(TRAIN) $(SERVE) ## the same with faults and fuzzing at full length (kills, property tests)
	$(PYTEST) --long

bench: | $(DEV) $(TRAIN) $(SERVE) ## speed beside peers and limits, printed as a table; PARTS="sessions selection ..."
	$(PY) -m bench $(PARTS)

audit-deps: | $(DEV) ## known vulnerabilities in the pins of requirements/, where an advisory service answers
	$(PY) -m logreasoner.advisories

help: ## this list
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9 -]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo; echo "  variables: MODEL=$(MODEL) RUN=$(RUN) STAGE=$(STAGE) HARDWARE=$(HARDWARE) ENGINE=$(ENGINE); see README.md"

endif
