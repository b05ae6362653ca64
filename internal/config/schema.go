package config

import (
	"encoding/json"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Schema is the JSON Schema of config.yaml, for editors. What it finds is wrong;
// what it does not find may be wrong nevertheless, and Load has the last word.
func Schema() ([]byte, error) {
	schema := strictyaml.Schema(Config{})
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "config.yaml of cartsshd"
	text, err := json.MarshalIndent(schema, "", "  ")
	return append(text, '\n'), err
}

// Shapes implements [strictyaml.Shaped].
func (Images) Shapes() []any { return []any{Image{}, []Image{}} }
