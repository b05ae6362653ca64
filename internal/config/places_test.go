package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhereThingsAreIsKnownWhileThePolicyIsBroken(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("host_key: key\nstate: {dir: /state}\nrules: [{who: nobody, allow: [shall]}]\npeeple: 3\n")
	c, err := Places(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.HostKey != filepath.Join(dir, "key") || c.State.Dir != "/state" || c.Record.Dir != "/var/lib/cartsshd/record" || c.Policy != nil {
		t.Errorf("read %+v", c)
	}
	for _, bad := range []string{"host_key: [", "state: {dir: {}}\n", "host_key: a\nhost_key: b\n"} {
		write(bad)
		if c, err := Places(path); err == nil {
			t.Errorf("%q: read as %+v", bad, c)
		}
	}
	write("")
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := Places(path); err == nil {
		t.Error("read what others may write")
	}
}
