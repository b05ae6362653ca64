#!/bin/sh
# Installs what is missing, from Debian: setup.sh demo|test
set -eu

# command:package, one for each that may be missing
demo='mksquashfs:squashfs-tools ssh:openssh-client'
test="$demo mkfs.erofs:erofs-utils dockerd:docker.io runc:runc containerd:containerd ctr:containerd crun:crun busybox:busybox-static
 aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu x86_64-linux-gnu-gcc:gcc qemu-aarch64-static:qemu-user-static
 asciinema:asciinema /usr/sbin/sshd:openssh-server nsenter:util-linux unshare:util-linux strace:strace ps:procps
 tmux:tmux curl:curl musl-gcc:musl-tools mke2fs:e2fsprogs debugfs:e2fsprogs unsquashfs:squashfs-tools ldconfig:libc-bin tic:ncurses-bin
 podman:podman newuidmap:uidmap lxc-start:lxc systemd-nspawn:systemd-container lxd:lxd lxc:lxd-client"

case ${1-} in
demo) list=$demo ;;
test) list=$test ;;
*) echo "usage: setup.sh demo|test" >&2; exit 2 ;;
esac

missing=
for need in $list; do
	command -v "${need%%:*}" >/dev/null || missing="$missing ${need#*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "cartsshd: this needs root, and the packages$missing (try: sudo make)" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "cartsshd: this is not Debian: install what holds$missing by hand" >&2
	exit 1
fi
echo "installing$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
