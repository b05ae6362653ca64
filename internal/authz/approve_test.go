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
