#!/bin/sh
# Unpacks Debian's dataset-fashion-mnist into .data/ without installing it. Where there is no apt, or no network, it
# leaves things as they are and says so: dynamarks then asks keras.datasets for the images.
set -eu
cd "$(dirname "$0")/.."
system=/usr/share/datasets/fashion-mnist
[ -d "$system" ] && exit 0
[ -d .data/fashion-mnist ] && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "fetching Fashion-MNIST (Debian package dataset-fashion-mnist) into .data/"
if sh benchmarks/unpack_debian.sh "$work/unpacked" dataset-fashion-mnist; then
    mkdir -p .data
    mv "$work/unpacked$system" .data/fashion-mnist
else
    echo "could not fetch it (see above); keras.datasets will be asked instead"
fi
