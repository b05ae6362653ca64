package main

import (
	"io"

	"github.com/cartsshd/cartsshd/internal/config"
)

type schemaCmd struct{}

// Run prints the schema that docs/config.schema.json is a copy of.
func (schemaCmd) Run(out io.Writer) error {
	text, err := config.Schema()
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
