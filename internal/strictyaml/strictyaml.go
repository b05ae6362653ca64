// Package strictyaml reads YAML that people's access depends on. What it does
// not understand is a problem, never a default; and all problems are told at
// once, each with its place in the file.
//
// It reads less than YAML allows: one document, keys that are text, no
// anchors, aliases, merge keys or tags.
package strictyaml

import (
	"encoding"
	"reflect"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

// MaxSize is the largest file, in bytes, that is looked at. It holds some
// 20,000 rules.
const MaxSize = 4 << 20

// maxElements is how many elements a list may have, or keys a mapping: some
// become much larger than they are in the file.
const maxElements = 100_000

// Unmarshaler is a value that may be written in more than one shape. It tells
// its problems to the Node.
type Unmarshaler interface {
	UnmarshalStrict(n *Node)
}

// At is a value, and where in its file it stands. Its zero value stands
// nowhere: the file does not have it.
type At[T any] struct {
	Pos
	Value T
}

// UnmarshalStrict implements [Unmarshaler].
func (a *At[T]) UnmarshalStrict(n *Node) {
	a.Pos = n.Pos()
	n.Decode(&a.Value)
}

// Decode reads the one document in data into the struct that into points to;
// name is the file's, for the problems. Fields that the document does not
// mention keep their value. The error is of type [Problems].
//
// Fields are named by their yaml tag, and may be structs, pointers, slices,
// maps keyed by text, string, bool, integers, [time.Duration] ("30s"),
// [encoding.TextUnmarshaler] and [Unmarshaler]. A duration is above zero, a
// string is not empty.
func Decode(name string, data []byte, into any) error {
	d := &decoder{file: name, again: map[*yaml.Node]bool{}, fields: map[reflect.Type]fields{}}
	root := d.parse(data)
	if root == nil || !d.acceptable(root) {
		return d.problems.Err()
	}
	d.value(root, reflect.ValueOf(into).Elem())
	return d.problems.Err()
}

// Node is one value of a document, given to an [Unmarshaler].
type Node struct {
	d    *decoder
	node *yaml.Node
}

// Pos tells where the value begins.
func (n *Node) Pos() Pos { return n.d.pos(n.node) }

// Text returns the value as it was written, if it is neither list nor mapping.
func (n *Node) Text() (string, bool) {
	return n.node.Value, n.node.Kind == yaml.ScalarNode
}

// IsList tells whether the value is a list.
func (n *Node) IsList() bool { return n.node.Kind == yaml.SequenceNode }

// Lacks tells whether the value is a mapping without this key.
func (n *Node) Lacks(key string) bool {
	if n.node.Kind != yaml.MappingNode {
		return false
	}
	for k := range pairs(n.node) {
		if k.Value == key {
			return false
		}
	}
	return true
}

// Len tells how many elements or keys the value has.
func (n *Node) Len() int {
	if n.node.Kind == yaml.MappingNode {
		return len(n.node.Content) / 2
	}
	return len(n.node.Content)
}

// Decode reads the value into what into points to, by the rules of the
// package's Decode.
func (n *Node) Decode(into any) { n.d.value(n.node, reflect.ValueOf(into).Elem()) }

// Problemf tells a problem with the value.
func (n *Node) Problemf(format string, args ...any) { n.d.problemf(n.node, format, args...) }

type decoder struct {
	file     string
	problems Problems
	large    bool                // more than anybody has written by hand
	again    map[*yaml.Node]bool // keys that their mapping has already
	fields   map[reflect.Type]fields
}

func (d *decoder) pos(n *yaml.Node) Pos { return Pos{d.file, n.Line, n.Column} }

func (d *decoder) problemf(n *yaml.Node, format string, args ...any) {
	if !d.enough() {
		d.problems = append(d.problems, d.pos(n).Problemf(format, args...))
	}
}

// enough problems are known: what follows is not looked at.
func (d *decoder) enough() bool { return len(d.problems) >= Enough }

// acceptable tells whether it is worth the while to look at what a document says.
func (d *decoder) acceptable(root *yaml.Node) bool {
	d.refuse(root)
	return !d.enough() && !d.large
}

// refuse walks the whole tree, also where nobody will read it, for what has no
// business anywhere in it.
func (d *decoder) refuse(n *yaml.Node) {
	if d.enough() {
		return
	}
	if len(n.Content) > 2*maxElements || n.Kind == yaml.SequenceNode && len(n.Content) > maxElements {
		d.large = true
		d.problemf(n, "has more than %d elements", maxElements)
		return
	}
	if n.Kind == yaml.AliasNode {
		d.problemf(n, "*%s is an alias, and those are not read: quote globs, as in %q", clip(n.Value), "*"+clip(n.Value))
		return
	}
	if n.Anchor != "" {
		d.problemf(n, "&%s is an anchor, and those are not read: quote it if it is text", clip(n.Anchor))
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.problemf(n, "%s is a tag, and those are not read: quote it if it is text", clip(n.Tag))
	}
	if n.Kind == yaml.MappingNode {
		d.refuseKeys(n)
	}
	for _, child := range n.Content {
		d.refuse(child)
	}
}

func (d *decoder) refuseKeys(mapping *yaml.Node) {
	first := make(map[string]int, len(mapping.Content)/2)
	for key := range pairs(mapping) {
		if !isKey(key) {
			d.refuseKey(key)
			continue
		}
		if line, ok := first[key.Value]; ok {
			d.problemf(key, "key %q again (first in line %d)", clip(key.Value), line)
			d.again[key] = true
			continue
		}
		first[key.Value] = key.Line
	}
}

func (d *decoder) refuseKey(key *yaml.Node) {
	switch {
	case key.Kind == yaml.AliasNode: // told by refuse
	case key.Tag == "!!merge":
		d.problemf(key, "<< merges aliases, and those are not read")
	case key.Kind == yaml.ScalarNode:
		d.problemf(key, "a key wants text, is %s: quote it", is(key))
	default:
		d.problemf(key, "a key wants text, is %s", is(key))
	}
}

func isKey(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!str" }

// pairs yields the keys and values of a mapping.
func pairs(mapping *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if !yield(mapping.Content[i], mapping.Content[i+1]) {
				return
			}
		}
	}
}

