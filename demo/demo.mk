# ---- demonstration, and tasks of your own
# `make demo`: every step for real, with a tiny model made on the spot, bundled logs and a scripted teacher.
# DATA=public runs the same on the public data. The goals below run inside `make demo`, with EXPERIMENT=demo*.

DATA := $(or $(LOGREASONER_DATA),bundled)
# Another model than the tiny one has an experiment of its own, experiments/runs/demo-<model>.yaml.
DEMO_MODEL := $(if $(filter command line,$(origin MODEL))$(LOGREASONER_MODEL),$(MODEL),tiny)
DEMO := demo$(if $(filter public,$(DATA)),-public)$(if $(filter tiny,$(DEMO_MODEL)),,-$(DEMO_MODEL))
DEMO_HARDWARE := $(if $(filter command line,$(origin HARDWARE))$(LOGREASONER_HARDWARE),$(HARDWARE),cpu)
IN_DEMO = HF_HUB_OFFLINE=1 $(PY) -m demo.teacher --run

.PHONY: demo new-task try-task smoke demo-steps smoke-steps
demo: | $(CORE) $(TRAIN) $(SERVE) $(if $(filter $(PACKAGED),$(DEMO_MODEL)),build/models/$(DEMO_MODEL)/manifest.json) ## the whole method in minutes, offline, on a CPU; DATA=public for the public data, MODEL=smollm2-135m for a real model
	@start=$$SECONDS; $(IN_DEMO) $(DEMO) -- $(MAKE) demo-steps EXPERIMENT=$(DEMO) RUN=$(DEMO) MODEL=$(DEMO_MODEL) HARDWARE=$(DEMO_HARDWARE) ENGINE=vllm && \
	echo "demo: $$((SECONDS - start)) s; everything it made is under build/runs/$(DEMO)"

# A task of your own (docs/tutorial.md). NAME= is emptied for the steps: there it is an endpoint's name for a model.
new-task: | $(CORE) ## a task of your own, without code: NAME=disk-failures FROM=incidents.csv ARGS="..."; docs/tutorial.md
	@$(PY) -m data_builders.new_task --name "$$NAME" --from "$$FROM" $(value ARGS)
try-task: | $(CORE) $(TRAIN) $(SERVE) ## the method on task NAME with the tiny model and the scripted teacher, in minutes
	@$(IN_DEMO) "demo-$$NAME" -- $(MAKE) demo-steps EXPERIMENT="demo-$$NAME" RUN="demo-$$NAME" MODEL=tiny HARDWARE=cpu ENGINE=vllm NAME=

demo-steps:
	@$(MAKE) dpo
	@for stage in base thought-sft solution-sft dpo $(if $(filter tiny,$(MODEL)),,direct-sft); do $(MAKE) eval STAGE=$$stage; done
	@$(MAKE) baselines
	@$(MAKE) tables

# Every cell of every table and figure: the models of the paper are the tiny one under their names.
# PARTS="llama3.1-8b/dpo-20 bert/classifier" runs some (model, stage) of the grid only.
smoke: | $(CORE) $(TRAIN) $(SERVE) ## does every cell of the paper's tables and figures run? about half an hour; PARTS= for some
	@start=$$SECONDS; $(IN_DEMO) smoke -- $(MAKE) smoke-steps EXPERIMENT=smoke RUN=smoke HARDWARE=cpu ENGINE=vllm && \
	echo "smoke: $$((SECONDS - start)) s; everything it made is under build/runs/smoke"
smoke-steps:
	@$(MAKE) train MODEL=tiny STAGE=base-sft
	@for goal in $(or $(PARTS),table3 table4 table5 figure4 figure5 figure6 figure7 figure8 figure10); do \
	  $(MAKE) $(if $(PARTS),eval MODEL=$${goal%/*} STAGE=$${goal#*/},$$goal) BASE_URL="$$SCRIPTED_TEACHER_URL"; done
	@$(PY) -m eval.matrix --run smoke $(if $(PARTS),,--require)

ifneq ($(filter demo% smoke,$(EXPERIMENT)),)
# The tiny base model: random weights, then an ordinary LLaMA-Factory run that teaches it the answer forms, imperfectly.
BASE := $(if $(filter $(PACKAGED),$(MODEL)),build/models/$(MODEL),$(D)/models/tiny/base-sft)/manifest.json
EMBEDDER := $(D)/models/embedder

$(D)/models/tiny/init/model/config.json: | $(SPLITS) $(BUNDLED) $(TRAIN)
	$(Q)$(PYTRAIN) -m demo.tiny_model --run $(RUN) --out $(@D)
$(EMBEDDER): | $(BUNDLED) $(TRAIN)
	$(Q)$(PYTRAIN) -m demo.tiny_model --embedder --out $@
$(D)/datasets/tiny/base-sft/samples.jsonl: | $(SPLITS) $(BUNDLED)
	$(Q)$(PY) -m demo.base_sft --run $(RUN) --out $@
endif
