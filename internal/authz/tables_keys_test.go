package authz_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// A key that no table has is one that nobody has proved.
func TestEveryKeyOfTheLanguageIsInATable(t *testing.T) {
	seen, all := map[string]bool{}, keysOfTheLanguage()
	for _, c := range cases(t) {
		if len(c.problems) > 0 {
			continue
		}
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(c.policy), &node); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		mappings(node.Content[0], reflect.TypeFor[document](), func(_, _ *yaml.Node, name string) { seen[name] = true })
	}
	for key := range all {
		if !seen[key] {
			t.Errorf("no table has %s", key)
		}
	}
	if len(all) < 60 {
		t.Errorf("only %d keys were looked for", len(all))
	}
}

func keysOfTheLanguage() map[string]bool {
	all := map[string]bool{}
	keysOf(reflect.TypeFor[authz.Rules](), all)
	keysOf(reflect.TypeFor[authz.Tests](), all)
	return all
}

// plain is what a type is about: the element of a list, what an At holds.
func plain(t reflect.Type) reflect.Type {
	for {
		var value reflect.StructField
		isAt := false
		if t.Kind() == reflect.Struct {
			value, isAt = t.FieldByName("Value")
		}
		switch {
		case isAt && t.NumField() == 2:
			t = value.Type
		case t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
			t = t.Elem()
		default:
			return t
		}
	}
}

func tagged(t reflect.Type) (fields []reflect.StructField) {
	if t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range reflect.VisibleFields(t) {
		if tag := f.Tag.Get("yaml"); tag != "" && tag != "-" {
			fields = append(fields, f)
		}
	}
	return fields
}

func keysOf(t reflect.Type, into map[string]bool) {
	t = plain(t)
	for _, f := range tagged(t) {
		into[t.Name()+"."+f.Tag.Get("yaml")] = true
		keysOf(f.Type, into)
	}
}

// Each key of the language, written twice or with a letter too many, is told at
// its place, wherever in the tables it stands first.
func TestNoKeyIsReadTwiceOrMisspelt(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range cases(t) {
		if len(c.problems) > 0 || len(c.answers) == 0 {
			continue
		}
		text := fill(c.policy)
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(text), &node); err != nil {
			t.Fatal(err)
		}
		mappings(node.Content[0], reflect.TypeFor[document](), func(key *yaml.Node, of *yaml.Node, name string) {
			flow := of.Style&yaml.FlowStyle != 0
			if tried[name] || flow && of.Column == key.Column { // [key: x], which has no braces
				return
			}
			tried[name] = true
			misspell(t, name, text, key)
			double(t, name, text, key, flow)
		})
	}
	for key := range keysOfTheLanguage() {
		if !tried[key] {
			t.Errorf("%s was not tried", key)
		}
	}
}

// mappings shows each key of a struct in a document, with its mapping.
func mappings(n *yaml.Node, t reflect.Type, show func(key, of *yaml.Node, name string)) {
	if n.Kind == yaml.SequenceNode {
		for _, element := range n.Content {
			mappings(element, t, show)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	fields := tagged(plain(t))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		j := slices.IndexFunc(fields, func(f reflect.StructField) bool { return f.Tag.Get("yaml") == key.Value })
		if j >= 0 {
			show(key, n, plain(t).Name()+"."+key.Value)
			mappings(n.Content[i+1], fields[j].Type, show)
		}
	}
}

func misspell(t *testing.T, name, text string, key *yaml.Node) {
	t.Helper()
	wrong := insert(text, key, key.Value[:1]) // wwho
	want := fmt.Sprintf("p:%d:%d: unknown key %q (", key.Line, key.Column, key.Value[:1]+key.Value)
	if p, err := readTable(wrong); p != nil || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%s misspelt: got %v, want %s", name, err, want)
	}
}

func double(t *testing.T, name, text string, key *yaml.Node, flow bool) {
	t.Helper()
	twice := key.Value + ": x, "
	line, column := key.Line, key.Column+len(twice)
	if !flow {
		twice = key.Value + ": x\n" + strings.Repeat(" ", key.Column-1)
		line, column = key.Line+1, key.Column
	}
	want := fmt.Sprintf("p:%d:%d: key %q again (first in line %d)", line, column, key.Value, key.Line)
	if p, err := readTable(insert(text, key, twice)); p != nil || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%s twice: got %v, want %s", name, err, want)
	}
}

// insert puts something before a key.
func insert(text string, key *yaml.Node, what string) string {
	lines := strings.SplitAfter(text, "\n")
	l := lines[key.Line-1]
	lines[key.Line-1] = l[:key.Column-1] + what + l[key.Column-1:]
	return strings.Join(lines, "")
}
