# `make demo`: every step for real, with a tiny model made on the spot, bundled logs and a scripted teacher.
# DATA=public runs the same on the public data. The goals below run inside `make demo`, with EXPERIMENT=demo*.

DEMO := $(if $(filter public,$(DATA)),demo-public,demo)
DEMO_STAGES := base thought-sft solution-sft dpo

.PHONY: demo demo-steps
demo: | $(CORE) $(TRAIN) $(SERVE) ## the whole method in minutes, offline, on a CPU; DATA=public for the public data
	@start=$$SECONDS; HF_HUB_OFFLINE=1 $(PY) -m demo.teacher --run $(DEMO) -- \
	  $(MAKE) --no-print-directory demo-steps EXPERIMENT=$(DEMO) RUN=$(DEMO) MODEL=tiny HARDWARE=cpu ENGINE=vllm && \
	echo "demo: $$((SECONDS - start)) s; everything it made is under build/runs/$(DEMO)"

demo-steps: dpo
	@for stage in $(DEMO_STAGES); do $(MAKE) --no-print-directory eval STAGE=$$stage; done
	@$(MAKE) --no-print-directory tables

ifneq ($(filter demo%,$(EXPERIMENT)),)
# The tiny base model: random weights, then an ordinary LLaMA-Factory run that teaches it the answer forms, imperfectly.
BASE := $(call TRAINED,form-sft)
EMBEDDER := $(D)/models/embedder
INIT := $(D)/models/$(MODEL)/init/model
FORM := $(D)/datasets/$(MODEL)/form-sft

$(INIT)/config.json: | $(POOLS) $(BUNDLED) $(TRAIN)
	$(PYTRAIN) -m demo.tiny_model --run $(RUN) --out $(@D)
$(EMBEDDER): | $(BUNDLED) $(TRAIN)
	$(PYTRAIN) -m demo.tiny_model --embedder --out $@
$(FORM)/samples.jsonl: | $(POOLS) $(BUNDLED)
	$(PY) -m demo.form --run $(RUN) --out $@
endif
