# Every command of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The interpreter of every environment: Debian's, whose libpython Triton's Python backend finds.
PYTHON ?= /usr/bin/python3.11

TRAINING := .venv/training/bin/python
TRITON := .venv/triton/bin/python
BATCH := .venv/batch/bin/python
TORCH := .venv/torch/bin/python
GATEWAY := .venv/gateway/bin/python
DEV := .venv/dev/bin/python
ENVIRONMENTS := deploy/local/environments.py
STACK := $(DEV) -m deploy.local.stack
BUNDLES := $(DEV) -m deploy.local.bundles
TRACKING := $(DEV) -m deploy.local.tracking
# A command of a role that needs Redis: with its URL, and the password of the local one.
RUN := $(DEV) -m deploy.local.run

# Given on the command line, these become settings of every command.
ifdef DATA
export SHORTLIST_DATA := $(DATA)
endif
ifdef SETTINGS
export SHORTLIST_SETTINGS := $(SETTINGS)
endif
ifdef QUALITY
export SHORTLIST_QUALITY := $(QUALITY)
endif
ifdef TRAINER
export SHORTLIST_TRAINER := $(TRAINER)
endif
ifdef WORKERS
export SHORTLIST_WORKERS := $(WORKERS)
endif
ifdef SHARDS
export SHORTLIST_TORCHREC__SHARDS := $(SHARDS)
endif

# The role torch, where this command needs it.
TRAINERS := $(if $(filter torchrec,$(SHORTLIST_TRAINER)),environment-torch)

export PYTHONUNBUFFERED := 1

# The kernels that numpy 1.23's OpenBLAS picks for these processors multiply wrongly: contract/arithmetic.py.
ifneq ($(shell grep -sm1 -o avx512_bf16 /proc/cpuinfo),)
export OPENBLAS_CORETYPE ?= Haswell
endif

.PHONY: help
help: ## list the commands
	@awk -F ' *## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## build every role's environment from its lock; costs seconds where nothing changed  [ROLES=torch]
	@$(call with_python,$(ROLES))

.PHONY: environments
environments:
	@$(call with_python,--quiet-if-current)

# The role torch is built when a command first needs it: the demo does not.
.PHONY: environment-torch
environment-torch: environments
	@$(call with_python,--quiet-if-current torch)

.PHONY: demo
demo: environments $(TRAINERS) ## train, promote, serve, ask, measure, stop: the whole path  [DATA=name-or-folder] [KEEP=1: leave it serving] [FORCE=1: as of promote]
	@$(DEV) -m deploy.local.demo $(if $(KEEP),--keep) $(if $(FORCE),--force)

.PHONY: up
up: environments ## start all servers in the background and wait until they answer
	@$(STACK) up

.PHONY: down
down: environments ## stop them
	@$(STACK) down

.PHONY: status
status: environments ## say which of them run
	@$(STACK) status

.PHONY: data
data: environments ## prepare a data set: check it and write its three tables  [DATA=]
	@$(TRAINING) -m training prepare

.PHONY: shards
shards: environment-torch ## write the towers' training examples as shards, which trainers stream  [DATA=] [TO=folder-or-address]
	@$(TRAINING) -m training shards | $(TORCH) -m training.shards.pack $(if $(TO),--to '$(TO)')

.PHONY: train
train: environments $(TRAINERS) ## train a bundle and evaluate it; what is served stays  [DATA=] [QUALITY=full: several seeds, baselines, intervals] [SETTINGS=file] [TRAINER=torchrec WORKERS=2: two-tower on TorchRec, its processes; SHARDS=folder-or-address: streamed from make shards]
	@$(call tracked,$(TRAINING) -m training train)

.PHONY: compare
compare: environments $(TRAINERS) ## train architectures side by side, print one table; goes on where it was  [MODELS=dcn,mmoe] [DATA=] [WRITE=docs/models.md]
	@$(call tracked,$(TRAINING) -m training compare $(if $(MODELS),--models '$(MODELS)') $(if $(WRITE),--write '$(WRITE)'))

.PHONY: tune
tune: environment-torch ## search settings by what validation says; goes on where it was  [TRIALS=20] [HOURS=] [MODEL=two_tower] [DATA=] [SPACE=file]
	@$(call tracked,$(RUN) torch -m training.tuning --trainer $(TRAINING) $(if $(TRIALS),--trials '$(TRIALS)') \
		$(if $(HOURS),--hours '$(HOURS)') $(if $(MODEL),--model '$(MODEL)') $(if $(SPACE),--space '$(SPACE)'))

