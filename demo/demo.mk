# `make demo`: every step for real, with a tiny model made on the spot, bundled logs and a scripted teacher.
# DATA=public runs the same on the public data. The goals below run inside `make demo`, with EXPERIMENT=demo*.

DEMO := $(if $(filter public,$(DATA)),demo-public,demo)
DEMO_STAGES := base thought-sft solution-sft dpo

.PHONY: demo demo-steps
demo: | $(CORE) $(TRAIN) $(SERVE) ## the whole method in minutes, offline, on a CPU; DATA=public for the public data
	@start=$$SECONDS; HF_HUB_OFFLINE=1 $(PY) -m demo.teacher --run $(DEMO) -- \
	  $(MAKE) --no-print-directory demo-steps EXPERIMENT=$(DEMO) RUN=$(DEMO) MODEL=tiny HARDWARE=cpu ENGINE=vllm && \
	echo "demo: $$((SECONDS - start)) s; everything it made is under build/runs/$(DEMO)"

# A task of one's own (docs/tutorial.md). NAME= is emptied for the steps: there it is an endpoint's name for a model.
.PHONY: new-task try-task
new-task: | $(CORE) ## a task of your own, without code: NAME=disk-failures FROM=incidents.csv ARGS="..."; docs/tutorial.md
	@$(PY) -m data_builders.new_task --name $(call quoted,$(NAME)) --from $(call quoted,$(FROM)) $(ARGS)
try-task: | $(CORE) $(TRAIN) $(SERVE) ## the method on task NAME with the tiny model and the scripted teacher, in minutes
	@HF_HUB_OFFLINE=1 $(PY) -m demo.teacher --run $(call quoted,demo-$(NAME)) -- \
	  $(MAKE) --no-print-directory demo-steps EXPERIMENT=$(call quoted,demo-$(NAME)) RUN=$(call quoted,demo-$(NAME)) MODEL=tiny HARDWARE=cpu ENGINE=vllm NAME=

demo-steps: dpo
	@for stage in $(DEMO_STAGES); do $(MAKE) --no-print-directory eval STAGE=$$stage; done
	@$(MAKE) --no-print-directory baselines
	@$(MAKE) --no-print-directory tables

# Every cell of every table and figure: the models of the paper are the tiny one under their names.
# PARTS="llama3.1-8b/dpo-20 bert/classifier" runs some (model, stage) of the grid only.
.PHONY: smoke smoke-steps
smoke: | $(CORE) $(TRAIN) $(SERVE) ## does every cell of the paper's tables and figures run? about half an hour; PARTS= for some
	@start=$$SECONDS; HF_HUB_OFFLINE=1 $(PY) -m demo.teacher --run smoke -- \
	  $(MAKE) --no-print-directory smoke-steps EXPERIMENT=smoke RUN=smoke HARDWARE=cpu ENGINE=vllm && \
	echo "smoke: $$((SECONDS - start)) s; everything it made is under build/runs/smoke"
smoke-steps:
	@$(MAKE) --no-print-directory train MODEL=tiny STAGE=base-sft
	@for each in $(or $(PARTS),$(GRID) figure10); do \
	  $(MAKE) --no-print-directory $(if $(PARTS),eval MODEL=$${each%/*} STAGE=$${each#*/},$$each) BASE_URL="$$SCRIPTED_TEACHER_URL"; done
	@$(PY) -m eval.matrix --run smoke $(if $(PARTS),,--require)

ifneq ($(filter demo% smoke,$(EXPERIMENT)),)
# The tiny base model: random weights, then an ordinary LLaMA-Factory run that teaches it the answer forms, imperfectly.
BASE := $(D)/models/tiny/base-sft/manifest.json
EMBEDDER := $(D)/models/embedder
INIT := $(D)/models/tiny/init/model
FORM := $(if $(filter tiny,$(MODEL)),$(D)/datasets/tiny/base-sft)

$(INIT)/config.json: | $(SPLITS) $(BUNDLED) $(TRAIN)
	$(PYTRAIN) -m demo.tiny_model --run $(RUN) --out $(@D)
$(EMBEDDER): | $(BUNDLED) $(TRAIN)
	$(PYTRAIN) -m demo.tiny_model --embedder --out $@
$(D)/datasets/tiny/base-sft/samples.jsonl: | $(SPLITS) $(BUNDLED)
	$(PY) -m demo.base_sft --run $(RUN) --out $@
endif
