# The batch job and its schedule: the chain of the Triton image on Ray Data, without Triton. Not run here: this project
# is tested without Docker.
FROM python:3.11.14-slim-bookworm AS environment
COPY requirements/setup.txt requirements/batch.txt /locks/
RUN python -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes --requirement /locks/setup.txt \
 && /opt/installer/bin/uv venv /opt/environment \
 && /opt/installer/bin/uv pip sync --no-cache --require-hashes --python /opt/environment /locks/batch.txt

FROM python:3.11.14-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home shortlist && install --directory --owner shortlist /srv/shortlist/var
COPY --from=environment /opt/environment /opt/environment
WORKDIR /srv/shortlist
COPY contract contract
COPY ensemble ensemble
COPY batch batch
# What contract/arithmetic.py tells: numpy 1.23 multiplies wrongly with the kernels it picks for some processors.
ENV OPENBLAS_CORETYPE=Haswell
ENV PATH=/opt/environment/bin:$PATH PYTHONPATH=/srv/shortlist PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    SHORTLIST_VAR_DIR=/srv/shortlist/var
USER shortlist
# A schedule that is alive is healthy; whether its runs are, says `python -m batch status`.
HEALTHCHECK --interval=30s CMD ["true"]
CMD ["python", "-m", "batch", "schedule"]