.PHONY: mlflow
mlflow: environment-torch ## open MLflow's page: what was trained, with which settings, and what it reached
	@$(RUN) torch -m training.tracking page

.PHONY: promote
promote: environments ## let the bundle trained last answer, if it is not worse; no restart  [BUNDLE=name] [FORCE=1: even if it is]
	@$(BUNDLES) promote $(if $(BUNDLE),--bundle '$(BUNDLE)') $(if $(FORCE),--force)

.PHONY: retrain
retrain: environments $(TRAINERS) ## train on all that is known, compare with what is served on the newest days, promote  [DATA=] [REASON=]
	@$(DEV) -m deploy.local.retrain $(if $(REASON),--reason "$$REASON")

.PHONY: rollback
rollback: environments ## let the bundle answer again that did before
	@$(BUNDLES) rollback

.PHONY: split
split: environments ## let a bundle answer a share of the users beside the champion  BUNDLE=name SHARE=0.1 [SHARE=0: end it]
	@$(BUNDLES) split --bundle '$(BUNDLE)' --share '$(SHARE)'

.PHONY: shadow
shadow: environments ## ask a bundle beside the champion, and show it to nobody  [BUNDLE=name; none: end it]
	@$(BUNDLES) shadow $(if $(BUNDLE),--bundle '$(BUNDLE)')

.PHONY: bundles
bundles: environments ## list the bundles, how the current one changed, and which answers whom
	@$(BUNDLES) list

.PHONY: materialize
materialize: environments ## bring the features to Redis with Feast  [DATA=]
	@$(TRAINING) -m training features
	@$(STACK) up redis
	@$(RUN) training -m feature_repo materialize

.PHONY: export
export: environments ## build the bundle's vector index and Triton's model repository  [FORCE=1: without its features]
	@$(STACK) up redis
	@$(RUN) triton -m ensemble.publish.index $(if $(FORCE),--force)
	@$(RUN) triton -m ensemble.publish.export

.PHONY: embeddings
embeddings: environments $(if $(FILE),,environment-torch) ## train users' rows beside the served bundle on what came since, send those that changed; no restart  [DATA=] [FILE=rows.npz: send these]
	@file='$(FILE)'; [ -n "$$file" ] || file=$$($(TRAINING) -m training embeddings); \
	if [ -n "$$file" ]; then $(RUN) triton -m ensemble.publish.updates "$$file"; fi

.PHONY: nodes
nodes: environments ## spread the index over the Redis nodes of SHORTLIST_INDEX_NODES, or move it to them, while it serves
	@$(STACK) up redis
	@$(RUN) triton -m ensemble.publish.nodes

.PHONY: batch
batch: environments ## make everyone's slate and publish them all at once  [USERS=file ACTIVE_SINCE=2026-11-01 CHANGED=1]
	@$(STACK) up redis
	@$(RUN) batch -m batch run $(if $(USERS),--users '$(USERS)') \
		$(if $(ACTIVE_SINCE),--active-since '$(ACTIVE_SINCE)') $(if $(CHANGED),--changed)

.PHONY: batch-status
batch-status: environments ## show the last batch runs
	@$(RUN) batch -m batch status

.PHONY: report
report: environments ## say what came of what was shown, and write a page  [BUNDLE=one that did not serve]
	@$(RUN) triton -m live report $(if $(BUNDLE),--bundle '$(BUNDLE)')

.PHONY: test
test: environment-torch ## run every role's tests in its own environment, the integration tests last
	@$(call role_tests,training,$(TRAINING))
	@$(call role_tests,triton,$(TRITON))
	@$(call role_tests,batch,$(BATCH))
	@$(call role_tests,gateway,$(GATEWAY))
	@$(call role_tests,torch,$(TORCH))
	@$(call role_tests,stack,$(DEV))
	@echo "==> tests/integration"
	@$(DEV) -m pytest tests/integration

.PHONY: check
check: environments ## look for faults without changing a file: ruff, formatting, mypy, imports
	.venv/dev/bin/ruff check .
	.venv/dev/bin/ruff format --check .
	.venv/dev/bin/mypy $(SOURCES)
	.venv/dev/bin/lint-imports

.PHONY: fix
fix: environments ## repair what ruff can repair
	.venv/dev/bin/ruff check --fix .
	.venv/dev/bin/ruff format .

.PHONY: bench
bench: environments ## measure four designs side by side, the whole path and each stage; 15 minutes  [QUICK=1: try it]
	@$(DEV) -m bench.run $(if $(QUICK),--quick)

.PHONY: flame
flame: environments ## sample the running chain under load and draw where its time goes
	@$(DEV) -m bench.flame

