#!/bin/sh
# Installs what the tests' own Docker engine is started with, where no engine answers: on a Debian, as root. Else it does
# nothing; the tests then say what is missing.
set -eu
if docker version >/dev/null 2>&1; then
  exit 0
fi
if command -v dockerd >/dev/null 2>&1 && command -v debootstrap >/dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --quiet --quiet --yes --no-install-recommends docker.io debootstrap iptables
