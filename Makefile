# LogReasoner: every step of the paper is a target; `make help` lists them. Files decide what is missing.
#
# A run is a declared experiment, and all that it makes lies under build/runs/$(RUN). What is made from what stands in
# recipes/stages.mk (rendered from experiments/stages.yaml); the pattern rules below say how each kind of file is made.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory

# ---- what a user may set (docs/variables.md) -------------------------------------------------------------------
# Only what make's command line says counts, else LOGREASONER_<name> in the environment: that may hold a NAME, HOST,
# SEED or RUN of others. `$(value ...)` keeps free text as it was typed, with its dollar signs.
MODEL := $(or $(LOGREASONER_MODEL),qwen2.5-7b)
EXPERIMENT := $(or $(LOGREASONER_EXPERIMENT),paper)
RUN = $(or $(LOGREASONER_RUN),$(EXPERIMENT))
STAGE := $(or $(LOGREASONER_STAGE),dpo)
HARDWARE := $(or $(LOGREASONER_HARDWARE),2xA100)
ENGINE := $(or $(LOGREASONER_ENGINE),vllm)
# These belong to the run: it is declared with them once, and a later difference is an error.
FINETUNING := $(LOGREASONER_FINETUNING)
TEACHER := $(LOGREASONER_TEACHER)
TEACHER_BASE_URL := $(value LOGREASONER_TEACHER_BASE_URL)
TASKS := $(LOGREASONER_TASKS)
SEED := $(LOGREASONER_SEED)
TRAINING_SEED := $(LOGREASONER_TRAINING_SEED)
SPEED := $(LOGREASONER_SPEED)
SELECTION := $(LOGREASONER_SELECTION)
EXAMPLES := $(LOGREASONER_EXAMPLES)
PROMPTS := $(value LOGREASONER_PROMPTS)
HANDBOOK := $(value LOGREASONER_HANDBOOK)
# How many machines of HARDWARE train together, and what starts the processes: torchrun, slurm, ray.
NODES := $(or $(LOGREASONER_NODES),1)
LAUNCH := $(or $(LOGREASONER_LAUNCH),torchrun)
# How the teacher is asked (openai, openai-batch), and how much may be spent, in USD.
TEACHER_ENGINE := $(or $(LOGREASONER_TEACHER_ENGINE),openai)
BUDGET := $(LOGREASONER_BUDGET)
# With ENGINE=openai: the endpoints (several addresses with spaces between them share the requests), and what they call
# the model. With ENGINE=vllm: how many copies of the model run, each on devices of its own.
BASE_URL := $(value LOGREASONER_BASE_URL)
NAME := $(value LOGREASONER_NAME)
DATA_PARALLEL := $(LOGREASONER_DATA_PARALLEL)
# What is evaluated: at most LIMIT instances of a test set, a vote over SAMPLES answers; the models of a figure.
LIMIT := $(LOGREASONER_LIMIT)
SAMPLES := $(LOGREASONER_SAMPLES)
MODELS := $(LOGREASONER_MODELS)
FORMAT := $(or $(LOGREASONER_FORMAT),text)
# What is compared: two MODEL/STAGE, or runs that differ in their seeds.
A := $(LOGREASONER_A)
B := $(LOGREASONER_B)
RUNS := $(LOGREASONER_RUNS)
# Where LLaMA-Factory reports losses: tensorboard, wandb, mlflow, ...; nothing leaves the machine without it.
TRACK := $(LOGREASONER_TRACK)
# V=1 shows the commands, and the output of LLaMA-Factory and vLLM.
V := $(LOGREASONER_V)
PYTHON = $(or $(LOGREASONER_PYTHON),$(if $(shell command -v python3.11),python3.11,python3))
PORT := $(or $(LOGREASONER_PORT),8000)
HOST := $(or $(value LOGREASONER_HOST),127.0.0.1)
LOG := $(or $(value LOGREASONER_LOG),-)
TASK := $(or $(LOGREASONER_TASK),anomaly_detection)
FROM := $(value LOGREASONER_FROM)
ARGS := $(value LOGREASONER_ARGS)
PARTS := $(LOGREASONER_PARTS)
ID := $(value LOGREASONER_ID)
WHO := $(value LOGREASONER_WHO)
BGL := $(value LOGREASONER_BGL)
SPIRIT := $(value LOGREASONER_SPIRIT)
# Only a demo has these (demo/demo.mk): what makes the base model, and the embedding model.
BASE :=
EMBEDDER :=

