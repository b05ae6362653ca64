package sshd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/approval"
	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// lobby is a hall in which alice must wait until leads approve, and everyone
// has the stock client.
type lobby struct {
	*hall
	signers map[string]gossh.Signer
	keys    map[string]string // files
	login   string            // of alice
	now     atomic.Pointer[func() *authz.Policy]
}

// rule has a policy in force.
func (l *lobby) rule(p *authz.Policy) {
	f := func() *authz.Policy { return p }
	l.now.Store(&f)
}

// The people of a lobby, and alice's other key.
var people = []string{"alice", "alice2", "bob", "carol", "dave"}

// newLobby has these terms for alice in web-*.
func newLobby(t *testing.T, approve string, adjust ...func(*Server)) *lobby {
	t.Helper()
	need.Tool(t, "ssh", "openssh-client")
	l := &lobby{signers: map[string]gossh.Signer{}, keys: map[string]string{}, login: "web-1"}
	for _, name := range people {
		l.signers[name], l.keys[name] = keyFile(t)
	}
	l.rule(l.policy(t, "carol, dave", "approve: "+approve))
	adjust = append(adjust, func(s *Server) { s.Policy = func() *authz.Policy { return (*l.now.Load())() } })
	l.hall = newHallOf(t, l.signers["alice"], adjust...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.containers[deskLogin] = sleeper(t)
	return l
}

// policy is the lobby's, with these leads and terms.
func (l *lobby) policy(t *testing.T, leads, terms string) *authz.Policy {
	t.Helper()
	var text strings.Builder
	text.WriteString("people:\n")
	for name, keys := range map[string][]string{"alice": {"alice", "alice2"}, "bob": {"bob"}, "carol": {"carol"}, "dave": {"dave"}} {
		fmt.Fprintf(&text, "  %s: {keys: [", name)
		for _, key := range keys {
			fmt.Fprintf(&text, "%q, ", authorized(l.signers[key]))
		}
		text.WriteString("]")
		if slices.Contains(strings.Split(leads, ", "), name) {
			text.WriteString(", groups: [lead]")
		}
		text.WriteString("}\n")
	}
	fmt.Fprintf(&text, `
rules:
  - {name: web, who: [alice], targets: [{name: "web-*"}], allow: [shell], terms: {%s}}
  - {name: odd, who: [bob], targets: [{name: cartsshd}], allow: [shell]}
`, terms)
	var file struct {
		People authz.People `yaml:"people"`
		Rules  authz.Rules  `yaml:"rules"`
	}
	if err := strictyaml.Decode("policy", []byte(text.String()), &file); err != nil {
		t.Fatal(err)
	}
	p, err := authz.New(authz.Document{People: file.People, Rules: file.Rules}, authz.Known{Profiles: []string{"general"}, Runtimes: []string{"docker", "pid"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// as is somebody with ssh(1).
func (l *lobby) as(person, login string) *openssh {
	return &openssh{hall: l.hall, key: l.keys[person], path: "ssh", login: login}
}

// desk is what somebody did at the desk.
func (l *lobby) desk(person, command string) ran {
	l.t.Helper()
	return l.as(person, deskLogin).run(nil, command)
}

// waiter is a client of ssh(1) whose session waits.
type waiter struct {
	t     *testing.T
	cmd   *exec.Cmd
	id    string
	stdin io.WriteCloser
	told  chan string // all that it was told, when that ends
	out   strings.Builder
}

var idLine = regexp.MustCompile(`^id +([A-Z2-7]{8})\r?$`)

// wait has alice wait, and returns when she knows for what.
func (l *lobby) wait(t *testing.T, command string, args ...string) *waiter {
	t.Helper()
	w := &waiter{t: t, cmd: l.as("alice", l.login).cmd(args...), told: make(chan string, 1)}
	if command != "" {
		w.cmd.Args = append(w.cmd.Args, command)
	}
	pipe := w.cmd.StderrPipe
	if slices.Contains(args, "-tt") {
		pipe = w.cmd.StdoutPipe
	} else {
		w.cmd.Stdout = &w.out
	}
	words, err := pipe()
	if err == nil {
		w.stdin, err = w.cmd.StdinPipe()
	}
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill() })
	id := make(chan string, 1)
	go w.listen(words, id)
	if w.id = <-id; w.id == "" {
		t.Fatalf("it waits for nothing: %s", <-w.told)
	}
	return w
}

func (w *waiter) listen(words io.Reader, id chan<- string) {
	defer close(id)
	var all strings.Builder
	defer func() { w.told <- all.String() }()
	lines := bufio.NewReader(words)
	for {
		line, err := lines.ReadString('\n')
		all.WriteString(line)
		if m := idLine.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			id <- m[1]
		}
		if err != nil {
			return
		}
	}
}

// end is what became of it.
func (w *waiter) end() ran {
	w.t.Helper()
	told := <-w.told
	w.cmd.Wait()
	return ran{out: w.out.String(), err: told, code: w.cmd.ProcessState.ExitCode()}
}

func (l *lobby) fingerprint(person string) string {
	return gossh.FingerprintSHA256(l.signers[person].PublicKey())
}

// sign signs a text as people do, and returns the signature.
func (l *lobby) sign(t *testing.T, person, text, namespace string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "request")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	keygen := need.Tool(t, "ssh-keygen", "openssh-client")
	if out, err := exec.Command(keygen, "-q", "-Y", "sign", "-n", namespace, "-f", l.keys[person], path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	signature, err := os.ReadFile(path + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

const waitsAwhile = "{by: [group:lead], within: 10m}"

func TestASessionWaitsUntilSomebodyApproves(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "cat; echo ran")
	io.WriteString(w.stdin, "typed\n")
	w.stdin.Close()

	list := l.desk("carol", "approve")
	for _, part := range []string{"id       " + w.id + "\n", "person   alice\n", "key      " + l.fingerprint("alice"), "login    web-1\n", "rule     web\n", `command  "cat; echo ran"`, "approved by nobody yet, 1 wanted\n"} {
		if !strings.Contains(list.out, part) {
			t.Errorf("the list has no %q: %+v", part, list)
		}
	}
	if got := l.desk("carol", "approve "+w.id); got.code != 0 || !strings.Contains(got.out, `command  "cat; echo ran"`) || !strings.HasSuffix(got.out, "approved by carol, 1 of 1\n") {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 0 || got.out != "typed\nran\n" || !strings.HasSuffix(got.err, "cartsshd: approved by carol\n") {
		t.Errorf("%+v", got)
	}
	var order []string
	for _, r := range l.journal() {
		if strings.HasPrefix(r.Event, "session.") {
			order = append(order, r.Event)
		}
		if r.Person != nil && r.Event != audit.SigninOK && r.Person.Name != "alice" {
			t.Errorf("whose session is it? %+v", r)
		}
		carol := []audit.Approver{{Name: "carol", Key: l.fingerprint("carol"), How: "signed in"}}
		if approved := r.Event == audit.SessionApproved || r.Event == audit.SessionOpen || r.Event == audit.SessionClose; approved != slices.Equal(r.Approvers, carol) {
			t.Errorf("%s: %+v", r.Event, r.Approvers)
		}
	}
	if want := []string{audit.SessionWaiting, audit.SessionApproved, audit.SessionOpen, audit.SessionClose}; !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
}

func TestSoManyMustApproveAsTheRuleSays(t *testing.T) {
	l := newLobby(t, "{by: [group:lead], count: 2}")
	w := l.wait(t, "echo ran")
	if got := l.desk("carol", "approve "+w.id); !strings.HasSuffix(got.out, "approved by carol, 1 of 2\n") {
		t.Errorf("%+v", got)
	}
	if got := l.desk("carol", "approve "+w.id); got.code != 1 || got.err != "cartsshd: has approved it already\n" {
		t.Errorf("twice: %+v", got)
	}
	if got := l.desk("dave", "approve"); !strings.Contains(got.out, "approved by carol, 1 of 2\n") {
		t.Errorf("%+v", got)
	}
	if got := l.desk("dave", "approve "+w.id); !strings.HasSuffix(got.out, "approved by carol and dave, 2 of 2\n") {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 0 || got.out != "ran\n" {
		t.Errorf("%+v", got)
	}
	if opened := l.recorded(audit.SessionOpen); len(opened) != 1 || len(opened[0].Approvers) != 2 {
		t.Errorf("%+v", opened)
	}
}

// Not even as a lead, with another key, or by a signature.
func TestNobodyApprovesTheirOwnSession(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	l.rule(l.policy(t, "alice, carol", "approve: "+waitsAwhile))
	w := l.wait(t, "echo ran")
	request := l.desk("alice", "request "+w.id).out
	for _, person := range []string{"alice", "alice2"} {
		if got := l.desk(person, "approve"); got.out != "nothing waits for you\n" {
			t.Errorf("%+v", got)
		}
		if got := l.desk(person, "approve "+w.id); got.code != 1 || !strings.HasSuffix(got.err, "cartsshd: no signature came\n") {
			t.Errorf("%+v", got)
		}
		signature := l.sign(t, person, request, approval.Namespace)
		for _, carrier := range []string{"alice", "alice2"} {
			got := l.as(carrier, deskLogin).run(signature, "approve "+w.id)
			if got.code != 1 || !strings.HasSuffix(got.err, "cartsshd: nobody approves their own request\n") {
				t.Errorf("%+v", got)
			}
		}
		if got := l.as("carol", deskLogin).run(signature, "approve "+w.id+" -"); got.code != 1 {
			t.Errorf("%+v", got)
		}
	}
	w.stdin.Close()
	if refused := l.recorded(audit.RequestRefused); len(refused) != 8 || !strings.HasPrefix(refused[0].Detail, "approve "+w.id+": ") {
		t.Errorf("%d refusals are recorded: %+v", len(refused), refused)
	}
}

func TestWhomNobodyApprovesInTimeIsDenied(t *testing.T) {
	l := newLobby(t, "{by: [group:lead], within: 1ms}")
	got := l.as("alice", "web-1").run(nil, "echo ran")
	if got.code != 255 || got.out != "" || !strings.HasSuffix(got.err, "cartsshd: nobody approved within 1ms\n") {
		t.Errorf("%+v", got)
	}
	if denied := l.recorded(audit.SessionDenied); len(denied) != 1 || denied[0].Detail != "nobody approved within 1ms" || denied[0].Rule != "web" || denied[0].Target == nil {
		t.Errorf("%+v", denied)
	}
}

func TestAnApproverMaySignOffline(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "echo ran")
	request := l.desk("alice", "request "+w.id)
	if seen := l.desk("carol", "request "+w.id); seen != request || request.code != 0 {
		t.Fatalf("%+v\n%+v", seen, request)
	}
	// Who brings it sees no more of it than before.
	got := l.as("bob", deskLogin).run(l.sign(t, "carol", request.out, approval.Namespace), "approve "+w.id)
	if got.code != 0 || got.out != "approved by carol, 1 of 1\n" {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 0 || got.out != "ran\n" || !strings.Contains(got.err, request.out) {
		t.Errorf("%+v", got)
	}
	opened := l.recorded(audit.SessionOpen)
	if len(opened) != 1 || !slices.Equal(opened[0].Approvers, []audit.Approver{{Name: "carol", Key: l.fingerprint("carol"), How: "by a signature"}}) {
		t.Errorf("%+v", opened)
	}
	if approved := l.recorded(audit.SessionApproved); len(approved) != 1 || !strings.Contains(approved[0].Detail, "brought by bob ("+l.fingerprint("bob")+")") {
		t.Errorf("%+v", approved)
	}
}

func TestASignatureLetsNothingElseBegin(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	one, other := l.wait(t, "echo ran"), l.wait(t, "echo ran")
	request := l.desk("carol", "request "+one.id).out
	good := l.sign(t, "carol", request, approval.Namespace)
	for name, c := range map[string]struct {
		signature []byte
		id, words string
	}{
		"another request":   {good, other.id, "the signature is not of this request, as it is printed to the byte"},
		"another purpose":   {l.sign(t, "carol", request, "git"), one.id, `signed for "git": write -n cartsshd-approval`},
		"another text":      {l.sign(t, "carol", strings.Replace(request, "ran", "run", 1), approval.Namespace), one.id, "the signature is not of this request, as it is printed to the byte"},
		"another person":    {l.sign(t, "bob", request, approval.Namespace), one.id, "whoever signed it may not approve it"},
		"no signature":      {[]byte("yes\n"), one.id, "no signature of ssh-keygen -Y sign: invalid PEM block"},
		"no end to it":      {make([]byte, maxSignature+1), one.id, "too much for a signature"},
		"nothing that ever": {nil, one.id, "no signature came"},
	} {
		if got := l.as("alice", deskLogin).run(c.signature, "approve "+c.id); got.code != 1 || !strings.HasSuffix(got.err, "\ncartsshd: "+c.words+"\n") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := l.as("carol", deskLogin).run(good, "approve "+other.id+" -"); got.code != 1 {
		t.Errorf("who may approve it herself did not say so: %+v", got)
	}
	if opened := l.recorded(audit.SessionOpen); len(opened) != 0 {
		t.Errorf("%+v", opened)
	}
}

func TestWhoMayApproveMayDeny(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "echo ran")
	if got := l.desk("alice", "deny "+w.id); got.code != 1 {
		t.Errorf("%+v", got)
	}
	if got := l.desk("carol", "deny "+strings.ToLower(w.id)); got.code != 0 || got.out != w.id+" is denied\n" {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 255 || !strings.HasSuffix(got.err, "cartsshd: denied by carol\n") {
		t.Errorf("%+v", got)
	}
	denied := l.recorded(audit.SessionDenied)
	if len(denied) != 1 || !strings.HasPrefix(denied[0].Detail, "denied by carol ("+l.fingerprint("carol")+") signed in from 127.0.0.1:") {
		t.Errorf("%+v", denied)
	}
}

func TestARequestGoesWithItsClient(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "echo ran")
	w.cmd.Process.Kill()
	l.await(audit.SessionDenied)
	if got := l.desk("carol", "approve"); got.out != "nothing waits for you\n" {
		t.Errorf("%+v", got)
	}
	if denied := l.recorded(audit.SessionDenied); len(denied) != 1 || denied[0].Detail != "client left" {
		t.Errorf("%+v", denied)
	}
}

func TestAWaitEndsWithTheServerTheContainerAndUnderALock(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*lobby)
		words string
	}{
		"server":    {func(l *lobby) { l.stop() }, "cartsshd: the server is stopping; this session was ended\n"},
		"container": {func(l *lobby) { l.containers["web-1"].Process.Kill() }, "cartsshd: container web-1 stopped\n"},
		"lock": {func(l *lobby) {
			locked := l.server.Policy().With(nil, []authz.Lock{{ID: "1", Person: "alice", By: "root"}})
			f := func() *authz.Policy { return locked }
			l.now.Store(&f)
			l.server.Judge()
		}, "cartsshd: web-1: no container of that name is yours to enter\n"},
	} {
		l := newLobby(t, waitsAwhile)
		w := l.wait(t, "echo ran")
		c.end(l)
		if got := w.end(); got.code != 255 || !strings.Contains(got.err, "\n"+c.words) {
			t.Errorf("%s: %+v", name, got)
		}
		if denied := l.recorded(audit.SessionDenied); len(denied) != 1 {
			t.Errorf("%s: %+v", name, denied)
		}
	}
}

// turn has another policy in force from the moment on that something is recorded.
func (l *lobby) turn(event string, policy *authz.Policy) {
	before := l.server.Policy()
	f := func() *authz.Policy {
		for r, err := range audit.ReadJournal(l.record) {
			if err == nil && r.Event == event {
				return policy
			}
		}
		return before
	}
	l.now.Store(&f)
}

func TestWhatWasApprovedIsJudgedAgain(t *testing.T) {
	const ask = "cartsshd: the policy has changed while this session waited: ask again\n"
	const no = "cartsshd: web-1: no container of that name is yours to enter\n"
	for name, c := range map[string]struct {
		policy func(*testing.T, *lobby) *authz.Policy
		words  string // empty: it runs
	}{
		"nothing has changed": {func(t *testing.T, l *lobby) *authz.Policy { return l.policy(t, "carol, dave", "approve: "+waitsAwhile) }, ""},
		"the rule gives more": {func(t *testing.T, l *lobby) *authz.Policy {
			return l.policy(t, "carol, dave", "host: true, approve: "+waitsAwhile)
		}, ask},
		"another must approve": {func(t *testing.T, l *lobby) *authz.Policy { return l.policy(t, "dave", "approve: "+waitsAwhile) }, ask},
		"more must approve": {func(t *testing.T, l *lobby) *authz.Policy {
			return l.policy(t, "carol, dave", "approve: {by: [group:lead], count: 2}")
		}, ask},
		"nobody need approve": {func(t *testing.T, l *lobby) *authz.Policy { return l.policy(t, "carol", "") }, ""},
		"locked": {func(t *testing.T, l *lobby) *authz.Policy {
			return l.server.Policy().With(nil, []authz.Lock{{ID: "1", Person: "alice", By: "root"}})
		}, no},
		"no policy": {func(*testing.T, *lobby) *authz.Policy { return nil }, no},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLobby(t, waitsAwhile)
			l.turn(audit.SessionApproved, c.policy(t, l))
			w := l.wait(t, "echo ran")
			if got := l.desk("carol", "approve "+w.id); got.code != 0 {
				t.Fatalf("%+v", got)
			}
			got := w.end()
			if c.words == "" && got.code == 0 && got.out == "ran\n" {
				return
			}
			if got.code != 255 || got.out != "" || c.words == "" || !strings.HasSuffix(got.err, c.words) {
				t.Errorf("%+v", got)
			}
			if len(l.recorded(audit.SessionOpen)) != 0 || len(l.recorded(audit.SessionDenied)) != 1 {
				t.Error(l.journal())
			}
		})
	}
}

func TestWhatIsNotTheSameAnyMoreCannotBeApproved(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "echo ran")
	l.rule(l.policy(t, "carol, dave", "host: true, approve: "+waitsAwhile))
	if got := l.desk("carol", "approve "+w.id); got.code != 1 || !strings.HasSuffix(got.err, "cartsshd: nothing waits for you\n") {
		t.Errorf("%+v", got)
	}
	l.rule(l.policy(t, "carol, dave", "approve: "+waitsAwhile).With(nil, []authz.Lock{{ID: "1", Person: "carol", By: "root", Until: time.Now().Add(time.Hour)}}))
	if got := l.desk("carol", "approve "+w.id); got.code != 1 {
		t.Errorf("locked: %+v", got)
	}
	if got := l.desk("dave", "approve "+w.id); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 0 {
		t.Errorf("%+v", got)
	}
}

