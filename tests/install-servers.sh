#!/bin/sh
# Install the Debian servers and tools that some tests need, where apt and root exist; quick when they are there.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing ${2:-$1}"; }
case "${1:-tests}" in
  tests)
    for package in prometheus prometheus-alertmanager prometheus-node-exporter; do need "$package"; done
    need kubectl kubernetes-client
    need squid
    need danted dante-server
    need openssl
    need systemd-analyze systemd
    # Debian keeps the server's own programs off the PATH.
    [ -x /usr/lib/postgresql/15/bin/initdb ] || need initdb postgresql-15
    ;;
  image)
    for package in buildah crun debootstrap; do need "$package"; done
    ;;
esac
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$missing (once) ..."
  apt-get update -qq
  # The servers are started by the tests themselves, so no service may start here.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "not installed:$missing; the tests that need it are skipped by name. To run them: sudo apt-get install$missing"
fi
