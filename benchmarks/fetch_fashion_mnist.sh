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
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apt="apt-get -qq -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o Debug::NoLocking=1"
echo "fetching Fashion-MNIST (Debian package dataset-fashion-mnist) into .data/"
if (cd "$work" && $apt update && $apt download dataset-fashion-mnist) >"$work/log" 2>&1; then
    dpkg-deb -x "$work"/dataset-fashion-mnist_*.deb "$work/unpacked"
    mkdir -p .data
    mv "$work/unpacked$system" .data/fashion-mnist
else
    echo "could not fetch it (see below); keras.datasets will be asked instead"
    tail -n 3 "$work/log"
fi
