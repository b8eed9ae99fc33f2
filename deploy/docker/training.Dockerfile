# Training: Merlin Models, TensorFlow, Feast. A job, not a server. Not run here: this project is tested without Docker.
FROM python:3.11.14-slim-bookworm AS environment
COPY requirements/setup.txt requirements/training.txt /locks/
RUN python -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes --requirement /locks/setup.txt \
 && /opt/installer/bin/uv venv /opt/environment \
 && /opt/installer/bin/uv pip sync --no-cache --require-hashes --python /opt/environment /locks/training.txt

FROM python:3.11.14-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home shortlist && install --directory --owner shortlist /srv/shortlist/var
COPY --from=environment /opt/environment /opt/environment
WORKDIR /srv/shortlist
COPY contract contract
COPY feature_repo feature_repo
COPY training training
# What contract/arithmetic.py tells: numpy 1.23 multiplies wrongly with the kernels it picks for some processors.
ENV OPENBLAS_CORETYPE=Haswell
ENV PATH=/opt/environment/bin:$PATH PYTHONPATH=/srv/shortlist PYTHONUNBUFFERED=1 \
    SHORTLIST_VAR_DIR=/srv/shortlist/var SHORTLIST_DATA_DIR=/data
USER shortlist
# A job that is alive is healthy; how far it is stands in its log.
HEALTHCHECK --interval=30s CMD ["true"]
CMD ["sh", "-euc", "python -m training prepare && python -m training train && python -m training promote && python -m training features && python -m feature_repo materialize"]
