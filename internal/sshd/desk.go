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

// desk is where sessions are approved that wait. Whoever is known may come here,
// and sees of what waits only what is theirs to decide.
type desk struct {
	*session
	ctx context.Context
	me  approval.Approver
}

func (s *session) serveDesk(ctx context.Context, ask ask, who authz.Subject) ending {
	if who.Bounds.Command != "" {
		return s.deny(ask, who, nil, authz.Decision{Why: "the key is bound to one command"})
	}
	d := &desk{session: s, ctx: ctx, me: approval.Approver{
		Name: who.Person, Also: who.Principals, Key: s.key, From: s.conn.from,
		How: approval.SignedIn, Via: "signed in from " + s.conn.RemoteAddr().String(),
	}}
	return d.do(strings.Fields(ask.command))
}

func (d *desk) do(words []string) ending {
	verb, id := "", ""
	if len(words) > 0 {
		verb = words[0]
	}
	if len(words) > 1 {
		id = strings.ToUpper(words[1])
	}
	switch {
	case len(words) == 0:
		return d.welcome()
	case len(words) == 1 && verb == "help":
		return d.show(deskHelp)
	case len(words) == 1 && verb == "approve":
		return d.show(d.list())
	case len(words) == 2 && verb == "approve":
		return d.approve(id)
	case len(words) == 3 && verb == "approve" && words[2] == "-":
		return d.carry(id)
	case len(words) == 2 && verb == "deny":
		return d.deny(id)
	case len(words) == 2 && verb == "request":
		return d.request(id)
	}
	return answering(2, "try: ssh cartsshd@HOST help")
}

func (d *desk) welcome() ending { return d.show(d.list() + "\n" + deskHelp) }

func (d *desk) show(text string) ending {
	d.print(text)
	return answering(0, "")
}

func (d *desk) print(text string) {
	if d.pty != nil {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	io.WriteString(d.ch, text)
}

// answering is how a visit to the desk ends.
func answering(code int, words string) ending {
	return ending{status: &nsexec.Status{Code: code}, words: words, reason: "exited"}
}

// nothing is said of what is not there, and of what is not theirs.
const nothing = "nothing waits for you"

func (d *desk) list() string {
	waiting := d.server.Approvals.List(d.me)
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
func (d *desk) approve(id string) ending {
	if w, err := d.server.Approvals.See(id, d.me); err != nil || w.Own(d.me) {
		d.hint(id)
		return d.carry(id)
	}
	return d.count(id, d.me)
}

// hint is for whoever has nothing to send, and would wait for an answer.
func (d *desk) hint(id string) {
	if d.pty == nil {
		fmt.Fprintf(d.ch.Stderr(), "cartsshd: %s is not yours to approve by yourself: reading a signature (^C to leave)\n", audit.Printable(brief(id)))
	}
}

// carry brings what somebody else has signed.
func (d *desk) carry(id string) ending {
	armored, err := d.stdin()
	if err != nil {
		return answering(1, err.Error())
	}
	if len(bytes.TrimSpace(armored)) == 0 {
		return d.refused("approve", id, errors.New("no signature came"))
	}
	key, err := d.server.Approvals.Signed(id, armored)
	if err != nil {
		return d.refused("approve", id, err)
	}
	// Where it was made, nobody knows: a key that is bound to a place is not for this.
	signer, err := d.server.Policy().Identify(authz.Credential{Key: key, Time: time.Now()})
	if err != nil {
		return d.refused("approve", id, err)
	}
	return d.count(id, approval.Approver{
		Name: signer.Person, Also: signer.Principals, Key: key, How: approval.BySignature,
		Via: fmt.Sprintf("%s, brought by %s (%s) from %s", approval.BySignature, d.me.Name, approval.Fingerprint(d.key), d.conn.RemoteAddr()),
	})
}

// count counts an approval, and shows what it was for.
func (d *desk) count(id string, by approval.Approver) ending {
	_, unseen := d.server.Approvals.See(id, d.me)
	w, err := d.server.Approvals.Approve(id, by)
	if err != nil {
		return d.refused("approve", id, err)
	}
	if unseen == nil {
		d.print(w.Text())
	}
	return d.show(soFar(w.Approvers(), w.Count))
}

func (d *desk) deny(id string) ending {
	if err := d.server.Approvals.Deny(id, d.me); err != nil {
		return d.refused("deny", id, err)
	}
	return d.show(audit.Printable(id) + " is denied\n")
}

func (d *desk) request(id string) ending {
	w, err := d.server.Approvals.See(id, d.me)
	if err != nil {
		return d.refused("request", id, err)
	}
	return d.show(w.Text())
}

// refused is on the record. Why it was, those are told who may know that there
// is such a request.
func (d *desk) refused(verb, id string, err error) ending {
	if errors.Is(err, audit.ErrUnrecorded) {
		return ending{code: codeUnrecorded, words: "this could not be recorded, so it does not count", err: err}
	}
	why := strings.TrimPrefix(err.Error(), "approval: ")
	d.refuse(fmt.Sprintf("%s %s: %s", verb, brief(id), why))
	_, unseen := d.server.Approvals.See(id, d.me)
	switch {
	case unseen != nil:
		why = nothing
	case errors.Is(err, approval.ErrNothing) && verb == "deny":
		why = "it is your own: end it where it waits"
	case errors.Is(err, approval.ErrNothing):
		why = "whoever signed it may not approve it"
	}
	return answering(1, why)
}

const maxSignature = 64 << 10 // one of RSA-16384 has 4 KiB

// stdin is all that the client sends, if that is not too much and does not take
// too long.
func (d *desk) stdin() ([]byte, error) {
	came := make(chan []byte, 1)
	go func() { // ends at the latest when the channel is closed
		defer d.server.guard("signature")
		text, _ := io.ReadAll(io.LimitReader(d.ch, maxSignature+1))
		came <- text
	}()
	select {
	case text := <-came:
		if len(text) > maxSignature {
			return nil, errors.New("too much for a signature")
		}
		return text, nil
	case <-d.ctx.Done():
		return nil, context.Cause(d.ctx)
	case <-time.After(d.server.Limits.LoginGrace):
		return nil, errors.New("no signature came")
	}
}
