#!/bin/sh
# Puts a program and everything that it needs to run into an empty root: gather.sh PROGRAM ROOT
# Its libraries keep their paths; beside them come certificate authorities, the user 65532 and /tmp.
set -eu
program=$1 root=$2
install -D -m 0755 "$program" "$root/usr/bin/$(basename "$program")"
# Of a line of ldd, what begins with a slash is the file.
ldd "$program" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | sort -u | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'stillhouse:x:65532:65532::/tmp:/sbin/nologin' >"$root/etc/passwd"
echo 'stillhouse:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
install -d -m 1777 "$root/tmp"
# Where Kubernetes and compose mount, so that a read-only root has them.
install -d -m 0755 "$root/run" "$root/var/lib/stillhouse" "$root/etc/stillhouse"
chown 65532:65532 "$root/var/lib/stillhouse"
