package image

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// matrix is what docs/image.md shows: a table of what worked where.
type matrix struct {
	probes []probe
	cells  map[string]string // "root\x00row"
}

func newMatrix(p []probe) *matrix { return &matrix{probes: p, cells: map[string]string{}} }

func (m *matrix) worked(root string, p probe, ok bool) {
	m.cells[root+"\x00"+p.tool] = map[bool]string{true: "yes", false: "no"}[ok]
}

func (m *matrix) started(root string, bad map[string]string) {
	l, _ := parseList(strings.Split(defaultList, "\n"), "std")
	for _, p := range l {
		n := 0
		for _, c := range p.commands {
			if _, failed := bad[c.name]; !failed {
				n++
			}
		}
		if n > 0 {
			m.cells[root+"\x00package "+p.name] = fmt.Sprint(n)
		}
	}
}

func (m *matrix) String() string {
	var out strings.Builder
	head := func(what string) {
		out.WriteString("| " + what)
		for _, r := range roots {
			out.WriteString(" | " + r.name)
		}
		out.WriteString(" |\n|---" + strings.Repeat("|---", len(roots)) + "|\n")
	}
	row := func(name, what string) {
		out.WriteString("| " + what)
		for _, r := range roots {
			out.WriteString(" | " + m.cells[r.name+"\x00"+name])
		}
		out.WriteString(" |\n")
	}
	head("does its work")
	for _, p := range m.probes {
		what := p.tool
		if p.caps {
			what += " ¹"
		}
		row(p.tool, what)
	}
	out.WriteString("\n")
	head("commands that start, by package")
	l, _ := parseList(strings.Split(defaultList, "\n"), "std")
	for _, p := range l {
		if len(p.commands) > 0 {
			row("package "+p.name, p.name)
		}
	}
	return out.String()
}

// compare wants the documentation to say just this.
func (m *matrix) compare(t *testing.T) {
	t.Helper()
	t.Logf("\n%s", m)
	const file, begin, end = "../docs/image.md", "<!-- matrix -->\n", "<!-- /matrix -->\n"
	text, err := os.ReadFile(file)
	must(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	shown, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: has no place for the matrix", file)
	}
	if shown == m.String() {
		return
	}
	if !*update {
		t.Errorf("%s does not show this matrix (try: go test ./image -run EveryTool -update)", file)
		return
	}
	must(t, os.WriteFile(file, []byte(head+begin+m.String()+end+tail), 0o644))
}

func TestTheDocumentationCountsTheCommands(t *testing.T) {
	text, err := os.ReadFile("../docs/image.md")
	must(t, err)
	for _, profile := range Profiles {
		b, err := newBuild(Options{Output: "x", Profile: profile, Arch: "amd64"})
		must(t, err)
		if row := fmt.Sprintf("| `%s` | %d |", profile, len(b.list.commands())); !strings.Contains(string(text), row) {
			t.Errorf("docs/image.md has no %q", row)
		}
	}
}
