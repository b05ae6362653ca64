package sshd

import (
	"strings"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// transferOff tells those who may do something in a container that files are
// another thing: their clients say no more than that the connection was closed.
// It is empty if no files were asked for, and for all who may do nothing there.
func transferOff(policy *authz.Policy, who authz.Subject, asked authz.Request) string {
	kind, way := asked.Kind, authz.Direction(asked.Object)
	if asked.Kind == authz.Exec {
		kind, way, _ = authz.TransferOf(asked.Command)
	}
	if kind != authz.SFTP && kind != authz.SCP && kind != authz.Rsync || !mayAnything(policy, who, asked) {
		return ""
	}
	return "file transfer is off: no rule names " + strings.TrimSpace(string(kind)+" "+string(way))
}

func mayAnything(policy *authz.Policy, who authz.Subject, asked authz.Request) bool {
	if _, ok := policy.Asks(who, asked); ok {
		return true
	}
	asked.Kind, asked.Command, asked.Object = authz.Shell, "", ""
	return policy.Decide(who, asked).Allow
}

// unserved is for what the policy allows and nothing serves.
func (s *session) unserved(ask ask) ending {
	s.refuse("subsystem " + string(ask.kind))
	return failed("sftp is not served by this version, whatever the policy says of it: try scp -O", "not served")
}
