#!/bin/sh
# Builds the helper for one architecture: build.sh amd64|arm64 FILE
set -eu
case $1 in
amd64) cc=${CC_amd64:-x86_64-linux-gnu-gcc} ;;
arm64) cc=${CC_arm64:-aarch64-linux-gnu-gcc} ;;
*) echo "build.sh: no helper for $1" >&2; exit 2 ;;
esac
# No position independence: the plan holds absolute addresses. No build ID and
# no notes: the same compiler gives the same bytes.
exec $cc -Os -Wall -Wextra -Werror -std=gnu11 -ffreestanding -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-unwind-tables -fno-pie \
	-nostdlib -static -no-pie -s \
	-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,noexecstack -Wl,-z,norelro \
	-o "$2" "$(dirname "$0")/helper.c"
