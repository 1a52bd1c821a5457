# CXR Assistant on a CPU, as nobody and on a read-only root. Build and run: docs/trust.md; limits: compose.yaml.
#
# The base is named by digest: a tag can change under us. A digest that a registry does not have fails the
# build. Newer ones, for security updates:  docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.lock /tmp/requirements.lock
# Every file is checked against its hash; nothing is built from source, so no build script of others runs.
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: \
      --extra-index-url https://download.pytorch.org/whl/cpu -r /tmp/requirements.lock \
 # Gradio keeps the seed of its upload paths inside the package: a seed in an image is known to all.
 && find /opt/venv -name hash_seed.txt -delete

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 cxr \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cxr
COPY --from=environment /opt/venv /opt/venv
WORKDIR /app
COPY app.py LICENSE ./
COPY cxr_assistant ./cxr_assistant
COPY examples ./examples
COPY weights/embedded ./weights/embedded
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp TMPDIR=/tmp MPLCONFIGDIR=/tmp \
    HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False \
    CXR_HOST=0.0.0.0 CXR_PORT=7860 CXR_ALLOW_FETCH=no
USER 10001:10001
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "cxr_assistant"]
CMD ["serve"]
