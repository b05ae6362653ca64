package nsexec

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The helper is built by "make helper" from helper/helper.c and kept with the
// sources, so that building needs no C compiler; a test builds it anew and
// compares.
//
//go:generate sh helper/build.sh amd64 helper/helper_amd64
//go:generate sh helper/build.sh arm64 helper/helper_arm64

// sealedHelper is the helper in a memfd that nobody can change any more
// (memfd_create(2)). It has no path: inside a container /proc/PID/exe leads to
// nothing of the host's (CVE-2019-5736).
var sealedHelper = sync.OnceValues(func() (*os.File, error) {
	fd, err := unix.MemfdCreate("cartsshd", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate("cartsshd", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("nsexec: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "helper")
	if _, err := f.Write(helper); err != nil {
		return nil, fmt.Errorf("nsexec: helper: %w", err)
	}
	want := unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, want); err != nil {
		return nil, fmt.Errorf("nsexec: seal helper: %w", err)
	}
	if have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || have&want != want {
		return nil, fmt.Errorf("nsexec: helper is not sealed: %#x, %v", have, err)
	}
	return f, nil
})
