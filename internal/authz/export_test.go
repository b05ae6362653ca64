package authz

// Plain is the same policy, which asks all rules of everybody.
func Plain(p *Policy) *Policy {
	plain := *p
	plain.index = index{}
	for i := range p.rules {
		plain.index.everyone = append(plain.index.everyone, i)
	}
	return &plain
}