.PHONY: chaos
chaos: environments ## kill and stall each server under load; print what callers get  [SECONDS=30] [PUBLISH=1]
	@$(DEV) -m bench.chaos.run chaos $(if $(SECONDS),--seconds '$(SECONDS)') $(if $(PUBLISH),--publish)

.PHONY: overload
overload: environments ## ask for two and three times what the servers can do  [SECONDS=60] [PUBLISH=1]
	@$(DEV) -m bench.chaos.run overload $(if $(SECONDS),--seconds '$(SECONDS)') $(if $(PUBLISH),--publish)

.PHONY: bench-scale
bench-scale: environments ## measure catalogues of 10k, 100k and 1M items; goes on where it was  [SIZES=10000,100000] [USERS=]
	@$(DEV) -m bench.scale.run $(if $(SIZES),--sizes '$(SIZES)') $(if $(USERS),--users '$(USERS)')

.PHONY: bench-embeddings
bench-embeddings: environments ## measure embeddings beyond one memory: lookups, policies, the whole path  [USERS=10000000] [SECONDS=5]
	@$(DEV) -m bench.embeddings.run $(if $(USERS),--users '$(USERS)') $(if $(SECONDS),--seconds '$(SECONDS)')

.PHONY: bench-batch
bench-batch: environments ## measure slates for everyone: 2 workers, a loop over users, a million users  [QUICK=1: small sizes] [USERS=1000000] [DATA=]
	@$(DEV) -m bench.batch.run $(if $(QUICK),--quick) $(if $(USERS),--users-at-scale '$(USERS)') \
		$(if $(DATA),--data '$(DATA)')

.PHONY: bench-live
bench-live: environments ## send events beside recommendations to the running stack; time their effect  [SECONDS=60] [STRETCH=60: so many on end] [EVENTS= per second]
	@$(DEV) -m bench.live.run $(if $(SECONDS),--seconds '$(SECONDS)') $(if $(STRETCH),--stretch '$(STRETCH)') $(if $(EVENTS),--events '$(EVENTS)')

.PHONY: bench-trainers
bench-trainers: environment-torch ## measure both trainers of the two-tower model: speed, memory  [DATA=] [PUBLISH=1]
	@$(DEV) -m bench.trainers.run $(if $(PUBLISH),--publish)

.PHONY: gpu-check
gpu-check: environments ## train TorchRec's towers on a GPU, run both models there, compare with the CPU; 8 minutes at most
	@$(DEV) -m bench.gpu.run

.PHONY: load
load: environments ## load the running gateway at a fixed rate  [RATE= requests/s] [DURATION= s] [USERS= at most]
	@$(DEV) -m bench.load.load $(if $(RATE),--rate '$(RATE)') $(if $(DURATION),--duration '$(DURATION)') \
		$(if $(USERS),--users '$(USERS)')

.PHONY: fuzz
fuzz: environments ## ask a copy of the stack whatever the API allows and forbids  [MINUTES=]
	@$(DEV) -m bench.fuzz.fuzz $(if $(MINUTES),--minutes '$(MINUTES)')

.PHONY: picture
picture: environments ## draw the rooms of the code anew, docs/images/house.svg
	@$(DEV) docs/house.py

.PHONY: lock
lock: ## compile requirements/*.txt anew from requirements/*.in
	@$(call with_python,--lock)

SOURCES := contract shortlist service ensemble training feature_repo batch live deploy bench tests

# Debian's python3.11-venv brings the interpreter itself, so this is said before there is one.
define with_python
command -v $(PYTHON) >/dev/null || { \
	echo "setup    $(PYTHON) is missing; install it, or set PYTHON= to a Python 3.11:"; \
	echo "    sudo apt-get install --yes python3.11-venv libpython3.11 libgomp1"; exit 1; } >&2; \
$(PYTHON) $(ENVIRONMENTS) --python $(PYTHON) $(1)
endef

# Runs a command that trains, then brings what was recorded to MLflow, however it ended; what failed before
# anything was recorded has said why, and nothing more is said.
define tracked
began=$$(date +%s); status=0; $(1) || status=$$?; \
$(TRACKING) $$([ $$status = 0 ] || echo --since $$began); exit $$status
endef

# A folder that is missing or holds no test fails the run: pytest ends with 4 or 5.
define role_tests
echo "==> $(1)"; for layer in unit property contract; do \
	if [ -d tests/$$layer/$(1) ]; then found="$${found:-} tests/$$layer/$(1)"; fi; done; \
[ -n "$${found:-}" ] || { echo "no test folder for the role $(1)" >&2; exit 1; }; \
$(2) -m pytest $$found
endef
