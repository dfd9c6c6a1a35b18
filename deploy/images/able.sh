#!/usr/bin/env bash
# Whether images can be built and run here without a Docker engine: the last line says why not.
#
#     deploy/images/able.sh && make images
#
# Builds an image of two lines and runs it in a container, with nothing of ours but the program in it.
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
container= image=lilypad/able-$$
clean() {
    runc delete --force "lilypad-able-$$" || true
    [ -z "$container" ] || buildah rm "$container" || true
    buildah rmi "$image" || true
    rm -rf "$bundle"
}
trap 'clean >/dev/null 2>&1' EXIT
cp .venv/bin/nats-server "$bundle/"
printf 'FROM scratch\nCOPY nats-server /\nRUN ["/nats-server", "--version"]\n' >"$bundle/Dockerfile"
said=$(timeout 120 buildah bud --layers=false -t "$image" "$bundle" 2>&1) || no "$said"
container=$(buildah from "$image" 2>&1) || no "$container"
root=$(buildah mount "$container" 2>&1) || no "$root"
# As the stack's containers: no root, no rights, this machine's network, and the same kinds of mounts.
.venv/bin/python - "$root" "$bundle" >"$bundle/config.json" <<'PYTHON' || no "its settings cannot be written"
import json
import sys
from pathlib import Path

sys.path.insert(0, "deploy")
from images.inventory import container

root, folder = map(Path, sys.argv[1:])
command = ["/nats-server", "--version"]
writable = {"/models": "1m", "/dev/shm": "1m"}
print(json.dumps(container(root, command, network=True, writable=writable, folders=[folder])))
PYTHON
mkdir -p "$root/models" "$root$bundle"
said=$(timeout 60 runc run --bundle "$bundle" "lilypad-able-$$" </dev/null 2>&1) || no "$said"
