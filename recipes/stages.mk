# What is made from what in each stage; made by `make recipes` from experiments/stages.yaml, do not edit.
# $(S) datasets that all models share, $(O) those of the model, $(M) its weights, $(R) a person's decisions.

# base-sft (none (demo))
$(O)/base-sft/samples.jsonl:
$(M)/base-sft/manifest.json: $(O)/base-sft/samples.jsonl $(M)/init/model/config.json

# thought-sft (3.2.2, 4.2.2)
$(S)/thought-sft/rationales.requests.jsonl: $(SPLITS)
$(S)/thought-sft/rationales.responses.jsonl: $(S)/thought-sft/rationales.requests.jsonl
$(S)/thought-sft/analyses.jsonl: $(S)/thought-sft/rationales.responses.jsonl
$(S)/thought-sft/embeddings.npy: $(S)/thought-sft/analyses.jsonl
$(S)/thought-sft/selected.json: $(S)/thought-sft/embeddings.npy
$(S)/thought-sft/thoughts.requests.jsonl: $(S)/thought-sft/selected.json
$(S)/thought-sft/thoughts.responses.jsonl: $(S)/thought-sft/thoughts.requests.jsonl
$(S)/thought-sft/thoughts.jsonl: $(S)/thought-sft/thoughts.responses.jsonl
$(S)/thought-sft/samples.jsonl: $(S)/thought-sft/thoughts.jsonl $(wildcard $(R)/thoughts.jsonl)
$(M)/thought-sft/manifest.json: $(S)/thought-sft/samples.jsonl $(BASE)

# solution-sft (3.3.1, 4.2.2)
$(O)/solution-sft/solutions.requests.jsonl: $(SPLITS) $(M)/thought-sft/manifest.json
$(O)/solution-sft/solutions.responses.jsonl: $(O)/solution-sft/solutions.requests.jsonl
$(O)/solution-sft/solutions.jsonl: $(O)/solution-sft/solutions.responses.jsonl
$(O)/solution-sft/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/solution-sft/manifest.json: $(O)/solution-sft/samples.jsonl $(M)/thought-sft/manifest.json

# dpo (3.3.2, 4.2.2)
$(O)/dpo/corrections.requests.jsonl: $(O)/solution-sft/solutions.jsonl
$(O)/dpo/corrections.responses.jsonl: $(O)/dpo/corrections.requests.jsonl
$(O)/dpo/corrections.jsonl: $(O)/dpo/corrections.responses.jsonl
$(O)/dpo/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo/manifest.json: $(O)/dpo/samples.jsonl $(M)/solution-sft/manifest.json

# cot-sft (4.4.4)
$(S)/cot-sft/rationales.requests.jsonl: $(SPLITS)
$(S)/cot-sft/rationales.responses.jsonl: $(S)/cot-sft/rationales.requests.jsonl
$(S)/cot-sft/analyses.jsonl: $(S)/cot-sft/rationales.responses.jsonl
$(S)/cot-sft/samples.jsonl: $(S)/cot-sft/analyses.jsonl $(S)/thought-sft/selected.json
$(M)/cot-sft/manifest.json: $(S)/cot-sft/samples.jsonl $(BASE)

# thought-sft-20 (4.5.3)
$(S)/thought-sft-20/samples.jsonl: $(S)/thought-sft/thoughts.jsonl $(wildcard $(R)/thoughts.jsonl)
$(M)/thought-sft-20/manifest.json: $(S)/thought-sft-20/samples.jsonl $(BASE)

# thought-sft-40 (4.5.3)
$(S)/thought-sft-40/samples.jsonl: $(S)/thought-sft/thoughts.jsonl $(wildcard $(R)/thoughts.jsonl)
$(M)/thought-sft-40/manifest.json: $(S)/thought-sft-40/samples.jsonl $(BASE)

# thought-sft-60 (4.5.3)
$(S)/thought-sft-60/samples.jsonl: $(S)/thought-sft/thoughts.jsonl $(wildcard $(R)/thoughts.jsonl)
$(M)/thought-sft-60/manifest.json: $(S)/thought-sft-60/samples.jsonl $(BASE)

# thought-sft-80 (4.5.3)
$(S)/thought-sft-80/samples.jsonl: $(S)/thought-sft/thoughts.jsonl $(wildcard $(R)/thoughts.jsonl)
$(M)/thought-sft-80/manifest.json: $(S)/thought-sft-80/samples.jsonl $(BASE)

# solution-sft-20 (4.5.3)
$(O)/solution-sft-20/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/solution-sft-20/manifest.json: $(O)/solution-sft-20/samples.jsonl $(M)/thought-sft/manifest.json

# solution-sft-40 (4.5.3)
$(O)/solution-sft-40/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/solution-sft-40/manifest.json: $(O)/solution-sft-40/samples.jsonl $(M)/thought-sft/manifest.json

