#!/bin/sh
# unpack_debian.sh FOLDER PACKAGE...: downloads packages of Debian and unpacks them into a new folder, without
# installing them. Where there is no apt or no network it says so and fails.
set -eu
target=$1
shift
[ -e "$target" ] && { echo "$target is there already; remove it to fetch it anew"; exit 0; }
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "there is no apt-get here"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apt="apt-get -qq -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o Debug::NoLocking=1"
if ! (cd "$work" && $apt update && $apt download "$@") >"$work/log" 2>&1; then
    tail -n 3 "$work/log"
    exit 1
fi
for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$work/unpacked"
done
mkdir -p "$(dirname "$target")"
mv "$work/unpacked" "$target"
