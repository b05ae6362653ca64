package totp

import (
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var seed = Secret("12345678901234567890") // of both RFCs

func TestThePasswordsAreThoseOfRFC4226(t *testing.T) {
	for counter, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := seed.at(int64(counter)); got != want {
			t.Errorf("%d: %s, want %s", counter, got, want)
		}
	}
}

func TestThePasswordsAreThoseOfRFC6238(t *testing.T) {
	for seconds, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := seed.at(seconds / 30); got != want {
			t.Errorf("%d: %s, want %s", seconds, got, want)
		}
	}
}

// desk is a Checker with a clock that stands still, and one person's secret.
type desk struct {
	*Checker
	t      *testing.T
	now    time.Time
	secret string // file
}

func newDesk(t *testing.T) *desk {
	d := &desk{t: t, now: time.Unix(1_800_000_000, 0), secret: secretFile(t, base32.StdEncoding.EncodeToString(seed))}
	d.restart(filepath.Join(t.TempDir(), "state", "totp"))
	return d
}

func (d *desk) restart(dir string) {
	d.Checker = &Checker{Dir: dir, Now: func() time.Time { return d.now }}
}

func (d *desk) try(code string, want error) {
	d.t.Helper()
	if err := d.Check("alice", d.secret, code); !errors.Is(err, want) || want == nil && err != nil {
		d.t.Fatalf("%v, want %v", err, want)
	}
}

// code is the one of so many steps from now.
func (d *desk) code(steps int64) string { return seed.at(d.now.Unix()/30 + steps) }

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAClockMayBeOffByOneStep(t *testing.T) {
	for steps, want := range map[int64]error{-2: ErrWrong, -1: nil, 0: nil, 1: nil, 2: ErrWrong} {
		d := newDesk(t)
		d.try(d.code(steps), want)
	}
}

func TestAPasswordIsTakenOnceAlsoAfterARestart(t *testing.T) {
	d := newDesk(t)
	d.try(d.code(0), nil)
	d.try(d.code(0), ErrUsed)
	d.restart(d.Dir)
	d.try(d.code(0), ErrUsed)
	d.try(d.code(-1), ErrUsed) // older, and never used: somebody has looked over a shoulder
	d.try(d.code(1), nil)
}

func TestAPasswordOfOneIsNotTheOthersAlthoughTheyShareASecret(t *testing.T) {
	d := newDesk(t)
	d.try(d.code(0), nil)
	if err := d.Check("bob", d.secret, d.code(0)); err != nil {
		t.Fatal(err)
	}
}

func TestFiveWrongOnesAndNoneIsTakenForAWhile(t *testing.T) {
	d := newDesk(t)
	for range tries {
		d.try("000000", ErrWrong)
	}
	d.try(d.code(0), ErrLocked)
	d.restart(d.Dir)
	d.try(d.code(0), ErrLocked)
	d.now = d.now.Add(lockout - time.Second)
	d.try(d.code(0), ErrLocked)
	d.now = d.now.Add(time.Second)
	d.try(d.code(0), nil)
}

func TestWrongOnesAreForgotten(t *testing.T) {
	d := newDesk(t)
	for range 3 * tries {
		d.try("000000", ErrWrong)
		d.now = d.now.Add(within / (tries - 1))
	}
	d.try(d.code(0), nil)
}

// Or whoever guesses would have five new tries whenever the person signs in.
func TestARightOneForgivesNothing(t *testing.T) {
	d := newDesk(t)
	for range tries - 1 {
		d.try("000000", ErrWrong)
	}
	d.try(d.code(0), nil)
	d.try("000000", ErrWrong)
	d.try(d.code(1), ErrLocked)
}

func TestOnlySixDigitsAreAPassword(t *testing.T) {
	for _, code := range []string{"", "1", "0000000", "abcdef", strings.Repeat("9", 1<<16), "٣٣٣٣٣٣"} {
		d := newDesk(t)
		d.try(code, ErrWrong)
	}
	d := newDesk(t)
	d.try(d.code(0)[:3]+" "+d.code(0)[3:], nil) // as phones show it
}