# Free text reaches the shell as "$$NAME", exactly as it was typed.
override BASE_URL := $(value BASE_URL)
override TEACHER_BASE_URL := $(value TEACHER_BASE_URL)
override NAME := $(value NAME)
override WHO := $(value WHO)
override HOST := $(value HOST)
override LOG := $(value LOG)
override FROM := $(value FROM)
override HANDBOOK := $(value HANDBOOK)
override ID := $(value ID)
override BGL := $(value BGL)
override SPIRIT := $(value SPIRIT)
override PROMPTS := $(value PROMPTS)
export BASE_URL TEACHER_BASE_URL NAME WHO HOST LOG FROM HANDBOOK ID BGL SPIRIT PROMPTS V
# Where `make data` looks first, before the network.
ifneq ($(DATA_MIRROR),)
export DATA_MIRROR
endif
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export GRADIO_ANALYTICS_ENABLED := False
export TOKENIZERS_PARALLELISM := false
# As in templates/launch/environment.j2: merging and embedding import the same packages.
export PYTHONUTF8 := 1
export DS_IGNORE_CUDA_DETECTION := 1

# The grid of the paper is named like an experiment (make plan EXPERIMENT=table3); its run is the paper's.
ONLY := $(addprefix --only ,$(filter table% figure%,$(EXPERIMENT)))
ifneq ($(ONLY),)
override EXPERIMENT := paper
endif
# A task of your own brings the declaration of its run: TASKS=disk-failures means EXPERIMENT=disk-failures.
ifneq ($(and $(TASKS),$(wildcard experiments/runs/$(TASKS).yaml)),)
EXPERIMENT := $(or $(LOGREASONER_EXPERIMENT),$(TASKS))
endif
# Models of models.yaml that are behind an API (a test compares).
API := chatgpt gpt-4o
# Those whose weights also come from the package index.
PACKAGED := smollm2-135m

# ---- environments: three, since LLaMA-Factory and vLLM cannot share one ----------------------------------------------------------------------------------------------
CORE := .venv/.ready
DEV := .venv/.ready-dev
TRAIN := .venv-train/.ready
SERVE := .venv-serve/.ready
Q := $(if $(V),,@)
PY := .venv/bin/python
PYTRAIN := .venv-train/bin/python
PYSERVE := .venv-serve/bin/python
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

# ---- the run ---------------------------------------------------------------------------------------------------
D := build/runs/$(RUN)
S := $(D)/datasets/shared
O := $(D)/datasets/$(MODEL)
M := $(D)/models/$(MODEL)
R := $(D)/review
SPLITS := $(D)/splits/manifest.json
# Whose stage it is that a file in datasets/<model>/<stage>/ belongs to.
OF = $(notdir $(@D))
RECIPE = $(D)/recipes/$(MODEL)/$*
SPEND := $(if $(BUDGET),--budget $(BUDGET))
# Thoughts, solutions and corrections that are not accepted are asked for again.
ASKER = $(if $(filter thoughts.% solutions.% corrections.%,$(@F)),data_builders.ask,logreasoner.generation.generate)
GENERATE = $(PY) -m $(ASKER) --run $(RUN) --requests $(@:responses.jsonl=requests.jsonl) --responses $@ $(SPEND)
ASK = $(GENERATE) --model $(MODEL) --engine $(ENGINE) --hardware $(HARDWARE) $(if $(BASE_URL),--base-url "$$BASE_URL") $(if $(DATA_PARALLEL),--data-parallel $(DATA_PARALLEL))
# LLaMA-Factory calls torchrun by its bare name, so its environment's programs must be on PATH.
LOGGED = PATH="$(CURDIR)/.venv-train/bin:$$PATH" $(PY) -m logreasoner.logged --log $(D)/logs/$(MODEL)-$*.log
PUBLIC := build/data/public/manifest.json
BUNDLED := build/data/bundled/manifest.json
DATA_OF_RUN := $(if $(shell grep -ls '^  kind: own' experiments/runs/$(EXPERIMENT).yaml),,$(if $(filter-out demo-public,$(filter demo% smoke,$(EXPERIMENT))),$(BUNDLED),$(PUBLIC)))

