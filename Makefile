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
# Where model answers come from with ENGINE=openai, what that endpoint calls the model, where `make data` looks first.
BASE_URL ?=
NAME ?=
DATA_MIRROR ?=
DATA ?= bundled
PYTHON ?= $(if $(shell command -v python3.11),python3.11,python3)

export DATA_MIRROR
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

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
POOLS := $(D)/pools/manifest.json
SHARED := $(D)/datasets/shared/thought-sft
SOLUTION := $(D)/datasets/$(MODEL)/solution-sft
PREF := $(D)/datasets/$(MODEL)/dpo
TRAINED = $(D)/models/$(MODEL)/$(1)/manifest.json
OVERRIDES := $(if $(FINETUNING),'finetuning=$(FINETUNING)') $(if $(TEACHER),'teacher=$(TEACHER)') \
  $(if $(TEACHER_BASE_URL),'teacher_base_url=$(TEACHER_BASE_URL)') $(if $(TASKS),'tasks=$(TASKS)') $(if $(SEED),'seed=$(SEED)')
ASK_TEACHER = $(PY) -m logreasoner.chat --run $(RUN) --role teacher
ASK_POLICY = $(PY) -m logreasoner.chat --run $(RUN) --role policy --model $(MODEL) --engine $(ENGINE) $(if $(BASE_URL),--base-url '$(BASE_URL)')

include demo/demo.mk

# Declares the run, or stops if it was declared otherwise; then says what is missing before anything is spent.
.PHONY: declare preflight
declare: | $(CORE)
	@$(PY) -m logreasoner.config --run $(RUN) --experiment $(EXPERIMENT) $(OVERRIDES)
preflight: | declare
	@$(PY) -m data_builders.doctor --require --run $(RUN) --model $(MODEL) --stage $(CHECK) --hardware $(HARDWARE) --goal $(call TRAINED,$(CHECK))
# What preflight looks at: how far a goal goes.
CHECK = $(STAGE)
rationales thoughts: CHECK = thoughts
thought-sft solutions: CHECK = thought-sft
solution-sft: CHECK = solution-sft
corrections dpo: CHECK = dpo

# ---- data ------------------------------------------------------------------------------------------------------
.PHONY: data data-ad
data: $(POOLS) ## download, verify and normalise the public data; show the pools and Tables 1 and 2
	@$(PY) -m data_builders.pools --run $(RUN) --show
data-ad: | $(CORE) ## the large raw logs for anomaly detection, before `make data`; or BGL=FILE SPIRIT=FILE
	$(PY) -m data_builders.fetch --group ad $(if $(BGL),--file 'BGL.zip=$(BGL)') $(if $(SPIRIT),--file 'spirit2.gz=$(SPIRIT)')

