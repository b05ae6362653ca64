package authz

// Explanation is a decision, and how it came about.
type Explanation struct {
	Decision Decision
	Rules    []Judged // in the order asked, up to the one that decided; all if none did

	// What of the question was left open that the answer depends on, in words; or
	// empty.
	DependsOn string
}

// Judged is what became of one rule.
type Judged struct {
	Rule    string
	Line    int // of the policy's file
	Decided bool
	Failed  []string // which of its conditions do not hold, in words
	Denies  string   // why, by a rule that denies
	Lacks   string   // why it would not give what is asked for, if its conditions held
}

// Explain decides, and tells which conditions of the rules before did not hold.
func (p *Policy) Explain(who Subject, what Request) Explanation {
	e := Explanation{Decision: p.Decide(who, what)}
	if p.unaskable(who, what) != "" {
		return e
	}
	e.DependsOn = p.dependsOn(who, what)
	for i := range p.rules {
		r := &p.rules[i]
		j := Judged{Rule: r.name, Line: r.line, Failed: r.misses(who, what), Denies: r.deny}
		j.Decided = len(j.Failed) == 0 && e.Decision.Rule == r.name
		if d := r.decide(who, bound(who, what)); r.deny == "" && !d.Allow {
			j.Lacks = d.Why
		}
		e.Rules = append(e.Rules, j)
		if len(j.Failed) == 0 {
			break
		}
	}
	return e
}
