package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Report is the whole of bench.json.
type Report struct {
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Quick   bool      `json:"quick"`
	Machine Machine   `json:"machine"`
	Rows    []Row     `json:"rows"`
	Failed  []Failure `json:"failed,omitempty"`
}

// Machine is what the figures hold for.
type Machine struct {
	Kernel  string `json:"kernel"`
	CPUs    int    `json:"cpus"`
	Go      string `json:"go"`
	OpenSSH string `json:"openssh"`
}

// Row is one line of the table.
type Row struct {
	Measure string   `json:"measure"`
	Against string   `json:"against,omitempty"` // empty: an absolute figure of ours
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"`
	Theirs  *float64 `json:"theirs,omitempty"`
	Ratio   *float64 `json:"ratio,omitempty"`   // ours / theirs
	Goal    string   `json:"goal,omitempty"`    // empty: for information
	Verdict string   `json:"verdict,omitempty"` // "ok" or "SHORT"
	Samples int      `json:"samples"`
	Note    string   `json:"note,omitempty"`
}

// Failure is a measure that could not be taken.
type Failure struct {
	Measure string `json:"measure"`
	Error   string `json:"error"`
}

// goal is what a row must reach: a limit for its ratio, or for ours alone.
type goal struct {
	limit    float64
	atLeast  bool
	absolute bool
}

func ratioAtMost(limit float64) *goal  { return &goal{limit: limit} }
func ratioAtLeast(limit float64) *goal { return &goal{limit: limit, atLeast: true} }
func oursAtMost(limit float64) *goal   { return &goal{limit: limit, absolute: true} }

func (g *goal) String() string {
	sign := "≤"
	if g.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g", sign, g.limit)
}

func (g *goal) met(r Row) bool {
	value := r.Ours
	if !g.absolute {
		value = *r.Ratio
	}
	if g.atLeast {
		return value >= g.limit
	}
	return value <= g.limit
}

// compare adds a row of two figures. A nil goal is for information.
func (r *Report) compare(row Row, ours, theirs float64, g *goal) {
	ratio := ours / theirs
	row.Ours, row.Theirs, row.Ratio = ours, &theirs, &ratio
	r.judge(row, g)
}

// absolute adds a row of one figure.
func (r *Report) absolute(row Row, ours float64, g *goal) {
	row.Ours = ours
	r.judge(row, g)
}

func (r *Report) judge(row Row, g *goal) {
	if g != nil {
		row.Goal, row.Verdict = g.String(), "SHORT"
		if g.met(row) {
			row.Verdict = "ok"
		}
	}
	r.Rows = append(r.Rows, row)
}

func (r *Report) fail(measure string, err error) {
	r.Failed = append(r.Failed, Failure{measure, err.Error()})
}

// finish prints the table and writes the file. A row that falls short is a
// finding; a measure that failed is an error.
func (r *Report) finish(w io.Writer, file string) error {
	r.Seconds = time.Since(r.Began).Seconds()
	if err := r.print(w); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if len(r.Failed) > 0 {
		return fmt.Errorf("bench: %d measures failed", len(r.Failed))
	}
	return nil
}

func (r *Report) print(w io.Writer) error {
	fmt.Fprintf(w, "Linux %s, %d CPUs, %s, %s\n\n", r.Machine.Kernel, r.Machine.CPUs, r.Machine.Go, r.Machine.OpenSSH)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "measure\tagainst\tours\ttheirs\tratio\tgoal\t")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Measure, row.Against,
			figure(&row.Ours, row.Unit), figure(row.Theirs, row.Unit), figure(row.Ratio, ""), row.Goal, row.Verdict)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(t, "%s\t\t\t\t\t\tFAILED: %s\n", f.Measure, f.Error)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return r.printNotes(w)
}

func (r *Report) printNotes(w io.Writer) error {
	fmt.Fprintln(w)
	said := map[string]bool{}
	for _, row := range r.Rows {
		if row.Note == "" || said[row.Note] {
			continue
		}
		said[row.Note] = true
		fmt.Fprintf(w, "%s: %s\n", row.Measure, row.Note)
	}
	_, err := fmt.Fprintf(w, "\n%.0f s\n", r.Seconds)
	return err
}

// figure prints a number with three significant digits.
func figure(v *float64, unit string) string {
	if v == nil {
		return ""
	}
	digits := 0
	for limit := 100.0; digits < 3 && *v < limit; limit /= 10 {
		digits++
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits, *v, unit))
}

func thisMachine() Machine {
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail with a valid pointer
	ssh, _ := exec.Command("ssh", "-V").CombinedOutput()
	software, _, _ := strings.Cut(string(ssh), ",")
	return Machine{
		Kernel:  unix.ByteSliceToString(u.Release[:]),
		CPUs:    runtime.NumCPU(),
		Go:      runtime.Version(),
		OpenSSH: strings.TrimSpace(software),
	}
}
