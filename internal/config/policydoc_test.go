package config

import (
	"os"
	"strings"
	"testing"
)

// The first example of docs/policy.md is what people copy.
func TestTheExampleInTheDocsLoads(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	for line := range strings.Lines(string(text)) {
		indented := strings.HasPrefix(line, "    ")
		if !indented && example.Len() > 0 {
			break
		}
		if indented {
			example.WriteString(line[4:])
		}
	}
	c, err := parse("docs/policy.md", "/etc/cartsshd", []byte(example.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, example.String())
	}
	if len(c.Rules) != 3 || len(c.Tests) != 2 {
		t.Errorf("%d rules, %d tests", len(c.Rules), len(c.Tests))
	}
}
