package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sampled is the sample of config.yaml, on a host that has no container.
func sampled(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?ms)^runtimes:\n.*?^limits:`).ReplaceAll(text, []byte("runtimes: {pid: {}}\nlimits:"))
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// says runs a command, and returns what it said without the numbers of lines.
func says(t *testing.T, config, verb string, args ...string) (code int, stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(append([]string{verb, "-c", config}, args...), &out, &errs)
	if errs.Len() > 0 {
		t.Logf("%s %q: on stderr: %s", verb, args, errs.String())
	}
	return code, regexp.MustCompile(`config.yaml:\d+`).ReplaceAllString(out.String(), "config.yaml:N")
}

var prod = []string{"--label", "env=prod"}

func TestExplainSaysTheAnswerFirstAndThenTheTerms(t *testing.T) {
	config := sampled(t)
	code, said := says(t, config, "explain", append(prod, "alice", "web-1")...)
	want := `alice may have a shell in web-1, by rule sre-on-web (config.yaml:N)
web-1 is imagined, as docker's: what runs here was not asked
on these terms:
  max         1h
  idle        10m
  sessions    2
  record      output full
  profile     general
and alice has to give:
  reason      one that matches ^(INC|CHG)-\d+
`
	if code != 0 || said != want {
		t.Errorf("exit code %d, got\n%swant\n%s", code, said, want)
	}
}

func TestExplainSaysOfADenialWhatIsNearest(t *testing.T) {
	code, said := says(t, sampled(t), "explain", "alice", "web-1")
	want := `alice may not have a shell in web-1: no rule matches
web-1 does not run here: judged by its name alone, as docker's
in an emergency, ssh breakglass+web-1@… is another matter: rule emergency allows it
the nearest rules, and what of them does not hold:
  sre-on-web (config.yaml:N)
    targets: it has no label env (prod is asked for)
