#!/usr/bin/env bash
# Stop an edge without losing a request: run this before SIGTERM, which ends Envoy at once.
#
# Answers say `Connection: close` and readiness fails at once; new connections are accepted for
# another DELAY_S, until load balancers have noticed; then the listener closes, and requests under
# way get GRACE_S to finish. ADMIN_HOST and ADMIN_PORT are the admin interface. Needs only bash.
set -uo pipefail
DELAY_S=${DELAY_S:-10} GRACE_S=${GRACE_S:-130}

ask() {
    exec 3<>"/dev/tcp/${ADMIN_HOST:-127.0.0.1}/${ADMIN_PORT:-9901}" || return 1
    printf '%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
    cat <&3
    exec 3>&-
}

active() {
    local text
    text=$(ask GET "/stats?filter=^http.edge.downstream_rq_active\$") || return 1
    [[ $text =~ downstream_rq_active:\ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}

ask POST /healthcheck/fail >/dev/null
sleep "$DELAY_S"
ask POST "/drain_listeners?inboundonly" >/dev/null
for ((waited = 0; waited < GRACE_S; waited++)); do
    [[ $(active) == 0 ]] && break
    sleep 1
done