# solution-sft-60 (4.5.3)
$(O)/solution-sft-60/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/solution-sft-60/manifest.json: $(O)/solution-sft-60/samples.jsonl $(M)/thought-sft/manifest.json

# solution-sft-80 (4.5.3)
$(O)/solution-sft-80/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/solution-sft-80/manifest.json: $(O)/solution-sft-80/samples.jsonl $(M)/thought-sft/manifest.json

# dpo-20 (4.5.3)
$(O)/dpo-20/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-20/manifest.json: $(O)/dpo-20/samples.jsonl $(M)/solution-sft-20/manifest.json

# dpo-40 (4.5.3)
$(O)/dpo-40/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-40/manifest.json: $(O)/dpo-40/samples.jsonl $(M)/solution-sft-40/manifest.json

# dpo-60 (4.5.3)
$(O)/dpo-60/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-60/manifest.json: $(O)/dpo-60/samples.jsonl $(M)/solution-sft-60/manifest.json

# dpo-80 (4.5.3)
$(O)/dpo-80/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-80/manifest.json: $(O)/dpo-80/samples.jsonl $(M)/solution-sft-80/manifest.json

# dpo-self (4.5.4)
$(O)/dpo-self/corrections.requests.jsonl: $(O)/solution-sft/solutions.jsonl
$(O)/dpo-self/corrections.responses.jsonl: $(O)/dpo-self/corrections.requests.jsonl
$(O)/dpo-self/corrections.jsonl: $(O)/dpo-self/corrections.responses.jsonl
$(O)/dpo-self/samples.jsonl: $(O)/dpo-self/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).dpo-self.jsonl)
$(M)/dpo-self/manifest.json: $(O)/dpo-self/samples.jsonl $(M)/solution-sft/manifest.json

# direct-sft (5.1)
$(S)/direct-sft/samples.jsonl: $(SPLITS)
$(M)/direct-sft/manifest.json: $(S)/direct-sft/samples.jsonl $(BASE)

# dpo-uncorrected (5.1)
$(O)/dpo-uncorrected/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/dpo-uncorrected/manifest.json: $(O)/dpo-uncorrected/samples.jsonl $(M)/solution-sft/manifest.json

# solution-sft-no-thought (5.2)
$(O)/solution-sft-no-thought/solutions.requests.jsonl: $(SPLITS) $(BASE)
$(O)/solution-sft-no-thought/solutions.responses.jsonl: $(O)/solution-sft-no-thought/solutions.requests.jsonl
$(O)/solution-sft-no-thought/solutions.jsonl: $(O)/solution-sft-no-thought/solutions.responses.jsonl
$(O)/solution-sft-no-thought/samples.jsonl: $(O)/solution-sft-no-thought/solutions.jsonl
$(M)/solution-sft-no-thought/manifest.json: $(O)/solution-sft-no-thought/samples.jsonl $(BASE)

# dpo-no-thought (5.2)
$(O)/dpo-no-thought/corrections.requests.jsonl: $(O)/solution-sft-no-thought/solutions.jsonl
$(O)/dpo-no-thought/corrections.responses.jsonl: $(O)/dpo-no-thought/corrections.requests.jsonl
$(O)/dpo-no-thought/corrections.jsonl: $(O)/dpo-no-thought/corrections.responses.jsonl
$(O)/dpo-no-thought/samples.jsonl: $(O)/dpo-no-thought/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).dpo-no-thought.jsonl)
$(M)/dpo-no-thought/manifest.json: $(O)/dpo-no-thought/samples.jsonl $(M)/solution-sft-no-thought/manifest.json

# dpo-no-solution (5.2)
$(O)/dpo-no-solution/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-no-solution/manifest.json: $(O)/dpo-no-solution/samples.jsonl $(M)/thought-sft/manifest.json

# dpo-ipo (none)
$(O)/dpo-ipo/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-ipo/manifest.json: $(O)/dpo-ipo/samples.jsonl $(M)/solution-sft/manifest.json

# dpo-hinge (none)
$(O)/dpo-hinge/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/dpo-hinge/manifest.json: $(O)/dpo-hinge/samples.jsonl $(M)/solution-sft/manifest.json

# orpo (none)
$(O)/orpo/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/orpo/manifest.json: $(O)/orpo/samples.jsonl $(M)/solution-sft/manifest.json

# simpo (none)
$(O)/simpo/samples.jsonl: $(O)/dpo/corrections.jsonl $(wildcard $(R)/corrections.$(MODEL).jsonl)
$(M)/simpo/manifest.json: $(O)/simpo/samples.jsonl $(M)/solution-sft/manifest.json

# kto (none)
$(O)/kto/samples.jsonl: $(O)/solution-sft/solutions.jsonl
$(M)/kto/manifest.json: $(O)/kto/samples.jsonl $(M)/solution-sft/manifest.json
