# Operator, routers and emulated engines: one image, no compiler, no root.
#
#   docker build -t whaleflux/whaleflux:0.1.0 .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/build && python -m venv /opt/whaleflux
COPY requirements.lock ./
# Each step installs only what the lock names, hashes checked. Here: what builds the wheel.
RUN printf '%s\n' hatchling packaging pathspec pluggy trove-classifiers > build-names \
 && awk 'NR == FNR { want[$1]; next } /^[^ ]/ { split($1, pin, "=="); on = pin[1] in want } on' \
      build-names requirements.lock > build.lock \
 && /opt/build/bin/pip install --quiet --require-hashes --no-deps -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY profiler profiler
COPY recommender recommender
COPY monitor monitor
COPY controller controller
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation -w dist .
# The lock holds the tools of development too. Of its names, those that the wheel leads to.
RUN sed -E '/^ +--hash/d; s/ *\\$//' requirements.lock > pins \
 && /opt/build/bin/pip install --quiet --dry-run --ignore-installed --report report.json \
      -c pins "$(ls dist/*.whl)[all]" \
 && python -c "import json, re; [print(re.sub('[-_.]+', '-', each['metadata']['name']).lower()) \
      for each in json.load(open('report.json'))['install']]" > names \
 && awk 'NR == FNR { want[$1]; next } /^[^ ]/ { split($1, pin, "=="); on = pin[1] in want } on' \
      names requirements.lock > image.lock \
 && /opt/whaleflux/bin/pip install --quiet --require-hashes --no-deps --only-binary :all: -r image.lock \
 && /opt/whaleflux/bin/pip install --quiet --no-deps dist/*.whl \
 && /opt/whaleflux/bin/pip check \
 && /opt/whaleflux/bin/pip uninstall --quiet --yes pip setuptools

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="whaleflux" \
      org.opencontainers.image.description="A control plane that keeps LLM services within their latency objectives." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/whaleflux /opt/whaleflux
# The root file system may be read-only: only /tmp is written, for compiled kernels.
ENV PATH=/opt/whaleflux/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, as Kubernetes cannot tell by a name whether it is root.
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT []
CMD ["whaleflux", "--help"]
