# The gateway: FastAPI, no Merlin, no Feast. Not run here: this project is tested without Docker.
FROM python:3.11.14-slim-bookworm AS environment
COPY requirements/setup.txt requirements/gateway.txt /locks/
RUN python -m venv /opt/installer \
 && /opt/installer/bin/pip install --no-cache-dir --require-hashes --requirement /locks/setup.txt \
 && /opt/installer/bin/uv venv /opt/environment \
 && /opt/installer/bin/uv pip sync --no-cache --require-hashes --python /opt/environment /locks/gateway.txt

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --create-home shortlist && install --directory --owner shortlist /srv/shortlist/var
COPY --from=environment /opt/environment /opt/environment
WORKDIR /srv/shortlist
COPY contract contract
COPY service service
COPY shortlist shortlist
ENV PATH=/opt/environment/bin:$PATH PYTHONPATH=/srv/shortlist PYTHONUNBUFFERED=1 \
    SHORTLIST_HOST=0.0.0.0 SHORTLIST_PORT=8080 SHORTLIST_BUNDLE_DIR=/srv/shortlist/var/bundles/current
USER shortlist
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["python", "-m", "service.main"]