`
	if code != 1 || !strings.HasPrefix(said, want) {
		t.Errorf("exit code %d, got\n%swant\n%s", code, said, want)
	}
	if _, all := says(t, sampled(t), "explain", "--all", "alice", "web-1"); strings.Index(all, "never-the-vault") > strings.Index(all, "  captures") || !strings.Contains(all, "    ask security\n") {
		t.Errorf("all of them:\n%s", all)
	}
}

// 0 is yes, 1 is no, and 2 that nobody can tell.
func TestExplainAnswersByItsExitCode(t *testing.T) {
	config := sampled(t)
	noon := []string{"--at", "2026-11-25T12:00:00Z", "--from", "10.1.2.3"}
	for _, claim := range []struct {
		args []string
		code int
		says string
	}{
		{append(noon, "bob", "web-1", "--exec", "ps aux"), 0, `bob may run "ps aux" in web-1, by rule captures (config.yaml:N), without a shell in between`},
		{append(noon, "bob", "web-1", "--exec", "id"), 1, `by rule captures (config.yaml:N): no exec pattern of the rule matches the command`},
		{append(noon, "bob", "web-1"), 1, "rule does not allow shell"},
		{append(noon, "bob", "web-1", "--do", "env APP_MODE"), 0, "may do env APP_MODE"},
		{[]string{"bob", "web-1", "--exec", "ps aux", "--at", "2026-11-25T12:00:00Z"}, 1, "the answer depends on the address (from), by rule captures: say --from"},
		{[]string{"bob", "web-1", "--exec", "ps aux", "--from", "10.1.2.3", "--at", "2026-11-25T20:00:00Z"}, 1, "when: mon-fri 08:00-18:00 Europe/Madrid, it is wed 21:00"},
		{[]string{"bob", "web-1", "--from", "10.1.2.3", "--at", "2026-11-28 12:00"}, 1, "it is sat "},
		{[]string{"bob", "cri:shop/db-0/pg", "--namespace", "shop", "--pod", "db-0", "--forward", "localhost:5432"}, 1, "the rule asks for a hardware key"},
		{[]string{"bob", "cri:shop/db-0/pg", "--namespace", "shop", "--pod", "db-0", "--forward", "localhost:5432", "--hardware-key"}, 0, "  totp        a one-time password\n"},
		{[]string{"bob", "cri:shop/db-0/pg", "--namespace", "shop", "--pod", "db-0", "--fact", "host_net", "--hardware-key"}, 1, "host_net is true"},
		{[]string{"alice", "x", "--image", "nginx:1.27", "--fact", "privileged"}, 1, "privileged is true"},
		{[]string{"alice", "x", "--image", "nginx:1.27"}, 0, "by rule sre-on-web"},
		{[]string{"alice", "breakglass+web-1"}, 0, "by rule emergency"},
		{[]string{"alice", "web-1", "--break-glass"}, 0, "break_glass raises an alarm"},
		{[]string{"alice", "web-1", "--label", "tier=secrets", "--break-glass"}, 1, "by rule never-the-vault (config.yaml:N): denied by rule: ask security"},
		{[]string{"principal:ci@corp", "web-1", "--groups", "robots"}, 1, "ci@corp may not"},
		{[]string{"principal:ci@corp", "web-1", "--groups", "sre", "--label", "env=prod"}, 0, "by rule sre-on-web"},
		{[]string{"alic", "web-1"}, 2, ""},
		{[]string{"alice", "a//b"}, 2, ""},
		{[]string{"alice", "web-1", "--do", "dance"}, 2, ""},
		{[]string{"alice", "web-1", "--at", "noon"}, 2, ""},
		{[]string{"alice", "web-1", "--from", "here"}, 2, ""},
		{[]string{"alice", "web-1", "--fact", "big"}, 2, ""},
		{[]string{"alice", "web-1", "--exec", "id", "--forward", "x:1"}, 2, ""},
		{[]string{"alice"}, 2, ""},
	} {
		code, said := says(t, config, "explain", claim.args...)
		if code != claim.code || !strings.Contains(said, claim.says) || code == 2 && said != "" {
			t.Errorf("%q: exit code %d, want %d and %q:\n%s", claim.args, code, claim.code, claim.says, said)
		}
	}
	if code, _ := says(t, filepath.Join(t.TempDir(), "none.yaml"), "explain", "alice", "web-1"); code != 2 {
		t.Errorf("without a policy: exit code %d", code)
	}
}

// A rule may ask for what somebody has no way to give.
func TestExplainSaysWhoCannotGiveWhatIsAskedFor(t *testing.T) {
	config := sampled(t)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.ReplaceAll(text, []byte(", totp: totp/bob}"), []byte("}")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, said := says(t, config, "explain", "bob", "cri:shop/db-0/pg", "--namespace", "shop", "--pod", "db-0", "--hardware-key")
	if !strings.Contains(said, "\nbob has no secret for one-time passwords, and so cannot give one\n") {
		t.Errorf("got\n%s", said)
	}
}

func TestExplainForScripts(t *testing.T) {
	code, said := says(t, sampled(t), "explain", append(prod, "--json", "alice", "web-1\x1b")...)
	if code != 2 || said != "" {
		t.Errorf("what is no name: %d, %s", code, said)
	}
	code, said = says(t, sampled(t), "explain", append(prod, "--json", "alice", "web-1")...)
	var a answer
	if err := json.Unmarshal([]byte(said), &a); err != nil || code != 0 || !a.Allow || a.Rule != "sre-on-web" || a.Terms["max"] != "1h" || a.Asked["reason"] == "" {
		t.Errorf("%d, %v: %s", code, err, said)
	}
	code, said = says(t, sampled(t), "explain", "--json", "bob", "web-1")
	a = answer{}
	if err := json.Unmarshal([]byte(said), &a); err != nil || code != 1 || a.Allow || len(a.Rules) != 5 || a.DependsOn == "" && len(a.Rules[0].Failed) == 0 {
		t.Errorf("%d, %v: %s", code, err, said)
	}
}

func TestWhoCanListsEveryoneAndOnWhatTerms(t *testing.T) {
	config := sampled(t)
	code, said := says(t, config, "who-can", append(prod, "web-1")...)
	lines := strings.Split(said, "\n")
	for i, want := range []string{
		`PERSON +MAY +RULE +ON WHICH TERMS`,
		`alice +shell +sre-on-web \(config.yaml:N\) +reason one that matches .*; max 1h; idle 10m; sessions 2; profile general`,
		`alice +shell +emergency \(config.yaml:N\) +breakglass\+NAME only; reason one that matches \\S; profile general`,
		`bob +exec: \["tcpdump \*", .*"ps aux"\], env: \["APP_\*"\] +captures \(config.yaml:N\) +when mon-fri 08:00-18:00 Europe/Madrid, from 127.0.0.0/8, 10.0.0.0/8; profile general`,
		`principal:alice@corp +shell +sre-on-web \(config.yaml:N\) +reason one that matches .*; profile general`,
		`principal:alice@corp +shell +emergency \(config.yaml:N\) +breakglass\+NAME only; .*; profile general`,
		``,
	} {
		if i >= len(lines) || !regexp.MustCompile("^"+want+"$").MatchString(lines[i]) {
			t.Errorf("line %d: not %s in\n%s", i, want, said)
		}
	}
	if code != 0 || len(lines) != 7 {
		t.Errorf("exit code %d, %d lines", code, len(lines))
	}
	code, said = says(t, config, "who-can", "--label", "tier=secrets", "web-1")
	if code != 0 || strings.Count(said, "\n") != 1 {
		t.Errorf("of what is nobody's: %d\n%s", code, said)
	}
	if _, said = says(t, config, "who-can", "--json", "--label", "tier=secrets", "web-1"); said != "[]\n" {
		t.Errorf("for scripts: %s", said)
	}
}

func TestWhatCanListsTheRulesForWhatDoesNotRun(t *testing.T) {
	config := sampled(t)
	code, said := says(t, config, "what-can", "bob")
	for _, want := range []string{
		"CONTAINER  MAY  RULE  ON WHICH TERMS\n\nThe rules that name bob, in their order, for whatever runs:\nTARGETS ",
		"\nlabel tier=secrets  ", "  nothing: ask security  ",
		"\nnamespace shop, pod db-*, host_pid false, host_net false  ", "hardware key; totp a one-time password; approve by 1 of group:sre, within 10m; profile general\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if code != 0 || strings.Contains(said, "sre-on-web") {
		t.Errorf("exit code %d\n%s", code, said)
	}
	code, said = says(t, config, "what-can", "--json", "principal:nobody@corp")
	var lists map[string][]offer
	if err := json.Unmarshal([]byte(said), &lists); err != nil || code != 0 || len(lists["running"]) != 0 || len(lists["rules"]) != 1 || lists["rules"][0].Deny != "ask security" {
		t.Errorf("%d, %v: %s", code, err, said)
	}
	if code, _ := says(t, config, "what-can", "eve"); code != 2 {
		t.Errorf("of nobody: exit code %d", code)
	}
}
