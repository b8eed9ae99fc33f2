# Triton: Merlin Systems and ONNX Runtime, no TensorFlow. Not run here: this project is tested without Docker.
# NVIDIA's server with a Python backend stub for the Python of our locks: the image's own stub is for another version.
ARG TRITON_RELEASE=26.10
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3 AS python
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_PYTHON_PREFERENCE=only-managed
COPY requirements/setup.txt /locks/
RUN python3 -m pip install --no-cache-dir --break-system-packages --require-hashes --requirement /locks/setup.txt \
 && uv python install 3.11.14

FROM python AS stub
ARG TRITON_RELEASE=26.10
RUN apt-get update && apt-get install --yes --no-install-recommends \
      cmake g++ git libarchive-dev libboost-dev make rapidjson-dev zlib1g-dev
RUN git clone --depth 1 --branch r${TRITON_RELEASE} https://github.com/triton-inference-server/python_backend /source \
 && cmake -S /source -B /build -DTRITON_ENABLE_GPU=ON \
      -DTRITON_BACKEND_REPO_TAG=r${TRITON_RELEASE} -DTRITON_COMMON_REPO_TAG=r${TRITON_RELEASE} \
      -DTRITON_CORE_REPO_TAG=r${TRITON_RELEASE} -DPYTHON_EXECUTABLE="$(uv python find 3.11.14)" \
 && cmake --build /build --target triton-python-backend-stub --parallel

FROM python
# cpu, or gpu: puts ONNX Runtime with the CUDA and TensorRT providers in the place of the other.
ARG PROVIDER=cpu
COPY requirements/triton.txt requirements/triton-gpu.txt /locks/
RUN uv venv --python 3.11.14 /opt/environment \
 && uv pip sync --no-cache --require-hashes --python /opt/environment /locks/triton.txt \
 && if [ "$PROVIDER" = gpu ]; then \
      uv pip uninstall --python /opt/environment onnxruntime \
      && uv pip install --no-cache --no-deps --require-hashes --python /opt/environment \
           --requirement /locks/triton-gpu.txt; \
    fi \
 && ln -s "$(dirname "$(dirname "$(uv python find 3.11.14)")")" /opt/python/current \
 && useradd --uid 10001 --create-home shortlist && install --directory --owner shortlist /srv/shortlist/var /srv/shortlist/embeddings
COPY --from=stub /build/triton_python_backend_stub /opt/tritonserver/backends/python/triton_python_backend_stub
WORKDIR /srv/shortlist
COPY contract contract
COPY ensemble ensemble
COPY live live
# The stub takes the first python3 on PATH for its home, and loads that interpreter's libpython.
# What contract/arithmetic.py tells: numpy 1.23 multiplies wrongly with the kernels it picks for some processors.
ENV OPENBLAS_CORETYPE=Haswell
ENV PATH=/opt/environment/bin:$PATH LD_LIBRARY_PATH=/opt/python/current/lib:$LD_LIBRARY_PATH \
    PYTHONPATH=/srv/shortlist PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 SHORTLIST_VAR_DIR=/srv/shortlist/var
USER shortlist
EXPOSE 8000 8001 8002
# A real slate, as Triton's own readiness outlives its Python process.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=2 \
  CMD ["python", "-m", "ensemble.triton.probe"]
# Under watch: a server that will not answer again is ended, the container with it, and its restart policy starts it.
# It starts with no model: what is served is loaded beside the watch.
CMD ["python", "-m", "ensemble.triton.watch", "tritonserver", "--model-repository=/srv/shortlist/var/models", \
     "--model-control-mode=explicit", "--http-thread-count=32"]
