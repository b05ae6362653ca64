package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write docs/config.schema.json anew")

func schema(t *testing.T) map[string]any {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSchemaInTheDocsIsThatOfTheCode(t *testing.T) {
	const path = "../../docs/config.schema.json"
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if inDocs, err := os.ReadFile(path); err != nil || string(inDocs) != string(text) {
		t.Errorf("%s is another (%v): go test ./internal/config -run Schema -update", path, err)
	}
}

func TestTheSampleIsAsTheSchemaSays(t *testing.T) {
	for _, text := range []string{sample(t), uncommented(t), nobody} {
		for _, problem := range faults(t, text) {
			t.Error(problem)
		}
	}
}

// What editors are told is wrong, is; and so is what we refuse.
func TestTheSchemaFindsWhatIsWrongInAFile(t *testing.T) {
	for text, want := range map[string]string{
		"lisen: x":                                        `unknown key "lisen"`,
		"limits: {connections: many}":                     "limits.connections: wants integer",
		"limits: {conections: 1}":                         `limits: unknown key "conections"`,
		"limits: []":                                      "limits: wants object",
		"image: /tools.img":                               "image: is none of its shapes",
		"image: [{path: /a, sha: x}]":                     "image: is none of its shapes",
		"runtimes: {pid: {x: 1}}":                         `runtimes.pid: unknown key "x"`,
		"runtimes: {runc: {roots: /run}}":                 "runtimes.runc.roots: wants array",
		"host_key: ''":                                    "host_key: is empty",
		"rules: [{name: r, allow: [shall]}]":              "rules.0.allow.0: is none of its shapes",
		"rules: [{name: r, allow: [exec]}]":               "rules.0.allow.0: is none of its shapes",
		"rules: [{name: r, allow: [exec: ps]}]":           "rules.0.allow.0: is none of its shapes",
		"rules: [{name: r, allow: shell}]":                "rules.0.allow: wants array",
		"rules: [{name: r, wo: [x]}]":                     `rules.0: unknown key "wo"`,
		"rules: [{name: r, targets: [{nam: x}]}]":         `rules.0.targets.0: unknown key "nam"`,
		"rules: [{name: r, targets: [{labels: [x]}]}]":    "rules.0.targets.0.labels: wants object",
		"rules: [{name: r, break_glass: 'yes'}]":          "rules.0.break_glass: wants boolean",
		"rules: [{name: r, when: {days: 7}}]":             "rules.0.when.days: is none of its shapes",
		"rules: [{name: r, terms: {max: 10}}]":            "rules.0.terms.max: wants string",
		"rules: [{name: r, terms: {memory: [1]}}]":        "rules.0.terms.memory: is none of its shapes",
		"people: {alice: {keys: ssh-ed25519 AAAA}}":       "people.alice.keys: wants array",
		"people: {alice: {kyes: []}}":                     `people.alice: unknown key "kyes"`,
		"tests: [{who: alice, target: web-1}]":            "tests.0.target: wants object",
		"tests: [{who: alice, target: {}, allow: maybe}]": "tests.0.allow: wants boolean",
	} {
		if got := faults(t, text); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if c, err := load(t, text+"\n"); err == nil {
			t.Errorf("%s: but it loads: %+v", text, c)
		}
	}
}

// What a type wants of text, it says to editors too.
func TestTheSchemaSaysWhatTextIsWanted(t *testing.T) {
	text, _ := Schema()
	for _, want := range []string{`wants host:port`, `a public key`, `a duration: 30s, 10m, 1h30m`, `wants hours of a day`, `wants HOST:PORT`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in it", want)
		}
	}
}

// faults are what is wrong with a file by the schema.
func faults(t *testing.T, text string) []string {
	t.Helper()
	var document any
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	c := checker{t: t}
	c.check("", schema(t), document)
	return c.faults
}

// checker knows those words of JSON Schema that ours has, and no others.
type checker struct {
	t      *testing.T
	faults []string
}

func (c *checker) faultf(at, format string, args ...any) {
	c.faults = append(c.faults, strings.TrimPrefix(at+": ", ": ")+fmt.Sprintf(format, args...))
}

func (c *checker) check(at string, schema map[string]any, value any) {
	for word := range schema {
		if !slices.Contains([]string{"$schema", "title", "description", "type", "properties", "additionalProperties", "items", "minLength", "oneOf", "enum"}, word) {
			c.t.Errorf("this test does not know %q", word)
		}
	}
	if kind, ok := schema["type"].(string); ok && kind != kindOf(value) {
		c.faultf(at, "wants %s", kind)
		return
	}
	if shapes, ok := schema["oneOf"].([]any); ok && !c.isOne(at, shapes, value) {
		c.faultf(at, "is none of its shapes")
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.ContainsFunc(enum, func(word any) bool { return reflect.DeepEqual(word, value) }) {
		c.faultf(at, "is none of the words")
	}
	switch v := value.(type) {
	case string:
		if schema["minLength"] != nil && v == "" {
			c.faultf(at, "is empty")
		}
	case []any:
		for i, element := range v {
			c.inner(at, fmt.Sprint(i), schema["items"], element)
		}
	case map[string]any:
		c.object(at, schema, v)
	}
}

func (c *checker) object(at string, schema map[string]any, value map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for key, element := range value {
		if property, ok := properties[key]; ok {
			c.inner(at, key, property, element)
			continue
		}
		if schema["additionalProperties"] == false {
			c.faultf(at, "unknown key %q", key)
			continue
		}
		c.inner(at, key, schema["additionalProperties"], element)
	}
}

func (c *checker) inner(at, name string, schema, value any) {
	if s, ok := schema.(map[string]any); ok {
		c.check(strings.TrimPrefix(at+"."+name, "."), s, value)
	}
}

func (c *checker) isOne(at string, shapes []any, value any) bool {
	fits := 0
	for _, shape := range shapes {
		one := checker{t: c.t}
		if one.check(at, shape.(map[string]any), value); len(one.faults) == 0 {
			fits++
		}
	}
	return fits == 1
}

func kindOf(value any) string {
	switch value.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case bool:
		return "boolean"
	case int:
		return "integer"
	case nil:
		return "null"
	}
	return "string" // and times, which no other schema knows
}
