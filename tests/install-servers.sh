#!/bin/sh
# Install the Debian servers and tools that some tests need, where apt and root exist; quick when they are there.
set -eu
missing=""
for package in prometheus prometheus-alertmanager prometheus-node-exporter; do
  command -v "$package" >/dev/null 2>&1 || missing="$missing $package"
done
command -v kubectl >/dev/null 2>&1 || missing="$missing kubernetes-client"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$missing (once) ..."
  apt-get update -qq
  # The servers are started by the tests themselves, so no service may start here.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "not installed:$missing; the tests that need it are skipped by name. To run them: sudo apt-get install$missing"
fi
