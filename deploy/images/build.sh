#!/usr/bin/env bash
# Build the image of the services without a Docker engine, list what is in it, and run one service.
#
#     sudo deploy/images/build.sh          (make images)
#
# Needs root, and Debian's packages buildah, runc and mmdebstrap. The base is made of Debian's packages,
# because `python:3.11-slim` needs a registry of images; BASE_TAR names one that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${IMAGES:-.lilypad/images}
mkdir -p "$work"
work=$(realpath "$work")
base_tar=${BASE_TAR:-$work/base.tar}
for program in mmdebstrap buildah runc; do
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install buildah runc mmdebstrap" >&2; exit 1; }
done
export BUILDAH_ISOLATION=chroot

if [ ! -s "$base_tar" ]; then
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python-is-python3,ca-certificates \
        bookworm "$base_tar"
fi
made=$(buildah from scratch)
trap 'buildah rm "$made" >/dev/null' EXIT
buildah add --quiet "$made" "$base_tar" / >/dev/null
buildah commit --quiet --timestamp 0 "$made" lilypad/base:bookworm >/dev/null

# Registries of packages, as this machine reaches them: not part of the image.
cat "$HOME/.npmrc" /etc/npmrc > "$work/npmrc" 2>/dev/null || true
mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro -v "$work/npmrc:/root/.npmrc:ro")
for file in /etc/pip.conf "$HOME/.config/pip" /usr/local/share/ca-certificates; do
    [ ! -e "$file" ] || mounts+=(-v "$file:$file:ro")
done
buildah bud --quiet --timestamp 0 --layers=false "${mounts[@]}" \
    --build-arg BASE=localhost/lilypad/base:bookworm \
    -f deploy/images/services.Dockerfile -t lilypad/services:0.1.0 . >/dev/null

image=$(buildah from lilypad/services:0.1.0)
trap 'buildah rm "$made" "$image" >/dev/null' EXIT
root=$(buildah mount "$image")
digest=$(buildah inspect --type image --format '{{.FromImageDigest}}' lilypad/services:0.1.0)
python3 deploy/images/inventory.py "$root" > "$work/services.cdx.json"

# Run a service of it: it starts, and says which settings it lacks.
mkdir -p "$work/bundle"
python3 deploy/images/inventory.py "$root" --run python -m gateway > "$work/bundle/config.json"
said=$(runc run --bundle "$work/bundle" "lilypad-$$" 2>&1) && status=0 || status=$?
[ "$status" = 2 ] && [[ $said == *DATABASE_URL* ]] || { echo "the gateway did not start: $said" >&2; exit 1; }
echo "lilypad/services:0.1.0 $digest"
echo "$work/services.cdx.json: $(grep -c '"purl"' "$work/services.cdx.json") packages"