func (d *decoder) value(n *yaml.Node, v reflect.Value) {
	if d.enough() {
		return
	}
	if n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0 {
		return // told by refuse
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem())
		return
	}
	if u, ok := v.Addr().Interface().(Unmarshaler); ok {
		u.UnmarshalStrict(&Node{d, n})
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		d.problemf(n, "is empty: %s", instead(v.Type()))
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, v, u)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v)
	case reflect.Map:
		d.mapping(n, v)
	case reflect.Slice:
		d.list(n, v)
	default:
		d.scalar(n, v)
	}
}

func (d *decoder) text(n *yaml.Node, v reflect.Value, u encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode {
		d.mistyped(n, v)
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		d.problemf(n, "%v", err)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.mistyped(n, v)
		return
	}
	fields := d.fieldsOf(v.Type())
	for key, value := range pairs(n) {
		if !isKey(key) || d.again[key] {
			continue // told by refuse
		}
		i, ok := fields.index[key.Value]
		if !ok {
			d.problemf(key, "unknown key %q (%s)", clip(key.Value), Suggest(key.Value, fields.names))
			continue
		}
		d.value(value, v.Field(i))
	}
}

// fields of a struct are those that a file may name.
type fields struct {
	names []string
	index map[string]int
}

func (d *decoder) fieldsOf(t reflect.Type) fields {
	f, ok := d.fields[t]
	if ok {
		return f
	}
	f.index = map[string]int{}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		f.names = append(f.names, name)
		f.index[name] = i
	}
	d.fields[t] = f
	return f
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.mistyped(n, v)
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for key, value := range pairs(n) {
		if !isKey(key) {
			continue // told by refuse
		}
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		d.value(key, k)
		d.value(value, e)
		if !d.again[key] { // told by refuse
			m.SetMapIndex(k, e)
		}
	}
	v.Set(m)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.mistyped(n, v)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, element := range n.Content {
		d.value(element, list.Index(i))
	}
	v.Set(list)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(n, v)
		return
	}
	switch {
	case v.Kind() == reflect.String && n.Tag == "!!str":
		d.str(n, v)
	case v.Kind() == reflect.Bool && n.Tag == "!!bool":
		v.SetBool(n.Value == "true" || n.Value == "True" || n.Value == "TRUE")
	case v.CanInt() && n.Tag == "!!int":
		d.integer(n, v)
	default:
		d.mistyped(n, v)
	}
}

func (d *decoder) str(n *yaml.Node, v reflect.Value) {
	if n.Value == "" {
		d.problemf(n, "is empty: %s", instead(v.Type()))
		return
	}
	v.SetString(n.Value)
}

// integer takes decimals only: YAML's own 010 is eight.
func (d *decoder) integer(n *yaml.Node, v reflect.Value) {
	i, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
	if err != nil || strconv.FormatInt(i, 10) != n.Value {
		d.problemf(n, "wants a plain decimal number")
		return
	}
	v.SetInt(i)
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.mistyped(n, v)
		return
	}
	t, err := time.ParseDuration(n.Value)
	if err != nil || t <= 0 {
		d.problemf(n, "wants a duration above zero, such as 30s, 10m or 1h30m")
		return
	}
	v.SetInt(int64(t))
}

func (d *decoder) mistyped(n *yaml.Node, v reflect.Value) {
	d.problemf(n, "wants %s, is %s%s", wants(v.Type()), is(n), hint(n, v))
}

// wants names a type in the words of the file's author.
func wants(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration, such as 30s"
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) && t.Kind() == reflect.Struct:
		return "text"
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "keys and values"
	case reflect.Slice:
		return "a list"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	}
	return "a number"
}

func is(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	case "!!null":
		return "empty"
	}
	return "text"
}

func hint(n *yaml.Node, v reflect.Value) string {
	switch {
	case n.Kind == yaml.ScalarNode && v.Kind() == reflect.String:
		return ": quote it"
	case n.Kind != yaml.SequenceNode && v.Kind() == reflect.Slice:
		return ": put it in [ ]"
	}
	return ""
}

func instead(t reflect.Type) string {
	switch wants(t) {
	case "keys and values":
		return "write {} if that is meant"
	case "a list":
		return "write [] if that is meant"
	}
	return "give it a value or take it out"
}