include demo/demo.mk
include recipes/stages.mk
# make reads it again where a stage was added.
recipes/stages.mk: experiments/stages.yaml templates/stages.mk.j2
	@test ! -x $(PY) || $(PY) -m data_builders.recipes --steps

# One make at a time for each run: a goal that builds into it holds a lock and makes <goal>.now, which is what the
# goal means. The lock ends with the last process that make started, whoever was killed.
.PHONY: always declare preflight
LOCKED := data examples rationales thoughts thought-sft solutions solution-sft corrections dpo train export eval baselines rewards \
  table1 table2 table3 table4 table5 figure4 figure5 figure6 figure7 figure8 figure10
LOCK := build/locks/$(RUN)
DRY := $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
.PHONY: $(LOCKED) $(addsuffix .now,$(LOCKED))
$(LOCKED): | $(CORE)
	@$(if $(DRY),,mkdir -p build/locks; flock -n $(LOCK) true || echo "another make works on run $(RUN); waiting for it" >&2; \
	flock $(LOCK)) $(MAKE) $@.now

# Declares the run, or stops if it was declared with different settings; then names what is missing before money is spent.
declare: | $(CORE)
	@$(PY) -m logreasoner.config --run $(RUN) --experiment $(EXPERIMENT) $(addprefix finetuning=,$(FINETUNING)) \
	  $(addprefix teacher=,$(TEACHER)) $(if $(TEACHER_BASE_URL),"teacher_base_url=$$TEACHER_BASE_URL") $(if $(TASKS),'tasks=$(TASKS)') \
	  $(addprefix seed=,$(SEED)) $(addprefix training_seed=,$(TRAINING_SEED)) $(addprefix speed=,$(SPEED)) $(addprefix selection=,$(SELECTION)) \
	  $(addprefix examples=,$(EXAMPLES)) $(if $(PROMPTS),"prompts=$$PROMPTS") $(if $(HANDBOOK),"handbook=$$HANDBOOK") >&2
preflight: | declare
	@$(PY) -m data_builders.doctor --require --run $(RUN) --model $(MODEL) --stage $(CHECK) --hardware $(HARDWARE) --nodes $(NODES) --launch $(LAUNCH)
# How far a goal goes.
CHECK = $(STAGE)
rationales.now thoughts.now figure10.now: CHECK = thoughts
thought-sft.now solutions.now: CHECK = thought-sft
solution-sft.now: CHECK = solution-sft
corrections.now dpo.now: CHECK = dpo

# ---- the method -------------------------------------------------------------------------------------------------
data.now: $(SPLITS) ## download, verify and normalise the public data; show the splits and Tables 1 and 2
	@$(PY) -m data_builders.splits --run $(RUN) --show
examples.now: declare $(D)/examples/manifest.json ## the few-shot examples' worked solutions, by the teacher where no file has them
rationales.now: preflight $(S)/thought-sft/analyses.jsonl ## stage 1: the teacher's rationales that arrive at the true label
thoughts.now: preflight $(S)/thought-sft/samples.jsonl ## stage 1: selected, abstracted and validated thoughts (D_thought)
thought-sft.now: preflight $(M)/thought-sft/manifest.json ## tune MODEL on D_thought, after making what is missing
solutions.now: preflight $(O)/solution-sft/samples.jsonl ## stage 2: pi_thought's solutions; the right ones are D_corr
solution-sft.now: preflight $(M)/solution-sft/manifest.json ## tune it on D_corr
corrections.now: preflight $(O)/dpo/samples.jsonl ## stage 2: corrected wrong solutions, in pairs (D_pref)
dpo.now: preflight $(M)/dpo/manifest.json ## tune it on D_pref: the whole method, from logs to pi_dpo
train.now: preflight $(M)/$(STAGE)/manifest.json ## tune it up to STAGE, any stage of experiments/stages.yaml

