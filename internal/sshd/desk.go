package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/approval"
	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// deskLogin is the login of those who come to approve. It is never a container:
// one that is called so goes by RUNTIME:cartsshd.
const deskLogin = "cartsshd"

const deskHelp = `ssh cartsshd@HOST …
  approve                   what waits for you
  approve ID                let it begin, by the key that you have signed in with
  approve ID <request.sig   let it begin, by a signature of somebody who may
  approve ID - <request.sig the same, if you may approve it yourself as well
  deny ID                   end it
  request ID                what is to be signed for it, to the byte:
                            ssh-keygen -Y sign -n cartsshd-approval -f KEY request
  help                      this
`

// visit is somebody at the desk. Whoever is known may come, to approve sessions
// that wait, and sees of what waits only what is theirs to decide.
type visit struct {
	*session
	ctx context.Context
	me  approval.Approver
}

func (s *session) serveDesk(ctx context.Context, ask ask, who authz.Subject) ending {
	if who.Bounds.Command != "" {
		return s.deny(ask, who, nil, authz.Decision{Why: "the key is bound to one command"})
	}
	v := &visit{session: s, ctx: ctx, me: approval.Approver{
		Name: who.Person, Key: s.key, From: s.conn.from,
		How: approval.SignedIn, Via: "signed in from " + s.conn.RemoteAddr().String(),
	}}
	return v.do(strings.Fields(ask.command))
}

func (v *visit) do(words []string) ending {
	verb, id := "", ""
	if len(words) > 0 {
		verb = words[0]
	}
	if len(words) > 1 {
		id = strings.ToUpper(words[1])
	}
	switch {
	case len(words) == 0:
		return v.welcome()
	case len(words) == 1 && verb == "help":
		return v.show(deskHelp)
	case len(words) == 1 && verb == "approve":
		return v.show(v.list())
	case len(words) == 2 && verb == "approve":
		return v.approve(id)
	case len(words) == 3 && verb == "approve" && words[2] == "-":
		return v.carry(id)
	case len(words) == 2 && verb == "deny":
		return v.deny(id)
	case len(words) == 2 && verb == "request":
		return v.request(id)
	}
	return visited(2, "try: ssh cartsshd@HOST help")
}

func (v *visit) welcome() ending { return v.show(v.list() + "\n" + deskHelp) }

func (v *visit) show(text string) ending {
	v.print(text)
	return visited(0, "")
}

func (v *visit) print(text string) {
	if v.pty != nil {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	io.WriteString(v.ch, text)
}

// visited is how a visit to the desk ends.
func visited(code int, words string) ending {
	return ending{status: &nsexec.Status{Code: code}, words: words, reason: "exited"}
}

// nothing is said of what is not there, and of what is not theirs.
const nothing = "nothing waits for you"

func (v *visit) list() string {
	waiting := v.server.Approvals.List(v.me)
	if len(waiting) == 0 {
		return nothing + "\n"
	}
	var texts []string
	for _, w := range waiting {
		texts = append(texts, w.Text()+soFar(w.Approvers(), w.Count))
	}
	return strings.Join(texts, "\n")
}

func soFar(by []approval.Approver, count int) string {
	if len(by) == 0 {
		return fmt.Sprintf("approved by nobody yet, %d wanted\n", count)
	}
	return fmt.Sprintf("approved by %s, %d of %d\n", names(by), len(by), count)
}

// approve is by the key that somebody has signed in with. Who may not do that
// can only mean to bring a signature.
func (v *visit) approve(id string) ending {
	if w, err := v.server.Approvals.See(id, v.me); err != nil || w.Own(v.me) {
		v.hint(id)
		return v.carry(id)
	}
	return v.count(id, v.me)
}

// hint is for whoever has nothing to send, and would wait for an answer.
func (v *visit) hint(id string) {
	if v.pty == nil {
		fmt.Fprintf(v.ch.Stderr(), "cartsshd: %s is not yours to approve by yourself: reading a signature (^C to leave)\n", audit.Printable(brief(id)))
	}
}

// carry brings what somebody else has signed.
func (v *visit) carry(id string) ending {
	armored, err := v.stdin()
	if err != nil {
		return visited(1, err.Error())
	}
	if len(bytes.TrimSpace(armored)) == 0 {
		return v.refused("approve", id, errors.New("no signature came"))
	}
	key, err := v.server.Approvals.Signed(id, armored)
	if err != nil {
		return v.refused("approve", id, err)
	}
	// Where it was made, nobody knows: a key that is bound to a place is not for this.
	signer, err := v.server.Policy().Identify(authz.Credential{Key: key, Time: time.Now()})
	if err != nil {
		return v.refused("approve", id, err)
	}
	return v.count(id, approval.Approver{
		Name: signer.Person, Key: key, How: approval.BySignature,
		Via: fmt.Sprintf("%s, brought by %s (%s) from %s", approval.BySignature, v.me.Name, approval.Fingerprint(v.key), v.conn.RemoteAddr()),
	})
}

// count counts an approval, and shows what it was for.
func (v *visit) count(id string, by approval.Approver) ending {
	_, unseen := v.server.Approvals.See(id, v.me)
	w, err := v.server.Approvals.Approve(id, by)
	if err != nil {
		return v.refused("approve", id, err)
	}
	if unseen == nil {
		v.print(w.Text())
	}
	return v.show(soFar(w.Approvers(), w.Count))
}

func (v *visit) deny(id string) ending {
	if err := v.server.Approvals.Deny(id, v.me); err != nil {
		return v.refused("deny", id, err)
	}
	return v.show(audit.Printable(id) + " is denied\n")
}

func (v *visit) request(id string) ending {
	w, err := v.server.Approvals.See(id, v.me)
	if err != nil {
		return v.refused("request", id, err)
	}
	return v.show(w.Text())
}

// refused is on the record. Why it was, those are told who may know that there
// is such a request.
func (v *visit) refused(verb, id string, err error) ending {
	if errors.Is(err, audit.ErrUnrecorded) {
		return ending{code: codeUnrecorded, words: "this could not be recorded, so it does not count", err: err}
	}
	why := strings.TrimPrefix(err.Error(), "approval: ")
	v.refuse(fmt.Sprintf("%s %s: %s", verb, brief(id), why))
	_, unseen := v.server.Approvals.See(id, v.me)
	switch {
	case unseen != nil:
		why = nothing
	case errors.Is(err, approval.ErrNothing) && verb == "deny":
		why = "it is your own: end it where it waits"
	case errors.Is(err, approval.ErrNothing):
		why = "whoever signed it may not approve it"
	}
	return visited(1, why)
}

const maxSignature = 64 << 10 // one of RSA-16384 has 4 KiB

// stdin is all that the client sends, if that is not too much and does not take
// too long.
func (v *visit) stdin() ([]byte, error) {
	came := make(chan []byte, 1)
	go func() { // ends at the latest when the channel is closed
		defer v.server.guard("signature")
		text, _ := io.ReadAll(io.LimitReader(v.ch, maxSignature+1))
		came <- text
	}()
	select {
	case text := <-came:
		if len(text) > maxSignature {
			return nil, errors.New("too much for a signature")
		}
		return text, nil
	case <-v.ctx.Done():
		return nil, context.Cause(v.ctx)
	case <-time.After(v.server.Limits.LoginGrace):
		return nil, errors.New("no signature came")
	}
}