func TestWhoMayNotApproveLearnsNothing(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "echo ran")
	signature := l.sign(t, "bob", l.desk("alice", "request "+w.id).out, approval.Namespace)
	if got := l.desk("bob", "approve"); got != (ran{out: "nothing waits for you\n"}) {
		t.Errorf("%+v", got)
	}
	unspelt := func(r ran, id string) ran { r.err = strings.ReplaceAll(r.err, id, "ID"); return r }
	for _, command := range []string{"approve %s", "approve %s -", "deny %s", "request %s"} {
		for _, stdin := range [][]byte{nil, []byte("yes"), signature} {
			there := unspelt(l.as("bob", deskLogin).run(stdin, fmt.Sprintf(command, w.id)), w.id)
			nowhere := unspelt(l.as("bob", deskLogin).run(stdin, fmt.Sprintf(command, "AAAAAAAA")), "AAAAAAAA")
			if there != nowhere || there.code != 1 || !strings.HasSuffix(there.err, "cartsshd: nothing waits for you\n") {
				t.Errorf("%s: %+v, %+v", command, there, nowhere)
			}
		}
	}
}

func TestTheDeskSaysHowItIsUsed(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	if got := l.desk("bob", ""); got != (ran{out: "nothing waits for you\n\n" + deskHelp}) {
		t.Errorf("%+v", got)
	}
	if got := l.as("bob", deskLogin).run(nil, "", "-tt"); got.code != 0 || got.out != strings.ReplaceAll("nothing waits for you\n\n"+deskHelp, "\n", "\r\n") {
		t.Errorf("%+v", got)
	}
	if got := l.desk("bob", "help"); got != (ran{out: deskHelp}) {
		t.Errorf("%+v", got)
	}
	for _, command := range []string{"id", "approve a b", "approve a - b", "deny", "request", "help me", "deny a b"} {
		if got := l.desk("bob", command); got != (ran{err: "cartsshd: try: ssh cartsshd@HOST help\n", code: 2}) {
			t.Errorf("%s: %+v", command, got)
		}
	}
	if opened := l.recorded(audit.SessionOpen); len(opened) != 0 {
		t.Errorf("%+v", opened)
	}
}