PUBLIC := build/data/public/manifest.json
BUNDLED := build/data/bundled/manifest.json
$(PUBLIC): $(wildcard build/data/raw/ad/*) | $(CORE)
	$(PY) -m data_builders.fetch
	$(PY) -m data_builders.normalise
$(BUNDLED): demo/logs.yaml | $(CORE)
	$(PY) -m demo.logs --out $(@D)

$(POOLS): | declare $(if $(filter demo,$(EXPERIMENT)),$(BUNDLED),$(PUBLIC))
	$(PY) -m data_builders.pools --run $(RUN)

# ---- stage 1: high-level thoughts (section 3.2) ----------------------------------------------------------------
STAGE1 := $(PY) -m data_builders.stage1 --run $(RUN)

$(SHARED)/rationales.requests.jsonl: $(POOLS)
	$(STAGE1) rationale-requests
$(SHARED)/rationales.responses.jsonl: $(SHARED)/rationales.requests.jsonl
	$(ASK_TEACHER) --requests $< --responses $@
$(SHARED)/analyses.jsonl: $(SHARED)/rationales.responses.jsonl
	$(STAGE1) rationales
$(SHARED)/embeddings.npy: $(SHARED)/analyses.jsonl | $(TRAIN) $(EMBEDDER)
	$(PYTRAIN) -m data_builders.embed --run $(RUN) --texts $< --field analysis --out $@
$(SHARED)/selected.json: $(SHARED)/embeddings.npy
	$(PY) -m data_builders.select --run $(RUN) --embeddings $< --out $@
$(SHARED)/thoughts.requests.jsonl: $(SHARED)/selected.json
	$(STAGE1) thought-requests
$(SHARED)/thoughts.responses.jsonl: $(SHARED)/thoughts.requests.jsonl
	$(ASK_TEACHER) --requests $< --responses $@
$(SHARED)/thoughts.jsonl: $(SHARED)/thoughts.responses.jsonl
	$(STAGE1) thoughts
$(SHARED)/samples.jsonl: $(SHARED)/thoughts.jsonl $(wildcard $(D)/review/thoughts.jsonl)
	$(STAGE1) dataset

.PHONY: rationales thoughts review-draft
rationales: preflight $(SHARED)/analyses.jsonl ## stage 1: the teacher's rationales that arrive at the true label
thoughts: preflight $(SHARED)/samples.jsonl ## stage 1: selected, abstracted and validated thoughts (D_thought)
review-draft: $(SHARED)/thoughts.jsonl ## write build/runs/$(RUN)/review/thoughts.jsonl for a person to decide on
	$(STAGE1) review-draft

# ---- stage 2: stepwise solutions (section 3.3) -----------------------------------------------------------------
STAGE2 := $(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL)

$(SOLUTION)/solutions.requests.jsonl: $(call TRAINED,thought-sft)
	$(STAGE2) solution-requests
$(SOLUTION)/solutions.responses.jsonl: $(SOLUTION)/solutions.requests.jsonl | $(SERVE)
	$(ASK_POLICY) --stage thought-sft --requests $< --responses $@
$(SOLUTION)/samples.jsonl: $(SOLUTION)/solutions.responses.jsonl
	$(STAGE2) solutions
$(PREF)/corrections.requests.jsonl: $(SOLUTION)/samples.jsonl
	$(STAGE2) correction-requests
$(PREF)/corrections.responses.jsonl: $(PREF)/corrections.requests.jsonl | $(SERVE)
	$(PY) -m logreasoner.chat --run $(RUN) --role corrector --model $(MODEL) --stage thought-sft --engine $(ENGINE) --requests $< --responses $@
$(PREF)/samples.jsonl: $(PREF)/corrections.responses.jsonl
	$(STAGE2) corrections

.PHONY: solutions corrections
solutions: preflight $(SOLUTION)/samples.jsonl ## stage 2: pi_thought's solutions; the right ones are D_corr
corrections: preflight $(PREF)/samples.jsonl ## stage 2: corrected wrong solutions, in pairs (D_pref)

# ---- training (section 4.2.2) ----------------------------------------------------------------------------------
# $(1) stage, $(2) its samples, $(3) the model it starts from. Every line may be run again after a kill.
define train
$(call TRAINED,$(1)): $(2) $(3) | $(TRAIN)
	$(PY) -m data_builders.recipes --run $(RUN) --model $(MODEL) --stage $(1) --hardware $(HARDWARE)
	$(PYTRAIN) -m data_builders.gate --run $(RUN) --model $(MODEL) --stage $(1) --samples $(2)
	$(PYTRAIN) -m data_builders.training before --run $(RUN) --model $(MODEL) --stage $(1)
	test -f $(D)/models/$(MODEL)/$(1)/*/trainer_state.json || $$(LLAMAFACTORY) train $(D)/recipes/$(MODEL)/$(1).yaml
	test -f $(D)/models/$(MODEL)/$(1)/model/trainer_state.json || $$(LLAMAFACTORY) export $(D)/recipes/$(MODEL)/$(1).export.yaml
	$(PYTRAIN) -m data_builders.training after --run $(RUN) --model $(MODEL) --stage $(1)
endef
$(if $(FORM),$(eval $(call train,form-sft,$(FORM)/samples.jsonl,$(INIT)/config.json)))
$(eval $(call train,thought-sft,$(SHARED)/samples.jsonl,$(BASE)))
$(eval $(call train,solution-sft,$(SOLUTION)/samples.jsonl,$(call TRAINED,thought-sft)))
$(eval $(call train,dpo,$(PREF)/samples.jsonl,$(call TRAINED,solution-sft)))

.PHONY: thought-sft solution-sft dpo export recipes
thought-sft: preflight $(call TRAINED,thought-sft) ## tune MODEL on D_thought, after making what is missing
solution-sft: preflight $(call TRAINED,solution-sft) ## tune it on D_corr
dpo: preflight $(call TRAINED,dpo) ## tune it on D_pref: the whole method, from logs to pi_dpo
export: preflight $(call TRAINED,$(STAGE)) ## the complete weights of STAGE, adapter merged
	@echo "complete weights: $(D)/models/$(MODEL)/$(STAGE)/model"
recipes: | $(CORE) ## render the committed recipes/<model>/<stage>.yaml
	$(PY) -m data_builders.recipes --committed

# ---- evaluation (sections 4.2.3 and 4.5) -----------------------------------------------------------------------
PREDICTIONS := $(D)/predictions/$(MODEL)/$(STAGE)
RESULT := $(D)/results/$(MODEL)/$(STAGE)/result.json
$(PREDICTIONS)/test.requests.jsonl: $(POOLS)
	$(PY) -m eval.predict --run $(RUN) --model $(MODEL) --stage $(STAGE) $(if $(NAME),--endpoint other --name '$(NAME)') --out $@
$(PREDICTIONS)/test.responses.jsonl: $(PREDICTIONS)/test.requests.jsonl $(if $(filter-out base,$(STAGE)),$(call TRAINED,$(STAGE)),$(BASE)) | $(SERVE)
	$(ASK_POLICY) --stage $(STAGE) --requests $< --responses $@
$(RESULT): $(PREDICTIONS)/test.responses.jsonl
	$(PY) -m eval.score --run $(RUN) --model $(MODEL) --stage $(STAGE) --responses $< --out $@

.PHONY: eval tables
eval: preflight $(RESULT) ## predict and score MODEL at STAGE (base, thought-sft, solution-sft, dpo)
tables: | declare ## Tables 3-5, measured beside published, as Markdown, CSV and LaTeX
	$(PY) -m eval.tables --run $(RUN)

# ---- checks ----------------------------------------------------------------------------------------------------
.PHONY: check test help
check: | $(DEV) ## lint, types and unit tests: under a minute
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -m "not e2e" -x
test: | $(DEV) $(TRAIN) $(SERVE) ## everything, with an end-to-end run of the real programs
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo; echo "  variables: MODEL=$(MODEL) RUN=$(RUN) STAGE=$(STAGE) HARDWARE=$(HARDWARE) ENGINE=$(ENGINE); see README.md"
