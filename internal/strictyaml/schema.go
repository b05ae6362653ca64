package strictyaml

import (
	"encoding"
	"reflect"
	"time"
)

// Shaped is a value that may be written in one of several shapes: a value of
// each, of which the type alone matters, or Words.
type Shaped interface{ Shapes() []any }

// Words are the shape of what is one of some words.
type Words []string

// Schema describes what Decode reads into a value, as JSON Schema does
// (draft 7, json-schema.org). It is less strict than Decode: what it refuses,
// Decode does as well, but for text that is quoted nowhere and looks like
// a number.
func Schema(of any) map[string]any { return schemaOf(reflect.TypeOf(of)) }

func schemaOf(t reflect.Type) map[string]any {
	zero := reflect.New(t).Elem().Interface()
	switch v := zero.(type) {
	case located:
		return schemaOf(v.inner())
	case Shaped:
		return oneOf(v.Shapes())
	case time.Duration:
		return described("string", "a duration: 30s, 10m, 1h30m")
	}
	if u, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok {
		return textSchema(t, u)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		return structSchema(t)
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string", "minLength": 1}
	}
	return map[string]any{"type": scalarType(t)}
}

// located is an At of any type.
type located interface{ inner() reflect.Type }

func (At[T]) inner() reflect.Type { return reflect.TypeFor[T]() }

func oneOf(shapes []any) map[string]any {
	var all []any
	for _, shape := range shapes {
		if words, ok := shape.(Words); ok {
			all = append(all, map[string]any{"enum": words})
			continue
		}
		all = append(all, Schema(shape))
	}
	return map[string]any{"oneOf": all}
}

// textSchema has for a description what the value says when it is given nothing:
// that is what it wants.
func textSchema(t reflect.Type, u encoding.TextUnmarshaler) map[string]any {
	if err := u.UnmarshalText(nil); err != nil {
		return described(scalarType(t), err.Error())
	}
	return map[string]any{"type": scalarType(t)}
}

func described(kind, description string) map[string]any {
	return map[string]any{"type": kind, "description": description}
}

func scalarType(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Bool:
		return "boolean"
	case reflect.New(t).Elem().CanInt():
		return "integer"
	}
	return "string"
}

func structSchema(t reflect.Type) map[string]any {
	properties := map[string]any{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			properties[name] = schemaOf(t.Field(i).Type)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}
