package nsexec

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Check says whether sessions can run on this host, by making what they are
// made of. The first thing missing is the error, with the way out.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("nsexec: not root: entering containers needs it (try: sudo)")
	}
	if err := runsHelper(); err != nil {
		return err
	}
	for _, make := range []func() (*os.File, error){newDev, newPts} {
		f, err := make()
		if err != nil {
			return tooOld(err)
		}
		f.Close()
	}
	g, err := newCgroup(fmt.Sprintf("check-%d", os.Getpid()), nil)
	if err != nil {
		return tooOld(err)
	}
	return g.close()
}

// runsHelper runs it with nothing to do: it fails by itself, with 1.
func runsHelper() error {
	exe, err := sealedHelper()
	if err != nil {
		return err
	}
	err = exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), rawFD(exe))).Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return nil
	}
	return fmt.Errorf("nsexec: the helper does not run: %w (is executing memfds forbidden? see sysctl vm.memfd_noexec)", err)
}

func tooOld(err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("%w: this kernel is too old: %s, and 5.14 is the least", err, Kernel())
	}
	return err
}

// Kernel is the running kernel's name and release.
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "an unknown kernel"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
