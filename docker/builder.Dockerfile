# The offline builder: trains, prunes, quantizes, compiles and measures. It is large, and no server needs it.
#
#   docker build -f docker/builder.Dockerfile -t lpr-builder .
#   docker run --rm -v "$PWD/artifacts:/src/artifacts" -v "$PWD/runs:/src/runs" lpr-builder build
#
# The folders that are mounted must be writable for the user of the image: add --user "$(id -u):$(id -g)".
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON}
ARG EXTRA=build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# g++: TVM links with it. The rest is what `make extras` installs: typefaces for variety, tcmalloc for speed.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
        fonts-noto-cjk fonts-wqy-zenhei fonts-wqy-microhei fonts-dejavu-core fonts-liberation \
        fonts-roadgeek fonts-opendin fonts-routed-gothic fonts-national-park fonts-bebas-neue libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/lpr
COPY pyproject.toml README.md LICENSE ./
RUN /opt/lpr/bin/python -m pip install ".[${EXTRA}]"
COPY service service
COPY model_builder model_builder
RUN /opt/lpr/bin/python -m pip install --no-deps --editable . \
    && mkdir artifacts runs && chown 10001:10001 artifacts runs
ENV LD_PRELOAD=libtcmalloc_minimal.so.4 OMP_WAIT_POLICY=passive HOME=/tmp
USER 10001:10001
ENTRYPOINT ["/opt/lpr/bin/python", "-m", "model_builder"]
CMD ["--help"]
