package sshd

import (
	"os"
	"reflect"
	"testing"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/router"
)

func TestThePolicySeesAllOfATarget(t *testing.T) {
	target := &router.Target{
		Runtime: "cri", ID: "1", Name: "shop/db-0/pg", Image: "pg", Namespace: "shop", Pod: "db-0",
		Labels: map[string]string{"a": "b"}, Host: true, Facts: router.Facts{Privileged: true, HostPID: true, HostNet: true},
	}
	seen(t, Judged(target))
	of := router.Match{Runtime: "cri", Found: router.Found{
		ID: "1", Name: "shop/db-0/pg", Image: "pg", Namespace: "shop", Pod: "db-0", Labels: target.Labels, Host: true,
	}}
	any, err := JudgedUnpinned(of)
	if err != nil || len(any) != 8 {
		t.Fatalf("without a process: %+v, %v", any, err)
	}
	seen(t, any[7])
	of.PID = os.Getpid()
	if one, err := JudgedUnpinned(of); err != nil || len(one) != 1 || !one[0].Facts.HostPID {
		t.Errorf("with one: %+v, %v", one, err)
	}
}

// seen fails if any field is as if there were none.
func seen(t *testing.T, target authz.Target) {
	t.Helper()
	v := reflect.ValueOf(target)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is left out: %+v", v.Type().Field(i).Name, target)
		}
	}
}
