package authz_test

import (
	"reflect"
	"slices"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// A key that no table has is one that nobody has proved.
func TestEveryKeyOfTheLanguageIsInATable(t *testing.T) {
	seen, all := map[string]bool{}, map[string]bool{}
	for _, top := range []reflect.Type{reflect.TypeFor[authz.Rules](), reflect.TypeFor[authz.Tests]()} {
		keysOf(top, all)
	}
	for _, c := range cases(t) {
		if len(c.problems) > 0 {
			continue
		}
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(c.policy), &node); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		keysIn(node.Content[0], reflect.TypeFor[document](), seen)
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

func keysIn(n *yaml.Node, t reflect.Type, into map[string]bool) {
	if n.Kind == yaml.SequenceNode {
		for _, element := range n.Content {
			keysIn(element, t, into)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	fields := tagged(plain(t))
	for i := 0; i+1 < len(n.Content); i += 2 {
		j := slices.IndexFunc(fields, func(f reflect.StructField) bool { return f.Tag.Get("yaml") == n.Content[i].Value })
		if j < 0 {
			continue
		}
		into[plain(t).Name()+"."+n.Content[i].Value] = true
		keysIn(n.Content[i+1], fields[j].Type, into)
	}
}
