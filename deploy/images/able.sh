#!/usr/bin/env bash
# Whether images can be built and run here without a Docker engine: the last line says why not.
#
#     deploy/images/able.sh && make images
#
# Runs a program in a container, with nothing of ours but that program.
set -euo pipefail
cd "$(dirname "$0")/../.."
no() {
    echo "this machine cannot run containers: $1" >&2
    exit 1
}
# Room for the images, and for what the builds unpack.
needed_gib=10
[ "$(id -u)" = 0 ] || no "it needs root"
for program in mmdebstrap buildah runc; do
    command -v "$program" >/dev/null || no "$program is missing: apt-get install buildah runc mmdebstrap"
done
export BUILDAH_ISOLATION=chroot
driver=$(buildah info --format '{{index .store "GraphDriverName"}}' 2>&1) || no "$driver"
[ "$driver" = overlay ] || no "the storage driver is $driver, which copies each layer, not overlay"
storage=$(buildah info --format '{{index .store "GraphRoot"}}')
free_gib=$(df -Pk "$storage" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free_gib" -ge "$needed_gib" ] || no "$storage has $free_gib GiB left, of $needed_gib"

bundle=$(mktemp -d)
container=$(buildah from scratch 2>&1) || no "$container"
trap 'runc delete --force "lilypad-able-$$" 2>/dev/null || true; buildah rm "$container" >/dev/null; rm -rf "$bundle"' EXIT
root=$(buildah mount "$container" 2>&1) || no "$root"
cp .venv/bin/nats-server "$root/"
(
    cd "$bundle"
    runc spec
    # Limits need a right that containers of CI lack.
    /usr/bin/env python3 - "$root" <<'PYTHON'
import json
import sys

settings = json.load(open("config.json"))
settings["root"] = {"path": sys.argv[1], "readonly": True}
settings["process"] |= {"args": ["/nats-server", "--version"], "terminal": False}
settings["process"].pop("rlimits", None)
json.dump(settings, open("config.json", "w"))
PYTHON
)
said=$(timeout 60 runc run --bundle "$bundle" "lilypad-able-$$" </dev/null 2>&1) || no "$said"
