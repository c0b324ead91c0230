#!/bin/sh
# Installs Debian packages, from the archive as it was at $DEBIAN_SNAPSHOT (20260901T000000Z) where that is set.
set -eu
if [ -n "${DEBIAN_SNAPSHOT:-}" ]; then
  rm -f /etc/apt/sources.list.d/debian.sources
  for suite in debian:bookworm debian:bookworm-updates debian-security:bookworm-security; do
    echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/${suite%%:*}/$DEBIAN_SNAPSHOT ${suite##*:} main"
  done >/etc/apt/sources.list
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
# Lists and logs have dates in them.
rm -rf /var/lib/apt/lists/* /var/log/dpkg.log /var/log/apt /var/cache/ldconfig/aux-cache
