# Envoy with bash, which drain.sh needs and nothing else.
ARG BASE=envoyproxy/envoy:v1.40.0
FROM ${BASE}
LABEL org.opencontainers.image.title="Lilypad Model Generator: edge" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/licenses/lilypad/LICENSE
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=3s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9902"]
ENTRYPOINT ["envoy"]
