package main

import "io"

type schemaCmd struct{}

// Run prints it.
func (schemaCmd) Run(out io.Writer) error { return nil }