func TestWhatCannotBeWrittenDownIsRefused(t *testing.T) {
	d := newDesk(t)
	broken := errors.New("the disk is broken")
	for nth := range 2 { // the file, and its name
		n := 0
		d.fsync = func(*os.File) error {
			if n++; n == nth+1 {
				return broken
			}
			return nil
		}
		d.try(d.code(int64(nth)), broken)
	}
	d.restart(filepath.Join(d.secret, "state")) // below a file
	if err := d.Check("alice", d.secret, d.code(0)); err == nil {
		t.Fatal("taken")
	}
}

func TestADamagedStateIsRefused(t *testing.T) {
	d := newDesk(t)
	d.try(d.code(0), nil)
	if err := os.WriteFile(d.path("alice", seed), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Check("alice", d.secret, d.code(1)); err == nil || !strings.Contains(err.Error(), d.Dir) {
		t.Fatal(err)
	}
}

func TestAStateThatOthersGetAtIsRefused(t *testing.T) {
	d := newDesk(t)
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	os.Chmod(d.Dir, 0o770)
	if err := d.Check("alice", d.secret, d.code(0)); err == nil || !strings.Contains(err.Error(), "chmod go= ") {
		t.Fatal(err)
	}
}

func TestASecretIsReadAsPeopleWriteIt(t *testing.T) {
	for _, text := range []string{
		"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
		"  gezd gnbv gy3t qojq gezd gnbv gy3t qojq\n",
		"GEZDGNBV-GY3TQOJQ-GEZDGNBV-GY3TQOJQ",
		"otpauth://totp/cartsshd:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=cartsshd",
		"otpauth://totp/alice?secret=gezdgnbvgy3tqojqgezdgnbvgy3tqojq&algorithm=sha1&digits=6&period=30",
	} {
		got, err := ReadSecret(secretFile(t, text))
		if err != nil || string(got) != string(seed) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWhatIsNoSecretIsRefusedAndNotRepeated(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "0 bytes",
		"GEZDGNBVGY3TQOJQ":       "10 bytes, 16 are the least",
		"not base32, is it?1890": "wants one line",
		"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\nGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ":        "wants one line",
		"otpauth://hotp/a?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ":                  "otpauth://totp/",
		"otpauth://totp/a?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&digits=8":         "digits=6 is all",
		"otpauth://totp/a?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&period=60":        "period=30 is all",
		"otpauth://totp/a?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&algorithm=SHA256": "algorithm=SHA1 is all",
		"otpauth://totp/a?issuer=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ":                  "0 bytes",
		"otpauth://totp/%zz?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ":                "otpauth://totp/",
		strings.Repeat("GEZDGNBVGY3TQOJQ", 10) + "\n\n# mine":                       "wants one line",
	} {
		_, err := ReadSecret(secretFile(t, text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "GEZDGNBV") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestASecretThatIsNoSecretIsRefused(t *testing.T) {
	for mode, want := range map[os.FileMode]string{0o640: "chmod go=", 0o604: "chmod go=", 0o602: "chmod go="} {
		path := secretFile(t, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
		os.Chmod(path, mode)
		if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", mode, err)
		}
	}
	if _, err := ReadSecret(t.TempDir()); err == nil {
		t.Error("a directory")
	}
}

func TestAFIFOKeepsNobodyWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Fatal(err)
	}
}

func TestOfTwoAtATimeOneIsTaken(t *testing.T) {
	d := newDesk(t)
	verdicts := make(chan error)
	for range 20 {
		go func() { verdicts <- d.Check("alice", d.secret, d.code(0)) }()
	}
	taken := 0
	for range 20 {
		if err := <-verdicts; err == nil {
			taken++
		}
	}
	if taken != 1 {
		t.Fatal(fmt.Sprint(taken, " are taken"))
	}
}
