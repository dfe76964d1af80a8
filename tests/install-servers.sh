#!/bin/sh
# Install the Debian servers and tools that some tests need, where apt and root exist; quick when they are there.
set -eu
# Debian keeps servers there, which is not on everybody's path.
PATH="$PATH:/usr/sbin:/sbin"
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing ${2:-$1}"; }
case "${1:-tests}" in
  tests)
    for package in prometheus prometheus-alertmanager prometheus-node-exporter squid openssl curl; do need "$package"; done
    # Google's package `kubectl` is as good, and can't be installed beside Debian's.
    need kubectl kubernetes-client
    need danted dante-server
    need systemd-analyze systemd
    # A TPM and an HSM in software.
    need swtpm
    need tpm2_unseal tpm2-tools
    need softhsm2-util softhsm2
    need pkcs11-tool opensc
    for library in esys-3.0.2-0:esys rc0:rc tcti-swtpm0:tcti-swtpm; do
      set -- /usr/lib/*/libtss2-"${library#*:}".so.0
      [ -e "$1" ] || need libtss2 libtss2-"${library%:*}"
    done
    need mkfs.ext4 e2fsprogs
    # PostgreSQL's own programs lie in a directory for each version.
    set -- /usr/lib/postgresql/*/bin/initdb
    [ -x "$1" ] || need initdb postgresql
    ;;
  image)
    for package in buildah crun debootstrap; do need "$package"; done
    ;;
esac
[ -n "$missing" ] || exit 0
install="apt-get install -y -qq --no-install-recommends$missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$missing (once) ..."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || echo "apt-get update failed; going on with the lists that are there"
  # The servers are started by the tests themselves, so no service may start here.
  # shellcheck disable=SC2086  These are words.
  RUNLEVEL=1 $install -o DPkg::Lock::Timeout=120 >/dev/null && exit 0
  state="could not be installed"
else
  state="not installed"
fi
echo "$state:$missing; the tests that need it are skipped by name (with CI=true they fail). To run them: sudo apt-get install$missing"
