# The server alone.
ARG BASE=nats:2.15.1-scratch
FROM ${BASE}
LABEL org.opencontainers.image.title="Lilypad Model Generator: NATS" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/licenses/lilypad/LICENSE
USER 1000:1000
# Kubernetes and compose ask /healthz of the monitoring port.
HEALTHCHECK NONE
ENTRYPOINT ["/nats-server"]