func TestAContainerOfTheDesksNameHasAnother(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	if got := l.as("bob", "docker:"+deskLogin).run(nil, "echo ran"); got != (ran{out: "ran\n"}) {
		t.Errorf("%+v", got)
	}
}

func TestControlCEndsAWait(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	w := l.wait(t, "", "-tt")
	io.WriteString(w.stdin, "\x03")
	if got := w.end(); got.code != 255 || !strings.HasSuffix(got.err, "cartsshd: given up by ^C\r\n") || strings.Contains(strings.ReplaceAll(got.err, "\r\n", ""), "\n") {
		t.Errorf("%q", got.err)
	}
	if denied := l.recorded(audit.SessionDenied); len(denied) != 1 || denied[0].Detail != "given up by ^C" {
		t.Errorf("%+v", denied)
	}
}

func TestWhatIsTypedWhileWaitingIsForTheShell(t *testing.T) {
	for name, early := range map[string]string{"before": "echo $((6 * 7))\nexit 3\n", "some": "echo $((6 * ", "nothing": ""} {
		l := newLobby(t, waitsAwhile)
		w := l.wait(t, "", "-tt")
		io.WriteString(w.stdin, early)
		if got := l.desk("carol", "approve "+w.id); got.code != 0 {
			t.Fatalf("%+v", got)
		}
		l.await(audit.SessionOpen)
		io.WriteString(w.stdin, strings.TrimPrefix("echo $((6 * 7))\nexit 3\n", early))
		if got := w.end(); got.code != 3 || !strings.Contains(got.err, "42\r\n") || !strings.Contains(got.err, "cartsshd: approved by carol\r\n") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestOnePersonMayNotFillTheTable(t *testing.T) {
	l := newLobby(t, waitsAwhile, func(s *Server) { s.Approvals = &approval.Table{Each: 1} })
	l.wait(t, "echo ran")
	if got := l.as("alice", "web-1").run(nil, "echo ran"); got.code != 255 || got.err != "cartsshd: too many sessions of yours wait for approval already\n" {
		t.Errorf("%+v", got)
	}
}

// Or it could have itself approved now, and begin when nobody thinks of it.
func TestAClientThatDoesNotReadIsNotLeftWaiting(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	c := l.signedIn(0)
	c.exec("echo ran")
	carol := approval.Approver{Name: "carol", Key: l.signers["carol"].PublicKey()}
	var waiting []*approval.Waiting
	for len(waiting) == 0 {
		waiting = l.server.Approvals.List(carol)
	}
	if got := l.desk("carol", "approve "+waiting[0].ID); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	c.expect(msgChannelRequest) // exit-status
	c.conn.Close()
	if denied := l.recorded(audit.SessionDenied); len(denied) != 1 || denied[0].Detail != string(errDeaf) {
		t.Errorf("%+v", denied)
	}
}

func TestWhoApprovesSeesTheReason(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	l.login = "batch+web-1"
	const terms = `reason: '^INC-\d+', approve: ` + waitsAwhile
	l.rule(l.policy(t, "carol", terms))
	l.turn(audit.SessionApproved, l.policy(t, "carol", terms)) // the same, read anew
	w := l.wait(t, "echo ran", "-o", `SetEnv=REASON="INC-7 disk is full"`)
	if got := l.desk("carol", "approve "+w.id); !strings.Contains(got.out, "\nreason   \"INC-7 disk is full\"\n") {
		t.Errorf("%+v", got)
	}
	if got := w.end(); got.code != 0 || got.out != "ran\n" {
		t.Errorf("%+v", got)
	}
	for _, r := range l.journal() {
		if strings.HasPrefix(r.Event, "session.") && r.Reason != "INC-7 disk is full" {
			t.Errorf("%+v", r)
		}
	}
}

func TestTheDeskAsksForNoReason(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	l.rule(l.policy(t, "carol", "reason: ., totp: true"))
	if got := l.desk("bob", "approve"); got != (ran{out: "nothing waits for you\n"}) {
		t.Errorf("%+v", got)
	}
}

func TestEmergenciesDoNotLeadToTheDesk(t *testing.T) {
	l := newLobby(t, waitsAwhile)
	if got := l.as("bob", "breakglass+"+deskLogin).run(nil, "approve"); got.code != 255 || !strings.Contains(got.err, "no container of that name") {
		t.Errorf("%+v", got)
	}
}
