#!/bin/sh
# Builds the name service for one architecture: build.sh amd64|arm64 FILE
set -eu
case $1 in
amd64) cc=${CC_amd64:-x86_64-linux-gnu-gcc} ;;
arm64) cc=${CC_arm64:-aarch64-linux-gnu-gcc} ;;
*) echo "build.sh: no name service for $1" >&2; exit 2 ;;
esac
exec $cc -Os -Wall -Wextra -Wno-unused-parameter -Werror -std=gnu11 -ffreestanding -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-unwind-tables -fPIC -shared -nostdlib -s \
	-Wl,-soname,libnss_crashcart.so.2 -Wl,--hash-style=gnu \
	-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,noexecstack -Wl,-z,norelro \
	-o "$2" "$(dirname "$0")/nss.c"
