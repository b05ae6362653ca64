package authz_test

import (
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
)

func TestWhoIsLockedApprovesNothingForAsLong(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE], groups: [sre]}
  bob: {keys: [BOB], groups: [lead]}
rules:
  - {name: web, who: [alice], targets: [{name: web}], allow: [shell], terms: {approve: {by: [group:lead]}}}
`)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	lead := authz.Subject{Person: "bob", Groups: []string{"lead"}, Known: true}
	by := *policy.Decide(alice, authz.Request{Target: container("web"), Kind: authz.Shell, Time: now}).Terms.Approve
	locked := policy.With(nil, []authz.Lock{{ID: "1", Person: "bob", Until: now}})
	for _, test := range []struct {
		policy *authz.Policy
		who    authz.Subject
		at     time.Time
		may    bool
	}{
		{policy, lead, now, true},
		{policy, alice, now, false},
		{policy, authz.Subject{}, now, false},
		{locked, lead, now.Add(-1), false},
		{locked, lead, now, true},
		{nil, lead, now, false},
	} {
		if test.policy.MayApprove(test.who, by, test.at) != test.may {
			t.Errorf("%+v", test)
		}
	}
}

func TestOnlyTheRulesForSuchLoginsAskAnything(t *testing.T) {
	const people = "people:\n  alice: {keys: [ALICE]}\nrules:\n"
	const plain = "  - {name: plain, who: [alice], targets: [{name: x}], allow: [shell]}\n"
	const emergency = "  - {name: emergency, who: [alice], targets: [{name: x}], break_glass: true, allow: [shell]}\n"
	const asks = "  - {name: asks, who: [alice], targets: [{name: x}], allow: [shell], terms: {totp: true}}\n"
	for rules, want := range map[string][2]bool{ // of usual logins, and of breakglass+NAME
		plain:             {false, false},
		plain + emergency: {false, true},
		asks:              {true, false},
		asks + emergency:  {true, true},
	} {
		p := load(t, people+rules)
		if got := [2]bool{p.AsksAnything(false), p.AsksAnything(true)}; got != want {
			t.Errorf("%s: %v", rules, got)
		}
	}
	if (*authz.Policy)(nil).AsksAnything(true) {
		t.Error("no policy asks")
	}
}