# ---- how each kind of file is made -----------------------------------------------------------------------------
$(PUBLIC): $(wildcard build/data/raw/ad/*) | $(CORE)
	$(Q)$(PY) -m data_builders.fetch
	$(Q)$(PY) -m data_builders.normalise
$(BUNDLED): demo/logs.yaml | $(CORE)
	$(Q)$(PY) -m demo.logs --out $(@D)
$(SPLITS): | declare $(DATA_OF_RUN)
	$(Q)$(PY) -m data_builders.splits --run $(RUN)

# Few-shot examples whose worked solutions no file has: the teacher writes them once (sections 4.2.3, 4.4).
WORKED := $(S)/examples/examples
$(D)/examples/manifest.json: | $(SPLITS)
	$(Q)$(PY) -m data_builders.examples --run $(RUN) requests
	$(Q)test ! -s $(WORKED).requests.jsonl || $(PY) -m data_builders.ask --run $(RUN) --requests $(WORKED).requests.jsonl --responses $(WORKED).responses.jsonl $(SPEND) --role teacher --engine $(TEACHER_ENGINE)
	$(Q)$(PY) -m data_builders.examples --run $(RUN) solutions

# Stage 1: high-level thoughts (section 3.2).
%/rationales.requests.jsonl:
	$(Q)$(PY) -m data_builders.stage1 --run $(RUN) --stage $(OF) rationale-requests
%/rationales.responses.jsonl:
	$(Q)$(GENERATE) --role teacher --engine $(TEACHER_ENGINE)
%/analyses.jsonl:
	$(Q)$(PY) -m data_builders.stage1 --run $(RUN) --stage $(OF) rationales
%/embeddings.npy: | $(TRAIN) $(EMBEDDER)
	$(Q)$(PYTRAIN) -m data_builders.embed --run $(RUN) --texts $(@D)/analyses.jsonl --field analysis --out $@
%/selected.json:
	$(Q)$(PY) -m data_builders.selection --run $(RUN) --embeddings $(@D)/embeddings.npy --out $@
%/thoughts.requests.jsonl:
	$(Q)$(PY) -m data_builders.stage1 --run $(RUN) thought-requests
%/thoughts.responses.jsonl:
	$(Q)$(GENERATE) --role teacher --engine $(TEACHER_ENGINE)
%/thoughts.jsonl:
	$(Q)$(PY) -m data_builders.stage1 --run $(RUN) thoughts

# Stage 2: stepwise solutions (section 3.3).
%/solutions.requests.jsonl: | $(D)/examples/manifest.json
	$(Q)$(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL) --stage $(OF) solution-requests
%/solutions.responses.jsonl: | $(SERVE)
	$(Q)$(ASK) --role solver --stage $(OF)
%/solutions.jsonl:
	$(Q)$(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL) --stage $(OF) solutions
%/corrections.requests.jsonl:
	$(Q)$(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL) --stage $(OF) correction-requests
%/corrections.responses.jsonl: | $(SERVE)
	$(Q)$(ASK) --role corrector --stage $(OF) --teacher-engine $(TEACHER_ENGINE)
%/corrections.jsonl:
	$(Q)$(PY) -m data_builders.stage2 --run $(RUN) --model $(MODEL) --stage $(OF) corrections

# Training (section 4.2.2). Every line may be run again after a kill. On one machine make calls LLaMA-Factory itself;
# on several, a script beside the recipe does (templates/launch/).
%/samples.jsonl:
	$(Q)$(PY) -m data_builders.samples --run $(RUN) --model $(MODEL) --stage $(OF)
START = $(if $(filter 1-torchrun,$(NODES)-$(LAUNCH)),--environment $(RECIPE).env -- llamafactory-cli train $(RECIPE).yaml,-- bash $(RECIPE).$(LAUNCH).sh)
$(M)/%/manifest.json: | $(TRAIN)
	$(Q)$(PY) -m data_builders.recipes --run $(RUN) --model $(MODEL) --stage $* --hardware $(HARDWARE) --nodes $(NODES) --launch $(LAUNCH) $(if $(TRACK),--report-to $(TRACK))
	$(Q)$(PYTRAIN) -m data_builders.llamafactory_dataset --run $(RUN) --model $(MODEL) --stage $*
	$(Q)$(PYTRAIN) -m data_builders.train prepare --run $(RUN) --model $(MODEL) --stage $*
	$(Q)test -f $(M)/$*/*/trainer_state.json || $(LOGGED) --title "training $*" --steps '$(M)/$*/*/trainer_log.jsonl' $(START)
	$(Q)test -f $(M)/$*/model/trainer_state.json || $(LOGGED) --title "merging $*" -- llamafactory-cli export $(RECIPE).export.yaml
	$(Q)$(PYTRAIN) -m data_builders.train finish --run $(RUN) --model $(MODEL) --stage $*

# ---- evaluation (sections 4.2.3 and 4.5) -----------------------------------------------------------------------
VOTES := $(filter-out 1,$(SAMPLES))
VARIANT := $(if $(LIMIT),.limit$(LIMIT))$(if $(VOTES),.samples$(VOTES))
SUBSET := $(if $(LIMIT),--limit $(LIMIT)) $(if $(VOTES),--samples $(VOTES))
TEST := $(D)/predictions/$(MODEL)/$(STAGE)/test$(VARIANT)
RESULT := $(D)/results$(VARIANT)/$(MODEL)/$(STAGE)/result.json
WEIGHTS := $(if $(filter base,$(STAGE)),$(BASE),$(M)/$(STAGE)/manifest.json)

# Written anew each time: what is asked, and of whom, depends on NAME and BASE_URL, which no file's time shows. What
# has been answered is not asked again.
$(TEST).requests.jsonl: $(SPLITS) always | $(D)/examples/manifest.json
	$(Q)$(PY) -m eval.predict --run $(RUN) --model $(MODEL) --stage $(STAGE) $(SUBSET) $(if $(NAME),--endpoint other --name "$$NAME") --out $@
$(D)/predictions/%.responses.jsonl: $(D)/predictions/%.requests.jsonl $(WEIGHTS) | $(if $(filter $(API),$(MODEL)),,$(SERVE))
	$(Q)$(ASK) --role policy --stage $(STAGE) --journal $(@D)/test.journal.jsonl
$(D)/predictions/%/baseline/test$(VARIANT).responses.jsonl: $(SPLITS)
	$(Q)$(PY) -m eval.baselines --run $(RUN) --model $* --out $@
$(D)/predictions/%/classifier/test$(VARIANT).responses.jsonl: $(SPLITS) | $(TRAIN) $(EMBEDDER)
	$(Q)$(PYTRAIN) -m eval.classifier --run $(RUN) --model $* --out $@
$(RESULT): $(TEST).responses.jsonl
	$(Q)$(PY) -m eval.score --run $(RUN) --model $(MODEL) --stage $(STAGE) $(SUBSET) --responses $< --out $@

.PHONY: tables report cases compare spread matrix plan costs audit
eval.now: preflight $(RESULT) ## predict and score MODEL at STAGE: base, any trained stage, classifier or baseline
baselines.now: $(SPLITS) ## score what needs no language model: a constant, TF-IDF with logistic regression, a cosine
	@for model in $$($(PY) -m eval.baselines --run $(RUN)); do $(MAKE) eval.now MODEL=$$model STAGE=baseline; done
tables: | declare ## Tables 3-5, measured beside published, as Markdown, CSV and LaTeX
	@$(PY) -m eval.tables --run $(RUN) $(SUBSET)
report: | declare ## one HTML file: tables, figures, losses, costs, lineage, every prediction; MODELS= for some
	@$(PY) -m eval.report --run $(RUN) $(if $(MODELS),--models $(MODELS)) $(SUBSET)
cases: | declare ## figures 1, 9 and 11 in text: problem, thought, answers, preference pair; ID= of an instance, else one of each
	@$(PY) -m eval.cases --run $(RUN) --model $(MODEL) $(if $(ID),--id "$$ID")
compare: | declare ## paired tests of A=model/stage against B=model/stage on the same instances
	@$(PY) -m eval.compare pair --run $(RUN) --a $(A) --b $(B) $(if $(LIMIT),--limit $(LIMIT))
spread: | declare ## mean and spread of MODEL at STAGE over RUNS="paper paper-43 ..."
	@$(PY) -m eval.compare spread --runs $(RUNS) --model $(MODEL) --stage $(STAGE) $(SUBSET)
matrix: | declare ## every cell of the paper's tables and figures, its command and its state; FORMAT=csv
	@$(PY) -m eval.matrix --run $(RUN) $(ONLY) --format $(FORMAT)
plan: $(SPLITS) ## what EXPERIMENT=table3 MODEL=... would ask, cost and take, before anything is spent
	@$(PY) -m eval.plan --run $(RUN) $(ONLY) $(if $(filter command line,$(origin MODEL))$(LOGREASONER_MODEL),--models $(MODEL)) $(if $(filter command line,$(origin STAGE))$(LOGREASONER_STAGE),--stage $(STAGE)) --hardware $(HARDWARE) $(SUBSET)
costs: | declare ## what the teacher's answers have cost, beside the paper's figures
	@$(PY) -m logreasoner.generation.costs --run $(RUN)
audit: | $(CORE) ## can the published numbers be? docs/audit.md
	$(PY) -m eval.audit --out docs/audit.md

# One table or figure of the paper: whatever it lacks is made, then it is drawn.
table1.now table2.now: data.now ## as built beside the paper's; table3 table4 table5: every row that is missing, then the table
# A row that cannot run does not stop the others: it is noted, and make fails once all is drawn.
NOT_RUN = $(if $(DRY),/dev/null,$(D)/logs/not-run.txt)
FILL = $(if $(DRY),,mkdir -p $(D)/logs;) : >$(NOT_RUN); $(PY) -m eval.matrix --run $(RUN) --only $(@:.now=) $(if $(MODELS),--models $(MODELS)) --format open | \
	  while read -r model stage; do $(MAKE) eval.now MODEL=$$model STAGE=$$stage </dev/null || echo "$$model/$$stage" >>$(NOT_RUN); done
ALL_RUN = ! test -s $(NOT_RUN) || { echo "error: not run, for the reasons above: $$(paste -sd ' ' $(NOT_RUN)); the others are drawn. \
	  Fix them and run the same command again, or ask for some: make eval MODEL=... STAGE=..." >&2; exit 1; }
table3.now table4.now table5.now: | declare
	@$(FILL)
	@$(PY) -m eval.tables --run $(RUN) $(SUBSET)
	@$(ALL_RUN)
figure4.now figure5.now figure6.now figure7.now figure8.now: | declare ## figure4 ... figure8 (MODELS=): what is missing, then PNG, SVG and CSV
	@$(FILL)
	@$(PY) -m eval.figures --run $(RUN) --figure $(patsubst figure%.now,%,$@) $(if $(MODELS),--models $(MODELS)) $(SUBSET)
	@$(ALL_RUN)
$(S)/thought-sft/thought_embeddings.npy: $(S)/thought-sft/samples.jsonl | $(TRAIN) $(EMBEDDER)
	$(Q)$(PYTRAIN) -m data_builders.embed --run $(RUN) --texts $< --field response --out $@
figure10.now: preflight $(S)/thought-sft/thought_embeddings.npy ## t-SNE and steps of the thoughts
	@$(PY) -m eval.figures --run $(RUN) --figure 10

# ---- using the model -------------------------------------------------------------------------------------------
.PHONY: serve analyze weights package-weights review
# A server holds no run; what it lacks is made by a make that does.
weights:
	@test -f "$(WEIGHTS)" || test -z "$(WEIGHTS)" || flock $(LOCK) $(MAKE) $(WEIGHTS)
serve: preflight weights | $(SERVE) ## serve MODEL at STAGE by vLLM (OpenAI-compatible) until Ctrl-C; PORT=8000 HOST=127.0.0.1
	@$(PY) -m logreasoner.generation.serve --run $(RUN) --model $(MODEL) --stage $(STAGE) --hardware $(HARDWARE) --port $(PORT) --host "$$HOST"
OF_RUN := --run $(RUN) --model $(MODEL)
analyze: $(if $(BASE_URL),,preflight weights) | $(CORE) $(if $(BASE_URL),,$(SERVE)) ## a verdict with its steps for each session of LOG (- is standard input); TASK=, and MODEL= or BASE_URL=
	@$(PY) -m eval.analyze --log "$$LOG" --task $(TASK) $(value ARGS) $(if $(BASE_URL),--base-url "$$BASE_URL" $(if $(NAME),--name "$$NAME") $(if $(wildcard $(D)/run.json),$(OF_RUN)),$(OF_RUN) --stage $(STAGE) --hardware $(HARDWARE))
export.now: preflight $(M)/$(STAGE)/manifest.json ## the complete weights of STAGE with a model card: lineage, data, recipe, scores, limits
	@$(PY) -m eval.card --run $(RUN) --model $(MODEL) --stage $(STAGE) --out $(M)/$(STAGE)/model
	@echo "complete weights, with a model card: $(M)/$(STAGE)/model"
package-weights: build/models/$(MODEL)/manifest.json ## the weights of MODEL from the package index, where no hub can be reached (smollm2-135m)
build/models/%/manifest.json: | $(TRAIN)
	$(Q)$(PYTRAIN) -m data_builders.package_weights --model $*
rewards.now: $(SPLITS) ## prompts with labels and a reward function for RL trainers (verl, TRL), in build/runs/<run>/rewards
	@$(PY) -m data_builders.rewards --run $(RUN)
review: | $(CORE) ## a web page to accept, edit or reject thoughts and MODEL's corrections; WHO=name
	@$(PY) -m data_builders.review_page --run $(RUN) --model $(MODEL) $(if $(WHO),--who "$$WHO")
data-ad: | $(CORE) ## the large raw logs for anomaly detection, before `make data`; or BGL=FILE SPIRIT=FILE
	$(PY) -m data_builders.fetch --group ad $(if $(BGL),--file "BGL.zip=$$BGL") $(if $(SPIRIT),--file "spirit2.gz=$$SPIRIT")

# ---- set-up and checks -----------------------------------------------------------------------------------------
.PHONY: setup setup-dev setup-train setup-serve doctor recipes chat-templates data-ad check test test-long audit-deps bench help
setup: $(CORE) ## make the core environment .venv
setup-dev: $(DEV) ## add the tools for tests to .venv
setup-train: $(TRAIN) ## make .venv-train (LLaMA-Factory, FlagEmbedding)
setup-serve: $(SERVE) ## make .venv-serve (vLLM; its CPU build without a GPU)
doctor: | $(CORE) ## what this machine can do, and what is missing for the rest
	@$(PY) -m data_builders.doctor
recipes: | $(CORE) ## render the committed recipes/<model>/<stage>.yaml and recipes/stages.mk
	$(PY) -m data_builders.recipes --committed
chat-templates: | $(TRAIN) ## render templates/chat/<template>.jinja of models.yaml from LLaMA-Factory's own templates
	$(PYTRAIN) -m data_builders.chat_templates
check: | $(DEV) ## lint, types and unit tests
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -n 2 --dist loadfile -m "not e2e" -x
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
	.venv/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off $(foreach name,core train serve-cpu,-r requirements/$(name).lock.txt) || \
	{ echo "not audited, or with advisories: see above (--strict: what no service answered for counts as not audited)" >&2; exit 1; }
FIRST := demo test new-task try-task dpo eval tables report serve analyze
help: ## this list
	@echo "The ten that matter first:"; for goal in $(FIRST); do grep -hE "^$$goal(\.now)?:.*## " $(MAKEFILE_LIST); done | \
	awk -F ":.*## " '{ sub(/\.now/, "", $$1); printf "  make %-18s %s\n", $$1, $$2 }'
	@awk -F ":.*## " '/^# ---- /{ heading = $$0; gsub(/^# -+ *| *-+$$/, "", heading) } /^[a-z0-9 .-]+:.*## /{ \
	if (heading) print "\n" heading; heading = ""; gsub(/\.now/, "", $$1); printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo "Variables (docs/variables.md), now: MODEL=$(MODEL) RUN=$(RUN) STAGE=$(STAGE) HARDWARE=$(HARDWARE) ENGINE=$(ENGINE)"
