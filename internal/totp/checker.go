package totp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Why a one-time password is not taken.
var (
	ErrWrong  = errors.New("totp: a wrong one-time password")
	ErrUsed   = errors.New("totp: a one-time password that was used before, or an older one")
	ErrLocked = errors.New("totp: too many wrong one-time passwords")
)

// So many in so long a time are too many, and then none is taken for a while.
const (
	tries   = 5
	within  = 5 * time.Minute
	lockout = 15 * time.Minute
)

// Checker checks one-time passwords. One process at a time may have a directory.
type Checker struct {
	Dir string           // of its state; made when it is first needed
	Now func() time.Time // nil: time.Now

	mu    sync.Mutex
	fsync func(*os.File) error // of a test; nil: the real one
}

// state is what is known of one person's secret.
type state struct {
	Step   int64   `json:"step"`             // the last that was used
	Wrong  []int64 `json:"wrong,omitempty"`  // when wrong ones came of late, in seconds of Unix time
	Locked int64   `json:"locked,omitempty"` // until then
}

// Check returns nil if code is the person's password now, and was never taken
// before. After nil, it never is again.
func (c *Checker) Check(person, secretFile, code string) error {
	secret, err := ReadSecret(secretFile)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	dir, err := c.open()
	if err != nil {
		return fmt.Errorf("totp: %w", err)
	}
	defer dir.Close()
	old, err := load(c.path(person, secret))
	if err != nil {
		return fmt.Errorf("totp: %w", err)
	}
	next, verdict := old.judge(secret, strings.ReplaceAll(code, " ", ""), c.now())
	if verdict == ErrLocked {
		return verdict // nothing is learnt, and nothing written
	}
	// A wrong one is not told before it counts, as a right one is not taken.
	if err := c.store(dir, c.path(person, secret), next); err != nil {
		return fmt.Errorf("totp: %w", err)
	}
	return verdict
}

// path is that of the state of a person's secret: another for another secret. It
// tells neither.
func (c *Checker) path(person string, secret Secret) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("cartsshd: state of " + person))
	return filepath.Join(c.Dir, hex.EncodeToString(mac.Sum(nil))+".json")
}

func (c *Checker) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// judge judges a code, and tells what is known after it.
func (s state) judge(secret Secret, code string, now time.Time) (state, error) {
	if now.Unix() < s.Locked {
		return s, ErrLocked
	}
	found, ok := secret.find(code, now)
	switch {
	case !ok:
		return s.failed(now), ErrWrong
	case found <= s.Step:
		return s.failed(now), ErrUsed
	}
	// What was wrong still counts: somebody else may be guessing meanwhile.
	s.Step = found
	return s, nil
}

func (s state) failed(now time.Time) state {
	recent := func(t int64) bool { return t > now.Add(-within).Unix() }
	s.Wrong = slices.DeleteFunc(slices.Clone(s.Wrong), func(t int64) bool { return !recent(t) })
	s.Wrong = append(s.Wrong, now.Unix())
	if len(s.Wrong) >= tries {
		s.Wrong, s.Locked = nil, now.Add(lockout).Unix()
	}
	return s
}

func load(path string) (s state, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// store puts the new state in the place of the old: on the disk when it returns,
// and one or the other after a crash.
func (c *Checker) store(dir *os.File, path string, s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := c.write(path+".new", data); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return c.flush(dir)
}

// open opens the directory, which must be nobody else's: who can take a file away
// from it can use a password again.
func (c *Checker) open() (*os.File, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err == nil {
		err = private(c.Dir, info)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

func (c *Checker) write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = c.flush(f)
	}
	return errors.Join(err, f.Close())
}

func (c *Checker) flush(f *os.File) error {
	if c.fsync != nil {
		return c.fsync(f)
	}
	return f.Sync()
}
