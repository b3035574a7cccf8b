# The server with its models, and nothing that it does not need: no compiler, no builder, no other engine.
#
#   docker build -f docker/service.Dockerfile -t lpr .
#   docker build -f docker/service.Dockerfile -t lpr --build-arg VARIANT=quantized --build-arg EXTRA=onnxruntime .
#
# EXTRA is the engine that the variant's manifest names (its `backend`); several, as in EXTRA=tvm,onnxruntime, allow
# to choose between variants with LPR_VARIANT when the container is started. PyPI's torch for Linux brings CUDA; the
# argument PIP_EXTRA_INDEX_URL can name an index of torch for CPUs.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRA=tvm
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/lpr
# What it depends on changes less often than its code: a layer of its own. TVM's compiler is two fifths of all bytes, and
# the server uses its runtime alone.
COPY pyproject.toml README.md LICENSE ./
RUN /opt/lpr/bin/python -m pip install ".[${EXTRA}]" && find /opt/lpr -name libtvm_compiler.so -delete
COPY service service
RUN /opt/lpr/bin/python -m pip install --no-deps --force-reinstall .

FROM python:${PYTHON}
# None is the default variant; also an older LPR_BACKEND, given to `docker run`, takes effect then.
ARG VARIANT=
COPY --from=build /opt/lpr /opt/lpr
COPY artifacts /artifacts
ENV LPR_VARIANT=${VARIANT} LPR_ARTIFACTS=/artifacts LPR_HOST=0.0.0.0 LPR_PORT=8000 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/opt/lpr/bin/python", "-c", "import os; from urllib.request import urlopen; urlopen(f'http://127.0.0.1:{os.environ.get(\"LPR_PORT\") or 8000}/readyz', timeout=2)"]
ENTRYPOINT ["/opt/lpr/bin/python", "-m", "service"]
