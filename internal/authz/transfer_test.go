package authz_test

import (
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/authz"
)

func TestTransferOf(t *testing.T) {
	const none = authz.Direction("none")
	for command, want := range map[string]struct {
		kind authz.Kind
		way  authz.Direction
	}{
		"scp -t /tmp":                 {authz.SCP, authz.Up},
		"scp -f /tmp/x":               {authz.SCP, authz.Down},
		"scp -v -r -p -d -t -- /tmp":  {authz.SCP, authz.Up},
		"scp -rt /tmp":                {authz.SCP, authz.Up},
		"scp -vt /tmp":                {authz.SCP, authz.Up},
		"scp -pf 'a file'":            {authz.SCP, authz.Down},
		"/usr/bin/scp -t .":           {authz.SCP, authz.Up},
		"'scp' \"-t\" .":              {authz.SCP, authz.Up},
		"scp . -t":                    {authz.SCP, authz.Up},
		"scp -t -f .":                 {authz.SCP, ""},
		"scp -oStrictHostKey=no f h:": {"", none},
		"scp -i key file host:":       {"", none},
		"scp fat.txt host:":           {"", none},
		"rsync --server -logDtpre.iLsfxCIvu . /tmp":       {authz.Rsync, authz.Up},
		"rsync --server --sender -logDtpre.iLsfxC . /tmp": {authz.Rsync, authz.Down},
		"/usr/bin/rsync --server . x":                     {authz.Rsync, authz.Up},
		"rsync --server --daemon .":                       {authz.Rsync, "daemon"},
		"rsync -a a/ b/":                                  {"", none},
		"/usr/lib/openssh/sftp-server":                    {authz.SFTP, ""},
		"internal-sftp":                                   {authz.SFTP, ""},
		"":                                                {"", none},
		"ls scp -t":                                       {"", none},
		"scp '-t":                                         {"", none},
		"cat scp":                                         {"", none},
	} {
		kind, way, ok := authz.TransferOf(command)
		if kind != want.kind || ok != (want.way != none) || ok && way != want.way {
			t.Errorf("%s: %s %q %v", command, kind, way, ok)
		}
	}
}

func TestFileTransferIsOffUnlessNamed(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE alice@laptop], groups: [sre]}
  bob:   {keys: [BOB], groups: [dba, intern]}
rules:
  - {name: shell, who: [alice], targets: [{name: web-1}], allow: [shell]}
  - {name: down, who: [alice], targets: [{name: web-2}], allow: [shell, scp: [down], sftp: [down]]}
  - {name: all, who: [alice], targets: [{name: web-3}], allow: [shell, scp, rsync, sftp]}
  - {name: pattern, who: [bob], targets: [{name: web-1}], allow: [exec: ["scp *", "rsync *"]]}
  - {name: files, who: [bob], targets: [{name: web-2}], allow: [scp, rsync: [up]]}
`)
	for _, q := range []struct {
		who    authz.Subject
		target string
		exec   string
		allow  bool
		argv   string
	}{
		{alice, "web-1", "scp -t /tmp", false, ""},
		{alice, "web-1", "rsync --server . /tmp", false, ""},
		{alice, "web-1", "/usr/lib/openssh/sftp-server", false, ""},
		{alice, "web-1", "scp a b", true, ""},
		{alice, "web-2", "scp -f /tmp", true, ""},
		{alice, "web-2", "scp -t /tmp", false, ""},
		{alice, "web-2", "scp -t -f /tmp", false, ""},
		{alice, "web-2", "/usr/lib/openssh/sftp-server", false, ""},
		{alice, "web-3", "/usr/lib/openssh/sftp-server", true, ""},
		{alice, "web-3", "rsync --server --daemon .", false, ""},
		{bob, "web-1", "scp -t /tmp", false, ""},
		{bob, "web-2", "scp -t /tmp", true, "scp -t /tmp"},
		{bob, "web-2", "/tmp/scp -t /tmp", false, ""},
		{bob, "web-2", "rsync --server . /tmp", true, "rsync --server . /tmp"},
		{bob, "web-2", "rsync --server --sender . /tmp", false, ""},
		{bob, "web-2", "ls", false, ""},
	} {
		got := policy.Decide(q.who, authz.Request{Target: container(q.target), Kind: authz.Exec, Command: q.exec})
		if got.Allow != q.allow || strings.Join(got.Argv, " ") != q.argv || got.Allow && got.Command != q.exec {
			t.Errorf("%s in %s, %s: %+v", q.who.Person, q.target, q.exec, got)
		}
	}
}

func TestAKeyBoundToATransferMayDoThatOne(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE alice@laptop], groups: [sre]}
  bob:   {keys: [BOB], groups: [dba, intern]}
rules:
  - {name: files, who: [alice], targets: [{name: web-1}], allow: [rsync: [down], sftp]}
`)
	bound := alice
	bound.Bounds.Command = "rsync --server --sender . /data"
	for _, what := range []authz.Request{{Kind: authz.Shell}, {Kind: authz.Exec, Command: "rsync --server . /etc"}} {
		what.Target = container("web-1")
		if got := policy.Decide(bound, what); !got.Allow || got.Command != bound.Bounds.Command {
			t.Errorf("%+v: %+v", what, got)
		}
	}
	sftp := authz.Request{Target: container("web-1"), Kind: authz.SFTP, Object: string(authz.Down)}
	if got := policy.Decide(alice, sftp); !got.Allow {
		t.Errorf("%+v", got)
	}
	if got := policy.Decide(bound, sftp); got.Allow {
		t.Errorf("%+v", got)
	}
}

