package standing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// A kind is grants or locks. The namespace keeps the signature of one from
// being taken for that of another, or of anything else (PROTOCOL.sshsig).
type kind struct {
	dir, prefix, namespace string
	lock                   bool
}

var (
	grants = kind{dir: "grants", prefix: "g-", namespace: "cartsshd-grant"}
	locks  = kind{dir: "locks", prefix: "l-", namespace: "cartsshd-lock", lock: true}
)

const (
	version = 1
	suffix  = ".json"
)

// signed is what a file holds. The signature is of the bytes of Body as they
// stand there.
type signed struct {
	Version   int             `json:"version"`
	Body      json.RawMessage `json:"body"`
	Signature string          `json:"signature"` // armored, as by ssh-keygen -Y sign
}

func (s *Store) path(k kind) string { return filepath.Join(s.dir, k.dir) }

// read reads all files of one kind.
func read[T entry](s *Store, k kind) (all []T, faults []Fault) {
	dir, names, err := s.list(k)
	if err != nil {
		return nil, []Fault{{Path: s.path(k), Lock: k.lock, Err: err}}
	}
	if dir == nil {
		return nil, nil
	}
	defer dir.Close()
	for _, name := range names {
		var v T
		id := strings.TrimSuffix(name, suffix)
		err := s.load(k, dir, name, &v)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err == nil {
			err = v.check(id)
		}
		if err != nil {
			faults = append(faults, Fault{Path: filepath.Join(s.path(k), name), ID: id, Lock: k.lock, Err: err})
			continue
		}
		all = append(all, v)
	}
	return all, faults
}

// list opens the directory, and names what it has in order. It is nil if there
// is none.
func (s *Store) list(k kind) (*os.File, []string, error) {
	for _, path := range []string{s.dir, s.path(k)} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		}
		if err == nil {
			err = trusted(info)
		}
		if err != nil {
			return nil, nil, plain(err)
		}
	}
	dir, err := os.OpenFile(s.path(k), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, plain(err)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		dir.Close()
		return nil, nil, plain(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, suffix) || name[0] == '.' })
	if len(names) > MaxCount {
		dir.Close()
		return nil, nil, fmt.Errorf("has more than %d files", MaxCount)
	}
	slices.Sort(names)
	return dir, names, nil
}

// plain is an error without the path, which is told beside it.
func plain(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// trusted refuses what others can change.
func trusted(info fs.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("belongs to uid %d, who can change it", owner)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("mode %04o: others may write to it", info.Mode().Perm())
	}
	return nil
}

// load reads one file, and believes it only if it is signed.
func (s *Store) load(k kind, dir *os.File, name string, into any) error {
	text, err := readFile(dir, name)
	if err != nil {
		return err
	}
	var f signed
	if err := decode(text, &f); err != nil {
		return err
	}
	if f.Version != version {
		return fmt.Errorf("is of version %d, and this cartsshd knows version %d", f.Version, version)
	}
	if err := s.verify(k, f); err != nil {
		return err
	}
	return decode(f.Body, into)
}

func readFile(dir *os.File, name string) ([]byte, error) {
	// Not blocking: a FIFO must not keep locks from taking effect.
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP {
		return nil, errors.New("is a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if err := trusted(info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if len(text) > maxSize {
		return nil, fmt.Errorf("has more than %d bytes", maxSize)
	}
	return text, err
}

// decode is strict: what an older version does not understand may be what a
// grant was limited by.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("is damaged: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("is damaged: more than one value")
	}
	return nil
}

func (s *Store) verify(k kind, f signed) error {
	sig, err := sshsig.Unarmor([]byte(f.Signature))
	if err != nil {
		return fmt.Errorf("has no signature: %w", err)
	}
	if !bytes.Equal(sig.PublicKey.Marshal(), s.key.PublicKey().Marshal()) {
		return fmt.Errorf("is signed by %s, which is not the host key", ssh.FingerprintSHA256(sig.PublicKey))
	}
	if err := sshsig.Verify(bytes.NewReader(f.Body), sig, s.key.PublicKey(), sig.HashAlgorithm, k.namespace); err != nil {
		return fmt.Errorf("has a bad signature: %w", err)
	}
	return nil
}

// sign makes the text of a file.
func (s *Store) sign(k kind, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sig, err := sshsig.Sign(bytes.NewReader(body), s.key, sshsig.HashSHA512, k.namespace)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(signed{Version: version, Body: body, Signature: string(sshsig.Armor(sig))})
	if err == nil && len(text) > maxSize {
		err = errors.New("says too much: a shorter reason, or fewer commands")
	}
	return append(text, '\n'), err
}

// A draft is a file that has no effect yet.
type draft struct {
	store *Store
	kind  kind
	id    string
	root  *os.Root
	file  *os.File
}

// begin makes the directories, and in them a file under a name that is not read.
func (s *Store) begin(k kind) (_ *draft, err error) {
	d := &draft{store: s, kind: k}
	defer func() {
		if err != nil {
			d.discard()
			err = fmt.Errorf("standing: %s: %w", s.path(k), err)
		}
	}()
	if err := s.make(k); err != nil {
		return nil, err
	}
	dir, names, err := s.list(k)
	if err != nil {
		return nil, err
	}
	dir.Close()
	if len(names) >= MaxCount {
		return nil, fmt.Errorf("has %d files already: take some away", len(names))
	}
	for d.id = newID(k.prefix); slices.Contains(names, d.id+suffix); d.id = newID(k.prefix) {
	}
	if d.root, err = os.OpenRoot(s.path(k)); err != nil {
		return nil, err
	}
	d.file, err = d.root.OpenFile(d.draftName(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return d, err
}

// make makes the directories, and has their names on the disk.
func (s *Store) make(k kind) error {
	if err := os.MkdirAll(s.path(k), 0o700); err != nil {
		return err
	}
	for _, path := range []string{filepath.Dir(s.dir), s.dir} {
		if err := syncDir(path); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) draftName() string { return "." + d.id }

func (d *draft) write(v any) error {
	text, err := d.store.sign(d.kind, v)
	if err == nil {
		_, err = d.file.Write(text)
	}
	if err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("standing: %s: %w", d.id, err)
	}
	return nil
}

// commit gives it the name by which it takes effect.
func (d *draft) commit() error {
	err := d.root.Rename(d.draftName(), d.id+suffix)
	if err == nil {
		err = syncDir(d.store.path(d.kind))
	}
	if err != nil {
		return fmt.Errorf("standing: %s: %w", d.id, err)
	}
	return nil
}

// discard takes away what was not committed.
func (d *draft) discard() {
	if d.file != nil {
		d.file.Close()
		_ = d.root.Remove(d.draftName()) // not there if it was
	}
	if d.root != nil {
		d.root.Close()
	}
}

// remove asks nothing of the file, nor of the directory: it is the way out where
// these are damaged.
func (s *Store) remove(k kind, id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") {
		return fmt.Errorf("standing: %q is no ID", id)
	}
	root, err := os.OpenRoot(s.path(k))
	if err != nil {
		return fmt.Errorf("standing: %s: %w", id, err)
	}
	defer root.Close()
	if err := root.Remove(id + suffix); err != nil {
		return fmt.Errorf("standing: %s: %w", id, err)
	}
	if err := syncDir(s.path(k)); err != nil {
		return fmt.Errorf("standing: %s: %w", id, err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
