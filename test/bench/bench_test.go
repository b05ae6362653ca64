package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

func TestTheMedianIsOneOfTheSamples(t *testing.T) {
	for _, test := range []struct {
		s    samples
		q    float64
		want float64
	}{
		{samples{7}, 0.5, 7},
		{samples{9, 1, 5}, 0.5, 5},
		{samples{3, 1, 2, 4}, 0.99, 4},
		{samples{3, 1, 2, 4}, 0, 1},
	} {
		if got := test.s.quantile(test.q); got != test.want {
			t.Errorf("quantile %v of %v: %v, want %v", test.q, test.s, got, test.want)
		}
	}
}

func TestSubjectsTakeTurnsAndTheFirstRoundIsNotKept(t *testing.T) {
	const rounds = 20
	var order []float64
	subject := func(v float64) subject {
		return func() (float64, error) { order = append(order, v); return v, nil }
	}
	kept, err := interleave(rounds, subject(0), subject(1), subject(2))
	if err != nil {
		t.Fatal(err)
	}
	after := map[[2]float64]int{} // how often one came right after another
	for round := range slices.Chunk(order, 3) {
		if want := []float64{0, 1, 2}; !slices.Equal(slices.Sorted(slices.Values(round)), want) {
			t.Errorf("a round of %v", round)
		}
		after[[2]float64{round[0], round[1]}]++
		after[[2]float64{round[1], round[2]}]++
	}
	if len(order) != 3*(rounds+1) || len(after) != 6 {
		t.Errorf("%d turns, in the orders %v", len(order), after)
	}
	for i, s := range kept {
		if !slices.Equal(s, slices.Repeat(samples{float64(i)}, rounds)) {
			t.Errorf("kept %v of subject %d", s, i)
		}
	}
}

func TestARowIsJudgedByItsGoal(t *testing.T) {
	var r Report
	r.compare(Row{Measure: "a"}, 10, 100, ratioAtMost(0.1))
	r.compare(Row{Measure: "b"}, 11, 100, ratioAtMost(0.1))
	r.compare(Row{Measure: "c"}, 300, 100, ratioAtLeast(3))
	r.compare(Row{Measure: "d"}, 299, 100, ratioAtLeast(3))
	r.compare(Row{Measure: "e"}, 1, 1, nil)
	r.absolute(Row{Measure: "f"}, 0, oursAtMost(0))
	r.absolute(Row{Measure: "g"}, 1, oursAtMost(0))
	var got []string
	for _, row := range r.Rows {
		got = append(got, row.Verdict)
	}
	if want := []string{"ok", "SHORT", "ok", "SHORT", "", "ok", "SHORT"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheFileSaysWhatTheTableSays(t *testing.T) {
	r := Report{Machine: thisMachine()}
	r.compare(Row{Measure: "connect", Against: "sshd", Unit: "ms"}, 12, 240, ratioAtMost(0.12))
	r.fail("bulk", os.ErrDeadlineExceeded)
	file := filepath.Join(t.TempDir(), "bench.json")
	var table bytes.Buffer
	if err := r.finish(&table, file); err == nil {
		t.Error("a failed measure is no error")
	}
	for _, want := range []string{"12.0 ms", "240 ms", "0.050", "≤ 0.12", "ok", "FAILED"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, &table)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var read Report
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if len(read.Rows) != 1 || *read.Rows[0].Ratio != 0.05 || len(read.Failed) != 1 {
		t.Errorf("read back %+v", read)
	}
}

func TestNoProcessIsInsideOfWhatIsNoContainer(t *testing.T) {
	if got := inside(os.Getpid()); got != nil {
		t.Errorf("the host's processes %v are called a container's", got)
	}
	if got := inside(1 << 30); got != nil {
		t.Errorf("processes %v are called those of a container that is gone", got)
	}
}

// It needs no container: what is measured is what was asked for, or it fails.
func TestThePolicyIsMeasured(t *testing.T) {
	need.Root(t)
	need.Tool(t, "sshd", "openssh-server")
	b := &bench{options: options{quick: true}, dir: t.TempDir()}
	if err := measurePolicy(b); err != nil {
		t.Fatal(err)
	}
	for _, row := range b.report.Rows {
		if row.Ours <= 0 || row.Theirs != nil && *row.Theirs <= 0 {
			t.Errorf("%+v", row)
		}
	}
	if err := b.report.print(t.Output()); err != nil || len(b.report.Rows) != 8 {
		t.Errorf("%d rows, %v", len(b.report.Rows), err)
	}
}

func TestACgroupIsRemovedWithThoseBelowIt(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	if err := os.MkdirAll(filepath.Join(top, "session", "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(top); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(top); !os.IsNotExist(err) {
		t.Errorf("%s is still there", top)
	}
}
