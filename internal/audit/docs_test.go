package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// documented are the first cells of the table under a heading of docs/audit.md.
func documented(t *testing.T, heading string) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/audit.md")
	must(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
		names = append(names, m[1])
	}
	return names
}

func TestEveryEventIsDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "record.go", nil, 0)
	must(t, err)
	var declared []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type != nil {
			return true
		}
		for _, v := range spec.Values {
			lit, ok := v.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				continue
			}
			name, err := strconv.Unquote(lit.Value)
			must(t, err)
			declared = append(declared, name)
		}
		return true
	})
	if got := documented(t, "Events"); !slices.Equal(got, declared) {
		t.Errorf("documented %q\ndeclared   %q", got, declared)
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	declared := fields(reflect.TypeFor[Record](), "")
	if got := documented(t, "Fields"); !slices.Equal(got, declared) {
		t.Errorf("documented %q\ndeclared   %q", got, declared)
	}
}

func fields(typ reflect.Type, prefix string) (names []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner != reflect.TypeFor[time.Time]() {
			names = append(names, fields(inner, prefix+name+".")...)
			continue
		}
		names = append(names, prefix+name)
	}
	return names
}
