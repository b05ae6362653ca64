package authz

import "github.com/cartsshd/cartsshd/internal/strictyaml"

// What is written in more than one way tells editors of each: it implements
// [strictyaml.Shaped].

// Shapes are a word, or keys that say more.
func (Permission) Shapes() []any {
	type plain Permission // without this method
	var alone strictyaml.Words
	for _, word := range words {
		alone = append(alone, string(word))
	}
	return []any{alone, plain{}}
}

// Shapes are one span of days, or a list of them.
func (Days) Shapes() []any { return []any{span{}, []span{}} }

// Shapes are 512M, or a number of bytes.
func (Size) Shapes() []any { return []any{0, ""} }

// Shapes are one file, or a list of them.
func (Paths) Shapes() []any { return []any{"", []string{}} }