func TestDangerousVariablesAreKnownByName(t *testing.T) {
	for name, want := range map[string]bool{"LD_PRELOAD": true, "LD_ANYTHING": true, "BASH_ENV": true, "BASH_FUNC_x%%": true, "GIT_CONFIG_KEY_0": true, "PATH": true,
		"CARTSSHD_PERSON": true, "SSH_ORIGINAL_COMMAND": true, "APP_ENV": false, "LDAP_URL": false, "NODE_ENV": false} {
		if authz.Dangerous(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
		var v authz.Variable
		if err := v.UnmarshalText([]byte(name)); (err != nil) != want {
			t.Errorf("%s in a rule: %v", name, err)
		}
	}
}

// Who may transfer files and has no shell gets the one side of a transfer, and
// nothing that these programs do besides.
func TestATransferIsNoWayToAShell(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE]}
rules:
  - {name: files, who: [alice], targets: [{name: web}], allow: [scp, rsync, sftp]}
`)
	for command, allow := range map[string]bool{
		"scp -t /tmp":                                true,
		"scp -v -r -p -d -t -- /tmp":                 true,
		"scp -rpt 'a file'":                          true,
		"scp -f -- -x":                               true,
		"scp -t":                                     false,
		"scp -t a b":                                 false,
		"scp -t -x":                                  false,
		"scp -S /any/prog -i -f x:y /tmp/zz":         false,
		"scp -i -f /etc/hostname /dst":               false,
		"scp -oProxyCommand=id -f x:y z":             false,
		"scp -f x -S/bin/prog":                       false,
		"scp -3 -f x":                                false,
		"/tmp/scp -t /tmp":                           false,
		"rsync --server -vlogDtpre.iLsfxCIvu . /tmp": true,
		"rsync --server --sender -logDtpre.iLsfxC --partial --timeout=60 . a 'b c'": true,
		"rsync --server -lHtre.LsfxCIvu --delete-after --compress-choice=zstd . /x": true,
		"rsync --server --sender . /":                       true,
		"rsync --server":                                    false,
		"rsync --server .":                                  false,
		"rsync --server /tmp":                               false,
		"rsync --server -s . /tmp":                          false,
		"rsync --server -re 'sh -c id' . /tmp":              false,
		"rsync --server --rsh=id . /tmp":                    false,
		"rsync --server --sender --log-file=/any/path . f":  false,
		"rsync --server --sender . f --log-file=/x":         false,
		"rsync --server --sender --remove-source-files . f": false,
		"rsync --server --temp-dir=/x . f":                  false,
		"rsync --server -M--x . f":                          false,
		"rsync -e 'sh -c \"id >&2\" x' --exclude --server --exclude --sender x:y /tmp/zz": false,
		"rsync -e 'sh -c id' -- x:y --server":                                             false,
		"rsync --server --daemon .":                                                       false,
		"/tmp/rsync --server . /tmp":                                                      false,
		"sftp-server":                                                                     true,
		"sftp-server -d /":                                                                false,
		"/tmp/sftp-server":                                                                false,
	} {
		d := policy.Decide(alice, authz.Request{Target: container("web"), Kind: authz.Exec, Command: command})
		if d.Allow != allow || d.Allow && d.Argv == nil {
			t.Errorf("%s: %+v", command, d)
		}
	}
}
