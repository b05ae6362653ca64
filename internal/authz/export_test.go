package authz

// Plain is the same policy, which asks all rules of everybody.
func Plain(p *Policy) *Policy {
	plain := *p
	plain.index = index{}
	for i := range p.rules {
		plain.index.perhaps = append(plain.index.perhaps, i)
	}
	return &plain
}
